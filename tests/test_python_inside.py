"""Python code that runs in the middle of a step: schedules, properties of gradients, odd keys and numbers, finalizers.

It may look at the optimizer, and sees the state before the step. Whatever else it does, no memory is written that was
not checked for good, and the next steps use what the user sees in the groups.
"""

from __future__ import annotations

import copy
import gc
import numbers
import os
import signal
import sys
import threading
from collections import OrderedDict

import numpy as np
import pytest
from processes import in_child, output
from support import bits, copied, in_place, known, looked_ahead, rand, whole

import fastopt
from fastopt import NAG, SGD, Adam, AdamW, RMSprop
from fastopt.engine import chunks, sweep
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import CosineDecay, LinearDecay, StepDecay, Warmup

REFUSALS = (RuntimeError, ValueError, TypeError)
STEPS = ["step", "reference_step"]
MIDST = "in the middle of a step"


def memory(array):
    """A view of an array's memory, whatever becomes of its shape and type."""
    return array.view(np.uint8).reshape(-1) if array.flags.c_contiguous else array.T.view(np.uint8).reshape(-1)


class Once:
    """Does something when it is called for the n-th time, and nothing else ever."""

    def __init__(self, act, n=1):
        self.act, self.left = act, n

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            self.act()


class ByInterface:
    """A gradient that does something whenever NumPy looks for its memory."""

    def __init__(self, values, act):
        self.values, self.act = values, act

    @property
    def __array_interface__(self):
        self.act()
        return self.values.__array_interface__


class ByDLPack:
    def __init__(self, values, act):
        self.values, self.act = values, act

    def __dlpack__(self, **wanted):
        self.act()
        return self.values.__dlpack__(**wanted)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


HOOKS = [ByInterface, ByDLPack]


# ---- containers that change while they are read ----


class ChangingList(list):
    def __init__(self, values, act):
        super().__init__(values)
        self.act = act

    def __len__(self):
        found = super().__len__()
        self.act(self)
        return found


class Key:
    """A key of dicts that does something when it is hashed or compared."""

    act = None

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"Key({self.name!r})"

    def __hash__(self):
        if Key.act is not None:
            Key.act("hash")
        return hash(self.name) % 2  # so that some collide, and are compared

    def __eq__(self, other):
        if Key.act is not None:
            Key.act("eq")
        return isinstance(other, Key) and self.name == other.name


def tried(opt, params, grads, step="step", **more):
    """A step that may be refused: whether it was; then nothing was written."""
    before = whole(opt, params)
    try:
        getattr(opt, step)(grads, **more)
    except REFUSALS:
        assert whole(opt, params) == before, "refused, but something was written"
        return True
    return False


def refused(words, step, *args, **more):
    """A step that must be refused."""
    try:
        step(*args, **more)
    except REFUSALS:
        return
    raise AssertionError(f"not refused: {words}")


CHANGES = {
    "clear": lambda x: x.clear(),
    "pop": lambda x: x.pop(),
    "grow": lambda x: x.append(rand(5, seed=9)),
    "halve": lambda x: x.__delitem__(slice(0, 2)),
}


