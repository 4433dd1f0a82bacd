"""`fastopt.torch`: steps, groups, and the conventions of torch.optim around a step."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import subprocess
import sys
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: `pip install torch` to test fastopt.torch")

import optimizers_table  # noqa: E402
from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch_support import (  # noqa: E402
    THEIRS,
    VIEWS,
    arrays,
    assert_same,
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

REALS = [torch.float32, torch.float64]


@pytest.fixture(params=["by address", "over views"], autouse=True)
def way(request, monkeypatch):
    """How gradients come in: by torch's DLPack functions, or as in torch without them, as views of NumPy's."""
    if request.param == "over views":
        monkeypatch.setattr(fastopt.torch, "EXCHANGE", VIEWS)
    elif not fastopt.torch.EXCHANGE.by_address:
        pytest.skip("this torch has no DLPack functions in C")
    return request.param


# ---- steps ----


@pytest.mark.parametrize("real", REALS, ids=str)
@pytest.mark.parametrize("name", ADAPTED)
def test_steps_have_the_bits_of_fastopts_own(name, real):
    params = parameters(real, name=name)
    orders = [
        fastopt.torch._checked_axes(p, "", ADAPTED[name]) for p in params
    ]  # since sums over a parameter go by memory order

    def in_order(tensors):
        return [None if x is None else x.detach().permute(a).numpy() for x, a in zip(tensors, orders, strict=True)]

    mine = [np.array(x, order="K") for x in in_order(params)]
    opt, numpy_opt = made(name, params), ADAPTED[name](mine, lr=0.01)
    for grads in gradients(params, 6):
        stepped(opt, params, grads)
        optimizers_table.stepped(numpy_opt, in_order(grads))
        for i, (p, array) in enumerate(zip(in_order(params), mine, strict=True)):
            assert np.array_equal(p, array), i
    shown = states(opt)
    for i, (count, entry) in enumerate(zip(numpy_opt.step_counts.values(), numpy_opt.state.values(), strict=True)):
        assert {"step": count, **entry}.keys() - {"step"} == shown.get(i, {}).keys() - {"step"}
        assert name in ("SGD", "Muon") or shown[i]["step"] == count
        for key, x in entry.items():
            assert np.array_equal(shown[i][key].permute(orders[i][: x.ndim]).numpy(), x), key


@pytest.mark.parametrize("name", THEIRS)
def test_signature_and_groups_are_torchs(name):
    ours, theirs = getattr(fastopt.torch, name), getattr(torch.optim, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    p = [torch.nn.Parameter(torch.ones(2, 2))]
    assert ours(p).param_groups == theirs(p).param_groups
    assert repr(ours(p)) == repr(theirs(p))


def test_torchs_classes_that_are_meant_are_known():
    wanted = [
        "SGD", "Adagrad", "Adadelta", "RMSprop", "Adamax", "Adam", "AdamW", "RAdam", "NAdam", "Rprop", "ASGD",
        "Adafactor", *["Muon"] * hasattr(torch.optim, "Muon"),
    ]  # fmt: skip
    assert wanted == THEIRS


@pytest.mark.parametrize("name", [name for name in ADAPTED if name not in THEIRS])
def test_what_torch_has_not_has_our_hyper_parameters(name):
    cls, rule = getattr(fastopt.torch, name), ADAPTED[name]
    opt = cls([torch.nn.Parameter(torch.ones(2))])
    named = {key: one.default for key, one in rule.hyper_parameters.items() if one.init}
    assert {key: x for key, x in opt.param_groups[0].items() if key != "params"} == named
    assert list(inspect.signature(cls).parameters) == ["params", *named]
    assert "clip_norm" not in inspect.signature(cls).parameters
    with pytest.raises(TypeError, match=r"no hyper-parameter 'lrr': did you mean 'lr'\?"):
        cls([torch.nn.Parameter(torch.ones(2))], lrr=1.0)
    with pytest.raises(ValueError, match="lr is -1"):
        cls([torch.nn.Parameter(torch.ones(2))], lr=-1.0)


def test_a_step_without_any_gradient_does_nothing():
    params = parameters()
    before = arrays(params)
    opt = made("Adam", params)
    assert opt.step() is None
    assert all(map(np.array_equal, arrays(params), before))
    assert len(opt.state) == 0


def test_gradients_may_be_of_a_subclass_and_require_gradients_themselves():
    class Mine(torch.Tensor):
        pass

    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = made("SGD", [p, q])
    p.grad = torch.ones(3).as_subclass(Mine)
    q.grad = torch.ones(3, requires_grad=True)
    opt.step()
    assert torch.equal(p, q)
    assert p.tolist() == [float(np.float32(1) - np.float32(0.01))] * 3


@pytest.mark.parametrize("n", [1, 3])
def test_a_gradient_that_is_to_be_read_with_the_other_sign_is(n):
    p = torch.nn.Parameter(torch.zeros(n, dtype=torch.float64))
    p.grad = torch.complex(torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)).conj().imag
    assert p.grad.is_neg()
    fastopt.torch.SGD([p], lr=1.0).step()
    assert p.tolist() == [1.0] * n


def test_real_training_comes_as_near_as_torchs_own():
    found = []
    for module in (torch.optim, fastopt.torch):
        torch.manual_seed(3)
        net = torch.nn.Sequential(torch.nn.Linear(10, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1))
        x = torch.randn(64, 10)
        y = x[:, :1].sin() + x[:, 1:2]
        opt = module.AdamW(net.parameters(), lr=1e-2)
        for _ in range(100):
            opt.zero_grad()
            loss = ((net(x) - y) ** 2).mean()
            loss.backward()
            opt.step()
        found.append(loss.item())
    assert found[1] == pytest.approx(found[0], rel=1e-3)  # a hundred steps in float32


# ---- around a step ----


def test_a_closure_computes_gradients_and_its_loss_is_returned():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = fastopt.torch.SGD([p], lr=0.5)

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert float(opt.step(closure)) == 3.0
    assert p.tolist() == [0.0] * 3
    assert opt.step(closure=closure) == 0.0


SCHEDULERS = {
    "LambdaLR": lambda s, opt: s.LambdaLR(opt, lambda k: 0.9**k),
    "MultiplicativeLR": lambda s, opt: s.MultiplicativeLR(opt, lambda k: 0.9),
    "StepLR": lambda s, opt: s.StepLR(opt, 2),
    "MultiStepLR": lambda s, opt: s.MultiStepLR(opt, [1, 3]),
    "ConstantLR": lambda s, opt: s.ConstantLR(opt, total_iters=2),
    "LinearLR": lambda s, opt: s.LinearLR(opt),
    "ExponentialLR": lambda s, opt: s.ExponentialLR(opt, 0.8),
    "CosineAnnealingLR": lambda s, opt: s.CosineAnnealingLR(opt, 6),
    "CosineAnnealingWarmRestarts": lambda s, opt: s.CosineAnnealingWarmRestarts(opt, 3),
    "PolynomialLR": lambda s, opt: s.PolynomialLR(opt),
    "CyclicLR": lambda s, opt: s.CyclicLR(opt, 0.01, 0.1, step_size_up=2),
    "OneCycleLR": lambda s, opt: s.OneCycleLR(opt, 0.1, total_steps=8),
    "SequentialLR": lambda s, opt: s.SequentialLR(opt, [s.ConstantLR(opt), s.ExponentialLR(opt, 0.5)], [2]),
    "ChainedScheduler": lambda s, opt: s.ChainedScheduler([s.ConstantLR(opt), s.ExponentialLR(opt, 0.5)]),
    "ReduceLROnPlateau": lambda s, opt: s.ReduceLROnPlateau(opt, patience=0),
}


def test_all_of_torchs_schedulers_are_tried():
    assert SCHEDULERS.keys() == {*torch.optim.lr_scheduler.__all__} - {"LRScheduler"}


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # which SequentialLR of older releases passes itself
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_torchs_sets_the_rate_of_each_step(name):
    p, q = (torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    opts = [module.SGD([x], lr=0.5, momentum=0.5) for module, x in ((fastopt.torch, p), (torch.optim, q))]
    schedulers = [SCHEDULERS[name](torch.optim.lr_scheduler, opt) for opt in opts]
    rates = set()
    for _ in range(7):
        for x, opt, scheduler in zip((p, q), opts, schedulers, strict=True):
            x.grad = torch.ones(3, dtype=torch.float64)
            opt.step()
            scheduler.step(*[1.0] * (name == "ReduceLROnPlateau"))
        assert opts[0].param_groups[0]["lr"] == opts[1].param_groups[0]["lr"]
        assert opts[0].param_groups[0]["momentum"] == opts[1].param_groups[0]["momentum"]  # which some cycle
        rates.add(opts[0].param_groups[0]["lr"])
        assert torch.allclose(p, q, rtol=1e-14, atol=0)  # a few roundings in double
    assert len(rates) > 1


def test_a_scheduler_that_cycles_betas_is_followed():
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    mine = np.zeros(3)
    opt, numpy_opt = fastopt.torch.Adam([p]), fastopt.Adam(mine)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=8)
    for _ in range(6):
        numpy_opt.lr, numpy_opt.betas = opt.param_groups[0]["lr"], opt.param_groups[0]["betas"]
        p.grad = torch.ones(3, dtype=torch.float64)
        opt.step()
        numpy_opt.step(np.ones(3))
        scheduler.step()
        assert np.array_equal(p.detach().numpy(), mine)


def test_a_rate_that_is_a_tensor_is_read_in_each_step():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    lr = torch.tensor(0.5, dtype=torch.float64)
    opt = fastopt.torch.SGD([p], lr=lr)
    for rate in (0.5, 0.25, 2.0):
        lr.fill_(rate)
        p.data.zero_()
        p.grad = torch.ones(2, dtype=torch.float64)
        opt.step()
        assert p.tolist() == [-rate] * 2
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    opt.step()
    scheduler.step()
    p.data.zero_()
    opt.step()
    assert float(lr) == 1.0
    assert p.tolist() == [-1.0] * 2
    lr.fill_(-1.0)
    with pytest.raises(ValueError, match=r"lr.*is -1.0: wanted a finite number of at least 0"):
        opt.step()
    assert p.tolist() == [-1.0] * 2


def test_other_hyper_parameters_may_be_tensors_too():
    found = []
    for betas in ((0.5, 0.75), (torch.tensor(0.5), torch.tensor(0.75))):
        p = torch.nn.Parameter(torch.zeros(2))
        opt = fastopt.torch.Adam([p], lr=0.1, betas=betas)
        for k in range(3):
            p.grad = torch.full((2,), 1.0 + k)
            opt.step()
        found.append(p)
    assert torch.equal(*found)


def test_a_group_that_is_added_leaves_the_others_their_state():
    params = parameters()
    mine = arrays(params)
    opt = made("Adam", params[:4])
    numpy_opt = fastopt.Adam(mine, lr=0.01)
    steps = gradients(params, 6, missing=False)
    for k, grads in enumerate(steps):
        if k == 3:
            opt.add_param_group({"params": params[4:], "lr": 0.5})
            for key in ("exp_avg", "exp_avg_sq", "step"):
                assert opt.state[params[0]][key].abs().sum() > 0
        set_gradients(params, grads)
        opt.step()
        numpy_opt.step(copies([g if i < 4 or k >= 3 else None for i, g in enumerate(grads)]))
    assert all(map(np.array_equal, arrays(params[:4]), mine[:4]))
    assert not np.array_equal(arrays(params)[5], mine[5])
    assert opt.state[params[5]]["step"] == 3
    assert opt.state[params[0]]["step"] == 6


def test_groups_may_be_edited_like_torchs():
    params = parameters()
    opt = made("Adam", params[:2])
    steps = gradients(params, 4, missing=False)
    stepped(opt, params, steps[0])
    opt.param_groups[0]["params"].append(params[2])  # some libraries do
    stepped(opt, params, steps[1])
    assert opt.state[params[2]]["step"] == 1
    opt.param_groups[0]["params"] = params[1:3]
    before = arrays(params)
    stepped(opt, params, steps[2])
    assert np.array_equal(before[0], arrays(params)[0])
    assert opt.state[params[1]]["step"] == 3
    opt.param_groups[0]["params"].insert(0, params[0])  # it comes back, with its state
    stepped(opt, params, steps[3])
    assert opt.state[params[0]]["step"] == 3
    opt.param_groups[0]["of the user"] = object()
    stepped(opt, params, steps[3])
    assert opt.state[params[0]]["step"] == 4


def test_hooks_are_called_around_a_step_and_may_change_its_arguments():
    p = torch.nn.Parameter(torch.zeros(2))
    opt = made("SGD", [p])
    calls = []
    handles = [
        opt.register_step_pre_hook(lambda o, args, kwargs: calls.append(("before", o is opt, float(p.detach().sum())))),
        opt.register_step_post_hook(lambda o, args, kwargs: calls.append(("after", o is opt, float(p.detach().sum())))),
        register_optimizer_step_pre_hook(lambda o, *_: calls.append(("all before", o is opt))),
        register_optimizer_step_post_hook(lambda o, *_: calls.append(("all after", o is opt))),
    ]
    p.grad = torch.ones(2)
    opt.step()
    for handle in handles:
        handle.remove()
    opt.step()
    assert [call[0] for call in calls] == ["all before", "before", "after", "all after"]
    assert all(call[1] for call in calls)
    assert calls[1][2] == 0
    assert calls[2][2] < 0
    with opt.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 7.0), {})):
        assert opt.step() == 7.0


def test_the_profiler_sees_a_label_and_steps_without_it_have_none(monkeypatch):
    p = torch.nn.Parameter(torch.zeros(2))
    opt = made("Adam", [p])
    p.grad = torch.ones(2)
    opt.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        opt.step()
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}

    def fail(*_):
        raise AssertionError("labelled")

    monkeypatch.setattr(torch.autograd.profiler, "record_function", fail)
    opt.step()
    assert opt.state[p]["step"] == 3


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none):
    p = torch.nn.Parameter(torch.ones(3))
    opt = made("SGD", [p])
    (p * p).sum().backward()
    opt.step()
    opt.zero_grad(set_to_none=set_to_none)
    assert p.grad is None if set_to_none else p.grad.tolist() == [0.0] * 3


def test_clipped_gradients_are_taken_as_they_are_then():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    p.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    opt = fastopt.torch.SGD([p], lr=1.0)
    torch.nn.utils.clip_grad_norm_([p], 1.0)
    wanted = (-p.grad).tolist()
    opt.step()
    assert p.tolist() == wanted


def test_a_step_in_the_backward_pass_itself():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    mine = arrays(net.parameters())
    opts = {p: made("Adam", [p]) for p in net.parameters()}

    def act(p):
        opts[p].step()
        opts[p].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(act)
    net(torch.ones(2, 3)).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert not any(map(np.array_equal, arrays(net.parameters()), mine))


def test_swa():
    net = torch.nn.Linear(3, 1)
    opt = made("SGD", net.parameters())
    averaged = torch.optim.swa_utils.AveragedModel(net)
    ema = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    scheduler = torch.optim.swa_utils.SWALR(opt, swa_lr=0.5, anneal_epochs=2)
    seen = []
    for _ in range(4):
        opt.zero_grad()
        net(torch.ones(2, 3)).sum().backward()
        opt.step()
        scheduler.step()
        averaged.update_parameters(net)
        ema.update_parameters(net)
        seen.append(net.weight.detach().clone())
    assert torch.allclose(averaged.module.weight, torch.stack(seen).mean(0))
    assert opt.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("fused", [None, True])
def test_grad_scaler(fused):
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = fastopt.torch.SGD([p], lr=0.5, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((p * p).sum()).backward()
    scaler.step(opt)
    scaler.update()
    assert p.tolist() == [0.0, 0.0]
    scaler.scale((p * float("inf")).sum()).backward()
    scaler.step(opt)
    scaler.update()
    assert p.tolist() == [0.0, 0.0]
    assert scaler.get_scale() == 2.0


def test_autograd_notices_that_a_step_has_changed_what_it_saved():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = made("Adam", [p, q])
    loss = (p * p).sum()
    other = (q * q).sum()
    p.grad = torch.ones(3)
    before = p._version, q._version
    opt.step()
    assert (p._version, q._version) == (before[0] + 1, before[1])
    other.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_averages_and_looked_ahead_parameters_are_noticed_too():
    for name in ("NAG", "ScheduleFreeSGD", "ASGD"):
        p = torch.nn.Parameter(torch.ones(3))
        opt = made(name, [p])
        stepped(opt, [p], [torch.ones(3)])
        stepped(opt, [p], [torch.ones(3)])
        bits, version = p.tolist(), p._version
        with opt.lookahead() if name == "NAG" else opt.averaged():
            assert p.tolist() != bits or name == "ASGD"
            assert p._version > version
            with pytest.raises(RuntimeError, match="leave the `with opt"):
                opt.step()
        assert p.tolist() == bits
        assert p._version > version + 1
    with pytest.raises(TypeError, match="Adam keeps no average"), made("Adam", [p]).averaged():
        pass


def test_a_look_ahead_finds_tensors_that_were_moved_and_groups_that_were_edited():
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    opt = fastopt.torch.NAG(params[:2], lr=0.5, momentum=0.5)
    for _ in range(2):
        stepped(opt, params[:2], [torch.ones(3)] * 2)
    old = params[0].data
    params[0].data = old.clone()
    with opt.lookahead():
        assert params[0].tolist() == [-0.625] * 3
    assert old.tolist() == params[0].tolist() == [-0.25] * 3
    opt.param_groups[0]["params"] = [params[2], params[1]]
    with opt.lookahead():
        assert [p.tolist()[0] for p in params] == [-0.25, -0.625, 1.0]


def test_nag_needs_a_look_ahead():
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    opt = fastopt.torch.NAG([p], lr=0.1, momentum=0.5)
    for _ in range(2):
        with opt.lookahead():
            opt.zero_grad()
            (p * p).sum().backward()
        opt.step()
    assert p.tolist() == [pytest.approx(0.56)]
    with pytest.raises(RuntimeError, match="compute them inside"):
        opt.step()


# ---- what tensors may be ----


def test_tensors_that_are_moved_are_found_again():
    params = [p for p in parameters() if p.is_contiguous()]
    mine = arrays(params)
    opt, numpy_opt = made("Adam", params), fastopt.Adam(mine, lr=0.01)
    for k, grads in enumerate(gradients(params, 5, missing=False)):
        if k == 2:
            for p in params:
                p.data = p.data.clone()
        if k == 3:
            torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(params), params)
        set_gradients(params, grads)
        opt.step()
        numpy_opt.step(copies(grads))
        assert all(map(np.array_equal, arrays(params), mine)), k


def test_parameters_that_change_their_memory_order_or_type_keep_their_state():
    net = torch.nn.Conv2d(3, 4, 2)
    params = list(net.parameters())
    mine = arrays(params)
    opt, numpy_opt = made("Adam", params), fastopt.Adam(mine, lr=0.01)
    for k, grads in enumerate(gradients(params, 4, missing=False)):
        if k == 2:
            net.to(memory_format=torch.channels_last)
            assert not params[0].is_contiguous()
        set_gradients(params, grads)
        opt.step()
        numpy_opt.step(copies(grads))
        assert all(map(np.array_equal, arrays(params), mine)), k
    net.double()
    set_gradients(params, [g.double() for g in grads])
    opt.step()
    assert opt.state[params[0]]["exp_avg"].dtype == torch.float64
    assert opt.state[params[0]]["step"] == 5


@pytest.mark.parametrize("name", ["Adam", "MADGRAD", "Rprop", "ScheduleFreeAdamW", "SGD", "Yogi"])
def test_a_first_gradient_begins_anew_also_in_the_step_that_takes_over_the_state_of_another(name):
    words = {"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {}
    results = []
    for moved in (False, True):
        params = [torch.nn.Parameter(torch.full(shape, 5.0)) for shape in ((2, 3, 2, 2), (4,))]
        opt = getattr(fastopt.torch, name)(params, lr=0.01, **words)
        set_gradients(params, [torch.ones(2, 3, 2, 2), None])
        opt.step()
        if moved:
            params[0].data = params[0].data.to(memory_format=torch.channels_last)
        set_gradients(params, [torch.ones(2, 3, 2, 2), torch.ones(4)])
        opt.step()
        results.append(params)
    assert_same(*results)


@pytest.mark.parametrize("name", ["Adam", "MADGRAD", "Rprop", "ScheduleFreeAdamW", "SGD", "Yogi"])
def test_a_tensor_that_is_moved_before_its_first_update_begins_anew(name):
    words = {"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {}
    results = []
    for moved in (False, True):
        params = [torch.nn.Parameter(torch.full((2, 3, 2, 2), 5.0)) for _ in range(2)]
        opt = getattr(fastopt.torch, name)(params, lr=0.01, **words)
        set_gradients(params, [torch.ones(2, 3, 2, 2)] * 2)
        with opt.lookahead():  # which sees both gradients
            pass
        params[1].grad = None
        opt.step()
        if moved:
            params[1].data = params[1].data.to(memory_format=torch.channels_last)
            params[0].grad = None
            opt.step()
            assert params[1] not in opt.state
        set_gradients(params, [None, torch.ones(2, 3, 2, 2)])
        opt.step()
        results.append(params)
    assert_same(*results)


@pytest.mark.parametrize("grown", [False, True])
def test_a_count_that_was_written_to_is_used_also_where_the_groups_were_edited(grown):
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    opt = fastopt.torch.Adam(params[:1])
    set_gradients(params, [torch.ones(3), torch.ones(3)])
    opt.step()
    opt.state[params[0]]["step"].fill_(7)
    if grown:
        opt.add_param_group({"params": params[1:]})
    opt.step()
    assert opt.state[params[0]]["step"] == 8


def test_channels_last_state_lies_as_its_parameter():
    p = torch.nn.Parameter(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
    opt = made("Adam", [p])
    p.grad = torch.ones_like(p)
    opt.step()
    assert opt.state[p]["exp_avg"].stride() == p.stride()


def test_errors_name_parameters_by_their_names_where_they_have_some():
    net = torch.nn.Linear(2, 3)
    opt = made("Adam", net.named_parameters())
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    net.weight.grad = net.weight.data
    with pytest.raises(ValueError, match=r"params\[0\]\['params'\]\['weight'\]\.grad overlaps the memory of"):
        opt.step()


def test_a_gradient_that_overlaps_state_or_a_parameter_is_refused_and_nothing_written():
    p, q = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    opt = made("Adam", [p, q])
    p.grad, q.grad = torch.ones(5), torch.ones(5)
    opt.step()
    before, kept = arrays([p, q]), states(opt)
    for bad in (p.data, q.data, opt.state[q]["exp_avg"]):
        p.grad = bad
        with pytest.raises(ValueError, match=r"params\[0\]\['params'\]\[0\]\.grad overlaps"):
            opt.step()
    assert all(map(np.array_equal, arrays([p, q]), before))
    assert torch.equal(states(opt)[0]["exp_avg"], kept[0]["exp_avg"])
    assert states(opt)[0]["step"] == 1


def embeddings(*kinds, sparse=True, **options):
    """Two equal tables with equal optimizers of these kinds."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(50, 8, sparse=sparse)
    tables = [table, copy.deepcopy(table)]
    return tables, [kind(table.parameters(), **options) for kind, table in zip(kinds, tables, strict=True)]


