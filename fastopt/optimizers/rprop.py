"""Rprop: a step size for each element, from the signs of its gradients alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import clamp, sign

__all__ = ["Rprop"]


class Rprop(Optimizer):
    """Resilient backpropagation, without backtracking.

    For each element::

        y  = sign(g)·sign(g')
        s  ← clip(s·η⁺)    where y > 0
        s  ← clip(s·η⁻)    where y < 0
        s  ← clip(s)       otherwise
        g' ← 0             where y < 0, otherwise g
        w  ← w − sign(g')·s

    The step size s starts at the learning rate of the parameter's first step, which has no effect on s later; it is for
    decoupled decay alone then. Gradients should be those of all data: the noise of small batches turns signs and lets s
    shrink to nothing.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0: the first step size; or a schedule, which is asked for it.
    etas : (float, float)
        η⁻, between 0 and 1, and η⁺, above 1.
    step_sizes : (float, float)
        What s is clipped to, at least 0: the least and the largest step size.
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
    Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: The RPROP algorithm", 1993.
    Igel & Hüsken, "Improving the Rprop learning algorithm", 2000 (iRprop-). `torch.optim.Rprop`, which has no weight
    decay and multiplies gradients, not signs, so that the product of tiny ones may vanish.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.Rprop(w, lr=0.1)
    >>> for g in (5.0, 0.01):
    ...     _ = opt.step(np.array([g]))
    >>> w.round(12)  # less 0.1 and 0.12
    array([0.78])
    """

    slots: ClassVar[Mapping[str, str]] = {"prev": "prev", "size": "step_size"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-2, kw_only=False)
    etas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.etas, default=(0.5, 1.2))
    step_sizes: Hyper[tuple[Rate, Rate]] = Hyper(hyper.limits, default=(1e-6, 50.0))

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "rprop"

    @classmethod
    def scalars(cls, h: Values, t: Steps, fresh: bool = False) -> tuple[Scalars, Scalars]:
        """The learning rate is added to a new step size, which is 0."""
        (down, up), (low, high) = h["etas"], h["step_sizes"]
        return {"start": 1.0 if fresh else 0.0}, {"down": down, "up": up, "low": low, "high": high}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of rprop."""
        prev, size = s["prev"], s["size"]
        size[...] = size + c["start"]
        y = sign(g) * sign(prev)
        zero, one = g.dtype.type(0), g.dtype.type(1)
        grown = size * np.where(y > 0, c["up"], np.where(y < 0, c["down"], one))
        size[...] = clamp(grown, c["low"], c["high"])
        prev[...] = np.where(y < 0, zero, g)
        return sign(prev) * size
