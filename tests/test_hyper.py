"""Hyper-parameters out of range, by the check that each class names for them; a new class is tested by that alone."""

from __future__ import annotations

import inspect
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from optimizers_table import KINDS, stepped
from test_errors import everything, says

from fastopt import SGD, AdEMAMix, hyper
from fastopt.optimizers import OPTIMIZERS

FINITE = "wanted a finite number of at least 0"
FRACTION = "wanted a number of at least 0 and below 1"
PROPORTION = "wanted a number from 0 to 1"
FLAG = "wanted True or False"

# By check: value, error, what the message says after the name. Types are wrong for every kind of number.
NO_NUMBERS = [
    ("0.1", TypeError, " is '0.1', a str: "),
    (None, TypeError, " is None, a NoneType: "),
    (True, TypeError, " is True, a bool: "),
    (np.True_, TypeError, f" is {np.True_!r}, a {np.bool_.__name__}: "),
    (0.1j, TypeError, " is 0.1j, a complex: "),
    ([0.1], TypeError, " is [0.1], a list: "),
    (np.array(0.1), TypeError, " is array(0.1), a ndarray: "),
    (Decimal("0.1"), TypeError, " is Decimal('0.1'), a Decimal: "),
    (np.nan, ValueError, " is nan: "),
    (np.inf, ValueError, " is inf: "),
    (-np.inf, ValueError, " is -inf: "),
    (-1, ValueError, " is -1: "),
    (-5e-324, ValueError, " is -5e-324: "),
]
NO_PAIRS = [
    (0.9, TypeError, " is 0.9: wanted two numbers"),
    ((0.9,), TypeError, " is (0.9,): wanted two numbers"),
    ((0.9, 0.99, 0.999), TypeError, " is (0.9, 0.99, 0.999): wanted two numbers"),
    ("ab", TypeError, " is 'ab': wanted two numbers"),
    (np.array([0.9, 0.99]), TypeError, " is array([0.9 , 0.99]): wanted two numbers"),
]


def numbers(wanted, *more):
    return [(value, error, said + wanted) for value, error, said in [*NO_NUMBERS, *more]]


