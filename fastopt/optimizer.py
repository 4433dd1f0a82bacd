"""`Optimizer`: parameters, groups, state and step of every optimizer. It knows no rule.

A class of optimizers declares its hyper-parameters, and says in `slots`, `rule`, `scalars` and `reference` what is its
own; the arithmetic is in src_c/rules.c, the memory and the threads are the engine's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from operator import methodcaller
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from . import hyper
from .engine import kernels
from .engine.coefficients import Terms
from .engine.lock import Lock
from .engine.lookahead import Averaged
from .engine.parts import Parts
from .engine.plan import Plan
from .engine.state import AVERAGE
from .hyper import Given, Hyper, Option, Rate
from .interrupts import held
from .snapshots import ROW_STEPS, Snapshots
from .tree import Tree, described, dotted
from .words import clamp, lane_sum

__all__ = ["Hyper", "Optimizer", "Rate", "Scalars", "Steps", "Values"]

Array = npt.NDArray[Any]
Params = npt.NDArray[np.floating[Any]] | list[Any] | tuple[Any, ...] | dict[Any, Any]
Values = dict[str, Any]
Steps = npt.NDArray[np.int64]
Scalars = dict[str, float | npt.NDArray[np.float64]]
_UNBOUND = "this optimizer is a copy without parameters: call bind(params) first"


def _takes_arrays(lr: Any) -> bool:
    """Whether a learning rate is a schedule that can be asked for many steps at once."""
    if not callable(lr):
        return False
    from .schedules import takes_arrays  # whoever has no schedule is not to wait for its import

    return takes_arrays(lr)


def _decayed(p: Array, u: Array, decay: Any) -> Array:
    """DECAYED of src_c/rule.h."""
    return u if decay is None else decay * p + u


def _shrinking(norm: float, limit: float) -> float:
    """The factor that brings a norm down to a limit; of a NaN, NaN: no step that looks sound."""
    return 1.0 if norm <= limit else limit / norm


def _placed(memory: Callable[..., Array], name: str, slot: str, like: Array) -> Array:
    """The array that the state of a parameter is to lie in."""
    order = "C" if like.flags.c_contiguous else "F"
    array = memory(name, slot, like.shape, like.dtype, order)
    shown = f"state_memory gave for {slot!r} of {name}"
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{shown} {described(array)}: wanted an array")
    if (array.dtype, array.shape) != (like.dtype, like.shape):
        raise ValueError(f"{shown} an array {array.dtype} {array.shape}: wanted {like.dtype} {like.shape}")
    contiguous = array.flags.c_contiguous if order == "C" else array.flags.f_contiguous
    if not (contiguous and array.flags.writeable and array.flags.aligned):
        raise ValueError(f"{shown} an array that is not writable, aligned and contiguous in order {order!r}")
    return array


def _as_it_is(array: Array) -> Array:
    return array


def _as_it_lies(array: Array, with_axes: bool) -> Callable[[Array], Any]:
    """What lays this array, and others of its memory order, out in that order: flat, or with its axes."""
    if with_axes and array.ndim > 1:
        return _as_it_is if array.flags.c_contiguous else methodcaller("transpose")
    return methodcaller("reshape", -1, order="C" if array.flags.c_contiguous else "F")


class Optimizer(Snapshots):
    """Base of all optimizers: not to be used itself.

    Parameters
    ----------
    params : array, list, tuple or dict
        float32 or float64 arrays, C- or Fortran-contiguous, nested as you like; they are updated in place. A list of
        dicts that each have ``"params"`` is a list of groups, whose other keys override the hyper-parameters.
    lr : float or callable
        Learning rate of at least 0, or a schedule: a function of the number of steps taken.
    weight_decay : float
        How much of each parameter is added to its gradient.
    decoupled : bool
        If True, decay is subtracted beside the update, times the learning rate, and not a part of the gradient.
    maximize : bool
        Whether to ascend.
    nonfinite : {"propagate", "skip", "raise"}
        What becomes of a step with an Inf or NaN in any gradient: it is taken as it is; it is skipped as a whole,
        counted in `skipped`, and `step` returns False; or it raises `FloatingPointError`. The last two read the
        gradients once more.
    zero_grads : bool
        Whether a step sets the gradients to zero once it has used them; they must be writable. A step that is skipped,
        or raises, because of an Inf or NaN zeroes them too.
    clip_norm : float, optional
        Gradients whose norm, over all parameters together, is above this are scaled down to it. Reads the gradients
        once more; they are not written.
    clip_tensor_norm : float, optional
        The gradient of each parameter whose norm is above this is scaled down to it. Reads the gradients once more;
        they are not written.
    clip_value : float, optional
        Gradients are clamped to this and its negative, element by element. Of these three, one may be given.
    ema_decay : float, optional
        Keeps an exponential moving average of each parameter, ``ema`` in the state, which `averaged` shows: the first
        update makes it a copy of the parameter, each later one multiplies it by this, in [0, 1), and adds the rest of
        the parameter. Takes memory for one more copy of the parameters, which each step reads and writes. Set to None
        later, the average stays as it is.
    decay_mask : callable, optional
        Which parameters decay: a function of a parameter's path, the keys and indices that lead to it with dots between
        (``"l1.bias"``), and the parameter. It is called once for each, and leaves those out for which it gives False.
    state_memory : callable, optional
        Where state is to lie, such as ``fastopt.memory.files(folder)`` for files. A function of a parameter's name, the
        name of the state array (``"exp_avg"``), its shape, dtype and memory order ("C" or "F"), that returns a writable
        array of these which overlaps nothing. If the array has an attribute ``is_zero`` that is True, it is taken to
        hold zeros; else it is zeroed. Asked when state is made; state of other shapes than its parameter's stays in
        ordinary memory. After a fork the child must `bind`, since the memory may be shared.

    Notes
    -----
    Hyper-parameters and options are attributes too. Reading a hyper-parameter gives its value, or a list of them where
    groups differ; setting one sets it in all groups. What is set waits for a step that another thread is taking.
    """

    __slots__ = ()

    params: Given[Params] = Given(kw_only=False)
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-3, kw_only=False)
    weight_decay: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.0)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=False)
    maximize: Hyper[bool] = Hyper(hyper.flag, default=False)
    nonfinite: Option[Literal["propagate", "skip", "raise"]] = Option(
        hyper.choice("propagate", "skip", "raise"), default="propagate"
    )
    zero_grads: Option[bool] = Option(hyper.flag, default=False)
    clip_norm: Option[float | None] = Option(hyper.optional(hyper.positive), default=None)
    clip_tensor_norm: Option[float | None] = Option(hyper.optional(hyper.positive), default=None)
    clip_value: Option[float | None] = Option(hyper.optional(hyper.positive), default=None)
    ema_decay: Option[float | None] = Option(hyper.optional(hyper.fraction), default=None)
    decay_mask: Option[Callable[[str, Array], bool] | None] = Option(
        hyper.optional(hyper.function("of path and array")), default=None
    )
    state_memory: Option[Callable[..., Array] | None] = Option(
        hyper.optional(hyper.function("that makes arrays")), default=None
    )

    #: state arrays by the rule's letter, and the name users know them by
    slots: ClassVar[Mapping[str, str]] = {}
    #: numbers that the class keeps for each parameter, and for each group, and what they start at
    numbers: ClassVar[Mapping[str, float]] = {}
    group_numbers: ClassVar[Mapping[str, float]] = {}
    #: whether gradients are to be computed inside ``with opt.lookahead():``
    looks_ahead: ClassVar[bool] = False
    #: hyper-parameters that all groups must have in common
    same_in_groups: ClassVar[tuple[str, ...]] = ()
    #: whether it is for arrays of two axes alone
    matrices_only: ClassVar[bool] = False
    #: whether `reference` does the arithmetic of `step` too
    in_numpy: ClassVar[bool] = False
    #: whether `reference` takes matrices with their axes, transposed if in Fortran order; other arrays are laid flat
    keeps_axes: ClassVar[bool] = False
    #: whether kernels divide by `eps`, in the parameters' type
    eps_in_kernels: ClassVar[bool] = True
    #: whether the rule says what p becomes, and not what is subtracted from it
    assigns: ClassVar[bool] = False

    #: what the class declares, by name: those of its own, then those of all
    hyper_parameters: ClassVar[Mapping[str, Hyper[Any]]] = {}
    _declared: ClassVar[Mapping[str, Hyper[Any] | Option[Any]]] = {}
    _arguments: ClassVar[Mapping[str, Hyper[Any] | Option[Any]]] = {}  # those that are not always the default
    _shared: list[int] | None = None  # elements of whole parameters, where these are parts of them
    _slots: ClassVar[Mapping[str, str]] = {}  # with the average that each may have

    # ---- what a class says ----

    @classmethod
    def check_together(cls, h: Values) -> None:
        """Raise ValueError if hyper-parameters, each of them valid, do not go together."""

    @classmethod
    def check_parameter(cls, name: str, array: Array) -> None:
        """Raise ValueError for a parameter that is not for this class."""

    @classmethod
    def rule(cls, h: Values) -> str:
        """Return the name of the rule in src_c/rules.c for these hyper-parameters."""
        raise NotImplementedError

    @classmethod
    def kind(cls, h: Values) -> str:
        """Return how weight decay enters these kernels: "none", "coupled" or "decoupled".

        A class whose rule has the decay inside, as one of its scalars, says "none".
        """
        return "none" if h["weight_decay"] == 0 else "decoupled" if h["decoupled"] else "coupled"

    @classmethod
    def state_shape(cls, slot: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape of a state array of a parameter of this shape, None where it has none."""
        return shape

    @classmethod
    def scalars(cls, h: Values, t: Steps, *args: Any, **more: Any) -> Any:
        """Return the rule's scalars in steps t, each a number or one for each step.

        `t` is an array of step numbers 1, 2, ...: those of many steps are computed at once. First come the scalars
        that are to be multiplied by the step's learning rate, then the others.

        A class takes more by name if it needs it. `rule`: the name of the rule. `fresh`, a bool: whether the
        parameter's state is new, since no update has used it yet. `lr`: the learning rate, where scalars depend on it
        otherwise than as a factor. `numbers`: what the class keeps, by name. It is then asked in each step about the
        parameters of a group that take part: `t`, `fresh` and the numbers of parameters are arrays with an element for
        each, or one for all where they have all in common; numbers of the group are floats, and what these become is
        returned third, a dict. `sums`, of a class with
        numbers: what its rule's first pass adds up over each parameter, by name; None before that pass, when it is
        asked for the scalars that the pass needs. `totals`, instead: the sums over all parameters whose learning rate
        is not 0, floats, and the largest learning rate under ``"lr"``.
        """
        raise NotImplementedError

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """Update the state s in place by the gradient g and return the update: what is subtracted from p.

        With `assigns`, return what p becomes; ``c["descend"](p, u)`` is p after an update u, with decoupled decay if
        there is one. p itself is not to be written. The rule in plain NumPy, in the same order
        of operations as in src_c/rules.c, and so with the same bits. `fastopt.words` has the words of
        src_c/rule.h.
        """
        raise NotImplementedError

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """Return what the rule's first pass adds up, by name, for each element: the twin of its SUMS."""
        raise NotImplementedError

    @staticmethod
    def finish(rule: str, sums: Mapping[str, float], n: int, c: Mapping[str, float]) -> Mapping[str, float]:
        """Return the scalars that follow from the sums over n elements: the twin of the rule's FINISH."""
        raise NotImplementedError

    @classmethod
    def average(cls, h: Values, p: Array, s: Mapping[str, Array]) -> Array:
        """Return the average of a parameter p with state s, where a class has one."""
        raise NotImplementedError

    # ---- making one ----

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._declare()

    @classmethod
    def _declare(cls) -> None:
        """Take note of what the class and its bases declare."""
        declared: dict[str, Hyper[Any] | Option[Any]] = {}
        for base in reversed(cls.__mro__):
            for name, one in vars(base).items():
                before = declared.get(name)
                if isinstance(one, (Hyper, Option)) and (before is None or isinstance(one, type(before))):
                    declared[name] = one
                elif before is not None and not isinstance(one, property):  # by which it may be read and set as well
                    kind = type(before).__name__
                    raise TypeError(f"{base.__name__}.{name} is {one!r}: wanted {kind}(check, default=...)")
        common = vars(Optimizer).keys() - {"lr"}
        cls._declared = {name: declared[name] for name in sorted(declared, key=lambda name: name in common)}
        cls.hyper_parameters = {name: one for name, one in cls._declared.items() if isinstance(one, Hyper)}
        cls._arguments = {name: one for name, one in cls._declared.items() if one.init}
        cls._slots = {**cls.slots, AVERAGE: AVERAGE}

    __signature__: ClassVar[Any] = hyper.Signature()

    if not TYPE_CHECKING:  # type checkers derive its arguments from what a class declares

        def __init__(self, params: Any, *positional: Any, **given: Any) -> None:
            cls = type(self)
            names = [name for name, one in cls._arguments.items() if not one.kw_only]
            if len(positional) > len(names):
                raise TypeError(f"{cls.__name__} takes params and {', '.join(names)} by position, all others by name")
            for name, value in zip(names, positional, strict=False):
                if name in given:
                    raise TypeError(f"{cls.__name__} got {name} twice, by position and by name")
                given[name] = value
            for name in given:
                if name not in cls._arguments:
                    raise TypeError(cls._unknown("option", name))
            values = {name: one.check(name, given.get(name, one.default)) for name, one in cls._declared.items()}
            tree = Tree(params)
            groups = params if tree.grouped else [{"params": params}]
            defaults = {name: values.pop(name) for name in cls.hyper_parameters}
            self._begin(tree, [{**defaults, **group} for group in groups], values)

    def _begin(self, tree: Tree, groups: list[Values], options: Values) -> None:
        if not tree.leaves:
            raise ValueError(f"params has no parameters: it is {tree.params!r}")
        self.param_groups = groups
        self._options = options
        self._grad_norm: float | None = None
        self._lock = Lock()
        self._captured: dict[str, Any] | None = None  # all but the parameters, while there are none
        self._plan: Plan | None = self._plan_of(tree)
        self._plan.settle(self)

    def _class_of(self, group: int) -> type[Optimizer]:
        """Return the class that a group is of: `Split` has several."""
        return type(self)

    def _tree_of(self, params: Any) -> Tree:
        """Return the tree of parameters that are to stand for those there were."""
        return Tree(params)

    def _plan_of(self, tree: Tree) -> Plan:
        kept = dict(self.numbers), dict(self.group_numbers)
        classes = list(map(self._class_of, range(tree.n_groups)))
        slots = dict.fromkeys(slot for cls in classes for slot in cls.slots)
        plan = Plan(tree, tuple(slots), *kept, classes, self._lock, self.looks_ahead, self._shared)
        plan.configure(*self._configuration(plan, self._options))
        return plan

    def _configuration(self, plan: Plan, options: Mapping[str, Any]) -> tuple[Any, ...]:
        """What the plan is to know of options: see `Plan.configure`."""
        decays = [True] * len(plan.arrays)
        mask = options["decay_mask"]
        if mask is not None:
            for group, terms in enumerate(plan.terms):
                if terms is not None:
                    self._class_of(group)._checked_kind(terms.values, mask)
            for leaf, (array, path) in enumerate(zip(plan.arrays, plan.tree.paths, strict=True)):
                decays[leaf] = hyper.flag(f"decay_mask of {plan.names[leaf]}", mask(dotted(path[1:]), array))
        clipping = [name for name in ("clip_norm", "clip_tensor_norm", "clip_value") if options[name] is not None]
        if len(clipping) > 1:
            raise ValueError(f"{' and '.join(clipping)}: wanted one of them")
        if options["ema_decay"] is not None and self._has_average():
            raise ValueError(f"ema_decay: {type(self).__name__} keeps an average of its own")
        screened = options["nonfinite"] != "propagate" or clipping in (["clip_norm"], ["clip_tensor_norm"])
        memory = options["state_memory"]
        return (
            options["zero_grads"],
            screened,
            options["clip_value"] or 0.0,
            options["ema_decay"] or 0.0,
            decays,
            None if memory is None else partial(_placed, memory),
        )

    def _set_option(self, name: str, value: Any) -> None:
        """Set an option, which has been checked, once no step is running."""
        with self._lock:
            plan, options = self._plan, {**self._options, name: value}
            configuration = self._configuration(plan, options) if plan is not None else None
            with held():
                if plan is not None and configuration is not None:
                    plan.configure(*configuration)
                self._options = options
            if plan is not None and name == "ema_decay":
                plan.unsettle()
                plan.settle(self)

    def _set_hyper(self, name: str, value: Any) -> None:
        """Set a hyper-parameter, which has been checked, in all groups, once no other thread is stepping."""
        with self._lock.reading():
            groups = [self._group(index) for index in range(len(self.param_groups))]
            if self._plan is not None:
                for index, group in enumerate(groups):
                    self._terms(index, {**group, name: value}, self._plan)
            hyper.set_all(groups, name, value)

    @classmethod
    def _unknown(cls, what: str, name: str) -> str:
        if name in cls.hyper_parameters:  # but no argument
            return f"{cls.__name__} has no {what} {name!r}: it is always {cls.hyper_parameters[name].default!r}"
        known = cls.hyper_parameters if what == "hyper-parameter" else cls._arguments
        like = hyper.nearest(name, known)
        return f"{cls.__name__} has no {what} {name!r}: {like or 'there are ' + ', '.join(known)}"

    if not TYPE_CHECKING:  # a type checker that sees these accepts any attribute

        def __setattr__(self, name: str, value: Any) -> None:
            """Set what can be set: an attribute that is not there is a misspelt one."""
            if name not in self._arguments and not name.startswith("_"):
                for cls in type(self).__mro__:
                    annotation = getattr(cls, "__annotations__", {}).get(name, "ClassVar")
                    if not issubclass(Optimizer, cls) and "ClassVar" not in str(annotation):
                        break
                    if name in vars(cls):
                        found = vars(cls)[name]
                        if hasattr(type(found), "__set__") or callable(found):
                            break
                        raise AttributeError(f"{name} of {type(self).__name__} cannot be set")
                else:
                    raise AttributeError(self._unknown("attribute", name))
            super().__setattr__(name, value)

    @classmethod
    def _slots_of(cls, rule: str) -> tuple[str, ...]:
        """Return the state a parameter needs under this rule."""
        return kernels.rules()[rule][0]

    def _wanted_slots(self, rule: str) -> tuple[str, ...]:
        """Return the slots of a rule, and that of the average if there is to be one."""
        return self._slots_of(rule) + ((AVERAGE,) if self._options["ema_decay"] is not None else ())

    def _group(self, index: int) -> Values:
        """Return one live group, which is to be a dict and nothing that only looks like one."""
        group = self.param_groups[index]
        if type(group) is not dict:
            raise TypeError(f"param_groups[{index}] is {type(group).__name__}: wanted the dict it was, or another one")
        return group

    @classmethod
    def _may_be_none(cls, name: str) -> bool:
        """Return whether None is a value of a hyper-parameter of this name, or of one of its numbers."""
        try:
            one = cls.hyper_parameters[name]
            return (isinstance(one.default, tuple) and None in one.default) or one.check(name, None) is None
        except (KeyError, TypeError, ValueError):
            return False

    def _own_group(self, index: int) -> Values:
        """Return one live group, which is to have the parameters it was made with."""
        group = self._group(index)
        if group.get("params") is not self._bound().tree.parts[index]:
            raise ValueError(
                f"param_groups[{index}]['params'] was replaced: a group's parameters are fixed; use bind(params)"
            )
        return group

    def _check_group(self, index: int) -> Terms:
        """Check one live group, and leave its hyper-parameters in their normal form."""
        return self._terms(index, self._own_group(index), self._bound())

    def _check_groups(self, terms: list[Terms]) -> None:
        """Check what groups must have in common."""
        for name in self.same_in_groups:
            for index, one in enumerate(terms):
                if one.values[name] != terms[0].values[name]:
                    value, wanted = one.values[name], terms[0].values[name]
                    raise ValueError(
                        f"params[{index}][{name!r}] is {value!r}: wanted {wanted!r}, since all groups of "
                        f"{type(self).__name__} have one"
                    )

    def _terms(self, index: int, group: Values, plan: Plan, live: Values | None = None) -> Terms:
        """Check a group, and say what it comes to.

        What is checked is what it holds now: should it change meanwhile, it is not what these terms say, and the next
        step will notice. An adapter's group is made of another one, the one that is live.
        """

        def shown(name: str) -> str:
            return f"params[{index}][{name!r}]" if plan.tree.grouped else name

        cls = self._class_of(index)
        items = tuple(group.items())
        values = {}
        for name, value in items:
            if name != "params":
                if name not in cls.hyper_parameters:
                    raise ValueError(f"{shown(name)}: {cls._unknown('hyper-parameter', name)}")
                values[name] = cls.hyper_parameters[name].check(shown(name), value)
        for name in cls.hyper_parameters:
            if name not in values:
                raise ValueError(f"param_groups[{index}] lacks {name!r}")
        moving: dict[str, Callable[[int], Any]] = {
            name: partial(cls.hyper_parameters[name].at, shown(name), value)
            for name, value in values.items()
            if name != "lr" and hyper.is_schedule(value)
        }

        def check(now: Values) -> None:
            cls.check_together(now)
            if "eps" in now and cls.eps_in_kernels:
                self._check_eps(shown("eps"), now["eps"], index, plan)

        check(values | {name: value(plan.steps) for name, value in moving.items()})
        for leaf, of in enumerate(plan.tree.groups):
            if of == index:
                cls.check_parameter(plan.names[leaf], plan.arrays[leaf])
        source = []
        for name, value in items:
            normal = values.get(name, value)
            if normal is not value and group.get(name) is value:
                group[name] = normal
            source += [name, normal if group.get(name) is normal else value]
        return Terms(
            group if live is None else live,
            source if live is None else [x for item in live.items() for x in item],
            values,
            cls.rule(values),
            cls._checked_kind(values, self._options["decay_mask"]),
            cls.scalars,
            cls._wants(),
            moving,
            check if moving else None,
            _takes_arrays(values["lr"]),
            cls.hyper_parameters["lr"].is_rate,
            cls.in_numpy,
        )

    @classmethod
    def _checked_kind(cls, values: Values, mask: Any) -> str:
        """Return the kind of decay; one that is inside the rule cannot be left out for some parameters."""
        kind = cls.kind(values)
        if mask is not None and kind == "none" and values["weight_decay"] != 0:
            raise ValueError(f"decay_mask: weight decay of {cls.__name__} is inside its rule: use groups")
        return kind

    @classmethod
    def _wants(cls) -> set[str]:
        """Return what the class's `scalars` takes besides hyper-parameters and steps."""
        found: set[str] = set()
        for base in cls.__mro__:
            if "scalars" in vars(base):
                code = vars(base)["scalars"].__func__.__code__
                found |= {"rule", "fresh", "lr", "numbers", "sums", "totals"} & {
                    *code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
                }
                if not code.co_flags & 0x08:  # else it hands on what it gets by name
                    break
        return found

    @staticmethod
    def _check_eps(shown: str, eps: float, index: int, plan: Plan) -> None:
        """Raise for an epsilon that would be flushed to 0: a gradient whose square is flushed too is divided by 0."""
        if eps < 1e-30 and kernels.get_flush():
            for name, array, group in zip(plan.names, plan.arrays, plan.tree.groups, strict=True):
                if group == index and array.dtype == np.float32:
                    raise ValueError(
                        f"{shown} is {eps!r}, too small for {name} in float32 while denormals are flushed to zero: "
                        "wanted at least 1e-30, or call fastopt.set_flush_denormals(False)"
                    )

    # ---- stepping ----

    def step(self, grads: Any, *, loss_scale: float | None = None) -> bool:
        """Update the parameters in place by their gradients.

        Parameters
        ----------
        grads : array, list, tuple or dict
            Gradients in the structure of the parameters; with groups, a list with one entry a group. None leaves a
            parameter out. Anything NumPy can view without a copy is a gradient; none is written, except by
            ``zero_grads=True``.
        loss_scale : float, optional
            What the loss was multiplied by: gradients are divided by it.

        Returns
        -------
        bool
            True if the step was applied, False if it was skipped as a whole (``nonfinite="skip"``).

        Raises
        ------
        TypeError, ValueError
            If anything is not as it must be; the message names it. Nothing has been written then.
        FloatingPointError
            With ``nonfinite="raise"``, if a gradient has an Inf or NaN. Nothing has been written then.
        RuntimeError
            If the optimizer cannot step now: it was copied or unpickled and not bound, is looking ahead, needs a
            `lookahead` first (`NAG`), was left torn by a write that failed half way, or is in the middle of a step; or
            if gradients change while they are read. Nothing has been written then.
        """
        plan = self._plan
        if plan is None:
            raise RuntimeError(_UNBOUND)
        return plan.step(self, grads, loss_scale, False)

    def reference_step(self, grads: Any, *, loss_scale: float | None = None) -> bool:
        """Do what `step` does, with the same bits, in plain NumPy: the readable specification, and the slow way.

        Parameters
        ----------
        grads, loss_scale
            As for `step`.

        Returns
        -------
        bool
            As for `step`.
        """
        return self._bound().step(self, grads, loss_scale, True)

    def _bound(self) -> Plan:
        if self._plan is None:
            raise RuntimeError(_UNBOUND)
        return self._plan

    def _ready(self, but: str = "") -> Plan:
        """Return the plan, unless it must be refused; what would end that, "load" or "bind", is allowed."""
        plan = self._bound()
        plan.check_ready(but)
        return plan

    def lookahead(self) -> AbstractContextManager[None]:
        """Return a context in which gradients are to be computed; with most optimizers it does nothing.

        `NAG` takes its gradients at a point ahead of the parameters, and holds them there inside the block. A loop that
        is written so works with every optimizer::

            with opt.lookahead():
                grads = gradients(params)
            opt.step(grads)

        Returns
        -------
        context manager
            One to be entered once, for the next step.
        """
        self._bound()
        return nullcontext()

    def parts(
        self, *, norm: float | None = None, loss_scale: float | None = None
    ) -> AbstractContextManager[Callable[[Any, Any], bool]]:
        """Take one step in parts: each gradient as it comes, so that it can be released before the next is there.

        In a backward pass that goes layer by layer, the memory of one layer's gradients is enough::

            with opt.parts() as part:
                for name in reversed(layers):
                    part(name, gradient_of(name))  # which may be overwritten now

        ``part(name, gradient)`` updates a parameter and returns True; False if it was left out. A parameter is named by
        its key or index, by the keys that lead to it with dots between (``"l1.bias"``), or as in `state`. All are
        updated with the learning rate and hyper-parameters of the same step. Whatever ends the block, it counts as one
        step, in which the parameters that were not given had no gradient.

        Parameters
        ----------
        norm : float, optional
            The norm of all gradients together, as they will be given. Needed by `clip_norm`, and by `nonfinite` where
            it is "skip" or "raise", which look at nothing else then.
        loss_scale : float, optional
            What the loss was multiplied by: gradients are divided by it.

        Returns
        -------
        context manager
            One to be entered once.

        Raises
        ------
        ValueError
            When it is entered, if an option needs `norm`. By ``part``, as by `step`, or if a parameter is given twice.
        KeyError
            By ``part``, if there is no such parameter.
        FloatingPointError
            When it is entered, with ``nonfinite="raise"``, if `norm` is Inf or NaN.
        TypeError
            When it is entered, if the optimizer needs sums over all gradients (`Prodigy`).
        RuntimeError
            When it is entered, as by `step`; by ``part`` if a group was changed inside the block. Inside it, all else
            that steps, saves or loads the optimizer is refused.
        """
        return Parts(self._bound(), self, norm, loss_scale)

    def averaged(self) -> AbstractContextManager[None]:
        """Hold averages of the parameters inside a ``with`` block, and restore their old bits after it.

        For optimizers whose result is an average, `ASGD`, `ScheduleFreeSGD` and `ScheduleFreeAdamW`, and for all others
        with `ema_decay`. A parameter that has had no update stays as it is. Takes memory for a second copy of the
        parameters.

        Returns
        -------
        context manager
            One to be entered once.

        Raises
        ------
        TypeError
            If the optimizer keeps no average.
        RuntimeError
            When it is entered, if the optimizer is looking ahead, or torn.
        """
        if not self._has_average() and self.ema_decay is None:
            raise TypeError(f"{type(self).__name__} keeps no average of its parameters: wanted ema_decay")
        return Averaged(self._bound(), self, self._averages)

    @classmethod
    def _has_average(cls) -> bool:
        """Whether the class keeps an average of its own."""
        return cls.average.__func__ is not Optimizer.average.__func__  # type: ignore[attr-defined]

    def _averages(self) -> list[Array | None]:
        plan = self._bound()
        found: list[Array | None] = []
        of_leaves = zip(plan.arrays, plan.counts, plan.row_counts, plan.states, plan.tree.groups, strict=True)
        for array, count, rows, states, group in of_leaves:
            made = None
            if count:
                flat = _as_it_lies(array, False)
                p, s = flat(np.asarray(array)), {slot: flat(state) for slot, state in states.items()}
                with kernels.kernel_mode(), np.errstate(all="ignore"):
                    average = s[AVERAGE] if AVERAGE in s else self._class_of(group).average(plan.terms[group].now, p, s)
                    made = np.array(average, array.dtype)
                if rows is not None:
                    made = made.reshape(array.shape)
                    made[rows == 0] = array[rows == 0]
            found.append(made)
        return found

    # What the engine asks in the course of a step:

    def _unscaling(self, loss_scale: Any) -> float:
        plan = self._bound()
        factor = 1.0 / hyper.positive("loss_scale", loss_scale)
        if not plan.smallest <= factor <= plan.largest:
            raise ValueError(
                f"loss_scale is {loss_scale!r}: its reciprocal is no normal number of the parameters' type"
            )
        return factor

    def _screened(self, scale: float) -> float | None:
        """Return what the gradients are to be multiplied by, None to skip the step."""
        if self.nonfinite != "propagate" and not self._all_finite():
            return None
        if self.clip_norm is not None:
            scale *= self._clipping(self.clip_norm, scale)
        if self.clip_tensor_norm is not None:
            self._clip_tensors(self.clip_tensor_norm, scale)
        return scale

    def _screened_by(self, norm: Any, scale: float) -> float | None:
        """Return what the gradients of a step are to be multiplied by whose norm is given; None to skip the step."""
        self._grad_norm = None
        if norm is None:
            wanting = ["clip_norm"] * (self.clip_norm is not None) + ["nonfinite"] * (self.nonfinite != "propagate")
            for name in wanting:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} needs the norm of all gradients before the first of them is used: "
                    "wanted norm"
                )
            return scale
        norm = hyper.norm("norm", norm)
        if self.nonfinite != "propagate" and not math.isfinite(norm):
            if self.nonfinite == "raise":
                raise FloatingPointError(f"norm is {norm}: nothing was written")
            return None
        self._grad_norm = scaled = norm * scale
        clip_norm: float | None = self.clip_norm
        return scale if clip_norm is None else scale * _shrinking(scaled, clip_norm)

    def _screened_part(self) -> None:
        """Look at the one gradient that there is."""
        if self.clip_tensor_norm is not None:
            before = self._grad_norm or 0.0
            self._clip_tensors(self.clip_tensor_norm, self._bound().scale)
            self._grad_norm = math.hypot(before, self._grad_norm or 0.0)

    def _all_finite(self) -> bool:
        plan = self._bound()
        bad = self._first_nonfinite()
        if bad is not None and self.nonfinite == "raise":
            leaf, index, value = bad
            place = f"[{', '.join(map(str, index))}]" if index else ""
            done = "no parameter was changed, gradients were zeroed" if self.zero_grads else "nothing was written"
            raise FloatingPointError(f"{plan.gradient_names[leaf]}{place} is {value}: {done}")
        return bad is None

    # Sums over all gradients, which an adapter that has a part of them asks others for:

    def _first_nonfinite(self) -> tuple[int, tuple[int, ...], Any] | None:
        return self._bound().find_nonfinite()

    def _sum_squares(self, unit: float) -> float:
        return self._bound().sum_squares(unit)

    def _squares(self, unit: float) -> list[float]:
        return self._bound().squares(unit)

    def _clipping(self, clip_norm: float, scale: float) -> float:
        """Return the factor that brings the norm of all gradients, times `scale`, down to `clip_norm`."""
        total, unit = self._sum_squares(1.0), 1.0
        if total == math.inf:  # finite float64 gradients can have squares that are not
            unit = 2.0**-600
            total = self._sum_squares(unit)
        elif total < 2.0**-900:  # or that vanish
            unit = 2.0**600
            total = self._sum_squares(unit)
        norm, wanted = math.sqrt(total) * scale, clip_norm * unit
        self._grad_norm = norm / unit
        return _shrinking(norm, wanted)

    def _clip_tensors(self, clip_norm: float, scale: float) -> None:
        """Bring the norm of each gradient, times `scale`, down to `clip_norm`."""
        plan = self._bound()
        if plan.has_rows:
            raise ValueError("clip_tensor_norm is for whole gradients: with Rows, wanted clip_norm or clip_value")
        totals, units = self._squares(1.0), [1.0] * len(plan.arrays)
        for unit, wrong in ((2.0**-600, [x == math.inf for x in totals]), (2.0**600, [x < 2.0**-900 for x in totals])):
            if any(wrong):  # squares that are infinite, or vanish, though the gradients are and do not
                for leaf, total in enumerate(self._squares(unit)):
                    if wrong[leaf]:
                        totals[leaf], units[leaf] = total, unit
        norms = [math.sqrt(total) / unit * scale for total, unit in zip(totals, units, strict=True)]
        plan.multiply([_shrinking(norm, clip_norm) for norm in norms])
        self._grad_norm = math.hypot(*norms)

    def _update_by_reference(self, everything: bool) -> None:
        """Do the engine's arithmetic in NumPy, from the engine's coefficients; or that of classes which always do."""
        plan = self._bound()
        with kernels.kernel_mode(), np.errstate(all="ignore"):
            for leaf, parameter in enumerate(plan.arrays):
                group, gradient = plan.tree.groups[leaf], plan.gradient(leaf)
                cls = self._class_of(group)
                if gradient is None or parameter.size == 0 or not (everything or cls.in_numpy):
                    continue
                array = np.asarray(parameter)  # whose arithmetic is NumPy's, also if it is of a subclass
                flat = _as_it_is if cls.in_numpy else _as_it_lies(array, cls.keeps_axes)
                parts = plan.rows(leaf)
                if parts is None:
                    s = {slot: flat(state) for slot, state in plan.states[leaf].items()}
                    p, g = flat(array), flat(gradient)
                    self._update_part(leaf, p, g, s, plan.coefficients(leaf), plan.updated(leaf), everything)
                for rows, coef, updated, gradients in parts or ():
                    s = {slot: state[rows].reshape(-1) for slot, state in plan.states[leaf].items()}
                    p, g = array[rows].reshape(-1), gradients.reshape(-1)
                    self._update_part(leaf, p, g, s, plan.coefficients(leaf, coef), updated, everything)
                    array[rows] = p.reshape(gradients.shape)
                    for slot, state in plan.states[leaf].items():
                        state[rows] = s[slot].reshape(gradients.shape)

    def _update_part(
        self,
        leaf: int,
        p: Array,
        g: Array,
        s: dict[str, Array],
        coefficients: tuple[str, float, float, dict[str, float]],
        updated: bool,
        everything: bool,
    ) -> None:
        """Do it for a parameter or some of its rows, and their state, in place."""
        plan = self._bound()
        group, real = plan.tree.groups[leaf], p.dtype.type
        cls = self._class_of(group)
        kind, factor, decay, scalars = coefficients
        g = np.asarray(real(factor) * g)
        if self.clip_value is not None:
            g = clamp(g, -self.clip_value, self.clip_value)
        if kind == "coupled":
            g = g + real(decay) * p
        c: dict[str, Any] = {name: real(value) for name, value in scalars.items()}
        c["decayed"] = decayed = partial(_decayed, decay=real(decay) if kind == "decoupled" else None)
        c["descend"] = lambda p, u, decayed=decayed: p - decayed(p, u)
        rule = plan.terms[group].rule
        if kernels.rules()[rule][3]:
            sums = {name: lane_sum(x) for name, x in cls.sums(rule, p, g, s, c).items()}
            c |= {name: real(value) for name, value in cls.finish(rule, sums, p.size, scalars).items()}
        u = cls.reference(rule, p, g, s, c)
        p[...] = u if cls.assigns else c["descend"](p, u)
        if self.ema_decay is not None and everything:
            old, d = s[AVERAGE], self.ema_decay
            s[AVERAGE][...] = real(d) * old + real(1.0 - d) * p if updated else p

    # ---- what is known of it ----

    @property
    def current_lr(self) -> Any:
        """The learning rate of the next step, a number; a list of them where groups differ."""
        steps = self.steps
        found = self.lr
        rates = [
            hyper.nonnegative(f"lr schedule {lr!r} after {steps} steps", lr(steps)) if callable(lr) else lr
            for lr in (found if isinstance(found, list) else [found])
        ]
        return rates[0] if all(rate == rates[0] for rate in rates) else rates

    @property
    def nbytes(self) -> int:
        """Bytes of the state arrays, and of the counts of rows."""
        if self._captured:
            states, counts = self._captured["states"], self._captured.get("row_counts", [])
        else:
            states, counts = self._bound().states, self._bound().row_counts
        arrays = [array for of_leaf in states for array in of_leaf.values()]
        return sum(array.nbytes for array in arrays + [rows for rows in counts if rows is not None])

    @property
    def grad_norm(self) -> float | None:
        """The norm of all gradients together in the last step, before clipping; None where no norm is clipped."""
        return None if self.clip_norm is None and self.clip_tensor_norm is None else self._grad_norm

    @property
    def steps(self) -> int:
        """Steps applied so far: what schedules are called with."""
        return self._captured["steps"][0] if self._captured else self._bound().steps

    @property
    def skipped(self) -> int:
        """Steps skipped because of an Inf or NaN."""
        return self._captured["steps"][1] if self._captured else self._bound().skipped

    @property
    def step_counts(self) -> Mapping[str, int]:
        """Updates each parameter has had, by its name; read-only."""
        plan = self._bound()
        return MappingProxyType(dict(zip(plan.names, plan.counts, strict=True)))

    @property
    def state(self) -> Mapping[str, Mapping[str, Array]]:
        """Each parameter's state arrays, by its name and theirs: the arrays themselves, in read-only mappings.

        Numbers that a class keeps for each parameter, or for its group, are arrays without dimensions there. Of a
        parameter that has had `Rows`, ``row_steps`` has the number of updates of each row; it is negative where none of
        them has used state that an option brought later.
        """
        plan = self._bound()
        found = {}
        for leaf, (name, arrays) in enumerate(zip(plan.names, plan.states, strict=True)):
            group = plan.tree.groups[leaf]
            kept = {self._class_of(group)._slots[slot]: array for slot, array in arrays.items()}
            kept |= {
                key: values[leaf : leaf + 1].reshape(()) for key, values in zip(self.numbers, plan.numbers, strict=True)
            }
            for key, values in zip(self.group_numbers, plan.group_numbers, strict=True):
                kept[key] = values[group : group + 1].reshape(())
            rows = plan.row_counts[leaf]
            if rows is not None:
                kept[ROW_STEPS] = rows.view()
                kept[ROW_STEPS].flags.writeable = False
            found[name] = MappingProxyType(kept)
        return MappingProxyType(found)

    def __repr__(self) -> str:
        """Show hyper-parameters, as steps will take them, and options."""
        if self._plan is not None:
            # A look at what is wrong is not to fail on it.
            with suppress(TypeError, ValueError, RuntimeError), self._lock.reading():
                self._plan.settle(self)
        several = len({self._class_of(index) for index in range(len(self.param_groups))} - {type(self)}) > 0
        parts = [
            (f"{self._class_of(index).__name__}: " if several else "")
            + ", ".join(f"{key}={value!r}" for key, value in group.items() if key != "params")
            for index, group in enumerate(self.param_groups)
        ]
        parts.append(", ".join(f"{key}={value!r}" for key, value in self._options.items()))
        return f"{type(self).__name__}({'; '.join(parts)})"


Optimizer._declare()
