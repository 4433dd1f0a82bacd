"""fastopt.sklearn against scikit-learn: the same weights to rounding, and all that an estimator does."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed: `pip install 'fastopt[sklearn]'`")

from scipy import sparse  # noqa: E402
from sklearn import neural_network as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402
from test_errors import says  # noqa: E402

import fastopt  # noqa: E402
import fastopt.sklearn as ours  # noqa: E402
from fastopt.optimizers import OPTIMIZERS  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:Got `batch_size`:UserWarning",
    "ignore:scipy.optimize. The `disp`:DeprecationWarning",  # old releases beside a new SciPy
    "ignore::sklearn.exceptions.SkipTestWarning",  # of checks that need what is not installed
)
BOTH = ["MLPClassifier", "MLPRegressor"]


def data(name="MLPClassifier", real="float64"):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(150, 7)).astype(real)
    product = x[:, 0].astype(float) * x[:, 1]  # float64 targets, also beside float32 inputs
    return x, product if name == "MLPRegressor" else (product > 0).astype(int)


def pair(name, **options):
    """scikit-learn's estimator and ours, the same but for the optimizer."""
    options = {"hidden_layer_sizes": (9, 5), "batch_size": 20, "max_iter": 12, "random_state": 1} | options
    own = {key: value for key, value in options.items() if key != "solver_options"}
    return getattr(theirs, name)(**own), getattr(ours, name)(**options)


def weights(net):
    return net.coefs_ + net.intercepts_


def assert_equal_to_rounding(one, two):
    for mine, wanted in zip(weights(two), weights(one), strict=True):
        assert mine.dtype == wanted.dtype
        # 100 updates, of which each rounds a dozen times, in weights of about 1
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=1200 * np.finfo(wanted.dtype).eps)


def assert_same_bits(one, two):
    assert [w.tobytes() for w in weights(one)] == [w.tobytes() for w in weights(two)]


SOLVERS = [
    {"solver": "adam"},
    {"solver": "adam", "beta_1": 0.5, "beta_2": 0.75, "epsilon": 1e-3, "learning_rate_init": 0.02},
    {"solver": "adam", "early_stopping": True, "n_iter_no_change": 2, "learning_rate_init": 0.05},
    {"solver": "sgd", "learning_rate_init": 0.05},
    {"solver": "sgd", "momentum": 0.0},
    {"solver": "sgd", "momentum": 0.5, "nesterovs_momentum": False},
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "power_t": 0.25},
    {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1, "tol": 0.1, "n_iter_no_change": 1},
    {"solver": "sgd", "early_stopping": True, "n_iter_no_change": 2, "learning_rate_init": 0.1},
    {"solver": "lbfgs"},
]


@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("options", SOLVERS, ids=str)
def test_weights_are_scikit_learns_to_rounding(options, name, real):
    one, two = pair(name, **options)
    x, y = data(name, real)
    one.fit(x, y)
    two.fit(x, y)
    assert_equal_to_rounding(one, two)
    assert one.n_iter_ == two.n_iter_
    if options["solver"] != "lbfgs":
        np.testing.assert_allclose(two.loss_curve_, one.loss_curve_, rtol=1e4 * np.finfo(real).eps)
        assert one._optimizer.learning_rate_init == two._optimizer.learning_rate_init


def test_sparse_inputs_and_several_outputs_train_as_there():
    x, y = data("MLPRegressor")
    x[abs(x) < 1] = 0
    one, two = pair("MLPRegressor")
    for net in (one, two):
        net.fit(sparse.csr_matrix(x), np.stack([y, -y], axis=1))
    assert_equal_to_rounding(one, two)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_warm_starts_and_partial_fits_go_on_as_there(solver):
    x, y = data()
    one, two = pair("MLPClassifier", solver=solver, warm_start=True, max_iter=3)
    for net in (one, two):
        net.fit(x, y).fit(x, y)
        for _ in range(3):
            net.partial_fit(x, y)
    assert_equal_to_rounding(one, two)


