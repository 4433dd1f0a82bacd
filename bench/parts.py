"""The parts of a run: what each measures when there is little time, some, or enough. Each has a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click

from bench import conditions, loop, rows, steps
from bench.packages import Optax, Torch, TorchForeach, TorchFused
from bench.peers import Twin, threads
from bench.runner import one_core, own_process
from bench.workloads import LISTS, SINGLE, all_cases
from fastopt.optimizers import OPTIMIZERS

Results = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """How much to measure (smoke, short, full), and until when something may begin."""

    amount: str
    until: float
    only: Sequence[str]  # the workloads asked for

    def pick(self, smoke: Any, short: Any, full: Any) -> Any:
        return {"smoke": smoke, "short": short, "full": full}[self.amount]

    def workloads(self, smoke: list[str], short: list[str]) -> list[str]:
        """Those asked for, or those of this amount, which are all where it is full."""
        return list(self.only) or self.pick(smoke, short, SINGLE + LISTS)


def _sizes(run: Run) -> Results:
    """Adam in float32 at every workload, against everybody."""
    workloads = run.workloads(["1", "1e4", "mlp"], SINGLE + LISTS)
    patience = run.pick(math.inf, 20, math.inf)
    return steps.measure(["adam"], ["float32"], workloads, threads(), run.pick(0.0, 2.5, 15.0), run.until, patience)


def _rules(run: Run) -> Results:
    """Every rule and type, against everybody; Adam in float32 has parts of its own."""
    workloads = run.workloads(["1e3"], ["1e6", "1e3", "1e5", "1e7", "mlp"])
    found: Results = {}
    for workload, dtype in product(workloads, ["float32", "float64"]):
        cases = [name for name in all_cases() if (name, dtype) != ("adam", "float32")]
        add(found, steps.measure(cases, [dtype], [workload], threads(), run.pick(0.0, 0.5, 3.0), run.until))
    return found


def _classes(run: Run) -> Results:
    """Every class in float32 at two workloads, beside its roof, its NumPy twin, torch and optax."""
    cases = {case.optimizer: name for name, case in reversed(all_cases().items())}  # the plainest of each class
    names = [cases[name] for name in OPTIMIZERS]
    workloads = list(run.only) or run.pick(["1e3"], ["1e7", "thousand-small"], ["1e7", "thousand-small"])
    how = {"peers": [Twin, Torch, TorchForeach, TorchFused, Optax]}
    found = steps.measure(names, ["float32"], workloads, threads(), run.pick(0.0, 0.7, 5.0), run.until, **how)
    return {"classes": found["steps"], "skipped": found["skipped"]}


def _serial(run: Run) -> Results:
    """Adam with one thread, against everybody."""
    workloads = run.workloads(["1e3"], ["1e3", "1e5", "1e7", "mlp"])
    return steps.measure(["adam"], ["float32"], workloads, 1, run.pick(0.0, 1.0, 3.0), run.until)


def _billion(run: Run) -> Results:
    """Adam over 10^9 parameters, beside the roof alone: all others would want more memory."""
    workloads = run.pick(["1e3"], [], ["1e9"])
    return steps.measure(["adam"], ["float32"], workloads, threads(), run.pick(0.0, 0.0, 30.0), run.until, peers=[])


def _scaling(run: Run) -> Results:
    """One thread, two, four, ..."""
    return steps.scaling(run.pick(["1e4"], SINGLE[3:7], SINGLE[2:]), threads(), run.pick(0.0, 1.0, 10.0))


def _loop(run: Run) -> Results:
    """Forward and backward pass and step."""
    return loop.measure(list(loop.MODELS)[: run.pick(2, None, None)], run.pick(0.0, 10.0, 30.0))


def _first_steps(run: Run) -> Results:
    """The first and the second step of a new optimizer and after a rest."""
    workloads = run.workloads(["1e3", "mlp"], ["1e3", "1e5", "1e6", "1e7", "mlp"])
    bursts = run.pick(["65536"], ["65536", "1e7"], ["65536", "1e7"])
    return {"first-steps": conditions.first_steps(workloads, bursts, run.pick(0.0, 0.7, 4.0))}


def _conditions(run: Run) -> Results:
    """Work between steps, busy cores, denormals, options."""
    sizes = run.pick(["1e3", "1e4"], ["1e3", "1e4", "1e5", "1e6", "1e7"], SINGLE[:-1])
    large = run.pick(["1e4"], ["1e6", "1e8"], SINGLE[5:])
    return conditions.measure(sizes, large, run.pick(0.0, 1.0, 8.0))


def _rows(run: Run) -> Results:
    """Sparse gradients: some rows of a table."""
    tables, named = run.pick(([1000], 64), *[([10**4, 10**5, 10**6], rows.NAMED)] * 2)
    return rows.measure(tables, named, run.pick(0.0, 8.0, 30.0))


# In this order, so that what a slow machine leaves no time for is the least missed.
PARTS: dict[str, Callable[[Run], Results]] = {
    "sizes": _sizes,
    "classes": _classes,
    "serial": _serial,
    "scaling": _scaling,
    "loop": _loop,
    "first-steps": _first_steps,
    "conditions": _conditions,
    "rows": _rows,
    "rules": _rules,
    "serial-rules": _rules,
    "serial-classes": _classes,
    "billion": _billion,
}


def add(found: Results, result: Results) -> None:
    """More results: lists are joined, dicts merged, all the way down."""
    for key, value in result.items():
        if isinstance(value, list):
            found.setdefault(key, []).extend(value)
        elif isinstance(value, dict):
            add(found.setdefault(key, {}), value)
        else:
            found[key] = value


def work(name: str, run: Run) -> Results:
    """One part in this process."""
    try:
        return PARTS[name](run)
    finally:
        steps.end_processes()


def measured(name: str, run: Run, log: Path) -> Results:
    """One part in a fresh process, whose chatter, and that of all peers, goes to `log`."""
    cores = one_core() if name.startswith("serial") else nullcontext()
    with cores, own_process(log) as process:
        try:
            return process.submit(work, name, run).result()
        except BrokenProcessPool as error:
            raise click.ClickException(f"the process of the part {name} ended too early; {log} may say why") from error
