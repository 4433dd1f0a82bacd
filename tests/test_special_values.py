"""Special values: zeros, denormals, Inf and NaN, extreme hyper-parameters, steps that are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from optimizers_table import (
    CASES,
    FIRST_OF_KERNELS,
    ISAS,
    MOVE_WITHOUT_GRADIENT,
    OF_KINDS,
    RATE_IN_STATE,
    READ_P,
    REALS,
    RECORDS,
    REFUSE_RATE_0,
    stepped,
    sums_up,
)

import fastopt
from fastopt.engine import kernels

pytestmark = pytest.mark.no_cover  # what these tests run often is run by others too

EXTREMES = [
    ("SGD", {"momentum": 1.0}),
    ("SGD", {"momentum": 0.9, "dampening": 1.0}),
    ("NAG", {"momentum": 1.0}),
    ("Lion", {"betas": (0.0, 1 - 2.0**-53)}),  # 1 in float32
    ("QHM", {"momentum": 1 - 2.0**-53, "nu": 1.0}),
    ("Adagrad", {"eps": 0.0}),
    ("Adagrad", {"lr_decay": 1e30, "initial_accumulator_value": 1e30}),
    ("Adadelta", {"rho": 1.0, "eps": 0.0}),
    ("RMSprop", {"alpha": 0.0}),
    ("RMSprop", {"eps": 0.0}),
    ("RMSprop", {"alpha": 0.0, "eps": 0.0, "centered": True, "momentum": 1.0}),
    ("RMSprop", {"eps": 1e30, "eps_inside_sqrt": True}),
    ("Adamax", {"betas": (0.0, 0.0), "eps": 0.0}),
    ("Adam", {"betas": (0.0, 0.0)}),
    ("Adam", {"betas": (0.9, 0.0), "eps": 0.0}),
    ("Adam", {"betas": (1 - 2.0**-53, 1 - 2.0**-53), "amsgrad": True}),  # 1 in float32
    ("AdamW", {"eps": 0.0, "weight_decay": 1e30}),
    ("AdaBelief", {"betas": (0.0, 0.0), "eps": 0.0}),
    ("LaProp", {"betas": (0.9, 0.0), "eps": 0.0}),
    ("Yogi", {"betas": (0.9, 0.0), "initial_accumulator": 1e30}),
    ("Yogi", {"eps": 0.0, "initial_accumulator": 0.0}),
    ("AdEMAMix", {"betas": (5e-324, 0.0, 1 - 2.0**-53), "t_alpha_beta3": 1e-300, "alpha": 1e30}),
    ("Grams", {"betas": (0.0, 0.9), "eps": 0.0}),
    ("ADOPT", {"betas": (0.0, 0.0), "eps": 0.0}),
    ("ADOPT", {"eps": 0.0, "clip": False, "weight_decay": 1e30, "decoupled": True}),
    ("Rprop", {"etas": (1e-300, 1e300), "step_sizes": (0.0, 1e308)}),
    ("RAdam", {"betas": (0.0, 0.0), "eps": 0.0}),
    ("RAdam", {"betas": (1 - 2.0**-53, 1 - 2.0**-53)}),
    ("QHAdam", {"nus": (0.0, 0.0), "eps": 0.0}),
    ("QHAdam", {"betas": (1 - 2.0**-53, 1 - 2.0**-53), "nus": (1.0, 0.5)}),
]
# Mean gradients that start elsewhere move parameters; of state that is not made of gradients alone, epsilon is added to
# one array, and one starts at the learning rate.
STARTING_AT_0 = {"Yogi": {"initial_accumulator": 0.0}}
NOT_OF_GRADIENTS = {"lookahead_saved", "exp_avg_var", "step_size"}
LATEST = {record.name: record for record in RECORDS}
EXTREME_CASES = [
    *(
        replace(r, words=f"{r.words}, lr {lr}", options={**r.options, "lr": lr})
        for r in RECORDS
        if str(r) in FIRST_OF_KERNELS
        for lr in (0.0, 1e30)
        if lr or r.name not in REFUSE_RATE_0
    ),
    *(replace(LATEST[name], words=str(o)[1:-1], options={"lr": 0.1, **o}) for name, o in EXTREMES if name in LATEST),
]


def special(real):
    """Every special value and its negative."""
    info = np.finfo(real)
    positive = [0, info.smallest_subnormal, info.tiny / 8, info.tiny, info.eps, 1, 3.5, info.max**0.5, info.max, np.inf]
    values = np.array([*positive, np.nan], real)
    return np.concatenate([values, -values])


def same(a, b):
    """Whether all bits are the same; those of a NaN, which IEEE 754 leaves open, but for its being one."""
    nan = np.isnan(a)
    return (nan == np.isnan(b)).all() and np.where(nan, 0, a).tobytes() == np.where(nan, 0, b).tobytes()


def every_pair(real):
    """A parameter and gradients for three steps, in which each special value meets each other."""
    values = special(real)
    p, g = (x.ravel() for x in np.meshgrid(values, values))
    return p, [g, np.roll(g, 7), np.roll(g, -5)]


@pytest.mark.parametrize("flush", [True, False], ids=["flushing denormals", "keeping denormals"])
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("case", [*CASES, *EXTREME_CASES], ids=str)
def test_kernels_equal_the_twin_on_special_values(case, real, flush):
    fastopt.set_flush_denormals(flush)
    p, steps = every_pair(real)
    if flush and real == "float32" and case.options.get("eps") == 0:
        case = replace(case, options={**case.options, "eps": 1e-30})  # less is refused there
    for isa in ISAS:
        kernels.select(isa)
        mine, twins = p.copy(), p.copy()
        opt, twin = case.make(mine), case.make(twins)
        for g in steps:
            case.step(opt, g.copy())
            case.step(twin, g.copy(), reference=True)
            assert same(mine, twins), isa
            for key, x in opt.state["params"].items():
                assert same(x, twin.state["params"][key]), f"{key} with {isa}"


@pytest.mark.parametrize("real", REALS)
def test_denormals_are_flushed_or_kept_as_asked(real):
    tiny = np.finfo(real).tiny
    for flush in (True, False):
        fastopt.set_flush_denormals(flush)
        assert fastopt.get_flush_denormals() is flush
        results, operands = np.zeros(40, real), np.zeros(40, real)
        fastopt.SGD(results, lr=0.25).step(np.full(40, tiny, real))
        fastopt.SGD(operands, lr=2.0**20).step(np.full(40, tiny / 4, real))
        assert (results == (0 if flush else -tiny / 4)).all()
        assert (operands == (0 if flush else -tiny * 2.0**18)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("real", REALS)
def test_lookahead_gives_back_every_special_value_whatever_happens_inside(real, isa):
    kernels.select(isa)
    p, steps = every_pair(real)
    opt = fastopt.NAG(p, lr=0.1)
    stepped(opt, steps[0])
    before = p.tobytes()

    def fail():
        with opt.lookahead():
            p[...] = 7
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert p.tobytes() == before
    assert stepped(opt, steps[1])


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_an_infinite_parameter_stays_what_it_is_without_decay(record, real):
    """With decay 0 no 0 · ∞ may appear: the parameter is not read but to be updated."""
    p = np.array([np.inf, -np.inf, 1.0], real)
    opt = record.make(p, weight_decay=0.0)
    for _ in range(3):
        record.step(opt, np.ones(3, real))
    if record.name not in READ_P:
        assert p[0] == np.inf
        assert p[1] == -np.inf
    assert p[2] < 1 or sums_up(record)  # whose norm of p is infinite


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_zero_gradients_from_the_start_change_nothing(record, real):
    p = np.array([0.0, -0.0, 1.5, -1e-3], real)
    before = p.tobytes()
    opt = record.make(p, weight_decay=0.0, **STARTING_AT_0.get(record.name, {}))
    states = []
    for _ in range(3):
        record.step(opt, np.zeros(4, real))
        arrays = {name: x for name, x in opt.state["params"].items() if x.ndim and name not in NOT_OF_GRADIENTS}
        states.append({name: x.tobytes() for name, x in arrays.items()})
    if record.name not in MOVE_WITHOUT_GRADIENT:
        # -0 - (+0) is -0 and 0 - 0 is 0, so not even a sign changes
        assert p.tobytes() == before
        assert states[0] == states[1] == states[2]  # most of it 0, some at the number where it starts


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_learning_rate_zero_moves_the_moments_only(record):
    p, q = np.array([1.0, -2.0]), np.array([1.0, -2.0])
    if record.name in REFUSE_RATE_0:
        with pytest.raises(ValueError, match="lr is 0"):
            record.step(record.make(p, lr=0.0), np.ones(2))
        return
    if record.cls is fastopt.Rprop:  # there lr is the first step size, and clipped as all are
        record = replace(record, options={**record.options, "step_sizes": (0.0, 50.0)})
    opt, other = record.make(p, lr=0.0, weight_decay=0.0), record.make(q, weight_decay=0.0)
    for _ in range(3):
        g = np.array([0.5, 3.0])
        record.step(opt, g)
        record.step(other, g)
    assert list(p) == [1.0, -2.0]
    if record.name not in RATE_IN_STATE and not record.options.get("lr_in_momentum"):  # there lr is inside the momentum
        for key, x in opt.state["params"].items():
            assert x.tobytes() == other.state["params"][key].tobytes()


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("real", REALS)
def test_a_variance_that_rounding_makes_negative_is_zero(real, momentum):
    """Under constant gradients v - a² goes to 0, and rounding takes it to either side."""
    g = np.linspace(0.5, 2, 1000).astype(real)
    p, q = np.zeros_like(g), np.zeros_like(g)
    options = {"alpha": 0.5, "eps": 1e-8, "centered": True, "momentum": momentum}
    opt, twin = fastopt.RMSprop(p, **options), fastopt.RMSprop(q, **options)
    for _ in range(70):
        opt.step(g)
        twin.reference_step(g)
    v, a = opt.state["params"]["square_avg"], opt.state["params"]["grad_avg"]
    assert (v - a * a < 0).any(), "no element came to the test"
    assert np.isfinite(p).all()
    assert p.tobytes() == q.tobytes()


@pytest.mark.parametrize(("bad", "place"), [(np.inf, 0), (np.nan, 4095), (-np.inf, 4096), (np.nan, 9999)], ids=str)
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("record", OF_KINDS, ids=str)
def test_a_skipped_step_never_happened(record, real, place, bad):
    rng = np.random.default_rng(0)
    p = [rng.normal(size=10_000).astype(real), np.ones((2, 2), real)]
    q = [x.copy() for x in p]
    opt, other = record.make(p, nonfinite="skip"), record.make(q)
    for _ in range(2):
        good = [rng.normal(size=x.shape).astype(real) for x in p]
        broken = [x.copy() for x in good]
        broken[0][place] = bad
        before = [x.tobytes() for x in p], opt.step_counts, opt.steps
        assert record.step(opt, broken) is False
        assert record.step(opt, broken, reference=True) is False
        assert before == ([x.tobytes() for x in p], opt.step_counts, opt.steps)
        assert record.step(opt, good) is True
        assert record.step(other, good) is True
        assert [x.tobytes() for x in p] == [x.tobytes() for x in q]
    assert (opt.skipped, opt.steps) == (4, 2)
    for leaf, state in opt.state.items():
        for key, x in state.items():
            assert x.tobytes() == other.state[leaf][key].tobytes()


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("isa", ISAS)
def test_every_nonfinite_value_is_found_wherever_it_is_and_no_other(isa, real):
    kernels.select(isa)
    size = 4 * 16 + 1
    values = special(real)
    finite = values[np.isfinite(values)]
    p = np.zeros(size, real)
    opt = fastopt.SGD(p, nonfinite="raise")
    assert opt.step(np.resize(finite, size))
    for place in range(size):
        for bad in values[~np.isfinite(values)]:
            g = np.resize(finite, size)
            g[place] = bad
            with pytest.raises(FloatingPointError, match=rf"^grads\[{place}\] is (-?inf|nan): nothing was written$"):
                opt.step(g)
    assert opt.steps == 1


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_a_parameter_without_gradient_is_as_if_it_were_not_there(record):
    rng = np.random.default_rng(0)
    a, b, alone = np.ones(5), np.ones(7), np.ones(7)
    opt, other = record.make([a, b]), record.make([alone])
    for step in range(6):
        g = rng.normal(size=7)
        record.step(opt, [np.ones(5), g if step % 2 else None])
        if step % 2:
            record.step(other, [g])
        else:
            record.step(opt, [None, None])
    if not record.cls.group_numbers:  # which go on with the group
        assert b.tobytes() == alone.tobytes()
    assert opt.step_counts == {"params[0]": 6, "params[1]": 3}


@pytest.mark.parametrize("real", REALS)
def test_clipping_survives_norms_that_overflow_or_vanish(real):
    info = np.finfo(real)
    for size in (info.max / 4, info.tiny * 8):
        p = np.zeros(4, real)
        fastopt.SGD(p, lr=1.0, clip_norm=float(size)).step(np.full(4, -size, real))
        # the norm is twice the size of each: exact, as all are powers of two times the same number
        np.testing.assert_array_max_ulp(p, np.full(4, size / 2, real), 2)


def test_a_nonfinite_norm_does_not_pass_for_a_clipped_one():
    for bad in (np.nan, np.inf):
        p = np.zeros(3)
        fastopt.SGD(p, lr=1.0, clip_norm=1.0).step(np.array([1.0, bad, 2.0]))
        assert not np.isfinite(p[1])
