"""What a training leaves: headline and table for readers, JSON for programs."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.table import Table

import fastopt

from .data import FAMILIES, LINE_INTERCEPT, LINE_SLOPE, Data, Split
from .models import Network
from .settings import Settings, flat
from .training import Result, Score

ROWS = 21  # of a schedule's table
MANY = 7  # results are shown by families
# Columns that are left out one after the other until the rest has room.
TWIN, BY_HAND = "against twin", "against NumPy"
LEAST_FIRST = (("seconds",), ("µs/step",), (TWIN,), ("lr",), ("m", "b"), ("held-out loss",), ("accuracy",))
MOST_CLASSES = 10  # in the headline


def describe(settings: Settings, data: Data, split: Split) -> str:
    """Data and model in a few words."""
    widths = (split.x.shape[1], *settings.hidden, max(len(data.classes), 1))
    layers = f" {'-'.join(map(str, widths))}" if settings.model == "mlp" else ""
    return f"{data.name}, {settings.model}{layers}"


def headline(settings: Settings, data: Data, split: Split, model: Network, results: Sequence[Result]) -> list[str]:
    """Model and training; then the task, and how to ask for the other one; then who was trained otherwise."""
    asked = f"batches of {settings.batch_size}, epochs {settings.epochs}"
    amounts = {r.optimizer: f"batches of {r.batch_size}, epochs {r.epochs}, updates {r.updates}" for r in results}
    usual = next((amount for amount in amounts.values() if amount.startswith(f"{asked},")), asked)
    task = "regression"
    if data.classes:
        shown = [*data.classes[:MOST_CLASSES], *["..."] * (len(data.classes) > MOST_CLASSES)]
        task = f"classification, {len(data.classes)} classes: {', '.join(shown)}"
    if settings.target is not None:
        if not data.classes:
            task += " (for classes: --task classification)"
        elif data.numeric:
            task += " (for numbers: --task regression)"
    train, test, columns = len(split.y), len(split.y_test), split.x.shape[1]
    return [
        f"{describe(settings, data, split)}, {usual}, {settings.dtype}",
        f"target {data.target_name}, {task}; the loss is {model.loss.name}",
        f"{train + test} row{'s' * (train + test > 1)} of {columns} feature{'s' * (columns > 1)}: "
        f"{train} to train on, {test} held out",
        *data.notes,
        *[f"{name}: {amount}" for name, amount in amounts.items() if amount != usual],
    ]


def families(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Many results by family, the best of it first; a few as they are."""
    if len(results) < MANY:
        return {"": list(results)}
    of = {name: family for family, names in FAMILIES.items() for name in names}
    found: dict[str, list[Result]] = {family: [] for family in [*FAMILIES, "others"]}
    for result in results:
        found[of.get(result.optimizer, "others")].append(result)
    return {family: sorted(members, key=to_compare_by) for family, members in found.items() if members}


def last_loss(result: Result) -> float:
    """The held-out loss, or that of the training rows where none are held out."""
    score = result.fastopt
    return score.train_loss if score.test_loss is None else score.test_loss


def to_compare_by(result: Result) -> float:
    """`last_loss`, more than all others where it is NaN."""
    loss = last_loss(result)
    return math.inf if math.isnan(loss) else loss


def text(lines: Sequence[str], results: Sequence[Result], stream: TextIO) -> str:
    """The headline and the table, as wide as a terminal; into a file or a pipe, as wide as it takes."""
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    columns = _columns(results)
    left_out = []
    console, table = Console(file=stream), _table(results, columns)
    needed = _width(console, table)
    for names in LEAST_FIRST:
        if width is None or needed <= width:
            break
        left_out += [name for name in names if columns.pop(name, None)]
        table = _table(results, columns)
        needed = _width(console, table)
    # With a height too, or rich takes 80 columns for a terminal it calls dumb.
    console = Console(file=stream, width=needed, height=100)
    with console.capture() as shown:
        console.print(table)
    above, below = list(lines), _legend(columns)
    if left_out:
        below += [f"Not shown: {', '.join(left_out)}. A wider terminal has room, --json FILE writes all."]
    if width is not None:
        above, below = (
            [textwrap.fill(line, width, break_on_hyphens=False) for line in part] for part in (above, below)
        )
    rows = [line.rstrip() for line in shown.get().splitlines()]
    whole = "\n".join([*above, "", *rows, *_summary(results), "", *below, ""])
    try:
        "µ".encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        whole = whole.replace("µ", "u")
    return whole


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(width=1000)).maximum


def _columns(results: Sequence[Result]) -> dict[str, Callable[[Result, Score], str]]:
    """What stands in each column, by its heading."""
    score, indent = results[0].fastopt, "  " * (len(results) >= MANY)
    columns: dict[str, Callable[[Result, Score], str]] = {
        "optimizer": lambda result, score: indent + (result.optimizer if score is result.fastopt else "  NumPy twin"),
        "lr": lambda result, score: f"{result.lr:g}" if score is result.fastopt else "",
        "train loss": lambda _, score: _number(score.train_loss),
        "held-out loss": lambda _, score: _number(score.test_loss),
    }
    if score.train_accuracy is not None:
        columns["accuracy"] = lambda _, score: _percent(score.test_accuracy, score.train_accuracy)
    for name in score.parameters or {}:
        columns[name] = lambda _, score, name=name: f"{score.parameters[name]:.4f}"  # type: ignore[misc]
    columns["seconds"] = lambda _, score: f"{score.seconds:.3f}"
    columns["µs/step"] = lambda _, score: f"{score.step_us:.2f}"
    if results[0].numpy is not None:
        if any(result.by_hand_us for result in results):
            columns[BY_HAND] = lambda result, score: (
                f"{result.by_hand_us / score.step_us:.1f}x"
                if result.by_hand_us and score is result.fastopt
                else "-" * (score is result.fastopt)
            )
        columns[TWIN] = lambda result, score: verdict(result, bool(indent)) if score is result.fastopt else ""
    return columns


