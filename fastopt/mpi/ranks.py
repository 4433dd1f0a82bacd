"""Ranks that agree before anything is sent, and share the processors of a machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from mpi4py import MPI

from .. import threads

__all__ = ["Disagreement", "meet", "share_of_processors", "together"]

_CALLS = ["Sharded()", "step()", "averaged()", "save()", "load()", "sum_gradients()"]
_MOST_FACTS = 4
_LONGEST_TEXT = 4096  # bytes of an error that others are told


class Disagreement(RuntimeError):  # noqa: N818 (it may be nobody's error)
    """Ranks do not agree, or another one has failed: nothing has been changed on any of them."""


def meet(comm: Any, call: str, error: BaseException | None, facts: Mapping[str, bytes]) -> None:
    """Wait for all ranks, and go on only if none has failed and all make the same call with the same facts.

    A rank that has failed raises its error, all others `Disagreement`.
    """
    mine = np.zeros(2 + _MOST_FACTS, np.int64)
    mine[:2] = error is not None, _CALLS.index(call)
    for k, fact in enumerate(facts.values()):
        mine[2 + k] = np.frombuffer(hashlib.blake2b(fact, digest_size=8).digest(), np.int64)[0]
    table = np.empty((comm.size, len(mine)), np.int64)
    comm.Allgather(mine, table)
    if table[:, 0].any():
        first = int(table[:, 0].argmax())
        text = np.zeros(_LONGEST_TEXT, np.uint8)
        if comm.rank == first:
            said = f"{type(error).__name__}: {error}".encode(errors="replace")[:_LONGEST_TEXT]
            text[: len(said)] = np.frombuffer(said, np.uint8)
        comm.Bcast(text, first)
        if error is not None:
            raise error
        told = text.tobytes().rstrip(b"\0").decode(errors="replace")
        raise Disagreement(f"rank {first} failed in {_CALLS[table[first, 1]]}: {told}")
    if (table == table[0]).all():
        return
    rank = int((table != table[0]).any(axis=1).argmax())
    if table[rank, 1] != table[0, 1]:
        raise Disagreement(f"rank {rank} calls {_CALLS[table[rank, 1]]}: rank 0 calls {_CALLS[table[0, 1]]}")
    for name, one, other in zip(facts, table[rank, 2:], table[0, 2:], strict=False):
        if one != other:
            raise Disagreement(f"rank {rank} calls {call} with other {name} than rank 0: nothing was done")


def together(comm: Any, call: str, act: Callable[[], Mapping[str, bytes] | None]) -> None:
    """Do something that may fail on any rank, and go on only if it has not, and what it returned is the same on all."""
    error: BaseException | None = None
    facts: Mapping[str, bytes] = {}
    try:
        facts = act() or {}
    except BaseException as caught:
        error = caught
    meet(comm, call, error, facts)


def share_of_processors(comm: Any) -> int:
    """How many threads this rank may have, so that all ranks of its machine together have one for each processor."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    length = np.array([max(mine) + 1])
    node.Allreduce(MPI.IN_PLACE, length, MPI.MAX)
    mask = np.zeros(int(length[0]), np.uint8)
    mask[list(mine)] = 1
    masks = np.empty((node.size, len(mask)), np.uint8)
    node.Allgather(mask, masks)
    share = float((mask / np.maximum(masks.sum(axis=0, dtype=np.int64), 1)).sum())
    if "OpenMP places" in threads.LIMITS:  # this thread is bound to one of those that its rank was given
        share = threads.LIMITS["OpenMP places"]
    share = min(share, threads.LIMITS.get("cgroup quota", share * node.size) / node.size)
    node.Free()
    return max(1, int(share + 1e-6))
