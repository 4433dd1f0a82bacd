"""Snapshots: what one is and when it fits. state_dict and save, load and bind, copies and pickles.

`Snapshots` is the part of `Optimizer` that knows them. A snapshot is taken in one piece, while no step runs, and taken
over in one piece: whatever is wrong with it is found before anything has changed.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from .engine.lock import Lock
from .engine.restore import restore
from .engine.state import AVERAGE
from .hyper import Given, Hyper, Option
from .interrupts import held
from .tree import Tree

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform

    from .checkpoint import Spec
    from .engine.coefficients import Terms
    from .engine.plan import Plan
else:

    def dataclass_transform(**_: Any) -> Any:
        return lambda cls: cls


__all__ = ["Snapshots"]

Array = npt.NDArray[Any]

_ATTRIBUTES = {"_plan", "_lock", "_captured", "_options"}  # of every optimizer
ROW_STEPS = "row_steps"  # in snapshots and in `state`: counts of a parameter's rows
_FORMAT = 2  # of checkpoints and state dicts; in 1, a schedule is None


class _Fitting:
    """A snapshot that has been checked whole against an optimizer: what is to be read from it, and what it says.

    Parameters
    ----------
    optimizer : Optimizer
    header : mapping
        All but the arrays.
    counts : mapping of str to int
        Updates of each parameter, by its name.
    specs : mapping of str to (dtype, shape)
        The arrays of the snapshot that are state, by their keys.

    Raises
    ------
    ValueError
        If it does not fit; the message says why.
    """

    def __init__(
        self, optimizer: Snapshots, header: Mapping[str, Any], counts: Mapping[str, Any], specs: Mapping[str, Spec]
    ) -> None:
        kind = type(optimizer).__name__
        plan = optimizer._bound()
        if header.get("format") not in range(1, _FORMAT + 1):
            raise ValueError(f"the snapshot has format {header.get('format')!r}: wanted at most {_FORMAT}")
        if header.get("optimizer") != kind:
            raise ValueError(f"the snapshot is of {header.get('optimizer')}: wanted one of {kind}")
        optimizer._check_header(header)
        groups = _checked_groups(header.get("param_groups"), plan)
        for name in ("steps", "skipped"):
            _check_count(name, header.get(name))
        for name in plan.names:
            _check_count(f"the count of updates of {name}", counts.get(name))
        for name in counts.keys() - set(plan.names):
            raise ValueError(f"the snapshot has {name}, which this optimizer has not")
        fresh = header.get("fresh", [])
        if not isinstance(fresh, list) or not all(name in plan.names for name in fresh):
            raise ValueError(f"the snapshot is damaged: its list of new state is {fresh!r}")
        self.counts = [counts[name] for name in plan.names]
        self.steps, self.skipped = header["steps"], header["skipped"]

        #: each group as it will be
        self.groups: list[dict[str, Any]] = []
        #: what live schedules are to hold: (dict, key, value)
        self.items: list[tuple[dict[str, Any], str, Any]] = []
        self._restored: Any = None
        for index, saved in enumerate(groups):
            live, cls = optimizer._own_group(index), optimizer._class_of(index)
            group = {**saved, "params": live["params"]}
            for name, value in saved.items():
                if name != "params":
                    where, none = f"param_groups[{index}] was saved with", cls._may_be_none(name)
                    group[name] = _live(value, live.get(name), none, where, name, self._schedule)
            for name, one in cls.hyper_parameters.items():
                # An option that came later was off; a number that is not there is damage.
                if name not in group and (one.default is False or one.default is None):
                    group[name] = one.default
            self.groups.append(group)
        tree = plan.tree
        needed = [
            optimizer._wanted_slots(optimizer._terms(index, group, plan).rule)
            for index, group in enumerate(self.groups)
        ]
        #: of each leaf, the keys of its arrays, by slot
        self.keys: list[dict[str, str]] = [{} for _ in plan.names]
        #: of each leaf, the key of its rows' counts, if it has any
        self.rows: list[str | None] = [None] * len(plan.names)
        unknown = set(specs)
        wanted = plan.specs
        for leaf, name in enumerate(plan.names):
            cls = optimizer._class_of(tree.groups[leaf])
            for slot, public in cls._slots.items():
                key, (dtype, shape) = f"{name}.{public}", wanted[leaf]
                shape = shape if slot == AVERAGE else cls.state_shape(slot, shape)
                if shape is None:
                    continue
                if key in specs:
                    _check_fit(key, specs[key], (dtype, shape))
                    unknown.discard(key)
                    self.keys[leaf][slot] = key
                elif slot in needed[tree.groups[leaf]]:
                    raise ValueError(f"the snapshot lacks {key}")
            key = f"{name}.{ROW_STEPS}"
            if key in specs:
                _check_rows(name, key, specs[key], plan.arrays[leaf])
                unknown.discard(key)
                self.rows[leaf] = key
        if unknown:
            raise ValueError(f"the snapshot has {min(unknown)}, which this optimizer has not")
        #: of each group, the slots that its leaves will have
        self.slots = _in_order(plan, _by_group(tree, self.keys))
        #: of each leaf, whether its state will be new; so is what it has here and not in the snapshot
        self.fresh = [
            name in fresh or counts[name] == 0 or not keys.keys() >= states.keys() - {AVERAGE}
            for name, keys, states in zip(plan.names, self.keys, plan.states, strict=True)
        ]

        saved_numbers = header.get("numbers", {})
        if not isinstance(saved_numbers, Mapping):
            raise ValueError(f"the snapshot is damaged: its numbers are {saved_numbers!r}")
        of_groups = header.get("group_numbers", [{}] * len(self.groups))
        if not (isinstance(of_groups, list) and len(of_groups) == len(self.groups)):
            raise ValueError(f"the snapshot is damaged: the numbers of its groups are {of_groups!r}")
        #: numbers that the class keeps, of leaves and of groups
        self.numbers = (
            _numbers(plan.number_names, [(name, saved_numbers.get(name, {})) for name in plan.names]),
            _numbers(plan.group_number_names, [(f"group {i}", one) for i, one in enumerate(of_groups)]),
        )

    def _schedule(self, saved: Any, live: Any) -> Any:
        """The schedule that was saved, where `live` is there now."""
        if self._restored is None:
            self._restored = _schedules().Restored()
            self.items = self._restored.items
        return self._restored(saved, live)

    def replace(
        self,
        optimizer: Snapshots,
        states: list[dict[str, Array]],
        params: list[Array] | None,
        row_counts: list[Array | None] | None = None,
        torn: bool = False,
    ) -> None:
        """Take it over, in one piece: arrays, counts and groups."""
        row_counts = row_counts or [None] * len(states)
        for key, counts in zip(self.rows, row_counts, strict=True):
            if counts is not None and counts.size and not -(2**62) < counts.min() <= counts.max() < 2**62:
                raise ValueError(f"the snapshot is damaged: {key} has {counts.min()} to {counts.max()}")
        pairs = zip(optimizer.param_groups, self.groups, strict=True)
        items = [(group, key, value) for group, values in pairs for key, value in values.items()] + self.items
        restore(
            optimizer._bound(),
            self.slots,
            params,
            states,
            self.counts,
            row_counts,
            self.fresh,
            self.steps,
            self.skipped,
            self.numbers,
            items,
            torn,
        )


@dataclass_transform(eq_default=False, kw_only_default=True, field_specifiers=(Given, Hyper, Option))
class Snapshots:
    """The part of `Optimizer` that saves and loads it, copies it, and gives it new parameters."""

    __slots__ = ("__dict__", "__weakref__", "param_groups")  # which each step reads: found faster than in __dict__
    param_groups: list[dict[str, Any]]

    if TYPE_CHECKING:  # defined in `Optimizer`
        slots: ClassVar[Mapping[str, str]]
        _slots: ClassVar[Mapping[str, str]]
        hyper_parameters: ClassVar[Mapping[str, Hyper[Any]]]
        numbers: ClassVar[Mapping[str, float]]
        group_numbers: ClassVar[Mapping[str, float]]
        _plan: Plan | None
        _lock: Lock
        _captured: dict[str, Any] | None
        _options: dict[str, Any]

        def _bound(self) -> Plan: ...
        def _ready(self, but: str = "") -> Plan: ...
        def _plan_of(self, tree: Tree) -> Plan: ...
        def _own_group(self, index: int) -> dict[str, Any]: ...
        def _class_of(self, group: int) -> type[Any]: ...
        def _tree_of(self, params: Any) -> Tree: ...
        def _terms(self, index: int, group: dict[str, Any], plan: Plan) -> Terms: ...
        def _wanted_slots(self, rule: str) -> tuple[str, ...]: ...

    def _header(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON can hold it; a schedule that is none of fastopt's is None."""
        plan = self._bound()
        groups = [
            {key: _plain(value) for key, value in group.items() if key != "params"} for group in self.param_groups
        ]
        for group, names in zip(groups, _names(plan), strict=True):
            group["params"] = names
        header = {
            "format": _FORMAT,
            "optimizer": type(self).__name__,
            "steps": plan.steps,
            "skipped": plan.skipped,
            "param_groups": groups,
        }
        # State of an option that was switched on since the last update: the next one is its first.
        fresh = [n for n, new, count in zip(plan.names, plan.fresh, plan.counts, strict=True) if new and count]
        if fresh:
            header["fresh"] = fresh
        if plan.number_names:
            values = plan.numbers.T.tolist()
            header["numbers"] = {
                name: dict(zip(plan.number_names, x, strict=True)) for name, x in zip(plan.names, values, strict=True)
            }
        if plan.group_number_names:
            header["group_numbers"] = [
                dict(zip(plan.group_number_names, x, strict=True)) for x in plan.group_numbers.T.tolist()
            ]
        return header

    def _check_header(self, header: Mapping[str, Any]) -> None:
        """Raise ValueError for a snapshot of an optimizer that was made otherwise."""

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot of the optimizer, parameters not included: copies that later steps leave alone.

        Returns
        -------
        dict
            ``"state"``: for each parameter's name its arrays and its number of updates, ``"step"``, and for one that
            has had `Rows` the number of each row's, ``"row_steps"``;
            ``"param_groups"``: hyper-parameters, a schedule of `fastopt.schedules` by its name and fields, any other
            None; ``"steps"``, ``"skipped"``, ``"optimizer"`` and ``"format"``. Where there are any, ``"numbers"``
            that the class keeps for each parameter, ``"group_numbers"``, and in ``"fresh"`` the names of parameters
            whose state no update has used yet.
        """
        with self._lock.reading():
            plan = self._ready()
            plan.settle(self)
            state: dict[str, dict[str, Any]] = {
                name: {"step": count, **{self._class_of(group)._slots[slot]: array for slot, array in arrays.items()}}
                for name, group, count, arrays in zip(
                    plan.names, plan.tree.groups, plan.counts, _copied(plan.states), strict=True
                )
            }
            for name, rows in zip(plan.names, plan.row_counts, strict=True):
                if rows is not None:
                    state[name][ROW_STEPS] = rows.copy()
            return {**self._header(), "state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a snapshot made by `state_dict` of an optimizer over parameters of the same names and shapes.

        Parameters
        ----------
        state_dict : dict
            The snapshot. Schedules of `fastopt.schedules` come back with it; a group that was saved with another one
            keeps the one it has here.

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
            self._ready("load")
            fitting = _Fitting(self, state_dict, counts, specs)
            # Copies, since they may be this optimizer's own arrays: another parameter's, say.
            states = [{slot: arrays[key].copy(order="K") for slot, key in keys.items()} for keys in fitting.keys]
            rows = [None if key is None else arrays[key].copy() for key in fitting.rows]
            fitting.replace(self, states, None, rows)

    def save(
        self, path: str | os.PathLike[str], *, params: bool = True, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write the optimizer and its parameters to a file, which is replaced only when all is on the disk.

        The file is in the safetensors format: each parameter under its name, its state under ``name.exp_avg`` and so
        on. A save that is killed leaves the old file as it was.

        Parameters
        ----------
        path : str or PathLike
            The file; ``"-"`` is standard output.
        params : bool
            Whether the parameters go into it; without them it has the optimizer's state only.
        metadata : mapping of str to str, optional
            Text of yours to be kept with them: `fastopt.checkpoint.read_metadata` returns it.

        Raises
        ------
        OSError
            If it cannot be written.
        TypeError, ValueError
            If there is something at this path that is no regular file, or the metadata is not text.
        """
        from . import checkpoint

        own = dict(metadata or {})
        for key, value in own.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError(f"metadata[{key!r}] is {value!r}: wanted text under text")
            try:
                (key + value).encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"metadata[{key!r}] is {value!r}: wanted text ({error})") from None
            if key.startswith("fastopt."):
                raise ValueError(f"metadata[{key!r}]: names that start with 'fastopt.' are fastopt's own")
        with self._lock.reading():
            plan = self._ready()
            plan.check_parameters()
            plan.settle(self)
            checkpoint.write(path, self._arrays(params), {"fastopt.optimizer": self._text(), **own})

    def _text(self) -> str:
        """What a file has besides arrays."""
        plan = self._bound()
        return json.dumps({**self._header(), "counts": dict(zip(plan.names, plan.counts, strict=True))})

    def _arrays(self, params: bool) -> dict[str, Array]:
        """The arrays of a file, by their names in it."""
        plan = self._bound()
        arrays: dict[str, Array] = {}
        for leaf, (name, array, state) in enumerate(zip(plan.names, plan.arrays, plan.states, strict=True)):
            if params:
                arrays[name] = array
            public = self._class_of(plan.tree.groups[leaf])._slots
            arrays.update({f"{name}.{public[slot]}": values for slot, values in state.items()})
            rows = plan.row_counts[leaf]
            if rows is not None:
                arrays[f"{name}.{ROW_STEPS}"] = rows
        return arrays

    def load(self, path: str | os.PathLike[str], *, params: bool = True, in_place: bool = False) -> None:
        """Read what `save` wrote, into this optimizer and its parameters.

        Parameters
        ----------
        path : str or PathLike
            The file, of an optimizer of the same class over parameters of the same names, shapes and types; keys of a
            dict may come in another order. Schedules of `fastopt.schedules` come back with it; a group that was saved
            with another one keeps the one it has here.
        params : bool
            Whether to restore the parameters as well.
        in_place : bool
            Whether to read straight into parameters and state. By default all is read into new memory first, as much
            as the file is large, so that a load that fails changes nothing. In place, one that fails half way leaves
            an optimizer that refuses to go on until another load succeeds.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is truncated, altered or does not fit; the message names it and says why. Nothing has been changed
            then, unless the file changed while it was read in place.
        """
        from . import checkpoint

        with checkpoint.Reader(path) as reader, self._lock:
            plan = self._ready("load")
            if params:
                plan.check_parameters()
            try:
                fitting = self._fitting(reader.metadata, reader.specs, params)
            except (TypeError, ValueError, RecursionError) as error:
                reader.read({})  # which says so if the file is damaged
                raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}") from None

            of_rows = {key: np.empty(reader.specs[key][1], np.int64) for key in fitting.rows if key is not None}
            rows = [None if key is None else of_rows[key] for key in fitting.rows]

            def wanted(states: list[dict[str, Array]], arrays: list[Array]) -> dict[str, Array]:
                """Where to read what, by its name in the file."""
                found = {
                    key: state[slot]
                    for keys, state in zip(fitting.keys, states, strict=True)
                    for slot, key in keys.items()
                }
                return found | (dict(zip(plan.names, arrays, strict=True)) if params else {})

            if in_place:
                reader.read(of_rows)  # all of it is sound: it can only fail now if it changes meanwhile
                with held():
                    fitting.replace(self, [{} for _ in plan.names], None, rows, torn=True)
                    reader.read(wanted(plan.states, plan.arrays))
                    plan.mend()
                return
            pairs = zip(fitting.keys, plan.arrays, strict=True)
            states = [{slot: _unset(like, reader.specs[key][1]) for slot, key in keys.items()} for keys, like in pairs]
            new = [_unset(like, like.shape) for like in plan.arrays] if params else []
            reader.read(wanted(states, new) | of_rows)
            fitting.replace(self, states, new if params else None, rows)

    def _fitting(self, metadata: Mapping[str, str], specs: Mapping[str, Spec], params: bool) -> _Fitting:
        """Check what a file says."""
        try:
            header = json.loads(metadata["fastopt.optimizer"])
            counts = header.pop("counts")
        except (KeyError, ValueError, AttributeError, RecursionError):
            header = counts = None
        if not isinstance(header, dict) or not isinstance(counts, dict):
            raise ValueError("it was not written by an optimizer's save()")
        specs = dict(specs)
        plan = self._bound()
        for name, wanted in zip(plan.names, plan.specs, strict=True):
            present = specs.pop(name, None)
            if params:
                _check_fit(name, present, wanted)
        return _Fitting(self, header, counts, specs)

    def reset(self) -> None:
        """Be as new: state and counts are 0, and so schedules start again; parameters and groups stay as they are."""
        with self._lock:
            plan = self._ready()
            tree = plan.tree
            slots = _in_order(plan, _by_group(tree, plan.states))
            n = len(plan.arrays)
            numbers = _started(self.numbers, n), _started(self.group_numbers, len(tree.parts))
            restore(plan, slots, None, [{}] * n, [0] * n, [None] * n, [True] * n, 0, 0, numbers, [], False)

    # ---- copies ----

    def __getstate__(self) -> dict[str, Any]:
        with self._lock.reading():
            captured = self._capture()
            rows = [None if counts is None else counts.copy() for counts in captured["row_counts"]]
            states = _copied(captured["states"])
            return {**captured, "states": states, "row_counts": rows, "own": self._own_attributes()}

    def __setstate__(self, captured: dict[str, Any]) -> None:
        self._captured = captured
        self._plan = None
        self._lock = Lock()
        self.param_groups = captured["groups"]
        self._options = captured["options"]
        self.__dict__.update(captured.get("own", {}))

    def __copy__(self) -> Self:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        captured = self.__getstate__()  # its arrays are copies already
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        for name in ("groups", "options", "own"):
            captured[name] = copy.deepcopy(captured[name], memo)
        made.__setstate__(captured)
        return made

    def _own_attributes(self) -> dict[str, Any]:
        """What a subclass has set on itself; a method that was replaced is not to step another optimizer."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in _ATTRIBUTES and not callable(getattr(type(self), name, None))
        }

    def _capture(self, but: str = "") -> dict[str, Any]:
        """Everything but the parameters; the state is not copied."""
        if self._captured is not None:
            return {**self._captured, "groups": self.param_groups, "options": self._options}
        plan = self._ready(but)
        plan.settle(self)
        return {
            "groups": [{**group, "params": None} for group in self.param_groups],
            "options": self._options,
            "steps": (plan.steps, plan.skipped),
            "structure": plan.tree.structure,
            "paths": plan.tree.paths,
            "specs": plan.specs,
            "states": plan.states,
            "counts": plan.counts,
            "row_counts": plan.row_counts,
            "fresh": plan.fresh,
            "numbers": (plan.numbers.copy(), plan.group_numbers.copy()),
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
            captured = self._capture("bind")
            if tree.structure != captured["structure"]:
                raise ValueError("params has another structure than the parameters this optimizer was made with")
            tree = self._tree_of(params)
            plan = self._plan_of(tree)
            order = {path: leaf for leaf, path in enumerate(captured["paths"])}
            places = [order[path] for path in tree.paths]  # keys of a dict may come in another order
            for name, array, place in zip(tree.names, plan.arrays, places, strict=True):
                if (array.dtype, array.shape) != captured["specs"][place]:
                    dtype, shape = captured["specs"][place]
                    raise ValueError(f"{name} is {array.dtype} {array.shape}: wanted {dtype} {shape}, as it was")
            rows = [None if captured["row_counts"][k] is None else captured["row_counts"][k].copy() for k in places]
            for name, array, counts in zip(tree.names, plan.arrays, rows, strict=True):
                if counts is not None:
                    _check_rows(name, f"{name}.{ROW_STEPS}", (counts.dtype, counts.shape), array)
            states = [captured["states"][place] for place in places]
            slots = _by_group(tree, states)
            for index, group_now in enumerate(self.param_groups):
                slots[index].update(self._wanted_slots(self._terms(index, group_now, plan).rule))
            for leaf, group in enumerate(tree.groups):
                if AVERAGE in slots[group]:  # one that was asked for since begins with the parameter
                    states[leaf] = {AVERAGE: plan.arrays[leaf], **states[leaf]}
            restore(
                plan,
                _in_order(plan, slots),
                None,
                states,
                [captured["counts"][place] for place in places],
                rows,
                [
                    captured["fresh"][place] or _lacks(state, slots[group], self._class_of(group), array)
                    for group, place, state, array in zip(tree.groups, places, states, plan.arrays, strict=True)
                ],
                captured["steps"][0],
                captured["steps"][1],
                (captured["numbers"][0][:, places], captured["numbers"][1]),
                [],
                False,
            )
            with held():
                for group_now, part in zip(self.param_groups, tree.parts, strict=True):
                    group_now["params"] = part
                object.__setattr__(self, "_plan", plan)  # in C, which takes no memory
                object.__setattr__(self, "_captured", None)
        return self


def _started(numbers: Mapping[str, float], count: int) -> Array:
    """Numbers as they start, [names, count]."""
    return np.repeat(np.array([*numbers.values()], np.float64), count).reshape(len(numbers), count)


def _numbers(names: tuple[str, ...], owners: list[tuple[str, Any]]) -> Array:
    """Numbers that a snapshot has, [names, owners]."""
    found = np.empty((len(names), len(owners)))
    for column, (owner, saved) in enumerate(owners):
        if not (isinstance(saved, Mapping) and saved.keys() == set(names)):
            raise ValueError(
                f"the snapshot is damaged: the numbers of {owner} are {saved!r}: wanted {', '.join(names)}"
            )
        for row, name in enumerate(names):
            if type(saved[name]) not in (float, int):
                raise ValueError(f"the snapshot is damaged: {name} of {owner} is {saved[name]!r}")
            found[row, column] = saved[name]
    return found


def _plain(value: Any) -> Any:
    """A hyper-parameter as JSON can hold it: a schedule that is none of fastopt's is None."""
    if isinstance(value, tuple):
        return list(map(_plain, value))
    return _schedules().described(value) if callable(value) else value


