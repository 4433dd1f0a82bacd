"""What can be read and set on an optimizer: hyper-parameters, options, what is known of it. What cannot be, raises."""

from __future__ import annotations

import copy
import enum
import inspect
import pickle
import threading
import time

import numpy as np
import pytest
from optimizers_table import DECAY_INSIDE, KINDS, OF_KINDS, stepped
from support import bits, looked_ahead, rand, whole
from test_errors import everything, says

import fastopt
from fastopt import NAG, SGD, Adafactor, Adam, AdamW, RMSprop, hyper
from fastopt.hyper import Hyper, Option
from fastopt.schedules import CosineDecay, Warmup

CLASSES = list(KINDS.values())
# By check; or by name, where that makes the check.
OTHER = {hyper.learning_rate: 0.5, hyper.nonnegative: 0.25, hyper.fraction: 0.75, hyper.proportion: 0.5}
OTHER |= {
    hyper.betas: (0.5, 0.25),
    hyper.three_betas: (0.5, 0.25, 0.75),
    hyper.optional(hyper.positive): 2.5,
    hyper.optional(hyper.fraction): 0.5,
}
OTHER |= {hyper.etas: (0.25, 1.5), hyper.limits: (0.125, 0.5), hyper.proportions: (0.5, 0.25), hyper.above_0: 0.5}
OTHER |= {hyper.positive: 0.5, hyper.constant: 0.25, hyper.whole: 2, hyper.interpolation_betas: (0.5, 0.25)}
OTHER |= {hyper.growth: 1.5, hyper.at_most_0: -0.5, hyper.floors: (0.25, 0.5)}
OTHER |= {
    "nonfinite": "skip",
    "decay_mask": lambda path, array: False,
    "state_memory": lambda *given: np.zeros(*given[2:]),
}


def other(one):
    """A value that is allowed, and not the default."""
    return OTHER[one._check] if one._check in OTHER else OTHER.get(one.name, not one.default)


@pytest.mark.parametrize("cls", CLASSES)
def test_each_argument_is_an_attribute_with_its_default_and_setting_it_is_passing_it(cls):
    named = inspect.signature(cls).parameters
    for name, one in cls._arguments.items():
        assert named[name].default == one.default == getattr(cls(np.ones(2)), name)
        if name == "nesterov" or (name == "ema_decay" and cls._has_average()):
            continue  # below, and in test_averages_and_tensor_clipping.py
        opt, made = cls(np.ones(3)), cls(np.ones(3), **{name: other(one)})
        setattr(opt, name, other(one))
        assert getattr(opt, name) == getattr(made, name) == other(one)
        assert repr(opt) == repr(made)
        assert f"{name}={other(one)!r}" in repr(opt)
        for _ in range(2):
            for o in (opt, made):
                stepped(o, np.full(3, 2.0))
        assert bits(opt.params) == bits(made.params)


