"""The optimizers, a module a family, in order of increasing complexity."""

from ..optimizer import Optimizer
from .adam import Adam, AdamW
from .rmsprop import RMSprop
from .sgd import NAG, SGD

__all__ = ["NAG", "OPTIMIZERS", "SGD", "Adam", "AdamW", "RMSprop"]

#: every optimizer by its name: what the command, the tests and the benchmarks go through
OPTIMIZERS: dict[str, type[Optimizer]] = {cls.__name__: cls for cls in (SGD, NAG, RMSprop, Adam, AdamW)}
