"""Ctrl-C at any moment: what was going on is done as a whole or not at all, and the optimizer goes on working.

Once by a timer whose signal comes at random moments in work on large arrays; and once, over small ones, at every moment
at which Python looks for signals while fastopt's own Python code runs.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import signal
import sys
import threading
import time
from functools import cache, lru_cache
from opcode import opname

import numpy as np
import pytest
from optimizers_table import KINDS, chosen
from support import SCRATCH, is_torn, known, leaves, looked_ahead

import fastopt
from fastopt import NAG, SGD, Adam
from fastopt.engine import sweep
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import LinearDecay

# A file that is open when Ctrl-C comes is closed by whoever collects it.
pytestmark = [
    pytest.mark.no_cover,  # nor is who measures coverage to be interrupted
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _ctrl_c_interrupts():
    """Also where the suite was started in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


LOOKING = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
PLACES = (os.path.dirname(fastopt.__file__), contextlib.__file__, __file__)


def whole(opt, params):
    """All that steps depend on, large arrays by their digests."""
    found = hashlib.blake2b()
    for p in leaves(params):
        found.update(np.ascontiguousarray(p))
    for slots in opt.state.values():
        for slot, array in slots.items():
            if slot != SCRATCH:
                found.update(slot.encode())
                found.update(np.ascontiguousarray(array))
    return found.hexdigest(), *known_but_arrays(opt)


def known_but_arrays(opt):
    groups = [{key: value for key, value in group.items() if key != "params"} for group in opt.param_groups]
    return opt.step_counts, opt.steps, opt.skipped, groups


# ---- interrupts ----


class Timer:
    """Interrupts what it runs after a while, once."""

    def __init__(self):
        self.armed = False

    def handle(self, signum, frame):
        while frame is not None:  # who measures coverage must not be interrupted: it would leave its lock taken
            if "coverage" in frame.f_code.co_filename:
                signal.setitimer(signal.ITIMER_REAL, 1e-4)
                return
            frame = frame.f_back
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def __enter__(self):
        self.before = signal.signal(signal.SIGALRM, self.handle)
        return self

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)

    def run(self, act, after):
        """Run something for so long; whether it was interrupted."""
        try:
            try:
                self.armed = True
                signal.setitimer(signal.ITIMER_REAL, max(after, 1e-6))
                act()
            finally:
                self.armed = False
        except KeyboardInterrupt:
            return True
        return False


@cache
def looks(code):
    """Where Python looks for signals after an instruction of this code."""
    names = [opname[number] for number in code.co_code]
    return [name.startswith(LOOKING) and not name.startswith("CALL_INTRINSIC") for name in names]


# From Python 3.12 on, tracing does not tell of all opcodes of a function that runs for the first time, and some calls
# are no moments any more: what is short may then have fewer moments than it should.
ALL_ARE_TOLD = sys.version_info < (3, 12)


def cut_off(act, n):
    """Run something up to the n-th moment at which a signal could be handled; whether it came so far.

    Python handles signals when a function begins, when a loop goes back, and when a call has returned.
    """
    left = n
    last = {}

    def trace(frame, event, _):
        nonlocal left
        if not frame.f_code.co_filename.startswith(PLACES):
            return None
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            before = last.get(frame)
            last[frame] = looks(frame.f_code)[frame.f_lasti]
            if before:
                left -= 1
                if left == 0:
                    signal.raise_signal(signal.SIGINT)  # whose handler raises, here, unless it is held back
        elif event == "return":
            last.pop(frame, None)
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def moments(name=None, most=3000):
    """The first, the second, ...; in `make test` each third for a class, from another one on by its name."""
    yield from range(1, most) if name is None else range(chosen(1 + len(name) % 3, 1), most, chosen(3, 1))
    raise AssertionError(f"more than {most} moments")


def torn(opt, path):
    found = is_torn(opt, lambda: opt.step(None), lambda: opt.save(path / "torn"))
    assert not (path / "torn").exists()
    return found


# ---- at every moment, over small arrays ----


def another(name):
    """A hyper-parameter that another rule comes with, where there is such a one."""
    return {"weight_decay": 0.5} if "weight_decay" in OPTIMIZERS[name]._arguments else {"l2": 0.5}