@pytest.mark.parametrize("deep", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_list_that_changes_when_it_is_asked_for_its_length(change, deep):
    def child(step, n):
        params = [rand(5, seed=i) for i in range(4)]
        tree = {"a": params, "b": [rand(3)]} if deep else params
        twins = copied(tree)
        opt, twin = Adam(tree), Adam(twins)
        fine = [rand(5, seed=i) for i in range(4)]
        again = {"a": fine, "b": [rand(3)]} if deep else fine
        left = [n]

        def act(x):
            left[0] -= 1
            if left[0] == 0:
                CHANGES[change](x)

        odd = ChangingList(fine, act)
        if not tried(opt, tree, {"a": odd, "b": [rand(3)]} if deep else odd, step):
            assert change == "grow" or left[0] > 0 or n > 1, "it was read beyond its end"
            twin.step(again)
        assert whole(opt, tree) == whole(twin, twins), (step, n)
        assert opt.step(again)
        assert twin.step(again)
        assert whole(opt, tree) == whole(twin, twins)
        return left[0] > 0

    def all_of_them():
        for step in STEPS:
            for n in range(1, 7):  # at its n-th being asked
                if child(step, n):
                    break
            else:
                raise AssertionError("a list is asked for its length more than 6 times")

    in_child(all_of_them)


@pytest.mark.parametrize("how", ["hash", "eq"])
@pytest.mark.parametrize("change", ["clear", "pop", "replace"])
def test_a_dict_that_changes_when_its_keys_are_looked_up(change, how):
    def child(step, n):
        params = {Key(i): rand(5, seed=i) for i in range(4)}
        kept = copied(list(params.values()))
        opt = Adam(params, lr=0.1)
        grads = {Key(i): rand(5, seed=i) for i in range(4)}
        left = [n]

        def act(what):
            if what != how:
                return
            left[0] -= 1
            if left[0] == 0:
                Key.act = None  # what is done below looks keys up as well
                if change == "clear":
                    grads.clear()
                elif change == "pop":
                    grads.popitem()
                else:
                    for key in list(grads):
                        grads[key] = None

        Key.act = act
        try:
            tried(opt, list(params.values()), grads, step)
        finally:
            Key.act = None
        # Each parameter has had the update by its gradient, or none.
        for i, (p, q) in enumerate(zip(params.values(), kept, strict=True)):
            if p.tobytes() != q.tobytes():
                Adam(q, lr=0.1).step(rand(5, seed=i))
                assert p.tobytes() == q.tobytes()
        assert opt.step({Key(i): rand(5, seed=i) for i in range(4)})
        return left[0] > 0

    def all_of_them():
        for step in STEPS:
            for n in range(1, 60):
                if child(step, n):
                    break
            assert 1 < n < 59

    in_child(all_of_them)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("change", [*CHANGES, "replace"])
def test_a_gradient_whose_property_changes_the_list_it_is_in(change, hook):
    """The step is refused, or the one that the list was before."""

    def child(step, place, n, deep):
        params = [rand(5, seed=i) for i in range(4)]
        twins = copied(params)
        opt, twin = (Adam([x, [rand(2)]] if deep else x) for x in (params, twins))
        fine = [rand(5, seed=i) for i in range(4)]
        grads = list(fine)

        def act():
            if change == "replace":
                grads[:] = [None] * 4
            else:
                CHANGES[change](grads)

        grads[place] = hook(fine[place], Once(act, n))
        if not tried(opt, params, [grads, [rand(2)]] if deep else grads, step):
            twin.step([fine, [rand(2)]] if deep else fine)
        if change != "replace":
            assert whole(opt, params) == whole(twin, twins), (step, place, n, deep)
        assert opt.step([fine, [rand(2)]] if deep else fine)

    in_child(
        lambda: [
            child(step, place, n, deep)
            for step in STEPS
            for place in (0, 1, 3)
            for n in (1, 2)
            for deep in (False, True)
        ]
    )


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_gradient_whose_property_clears_the_dict_it_is_in(kind, hook):
    def child(step):
        params = {i: [rand(5, seed=i)] for i in range(4)}
        twins = copied(params)
        opt, twin = Adam(params), Adam(twins)
        fine = {i: [rand(5, seed=i)] for i in range(4)}
        grads = kind((i, list(g)) for i, g in fine.items())

        def act():
            for part in grads.values():
                part.clear()
            grads.clear()

        grads[1][0] = hook(fine[1][0], Once(act))
        if not tried(opt, params, grads, step):
            twin.step(fine)
        assert whole(opt, params) == whole(twin, twins)
        assert opt.step(fine)

    in_child(lambda: [child(step) for step in STEPS])


# ---- arrays that change after they were checked ----


def numbered(act, value=0.1):
    """A real number that does something when it is asked for its value."""

    class Number(float):
        def __float__(self):
            act()
            return float.__add__(self, 0.0)

        __repr__ = float.__repr__

    return Number(value)


def by_property(opt, grads, act, hook):
    grads[-1] = hook(grads[-1], act)


def by_schedule(opt, grads, act):
    rate = opt.lr
    opt.lr = lambda t: (act(), rate)[1]


WAYS = {
    **{hook.__name__: lambda opt, grads, act, hook=hook: by_property(opt, grads, act, hook) for hook in HOOKS},
    "schedule": by_schedule,
}


def narrow(g):
    """Make an array own much less memory, somewhere else."""
    g.resize((1,) * g.ndim, refcheck=False)


# what is done to a parameter, and what undoes it
TO_PARAMETERS = {
    "read-only": (
        lambda p: setattr(p.flags, "writeable", False),
        lambda p: setattr(p.flags, "writeable", True),
    ),
    "shape": (lambda p: in_place(p, "shape", (70, 30)), lambda p: in_place(p, "shape", (30, 70))),
    "more axes": (lambda p: in_place(p, "shape", (30, 7, 10)), lambda p: in_place(p, "shape", (30, 70))),
    "strides": (lambda p: in_place(p, "strides", (8, 240)), lambda p: in_place(p, "strides", (560, 8))),
    "short strides": (lambda p: in_place(p, "strides", (0, 8)), lambda p: in_place(p, "strides", (560, 8))),
    "dtype": (lambda p: in_place(p, "dtype", np.int64), lambda p: in_place(p, "dtype", np.float64)),
    "dtype of another size": (
        lambda p: in_place(p, "dtype", np.float32),
        lambda p: in_place(p, "dtype", np.float64),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", TO_PARAMETERS)
def test_a_parameter_changed_in_the_midst_is_refused_and_not_written(change, way):
    def child(step, which):
        do, undo = TO_PARAMETERS[change]
        params = [rand(30, 70, seed=i)[:] for i in range(3)]  # views: NumPy gives them long strides back
        twins = copied(params)
        opt, twin = Adam(params, lr=0.1), Adam(twins, lr=0.1)
        grads = [rand(30, 70, seed=i + 5) for i in range(3)]
        for _ in range(2):
            assert opt.step(grads)
            assert twin.step(grads)
        views = [memory(p) for p in params]
        before = [v.tobytes() for v in views], known(opt)
        odd = list(grads)
        WAYS[way](opt, odd, Once(lambda: do(params[which])))
        refused((step, which), getattr(opt, step), odd)
        opt.lr = 0.1
        assert known(opt) == before[1], (step, which)
        assert [v.tobytes() for v in views] == before[0], (step, which)
        undo(params[which])
        assert opt.step(grads)
        assert twin.step(grads)
        assert whole(opt, params) == whole(twin, twins)

    in_child(lambda: [child(step, which) for step in STEPS for which in range(3)])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"zero_grads": True}, {"clip_norm": 1.0}, {"nonfinite": "raise"}], ids=str)
def test_a_gradient_resized_after_it_was_checked_is_not_read(options, way):
    def child(step):
        params = [rand(300, 700, seed=i) for i in range(3)]
        opt = SGD(params, lr=0.1, momentum=0.9, **options)
        grads = [rand(300, 700, seed=i + 5) for i in range(3)]
        odd = list(grads)
        WAYS[way](opt, odd, Once(lambda: narrow(grads[0])))
        before = whole(opt, params)[:-1]
        refused(step, getattr(opt, step), odd)
        assert whole(opt, params)[:-1] == before, step
        assert [bits(g) for g in grads[1:]] == [bits(rand(300, 700, seed=i + 5)) for i in (1, 2)]

    for step in STEPS:
        in_child(lambda step=step: child(step))


