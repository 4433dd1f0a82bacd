from collections.abc import Callable
from typing import Any

from ..optimizer import Optimizer
from .plan import Plan

class Parts:
    def __init__(self, plan: Plan, owner: Optimizer, norm: float | None, loss_scale: float | None) -> None: ...
    def __enter__(self) -> Callable[[Any, Any], bool]: ...
    def __exit__(self, *error: object) -> None: ...
