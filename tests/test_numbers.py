"""Scalars that go by more than the step: by the learning rate, numbers that a class keeps, schedules of any number."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from optimizers_table import KINDS, stepped
from support import bits, looked_ahead, rand, whole

from fastopt import NAG, SGD, Adam, AdamW, Adan, RMSprop
from fastopt.schedules import CosineDecay, ExponentialDecay, LinearDecay, Warmup


class Product(SGD):
    """SGD whose rate is multiplied by a number of the parameter's and one of its group."""

    numbers = {"product": 1.0}  # noqa: RUF012
    group_numbers = {"total": 0.0, "steps": 0.0}  # noqa: RUF012
    asked: list[tuple[int, ...]] = []  # noqa: RUF012

    @classmethod
    def scalars(cls, h, t, lr, numbers, fresh):
        cls.asked.append(tuple(t))
        assert t.dtype == np.int64
        assert fresh.dtype == bool
        assert len(t) == len(fresh) == len(numbers["product"])
        assert all(type(numbers[name]) is float for name in cls.group_numbers)
        product = numbers["product"] * (1.0 + 1.0 / t)
        total = numbers["total"] + lr
        return {"alpha": product + total}, {}, {"product": product, "total": total, "steps": numbers["steps"] + 1}


def by_hand(w, grads, lrs):
    """What Product does to one parameter in a group of its own."""
    w, product, total, t = w.copy(), 1.0, 0.0, 0
    for g, lr in zip(grads, lrs, strict=True):
        if g is not None:
            t += 1
            product, total = product * (1.0 + 1.0 / t), total + lr
            w -= ((product + total) * lr) * g
    return w, product, total


def kept(opt, leaf):
    return {key: opt.state[leaf][key].item() for key in ("product", "total", "steps")}


@pytest.mark.parametrize("reference", [False, True])
def test_numbers_of_parameters_and_groups_go_from_step_to_step(reference):
    w, v = rand(5), rand(3, seed=1)
    groups = [{"params": [w.copy(), v.copy()]}, {"params": v.copy(), "lr": 0.5}]
    opt = Product(groups, lr=0.25)
    grads = [[rand(5, seed=t), None if t == 1 else rand(3, seed=t + 9)] for t in range(4)]
    for g in grads:
        stepped(opt, [g, g[1]], reference)
    for start, gs, lr, leaf in ((w, 0, 0.25, 0), (v, 1, 0.5, 2)):
        wanted, product, total = by_hand(start, [g[gs] for g in grads], [lr] * 4)
        assert bits(opt._plan.arrays[leaf]) == bits(wanted)
        name = opt._plan.names[leaf]
        assert kept(opt, name) == {"product": product, "total": total, "steps": 4.0 if leaf == 0 else 3.0}
    # The second parameter has counts of its own, and the numbers of the group that it shares.
    assert kept(opt, "params[0]['params'][1]")["product"] == 4.0
    assert kept(opt, "params[0]['params'][1]")["total"] == 1.0


def test_the_class_is_asked_once_a_group_and_step_about_those_that_take_part():
    opt = Product([{"params": [np.ones(1), np.ones(2)]}, {"params": np.ones(1)}])
    Product.asked.clear()
    opt.step([[np.ones(1), np.ones(2)], np.ones(1)])
    opt.step([[None, np.ones(2)], None])
    opt.step([[np.ones(1), np.ones(2)], np.ones(1)])
    assert Product.asked == [(1,), (1,), (2,), (2, 3), (2,)]  # once about parameters that have all in common


def test_parameters_whose_numbers_differ_are_asked_about_one_by_one():
    params = [np.ones(2), np.ones(3), np.ones(4)]
    opt, twins = Product(params), [Product(p.copy()) for p in params]
    for k in range(3):
        grads = [rand(p.size, seed=k) for p in params]
        opt.step(grads)
        for twin, g in zip(twins, grads, strict=True):
            twin.step(g)
        if k == 0:
            for one, name in ((opt, "params[1]"), (twins[1], "params")):
                one.state[name]["product"][...] = 3.0
    for p, twin, name in zip(params, twins, opt.state, strict=True):
        assert bits(p) == bits(twin.params)
        assert kept(opt, name) == kept(twin, "params")


