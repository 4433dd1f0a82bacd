"""Schedules: their values, and how an optimizer counts and checks them."""

from __future__ import annotations

import ast
import copy
import dataclasses
import itertools
import json
import math
import pickle
import re
import sys
import threading

import numpy as np
import pytest
from optimizers_table import RECORDS, REFUSE_RATE_0, stepped
from test_errors import everything, says

from fastopt import SGD, Adam, AdamW, schedules
from fastopt.schedules import (
    Constant,
    CosineDecay,
    CosineRestarts,
    Cyclic,
    ExponentialDecay,
    Hold,
    InverseSqrtWarmup,
    InverseTime,
    Join,
    LinearDecay,
    MultiStepDecay,
    Noam,
    OneCycle,
    OneCycleMomentum,
    Piecewise,
    PolynomialDecay,
    Product,
    ReduceOnPlateau,
    StepDecay,
    Warmup,
    WarmupStableDecay,
    described,
    restored,
    takes_arrays,
)
from fastopt.schedules.saved import KINDS

FEW = [
    StepDecay(lr=0.5, every=3, factor=0.25),
    ExponentialDecay(lr=0.5, factor=0.5, every=4),
    LinearDecay(lr=1.0, total=8, final=0.25),
    CosineDecay(lr=1.0, total=8, final=0.25),
    Warmup(steps=4, after=StepDecay(lr=1.0, every=2)),
]
ALL = [
    *FEW,
    Constant(0.25),
    Hold(0.5, 0.125, 6),
    MultiStepDecay(0.5, [2, 5, 5, 17], 0.5),
    MultiStepDecay(0.5, []),
    Piecewise([0.5, 0.1, 0.25], [2, 9]),
    ExponentialDecay(0.5, 0.7, 3, staircase=True, begin=2, final=0.1),
    ExponentialDecay(0.5, 1.3, 3, final=2.0),
    PolynomialDecay(0.5, 11, 0.1, 1.7),
    InverseTime(0.5, 0.3, 3),
    InverseTime(0.5, 0.3, 3, staircase=True),
    InverseSqrtWarmup(0.5, 7),
    Noam(2.0, 512, 13),
    CosineDecay(0.5, 11, 0.1, exponent=1.5),
    CosineDecay(0.5, 11, 0.1, periodic=True),
    CosineRestarts(0.5, 7, 1, 0.1, 0.9),
    CosineRestarts(0.5, 3, 3, 0.1, 0.9),
    OneCycle(0.5, 19),
    OneCycle(0.5, 19, 0.4, three_phase=True, anneal="linear"),
    OneCycleMomentum(0.5, 0.75, 19),
    OneCycleMomentum(0.5, 0.75, 19, 0.4, three_phase=True, anneal="linear"),
    Cyclic(0.1, 0.5, 5, 8),
    Cyclic(0.1, 0.5, 5, mode="triangular2"),
    Cyclic(0.1, 0.5, 5, 3, mode="exp_range", gamma=0.99),
    WarmupStableDecay(0.5, 4, 5, 9, 0.1),
    WarmupStableDecay(0.5, 0, 0, 9, shape="linear"),
    WarmupStableDecay(0.5, 4, 0, 9, shape="cosine", start=0.125),
    Warmup(0, CosineDecay(0.5, 9)),
    Warmup(5, CosineDecay(0.5, 9), start=0.25),
    Join([0.5, Warmup(3, 0.25), CosineDecay(0.5, 6)], [3, 9]),
    Product(Hold(1.0, 0.25, 3), ExponentialDecay(0.5, 0.9), 0.5),
]
PLATEAU = ReduceOnPlateau(0.5, 0.5, 0, cooldown=2)
HOLDING = [  # what changes when it is told how the run goes
    PLATEAU,
    Warmup(3, PLATEAU),
    Product(PLATEAU, CosineDecay(1.0, 9)),
    Join([0.5, PLATEAU], [2]),
    Warmup(3, Join([Product(Hold(0.5), PLATEAU), 0.25], [7])),
]

# By programs of their own, momenta by torch; those of a plateau are the rates after each report.
EXAMPLES = """\
StepDecay(1.0, 3, 0.5)
    1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25
MultiStepDecay(1.0, [2, 5], 0.1)
    1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01
Piecewise([1.0, 0.5, 0.2], [2, 5])
    1, 1, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2
Hold(1.0, 0.25, 3)
    0.25, 0.25, 0.25, 1, 1, 1, 1, 1
ExponentialDecay(1.0, 0.5, 2)
    1, 0.707106781186548, 0.5, 0.353553390593274, 0.25, 0.176776695296637, 0.125, 0.0883883476483184
ExponentialDecay(1.0, 0.5, 2, staircase=True, begin=1, final=0.3)
    1, 1, 1, 0.5, 0.5, 0.3, 0.3, 0.3
LinearDecay(1.0, 5, 0.1)
    1, 0.82, 0.64, 0.46, 0.28, 0.1, 0.1, 0.1
PolynomialDecay(1.0, 5, 0.1, 2.0)
    1, 0.676, 0.424, 0.244, 0.136, 0.1, 0.1, 0.1
InverseTime(1.0, 0.5)
    1, 0.666666666666667, 0.5, 0.4, 0.333333333333333, 0.285714285714286, 0.25, 0.222222222222222
InverseSqrtWarmup(1.0, 3)
    0, 0.333333333333333, 0.666666666666667, 1, 0.866025403784439, 0.774596669241483,
    0.707106781186548, 0.654653670707977
Noam(1.0, 64, 4)
    0.015625, 0.03125, 0.046875, 0.0625, 0.0559016994374947, 0.0510310363079829, 0.0472455591261534, 0.0441941738241592
CosineDecay(1.0, 6, 0.1)
    1, 0.939711431702997, 0.775, 0.55, 0.325, 0.160288568297003, 0.1, 0.1
CosineDecay(1.0, 5, 0.1, periodic=True)
    1, 0.914057647468726, 0.689057647468726, 0.410942352531274, 0.185942352531274, 0.1,
    0.185942352531274, 0.410942352531274
CosineDecay(1.0, 6, 0.1, exponent=2.0)
    1, 0.883461431702998, 0.60625, 0.325, 0.15625, 0.104038568297003, 0.1, 0.1
CosineRestarts(1.0, 2, 2, 0.1)
    1, 0.55, 1, 0.868198051533946, 0.55, 0.231801948466054, 1, 0.965745789630079
OneCycle(1.0, 8)
    0.04, 0.819275104892192, 0.971941777387523, 0.811745653949763, 0.555984014122702, 0.283060998208699,
    0.0766415938342564, 4e-06
OneCycle(1.0, 8, anneal='linear', div_factor=10.0, final_div_factor=10.0)
    0.1, 0.742857142857143, 0.893928571428571, 0.717142857142857, 0.540357142857143, 0.363571428571429,
    0.186785714285714, 0.01
OneCycle(1.0, 8, pct_start=0.4, three_phase=True)
    0.04, 0.451688877628823, 0.980556627334959, 0.719399206240906, 0.116198304241033, 0.0349707179419257,
    0.0129106114689234, 4e-06
OneCycleMomentum(0.85, 0.95, 8)
    0.95, 0.868825509907063, 0.852805833484582, 0.868825509907063, 0.894401776194835, 0.921694186955878,
    0.942336209961414, 0.95
OneCycle(0.3, 8).momentum()
    0.95, 0.868825509907063, 0.852805833484582, 0.868825509907063, 0.894401776194835, 0.921694186955878,
    0.942336209961414, 0.95
OneCycle(1.0, 8, pct_start=0.4, three_phase=True, anneal='linear').momentum(0.5, 0.984375)
    0.984375, 0.764204545454545, 0.544034090909091, 0.676136363636364, 0.896306818181818, 0.984375, 0.984375, 0.984375
Cyclic(0.1, 1.0, 3)
    0.1, 0.4, 0.7, 1, 0.7, 0.4, 0.1, 0.400000000000001
Cyclic(0.1, 1.0, 2, 1, mode='triangular2')
    0.1, 0.55, 1, 0.1, 0.325, 0.55, 0.1, 0.2125
Cyclic(0.1, 1.0, 2, mode='exp_range', gamma=0.9)
    0.1, 0.505, 0.829, 0.42805, 0.1, 0.3657205, 0.5782969, 0.315233605
Cyclic(0.1, 1.0, 3).momentum()
    0.9, 0.866666666666667, 0.833333333333333, 0.8, 0.833333333333333, 0.866666666666667, 0.9, 0.866666666666667
Cyclic(0.1, 1.0, 2, 1, mode='triangular2').momentum(0.5, 0.75)
    0.75, 0.625, 0.5, 0.75, 0.6875, 0.625, 0.75, 0.71875
WarmupStableDecay(1.0, 2, 2, 3, 0.1)
    0, 0.5, 1, 1, 1, 0.480384757729337, 0.265153077165047, 0.1
WarmupStableDecay(1.0, 2, 2, 3, shape='cosine')
    0, 0.5, 1, 1, 1, 0.75, 0.25, 0
Warmup(3, CosineDecay(1.0, 4), start=0.1)
    0.1, 0.4, 0.7, 1, 0.853553390593274, 0.5, 0.146446609406726, 0
Join([Constant(0.5), LinearDecay(1.0, 4)], [3])
    0.5, 0.5, 0.5, 1, 0.75, 0.5, 0.25, 0
Product(Hold(1.0, 0.25, 3), ExponentialDecay(1.0, 0.5))
    0.25, 0.125, 0.0625, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125
ReduceOnPlateau(1.0, 0.5, patience=1, cooldown=1), lr after reports of [3, 2, 2, 2, 2, 2, 1, 1]
    1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5
"""

