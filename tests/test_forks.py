"""Forks: in the middle of another thread's step, and of one's own.

A child has the optimizer as it was between two whole steps, whatever the parent's threads were doing; a table has what
that looks like after each number of steps.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import sys
import threading
import time

import numpy as np
import pytest
from optimizers_table import KINDS
from processes import fork, in_child, needs_fork, output
from support import copied, looked_ahead, whole

from fastopt import NAG, SGD, Adam
from fastopt.engine import sweep
from fastopt.optimizers import OPTIMIZERS

pytestmark = needs_fork

STEPS = ["step", "reference_step"]
KEPT = ("exp_avg", "exp_avg_sq", "momentum_buffer")

# One thread steps, the main thread forks. Each child looks, steps, and works with its copy; its exit status tells what
# was wrong, 0 if nothing was.
SCRIPT = """
    import collections, copy, hashlib, os, random, signal, sys, tempfile, threading, time, traceback, warnings
    import numpy as np, fastopt
    from fastopt.engine import sweep
    warnings.simplefilter("ignore")
    sys.setswitchinterval(1e-4)
    name, n, children, threads, most = NAME, SIZE, CHILDREN, THREADS, MOST
    cls = fastopt.OPTIMIZERS[name]
    sweep.set_threads(threads)
    sweep.set_forced(True)
    rng = np.random.default_rng(7)
    g = [rng.normal(size=n).astype("float32"), rng.normal(size=(300, 200)).T]

    def make():
        p = [np.linspace(-1, 1, n, dtype="float32"), np.linspace(-1, 1, 60_000).reshape(200, 300)]
        return p, cls(p, lr=0.01)

    # Nobody forks while another thread is in a block of its own: whoever is left in it could not leave it.
    gate = threading.Lock()

    def step(opt):
        if hasattr(opt, "lookahead"):
            with gate, opt.lookahead():
                pass
        opt.step(g)

    # Looked at in places all over the arrays, and in whole in a few steps.
    sample = np.unique(np.concatenate([np.arange(0, n, 997), np.arange(64), np.arange(n - 64, n)]))

    def look(p, state):
        found = hashlib.blake2b(p[0][sample].tobytes())
        found.update(p[1].tobytes())
        for slots in state.values():
            for slot in sorted(slots):
                if slot not in ("lookahead_saved", "step"):
                    x = slots[slot]
                    found.update((x[sample] if x.ndim == 1 else x).tobytes())
        return found.digest()

    def deadline(*_):
        traceback.print_stack()
        os._exit(99)

    def check(k, opt, p):
        "In the child: what is wrong."
        if look(p, opt.state) != table[k]:
            k_p = [i for i, t in enumerate(table) if t == look(p, opt.state)]
            return 2, f"torn: counts say {k}, the arrays {k_p}"
        if set(opt.step_counts.values()) != {k} or opt.steps != k:
            return 3, f"counts {opt.step_counts}, steps {opt.steps}"
        if sweep.get_threads() != 1:
            return 4, "not serial"
        snapshot = opt.state_dict()
        group_numbers = snapshot.get("group_numbers", [{}])[0]
        saved = {}
        for leaf, arrays in snapshot["state"].items():
            numbers = {**snapshot.get("numbers", {}).get(leaf, {}), **group_numbers}
            saved[leaf] = {**arrays, **{key: np.float64(number) for key, number in numbers.items()}}
        if look(p, saved) != table[k]:
            return 5, "state_dict is torn"
        copied = copy.deepcopy(opt)
        others = [x.copy() for x in p]
        copied.bind(others)
        opt.save(os.path.join(folder, f"x{os.getpid()}"))
        step(opt)
        if look(p, opt.state) != table[k + 1]:
            return 6, "the child's step has other bits"
        step(copied)
        if look(others, copied.state) != table[k + 1]:
            return 7, "the copy's step has other bits"
        opt.bind([x.copy() for x in p])
        opt.load(os.path.join(folder, f"x{os.getpid()}"))
        os.unlink(os.path.join(folder, f"x{os.getpid()}"))
        if look(opt.param_groups[0]["params"], opt.state) != table[k]:
            return 8, "what was loaded has other bits"
        step(opt)
        return 0, ""

    def child():
        signal.signal(signal.SIGALRM, deadline)
        signal.alarm(40)
        try:
            k = opt.steps
            code, words = check(k, opt, p)
        except BaseException:
            code, words = 9, traceback.format_exc()
        if words:
            print(words, file=sys.stderr, flush=True)
        os._exit(code)

    kept = tempfile.TemporaryDirectory()  # removed here in the end; children leave by os._exit
    folder = kept.name
    p, opt = make()
    q, twin = make()
    table = [look(q, twin.state)]
    stop = False

    going = threading.Event()
    going.set()

    def keep_stepping():
        while not stop and opt.steps < most:
            going.wait(50)
            step(opt)

    for _ in range(most + 2):
        step(twin)
        table.append(look(q, twin.state))
    thread = threading.Thread(target=keep_stepping)
    thread.start()
    random.seed(1)
    codes = collections.Counter()
    try:
        for _ in range(children):
            time.sleep(random.uniform(0, 0.004))
            if opt.steps >= most:
                break
            with gate:
                pid = os.fork()
            if pid == 0:
                child()
            going.clear()  # or the table would have to be long
            codes[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])] += 1
            going.set()
    finally:
        stop = True
        going.set()
        thread.join()
        kept.cleanup()
    print(dict(codes), look(p, opt.state) == table[opt.steps], sum(codes.values()) >= min(children, 8))
