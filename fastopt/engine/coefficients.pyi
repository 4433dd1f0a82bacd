from collections.abc import Callable
from typing import Any

from ..optimizer import Scalars

class Terms:
    values: dict[str, Any]
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
        wants_fresh: bool,
        ahead: bool,
        plain: bool,
    ) -> None: ...
