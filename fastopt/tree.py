"""Trees: parameters and gradients as an array, or lists, tuples and dicts of them, nested.

`Tree` remembers the structure of the parameters and takes gradients of the same structure apart in the same order.
What an array is, it leaves to the engine: here a leaf is whatever is not a list, tuple or dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from numbers import Number, Real
from typing import Any

import numpy as np

__all__ = ["Tree", "described", "dotted"]

_LEAF = None  # survives pickling, unlike a marker object


def _shape_of(x: Any) -> Any:
    """The structure of a tree: nested tuples and dicts with a marker for each leaf."""
    if isinstance(x, dict):
        return {key: _shape_of(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return tuple(_shape_of(value) for value in x)
    return _LEAF


def _plain(key: Any) -> Any:
    """A key in the form in which it is named: equal ones that print differently (1, True, np.int64(1)) are one."""
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, bytes):
        return bytes(key)
    if isinstance(key, tuple):
        return tuple(map(_plain, key))
    if isinstance(key, (Number, np.bool_)):
        number: Any = key
        for kind in (int, float):
            with suppress(TypeError, ValueError, OverflowError):  # of complex numbers, NaN and infinity
                if kind(number) == key:
                    return kind(number)
    return key


def _is_setting(x: Any) -> bool:
    """Whether something is a hyper-parameter, which stands beside ``"params"`` in a group, and no array."""
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and all(isinstance(number, Real) for number in x)
    return isinstance(x, (Real, str)) or callable(x)


def _leaves(x: Any, path: tuple[Any, ...], root: str, around: tuple[int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Path and value of each leaf, in order; a path has the keys and indices that lead there."""
    if not isinstance(x, (dict, list, tuple)):
        yield path, x
        return
    if id(x) in around:
        raise ValueError(f"{_named(root, path)} is a {type(x).__name__} that holds itself: wanted a tree of arrays")
    for key, value in x.items() if isinstance(x, dict) else enumerate(x):
        if isinstance(x, dict) and "params" in x and _is_setting(value):
            raise ValueError(
                f"{_named(root, path)} has 'params' and {key!r}, as a group has: wanted a list of groups, "
                "[{'params': …}, …], and only groups in it"
            )
        yield from _leaves(value, (*path, key), root, (*around, id(x)))


def _named(root: str, path: tuple[Any, ...]) -> str:
    """A place as the user would write it."""
    return root + "".join(f"[{_plain(key)!r}]" for key in path)


def dotted(path: tuple[Any, ...]) -> str:
    """The keys and indices of a path with dots between."""
    return ".".join(str(_plain(key)) for key in path)


def described(x: Any) -> str:
    """What came where another structure was wanted, for an error message."""
    if isinstance(x, dict):
        return f"a dict with keys {list(x)}"
    if isinstance(x, (list, tuple)):
        return f"a {type(x).__name__} of {len(x)}"
    return type(x).__name__


def _name(path: Any) -> str:
    """A place among the gradients as the user would write it; a path is (path of the container, key)."""
    return "grads" if path is None else f"{_name(path[0])}[{path[1]!r}]"


def _take_apart(x: Any, shape: Any, path: Any, found: list[Any], grouped: bool = False) -> None:
    """Append the leaves of x, which must have the structure `shape`, in the order of `shape`."""
    if shape is _LEAF:
        if isinstance(x, (dict, list, tuple)):
            raise ValueError(f"{_name(path)} is {described(x)}: wanted one array")
        found.append(x)
        return
    if isinstance(shape, dict):
        if not isinstance(x, dict):
            raise ValueError(f"{_name(path)} is {described(x)}: wanted a dict with keys {list(shape)}")
        if x.keys() != shape.keys():
            lacks = [f"lacks {key!r}" for key in shape if key not in x]
            wrong = lacks + [f"has {key!r}" for key in x if key not in shape]
            raise ValueError(f"{_name(path)} {' and '.join(wrong)}: wanted a dict with keys {list(shape)}")
        parts: Iterable[tuple[Any, Any]] = shape.items()
    else:
        if not isinstance(x, (list, tuple)) or len(x) != len(shape):
            each = ", one entry for each group" if grouped else ""
            raise ValueError(f"{_name(path)} is {described(x)}: wanted a list of {len(shape)}{each}")
        parts = enumerate(shape)
    for key, part in parts:
        _take_apart(x[key], part, (path, key), found)


