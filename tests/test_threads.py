"""Threads: fork, several Python threads, the GIL, the limits on threads, the caller's floating-point mode."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import os
import platform
import signal
import sys
import threading
import time

import numpy as np
import pytest
from optimizers_table import ISAS, REALS, RECORDS
from processes import needs_fork, output, python

import fastopt
from fastopt import threads
from fastopt.engine import chunks, kernels, sweep

LARGE = 700_000  # elements: so many chunks that four threads help each other
ADAM = next(record for record in RECORDS if record.name == "Adam")

needs_openmp = pytest.mark.skipif(not sweep.OPENMP, reason="built without OpenMP: there is one thread")


STEPS = """
    import hashlib, numpy as np, fastopt
    from fastopt.engine import sweep

    def run(steps=3):
        rng = np.random.default_rng(0)
        p = [rng.normal(size=700_000), np.ones(3, "float32")]
        opt = fastopt.Adam(p)
        for _ in range(steps):
            opt.step([rng.normal(size=700_000), np.ones(3, "float32")])
        return hashlib.sha256(p[0].tobytes() + p[1].tobytes()).hexdigest()
"""


# ---- fork ----


FORK = """
    import os
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, f"{run()} {sweep.get_threads()}".encode())
        os._exit(0)
    print(os.read(read, 1000).decode() == f"{parent} 1", run() == parent, sweep.get_threads())
"""
POOL = """
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(set(pool.map(run, [3, 3, 3])) == {parent}, run() == parent, sweep.get_threads())
"""


@needs_fork
@needs_openmp
@pytest.mark.parametrize("children", [FORK, POOL], ids=["os.fork()", "multiprocessing"])
def test_a_child_forked_after_a_parallel_step_steps_to_the_same_bits(children):
    parent = "\n    sweep.set_threads(4); sweep.set_forced(True); parent = run()\n"
    assert output(STEPS + parent + children, timeout=60) == "True True 4"


@needs_fork
def test_a_child_goes_on_with_an_optimizer_that_another_thread_was_stepping():
    """The lock that the thread held is nobody's in the child."""
    script = """
    import os, threading, time, numpy as np, fastopt
    p = np.zeros(20_000_000, "float32")
    g = np.ones_like(p)
    opt = fastopt.Adam(p)
    stop = False
    def keep_stepping():
        while not stop:
            opt.step(g)
    thread = threading.Thread(target=keep_stepping)
    thread.start()
    time.sleep(0.2)
    child = os.fork()
    if child == 0:
        opt.step(g)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop = True
    thread.join()
    """
    assert output(script, timeout=60) == "7"


# ---- several Python threads ----


def in_threads(*functions):
    """Run functions at the same time, with a time limit; their results."""
    results = [None] * len(functions)
    barrier = threading.Barrier(len(functions))

    def run(i):
        barrier.wait()
        results[i] = functions[i]()

    workers = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(functions))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert not worker.is_alive(), "a thread hangs"
    return results


@pytest.mark.parametrize("n", [1, 3])
def test_two_threads_step_two_optimizers(n):
    sweep.set_threads(n)
    sweep.set_forced(True)

    def train(seed):
        rng = np.random.default_rng(seed)
        p = rng.normal(size=LARGE).astype("float32")
        opt = ADAM.make(p)
        for _ in range(5):
            opt.step(rng.normal(size=LARGE).astype("float32"))
        return p.tobytes()

    assert in_threads(lambda: train(1), lambda: train(2)) == [train(1), train(2)]


@pytest.mark.parametrize("n", [1, 3])
def test_two_threads_on_one_optimizer_wait_in_line(n):
    sweep.set_threads(n)
    sweep.set_forced(True)
    g = np.random.default_rng(0).normal(size=LARGE)
    shared, alone = np.ones(LARGE), np.ones(LARGE)
    opt, other = ADAM.make(shared), ADAM.make(alone)

    def step():
        return sum(opt.step(g) for _ in range(10))

    assert in_threads(step, step, step) == [10, 10, 10]
    for _ in range(30):
        other.step(g)
    assert shared.tobytes() == alone.tobytes()
    assert (opt.steps, opt.step_counts) == (30, {"params": 30})


