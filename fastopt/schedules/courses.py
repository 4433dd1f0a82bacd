"""Schedules that are one formula of t, the number of steps taken: from the constant one to those that rise and fall.

What other frameworks call them is said where they have them, and where they differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .. import hyper
from .formula import Formula, between, count, either, grown, half_cosine, least, most, pick, power, raised, root, whole


@dataclass(frozen=True)
class Constant(Formula):
    """Always `lr`: what `Warmup`, `Join` and `Product` make of a number.

    Parameters
    ----------
    lr : float
        Learning rate, at least 0.

    Raises
    ------
    TypeError, ValueError
        If it is no such number.

    Examples
    --------
    >>> Constant(0.1)(1000)
    0.1
    """

    lr: float

    def _rate(self, t: Any) -> Any:
        return np.full(t.shape, self.lr) if isinstance(t, np.ndarray) else self.lr


@dataclass(frozen=True)
class Hold(Formula):
    """``lr * factor`` for the first `steps` steps, `lr` from there on.

    torch's ``ConstantLR(factor, total_iters=steps)``.

    Parameters
    ----------
    lr : float
        Learning rate after `steps` steps, at least 0.
    factor : float
        What it is multiplied by before, at least 0.
    steps : int
        How long, at least 0.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> lr = Hold(1.0, factor=0.25, steps=3)
    >>> lr(2), lr(3)
    (0.25, 1.0)
    """

    lr: float
    factor: float = 1 / 3
    steps: int = 5

    def _rate(self, t: Any) -> Any:
        return either(t < self.steps, self.lr * self.factor, self.lr)


@dataclass(frozen=True)
class StepDecay(Formula):
    """``lr * factor ** (t // every)``: constant for `every` steps, then `factor` times that.

    torch's ``StepLR(step_size=every, gamma=factor)``, optax's ``exponential_decay(staircase=True)``.

    Parameters
    ----------
    lr : float
        Learning rate at the start, at least 0.
    every : int
        Steps between two falls, at least 1.
    factor : float
        What it is multiplied by then, at least 0.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> lr = StepDecay(1.0, every=3, factor=0.5)
    >>> lr(2), lr(3), lr(6)
    (1.0, 0.5, 0.25)
    """

    lr: float
    every: int
    factor: float = 0.1

    def _rate(self, t: Any) -> Any:
        return grown(self.lr, self.factor, t // self.every)


@dataclass(frozen=True)
class MultiStepDecay(Formula):
    """``lr * factor ** n``, where n is the number of milestones at t or before it.

    torch's ``MultiStepLR(milestones, gamma=factor)``. optax's ``piecewise_constant_schedule`` with one scale.

    Parameters
    ----------
    lr : float
        Learning rate at the start, at least 0.
    milestones : sequence of int
        Step numbers in order; one that is listed twice counts twice. Kept as a tuple.
    factor : float
        What the rate is multiplied by at each, at least 0.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range, or the milestones are not in order.

    Examples
    --------
    >>> lr = MultiStepDecay(1.0, [2, 5], factor=0.5)
    >>> lr(1), lr(2), lr(5)
    (1.0, 0.5, 0.25)
    """

    lr: float
    milestones: Sequence[int]
    factor: float = 0.1

    def _rate(self, t: Any) -> Any:
        return grown(self.lr, self.factor, count(self.milestones, t))


@dataclass(frozen=True)
class Piecewise(Formula):
    """``rates[n]``, where n is the number of milestones at t or before it.

    optax's ``piecewise_constant_schedule`` takes factors instead of rates. Keras's ``PiecewiseConstantDecay`` changes
    one step later, at ``t > milestone``.

    Parameters
    ----------
    rates : sequence of float
        Learning rates, each at least 0, one more than milestones. Kept as a tuple.
    milestones : sequence of int
        Step numbers in order, at which the next rate begins. Kept as a tuple.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range, the milestones are not in order, or their number does not fit.

    Examples
    --------
    >>> lr = Piecewise([1.0, 0.5, 0.2], [2, 5])
    >>> lr(1), lr(2), lr(5)
    (1.0, 0.5, 0.2)
    """

    rates: Sequence[float]
    milestones: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        one_more("rates", self.rates, self.milestones)

    def _rate(self, t: Any) -> Any:
        return pick(self.rates, count(self.milestones, t))


def one_more(name: str, values: Sequence[Any], milestones: Sequence[int]) -> None:
    """Check that there is one value more than milestones between them."""
    if len(values) != len(milestones) + 1:
        raise ValueError(f"{name} has {len(values)} and milestones has {len(milestones)}: wanted one more in {name}")


@dataclass(frozen=True)
class ExponentialDecay(Formula, final=hyper.optional(hyper.nonnegative)):
    """``lr * factor ** (u / every)`` with ``u = max(t - begin, 0)``: falls by `factor` in every `every` steps.

    torch's ``ExponentialLR(gamma=factor)`` has ``every=1``. optax's ``exponential_decay`` is the same, with
    ``transition_begin`` for `begin` and ``end_value`` for `final`.

    Parameters
    ----------
    lr : float
        Learning rate at the start, at least 0.
    factor : float
        What becomes of it in `every` steps, at least 0.
    every : int
        A number of steps, at least 1.
    staircase : bool
        Whether the exponent is rounded down, so that the rate falls in steps.
    begin : int
        The step up to which it stays at `lr`.
    final : float, optional
        What the rate does not fall below; if `factor` is 1 or more, what it does not rise above.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> lr = ExponentialDecay(1.0, factor=0.5, every=4, final=0.1)
    >>> lr(4), lr(8), lr(100)
    (0.5, 0.25, 0.1)
    """

    lr: float
    factor: float
    every: int = 1
    staircase: bool = False
    begin: int = 0
    final: float | None = None

    def _rate(self, t: Any) -> Any:
        u = most(t - self.begin, 0)
        rate = grown(self.lr, self.factor, u // self.every if self.staircase else u / self.every)
        if self.final is None:
            return rate
        return most(rate, self.final) if self.factor < 1.0 else least(rate, self.final)


@dataclass(frozen=True)
class LinearDecay(Formula):
    """``lr + (final - lr) * t / total``: a straight line from `lr` to `final`, `final` from `total` on.

    torch's ``LinearLR(1, final / lr, total_iters=total)``, optax's ``linear_schedule``.

    Parameters
    ----------
    lr : float
        Learning rate at the start, at least 0.
    total : int
        Number of steps, at least 1.
    final : float
        Learning rate at the end, at least 0.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> lr = LinearDecay(1.0, total=8)
    >>> lr(0), lr(2), lr(8), lr(9)
    (1.0, 0.75, 0.0, 0.0)
    """

    lr: float
    total: int
    final: float = 0.0

    def _rate(self, t: Any) -> Any:
        return either(t < self.total, self.lr + (self.final - self.lr) * (t / self.total), self.final)


@dataclass(frozen=True)
class PolynomialDecay(Formula):
    """``(lr - final) * (1 - t / total) ** power + final``, `final` from `total` on.

    torch's ``PolynomialLR(total_iters=total, power)`` falls to 0. optax's ``polynomial_schedule`` is the same; the
    one of Hugging Face ends at 1e-7 by default.

    Parameters
    ----------
    lr : float
        Learning rate at the start, at least 0.
    total : int
        Number of steps, at least 1.
    final : float
        Learning rate at the end, at least 0.
    power : float
        Exponent, above 0; with 1 it is a straight line.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> lr = PolynomialDecay(1.0, total=4, power=2.0)
    >>> lr(0), lr(2), lr(4)
    (1.0, 0.25, 0.0)
    """

    lr: float
    total: int
    final: float = 0.0
    power: float = 1.0

    def _rate(self, t: Any) -> Any:
        left = raised((self.total - least(t, self.total)) / self.total, self.power)
        return between(self.lr, self.final, left)


@dataclass(frozen=True)
class InverseTime(Formula):
    """``lr / (1 + rate * t / every)``: falls as the inverse of the number of steps.

    Keras's ``InverseTimeDecay(lr, decay_steps=every, decay_rate=rate)``.

    Parameters
    ----------
    lr : float
        Learning rate at the start, at least 0.
    rate : float
        By how much the divisor grows in `every` steps, at least 0.
    every : int
        A number of steps, at least 1.
    staircase : bool
        Whether ``t / every`` is rounded down.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> lr = InverseTime(1.0, rate=0.5)
    >>> lr(0), lr(2), lr(6)
    (1.0, 0.5, 0.25)
    """

    lr: float
    rate: float
    every: int = 1
    staircase: bool = False

    def _rate(self, t: Any) -> Any:
        return self.lr / (1.0 + self.rate * (t // self.every if self.staircase else t / self.every))


@dataclass(frozen=True)
class InverseSqrtWarmup(Formula, steps=whole(1)):
    """``lr * t / steps`` for `steps` steps, then ``lr * sqrt(steps / t)``.

    Hugging Face's ``get_inverse_sqrt_schedule`` with its default timescale, which is the length of the warm-up.

    Parameters
    ----------
    lr : float
        The highest learning rate, reached after `steps` steps, at least 0.
    steps : int
        Length of the warm-up, at least 1.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> lr = InverseSqrtWarmup(1.0, steps=4)
    >>> lr(0), lr(2), lr(4), lr(16)
    (0.0, 0.5, 1.0, 0.5)
    """

    lr: float
    steps: int

    def _rate(self, t: Any) -> Any:
        return either(t < self.steps, self.lr * t / self.steps, self.lr * root(self.steps / most(t, self.steps)))


@dataclass(frozen=True)
class Noam(Formula, warmup=whole(1)):
    """``scale / sqrt(width) * min(1 / sqrt(n), n / warmup ** 1.5)`` with ``n = t + 1``: that of the Transformer.

    It rises up to ``n = warmup``. The paper counts steps from 1, hence n.

    Parameters
    ----------
    scale : float
        What all rates are multiplied by, at least 0; 1 in the paper.
    width : float
        Width of the model, above 0.
    warmup : int
        Length of the warm-up, at least 1.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    References
    ----------
    Vaswani et al., "Attention is all you need", 2017, eq. 3.

    Examples
    --------
    >>> lr = Noam(1.0, width=64, warmup=4)
    >>> lr(0), lr(3), lr(15)
    (0.015625, 0.0625, 0.03125)
    """

    scale: float
    width: float
    warmup: int

    def _rate(self, t: Any) -> Any:
        n = t + 1.0
        rising, falling = n / (self.warmup * math.sqrt(self.warmup)), 1.0 / root(n)
        return self.scale / math.sqrt(self.width) * either(n < self.warmup, rising, falling)


@dataclass(frozen=True)
class CosineDecay(Formula):
    """``final + (lr - final) * ((1 + cos(pi * t / total)) / 2) ** exponent``, `final` from `total` on.

    torch's ``CosineAnnealingLR(T_max=total, eta_min=final)`` rises again after `total`, and so does Hugging Face's:
    ``periodic=True``. optax's ``cosine_decay_schedule`` has ``alpha = final / lr``.

    Parameters
    ----------
    lr : float
        Learning rate at the start, at least 0.
    total : int
        Number of steps down, at least 1.
    final : float
        Learning rate at the end, at least 0.
    exponent : float
        Of the half cosine, above 0.
    periodic : bool
        Whether it goes up and down for ever, with a period of ``2 * total`` steps.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    References
    ----------
    Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, eq. 5.

    Examples
    --------
    >>> lr = CosineDecay(1.0, total=8, final=0.5)
    >>> lr(0), lr(4), lr(8), lr(12)
    (1.0, 0.75, 0.5, 0.5)
    >>> CosineDecay(1.0, total=8, final=0.5, periodic=True)(12)
    0.75
    """

    lr: float
    total: int
    final: float = 0.0
    exponent: float = 1.0
    periodic: bool = False

    def _rate(self, t: Any) -> Any:
        if not self.periodic:
            return either(t < self.total, self._down(t), self.final)
        u = t % self.total
        return self._down(either(t // self.total % 2 == 1, self.total - u, u))

    def _down(self, t: Any) -> Any:
        return between(self.lr, self.final, raised(half_cosine(t / self.total), self.exponent))


@dataclass(frozen=True)
class CosineRestarts(Formula, mult=whole(1, ""), decay=hyper.nonnegative):
    """Half a cosine down to `final`, again and again: ``final + (top - final) * (1 + cos(pi * u / length)) / 2``.

    Cycle n, from 0 on, has ``length = period * mult ** n`` steps and starts at ``top = lr * decay ** n``; u steps of
    it are done. torch's ``CosineAnnealingWarmRestarts(T_0=period, T_mult=mult, eta_min=final)``. Keras's
    ``CosineDecayRestarts`` has ``alpha = final / lr``, takes fractions for `mult`, and its `m_mul` multiplies
    ``lr - final``. Hugging Face's hard restarts are 0 after their end.

    Parameters
    ----------
    lr : float
        Learning rate at the start, at least 0.
    period : int
        Number of steps of the first cycle, at least 1.
    mult : int
        How many times as long each cycle is as the one before, at least 1.
    final : float
        Learning rate at the end of each cycle, at least 0.
    decay : float
        How many times as high each cycle starts as the one before, at least 0.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    References
    ----------
    Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, eq. 5.

    Examples
    --------
    >>> lr = CosineRestarts(1.0, period=2, mult=2)
    >>> lr(0), lr(1), lr(2), lr(4), lr(6)
    (1.0, 0.5, 1.0, 0.5, 1.0)
    """

    lr: float
    period: int
    mult: int = 1
    final: float = 0.0
    decay: float = 1.0

    def _rate(self, t: Any) -> Any:
        if self.mult == 1:
            cycle, u = t // self.period, t % self.period
        else:
            starts = self._starts(int(t.max(initial=0)) if isinstance(t, np.ndarray) else t)
            cycle = count(starts, t) - 1
            u = t - pick(starts, cycle)
        left = half_cosine(u / (self.period * power(float(self.mult), cycle)))
        return between(grown(self.lr, self.decay, cycle), self.final, left)

    def _starts(self, last: int) -> list[int]:
        """The first steps of cycles up to a step."""
        starts, length = [0], self.period
        while starts[-1] + length <= last:
            starts.append(starts[-1] + length)
            length *= self.mult
        return starts


@dataclass(frozen=True)
class OneCycle(Formula, pct_start=hyper.proportion, anneal=hyper.choice("cos", "linear")):
    """Up from ``lr / div_factor`` to `lr` and down to ``lr / div_factor / final_div_factor``, in `total` steps.

    With ``e = pct_start * total - 1`` it rises up to step e and falls up to step ``total - 1``. In three phases it
    rises up to e, falls to ``lr / div_factor`` up to 2 e, and from there to the end. Between two ends a phase is at
    ``b + (a - b) / 2 * (1 + cos(pi * x))``, or at ``a + (b - a) * x``. Ends are real numbers, and an end belongs to
    the phase before it. torch's ``OneCycleLR(max_lr=lr, total_steps=total)``, which raises after its end; this one
    stays. optax's ``cosine_onecycle_schedule`` has whole numbers as ends: it differs. torch moves the momentum against
    the rate unless told not to; `momentum` gives the schedule for that.

    Parameters
    ----------
    lr : float
        The highest learning rate, at least 0.
    total : int
        Number of steps, at least 1.
    pct_start : float
        The part of the steps in which it rises, from 0 to 1.
    div_factor : float
        What `lr` is divided by at the start, above 0.
    final_div_factor : float
        What that is divided by at the end, above 0.
    three_phase : bool
        Whether it falls as fast as it rose, and then a third phase follows.
    anneal : {"cos", "linear"}
        The form of all phases.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    References
    ----------
    Smith & Topin, "Super-convergence: very fast training of neural networks using large learning rates", 2018.

    Examples
    --------
    >>> lr = OneCycle(1.0, total=9, pct_start=1 / 3, anneal="linear", final_div_factor=1.0)
    >>> [round(lr(t), 2) for t in range(10)]
    [0.04, 0.52, 1.0, 0.84, 0.68, 0.52, 0.36, 0.2, 0.04, 0.04]
    """

    lr: float
    total: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False
    anneal: str = "cos"

    def _rate(self, t: Any) -> Any:
        first = self.lr / self.div_factor
        middle = [self.lr, first] if self.three_phase else [self.lr]
        return _phases(self, [first, *middle, first / self.final_div_factor], t)

    def momentum(self, low: float = 0.85, high: float = 0.95) -> OneCycleMomentum:
        """Return the schedule of a momentum that falls while the learning rate rises, and rises while it falls.

        Parameters
        ----------
        low, high : float
            The lowest and the highest momentum.

        Returns
        -------
        OneCycleMomentum
            For ``momentum``, or the first of ``betas``.
        """
        return OneCycleMomentum(low, high, self.total, self.pct_start, self.three_phase, self.anneal)


def _phases(cycle: OneCycle | OneCycleMomentum, ends: Sequence[float], t: Any) -> Any:
    """The value after t steps of a cycle in two phases or three, between which it is at these."""
    part = cycle.pct_start * cycle.total
    starts = [0.0, part - 1.0, *[2.0 * part - 2.0] * cycle.three_phase, cycle.total - 1.0]
    spans = [end - start for start, end in pairwise(starts)]
    t = least(t, cycle.total - 1)
    phase: Any = 0
    for start in starts[1:-1]:
        phase = phase + (t > start)
    # A phase without any length is at its end.
    x = (t - pick(starts, phase)) / pick([span or 1.0 for span in spans], phase)
    x = either(pick(spans, phase) == 0.0, 1.0, x)
    return between(pick(ends, phase), pick(ends[1:], phase), half_cosine(x) if cycle.anneal == "cos" else 1.0 - x)


@dataclass(frozen=True)
class OneCycleMomentum(Formula, pct_start=hyper.proportion, anneal=hyper.choice("cos", "linear")):
    """Down from `high` to `low` and up again: the momentum beside the learning rate of a `OneCycle`.

    `OneCycle.momentum` makes it. It turns at the same steps as that rate, and a third phase stays at `high`. torch's
    ``OneCycleLR(base_momentum=low, max_momentum=high)``.

    Parameters
    ----------
    low, high : float
        The lowest and the highest momentum, at least 0.
    total, pct_start, three_phase, anneal
        As for `OneCycle`.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    Examples
    --------
    >>> from fastopt.schedules import OneCycle
    >>> lr = OneCycle(1.0, total=9, pct_start=1 / 3, anneal="linear")
    >>> lr.momentum(0.5, 1.0)
    OneCycleMomentum(low=0.5, high=1.0, total=9, pct_start=0.3333333333333333, three_phase=False, anneal='linear')
    >>> [round(lr.momentum(0.5, 1.0)(t), 2) for t in range(10)]
    [1.0, 0.75, 0.5, 0.58, 0.67, 0.75, 0.83, 0.92, 1.0, 1.0]
    """

    low: float
    high: float
    total: int
    pct_start: float = 0.3
    three_phase: bool = False
    anneal: str = "cos"

    def _rate(self, t: Any) -> Any:
        return _phases(self, [self.high, self.low, *[self.high] * (1 + self.three_phase)], t)


@dataclass(frozen=True)
class Cyclic(Formula, down=hyper.optional(whole(1)), mode=hyper.choice("triangular", "triangular2", "exp_range")):
    """``low + (high - low) * h * k``, where h goes from 0 to 1 in `up` steps and back in `down` steps, for ever.

    k is 1 for ``"triangular"``, halves with each cycle for ``"triangular2"``, and is ``gamma ** t`` for
    ``"exp_range"``. torch's ``CyclicLR(base_lr=low, max_lr=high, step_size_up=up, step_size_down=down)``, which moves
    the momentum against the rate unless told not to; `momentum` gives the schedule for that.

    Parameters
    ----------
    low, high : float
        The learning rate between two cycles, and at the height of one, at least 0.
    up : int
        Steps from `low` to `high`, at least 1.
    down : int, optional
        Steps from `high` to `low`, at least 1; by default as many as up.
    mode : {"triangular", "triangular2", "exp_range"}
        What becomes of the height.
    gamma : float
        What the height is multiplied by in each step of ``"exp_range"``, at least 0.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    References
    ----------
    Smith, "Cyclical learning rates for training neural networks", 2017.

    Examples
    --------
    >>> lr = Cyclic(0.0, 1.0, up=2, down=4)
    >>> [lr(t) for t in range(8)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.5]
    """

    low: float
    high: float
    up: int = 2000
    down: int | None = None
    mode: str = "triangular"
    gamma: float = 1.0

    def _rate(self, t: Any) -> Any:
        down = self.up if self.down is None else self.down
        period = min(self.up + down, 2**63 - 1)  # which no count of steps reaches
        cycle, u = t // period, t % period
        height = (self.high - self.low) * either(u <= self.up, u / self.up, (period - u) / down)
        if self.mode == "triangular":
            return self.low + height
        k = power(0.5, cycle) if self.mode == "triangular2" else power(self.gamma, t)
        return self.low + either(height == 0.0, 0.0, height * k)  # also where k is past all numbers

    def momentum(self, low: float = 0.8, high: float = 0.9) -> Cyclic:
        """Return the schedule of a momentum that falls while the learning rate rises, and rises while it falls.

        Parameters
        ----------
        low, high : float
            The lowest and the highest momentum.

        Returns
        -------
        Cyclic
            For ``momentum``, or the first of ``betas``: this one from `high` to `low`.
        """
        return Cyclic(high, low, self.up, self.down, self.mode, self.gamma)


@dataclass(frozen=True)
class WarmupStableDecay(Formula, decay=whole(1), shape=hyper.choice("linear", "cosine", "1-sqrt")):
    """A straight line from `start` to `lr`, then `lr`, then down to `final`, where it stays.

    After a part x of the decay the rate is ``final + (lr - final) * y``, where y is ``1 - x`` for ``"linear"``,
    ``(1 + cos(pi * x)) / 2`` for ``"cosine"``, and ``1 - sqrt(x)`` for ``"1-sqrt"``. Hugging Face's
    ``get_wsd_schedule`` has the shape ``"cosine"`` by default, and starts at its lowest rate.

    Parameters
    ----------
    lr : float
        The highest learning rate, at least 0.
    warmup, stable, decay : int
        Number of steps up, on top and down; the first two at least 0, the last at least 1.
    final : float
        Learning rate at the end, at least 0.
    shape : {"linear", "cosine", "1-sqrt"}
        Shape of the decay.
    start : float
        Learning rate at the start, at least 0; a rate, and not a part of `lr` as in `Warmup`.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range.

    References
    ----------
    Hägele et al., "Scaling laws and compute-optimal training beyond fixed training durations", 2024.

    Examples
    --------
    >>> lr = WarmupStableDecay(1.0, warmup=2, stable=3, decay=4)
    >>> [lr(t) for t in (0, 1, 2, 5, 6, 9, 10)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """

    lr: float
    warmup: int
    stable: int
    decay: int
    final: float = 0.0
    shape: str = "1-sqrt"
    start: float = 0.0

    def _rate(self, t: Any) -> Any:
        rising = self.start + (self.lr - self.start) * (t / max(self.warmup, 1))
        x = least(most((t - float(self.warmup + self.stable)) / self.decay, 0.0), 1.0)
        y = half_cosine(x) if self.shape == "cosine" else 1.0 - (root(x) if self.shape == "1-sqrt" else x)
        return either(t < self.warmup, rising, between(self.lr, self.final, y))
