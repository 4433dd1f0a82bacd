"""By the paper: the kernels against independent formulas in extended precision, element for element.

The bound is computed with the formula, for each element and step: see oracles.py. Twice of it is allowed, as the
kernels evaluate a folded form, of no more operations but in another order.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from optimizers_table import CASES, REALS, RECORDS, sums_up
from oracles import Paper, exact

import fastopt
from fastopt.engine import numbers
from fastopt.optimizers import OPTIMIZERS

pytestmark = pytest.mark.no_cover  # what these tests run often is run by others too

WITH_FORMULA = [case for case in CASES if case.oracle]
STEPS = 12


def near(got, wanted):
    """Whether each element is within twice its bound."""
    return np.all(abs(got.astype(exact) - wanted.value) <= 2 * wanted.error)


def data(case, real):
    """Parameters, and gradients for each step, of sizes from 1e-3 to 1e3, None now and then."""
    rng = np.random.default_rng(3)
    shapes = [(), (5,), (6, 7), (33,)]

    def some(scale):
        return [np.asarray(scale * rng.normal(size=s) * 10 ** rng.uniform(-3, 3, s)).astype(real) for s in shapes]

    steps = [some(case.loss_scale) for _ in range(STEPS)]
    return some(1.0), [[None if (k + i) % 5 == 2 else g for i, g in enumerate(grads)] for k, grads in enumerate(steps)]


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("case", WITH_FORMULA, ids=str)
def test_steps_are_the_papers_to_rounding(case, real):
    params, steps = data(case, real)
    paper = Paper(case, params)
    opt = case.make(params)
    for grads in steps:
        paper.step(grads)
        assert case.step(opt, grads)
        for p, wanted, s, state in zip(params, paper.p, paper.s, opt.state.values(), strict=True):
            assert near(p, wanted)
            for key, x in s.items():
                assert near(state[key], x), key
    assert list(opt.step_counts.values()) == paper.t


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("case", WITH_FORMULA, ids=str)
def test_the_bound_is_a_few_roundings_a_step(case, real):
    """A bound that allowed everything would show nothing: it must be small against what the steps changed."""
    params, steps = data(case, real)
    paper = Paper(case, params)
    moved = [exact(0)] * len(params)
    for grads in steps:
        before = [p.value for p in paper.p]
        paper.step(grads)
        moved = [x + abs(p.value - b) for x, p, b in zip(moved, paper.p, before, strict=True)]
    roundings = [p.error / (paper.u * (abs(p.value) + x)) for p, x in zip(paper.p, moved, strict=True)]
    # Few to a dozen roundings in each of a dozen steps, and where gradients are clipped the sum of 81 squares. Through
    # norms, what elements have come to in one step has a part in all of them in the next.
    most = 2000 if sums_up(case) else 200
    assert np.median(np.concatenate(list(map(np.ravel, roundings)))) < most


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", [n for n in ("Adam", "AdamW") if n in OPTIMIZERS])
def test_a_thousand_steps_of_adam_stay_the_papers(name, real):
    """The folded bias corrections, from where they matter most to where they are 1."""
    record = next(record for record in RECORDS if record.name == name)
    rng = np.random.default_rng(0)
    params = [rng.normal(size=20).astype(real)]
    paper, opt = Paper(record, params), record.make(params)
    for _ in range(1000):
        grads = [rng.normal(size=20).astype(real)]
        paper.step(grads)
        opt.step(grads)
    assert near(params[0], paper.p[0])


@pytest.mark.parametrize("t", [1, 2, 3, 7, 1000, 10**6, 2**40])
@pytest.mark.parametrize("beta", [0.0, 1e-300, 0.5, 0.9, 0.999, 1 - 2.0**-53])
def test_the_bias_correction_is_right_to_the_last_bits_for_any_t(beta, t):
    """Also where 1 - βᵗ, computed as it stands, would cancel."""
    wanted = -np.expm1(t * np.log(exact(beta))) if beta else exact(1)
    # three roundings for each of the bits of t and for each of its ones, none amplified; the formula here
    # is off by a few roundings in extended precision
    bound = 6 * t.bit_length() * 2.0**-53 + 4 * float(np.finfo(exact).eps)
    assert abs(numbers.one_minus_power(beta, t) - wanted) <= bound * wanted


@pytest.mark.parametrize("real", REALS)
def test_epsilon_is_not_the_epsilon_hat(real):
    """The first step of Adam is lr g / (|g| + ε); with ε not folded, ε / √(1 - β₂) stands in its place."""
    p = np.zeros(3, real)
    g = np.array([1e-3, -1e-3, 1e-2], real)
    fastopt.Adam(p, lr=1.0, eps=1e-3).step(g)
    # One step of ten operations, and 1 - β₂ rounded once: a dozen roundings.
    np.testing.assert_allclose(p, -g.astype(exact) / (abs(g.astype(exact)) + exact(1e-3)), 12 * np.finfo(real).eps)


@pytest.mark.parametrize("real", REALS)
def test_betas_belong_to_their_moments(real):
    p = np.zeros(1, real)
    opt = fastopt.Adam(p, betas=(0.75, 0.5))
    opt.step(np.full(1, 4, real))
    assert opt.state["params"]["exp_avg"][0] == 1  # (1 - 0.75) 4, exact in binary
    assert opt.state["params"]["exp_avg_sq"][0] == 8  # (1 - 0.5) 16


@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.6, 0.75, 0.9, 0.999, 0.9999])
def test_radam_is_rectified_once_enough_gradients_are_in_its_second_moment(beta2):
    """ρₜ is Σ (βⁱ + βⁱ⁺¹ - 2 βᵗ) / (1 - βᵗ) over i < t: the paper's, in a form in which nothing cancels."""
    steps = np.arange(1, 100)
    power = exact(beta2) ** np.arange(100)
    rho = [(power[:t] + power[1 : t + 1] - 2 * power[t]).sum() / (1 - power[t]) for t in steps]
    _, others = fastopt.RAdam.scalars({"betas": (0.9, beta2), "eps": 1e-8}, steps)
    assert others["of_v"].tolist() == [float(x > 5) for x in rho]
    assert others["eps"].tolist() == [1e-8 if x > 5 else 1.0 for x in rho]


