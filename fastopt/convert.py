"""Optimizers of torch and Keras made into fastopt's, and back to torch: hyper-parameters, and torch's state.

What has no exact counterpart is refused, by its name. Neither library is imported unless it is asked for.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import optimizers as ours
from . import schedules
from .hyper import is_schedule
from .optimizer import Optimizer
from .snapshots import ROW_STEPS

__all__ = ["from_keras", "from_torch", "to_torch"]

# ---- torch ----

_TORCH = (  # whose names, of hyper-parameters and of state, are ours
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD", "Adafactor",
    "Muon",
)  # fmt: skip
_NO_COUNT = ("SGD", "Muon")  # torch keeps none of their updates
_OTHER_NAME = {"decoupled": "decoupled_weight_decay"}  # ours: torch's
_NO_ARITHMETIC = {  # keys of a group that steps do not look at: how to compute, and what schedulers keep there
    "params", "param_names", "foreach", "fused", "initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum",
    "max_momentum",
}  # fmt: skip
_MUST_BE_OFF = ("capturable", "differentiable")


def _torch_class(optimizer: Any) -> type[Optimizer]:
    """Return our class for an optimizer of torch, or raise."""
    import torch

    for name in _TORCH:
        if type(optimizer) is getattr(torch.optim, name, None):  # some came late
            return getattr(ours, name)  # type: ignore[no-any-return]
    kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    raise TypeError(f"the optimizer is a {kind}: wanted one of torch.optim's {', '.join(_TORCH)}")


def _number(value: Any) -> Any:
    """A number that torch may keep as a tensor."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_number, value))
    return value.item() if hasattr(value, "item") else value


def _torch_parameter(name: str, p: Any) -> Any:
    """Return the view of a torch parameter."""
    kind = str(p.dtype)
    if p.device.type != "cpu" or kind not in ("torch.float32", "torch.float64") or str(p.layout) != "torch.strided":
        raise TypeError(f"{name} is {kind}, {p.layout}, on {p.device}: wanted torch.float32 or float64 on the CPU")
    return p.detach().numpy()