COPIES = [
    ("pickled", lambda net: pickle.loads(pickle.dumps(net))),
    ("copied", copy.deepcopy),
]


@pytest.mark.parametrize("solver", ["adam", "sgd", "lion", "schedulefreesgd"])
@pytest.mark.parametrize("copied", [row[1] for row in COPIES], ids=[row[0] for row in COPIES])
def test_a_copy_goes_on_where_the_original_was(solver, copied):
    x, y = data()
    _, net = pair("MLPClassifier", solver=solver)
    net.fit(x, y).partial_fit(x, y)
    other = copied(net)
    assert_same_bits(net, other)
    before = [w.copy() for w in weights(net)]
    for _ in range(2):
        other.partial_fit(x, y)
    assert all((w == b).all() for w, b in zip(weights(net), before, strict=True)), "the copy trained the original"
    for _ in range(2):
        net.partial_fit(x, y)
    assert_same_bits(net, other)


def test_weights_that_were_set_by_hand_are_trained():
    x, y = data()
    one, two = pair("MLPClassifier")
    for net in (one, two):
        net.fit(x, y)
        net.coefs_ = [w * 0.5 for w in net.coefs_]
        net.partial_fit(x, y)
    assert_equal_to_rounding(one, two)


def test_a_clone_has_the_parameters_and_nothing_else():
    options = {"weight_decay": 0.1}
    net = ours.MLPClassifier(solver=fastopt.AdamW, solver_options=options, alpha=0.5)
    x, y = data()
    net.set_params(max_iter=2).fit(x, y)
    other = clone(net)
    assert other.get_params() == net.get_params()
    assert (other.solver, other.solver_options, other.alpha) == (fastopt.AdamW, options, 0.5)
    assert not hasattr(other, "coefs_")
    assert "AdamW" in repr(other)


def test_the_arguments_are_those_of_scikit_learn_and_one_more():
    for name in BOTH:
        one, two = pair(name)
        assert two.get_params() == one.get_params() | {"solver_options": None}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("solver", ["adam", "lion", fastopt.ScheduleFreeAdamW])
def test_scikit_learns_checks_of_an_estimator_pass(name, solver):
    check_estimator(getattr(ours, name)(solver=solver, max_iter=20, learning_rate_init=0.01))


def test_a_grid_search_in_two_processes_tries_optimizers():
    x, y = data()
    solvers = ["adam", "lion", fastopt.NAdam]
    search = GridSearchCV(
        ours.MLPClassifier((20,), max_iter=30, learning_rate_init=0.01, random_state=0),
        {"solver": solvers, "solver_options": [None, {"weight_decay": 0.01}]},
        n_jobs=2,
        cv=2,
    )
    search.fit(x, y)
    assert len(search.cv_results_["params"]) == 6
    assert search.best_score_ > 0.6
    one = ours.MLPClassifier((20,), max_iter=30, learning_rate_init=0.01, random_state=0, **search.best_params_)
    assert_same_bits(one.fit(x, y), search.best_estimator_)


@pytest.mark.parametrize("cls", [cls for cls in OPTIMIZERS.values() if not cls.looks_ahead], ids=lambda c: c.__name__)
def test_every_optimizer_trains_by_name_and_by_class(cls):
    x, y = data()
    _, one = pair("MLPClassifier", solver=cls.__name__.lower(), max_iter=2, learning_rate_init=0.01)
    _, two = pair("MLPClassifier", solver=cls, max_iter=2, learning_rate_init=0.01)
    if cls in (fastopt.SGD, fastopt.Adam):  # whose names mean scikit-learn's own
        one.solver = cls
    assert_same_bits(one.fit(x, y), two.fit(x, y))
    start = theirs.MLPClassifier((9, 5), batch_size=20, max_iter=1, random_state=1, learning_rate_init=1e-300).fit(x, y)
    assert all((w != s).any() for w, s in zip(weights(one), weights(start), strict=True))
    assert type(one._optimizer._ours) is cls