TO_GRADIENTS = {
    "shape": lambda g: in_place(g, "shape", (3, 100, 70)),
    "one axis": lambda g: in_place(g, "shape", (300, 70, 1)),
    "strides": lambda g: in_place(g, "strides", (0, 0)),
    "dtype": lambda g: in_place(g, "dtype", np.int64),
}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "schedule"])  # asked before gradients are read
@pytest.mark.parametrize("change", TO_GRADIENTS)
def test_a_gradient_given_another_shape_in_the_midst_counts_as_it_was_or_not_at_all(change, way):
    def child(step, layout):
        params = [rand(300, 70, seed=i) for i in range(2)]
        twins = copied(params)
        opt, twin = (SGD(x, lr=0.1, momentum=0.9) for x in (params, twins))
        first = np.array(rand(300, 70, seed=5), order="F" if layout == "F" else "C")
        if layout == "reversed":
            first = first[::-1, ::-1]
        grads = [first, rand(300, 70, seed=6)]
        assert twin.step(copied(grads))
        odd = list(grads)
        WAYS[way](opt, odd, Once(lambda: TO_GRADIENTS[change](first)))
        before = whole(opt, params)[:-1]
        try:
            getattr(opt, step)(odd)
        except REFUSALS:
            assert whole(opt, params)[:-1] == before, (step, layout)
        else:
            assert whole(opt, params)[:-1] == whole(twin, twins)[:-1], (step, layout)

    in_child(lambda: [child(step, layout) for step in STEPS for layout in ("C", "F", "reversed")])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", ["C", "F"])
def test_a_gradient_made_read_only_in_the_midst_is_not_zeroed(layout, way):
    def child(step):
        params = [rand(30, 70, seed=i) for i in range(2)]
        opt = SGD(params, lr=0.1, zero_grads=True)
        grads = [np.array(rand(30, 70, seed=i + 5), order=layout) for i in range(2)]
        kept = copied(grads)
        odd = list(grads)
        WAYS[way](opt, odd, Once(lambda: setattr(grads[0].flags, "writeable", False)))
        before = whole(opt, params)[:-1]
        refused(step, getattr(opt, step), odd)
        assert whole(opt, params)[:-1] == before, step
        assert [bits(g) for g in grads] == [bits(g) for g in kept], step

    in_child(lambda: [child(step) for step in STEPS])


class AskedForScalars(Adam):
    """Whose own scalars are computed by code that does something else besides."""

    act = staticmethod(lambda: None)

    @classmethod
    def scalars(cls, h, t, **more):
        cls.act()
        return super().scalars(h, t, **more)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("change", ["read-only", "shape", "dtype"])
def test_a_class_of_ones_own_is_watched_as_well(change, step):
    def child():
        do, _ = TO_PARAMETERS[change]
        p = rand(30, 70)
        opt = AskedForScalars(p)
        before = memory(p).tobytes(), opt.steps
        AskedForScalars.act = staticmethod(Once(lambda: do(p)))
        refused(step, getattr(opt, step), rand(30, 70, seed=1))
        assert (p.base if p.base is not None else p).tobytes() == before[0]
        assert opt.steps == before[1]

    in_child(child)


class Screening(SGD):
    """Does something when its gradients have been summed for the last time, as a signal handler could."""

    act = staticmethod(lambda: None)

    def _screened(self, scale):
        found = super()._screened(scale)
        self.act()
        return found


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("change", ["read-only", "shape", "dtype"])
@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"nonfinite": "raise"}], ids=str)
def test_a_parameter_changed_after_the_last_sum_over_gradients_is_refused(options, change, step):
    def child():
        do, _ = TO_PARAMETERS[change]
        p = rand(30, 70)
        opt = Screening(p, **options)
        g = rand(30, 70, seed=1)
        for _ in range(2):  # all that is asked for many steps at once has been asked for
            opt.step(g)
        before = memory(p).tobytes(), opt.steps
        opt.act = Once(lambda: do(p))
        refused(step, getattr(opt, step), g)
        assert (p.base if p.base is not None else p).tobytes() == before[0]
        assert opt.steps == before[1]

    in_child(child)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("change", ["read-only", "shape", "dtype"])
def test_a_loss_scale_that_changes_a_parameter_when_it_is_asked_for_its_value(change, step):
    def child():
        do, _ = TO_PARAMETERS[change]
        p = rand(30, 70)
        opt = Adam(p)
        g = rand(30, 70, seed=1)
        opt.step(g)
        before = memory(p).tobytes()
        scale = numbered(Once(lambda: do(p)), 2.0)
        refused(step, getattr(opt, step), g, loss_scale=scale)
        assert p.tobytes() == before
        assert opt.steps == 1

    in_child(child)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("words", "act"),
    [
        ("read-only", lambda p: setattr(p.flags, "writeable", False)),
        ("another shape", lambda p: in_place(p, "shape", (7, 3))),
        ("another number of axes", lambda p: in_place(p, "shape", (21,))),
    ],
)
def test_a_schedule_that_changes_its_own_parameter_is_a_value_error_that_names_it(words, act, step):
    p, q = rand(3, 7), rand(4)
    opt = SGD({"w": p, "b": q}, lr=0.5, momentum=0.5)
    g = {"w": rand(3, 7, seed=1), "b": rand(4, seed=1)}
    opt.step(g)
    before = p.tobytes(), q.tobytes(), opt.steps, opt.state["params['w']"]["momentum_buffer"].tobytes()
    opt.lr = lambda t: (act(p), 0.5)[1]
    with pytest.raises(ValueError, match=r"params\['w'\]"):
        getattr(opt, step)(g)
    now = p.tobytes(), q.tobytes(), opt.steps, opt.state["params['w']"]["momentum_buffer"].tobytes()
    assert now == before


