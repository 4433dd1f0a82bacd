"""The step where machines are small, busy or odd: each function measures one promise and returns its rows."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np

from bench.peers import Fastopt, Limited
from bench.roofline import GradientRead
from bench.runner import Contender, interleave
from bench.steps import Record, available_memory, prepared
from bench.workloads import CASES, WORKLOADS, Case, Data, elements

ADAM = CASES["adam"]


def arrays(workload: str, dtype: str = "float32") -> Data:
    return Data(WORKLOADS[workload], dtype, ADAM.state)


def timed(condition: str, workload: str, contenders: Sequence[Contender], seconds: float, **how: Any) -> list[Record]:
    timings = interleave(contenders, seconds, **how)
    return [
        {"condition": condition, "workload": workload, "contender": name, **timing.row()}
        for name, timing in timings.items()
    ]


class Apart(Contender):
    """Steps with something between them that is not timed."""

    most = 25

    def __init__(self, fast: Fastopt, name: str) -> None:
        self.fast, self.name = fast, name

    def between(self) -> None:
        raise NotImplementedError

    def run(self, n: int) -> float:
        spent = 0.0
        for _ in range(n):
            self.between()
            begin = perf_counter()
            self.fast.step()
            spent += perf_counter() - begin
        return spent / n


# ------------------------------------------------------------------------------------------------ other work between


class Gap(Apart):
    """One millisecond of other work."""

    def between(self) -> None:
        until = perf_counter() + 1e-3
        while perf_counter() < until:
            pass


def gaps(workloads: Sequence[str], threads: int, seconds: float) -> list[Record]:
    """A millisecond of other work between steps: workers may have gone to sleep, and a wake-up costs some 200 us."""
    rows = []
    for workload in workloads:
        gap = Gap(prepared(arrays(workload)), "fastopt")
        rows += timed("gap", workload, [gap, Limited(gap, 1)], seconds, rounds=(15, 60))
    return rows


# --------------------------------------------------------------------------------------------------- denormal moments


class Decayed(Apart):
    """Gradients of zero over moments that are put back to `value` before every step."""

    def __init__(self, fast: Fastopt, name: str, value: float, flush: bool = True) -> None:
        super().__init__(fast, name)
        self.value, self.flush = value, flush

    def between(self) -> None:
        for slot in self.fast.data.state.values():
            for array in slot:
                array.fill(self.value)

    def run(self, n: int) -> float:
        import fastopt

        fastopt.set_flush_denormals(self.flush)
        try:
            return super().run(n)
        finally:
            fastopt.set_flush_denormals(True)


def denormals(workloads: Sequence[str], seconds: float) -> list[Record]:
    """Moments that have decayed to denormal numbers, as they do where gradients stay zero."""
    rows = []
    for workload in workloads:
        for dtype, tiny in (("float32", 1e-40), ("float64", 1e-310)):
            fast = prepared(arrays(workload, dtype))
            fast.data.renew([np.zeros_like(g) for g in fast.data.grads])
            contenders = [
                Decayed(fast, "normal", 1e-3),
                Decayed(fast, "denormal", tiny),
                Decayed(fast, "denormal, kept", tiny, flush=False),
            ]
            rows += timed("denormal", f"{workload} {dtype}", contenders, seconds)
    return rows


# ------------------------------------------------------------------------------------------------------ busy machine


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Other processes keep every core busy."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        sleep(0.2)
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def busy_machine(workloads: Sequence[str], threads: int, seconds: float) -> list[Record]:
    """One thread and all of them, while others keep every core busy."""
    rows = []
    for workload in workloads:
        fast = prepared(arrays(workload))
        with busy(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1):
            fast.run(100)  # learns what the condition is before it is calibrated
            # A block as long as many turns of the scheduler: of 3 ms each, one more or less would decide.
            rows += timed("busy", workload, [fast, Limited(fast, 1)], seconds, rounds=(25, 60), block=0.06)
    return rows


# ----------------------------------------------------------------------------------------------------------- options


def options(workloads: Sequence[str], threads: int, seconds: float) -> list[Record]:
    """What schedules, groups, checks and clipping add to a step, and what one read of the gradients would cost."""
    import fastopt
    from fastopt.schedules import CosineDecay, Warmup

    def variant(name: str, data: Data, groups: bool = False, **extra: Any) -> Fastopt:
        fast = Fastopt(Case("adam", "Adam", {**ADAM.options, **extra}, ADAM.state), data)
        fast.name = name
        if groups:
            tree = [{"params": data.tree(data.params)}]
            optimizer = fastopt.Adam(tree, **fast.case.options)
            gradients = [data.tree(data.grads)]
            fast.step = lambda: optimizer.step(gradients)
        return fast

    schedule = Warmup(steps=100, after=CosineDecay(lr=1e-3, total=10**9))
    rows = []
    for workload in workloads:
        data = arrays(workload)
        contenders: list[Contender] = [
            variant("plain", data),
            variant("schedule", data, lr=schedule),
            variant("schedule and groups", data, groups=True, lr=schedule),
            variant('nonfinite="skip"', data, nonfinite="skip"),
            variant("clip_norm", data, clip_norm=1e9),
        ]
        for n in {1, threads}:
            read = GradientRead(data, n)
            read.name = f"one read of the gradients, {n} thread{'s' * (n > 1)}"
            contenders.append(read)
        rows += timed("options", workload, contenders, seconds, rounds=(9, 60))
    return rows


# ------------------------------------------------------------------------------------------------- memory and import


def _resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def memory(workload: str) -> list[Record]:
    """What a step allocates at its peak: by Python's own accounting, and by the high-water mark of resident memory."""
    rows = []
    for step in ("fastopt", "NumPy twin"):
        fast = prepared(arrays(workload))
        method = fast.optimizer.step if step == "fastopt" else fast.optimizer.reference_step
        take = functools.partial(method, fast.data.tree(fast.data.grads))
        take()
        tracemalloc.start()
        take()
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        resident = float("nan")
        if os.access("/proc/self/clear_refs", os.W_OK):
            with open("/proc/self/clear_refs", "w") as reset:
                reset.write("5")  # the high-water mark starts anew
            before = _resident("VmRSS")
            take()
            resident = _resident("VmHWM") - before
        size = sum(p.nbytes for p in fast.data.params)
        rows.append(
            {"workload": workload, "contender": step, "traced": traced, "resident": resident, "parameters": size}
        )
    return rows


def import_time(repeats: int) -> dict[str, float]:
    """Seconds in fresh processes: of `import numpy`, and of what `import fastopt` adds to it."""
    program = (
        "from time import perf_counter as t; a = t(); import numpy; b = t(); import fastopt; print(b - a, t() - b)"
    )
    runs = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        runs.append([float(x) for x in done.stdout.split()])
    return {"numpy": median(r[0] for r in runs), "fastopt": median(r[1] for r in runs)}


def measure(sizes: Sequence[str], large: Sequence[str], threads: int, seconds: float) -> dict[str, Any]:
    # five optimizers, each with its state, over the same parameters and gradients
    large = [workload for workload in large if 12 * 4 * elements(workload) < available_memory()]
    return {
        "conditions": [
            *gaps(sizes, threads, seconds),
            *busy_machine(sizes, threads, seconds),
            *denormals(sizes[1:3], seconds / 2),
            *options(["1", *large], threads, seconds),
        ],
        "memory": memory(sizes[-1]),
        "import": import_time(9),
    }
