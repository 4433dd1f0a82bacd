from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ..optimizer import Optimizer
from .plan import Plan

class LookAhead(AbstractContextManager[None]):
    def __init__(
        self,
        plan: Plan,
        owner: Optimizer,
        there: str,
        back: str,
        scalars: Callable[[dict[str, Any]], tuple[float, ...]],
    ) -> None: ...
