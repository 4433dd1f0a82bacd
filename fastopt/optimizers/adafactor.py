"""Adafactor: second moments of rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    r"""Adafactor: of a matrix, it keeps the second moments of rows and columns instead of those of all elements.

    .. math::
        r_i &\leftarrow r_i + t^\gamma (\mathrm{mean}_j\, g_{ij}^2 - r_i), \qquad
        c_j \leftarrow c_j + t^\gamma (\mathrm{mean}_i\, g_{ij}^2 - c_j)\\
        u_{ij} &= g_{ij} \big/ \sqrt{r_i c_j / \mathrm{mean}(r)}\\
        w &\leftarrow w - \alpha \lambda w - \min(\alpha, 1 / \sqrt t) \max(\epsilon_2, R(w)) \,
            u \,/ \max(1, R(u) / d)

    where R is the root of the mean of squares over a parameter, and t = 1, 2, … is the number of updates it has had.
    Arrays with more than two axes are stacks of matrices along the first ones. For arrays with one axis or none, v is
    kept for each element, :math:`v \leftarrow v + t^\gamma (g^2 - v)`, and :math:`u = g / \sqrt v`.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        :math:`\alpha \geq 0`, the most that a step may be in proportion to the parameter; or a schedule.
    beta2_decay : float
        :math:`\gamma \leq 0`.
    eps : (float or None, float)
        The least root of a second moment that is divided by, None for the machine epsilon of the parameters' type; and
        :math:`\epsilon_2`.
    d : float
        :math:`d \geq 1`: steps whose R(u) is above it are scaled down.
    weight_decay : float
        :math:`\lambda \geq 0`.
    maximize : bool
        Whether to ascend.
    nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask
        Options of all optimizers, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place, or a hyper-parameter is out of range.

    Notes
    -----
    State is ``row_var`` and ``col_var`` of a matrix, ``variance`` of other arrays. NumPy does the arithmetic, so that a
    step takes memory for some arrays of a parameter's size, and is slower than those of other optimizers.

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

    slots: ClassVar[Mapping[str, str]] = {"r": "row_var", "c": "col_var", "v": "variance"}
    in_numpy = True
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
    def scalars(cls, h: Values, t: Steps, lr: float) -> tuple[Scalars, Scalars]:
        """The learning rate is bounded by the step."""
        least, scale = h["eps"]
        return {"lr": 1.0}, {
            "rate": np.minimum(lr, 1.0 / np.sqrt(t)),
            "keep": np.float_power(t, h["beta2_decay"]),
            "eps1": -1.0 if least is None else least,
            "eps2": scale,
            "most": h["d"],
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """The step itself; means are taken in double."""
        least = np.finfo(p.dtype).eps if c["eps1"] < 0 else c["eps1"]
        squares = np.square(g, dtype=np.float64)
        if p.ndim < 2:
            v = s["v"]
            v[...] = v + c["keep"] * (squares - v)
        else:
            rows, columns = s["r"], s["c"]
            rows[...] = rows + c["keep"] * (squares.mean(axis=-1, keepdims=True) - rows)
            columns[...] = columns + c["keep"] * (squares.mean(axis=-2, keepdims=True) - columns)
            mean = rows.mean(axis=-2, keepdims=True, dtype=np.float64)
            v = (rows * columns / np.maximum(mean, least)).astype(p.dtype)
        u = g / np.sqrt(np.maximum(v, p.dtype.type(least) ** 2))
        size = max(float(c["eps2"]), float(np.sqrt(np.square(p, dtype=np.float64).mean())))
        clipped = max(1.0, float(np.sqrt(np.square(u, dtype=np.float64).mean())) / float(c["most"]))
        return p.dtype.type(float(c["rate"]) * size / clipped) * u  # type: ignore[no-any-return]
