"""What test_mpi.py has many ranks do: `mpiexec -n 3 python -m mpi4py tests/mpi_scenarios.py folder`.

Each rank writes the name of each scenario that it has got through into a file of its own in the folder, and what went
wrong in one that it has not; then it ends all ranks. The folder has the file single.safetensors, of one process.
"""

from __future__ import annotations

import copy
import os
import re
import signal
import sys
import traceback
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mpi4py import MPI
from mpi_world import arrays_of, bits, exact, grads, params, total
from optimizers_table import RECORDS
from support import copied, leaves

import fastopt
import fastopt.mpi
from fastopt import checkpoint
from fastopt.engine.chunks import CHUNK
from fastopt.mpi import Disagreement, Sharded, files, messages, ranks, sharded, sum_gradients

COMM = MPI.COMM_WORLD
RANK, RANKS = COMM.rank, COMM.size
EACH_RANK = range(RANKS)
ALL, NOBODY = "all", "nobody"
SCENARIOS = {}
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


# ---- an optimizer on all ranks, beside one in a process of its own ----


class Pair:
    """A sharded optimizer, and one of a single process that is to have the same bits."""

    def __init__(self, cls=fastopt.AdamW, world=params, reduce="mean", buffer_bytes=1 << 20, **options):
        self.reduce, self.options = reduce, options
        self.shared, self.single = world(), world()
        self.opt = Sharded(cls, self.shared, comm=COMM, reduce=reduce, buffer_bytes=buffer_bytes, **options)
        self.one = cls(self.single, **options)

    def step(self, step, none=(), gradients=grads, **more):
        """Step both; what the sharded one returns."""
        of_ranks = [gradients(step, rank, none) for rank in EACH_RANK]
        done = self.opt.step(of_ranks[RANK], **more)
        assert self.one.step(total(*of_ranks, reduce=self.reduce), **more) is done
        return done

    def check(self):
        """Raise if the two differ in anything."""
        assert bits(self.shared) == bits(self.single)
        assert (self.opt.steps, self.opt.skipped) == (self.one.steps, self.one.skipped)
        assert self.opt.step_counts == self.one.step_counts
        assert self.opt.grad_norm == self.one.grad_norm
        whole = dict(zip(self.one.state, arrays_of(self.single), strict=True))
        for name, arrays in self.one.state.items():
            order = "C" if whole[name].flags.c_contiguous else "F"
            for slot, array in arrays.items():
                found = self.opt.state[name][slot]
                if isinstance(found, tuple):
                    offset, part = found
                    assert (part.ndim, part.dtype) == (1, array.dtype)
                    assert part.tobytes() == array.reshape(-1, order=order)[offset : offset + part.size].tobytes()
                else:
                    assert found == array

    def known(self):
        """All that a step may change on this rank."""
        state = {n: {s: x[1].tobytes() if isinstance(x, tuple) else x.tobytes() for s, x in a.items()}
                 for n, a in self.opt.state.items()}  # fmt: skip
        return bits(self.shared), state, self.opt.steps, self.opt.skipped, dict(self.opt.step_counts)


def refused(call, culprit, error, match, pair=None):
    """A call that fails: the culprit raises its error, all others a Disagreement with it; nothing has changed.

    The culprit is a rank, or ALL, each of which raises that error, or NOBODY: all raise a Disagreement.
    """
    before = pair.known() if pair else None
    with pytest.raises(BaseException, match=re.escape(match)) as caught:
        call()
    assert type(caught.value) is (error if culprit in (RANK, ALL) else Disagreement), repr(caught.value)
    if culprit not in (RANK, ALL, NOBODY):
        assert f"rank {culprit} failed" in str(caught.value)
        assert error.__name__ in str(caught.value)
    if pair is not None:
        assert pair.known() == before


