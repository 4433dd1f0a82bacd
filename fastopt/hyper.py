"""Hyper-parameters and options: their checks, and how a class of optimizers declares them.

A check takes the name and value as given, and returns the value in its normal form. Checks run when an optimizer is
made, when a value is set, and in the first step after a live value changed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from itertools import repeat
from numbers import Real
from operator import setitem
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    import inspect

    from typing_extensions import Self

    from .optimizer import Optimizer

__all__ = [
    "Check",
    "Declared",
    "Given",
    "Hyper",
    "Option",
    "Rate",
    "Signature",
    "above_0",
    "at_most_0",
    "betas",
    "choice",
    "constant",
    "etas",
    "flag",
    "floors",
    "fraction",
    "function",
    "growth",
    "interpolation_betas",
    "is_schedule",
    "learning_rate",
    "limits",
    "nearest",
    "nonnegative",
    "norm",
    "optional",
    "positive",
    "proportion",
    "proportions",
    "set_all",
    "three_betas",
    "three_numbers",
    "whole",
]

T = TypeVar("T")
Check = Callable[[str, Any], Any]
Rate = float | Callable[[int], float]  # a number, or a schedule


class Declared(Generic[T]):
    """What a class of optimizers declares once: an argument's name, its check and default, and a property.

    Parameters
    ----------
    check : callable
        Check of a value, see above.
    default
        Its value where none is given.
    kw_only : bool
        Whether it is an argument by name only.
    init : bool
        Whether it is an argument at all; else it is always the default.
    """

    name: str

    def __init__(self, check: Check, *, default: T, kw_only: bool = True, init: bool = True) -> None:
        self._check, self.default, self.kw_only, self.init = check, default, kw_only, init

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        #: whether it is a learning rate with the usual check, which steps know too
        self.is_rate = name == "lr" and self._check is learning_rate and self.init

    def check(self, shown: str, value: Any) -> Any:
        """Return a value in its normal form, or raise TypeError or ValueError; `shown` is its name in the message."""
        value = self._check(shown, value)
        if not self.init and value != self.default:
            raise ValueError(f"{shown} is {value!r}: here it is always {self.default!r}")
        return value

    if TYPE_CHECKING:  # from these, type checkers know the type of an argument

        @overload
        def __get__(self, optimizer: None, owner: type) -> Self: ...
        @overload
        def __get__(self, optimizer: object, owner: type) -> Any: ...
        def __get__(self, optimizer: Any, owner: type) -> Any: ...
        def __set__(self, optimizer: Any, value: T) -> None: ...


class Hyper(Declared[T]):
    """A hyper-parameter, which each group has: reading gives its value, or a list where groups differ.

    A number may be a schedule: a callable of the number of steps taken.
    """

    def check(self, shown: str, value: Any) -> Any:
        """Return a value in its normal form, or raise; a schedule is checked when it is called."""
        return value if callable(value) and self._check in _NUMBERS else super().check(shown, value)

    def at(self, shown: str, value: Any, steps: int) -> Any:
        """Return the value after so many steps of a schedule, or of a tuple that has one, checked."""
        if isinstance(value, tuple):
            return self._check(shown, tuple(one(steps) if callable(one) else one for one in value))
        return self._check(f"{shown} schedule {value!r} after {steps} steps", value(steps))

    if not TYPE_CHECKING:

        def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
            if optimizer is None:
                return self
            values = [self._in(optimizer, index) for index in range(len(optimizer.param_groups))]
            return values[0] if all(value == values[0] for value in values) else values

        def _in(self, optimizer: Optimizer, index: int) -> Any:
            """The value in one live group, as a step will take it."""
            group = optimizer._group(index)
            if self.name not in group:
                raise ValueError(f"param_groups[{index}] lacks {self.name!r}")
            return self.check(f"param_groups[{index}][{self.name!r}]", group[self.name])

        def __set__(self, optimizer: Optimizer, value: T) -> None:
            if self.is_rate and type(value) is float and 0.0 <= value < math.inf:
                # Without the lock and the other checks, since a rate may be set before each step: from the look at the
                # lock to the end of the call no other thread runs.
                setting = map(setitem, optimizer.param_groups, repeat("lr"), repeat(value))
                if optimizer._lock.free:
                    deque(setting, 0)  # as `set_all` does
                    return
            optimizer._set_hyper(self.name, self.check(self.name, value))


def set_all(groups: Iterable[dict[str, Any]], name: str, value: Any) -> None:
    """Set a value in all groups, or in none: in one call of C, in which no signal handler and no other thread runs."""
    deque(map(setitem, groups, repeat(name), repeat(value)), 0)


class Option(Declared[T]):
    """An option, which the optimizer has as a whole."""

    if not TYPE_CHECKING:

        def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
            return self if optimizer is None else optimizer._options[self.name]

        def __set__(self, optimizer: Optimizer, value: T) -> None:
            optimizer._set_option(self.name, self.check(self.name, value))


class Given(Generic[T]):
    """The parameters as they were given."""

    def __init__(self, *, kw_only: bool) -> None: ...

    def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
        return self if optimizer is None else optimizer._bound().tree.params

    def __set__(self, optimizer: Optimizer, value: T) -> None:
        raise AttributeError("an optimizer's params are fixed: use bind(params)")


class Signature:
    """The arguments of a class, for `help` and `inspect`: those that it declares, unless it has an ``__init__``."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._base = owner

    def __get__(self, optimizer: Optimizer | None, owner: type[Optimizer]) -> inspect.Signature:
        import inspect

        if any("__init__" in vars(cls) for cls in owner.__mro__[: owner.__mro__.index(self._base)]):
            raise AttributeError("__signature__")
        arguments = [inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        for name, one in owner._arguments.items():
            kind = inspect.Parameter.KEYWORD_ONLY if one.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
            arguments.append(inspect.Parameter(name, kind, default=one.default))
        return inspect.Signature(arguments)


_ELSEWHERE = {  # what other frameworks call them
    "lr": ("learning_rate", "step_size", "alpha", "eta"),
    "betas": ("beta", "beta1", "beta2", "beta_1", "beta_2", "b1", "b2"),
    "eps": ("epsilon",),
    "momentum": ("momentum_decay", "mu", "beta", "beta1", "beta_1", "decay"),
    "alpha": ("rho", "decay", "decay_rate", "beta", "beta2", "beta_2", "smoothing_constant"),
    "weight_decay": ("wd", "decay", "l2", "lambd", "weight_decay_rate"),
    "decoupled": ("decoupled_weight_decay",),
    "clip_norm": ("global_clipnorm", "max_norm", "max_grad_norm", "grad_clip", "clip"),
    "clip_tensor_norm": ("clipnorm",),
    "clip_value": ("clipvalue",),
    "ema_decay": ("use_ema", "ema_momentum"),
    "decay_mask": ("mask", "weight_decay_mask", "exclude_from_weight_decay"),
    "maximize": ("maximise",),
}


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return ``"did you mean 'lr'?"`` where one of the known names is like this one, else nothing."""
    import difflib  # only for a message

    name, known = str(name), list(known)
    found = [one for one in known if name in _ELSEWHERE.get(one, ())] or difflib.get_close_matches(name, known, n=1)
    return f"did you mean {found[0]!r}?" if found else ""


def _number(name: str, value: Any, wanted: str, low: float, high: float, *, open_low: bool, open_high: bool) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: wanted {wanted}")
    try:
        number = float(value)
    except OverflowError:  # of a long integer
        number = math.inf
    inside = (low < number if open_low else low <= number) and (number < high if open_high else number <= high)
    if not (math.isfinite(number) and inside):
        raise ValueError(f"{name} is {value!r}: wanted {wanted}")
    return number


def nonnegative(name: str, value: Any) -> float:
    """Check for a finite number of at least 0."""
    return _number(name, value, "a finite number of at least 0", 0, math.inf, open_low=False, open_high=True)


def norm(name: str, value: Any) -> float:
    """Check for what the norm of numbers may be: at least 0, Inf or NaN."""
    if isinstance(value, (float, np.floating)) and not value < math.inf:
        return float(value)
    return _number(name, value, "a number of at least 0, Inf or NaN", 0, math.inf, open_low=False, open_high=True)


def constant(name: str, value: Any) -> float:
    """Check for a finite number of at least 0, and no schedule."""
    return nonnegative(name, value)


def positive(name: str, value: Any) -> float:
    """Check for a finite number above 0."""
    return _number(name, value, "a finite number above 0", 0, math.inf, open_low=True, open_high=True)


def growth(name: str, value: Any) -> float:
    """Check for a number of at least 1, which may be infinite."""
    if isinstance(value, float) and value == math.inf:
        return math.inf
    return _number(name, value, "a number of at least 1", 1, math.inf, open_low=False, open_high=True)


def at_most_0(name: str, value: Any) -> float:
    """Check for a finite number of at most 0."""
    return _number(name, value, "a finite number of at most 0", -math.inf, 0, open_low=True, open_high=False)


def fraction(name: str, value: Any) -> float:
    """Check for a number in [0, 1): what decays by it dies out."""
    return _number(name, value, "a number of at least 0 and below 1", 0, 1, open_low=False, open_high=True)


def proportion(name: str, value: Any) -> float:
    """Check for a number in [0, 1]."""
    return _number(name, value, "a number from 0 to 1", 0, 1, open_low=False, open_high=False)


def above_0(name: str, value: Any) -> float:
    """Check for a number in (0, 1]."""
    return _number(name, value, "a number above 0 and at most 1", 0, 1, open_low=True, open_high=False)


def whole(name: str, value: Any) -> int:
    """Check for a whole number of at least 0."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: wanted a whole number of at least 0")
    if not 0 <= value < 2**62:
        raise ValueError(f"{name} is {value!r}: wanted a whole number of at least 0")
    return int(value)


