"""Groups of parameters: defaults, overrides, and live dicts whose changes the next step sees."""

from __future__ import annotations

import numpy as np
import pytest
from optimizers_table import OF_KINDS, stepped
from test_errors import everything, says

from fastopt import NAG, SGD, Adam, AdamW, RMSprop
from fastopt.optimizers import OPTIMIZERS


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_a_groups_own_values_override_the_defaults():
    a, b = np.zeros(2), np.zeros(3)
    opt = SGD([{"params": a}, {"params": [b], "lr": 0.5, "momentum": 0.9}], lr=0.1)
    assert [g["lr"] for g in opt.param_groups] == [0.1, 0.5]
    assert [g["momentum"] for g in opt.param_groups] == [0.0, 0.9]
    assert list(opt.state) == ["params[0]['params']", "params[1]['params'][0]"]
    assert [list(s) for s in opt.state.values()] == [[], ["momentum_buffer"]]
    for _ in range(2):
        opt.step([np.ones(2), [np.ones(3)]])
    assert a.tolist() == [-0.2, -0.2]
    assert b.tolist() == [-0.5 - 0.5 * 1.9] * 3


@pytest.mark.parametrize("record", OF_KINDS, ids=str)
def test_groups_compute_what_two_optimizers_would(record):
    a, b = rand(7), [rand(2, 3), rand(5)]
    a2, b2 = a.copy(), [x.copy() for x in b]
    both = record.make([{"params": a}, {"params": b, "lr": 0.03, "maximize": True}])
    one, other = record.make(a2), record.make(b2, lr=0.1)
    other.param_groups[0].update(lr=0.03, maximize=True)
    for t in range(3):
        ga, gb = rand(7, seed=t), [rand(2, 3, seed=t), rand(5, seed=t)]
        assert stepped(both, [ga, gb])
        stepped(one, ga)
        stepped(other, gb)
    assert a.tobytes() == a2.tobytes()
    assert [x.tobytes() for x in b] == [x.tobytes() for x in b2]


def test_a_tuple_of_groups_is_groups_and_the_users_dicts_are_left_alone():
    mine = ({"params": np.zeros(2), "lr": 1}, {"params": {"w": np.zeros(2)}})
    opt = Adam(mine, lr=0.1)
    assert set(mine[0]) == {"params", "lr"}
    assert isinstance(mine[0]["lr"], int)
    assert opt.param_groups[0]["lr"] == 1.0
    assert opt.step((np.ones(2), {"w": np.ones(2)}))


def test_a_lone_tree_is_one_live_group():
    w = [np.zeros(2)]
    opt = Adam(w, lr=0.25)
    (group,) = opt.param_groups
    assert group["params"] is w
    assert group["betas"] == (0.9, 0.999)
    assert group["lr"] == 0.25


def test_groups_have_every_hyper_parameter():
    for cls in OPTIMIZERS.values():
        for group in cls([{"params": np.zeros(1)}, {"params": np.zeros(1), "lr": 1.0}]).param_groups:
            assert set(group) == {"params", *cls.hyper_parameters}


# class, options at first, live change
CHANGES = [
    (SGD, {}, {"lr": 0.01}),
    (SGD, {}, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9}, {"momentum": 0.0}),
    (SGD, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}),
    (SGD, {"momentum": 0.9}, {"dampening": 0.5}),
    (SGD, {"momentum": 0.9}, {"lr_in_momentum": True}),
    (SGD, {}, {"maximize": True, "weight_decay": 0.1}),
    (SGD, {"weight_decay": 0.1}, {"decoupled": True}),
    (SGD, {"weight_decay": 0.1}, {"weight_decay": 0.0}),
    (NAG, {}, {"momentum": 0.5}),
    (RMSprop, {}, {"alpha": 0.5}),
    (RMSprop, {}, {"centered": True, "momentum": 0.3}),
    (RMSprop, {"eps": 0.1}, {"eps_inside_sqrt": True}),
    (Adam, {}, {"betas": (0.5, 0.6)}),
    (Adam, {}, {"betas": [0.5, 0.6]}),
    (Adam, {}, {"amsgrad": True}),
    (Adam, {"amsgrad": True}, {"amsgrad": False}),
    (Adam, {}, {"eps": 0.5}),
    (AdamW, {}, {"weight_decay": 0.5}),
    (AdamW, {}, {"weight_decay": 0.0, "lr": 0.5}),
]