def test_values_go_into_every_group_in_their_normal_form_or_into_none():
    opt = SGD([{"params": np.ones(2), "lr": 0.1}, {"params": np.ones(2), "lr": 0.2}])
    assert opt.lr == [0.1, 0.2]
    opt.momentum = np.float32(0.5)
    assert [group["momentum"] for group in opt.param_groups] == [0.5, 0.5]
    assert type(opt.momentum) is float
    opt.nesterov = True
    opt.param_groups[1]["dampening"] = 0.0
    kept = repr(opt)
    for name, value, message in [
        ("momentum", 1.5, "momentum is 1.5: wanted a number from 0 to 1"),
        ("momentum", 0.0, "nesterov=True with momentum 0.0 and dampening 0.0: wanted momentum above 0"),
        ("dampening", 0.5, "nesterov=True with momentum 0.5 and dampening 0.5: wanted momentum above 0"),
        ("lr", np.nan, "lr is nan: wanted a finite number of at least 0"),
        ("clip_norm", 0, "clip_norm is 0: wanted a finite number above 0"),
        ("nonfinite", "explode", "nonfinite is 'explode': wanted one of 'propagate', 'skip', 'raise'"),
    ]:
        with pytest.raises(ValueError, match=says(message + "…")):
            setattr(opt, name, value)
        assert repr(opt) == kept
    with pytest.raises(ValueError, match="eps is 1e-40, too small for params in float32"):
        Adam(np.ones(2, "f")).eps = 1e-40


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_unknown_or_cannot_be_set_raises_and_names_what_is_like_it(cls):
    opt = cls({"p": np.ones(2)})
    stepped(opt, {"p": np.ones(2)})
    before = everything(opt, opt.params)
    wrong = {
        "learning_rate": f"{cls.__name__} has no attribute 'learning_rate': did you mean 'lr'?",
        "max_norm": f"{cls.__name__} has no attribute 'max_norm': did you mean 'clip_norm'?",
        "xyzzy": f"{cls.__name__} has no attribute 'xyzzy': there are lr, …",
        "params": "an optimizer's params are fixed: use bind(params)",
        "slots": f"slots of {cls.__name__} cannot be set",
        "hyper_parameters": f"hyper_parameters of {cls.__name__} cannot be set",
        **dict.fromkeys(["state", "steps", "skipped", "step_counts", "current_lr", "nbytes"], "…"),
    }
    if "weight_decay" in cls._arguments:
        wrong["weight_decy"] = f"{cls.__name__} has no attribute 'weight_decy': did you mean 'weight_decay'?"
    for name, message in wrong.items():
        with pytest.raises(AttributeError, match=says(message)):
            setattr(opt, name, 1)
    with pytest.raises(AttributeError):
        opt.state.clear()
    with pytest.raises(TypeError):
        opt.step_counts["params['p']"] = 0
    with pytest.raises(TypeError):
        opt.state["params['p']"] = {}
    if cls is not SGD:  # which has no state
        with pytest.raises(TypeError):
            opt.state["params['p']"]["exp_avg"] = np.zeros(2)
    with pytest.raises(AttributeError):
        del opt.lr
    assert everything(opt, opt.params) == before
    if cls is AdamW:
        with pytest.raises(ValueError, match=r"^decoupled is False: here it is always True$"):
            opt.decoupled = False


def test_subclasses_have_attributes_of_their_own_and_methods_can_be_replaced():
    class Counting(SGD):
        calls: int
        limit = 3

        def __init__(self, params, lr=0.1):
            super().__init__(params, lr)
            self.calls = 0
            self._note = "private names are free"

        def step(self, grads):
            self.calls += 1
            return super().step(grads)

    opt = Counting(np.ones(2))
    assert list(inspect.signature(Counting).parameters) == ["params", "lr"]
    opt.step(np.ones(2))
    assert opt.calls == 1
    with pytest.raises(AttributeError, match="limit of Counting cannot be set"):
        opt.limit = 4
    opt.step = lambda grads: "mine"  # as learning-rate schedulers and mocks do
    assert opt.step(None) == "mine"


class Bounded(SGD):
    """A user's, with a check, a default and options of its own."""

    lr: Hyper[float] = Hyper(hyper.proportion, default=0.5, kw_only=False)
    zero_grads: Option[bool] = Option(hyper.flag, default=True, init=False)
    calls: int = 0
    note: str

    @property
    def momentum(self):
        return "mine"


def test_what_a_subclass_declares_replaces_what_its_base_declared():
    opt = Bounded(np.ones(2), 0.25)
    opt.step(np.ones(2))
    assert (opt.lr, opt.momentum, opt.zero_grads) == (0.25, "mine", True)
    opt.calls += 1
    opt.note = "a"
    assert (opt.calls, opt.note) == (1, "a")
    with pytest.raises(ValueError, match=says("lr is 7.0: wanted a number from 0 to 1")):
        opt.lr = 7.0
    opt.param_groups[0]["lr"] = 7.0
    with pytest.raises(ValueError, match=says("lr is 7.0: wanted a number from 0 to 1")):
        opt.step(np.ones(2))
    with pytest.raises(ValueError, match="zero_grads is False: here it is always True"):
        opt.zero_grads = False
    with pytest.raises(TypeError, match="Bounded has no option 'zero_grads'"):
        Bounded(np.ones(2), zero_grads=True)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("momentum", 0.9, "Hyper"), ("clip_norm", Hyper(hyper.positive, default=1.0), "Option"), ("lr", len, "Hyper")],
)
def test_a_declaration_replaced_by_what_is_none_is_refused_when_the_class_is_made(name, value, kind):
    with pytest.raises(TypeError, match=says(f"Heavy.{name} is {value!r}: wanted {kind}(check, default=...)")):
        type("Heavy", (SGD,), {name: value})