def _several(name: str, value: Any, *checks: Check) -> list[Any]:
    """Check for several numbers, each by its own check, or schedules."""
    if not isinstance(value, (tuple, list)) or len(value) != len(checks):
        raise TypeError(f"{name} is {value!r}: wanted {('two', 'three')[len(checks) - 2]} numbers")
    pairs = enumerate(zip(checks, value, strict=True))
    return [number if callable(number) else check(f"{name}[{i}]", number) for i, (check, number) in pairs]


def betas(name: str, value: Any) -> tuple[Any, Any]:
    """Check for two numbers in [0, 1), or schedules."""
    one, two = _several(name, value, fraction, fraction)
    return one, two


def proportions(name: str, value: Any) -> tuple[Any, Any]:
    """Check for two numbers in [0, 1], or schedules."""
    one, two = _several(name, value, proportion, proportion)
    return one, two


def interpolation_betas(name: str, value: Any) -> tuple[Any, Any]:
    """Check for a number in (0, 1] and one in [0, 1), or schedules."""
    one, two = _several(name, value, above_0, fraction)
    return one, two


def three_betas(name: str, value: Any) -> tuple[Any, Any, Any]:
    """Check for three numbers in [0, 1), or schedules."""
    one, two, three = _several(name, value, fraction, fraction, fraction)
    return one, two, three