def test_another_thread_that_sets_a_gradients_shape_does_not_change_a_bit():
    script = """
    import sys, threading, warnings, numpy as np, fastopt
    from fastopt.engine import chunks, sweep
    warnings.simplefilter("ignore")
    sys.setswitchinterval(1e-5)
    sweep.set_threads(2)
    rng = np.random.default_rng(3)
    shape, others = (1000, 700), [(1000, 70, 10), (10, 100, 700), (1000, 700, 1), (2, 500, 2, 350)]
    g = np.asfortranarray(rng.normal(size=shape))
    fixed = g.copy(order="F")
    p = rng.normal(size=shape)
    q = p.copy()
    opt, twin = fastopt.Adam(p, lr=0.1), fastopt.Adam(q, lr=0.1)
    stop, turns = False, 0
    def reshape():
        global turns
        while not stop:
            for other in others:
                g.shape = other
                g.shape = shape
            turns += 1
    thread = threading.Thread(target=reshape)
    thread.start()
    done = refused = 0
    try:
        while done < 60 and refused < 3000:
            try:
                opt.step(g)
            except (ValueError, RuntimeError):
                refused += 1
            else:
                done += 1
                twin.step(fixed)
                if p.tobytes() != q.tobytes():
                    print("other bits after", done)
                    break
    finally:
        stop = True
        thread.join()
    print(done > 3 and turns > 3 and p.tobytes() == q.tobytes() and opt.steps == twin.steps)
    """
    assert output(script, timeout=90) == "True"


# ---- resizing parameters ----


def test_a_parameter_cannot_be_resized_while_it_is_a_parameter():
    for cls in OPTIMIZERS.values():
        p = [rand(100), rand(5, 6)]
        opt = cls(p)
        before = whole(opt, p)
        for array, size in [(p[0], 10), (p[0], 100_000), (p[0], 0), (p[1], (5, 7)), (p[1], (1, 1))]:
            with pytest.raises(ValueError, match="resize"):
                array.resize(size, refcheck=False)
        assert whole(opt, p) == before
        p[0].resize(100, refcheck=False)
        p[1].resize((5, 6), refcheck=False)
        assert whole(opt, p) == before
        looked_ahead(opt).step([rand(100), rand(5, 6)])


def test_a_parameter_cannot_be_resized_after_a_bind_and_can_be_when_it_is_none_any_more():
    p, q = rand(50), rand(50)
    opt = Adam(p)
    opt.bind(q)
    with pytest.raises(ValueError, match="resize"):
        q.resize(10, refcheck=False)
    assert opt.step(rand(50))
    del opt
    gc.collect()
    p.resize(10, refcheck=False)
    q.resize(10, refcheck=False)


def test_a_parameter_cannot_be_resized_by_another_thread_in_a_step():
    script = """
    import sys, threading, numpy as np, fastopt
    sys.setswitchinterval(1e-5)
    p, q = np.ones(300_000), np.ones(300_000)
    g = np.linspace(-1, 1, p.size)
    opt, twin = fastopt.Adam(p, lr=0.1), fastopt.Adam(q, lr=0.1)
    stop, refused, done = False, 0, 0
    def resize():
        global refused, done
        while not stop:
            try:
                p.resize(10, refcheck=False)
                done += 1
            except ValueError:
                refused += 1
    thread = threading.Thread(target=resize)
    thread.start()
    for _ in range(40):
        try:
            opt.step(g)
        except (ValueError, RuntimeError):
            pass
        twin.step(g)
    stop = True
    thread.join()
    print(refused > 0, done, p.tobytes() == q.tobytes())
    """
    assert output(script) == "True 0 True"


# ---- live groups that change between check and use ----


def follows_the_dict(opt, params, grads):
    """Whether the next steps are those that the groups, as they can be read now, ask for."""
    twins = copied(params)
    twin = copy.deepcopy(opt).bind(twins)  # which has the groups' values, and nothing learned before
    for _ in range(2):
        opt.step(grads)
        twin.step(grads)
    return [bits(p) for p in params] == [bits(q) for q in twins]


def changed_at_each_line(cls, options, change, step, **more):
    """Change a live group at the n-th line of Python that a step runs, for each n, as a signal handler could."""
    package = os.path.dirname(fastopt.__file__)
    for n in range(400):
        params = [rand(5, seed=i) for i in range(2)]
        grads = [rand(5, seed=i + 5) for i in range(2)]
        opt = cls(params, **options)
        for _ in range(2):
            opt.step(grads)
        opt.param_groups[0].update(more)
        left = n

        def trace(frame, event, arg, opt=opt):
            nonlocal left
            if not frame.f_code.co_filename.startswith(package):
                return None
            if event == "line":
                if left == 0:
                    opt.param_groups[0].update(change)
                left -= 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            getattr(opt, step)(grads)
        finally:
            sys.settrace(before)
        if left >= 0:
            assert n > 5, "no line of fastopt was run: what is tested here?"
            return
        yield n, opt, params, grads


@pytest.mark.no_cover
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("cls", "options", "more", "change"),
    [
        (SGD, {"lr": 0.1, "momentum": 0.5}, {"momentum": 0.25}, {"momentum": 0.75}),
        (SGD, {"lr": 0.1}, {"lr": 3}, {"lr": 100.0}),
        (SGD, {"lr": 0.1}, {"lr": 3}, {"momentum": 0.75}),
        (Adam, {"lr": 0.1}, {"eps": 1e-3}, {"betas": (0.1, 0.2)}),
        (AdamW, {"lr": 0.1}, {"weight_decay": 0.3}, {"weight_decay": 0.0, "maximize": True}),
        (RMSprop, {"lr": 0.1}, {"alpha": 0.3}, {"centered": True}),
    ],
    ids=str,
)
def test_a_group_changed_by_a_signal_handler_at_any_moment_is_followed(cls, options, more, change, step):
    wrong = []
    for n, opt, params, grads in changed_at_each_line(cls, options, change, step, **more):
        if not follows_the_dict(opt, params, grads):
            wrong.append(n)
    assert wrong == [], "lines of Python in the midst of a step after which the change was missed for ever"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("asked", ["lr", "weight_decay", "momentum", "dampening"])
