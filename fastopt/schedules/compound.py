"""Schedules made of schedules, and the one that is told how the run goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, SupportsFloat

import numpy as np

from .. import hyper
from .courses import Constant, one_more
from .formula import Formula, Schedule, count, listed, whole


def schedule_or_rate(name: str, value: Any) -> Any:
    """Check for a schedule; a number is a constant one."""
    return value if callable(value) else Constant(hyper.nonnegative(name, value))


@dataclass(frozen=True)
class Warmup(Formula, after=schedule_or_rate):
    """``after(0) * (start + (1 - start) * t / steps)`` for `steps` steps, then ``after(t - steps)``.

    torch's ``LinearLR(start_factor=start, total_iters=steps)``, chained with another. The `decay_steps` of optax's
    ``warmup_cosine_decay_schedule`` counts the warm-up as well. Hugging Face's schedules "with warmup" are such, but
    its ``cosine_with_min_lr``, which has steps from 1 in its warm-up.

    Parameters
    ----------
    steps : int
        Length of the warm-up, at least 0.
    after : callable or float
        The schedule that follows, which starts at its 0; a number is a constant rate and becomes a `Constant`.
    start : float
        Where it starts, as a part of ``after(0)``, at least 0.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> lr = Warmup(4, 1.0, start=0.5)
    >>> lr(0), lr(2), lr(4)
    (0.5, 0.75, 1.0)
    """

    steps: int
    after: Schedule | float
    start: float = 0.0

    def _rate(self, t: Any) -> Any:
        after: Any = self.after
        late = t - self.steps
        if isinstance(t, np.ndarray):
            if (late >= 0).all():
                return after(late)
            return np.where(late < 0, self._rising(t), after(np.maximum(late, 0)))
        return self._rising(t) if late < 0 else after(late)

    def _rising(self, t: Any) -> Any:
        after: Any = self.after
        return after(0) * (self.start * self.steps + (1.0 - self.start) * t) / self.steps


@dataclass(frozen=True)
class Join(Formula, schedules=listed(schedule_or_rate, "schedules")):
    """One schedule after the other: number n at ``t - milestones[n - 1]``, n being the number of milestones up to t.

    torch's ``SequentialLR``, optax's ``join_schedules``.

    Parameters
    ----------
    schedules : sequence of callable or float
        The schedules, one more than milestones; a number is a constant rate and becomes a `Constant`. Kept as a
        tuple. Each starts at its 0.
    milestones : sequence of int
        Step numbers in order, at which the next schedule begins. Kept as a tuple.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range, the milestones are not in order, or their number does not fit.

    Examples
    --------
    >>> from fastopt.schedules import LinearDecay
    >>> lr = Join([0.5, LinearDecay(1.0, total=4)], [3])
    >>> lr(2), lr(3), lr(5)
    (0.5, 1.0, 0.5)
    """

    schedules: Sequence[Schedule | float]
    milestones: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        one_more("schedules", self.schedules, self.milestones)

    def _rate(self, t: Any) -> Any:
        schedules: Any = self.schedules
        starts, number = [0, *self.milestones], count(self.milestones, t)
        if not isinstance(t, np.ndarray):
            return schedules[number](t - starts[number])
        rates = np.empty(t.shape)
        for i, (schedule, start) in enumerate(zip(schedules, starts, strict=True)):
            own = number == i
            if own.any():
                rates[own] = schedule(t[own] - start)
        return rates


@dataclass(frozen=True, init=False, repr=False)
class Product(Formula, schedules=listed(schedule_or_rate, "schedules")):
    """The product of schedules: ``Product(a, b)`` is ``a(t) * b(t)``. Give all but one of them the rate 1.

    torch's ``ChainedScheduler`` of several that multiply.

    Parameters
    ----------
    *schedules : callable or float
        The schedules, at least one; a number is a constant rate and becomes a `Constant`. Kept as a tuple.

    Raises
    ------
    TypeError, ValueError
        If there is none, or one is out of range.

    Examples
    --------
    >>> from fastopt.schedules import ExponentialDecay, Hold
    >>> lr = Product(Hold(1.0, 0.25, 3), ExponentialDecay(1.0, 0.5))
    >>> lr(0), lr(2), lr(3)
    (0.25, 0.0625, 0.125)
    """

    schedules: Sequence[Schedule | float]

    def __init__(self, *schedules: Schedule | float) -> None:
        object.__setattr__(self, "schedules", schedules)
        self.__post_init__()
        if not schedules:
            raise ValueError("schedules is (): wanted at least one schedule")

    def __repr__(self) -> str:
        return f"Product({', '.join(map(repr, self.schedules))})"

    def _rate(self, t: Any) -> Any:
        first, *others = self.schedules
        rate: Any = first(t)  # type: ignore[operator]
        for schedule in others:
            rate = rate * schedule(t)  # type: ignore[operator]
        return rate


def best_so_far(name: str, value: Any) -> float | None:
    """Check for a metric, which may be infinite but never NaN, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ValueError(f"{name} is {value!r}: wanted a number, or None")
    return float(value)


