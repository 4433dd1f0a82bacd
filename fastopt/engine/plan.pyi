from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ..optimizer import Optimizer
from ..tree import Tree
from .coefficients import Terms
from .lock import Lock

class Plan:
    arrays: list[npt.NDArray[Any]]
    names: list[str]
    gradient_names: list[str]
    states: list[dict[str, npt.NDArray[Any]]]
    slots: tuple[str, ...]
    terms: list[Terms]
    largest: float
    smallest: float
    counts: list[int]
    away: str | None
    steps: int
    skipped: int
    streak: int
    def __init__(
        self, tree: Tree, zero_gradients: bool, slots: tuple[str, ...], lock: Lock, screened: bool
    ) -> None: ...
    def step(self, owner: Optimizer, grads: Any, loss_scale: float | None, by_reference: bool) -> bool: ...
    def settle(self, owner: Optimizer) -> None: ...
    def check_parameters(self) -> None: ...
    def allocate(self, group: int, slots: tuple[str, ...]) -> None: ...
    def apply(self, rule: str, scalars: Sequence[tuple[float, ...]]) -> None: ...
    def gradient(self, leaf: int) -> Any: ...
    def coefficients(self, leaf: int) -> tuple[float, float, dict[str, float]]: ...
    def sum_squares(self, scale: float) -> float: ...
    def find_nonfinite(self) -> tuple[int, tuple[int, ...]] | None: ...