def small(cls, steps=2, **options):
    params = {"w": [np.linspace(-1, 1, 6).reshape(2, 3), np.full(3, 0.5, "float32")], "b": np.asarray(0.25)}
    opt = cls(params, lr=LinearDecay(0.1, total=50), **options)
    for t in range(steps):
        looked_ahead(opt).step(small_grads(t))
    return opt, params


@lru_cache
def small_grads(t):
    rng = np.random.default_rng(t)
    return {"w": [rng.normal(size=(2, 3)), rng.normal(size=3).astype("float32")], "b": np.asarray(rng.normal())}


def two_more(opt, params):
    for t in (90, 91):
        looked_ahead(opt).step(small_grads(t))
    return whole(opt, params)


@lru_cache
def undisturbed(cls, steps, **options):
    return two_more(*small(cls, steps, **options))


def goes_on(opt, params, steps, **options):
    """From any moment on: its next steps are those of an optimizer that was never disturbed."""
    assert two_more(opt, params) == undisturbed(type(opt), steps, **options)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0, "nonfinite": "raise"}], ids=["", "clipped"])
@pytest.mark.parametrize("change", [False, True], ids=["", "changed"])
def test_a_step_cut_off_at_any_moment_is_done_or_not(name, options, change):
    change = change and another(name)
    twin, twins = small(OPTIMIZERS[name], **options)
    twin.param_groups[0].update(change or {})
    looked_ahead(twin).step(small_grads(2))
    after = whole(twin, twins)
    wrong = []
    for n in moments():
        opt, params = small(OPTIMIZERS[name], **options)
        opt.param_groups[0].update(change or {})
        looked_ahead(opt)
        grads = small_grads(2)
        before = whole(opt, params)

        def act(opt=opt, grads=grads):
            opt.step(grads)

        cut = cut_off(act, n)
        found = whole(opt, params)
        if found not in (before, after):
            wrong.append(n)
        elif not change:
            goes_on(opt, params, 2 if found == before else 3, **options)
        if not cut:
            assert found == after
            break
    assert n >= 3 or not ALL_ARE_TOLD
    assert wrong == []


@pytest.mark.parametrize("name", KINDS)
def test_a_reference_step_cut_off_at_any_moment_is_done_or_not_or_says_that_it_is_torn(name, tmp_path):
    after = whole(*small(OPTIMIZERS[name], 3))
    wrong = []
    for n in moments(name):
        opt, params = small(OPTIMIZERS[name])
        kept, kept_params = opt.state_dict(), [p.copy() for p in leaves(params)]
        looked_ahead(opt)
        before = whole(opt, params)

        def act(opt=opt):
            opt.reference_step(small_grads(2))

        cut = cut_off(act, n)
        if torn(opt, tmp_path):
            for p, q in zip(leaves(params), kept_params, strict=True):
                p[...] = q
            opt.load_state_dict(kept)
            assert whole(opt, params) == before
        elif whole(opt, params) not in (before, after):
            wrong.append(n)
        else:
            looked_ahead(opt).step(small_grads(3))
        if not cut:
            break
    assert n > 20
    assert wrong == []


@pytest.mark.parametrize("name", KINDS)
def test_a_lookahead_cut_off_at_any_moment_leaves_the_parameters_where_they_were(name):
    if not hasattr(OPTIMIZERS[name], "lookahead"):
        pytest.skip("has no lookahead")
    wrong = []
    for n in moments():
        opt, params = small(OPTIMIZERS[name])
        before = whole(opt, params)
        inside = []

        def act(opt=opt, inside=inside):
            with opt.lookahead():
                inside.append(len("a block that takes some calls"))
                inside.append(len("before it is left"))

        cut = cut_off(act, n)
        try:
            if whole(opt, params) != before:
                wrong.append((n, "left looked ahead"))
                continue
            goes_on(opt, params, 2)
        except RuntimeError as error:
            wrong.append((n, str(error)))
        if not cut:
            assert len(inside) == 2
            break
    assert n >= 3 or not ALL_ARE_TOLD
    assert wrong == []


