"""The options, and the order of work: settle all settings, check all input and output, train, report."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import fastopt
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import Warmup

from . import info as text_of_info
from . import outputs, report
from . import settings as st
from .data import EMBEDDED, Data, split
from .errors import DivergedError, InputError, InterruptedRunError
from .files import SEPARATORS, Reading, load
from .training import Interruption, Result, Run, default_rate, read

MOST = 2**31 - 1  # of rows, updates and widths: more is a slip of the keyboard
COUNT = click.IntRange(1, MOST)
SEARCH = (0.1, 0.3, 1, 3, 10)  # times the default learning rate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fastopt.__version__, prog_name="fastopt", message="%(prog)s %(version)s")
def command() -> None:
    """Fused optimizers for NumPy, from the command line."""


@command.command()
def info() -> None:
    """Print what was compiled and what runs here."""
    outputs.say(text_of_info(), sys.stdout)


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


def _separator(_: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and len(value) != 1 and value not in SEPARATORS:
        raise click.BadParameter(f"{value!r} is not one sign, tab or space", param=param)
    return value


class _Rates(click.ParamType):  # type: ignore[type-arg]
    """A learning rate, several with commas between, or a search."""

    name = "rate,...|search"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "search":
            return value
        try:
            rates = tuple(dict.fromkeys(map(float, str(value).split(","))))
        except ValueError:
            self.fail(f"{value!r} is no number, nor several such as 0.1,0.01, nor search.", param, ctx)
        return rates if len(rates) > 1 else rates[0]


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
@click.option(
    "--target", help="Column of a file to predict, by name, or by number from 0 if it has no names; no default."
)
@click.option(
    "--task",
    type=click.Choice(["regression", "classification"]),
    help="What the target of a file is for; default: what it looks like.",
)
@click.option(
    "--features", multiple=True, metavar="NAME,...", help="Columns of a file to use; default: all but the target."
)
@click.option("--drop", multiple=True, metavar="NAME,...", help="Columns of a file to leave out; default: none.")
@click.option(
    "--drop-missing/--keep-missing",
    default=None,
    help="Whether to leave out rows with missing values; default: they are an error.",
)
@click.option(
    "--sep",
    callback=_separator,
    help="What separates cells: one sign, tab, or space for any blanks; default: a comma, in .tsv a tab.",
)
@click.option("--header/--no-header", default=None, help="Whether a text file names its columns; default: it does.")
@click.option(
    "--model",
    type=click.Choice(st.MODELS),
    help="Linear, logistic, or a network with hidden layers; default: what suits the data.",
)
@click.option("--hidden", metavar="WIDTH,...", callback=_widths, help="Widths of the hidden layers of mlp; default 64.")
@click.option(
    "--optimizer",
    multiple=True,
    metavar="NAME,...|all",
    help=f"What updates the parameters: {', '.join(OPTIMIZERS)}. Default Adam; several are compared.",
)
@click.option(
    "--lr",
    type=_Rates(),
    help="Learning rate, or several to compare, as 0.1,0.01; search: the default one, and others from a tenth to ten "
    "times as high. Default: what suits data and optimizer.",
)
@click.option(
    "--schedule",
    metavar="NAME[:KEY=NUMBER,...]",
    help=f"How lr changes in the run: {', '.join(st.decays())}; default: it does not.",
)
@click.option("--warmup", type=click.IntRange(0, MOST), help="Updates in which lr rises from 0 first; default 0.")
@click.option("--clip-norm", type=float, help="Scale gradients of a larger norm down to this; default: no limit.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Most rows of an update; default: 32, or what suits the data."
)
@click.option("--epochs", type=COUNT, help="Passes over the rows; default: 20, and enough for 1000 updates in a table.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Seed of the first weights, of the held-out rows and of the order of rows; default 0.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), help="Type of rows and parameters; default float32."
)
@click.option("--test-fraction", type=float, help="Part of the rows that are held out to measure on; default 0.2.")
@click.option(
    "--experiment",
    type=click.Choice(list(st.EXPERIMENTS)),
    help="A classic experiment with its settings, which other options override; default: none.",
)
@click.option(
    "--compare/--no-compare",
    default=True,
    help="Also train in NumPy, and show how many times as long its step takes; default: do.",
)
@click.option(
    "--stop-after", type=COUNT, help="Stop after so many updates, to go on with --resume; default: at the end."
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Save the run here, also on Ctrl-C and SIGTERM, to go on with --resume; - is standard output; default: no.",
)
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with a saved run; default: begin a new one.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help=f"Draw losses and accuracy: {', '.join(outputs.PICTURES)}; default: do not.",
)
@click.option(
    "--json", type=click.Path(path_type=Path), help="Write all numbers; - is standard output; default: do not."
)
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

    DATA is line (default), diabetes, iris, wine, breast_cancer, digits, or a file: .csv, .tsv, .txt or .data, also with
    .gz, .npy or .npz.
    """
    given = {key: value for key, value in options.items() if value not in (None, ())}
    settings, data, set_by_hand = _settle(given, experiment, resume)
    table = None if settings.data in EMBEDDED else Path(settings.data)
    outputs.check({"--plot": plot, "--json": json, "--save": save}, {"DATA": table, "--resume": resume})
    rows = split(data, settings.test_fraction, settings.seed, settings.dtype)
    if settings.batch_size > len(rows.y):
        raise InputError(f"--batch-size {settings.batch_size}: there are only {len(rows.y)} rows to train on")
    planned = [(name, rate) for name in settings.optimizer for rate in _rates(settings, name, data)]
    each = [st.own(replace(settings, lr=rate), name, set_by_hand, data, len(rows.y)) for name, rate in planned]
    if save and len(each) > 1:
        raise InputError("--save: a saved run is of one optimizer with one rate; name them with --optimizer and --lr")
    runs = [
        Run(name, own, data, rows, twin=compare, resume=resume) for (name, _), own in zip(planned, each, strict=True)
    ]
    if all(own == each[0] for own in each):
        settings = each[0]
    draw = _drawing("losses") if plot else None  # takes half a second, and takes it before the training
    with Interruption() if save else contextlib.nullcontext(Interruption()) as interruption:
        results, diverged = _train(runs, stop_after, save, interruption)
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
    if interruption.signal and results[0].updates < runs[0].total:
        raise InterruptedRunError(
            f"interrupted after update {results[0].updates}, saved in {save}: go on with --resume {save}",
            interruption.signal,
        )
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


