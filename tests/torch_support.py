"""What the tests of `fastopt.torch` share; to be imported where torch is installed."""

from __future__ import annotations

import numpy as np
import torch

import fastopt.torch
from fastopt.engine.dlpack import Exchange
from fastopt.torch import ADAPTED

VIEWS = Exchange(
    None, torch.Tensor, torch.Tensor.is_neg, fastopt.torch._viewed, fastopt.torch._lies, fastopt.torch._one_by_one
)
THEIRS = [name for name in ADAPTED if hasattr(torch.optim, name)]


def parameters(real=torch.float32, seed=0, name="Adam"):
    """Parameters of all kinds of shapes and memory orders that an optimizer takes."""
    make = torch.Generator().manual_seed(seed)

    def some(*shape):
        return torch.randn(shape, generator=make, dtype=torch.float64).to(real)

    tensors = [
        some(),
        some(1),
        some(5),
        some(6, 7),
        some(7, 6).t(),
        some(2, 3, 4, 5).to(memory_format=torch.channels_last),
        some(3, 0, 2),
        some(3, 1, 1, 4).to(memory_format=torch.channels_last),
        some(90, 70),
    ]
    if ADAPTED[name].matrices_only:
        tensors = [x for x in tensors if x.ndim == 2]
    elif ADAPTED[name].keeps_axes:
        tensors = [x.contiguous() if x.ndim > 2 else x for x in tensors if x.numel()]  # torch's divides by 0 elements
    return [torch.nn.Parameter(tensor) for tensor in tensors]


def gradients(params, steps, seed=1, missing=True):
    """Gradients of each step, in several memory orders; in some steps a parameter has none."""
    make = torch.Generator().manual_seed(seed)
    found = []
    for k in range(steps):
        grads = []
        for i, p in enumerate(params):
            g = torch.randn(p.shape, generator=make, dtype=torch.float64).to(p.dtype)
            if (k + i) % 3 == 1 and g.ndim > 1:
                g = g.transpose(0, 1).contiguous().transpose(0, 1)
            elif (k + i) % 3 == 2:
                g = torch.empty_like(p, requires_grad=False).copy_(g)  # in the memory order of its parameter
            if (k + i) % 7 == 6 and g.ndim > 0:
                g = g[:1].expand(g.shape)
            grads.append(None if missing and (k + i) % 5 == 4 else g)
        found.append(grads)
    return found


def set_gradients(params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = g


def arrays(params):
    """Copies of tensors, as arrays of C order."""
    return [np.array(p.detach().numpy(), order="C") for p in params]


def copies(grads):
    """Gradients for NumPy."""
    return [None if g is None else g.detach().numpy().copy() for g in grads]


def made(name, params, module=fastopt.torch, **more):
    """An optimizer with a learning rate at which something happens."""
    return getattr(module, name)(params, lr=0.01, **more)


def stepped(opt, params, grads):
    """One step by these gradients, which are not computed at any point."""
    with opt.lookahead():
        pass
    set_gradients(params, grads)
    return opt.step()


def assert_same(params, others):
    for i, (p, q) in enumerate(zip(params, others, strict=True)):
        assert p.dtype == q.dtype
        assert torch.equal(p, q), f"{i}: {(p - q).abs().max()}"


def states(opt):
    """Copies of all state, by number of the parameter."""
    return {
        key: {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in entry.items()}
        for key, entry in opt.state_dict()["state"].items()
    }


def assert_same_states(one, other):
    assert one.keys() == other.keys()
    for key, entry in one.items():
        assert entry.keys() == other[key].keys()
        for name, x in entry.items():
            assert x.dtype == other[key][name].dtype, name
            assert torch.equal(x, other[key][name]), f"{key} {name}"
