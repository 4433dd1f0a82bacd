"""``python -m bench``: measure, print the verdict tables, leave bench.json and the plots in out/."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from time import time
from typing import Any

import click
from rich.console import Console

Results = dict[str, Any]
SINGLE = ["1", "100", "1e3", "1e4", "1e5", "1e6", "1e7", "1e8"]
LISTS = ["mlp", "thousand-small", "resnet50", "gpt2-small"]
TYPES = ["float32", "float64"]


@dataclass(frozen=True)
class Run:
    """How much to measure (smoke, short, full), with how many threads, until when something may begin."""

    amount: str
    threads: int
    until: float
    only: Sequence[str]  # the workloads asked for

    def pick(self, smoke: Any, short: Any, full: Any) -> Any:
        return {"smoke": smoke, "short": short, "full": full}[self.amount]

    def workloads(self, smoke: list[str], short: list[str]) -> list[str]:
        """Those asked for, or those of this amount, which are all where it is full."""
        return list(self.only) or self.pick(smoke, short, SINGLE + LISTS)


def _sizes(run: Run) -> Results:
    """Adam in float32 at every workload, against everybody."""
    from bench.steps import measure

    workloads = run.workloads(["1", "1e4", "mlp"], SINGLE + LISTS)
    patience = run.pick(math.inf, 20, math.inf)
    return measure(["adam"], ["float32"], workloads, run.threads, run.pick(0.0, 2.5, 15.0), run.until, patience)


def _rules(run: Run) -> Results:
    """Every rule and type, against everybody; Adam in float32 has parts of its own."""
    from bench.steps import measure
    from bench.workloads import all_cases

    workloads = run.workloads(["1e3"], ["1e6", "1e3", "1e5", "1e7", "mlp"])
    seconds = run.pick(0.0, 0.5, 3.0)
    return merge(
        [
            measure([name for name in all_cases() if (name, dtype) != ("adam", "float32")], [dtype], [workload],
                    run.threads, seconds, run.until)
            for workload, dtype in product(workloads, TYPES)
        ]
    )  # fmt: skip


def _serial(run: Run) -> Results:
    """Adam with one thread."""
    from bench.steps import measure

    workloads = run.workloads(["1e3"], ["1e3", "1e5", "1e7", "mlp"])
    return measure(["adam"], ["float32"], workloads, run.threads, run.pick(0.0, 1.0, 3.0), run.until)


def _scaling(run: Run) -> Results:
    """One thread, two, four, ..."""
    from bench.scaling import measure

    return measure(run.pick(["1e4"], SINGLE[3:7], SINGLE[2:]), run.threads, run.pick(0.0, 1.0, 10.0))


def _loop(run: Run) -> Results:
    """Forward and backward pass and step."""
    from bench.loop import MODELS, measure

    return measure(list(MODELS)[: run.pick(2, None, None)], run.pick(0.0, 10.0, 30.0))


def _conditions(run: Run) -> Results:
    """Busy cores, work between steps, denormals, options, memory, import."""
    from bench.conditions import measure

    sizes = run.pick(["1e3", "1e4"], ["1e3", "1e4", "1e5", "1e6", "1e7"], SINGLE[:-1])
    large = run.pick(["1e4"], ["1e6", "1e8"], SINGLE[5:])
    return measure(sizes, large, run.threads, run.pick(0.0, 1.0, 8.0))


def _instructions(run: Run) -> Results:
    """Instruction counts under callgrind: a minute, so not in the short run."""
    from bench.instructions import compare
    from bench.runner import Unavailable

    try:
        return {"instructions": compare()}
    except Unavailable as reason:
        return {"skipped": {"instructions": {str(reason): ["callgrind"]}}}


# In this order, so that what a slow machine leaves no time for is the least missed.
PARTS: dict[str, Callable[[Run], Results]] = {
    "sizes": _sizes,
    "serial": _serial,
    "scaling": _scaling,
    "loop": _loop,
    "conditions": _conditions,
    "rules": _rules,
    "serial-rules": _rules,
    "instructions": _instructions,
}


def merge(results: list[Results]) -> Results:
    """Lists are joined, dicts merged."""
    found: Results = {}
    for result in results:
        for key, value in result.items():
            if isinstance(value, list):
                found.setdefault(key, []).extend(value)
            elif key == "skipped":
                for peer, reasons in value.items():
                    for reason, cells in reasons.items():
                        found.setdefault(key, {}).setdefault(peer, {}).setdefault(reason, []).extend(cells)
            else:
                found.setdefault(key, {}).update(value)
    return found


def measured(name: str, run: Run) -> Results:
    """One part, in a process of its own: with one thread by an affinity mask that everybody in it must obey."""
    environment = dict(os.environ)
    if name.startswith("serial"):
        run = replace(run, threads=1)
        single = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")
        environment.update(dict.fromkeys(single, "1"))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "part.json"
        command = [sys.executable, "-m", "bench", "part", name, json.dumps(asdict(run)), str(target)]
        with (Path(folder) / "log").open("w+") as log:  # peers chatter
            done = subprocess.run(command, env=environment, stdout=log, stderr=log)
            if done.returncode:
                log.seek(0)
                tail = "".join(log.readlines()[-15:])
                raise click.ClickException(f"the part {name} ended with status {done.returncode}:\n{tail}")
        return json.loads(target.read_text())  # type: ignore[no-any-return]


def terminal() -> Console:
    """The terminal, or 130 columns where the output goes elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