"""


def forking(name, size, children, threads, most, timeout=100):
    words = {
        "NAME": repr(name), "SIZE": str(size), "CHILDREN": str(children), "THREADS": str(threads), "MOST": str(most)
    }  # fmt: skip
    script = SCRIPT
    for word, value in words.items():
        script = script.replace(word, value)
    return output(script, timeout=timeout).rsplit("\n", 1)[-1]


@pytest.mark.parametrize(("name", "threads"), [("Adam", 1), ("Adam", 2), ("NAG", 1)])
def test_a_child_forked_in_another_threads_step_has_a_whole_step(name, threads):
    shown = forking(name, 300_000, 10, threads, most=150)
    assert shown.startswith("{0: "), shown
    assert shown.endswith("} True True"), shown
    assert "," not in shown, shown


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_dozens_of_children_forked_in_another_threads_step_have_whole_steps(name, threads):
    shown = forking(name, 1_500_000, 60, threads, most=600, timeout=600)
    assert shown.startswith("{0: "), shown
    assert shown.endswith("} True True"), shown
    assert "," not in shown, shown


# ---- in the middle of one's own step ----


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def forked_inside(step, opt, params, grads, heal):
    """Fork in a schedule: what the child found wrong, and whether the parent's step was done."""
    reading, writing = os.pipe()
    pids = []
    rate = opt.lr

    def schedule(t):
        if not pids:
            pids.append(fork())
        return rate

    opt.lr = schedule
    before = whole(opt, params)[:-1]
    error, done = None, None
    try:
        done = getattr(opt, step)(grads)
    except BaseException as caught:
        error = caught
    if pids == [0]:
        wrong = []
        try:
            if not isinstance(error, RuntimeError):
                wrong.append(f"the step raised {error!r} and returned {done}")
            if whole(opt, params)[:-1] != before:
                wrong.append("the child's step wrote something")
            opt.lr = rate
            for again in STEPS:
                try:
                    getattr(looked_ahead(opt), again)(grads)
                    wrong.append(f"{again} was not refused")
                except RuntimeError:
                    pass
            if whole(opt, params)[:-1] != before:
                wrong.append("a refused step wrote something")
            heal(opt, params, wrong)
        except BaseException as caught:
            wrong.append(repr(caught))
        os.write(writing, "; ".join(wrong).encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        wrong = pipe.read()
    os.waitpid(pids[0], 0)
    opt.lr = rate
    if error is not None:
        raise error
    return wrong, done


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", ["bind", "load_state_dict"])
@pytest.mark.parametrize("cls", [Adam, SGD])
def test_a_fork_inside_ones_own_step_goes_on_in_the_parent_and_is_refused_in_the_child(cls, way, step):
    params, twins = [rand(5), rand(3)], [rand(5), rand(3)]
    opt, twin = cls(params, lr=0.1), cls(twins, lr=0.1)
    grads = [rand(5, seed=1), rand(3, seed=1)]
    for o in (opt, twin):
        o.step(grads)
    snapshot = opt.state_dict()
    twin.step(grads)
    after = whole(twin, twins)

    def heal(opt, params, wrong):
        """In the child: made usable again, its step is the next one."""
        if way == "bind":
            opt.bind(params)
        else:
            opt.load_state_dict(snapshot)
        opt.step(grads)
        if whole(opt, params) != after:
            wrong.append("after that its step has other bits")

    wrong, done = forked_inside(step, opt, params, grads, heal)
    assert wrong == ""
    assert done is True
    assert whole(opt, params) == after
    opt.step(grads)
    twin.step(grads)
    assert whole(opt, params) == whole(twin, twins)


def test_a_fork_inside_a_large_steps_schedule_is_refused_in_the_child_too():
    sweep.set_threads(2)
    n = 300_000
    params, twins = rand(n), rand(n)
    opt, twin = Adam(params, lr=0.1, clip_norm=1.0), Adam(twins, lr=0.1, clip_norm=1.0)
    g = rand(n, seed=1)
    for _ in range(2):
        opt.step(g)
        twin.step(g)
    wrong, done = forked_inside("step", opt, params, g, lambda opt, params, wrong: opt.bind(params).step(g))
    twin.step(g)
    assert (wrong, done) == ("", True)
    assert whole(opt, params) == whole(twin, twins)


def test_a_child_forked_in_a_lookahead_block_can_leave_it():
    params = [rand(5)]
    opt = NAG(params, lr=0.1)
    for t in range(2):
        looked_ahead(opt).step([rand(5, seed=t)])
    before = params[0].tobytes()

    with opt.lookahead():
        inside = params[0].tobytes()
        assert in_child(lambda: params[0].tobytes()) == inside
    assert params[0].tobytes() == before

    def forked():
        reading, writing = os.pipe()
        with opt.lookahead():
            pid = fork()
        if pid == 0:
            try:
                well = params[0].tobytes() == before and opt.step([rand(5, seed=3)])
            except BaseException:
                well = False
            os.write(writing, b"yes" if well else b"no")
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        os.waitpid(pid, 0)
        return said

    assert forked() == b"yes"
    assert params[0].tobytes() == before
    assert opt.step([rand(5, seed=3)])


# ---- locks that nobody in the child holds ----


class Slow:
    """A schedule that waits in the midst of a step."""

    def __init__(self):
        self.inside, self.go = threading.Event(), threading.Event()

    def __call__(self, t):
        self.inside.set()
        self.go.wait(30)
        return 0.1


IN_THE_CHILD = {
    "step": lambda opt, params: opt.step([np.ones(5)]),
    "reference_step": lambda opt, params: opt.reference_step([np.ones(5)]),
    "state_dict": lambda opt, params: opt.state_dict(),
    "bind": lambda opt, params: opt.bind(copied(params)),
    "deepcopy": lambda opt, params: copy.deepcopy(opt),
    "pickle": lambda opt, params: pickle.dumps(opt),
    "load_state_dict": lambda opt, params: opt.load_state_dict({**opt.state_dict()}),
}


@pytest.mark.parametrize("work", IN_THE_CHILD)
def test_a_lock_held_in_a_slow_schedule_of_another_thread_is_free_in_the_child(work):
    params = [rand(5)]
    opt = Adam(params, lr=0.1)
    opt.step([rand(5)])
    before = whole(opt, params)[:-1]
    slow = Slow()
    opt.lr = slow
    thread = threading.Thread(target=lambda: opt.step([np.ones(5)]))
    thread.start()
    assert slow.inside.wait(20)

    def child():
        opt.lr = 0.1
        assert whole(opt, params)[:-1] == before
        IN_THE_CHILD[work](opt, params)
        wanted = copied(params)
        twin = copy.deepcopy(opt).bind(wanted)
        opt.step([np.ones(5)])
        twin.step([np.ones(5)])
        assert work == "bind" or whole(opt, params) == whole(twin, wanted)

    try:
        in_child(child, timeout=15)
    finally:
        slow.go.set()
        thread.join(20)
    assert not thread.is_alive()
    assert opt.steps == 2


def test_the_lock_of_an_unbound_copy_that_another_thread_is_binding_is_free_in_the_child():
    """Forked at random moments of a bind: the child binds its copy all the same."""
    params = [rand(2000, seed=i) for i in range(40)]
    opt = Adam(params)
    opt.step(copied(params))
    pickled = pickle.dumps(opt)
    stop = False
    unbound = pickle.loads(pickled)

    def keep_binding():
        nonlocal unbound
        while not stop:
            unbound = pickle.loads(pickled)
            unbound.bind(copied(params))
            unbound.bind(copied(params))

    thread = threading.Thread(target=keep_binding)
    thread.start()
    try:
        for i in range(12):
            time.sleep(0.001 * (i % 5))

            def child(found=unbound):
                others = copied(params)
                found.bind(others)
                found.step(copied(params))
                return found.steps

            assert in_child(child, timeout=15) == 2
    finally:
        stop = True
        thread.join()


def test_a_child_can_use_optimizers_made_after_the_fork_and_before():
    opts = [cls(rand(4), lr=0.1) for cls in OPTIMIZERS.values()]

    def child():
        for opt in opts:
            looked_ahead(opt).step(rand(4))
        for cls in OPTIMIZERS.values():
            looked_ahead(cls(rand(4), lr=0.1)).step(rand(4))
        return [opt.steps for opt in opts]

    assert in_child(child) == [1] * len(opts)
    assert [opt.steps for opt in opts] == [0] * len(opts)


@pytest.mark.parametrize("step", STEPS)
def test_a_child_that_loads_in_the_midst_of_the_step_it_was_forked_in_does_not_go_on_with_it(step):
    params = [rand(2, 2)]
    opt = SGD(params, lr=0.1, momentum=0.9)
    opt.step([np.ones((2, 2))])
    snapshot = opt.state_dict()

    def child():
        pids = []

        def schedule(t):
            pids.append(fork())
            if pids[0] == 0:
                opt.load_state_dict(snapshot)
            return 0.1

        opt.lr = schedule
        before = whole(opt, params)[:-1]
        try:
            getattr(opt, step)([np.ones((2, 2))])
            refused = False
        except RuntimeError as error:
            refused = "forked in the middle of a step" in str(error)
        if pids == [0]:
            os._exit(0 if refused and whole(opt, params)[:-1] == before else 1)
        return refused, opt.steps, os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])

    assert in_child(child) == (False, 2, 0)


