"""The textbook optimizers as a person writes them in NumPy, here and in bench/ to be compared with steps of fastopt.

Each takes a parameter p, its gradient g, its state arrays s, the number t = 1, 2, … of this step, and hyper-parameters.
Every term makes a new array, and nothing is checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastopt.optimizers import OPTIMIZERS

from .models import Array, Layer

# Formulas, which say what they are and take arrays of any kind.
# ruff: noqa: D103
# mypy: disable-error-code="no-untyped-def"


def sgd(p, g, s, t, lr):
    p -= lr * g


def momentum(p, g, s, t, lr, momentum, nesterov=False):
    s[0] = momentum * s[0] + g
    p -= lr * (g + momentum * s[0] if nesterov else s[0])


def sign_sgd(p, g, s, t, lr):
    p -= lr * np.sign(g)


def lion(p, g, s, t, lr, betas):
    p -= lr * np.sign(betas[0] * s[0] + (1 - betas[0]) * g)
    s[0] = betas[1] * s[0] + (1 - betas[1]) * g


def adagrad(p, g, s, t, lr, eps):
    s[0] = s[0] + g**2
    p -= lr * g / (np.sqrt(s[0]) + eps)


def rmsprop(p, g, s, t, lr, alpha, eps):
    s[0] = alpha * s[0] + (1 - alpha) * g**2
    p -= lr * g / (np.sqrt(s[0]) + eps)


def adadelta(p, g, s, t, lr, rho, eps):
    s[0] = rho * s[0] + (1 - rho) * g**2
    change = np.sqrt(s[1] + eps) / np.sqrt(s[0] + eps) * g
    s[1] = rho * s[1] + (1 - rho) * change**2
    p -= lr * change


def adam(p, g, s, t, lr, betas, eps, weight_decay=0.0, amsgrad=False):
    if weight_decay:
        p -= lr * weight_decay * p
    s[0] = betas[0] * s[0] + (1 - betas[0]) * g
    s[1] = betas[1] * s[1] + (1 - betas[1]) * g**2
    if amsgrad:
        s[2] = np.maximum(s[2], s[1])
    m_hat = s[0] / (1 - betas[0] ** t)
    v_hat = s[-1] / (1 - betas[1] ** t)
    p -= lr * m_hat / (np.sqrt(v_hat) + eps)


def adamax(p, g, s, t, lr, betas, eps):
    s[0] = betas[0] * s[0] + (1 - betas[0]) * g
    s[1] = np.maximum(betas[1] * s[1], np.abs(g) + eps)
    p -= lr / (1 - betas[0] ** t) * s[0] / s[1]


#: by class, with the number of its state arrays and the hyper-parameters that the form has
FORMS: dict[str, tuple[Callable[..., None], int, tuple[str, ...]]] = {
    "SGD": (sgd, 0, ()),
    "SignSGD": (sign_sgd, 0, ()),
    "Lion": (lion, 1, ("betas",)),
    "Adagrad": (adagrad, 1, ("eps",)),
    "RMSprop": (rmsprop, 1, ("alpha", "eps")),
    "Adadelta": (adadelta, 2, ("rho", "eps")),
    "Adam": (adam, 2, ("betas", "eps")),
    "AdamW": (adam, 2, ("betas", "eps", "weight_decay")),
    "Adamax": (adamax, 2, ("betas", "eps")),
}


class ByHand:
    """A model's parameters, copied, and stepped by a form above; `ns` has the time of each step."""

    def __init__(self, form: Callable[..., None], slots: int, options: Mapping[str, Any], layers: list[Layer]) -> None:
        self.form, self.options = form, options
        self.params = [array.copy() for layer in layers for array in layer.values()]
        self.state: list[list[Array]] = [[np.zeros_like(p) for _ in range(slots)] for p in self.params]
        self.ns: list[int] = []

    def step(self, grads: Sequence[Layer], lr: float) -> None:
        """One step, timed."""
        flat = [array for layer in grads for array in layer.values()]
        start = time.perf_counter_ns()
        t = len(self.ns) + 1
        for p, g, s in zip(self.params, flat, self.state, strict=True):
            self.form(p, g, s, t, lr, **self.options)
        self.ns.append(time.perf_counter_ns() - start)


def by_hand(name: str, hyper: Mapping[str, Any], layers: list[Layer]) -> ByHand | None:
    """The form of a class, if there is one that has all hyper-parameters that are not the class's defaults."""
    if name not in FORMS:
        return None
    form, slots, keys = FORMS[name]
    if name == "SGD" and hyper["momentum"]:
        form, slots, keys = momentum, 1, ("momentum", "nesterov")
    defaults = {key: one.default for key, one in OPTIMIZERS[name].hyper_parameters.items()}
    if any(value != defaults[key] for key, value in hyper.items() if key not in keys):
        return None
    return ByHand(form, slots, {key: hyper[key] for key in keys}, layers)
