"""AdamW with clipped updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import maximum

__all__ = ["StableAdamW"]


class StableAdamW(Optimizer):
    """StableAdamW: AdamW whose steps shrink where gradients are larger than the second moment knows.

    In update t = 1, 2, … of a parameter::

        m ← β̂₁·m + (1 − β̂₁)·g
        v ← β̂₂·v + (1 − β̂₂)·g²
        w ← w − α·(m / (√v + ε) + λ·w) / max(1, R)

    The corrected β̂ is β·(1 − βᵗ⁻¹) / (1 − βᵗ), and R the root of the mean of g² / max(v, ε²) over the parameter.

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
    Reads gradient and second moment once more. The sum over a parameter depends on how it is split into arrays, and on
    their memory order.

    References
    ----------
    Wortsman et al., "Stable and low-precision training for large-scale vision-language models", 2023, algorithm 2.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.StableAdamW(w, lr=0.1, weight_decay=0.0)
    >>> for g in 1.0, 1.0, 100.0:  # the last step is no larger than the others
    ...     _ = opt.step(np.array([g]))
    >>> w.round(2)
    array([0.76])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    assigns = True
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.99))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-8)
    weight_decay: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-2)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True, init=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "stable_adamw"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """The betas are corrected, and not the moments."""
        others: Scalars = {"eps": h["eps"], "floor": h["eps"] ** 2}
        for k, beta in zip("12", h["betas"], strict=True):
            e = one_minus_power(beta, t)
            others |= {f"beta{k}": beta * one_minus_power(beta, t - 1) / e, f"rest{k}": (1.0 - beta) / e}
        return {"alpha": 1.0}, others

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of stable_adamw."""
        m, v = s["m"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        return p - c["shrink"] * c["decayed"](p, c["alpha"] * (m / (np.sqrt(v) + c["eps"])))  # type: ignore[no-any-return]

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """Squares of gradients in units of the second moment."""
        v = c["beta2"] * s["v"] + c["rest2"] * (g * g)
        return {"uu": g * g / maximum(v, np.full_like(v, c["floor"]))}

    @staticmethod
    def finish(rule: str, sums: Mapping[str, float], n: int, c: Mapping[str, float]) -> Mapping[str, float]:
        """Their mean's root is 1 at most."""
        rms = math.sqrt(sums["uu"] / n)
        return {"shrink": 1.0 / rms if rms > 1 else 1.0}