@pytest.mark.parametrize("reference", [False, True], ids=["step", "reference_step"])
@pytest.mark.parametrize(("cls", "options", "change"), CHANGES, ids=[f"{c.__name__} {o} {n}" for c, o, n in CHANGES])
def test_a_live_change_takes_effect_in_the_next_step(cls, options, change, reference):
    w = rand(9)
    opt = cls({"w": w, "idle": np.zeros(2)}, lr=0.1, **options)
    for t in range(2):
        stepped(opt, {"w": rand(9, seed=t + 1), "idle": None})

    # The same from the start: a fresh optimizer with the new values and the old state.
    w2 = w.copy()
    fresh = cls({"w": w2, "idle": np.zeros(2)}, lr=0.1, **options)
    fresh.param_groups[0].update(change)
    stepped(fresh, {"w": None, "idle": None})
    snapshot = fresh.state_dict()
    old = opt.state_dict()
    for name, entry in snapshot["state"].items():
        entry.update(old["state"][name])
    fresh.load_state_dict({**snapshot, "steps": old["steps"]})

    opt.param_groups[0].update(change)
    g = {"w": rand(9, seed=7), "idle": None}
    stepped(opt, g, reference)
    stepped(fresh, g)
    assert w.tobytes() == w2.tobytes()
    names = list(opt.state["params['w']"])
    assert [opt.state["params['w']"][n].tobytes() for n in names] == [
        fresh.state["params['w']"][n].tobytes() for n in names
    ]

    # ... and it was a change.
    before = cls({"w": w2.copy(), "idle": np.zeros(2)}, lr=0.1, **options)
    assert all(before.param_groups[0][k] != v for k, v in change.items() if k != "betas")


WAYS_TO_CHANGE = {
    "item": lambda group: group.__setitem__("lr", 0.25),
    "update": lambda group: group.update(lr=0.25),
    "ior": lambda group: group.__ior__({"lr": 0.25}),
    "pop": lambda group: group.update({"lr": 0.25 * group.pop("lr")}),
    "popitem": lambda group: group.update([group.popitem()], lr=0.25),
    "delete": lambda group: (group.__delitem__("lr"), group.setdefault("lr", 0.25)),
    "clear": lambda group: (kept := dict(group), group.clear(), group.update(kept, lr=0.25)),
}


@pytest.mark.parametrize("way", WAYS_TO_CHANGE)
def test_whatever_way_a_group_is_changed_the_next_step_has_it(way):
    a, b = np.zeros(1), np.zeros(1)
    opt = SGD([{"params": a}, {"params": b}], lr=1.0)
    one = [np.ones(1), np.ones(1)]
    for _ in range(3):
        opt.step(one)
    WAYS_TO_CHANGE[way](opt.param_groups[1])
    opt.step(one)
    opt.param_groups[0] = {**opt.param_groups[0], "lr": 0.5}
    opt.step(one)
    opt.param_groups[0]["lr"] = 0.125
    opt.step(one)
    opt.param_groups = [dict(group) for group in opt.param_groups]
    opt.step(one)
    opt.param_groups[0]["lr"] = 2.0
    opt.step(one)
    assert (-a[0], -b[0]) == (4 + 0.5 + 0.125 + 0.125 + 2.0, 3 + 5 * 0.25)


def test_the_second_groups_change_leaves_the_first_alone():
    a, b = np.zeros(2), np.zeros(2)
    opt = SGD([{"params": a}, {"params": b}], lr=1.0)
    opt.step([np.ones(2), np.ones(2)])
    opt.param_groups[1]["lr"] = 10.0
    opt.step([np.ones(2), np.ones(2)])
    assert a.tolist() == [-2, -2]
    assert b.tolist() == [-11, -11]


WRONG = [
    ("lr", -1.0, ValueError, "params[1]['lr'] is -1.0: wanted a finite number of at least 0"),
    ("lr", np.nan, ValueError, "params[1]['lr'] is nan: wanted a finite number of at least 0"),
    ("lr", "fast", TypeError, "params[1]['lr'] is 'fast', a str: wanted a finite number of at least 0"),
    ("lr", np.array([0.1, 0.2]), TypeError,
     "params[1]['lr'] is array([0.1, 0.2]), a ndarray: wanted a finite number of at least 0"),
    ("betas", np.array([0.5, 0.5]), TypeError, "params[1]['betas'] is array([0.5, 0.5]): wanted two numbers"),
    ("betas", (0.9, 1.0), ValueError, "params[1]['betas'][1] is 1.0: wanted a number of at least 0 and below 1"),
    ("amsgrad", "no", TypeError, "params[1]['amsgrad'] is 'no', a str: wanted True or False"),
    ("beta1", 0.9, ValueError, "params[1]['beta1']: Adam has no hyper-parameter 'beta1': "
     "did you mean 'betas'?"),
    ("params", np.zeros(3), ValueError,
     "param_groups[1]['params'] was replaced: a group's parameters are fixed; use bind(params)"),
    ("params", None, ValueError,
     "param_groups[1]['params'] was replaced: a group's parameters are fixed; use bind(params)"),
]  # fmt: skip


