"""Who owns which part of the leaves, what goes into one message, and how what came is added up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from .. import hyper
from ..engine.chunks import CHUNK

Array = npt.NDArray[Any]
Reduce = Literal["mean", "sum"]
Part = tuple[int, int, int]  # of a leaf: its number, and elements from and to, in the order of its memory

BUFFER = 32 << 20  # bytes
reduction = hyper.choice("mean", "sum")


def runs(sizes: Sequence[int], itemsizes: Sequence[int], ranks: int) -> list[list[Part]]:
    """The parts of leaves that each rank owns: runs of whole chunks, of as equal a number of bytes as that allows."""
    begins = [np.arange(0, n, CHUNK) for n in sizes]  # of chunks, in their leaf
    before = np.cumsum([0, *(n * itemsize for n, itemsize in zip(sizes, itemsizes, strict=True))]).tolist()
    edges = [begin * itemsize + base for begin, itemsize, base in zip(begins, itemsizes, before[:-1], strict=True)]
    places = np.concatenate([np.empty(0, np.int64), *edges])
    first = [int(np.searchsorted(places, -(-before[-1] * rank // ranks))) for rank in range(ranks)] + [len(places)]
    found: list[list[Part]] = [[] for _ in range(ranks)]
    chunk, rank = 0, 0
    for leaf, begin in enumerate(begins):
        upto = chunk + len(begin)
        while chunk < upto:
            while first[rank + 1] <= chunk:
                rank += 1
            start, chunk = int(begin[chunk - upto]), min(upto, first[rank + 1])
            found[rank].append((leaf, start, sizes[leaf] if chunk == upto else int(begin[chunk - upto])))
    return found


def cut(parts: Iterable[Part], itemsizes: Sequence[int], most: int) -> list[list[Part]]:
    """Parts cut up into messages of at most so many bytes."""
    found: list[list[Part]] = []
    left = 0
    for leaf, start, stop in parts:
        while start < stop:
            if left < 8:
                found.append([])
                left = most
            end = min(stop, start + left // itemsizes[leaf])
            found[-1].append((leaf, start, end))
            left -= _padded((end - start) * itemsizes[leaf])
            start = end
    return found


def _padded(nbytes: int) -> int:
    """What a part takes in a message, where each begins at a multiple of 8 bytes."""
    return nbytes + -nbytes % 8


def laid(room: Array, parts: Sequence[Part], like: Sequence[Array]) -> list[Array]:
    """The arrays of a message's parts, end to end in the memory that a message has."""
    found, at = [], 0
    for leaf, start, stop in parts:
        nbytes = (stop - start) * like[leaf].itemsize
        found.append(room[at : at + nbytes].view(like[leaf].dtype))
        at += _padded(nbytes)
    return found


def message_size(parts: Sequence[Part], like: Sequence[Array]) -> int:
    """The bytes that a message with these parts has."""
    sizes = [(stop - start) * like[leaf].itemsize for leaf, start, stop in parts]
    return sizes[0] if len(sizes) == 1 else sum(map(_padded, sizes))


def message(room: Array, parts: Sequence[Part], leaves: Sequence[Any], like: Sequence[Array]) -> Array:
    """One message with these parts of the leaves: a part that is alone as it lies, others copied."""
    if len(parts) == 1:
        leaf, start, stop = parts[0]
        part: Array = leaves[leaf][start:stop]
        return part
    for to, (leaf, start, stop) in zip(laid(room, parts, like), parts, strict=True):
        to[...] = leaves[leaf][start:stop]
    return room[: message_size(parts, like)]


def as_bytes(array: Array) -> Any:
    """An array as MPI is to see it: both sides of a message must call it the same."""
    return [array, MPI.BYTE]


def laid_flat(array: Array) -> Array:
    """A contiguous array laid flat in the order of its memory: a view."""
    array = np.asarray(array)
    return array.reshape(-1, order="C" if array.flags.c_contiguous else "F")


def in_order_of(parameter: Array, gradient: Array) -> Any:
    """Something whose slices are a gradient's elements in the memory order of its parameter."""
    turned = gradient if parameter.flags.c_contiguous else gradient.T
    return turned.reshape(-1) if turned.flags.c_contiguous else turned.flat


def _tree_sum(parts: list[Array], own: int, out: Array) -> None:
    """Add the parts of all ranks in a fixed tree: neighbours in pairs, then these sums in pairs, and so on.

    Where their number is odd, the last goes on as it is: five are ``((a + b) + (c + d)) + e``. All parts but `own` are
    written to.
    """
    kept = parts[own]
    while len(parts) > 2:
        pairs = [np.add(a, b, out=b if a is kept else a) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    if len(parts) == 2:
        np.add(parts[0], parts[1], out=out)
    else:
        out[...] = parts[0]


def add_up(received: Sequence[Sequence[Array]], own: int, out: Sequence[Array], reduce: Reduce) -> None:
    """Put the sums or means of what came from each rank, arrays for each part, where they belong."""
    with np.errstate(all="ignore"):
        for parts, to in zip(zip(*received, strict=True), out, strict=True):
            _tree_sum(list(parts), own, to)
            if reduce == "mean" and len(parts) > 1:
                np.divide(to, len(parts), out=to)


def most_bytes(nbytes: int, messages: int) -> int:
    """The bytes of one message where so many are to have their place in `nbytes`: MPI counts them in 31 bits."""
    return int(min(max(64, nbytes // messages // 8 * 8), 1 << 30))


def filled(tree: Any, leaves: Iterator[Any]) -> Any:
    """The structure of a tree with other leaves."""
    if isinstance(tree, dict):
        return {key: filled(value, leaves) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [filled(value, leaves) for value in tree]
    return next(leaves)
