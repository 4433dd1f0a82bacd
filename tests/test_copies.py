"""Copies: a pickled or copied optimizer has no parameters, and refuses to step until it is given some."""

from __future__ import annotations

import copy
import pickle
import threading
import time

import numpy as np
import pytest
from optimizers_table import OF_KINDS, REALS, stepped
from test_errors import everything, says

from fastopt import NAG, SGD, Adam
from fastopt.schedules import CosineDecay

WAYS = [
    ("pickle", lambda x: pickle.loads(pickle.dumps(x))),
    ("old pickle", lambda x: pickle.loads(pickle.dumps(x, 0))),
    ("copy", copy.copy),
    ("deepcopy", copy.deepcopy),
    ("pickled copy", lambda x: pickle.loads(pickle.dumps(copy.copy(x)))),
    ("copied copy", lambda x: copy.deepcopy(copy.copy(x))),
]
ways = pytest.mark.parametrize("way", [way for _, way in WAYS], ids=[words for words, _ in WAYS])
UNBOUND = "this optimizer is a copy without parameters: call bind(params) first"


def make_params(dtype="float64"):
    rng = np.random.default_rng(5)
    return {
        "w": [rng.normal(size=(3, 4)).astype(dtype), np.asfortranarray(rng.normal(size=(4, 3)).astype(dtype))],
        "b": np.asarray(0.5, dtype),
        "none": np.zeros((0, 2), dtype),
    }


def make_grads(t, dtype="float64"):
    rng = np.random.default_rng([7, t])
    return {
        "w": [rng.normal(size=(3, 4)).astype(dtype), rng.normal(size=(4, 3)).astype(dtype)],
        "b": np.asarray(rng.normal(), dtype),
        "none": np.zeros((0, 2), dtype),
    }


def copied(tree):
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [copied(value) for value in tree]
    return tree.copy(order="K")


@ways
@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("record", OF_KINDS, ids=str)
def test_a_copy_bound_to_copies_goes_on_with_the_same_bits(record, dtype, way):
    params = make_params(dtype)
    opt = record.make(params)
    for t in range(3):
        stepped(opt, make_grads(t, dtype))
    stepped(opt, {"w": [None, None], "b": np.asarray(1.0, dtype), "none": None})
    twin_params = copied(params)
    twin = way(opt).bind(twin_params)
    assert everything(twin, twin_params) == everything(opt, params)
    for t in range(3, 6):
        stepped(opt, make_grads(t, dtype))
        stepped(twin, make_grads(t, dtype))
        assert everything(twin, twin_params) == everything(opt, params)


@ways
def test_an_unbound_copy_refuses_all_that_needs_parameters_and_says_what_to_do(way, tmp_path):
    opt = NAG(np.ones(2), lr=0.25, nonfinite="skip")
    stepped(opt, np.ones(2))
    stepped(opt, np.full(2, np.nan))
    unbound = way(opt)
    for call in (
        lambda: stepped(unbound, np.ones(2)),
        lambda: stepped(unbound, np.ones(2), reference=True),
        lambda: unbound.lookahead().__enter__(),
        lambda: unbound.state,
        lambda: unbound.step_counts,
        lambda: unbound.state_dict(),
        lambda: unbound.load_state_dict(opt.state_dict()),
        lambda: unbound.save(tmp_path / "x"),
    ):
        with pytest.raises(RuntimeError, match=says(UNBOUND)):
            call()
    assert list(tmp_path.iterdir()) == []
    opt.save(tmp_path / "x")
    with pytest.raises(RuntimeError, match=says(UNBOUND)):
        unbound.load(tmp_path / "x")
    # The rest it knows.
    assert (unbound.steps, unbound.skipped, unbound.lr) == (1, 1, 0.25)
    assert repr(unbound) == repr(opt)
    assert unbound.param_groups[0]["params"] is None
    assert unbound.bind(np.ones(2)) is unbound
    assert stepped(unbound, np.ones(2))
    assert (unbound.steps, unbound.skipped, opt.steps) == (2, 1, 1)


