from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..snapshots import Snapshots
from ..tree import Tree
from .coefficients import Terms
from .lock import Lock
from .rows import Table

Array = npt.NDArray[Any]

class Plan:
    arrays: list[Array]
    names: list[str]
    gradient_names: list[str]
    states: list[dict[str, Array]]
    slots: tuple[str, ...]
    number_names: tuple[str, ...]
    group_number_names: tuple[str, ...]
    numbers: Array
    group_numbers: Array
    terms: list[Terms]
    tree: Tree
    largest: float
    smallest: float
    specs: list[tuple[np.dtype[Any], tuple[int, ...]]]
    counts: list[int]
    fresh: list[bool]
    away: str | None
    remedy: str
    steps: int
    skipped: int
    has_rows: bool
    row_counts: list[Array | None]
    tables: list[Table | None]
    scale: float
    back_to_back: bool
    def __init__(
        self,
        tree: Tree,
        slots: tuple[str, ...],
        numbers: dict[str, float],
        group_numbers: dict[str, float],
        classes: list[type[Any]],
        lock: Lock,
        looks_ahead: bool,
        shared: list[int] | None = None,
    ) -> None: ...
    def configure(
        self,
        zero_gradients: bool,
        screened: bool,
        clip_value: float,
        average: float,
        decays: list[bool],
        memory: Callable[[str, str, Array], Array] | None,
    ) -> None: ...
    def step(self, owner: Snapshots, grads: Any, loss_scale: float | None, by_reference: bool) -> bool: ...
    def unsettle(self) -> None: ...
    def settle(self, owner: Snapshots) -> None: ...
    def check_parameters(self) -> None: ...
    def check_ready(self, but: str = "") -> None: ...
    def tear(self) -> None: ...
    def mend(self) -> None: ...
    def taken(self, grads: Any) -> list[Any]: ...
    def gradient(self, leaf: int) -> Any: ...
    def coefficients(self, leaf: int, coef: int = -1) -> tuple[str, float, float, dict[str, float]]: ...
    def folded(self) -> bytes: ...
    def updated(self, leaf: int) -> bool: ...
    def sum_squares(self, scale: float) -> float: ...
    def chunk_squares(self, scale: float) -> Array: ...
    def squares(self, scale: float) -> list[float]: ...
    def multiply(self, factors: list[float]) -> None: ...
    def find_nonfinite(self) -> tuple[int, tuple[int, ...], float] | None: ...
    def rows(self, leaf: int) -> list[tuple[Array, int, bool, Array]] | None: ...
