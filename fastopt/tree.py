"""Trees: parameters and gradients as an array, or lists, tuples and dicts of them, nested.

`Tree` remembers the structure of the parameters and takes gradients of the same structure apart in the same order.
What an array is, it leaves to the engine: here a leaf is whatever is not a list, tuple or dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["Tree", "described"]

_LEAF = None  # survives pickling, unlike a marker object


def _shape_of(x: Any) -> Any:
    """The structure of a tree: nested tuples and dicts with a marker for each leaf."""
    if isinstance(x, dict):
        return {key: _shape_of(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return tuple(_shape_of(value) for value in x)
    return _LEAF


def _leaves(x: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Name and value of each leaf, in order."""
    if isinstance(x, dict):
        for key, value in x.items():
            yield from _leaves(value, f"{name}[{key!r}]")
    elif isinstance(x, (list, tuple)):
        for i, value in enumerate(x):
            yield from _leaves(value, f"{name}[{i}]")
    else:
        yield name, x


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


def _take_apart(x: Any, shape: Any, path: Any, found: list[Any]) -> None:
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
            raise ValueError(f"{_name(path)} is {described(x)}: wanted a list of {len(shape)}")
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
    grouped : bool
        Whether `params` was a list of groups.
    names, gradient_names : list of str
        Each leaf as the user would write it, among the parameters and among the gradients.
    leaves : list
        The leaves, in order.
    parts : list
        The tree of each group.
    groups : list of int
        The group of each leaf, from 0 to ``n_groups - 1``.
    single, flat : bool
        Whether the tree is one array, or a flat list of arrays.

    Raises
    ------
    ValueError
        If two leaves have the same name.
    """

    def __init__(self, params: Any) -> None:
        self.grouped = (
            isinstance(params, (list, tuple))
            and len(params) > 0
            and all(isinstance(group, dict) and "params" in group for group in params)
        )
        self.parts = trees = [group["params"] for group in params] if self.grouped else [params]
        self.names: list[str] = []
        self.gradient_names: list[str] = []
        self.leaves: list[Any] = []
        self.groups: list[int] = []
        seen: set[str] = set()
        for index, tree in enumerate(trees):
            root = f"params[{index}]['params']" if self.grouped else "params"
            gradient_root = f"grads[{index}]" if self.grouped else "grads"
            for name, leaf in _leaves(tree, ""):
                if root + name in seen:
                    raise ValueError(
                        f"params has two parameters {root + name}: keys of a dict must differ in their repr"
                    )
                seen.add(root + name)
                self.names.append(root + name)
                self.gradient_names.append(gradient_root + name)
                self.leaves.append(leaf)
                self.groups.append(index)
        self._shape = tuple(map(_shape_of, trees)) if self.grouped else _shape_of(params)
        self.n_groups = len(trees)
        # One array, or a flat list of them, need not be taken apart.
        self.single = self._shape is _LEAF
        self.flat = isinstance(self._shape, tuple) and all(part is _LEAF for part in self._shape)

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
        _take_apart(grads, self._shape, None, found)
        return found
