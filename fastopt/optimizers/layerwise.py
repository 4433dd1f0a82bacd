"""Learning rates of each parameter's own, by its norm: LARS and LAMB."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["LAMB", "LARS"]


class LARS(Optimizer):
    """LARS: momentum whose steps are in proportion to each parameter's norm.

    For each parameter::

        r = η·‖w‖ / (‖g + λ·w‖ + ε)
        h = α·r·(g + λ·w)
        m ← μ·m + h
        w ← w − m

    Norms are of a whole parameter; r is 1 where one of them is 0. With ``nesterov=True``, h + μ·m stands in m's place
    in the last line.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    momentum : float
        μ, in [0, 1].
    trust_coefficient : float
        η > 0.
    eps : float
        ε ≥ 0.
    nesterov : bool
        Whether to look one step ahead.
    trust : bool
        Whether there is an r; else it is 1. Biases and the parameters of norm layers usually go without: put them into
        a group of their own.
    weight_decay : float
        λ ≥ 0: adds λ·w to the gradient, before norms are taken.
    maximize : bool
        Whether to ascend.
    nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask, state_memory
        Options of all optimizers, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place, or a hyper-parameter is out of range.

    Notes
    -----
    Reads parameter and gradient once more. The sums over a parameter depend on how it is split into arrays, and on
    their memory order.

    References
    ----------
    You, Gitman & Ginsburg, "Large batch training of convolutional networks", 2017, algorithm 1, which adds the norms of
    g and λ·w. optax's `lars`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([3.0, 4.0])
    >>> opt = fastopt.LARS(w, lr=1.0, trust_coefficient=0.1)
    >>> opt.step(np.array([0.0, 20.0]))  # a step of a tenth of the parameter's norm
    True
    >>> w
    array([3. , 3.5])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "momentum_buffer"}
    eps_in_kernels = False
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1.0, kw_only=False)
    momentum: Hyper[Rate] = Hyper(hyper.proportion, default=0.9)
    trust_coefficient: Hyper[Rate] = Hyper(hyper.positive, default=1e-3)
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.0)
    nesterov: Hyper[bool] = Hyper(hyper.flag, default=False)
    trust: Hyper[bool] = Hyper(hyper.flag, default=True)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=False, init=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """Without norms it is momentum with the learning rate inside."""
        return "lars" if h["trust"] else "nesterov" if h["nesterov"] else "momentum"

    @classmethod
    def scalars(cls, h: Values, t: Steps, rule: str) -> tuple[Scalars, Scalars]:
        """The learning rate is in the momentum."""
        eta, ahead = h["momentum"], h["nesterov"]
        if rule != "lars":
            return {"tau": 1.0}, {"eta": eta, "alpha": 1.0}
        others: Scalars = {"eta": eta, "coefficient": h["trust_coefficient"], "eps": h["eps"]}
        return {"lr": 1.0}, others | {"of_m": eta if ahead else 1.0, "of_h": 1.0 if ahead else 0.0}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of lars, momentum and nesterov."""
        m = s["m"]
        h = (c["rate"] if rule == "lars" else c["tau"]) * g
        m[...] = c["eta"] * m + h
        if rule == "lars":
            return c["of_m"] * m + c["of_h"] * h  # type: ignore[no-any-return]
        return c["alpha"] * (h + c["eta"] * m if rule == "nesterov" else m)  # type: ignore[no-any-return]

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """The squares of parameter and gradient."""
        return {"pp": np.square(p, dtype=np.float64), "gg": np.square(g, dtype=np.float64)}

    @staticmethod
    def finish(rule: str, sums: Mapping[str, float], n: int, c: Mapping[str, float]) -> Mapping[str, float]:
        """The learning rate times the trust ratio."""
        pp, gg, lr = sums["pp"], sums["gg"], c["lr"]
        if not (pp > 0 and gg > 0):
            return {"rate": lr}
        return {"rate": lr * (c["coefficient"] * math.sqrt(pp) / (math.sqrt(gg) + c["eps"]))}


class LAMB(Optimizer):
    """LAMB: Adam's direction, in steps in proportion to each parameter's norm.

    In update t = 1, 2, … of a parameter::

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·g²
        m̂ = m / (1 − β₁ᵗ)
        v̂ = v / (1 − β₂ᵗ)
        r = m̂ / (√v̂ + ε) + λ·w
        w ← w − α·r·‖w‖ / ‖r‖

    Norms are of a whole parameter; their quotient is 1 where one of them is 0.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    betas : (float, float)
        β₁ and β₂, in [0, 1).
    eps : float
        ε ≥ 0.
    trust : bool
        Whether there are norms; else it is `AdamW`. Biases and the parameters of norm layers usually go without: put
        them into a group of their own.
    weight_decay : float
        λ ≥ 0.
    maximize : bool
        Whether to ascend.
    nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask, state_memory
        Options of all optimizers, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place, or a hyper-parameter is out of range.

    Notes
    -----
    Reads parameter, gradient and state once more. The sums over a parameter depend on how it is split into arrays, and
    on their memory order.

    References
    ----------
    You et al., "Large batch optimization for deep learning: Training BERT in 76 minutes", 2020, algorithm 2. optax's
    `lamb`. Others clip the gradients' norm to 1 first (``clip_norm=1.0``), or the parameter's to 10.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([3.0, 4.0])
    >>> opt = fastopt.LAMB(w, lr=0.1)
    >>> opt.step(np.array([0.0, 20.0]))  # a step of a tenth of the parameter's norm
    True
    >>> w.round(6)
    array([3. , 3.5])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    assigns = True
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-6)
    trust: Hyper[bool] = Hyper(hyper.flag, default=True)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True, init=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """Without norms it is AdamW."""
        return "lamb" if h["trust"] else "adam"

    @classmethod
    def scalars(cls, h: Values, t: Steps, rule: str) -> tuple[Scalars, Scalars]:
        """As Adam's; the norm of r is of one that the learning rate has been multiplied into."""
        beta1, beta2 = h["betas"]
        root = np.sqrt(one_minus_power(beta2, t))
        rates: Scalars = {"alpha": root / one_minus_power(beta1, t)}
        return rates | ({"lr": 1.0} if rule == "lamb" else {}), {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "eps": h["eps"] * root,
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of lamb and adam."""
        m, v = s["m"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        u = c["alpha"] * (m / (np.sqrt(v) + c["eps"]))
        return p - c["trust"] * c["decayed"](p, u) if rule == "lamb" else c["descend"](p, u)  # type: ignore[no-any-return]

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """The squares of the parameter and of the step it would take."""
        m = c["beta1"] * s["m"] + c["rest1"] * g
        v = c["beta2"] * s["v"] + c["rest2"] * (g * g)
        r = c["decayed"](p, c["alpha"] * (m / (np.sqrt(v) + c["eps"])))
        return {"pp": np.square(p, dtype=np.float64), "rr": np.square(r, dtype=np.float64)}

    @staticmethod
    def finish(rule: str, sums: Mapping[str, float], n: int, c: Mapping[str, float]) -> Mapping[str, float]:
        """The trust ratio."""
        pp, rr = sums["pp"], sums["rr"]
        return {"trust": c["lr"] * math.sqrt(pp) / math.sqrt(rr) if pp > 0 and rr > 0 else 1.0}
