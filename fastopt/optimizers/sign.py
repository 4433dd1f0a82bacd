"""Steps of one size, in the direction of a sign: the gradient's, or that of a mean of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import against, agreeing, sign
from .cautious import Cautious

__all__ = ["SignSGD", "Signum", "Lion"]  # noqa: RUF022 - by increasing complexity


class SignSGD(Optimizer):
    """SignSGD: every element takes a step of the same size.

    For each element::

        w ← w − α·sign(g)

    The sign of 0 is 0, and that of a NaN is NaN. (`torch.sign` makes 0 of it: the parameter would stand still.) How
    large gradients are does not matter, so clipping them by their norm changes nothing.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
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
    Bernstein et al., "signSGD: Compressed optimisation for non-convex problems", 2018, algorithm 1. optax's `sign_sgd`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, 1.0, 1.0])
    >>> opt = fastopt.SignSGD(w, lr=0.25)
    >>> opt.step(np.array([5.0, -0.01, 0.0]))
    True
    >>> w
    array([0.75, 1.25, 1.  ])
    """

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "signsgd"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """The learning rate is the step."""
        return {"alpha": 1.0}, {}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of signsgd, lion and cautious_lion."""
        if rule == "signsgd":
            return c["alpha"] * sign(g)  # type: ignore[no-any-return]
        m = s["m"]
        mean = c["beta1"] * m + c["rest1"] * g
        m[...] = c["beta2"] * m + c["rest2"] * g
        if rule == "cautious_lion":
            return c["boosted"] * agreeing(sign(mean), g)  # type: ignore[no-any-return]
        return c["alpha"] * sign(mean)  # type: ignore[no-any-return]


class Signum(Optimizer):
    """Signum: the sign of a running mean of gradients.

    For each element::

        m ← η·m + (1 − η)·g
        w ← w − α·sign(m)

    Without momentum it is `SignSGD`, and has no state.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    momentum : float
        η, in [0, 1).
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
    Bernstein et al., "signSGD: Compressed optimisation for non-convex problems", 2018, algorithm 2.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.Signum(w, lr=0.25, momentum=0.75)
    >>> for g in 4.0, -1.0:  # the mean is 1, then 0.5
    ...     _ = opt.step(np.array([g]))
    >>> w
    array([0.5])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "momentum_buffer"}
    momentum: Hyper[float] = Hyper(hyper.fraction, default=0.9)

    @classmethod
    def rule(cls, h: Values) -> str:
        """Momentum 0 needs no state; else it is Lion with one beta for both means."""
        return "lion" if h["momentum"] else "signsgd"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Both means are the same."""
        eta, rest = h["momentum"], 1.0 - h["momentum"]
        return {"alpha": 1.0}, {"beta1": eta, "rest1": rest, "beta2": eta, "rest2": rest} if eta else {}

    reference = staticmethod(SignSGD.reference)


class Lion(Cautious):
    """Lion: the sign of a mean in which the newest gradient weighs more than in the mean that is kept.

    For each element::

        c = β₁·m + (1 − β₁)·g
        m ← β₂·m + (1 − β₂)·g
        w ← w − α·(sign(c) + λ·w)

    Weight decay is decoupled by default, as written here. Steps are larger than Adam's: the paper takes a learning rate
    3 to 10 times smaller, and a decay as many times larger.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    betas : (float, float)
        β₁ and β₂, in [0, 1).
    cautious : bool
        Whether to set those elements of the update to 0 whose sign is not the gradient's, and to multiply the others by
        the reciprocal of their share in the parameter, at most 1000 (Liang et al., "Cautious optimizers", 2024). Reads
        the parameter's arrays once more.
    weight_decay : float
        λ ≥ 0.
    decoupled : bool
        If True, decay is as in the formula; if False, λ·w is added to the gradient.
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
    Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2. Keras's is the same, with a
    learning rate of 1e-3 by default; so is optax's, with a decay of 1e-3.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, 1.0])
    >>> opt = fastopt.Lion(w, lr=0.25, weight_decay=0.5)
    >>> opt.step(np.array([5.0, -0.01]))
    True
    >>> w
    array([0.625, 1.125])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-4, kw_only=False)
    betas: Hyper[tuple[float, float]] = Hyper(hyper.betas, default=(0.9, 0.99))
    cautious: Hyper[bool] = Hyper(hyper.flag, default=False)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True)

    @classmethod
    def rule(cls, h: Values) -> str:
        """Cautious steps have a rule of their own."""
        return "cautious_lion" if h["cautious"] else "lion"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """No bias correction: it would not change a sign."""
        beta1, beta2 = h["betas"]
        return {"alpha": 1.0}, {"beta1": beta1, "rest1": 1.0 - beta1, "beta2": beta2, "rest2": 1.0 - beta2}

    reference = staticmethod(SignSGD.reference)

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """Where the mean and the gradient agree."""
        return {"agreed": ~against(c["beta1"] * s["m"] + c["rest1"] * g, g)}