def test_reading_checks_what_is_there():
    opt = SGD([{"params": np.ones(2)}, {"params": np.ones(2)}], lr=0.5)
    opt.param_groups[0]["lr"] = np.float32(0.25)
    assert opt.lr == opt.current_lr == [0.25, 0.5]
    assert type(opt.lr[0]) is type(opt.current_lr[0]) is float
    opt.param_groups[1]["lr"] = np.nan
    for read in (lambda: opt.lr, lambda: opt.current_lr):
        with pytest.raises(
            ValueError, match=says("param_groups[1]['lr'] is nan: wanted a finite number of at least 0")
        ):
            read()
    del opt.param_groups[1]["lr"]
    for read in (lambda: opt.lr, lambda: opt.current_lr):
        with pytest.raises(ValueError, match=says("param_groups[1] lacks 'lr'")):
            read()
    opt.lr = 0.5
    assert opt.lr == 0.5
    opt.param_groups[0][5] = 1
    with pytest.raises(ValueError, match=says("params[0][5]: SGD has no hyper-parameter 5: there are lr, …")):
        opt.step([np.ones(2)] * 2)


@pytest.mark.parametrize("name", ["lr", "weight_decay", "clip_norm"])
def test_setting_waits_for_a_step_of_another_thread(name):
    inside, leave = threading.Event(), threading.Event()

    def schedule(t):
        inside.set()
        leave.wait(10)
        return 0.5

    opt = SGD(np.ones(2), lr=schedule)
    stepping = threading.Thread(target=opt.step, args=(np.ones(2),))
    stepping.start()
    inside.wait(10)
    setting = threading.Thread(target=setattr, args=(opt, name, 0.125))
    setting.start()
    time.sleep(0.05)
    assert setting.is_alive()
    leave.set()
    stepping.join()
    setting.join()
    assert getattr(opt, name) == 0.125
    assert opt.params.tolist() == [0.5, 0.5]


def test_inside_its_own_step_hyper_parameters_can_be_set_for_the_next_one_and_options_cannot():
    seen = []

    def schedule(t):
        opt.weight_decay = 0.5
        for name, value in (("clip_norm", 1.0), ("zero_grads", True)):
            with pytest.raises(RuntimeError, match="in the middle of a step"):
                setattr(opt, name, value)
        seen.append(t)
        return 1.0

    opt = SGD(np.ones(2), lr=schedule)
    opt.step(np.zeros(2))
    opt.step(np.zeros(2))
    assert seen == [0, 1]
    assert opt.clip_norm is None
    assert opt.params.tolist() == [0.5, 0.5]


# ---- what is known of one ----


@pytest.mark.parametrize("cls", CLASSES)
def test_params_are_what_was_passed_and_nbytes_what_state_takes(cls):
    params = [{"params": {"w": np.ones((3, 2), "f")}}, {"params": [np.ones(5)]}]
    opt = cls(params)
    assert opt.params is params
    stepped(opt, [{"w": np.ones((3, 2), "f")}, [np.ones(5)]])
    slots = sum(x.ndim > 0 for x in opt.state["params[1]['params'][0]"].values())
    assert opt.nbytes == (4 * (3 + 2) + 40 if cls is Adafactor else slots * (24 + 40))
    twin = copy.copy(opt)
    assert twin.nbytes == opt.nbytes
    with pytest.raises(RuntimeError, match="bind"):
        twin.params  # noqa: B018
    others = copy.deepcopy(params)
    assert twin.bind(others).params is others


@pytest.mark.parametrize("reference", [False, True])
def test_grad_norm_is_that_of_the_last_step_before_clipping(reference):
    opt = SGD([np.zeros(2), np.zeros(1)], clip_norm=1.0)
    assert opt.grad_norm is None
    stepped(opt, [np.array([3.0, 0.0]), np.array([-4.0])], reference)
    assert opt.grad_norm == 5.0
    stepped(opt, [np.array([3.0, 0.0]), None], reference, loss_scale=6.0)
    assert opt.grad_norm == 0.5
    stepped(opt, [np.array([3e200, 4e200]), None], reference)
    assert opt.grad_norm == pytest.approx(5e200, rel=1e-15)
    assert copy.copy(opt).grad_norm == opt.grad_norm
    opt.clip_norm = None
    assert opt.grad_norm is None