def _live(saved: Any, live: Any, may_be_none: bool, where: str, name: str, schedule: Callable[[Any, Any], Any]) -> Any:
    """The inverse of `_plain`, where `live` is there now."""
    if saved is None:
        if not callable(live) and not may_be_none:
            raise ValueError(f"{where} a schedule as {name}: give it one before loading")
        return live if callable(live) else None
    if isinstance(saved, list):
        now = live if isinstance(live, tuple) and len(live) == len(saved) else [None] * len(saved)
        pairs = enumerate(zip(saved, now, strict=True))
        return tuple(_live(one, other, may_be_none, where, f"{name}[{i}]", schedule) for i, (one, other) in pairs)
    return schedule(saved, live) if isinstance(saved, Mapping) else saved


def _schedules() -> Any:
    from . import schedules  # whoever has none is not to wait for its import

    return schedules


def _by_group(tree: Tree, slots: Iterable[Iterable[str]]) -> list[set[str]]:
    """The slots that the leaves of each group have, from those of each leaf."""
    found: list[set[str]] = [set() for _ in tree.parts]
    for group, of_leaf in zip(tree.groups, slots, strict=True):
        found[group].update(of_leaf)
    return found


def _unset(like: Array, shape: tuple[int, ...]) -> Array:
    """An array of this shape, contents unset: of the type of another and, if that has the shape too, in its order."""
    return np.empty_like(like, subok=False) if shape == like.shape else np.empty(shape, like.dtype)


