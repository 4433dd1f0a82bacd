"""Yogi: Adam whose mean square goes towards the squared gradient by steps of its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import sign

__all__ = ["Yogi"]


class Yogi(Optimizer):
    """Yogi.

    In update t = 1, 2, … of a parameter, for each element::

        m ← β₁·m + (1 − β₁)·g
        v ← v − (1 − β₂)·sign(v − g²)·g²
        m̂ = m / (1 − β₁ᵗ)
        v̂ = v / (1 − β₂ᵗ)
        w ← w − α·m̂ / (√v̂ + ε)

    m and v start at `initial_accumulator`, so that the first steps move a parameter a little even where gradients are
    0.

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
    initial_accumulator : float
        What m and v start at, at least 0.
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
    Zaheer et al., "Adaptive methods for nonconvex optimization", 2018, algorithm 2. The paper starts m at 0 and has no
    bias correction; optax has both as they are here.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.Yogi(w, lr=0.1, eps=0.0, initial_accumulator=0.0)
    >>> opt.step(np.array([3.0]))
    True
    >>> w.round(12)
    array([0.9])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-2, kw_only=False)
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-3)
    initial_accumulator: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-6)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "yogi"

    @classmethod
    def scalars(cls, h: Values, t: Steps, fresh: bool = False) -> tuple[Scalars, Scalars]:
        """Fold the bias corrections as Adam does. New state is 0, and what it is to start at is added to it."""
        beta1, beta2 = h["betas"]
        root = np.sqrt(one_minus_power(beta2, t))
        return {"alpha": root / one_minus_power(beta1, t)}, {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "rest2": 1.0 - beta2,
            "eps": h["eps"] * root,
            "start": h["initial_accumulator"] if fresh else 0.0,
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of yogi."""
        m, v = s["m"], s["v"]
        m[...] = m + c["start"]
        v[...] = v + c["start"]
        q = g * g
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = v - c["rest2"] * (sign(v - q) * q)
        return c["alpha"] * (m / (np.sqrt(v) + c["eps"]))  # type: ignore[no-any-return]
