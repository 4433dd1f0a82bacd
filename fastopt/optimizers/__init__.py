"""The optimizers, a module a family, in order of increasing complexity: one line here for each.

Python imports a module when one of its classes is asked for. Type checkers, and what packs programs, read the imports.
"""

# ruff: noqa: E701, F403, I001

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..optimizer import Optimizer

#: every optimizer of arrays of any shape, by its name: what the command, the tests, the benchmarks and the pages go
#: through
OPTIMIZERS: dict[str, type[Optimizer]]

_MODULES: dict[str, str] = {}  # by class


def _now(module: str, classes: str) -> bool:
    """Take note of what is in a module, which is not to be imported now."""
    _MODULES.update(dict.fromkeys(classes.split(), module))
    return False


# fmt: off
if _now("sgd", "SGD NAG"): from .sgd import *
if _now("sign", "SignSGD Signum Lion"): from .sign import *
if _now("adagrad", "Adagrad Adadelta"): from .adagrad import *
if _now("rmsprop", "RMSprop"): from .rmsprop import *
if _now("adamax", "Adamax"): from .adamax import *
if _now("adam", "Adam AdamW"): from .adam import *
if _now("radam", "RAdam"): from .radam import *
if _now("quasi_hyperbolic", "QHM QHAdam"): from .quasi_hyperbolic import *
if _now("adabelief", "AdaBelief"): from .adabelief import *
if _now("laprop", "LaProp"): from .laprop import *
if _now("yogi", "Yogi"): from .yogi import *
if _now("grams", "Grams"): from .grams import *
if _now("ademamix", "AdEMAMix"): from .ademamix import *
if _now("nadam", "NAdam"): from .nadam import *
if _now("adabound", "AdaBound"): from .adabound import *
if _now("adopt", "ADOPT"): from .adopt import *
if _now("adan", "Adan"): from .adan import *
if _now("rprop", "Rprop"): from .rprop import *
if _now("asgd", "ASGD"): from .asgd import *
if _now("ftrl", "Ftrl"): from .ftrl import *
if _now("madgrad", "MADGRAD"): from .madgrad import *
if _now("schedule_free", "ScheduleFreeSGD ScheduleFreeAdamW"): from .schedule_free import *
if _now("layerwise", "LAMB LARS"): from .layerwise import *
if _now("stable_adamw", "StableAdamW"): from .stable_adamw import *
if _now("novograd", "NovoGrad"): from .novograd import *
if _now("prodigy", "Prodigy"): from .prodigy import *
if _now("adafactor", "Adafactor"): from .adafactor import *
if _now("muon", "Muon"): from .muon import *
# fmt: on

if not TYPE_CHECKING:
    __all__ = ["OPTIMIZERS", *_MODULES]

    def __dir__() -> list[str]:
        """Return the public names."""
        return sorted(__all__)

    def __getattr__(name: str) -> Any:
        """Import what is asked for."""
        if name == "OPTIMIZERS":
            classes = {one: globals().get(one) or __getattr__(one) for one in _MODULES}
            found: Any = {one: cls for one, cls in classes.items() if not cls.matrices_only}
        elif name in _MODULES:
            from importlib import import_module

            found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found
