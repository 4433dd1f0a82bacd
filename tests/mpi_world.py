"""Parameters and gradients of many ranks, and what their sum is to be: for test_mpi.py and what it starts."""

from __future__ import annotations

import numpy as np
from support import leaves, mapped


def params(seed=0):
    """Leaves of 3, 1, 2, 0 and 1 chunks, of both types and both memory orders."""
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(50, 170)).astype(np.float32),
        "layers": [rng.normal(size=7), {"turned": np.asfortranarray(rng.normal(size=(70, 90)))}],
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(1.5),
    }


def grads(step, rank, none=()):
    """Gradients of one rank, some in another memory order than their parameter, and some None."""
    rng = np.random.default_rng([step, rank])
    found = {
        "w": rng.normal(size=(170, 50)).astype(np.float32).T,
        "layers": [rng.normal(size=14)[::2], {"turned": rng.normal(size=(70, 90))}],
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(rng.normal()),
    }
    return found | dict.fromkeys(none)


def added(parts, reduce="mean"):
    """The sum in the tree over ranks that the documentation promises, from its words."""
    if parts[0] is None:
        return None
    level = parts
    while len(level) > 1:
        pairs = [level[k : k + 2] for k in range(0, len(level), 2)]
        level = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return np.asarray(level[0] / len(parts) if reduce == "mean" else level[0], parts[0].dtype)


def total(*of_ranks, reduce="mean"):
    """One tree of gradients from those of all ranks."""
    return mapped(lambda *parts: added(list(parts), reduce), *of_ranks)


def arrays_of(tree):
    return [x for x in leaves(tree) if isinstance(x, np.ndarray)]


def bits(tree):
    return [x.tobytes() for x in arrays_of(tree)]


def exact(step, rank=0, count=1):
    """Whole numbers whose sum is the same for any number of ranks, and in any order."""
    rng = np.random.default_rng(step)
    whole = mapped(lambda p: rng.integers(-50, 50, p.shape).astype(p.dtype), params())
    return mapped(lambda g: g - g.dtype.type(count - 1) if rank == 0 else np.ones_like(g), whole)
