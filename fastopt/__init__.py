"""fastopt: NumPy's missing optimizers, fused into one pass over memory.

>>> import fastopt, numpy as np
>>> w = np.zeros(3)
>>> opt = fastopt.Adam(w, lr=0.1)
>>> for _ in range(200):
...     _ = opt.step(2 * (w - [1.0, 2.0, 3.0]))
>>> w.round(2)
array([1., 2., 3.])
"""

__version__ = "0.2.0"

import typing

from . import optimizers
from .names import available, create
from .optimizer import Optimizer
from .rows import Rows
from .threads import (
    get_flush_denormals,
    get_num_threads,
    set_flush_denormals,
    set_num_threads,
    show_config,
    show_runtime,
)

if typing.TYPE_CHECKING:
    from . import checkpoint, convert, schedules
    from .optimizers import *  # noqa: F403
    from .split import Split

__all__ = [
    "Optimizer",
    "Rows",
    "Split",
    "__version__",
    "available",
    "checkpoint",
    "convert",
    "create",
    "get_flush_denormals",
    "get_num_threads",
    "schedules",
    "set_flush_denormals",
    "set_num_threads",
    "show_config",
    "show_runtime",
]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


if not typing.TYPE_CHECKING:
    __all__ += optimizers.__all__

    def __getattr__(name: str) -> object:
        """Import the optimizers and these when they are first asked for: they take longer than all the rest."""
        if name in optimizers.__all__:
            return globals().setdefault(name, getattr(optimizers, name))
        if name in ("checkpoint", "convert", "schedules"):
            from importlib import import_module

            return import_module(f"{__name__}.{name}")
        if name == "Split":
            from .split import Split

            return globals().setdefault(name, Split)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
