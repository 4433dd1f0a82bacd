"""torch: every optimizer as a `torch.optim.Optimizer`, for training on a CPU.

An adapter has torch's groups, state and hooks, and an optimizer of fastopt's inside, whose plan steps by the addresses
of tensors (`engine.dlpack`). The plan knows the tensors that have had a gradient. When anything else than gradients and
learning rates has changed (a tensor was moved, groups or `state` were edited, a state dict was loaded), a new plan is
made, which goes on with the old one's state.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from . import hyper
from .engine.coefficients import Terms
from .engine.dlpack import Changed, Exchange, Tensors, carry
from .engine.lock import Lock
from .engine.plan import Plan
from .engine.restore import restore
from .optimizer import Optimizer
from .optimizers import OPTIMIZERS, Muon
from .rows import Rows
from .snapshots import ROW_STEPS
from .snapshots import _in_order as in_order
from .snapshots import _lacks as lacks
from .tree import Tree

ADAPTED = {**OPTIMIZERS, "Muon": Muon}

__all__ = ["ADAPTED", "Adapter", *ADAPTED]

Group = dict[str, Any]

_REFUSED = {
    "capturable": "it is for steps inside a CUDA graph, and there are no steps on a GPU here",
    "differentiable": "autograd does not see into a step: use torch.optim's class",
}
_OURS = {"decoupled_weight_decay": "decoupled"}  # torch's name of a hyper-parameter: ours
_NO_HOOKS: Mapping[int, Any] = {}
_before_all = getattr(torch_optimizer, "_global_optimizer_pre_hooks", _NO_HOOKS)
_after_all = getattr(torch_optimizer, "_global_optimizer_post_hooks", _NO_HOOKS)
_profiling = torch.autograd._profiler_enabled


# ---- tensors ----


def _reason(tensor: Any) -> str | None:
    """Why a tensor's elements cannot be read or written where they lie, None if they can."""
    if not isinstance(tensor, Tensor):
        return f"is {type(tensor).__name__}: wanted a tensor"
    if tensor.layout is not torch.strided:
        word = str(tensor.layout).removeprefix("torch.")
        return f"is {word.replace('_', ' ') if 'sparse' in word else word}: only dense tensors are supported"
    if tensor.device.type != "cpu":
        return f"is on the device {tensor.device}: only tensors in the CPU's memory are supported"
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"has dtype {tensor.dtype}: wanted torch.float32 or torch.float64"
    if tensor.numel() and _address(tensor) == 0:
        return f"is a {type(tensor).__name__} without memory of its own: wanted a tensor that has its elements"
    return None


def _address(tensor: Tensor) -> int:
    try:
        return int(tensor.data_ptr())
    except RuntimeError:  # of a wrapper
        return 0


