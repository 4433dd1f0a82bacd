"""Where rows come from: the line, the tables of scikit-learn, and files; then their split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

Array = npt.NDArray[Any]

LINE_SLOPE, LINE_INTERCEPT, LINE_NOISE, LINE_START = 2.0, -1.0, 0.3, 0.5
EPS = 2.0**-52  # the relative rounding of float64
# By default, by optimizer: for the line, for the digits, for tables that are standardized, and for their classes where
# another rate suits those: cross entropy is flatter than a squared error.
LR = {
    "SGD": {"line": 0.12, "digits": 0.1, "tables": 0.03, "classes": 0.3},
    "NAG": {"line": 0.01, "digits": 0.02, "tables": 0.003, "classes": 0.03},
    "SignSGD": {"line": 0.02, "digits": 0.002, "tables": 0.003, "classes": 0.01},
    "Signum": {"line": 0.05, "digits": 0.001, "tables": 0.01},
    "Lion": {"line": 0.04, "digits": 0.0005, "tables": 0.01},
    "Adagrad": {"line": 0.5, "digits": 0.1, "tables": 0.1, "classes": 0.3},
    "Adadelta": {"line": 15.0, "digits": 3.0, "tables": 3.0},
    "Adamax": {"line": 0.2, "digits": 0.01, "tables": 0.01, "classes": 0.03},
    "RAdam": {"line": 0.1, "digits": 0.01, "tables": 0.02, "classes": 0.05},
    "QHM": {"line": 0.3, "digits": 0.3, "tables": 0.1, "classes": 0.3},
    "AdaBound": {"line": 0.05, "digits": 0.03, "tables": 0.003, "classes": 0.03},
    "ADOPT": {"line": 0.3, "digits": 0.003, "tables": 0.01, "classes": 0.1},
    "Adan": {"line": 0.5, "digits": 0.01, "tables": 0.1},
    "ASGD": {"line": 0.1, "digits": 0.3, "tables": 0.03, "classes": 0.3},
    "Ftrl": {"line": 0.5, "digits": 0.3, "tables": 0.1, "classes": 0.3},
    "MADGRAD": {"line": 0.03, "digits": 0.01, "tables": 0.003, "classes": 0.01},
    "ScheduleFreeSGD": {"line": 0.2, "digits": 1.0, "tables": 0.3, "classes": 1.0},
    "LARS": {"line": 0.01, "digits": 2.0, "tables": 0.003, "classes": 0.03},
    "LAMB": {"line": 0.05, "digits": 0.003, "tables": 0.02},
    "NovoGrad": {"line": 0.003, "digits": 0.02, "tables": 0.003},
    "Adafactor": {"line": 1.0, "digits": 0.1, "tables": 0.1},
    "Prodigy": {"line": 1.0, "digits": 1.0, "tables": 2.0},
    "others": {"line": 0.05, "digits": 0.003, "tables": 0.01, "classes": 0.03},
}
HYPER = {  # by default, of data of a kind: steps as long as parameters do not cross 0, nor leave it
    "line": {"LARS": {"trust": False}, "LAMB": {"trust": False}},
    "tables": {"LARS": {"trust": False}},
    "classes": {"LARS": {"trust": False}},
}
ALL_ROWS = {"Rprop": 100}  # who needs all rows in each update, and how many epochs that takes
FAMILIES = {  # what is shown together; whoever is in none is one of the "others"
    "momentum": ("SGD", "NAG", "QHM", "ASGD", "ScheduleFreeSGD"),
    "signs": ("SignSGD", "Signum", "Lion", "Rprop"),
    "squares": ("Adagrad", "Adadelta", "RMSprop", "Ftrl", "MADGRAD", "Adafactor"),
    "Adam": ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "QHAdam"),
    "Adam, changed": ("AdaBelief", "AdaBound", "ADOPT", "Grams", "LaProp", "Yogi"),
    "Adam, and more": ("AdEMAMix", "Adan", "ScheduleFreeAdamW", "StableAdamW", "Prodigy"),
    "norms": ("LARS", "LAMB", "NovoGrad", "Muon"),
}
UPDATES = 1000  # by default a run over a small table has at least so many
ROUNDINGS = 8  # a column whose training rows differ by no more than so many roundings is constant


@dataclass(frozen=True)
class Data:
    """A table: features (rows, columns) in float64; target (rows,) in float64, or indices into `classes`."""

    name: str
    features: Array
    target: Array
    classes: tuple[str, ...] = ()
    standardize: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)  # settings that suit this table
    kind: str = "tables"  # in LR and HYPER
    rounding: Array | float = EPS  # relative, of each feature, and of the target
    target_rounding: float = EPS
    numeric: bool = False  # whether a target with classes could be fitted as well
    target_name: str | None = None  # the column of a file, or what the target of an embedded table is
    notes: tuple[str, ...] = ()  # what was left out of a file

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
    if not 0 <= test_fraction <= 1:
        raise InputError(f"--test-fraction {test_fraction:g}: wanted a number from 0 to 1")
    held_out = round(rows * test_fraction)
    if held_out == rows:
        raise InputError(f"--test-fraction {test_fraction:g} leaves none of the {rows} rows to train on")
    order = np.random.default_rng([seed, 0]).permutation(rows)
    test, train = order[:held_out], order[held_out:]
    x, y, unit = data.features, data.target, 1.0
    if data.standardize:
        x, deviation = _standardized(data.name, x, x[train], data.rounding)
        x = np.where(deviation == 0, 0.0, x)  # weights that saw one value only are not to meet another one
        if not data.classes:
            y, deviation = _standardized(data.name, y, y[train], data.target_rounding)
            unit = float(deviation) ** 2 or 1.0
    with np.errstate(over="ignore"):  # rows held out may be far away from all others
        x = x.astype(dtype)
        y = y if data.classes else y.astype(dtype)
    return Split(x[train], y[train], x[test], y[test], unit)


def _standardized(name: str, values: Array, sample: Array, rounding: Array | float) -> tuple[Array, Array]:
    """Values less the sample's mean, in its deviations; a column that is constant but for rounding has deviation 0."""
    with np.errstate(all="ignore"):
        mean, deviation = sample.mean(axis=0), sample.std(axis=0)
        noise = ROUNDINGS * rounding * np.abs(sample).max(axis=0)
        constant = np.ptp(sample, axis=0) <= noise
        if not np.isfinite(deviation**2).all():
            raise InputError(f"{name}: numbers too large to square")
        if not ((deviation**2 >= np.finfo(np.float64).tiny) | constant).all():
            raise InputError(f"{name}: numbers too small to square")
        centred = values - mean
        centred[constant & (np.abs(centred) <= noise)] = 0  # or Adam would take noise for a slope
        return centred / np.where(constant, 1, deviation), np.where(constant, 0, deviation)


