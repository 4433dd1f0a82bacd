"""Steps as users write them: NumPy as the paper has it, NumPy without new arrays, and loops compiled by numba."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from bench.peers import Peer, need, threads, written
from fastopt.cli.handwritten import adam, momentum, rmsprop, sgd

# In every rule: p parameter, g gradient, s the slots of state in the order of the case, t the number of this step.


class NumPyForm(Peer):
    """One function a rule, called for each tensor with its arrays and `scratch` more of its shape."""

    packaged = False
    rules: ClassVar[dict[str, Callable[..., None]]]
    scratch = 0

    def prepare(self) -> None:
        self.rule = written(self.rules, self.case)
        data = self.data
        slots = [list(arrays) for arrays in zip(*data.state.values(), strict=True)] or [[] for _ in data.params]
        largest = max(p.size for p in data.params)
        spare = [np.empty(largest, data.dtype) for _ in range(self.scratch)]
        self.work = [
            (p, g, s, *(array[: p.size].reshape(p.shape) for array in spare))
            for p, g, s in zip(data.params, data.grads, slots, strict=True)
        ]

    def step(self) -> None:
        self.t += 1
        for arrays in self.work:
            self.rule(*arrays, self.t, **self.case.options)


# ------------------------------------------------------------------------------- NumPy naive: new arrays for every term


class Naive(NumPyForm):
    name = "NumPy naive"
    rules: ClassVar = {"sgd": sgd, "momentum": momentum, "rmsprop": rmsprop, "adam": adam}


# ------------------------------------------- NumPy out=: every ufunc writes into its result or a scratch array, a or b


def out_sgd(p, g, s, a, b, t, lr):
    np.multiply(g, lr, out=a)
    p -= a


def out_momentum(p, g, s, a, b, t, lr, momentum, nesterov=False):
    (m,) = s
    m *= momentum
    m += g
    if nesterov:
        np.multiply(m, momentum, out=a)
        a += g
        a *= lr
    else:
        np.multiply(m, lr, out=a)
    p -= a


def out_rmsprop(p, g, s, a, b, t, lr, alpha, eps):
    (v,) = s
    np.multiply(g, g, out=a)
    a *= 1 - alpha
    v *= alpha
    v += a
    np.sqrt(v, out=a)
    a += eps
    np.divide(g, a, out=a)
    a *= lr
    p -= a


def out_adam(p, g, s, a, b, t, lr, betas, eps, weight_decay=0.0, amsgrad=False):
    m, v, *x = s
    root = math.sqrt(1 - betas[1] ** t)
    if weight_decay:
        p *= 1 - lr * weight_decay
    m *= betas[0]
    np.multiply(g, 1 - betas[0], out=a)
    m += a
    v *= betas[1]
    np.multiply(g, g, out=a)
    a *= 1 - betas[1]
    v += a
    if amsgrad:
        np.maximum(x[0], v, out=x[0])
    np.sqrt(s[-1], out=a)
    a += eps * root
    np.divide(m, a, out=b)
    b *= lr * root / (1 - betas[0] ** t)
    p -= b


class Out(NumPyForm):
    name = "NumPy out="
    scratch = 2
    rules: ClassVar = {"sgd": out_sgd, "momentum": out_momentum, "rmsprop": out_rmsprop, "adam": out_adam}


# ---------------------------------------------------------------------------------------------------------------- numba


def numba_loops() -> dict[str, Callable[..., None]]:
    """One loop a rule over flat arrays; scalars come folded and in the arrays' type, or float64 would creep in."""
    numba = need("numba")
    numba.set_num_threads(min(threads(), numba.config.NUMBA_NUM_THREADS))
    prange, sqrt = numba.prange, math.sqrt

    def sgd(p, g, lr):
        for i in prange(p.size):
            p[i] -= lr * g[i]

    def momentum(p, g, m, lr, eta):
        for i in prange(p.size):
            m[i] = eta * m[i] + g[i]
            p[i] -= lr * m[i]

    def nesterov(p, g, m, lr, eta):
        for i in prange(p.size):
            m[i] = eta * m[i] + g[i]
            p[i] -= lr * (g[i] + eta * m[i])

    def rmsprop(p, g, v, lr, alpha, rest, eps):
        for i in prange(p.size):
            v[i] = alpha * v[i] + rest * g[i] * g[i]
            p[i] -= lr * g[i] / (sqrt(v[i]) + eps)

    def adam(p, g, m, v, keep, lr, beta1, rest1, beta2, rest2, eps):
        for i in prange(p.size):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * g[i] * g[i]
            p[i] = keep * p[i] - lr * m[i] / (sqrt(v[i]) + eps)

    def amsgrad(p, g, m, v, x, keep, lr, beta1, rest1, beta2, rest2, eps):
        for i in prange(p.size):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * g[i] * g[i]
            x[i] = max(x[i], v[i])
            p[i] = keep * p[i] - lr * m[i] / (sqrt(x[i]) + eps)

    return {f.__name__: f for f in (sgd, momentum, nesterov, rmsprop, adam, amsgrad)}


@functools.cache
def numba_compiled(rule: str, parallel: bool) -> Any:
    # error_model="numpy": without it a check for division by zero keeps the loop scalar
    return need("numba").njit(numba_loops()[rule], fastmath=True, error_model="numpy", parallel=parallel)


class Numba(Peer):
    """A compiled loop, as a competent user writes it."""

    name = "numba"
    packaged = False
    parallel = False

    def prepare(self) -> None:
        self.kernel = numba_compiled(written(numba_loops(), self.case).__name__, self.parallel)
        data = self.data
        arrays = zip(data.params, data.grads, *data.state.values(), strict=True)
        self.work = [[array.reshape(-1) for array in tensor] for tensor in arrays]
        self.real = data.dtype.type

    def scalars(self) -> Iterator[float]:
        o, t = self.case.options, self.t
        if "betas" in o:
            (beta1, beta2), root = o["betas"], math.sqrt(1 - o["betas"][1] ** t)
            yield from (1 - o["lr"] * o.get("weight_decay", 0.0), o["lr"] * root / (1 - beta1**t))
            yield from (beta1, 1 - beta1, beta2, 1 - beta2, o["eps"] * root)
        elif "alpha" in o:
            yield from (o["lr"], o["alpha"], 1 - o["alpha"], o["eps"])
        else:
            yield from (o[name] for name in ("lr", "momentum") if name in o)

    def step(self) -> None:
        self.t += 1
        scalars = [self.real(x) for x in self.scalars()]
        kernel = self.kernel
        for arrays in self.work:
            kernel(*arrays, *scalars)


class NumbaParallel(Numba):
    name = "numba parallel"
    parallel = True