def test_options_of_the_optimizer_reach_it():
    x, y = data()
    _, plain = pair("MLPClassifier", solver="adam", learning_rate_init=0.01)
    _, clipped = pair("MLPClassifier", solver="adam", learning_rate_init=0.01, solver_options={"clip_norm": 1e-9})
    assert abs(clipped.fit(x, y).coefs_[0] - plain.fit(x, y).coefs_[0]).max() > 0.01
    assert clipped._optimizer._ours.clip_norm == 1e-9


@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
def test_the_learning_rate_of_other_optimizers_is_scikit_learns(learning_rate):
    x, y = data()
    _, net = pair(
        "MLPClassifier", solver="lion", learning_rate=learning_rate, max_iter=9, tol=1.0, n_iter_no_change=1,
        learning_rate_init=0.5, power_t=0.5,
    )  # fmt: skip
    net.fit(x, y)
    wanted = {"constant": 0.5, "invscaling": 0.5 / (net.t_ + 1) ** 0.5, "adaptive": 0.5 / 5.0**4}
    assert net._optimizer._ours.lr == pytest.approx(wanted[learning_rate], rel=1e-12)
    assert net._optimizer.learning_rate == net._optimizer._ours.lr


# ---- optimizers whose result is an average of the weights ----


def test_an_average_is_what_predicts_and_training_goes_on_from_the_weights():
    x, y = data()
    options = {"solver": "schedulefreesgd", "learning_rate_init": 0.5, "shuffle": False, "batch_size": 150}
    _, net = pair("MLPClassifier", **options)
    _, twin = pair("MLPClassifier", **options)  # whose weights are never averaged
    for part in (net, twin):  # twice, since after one update the average is the weights
        part.partial_fit(x, y, classes=[0, 1]).partial_fit(x, y)
    for _ in range(5):
        updates = twin._optimizer
        updates.begin(weights(twin))
        training = [w.copy() for w in weights(twin)]
        with updates._ours.averaged():
            for w, mean, now in zip(weights(net), weights(twin), training, strict=True):
                assert w.tobytes() == mean.tobytes()
                assert (mean != now).any()
        net.partial_fit(x, y)
        twin.partial_fit(x, y)


def test_an_average_by_ema_decay_is_what_predicts():
    x, y = data()
    _, net = pair("MLPClassifier", solver="adam", solver_options={"ema_decay": 0.9})
    _, plain = pair("MLPClassifier", solver="adam")
    net.fit(x, y)
    assert_same_bits(net, type("Means", (), {"coefs_": [s["ema"] for s in net._optimizer._ours.state.values()],
                                             "intercepts_": []}))  # fmt: skip
    plain.fit(x, y)
    net.partial_fit(x, y)
    net._optimizer.begin(weights(net))
    assert_same_bits(net, plain.partial_fit(x, y))  # training has gone on from the weights


def test_a_partial_fit_that_is_refused_leaves_the_average():
    x, y = data()
    _, net = pair("MLPClassifier", solver="schedulefreesgd", learning_rate_init=0.5)
    net.partial_fit(x, y, classes=[0, 1])
    copied = copy.deepcopy(net)
    with pytest.raises(ValueError, match="NaN"):
        net.partial_fit(x * np.nan, y)
    assert_same_bits(net, copied)
    assert_same_bits(net.partial_fit(x, y), copied.partial_fit(x, y))


def test_early_stopping_judges_and_keeps_the_average(monkeypatch):
    x, y = data()
    scored = []
    score = ours.MLPClassifier._score

    def noting(self, *args, **more):
        scored.append([w.copy() for w in weights(self)])
        return score(self, *args, **more)

    monkeypatch.setattr(ours.MLPClassifier, "_score", noting)
    _, net = pair("MLPClassifier", solver="schedulefreesgd", learning_rate_init=0.5, early_stopping=True)
    net.fit(x, y)
    best = scored[int(np.argmax(net.validation_scores_))]
    assert all((w == b).all() for w, b in zip(weights(net), best, strict=True))
    updates = net._optimizer
    with updates._ours.averaged():
        assert all((w == last).all() for w, last in zip(updates._params, scored[-1], strict=True))