def test_a_step_that_is_refused_or_skipped_leaves_numbers_as_they_were():
    opt = Product([np.ones(2), np.ones(3)], nonfinite="skip")
    opt.step([np.ones(2), np.ones(3)])
    before = kept(opt, "params[0]"), kept(opt, "params[1]")
    assert opt.step([np.ones(2), np.full(3, np.nan)]) is False
    with pytest.raises(ValueError, match="shape"):
        opt.step([np.ones(2), np.ones(4)])
    assert (kept(opt, "params[0]"), kept(opt, "params[1]")) == before


@pytest.mark.parametrize("way", ["file", "dict", "json", "copy", "bind", "reset"])
def test_numbers_are_saved_restored_copied_and_reset(way, tmp_path):
    def make():
        return {"a": rand(4), "b": [rand(2, seed=1)]}

    def grads(t):
        return {"a": rand(4, seed=t), "b": [None if t == 1 else rand(2, seed=t)]}

    w = make()
    opt = Product(w, lr=0.25)
    for t in range(3):
        opt.step(grads(t))
    others = copy.deepcopy(w)
    if way == "copy":
        twin = copy.copy(opt).bind(others)
    elif way == "bind":
        twin = copy.copy(opt).bind({"b": others["b"], "a": others["a"]})
    else:
        twin = Product({"b": others["b"], "a": others["a"]}, lr=0.5)
        snapshot = opt.state_dict()
        if way == "file":
            opt.save(tmp_path / "x")
            twin.load(tmp_path / "x")
        elif way == "json":
            plain = json.loads(json.dumps({key: value for key, value in snapshot.items() if key != "state"}))
            twin.load_state_dict({**plain, "state": snapshot["state"]})
        else:
            twin.load_state_dict(snapshot)
    if way == "reset":
        others = make()
        twin = Product(others, lr=0.25)
        opt.reset()
        w["a"][:], w["b"][0][:] = others["a"], others["b"][0]
    for t in range(3, 6):
        assert {name: kept(opt, name) for name in opt.state} == {name: kept(twin, name) for name in opt.state}
        opt.step(grads(t))
        twin.step(grads(t))
    assert [bits(w["a"]), bits(w["b"][0])] == [bits(others["a"]), bits(others["b"][0])]


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s.pop("numbers"),
        lambda s: s["numbers"].pop("params[0]"),
        lambda s: s["numbers"]["params[0]"].update(product="1"),
        lambda s: s["numbers"]["params[0]"].update(more=1.0),
        lambda s: s.update(numbers=[]),
        lambda s: s.update(group_numbers={}),
        lambda s: s["group_numbers"].append({}),
        lambda s: s["group_numbers"][0].pop("total"),
        lambda s: s["group_numbers"][0].update(total=None),
    ],
    ids=range(9),
)
def test_a_snapshot_with_other_numbers_is_refused_and_changes_nothing(edit):
    opt = Product([np.ones(2)])
    opt.step([np.ones(2)])
    snapshot = copy.deepcopy(opt.state_dict())
    opt.step([np.ones(2)])
    before = whole(opt, opt.params)
    edit(snapshot)
    with pytest.raises(ValueError, match=r"^the snapshot is damaged: .*(numbers|product|total)"):
        opt.load_state_dict(snapshot)
    assert whole(opt, opt.params) == before


def test_a_class_that_forgets_a_number_is_told_so():
    class Forgetful(Product):
        @classmethod
        def scalars(cls, h, t, **more):
            rates, others, new = super().scalars(h, t, **more)
            del new["steps"]
            return rates, others, new

    opt = Forgetful(np.ones(2))
    with pytest.raises(KeyError, match=r"wanted .*steps"):
        opt.step(np.ones(2))
    assert opt.params.tolist() == [1.0, 1.0]


