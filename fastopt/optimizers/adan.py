"""Adan: Nesterov's momentum by differences of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["Adan"]


class Adan(Optimizer):
    """Adan.

    In update t = 1, 2, … of a parameter, for each element::

        d = g − q    q ← g    (d = 0 in the first step)
        m ← β₁·m + (1 − β₁)·g
        n ← β₂·n + (1 − β₂)·d
        v ← β₃·v + (1 − β₃)·(g + β₂·d)²
        m̂ = m / (1 − β₁ᵗ)
        n̂ = n / (1 − β₂ᵗ)
        v̂ = v / (1 − β₃ᵗ)
        w ← (w − α·(m̂ + β₂·n̂) / (√v̂ + ε)) / (1 + α·λ)

    The decay is proximal; with ``no_prox=True`` it is w ← w − α·λ·w beside the update.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    betas : (float, float, float)
        β₁, β₂, β₃, in [0, 1): as in the authors' code, 1 less the paper's.
    eps : float
        ε ≥ 0.
    no_prox : bool
        If True, decay is decoupled; if False, proximal.
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

    References
    ----------
    Xie et al., "Adan: Adaptive Nesterov momentum algorithm", 2022, algorithm 1, and the authors' code. optax's `adan`
    (0.2.8) weighs the differences otherwise, which is an error there.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.Adan(w, lr=0.01, weight_decay=0.1)
    >>> opt.step(np.array([0.5, -0.25]))
    True
    >>> w.round(6)
    array([ 0.989011, -1.988012])
    """

    slots: ClassVar[Mapping[str, str]] = {
        "m": "exp_avg",
        "d": "exp_avg_diff",
        "n": "exp_avg_sq",
        "q": "previous_grad",
    }
    assigns = True
    betas: Hyper[tuple[Rate, Rate, Rate]] = Hyper(hyper.three_betas, default=(0.98, 0.92, 0.99))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-8)
    no_prox: Hyper[bool] = Hyper(hyper.flag, default=False)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True, init=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "adan"

    @classmethod
    def kind(cls, h: Values) -> str:
        """The proximal decay is inside the rule."""
        return super().kind(h) if h["no_prox"] else "none"

    @classmethod
    def scalars(cls, h: Values, t: Steps, lr: float, fresh: bool) -> tuple[Scalars, Scalars]:
        """A new state has no gradient before."""
        beta1, beta2, beta3 = h["betas"]
        root = np.sqrt(one_minus_power(beta3, t))
        return {"a_m": root / one_minus_power(beta1, t), "a_d": root * beta2 / one_minus_power(beta2, t)}, {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "beta3": beta3,
            "rest3": 1.0 - beta3,
            "eps": h["eps"] * root,
            "later": 0.0 if fresh else 1.0,
            "grow": 1.0 if h["no_prox"] else 1.0 + lr * h["weight_decay"],
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of adan."""
        m, d, n, q = s["m"], s["d"], s["n"], s["q"]
        difference = c["later"] * (g - q)
        m[...] = c["beta1"] * m + c["rest1"] * g
        d[...] = c["beta2"] * d + c["rest2"] * difference
        x = g + c["beta2"] * difference
        n[...] = c["beta3"] * n + c["rest3"] * (x * x)
        q[...] = g
        u = (c["a_m"] * m + c["a_d"] * d) / (np.sqrt(n) + c["eps"])
        return c["descend"](p, u) / c["grow"]  # type: ignore[no-any-return]
