"""NAG's lookahead: inside the block w - eta m, after it the old bits, whatever happened inside."""

from __future__ import annotations

import time

import numpy as np
import pytest
from optimizers_table import REALS, stepped
from support import elsewhere
from test_errors import everything

from fastopt import NAG
from fastopt.engine import chunks, kernels, sweep

AWAY = "^the optimizer is looking ahead: leave the `with opt.lookahead\\(\\):` block first$"


def started(dtype="float64", steps=2, momentum=0.8, **options):
    rng = np.random.default_rng(11)
    shapes = [(5,), (), (0, 3), (3, 7), (2 * chunks.CHUNK + 5,)]
    w = [np.asarray(rng.normal(size=s), dtype) for s in shapes]
    w[3] = np.asfortranarray(w[3])
    opt = NAG(w, lr=0.1, momentum=momentum, **options)
    for _ in range(steps):
        stepped(opt, [np.asarray(rng.normal(size=s), dtype) for s in shapes])
    return w, opt


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("isa", kernels.isas())
@pytest.mark.parametrize("dtype", REALS)
def test_inside_the_block_parameters_hold_w_minus_eta_m_to_the_bit(dtype, isa, threads):
    kernels.select(isa)
    sweep.set_threads(threads)
    w, opt = started(dtype)
    m = [s["momentum_buffer"] for s in opt.state.values()]
    expected = [p - p.dtype.type(0.8) * x for p, x in zip(w, m, strict=True)]
    before = [p.tobytes("A") for p in w]
    momenta = [x.tobytes("A") for x in m]
    with opt.lookahead():
        assert [p.tobytes("A") for p in w] == [e.tobytes("A") for e in expected]
        assert [p.tobytes("A") for p in w] != before
        assert [x.tobytes("A") for x in m] == momenta
    assert [p.tobytes("A") for p in w] == before
    assert [x.tobytes("A") for x in m] == momenta


def test_before_the_first_step_it_is_where_it_is():
    w, opt = started(steps=0)
    before = [p.tobytes() for p in w]
    with opt.lookahead():
        assert [p.tobytes() for p in w] == before
    assert [p.tobytes() for p in w] == before


def test_groups_look_ahead_with_their_own_live_momentum():
    a, b = np.zeros(2), np.zeros(2)
    opt = NAG([{"params": a}, {"params": b, "momentum": 0.25}], lr=1.0, momentum=0.5)
    stepped(opt, [np.ones(2), np.ones(2)])
    with opt.lookahead():
        assert a.tolist() == [-1.5, -1.5]
        assert b.tolist() == [-1.25, -1.25]
    opt.param_groups[0]["momentum"] = 0.75
    with opt.lookahead():
        assert a.tolist() == [-1.75, -1.75]
    opt.param_groups[0]["momentum"] = 2.0
    with pytest.raises(ValueError, match="momentum"), opt.lookahead():
        pass
    opt.param_groups[0]["momentum"] = 0.5
    assert stepped(opt, [np.ones(2), np.ones(2)])


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit, StopIteration])
def test_an_error_in_the_block_comes_through_and_the_bits_come_back(error):
    w, opt = started()
    before = everything(opt, w)

    def fail():
        with opt.lookahead():
            w[0][:] = np.nan
            raise error

    with pytest.raises(error):
        fail()
    assert everything(opt, w)[0] == before[0]
    assert stepped(opt, [np.zeros_like(p) for p in w])


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("flush", [True, False])
def test_special_values_come_back_to_the_bit(dtype, flush):
    kernels.set_flush(flush)
    info = np.finfo(dtype)
    values = [
        0.0,
        -0.0,
        info.smallest_subnormal,
        -info.smallest_subnormal,
        info.tiny / 2,
        info.max,
        np.inf,
        -np.inf,
        np.nan,
    ]
    w = np.array(values * 5, dtype)
    bits = w.view(f"u{w.itemsize}")
    bits[-1] = bits[-1] | 1  # a NaN with a payload,
    bits[8] = bits[8] | 2 | 1 << (8 * w.itemsize - 1)  # and a negative one
    opt = NAG(w, lr=0.1)
    stepped(opt, np.zeros_like(w))
    before = w.tobytes()
    with opt.lookahead():
        pass
    assert w.tobytes() == before


