"""ADOPT: gradients are divided by the root of the mean square before them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import clamp, maximum

__all__ = ["ADOPT"]


class ADOPT(Optimizer):
    """ADOPT, clipped.

    The first step leaves w alone, without decay too, and sets v ← g². From then on, in update t = 2, 3, … of a
    parameter, for each element::

        n = clip(g / max(√v, ε), cₜ)    cₜ = (t − 1)^(1/4)
        m ← β₁·m + (1 − β₁)·n
        v ← β₂·v + (1 − β₂)·g²
        w ← w − α·m

    The old v divides.

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
    clip : bool
        Whether to keep n between −cₜ and cₜ.
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
    Taniguchi et al., "ADOPT: Modified Adam can converge with any β₂ with the optimal rate", 2024, algorithm 2; with
    ``clip=False`` algorithm 1. pytorch_optimizer clips to t^(1/4), timm by default to (t − 1)^(1/3).

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.ADOPT(w, lr=0.1, betas=(0.5, 0.9999))
    >>> for g in (4.0, 2.0):
    ...     _ = opt.step(np.array([g]))
    >>> w  # only the second step moved it, by half of 2 / 4
    array([0.975])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    assigns = True
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.9999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-6)
    clip: Hyper[bool] = Hyper(hyper.flag, default=True)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all: nothing is clipped to plus and minus infinity."""
        return "adopt"

    @classmethod
    def scalars(cls, h: Values, t: Steps, fresh: bool = False) -> tuple[Scalars, Scalars]:
        """The first step is that in which the state is new; the fourth root is two square roots, the same anywhere."""
        beta1, beta2 = h["betas"]
        bound = np.sqrt(np.sqrt(t - 1.0)) if h["clip"] else math.inf
        return {"alpha": 1.0}, {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "eps": h["eps"],
            "low": -bound,
            "high": bound,
            "first": float(fresh),
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of adopt."""
        m, v = s["m"], s["v"]
        if c["first"]:
            v[...] = g * g
            return p
        n = clamp(g / maximum(np.sqrt(v), c["eps"]), c["low"], c["high"])
        m[...] = c["beta1"] * m + c["rest1"] * n
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        return c["descend"](p, c["alpha"] * m)  # type: ignore[no-any-return]
