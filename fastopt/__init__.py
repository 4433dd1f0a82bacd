"""fastopt: NumPy's missing optimizers, fused into one pass over memory.

>>> import fastopt, numpy as np
>>> w = np.zeros(3)
>>> opt = fastopt.Adam(w, lr=0.1)
>>> for _ in range(200):
...     _ = opt.step(2 * (w - [1.0, 2.0, 3.0]))
>>> w.round(2)
array([1., 2., 3.])
"""

__version__ = "0.1.0"

import typing

from .names import available, create
from .optimizer import Optimizer
from .optimizers import OPTIMIZERS
from .threads import (
    get_flush_denormals,
    get_num_threads,
    set_flush_denormals,
    set_num_threads,
    show_config,
    show_runtime,
)

if typing.TYPE_CHECKING:
    from . import checkpoint, schedules
    from .optimizers import *  # noqa: F403

globals().update(OPTIMIZERS)

__all__ = [
    "OPTIMIZERS",
    "Optimizer",
    "__version__",
    "available",
    "checkpoint",
    "create",
    "get_flush_denormals",
    "get_num_threads",
    "schedules",
    "set_flush_denormals",
    "set_num_threads",
    "show_config",
    "show_runtime",
    *OPTIMIZERS,
]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


def __getattr__(name: str) -> object:
    """Import these when they are first asked for: what they need takes longer than all the rest."""
    if name in ("checkpoint", "schedules"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
