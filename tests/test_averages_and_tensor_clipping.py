"""`ema_decay` and `clip_tensor_norm`: the numbers, the same bits as the NumPy twin, and what does not go together."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from optimizers_table import ISAS, OF_KINDS, REALS, stepped

import fastopt
from fastopt.engine import chunks, kernels, sweep

C = chunks.CHUNK
SIZES = [1, 0, 17, C + 1, 16 * C + 1, 3]
G1, G2 = np.array([0.5, -0.25, 0.0]), np.array([-0.125, 1.0, 0.25])
KINDS = [record for record in OF_KINDS if not record.words and not record.cls._has_average()]
CLASSES = [fastopt.SGD, fastopt.NAG, fastopt.Adam, fastopt.Adan, fastopt.LAMB, fastopt.NovoGrad, fastopt.NAdam]


def some(real, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=n).astype(real) for n in SIZES]


def bits(opt):
    arrays = [*opt.params, *(x for state in opt.state.values() for x in state.values())]
    return [x.tobytes() for x in arrays]


def trained(cls, options, real="float32", reference=False, layout=lambda g: g):
    opt = cls(some(real, 0), lr=0.1, **options)
    for k in range(3):
        grads = [None if (i + k) % 5 == 4 else layout(g) for i, g in enumerate(some(real, 1 + k))]
        assert stepped(opt, grads, reference)
    return bits(opt)


def test_the_average_is_that_of_the_steps():
    w = np.array([1.0, -2.0, 0.5])
    opt = fastopt.SGD(w, lr=0.1, ema_decay=0.9)
    opt.step(G1)
    assert opt.state["params"]["ema"].tolist() == w.tolist()
    opt.step(G2)
    assert np.allclose(opt.state["params"]["ema"], [0.95125, -1.985, 0.4975], rtol=1e-15)
    old = w.tobytes()
    with opt.averaged():
        assert np.allclose(w, [0.95125, -1.985, 0.4975], rtol=1e-15)
    assert w.tobytes() == old


def test_each_tensor_is_clipped_by_its_own_norm():
    w = [np.zeros(3), np.zeros(2)]
    opt = fastopt.SGD(w, lr=1.0, clip_tensor_norm=1.0)
    assert opt.grad_norm is None
    opt.step([G2, np.array([3.0, -4.0])])
    assert np.allclose(w[0], [0.120385853085769, -0.963086824686154, -0.240771706171538], rtol=1e-14)
    assert np.allclose(w[1], [-0.6, 0.8], rtol=1e-15)
    assert opt.grad_norm == pytest.approx(5.10667455395387, rel=1e-14)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_norms_whose_squares_vanish_or_are_infinite_are_norms(size, reference):
    w = [np.zeros(2), np.zeros(2)]
    stepped(fastopt.SGD(w, lr=1.0, clip_tensor_norm=size), [np.array([3.0, -4.0]) * size, np.ones(2)], reference)
    assert np.allclose(w[0] / size, [-0.6, 0.8])
    assert np.allclose(w[1], -min(1.0, size / math.sqrt(2)))


OPTIONS = [
    {"ema_decay": 0.9},
    {"ema_decay": 0.5, "clip_tensor_norm": 0.5},
    {"ema_decay": 0.9, "clip_value": 0.5, "zero_grads": True},
    {"clip_tensor_norm": 0.5, "zero_grads": True, "nonfinite": "skip"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_steps_have_the_bits_of_the_twin(cls, options):
    sweep.set_forced(True)
    sweep.set_threads(2)
    wanted = trained(cls, options, reference=True)
    assert trained(cls, options) == wanted
    assert trained(cls, options, layout=lambda g: np.repeat(g, 2)[::2]) == wanted
    assert trained(cls, options) != trained(cls, {})


@pytest.mark.parametrize("real", REALS)
def test_every_instruction_set_has_the_same_average(real):
    found = set()
    for isa in ISAS:
        kernels.select(isa)
        found.add(b"".join(trained(fastopt.Adam, OPTIONS[1], real)))
    assert len(found) == 1


@pytest.mark.parametrize("record", KINDS, ids=str)
def test_an_average_changes_no_bit_of_the_rest(record):
    w, v = np.arange(1.0, 6.0), np.arange(1.0, 6.0)
    one, other = record.make(w), record.make(v, ema_decay=0.5)
    for k in range(3):
        for opt in (one, other):
            record.step(opt, np.arange(5.0) - k)
    assert w.tobytes() == v.tobytes()
    assert {key: x for key, x in other.state["params"].items() if key != "ema"}.keys() == one.state["params"].keys()
    assert other.nbytes == one.nbytes + w.nbytes


def test_an_average_that_is_asked_for_later_begins_with_the_parameters():
    w = np.array([8.0])
    opt = fastopt.SGD(w, lr=1.0, momentum=0.5)
    opt.step(np.array([4.0]))  # to 4
    opt.ema_decay = 0.5
    assert opt.state["params"]["ema"].tolist() == [4.0]
    opt.step(np.array([0.0]))  # to 2: the momentum goes on
    assert w.tolist() == [2.0]
    assert opt.state["params"]["ema"].tolist() == [3.0]
    opt.ema_decay = None
    opt.step(np.array([0.0]))
    assert opt.state["params"]["ema"].tolist() == [3.0]
    with pytest.raises(TypeError, match="SGD keeps no average of its parameters: wanted ema_decay"):
        opt.averaged()


def test_parameters_without_an_update_show_themselves():
    w = [np.ones(2), np.ones(2)]
    opt = fastopt.Adam(w, lr=0.1, ema_decay=0.9)
    opt.step([np.ones(2), None])
    opt.step([np.ones(2), None])
    w[1][...] = 7.0
    with opt.averaged():
        assert w[1].tolist() == [7, 7]
        assert w[0].tolist() != [7, 7]


@pytest.mark.parametrize("way", ["file", "dict", "pickle"])
def test_an_average_is_saved_and_goes_on(way, tmp_path):
    def made():
        return fastopt.SGD([np.ones(3), np.ones(2)], lr=0.1, momentum=0.9, ema_decay=0.75)

    opt, other = made(), made()
    for _ in range(2):
        opt.step([G1, None])
    if way == "file":
        opt.save(tmp_path / "a.fastopt", params=True)
        other.load(tmp_path / "a.fastopt")
    else:
        for mine, theirs in zip(other.params, opt.params, strict=True):
            mine[...] = theirs
        if way == "dict":
            other.load_state_dict(opt.state_dict())
        else:
            other = pickle.loads(pickle.dumps(opt)).bind(other.params)
    assert bits(other) == bits(opt)
    for one in (opt, other):
        one.step([G2, G2[:2]])
    assert bits(other) == bits(opt)


def test_a_snapshot_without_the_average_is_refused_by_name():
    opt = fastopt.SGD(np.ones(3), lr=0.1)
    opt.step(G1)
    with pytest.raises(ValueError, match=r"the snapshot lacks params\.ema"):
        fastopt.SGD(np.ones(3), lr=0.1, ema_decay=0.5).load_state_dict(opt.state_dict())


def test_a_copy_may_ask_for_an_average_before_it_is_bound():
    opt = fastopt.SGD(np.full(3, 4.0), lr=0.1)
    opt.step(G1)
    copy = pickle.loads(pickle.dumps(opt))
    copy.ema_decay = 0.5
    copy.bind(np.full(3, 6.0)).step(np.zeros(3))
    assert copy.state["params"]["ema"].tolist() == [6, 6, 6]


def test_what_does_not_go_together_is_refused_by_name():
    for given in ({"clip_norm": 1, "clip_tensor_norm": 1}, {"clip_tensor_norm": 1, "clip_value": 1}):
        with pytest.raises(ValueError, match=" and ".join(given) + ": wanted one of them"):
            fastopt.SGD(np.ones(2), **given)
    opt = fastopt.SGD(np.ones(2), clip_norm=1)
    with pytest.raises(ValueError, match="clip_norm and clip_tensor_norm: wanted one of them"):
        opt.clip_tensor_norm = 1.0
    for name in ("ASGD", "ScheduleFreeSGD", "ScheduleFreeAdamW"):
        with pytest.raises(ValueError, match=f"ema_decay: {name} keeps an average of its own"):
            getattr(fastopt, name)(np.ones(2), ema_decay=0.5)
    for bad in (1.0, -0.1, "0.5"):
        with pytest.raises((TypeError, ValueError), match="ema_decay"):
            fastopt.SGD(np.ones(2), ema_decay=bad)


def test_reset_begins_the_average_anew():
    w = np.ones(3)
    opt = fastopt.SGD(w, lr=0.1, ema_decay=0.5)
    opt.step(G1)
    opt.reset()
    opt.step(G1)
    assert opt.state["params"]["ema"].tolist() == w.tolist()