class Tree:
    """The structure of an optimizer's parameters.

    Parameters
    ----------
    params : array, list, tuple or dict
        One tree, or a list of groups: dicts that each have ``"params"``, a tree.

    Attributes
    ----------
    params : array, list, tuple or dict
        What was given.
    grouped : bool
        Whether it was a list of groups.
    names, gradient_names : list of str
        Each leaf as the user would write it, among the parameters and among the gradients.
    paths : list of tuple
        The group and the keys and indices that lead to each leaf.
    leaves : list
        The leaves, in order.
    parts : list
        The tree of each group.
    groups : list of int
        The group of each leaf, from 0 to ``n_groups - 1``.
    single, flat : bool
        Whether the tree is one array, or a flat list of arrays in the order of the leaves.
    order : list of int, optional
        The place of each leaf in the tree, where leaves are not in its order.

    Raises
    ------
    ValueError
        If two leaves have the same name, a container holds itself, or a group is not in a list of them.
    """

    def __init__(self, params: Any) -> None:
        self.params = params
        self.grouped = (
            isinstance(params, (list, tuple))
            and len(params) > 0
            and all(isinstance(group, dict) and "params" in group for group in params)
        )
        self.parts = trees = [group["params"] for group in params] if self.grouped else [params]
        self.names: list[str] = []
        self.gradient_names: list[str] = []
        self.paths: list[tuple[Any, ...]] = []
        self.leaves: list[Any] = []
        self.groups: list[int] = []
        seen: set[str] = set()
        for index, tree in enumerate(trees):
            root = f"params[{index}]['params']" if self.grouped else "params"
            gradient_root = f"grads[{index}]" if self.grouped else "grads"
            for path, leaf in _leaves(tree, (), root):
                name = _named(root, path)
                if name in seen:
                    raise ValueError(f"params has two parameters {name}: keys of a dict must differ in their repr")
                seen.add(name)
                self.names.append(name)
                self.gradient_names.append(_named(gradient_root, path))
                self.paths.append((index, *path))
                self.leaves.append(leaf)
                self.groups.append(index)
        self._shape = tuple(map(_shape_of, trees)) if self.grouped else _shape_of(params)
        self.n_groups = len(trees)
        # One array, or a flat list of them, need not be taken apart.
        self.single = self._shape is _LEAF
        self.flat = isinstance(self._shape, tuple) and all(part is _LEAF for part in self._shape)
        self.order: list[int] | None = None

    def arrange(self, groups: list[int], n_groups: int) -> None:
        """Have these groups, one number for each leaf: the leaves of a group come after each other."""
        order = sorted(range(len(groups)), key=groups.__getitem__)
        lists: tuple[list[Any], ...] = (self.names, self.gradient_names, self.paths, self.leaves)
        for listed in lists:
            listed[:] = [listed[k] for k in order]
        self.groups, self.n_groups = sorted(groups), n_groups
        self.parts = [
            [leaf for leaf, group in zip(self.leaves, self.groups, strict=True) if group == index]
            for index in range(n_groups)
        ]
        if order != list(range(len(order))):
            self.order, self.flat = order, False

    @cached_property
    def places(self) -> dict[Any, int]:
        """The place of each leaf by all names that it has: its name, its path with dots, its key; -1 for several."""
        found: dict[Any, int] = {}
        for leaf, path in enumerate(self.paths):
            for name in {dotted(path[1:]), path[-1] if len(path) == 2 else self.names[leaf]}:
                found[name] = -1 if name in found else leaf
        return found | {name: leaf for leaf, name in enumerate(self.names)}

    @property
    def structure(self) -> Any:
        """What two trees have in common where one can stand for the other."""
        return self.grouped, self._shape

    def take_apart(self, grads: Any) -> list[Any]:
        """Return the leaves of `grads` in the order of the parameters.

        Raises
        ------
        ValueError
            If `grads` has another structure than the parameters.
        """
        found: list[Any] = []
        _take_apart(grads, self._shape, None, found, self.grouped)
        return found