VALUES = [
    (StepDecay(0.5, every=3, factor=0.25), {0: 0.5, 2: 0.5, 3: 0.125, 5: 0.125, 6: 0.03125, 10**6: 0.0}),
    (StepDecay(1.0, every=1), {0: 1.0, 1: 0.1, 2: 0.1**2}),
    (StepDecay(1.0, every=2, factor=0.0), {0: 1.0, 1: 1.0, 2: 0.0}),
    (StepDecay(0.0, every=1, factor=2.0), {0: 0.0, 1: 0.0, 1023: 0.0, 1024: 0.0, 10**9: 0.0}),
    (ExponentialDecay(0.0, 2.0), {0: 0.0, 1023: 0.0, 1024: 0.0, 10**9: 0.0}),
    (Warmup(2, StepDecay(0.0, every=1, factor=1e300)), {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0, 5: 0.0}),
    (ExponentialDecay(0.5, 0.5, every=4), {0: 0.5, 4: 0.25, 8: 0.125, 2: 0.5 * 0.5**0.5}),
    (ExponentialDecay(2.0, 0.5), {0: 2.0, 1: 1.0, 10: 2.0**-9, 10**6: 0.0}),
    (LinearDecay(1.0, total=8, final=0.25), {0: 1.0, 4: 0.625, 8: 0.25, 9: 0.25, 10**9: 0.25}),
    (LinearDecay(0.0, total=4, final=1.0), {0: 0.0, 1: 0.25, 4: 1.0}),
    (LinearDecay(1.0, total=1), {0: 1.0, 1: 0.0}),
    (CosineDecay(1.0, total=8, final=0.5), {0: 1.0, 4: 0.75, 8: 0.5, 100: 0.5}),
    (CosineDecay(1.0, total=4), {1: (1 + math.sqrt(0.5)) / 2, 3: (1 - math.sqrt(0.5)) / 2, 4: 0.0}),
    (Warmup(4, StepDecay(1.0, every=2)), {0: 0.0, 1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0, 5: 1.0, 6: 0.1}),
    (Warmup(2, Warmup(2, LinearDecay(1.0, total=2))), {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.5, 4: 1.0, 5: 0.5, 6: 0.0}),
    (Warmup(1, float), {0: 0.0, 1: 0.0, 2: 1.0, 5: 4.0}),
]


@pytest.mark.parametrize(("schedule", "values"), VALUES, ids=[repr(row[0])[:60] for row in VALUES])
def test_values(schedule, values):
    for t, value in values.items():
        # The formulas here and there round a few operations of numbers up to 2: 4 units in the last place of 1.
        assert schedule(t) == pytest.approx(value, rel=0, abs=1e-15), t
        assert isinstance(schedule(t), float)


@pytest.mark.parametrize(("call", "numbers"), re.findall(r"^(\w.*)\n((?: .*\n)+)", EXAMPLES, re.MULTILINE))
def test_eight_values_are_those_of_the_example(call, numbers):
    wanted = [float(number) for number in numbers.split(",")]
    call, _, metrics = call.partition(", lr after reports of ")
    schedule = eval(call, vars(schedules))
    found = [schedule.report(m) for m in ast.literal_eval(metrics)] if metrics else [schedule(t) for t in range(8)]
    assert len(wanted) == 8
    assert found == pytest.approx(wanted, rel=1e-12, abs=0)
    assert all(type(rate) is float for rate in found)


def test_every_schedule_has_an_example_and_is_in_the_tests():
    assert set(re.findall(r"^\w+", EXAMPLES, re.MULTILINE)) == KINDS.keys() - {"Constant"}
    assert {type(schedule) for schedule in [*ALL, PLATEAU]} == set(KINDS.values())
    assert KINDS.keys() == set(schedules.__all__) - {"Schedule"}


ENDING = {
    "LinearDecay": lambda lr, final: LinearDecay(lr, 7, final),
    "PolynomialDecay": lambda lr, final: PolynomialDecay(lr, 7, final, 1.7),
    "CosineDecay": lambda lr, final: CosineDecay(lr, 7, final),
    "CosineDecay, exponent": lambda lr, final: CosineDecay(lr, 7, final, 1.7),
    **{
        f"WarmupStableDecay, {shape}": lambda lr, final, shape=shape: WarmupStableDecay(lr, 0, 0, 7, final, shape)
        for shape in ("linear", "cosine", "1-sqrt")
    },
}


