"""The whole training loop: forward and backward pass of a perceptron in NumPy, BLAS threads on, then a step.

A faster step that slows the matrix products down is no gain, so what counts is the time of an iteration.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.handwritten import Naive, Out
from bench.peers import Fastopt, Limited, Peer, Twin
from bench.runner import Contender, interleave
from bench.workloads import CASES, Case, Data, mlp

# Layer widths and batch size, from one that lives in the L1 cache to one that does not fit the last level.
MODELS = {
    "8-16-1": ((8, 16, 1), 16),
    "64-64-10": ((64, 64, 10), 32),
    "784-256-256-10": ((784, 256, 256, 10), 64),
    "1024-1024-1024-10": ((1024, 1024, 1024, 10), 64),
    "2048-2048-2048-2048-10": ((2048, 2048, 2048, 2048, 10), 32),
}
BLOCK = 0.02  # s of iterations that are timed as one: of a millisecond, one more or less disturbed would decide
# So small that parameters stay where they are: every iteration of every contender is the same work.
CASE = Case("adam", "Adam", {**CASES["adam"].options, "lr": 1e-9}, CASES["adam"].state)


class Model:
    """A perceptron with ReLU and squared error; backward() leaves the gradients in the arrays of `data`."""

    def __init__(self, widths: tuple[int, ...], batch: int) -> None:
        rng = np.random.default_rng(0)
        self.data = Data(mlp(*widths), "float32", CASE.state)
        for p in self.data.params:
            p[...] = rng.normal(0.0, (2 / p.shape[0]) ** 0.5, p.shape)
        self.x, self.y = (rng.standard_normal((batch, width), dtype="float32") for width in (widths[0], widths[-1]))

    def backward(self) -> None:
        weights, biases = self.data.params[::2], self.data.params[1::2]
        activations = [self.x]
        for w, b in zip(weights, biases, strict=True):
            activations.append(np.maximum(activations[-1] @ w + b, 0))
        delta = (activations[-1] - self.y) / len(self.x)
        for i in reversed(range(len(weights))):
            delta = delta * (activations[i + 1] > 0)
            np.matmul(activations[i].T, delta, out=self.data.grads[2 * i])
            np.sum(delta, axis=0, out=self.data.grads[2 * i + 1])
            if i:
                delta = delta @ weights[i].T


def measure(models: list[str], seconds: float) -> dict[str, Any]:
    """Iterations without a step, and with the step of fastopt and of the NumPy forms."""
    rows = []
    for name in models:
        model = Model(*MODELS[name])

        def iteration(peer: type[Peer], model: Model = model) -> Contender:
            stepper = peer(CASE, model.data)

            def forward_backward_step() -> None:
                model.backward()
                stepper.step()

            return Contender(peer.name, forward_backward_step)

        fast = iteration(Fastopt)
        contenders = [Contender("no step", model.backward), fast, Limited(fast, 1), *map(iteration, (Naive, Out, Twin))]
        for contender, timing in interleave(contenders, seconds, rounds=(9, 60), block=BLOCK).items():
            rows.append({"model": name, "contender": contender, **timing.row()})
    return {"loop": rows}
