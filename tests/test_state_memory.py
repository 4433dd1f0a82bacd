"""State in memory of the user's: in files, or wherever a function says."""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import re

import numpy as np
import pytest
from optimizers_table import KINDS, chosen, stepped

import fastopt
from fastopt import memory
from fastopt.optimizers import OPTIMIZERS

SHAPES = [(), (5,), (70, 300), (0, 3), (4097,)]


def some(seed, order="C"):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape), np.float32, order=order) for shape in SHAPES]


def bits(opt):
    return [x.tobytes(order="A") for x in (*opt.params, *(x for entry in opt.state.values() for x in entry.values()))]


def filled(name, slot, shape, dtype, order):
    """Memory that does not hold zeros."""
    return np.full(shape, np.nan, dtype, order)


CLASSES = chosen({**KINDS, "Adafactor": fastopt.Adafactor, "Adagrad": fastopt.Adagrad}, OPTIMIZERS)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", CLASSES)
def test_steps_have_the_same_bits_wherever_state_lies(name, order, tmp_path):
    places = [None, memory.files(tmp_path), filled]
    made = [CLASSES[name](some(0, order), ema_decay=None, state_memory=place) for place in places]
    for k in range(3):
        for opt in made:
            assert stepped(opt, some(1 + k))
    assert bits(made[0]) == bits(made[1]) == bits(made[2])
    assert not any(tmp_path.iterdir())  # the files have no names


def test_it_is_asked_for_each_array_by_its_name():
    asked = []

    def place(*given):
        asked.append(given)
        return filled(*given)

    opt = fastopt.Adam({"w": np.zeros((2, 3), order="F"), "b": np.zeros(2, "f")}, state_memory=place, ema_decay=0.5)
    opt.step({"w": np.ones((2, 3)), "b": np.ones(2, "f")})
    w = ("params['w']", (2, 3), np.float64, "F")
    b = ("params['b']", (2,), np.float32, "C")
    wanted = [(name, slot, *rest) for slot in ("exp_avg", "exp_avg_sq", "ema") for name, *rest in (w, b)]
    assert asked == wanted
    opt.ema_decay = None
    opt.amsgrad = True
    opt.step({"w": np.ones((2, 3)), "b": np.ones(2, "f")})
    assert [given[1] for given in asked[6:]] == ["max_exp_avg_sq"] * 2


def test_state_in_files_is_in_files_also_after_a_load_and_a_bind(tmp_path):
    opt = fastopt.Adam(some(0), state_memory=memory.files(tmp_path))
    opt.step(some(1))
    opt.save(tmp_path / "saved")
    other = fastopt.Adam(some(2), state_memory=memory.files(tmp_path))
    other.load(tmp_path / "saved")
    third = fastopt.Adam(some(2), state_memory=memory.files(tmp_path))
    third.load(tmp_path / "saved", in_place=True)
    bound = pickle.loads(pickle.dumps(opt)).bind([p.copy() for p in opt.params])
    for one in (opt, other, third, bound):
        one.step(some(3))
        assert bits(one) == bits(opt)
        assert all(memory.is_mapped(x) for entry in one.state.values() for x in entry.values() if x.size)
    assert bound.state_memory == memory.files(tmp_path)


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        (lambda *given: [0.0], TypeError, r"state_memory gave for 'exp_avg' of params a list of 1: wanted an array"),
        (lambda *given: np.zeros(3), ValueError, r"an array float64 \(3,\): wanted float32 \(4,\)"),
        (lambda *given: np.zeros(4), ValueError, r"an array float64 \(4,\): wanted float32 \(4,\)"),
        (lambda *given: np.zeros(8, "f")[::2], ValueError, "is not writable, aligned and contiguous in order 'C'"),
        (lambda *given: np.frombuffer(bytes(16), "f"), ValueError, "is not writable, aligned and contiguous"),
        (lambda *given: np.zeros(17, "u1")[1:].view("f"), ValueError, "is not writable, aligned and contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(place, error, message):
    p = np.ones(4, np.float32)
    with pytest.raises(error, match=message):
        fastopt.Adam(p, state_memory=place)


def test_memory_that_overlaps_is_refused():
    p, room = np.ones(4, np.float32), np.zeros(4, np.float32)
    message = "state_memory gave an array that overlaps a parameter or other state"
    for place in (lambda *given: p, lambda *given: room):
        with pytest.raises(ValueError, match=message):
            fastopt.Adam(p, state_memory=place)
    with pytest.raises(TypeError, match="state_memory is 3, a int: wanted a function that makes arrays, or None"):
        fastopt.Adam(p, state_memory=3)


def test_maps_of_the_same_bytes_of_a_file_are_refused(tmp_path):
    (tmp_path / "room").write_bytes(bytes(4 * 4096))
    with open(tmp_path / "room", "r+b") as file:
        maps = [mmap.mmap(file.fileno(), 0) for _ in range(2)]
    rooms = [np.frombuffer(one, np.float32) for one in maps]
    with pytest.raises(ValueError, match="overlaps a parameter or other state"):
        fastopt.Adam(np.ones(4096, np.float32), state_memory=lambda *given: rooms.pop())


def test_an_array_that_says_so_is_taken_to_hold_zeros():
    class Zeros(np.ndarray):
        is_zero = True

    opt = fastopt.SGD(np.zeros(3), lr=1.0, momentum=0.5, state_memory=lambda *given: np.full(3, 8.0).view(Zeros))
    opt.step(np.ones(3))
    assert (opt.state["params"]["momentum_buffer"] == 5).all()
    assert type(opt.state["params"]["momentum_buffer"]) is np.ndarray


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(memory, "_allocate", full)
    p = np.ones((10, 100), np.float32)
    wanted = re.escape(f"No space left on device: 'exp_avg' of params needs 4,000 bytes: {str(tmp_path)!r}")
    with pytest.raises(OSError, match=wanted):
        fastopt.Adam(p, state_memory=memory.files(tmp_path))
    with pytest.raises(NotADirectoryError, match="there is no such folder"):
        memory.files(tmp_path / "none")


def test_space_is_taken_at_once(tmp_path, monkeypatch):
    taken = []
    if hasattr(os, "posix_fallocate"):
        monkeypatch.setattr(os, "posix_fallocate", lambda *given: taken.append(given[1:]))
        with pytest.raises((ValueError, OSError)):  # the file has no bytes to be mapped
            memory.files(tmp_path)("p", "m", (3, 5), np.float64, "C")
        assert taken == [(0, 120)]
        monkeypatch.delattr(os, "posix_fallocate")
    array = memory.files(tmp_path)("p", "m", (3, 5), np.float64, "C")  # where the system has no such call
    assert array.shape == (3, 5)
    assert not array.any()


def test_a_forked_child_has_state_of_its_own_once_it_is_bound(tmp_path):
    opt = fastopt.Adam(some(0), state_memory=memory.files(tmp_path))
    opt.step(some(1))
    child = os.fork()
    if child == 0:
        try:
            with pytest.raises(RuntimeError, match="its parent may share the memory of the state"):
                opt.step(some(2))
            opt.bind(opt.params)
            opt.step(some(2))
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    plain = fastopt.Adam(some(0))
    for seed in (1, 2):
        plain.step(some(seed))
    opt.step(some(2))
    assert bits(opt) == bits(plain)
