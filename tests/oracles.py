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
