"""Matrices whose second moments are of rows and columns: the bits of the twin, however they are cut into cells."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from optimizers_table import ISAS, REALS, THREADS, chosen

import fastopt
from fastopt.engine import kernels, sweep

# Of one cell and of several, side by side and below each other; of several matrices, small and large; in both memory
# orders; of 65,536 elements, which are done at once, and of more; without elements.
SHAPES = [
    ((2, 2), "C"), ((3, 5), "F"), ((7, 1), "C"), ((1, 7), "C"), ((33, 31), "C"), ((33, 64), "C"), ((4, 3, 3, 3), "C"),
    ((64, 1024), "C"), ((65, 1025), "C"), ((70, 1100), "C"), ((1100, 70), "F"), ((300, 300), "F"), ((9, 90, 90), "C"),
    ((2, 200, 1500), "C"), ((100_000, 2), "C"), ((2, 100_000), "C"), ((2, 40_000), "F"), ((0, 3), "C"), ((3, 0), "F"),
]  # fmt: skip
OPTIONS = [
    {},
    {"clip_value": 0.5, "weight_decay": 0.1, "maximize": True},
    {"clip_norm": 0.3, "zero_grads": True, "ema_decay": 0.9},
    {"clip_tensor_norm": 0.5, "eps": (1e-3, 0.1), "d": 2.0, "ema_decay": 0.9},
]


@pytest.fixture(autouse=True)
def _all_threads_whatever_they_gain():
    sweep.set_forced(True)


def some(real, seed):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), real, order=order) for shape, order in SHAPES]


def trained(real, options, step="step", strided=False):
    opt = fastopt.Adafactor(some(real, 0), lr=0.1, **options)
    for k in range(3):
        grads = [None if (i + k) % 5 == 4 else g for i, g in enumerate(some(real, 1 + k))]
        if strided:  # in the other memory order
            grads = [g if g is None else np.array(g, order="F" if g.flags.c_contiguous else "C") for g in grads]
        getattr(opt, step)(grads)
        assert not options.get("zero_grads") or not any(g.any() for g in grads if g is not None)
    return [x.tobytes() for x in (*opt.params, *(x for state in opt.state.values() for x in state.values()))]


CASES = list(product(OPTIONS, REALS))


@pytest.mark.parametrize(("options", "real"), chosen([CASES[2], CASES[5]], CASES), ids=str)
def test_updates_are_the_twins_whoever_computes_which_cell(options, real):
    wanted = trained(real, options, "reference_step")
    for isa in ISAS:
        kernels.select(isa)
        for threads in THREADS if isa == ISAS[0] else THREADS[1:2]:
            sweep.set_threads(threads)
            for strided in chosen([threads == THREADS[1]], [False, True]):
                assert trained(real, options, strided=strided) == wanted, (isa, threads, strided)


def test_nothing_beside_a_matrix_is_written():
    """Guard bytes around parameters, gradients and the state that there is room for."""
    for shape, order in SHAPES:
        n = int(np.prod(shape))
        memory = [np.full(n + 64, 7.0, np.float32) for _ in range(2)]
        p, g = (m[32 : 32 + n].reshape(shape, order=order) for m in memory)
        g[...] = 1.0
        fastopt.Adafactor(p, lr=0.1).step(g)
        for m in memory:
            assert (m[:32] == 7).all()
            assert (m[32 + n :] == 7).all()
        assert n == 0 or (p != 7).all()


def test_stacks_of_matrices_in_fortran_order_are_refused():
    p = np.ones((2, 3, 4), order="F")
    with pytest.raises(ValueError, match=r"params has 3 axes in Fortran order: Adafactor wants .* in C order"):
        fastopt.Adafactor(p)


def test_gradients_that_are_0_leave_a_matrix_as_it_is():
    p = np.ones((3, 4), np.float32)
    opt = fastopt.Adafactor(p, eps=(1e-30, 1e-3))  # whose square is no number in float32
    opt.step(np.zeros_like(p))
    assert (p == 1).all()