def _table(results: Sequence[Result], columns: dict[str, Callable[[Result, Score], str]]) -> Table:
    """Two rows an optimizer: updated by fastopt, and by plain NumPy. Of many, by families, one, unless they differ."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        heading = "\n".join(name.rsplit(" ", 1))
        made.add_column(heading, justify="left" if name in ("optimizer", "lr") else "right", no_wrap=True)
    for family, members in families(results).items():
        if family:
            made.add_row(f"{family}:")
        for result in members:
            twin = None if family and result.identical else result.numpy
            for score in filter(None, (result.fastopt, twin)):
                made.add_row(*(cell(result, score) for cell in columns.values()))
    return made


def _summary(results: Sequence[Result]) -> list[str]:
    """Which rate was best, of those who had several; of many, who is best of each family, and of all."""
    lines = []
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.optimizer, []).append(result)

    def rate(one: Result) -> str:
        return f"  lr {one.lr:g}" if len(by_name[one.optimizer]) > 1 else ""

    what = "training" if results[0].fastopt.test_loss is None else "held-out"
    for name, members in by_name.items():
        if len(members) > 1:
            best = min(members, key=to_compare_by)
            lines.append(f"best rate of {name}: {best.lr:g}, by {what} loss {_number(last_loss(best))}")
    several = families(results)
    if "" not in several:
        rows = {family: members[0] for family, members in several.items()} | {"all": min(results, key=to_compare_by)}
        room = max(map(len, rows))
        lines += [
            f"best of {family:{room}}  {one.optimizer:17}  {_number(last_loss(one))}{rate(one)}"
            for family, one in rows.items()
        ]
        same = [result.identical for result in results if result.numpy]
        lines += [f"{sum(map(bool, same))} of {len(same)} ended with the same bits as in NumPy"] * bool(same)
    return ["", *lines] if lines else []


def _legend(columns: Iterable[str]) -> list[str]:
    """What the two comparisons are, of those that are shown."""
    told = {
        BY_HAND: "how many times as long the step takes in NumPy as written by hand, the formula alone",
        TWIN: "the same of fastopt's own NumPy form, which has all its checks, and the bits",
    }
    return [f"{name}: {text}" for name, text in told.items() if name in columns]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:#.6g}"


def _percent(*values: float | None) -> str:
    """The first that there is."""
    return next((f"{value:.1%}" for value in values if value is not None), "-")


def speed_up(result: Result) -> float | None:
    """How many times the median step of the NumPy twin takes the time of fastopt's."""
    return None if result.numpy is None else result.numpy.step_us / result.fastopt.step_us


def _speed_ups(result: Result) -> dict[str, float | None]:
    by_hand = None if result.by_hand_us is None else result.by_hand_us / result.fastopt.step_us
    return {"speed_up": speed_up(result), "speed_up_by_hand": by_hand}


def verdict(result: Result, brief: bool = False) -> str:
    """Say how many times as fast a step is, and whether all ended with the same bits; in brief, where not."""
    ratio = speed_up(result)
    bits = "" if brief and result.identical else ", same bits" if result.identical else ", OTHER BITS"
    return "" if ratio is None else f"{ratio:.1f}x{bits}"


def as_json(
    results: Sequence[Result], diverged: Sequence[str], settings: Settings, data: Data, split: Split, model: Network
) -> str:
    """Everything of a command: task, settings, and of each optimizer the numbers of the table and the curves."""
    document: dict[str, Any] = {
        "fastopt": fastopt.__version__,
        "numpy": np.__version__,
        "settings": flat(settings),
        "data": {
            "name": data.name,
            "target": data.target_name,
            "rows": len(split.y),
            "rows_held_out": len(split.y_test),
            "columns": split.x.shape[1],
            "classes": list(data.classes),
        },
        "loss": model.loss.name,
        "results": [asdict(result) | _speed_ups(result) for result in results],
        "diverged": list(diverged),
    }
    if data.name == "line":
        document["data"] |= {"m": LINE_SLOPE, "b": LINE_INTERCEPT}
    return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"


def rates(schedule: Callable[[Any], Any], warmup: int, steps: int) -> str:
    """A table of 80 columns: the rates after some of the steps, and bars as long as they are high."""
    shown = np.unique([*np.linspace(0, steps, ROWS).round().astype(np.int64), warmup])
    shown = shown[shown <= steps]
    values = schedule(shown)
    number, numeral = max(len(str(steps)), len("step")), max(len(f"{value:.6g}") for value in values)
    numeral = max(numeral, len("rate"))
    room = 80 - number - numeral - 4
    highest = max(filter(math.isfinite, values.tolist()), default=0.0) or 1.0
    lines = [textwrap.fill(repr(schedule), 80, break_on_hyphens=False), "", f"{'step':>{number}}  {'rate':>{numeral}}"]
    for step, value in zip(shown, values, strict=True):
        bar = "#" * round(room * min(value / highest, 1.0)) if math.isfinite(value) else ""
        lines.append(f"{step:>{number}}  {value:>{numeral}.6g}  {bar}".rstrip())
    return "\n".join([*lines, ""])


def _finite(value: Any) -> Any:
    """A document in which null stands for Inf and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