def etas(name: str, value: Any) -> tuple[Any, Any]:
    """Check for a factor between 0 and 1, and one above 1: what shrinks and what grows."""
    down, up = _several(name, value, positive, positive)
    if not ((callable(down) or down < 1) and (callable(up) or up > 1)):
        raise ValueError(f"{name} is {value!r}: wanted the first below 1 and the second above 1")
    return down, up


def limits(name: str, value: Any) -> tuple[Any, Any]:
    """Check for two numbers of at least 0, of which the first is not above the second."""
    low, high = _several(name, value, nonnegative, nonnegative)
    if not callable(low) and not callable(high) and low > high:
        raise ValueError(f"{name} is {value!r}: wanted the first not above the second")
    return low, high


def three_numbers(name: str, value: Any) -> tuple[Any, ...]:
    """Check for three finite numbers."""

    def finite(name: str, value: Any) -> float:
        low, high = -math.inf, math.inf
        return _number(name, value, "a finite number", low, high, open_low=True, open_high=True)

    return tuple(_several(name, value, finite, finite, finite))


def floors(name: str, value: Any) -> tuple[Any, Any]:
    """Check for a number of at least 0 or None, and a number of at least 0."""
    least, other = _several(name, value, optional(constant), constant)
    return least, other


def is_schedule(value: Any) -> bool:
    """Whether a hyper-parameter is a schedule, or a tuple that has one."""
    return callable(value) or (isinstance(value, tuple) and any(map(callable, value)))


def flag(name: str, value: Any) -> bool:
    """Check for True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: wanted True or False")
    return bool(value)


def learning_rate(name: str, value: Any) -> Any:
    """Check for a finite number of at least 0, or a schedule: a callable of the number of steps taken."""
    if type(value) is float and 0.0 <= value < math.inf:  # at once: a rate may be set in each step
        return value
    return value if callable(value) else nonnegative(name, value)


@cache
def optional(check: Check) -> Check:
    """Return a check for None, or what another check wants."""
    return lambda name, value: None if value is None else check(name, value)


def function(what: str) -> Check:
    """Return a check for a function, of which it is said what it is."""

    def check(name: str, value: Any) -> Any:
        if not callable(value):
            raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: wanted a function {what}, or None")
        return value

    return check


def choice(*choices: str) -> Check:
    """Return a check for one of these words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} is {value!r}: wanted one of {', '.join(map(repr, choices))}")
        return str(value)

    return check


_NUMBERS = (nonnegative, positive, fraction, proportion, above_0, learning_rate)  # checks of what may be a schedule
