"""The options, and the order of work: settle all settings, check all input and output, train, report."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import fastopt
from fastopt.optimizers import OPTIMIZERS

from . import report
from . import settings as st
from .data import Data, load, split
from .errors import InputError
from .training import Result, Run, read

PICTURES = (".png", ".pdf", ".svg")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fastopt.__version__, prog_name="fastopt", message="%(prog)s %(version)s")
def command() -> None:
    """Fused optimizers for NumPy, from the command line."""


@command.command()
def info() -> None:
    """Print what was compiled and what runs here."""
    fastopt.show_config()
    fastopt.show_runtime()


def _widths(_: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """`64,32` as numbers."""
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of widths such as 64,32", param=param)
    return tuple(int(part) for part in parts)


def _hyper_option(key: str) -> click.Option:
    """The option of a keyword of optimizers; its type is that of the default."""
    owners = {name: st.hyper_parameters(name)[key] for name in OPTIMIZERS if key in st.hyper_parameters(name)}
    default = next(iter(owners.values()))
    help = "Of " + ", ".join(f"{name} ({st.text(value)})" for name, value in owners.items())
    flag = st.option(key)
    if isinstance(default, bool):
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=help)
    count = len(default) if isinstance(default, tuple) else 1
    return click.Option([flag], type=float, nargs=count, default=None, help=help)


HYPER = list(dict.fromkeys(key for name in OPTIMIZERS for key in st.hyper_parameters(name)))


@command.command()
@click.argument("data", required=False)
@click.option("--target", help="Column (CSV) or array (NPZ) to predict.")
@click.option("--task", type=click.Choice(["regression", "classification"]), help="What the target of a file is for.")
@click.option("--model", type=click.Choice(st.MODELS), help="Model; default: what suits the data.")
@click.option("--hidden", metavar="WIDTH,…", callback=_widths, help="Widths of the hidden layers of mlp; default 64.")
@click.option(
    "--optimizer", multiple=True, metavar="NAME|all", help=f"{', '.join(OPTIMIZERS)}; default Adam; may be repeated."
)
@click.option("--lr", type=float, help="Learning rate; default: what suits data and optimizer.")
@click.option("--schedule", metavar="NAME[:KEY=NUMBER,…]", help=f"Course of lr: {', '.join(st.decays())}.")
@click.option("--warmup", type=click.IntRange(min=0), help="Updates in which lr rises from 0.")
@click.option("--clip-norm", type=float, help="Scale gradients of a larger norm down to this.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Most rows of an update; default: what suits the data.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the rows; default: what suits the data.")
@click.option("--seed", type=click.IntRange(min=0), help="Of start, split and order of rows; default 0.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Of rows and parameters; default float32.")
@click.option("--test-fraction", type=click.FloatRange(0, 1), help="Part of the rows held out; default 0.2.")
@click.option("--experiment", type=click.Choice(list(st.EXPERIMENTS)), help="A classic; other options override it.")
@click.option("--compare/--no-compare", default=True, help="Also train by the plain NumPy update; default: do.")
@click.option("--stop-after", type=click.IntRange(min=1), help="Stop early, after so many updates.")
@click.option("--save", type=click.Path(path_type=Path), help="Save the run here, to be resumed.")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with a saved run.")
@click.option("--plot", type=click.Path(path_type=Path), help=f"Draw the losses: {', '.join(PICTURES)}.")
@click.option("--json", type=click.Path(path_type=Path), help="Write all numbers.")
def train(
    experiment: str | None,
    compare: bool,
    stop_after: int | None,
    save: Path | None,
    resume: Path | None,
    plot: Path | None,
    json: Path | None,
    **options: Any,
) -> None:
    """Train a model on a table, every update by fastopt.

    DATA is line (default), diabetes, digits, or a .csv or .npz file.
    """
    given = {key: value for key, value in options.items() if value not in (None, ())}
    settings, data = _settle(given, experiment, resume)
    if save and len(settings.optimizer) > 1:
        raise InputError("--save: a saved run is of one optimizer; name it with --optimizer")
    for flag, path in (("--plot", plot), ("--json", json), ("--save", save)):
        if path is not None:
            _check_output(flag, path)
    rows = split(data, settings.test_fraction, settings.seed, settings.dtype)
    if settings.batch_size > len(rows.y):
        raise InputError(f"--batch-size {settings.batch_size}: there are only {len(rows.y)} rows to train on")
    runs = [Run(name, settings, data, rows, twin=compare, resume=resume) for name in settings.optimizer]
    if plot:
        from .plots import draw  # here, since it takes half a second, and takes it before the training
    results = _train(runs, stop_after, save)
    model = runs[0].trainers[0].model
    console = Console()
    table = report.table(results)
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, needed)  # rather wrapped by the terminal than cut
    console.print(report.headline(settings, data, rows, model), highlight=False, soft_wrap=True)
    console.print(table)
    try:
        if json:
            json.write_text(report.as_json(results, settings, data, rows, model), encoding="utf-8")
        if plot:
            draw(results, report.describe(settings, data, rows), rows, model.loss.name, plot)
    except OSError as error:
        raise InputError(str(error)) from None
    for path in filter(None, (plot, json, save)):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


train.params += [_hyper_option(key) for key in HYPER]


def _settle(given: dict[str, Any], experiment: str | None, resume: Path | None) -> tuple[st.Settings, Data]:
    """Layer what was given over the saved run or the experiment, and that over what suits the data."""
    if experiment and resume:
        raise InputError("--experiment and --resume: a saved run brings its own settings")
    saved = read(resume) if resume else {}
    base = saved["settings"] if saved else st.EXPERIMENTS[experiment] if experiment else {}
    if "optimizer" in given:
        every = "all" in map(str.lower, given["optimizer"])
        given["optimizer"] = tuple(st.optimizer_names(given["optimizer"]))
    else:
        every = False
    names = given.get("optimizer", base.get("optimizer", ["Adam"]))
    st.check_hyper_parameters([key for key in given if key not in st.FIELDS], names, every=every)
    if saved:
        before = st.hyper_parameters(names[0]) | base
        for key, value in given.items():
            if key not in st.RESUMABLE and value != (was := st.typed(before[key])):
                raise InputError(f"{st.option(key)} {st.text(value)}: the saved run has {st.text(was)}")
    table = {"data": "line", "target": None, "task": None, "seed": 0} | base | given
    data = load(*(table[key] for key in ("data", "target", "task", "seed")))
    if saved and data.fingerprint() != saved["rows"]:
        raise InputError(f"--resume {resume}: it was trained on other rows than {data.name} has")
    settings = st.layered(data.defaults, base, given)
    if "hidden" in given and settings.model != "mlp":
        raise InputError(f"--hidden: the {settings.model} model has no hidden layers; use --model mlp")
    return settings, data


def _check_output(flag: str, path: Path) -> None:
    """Make the folder, and see that a file can be written, before hours of work and not after."""
    if flag == "--plot" and path.suffix.lower() not in PICTURES:
        raise InputError(f"{flag} {path}: pictures are {', '.join(PICTURES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b") if path.exists() else tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be written: {error.strerror}") from None


def _train(runs: list[Run], stop_after: int | None, save: Path | None) -> list[Result]:
    """Train each, with a bar on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return [run.train(stop_after, save, lambda done: None) for run in runs]
    results = []
    columns = (TextColumn("{task.description:10}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
    # Drawn between updates by this thread: a drawing thread would take the interpreter from the steps being timed.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        for run in runs:
            task = bar.add_task(run.name, total=run.length(stop_after))
            results.append(run.train(stop_after, save, functools.partial(_show, bar, task)))
    return results


def _show(bar: Progress, task: TaskID, done: int) -> None:
    bar.update(task, completed=done, refresh=True)