def _lacks(state: Mapping[str, Array], slots: set[str], cls: Any, array: Array) -> bool:
    """Whether a parameter's state lacks one of these slots that it should have."""
    return any(cls.state_shape(slot, array.shape) is not None for slot in slots - state.keys())


def _in_order(plan: Plan, slots: list[set[str]]) -> list[tuple[str, ...]]:
    """The slots of each group, in the order of the plan's."""
    return [tuple(slot for slot in plan.slots if slot in of_group) for of_group in slots]


def _names(plan: Plan) -> list[list[str]]:
    """The parameters of each group."""
    found: list[list[str]] = [[] for _ in plan.tree.parts]
    for name, group in zip(plan.names, plan.tree.groups, strict=True):
        found[group].append(name)
    return found


def _checked_groups(groups: Any, plan: Plan) -> list[Mapping[str, Any]]:
    """The groups of a snapshot, if they have the parameters of the plan's, in any order."""
    if not (isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups)):
        raise ValueError(f"the snapshot is damaged: its groups are {groups!r}")
    if len(groups) != len(plan.tree.parts):
        s = "" if len(groups) == 1 else "s"
        raise ValueError(f"the snapshot is of {len(groups)} group{s}: wanted {len(plan.tree.parts)}")
    for index, (group, wanted) in enumerate(zip(groups, _names(plan), strict=True)):
        names = group.get("params")
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"the snapshot is damaged: the parameters of group {index} are {names!r}")
        more, less = (sorted(set(one) - set(other)) for one, other in ((names, wanted), (wanted, names)))
        if more or less:
            why = f"it has {more[0]}, " if more else f"it lacks {less[0]}"
            if more:
                why += f"and not {less[0]}" if less else "which this optimizer has not"
            raise ValueError(f"the snapshot is of other parameters: {why}")
        if len(names) > len(wanted):
            raise ValueError(f"the snapshot is damaged: the parameters of group {index} are {names!r}")
    return groups


def _copied(states: list[dict[str, Array]]) -> list[dict[str, Array]]:
    return [{slot: array.copy(order="K") for slot, array in arrays.items()} for arrays in states]


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise ValueError(f"the snapshot is damaged: {name} is {value!r}")


def _check_rows(name: str, key: str, spec: Spec, array: Array) -> None:
    """Raise ValueError unless an array can have these counts of rows."""
    if array.ndim == 0 or not array.flags.c_contiguous:
        raise ValueError(f"the snapshot has {key}: wanted {name} C-contiguous, with rows that are updated one by one")
    _check_fit(key, spec, (np.dtype(np.int64), array.shape[:1]))


def _check_fit(name: str, spec: Spec | None, wanted: Spec) -> None:
    if spec is None:
        raise ValueError(f"the snapshot lacks {name}")
    if spec != wanted:
        raise ValueError(f"the snapshot has {name} as {spec[0]} {spec[1]}: wanted {wanted[0]} {wanted[1]}")