def test_current_lr_is_the_number_that_the_next_step_takes():
    opt = SGD([{"params": np.zeros(1)}, {"params": np.zeros(1), "lr": Warmup(4, 8.0)}], lr=0.5)
    for wanted in (0.0, 2.0, 4.0):
        assert opt.current_lr == [0.5, wanted]
        before = [w["params"].item() for w in opt.params]
        opt.step([np.ones(1), np.ones(1)])
        assert [b - w["params"].item() for b, w in zip(before, opt.params, strict=True)] == [0.5, wanted]
    assert SGD(np.zeros(1), lr=CosineDecay(0.25, 9)).current_lr == 0.25
    with pytest.raises(ValueError, match=r"after 0 steps is -1\.0: wanted a finite number"):
        SGD(np.zeros(1), lr=lambda t: -1.0).current_lr  # noqa: B018


@pytest.mark.parametrize("record", OF_KINDS, ids=str)
def test_reset_makes_it_as_new(record):
    w = {"a": rand(40), "b": rand(3, 2)}
    grads = [{"a": rand(40, seed=t), "b": rand(3, 2, seed=t) if t != 1 else None} for t in range(4)]
    opt = record.cls(w, **record.options)
    for g in grads:
        record.step(opt, g)
    kept = copy.deepcopy(w)
    opt.reset()
    assert (opt.steps, opt.skipped, {*opt.step_counts.values()}) == (0, 0, {0})
    assert [bits(p) for p in w.values()] == [bits(p) for p in kept.values()]
    new = record.cls(kept, **record.options)
    assert whole(opt, w) == whole(new, kept)
    for g in grads:
        for o in (opt, new):
            record.step(o, g)
    assert whole(opt, w) == whole(new, kept)


def test_reset_is_refused_where_state_is_not_the_optimizers_to_set():
    opt = NAG(np.ones(2))
    with opt.lookahead(), pytest.raises(RuntimeError, match="looking ahead"):
        opt.reset()
    with pytest.raises(RuntimeError, match="bind"):
        copy.copy(opt).reset()


@pytest.mark.parametrize("value", [np.nan, "fast"])
def test_repr_shows_what_is_there_also_if_it_is_wrong(value):
    opt = SGD(np.ones(2), clip_norm=2.0)
    opt.param_groups[0]["lr"] = value
    assert repr(opt).startswith(f"SGD(lr={value!r}, momentum=0.0, ")
    assert "clip_norm=2.0" in repr(opt)
    opt.param_groups[0]["lr"] = np.float32(0.5)
    assert repr(opt).startswith("SGD(lr=0.5, ")
    assert repr(copy.copy(opt)) == repr(opt)


# ---- which parameters decay ----


def layers(dtype="float64"):
    return {
        "l1": {"w": rand(5, 3, dtype=dtype), "b": rand(5, seed=1, dtype=dtype)},
        "out": [rand(7, seed=2, dtype=dtype)],
    }


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize(
    "record",
    [r for r in OF_KINDS if r.name not in DECAY_INSIDE and r.cls.hyper_parameters["weight_decay"].init],
    ids=str,
)
def test_what_a_mask_leaves_out_is_updated_as_without_decay(record, reference):
    w, apart = layers(), layers()
    options = {**record.options, "weight_decay": 0.125}
    opt = record.cls(w, **options, decay_mask=lambda path, array: path != "l1.b" and array.ndim > 0)
    groups = [
        {"params": {"l1": {"w": apart["l1"]["w"]}, "out": apart["out"]}},
        {"params": apart["l1"]["b"], "weight_decay": 0.0},
    ]
    wanted = record.cls(groups, **options)
    for t in range(3):
        g = {"l1": {"w": rand(5, 3, seed=t), "b": rand(5, seed=t + 9)}, "out": [rand(7, seed=t)]}
        record.step(opt, g, reference)
        record.step(wanted, [{"l1": {"w": g["l1"]["w"]}, "out": g["out"]}, g["l1"]["b"]], reference)
    assert [bits(w["l1"]["w"]), bits(w["l1"]["b"]), bits(w["out"][0])] == [
        bits(apart["l1"]["w"]), bits(apart["l1"]["b"]), bits(apart["out"][0])
    ]  # fmt: skip