@pytest.mark.parametrize("n", [1, 2])
def test_the_gil_is_free_during_the_arithmetic(n):
    """Another thread must be seen running in the middle of a long step; with the GIL held it could not, ever."""
    sweep.set_threads(n)
    p = np.ones(10_000_000)
    g = np.ones_like(p)
    opt = ADAM.make(p)
    opt.step(g)
    ticks, stop = [], False

    def tick():
        while not stop:
            ticks.append(time.perf_counter())
            time.sleep(0)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        for _ in range(20):  # the machine may be busy with others
            begin = time.perf_counter()
            opt.step(g)
            end = time.perf_counter()
            middle = [begin + (end - begin) * part for part in (0.2, 0.8)]
            if any(middle[0] < at < middle[1] for at in list(ticks)):
                break
        else:
            pytest.fail("no other thread ran during 20 steps")
    finally:
        stop = True
        thread.join()


@pytest.mark.parametrize("by_reference", [False, True], ids=["step", "reference_step"])
def test_a_schedule_that_steps_its_own_optimizer_is_told_so(by_reference):
    p = np.ones(3)
    opt = fastopt.SGD(p, lr=lambda t: opt.step(np.ones(3)))
    with pytest.raises(RuntimeError, match="in the middle of a step"):
        (opt.reference_step if by_reference else opt.step)(np.ones(3))
    assert (p == 1).all()
    opt.lr = 1.0
    assert opt.step(np.ones(3))


# ---- how many threads ----


