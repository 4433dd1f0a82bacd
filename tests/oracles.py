"""The papers' formulas in extended precision, unfolded, each value with a bound of what rounding may do to it.

`Bounded` carries the bound: a running error analysis (Higham, "Accuracy and stability of numerical algorithms", 2nd
ed., section 3.3) of the formula evaluated in working precision, one rounding of at most u an operation. An evaluation
in another order of about as many operations has about the same error; the tests allow twice the bound for that.

A formula is a function of hyper-parameters h, the number t = 1, 2, ... of this update, parameter p, gradient g and the
state s, a dict under torch's names that starts with zeros; it returns the new p.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

exact = np.longdouble


class Bounded:
    """A value in extended precision, and how far the same in working precision may be from it."""

    __array_ufunc__ = None  # a NumPy scalar on the left leaves the operation to this class

    def __init__(self, value, error, u):
        self.value, self.error, self.u = value, error, u

    def _of(self, x):
        """A plain number is a hyper-parameter: rounded to working precision once."""
        return x if isinstance(x, Bounded) else Bounded(exact(x), self.u * abs(exact(x)), self.u)

    def _rounded(self, value, error):
        return Bounded(value, error + self.u * (abs(value) + error), self.u)

    def __add__(self, x):
        x = self._of(x)
        return self._rounded(self.value + x.value, self.error + x.error)

    def __mul__(self, x):
        x = self._of(x)
        error = self.error * abs(x.value) + abs(self.value) * x.error + self.error * x.error
        return self._rounded(self.value * x.value, error)

    def __truediv__(self, x):
        x = self._of(x)
        value = self.value / x.value
        room = abs(x.value) - x.error
        assert np.all(room > 0), "a divisor that rounding may make 0 says nothing"
        return self._rounded(value, (self.error + abs(value) * x.error) / room)

    def __neg__(self):
        return Bounded(-self.value, self.error, self.u)

    def __sub__(self, x):
        return self + -self._of(x)

    __radd__, __rmul__ = __add__, __mul__

    def sqrt(self):
        """|√a - √b| is at most |a - b| / √a, and at most √|a - b|."""
        root = np.sqrt(self.value)
        near = np.divide(self.error, root, out=np.full_like(root, np.inf), where=root > 0)
        return self._rounded(root, np.minimum(near, np.sqrt(self.error)))

    def sign(self):
        """-1, 0 or 1: exact, as rounding is not to turn it."""
        certain = (abs(self.value) > 2 * self.error) | ((self.value == 0) & (self.error == 0))
        assert np.all(certain), "a sign that rounding may turn says nothing"
        return Bounded(np.sign(self.value), exact(0), self.u)

    def __abs__(self):
        return Bounded(abs(self.value), self.error, self.u)

    def maximum(self, x):
        """The larger of two: no rounding, and no more error than the worse of them."""
        x = self._of(x)
        return Bounded(np.maximum(self.value, x.value), np.maximum(self.error, x.error), self.u)


def in_double(x):
    """A number of which others are made in double, whatever the parameters' type: for what cancels there."""
    return Bounded(exact(x), exact(0), exact(2.0**-53))


def sgd(h, t, p, g, s):
    """Momentum as torch documents it, classical (Polyak 1964), and Nesterov's with the gradient taken at p."""
    eta, lr = exact(h["momentum"]), exact(h["lr"])
    if eta == 0:
        return p - lr * g
    undamped = 1 if t == 1 else 1 - exact(h["dampening"])
    if h["lr_in_momentum"]:
        m = s["momentum_buffer"] = eta * s["momentum_buffer"] + lr * undamped * g
        return p - (lr * g + eta * m) if h["nesterov"] else p - m
    m = s["momentum_buffer"] = g if t == 1 else eta * s["momentum_buffer"] + undamped * g
    return p - lr * (g + eta * m) if h["nesterov"] else p - lr * m


def nag(h, t, p, g, s):
    """Sutskever et al. 2013, eq. 3 and 4: g is the gradient at the looked-ahead point."""
    m = s["momentum_buffer"] = exact(h["momentum"]) * s["momentum_buffer"] + exact(h["lr"]) * g
    return p - m


def rmsprop(h, t, p, g, s):
    """Hinton 2012, lecture 6.5; centered: Graves 2013, eq. 38 to 45."""
    gamma = exact(h["alpha"])
    v = s["square_avg"] = gamma * s["square_avg"] + (1 - gamma) * (g * g)
    if h["centered"]:
        a = s["grad_avg"] = gamma * s["grad_avg"] + (1 - gamma) * g
        v = (v - a * a).maximum(0)
    root = (v + h["eps"]).sqrt() if h["eps_inside_sqrt"] else v.sqrt() + h["eps"]
    if h["momentum"] == 0:
        return p - exact(h["lr"]) * (g / root)
    m = s["momentum_buffer"] = exact(h["momentum"]) * s["momentum_buffer"] + g / root
    return p - exact(h["lr"]) * m


def adam(h, t, p, g, s):
    """Kingma & Ba 2015, algorithm 1; AMSGrad (Reddi et al. 2018) as torch has it, before correction."""
    beta1, beta2 = map(exact, h["betas"])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    if h["amsgrad"]:
        v = s["max_exp_avg_sq"] = v.maximum(s["max_exp_avg_sq"])
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - exact(h["lr"]) * (m_hat / (v_hat.sqrt() + h["eps"]))


def signsgd(h, t, p, g, s):
    """Bernstein et al. 2018, algorithm 1."""
    return p - exact(h["lr"]) * g.sign()