def test_a_mask_is_asked_once_for_each_parameter_with_its_path():
    asked = []

    def mask(path, array):
        asked.append((path, array))
        return np.bool_(array.ndim > 1)

    w = [{"params": layers()}, {"params": rand(2, seed=3)}]
    opt = AdamW(w, weight_decay=0.5, decay_mask=mask)
    paths = ["l1.w", "l1.b", "out.0", ""]
    arrays = [w[0]["params"]["l1"]["w"], w[0]["params"]["l1"]["b"], w[0]["params"]["out"][0], w[1]["params"]]
    assert [path for path, _ in asked] == paths
    assert all(one is array for (_, one), array in zip(asked, arrays, strict=True))
    grads = [{"l1": {"w": rand(5, 3), "b": rand(5)}, "out": [rand(7)]}, rand(2)]
    opt.step(grads)
    assert len(asked) == 4
    others = copy.deepcopy(w)
    twin = copy.deepcopy(opt).bind(others)
    assert len(asked) == 8
    opt.step(grads)
    twin.step(grads)
    assert whole(opt, [g["params"] for g in w]) == whole(twin, [g["params"] for g in others])


class Part(str, enum.Enum):
    W = "w"


def test_a_mask_knows_keys_by_their_value_and_not_by_how_they_print():
    asked = []
    SGD({Part.W: {np.int64(1): [np.ones(1)], True + 1: np.ones(2)}}, decay_mask=lambda path, _: not asked.append(path))
    assert asked == ["w.1.0", "w.2"]


def test_gradients_are_clamped_after_unscaling_and_before_decay():
    grads = [np.array([-0.125, 1.0, 0.25]), np.array([3.0, -4.0, np.inf, -np.inf])]
    w = [np.zeros(3), np.zeros(4)]
    opt = SGD(w, lr=1.0, clip_value=0.2)
    opt.step([-64.0 * g for g in grads], loss_scale=64.0)
    assert w[0].tolist() == [-0.125, 0.2, 0.2]
    assert w[1].tolist() == [0.2, -0.2, 0.2, -0.2]
    opt.step([np.full(3, np.nan), None])
    assert np.isnan(w[0]).all()
    with pytest.raises(ValueError, match=r"^clip_norm and clip_value: wanted one of them$"):
        opt.clip_norm = 1.0
    assert opt.clip_norm is None


def test_a_mask_that_gives_no_flag_is_refused_and_changes_nothing():
    w = rand(4)
    for wrong, error in (
        (lambda path, array: 1, TypeError),
        (lambda path, array: 1 / 0, ZeroDivisionError),
        (3, TypeError),
    ):
        with pytest.raises(error):
            SGD([w], decay_mask=wrong)
    opt = SGD([w], lr=1.0, weight_decay=0.5, decay_mask=lambda path, array: False)
    with pytest.raises(TypeError, match=r"^decay_mask of params\[0\] is 1, a int: wanted True or False$"):
        opt.decay_mask = lambda path, array: 1
    before = w.copy()
    opt.step([np.zeros(4)])
    assert (w == before).all()
    opt.decay_mask = None
    opt.step([np.zeros(4)])
    assert (w == 0.5 * before).all()


def test_a_mask_goes_with_a_pickle_and_not_into_a_file(tmp_path):
    opt = SGD([rand(4)], weight_decay=0.5, decay_mask=no_axes)
    assert pickle.loads(pickle.dumps(opt)).decay_mask is no_axes
    opt.save(tmp_path / "x")
    other = SGD([rand(4)])
    other.load(tmp_path / "x")
    assert other.decay_mask is None


def no_axes(path, array):
    return array.ndim == 0


# ---- trees that are none ----


@pytest.mark.parametrize("nothing", [[], {}, (), [[], {}], [{"params": []}, {"params": {}}]], ids=repr)
def test_no_parameters_at_all_are_an_error(nothing):
    with pytest.raises(ValueError, match=says(f"params has no parameters: it is {nothing!r}")):
        RMSprop(nothing)


def test_an_empty_array_is_a_parameter_and_a_group_may_have_none():
    assert SGD(np.zeros(0)).step(np.zeros(0))
    assert SGD([{"params": []}, {"params": np.zeros(2)}]).step([[], np.zeros(2)])


def test_a_container_that_holds_itself_is_named():
    knot = {"a": [np.ones(2)]}
    knot["a"].append(knot)
    for params, message in [
        (knot, "params['a'][1] is a dict that holds itself: wanted a tree of arrays"),
        ([{"params": np.ones(1)}, {"params": knot}], "params[1]['params']['a'][1] is a dict that holds itself: …"),
    ]:
        with pytest.raises(ValueError, match=says(message)):
            SGD(params)
    twice = [np.ones(2)]
    with pytest.raises(ValueError, match="the same array"):
        SGD([twice, twice])


