"""The optimizers, a module a family, in order of increasing complexity: one line here for each."""

# ruff: noqa: F403, I001 - all that a module names public, and in this order

from ..optimizer import Optimizer
from .sgd import *
from .sign import *
from .adagrad import *
from .rmsprop import *
from .adamax import *
from .adam import *
from .radam import *
from .quasi_hyperbolic import *
from .adabelief import *
from .laprop import *
from .yogi import *
from .grams import *
from .ademamix import *
from .nadam import *
from .adabound import *
from .adopt import *
from .adan import *
from .rprop import *
from .asgd import *
from .ftrl import *
from .madgrad import *
from .schedule_free import *
from .layerwise import *
from .stable_adamw import *
from .novograd import *

#: every optimizer by its name: what the package, the command, the tests, the benchmarks and the pages go through
OPTIMIZERS: dict[str, type[Optimizer]] = {
    name: value for name, value in globals().items() if isinstance(value, type) and Optimizer in value.__mro__[1:]
}
