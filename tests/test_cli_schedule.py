"""The command's schedules: what `fastopt schedule` prints and draws, how fields are read, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("click", reason="the command is an extra: pip install 'fastopt[cli]'")

from fastopt.cli import main
from fastopt.cli.errors import InputError
from fastopt.cli.settings import Settings, course, decays, learning_rate
from fastopt.schedules import (
    CosineDecay,
    Cyclic,
    ExponentialDecay,
    LinearDecay,
    MultiStepDecay,
    Noam,
    OneCycle,
    Piecewise,
    Product,
    StepDecay,
    Warmup,
    WarmupStableDecay,
)
from fastopt.schedules.saved import KINDS

NEEDS = {
    "step": "every=10",
    "multi-step": "milestones=300,600",
    "piecewise": "rates=1,0.5,0.1,milestones=300,600",
    "exponential": "factor=0.99",
    "inverse-time": "rate=0.1",
    "inverse-sqrt-warmup": "steps=100",
    "noam": "width=64,warmup=100",
    "cosine-restarts": "period=100,mult=2",
    "cyclic": "low=0.1,high=1,up=100",
    "warmup-stable": "warmup=100,stable=500,decay=400",
}
CURVES = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF", ".svg": b"<?xml"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*args):
    return main(["schedule", *map(str, args)])


def table(text):
    """The rates by step, and the bars."""
    rows = [line.split() for line in text.partition("rate\n")[2].splitlines()]
    return {int(step): float(rate) for step, rate, *_ in rows}, [row[2] if row[2:] else "" for row in rows]


@pytest.mark.parametrize("name", decays())
def test_the_table_has_the_rates_of_the_schedule_and_fits_into_80_columns(name, capsys):
    text = f"{name}:{NEEDS.get(name, '')}"
    assert run(text, "--warmup", 20) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert all(len(line) <= 80 and line == line.rstrip() for line in out.splitlines())
    assert out.startswith("Warmup(steps=20, after=")
    rates, bars = table(out)
    schedule = Warmup(20, course(text, 980, None))
    assert list(rates) == sorted(rates)
    assert {0, 20} < rates.keys()
    assert max(rates) in (1000, 1020)
    for step, rate in rates.items():
        assert rate == pytest.approx(schedule(step), rel=1e-5, abs=0)
    for rate, bar in zip(rates.values(), bars, strict=True):
        assert bar == "#" * len(bar)
        assert len(bar) == pytest.approx(rate / max(rates.values()) * max(map(len, bars)), abs=0.51)


def test_the_length_is_the_schedules_or_what_was_asked_for(capsys):
    for args, last, final in [
        (["linear"], 1000, 0.0),
        (["linear:total=70"], 70, 0.0),
        (["linear:total=70", "--warmup", 30], 100, 0.0),
        (["linear", "--warmup", 30, "--steps", 100], 100, 0.0),
        (["linear:total=70", "--steps", 35], 35, 0.5),
        (["linear", "--warmup", 2000], 2500, 0.0),
        (["warmup-stable:warmup=5,stable=6,decay=7"], 18, 0.0),
        (["constant:lr=0.25", "--steps", 1], 1, 0.25),
        (["linear", "--steps", 2**31 - 1], 2**31 - 1, 0.0),
        (["constant:lr=0"], 1000, 0.0),
    ]:
        assert run(*args) == 0
        rates, _ = table(capsys.readouterr().out)
        assert (max(rates), rates[last]) == (last, final)


def test_rates_past_all_numbers_have_no_bar(capsys):
    assert run("step:every=1,factor=1e200", "--steps", 2, "--plot", "x.svg") == 0
    out = capsys.readouterr().out
    assert [line.split()[1:] for line in out.splitlines()[3:6]] == [["1"], ["1e+200", "#" * 66], ["inf"]]


@pytest.mark.parametrize("kind", CURVES)
def test_the_curve_is_drawn(kind, capsys):
    assert run("one-cycle", "--steps", 50_000, "--plot", f"new/curve{kind}") == 0
    assert capsys.readouterr().out.endswith(f"\nwrote new/curve{kind}\n")
    with open(f"new/curve{kind}", "rb") as file:
        assert file.read().startswith(CURVES[kind])


READ = {
    "cosine": CosineDecay(1.0, 90),
    "Cosine:lr=2,final=0.5,periodic=true": CosineDecay(2.0, 90, 0.5, periodic=True),
    "CosineDecay:total=7,periodic=False": CosineDecay(1.0, 7),
    "one-cycle:anneal=linear,total=7": OneCycle(1.0, 7, anneal="linear"),
    "onecycle": OneCycle(1.0, 90),
    "multi-step:milestones=3": MultiStepDecay(1.0, [3]),
    "multistepdecay:factor=0.5,milestones=3,6,9,lr=2": MultiStepDecay(2.0, [3, 6, 9], 0.5),
    "piecewise:rates=1,1e-2,milestones=5": Piecewise([1.0, 0.01], [5]),
    "exponential:factor=0.5,final=1e-3,staircase=true": ExponentialDecay(1.0, 0.5, staircase=True, final=0.001),
    "noam:width=512,warmup=4": Noam(1.0, 512, 4),
    "cyclic:low=0,high=1,up=3,down=4,mode=exp_range,gamma=0.9": Cyclic(0, 1, 3, 4, "exp_range", 0.9),
    "WarmupStableDecay:warmup=0,stable=5,decay=4,shape=1-sqrt": WarmupStableDecay(1.0, 0, 5, 4),
}


@pytest.mark.parametrize(("text", "schedule"), READ.items(), ids=READ)
def test_names_and_fields_are_read(text, schedule):
    assert course(text, 90, None) == schedule


def test_in_a_training_schedules_start_from_lr_or_are_multiplied_by_it():
    assert learning_rate(Settings(schedule="step:every=3"), 0.1, 100) == StepDecay(0.1, 3)
    assert learning_rate(Settings(schedule="linear", warmup=20), 0.1, 100) == Warmup(20, LinearDecay(0.1, 80))
    assert learning_rate(Settings(warmup=20), 0.1, 100) == Warmup(20, 0.1)
    assert learning_rate(Settings(schedule="cyclic:low=0.5,high=1"), 0.1, 9) == Product(0.1, Cyclic(0.5, 1.0))
    with pytest.raises(InputError, match=r"^--schedule linear:lr=1: linear has no 'lr', but total, final$"):
        learning_rate(Settings(schedule="linear:lr=1"), 0.1, 100)
    with pytest.raises(InputError, match=r"^--schedule step: give every, as in --schedule step:every=NUMBER$"):
        learning_rate(Settings(schedule="step"), 0.1, 100)


def test_every_schedule_has_a_name_or_says_what_to_do(capsys):
    for name in KINDS.keys() - {kind.__name__ for kind in decays().values()}:
        assert run(name) == 2
        assert capsys.readouterr().err.startswith(f"fastopt: {name}: ")
    assert len(decays()) == len(KINDS) - 5
    assert run("--help") == 0
    words = "".join(capsys.readouterr().out.split())
    assert all(name in words for name in decays())


REFUSED = {
    "no name": ([], "Missing argument 'NAME[:KEY=NUMBER,...]'."),
    "unknown name": (["sine"], f"sine: there are {', '.join(decays())}"),
    "no letters": ([""], ": there are constant, "),
    "a warm-up": (["warmup:steps=3"], "warmup:steps=3: give --warmup beside a schedule"),
    "made of schedules": (["join"], "join: it is made of schedules, which needs a program"),
    "told a metric": (["ReduceOnPlateau"], "ReduceOnPlateau: it is told a metric, which needs a program"),
    "for a momentum": (["one-cycle-momentum"], "one-cycle-momentum: it is for a momentum, which needs a program"),
    "lacking": (["step"], "step: give every, as in step:every=NUMBER"),
    "lacking a list": (["piecewise"], "piecewise: give rates, as in piecewise:rates=NUMBER,..."),
    "other key": (
        ["cosine:speed=1"],
        "cosine:speed=1: cosine has no 'speed', but lr, total, final, exponent, periodic",
    ),
    "no key": (["cosine:7"], "cosine:7: cosine has no '7', but lr, total, final, exponent, periodic"),
    "a second number": (["cosine:total=7,8"], "cosine:total=7,8: cosine has no '8', but lr, "),
    "no number": (["step:every=often"], "step:every=often: 'every=often' is not every=NUMBER"),
    "no number in a list": (
        ["multi-step:milestones=3,x"],
        "multi-step:milestones=3,x: 'x' is not milestones=NUMBER,...",
    ),
    "no truth": (["cosine:periodic=1"], "cosine:periodic=1: 'periodic=1' is not periodic=true or false"),
    "unknown word": (["one-cycle:anneal=sin"], "one-cycle:anneal=sin: anneal is 'sin': wanted one of 'cos', 'linear'"),
    "out of range": (["step:every=0"], "step:every=0: every is 0: wanted a whole number of steps of at least 1"),
    "out of order": (["multi-step:milestones=3,2"], "multi-step:milestones=3,2: milestones is [3, 2]: wanted step "),
    "endless warm-up": (["cosine", "--warmup", "9", "--steps", "9"], "--warmup 9: there are only 9 --steps"),
    "no steps": (["cosine", "--steps", "0"], "Invalid value for '--steps': 0 is not in the range 1<=x<=2147483647."),
    "negative warm-up": (["cosine", "--warmup", "-1"], "Invalid value for '--warmup': -1 is not in the range"),
    "unknown picture": (["cosine", "--plot", "x.gif"], "--plot x.gif: pictures are .png, .pdf, .svg"),
    "standard output": (["cosine", "--plot", "-"], "--plot -: pictures are .png, .pdf, .svg"),
    "digits": ([f"step:every={'7' * 5000}"], "step:every=777"),
}


@pytest.mark.parametrize(("args", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_in_one_line(args, message, capsys):
    assert run(*args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"fastopt: {message}")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 1000


def test_a_curve_that_cannot_be_written_is_said_and_the_table_is_shown(capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert run("cosine", "--plot", "x.png") == 2
    captured = capsys.readouterr()
    assert table(captured.out)[0][0] == 1.0
    assert captured.err == "fastopt: --plot x.png: No space left on device\n"


def test_only_what_is_shown_is_computed(monkeypatch):
    asked = []
    rate = LinearDecay._rate
    monkeypatch.setattr(LinearDecay, "_rate", lambda self, t: asked.append(np.size(t)) or rate(self, t))
    assert run("linear", "--steps", 2**31 - 1, "--plot", "x.png") == 0
    assert sum(asked) < 30_000
