"""The words of src_c/rule.h in NumPy, with the same bits: for the twins of rules.

NumPy's own functions treat a NaN or the sign of 0 otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["absolute", "clamp", "maximum", "sign"]

Array = npt.NDArray[Any]


def sign(x: Array) -> Array:
    """SIGN: 1, -1, or x where it is 0 or NaN."""
    one, minus_one = x.dtype.type(1), x.dtype.type(-1)  # where memory ends, NumPy crashes on the sign of a scalar
    return np.where(x > 0, one, np.where(x < 0, minus_one, x))


def absolute(x: Array) -> Array:
    """ABS: -x where x is below 0."""
    return np.where(x < 0, -x, x)


def maximum(a: Array, b: Array) -> Array:
    """MAX: b where a is at most b, else a, which may be a NaN."""
    return np.where(a <= b, b, a)


def clamp(x: Array, low: Any, high: Any) -> Array:
    """CLAMP: x between low and high, each a number or an array; a NaN stays."""
    low, high = (np.asarray(limit, x.dtype) for limit in (low, high))
    return np.where(x < low, low, np.where(x > high, high, x))