@pytest.mark.parametrize("change", [{"momentum": 0.75}, {"lr": 100.0}, {"weight_decay": 0.5}], ids=str)
def test_a_number_that_changes_the_group_while_it_is_checked(change, asked, step):
    params = [rand(5)]
    grads = [rand(5, seed=1)]
    opt = SGD(params, lr=0.1, momentum=0.5)
    opt.step(grads)
    opt.param_groups[0][asked] = numbered(Once(lambda: opt.param_groups[0].update(change)), 0.25)
    getattr(opt, step)(grads)
    assert follows_the_dict(opt, params, grads)


class Rewritten(SGD):
    """Changes the live group while it is asked what the group comes to."""

    act: dict[str, object] = {}  # noqa: RUF012

    @classmethod
    def check_together(cls, h):
        cls.act.get("check_together", lambda: None)()
        return super().check_together(h)

    @classmethod
    def rule(cls, h):
        cls.act.get("rule", lambda: None)()
        return super().rule(h)

    @classmethod
    def scalars(cls, h, t, **more):
        cls.act.get("scalars", lambda: None)()
        return super().scalars(h, t, **more)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("where", ["check_together", "rule", "scalars"])
@pytest.mark.parametrize("change", [{"momentum": 0.75}, {"lr": 100.0}, {"momentum": 0.0}], ids=str)
def test_a_group_changed_by_what_its_class_is_asked_is_followed(change, where, step):
    params = [rand(5)]
    grads = [rand(5, seed=1)]
    opt = Rewritten(params, lr=0.1, momentum=0.5)
    opt.step(grads)
    Rewritten.act = {where: Once(lambda: opt.param_groups[0].update(change))}
    try:
        opt.param_groups[0]["momentum"] = 0.25
        getattr(opt, step)(grads)
    finally:
        Rewritten.act = {}
    assert opt.param_groups[0]["momentum"] in (0.25, change.get("momentum", 0.25))
    assert follows_the_dict(opt, params, grads)


class OddGroup(dict):
    """A group whose items change it when they are listed."""

    act = None

    def items(self):
        found = list(super().items())
        if self.act is not None:
            act, self.act = self.act, None
            act()
        return found


@pytest.mark.parametrize("change", [{"momentum": 0.75}, {"lr": 100.0}], ids=str)
def test_a_group_of_an_odd_kind_is_followed_or_named_as_wrong(change):
    params = [rand(5)]
    grads = [rand(5, seed=1)]
    opt = SGD(params, lr=0.1, momentum=0.5)
    opt.step(grads)
    group = OddGroup(opt.param_groups[0])
    group.act = lambda: group.update(change)
    opt.param_groups[0] = group
    before = params[0].tobytes()
    refusal = None
    try:
        opt.step(grads)
    except TypeError as error:
        refusal = str(error)
        opt.param_groups[0] = dict(group)
    assert refusal is None or ("param_groups[0]" in refusal and params[0].tobytes() == before)
    assert follows_the_dict(opt, params, grads)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("change", [{"momentum": 0.75}, {"momentum": 0.0}, {"weight_decay": 0.5}, {"lr": 0.5}], ids=str)
def test_a_schedule_that_changes_its_group_is_followed_from_the_next_step_on(change, step):
    params, twins = [rand(5), rand(3)], [rand(5), rand(3)]
    opt = SGD([{"params": p} for p in params], lr=0.25, momentum=0.5)
    twin = SGD([{"params": p} for p in twins], lr=0.25, momentum=0.5)
    act = Once(lambda: [group.update(change) for group in opt.param_groups], 3)  # in step 2, of the first group
    opt.lr = lambda t: (act(), 0.25)[1]
    for t in range(5):
        grads = [rand(5, seed=t), rand(3, seed=t)]
        assert getattr(opt, step)(grads)
        assert twin.step(grads)
        assert [bits(p) for p in params] == [bits(q) for q in twins], t
        if t == 1:
            for group in twin.param_groups:
                group.update(change)


def test_groups_cleared_in_the_midst_are_missed_by_the_next_step_at_the_latest():
    p, q = rand(3), rand(3)
    opt = SGD([{"params": p}, {"params": q}], lr=0.1)
    groups = list(opt.param_groups)
    grads = [rand(3), ByInterface(rand(3), Once(opt.param_groups.clear))]
    before = p.tobytes(), q.tobytes()
    try:
        opt.step(grads)
    except REFUSALS:
        assert (p.tobytes(), q.tobytes()) == before
    with pytest.raises(ValueError, match="param_groups has 0 groups"):
        opt.step([rand(3), rand(3)])
    opt.param_groups[:] = groups
    assert opt.step([rand(3), rand(3)])


# ---- looking at the optimizer in the midst ----


READERS = {
    "state_dict": lambda opt, path: opt.state_dict(),
    "save": lambda opt, path: opt.save(path),
    "repr": lambda opt, path: repr(opt),
    "state": lambda opt, path: {name: dict(slots) for name, slots in opt.state.items()},
    "steps": lambda opt, path: (opt.steps, opt.skipped, opt.step_counts),
    "lr": lambda opt, path: opt.lr,
}
WRITERS = {
    "step": lambda opt, path: opt.step([rand(5), rand(3)]),
    "reference_step": lambda opt, path: opt.reference_step([rand(5), rand(3)]),
    "load_state_dict": lambda opt, path: opt.load_state_dict(SNAPSHOT[0]),
    "load": lambda opt, path: opt.load(path),
    "bind": lambda opt, path: opt.bind([rand(5), rand(3)]),
    "lookahead": lambda opt, path: opt.lookahead().__enter__(),
    "reset": lambda opt, path: opt.reset(),
    "an option": lambda opt, path: setattr(opt, "clip_norm", 1.0),
}
SNAPSHOT = [None]


