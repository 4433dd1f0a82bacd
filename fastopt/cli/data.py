"""Where rows come from: the line, the tables of scikit-learn, CSV and NPZ files; then their split."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

Array = npt.NDArray[Any]

LINE_SLOPE, LINE_INTERCEPT, LINE_NOISE, LINE_START = 2.0, -1.0, 0.3, 0.5
MOST_CLASSES = 20  # whole numbers with more distinct values than this are measured quantities, not classes


@dataclass(frozen=True)
class Data:
    """A table: features (rows, columns) in float64; target (rows,) in float64, or indices into `classes`."""

    name: str
    features: Array
    target: Array
    classes: tuple[str, ...] = ()
    standardize: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)  # settings that suit this table
    lr: Mapping[str, float] = field(default_factory=dict)  # the default lr, by optimizer and for all "others"

    def fingerprint(self) -> str:
        """A hash of every value, so that a resumed run is known to see the same rows."""
        digest = hashlib.sha256()
        for array in (self.features, self.target):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out, as the model sees them. Losses times `unit` are in the target's own unit."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array
    unit: float


def split(data: Data, test_fraction: float, seed: int, dtype: npt.DTypeLike) -> Split:
    """Hold out a seeded part of the rows; standardize by mean and deviation of the rest."""
    rows = len(data.target)
    held_out = round(rows * test_fraction)
    if held_out == rows:
        raise InputError(f"--test-fraction {test_fraction:g} leaves none of the {rows} rows to train on")
    order = np.random.default_rng([seed, 0]).permutation(rows)
    test, train = order[:held_out], order[held_out:]
    x, y, unit = data.features, data.target, 1.0
    if data.standardize:
        x, _ = _standardized(data.name, x, x[train])
        if not data.classes:
            y, deviation = _standardized(data.name, y, y[train])
            unit = float(deviation) ** 2
    x = x.astype(dtype)
    y = y if data.classes else y.astype(dtype)
    return Split(x[train], y[train], x[test], y[test], unit)


def _standardized(name: str, values: Array, sample: Array) -> tuple[Array, Array]:
    """Values less the sample's mean, in its deviations; a constant column keeps its unit."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = sample.mean(axis=0), sample.std(axis=0)
    if not np.isfinite(deviation).all():
        raise InputError(f"{name}: numbers too large to square")
    deviation = np.where(deviation == 0, 1, deviation)
    return (values - mean) / deviation, deviation


def line(seed: int) -> Data:
    """The classic teaching set: y = m x + b with noise. Its loss is a valley, 28 times steeper across than along."""
    rng = np.random.default_rng([seed, 1])
    x = rng.uniform(0, 4, 1000)
    y = LINE_SLOPE * x + LINE_INTERCEPT + LINE_NOISE * rng.standard_normal(len(x))
    defaults = {"model": "linear", "batch_size": 10, "epochs": 3}
    return Data("line", x[:, None], y, (), False, defaults, {"SGD": 0.12, "NAG": 0.01, "others": 0.05})


def diabetes(seed: int) -> Data:
    """442 patients, 10 measurements, progression of the disease a year later (Efron et al. 2004)."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    defaults = {"model": "linear", "batch_size": 32, "epochs": 20}
    return Data("diabetes", x, y, (), True, defaults, FILE_LR)


def digits(seed: int) -> Data:
    """1797 images of handwritten digits, 8 by 8 pixels of 0 to 16 (UCI)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    classes = tuple(str(digit) for digit in range(10))
    defaults = {"model": "mlp", "batch_size": 32, "epochs": 20}
    return Data("digits", x / 16, y, classes, False, defaults, {"SGD": 0.1, "NAG": 0.02, "others": 0.003})


EMBEDDED: dict[str, Callable[[int], Data]] = {"line": line, "diabetes": diabetes, "digits": digits}
FILE_LR = {"SGD": 0.03, "NAG": 0.003, "others": 0.01}


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
    if not path.is_file():
        raise InputError(f"{name}: no such file")
    try:
        features, column, labels = readers[path.suffix.lower()](path, target)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from None
    if not features.size:
        raise InputError(f"{name}: no rows" if not len(features) else f"{name}: no column besides the target")
    bad = ~np.isfinite(features)
    if bad.any():
        row, at = np.argwhere(bad)[0]
        raise InputError(f"{name}: {_bad_rows(bad.any(axis=1))}, first in column {labels[at]!r}, row {row + 1}")
    return _with_target(path.name, features, column, task, str(target))