@contextmanager
def failing(where, name, error=None, on=RANK, after=0):
    """Have a function fail on one rank, after so many calls."""
    error = error or MemoryError("no memory")
    real, calls = getattr(where, name), iter(range(1 << 30))

    def fail(*args, **more):
        if on == RANK and next(calls) >= after:
            raise error
        return real(*args, **more)

    with mock.patch.object(where, name, fail):
        yield


# ---- bits ----


def refuses(record):
    return record.name in ("Adafactor", "Muon") or record.cls.looks_ahead


@scenario
def every_class_has_the_bits_of_one_process_or_is_refused_by_name():
    for record in RECORDS:
        options = {**record.options, "weight_decay": 0.1} if "weight_decay" in record.cls._arguments else record.options
        if refuses(record):
            refused(lambda r=record, o=options: Sharded(r.cls, params(), comm=COMM, **o), ALL, ValueError, record.name)
            continue
        pair = Pair(record.cls, **options)
        for step in range(4):
            pair.step(step, none=["scalar"] * (step == 1) + ["w"] * (step == 2), loss_scale=record.loss_scale)
        pair.check()


@scenario
def groups_masks_schedules_and_options_have_the_bits_of_one_process():
    def grouped():
        tree = params()
        return [{"params": [tree["w"]], "lr": 0.5, "weight_decay": 0.2}, {"params": tree["layers"], "maximize": True}]

    def of_groups(step, rank, none):
        found = grads(step, rank)
        return [[found["w"]], found["layers"]]

    seen = []
    pair = Pair(world=grouped, lr=fastopt.schedules.LinearDecay(0.1, total=5), betas=(lambda t: 0.5 + t / 100, 0.9))
    for step in range(3):
        pair.step(step, gradients=of_groups)
    pair.check()
    pair = Pair(decay_mask=lambda path, array: seen.append((path, array.shape)) or array.ndim == 2, weight_decay=0.5)
    pair.step(0)
    pair.check()
    assert set(seen) == {("w", (50, 170)), ("layers.0", (7,)), ("layers.1.turned", (70, 90)), ("empty", (0, 3)),
                         ("scalar", ())}  # fmt: skip
    for options in ({"clip_norm": 0.5}, {"clip_norm": 1e9}, {"clip_tensor_norm": 0.1}, {"clip_value": 0.1},
                    {"ema_decay": 0.9}, {"maximize": True}, {"nonfinite": "skip"}):  # fmt: skip
        for reduce in ("mean", "sum"):
            pair = Pair(fastopt.Adam, reduce=reduce, **options)
            for step in range(3):
                pair.step(step, none=["scalar"] * (step == 1), loss_scale=3.0)
            pair.opt.lr = pair.one.lr = 0.03
            pair.step(3)
            pair.check()


@scenario
def state_in_files_has_the_bits_of_state_in_memory():
    pair = Pair(fastopt.LAMB, state_memory=fastopt.memory.files(FOLDER), ema_decay=0.5)
    for step in range(3):
        pair.step(step)
    pair.opt.save(FOLDER / f"files-{RANKS}.safetensors")
    pair.opt.load(FOLDER / f"files-{RANKS}.safetensors")
    pair.step(3)
    pair.check()


@scenario
def norms_that_overflow_or_vanish_clip_as_in_one_process():
    for size in (1e200, 1e-200):
        for options in ({"clip_norm": 1e-3}, {"clip_tensor_norm": 1e-3}):
            pair = Pair(fastopt.SGD, lambda: [np.ones(2 * CHUNK), np.ones(5)], **options)
            pair.step(0, gradients=lambda step, rank, none, s=size: [np.full(2 * CHUNK, s), np.full(5, 3 * s)])
            pair.check()


