"""Against torch.optim, where torch is installed: the same names, the same options, the same steps to rounding."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: `pip install torch` to compare with torch.optim")

from optimizers_table import CASES, REALS  # noqa: E402
from oracles import Paper, exact  # noqa: E402

import fastopt  # noqa: E402

STEPS = 10
# torch clips by norm + 1e-6 and elsewhere, decouples only AdamW, and has no decay for Rprop.
WITH_TORCH = [
    case
    for case in CASES
    if case.torch and case.options.keys() <= inspect.signature(getattr(torch.optim, case.name)).parameters.keys()
]


def data(case, real, steps):
    rng = np.random.default_rng(5)
    shapes = [(), (5,), (6, 7), (100,)]
    some = [[np.asarray(rng.normal(size=shape)).astype(real) for shape in shapes] for _ in range(steps + 1)]
    scaled = [[np.asarray(g * g.dtype.type(case.loss_scale)) for g in grads] for grads in some[1:]]
    # None in some steps, from the second on: torch makes the momentum of a parameter in its first step
    return some[0], [[None if (k + i) % 5 == 4 else g for i, g in enumerate(grads)] for k, grads in enumerate(scaled)]


@pytest.fixture
def numbers_in_double():
    """What torch keeps as numbers, NAdam's product and the rates of ASGD, has its default type: else float32."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("numbers_in_double")
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("case", WITH_TORCH, ids=str)
def test_steps_are_torchs_to_rounding(case, real):
    """Each is near the paper: fastopt within the bound of test_paper.py, torch within as much; so their difference."""
    params, steps = data(case, real, STEPS)
    theirs = [torch.nn.Parameter(torch.from_numpy(np.array(p))) for p in params]
    paper, opt = Paper(case, params), case.make(params)
    other = getattr(torch.optim, case.name)(theirs, **case.options)
    for grads in steps:
        paper.step(grads)
        case.step(opt, grads)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = None if g is None else torch.from_numpy(np.array(g)) / case.loss_scale
        other.step()
        for mine, p, wanted in zip(params, theirs, paper.p, strict=True):
            difference = mine.astype(exact) - p.detach().numpy().astype(exact)
            assert np.all(abs(difference) <= 4 * wanted.error)
    for leaf, p in zip(opt.state.values(), theirs, strict=True):
        for key, x in leaf.items():
            # The state has torch's names, and torch's values; a dozen roundings a step of what has gone into it.
            np.testing.assert_allclose(x, other.state[p][key].numpy(), rtol=0, atol=12 * STEPS * np.finfo(real).eps)


def test_the_defaults_are_torchs():
    for name in dict.fromkeys(case.name for case in WITH_TORCH):
        mine = getattr(fastopt, name)(np.zeros(1)).param_groups[0]
        theirs = getattr(torch.optim, name)([torch.zeros(1)]).param_groups[0]
        for key in mine.keys() & theirs.keys() - {"params"}:
            assert mine[key] == theirs[key], f"{name}: {key}"


@pytest.mark.parametrize("real", REALS)
def test_a_torch_tensor_is_a_gradient(real):
    tensor = torch.arange(12, dtype=getattr(torch, real)).reshape(3, 4)
    p, q = np.ones((3, 4), real), np.ones((3, 4), real)
    fastopt.SGD(p, lr=0.5).step(tensor)
    fastopt.SGD(q, lr=0.5).step(tensor.numpy().copy())
    assert p.tobytes() == q.tobytes()
    fastopt.SGD(p.T, lr=0.5).step(tensor.T)
    fastopt.SGD(q, lr=0.5).step(tensor.numpy().copy())
    assert p.tobytes() == q.tobytes()


def test_a_tensor_that_shares_a_parameters_memory_is_updated_with_it():
    p = np.ones(5)
    tensor = torch.from_numpy(p)
    fastopt.SGD(p, lr=1.0).step(torch.full((5,), 3.0, dtype=torch.float64))
    assert (tensor == -2).all()


@pytest.mark.parametrize("order", ["torch, fastopt", "fastopt, torch"])
def test_both_can_be_imported_in_either_order(order):
    script = f"""
import {order}
import numpy as np
p = np.ones(1_000_000, "float32")
opt = fastopt.Adam(p, lr=0.1)
x = torch.ones(300, 300)
for _ in range(3):
    (x @ x).sum()
    opt.step(torch.ones(1_000_000))
print(abs(p - 0.7).max() < 1e-6, float((x @ x)[0, 0]))
"""
    path = ":".join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["True", "300.0"], done.stderr