def signum(h, t, p, g, s):
    """Bernstein et al. 2018, algorithm 2."""
    beta = exact(h["momentum"])
    if beta == 0:
        return p - exact(h["lr"]) * g.sign()
    m = s["momentum_buffer"] = beta * s["momentum_buffer"] + (1 - beta) * g
    return p - exact(h["lr"]) * m.sign()


def lion(h, t, p, g, s):
    """Chen et al. 2023, algorithm 2: the old mean is interpolated by β₁, then moved by β₂."""
    beta1, beta2 = map(exact, h["betas"])
    c = beta1 * s["exp_avg"] + (1 - beta1) * g
    s["exp_avg"] = beta2 * s["exp_avg"] + (1 - beta2) * g
    return p - exact(h["lr"]) * c.sign()


def qhm(h, t, p, g, s):
    """Ma & Yarats 2019, eq. 1 and 2."""
    beta, nu = exact(h["momentum"]), exact(h["nu"])
    m = s["momentum_buffer"] = beta * s["momentum_buffer"] + (1 - beta) * g
    return p - exact(h["lr"]) * ((1 - nu) * g + nu * m)


def qhadam(h, t, p, g, s):
    """Ma & Yarats 2019, eq. 6."""
    (beta1, beta2), (nu1, nu2) = map(exact, h["betas"]), map(exact, h["nus"])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    above = (1 - nu1) * g + nu1 * (m / (1 - beta1**t))
    below = ((1 - nu2) * (g * g) + nu2 * (v / (1 - beta2**t))).sqrt() + h["eps"]
    return p - exact(h["lr"]) * (above / below)


def adagrad(h, t, p, g, s):
    """Duchi et al. 2011, figure 1, diagonal; decay and first value of the sum as torch documents them."""
    before = exact(h["initial_accumulator_value"]) if t == 1 else s["sum"]
    total = s["sum"] = before + g * g
    lr = exact(h["lr"]) / (1 + (t - 1) * exact(h["lr_decay"]))
    return p - lr * (g / (total.sqrt() + h["eps"]))


def adadelta(h, t, p, g, s):
    """Zeiler 2012, algorithm 1, times a learning rate."""
    rho = exact(h["rho"])
    v = s["square_avg"] = rho * s["square_avg"] + (1 - rho) * (g * g)
    delta = (s["acc_delta"] + h["eps"]).sqrt() / (v + h["eps"]).sqrt() * g
    s["acc_delta"] = rho * s["acc_delta"] + (1 - rho) * (delta * delta)
    return p - exact(h["lr"]) * delta


def adamax(h, t, p, g, s):
    """Kingma & Ba 2015, algorithm 2; epsilon as torch has it."""
    beta1, beta2 = map(exact, h["betas"])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    u = s["exp_inf"] = (beta2 * s["exp_inf"]).maximum(abs(g) + h["eps"])
    return p - (exact(h["lr"]) / (1 - beta1**t)) * (m / u)


def radam(h, t, p, g, s):
    """Liu et al. 2020, algorithm 2; the threshold 5 and epsilon as torch has them."""
    beta1, beta2 = map(exact, h["betas"])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    m_hat = m / (1 - beta1**t)
    most = in_double(2) / (1 - beta2) - 1
    rho = most - in_double(2 * t * beta2**t) / (1 - beta2**t)
    if rho.value <= 5:
        return p - exact(h["lr"]) * m_hat
    r = ((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)).sqrt()
    r = Bounded(r.value, r.error, p.u)
    return p - exact(h["lr"]) * (r * (m_hat * np.sqrt(1 - beta2**t) / (v.sqrt() + h["eps"])))


class Paper:
    """An optimizer by the paper: the same steps as `record`'s class, over copies of `params`."""

    def __init__(self, record, params):
        self.formula, self.h = record.oracle, record.hyper()
        self.loss_scale, self.clip_norm = exact(record.loss_scale), record.options.get("clip_norm")
        self.u = exact(np.finfo(params[0].dtype).eps / 2)
        self.p = [self.bounded(p) for p in params]
        self.s = [defaultdict(lambda: self.bounded(0)) for _ in params]
        self.t = [0] * len(params)

    def bounded(self, values):
        return Bounded(np.array(values, exact), exact(0), self.u)

    def step(self, grads):
        """One step; a gradient None leaves its parameter out."""
        factor = 1 / self.loss_scale
        if self.clip_norm is not None:
            present = [g.astype(exact).ravel() for g in grads if g is not None]
            norm = np.sqrt(sum(np.sum(g * g) for g in present)) * factor
            factor *= min(1, self.clip_norm / norm)
        # Adding n non-negative squares in double has a relative error of at most n u, the root of the sum half of it.
        n = sum(g.size for g in grads if g is not None) if self.clip_norm is not None else 0
        factor = Bounded(factor, factor * (self.u + n * exact(2.0**-53)), self.u)
        for i, gradient in enumerate(grads):
            if gradient is None:
                continue
            self.t[i] += 1
            old, g = self.p[i], factor * self.bounded(gradient)
            g = -g if self.h["maximize"] else g
            decay = exact(self.h["weight_decay"])
            if decay and not self.h["decoupled"]:
                g = g + decay * old
            new = self.formula(self.h, self.t[i], old, g, self.s[i])
            if decay and self.h["decoupled"]:
                new = new - (exact(self.h["lr"]) * decay) * old
            self.p[i] = new