# ---- scalars that go by the learning rate otherwise than as a factor ----


class Shrinking(SGD):
    calls: list[int] = []  # noqa: RUF012

    @classmethod
    def scalars(cls, h, t, lr):
        cls.calls.append(len(t))
        return {}, {"alpha": lr / (1.0 + lr * t)}


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize(
    "lr", [0.25, CosineDecay(0.5, 9), Warmup(3, 0.5), lambda t: 1.0 / (t + 1), LinearDecay(1.0, 1, final=0.5)], ids=repr
)
def test_scalars_get_the_rate_of_their_step(lr, reference):
    w = rand(6)
    p, idle = w.copy(), rand(2)
    opt = Shrinking([p, idle], lr=lr)
    for t in range(1, 8):
        if t == 5 and not callable(lr):
            opt.lr = lr = 0.5
        g = rand(6, seed=t)
        stepped(opt, [g, rand(2) if t > 3 else None], reference)
        rate = lr(t - 1) if callable(lr) else lr
        w -= (rate / (1.0 + rate * t)) * g
        assert bits(p) == bits(w)
    assert opt.step_counts["params[1]"] == 4


def test_a_constant_rate_is_asked_for_many_steps_and_a_changing_one_step_by_step():
    opt = Shrinking(np.ones(1), lr=0.5)
    Shrinking.calls.clear()
    for _ in range(20):
        opt.step(np.ones(1))
    assert Shrinking.calls == [1, 512]
    opt.lr = ExponentialDecay(0.5, 0.5)
    Shrinking.calls.clear()
    for _ in range(20):
        opt.step(np.ones(1))
    assert Shrinking.calls == [1] * 20


# ---- schedules of any number ----

SCHEDULES = {
    "weight_decay": LinearDecay(0.5, 5, final=0.1),
    "momentum": LinearDecay(0.5, 5, final=0.9),
    "dampening": lambda t: 0.5 / (t + 1),
    "alpha": ExponentialDecay(0.9, 0.9),
    "eps": lambda t: 10.0 ** -(t + 1),
    "betas": (LinearDecay(0.5, 5, final=0.9), 0.99),
}


class Inside(Adan):
    """Its decay is inside the rule, and its scalars do not go by the learning rate."""

    @classmethod
    def scalars(cls, h, t, fresh):
        return super().scalars(h, t, lr=0.1, fresh=fresh)


def scheduled(cls):
    """Those that can be given, and have as many numbers as SCHEDULES says: Adafactor's eps is two."""
    given = {name: isinstance(one.default, tuple) for name, one in cls._arguments.items()}
    return [name for name, pair in given.items() if name in SCHEDULES and pair == isinstance(SCHEDULES[name], tuple)]


def schedule_of(cls, name):
    """One with as many numbers as the class has."""
    value, default = SCHEDULES[name], cls.hyper_parameters[name].default
    return (*value, *default[len(value) :]) if isinstance(value, tuple) else value


def at(value, t):
    if isinstance(value, tuple):
        return tuple(at(one, t) for one in value)
    return value(t) if callable(value) else value


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize(
    ("cls", "name"),
    [(cls, name) for cls in KINDS.values() for name in scheduled(cls)]
    + [(Adan, "weight_decay"), (Inside, "weight_decay")],
)
def test_a_scheduled_number_is_one_that_is_set_before_each_step(cls, name, reference):
    more = {"momentum": 0.9} if name == "dampening" else {}
    w, v = {"a": rand(9), "b": rand(3)}, {"a": rand(9), "b": rand(3)}
    schedule = schedule_of(cls, name)
    opt = cls(w, lr=0.1, **{**more, name: schedule})
    twin = cls(v, lr=0.1, **{**more, name: at(schedule, 0)})
    assert getattr(opt, name) == schedule
    for t in range(7):
        setattr(twin, name, at(schedule, t))
        g = {"a": rand(9, seed=t), "b": None if t == 2 else rand(3, seed=t)}
        stepped(opt, g, reference)
        stepped(twin, g)
        assert [bits(p) for p in w.values()] == [bits(p) for p in v.values()]


