"""RAdam: Adam that does not divide by its second moment before enough gradients are in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Scalars, Steps, Values

__all__ = ["RAdam"]


class RAdam(Optimizer):
    """Rectified Adam: momentum alone in the first steps, then Adam with a warmup of its own.

    In update t = 1, 2, … of a parameter, for each element::

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·g²
        m̂ = m / (1 − β₁ᵗ)
        ρ = ρ_∞ − 2·t·β₂ᵗ / (1 − β₂ᵗ)    ρ_∞ = 2 / (1 − β₂) − 1
        r = √((ρ − 4)·(ρ − 2)·ρ_∞ / ((ρ_∞ − 4)·(ρ_∞ − 2)·ρ))
        w ← w − α·m̂·r·√(1 − β₂ᵗ) / (√v + ε)    where ρ > 5
        w ← w − α·m̂                            otherwise

    With the default β₂ the first five are momentum's; with β₂ ≤ 2/3 all are.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    betas : (float, float)
        β₁ and β₂, in [0, 1).
    eps : float
        ε ≥ 0, beside the root of the uncorrected v.
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
    Liu et al., "On the variance of the adaptive learning rate and beyond", 2020, algorithm 2, where the threshold is 4
    and there is no ε. `torch.optim.RAdam`. The authors' code and optax take ρ ≥ 5, and optax's ε stands beside the
    corrected root.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, 1.0])
    >>> opt = fastopt.RAdam(w, lr=0.1)
    >>> opt.step(np.array([5.0, -0.01]))  # the gradient's size, not Adam's
    True
    >>> w.round(12)
    array([0.5  , 1.001])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    betas: Hyper[tuple[float, float]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[float] = Hyper(hyper.nonnegative, default=1e-8)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "radam"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """In steps that are not rectified the divisor is 0 √v + 1."""
        beta1, beta2 = h["betas"]
        e2 = one_minus_power(beta2, t)
        limit = 2.0 / (1.0 - beta2) - 1.0
        rho = limit - 2.0 * t * ((1.0 - e2) / e2)
        rectified = rho > 5.0
        # Where that is not so, any numbers do that divide nothing by 0.
        limit, rho = max(limit, 5.0), np.maximum(rho, 5.0)
        r = np.sqrt((rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho))
        return {"alpha": np.where(rectified, r * np.sqrt(e2), 1.0) / one_minus_power(beta1, t)}, {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "of_v": np.where(rectified, 1.0, 0.0),
            "eps": np.where(rectified, h["eps"], 1.0),
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of radam."""
        m, v = s["m"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        return c["alpha"] * (m / (c["of_v"] * np.sqrt(v) + c["eps"]))  # type: ignore[no-any-return]