class Waiting(SGD):
    """Waits in its arithmetic, in threads other than the main one."""

    inside = go = None

    @staticmethod
    def reference(rule, p, g, s, c):
        if threading.current_thread() is not threading.main_thread():
            Waiting.inside.set()
            Waiting.go.wait(30)
        return SGD.reference(rule, p, g, s, c)


@pytest.mark.parametrize("step", STEPS)
def test_gradients_of_a_thread_that_is_not_in_the_child_are_not_used_there(step):
    Waiting.inside, Waiting.go = threading.Event(), threading.Event()
    a, b = np.zeros(2), np.zeros(2)
    opt = Waiting([a, b], lr=1.0)
    opt.step([np.ones(2), np.ones(2)])
    snapshot = opt.state_dict()
    thread = threading.Thread(target=lambda: opt.reference_step([np.ones(2), np.full(2, 100.0)]))
    thread.start()
    assert Waiting.inside.wait(20)

    def child():
        with pytest.raises(RuntimeError, match="torn"):
            opt.step([np.ones(2), None])
        opt.load_state_dict(snapshot)
        a[:] = b[:] = 0
        getattr(opt, step)([np.ones(2), None])
        return a.tolist(), b.tolist(), list(opt.step_counts.values())

    try:
        assert in_child(child, timeout=15) == ([-1, -1], [0, 0], [2, 1])
    finally:
        Waiting.go.set()
        thread.join(20)


