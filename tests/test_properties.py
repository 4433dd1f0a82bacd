"""Properties that hold for any structure, shape, memory order, type and hyper-parameters, by hypothesis."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optimizers_table import RECORDS, REFUSE_RATE_0, stepped
from support import is_for, leaves, mapped, named
from test_errors import digest, everything

from fastopt import Adam, hyper
from fastopt.engine import sweep
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import CosineDecay, ExponentialDecay, LinearDecay, StepDecay, Warmup
from fastopt.tree import Tree

pytestmark = pytest.mark.no_cover  # what these tests run often is run by others too

settings.register_profile("fastopt", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("fastopt")

REAL = st.sampled_from(["float32", "float64"])
SHAPE = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)


@st.composite
def arrays(draw, dtype=None, shape=None):
    """Any finite values, in C or Fortran order."""
    dtype = dtype or draw(REAL)
    shape = draw(SHAPE) if shape is None else shape
    values = draw(hnp.arrays(dtype, shape, elements=st.floats(-1e6, 1e6, width=8 * np.dtype(dtype).itemsize),
                             fill=st.nothing() if np.prod(shape) < 20 else None))  # fmt: skip
    return np.array(values, order=draw(st.sampled_from("CF")))


KEYS = st.one_of(
    st.text(max_size=3), st.integers(), st.booleans(), st.none(), st.tuples(st.integers(), st.text(max_size=1))
)


def trees(leaf):
    return st.recursive(
        leaf,
        lambda t: st.lists(t, max_size=3) | st.lists(t, max_size=3).map(tuple) | st.dictionaries(KEYS, t, max_size=3),
        max_leaves=6,
    )


PARAMS = trees(arrays()).filter(leaves)


def laid_out(draw, values):
    """The same values somewhere else in memory: strided, reversed, unaligned, read-only, or as they are."""
    kind = draw(st.sampled_from(["as it is", "strided", "reversed", "unaligned", "read-only", "other order"]))
    if values.ndim == 0 or kind == "as it is":
        return values
    if kind == "strided":
        wide = np.full((*values.shape[:-1], 2 * values.shape[-1] + 1), np.nan, values.dtype)
        wide[..., 1::2] = values
        return wide[..., 1::2]
    if kind == "reversed":
        return values[::-1].copy()[::-1]
    if kind == "unaligned":
        raw = np.zeros(values.nbytes + 1, np.uint8)[1:]
        out = raw.view(values.dtype).reshape(values.shape)
        out[...] = values
        return out
    if kind == "read-only":
        values.flags.writeable = False
        return values
    return np.array(values, order="C" if values.flags.f_contiguous else "F")


@st.composite
def gradients(draw, params):
    """A gradient for each leaf, None for some, in any layout."""

    def one(p):
        if draw(st.integers(0, 5)) == 0:
            return None
        return laid_out(draw, draw(arrays(p.dtype, p.shape)))

    return mapped(one, params)


NUMBER = st.floats(0, 1e3)
BELOW_1 = st.floats(0, 1, exclude_max=True)
UP_TO_1 = st.floats(0, 1)
RATE = st.one_of(
    NUMBER,
    st.builds(StepDecay, NUMBER, st.integers(1, 5)),
    st.builds(LinearDecay, NUMBER, st.integers(1, 5), NUMBER),
    st.builds(CosineDecay, NUMBER, st.integers(1, 5), NUMBER),
    st.builds(Warmup, st.integers(1, 3), st.builds(ExponentialDecay, NUMBER, UP_TO_1)),
)
# By check, or by name where not all that the check lets through is taken: values that pass it.
VALUES = {
    hyper.learning_rate: RATE,
    hyper.nonnegative: st.just(0.0) | NUMBER,
    hyper.positive: st.floats(1e-30, 1e3),
    hyper.fraction: st.just(0.0) | BELOW_1,
    hyper.proportion: st.just(0.0) | UP_TO_1,
    hyper.betas: st.tuples(BELOW_1, BELOW_1),
    hyper.proportions: st.tuples(UP_TO_1, UP_TO_1),
    hyper.constant: st.just(0.0) | NUMBER,
    hyper.optional(hyper.positive): st.none() | st.floats(1e-3, 1e3),
    hyper.optional(hyper.fraction): st.none() | BELOW_1,
    hyper.at_most_0: st.floats(-2, 0),
    hyper.floors: st.tuples(st.none() | st.floats(1e-12, 1), st.floats(1e-6, 1)),
    hyper.growth: st.just(np.inf) | st.floats(1, 4),
    hyper.above_0: st.floats(1e-3, 1),
    hyper.whole: st.integers(0, 5),
    hyper.interpolation_betas: st.tuples(st.floats(1e-3, 1), BELOW_1),
    hyper.three_betas: st.tuples(BELOW_1, BELOW_1, BELOW_1),
    hyper.etas: st.tuples(st.floats(1e-3, 0.99), st.floats(1.01, 1e3)),
    hyper.limits: st.tuples(UP_TO_1, st.floats(1, 1e3)),
    hyper.flag: st.booleans(),
    "eps": st.floats(1e-30, 1e3),  # less is refused in float32
}


def together(cls, found):
    """Whether the class takes these values beside each other."""
    try:
        cls.check_together({name: one.default for name, one in cls.hyper_parameters.items()} | found)
    except ValueError:
        return False
    return True


def hypers(cls):
    """A value for each hyper-parameter."""
    own = {name: one for name, one in cls.hyper_parameters.items() if one.init}
    values = {
        name: VALUES["eps" if name == "eps" and one._check is not hyper.floors else one._check]
        for name, one in own.items()
    }
    if cls.__name__ in REFUSE_RATE_0:
        values["lr"] = st.floats(1e-3, 1e3)
    return st.fixed_dictionaries(values).filter(lambda found: together(cls, found))


CLASSES = st.sampled_from(list(OPTIMIZERS.values()))
OPTIONS = st.fixed_dictionaries({
    "nonfinite": st.sampled_from(["propagate", "skip", "raise"]),
    "clip_norm": st.none() | st.floats(1e-3, 1e6),
})  # fmt: skip


def equal(a, b):
    return digest(a) == digest(b)


@given(data=st.data(), cls=CLASSES, options=OPTIONS, threads=st.sampled_from([1, 2, 5]))
def test_step_equals_reference_step_to_the_bit(data, cls, options, threads):
    sweep.set_threads(threads)
    params = data.draw(PARAMS)
    assume(is_for(cls, params))
    twins = mapped(lambda p: p.copy(order="K"), params)
    opt, twin = cls(params, **options), cls(twins, **options)
    loss_scale = data.draw(st.sampled_from([1.0, 1024.0]) | st.floats(1e-3, 1e3))
    for _ in range(data.draw(st.integers(1, 3))):
        values = data.draw(hypers(cls))
        opt.param_groups[0].update(values)
        twin.param_groups[0].update(values)
        grads = data.draw(gradients(params))
        before = [None if g is None else g.tobytes() for g in leaves(grads)]
        assert stepped(opt, grads, loss_scale=loss_scale) == stepped(twin, grads, loss_scale=loss_scale, reference=True)
        assert [None if g is None else g.tobytes() for g in leaves(grads)] == before
        assert everything(opt, params) == everything(twin, twins)


@given(data=st.data(), cls=CLASSES)
def test_groups_equal_optimizers_of_their_own(data, cls):
    parts = [data.draw(PARAMS) for _ in range(data.draw(st.integers(1, 3)))]
    values = [data.draw(hypers(cls)) for _ in parts]
    assume(is_for(cls, parts) and not (cls.same_in_groups and len(parts) > 1))  # groups of Prodigy have one sum
    twins = mapped(lambda p: p.copy(order="K"), parts)
    both = cls([{"params": p, **h} for p, h in zip(parts, values, strict=True)])
    each = []
    for p, h in zip(twins, values, strict=True):
        each.append(cls(p))
        each[-1].param_groups[0].update(h)
    for _ in range(2):
        grads = [data.draw(gradients(p)) for p in parts]
        stepped(both, grads)
        for opt, g in zip(each, grads, strict=True):
            stepped(opt, g)
    assert all(equal(a, b) for a, b in zip(leaves(parts), leaves(twins), strict=True))


@given(tree=trees(arrays()))
def test_a_tree_knows_its_leaves_by_the_names_the_user_would_write(tree):
    found = Tree(tree)
    assert all(eval(name, {"params": tree}) is leaf for name, leaf in zip(found.names, found.leaves, strict=True))
    assert all(
        eval(name, {"grads": tree}) is leaf for name, leaf in zip(found.gradient_names, found.leaves, strict=True)
    )
    assert [id(x) for x in found.take_apart(tree)] == [id(x) for x in leaves(tree)]


def listed(tree):
    """The same, lists for tuples, and dicts in the opposite order."""
    if isinstance(tree, dict):
        return {key: listed(tree[key]) for key in reversed(tree)}
    return [listed(x) for x in tree] if isinstance(tree, (list, tuple)) else tree


@given(tree=trees(arrays()))
def test_lists_for_tuples_and_keys_in_another_order_are_taken_apart_alike(tree):
    assert [id(x) for x in Tree(tree).take_apart(listed(tree))] == [id(x) for x in leaves(tree)]


@given(one=trees(st.just(0)), other=trees(st.just(0)))
def test_two_structures_fit_each_other_or_the_difference_is_named(one, other):
    same = Tree(one).structure == Tree(other).structure
    if same:
        assert len(Tree(one).take_apart(other)) == len(Tree(one).leaves)
    else:
        with pytest.raises(
            ValueError, match=r"(?s)^grads.* (is|lacks|has) .*: wanted (one array|a list of|a dict with)"
        ):
            Tree(one).take_apart(other)


@given(data=st.data(), record=st.sampled_from(RECORDS), params=PARAMS)
def test_a_copy_and_a_snapshot_go_on_with_the_same_bits(data, record, params):
    opt = record.make(params)
    stepped(opt, data.draw(gradients(params)))
    copied = mapped(lambda p: p.copy(order="K"), params)
    twin = copy.copy(opt).bind(copied)
    loaded_params = mapped(lambda p: p.copy(order="K"), params)
    loaded = record.make(loaded_params)
    loaded.load_state_dict(opt.state_dict())
    grads = data.draw(gradients(params))
    stepped(opt, grads)
    stepped(twin, grads)
    stepped(loaded, grads)
    assert everything(opt, params) == everything(twin, copied) == everything(loaded, loaded_params)


@given(data=st.data(), params=PARAMS, bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_bad_element_anywhere_is_found_and_named(data, params, bad):
    opt = Adam(params, nonfinite="raise")
    grads = mapped(lambda p: np.zeros_like(p), params)
    sites = [(name, g) for name, g in named(grads, "grads") if g.size]
    assert opt.step(grads)
    if not sites:
        return
    name, g = data.draw(st.sampled_from(sites))
    index = np.unravel_index(data.draw(st.integers(0, g.size - 1)), g.shape)
    g[index] = bad
    before = everything(opt, params)
    place = f"[{', '.join(str(int(i)) for i in index)}]" if index else ""
    with pytest.raises(FloatingPointError) as caught:
        opt.step(grads)
    assert str(caught.value) == f"{name}{place} is {bad}: nothing was written"
    assert everything(opt, params) == before


@given(schedule=RATE, t=st.integers(0, 10**9))
def test_schedules_are_pure_and_return_learning_rates(schedule, t):
    if callable(schedule):
        value = schedule(t)
        assert value == schedule(t)
        assert isinstance(value, float)
        assert 0 <= value <= 1e3