@needs_openmp
def test_a_large_step_uses_the_threads_it_is_given_and_a_small_one_none():
    script = (
        STEPS
        + """
    import os
    def tasks():
        return len(os.listdir("/proc/self/task"))
    before = tasks()
    sweep.set_threads(4)
    small = np.ones(1000)
    opt = fastopt.Adam(small)
    opt.step(small + 1)
    print(tasks() - before, end=" ")
    sweep.set_forced(True)
    run()
    print(tasks() - before)
    """
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this system does not list a process's threads under /proc")
    assert output(script, OPENBLAS_NUM_THREADS="1") == "0 3"


@needs_openmp
@pytest.mark.skipif(
    not 1 < threads.get_num_threads() <= threads.LIMITS.get("affinity mask", 0) < 2 * threads.get_num_threads(),
    reason="this machine does not grant most of its processors, or has but one",
)
@pytest.mark.skipif("clang" in kernels.COMPILER, reason="its OpenMP has no such rule")
def test_workers_crowd_in_to_sleep_at_once_unless_steps_come_back_to_back():
    script = """
    import os, numpy as np, fastopt
    def tasks():
        return len(os.listdir("/proc/self/task"))
    before, wanted = tasks(), len(os.sched_getaffinity(0))
    large = np.ones(2**23, np.float32)
    opt = fastopt.SGD(large, lr=1e-9)
    for _ in range(3):
        opt.step(large + 1)  # an addition, longer than a pause may be
        seen = tasks() - before
    print(seen == wanted, end=" ")
    gradient = large + 1
    for _ in range(30):
        opt.step(gradient)
    print(tasks() - before < seen)
    """
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this system does not list a process's threads under /proc")
    assert output(script, OPENBLAS_NUM_THREADS="1") == "True True"


def test_the_number_of_threads_does_not_change_the_bits():
    one = output(STEPS + "\n    print(run(), fastopt.get_num_threads())", OMP_NUM_THREADS="1")
    assert one.split()[1] == "1"
    many = output(STEPS + "\n    sweep.set_threads(5); sweep.set_forced(True); print(run())")
    assert one.split()[0] == many


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        ("1", 1),
        ("3", 3),
        (" 2 ", 2),
        ("\t2\n", 2),
        ("+4", 4),
        (" +4 ", 4),
        ("007", 7),
        ("4,2", 4),
        ("2,3", 2),
        (" 2 , 3", 2),
        ("2,", 2),
        ("2,many", 2),
        (str(10**18 - 1), 10**18 - 1),
        ("0" * 5000 + "4", 4),
        *((value, None) for value in ["", " ", "0", "000", "+0", "-1", "-0", "+", "++4", "+ 4", "- 4", "many", "4x"]),
        *((value, None) for value in ["2.5", "2 3", "1_000", "0x4", ",2", " ,2", "²", "٣", "\u20032", "9" * 5000]),
        ("+" + "9" * 5000 + ",2", None),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_omp_num_threads_limits_where_it_is_a_number(monkeypatch, value, limit):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads._limits().get("OMP_NUM_THREADS") == limit


def test_a_very_long_omp_num_threads_does_not_stop_the_import():
    script = "import fastopt; print(fastopt.get_num_threads())"
    assert output(script, OMP_NUM_THREADS="1" * 5000) == output(script)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_the_affinity_mask_limits():
    script = """
    import os
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import fastopt
    fastopt.set_num_threads(8)
    print(fastopt.get_num_threads())
    """
    assert output(script) == "1"


CGROUPS = [
    ("no control group", {}, "0::/\n", math.inf),
    ("version 2, no limit", {"a/cpu.max": "max 100000\n"}, "0::/a\n", math.inf),
    ("version 2, two and a half", {"a/cpu.max": "250000 100000\n"}, "0::/a\n", 2.5),
    (
        "version 2, the group above has less",
        {"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"},
        "0::/a/b",
        0.5,
    ),
    ("version 2, only the group above", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b/c", 3),
    ("version 2, at the root, as in a container", {"cpu.max": "150000 100000"}, "0::/", 1.5),
    ("version 2, a path from outside the container", {"cpu.max": "150000 100000"}, "0::/docker/1234", 1.5),
    ("version 2, not readable as a limit", {"a/cpu.max": "nonsense"}, "0::/a", math.inf),
    (
        "version 1",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
        "11:memory:/a\n4:cpu,cpuacct:/a\n1:name=systemd:/a\n",
        2,
    ),
    (
        "version 1, no limit",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        "4:cpu:/\n",
        math.inf,
    ),
    (
        "both versions",
        {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"},
        "4:cpu:/a\n1:cpuset:/a\n0::/a\n",
        3,
    ),
    ("a path with a colon", {"a:b/cpu.max": "100000 100000"}, "0::/a:b\n", 1),
]


@pytest.mark.parametrize(("files", "membership", "quota"), [c[1:] for c in CGROUPS], ids=[c[0] for c in CGROUPS])
def test_the_cpu_quota_of_a_control_group_is_found(tmp_path, files, membership, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads._cgroup_quota(tmp_path, membership) == quota


@pytest.mark.parametrize(
    ("quota", "limit"),
    [(0.01, 1), (0.3, 1), (1, 1), (1.5, 1), (1.74, 1), (1.75, 2), (2, 2), (2.5, 2), (2.75, 3), (64, 64), (63.8, 64)],
)
def test_most_of_a_cpu_is_a_thread(monkeypatch, quota, limit):
    monkeypatch.setattr(threads, "_cgroup_quota", lambda *_: quota)
    assert threads._limits()["cgroup quota"] == limit


PLACES = """
    import os
    before = len(os.sched_getaffinity(0))
    import fastopt
    from fastopt import threads
    print(before, len(os.sched_getaffinity(0)), threads.LIMITS.get("OpenMP places"), fastopt.get_num_threads())
"""

needs_places = pytest.mark.skipif(
    "clang" in kernels.COMPILER or len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) < 2,
    reason="needs GNU OpenMP, which binds the thread that loads it, and two processors",
)


@needs_openmp
@needs_places
@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_PROC_BIND": "true"},
        {"OMP_PROC_BIND": "close"},
        {"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"},
        {"OMP_PLACES": "threads"},
        {"OMP_PLACES": "cores"},
        {"OMP_PLACES": "{ALL}"},
        {"OMP_PLACES": "{ALL},{ONE}"},
        {"GOMP_CPU_AFFINITY": "ALL"},
    ],
    ids=lambda environment: " ".join(f"{key}={value}" for key, value in environment.items()),
)
def test_where_openmp_binds_its_threads_the_processors_of_its_places_count(environment):
    processors = sorted(os.sched_getaffinity(0))
    names = {"ALL": ",".join(map(str, processors)), "ONE": str(processors[-1])}
    for key, value in environment.items():
        for name, numbers in names.items():
            value = value.replace(name, numbers)
        environment = {**environment, key: value}
    before, _, places, given = output(PLACES, **environment).split()
    assert (int(before), int(places)) == (len(processors), len(processors))
    assert int(given) == int(output("import fastopt; print(fastopt.get_num_threads())"))


@needs_openmp
@needs_places
@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_PLACES": "{ONE}"},
        {"OMP_PROC_BIND": "true", "OMP_PLACES": "threads(1)"},
        {"GOMP_CPU_AFFINITY": "ONE"},
        {"OMP_PROC_BIND": "master", "OMP_PLACES": "threads"},  # all threads where the first one is
    ],
    ids=lambda environment: " ".join(f"{key}={value}" for key, value in environment.items()),
)
def test_places_that_hold_one_processor_grant_one_thread(environment):
    one = str(max(os.sched_getaffinity(0)))
    environment = {key: value.replace("ONE", one) for key, value in environment.items()}
    assert output(PLACES, **environment).split()[1:] == ["1", "1", "1"]


