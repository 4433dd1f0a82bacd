"""NAdam: Adam with Nesterov's momentum, whose weight grows by a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Rate, Scalars, Steps, Values
from ..words import against, agreeing
from .cautious import Cautious

__all__ = ["NAdam"]


class NAdam(Cautious):
    """NAdam.

    In update t = 1, 2, … of a parameter, for each element::

        μₜ = β₁·(1 − 0.5·0.96^(t·ψ))    Πₜ = μ₁·μ₂·…·μₜ
        m  ← β₁·m + (1 − β₁)·g
        v  ← β₂·v + (1 − β₂)·g²
        m̂  = μₜ₊₁·m / (1 − Πₜ·μₜ₊₁) + (1 − μₜ)·g / (1 − Πₜ)
        v̂  = v / (1 − β₂ᵗ)
        w  ← w − α·m̂ / (√v̂ + ε)

    Π is kept with the state, as ``mu_product``.

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
    momentum_decay : float
        ψ ≥ 0. Keras's Nadam is this one with 1.
    eps_hat : bool
        Whether ε stands beside √v, before the bias correction. (Keras has it after that.)
    cautious : bool
        Whether to set those elements of the update to 0 whose sign is not the gradient's, and to multiply the others by
        the reciprocal of their share in the parameter, at most 1000 (Liang et al., "Cautious optimizers", 2024). Reads
        the parameter's arrays once more.
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
    Dozat, "Incorporating Nesterov momentum into Adam", 2016. `torch.optim.NAdam`, which keeps the product in float32.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> opt = fastopt.NAdam(w, lr=0.1)
    >>> opt.step(np.array([0.5, -0.25]))
    True
    >>> w.round(4)
    array([ 0.8944, -1.8944])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    numbers: ClassVar[Mapping[str, float]] = {"mu_product": 1.0}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=2e-3, kw_only=False)
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-8)
    momentum_decay: Hyper[Rate] = Hyper(hyper.nonnegative, default=4e-3)
    eps_hat: Hyper[bool] = Hyper(hyper.flag, default=False)
    cautious: Hyper[bool] = Hyper(hyper.flag, default=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """Cautious steps have a rule of their own."""
        return "cautious_nadam" if h["cautious"] else "nadam"

    @classmethod
    def scalars(cls, h: Values, t: Steps, numbers: Mapping[str, Any]) -> tuple[Scalars, Scalars, dict[str, Any]]:
        """The weights of g and m have the root of v's bias correction, as epsilon does."""
        beta1, beta2 = h["betas"]
        now, later = (beta1 * (1.0 - 0.5 * 0.96 ** (i * h["momentum_decay"])) for i in (t, t + 1))
        product = numbers["mu_product"] * now
        root = np.sqrt(one_minus_power(beta2, t))
        rates: Scalars = {
            "alpha_g": root * (1.0 - now) / (1.0 - product),
            "alpha_m": root * later / (1.0 - product * later),
        }
        others: Scalars = {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "eps": h["eps"] if h["eps_hat"] else h["eps"] * root,
        }
        return rates, others, {"mu_product": product}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of nadam and cautious_nadam."""
        m, v = s["m"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        u = c["alpha_g"] * g + c["alpha_m"] * m
        if rule == "cautious_nadam":
            return c["boost"] * (agreeing(u, g) / (np.sqrt(v) + c["eps"]))  # type: ignore[no-any-return]
        return u / (np.sqrt(v) + c["eps"])  # type: ignore[no-any-return]

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """Where update and gradient agree."""
        m = c["beta1"] * s["m"] + c["rest1"] * g
        return {"agreed": ~against(c["alpha_g"] * g + c["alpha_m"] * m, g)}
