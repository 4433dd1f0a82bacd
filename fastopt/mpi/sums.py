"""Sums of all gradients, on every rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..interrupts import held
from ..tree import Tree
from .messages import (
    BUFFER,
    Array,
    Reduce,
    add_up,
    as_bytes,
    cut,
    filled,
    laid,
    message,
    message_size,
    most_bytes,
    reduction,
)
from .ranks import together

__all__ = ["sum_gradients"]


def sum_gradients(grads: Any, comm: Any, *, reduce: Reduce = "sum") -> Any:
    """Return the sum of all ranks' gradients, on every rank with the same bits: for models that are small.

    Every rank then takes the same step with an optimizer of its own. Each keeps the whole state, and receives the
    gradients of all others: where that is too much, use `Sharded`. The order of additions is the same as there.

    Parameters
    ----------
    grads : array, list, tuple or dict
        float32 or float64 arrays, nested as you like, or None in their place: of the same structure on all ranks.
    comm : mpi4py.MPI.Comm
        The ranks.
    reduce : {"sum", "mean"}
        Whether to divide the sum by the number of ranks.

    Returns
    -------
    array, list or dict
        New arrays in the structure of `grads`; what was a tuple is a list.

    Raises
    ------
    Disagreement
        If another rank's gradients have another structure, or it failed.
    TypeError
        If a gradient is no float32 or float64 array.

    Examples
    --------
    >>> import fastopt, fastopt.mpi, numpy as np
    >>> from mpi4py import MPI
    >>> w = np.zeros(2)
    >>> opt = fastopt.SGD(w, lr=0.5)
    >>> opt.step(fastopt.mpi.sum_gradients(np.array([1.0, 2.0]), MPI.COMM_SELF))
    True
    """
    arrays: list[Array] = []
    sums: list[Array | None] = []
    most = most_bytes(BUFFER, comm.size + 1)
    room = taken = np.empty(0, np.uint8)

    def prepare() -> dict[str, bytes]:
        nonlocal room, taken
        tree = Tree(grads)
        for name, x in zip(tree.gradient_names, tree.leaves, strict=True):
            array = None if x is None else np.asarray(x)
            if array is not None and array.dtype not in (np.float32, np.float64):
                raise TypeError(f"{name} has dtype {array.dtype}: wanted float32 or float64")
            sums.append(None if array is None else np.empty(array.shape, array.dtype))
            if array is not None:
                arrays.append(array.ravel())
        room, taken = np.empty(most, np.uint8), np.empty(comm.size * most, np.uint8)
        specs = [None if x is None else (x.shape, x.dtype.str) for x in sums]
        described = repr((tree.gradient_names, specs)).encode()
        return {"gradients": described, "reduction": reduction("reduce", reduce).encode()}

    with held():
        together(comm, "sum_gradients()", prepare)
        out = [x.reshape(-1) for x in sums if x is not None]
        for parts in cut(((leaf, 0, x.size) for leaf, x in enumerate(out)), [x.itemsize for x in out], most):
            size = message_size(parts, out)
            comm.Allgather(as_bytes(message(room, parts, arrays, out)), as_bytes(taken[: comm.size * size]))
            received = [laid(taken[rank * size :], parts, out) for rank in range(comm.size)]
            add_up(received, 0, [out[leaf][start:stop] for leaf, start, stop in parts], reduce)
    return filled(grads, iter(sums))
