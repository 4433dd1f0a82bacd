from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy.typing as npt

from ..snapshots import Snapshots
from .plan import Plan

class LookAhead(AbstractContextManager[None]):
    def __init__(
        self,
        plan: Plan,
        owner: Snapshots,
        there: str,
        back: str,
        scalars: Callable[[dict[str, Any]], tuple[float, ...]],
    ) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...

class Averaged(AbstractContextManager[None]):
    def __init__(self, plan: Plan, owner: Snapshots, averages: Callable[[], list[npt.NDArray[Any] | None]]) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
