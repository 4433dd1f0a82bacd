"""`Optimizer`: parameters, groups, state and step of every optimizer. It knows no rule.

A class of optimizers declares its hyper-parameters, and says in `slots`, `rule`, `scalars` and `reference` what is its
own; the arithmetic is in src_c/rules.c, the memory and the threads are the engine's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from . import hyper
from .engine import kernels
from .engine.coefficients import Terms
from .engine.lock import Lock
from .engine.plan import Plan
from .hyper import Given, Hyper, Option, Rate
from .snapshots import Snapshots
from .tree import Tree

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
        Whether the decay is subtracted beside the update instead, times the learning rate.
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
    decay_mask : callable, optional
        Which parameters decay: a function of a parameter's path, the keys and indices that lead to it with dots between
        (``"l1.bias"``), and the parameter. It is called once for each, and leaves those out for which it gives False.

    Notes
    -----
    Hyper-parameters and options are attributes too. Reading a hyper-parameter gives its value, or a list of them where
    groups differ; setting one sets it in all groups. Both wait for a step that another thread is taking.
    """

    __slots__ = ()

    params: Given[Params] = Given(kw_only=False)
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1e-3, kw_only=False)
    weight_decay: Hyper[float] = Hyper(hyper.nonnegative, default=0.0)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=False)
    maximize: Hyper[bool] = Hyper(hyper.flag, default=False)
    nonfinite: Option[Literal["propagate", "skip", "raise"]] = Option(
        hyper.choice("propagate", "skip", "raise"), default="propagate"
    )
    zero_grads: Option[bool] = Option(hyper.flag, default=False)
    clip_norm: Option[float | None] = Option(hyper.optional(hyper.positive), default=None)
    decay_mask: Option[Callable[[str, Array], bool] | None] = Option(hyper.optional(hyper.mask), default=None)

    #: state arrays by the rule's letter, and the name users know them by
    slots: ClassVar[Mapping[str, str]] = {}
    #: whether gradients are to be computed inside ``with opt.lookahead():``
    looks_ahead: ClassVar[bool] = False
    #: whether the rule says what p becomes, and not what is subtracted from it
    assigns: ClassVar[bool] = False

    #: what the class declares, by name: those of its own, then those of all
    hyper_parameters: ClassVar[Mapping[str, Hyper[Any]]] = {}
    _arguments: ClassVar[Mapping[str, Hyper[Any] | Option[Any]]] = {}

    # ---- what a class says ----

    @classmethod
    def check_together(cls, h: Values) -> None:
        """Raise ValueError if hyper-parameters, each of them valid, do not go together."""

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
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Return the rule's scalars in steps t, each a number or one for each step.

        `t` is an array of step numbers 1, 2, ...: those of many steps are computed at once. First come the scalars
        that are to be multiplied by the step's learning rate, then the others. A class whose scalars depend on whether
        a parameter's state is new, since no update has used it yet, takes a third argument, `fresh`, a bool.
        """
        raise NotImplementedError

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array | None:
        """Update the state s in place by the gradient g and return the update: what is subtracted from p.

        With `assigns`, return what p becomes; None where p stays as it is, without decay too. p itself is not to be
        written. The rule in plain NumPy, in the same order of operations as in src_c/rules.c, and so with the same
        bits. `fastopt.optimizers.words` has the words of src_c/rule.h.
        """
        raise NotImplementedError

    # ---- making one ----

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._declare()

    @classmethod
    def _declare(cls) -> None:
        """Take note of what the class and its bases declare."""
        declared = {
            name: one
            for base in reversed(cls.__mro__)
            for name, one in vars(base).items()
            if isinstance(one, (Hyper, Option))
        }
        common = vars(Optimizer).keys() - {"lr"}
        declared = {name: declared[name] for name in sorted(declared, key=lambda name: name in common)}
        cls.hyper_parameters = {name: one for name, one in declared.items() if isinstance(one, Hyper)}
        cls._arguments = {name: one for name, one in declared.items() if one.init}

    __signature__: ClassVar[Any] = hyper.Signature()

    if not TYPE_CHECKING:  # type checkers make it of what a class declares

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
            values = {name: one.default for name, one in (cls.hyper_parameters | cls._arguments).items()} | given
            for name, value in values.items():
                values[name] = getattr(cls, name).check(name, value)
            tree = Tree(params)
            if not tree.leaves:
                raise ValueError(f"params has no parameters: it is {params!r}")
            groups = params if tree.grouped else [{"params": params}]
            defaults = {name: values[name] for name in cls.hyper_parameters}
            self.param_groups = [{**defaults, **group} for group in groups]
            self._options = {name: values[name] for name in values if name not in defaults}
            self._lock = Lock()
            self._captured: dict[str, Any] | None = None  # all but the parameters, while there are none
            self._plan: Plan | None = self._plan_of(tree)
            self._plan.settle(self)

    def _plan_of(self, tree: Tree) -> Plan:
        plan = Plan(tree, tuple(self.slots), self._lock, self.looks_ahead)
        self._configure(plan, self._options)
        return plan

    def _configure(self, plan: Plan, options: Mapping[str, Any]) -> None:
        decays = [True] * len(plan.arrays)
        mask = options["decay_mask"]
        if mask is not None:
            for leaf, (array, path) in enumerate(zip(plan.arrays, plan.tree.paths, strict=True)):
                shown = f"decay_mask of {plan.names[leaf]}"
                decays[leaf] = hyper.flag(shown, mask(".".join(map(str, path[1:])), array))
        screened = options["nonfinite"] != "propagate" or options["clip_norm"] is not None
        plan.configure(options["zero_grads"], screened, decays)

    def _set_options(self, options: Values) -> None:
        """Go on with other options, once no step is running."""
        with self._lock:
            if self._plan is not None:
                self._configure(self._plan, options)
            self._options = options

    def _set_hyper(self, name: str, value: Any) -> None:
        """Set a hyper-parameter, which has been checked, in all groups, once no other thread is stepping."""
        with self._lock.reading():
            groups = [self._group(index) for index in range(len(self.param_groups))]
            if self._plan is not None:
                for index, group in enumerate(groups):
                    self._terms(index, {**group, name: value}, self._plan)
            for group in groups:
                group[name] = value

    @classmethod
    def _unknown(cls, what: str, name: str) -> str:
        if name in cls.hyper_parameters:  # but no argument
            return f"{cls.__name__} has no {what} {name!r}: it is always {cls.hyper_parameters[name].default!r}"
        known = cls.hyper_parameters if what == "hyper-parameter" else cls._arguments
        like = hyper.nearest(name, known)
        return f"{cls.__name__} has no {what} {name!r}: {like or 'there are ' + ', '.join(known)}"

    if not TYPE_CHECKING:  # who would take it that anything can be set

        def __setattr__(self, name: str, value: Any) -> None:
            """Set what can be set: an attribute that is not there is a misspelt one."""
            if name not in self._arguments and not name.startswith("_"):
                for cls in type(self).__mro__:
                    found = vars(cls).get(name)
                    if name in vars(cls) and (hasattr(type(found), "__set__") or callable(found)):
                        break
                    if name in vars(cls):
                        raise AttributeError(f"{name} of {type(self).__name__} cannot be set")
                    if not issubclass(Optimizer, cls) and name in getattr(cls, "__annotations__", ()):
                        break
                else:
                    raise AttributeError(self._unknown("attribute", name))
            super().__setattr__(name, value)

    @classmethod
    def _slots_of(cls, rule: str) -> tuple[str, ...]:
        """Return the state a parameter needs under this rule."""
        return kernels.rules()[rule][0]

    @classmethod
    def _in_order(cls, slots: set[str]) -> tuple[str, ...]:
        return tuple(slot for slot in cls.slots if slot in slots)

    def _group(self, index: int) -> Values:
        """Return one live group, which is to be a dict and nothing that only looks like one."""
        group = self.param_groups[index]
        if type(group) is not dict:
            raise TypeError(f"param_groups[{index}] is {type(group).__name__}: wanted the dict it was, or another one")
        return group

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

    def _terms(self, index: int, group: Values, plan: Plan) -> Terms:
        """Check a group, and say what it comes to.

        What is checked is what it holds now: should it change meanwhile, it is not what these terms say, and the next
        step will notice.
        """
        where = f"params[{index}]" if plan.tree.grouped else ""
        items = tuple(group.items())
        values = {}
        for name, value in items:
            if name != "params":
                shown = f"{where}[{name!r}]" if where else name
                if name not in self.hyper_parameters:
                    raise ValueError(f"{shown}: {self._unknown('hyper-parameter', name)}")
                values[name] = self.hyper_parameters[name].check(shown, value)
        for name in self.hyper_parameters:
            if name not in values:
                raise ValueError(f"param_groups[{index}] lacks {name!r}")
        self.check_together(values)
        if "eps" in values:
            self._check_eps(f"{where}['eps']" if where else "eps", values["eps"], index, plan)
        source = []
        for name, value in items:
            normal = values.get(name, value)
            if normal is not value and group.get(name) is value:
                group[name] = normal
            source += [name, normal if group.get(name) is normal else value]
        return Terms(
            group,
            source,
            values,
            self.rule(values),
            self.kind(values),
            self.scalars,
            self._wants_fresh(),
            _takes_arrays(values["lr"]),
        )

    @classmethod
    def _wants_fresh(cls) -> bool:
        """Whether the class's `scalars` takes `fresh`."""
        code = cls.scalars.__code__
        takes_more = bool(code.co_flags & 0x04)  # *args, of a class that hands on what it gets
        return takes_more or "fresh" in code.co_varnames[: code.co_argcount]

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
        return scale

    def _all_finite(self) -> bool:
        plan = self._bound()
        bad = plan.find_nonfinite()
        if bad is not None and self.nonfinite == "raise":
            leaf, index = bad
            place = f"[{', '.join(map(str, index))}]" if index else ""
            value = plan.gradient(leaf)[index]
            done = "no parameter was changed, gradients were zeroed" if self.zero_grads else "nothing was written"
            raise FloatingPointError(f"{plan.gradient_names[leaf]}{place} is {value}: {done}")
        return bad is None

    def _clipping(self, clip_norm: float, scale: float) -> float:
        """Return the factor that brings the norm of all gradients, times `scale`, down to `clip_norm`."""
        plan = self._bound()
        total, unit = plan.sum_squares(1.0), 1.0
        if total == math.inf:  # finite float64 gradients can have squares that are not
            unit = 2.0**-600
            total = plan.sum_squares(unit)
        elif total < 2.0**-900:  # or that vanish
            unit = 2.0**600
            total = plan.sum_squares(unit)
        norm, wanted = math.sqrt(total) * scale, clip_norm * unit
        return 1.0 if norm <= wanted else wanted / norm  # of a NaN, NaN: no step that looks sound

    def _update_by_reference(self) -> None:
        """Do the engine's arithmetic in NumPy, from the engine's coefficients."""
        plan = self._bound()
        with kernels.kernel_mode(), np.errstate(all="ignore"):
            for leaf, parameter in enumerate(plan.arrays):
                gradient = plan.gradient(leaf)
                if gradient is None:
                    continue
                kind, factor, decay, scalars = plan.coefficients(leaf)
                array = np.asarray(parameter)  # whose arithmetic is NumPy's, also if it is of a subclass
                order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
                real = array.dtype.type
                p = array.reshape(-1, order=order)
                g = real(factor) * gradient.reshape(-1, order=order)
                if kind == "coupled":
                    g = g + real(decay) * p
                s = {slot: state.reshape(-1, order=order) for slot, state in plan.states[leaf].items()}
                c = {name: real(value) for name, value in scalars.items()}
                u = self.reference(plan.terms[plan.tree.groups[leaf]].rule, p, g, s, c)
                if u is None:
                    continue
                if kind == "decoupled":
                    u = real(decay) * p + u
                p[...] = u if self.assigns else p - u

    # ---- what is known of it ----

    @property
    def current_lr(self) -> Any:
        """The learning rate of the next step, a number; a list of them where groups differ."""
        steps = self.steps
        rates = []
        for group in self.param_groups:
            lr = group["lr"]
            rates.append(
                hyper.nonnegative(f"lr schedule {lr!r} after {steps} steps", lr(steps)) if callable(lr) else lr
            )
        return rates[0] if all(rate == rates[0] for rate in rates) else rates

    @property
    def nbytes(self) -> int:
        """Bytes of the state arrays."""
        states = self._captured["states"] if self._captured else self._bound().states
        return sum(array.nbytes for arrays in states for array in arrays.values())

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
        """Each parameter's state arrays, by its name and theirs: the arrays themselves, in read-only mappings."""
        plan = self._bound()
        return MappingProxyType(
            {
                name: MappingProxyType({self.slots[slot]: array for slot, array in arrays.items()})
                for name, arrays in zip(plan.names, plan.states, strict=True)
            }
        )

    def __repr__(self) -> str:
        """Show hyper-parameters, as steps will take them, and options."""
        if self._plan is not None:
            # A look at what is wrong is not to fail on it.
            with suppress(TypeError, ValueError, RuntimeError), self._lock.reading():
                self._plan.settle(self)
        parts = [
            ", ".join(f"{key}={value!r}" for key, value in group.items() if key != "params")
            for group in self.param_groups
        ]
        parts.append(", ".join(f"{key}={value!r}" for key, value in self._options.items()))
        return f"{type(self).__name__}({'; '.join(parts)})"


Optimizer._declare()
