"""Optimizers that others have packaged, from single kernels to the large frameworks."""

from __future__ import annotations

import functools
import inspect
import math
import os
from typing import Any, ClassVar

import numpy as np

from bench.peers import Array, Peer, need, threads
from bench.runner import Unavailable
from bench.workloads import CASES
from fastopt.optimizers import OPTIMIZERS


def renamed(options: dict[str, Any], **names: str | tuple[str, str]) -> dict[str, Any]:
    """Options under the names that another library has for them; a pair has two."""
    found = {}
    for name, value in options.items():
        new = names.get(name, name)
        found |= zip(new, value, strict=True) if isinstance(new, tuple) else {new: value}
    return found


class Torch(Peer):
    """torch.optim over the same memory, state included. One class for its three implementations."""

    name = "torch"
    library = "torch"
    how: ClassVar = {"foreach": False}

    def prepare(self) -> None:
        torch = need("torch")
        torch.set_num_threads(threads())
        data = self.data
        self.tensors = [torch.from_numpy(p) for p in data.params]
        for tensor, g in zip(self.tensors, data.grads, strict=True):
            tensor.grad = torch.from_numpy(g)
        self.optimizer = self.make(torch)
        if self.case.name in CASES:  # whose state is known; others keep their own
            for i, tensor in enumerate(self.tensors):
                slots = {name: torch.from_numpy(arrays[i]) for name, arrays in data.state.items()}
                self.optimizer.state[tensor] = {"step": self.no_steps(torch), **slots}
        self.step = self.optimizer.step

    def no_steps(self, torch: Any) -> Any:
        return torch.tensor(0.0)

    def make(self, torch: Any) -> Any:
        try:
            return getattr(torch.optim, self.case.optimizer)(self.tensors, **self.case.options, **self.how)
        except AttributeError:
            raise Unavailable("torch.optim has no such optimizer") from None
        except (TypeError, RuntimeError) as error:
            raise Unavailable(f"torch.optim has no such form: {str(error).partition('() ')[2] or error}") from error


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
    library = "jax"

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

    def transform(self, optax: Any) -> Any:
        """The one of this name, with the options of the class as far as it has them."""
        forms = {name.replace("_", ""): form for of in (optax.contrib, optax) for name, form in vars(of).items()}
        form = forms.get("amsgrad" if self.case.name == "amsgrad" else self.case.optimizer.lower())
        if form is None:
            raise Unavailable("optax has no such optimizer")
        declared = OPTIMIZERS[self.case.optimizer].hyper_parameters
        o = {name: one.default for name, one in declared.items()} | self.case.options
        known = inspect.signature(form).parameters
        o = renamed(o, lr="learning_rate", betas=("b1", "b2", "b3")[: len(o.get("betas", ()))])
        if "alpha" not in known:
            o = renamed(o, alpha="decay")
        given = {  # what is a pair, as Adafactor's eps, optax has otherwise
            name: value
            for name, value in o.items()
            if name in known and not isinstance(value, tuple) and (value or known[name].default is not None)
        }
        try:
            return form(**given, **({"eps_in_sqrt": False} if "eps_in_sqrt" in known else {}))
        except (TypeError, ValueError) as error:
            raise Unavailable(f"optax has no such form: {error}") from error

    def refresh(self) -> None:
        self.grads = [self.jax.numpy.array(g) for g in self.data.grads]

    def step(self) -> None:
        self.params, self.state = self.compiled(self.params, self.state, self.grads)
        self.jax.block_until_ready(self.params)

    def values(self) -> list[Array]:
        return [np.asarray(p) for p in self.params]


class Thinc(Peer):
    """The Adam kernel of thinc, without the Python around it."""

    name = "thinc kernel"

    def prepare(self) -> None:
        if self.case.name != "adam" or self.data.dtype != np.float32:
            raise Unavailable("thinc's kernel is Adam in float32")
        self.adam = need("thinc.api").NumpyOps().adam
        params = [p.reshape(-1) for p in self.data.params]
        self.grads = [np.empty_like(p) for p in params]
        moments = [[np.zeros_like(p) for p in params] for _ in range(2)]
        self.work = list(zip(params, self.grads, *moments, strict=True))

    def between(self) -> None:
        """It zeroes the gradients: here they are again."""
        for mine, g in zip(self.grads, self.data.grads, strict=True):
            mine[...] = g.reshape(-1)

    def step(self) -> None:
        self.t += 1
        o, adam = self.case.options, self.adam
        beta1, beta2 = o["betas"]
        rate = o["lr"] * math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t)
        for p, g, m, v in self.work:
            adam(p, g, m, v, beta1, beta2, o["eps"], rate)


class Sklearn(Peer):
    """The optimizers inside scikit-learn's MLPClassifier."""

    name = "scikit-learn"

    def prepare(self) -> None:
        module = need("sklearn.neural_network._stochastic_optimizers")
        params, o = self.data.params, self.case.options
        if self.case.name == "adam":
            optimizer = module.AdamOptimizer(params, o["lr"], *o["betas"], o["eps"])
        elif self.case.optimizer == "SGD":
            how = {"momentum": o.get("momentum", 0.0), "nesterov": o.get("nesterov", False)}
            optimizer = module.SGDOptimizer(params, o["lr"], **how)
        else:
            raise Unavailable("scikit-learn has Adam and SGD")
        self.step = functools.partial(optimizer.update_params, params, self.data.grads)


class Keras(Peer):
    """Keras on its NumPy backend, unless KERAS_BACKEND says otherwise."""

    name = "Keras"
    library = "keras"

    def prepare(self) -> None:
        os.environ.setdefault("KERAS_BACKEND", "numpy")
        keras = need("keras")
        keras.config.set_floatx(self.data.dtype.name)
        o = renamed(self.case.options, lr="learning_rate", eps="epsilon", alpha="rho", betas=("beta_1", "beta_2"))
        try:
            self.optimizer = getattr(keras.optimizers, self.case.optimizer)(**o)
        except (AttributeError, TypeError, ValueError) as error:
            raise Unavailable(f"keras.optimizers has no such form: {error}") from error
        self.variables = [keras.Variable(p, dtype=p.dtype.name) for p in self.data.params]
        self.optimizer.build(self.variables)
        self.step = functools.partial(self.optimizer.apply, self.data.grads, self.variables)

    def values(self) -> list[Array]:
        return [np.asarray(v.value) for v in self.variables]