@ways
def test_copies_share_no_memory_and_no_settings(way):
    w = np.ones(3)
    opt = Adam(w, lr=0.1)
    opt.step(np.ones(3))
    before = everything(opt, w)
    twin = way(opt)
    twin.param_groups[0]["lr"] = 7.0
    twin_w = np.ones(3)
    twin.bind(twin_w)
    twin.step(np.full(3, 5.0))
    assert everything(opt, w) == before
    assert twin.lr == 7.0
    twin_before = everything(twin, twin_w)
    opt.step(np.ones(3))
    assert everything(twin, twin_w) == twin_before


@ways
def test_options_and_schedules_are_copied_along(way):
    schedule = CosineDecay(1.0, total=4)
    w = np.zeros(2)
    twin = way(SGD(np.zeros(2), lr=schedule, nonfinite="raise", zero_grads=True, clip_norm=1.0)).bind(w)
    g = np.array([3.0, 4.0])
    assert twin.step(g)
    assert w == pytest.approx([-0.6, -0.8], rel=1e-15)
    assert g.tolist() == [0, 0]
    assert twin.lr == schedule
    with pytest.raises(FloatingPointError):
        twin.step(np.full(2, np.nan))


class Noted(SGD):
    """One with attributes of its own."""

    note: list

    def step(self, grads):
        return super().step(grads)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_what_a_subclass_keeps_is_copied_along_and_a_replaced_method_is_not(way):
    opt = Noted(np.ones(2))
    opt.note = ["a"]
    twin = way(opt)
    opt.note.append("b")
    assert twin.note == ["a"]
    opt.step = lambda grads: "of the first"
    twin = copy.deepcopy(opt).bind(np.ones(2))
    assert twin.step(np.ones(2)) is True


def test_a_copy_of_a_copy_has_what_was_set_on_the_copy():
    twin = copy.copy(SGD(np.ones(2)))
    twin.clip_norm, twin.lr = 2.0, 0.5
    last = copy.copy(twin)
    assert (last.clip_norm, last.lr) == (2.0, 0.5)


def test_a_copy_of_a_model_with_its_optimizer_is_unbound_too():
    w = np.ones(2)
    model = {"w": w, "opt": SGD(w)}
    twin = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="bind"):
        twin["opt"].step(np.ones(2))
    twin["opt"].bind(twin["w"])
    assert twin["opt"].step(np.ones(2))
    assert w.tolist() == [1, 1]
    assert (twin["w"] != 1).all()


def test_groups_are_copied_with_their_values_and_bound_by_their_params():
    make = lambda: [{"params": np.ones(2), "lr": 0.5}, {"params": [np.ones(3)]}]  # noqa: E731
    opt = Adam(make(), lr=0.1)
    opt.param_groups[1]["amsgrad"] = True
    opt.step([np.ones(2), [np.ones(3)]])
    twin = pickle.loads(pickle.dumps(opt))
    twin.bind([{"params": np.ones(2), "lr": 99.0}, {"params": [np.ones(3)]}])
    assert [g["lr"] for g in twin.param_groups] == [0.5, 0.1]
    assert list(twin.state["params[1]['params'][0]"]) == ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert twin.step([np.ones(2), [np.ones(3)]])