def _axes(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the order of axes that makes a tensor C-contiguous; None if it has gaps or overlaps itself."""
    strides = tensor.stride()
    if tensor.is_contiguous():
        return tuple(range(tensor.ndim))
    order = tuple(sorted(range(tensor.ndim), key=lambda axis: (-strides[axis], axis)))
    order = (*(a for a in order if tensor.shape[a] == 1), *(a for a in order if tensor.shape[a] != 1))
    wanted = 1
    for axis in reversed(order):
        if tensor.shape[axis] != 1 and strides[axis] != wanted:
            return None
        wanted *= tensor.shape[axis]
    return order


def _array(tensor: Tensor, axes: tuple[int, ...]) -> Any:
    """View a tensor as an array with its axes in this order."""
    return tensor.detach().resolve_neg().permute(axes).numpy()


def _viewed(gradient: Any, axes: tuple[int, ...]) -> Any:
    """View a gradient that cannot be taken in by its address, or say why it cannot be taken in at all."""
    if isinstance(gradient, Tensor) and gradient.layout is torch.sparse_coo:
        return _rows(gradient, axes)
    reason = _reason(gradient)
    if reason is not None:
        raise TypeError(f"a gradient {reason}")
    return _array(gradient, axes)


def _rows(gradient: Tensor, axes: tuple[int, ...]) -> Rows:
    """The rows that a sparse gradient has. Indices may come more than once: they are added up in the step."""
    if gradient.sparse_dim() != 1:
        raise TypeError(f"a gradient is sparse in {gradient.sparse_dim()} axes: wanted 1, as nn.Embedding gives it")
    if axes != tuple(range(gradient.ndim)):
        raise ValueError("a gradient is sparse: wanted a contiguous parameter")
    indices, values = gradient._indices()[0], gradient._values()
    reason = _reason(values)
    if reason is not None:
        raise TypeError(f"a gradient {reason}")
    return Rows(indices.numpy(), _array(values, axes), counts="table")  # torch counts the updates of a tensor


def _tensor(array: Any, axes: tuple[int, ...]) -> Tensor:
    """The way back: view an array as a tensor whose axes were brought in this order."""
    return torch.from_numpy(array).permute(tuple(np.argsort(axes))) if axes else torch.from_numpy(array)


def _lies(tensor: Tensor) -> tuple[Any, ...]:
    return _address(tensor), tensor.dtype, tensor.shape, tensor.stride()


def _one_by_one(tensors: list[Tensor]) -> None:
    """Tell autograd of older torch that tensors have changed."""
    for tensor in tensors:
        torch.autograd.graph.increment_version(tensor)


try:
    torch._C._increment_version([])
    CHANGED: Callable[[list[Tensor]], object] = torch._C._increment_version
except TypeError:
    CHANGED = _one_by_one

EXCHANGE = Exchange(getattr(Tensor, "__dlpack_c_exchange_api__", None), Tensor, Tensor.is_neg, _viewed, _lies, CHANGED)
BY_VIEWS = Exchange(None, Tensor, Tensor.is_neg, _viewed, _lies, CHANGED)  # for arithmetic that is NumPy's


# ---- the optimizer inside ----


def _reading(value: Any) -> Any:
    """A hyper-parameter as fastopt has it: a tensor is read in each step, since it may be changed in place."""
    if isinstance(value, Tensor):
        return lambda steps: value.item()
    return type(value)(map(_reading, value)) if type(value) in (tuple, list) else value


class _Inside:
    """The part of an optimizer of fastopt's that has torch's groups."""

    __slots__ = ()
    _taken: ClassVar[frozenset[str]]  # what of a group is a hyper-parameter, by our name

    def _check_group(self, index: int) -> Terms:
        optimizer: Any = self
        return _terms(optimizer, index, optimizer.param_groups[index], optimizer._plan)


def _terms(inside: Optimizer, index: int, group: Group, plan: Plan) -> Terms:
    """Check one of torch's groups; keys that say nothing about a step are the user's or a scheduler's."""
    for name, why in _REFUSED.items():
        if group.get(name):
            raise ValueError(f"{name}={group[name]!r} is refused: {why}")
    values = {}
    for name, value in group.items():
        name = _OURS.get(name, name)
        if name in inside._taken:  # type: ignore[attr-defined]
            if callable(value):
                raise TypeError(f"{name} is {value!r}: schedules are those of torch.optim.lr_scheduler here")
            values[name] = _reading(value)
    for name, one in inside.hyper_parameters.items():
        values.setdefault(name, one.default)
    return inside._terms(index, values, plan, group)


# ---- the adapter ----


class Adapter(torch.optim.Optimizer):  # type: ignore[misc]
    """What all of them have in common: not to be used itself."""

    _rule: ClassVar[type[Optimizer]]  # of fastopt's
    _inside_class: ClassVar[type[Optimizer]]  # the same with torch's groups
    _counted: ClassVar[bool]  # whether the state of a tensor has its number of updates, "step"

    param_groups: list[Group]
    # None of these is in pickles and copies, which have torch's attributes: groups and state say it all.
    _inside: Any
    _tensors: Tensors
    _members: list[Tensor]  # in the order of the plan,
    _axes: list[tuple[int, ...]]  # and how they lie
    _homes: list[Group]  # the groups that the plan was made for
    _book: Any  # the dict of state that users have been shown last,
    _known: dict[int, tuple[Any, dict[str, Tensor]]]  # and what there is in it: entry and views by id of the tensor
    _unshown: bool  # there is state that is not in it
    _watched: bool  # somebody may hold it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._begin()
        super().__init__(*args, **kwargs)
        # Fused steps of torch's unscale gradients themselves; here `GradScaler` does.
        self.__dict__.pop("_step_supports_amp_scaling", None)

    def _begin(self) -> None:
        """Have an optimizer inside, with nothing in it."""
        inside: Any = self._inside_class.__new__(self._inside_class)
        inside._options = {
            name: one.default for name, one in inside._declared.items() if name not in inside.hyper_parameters
        }
        inside._lock, inside._captured, inside._grad_norm, inside.param_groups = Lock(), None, None, []
        inside._plan = inside._plan_of(Tree([]))
        self._inside, self._members, self._axes, self._homes = inside, [], [], []
        self._tensors = Tensors(inside._plan, inside, EXCHANGE, [], [], [], [])
        self._book, self._known, self._unshown, self._watched = None, {}, False, False

    # ---- steps ----

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by their gradients.

        Parameters
        ----------
        closure : callable, optional
            Computes the gradients and returns the loss, which is returned.

        Raises
        ------
        TypeError, ValueError
            If a gradient is of another type than its parameter, not in the CPU's memory, overlaps parameters or state,
            or is sparse in another way than by rows; or if a group has a value that is out of range. Nothing has been
            written then.
        """
        if torch.compiler.is_compiling():
            return self._uncompiled_step(closure)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _before_all
            or _after_all
            or _profiling()
        ):
            return self._labelled_step(closure)
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # or torch would have each step labelled

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            news = self._tensors.step(self.__dict__)
        except Changed:
            self._arrange()
            news = self._tensors.step(self.__dict__)
        if news:
            self._unshown = True
            if self._watched:
                self._show()
        return loss

    _labelled_step = torch.optim.Optimizer.profile_hook_step(_step)
    _uncompiled_step = torch._disable_dynamo(_labelled_step)  # which breaks the graph; NumPy inside stays NumPy

    def lookahead(self) -> Any:
        """Return a context in which gradients are to be computed; with most optimizers it does nothing.

        `NAG` holds looked-ahead parameters inside it, and needs one before each step.
        """
        return self._within(self._inside.lookahead)

    def averaged(self) -> Any:
        """Return a context that holds averages in the parameters, for optimizers that keep one."""
        return self._within(self._inside.averaged)

    @contextmanager
    def _within(self, context: Callable[[], Any]) -> Iterator[None]:
        """A context of the optimizer inside, which autograd is told of."""
        try:
            self._tensors.check_all(self.__dict__)
        except Changed:
            self._arrange()
        try:
            with context():
                CHANGED(self._members)
                yield
        finally:
            CHANGED(self._members)

    # ---- groups ----

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters; those that are there keep their state."""
        super().add_param_group(param_group)
        try:
            self._check_added()
        except BaseException:
            self.param_groups.pop()
            raise

    def _check_added(self) -> None:
        """Raise if the last group has what cannot be updated in place, or a value out of range."""
        index = len(self.param_groups) - 1
        places = []
        for group in range(index + 1):
            for name, tensor in _named(self.param_groups[group]):
                shown = f"params[{group}]['params'][{name!r}]"
                if group == index:
                    _checked_axes(tensor, shown, self._rule)
                if tensor.numel():
                    places.append((_address(tensor), _address(tensor) + tensor.numel() * tensor.element_size(), shown))
        places.sort()
        for (_, end, shown), (begin, _, other) in pairwise(places):
            if begin < end:
                raise ValueError(f"{other} overlaps the memory of {shown}: each parameter must have memory of its own")
        _terms(self._inside, index, self.param_groups[index], self._inside._plan)

    # ---- state ----

    @property
    def state(self) -> Any:
        """The state of each parameter that has some: views of the optimizer's own memory."""
        found = self.__dict__["state"]
        self._watched = True
        if self._unshown and found is self._book:
            self._show()
        return found

    @state.setter
    def state(self, state: Any) -> None:
        self.__dict__["state"] = state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_inside" not in self.__dict__:
            self._begin()
        super().__setstate__(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state dict, of this class or of torch's."""
        before = self.__dict__["state"], self.param_groups
        try:
            super().load_state_dict(state_dict)
            self._sharpen(state_dict)
            self._arrange()
        except BaseException:
            self.__dict__["state"], self.param_groups = before
            raise

    def _sharpen(self, state_dict: dict[str, Any]) -> None:
        """Load the class's own numbers as they are: torch has brought them to the type of the parameters."""
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        tensors = [tensor for group in self.param_groups for tensor in group["params"]]
        for key, tensor in zip(saved, tensors, strict=True):
            entry, loaded = state_dict["state"].get(key), self.__dict__["state"].get(tensor)
            for name in (*self._rule.numbers, *self._rule.group_numbers, ROW_STEPS):
                if isinstance(entry, dict) and loaded and isinstance(entry.get(name), Tensor):
                    loaded[name] = entry[name].clone()

    def _known_keys(self) -> list[str]:
        """What an entry of state may have, in the order in which it is shown."""
        rule = self._rule
        return [*["step"] * self._counted, *rule.numbers, *rule.group_numbers, *rule.slots.values(), ROW_STEPS]

    def _views(self, leaf: int) -> dict[str, Tensor]:
        """The state of a tensor in the plan, as users see it."""
        plan, rule = self._inside._plan, self._rule
        found = {"step": torch.from_numpy(self._tensors.counts)[leaf]} if self._counted else {}
        for k, name in enumerate(rule.numbers):
            found[name] = torch.from_numpy(plan.numbers[k])[leaf]
        for k, name in enumerate(rule.group_numbers):
            found[name] = torch.from_numpy(plan.group_numbers[k])[plan.tree.groups[leaf]]
        unused = not self._counted and plan.fresh[leaf]  # where no state at all is how torch says so
        for slot, name in rule.slots.items():
            if slot in plan.states[leaf] and not unused:
                found[name] = _tensor(plan.states[leaf][slot], self._axes[leaf])
        table = plan.tables[leaf]
        if table is not None:
            found[ROW_STEPS] = torch.from_numpy(table.counts)
        return found

    def _show(self) -> None:
        """Put into the dict of state what there is."""
        plan, book = self._inside._plan, self.__dict__["state"]
        for leaf, (tensor, count, fresh) in enumerate(zip(self._members, plan.counts, plan.fresh, strict=True)):
            if count or not fresh:
                views = self._views(leaf)
                known = self._known.get(id(tensor))
                if views and (known is None or known[1].keys() != views.keys()):
                    entry = book.setdefault(tensor, {})
                    entry.update(views)
                    self._known[id(tensor)] = entry, views
        nothing: tuple[Any, dict[str, Tensor]] = (None, {})
        record = []
        for key, entry in book.items():
            views = self._known.get(id(key), nothing)[1]
            record.append((key, entry, tuple(views), tuple(views.values())))
        self._tensors.known(book, record)
        self._book, self._unshown = book, False

    # ---- a plan that fits ----

    def _arrange(self) -> None:
        """Make a plan that fits tensors, groups and state as they are now, and goes on where the old one was."""
        inside, old = self._inside, self._inside._plan
        old.check_ready()
        groups, book = self.param_groups, self.__dict__["state"]
        tensors = [list(group["params"]) for group in groups]
        was = {id(tensor): leaf for leaf, tensor in enumerate(self._members)}
        if book is self._book and was.keys() - {id(tensor) for group in tensors for tensor in group}:
            self._show()  # what leaves the groups has its state there, should it come back

        trees, leaves, axes, origins = [], [], [], []
        members: list[Tensor] = []
        entries: dict[int, Any] = {}  # of each leaf whose state is no more what it was in the plan: what it is
        unused: set[int] = set()  # those of which no update has used theirs
        fresh = old.fresh
        for index, group in enumerate(groups):
            arrays: dict[Any, Any] = {}
            for name, tensor in _named(group):
                origin, entry = was.get(id(tensor), -1), book.get(tensor)
                touched = self._touched(tensor, entry)
                if origin < 0 and tensor.grad is None and not (touched and entry):
                    leaves.append(-1)
                    continue
                leaf = len(members)
                order = _checked_axes(tensor, f"params[{index}]['params'][{name!r}]", self._rule)
                array = arrays[name] = _array(tensor, order)
                if touched:
                    entries[leaf], origin = entry or {}, -1
                elif origin >= 0 and (old.specs[origin], self._axes[origin]) != ((array.dtype, array.shape), order):
                    if fresh[origin]:
                        unused.add(leaf)
                    entries[leaf], origin = self._views(origin), -1  # it has another type or memory order now
                elif origin >= 0:
                    self._tensors.look_at_count(origin)
                members.append(tensor)
                axes.append(order)
                origins.append(origin)
                leaves.append(leaf)
            trees.append({"params": arrays})
        tree = Tree(trees)
        tree.gradient_names = [f"{name}.grad" for name in tree.names]
        plan = inside._plan_of(tree)
        carry(old, plan, origins)
        for index, group in enumerate(groups):
            home = next((k for k, before in enumerate(self._homes) if before is group), index)
            if home < len(self._homes):
                plan.group_numbers[:, index] = old.group_numbers[:, home]
        if entries:
            self._take_over(plan, members, axes, entries, unused)

        inside._plan, inside.param_groups, self._homes = plan, groups, list(groups)
        self._members, self._axes = members, axes
        exchange = BY_VIEWS if self._rule.in_numpy else EXCHANGE
        self._tensors = Tensors(plan, inside, exchange, groups, tensors, leaves, axes)
        shown = {id(tensor) for tensor in members if book.get(tensor)}
        self._known = {}
        if shown or self._watched:
            self._show()
        else:
            self._tensors.known(book, [(key, entry, (), ()) for key, entry in book.items()])
            self._book, self._unshown = book, True

    def _touched(self, tensor: Tensor, entry: Any) -> bool:
        """Whether the state of a tensor has been written to by others than steps, in place of its views."""
        known = self._known.get(id(tensor))
        if known is None:  # it was never shown
            return self.__dict__["state"] is not self._book or bool(entry and {*self._known_keys()} & entry.keys())
        return entry is not known[0] or any(entry.get(name) is not view for name, view in known[1].items())

    def _take_over(
        self,
        plan: Plan,
        members: list[Tensor],
        axes: list[tuple[int, ...]],
        entries: Mapping[int, Any],
        unused: set[int],
    ) -> None:
        """Give leaves of a plan the state that is in these entries."""
        inside, rule, tree = self._inside, self._rule, plan.tree
        needed = []
        for index, group in enumerate(self.param_groups):
            needed.append({*inside._slots_of(_terms(inside, index, group, plan).rule)})
        slots = list(map(set, needed))
        states = [{slot: array.copy() for slot, array in arrays.items()} for arrays in plan.states]
        counts, fresh, numbers = plan.counts, plan.fresh, (plan.numbers.copy(), plan.group_numbers.copy())
        rows = [None if of_rows is None else of_rows.copy() for of_rows in plan.row_counts]
        for leaf, entry in entries.items():
            shown, home = f"the state of {plan.names[leaf]}", tree.groups[leaf]
            if not isinstance(entry, Mapping):
                raise TypeError(f"{shown} is {type(entry).__name__}: wanted a dict")
            states[leaf] = {}
            for slot, name in rule.slots.items():
                if entry.get(name) is not None:
                    shape = rule.state_shape(slot, plan.arrays[leaf].shape)
                    states[leaf][slot] = _copied(f"{shown}[{name!r}]", entry[name], members[leaf], axes[leaf], shape)
            if states[leaf] and self._counted and "step" not in entry:
                raise ValueError(f"{shown} lacks 'step', its number of updates")
            updates = entry.get("step", 0) if self._counted else int(bool(states[leaf]))  # of those, at least one
            counts[leaf] = hyper.whole(f"{shown}['step']", int(_number(f"{shown}['step']", updates)))
            fresh[leaf] = leaf in unused or not states[leaf].keys() >= needed[home]
            slots[home] |= states[leaf].keys()
            rows[leaf] = None
            if entry.get(ROW_STEPS) is not None:
                rows[leaf] = _counts_of_rows(f"{shown}[{ROW_STEPS!r}]", entry[ROW_STEPS], members[leaf])
            for k, (name, start) in enumerate(rule.numbers.items()):
                numbers[0][k, leaf] = _number(f"{shown}[{name!r}]", entry.get(name, start))
            for k, (name, start) in enumerate(rule.group_numbers.items()):
                beside = [entries.get(other) for other, index in enumerate(tree.groups) if index == home]
                kept = any(one is None or (isinstance(one, Mapping) and name in one) for one in beside)
                if name in entry or not kept:
                    numbers[1][k, home] = _number(f"{shown}[{name!r}]", entry.get(name, start))
        for leaf, home in enumerate(tree.groups):  # also of a tensor that has its first gradient now, beside these
            fresh[leaf] = fresh[leaf] or lacks(states[leaf], slots[home], rule, plan.arrays[leaf])
        order = in_order(plan, slots)
        restore(plan, order, None, states, counts, rows, fresh, plan.steps, plan.skipped, numbers, [], False)


def _named(group: Group) -> Iterator[tuple[Any, Tensor]]:
    """The tensors of a group by their names, or by their numbers where these are not given or not unique."""
    names = group.get("param_names")
    if names is None or len({*names}) != len(group["params"]):
        names = range(len(group["params"]))
    return zip(names, group["params"], strict=True)


def _checked_axes(tensor: Any, shown: str, rule: type[Optimizer]) -> tuple[int, ...]:
    """Return the order that a parameter's axes are to be brought in, or say why it cannot be updated in place."""
    reason = _reason(tensor)
    if reason is not None:
        raise TypeError(f"{shown} {reason}")
    axes = _axes(tensor)
    if axes is None or tensor.is_neg():
        raise ValueError(
            f"{shown} of shape {tuple(tensor.shape)} and strides {tensor.stride()} does not fill its memory, or does "
            "so more than once: a parameter must be dense, in any order of its axes; use .clone()"
        )
    if rule.keeps_axes and axes != tuple(range(tensor.ndim)):  # rows are to be rows
        if tensor.ndim > 2:
            raise ValueError(
                f"{shown} of shape {tuple(tensor.shape)} has strides {tensor.stride()}: {rule.__name__} wants "
                "tensors of more than two axes in the usual memory order; use .contiguous()"
            )
        return (0, 1)
    return axes


def _copied(shown: str, value: Any, like: Tensor, axes: tuple[int, ...], shape: tuple[int, ...] | None) -> Any:
    """A copy of a tensor of state, as an array of this shape in the order of its parameter."""
    if shape is None:
        raise ValueError(f"{shown} is not there for a tensor of shape {tuple(like.shape)}")
    wanted = tuple(shape[axis] for axis in np.argsort(axes))  # before its axes are brought in their order
    if not isinstance(value, Tensor) or tuple(value.shape) != wanted:
        what = f"has shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"is {type(value).__name__}"
        raise ValueError(f"{shown} {what}: wanted a tensor of shape {wanted}")
    return np.array(_array(value.to(like), axes), order="C" if _array(like, axes).flags.c_contiguous else "F")


def _counts_of_rows(shown: str, value: Any, like: Tensor) -> Any:
    """A copy of a tensor of rows' counts, as an array."""
    if not isinstance(value, Tensor) or value.dtype is not torch.int64 or value.shape != like.shape[:1]:
        what = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{shown} is {what}: wanted torch.int64 of shape {tuple(like.shape[:1])}")
    if not like.is_contiguous() or like.ndim == 0:
        raise ValueError(f"{shown} is there, and its parameter is not contiguous")
    return np.array(value.detach().cpu().numpy())


def _number(shown: str, value: Any) -> float:
    """A number of state, which torch has as a tensor."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{shown} is {value!r}: wanted a finite number")
    return value


def _signature(rule: type[Optimizer]) -> inspect.Signature:
    """The arguments of one that torch has not: its hyper-parameters, with their own defaults."""
    given = inspect.signature(rule).parameters
    return inspect.Signature([one for name, one in given.items() if name == "params" or name in rule.hyper_parameters])


def _made(name: str, rule: type[Optimizer]) -> type[Adapter]:
    """The adapter of one optimizer: torch's class with another step, or one of its own where torch has none."""
    theirs = getattr(torch.optim, name, None)
    if theirs is not None:
        signature = inspect.signature(theirs)
        taken = {_OURS.get(key, key) for key in signature.parameters} - {"params", "foreach", "fused", *_REFUSED}
        if not taken <= rule.hyper_parameters.keys():
            theirs = None  # it has another meaning there
    if theirs is None:
        signature = _signature(rule)
        taken = {*rule.hyper_parameters}

        def __init__(self: Adapter, params: Any, *args: Any, **given: Any) -> None:  # noqa: N807
            for key in given:
                if key not in signature.parameters:
                    raise TypeError(rule._unknown("hyper-parameter", key))
            bound = signature.bind(params, *args, **given)
            bound.apply_defaults()
            Adapter.__init__(self, params, {key: x for key, x in bound.arguments.items() if key != "params"})

        more: dict[str, Any] = {"__init__": __init__}
    else:
        more = {}
    inside = type(name, (_Inside, rule), {"__slots__": (), "_taken": frozenset(taken)})
    return type(
        name,
        (Adapter,) if theirs is None else (Adapter, theirs),
        {
            "__doc__": f"`fastopt.{name}` as an optimizer of torch's; see there for the formula.",
            "__module__": __name__,
            "__signature__": signature,
            "_rule": rule,
            "_inside_class": inside,
            "_counted": name not in ("SGD", "Muon"),  # of which torch does not count updates
            **more,
        },
    )


globals().update({name: _made(name, rule) for name, rule in ADAPTED.items()})