def test_a_torn_optimizer_is_torn_in_a_child_forked_in_a_load_too():
    class HalfWay(SGD):
        @staticmethod
        def reference(*_):
            raise OSError

    def child():
        w = np.zeros(2)
        opt = HalfWay(w, lr=1.0, momentum=0.9)
        opt.step(np.ones(2))
        snapshot, pids = opt.state_dict(), []
        with pytest.raises(OSError):  # noqa: PT011
            opt.reference_step(np.ones(2))

        class Forking(dict):
            def get(self, key, default=None):
                if key == "format" and not pids:
                    pids.append(fork())
                    if pids == [0]:
                        raise ValueError("broken")
                return super().get(key, default)

        with contextlib.suppress(ValueError):
            opt.load_state_dict(Forking(snapshot))
        if pids == [0]:
            wrong = 2
            try:
                opt.bind(w)
            except RuntimeError as error:
                wrong = "torn" not in str(error)
                opt.load_state_dict(snapshot)
                opt.step(np.ones(2))
            os._exit(wrong)
        return pids != [], os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])

    assert in_child(child) == (True, 0)


@pytest.mark.parametrize("when", ["before", "after_in_child", "after_in_parent"])
def test_a_hook_of_an_earlier_import_that_steps_at_a_fork_does_not_hang(when):
    script = f"""
    import os
    opt = None
    def hook():
        if opt is not None:
            opt.step(g)
    os.register_at_fork({when}=hook)
    import numpy as np, fastopt
    w, g = np.zeros(100_000), np.ones(100_000)
    opt = fastopt.SGD(w, lr=1.0)
    opt.step(g)
    pid = os.fork()
    if pid == 0:
        os._exit(opt.steps)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), opt.steps, w[0] == w[-1] == -opt.steps)
    """
    wanted = {"before": "2 2 True", "after_in_child": "2 1 True", "after_in_parent": "1 2 True"}
    assert output(script, timeout=20) == wanted[when]


