from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..optimizer import Optimizer
from .plan import Plan

class Changed(Exception): ...  # noqa: N818 - it is caught, and no error

class Exchange:
    by_address: bool
    def __init__(
        self,
        functions: Any,
        kind: type,
        negated: Callable[[Any], bool],
        viewed: Callable[[Any, tuple[int, ...]], npt.NDArray[Any]],
        lies: Callable[[Any], Any],
        changed: Callable[[list[Any]], object],
    ) -> None: ...

class Tensors:
    counts: npt.NDArray[np.float32]
    def __init__(
        self,
        plan: Plan,
        owner: Optimizer,
        exchange: Exchange,
        groups: list[dict[str, Any]],
        tensors: list[list[Any]],
        leaves: list[int],
        axes: list[tuple[int, ...]],
    ) -> None: ...
    def known(self, state: dict[Any, Any], record: list[tuple[Any, Any, tuple[str, ...], tuple[Any, ...]]]) -> None: ...
    def check_all(self, attributes: dict[str, Any]) -> None: ...
    def step(self, attributes: dict[str, Any]) -> bool: ...
    def look_at_count(self, leaf: int) -> None: ...

def carry(old: Plan, new: Plan, origins: list[int]) -> None: ...
