"""What a step does about gradients before it writes: Inf and NaN, clipping, loss scale; and zeroing them after it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from optimizers_table import KINDS, REALS, stepped
from test_errors import everything, says

from fastopt import NAG, SGD, Adam
from fastopt.engine import chunks, sweep
from fastopt.optimizers import OPTIMIZERS

CHUNK = chunks.CHUNK
BAD = [np.nan, np.inf, -np.inf]
STEPS = ["step", "reference_step"]

# ---- Inf and NaN ----

# words, a gradient that may be written to, an index for something bad
LAYOUTS = [
    ("no dimensions", lambda: np.ones(()), ()),
    ("the first element", lambda: np.ones(7), (0,)),
    ("the last element", lambda: np.ones(7), (6,)),
    ("the last element of a chunk", lambda: np.ones(3 * CHUNK), (2 * CHUNK - 1,)),
    ("the first element of a chunk", lambda: np.ones(3 * CHUNK), (CHUNK,)),
    ("the last element past a chunk", lambda: np.ones(2 * CHUNK + 1), (2 * CHUNK,)),
    ("several chunks, two axes", lambda: np.ones((97, 131)), (96, 2)),
    ("Fortran order", lambda: np.ones((97, 131), order="F"), (5, 130)),
    ("every second", lambda: np.ones(4 * CHUNK)[::2], (CHUNK + 3,)),
    ("backwards", lambda: np.ones(2 * CHUNK)[::-1], (3,)),
    ("rotated axes", lambda: np.ones((5, 60, 40)).transpose(2, 0, 1), (39, 1, 59)),
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("words", "make", "index"), LAYOUTS, ids=[row[0] for row in LAYOUTS])
def test_one_bad_element_anywhere_is_found(words, make, index, order, step):
    for bad in BAD:
        g = make()
        p = {"rest": np.zeros(5), "w": [np.zeros(g.shape, order=order)]}
        skip = Adam(p, nonfinite="skip")
        assert getattr(skip, step)({"rest": np.ones(5), "w": [g]})
        g[index] = bad
        grads = {"rest": np.ones(5), "w": [g]}
        before = everything(skip, p, grads)
        assert getattr(skip, step)(grads) is False
        (arrays, state, counts, steps, skipped, groups) = everything(skip, p, grads)
        assert skipped == 1
        assert (arrays, state, counts, steps, 0, groups) == before

        strict = Adam({"rest": np.zeros(5), "w": [np.zeros(g.shape, order=order)]}, nonfinite="raise")
        before = everything(strict, *strict.param_groups[0]["params"].values(), grads)
        place = f"[{', '.join(map(str, index))}]" if index else ""
        with pytest.raises(FloatingPointError, match=says(f"grads['w'][0]{place} is {bad}: nothing was written")):
            getattr(strict, step)(grads)
        assert everything(strict, *strict.param_groups[0]["params"].values(), grads) == before


@pytest.mark.parametrize("dtype", REALS)
def test_the_first_bad_leaf_and_element_are_named(dtype):
    good, g = np.ones((2, 3), dtype), np.ones((2, 3), dtype)
    g[1, 2] = np.inf
    g[1, 0] = -np.inf
    opt = SGD([{"params": [good * 0, good * 1]}, {"params": good * 2}], nonfinite="raise")
    with pytest.raises(FloatingPointError, match=says("grads[0][1][1, 0] is -inf: nothing was written")):
        opt.step([[good, g], np.full((2, 3), np.nan, dtype)])
    with pytest.raises(FloatingPointError, match=says("grads[1][0, 0] is nan: nothing was written")):
        opt.step([[good, None], np.full((2, 3), np.nan, dtype)])
    assert opt.steps == opt.skipped == 0


@pytest.mark.parametrize("dtype", REALS)
def test_every_finite_bit_pattern_is_finite(dtype):
    info = np.finfo(dtype)
    values = np.array(
        [info.max, -info.max, info.tiny, info.smallest_subnormal, -info.smallest_subnormal, 0.0, -0.0], dtype
    )
    for nonfinite in ("skip", "raise"):
        assert SGD(np.zeros(7, dtype), lr=0.0, nonfinite=nonfinite).step(values)


@pytest.mark.parametrize("dtype", REALS)
def test_every_nan_is_bad_whatever_its_payload_and_sign(dtype):
    bits = {"float32": [0x7F800001, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF], "float64": [
        0x7FF0000000000001, 0xFFF8000000000000, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF]}[dtype]  # fmt: skip
    for pattern in bits:
        g = np.zeros(33, dtype)
        g.view(f"u{g.itemsize}")[20] = pattern
        assert not SGD(np.zeros(33, dtype), nonfinite="skip").step(g)


@pytest.mark.parametrize("cls", KINDS.values())
def test_a_skipped_step_then_a_step_is_the_step(cls):
    w, w2 = np.ones(9), np.ones(9)
    opt, twin = cls(w, nonfinite="skip"), cls(w2)
    for t in range(3):
        bad = np.ones(9)
        bad[t] = BAD[t]
        assert not stepped(opt, bad)
        g = np.sin(np.arange(9) + t)
        assert stepped(opt, g)
        assert stepped(twin, g)
        assert w.tobytes() == w2.tobytes()
    assert (opt.steps, opt.skipped, opt.step_counts) == (3, 3, {"params": 3})
    assert (twin.steps, twin.skipped) == (3, 0)


def test_a_bad_gradient_of_a_left_out_parameter_is_none_and_propagate_takes_all():
    a, b = np.zeros(2), np.zeros(2)
    opt = SGD([a, b], lr=1.0, nonfinite="skip")
    assert opt.step([np.ones(2), None])
    opt = SGD([a, b], lr=1.0)
    assert opt.step([np.array([np.nan, 1.0]), np.array([np.inf, 1.0])])
    assert np.isnan(a[0])
    assert a[1] == -2
    assert b.tolist() == [-np.inf, -1]


def test_a_skipped_step_zeroes_gradients_and_parameters_may_hold_nan():
    w, g = np.array([np.nan, 1.0]), np.array([1.0, np.inf])
    opt = SGD(w, lr=1.0, nonfinite="skip", zero_grads=True)
    assert not stepped(opt, g)
    assert g.tolist() == [0.0, 0.0]
    assert stepped(opt, np.ones(2))
    assert w[1] == 0


# ---- clipping ----


def exact_norm(arrays):
    """The square root of the sum of squares, in exact arithmetic to the last step."""
    total = sum(Fraction(float(x)) ** 2 for a in arrays for x in a.ravel())
    if total == 0:
        return Fraction(0)
    scale = 2 ** (2 * max(0, 200 - total.numerator.bit_length() + total.denominator.bit_length()))
    return Fraction(math.isqrt(int(total * scale)), math.isqrt(scale))


RANGES = [
    ("ordinary", "float32", 1.0), ("ordinary", "float64", 1.0),
    ("whose squares overflow float32", "float32", 1e30), ("whose squares vanish in float32", "float32", 1e-30),
    ("whose squares overflow", "float64", 1e200), ("whose squares vanish", "float64", 1e-200),
    ("near the largest", "float64", 5e307), ("near the smallest normal", "float64", 1e-306),
    ("whose squares are denormal", "float64", 1e-160), ("whose squares just do not overflow", "float64", 1e153),
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
@pytest.mark.parametrize(("words", "dtype", "size"), RANGES, ids=[f"{r[0]}, {r[1]}" for r in RANGES])
def test_the_norm_over_all_parameters_is_clipped(words, dtype, size, loss_scale, step):
    rng = np.random.default_rng(1)
    grads = [np.asarray(rng.uniform(-1, 1, shape) * size, dtype) for shape in [(3,), (), (2, 5), (0,)]]
    norm = exact_norm(grads) / Fraction(loss_scale)
    for factor in (0.5, 1.001, 2.0, 0.999, 1e-3):
        if not Fraction(1e-300) < norm * Fraction(factor) < Fraction(1e308):
            continue
        clip = float(norm * Fraction(factor))
        w = [np.zeros(g.shape, dtype) for g in grads]
        assert getattr(SGD(w, lr=1.0, clip_norm=clip), step)(grads, loss_scale=loss_scale)
        wanted = float(min(norm, Fraction(clip)) / norm / Fraction(loss_scale))
        for p, g in zip(w, grads, strict=True):
            # Factor and product are rounded once each, the norm of 14 squares a few times in double.
            assert np.allclose(-p, g * wanted, rtol=4 * np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("step", STEPS)
def test_a_norm_whose_square_overflows_is_clipped_all_the_same(step):
    w = np.zeros(4)
    getattr(SGD(w, lr=1.0, clip_norm=1.0), step)(np.full(4, 1e307))
    assert np.allclose(w, -0.5, rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", REALS)
def test_a_gradient_within_the_norm_is_not_touched_at_all(dtype):
    g = np.linspace(-0.1, 0.1, 7).astype(dtype)
    w, w2 = np.ones(7, dtype), np.ones(7, dtype)
    SGD(w, lr=0.3, clip_norm=10.0).step(g)
    SGD(w2, lr=0.3).step(g)
    assert w.tobytes() == w2.tobytes()
    zero = np.zeros(7, dtype)
    SGD(w, lr=0.3, clip_norm=1e-300).step(zero)
    assert w.tobytes() == w2.tobytes()


def test_a_clipped_step_is_the_same_for_any_memory_order_and_number_of_threads():
    rng = np.random.default_rng(2)
    values = [rng.normal(size=(300, 250)), rng.normal(size=5), rng.normal(size=(60, 70))]
    seen = set()
    for threads in (1, 2, 5):
        sweep.set_threads(threads)
        for order in "CF":
            w = [np.zeros(v.shape) for v in values]
            SGD(w, lr=1.0, clip_norm=1.0).step([np.asarray(v, order=order) for v in values])
            seen.add(b"".join(p.tobytes() for p in w))
    assert len(seen) == 1
    (one,) = seen
    assert np.linalg.norm(np.frombuffer(one)) == pytest.approx(1.0, rel=1e-13)  # 8e4 roundings of 1.1e-16, at random


def test_clipping_leaves_out_what_is_left_out_and_does_not_write_gradients():
    a, b, g = np.zeros(2), np.zeros(2), np.array([3.0, 4.0])
    opt = SGD([a, b], lr=1.0, clip_norm=1.0)
    opt.step([g, None])
    assert a == pytest.approx([-0.6, -0.8], rel=1e-15)
    assert g.tolist() == [3.0, 4.0]
    opt.step([g, 1000 * g])
    assert b == pytest.approx([-0.6, -0.8], rel=1e-5)


@pytest.mark.parametrize("bad", BAD)
def test_clipping_never_hides_a_bad_gradient(bad):
    w = np.zeros(3)
    SGD(w, lr=1.0, clip_norm=1.0).step(np.array([1.0, bad, 2.0]))
    assert not np.isfinite(w[1])
    w = np.zeros(3)
    opt = SGD(w, lr=1.0, clip_norm=1.0, nonfinite="skip")
    assert not opt.step(np.array([1.0, bad, 2.0]))
    assert (w == 0).all()


# ---- loss scale ----


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("cls", KINDS.values())
def test_gradients_of_a_scaled_loss_are_unscaled(cls, dtype):
    w, w2 = np.ones(5, dtype), np.ones(5, dtype)
    opt, twin = cls(w), cls(w2)
    for t in range(3):
        g = np.sin(np.arange(5) + t).astype(dtype)
        stepped(opt, g * dtype_of(1024, dtype), loss_scale=1024)
        stepped(twin, g)
        assert w.tobytes() == w2.tobytes()


def dtype_of(x, dtype):
    return np.dtype(dtype).type(x)


def test_a_loss_scale_may_be_any_positive_real_number():
    for scale in (2, 0.5, np.float32(4), np.int64(8)):
        w = np.zeros(1)
        SGD(w, lr=1.0).step(np.ones(1), loss_scale=scale)
        assert w[0] == -1 / float(scale)


# ---- zeroing gradients ----

ZEROED = [
    ("in order", lambda: np.ones((3, 4))),
    ("in Fortran order", lambda: np.ones((3, 4), order="F")),
    ("every second", lambda: np.ones((3, 8))[:, ::2]),
    ("backwards", lambda: np.ones((3, 4))[::-1, ::-1]),
    ("unaligned", lambda: np.ones(97, np.uint8)[1:].view("f8").reshape(3, 4)),
    ("the same element throughout", lambda: np.lib.stride_tricks.as_strided(np.ones(1), (3, 4), (0, 0))),
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("words", "make"), ZEROED, ids=[row[0] for row in ZEROED])
def test_zero_grads_zeroes_the_gradients_that_were_used(words, make, order, step):
    g = make()
    whole = g if g.base is None else g.base
    w, w2 = np.ones((3, 4), order=order), np.ones((3, 4), order=order)
    SGD([w2, np.ones(2)], lr=0.5).step([g.copy(), None])
    opt = SGD([w, np.ones(2)], lr=0.5, zero_grads=True)
    assert getattr(opt, step)([g, None])
    assert w.tobytes() == w2.tobytes()
    assert (g == 0).all()
    if words == "every second":
        assert np.count_nonzero(whole) == whole.size - g.size
    before = w.copy()
    assert getattr(opt, step)([g, None])
    assert w.tobytes() == before.tobytes()


def test_large_gradients_are_zeroed_whole_and_nothing_beside_them(guarded):
    sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 3]
    grads = [guarded(np.ones(n, "f")) for n in sizes]
    opt = SGD([np.zeros(n, "f") for n in sizes], lr=1.0, zero_grads=True)
    assert opt.step(grads)
    assert not any(g.any() for g in grads)


def test_without_zero_grads_gradients_are_never_written():
    g = np.random.default_rng(0).normal(size=(3, 2 * CHUNK))
    before = g.copy()
    g.flags.writeable = False
    for cls in OPTIMIZERS.values():
        decay = {"weight_decay": 0.1} if cls.hyper_parameters["weight_decay"].init else {}
        opt = cls(np.zeros_like(g), clip_norm=1e-3, nonfinite="raise", maximize=True, **decay)
        stepped(opt, g, loss_scale=3.0)
        stepped(opt, g, loss_scale=3.0, reference=True)
    assert g.tobytes() == before.tobytes()


BUFFER = np.ones(12)


def read_only(g):
    g.flags.writeable = False
    return g


REFUSED = [
    ("read-only", lambda: [read_only(np.ones(4)), np.ones(4)], "grads[0] is read-only: zero_grads=True cannot zero it"),
    ("read-only and backwards", lambda: [np.ones(4), read_only(np.ones(4))[::-1]],
     "grads[1] is read-only: zero_grads=True cannot zero it"),
    ("the same twice", lambda: [BUFFER[:4], BUFFER[:4]],
     "grads[1] overlaps the memory of grads[0]: zero_grads=True needs gradients apart"),
    ("overlapping", lambda: [BUFFER[3:7], BUFFER[:4]],
     "grads[1] overlaps the memory of grads[0]: zero_grads=True needs gradients apart"),
    ("overlapping backwards", lambda: [BUFFER[3:7], BUFFER[3::-1]],
     "grads[1] overlaps the memory of grads[0]: zero_grads=True needs gradients apart"),
    ("overlapping strided", lambda: [BUFFER[:8:2], BUFFER[:12:3]],
     "grads[1] overlaps the memory of grads[0]: zero_grads=True needs gradients apart"),
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("words", "make", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_zero_grads_refuses_gradients_it_cannot_zero(words, make, message, step):
    p = [np.ones(4), np.ones(4)]
    opt = NAG(p, zero_grads=True)
    assert stepped(opt, [np.ones(4), np.ones(4)])
    g = make()
    with opt.lookahead():
        pass
    before = everything(opt, p, g, BUFFER)
    for _ in range(2):
        with pytest.raises(ValueError, match=says(message)):
            getattr(opt, step)(g)
    assert everything(opt, p, g, BUFFER) == before
    assert stepped(NAG(p), g)  # harmless where nothing is zeroed


@pytest.mark.parametrize("step", STEPS)
def test_gradients_that_interleave_without_sharing_an_element_can_be_zeroed(step):
    columns = np.arange(1.0, 9.0).reshape(4, 2)
    p = [np.zeros(4), np.zeros(4)]
    assert getattr(SGD(p, lr=1.0, zero_grads=True), step)([columns[:, 0], columns[:, 1]])
    assert p[0].tolist() == [-1, -3, -5, -7]
    assert p[1].tolist() == [-2, -4, -6, -8]
    assert not columns.any()


def test_a_gradient_around_a_parameter_that_shares_no_element_with_it_is_read():
    buffer = np.arange(12.0)
    lone, other = buffer[4:8], np.zeros((2, 4))
    SGD([lone, other], lr=1.0).step([None, buffer.reshape(3, 4)[::2]])
    assert other.tolist() == [[-0.0, -1, -2, -3], [-8, -9, -10, -11]]
