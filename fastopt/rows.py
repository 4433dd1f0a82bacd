"""`Rows`: a gradient of some rows of a parameter. What a step makes of it is in engine/rows.pyx."""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["Rows"]


class Rows:
    """Gradients of some rows of a parameter, along its first axis: an embedding table's, say.

    A step updates the rows that are named, and leaves the others as they are, with their state and their counts of
    updates, as if the table were a list of its rows, and those that are not named had no gradient.

    Parameters
    ----------
    indices : array of int32 or int64, shape (n,)
        The rows, in any order. The gradients of one that is named more than once are added up, in their order.
    values : array, shape (n, ...)
        Their gradients, of the parameter's dtype.
    counts : {"row", "table"}
        What t is in an optimizer's formula: the number of updates of each row, or that of the steps in which the table
        has had a gradient, as torch counts.

    Raises
    ------
    ValueError
        If `counts` is something else. What else is wrong is found in the step.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> table = np.zeros((4, 2))
    >>> opt = fastopt.SGD(table, lr=0.5)
    >>> opt.step(fastopt.Rows(np.array([2, 0, 2]), np.ones((3, 2))))
    True
    >>> table
    array([[-0.5, -0.5],
           [ 0. ,  0. ],
           [-1. , -1. ],
           [ 0. ,  0. ]])
    """

    __slots__ = ("counts", "indices", "values")

    def __init__(self, indices: Any, values: Any, *, counts: Literal["row", "table"] = "row") -> None:
        if counts not in ("row", "table"):
            raise ValueError(f"counts is {counts!r}: wanted 'row' or 'table'")
        self.indices = indices
        self.values = values
        self.counts = counts

    def __repr__(self) -> str:
        counts = "" if self.counts == "row" else f", counts={self.counts!r}"
        return f"Rows({self.indices!r}, {self.values!r}{counts})"