def test_the_two_momenta_differ_as_soon_as_the_learning_rate_changes():
    torchs, classical = np.zeros(1), np.zeros(1)
    one = fastopt.SGD(torchs, lr=1.0, momentum=0.5)
    two = fastopt.SGD(classical, lr=1.0, momentum=0.5, lr_in_momentum=True)
    for lr, wanted_torch, wanted_classical in [(1.0, -1, -1), (0.5, -1.75, -2)]:
        one.lr = two.lr = lr
        for opt in (one, two):
            opt.step(np.ones(1))
        assert (torchs[0], classical[0]) == (wanted_torch, wanted_classical)


@pytest.mark.parametrize("real", REALS)
def test_nag_takes_the_gradient_ahead(real):
    """On f(w) = c w² / 2 with f' computed inside lookahead(), and by the paper from w - η m, m and w apart."""
    c = np.array([0.5, 1.0, 3.0], real)
    w = np.array([1.0, -2.0, 4.0], real)
    opt = fastopt.NAG(w, lr=0.125, momentum=0.75)  # exact in binary
    x, m = w.astype(exact), np.zeros(3, exact)
    for _ in range(10):
        with opt.lookahead():
            g = c * w
        opt.step(g)
        m = exact(0.75) * m + exact(0.125) * (c * (x - exact(0.75) * m))
        x = x - m
    # Ten steps of eight roundings, of values up to 4, none amplified: the iteration contracts for these c.
    assert np.all(abs(w - x) <= 80 * 4 * np.finfo(real).eps)


def test_schedules_count_steps_and_bias_corrections_count_updates():
    """A parameter that was left out twice is at t = 1 in the third step, whose learning rate is lr(2)."""
    a, b = np.zeros(1), np.zeros(1)
    opt = fastopt.Adam([a, b], lr=lambda t: 10.0**-t, eps=0.0)
    for grads in ([np.ones(1), None], [np.ones(1), None], [None, np.ones(1)]):
        opt.step(grads)
    assert opt.steps == 3
    assert opt.step_counts == {"params[0]": 2, "params[1]": 1}
    # A constant gradient makes each update of Adam lr exactly, but for a few roundings.
    assert math.isclose(a[0], -1.1, rel_tol=8 * np.finfo(float).eps)
    assert math.isclose(b[0], -0.01, rel_tol=8 * np.finfo(float).eps)


def test_decay_and_update_are_summed_before_they_meet_the_parameter():
    """Each of 2e-8 and 2.5e-8 is less than half a float32 spacing below 1, 3e-8; their sum is more."""
    p = np.ones(5, "float32")
    fastopt.AdamW(p, lr=2.5e-8, eps=1e-30, weight_decay=0.8).step(np.ones(5, "float32"))
    assert (p == 1 - np.float32(2.0**-24)).all()


@pytest.mark.parametrize("clip_norm", [1e-3, 5.0, 1e9])
def test_clipping_leaves_the_direction_and_bounds_the_norm(clip_norm):
    rng = np.random.default_rng(1)
    grads = [rng.normal(size=300), rng.normal(size=(4, 5)).astype("float32"), np.array(2.0)]
    params = [np.zeros_like(g) for g in grads]
    fastopt.SGD(params, lr=1.0, clip_norm=clip_norm).step(grads)
    norm = math.sqrt(sum(float((g.astype(exact) ** 2).sum()) for g in grads))
    factor = min(1.0, clip_norm / norm)
    for p, g in zip(params, grads, strict=True):
        # 321 squares added, a root, a quotient, and a product in the gradient's own type.
        np.testing.assert_allclose(-p, g * p.dtype.type(factor), rtol=321 * 2.0**-53 + 2 * np.finfo(p.dtype).eps)