@pytest.mark.parametrize("name", KINDS)
def test_a_snapshot_cut_off_at_any_moment_is_loaded_or_not(name):
    other, _ = small(OPTIMIZERS[name], 5, **another(name))
    snapshot = other.state_dict()
    twin, twins = small(OPTIMIZERS[name])
    twin.load_state_dict(snapshot)
    after, later = whole(twin, twins), two_more(twin, twins)
    wrong = []
    for n in moments(name):
        opt, params = small(OPTIMIZERS[name])
        before = whole(opt, params)

        def act(opt=opt):
            opt.load_state_dict(snapshot)

        cut = cut_off(act, n)
        found = whole(opt, params)
        if found == before:
            goes_on(opt, params, 2)
        elif found != after:
            wrong.append(n)
        else:
            assert two_more(opt, params) == later
        if not cut:
            assert found != before
            break
    assert n > 20
    assert wrong == []


@pytest.mark.parametrize("name", ["SGD", "NAG", "Adam"])
def test_a_file_cut_off_at_any_moment_is_loaded_or_not(name, tmp_path):
    other, others = small(OPTIMIZERS[name], 5, weight_decay=0.5)
    other.save(tmp_path / "x")
    after = whole(other, others)
    wrong = []
    for n in moments(name):
        opt, params = small(OPTIMIZERS[name])
        before = whole(opt, params)

        def act(opt=opt):
            opt.load(tmp_path / "x")

        cut = cut_off(act, n)
        found = whole(opt, params)
        if found == before:
            goes_on(opt, params, 2)
        elif found != after:
            wrong.append(n)
        else:
            goes_on(opt, params, 5, weight_decay=0.5)
        if not cut:
            assert found == after
            break
    assert n > 40
    assert wrong == []


def test_a_save_cut_off_at_any_moment_leaves_the_old_file_or_the_new_one_and_no_other(tmp_path):
    path = tmp_path / "x"
    opt, params = small(Adam)
    opt.save(path)
    old = path.read_bytes()
    looked_ahead(opt).step(small_grads(2))
    opt.save(path)
    new = path.read_bytes()
    assert old != new
    before = whole(opt, params)
    wrong = []
    for n in moments():
        path.write_bytes(old)
        cut = cut_off(lambda: opt.save(path), n)
        if path.read_bytes() not in (old, new):
            wrong.append((n, "torn"))
        names = [x.name for x in tmp_path.iterdir()]
        if names != ["x"]:
            wrong.append((n, names))
            for name in names:
                if name != "x":
                    (tmp_path / name).unlink()
        if not cut:
            assert path.read_bytes() == new
            break
    assert n > 40
    assert wrong == []
    assert whole(opt, params) == before
    goes_on(opt, params, 3)


@pytest.mark.parametrize("name", ["NAG", "Adam"])
def test_a_bind_cut_off_at_any_moment_is_done_or_not(name):
    wrong = []
    for n in moments(name):
        opt, params = small(OPTIMIZERS[name])
        _, others = small(OPTIMIZERS[name])

        def act(opt=opt, others=others):
            opt.bind(others)

        cut = cut_off(act, n)
        old, new = [[p.copy() for p in leaves(x)] for x in (params, others)]
        try:
            looked_ahead(opt).step(small_grads(7))
        except (RuntimeError, ValueError) as error:
            wrong.append((n, str(error)))
            continue
        moved = [
            sum(p.tobytes() != q.tobytes() for p, q in zip(leaves(x), kept, strict=True))
            for x, kept in ((params, old), (others, new))
        ]
        bound = opt.param_groups[0]["params"]
        if moved != ([3, 0] if bound is params else [0, 3]):
            wrong.append((n, moved))
        elif cut is False:
            assert bound is others
        if not cut:
            break
    assert n > 20
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.5), ("lr", LinearDecay(0.5, total=9)), ("momentum", 0.75), ("clip_norm", 1.0), ("zero_grads", True)],
    ids=str,
)
def test_an_attribute_cut_off_at_any_moment_is_set_everywhere_or_nowhere(name, value):
    for n in moments():
        opt = SGD([{"params": np.ones(1)} for _ in range(3)], lr=0.25)
        old = getattr(opt, name)
        cut = cut_off(lambda opt=opt: setattr(opt, name, value), n)
        assert getattr(opt, name) in (old, value)
        grads = [np.ones(1) for _ in range(3)]
        opt.step(grads)
        assert opt.zero_grads == (np.concatenate(grads) == 0).all()  # the engine has been told so too
        if not cut:
            assert getattr(opt, name) == value
            break
    assert n > 3 or not ALL_ARE_TOLD


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_reset_cut_off_at_any_moment_is_done_or_not(name):
    new, news = small(OPTIMIZERS[name])
    new.reset()
    after = whole(new, news)
    for n in moments():
        opt, params = small(OPTIMIZERS[name])
        before = whole(opt, params)
        cut = cut_off(opt.reset, n)
        assert whole(opt, params) in (before, after)
        if not cut:
            assert whole(opt, params) == after
            break
    assert n > 3 or not ALL_ARE_TOLD


