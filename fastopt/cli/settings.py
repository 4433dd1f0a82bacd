"""What determines a run: defaults, classic experiments, how they are layered, keywords of optimizers, schedules."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fastopt import schedules
from fastopt.optimizers import OPTIMIZERS

from .errors import InputError

MODELS = ("linear", "logistic", "mlp")
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "rmsprop-line": {
        "data": "line",
        "optimizer": ["RMSprop"],
        "lr": 0.05,
        "epochs": 2,
        "batch_size": 10,
        "alpha": 0.9,
        "eps": 1e-8,
    },
    "adam-line": {
        "data": "line",
        "optimizer": ["Adam"],
        "lr": 0.05,
        "epochs": 5,
        "batch_size": 5,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    },
}


@dataclass(frozen=True)
class Settings:
    """Everything that determines a run. `hyper` holds keywords of optimizers, only those that were given."""

    data: str = "line"
    target: str | None = None
    task: str | None = None
    model: str = "linear"
    hidden: tuple[int, ...] = (64,)
    optimizer: tuple[str, ...] = ("Adam",)
    lr: float | None = None
    schedule: str | None = None
    warmup: int = 0
    clip_norm: float | None = None
    batch_size: int = 32
    epochs: int = 20
    seed: int = 0
    dtype: str = "float32"
    test_fraction: float = 0.2
    hyper: Mapping[str, Any] = field(default_factory=dict)


FIELDS = [f.name for f in fields(Settings) if f.name != "hyper"]
RESUMABLE = {"data", "epochs", "lr", "schedule", "warmup"}  # may differ in a resumed run; data is known by its rows


def layered(*layers: Mapping[str, Any]) -> Settings:
    """Settings from flat mappings, the last one first: what is no field of Settings is a keyword of optimizers."""
    values = {key: typed(value) for layer in layers for key, value in layer.items()}
    known = {key: values.pop(key) for key in FIELDS if key in values}
    return Settings(**known, hyper=values)


def flat(settings: Settings) -> dict[str, Any]:
    """The inverse of `layered`, ready for JSON."""
    return {key: getattr(settings, key) for key in FIELDS} | dict(settings.hyper)


def typed(value: Any) -> Any:
    """A list, as JSON gives it, as the tuple it was."""
    return tuple(value) if isinstance(value, list) else value


def text(value: Any) -> str:
    """A value as it is typed: (0.9, 0.999) is `0.9 0.999`."""
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def option(name: str) -> str:
    """`batch_size` as it is typed."""
    return "--" + name.replace("_", "-")


def hyper_parameters(name: str) -> dict[str, Any]:
    """The hyper-parameters of an optimizer besides lr, with their defaults."""
    declared = OPTIMIZERS[name].hyper_parameters
    return {key: one.default for key, one in declared.items() if one.init and key != "lr"}


def optimizer_names(given: Iterable[str]) -> list[str]:
    """Names as in OPTIMIZERS, whatever their case; `all` is every one."""
    names: list[str] = []
    known = {name.lower(): name for name in OPTIMIZERS}
    for text in given:
        if text.lower() == "all":
            names += OPTIMIZERS
        elif text.lower() in known:
            names.append(known[text.lower()])
        else:
            raise InputError(f"--optimizer {text}: there are {', '.join(OPTIMIZERS)}, and all")
    return list(dict.fromkeys(names))


def fits(value: Any, default: Any) -> bool:
    """Whether there are as many numbers as the optimizer takes that has this default."""
    return not isinstance(default, tuple) or len(value) == len(default)


def check_hyper_parameters(given: Mapping[str, Any], names: list[str], *, every: bool) -> None:
    """Each keyword that was given must fit each named optimizer; with `all`, those it fits."""
    if every:
        return
    for key, value in given.items():
        having = [name for name in OPTIMIZERS if key in hyper_parameters(name)]
        for name in names:
            if name not in having:
                raise InputError(f"{option(key)}: {name} has no such option; {', '.join(having)} have it")
            default = hyper_parameters(name)[key]
            if not fits(value, default):
                raise InputError(f"{option(key)} {text(value)}: {name} takes {len(default)}, such as {text(default)}")


def learning_rate(settings: Settings, lr: float, updates: int) -> float | schedules.Schedule:
    """The number `lr` as `--schedule` and `--warmup` shape it over a run."""
    shaped: float | schedules.Schedule = lr
    if settings.schedule is not None:
        shaped = _schedule(settings.schedule, lr, updates - settings.warmup)
    if settings.warmup:
        if settings.warmup >= updates:
            raise InputError(f"--warmup {settings.warmup}: the run has only {updates} updates")
        after = shaped if callable(shaped) else schedules.StepDecay(lr=lr, every=1, factor=1.0)
        shaped = schedules.Warmup(steps=settings.warmup, after=after)
    return shaped


def decays() -> dict[str, Any]:
    """The schedules that start from an lr, by short name: `cosine` is CosineDecay."""
    classes = [value for value in vars(schedules).values() if inspect.isclass(value)]
    return {
        cls.__name__.removesuffix("Decay").lower(): cls
        for cls in classes
        if cls.__module__ == schedules.__name__ and "lr" in inspect.signature(cls).parameters
    }


def _schedule(text: str, lr: float, updates: int) -> schedules.Schedule:
    """`step:every=100,factor=0.5`: short name of a decay and its keywords; `total` is the run's length if not given."""
    name, _, rest = text.partition(":")
    known = decays()
    if name not in known:
        raise InputError(f"--schedule {text}: there are {', '.join(known)}")
    wanted = inspect.signature(known[name]).parameters
    keys = ", ".join(key for key in wanted if key != "lr")
    values: dict[str, float] = {"lr": lr} | ({"total": updates} if "total" in wanted else {})
    for item in filter(None, rest.split(",")):
        key, _, number = item.partition("=")
        if key not in wanted or key == "lr":
            raise InputError(f"--schedule {text}: {name} has no {key!r}, but {keys}")
        try:
            values[key] = int(number) if number.isdigit() else float(number)
        except ValueError:
            raise InputError(f"--schedule {text}: {item!r} is not {key}=NUMBER") from None
    missing = [key for key, p in wanted.items() if p.default is p.empty and key not in values]
    if missing:
        raise InputError(f"--schedule {text}: give {missing[0]}, as in --schedule {name}:{missing[0]}=NUMBER")
    try:
        schedule: schedules.Schedule = known[name](**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"--schedule {text}: {error}") from None
    return schedule
