"""Quasi-hyperbolic momentum: the update is a mean of the gradient and of its running mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Scalars, Steps, Values

__all__ = ["QHM", "QHAdam"]


class QHM(Optimizer):
    """Quasi-hyperbolic momentum.

    For each element::

        m ← β·m + (1 − β)·g
        w ← w − α·((1 − ν)·g + ν·m)

    ν = 0 is gradient descent, ν = 1 momentum whose gradients are damped by 1 − β, and ν = β such a Nesterov's momentum.
    m starts at 0 and is not corrected: with the default β the first steps are small.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    momentum : float
        β, in [0, 1).
    nu : float
        ν, in [0, 1].
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
    Ma & Yarats, "Quasi-hyperbolic momentum and Adam for deep learning", 2019, eq. 1 and 2, and the defaults of its
    section 3.1.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.QHM(w, lr=0.5, momentum=0.75, nu=0.5)
    >>> opt.step(np.array([1.0]))  # half of it now, half of a quarter of it as momentum
    True
    >>> w
    array([0.6875])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "momentum_buffer"}
    momentum: Hyper[float] = Hyper(hyper.fraction, default=0.999)
    nu: Hyper[float] = Hyper(hyper.proportion, default=0.7)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "qhm"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """The learning rate goes to both parts of the mean."""
        beta, nu = h["momentum"], h["nu"]
        return {"alpha_g": 1.0 - nu, "alpha_m": nu}, {"beta": beta, "rest": 1.0 - beta}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of qhm."""
        m = s["m"]
        m[...] = c["beta"] * m + c["rest"] * g
        return c["alpha_g"] * g + c["alpha_m"] * m  # type: ignore[no-any-return]


class QHAdam(Optimizer):
    """Adam with quasi-hyperbolic terms: means of gradient and momentum, above and below the fraction.

    In update t = 1, 2, … of a parameter, for each element::

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·g²
        m̂ = m / (1 − β₁ᵗ)
        v̂ = v / (1 − β₂ᵗ)
        w ← w − α·((1 − ν₁)·g + ν₁·m̂) / (√((1 − ν₂)·g² + ν₂·v̂) + ε)

    ν₁ = ν₂ = 1 is Adam.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    betas : (float, float)
        β₁ and β₂, in [0, 1).
    nus : (float, float)
        ν₁ and ν₂, in [0, 1].
    eps : float
        ε ≥ 0.
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
    Ma & Yarats, "Quasi-hyperbolic momentum and Adam for deep learning", 2019, eq. 6; its authors advise
    ``nus=(0.7, 1.0)`` with ``betas=(0.995, 0.999)``. Their package `qhoptim` computes the same.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, 1.0])
    >>> opt = fastopt.QHAdam(w, lr=0.1, nus=(0.7, 0.9), eps=0.0)
    >>> opt.step(np.array([5.0, -0.01]))
    True
    >>> w.round(12)
    array([0.9, 1.1])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    betas: Hyper[tuple[float, float]] = Hyper(hyper.betas, default=(0.9, 0.999))
    nus: Hyper[tuple[float, float]] = Hyper(hyper.proportions, default=(1.0, 1.0))
    eps: Hyper[float] = Hyper(hyper.nonnegative, default=1e-8)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "qhadam"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Bias corrections stay with the moments: beside them are gradients, which have none."""
        (beta1, beta2), (nu1, nu2) = h["betas"], h["nus"]
        return {"alpha_g": 1.0 - nu1, "alpha_m": nu1 / one_minus_power(beta1, t)}, {
            "beta1": beta1,
            "rest1": 1.0 - beta1,
            "beta2": beta2,
            "rest2": 1.0 - beta2,
            "of_g": 1.0 - nu2,
            "of_v": nu2 / one_minus_power(beta2, t),
            "eps": h["eps"],
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of qhadam."""
        m, v = s["m"], s["v"]
        square = g * g
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = c["beta2"] * v + c["rest2"] * square
        root = np.sqrt(c["of_g"] * square + c["of_v"] * v)
        return (c["alpha_g"] * g + c["alpha_m"] * m) / (root + c["eps"])  # type: ignore[no-any-return]