# ---- at random moments, over large arrays ----


N = 1_500_000


def large(cls, n=N, **options):
    p = np.linspace(-1, 1, n, dtype="float32")
    return cls(p, lr=0.1, **options), p


def large_grads(n=N, seed=1):
    return np.random.default_rng(seed).normal(size=n).astype("float32")


def how_long(act):
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def delays(act, rounds, seed, first=0.0):
    """Random moments in what takes as long as this, from some part of it on: some past its end."""
    typical = min(how_long(act) for _ in range(2))
    return np.random.default_rng(seed).uniform(first * typical, 1.2 * typical, rounds).tolist()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cls", [Adam, NAG])
def test_steps_interrupted_at_random_moments_are_done_or_not(cls, threads):
    sweep.set_threads(threads)
    rounds, g = 12, large_grads()
    twin, q = large(cls, clip_norm=100.0)
    table = [whole(twin, q)]
    for _ in range(rounds + 3):
        looked_ahead(twin).step(g)
        table.append(whole(twin, q))
    opt, p = large(cls, clip_norm=100.0)
    waits = delays(lambda: looked_ahead(opt).step(g), rounds, seed=3)
    k = 2
    with Timer() as timer:
        for wait in waits:
            looked_ahead(opt)
            timer.run(lambda: opt.step(g), wait)
            found = whole(opt, p)
            assert found in table[k : k + 2]
            k = table.index(found)
    looked_ahead(opt).step(g)
    assert whole(opt, p) == table[k + 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_lookahead_interrupted_at_random_moments_leaves_the_parameters_where_they_were(threads):
    sweep.set_threads(threads)
    g = large_grads()
    opt, p = large(NAG)
    twin, q = large(NAG)
    for o in (opt, twin):
        looked_ahead(o).step(g)
    before = whole(opt, p)
    cut = 0

    def block():
        with opt.lookahead():
            time.sleep(0)

    with Timer() as timer:
        for wait in delays(block, 60, seed=4):
            cut += timer.run(block, wait)
            assert p.tobytes() == q.tobytes()
    assert cut > 10
    assert whole(opt, p) == before
    looked_ahead(opt).step(g)
    looked_ahead(twin).step(g)
    assert whole(opt, p) == whole(twin, q)


def test_a_loop_over_lookahead_and_step_interrupted_by_another_thread_stays_whole():
    """SIGINT, as from the keyboard, again and again in a training loop that is taken up again each time."""
    n = 400_000
    g = large_grads(n)
    twin, q = large(NAG, n)
    table = {}
    for k in range(400):
        table[q[:100].tobytes()] = k
        looked_ahead(twin).step(g)
    opt, p = large(NAG, n)
    main, stop = threading.main_thread().ident, threading.Event()
    armed = False

    def handle(*_):
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    def press():
        rng = np.random.default_rng(5)
        while not stop.wait(rng.uniform(0.0005, 0.004)):
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, handle)
    thread = threading.Thread(target=press)
    thread.start()
    interrupts, until = 0, time.monotonic() + 20
    try:
        while opt.steps < 120 and interrupts < 60 and time.monotonic() < until:
            try:
                try:
                    armed = True
                    while opt.steps < 120:
                        with opt.lookahead():
                            pass
                        opt.step(g)
                finally:
                    armed = False
            except KeyboardInterrupt:
                interrupts += 1
            assert table[p[:100].tobytes()] == opt.steps == opt.step_counts["params"]
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert interrupts > 5
    twin, q = large(NAG, n)
    for _ in range(opt.steps):
        looked_ahead(twin).step(g)
    assert whole(opt, p) == whole(twin, q)


