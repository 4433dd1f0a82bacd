"""scikit-learn's multi-layer perceptrons, trained by fastopt: `MLPClassifier` and `MLPRegressor`.

All that the optimizer does not do stays scikit-learn's: gradients, batches, learning rates, early stopping. These
classes lean on what is private there, so they are for releases that they were tested with.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn import neural_network

from .names import find
from .optimizer import Optimizer
from .optimizers import SGD, Adam
from .split import Split

__all__ = ["MLPClassifier", "MLPRegressor"]

_FIRST, _LAST = (1, 4), (1, 9)
if not _FIRST <= tuple(map(int, sklearn.__version__.split(".")[:2])) <= _LAST:
    raise ImportError(
        f"fastopt.sklearn works with scikit-learn {'.'.join(map(str, _FIRST))} to {'.'.join(map(str, _LAST))}, "
        f"and this is {sklearn.__version__}: install one of those, or use scikit-learn's own classes"
    )

_THEIRS = {  # what scikit-learn calls them
    "lr": "learning_rate_init",
    "betas": "beta_1 and beta_2",
    "eps": "epsilon",
    "momentum": "momentum",
    "nesterov": "nesterovs_momentum",
}


def _is(solver: Any, name: str) -> bool:
    """Whether the solver is scikit-learn's of this name; others may be anything."""
    return isinstance(solver, str) and solver == name


class _Updates:
    """What scikit-learn takes for its optimizer: its own, which knows the learning rate, and ours, which updates."""

    def __init__(self, theirs: Any, ours: Optimizer) -> None:
        self._theirs, self._ours = theirs, ours
        self._params: Any = ours.params
        self._training: list[Any] | None = None  # what to go on from, where the weights hold averages

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_params": None}

    def __getattr__(self, name: str) -> Any:
        if name == "_theirs":  # not there yet, in a copy
            raise AttributeError(name)
        return getattr(self._theirs, name)

    def begin(self, params: list[Any]) -> None:
        """Update these arrays from now on, which are others in a copy."""
        if self._params is None or any(p is not q for p, q in zip(params, self._params, strict=True)):
            self._ours.bind(params)
            self._params = params
        if self._training is not None:
            self._fill(self._training)
            self._training = None

    def update_params(self, params: list[Any], grads: list[Any]) -> None:
        """Update the weights."""
        # float64 targets make float64 gradients, even of float32 weights.
        self._ours.step([g.astype(p.dtype, copy=False) for p, g in zip(params, grads, strict=True)])

    def iteration_ends(self, time_step: int) -> None:
        """Take over the learning rate for the next pass over the data."""
        self._theirs.iteration_ends(time_step)
        self._ours.lr = self._theirs.learning_rate

    def trigger_stopping(self, msg: str, verbose: bool) -> bool:
        """Stop, or take over a smaller learning rate."""
        stops: bool = self._theirs.trigger_stopping(msg, verbose)
        self._ours.lr = self._theirs.learning_rate
        return stops

    # Optimizers whose result is an average of the weights:

    def averaged(self) -> AbstractContextManager[None]:
        """Hold the averages inside a block, where there are any."""
        return self._ours.averaged() if self._averages else nullcontext()

    @property
    def _averages(self) -> bool:
        return self._ours._has_average() or self._ours.ema_decay is not None

    def end(self) -> None:
        """Leave the averages in the weights until the next `begin`, if they are not there."""
        if self._averages and self._params is not None and self._training is None:
            self._training = [p.copy() for p in self._params]
            with self.averaged():
                averages = [p.copy() for p in self._params]
            self._fill(averages)

    def _fill(self, values: list[Any]) -> None:
        for p, value in zip(self._params, values, strict=True):
            p[...] = value


