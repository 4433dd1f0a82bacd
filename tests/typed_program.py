"""A user's program, under mypy in strict mode by `make lint`; tests/test_types.py runs it.

A line with `type: ignore` is wrong: it is an error for the type checker, which would complain of the comment if it were
none, and it raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import fastopt
from fastopt import NAG, OPTIMIZERS, SGD, Adam, AdamW, Optimizer, RMSprop
from fastopt.schedules import CosineDecay, Schedule, Warmup

Array = npt.NDArray[np.float32]
w: Array = np.ones((3, 2), np.float32)
v = np.ones(4)


def right() -> None:
    """What users write."""
    layers: dict[str, list[Array]] = {"l1": [w.copy()], "l2": [w.copy()]}
    opt = Adam(layers, 1e-3, betas=(0.8, 0.99), clip_norm=1.0, nonfinite="skip", zero_grads=False)
    applied: bool = opt.step({"l1": [np.ones((3, 2), np.float32)], "l2": [None]})
    assert applied
    groups: list[dict[str, Any]] = [{"params": v.copy(), "lr": 0.1}, {"params": (w.copy(), v.copy())}]
    AdamW(groups, lr=CosineDecay(0.1, 10), weight_decay=0.1, decay_mask=lambda path, array: array.ndim > 1)
    RMSprop([v.copy()], lr=Warmup(3, 0.1), alpha=0.9, eps_inside_sqrt=True)
    NAG(v.copy(), lr=lambda t: 0.1 / math.sqrt(t + 1), momentum=1)
    SGD(v.copy(), 1, momentum=0.9, nesterov=True, maximize=True)
    schedule: Schedule = CosineDecay(0.1, 10)
    opt.lr = schedule
    opt.lr = opt.current_lr * 0.5
    opt.clip_norm = None
    opt.weight_decay = 0.25
    state: Array = opt.state["params['l1'][0]"]["exp_avg"]
    assert state.nbytes * 4 == opt.nbytes
    make: Callable[..., Optimizer] = fastopt.Adam
    make(v.copy())
    for cls in OPTIMIZERS.values():
        other = cls([v.copy()], lr=0.1, clip_norm=2.0)
        with other.lookahead():
            pass
        other.step([v])
    twin: Adam = Adam(v.copy()).bind(v)
    assert twin.params is v
    assert twin.betas[0] == 0.9


WRONG: list[Callable[[], object]] = [
    lambda: Adam("hello"),  # type: ignore[arg-type]
    lambda: Adam(3.0),  # type: ignore[arg-type]
    lambda: Adam(v, lr="fast"),  # type: ignore[arg-type]
    lambda: Adam(v, lr=None),  # type: ignore[arg-type]
    lambda: Adam(v, betas=0.9),  # type: ignore[arg-type]
    lambda: Adam(v, betas=(0.9, 0.99, 0.999)),  # type: ignore[arg-type]
    lambda: Adam(v, nonfinite="explode"),  # type: ignore[arg-type]
    lambda: Adam(v, zero_grads="yes"),  # type: ignore[arg-type]
    lambda: Adam(v, decay_mask=3),  # type: ignore[arg-type]
    lambda: Adam(v, learning_rate=0.1),  # type: ignore[call-arg]
    lambda: Adam(v, momentum=0.9),  # type: ignore[call-arg]
    lambda: Adam(v, 0.1, (0.9, 0.99)),  # type: ignore[call-arg, arg-type]
    lambda: Adam(),  # type: ignore[call-arg]
    lambda: AdamW(v, decoupled=False),  # type: ignore[call-arg]
    lambda: NAG(v, nesterov=True),  # type: ignore[call-arg]
    lambda: fastopt.Adamm(v),  # type: ignore[attr-defined]
]


def wrong_lr() -> None:
    """What is set is checked like what is given."""
    Adam(v).lr = "fast"  # type: ignore[assignment]


def wrong_name() -> None:
    """A name that is none."""
    Adam(v).learning_rate = 0.1  # type: ignore[attr-defined]


WRONG += [wrong_lr, wrong_name]
