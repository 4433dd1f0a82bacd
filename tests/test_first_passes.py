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
    (fastopt.Prodigy, {"weight_decay": 0.1, "d0": 0.01}),
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


def prodigy(params, steps, lr, betas, beta3, eps, decay, d0, coef, growth, correct, safeguard):
    """Mishchenko & Defazio 2023, algorithm 4, in extended precision: parameters, and d after each step."""
    p = [x.astype(np.longdouble) for x in params]
    first, m, v, s = [x.copy() for x in p], *([np.zeros_like(x) for x in p] for _ in range(3))
    (beta1, beta2), d, largest, numerator, found = betas, d0, d0, 0.0, []
    for t, grads in enumerate(steps, start=1):
        rate = d * lr * (np.sqrt(1 - beta2**t) / (1 - beta1**t) if correct else 1)
        for i, g in enumerate(grads):
            m[i] = beta1 * m[i] + (1 - beta1) * d * g
            v[i] = beta2 * v[i] + (1 - beta2) * d * d * g * g
            s[i] = beta3 * s[i] + d / d0 * (d if safeguard else rate) * g
        gained = sum((g * (x - y)).sum() for g, x, y in zip(grads, first, p, strict=True))
        numerator = beta3 * numerator + d / d0 * rate * gained
        hat = coef * numerator / sum(abs(x).sum() for x in s)
        old, largest = d, max(largest, hat)
        d = min(largest, (max(d, hat) if d == d0 else d) * growth)
        for i in range(len(p)):
            p[i] = p[i] - rate * (m[i] / (np.sqrt(v[i]) + d * eps) + decay * p[i])
        found.append(d)
        assert old > 0
    return p, found


@pytest.mark.parametrize("n", [5, 20 * C])
@pytest.mark.parametrize(
    ("growth", "correct", "safeguard"), [(np.inf, False, False), (1.25, True, False), (np.inf, False, True)]
)
def test_prodigys_steps_are_the_papers(growth, correct, safeguard, n):
    rng = np.random.default_rng(0)
    params = [rng.normal(size=n), rng.normal(size=(2, 3))]
    steps = [[0.2 * rng.normal(size=x.shape) + 1.0 for x in params] for _ in range(8)]
    options = {"betas": (0.8, 0.9), "beta3": 0.7, "eps": 1e-3, "weight_decay": 0.1, "d0": 0.01, "d_coef": 2.0}
    options |= {"growth_rate": growth, "use_bias_correction": correct, "safeguard_warmup": safeguard}
    wanted, d = prodigy(params, steps, 0.5, (0.8, 0.9), 0.7, 1e-3, 0.1, 0.01, 2.0, growth, correct, safeguard)
    opt = fastopt.Prodigy(params, lr=0.5, **options)
    for grads, now in zip(steps, d, strict=True):
        opt.step(grads)
        assert opt.state["params[0]"]["d"] == pytest.approx(float(now), rel=1e-12)
        assert opt.state["params[0]"]["d"] == opt.state["params[1]"]["d"]
    assert d[-1] > 2 * d[0] > 0.01
    assert all(np.allclose(x, y.astype(float), rtol=1e-11) for x, y in zip(params, wanted, strict=True))


def test_all_groups_of_prodigy_have_one_d():
    a, b, c = np.ones(3), np.ones(2), np.ones(2)
    one = fastopt.Prodigy([{"params": a}, {"params": b, "lr": 0.0}, {"params": c, "weight_decay": 0.0}], d0=0.1)
    two = fastopt.Prodigy([np.ones(3), np.ones(2)], d0=0.1)
    for k in range(4):
        one.step([np.full(3, 1.0 + k), np.full(2, 100.0), np.full(2, -1.0)])
        two.step([np.full(3, 1.0 + k), np.full(2, -1.0)])
    assert a.tolist() == two.params[0].tolist()
    assert b.tolist() == [1, 1]
    assert len({float(state["d"]) for state in one.state.values()}) == 1
    assert one.state["params[1]['params']"]["d"] == two.state["params[0]"]["d"] > 0.1


def test_what_groups_of_prodigy_have_in_common_cannot_differ():
    with pytest.raises(ValueError, match=r"params\[1\]\['betas'\] is \(0.5, 0.5\): wanted \(0.9, 0.999\), since all"):
        fastopt.Prodigy([{"params": np.ones(2)}, {"params": np.ones(2), "betas": (0.5, 0.5)}])
    opt = fastopt.Prodigy([{"params": np.ones(2)}, {"params": np.ones(2)}])
    opt.betas = (0.5, 0.5)
    opt.step([np.ones(2), np.ones(2)])
    opt.param_groups[1]["d_coef"] = 2.0
    with pytest.raises(ValueError, match="d_coef"):
        opt.step([np.ones(2), np.ones(2)])


@pytest.mark.parametrize("reference", [False, True])
def test_prodigy_waits_for_a_gradient(reference):
    w = np.ones(3)
    opt = fastopt.Prodigy(w, weight_decay=0.1)
    step = opt.reference_step if reference else opt.step
    step(np.zeros(3))
    assert w.tolist() == [1, 1, 1]
    step(np.ones(3))
    assert (w < 1).all()
    w = np.ones(3)
    opt = fastopt.Prodigy(w)
    step = opt.reference_step if reference else opt.step
    step(np.array([1.0, np.nan, 1.0]))
    assert np.isnan(w).tolist() == [False, True, False]
