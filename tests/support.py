"""What several tests ask of an optimizer in the same words: one place to change where the words change."""

from __future__ import annotations

import ctypes
import warnings
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from fastopt.tree import _leaves, _named

SCRATCH = "lookahead_saved"  # holds what parameters were, where NAG looks ahead: no part of what an optimizer knows


def mapped(function, *trees):
    """The structure of the first tree with function(leaves) at its leaves."""
    first = trees[0]
    if isinstance(first, dict):
        return {key: mapped(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(mapped(function, *parts) for parts in zip(*trees, strict=True)))
    if isinstance(first, (list, tuple)):
        return type(first)(mapped(function, *parts) for parts in zip(*trees, strict=True))
    return function(*trees)


def leaves(tree):
    found = []
    mapped(found.append, tree)
    return found


def named(tree, root):
    """Name and value of each leaf."""
    return [(_named(root, path), leaf) for path, leaf in _leaves(tree, (), root)]


def looked_ahead(opt):
    """Look ahead and come back, as is to be done before each step of NAG; the optimizer."""
    with opt.lookahead():
        pass
    return opt


def bits(array):
    """An array's type, shape and elements in order; not where they lie."""
    return array.dtype.str, array.shape, array.tobytes()


def is_for(cls, params):
    """Whether a class is for all of these arrays."""
    with suppress(ValueError):
        for array in leaves(params):
            cls.check_parameter("", array)
        return True
    return False


def known(opt):
    """All that an optimizer knows, parameters not included: what is allowed to differ differs in this."""
    state = {name: {slot: bits(x) for slot, x in slots.items() if slot != SCRATCH} for name, slots in opt.state.items()}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in opt.param_groups]
    return state, opt.step_counts, opt.steps, opt.skipped, groups


def whole(opt, params):
    """All that steps depend on, to compare by ==."""
    return [bits(p) for p in leaves(params)], *known(opt)


def copied(tree):
    """The same tree of copies, in the same memory order."""
    return mapped(lambda x: None if x is None else np.array(x, order="K"), tree)


@contextmanager
def elsewhere(array, other):
    """Let an array have the memory of another one inside a block, as code in C could: NumPy itself has no way to."""
    data = ctypes.c_void_p.from_address(id(array) + object.__basicsize__)
    kept, data.value = data.value, other.ctypes.data
    try:
        yield
    finally:
        data.value = kept


def rand(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def in_place(array, name, value):
    """Set an attribute that NumPy would rather not have set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        setattr(array, name, value)


def is_torn(opt, *calls):
    """Whether the optimizer says that it is; then it refuses all that would make something of it."""
    try:
        opt.state_dict()
    except RuntimeError as error:
        if "torn" not in str(error):
            raise
    else:
        return False
    for call in calls:
        with pytest.raises(RuntimeError, match="torn"):
            call()
    return True
