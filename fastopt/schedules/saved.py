"""Which schedules are known by their fields: those that can be asked for many steps at once, saved and restored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from . import compound, courses
from .compound import Product, ReduceOnPlateau, numbers_of
from .formula import Formula

#: by name, from the simple to the compound
KINDS: dict[str, Any] = {
    name: kind
    for module in (courses, compound)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Formula) and kind.__module__ == module.__name__
}


def known(schedule: Any) -> bool:
    """Whether a schedule is one of these: one of a class that a user has made of these is not."""
    return type(schedule) in KINDS.values()


def parts(schedule: Any) -> Iterator[Any]:
    """The schedules that one of these is made of."""
    for value in numbers_of(schedule).values():
        yield from filter(callable, value if isinstance(value, tuple) else (value,))


def takes_arrays(schedule: Any) -> bool:
    """Whether a schedule is one of these and can be asked for many steps at once.

    One of a class that a user has made of these is not, whatever it changes: its formula may be for one number only.
    Nor is one that changes when it is told how the run goes.
    """
    return known(schedule) and type(schedule) is not ReduceOnPlateau and all(map(takes_arrays, parts(schedule)))


def described(schedule: Any) -> Any:
    """Return one of these as names and numbers, for JSON, or None if it is another callable, or made of one."""
    try:
        return _described(schedule)
    except LookupError:
        return None


def _described(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(map(_described, value))
    if not callable(value):
        return value
    if not known(value):
        raise LookupError
    return {"schedule": type(value).__name__, **{k: _described(one) for k, one in numbers_of(value).items()}}


def restored(description: Any) -> Any:
    """Return the schedule that `described` described; a field that it had not yet has its default.

    Raises
    ------
    TypeError, ValueError
        If there is none like it.
    """
    return Restored()(description, None)


class Restored:
    """Makes the schedules that one snapshot describes.

    A `ReduceOnPlateau` that the optimizer holds goes on being the one that counts: it is used again. It is to have the
    saved numbers, but only once nothing can fail any more. Where there is none, what groups of the snapshot have alike
    becomes one object, as it was if one schedule was given for all of them.
    """

    def __init__(self) -> None:
        #: what is to be put into dicts, under keys they have: (dict, key, value)
        self.items: list[tuple[dict[str, Any], str, Any]] = []
        #: each as it will be, the object that will be it, and the number of its schedule
        self._taken: list[tuple[ReduceOnPlateau, ReduceOnPlateau, int]] = []
        self._calls = 0

    def __call__(self, description: Any, live: Any) -> Any:
        """Return the schedule that a description describes.

        Parameters
        ----------
        description : mapping
        live
            What the optimizer has in its place.
        """
        self._calls += 1
        return self._made(description, _plateaus(live))

    def _made(self, description: Any, live: Iterator[ReduceOnPlateau]) -> Any:
        values = dict(description)
        kind = KINDS.get(values.pop("schedule", None))
        names = {} if kind is None else {field.name: hasattr(kind, field.name) for field in fields(kind)}
        missing = [name for name, has_default in names.items() if not has_default and name not in values]
        if kind is None or missing or not values.keys() <= names.keys():
            raise ValueError(f"there is no schedule {description!r}")
        for name, value in values.items():
            if isinstance(value, Mapping):
                values[name] = self._made(value, live)
            elif isinstance(value, (list, tuple)):
                values[name] = tuple(self._made(one, live) if isinstance(one, Mapping) else one for one in value)
        made: Any = kind(*values["schedules"]) if kind is Product else kind(**values)
        return self._in_use(made, next(live, None)) if kind is ReduceOnPlateau else made

    def _in_use(self, made: ReduceOnPlateau, live: ReduceOnPlateau | None) -> ReduceOnPlateau:
        """The object that is to be this one."""
        if live is None or any(live is used for _, used, _ in self._taken):
            alike = [(used, call) for will_be, used, call in self._taken if will_be == made]
            for used, call in alike:
                if used is live or call != self._calls:
                    return used
            live = made
        else:
            self.items += [(vars(live), name, value) for name, value in vars(made).items()]
        self._taken.append((made, live, self._calls))
        return live


def _plateaus(schedule: Any) -> Iterator[ReduceOnPlateau]:
    """Those that a schedule is made of, in order."""
    if type(schedule) is ReduceOnPlateau:
        yield schedule
    elif known(schedule):
        for part in parts(schedule):
            yield from _plateaus(part)