# ---- what is refused ----

WRONG = [
    ({"solver": "lionn"}, "solver: there is no optimizer 'lionn': did you mean 'lion'?"),
    ({"solver": "Adam"}, "solver is 'Adam': wanted 'adam', which is scikit-learn's, or a class"),
    ({"solver": 3}, "solver: the optimizer's name is 3, a int"),
    ({"solver": dict}, "solver: the optimizer's name is <class 'dict'>"),
    ({"solver": fastopt.Optimizer}, "solver: the optimizer's name is <class 'fastopt.optimizer.Optimizer'>"),
    ({"solver": "nag"}, "solver NAG wants gradients at another point than the weights"),
    ({"solver": "muon"}, "params has shape (1,), and Muon is for matrices"),
    ({"solver": fastopt.Split}, "solver Split has rules, which no argument here is for: use one of its classes"),
    ({"solver": "lion", "solver_options": {"lr": 1.0}}, "solver_options has 'lr': use learning_rate_init"),
    ({"solver_options": {"betas": (0.5, 0.5)}}, "solver_options has 'betas': use beta_1 and beta_2"),
    ({"solver_options": {"eps": 1e-3}}, "solver_options has 'eps': use epsilon"),
    ({"solver_options": {"eps_hat": False}}, "solver_options has 'eps_hat': with solver='adam' it is True"),
    ({"solver": "sgd", "solver_options": {"nesterov": True}}, "solver_options has 'nesterov': use nesterovs_momentum"),
    ({"solver": "lbfgs", "solver_options": {"lr": 1.0}}, "solver_options: scikit-learn's 'lbfgs' takes none"),
    ({"solver": "lion", "solver_options": {"beta": 1.0}}, "Lion has no option 'beta': did you mean 'betas'?"),
    ({"solver": "lion", "solver_options": {"weight_decay": -1}}, "weight_decay is -1"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[row[1] for row in WRONG])
def test_what_cannot_be_is_refused_before_anything_changes(options, message):
    x, y = data()
    net = ours.MLPClassifier(**options)
    with pytest.raises((TypeError, ValueError), match=says(message + "…")):
        net.fit(x, y)
    assert vars(net) == vars(ours.MLPClassifier(**options))


def test_a_fit_that_fails_leaves_the_parameters_as_they_were():
    x, y = data()
    net = ours.MLPClassifier(solver="lion", learning_rate_init=1e300)
    with pytest.raises(ValueError, match="non-finite"), np.errstate(all="ignore"):
        net.fit(x.astype("f"), y)
    assert net.solver == "lion"


@pytest.mark.parametrize("version", ["1.3.2", "1.10.0", "2.0.dev0"])
def test_a_release_that_was_not_tested_is_refused(version, monkeypatch):
    spec = importlib.util.spec_from_file_location("fastopt.another", ours.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sklearn, "__version__", version)
    with pytest.raises(ImportError, match=rf"scikit-learn 1\.4 to 1\.9, and this is {version}"):
        spec.loader.exec_module(module)


@pytest.mark.slow
def test_scikit_learns_own_tests_of_these_estimators_pass():
    script = """
import sys, pytest, sklearn.neural_network as theirs
import fastopt.sklearn as ours
theirs.MLPClassifier, theirs.MLPRegressor = ours.MLPClassifier, ours.MLPRegressor
options = ["-p", "no:cacheprovider", "-q", "-W", "ignore"]
code = pytest.main(["--pyargs", "sklearn.neural_network.tests.test_mlp", *options])
import sklearn.neural_network.tests.test_mlp as tests
assert tests.MLPClassifier is ours.MLPClassifier
sys.exit(code)
"""
    path = ":".join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=500, cwd="/"
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