WRONG = [
    ("a list", lambda p: [*p["w"], p["b"], p["none"]], ValueError,
     "params has another structure than the parameters this optimizer was made with"),
    ("a key less", lambda p: {"w": p["w"], "b": p["b"]}, ValueError,
     "params has another structure than the parameters this optimizer was made with"),
    ("groups", lambda p: [{"params": p}], ValueError,
     "params has another structure than the parameters this optimizer was made with"),
    ("another shape", lambda p: {**p, "w": [p["w"][0].T.copy(), p["w"][1]]}, ValueError,
     "params['w'][0] is float64 (4, 3): wanted float64 (3, 4), as it was"),
    ("another type", lambda p: {**p, "b": np.array(1, "f")}, ValueError,
     "params['b'] is float32 (): wanted float64 (), as it was"),
    ("no array", lambda p: {**p, "b": 1.0}, TypeError,
     "params['b'] is float: a parameter must be a NumPy array, for one number np.array(0.0)"),
    ("one twice", lambda p: {**p, "w": [p["w"][0], p["w"][0].T]}, ValueError,
     "params['w'][1] overlaps the memory of params['w'][0]: each parameter must have memory of its own"),
]  # fmt: skip


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize(("words", "change", "error", "message"), WRONG, ids=[row[0] for row in WRONG])
def test_bind_to_what_does_not_fit_leaves_the_optimizer_as_it_was(words, change, error, message, bound):
    params = make_params()
    opt = Adam(params)
    opt.step(make_grads(0))
    tried = opt if bound else copy.copy(opt)
    before = everything(opt, params)
    with pytest.raises(error, match=says(message)):
        tried.bind(change(make_params()))
    assert everything(opt, params) == before
    if bound:
        assert opt.param_groups[0]["params"] is params
        assert opt.step(make_grads(1))
    else:
        with pytest.raises(RuntimeError, match=says(UNBOUND)):
            tried.step(make_grads(1))
        assert tried.bind(make_params()).step(make_grads(1))


@pytest.mark.parametrize("bound", [True, False])
def test_bind_with_an_invalid_live_value_leaves_the_optimizer_as_it_was(bound):
    w, w2 = np.ones(3), np.full(3, 2.0)
    opt = Adam(w, lr=0.1)
    stepped(opt, np.ones(3))
    tried = opt if bound else copy.copy(opt)
    tried.param_groups[0]["lr"] = np.nan
    with pytest.raises(ValueError, match=says("lr is nan: wanted a finite number of at least 0")):
        tried.bind(w2)
    tried.param_groups[0]["lr"] = 0.1
    before = w.copy()
    if bound:
        assert tried.param_groups[0]["params"] is w
        assert stepped(tried, np.ones(3))
        assert (w != before).all()
    else:
        with pytest.raises(RuntimeError, match=says(UNBOUND)):
            stepped(tried, np.ones(3))
        tried.bind(w2)
        assert tried.step_counts == {"params": 1}
        assert stepped(tried, np.ones(3))
    assert (w2 == 2).all() == bound


@pytest.mark.parametrize("bound", [True, False])
def test_bind_matches_parameters_by_key_and_not_by_place(bound):
    a, b = np.zeros(2), np.zeros(2)
    opt = SGD({"a": a, "b": b}, lr=1.0, momentum=0.5)
    opt.step({"a": np.full(2, 1.0), "b": np.full(2, 100.0)})
    opt.step({"a": np.full(2, 1.0), "b": None})
    opt = opt if bound else copy.copy(opt)
    opt.bind({"b": b, "a": a})
    assert opt.state["params['a']"]["momentum_buffer"].tolist() == [1.5, 1.5]
    assert opt.state["params['b']"]["momentum_buffer"].tolist() == [100, 100]
    assert opt.step_counts["params['a']"] == 2
    assert opt.step_counts["params['b']"] == 1
    opt.step({"a": np.zeros(2), "b": np.zeros(2)})
    assert a.tolist() == [-1 - 1.5 - 0.75] * 2
    assert b.tolist() == [-150, -150]


def test_bind_after_arrays_were_replaced_updates_the_new_ones():
    params, twin_params = make_params(), make_params()
    opt, twin = Adam(params), Adam(twin_params)
    opt.step(make_grads(0))
    twin.step(make_grads(0))
    orphans = copied(params)
    kept = params["w"][0]
    params["w"] = [x.copy() for x in params["w"]]  # C order for both, and the state follows
    params["b"] = np.array(params["b"])
    opt.bind(params)
    for t in (1, 2):
        opt.step(make_grads(t))
        twin.step(make_grads(t))
    assert [p.tolist() for p in params["w"]] == [p.tolist() for p in twin_params["w"]]
    assert params["b"] == twin_params["b"]
    assert kept.tobytes() == orphans["w"][0].tobytes()
    assert opt.steps == 3