@needs_openmp
@needs_places
@pytest.mark.parametrize(
    "environment", [{}, {"OMP_PROC_BIND": "false"}, {"OMP_PROC_BIND": "false", "OMP_PLACES": "cores"}]
)
def test_where_openmp_binds_nothing_the_affinity_mask_counts(environment):
    before, after, places, _ = output(PLACES, **environment).split()
    assert before == after
    assert places == "None"


@needs_openmp
@needs_places
def test_an_affinity_mask_bounds_places_that_are_made_within_it():
    script = "    import os\n    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})" + PLACES
    assert output(script, OMP_PROC_BIND="true").split() == ["1", "1", "1", "1"]


@needs_openmp
@needs_places
def test_a_step_with_bound_threads_has_the_same_bits():
    script = STEPS + "\n    sweep.set_forced(True); print(run(), sweep.get_threads())"
    assert output(script, OMP_PROC_BIND="true") == output(script)  # and as many threads


@needs_openmp
def test_more_threads_than_there_are_is_as_many_as_there_are(monkeypatch):
    monkeypatch.setattr(threads, "LIMITS", {"affinity mask": 3, "cgroup quota": 7})
    monkeypatch.setattr(threads, "_asked", None)
    for asked, given in [(1, 1), (2, 2), (3, 3), (100, 3)]:
        fastopt.set_num_threads(asked)
        assert fastopt.get_num_threads() == given


@pytest.mark.parametrize("n", [True, 2.0, "2", None])
def test_a_number_of_threads_is_a_whole_number(n):
    with pytest.raises(TypeError, match=r"wanted a whole number of at least 1$"):
        fastopt.set_num_threads(n)


@pytest.mark.parametrize("n", [0, -3])
def test_a_number_of_threads_is_at_least_one(n):
    with pytest.raises(ValueError, match=rf"^n is {n}: wanted a whole number of at least 1$"):
        fastopt.set_num_threads(n)


# ---- instruction sets ----


@pytest.mark.parametrize("isa", ISAS)
def test_fastopt_isa_chooses_the_instruction_set(isa):
    script = "import fastopt; print(fastopt.engine.kernels.isa()); fastopt.show_runtime()"
    shown = output(script, FASTOPT_ISA=isa).splitlines()
    assert shown[0] == isa
    assert any(line.split() == ["instruction", "set:", isa, "(FASTOPT_ISA)"] for line in shown)


def test_without_fastopt_isa_the_best_is_chosen():
    for environment in ({}, {"FASTOPT_ISA": ""}):
        assert output("import fastopt; print(fastopt.engine.kernels.isa())", **environment) == ISAS[0]


