"""Each element's step divided by a root of its gradients' squares: all of them, or a running mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["Adagrad", "Adadelta"]  # noqa: RUF022 - by increasing complexity


class Adagrad(Optimizer):
    """Adagrad: steps become smaller where gradients have been large.

    In update t = 1, 2, … of a parameter, for each element::

        r = α / (1 + (t − 1)·δ)
        s ← s + g²
        w ← w − r·g / (√s + ε)

    s starts at `initial_accumulator_value`, which is added to the state in the first update: before it the state is 0.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    lr_decay : float
        δ ≥ 0.
    initial_accumulator_value : float
        Where s starts, at least 0.
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
    Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011, figure
    1, with diagonal matrices. `torch.optim.Adagrad`. Keras and optax start s at 0.1 and divide by √(s + 10⁻⁷).

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.Adagrad(w, lr=0.5, eps=0.0)
    >>> for g in 3.0, 4.0:
    ...     _ = opt.step(np.array([g]))
    >>> w.round(12)  # 1 - 0.5 · 3/3 - 0.5 · 4/5
    array([0.1])
    """

    slots: ClassVar[Mapping[str, str]] = {"s": "sum"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-2, kw_only=False)
    lr_decay: Hyper[float] = Hyper(hyper.nonnegative, default=0.0)
    initial_accumulator_value: Hyper[float] = Hyper(hyper.nonnegative, default=0.0)
    eps: Hyper[float] = Hyper(hyper.nonnegative, default=1e-10)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "adagrad"

    @classmethod
    def scalars(cls, h: Values, t: Steps, fresh: bool = False) -> tuple[Scalars, Scalars]:
        """State is 0 while it is new: what it starts at is added then."""
        start = h["initial_accumulator_value"] if fresh else 0.0
        return {"alpha": 1.0 / (1.0 + (t - 1) * h["lr_decay"])}, {"start": start, "eps": h["eps"]}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of adagrad."""
        total = s["s"]
        total[...] = total + c["start"] + g * g
        return c["alpha"] * (g / (np.sqrt(total) + c["eps"]))  # type: ignore[no-any-return]


class Adadelta(Optimizer):
    """Adadelta: steps in the parameter's own units, a running size of its past updates over one of its gradients.

    For each element::

        v ← ρ·v + (1 − ρ)·g²
        d = g·√(x + ε) / √(v + ε)
        x ← ρ·x + (1 − ρ)·d²
        w ← w − α·d

    Updates start at the size of √ε and grow. With ε = 0 they stay 0, and a zero gradient makes NaN.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    rho : float
        ρ, in [0, 1].
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
    Zeiler, "ADADELTA: An adaptive learning rate method", 2012, algorithm 1, which has no learning rate: the default is
    1. `torch.optim.Adadelta`. Keras has ρ = 0.95, ε = 10⁻⁷, and a learning rate of 0.001, with which it hardly
    moves.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.Adadelta(w, rho=0.75, eps=0.0625)
    >>> opt.step(np.array([1.0]))  # 0.25 / sqrt(0.25 + 0.0625)
    True
    >>> w.round(6)
    array([0.552786])
    """

    slots: ClassVar[Mapping[str, str]] = {"v": "square_avg", "x": "acc_delta"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1.0, kw_only=False)
    rho: Hyper[float] = Hyper(hyper.proportion, default=0.9)
    eps: Hyper[float] = Hyper(hyper.nonnegative, default=1e-6)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "adadelta"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Both means have one memory."""
        return {"alpha": 1.0}, {"rho": h["rho"], "rest": 1.0 - h["rho"], "eps": h["eps"]}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of adadelta."""
        v, x = s["v"], s["x"]
        v[...] = c["rho"] * v + c["rest"] * (g * g)
        d = np.sqrt(x + c["eps"]) / np.sqrt(v + c["eps"]) * g
        x[...] = c["rho"] * x + c["rest"] * (d * d)
        return c["alpha"] * d  # type: ignore[no-any-return]
