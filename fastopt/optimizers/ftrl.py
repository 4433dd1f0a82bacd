"""FTRL-Proximal: follow the regularized leader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import clamp

__all__ = ["Ftrl"]


class Ftrl(Optimizer):
    """FTRL-Proximal.

    For each element::

        n' = n + g²
        z  ← z + g + 2·λₛ·w − w·(√n' − √n) / α
        n  ← n'
        w  ← (clamp(z, −λ₁, λ₁) − z) / ((β + √n) / α + 2·λ₂)

    w is solved for anew in each step: what it was at the beginning is lost in the first one, and with λ₁ > 0 elements
    become exactly 0.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α, above 0, or a schedule: a function of the number of steps taken.
    initial_accumulator_value : float
        What n starts at. 0 needs `beta` or `l2` above 0.
    l1, l2 : float
        λ₁, λ₂ ≥ 0.
    l2_shrinkage : float
        λₛ ≥ 0: a decay of the gradient.
    beta : float
        β ≥ 0; the paper has 1.
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
    McMahan et al., "Ad click prediction: a view from the trenches", 2013, algorithm 1, with the terms that TensorFlow
    and Keras have added.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, -2.0, 0.5])
    >>> opt = fastopt.Ftrl(w, lr=0.1, l1=0.01, l2=0.1, beta=1.0)
    >>> opt.step(np.array([0.5, -0.25, 0.0]))
    True
    >>> w.round(4)
    array([ 0.1392, -0.1038,  0.    ])
    """

    slots: ClassVar[Mapping[str, str]] = {"n": "accumulator", "z": "linear"}
    assigns = True
    initial_accumulator_value: Hyper[float] = Hyper(hyper.constant, default=0.1)
    l1: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.0)
    l2: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.0)
    l2_shrinkage: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.0)
    beta: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.0)
    weight_decay: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.0, init=False)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=False, init=False)

    @classmethod
    def check_together(cls, h: Values) -> None:
        """0 is not to be divided by."""
        if h["initial_accumulator_value"] == 0 and h["beta"] == 0 and h["l2"] == 0:
            raise ValueError("initial_accumulator_value is 0, and so are beta and l2: wanted one of them above 0")

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "ftrl"

    @classmethod
    def scalars(cls, h: Values, t: Steps, lr: float, fresh: bool) -> tuple[Scalars, Scalars]:
        """The learning rate divides."""
        if lr == 0:
            raise ValueError("lr is 0: Ftrl divides by it")
        return {}, {
            "start": h["initial_accumulator_value"] if fresh else 0.0,
            "r": 1.0 / lr,
            "quad": h["beta"] / lr + 2.0 * h["l2"],
            "low": -h["l1"],
            "high": h["l1"],
            "shrinkage": 2.0 * h["l2_shrinkage"],
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of ftrl."""
        n, z = s["n"], s["z"]
        before = n + c["start"]
        n[...] = before + g * g
        root = np.sqrt(n)
        z[...] = z + ((g + c["shrinkage"] * p) - ((root - np.sqrt(before)) * c["r"]) * p)
        return (clamp(z, c["low"], c["high"]) - z) / (root * c["r"] + c["quad"])  # type: ignore[no-any-return]
