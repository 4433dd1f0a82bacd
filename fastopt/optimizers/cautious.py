"""The option of moving only where update and gradient agree in sign."""

from __future__ import annotations

from collections.abc import Mapping

from ..optimizer import Optimizer

__all__: list[str] = []


class Cautious(Optimizer):
    """Base of optimizers with ``cautious=True``; no optimizer itself.

    Elements of the update whose sign is not the gradient's are set to 0, and the others multiplied by the reciprocal of
    their share in the parameter, or by 1000 at most. An element whose update or gradient is NaN is not masked.
    """

    @staticmethod
    def finish(rule: str, sums: Mapping[str, float], n: int, c: Mapping[str, float]) -> Mapping[str, float]:
        """What the rest of the update is multiplied by."""
        share = max(sums["agreed"] / n, 1e-3)
        return {"boost": 1.0 / share} if rule == "cautious_nadam" else {"boosted": c["alpha"] / share}
