"""Muon, whose arithmetic is NumPy's, and `Split`, one optimizer whose parameters have several classes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt.schedules import LinearDecay

P = np.array([[1.0, -2.0], [0.5, 3.0]])
G1, G2 = np.array([[0.5, -0.25], [0.125, 1.0]]), np.array([[-0.125, 1.0], [0.25, -0.5]])


def matrices(path, array):
    return array.ndim == 2


def model(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "l1": {"W": rng.normal(size=(3, 5)), "b": rng.normal(size=5)},
        "l2": {"W": rng.normal(size=(5, 2)), "b": rng.normal(size=2)},
    }


def leaves(tree):
    return [tree[layer][name] for layer in ("l1", "l2") for name in ("W", "b")]


RULES = [(matrices, fastopt.Muon, {"lr": 0.02}), (True, fastopt.AdamW, {"lr": 1e-3, "weight_decay": 0.1})]


def bits(opt):
    tree = opt.params
    found = [x.tobytes() for x in leaves(tree)]
    return found + [x.tobytes() for name in sorted(opt.state) for _, x in sorted(opt.state[name].items())]


@pytest.mark.parametrize("reference", [False, True])
def test_two_steps_of_muon_are_those_of_the_example(reference):
    w = P.copy()
    opt = fastopt.Muon(w, lr=0.1)
    step = opt.reference_step if reference else opt.step
    step(G1)
    assert np.allclose(w, [[0.881910214691648, -1.96329504908199], [0.467977553672912, 2.90318019632798]], rtol=1e-13)
    step(G2)
    assert np.allclose(w, [[0.86409507936977, -2.01829803823473], [0.351628838084426, 2.88759209397734]], rtol=1e-13)
    assert np.allclose(opt.state["params"]["momentum_buffer"], [[0.0175, 0.038125], [0.0184375, 0.0225]], rtol=1e-13)


def by_the_paper(p, g, m, lr=0.1, mu=0.9, nesterov=True, decay=0.1, steps=5, adjust=None):
    """In extended precision, from the singular values: the iteration works on each of them alone."""
    p, g, m = (x.astype(np.longdouble) for x in (p, g, m))
    m = mu * m + (1 - mu) * g
    w = mu * m + (1 - mu) * g if nesterov else m
    u, s, v = np.linalg.svd(w.astype(float), full_matrices=False)
    s = s / max(np.sqrt((s * s).sum()), 1e-7)
    for _ in range(steps):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    rows, columns = p.shape
    factors = {"match_rms_adamw": 0.2 * max(rows, columns) ** 0.5, "spectral_unclamped": (rows / columns) ** 0.5}
    factor = factors.get(adjust, max(1, rows / columns) ** 0.5)
    return p - lr * (factor * (u * s) @ v + decay * p), m


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": False},
        {"ns_steps": 3, "weight_decay": 0.0},
        {"adjust_lr_fn": "match_rms_adamw"},
        {"adjust_lr_fn": "spectral_unclamped"},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5), (5, 1)], ids=str)
@pytest.mark.parametrize(("real", "near"), [("float64", 1e-11), ("float32", 1e-4)])
def test_muons_steps_are_the_papers(shape, options, real, near):
    rng = np.random.default_rng(1)
    w = rng.normal(size=shape).astype(real)
    wanted, m = w.astype(np.longdouble), np.zeros(shape)
    opt = fastopt.Muon(w, lr=0.1, momentum=0.9, **options)
    mine = {"nesterov": options.get("nesterov", True), "decay": options.get("weight_decay", 0.1)}
    mine |= {"steps": options.get("ns_steps", 5), "adjust": options.get("adjust_lr_fn")}
    for _ in range(3):
        g = rng.normal(size=shape).astype(real)
        wanted, m = by_the_paper(wanted, g, m, **mine)
        opt.step(g)
    assert abs(w - wanted).max() < near


@pytest.mark.parametrize("order", ["C", "F"])
def test_muon_goes_by_the_logical_shape_and_takes_any_gradient(order):
    rng = np.random.default_rng(2)
    w, g = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    mine = np.array(w, order=order)
    fastopt.Muon(mine, lr=0.1).step(np.repeat(g, 2, axis=1)[:, ::2])
    fastopt.Muon(w, lr=0.1).step(g)
    assert np.allclose(mine, w, rtol=1e-13)


def test_muon_has_the_options_of_all():
    w = np.ones((2, 2))
    opt = fastopt.Muon(w, lr=0.1, clip_norm=1.0, zero_grads=True, nonfinite="skip", ema_decay=0.5)
    g = G1.copy()
    assert not opt.step(np.full((2, 2), np.inf))
    assert (w == 1).all()
    opt.step(g)
    assert not g.any()
    assert (opt.state["params"]["ema"] == w).all()
    assert opt.grad_norm == pytest.approx(np.linalg.norm(G1))
    fastopt.Muon(np.zeros((0, 3))).step(np.zeros((0, 3)))
    w = np.ones((2, 2))
    fastopt.Muon(w, lr=0.1, weight_decay=0.0).step(np.zeros((2, 2)))
    assert (w == 1).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2)])
def test_muon_is_for_matrices(shape):
    with pytest.raises(ValueError, match=r"params\[1\] has shape .*, and Muon is for matrices: give it to another"):
        fastopt.Muon([np.ones((2, 2)), np.ones(shape)])


def test_muon_refuses_what_is_out_of_range():
    for name, bad in {"ns_steps": 100, "ns_coefficients": (1, 2), "adjust_lr_fn": "best", "eps": 0.0}.items():
        with pytest.raises((TypeError, ValueError), match=name):
            fastopt.Muon(np.ones((2, 2)), **{name: bad})


# ---- Split ----


def test_a_split_does_what_its_classes_do_alone():
    params, alone = model(), model()
    opt = fastopt.Split(params, RULES)
    muon = fastopt.Muon([alone[layer]["W"] for layer in alone], lr=0.02)
    adam = fastopt.AdamW([alone[layer]["b"] for layer in alone], lr=1e-3, weight_decay=0.1)
    for k in range(3):
        grads = model(10 + k)
        assert opt.step(grads)
        muon.step([grads[layer]["W"] for layer in grads])
        adam.step([grads[layer]["b"] for layer in grads])
    assert [x.tobytes() for x in leaves(params)] == [x.tobytes() for x in leaves(alone)]
    assert opt.steps == 3
    assert opt.lr == [0.02, 1e-3]
    assert "Split(Muon: lr=0.02" in repr(opt)
    assert "; AdamW: lr=0.001" in repr(opt)


def test_leaves_need_not_lie_as_their_rules_do():
    """Of six small arrays, one after the other to one of two classes, with None and a flat list."""
    rules = [(lambda path, array: int(path) % 2 == 0, fastopt.Adam, {"lr": 0.1}), (True, fastopt.SGD, {"lr": 0.5})]
    params = [np.full(k + 1, float(k)) for k in range(6)]
    twins = [p.copy() for p in params]
    opt = fastopt.Split(params, rules)
    for k in range(3):
        grads = [np.full(i + 1, i + k - 2.0) if (i + k) % 4 else None for i in range(6)]
        for step, tree in ((opt.step, grads), (opt.step, tuple(grads))):
            assert step(tree)
    separate = [fastopt.Adam(p, lr=0.1) if i % 2 == 0 else fastopt.SGD(p, lr=0.5) for i, p in enumerate(twins)]
    for k in range(3):
        for i, one in enumerate(separate):
            for _ in range(2 if (i + k) % 4 else 0):
                one.step(np.full(i + 1, i + k - 2.0))
    assert [p.tobytes() for p in params] == [p.tobytes() for p in twins]
    with pytest.raises(ValueError, match=r"grads\[3\] has shape \(9,\): wanted \(4,\), as params\[3\] has"):
        opt.step([np.ones(9) if i == 3 else np.ones(i + 1) for i in range(6)])


def test_clipping_and_skipping_are_of_all_together():
    params, twins = model(), model()
    rules = [(matrices, fastopt.SGD, {"lr": 0.5}), (True, fastopt.SGD, {"lr": 0.5})]
    opt = fastopt.Split(params, rules, clip_norm=0.1, nonfinite="skip")
    one = fastopt.SGD(twins, lr=0.5, clip_norm=0.1)
    opt.step(model(1))
    one.step(model(1))
    assert np.allclose(np.concatenate(list(map(np.ravel, leaves(params)))),
                       np.concatenate(list(map(np.ravel, leaves(twins)))), rtol=1e-14)  # fmt: skip
    bad = model(2)
    bad["l2"]["b"][1] = np.nan
    before = bits(opt)
    assert not opt.step(bad)
    assert bits(opt) == before
    assert opt.grad_norm == pytest.approx(one.grad_norm)


def test_groups_have_schedules_of_their_own():
    params = model()
    rules = [
        (matrices, fastopt.SGD, {"lr": LinearDecay(1.0, 4)}),
        (True, fastopt.Adam, {"lr": 0.1, "betas": (0.5, 0.5)}),
    ]
    opt = fastopt.Split(params, rules)
    assert opt.current_lr == [1.0, 0.1]
    opt.step(model(1))
    assert opt.current_lr == [0.75, 0.1]
    opt.param_groups[1]["betas"] = (0.25, 0.5)
    assert opt.step(model(2))
    opt.lr = 0.5
    assert opt.lr == 0.5
    opt.param_groups[0]["betas"] = (0.5, 0.5)
    with pytest.raises(ValueError, match="SGD has no hyper-parameter 'betas'"):
        opt.step(model(3))


@pytest.mark.parametrize("way", ["file", "dict", "pickle", "copy"])
def test_a_split_is_saved_and_goes_on(way, tmp_path):
    opt, other = fastopt.Split(model(), RULES), fastopt.Split(model(), RULES)
    for k in range(2):
        opt.step(model(k))
    if way == "file":
        opt.save(tmp_path / "a.fastopt", params=True)
        other.load(tmp_path / "a.fastopt")
    else:
        params = copy.deepcopy(opt.params)
        if way == "dict":
            other = fastopt.Split(params, RULES)
            other.load_state_dict(opt.state_dict())
        else:
            # A rule's function is not copied: which class a parameter has is known by its name.
            other = (pickle.loads(pickle.dumps(opt)) if way == "pickle" else copy.deepcopy(opt)).bind(params)
    assert bits(other) == bits(opt)
    for one in (opt, other):
        one.step(model(7))
    assert bits(other) == bits(opt)


def test_another_assignment_is_refused_at_load_by_name(tmp_path):
    opt = fastopt.Split(model(), RULES)
    opt.step(model(1))
    opt.save(tmp_path / "a.fastopt")
    other = fastopt.Split(model(), [(lambda path, a: path == "l1.W", fastopt.Muon, {}), (True, fastopt.AdamW, {})])
    before = bits(other)
    with pytest.raises(ValueError, match=r"params\['l2'\]\['W'\] was saved with Muon: here its class is AdamW"):
        other.load(tmp_path / "a.fastopt")
    assert bits(other) == before
    with pytest.raises(ValueError, match="the snapshot is of Split: wanted one of AdamW"):
        fastopt.AdamW(model()).load(tmp_path / "a.fastopt")


def test_what_cannot_be_split_is_refused_by_name():
    ok = (True, fastopt.AdamW, {})
    for rules, error in [
        ([(matrices, fastopt.Muon, {})], r"no rule is for params\['l1'\]\['b'\]: wanted \(True, class"),
        ([(True, fastopt.Muon, {})], r"params\['l1'\]\['b'\] has shape \(5,\), and Muon is for matrices"),
        ([(True, fastopt.NAG, {})], "NAG, which keeps more than arrays"),
        ([(True, fastopt.NAdam, {})], "NAdam, which keeps more than arrays"),
        ([(True, fastopt.ScheduleFreeSGD, {})], "ScheduleFreeSGD, which keeps more than arrays"),
        ([(True, dict, {})], r"rules\[0\] has <class 'dict'>: wanted a class of optimizers"),
        ([(True, fastopt.Split, {})], "wanted a class of optimizers"),
        ([("W", fastopt.Adam, {})], r"rules\[0\] begins with 'W': wanted a function of path and array, or True"),
        ([(True, fastopt.Adam)], r"wanted \(predicate, class, hyper-parameters\)"),
        ([(True, fastopt.Adam, 0.1)], r"rules\[0\] has 0\.1: wanted a dict of hyper-parameters"),
        ([(True, fastopt.Adam, {"momentum": 0.9})], "Adam has no hyper-parameter 'momentum'"),
        ([(True, fastopt.Adam, {"lr": -1.0})], "lr.* is -1.0"),
        ([(lambda path, array: "yes", fastopt.Adam, {}), ok], r"rules\[0\] of params\['l1'\]\['W'\] is 'yes'"),
    ]:
        with pytest.raises((TypeError, ValueError), match=error):
            fastopt.Split(model(), rules)
    with pytest.raises(
        TypeError, match=r"Split has no option 'lr': there are nonfinite, .*; a hyper-parameter belongs"
    ):
        fastopt.Split(model(), [ok], lr=0.1)
    with pytest.raises(ValueError, match="params is a list of groups: wanted a tree"):
        fastopt.Split([{"params": np.ones(2)}], [ok])
    with pytest.raises(ValueError, match="params has no parameters"):
        fastopt.Split([], [ok])


def test_a_rule_that_is_for_nothing_is_allowed():
    opt = fastopt.Split([np.ones(2)], [(matrices, fastopt.Muon, {}), (True, fastopt.SGD, {"lr": 1.0})])
    opt.step([np.ones(2)])
    assert opt.params[0].tolist() == [0, 0]


def test_a_step_of_muon_that_fails_half_way_is_loud(monkeypatch):
    opt = fastopt.Split(model(), RULES)
    opt.step(model(1))

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(fastopt.Muon, "reference", staticmethod(fails))
    with pytest.raises(MemoryError):
        opt.step(model(2))
    with pytest.raises(RuntimeError, match="torn"):
        opt.step(model(2))
