"""Tables from files: reading them, choosing columns, then what the target is, numbers to fit or classes."""

from __future__ import annotations

import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .data import EMBEDDED, EPS, Array, Data, epochs
from .errors import InputError

MOST_CLASSES = 20  # whole numbers with more distinct values than this are measured quantities, not classes
MOST_TEXTS = 50  # a feature of text with more distinct values than this is not made into columns
MOSTLY = 0.9  # a column of which so much is numbers, dates or amounts is one of these
MOST_NAMES = 20  # of columns, in a message

MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]  # cells of features without a number
DECORATION = str.maketrans("−", "-", "$€£¥%, '_\u00a0\u202f")  # what numbers are found written with
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
DATE = re.compile(
    r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3(\d{4}|\d{2}))([T ].*)?|\d{1,2}:\d{2}(:\d{2}.*)?"
)
SEPARATORS = {"tab": "\t", "space": r"\s+"}  # what is hard to type
TEXT_FILES = {".csv": ",", ".tsv": "\t", ".txt": ",", ".data": ","}


@dataclass(frozen=True)
class Reading:
    """How a file is to be read."""

    target: str | None = None
    task: str | None = None
    sep: str | None = None
    header: bool = True
    features: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    drop_missing: bool = False


@dataclass
class Table:
    """A file as it was read: columns by name, numbers or text; an array of NPZ may be several columns wide."""

    labels: list[str]
    columns: list[Array]  # (rows,) or (rows, width) of numbers, or (rows,) of text as objects
    rounding: list[float]  # relative
    classes: tuple[str, ...] = ()  # names of the target's numbers, where the file has them
    notes: list[str] = field(default_factory=list)  # what was left out without being asked


def load(name: str, reading: Reading, seed: int) -> Data:
    """The table called `name`: an embedded one, else a file."""
    if name in EMBEDDED:
        for key, default in vars(Reading()).items():
            if getattr(reading, key) != default:
                option = "--no-header" if key == "header" else "--" + key.replace("_", "-")
                raise InputError(f"{option} is for files; {name} has its own")
        return EMBEDDED[name](seed)
    path = Path(name)
    kind = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    readers = {".npz": _npz, ".npy": _npy} if kind == path.suffix.lower() else {}
    reader = readers.get(kind, _text if kind in TEXT_FILES else None)
    if reader is None:
        raise InputError(f"no data {name!r}: {', '.join(EMBEDDED)}, or a file .csv, .tsv, .csv.gz, .npy or .npz")
    try:
        if not path.is_file():
            raise InputError(f"{name}: no such file")
        table = reader(path, reading, TEXT_FILES.get(kind, ","))
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from None
    return _as_data(path, table, reading)


# ---- reading ----


