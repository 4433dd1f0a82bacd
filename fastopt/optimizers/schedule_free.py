"""Schedule-free optimizers: an average of iterates in place of a learning rate that falls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["ScheduleFreeSGD", "ScheduleFreeAdamW"]  # noqa: RUF022 - by increasing complexity


class _ScheduleFree(Optimizer):
    """What the two have in common: the average's weights."""

    group_numbers: ClassVar[Mapping[str, float]] = {"weight_sum": 0.0, "lr_max": -1.0, "k": 0.0}
    warmup_steps: Hyper[int] = Hyper(hyper.whole, default=0)
    r: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.0)
    weight_lr_power: Hyper[Rate] = Hyper(hyper.nonnegative, default=2.0)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=False, init=False)

    @staticmethod
    def _beta(h: Values) -> float:
        raise NotImplementedError

    @classmethod
    def average(cls, h: Values, p: Array, s: Mapping[str, Array]) -> Array:
        """On the other side of p, seen from z."""
        return p + p.dtype.type(1.0 - 1.0 / cls._beta(h)) * (s["z"] - p)  # type: ignore[no-any-return]

    @classmethod
    def _weights(
        cls, h: Values, lr: float, fresh: Array, numbers: Mapping[str, float]
    ) -> tuple[Scalars, dict[str, float]]:
        """Return the scalars that both have, and what the numbers become."""
        k = np.float64(numbers["k"] + 1.0)  # whose powers may overflow
        rate = lr * min(1.0, k / h["warmup_steps"]) if h["warmup_steps"] else lr
        largest = np.float64(max(numbers["lr_max"], rate))
        weight = k ** h["r"] * largest ** h["weight_lr_power"]
        total = numbers["weight_sum"] + weight
        c = weight / total if total else 0.0
        scalars: Scalars = {
            "c": c,
            "k": rate * (cls._beta(h) * (1.0 - c) - 1.0),
            "lr": rate,
            "fresh": np.where(fresh, 1.0, 0.0),
        }
        return scalars, {"weight_sum": total, "lr_max": largest, "k": k}


class ScheduleFreeSGD(_ScheduleFree):
    """Schedule-free gradient descent.

    In step k = 1, 2, … of a group, for each element::

        c = kʳ·γ_max^q / Σ(iʳ·γ_max^q)
        w ← w + c·(z − w) + γ·(β·(1 − c) − 1)·g
        z ← z − γ·g

    γ is the learning rate, which grows from 0 in the first `warmup_steps`, γ_max the largest so far, and the sum is
    over all steps i up to k, each with its own γ_max. w is the point at which gradients are taken. The average that is
    to be used when the training is over is x = w + (1 − 1/β)·(z − w): what w is inside ``with opt.averaged():``.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate γ ≥ 0, or a schedule: a function of the number of steps taken.
    warmup_steps : int
        Steps in which the learning rate grows.
    r, weight_lr_power : float
        Exponents r and q of the weights.
    momentum : float
        β, in (0, 1].
    weight_decay : float
        λ ≥ 0: adds λ·w to the gradient.
    maximize : bool
        Whether to ascend.
    nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask, state_memory
        Options of all optimizers, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place, or a hyper-parameter is out of range.

    References
    ----------
    Defazio et al., "The road less scheduled", 2024, eq. 2 to 4, and the authors' package `schedulefree`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.ScheduleFreeSGD(w, lr=0.1)
    >>> opt.step(np.array([0.5, -0.25]))
    True
    >>> w
    array([ 0.95 , -1.975])
    """

    slots: ClassVar[Mapping[str, str]] = {"z": "z"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1.0, kw_only=False)
    momentum: Hyper[Rate] = Hyper(hyper.above_0, default=0.9)

    @staticmethod
    def _beta(h: Values) -> float:
        return h["momentum"]  # type: ignore[no-any-return]

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "schedule_free_sgd"

    @classmethod
    def scalars(
        cls, h: Values, t: Steps, lr: float, fresh: Array, numbers: Mapping[str, Any]
    ) -> tuple[Scalars, Scalars, dict[str, float]]:
        """All are of the group's step."""
        scalars, later = cls._weights(h, lr, fresh, numbers)
        return {}, scalars, later

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of schedule_free_sgd."""
        z = s["z"]
        z[...] = p if c["fresh"] != 0 else z
        u = c["c"] * (p - z) - c["k"] * g
        z[...] = z - c["lr"] * g
        return u  # type: ignore[no-any-return]


class ScheduleFreeAdamW(_ScheduleFree):
    """Schedule-free Adam, with weight decay.

    `ScheduleFreeSGD` with h for the gradient, and β₁ for β::

        v ← β₂·v + (1 − β₂)·g²
        v̂ = v / (1 − β₂ᵏ)
        h = g / (√v̂ + ε) + λ·w

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate γ ≥ 0, or a schedule: a function of the number of steps taken.
    warmup_steps : int
        Steps in which the learning rate grows.
    r, weight_lr_power : float
        Exponents of the weights.
    betas : (float, float)
        β₁ in (0, 1], and β₂ in [0, 1).
    eps : float
        ε ≥ 0.
    weight_decay : float
        λ ≥ 0, at the point where gradients are taken.
    maximize : bool
        Whether to ascend.
    nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask, state_memory
        Options of all optimizers, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place, or a hyper-parameter is out of range.

    References
    ----------
    Defazio et al., "The road less scheduled", 2024, algorithm 1, and the authors' package `schedulefree`. Keras's is
    this one for a constant learning rate without warmup.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.ScheduleFreeAdamW(w, lr=0.01, weight_decay=0.1)
    >>> opt.step(np.array([0.5, -0.25]))
    True
    >>> w.round(6)
    array([ 0.989, -1.988])
    """

    slots: ClassVar[Mapping[str, str]] = {"z": "z", "v": "exp_avg_sq"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=2.5e-3, kw_only=False)
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.interpolation_betas, default=(0.9, 0.999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-8)

    @staticmethod
    def _beta(h: Values) -> float:
        return h["betas"][0]  # type: ignore[no-any-return]

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "schedule_free_adamw"

    @classmethod
    def kind(cls, h: Values) -> str:
        """The decay is inside the rule."""
        return "none"

    @classmethod
    def scalars(
        cls, h: Values, t: Steps, lr: float, fresh: Array, numbers: Mapping[str, Any]
    ) -> tuple[Scalars, Scalars, dict[str, float]]:
        """All are of the group's step."""
        scalars, later = cls._weights(h, lr, fresh, numbers)
        beta2 = h["betas"][1]
        root = np.sqrt(one_minus_power(beta2, np.array([int(later["k"])])))[0]
        more: Scalars = {
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "root": root,
            "eps": h["eps"] * root,
            "decay_at_y": h["weight_decay"],
        }
        return {}, scalars | more, later

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of schedule_free_adamw."""
        z, v = s["z"], s["v"]
        z[...] = p if c["fresh"] != 0 else z
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        h = c["root"] * (g / (np.sqrt(v) + c["eps"])) + c["decay_at_y"] * p
        u = c["c"] * (p - z) - c["k"] * h
        z[...] = z - c["lr"] * h
        return u  # type: ignore[no-any-return]
