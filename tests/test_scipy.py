"""fastopt.scipy as methods of scipy.optimize.minimize: SciPy's protocol for custom methods, and what is refused."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest

pytest.importorskip("scipy", reason="SciPy is not installed: `pip install 'fastopt[scipy]'`")

from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, basinhopping, minimize, rosen, rosen_der
from test_errors import says

import fastopt
import fastopt.scipy as methods
from fastopt.optimizers import OPTIMIZERS

adam = methods.adam
START = np.array([1.0, -2.0, 0.5])


def bowl(x):
    """Sum of (x - 1)²: value and gradient."""
    return ((x - 1) ** 2).sum(), 2 * (x - 1)


def value(x):
    return bowl(x)[0]


def slope(x):
    return bowl(x)[1]


def by_hand(cls, steps, **options):
    """The parameters after each step of the class itself."""
    x = START.copy()
    opt = cls(x, **options)
    visited = [x.copy()]
    for _ in range(steps):
        with opt.lookahead():
            g = slope(x)
        opt.step(g)
        visited.append(x.copy())
    if cls.average.__func__ is not fastopt.Optimizer.average.__func__:
        with opt.averaged():
            return visited, x.copy()
    return visited, x


@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_every_class_is_a_method_that_takes_the_steps_of_the_class(cls):
    visited, end = by_hand(cls, 7, lr=0.1)
    method = getattr(methods, cls.__name__.lower())
    result = minimize(bowl, START, jac=True, method=method, options={"lr": 0.1, "maxiter": 7, "return_all": True})
    assert np.array_equal(result.x, end)
    assert np.array_equal(result.allvecs, visited)
    assert result.fun == value(end)
    assert np.array_equal(result.jac, slope(end))
    assert (result.nit, result.status, result.success) == (7, 0, True)
    elsewhere = not np.array_equal(end, visited[-1]) or cls.looks_ahead or cls is fastopt.ASGD
    assert result.nfev == result.njev == 8 + elsewhere
    assert result.message == "All maxiter steps were taken; no tol was given."
    assert method.__name__ in methods.__all__
    assert pickle.loads(pickle.dumps(method)) is method


def test_with_ema_decay_the_result_is_the_average():
    visited, _ = by_hand(fastopt.Adam, 3, lr=0.1)
    options = {"lr": 0.1, "maxiter": 3, "ema_decay": 0.5}
    result = minimize(bowl, START, jac=True, method=adam, options=options)
    assert result.x == pytest.approx(0.5 * (0.5 * visited[1] + 0.5 * visited[2]) + 0.5 * visited[3], rel=1e-14)
    assert result.fun == value(result.x)


def test_the_start_is_not_written():
    start = START.copy()
    minimize(bowl, start, jac=True, method=adam)
    assert np.array_equal(start, START)


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_the_type_of_the_start_stays(real):
    result = minimize(bowl, START.astype(real), jac=True, method=adam)
    assert result.x.dtype == result.jac.dtype == real


def test_a_start_of_whole_numbers_or_a_single_number_is_made_an_array():
    assert minimize(bowl, [1, 2], jac=True, method=adam).x.dtype == np.float64
    assert methods.adam(bowl, 3, jac=True).x.shape == (1,)


def test_value_and_gradient_may_be_two_functions_with_arguments():
    seen = []

    def fun(x, a, b):
        seen.append((a, b))
        return a * value(x) + b

    def jac(x, a, b):
        return a * slope(x)

    options = {"lr": 0.1, "maxiter": 5}
    one = minimize(fun, START, args=(2.0, 3.0), jac=jac, method=adam, options=options)
    two = minimize(lambda x: (2 * value(x) + 3, 2 * slope(x)), START, jac=True, method=adam, options=options)
    assert np.array_equal(one.x, two.x)
    assert one.fun == two.fun
    assert set(seen) == {(2.0, 3.0)}
    assert minimize(lambda x, a: a * value(x), START, args=2.0, jac=lambda x, a: a * slope(x), method=adam).success


def test_functions_may_keep_write_or_return_the_point_they_get():
    def fun(x):
        return 0.5 * (x**2).sum()

    def identity(x):
        return x  # the gradient of that

    def scribbling(x):
        g = x.copy()
        x[...] = np.nan
        return g

    options = {"lr": 0.1, "maxiter": 5}
    one = minimize(fun, START, jac=identity, method=adam, options=options)
    two = minimize(fun, START, jac=scribbling, method=adam, options=options)
    assert np.array_equal(one.x, two.x)
    assert np.isfinite(one.x).all()


# ---- when it ends ----


def test_it_ends_where_the_gradient_is_within_tol():
    result = minimize(bowl, START, jac=True, method=adam, tol=1e-3, options={"lr": 0.1})
    assert (result.status, result.success) == (0, True)
    assert result.message == "Optimization terminated successfully."
    assert abs(result.jac).max() <= 1e-3
    assert 0 < result.nit < 1000
    visited, _ = by_hand(fastopt.Adam, result.nit, lr=0.1)
    assert all(abs(slope(x)).max() > 1e-3 for x in visited[:-1])


def test_a_start_within_tol_is_the_result():
    result = minimize(bowl, np.ones(3), jac=True, method=adam, tol=0.0)
    assert (result.nit, result.nfev, result.success) == (0, 1, True)


def test_steps_that_do_not_reach_tol_are_no_success():
    result = minimize(bowl, START, jac=True, method=adam, tol=1e-3, options={"maxiter": 4})
    assert (result.status, result.success, result.nit) == (1, False, 4)
    assert result.message == "Maximum number of iterations has been exceeded: the gradient was above tol."


def test_maxiter_is_1000_where_none_is_given_and_may_be_0():
    assert minimize(bowl, START, jac=True, method=adam).nit == 1000
    assert minimize(bowl, START, jac=True, method=adam, options={"maxiter": None}).nit == 1000
    result = minimize(bowl, START, jac=True, method=adam, options={"maxiter": 0})
    assert (result.nit, result.nfev, result.fun) == (0, 1, value(START))


@pytest.mark.parametrize("where", ["value", "gradient"])
def test_a_result_that_is_not_finite_ends_it_before_it_is_used(where):
    def fun(x):
        bad = np.nan if fun.calls == 3 else 0.0
        fun.calls += 1
        f, g = bowl(x)
        return (f + bad, g) if where == "value" else (f, g + np.array([0, bad, 0]))

    fun.calls = 0
    result = minimize(fun, START, jac=True, method=adam, options={"lr": 0.1})
    assert (result.status, result.success, result.nit) == (3, False, 3)
    assert result.message == "NaN or infinite result encountered."
    assert np.array_equal(result.x, by_hand(fastopt.Adam, 3, lr=0.1)[1])


def test_with_skip_a_bad_gradient_is_left_out():
    def fun(x):
        fun.calls += 1
        return (np.nan, x * np.nan) if fun.calls == 3 else bowl(x)

    fun.calls = 0
    options = {"lr": 0.1, "maxiter": 5, "nonfinite": "skip"}
    result = minimize(fun, START, jac=True, method=adam, options=options)
    assert (result.nit, result.success) == (5, True)
    assert np.array_equal(result.x, by_hand(fastopt.Adam, 4, lr=0.1)[1])


def test_noise_is_drawn_anew_where_the_point_is_the_same():
    drawn = []

    def fun(x):
        drawn.append(x)
        return bowl(x)

    minimize(fun, START, jac=True, method=adam, options={"lr": 0.0, "maxiter": 5})
    assert len(drawn) == 6


def test_best_is_the_lowest_value_seen():
    options = {"lr": 0.3, "maxiter": 30, "momentum": 0.95}
    plain = minimize(bowl, START, jac=True, method=methods.sgd, options=options | {"return_all": True})
    lowest = min(plain.allvecs, key=value)
    assert value(lowest) < plain.fun, "or this test shows nothing"
    result = minimize(bowl, START, jac=True, method=methods.sgd, options=options | {"best": True})
    assert np.array_equal(result.x, lowest)
    assert result.fun == value(lowest)
    assert np.array_equal(result.jac, slope(lowest))


def test_best_of_nag_is_a_point_where_the_value_was_taken():
    options = {"lr": 0.3, "maxiter": 30, "momentum": 0.95, "best": True}
    result = minimize(bowl, START, jac=True, method=methods.nag, options=options)
    assert result.fun == value(result.x)


# ---- callbacks ----


def test_a_callback_gets_each_point():
    points = []
    minimize(bowl, START, jac=True, method=adam, callback=points.append, options={"lr": 0.1, "maxiter": 5})
    assert np.array_equal(points, by_hand(fastopt.Adam, 5, lr=0.1)[0][1:])


def test_a_callback_that_asks_for_it_gets_an_intermediate_result():
    results = []

    def callback(*, intermediate_result):
        results.append(intermediate_result)

    minimize(bowl, START, jac=True, method=adam, callback=callback, options={"lr": 0.1, "maxiter": 5})
    assert all(type(one) is OptimizeResult for one in results)
    assert np.array_equal([one.x for one in results], by_hand(fastopt.Adam, 5, lr=0.1)[0][1:])
    assert [one.fun for one in results] == [value(one.x) for one in results]


@pytest.mark.parametrize("by_name", [False, True])
def test_stop_iteration_in_a_callback_ends_it(by_name):
    calls = []

    def stop(x):
        calls.append(x)
        if len(calls) == 3:
            raise StopIteration

    def stop_by_name(intermediate_result):
        stop(intermediate_result.x)

    callback = stop_by_name if by_name else stop
    result = minimize(bowl, START, jac=True, method=adam, callback=callback, options={"lr": 0.1})
    assert (result.nit, result.status, result.success) == (3, 99, False)
    assert result.message == "`callback` raised `StopIteration`."
    assert np.array_equal(result.x, calls[-1])

    def at_once(x):
        raise StopIteration

    theirs = minimize(rosen, START, jac=rosen_der, method="BFGS", callback=at_once)
    assert (theirs.status, theirs.success) == (result.status, result.success)


def test_other_errors_come_through():
    with pytest.raises(ZeroDivisionError):
        minimize(bowl, START, jac=True, method=adam, callback=lambda x: 1 / 0)


def test_disp_prints_how_it_ended(capsys):
    minimize(bowl, START, jac=True, method=adam, options={"maxiter": 2, "disp": True})
    assert "All maxiter steps were taken" in capsys.readouterr().out


# ---- what is refused ----

WRONG = [
    ({"bounds": [(0, 1)] * 3}, ValueError, "bounds: fastopt.scipy.adam has none"),
    ({"bounds": Bounds(-1, 1)}, ValueError, "bounds: fastopt.scipy.adam has none"),
    ({"constraints": {"type": "eq", "fun": value}}, ValueError, "constraints: fastopt.scipy.adam has none"),
    ({"constraints": LinearConstraint(np.eye(3))}, ValueError, "constraints: fastopt.scipy.adam has none"),
    ({"jac": None}, ValueError, "jac is missing, or no function: fastopt.scipy.adam needs the gradient"),
    ({"jac": "2-point"}, ValueError, "jac is missing, or no function: fastopt.scipy.adam needs the gradient"),
    ({"hess": lambda x: np.eye(3)}, ValueError, "hess: fastopt.scipy.adam makes no use of second derivatives"),
    ({"hessp": lambda x, p: p}, ValueError, "hessp: fastopt.scipy.adam makes no use of second derivatives"),
    ({"options": {"maxitr": 3}}, ValueError,
     "fastopt.scipy.adam has no option 'maxitr': did you mean 'maxiter'?"),
    ({"options": {"gtol": 3}}, ValueError, "fastopt.scipy.adam has no option 'gtol': did you mean 'tol'?"),
    ({"options": {"learning_rate": 3}}, ValueError,
     "fastopt.scipy.adam has no option 'learning_rate': did you mean 'lr'?"),
    ({"options": {"params": 3}}, ValueError, "fastopt.scipy.adam has no option 'params'"),
    ({"options": {"maxiter": -1}}, ValueError, "maxiter is -1: wanted a whole number of at least 0"),
    ({"options": {"maxiter": 1.5}}, TypeError, "maxiter is 1.5, a float: wanted a whole number of at least 0"),
    ({"tol": -1.0}, ValueError, "tol is -1.0: wanted a finite number of at least 0"),
    ({"options": {"lr": -1.0}}, ValueError, "lr is -1.0"),
    ({"x0": START + 1j}, TypeError, "x0 has dtype complex128: fastopt.scipy.adam wants float32 or float64"),
    ({"jac": lambda x: x[:2]}, ValueError, "the gradient has shape (2,): wanted (3,), as x0 has"),
    ({"fun": lambda x: x}, ValueError, "fun returned an array of shape (3,): wanted a number"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "message"), WRONG, ids=[row[2] for row in WRONG])
def test_what_it_cannot_do_is_refused_by_name(given, kind, message):
    with pytest.raises(kind, match=says(message + "…")):
        minimize(**({"fun": value, "x0": START, "jac": slope, "method": adam} | given))


# ---- as its users do ----


def test_basinhopping_finds_the_deeper_valley_with_it():
    def wells(x):
        """Minima near -1 and 1, that near -1 deeper."""
        return float((x**4 - 2 * x**2 + 0.3 * x).sum()), 4 * x**3 - 4 * x + 0.3

    local = {"method": adam, "jac": True, "tol": 1e-6, "options": {"lr": 0.05, "maxiter": 3000}}
    start = np.array([1.0])
    assert minimize(wells, start, **local).x > 0
    seed = {"rng" if "rng" in inspect.signature(basinhopping).parameters else "seed": 1}  # before SciPy 1.15
    found = basinhopping(wells, start, niter=10, stepsize=1.5, minimizer_kwargs=local, **seed)
    assert found.x == pytest.approx(-1.0354, abs=1e-3)
    assert found.minimization_failures == 0
    assert found.lowest_optimization_result.success


def noisy_least_squares(seed):
    """Mini-batches of 32 rows of a linear model in 20 variables, and the truth."""
    rng = np.random.default_rng(seed)
    a, truth = rng.normal(size=(5000, 20)), rng.normal(size=20)
    b = a @ truth + rng.normal(size=5000)

    def batch(x):
        rows = rng.integers(0, 5000, 32)
        error = a[rows] @ x - b[rows]
        return error @ error / 64, a[rows].T @ error / 32

    return batch, truth


@pytest.mark.parametrize("seed", range(3))
def test_noisy_gradients_are_what_it_is_for(seed):
    far = {}
    for method, options in ((adam, {"lr": 0.01, "maxiter": 2000}), ("BFGS", {}), ("L-BFGS-B", {})):
        batch, truth = noisy_least_squares(seed)
        far[method] = np.linalg.norm(minimize(batch, np.zeros(20), jac=True, method=method, options=options).x - truth)
    assert far[adam] < 0.25 < min(far["BFGS"], far["L-BFGS-B"])


def test_smooth_problems_are_not():
    quasi_newton = minimize(rosen, np.full(10, -1.0), jac=rosen_der, method="BFGS")
    ours = minimize(
        rosen, np.full(10, -1.0), jac=rosen_der, method=adam, tol=1e-5, options={"lr": 0.01, "maxiter": 20000}
    )
    assert quasi_newton.success
    assert ours.success
    assert ours.nfev > 20 * quasi_newton.nfev
