"""NovoGrad: momentum over gradients of norm 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["NovoGrad"]


class NovoGrad(Optimizer):
    """NovoGrad: momentum over gradients in units of their norm, which is smoothed.

    For each parameter::

        v ← β₂·v + (1 − β₂)·‖g‖²    (v ← ‖g‖² in the first step)
        m ← β₁·m + g / (√v + ε) + λ·w
        w ← w − α·m

    The norm is of a whole parameter, and v is one number of each, ``exp_avg_sq`` in the state.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    betas : (float, float)
        β₁ and β₂, in [0, 1).
    eps : float
        ε ≥ 0.
    grad_averaging : bool
        Whether what is added to m is multiplied by 1 − β₁.
    weight_decay : float
        λ ≥ 0.
    maximize : bool
        Whether to ascend.
    nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask, state_memory
        Options of all optimizers, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place, or a hyper-parameter is out of range.

    Notes
    -----
    Reads gradients once more. The sum over a parameter depends on how it is split into arrays, and on their memory
    order.

    References
    ----------
    Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep networks", 2019,
    algorithm 1, where betas are (0.95, 0.98). optax's `novograd`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([3.0, 4.0])
    >>> opt = fastopt.NovoGrad(w, lr=0.5, eps=0.0)
    >>> opt.step(np.array([0.0, 20.0]))
    True
    >>> w
    array([3. , 3.5])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg"}
    numbers: ClassVar[Mapping[str, float]] = {"exp_avg_sq": 0.0}
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.25))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-6)
    grad_averaging: Hyper[bool] = Hyper(hyper.flag, default=False)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=False, init=False)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "novograd"

    @classmethod
    def kind(cls, h: Values) -> str:
        """The decay is beside the scaled gradient."""
        return "none"

    @classmethod
    def scalars(
        cls, h: Values, t: Steps, numbers: Mapping[str, Any], sums: Mapping[str, Any] | None
    ) -> tuple[Scalars, Scalars, dict[str, Any]]:
        """The first step has no moment before."""
        beta1, beta2 = h["betas"]
        v = numbers["exp_avg_sq"]
        if sums is not None:
            v = np.where(t == 1, sums["gg"], beta2 * v + (1.0 - beta2) * sums["gg"])
        others: Scalars = {
            "beta1": beta1,
            "tau": 1.0 - beta1 if h["grad_averaging"] else 1.0,
            "norm": np.sqrt(v) + h["eps"],
            "decay_inside": h["weight_decay"],
        }
        return {"alpha": 1.0}, others, {"exp_avg_sq": v}

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of novograd."""
        m = s["m"]
        m[...] = c["beta1"] * m + c["tau"] * (g / c["norm"] + c["decay_inside"] * p)
        return c["alpha"] * m  # type: ignore[no-any-return]

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """The squares of the gradient."""
        return {"gg": np.square(g, dtype=np.float64)}
