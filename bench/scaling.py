"""The step with one thread, two, four and so on, each beside its roof."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.peers import Limited
from bench.roofline import Roof
from bench.runner import Contender, interleave
from bench.steps import prepared, records
from bench.workloads import CASES, WORKLOADS, Data


def counts(threads: int) -> list[int]:
    """1, 2, 4, ... and the number itself."""
    return sorted({threads, *(2**k for k in range(threads.bit_length()) if 2**k <= threads)})


def measure(workloads: Sequence[str], threads: int, seconds: float) -> dict[str, Any]:
    rows = []
    for workload in workloads:
        case = CASES["adam"]
        data = Data(WORKLOADS[workload], "float32", case.state)
        fast = prepared(data, case)
        limited = {n: Limited(fast, n) for n in counts(threads)}
        swept = {n: [Roof(data, n, prefetch) for prefetch in (False, True)] for n in limited}
        everyone: list[Contender] = [*limited.values(), *(roof for roofs in swept.values() for roof in roofs)]
        timings = interleave(everyone, seconds)
        for n, contender in limited.items():
            labels = {"case": case.name, "dtype": "float32", "workload": workload, "threads": n}
            found = records([contender, *swept[n]], timings, data, **labels)
            found[0]["contender"] = "fastopt"
            rows += found
    return {"scaling": rows}