@pytest.mark.parametrize("make", ENDING.values(), ids=ENDING)
def test_the_ends_of_a_decay_are_exact(make):
    for lr, final in itertools.product([0.1, 1e-3, 0.3, 7.0], [0.0, 0.03, 1e-5, 0.1, 1e-18]):
        schedule = make(lr, final)
        assert schedule(0) == lr
        assert schedule(7) == schedule(8) == schedule(10**12) == final
        # Between them it may leave what is between them by its last rounding.
        low, high = min(lr, final) * (1 - 2**-52), max(lr, final) * (1 + 2**-52)
        assert all(low <= schedule(t) <= high for t in range(9))


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_schedules_compare_print_copy_and_pickle_as_what_they_are(schedule):
    for other in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), eval(repr(schedule))):
        assert other == schedule
        assert hash(other) == hash(schedule)
        assert [other(t) for t in range(20)] == [schedule(t) for t in range(20)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.lr = 3.0


def test_phases_and_cycles_without_any_length_or_end():
    assert [OneCycle(1.0, 1)(t) for t in range(3)] == [4e-6] * 3
    assert [OneCycle(1.0, 4, pct_start=0.25)(t) for t in (0, 3, 9)] == [1.0, 4e-6, 4e-6]  # its first phase is one point
    assert [OneCycle(1.0, 3, pct_start=1.0)(t) for t in (0, 2, 9)] == [0.04, 1.0, 1.0]
    assert [OneCycle(1.0, 3, pct_start=0.0, three_phase=True)(t) for t in (2, 9)] == [4e-6, 4e-6]
    most = 2**63 - 1
    for schedule in (
        Cyclic(0.0, 1.0, most, most),
        CosineDecay(1.0, most, periodic=True),
        CosineRestarts(1.0, most, most),
        WarmupStableDecay(1.0, most, most, most),
        Join([1.0, 2.0], [most]),
        OneCycle(1.0, most),
    ):
        t = np.array([0, 5, 2**50])
        assert schedule(t).tolist() == [schedule(k) for k in t.tolist()]
    grown = Cyclic(0.25, 1.0, 1, mode="exp_range", gamma=1e300)
    assert grown(np.arange(5)).tolist() == [grown(t) for t in range(5)] == [0.25, 0.25 + 0.75e300, 0.25, math.inf, 0.25]


def test_a_peak_is_reached_and_a_warm_up_of_no_steps_is_none():
    assert [Cyclic(0.1, 0.7, 3)(t) for t in (0, 3, 6, 3 * 10**9)] == [0.1, 0.7, 0.1, 0.1]
    assert [Cyclic(0.5, 0.25, 3)(t) for t in (0, 3)] == [0.5, 0.25]
    assert WarmupStableDecay(0.3, 7, 2, 5)(7) == InverseSqrtWarmup(0.3, 7)(7) == 0.3
    assert Warmup(0, LinearDecay(1.0, 4))(0) == 1.0
    assert Warmup(2, 1.0, start=3.0)(1) == 2.0


LR = "lr is -1: wanted a finite number of at least 0"
AT_LEAST_0 = "wanted a finite number of at least 0"
ABOVE_0 = "wanted a finite number above 0"
STEPS_0, STEPS_1 = (f"wanted a whole number of steps of at least {n}" for n in (0, 1))
WRONG = [
    (lambda: StepDecay(-1, 3), ValueError, LR),
    (lambda: StepDecay(math.nan, 3), ValueError, "lr is nan: wanted a finite number of at least 0"),
    (lambda: StepDecay("1", 3), TypeError, "lr is '1', a str: wanted a finite number of at least 0"),
    (lambda: StepDecay(1, 0), ValueError, "every is 0: wanted a whole number of steps of at least 1"),
    (lambda: StepDecay(1, 2**63), ValueError, f"every is {2**63}: wanted a number of steps below 2**63"),
    (lambda: StepDecay(1, 1.5), ValueError, "every is 1.5: wanted a whole number of steps of at least 1"),
    (lambda: StepDecay(1, True), ValueError, "every is True: wanted a whole number of steps of at least 1"),
    (lambda: StepDecay(1, 3, -0.5), ValueError, "factor is -0.5: wanted a finite number of at least 0"),
    (lambda: ExponentialDecay(-1, 0.5), ValueError, LR),
    (lambda: ExponentialDecay(1, math.inf), ValueError, "factor is inf: wanted a finite number of at least 0"),
    (lambda: ExponentialDecay(1, 0.5, 0), ValueError, "every is 0: wanted a whole number of steps of at least 1"),
    (lambda: LinearDecay(-1, 3), ValueError, LR),
    (lambda: LinearDecay(1, 0), ValueError, "total is 0: wanted a whole number of steps of at least 1"),
    (lambda: LinearDecay(1, 3, -2), ValueError, "final is -2: wanted a finite number of at least 0"),
    (lambda: CosineDecay(-1, 3), ValueError, LR),
    (lambda: CosineDecay(1, "3"), ValueError, "total is '3': wanted a whole number of steps of at least 1"),
    (lambda: CosineDecay(1, 3, math.nan), ValueError, "final is nan: wanted a finite number of at least 0"),
    (lambda: CosineDecay(1, 3, exponent=0), ValueError, f"exponent is 0: {ABOVE_0}"),
    (lambda: CosineDecay(1, 3, periodic=1), TypeError, "periodic is 1, a int: wanted True or False"),
    (lambda: ExponentialDecay(1, 0.5, staircase="no"), TypeError, "staircase is 'no', a str: wanted True or False"),
    (lambda: ExponentialDecay(1, 0.5, begin=-1), ValueError, f"begin is -1: {STEPS_0}"),
    (lambda: ExponentialDecay(1, 0.5, final=-1), ValueError, f"final is -1: {AT_LEAST_0}"),
    (lambda: Warmup(-1, FEW[0]), ValueError, f"steps is -1: {STEPS_0}"),
    (lambda: Warmup(1, FEW[0], start=-1), ValueError, f"start is -1: {AT_LEAST_0}"),
    (lambda: Hold(1, -1), ValueError, f"factor is -1: {AT_LEAST_0}"),
    (lambda: Hold(1, steps=0.5), ValueError, f"steps is 0.5: {STEPS_0}"),
    (lambda: MultiStepDecay(1, 3), TypeError, "milestones is 3, a int: wanted a list of step numbers"),
    (lambda: MultiStepDecay(1, [3, -1]), ValueError, f"milestones[1] is -1: {STEPS_0}"),
    (lambda: MultiStepDecay(1, [3, 2]), ValueError,
     "milestones is [3, 2]: wanted step numbers in order, the first one first"),
    (lambda: Piecewise([1, "2"], [3]), TypeError, f"rates[1] is '2', a str: {AT_LEAST_0}"),
    (lambda: Piecewise("12", [3]), TypeError, "rates is '12', a str: wanted a list of rates"),
    (lambda: Piecewise([1, 2], []), ValueError, "rates has 2 and milestones has 0: wanted one more in rates"),
    (lambda: PolynomialDecay(1, 0), ValueError, f"total is 0: {STEPS_1}"),
    (lambda: PolynomialDecay(1, 3, power=0), ValueError, f"power is 0: {ABOVE_0}"),
    (lambda: InverseTime(1, -1), ValueError, f"rate is -1: {AT_LEAST_0}"),
    (lambda: InverseSqrtWarmup(1, 0), ValueError, f"steps is 0: {STEPS_1}"),
    (lambda: Noam(-1, 8, 3), ValueError, f"scale is -1: {AT_LEAST_0}"),
    (lambda: Noam(1, 0, 3), ValueError, f"width is 0: {ABOVE_0}"),
    (lambda: Noam(1, 8, 0), ValueError, f"warmup is 0: {STEPS_1}"),
    (lambda: CosineRestarts(1, 0), ValueError, f"period is 0: {STEPS_1}"),
    (lambda: CosineRestarts(1, 3, 1.5), ValueError, "mult is 1.5: wanted a whole number of at least 1"),
    (lambda: CosineRestarts(1, 3, decay=-1), ValueError, f"decay is -1: {AT_LEAST_0}"),
    (lambda: OneCycle(1, 9, 1.5), ValueError, "pct_start is 1.5: wanted a number from 0 to 1"),
    (lambda: OneCycle(1, 9, div_factor=0), ValueError, f"div_factor is 0: {ABOVE_0}"),
    (lambda: OneCycle(1, 9, final_div_factor=0), ValueError, f"final_div_factor is 0: {ABOVE_0}"),
    (lambda: OneCycle(1, 9, three_phase=None), TypeError, "three_phase is None, a NoneType: wanted True or False"),
    (lambda: OneCycle(1, 9, anneal="sin"), ValueError, "anneal is 'sin': wanted one of 'cos', 'linear'"),
    (lambda: Cyclic(-1, 2), ValueError, f"low is -1: {AT_LEAST_0}"),
    (lambda: Cyclic(1, -2), ValueError, f"high is -2: {AT_LEAST_0}"),
    (lambda: Cyclic(1, 2, 0), ValueError, f"up is 0: {STEPS_1}"),
    (lambda: Cyclic(1, 2, 3, 0), ValueError, f"down is 0: {STEPS_1}"),
    (lambda: Cyclic(1, 2, mode="square"), ValueError,
     "mode is 'square': wanted one of 'triangular', 'triangular2', 'exp_range'"),
    (lambda: Cyclic(1, 2, gamma=-1), ValueError, f"gamma is -1: {AT_LEAST_0}"),
    (lambda: WarmupStableDecay(1, -1, 2, 3), ValueError, f"warmup is -1: {STEPS_0}"),
    (lambda: WarmupStableDecay(1, 1, -2, 3), ValueError, f"stable is -2: {STEPS_0}"),
    (lambda: WarmupStableDecay(1, 1, 2, 0), ValueError, f"decay is 0: {STEPS_1}"),
    (lambda: WarmupStableDecay(1, 1, 2, 3, shape="sqrt"), ValueError,
     "shape is 'sqrt': wanted one of 'linear', 'cosine', '1-sqrt'"),
    (lambda: Join([1, None], [3]), TypeError, f"schedules[1] is None, a NoneType: {AT_LEAST_0}"),
    (lambda: Join(0.5, [3]), TypeError, "schedules is 0.5, a float: wanted a list of schedules"),
    (lambda: Join([0.5], [3]), ValueError, "schedules has 1 and milestones has 1: wanted one more in schedules"),
    (lambda: Product(), ValueError, "schedules is (): wanted at least one schedule"),
    (lambda: Product(0.5, -1), ValueError, f"schedules[1] is -1: {AT_LEAST_0}"),
    (lambda: ReduceOnPlateau(1, 1.0), ValueError, "factor is 1.0: wanted a number of at least 0 and below 1"),
    (lambda: ReduceOnPlateau(1, patience=-1), ValueError,
     "patience is -1: wanted a whole number of reports of at least 0"),
    (lambda: ReduceOnPlateau(1, threshold=-1), ValueError, f"threshold is -1: {AT_LEAST_0}"),
    (lambda: ReduceOnPlateau(1, threshold_mode="x"), ValueError, "threshold_mode is 'x': wanted one of 'rel', 'abs'"),
    (lambda: ReduceOnPlateau(1, mode="least"), ValueError, "mode is 'least': wanted one of 'min', 'max'"),
    (lambda: ReduceOnPlateau(1, cooldown=2.0), ValueError,
     "cooldown is 2.0: wanted a whole number of reports of at least 0"),
    (lambda: ReduceOnPlateau(1, min_lr=-1), ValueError, f"min_lr is -1: {AT_LEAST_0}"),
    (lambda: ReduceOnPlateau(1, eps=-1), ValueError, f"eps is -1: {AT_LEAST_0}"),
    (lambda: ReduceOnPlateau(1, best=math.nan), ValueError, "best is nan: wanted a number, or None"),
    (lambda: ReduceOnPlateau(1, best="1"), ValueError, "best is '1': wanted a number, or None"),
    (lambda: ReduceOnPlateau(1, bad=-1), ValueError, "bad is -1: wanted a whole number of reports of at least 0"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), WRONG, ids=[f"{i}: {row[2]}" for i, row in enumerate(WRONG)])
def test_wrong_fields_are_refused(make, error, message):
    with pytest.raises(error, match=says(message)):
        make()


def test_a_warmup_to_a_number_stays_there_and_to_what_is_no_rate_is_refused():
    lr = Warmup(4, 0.25)
    assert [lr(t) for t in range(6)] == [0.0, 0.0625, 0.125, 0.1875, 0.25, 0.25]
    assert lr == Warmup(4, Constant(0.25))
    assert [lr(np.arange(3))[2], Constant(0.25)(10**9)] == [0.125, 0.25]
    for wrong, error in ((-0.1, ValueError), (np.nan, ValueError), ("0.1", TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"^after is"):
            Warmup(5, wrong)


def test_a_numpy_integer_is_a_number_of_steps():
    assert StepDecay(1.0, every=np.int64(2))(2) == 0.1


@pytest.mark.parametrize("schedule", FEW, ids=repr)
@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_a_schedule_is_the_same_as_setting_lr_before_each_step(record, schedule):
    w, w2 = np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)
    opt, by_hand = record.make(w, lr=0.0), record.make(w2, lr=0.0)
    opt.lr = schedule
    if schedule(0) == 0 and record.name in REFUSE_RATE_0:
        with pytest.raises(ValueError, match="lr is 0"):
            stepped(opt, w2)
        return
    for t in range(7):
        by_hand.lr = schedule(t)
        g = np.cos(np.arange(5) + t)
        stepped(opt, g)
        stepped(by_hand, g, reference=True)
        assert w.tobytes() == w2.tobytes()


# As users meet them: long ones, at which library functions are asked for numbers that are no round ones.
LONG = [
    *ALL,
    CosineRestarts(3e-4, 50, 2, 1e-5, 0.7),
    OneCycle(3e-4, 4321),
    Cyclic(1e-5, 3e-4, 777, 555, "exp_range", 0.9999),
    PolynomialDecay(3e-4, 4321, 1e-5, 0.9),
    CosineDecay(3e-4, 777, 1e-5, 1.1, periodic=True),
    WarmupStableDecay(3e-4, 300, 2000, 1500, 1e-5),
    Join([Warmup(100, 3e-4), CosineDecay(3e-4, 1000), Product(Hold(1.0, 0.1, 9), Noam(1.0, 512, 400))], [700, 2000]),
    StepDecay(lr=0.3, every=7, factor=0.97),
    ExponentialDecay(lr=0.3, factor=0.9, every=1000),
    LinearDecay(lr=3e-4, total=777, final=1e-5),
    CosineDecay(lr=3e-4, total=777, final=1e-5),
    Warmup(steps=300, after=CosineDecay(lr=3e-4, total=500, final=1e-5)),
    StepDecay(lr=0.0, every=1, factor=2.0),
    ExponentialDecay(lr=0.0, factor=1.5),
    Warmup(steps=300, after=ExponentialDecay(lr=0.0, factor=2.0)),
    Warmup(steps=10, after=Warmup(steps=300, after=ExponentialDecay(lr=0.1, factor=0.999))),
]


@pytest.mark.parametrize("schedule", LONG, ids=repr)
def test_an_array_of_steps_gives_the_bits_of_each_step_alone(schedule):
    for t in (np.arange(5000), np.array([[5, 0, 299], [300, 10**9, 2**53]]), np.arange(0)):
        together = schedule(t)
        assert together.dtype == np.float64
        assert together.shape == t.shape
        assert together.ravel().tolist() == [schedule(k) for k in t.ravel().tolist()]


@pytest.mark.parametrize("schedule", LONG, ids=repr)
def test_an_optimizer_has_the_rate_of_each_step_to_the_last_bit(schedule):
    w, one = np.zeros(1), np.ones(1)
    opt = SGD(w, lr=schedule)
    for t in itertools.chain(range(600), range(10**6, 10**6 + 5)):  # past the end of what the engine asks for at once
        if t == 10**6:
            opt.load_state_dict({**opt.state_dict(), "steps": t})
        w[0] = 0.0
        opt.step(one)
        assert -w[0] == schedule(t), t


def test_only_a_schedule_of_this_module_is_asked_for_steps_ahead():
    class Halved(CosineDecay):
        def __call__(self, t):
            asked.append(t)
            return super().__call__(t) / 2 if t < 3 else 0.0

    def plain(t):
        asked.append(t)
        return 0.1

    for schedule, wanted in [
        (Halved(1.0, total=8), [0, 1, 2, 3]),
        (Warmup(2, plain), [0, 0, 0, 1]),
        (Warmup(2, Warmup(1, plain)), [0, 0, 0, 0]),
        (plain, [0, 1, 2, 3]),
    ]:
        asked: list[int] = []
        w = np.zeros(1)
        opt = SGD(w, lr=schedule)
        for _ in range(4):
            opt.step(np.ones(1))
        assert asked == wanted
        assert all(type(t) is int for t in asked)


class WithHardStop(LinearDecay):
    """A formula for one number only."""

    def _rate(self, t):
        return 0.0 if t > 5 else math.gcd(t, self.total) / self.total


class InCall(StepDecay):
    def __call__(self, t):
        return 0.5 if t == 1 else super().__call__(t)


class AlwaysOne(ExponentialDecay):
    """One number, also for many steps."""

    def _rate(self, t):
        return 0.25 if isinstance(t, int) else 0.125


class InPart(Warmup):
    """Changes what the formula uses."""

    def _line(self, t):
        return min(0.5, math.ldexp(1.0, t - 8))


class Unchanged(CosineDecay):
    pass


@dataclasses.dataclass(frozen=True)
class WithField(CosineDecay):
    twice: bool = True

    def _rate(self, t):
        return super()._rate(t) * (2 if self.twice else 1)


@pytest.mark.parametrize(
    "schedule",
    [
        WithHardStop(1.0, total=4),
        InCall(1.0, every=2),
        AlwaysOne(1.0, 0.5),
        InPart(4, CosineDecay(1.0, total=8)),
        Unchanged(1.0, total=8),
        WithField(1.0, total=8),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
@pytest.mark.parametrize("warmups", [0, 1, 2])
def test_what_a_user_makes_of_a_schedule_of_this_module_is_asked_step_by_step(schedule, warmups):
    for _ in range(warmups):
        schedule = Warmup(3, schedule)
    assert not takes_arrays(schedule)
    w, one = np.zeros(1), np.ones(1)
    opt = SGD(w, lr=schedule)
    for t in range(20):
        w[0] = 0.0
        opt.step(one)
        assert -w[0] == schedule(t), t


@pytest.mark.parametrize("schedule", LONG, ids=repr)
def test_those_of_this_module_take_arrays(schedule):
    assert takes_arrays(schedule)
    assert takes_arrays(Warmup(5, schedule))


FOREIGN = [Warmup(3, float), Join([0.5, float], [3]), Product(0.5, Warmup(1, Join([Unchanged(1.0, 8)], [])))]


@pytest.mark.parametrize("other", [0.1, None, float, WithHardStop, StepDecay, lambda t: 0.1, *FOREIGN, *HOLDING])
def test_no_other_thing_takes_arrays(other):
    assert not takes_arrays(other)


def test_a_rate_that_grows_past_all_numbers_is_refused_in_its_own_step_and_not_before():
    schedule = StepDecay(1.0, every=1, factor=1e100)
    w = np.zeros(1)
    opt = SGD(w, lr=schedule)
    for _ in range(4):
        opt.step(np.zeros(1))
    before = everything(opt, w)
    message = f"lr schedule {schedule!r} after 4 steps is inf: wanted a finite number of at least 0"
    for _ in range(2):
        with pytest.raises(ValueError, match=says(message)):
            opt.step(np.zeros(1))
    assert everything(opt, w) == before


def test_fields_are_kept_in_their_normal_form():
    schedule = LinearDecay(np.float32(0.5), total=np.int8(100), final=0)
    assert repr(schedule) == "LinearDecay(lr=0.5, total=100, final=0.0)"
    assert schedule(300) == 0.0
    assert schedule == LinearDecay(0.5, 100)
    assert repr(Piecewise(np.array([1, 2]), range(3, 4))) == "Piecewise(rates=(1.0, 2.0), milestones=(3,))"
    joined = Join([1, Hold(2, 0.5)], [np.int8(3)])
    assert repr(joined) == "Join(schedules=(Constant(lr=1.0), Hold(lr=2.0, factor=0.5, steps=5)), milestones=(3,))"
    assert repr(Product(1, joined)) == f"Product(Constant(lr=1.0), {joined!r})"


@pytest.mark.parametrize("schedule", [*ALL, *HOLDING], ids=repr)
def test_a_schedule_is_described_in_plain_things_and_restored(schedule):
    plain = described(schedule)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    again = restored(json.loads(json.dumps(plain)))
    assert again == schedule
    assert repr(again) == repr(schedule)
    assert described(again) == plain


@pytest.mark.parametrize("schedule", FOREIGN, ids=repr)
def test_what_is_made_of_a_callable_of_the_users_is_not_described(schedule):
    assert described(schedule) is None
    assert described(Warmup(2, Product(schedule, 0.5))) is None


def test_descriptions_from_before_there_were_more_fields_are_restored():
    after = {"schedule": "CosineDecay", "lr": 1.0, "total": 8, "final": 0.25}
    assert restored({"schedule": "Warmup", "steps": 3, "after": after}) == Warmup(3, CosineDecay(1.0, 8, 0.25))
    old = {"schedule": "ExponentialDecay", "lr": 1.0, "factor": 0.5, "every": 3}
    assert restored(old) == ExponentialDecay(1.0, 0.5, 3)


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"schedule": "Schedule"},
        {"schedule": "Hold"},
        {"schedule": "Hold", "lr": 0.5, "speed": 1},
        {"schedule": "Product", "schedules": [{"schedule": "Hold"}]},
        {"schedule": "Product", "schedules": []},
        {"schedule": "Product", "schedules": 7},
        {"schedule": "Join", "schedules": {"schedule": "Constant", "lr": 0.5}, "milestones": []},
        {"schedule": ["Hold"], "lr": 0.5},
        {"schedule": "MultiStepDecay", "lr": 0.5, "milestones": [[3]]},
    ],
    ids=str,
)
def test_a_description_of_no_schedule_is_refused(description):
    with pytest.raises((TypeError, ValueError)):
        restored(description)


