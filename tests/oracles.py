"""The papers' formulas in extended precision, unfolded, each value with a bound of what rounding may do to it.

`Bounded` carries the bound: a running error analysis (Higham, "Accuracy and stability of numerical algorithms", 2nd
ed., section 3.3) of the formula evaluated in working precision, one rounding of at most u an operation. An evaluation
in another order of about as many operations has about the same error; the tests allow twice the bound for that.

A formula is a function of hyper-parameters h, the number t = 1, 2, ... of this update, parameter p, gradient g and the
state s, a dict under torch's names that starts with zeros; it returns the new p.
"""

from __future__ import annotations

import inspect
from collections import defaultdict

import numpy as np

exact = np.longdouble
CUBE_ROOT_ERROR = 4  # roundings, measured in test_words.py


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

    def __rtruediv__(self, x):
        return self._of(x) / self

    __radd__, __rmul__ = __add__, __mul__

    def sqrt(self):
        """|√a - √b| is at most |a - b| / √a, and at most √|a - b|."""
        root = np.sqrt(self.value)
        near = np.divide(self.error, root, out=np.full_like(root, np.inf), where=root > 0)
        return self._rounded(root, np.minimum(near, np.sqrt(self.error)))

    def cube_root(self):
        """|∛a - ∛b| is at most |a - b| / ∛a², and at most ∛|a - b|; CBRT is some roundings off: see test_words.py."""
        root = np.cbrt(self.value)
        near = np.divide(self.error, root * root, out=np.full_like(root, np.inf), where=root > 0)
        return Bounded(root, np.minimum(near, np.cbrt(self.error)) + CUBE_ROOT_ERROR * self.u * root, self.u)

    def clamp(self, low, high):
        """Between two hyper-parameters: what may come out is between the clamps of all that may go in."""
        low, high = self._of(low), self._of(high)
        value = np.clip(self.value, low.value, high.value)
        least = np.clip(self.value - self.error, low.value - low.error, high.value - high.error)
        most = np.clip(self.value + self.error, low.value + low.error, high.value + high.error)
        return Bounded(value, np.maximum(value - least, most - value), self.u)

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

    def total(self):
        """The sum of all elements, which is added in double."""
        value, size = np.sum(self.value), np.sum(abs(self.value))
        return Bounded(value, np.sum(self.error) + self.value.size * exact(2.0**-53) * size, self.u)

    def mean(self, axis):
        """The mean along an axis, which is taken in double."""
        n = self.value.shape[axis]
        value, size = self.value.mean(axis, keepdims=True), abs(self.value).mean(axis, keepdims=True)
        error = self.error.mean(axis, keepdims=True) + (n + 1) * exact(2.0**-53) * size
        return Bounded(value, error + self.u * size, self.u)


def several(x, like):
    """A number that takes up to four roundings to compute from hyper-parameters: in float64 they count."""
    return Bounded(exact(x), 4 * like.u * abs(exact(x)), like.u)


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
    eps = h["eps"] / np.sqrt(1 - beta2**t) if h["eps_hat"] else h["eps"]
    u = m_hat / (v_hat.sqrt() + eps)
    return p - exact(h["lr"]) * (cautious(u, g) if h["cautious"] else u)


def nadam(h, t, p, g, s):
    """Dozat 2016, as torch documents it."""
    beta1, beta2 = map(exact, h["betas"])
    psi = exact(h["momentum_decay"])
    mu = [beta1 * (1 - exact(0.5) * exact(0.96) ** (i * psi)) for i in range(1, t + 2)]
    product = np.prod(mu[:t])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    v_hat = v / (1 - beta2**t)
    eps = h["eps"] / np.sqrt(1 - beta2**t) if h["eps_hat"] else h["eps"]
    m_bar = (mu[t] / (1 - product * mu[t])) * m + ((1 - mu[t - 1]) / (1 - product)) * g
    u = m_bar / (v_hat.sqrt() + eps)
    return p - exact(h["lr"]) * (cautious(u, g) if h["cautious"] else u)


