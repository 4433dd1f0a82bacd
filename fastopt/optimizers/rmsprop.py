"""RMSprop: each element's step divided by a running root mean square of its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """RMSprop, plain or centered, with momentum if you like.

    For each element::

        v ← γ·v + (1 − γ)·g²
        w ← w − α·g / (√v + ε)

    Centered, a ← γ·a + (1 − γ)·g and v − a², the variance, stands in v's place; rounding that makes it negative is
    taken as 0, where torch's gives NaN. With momentum m ← η·m + g / (√v + ε) and w ← w − α·m.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    alpha : float
        Smoothing constant γ, in [0, 1); `alpha` is torch's name.
    eps : float
        ε ≥ 0.
    centered : bool
        Whether to divide by the standard deviation.
    momentum : float
        η, in [0, 1].
    eps_inside_sqrt : bool
        Whether to divide by √(v + ε) (TensorFlow 1, Graves).
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
    Tieleman & Hinton, "Lecture 6.5: RMSProp", 2012. Graves, "Generating sequences with recurrent neural networks",
    2013, eq. 38 to 45. `torch.optim.RMSprop`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.RMSprop(w, lr=0.1, alpha=0.75, eps=0.0)
    >>> opt.step(np.array([3.0]))
    True
    >>> w
    array([0.8])
    """

    slots: ClassVar[Mapping[str, str]] = {"v": "square_avg", "a": "grad_avg", "m": "momentum_buffer"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-2, kw_only=False)
    alpha: Hyper[Rate] = Hyper(hyper.fraction, default=0.99)
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-8)
    centered: Hyper[bool] = Hyper(hyper.flag, default=False)
    momentum: Hyper[Rate] = Hyper(hyper.proportion, default=0.0)
    eps_inside_sqrt: Hyper[bool] = Hyper(hyper.flag, default=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """Name the loop that has just the state these options need."""
        return f"rmsprop{'_centered' if h['centered'] else ''}{'_momentum' if h['momentum'] else ''}"

    @classmethod
    def scalars(cls, h: Values, t: Steps, rule: str) -> tuple[Scalars, Scalars]:
        """Epsilon stands inside the root or outside, and 0 in the other place."""
        inside, outside = (h["eps"], 0.0) if h["eps_inside_sqrt"] else (0.0, h["eps"])
        gamma = h["alpha"]
        others: Scalars = {"gamma": gamma, "rest": 1.0 - gamma, "inside": inside, "outside": outside}
        if "momentum" in rule:
            others["eta"] = h["momentum"]
        return {"alpha": 1.0}, others

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of the four rmsprop rules."""
        v = s["v"]
        v[...] = c["gamma"] * v + c["rest"] * (g * g)
        mean_square = v
        if "centered" in rule:
            a = s["a"]
            a[...] = c["gamma"] * a + c["rest"] * g
            d = v - a * a
            mean_square = np.where(d < 0, g.dtype.type(0), d)
        u = g / (np.sqrt(mean_square + c["inside"]) + c["outside"])
        if "momentum" in rule:
            m = s["m"]
            m[...] = c["eta"] * m + u
            u = m
        return c["alpha"] * u  # type: ignore[no-any-return]
