"""What a training leaves: the table, and the JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

import fastopt

from .data import LINE_INTERCEPT, LINE_SLOPE, Data, Split
from .models import Network
from .settings import Settings, flat
from .training import Result


def describe(settings: Settings, data: Data, split: Split) -> str:
    """Data and model in a few words, as for a title."""
    widths = (split.x.shape[1], *settings.hidden, max(len(data.classes), 1))
    layers = f" {'-'.join(map(str, widths))}" if settings.model == "mlp" else ""
    return f"{data.name}, {settings.model}{layers}, batches of {settings.batch_size}"


def headline(settings: Settings, data: Data, split: Split, model: Network) -> str:
    """One line on the task."""
    return (
        f"{describe(settings, data, split)}, {settings.epochs} epochs, {settings.dtype}; "
        f"{len(split.y)} rows to train on, {len(split.y_test)} held out; the loss is {model.loss.name}"
    )


def table(results: Sequence[Result]) -> Table:
    """Two rows an optimizer: updated by fastopt, and by plain NumPy."""
    with_accuracy = results[0].fastopt.train_accuracy is not None
    parameters = list(results[0].fastopt.parameters or {})
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("optimizer", "lr", "update by"):
        made.add_column(column, no_wrap=True)
    for column in ("train loss", "held-out loss", *(["accuracy"] if with_accuracy else []), *parameters):
        made.add_column(column, justify="right", no_wrap=True)
    for column in ("updates", "seconds", "µs/step"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("step against NumPy", no_wrap=True)
    for result in results:
        for update, score in (("fastopt", result.fastopt), ("NumPy", result.numpy)):
            if score is None:
                continue
            first = score is result.fastopt
            accuracy = score.train_accuracy if score.test_accuracy is None else score.test_accuracy
            made.add_row(
                *((result.optimizer, f"{result.lr:g}") if first else ("", "")),
                update,
                _number(score.train_loss),
                _number(score.test_loss),
                *([] if accuracy is None else [f"{accuracy:.1%}"]),
                *(f"{value:.4f}" for value in (score.parameters or {}).values()),
                str(result.updates),
                f"{score.seconds:.3f}",
                f"{score.step_us:.2f}",
                verdict(result) if first else "",
                end_section=not first or result.numpy is None,
            )
    return made


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:#.6g}"


def speed_up(result: Result) -> float | None:
    """How many times the median step of NumPy takes the time of fastopt's."""
    return None if result.numpy is None else result.numpy.step_us / result.fastopt.step_us


def verdict(result: Result) -> str:
    """Say how many times as fast a step is, and whether all ended with the same bits."""
    ratio = speed_up(result)
    return "" if ratio is None else f"{ratio:.1f}x, {'same bits' if result.identical else 'OTHER BITS'}"


def as_json(results: Sequence[Result], settings: Settings, data: Data, split: Split, model: Network) -> str:
    """Everything of a command: task, settings, and of each optimizer the numbers of the table and the curves."""
    document: dict[str, Any] = {
        "fastopt": fastopt.__version__,
        "numpy": np.__version__,
        "settings": flat(settings),
        "data": {
            "name": data.name,
            "rows": len(split.y),
            "rows_held_out": len(split.y_test),
            "columns": split.x.shape[1],
            "classes": list(data.classes),
        },
        "loss": model.loss.name,
        "results": [asdict(result) | {"speed_up": speed_up(result)} for result in results],
    }
    if data.name == "line":
        document["data"] |= {"m": LINE_SLOPE, "b": LINE_INTERCEPT}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
