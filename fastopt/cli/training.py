"""A run: one model trained by fastopt and, beside it, by the NumPy twin; saving and resuming.

Batches are a pure function of seed and update number, so the count of updates is the whole state of the data order.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastopt import checkpoint
from fastopt.optimizer import Optimizer
from fastopt.optimizers import OPTIMIZERS

from .data import LINE_START, LR, Data, Split
from .errors import DivergedError, InputError
from .handwritten import by_hand
from .models import BINARY, MSE, SOFTMAX, Array, Network
from .outputs import STDOUT
from .settings import Settings, fits, flat, hyper_parameters, learning_rate

CURVE_POINTS = 100  # how often, evenly spaced, a run measures its loss on the whole table
BY_HAND = 200  # so many steps by hand make their median
SAVE_SECONDS = 10.0  # a long run is saved at the first end of an epoch after so long
METADATA = "fastopt_train"
CURVE = ("updates", "seconds", "train_loss", "test_loss", "train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Score:
    """The end of a run. What does not apply is None: of held-out rows (`test`), of classes (`accuracy`)."""

    train_loss: float
    test_loss: float | None
    train_accuracy: float | None
    test_accuracy: float | None
    seconds: float  # forward, backward and step, all updates
    step_us: float  # median of the optimizer's step alone
    parameters: dict[str, float] | None  # of the line


@dataclass(frozen=True)
class Result:
    """A run: its end by fastopt and by NumPy, and the way there. `path` holds (m, b) after each update of the line."""

    optimizer: str
    lr: float
    hyper: dict[str, Any]
    batch_size: int
    epochs: int
    updates: int
    fastopt: Score
    numpy: Score | None
    identical: bool | None  # whether both ended in the same bits
    by_hand_us: float | None  # median of the step as a person writes it in NumPy, where there is such a form
    curve: dict[str, list[float]]
    path: list[tuple[float, float]]


class Trainer:
    """One model under one optimizer, stepped by its method `step` or `reference_step`."""

    def __init__(self, model: Network, optimizer: Optimizer, method: str) -> None:
        self.model = model
        self.optimizer = optimizer
        self.step: Callable[[Any], bool] = getattr(optimizer, method)
        self.lookahead: Callable[[], Any] = getattr(optimizer, "lookahead", contextlib.nullcontext)
        self.ns = 0
        self.step_ns: list[int] = []

    def update(self, x: Array, y: Array) -> float:
        """One mini-batch: gradients, then the step; returns the loss before it."""
        start = time.perf_counter_ns()
        with self.lookahead():
            loss = self.model.gradients(x, y)
        before = time.perf_counter_ns()
        self.step(self.model.grads)
        end = time.perf_counter_ns()
        self.ns += end - start
        self.step_ns.append(end - before)
        return loss

    def score(self, split: Split, *, in_plane: bool) -> Score:
        """How good the model is now, and how long it took."""
        loss, accuracy = self.model.evaluate(split.x, split.y)
        test_loss, test_accuracy = None, None
        if len(split.y_test):
            test_loss, test_accuracy = self.model.evaluate(split.x_test, split.y_test)
            test_loss *= split.unit
        step_us = float(np.median(self.step_ns)) / 1e3
        point = dict(zip("mb", self.model.point(), strict=True)) if in_plane else None
        return Score(loss * split.unit, test_loss, accuracy, test_accuracy, self.ns / 1e9, step_us, point)


class Interruption:
    """A context that notes Ctrl-C and SIGTERM, for a run to end after the update it is in; a second one ends it now."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, _: object) -> None:
        self.signal = number
        self.__exit__()


