"""`fastopt.torch` in the hands of others: torch's own table of optimizers, its compiler, DDP, stable-baselines3."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: `pip install torch` to test fastopt.torch")

from torch_support import THEIRS, gradients, made, parameters, set_gradients  # noqa: E402

import fastopt.torch  # noqa: E402

try:
    from torch.testing._internal import common_optimizers as theirs
except ImportError:  # of expecttest
    theirs = None

needs_the_table = pytest.mark.skipif(
    theirs is None, reason="torch's table of optimizers is not there: `pip install expecttest`"
)
INFOS = {info.name: info for info in theirs.optim_db if info.name in THEIRS} if theirs else {}
INPUTS = [
    pytest.param(name, case.kwargs, id=f"{name} {case.desc}")
    for name, info in INFOS.items()
    for case in theirs._get_optim_inputs_including_global_cliquey_kwargs(
        "cpu", torch.float32, info, skip=("differentiable",)
    )
]


# ---- torch's table ----


@needs_the_table
def test_torchs_table_has_all_that_are_meant():
    assert {*INFOS} == {*THEIRS}
    assert len(INPUTS) > 90


@needs_the_table
@pytest.mark.parametrize("real", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "words"), INPUTS)
def test_each_entry_of_torchs_table_steps_as_torch_does_and_exchanges_state(name, words, real):
    """Torch alone; ours, then torch; torch, then ours: three steps each, in two groups."""
    ways = [(torch.optim, torch.optim), (fastopt.torch, torch.optim), (torch.optim, fastopt.torch)]
    found = []
    for one, other in ways:
        params, state = parameters(real, name=name), {}
        half = len(params) // 2
        groups = [{"params": params[:half]}, {"params": params[half:], "weight_decay": 0.02}]
        for index, module in enumerate((one, other)):
            opt = getattr(module, name)([dict(group) for group in groups], **words)
            if index:
                opt.load_state_dict(state)
            # Torch's fused kernels read any other memory order as if it were the parameter's, and fail where a momentum
            # is new beside one that is not.
            fused = words.get("fused")
            for grads in gradients(params, 6, missing=not fused)[3 * index : 3 * index + 3]:
                if fused:
                    grads = [
                        g if g is None else torch.empty_like(p).copy_(g) for p, g in zip(params, grads, strict=True)
                    ]
                set_gradients(params, grads)
                opt.step()
            state = opt.state_dict()
        found.append((params, state["state"]))
    # Torch keeps NAdam's product in float32, and the rates of ASGD; in all else each step has a dozen of roundings.
    bound = 1e-2 if name == "Muon" else 2e-6 if name in ("NAdam", "ASGD") or real == torch.float32 else 1e-13
    for params, shown in found[1:]:
        for p, q in zip(params, found[0][0], strict=True):
            assert torch.allclose(p, q, rtol=bound, atol=bound), (p - q).abs().max()
        assert shown.keys() == found[0][1].keys()
        for key, entry in found[0][1].items():
            assert shown[key].keys() == entry.keys()
            for at, x in entry.items():
                assert x is None or torch.allclose(shown[key][at].to(x.dtype), x, rtol=10 * bound, atol=bound), at


@needs_the_table
@pytest.mark.parametrize("name", INFOS)
def test_what_torchs_table_wants_refused_is(name):
    info = INFOS[name]
    refused = 0
    for case in info.optim_error_inputs_func("cpu", torch.float32):
        if case.error_on is not theirs.OptimizerErrorEnum.CONSTRUCTION_ERROR:
            continue
        given = case.optimizer_error_input
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning of torch's is an error here
            with pytest.raises((TypeError, ValueError, RuntimeError, KeyError)):
                getattr(fastopt.torch, name)(given.params, **given.kwargs)
        refused += 1
    assert refused > 3


# ---- torch's compiler ----


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_step_breaks_the_graph_and_has_the_same_bits(backend):
    found = []
    for compiled in (False, True):
        params = parameters()
        opt = made("Adam", params)
        step = torch.compile(opt.step, backend=backend) if compiled else opt.step
        for grads in gradients(params, 4):
            set_gradients(params, grads)
            step()
        found.append(params)
    assert all(map(torch.equal, *found))
    assert opt.state[params[0]]["step"] == 4
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_a_step_in_a_compiled_function():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = fastopt.torch.SGD([p], lr=0.25)

    @torch.compile(backend="eager")
    def train(x):
        loss = (x * p).sum()
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    assert [float(train(torch.ones(3, dtype=torch.float64)).detach()) for _ in range(3)] == [3.0, 2.25, 1.5]
    torch._dynamo.reset()


# ---- several processes ----

DDP = """
import sys, torch, fastopt.torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2)
torch.set_num_threads(1)
data = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
for make in (
    lambda params: fastopt.torch.AdamW(params, lr=0.1),
    lambda params: ZeroRedundancyOptimizer(params, optimizer_class=fastopt.torch.AdamW, lr=0.1),
):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))
    net = torch.nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True)
    opt = make(net.parameters())
    for _ in range(4):
        opt.zero_grad()
        (net(data[rank::2]) ** 2).mean().backward()
        opt.step()
    print(*(x for p in net.parameters() for x in p.detach().flatten().tolist()))
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ddp_over_gloo_with_two_processes(tmp_path):
    path = ":".join(p for p in sys.path if p)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", DDP, str(rank), str(tmp_path / "meeting")],
            env={"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed, errors = zip(*(one.communicate(timeout=300) for one in runs), strict=True)
    assert [one.returncode for one in runs] == [0, 0], errors
    rows = [np.array([line.split() for line in text.splitlines()], float) for text in printed]
    assert np.array_equal(*rows)
    assert np.array_equal(rows[0][0], rows[0][1])

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))
    data = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    opt = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(4):
        opt.zero_grad()
        (net(data) ** 2).mean().backward()
        opt.step()
    alone = torch.cat([p.detach().flatten() for p in net.parameters()]).numpy()
    assert np.allclose(rows[0][0], alone, rtol=1e-4, atol=1e-5)  # gradients are summed in another order