def test_bind_to_another_memory_order_keeps_each_elements_state():
    w = np.zeros((2, 3))
    opt = SGD(w, lr=1.0, momentum=0.5)
    g = np.arange(6.0).reshape(2, 3)
    opt.step(g)
    f = np.asfortranarray(w)
    opt.bind(f)
    opt.step(np.zeros((2, 3)))
    assert (f == -1.5 * g).all()


def test_binding_many_parameters_takes_time_in_proportion():
    # A ratio, so that no absolute time is asked for: 8 times the parameters, and in proportion to the square 64 times
    # the work.
    def seconds(n):
        params = [np.zeros(1) for _ in range(n)]
        opt = Adam(params)
        begin = time.perf_counter()
        opt.bind(params)
        opt.load_state_dict(opt.state_dict())
        return time.perf_counter() - begin

    few = min(seconds(250) for _ in range(3))
    assert seconds(2000) < 32 * few


def test_lists_and_tuples_are_one_structure_to_bind():
    opt = copy.copy(Adam([np.ones(2), np.ones(3)]))
    assert opt.bind((np.ones(2), np.ones(3))).step([np.ones(2), np.ones(3)])


def test_a_looking_ahead_optimizer_cannot_be_copied_pickled_bound_or_saved(tmp_path):
    opt = NAG(np.ones(2))
    stepped(opt, np.ones(2))
    opt.save(tmp_path / "x")
    old = (tmp_path / "x").read_bytes()
    with opt.lookahead():
        for call in (
            lambda: copy.copy(opt), lambda: copy.deepcopy(opt), lambda: pickle.dumps(opt), opt.state_dict,
            lambda: opt.bind(np.ones(2)), lambda: opt.save(tmp_path / "x"), lambda: opt.load(tmp_path / "x"),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="looking ahead"):
                call()
    assert (tmp_path / "x").read_bytes() == old


@pytest.mark.parametrize("reference", [False, True])
def test_a_step_that_waited_while_another_thread_bound_the_optimizer_updates_the_new_arrays(reference):
    old, new = np.zeros(3), np.zeros(3)
    inside, go = threading.Event(), threading.Event()

    def slow(t):
        if t == 1:
            inside.set()
            go.wait(20)
        return 0.5

    opt = SGD(old, lr=slow)
    opt.step(np.ones(3))
    threads = []
    for call in (
        lambda: opt.step(np.ones(3)),
        lambda: opt.bind(new),
        lambda: stepped(opt, np.ones(3), reference=reference),
    ):
        threads.append(threading.Thread(target=call))
        threads[-1].start()
        assert inside.wait(20)
        time.sleep(0.05)  # until it waits
    go.set()
    for thread in threads:
        thread.join(20)
    assert opt.steps == 3
    assert opt.param_groups[0]["params"] is new
    # bind, and the step after it or before: whoever comes first, each step is in the arrays of its time.
    assert (old.tolist(), new.tolist()) in [([-1.0] * 3, [-0.5] * 3), ([-1.5] * 3, [0.0] * 3)]


def test_a_lookahead_of_before_a_bind_is_refused():
    old = np.ones(2)
    opt = NAG(old, lr=0.5)
    stepped(opt, np.ones(2))
    stale, new = opt.lookahead(), old.copy()
    opt.bind(new)
    with pytest.raises(RuntimeError, match="was bound to other parameters since lookahead"), stale:
        pass
    assert old.tolist() == new.tolist() == [0.5, 0.5]
    assert stepped(opt, np.ones(2))
    assert old.tolist() == [0.5, 0.5] != new.tolist()