# ---- copies while another thread steps ----


@pytest.mark.parametrize(
    ("cls", "way"),
    [(Adam, "deepcopy"), (Adam, "copy"), (Adam, "pickle"), (Adam, "state_dict"), (Adam, "save"), (NAG, "deepcopy")],
)
def test_a_copy_made_while_another_thread_steps_is_of_one_moment(cls, way, tmp_path):
    n = 500_000
    g = rand(n, seed=1).astype("float32")

    def make():
        p = np.linspace(-1, 1, n, dtype="float32")
        return p, cls(p, lr=0.01)

    def look(state):
        return tuple(x.tobytes()[:400] + x.tobytes()[-400:] for slot, x in sorted(state.items()) if slot in KEPT)

    _, twin = make()
    table = []
    for _ in range(60):
        table.append(look(twin.state["params"]))
        looked_ahead(twin).step(g)
    table.append(look(twin.state["params"]))
    _, opt = make()
    goal, stop = 0, False
    gate = threading.Lock() if cls is NAG else contextlib.nullcontext()  # in a block there is nothing to copy

    def keep_stepping():
        while not stop:
            if opt.steps < goal:
                with gate:
                    looked_ahead(opt)
                opt.step(g)
            else:
                time.sleep(0)

    def copy_of(opt):
        if way == "state_dict":
            return opt.state_dict()["state"]["params"], opt
        if way == "save":
            opt.save(tmp_path / "x")
            other = cls(np.zeros(n, "float32"))
            other.load(tmp_path / "x")
            return {**other.state["params"], "step": other.step_counts["params"]}, other
        made = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}
        other = made[way](opt).bind(np.zeros(n, "float32"))
        return {**other.state["params"], "step": other.step_counts["params"]}, other

    thread = threading.Thread(target=keep_stepping)
    thread.start()
    wrong, interval = [], sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for i in range(20):
            goal = 3 * (i + 1)  # while the copy is made, and no more than the table has
            with gate:
                entry, other = copy_of(opt)
            k = entry["step"]
            if look(entry) != table[k] or (way not in ("state_dict",) and other.steps != k):
                wrong.append((k, [i for i, t in enumerate(table) if t == look(entry)]))
    finally:
        stop = True
        thread.join()
        sys.setswitchinterval(interval)
    assert wrong == []
