"""What determines a run: defaults, classic experiments, how they are layered, keywords of optimizers, schedules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fastopt import schedules
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules.saved import KINDS

from .data import ALL_ROWS, HYPER, Data
from .errors import InputError
from .files import Reading

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
class Settings(Reading):
    """Everything that determines a run. `hyper` holds keywords of optimizers, only those that were given."""

    data: str = "line"
    model: str = "linear"
    hidden: tuple[int, ...] = (64,)
    optimizer: tuple[str, ...] = ("Adam",)
    lr: Any = None  # a number; several, or "search", before each run has its own
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
READING = [f.name for f in fields(Reading)]
RESUMABLE = {"data", "epochs", "lr", "schedule", "warmup"}  # may differ in a resumed run; data is known by its rows


def layered(*layers: Mapping[str, Any]) -> Settings:
    """Settings from flat mappings, the last one first: what is no field of Settings is a keyword of optimizers."""
    values = {key: typed(value) for layer in layers for key, value in layer.items()}
    known = {key: values.pop(key) for key in FIELDS if key in values}
    return Settings(**known, hyper=values)


def own(settings: Settings, name: str, given: Iterable[str], data: Data, rows: int) -> Settings:
    """The settings of one optimizer: what it needs, where nothing else was given."""
    needs: dict[str, Any] = {}
    if name in ALL_ROWS:
        needs = {"batch_size": rows, "epochs": ALL_ROWS[name] + settings.warmup}
    hyper = {**HYPER.get(data.kind, {}).get(name, {}), **settings.hyper}
    return replace(settings, hyper=hyper, **{key: value for key, value in needs.items() if key not in given})


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
    """The hyper-parameters of an optimizer besides lr, with their defaults; without what cannot be typed as numbers."""
    declared = OPTIMIZERS[name].hyper_parameters
    found = {key: one.default for key, one in declared.items() if one.init and key != "lr"}
    return {key: value for key, value in found.items() if not (isinstance(value, tuple) and None in value)}


def optimizer_names(given: Iterable[str]) -> list[str]:
    """Names as in OPTIMIZERS, whatever their case, with commas between them or one by one; `all` is every one."""
    names: list[str] = []
    known = {name.lower(): name for name in OPTIMIZERS}
    for text in (part.strip() for several in given for part in several.split(",")):
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
    if settings.warmup >= updates:
        raise InputError(f"--warmup {settings.warmup}: the run has only {updates} updates")
    shaped: float | schedules.Schedule = lr
    if settings.schedule is not None:
        shaped = course(settings.schedule, updates - settings.warmup, lr)
    return schedules.Warmup(settings.warmup, shaped) if settings.warmup else shaped


#: schedules that a few numbers do not tell, and what to do instead
ELSEWHERE = {
    "warmup": "give --warmup beside a schedule",
    "join": "it is made of schedules, which needs a program",
    "product": "it is made of schedules, which needs a program",
    "reduceonplateau": "it is told a metric, which needs a program",
    "onecyclemomentum": "it is for a momentum, which needs a program",
}


def decays() -> dict[str, Any]:
    """The schedules that a few numbers tell, by short name: `cosine` is CosineDecay, `one-cycle` is OneCycle."""
    names = {name: re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name.removesuffix("Decay")).lower() for name in KINDS}
    return {names[name]: kind for name, kind in KINDS.items() if name.lower() not in ELSEWHERE}


def course(text: str, updates: int, lr: float | None) -> schedules.Schedule:
    """A schedule from `step:every=100,factor=0.5`: its short name, and its fields by their keywords.

    A list goes on after commas: `multi-step:milestones=30,60,factor=0.5`. `total` is the number of updates if it is
    not given. With an `lr` that is what the schedule starts from, or what its rates are multiplied by if they start
    from something else; without, it is a keyword too, and 1 if it is not given.
    """
    where = f"--schedule {text}" if lr is not None else text
    name, _, rest = text.partition(":")
    known, plain = decays(), name.lower().replace("-", "").removesuffix("decay")
    if plain in ELSEWHERE:
        raise InputError(f"{where}: {ELSEWHERE[plain]}")
    cls = next((cls for one, cls in known.items() if one.replace("-", "") == plain), None)
    if cls is None:
        raise InputError(f"{where}: there are {', '.join(known)}")
    kinds = {one.name: str(one.type) for one in fields(cls) if one.name != "lr" or lr is None}
    values = _values(where, name, kinds, filter(None, rest.split(",")))
    for key, value in {"lr": 1.0, "scale": 1.0, "total": updates}.items():
        if key in kinds:
            values.setdefault(key, value)
    for key, kind in kinds.items():
        if key not in values and not hasattr(cls, key):
            example = f"{name}:{key}={_wanted(kind)}"
            raise InputError(f"{where}: give {key}, as in {example if lr is None else f'--schedule {example}'}")
    try:
        if lr is None:
            made: schedules.Schedule = cls(**values)
        elif "lr" in cls.__dataclass_fields__:
            made = cls(lr=lr, **values)
        else:
            made = schedules.Product(lr, cls(**values))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: {error}") from None
    return made


def length(schedule: Any, other: int) -> int:
    """How many steps a schedule has, or another number if it has no end."""
    if isinstance(schedule, schedules.WarmupStableDecay):
        return schedule.warmup + schedule.stable + schedule.decay
    return int(getattr(schedule, "total", other))


def _values(where: str, name: str, kinds: Mapping[str, str], items: Iterable[str]) -> dict[str, Any]:
    """The fields that were given; what has no `=` goes on with the list before it."""
    values: dict[str, Any] = {}
    key = ""
    for item in items:
        before, equals, text = item.partition("=")
        if equals or not isinstance(values.get(key), list):
            key = before
        else:
            text = item
        if key not in kinds:
            raise InputError(f"{where}: {name} has no {key!r}, but {', '.join(kinds)}")
        try:
            value = _value(text, kinds[key])
        except (KeyError, ValueError):
            raise InputError(f"{where}: {item!r} is not {key}={_wanted(kinds[key])}") from None
        if kinds[key].startswith("Sequence"):
            values[key] = [*values[key], value] if not equals else [value]
        else:
            values[key] = value
    return values


def _value(text: str, kind: str) -> Any:
    if kind == "str":
        return text
    if kind == "bool":
        return {"true": True, "false": False}[text.lower()]
    return int(text) if text.isdigit() else float(text)


def _wanted(kind: str) -> str:
    words = {"bool": "true or false", "str": "WORD"}
    return words.get(kind, "NUMBER,..." if kind.startswith("Sequence") else "NUMBER")