def test_a_rule_is_chosen_as_if_a_scheduled_number_were_not_0():
    opt = SGD(np.ones(2), lr=1.0, momentum=lambda t: 0.0, weight_decay=lambda t: 0.0)
    assert set(opt.state["params"]) == {"momentum_buffer"}
    opt.step(np.ones(2))
    assert opt.params.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda w: SGD(w, momentum=lambda t: 1.5 if t else 0.5),
            "momentum schedule .* after 1 steps is 1.5: wanted a number",
        ),
        (lambda w: SGD(w, weight_decay=lambda t: -float(t)), "weight_decay schedule .* after 1 steps is -1.0: wanted"),
        (lambda w: Adam(w, betas=(lambda t: 0.5 + t, 0.9)), r"betas\[0\] is 1.5: wanted a number of at least 0"),
        (
            lambda w: SGD([{"params": w, "momentum": lambda t: float(t == 0), "nesterov": True}]),
            "nesterov=True with momentum 0.0 and dampening 0.0",
        ),
    ],
    ids=["momentum", "decay", "betas", "together"],
)
def test_what_a_schedule_gives_is_checked_in_its_step_and_changes_nothing(make, message):
    w = np.ones(2)
    opt = make(w)
    grads = np.ones(2) if opt.params is w else [np.ones(2)]
    opt.step(grads)
    before = whole(opt, w)
    with pytest.raises(ValueError, match=message):
        opt.step(grads)
    assert whole(opt, w) == before


def test_nag_looks_ahead_by_the_momentum_of_the_step():
    w, v = np.ones(2), np.ones(2)
    opt, twin = NAG(w, lr=0.5, momentum=LinearDecay(0.5, 4, final=1.0)), NAG(v, lr=0.5)
    for t in range(4):
        twin.momentum = opt.momentum(t)
        with opt.lookahead(), twin.lookahead():
            assert bits(w) == bits(v)
            g = 2 * w
        opt.step(g)
        twin.step(g)
    assert bits(w) == bits(v)


def test_schedules_of_any_number_are_saved_with_their_names(tmp_path):
    options = {"betas": (LinearDecay(0.5, 5, final=0.9), 0.99), "weight_decay": CosineDecay(0.1, 5)}
    opt = AdamW(np.ones(2), **options)
    opt.save(tmp_path / "x")
    other = AdamW(np.zeros(2))
    other.load(tmp_path / "x")
    assert (other.betas, other.weight_decay) == (options["betas"], options["weight_decay"])
    mine = Adam(np.ones(2), betas=(lambda t: 0.5, 0.99))
    assert mine.state_dict()["param_groups"][0]["betas"] == [None, 0.99]
    other = Adam(np.zeros(2))
    with pytest.raises(ValueError, match=r"^param_groups\[0\] was saved with a schedule as betas\[0\]: give it one"):
        other.load_state_dict(mine.state_dict())
    other = Adam(np.zeros(2), betas=(abs, 0.5))
    other.load_state_dict(mine.state_dict())
    assert other.betas == (abs, 0.99)


@pytest.mark.parametrize("name", ["centered", "eps_inside_sqrt"])
def test_flags_are_fixed(name):
    with pytest.raises(TypeError, match="wanted True or False"):
        RMSprop(np.ones(2), **{name: lambda t: True})


def test_looking_ahead_changes_nothing_of_a_class_with_numbers():
    opt = Product(np.ones(2))
    looked_ahead(opt).step(np.ones(2))
    assert kept(opt, "params")["steps"] == 1.0