def adabound(h, t, p, g, s):
    """Luo et al. 2019, algorithm 2, as the authors' package has it; the learning rate has always been this one."""
    beta1, beta2 = map(exact, h["betas"])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    if h["amsbound"]:
        v = s["max_exp_avg_sq"] = v.maximum(s["max_exp_avg_sq"])
    step_size = exact(h["lr"]) * np.sqrt(1 - beta2**t) / (1 - beta1**t)
    gamma, final = exact(h["gamma"]), exact(h["final_lr"])
    rate = several(step_size, g) / (v.sqrt() + h["eps"])
    low, high = (several(final * (1 + x), g) for x in (-1 / (gamma * t + 1), 1 / (gamma * t)))
    return p - rate.clamp(low, high) * m


def asgd(h, t, p, g, s):
    """Bottou's averaged gradient descent as torch documents it; the learning rate has always been this one."""
    lr, lambd = exact(h["lr"]), exact(h["lambd"])
    eta = lr / (1 + lambd * lr * (t - 1)) ** exact(h["alpha"])
    new = p - (lambd * eta) * p - eta * g
    mu = 1 if t == 1 else 1 / max(exact(1), t - 1 - exact(h["t0"]))
    s["ax"] = new if mu == 1 else s["ax"] + mu * (new - s["ax"])
    return new


def adan(h, t, p, g, s):
    """Xie et al. 2022, algorithm 1; betas are 1 less the paper's, as in the authors' code."""
    beta1, beta2, beta3 = map(exact, h["betas"])
    difference = 0 * g if t == 1 else g - s["previous_grad"]
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    d = s["exp_avg_diff"] = beta2 * s["exp_avg_diff"] + (1 - beta2) * difference
    x = g + beta2 * difference
    n = s["exp_avg_sq"] = beta3 * s["exp_avg_sq"] + (1 - beta3) * (x * x)
    s["previous_grad"] = g
    root = (n / (1 - beta3**t)).sqrt() + h["eps"]
    new = p - exact(h["lr"]) * ((m / (1 - beta1**t) + beta2 * (d / (1 - beta2**t))) / root)
    decay = exact(h["lr"]) * exact(h["weight_decay"])
    return new - decay * p if h["no_prox"] else new / (1 + decay)


def ftrl(h, t, p, g, s):
    """McMahan et al. 2013, algorithm 1, with the terms of Keras: w solves the problem that z and n stand for."""
    lr, l1 = exact(h["lr"]), exact(h["l1"])
    before = s["accumulator"] if t > 1 else s["accumulator"] + h["initial_accumulator_value"]
    n = s["accumulator"] = before + g * g
    sigma = (n.sqrt() - before.sqrt()) / lr
    z = s["linear"] = s["linear"] + (g + (2 * exact(h["l2_shrinkage"])) * p) - sigma * p
    return (z.clamp(-l1, l1) - z) / ((exact(h["beta"]) + n.sqrt()) / lr + 2 * exact(h["l2"]))


def madgrad(h, t, p, g, s):
    """Defazio & Jelassi 2021, algorithm 1; the authors' code adds eps to the rate."""
    lamb = (exact(h["lr"]) + exact(h["eps"])) * np.sqrt(exact(t))
    x0 = s["x0"] = p if t == 1 else s["x0"]
    sums = s["s"] = s["s"] + lamb * g
    v = s["grad_sum_sq"] = s["grad_sum_sq"] + lamb * (g * g)
    z = x0 - sums / (v.cube_root() + h["eps"])
    eta = exact(h["momentum"])
    return eta * p + (1 - eta) * z


def schedule_free_weight(h, t):
    """The weight c of a step, and its rate: of a constant learning rate with linear warmup."""
    warmup = h["warmup_steps"]
    rates = [exact(h["lr"]) * (min(exact(1), exact(k) / warmup) if warmup else 1) for k in range(1, t + 1)]
    weights = [exact(k) ** exact(h["r"]) * rate ** exact(h["weight_lr_power"]) for k, rate in enumerate(rates, start=1)]
    return weights[-1] / sum(weights), rates[-1]


