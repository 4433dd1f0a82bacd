from typing import Any, Literal

import numpy as np
import numpy.typing as npt

class Rows:
    indices: Any
    values: Any
    counts: Literal["row", "table"]
    def __init__(self, indices: Any, values: Any, *, counts: Literal["row", "table"] = "row") -> None: ...

class Table:
    counts: npt.NDArray[np.int64]