def _values_of_torch(
    cls: type[Optimizer], index: int, group: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return our hyper-parameters for a group of torch's, those that are arguments."""
    values = {}
    known = {_OTHER_NAME.get(name, name): name for name in cls.hyper_parameters}
    for key, value in group.items():
        where = f"param_groups[{index}][{key!r}]"
        if key in known and key in defaults:  # else torch does not look at it
            one = cls.hyper_parameters[known[key]]
            checked = one.check(where, _number(value))
            if one.init:
                values[known[key]] = checked
        elif key in _MUST_BE_OFF:
            if value:
                raise ValueError(f"{where} is {value!r}: wanted False")
        elif key not in _NO_ARITHMETIC:
            raise ValueError(f"{where} is {value!r}: fastopt.{cls.__name__} has nothing for it")
    return values


def _state_of_torch(cls: type[Optimizer], name: str, entry: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return how many updates a parameter has had, and its arrays and numbers."""
    found = {key: value for key, value in entry.items() if key != "step" and value is not None}
    count = int(_number(entry.get("step", bool(found))))
    if count == 0:
        return 0, {}  # what there is, is what state starts at
    for key in found:
        if key not in {*cls.slots.values(), *cls.numbers}:
            raise ValueError(f"the state of {name} has {key!r}: fastopt.{cls.__name__} has nothing for it")
    return count, {key: _number(x) if key in cls.numbers else x.detach().numpy() for key, x in found.items()}


def from_torch(optimizer: Any) -> Optimizer:
    """Make the optimizer that goes on from where one of torch's is, over the same memory.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        An `SGD`, `Adam`, `AdamW`, `NAdam`, `RAdam`, `Adamax`, `Adagrad`, `Adadelta`, `RMSprop`, `Rprop`, `ASGD`,
        `Adafactor` or `Muon` whose parameters are float32 or float64, on the CPU.

    Returns
    -------
    Optimizer
        One with the same hyper-parameters and a copy of the state. Its parameters are NumPy views of torch's, so that
        torch sees its steps: a list of them, or groups where torch has several.

    Raises
    ------
    TypeError, ValueError
        If it is another optimizer, or has something that fastopt has not.
    """
    cls = _torch_class(optimizer)
    groups: list[dict[str, Any]] = []
    for index, group in enumerate(optimizer.param_groups):
        views = [
            _torch_parameter(f"param_groups[{index}]['params'][{place}]", p) for place, p in enumerate(group["params"])
        ]
        groups.append({"params": views, **_values_of_torch(cls, index, group, optimizer.defaults)})
    opt = cls(groups) if len(groups) > 1 else cls(**groups[0])
    entries = [optimizer.state.get(p) or {} for group in optimizer.param_groups for p in group["params"]]
    snapshot = opt.state_dict()
    for (name, own), entry in zip(snapshot["state"].items(), entries, strict=True):
        count, found = _state_of_torch(cls, name, entry)
        numbers = snapshot["numbers"][name] if cls.numbers else {}
        if count:
            for key in (own.keys() - {"step"}) | numbers.keys():
                if key not in found:
                    raise ValueError(f"the state of {name} lacks {key!r}")
            numbers.update({key: found.pop(key) for key in numbers})
            own.update(found)
        own["step"] = count
    snapshot["steps"] = max((own["step"] for own in snapshot["state"].values()), default=0)
    opt.load_state_dict(snapshot)
    return opt


def to_torch(opt: Optimizer, optimizer: Any) -> None:
    """Let one of torch's optimizers go on from where an optimizer is.

    Parameters
    ----------
    opt : Optimizer
        One whose class torch has too, with nothing that torch has not.
    optimizer : torch.optim.Optimizer
        One of that class, over as many groups of parameters of the same shapes, in the same order. It gets the
        hyper-parameters, and a copy of the state. The parameters themselves are left as they are: where they do not
        share their memory, as after `from_torch`, copy them as well.

    Raises
    ------
    TypeError, ValueError
        If the two do not fit, or `opt` has something that torch has not. Nothing has been changed then.
    """
    import torch

    cls = type(opt)
    if _torch_class(optimizer) is not cls:
        raise TypeError(f"the optimizer is torch's {type(optimizer).__name__}: wanted {cls.__name__}, as opt is")
    for name, value in opt._options.items():
        if value != getattr(Optimizer, name).default:
            raise ValueError(f"opt has {name}={value!r}: torch's {cls.__name__} has no such option")
    snapshot, plan = opt.state_dict(), opt._ready()
    target = optimizer.state_dict()
    if len(opt.param_groups) != len(target["param_groups"]):
        raise ValueError(f"opt has {len(opt.param_groups)} groups, torch's has {len(target['param_groups'])}")
    for index, group in enumerate(target["param_groups"]):
        group.update(_values_for_torch(cls, index, opt.param_groups[index], group))
    leaves = [(group, p) for group, one in enumerate(optimizer.param_groups) for p in one["params"]]
    mine = [(group, array.shape, str(array.dtype)) for group, array in zip(plan.tree.groups, plan.arrays, strict=True)]
    wanted = [(group, tuple(p.shape), str(p.dtype).removeprefix("torch.")) for group, p in leaves]
    for name, one, other in zip(plan.names, mine, wanted, strict=False):
        if one != other:
            raise ValueError(f"{name} is {one[2]} {one[1]} in group {one[0]}: torch has {other[2]} {other[1]} there")
    if len(mine) != len(wanted):
        raise ValueError(f"opt has {len(mine)} parameters, torch's has {len(wanted)}")

    def number(value: float) -> Any:  # as torch keeps its own
        return torch.tensor(value, dtype=torch.promote_types(torch.float32, torch.get_default_dtype()))

    target["state"] = {}
    fresh = {name for name, new in zip(plan.names, plan.fresh, strict=True) if new}
    for leaf, (name, own) in enumerate(snapshot["state"].items()):
        count, rows = own.pop("step"), own.pop(ROW_STEPS, None)
        if rows is not None and own and (rows != count).any():
            raise ValueError(
                f"{name} has had Rows, and its rows have had other numbers of updates than it has ({count}): torch's "
                f"{cls.__name__} has one count for all"
            )
        if cls is ours.Adagrad and not count:  # which torch makes at once
            start = opt.param_groups[plan.tree.groups[leaf]]["initial_accumulator_value"]
            own["sum"] = np.full_like(own["sum"], start)
        elif not count or (cls is ours.SGD and name in fresh):
            continue
        entry = {key: torch.from_numpy(array) for key, array in own.items()}
        if cls.__name__ not in _NO_COUNT:
            entry["step"] = number(float(count))
        if cls.numbers:
            entry |= {key: number(value) for key, value in snapshot["numbers"][name].items()}
        target["state"][leaf] = entry
    optimizer.load_state_dict(target)


def _values_for_torch(
    cls: type[Optimizer], index: int, mine: Mapping[str, Any], group: Mapping[str, Any]
) -> dict[str, Any]:
    """Return torch's hyper-parameters for a group of ours."""
    values = {}
    for name, one in cls.hyper_parameters.items():
        value, key = mine[name], _OTHER_NAME.get(name, name)
        if is_schedule(value):
            raise ValueError(f"param_groups[{index}][{name!r}] is a schedule: torch has its own; set a number first")
        if key in group:
            values[key] = value
        elif value != one.default and not (name == "decoupled" and mine["weight_decay"] == 0):
            raise ValueError(f"param_groups[{index}] has {name}={value!r}: torch's {cls.__name__} has no such option")
    return values


# ---- Keras ----

_CLIPPING = {"clipnorm": "clip_tensor_norm", "global_clipnorm": "clip_norm", "clipvalue": "clip_value"}
_OFF = {*_CLIPPING, "weight_decay", "use_ema", "loss_scale_factor", "gradient_accumulation_steps"}
_UNUSED = ("name", "ema_momentum", "ema_overwrite_frequency")  # or told by use_ema
_ADAM = {"beta_1": "beta_1", "beta_2": "beta_2", "epsilon": "eps"}  # the first two become `betas`


class _Counterpart(NamedTuple):
    """What stands here for one of Keras's classes."""

    cls: type[Optimizer]
    names: Mapping[str, str]  # its own keys, and ours; nothing where only one value will do
    always: Mapping[str, Any] = {}  # what Keras does and we do not by default
    only: Mapping[str, Any] = {}  # values without which no option of ours does what Keras does
    decays: bool = True


_KERAS = {
    "SGD": _Counterpart(ours.SGD, {"momentum": "momentum", "nesterov": "nesterov"}, {"lr_in_momentum": True}),
    "RMSprop": _Counterpart(
        ours.RMSprop,
        {"rho": "alpha", "momentum": "momentum", "epsilon": "eps", "centered": "centered"},
        {"eps_inside_sqrt": True},
    ),
    "Adam": _Counterpart(ours.Adam, _ADAM | {"amsgrad": "amsgrad"}, {"eps_hat": True}),
    "AdamW": _Counterpart(ours.AdamW, _ADAM | {"amsgrad": "amsgrad"}, {"eps_hat": True}),
    "Nadam": _Counterpart(ours.NAdam, _ADAM, {"momentum_decay": 1.0}),
    "Adadelta": _Counterpart(ours.Adadelta, {"rho": "rho", "epsilon": "eps"}),
    "Adagrad": _Counterpart(  # Keras has epsilon inside the root
        ours.Adagrad,
        {"initial_accumulator_value": "initial_accumulator_value", "epsilon": "eps"},
        only={"epsilon": 0},
    ),
    "Adamax": _Counterpart(ours.Adamax, _ADAM, only={"epsilon": 0}),  # Keras adds it after the maximum
    "Lamb": _Counterpart(ours.LAMB, _ADAM, decays=False),  # Keras's is outside of the norm
    "Lion": _Counterpart(ours.Lion, {"beta_1": "beta_1", "beta_2": "beta_2"}),
    "Ftrl": _Counterpart(
        ours.Ftrl,
        {
            "learning_rate_power": "",
            "initial_accumulator_value": "initial_accumulator_value",
            "l1_regularization_strength": "l1",
            "l2_regularization_strength": "l2",
            "l2_shrinkage_regularization_strength": "l2_shrinkage",
            "beta": "beta",
        },
        only={"learning_rate_power": -0.5},
        decays=False,
    ),
    "ScheduleFreeAdamW": _Counterpart(
        ours.ScheduleFreeAdamW,
        _ADAM | {"warmup_steps": "warmup_steps"},
        {"weight_lr_power": 0.0},
        decays=False,  # Keras's acts on another point than ours
    ),
}
_LOOSE = {name.lower(): name for name in _KERAS}


def from_keras(config: Mapping[str, Any]) -> partial[Optimizer]:
    """Return what makes the counterpart of one of Keras's optimizers over your parameters.

    Parameters
    ----------
    config : dict
        What ``optimizer.get_config()`` or ``keras.optimizers.serialize(optimizer)`` returns.

    Returns
    -------
    functools.partial
        The class with its hyper-parameters: call it with the parameters.

    Raises
    ------
    TypeError, ValueError
        If there is no counterpart that takes the same steps.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.convert import from_keras
    >>> config = {"name": "sgd_2", "learning_rate": 0.5, "momentum": 0.9, "nesterov": False, "clipvalue": 1.0}
    >>> opt = from_keras(config)(np.zeros(3))
    >>> type(opt).__name__, opt.momentum, opt.lr_in_momentum, opt.clip_value
    ('SGD', 0.9, True, 1.0)
    """
    if not isinstance(config, Mapping):
        raise TypeError(
            f"config is {type(config).__name__}: wanted the dict of optimizer.get_config() or "
            "keras.optimizers.serialize(optimizer)"
        )
    name, config = _keras_class(config)
    counterpart = _KERAS[name]
    cls: Any = counterpart.cls
    for key in ("learning_rate", *counterpart.names):
        if key not in config:
            raise ValueError(f"config lacks {key!r}, which Keras's {name} has")
    arguments = inspect.signature(cls).parameters
    values: dict[str, Any] = {"weight_decay": 0.0} if "weight_decay" in arguments else {}
    for key, value in config.items():
        if key in counterpart.names:
            values |= _keras_own(counterpart, key, value)
        elif key == "learning_rate":
            values["lr"] = _keras_schedule(value) if isinstance(value, Mapping) else value
        elif key == "weight_decay" and value and counterpart.decays:
            values["weight_decay"] = value
            if "decoupled" in arguments:
                values["decoupled"] = True
        elif key in _CLIPPING and value is not None:
            values[_CLIPPING[key]] = value
        elif key == "use_ema" and value and not config.get("ema_overwrite_frequency") and not cls._has_average():
            values["ema_decay"] = config["ema_momentum"]
        elif key not in _UNUSED and not (key in _OFF and not value):
            raise ValueError(f"{key} is {value!r}: fastopt.{cls.__name__} has no counterpart of it")
    if "beta_1" in config:
        values["betas"] = values.pop("beta_1"), values.pop("beta_2")
    if cls is ours.SGD and not values["momentum"]:
        values["nesterov"] = False  # as Keras takes it then
    if cls is ours.RMSprop and values["momentum"] and callable(values["lr"]):
        raise ValueError(
            "learning_rate is a schedule beside momentum: in Keras's RMSprop the momentum keeps the rates of the steps "
            "that it comes from, in fastopt's it has the latest"
        )
    return partial(cls, **values, **counterpart.always)


def _keras_own(counterpart: _Counterpart, key: str, value: Any) -> dict[str, Any]:
    """Return what one of a class's own keys is here."""
    only = counterpart.only.get(key, value)
    if value != only:
        raise ValueError(
            f"{key} is {value!r}: fastopt.{counterpart.cls.__name__} takes Keras's steps only with {only!r}"
        )
    target = counterpart.names[key]
    return {target: value} if target else {}


def _keras_class(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the name of Keras's class, and its configuration."""
    if "class_name" in config:
        name = found = config["class_name"]
        if config.get("registered_name") not in (None, name):
            raise ValueError(f"config is of {config['registered_name']!r}, a class that is not Keras's")
        config = config["config"]
        known = name in _KERAS
    else:
        name = config.get("name")  # "adam_w", "adam_10", …
        found = _LOOSE.get(re.sub(r"_\d+$", "", str(name)).replace("_", ""))
        known = found is not None
    if not known:
        raise ValueError(
            f"there is no counterpart of Keras's {name!r}: there are ones of {', '.join(_KERAS)}; if it is one of them "
            "under another name, pass keras.optimizers.serialize(optimizer)"
        )
    return str(found), config


def _keras_schedule(config: Mapping[str, Any]) -> Callable[[int], float]:
    """Return the counterpart of a schedule, as `serialize` describes it."""
    name, c = config.get("class_name"), config.get("config", {})
    if name == "ExponentialDecay":
        made: Any = schedules.ExponentialDecay(
            c["initial_learning_rate"], c["decay_rate"], c["decay_steps"], c["staircase"]
        )
    elif name == "InverseTimeDecay":
        made = schedules.InverseTime(c["initial_learning_rate"], c["decay_rate"], c["decay_steps"], c["staircase"])
    elif name == "PiecewiseConstantDecay":  # which changes after a boundary
        made = schedules.Piecewise(c["values"], [boundary + 1 for boundary in c["boundaries"]])
    elif name == "PolynomialDecay" and not c["cycle"]:
        made = schedules.PolynomialDecay(
            c["initial_learning_rate"], c["decay_steps"], c["end_learning_rate"], c["power"]
        )
    elif name == "CosineDecay":
        start, top = c["initial_learning_rate"], c["warmup_target"]
        if top is None:
            made = schedules.CosineDecay(start, c["decay_steps"], c["alpha"] * start)
        else:
            made = schedules.CosineDecay(top, c["decay_steps"], c["alpha"] * top)
            made = schedules.Warmup(c["warmup_steps"], made, start / top)
    elif name == "CosineDecayRestarts" and c["m_mul"] == 1 and c["t_mul"] == int(c["t_mul"]):
        start = c["initial_learning_rate"]
        made = schedules.CosineRestarts(start, c["first_decay_steps"], int(c["t_mul"]), c["alpha"] * start)
    else:
        raise ValueError(f"learning_rate is a {name} of {c}: fastopt.schedules has no counterpart")
    return made  # type: ignore[no-any-return]