def schedule_free_sgd(h, t, p, g, s, k):
    """Defazio et al. 2024, eq. 2 to 4: y, which p is, lies between z and their average x."""
    beta = exact(h["momentum"])
    c, rate = schedule_free_weight(h, k)
    z = s["z"] if t > 1 else p
    new = (1 - c) * p + c * z - (rate * (1 - beta * (1 - c))) * g
    s["z"] = z - rate * g
    return new


def schedule_free_adamw(h, t, p, g, s, k):
    """Defazio et al. 2024, algorithm 1."""
    beta, beta2 = map(exact, h["betas"])
    c, rate = schedule_free_weight(h, k)
    z = s["z"] if t > 1 else p
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    scaled = g / ((v / (1 - beta2**k)).sqrt() + h["eps"]) + exact(h["weight_decay"]) * p
    new = (1 - c) * p + c * z - (rate * (1 - beta * (1 - c))) * scaled
    s["z"] = z - rate * scaled
    return new


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
    v = s["exp_avg_sq"] = s["exp_avg_sq"] - (1 - beta2) * ((s["exp_avg_sq"] - g * g).sign() * (g * g))
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
    return p - g.sign() * abs(u)


def adopt(h, t, p, g, s):
    """Taniguchi et al. 2024, algorithm 2, and without clipping algorithm 1; its step 0 is our t = 1."""
    beta1, beta2 = map(exact, h["betas"])
    if t == 1:
        s["exp_avg_sq"] = g * g
        return p
    n = g / s["exp_avg_sq"].sqrt().maximum(h["eps"])
    if h["clip"]:
        bound = exact(t - 1) ** exact(0.25)
        n = n.clamp(-bound, bound)
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * n
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    return p - exact(h["lr"]) * m


def rprop(h, t, p, g, s):
    """Riedmiller & Braun 1993, and Igel & Huesken 2000, iRprop-, with the step sizes' names of torch."""
    shrink, grow = h["etas"]
    if t == 1:
        s["step_size"] = g._of(h["lr"])
    agree = (g.sign() * s["prev"].sign()).value
    factors = np.where(agree > 0, exact(grow), np.where(agree < 0, exact(shrink), exact(1)))
    size = s["step_size"] = (s["step_size"] * Bounded(factors, g.u * factors, g.u)).clamp(*h["step_sizes"])
    prev = s["prev"] = Bounded(np.where(agree < 0, 0, g.value), np.where(agree < 0, 0, g.error), g.u)
    return p - prev.sign() * size


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
    return p - exact(h["lr"]) * (cautious(c.sign(), g) if h["cautious"] else c.sign())


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


def lars(h, t, p, g, s):
    """You et al. 2017, algorithm 1, with the norm of the decayed gradient as optax has it."""
    eta, lr = exact(h["momentum"]), exact(h["lr"])
    rate = Bounded(lr, p.u * lr, p.u)
    pp, gg = (p * p).total(), (g * g).total()
    if h["trust"] and pp.value > 0 and gg.value > 0:
        rate = rate * (exact(h["trust_coefficient"]) * pp.sqrt() / (gg.sqrt() + h["eps"]))
    step = rate * g
    m = s["momentum_buffer"] = eta * s["momentum_buffer"] + step
    return p - (step + eta * m) if h["nesterov"] else p - m


def lamb(h, t, p, g, s):
    """You et al. 2020, algorithm 2."""
    beta1, beta2 = map(exact, h["betas"])
    m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    v = s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * (g * g)
    r = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + h["eps"]) + exact(h["weight_decay"]) * p
    pp, rr = (p * p).total(), (r * r).total()
    ratio = pp.sqrt() / rr.sqrt() if h["trust"] and pp.value > 0 and rr.value > 0 else 1
    return p - exact(h["lr"]) * (ratio * r)