def _rates(settings: st.Settings, name: str, data: Data) -> Iterable[float | None]:
    """The learning rates to train one optimizer with."""
    if settings.lr == "search":
        return [float(f"{default_rate(name, data) * factor:.3g}") for factor in SEARCH]
    return settings.lr if isinstance(settings.lr, tuple) else [settings.lr]


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
    table: dict[str, Any] = {"data": "line", "seed": 0} | base | given
    reading = Reading(**{key: table[key] for key in st.READING if key in table})
    data = load(table["data"], reading, table["seed"])
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
            param = options[key]
            # Runs of fastopt 0.1 do not say how a file is read: there was one way.
            value = saved.get(key, defaults[key]) if key in st.READING else saved[key]
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


def _train(
    runs: list[Run], stop_after: int | None, save: Path | None, interruption: Interruption
) -> tuple[list[Result], list[str]]:
    """Train each, with a bar on a terminal; the results, and what became of those that diverged."""
    console = Console(file=cast(TextIO, _Lossy()))
    columns = (
        TextColumn("{task.description:17}"),
        BarColumn(None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:#.4g}"),
        TimeRemainingColumn(),
    )
    # Drawn between updates by this thread: a drawing thread would take the interpreter from the steps being timed.
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
    results, diverged = [], []
    with bar if console.is_terminal else contextlib.nullcontext():
        for run in runs:
            task = bar.add_task(run.name, total=run.length(stop_after), loss=float("nan"))
            show = functools.partial(_show, bar, task) if console.is_terminal else lambda done, loss: None
            try:
                results.append(run.train(stop_after, save, show, interruption))
            except DivergedError as error:
                diverged.append(str(error))
            bar.update(task, visible=False)  # dozens of them are higher than a terminal
    return results, diverged


def _show(bar: Progress, task: TaskID, done: int, loss: float) -> None:
    bar.update(task, completed=done, loss=loss, refresh=True)
