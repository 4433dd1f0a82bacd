"""`fastopt.torch`: the state that users see and write to, copies, pickles, and state dicts exchanged with torch."""

from __future__ import annotations

import copy
import io
import pickle
from collections import defaultdict

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: `pip install torch` to test fastopt.torch")

from torch_support import (  # noqa: E402
    THEIRS,
    arrays,
    assert_same,
    assert_same_states,
    copies,
    gradients,
    made,
    parameters,
    set_gradients,
    states,
    stepped,
)

import fastopt.torch  # noqa: E402
from fastopt.torch import ADAPTED  # noqa: E402

# Options under which the state has all that it may have.
WORDS = {
    "SGD": {"momentum": 0.5},
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True},
    "RMSprop": {"momentum": 0.5, "centered": True},
}


def run(opt, params, steps):
    for grads in steps:
        stepped(opt, params, grads)


# ---- what is shown ----


def test_state_is_shown_when_somebody_looks_and_is_the_optimizers_own():
    params = parameters()[2:4]
    opt = made("Adam", params)
    assert type(opt.state) is defaultdict
    assert len(opt.state) == 0
    steps = gradients(params, 3, missing=False)
    run(opt, params, steps[:1])
    entry = opt.state[params[0]]
    assert list(entry) == ["step", "exp_avg", "exp_avg_sq"]
    assert {type(x) for x in entry.values()} == {torch.Tensor}
    assert entry["step"].dtype == torch.float32
    assert entry["step"].shape == ()
    kept = entry["exp_avg"].clone()
    run(opt, params, steps[1:])
    assert entry["step"] == 3
    assert not torch.equal(entry["exp_avg"], kept)
    assert opt.state[params[0]] is entry


def test_there_is_no_entry_for_a_parameter_that_had_no_gradient():
    params = parameters()[2:5]
    opt = made("Adam", params)
    run(opt, params, [[torch.ones(5), None, None]])
    assert list(opt.state) == params[:1]
    assert len(opt.state_dict()["state"]) == 1
    run(opt, params, [[None, torch.ones(6, 7), None]])
    assert [int(entry["step"]) for entry in opt.state.values()] == [1, 1]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_sgd_has_state_with_momentum_only(momentum):
    params = parameters()[2:4]
    opt = made("SGD", params, momentum=momentum)
    run(opt, params, gradients(params, 2, missing=False))
    assert [list(entry) for entry in opt.state.values()] == [["momentum_buffer"]] * 2 * (momentum > 0)
    opt.param_groups[0]["momentum"] = 0.5
    run(opt, params, gradients(params, 1, missing=False))
    assert len(opt.state) == 2


def test_whoever_holds_the_dict_sees_what_comes_later():
    params = parameters()[2:4]
    opt = made("Adam", params)
    held = opt.state
    assert held[params[0]] == {}
    run(opt, params, [[torch.ones(5), torch.ones(6, 7)]])
    assert [list(entry) for entry in held.values()] == [["step", "exp_avg", "exp_avg_sq"]] * 2


@pytest.mark.parametrize("name", THEIRS)
def test_entries_are_named_as_torchs(name):
    found = []
    for module in (torch.optim, fastopt.torch):
        params = parameters(name=name)[:4]
        opt = made(name, params, module, **WORDS.get(name, {}))
        for grads in gradients(params, 2, missing=False):
            set_gradients(params, grads)
            opt.step()
        found.append({key: sorted(entry) for key, entry in opt.state_dict()["state"].items()})
    assert found[0] == found[1]


# ---- what is written ----


def test_state_that_is_written_to_in_place_is_used():
    params = parameters()[2:4]
    opt = made("Adam", params)
    mine = arrays(params)
    steps = gradients(params, 4, missing=False)
    run(opt, params, steps[:2])
    for entry in opt.state.values():
        entry["exp_avg"].zero_()
        entry["exp_avg_sq"].zero_()
        entry["step"].zero_()
    run(opt, params, steps[2:])
    assert opt.state[params[0]]["step"] == 2
    numpy_opt = fastopt.Adam(mine, lr=0.01)
    numpy_opt.step(copies(steps[0]))
    numpy_opt.step(copies(steps[1]))
    numpy_opt.reset()
    numpy_opt.step(copies(steps[2]))
    numpy_opt.step(copies(steps[3]))
    assert all(map(np.array_equal, arrays(params), mine))
    opt.state[params[0]]["step"].fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the step of params\[0\]\['params'\]\[0\] was set to nan"):
        opt.step()


