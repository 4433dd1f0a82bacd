"""The step where machines are small, busy or odd: each function measures one such condition and returns its rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import fmean
from time import perf_counter, sleep
from typing import Any

import numpy as np

import fastopt
from bench.machine import cores
from bench.peers import Fastopt, Limited
from bench.runner import Contender, interleave
from bench.steps import Record, available_memory, prepared
from bench.workloads import CASES, WORKLOADS, Case, Data, elements

ADAM = CASES["adam"]


def arrays(workload: str, dtype: str = "float32") -> Data:
    return Data(WORKLOADS[workload], dtype, ADAM.state)


def timed(
    condition: str, workload: str, contenders: Sequence[Contender], seconds: float, means: bool = False, **how: Any
) -> list[Record]:
    rows = []
    for name, timing in interleave(contenders, seconds, **how).items():
        row = {"condition": condition, "workload": workload, "contender": name, **timing.row()}
        rows.append({**row, "us": 1e6 * fmean(timing.rounds.values())} if means else row)
    return rows


def numpy_work(seconds: float = 1e-3) -> None:
    """Other work of one thread."""
    numbers = np.ones(10_000, "float32")
    until = perf_counter() + seconds
    while perf_counter() < until:
        np.sqrt(numbers, out=numbers)


# ---------------------------------------------------------------------------------------------------------- first steps

REST = 0.008  # s: longer than workers of GNU OpenMP spin, so they sleep


class AfterRest(Contender):
    """The process rests, then an old or a new optimizer takes some steps, the last of which is timed."""

    name = "fastopt"
    most = 3
    warm_up = 0

    def __init__(self, old: Fastopt, new: bool, steps: int, work: Callable[[], None] = lambda: None) -> None:
        self.old, self.new, self.steps, self.work = old, new, steps, work

    def between(self) -> None:
        fast = Fastopt(ADAM, self.old.data) if self.new else self.old
        sleep(REST)
        self.step = fast.step
        for _ in range(self.steps - 1):
            self.step()
            self.work()


def first_steps(workloads: Sequence[str], bursts: Sequence[str], seconds: float) -> list[Record]:
    """What the first steps of a program cost, which warm-up hides: all threads against one."""
    rows = []

    def measure(condition: str, workload: str, contender: AfterRest) -> None:
        how = {"rounds": (9, 40), "pause": 0.0}  # it has a rest of its own
        rows.extend(timed(condition, workload, [contender, Limited(contender, 1)], seconds, **how))

    for workload in workloads:
        old = prepared(arrays(workload))
        for condition, new in (("new optimizer", True), ("after 8 ms of rest", False)):
            for steps, which in ((1, "first"), (2, "second")):
                measure(f"{condition}, {which} step", workload, AfterRest(old, new, steps))
    for workload in bursts:
        burst = AfterRest(prepared(arrays(workload)), False, 2, numpy_work)
        measure("rest, step, 1 ms of NumPy, step", workload, burst)
    return rows


# ----------------------------------------------------------------------------------------------------------- other work


def gaps(workloads: Sequence[str], seconds: float) -> list[Record]:
    """A millisecond of other work between steps: workers may have gone to sleep, and a wake-up costs some 200 us."""
    rows = []
    for workload in workloads:
        fast = prepared(arrays(workload))
        fast.between, fast.most = numpy_work, 25
        rows += timed("1 ms of other work between steps", workload, [fast, Limited(fast, 1)], seconds, rounds=(15, 60))
    return rows


@contextmanager
def every_core_busy() -> Iterator[None]:
    """By other processes."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
    try:
        sleep(0.2)
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def busy_machine(workloads: Sequence[str], seconds: float) -> list[Record]:
    """One thread and all of them, while others keep every core busy.

    Whether a block of steps gets a whole processor or half of one is a lottery, and a median would not tell of the one
    block in ten in which each step waits for a worker through turns of others: so these are means.
    """
    rows = []
    for workload in workloads:
        fast = prepared(arrays(workload))
        with every_core_busy():
            fast.run(100)  # its threads meet the condition before it is calibrated
            # A block as long as many turns of the scheduler: of 3 ms each, one more or less would decide.
            how = {"rounds": (25, 60), "block": 0.06, "means": True}
            rows += timed("every core busy", workload, [fast, Limited(fast, 1)], seconds, **how)
    return rows


# ------------------------------------------------------------------------------------------------------------ denormals


def put_back(data: Data, value: float, flush: bool) -> None:
    """All moments to `value`; the next step may flush denormals, or not."""
    fastopt.set_flush_denormals(flush)
    for slot in data.state.values():
        for array in slot:
            array.fill(value)


def denormals(workloads: Sequence[str], seconds: float) -> list[Record]:
    """Moments that have decayed to denormal numbers, as they do where gradients stay zero."""
    rows = []
    for workload in workloads:
        for dtype, tiny in (("float32", 1e-40), ("float64", 1e-310)):
            fast = prepared(arrays(workload, dtype))
            fast.data.renew([np.zeros_like(g) for g in fast.data.grads])
            contenders = [
                Contender(name, fast.step, partial(put_back, fast.data, value, flush))
                for name, value, flush in (("normal", 1e-3, True), ("denormal", tiny, True), ("kept", tiny, False))
            ]
            for contender in contenders:
                contender.most = 25
            try:
                rows += timed(f"moments in {dtype}", workload, contenders, seconds)
            finally:
                fastopt.set_flush_denormals(True)
    return rows


# -------------------------------------------------------------------------------------------------------------- options


def with_options(name: str, data: Data, **extra: Any) -> Fastopt:
    fast = Fastopt(Case("adam", "Adam", {**ADAM.options, **extra}, ADAM.state), data)
    fast.name = name
    return fast


def with_groups(name: str, data: Data, **extra: Any) -> Contender:
    optimizer = fastopt.Adam([{"params": data.tree(data.params)}], **ADAM.options | extra)
    return Contender(name, partial(optimizer.step, [data.tree(data.grads)]))


def options(workloads: Sequence[str], seconds: float) -> list[Record]:
    """What schedules, groups, checks and clipping add to a step."""
    from fastopt.schedules import CosineDecay, Warmup

    schedule = Warmup(steps=100, after=CosineDecay(lr=1e-3, total=10**9))
    rows = []
    for workload in workloads:
        data = arrays(workload)
        contenders = [
            with_options("plain", data),
            with_options("schedule", data, lr=schedule),
            with_groups("schedule and groups", data, lr=schedule),
            with_options('nonfinite="skip"', data, nonfinite="skip"),
            with_options("clip_norm", data, clip_norm=1e9),
        ]
        rows += timed("options", workload, contenders, seconds, rounds=(9, 60))
    return rows


def measure(sizes: Sequence[str], large: Sequence[str], seconds: float) -> dict[str, Any]:
    # five optimizers, each with its state, over the same parameters and gradients
    large = [workload for workload in large if 12 * 4 * elements(workload) < available_memory()]
    rows = [*gaps(sizes, seconds), *busy_machine(sizes, seconds)]
    rows += [*denormals(sizes[1:3], seconds / 2), *options(["1", *large], seconds)]
    return {"conditions": rows}
