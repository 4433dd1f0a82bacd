"""Memory that runs out at any allocation: what was going on is done as a whole or not at all.

CPython's test module makes the n-th request for memory fail, for each n in turn.
"""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys

import numpy as np
import pytest
from optimizers_table import KINDS, chosen
from processes import in_child
from support import copied, is_torn, leaves, looked_ahead, rand, whole

from fastopt import NAG, SGD, Adam, Optimizer, RMSprop
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import CosineDecay

_testcapi = pytest.importorskip("_testcapi", reason="this Python was built without its test modules")
if not hasattr(_testcapi, "set_nomemory"):
    pytest.skip("this Python cannot be made to run out of memory", allow_module_level=True)

# From 3.12.1 and 3.13.0 on, a program of pure Python like this one crashes where memory runs out.
SURVIVES = """
import _testcapi, json
def give(x, *, y):
    return {k: [str(v)] for k, v in zip("abc", (x, y, [x]))}
def act():
    for i in range(3):
        give(i, y=i)
    json.loads(json.dumps(list(range(20))))
for n in range(600):
    _testcapi.set_nomemory(n, n + 1)
    try:
        act()
    except MemoryError:
        pass
    finally:
        _testcapi.remove_mem_hooks()
"""
if subprocess.run([sys.executable, "-c", SURVIVES], capture_output=True).returncode:
    pytest.skip("this Python crashes itself where memory runs out", allow_module_level=True)

ENOUGH = 12  # runs without an error in a row: one may pass because the memory was for what may fail in silence
MOST = 3000  # allocations
ELSEWHERE = ["PathLike", "can't allocate"]  # in what Python itself says where it has no memory, besides MemoryError


def fails(act, n):
    """Whether something fails if the n-th request for memory does: in NumPy, not always by a MemoryError."""
    failed = False
    _testcapi.set_nomemory(n, n + 1)
    try:
        act()
    except (MemoryError, SystemError):
        failed = True
    except (TypeError, RuntimeError) as error:
        if not any(words in str(error) for words in ELSEWHERE):
            raise
        failed = True
    finally:
        _testcapi.remove_mem_hooks()
    return failed


def some_params():
    return {
        "w": [rand(30, 40), np.asfortranarray(rand(20, 10, seed=1)), rand(8, seed=2, dtype="float32")],
        "b": rand(seed=3),
    }


def some_grads(seed, layout="C"):
    def one(*shape, dtype="float64"):
        values = rand(*shape, seed=seed, dtype=dtype)
        if layout == "strided" and values.ndim:
            return np.repeat(values, 2, axis=-1)[..., ::2]
        return values

    return {"w": [one(30, 40), one(20, 10), one(8, dtype="float32")], "b": one()}


def each_allocation(make, act, check, most=MOST):
    """Do something with the n-th allocation failing, n = 0, 1, ..., in `make test` each third; how often it failed.

    `make()` gives what is needed, `act(world)` is what is done, `check(world, failed, again)` looks what became of it;
    where `again` is true, it is to be done again, with memory. What failed otherwise is tried with the next n, unless
    the check says that it was done all the same: what lets signals through afterwards may lack memory too.
    """
    world = None
    passed = failures = 0
    for n in range(0, most, chosen(3, 1)):
        world = world or make()
        failed = fails(lambda world=world: act(world), n)
        again = failed and failures % 8 == 0
        try:
            done = check(world, failed, again)
        except AssertionError as error:
            raise AssertionError(f"allocation {n}, failed: {failed}: {error}"[:2000]) from None
        if again or done or not failed:
            world = None
        failures += failed
        passed = 0 if failed else passed + 1
        if passed == ENOUGH:
            return failures
    raise AssertionError(f"more than {most} allocations")


class World:
    """An optimizer after two steps, what it was before the work, and what it would be after it."""

    def __init__(self, cls, options, change=None, layout="C"):
        self.params = some_params()
        self.opt = cls(self.params, lr=CosineDecay(0.1, total=90), **options)
        for t in range(2):
            looked_ahead(self.opt).step(some_grads(t))
        looked_ahead(self.opt)
        self.opt.param_groups[0].update(change or {})
        self.grads = some_grads(5, layout)
        self.others = copied(self.params)

    def all(self):
        return whole(self.opt, self.params), [g.tobytes() for g in leaves(self.grads)]


STEPS = [
    ("plain", Adam, {}, {}),
    ("NAG", NAG, {}, {}),
    ("a new rate", Adam, {}, {"lr": 0.25}),
    ("momentum switched on", SGD, {"dampening": 0.5}, {"momentum": 0.5}),
    ("amsgrad switched on", Adam, {}, {"amsgrad": True}),
    ("centered, with momentum", RMSprop, {}, {"centered": True, "momentum": 0.5}),
    ("clipped", SGD, {"momentum": 0.5, "clip_norm": 0.5}, {}),
    ("screened", Adam, {"nonfinite": "raise"}, {"weight_decay": 0.5}),
    ("zeroed", SGD, {"momentum": 0.5, "zero_grads": True}, {}),
    ("all of these", Adam, {"zero_grads": True, "nonfinite": "raise", "clip_norm": 0.5}, {"amsgrad": True}),
]
steps = pytest.mark.parametrize(("words", "cls", "options", "change"), STEPS, ids=[row[0] for row in STEPS])