@needs_openmp
def test_where_no_thread_can_be_started_steps_run_serially():
    script = """
    import resource, numpy as np, fastopt
    from fastopt.engine import sweep
    p, g = np.ones(2_000_000, "f4"), np.ones(2_000_000, "f4")
    twin = p.copy()
    fastopt.Adam(twin).step(g)
    opt = fastopt.Adam(p)
    sweep.set_threads(12)
    sweep.set_forced(True)
    with open("/proc/self/statm") as memory:
        now = int(memory.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 4_000_000,) * 2)  # not enough for the stack of a thread
    opt.step(g)
    print((p == twin).all(), sweep.lacks_threads(), fastopt.show_runtime("dicts")["one thread"][:10])
    """
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("reads how much memory is mapped from /proc")
    assert output(script) == "True True all steps:"


@pytest.mark.parametrize("prefetch", ["0", "1", ""])
def test_fastopt_prefetch_changes_no_bit(prefetch):
    assert output(STEPS + "\n    print(run())", FASTOPT_PREFETCH=prefetch) == output(STEPS + "\n    print(run())")


@pytest.mark.parametrize("prefetch", ["yes", "2", "-1"])
def test_a_fastopt_prefetch_that_is_neither_is_an_error(prefetch):
    done = python("import fastopt", FASTOPT_PREFETCH=prefetch)
    assert done.stderr.splitlines()[-1] == f"ImportError: FASTOPT_PREFETCH is {prefetch!r}: wanted 0 or 1"


@pytest.mark.parametrize("isa", ["sse9", "AVX2", "avx2,baseline"])
def test_an_unknown_fastopt_isa_is_an_error_that_lists_those_there_are(isa):
    done = python("import fastopt", FASTOPT_ISA=isa)
    assert done.returncode == 1
    wanted = f"ImportError: FASTOPT_ISA: instruction set {isa!r} is not available; there are {', '.join(ISAS)}"
    assert done.stderr.splitlines()[-1] == wanted


def test_selecting_an_unknown_instruction_set_keeps_the_one_in_use():
    before = kernels.isa()
    with pytest.raises(ValueError, match="instruction set 'sse9' is not available; there are "):
        kernels.select("sse9")
    assert kernels.isa() == before


# ---- the floating-point mode ----


def mode():
    """What this thread's arithmetic does: flushes results, flushes operands, rounds up, rounds down."""
    info, one, bit = np.finfo("f4"), np.ones(4, "f4"), np.full(4, 2.0**-30, "f4")
    flushes = (one * info.tiny / 2 == 0).all(), (one * 2.0**30 * info.smallest_subnormal == 0).all()
    up, down = (one + bit > 1).all(), (-one - bit < -1).all()
    return [bool(x) for x in (*flushes, up, down)]