@pytest.mark.parametrize(
    "group",
    [
        {"lr": 0.1},
        {"betas": (0.9, 0.99)},
        {"betas": (0.9, 0.99), "lr": np.float32(0.1)},
        {"amsgrad": True},
        {"lr": Warmup(3, 0.1)},
    ],
)
def test_a_forgotten_list_of_groups_is_named(group):
    key = list(group)[-1]
    w = {"w": np.ones(2)}
    for params in ({"params": w, key: group[key]}, [{"params": w, key: group[key]}, {"w": np.ones(2)}]):
        with pytest.raises(
            ValueError, match=rf"params.* has 'params' and '{key}', as a group has: wanted a list of groups"
        ):
            Adam(params)


# ---- the package ----


def test_dir_shows_the_public_names_and_only_these():
    assert dir(fastopt) == sorted(fastopt.__all__)
    assert {"Adam", "SGD", "schedules", "checkpoint", "set_num_threads"} <= set(dir(fastopt))
    assert all(hasattr(fastopt, name) for name in dir(fastopt))


def test_looking_at_an_optimizer_settles_its_groups(tmp_path):
    for look in (repr, lambda opt: opt.state_dict(), lambda opt: opt.save(tmp_path / "x"), copy.copy):
        opt = SGD(np.ones(2), lr=0.5)
        opt.step(np.ones(2))
        opt.param_groups[0].update(lr=np.float64(0.25), momentum=np.float32(0.5), maximize=np.True_)
        look(opt)
        group = {key: value for key, value in opt.param_groups[0].items() if key != "params"}
        assert [type(value) for value in (group["lr"], group["momentum"], group["maximize"])] == [float, float, bool]
    other = SGD(np.zeros(2))
    other.load(tmp_path / "x")
    assert (other.momentum, other.maximize, other.lr) == (0.5, True, 0.25)
    assert other.state["params"]["momentum_buffer"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda groups: groups[0].update(lr=np.nan), "params[0]['lr'] is nan: wanted a finite number of at least 0"),
        (
            lambda groups: groups[0].update(momentun=0.9),
            "params[0]['momentun']: SGD has no hyper-parameter 'momentun': …",
        ),
        (lambda groups: groups[1].pop("momentum"), "param_groups[1] lacks 'momentum'"),
        (lambda groups: groups[1].pop("params"), "param_groups[1]['params'] was replaced: …"),
        (lambda groups: groups.reverse(), "param_groups[0]['params'] was replaced: …"),
        (lambda groups: groups.pop(), "param_groups has 1 groups: wanted the 2 it was made with"),
    ],
    ids=["nan", "misspelt", "removed", "no params", "reversed", "a group less"],
)
def test_what_is_wrong_with_live_groups_is_not_saved(change, message, tmp_path):
    opt = SGD([{"params": np.ones(2)}, {"params": np.ones(3)}], lr=0.5)
    opt.save(tmp_path / "x")
    old = (tmp_path / "x").read_bytes()
    change(opt.param_groups)
    for look in (lambda: opt.save(tmp_path / "x"), opt.state_dict, lambda: copy.copy(opt)):
        with pytest.raises(ValueError, match=says(message)):
            look()
    assert (tmp_path / "x").read_bytes() == old
    assert repr(opt).startswith("SGD(")


def test_nag_can_be_set_while_it_looks_ahead():
    opt = NAG(np.ones(2), lr=0.5)
    with opt.lookahead():
        opt.lr = 0.25
    opt.step(np.ones(2))
    assert opt.params.tolist() == [0.75, 0.75]
    assert looked_ahead(opt).lr == 0.25


@pytest.mark.parametrize("cls", [fastopt.OPTIMIZERS[name] for name in sorted(DECAY_INSIDE)])
def test_a_mask_is_refused_where_decay_is_inside_the_rule(cls):
    message = f"decay_mask: weight decay of {cls.__name__} is inside its rule: use groups"
    with pytest.raises(ValueError, match=says(message)):
        cls(np.ones(2), weight_decay=0.1, decay_mask=lambda path, array: True)
    opt = cls(np.ones(2), weight_decay=0.1)
    opt.step(np.ones(2))
    with pytest.raises(ValueError, match=says(message)):
        opt.decay_mask = lambda path, array: True
    opt = cls(np.ones(2), decay_mask=lambda path, array: True)  # without decay there is nothing to leave out
    with pytest.raises(ValueError, match=says(message)):
        opt.weight_decay = 0.1
    assert opt.step(np.ones(2))
