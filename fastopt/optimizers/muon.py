"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values

__all__ = ["Muon"]

#: f of a matrix of so many rows and columns, by name
_FACTORS: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}


class Muon(Optimizer):
    """Muon: momentum for matrices, with all singular values of the step brought near to 1.

    For each matrix::

        M ← μ·M + (1 − μ)·G
        X = orthogonal(μ·M + (1 − μ)·G)
        W ← W − α·(f·X + λ·W)

    A few steps of Newton and Schulz make a matrix about orthogonal: X ← X / max(‖X‖, ε), then X ← a·X + (b·A + c·A²)·X
    with A = X·Xᵀ. Singular values come to lie between about 0.7 and 1.2, by design. Without `nesterov`, X is made of M.

    Muon is for matrices: hidden layers of a network. Embeddings, output layers, biases and all other parameters belong
    to another optimizer; `fastopt.Split` has both in one.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`. Arrays of two axes.
    lr : float or callable
        Learning rate α ≥ 0, or a schedule: a function of the number of steps taken.
    momentum : float
        μ, in [0, 1].
    nesterov : bool
        Whether the step looks ahead.
    ns_coefficients : (float, float, float)
        a, b and c.
    eps : float
        ε > 0.
    ns_steps : int
        Steps of Newton and Schulz, below 100.
    adjust_lr_fn : {"original", "match_rms_adamw", "spectral_unclamped"}, optional
        What f is, of a matrix of m rows and n columns: √max(1, m / n), which None stands for too; 0.2·√max(m, n),
        which makes steps as long as those of AdamW; or √(m / n).
    weight_decay : float
        λ ≥ 0.
    maximize : bool
        Whether to ascend.
    nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask, state_memory
        Options of all optimizers, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a parameter cannot be updated in place or is no matrix, or a hyper-parameter is out of range.

    Notes
    -----
    NumPy multiplies the matrices, in the parameters' own type: a step takes memory for some matrices, unlike that of
    all other optimizers, and its last bits depend on NumPy's BLAS and how many threads it uses. torch iterates in
    bfloat16, so that its steps differ by about 1 %.

    References
    ----------
    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. `torch.optim.Muon`. The second f is
    of Liu et al., "Muon is scalable for LLM training", 2025; the third of Bernstein, "Deriving Muon", 2025.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.zeros((2, 2))
    >>> opt = fastopt.Muon(w, lr=1.0, weight_decay=0.0)
    >>> opt.step(np.array([[0.0, 2.0], [-3.0, 0.0]]))  # a step in every direction, of about the same length
    True
    >>> w.round(1)
    array([[ 0. , -0.7],
           [ 1.1,  0. ]])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "momentum_buffer"}
    in_numpy = matrices_only = keeps_axes = True
    momentum: Hyper[Rate] = Hyper(hyper.proportion, default=0.95)
    nesterov: Hyper[bool] = Hyper(hyper.flag, default=True)
    ns_coefficients: Hyper[tuple[float, float, float]] = Hyper(hyper.three_numbers, default=(3.4445, -4.775, 2.0315))
    eps: Hyper[Rate] = Hyper(hyper.positive, default=1e-7)
    ns_steps: Hyper[int] = Hyper(hyper.whole, default=5)
    adjust_lr_fn: Hyper[str | None] = Hyper(hyper.optional(hyper.choice(*_FACTORS)), default=None)
    weight_decay: Hyper[Rate] = Hyper(hyper.nonnegative, default=0.1)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True, init=False)

    @classmethod
    def check_parameter(cls, name: str, array: Array) -> None:
        """Raise for what is no matrix."""
        if array.ndim != 2:
            raise ValueError(
                f"{name} has shape {array.shape}, and Muon is for matrices: give it to another optimizer, by "
                "fastopt.Split(params, [(lambda path, array: array.ndim == 2, fastopt.Muon, {...}), "
                "(True, fastopt.AdamW, {...})])"
            )

    @classmethod
    def check_together(cls, h: Values) -> None:
        """Each step costs three products."""
        if h["ns_steps"] >= 100:
            raise ValueError(f"ns_steps is {h['ns_steps']}: wanted below 100")

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "muon"

    @classmethod
    def scalars(cls, h: Values, t: Steps) -> tuple[Scalars, Scalars]:
        """All that `reference` needs."""
        a, b, c = h["ns_coefficients"]
        return {"alpha": 1.0}, {
            "momentum": h["momentum"],
            "rest": 1.0 - h["momentum"],
            "ahead": 1.0 if h["nesterov"] else 0.0,
            "a": a,
            "b": b,
            "c": c,
            "eps": h["eps"],
            "steps": h["ns_steps"],
            "adjust": list(_FACTORS).index(h["adjust_lr_fn"] or "original"),
        }

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """The step itself."""
        m, (rows, columns) = s["m"], p.shape
        m[...] = c["momentum"] * m + c["rest"] * g
        x = c["rest"] * g + c["momentum"] * m if c["ahead"] else m
        x = x.T if rows > columns else x
        x = x / max(x.dtype.type(np.linalg.norm(x)), c["eps"])
        for _ in range(int(c["steps"])):
            square = x @ x.T
            x = c["a"] * x + (c["b"] * square + c["c"] * (square @ square)) @ x
        factor = list(_FACTORS.values())[int(c["adjust"])](rows, columns)
        return c["alpha"] * p.dtype.type(factor) * (x.T if rows > columns else x)  # type: ignore[no-any-return]
