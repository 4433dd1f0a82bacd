"""What is measured: lists of tensor shapes, update rules with their hyper-parameters, and arrays to run them on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

Shapes = Sequence[tuple[int, ...]]


def mlp(*widths: int) -> Shapes:
    """Weights and biases of a perceptron, layer by layer."""
    return [shape for n, m in pairwise(widths) for shape in ((n, m), (m,))]


def resnet50() -> Shapes:
    """ResNet-50 (He et al. 2015, table 1): convolutions, each with scale and shift of its normalisation; classifier."""

    def convolution(n: int, m: int, size: int) -> list[tuple[int, ...]]:
        return [(m, n, size, size), (m,), (m,)]

    shapes = convolution(3, 64, 7)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        outputs = 4 * width
        for block in range(blocks):
            shapes += convolution(inputs, width, 1) + convolution(width, width, 3) + convolution(width, outputs, 1)
            if block == 0:
                shapes += convolution(inputs, outputs, 1)  # the shortcut, where the width changes
            inputs = outputs
    return [*shapes, (1000, inputs), (1000,)]


def gpt2_small() -> Shapes:
    """GPT-2 small (Radford et al. 2019): 12 blocks of width 768; the output shares the weights of the embedding."""
    width, vocabulary, context = 768, 50257, 1024
    norm = [(width,), (width,)]
    block = [*norm, *mlp(width, 3 * width), *mlp(width, width), *norm, *mlp(width, 4 * width, width)]
    return [(vocabulary, width), (context, width), *block * 12, *norm]


SINGLE = ["1", "100", "1e3", "1e4", "1e5", "1e6", "1e7", "1e8"]
LISTS = ["mlp", "thousand-small", "resnet50", "gpt2-small"]
WORKLOADS: dict[str, Shapes] = {
    **{name: [(int(float(name)),)] for name in [*SINGLE, "65536", "1e9"]},
    "mlp": mlp(784, 256, 256, 10),
    "thousand-small": [(64,)] * 1000,
    "resnet50": resnet50(),
    "gpt2-small": gpt2_small(),
}


def elements(workload: str) -> int:
    return sum(math.prod(shape) for shape in WORKLOADS[workload])


@dataclass(frozen=True)
class Case:
    """One update rule as it is measured: a class of fastopt, its options and its state under torch's names."""

    name: str
    optimizer: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    state: tuple[str, ...] = ()


_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
_RMSPROP = {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8}
CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("sgd", "SGD", {"lr": 1e-3}),
        Case("momentum", "SGD", {"lr": 1e-3, "momentum": 0.9}, ("momentum_buffer",)),
        Case("nesterov", "SGD", {"lr": 1e-3, "momentum": 0.9, "nesterov": True}, ("momentum_buffer",)),
        Case("nag", "NAG", {"lr": 1e-3, "momentum": 0.9}, ("momentum_buffer",)),
        Case("rmsprop", "RMSprop", _RMSPROP, ("square_avg",)),
        Case("rmsprop-momentum", "RMSprop", {**_RMSPROP, "momentum": 0.9}, ("square_avg", "momentum_buffer")),
        Case("rmsprop-centered", "RMSprop", {**_RMSPROP, "centered": True}, ("square_avg", "grad_avg")),
        Case("adam", "Adam", _ADAM, ("exp_avg", "exp_avg_sq")),
        Case("adamw", "AdamW", {**_ADAM, "weight_decay": 1e-2}, ("exp_avg", "exp_avg_sq")),
        Case("amsgrad", "Adam", {**_ADAM, "amsgrad": True}, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
    )
}


def all_cases() -> dict[str, Case]:
    """`CASES`, the classes of fastopt that are not there at their defaults, and those that have a cautious form in it.

    So a new class is measured by itself.
    """
    from fastopt.optimizers import OPTIMIZERS

    known = {case.optimizer for case in CASES.values()}
    plain = [Case(name.lower(), name) for name in OPTIMIZERS if name not in known]
    cautious = [name for name, cls in OPTIMIZERS.items() if "cautious" in cls.hyper_parameters]
    others = [*plain, *(Case(f"cautious-{name.lower()}", name, {"cautious": True}) for name in cautious)]
    return {**CASES, **{case.name: case for case in others}}


def as_matrices(shapes: Shapes) -> Shapes:
    """The same with a matrix, as square as can be, in place of each vector: for rules that keep rows and columns."""
    found = []
    for shape in shapes:
        n = math.prod(shape)
        rows = next(rows for rows in range(math.isqrt(n), 0, -1) if n % rows == 0)
        found.append(shape if len(shape) > 1 else (rows, n // rows))
    return found


def on_cache_lines(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """As many of the values, repeated, as the shape has, in an array that starts at a cache line."""
    size = math.prod(shape)
    memory = np.empty(size * values.itemsize + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    found = memory[skip : skip + size * values.itemsize].view(values.dtype)
    for begin in range(0, size, values.size):
        found[begin : begin + values.size] = values[: size - begin]
    return found.reshape(shape)


class Data:
    """Parameters, gradients and state of one workload, every tensor an allocation of its own as in a real program.

    All contenders that can are handed the very same arrays, so that none has better memory than another. They start at
    cache lines, which is best for all. (NumPy's own large arrays start 16 bytes after one; not all make up for that.)
    `state` maps torch's names to one array a tensor: zeros, until fastopt's own take their place. `first` has the
    numbers of the arrays, in the order p, g, state, that a first pass reads, and `second` those of one after it.
    `state_bytes` is what fastopt's state takes, also that of other shapes, for each parameter.
    """

    state_bytes: float = 0
    first: Sequence[int] = ()
    second: Sequence[int] = ()

    def __init__(self, shapes: Shapes, dtype: str, state: Sequence[str] = (), seed: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self.single = len(shapes) == 1
        noise = (0.1 * np.random.default_rng(seed).standard_normal(2**16)).astype(dtype)
        self.params = [on_cache_lines(noise, shape) for shape in shapes]
        self.grads = [on_cache_lines(noise[::-1], shape) for shape in shapes]
        self.state = {name: [np.zeros(shape, self.dtype) for shape in shapes] for name in state}

    def renew(self, grads: list[np.ndarray]) -> None:
        """Put other gradients into the same arrays."""
        for mine, g in zip(self.grads, grads, strict=True):
            mine[...] = g

    @property
    def elements(self) -> int:
        return sum(p.size for p in self.params)

    @property
    def bytes_moved(self) -> int:
        """Bytes one step must move: p, g and state in, p and state out, and before that what first passes read."""
        return (3 + 2 * len(self.state) + len(self.first) + len(self.second)) * self.elements * self.dtype.itemsize

    def tree(self, arrays: list[np.ndarray]) -> Any:
        """The arrays as a user would hand them over: a lone one alone."""
        return arrays[0] if self.single else arrays
