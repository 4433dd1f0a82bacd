"""`Optimizer`: parameters, groups, state, step and checkpoints of every optimizer. It knows no rule.

A class of optimizers says in `slots`, `checks`, `rule`, `scalars` and `reference` what is its own; the arithmetic is in
src_c/rules.c, the memory and the threads are the engine's.
"""

from __future__ import annotations

import copy
import math
import os
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from . import hyper
from .engine import kernels
from .engine.coefficients import Terms
from .engine.lock import Lock
from .engine.plan import Plan
from .tree import Tree

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Optimizer", "Options", "Scalars", "Steps"]

Array = npt.NDArray[Any]
Hyper = dict[str, Any]
Steps = npt.NDArray[np.int64]
Scalars = dict[str, float | npt.NDArray[np.float64]]
Spec = tuple["np.dtype[Any]", tuple[int, ...]]

_FORMAT = 1  # of checkpoints and state dicts
_UNBOUND = "this optimizer is a copy without parameters: call bind(params) first"


def _takes_arrays(lr: Any) -> bool:
    """Whether a learning rate is a schedule that can be asked for many steps at once."""
    if not callable(lr):
        return False
    from .schedules import takes_arrays  # whoever has no schedule is not to wait for its import

    return takes_arrays(lr)


class Options(TypedDict, total=False):
    """What every optimizer takes besides its hyper-parameters: see `Optimizer`."""

    nonfinite: str
    zero_grads: bool
    clip_norm: float | None


