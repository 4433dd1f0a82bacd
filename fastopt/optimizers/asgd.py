"""Averaged stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["ASGD"]


class ASGD(Optimizer):
    """Averaged stochastic gradient descent.

    In update t = 1, 2, … of a parameter, for each element, from η₁ = α and μ₁ = 1::

        w    ← w − ηₜ·(g + λ₀·w)
        a    ← a + μₜ·(w − a)
        ηₜ₊₁ = α / (1 + λ₀·α·t)^κ
        μₜ₊₁ = 1 / max(1, t − t₀)

    w is the last iterate; the average a is ``ax`` in the state, and what w is inside ``with opt.averaged():``.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    lambd : float
        λ₀ ≥ 0: a decay of its own, which also lowers the rate.
    alpha : float
        κ ≥ 0; `alpha` is torch's name.
    t0 : float
        t₀ ≥ 0: the step at which averaging begins.
    weight_decay : float
        λ ≥ 0: adds λ·w to the gradient.
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
    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992. `torch.optim.ASGD`, which keeps η
    and μ in float32.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.ASGD(w, lr=0.1, lambd=0.1)
    >>> opt.step(np.array([0.5, -0.25]))
    True
    >>> w
    array([ 0.94 , -1.955])
    """

    slots: ClassVar[Mapping[str, str]] = {"a": "ax"}
    numbers: ClassVar[Mapping[str, float]] = {"eta": 0.0, "mu": 1.0}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-2, kw_only=False)
    lambd: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-4)
    alpha: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.75)
    t0: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e6)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=False, init=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "asgd"

    @classmethod
    def scalars(
        cls, h: Values, t: Steps, lr: float, numbers: Mapping[str, Any]
    ) -> tuple[Scalars, Scalars, dict[str, Any]]:
        """A step has the rate that the one before it has made, the first one the learning rate."""
        eta = np.where(t == 1, lr, numbers["eta"])
        mu = numbers["mu"]
        others: Scalars = {"shrink": h["lambd"] * eta, "eta": eta, "keep": np.where(mu == 1, 0.0, 1.0), "mu": mu}
        later = {
            "eta": lr / (1.0 + h["lambd"] * lr * t) ** h["alpha"],
            "mu": 1.0 / np.maximum(1.0, t - h["t0"]),
        }
        return {}, others, later

    @classmethod
    def average(cls, h: Values, p: Array, s: Mapping[str, Array]) -> Array:
        """It is kept."""
        return s["a"]

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of asgd."""
        a = s["a"]
        u = c["shrink"] * p + c["eta"] * g
        kept = c["keep"] * a
        a[...] = kept + c["mu"] * (c["descend"](p, u) - kept)
        return u  # type: ignore[no-any-return]