# ---- reinforcement learning ----


def ppo(optimizer, seed, **more):
    """An agent as stable-baselines3 makes it; the small epsilon is its own, which it sets for torch's Adam only."""
    words = {"optimizer_class": optimizer, "optimizer_kwargs": {"eps": 1e-5}}
    return stable_baselines3().PPO("MlpPolicy", "CartPole-v1", seed=seed, policy_kwargs=words, device="cpu", **more)


def stable_baselines3():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")


@pytest.mark.filterwarnings("ignore")  # of what stable-baselines3 imports
def test_an_agent_learns_what_it_learns_with_torch_and_goes_on_from_a_file():
    found = []
    for optimizer in (torch.optim.Adam, fastopt.torch.Adam):
        agent = ppo(optimizer, 0, n_steps=64, batch_size=32, n_epochs=2).learn(128)
        found.append(agent.policy.state_dict())
    for key, x in found[0].items():
        assert torch.allclose(x, found[1][key], rtol=1e-3, atol=1e-5), key  # eight steps in float32
    file = io.BytesIO()
    agent.save(file)
    file.seek(0)
    other = stable_baselines3().PPO.load(file, env=agent.get_env(), device="cpu")
    assert type(other.policy.optimizer) is fastopt.torch.Adam
    states = [one.policy.optimizer.state_dict()["state"] for one in (agent, other)]
    assert all(torch.equal(x, states[1][key][at]) for key, entry in states[0].items() for at, x in entry.items())
    other.learn(64, reset_num_timesteps=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ppo_on_cartpole_is_rewarded_as_with_torch():
    rewards = {}
    for optimizer in (torch.optim.Adam, fastopt.torch.Adam):
        rewards[optimizer] = []
        for seed in range(5):
            agent = ppo(optimizer, seed).learn(12_000)
            last = [episode["r"] for episode in agent.ep_info_buffer][-20:]
            rewards[optimizer].append(float(np.mean(last)))
    ours, torchs = rewards[fastopt.torch.Adam], rewards[torch.optim.Adam]
    print(f"PPO on CartPole, mean reward of the last 20 episodes, five seeds: torch {torchs}, fastopt {ours}")
    assert min(torchs) <= np.mean(ours) <= max(torchs)