def stable_adamw(h, t, p, g, s):
    """Wortsman et al. 2023, algorithm 2, with the same rate for the decay."""
    (beta1, beta2), eps = map(exact, h["betas"]), exact(h["eps"])
    one, two = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in (beta1, beta2))
    m = s["exp_avg"] = one * s["exp_avg"] + (1 - one) * g
    v = s["exp_avg_sq"] = two * s["exp_avg_sq"] + (1 - two) * (g * g)
    rms = ((g * g / v.maximum(eps * eps)).total() / g.value.size).sqrt()
    return p - (exact(h["lr"]) / rms.maximum(1)) * (m / (v.sqrt() + eps) + exact(h["weight_decay"]) * p)


def novograd(h, t, p, g, s):
    """Ginsburg et al. 2019, algorithm 1."""
    beta1, beta2 = map(exact, h["betas"])
    gg = (g * g).total()
    v = s["exp_avg_sq"] = gg if t == 1 else beta2 * s["exp_avg_sq"] + (1 - beta2) * gg
    weight = 1 - beta1 if h["grad_averaging"] else 1
    m = s["exp_avg"] = beta1 * s["exp_avg"] + weight * (g / (v.sqrt() + h["eps"]) + exact(h["weight_decay"]) * p)
    return p - exact(h["lr"]) * m


def adafactor(h, t, p, g, s):
    """Shazeer & Stern 2018, algorithm 4, with a floor below the second moment as torch has it."""
    least, scale = h["eps"]
    least = 2 * p.u if least is None else exact(least)
    keep = exact(t) ** exact(h["beta2_decay"])
    rate = min(exact(h["lr"]), 1 / np.sqrt(exact(t)))
    size = ((p * p).total() / p.value.size).sqrt().maximum(scale)
    if p.value.ndim < 2:
        v = s["variance"] = s["variance"] + keep * (g * g - s["variance"])
    else:
        rows = s["row_var"] = s["row_var"] + keep * ((g * g).mean(-1) - s["row_var"])
        columns = s["col_var"] = s["col_var"] + keep * ((g * g).mean(-2) - s["col_var"])
        v = rows * columns / rows.mean(-2).maximum(least)
    u = g / v.maximum(least**2).sqrt()
    clipped = ((u * u).total() / u.value.size).sqrt() / exact(h["d"])
    return p - (rate * size / clipped.maximum(1)) * u


def cautious(u, g):
    """Liang et al. 2024, algorithm 1."""
    agree = (u.sign() * g.sign()).value > 0
    return u * agree / max(np.mean(agree, dtype=exact), exact(1e-3))


class Paper:
    """An optimizer by the paper: the same steps as `record`'s class, over copies of `params`."""

    def __init__(self, record, params):
        self.formula, self.h, self.kind = record.oracle, record.hyper(), record.cls.kind
        self.inside = "weight_decay" in inspect.getsource(record.oracle)  # the formula has the decay
        self.k = 0  # steps of the group
        self.loss_scale, self.clip_norm = exact(record.loss_scale), record.options.get("clip_norm")
        self.clip_value = record.options.get("clip_value")
        self.u = exact(np.finfo(params[0].dtype).eps / 2)
        self.p = [self.bounded(p) for p in params]
        self.s = [defaultdict(lambda: self.bounded(0)) for _ in params]
        self.t = [0] * len(params)

    def bounded(self, values):
        return Bounded(np.array(values, exact), exact(0), self.u)

    def step(self, grads):
        """One step; a gradient None leaves its parameter out."""
        self.k += 1
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
            g = g if self.clip_value is None else g.clamp(-self.clip_value, self.clip_value)
            decay = exact(self.h["weight_decay"])
            kind = self.kind(self.h)
            if kind == "coupled":
                g = g + decay * old
            more = {"k": self.k} if "k" in inspect.signature(self.formula).parameters else {}
            new = self.formula(self.h, self.t[i], old, g, self.s[i], **more)
            # A formula returns p itself where it is left alone.
            if kind == "decoupled" and not self.inside and new is not old:
                new = new - (exact(self.h["lr"]) * decay) * old
            self.p[i] = new
