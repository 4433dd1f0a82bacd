"""The words of src_c/rule.h in NumPy, with the same bits: for the twins of rules.

NumPy's own functions treat a NaN or the sign of 0 otherwise, and `np.where` (of NumPy 2.4) can crash where memory runs
out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["absolute", "clamp", "maximum", "sign"]

Array = npt.NDArray[Any]


def sign(x: Array) -> Array:
    """SIGN: 1, -1, or x where it is 0 or NaN."""
    found = x.copy()
    np.copyto(found, 1, where=x > 0)
    np.copyto(found, -1, where=x < 0)
    return found


def absolute(x: Array) -> Array:
    """ABS: -x where x is below 0."""
    found = x.copy()
    np.copyto(found, -x, where=x < 0)
    return found


def maximum(a: Array, b: Array) -> Array:
    """MAX: b where a is at most b, else a, which may be a NaN."""
    found = a.copy()
    np.copyto(found, b, where=a <= b)
    return found


def clamp(x: Array, low: Any, high: Any) -> Array:
    """CLAMP: x between low and high, each a number or an array; a NaN stays."""
    low, high = (np.asarray(limit, x.dtype) for limit in (low, high))
    found = x.copy()
    np.copyto(found, high, where=x > high)
    np.copyto(found, low, where=x < low)
    return found
