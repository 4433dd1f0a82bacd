"""Bit for bit: the kernels and the NumPy twin of each class, whatever the instruction set, threads and sizes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from optimizers_table import (
    CASES,
    FIRST_OF_KERNELS,
    ISAS,
    KINDS,
    MAIN,
    REALS,
    RECORDS,
    THREADS,
    WITHOUT_RECORD,
    chosen,
    stepped,
    sums_up,
)

import fastopt
from fastopt.engine import chunks, kernels, state, sweep
from fastopt.optimizers import OPTIMIZERS

pytestmark = pytest.mark.no_cover  # what these tests run often is run by others too

C = chunks.CHUNK
# Nothing, one of each size to four lanes of the widest registers (a strip) and one past, two strips, the edges of what
# has its first strip at a cache line, those of a chunk, and enough chunks for five threads; None is an array without
# dimensions.
SIZES = (0, None, *range(1, 4 * 16 + 2), 127, 128, 129, *range(1023, 1023 + 17), C - 1, C, C + 1, 3 * C + 5, None, 0,
         4 * C + 40_000, 1)  # fmt: skip
FEW_SIZES = (None, 1, 3, 17, 0, 66, 1025, C + 1, 2 * C + 7, 2)  # less and more than a strip and a chunk, odd ends
EVERYWHERE = chosen({str(r) for r in MAIN}, FIRST_OF_KERNELS)  # at all sizes on every instruction set, with all threads
STEPS = 3


@lru_cache(maxsize=32)
def arrays(real, seed, sizes=SIZES):
    """One array a size, of normal numbers, none of them 0."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=() if size is None else size).astype(real)) for size in sizes]


@lru_cache(maxsize=4)
def gradients(real, sizes):
    """Of each step; None here and there, so that parameters differ in their number of updates."""
    steps = [arrays(real, 100 + step, sizes) for step in range(STEPS)]
    return [[None if (i + 3 * step) % 11 == 5 else g for i, g in enumerate(step_)] for step, step_ in enumerate(steps)]


def snapshot(params, opt):
    """Every byte that a step may write, by its name; and the counts."""
    found = {f"params[{i}]": p.tobytes() for i, p in enumerate(params)}
    found |= {f"{leaf}.{key}": x.tobytes() for leaf, state in opt.state.items() for key, x in state.items()}
    return found, opt.step_counts


@lru_cache(maxsize=2)
def by_the_twin(case_index, real, sizes):
    """What the NumPy twin makes of it, step by step."""
    case = CASES[case_index]
    params = [p.copy() for p in arrays(real, 1, sizes)]
    opt = case.make(params)
    snapshots = []
    for grads in gradients(real, sizes):
        assert case.step(opt, [None if g is None else g.copy() for g in grads], reference=True)
        snapshots.append(snapshot(params, opt))
    return snapshots


@pytest.fixture(autouse=True)
def _all_threads_whatever_they_gain():
    sweep.set_forced(True)


def differences(got, wanted):
    return [name for name in wanted if got.get(name) != wanted[name]]


@pytest.fixture
def guarded_state(guarded, monkeypatch):
    """State arrays have guard bytes around them as well."""
    made = []
    monkeypatch.setattr(state, "empty_like", lambda p: made.append(guarded(p)) or made[-1])
    return made


RUNS = [
    (i, real, isa)
    for i, case in enumerate(CASES)
    for real in REALS
    for isa in (ISAS if str(case) in FIRST_OF_KERNELS else ISAS[:1])
]


@pytest.mark.parametrize(("case_index", "real", "isa"), RUNS, ids=[f"{CASES[i]}-{real}-{isa}" for i, real, isa in RUNS])
def test_kernels_equal_the_numpy_twin(case_index, real, isa, guarded, guarded_state):
    case = CASES[case_index]
    everywhere = str(case) in EVERYWHERE
    sizes = SIZES if everywhere or (str(case) in FIRST_OF_KERNELS and isa == ISAS[0]) else FEW_SIZES
    wanted = by_the_twin(case_index, real, sizes)
    kernels.select(isa)
    for threads in THREADS if everywhere else THREADS[-1:]:  # which is the sweep's business, not the rule's
        sweep.set_threads(threads)
        params = guarded.each(arrays(real, 1, sizes))
        opt = case.make(params)
        for step, grads in enumerate(gradients(real, sizes)):
            copies = iter(guarded.each([g for g in grads if g is not None]))
            mine = [None if g is None else next(copies) for g in grads]
            assert case.step(opt, mine)
            got, counts = snapshot(params, opt)
            assert not differences(got, wanted[step][0]), f"step {step + 1} with {threads} threads"
            assert counts == wanted[step][1]
            for g, original in zip(mine, grads, strict=True):
                if g is not None:
                    untouched = np.zeros_like(original) if case.options.get("zero_grads") else original
                    assert g.tobytes() == untouched.tobytes(), "a gradient was written"
    state = {id(x) for arrays in opt._plan.states for x in arrays.values()}
    assert state <= set(map(id, guarded_state)), "state is not allocated by empty_like any more: guard it here"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("real", REALS)
