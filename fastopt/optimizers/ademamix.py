"""AdEMAMix: Adam with a second, slow mean of the gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power, powers
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["AdEMAMix"]


class AdEMAMix(Optimizer):
    """AdEMAMix.

    In update t = 1, 2, … of a parameter, for each element::

        m ← β₁·m + (1 − β₁)·g
        n ← β₃·n + (1 − β₃)·g
        v ← β₂·v + (1 − β₂)·g²
        m̂ = m / (1 − β₁ᵗ)
        v̂ = v / (1 − β₂ᵗ)
        w ← w − α·(m̂ + a·n) / (√v̂ + ε)

    With ``t_alpha_beta3=T`` the weight of n rises from 0 to a along a line in the first T steps, and its β₃ from β₁ to
    the given one so that its half-life does. Without, n counts in full from the start, which may be too much.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    betas : (float, float, float)
        β₁, β₂ and β₃, in [0, 1).
    alpha : float
        Weight a ≥ 0 of the slow mean.
    t_alpha_beta3 : float, optional
        T above 0. Needs β₁ and β₃ above 0.
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
    Pagliardini, Ablin & Grangier, "The AdEMAMix optimizer: Better, faster, older", 2024, algorithm 1.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.AdEMAMix(w, lr=0.1, betas=(0.5, 0.75, 0.875), alpha=8.0, eps=0.0)
    >>> opt.step(np.array([3.0]))  # Adam's 0.1, and 8 (1 - 0.875) times as much for n
    True
    >>> w.round(12)
    array([0.8])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "n": "exp_avg_slow", "v": "exp_avg_sq"}
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True)
    betas: Hyper[tuple[Rate, Rate, Rate]] = Hyper(hyper.three_betas, default=(0.9, 0.999, 0.9999))
    alpha: Hyper[Rate] = Hyper(hyper.nonnegative, default=5.0)
    t_alpha_beta3: Hyper[float | None] = Hyper(hyper.optional(hyper.positive), default=None)
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-8)

    @classmethod
    def check_together(cls, h: Values) -> None:
        """The warm-up takes logarithms of betas."""
        if h["t_alpha_beta3"] is not None and 0.0 in (h["betas"][0], h["betas"][2]):
            raise ValueError(
                f"t_alpha_beta3 is {h['t_alpha_beta3']!r} with betas {h['betas']!r}: "
                "wanted the first and the third of them above 0"
            )

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "ademamix"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Fold the bias corrections as Adam does, and the warm-up of the slow mean."""
        beta1, beta2, beta3 = h["betas"]
        weight = h["alpha"]
        if h["t_alpha_beta3"] is not None:
            part = np.minimum(t / h["t_alpha_beta3"], 1.0)
            weight = part * weight
            # the paper's exp(ln1 ln3 / ...) is a power of beta1
            ln1, ln3 = math.log(beta1), math.log(beta3)
            warming = powers(beta1, ln3 / ((1.0 - part) * ln3 + part * ln1))
            beta3 = np.where(part < 1.0, np.minimum(warming, beta3), beta3)
        root = np.sqrt(one_minus_power(beta2, t))
        return {"alpha": root / one_minus_power(beta1, t), "tau": root * weight}, {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "beta3": beta3,
            "rest3": 1.0 - beta3,
            "eps": h["eps"] * root,
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of ademamix."""
        m, n, v = s["m"], s["n"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        n[...] = c["beta3"] * n + c["rest3"] * g
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        return (c["alpha"] * m + c["tau"] * n) / (np.sqrt(v) + c["eps"])  # type: ignore[no-any-return]
