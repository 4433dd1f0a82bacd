"""Averages of parameters: `averaged()` shows them in place, and the old bits come back."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
from support import bits, leaves, rand, whole
from test_errors import says

from fastopt import ASGD, Adam, ScheduleFreeAdamW, ScheduleFreeSGD
from fastopt.engine.chunks import CHUNK

INSIDE = "the parameters hold averages: leave the `with opt.averaged():` block first"
CLASSES = {
    ASGD: {"lr": 0.1, "lambd": 0.1, "t0": 0.0},
    ScheduleFreeSGD: {"lr": 0.1, "momentum": 0.8},
    ScheduleFreeAdamW: {"lr": 0.1, "betas": (0.8, 0.9)},
}


def made(cls, dtype="float64"):
    w = {
        "a": rand(CHUNK + 3, seed=1, dtype=dtype),
        "f": np.asfortranarray(rand(7, 5, seed=2, dtype=dtype)),
        "idle": rand(4, seed=3, dtype=dtype),
        "e": np.zeros((0, 2), dtype),
        "s": np.array(1.5, dtype),
    }
    opt = cls(w, **CLASSES[cls])
    for t in range(3):
        opt.step(grads(w, t))
    return opt, w


def grads(w, t):
    return {key: None if key == "idle" else np.array(rand(*x.shape, seed=t), x.dtype) for key, x in w.items()}


def average(cls, opt, name, p):
    state = opt.state[f"params[{name!r}]"]
    if cls is ASGD:
        return state["ax"]
    beta = opt.momentum if cls is ScheduleFreeSGD else opt.betas[0]
    return p + p.dtype.type(1.0 - 1.0 / beta) * (state["z"] - p)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cls", CLASSES)
def test_inside_are_the_averages_and_outside_the_old_bits(cls, dtype):
    opt, w = made(cls, dtype)
    before = whole(opt, w)
    wanted = {key: bits(average(cls, opt, key, p)) for key, p in w.items() if key != "idle"}
    wanted["idle"] = bits(w["idle"])  # which has had no update
    with opt.averaged():
        assert {key: bits(p) for key, p in w.items()} == wanted
        w["a"][0] = 7.0  # is lost
    assert whole(opt, w) == before
    opt.step(grads(w, 9))
    assert whole(opt, w) != before


@pytest.mark.parametrize("cls", CLASSES)
def test_inside_nothing_is_stepped_saved_or_copied(cls, tmp_path):
    opt, w = made(cls)
    before = whole(opt, w)
    with opt.averaged():
        for refused in (
            lambda: opt.step(grads(w, 1)),
            lambda: opt.reference_step(grads(w, 1)),
            lambda: opt.save(tmp_path / "x"),
            opt.state_dict,
            opt.reset,
            lambda: copy.copy(opt),
            lambda: opt.averaged().__enter__(),
            lambda: opt.bind(copy.deepcopy(w)),
        ):
            with pytest.raises(RuntimeError, match=says(INSIDE)):
                refused()
    assert whole(opt, w) == before
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_comes_through_and_the_bits_come_back():
    opt, w = made(ASGD)
    before = whole(opt, w)

    def fail():
        with opt.averaged():
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert whole(opt, w) == before


def test_who_keeps_no_average_says_so():
    opt = Adam(np.ones(2))
    with pytest.raises(TypeError, match=r"^Adam keeps no average of its parameters: wanted ema_decay$"):
        opt.averaged()


def test_what_was_bound_elsewhere_meanwhile_is_not_exchanged():
    opt, w = made(ASGD)
    block = opt.averaged()
    opt.bind(copy.deepcopy(w))
    before = [bits(p) for p in leaves(w)]
    with pytest.raises(RuntimeError, match=r"call it again$"):
        block.__enter__()
    assert [bits(p) for p in leaves(w)] == before


def test_another_thread_waits_for_the_exchange_and_not_for_the_block():
    opt, w = made(ASGD)
    found = []
    with opt.averaged():

        def read():
            try:
                opt.state_dict()
            except RuntimeError as error:
                found.append(str(error))

        reading = threading.Thread(target=read)
        reading.start()
        reading.join(10)
    assert found == [INSIDE]
    assert opt.step(grads(w, 5))