@scenario
def one_inf_or_nan_anywhere_is_one_decision_on_all_ranks():
    for bad in range(RANKS):
        for leaf, place in (("w", (49, 169)), ("w", (0, 0)), ("turned", (69, 3))):

            def gradients(step, rank, none, bad=bad, leaf=leaf, place=place):
                found = grads(step, rank)
                if rank == bad and step == 1:
                    array = found["layers"][1][leaf] if leaf == "turned" else found[leaf]
                    array[place] = np.inf
                return found

            pair = Pair(nonfinite="skip", clip_norm=1.0)
            assert [pair.step(step, gradients=gradients) for step in range(3)] == [True, False, True]
            pair.check()

            pair = Pair(nonfinite="raise", zero_grads=True)
            mine = gradients(1, RANK, ())
            before = pair.known()
            shown = "grads['layers'][1]['turned']" if leaf == "turned" else "grads['w']"
            wanted = f"{shown}[{place[0]}, {place[1]}] is inf: no parameter was changed, gradients were zeroed"
            with pytest.raises(FloatingPointError, match=re.escape(wanted)):
                pair.opt.step(mine)
            assert pair.known() == before
            assert not any(x.any() for x in leaves(mine))


@scenario
def gradients_are_zeroed_or_left_alone_as_wanted():
    for zero in (False, True):
        pair, mine = Pair(zero_grads=zero), grads(0, RANK)
        before = bits(mine)
        pair.opt.step(mine)
        assert bits(mine) == ([bytes(x.nbytes) for x in leaves(mine)] if zero else before)
    pair.opt.zero_grads = False
    mine = grads(0, RANK)
    pair.opt.step(mine)
    assert bits(mine) == before


