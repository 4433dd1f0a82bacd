from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from .plan import Plan

Array = npt.NDArray[Any]

def restore(
    plan: Plan,
    slots: Sequence[tuple[str, ...]],
    params: Sequence[Array] | None,
    states: Sequence[Mapping[str, Array]],
    counts: Sequence[int],
    row_counts: Sequence[Array | None],
    fresh: Sequence[bool],
    steps: int,
    skipped: int,
    numbers: tuple[Array, Array],
    items: Sequence[tuple[dict[str, Any], str, Any]],
    torn: bool,
) -> None: ...
