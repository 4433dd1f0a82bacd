"""A class's scalars are asked for many steps at once: each step gets its own, whatever came before it."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from optimizers_table import CASES, chosen, stepped

import fastopt
from fastopt.engine import kernels, numbers
from fastopt.optimizers import Adam

pytestmark = pytest.mark.no_cover  # what these tests run often is run by others too

MANY = chosen(300, 600)  # steps: more than are asked for at once, once or twice


class Counted(Adam):
    """Adam that remembers which steps it was asked for."""

    @classmethod
    def scalars(cls, h, t, **more):
        cls.asked.append(np.array(t))
        return super().scalars(h, t, **more)


@pytest.fixture
def asked():
    Counted.asked = []
    return Counted.asked


def wanted(cls, group, lr, t):
    """The scalars of one step, asked for alone."""
    given = {"fresh": t == 1, "lr": lr, "rule": cls.rule(group)}
    more = {name: given[name] for name in given if name in inspect.signature(cls.scalars).parameters}
    rates, others = cls.scalars(group, np.array([t]), **more)
    scalars = {**{name: lr * value for name, value in rates.items()}, **others}
    return {name: float(np.ravel(value)[0]) for name, value in scalars.items()}


def coefficients(opt, grads):
    """Of each parameter in a step, which is taken in NumPy to see them."""
    found = []
    update = opt._update_by_reference
    opt._update_by_reference = lambda everything: (
        found.extend(
            opt._plan.coefficients(i)[3] if opt._plan.gradient(i) is not None else None for i in range(len(grads))
        ),
        update(everything),
    )
    stepped(opt, grads, reference=True)
    del opt._update_by_reference
    return found


OF_STEPS = [
    case for case in CASES if not case.cls.numbers and not case.cls.group_numbers
]  # test_numbers.py: the others


@pytest.mark.parametrize("case", OF_STEPS, ids=str)
def test_each_step_has_its_own_scalars(case):
    p = [np.ones(1)]
    opt = case.make(p)
    group = opt.param_groups[0]
    for t in range(1, MANY):
        (c,) = coefficients(opt, [np.ones(1)])
        for made in kernels.rules()[type(opt).rule(group)][3]:  # by a first pass: see test_bits.py
            del c[made]
        assert c == wanted(type(opt), group, group["lr"], t)


def test_parameters_with_other_counts_have_other_scalars():
    p = [np.ones(1) for _ in range(4)]
    opt = Adam(p)
    counts = [0] * 4
    rng = np.random.default_rng(0)
    for _ in range(MANY):
        grads = [np.ones(1) if keep else None for keep in rng.random(4) < 0.9]
        found = coefficients(opt, grads)
        for i, g in enumerate(grads):
            if g is not None:
                counts[i] += 1
                assert found[i] == wanted(Adam, opt.param_groups[0], 1e-3, counts[i])
    assert list(opt.step_counts.values()) == counts
    assert len(set(counts)) > 1


def test_changes_of_the_learning_rate_and_of_others_count_from_the_next_step_on():
    opt = Adam([np.ones(1)])
    group = opt.param_groups[0]
    for t in range(1, 20):
        opt.lr = 1 / t
        if t == 10:
            group["betas"] = (0.5, 0.6)
        if t == 15:
            group["lr"] = lambda steps: 10.0 * steps
        lr = 10.0 * (t - 1) if callable(group["lr"]) else 1 / t
        (c,) = coefficients(opt, [np.ones(1)])
        assert c == wanted(Adam, group, lr, t)


def test_scalars_are_asked_for_anew_only_where_something_else_than_the_learning_rate_changed(asked):
    opt = Counted(np.ones(1), lr=lambda steps: 1e-3)
    for t in range(10):
        opt.step(np.ones(1))
        opt.lr = 1e-3 * (1 + t)
    assert len(asked) == 1
    opt.param_groups[0]["eps"] = 1e-7
    opt.step(np.ones(1))
    assert len(asked) == 2
    assert asked[1][0] == 11


def test_counts_that_were_loaded_have_their_scalars():
    opt = Adam([np.ones(1)])
    opt.step([np.ones(1)])
    saved = opt.state_dict()
    for count in (0, 5, 255, 256, 10**12):
        saved["state"]["params[0]"]["step"] = count
        opt.load_state_dict(saved)
        (c,) = coefficients(opt, [np.ones(1)])
        assert c == wanted(Adam, opt.param_groups[0], 1e-3, count + 1)


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (KeyError, lambda rates, others: ({}, others)),
        (KeyError, lambda rates, others: (rates, {**others, "beta3": 0.5})),
        (KeyError, lambda rates, others: ({"alhpa": 1.0}, others)),
        (ValueError, lambda rates, others: ({"alpha": np.ones(3)}, others)),
        (ValueError, lambda rates, others: ({"alpha": np.ones((256, 1))}, others)),
        (TypeError, lambda rates, others: ({"alpha": "much"}, others)),
        (TypeError, lambda rates, others: ({"alpha": None}, others)),
    ],
)
def test_scalars_that_do_not_fit_the_rule_are_an_error_before_anything_is_written(error, change):
    class Wrong(Adam):
        @classmethod
        def scalars(cls, h, t, **more):
            return change(*super().scalars(h, t, **more))

    p = np.ones(3)
    opt = Wrong(p)
    for _ in range(2):  # and go on to be one
        with pytest.raises(error):
            opt.step(np.ones(3))
    assert p.tolist() == [1, 1, 1]
    assert opt.steps == 0
    assert opt.step_counts == {"params": 0}


def test_bias_corrections_of_many_steps_are_those_of_each():
    t = np.array([0, 1, 2, 3, 1000, 2**40])
    for beta in (0.0, 0.5, 0.999):
        together = numbers.one_minus_power(beta, t)
        assert together.tolist() == [float(numbers.one_minus_power(beta, int(one))) for one in t]
    with pytest.raises(ValueError, match="t is -1"):
        numbers.one_minus_power(0.5, np.array([3, -1]))


def test_modules_that_take_long_to_import_come_when_they_are_asked_for():
    import subprocess
    import sys

    program = (
        "import sys, fastopt; loaded = [n for n in ('checkpoint', 'schedules') if f'fastopt.{n}' in sys.modules]; "
        "print(loaded, fastopt.schedules.CosineDecay(1.0, 2)(0), fastopt.checkpoint.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] 1.0 fastopt.checkpoint"
    with pytest.raises(AttributeError, match="no attribute 'checkpoints'"):
        fastopt.checkpoints  # noqa: B018
