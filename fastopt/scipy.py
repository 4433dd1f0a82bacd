"""Methods for `scipy.optimize.minimize`: every optimizer of fastopt, its name in lower case.

    scipy.optimize.minimize(fun, x0, jac=True, method=fastopt.scipy.adam, options={"lr": 0.01, "maxiter": 2000})

They are for gradients with noise, as those of random batches are.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.optimize import OptimizeResult

from . import hyper
from .optimizer import Array, Optimizer
from .optimizers import OPTIMIZERS

if TYPE_CHECKING:

    class Method(Protocol):
        """What `scipy.optimize.minimize` takes for a method."""

        def __call__(self, fun: Callable[..., Any], x0: Any, **options: Any) -> OptimizeResult: ...

    def __getattr__(name: str) -> Method: ...


_OWN = ("maxiter", "tol", "best", "return_all", "disp")  # options that are not the optimizer's
_MAXITER = 1000


def _refuse(name: str, bounds: Any, constraints: Any, jac: Any, hess: Any, hessp: Any) -> None:
    """Raise for what these methods cannot take."""
    if bounds is not None:
        raise ValueError(f"bounds: {name} has none; take SciPy's 'L-BFGS-B', or a fun of variables without bounds")
    if constraints is not None and not (isinstance(constraints, (list, tuple)) and len(constraints) == 0):
        raise ValueError(f"constraints: {name} has none; take SciPy's 'SLSQP' or 'trust-constr'")
    if jac is not True and not callable(jac):
        raise ValueError(
            f"jac is missing, or no function: {name} needs the gradient, and estimates none from differences; "
            "wanted jac=True where fun returns value and gradient, or a function that returns the gradient"
        )
    for word, value in (("hess", hess), ("hessp", hessp)):
        if value is not None:
            raise ValueError(f"{word}: {name} makes no use of second derivatives")


def _check_options(name: str, cls: type[Optimizer], options: dict[str, Any]) -> None:
    known = [*_OWN, *list(inspect.signature(cls).parameters)[1:]]
    for option in options:
        if option not in known:
            like = hyper.nearest(option, known)
            raise ValueError(f"{name} has no option {option!r}: {like or 'there are ' + ', '.join(known)}")


def _start(name: str, x0: Any) -> Array:
    x = np.array(x0, order="C")
    if x.dtype.kind in "iu":
        x = x.astype(float)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"x0 has dtype {x.dtype}: {name} wants float32 or float64")
    return np.atleast_1d(x)


def _both(fun: Any, jac: Any) -> Callable[..., Any]:
    """Return a function that returns value and gradient."""
    if jac is True:
        return fun  # type: ignore[no-any-return]
    if type(fun).__name__ == "MemoizeJac" and getattr(jac, "__self__", None) is fun:
        # What `minimize` makes of jac=True: it gives the same gradient again where x is the same, and noise would stop.
        return jac.__self__.fun  # type: ignore[no-any-return]
    return lambda x, *args: (fun(x, *args), jac(x, *args))


def _evaluate(both: Callable[..., Any], args: tuple[Any, ...], x: Array) -> tuple[float, Array]:
    """Return value and gradient at x, of which the function gets a copy: it may keep or return it."""
    value, gradient = both(x.copy(), *args)
    gradient = np.atleast_1d(np.asarray(gradient, x.dtype))
    if np.size(value) != 1:
        raise ValueError(f"fun returned an array of shape {np.shape(value)}: wanted a number")
    if gradient.shape != x.shape:
        raise ValueError(f"the gradient has shape {gradient.shape}: wanted {x.shape}, as x0 has")
    return float(np.asarray(value).item()), gradient


def _told(callback: Any) -> Callable[[Array, float], Any] | None:
    """Return what calls a callback in the form it takes: ``callback(intermediate_result=...)`` or ``callback(x)``."""
    if callback is None:
        return None
    try:
        by_name = set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except (TypeError, ValueError):  # some built-in functions have no signature
        by_name = False
    if by_name:
        return lambda x, f: callback(intermediate_result=OptimizeResult(x=x.copy(), fun=f))
    return lambda x, f: callback(x.copy())


_MESSAGES = {
    0: "Optimization terminated successfully.",
    1: "Maximum number of iterations has been exceeded: the gradient was above tol.",
    3: "NaN or infinite result encountered.",
    99: "`callback` raised `StopIteration`.",
}
_ALL_STEPS = "All maxiter steps were taken; no tol was given."


def _minimize(
    name: str,
    cls: type[Optimizer],
    fun: Any,
    x0: Any,
    args: Any = (),
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    callback: Any = None,
    maxiter: int | None = None,
    tol: float | None = None,
    best: bool = False,
    return_all: bool = False,
    disp: bool = False,
    **options: Any,
) -> OptimizeResult:
    _refuse(name, bounds, constraints, jac, hess, hessp)
    _check_options(name, cls, options)
    maxiter = _MAXITER if maxiter is None else hyper.whole("maxiter", maxiter)
    tol = None if tol is None else hyper.nonnegative("tol", tol)
    args = args if isinstance(args, tuple) else (args,)
    x = _start(name, x0)
    opt = cls(x, **({"nonfinite": "raise"} | options))
    both, told = _both(fun, jac), _told(callback)
    lowest: tuple[float, Array, Array] | None = None
    visited = [x.copy()]
    nfev = nit = 0

    def look() -> tuple[float, Array]:
        nonlocal lowest, nfev
        f, g = _evaluate(both, args, x)
        nfev += 1
        if best and (lowest is None or f < lowest[0]):
            lowest = f, x.copy(), g.copy()
        return f, g

    while True:
        with opt.lookahead():
            f, g = look()
        if nit:
            if return_all:
                visited.append(x.copy())
            if told is not None:
                try:
                    told(x, f)
                except StopIteration:
                    status = 99
                    break
        if opt.nonfinite == "raise" and not math.isfinite(f):
            status = 3
            break
        if tol is not None and np.max(abs(g), initial=0.0) <= tol:
            status = 0
            break
        if nit == maxiter:
            status = 0 if tol is None else 1
            break
        try:
            opt.step(g)
        except FloatingPointError:
            status = 3
            break
        nit += 1

    average = cls._has_average() or opt.ema_decay is not None
    if average or cls.looks_ahead:  # then the last look was at another point than the result
        with opt.averaged() if average else nullcontext():
            f, g = look()
            x = x.copy()
    if best and lowest is not None:
        f, x, g = lowest
    message = _ALL_STEPS if status == 0 and tol is None else _MESSAGES[status]
    result = OptimizeResult(
        x=x, fun=f, jac=g.copy(), nit=nit, nfev=nfev, njev=nfev, status=status, success=status == 0, message=message
    )
    if return_all:
        result["allvecs"] = visited
    if disp:
        print(f"{message}\n         Current function value: {f:f}\n         Iterations: {nit}")
    return result


def _method(cls: type[Optimizer]) -> Method:
    """Make the method of one class."""
    name = cls.__name__.lower()

    def method(fun: Callable[..., Any], x0: Any, **options: Any) -> OptimizeResult:
        return _minimize(f"fastopt.scipy.{name}", cls, fun, x0, **options)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"`fastopt.{cls.__name__}` as a method for `scipy.optimize.minimize`."
    return method


_METHODS = {cls.__name__.lower(): _method(cls) for cls in OPTIMIZERS.values()}
globals().update(_METHODS)
__all__ = list(_METHODS)
