"""The papers' formulas in float64, unfolded, and the dialects that frameworks speak: peers are checked against them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.peers import Peer, Twin
from bench.runner import Unavailable
from bench.workloads import CASES, Case, Data

Array = np.ndarray[Any, np.dtype[np.float64]]

# In the order tried. The first is the formula of docs/classics.md; the note of a peer that speaks another is printed.
DIALECTS = {
    "paper": "",
    "eps-hat": "adds eps to the uncorrected square root (Kingma & Ba's 'epsilon hat')",
    "eps-inside": "adds eps inside the square root",
    "corrected-max": "takes AMSGrad's maximum after bias correction",
}
OTHER = "other"  # than fastopt's class, of which there is no formula here


def descend(case: Case, dialect: str, p: Array, gradients: Iterable[Array]) -> tuple[Array, Array]:
    """Where the rule takes p, and the length of the way there, element by element."""
    o = {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False, "centered": False, "amsgrad": False, **case.options}
    m, v, a, x, way = (np.zeros_like(p) for _ in range(5))
    for t, g in enumerate(gradients, start=1):
        if case.optimizer in ("SGD", "NAG"):  # with a constant lr, NAG's step is momentum's
            m = o["momentum"] * m + g
            change = g + o["momentum"] * m if o["nesterov"] else m
        elif case.optimizer == "RMSprop":
            v = o["alpha"] * v + (1 - o["alpha"]) * g**2
            a = o["alpha"] * a + (1 - o["alpha"]) * g
            u = np.maximum(v - a**2, 0) if o["centered"] else v
            m = o["momentum"] * m + g / _root(u, o["eps"], dialect)
            change = m
        else:
            (beta1, beta2), eps = o["betas"], o["eps"]
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g**2
            correction = 1 - beta2**t
            x = np.maximum(x, v / correction if dialect == "corrected-max" else v) if o["amsgrad"] else v
            u = x if dialect == "corrected-max" else x / correction
            eps = eps / np.sqrt(correction) if dialect == "eps-hat" else eps
            change = m / (1 - beta1**t) / _root(u, eps, dialect)
        change = o["lr"] * (change + o["weight_decay"] * p)  # decoupled; no other decay is measured
        p = p - change
        way = way + np.abs(change)
    return p, way


def _root(v: Array, eps: float, dialect: str) -> Array:
    return np.sqrt(v + eps) if dialect == "eps-inside" else np.sqrt(v) + eps


def twins(case: Case, start: list[Array], history: list[list[Array]]) -> list[tuple[Array, Array]]:
    """The same by the NumPy twin of the class, for all of its parameters."""
    data = Data([p.shape for p in start], "float64")
    for mine, p in zip(data.params, start, strict=True):
        mine[...] = p
    twin, ways = Twin(case, data), [np.zeros_like(p) for p in start]
    for grads in history:
        before = [p.copy() for p in data.params]
        data.renew(grads)
        twin.take()
        ways = [way + np.abs(p - old) for way, p, old in zip(ways, data.params, before, strict=True)]
    return list(zip(data.params, ways, strict=True))


# ---------------------------------------------------------------------------------------------------------------- check

STEPS = 5
# Relative error of the whole way, per element. float32: five updates of some ten roundings each, and numba's fastmath
# takes a reciprocal square root estimate with one Newton step, 22 bits. A wrong formula is off by 1e-3 and more.
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


@functools.cache
def check(peer: type[Peer], case: Case, dtype: str) -> str:
    """The dialect in which this peer computes this case; raises Unavailable where it is none, or the peer cannot run.

    Gradients change from step to step and span ten decades, so that eps and its place matter. A case that is no more
    than a class has no formula here: it is compared with the class's twin, in float64, and `OTHER` is an answer.
    """
    dtype = dtype if case.name in CASES else "float64"
    data = Data([(1,), (33, 5), (4099,)], dtype, case.state)
    rng = np.random.default_rng(1)
    start = [p.astype(np.float64) for p in data.params]
    scales = [10.0 ** rng.uniform(-9, 1, p.shape) for p in data.params]
    history = [[(s * rng.uniform(-1, 2, s.shape)).astype(dtype) for s in scales] for _ in range(STEPS)]
    contender = peer(case, data)
    for grads in history:
        data.renew(grads)
        contender.refresh()
        contender.take()
    worst = []
    tiny = np.finfo(np.float64).tiny
    for dialect in DIALECTS if case.name in CASES else ["paper"]:
        error = 0.0
        found = (
            twins(case, start, history)
            if case.name not in CASES
            else [
                descend(case, dialect, p, [grads[i].astype(np.float64) for grads in history])
                for i, p in enumerate(start)
            ]
        )
        for p, mine, (end, way) in zip(start, contender.values(), found, strict=True):
            rounding = STEPS * np.finfo(dtype).eps * np.abs(p)
            error = max(error, float(np.max((np.abs(mine - end) - rounding) / (way + tiny))))
        if error <= (TOLERANCE[dtype] if case.name in CASES else TOLERANCE["float32"]):  # torch keeps some in float32
            return dialect
        worst.append(error)
    if case.name not in CASES:
        return OTHER
    raise Unavailable(f"computes something else: off by {min(worst):.1e} of the way after {STEPS} steps")
