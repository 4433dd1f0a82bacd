"""LaProp: gradients are normalised first, and their mean is taken then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["LaProp"]


class LaProp(Optimizer):
    """LaProp.

    In update t = 1, 2, … of a parameter, for each element::

        v ← β₂·v + (1 − β₂)·g²
        v̂ = v / (1 − β₂ᵗ)
        m ← β₁·m + (1 − β₁)·g / (√v̂ + ε)
        w ← w − α·m / (1 − β₁ᵗ)

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
    weight_decay : float
        λ ≥ 0: subtracts α·λ·w beside the update.
    decoupled : bool
        If True, decay stands beside the update; if False, λ·w is added to the gradient.
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
    Ziyin, Wang & Ueda, "LaProp: Separating momentum and adaptivity in Adam", 2020, algorithm 1. The authors' code has
    the learning rate in m, which is the same as long as the rate does not change.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, 1.0])
    >>> opt = fastopt.LaProp(w, lr=0.1)
    >>> opt.step(np.array([5.0, -0.01]))
    True
    >>> w.round(12)
    array([0.9, 1.1])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=4e-4, kw_only=False)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True)
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-15)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "laprop"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Fold v's bias correction: both sides of the fraction in m are multiplied by its root."""
        beta1, beta2 = h["betas"]
        root = np.sqrt(one_minus_power(beta2, t))
        return {"alpha": 1.0 / one_minus_power(beta1, t)}, {
            "beta1": beta1,
            "tau": (1.0 - beta1) * root,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "eps": h["eps"] * root,
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of laprop."""
        m, v = s["m"], s["v"]
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        m[...] = c["beta1"] * m + c["tau"] * (g / (np.sqrt(v) + c["eps"]))
        return c["alpha"] * m  # type: ignore[no-any-return]
