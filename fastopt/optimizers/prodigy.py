"""Prodigy: Adam that finds its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import hyper
from ..engine.numbers import one_minus_power
from ..optimizer import Array, Hyper, Optimizer, Rate, Scalars, Steps, Values
from ..words import absolute

__all__ = ["Prodigy"]


class Prodigy(Optimizer):
    """Prodigy: Adam with an estimate d of how far the parameters are from where they are going.

    In each step::

        m  ← β₁·m + (1 − β₁)·d·g
        v  ← β₂·v + (1 − β₂)·d²·g²
        s  ← β₃·s + (d / d₀)·d·α·g
        r  ← β₃·r + (d / d₀)·d·α·Σ(g·(w₀ − w))
        d' = max(d, c·r / Σ|s|)
        w  ← w − d·α·(m / (√v + d'·ε) + λ·w)
        d  ← d'

    Sums are over all parameters, and w₀ is a parameter before its first update. Leave the learning rate at 1; a
    schedule of it, such as `fastopt.schedules.CosineDecay`, is good practice.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`. Groups have all hyper-parameters in common but the weight decay; a group
        whose `lr` is 0 takes no part.
    lr : float or callable
        α ≥ 0, a factor of the learning rate that is found, or a schedule of it.
    betas : (float, float)
        β₁ and β₂, in [0, 1).
    beta3 : float, optional
        β₃, in [0, 1); None stands for √β₂.
    eps : float
        ε ≥ 0.
    use_bias_correction : bool
        Whether α is multiplied by Adam's √(1 − β₂ᵗ) / (1 − β₁ᵗ).
    safeguard_warmup : bool
        Whether s leaves α out, so that a warmup does not make d too large.
    d0 : float
        d₀ > 0, what d starts at.
    d_coef : float
        c > 0. Change this, and not the learning rate.
    growth_rate : float
        d grows to at most this times d in a step; infinity by default.
    weight_decay : float
        λ ≥ 0.
    decoupled : bool
        If True, decay is as in the formula; if False, λ·w is added to the gradient.
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
    Reads parameters, gradients and two arrays of state once more. The sums depend on how parameters are split into
    arrays, and on their memory order. `opt.state` has d, which all parameters share, beside each parameter's arrays.

    References
    ----------
    Mishchenko & Defazio, "Prodigy: An expeditiously adaptive parameter-free learner", 2023, algorithm 4, and the
    authors' package.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> w = np.zeros(2)
    >>> opt = fastopt.Prodigy(w)
    >>> for _ in range(100):
    ...     _ = opt.step(2 * (w - [3.0, -4.0]))
    >>> w.round(1)
    array([ 3., -4.])
    """

    slots: ClassVar[Mapping[str, str]] = {"m": "exp_avg", "v": "exp_avg_sq", "s": "s", "x": "p0"}
    group_numbers: ClassVar[Mapping[str, float]] = {"d": 0.0, "d_max": 0.0, "d_numerator": 0.0, "k": 0.0}
    assigns = True
    same_in_groups = ("betas", "beta3", "use_bias_correction", "safeguard_warmup", "d0", "d_coef", "growth_rate")
    lr: Hyper[Rate] = Hyper(hyper.learning_rate, default=1.0, kw_only=False)
    betas: Hyper[tuple[Rate, Rate]] = Hyper(hyper.betas, default=(0.9, 0.999))
    beta3: Hyper[float | None] = Hyper(hyper.optional(hyper.fraction), default=None)
    eps: Hyper[Rate] = Hyper(hyper.nonnegative, default=1e-8)
    use_bias_correction: Hyper[bool] = Hyper(hyper.flag, default=False)
    safeguard_warmup: Hyper[bool] = Hyper(hyper.flag, default=False)
    d0: Hyper[Rate] = Hyper(hyper.positive, default=1e-6)
    d_coef: Hyper[Rate] = Hyper(hyper.positive, default=1.0)
    growth_rate: Hyper[float] = Hyper(hyper.growth, default=math.inf)
    decoupled: Hyper[bool] = Hyper(hyper.flag, default=True)

    @classmethod
    def rule(cls, h: Values) -> str:
        """One rule for all."""
        return "prodigy"

    @classmethod
    def scalars(
        cls,
        h: Values,
        t: Steps,
        lr: float,
        fresh: Any,
        numbers: Mapping[str, Any],
        totals: Mapping[str, float] | None,
    ) -> tuple[Scalars, Scalars, dict[str, Any]]:
        """All groups come to the same d, by the largest learning rate."""
        beta1, beta2 = h["betas"]
        beta3 = math.sqrt(beta2) if h["beta3"] is None else h["beta3"]
        d0, d, k = h["d0"], numbers["d"] or h["d0"], numbers["k"] + 1.0
        (e1,), (e2,) = (one_minus_power(beta, np.array([k], np.int64)) for beta in (beta1, beta2))
        stretch = d * (math.sqrt(e2) / e1 if h["use_bias_correction"] else 1.0)
        top = lr if totals is None else totals["lr"]
        new, moves = {**numbers, "d": d, "d_max": numbers["d_max"] or d0, "k": k}, lr > 0
        if totals is not None and totals["away"] > 0 and top > 0:
            new["d_numerator"] = beta3 * numbers["d_numerator"] + (d / d0) * (stretch * top) * totals["gained"]
            found = h["d_coef"] * new["d_numerator"] / totals["away"]
            grown = max(d, found) if d == d0 else d
            new["d_max"] = max(new["d_max"], found)
            new["d"] = min(new["d_max"], grown * h["growth_rate"])
        elif totals is not None:
            moves = moves and totals["away"] != 0  # all gradients have been 0 so far; a NaN is to be seen
        if not moves:
            still: Scalars = {"tau1": 0.0, "tau2": 0.0, "weight": 0.0, "eps": 1.0, "stretch": 0.0, "fresh": fresh * 1.0}
            return {"alpha": 0.0}, {**still, "beta1": 1.0, "beta2": 1.0, "beta3": 1.0}, new
        others: Scalars = {
            "beta1": beta1,
            "tau1": d * (1.0 - beta1),
            "beta2": beta2,
            "tau2": d * d * (1.0 - beta2),
            "beta3": beta3,
            "weight": (d / d0) * (d if h["safeguard_warmup"] else stretch * lr),
            "eps": new["d"] * h["eps"],
            "fresh": fresh * 1.0,
            "stretch": stretch,
        }
        return {"alpha": 1.0}, others, new

    @staticmethod
    def reference(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Array:
        """NumPy twin of prodigy."""
        m, v = s["m"], s["v"]
        if c["fresh"]:
            s["x"][...] = p
        m[...] = c["beta1"] * m + c["tau1"] * g
        v[...] = c["beta2"] * v + c["tau2"] * (g * g)
        s["s"][...] = c["beta3"] * s["s"] + c["weight"] * g
        return p - c["stretch"] * c["decayed"](p, c["alpha"] * (m / (np.sqrt(v) + c["eps"])))  # type: ignore[no-any-return]

    @staticmethod
    def sums(rule: str, p: Array, g: Array, s: Mapping[str, Array], c: Mapping[str, Any]) -> Mapping[str, Array]:
        """How much was gained on the way, and how large the weighted sum of gradients is."""
        away = s["s"] * c["beta3"] + c["weight"] * g
        gained = g.astype(np.float64) * ((p if c["fresh"] else s["x"]) - p)
        return {"gained": gained, "away": absolute(away)}
