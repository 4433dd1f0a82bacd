"""AdaBelief: Adam with the spread of the gradients around their mean in place of their size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["AdaBelief"]


class AdaBelief(Optimizer):
    """AdaBelief.

    In update t = 1, 2, … of a parameter, for each element::

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·(g − m)² + ε
        m̂ = m / (1 − β₁ᵗ)
        v̂ = v / (1 − β₂ᵗ)
        w ← w − α·m̂ / (√v̂ + ε)

    Steps are large where gradients hardly change: under a constant one v goes down to about ε / (1 − β₂).

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
    Zhuang et al., "AdaBelief optimizer: Adapting stepsizes by the belief in observed gradients", 2020, algorithm 2,
    where ε is added to the stored v too. The authors' code rectifies as RAdam does unless told not to; this is the
    paper's form.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.AdaBelief(w, lr=0.1, betas=(0.5, 0.75))
    >>> opt.step(np.array([3.0]))  # lies twice as far from 0 as from the mean, which is half of it
    True
    >>> w.round(12)
    array([0.8])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_var"}
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True)
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-16)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "adabelief"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Fold the bias corrections as Adam does; epsilon is added to the stored v as it is."""
        beta1, beta2 = h["betas"]
        root = np.sqrt(one_minus_power(beta2, t))
        return {"alpha": root / one_minus_power(beta1, t)}, {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "inside": h["eps"],
            "outside": h["eps"] * root,
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of adabelief."""
        m, v = s["m"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        d = g - m
        v[...] = c["beta2"] * v + c["rest2"] * (d * d) + c["inside"]
        return c["alpha"] * (m / (np.sqrt(v) + c["outside"]))  # type: ignore[no-any-return]