def test_reference_steps_interrupted_at_random_moments_are_done_or_not_or_torn(tmp_path):
    n, rounds = 300_000, 25
    g = large_grads(n)
    twin, q = large(Adam, n)
    table = [whole(twin, q)]
    for _ in range(rounds + 4):
        twin.step(g)
        table.append(whole(twin, q))
    opt, p = large(Adam, n)
    waits = delays(lambda: opt.reference_step(g), rounds, seed=6)
    k = 2
    with Timer() as timer:
        for wait in waits:
            kept, kept_p = opt.state_dict(), p.copy()
            timer.run(lambda: opt.reference_step(g), wait)
            if torn(opt, tmp_path):
                p[:] = kept_p
                opt.load_state_dict(kept)
            found = whole(opt, p)
            assert found in table[k : k + 2]
            k = table.index(found)
    opt.step(g)
    assert whole(opt, p) == table[k + 1]


@pytest.mark.parametrize("cls", [Adam, NAG])
def test_snapshots_interrupted_at_random_moments_are_loaded_or_not(cls):
    opt, p = large(cls)
    snapshots, wholes = [], []
    for t in range(2):
        looked_ahead(opt).step(large_grads(seed=t))
        opt.param_groups[0]["weight_decay"] = 0.25 * t
        snapshots.append(opt.state_dict())
    for snapshot in snapshots:
        opt.load_state_dict(snapshot)
        wholes.append(whole(opt, p))
    assert wholes[0] != wholes[1]
    now = 1
    with Timer() as timer:
        for wait in delays(lambda: opt.load_state_dict(snapshots[1]), 30, seed=7):
            timer.run(lambda to=snapshots[1 - now]: opt.load_state_dict(to), wait)
            found = whole(opt, p)
            assert found in wholes
            now = wholes.index(found)
    looked_ahead(opt).step(large_grads())


def test_files_interrupted_at_random_moments_are_loaded_or_not(tmp_path):
    n = 500_000
    opt, p = large(Adam, n)
    wholes = []
    for t in range(2):
        opt.step(large_grads(n, seed=t))
        opt.save(tmp_path / str(t))
        wholes.append(whole(opt, p))
    now = 1
    with Timer() as timer:
        for wait in delays(lambda: opt.load(tmp_path / "1"), 40, seed=8, first=0.6):
            timer.run(lambda to=str(1 - now): opt.load(tmp_path / to), wait)
            found = whole(opt, p)
            assert found in wholes
            now = wholes.index(found)
    opt.load(tmp_path / "0")
    opt.step(large_grads(n, seed=1))
    assert whole(opt, p) == wholes[1]


def test_saves_interrupted_at_random_moments_leave_the_old_file_or_the_new_one(tmp_path):
    n = 300_000
    opt, p = large(SGD, n, momentum=0.9)
    path = tmp_path / "x"
    contents = []
    for t in range(2):
        opt.step(large_grads(n, seed=t))
        opt.save(path)
        contents.append(path.read_bytes())
    now = 1
    kept = opt.state_dict(), p.copy()
    with Timer() as timer:
        for wait in delays(lambda: opt.save(path), 20, seed=9):
            if now == 1:
                path.write_bytes(contents[0])
            timer.run(lambda: opt.save(path), wait)
            found = path.read_bytes()
            assert found in contents
            now = contents.index(found)
            assert [x.name for x in tmp_path.iterdir()] == ["x"]
    assert p.tobytes() == kept[1].tobytes()
    assert known(opt)[1:3] == ({"params": 2}, 2)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [Adam, NAG])
def test_hundreds_of_interrupts_and_not_one_torn_step(cls, tmp_path):
    n, g = 3_000_000, large_grads(3_000_000)
    opt, p = large(cls, n)
    path = tmp_path / "x"
    opt.save(path)
    rng = np.random.default_rng(10)
    twin, q = large(cls, n)
    with Timer() as timer:
        for _ in range(300):
            acts = [lambda: looked_ahead(opt), lambda: opt.step(g), lambda: opt.save(path)]
            which = rng.integers(3)
            if which == 1:
                looked_ahead(opt)
            timer.run(acts[which], rng.uniform(0, 0.03))
            if opt.steps > twin.steps:
                looked_ahead(twin).step(g)
            assert p.tobytes() == q.tobytes()
            assert [x.name for x in tmp_path.iterdir()] == ["x"]
    assert whole(opt, p) == whole(twin, q)
    copied = copy.deepcopy(opt)
    assert copied.steps == opt.steps
