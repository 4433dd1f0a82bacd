"""``python -m bench``: measure, print the tables, leave bench.json and the plots in out/."""

from __future__ import annotations

import json
import math
from pathlib import Path
from time import time

import click
from rich.console import Console

from bench.parts import PARTS, Results, Run, add, measured
from bench.workloads import LISTS, SINGLE

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(invoke_without_command=True)
@click.option("--full", "amount", flag_value="full", help="Every rule, type and workload: 40 minutes or more.")
@click.option("--smoke", "amount", flag_value="smoke", help="See that everything runs: the timings mean nothing.")
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Only this part; may be repeated.")
@click.option("--workload", "only", multiple=True, type=click.Choice(SINGLE + LISTS), metavar="NAME",
              help=f"Only this workload, of {', '.join(SINGLE + LISTS)}; may be repeated. The parts scaling, loop and "
              "conditions have workloads of their own.")  # fmt: skip
@click.option("--minutes", type=float, help="How long it may take, about.  [default: 15; with --full: no limit]")
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
    """Measure the steps of fastopt and of everybody else.

    Beside them stands the roof, the fastest time in which this machine can move the same bytes. Tables are printed;
    bench.json, the plots and a log are left in OUT.

    The shorter the run, the less it comes to besides Adam and a line for each class. What was measured is written after
    each part.
    """
    if context.invoked_subcommand:
        return
    from bench import machine, plots, report
    from bench.runner import others

    amount = amount or "short"
    if amount == "short" and minutes is None:
        minutes = 15.0
    # What must be done when nothing new is begun any more takes less than a minute and a half.
    until = math.inf if minutes is None else time() + 60 * minutes - 90
    how = [] if amount == "short" else [f"--{amount}"]
    how += [] if minutes is None else [f"--minutes {minutes:g}"]
    how += [f"--part {name}" for name in parts] + [f"--workload {workload}" for workload in only]
    console = Console()
    found: Results = {"machine": machine.describe(" ".join(["python -m bench", *how])), "load": {}}
    out.mkdir(parents=True, exist_ok=True)
    for name in parts or PARTS:
        with console.status(f"{name}: {PARTS[name].__doc__}"), others() as load:
            result = measured(name, Run(amount, until, only), out / "bench.log")
        add(found, {**result, "load": {name: load}})
        (out / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    pictures = plots.draw(found, out)
    report.show(found, console)
    console.print(f"wrote {', '.join(str(path) for path in [out / 'bench.json', *pictures])}")


@main.command()
@click.argument("results", type=FILE)
def show(results: Path) -> None:
    """Draw the plots and print the tables of RESULTS, a bench.json, again."""
    from bench import plots, report

    found = json.loads(results.read_text())
    plots.draw(found, results.parent)
    report.show(found, Console())


@main.command()
@click.argument("results", type=FILE)
@click.argument("pages", nargs=-1, required=True, type=FILE)
def page(results: Path, pages: tuple[Path, ...]) -> None:
    """Put the tables of RESULTS, a bench.json, between the marks in PAGES, and the plots into docs/images."""
    from bench import plots, report

    found = json.loads(results.read_text())
    for path in pages:
        path.write_text(report.fill(path.read_text(), found))
    plots.draw(found, Path("docs/images"), "bench-")


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
    report.print_sheet(report.instructions({"instructions": rows}), Console())
    if all(row["ratio"] is None for row in rows):
        click.echo(f"instructions: nothing stored for {key()}; --update stores")
    if any(row["ratio"] and row["ratio"] > 1 + TOLERANCE for row in rows):
        raise click.ClickException(f"more than {1 + TOLERANCE:.2f} times the stored count")


if __name__ == "__main__":
    main(prog_name="python -m bench")