def clear(opt):
    opt.state.clear()


def replace(opt):
    opt.state = defaultdict(dict)


def replace_by_a_plain_dict(opt):
    opt.state = {}


def empty_entries(opt):
    for p in opt.state:
        opt.state[p] = {}


def delete(opt):
    for p in list(opt.state):
        del opt.state[p]


@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize("act", [clear, replace, replace_by_a_plain_dict, empty_entries, delete])
@pytest.mark.parametrize("name", ["Adam", "SGD", "NAdam", "ScheduleFreeSGD", "Rprop"])
def test_state_that_is_cleared_begins_anew(name, act, looked):
    params, others = parameters()[2:5], parameters()[2:5]
    words = WORDS.get(name, {})
    opt = made(name, params, **words)
    steps = gradients(params, 6, missing=False)
    run(opt, params, steps[:3])
    if looked:
        assert len(opt.state) == 3
    act(opt)
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    run(opt, params, steps[3:])
    fresh = made(name, others, **words)
    run(fresh, others, steps[3:])
    assert_same(params, others)
    assert_same_states(states(opt), states(fresh))


def test_numbers_of_a_group_stay_as_long_as_one_of_its_parameters_has_state():
    params = parameters()[2:4]
    opt = made("ScheduleFreeSGD", params)
    run(opt, params, gradients(params, 3, missing=False))
    assert opt.state[params[1]]["k"] == 3
    del opt.state[params[0]]
    run(opt, params, gradients(params, 1, missing=False))
    assert opt.state[params[1]]["k"] == 4
    assert opt.state[params[0]]["step"] == 1


@pytest.mark.parametrize("name", ["Prodigy", "ScheduleFreeAdamW", "ScheduleFreeSGD"])
def test_numbers_of_a_group_are_copied_also_where_a_parameter_has_no_state_yet(name):
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    opt = getattr(fastopt.torch, name)(params)
    stepped(opt, params, [torch.ones(3), None])
    set_gradients(params, [torch.ones(3), torch.ones(3)])
    others, twin = copy.deepcopy((params, opt))
    set_gradients(others, [torch.ones(3), torch.ones(3)])
    for one in (opt, twin):
        one.step()
    assert_same(params, others)
    for key in opt._rule.group_numbers:
        assert opt.state[params[0]][key] == twin.state[others[0]][key]


def test_an_entry_that_is_overwritten_is_taken_over():
    params, others = parameters()[2:4], parameters()[2:4]
    opt, theirs = made("Adam", params), made("Adam", others, torch.optim)
    steps = gradients(params, 6, missing=False)
    for k, grads in enumerate(steps):
        if k == 3:
            for x, o in ((params, opt), (others, theirs)):
                o.state[x[0]]["exp_avg"] = torch.full((5,), 0.5)
                o.state[x[1]] = {"step": torch.tensor(7.0), "exp_avg": x[1] * 0, "exp_avg_sq": torch.ones(6, 7)}
                o.state[x[1]]["a note"] = "of the user"
        for x, o in ((params, opt), (others, theirs)):
            set_gradients(x, grads)
            o.step()
    for p, q in zip(params, others, strict=True):
        # Six steps in float32, each with other roundings; another state is far off.
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)
    assert opt.state[params[1]]["step"] == 10
    assert opt.state[params[1]]["a note"] == "of the user"
    assert opt.state[params[0]]["step"] == 6


