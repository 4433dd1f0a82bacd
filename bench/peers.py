"""What fastopt is measured against, from one's own NumPy to the large frameworks; each optional, one small class.

A peer takes a case and the arrays, works on these very arrays where it can, and raises `Unavailable` with the reason
where it cannot run. `values()` is where its parameters are now, for `check()`, which each must pass before it is timed.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from bench import paper
from bench.runner import Contender, Unavailable
from bench.workloads import Case, Data

Array = np.ndarray[Any, np.dtype[Any]]


def need(module: str) -> Any:
    """The module, or the reason why not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed") from error
    except Exception as error:  # an installed package may fail to load in any way
        raise Unavailable(f"{module} cannot be imported: {type(error).__name__}") from error


def written(form: dict[str, Any], case: Case) -> Any:
    if case.name not in form:
        raise Unavailable(f"no {case.name} written in this form")
    return form[case.name]


def threads() -> int:
    """As many as fastopt uses, for everybody who can be told."""
    import fastopt

    return fastopt.get_num_threads()


class Peer(Contender):
    formula = "paper"  # the dialect it was found to compute, see check()
    packaged = True  # something to install, not code to write

    def __init__(self, case: Case, data: Data) -> None:
        self.case, self.data, self.t = case, data, 0
        self.prepare()

    def prepare(self) -> None:
        """Make `step`; raise Unavailable if there is no way."""
        raise NotImplementedError

    def values(self) -> list[Array]:
        return self.data.params

    def __getattr__(self, name: str) -> Any:
        """Hyper-parameters by name: self.lr, self.momentum, ..."""
        if name.startswith("_") or name not in self.case.options:
            raise AttributeError(name)
        return self.case.options[name]


# ---------------------------------------------------------------------------------------------------------- fastopt


class Fastopt(Peer):
    """fastopt. Its state becomes everybody's, see share()."""

    name = "fastopt"
    packaged = False

    def prepare(self) -> None:
        from fastopt.optimizers import OPTIMIZERS

        data = self.data
        self.optimizer = OPTIMIZERS[self.case.optimizer](data.tree(data.params), **self.case.options)
        self.step = functools.partial(self.optimizer.step, data.tree(data.grads))

    def share(self) -> None:
        """Hand fastopt's state to all who come after."""
        leaves = list(self.optimizer.state.values())
        names = self.case.state or tuple(leaves[0])
        self.data.state = {name: [leaf[name] for leaf in leaves] for name in names}


class Limited(Contender):
    """Another contender, with fastopt held to so many threads."""

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender, self.threads, self.most = contender, threads, contender.most
        self.name = f"{contender.name}, {threads} thread{'s' * (threads > 1)}"

    def refresh(self) -> None:
        self.contender.refresh()

    def run(self, n: int) -> float:
        import fastopt

        before = fastopt.get_num_threads()
        fastopt.set_num_threads(self.threads)
        try:
            return self.contender.run(n)
        finally:
            fastopt.set_num_threads(before)


class Twin(Peer):
    """The class's own NumPy twin, on a second optimizer over the same parameters."""

    name = "NumPy twin"
    packaged = False

    def prepare(self) -> None:
        from fastopt.optimizers import OPTIMIZERS

        data = self.data
        optimizer = OPTIMIZERS[self.case.optimizer](data.tree(data.params), **self.case.options)
        self.step = functools.partial(optimizer.reference_step, data.tree(data.grads))


# ------------------------------------------------------------------------------------------------- written by hand