@steps
@pytest.mark.parametrize("layout", ["C", "strided"])
def test_a_step_without_memory_is_done_or_not(words, cls, options, change, layout):
    def child():
        done = World(cls, options, change, layout)
        before = done.all()
        done.opt.step(done.grads)
        after = done.all()
        assert before != after

        def check(world, failed, again):
            assert world.all() == (before if failed else after), "half"
            if again:
                assert world.opt.step(world.grads)
                assert world.all() == after, "other bits"

        # Where nothing new is needed, a step may do without Python's memory altogether.
        return each_allocation(
            lambda: World(cls, options, change, layout), lambda world: world.opt.step(world.grads), check
        )

    in_child(child, timeout=100)


@steps
def test_a_nan_without_memory_is_reported_or_memory_is(words, cls, options, change):
    if "nonfinite" not in options:
        pytest.skip("takes a NaN as it is")

    def make():
        world = World(cls, options, change)
        world.grads["w"][1][3, 4] = np.nan
        world.kept = whole(world.opt, world.params)
        return world

    def act(world):
        try:
            world.opt.step(world.grads)
        except FloatingPointError:
            return
        raise AssertionError("a NaN was not found")

    def check(world, failed, again):
        assert whole(world.opt, world.params) == world.kept

    assert in_child(lambda: each_allocation(make, act, check), timeout=100) > 0


def torn(opt):
    return is_torn(opt, lambda: opt.step(some_grads(1)))


# NumPy, asked for items of an array by a list of indices, may give neither an array nor an error where memory is short.
by_lists = pytest.mark.xfail(run=False, reason="the plan asks NumPy for numbers by a list of indices, which crashes")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[by_lists] * bool(cls.numbers or cls.group_numbers)) for name, cls in KINDS.items()],
)
@pytest.mark.parametrize("options", [{}, {"zero_grads": True, "clip_norm": 0.5}], ids=["", "zeroed"])
def test_a_reference_step_without_memory_is_done_or_not_or_says_that_it_is_torn(name, options, tmp_path):
    cls = OPTIMIZERS[name]

    def child():
        done = World(cls, options)
        before = done.all()
        kept = done.opt.state_dict()
        done.opt.reference_step(done.grads)
        after = done.all()

        def check(world, failed, again):
            if failed and torn(world.opt):
                with pytest.raises(RuntimeError, match="torn"):
                    world.opt.save(tmp_path / "x")
                for p, q in zip(leaves(world.params), leaves(world.others), strict=True):
                    p[...] = q
                for g, h in zip(leaves(world.grads), leaves(some_grads(5)), strict=True):
                    g[...] = h
                world.opt.load_state_dict(kept)
                looked_ahead(world.opt)
            assert world.all() in ((before, after) if failed else (after,)), "half"
            if again and world.all() == before:
                world.opt.reference_step(world.grads)
                assert world.all() == after, "other bits"
            return world.all() == after

        return each_allocation(lambda: World(cls, options), lambda w: w.opt.reference_step(w.grads), check)

    assert in_child(child, timeout=100) > 10


@pytest.mark.parametrize("cls", KINDS.values())
@pytest.mark.parametrize("change", [{}, {"weight_decay": 0.5}], ids=["", "changed"])
def test_a_lookahead_without_memory_is_entered_or_not_and_always_left(cls, change):
    if not hasattr(cls, "lookahead"):
        pytest.skip("has no lookahead")

    def child():
        entered = []

        def act(world):
            with world.opt.lookahead():
                world.inside = True

        def make():
            world = World(cls, {}, change)
            world.kept, world.inside = whole(world.opt, world.params), False
            return world

        def check(world, failed, again):
            assert whole(world.opt, world.params) == world.kept, "not where it was"
            assert not (failed and world.inside), "leaving failed"
            entered.append(world.inside)
            if not failed:
                assert world.opt.step(world.grads)

        each_allocation(make, act, check)
        assert any(entered)

    in_child(child, timeout=100)


@pytest.mark.parametrize("cls", KINDS.values())
def test_leaving_a_lookahead_never_fails_for_want_of_memory(cls):
    """Not even if there is none at all from the end of the block on."""
    if not hasattr(cls, "lookahead"):
        pytest.skip("has no lookahead")

    def child():
        for n in [*range(40), None]:
            world = World(cls, {})
            kept = whole(world.opt, world.params)
            error = None
            try:
                with world.opt.lookahead():
                    if n is None:
                        _testcapi.set_nomemory(0, 0)
                    else:
                        _testcapi.set_nomemory(n, n + 1)
            except BaseException as caught:
                error = caught
            finally:
                _testcapi.remove_mem_hooks()
            # Where nothing looks ahead, the context is one of Python's own.
            assert error is None or cls.lookahead is Optimizer.lookahead, (n, repr(error))
            assert whole(world.opt, world.params) == kept, n
            assert world.opt.step(world.grads)

    in_child(child, timeout=100)


