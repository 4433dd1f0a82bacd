"""The options, and the order of work: settle all settings, check all input and output, train, report."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import fastopt
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import Warmup

from . import outputs, report
from . import settings as st
from .data import EMBEDDED, Data, split
from .errors import DivergedError, InputError
from .files import load
from .training import Result, Run, read

MOST = 2**31 - 1  # of rows, updates and widths: more is a slip of the keyboard
COUNT = click.IntRange(1, MOST)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fastopt.__version__, prog_name="fastopt", message="%(prog)s %(version)s")
def command() -> None:
    """Fused optimizers for NumPy, from the command line."""


@command.command()
def info() -> None:
    """Print what was compiled and what runs here."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        fastopt.show_config()
        fastopt.show_runtime()
    outputs.say(text.getvalue(), sys.stdout)


def _widths(_: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """`64,32` as numbers."""
    if value is None:
        return None
    try:
        widths = tuple(int(part) for part in value.split(","))
    except ValueError:
        widths = (0,)
    if not all(1 <= width <= MOST for width in widths):
        raise click.BadParameter(f"{value!r} is not a list of widths such as 64,32", param=param)
    return widths


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers with spaces between; how many there may be depends on the optimizer."""

    name = "float..."

    def __init__(self, counts: set[int]) -> None:
        self.counts = sorted(counts)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            numbers = tuple(map(float, value.split()))
        except ValueError:
            numbers = ()
        if len(numbers) not in self.counts:
            self.fail(f"{value!r} is not {' or '.join(map(str, self.counts))} numbers.", param, ctx)
        return numbers

    @staticmethod
    def joined(args: list[str], flags: set[str]) -> list[str]:
        """The numbers after each of these flags as one text: click's options take a fixed number of arguments."""
        rest, found = list(args), []
        while rest:
            flag, equals, first = rest.pop(0).partition("=")
            if flag not in flags:
                found.append(flag + equals + first)
                continue
            numbers = [*[first] * bool(equals), *itertools.takewhile(_is_number, rest)]
            del rest[: len(numbers) - bool(equals)]
            found += [flag, *[" ".join(numbers)] * bool(numbers)]
        return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class _Train(click.Command):
    """The command with the most options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = {flag for param in self.params if isinstance(param.type, _Numbers) for flag in param.opts}
        return super().parse_args(ctx, _Numbers.joined(args, flags))


def _hyper_option(key: str) -> click.Option:
    """The option of a keyword of optimizers; its type is that of the default."""
    owners = {name: st.hyper_parameters(name)[key] for name in OPTIMIZERS if key in st.hyper_parameters(name)}
    default = next(iter(owners.values()))
    having: dict[str, list[str]] = {}
    for name, value in owners.items():
        having.setdefault(st.text(value), []).append(name)
    # The names of most would fill the terminal; whoever lacks the option says so.
    of = {value: ", ".join(names) if 2 * len(names) < len(OPTIMIZERS) else "most" for value, names in having.items()}
    help = "Default " + "; ".join(f"{value} of {names}" for value, names in of.items()) + "."
    flag = st.option(key)
    if isinstance(default, bool):
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=help)
    counts = {len(value) if isinstance(value, tuple) else 1 for value in owners.values()}
    if len(counts) > 1:
        return click.Option([flag], type=_Numbers(counts), default=None, help=help)
    kind = int if isinstance(default, int) else float
    return click.Option([flag], type=kind, nargs=counts.pop(), default=None, help=help)


HYPER = list(dict.fromkeys(key for name in OPTIMIZERS for key in st.hyper_parameters(name)))


@command.command(cls=_Train)
@click.argument("data", required=False)
@click.option("--target", help="Column (CSV) or array (NPZ) to predict.")
@click.option("--task", type=click.Choice(["regression", "classification"]), help="What the target of a file is for.")
@click.option("--model", type=click.Choice(st.MODELS), help="Model; default: what suits the data.")
@click.option("--hidden", metavar="WIDTH,...", callback=_widths, help="Widths of the hidden layers of mlp; default 64.")
@click.option(
    "--optimizer",
    multiple=True,
    metavar="NAME,...|all",
    help=f"{', '.join(OPTIMIZERS)}; default Adam; may be repeated.",
)
@click.option("--lr", type=float, help="Learning rate; default: what suits data and optimizer.")
@click.option("--schedule", metavar="NAME[:KEY=NUMBER,...]", help=f"Course of lr: {', '.join(st.decays())}.")
@click.option("--warmup", type=click.IntRange(0, MOST), help="Updates in which lr rises from 0.")
@click.option("--clip-norm", type=float, help="Scale gradients of a larger norm down to this.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Most rows of an update; default: what suits the data.")
@click.option("--epochs", type=COUNT, help="Passes over the rows; default: what suits the data.")
@click.option("--seed", type=click.IntRange(min=0), help="Of start, split and order of rows; default 0.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Of rows and parameters; default float32.")
@click.option("--test-fraction", type=float, help="Part of the rows held out; default 0.2.")
@click.option("--experiment", type=click.Choice(list(st.EXPERIMENTS)), help="A classic; other options override it.")
@click.option("--compare/--no-compare", default=True, help="Also train by the plain NumPy update; default: do.")
@click.option("--stop-after", type=COUNT, help="Stop early, after so many updates.")
@click.option("--save", type=click.Path(path_type=Path), help="Save the run here, to be resumed; - is standard output.")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with a saved run.")
@click.option("--plot", type=click.Path(path_type=Path), help=f"Draw the losses: {', '.join(outputs.PICTURES)}.")
@click.option("--json", type=click.Path(path_type=Path), help="Write all numbers; - is standard output.")
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
    settings, data, set_by_hand = _settle(given, experiment, resume)
    if save and len(settings.optimizer) > 1:
        raise InputError("--save: a saved run is of one optimizer; name it with --optimizer")
    table = None if settings.data in EMBEDDED else Path(settings.data)
    outputs.check({"--plot": plot, "--json": json, "--save": save}, {"DATA": table, "--resume": resume})
    rows = split(data, settings.test_fraction, settings.seed, settings.dtype)
    if settings.batch_size > len(rows.y):
        raise InputError(f"--batch-size {settings.batch_size}: there are only {len(rows.y)} rows to train on")
    each = [st.own(settings, name, set_by_hand, data, len(rows.y)) for name in settings.optimizer]
    runs = [
        Run(name, own, data, rows, twin=compare, resume=resume)
        for name, own in zip(settings.optimizer, each, strict=True)
    ]
    if all(own == each[0] for own in each):
        settings = each[0]
    draw = _drawing("losses") if plot else None  # takes half a second, and takes it before the training
    results, diverged = _train(runs, stop_after, save)
    if not results:
        raise DivergedError("; ".join(diverged))
    model = runs[0].trainers[0].model
    document = report.as_json(results, diverged, settings, data, rows, model)
    # Whatever cannot be written, the rest is; files come first, since the table may have lost its reader.
    problems = [run.unsaved for run in runs if run.unsaved]
    written = [path for path in (save,) if path and path != outputs.STDOUT and not problems]
    with outputs.noted(problems, "--json", json):
        if json and json != outputs.STDOUT:
            json.write_text(document, encoding="utf-8")
            written.append(json)
    with outputs.noted(problems, "--plot", plot):
        if plot and draw:
            title = report.describe(settings, data, rows)
            plot.write_bytes(draw(results, title, rows, model.loss.name, plot.suffix[1:].lower()))
            written.append(plot)
    lines = report.headline(settings, data, rows, model, results)
    try:
        if json == outputs.STDOUT:
            outputs.say(document, sys.stdout)
        stream = outputs.opened(sys.stderr if outputs.STDOUT in (json, save) else sys.stdout)
        outputs.say(report.text(lines, results, stream), stream)
        outputs.say("".join(f"wrote {path}\n" for path in written), stream)
    except BrokenPipeError:
        if not problems and not diverged:
            raise
    except OSError as error:
        problems.append(f"standard output: {error.strerror or error}")
    if problems:
        raise InputError("; ".join(problems))
    if diverged:
        raise DivergedError("; ".join(diverged))


train.params += [_hyper_option(key) for key in HYPER]


@command.command(epilog="NAME is one of " + ", ".join(st.decays()) + ".")
@click.argument("schedule", metavar="NAME[:KEY=NUMBER,...]")
@click.option("--warmup", type=click.IntRange(0, MOST), default=0, help="Steps in which the rate rises from 0 first.")
@click.option("--steps", type=COUNT, help="Number of steps to show; default: those of the schedule, or 1000.")
@click.option("--plot", type=click.Path(path_type=Path), help=f"Draw the curve: {', '.join(outputs.PICTURES)}.")
def schedule(schedule: str, warmup: int, steps: int | None, plot: Path | None) -> None:
    """Print the rates of a schedule, and draw them.

    A list goes on after commas: multi-step:milestones=30,60,factor=0.5. lr is 1 if it is not given, and total is the
    number of steps after the warm-up.
    """
    if steps is not None and warmup >= steps:
        raise InputError(f"--warmup {warmup}: there are only {steps} --steps")
    after = max(1000 - warmup, 500) if steps is None else steps - warmup
    made = st.course(schedule, after, None)
    if steps is None:
        steps = min(warmup + st.length(made, after), MOST)
    outputs.check({"--plot": plot}, {})
    draw = _drawing("rates") if plot else None
    rates = Warmup(warmup, made) if warmup else made
    problems: list[str] = []
    with outputs.noted(problems, "--plot", plot):
        if plot and draw:
            plot.write_bytes(draw(rates, steps, schedule, plot.suffix[1:].lower()))
    outputs.say(report.rates(rates, warmup, steps), sys.stdout)
    if problems:
        raise InputError("; ".join(problems))
    if plot:
        outputs.say(f"wrote {plot}\n", sys.stdout)


def _settle(
    given: dict[str, Any], experiment: str | None, resume: Path | None
) -> tuple[st.Settings, Data, dict[str, Any]]:
    """Layer what was given over the saved run or the experiment, and that over what suits the data.

    Return the settings, the data, and those of the settings that are not what suits the data.
    """
    if experiment and resume:
        raise InputError("--experiment and --resume: a saved run brings its own settings")
    saved = read(resume) if resume else {}
    base = _typed_again(saved["settings"], resume) if saved else st.EXPERIMENTS[experiment] if experiment else {}
    if "optimizer" in given:
        every = "all" in map(str.lower, given["optimizer"])
        given["optimizer"] = tuple(st.optimizer_names(given["optimizer"]))
    else:
        every = False
    names = given.get("optimizer", base.get("optimizer", ["Adam"]))
    if saved and names != base["optimizer"]:  # before its options, which the saved run does not have
        raise InputError(f"--optimizer {st.text(names)}: the saved run has {st.text(base['optimizer'])}")
    own = {key: value for key, value in given.items() if key not in st.FIELDS}
    st.check_hyper_parameters(own, names, every=every)
    if saved:
        before = st.hyper_parameters(names[0]) | base
        for key, value in given.items():
            if key not in st.RESUMABLE and value != (was := before[key]):
                raise InputError(f"{st.option(key)} {st.text(value)}: the saved run has {st.text(was)}")
    table = {"data": "line", "target": None, "task": None, "seed": 0} | base | given
    data = load(*(table[key] for key in ("data", "target", "task", "seed")))
    if saved and data.fingerprint() != saved["rows"]:
        raise InputError(f"--resume {resume}: it was trained on other rows than {data.name} has")
    settings = st.layered(data.defaults, base, given)
    if "hidden" in given and settings.model != "mlp":
        raise InputError(f"--hidden: the {settings.model} model has no hidden layers; use --model mlp")
    return settings, data, base | given


def _typed_again(saved: dict[str, Any], resume: Path | None) -> dict[str, Any]:
    """Settings from a file, checked as those from the command line: the file may come from anywhere."""
    options = {param.name: param for param in train.params if param.name in (*st.FIELDS, *HYPER)}
    defaults = st.flat(st.Settings())
    settings: dict[str, Any] = {}
    try:
        for key in (*st.FIELDS, *saved):
            value, param = saved[key], options[key]
            if value is None and defaults.get(key, value) is None:
                settings[key] = None
                continue
            if key == "hidden":
                typed: Any = ",".join(map(str, value))
            else:
                several = param.multiple or param.nargs > 1
                one = " ".join(map(str, value)) if isinstance(param.type, _Numbers) else str(value)
                typed = [str(item) for item in value] if several else one
            settings[key] = param.process_value(click.get_current_context(), typed)
        settings["optimizer"] = tuple(st.optimizer_names(settings["optimizer"]))
        (_,) = settings["optimizer"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"--resume {resume}: its settings are none of fastopt train's: {error}") from None
    except click.BadParameter as error:
        raise InputError(f"--resume {resume}: {error.format_message()}") from None
    return settings


def _drawing(what: str) -> Callable[..., bytes]:
    """Import what draws: of what it has to say of its fonts and folders, nothing concerns the user of a command."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from .plots import draw, draw_rates
    except ValueError as error:  # MPLBACKEND is read by the import
        raise InputError(f"--plot: {error}") from None
    drawing: dict[str, Callable[..., bytes]] = {"losses": draw, "rates": draw_rates}
    return drawing[what]


class _Lossy:
    """Standard error for a bar: what it does not take, because its reader is gone, is no reason to end a training."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _train(runs: list[Run], stop_after: int | None, save: Path | None) -> tuple[list[Result], list[str]]:
    """Train each, with a bar on a terminal; the results, and what became of those that diverged."""
    console = Console(file=cast(TextIO, _Lossy()))
    columns = (TextColumn("{task.description:17}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
    # Drawn between updates by this thread: a drawing thread would take the interpreter from the steps being timed.
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
    results, diverged = [], []
    with bar if console.is_terminal else contextlib.nullcontext():
        for run in runs:
            task = bar.add_task(run.name, total=run.length(stop_after))
            show = functools.partial(_show, bar, task) if console.is_terminal else lambda done: None
            try:
                results.append(run.train(stop_after, save, show))
            except DivergedError as error:
                diverged.append(str(error))
            bar.update(task, visible=False)  # dozens of them are higher than a terminal
    return results, diverged


def _show(bar: Progress, task: TaskID, done: int) -> None:
    bar.update(task, completed=done, refresh=True)
