"""Layouts: gradients however they lie in memory, parameters in either contiguous order and in no other."""

from __future__ import annotations

import numpy as np
import pytest
from optimizers_table import OF_KINDS, REALS, RECORDS

import fastopt
from fastopt.engine import chunks

SHAPES = [(7, 5), (3, 1, 4), (66, 130), (2, chunks.CHUNK + 3), (5000,), (2, 0, 3), ()]


def unaligned(g):
    """At an odd address."""
    memory = bytearray(g.nbytes + 1)
    view = np.ndarray(g.shape, g.dtype, memory, 1)
    view[...] = g
    return view


def strided(g):
    """Every second element of each axis, of an array that is NaN elsewhere."""
    memory = np.full([2 * n for n in g.shape], np.nan, g.dtype)
    view = memory[(*[slice(None, None, 2)] * g.ndim, ...)]
    view[...] = g
    return view


def reversed_axes(g):
    """Negative strides on all axes."""
    back = (*[slice(None, None, -1)] * g.ndim, ...)
    return g[back].copy()[back]


def transposed(g):
    """A transpose of what lies in C order."""
    return g.T.copy().T


def inner_swapped(g):
    """Neither in C order nor in Fortran order: the last two axes of three change places."""
    return np.swapaxes(np.swapaxes(g, 0, -1).copy(), 0, -1) if g.ndim else g.copy()


def broadcast(g):
    """The same for all rows: strides of 0; so the values are others than g's."""
    return np.broadcast_to(g[:1], g.shape) if g.size and g.ndim else g.copy()


def read_only(g):
    view = g.copy()
    view.flags.writeable = False
    return view


def in_fields(g):
    """A field of a structured array: the stride is no multiple of the size of an element."""
    memory = np.zeros(g.shape, np.dtype({"names": ["byte", "g"], "formats": ["u1", g.dtype], "offsets": [0, 1]}))
    memory["g"] = g
    return memory["g"]


def subclass(g):
    return g.copy().view(type("Sub", (np.ndarray,), {}))


def c_order(g):
    return g.copy(order="C")


def fortran_order(g):
    return g.copy(order="F")


LAYOUTS = [
    c_order,
    fortran_order,
    transposed,
    inner_swapped,
    strided,
    reversed_axes,
    broadcast,
    read_only,
    unaligned,
    in_fields,
    subclass,
    memoryview,
]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_a_gradient_is_its_values_however_it_lies_in_memory(layout, real, order, guarded):
    """Against gradients in the parameter's own order, through a rule that reads them once and one that sums them."""
    rng = np.random.default_rng(0)
    for record in (RECORDS[0], next(r for r in RECORDS if r.name == "AdamW")):
        for options in ({}, {"clip_norm": 0.5, "nonfinite": "raise"}):
            params = guarded.each([np.asarray(rng.normal(size=s).astype(real), order=order) for s in SHAPES])
            copies = [p.copy(order="K") for p in params]
            opt, other = record.make(params, **options), record.make(copies, **options)
            twins = [p.copy(order="K") for p in params]
            twin = record.make(twins, **options)
            for _ in range(2):
                grads = [layout(np.asarray(rng.normal(size=s)).astype(real)) for s in SHAPES]
                values = [np.array(g, order=order) for g in grads]
                opt.step(grads)
                other.step(values)
                twin.reference_step(grads)
                for p, copy, by_twin, g, value in zip(params, copies, twins, grads, values, strict=True):
                    assert p.tobytes() == copy.tobytes() == by_twin.tobytes()
                    assert np.asarray(g).tobytes() == value.tobytes(), "a gradient was written"


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("record", [record for record in OF_KINDS if not record.cls.keeps_axes], ids=str)
def test_a_transposed_pair_is_the_pair_transposed(record, real):
    """Parameter and gradient both transposed: the same values at the same places, and state in the same order."""
    rng = np.random.default_rng(1)
    p = rng.normal(size=(70, 90)).astype(real)
    q = p.copy()
    opt, other = record.make(p), record.make(q.T)
    for _ in range(2):
        g = rng.normal(size=p.shape).astype(real)
        record.step(opt, g)
        record.step(other, g.T)
    assert p.tobytes() == q.tobytes()
    for key, x in opt.state["params"].items():
        assert x.tobytes() == other.state["params"][key].T.tobytes()


