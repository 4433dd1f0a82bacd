"""The command, by running it: what it trains, what it leaves, how it resumes, and how it refuses.

Its tables are in test_cli_tables.py, the ways of its output in test_cli_output.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from optimizers_table import REFUSE_RATE_0, chosen

pytest.importorskip("click", reason="the command is an extra: pip install 'fastopt[cli]'")

import fastopt
from fastopt import checkpoint
from fastopt.cli import handwritten, main, models, plots, training
from fastopt.cli.commands import train
from fastopt.cli.data import ALL_ROWS, EMBEDDED, FAMILIES, split
from fastopt.cli.settings import READING, Settings, decays, hyper_parameters, learning_rate
from fastopt.optimizers import OPTIMIZERS

PNG = b"\x89PNG\r\n\x1a\n"


def run(*args):
    return main([str(arg) for arg in args])


def results(path):
    return json.loads(Path(path).read_text())["results"]


def table(text, name="bad.csv"):
    Path(name).write_text(text)
    return name


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Each test runs in a folder with 80 rows of y = 2 a - b + 1/2, as CSV and NPZ."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(80, 2))
    y = x @ [2.0, -1.0] + 0.5
    table("a,b,y\n" + "\n".join(f"{a},{b},{c}" for (a, b), c in zip(x, y, strict=True)), "table.csv")
    np.savez("table.npz", x=x, more=np.arange(80), y=y)


# ---- what it trains ----


@pytest.mark.parametrize(
    ("data", "worst", "more"),
    [
        pytest.param("line", 0.12, [], id="line"),
        pytest.param("diabetes", 2920.0, chosen(["--no-compare"], []), id="diabetes", marks=pytest.mark.no_cover),
        pytest.param("digits", 0.15, chosen(["--no-compare"], []), id="digits", marks=pytest.mark.no_cover),
    ],
)
def test_every_optimizer_trains_well_and_numpy_reaches_the_same_bits(data, worst, more, capsys):
    assert run("train", data, "--optimizer", "all", "--json", "all.json", *more) == 0
    table = capsys.readouterr().out
    found = results("all.json")
    assert [result["optimizer"] for result in found] == list(OPTIMIZERS)
    for result in found:
        fused, numpy = result["fastopt"], result["fastopt" if more else "numpy"]
        assert result["optimizer"] in table
        assert result["identical"] or more
        for key in ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "parameters"):
            assert fused[key] == numpy[key]
        # Prodigy takes some hundred steps to find its rate, and Adafactor to leave a single number that is 0.
        slow = {"line": ["Prodigy", "Adafactor"], "diabetes": ["Prodigy"], "digits": []}[data]
        assert fused["train_loss"] < worst or result["optimizer"] in slow
        assert min(fused["seconds"], fused["step_us"], numpy["seconds"], numpy["step_us"]) > 0
        assert result["curve"]["train_loss"][-1] == fused["train_loss"]
        assert result["curve"]["updates"][-1] == result["updates"]
        if data == "digits":
            assert fused["test_accuracy"] > 0.94
    assert table.count("OTHER BITS") == 0
    same = f"{len(OPTIMIZERS)} of {len(OPTIMIZERS)} ended with the same bits as in NumPy"
    assert (same in table) != bool(more)
    assert "\nbest of all " in table


@pytest.mark.parametrize("name", ALL_ROWS)
def test_who_needs_all_rows_has_them_unless_told_otherwise(name, capsys):
    def amounts(*args):
        assert run("train", *args, "--no-compare", "--json", "out.json") == 0
        return {r["optimizer"]: (r["batch_size"], r["epochs"], r["updates"]) for r in results("out.json")}

    own = (800, ALL_ROWS[name], ALL_ROWS[name])
    assert amounts("--optimizer", f"adam,{name}") == {"Adam": (10, 3, 240), name: own}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "line, linear, batches of 10, epochs 3, updates 240, float32"
    assert lines[3] == f"{name}: batches of 800, epochs {ALL_ROWS[name]}, updates {ALL_ROWS[name]}"
    assert amounts("--optimizer", name) == {name: own}
    assert capsys.readouterr().out.startswith(f"line, linear, batches of 800, epochs {ALL_ROWS[name]}, ")
    assert amounts("--optimizer", name, "--batch-size", 400, "--epochs", 2) == {name: (400, 2, 4)}
    # A warm-up comes before its updates, and a saved run goes on with what it had.
    assert amounts("--optimizer", name, "--warmup", 150)[name] == (800, ALL_ROWS[name] + 150, ALL_ROWS[name] + 150)
    run("train", "--optimizer", name, "--batch-size", 80, "--epochs", 1, "--save", "run")
    assert amounts("--resume", "run", "--epochs", 2) == {name: (80, 2, 20)}


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_defaults_train_to_where_logistic_regression_ends(name):
    from sklearn.linear_model import LogisticRegression

    names = "all" if name == "iris" else "adam,sgd"
    assert run("train", name, "--optimizer", names, "--no-compare", "--json", "out.json") == 0
    rows = split(EMBEDDED[name](0), 0.2, 0, "float64")
    peer = LogisticRegression(max_iter=1000).fit(rows.x, rows.y)
    loss = -np.log(peer.predict_proba(rows.x)[range(len(rows.y)), rows.y]).mean()
    for result in results("out.json"):
        assert result["fastopt"]["train_loss"] <= loss, result["optimizer"]
        # Up to a single row, of 30 to 114: scikit-learn's weights are penalized, ours are not.
        wrong = len(rows.y_test) * (1 - result["fastopt"]["test_accuracy"])
        assert round(wrong) <= (peer.predict(rows.x_test) != rows.y_test).sum() + 1, result["optimizer"]


def test_the_headline_says_target_task_classes_and_rows(capsys):
    assert run("train", "iris", "--stop-after", 1) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "iris, logistic, batches of 32, epochs 214, updates 1, float32",
        "target species, classification, 3 classes: setosa, versicolor, virginica; the loss is cross entropy",
        "150 rows of 4 features: 120 to train on, 30 held out",
    ]
    for name in EMBEDDED:
        assert EMBEDDED[name](0).target_name


@pytest.mark.parametrize("name", [*handwritten.FORMS, "momentum", "Nesterov"])
def test_a_step_is_compared_with_one_written_by_hand(name):
    options = {"momentum": {"momentum": 0.9}, "Nesterov": {"momentum": 0.9, "nesterov": True}}.get(name, {})
    cls = OPTIMIZERS["SGD" if options else name]
    layers = [{"weight": np.linspace(-1, 1, 6).reshape(2, 3), "bias": np.ones(3)}]
    hyper = hyper_parameters(cls.__name__) | options
    form = handwritten.by_hand(cls.__name__, hyper, layers)
    optimizer = cls(layers, 0.01, **hyper)
    rng = np.random.default_rng(0)
    for _ in range(10):
        grads = [{"weight": rng.normal(size=(2, 3)), "bias": rng.normal(size=3)}]
        optimizer.step(grads)
        form.step(grads, 0.01)
    for mine, by_hand in zip(layers[0].values(), form.params, strict=True):
        np.testing.assert_allclose(mine, by_hand, rtol=1e-12)  # the order of operations differs
    assert len(form.ns) == 10
    other = {"SGD": {"dampening": 0.5}}.get(cls.__name__, {"maximize": True})
    assert handwritten.by_hand(cls.__name__, hyper | other, layers) is None


def test_rates_are_compared_and_the_best_is_said(capsys):
    assert (
        run("train", "--optimizer", "adam,sgd", "--lr", "0.1,0.001,0.1", "--json", "out.json", "--plot", "o.svg") == 0
    )
    found = results("out.json")
    assert [(r["optimizer"], r["lr"]) for r in found] == [("Adam", 0.1), ("Adam", 0.001), ("SGD", 0.1), ("SGD", 0.001)]
    out = capsys.readouterr().out
    for name in ("Adam", "SGD"):
        best = min((r for r in found if r["optimizer"] == name), key=lambda r: r["fastopt"]["test_loss"])
        assert f"best rate of {name}: {best['lr']:g}, by held-out loss {best['fastopt']['test_loss']:#.6g}\n" in out
    assert json.loads(Path("out.json").read_text())["settings"]["lr"] == [0.1, 0.001]
    assert run("train", "--lr", "search", "--no-compare", "--stop-after", 2, "--json", "out.json") == 0
    assert [r["lr"] for r in results("out.json")] == [0.005, 0.015, 0.05, 0.15, 0.5]


def test_who_needs_other_options_has_them_unless_told_otherwise():
    def trust(*args):
        assert run("train", *args, "--stop-after", 2, "--no-compare", "--json", "out.json") == 0
        return [result["hyper"].get("trust") for result in results("out.json")]

    names = ("--optimizer", "adam,lars,lamb")
    assert trust("line", *names) == [None, False, False]
    assert trust("table.csv", "--target", "y", *names) == [None, False, True]
    assert trust("digits", *names) == [None, True, True]
    assert trust("line", "--optimizer", "lars,lamb", "--trust") == [True, True]
    run("train", "--optimizer", "lars", "--stop-after", 2, "--save", "run")
    assert trust("--resume", "run") == [False]


def test_options_of_several_numbers_take_as_many_as_the_optimizer():
    def betas(*args):
        assert run("train", *args, "--stop-after", 2, "--no-compare", "--json", "out.json") == 0
        return {result["optimizer"]: result["hyper"].get("betas") for result in results("out.json")}

    assert betas("--betas", "0.5", "0.75") == {"Adam": [0.5, 0.75]}
    assert betas("--betas=0.5", "0.75", "line") == {"Adam": [0.5, 0.75]}
    assert betas("--optimizer", "ademamix", "--betas", "0.5", "0.75", "0.875") == {"AdEMAMix": [0.5, 0.75, 0.875]}
    found = betas("--optimizer", "all", "--betas", "0.5", "0.75", "0.875")  # each takes what it can
    assert found["AdEMAMix"] == [0.5, 0.75, 0.875]
    assert found["Adam"] == [0.9, 0.999]
    assert found["SGD"] is None


def test_the_help_of_an_option_says_whose_it_is_and_its_defaults(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert run("train", "--help") == 0
    help = capsys.readouterr().out
    assert max(map(len, help.splitlines())) <= 80
    words = " ".join(help.split())
    for option, name in (("--rho FLOAT", "Adadelta"), ("--centered / --no-centered", "RMSprop")):
        default = OPTIMIZERS[name].hyper_parameters[option[2:].split()[0]].default
        assert f"{option} Default {default} of {name}." in words
    assert "--weight-decay FLOAT Default 0.0 of most; 0.01 of AdamW" in words
    for option in train.params[1:]:
        assert re.search(r"\b[Dd]efault\b", option.help), option.name
    assert "--warmup-steps INTEGER Default 0 of ScheduleFreeSGD, ScheduleFreeAdamW." in words
    args = ("--optimizer", "schedulefreesgd", "--warmup-steps", 5, "--stop-after", 2, "--json", "out.json")
    assert run("train", *args) == 0
    assert results("out.json")[0]["hyper"]["warmup_steps"] == 5


@pytest.mark.parametrize("name", ["rmsprop-line", "adam-line"])
def test_a_classic_experiment_finds_the_line(name, capsys):
    assert run("train", "--experiment", name, "--json", "classic.json", "--plot", "classic.png") == 0
    (result,) = results("classic.json")
    point = result["fastopt"]["parameters"]
    assert abs(point["m"] - 2) < 0.1
    assert abs(point["b"] + 1) < 0.1
    assert result["path"][0] == [0.5, 0.5]
    assert len(result["path"]) == result["updates"] + 1
    assert result["curve"]["train_loss"][0] > 5
    assert result["fastopt"]["train_loss"] < 0.11
    settings = json.loads(Path("classic.json").read_text())["settings"]
    expected = {
        "rmsprop-line": {
            "optimizer": ["RMSprop"],
            "lr": 0.05,
            "epochs": 2,
            "batch_size": 10,
            "alpha": 0.9,
            "eps": 1e-8,
        },
        "adam-line": {
            "optimizer": ["Adam"],
            "lr": 0.05,
            "epochs": 5,
            "batch_size": 5,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
        },
    }[name]
    assert expected.items() <= settings.items()
    assert result["updates"] == expected["epochs"] * 800 / expected["batch_size"]


def test_options_override_an_experiment():
    args = ("--experiment", "rmsprop-line", "--epochs", 1, "--optimizer", "adam", "--no-compare", "--json", "out.json")
    assert run("train", *args) == 0
    (result,) = results("out.json")
    assert (result["optimizer"], result["updates"], result["lr"]) == ("Adam", 80, 0.05)
    assert result["hyper"]["eps"] == 1e-8
    assert "alpha" not in result["hyper"]
    assert result["numpy"] is None


@pytest.mark.parametrize(
    ("args", "loss"),
    [
        (["digits", "--model", "logistic", "--epochs", "5"], 0.8),
        (["diabetes", "--model", "mlp", "--hidden", "8,8", "--epochs", "10"], 3500.0),
        (["line", "--dtype", "float64", "--seed", "7", "--clip-norm", "1"], 0.3),
        (["table.csv", "--target", "y", "--lr", "0.1"], 0.1),
        (["table.npz", "--target", "y"], 1.0),
        (["table.npz", "--target", "more", "--model", "mlp", "--epochs", "50"], 500.0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_model_fits_its_table(args, loss):
    assert run("train", *args, "--json", "out.json", "--plot", "out.svg") == 0
    (result,) = results("out.json")
    assert result["identical"]
    assert result["fastopt"]["train_loss"] < min(loss, result["curve"]["train_loss"][0])
    assert Path("out.svg").read_text().startswith("<?xml")


CLASSES = {
    "text": (lambda a: "yes" if a > 0 else "no", ["no", "yes"], 0.9),
    "truth values": (lambda a: a > 0, ["False", "True"], 0.9),
    "few whole numbers": (lambda a: 3 + (a > -0.5) + (a > 0.5), ["3", "4", "5"], 0.7),
}


@pytest.mark.parametrize("target", CLASSES)
@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_classes_are_recognised(target, suffix):
    label, classes, least = CLASSES[target]
    a = np.random.default_rng(0).normal(size=80)
    labels = [label(value) for value in a]
    np.savez("classes.npz", a=a, y=np.array(labels))
    table("a,y\n" + "\n".join(f"{value},{name}" for value, name in zip(a, labels, strict=True)), "classes.csv")
    args = ("--target", "y", "--lr", 0.1, "--test-fraction", 0, "--json", "out.json", "--plot", "out.pdf")
    assert run("train", f"classes.{suffix}", *args) == 0
    document = json.loads(Path("out.json").read_text())
    assert document["data"]["classes"] == classes
    assert document["settings"]["model"] == "logistic"
    (result,) = document["results"]
    assert result["fastopt"]["test_loss"] is None
    assert result["fastopt"]["train_accuracy"] >= least


def test_losses_are_in_the_unit_of_the_target():
    assert run("train", "table.csv", "--target", "y", "--test-fraction", 0, "--json", "out.json") == 0
    (result,) = results("out.json")
    y = np.loadtxt("table.csv", delimiter=",", skiprows=1)[:, 2]
    # At the start all weights are 0, and the loss is the variance; its float32 sum of 80 squares errs by some 1e-6.
    assert abs(result["curve"]["train_loss"][0] / y.var() - 1) < 1e-5


def test_a_constant_column_does_no_harm():
    table("a,b,y\n" + "\n".join(f"{i},7,{2 * i}.5" for i in range(30)))
    assert run("train", "bad.csv", "--target", "y", "--lr", 0.1, "--epochs", 50, "--json", "out.json") == 0
    assert results("out.json")[0]["fastopt"]["train_loss"] < 1.0


def test_few_whole_numbers_are_fitted_if_asked():
    rows = "\n".join(f"{i % 7},{i % 7 // 2}" for i in range(60))
    table(f"a,y\n{rows}", "few.csv")
    assert run("train", "few.csv", "--target", "y", "--task", "regression", "--json", "out.json") == 0
    assert json.loads(Path("out.json").read_text())["loss"] == "MSE"


def test_all_takes_an_option_where_it_belongs():
    assert run("train", "--optimizer", "all", "--eps", "1e-6", "--stop-after", 3, "--json", "out.json") == 0
    found = {result["optimizer"]: result["hyper"].get("eps") for result in results("out.json")}
    assert found["SGD"] is None
    assert found["Adam"] == 1e-6
    assert set(found.values()) == {None, 1e-6}
    assert all(result["updates"] == 3 for result in results("out.json"))


@pytest.mark.parametrize("loss", [models.MSE, models.BINARY, models.SOFTMAX], ids=["MSE", "binary", "softmax"])
def test_gradients_are_those_of_the_loss(loss):
    rng = np.random.default_rng(1)
    outputs = 3 if loss is models.SOFTMAX else 1
    model = models.Network((4, 5, outputs), loss, np.float64, rng)
    x = rng.normal(size=(6, 4))
    y = rng.normal(size=6) if loss is models.MSE else rng.integers(0, max(outputs, 2), 6)
    assert model.gradients(x, y) == model.evaluate(x, y)[0]
    for params, grads in zip(model.params, model.grads, strict=True):
        for name, array in params.items():
            for index in np.ndindex(array.shape):
                kept = array[index]
                ends = []
                for shift in (1e-6, -1e-6):
                    array[index] = kept + shift
                    ends.append(model.evaluate(x, y)[0])
                array[index] = kept
                # A central difference errs by the loss's rounding over the shift, some 1e-10.
                assert abs((ends[0] - ends[1]) / 2e-6 - grads[name][index]) < 1e-8


def test_a_schedule_spans_the_run():
    lr = learning_rate(Settings(schedule="linear", warmup=20), 0.1, 100)
    assert [lr(t) for t in (0, 10, 20, 60, 100)] == [0.0, 0.05, 0.1, 0.05, 0.0]
    lr = learning_rate(Settings(warmup=4), 0.1, 100)
    assert [lr(t) for t in (0, 2, 4, 99)] == [0.0, 0.05, 0.1, 0.1]


@pytest.mark.parametrize("name", decays())
def test_a_schedule_shapes_the_rate(name):
    needs = {
        "step": ":every=10,factor=0.5",
        "multi-step": ":milestones=50,100,150",
        "piecewise": ":rates=1,0.5,0.1,milestones=50,100",
        "exponential": ":factor=0.99",
        "inverse-time": ":rate=0.1",
        "inverse-sqrt-warmup": ":steps=20",
        "noam": ":width=1,warmup=30",
        "cosine-restarts": ":period=20,mult=2",
        "cyclic": ":low=0.1,high=1,up=10",
        "warmup-stable": ":warmup=10,stable=50,decay=100",
    }.get(name, "")
    assert run("train", "--schedule", name + needs, "--warmup", 20, "--no-compare", "--json", "out.json") == 0
    assert run("train", "--no-compare", "--json", "plain.json") == 0
    assert results("out.json")[0]["curve"] != results("plain.json")[0]["curve"]


def test_nag_takes_its_gradients_where_it_looks(monkeypatch):
    looks = []
    look = fastopt.NAG.lookahead
    monkeypatch.setattr(fastopt.NAG, "lookahead", lambda self: looks.append(self) or look(self))
    assert run("train", "--optimizer", "NAG", "--stop-after", 7) == 0
    assert len(looks) == 14  # fastopt and NumPy


def test_other_bits_are_said(monkeypatch, capsys):
    def wrong(self, grads):
        self.step(grads)
        return self.step(grads)

    monkeypatch.setattr(fastopt.Adam, "reference_step", wrong)
    assert run("train", "--stop-after", 2, "--json", "out.json") == 0
    assert "OTHER BITS" in capsys.readouterr().out
    assert results("out.json")[0]["identical"] is False


# ---- what it leaves ----


@pytest.mark.parametrize("data", ["line", "digits"])
def test_outputs_are_complete(data, capsys):
    names = ["SGD", "NAG", "RMSprop", "Adam"][: 4 if data == "line" else 2]  # in whatever case
    args = [part for name in names for part in ("--optimizer", name.lower())]
    assert run("train", data, *args, "--epochs", 1, "--plot", "new/deep/plot.png", "--json", "new/numbers.json") == 0
    out = capsys.readouterr().out
    assert "wrote new/deep/plot.png" in out
    picture = Path("new/deep/plot.png").read_bytes()
    assert picture.startswith(PNG)
    assert len(picture) > 20_000
    document = json.loads(Path("new/numbers.json").read_text())
    assert document["fastopt"] == fastopt.__version__
    assert document["loss"] == ("MSE" if data == "line" else "cross entropy")
    assert document["data"]["rows"] + document["data"]["rows_held_out"] == (1000 if data == "line" else 1797)
    assert [result["optimizer"] for result in document["results"]] == names
    for result in document["results"]:
        curve = result["curve"]
        assert len(curve["updates"]) == len(curve["train_loss"]) == len(curve["test_loss"]) > 40
        assert result["speed_up"] == result["numpy"]["step_us"] / result["fastopt"]["step_us"]


def test_many_optimizers_are_shown_by_families(monkeypatch, capsys):
    known = {name for names in FAMILIES.values() for name in names}
    assert len(known) == sum(map(len, FAMILIES.values()))  # each in one
    # One of no family, and one that ends elsewhere than its twin.
    monkeypatch.setitem(FAMILIES, "squares", ("Adagrad", "Adadelta"))
    monkeypatch.setattr(fastopt.Lion, "reference_step", lambda self, grads: self.step(grads) and self.step(grads))
    names = ["RMSprop", "Adam", "Lion", "SignSGD", "SGD", "Adagrad", "Adadelta"]
    args = ["--optimizer", ",".join(names), "--json", "out.json", "--plot", "out.png"]
    for more, key, what in (((), "test_loss", "held-out"), (("--test-fraction", 0), "train_loss", "training")):
        titles = []
        monkeypatch.setattr(
            "matplotlib.figure.Figure.suptitle", lambda _, text, titles=titles, **__: titles.append(text)
        )
        assert run("train", *args, *more) == 0
        table = capsys.readouterr().out.partition("\n\n")[2]
        loss = {result["optimizer"]: result["fastopt"][key] for result in results("out.json")}
        families = [["SGD"], ["SignSGD", "Lion"], ["Adagrad", "Adadelta"], ["Adam"], ["RMSprop"]]
        headings = ["momentum", "signs", "squares", "Adam", "others"]
        wanted = []
        for heading, family in zip(headings, families, strict=True):
            members = sorted(family, key=loss.get)
            wanted += [f"{heading}:", *members]
            assert re.search(rf"^best of {heading} +{members[0]} ", table, re.MULTILINE)
        found = [line.split()[0] for line in table.partition("twin\n")[2].partition("\n\n")[0].splitlines()]
        assert [word for word in found if word != "NumPy"] == wanted
        assert table.count("NumPy twin") == 1  # of Lion
        assert table.count("OTHER BITS") == 1
        best = min(loss, key=loss.get)
        assert re.search(rf"^best of all +{best} +{loss[best]:#.6g}\n6 of 7 ended with the same", table, re.MULTILINE)
        assert titles == [f"line, linear; grey: {best}, the best by {what} loss"]
        assert Path("out.png").read_bytes().startswith(PNG)


def test_a_bar_runs_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run("train", "--stop-after", 5, "--json", "out.json") == 0
    bar = capsys.readouterr().err
    assert "Adam" in bar
    assert f"loss {results('out.json')[0]['curve']['train_loss'][-1]:#.4g}" in bar


def test_info_shows_configuration_and_runtime(capsys):
    fastopt.show_config()
    fastopt.show_runtime()
    expected = capsys.readouterr().out
    assert run("info") == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("args", [["info"], ["--version"]], ids=" ".join)
def test_what_runs_here_is_shown_without_the_extra(args, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.startswith("fastopt.cli.") or name.partition(".")[0] in fastopt.cli.EXTRA:
            monkeypatch.delitem(sys.modules, name)
    for name in fastopt.cli.EXTRA:
        monkeypatch.setitem(sys.modules, name, None)
    assert run(*args) == 0
    assert "fastopt" in capsys.readouterr().out


def drawn(*args):
    """The figure of a run, and its panels by title."""
    figures = []
    original = plots.figure_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "figure_of", lambda *args: figures.append(original(*args)) or figures[-1])
        assert run("train", *args, "--no-compare", "--plot", "out.pdf") == 0
    return figures[0], {axes.get_title(): axes for axes in figures[0].axes}


def test_a_picture_has_held_out_rows_seconds_and_accuracy():
    figure, panels = drawn("iris", "--optimizer", "adam,lion,qhadam", "--epochs", 5)
    assert list(panels) == ["training rows", "held-out rows", "against time", "accuracy, held-out rows"]
    assert panels["against time"].get_xlabel() == "seconds (forward, backward, step)"
    accuracy = panels["accuracy, held-out rows"]
    assert (accuracy.get_ylabel(), accuracy.get_yscale()) == ("%", "linear")
    assert max(accuracy.lines[0].get_ydata()) > 50
    # QHAdam's defaults are Adam: its curve lies on Adam's, which is broad below it, and the legend says so.
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == ["Adam, lr 0.03", "Lion, lr 0.01", "QHAdam, lr 0.03 (on Adam, lr 0.03)"]
    adam, lion, qhadam = panels["training rows"].lines
    assert adam.get_linewidth() > lion.get_linewidth() == qhadam.get_linewidth()
    # Journals refuse fonts of type 3.
    assert b"/FontFile2" in Path("out.pdf").read_bytes()
    assert b"/Type3" not in Path("out.pdf").read_bytes()


def test_pictures_of_many_and_of_the_line_have_these_panels_too():
    many = "sgd,adam,qhadam,rmsprop,lion,lamb,adagrad"
    _, panels = drawn("digits", "--optimizer", many, "--epochs", 1)
    for name in ("held-out rows", "against time", "accuracy, held-out rows"):
        assert len(panels[f"best of families\n{name}"].lines) == 5
    assert {"Adam (on QHAdam)", "QHAdam (on Adam)"} & {text.get_text() for text in panels["Adam"].texts}
    _, panels = drawn("line", "--optimizer", "sgd,adam", "--epochs", 1)
    assert list(panels) == ["training rows", "held-out rows", "against time", "SGD, lr 0.12", "Adam, lr 0.05"]


# ---- resuming ----

MORE = [
    ("SGD", "--momentum", "0.9", "--nesterov"),
    ("RMSprop", "--centered", "--momentum", "0.5"),
    ("Adam", "--amsgrad", "--weight-decay", "0.01"),
]


@pytest.mark.parametrize("options", [(name,) for name in OPTIMIZERS] + MORE, ids=" ".join)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(options, dtype):
    task = ["train", "table.npz", "--target", "y", "--model", "mlp", "--hidden", "5", "--epochs", "3", "--dtype", dtype]
    task += ["--batch-size", "16", "--schedule", "cosine", "--optimizer", *options]
    task += [] if options[0] in REFUSE_RATE_0 else ["--warmup", "4"]
    assert run(*task, "--save", "whole.safetensors") == 0
    assert run(*task, "--save", "part.safetensors", "--stop-after", 6) == 0  # an epoch has four updates
    assert Path("part.safetensors").read_bytes() != Path("whole.safetensors").read_bytes()
    assert run("train", "--resume", "part.safetensors", "--save", "joined.safetensors", "--json", "joined.json") == 0
    assert Path("joined.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()
    (result,) = results("joined.json")
    assert result["identical"]
    assert result["curve"]["updates"][0] == 6


def test_a_resumed_run_may_be_longer_and_slower():
    assert run("train", "--epochs", 1, "--save", "part") == 0
    assert run("train", "--resume", "part", "--epochs", 2, "--lr", "0.01", "--json", "out.json") == 0
    (result,) = results("out.json")
    assert (result["updates"], result["lr"]) == (160, 0.01)
    assert run("train", "--epochs", 2, "--save", "whole", "--json", "whole.json") == 0
    assert results("whole.json")[0]["fastopt"]["parameters"] != result["fastopt"]["parameters"]
    assert run("train", "line", "--resume", "part", "--epochs", 2, "--optimizer", "adam", "--save", "joined") == 0
    assert Path("joined").read_bytes() == Path("whole").read_bytes()


def test_a_long_run_is_saved_as_it_goes(monkeypatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
    saved = []
    save = training.Run._save
    monkeypatch.setattr(
        training.Run, "_save", lambda self, path, updates: (saved.append(updates), save(self, path, updates))
    )
    assert run("train", "--epochs", 3, "--stop-after", 200, "--save", "run") == 0
    assert saved == [80, 160, 200]
    assert json.loads(checkpoint.read_metadata("run")[training.METADATA])["updates"] == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_to_be_saved_is_saved_by_a_signal(number, monkeypatch, capsys):
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    gradients, calls = models.Network.gradients, []

    def interrupted(self, x, y):
        calls.append(self)
        if len(calls) == 7:
            signal.raise_signal(number)
        return gradients(self, x, y)

    assert run("train", "--epochs", 1, "--save", "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(models.Network, "gradients", interrupted)
        assert run("train", "--epochs", 1, "--save", "part", "--json", "part.json") == 128 + number
    captured = capsys.readouterr()
    assert captured.err == "fastopt: interrupted after update 4, saved in part: go on with --resume part\n"
    assert "wrote part" in captured.out
    assert results("part.json")[0]["updates"] == 4  # the seventh gradient is that of the fourth update's second model
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert run("train", "--resume", "part", "--save", "joined") == 0
    assert Path("joined").read_bytes() == Path("whole").read_bytes()


def test_a_second_signal_ends_at_once(monkeypatch, capsys):
    def interrupted(self, x, y):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(models.Network, "gradients", interrupted)
    assert run("train", "--save", "run") == 130
    assert capsys.readouterr() == ("", "fastopt: interrupted\n")
    assert not Path("run").exists()


def test_a_run_saved_by_fastopt_0_1_is_resumed():
    assert run("train", "table.csv", "--target", "y", "--stop-after", 3, "--save", "run") == 0
    metadata = checkpoint.read_metadata("run")
    saved = json.loads(metadata[training.METADATA])
    for key in set(READING) - {"target", "task"}:  # which it did not have
        del saved["settings"][key]
    optimizer = fastopt.Adam([{"weight": np.zeros((2, 1), np.float32), "bias": np.zeros(1, np.float32)}])
    optimizer.load("run")
    optimizer.save("run", metadata=metadata | {training.METADATA: json.dumps(saved)})
    assert run("train", "--resume", "run", "--stop-after", 3, "--json", "out.json") == 0
    assert results("out.json")[0]["updates"] == 6


# ---- how it refuses ----


REFUSED = {
    "missing file": (["absent.csv"], "absent.csv: no such file"),
    "unknown data": (
        ["lines"],
        "no data 'lines': line, diabetes, iris, wine, breast_cancer, digits, or a file .csv, .tsv, .csv.gz, ",
    ),
    "folder as data": (lambda: [Path("f.csv").mkdir() or "f.csv"], "f.csv: no such file"),
    "no target": (
        ["table.csv"],
        "table.csv: name the column to predict with --target; there are a, b, y",
    ),
    "missing column": (["table.csv", "--target", "z"], "table.csv: no column 'z'; there are a, b, y"),
    "missing array": (["table.npz", "--target", "z"], "table.npz: no column 'z'; there are x, more, y"),
    "target of line": (["line", "--target", "y"], "--target is for files; line has its own"),
    "task of digits": (["digits", "--task", "regression"], "--task is for files; digits has its own"),
    "text feature": (
        lambda: [table("a,b,y\n1,2,3\n4,five,6\n"), "--target", "y"],
        "bad.csv: the column 'b' is text that hardly repeats, such as 'five' in row 2; features are numbers, or ",
    ),
    "text array": (
        lambda: [np.savez("bad.npz", y=np.ones(2), x=np.array([["a"], ["b"]])) or "bad.npz", "--target", "y"],
        "bad.npz: 'x' holds <U1: features are numbers, or a column of text",
    ),
    "NaN feature": (
        lambda: [table("a,y\n1,2\nnan,3\n,4\n"), "--target", "y"],
        "bad.csv: 2 rows with a missing, NaN or infinite value, first in column 'a', row 2",
    ),
    "infinite target": (
        lambda: [table("a,y\n1,2.5\n2,inf\n"), "--target", "y"],
        "bad.csv: 1 row with a missing, NaN or infinite value, first in the target 'y', row 2",
    ),
    "missing label": (
        lambda: [table("a,y\n1,yes\n2,\n3,no\n"), "--target", "y"],
        "bad.csv: 1 row with a missing, NaN or infinite value, first in the target 'y', row 2",
    ),
    "empty file": (lambda: [table(""), "--target", "y"], "bad.csv: the file is empty"),
    "no rows": (lambda: [table("a,y\n"), "--target", "y"], "bad.csv: no rows"),
    "no features": (lambda: [table("y\n1\n2\n"), "--target", "y"], "bad.csv: no column besides the target"),
    "ragged rows": (lambda: [table("a,y\n1,2,3\n4,5,6\n"), "--target", "y"], "bad.csv: not a CSV table: "),
    "one ragged row": (lambda: [table("a,y\n1,2\n4,5,6\n"), "--target", "y"], "bad.csv: not a CSV table: "),
    "no text file": (
        lambda: [Path("bad.csv").write_bytes(b"a,\xff\n1,2\n") and "bad.csv", "--target", "y"],
        "bad.csv: not a CSV table: ",
    ),
    "one class": (
        lambda: [table("a,y\n1,no\n2,no\n"), "--target", "y"],
        "bad.csv: the target 'y' holds one class only, 'no'",
    ),
    "text to fit": (
        lambda: [table("a,y\n1,no\n2,yes\n"), "--target", "y", "--task", "regression"],
        "bad.csv: the target 'y' holds text 'no': regression needs numbers",
    ),
    "huge numbers": (
        lambda: [table("a,y\n1e300,1.5\n-1e300,2\n1,2\n"), "--target", "y"],
        "bad.csv: numbers too large to square",
    ),
    "no archive": (lambda: [table("x", "bad.npz"), "--target", "y"], "bad.npz: not an NPZ file of plain arrays: "),
    "pickled array": (
        lambda: [np.savez("bad.npz", y=np.array([{}])) or "bad.npz", "--target", "y"],
        "bad.npz: not an NPZ file of plain arrays: ",
    ),
    "matrix as target": (
        lambda: [np.savez("bad.npz", y=np.ones((3, 2))) or "bad.npz", "--target", "y"],
        "bad.npz: the target 'y' has shape (3, 2); one number a row is needed",
    ),
    "unequal rows": (
        lambda: [np.savez("bad.npz", y=np.arange(3.0), x=np.ones(4)) or "bad.npz", "--target", "y"],
        "bad.npz: 'x' has shape (4,) and 'y' 3 rows",
    ),
    "linear model of classes": (
        ["digits", "--model", "linear"],
        "--model linear: the target of digits is classes; use logistic or mlp",
    ),
    "logistic model of numbers": (
        ["line", "--model", "logistic"],
        "--model logistic: the target of line is numbers to fit; use linear or mlp",
    ),
    "unknown model": (["--model", "tree"], "Invalid value for '--model': 'tree' is not one of "),
    "unknown optimizer": (["--optimizer", "Adamm"], f"--optimizer Adamm: there are {', '.join(OPTIMIZERS)}, and all"),
    "option of others": (["--optimizer", "SGD", "--amsgrad"], "--amsgrad: SGD has no such option; Adam, AdamW have it"),
    "beta out of range": (
        ["--betas", "0.9", "1.5"],
        "Adam: betas[1] is 1.5: wanted a number of at least 0 and below 1",
    ),
    "betas too few": (["--betas", "0.9"], "Invalid value for '--betas': '0.9' is not 2 or 3 numbers."),
    "betas of text": (["--betas", "high"], "Invalid value for '--betas': 'high' is not 2 or 3 numbers."),
    "betas of another": (
        ["--optimizer", "AdEMAMix", "--betas", "0.9", "0.99"],
        "--betas 0.9 0.99: AdEMAMix takes 3, such as 0.9 0.999 0.9999",
    ),
    "no separator": (["t.csv", "--sep", ";;"], "Invalid value for '--sep': ';;' is not one sign, tab or space"),
    "separator of digits": (["digits", "--sep", ";"], "--sep is for files; digits has its own"),
    "negative rate": (["--lr", "-1"], "Adam: lr is -1.0: wanted a finite number of at least 0"),
    "text as rate": (["--lr", "fast"], "Invalid value for '--lr': 'fast' is no number, nor several such as 0.1,0.01, "),
    "negative norm": (["--clip-norm", "-1"], "Adam: clip_norm is -1.0: wanted a finite number above 0"),
    "widths of nothing": (
        ["--model", "mlp", "--hidden", "8,0"],
        "Invalid value for '--hidden': '8,0' is not a list of widths such as 64,32",
    ),
    "widths without layers": (["--hidden", "8"], "--hidden: the linear model has no hidden layers; use --model mlp"),
    "nesterov without momentum": (["--optimizer", "SGD", "--nesterov"], "SGD: nesterov"),
    "large batches": (["--batch-size", "900"], "--batch-size 900: there are only 800 rows to train on"),
    "no batch": (["--batch-size", "0"], "Invalid value for '--batch-size': 0 is not in the range x>=1."),
    "all held out": (["--test-fraction", "1"], "--test-fraction 1 leaves none of the 1000 rows to train on"),
    "unknown schedule": (["--schedule", "sine"], f"--schedule sine: there are {', '.join(decays())}"),
    "schedule without need": (
        ["--schedule", "step"],
        "--schedule step: give every, as in --schedule step:every=NUMBER",
    ),
    "schedule with other key": (
        ["--schedule", "cosine:speed=1"],
        "--schedule cosine:speed=1: cosine has no 'speed', but total, final",
    ),
    "schedule without number": (
        ["--schedule", "step:every=often"],
        "--schedule step:every=often: 'every=often' is not every=NUMBER",
    ),
    "schedule out of range": (
        ["--schedule", "step:every=0"],
        "--schedule step:every=0: every is 0: wanted a whole number",
    ),
    "endless warm-up": (["--warmup", "240"], "--warmup 240: the run has only 240 updates"),
    "several saved": (
        ["--optimizer", "all", "--save", "x"],
        "--save: a saved run is of one optimizer with one rate; name them with --optimizer and --lr",
    ),
    "unknown picture": (["--plot", "x.gif"], "--plot x.gif: pictures are .png, .pdf, .svg"),
    "folder as output": (lambda: ["--json", Path("d").mkdir() or "d"], "--json d: cannot be written: Is a directory"),
    "file as folder": (["--save", "table.csv/x"], "--save table.csv/x: cannot be written: File exists"),
    "missing checkpoint": (["--resume", "absent"], "--resume absent: No such file or directory"),
    "table as checkpoint": (["--resume", "table.csv"], "--resume table.csv: "),
    "experiment resumed": (
        ["--resume", "x", "--experiment", "adam-line"],
        "--experiment and --resume: a saved run brings its own settings",
    ),
    "unknown option": (["--speed", "9"], "No such option"),
}


@pytest.mark.parametrize(("args", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_in_one_line(args, message, capsys):
    args = args() if callable(args) else args
    assert run("train", *args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"fastopt: {message}")
    assert captured.err.count("\n") == 1


def saved(*args):
    assert run("train", *args, "--save", "run") == 0


RESUME_REFUSED = {
    "other batches": (["--batch-size", "5"], "--batch-size 5: the saved run has 10"),
    "other optimizer": (["--optimizer", "sgd"], "--optimizer SGD: the saved run has Adam"),
    "other option": (["--eps", "1e-6"], "--eps 1e-06: the saved run has 1e-08"),
    "other data": (["digits"], "--resume run: it was trained on other rows than digits has"),
    "nothing left": ([], "--resume run: its 80 updates are done; give more --epochs than 1"),
}


@pytest.mark.parametrize(("args", "message"), RESUME_REFUSED.values(), ids=RESUME_REFUSED)
def test_a_run_cannot_be_resumed_as_another(args, message, capsys):
    saved("--epochs", 1)
    capsys.readouterr()
    assert run("train", "--resume", "run", *args) == 2
    assert capsys.readouterr() == ("", f"fastopt: {message}\n")


def test_a_damaged_checkpoint_is_refused(capsys):
    saved("--epochs", 1)
    whole = Path("run").read_bytes()
    capsys.readouterr()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        Path("run").write_bytes(damaged)
        assert run("train", "--resume", "run", "--epochs", 2) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("fastopt: --resume run: ")
        assert captured.err.count("\n") == 1


def test_a_checkpoint_of_another_program_is_refused(capsys):
    params = np.ones(3, np.float32)
    fastopt.Adam(params).save("run", metadata={"by": "hand"})
    assert run("train", "--resume", "run") == 2
    assert capsys.readouterr().err == "fastopt: --resume run: not saved by fastopt train\n"


def test_a_checkpoint_with_other_arrays_is_refused(capsys):
    saved("--epochs", 1)
    metadata = checkpoint.read_metadata("run")
    fastopt.Adam(np.ones(3, np.float32)).save("run", metadata=metadata)
    capsys.readouterr()
    assert run("train", "--resume", "run", "--epochs", 2) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("fastopt: --resume run: run cannot be loaded: the snapshot")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--optimizer", "SGD", "--lr", "10"], "fastopt: SGD diverged at update 1 with lr 10: loss "),
        (["digits", "--optimizer", "SGD", "--lr", "1e30"], "fastopt: SGD diverged at update 2 with lr 1e+30: loss nan"),
    ],
    ids=["grows", "overflows"],
)
def test_divergence_is_said_with_status_one(args, message, capsys):
    assert run("train", *args, "--json", "out.json") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.endswith("give a smaller --lr\n")
    assert captured.err.count("\n") == 1
    assert not Path("out.json").exists()


def test_an_unreadable_table_is_said_in_one_line(monkeypatch, capsys):
    def denied(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pandas.read_csv", denied)
    assert run("train", "table.csv", "--target", "y") == 2
    assert capsys.readouterr().err == "fastopt: table.csv: Permission denied\n"


def test_ctrl_c_ends_with_status_130(monkeypatch, capsys):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Run, "train", interrupt)
    assert run("train") == 130
    assert capsys.readouterr() == ("", "fastopt: interrupted\n")


# ---- as a program ----


def program(*args, **kwargs):
    environment = {**os.environ, **kwargs.pop("env", {})}
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=120, env=environment, check=False, **kwargs
    )


def test_python_m_fastopt_trains():
    done = program("-m", "fastopt", "train", "--optimizer", "Adam", "--plot", "line.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "same bits" in done.stdout
    assert Path("line.png").read_bytes().startswith(PNG)


def test_python_m_fastopt_refuses():
    done = program("-m", "fastopt", "train", "absent.csv", "--target", "y")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fastopt: absent.csv: no such file\n"


COMMAND = "import sys; from fastopt_command import main; sys.exit(main())"  # what the script `fastopt` does


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FASTOPT_ISA", "avx1024", "FASTOPT_ISA: instruction set 'avx1024' is not available; there are "),
        ("FASTOPT_PREFETCH", "yes", "FASTOPT_PREFETCH is 'yes': wanted 0 or 1"),
    ],
)
def test_what_the_package_will_not_run_with_is_one_line(name, value, message, monkeypatch):
    monkeypatch.setenv(name, value)
    done = program("-c", COMMAND)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastopt: {message}")
    assert done.stderr.count("\n") == 1
    done = program("-m", "fastopt")
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


INTERRUPTED = """
import signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "numpy":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