def step_each(tables, opts, seed):
    draw = torch.Generator().manual_seed(seed)
    indices, w = torch.randint(0, 50, (40,), generator=draw), torch.randn(40, 8, generator=draw)
    for table, opt in zip(tables, opts, strict=True):
        opt.zero_grad()
        (table(indices) * w).sum().backward()
        opt.step()


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("Adam", "SparseAdam", {"lr": 0.1, "eps": 1e-20}),  # whose eps has another place
        ("SGD", "SGD", {"lr": 0.1}),
        ("Adagrad", "Adagrad", {"lr": 0.1, "lr_decay": 0.5}),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # which torch's own steps give
def test_sparse_gradients_update_the_rows_that_they_name_as_with_torch(name, theirs, options):
    tables, opts = embeddings(getattr(fastopt.torch, name), getattr(torch.optim, theirs), **options)
    for k in range(20):
        step_each(tables, opts, k)
        assert torch.allclose(tables[0].weight, tables[1].weight, rtol=1e-5, atol=1e-6)  # of rounding, in float32


def test_sparse_gradients_go_on_after_copies_and_state_dicts():
    tables, opts = embeddings(fastopt.torch.Adam, fastopt.torch.Adam, lr=0.1)
    for k in range(3):
        step_each(tables, opts, k)
    rows = opts[0].state[tables[0].weight]["row_steps"]
    assert rows.dtype == torch.int64
    assert rows.max() > 1
    file = io.BytesIO()
    torch.save(opts[1].state_dict(), file)
    file.seek(0)
    opts[1] = fastopt.torch.Adam(tables[1].parameters(), lr=0.1)
    opts[1].load_state_dict(torch.load(file, weights_only=True))
    for k in range(3, 6):
        step_each(tables, opts, k)
        if k == 3:  # a plan that is made anew takes the counts along
            opts[1].add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    assert torch.equal(tables[0].weight, tables[1].weight)
    assert torch.equal(rows, opts[1].state[tables[1].weight]["row_steps"])
    tables[1].weight.grad = torch.ones(50, 8)  # of all rows
    opts[1].step()
    assert torch.equal(rows + 1, opts[1].state[tables[1].weight]["row_steps"])


