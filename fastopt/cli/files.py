"""Tables from CSV and NPZ files: reading them, then what their target is, numbers to fit or classes."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .data import EMBEDDED, EPS, Array, Data
from .errors import InputError

MOST_CLASSES = 20  # whole numbers with more distinct values than this are measured quantities, not classes
MOSTLY = 0.9  # a target of which so much is numbers, dates or amounts is one of these
MOST_NAMES = 20  # of columns, in a message

MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]  # cells of features without a number
DECORATION = str.maketrans("−", "-", "$€£¥%, '_\u00a0\u202f")  # noqa: RUF001  # what numbers are found written with
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
DATE = re.compile(
    r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3(\d{4}|\d{2}))([T ].*)?|\d{1,2}:\d{2}(:\d{2}.*)?"
)


@dataclass(frozen=True)
class Columns:
    """A file as it was read: features in float64 with their labels and relative rounding, and the target."""

    features: Array
    labels: Sequence[str]
    rounding: Array
    target: Array  # numbers, or text in an array of objects
    target_rounding: float = EPS


def load(name: str, target: str | None, task: str | None, seed: int) -> Data:
    """The table called `name`: an embedded one, else a file with the column `target`."""
    if name in EMBEDDED:
        for option, value in (("--target", target), ("--task", task)):
            if value is not None:
                raise InputError(f"{option} is for files; {name} has its own")
        return EMBEDDED[name](seed)
    path = Path(name)
    readers = {".csv": _csv, ".npz": _npz}
    if path.suffix.lower() not in readers:
        raise InputError(f"no data {name!r}: {', '.join(EMBEDDED)}, or a file .csv or .npz")
    try:
        if not path.is_file():
            raise InputError(f"{name}: no such file")
        columns = readers[path.suffix.lower()](path, target)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from None
    features = columns.features
    if not features.size:
        raise InputError(f"{name}: no rows" if not len(features) else f"{name}: no column besides the target")
    bad: Array = ~np.isfinite(features)
    if bad.any():
        row, at = np.argwhere(bad)[0]
        column = _shown(columns.labels[at])
        raise InputError(f"{name}: {_bad_rows(np.any(bad, axis=1))}, first in column {column}, row {row + 1}")
    return _with_target(path.name, columns, task, str(target))


def _bad_rows(bad: Array) -> str:
    count = int(bad.sum())
    return f"{count} row{'s' if count > 1 else ''} with a missing, NaN or infinite value"


def _shown(value: str) -> str:
    """A cell or a name in a message, cut if it is long."""
    return repr(value if len(value) <= 40 else value[:37] + "...")


def _csv(path: Path, target: str | None) -> Columns:
    import pandas as pd

    options: dict[str, Any] = {
        "encoding": "utf-8-sig",
        "skipinitialspace": True,
        "index_col": False,
        "low_memory": False,
        "keep_default_na": False,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            # pandas would rename the second of two columns of one name.
            head = pd.read_csv(path, header=None, nrows=1, dtype=str, **options).iloc[0]
            labels = [str(label).strip() or f"Unnamed: {at}" for at, label in enumerate(head)]
            _require_target(path, target, labels)
            options |= {"header": 0, "names": list(labels)}
            # A target is kept as text: what pandas makes of it depends on all its cells, and of "NA" nothing is left.
            labels.remove(str(target))
            missing = dict.fromkeys(labels, MISSING)
            table = pd.read_csv(path, dtype={target: str}, na_values=missing, **options)
            if any(table[label].dtype.kind not in "biuf" for label in labels):
                table = pd.read_csv(path, dtype=str, **options)  # four times as slow, but it knows what stands there
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty") from None
    except pd.errors.ParserWarning:
        raise InputError(f"{path}: not a CSV table: its rows have more cells than its header") from None
    except (pd.errors.ParserError, ValueError) as error:
        raise InputError(f"{path}: not a CSV table: {error}") from None
    features = np.empty((len(table), len(labels)))
    for at, label in enumerate(labels):
        cells = table[label]
        features[:, at] = cells if cells.dtype.kind in "biuf" else _feature(path, label, cells)
    column = np.array([cell.strip() for cell in table[target]], dtype=object)
    return Columns(features, labels, np.full(len(labels), EPS), column)


def _feature(path: Path, label: str, cells: Any) -> Array:
    """A column of a CSV table as numbers, NaN where a cell is missing; True and False are numbers too."""
    if set(cells.unique()) <= {"True", "False"}:
        return np.asarray(cells == "True", np.float64)
    numbers = _numbers(cells)
    for row in np.flatnonzero(np.isnan(numbers)):
        if (cell := cells.iloc[row].strip()) not in MISSING:
            raise InputError(
                f"{path}: text {_shown(cell)} in column {_shown(label)}, row {row + 1}: features are numbers"
            )
    return numbers


def _numbers(cells: Any) -> Array:
    """Text as numbers, NaN where it is none; whole numbers stay exact if all are."""
    import pandas as pd

    cells = pd.Series(cells, dtype=object)
    numbers = np.array(pd.to_numeric(cells, errors="coerce"))
    for row in np.flatnonzero(np.isnan(numbers)):
        if NUMBER.fullmatch(cell := cells.iloc[row].strip()):  # one that pandas finds too long, or too large
            numbers[row] = float(cell)
    return numbers


def _npz(path: Path, target: str | None) -> Columns:
    try:
        # Opened here, since np.load leaves what is no archive open.
        with warnings.catch_warnings(), path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            warnings.simplefilter("ignore")  # of arrays written by Python 2
            names = list(file.files)
            arrays = {name: np.asarray(file[name]) for name in names}
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged archive raises whatever its bytes lead to
        raise InputError(f"{path}: not an NPZ file of plain arrays: {error}") from None
    _require_target(path, target, names)
    column = arrays.pop(str(target))
    if column.ndim != 1:
        raise InputError(f"{path}: the target {target!r} has shape {column.shape}; one number a row is needed")
    if column.dtype.kind not in "buifSU":
        raise InputError(f"{path}: the target {target!r} holds {column.dtype}: wanted numbers, text or truth values")
    blocks, labels, rounding = [np.empty((len(column), 0))], [], []
    for name, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise InputError(f"{path}: {name!r} holds {array.dtype}: features are numbers")
        if array.ndim == 0 or len(array) != len(column):
            raise InputError(f"{path}: {name!r} has shape {array.shape} and {target!r} {len(column)} rows")
        with np.errstate(over="ignore"):  # of long doubles: the Inf is found
            blocks.append(array.reshape(len(array), array.size // max(len(array), 1)).astype(np.float64))
        labels += [name] * blocks[-1].shape[1]
        rounding += [_rounding(array)] * blocks[-1].shape[1]
    return Columns(np.hstack(blocks), labels, np.array(rounding), *_plain(column))


def _rounding(array: Array) -> float:
    """The relative rounding of an array's type, as far as float64 keeps it."""
    return max(float(np.finfo(array.dtype).eps), EPS) if array.dtype.kind == "f" else EPS