@pytest.mark.parametrize("cls", KINDS.values())
@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.5}], ids=["", "with decay"])
def test_a_snapshot_without_memory_is_loaded_or_not(cls, more):
    def child():
        other = World(cls, more)
        for t in range(3):
            looked_ahead(other.opt).step(some_grads(t + 10))
        snapshot = other.opt.state_dict()
        if cls is Adam and more:
            other.opt.param_groups[0]["amsgrad"] = True
            other.opt.step(some_grads(20))
            snapshot = other.opt.state_dict()
        done = World(cls, {})
        before = done.all()
        done.opt.load_state_dict(snapshot)
        after = done.all()
        assert before != after

        def check(world, failed, again):
            assert world.all() in ((before, after) if failed else (after,)), "half"
            if again:
                world.opt.load_state_dict(snapshot)
                assert world.all() == after, "other state"
            return world.all() == after

        return each_allocation(lambda: World(cls, {}), lambda world: world.opt.load_state_dict(snapshot), check)

    assert in_child(child, timeout=100) > 10


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("cls", [SGD, NAG, Adam])
def test_a_file_without_memory_is_loaded_or_not(cls, in_place, tmp_path):
    if in_place and "in_place" not in inspect.signature(Optimizer.load).parameters:
        pytest.skip("there is no load in place")
    how = {"in_place": True} if in_place else {}
    first, path = str(tmp_path / "first"), str(tmp_path / "x")  # text: pathlib is not itself without memory

    def child():
        other = World(cls, {})
        other.opt.save(first)
        for t in range(3):
            looked_ahead(other.opt).step(some_grads(t + 10))
        other.opt.save(path)
        done = World(cls, {})
        before = done.all()
        done.opt.load(path, **how)
        after = done.all()
        assert before != after

        def check(world, failed, again):
            is_torn = failed and in_place and torn(world.opt)
            if not is_torn:
                assert world.all() in ((before, after) if failed else (after,)), "half"
            if again or is_torn:
                world.opt.load(path, **how)
                assert world.all() == after, "other state"
                world.opt.load(first, **how)
            return world.all() == after

        return each_allocation(lambda: World(cls, {}), lambda world: world.opt.load(path, **how), check)

    assert in_child(child, timeout=100) > 10


def test_a_save_without_memory_leaves_the_old_file_or_the_new_one_and_no_other(tmp_path):
    path = tmp_path / "x"

    def child():
        world = World(Adam, {})
        world.opt.save(path)
        old = path.read_bytes()
        world.opt.step(world.grads)
        world.opt.save(path)
        new = path.read_bytes()
        kept = world.all()

        def make():
            path.write_bytes(old)
            return world

        def check(world, failed, again):
            assert path.read_bytes() in ((old, new) if failed else (new,)), "torn"
            assert [x.name for x in tmp_path.iterdir()] == ["x"], "a file was left behind"
            assert world.all() == kept

        return each_allocation(make, lambda world: world.opt.save(str(path)), check)

    assert in_child(child, timeout=100) > 10


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("cls", [NAG, Adam])
def test_a_bind_without_memory_is_done_or_not(cls, bound):
    def child():
        def make():
            world = World(cls, {})
            world.tried = world.opt if bound else copy.copy(world.opt)
            world.kept = whole(world.opt, world.params)
            return world

        def check(world, failed, again):
            opt = world.tried
            wanted = (world.params if bound else None) if failed else world.others
            if failed and opt.param_groups[0]["params"] is world.others:
                assert whole(opt, world.others) == world.kept, "other state"
                return True
            assert opt.param_groups[0]["params"] is wanted, "bound to something else"
            if failed and not again:
                return False
            if wanted is None:
                with pytest.raises(RuntimeError, match="bind"):
                    opt.step(world.grads)
                opt.bind(world.params)
                wanted = world.params
            assert whole(opt, wanted) == world.kept, "other state"
            old = [p.tobytes() for p in leaves(world.params)]
            assert looked_ahead(opt).step(world.grads)
            assert [p.tobytes() != q for p, q in zip(leaves(world.params), old, strict=True)] == [
                wanted is world.params
            ] * 4
            return False

        return each_allocation(make, lambda world: world.tried.bind(world.others), check)

    assert in_child(child, timeout=100) > 10


@pytest.mark.parametrize("cls", KINDS.values())
def test_making_an_optimizer_without_memory_makes_one_or_none(cls):
    def make():
        return [some_params(), None]

    def act(world):
        world[1] = cls(world[0], lr=0.1)

    def check(world, failed, again):
        params = some_params()
        assert [p.tobytes() for p in leaves(world[0])] == [p.tobytes() for p in leaves(params)]
        if failed and not again:
            return
        opt = cls(world[0], lr=0.1) if failed else world[1]
        assert looked_ahead(opt).step(some_grads(1))

    assert in_child(lambda: each_allocation(make, act, check), timeout=100) > 10
