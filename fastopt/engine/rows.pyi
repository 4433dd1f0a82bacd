from typing import Any, Literal

class Rows:
    indices: Any
    values: Any
    counts: Literal["row", "table"]
    def __init__(self, indices: Any, values: Any, *, counts: Literal["row", "table"] = "row") -> None: ...