def _plain(column: Array) -> tuple[Array, float]:
    """A target of NPZ as one of a CSV file would be, and its rounding."""
    if column.dtype.kind in "ui":
        return column, EPS
    if column.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return column.astype(np.float64), _rounding(column)
    cells = (cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell) for cell in column.tolist())
    return np.array([cell.strip() for cell in cells], dtype=object), EPS


def _require_target(path: Path, target: str | None, labels: list[str]) -> None:
    if target is None or target not in labels:
        problem = "name the column to predict with --target" if target is None else f"no column {_shown(target)}"
        more = ["..."] if len(labels) > MOST_NAMES else []
        raise InputError(f"{path}: {problem}; there are {', '.join(labels[:MOST_NAMES] + more)}")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise InputError(f"{path}: more than one column is called {', '.join(map(_shown, twice[:MOST_NAMES]))}")


def _with_target(name: str, columns: Columns, task: str | None, target: str) -> Data:
    """Numbers to fit, or classes; the task is what the target looks like unless `task` says otherwise."""
    column = columns.target
    where = f"{name}: the target {_shown(target)}"
    numeric = column.dtype != object
    if not numeric:
        _check_rows(name, target, np.array([not cell for cell in column]))
        numbers = _numbers(column)
        other = np.array([np.isnan(n) and cell.lower() != "nan" for n, cell in zip(numbers, column, strict=True)])
        numeric = not other.any()
        if not numeric and task != "classification":
            _check_text(where, column, other, task)
        column = numbers if numeric else column
    if numeric:
        _check_rows(name, target, ~np.isfinite(column))
    values, indices, counts = np.unique(column, return_inverse=True, return_counts=True)
    if task is None:
        whole = numeric and len(values) <= MOST_CLASSES and counts.min() > 1 and (values == np.round(values)).all()
        task = "classification" if whole or not numeric else "regression"
    suits = {"batch_size": max(1, min(32, len(column) // 4)), "task": task}
    if task == "classification":
        classes = tuple(str(int(value) if numeric and value == np.round(value) else value) for value in values)
        if len(classes) == 1:
            raise InputError(f"{where} holds one class only, {_shown(classes[0])}")
        if len(classes) == len(column):
            raise InputError(f"{where} has as many classes as rows, {len(column)}: classes must repeat")
        suits["model"] = "logistic"
        column = indices
    else:
        classes = ()
        suits["model"] = "linear"
        column = column.astype(np.float64)
    return Data(
        name,
        columns.features,
        column,
        classes,
        defaults=suits,
        rounding=columns.rounding,
        target_rounding=columns.target_rounding,
        numeric=numeric,
    )


def _check_rows(name: str, target: str, bad: Array) -> None:
    if bad.any():
        raise InputError(f"{name}: {_bad_rows(bad)}, first in the target {_shown(target)}, row {bad.argmax() + 1}")


def _check_text(where: str, column: Array, other: Array, task: str | None) -> None:
    """Refuse text that names no classes: numbers among which is something else, dates, amounts, a text for each row."""
    row = int(other.argmax())
    here = f"{_shown(column[row])} in row {row + 1}"
    override = "; --task classification takes each for a class" if len(set(column)) < len(column) else ""
    if task == "regression":
        raise InputError(f"{where} holds text {_shown(column[row])}: regression needs numbers (row {row + 1})")
    if np.mean(~other) >= MOSTLY:
        raise InputError(f"{where} holds numbers, but {here}{override}")
    undecorated = _numbers([cell.translate(DECORATION) for cell in column])
    if np.mean(~np.isnan(undecorated)) >= MOSTLY:
        raise InputError(f"{where} holds {here}: write numbers as in -1234.5{override}")
    if np.mean([DATE.fullmatch(cell) is not None for cell in column]) >= MOSTLY:
        raise InputError(f"{where} holds dates or times, such as {here}: wanted numbers or classes{override}")
    once = sum(count == 1 for count in Counter(column).values())
    if once >= len(column) / 2:
        raise InputError(f"{where} is text that hardly repeats, such as {here}: no classes{override}")