def _bad_rows(bad: Array) -> str:
    count = int(bad.sum())
    return f"{count} row{'s' if count > 1 else ''} with a missing, NaN or infinite value"


def _csv(path: Path, target: str | None) -> tuple[Array, Array, list[str]]:
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            table = pd.read_csv(path, index_col=False, low_memory=False)
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, ValueError) as error:
        raise InputError(f"{path}: not a CSV table: {error}") from None
    labels = [str(label) for label in table.columns]
    table.columns = pd.Index(labels)
    _require_target(path, target, labels)
    labels.remove(str(target))
    for label in labels:
        numbers = pd.to_numeric(table[label], errors="coerce")
        text = np.flatnonzero(numbers.isna() & table[label].notna())
        if text.size:
            value = table[label].iloc[text[0]]
            raise InputError(f"{path}: text {value!r} in column {label!r}, row {text[0] + 1}: features are numbers")
        table[label] = numbers.astype(np.float64)
    column = table[target]
    if not pd.api.types.is_numeric_dtype(column):
        column = column.astype(object).where(column.notna(), None)
    return table[labels].to_numpy(np.float64), column.to_numpy(), labels


def _npz(path: Path, target: str | None) -> tuple[Array, Array, list[str]]:
    from zipfile import BadZipFile

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (BadZipFile, ValueError, EOFError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not an NPZ file of plain arrays: {error}") from None
    _require_target(path, target, list(arrays))
    column = arrays.pop(str(target))
    if column.ndim != 1:
        raise InputError(f"{path}: the target {target!r} has shape {column.shape}; one number a row is needed")
    blocks, labels = [np.empty((len(column), 0))], []
    for name, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise InputError(f"{path}: {name!r} holds {array.dtype}: features are numbers")
        if array.ndim == 0 or len(array) != len(column):
            raise InputError(f"{path}: {name!r} has shape {array.shape} and {target!r} {len(column)} rows")
        blocks.append(array.reshape(len(array), array.size // max(len(array), 1)).astype(np.float64))
        labels += [name] * blocks[-1].shape[1]
    return np.hstack(blocks), column, labels


def _require_target(path: Path, target: str | None, labels: list[str]) -> None:
    if target is None or target not in labels:
        problem = "name the column to predict with --target" if target is None else f"no column {target!r}"
        raise InputError(f"{path}: {problem}; there are {', '.join(labels)}")


def _with_target(name: str, features: Array, column: Array, task: str | None, target: str) -> Data:
    """Numbers to fit, or classes: text and truth values are, and few whole numbers unless `task` says otherwise."""
    numeric = column.dtype.kind in "uif"
    bad = ~np.isfinite(column) if numeric else np.array([value is None for value in column])
    if bad.any():
        raise InputError(f"{name}: {_bad_rows(bad)}, first in the target {target!r}, row {bad.argmax() + 1}")
    values, indices = np.unique(column if numeric else column.astype(str), return_inverse=True)
    if task is None:
        few = numeric and len(values) <= MOST_CLASSES and bool((values == np.round(values)).all())
        task = "classification" if few or not numeric else "regression"
    suits = {"batch_size": max(1, min(32, len(column) // 4))}
    if task == "classification":
        if len(values) == 1:
            raise InputError(f"{name}: the target {target!r} holds one class only, {str(values[0])!r}")
        classes = tuple(str(value) for value in values)
        return Data(name, features, indices, classes, True, suits | {"model": "logistic"}, FILE_LR)
    if not numeric:
        raise InputError(f"{name}: the target {target!r} holds text {str(column[0])!r}: regression needs numbers")
    return Data(name, features, column.astype(np.float64), (), True, suits | {"model": "linear"}, FILE_LR)
