"""Optimizers of torch and Keras made into fastopt's: after it, a step is the partner's to rounding."""

from __future__ import annotations

import copy
import inspect
import os
import warnings

import numpy as np
import pytest
from test_errors import says

import fastopt
from fastopt import convert, schedules

REALS = ["float32", "float64"]
SHAPES = [(), (5,), (3, 4), (40,)]


def some(real, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [np.asarray(scale * rng.normal(size=shape)).astype(real) for shape in SHAPES]


def assert_close(mine, theirs, roundings):
    """Equal but for so many roundings of numbers of about 1."""
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=roundings * np.finfo(a.dtype).eps)


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's


# ---- torch ----


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: `pip install torch` to convert its optimizers")


@pytest.fixture
def numbers_in_double(torch):
    """NAdam's product and ASGD's rates have torch's default type: else they are float32 beside our double."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


TORCH = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {"weight_decay": 0.1, "betas": (0.8, 0.9)}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {"weight_decay": 0.2, "foreach": True}),
    ("NAdam", {"momentum_decay": 0.1}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adamax", {}),
    ("Adagrad", {"initial_accumulator_value": 0.25, "lr_decay": 0.1}),
    ("Adadelta", {"rho": 0.8}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("RMSprop", {"alpha": 0.5}),
    ("Rprop", {"etas": (0.25, 1.5)}),
    ("ASGD", {"t0": 2, "lambd": 0.1}),
    ("Adafactor", {"weight_decay": 0.1, "d": 2.0}),
]
IDS = [f"{name} {options}" for name, options in TORCH]


def trained(torch, name, options, real, steps=4, groups=1):
    """An optimizer of torch after some steps, the last parameter of which has had no gradient yet."""
    cls = getattr(torch.optim, name)
    for option in options.keys() - inspect.signature(cls).parameters.keys():
        pytest.skip(f"this torch's {name} has no {option}")
    params = [torch.nn.Parameter(torch.from_numpy(p)) for p in some(real, 0)]
    if groups == 2:
        optimizer = cls([{"params": params[:1], "lr": 0.01}, {"params": params[1:]}], lr=0.05, **options)
    else:
        optimizer = cls(params, lr=0.05, **options)
    for step in range(steps):
        step_of_torch(torch, optimizer, some(real, 1 + step))
    return optimizer


def parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def step_of_torch(torch, optimizer, grads, last=None):
    for p, g in zip(parameters(optimizer), [*grads[:-1], last], strict=True):
        p.grad = None if g is None else torch.from_numpy(g)
    optimizer.step()


def values(optimizer):
    return [p.detach().numpy() for p in parameters(optimizer)]


@pytest.mark.usefixtures("numbers_in_double")
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("name", "options"), TORCH, ids=IDS)
def test_steps_go_on_as_torchs(torch, name, options, groups, real):
    theirs = trained(torch, name, options, real, groups=groups)
    twin = copy.deepcopy(theirs)
    opt = convert.from_torch(twin)
    assert type(opt) is getattr(fastopt, name)
    for step in range(3):
        grads = some(real, 10 + step)
        step_of_torch(torch, theirs, grads, grads[-1])
        opt.step(grads if groups == 1 else [grads[:1], grads[1:]])
        assert_close(values(twin), values(theirs), 8 * (step + 1))  # torch sees the steps
    before = 4 if name != "SGD" else 1 if options else 0  # which keeps no count: a momentum has had an update, or more
    assert list(opt.step_counts.values()) == [before + 3] * 3 + [3]


@pytest.mark.usefixtures("numbers_in_double")
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("name", "options"), TORCH, ids=IDS)
def test_torch_goes_on_from_our_steps(torch, name, options, groups, real):
    theirs = trained(torch, name, options, real, groups=groups)
    source = copy.deepcopy(theirs)
    opt = convert.from_torch(source)
    for step in range(2):
        grads = [*some(real, 20 + step)[:-1], None]
        step_of_torch(torch, theirs, grads)
        opt.step(grads if groups == 1 else [grads[:1], grads[1:]])
    opt.lr = 0.125
    for group in theirs.param_groups:
        group["lr"] = 0.125
    new = trained(torch, name, options, real, steps=0, groups=groups)
    convert.to_torch(opt, new)
    for p, q in zip(parameters(new), parameters(source), strict=True):
        p.data.copy_(q.data)
    # What torch has of itself, entry by entry: the same keys, types, and values to rounding.
    for p, q in zip(parameters(new), parameters(theirs), strict=True):
        mine, wanted = new.state.get(p, {}), theirs.state.get(q, {})
        assert {key for key, value in wanted.items() if value is not None} == set(mine)
        for key, value in mine.items():
            if key in opt.numbers:  # which torch gives the parameter's type when it loads them
                assert float(value) == pytest.approx(float(wanted[key]), rel=1e-6)
            else:
                assert (value.dtype, value.shape) == (wanted[key].dtype, wanted[key].shape), key
                assert_close([value.numpy()], [wanted[key].numpy()], 60)
        if mine and name != "SGD":
            assert mine["step"] == wanted["step"]
    grads = some(real, 30)
    step_of_torch(torch, theirs, grads, grads[-1])
    step_of_torch(torch, new, grads, grads[-1])
    assert_close(values(new), values(theirs), 24)
    assert [{key: value for key, value in group.items() if key != "params"} for group in new.param_groups] == [
        {key: value for key, value in group.items() if key != "params"} for group in theirs.param_groups
    ]


def test_a_momentum_that_was_switched_on_and_not_used_yet_is_new_to_torch_too(torch):
    """Its first gradient is not damped."""
    options = {"momentum": 0.9, "dampening": 0.5}
    theirs, source = (trained(torch, "SGD", {}, "float64") for _ in range(2))
    opt = convert.from_torch(source)
    opt.step(some("float64", 10))
    step_of_torch(torch, theirs, some("float64", 10), some("float64", 10)[-1])
    theirs.param_groups[0].update(options)
    opt.momentum, opt.dampening = 0.9, 0.5
    convert.to_torch(opt, source)
    for optimizer in (theirs, source):
        step_of_torch(torch, optimizer, some("float64", 11), some("float64", 11)[-1])
    assert_close(values(source), values(theirs), 8)


def test_muon_goes_on_there_and_back(torch):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(4, 5, 8)).astype("f")
    theirs = torch.optim.Muon([torch.nn.Parameter(torch.from_numpy(np.ones((5, 8), "f")))], lr=0.05)
    for g in grads[:2]:
        step_of_torch(torch, theirs, [g], g)
    twin = copy.deepcopy(theirs)
    opt = convert.from_torch(twin)
    opt.step([grads[2]])
    convert.to_torch(opt, twin)
    step_of_torch(torch, theirs, [grads[2]], grads[2])
    for optimizer in (theirs, twin):
        step_of_torch(torch, optimizer, [grads[3]], grads[3])
    (mine,), (wanted,) = values(twin), values(theirs)
    np.testing.assert_allclose(
        mine, wanted, rtol=0, atol=2e-3
    )  # torch orthogonalizes in bfloat16: 8 bits of the update
    p, q = parameters(twin)[0], parameters(theirs)[0]
    assert_close([twin.state[p]["momentum_buffer"].numpy()], [theirs.state[q]["momentum_buffer"].numpy()], 8)


def test_the_parameters_are_torchs_own_memory_and_the_state_is_not(torch):
    theirs = trained(torch, "Adam", {}, "float32")
    opt = convert.from_torch(theirs)
    assert [p.ctypes.data for p in opt.params] == [p.data_ptr() for p in parameters(theirs)]
    before = theirs.state[parameters(theirs)[1]]["exp_avg"].clone()
    opt.step([torch.ones(shape) for shape in SHAPES])  # torch's tensors are gradients
    assert (theirs.state[parameters(theirs)[1]]["exp_avg"] == before).all()


def test_a_rate_that_torch_keeps_as_a_tensor_and_a_schedulers_notes_are_taken(torch):
    theirs = trained(torch, "Adam", {}, "float32")
    torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.5, total_steps=10)
    theirs.param_groups[0]["lr"] = torch.tensor(0.25)
    assert convert.from_torch(theirs).lr == 0.25


def wrong_of_torch(torch):
    plain = [torch.nn.Parameter(torch.ones(3))]

    class Mine(torch.optim.Adam):
        pass

    def changed(key, value):
        optimizer = trained(torch, "Adam", {}, "float32")
        optimizer.param_groups[0][key] = value
        return optimizer

    def without(key):
        optimizer = trained(torch, "Adam", {}, "float32")
        del optimizer.state[parameters(optimizer)[1]][key]
        return optimizer

    def with_state(key):
        optimizer = trained(torch, "Adam", {}, "float32")
        optimizer.state[parameters(optimizer)[1]][key] = torch.ones(5)
        return optimizer

    known = "wanted one of torch.optim's SGD, Adam, …"
    return [
        (torch.optim.LBFGS(plain), f"the optimizer is a torch.optim.lbfgs.LBFGS: {known}"),
        (torch.optim.SparseAdam(plain), f"the optimizer is a torch.optim.sparse_adam.SparseAdam: {known}"),
        (Mine(plain), f"the optimizer is a …Mine: {known}"),
        (fastopt.Adam(np.ones(3)), f"the optimizer is a fastopt.optimizers.adam.Adam: {known}"),
        (torch.optim.Adam([torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]),
         "param_groups[0]['params'][0] is torch.bfloat16, torch.strided, on cpu: wanted torch.float32 …"),
        (torch.optim.Adam([torch.nn.Parameter(torch.ones(3, device="meta"))]),
         "param_groups[0]['params'][0] is torch.float32, torch.strided, on meta: wanted …"),
        (torch.optim.Adam([torch.nn.Parameter(torch.ones(6)[::2])]),
         "params[0] of shape (3,) and strides (8,) is not contiguous: …"),
        (torch.optim.Adam(plain, differentiable=True), "param_groups[0]['differentiable'] is True: wanted False"),
        (changed("capturable", True), "param_groups[0]['capturable'] is True: wanted False"),
        (changed("cautious", True), "param_groups[0]['cautious'] is True: fastopt.Adam has nothing for it"),
        (changed("lr", -1.0), "param_groups[0]['lr'] is -1.0: …"),
        (without("exp_avg"), "the state of params[1] lacks 'exp_avg'"),
        (with_state("velocity"), "the state of params[1] has 'velocity': fastopt.Adam has nothing for it"),
    ]  # fmt: skip


@pytest.mark.parametrize("place", range(13))
def test_what_has_no_counterpart_is_refused_by_name(torch, place):
    optimizer, message = wrong_of_torch(torch)[place]
    with pytest.raises((TypeError, ValueError), match=says(message)):
        convert.from_torch(optimizer)


def test_all_of_these_are_tried(torch):
    assert len(wrong_of_torch(torch)) == 13


WRONG_TO_TORCH = [
    (lambda w: fastopt.SGD(w), "the optimizer is torch's Adam: wanted SGD, as opt is"),
    (lambda w: fastopt.Lion(w), "the optimizer is torch's Adam: wanted Lion, as opt is"),
    (lambda w: fastopt.Adam(w, clip_norm=1.0), "opt has clip_norm=1.0: torch's Adam has no such option"),
    (lambda w: fastopt.Adam(w, nonfinite="skip"), "opt has nonfinite='skip': torch's Adam has no such option"),
    (lambda w: fastopt.Adam(w, eps_hat=True), "param_groups[0] has eps_hat=True: torch's Adam has no such option"),
    (lambda w: fastopt.Adam(w, lr=schedules.CosineDecay(1.0, 9)),
     "param_groups[0]['lr'] is a schedule: torch has its own; set a number first"),
    (lambda w: fastopt.Adam(w, betas=(0.5, schedules.CosineDecay(0.5, 9))),
     "param_groups[0]['betas'] is a schedule: torch has its own; set a number first"),
    (lambda w: fastopt.Adam([{"params": w}, {"params": [np.ones(1)]}]), "opt has 2 groups, torch's has 1"),
    (lambda w: fastopt.Adam([*w, np.ones(1)]), "opt has 5 parameters, torch's has 4"),
    (lambda w: fastopt.Adam([w[0], np.ones(6), *w[2:]]),
     "params[1] is float64 (6,) in group 0: torch has float32 (5,) there"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), WRONG_TO_TORCH, ids=[row[1] for row in WRONG_TO_TORCH])
def test_what_torch_has_not_is_refused_by_name(torch, make, message):
    theirs = trained(torch, "Adam", {}, "float32")
    before = copy.deepcopy(theirs.state_dict())
    with pytest.raises((TypeError, ValueError), match=says(message)):
        convert.to_torch(make(some("float32", 0)), theirs)
    after = theirs.state_dict()
    assert str(after) == str(before)


def test_counts_of_rows_are_refused_where_torch_would_go_on_otherwise(torch):
    def pair(name):
        table = torch.nn.Parameter(torch.zeros(3, 2))
        theirs = getattr(torch.optim, name)([table], lr=0.1)
        return theirs, convert.from_torch(theirs)

    def rows(*indices):
        return [fastopt.Rows(np.array(indices), np.ones((len(indices), 2), "f"))]

    theirs, opt = pair("Adam")
    opt.step(rows(1, 2))
    before = str(theirs.state_dict())
    message = "params[0] has had Rows, and its rows have had other numbers of updates than it has (1): torch's Adam…"
    with pytest.raises(ValueError, match=says(message)):
        convert.to_torch(opt, theirs)
    assert str(theirs.state_dict()) == before

    theirs, opt = pair("Adam")
    opt.step(rows(0, 1, 2))
    convert.to_torch(opt, theirs)
    (entry,) = theirs.state.values()
    assert (entry.keys(), entry["step"]) == ({"step", "exp_avg", "exp_avg_sq"}, 1)

    theirs, opt = pair("SGD")  # which counts nothing
    opt.step(rows(1, 2))
    convert.to_torch(opt, theirs)
    assert not any(theirs.state.values())


# ---- Keras ----


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's own
        return pytest.importorskip(
            "keras", reason="Keras is not installed: `pip install keras` to convert its optimizers"
        )


KERAS = [
    ("SGD", {"learning_rate": 0.25}),
    ("SGD", {"learning_rate": 0.25, "nesterov": True}),  # which means nothing without momentum
    ("SGD", {"momentum": 0.9, "weight_decay": 0.5}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "clipvalue": 0.5}),
    ("SGD", {"clipnorm": 0.5}),
    ("RMSprop", {}),
    ("RMSprop", {"epsilon": 1e-2, "rho": 0.5, "weight_decay": 0.5}),
    ("RMSprop", {"centered": True, "epsilon": 1e-3, "momentum": 0.5}),
    ("Adam", {"epsilon": 1e-2, "beta_1": 0.5, "beta_2": 0.75}),
    ("Adam", {"amsgrad": True, "epsilon": 1e-2}),
    ("Adam", {"weight_decay": 0.5, "global_clipnorm": 0.5}),
    ("AdamW", {"epsilon": 1e-2}),
    ("AdamW", {"weight_decay": 0.0}),
    ("Nadam", {"epsilon": 1e-2, "beta_1": 0.5}),
    ("Adadelta", {"learning_rate": 0.5, "epsilon": 1e-2}),
    ("Adagrad", {"epsilon": 0.0, "initial_accumulator_value": 0.5}),
    ("Adamax", {"epsilon": 0.0}),
    ("Lamb", {"epsilon": 1e-2}),
    ("Lion", {"weight_decay": 0.5, "beta_2": 0.5}),
    ("Ftrl", {"l1_regularization_strength": 0.1, "l2_regularization_strength": 0.2, "beta": 0.5,
              "l2_shrinkage_regularization_strength": 0.25}),
    ("ScheduleFreeAdamW", {"warmup_steps": 3, "epsilon": 1e-2}),
]  # fmt: skip


def made(keras, name, options):
    if not hasattr(keras.optimizers, name):
        pytest.skip(f"this Keras has no {name}")
    return getattr(keras.optimizers, name)(**{"learning_rate": 0.0625} | options)  # exact in float32


@pytest.mark.parametrize("form", ["get_config", "serialize"])
@pytest.mark.parametrize(("name", "options"), KERAS, ids=[f"{name} {options}" for name, options in KERAS])
def test_steps_are_kerass(keras, name, options, form):
    if name == "ScheduleFreeAdamW" and keras.backend.backend() == "torch":
        pytest.skip("with torch, Keras 3.15 takes the new z for the old one: they are one tensor")
    if options.get("epsilon") == 0:
        fastopt.set_flush_denormals(False)  # or 0 is too small for float32
    theirs = made(keras, name, options)
    config = theirs.get_config() if form == "get_config" else keras.optimizers.serialize(theirs)
    params = some("float32", 0)  # of float64, Keras computes parts in float32
    opt = convert.from_keras(config)(params)
    variables = [keras.Variable(p.copy()) for p in params]
    for step in range(5):
        grads = some("float32", 1 + step)
        theirs.apply([keras.ops.convert_to_tensor(g) for g in grads], variables)
        opt.step(grads)
        assert_close(params, [keras.ops.convert_to_numpy(v) for v in variables], 30 * (step + 1))


@pytest.mark.parametrize("name", ["adam_w", "adam_w_10"])
def test_the_names_that_keras_gives_are_known(keras, name):
    config = keras.optimizers.AdamW(0.5).get_config()
    assert convert.from_keras(config | {"name": name}).func is fastopt.AdamW


def test_a_converted_optimizer_is_made_by_a_call(keras):
    make = convert.from_keras(keras.optimizers.Adam(0.5, clipvalue=2.0).get_config())
    assert make.keywords == {
        "lr": 0.5, "betas": (0.9, 0.999), "eps": 1e-7, "amsgrad": False, "eps_hat": True, "weight_decay": 0.0,
        "clip_value": 2.0,
    }  # fmt: skip


RATES = [
    ("ExponentialDecay", {"initial_learning_rate": 0.5, "decay_steps": 4, "decay_rate": 0.5}),
    ("ExponentialDecay", {"initial_learning_rate": 0.5, "decay_steps": 4, "decay_rate": 0.5, "staircase": True}),
    ("InverseTimeDecay", {"initial_learning_rate": 0.5, "decay_steps": 4, "decay_rate": 0.5, "staircase": True}),
    ("PiecewiseConstantDecay", {"boundaries": [3, 7], "values": [0.5, 0.25, 0.125]}),
    ("PolynomialDecay", {"initial_learning_rate": 0.5, "decay_steps": 9, "end_learning_rate": 0.25, "power": 2.0}),
    ("CosineDecay", {"initial_learning_rate": 0.5, "decay_steps": 9, "alpha": 0.25}),
    ("CosineDecay", {"initial_learning_rate": 0.125, "decay_steps": 9, "warmup_target": 0.5, "warmup_steps": 4}),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.5, "first_decay_steps": 3, "alpha": 0.25}),
]


@pytest.mark.parametrize(("name", "options"), RATES, ids=[f"{name} {options}" for name, options in RATES])
def test_schedules_are_kerass(keras, name, options):
    theirs = getattr(keras.optimizers.schedules, name)(**options)
    lr = convert.from_keras(keras.optimizers.SGD(theirs).get_config()).keywords["lr"]
    assert [lr(t) for t in range(16)] == pytest.approx([float(theirs(t)) for t in range(16)], rel=1e-5)  # float32


def config_of(name="sgd", **more):
    return {"name": name, "learning_rate": 0.5, "momentum": 0.0, "nesterov": False, "clipnorm": None} | more


ADAM = {"name": "adam", "learning_rate": 0.5, "beta_1": 0.9, "beta_2": 0.9, "epsilon": 1e-7, "amsgrad": False}
RMSPROP = {"name": "rm_sprop", "learning_rate": 0.5, "rho": 0.9, "momentum": 0.5, "epsilon": 1e-7, "centered": False}
COSINE = {"class_name": "CosineDecay", "config": {"initial_learning_rate": 0.5, "decay_steps": 9, "alpha": 0.0,
                                                  "warmup_target": None, "warmup_steps": 0}}  # fmt: skip
WRONG_OF_KERAS = [
    (3, "config is int: wanted the dict of optimizer.get_config() or keras.optimizers.serialize(optimizer)"),
    (config_of("adafactor"), "there is no counterpart of Keras's 'adafactor': there are ones of SGD, …"),
    ({key: value for key, value in ADAM.items() if key != "amsgrad"} | {"name": "lamb", "weight_decay": 0.5},
     "weight_decay is 0.5: fastopt.LAMB has no counterpart of it"),
    (config_of("my_sgd"), "there is no counterpart of Keras's 'my_sgd': there are ones of SGD, …"),
    ({"learning_rate": 1.0}, "there is no counterpart of Keras's None: there are ones of SGD, …"),
    ({"class_name": "Muon", "config": {}}, "there is no counterpart of Keras's 'Muon': …"),
    ({"class_name": "LossScaleOptimizer", "config": {}}, "there is no counterpart of Keras's 'LossScaleOptimizer': …"),
    ({"class_name": "SGD", "config": config_of(), "registered_name": "mine>SGD"},
     "config is of 'mine>SGD', a class that is not Keras's"),
    (config_of("adam"), "config lacks 'beta_1', which Keras's Adam has"),
    ({"name": "lion", "beta_1": 0.5, "beta_2": 0.5}, "config lacks 'learning_rate', which Keras's Lion has"),
    (config_of(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5),
     "use_ema is True: fastopt.SGD has no counterpart of it"),
    (config_of(loss_scale_factor=2.0), "loss_scale_factor is 2.0: fastopt.SGD has no counterpart of it"),
    (config_of(gradient_accumulation_steps=2), "gradient_accumulation_steps is 2: fastopt.SGD has no counterpart …"),
    (config_of(beta_1=0.5), "beta_1 is 0.5: fastopt.SGD has no counterpart of it"),
    (RMSPROP | {"learning_rate": COSINE}, "learning_rate is a schedule beside momentum: in Keras's RMSprop …"),
    (config_of(learning_rate={"class_name": "Mine", "config": {}}), "learning_rate is a Mine of {}: …"),
    (config_of(learning_rate={"class_name": "PolynomialDecay", "config": {"cycle": True}}),
     "learning_rate is a PolynomialDecay of {'cycle': True}: fastopt.schedules has no counterpart"),
    ({"name": "adagrad", "learning_rate": 0.5, "initial_accumulator_value": 0.1, "epsilon": 1e-7},
     "epsilon is 1e-07: fastopt.Adagrad takes Keras's steps only with 0"),
    (ADAM | {"name": "adamax"}, "epsilon is 1e-07: fastopt.Adamax takes Keras's steps only with 0"),
    ({"name": "ftrl", "learning_rate": 0.5, "learning_rate_power": -0.75, "initial_accumulator_value": 0.1,
      "l1_regularization_strength": 0.0, "l2_regularization_strength": 0.0,
      "l2_shrinkage_regularization_strength": 0.0, "beta": 0.0},
     "learning_rate_power is -0.75: fastopt.Ftrl takes Keras's steps only with -0.5"),
    ({"name": "schedule_free_adam_w", "learning_rate": 0.5, "beta_1": 0.9, "beta_2": 0.9, "epsilon": 1e-7,
      "warmup_steps": 0, "weight_decay": 0.1},
     "weight_decay is 0.1: fastopt.ScheduleFreeAdamW has no counterpart of it"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "message"), WRONG_OF_KERAS, ids=[row[1] for row in WRONG_OF_KERAS])
def test_what_keras_has_and_we_have_not_is_refused_by_name(config, message):
    with pytest.raises((TypeError, ValueError), match=says(message)):
        convert.from_keras(config)


def test_an_average_of_keras_is_ema_decay(keras):
    theirs = keras.optimizers.SGD(0.25, use_ema=True, ema_momentum=0.75)
    params = some("float32", 0)
    opt = convert.from_keras(theirs.get_config())(params)
    variables = [keras.Variable(p.copy()) for p in params]
    for step in range(4):
        theirs.apply([keras.ops.convert_to_tensor(g) for g in some("float32", 1 + step)], variables)
        opt.step(some("float32", 1 + step))
    theirs.finalize_variable_values(variables)
    with opt.averaged():
        assert_close(params, [keras.ops.convert_to_numpy(v) for v in variables], 30)


# ---- optax: the table in docs/from_optax.md ----

OPTAX = [
    ("sgd", lambda o: o.sgd(0.1), lambda p: fastopt.SGD(p, 0.1)),
    ("sgd, momentum", lambda o: o.sgd(0.1, momentum=0.9), lambda p: fastopt.SGD(p, 0.1, momentum=0.9)),
    ("sgd, nesterov", lambda o: o.sgd(0.1, momentum=0.9, nesterov=True),
     lambda p: fastopt.SGD(p, 0.1, momentum=0.9, nesterov=True)),
    ("adam", lambda o: o.adam(0.1, b1=0.5, b2=0.75, eps=1e-2),
     lambda p: fastopt.Adam(p, 0.1, betas=(0.5, 0.75), eps=1e-2)),
    ("adamw", lambda o: o.adamw(0.1), lambda p: fastopt.AdamW(p, 0.1, weight_decay=1e-4)),
    ("rmsprop", lambda o: o.rmsprop(0.1, eps=1e-2),
     lambda p: fastopt.RMSprop(p, 0.1, alpha=0.9, eps=1e-2, eps_inside_sqrt=True)),
    ("rmsprop, eps outside", lambda o: o.rmsprop(0.1, eps=1e-2, eps_in_sqrt=False),
     lambda p: fastopt.RMSprop(p, 0.1, alpha=0.9, eps=1e-2)),
    ("rmsprop, centered, momentum", lambda o: o.rmsprop(0.1, eps=1e-2, centered=True, momentum=0.5),
     lambda p: fastopt.RMSprop(p, 0.1, alpha=0.9, eps=1e-2, eps_inside_sqrt=True, centered=True, momentum=0.5)),
    ("adadelta", lambda o: o.adadelta(0.1, eps=1e-2), lambda p: fastopt.Adadelta(p, 0.1, eps=1e-2)),
    ("adamax", lambda o: o.adamax(0.1, eps=1e-2), lambda p: fastopt.Adamax(p, 0.1, eps=1e-2)),
    ("adabelief", lambda o: o.adabelief(0.1, eps=1e-3, eps_root=1e-3), lambda p: fastopt.AdaBelief(p, 0.1, eps=1e-3)),
    ("yogi", lambda o: o.yogi(0.1), lambda p: fastopt.Yogi(p, 0.1)),
    ("lion", lambda o: o.lion(0.1), lambda p: fastopt.Lion(p, 0.1, weight_decay=1e-3)),
    ("sign_sgd", lambda o: o.sign_sgd(0.1), lambda p: fastopt.SignSGD(p, 0.1)),
    ("lamb", lambda o: o.lamb(0.1, weight_decay=0.5), lambda p: fastopt.LAMB(p, 0.1, weight_decay=0.5)),
    ("lars", lambda o: o.lars(0.1, weight_decay=0.5, trust_coefficient=0.01),
     lambda p: fastopt.LARS(p, 0.1, weight_decay=0.5, trust_coefficient=0.01)),
    ("novograd", lambda o: o.novograd(0.1, weight_decay=0.5), lambda p: fastopt.NovoGrad(p, 0.1, weight_decay=0.5)),
    ("ademamix", lambda o: o.contrib.ademamix(0.1), lambda p: fastopt.AdEMAMix(p, 0.1)),
    ("schedule_free_sgd", lambda o: o.contrib.schedule_free_sgd(0.1), lambda p: fastopt.ScheduleFreeSGD(p, 0.1)),
    ("clip_by_global_norm", lambda o: o.chain(o.clip_by_global_norm(0.5), o.sgd(0.1)),
     lambda p: fastopt.SGD(p, 0.1, clip_norm=0.5)),
    ("clip", lambda o: o.chain(o.clip(0.5), o.sgd(0.1)), lambda p: fastopt.SGD(p, 0.1, clip_value=0.5)),
    ("decay before", lambda o: o.chain(o.add_decayed_weights(0.5), o.sgd(0.1, momentum=0.9)),
     lambda p: fastopt.SGD(p, 0.1, momentum=0.9, weight_decay=0.5)),
    ("decay after", lambda o: o.chain(o.trace(0.9), o.add_decayed_weights(0.5), o.scale_by_learning_rate(0.1)),
     lambda p: fastopt.SGD(p, 0.1, momentum=0.9, weight_decay=0.5, decoupled=True)),
]  # fmt: skip


@pytest.fixture
def optax():
    optax = pytest.importorskip("optax", reason="optax is not installed: `pip install optax` to compare with it")
    import jax

    jax.config.update("jax_enable_x64", True)
    yield optax
    jax.config.update("jax_enable_x64", False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("theirs", "mine"), [row[1:] for row in OPTAX], ids=[row[0] for row in OPTAX])
def test_optaxs_names_are_those_of_the_table(optax, theirs, mine):
    params = some("float64", 0)
    opt, transform = mine(params), theirs(optax)
    other = some("float64", 0)
    state = transform.init(other)
    for step in range(5):
        grads = some("float64", 1 + step)
        opt.step(grads)
        updates, state = transform.update(grads, state, other)
        other = optax.apply_updates(other, updates)
        assert_close(params, map(np.asarray, other), 12 * (step + 1))
