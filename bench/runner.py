"""How things are timed: in one process, in rounds of rotating order, so that a disturbance disturbs all alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, repeat
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

PAUSE = 0.015  # s before each measurement: GNU OpenMP's workers spin for 6 ms after a region (measured)
BLOCK = 0.002  # s of work that is timed as one, and as much before it untimed; perf_counter resolves 50 ns
WARM_UP = 12  # steps at least: threads that slept through the pause wake up, and processors speed up, in the first ones
LONG = 0.020  # s: a step as long as this needs no warm-up, it warms itself
BEFORE = -1  # the round of what was measured before the first


class Unavailable(Exception):  # noqa: N818 (it is no error)
    """This contender cannot run here; the message says why."""


class Contender:
    """Something that takes steps, and what is done before each of them without being timed."""

    most = 10**6  # steps in one measurement
    warm_up = WARM_UP
    between: Callable[[], Any] | None = None

    def __init__(self, name: str, step: Callable[[], Any], between: Callable[[], Any] | None = None) -> None:
        self.name, self.step, self.between = name, step, between

    def refresh(self) -> None:
        """Called, untimed, when the gradients have changed and before each measurement."""

    def take(self) -> None:
        """One step and what comes before it."""
        if self.between:
            self.between()
        self.step()

    def run(self, n: int) -> float:
        """Seconds a step, over n steps."""
        if self.between:  # each step by a clock of its own
            spent = 0.0
            for _ in range(n):
                self.between()
                begin = perf_counter()
                self.step()
                spent += perf_counter() - begin
            return spent / n
        step = self.step
        begin = perf_counter()
        for _ in repeat(None, n):
            step()
        return (perf_counter() - begin) / n


@dataclass
class Timing:
    """Seconds a step, by the round in which it was measured."""

    inner: int = 1
    rounds: dict[int, float] = field(default_factory=dict)

    def quartiles(self) -> tuple[float, float, float]:
        seconds = list(self.rounds.values())
        few = seconds * 2 if len(seconds) == 1 else seconds
        first, middle, third = quantiles(few, n=4, method="inclusive")
        return first, middle, third

    def row(self) -> dict[str, Any]:
        """Median and quartiles in us, as results list them."""
        q1, us, q3 = (1e6 * s for s in self.quartiles())
        return {"us": us, "q1": q1, "q3": q3, "rounds": len(self.rounds)}

    def over(self, other: Timing) -> float:
        """The median of the ratios to another's within the rounds: what disturbs a whole round cancels out.

        (A machine whose memory is half as fast for a minute is so for all, but medians may fall on different minutes.)
        """
        shared = self.rounds.keys() & other.rounds.keys()
        if not shared:
            return self.quartiles()[1] / other.quartiles()[1]
        return median(self.rounds[r] / other.rounds[r] for r in shared)


def calibrate(contender: Contender, block: float) -> tuple[int, float]:
    """How many steps fill a block, and the seconds a step takes. The first step, which may compile, does not count."""
    contender.refresh()
    contender.run(1)
    seconds = contender.run(1)
    if seconds < LONG and contender.warm_up:  # as before each measurement
        contender.refresh()
        contender.run(contender.warm_up)
        seconds = contender.run(1)
    n = 1
    while seconds * n < block / 4 and 4 * n <= contender.most:
        n *= 4
        contender.refresh()
        seconds = contender.run(n)
    return min(contender.most, max(1, round(block / seconds))), seconds


def interleave(
    contenders: Sequence[Contender],
    seconds: float,
    rounds: tuple[int, int] = (5, 40),
    pause: float = PAUSE,
    block: float = BLOCK,
) -> dict[str, Timing]:
    """Time all contenders in rounds for about so many seconds; one 4 times slower than the fastest joins every 4th.

    One that is 8 times slower and takes more than 0.3 s has no more than the step it was calibrated with.
    """
    found = [(contender, *calibrate(contender, block)) for contender in contenders]
    fastest = min((estimate for *_, estimate in found), default=0.0)
    timings = {contender.name: Timing(inner) for contender, inner, _ in found}
    deadline = perf_counter() + seconds
    for contender, _, estimate in found:  # what takes too long for another turn has had its only one
        if estimate > max(0.3, 8 * fastest):
            timings[contender.name].rounds[BEFORE] = estimate
    found = [entry for entry in found if not timings[entry[0].name].rounds]
    for r in count():
        if r == rounds[1] or (r >= rounds[0] and perf_counter() > deadline):
            break
        shift = r % max(1, len(found))
        for contender, inner, estimate in found[shift:] + found[:shift]:
            if estimate > 4 * fastest and r % 4:
                continue
            time.sleep(pause)
            contender.refresh()
            if estimate < LONG and contender.warm_up:
                contender.run(max(inner, contender.warm_up))
                contender.refresh()
            timings[contender.name].rounds[r] = contender.run(inner)
    return timings


# ------------------------------------------------------------------------------------------------------------ processes


def own_process(log: Path | None = None) -> ProcessPoolExecutor:
    """A fresh process that takes one piece of work after another. What is written in it goes to `log`."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_write_to, initargs=(log,))


def _write_to(log: Path | None) -> None:
    if log:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)


@contextmanager
def one_core() -> Iterator[None]:
    """Processes that are started meanwhile have a single core: an affinity mask, which every library must obey."""
    environment = dict(os.environ)
    known = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")
    os.environ.update(dict.fromkeys(known, "1"))
    mask = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if mask:
        os.sched_setaffinity(0, {max(mask)})
    try:
        yield
    finally:
        if mask:
            os.sched_setaffinity(0, mask)
        os.environ.clear()
        os.environ.update(environment)


@contextmanager
def others() -> Iterator[dict[str, float]]:
    """Fill in, at the end, the wall time and the cores that other processes kept busy meanwhile (NaN where unknown)."""

    def spent() -> float:
        if not os.path.exists("/proc/stat"):
            return float("nan")
        with open("/proc/stat") as stat:  # what a hypervisor stole counts as well
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(x) for x in stat.readline().split()[1:9])
        own = sum(os.times()[:4])  # with the children that have ended
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - own

    found: dict[str, float] = {}
    begin, before = perf_counter(), spent()
    yield found
    found["seconds"] = perf_counter() - begin
    found["others_cores"] = max((spent() - before) / found["seconds"], 0.0)  # NaN stays
