"""AdaBound: Adam whose rates are kept between two bounds that meet at the rate of gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import clamp, maximum

__all__ = ["AdaBound"]


class AdaBound(Optimizer):
    """AdaBound, and AMSBound.

    In update t = 1, 2, … of a parameter, for each element::

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·g²
        r = α·√(1 − β₂ᵗ) / ((1 − β₁ᵗ)·(√v + ε))
        w ← w − clamp(r, φ·(1 − 1 / (γ·t + 1)), φ·(1 + 1 / (γ·t)))·m

    Here φ = φ₀·α / α₀, where φ₀ is `final_lr` and α₀ the learning rate of the group's first step. With
    ``amsbound=True`` the largest v so far stands in v's place.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    betas : (float, float)
        β₁ and β₂, in [0, 1).
    final_lr : float
        φ₀ ≥ 0: the rate of gradient descent that the bounds meet at.
    gamma : float
        How fast they do, above 0.
    eps : float
        ε ≥ 0.
    amsbound : bool
        Whether to divide by the root of the largest v so far.
    weight_decay : float
        λ ≥ 0: adds λ·w to the gradient.
    decoupled : bool
        If True, decay is w ← w − α·λ·w beside the update, and not a part of the gradient.
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
    Luo et al., "Adaptive gradient methods with dynamic bound of learning rate", 2019, algorithm 2, and the authors'
    package `adabound`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.AdaBound(w, lr=0.001)
    >>> opt.step(np.array([0.5, -0.25]))
    True
    >>> w.round(6)
    array([ 0.999, -1.999])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq", "x": "max_exp_avg_sq"}
    group_numbers: ClassVar[Mapping[str, float]] = {"base_lr": 0.0}
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    final_lr: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.1)
    gamma: Hyper[Rate] = Hyper(hyper.positive, default=1e-3)
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-8)
    amsbound: Hyper[bool] = Hyper(hyper.flag, default=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """AMSBound has one array more."""
        return "amsbound" if h["amsbound"] else "adabound"

    @classmethod
    def scalars(
        cls, h: Values, t: Steps, lr: float, numbers: Mapping[str, Any]
    ) -> tuple[Scalars, Scalars, dict[str, Any]]:
        """The bounds go with the learning rate, as alpha does."""
        beta1, beta2 = h["betas"]
        base = numbers["base_lr"] or lr
        if base == 0:
            raise ValueError("lr is 0 in the first step: AdaBound's bounds are relative to that of the first step")
        final = h["final_lr"] / base
        rates: Scalars = {
            "alpha": np.sqrt(one_minus_power(beta2, t)) / one_minus_power(beta1, t),
            "low": final * (h["gamma"] * t / (h["gamma"] * t + 1.0)),
            "high": final * (1.0 + 1.0 / (h["gamma"] * t)),
        }
        others: Scalars = {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "eps": h["eps"],
        }
        return rates, others, {"base_lr": base}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of adabound and amsbound."""
        m, v = s["m"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        if rule == "amsbound":
            s["x"][...] = maximum(v, s["x"])
            v = s["x"]
        return clamp(c["alpha"] / (np.sqrt(v) + c["eps"]), c["low"], c["high"]) * m
