"""The words of src_c/rule.h in NumPy, with the same bits: for the twins of rules.

NumPy's own functions treat a NaN or the sign of 0 otherwise, and `np.where` (of NumPy 2.4) and `np.cumsum` (of 2.2)
can crash where memory runs out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "absolute",
    "against",
    "agreeing",
    "clamp",
    "cube_root",
    "lane_sum",
    "maximum",
    "sign",
    "sum_in_lanes",
    "sum_of_lines",
    "sum_of_places",
]

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


def maximum(a: Array, b: Any) -> Array:
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


def against(x: Array, y: Array) -> Array:
    """AGAINST: whether x and y have other signs, or one of them is 0."""
    return sign(x) * y <= 0


def agreeing(x: Array, y: Array) -> Array:
    """AGREEING: x, and 0 where it is against y."""
    found = x.copy()
    np.copyto(found, 0, where=against(x, y))
    return found


def sum_in_lanes(x: Array) -> Array:
    """Sums along the last axis: those of every 32nd element, and these in order."""
    return _in_order(_in_order(_lanes(x), -2), -1)


def _lanes(x: Array) -> Array:
    padded = np.zeros((*x.shape[:-1], -(-x.shape[-1] // 32) * 32))
    padded[..., : x.shape[-1]] = x
    return padded.reshape(*x.shape[:-1], -1, 32)


def _in_order(x: Array, axis: int) -> Array:
    """Sums along an axis, one after the other."""
    return np.add.accumulate(x, axis).take(-1, axis)  # type: ignore[no-any-return]


# How matrices are divided, see engine/factored.pyx.
_STRIP, _CELL = 1024, 65536


def _block(length: int) -> int:
    return max(64, _CELL // length)


def sum_of_lines(x: Array) -> Array:
    """The sum of each line of matrices: the parts of 1024 elements in lanes."""
    parts = [sum_in_lanes(x[..., begin : begin + _STRIP]) for begin in range(0, x.shape[-1], _STRIP)]
    return _in_order(np.stack(parts), 0)[..., None]


def sum_of_places(x: Array) -> Array:
    """The sum over all lines of matrices, by place: block by block of them."""
    block = _block(x.shape[-1])
    parts = [_in_order(x[..., begin : begin + block, :], -2) for begin in range(0, x.shape[-2], block)]
    return _in_order(np.stack(parts), 0)[..., None, :]


def _sum_of_matrices(x: Array) -> float:
    """The sum of all elements, cell by cell."""
    lines, length = x.shape[-2:]
    block = _block(length)
    cells = [
        _lanes(matrix[line : line + block, place : place + _STRIP]).reshape(-1, 32)
        for matrix in x.reshape(-1, lines, length)
        for line in range(0, lines, block)
        for place in range(0, length, _STRIP)
    ]
    group = max(1, _CELL // (min(lines, block) * min(length, _STRIP)))
    total = 0.0
    for begin in range(0, len(cells), group):
        total += float(_in_order(_in_order(np.concatenate(cells[begin : begin + group]), 0), 0))
    return total


def lane_sum(x: Array) -> float:
    """The sum of all elements, added in double as SUMS does: in lanes, tile by tile, chunk by chunk."""
    if x.ndim > 1:
        return _sum_of_matrices(x)
    total = 0.0
    for chunk in range(0, x.size, 4096):
        of_chunk = 0.0
        for tile in range(chunk, min(chunk + 4096, x.size), 1024):
            part = x[tile : min(tile + 1024, chunk + 4096)].astype(np.float64)
            of_chunk += float(sum_in_lanes(part))
        total += of_chunk
    return total


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
    np.copyto(y, x, where=x == 0)
    return y  # type: ignore[no-any-return]
