"""Gradient descent: plain, with momentum, and Nesterov's, in torch's form and in the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .. import hyper
from ..engine.lookahead import LookAhead
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["SGD", "NAG"]  # noqa: RUF022 - by increasing complexity


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if you like.

    Without momentum w ← w − α·g. With momentum η and dampening τ::

        m ← η·m + (1 − τ)·g    (m ← g in the first step)
        w ← w − α·m

    With ``nesterov=True`` the last line is w ← w − α·(g + η·m), the gradient being taken at w. With
    ``lr_in_momentum=True`` the learning rate stands with the gradient, m ← η·m + α·(1 − τ)·g, w ← w − m, as in Polyak's
    paper and in Keras: the same as long as α does not change, and not the same after.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    momentum : float
        η, in [0, 1].
    dampening : float
        τ, in [0, 1].
    nesterov : bool
        Needs momentum, and no dampening.
    lr_in_momentum : bool
        Whether the learning rate goes into the momentum.
    weight_decay : float
        λ ≥ 0: adds λ·w to the gradient.
    decoupled : bool
        If True, decay is w ← w − α·λ·w beside the update, and not a part of the gradient (SGDW).
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
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964. Sutskever et al., "On the
    importance of initialization and momentum in deep learning", 2013. `torch.optim.SGD`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0, 2.0])
    >>> opt = fastopt.SGD(w, lr=0.5)
    >>> opt.step(np.array([1.0, 1.0]))
    True
    >>> w
    array([0.5, 1.5])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "momentum_buffer"}
    momentum: Hyper[Rate] = Hyper(hyper.proportion, default=0.0)
    dampening: Hyper[Rate] = Hyper(hyper.proportion, default=0.0)
    nesterov: Hyper[bool] = Hyper(hyper.flag, default=False)
    lr_in_momentum: Hyper[bool] = Hyper(hyper.flag, default=False)

    @classmethod
    def check_together(cls, h: Values) -> None:
        """Nesterov's momentum is momentum, undamped."""
        if h["nesterov"] and (h["momentum"] == 0 or h["dampening"] != 0):
            raise ValueError(
                f"nesterov=True with momentum {h['momentum']!r} and dampening {h['dampening']!r}: "
                "wanted momentum above 0 and no dampening"
            )

    @classmethod
    def rule(cls, h: Values) -> str:
        """Momentum 0 needs no state."""
        return "nesterov" if h["nesterov"] else "momentum" if h["momentum"] else "sgd"

    @classmethod
    def scalars(cls, h: Values, t: Steps, rule: str, fresh: bool = False) -> tuple[Scalars, Scalars]:
        """While m is new it is 0, and the gradient that fills it is not damped."""
        if rule == "sgd":
            return {"alpha": 1.0}, {}
        tau = 1.0 if fresh else 1.0 - h["dampening"]
        if h["lr_in_momentum"]:
            return {"tau": tau}, {"eta": h["momentum"], "alpha": 1.0}
        return {"alpha": 1.0}, {"eta": h["momentum"], "tau": tau}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of sgd, momentum and nesterov."""
        if rule == "sgd":
            return c["alpha"] * g  # type: ignore[no-any-return]
        m = s["m"]
        g = c["tau"] * g
        m[...] = c["eta"] * m + g
        return c["alpha"] * (g + c["eta"] * m if rule == "nesterov" else m)  # type: ignore[no-any-return]


class NAG(Optimizer):
    """Nesterov's accelerated gradient in its original form: the gradient at the looked-ahead point.

    In each step::

        g = ∇f(w − η·m)
        m ← η·m + α·g
        w ← w − m

    Inside ``with opt.lookahead():`` the parameters hold w − η·m; after it they hold exactly their old bits. Each step
    needs such a block before it.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    momentum : float
        η, in [0, 1].
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
    Nesterov, "A method for solving the convex programming problem with convergence rate O(1/k²)", 1983. Sutskever et
    al., "On the importance of initialization and momentum in deep learning", 2013, eq. 3 and 4.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.NAG(w, lr=0.1, momentum=0.5)
    >>> for _ in range(2):
    ...     with opt.lookahead():
    ...         g = 2 * w  # of w², at the looked-ahead point
    ...     _ = opt.step(g)
    >>> w
    array([0.56])
    """

    looks_ahead = True
    slots: ClassVar[Mapping[str, str]] = {"m": "momentum_buffer", "saved": "lookahead_saved"}
    momentum: Hyper[Rate] = Hyper(hyper.proportion, default=0.9)

    @classmethod
    def rule(cls, h: Values) -> str:
        """The update is momentum's: what differs is where the gradient was taken."""
        return "momentum"

    @classmethod
    def _slots_of(cls, rule: str) -> tuple[str, ...]:
        return (*super()._slots_of(rule), "saved")

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """The learning rate stands with the gradient."""
        return {"tau": 1.0}, {"eta": h["momentum"], "alpha": 1.0}

    reference = staticmethod(SGD.reference)

    def lookahead(self) -> LookAhead:
        """Hold the looked-ahead parameters inside a ``with`` block, and restore their old bits after it.

        Returns
        -------
        context manager
            One to be entered once, for the next step.

        Raises
        ------
        RuntimeError
            When it is entered, if the optimizer is looking ahead already, or torn.
        """
        return LookAhead(self._bound(), self, "lookahead", "restore", lambda h: (h["momentum"],))