class _Naive:
    """One rule a method, as people write it from the paper: new arrays for every term."""

    @staticmethod
    def sgd(p: Array, g: Array, s: list[Array], t: int, lr: float) -> None:
        p -= lr * g

    @staticmethod
    def momentum(p: Array, g: Array, s: list[Array], t: int, lr: float, momentum: float) -> None:
        s[0] = momentum * s[0] + g
        p -= lr * s[0]

    @staticmethod
    def nesterov(p: Array, g: Array, s: list[Array], t: int, lr: float, momentum: float, nesterov: bool) -> None:
        s[0] = momentum * s[0] + g
        p -= lr * (g + momentum * s[0])

    @staticmethod
    def rmsprop(p: Array, g: Array, s: list[Array], t: int, lr: float, alpha: float, eps: float) -> None:
        s[0] = alpha * s[0] + (1 - alpha) * g**2
        p -= lr * g / (np.sqrt(s[0]) + eps)

    @staticmethod
    def adam(
        p: Array,
        g: Array,
        s: list[Array],
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        if weight_decay:
            p -= lr * weight_decay * p
        s[0] = betas[0] * s[0] + (1 - betas[0]) * g
        s[1] = betas[1] * s[1] + (1 - betas[1]) * g**2
        if amsgrad:
            s[2] = np.maximum(s[2], s[1])
        m_hat = s[0] / (1 - betas[0] ** t)
        v_hat = s[-1] / (1 - betas[1] ** t)
        p -= lr * m_hat / (np.sqrt(v_hat) + eps)


NAIVE = {name: getattr(_Naive, name) for name in ("sgd", "momentum", "nesterov", "rmsprop", "adam")}
# with a constant lr, a step of NAG at the looked-ahead point is momentum's
NAIVE |= {"nag": _Naive.momentum, "adamw": _Naive.adam, "amsgrad": _Naive.adam}


class Naive(Peer):
    name = "NumPy naive"
    packaged = False

    def prepare(self) -> None:
        self.rule = written(NAIVE, self.case)
        self.slots = [list(arrays) for arrays in zip(*self.data.state.values(), strict=True)] or [
            [] for _ in self.data.params
        ]

    def step(self) -> None:
        self.t += 1
        for p, g, s in zip(self.data.params, self.data.grads, self.slots, strict=True):
            self.rule(p, g, s, self.t, **self.case.options)


class _Out:
    """One rule a method, without a new array: every ufunc writes into its result or one of two scratch arrays a, b."""

    @staticmethod
    def sgd(p: Array, g: Array, s: list[Array], a: Array, b: Array, t: int, lr: float) -> None:
        np.multiply(g, lr, out=a)
        p -= a

    @staticmethod
    def momentum(
        p: Array,
        g: Array,
        s: list[Array],
        a: Array,
        b: Array,
        t: int,
        lr: float,
        momentum: float,
        nesterov: bool = False,
    ) -> None:
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

    @staticmethod
    def rmsprop(
        p: Array, g: Array, s: list[Array], a: Array, b: Array, t: int, lr: float, alpha: float, eps: float
    ) -> None:
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

    @staticmethod
    def adam(
        p: Array,
        g: Array,
        s: list[Array],
        a: Array,
        b: Array,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
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


OUT = {name: getattr(_Out, name) for name in ("sgd", "momentum", "rmsprop", "adam")}
OUT |= {"nesterov": _Out.momentum, "nag": _Out.momentum, "adamw": _Out.adam, "amsgrad": _Out.adam}


class Out(Peer):
    name = "NumPy out="
    packaged = False

    def prepare(self) -> None:
        data = self.data
        self.rule = written(OUT, self.case)
        largest = max(p.size for p in data.params)
        scratch = [np.empty(largest, data.dtype) for _ in range(2)]
        slots = [list(arrays) for arrays in zip(*data.state.values(), strict=True)] or [[] for _ in data.params]
        self.work = [
            (p, g, s, *(array[: p.size].reshape(p.shape) for array in scratch))
            for p, g, s in zip(data.params, data.grads, slots, strict=True)
        ]

    def step(self) -> None:
        self.t += 1
        for arrays in self.work:
            self.rule(*arrays, self.t, **self.case.options)


def _numba_kernels() -> dict[str, Callable[..., None]]:
    """One loop a rule over flat arrays; scalars come folded and in the arrays' type, or float64 would creep in."""
    numba = need("numba")
    numba.set_num_threads(min(threads(), numba.config.NUMBA_NUM_THREADS))
    prange, sqrt = numba.prange, math.sqrt

    def sgd(p, g, lr):  # type: ignore[no-untyped-def]
        for i in prange(p.size):
            p[i] -= lr * g[i]

    def momentum(p, g, m, lr, eta):  # type: ignore[no-untyped-def]
        for i in prange(p.size):
            m[i] = eta * m[i] + g[i]
            p[i] -= lr * m[i]

    def nesterov(p, g, m, lr, eta):  # type: ignore[no-untyped-def]
        for i in prange(p.size):
            m[i] = eta * m[i] + g[i]
            p[i] -= lr * (g[i] + eta * m[i])

    def rmsprop(p, g, v, lr, alpha, rest, eps):  # type: ignore[no-untyped-def]
        for i in prange(p.size):
            v[i] = alpha * v[i] + rest * g[i] * g[i]
            p[i] -= lr * g[i] / (sqrt(v[i]) + eps)

    def adam(p, g, m, v, keep, lr, beta1, rest1, beta2, rest2, eps):  # type: ignore[no-untyped-def]
        for i in prange(p.size):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * g[i] * g[i]
            p[i] = keep * p[i] - lr * m[i] / (sqrt(v[i]) + eps)

    def amsgrad(p, g, m, v, x, keep, lr, beta1, rest1, beta2, rest2, eps):  # type: ignore[no-untyped-def]
        for i in prange(p.size):
            m[i] = beta1 * m[i] + rest1 * g[i]
            v[i] = beta2 * v[i] + rest2 * g[i] * g[i]
            x[i] = max(x[i], v[i])
            p[i] = keep * p[i] - lr * m[i] / (sqrt(x[i]) + eps)

    return {f.__name__: f for f in (sgd, momentum, nesterov, rmsprop, adam, amsgrad)} | {"adamw": adam, "nag": momentum}


class Numba(Peer):
    """A compiled loop, as a competent user writes it."""

    name = "numba"
    packaged = False
    parallel = False

    def prepare(self) -> None:
        loop = written(_numba_kernels(), self.case)
        self.kernel = _numba_compiled(loop.__name__, self.parallel)
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


@functools.cache
def _numba_compiled(rule: str, parallel: bool) -> Any:
    # error_model="numpy": without it a check for division by zero keeps the loop scalar
    return need("numba").njit(_numba_kernels()[rule], fastmath=True, error_model="numpy", parallel=parallel)


# ------------------------------------------------------------------------------------------------------- packages


class Torch(Peer):
    """torch.optim over the same memory, state included. One class for its three implementations."""

    name = "torch"
    how: ClassVar = {"foreach": False}

    def prepare(self) -> None:
        torch = need("torch")
        torch.set_num_threads(threads())
        data = self.data
        self.tensors = [torch.from_numpy(p) for p in data.params]
        for tensor, g in zip(self.tensors, data.grads, strict=True):
            tensor.grad = torch.from_numpy(g)
        self.optimizer = self.make(torch)
        for i, tensor in enumerate(self.tensors):
            slots = {name: torch.from_numpy(arrays[i]) for name, arrays in data.state.items()}
            self.optimizer.state[tensor] = {"step": self.no_steps(torch), **slots}
        self.step = self.optimizer.step

    def no_steps(self, torch: Any) -> Any:
        return torch.tensor(0.0)

    def make(self, torch: Any) -> Any:
        try:
            return getattr(torch.optim, self.case.optimizer)(self.tensors, **self.case.options, **self.how)
        except (AttributeError, TypeError, RuntimeError) as error:
            raise Unavailable(f"torch.optim has no such form: {error}") from error


class TorchForeach(Torch):
    name = "torch foreach"
    how: ClassVar = {"foreach": True}


class TorchFused(Torch):
    name = "torch fused"
    how: ClassVar = {"fused": True}


class DeepSpeed(Torch):
    name = "DeepSpeedCPUAdam"

    def make(self, torch: Any) -> Any:
        if self.case.name not in ("adam", "adamw") or self.data.dtype != np.float32:
            raise Unavailable("DeepSpeedCPUAdam is Adam and AdamW in float32")
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        ops = need("deepspeed.ops.adam")
        try:
            return ops.DeepSpeedCPUAdam(self.tensors, adamw_mode=self.case.name == "adamw", **self.case.options)
        except Exception as error:  # it compiles its C++ on first use, which may fail in any way
            raise Unavailable(f"DeepSpeedCPUAdam did not build: {type(error).__name__}") from error

    def no_steps(self, torch: Any) -> int:
        return 0


class Optax(Peer):
    """JAX with optax, compiled whole, buffers donated so that it may update in place."""

    name = "JAX + optax"

    def prepare(self) -> None:
        jax, optax = need("jax"), need("optax")
        jax.config.update("jax_enable_x64", True)
        transform = self.transform(optax)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = transform.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.jax, self.compiled = jax, step
        self.params = [jax.numpy.array(p) for p in self.data.params]
        self.state = jax.jit(transform.init)(self.params)
        self.generation = -1  # of the gradients that JAX has a copy of

    def transform(self, optax: Any) -> Any:
        o, name = dict(self.case.options), self.case.name
        if "betas" in o:
            o["b1"], o["b2"] = o.pop("betas")
            o.pop("amsgrad", None)
        if "alpha" in o:
            o |= {"decay": o.pop("alpha"), "eps_in_sqrt": False}
        known = {"SGD": "sgd", "RMSprop": "rmsprop", "Adam": "adam", "AdamW": "adamw"}
        form = "amsgrad" if name == "amsgrad" else known.get(self.case.optimizer)
        if form is None:
            raise Unavailable(f"no {name} written in this form")
        return getattr(optax, form)(o.pop("lr"), **o)

    def refresh(self) -> None:
        if self.generation != self.data.generation:
            self.generation = self.data.generation
            self.grads = [self.jax.numpy.array(g) for g in self.data.grads]

    def step(self) -> None:
        self.params, self.state = self.compiled(self.params, self.state, self.grads)
        self.jax.block_until_ready(self.params)

    def values(self) -> list[Array]:
        return [np.asarray(p) for p in self.params]


class Thinc(Peer):
    """The Adam kernel of thinc, without the Python around it. It zeroes gradients: refresh() brings them back."""

    name = "thinc kernel"

    def prepare(self) -> None:
        if self.case.name != "adam" or self.data.dtype != np.float32:
            raise Unavailable("thinc's kernel is Adam in float32")
        self.adam = need("thinc.api").NumpyOps().adam
        self.moments = [[np.zeros(p.size, p.dtype) for p in self.data.params] for _ in range(2)]
        self.grads = [np.empty(p.size, p.dtype) for p in self.data.params]
        flat = [p.reshape(-1) for p in self.data.params]
        self.work = list(zip(flat, self.grads, *self.moments, strict=True))

    def refresh(self) -> None:
        for mine, g in zip(self.grads, self.data.grads, strict=True):
            mine[...] = g.reshape(-1)

    def run(self, n: int) -> float:
        """In short stretches: without gradients the moments would decay until they are denormal, and slow."""
        seconds = 0.0
        for done in range(0, n, 200):
            self.refresh()
            few = min(200, n - done)
            seconds += few * super().run(few)
        return seconds / n

    def step(self) -> None:
        self.t += 1
        (beta1, beta2), adam = self.betas, self.adam
        rate = self.lr * math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t)
        for p, g, m, v in self.work:
            adam(p, g, m, v, beta1, beta2, self.eps, rate)


class Sklearn(Peer):
    """The optimizers inside scikit-learn's MLPClassifier."""

    name = "scikit-learn"

    def prepare(self) -> None:
        module = need("sklearn.neural_network._stochastic_optimizers")
        params, o = self.data.params, self.case.options
        if self.case.name == "adam":
            optimizer = module.AdamOptimizer(params, self.lr, *self.betas, self.eps)
        elif self.case.optimizer == "SGD":
            nesterov = o.get("nesterov", False)
            optimizer = module.SGDOptimizer(params, self.lr, momentum=o.get("momentum", 0.0), nesterov=nesterov)
        else:
            raise Unavailable("scikit-learn has Adam and SGD")
        self.step = functools.partial(optimizer.update_params, params, self.data.grads)


class Keras(Peer):
    """Keras on its NumPy backend, unless KERAS_BACKEND says otherwise."""

    name = "Keras"

    def prepare(self) -> None:
        os.environ.setdefault("KERAS_BACKEND", "numpy")
        keras = need("keras")
        keras.config.set_floatx(self.data.dtype.name)
        o = dict(self.case.options)
        o["learning_rate"] = o.pop("lr")
        for new, old in (("epsilon", "eps"), ("rho", "alpha")):
            if old in o:
                o[new] = o.pop(old)
        if "betas" in o:
            o["beta_1"], o["beta_2"] = o.pop("betas")
        try:
            self.optimizer = getattr(keras.optimizers, self.case.optimizer)(**o)
        except (AttributeError, TypeError, ValueError) as error:
            raise Unavailable(f"keras.optimizers has no such form: {error}") from error
        self.variables = [keras.Variable(p, dtype=p.dtype.name) for p in self.data.params]
        self.optimizer.build(self.variables)
        self.step = functools.partial(self.optimizer.apply, self.data.grads, self.variables)

    def values(self) -> list[Array]:
        return [np.asarray(v.value) for v in self.variables]


PEERS: list[type[Peer]] = [
    Naive,
    Out,
    Twin,
    Numba,
    NumbaParallel,
    Torch,
    TorchForeach,
    TorchFused,
    DeepSpeed,
    Optax,
    Thinc,
    Sklearn,
    Keras,
]


# ----------------------------------------------------------------------------------------------------------- check

STEPS = 5
# Relative error of the whole way, per element. float32: five updates of some ten roundings each, and numba's fastmath
# takes a reciprocal square root estimate with one Newton step, 22 bits. A wrong formula is off by 1e-3 and more.
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


@functools.cache
def check(peer: type[Peer], case: Case, dtype: str) -> str:
    """The dialect in which this peer computes this case; raises Unavailable where it is none, or the peer cannot run.

    Gradients change from step to step and span ten decades, so that eps and its place matter.
    """
    data = Data([(1,), (33, 5), (4099,)], dtype, case.state)
    rng = np.random.default_rng(1)
    start = [p.astype(np.float64) for p in data.params]
    scales = [10.0 ** rng.uniform(-9, 1, p.shape) for p in data.params]
    history = [[(s * rng.uniform(-1, 2, s.shape)).astype(dtype) for s in scales] for _ in range(STEPS)]
    contender = peer(case, data)
    for grads in history:
        data.renew(grads)
        contender.refresh()
        contender.step()
    worst = []
    for dialect in paper.DIALECTS:
        error = 0.0
        for i, p in enumerate(start):
            end, way = paper.descend(case, dialect, p, [grads[i].astype(np.float64) for grads in history])
            rounding = STEPS * np.finfo(dtype).eps * np.abs(p)
            error = max(error, float(np.max((np.abs(contender.values()[i] - end) - rounding) / way)))
        if error <= TOLERANCE[dtype]:
            return dialect
        worst.append(error)
    raise Unavailable(f"computes something else: off by {min(worst):.1e} of the way after {STEPS} steps")
