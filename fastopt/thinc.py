"""Optimizers for thinc and spaCy, registered as ``fastopt.Adam.v1`` and so on: importing this module registers them.

They are thinc's own class with another update. Its schedules, L2 and averages are thinc's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from thinc.backends import get_array_ops
from thinc.config import registry
from thinc.optimizers import Optimizer as Thinc

from .names import find
from .optimizers import OPTIMIZERS

__all__ = ["Optimizer"]


class Optimizer(Thinc):  # type: ignore[misc]
    """An optimizer of thinc's whose updates one of fastopt's computes for each parameter.

    Parameters
    ----------
    name : str
        The optimizer, as in `fastopt.available`.
    learn_rate : float or sequence
        Learning rate, or a schedule as thinc has them.
    L2 : float or sequence
        L2 penalty.
    L2_is_weight_decay : bool
        Whether it is decay of the weights after the update instead of a part of the gradient.
    grad_clip : float or sequence
        Each parameter's gradient whose norm is above this is scaled down to it; 0 for no clipping.
    use_averages : bool
        Whether thinc's averages of the parameters are kept.
    **options
        Further arguments of the optimizer.

    Raises
    ------
    TypeError, ValueError
        If there is no such optimizer, it refuses its options, or it computes gradients or results at points that thinc
        does not know.
    """

    __slots__ = ("_cls", "_options", "_steppers")

    def __init__(
        self,
        name: str,
        learn_rate: Any,
        *,
        L2: Any = 0.0,  # noqa: N803 - thinc's name
        L2_is_weight_decay: bool = True,  # noqa: N803
        grad_clip: Any = 1.0,
        use_averages: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            learn_rate,
            L2=L2,
            L2_is_weight_decay=L2_is_weight_decay,
            grad_clip=grad_clip,
            use_averages=use_averages,
        )
        cls = find(name)
        if cls.looks_ahead or cls._has_average() or cls.same_in_groups:
            raise ValueError(
                f"{cls.__name__} looks ahead, keeps averages of its own, or looks at all parameters at once: thinc "
                "shows one at a time, and knows no other weights"
            )
        for taken in ("lr", "clip_norm", "clip_tensor_norm", "clip_value", "ema_decay", "zero_grads"):
            if taken in options:
                raise ValueError(
                    f"{cls.__name__} has {taken}={options[taken]!r}: thinc has arguments of its own for that"
                )
        cls(np.zeros(1), lr=1.0, **options)  # to refuse what is wrong now
        self._cls, self._options = cls, options
        self._steppers: dict[Any, Any] = {}  # an optimizer for each key, and what it was last told

    def __call__(self, key: Any, weights: Any, gradient: Any, *, lr_scale: float = 1.0) -> tuple[Any, Any]:
        """Update the weights in place and zero the gradient."""
        if len(gradient) < 1:
            return weights, gradient
        self.nr_update[key] += 1
        if self.L2 != 0 and not self.L2_is_weight_decay:
            gradient += self.L2 * weights
        lr, clip = float(lr_scale * self.learn_rate), float(self.grad_clip) or None
        if key not in self._steppers:
            opt = self._cls(weights, lr=lr, clip_norm=clip, zero_grads=True, **self._options)
        else:
            opt, before, lr_before, clip_before = self._steppers[key]
            if before is not weights:  # which were replaced, or loaded
                opt.bind(weights)
            if lr != lr_before:
                opt.lr = lr
            if clip != clip_before:
                opt.clip_norm = clip
        self._steppers[key] = opt, weights, lr, clip
        opt.step(gradient)
        if self.L2 != 0 and self.L2_is_weight_decay:
            weights -= lr_scale * self.learn_rate * self.L2 * weights
        if self.averages is not None:
            ops = get_array_ops(weights)
            if key not in self.averages:
                self.averages[key] = ops.alloc(weights.shape, dtype="float32")
            ops.update_averages(self.averages[key], weights, self.nr_update[key])
        return weights, gradient


def _maker(name: str) -> Callable[..., Optimizer]:
    """Return what makes an optimizer from a configuration, which may have these arguments."""

    def make(
        learn_rate: Any,
        *,
        L2: Any = 0.0,  # noqa: N803
        L2_is_weight_decay: bool = True,  # noqa: N803
        grad_clip: Any = 1.0,
        use_averages: bool = True,
        options: dict[str, Any] | None = None,
    ) -> Optimizer:
        return Optimizer(
            name,
            learn_rate,
            L2=L2,
            L2_is_weight_decay=L2_is_weight_decay,
            grad_clip=grad_clip,
            use_averages=use_averages,
            **options or {},
        )

    return make


def _adam(
    learn_rate: Any = 0.001,
    *,
    L2: Any = 0.0,  # noqa: N803
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    grad_clip: Any = 1.0,
    L2_is_weight_decay: bool = True,  # noqa: N803
    use_averages: bool = True,
) -> Optimizer:
    """Take the arguments, and the steps, of thinc's ``Adam.v1``."""
    return Optimizer(
        "adam",
        learn_rate,
        L2=L2,
        L2_is_weight_decay=L2_is_weight_decay,
        grad_clip=grad_clip,
        use_averages=use_averages,
        betas=(beta1, beta2),
        eps=eps,
        eps_hat=True,
    )


for _name, _cls in OPTIMIZERS.items():
    registry.optimizers(f"fastopt.{_name}.v1")(_adam if _name == "Adam" else _maker(_name))