@pytest.mark.parametrize("copied", [False, True])
def test_momentum_of_whole_gradients_is_damped_by_sparse_ones_after_a_copy_too(copied):
    table = torch.nn.Parameter(torch.zeros(3, 2))
    opt = fastopt.torch.SGD([table], lr=1.0, momentum=0.5, dampening=0.75)
    table.grad = torch.ones(3, 2)
    opt.step()
    if copied:
        table, opt = copy.deepcopy((table, opt))
    table.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (3, 2), check_invariants=True)
    opt.step()
    assert table[:, 0].tolist() == [-1.0, -1.75, -1.0]


def test_counts_of_rows_that_do_not_fit_are_refused():
    tables, opts = embeddings(fastopt.torch.Adam, fastopt.torch.Adam, lr=0.1)
    step_each(tables, opts, 0)
    weight = tables[0].weight
    opts[0].state[weight]["row_steps"] = torch.ones(49, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"\['row_steps'\] is torch.int64 of shape \(49,\): wanted torch.int64 of shape"
    ):
        opts[0].step()


def test_a_gradient_whose_storage_was_freed_is_refused():
    p = torch.nn.Parameter(torch.zeros(8))
    opt = fastopt.torch.SGD([p], lr=0.1)
    p.grad = torch.ones(8)
    opt.step()
    p.grad = torch.ones(8)
    p.grad.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match=r"^a gradient is a Tensor without memory of its own: wanted a tensor that has"):
        opt.step()
    assert torch.equal(p, torch.full((8,), -0.1))