def test_schedules_are_called_with_the_number_of_steps_applied_as_an_integer():
    seen = []

    def schedule(t):
        seen.append(t)
        return 0.1

    opt = SGD([{"params": np.zeros(1)}, {"params": np.zeros(1), "lr": 1.0}], lr=schedule, nonfinite="skip")
    one, bad = np.ones(1), np.array([np.nan])
    assert stepped(opt, [one, one])
    assert not stepped(opt, [one, bad])
    assert stepped(opt, [one, None])
    with pytest.raises(ValueError, match="shape"):
        stepped(opt, [np.ones(2), one])
    assert stepped(opt, [one, one], reference=True)
    assert seen == [0, 1, 1, 2, 2]  # a step that is skipped or refused has asked as well
    assert all(type(t) is int for t in seen)


def test_decoupled_decay_follows_the_schedule():
    w = np.array([1.0])
    opt = AdamW(w, lr=Warmup(2, StepDecay(1.0, every=9)), weight_decay=0.5)
    for expected in (1.0, 0.75, 0.375):
        opt.step(np.zeros(1))
        assert w[0] == expected


RETURNS = [
    (math.nan, ValueError, " is nan: "),
    (math.inf, ValueError, " is inf: "),
    (-1e-9, ValueError, " is -1e-09: "),
    ("0.1", TypeError, " is '0.1', a str: "),
    (None, TypeError, " is None, a NoneType: "),
    (True, TypeError, " is True, a bool: "),
    (np.ones(2), TypeError, " is array([1., 1.]), a ndarray: "),
]


