"""Structures of parameters and gradients: each leaf is updated as it would be alone, under the name the user wrote."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, defaultdict, namedtuple
from types import MappingProxyType

import numpy as np
import pytest
from optimizers_table import OF_KINDS, stepped
from support import leaves, mapped
from test_errors import says

from fastopt import SGD, Adam

Layer = namedtuple("Layer", "weight bias")


def array(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


# words, parameters, the names of the leaves in order
STRUCTURES = [
    ("a lone array", lambda: array(3), ["params"]),
    ("an array of no dimensions", lambda: array(), ["params"]),
    ("an empty array", lambda: array(0, 3), ["params"]),
    ("a list", lambda: [array(2), array(3)], ["params[0]", "params[1]"]),
    ("a tuple", lambda: (array(2), array(3)), ["params[0]", "params[1]"]),
    ("a list of one", lambda: [array(2)], ["params[0]"]),
    ("a dict", lambda: {"w": array(2), "b": array(3)}, ["params['w']", "params['b']"]),
    ("a dict in no alphabetical order", lambda: {"z": array(2), "a": array(2)}, ["params['z']", "params['a']"]),
    ("keys of all kinds", lambda: {1: array(1), "1": array(2), (2, "x"): array(3), None: array(4), 'q"\'': array(5)},
     ["params[1]", "params['1']", "params[(2, 'x')]", "params[None]", "params['q\"\\'']"]),
    ("a named tuple", lambda: Layer(array(2, 2), array(2)), ["params[0]", "params[1]"]),
    ("dicts, lists and tuples nested", lambda: {"encoder": [array(2), (array(3), {"k": array(4)})], "b": array(1)},
     ["params['encoder'][0]", "params['encoder'][1][0]", "params['encoder'][1][1]['k']", "params['b']"]),
    ("an ordered dict in a default dict", lambda: defaultdict(list, a=OrderedDict(b=array(2))), ["params['a']['b']"]),
    ("nothing, nested, beside something", lambda: {"a": [], "b": {"c": ()}, "d": [array(2)]}, ["params['d'][0]"]),
    ("a dict with a key params", lambda: {"params": array(2), "other": array(1)},
     ["params['params']", "params['other']"]),
    ("a list of dicts of which one has no params", lambda: [{"params": array(2)}, {"w": array(1)}],
     ["params[0]['params']", "params[1]['w']"]),
    ("one dict twenty deep", lambda: deep(20), ["params" + "['x']" * 20]),
]  # fmt: skip
IDS = [row[0] for row in STRUCTURES]


def deep(n):
    return {"x": deep(n - 1)} if n else array(2)


@pytest.mark.parametrize("reference", [False, True], ids=["step", "reference_step"])
@pytest.mark.parametrize(("words", "make", "names"), STRUCTURES, ids=IDS)
def test_each_leaf_is_updated_as_if_it_were_alone(words, make, names, reference):
    params = make()
    alone = [p.copy() for p in leaves(params)]
    opt = Adam(params, lr=0.1)
    each = [Adam(p, lr=0.1) for p in alone]
    assert list(opt.state) == list(opt.step_counts) == names
    for t in range(3):
        grads = mapped(lambda p, t=t: array(*p.shape, seed=t + 1), params)
        assert (opt.reference_step if reference else opt.step)(grads)
        for one, g in zip(each, leaves(grads), strict=True):
            one.step(g)
    assert [p.tobytes() for p in leaves(params)] == [p.tobytes() for p in alone]
    assert list(opt.step_counts.values()) == [3] * len(names)
    assert opt.steps == 3


@pytest.mark.parametrize("record", OF_KINDS, ids=str)
def test_none_leaves_out_a_parameter_and_its_state(record):
    rng = np.random.default_rng(3)
    params = {"a": rng.normal(size=5), "b": [rng.normal(size=3), np.array(2.0)]}
    twin = params["b"][0].copy()
    opt, alone = record.make(params), record.make(twin)
    stepped(opt, {"a": np.ones(5), "b": [np.ones(3), np.array(1.0)]})
    stepped(alone, np.ones(3))
    a, state = params["a"].copy(), {k: v.copy() for k, v in opt.state["params['a']"].items() if v.ndim}
    assert stepped(opt, {"a": None, "b": [np.full(3, 2.0), None]})
    stepped(alone, np.full(3, 2.0))

    assert params["a"].tobytes() == a.tobytes()
    state.pop("lookahead_saved", None)  # what the parameters were before the block, with a gradient or not
    assert all(opt.state["params['a']"][k].tobytes() == v.tobytes() for k, v in state.items())
    assert params["b"][0].tobytes() == twin.tobytes()
    assert opt.step_counts == {"params['a']": 1, "params['b'][0]": 2, "params['b'][1]": 1}
    assert opt.steps == 2


def test_a_step_without_any_gradient_counts_as_a_step_and_writes_nothing():
    for params, grads in [(array(3), None), ([array(3)], [None]), ({"a": array(2)}, {"a": None})]:
        before = [p.tobytes() for p in leaves(params)]
        opt = Adam(params)
        assert opt.step(grads) is True
        assert opt.steps == 1
        assert set(opt.step_counts.values()) <= {0}
        assert [p.tobytes() for p in leaves(params)] == before


@pytest.mark.parametrize(
    ("params", "grads"),
    [
        ([array(2), array(3)], (np.ones(2), np.ones(3))),
        ((array(2), array(3)), [np.ones(2), np.ones(3)]),
        (Layer(array(2), array(3)), [np.ones(2), np.ones(3)]),
        ([array(2), array(3)], Layer(np.ones(2), np.ones(3))),
        ({"x": [array(2), array(3)]}, {"x": (np.ones(2), np.ones(3))}),
        (OrderedDict(a=array(2), b=array(3)), {"b": np.ones(3), "a": np.ones(2)}),
        ({"a": array(2), "b": array(3)}, OrderedDict(b=np.ones(3), a=np.ones(2))),
    ],
)
def test_lists_tuples_and_the_order_of_keys_are_interchangeable(params, grads):
    before = [p.copy() for p in leaves(params)]
    SGD(params, lr=1.0).step(grads)
    assert all((p == b - 1).all() for p, b in zip(leaves(params), before, strict=True))


def test_gradients_of_a_dict_are_matched_by_key_and_never_by_place():
    p = {"a": np.zeros(2), "b": np.zeros(2)}
    SGD(p, lr=1.0).step({"b": np.full(2, 2.0), "a": np.full(2, 1.0)})
    assert p["a"].tolist() == [-1, -1]
    assert p["b"].tolist() == [-2, -2]


def test_a_mapping_that_is_no_dict_is_no_structure():
    with pytest.raises(TypeError, match=says("params is mappingproxy: a parameter must be a NumPy array")):
        SGD(MappingProxyType({"a": array(2)}))


WRONG = [
    (lambda: array(3), [np.ones(3)], "grads is a list of 1: wanted one array"),
    (lambda: array(3), {"w": np.ones(3)}, "grads is a dict with keys ['w']: wanted one array"),
    (lambda: [array(3)], np.ones(3), "grads is ndarray: wanted a list of 1"),
    (lambda: [array(3)], [], "grads is a list of 0: wanted a list of 1"),
    (lambda: [array(3)], [np.ones(3), np.ones(3)], "grads is a list of 2: wanted a list of 1"),
    (lambda: [array(3)], {0: np.ones(3)}, "grads is a dict with keys [0]: wanted a list of 1"),
    (lambda: [array(3)], [[1.0, 2.0, 3.0]], "grads[0] is a list of 3: wanted one array"),
    (lambda: [array(3)], [{"w": np.ones(3)}], "grads[0] is a dict with keys ['w']: wanted one array"),
    (lambda: [array(3)], ([np.ones(3)],), "grads[0] is a list of 1: wanted one array"),
    (lambda: {"a": [], "b": array(1)}, {"a": None, "b": None}, "grads['a'] is NoneType: wanted a list of 0"),
    (lambda: {"a": {"b": array(2)}}, {"a": {"c": None}},
     "grads['a'] lacks 'b' and has 'c': wanted a dict with keys ['b']"),
    (lambda: {1: array(2)}, {"1": None}, "grads lacks 1 and has '1': wanted a dict with keys [1]"),
    (lambda: [{"params": array(3)}], np.ones(3), "grads is ndarray: wanted a list of 1, one entry for each group"),
    (lambda: [{"params": [array(3)]}, {"params": array(3)}], [np.ones(3)] * 3,
     "grads is a list of 3: wanted a list of 2, one entry for each group"),
    (lambda: [{"params": array(3)}], [{"params": np.ones(3)}],
     "grads[0] is a dict with keys ['params']: wanted one array"),
    (lambda: [{"params": [array(3)]}], [None], "grads[0] is NoneType: wanted a list of 1"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "grads", "message"), WRONG, ids=[row[2] for row in WRONG])
def test_another_structure_is_an_error_that_says_where(make, grads, message):
    params = make()
    before = [p.tobytes() for p in leaves(params)]
    opt = SGD(params, lr=1.0)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # compared whole below
        opt.step(grads)
    assert str(caught.value) == message
    assert opt.steps == 0
    assert [p.tobytes() for p in leaves(params)] == before


def test_keys_that_print_alike_stay_apart():
    class Key:
        def __repr__(self):
            return "key"

    one, other = Key(), Key()
    with contextlib.suppress(ValueError):  # to refuse them is as good
        opt = SGD({one: np.zeros(1), other: np.zeros(1)}, momentum=0.9)
        assert len(opt.state) == 2