@scenario
def any_sizes_and_message_lengths_have_the_bits_of_one_process():
    sizes = st.sampled_from([0, 1, 2, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
    lengths = st.sampled_from([1, 1000, 40_000, 1 << 20])
    leaf = st.tuples(sizes, st.sampled_from(["f4", "f8"]), st.booleans())

    @settings(derandomize=True, database=None, deadline=None, max_examples=60, phases=[Phase.generate])
    @given(st.lists(leaf, min_size=1, max_size=6), lengths, st.sampled_from([None, 0.1]))
    def check(specs, buffer_bytes, clip_norm):
        def world():
            rng = np.random.default_rng(0)
            return [rng.normal(size=n).astype(dtype) for n, dtype, _ in specs]

        def gradients(step, rank, none):
            rng = np.random.default_rng([step, rank])
            of_ranks = [rng.normal(size=n).astype(dtype) for n, dtype, _ in specs]
            of_ranks[0].flags.writeable = False
            return [None if left and step else g for g, (_, _, left) in zip(of_ranks, specs, strict=True)]

        with reported():
            pair = Pair(fastopt.Adam, world, buffer_bytes=buffer_bytes, clip_norm=clip_norm)
            for step in range(3):
                pair.step(step, gradients=gradients)
            pair.check()
            pair.opt.close()

    check()


@scenario
def parts_are_runs_of_whole_chunks_of_about_equal_size():
    assert messages.most_bytes(1 << 40, 4) < 1 << 31, "what one message can have"
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = [int(n) for n in rng.integers(0, 5 * CHUNK, rng.integers(1, 8))]
        itemsizes = [int(n) for n in rng.choice([4, 8], len(sizes))]
        for n in (1, 2, 3, 8):
            runs = messages.runs(sizes, itemsizes, n)
            assert len(runs) == n
            reached = [0] * len(sizes)
            for leaf, start, stop in (part for run in runs for part in run):
                assert start == reached[leaf] < stop
                assert start % CHUNK == 0
                assert not any(reached[leaf + 1 :]), "leaves in order"
                reached[leaf] = stop
            assert reached == sizes
            bytes_of = [sum((stop - start) * itemsizes[leaf] for leaf, start, stop in run) for run in runs]
            assert max(bytes_of) - sum(bytes_of) / n <= 8 * CHUNK, "no more than one chunk above the mean"


@scenario
def sums_of_all_gradients_have_the_bits_of_the_tree():
    for reduce in ("sum", "mean"):
        for most in (64, 1 << 20):
            with mock.patch("fastopt.mpi.sums.BUFFER", most * (RANKS + 1)):
                found = sum_gradients(grads(0, RANK, ["scalar"]), COMM, reduce=reduce)
            wanted = total(*(grads(0, rank, ["scalar"]) for rank in EACH_RANK), reduce=reduce)
            pairs = zip(leaves(found), leaves(wanted), strict=True)
            assert all(a is b is None or (a.shape == b.shape and a.tobytes() == b.tobytes()) for a, b in pairs)
    for bad in EACH_RANK:
        mine = {"a": np.ones(3, int if bad == RANK else float)}
        refused(lambda mine=mine: sum_gradients(mine, COMM), bad, TypeError, "grads['a'] has dtype int64")
        mine = {"a": np.ones(4 if bad == RANK else 3)}
        if RANKS > 1:
            refused(lambda mine=mine: sum_gradients(mine, COMM), NOBODY, None, "other gradients than rank 0")


@scenario
def averages_are_held_on_all_ranks_and_leave_no_trace():
    for cls, options in ((fastopt.ScheduleFreeAdamW, {}), (fastopt.SGD, {"ema_decay": 0.5})):
        pair = Pair(cls, **options)
        for step in range(3):
            pair.step(step)
        before = pair.known()
        with pair.opt.averaged(), pair.one.averaged():
            assert bits(pair.shared) == bits(pair.single) != before[0]
            refused(lambda p=pair: p.opt.step(grads(9, RANK)), ALL, RuntimeError, "averaged()")
        assert pair.known() == before
        pair.step(3)
        pair.check()
    refused(lambda: Pair().opt.averaged().__enter__(), ALL, TypeError, "keeps no average")


# ---- failures: of each rank, in each phase ----


@scenario
def an_optimizer_that_cannot_be_made_on_one_rank_is_made_on_none():
    for bad in EACH_RANK:
        here = bad == RANK

        def make(cls=fastopt.AdamW, tree=None, **options):
            return Sharded(cls, params() if tree is None else tree, comm=COMM, **options)

        wrong = params()
        wrong["w"] = np.ones((50, 170), np.float32 if not here else np.int32)
        refused(lambda w=wrong: make(tree=w), bad, TypeError, "params['w']")
        refused(lambda h=here: make(lr=-1.0 if h else 1.0), bad, ValueError, "lr is -1.0")
        refused(lambda h=here: make(cls=fastopt.NAG if h else fastopt.SGD), bad, ValueError, "NAG")
        refused(lambda h=here: make(reduce="max" if h else "sum"), bad, ValueError, "reduce")
        refused(lambda h=here: make(buffer_bytes=0.5 if h else 100), bad, TypeError, "buffer_bytes")
        with failing(sharded.np, "empty_like", on=bad):
            refused(make, bad, MemoryError, "no memory")
        if RANKS > 1:
            other = params()
            other["w"] = np.ones((50, 170 + here), np.float32)
            refused(lambda o=other: make(tree=o), NOBODY, None, "other parameters or settings")
            refused(lambda h=here: make(cls=fastopt.Adam if h else fastopt.AdamW), NOBODY, None, "other parameters")
            refused(lambda h=here: make(reduce="sum" if h else "mean"), NOBODY, None, "other parameters or settings")
            refused(lambda h=here: make(tree=params(1 if h else 0)), NOBODY, None, "other values in its parameters")
    refused(lambda: Sharded(fastopt.Adam, params(), comm=None), ALL, TypeError, "comm is None")
    refused(lambda: Sharded(fastopt.Adam, [], comm=COMM), ALL, ValueError, "no parameters")
    for cls in (fastopt.NAG, fastopt.Split, fastopt.Muon, fastopt.Adafactor):
        refused(lambda c=cls: Sharded(c, [np.ones((2, 2))], comm=COMM), ALL, ValueError, cls.__name__)
    refused(lambda: Sharded(Sharded, params(), comm=COMM), ALL, TypeError, "wanted a class of optimizers")


class Moody(fastopt.AdamW):
    """One that may fail when coefficients are made."""

    fails = False

    @classmethod
    def scalars(cls, h, t):
        if Moody.fails:
            raise MemoryError("of scalars")
        return super().scalars(h, t)


@scenario
def a_step_that_cannot_be_taken_on_one_rank_is_taken_on_none():
    for bad in EACH_RANK:
        here = bad == RANK
        pair = Pair(Moody, clip_norm=1.0)
        pair.step(0)

        def step(change=None, pair=pair, **more):
            mine = grads(1, RANK)
            if change is not None:
                mine |= change
            return lambda: pair.opt.step(mine, **more)

        refused(step({"w": np.ones(3, np.float32)} if here else {}), bad, ValueError, "grads['w'] has shape (3,)", pair)
        refused(step({"more": 1} if here else {}), bad, ValueError, "grads has 'more'", pair)
        refused(step({"scalar": "one"} if here else {}), bad, TypeError, "grads['scalar']", pair)
        refused(step(loss_scale=-1.0 if here else 2.0), bad, ValueError, "loss_scale is -1.0", pair)
        lr = pair.opt.lr
        if here:
            pair.opt.param_groups[0]["lr"] = "fast"
        refused(step(), bad, TypeError, "lr", pair)
        pair.opt.lr = lr

        def falls(steps):
            raise KeyboardInterrupt("stop")

        if here:
            pair.opt.lr = falls
        refused(step(), bad, KeyboardInterrupt, "stop", pair)
        pair.opt.lr = lr
        Moody.fails, pair.opt.betas = here, (0.5, 0.6)
        refused(step(), bad, MemoryError, "of scalars", pair)
        Moody.fails, pair.opt.betas = False, (0.9, 0.999)
        with failing(sharded, "in_order_of", on=bad):
            refused(step(), bad, MemoryError, "no memory", pair)
        pair.shared["w"].flags.writeable = not here
        refused(step(), bad, ValueError, "params['w'] is read-only", pair)
        pair.shared["w"].flags.writeable = True
        pair.step(1)
        pair.check()


@scenario
def ranks_that_want_different_steps_take_none():
    if RANKS == 1:
        return
    for bad in range(1, RANKS):
        here = bad == RANK
        pair = Pair()
        pair.step(0)

        def differs(match, change=None, pair=pair, bad=bad, **more):
            def call():
                pair.opt.step(grads(1, RANK) | (change or {}), **more)

            with mock.patch.object(Sharded, "_sum_gradients", side_effect=AssertionError("gradients were sent")):
                refused(call, NOBODY, None, f"rank {bad} calls step() with other {match} than rank 0", pair)

        differs("gradients that are None", {"scalar": None} if here else {})
        differs("hyper-parameters or options", loss_scale=2.0 if here else 4.0)
        for name, one, other in (
            ("lr", 0.1, 0.2),
            ("lr", lambda t: 0.1, lambda t: 0.1 + 1e-16),
            ("eps", 1e-3, 1e-4),
            ("weight_decay", 0.0, 0.1),
            ("maximize", True, False),
            ("clip_value", 1.0, 2.0),
            ("clip_norm", 1.0, None),
            ("nonfinite", "skip", "raise"),
            ("zero_grads", True, False),
            ("decay_mask", lambda path, array: True, lambda path, array: False),
            ("ema_decay", 0.1, 0.2),
        ):
            before = getattr(pair.opt, name)
            setattr(pair.opt, name, one if here else other)
            differs("hyper-parameters or options")
            setattr(pair.opt, name, before)
        pair.opt.decay_mask = pair.opt.ema_decay = None
        kept = fastopt.get_flush_denormals()
        fastopt.set_flush_denormals(not here)
        differs("hyper-parameters or options")
        fastopt.set_flush_denormals(kept)
        pair = Pair(fastopt.SGD)
        pair.step(0)
        if here:
            pair.opt.reset()
        differs("number of steps", pair=pair)
        pair = Pair()
        refused(lambda h=here, p=pair: p.opt.save(FOLDER / "x") if h else p.opt.step(grads(0, RANK)), "nobody", None,
                f"rank {bad} calls save(): rank 0 calls step()", pair)  # fmt: skip
        pair.opt.lr = lambda t: 0.25  # another function on each rank: its value counts
        pair.one.lr = 0.25
        pair.step(0)
        pair.check()


@scenario
def what_fails_before_the_first_write_changes_nothing_and_after_it_tears():
    error = MPI.Exception(MPI.ERR_OTHER)
    for after in range(3):
        pair = Pair(buffer_bytes=64 * 4 * RANKS)
        pair.step(0)
        with waiting(error, after):
            refused(lambda p=pair: p.opt.step(grads(1, RANK)), ALL, MPI.Exception, "MPI", pair)
        COMM.Barrier()
        # Messages of the round that was broken off are still there: a communicator of its own keeps them apart.
        pair.opt._comm = COMM.Dup()
        pair.step(1)
        pair.check()
    for after in (0, 2):
        pair = Pair(buffer_bytes=64 * 4 * RANKS)
        pair.step(0)
        path = FOLDER / f"before-{RANKS}.safetensors"
        pair.opt.save(path)
        with mock.patch.object(Sharded, "_spread", spread_that_fails(error, after)):
            refused(lambda p=pair: p.opt.step(grads(1, RANK)), ALL, MPI.Exception, "MPI")
        COMM.Barrier()
        pair.opt._comm = COMM.Dup()
        for call in (lambda p=pair: p.opt.step(grads(1, RANK)), lambda p=pair: p.opt.save(FOLDER / "torn")):
            refused(call, ALL, RuntimeError, "torn")
        assert not (FOLDER / "torn").exists()
        pair.opt.load(path)
        pair.step(1)
        pair.check()


@contextmanager
def waiting(error, after):
    """Have the exchange of gradients fail on all ranks, before so many rounds."""
    real = Sharded._in_rounds

    def broken(self, post, finish):
        def until(k):
            if k >= after:
                raise error
            finish(k)

        real(self, post, until)

    with mock.patch.object(Sharded, "_in_rounds", broken):
        yield


def spread_that_fails(error, after):
    real = Sharded._spread

    def spread(self, active):
        with waiting(error, after):
            real(self, active)

    return spread


@scenario
def signals_wait_for_the_end_of_a_step():
    for bad in EACH_RANK:
        pair = Pair()

        def interrupts(steps, bad=bad):
            if bad == RANK:
                os.kill(os.getpid(), signal.SIGINT)
            return 0.5

        pair.one.lr = 0.5
        pair.opt.lr = interrupts
        with pytest.raises(KeyboardInterrupt) if bad == RANK else nullcontext():
            assert pair.opt.step(grads(0, RANK))
        pair.one.step(total(*(grads(0, rank) for rank in EACH_RANK)))
        pair.check()


# ---- checkpoints ----


@scenario
def checkpoints_are_those_of_one_process_byte_for_byte():
    path, single = FOLDER / f"{RANKS}.safetensors", FOLDER / f"single-{RANKS}-{RANK}.safetensors"
    for record in RECORDS:
        if refuses(record) or record.name in ("Lion", "RMSprop"):
            continue
        pair = Pair(record.cls, buffer_bytes=5000, **record.options)
        for step in range(2):
            pair.step(step, none=["scalar"] * (step == 1))
        for with_params in (True, False):
            pair.opt.save(path, params=with_params, metadata={"note": "of all"})
            pair.one.save(single, params=with_params, metadata={"note": "of all"})
            assert path.read_bytes() == single.read_bytes(), record.name
            COMM.Barrier()
            again = Pair(record.cls, **record.options)
            kept = bits(again.shared)
            for opt in (again.opt, again.one):
                opt.load(path, params=with_params, in_place=record.name == "Adam")
            again.check()
            assert (bits(again.shared) == kept) is not with_params
        again.step(3)
        again.check()


@scenario
def a_file_of_one_process_is_continued_on_any_number_of_ranks():
    pair = Pair(reduce="sum", lr=0.5, buffer_bytes=3000)
    pair.opt.load(FOLDER / "single.safetensors")
    for step in range(3, 6):
        pair.opt.step(exact(step, RANK, RANKS))
    pair.opt.save(FOLDER / f"continued-{RANKS}.safetensors")


@scenario
def a_save_that_fails_on_rank_0_leaves_nobody_waiting():
    pair = Pair()
    pair.step(0)
    path = FOLDER / f"old-{RANKS}.safetensors"
    pair.opt.save(path)
    old = path.read_bytes()
    pair.step(1)
    COMM.Barrier()
    refused(lambda: pair.opt.save(FOLDER / "no" / "folder"), 0, FileNotFoundError, "no", pair)
    refused(lambda: pair.opt.save(path, metadata={"fastopt.x": ""}), 0, ValueError, "fastopt.x", pair)
    for after in range(6):
        with failing(files.Files, "_fetch", OSError(28, "No space left on device"), on=0, after=after):
            refused(lambda: pair.opt.save(path), 0, OSError, "No space left", pair)
    for bad in EACH_RANK:
        with failing(type(pair.opt._shard), "_text", on=bad):
            refused(lambda: pair.opt.save(path), bad, MemoryError, "no memory", pair)
        if RANKS > 1 and bad > 0:
            lr = pair.opt.lr
            pair.opt.lr = 0.7 if bad == RANK else lr
            refused(lambda: pair.opt.save(path), NOBODY, None, "other hyper-parameters or number of steps", pair)
            pair.opt.lr = lr
    assert path.read_bytes() == old
    assert not list(FOLDER.glob(".fastopt*"))
    pair.step(2)
    pair.check()


@scenario
def a_load_that_fails_anywhere_changes_nothing_or_tears_in_place():
    pair = Pair()
    pair.step(0)
    path, damaged = FOLDER / f"good-{RANKS}.safetensors", FOLDER / f"damaged-{RANKS}.safetensors"
    pair.opt.save(path)
    if RANK == 0:
        text = bytearray(path.read_bytes())
        text[-5] ^= 1
        damaged.write_bytes(text)
    COMM.Barrier()
    pair.step(1)
    for in_place in (False, True):

        def load(path=path, in_place=in_place, opt=None, **more):
            return lambda: (opt or pair.opt).load(path, in_place=in_place, **more)

        refused(load(FOLDER / "none"), 0, FileNotFoundError, "none", pair)
        refused(load(damaged), 0, ValueError, "digest does not match", pair)
        for other in (Pair(fastopt.SGD), Pair(world=lambda: {"w": np.ones(3)})):
            refused(load(opt=other.opt), ALL, ValueError, "cannot be loaded", other)
        wrong = params()
        wrong["w"] = wrong["w"].T.copy()
        other = Pair(world=lambda w=wrong: copied(w))
        refused(load(opt=other.opt), ALL, ValueError, "as float32 (50, 170): wanted float32 (170, 50)", other)
        for bad in EACH_RANK:
            with failing(files.Files, "_fit", on=bad):
                refused(load(), bad, MemoryError, "no memory", pair)
            if not in_place:
                with failing(files, "_unset", on=bad):
                    refused(load(), bad, MemoryError, "no memory", pair)
            if bad > 0:
                refused(load(params=bad != RANK), NOBODY, None, "other arguments", pair)
        for after in range(2, 12, 3) if not in_place else ():
            with failing(checkpoint.Reader, "_block", OSError(5, "Input/output error"), on=0, after=after):
                refused(load(), 0, OSError, "Input/output error", pair)

    def torn():
        for call in (lambda: pair.opt.step(grads(2, RANK)), lambda: pair.opt.save(path)):
            refused(call, ALL, RuntimeError, "torn")
        pair.opt.load(path)
        pair.one.load(path)
        pair.step(1)
        pair.check()

    blocks = len(checkpoint.Reader(path).specs)
    with failing(checkpoint.Reader, "_block", OSError(5, "Input/output error"), on=0, after=blocks + 3):
        refused(lambda: pair.opt.load(path, in_place=True), 0, OSError, "Input/output error")
    torn()
    for in_place in (False, True):
        for bad in EACH_RANK:
            with failing(files._Fitting, "replace", on=bad):
                refused(lambda i=in_place: pair.opt.load(path, in_place=i), bad, MemoryError, "no memory")
            torn()


# ---- the rest of what it is ----


@scenario
def it_looks_like_an_optimizer_of_one_process():
    pair = Pair(lr=0.5)
    opt = pair.opt
    assert opt.params is pair.shared
    assert (opt.lr, opt.current_lr, opt.betas, opt.clip_norm, opt.steps) == (0.5, 0.5, (0.9, 0.999), None, 0)
    opt.param_groups[0]["lr"] = 0.25
    assert opt.lr == 0.25
    assert repr(opt).startswith("Sharded(AdamW(lr=0.25")
    assert repr(opt).endswith(f"rank {RANK} of {RANKS})")
    ours = [array for arrays in opt.state.values() for _, array in arrays.values()]
    assert opt.nbytes == sum(array.nbytes for array in ours)
    assert COMM.allreduce(opt.nbytes) == pair.one.nbytes
    for name, call in {
        "parts": lambda: opt.parts,
        "lookahead": lambda: opt.lookahead,
        "reference_step": lambda: opt.reference_step,
        "bind": lambda: opt.bind,
        "state_dict": lambda: opt.state_dict,
        "momentun": lambda: opt.momentun,
        "learning_rate": lambda: setattr(opt, "learning_rate", 1),
        "steps": lambda: setattr(opt, "steps", 1),
    }.items():
        refused(call, ALL, AttributeError, name)
    refused(lambda: copy.copy(opt), ALL, TypeError, "cannot be copied or pickled")


@scenario
def the_processors_of_a_machine_are_shared():
    processors = sorted(os.sched_getaffinity(0))
    with mock.patch.dict(fastopt.threads.LIMITS, clear=True):
        assert ranks.share_of_processors(COMM) == max(1, len(processors) // RANKS)
        if RANKS == 2 and len(processors) >= 2:  # each has one of its own
            with mock.patch("os.sched_getaffinity", return_value={processors[RANK]}):
                assert ranks.share_of_processors(COMM) == 1
        with mock.patch("os.sched_getaffinity", return_value=set(range(16 * RANK, 16 * RANK + 16))):
            assert ranks.share_of_processors(COMM) == 16
            with mock.patch.dict(fastopt.threads.LIMITS, {"cgroup quota": 8}):
                assert ranks.share_of_processors(COMM) == 8 // RANKS


# ---- running them ----


@contextmanager
def reported():
    """Write down what goes wrong, and end all ranks: others may wait for this one for ever."""
    try:
        yield
    except BaseException:
        with open(FOLDER / f"rank-{RANK}", "a") as file:
            file.write(f"FAILED on rank {RANK}:\n{traceback.format_exc()}")
        COMM.Abort(1)
        os._exit(1)


if __name__ == "__main__":
    for name, function in SCENARIOS.items():
        with reported():
            function()
        with open(FOLDER / f"rank-{RANK}", "a") as file:
            file.write(f"{name}\n")
        COMM.Barrier()