class Optimizer:
    """Base of all optimizers: not to be used itself.

    Parameters
    ----------
    params : array, list, tuple or dict
        float32 or float64 arrays, C- or Fortran-contiguous, nested as you like; they are updated in place. A list of
        dicts that each have ``"params"`` is a list of groups, whose other keys override the hyper-parameters.
    defaults : dict
        The hyper-parameters of groups that do not say otherwise.
    nonfinite : {"propagate", "skip", "raise"}
        What becomes of a step with an Inf or NaN in any gradient: it is taken as it is; it is skipped as a whole,
        counted in `skipped`, and `step` returns False; or it raises `FloatingPointError`. The last two read the
        gradients once more.
    zero_grads : bool
        Whether a step sets the gradients to zero once it has used them; they must be writable.
    clip_norm : float, optional
        Gradients whose norm, over all parameters together, is above this are scaled down to it. Reads the gradients
        once more; they are not written.
    """

    __slots__ = ("__dict__", "__weakref__", "param_groups")  # which each step reads: found faster than in __dict__
    param_groups: list[Hyper]

    #: state arrays by the rule's letter, and the name users know them by
    slots: ClassVar[Mapping[str, str]] = {}
    #: checks of the class's own hyper-parameters, by name
    checks: ClassVar[Mapping[str, hyper.Check]] = {}

    _common_checks: ClassVar[Mapping[str, hyper.Check]] = {
        "lr": hyper.learning_rate,
        "weight_decay": hyper.nonnegative,
        "decoupled": hyper.flag,
        "maximize": hyper.flag,
    }

    # ---- what a class says ----

    @classmethod
    def check_together(cls, h: Hyper) -> None:
        """Raise ValueError if hyper-parameters, each of them valid, do not go together."""

    @classmethod
    def rule(cls, h: Hyper) -> str:
        """Return the name of the rule in src_c/rules.c for these hyper-parameters."""
        raise NotImplementedError

    @classmethod
    def scalars(cls, h: Hyper, t: Steps) -> tuple[Scalars, Scalars]:
        """Return the rule's scalars in steps t, each a number or one for each step.

        `t` is an array of step numbers 1, 2, ...: those of many steps are computed at once. First come the scalars
        that are to be multiplied by the step's learning rate, then the others.
        """
        raise NotImplementedError

    @staticmethod
    def reference(rule: str, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """Update the state s in place by the gradient g and return the update: what is subtracted from p.

        The rule in plain NumPy, in the same order of operations as in src_c/rules.c, and so with the same bits.
        """
        raise NotImplementedError

    # ---- making one ----

    def __init__(
        self,
        params: Any,
        defaults: Hyper,
        *,
        nonfinite: str = "propagate",
        zero_grads: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        self._nonfinite = hyper.choice("propagate", "skip", "raise")("nonfinite", nonfinite)
        self._zero_grads = hyper.flag("zero_grads", zero_grads)
        self._clip_norm = None if clip_norm is None else hyper.positive("clip_norm", clip_norm)
        for name, value in defaults.items():
            self._check_of(name, name)(name, value)
        tree = Tree(params)
        given = params if tree.grouped else [{"params": params}]
        self.param_groups = [{**defaults, **group} for group in given]
        self._lock = Lock()
        self._captured: dict[str, Any] | None = None  # all but the parameters, while there are none
        self._begin(tree, self._plan_of(tree))

    def _plan_of(self, tree: Tree) -> Plan:
        screened = self._nonfinite != "propagate" or self._clip_norm is not None
        return Plan(tree, self._zero_grads, tuple(self.slots), self._lock, screened)

    def _begin(self, tree: Tree, plan: Plan) -> None:
        """Take in the parameters: ready to step after this."""
        self._tree = tree
        self._params = [group["params"] for group in self.param_groups]
        self._plan: Plan | None = plan
        plan.settle(self)
        _living.add(self)

    @classmethod
    def _check_of(cls, name: str, shown: str) -> hyper.Check:
        check = cls.checks.get(name) or cls._common_checks.get(name)
        if check is None:
            known = ", ".join([*cls._common_checks, *cls.checks])
            raise ValueError(f"{shown}: {cls.__name__} has no hyper-parameter {name!r}; it has {known}")
        return check

    @classmethod
    def _slots_of(cls, rule: str) -> tuple[str, ...]:
        """Return the state a parameter needs under this rule."""
        return kernels.rules()[rule][0]

    @classmethod
    def _in_order(cls, slots: set[str]) -> tuple[str, ...]:
        return tuple(slot for slot in cls.slots if slot in slots)

    def _check_group(self, index: int) -> Terms:
        """Check one live group, and leave its hyper-parameters in their normal form."""
        group = self.param_groups[index]
        if not isinstance(group, dict):
            raise TypeError(f"param_groups[{index}] is {type(group).__name__}: wanted the dict it was")
        if group.get("params") is not self._params[index]:
            raise ValueError(
                f"param_groups[{index}]['params'] was replaced: a group's parameters are fixed; use bind(params)"
            )
        return self._terms(index, group, self._tree.grouped)

    def _terms(self, index: int, group: Hyper, grouped: bool) -> Terms:
        where = f"params[{index}]" if grouped else ""
        values = {}
        for name, value in group.items():
            if name != "params":
                shown = f"{where}[{name!r}]" if where else name
                values[name] = self._check_of(name, shown)(shown, value)
        for name in (*self._common_checks, *self.checks):
            if name not in values:
                raise ValueError(f"param_groups[{index}] lacks {name!r}")
        self.check_together(values)
        group.update(values)
        decays = values["weight_decay"] > 0
        kind = "none" if not decays else "decoupled" if values["decoupled"] else "coupled"
        return Terms(group, values, self.rule(values), kind, self.scalars, _takes_arrays(values["lr"]))

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
            If the optimizer was copied or unpickled and not bound, or is looking ahead.
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

    def _ready(self) -> Plan:
        plan = self._bound()
        if plan.away is not None:
            raise RuntimeError(plan.away)
        return plan

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
        if self._nonfinite != "propagate" and not self._all_finite():
            return None
        if self._clip_norm is not None:
            scale *= self._clipping(self._clip_norm, scale)
        return scale

    def _all_finite(self) -> bool:
        plan = self._bound()
        bad = plan.find_nonfinite()
        if bad is not None and self._nonfinite == "raise":
            leaf, index = bad
            place = f"[{', '.join(map(str, index))}]" if index else ""
            value = plan.gradient(leaf)[index]
            raise FloatingPointError(f"{plan.gradient_names[leaf]}{place} is {value}: nothing was written")
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
            for leaf, array in enumerate(plan.arrays):
                gradient = plan.gradient(leaf)
                if gradient is None:
                    continue
                factor, decay, scalars = plan.coefficients(leaf)
                terms = plan.terms[self._tree.groups[leaf]]
                order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
                real = array.dtype.type
                p = array.reshape(-1, order=order)
                g = real(factor) * gradient.reshape(-1, order=order)
                if terms.kind == "coupled":
                    g = g + real(decay) * p
                s = {slot: state.reshape(-1, order=order) for slot, state in plan.states[leaf].items()}
                c = {name: real(value) for name, value in scalars.items()}
                u = self.reference(terms.rule, g, s, c)
                if terms.kind == "decoupled":
                    u = real(decay) * p + u
                p -= u
                if self._zero_grads:
                    gradient[...] = 0

    # ---- what is known of it ----

    @property
    def lr(self) -> Any:
        """The learning rate or schedule; a list of them where groups differ. Setting it sets every group's."""
        rates = [group["lr"] for group in self.param_groups]
        return rates[0] if all(rate == rates[0] for rate in rates) else rates

    @lr.setter
    def lr(self, value: Any) -> None:
        value = hyper.learning_rate("lr", value)
        for group in self.param_groups:
            group["lr"] = value

    @property
    def steps(self) -> int:
        """Steps applied so far: what schedules are called with."""
        return self._captured["steps"][0] if self._captured else self._bound().steps

    @property
    def skipped(self) -> int:
        """Steps skipped because of an Inf or NaN."""
        return self._captured["steps"][1] if self._captured else self._bound().skipped

    @property
    def step_counts(self) -> dict[str, int]:
        """Updates each parameter has had, by its name."""
        plan = self._bound()
        return dict(zip(plan.names, plan.counts, strict=True))

    @property
    def state(self) -> dict[str, dict[str, Array]]:
        """Each parameter's state arrays, by its name and theirs: the arrays themselves, not copies."""
        plan = self._bound()
        return {
            name: {self.slots[slot]: array for slot, array in arrays.items()}
            for name, arrays in zip(plan.names, plan.states, strict=True)
        }

    def __repr__(self) -> str:
        groups = [
            ", ".join(f"{key}={value!r}" for key, value in group.items() if key != "params")
            for group in self.param_groups
        ]
        return f"{type(self).__name__}({groups[0] if len(groups) == 1 else '; '.join(groups)})"

    # ---- snapshots and checkpoints ----

    def _header(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON can hold it; a schedule is None."""
        groups = []
        for index, group in enumerate(self.param_groups):
            plain = {key: value for key, value in group.items() if key != "params"}
            if callable(plain["lr"]):
                plain["lr"] = None
            names = [n for n, g in zip(self._tree.names, self._tree.groups, strict=True) if g == index]
            groups.append({**plain, "params": names})
        return {
            "format": _FORMAT,
            "optimizer": type(self).__name__,
            "steps": self.steps,
            "skipped": self.skipped,
            "param_groups": groups,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot of the optimizer, parameters not included: copies that later steps leave alone.

        Returns
        -------
        dict
            ``"state"``: for each parameter's name its arrays and its number of updates, ``"step"``;
            ``"param_groups"``: hyper-parameters, with None for a schedule; ``"steps"``, ``"skipped"``,
            ``"optimizer"`` and ``"format"``.
        """
        with self._lock:
            self._ready()
            counts = self.step_counts
            state: dict[str, dict[str, Any]] = {
                name: {"step": counts[name], **{slot: array.copy(order="K") for slot, array in arrays.items()}}
                for name, arrays in self.state.items()
            }
            return {**self._header(), "state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a snapshot made by `state_dict` of an optimizer over parameters of the same names and shapes.

        Parameters
        ----------
        state_dict : dict
            The snapshot. A group that was saved with a schedule keeps the schedule it has here.

        Raises
        ------
        TypeError, ValueError
            If it does not fit; the message says where. Nothing has been changed then.
        """
        if not isinstance(state_dict, Mapping) or not isinstance(state_dict.get("state"), Mapping):
            raise TypeError("state_dict is not a dict made by state_dict()")
        counts = {}
        arrays: dict[str, Array] = {}
        for name, entry in state_dict["state"].items():
            if not isinstance(entry, Mapping):
                raise TypeError(f"state_dict['state'][{name!r}] is {type(entry).__name__}: wanted a dict")
            for key, value in entry.items():
                if key == "step":
                    counts[name] = value
                elif isinstance(value, np.ndarray):
                    arrays[f"{name}.{key}"] = value
                else:
                    shown = type(value).__name__
                    raise TypeError(f"state_dict['state'][{name!r}][{key!r}] is {shown}: wanted an array")
        specs = {key: (array.dtype, array.shape) for key, array in arrays.items()}
        with self._lock:
            self._ready()
            self._restore(state_dict, counts, specs, lambda key, out: np.copyto(out, arrays[key]))

    def save(
        self, path: str | os.PathLike[str], *, params: bool = True, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write the optimizer and its parameters to a file, which is replaced only when all is on the disk.

        The file is in the safetensors format: each parameter under its name, its state under ``name.exp_avg`` and so
        on. A save that is killed leaves the old file as it was.

        Parameters
        ----------
        path : str or PathLike
            The file.
        params : bool
            Whether the parameters go into it; without them it has the optimizer's state only.
        metadata : mapping of str to str, optional
            Text of yours to be kept with them: `fastopt.checkpoint.read_metadata` returns it.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        import json

        from . import checkpoint

        own = dict(metadata or {})
        for key, value in own.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError(f"metadata[{key!r}] is {value!r}: wanted text under text")
            if key.startswith("fastopt."):
                raise ValueError(f"metadata[{key!r}]: names that start with 'fastopt.' are fastopt's own")
        with self._lock:
            plan = self._ready()
            arrays: dict[str, Array] = {}
            for name, array, state in zip(plan.names, plan.arrays, plan.states, strict=True):
                if params:
                    arrays[name] = array
                arrays.update({f"{name}.{self.slots[slot]}": values for slot, values in state.items()})
            header = {**self._header(), "counts": self.step_counts}
            checkpoint.write(path, arrays, {"fastopt.optimizer": json.dumps(header), **own})

    def load(self, path: str | os.PathLike[str], *, params: bool = True) -> None:
        """Read what `save` wrote, into this optimizer and its parameters.

        Parameters
        ----------
        path : str or PathLike
            The file, of an optimizer of the same class over parameters of the same names, shapes and types. A group
            that was saved with a schedule keeps the schedule it has here.
        params : bool
            Whether to restore the parameters as well.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is truncated, altered or does not fit; the message says why. Nothing has been changed then.
        """
        import json

        from . import checkpoint

        with checkpoint.Reader(path) as reader, self._lock:
            plan = self._ready()
            try:
                header = json.loads(reader.metadata["fastopt.optimizer"])
                counts = header.pop("counts")
            except (KeyError, ValueError):
                raise ValueError(f"{path} was not written by an optimizer's save()") from None
            if params:
                plan.check_parameters()
            specs = dict(reader.specs)
            present = {name: specs.pop(name, None) for name in plan.names}
            if params:
                for name, array in zip(plan.names, plan.arrays, strict=True):
                    _check_fit(name, present[name], array)
            self._restore(header, counts, specs, reader.read)
            if params:
                for name, array in zip(plan.names, plan.arrays, strict=True):
                    reader.read(name, array)

    def _restore(
        self,
        header: Mapping[str, Any],
        counts: Mapping[str, Any],
        specs: Mapping[str, Spec],
        read: Callable[[str, Array], None],
    ) -> None:
        """Check a snapshot whole, then take it over; `read` fills an array from the snapshot's of that key."""
        kind = type(self).__name__
        if header.get("format") != _FORMAT:
            raise ValueError(f"the snapshot has format {header.get('format')!r}: wanted {_FORMAT}")
        if header.get("optimizer") != kind:
            raise ValueError(f"the snapshot is of {header.get('optimizer')}: wanted one of {kind}")
        groups = header.get("param_groups")
        mine = self._header()["param_groups"]
        if not (isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups)) or [
            group.get("params") for group in groups
        ] != [group["params"] for group in mine]:
            raise ValueError("the snapshot is of other parameters: their names or groups differ")
        for name in ("steps", "skipped"):
            _check_count(name, header.get(name))
        for name in self._tree.names:
            _check_count(f"the count of updates of {name}", counts.get(name))
        for name in counts.keys() - set(self._tree.names):
            raise ValueError(f"the snapshot has {name}, which this optimizer has not")

        # Each group as it will be, checked before any is changed.
        wanted: list[Hyper] = []
        for index, saved in enumerate(groups):
            group = {**saved, "params": self.param_groups[index]["params"]}
            if saved.get("lr") is None:
                group["lr"] = self.param_groups[index]["lr"]
                if not callable(group["lr"]):
                    raise ValueError(
                        f"param_groups[{index}] was saved with a schedule as lr: give it one before loading"
                    )
            wanted.append(group)
        plan = self._bound()
        needed = [
            self._slots_of(self._terms(index, group, self._tree.grouped).rule) for index, group in enumerate(wanted)
        ]
        fills: list[tuple[int, str, str | None]] = []  # leaf, slot, key
        given: list[set[str]] = [set() for _ in wanted]  # slots in the snapshot, by group
        unknown = set(specs)
        for leaf, name in enumerate(plan.names):
            for slot, public in self.slots.items():
                key = f"{name}.{public}"
                if key in specs:
                    _check_fit(key, specs[key], plan.arrays[leaf])
                    unknown.discard(key)
                    fills.append((leaf, slot, key))
                    given[self._tree.groups[leaf]].add(slot)
                elif slot in needed[self._tree.groups[leaf]]:
                    raise ValueError(f"the snapshot lacks {key}")
                else:
                    fills.append((leaf, slot, None))
        if unknown:
            raise ValueError(f"the snapshot has {min(unknown)}, which this optimizer has not")

        # It is sound: take it over.
        for index, slots in enumerate(given):
            plan.allocate(index, self._in_order(slots))
        for leaf, slot, source in fills:
            array = plan.states[leaf].get(slot)
            if array is not None and source is not None:
                read(source, array)
            elif array is not None:
                array[...] = 0
        for group, values in zip(self.param_groups, wanted, strict=True):
            group.update(values)
        plan.counts = [counts[name] for name in plan.names]
        plan.steps, plan.skipped = header["steps"], header["skipped"]

    # ---- copies ----

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return self._capture()

    def __setstate__(self, captured: dict[str, Any]) -> None:
        self._captured = captured
        self._plan = None
        self._lock = Lock()
        self.param_groups = captured["groups"]
        self._nonfinite, self._zero_grads, self._clip_norm = captured["options"]

    def __copy__(self) -> Self:
        return copy.deepcopy(self)

    def _capture(self) -> dict[str, Any]:
        """Everything but the parameters; the state is not copied."""
        if self._captured is not None:
            return self._captured
        plan = self._ready()
        return {
            "groups": [{**group, "params": None} for group in self.param_groups],
            "options": (self._nonfinite, self._zero_grads, self._clip_norm),
            "steps": (plan.steps, plan.skipped),
            "structure": self._tree.structure,
            "names": plan.names,
            "specs": [(array.dtype, array.shape) for array in plan.arrays],
            "states": plan.states,
            "counts": plan.counts,
        }

    def bind(self, params: Any) -> Self:
        """Give the optimizer arrays to update: after pickling or copying it, or when arrays were replaced.

        Parameters
        ----------
        params : array, list, tuple or dict
            Parameters of the structure, shapes and types it was made with; of groups, only ``"params"`` counts.

        Returns
        -------
        Optimizer
            This one.

        Raises
        ------
        TypeError, ValueError
            If they do not fit; the optimizer is as it was then.
        """
        tree = Tree(params)
        with self._lock:
            captured = self._capture()
            if tree.structure != captured["structure"]:
                raise ValueError("params has another structure than the parameters this optimizer was made with")
            plan = self._plan_of(tree)
            order = {name: leaf for leaf, name in enumerate(captured["names"])}
            places = [order[name] for name in tree.names]  # keys of a dict may come in another order
            slots: list[set[str]] = [set() for _ in range(tree.n_groups)]
            for name, array, group, place in zip(tree.names, plan.arrays, tree.groups, places, strict=True):
                if (array.dtype, array.shape) != captured["specs"][place]:
                    dtype, shape = captured["specs"][place]
                    raise ValueError(f"{name} is {array.dtype} {array.shape}: wanted {dtype} {shape}, as it was")
                slots[group].update(captured["states"][place])
            for index, group_now in enumerate(self.param_groups):
                slots[index].update(self._slots_of(self._terms(index, group_now, tree.grouped).rule))
                plan.allocate(index, self._in_order(slots[index]))
            for leaf, place in enumerate(places):
                for slot, array in captured["states"][place].items():
                    plan.states[leaf][slot][...] = array
            plan.counts = [captured["counts"][place] for place in places]
            plan.steps, plan.skipped = captured["steps"]
            # From here on nothing fails.
            trees = [part["params"] for part in params] if tree.grouped else [params]
            for group_now, part in zip(self.param_groups, trees, strict=True):
                group_now["params"] = part
            self._begin(tree, plan)
            self._captured = None
        return self


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise ValueError(f"the snapshot is damaged: {name} is {value!r}")


def _check_fit(name: str, spec: Spec | None, array: Array) -> None:
    if spec is None:
        raise ValueError(f"the snapshot lacks {name}")
    dtype, shape = spec
    if dtype != array.dtype or shape != array.shape:
        raise ValueError(f"the snapshot has {name} as {dtype} {shape}: wanted {array.dtype} {array.shape}")


_living: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked child: a lock held by a thread of the parent would never be released."""
    for optimizer in _living:
        optimizer._lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