REPORTS = dict.fromkeys(["patience", "cooldown", "bad", "cool"], whole(0, " of reports"))


@dataclass(frozen=True)
class ReduceOnPlateau(
    Formula,
    factor=hyper.fraction,
    threshold=hyper.nonnegative,
    threshold_mode=hyper.choice("rel", "abs"),
    mode=hyper.choice("min", "max"),
    min_lr=hyper.nonnegative,
    eps=hyper.nonnegative,
    best=best_so_far,
    **REPORTS,
):
    """A learning rate that falls by `factor` when a metric has not become better for more than `patience` reports.

    Call `report` with the metric, after each epoch for example; the next step has the new rate. It is no function of
    t, and changes: it is equal by its numbers, and has no hash. A checkpoint has them, and a load puts them into the
    object that the optimizer holds. torch's ``ReduceLROnPlateau``.

    In each report, first: a metric m is better if ``m < best * (1 - threshold)``; with the mode ``"max"`` if
    ``m > best * (1 + threshold)``; with the threshold mode ``"abs"`` if ``m < best - threshold`` or
    ``m > best + threshold``. Then it is the best; if not, there is one more that is bad. NaN is never better. If the
    best is negative, ``"rel"`` compares the wrong way round, in torch as well; ``"abs"`` is safe. Second: while it
    cools down no report is bad. Third: with more than `patience` bad ones, the rate becomes
    ``max(lr * factor, min_lr)`` if that is less by more than `eps`; whether or not, it cools down for `cooldown`
    reports, and none is bad any more.

    Parameters
    ----------
    lr : float
        Learning rate, at least 0: at first the one to start with.
    factor : float
        What it is multiplied by, at least 0 and below 1.
    patience : int
        How many bad reports in a row leave the rate as it is.
    threshold : float
        By how much a metric must be better, at least 0.
    threshold_mode : {"rel", "abs"}
        Whether that is a part of the best metric.
    mode : {"min", "max"}
        Whether less or more is better.
    cooldown : int
        For how many reports after a fall none is bad.
    min_lr : float
        What the rate does not fall below, at least 0.
    eps : float
        The least fall, at least 0.
    best, bad, cool
        Where it stands: the best metric, None before there is one; bad reports since; reports still to cool down.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> lr = ReduceOnPlateau(1.0, factor=0.5, patience=1)
    >>> [lr.report(loss) for loss in (3.0, 2.0, 2.0, 2.0)]
    [1.0, 1.0, 1.0, 0.5]
    >>> lr(100)
    0.5
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    mode: str = "min"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    best: float | None = field(default=None, kw_only=True)
    bad: int = field(default=0, kw_only=True)
    cool: int = field(default=0, kw_only=True)

    __hash__ = None  # type: ignore[assignment]

    def _rate(self, t: Any) -> Any:
        return np.full(t.shape, self.lr) if isinstance(t, np.ndarray) else self.lr

    def report(self, metric: SupportsFloat) -> float:
        """Say how good the model is now.

        Parameters
        ----------
        metric : float
            The metric; also an array or tensor of one number.

        Returns
        -------
        float
            The learning rate of the next step.

        Raises
        ------
        TypeError
            If the metric is no number.
        """
        m = _metric(metric)
        lr, best, bad, cool = self.lr, self.best, self.bad, self.cool
        if self._better(m, best):
            best, bad = m, 0
        else:
            bad += 1
        if cool > 0:
            cool, bad = cool - 1, 0
        if bad > self.patience:
            new = max(lr * self.factor, self.min_lr)
            lr, bad, cool = new if lr - new > self.eps else lr, 0, self.cooldown
        vars(self).update(lr=lr, best=best, bad=bad, cool=cool)  # in one piece, whatever else is running
        return lr

    def _better(self, m: float, best: float | None) -> bool:
        if best is None:
            best = math.inf if self.mode == "min" else -math.inf
        if self.mode == "min":
            return m < (best * (1.0 - self.threshold) if self.threshold_mode == "rel" else best - self.threshold)
        return m > (best * (1.0 + self.threshold) if self.threshold_mode == "rel" else best + self.threshold)

    def __getstate__(self) -> dict[str, Any]:
        return numbers_of(self)


def _metric(value: Any) -> float:
    wrong = TypeError(f"metric is {value!r}, a {type(value).__name__}: wanted a number")
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise wrong
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        raise wrong from None


def numbers_of(schedule: Any) -> dict[str, Any]:
    """The fields of a schedule by name, all of one moment."""
    values = vars(schedule).copy()  # nothing can come between
    return {one.name: values[one.name] for one in fields(schedule)}