def _text(path: Path, reading: Reading, separator: str) -> Table:
    import pandas as pd

    options: dict[str, Any] = {
        "sep": SEPARATORS.get(reading.sep, reading.sep) if reading.sep else separator,
        "encoding": "utf-8-sig",
        "skipinitialspace": True,
        "index_col": False,
        "low_memory": False,
        "keep_default_na": False,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            labels, header, classes, counted = _header(path, reading, options)
            options |= {"header": header, "names": labels}
            # A target is kept as text: what pandas makes of it depends on all its cells, and of "NA" nothing is left.
            target = _target(path, reading.target or ("target" if counted else None), labels)
            features = _chosen(path, reading, labels, target)
            missing = dict.fromkeys(features, MISSING)
            table = pd.read_csv(path, dtype={target: str}, na_values=missing, **options)
            numbers = labels[0] in (UNNAMED, ROWS) and _counts(table[labels[0]])  # of the rows
            if labels[0] == ROWS and not numbers:
                raise pd.errors.ParserWarning
            if any(table[label].dtype.kind not in "biuf" for label in features):
                table = pd.read_csv(path, dtype=str, **options)  # four times as slow, but it knows what stands there
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty") from None
    except pd.errors.ParserWarning:
        raise InputError(f"{path}: not a CSV table: its rows have more cells than its header") from None
    except (pd.errors.ParserError, ValueError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a CSV table: {error}") from None
    if counted is not None and len(table) != counted:
        raise InputError(f"{path}: its header counts {counted} rows; there are {len(table)}")
    notes = []
    if numbers and features[:1] == labels[:1] and len(features) > 1:
        del features[0]
        notes.append("left out the first column, which has no name and counts the rows")
    columns = [
        np.asarray(table[label], np.float64) if table[label].dtype.kind in "biuf" else _stripped(table[label])
        for label in (*features, target)
    ]
    return Table([*features, target], columns, [EPS] * len(columns), classes, notes)


UNNAMED, ROWS = "Unnamed: 0", "row numbers"  # of a first column: without a name, or that the header lacks


def _header(
    path: Path, reading: Reading, options: dict[str, Any]
) -> tuple[list[str], int | None, tuple[str, ...], int | None]:
    """The names of the columns, the line they stand in, names of classes, and how many rows the header counts.

    scikit-learn's own tables begin with the numbers of rows and features, then the names of the classes; tables of R
    have no name for the first column, which names the rows.
    """
    import pandas as pd

    # pandas would rename the second of two columns of one name.
    first = pd.read_csv(path, header=None, nrows=1, dtype=str, **options).iloc[0]
    cells = [str(cell).strip() for cell in first]
    try:
        second = pd.read_csv(path, header=None, skiprows=1, nrows=1, dtype=str, **options).shape[1]
    except pd.errors.EmptyDataError:
        second = len(cells)
    if not reading.header:
        return [str(at) for at in range(len(cells))], None, (), None
    if all(map(str.isdecimal, cells[:2])) and len(cells) > 1 and second == int(cells[1]) + 1:
        return [*map(str, range(second - 1)), "target"], 0, tuple(cells[2:]), int(cells[0])
    if second == len(cells) + 1:
        cells.insert(0, ROWS)
    if len(cells) == 1 and second == 1 and (found := [one for one in (";", "\t", "|", ",") if one in cells[0]]):
        sep = "tab" if found[0] == "\t" else found[0]
        raise InputError(f"{path}: its header is one column, {_shown(cells[0])}: give --sep '{sep}'")
    return [cell or f"Unnamed: {at}" for at, cell in enumerate(cells)], 0, (), None


def _stripped(cells: Any) -> Array:
    return np.array([cell.strip() for cell in cells], dtype=object)


def _counts(column: Any) -> bool:
    """Whether a column counts the rows, from 0 or from 1."""
    return column.dtype.kind in "if" and any(np.array_equal(column, np.arange(len(column)) + k) for k in (0, 1))


def _npz(path: Path, reading: Reading, _: str) -> Table:
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
    target = _target(path, reading.target, names)
    return _of_arrays(path, arrays, _chosen(path, reading, names, target), target)


def _npy(path: Path, reading: Reading, _: str) -> Table:
    try:
        with warnings.catch_warnings(), path.open("rb") as raw:
            warnings.simplefilter("ignore")
            array = np.load(raw, allow_pickle=False)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path}: not an NPY file of a plain array: {error}") from None
    if array.dtype.names:
        arrays = {name: array[name] for name in array.dtype.names}
    elif array.ndim == 2:
        arrays = {str(at): array[:, at] for at in range(array.shape[1])}
    else:
        raise InputError(f"{path}: an array of shape {array.shape}: wanted a matrix, or records with names")
    target = _target(path, reading.target, list(arrays))
    return _of_arrays(path, arrays, _chosen(path, reading, list(arrays), target), target)


def _of_arrays(path: Path, arrays: dict[str, Array], features: list[str], target: str) -> Table:
    column = arrays[target]
    if column.ndim != 1:
        raise InputError(f"{path}: the target {target!r} has shape {column.shape}; one number a row is needed")
    if column.dtype.kind not in "buifSU":
        raise InputError(f"{path}: the target {target!r} holds {column.dtype}: wanted numbers, text or truth values")
    table = Table([], [], [])
    for name in features:
        array = arrays[name]
        if array.dtype.kind not in "buifSU" or (array.dtype.kind in "SU" and array.ndim != 1):
            raise InputError(f"{path}: {name!r} holds {array.dtype}: features are numbers, or a column of text")
        if array.ndim == 0 or len(array) != len(column):
            raise InputError(f"{path}: {name!r} has shape {array.shape} and {target!r} {len(column)} rows")
        table.labels.append(name)
        table.rounding.append(_rounding(array))
        if array.dtype.kind in "SU":
            table.columns.append(_plain(array))
            continue
        with np.errstate(over="ignore"):  # of long doubles: the Inf is found
            table.columns.append(array.reshape(len(array), array.size // max(len(array), 1)).astype(np.float64))
    table.labels.append(target)
    table.rounding.append(_rounding(column))
    table.columns.append(_plain(column))
    return table


def _rounding(array: Array) -> float:
    """The relative rounding of an array's type, as far as float64 keeps it."""
    return max(float(np.finfo(array.dtype).eps), EPS) if array.dtype.kind == "f" else EPS


def _plain(column: Array) -> Array:
    """A column of an array as one of a CSV file would be."""
    if column.dtype.kind in "ui":
        return column
    if column.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return column.astype(np.float64)
    cells = (cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell) for cell in column.tolist())
    return np.array([cell.strip() for cell in cells], dtype=object)


# ---- choosing columns ----


def _found(name: str, labels: Sequence[str]) -> str | None:
    """A column by its name, or by its number from the end where columns have numbers for names."""
    if name in labels:
        return name
    if re.fullmatch(r"-[1-9]\d{0,8}", name) and all(map(str.isdecimal, labels)) and -int(name) <= len(labels):
        return labels[int(name)]
    return None


def _target(path: Path, target: str | None, labels: Sequence[str]) -> str:
    found = None if target is None else _found(target, labels)
    if found is None:
        problem = "name the column to predict with --target" if target is None else f"no column {_shown(target)}"
        raise InputError(f"{path}: {problem}; there are {_some(labels)}")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise InputError(f"{path}: more than one column is called {', '.join(map(_shown, twice[:MOST_NAMES]))}")
    return found


def _chosen(path: Path, reading: Reading, labels: Sequence[str], target: str) -> list[str]:
    """The columns that are features: those of --features, or all but the target, without those of --drop."""

    def named(option: str, given: Iterable[str]) -> list[str]:
        names = []
        for text in given:
            for name in [text] if text in labels else [part.strip() for part in text.split(",")]:
                found = _found(name, labels)
                if found is None:
                    raise InputError(f"{path}: {option} {_shown(name)}: no such column; there are {_some(labels)}")
                if found == target:
                    raise InputError(f"{path}: {option} {_shown(name)}: it is the target")
                names.append(found)
        return names

    dropped = named("--drop", reading.drop)
    wanted = named("--features", reading.features) or labels
    return [label for label in labels if label in wanted and label not in dropped and label != target]


def _some(labels: Sequence[str]) -> str:
    return ", ".join([*labels[:MOST_NAMES], *["..."] * (len(labels) > MOST_NAMES)])


def _shown(value: str) -> str:
    """A cell or a name in a message, cut if it is long."""
    return repr(value if len(value) <= 40 else value[:37] + "...")


# ---- features ----


def _as_data(path: Path, table: Table, reading: Reading) -> Data:
    """Features in numbers, rows without missing values, and the target for a task."""
    *names, target = table.labels
    *columns, goal = table.columns
    blocks, labels, rounding = [np.empty((len(goal), 0))], [], []
    for name, column, unit in zip(names, columns, table.rounding, strict=False):
        block, more = _encoded(path, name, column)
        blocks.append(block)
        labels += more
        rounding += [unit] * len(more)
    features = np.hstack(blocks)
    if not len(goal):
        raise InputError(f"{path}: no rows")
    if not features.size:
        raise InputError(f"{path}: no column besides the target")
    bad: Array = ~np.isfinite(features)
    if bad.any() and not reading.drop_missing:
        row, at = np.argwhere(bad)[0]
        raise _missing(f"{path}: ", np.any(bad, axis=1), f"column {_shown(labels[at])}", row)
    # What the target is depends on all its cells, but those that are missing may go.
    rows, goal, numeric = _goal(path.name, goal, reading, target)
    rows &= ~np.any(bad, axis=1)
    notes = list(table.notes)
    if not rows.all():
        if not rows.any():
            raise InputError(f"{path}: --drop-missing leaves no row")
        features, goal = features[rows], goal[rows]
        notes.append(f"left out {_rows(~rows)} with a missing, NaN or infinite value")
    return _with_target(path.name, table, features, np.array(rounding), goal, numeric, reading.task, notes)


def _rows(bad: Array) -> str:
    count = int(bad.sum())
    return f"{count} row{'s' if count > 1 else ''}"


def _missing(where: str, bad: Array, column: str, row: int) -> InputError:
    return InputError(
        f"{where}{_rows(bad)} with a missing, NaN or infinite value, first in {column}, row {row + 1}; "
        "--drop-missing leaves out such rows"
    )


def _encoded(path: Path, label: str, column: Array) -> tuple[Array, list[str]]:
    """A column in numbers, NaN where a cell is missing; of text that repeats, a column of 0 and 1 for each value."""
    if column.dtype != object:
        block = (column if column.ndim == 2 else column[:, None]).astype(np.float64, copy=False)
        return block, [label] * block.shape[1]
    present = np.array([cell not in MISSING for cell in column], bool)
    values = sorted(set(column[present]))
    if set(values) <= {"True", "False"}:
        return np.where(present, column == "True", np.nan)[:, None].astype(np.float64), [label]
    numbers = _numbers(column)
    other = present & np.isnan(numbers)
    if not other.any():
        return numbers[:, None], [label]
    where = f"{path}: the column {_shown(label)}"
    problem = _no_classes(column[present], other[present], np.flatnonzero(present))
    if problem is None and len(values) > MOST_TEXTS:
        problem = f"has {len(values)} different texts, such as {_shown(column[other][0])} in row {other.argmax() + 1}"
    if problem:
        raise InputError(f"{where} {problem}; features are numbers, or text that repeats: leave it out with --drop")
    block = (column[:, None] == np.array(values, dtype=object)).astype(np.float64)
    block[~present] = np.nan
    return block, [f"{label}={value}" for value in values]


def _numbers(cells: Any) -> Array:
    """Text as numbers, NaN where it is none; whole numbers stay exact if all are."""
    import pandas as pd

    cells = pd.Series(cells, dtype=object)
    numbers = np.array(pd.to_numeric(cells, errors="coerce"))
    for row in np.flatnonzero(np.isnan(numbers)):
        if NUMBER.fullmatch(cell := cells.iloc[row].strip()):  # one that pandas finds too long, or too large
            numbers[row] = float(cell)
    return numbers


def _no_classes(column: Array, other: Array, rows: Array | None = None) -> str | None:
    """Why text names no classes, if so: numbers among which is something else, dates, amounts, hardly a repetition.

    `other` marks what is no number; `rows` are the numbers of the rows where they are not 0, 1, 2, …
    """
    row = int(other.argmax())
    here = f"{_shown(column[row])} in row {(row if rows is None else int(rows[row])) + 1}"
    if np.mean(~other) >= MOSTLY:
        return f"holds numbers, but {here}"
    undecorated = _numbers([cell.translate(DECORATION) for cell in column])
    if np.mean(~np.isnan(undecorated)) >= MOSTLY:
        return f"holds {here}: write numbers as in -1234.5"
    if np.mean([DATE.fullmatch(cell) is not None for cell in column]) >= MOSTLY:
        return f"holds dates or times, such as {here}"
    once = sum(count == 1 for count in Counter(column).values())
    if once >= len(column) / 2:
        return f"is text that hardly repeats, such as {here}"
    return None


# ---- the target ----


def _goal(name: str, column: Array, reading: Reading, target: str) -> tuple[Array, Array, bool]:
    """Which rows of a target are not missing, the target in numbers if it is numbers, and whether it is."""
    where = f"{name}: the target {_shown(target)}"
    numeric = column.dtype != object
    there = np.ones(len(column), bool)
    if not numeric:
        there = np.array([bool(cell) for cell in column])
        _check_rows(name, target, there, reading.drop_missing)
        numbers = _numbers(column)
        other = np.array(
            [np.isnan(n) and cell.lower() not in ("", "nan") for n, cell in zip(numbers, column, strict=True)]
        )
        numeric = not other.any()
        if not numeric and reading.task != "classification":
            _check_text(where, column[there], other[there], reading.task, np.flatnonzero(there))
        column = numbers if numeric else column
    if numeric:
        there &= np.isfinite(column)
        _check_rows(name, target, there, reading.drop_missing)
    return there, column, numeric


def _check_rows(name: str, target: str, there: Array, drop: bool) -> None:
    if not there.all() and not drop:
        raise _missing(f"{name}: ", ~there, f"the target {_shown(target)}", int((~there).argmax()))


def _check_text(where: str, column: Array, other: Array, task: str | None, rows: Array) -> None:
    """Refuse text that names no classes."""
    row = int(other.argmax())
    override = "; --task classification takes each for a class" if len(set(column)) < len(column) else ""
    if task == "regression":
        raise InputError(
            f"{where} holds text {_shown(column[row])}: regression needs numbers (row {int(rows[row]) + 1})"
        )
    problem = _no_classes(column, other, rows)
    if problem:
        wanted = ": wanted numbers or classes" if "dates" in problem else ": no classes" if "hardly" in problem else ""
        raise InputError(f"{where} {problem}{wanted}{override}")


def _with_target(
    name: str,
    table: Table,
    features: Array,
    rounding: Array,
    column: Array,
    numeric: bool,
    task: str | None,
    notes: list[str],
) -> Data:
    """Numbers to fit, or classes; the task is what the target looks like unless `task` says otherwise."""
    where = f"{name}: the target {_shown(table.labels[-1])}"
    values, indices, counts = np.unique(column, return_inverse=True, return_counts=True)
    if task is None:
        whole = numeric and len(values) <= MOST_CLASSES and counts.min() > 1 and (values == np.round(values)).all()
        task = "classification" if whole or not numeric else "regression"
    batch = max(1, min(32, len(column) // 4))
    suits = {"batch_size": batch, "task": task, "epochs": epochs(len(column), batch)}
    if task == "classification":
        classes = tuple(str(int(value) if numeric and value == np.round(value) else value) for value in values)
        if len(classes) == 1:
            raise InputError(f"{where} holds one class only, {_shown(classes[0])}")
        if len(classes) == len(column):
            raise InputError(f"{where} has as many classes as rows, {len(column)}: classes must repeat")
        if classes == tuple(map(str, range(len(table.classes)))):
            classes = table.classes
        suits["model"] = "logistic"
        column = indices
    else:
        classes = ()
        suits["model"] = "linear"
        column = column.astype(np.float64)
    return Data(
        name,
        features,
        column,
        classes,
        defaults=suits,
        kind="classes" if classes else "tables",
        rounding=rounding,
        target_rounding=table.rounding[-1],
        numeric=numeric,
        target_name=table.labels[-1],
        notes=tuple(notes),
    )
