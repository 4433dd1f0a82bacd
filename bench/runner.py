"""How things are timed: in one process, in rounds of rotating order, so that a disturbance disturbs all alike."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, repeat
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
    """Something that takes steps. Subclasses set `step`, a callable without arguments, or override `run`."""

    name = ""
    most = 10**6  # steps in one measurement
    step: Callable[[], Any]

    def refresh(self) -> None:
        """Called, untimed, when the gradients have changed and before each measurement."""

    def run(self, n: int) -> float:
        """Seconds a step, over n steps."""
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
        """Median, quartiles and rounds in us, as results list them."""
        q1, us, q3 = (1e6 * s for s in self.quartiles())
        return {"us": us, "q1": q1, "q3": q3, "rounds": {str(r): 1e6 * s for r, s in self.rounds.items()}}

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
    if seconds < LONG:  # as before each measurement
        contender.refresh()
        contender.run(WARM_UP)
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
            return timings
        shift = r % max(1, len(found))
        for contender, inner, estimate in found[shift:] + found[:shift]:
            if estimate > 4 * fastest and r % 4:
                continue
            time.sleep(pause)
            contender.refresh()
            if estimate < LONG:
                contender.run(max(inner, WARM_UP))
                contender.refresh()
            timings[contender.name].rounds[r] = contender.run(inner)
    raise AssertionError("unreachable")


def _busy() -> float:
    """Seconds of CPU that everything on the machine has used since its start, what a hypervisor stole included."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(x) for x in stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


@contextmanager
def others() -> Iterator[dict[str, float]]:
    """Fill in, at the end, the wall time and the cores that other processes kept busy meanwhile (NaN where unknown)."""
    found = {"seconds": 0.0, "others_cores": float("nan")}
    begin = perf_counter()
    try:
        busy = _busy() - _own()
    except OSError:
        busy = float("nan")
    yield found
    found["seconds"] = perf_counter() - begin
    if busy == busy:
        found["others_cores"] = max(0.0, (_busy() - _own() - busy) / found["seconds"])