WRONG = {
    hyper.learning_rate: numbers(FINITE),
    hyper.nonnegative: numbers(FINITE),
    hyper.positive: numbers("wanted a finite number above 0", (0.0, ValueError, " is 0.0: ")),
    hyper.fraction: numbers(FRACTION, (1, ValueError, " is 1: "), (1.5, ValueError, " is 1.5: ")),
    hyper.proportion: numbers(PROPORTION, (1.0000000000000002, ValueError, " is 1.0000000000000002: ")),
    hyper.flag: [
        (1, TypeError, f" is 1, a int: {FLAG}"),
        ("yes", TypeError, f" is 'yes', a str: {FLAG}"),
        (None, TypeError, f" is None, a NoneType: {FLAG}"),
        (np.array(True), TypeError, f" is array(True), a ndarray: {FLAG}"),
    ],
    hyper.betas: [
        *NO_PAIRS,
        ((1.0, 0.9), ValueError, f"[0] is 1.0: {FRACTION}"),
        ((0.9, 1), ValueError, f"[1] is 1: {FRACTION}"),
        ((-0.1, 0.9), ValueError, f"[0] is -0.1: {FRACTION}"),
        ((0.9, np.nan), ValueError, f"[1] is nan: {FRACTION}"),
        (("0.9", 0.9), TypeError, f"[0] is '0.9', a str: {FRACTION}"),
    ],
    hyper.three_betas: [
        (0.9, TypeError, " is 0.9: wanted three numbers"),
        ((0.9, 0.99), TypeError, " is (0.9, 0.99): wanted three numbers"),
        ((0.9, 0.99, 0.999, 0.9), TypeError, " is (0.9, 0.99, 0.999, 0.9): wanted three numbers"),
        ((1, 0.9, 0.9), ValueError, f"[0] is 1: {FRACTION}"),
        ((0.9, 0.9, 1.0), ValueError, f"[2] is 1.0: {FRACTION}"),
        ((0.9, None, 0.9), TypeError, f"[1] is None, a NoneType: {FRACTION}"),
    ],
    hyper.etas: [
        (0.5, TypeError, " is 0.5: wanted two numbers"),
        ((0.5, 1.1, 1.2), TypeError, " is (0.5, 1.1, 1.2): wanted two numbers"),
        ((0.0, 1.2), ValueError, "[0] is 0.0: wanted a finite number above 0"),
        ((0.5, np.inf), ValueError, "[1] is inf: wanted a finite number above 0"),
        (("0.5", 1.2), TypeError, "[0] is '0.5', a str: wanted a finite number above 0"),
        ((1, 1.2), ValueError, " is (1, 1.2): wanted the first below 1 and the second above 1"),
        ((0.5, 1.0), ValueError, " is (0.5, 1.0): wanted the first below 1 and the second above 1"),
        ((1.2, 0.5), ValueError, " is (1.2, 0.5): wanted the first below 1 and the second above 1"),
    ],
    hyper.limits: [
        (1, TypeError, " is 1: wanted two numbers"),
        ((0.1,), TypeError, " is (0.1,): wanted two numbers"),
        ((-1e-9, 1), ValueError, f"[0] is -1e-09: {FINITE}"),
        ((0, np.nan), ValueError, f"[1] is nan: {FINITE}"),
        ((0.2, 0.1), ValueError, " is (0.2, 0.1): wanted the first not above the second"),
    ],
    hyper.proportions: [
        *NO_PAIRS,
        ((1.25, 0.9), ValueError, f"[0] is 1.25: {PROPORTION}"),
        ((1, -0.1), ValueError, f"[1] is -0.1: {PROPORTION}"),
        ((0.9, "1"), TypeError, f"[1] is '1', a str: {PROPORTION}"),
    ],
}
ABOVE_0 = "wanted a number above 0 and at most 1"
WHOLE = "wanted a whole number of at least 0"
WRONG |= {
    hyper.constant: WRONG[hyper.nonnegative],
    hyper.above_0: numbers(ABOVE_0, (0.0, ValueError, " is 0.0: "), (1.5, ValueError, " is 1.5: ")),
    hyper.whole: [
        (1.0, TypeError, f" is 1.0, a float: {WHOLE}"),
        (True, TypeError, f" is True, a bool: {WHOLE}"),
        ("1", TypeError, f" is '1', a str: {WHOLE}"),
        (-1, ValueError, f" is -1: {WHOLE}"),
        (2**70, ValueError, f" is {2**70}: {WHOLE}"),
    ],
    hyper.interpolation_betas: [
        ((0.9,), TypeError, " is (0.9,): wanted two numbers"),
        ((0.0, 0.9), ValueError, f"[0] is 0.0: {ABOVE_0}"),
        ((1.0, 1.0), ValueError, f"[1] is 1.0: {FRACTION}"),
    ],
}
AT_MOST_0 = "wanted a finite number of at most 0"
WRONG[hyper.at_most_0] = [
    row for row in numbers(AT_MOST_0, (0.5, ValueError, " is 0.5: ")) if not str(row[0]).startswith("-")
]
WRONG[hyper.floors] = [
    *NO_PAIRS,
    ((-1e-3, 0.1), ValueError, f"[0] is -0.001: {FINITE}"),
    ((None, None), TypeError, f"[1] is None, a NoneType: {FINITE}"),
]
AT_LEAST_1 = "wanted a number of at least 1"
WRONG[hyper.growth] = [row for row in numbers(AT_LEAST_1, (0.5, ValueError, " is 0.5: ")) if row[0] != np.inf]
for check in (hyper.positive, hyper.fraction):
    WRONG[hyper.optional(check)] = [row for row in WRONG[check] if row[0] is not None]
ROWS = [
    (cls, name, *row)
    for cls in OPTIMIZERS.values()
    for name, one in cls.hyper_parameters.items()
    for row in WRONG.get(one._check, [])[0 if cls.__name__ in KINDS else -1 :]
]
IDS = [f"{cls.__name__}: {name}{message}" for cls, name, _, _, message in ROWS]


@pytest.mark.parametrize(("cls", "name", "value", "error", "message"), ROWS, ids=IDS)
def test_a_hyper_parameter_out_of_range_is_refused(cls, name, value, error, message):
    w = np.ones(3)
    before = everything(None, w)
    if name in inspect.signature(cls).parameters:
        with pytest.raises(error, match=says(name + message)):
            cls(w, **{name: value})
    with pytest.raises(error, match=says(f"params[1][{name!r}]{message}")):
        cls([{"params": w}, {"params": np.ones(2), name: value}])

    opt = cls(w)
    stepped(opt, np.ones(3))
    before = everything(opt, w)
    old, opt.param_groups[0][name] = opt.param_groups[0][name], value
    for reference in (False, True):
        with pytest.raises(error, match=says(name + message)):
            stepped(opt, np.ones(3), reference)
    opt.param_groups[0][name] = old
    assert everything(opt, w) == before
    assert stepped(opt, np.ones(3))


