"""Grams: steps of Adam's size in the direction of the gradient's sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import absolute, sign
from .adam import Adam

__all__ = ["Grams"]


class Grams(Optimizer):
    """Gradient descent with adaptive momentum scaling.

    In update t = 1, 2, … of a parameter, for each element::

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·g²
        m̂ = m / (1 − β₁ᵗ)
        v̂ = v / (1 − β₂ᵗ)
        w ← w − α·sign(g)·|m̂ / (√v̂ + ε)|

    Where the gradient is 0, w stays.

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
    Cao, Li & Song, "Grams: Gradient descent with adaptive momentum scaling", 2024, algorithm 1.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.Grams(w, lr=0.1, betas=(0.0, 0.0), eps=0.0)
    >>> opt.step(np.array([3.0]))
    True
    >>> w.round(12)
    array([0.9])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True)
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-6)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "grams"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Those of Adam."""
        return Adam.scalars({**h, "eps_hat": False}, t)

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of grams."""
        m, v = s["m"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        return sign(g) * absolute(c["alpha"] * (m / (np.sqrt(v) + c["eps"])))
