from typing import Any

import numpy.typing as npt

def empty_like(a: npt.NDArray[Any]) -> npt.NDArray[Any]: ...

AVERAGE: str
