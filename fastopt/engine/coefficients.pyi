from collections.abc import Callable, Set
from typing import Any

from ..optimizer import Scalars

class Terms:
    values: dict[str, Any]
    now: dict[str, Any]
    rule: str
    kind: str
    def __init__(
        self,
        live: dict[str, Any],
        source: list[Any],
        values: dict[str, Any],
        rule: str,
        kind: str,
        scalars: Callable[..., tuple[Scalars, Scalars]],
        wants: Set[str],
        moving: dict[str, Callable[[int], Any]],
        check: Callable[[dict[str, Any]], None] | None,
        ahead: bool,
        plain: bool,
        in_numpy: bool,
    ) -> None: ...
