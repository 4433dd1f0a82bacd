"""The step alone: fastopt, its roof and every peer over the same arrays, for each rule, type and workload."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable
from itertools import product
from time import time
from typing import Any

from bench.peers import PEERS, Fastopt, Peer, check
from bench.roofline import Roof, roofs
from bench.runner import Contender, Timing, Unavailable, interleave
from bench.workloads import CASES, WORKLOADS, Case, Data, all_cases, elements

Record = dict[str, Any]
ROOF = "roof"


def available_memory() -> float:
    try:
        with open("/proc/meminfo") as lines:
            return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


def prepared(data: Data, case: Case = CASES["adam"]) -> Fastopt:
    """fastopt over the arrays of `data`, one step taken, its state handed to all who come after."""
    fast = Fastopt(case, data)
    fast.run(1)
    fast.share()
    return fast


def gather(case: Case, data: Data, peers: Iterable[type[Peer]], threads: int) -> tuple[list[Contender], dict[str, str]]:
    """Everything that can take this step and computes it right, over the arrays of `data`; why others do not."""
    contenders: list[Contender] = [prepared(data, case)]
    skipped = {}
    for peer in peers:
        try:
            known = case.name in CASES
            formula = check(peer, case, data.dtype.name) if known else "paper"  # type: ignore[arg-type]
            contender = peer(case, data)
            contender.formula = formula
            contenders.append(contender)
        except Unavailable as reason:
            skipped[peer.name] = str(reason)
    try:
        contenders += roofs(data, threads)
    except Unavailable as reason:
        skipped[ROOF] = str(reason)
    return contenders, skipped


def records(contenders: list[Contender], timings: dict[str, Timing], data: Data, **labels: Any) -> list[Record]:
    """One row a contender, the first of whom is fastopt; of the candidates for the roof only the fastest."""
    fast = timings[contenders[0].name]
    candidates = [c.name for c in contenders if isinstance(c, Roof)]
    best = min(candidates, key=lambda name: timings[name].over(fast), default=None)
    rows = []
    for contender in contenders:
        if contender.name in candidates and contender.name != best:
            continue
        timing = timings[contender.name]
        q1, median, q3 = timing.quartiles()
        rows.append(
            {
                **labels,
                "contender": ROOF if contender.name == best else contender.name,
                "detail": contender.name,
                "formula": getattr(contender, "formula", ""),
                "packaged": getattr(contender, "packaged", False),
                "elements": data.elements,
                "us": 1e6 * median,
                "q1": 1e6 * q1,
                "q3": 1e6 * q3,
                "rounds": len(timing.rounds),
                "ns_per_parameter": 1e9 * median / data.elements,
                "gb_per_s": data.bytes_moved / median / 1e9,
                "x_roof": timing.over(timings[best]) if best else None,
                "x_fastopt": timing.over(fast),
            }
        )
    return rows


def cell(
    case: Case, dtype: str, workload: str, threads: int, seconds: float, peers: Iterable[type[Peer]] = PEERS
) -> tuple[list[Record], dict[str, str]]:
    """Measure one rule, type and workload."""
    labels = {"case": case.name, "dtype": dtype, "workload": workload, "threads": threads}
    # p, g and state once for all, again inside JAX, Keras and scikit-learn, and the temporaries of NumPy's forms
    need = 5 * (2 + len(case.state)) * elements(workload) * (8 if dtype == "float64" else 4)
    if need > available_memory():
        return [], {"everything": f"{workload} in {dtype} wants {need / 2**30:.0f} GiB of free memory"}
    data = Data(WORKLOADS[workload], dtype, case.state)
    contenders, skipped = gather(case, data, peers, threads)
    rows = records(contenders, interleave(contenders, seconds), data, **labels)
    del contenders
    gc.collect()
    return rows, skipped


def measure(
    cases: Iterable[str],
    dtypes: Iterable[str],
    workloads: Iterable[str],
    threads: int,
    seconds: float,
    until: float = math.inf,
    patience: float = math.inf,
) -> dict[str, Any]:
    """All combinations in the order workload, type, case; as many as begin before the time `until`.

    Who took `patience` times as long as fastopt over some 10^7 elements is left out where there are many more.
    `skipped` lists for each peer its reasons, each with the cells it was given for.
    """
    known = all_cases()
    rows: list[Record] = []
    skipped: dict[str, dict[str, list[str]]] = {}
    slow: set[str] = set()
    for workload, dtype, name in product(workloads, dtypes, cases):
        found: list[Record] = []
        if time() > until:
            reasons = {"everything": "no time was left in a short run: --minutes or --full has it"}
        else:
            left_out = slow if elements(workload) > 5e7 else set()
            peers = [peer for peer in PEERS if peer.name not in left_out]
            found, reasons = cell(known[name], dtype, workload, threads, seconds, peers)
            reason = f"{patience:g} times as slow as fastopt at 10^7 elements: --full has it"
            reasons = {**reasons, **dict.fromkeys(left_out, reason)}
            us = {row["contender"]: row["us"] for row in found}
            if elements(workload) >= 1e7:
                slow |= {peer for peer, t in us.items() if t > patience * us["fastopt"]}
        rows += found
        for peer, reason in reasons.items():
            skipped.setdefault(peer, {}).setdefault(reason, []).append(f"{name} {dtype} {workload}")
    return {"steps": rows, "skipped": skipped}