@pytest.mark.parametrize("reference", [False, True], ids=["step", "reference_step"])
@pytest.mark.parametrize(("name", "value", "error", "message"), WRONG, ids=[row[3] for row in WRONG])
def test_an_invalid_live_change_is_refused_and_can_be_repaired(name, value, error, message, reference):
    params, twins = [rand(3), rand(3, seed=1)], [rand(3), rand(3, seed=1)]
    opt, twin = (Adam([{"params": a}, {"params": b}], lr=0.1) for a, b in (params, twins))
    g = [rand(3, seed=2), rand(3, seed=3)]
    opt.step(g)
    twin.step(g)
    group = opt.param_groups[1]
    absent = object()
    old = group.get(name, absent)
    group[name] = value
    before = everything(opt, params, g)
    for _ in range(2):
        with pytest.raises(error) as caught:
            (opt.reference_step if reference else opt.step)(g)
        assert str(caught.value) == message
    assert everything(opt, params, g) == before
    if old is absent:
        del group[name]
    else:
        group[name] = old
    opt.step(g)
    twin.step(g)
    assert everything(opt, params) == everything(twin, twins)


def test_a_removed_hyper_parameter_is_refused():
    w = rand(3)
    opt = Adam(w)
    eps = opt.param_groups[0].pop("eps")
    before = everything(opt, w)
    with pytest.raises(ValueError, match=r"^param_groups\[0\] lacks 'eps'$"):
        opt.step(np.ones(3))
    assert everything(opt, w) == before
    opt.param_groups[0]["eps"] = eps
    assert opt.step(np.ones(3))


def test_a_change_that_is_valid_with_a_step_that_is_not_takes_no_effect_on_state():
    w = rand(3)
    opt = Adam(w)
    opt.step(np.ones(3))
    opt.param_groups[0]["amsgrad"] = True
    before = everything(opt, w)
    with pytest.raises(ValueError, match="shape"):
        opt.step(np.ones(4))
    assert everything(opt, w) == before


def test_hyper_parameters_are_left_in_their_normal_form():
    opt = Adam(np.zeros(2), lr=np.float32(0.5), betas=[0, np.float64(0.5)], eps=1, amsgrad=np.bool_(True))
    (group,) = opt.param_groups
    assert [type(group[k]) for k in ("lr", "betas", "eps", "amsgrad")] == [float, tuple, float, bool]
    group["betas"] = [0.1, 0.2]
    opt.step(np.ones(2))
    assert group["betas"] == (0.1, 0.2)


def test_lr_reads_and_sets_all_groups():
    opt = SGD([{"params": np.zeros(1)}, {"params": np.zeros(1), "lr": 0.5}], lr=0.1)
    assert opt.lr == [0.1, 0.5]
    opt.lr = 1
    assert opt.lr == 1.0
    assert [g["lr"] for g in opt.param_groups] == [1.0, 1.0]
    for wrong, error in [(-1, ValueError), (np.nan, ValueError), ("x", TypeError), ([0.1, 0.5], TypeError)]:
        with pytest.raises(error, match=says("lr is …: wanted a finite number of at least 0")):
            opt.lr = wrong
    assert opt.lr == 1.0

    def schedule(t):
        return 0.5

    opt.lr = schedule
    assert opt.lr is schedule


def test_repr_shows_the_hyper_parameters_of_each_group():
    assert repr(NAG(np.zeros(1), lr=0.5)) == (
        "NAG(lr=0.5, momentum=0.9, weight_decay=0.0, decoupled=False, maximize=False; nonfinite='propagate', "
        "zero_grads=False, clip_norm=None, clip_tensor_norm=None, clip_value=None, ema_decay=None, "
        "decay_mask=None, state_memory=None)"
    )
    text = repr(SGD([{"params": np.zeros(1)}, {"params": np.zeros(1), "lr": 7.0}]))
    assert text.startswith("SGD(lr=0.001, ")
    assert "; lr=7.0, " in text