class _Trained:
    """What both estimators have beside scikit-learn's."""

    if TYPE_CHECKING:  # the attributes of an estimator
        solver: Any

        def __getattr__(self, name: str) -> Any: ...

    def _chosen(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """Return the class of optimizers and its options, or raise."""
        solver: Any = self.solver
        given = dict(self.solver_options or {})
        own: dict[str, Any] = {}  # what scikit-learn has arguments for
        if _is(solver, "adam"):
            cls: type[Optimizer] = Adam
            own = {"betas": (self.beta_1, self.beta_2), "eps": self.epsilon, "eps_hat": True}
        elif _is(solver, "sgd"):
            cls = SGD
            nesterov = bool(self.nesterovs_momentum and self.momentum)
            own = {"momentum": self.momentum, "nesterov": nesterov, "lr_in_momentum": True}
        elif isinstance(solver, type) and Optimizer in solver.__mro__[1:]:
            cls = solver
            if issubclass(cls, Split):
                raise ValueError("solver Split has rules, which no argument here is for: use one of its classes")
        else:
            try:
                cls = find(solver)
            except (TypeError, ValueError) as error:
                raise ValueError(f"solver: {error}, or scikit-learn's 'lbfgs'") from None
            if cls in (Adam, SGD):  # "Adam" is neither scikit-learn's name nor a class
                raise ValueError(
                    f"solver is {solver!r}: wanted {solver.lower()!r}, which is scikit-learn's, or a class"
                )
        for name in given:
            if name in own or name == "lr":
                instead = f"use {_THEIRS[name]}" if name in _THEIRS else f"with {solver=!r} it is True; use a class"
                raise ValueError(f"solver_options has {name!r}: {instead}")
        if cls.looks_ahead:
            raise ValueError(
                f"solver {cls.__name__} wants gradients at another point than the weights, where scikit-learn does not "
                "take them: use solver='sgd' with nesterovs_momentum=True"
            )
        options = own | given
        cls(np.zeros(1), lr=1.0, **options)  # which checks them before the estimator has changed
        return cls, options

    def _fit(self, *args: Any, **more: Any) -> Any:
        solver: Any = self.solver
        if _is(solver, "lbfgs"):
            if self.solver_options:
                raise ValueError("solver_options: scikit-learn's 'lbfgs' takes none")
            return super()._fit(*args, **more)  # type: ignore[misc]
        self._choice = self._chosen()
        try:
            # To scikit-learn, every other solver is one that its learning rates are for.
            self.solver = "adam" if _is(solver, "adam") else "sgd"
            if more.get("incremental") and hasattr(self, "_optimizer"):
                self._optimizer.begin(self.coefs_ + self.intercepts_)
            return super()._fit(*args, **more)  # type: ignore[misc]
        finally:
            self.solver = solver
            del self._choice
            if hasattr(self, "_optimizer") and not self.early_stopping:  # which has picked the best weights
                self._optimizer.end()

    @property
    def _optimizer(self) -> Any:
        if "_optimizer" not in vars(self):
            raise AttributeError("_optimizer")
        return vars(self)["_optimizer"]

    @_optimizer.setter
    def _optimizer(self, theirs: Any) -> None:
        cls, options = self._choice
        params = self.coefs_ + self.intercepts_
        vars(self)["_optimizer"] = _Updates(theirs, cls(params, lr=theirs.learning_rate, **options))

    def _update_no_improvement_count(self, *args: Any) -> None:
        with self._optimizer.averaged():
            super()._update_no_improvement_count(*args)  # type: ignore[misc]

    def _check_solver(self) -> bool:
        return super()._check_solver() if _is(self.solver, "lbfgs") else True  # type: ignore[misc]


def _with_options(cls: Any) -> Any:
    """Let a class take `solver_options` besides what scikit-learn's takes, which differs between releases."""
    base = cls.__mro__[2]
    theirs = inspect.signature(base.__init__)
    more = inspect.Parameter("solver_options", inspect.Parameter.KEYWORD_ONLY, default=None)

    def init(self: Any, *args: Any, solver_options: dict[str, Any] | None = None, **options: Any) -> None:
        base.__init__(self, *args, **options)
        self.solver_options = solver_options

    init.__name__, init.__qualname__ = "__init__", f"{cls.__name__}.__init__"
    init.__signature__ = theirs.replace(parameters=[*theirs.parameters.values(), more])  # type: ignore[attr-defined]
    cls.__init__ = init
    cls._parameter_constraints = base._parameter_constraints | {
        "solver": "no_validation",  # `_chosen` does it, and says which name is near
        "solver_options": [dict, None],
    }
    return cls


@_with_options
class MLPClassifier(_Trained, neural_network.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's classifier of this name, with any of fastopt's optimizers.

    Parameters
    ----------
    hidden_layer_sizes, activation, ... : see `sklearn.neural_network.MLPClassifier`
        All that scikit-learn's has, with the same defaults and meaning.
    solver : str or type, default="adam"
        ``"adam"`` and ``"sgd"`` compute what scikit-learn's do, to rounding, and ``"lbfgs"`` is scikit-learn's. Any
        other name in `fastopt.available`, or a class of optimizers, is trained at ``learning_rate_init``, which
        ``learning_rate`` and ``power_t`` change as they do for ``"sgd"``.
    solver_options : dict, optional
        Further arguments of the optimizer, such as ``{"weight_decay": 0.01}``.

    Raises
    ------
    ValueError
        When it is fitted, if there is no such solver, or the optimizer refuses its options.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.sklearn import MLPClassifier
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> net = MLPClassifier(solver="lion", learning_rate_init=0.003, random_state=0, max_iter=1000)
    >>> net = net.fit(x, x[:, 0] * x[:, 1] > 0)
    >>> net.score(x, x[:, 0] * x[:, 1] > 0) > 0.95
    True
    """


@_with_options
class MLPRegressor(_Trained, neural_network.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's regressor of this name, with any of fastopt's optimizers.

    Parameters
    ----------
    hidden_layer_sizes, activation, ... : see `sklearn.neural_network.MLPRegressor`
        All that scikit-learn's has, with the same defaults and meaning.
    solver, solver_options
        See `MLPClassifier`.

    Raises
    ------
    ValueError
        When it is fitted, if there is no such solver, or the optimizer refuses its options.
    """