@pytest.mark.parametrize("reference", [False, True], ids=["step", "reference_step"])
@pytest.mark.parametrize(("value", "error", "message"), RETURNS, ids=[row[2] for row in RETURNS])
def test_a_schedule_that_returns_no_learning_rate_changes_nothing(value, error, message, reference):
    answers = [0.1, value, 0.1]

    class Schedule:
        def __call__(self, t):
            return answers[t]

        def __repr__(self):
            return "Schedule()"

    a, b = np.ones(3), np.ones(3)
    opt = Adam([{"params": a}, {"params": b, "lr": Schedule()}], zero_grads=True, clip_norm=1.0)
    g = [np.ones(3), np.ones(3)]
    step = opt.reference_step if reference else opt.step
    step(g)
    g = [np.ones(3), np.ones(3)]
    before = everything(opt, [a, b], g)
    with pytest.raises(
        error, match=says(f"lr schedule Schedule() after 1 steps{message}wanted a finite number of at least 0")
    ):
        step(g)
    assert everything(opt, [a, b], g) == before
    answers[1] = 0.1
    assert step(g)


def test_a_schedule_that_raises_changes_nothing():
    w = np.ones(3)
    opt = Adam(w, lr=lambda t: 1 / (1 - t))
    opt.step(np.ones(3))
    before = everything(opt, w)
    with pytest.raises(ZeroDivisionError):
        opt.step(np.ones(3))
    assert everything(opt, w) == before


def test_a_schedule_may_ask_the_optimizer_what_it_knows_and_does_not_hang():
    w = np.ones(1)
    opt = SGD(w)
    opt.lr = lambda t: 0.5 if opt.steps == t and list(opt.state) == ["params"] else 0.25
    opt.step(np.ones(1))
    assert w[0] == 0.5


# ---- one that is told how the run goes ----


def torchs(schedule, metrics):
    """The rates after each report, by the words of the specification."""
    lr, best, bad, cool = schedule.lr, math.inf if schedule.mode == "min" else -math.inf, 0, 0
    for m in metrics:
        better = {
            ("min", "rel"): m < best * (1 - schedule.threshold),
            ("min", "abs"): m < best - schedule.threshold,
            ("max", "rel"): m > best * (1 + schedule.threshold),
            ("max", "abs"): m > best + schedule.threshold,
        }[schedule.mode, schedule.threshold_mode]
        best, bad = (m, 0) if better else (best, bad + 1)
        if cool > 0:
            cool, bad = cool - 1, 0
        if bad > schedule.patience:
            new = max(lr * schedule.factor, schedule.min_lr)
            lr, cool, bad = new if lr - new > schedule.eps else lr, schedule.cooldown, 0
        yield lr


RUN = [3.0, 2.0, math.nan, 1.9, 1.9, 2.5, -1.0, -1.0, -1.1, math.inf, -0.5, -1.05, 0.0, 0.0, 7.0, 8.0, 8.0, -math.inf]
PLATEAUS = [
    ReduceOnPlateau(1.0, 0.5, patience, threshold, threshold_mode, mode, cooldown, 0.05)
    for patience, threshold, threshold_mode, mode, cooldown in itertools.product(
        [0, 2], [0.0, 0.1], ["rel", "abs"], ["min", "max"], [0, 1]
    )
]


@pytest.mark.parametrize("schedule", PLATEAUS, ids=repr)
def test_a_plateau_follows_its_specification(schedule):
    schedule = copy.deepcopy(schedule)
    wanted = list(torchs(schedule, RUN * 3))
    assert [schedule.report(m) for m in RUN * 3] == wanted
    assert min(wanted) == 0.05
    assert schedule(0) == schedule(10**9) == wanted[-1]
    assert schedule(np.arange(3)).tolist() == wanted[-1:] * 3