def test_lookahead_is_p_minus_momentum_times_m_and_then_the_old_bits(real, isa, guarded, guarded_state):
    kernels.select(isa)
    for threads in THREADS:
        sweep.set_threads(threads)
        params = guarded.each(arrays(real, 1))
        opt = fastopt.NAG(params, lr=0.1, momentum=0.7)
        eta = np.dtype(real).type(0.7)
        for grads in gradients(real, SIZES):
            stepped(opt, grads)
            old = [p.copy() for p in params]
            m = [state["momentum_buffer"] for state in opt.state.values()]
            with opt.lookahead():
                for p, before, momentum in zip(params, old, m, strict=True):
                    assert p.tobytes() == (before - eta * momentum).tobytes()
            for p, before in zip(params, old, strict=True):
                assert p.tobytes() == before.tobytes()


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("size", [1, 15, 16, 17, 1023, 1025, C + 1, 20 * C + 3, 170 * C + 3])
def test_clipping_by_the_norm_is_the_same_for_all_instruction_sets_and_threads(size, real):
    grads = [np.random.default_rng(size).normal(size=size).astype(real), np.ones(3, real)]
    results = set()
    for isa in ISAS:
        kernels.select(isa)
        for threads in THREADS:
            sweep.set_threads(threads)
            for layout in (lambda g: g, lambda g: np.repeat(g, 2)[::2]):
                params = [np.zeros_like(g) for g in grads]
                fastopt.SGD(params, lr=1.0, clip_norm=0.1).step(list(map(layout, grads)))
                results.add(b"".join(p.tobytes() for p in params))
    assert len(results) == 1


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("record", [r for r in RECORDS if str(r) in FIRST_OF_KERNELS and not sums_up(r)], ids=str)
def test_how_tensors_are_cut_up_does_not_matter(record, real):
    whole = arrays(real, 1)[-2].copy()
    pieces = np.split(whole.copy(), [1, 17, C + 3, 9 * C])
    one, many = record.make(whole), record.make(pieces)
    for step in range(STEPS):
        g = arrays(real, 200 + step)[-2]
        record.step(one, g)
        record.step(many, np.split(g, [1, 17, C + 3, 9 * C]))
    assert whole.tobytes() == b"".join(piece.tobytes() for piece in pieces)


@pytest.mark.parametrize("mib", [4, 16])
@pytest.mark.parametrize("name", KINDS)
def test_memory_larger_than_a_cache_is_updated_like_any_other(name, mib):
    """From some size on, a plan learns whether to ask for memory ahead, and up to 16 MiB steps go to and fro."""
    record = next(record for record in CASES if record.name == name)
    n = (mib << 18) + C + 3
    p, g = (np.random.default_rng(seed).normal(size=n).astype("float32") for seed in (1, 2))
    q = p.copy()
    opt, twin = record.make(p), record.make(q)
    for threads, learning in (1, False), (3, False), *2 * [(1, True)], *2 * [(2, True)], *4 * [(3, True)]:
        sweep.set_threads(threads)
        sweep.set_forced(not learning)
        record.step(opt, g)
        record.step(twin, g, reference=True)
        assert np.array_equal(p.view("u4"), q.view("u4"))
        for key, x in opt.state["params"].items():
            assert np.array_equal(np.ravel(x).view("u4"), np.ravel(twin.state["params"][key]).view("u4")), key


def test_every_class_has_a_record():
    assert WITHOUT_RECORD == [], "tests/optimizers_table.py: write a record for these, and a formula in oracles.py"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_hyper_parameter_of_a_class_is_varied_in_its_records(name):
    varied = {key for record in RECORDS if record.name == name for key in record.options}
    wanted = set(OPTIMIZERS[name].hyper_parameters) - set(fastopt.Optimizer.hyper_parameters)
    if OPTIMIZERS[name] is fastopt.AdamW:
        wanted -= {"betas", "eps", "eps_hat", "cautious"}  # they are Adam's, varied there
    assert varied >= wanted


def test_every_rule_and_kind_of_decay_is_under_test():
    tested = {case.kernel for case in CASES}
    for rule in kernels.rules():
        if rule not in ("lookahead", "restore", "ema", "muon"):  # tested above and in files of their own
            assert {(rule, kind) for kind in reachable(rule)} <= tested


def reachable(rule):
    """The kinds of decay that a rule can be told to have."""
    found = set()
    for record in RECORDS:
        if record.kernel[0] == rule:
            h = record.hyper()
            free = [name for name in ("weight_decay", "decoupled") if record.cls.hyper_parameters[name].init]
            for decay, decoupled in ((0.0, False), (0.1, False), (0.1, True)):
                given = {"weight_decay": decay, "decoupled": decoupled}
                found.add(record.cls.kind(h | {name: given[name] for name in free}))
    return found
