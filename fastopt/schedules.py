"""Learning-rate schedules: pure functions of the number of steps taken so far.

Any callable of an integer that returns a finite number of at least 0 will do as ``lr``. These are the usual ones, as
frozen dataclasses: they compare, print and pickle as what they are. A schedule does not know the optimizer, and an
optimizer that resumes at step t resumes its schedule there.

These take an array of step numbers as well, and give the same bits then: an optimizer asks for many steps at once. Of
any other callable, classes made of these included, it asks step by step.

Examples
--------
>>> from fastopt.schedules import CosineDecay, Warmup
>>> lr = Warmup(100, CosineDecay(1e-3, total=900))
>>> lr(0), lr(50), lr(100), lr(1000)
(0.0, 0.0005, 0.001, 0.0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import cos, inf, pi
from numbers import Integral
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from . import hyper
from .engine import numbers

__all__ = ["Constant", "CosineDecay", "ExponentialDecay", "LinearDecay", "Schedule", "StepDecay", "Warmup"]

Schedule = Callable[[int], float]
Steps = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float64]


def takes_arrays(schedule: Any) -> bool:
    """Whether a schedule is one of these and can be asked for many steps at once.

    One of a class that a user has made of these is not, whatever it changes: its formula may be for one number only.
    """
    while type(schedule) is Warmup:
        schedule = schedule.after
    return type(schedule) in _KINDS.values()


def described(schedule: Any) -> dict[str, Any] | None:
    """Return one of these as names and numbers, or None if it is another callable, or made of one."""
    if type(schedule) not in _KINDS.values():
        return None
    values = {field.name: getattr(schedule, field.name) for field in fields(schedule)}
    plain = {name: described(value) if callable(value) else value for name, value in values.items()}
    return None if None in plain.values() else {"schedule": type(schedule).__name__, **plain}


def restored(description: Any) -> Any:
    """Return the schedule that `described` described.

    Raises
    ------
    TypeError, ValueError
        If there is none like it.
    """
    values = dict(description)
    kind = values.pop("schedule", None)
    names = {field.name for field in fields(_KINDS[kind])} if kind in _KINDS else set()
    if values.keys() != names or kind not in _KINDS:
        raise ValueError(f"there is no schedule {description!r}")
    return _KINDS[kind](
        **{name: restored(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    )


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is {value!r}: wanted a whole number of steps of at least 1")
    if int(value) >= 2**63:
        raise ValueError(f"{name} is {value!r}: wanted a number of steps below 2**63")
    return int(value)


def _schedule(name: str, value: Any) -> Any:
    """A schedule; a number is a constant one."""
    return value if callable(value) else Constant(hyper.nonnegative(name, value))


_CHECKS: dict[str, hyper.Check] = {
    **dict.fromkeys(["lr", "final", "factor"], hyper.nonnegative),
    **dict.fromkeys(["total", "every", "steps"], _whole),
    "after": _schedule,
}


def _cos(x: Any) -> Any:
    return numbers.cosines(x) if isinstance(x, np.ndarray) else cos(x)


def _power(base: float, exponent: Any) -> Any:
    if isinstance(exponent, np.ndarray):
        return numbers.powers(base, exponent)
    try:
        return base**exponent
    except OverflowError:
        return inf


def _grown(lr: float, factor: float, exponent: Any) -> Any:
    """``lr * factor ** exponent``; 0 stays 0, even where the power is past all numbers."""
    return lr * _power(factor if lr else 1.0, exponent)


def _either(condition: Any, one: Any, other: Any) -> Any:
    return np.where(condition, one, other) if isinstance(condition, np.ndarray) else one if condition else other


class _Formula:
    """What these have in common; `_rate` gives the learning rate after t steps, t a number or an array."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, _CHECKS[field.name](field.name, getattr(self, field.name)))

    def _rate(self, t: Any) -> Any:
        raise NotImplementedError

    @overload
    def __call__(self, t: int) -> float: ...
    @overload
    def __call__(self, t: Steps) -> Rates: ...
    def __call__(self, t: Any) -> Any:
        """Return the learning rate after t steps; for an array of step numbers, an array."""
        return self._rate(t)


@dataclass(frozen=True)
class Constant(_Formula):
    """Always `lr`: what `Warmup` leads up to if it is given a number."""

    lr: float

    def _rate(self, t: Any) -> Any:
        return np.full(t.shape, self.lr) if isinstance(t, np.ndarray) else self.lr


@dataclass(frozen=True)
class StepDecay(_Formula):
    """``lr * factor ** (t // every)``: constant for `every` steps, then `factor` times that."""

    lr: float
    every: int
    factor: float = 0.1

    def _rate(self, t: Any) -> Any:
        return _grown(self.lr, self.factor, t // self.every)


@dataclass(frozen=True)
class ExponentialDecay(_Formula):
    """``lr * factor ** (t / every)``: falls by `factor` in every `every` steps."""

    lr: float
    factor: float
    every: int = 1

    def _rate(self, t: Any) -> Any:
        return _grown(self.lr, self.factor, t / self.every)


@dataclass(frozen=True)
class LinearDecay(_Formula):
    """A straight line from `lr` to `final` in `total` steps, `final` from there on."""

    lr: float
    total: int
    final: float = 0.0

    def _rate(self, t: Any) -> Any:
        return _either(t < self.total, self.lr + (self.final - self.lr) * (t / self.total), self.final)


@dataclass(frozen=True)
class CosineDecay(_Formula):
    """Half a cosine from `lr` to `final` in `total` steps, `final` from there on (Loshchilov & Hutter 2017, eq. 5)."""

    lr: float
    total: int
    final: float = 0.0

    def _rate(self, t: Any) -> Any:
        left = 0.5 * (1.0 + _cos(pi * (t / self.total)))
        return _either(t < self.total, self.lr * left + self.final * (1.0 - left), self.final)


@dataclass(frozen=True)
class Warmup(_Formula):
    """A straight line from 0 to ``after(0)`` in `steps` steps, then the schedule `after`, which starts at its 0.

    A number as `after` is a constant rate: it becomes a `Constant`.
    """

    steps: int
    after: Schedule | float

    def _rate(self, t: Any) -> Any:
        after: Any = self.after
        late = t - self.steps
        if isinstance(t, np.ndarray):
            if (late >= 0).all():
                return after(late)
            return np.where(late < 0, after(0) * t / self.steps, after(np.maximum(late, 0)))
        return after(0) * t / self.steps if late < 0 else after(late)


_KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (Constant, StepDecay, ExponentialDecay, LinearDecay, CosineDecay, Warmup)
}