def test_a_fall_that_is_too_small_is_none():
    schedule = ReduceOnPlateau(1e-8, 0.5, 0, cooldown=2)
    assert [schedule.report(1.0) for _ in range(2)] == [1e-8] * 2
    assert (schedule.bad, schedule.cool) == (0, 2)  # but it cools down, as in torch


def test_a_plateau_is_equal_by_its_numbers_and_prints_copies_and_pickles_as_what_it_is():
    schedule, other = copy.deepcopy(PLATEAU), copy.deepcopy(PLATEAU)
    for metric in (2.0, 3.0, 1.0):
        schedule.report(metric)
        assert schedule != other
        for again in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), eval(repr(schedule))):
            assert again == schedule
            assert again(0) == schedule(0)
            again.report(5.0)
            assert again != schedule
        other.report(metric)
        assert schedule == other
    assert repr(schedule).endswith("eps=1e-08, best=1.0, bad=0, cool=1)")
    for unhashable in (schedule, Warmup(3, schedule)):
        with pytest.raises(TypeError, match="unhashable"):
            hash(unhashable)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.lr = 0.25
    with pytest.raises(TypeError):
        ReduceOnPlateau(0.5, 0.5, 0, 0.0, "rel", "min", 0, 0.0, 0.0, 2.0)  # its state is given by name


def test_a_metric_is_any_number():
    for metric in (3, 3.0, np.float32(3), np.array(3.0), np.array([3.0])):
        schedule = ReduceOnPlateau(0.5)
        schedule.report(metric)
        assert schedule.best == 3.0
        assert type(schedule.best) is float
    for wrong, shown in [
        (None, "None, a NoneType"),
        (True, "True, a bool"),
        ("3", "'3', a str"),
        (np.ones(2), "array([1., 1.]), a ndarray"),
        (1j, "1j, a complex"),
    ]:
        with pytest.raises(TypeError, match=says(f"metric is {shown}: wanted a number")):
            schedule.report(wrong)
    assert schedule == ReduceOnPlateau(0.5, best=3.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda plateau: plateau,
        lambda plateau: Warmup(2, plateau),
        lambda plateau: Product(plateau, 1.0),
        lambda plateau: Join([0.5, plateau], [1]),
        lambda plateau: Warmup(1, Product(Hold(1.0), plateau)),
    ],
)
@pytest.mark.parametrize("reference", [False, True], ids=["step", "reference_step"])
def test_what_is_reported_holds_from_the_next_step_on(make, reference):
    plateau = copy.deepcopy(PLATEAU)
    schedule = make(plateau)
    w = np.zeros(1)
    opt = SGD(w, lr=schedule)
    rates = []
    for t in range(20):
        w[0] = 0.0
        stepped(opt, np.ones(1), reference)
        assert -w[0] == schedule(t)
        rates.append(schedule(10))
        plateau.report(1.0)
        assert opt.current_lr == schedule(t + 1)
    assert len(set(rates)) == 7


def held(schedule):
    """The first plateau inside a schedule."""
    if type(schedule) is ReduceOnPlateau:
        return schedule
    inner = [getattr(schedule, "after", None), *getattr(schedule, "schedules", ())]
    return next(filter(None, map(held, inner)), None) if type(schedule) in KINDS.values() else None