class Run:
    """All that training by one optimizer needs, built and so checked before the first run of a command starts."""

    def __init__(
        self, name: str, settings: Settings, data: Data, split: Split, *, twin: bool, resume: Path | None
    ) -> None:
        self.name, self.settings, self.data, self.split = name, settings, data, split
        self.per_epoch = -(-len(split.y) // settings.batch_size)
        self.total = settings.epochs * self.per_epoch
        self.lr = default_rate(name, data) if settings.lr is None else settings.lr
        self.hyper = hyper_parameters(name)
        self.hyper |= {
            key: value for key, value in settings.hyper.items() if key in self.hyper and fits(value, self.hyper[key])
        }
        self.first = 0 if resume is None else read(resume)["updates"]
        self.unsaved: str | None = None  # why the last save failed: no reason to lose the training
        if self.first >= self.total:
            raise InputError(
                f"--resume {resume}: its {self.first} updates are done; give more --epochs than {settings.epochs}"
            )
        self.rate = learning_rate(settings, self.lr, self.total)
        methods = ("step", "reference_step") if twin else ("step",)
        self.trainers = [self._trainer(method, resume) for method in methods]
        layers = self.trainers[0].model.params
        self.by_hand = by_hand(name, self.hyper, layers) if twin and settings.clip_norm is None else None

    def _trainer(self, method: str, resume: Path | None) -> Trainer:
        model = network(self.settings, self.data, self.split)
        make: Callable[..., Optimizer] = OPTIMIZERS[self.name]
        try:
            optimizer = make(model.params, self.rate, **self.hyper, clip_norm=self.settings.clip_norm)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.name}: {error}") from None
        if resume is not None:
            (group,) = optimizer.param_groups
            given = {key: value for key, value in group.items() if key != "params"}
            try:
                optimizer.load(resume)
            except (TypeError, ValueError, KeyError, OSError, RuntimeError) as error:
                raise InputError(f"--resume {resume}: {error}") from None
            (group,) = optimizer.param_groups
            group.update(given)  # the file's, but for what the command line now says
        return Trainer(model, optimizer, method)

    @property
    def in_plane(self) -> bool:
        """Whether the parameters are the two of the line, and their way can be drawn."""
        return self.data.name == "line" and self.settings.model == "linear"

    def length(self, stop_after: int | None) -> int:
        """How many updates there are to do."""
        return min(self.total - self.first, stop_after or self.total)

    def train(
        self,
        stop_after: int | None,
        save: Path | None,
        progress: Callable[[int, float], None],
        interruption: Interruption,
    ) -> Result:
        """Train; fastopt and NumPy take each batch in turn, so that both meet the same load on the machine."""
        split = self.split
        stop = self.first + self.length(stop_after)
        every = max(1, self.total // CURVE_POINTS)
        curve: dict[str, list[float]] = {key: [] for key in CURVE}
        path: list[tuple[float, float]] = []
        saved = time.monotonic()
        order = np.empty(0, np.int64)
        with np.errstate(all="ignore"):  # a loss that overflows is found out below
            bound = 100 * max(self._measure(self.first, curve, path), split.unit)
            for update in range(self.first, stop):
                epoch, batch = divmod(update, self.per_epoch)
                if batch == 0 or update == self.first:
                    order = np.random.default_rng([self.settings.seed, 3, epoch]).permutation(len(split.y))
                # Batches differ by one row at most: a last one of two rows would kick the parameters each epoch.
                rows = order[batch * len(order) // self.per_epoch : (batch + 1) * len(order) // self.per_epoch]
                x, y = split.x[rows], split.y[rows]
                done = update + 1
                losses = [trainer.update(x, y) for trainer in self.trainers[:: -1 if done % 2 else 1]]
                self._check(losses[0], math.inf, done)
                if self.by_hand and len(self.by_hand.ns) < BY_HAND:
                    rate = self.rate
                    self.by_hand.step(self.trainers[0].model.grads, rate(update) if callable(rate) else rate)
                if interruption.signal:
                    stop = done
                if self.in_plane or done % every == 0 or done == stop:
                    loss = self._measure(done, curve, path)
                    self._check(loss, bound, done)
                    progress(done - self.first, loss)
                at_pause = done % self.per_epoch == 0 and time.monotonic() > saved + SAVE_SECONDS
                if save and (done == stop or (at_pause and save != STDOUT)):
                    self._save(save, done)
                    saved = time.monotonic()
                if done == stop:
                    break
            fused, *twins = self.trainers
            return Result(
                optimizer=self.name,
                lr=self.lr,
                hyper=self.hyper,
                batch_size=self.settings.batch_size,
                epochs=self.settings.epochs,
                updates=stop,
                fastopt=fused.score(split, in_plane=self.in_plane),
                numpy=twins[0].score(split, in_plane=self.in_plane) if twins else None,
                identical=_same_bits(fused.model, twins[0].model) if twins else None,
                by_hand_us=float(np.median(self.by_hand.ns)) / 1e3 if self.by_hand else None,
                curve=curve,
                path=path,
            )

    def _measure(self, updates: int, curve: dict[str, list[float]], path: list[tuple[float, float]]) -> float:
        """Add a point to the curve, and for the line to the path; return the training loss in the target's unit."""
        trainer, split = self.trainers[0], self.split
        model = trainer.model
        loss, accuracy = model.evaluate(split.x, split.y)
        loss *= split.unit
        curve["updates"].append(updates)
        curve["seconds"].append(trainer.ns / 1e9)
        curve["train_loss"].append(loss)
        test_accuracy = None
        if len(split.y_test):
            test_loss, test_accuracy = model.evaluate(split.x_test, split.y_test)
            curve["test_loss"].append(test_loss * split.unit)
        for key, value in (("train_accuracy", accuracy), ("test_accuracy", test_accuracy)):
            if value is not None:
                curve[key].append(value)
        if self.in_plane:
            path.append(model.point())
        return loss

    def _check(self, loss: float, bound: float, updates: int) -> None:
        if not loss < bound:
            lr = f"lr {self.lr:g}"
            raise DivergedError(
                f"{self.name} diverged at update {updates} with {lr}: loss {loss:.3g}; give a smaller --lr"
            )

    def _save(self, path: Path, updates: int) -> None:
        run = {"settings": flat(self.settings), "rows": self.data.fingerprint(), "updates": updates}
        self.unsaved = None
        try:
            # The library knows standard output by its text, "-".
            self.trainers[0].optimizer.save(str(path), metadata={METADATA: json.dumps(run)})
        except OSError as error:
            self.unsaved = f"--save {path}: {error.strerror or error}"


def default_rate(name: str, data: Data) -> float:
    """What suits the optimizer and the data; a rate for tables suits their classes too, unless those have another."""
    rates = LR.get(name, LR["others"])
    return rates.get(data.kind, rates["tables"])


def network(settings: Settings, data: Data, split: Split) -> Network:
    """The model that fits the target, at its seeded start."""
    if settings.model == ("linear" if data.classes else "logistic"):
        has, fit = ("classes", "logistic") if data.classes else ("numbers to fit", "linear")
        raise InputError(f"--model {settings.model}: the target of {data.name} is {has}; use {fit} or mlp")
    loss = SOFTMAX if len(data.classes) > 2 else BINARY if data.classes else MSE
    outputs = len(data.classes) if loss is SOFTMAX else 1
    hidden = settings.hidden if settings.model == "mlp" else ()
    sizes = (split.x.shape[1], *hidden, outputs)
    parameters = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
    # Asked first, since Linux grants more memory than there is, and then kills who uses it.
    if parameters * np.dtype(settings.dtype).itemsize > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise InputError(f"the {settings.model} model has {parameters:.3g} parameters, more than fit into memory")
    model = Network(sizes, loss, settings.dtype, np.random.default_rng([settings.seed, 2]))
    if data.name == "line" and not hidden:
        model.params[0]["weight"].fill(LINE_START)
        model.params[0]["bias"].fill(LINE_START)
    return model


def read(path: Path) -> dict[str, Any]:
    """What a saved run knows besides its arrays: `settings`, a hash of its `rows`, and its `updates`."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"--resume {path}: no regular file")
        text = checkpoint.read_metadata(path).get(METADATA)
    except OSError as error:
        raise InputError(f"--resume {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"--resume {path}: {error}") from None
    if text is None:
        raise InputError(f"--resume {path}: not saved by fastopt train")
    try:
        run: dict[str, Any] = json.loads(text)
        kinds = {key: type(run[key]) for key in ("settings", "rows", "updates")}
    except (KeyError, TypeError, ValueError, RecursionError):
        kinds = {}
    if list(kinds.values()) != [dict, str, int] or run["updates"] < 0:
        raise InputError(f"--resume {path}: its settings are none of fastopt train's")
    return run


def _same_bits(a: Network, b: Network) -> bool:
    """Whether all parameters of two models agree in every bit."""
    pairs = zip(a.params, b.params, strict=True)
    return all(one[name].tobytes() == other[name].tobytes() for one, other in pairs for name in one)