@pytest.fixture
def rounding():
    """Sets the rounding direction of this thread; back to nearest after the test."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    directions = {"x86_64": {"up": 0x800, "nearest": 0}, "aarch64": {"up": 0x400000, "nearest": 0}}
    if platform.machine() not in directions:
        pytest.skip(f"FE_UPWARD of {platform.machine()} is not known here")
    numbers = directions[platform.machine()]
    yield lambda direction: libm.fesetround(numbers[direction])
    libm.fesetround(numbers["nearest"])


@pytest.mark.parametrize("flush", [True, False], ids=["flushing", "keeping"])
@pytest.mark.parametrize("n", [1, 3])
def test_the_callers_floating_point_mode_is_as_it_was(n, flush, rounding):
    sweep.set_threads(n)
    sweep.set_forced(True)
    fastopt.set_flush_denormals(flush)
    p = [np.ones(LARGE, "f4"), np.ones((7, 5))]
    grads = [np.full(LARGE, 1e-30, "f4"), np.ones((5, 7)).T]
    opt = fastopt.Adam(p, clip_norm=1.0, nonfinite="skip")
    nag = fastopt.NAG(p)

    def everything():
        opt.step(grads)
        opt.reference_step(grads)
        opt.step([None, np.full((7, 5), np.nan)])
        with nag.lookahead():
            assert mode() == before
        nag.step(grads)
        opt.state_dict()
        fastopt.Adam(np.zeros(LARGE))
        with pytest.raises(ValueError, match="shape"):
            opt.step([grads[0][1:], grads[1]])

    before = mode()
    assert before == [False, False, False, False]
    everything()
    assert mode() == before

    rounding("up")
    before = mode()
    if not before[2]:
        pytest.skip("NumPy does not round as this thread is told to")
    everything()
    assert mode() == before


@pytest.mark.parametrize("real", REALS)
def test_kernels_equal_the_twin_whatever_the_callers_mode(real, rounding):
    rng = np.random.default_rng(0)
    start, g = rng.normal(size=(2, 1000)).astype(real)
    p, q = start.copy(), start.copy()
    opt, twin = ADAM.make(p, clip_norm=1.0), ADAM.make(q, clip_norm=1.0)
    rounding("up")
    for _ in range(2):
        opt.step(g)
        twin.reference_step(g)
    assert p.tobytes() == q.tobytes()


def test_kernel_mode_holds_inside_its_block_and_nests():
    for flush in (True, False):
        kernels.set_flush(flush)
        assert mode()[:2] == [False, False]
        with kernels.kernel_mode():
            assert mode() == [flush, flush, False, False]
            kernels.set_flush(False)
            with kernels.kernel_mode():
                assert mode()[:2] == [False, False]
            assert mode()[:2] == [flush, flush]
        assert mode()[:2] == [False, False]


def test_kernel_mode_ends_with_an_error_too():
    with pytest.raises(KeyError), kernels.kernel_mode():
        raise KeyError
    assert mode() == [False, False, False, False]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not sys.platform.startswith("linux"),
    reason="feenableexcept() is of the GNU C library, and its traps of x86",
)
def test_a_caller_that_traps_keeps_its_traps_and_the_step_runs_without():
    script = """
    import ctypes, ctypes.util, numpy as np, fastopt
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    p, zero = np.zeros(9), np.zeros(9)
    opt = fastopt.RMSprop(p, eps=0.0)
    libm.feenableexcept(0x04)  # FE_DIVBYZERO
    opt.step(zero + 1)
    opt.state["params"]["square_avg"][...] = -0.0
    opt.param_groups[0]["alpha"] = 0.0
    opt.step(np.full(9, 1e-200))  # whose square is 0: a division by zero
    print(np.isinf(p).all(), flush=True)
    np.divide(zero + 1, zero)
    """
    done = python(script)
    assert done.stdout.strip() == "True"
    assert done.returncode == -signal.SIGFPE


def test_a_step_leaves_no_floating_point_flags_behind():
    p = np.full(100, 1e300)
    with np.errstate(all="raise"):
        fastopt.SGD(p, lr=1e10).step(np.full(100, 1e300))
        assert np.isinf(p).all()
        np.add(np.ones(100), 1.0)


# ---- more than 2**31 elements ----


@pytest.mark.slow
def test_more_elements_than_32_bits_count():
    """A parameter of 8.6 GB; the gradients take none: pages of zeros that are never written, and strides of 0."""
    n = 2**31 + 4 * chunks.CHUNK + 7
    needed = n * 4 * 1.1
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if os.path.exists("/proc/meminfo"):  # counts what caches would give back
        with open("/proc/meminfo") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if free < needed:
        pytest.skip(f"needs {needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB are free")
    p = np.ones(n, "float32")
    opt = fastopt.SGD(p, lr=0.5, nonfinite="raise")
    marks = [0, 1, 2**30, 2**31 - 1, 2**31, 2**31 + 1, n - chunks.CHUNK, n - 1]
    g = np.zeros(n, "float32")
    g[marks] = np.arange(1, len(marks) + 1)
    opt.step(g)
    assert (p[marks] == 1 - 0.5 * np.arange(1, len(marks) + 1)).all()
    p[marks] = 1
    for start in range(0, n, 1 << 26):
        assert (p[start : start + (1 << 26)] == 1).all(), "an element changed whose gradient is 0"
    opt.step(np.broadcast_to(np.float32(3), n))
    for start in range(0, n, 1 << 26):
        assert (p[start : start + (1 << 26)] == -0.5).all()
    bad = np.zeros(n, "float32")
    bad[n - 3] = np.nan
    with pytest.raises(FloatingPointError, match=rf"^grads\[{n - 3}\] is nan"):
        opt.step(bad)