def line(seed: int) -> Data:
    """The classic teaching set: y = m x + b with noise. Its loss is a valley, 28 times steeper across than along."""
    rng = np.random.default_rng([seed, 1])
    x = rng.uniform(0, 4, 1000)
    y = LINE_SLOPE * x + LINE_INTERCEPT + LINE_NOISE * rng.standard_normal(len(x))
    defaults = {"model": "linear", "batch_size": 10, "epochs": 3}
    return Data("line", x[:, None], y, (), False, defaults, "line", target_name="y")


def epochs(rows: int, batch: int) -> int:
    """By default: enough updates for a table with few rows too."""
    return max(20, -(-UPDATES * batch // rows))


def _of_sklearn(name: str, target: str, **defaults: Any) -> Data:
    """A table of scikit-learn."""
    from sklearn import datasets

    table = getattr(datasets, f"load_{name}")()
    classes = tuple(map(str, table.get("target_names", ())))
    suits = {"model": "logistic" if classes else "linear", "batch_size": 32, "epochs": epochs(len(table.data), 32)}
    kind = "classes" if classes else "tables"
    return Data(name, table.data, table.target, classes, defaults=suits | defaults, kind=kind, target_name=target)


def diabetes(seed: int) -> Data:
    """442 patients, 10 measurements, progression of the disease a year later (Efron et al. 2004)."""
    return _of_sklearn("diabetes", "progression")


def iris(seed: int) -> Data:
    """150 flowers, 4 lengths and widths, 3 species (Fisher 1936)."""
    return _of_sklearn("iris", "species")


def wine(seed: int) -> Data:
    """178 wines, 13 chemical measurements, 3 cultivars (Aeberhard & Forina 1992)."""
    return _of_sklearn("wine", "cultivar")


def breast_cancer(seed: int) -> Data:
    """569 tumours, 30 measurements of cell nuclei, malignant or benign (Wolberg et al. 1993)."""
    return _of_sklearn("breast_cancer", "diagnosis")


def digits(seed: int) -> Data:
    """1797 images of handwritten digits, 8 by 8 pixels of 0 to 16 (UCI)."""
    data = _of_sklearn("digits", "digit", model="mlp", epochs=20)
    return replace(data, features=data.features / 16, standardize=False, kind="digits")


EMBEDDED: dict[str, Callable[[int], Data]] = {
    one.__name__: one for one in (line, diabetes, iris, wine, breast_cancer, digits)
}