def test_sparse_gradients_that_name_no_rows_are_refused_and_nothing_is_written():
    table, p = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(2))
    opt = made("Adam", [p, table])
    before = arrays([p, table])
    p.grad, table.grad = torch.ones(2), torch.eye(4).to_sparse()
    for _ in range(2):
        with pytest.raises(TypeError, match="a gradient is sparse in 2 axes: wanted 1"):
            opt.step()
    assert all(map(np.array_equal, arrays([p, table]), before))
    turned = torch.nn.Parameter(torch.ones(3, 4).t())
    turned.grad = torch.ones(4, 3).to_sparse(1)
    with pytest.raises(ValueError, match="a gradient is sparse: wanted a contiguous parameter"):
        made("Adam", [turned]).step()
    table.grad = torch.eye(4).to_sparse(1)
    opt.step()
    assert opt.state[p]["step"] == 1


class Wrapper(torch.Tensor):
    """As distributed and fake tensors are."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("not to be used")


REFUSED = [
    (lambda: torch.ones(2, dtype=torch.bfloat16), TypeError, r"\[0\] has dtype torch.bfloat16: wanted torch.float32"),
    (lambda: torch.ones(2, dtype=torch.complex64), TypeError, "has dtype torch.complex64"),
    (lambda: torch.ones(2, device="meta"), TypeError, "is on the device meta: only tensors in the CPU's memory"),
    (lambda: torch.ones(6, 6)[:, :3], ValueError, r"shape \(6, 3\) and strides \(6, 1\) does not fill its memory"),
    (lambda: torch.ones(1).expand(3), ValueError, "does not fill its memory, or does so more than once"),
    (lambda: torch.ones(2).to_sparse(), TypeError, "is sparse coo"),
    (lambda: Wrapper(torch.ones(2)), TypeError, "is a Wrapper without memory of its own"),
    (lambda: torch._neg_view(torch.ones(2)), ValueError, "does not fill"),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_parameters_that_cannot_be_updated_in_place_are_refused_at_once(make, kind, message):
    p = make()
    with pytest.raises(kind, match=message):
        fastopt.torch.SGD([p])
    good = torch.nn.Parameter(torch.ones(2))
    opt = fastopt.torch.SGD([good])
    with pytest.raises(kind, match=message.replace(r"\[0\] has", "has")):
        opt.add_param_group({"params": [p]})
    assert len(opt.param_groups) == 1
    good.grad = torch.ones(2)
    opt.step()
    assert good[0] < 1


def test_parameters_that_share_memory_are_refused():
    base = torch.zeros(10)
    halves = [torch.nn.Parameter(base[:5]), torch.nn.Parameter(base[5:])]
    fastopt.torch.SGD(halves)
    with pytest.raises(ValueError, match=r"\[1\] overlaps the memory of params\[0\]\['params'\]\[0\]"):
        fastopt.torch.SGD([halves[0], torch.nn.Parameter(base[4:])])
    with pytest.warns(UserWarning, match="duplicate"), pytest.raises(ValueError, match="overlaps the memory"):
        fastopt.torch.SGD([halves[0], halves[0]])
    opt = fastopt.torch.SGD(halves[:1])
    with pytest.raises(ValueError, match=r"params\[1\].*overlaps the memory of params\[0\]"):
        opt.add_param_group({"params": [torch.nn.Parameter(base[4:])]})


def test_parameters_that_come_to_share_memory_are_refused_in_a_step():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = made("SGD", [p, q])
    p.grad, q.grad = torch.ones(3), torch.ones(3)
    opt.step()
    q.data = p.data
    before = arrays([p])
    with pytest.raises(ValueError, match=r"overlaps the memory|is the same array"):
        opt.step()
    assert np.array_equal(before[0], arrays([p])[0])
    q.data = p.data.clone()
    opt.step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("name", ["capturable", "differentiable"])
def test_what_cannot_be_is_refused_with_a_reason(name):
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=f"{name}=True is refused: "):
        fastopt.torch.Adam([p], **{name: True})
    opt = fastopt.torch.Adam([p])
    opt.param_groups[0][name] = True
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match=f"{name}=True is refused: "):
        opt.step()
    assert p.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("words", [{"foreach": True}, {"fused": True}, {"foreach": False}])
def test_foreach_and_fused_mean_nothing(words):
    found = []
    for more in ({}, words):
        params = parameters()
        opt = made("Adam", params, **more)
        for grads in gradients(params, 3):
            stepped(opt, params, grads)
        found.append(params)
    assert_same(*found)


def test_a_bad_value_in_a_group_is_refused_when_it_is_used_and_nothing_is_written():
    p = torch.nn.Parameter(torch.ones(2))
    opt = made("Adam", [p])
    p.grad = torch.ones(2)
    opt.step()
    before = p.tolist()
    for key, bad, message in [("lr", -1.0, "lr"), ("betas", (0.9, 1.0), r"betas.*below 1"), ("eps", "x", "eps")]:
        kept = opt.param_groups[0][key]
        opt.param_groups[0][key] = bad
        with pytest.raises((TypeError, ValueError), match=message):
            opt.step()
        opt.param_groups[0][key] = kept
    with pytest.raises(ValueError, match="lr"):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": -1.0})
    assert p.tolist() == before
    opt.step()
    assert opt.state[p]["step"] == 2


def test_a_schedule_of_fastopts_is_no_rate_here():
    with pytest.raises(TypeError, match=r"schedules are those of torch\.optim\.lr_scheduler"):
        fastopt.torch.Lion([torch.nn.Parameter(torch.ones(2))], lr=lambda k: 0.1)


# ---- the machine ----


def test_large_tensors_are_stepped_by_all_threads_with_the_same_bits(way):
    found = []
    threads = fastopt.get_num_threads()
    try:
        for n in (1, 2):
            fastopt.set_num_threads(n)
            p = torch.nn.Parameter(torch.linspace(-1, 1, 300_000))
            opt = made("Adam", [p])
            for k in range(12):
                p.grad = torch.cos(p.detach() * k)
                opt.step()
            found.append(p)
    finally:
        fastopt.set_num_threads(threads)
    assert torch.equal(*found)


def test_gradients_are_let_go_after_a_step():
    p = torch.nn.Parameter(torch.ones(3))
    opt = made("Adam", [p])
    p.grad = g = torch.ones(3)
    gone = weakref.ref(g)
    opt.step()
    before = sys.getrefcount(g)
    opt.step()
    assert sys.getrefcount(g) == before
    del g
    p.grad = None
    assert gone() is None


def test_an_optimizer_is_freed_without_the_garbage_collector():
    p = torch.nn.Parameter(torch.ones(3))
    opt = made("Adam", [p])
    p.grad = torch.ones(3)
    opt.step()
    assert opt.state[p]["step"] == 1
    gone = weakref.ref(opt._inside)
    gc.disable()
    try:
        del opt
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("order", ["torch, fastopt.torch", "fastopt.torch, torch", "fastopt, torch, fastopt.torch"])
def test_torch_may_be_imported_before_and_after(order):
    script = f"""
import {order}
import torch
p = torch.nn.Parameter(torch.ones(1_000_000))
opt = fastopt.torch.Adam([p], lr=0.1)
for _ in range(3):
    opt.zero_grad()
    p.sum().backward()
    opt.step()
    torch.ones(300, 300) @ torch.ones(300, 300)
print(bool((p - 0.7).abs().max() < 1e-6))
"""
    path = ":".join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["True"], done.stderr


def test_the_library_imports_no_torch():
    path = ":".join(p for p in sys.path if p)
    script = "import sys, fastopt, fastopt.schedules, fastopt.checkpoint; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr
