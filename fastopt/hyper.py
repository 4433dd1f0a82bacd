"""Checks of hyper-parameters: each takes the name and value as given, and returns the value in its normal form.

A class lists the checks of its hyper-parameters by name; they run when an optimizer is made, and again in the first
step after a live value changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

__all__ = ["Check", "betas", "choice", "flag", "fraction", "learning_rate", "nonnegative", "positive", "proportion"]

Check = Callable[[str, Any], Any]


def _number(name: str, value: Any, wanted: str, low: float, high: float, *, open_low: bool, open_high: bool) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: wanted {wanted}")
    try:
        number = float(value)
    except OverflowError:  # of a long integer
        number = math.inf
    inside = (low < number if open_low else low <= number) and (number < high if open_high else number <= high)
    if not (math.isfinite(number) and inside):
        raise ValueError(f"{name} is {value!r}: wanted {wanted}")
    return number


def nonnegative(name: str, value: Any) -> float:
    """Check for a finite number of at least 0."""
    return _number(name, value, "a finite number of at least 0", 0, math.inf, open_low=False, open_high=True)


def positive(name: str, value: Any) -> float:
    """Check for a finite number above 0."""
    return _number(name, value, "a finite number above 0", 0, math.inf, open_low=True, open_high=True)


def fraction(name: str, value: Any) -> float:
    """Check for a number in [0, 1): what decays by it dies out."""
    return _number(name, value, "a number of at least 0 and below 1", 0, 1, open_low=False, open_high=True)


def proportion(name: str, value: Any) -> float:
    """Check for a number in [0, 1]."""
    return _number(name, value, "a number from 0 to 1", 0, 1, open_low=False, open_high=False)


def betas(name: str, value: Any) -> tuple[float, float]:
    """Check for two numbers in [0, 1)."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} is {value!r}: wanted two numbers")
    return fraction(f"{name}[0]", value[0]), fraction(f"{name}[1]", value[1])


def flag(name: str, value: Any) -> bool:
    """Check for True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: wanted True or False")
    return bool(value)


def learning_rate(name: str, value: Any) -> Any:
    """Check for a finite number of at least 0, or a schedule: a callable of the number of steps taken."""
    if type(value) is float and 0.0 <= value < math.inf:  # at once: a rate may be set in each step
        return value
    return value if callable(value) else nonnegative(name, value)


def choice(*choices: str) -> Check:
    """Return a check for one of these words."""

    def check(name: str, value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{name} is {value!r}: wanted one of {', '.join(map(repr, choices))}")
        return str(value)

    return check