@click.group(invoke_without_command=True)
@click.option("--full", "amount", flag_value="full", help="Every rule, type and workload: 40 minutes or more.")
@click.option("--smoke", "amount", flag_value="smoke", help="See that everything runs: the timings mean nothing.")
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Only this part; may be repeated.")
@click.option(
    "--workload", "only", multiple=True, type=click.Choice(SINGLE + LISTS),
    help="In the parts sizes, serial, rules and serial-rules only this workload; may be repeated.",
)  # fmt: skip
@click.option("--minutes", type=float, help="How long it may take, about.  [default: 5; with --full: no limit]")
@click.option("--out", default="out", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def main(
    context: click.Context,
    amount: str | None,
    parts: tuple[str, ...],
    only: tuple[str, ...],
    minutes: float | None,
    out: Path,
) -> None:
    """Benchmark fastopt against the machine's roof and everybody else: tables, plots and bench.json in OUT.

    The shorter the run, the fewer rules it comes to besides Adam. What was measured is written after each part.
    """
    if context.invoked_subcommand:
        return
    import fastopt
    from bench import machine, plots, report
    from bench.runner import others

    amount = amount or "short"
    if amount == "short" and minutes is None:
        minutes = 5.0
    # What must be done when nothing new is begun any more takes less than a minute and a half.
    until = math.inf if minutes is None else time() + 60 * minutes - 90
    run = Run(amount, fastopt.get_num_threads(), until, only)
    how = [] if amount == "short" else [f"--{amount}"]
    how += [] if minutes is None else [f"--minutes {minutes:g}"]
    how += [f"--part {name}" for name in parts] + [f"--workload {workload}" for workload in only]
    console = terminal()
    found: Results = {"machine": machine.describe(" ".join(["python -m bench", *how])), "load": {}}
    out.mkdir(parents=True, exist_ok=True)
    for name in parts or [name for name in PARTS if amount == "full" or name != "instructions"]:
        with console.status(f"{name}: {PARTS[name].__doc__}"), others() as load:
            result = measured(name, run)
        found = merge([found, result, {"load": {name: load}}])
        (out / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    pictures = plots.draw(found, out)
    report.show(found, console)
    console.print(f"wrote {', '.join(str(path) for path in [out / 'bench.json', *pictures])}")


@main.command(hidden=True)
@click.argument("name", type=click.Choice(list(PARTS)))
@click.argument("how")
@click.argument("target", type=click.Path(path_type=Path))
def part(name: str, how: str, target: Path) -> None:
    """Measure one part into a JSON file."""
    run = Run(**json.loads(how))
    if run.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    target.write_text(json.dumps(PARTS[name](run)))


@main.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("pages", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def page(results: Path, pages: tuple[Path, ...]) -> None:
    """Put the tables and pictures of RESULTS between the marks in PAGES."""
    from bench import report

    found = json.loads(results.read_text())
    for target in pages:
        click.echo(f"{target}: {report.fill(target, found, results.parent)} blocks filled")


@main.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def show(results: Path) -> None:
    """Draw the plots and print the tables of RESULTS again."""
    from bench import plots, report

    found = json.loads(results.read_text())
    plots.draw(found, results.parent)
    report.show(found, terminal())


@main.command()
@click.option("--update", is_flag=True, help="Store what was counted.")
def instructions(update: bool) -> None:
    """Count instructions under callgrind; status 1 where a step needs more than was stored."""
    from bench import report
    from bench.instructions import TOLERANCE, compare, key
    from bench.runner import Unavailable

    try:
        rows = compare(update)
    except Unavailable as reason:
        click.echo(f"instructions: skipped, {reason}")
        return
    terminal().print(report.instructions({"instructions": rows}).rich())
    if all(row["ratio"] is None for row in rows):
        click.echo(f"instructions: nothing stored for {key()}; --update stores")
    if any(row["ratio"] and row["ratio"] > 1 + TOLERANCE for row in rows):  # type: ignore[operator]
        raise click.ClickException(f"more than {1 + TOLERANCE:.2f} times the stored count")


if __name__ == "__main__":
    main(prog_name="python -m bench")
