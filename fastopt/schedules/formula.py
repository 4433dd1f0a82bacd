"""What formulas are written in: each means the same for one step number and for an array of them, to the last bit.

Arithmetic, roots and comparisons are exact or rounded once, here and in NumPy. Powers and cosines are those of the C
library in both forms: from one C library to another they may differ in their last bits.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any, ClassVar, overload

import numpy as np
import numpy.typing as npt

from .. import hyper
from ..engine import numbers

Schedule = Callable[[int], float]
Steps = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float64]


# ---- one number or an array of them ----


def either(condition: Any, one: Any, other: Any) -> Any:
    """Choose where a condition holds."""
    return np.where(condition, one, other) if isinstance(condition, np.ndarray) else one if condition else other


def least(x: Any, bound: float) -> Any:
    """The number, or a bound it is not to be above."""
    return np.minimum(x, bound) if isinstance(x, np.ndarray) else min(x, bound)


def most(x: Any, bound: float) -> Any:
    """The number, or a bound it is not to be below."""
    return np.maximum(x, bound) if isinstance(x, np.ndarray) else max(x, bound)


def root(x: Any) -> Any:
    """The square root."""
    return np.sqrt(x) if isinstance(x, np.ndarray) else math.sqrt(x)


def half_cosine(x: Any) -> Any:
    """Half a cosine: 1 at 0, 0 at 1."""
    x = math.pi * x
    return 0.5 * (1.0 + (numbers.cosines(x) if isinstance(x, np.ndarray) else math.cos(x)))


def power(base: float, exponent: Any) -> Any:
    """``base ** exponent``; infinity where it is past all numbers."""
    if isinstance(exponent, np.ndarray):
        return numbers.powers(base, exponent)
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def grown(lr: float, factor: float, exponent: Any) -> Any:
    """``lr * factor ** exponent``; 0 stays 0, even where the power is past all numbers."""
    return lr * power(factor if lr else 1.0, exponent)


def raised(base: Any, exponent: float) -> Any:
    """A proportion to a power; to the first power it is itself."""
    if exponent == 1.0:
        return base
    if isinstance(base, np.ndarray):  # NumPy's powers differ from Python's in their last bits
        return np.array([x**exponent for x in base.ravel().tolist()], np.float64).reshape(base.shape)
    return base**exponent


def between(one: Any, other: Any, left: Any) -> Any:
    """From `one`, where all is left, to `other`, where nothing is; exactly these there."""
    return one * left + other * (1.0 - left)


def count(milestones: Sequence[int], t: Any) -> Any:
    """How many milestones lie at t or before it; they are in order."""
    if isinstance(t, np.ndarray):
        return np.searchsorted(np.array(milestones, np.int64), t, side="right")
    return bisect_right(milestones, t)


def pick(values: Sequence[float], index: Any) -> Any:
    """The value of each index."""
    return np.array(values)[index] if isinstance(index, np.ndarray) else values[index]


# ---- checks of fields ----


def whole(at_least: int, of: str = " of steps") -> hyper.Check:
    """Return a check for a whole number, of steps or of what is said."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < at_least:
            raise ValueError(f"{name} is {value!r}: wanted a whole number{of} of at least {at_least}")
        if int(value) >= 2**63:
            raise ValueError(f"{name} is {value!r}: wanted a number{of} below 2**63")
        return int(value)

    return check


def listed(check: hyper.Check, wanted: str) -> hyper.Check:
    """Return a check for a list of what another check wants; its normal form is a tuple."""

    def check_all(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple, range, np.ndarray)):
            raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: wanted a list of {wanted}")
        return tuple(check(f"{name}[{i}]", one) for i, one in enumerate(value))

    return check_all


def in_order(name: str, value: Any) -> tuple[int, ...]:
    """Check for step numbers in order."""
    steps: tuple[int, ...] = listed(whole(0), "step numbers")(name, value)
    if list(steps) != sorted(steps):
        raise ValueError(f"{name} is {value!r}: wanted step numbers in order, the first one first")
    return steps


CHECKS: dict[str, hyper.Check] = {
    **dict.fromkeys(["lr", "final", "factor", "rate", "start", "low", "high", "gamma", "scale"], hyper.nonnegative),
    **dict.fromkeys(["exponent", "power", "width", "div_factor", "final_div_factor"], hyper.positive),
    **dict.fromkeys(["total", "every", "period", "up"], whole(1)),
    **dict.fromkeys(["steps", "begin", "warmup", "stable"], whole(0)),
    **dict.fromkeys(["staircase", "periodic", "three_phase"], hyper.flag),
    "rates": listed(hyper.nonnegative, "rates"),
    "milestones": in_order,
}


class Formula:
    """What schedules have in common; `_rate` gives the learning rate after t steps, t a number or an array."""

    _checks: ClassVar[dict[str, hyper.Check]] = CHECKS

    def __init_subclass__(cls, **checks: hyper.Check) -> None:
        """Take checks of fields that are other ones than those above."""
        cls._checks = {**cls._checks, **checks}

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            if field.name in self._checks:  # but not what a user's class adds
                value = self._checks[field.name](field.name, getattr(self, field.name))
                object.__setattr__(self, field.name, value)

    def _rate(self, t: Any) -> Any:
        raise NotImplementedError

    @overload
    def __call__(self, t: int) -> float: ...
    @overload
    def __call__(self, t: Steps) -> Rates: ...
    def __call__(self, t: Any) -> Any:
        """Return the learning rate after t steps; for an array of step numbers, an array."""
        if not isinstance(t, np.ndarray):
            return self._rate(t)
        with np.errstate(all="ignore"):  # as for Python's numbers, and of steps that may never come
            return self._rate(t)
