"""Promises of docs/errors.md that no other test shows: how much memory there is, and what becomes of Inf and NaN."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from optimizers_table import CASES, stepped
from support import bits, rand

from fastopt import NAG, OPTIMIZERS, SGD, Adam, RMSprop
from fastopt.schedules import CosineDecay

ARRAYS = [
    (SGD, {}, 0),
    (SGD, {"momentum": 0.9}, 1),
    (SGD, {"momentum": 0.9, "nesterov": True}, 1),
    (NAG, {}, 2),
    (Adam, {}, 2),
    (Adam, {"amsgrad": True}, 3),
    (RMSprop, {}, 1),
    (RMSprop, {"centered": True}, 2),
    (RMSprop, {"momentum": 0.9}, 2),
    (RMSprop, {"centered": True, "momentum": 0.9}, 3),
]


@pytest.mark.parametrize(("cls", "options", "arrays"), ARRAYS)
def test_state_is_so_many_arrays_of_the_parameters_size(cls, options, arrays):
    opt = cls([np.ones((3, 5)), np.ones(7, np.float32)], **options)
    stepped(opt, [np.ones((3, 5)), np.ones(7, np.float32)])
    assert [len(state) for state in opt.state.values()] == [arrays, arrays]
    assert opt.nbytes == arrays * (3 * 5 * 8 + 7 * 4)


@pytest.mark.no_cover
@pytest.mark.parametrize("case", [case for case in CASES if not case.cls.in_numpy], ids=str)
def test_a_step_allocates_nothing_of_a_parameters_size(case):
    w, g = rand(400, 400, dtype="float32"), rand(800, 400, dtype="float32")[::2].T
    opt = case.make([w], nonfinite="skip")
    case.step(opt, [g])
    tracemalloc.start()  # which NumPy tells of its arrays
    try:
        case.step(opt, [g])
        assert tracemalloc.get_traced_memory()[1] < w.nbytes / 8
    finally:
        tracemalloc.stop()


def resident():
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_steps_allocate_nothing_that_grows(cls):
    params = [rand(5), rand(3, 70), rand(1, dtype="float32")]
    grads = [rand(5), rand(3, 70), rand(1, dtype="float32")]
    opt = cls(params, lr=CosineDecay(0.1, total=10**6), nonfinite="skip", clip_norm=1.0)

    def run(steps):
        for _ in range(steps):
            stepped(opt, grads)

    run(1100)  # scalars are asked for many steps at once
    before = resident()
    run(3000)
    assert resident() - before < 3000 * 64  # not even a short list a step, and in pages that Python has anyway
    tracemalloc.start()
    try:
        run(50)
        before = tracemalloc.get_traced_memory()[0]
        run(2000)
        # A byte a step would be 2000. The counts of steps, and what was asked for many of them, are new objects now.
        assert tracemalloc.get_traced_memory()[0] - before < 1500
    finally:
        tracemalloc.stop()


def test_an_infinite_norm_makes_the_inf_nan_and_all_else_zero():
    w, v = np.zeros(3), np.zeros(2)
    SGD([w, v], lr=1.0, clip_norm=1.0).step([np.array([1.0, np.inf, 2.0]), np.ones(2)])
    assert bits(np.isnan(w)) == bits(np.array([False, True, False]))
    assert (w[::2] == 0).all()
    assert (v == 0).all()


def test_a_norm_that_is_nan_makes_every_parameter_nan():
    w, v = np.zeros(3), np.zeros(2)
    SGD([w, v], lr=1.0, clip_norm=1.0).step([np.array([1.0, np.nan, 2.0]), np.ones(2)])
    assert np.isnan(w).all()
    assert np.isnan(v).all()


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_gradients_are_looked_at_as_they_come_and_the_update_may_still_overflow(nonfinite):
    w = np.zeros(2)
    opt = SGD(w, lr=1.0, nonfinite=nonfinite)
    assert opt.step(np.array([1e300, 1.0]), loss_scale=2.0**-100)
    assert (opt.steps, opt.skipped) == (1, 0)
    assert w.tolist() == [-np.inf, -(2.0**100)]


class Emptying:
    """A gradient that takes all out of its list when it is looked at."""

    def __init__(self, grads):
        self.grads, self.array = grads, np.ones(2)

    @property
    def __array_interface__(self):
        self.grads.clear()
        return self.array.__array_interface__


def test_gradients_that_change_while_they_are_read_are_a_runtime_error_and_change_nothing():
    w = [np.zeros(2), np.zeros(2)]
    opt = SGD(w)
    grads = []
    grads += [Emptying(grads), np.ones(2)]
    with pytest.raises(RuntimeError, match=r"^grads changed while it was read$"):
        opt.step(grads)
    assert [p.tolist() for p in w] == [[0, 0], [0, 0]]
    assert opt.steps == 0
