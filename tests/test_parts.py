"""A step in parts: the bits of a step, whatever ends it."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import numpy as np
import pytest
from optimizers_table import KINDS, THREADS, chosen

import fastopt
from fastopt.engine import sweep
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import Warmup

CLASSES = chosen({**KINDS, "Adafactor": fastopt.Adafactor, "NovoGrad": fastopt.NovoGrad}, OPTIMIZERS)
CLASSES = {name: cls for name, cls in CLASSES.items() if name != "Prodigy"}
SHAPES = {"a": (3,), "table": (70, 70), "l1": {"w": (300, 41), "b": ()}, "none": (0, 4), "long": (70_001,)}
PATHS = ["a", "table", "l1.w", "l1.b", "none", "long"]


def some(seed, shapes=SHAPES, real="float32"):
    rng = np.random.default_rng(seed)
    return {
        key: some(seed, shape, real) if isinstance(shape, dict) else np.array(rng.normal(size=shape), real)
        for key, shape in shapes.items()
    }


def by_path(tree):
    found = {}
    for key, value in tree.items():
        found |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def without(tree, left_out):
    """The tree with None at some paths."""
    return {
        key: {k: None if f"{key}.{k}" in left_out else v for k, v in value.items()}
        if isinstance(value, dict)
        else (None if key in left_out else value)
        for key, value in tree.items()
    }


def ready(opt):
    with opt.lookahead():
        pass


def by_parts(opt, grads, order, **more):
    """A step whose gradients all come in the same memory, one after the other."""
    ready(opt)
    done = []
    with opt.parts(**more) as part:
        for path in order:
            g = by_path(grads)[path]
            buffer = g.copy()
            done.append(part(path, buffer))
            buffer[...] = np.nan  # it is used no more
    return done


def bits(opt):
    snapshot = opt.state_dict()
    arrays = [*by_path(opt.params).values(), *(x for entry in snapshot["state"].values() for x in entry.values())]
    rest = [snapshot[key] for key in snapshot if key not in ("state", "param_groups")]
    return [x.tobytes() if isinstance(x, np.ndarray) else x for x in arrays], repr(rest)


def both(cls, real="float32", **options):
    return [cls(some(0, real=real), lr=0.01, **options) for _ in range(2)]


# Which parameters take part in each step, and in which order.
COURSE = [PATHS[::-1], PATHS, ["long", "a", "l1.b"], [], ["table", "none", "l1.w"], PATHS[::-1]]


@pytest.mark.parametrize("threads", THREADS[:2])
@pytest.mark.parametrize("name", CLASSES)
def test_steps_in_parts_have_the_bits_of_steps(name, threads):
    sweep.set_threads(threads)
    whole, parts = both(CLASSES[name], **({"d0": 0.01} if name == "Prodigy" else {}))
    for k, order in enumerate(COURSE):
        grads = some(1 + k)
        ready(whole)
        whole.step(without(grads, {*PATHS} - {*order}))
        assert by_parts(parts, grads, order) == [True] * len(order)
        assert bits(whole) == bits(parts)
    assert parts.steps == len(COURSE)


OPTIONS = [
    {"clip_value": 0.1},
    {"clip_tensor_norm": 0.5},
    {"ema_decay": 0.9},
    {"weight_decay": 0.1, "decay_mask": lambda path, a: path != "a"},
    {"lr": Warmup(3, 0.1)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_options_mean_what_they_mean_in_a_step(options):
    whole, parts = (fastopt.Adam(some(0), **{"lr": 0.01, **options}) for _ in range(2))
    for k, order in enumerate(COURSE):
        grads = some(1 + k)
        whole.step(without(grads, {*PATHS} - {*order}), loss_scale=4.0)
        by_parts(parts, grads, order, loss_scale=4.0)
        assert bits(whole) == bits(parts)
        if "clip_tensor_norm" in options and order:
            assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-12)


def norm_of(grads):
    return float(np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in by_path(grads).values())))


def test_a_known_norm_clips_as_the_one_that_a_step_finds():
    whole, parts = both(fastopt.Adam, real="float64", clip_norm=0.5)
    for k in range(3):
        grads = some(1 + k, real="float64")
        whole.step(grads, loss_scale=2.0)
        assert by_parts(parts, grads, PATHS, norm=norm_of(grads), loss_scale=2.0) == [True] * len(PATHS)
        assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-12)
        for mine, other in zip(by_path(parts.params).values(), by_path(whole.params).values(), strict=True):
            assert mine == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize("norm", [np.nan, np.inf, np.float32("nan")])
def test_a_norm_that_is_not_finite_skips_all_parts(norm):
    p = some(0)
    opt = fastopt.Adam(p, nonfinite="skip", zero_grads=True)
    before = bits(opt)[0]
    g = np.full(3, np.nan, np.float32)
    with opt.parts(norm=norm) as part:
        assert part("a", g) is False
    assert (g == 0).all()
    assert (opt.skipped, opt.steps) == (1, 0)
    assert bits(opt)[0] == before
    opt.nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"norm is (nan|inf): nothing was written"), opt.parts(norm=norm):
        raise AssertionError
    assert (opt.skipped, opt.steps) == (1, 0)
    assert bits(opt)[0] == before
    opt.nonfinite = "propagate"
    with opt.parts(norm=norm) as part:
        assert part("a", np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("options", "given", "error", "message"),
    [
        ({"clip_norm": 1.0}, {}, ValueError, r"clip_norm=1.0 needs the norm of all gradients .*: wanted norm"),
        ({"nonfinite": "skip"}, {}, ValueError, r"nonfinite='skip' needs the norm of all gradients"),
        ({"nonfinite": "raise"}, {}, ValueError, r"nonfinite='raise' needs the norm of all gradients"),
        ({}, {"norm": -1.0}, ValueError, "norm is -1.0: wanted a number of at least 0, Inf or NaN"),
        ({}, {"norm": "x"}, TypeError, "norm is 'x'"),
        ({}, {"loss_scale": 0.0}, ValueError, "loss_scale is 0.0"),
    ],
)
def test_what_is_refused_at_the_entry(options, given, error, message):
    opt = fastopt.Adam(some(0), **options)
    before = bits(opt)
    with pytest.raises(error, match=message), opt.parts(**given):
        raise AssertionError("it was not refused")
    assert bits(opt) == before
    assert opt.steps == 0


def test_sums_over_all_gradients_cannot_be_taken_in_parts():
    opt = fastopt.Prodigy(some(0))
    message = "Prodigy needs sums over all gradients before its first update: its steps cannot be taken in parts"
    with pytest.raises(TypeError, match=message), opt.parts():
        raise AssertionError
    opt.step(some(1))


def test_each_parameter_has_all_its_names():
    opt = fastopt.SGD({"a": {"b": np.zeros(2)}, "c": np.zeros(2), 3: np.zeros(2)}, lr=1.0)
    for path, key, shown in [("a.b", "a.b", "params['a']['b']"), ("c", "c", "params['c']"), ("3", 3, "params[3]")]:
        for name in (path, key, shown):
            with opt.parts() as part:
                assert part(name, np.ones(2))
    assert opt.params["a"]["b"][0] == opt.params["c"][0] == opt.params[3][0] == -3
    single = fastopt.SGD(np.zeros(2), lr=1.0)
    with single.parts() as part:
        assert part("params", np.ones(2))
    listed = fastopt.SGD([np.zeros(2), np.zeros(2)], lr=1.0)
    with listed.parts() as part:
        assert part(1, np.ones(2))
    assert listed.params[1][0] == -1
    groups = fastopt.SGD([{"params": {"w": np.zeros(2)}}, {"params": {"w": np.zeros(2), "b": np.zeros(1)}}], lr=1.0)
    with groups.parts() as part:
        with pytest.raises(ValueError, match=r"part\('w', …\): groups have several parameters of this name"):
            part("w", np.ones(2))
        assert part("params[1]['params']['w']", np.ones(2))
        assert part("b", np.ones(1))


def test_a_part_that_is_refused_changes_nothing_and_may_be_given_again():
    opt = fastopt.Adam(some(0))
    with opt.parts() as part:
        assert part("a", np.ones(3, np.float32))
        found = [x.copy() for x in by_path(opt.params).values()]
        wrong = [
            (KeyError, r"part\('b', …\): there is no such parameter; there are params\['a'\], ", "b", np.ones(3)),
            (KeyError, r"part\(\['a'\], …\): there is no such parameter", ["a"], np.ones(3)),
            (ValueError, r"part\('a', …\): params\['a'\] was given in this step already", "a", np.ones(3, "f")),
            (TypeError, r"grads\['table'\] has dtype float64", "table", np.ones((70, 70))),
            (ValueError, r"grads\['table'\] has shape \(3,\)", "table", np.ones(3, "f")),
            (ValueError, r"grads\['table'\] overlaps the memory of params\['table'\]", "table", opt.params["table"]),
        ]
        for error, message, name, g in wrong:
            with pytest.raises(error, match=message):
                part(name, g)
        assert all(map(np.array_equal, by_path(opt.params).values(), found))
        assert part("table", np.ones((70, 70), np.float32))
        assert part("l1.b", None) is False
        with pytest.raises(ValueError, match="was given in this step already"):
            part("l1.b", None)
    assert opt.step_counts["params['table']"] == 1
    assert opt.step_counts["params['l1']['b']"] == 0


def test_inside_of_the_block_nothing_else_steps_saves_or_loads(tmp_path):
    opt = fastopt.Adam(some(0))
    snapshot = opt.state_dict()
    with opt.parts() as part:
        for other in (
            lambda: opt.step(some(1)),
            opt.state_dict,
            lambda: opt.save(tmp_path / "x"),
            lambda: opt.load_state_dict(snapshot),
            lambda: opt.parts().__enter__(),
            lambda: opt.averaged().__enter__() if opt.ema_decay else opt.bind(some(0)),
        ):
            with pytest.raises(RuntimeError, match=r"a step in parts is under way: leave the `with opt.parts\(\)"):
                other()
        assert part("a", np.ones(3, np.float32))
    with pytest.raises(RuntimeError, match=r"this step in parts is over"):
        part("table", np.ones((70, 70), np.float32))
    assert opt.step(some(1))
    again = opt.parts()
    with again:
        pass
    with pytest.raises(RuntimeError, match=r"parts\(\) is for one step"), again:
        raise AssertionError


def test_what_changes_inside_of_the_block_is_noticed():
    opt = fastopt.Adam(some(0))
    with opt.parts() as part:
        assert part("a", np.ones(3, np.float32))
        opt.betas = (0.5, 0.5)
        repr(opt)  # which takes them over
        with pytest.raises(RuntimeError, match="a group or an option was changed inside"):
            part("table", np.ones((70, 70), np.float32))
    assert opt.steps == 1
    assert opt.betas == (0.5, 0.5)
    assert opt.step(some(1))


def test_a_learning_rate_that_is_set_inside_of_the_block_is_that_of_the_next_step():
    opt = fastopt.SGD([np.zeros(1), np.zeros(1)], lr=1.0)
    with opt.parts() as part:
        part(0, np.ones(1))
        opt.lr = 7.0
        repr(opt)
        part(1, np.ones(1))
    assert opt.params == [-1, -1]
    with opt.parts() as part:
        part(0, np.ones(1))
    assert opt.params == [-8, -1]


def test_whatever_ends_the_block_it_counts_as_a_step_that_can_be_saved(tmp_path):
    whole, parts = both(fastopt.ScheduleFreeAdamW)
    for opt in (whole, parts):
        opt.step(some(1))
    grads = some(2)
    whole.step(without(grads, {*PATHS} - {"long", "a"}))
    with suppress(KeyboardInterrupt), parts.parts() as part:
        part("long", grads["long"])
        part("a", grads["a"])
        raise KeyboardInterrupt
    assert bits(whole) == bits(parts)
    parts.save(tmp_path / "half")
    resumed = fastopt.ScheduleFreeAdamW(some(5), lr=0.01)
    resumed.load(tmp_path / "half")
    for opt in (whole, resumed):
        opt.step(some(3))
    assert bits(whole) == bits(resumed)


def test_parts_may_come_from_other_threads():
    whole, parts = both(fastopt.Adam)
    grads = some(1)
    whole.step(grads)
    with parts.parts() as part:
        threads = [threading.Thread(target=part, args=(path, g)) for path, g in by_path(grads).items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bits(whole) == bits(parts)


def test_a_forked_child_goes_on_by_itself():
    whole, parts = both(fastopt.Adam)
    grads = some(1)
    whole.step(grads)
    with parts.parts() as part:
        part("long", grads["long"])
        child = os.fork()
        for path in PATHS[:-1]:
            part(path, by_path(grads)[path])
    same = bits(whole) == bits(parts)
    if child == 0:
        os._exit(0 if same else 1)
    assert same
    assert os.waitpid(child, 0)[1] == 0


def test_several_classes_take_their_parts():
    def make():
        rules = [
            (lambda path, a: a.ndim == 2 and a.size > 0, fastopt.Muon, {}),
            (True, fastopt.AdamW, {}),
        ]
        return fastopt.Split(some(0), rules)

    whole, parts = make(), make()
    for k, order in enumerate(COURSE):
        grads = some(1 + k)
        whole.step(without(grads, {*PATHS} - {*order}))
        by_parts(parts, grads, order)
        assert bits(whole) == bits(parts)