def as_found(opt, path, params, way):
    """What a reader found, to compare with what it should have found."""
    if way == "save":
        others = copied(params)
        other = type(opt)(others, lr=0.0).load(path)
        other = type(opt)(others, lr=0.0)
        other.load(path)
        return whole(other, others)[:-1]
    return READERS[way](opt, path)


class Finalizer:
    """Does something when it is collected: a cycle, so that it is the collector who finds it."""

    def __init__(self, act):
        self.act, self.me = act, self

    def __del__(self):
        self.act()


class AtItsEnd:
    """Does something as soon as nobody has it any more."""

    def __init__(self, act):
        self.act = act

    def __del__(self):
        self.act()


def from_schedule(opt, grads, act):
    by_schedule(opt, grads, act)


def from_signal_handler(opt, grads, act):
    opt.lr = lambda t, rate=opt.lr: (signal.raise_signal(signal.SIGUSR1), rate)[1]
    signal.signal(signal.SIGUSR1, lambda *_: act())


def from_finalizer(opt, grads, act):
    held = [AtItsEnd(act)]
    opt.lr = lambda t, rate=opt.lr: (held.clear(), rate)[1]


def from_collector(opt, grads, act):
    def schedule(t, rate=opt.lr):
        Finalizer(act)
        gc.collect()
        return rate

    opt.lr = schedule


def from_dlpack(opt, grads, act):
    grads[1] = ByDLPack(grads[1], act)


def from_interface(opt, grads, act):
    grads[1] = ByInterface(grads[1], act)


def from_loss_scale(opt, grads, act):
    return {"loss_scale": numbered(act, 1.0)}


MOMENTS = [
    from_schedule,
    from_signal_handler,
    from_finalizer,
    from_collector,
    from_dlpack,
    from_interface,
    from_loss_scale,
]
moments = pytest.mark.parametrize("moment", MOMENTS, ids=[f.__name__[5:] for f in MOMENTS])


@pytest.fixture
def handlers():
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def begun(cls=Adam, rate=0.1):
    params, twins = [rand(5), rand(3)], [rand(5), rand(3)]
    opt, twin = cls(params, lr=rate), cls(twins, lr=rate)
    for t in range(3):
        grads = [rand(5, seed=t), rand(3, seed=t) if t != 1 else None]
        looked_ahead(opt).step(grads)
        looked_ahead(twin).step(grads)
    return opt, params, twin, twins


def plain(x):
    """The same, arrays by their bits."""
    if isinstance(x, np.ndarray):
        return bits(x)
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    return [plain(value) for value in x] if isinstance(x, (list, tuple)) else x


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("reader", READERS)
@moments
def test_the_optimizer_may_be_looked_at_in_the_midst_and_shows_the_state_before(
    moment, reader, step, tmp_path, handlers
):
    opt, params, twin, twins = begun()
    path = tmp_path / "saved"
    grads = [rand(5, seed=9), rand(3, seed=9)]
    found = []

    def act():
        try:
            found.append(plain(READERS[reader](opt, path)))
        except BaseException as error:
            found.append(error)

    looked_ahead(opt)
    act = Once(act)
    more = moment(opt, grads, act) or {}
    wanted = plain(READERS[reader](opt, tmp_path / "before"))
    assert getattr(opt, step)(grads, **more)
    assert found == [wanted]
    if reader == "save":
        others = copied(params)
        other = Adam(others, lr=opt.lr)
        other.load(path)
        assert whole(other, others)[:-1] == whole(twin, twins)[:-1]
        assert path.read_bytes() == (tmp_path / "before").read_bytes()
        assert sorted(x.name for x in tmp_path.iterdir()) == ["before", "saved"]
    opt.lr = 0.1
    looked_ahead(twin).step([rand(5, seed=9), rand(3, seed=9)])
    assert whole(opt, params) == whole(twin, twins)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("writer", WRITERS)
@moments
def test_what_would_change_the_optimizer_in_the_midst_is_refused(moment, writer, step, tmp_path, handlers):
    cls = NAG if writer == "lookahead" else Adam
    opt, params, twin, twins = begun(cls)
    path = tmp_path / "saved"
    opt.save(path)
    SNAPSHOT[0] = opt.state_dict()
    grads = [rand(5, seed=9), rand(3, seed=9)]
    found = []

    def act():
        try:
            WRITERS[writer](opt, path)
            found.append("it was done")
        except BaseException as error:
            found.append((type(error), MIDST in str(error)))

    looked_ahead(opt)
    more = moment(opt, grads, Once(act)) or {}
    assert getattr(opt, step)(grads, **more)
    assert found == [(RuntimeError, True)]
    assert opt.param_groups[0]["params"] is params
    opt.lr = 0.1
    looked_ahead(twin).step([rand(5, seed=9), rand(3, seed=9)])
    assert whole(opt, params) == whole(twin, twins)
    # ... and training goes on.
    for t in range(2):
        looked_ahead(opt).step([rand(5, seed=t), rand(3, seed=t)])
        looked_ahead(twin).step([rand(5, seed=t), rand(3, seed=t)])
    assert whole(opt, params) == whole(twin, twins)


@pytest.mark.parametrize("writer", ["step", "load_state_dict", "bind"])
def test_a_refusal_that_nobody_catches_leaves_all_as_it_was(writer):
    opt, params, twin, twins = begun()
    SNAPSHOT[0] = opt.state_dict()
    opt.lr = lambda t: WRITERS[writer](opt, None)
    before = whole(opt, params)
    with pytest.raises(RuntimeError, match=MIDST):
        opt.step([rand(5), rand(3)])
    assert whole(opt, params) == before
    opt.lr = 0.1
    for _ in range(2):
        opt.step([rand(5), rand(3)])
        twin.step([rand(5), rand(3)])
    assert whole(opt, params) == whole(twin, twins)


@pytest.mark.parametrize("step", STEPS)
def test_another_thread_may_look_while_a_schedule_takes_its_time(step):
    """It waits, or sees the state before or after: never a mixture, and nobody hangs."""
    opt, _, twin, _ = begun()
    snapshots = [plain(opt.state_dict()["state"])]
    twin.step([rand(5, seed=9), rand(3, seed=9)])
    snapshots.append(plain(twin.state_dict()["state"]))
    found = []
    looking = threading.Event()

    def look():
        looking.set()
        found.append(plain(opt.state_dict()["state"]))

    thread = threading.Thread(target=look)

    def schedule(t):
        thread.start()
        looking.wait(10)
        thread.join(0.1)
        return 0.1

    opt.lr = schedule
    getattr(opt, step)([rand(5, seed=9), rand(3, seed=9)])
    thread.join(10)
    assert not thread.is_alive()
    assert len(found) == 1
    assert found[0] in snapshots


def acting(params):
    """Adam, and a list of calls to be made once when it is asked for scalars: gradients have been taken in then."""
    act = []

    class Acting(Adam):
        @classmethod
        def scalars(cls, h, t, **more):
            while act:
                act.pop()()
            return super().scalars(h, t, **more)

    return Acting(params), act


@pytest.mark.parametrize("step", STEPS)
def test_a_gradient_that_dies_at_the_end_of_the_step_sees_a_whole_step_or_is_refused(step):
    """Its finalizer runs when the step lets go of it: all is written then, and all must be counted."""
    params = [rand(5, seed=i) for i in range(4)]
    opt, act = acting(params)
    grads = [rand(5, seed=i + 5) for i in range(4)]
    looks = []

    class Dying(ByInterface):
        def __del__(self):
            try:
                looks.append(whole(opt, params))
            except RuntimeError as error:
                looks.append(MIDST in str(error))

    odd = [Dying(g, lambda: None) for g in grads]
    act.append(odd.clear)
    before = whole(opt, params)
    getattr(opt, step)(odd)
    after = whole(opt, params)
    assert after != before
    assert len(looks) == 4
    assert all(look is True or look == after for look in looks)


def test_an_error_in_a_finalizer_of_a_gradient_does_not_undo_the_step():
    params = [rand(5)]
    opt, act = acting(params)

    class Dying(ByInterface):
        def __del__(self):
            caught.append(1)

    caught = []
    odd = [Dying(rand(5), lambda: None)]
    act.append(odd.clear)
    assert opt.step(odd)
    assert caught == [1]
    assert opt.steps == 1


def test_a_timer_whose_handler_looks_at_random_moments_sees_whole_steps_only():
    """Adam with clipping, which runs Python between its sweeps; the table has each whole state."""
    n, steps = 40_000, 400
    g = rand(n, seed=1)

    def make():
        p = rand(n)
        return p, Adam(p, lr=0.1, clip_norm=1.0, nonfinite="skip")

    q, twin = make()
    counts = {twin.state["params"]["exp_avg_sq"][:50].tobytes(): 0}
    for k in range(1, steps + 1):
        twin.step(g)
        counts[twin.state["params"]["exp_avg_sq"][:50].tobytes()] = k
    p, opt = make()
    looks, wrong = 0, []

    def look(*_):
        nonlocal looks
        looks += 1
        try:
            snapshot = opt.state_dict()
        except RuntimeError as error:
            wrong.append(str(error))
            return
        entry = snapshot["state"]["params"]
        k = counts.get(entry["exp_avg_sq"][:50].tobytes())
        if not k == entry["step"] == snapshot["steps"]:
            wrong.append((k, entry["step"], snapshot["steps"]))
        signal.setitimer(signal.ITIMER_REAL, 0.0007)  # not before: a slow look is not to be looked into

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    try:
        for _ in range(steps):
            opt.step(g)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert looks > 5
    assert wrong == []
    assert p.tobytes() == q.tobytes()


# ---- groups that change, and are settled by a look at the optimizer, while a class is asked for scalars ----


class AskedInSGD(SGD):
    """Makes one call when it is asked for the scalars of a learning rate."""

    act: dict[float, object] = {}  # noqa: RUF012

    @classmethod
    def scalars(cls, h, t, **more):
        cls.act.pop(h["lr"], lambda: None)()
        return super().scalars(h, t, **more)


LOOKED_AT = {
    "a schedule": ({"lr": CosineDecay(0.5, 100)}, False),
    "an int as rate": ({"lr": 3}, False),
    "momentum": ({"momentum": 0.75, "dampening": 0.5}, False),
    "momentum and a schedule": ({"momentum": 0.75, "lr": CosineDecay(0.5, 100)}, False),
    "an earlier change": ({"weight_decay": 0.25, "lr": 3}, True),
}


