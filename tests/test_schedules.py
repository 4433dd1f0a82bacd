"""Schedules: their values, and how an optimizer counts and checks them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import pickle

import numpy as np
import pytest
from optimizers_table import RECORDS, REFUSE_RATE_0, stepped
from test_errors import everything, says

from fastopt import SGD, Adam, AdamW
from fastopt.schedules import Constant, CosineDecay, ExponentialDecay, LinearDecay, StepDecay, Warmup, takes_arrays

ALL = [
    StepDecay(lr=0.5, every=3, factor=0.25),
    ExponentialDecay(lr=0.5, factor=0.5, every=4),
    LinearDecay(lr=1.0, total=8, final=0.25),
    CosineDecay(lr=1.0, total=8, final=0.25),
    Warmup(steps=4, after=StepDecay(lr=1.0, every=2)),
]

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


@pytest.mark.parametrize("cls", [LinearDecay, CosineDecay])
def test_the_ends_of_a_decay_are_exact(cls):
    for lr, final in itertools.product([0.1, 1e-3, 0.3, 7.0], [0.0, 0.03, 1e-5, 0.1, 1e-18]):
        schedule = cls(lr, total=7, final=final)
        assert schedule(0) == lr
        assert schedule(7) == schedule(8) == schedule(10**12) == final
        assert all(min(lr, final) <= schedule(t) <= max(lr, final) for t in range(9))


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_schedules_compare_print_copy_and_pickle_as_what_they_are(schedule):
    for other in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), eval(repr(schedule))):
        assert other == schedule
        assert hash(other) == hash(schedule)
        assert [other(t) for t in range(20)] == [schedule(t) for t in range(20)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.lr = 3.0


LR = "lr is -1: wanted a finite number of at least 0"
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
    (lambda: Warmup(0, ALL[0]), ValueError, "steps is 0: wanted a whole number of steps of at least 1"),
]


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


@pytest.mark.parametrize("schedule", ALL, ids=repr)
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
    for t in (np.arange(1500), np.array([5, 0, 299, 300, 10**9]), np.arange(0)):
        together = schedule(t)
        assert together.dtype == np.float64
        assert together.tobytes() == np.array([schedule(k) for k in t.tolist()]).tobytes()


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


@pytest.mark.parametrize(
    "schedule",
    [
        WithHardStop(1.0, total=4),
        InCall(1.0, every=2),
        AlwaysOne(1.0, 0.5),
        InPart(4, CosineDecay(1.0, total=8)),
        Unchanged(1.0, total=8),
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


@pytest.mark.parametrize("other", [0.1, None, float, WithHardStop, StepDecay, lambda t: 0.1, Warmup(3, float)])
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
