"""Sparse gradients: a step of Adam that names 4,096 rows of a table, in one thread.

Beside it: torch's SparseAdam, the same in NumPy, a step with a gradient of the whole table, and the roof, the fastest
time in which this machine moves the rows' bytes from and to where they lie. Each has a table of its own, and batches
that come again only when the rows before have left the caches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

import fastopt
from bench.peers import need
from bench.roofline import library
from bench.runner import Contender, Timing, Unavailable, interleave

SIZE = 64  # elements of a row
NAMED = 4096
BATCHES = 20
LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
Array = np.ndarray[Any, Any]
Batch = tuple[Array, Array]


def batches(rows: int, named: int) -> list[Batch]:
    """Row numbers and gradients."""
    rng = np.random.default_rng(0)
    return [(rng.integers(0, rows, named), rng.standard_normal((named, SIZE), dtype="float32")) for _ in range(BATCHES)]


def table(rows: int) -> Array:
    return np.random.default_rng(1).standard_normal((rows, SIZE), dtype="float32")


def of_batches(name: str, drawn: list[Any], step: Callable[[Any], Any]) -> Contender:
    """A contender that takes the next batch in each step."""
    coming: Iterator[Any] = cycle(drawn)
    now: list[Any] = [drawn[0]]

    def turn() -> None:
        now[0] = next(coming)

    found = Contender(name, lambda: step(now[0]), turn)
    found.warm_up = 3
    return found


def ours(rows: int, drawn: list[Batch]) -> Contender:
    opt = fastopt.Adam(table(rows), lr=LR)
    return of_batches("fastopt, Rows", drawn, lambda batch: opt.step(fastopt.Rows(*batch)))


def whole(rows: int) -> Contender:
    p = table(rows)
    opt, g = fastopt.Adam(p, lr=LR), np.ones_like(p)
    found = Contender("fastopt, whole gradient", lambda: opt.step(g))
    found.warm_up = 3
    return found


def in_numpy(rows: int, drawn: list[Batch]) -> Contender:
    """Unique rows, sums of gradients, a gather and a scatter of each array: as one writes it by hand."""
    p, t = table(rows), 0
    m, v = np.zeros_like(p), np.zeros_like(p)

    def step(batch: Batch) -> None:
        nonlocal t
        t += 1
        found, where = np.unique(batch[0], return_inverse=True)
        g = np.zeros((len(found), SIZE), "float32")
        np.add.at(g, where, batch[1])
        m[found] = m_now = BETAS[0] * m[found] + (1 - BETAS[0]) * g
        v[found] = v_now = BETAS[1] * v[found] + (1 - BETAS[1]) * g * g
        root = np.float32((1 - BETAS[1] ** t) ** 0.5)
        p[found] -= np.float32(LR) * root / np.float32(1 - BETAS[0] ** t) * m_now / (np.sqrt(v_now) + np.float32(EPS))

    return of_batches("NumPy by hand", drawn, step)


def torchs(rows: int, drawn: list[Batch]) -> Contender:
    torch = need("torch")
    torch.set_num_threads(1)
    p = torch.nn.Parameter(torch.from_numpy(table(rows)))
    opt = torch.optim.SparseAdam([p], lr=LR, betas=BETAS, eps=EPS)
    grads = [
        torch.sparse_coo_tensor(torch.from_numpy(i)[None], torch.from_numpy(g), p.shape, check_invariants=False)
        for i, g in drawn
    ]

    def step(gradient: Any) -> None:
        p.grad = gradient
        opt.step()

    return of_batches("torch SparseAdam", grads, step)


def roof(rows: int, drawn: list[Batch], prefetch: bool) -> Contender:
    arrays = [table(rows), np.ones((rows, SIZE), "float32"), np.ones((rows, SIZE), "float32")]
    pointers = (ctypes.c_void_p * 3)(*[array.ctypes.data for array in arrays])
    move = library("float32", 2).scattered

    def step(batch: Batch) -> None:
        assert arrays  # which hold the memory
        indices, g = (ctypes.c_void_p(array.ctypes.data) for array in batch)
        size = (ctypes.c_size_t(len(batch[0])), ctypes.c_size_t(SIZE))
        move(*size, indices, pointers, g, ctypes.c_float(0.0), ctypes.c_int(prefetch))

    return of_batches("roof, prefetch" if prefetch else "roof", drawn, step)


def measure(tables: list[int], named: int, seconds: float) -> dict[str, Any]:
    """Microseconds a step by number of rows in the table."""
    fastopt.set_num_threads(1)
    found: list[dict[str, Any]] = []
    skipped: dict[str, Any] = {}
    for rows in tables:
        drawn = batches(rows, named)
        contenders = [ours(rows, drawn), in_numpy(rows, drawn), whole(rows)]
        for make in (lambda: torchs(rows, drawn), lambda: roof(rows, drawn, False), lambda: roof(rows, drawn, True)):  # noqa: B023
            try:
                contenders.append(make())
            except Unavailable as reason:
                skipped.setdefault("rows", {}).setdefault(str(reason), []).append(str(rows))
        timings = interleave(contenders, seconds, rounds=(5, 200))
        roofs = [timings.pop(name) for name in ("roof", "roof, prefetch") if name in timings]
        if roofs:
            timings["roof"] = min(roofs, key=Timing.quartiles)
        mine = timings["fastopt, Rows"]
        for contender, timing in timings.items():
            labels = {"rows": rows, "named": named, "contender": contender}
            found.append({**labels, **timing.row(), "x_fastopt": timing.over(mine)})
    return {"rows": found, "skipped": skipped}
