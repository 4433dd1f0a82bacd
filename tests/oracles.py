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


def sign(x):
    """The sign of each element, an exact number of at most 1: one that rounding may turn says nothing."""
    assert np.all((abs(x.value) > x.error) | (x.error == 0)), "a sign that rounding may turn says nothing"
    return Bounded(np.sign(x.value), exact(0), x.u)


def clip(x, low, high):
    """Between two numbers, which are rounded once: what may come out is between the clips of all that may go in."""
    low, high = x._of(low), x._of(high)
    value = np.clip(x.value, low.value, high.value)
    least = np.clip(x.value - x.error, low.value - low.error, high.value - high.error)
    most = np.clip(x.value + x.error, low.value + low.error, high.value + high.error)
    return Bounded(value, np.maximum(value - least, most - value), x.u)


def adabelief(h, t, p, g, s):
    """Zhuang et al. 2020, algorithm 2, with epsilon in the stored s_t and beside its root."""
    beta1, beta2 = map(exact, h["betas"])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    v = s["exp_avg_var"] = beta2 * s["exp_avg_var"] + (1 - beta2) * ((g - m) * (g - m)) + h["eps"]
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - exact(h["lr"]) * (m_hat / (v_hat.sqrt() + h["eps"]))


def laprop(h, t, p, g, s):
    """Ziyin et al. 2020, algorithm 1."""
    beta1, beta2 = map(exact, h["betas"])
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    v_hat = v / (1 - beta2**t)
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * (g / (v_hat.sqrt() + h["eps"]))
    return p - exact(h["lr"]) * (m / (1 - beta1**t))


def yogi(h, t, p, g, s):
    """Zaheer et al. 2018, algorithm 2, with Adam's bias corrections; both means start at the same number."""
    beta1, beta2 = map(exact, h["betas"])
    if t == 1:
        s["exp_avg"] = s["exp_avg_sq"] = g._of(h["initial_accumulator"])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    v = s["exp_avg_sq"] = s["exp_avg_sq"] - (1 - beta2) * (sign(s["exp_avg_sq"] - g * g) * (g * g))
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - exact(h["lr"]) * (m_hat / (v_hat.sqrt() + h["eps"]))


def ademamix(h, t, p, g, s):
    """Pagliardini et al. 2024, algorithm 1, and its schedulers of alpha and beta3 over T steps."""
    beta1, beta2, beta3 = map(exact, h["betas"])
    alpha, total = exact(h["alpha"]), h["t_alpha_beta3"]
    beta3_t = Bounded(beta3, exact(0), g.u)
    if total is not None and t < total:
        part = exact(t) / exact(total)
        alpha = part * alpha
        ln1, ln3 = np.log(beta1), np.log(beta3)
        value = np.minimum(np.exp(ln1 * ln3 / ((1 - part) * ln3 + part * ln1)), beta3)
        beta3_t = Bounded(value, exact(8 * 2.0**-53), g.u)  # a handful of roundings on the host, in double
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    n = s["exp_avg_slow"] = beta3_t * s["exp_avg_slow"] + (-beta3_t + 1) * g
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - exact(h["lr"]) * ((m_hat + alpha * n) / (v_hat.sqrt() + h["eps"]))


def grams(h, t, p, g, s):
    """Cao et al. 2024, algorithm 1: the size of Adam's update, the sign of the gradient."""
    beta1, beta2 = map(exact, h["betas"])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    u = exact(h["lr"]) * ((m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + h["eps"]))
    return p - sign(g) * Bounded(abs(u.value), u.error, u.u)


def adopt(h, t, p, g, s):
    """Taniguchi et al. 2024, algorithm 2, and without clipping algorithm 1; its step 0 is our t = 1."""
    beta1, beta2 = map(exact, h["betas"])
    if t == 1:
        s["exp_avg_sq"] = g * g
        return p
    n = g / s["exp_avg_sq"].sqrt().maximum(h["eps"])
    if h["clip"]:
        bound = exact(t - 1) ** exact(0.25)
        n = clip(n, -bound, bound)
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * n
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    return p - exact(h["lr"]) * m


def rprop(h, t, p, g, s):
    """Riedmiller & Braun 1993, and Igel & Huesken 2000, iRprop-, with the step sizes' names of torch."""
    shrink, grow = h["etas"]
    if t == 1:
        s["step_size"] = g._of(h["lr"])
    agree = (sign(g) * sign(s["prev"])).value
    factors = np.where(agree > 0, exact(grow), np.where(agree < 0, exact(shrink), exact(1)))
    size = s["step_size"] = clip(s["step_size"] * Bounded(factors, g.u * factors, g.u), *h["step_sizes"])
    prev = s["prev"] = Bounded(np.where(agree < 0, 0, g.value), np.where(agree < 0, 0, g.error), g.u)
    return p - sign(prev) * size


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
            if decay and self.h["decoupled"] and new is not old:  # a formula returns p itself where it is left alone
                new = new - (exact(self.h["lr"]) * decay) * old
            self.p[i] = new