WAYS = {
    "dict": lambda opt, saved, path: opt.load_state_dict(saved.state_dict()),
    "file": lambda opt, saved, path: (saved.save(path), opt.load(path)),
    "in place": lambda opt, saved, path: (saved.save(path), opt.load(path, in_place=True)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("schedule", HOLDING, ids=repr)
def test_a_load_puts_the_saved_numbers_into_the_plateau_that_the_optimizer_has(schedule, way, tmp_path):
    schedule, fresh = copy.deepcopy(schedule), copy.deepcopy(schedule)
    saved = SGD(np.zeros(1), lr=schedule)
    opt = SGD(np.zeros(1), lr=fresh)
    mine = held(fresh)
    for metric in (2.0, 3.0):
        held(schedule).report(metric)
    kept = saved.state_dict()
    way(opt, saved, tmp_path / "x")
    assert held(opt.lr) is mine
    assert opt.lr == schedule
    assert mine == held(schedule) != PLATEAU
    # Whoever reports goes on with it, and what it was loaded from is as it was.
    for metric in (3.0, 3.0, 3.0, 3.0):
        mine.report(metric)
    assert held(opt.lr)(0) == mine(0) == 0.125
    assert held(schedule)(0) == 0.25
    opt.load_state_dict(kept)
    assert held(opt.lr) is mine
    assert mine == held(schedule)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_where_there_is_no_plateau_a_load_makes_one_and_the_form_may_differ(way, tmp_path):
    plateau = copy.deepcopy(PLATEAU)
    plateau.report(2.0)
    saved = SGD(np.zeros(1), lr=Warmup(3, plateau))
    for lr in (0.5, CosineDecay(1.0, 8), float):
        opt = SGD(np.zeros(1), lr=lr)
        way(opt, saved, tmp_path / "x")
        assert opt.lr == Warmup(3, plateau)
        assert opt.lr.after is not plateau
    mine = ReduceOnPlateau(7.0)
    opt = SGD(np.zeros(1), lr=Product(mine, Hold(1.0)))
    way(opt, saved, tmp_path / "x")
    assert opt.lr == Warmup(3, plateau)
    assert opt.lr.after is mine
    opt = SGD(np.zeros(1), lr=mine)
    way(opt, SGD(np.zeros(1), lr=0.25), tmp_path / "y")
    assert opt.lr == 0.25
    assert mine == plateau


def groups_of(*rates):
    return SGD([{"params": np.zeros(1), "lr": lr} for lr in rates])


def test_groups_that_share_a_plateau_share_it_after_a_load():
    shared, alone = copy.deepcopy(PLATEAU), copy.deepcopy(PLATEAU)
    shared.report(2.0)
    alone.report(7.0)
    saved = groups_of(shared, Warmup(2, shared), alone).state_dict()
    for rates in ((0.5, 0.5, 0.5), (mine := ReduceOnPlateau(1.0), Warmup(9, mine), mine)):
        opt = groups_of(*rates)
        opt.load_state_dict(saved)
        first, second, third = opt.lr
        assert [first, second, third] == [shared, Warmup(2, shared), alone]
        assert second.after is first
        assert third is not first
        first.report(5.0)
        first.report(5.0)
        assert third == alone
    assert first is mine


def test_each_plateau_of_a_group_is_its_own():
    one, two = copy.deepcopy(PLATEAU), copy.deepcopy(PLATEAU)
    saved = groups_of(one, two).state_dict()
    mine = [ReduceOnPlateau(1.0), ReduceOnPlateau(2.0)]
    opt = groups_of(*mine)
    opt.load_state_dict(saved)
    assert [group["lr"] for group in opt.param_groups] == [PLATEAU, PLATEAU]
    assert all(group["lr"] is held for group, held in zip(opt.param_groups, mine, strict=True))
    opt = groups_of(0.5, 0.5)
    opt.load_state_dict(groups_of(Product(one, two), 0.25).state_dict())
    assert opt.lr == [Product(one, two), 0.25]
    assert opt.lr[0].schedules[0] is not opt.lr[0].schedules[1]


def test_a_plateau_may_be_any_number_and_its_object_stays_there_too():
    decay, beta = copy.deepcopy(PLATEAU), copy.deepcopy(PLATEAU)
    opt = Adam(np.ones(2), weight_decay=decay, betas=(Warmup(1, beta), 0.75), decoupled=True, lr=1.0)
    kept = opt.state_dict()
    decays = []
    for _ in range(4):
        opt.params[:] = 1.0
        opt.step(np.zeros(2))
        decays.append(1.0 - opt.params[0])
        decay.report(1.0)
    assert decays == [0.5, 0.5, 0.25, 0.25]
    beta.report(2.0)
    opt.load_state_dict(json.loads(json.dumps({**kept, "state": {}})) | {"state": kept["state"]})
    assert opt.weight_decay is decay
    assert opt.betas[0].after is beta
    assert decay == beta == PLATEAU


def test_a_load_that_fails_leaves_the_plateau_alone(monkeypatch):
    plateau = copy.deepcopy(PLATEAU)
    saved = groups_of(plateau, 0.5)
    plateau.report(2.0)
    snapshot = saved.state_dict()
    opt = groups_of(mine := copy.deepcopy(PLATEAU), 0.25)
    broken = copy.deepcopy(snapshot)
    broken["param_groups"][1]["lr"] = {"schedule": "ReduceOnPlateau", "lr": -1.0}
    with pytest.raises(ValueError, match="lr is -1"):
        opt.load_state_dict(broken)
    broken["param_groups"][1]["lr"] = 0.5
    broken["param_groups"][1]["weight_decay"] = -1.0
    with pytest.raises(ValueError, match="weight_decay"):
        opt.load_state_dict(broken)

    def full(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("fastopt.snapshots.restore", full)
        with pytest.raises(MemoryError):
            opt.load_state_dict(snapshot)
    assert mine == PLATEAU
    assert opt.lr == [PLATEAU, 0.25]
    opt.load_state_dict(snapshot)
    assert mine == plateau


def test_a_copy_of_an_optimizer_has_a_plateau_of_its_own_and_one_for_all_of_its_groups():
    plateau = copy.deepcopy(PLATEAU)
    opt = SGD([{"params": np.zeros(1)}, {"params": np.zeros(2)}], lr=plateau)
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        first, second = (group["lr"] for group in twin.param_groups)
        assert first is second is not plateau
        assert first == plateau


def test_a_description_and_a_copy_have_one_moments_numbers():
    plateau = ReduceOnPlateau(1.0, 0.999, 0, mode="max", threshold=0.0, eps=0.0)  # best and bad go together
    leave = threading.Event()

    def reports():
        while not leave.is_set():
            plateau.report(1.0 if plateau.best is None or plateau.best == 2.0 else plateau.best + 0.5)
            vars(plateau).update(best=None, bad=7, cool=7, lr=1.0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=reports)
    thread.start()
    try:
        for _ in range(300):
            for found in (described(plateau), vars(copy.copy(plateau)), vars(pickle.loads(pickle.dumps(plateau)))):
                assert (found["best"], found["bad"], found["cool"]) in {(None, 7, 7), (1.0, 0, 6), (None, 0, 0)}
    finally:
        leave.set()
        thread.join()
        sys.setswitchinterval(interval)


# ---- against other frameworks, where they are installed ----

# Their recursive forms, and powers and cosines of other libraries, round otherwise in each of some dozen steps.
PEERS = 1e-12
LAST = 60


def near(schedule, theirs):
    assert [schedule(t) for t in range(len(theirs))] == pytest.approx([float(x) for x in theirs], rel=PEERS, abs=1e-16)


ONE_CYCLE = {"div_factor": 10.0, "final_div_factor": 100.0}
TORCH = [
    (Constant(0.3), lambda of, opt: of.LambdaLR(opt, lambda t: 1.0)),
    (Hold(0.3, 0.25, 7), lambda of, opt: of.ConstantLR(opt, 0.25, 7)),
    (StepDecay(0.3, 7, 0.9), lambda of, opt: of.StepLR(opt, 7, 0.9)),
    (MultiStepDecay(0.3, [0, 3, 9, 9, 17], 0.7), lambda of, opt: of.MultiStepLR(opt, [0, 3, 9, 9, 17], 0.7)),
    (ExponentialDecay(0.3, 0.93), lambda of, opt: of.ExponentialLR(opt, 0.93)),
    (LinearDecay(0.3, 11, 0.03), lambda of, opt: of.LinearLR(opt, 1.0, 0.1, 11)),
    (PolynomialDecay(0.3, 41, power=1.7), lambda of, opt: of.PolynomialLR(opt, 41, 1.7)),
    (CosineDecay(0.3, 11, 0.03, periodic=True), lambda of, opt: of.CosineAnnealingLR(opt, 11, 0.03)),
    (CosineRestarts(0.3, 5, 2, 0.03), lambda of, opt: of.CosineAnnealingWarmRestarts(opt, 5, 2, 0.03)),
    (CosineRestarts(0.3, 7, 1, 0.03), lambda of, opt: of.CosineAnnealingWarmRestarts(opt, 7, 1, 0.03)),
    *[
        (
            OneCycle(0.3, 83, part, three_phase=three, anneal=anneal, **ONE_CYCLE),
            lambda of, opt, part=part, three=three, anneal=anneal: of.OneCycleLR(
                opt, 0.3, 83, pct_start=part, three_phase=three, anneal_strategy=anneal, **ONE_CYCLE
            ),
        )
        for part, three, anneal in itertools.product([0.1, 0.3, 0.6], [False, True], ["cos", "linear"])
    ],
    *[
        (
            Cyclic(0.03, 0.3, up, down, mode, 0.97),
            lambda of, opt, up=up, down=down, mode=mode: of.CyclicLR(
                opt, 0.03, 0.3, up, down, mode, 0.97, cycle_momentum=False
            ),
        )
        for (up, down), mode in itertools.product(
            [(5, None), (5, 9), (7, 3)], ["triangular", "triangular2", "exp_range"]
        )
    ],
    (Warmup(7, 0.3, start=0.1), lambda of, opt: of.LinearLR(opt, 0.1, 1.0, 7)),
    (
        Join([Hold(0.3, 0.25, 3), ExponentialDecay(0.3, 0.9), StepDecay(0.3, 4)], [5, 11]),
        lambda of, opt: of.SequentialLR(
            opt, [of.ConstantLR(opt, 0.25, 3), of.ExponentialLR(opt, 0.9), of.StepLR(opt, 4)], [5, 11]
        ),
    ),
    (
        Product(Hold(0.3, 0.25, 7), ExponentialDecay(1.0, 0.9)),
        lambda of, opt: of.ChainedScheduler([of.ConstantLR(opt, 0.25, 7), of.ExponentialLR(opt, 0.9)]),
    ),
]


def torch_optimizer(lr):
    torch = pytest.importorskip("torch", reason="torch is not installed: `pip install torch` to compare with it")
    return torch.optim, torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates_of_torch(opt, scheduler, name="lr"):
    for _ in range(LAST):
        yield opt.param_groups[0][name]
        opt.step()
        scheduler.step()


@pytest.mark.filterwarnings("ignore")  # of SequentialLR, which passes what torch itself has deprecated
@pytest.mark.parametrize(("schedule", "make"), TORCH, ids=[repr(row[0])[:90] for row in TORCH])
def test_rates_are_torchs(schedule, make):
    optim, opt = torch_optimizer(0.3)
    near(schedule, list(rates_of_torch(opt, make(optim.lr_scheduler, opt))))


MOMENTA = [
    *[
        (
            OneCycle(0.3, 83, part, three_phase=three, anneal=anneal).momentum(0.6, 0.9),
            lambda of, opt, part=part, three=three, anneal=anneal: of.OneCycleLR(
                opt, 0.3, 83, None, None, part, anneal, True, 0.6, 0.9, three_phase=three
            ),
        )
        for part, three, anneal in itertools.product([0.1, 0.45], [False, True], ["cos", "linear"])
    ],
    *[
        (
            Cyclic(0.03, 0.3, 5, down, mode, 0.97).momentum(0.6, 0.9),
            lambda of, opt, down=down, mode=mode: of.CyclicLR(
                opt, 0.03, 0.3, 5, down, mode, 0.97, base_momentum=0.6, max_momentum=0.9
            ),
        )
        for down, mode in itertools.product([None, 9], ["triangular", "triangular2", "exp_range"])
    ],
]


@pytest.mark.parametrize("name", ["momentum", "betas"])
@pytest.mark.parametrize(("schedule", "make"), MOMENTA, ids=[repr(row[0])[:90] for row in MOMENTA])
def test_a_momentum_against_the_rate_is_torchs(schedule, make, name):
    torch = pytest.importorskip("torch", reason="torch is not installed: `pip install torch` to compare with it")
    p = torch.nn.Parameter(torch.zeros(1))
    opt = torch.optim.SGD([p], lr=0.3, momentum=0.9) if name == "momentum" else torch.optim.Adam([p])
    theirs = rates_of_torch(opt, make(torch.optim.lr_scheduler, opt), name)
    near(schedule, [value if name == "momentum" else value[0] for value in theirs])


def test_a_momentum_that_moves_against_the_rate_is_the_same_as_setting_both_and_is_saved():
    cycle = OneCycle(0.1, 9, 0.4)
    for make in (
        lambda p, lr, m: SGD(p, lr, momentum=m, nesterov=True),
        lambda p, lr, m: Adam(p, lr, betas=(m, 0.999)),
    ):
        p, q, r = np.ones(3), np.ones(3), np.ones(3)
        opt, by_hand = make(p, cycle, cycle.momentum()), make(q, 0.1, 0.9)
        for t in range(12):
            by_hand.lr = cycle(t)
            if isinstance(by_hand, SGD):
                by_hand.momentum = cycle.momentum()(t)
            else:
                by_hand.betas = (cycle.momentum()(t), 0.999)
            grads = np.array([0.5, -1.0, t])
            opt.step(grads)
            by_hand.step(grads)
            assert p.tobytes() == q.tobytes()
        other = make(r, 0.1, 0.9)
        other.load_state_dict(opt.state_dict())
        assert repr(other) == repr(opt)
        assert repr(cycle.momentum()) in repr(other)


@pytest.mark.parametrize("schedule", PLATEAUS, ids=repr)
def test_a_plateau_is_torchs(schedule):
    mine = copy.deepcopy(schedule)
    optim, opt = torch_optimizer(mine.lr)
    names = ["mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps"]
    other = optim.lr_scheduler.ReduceLROnPlateau(opt, **{name: getattr(mine, name) for name in names})
    for metric in np.random.default_rng(0).normal(size=200).round(1).tolist() + RUN:
        other.step(metric)
        assert mine.report(metric) == opt.param_groups[0]["lr"]
        assert (mine.best, mine.bad, mine.cool) == (other.best, other.num_bad_epochs, other.cooldown_counter)


HUGGING_FACE = {
    "inverse_sqrt": (InverseSqrtWarmup(0.3, 7), {"num_warmup_steps": 7}),
    "constant_with_warmup": (Warmup(7, 0.3), {"num_warmup_steps": 7}),
    "linear": (Warmup(7, LinearDecay(0.3, 33)), {"num_warmup_steps": 7, "num_training_steps": 40}),
    "cosine": (
        Warmup(7, CosineDecay(0.3, 33, periodic=True)),
        {"num_warmup_steps": 7, "num_training_steps": 40},
    ),
    "polynomial": (
        Warmup(7, PolynomialDecay(0.3, 33, 1e-7, 2.0)),
        {"num_warmup_steps": 7, "num_training_steps": 40, "scheduler_specific_kwargs": {"power": 2.0}},
    ),
    "cosine_with_restarts": (
        Join([Warmup(7, CosineRestarts(0.3, 11)), 0.0], [40]),
        {"num_warmup_steps": 7, "num_training_steps": 40, "scheduler_specific_kwargs": {"num_cycles": 3}},
    ),
    **{
        f"warmup_stable_decay {shape}": (
            WarmupStableDecay(0.3, 5, 10, 20, 0.03, shape, start=0.03),
            {
                "num_warmup_steps": 5,
                "num_training_steps": 35,
                "scheduler_specific_kwargs": {"num_decay_steps": 20, "min_lr_ratio": 0.1, "decay_type": shape},
            },
        )
        for shape in ("linear", "cosine", "1-sqrt")
    },
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_rates_are_those_of_hugging_face(name):
    _, opt = torch_optimizer(0.3)
    of = pytest.importorskip("transformers", reason="transformers is not installed: `pip install transformers`")
    schedule, arguments = HUGGING_FACE[name]
    near(schedule, list(rates_of_torch(opt, of.get_scheduler(name.partition(" ")[0], opt, **arguments))))


OPTAX = [
    (Constant(0.3), lambda of: of.constant_schedule(0.3)),
    *[
        (
            ExponentialDecay(0.3, factor, 7, staircase, begin, final),
            lambda of, factor=factor, staircase=staircase, begin=begin, final=final: of.exponential_decay(
                0.3, 7, factor, begin, staircase, final
            ),
        )
        for (factor, final), staircase, begin in itertools.product(
            [(0.7, None), (0.7, 0.05), (1.3, 2.0)], [False, True], [0, 5]
        )
    ],
    (StepDecay(0.3, 7, 0.7), lambda of: of.exponential_decay(0.3, 7, 0.7, staircase=True)),
    (MultiStepDecay(0.3, [3, 9], 0.7), lambda of: of.piecewise_constant_schedule(0.3, {3: 0.7, 9: 0.7})),
    (Piecewise([0.3, 0.15, 0.03], [3, 9]), lambda of: of.piecewise_constant_schedule(0.3, {3: 0.5, 9: 0.2})),
    (LinearDecay(0.3, 11, 0.03), lambda of: of.linear_schedule(0.3, 0.03, 11)),
    (PolynomialDecay(0.3, 11, 0.03, 1.7), lambda of: of.polynomial_schedule(0.3, 0.03, 1.7, 11)),
    (CosineDecay(0.3, 11, 0.03), lambda of: of.cosine_decay_schedule(0.3, 11, 0.1)),
    (CosineDecay(0.3, 11, 0.03, 1.7), lambda of: of.cosine_decay_schedule(0.3, 11, 0.1, 1.7)),
    (Warmup(7, 0.3, start=0.1), lambda of: of.warmup_constant_schedule(0.03, 0.3, 7)),
    (
        Warmup(7, CosineDecay(0.3, 33, 0.03), start=0.1),
        lambda of: of.warmup_cosine_decay_schedule(0.03, 0.3, 7, 40, 0.03),
    ),
    (
        Join([Warmup(7, ExponentialDecay(0.3, 0.7, 5)), LinearDecay(0.2, 9)], [25]),
        lambda of: of.join_schedules(
            [of.warmup_exponential_decay_schedule(0.0, 0.3, 7, 5, 0.7), of.linear_schedule(0.2, 0.0, 9)], [25]
        ),
    ),
    (
        Join([Warmup(3, CosineDecay(0.3, 10)), Warmup(2, CosineDecay(0.2, 20, 0.01))], [13]),
        lambda of: of.sgdr_schedule(
            [
                {"init_value": 0.0, "peak_value": 0.3, "warmup_steps": 3, "decay_steps": 13, "end_value": 0.0},
                {"init_value": 0.0, "peak_value": 0.2, "warmup_steps": 2, "decay_steps": 22, "end_value": 0.01},
            ]
        ),
    ),
]


@pytest.mark.parametrize(("schedule", "make"), OPTAX, ids=[repr(row[0])[:90] for row in OPTAX])
def test_rates_are_those_of_optax(schedule, make):
    of = pytest.importorskip("optax", reason="optax is not installed: `pip install optax` to compare with it")
    import jax

    with jax.enable_x64(True):
        theirs = make(of)
        near(schedule, [theirs(t) for t in range(LAST)])


KERAS = [
    (InverseTime(0.3, 0.5, 7), lambda of: of.InverseTimeDecay(0.3, 7, 0.5)),
    (InverseTime(0.3, 0.5, 7, staircase=True), lambda of: of.InverseTimeDecay(0.3, 7, 0.5, staircase=True)),
    (Piecewise([0.3, 0.15, 0.03], [4, 10]), lambda of: of.PiecewiseConstantDecay([3, 9], [0.3, 0.15, 0.03])),
    (ExponentialDecay(0.3, 0.7, 7), lambda of: of.ExponentialDecay(0.3, 7, 0.7)),
    (CosineRestarts(0.3, 5, 2, 0.03), lambda of: of.CosineDecayRestarts(0.3, 5, 2.0, 1.0, 0.1)),
    (CosineRestarts(0.3, 5, 2, 0.0, 0.9), lambda of: of.CosineDecayRestarts(0.3, 5, 2.0, 0.9, 0.0)),
]


@pytest.mark.parametrize(("schedule", "make"), KERAS, ids=[repr(row[0])[:90] for row in KERAS])
def test_rates_are_those_of_keras_in_its_single_precision(schedule, make, monkeypatch):
    pytest.importorskip("jax", reason="jax is not installed: `pip install jax keras` to compare with Keras")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="keras is not installed: `pip install keras` to compare with it")
    theirs = make(keras.optimizers.schedules)
    # Near the end of a cycle the cosine cancels: a last bit of 1 in float32, of the highest rate.
    for t in range(LAST):
        assert schedule(t) == pytest.approx(float(theirs(t)), rel=1e-6, abs=0.3 * 2**-23)
