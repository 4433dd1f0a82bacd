"""Hyper-parameters and options: their checks, and how a class of optimizers declares them.

A check takes the name and value as given, and returns the value in its normal form. Checks run when an optimizer is
made, when a value is set, and in the first step after a live value changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
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
    "betas",
    "choice",
    "flag",
    "fraction",
    "learning_rate",
    "mask",
    "nearest",
    "nonnegative",
    "optional",
    "positive",
    "proportion",
    "proportions",
]

T = TypeVar("T")
Check = Callable[[str, Any], Any]
Rate = float | Callable[[int], float]


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

    def check(self, shown: str, value: Any) -> Any:
        """Return a value in its normal form, or raise TypeError or ValueError; `shown` is its name in the message."""
        value = self._check(shown, value)
        if not self.init and value != self.default:
            raise ValueError(f"{shown} is {value!r}: here it is always {self.default!r}")
        return value

    if TYPE_CHECKING:  # what type checkers take the arguments of a class from

        @overload
        def __get__(self, optimizer: None, owner: type) -> Self: ...
        @overload
        def __get__(self, optimizer: object, owner: type) -> Any: ...
        def __get__(self, optimizer: Any, owner: type) -> Any: ...
        def __set__(self, optimizer: Any, value: T) -> None: ...


class Hyper(Declared[T]):
    """A hyper-parameter, which each group has: reading gives its value, or a list where groups differ."""

    if not TYPE_CHECKING:

        def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
            if optimizer is None:
                return self
            values = [group[self.name] for group in optimizer.param_groups]
            return values[0] if all(value == values[0] for value in values) else values

        def __set__(self, optimizer: Optimizer, value: T) -> None:
            if self.name == "lr" and type(value) is float and 0.0 <= value < math.inf and optimizer._lock.free:
                for group in optimizer.param_groups:  # at once: a rate may be set in each step
                    group["lr"] = value
            else:
                optimizer._set_hyper(self.name, self.check(self.name, value))


class Option(Declared[T]):
    """An option, which the optimizer has as a whole."""

    if not TYPE_CHECKING:

        def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
            return self if optimizer is None else optimizer._options[self.name]

        def __set__(self, optimizer: Optimizer, value: T) -> None:
            optimizer._set_options({**optimizer._options, self.name: self.check(self.name, value)})


class Given(Generic[T]):
    """What was given first, the parameters."""

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
    "clip_norm": ("clipnorm", "global_clipnorm", "max_norm", "max_grad_norm", "grad_clip", "clip"),
    "decay_mask": ("mask", "weight_decay_mask", "exclude_from_weight_decay"),
    "maximize": ("maximise",),
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'lr'?"`` where one of the known names is like this one, else nothing."""
    import difflib  # only for a message

    known = list(known)
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


def positive(name: str, value: Any) -> float:
    """Check for a finite number above 0."""
    return _number(name, value, "a finite number above 0", 0, math.inf, open_low=True, open_high=True)


def fraction(name: str, value: Any) -> float:
    """Check for a number in [0, 1): what decays by it dies out."""
    return _number(name, value, "a number of at least 0 and below 1", 0, 1, open_low=False, open_high=True)


def proportion(name: str, value: Any) -> float:
    """Check for a number in [0, 1]."""
    return _number(name, value, "a number from 0 to 1", 0, 1, open_low=False, open_high=False)


def _two(check: Check, name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} is {value!r}: wanted two numbers")
    return check(f"{name}[0]", value[0]), check(f"{name}[1]", value[1])


def betas(name: str, value: Any) -> tuple[float, float]:
    """Check for two numbers in [0, 1)."""
    return _two(fraction, name, value)


def proportions(name: str, value: Any) -> tuple[float, float]:
    """Check for two numbers in [0, 1]."""
    return _two(proportion, name, value)


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


def optional(check: Check) -> Check:
    """Return a check for None, or what another check wants."""
    return lambda name, value: None if value is None else check(name, value)


def mask(name: str, value: Any) -> Any:
    """Check for a function."""
    if not callable(value):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: wanted a function of path and array, or None")
    return value


def choice(*choices: str) -> Check:
    """Return a check for one of these words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} is {value!r}: wanted one of {', '.join(map(repr, choices))}")
        return str(value)

    return check
