"""Adam and what differs from it by a term: AMSGrad and AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Rate, Scalars, Steps, Values
from ..words import against, agreeing
from .cautious import Cautious

__all__ = ["Adam", "AdamW"]


class Adam(Cautious):
    """Adam, and AMSGrad.

    In update t = 1, 2, … of a parameter, for each element::

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·g²
        m̂ = m / (1 − β₁ᵗ)
        v̂ = v / (1 − β₂ᵗ)
        w ← w − α·m̂ / (√v̂ + ε)

    With ``amsgrad=True`` the largest v so far stands in v's place in v̂.

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
    amsgrad : bool
        Whether to divide by the root of the largest v so far.
    eps_hat : bool
        Whether ε stands beside √v, before the bias correction, as in Keras, thinc and scikit-learn.
    cautious : bool
        Whether to set those elements of the update to 0 whose sign is not the gradient's, and to multiply the others by
        the reciprocal of their share in the parameter, at most 1000 (Liang et al., "Cautious optimizers", 2024). Reads
        the parameter's arrays once more; not with `amsgrad`.
    weight_decay : float
        λ ≥ 0: adds λ·w to the gradient.
    decoupled : bool
        If True, decay is w ← w − α·λ·w beside the update, and not a part of the gradient: `AdamW`.
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
    Kingma & Ba, "Adam: A method for stochastic optimization", 2015, algorithm 1. Reddi et al., "On the convergence of
    Adam and beyond", 2018. `torch.optim.Adam`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, 1.0])
    >>> opt = fastopt.Adam(w, lr=0.1, eps=0.0)
    >>> opt.step(np.array([5.0, -0.01]))
    True
    >>> w.round(12)
    array([0.9, 1.1])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq", "x": "max_exp_avg_sq"}
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-8)
    amsgrad: Hyper[bool] = Hyper(hyper.flag, default=False)
    eps_hat: Hyper[bool] = Hyper(hyper.flag, default=False)
    cautious: Hyper[bool] = Hyper(hyper.flag, default=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """AMSGrad has one array more."""
        return "amsgrad" if h["amsgrad"] else "cautious_adam" if h["cautious"] else "adam"

    @classmethod
    def check_together(cls, h: Values) -> None:
        """Cautious steps are those of plain Adam."""
        if h["amsgrad"] and h["cautious"]:
            raise ValueError("amsgrad and cautious: wanted one of them")

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Fold the bias corrections: both sides of the fraction are multiplied by the root of v's."""
        beta1, beta2 = h["betas"]
        root = np.sqrt(one_minus_power(beta2, t))
        return {"alpha": root / one_minus_power(beta1, t)}, {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "eps": h["eps"] if h["eps_hat"] else h["eps"] * root,
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of adam, amsgrad and cautious_adam."""
        m, v = s["m"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        if rule == "amsgrad":
            x = s["x"]
            x[...] = np.where(v <= x, x, v)
            v = x
        if rule == "cautious_adam":
            return c["boosted"] * (agreeing(m, g) / (np.sqrt(v) + c["eps"]))  # type: ignore[no-any-return]
        return c["alpha"] * (m / (np.sqrt(v) + c["eps"]))  # type: ignore[no-any-return]

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """Where the new mean and the gradient agree."""
        return {"agreed": ~against(c["beta1"] * s["m"] + c["rest1"] * g, g)}


class AdamW(Adam):
    """Adam with decoupled weight decay.

    `Adam`, and beside its update w ← w − α·λ·w, both computed from the old w.

    Parameters
    ----------
    params, lr, betas, eps, amsgrad, eps_hat, cautious, maximize, nonfinite, zero_grads, clip_norm, clip_tensor_norm,
    clip_value, ema_decay, decay_mask, state_memory
        As for `Adam`.
    weight_decay : float
        λ ≥ 0.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place, or a hyper-parameter is out of range.

    References
    ----------
    Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2. `torch.optim.AdamW`, which
    multiplies w by the rounded 1 − α·λ, in float32 no decay at all below α·λ ≈ 3·10⁻⁸; here decay and update are summed
    first.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.AdamW(w, lr=0.1, weight_decay=0.5)
    >>> opt.step(np.array([0.0]))
    True
    >>> w
    array([0.95])
    """

    weight_decay: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-2)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True, init=False)