@pytest.mark.parametrize("asked", [0.25, 0.5], ids=["own group", "next group"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("words", LOOKED_AT)
def test_a_group_changed_and_looked_at_while_scalars_are_asked_for_counts_from_this_step_on(words, step, asked):
    """From the next one on, where this step has taken over another change already."""
    change, pending = LOOKED_AT[words]

    def child():
        (params, twins) = ([rand(5), rand(3)] for _ in range(2))
        opt, twin = (
            cls([{"params": p, "lr": rate} for p, rate in zip(x, (0.25, 0.5), strict=True)], lr=0.1)
            for cls, x in ((AskedInSGD, params), (SGD, twins))
        )
        AskedInSGD.act = {asked: lambda: (opt.param_groups[0].update(change), opt.state_dict())}
        for t in range(4):
            if t == pending:
                twin.param_groups[0].update(change)
            if pending and t == 0:
                for o in (opt, twin):
                    o.param_groups[0]["dampening"] = 0.25
            grads = [rand(5, seed=t), rand(3, seed=t)]
            assert getattr(opt, step)(grads)
            assert twin.step(grads)
            assert AskedInSGD.act == {}
            assert whole(opt, params)[:-1] == whole(twin, twins)[:-1], t
        assert whole(opt, params) == whole(twin, twins)

    in_child(child)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("change", [{"lr": CosineDecay(0.1, 9)}, {"lr": 1}, {"amsgrad": True, "betas": (0.5, 0.5)}])
def test_a_signal_handler_that_changes_a_group_and_saves_while_scalars_are_asked_for(change, step):
    def child():
        params, twins = [rand(5), rand(3)], [rand(5), rand(3)]
        opt, act = acting([{"params": p} for p in params])
        twin = Adam([{"params": p} for p in twins])
        signal.signal(signal.SIGUSR1, lambda *_: (opt.param_groups[0].update(change), opt.state_dict()))
        act.append(lambda: signal.raise_signal(signal.SIGUSR1))
        twin.param_groups[0].update(change)
        for t in range(3):
            grads = [rand(5, seed=t), rand(3, seed=t)]
            assert getattr(opt, step)(grads)
            assert twin.step(grads)
            assert whole(opt, params) == whole(twin, twins), t

    in_child(child)


# ---- schedules of one's own kind ----


class OneNumber(CosineDecay):
    def _rate(self, t):
        return 0.25


class Short(CosineDecay):
    def _rate(self, t):
        return np.full(3, 0.5) if isinstance(t, np.ndarray) else 0.5


class Long(CosineDecay):
    def _rate(self, t):
        return np.full(len(t) + 5, 0.5) if isinstance(t, np.ndarray) else 0.5


class Column(CosineDecay):
    def _rate(self, t):
        return np.full((len(t), 1), 0.5) if isinstance(t, np.ndarray) else 0.5


class Empty(CosineDecay):
    def _rate(self, t):
        return np.zeros(0) if isinstance(t, np.ndarray) else 0.5


class NoDimensions(CosineDecay):
    def _rate(self, t):
        return np.array(0.5) if isinstance(t, np.ndarray) else 0.5


class OnlyWholeNumbers(StepDecay):
    table = [1.0, 0.5, 0.25, 0.125]  # noqa: RUF012

    def _rate(self, t):
        return self.table[t % 4]


class Branching(LinearDecay):
    def _rate(self, t):
        if t < 3:  # of an array: ValueError
            return 0.5
        return 0.25


class Listed(LinearDecay):
    def _rate(self, t):
        return [0.5] * len(t) if isinstance(t, np.ndarray) else 0.5


class Single(LinearDecay):
    def _rate(self, t):
        return np.full(len(t), 0.5, "f4") if isinstance(t, np.ndarray) else 0.5


class Strided(LinearDecay):
    def _rate(self, t):
        return np.repeat(super()._rate(t), 2)[::2] if isinstance(t, np.ndarray) else super()._rate(t)


class Objects(LinearDecay):
    def _rate(self, t):
        return np.array([0.5] * len(t), object) if isinstance(t, np.ndarray) else 0.5


class Words(LinearDecay):
    def _rate(self, t):
        return np.array(["fast"] * len(t)) if isinstance(t, np.ndarray) else 0.5


ODD = [
    OneNumber(1.0, total=9),
    Short(1.0, total=9),
    Long(1.0, total=9),
    Column(1.0, total=9),
    Empty(1.0, total=9),
    NoDimensions(1.0, total=9),
    OnlyWholeNumbers(1.0, every=3),
    Branching(1.0, total=9),
    Listed(1.0, total=9),
    Single(1.0, total=9),
    Strided(1.0, total=900),
    Objects(1.0, total=9),
    Words(1.0, total=9),
    *(Warmup(3, x) for x in (OneNumber(1.0, total=9), Short(1.0, total=9), OnlyWholeNumbers(1.0, every=3))),
]


@pytest.mark.parametrize("schedule", ODD, ids=repr)
def test_a_schedule_of_a_kind_of_ones_own_gives_each_steps_own_rate_or_a_clean_error(schedule):
    def child():
        w, one = np.zeros(3), np.ones(3)
        opt = SGD(w, lr=schedule)
        for t in range(530):  # past what the engine asks for at once
            w[:] = 0
            try:
                opt.step(one)
            except (ValueError, TypeError) as error:
                assert (w == 0).all()
                assert opt.steps == t
                return str(error)
            assert (-w == float(schedule(t))).all(), t
        return None

    in_child(child)


def test_a_real_number_of_ones_own_is_a_rate():
    class Third(numbers.Real):
        """The least that Python calls a real number."""

        def __float__(self):
            return 0.25

    for name in numbers.Real.__abstractmethods__:
        if name != "__float__":
            setattr(Third, name, lambda self, *_: NotImplemented)
    Third.__abstractmethods__ = frozenset()
    w = np.zeros(3)
    assert SGD(w, lr=lambda t: Third()).step(np.ones(3))
    assert (w == -0.25).all()


def test_parallel_steps_with_python_inside_are_whole():
    sweep.set_threads(3)
    sweep.set_forced(True)
    n = 5 * chunks.CHUNK
    p, q = rand(n), rand(n)
    opt, twin = Adam(p, lr=0.1, clip_norm=1.0), Adam(q, lr=0.1, clip_norm=1.0)
    looks = []
    opt.lr = lambda t: (looks.append((p.tobytes(), opt.steps)), 0.1)[1]
    for t in range(4):
        wanted = q.tobytes(), t
        opt.step(rand(n, seed=t))
        twin.step(rand(n, seed=t))
        assert looks[-1] == wanted
    assert p.tobytes() == q.tobytes()
