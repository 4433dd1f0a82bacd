"""Rules that sum over a whole parameter before they update it: the same bits whoever sums, in however many chunks."""

from __future__ import annotations

import numpy as np
import pytest
from optimizers_table import ISAS, REALS, THREADS

import fastopt
from fastopt.engine import chunks, kernels, sweep

C = chunks.CHUNK
# Of 16 chunks and fewer, which are summed and updated at once; and of more, which one sweep sums and another updates.
SIZES = [3, 0, C + 1, 16 * C, 1, 16 * C + 1, 2 * C, 40 * C + 77, 33]
CASES = [
    (fastopt.LARS, {"nesterov": True, "weight_decay": 0.1}),
    (fastopt.LAMB, {"weight_decay": 0.1}),
    (fastopt.StableAdamW, {}),
    (fastopt.NovoGrad, {"weight_decay": 0.1}),
    (fastopt.AdamW, {"cautious": True}),
    (fastopt.NAdam, {"cautious": True}),
]
IDS = [cls.__name__ for cls, _ in CASES]


@pytest.fixture(autouse=True)
def _all_threads_whatever_they_gain():
    sweep.set_forced(True)


def some(real, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=n).astype(real) for n in SIZES]


def bits(opt):
    arrays = [*opt.params, *(x for state in opt.state.values() for x in state.values())]
    return [x.tobytes() for x in arrays]


def trained(cls, options, real, step="step", layout=lambda g: g, steps=3):
    opt = cls(some(real, 0), lr=0.1, **options)
    for k in range(steps):
        grads = [None if (i + k) % 5 == 4 else layout(g) for i, g in enumerate(some(real, 1 + k))]
        assert getattr(opt, step)(grads)
    return bits(opt)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize(("cls", "options"), CASES, ids=IDS)
def test_sums_are_the_twins_whoever_computes_them(cls, options, real):
    wanted = trained(cls, options, real, "reference_step")
    for isa in ISAS:
        kernels.select(isa)
        for threads in THREADS if isa == ISAS[0] else THREADS[1:2]:
            sweep.set_threads(threads)
            assert trained(cls, options, real) == wanted, (isa, threads)


@pytest.mark.parametrize("more", [{"clip_value": 0.5}, {"clip_norm": 1.0}, {"zero_grads": True}], ids=str)
@pytest.mark.parametrize(("cls", "options"), CASES, ids=IDS)
def test_sums_are_over_the_gradients_that_the_rule_sees(cls, options, more):
    sweep.set_threads(2)
    wanted = trained(cls, {**options, **more}, "float32", "reference_step")
    assert trained(cls, {**options, **more}, "float32") == wanted
    assert trained(cls, {**options, **more}, "float32", layout=lambda g: np.repeat(g, 2)[::2]) == wanted
    if "zero_grads" not in more:
        assert trained(cls, options, "float32") != wanted, "the option does nothing here"


def test_sums_are_taken_in_memory_order_of_the_parameter():
    p = np.random.default_rng(0).normal(size=(300, 400))
    g = np.random.default_rng(1).normal(size=(300, 400))
    w = [np.array(p, order="F"), np.array(p.T, order="C")]
    for x, gradient in zip(w, (g, g.T), strict=True):
        fastopt.LAMB(x, lr=0.1).step(gradient)
    assert np.array_equal(w[0], w[1].T)


def test_groups_may_have_norms_or_none():
    a, b = np.ones(5), np.ones(5)
    opt = fastopt.LAMB([{"params": a}, {"params": b, "trust": False, "weight_decay": 0.5}], lr=0.1)
    alone = fastopt.LAMB(np.ones(5), lr=0.1), fastopt.AdamW(np.ones(5), lr=0.1, weight_decay=0.5, eps=1e-6)
    for k in range(3):
        g = np.arange(1.0, 6.0) - k
        opt.step([g, g])
        for one in alone:
            one.step(g)
    assert a.tolist() == alone[0].params.tolist()
    assert np.allclose(b, alone[1].params, rtol=1e-14)


def test_norms_that_are_0_leave_the_rate_as_it_is():
    w = np.zeros(3)
    fastopt.LAMB(w, lr=0.5).step(np.array([1.0, -1.0, 0.0]))
    assert w.round(5).tolist() == [-0.5, 0.5, 0.0]
    w = np.ones(3)
    fastopt.LARS(w, lr=0.5).step(np.zeros(3))
    assert w.tolist() == [1, 1, 1]


def test_cautious_steps_are_a_thousand_times_as_long_at_most():
    w, g = np.zeros(5000), np.full(5000, -1.0)
    opt = fastopt.Adam(w, lr=1e-3, cautious=True)
    opt.step(g)
    before = w.copy()
    g[0], g[1:] = -1.0, 0.0  # one element in 5000 agrees
    opt.step(g)
    assert (w[1:] == before[1:]).all()
    assert w[0] - before[0] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("cls", [fastopt.AdamW, fastopt.NAdam, fastopt.Lion])
def test_a_nan_is_never_masked(cls):
    w = np.ones(4)
    cls(w, lr=0.1, cautious=True).step(np.array([1.0, np.nan, -1.0, 1.0]))
    assert np.isnan(w).tolist() == [False, True, False, False]


def test_amsgrad_is_not_cautious():
    with pytest.raises(ValueError, match="amsgrad and cautious: wanted one of them"):
        fastopt.Adam(np.ones(2), amsgrad=True, cautious=True)


class Failing(fastopt.NovoGrad):
    """NovoGrad whose class fails once it is told the sums."""

    @classmethod
    def scalars(cls, h, t, numbers, sums):
        if sums is not None and sums["gg"][0] > 1000:
            raise ArithmeticError(f"{sums['gg'][0]:.0f}")
        return super().scalars(h, t, numbers, sums)


@pytest.mark.parametrize("n", [4, 20 * C])
def test_a_class_that_fails_over_its_sums_leaves_every_byte_as_it_was(n):
    opt = Failing([np.ones(n), np.ones(3)], lr=0.1)
    with pytest.raises(ArithmeticError, match=str(4_000_000 * n)):  # in the first step, whose state is new
        opt.step([np.full(n, 2000.0), np.ones(3)])
    opt.step([np.full(n, n**-0.5), np.ones(3)])
    before = bits(opt)
    with pytest.raises(ArithmeticError):
        opt.step([np.full(n, 2000.0), np.ones(3)])
    assert bits(opt) == before
    assert list(opt.step_counts.values()) == [1, 1]
    twin = fastopt.NovoGrad([np.ones(n), np.ones(3)], lr=0.1)
    twin.step([np.full(n, n**-0.5), np.ones(3)])
    for one in (opt, twin):
        one.step([np.full(n, n**-0.5), np.ones(3)])
    assert bits(opt) == bits(twin)
