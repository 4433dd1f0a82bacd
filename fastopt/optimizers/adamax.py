"""Adamax: Adam with the largest gradient that is not long ago in the place of a root mean square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import absolute, maximum

__all__ = ["Adamax"]


class Adamax(Optimizer):
    """Adamax: Adam with the infinity norm.

    In update t = 1, 2, … of a parameter, for each element::

        m ← β₁·m + (1 − β₁)·g
        u ← max(β₂·u, |g| + ε)
        m̂ = m / (1 − β₁ᵗ)
        w ← w − α·m̂ / u

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    betas : (float, float)
        β₁ and β₂, in [0, 1).
    eps : float
        ε ≥ 0. With 0, an element whose gradients have all been 0 becomes NaN.
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
    Kingma & Ba, "Adam: A method for stochastic optimization", 2015, algorithm 2, which has no ε. `torch.optim.Adamax`;
    optax has it there too. Keras divides by u + ε.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, 1.0])
    >>> opt = fastopt.Adamax(w, lr=0.1, eps=0.0)
    >>> opt.step(np.array([5.0, -0.01]))
    True
    >>> w.round(12)
    array([0.9, 1.1])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "u": "exp_inf"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=2e-3, kw_only=False)
    betas: Hyper[tuple[float, float]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[float] = Hyper(hyper.nonnegative, default=1e-8)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "adamax"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """A maximum needs no bias correction."""
        beta1, beta2 = h["betas"]
        others: Scalars = {"beta1": beta1, "rest1": 1.0 - beta1, "beta2": beta2, "eps": h["eps"]}
        return {"alpha": 1.0 / one_minus_power(beta1, t)}, others

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of adamax."""
        m, u = s["m"], s["u"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        u[...] = maximum(absolute(g) + c["eps"], c["beta2"] * u)
        return c["alpha"] * (m / u)  # type: ignore[no-any-return]