def test_ctrl_c_while_the_package_is_imported_is_one_line():
    done = program("-c", INTERRUPTED + COMMAND)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "fastopt: interrupted\n")


@pytest.mark.parametrize("missing", ["click", "rich", "matplotlib", "pandas", "sklearn"])
def test_without_the_extra_the_command_says_what_to_install(missing, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.startswith("fastopt.cli.") or name.partition(".")[0] == missing:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    data = ["table.csv", "--target", "y"] if missing == "pandas" else ["diabetes"] if missing == "sklearn" else []
    assert run("train", *data, "--stop-after", 1, "--plot", "x.png") == 2
    assert capsys.readouterr().err == f"fastopt: the command needs {missing}: pip install 'fastopt[cli]'\n"


def test_a_missing_module_of_others_is_a_traceback(monkeypatch):
    def lost(*_args):
        raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.setattr("fastopt.cli._run", lost)
    with pytest.raises(ModuleNotFoundError):
        run("info")


def test_the_library_does_not_import_the_command():
    code = "import sys, fastopt; sys.exit(any(n in sys.modules for n in ('fastopt.cli', 'click', 'rich', 'pandas')))"
    assert program("-c", code).returncode == 0


def test_the_library_imports_nothing_that_few_need():
    code = (
        "import numpy, sys; before = {*sys.modules}; import fastopt; fastopt.Adam; "
        "sys.exit(any(n in {*sys.modules} - before for n in ('tempfile', 'random', 'fastopt.schedules')))"
    )
    assert program("-c", code).returncode == 0


def test_version_and_help_leave_early(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"fastopt {fastopt.__version__}\n"
    assert run("train", "--help") == 0
    out = capsys.readouterr().out
    assert "--lr-in-momentum" in out
    assert run() == 0
    assert capsys.readouterr().out.startswith("Usage: fastopt")