@pytest.mark.parametrize("cls", OPTIMIZERS.values())
def test_every_check_of_a_class_is_tested_here(cls):
    assert {one._check for one in cls.hyper_parameters.values()} <= WRONG.keys()


@pytest.mark.parametrize("cls", OPTIMIZERS.values())
def test_an_unknown_hyper_parameter_in_a_group_is_refused(cls):
    for name, like in (("learning_rate", "did you mean 'lr'?"), ("weight_decays", "did you mean 'weight_decay'?")):
        message = f"params[0][{name!r}]: {cls.__name__} has no hyper-parameter {name!r}: {like}"
        with pytest.raises(ValueError, match=says(message)):
            cls([{"params": np.ones(2), name: 0.1}])
    with pytest.raises(
        ValueError,
        match=says(
            f"params[0]['x']: {cls.__name__} has no hyper-parameter 'x': there are {', '.join(cls.hyper_parameters)}"
        ),
    ):
        cls([{"params": np.ones(2), "x": 0.1}])


@pytest.mark.parametrize(("momentum", "dampening"), [(0.0, 0.0), (0.9, 0.1), (0.0, 0.5)])
def test_nesterov_needs_momentum_and_no_dampening(momentum, dampening):
    message = (
        f"nesterov=True with momentum {momentum} and dampening {dampening}: wanted momentum above 0 and no dampening"
    )
    w = np.ones(2)
    with pytest.raises(ValueError, match=says(message)):
        SGD(w, nesterov=True, momentum=momentum, dampening=dampening)
    opt = SGD(w, nesterov=True, momentum=0.9)
    opt.step(np.ones(2))
    before = everything(opt, w)
    opt.param_groups[0].update(momentum=momentum, dampening=dampening)
    with pytest.raises(ValueError, match=says(message)):
        opt.step(np.ones(2))
    opt.param_groups[0].update(momentum=0.9, dampening=0.0)
    assert everything(opt, w) == before


@pytest.mark.parametrize("betas", [(0.0, 0.9, 0.99), (0.9, 0.9, 0)])
def test_the_warm_up_of_betas_needs_them_above_0(betas):
    shown = tuple(map(float, betas))
    message = f"t_alpha_beta3 is 10.0 with betas {shown}: wanted the first and the third of them above 0"
    with pytest.raises(ValueError, match=says(message)):
        AdEMAMix(np.ones(2), betas=betas, t_alpha_beta3=10)
    assert AdEMAMix(np.ones(2), betas=betas).step(np.ones(2))
    assert AdEMAMix(np.ones(2), betas=(0.9, 0.0, 0.99), t_alpha_beta3=10).step(np.ones(2))


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 1, 5e-324, 1e308, Fraction(1, 3), np.float32(0.1), np.int8(2)])
def test_any_finite_real_number_of_at_least_0_is_a_learning_rate(value):
    w = np.zeros(2)
    opt = SGD(w, lr=value)
    assert opt.lr == float(value)
    assert type(opt.lr) is float
    opt.step(np.zeros(2))
    assert (w == 0).all()


def test_an_integer_too_large_for_a_float_is_out_of_range():
    for make in (lambda x: SGD(np.ones(2), lr=x), lambda x: SGD(np.ones(2), clip_norm=x)):
        with pytest.raises(ValueError, match="wanted a finite number"):
            make(10**400)


@pytest.mark.parametrize("name", ["momentum", "dampening"])
@pytest.mark.parametrize("value", [0.0, 1.0, 1])
def test_both_ends_of_a_proportion_belong_to_it(name, value):
    assert SGD(np.ones(2), **{name: value}).step(np.ones(2))


def test_choices_that_are_no_text_are_refused_too():
    check = hyper.choice("a", "b")
    assert check("x", "a") == "a"
    for wrong in (None, 1, ["a"]):
        with pytest.raises(ValueError, match="wanted one of 'a', 'b'"):
            check("x", wrong)
