"""The step alone: fastopt, its roof and every peer, for each rule, type, workload and number of threads."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from time import time
from typing import Any

from bench.handwritten import Naive, Numba, NumbaParallel, Out
from bench.packages import DeepSpeed, Keras, Optax, Sklearn, Thinc, Torch, TorchForeach, TorchFused
from bench.paper import check
from bench.peers import Fastopt, Limited, Peer, Twin
from bench.roofline import Roof, roofs
from bench.runner import Contender, Timing, Unavailable, interleave, own_process
from bench.workloads import CASES, WORKLOADS, Case, Data, all_cases, as_matrices, elements
from fastopt.optimizers import OPTIMIZERS

Record = dict[str, Any]
Reasons = dict[str, str]  # peer -> why it was not measured
ROOF = "roof"
PEERS: list[type[Peer]] = [Naive, Out, Twin, Numba, NumbaParallel, Thinc, Sklearn]
PEERS += [Torch, TorchForeach, TorchFused, DeepSpeed, Optax, Keras]


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


def gather(case: Case, data: Data, peers: Iterable[type[Peer]]) -> tuple[list[Contender], Reasons]:
    """fastopt and all peers that can take this step and compute it right, over the arrays of `data`."""
    contenders: list[Contender] = [prepared(data, case)]
    skipped = {}
    for peer in peers:
        try:
            formula = check(peer, case, data.dtype.name)
            contender = peer(case, data)
            contender.formula = formula
            contenders.append(contender)
        except Unavailable as reason:
            skipped[peer.name] = str(reason)
    return contenders, skipped


def records(contenders: Sequence[Contender], timings: dict[str, Timing], data: Data, **labels: Any) -> list[Record]:
    """One row a contender, the first of whom is fastopt; of the candidates for the roof only the fastest."""
    fast = timings[contenders[0].name]
    candidates = [c.name for c in contenders if isinstance(c, Roof)]
    best = min(candidates, key=lambda name: timings[name].over(fast), default=None)
    rows = []
    for contender in contenders:
        if contender.name in candidates and contender.name != best:
            continue
        timing = timings[contender.name]
        times = timing.row()
        rows.append(
            {
                **labels,
                "contender": ROOF if contender.name == best else contender.name,
                "detail": contender.name,
                "formula": getattr(contender, "formula", ""),
                "packaged": getattr(contender, "packaged", False),
                "elements": data.elements,
                "state_bytes": data.state_bytes,
                "passes": 1 + bool(data.first) + bool(data.second),
                **times,
                "gb_per_s": data.bytes_moved / times["us"] / 1e3,
                "x_roof": timing.over(timings[best]) if best else None,
                "x_fastopt": timing.over(fast),
            }
        )
    return rows


def together(
    case: Case, dtype: str, workload: str, threads: int, seconds: float, peers: Sequence[type[Peer]], with_roof: bool
) -> tuple[list[Record], Reasons]:
    """fastopt and these peers in this process, over the same arrays."""
    # p, g and state once for all, again inside JAX, Keras and scikit-learn, and the temporaries of NumPy's forms
    need = (5 if peers else 1) * (2 + len(case.state)) * elements(workload) * (8 if dtype == "float64" else 4)
    if need > available_memory():
        return [], {"everything": f"{workload} in {dtype} wants {need / 2**30:.0f} GiB of free memory"}
    shapes = WORKLOADS[workload]
    data = Data(as_matrices(shapes) if OPTIMIZERS[case.optimizer].keeps_axes else shapes, dtype, case.state)
    try:
        contenders, skipped = gather(case, data, peers)
    except ValueError as error:  # of fastopt's class, which may want matrices
        return [], {"everything": str(error)}
    try:
        contenders += roofs(data, threads) if with_roof else []
    except Unavailable as reason:
        skipped[ROOF] = str(reason)
    labels = {"case": case.name, "optimizer": case.optimizer, "dtype": dtype, "workload": workload, "threads": threads}
    rows = records(contenders, interleave(contenders, seconds), data, **labels)
    del contenders
    gc.collect()
    return rows, skipped


# Where each library that disturbs others is measured, from one cell to the next: it is loaded once.
PROCESSES: dict[str, ProcessPoolExecutor] = {}


def apart(library: str, *how: Any) -> tuple[list[Record], Reasons]:
    """`together` in the process of this library."""
    if library not in PROCESSES:
        PROCESSES[library] = own_process()
    try:
        return PROCESSES[library].submit(together, *how).result()
    except BrokenProcessPool:
        PROCESSES.pop(library).shutdown()
        return [], {library: "its process ended while it was measured"}


def end_processes() -> None:
    """Or a process of its own that has some would wait for them forever."""
    while PROCESSES:
        PROCESSES.popitem()[1].shutdown()


def cell(
    case: Case, dtype: str, workload: str, threads: int, seconds: float, peers: Sequence[type[Peer]] = PEERS
) -> tuple[list[Record], Reasons]:
    """Measure one rule, type and workload: most here, each library that disturbs others in a process of its own."""

    def of(library: str | None) -> list[type[Peer]]:
        return [peer for peer in peers if peer.library == library]

    def share(group: list[type[Peer]]) -> float:
        return seconds * (1 + len(group)) / (1 + len(peers))

    here = of(None)
    rows, skipped = together(case, dtype, workload, threads, share(here), here, True)
    if not rows:
        return rows, skipped
    mine = rows[0]
    for library in dict.fromkeys(peer.library for peer in peers if peer.library):
        found, reasons = apart(library, case, dtype, workload, threads, share(of(library)), of(library), False)
        # Ratios to fastopt are those to the fastopt beside it. That to the roof goes by way of both.
        rows += [
            {**row, "x_roof": mine["x_roof"] and row["x_fastopt"] * mine["x_roof"]}
            for row in found
            if row["contender"] != mine["contender"]
        ]
        skipped |= reasons
    return rows, skipped


def measure(
    cases: Iterable[str],
    dtypes: Iterable[str],
    workloads: Iterable[str],
    threads: int,
    seconds: float,
    until: float,
    patience: float = math.inf,
    peers: Sequence[type[Peer]] = PEERS,
) -> dict[str, Any]:
    """All combinations in the order workload, type, case; as many as begin before the time `until`.

    Who took `patience` times as long as fastopt over some 10^7 elements is left out where there are many more.
    `skipped` lists for each peer its reasons, each with the cells it was given for.
    """
    rows: list[Record] = []
    skipped: dict[str, dict[str, list[str]]] = {}
    slow: set[str] = set()
    for workload, dtype, name in product(workloads, dtypes, cases):
        found: list[Record] = []
        reasons = {"everything": "no time was left: --minutes or --full has it"}
        if time() < until:
            left_out = slow if elements(workload) > 5e7 else set()
            these = [peer for peer in peers if peer.name not in left_out]
            found, reasons = cell(all_cases()[name], dtype, workload, threads, seconds, these)
            reason = f"{patience:g} times as slow as fastopt at 10^7 elements: --full has it"
            reasons |= dict.fromkeys(left_out, reason)
            if elements(workload) >= 1e7:
                slow |= {row["contender"] for row in found if row["x_fastopt"] > patience}
        rows += found
        for peer, reason in reasons.items():
            skipped.setdefault(peer, {}).setdefault(reason, []).append(f"{name} {dtype} {workload}")
    return {"steps": rows, "skipped": skipped}


# ---------------------------------------------------------------------------------------------------- number of threads


def counts(threads: int) -> list[int]:
    """1, 2, 4, ... and the number itself."""
    return sorted({threads, *(2**k for k in range(threads.bit_length()) if 2**k <= threads)})


def scaling(workloads: Sequence[str], threads: int, seconds: float) -> dict[str, Any]:
    """Adam with one thread, two, four and so on, each beside its roof."""
    case, rows = CASES["adam"], []
    for workload in workloads:
        data = Data(WORKLOADS[workload], "float32", case.state)
        fast = prepared(data, case)
        groups = {n: [Limited(fast, n), Roof(data, n, False), Roof(data, n, True)] for n in counts(threads)}
        timings = interleave([contender for group in groups.values() for contender in group], seconds)
        for n, group in groups.items():
            labels = {"case": case.name, "dtype": "float32", "workload": workload, "threads": n}
            found = records(group, timings, data, **labels)
            found[0]["contender"] = "fastopt"
            rows += found
    return {"scaling": rows}