BAD = [
    ({"exp_avg": torch.ones(4)}, r"the state of params\[0\]\['params'\]\[0\]\['exp_avg'\] has shape \(4,\): wanted"),
    ({"exp_avg": 3.0}, r"\['exp_avg'\] is float: wanted a tensor of shape \(5,\)"),
    ({"step": -1.0}, r"\['step'\] is -1: wanted a whole number of at least 0"),
    ({"step": torch.tensor(float("inf"))}, r"\['step'\] is inf: wanted a finite number"),
    ({"step": None}, r"lacks 'step', its number of updates"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_an_entry_that_does_not_fit_is_refused_and_nothing_is_written(change, message):
    params = parameters()[2:4]
    opt = made("Adam", params)
    steps = gradients(params, 2, missing=False)
    run(opt, params, steps[:1])
    before = arrays(params)
    good = opt.state[params[0]]
    entry = {key: x for key, x in {**good, **change}.items() if x is not None}
    opt.state[params[0]] = entry
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            run(opt, params, steps[1:])
    assert all(map(np.array_equal, arrays(params), before))
    opt.state[params[0]] = good
    run(opt, params, steps[1:])
    assert opt.state[params[0]]["step"] == 2
    opt.state[params[0]] = 7
    with pytest.raises(TypeError, match="is int: wanted a dict"):
        run(opt, params, steps[1:])


@pytest.mark.parametrize("looked", [False, True])
def test_momentum_that_was_switched_on_and_not_used_yet_is_not_shown(looked):
    """Its first gradient is not damped, with torch's class too."""
    results = []
    for kinds in ([fastopt.torch.SGD] * 3, [fastopt.torch.SGD, torch.optim.SGD, fastopt.torch.SGD]):
        params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
        opt = kinds[0](params, lr=1.0)
        seen = opt.state if looked else None
        stepped(opt, params, [torch.ones(2), torch.ones(2)])
        opt.param_groups[0].update(momentum=0.5, dampening=0.75)
        stepped(opt, params, [torch.ones(2), None])
        assert seen is None or seen.keys() == {params[0]}
        for k, kind in enumerate(kinds[1:]):
            saved = copy.deepcopy(opt.state_dict())
            assert saved["state"].keys() == ({0, 1} if k else {0})
            opt = kind(params, lr=1.0)
            opt.load_state_dict(saved)
            set_gradients(params, [torch.ones(2), torch.ones(2)])
            opt.step()
        assert opt.state.keys() == {*params}
        results.append([p.tolist() for p in params])
    assert results[0] == results[1]
    assert results[0][1] == [-2.75, -2.75]


def test_amsgrad_may_be_switched_on_later():
    params = parameters()[2:4]
    opt = made("Adam", params)
    mine = arrays(params)
    numpy_opt = fastopt.Adam(mine, lr=0.01)
    for k, grads in enumerate(gradients(params, 4, missing=False)):
        opt.param_groups[0]["amsgrad"] = numpy_opt.amsgrad = k > 1
        stepped(opt, params, grads)
        numpy_opt.step(copies(grads))
        assert ("max_exp_avg_sq" in opt.state[params[0]]) == (k > 1)
    assert all(map(np.array_equal, arrays(params), mine))


# ---- copies and files ----


def through_deepcopy(params, opt):
    return copy.deepcopy((params, opt))


def through_pickle(params, opt):
    return pickle.loads(pickle.dumps((params, opt)))


def through_torch_save(params, opt):
    file = io.BytesIO()
    torch.save((params, opt), file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_a_state_dict(params, opt):
    params, state = copy.deepcopy((params, opt.state_dict()))
    other = getattr(fastopt.torch, type(opt).__name__)(params, lr=0.5)
    other.load_state_dict(state)
    return params, other


def through_weights_only(params, opt):
    file = io.BytesIO()
    torch.save((params, opt.state_dict()), file)
    file.seek(0)
    params, state = torch.load(file, weights_only=True)
    params = [torch.nn.Parameter(p.detach()) for p in params]
    other = getattr(fastopt.torch, type(opt).__name__)(params, lr=0.5)
    other.load_state_dict(state)
    return params, other


COPIES = [through_deepcopy, through_pickle, through_torch_save, through_a_state_dict, through_weights_only]


@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ADAPTED)
def test_a_copy_goes_on_with_the_same_bits_and_leaves_the_first_alone(name, way, looked):
    params = parameters(name=name)
    opt = made(name, params, **WORDS.get(name, {}))
    steps = gradients(params, 5)
    run(opt, params, steps[:3])
    if looked:
        assert len(opt.state) == len(params) or name == "SignSGD"
    others, other = way(params, opt)
    kept, state = [p.detach().clone() for p in params], states(opt)
    run(other, others, steps[3:])
    assert_same([p.detach() for p in params], kept)
    assert_same_states(states(opt), state)
    run(opt, params, steps[3:])
    assert_same(params, others)
    assert_same_states(states(opt), states(other))


def test_a_copy_of_a_large_count_is_exact_as_far_as_torchs_is():
    p = torch.nn.Parameter(torch.ones(2))
    opt = made("Adam", [p])
    run(opt, [p], [[torch.ones(2)]])
    opt.state[p]["step"].fill_(2**24 - 1)
    run(opt, [p], [[torch.ones(2)]])
    assert int(opt.state_dict()["state"][0]["step"]) == 2**24


@pytest.mark.parametrize("real", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("way", ["from torch", "to torch"])
@pytest.mark.parametrize("name", THEIRS)
def test_state_dicts_are_exchanged_with_torchs_class(name, way, real):
    """Half of the steps by one, half by the other, against all of them by torch's."""
    words = WORDS.get(name, {})
    modules = (torch.optim, fastopt.torch) if way == "from torch" else (fastopt.torch, torch.optim)
    params, all_theirs = parameters(real, name=name), parameters(real, name=name)
    steps = gradients(params, 8)
    first = made(name, params, modules[0], **words)
    for grads in steps[:4]:
        set_gradients(params, grads)
        first.step()
    second = getattr(modules[1], name)(params, lr=0.5)
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["lr"] == 0.01
    theirs = made(name, all_theirs, torch.optim, **words)
    for k, grads in enumerate(steps):
        set_gradients(all_theirs, grads)
        theirs.step()
        if k >= 4:
            set_gradients(params, grads)
            second.step()
    for p, q in zip(params, all_theirs, strict=True):
        # torch keeps NAdam's product in float32, also for double parameters; else some roundings a step.
        # Muon's products are in bfloat16 there, eight steps of them.
        bound = 2e-3 if name == "Muon" else 1e-6 if name in ("NAdam", "ASGD") else 1e3 * torch.finfo(real).eps
        assert torch.allclose(p, q, rtol=bound, atol=bound), (p - q).abs().max()
    shown = second.state_dict()["state"]
    for key, entry in theirs.state_dict()["state"].items():
        assert entry.keys() == shown[key].keys()
        assert "step" not in entry or shown[key]["step"] == entry["step"]


def test_a_state_dict_of_a_step_in_the_past_is_not_changed_by_later_ones_of_the_other():
    params, others = parameters()[2:4], parameters()[2:4]
    one, other = made("Adam", params), made("Adam", others)
    steps = gradients(params, 3, missing=False)
    run(one, params, steps[:2])
    other.load_state_dict(one.state_dict())
    run(one, params, steps[2:])  # which writes to the tensors of that state dict
    assert other.state[others[0]]["step"] == 2


def test_a_state_dict_that_does_not_fit_changes_nothing():
    params = parameters()[2:4]
    opt = made("Adam", params)
    run(opt, params, gradients(params, 2, missing=False))
    kept, groups = states(opt), copy.deepcopy(opt.state_dict()["param_groups"])
    bad = copy.deepcopy(opt.state_dict())
    bad["state"][1]["exp_avg"] = torch.ones(3)
    bad["param_groups"][0]["lr"] = 7.0
    with pytest.raises(ValueError, match=r"\[1\]\['exp_avg'\] has shape \(3,\): wanted a tensor of shape \(6, 7\)"):
        opt.load_state_dict(bad)
    assert_same_states(states(opt), kept)
    assert opt.state_dict()["param_groups"] == groups
    bad["param_groups"][0]["params"] = [0]
    with pytest.raises(ValueError, match="doesn't match the size"):
        opt.load_state_dict(bad)
    run(opt, params, gradients(params, 1, missing=False))
    assert opt.state[params[0]]["step"] == 3


def test_hooks_of_state_dicts_are_called():
    params = parameters()[2:4]
    opt = made("Adam", params)
    run(opt, params, gradients(params, 1, missing=False))
    calls = []
    opt.register_state_dict_pre_hook(lambda o: calls.append("before saving"))
    opt.register_state_dict_post_hook(lambda o, state: {**state, "more": 1})
    opt.register_load_state_dict_pre_hook(lambda o, state: calls.append("before loading"))
    opt.register_load_state_dict_post_hook(lambda o: calls.append("after loading"))
    state = opt.state_dict()
    assert state["more"] == 1
    opt.load_state_dict(state)
    assert calls == ["before saving", "before loading", "after loading"]


def test_the_file_of_a_state_dict_is_as_large_as_torchs():
    sizes = []
    for module in (torch.optim, fastopt.torch):
        params = [torch.nn.Parameter(torch.ones(100, 100)), torch.nn.Parameter(torch.ones(50))]
        opt = made("Adam", params, module)
        set_gradients(params, [torch.ones(100, 100), torch.ones(50)])
        opt.step()
        file = io.BytesIO()
        torch.save(opt.state_dict(), file)
        sizes.append(len(file.getvalue()))
    assert sizes[1] == pytest.approx(sizes[0], abs=2000)


def test_memory_of_state_is_taken_only_for_parameters_that_have_gradients():
    params = [torch.nn.Parameter(torch.ones(1000)) for _ in range(4)]
    opt = made("Adam", params)
    run(opt, params, [[torch.ones(1000), None, None, None]])
    assert opt._inside.nbytes == 2 * 4000