def test_what_is_written_in_the_block_is_gone_after_it():
    w = np.ones(3)
    opt = NAG(w)
    with opt.lookahead():
        w[:] = 99
    assert (w == 1).all()


def test_in_the_block_no_step_and_no_second_look():
    w, opt = started()
    grads = [np.ones_like(p) for p in w]
    with opt.lookahead():
        before = everything(opt, w)
        for call in (
            lambda: opt.step(grads),
            lambda: opt.reference_step(grads),
            lambda: opt.lookahead().__enter__(),
            lambda: opt.load_state_dict({"state": {}}),
        ):
            with pytest.raises(RuntimeError, match=AWAY):
                call()
        assert everything(opt, w) == before
    assert stepped(opt, grads)


def test_two_optimizers_look_ahead_at_once():
    a, b = np.zeros(2), np.zeros(2)
    one, other = NAG(a, lr=1.0, momentum=0.5), NAG(b, lr=1.0, momentum=0.5)
    stepped(one, np.ones(2))
    stepped(other, np.ones(2))
    with one.lookahead(), other.lookahead():
        assert a.tolist() == b.tolist() == [-1.5, -1.5]
    assert a.tolist() == b.tolist() == [-1, -1]


@pytest.mark.parametrize("step", ["step", "reference_step"])
def test_it_is_the_papers_method(step):
    # Sutskever et al. 2013, eq. 3 and 4, on an ill-conditioned quadratic: v <- mu v - lr f'(w + mu v); w <- w + v.
    curvature = np.array([1.0, 30.0])
    w = np.array([1.0, 1.0])
    opt = NAG(w, lr=0.02, momentum=0.9)
    paper, v = np.array([1.0, 1.0]), np.zeros(2)
    for _ in range(50):
        with opt.lookahead():
            g = curvature * w
        getattr(opt, step)(g)
        v = 0.9 * v - 0.02 * curvature * (paper + 0.9 * v)
        paper = paper + v
        # Both round some ten operations a step, errors decay with the iterates: 50 steps of 10 units of 1.1e-16.
        assert w == pytest.approx(paper, rel=0, abs=5e-14)
    assert np.abs(w).max() < 0.05


def test_a_parameter_made_read_only_later_is_not_written():
    w = np.ones(3)
    opt = NAG(w)
    stepped(opt, np.ones(3))
    w.flags.writeable = False
    before = w.copy()
    with pytest.raises(ValueError, match="params is read-only"), opt.lookahead():
        pass
    assert (w == before).all()


def test_a_parameter_whose_memory_was_replaced_is_refused():
    w = np.ones(3)
    opt = NAG(w)
    stepped(opt, np.ones(3))
    with elsewhere(w, np.ones(3)), pytest.raises(ValueError, match="params is not the memory it was"), opt.lookahead():
        pass


def test_groups_taken_away_in_the_block_do_not_keep_the_parameters_away():
    a, b = np.zeros(2), np.zeros(2)
    opt = NAG([{"params": a}, {"params": b}], lr=1.0, momentum=0.5)
    stepped(opt, [np.ones(2), np.ones(2)])
    groups = list(opt.param_groups)
    with opt.lookahead():
        opt.param_groups.append({})
    opt.param_groups[:] = groups
    assert a.tolist() == b.tolist() == [-1, -1]
    assert stepped(opt, [np.ones(2), np.ones(2)])


def test_steps_in_a_training_loop_are_not_back_to_back():
    """Each comes right after the block. Its workers would spin through what follows, the next matrix products."""
    w = np.ones(50_000)
    g = np.ones_like(w)
    opt = NAG(w, lr=0.1)
    for _ in range(12):
        with opt.lookahead():
            time.sleep(0.002)  # the model: at least so long
        opt.step(g)
        assert not opt._plan.back_to_back


def test_steps_with_work_between_are_not_back_to_back_however_it_began():
    w = np.zeros(200_000, "f4")
    g = np.zeros_like(w)
    opt = NAG(w, lr=0.1)
    for _ in range(30):
        stepped(opt, g)
    for _ in range(30):
        with opt.lookahead():
            time.sleep(0.003)  # the model
        opt.step(g)
        time.sleep(0.003)  # the next batch
    assert not opt._plan.back_to_back
