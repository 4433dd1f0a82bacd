"""The words of src_c/rule.h in NumPy, with the same bits: for the twins of rules.

NumPy's own functions treat a NaN or the sign of 0 otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["absolute", "clamp", "cube_root", "maximum", "sign"]

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


_CUBE_ROOT = {4: (np.uint32, 709921077, 2), 8: (np.uint64, 0x2A9F7893782DA1CE, 3)}  # bits, bias, steps by itemsize


def cube_root(x: Array) -> Array:
    """CBRT: the cube root of x, at least 0."""
    bits, bias, steps = _CUBE_ROOT[x.itemsize]
    start = np.ascontiguousarray(x).view(bits)
    third = (start >> bits(2)) + (start >> bits(4))
    for shift in (4, 8, 16, 32)[: 2 + x.itemsize // 4]:
        third = third + (third >> bits(shift))
    y = (third + bits(bias)).view(x.dtype)
    two = x.dtype.type(2)
    for _ in range(steps):
        cube = y * y * y
        y = y * ((cube + two * x) / (two * cube + x))
    return np.where(x == 0, x, y)
