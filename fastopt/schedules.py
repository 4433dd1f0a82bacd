"""Learning-rate schedules: pure functions of the number of steps taken so far.

Any callable of an integer that returns a finite number of at least 0 will do as ``lr``. These are the usual ones, as
frozen dataclasses: they compare, print and pickle as what they are. A schedule does not know the optimizer, and an
optimizer that resumes at step t resumes its schedule there.

Examples
--------
>>> from fastopt.schedules import CosineDecay, Warmup
>>> lr = Warmup(100, CosineDecay(1e-3, total=900))
>>> lr(0), lr(50), lr(100), lr(1000)
(0.0, 0.0005, 0.001, 0.0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from numbers import Integral
from typing import Any

from . import hyper

__all__ = ["CosineDecay", "ExponentialDecay", "LinearDecay", "Schedule", "StepDecay", "Warmup"]

Schedule = Callable[[int], float]


def _check_steps(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is {value!r}: wanted a whole number of steps of at least 1")


@dataclass(frozen=True)
class StepDecay:
    """``lr * factor ** (t // every)``: constant for `every` steps, then `factor` times that."""

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        hyper.nonnegative("lr", self.lr)
        hyper.nonnegative("factor", self.factor)
        _check_steps("every", self.every)

    def __call__(self, t: int) -> float:
        """Return the learning rate after t steps."""
        return self.lr * self.factor ** (t // self.every)


@dataclass(frozen=True)
class ExponentialDecay:
    """``lr * factor ** (t / every)``: falls by `factor` in every `every` steps."""

    lr: float
    factor: float
    every: int = 1

    def __post_init__(self) -> None:
        hyper.nonnegative("lr", self.lr)
        hyper.nonnegative("factor", self.factor)
        _check_steps("every", self.every)

    def __call__(self, t: int) -> float:
        """Return the learning rate after t steps."""
        return float(self.lr * self.factor ** (t / self.every))


@dataclass(frozen=True)
class LinearDecay:
    """A straight line from `lr` to `final` in `total` steps, `final` from there on."""

    lr: float
    total: int
    final: float = 0.0

    def __post_init__(self) -> None:
        hyper.nonnegative("lr", self.lr)
        hyper.nonnegative("final", self.final)
        _check_steps("total", self.total)

    def __call__(self, t: int) -> float:
        """Return the learning rate after t steps."""
        return self.lr + (self.final - self.lr) * (t / self.total) if t < self.total else self.final


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from `lr` to `final` in `total` steps, `final` from there on (Loshchilov & Hutter 2017, eq. 5)."""

    lr: float
    total: int
    final: float = 0.0

    def __post_init__(self) -> None:
        hyper.nonnegative("lr", self.lr)
        hyper.nonnegative("final", self.final)
        _check_steps("total", self.total)

    def __call__(self, t: int) -> float:
        """Return the learning rate after t steps."""
        if t >= self.total:
            return self.final
        left = 0.5 * (1.0 + cos(pi * (t / self.total)))
        return self.lr * left + self.final * (1.0 - left)


@dataclass(frozen=True)
class Warmup:
    """A straight line from 0 to ``after(0)`` in `steps` steps, then the schedule `after`, which starts at its 0."""

    steps: int
    after: Schedule

    def __post_init__(self) -> None:
        _check_steps("steps", self.steps)
        if not callable(self.after):
            raise TypeError(f"after is {self.after!r}: wanted a schedule")

    def __call__(self, t: int) -> float:
        """Return the learning rate after t steps."""
        return self.after(0) * t / self.steps if t < self.steps else self.after(t - self.steps)