@pytest.mark.parametrize("real", ["f4", "f8"])
@pytest.mark.parametrize("place", [0, 8, 16, 40])
def test_state_lies_in_cache_lines_as_its_parameter_does_if_it_is_not_small(place, real):
    """A kernel can begin at cache lines of all of them then."""
    sizes = 100_000, 8 * 1024, 4088  # bytes
    p = [np.zeros(size + 64, np.uint8) for size in sizes]
    p = [x[(place - x.ctypes.data) % 64 :][:nbytes].view(real) for x, nbytes in zip(p, sizes, strict=True)]
    opt = fastopt.Adam(p)
    opt.step([np.ones_like(x) for x in p])
    for x, state in zip(p, opt.state.values(), strict=True):
        wanted = place if x.size >= 1024 else 0
        assert [state[key].ctypes.data % 64 for key in ("exp_avg", "exp_avg_sq")] == [wanted, wanted]


@pytest.mark.parametrize("layout", [c_order, fortran_order, strided, reversed_axes, unaligned, in_fields])
def test_zeroing_zeroes_the_gradient_and_nothing_beside_it(layout):
    for shape in SHAPES:
        g = layout(np.ones(shape))
        owner = g
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        rest = np.isnan(owner).sum() if owner.dtype == g.dtype else 0  # what strided() puts between
        assert fastopt.SGD(np.zeros(shape), zero_grads=True).step(g)
        assert not g.any()
        assert owner.dtype != g.dtype or np.isnan(owner).sum() == rest


REJECTED = [
    (lambda p: p[::2], "not contiguous"),
    (lambda p: p[::-1], "not contiguous"),
    (lambda p: p.reshape(8, 8)[:, :5], "not contiguous"),
    (lambda p: np.swapaxes(p.reshape(4, 4, 4), 0, 1), "not contiguous"),
    (lambda p: np.broadcast_to(p, (3, 64)), "read-only"),
    (read_only, "read-only"),
    (unaligned, "not aligned"),
    (lambda p: p.astype(p.dtype.newbyteorder()), "byte-swapped"),
    (lambda p: [p, p], "same array"),
    (lambda p: [p[:40], p[39:]], "overlaps"),
    (lambda p: [p[:4], p.reshape(8, 8)], "overlaps"),
]


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize(("layout", "words"), REJECTED, ids=[f"{i} {words}" for i, (_, words) in enumerate(REJECTED)])
def test_a_parameter_that_cannot_be_updated_in_place_is_refused_and_left_alone(layout, words, real):
    memory = np.arange(64).astype(real)
    before = memory.tobytes()
    for record in RECORDS:
        with pytest.raises((TypeError, ValueError), match=words):
            record.make(layout(memory))
    assert memory.tobytes() == before


@pytest.mark.parametrize("overlap", [lambda p: p, lambda p: p[::-1], lambda p: np.broadcast_to(p[:1], p.shape)])
def test_a_gradient_that_overlaps_a_parameter_is_refused_and_nothing_is_written(overlap):
    p = [np.arange(1.0, 11.0), np.arange(1.0, 11.0)]
    opt = fastopt.SGD(p)
    for grads in ([np.ones(10), overlap(p[1])], [overlap(p[1]), np.ones(10)]):
        before = [x.tobytes() for x in p]
        with pytest.raises(ValueError, match=r"^grads\[\d\] overlaps the memory of params\[1\]"):
            opt.step(grads)
        assert [x.tobytes() for x in p] == before
    assert opt.steps == 0


def test_parameters_and_gradients_that_interleave_without_sharing_memory_are_fine():
    memory = np.zeros((10, 4))
    p, g = memory[:, 0].copy(), memory[:, 1]
    neighbours = np.zeros((2, 30))
    opt = fastopt.SGD([p, neighbours[0]], lr=1.0)
    g[...] = 2
    neighbours[1] = 3
    opt.step([g, neighbours[1]])
    assert (p == -2).all()
    assert (neighbours == [[-3] * 30, [3] * 30]).all()
