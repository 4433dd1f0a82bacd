from collections.abc import Callable
from typing import Any

from ..optimizer import Scalars, Steps

class Terms:
    values: dict[str, Any]
    rule: str
    kind: str
    def __init__(
        self,
        live: dict[str, Any],
        values: dict[str, Any],
        rule: str,
        kind: str,
        scalars: Callable[[dict[str, Any], Steps], tuple[Scalars, Scalars]],
        ahead: bool,
    ) -> None: ...
