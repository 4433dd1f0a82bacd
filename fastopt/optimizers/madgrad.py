"""MADGRAD: dual averages, scaled by a cube root."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import cube_root

__all__ = ["MADGRAD"]


class MADGRAD(Optimizer):
    """MADGRAD.

    In update t = 1, 2, … of a parameter, for each element::

        γ = (α + ε)·√t
        s ← s + γ·g
        v ← v + γ·g²
        w ← w + (1 − η)·(w₀ − s / (∛v + ε) − w)

    w₀ is what w was before its first update.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    momentum : float
        η, in [0, 1).
    eps : float
        ε ≥ 0.
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
    Defazio & Jelassi, "Adaptivity without compromise: a momentumized, adaptive, dual averaged gradient method for
    stochastic optimization", 2021, algorithm 1, and the authors' package `madgrad`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.MADGRAD(w, lr=0.01)
    >>> opt.step(np.array([0.5, -0.25]))
    True
    >>> w.round(6)
    array([ 0.996316, -1.997076])
    """

    slots: ClassVar[Mapping[str, str]] = {"s": "s", "v": "grad_sum_sq", "x": "x0"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-2, kw_only=False)
    momentum: Hyper[Rate] = Hyper(hyper.fraction, default=0.9)
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-6)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "madgrad"

    @classmethod
    def scalars(cls, h: Values, t: Steps, lr: float, fresh: bool) -> tuple[Scalars, Scalars]:
        """A new state takes w for where it began."""
        rate = lr + h["eps"] if lr > 0 else 0.0
        return {}, {
            "lamb": rate * np.sqrt(t),
            "eps": h["eps"],
            "c": 1.0 - h["momentum"],
            "fresh": 1.0 if fresh else 0.0,
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of madgrad."""
        sums, v, x = s["s"], s["v"], s["x"]
        x[...] = p if c["fresh"] != 0 else x
        sums[...] = sums + c["lamb"] * g
        v[...] = v + c["lamb"] * (g * g)
        z = x - sums / (cube_root(v) + c["eps"])
        return c["c"] * (p - z)  # type: ignore[no-any-return]
