"""Fully connected networks in NumPy: losses, then forward and backward pass.

No hidden layer makes the linear and the logistic model, hidden layers the MLP: one class for the three.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Layer = dict[str, Array]


@dataclass(frozen=True)
class Loss:
    """A loss: its name on axes, its value and gradient by the scores, and for classes the predicted class."""

    name: str
    value_and_gradient: Callable[[Array, Array], tuple[float, Array]]
    predict: Callable[[Array], Array] | None = None


def _squared(scores: Array, target: Array) -> tuple[float, Array]:
    error = scores - target[:, None]
    return float(np.mean(error * error)), error * (2 / len(error))


def _binary(scores: Array, target: Array) -> tuple[float, Array]:
    z = scores[:, 0]
    loss = np.mean(np.logaddexp(0, z) - target * z)  # minus log of the sigmoid of z or -z, without overflow
    delta = (0.5 * (1 + np.tanh(0.5 * z)) - target) / len(z)
    return float(loss), delta[:, None].astype(scores.dtype, copy=False)


def _softmax(scores: Array, target: Array) -> tuple[float, Array]:
    rows = np.arange(len(scores))
    z = scores - scores.max(axis=1, keepdims=True)
    delta = np.exp(z)
    total = delta.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - z[rows, target])
    delta /= total
    delta[rows, target] -= 1
    delta /= len(scores)
    return float(loss), delta


MSE = Loss("MSE", _squared)
BINARY = Loss("cross entropy", _binary, lambda scores: scores[:, 0] > 0)
SOFTMAX = Loss("cross entropy", _softmax, lambda scores: scores.argmax(axis=1))


class Network:
    """Layers `x @ weight + bias` with ReLU between them.

    `params` and `grads` are lists of layers of the same structure; `gradients` writes into `grads`, allocated once.
    Weights are drawn as He et al. (2015, eq. 10) have it, those of a model without hidden layer start at 0.
    """

    def __init__(self, sizes: Sequence[int], loss: Loss, dtype: npt.DTypeLike, rng: np.random.Generator) -> None:
        self.loss = loss
        self.params: list[Layer] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            scale = np.sqrt(2 / fan_in) if len(sizes) > 2 else 0.0
            weight = (scale * rng.standard_normal((fan_in, fan_out))).astype(dtype)
            self.params.append({"weight": weight, "bias": np.zeros(fan_out, dtype)})
        self.grads = [{name: np.zeros_like(array) for name, array in layer.items()} for layer in self.params]

    def _forward(self, x: Array) -> list[Array]:
        """The input of each layer, then the scores."""
        values = [x]
        for i, layer in enumerate(self.params):
            if i:
                np.maximum(values[-1], 0, out=values[-1])
            values.append(values[-1] @ layer["weight"] + layer["bias"])
        return values

    def gradients(self, x: Array, target: Array) -> float:
        """Write the gradient of the mean loss over a batch into `grads`; return that loss."""
        *inputs, scores = self._forward(x)
        loss, delta = self.loss.value_and_gradient(scores, target)
        for i in reversed(range(len(inputs))):
            np.matmul(inputs[i].T, delta, out=self.grads[i]["weight"])
            np.sum(delta, axis=0, out=self.grads[i]["bias"])
            if i:
                delta = delta @ self.params[i]["weight"].T
                delta *= inputs[i] > 0
        return loss

    def point(self) -> tuple[float, float]:
        """Slope and intercept of the model with one weight and one bias."""
        return self.params[0]["weight"].item(), self.params[0]["bias"].item()

    def evaluate(self, x: Array, target: Array) -> tuple[float, float | None]:
        """Mean loss, and the accuracy where there are classes."""
        scores = self._forward(x)[-1]
        loss, _ = self.loss.value_and_gradient(scores, target)
        predict = self.loss.predict
        return loss, None if predict is None else float(np.mean(predict(scores) == target))
