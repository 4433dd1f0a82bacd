"""Adafactor: second moments of rows and columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import maximum, sum_in_lanes, sum_of_lines, sum_of_places

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    """Adafactor: of a matrix, it keeps the second moments of rows and columns instead of those of all elements.

    In update t = 1, 2, … of a matrix with rows i and columns j::

        rᵢ  ← rᵢ + t^γ·(meanⱼ(gᵢⱼ²) − rᵢ)
        cⱼ  ← cⱼ + t^γ·(meanᵢ(gᵢⱼ²) − cⱼ)
        uᵢⱼ = gᵢⱼ / √(rᵢ·cⱼ / mean(r))
        s   = min(α, 1 / √t)·max(ε₂, R(w))
        w   ← w − α·λ·w − s·u / max(1, R(u) / d)

    R is the root of the mean of squares over a parameter. Arrays with more than two axes are stacks of matrices along
    the first ones. For arrays with one axis or none, v is kept for each element, v ← v + t^γ·(g² − v), and u = g / √v.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        α ≥ 0, the most that a step may be in proportion to the parameter; or a schedule.
    beta2_decay : float
        γ ≤ 0.
    eps : (float or None, float)
        The least root of a second moment that is divided by, None for the machine epsilon of the parameters' type; and
        ε₂.
    d : float
        d ≥ 1: steps whose R(u) is above it are scaled down.
    weight_decay : float
        λ ≥ 0.
    maximize : bool
        Whether to ascend.
    nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask, state_memory
        Options of all optimizers, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place, or a hyper-parameter is out of range.

    Notes
    -----
    State is ``row_var`` and ``col_var`` of a matrix, ``variance`` of other arrays: of a matrix with 1000 rows and
    columns, 2000 numbers in place of a million. A step reads the gradients of a large matrix three times, since rows
    and columns must be known before u, and R(u) before the update. Besides, a matrix of more than 65,536 elements needs
    memory for sums, about 3 % of its own in float32.

    The sums have the same bits on every processor and for any number of threads, but depend on how a parameter lies in
    memory. t^γ is the C library's: its last bit may differ between systems.

    References
    ----------
    Shazeer & Stern, "Adafactor: Adaptive learning rates with sublinear memory cost", 2018, algorithm 4.
    `torch.optim.Adafactor`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.ones((2, 2))
    >>> opt = fastopt.Adafactor(w, lr=0.5)
    >>> opt.step(np.array([[1.0, 2.0], [-2.0, -4.0]]))  # all elements are as large as their rows and columns say
    True
    >>> w
    array([[0.5, 0.5],
           [1.5, 1.5]])
    """

    keeps_axes = True
    slots: ClassVar[Mapping[str, str]] = {"r": "row_var", "c": "col_var", "v": "variance"}
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-2, kw_only=False)
    beta2_decay: Hyper[float] = Hyper(hyper.at_most_0, default=-0.8)
    eps: Hyper[tuple[float | None, float]] = Hyper(hyper.floors, default=(None, 1e-3))
    d: Hyper[float] = Hyper(hyper.growth, default=1.0)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True, init=False)

    eps_in_kernels = False

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "adafactor"

    @classmethod
    def state_shape(cls, slot: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Rows and columns of a matrix, or all elements."""
        if len(shape) < 2:
            return shape if slot == "v" else None
        return {"r": (*shape[:-1], 1), "c": (*shape[:-2], 1, shape[-1]), "v": None}[slot]

    @classmethod
    def check_parameter(cls, name: str, array: Array) -> None:
        """Stacks of matrices are wanted in C order, where the elements of a matrix lie together."""
        if array.ndim > 2 and not array.flags.c_contiguous:
            raise ValueError(
                f"{name} has {array.ndim} axes in Fortran order: Adafactor wants more than two axes in C order"
            )

    @classmethod
    def scalars(cls, h: Values, t: Steps, lr: float) -> tuple[Scalars, Scalars]:
        """The learning rate is bounded by the step."""
        least, scale = h["eps"]
        return {}, {
            "rate": np.minimum(lr, 1.0 / np.sqrt(t)),
            "keep": np.float_power(t, h["beta2_decay"]),
            "eps1": -1.0 if least is None else least,
            "eps2": scale,
            "most": h["d"],
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of adafactor."""
        for state, moments in _moments(p, g, s, c):
            state[...] = moments
        return c["alpha"] * (g / np.sqrt(_floored(p, s, c)))  # type: ignore[no-any-return]

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """Squares of the parameter and of the update."""
        will_be = {slot: state.copy() for slot, state in s.items()}
        for state, moments in _moments(p, g, will_be, c):
            state[...] = moments
        return {
            "pp": np.square(p, dtype=np.float64),
            "uu": g * g / _floored(p, will_be, c),
        }

    @staticmethod
    def finish(rule: str, sums: Mapping[str, float], n: int, c: Mapping[str, float]) -> Mapping[str, float]:
        """The step in proportion to the parameter."""
        size, large = math.sqrt(sums["pp"] / n), math.sqrt(sums["uu"] / n) / c["most"]
        return {"alpha": c["rate"] * max(size, c["eps2"]) / max(large, 1.0)}


def _lines_and_places(p: Array, s: Mapping[str, Array]) -> tuple[Array, Array]:
    """The second moments of lines and of places of matrices as they lie in memory."""
    rows, columns = s["r"], s["c"]
    return (rows, columns) if rows.shape == (*p.shape[:-1], 1) else (columns, rows)


def _moments(p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> list[tuple[Array, Array]]:
    """Each state array with what it becomes."""
    if p.ndim < 2:
        return [(s["v"], s["v"] + c["keep"] * (g * g - s["v"]))]
    squares, keep = np.square(g, dtype=np.float64), c["keep"]
    lines, places = _lines_and_places(p, s)
    return [
        (lines, lines + keep * (sum_of_lines(squares) / p.shape[-1] - lines)),
        (places, places + keep * (sum_of_places(squares) / p.shape[-2] - places)),
    ]


def _floored(p: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
    """Second moments of all elements, none of them too small."""
    real = p.dtype.type
    information = np.finfo(real)
    eps = information.eps if c["eps1"] < 0 else c["eps1"]
    least = max(eps * eps, information.tiny)
    if p.ndim < 2:
        return maximum(s["v"], least)
    lines, places = _lines_and_places(p, s)
    count = p.shape[-2]
    mean = sum_in_lanes(lines.astype(np.float64).reshape(*p.shape[:-2], count))[..., None, None] / count
    shares = (lines / maximum(mean, float(eps))).astype(real)
    return maximum(shares * places, least)
