"""Grams: steps of Adam's size in the direction of the gradient's sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import absolute, sign
from .adam import Adam

__all__ = ["Grams"]


class Grams(Optimizer):
    r"""Gradient descent with adaptive momentum scaling.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g\\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2\\
        w &\leftarrow w - \alpha \, \mathrm{sign}(g)
        \left| \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \right|

    for each element, t = 1, 2, … being the number of updates the parameter has had. Where the gradient is 0, w stays.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    lr : float or callable
        Learning rate :math:`\alpha \geq 0`, or a schedule: a function of the number of steps taken.
    betas : (float, float)
        :math:`\beta_1` and :math:`\beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon \geq 0`.
    weight_decay : float
        :math:`\lambda \geq 0`: subtracts :math:`\alpha \lambda w` beside the update.
    decoupled : bool
        Whether the decay stands there; else :math:`\lambda w` is added to the gradient.
    maximize : bool
        Whether to ascend.
    nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask, state_memory
        Options of all optimizers, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place, or a hyper-parameter is out of range.

    References
    ----------
    Cao, Li & Song, "Grams: Gradient descent with adaptive momentum scaling", 2024, algorithm 1.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.array([1.0])
    >>> opt = fastopt.Grams(w, lr=0.1, betas=(0.0, 0.0), eps=0.0)
    >>> opt.step(np.array([3.0]))
    True
    >>> w.round(12)
    array([0.9])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq"}
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True)
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-6)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "grams"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """Those of Adam."""
        return Adam.scalars({**h, "eps_hat": False}, t)

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of grams."""
        m, v = s["m"], s["v"]
        m[...] = c["beta1"] * m + c["rest1"] * g
        v[...] = c["beta2"] * v + c["rest2"] * (g * g)
        return sign(g) * absolute(c["alpha"] * (m / (np.sqrt(v) + c["eps"])))
