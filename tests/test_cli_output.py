"""Where the command's results go: terminals of any width, pipes, full disks, files that must not be written."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("click", reason="the command is an extra: pip install 'fastopt[cli]'")

import fastopt
from fastopt import checkpoint
from fastopt.cli import main, training
from fastopt.cli.settings import Settings, flat
from fastopt.optimizers import OPTIMIZERS


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Each test runs in a folder with a small table."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("x,y\n" + "".join(f"{i % 7},{i % 5 + 0.5}\n" for i in range(40)))


TRAIN = ("train", "--stop-after", "3")


class Stream(io.TextIOWrapper):
    """A standard stream that can be read afterwards, on request a terminal."""

    def __init__(self, *, terminal=False, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    @property
    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def stdout(monkeypatch):
    """Put another stream in the place of standard output."""

    def put(stream):
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return put


@pytest.fixture
def untrained(monkeypatch):
    """Fail if a training starts."""

    def start(*_args):
        raise AssertionError("the training has started")

    monkeypatch.setattr(training.Run, "train", start)


# ---- the table ----

ALL = ["lr", "loss", "m", "b", "seconds", "µs/step", "against", "NumPy", "twin"]
WIDTHS = [
    ("line", 120, []),
    ("line", 80, ["seconds", "µs/step"]),
    ("line", 60, ["seconds", "µs/step", "against twin", "lr"]),
    ("digits", 120, []),
    ("digits", 80, ["seconds", "µs/step"]),
    ("digits", 60, ["seconds", "µs/step", "against twin"]),
    ("digits", 42, ["seconds", "µs/step", "against twin", "lr", "held-out loss"]),
]


@pytest.mark.parametrize("kind", ["xterm-256color", "dumb"])
@pytest.mark.parametrize(("data", "width", "left_out"), WIDTHS)
def test_a_table_fits_the_terminal(kind, data, width, left_out, stdout, monkeypatch):
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    # Step times vary in length: their columns must not depend on the machine.
    monkeypatch.setattr(training.np, "median", lambda _: 12_340.0)
    out = stdout(Stream(terminal=True))
    assert main([*TRAIN, data, "--optimizer", "rmsprop", "--optimizer", "adam"]) == 0
    lines = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in out.text.splitlines()]
    assert max(map(len, lines)) <= width
    assert not any(line.endswith(" ") for line in lines)
    assert out.text.count("1.0x, same bits") == (0 if "against twin" in left_out else 2)
    head = next(line for line in lines if line.startswith("optimizer"))
    for name in ("lr", "seconds", "µs/step", *(["m", "b"] if data == "line" else ["accuracy"])):
        assert (name in head.split()) == (name not in left_out)
    note = " ".join(lines).partition("Not shown: ")[2].partition(". ")[0]
    assert note == ", ".join(left_out)


@pytest.mark.parametrize("columns", ["20", "60"])
def test_a_pipe_gets_the_whole_table(columns, stdout, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    out = stdout(Stream())
    assert main([*TRAIN, "line"]) == 0
    assert [name for name in ALL if name not in out.text] == []
    assert "Not shown" not in out.text
    assert len(out.text.splitlines()[-1]) > 60  # text is not wrapped either


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("terminal", [False, True])
def test_signs_that_a_terminal_lacks_are_not_needed(encoding, terminal, stdout):
    name = "tablé-表.csv"
    Path("t.csv").rename(name)
    out = stdout(Stream(terminal=terminal, encoding=encoding))
    assert main([*TRAIN, name, "--target", "y", "--json", "表.json"]) == 0
    assert ("us/step" if encoding == "ascii" else "µs/step") in out.text
    assert "\\u8868.csv: target y" in out.text.replace("\n", " ") or "\\u8868.csv, linear" in out.text
    assert "wrote \\u8868.json" in out.text
    assert Path("表.json").exists()
    assert main(["train", "--help"]) == 0


@pytest.mark.parametrize("name", ["d[", "[bold]d[/x]", "a$x_$", "a$\\frac$", "表", ":smile:"])
def test_names_are_no_markup(name, capsys):
    table = f"{name.replace('/', '-')}.csv" if "/" in name else f"{name}.csv"
    Path(table).write_text(f"x,{name}\n" + "".join(f"{i % 7},{name if i % 2 else 'b'}\n" for i in range(40)))
    assert main([*TRAIN, table, "--target", name, "--plot", f"{table}.png", "--json", "o.json"]) == 0
    captured = capsys.readouterr()
    assert f"target {name}, classification, 2 classes" in captured.out
    assert f"wrote {table}.png" in captured.out
    assert captured.err == ""
    assert json.loads(Path("o.json").read_text())["data"]["name"] == table


def test_a_data_file_in_a_folder_with_markup(capsys):
    Path("d[").mkdir()
    Path("t.csv").rename("d[/x].csv")
    assert main([*TRAIN, "d[/x].csv", "--target", "y", "--json", "d[/x].json", "--plot", "d[/x].svg"]) == 0
    assert "wrote d[/x].json" in capsys.readouterr().out


# ---- what cannot be shown or written ----

FILES = ("--json", "o.json", "--plot", "o.svg", "--save", "run")


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def full_disk():
    return open("/dev/full", "w")


@pytest.mark.parametrize("args", [(*TRAIN, *FILES), ("train", "--help"), ("info",), ("--version",)], ids=" ".join)
def test_a_closed_pipe_is_no_failure_of_the_training(args, stdout, capsys):
    with stdout(closed_pipe()):
        assert main(args) == 141
    assert capsys.readouterr().err == ""
    assert all(Path(name).exists() for name in ("o.json", "o.svg", "run")) == (args[-1] == "run")


@pytest.mark.parametrize("args", [(*TRAIN, *FILES), ("train", "--help"), ("info",), ("--version",)], ids=" ".join)
def test_a_full_disk_under_the_table_is_said(args, stdout, capsys):
    with stdout(full_disk()):
        assert main(args) == 2
    assert capsys.readouterr().err == "fastopt: standard output: No space left on device\n"
    assert all(Path(name).exists() for name in ("o.json", "o.svg", "run")) == (args[-1] == "run")


@pytest.mark.parametrize("args", [(*TRAIN, *FILES), ("train", "--help"), ("info",)], ids=" ".join)
def test_a_closed_standard_output_is_said(args, stdout, capsys):
    stdout(None)
    assert main(args) == 2
    assert capsys.readouterr().err == "fastopt: standard output: Bad file descriptor\n"
    assert Path("o.json").exists() == ("o.json" in args)


def test_an_error_that_cannot_be_said_is_a_status(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["train", "--lr", "fast"]) == 2
    with full_disk() as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert main(["train", "--lr", "fast"]) == 2


@pytest.mark.parametrize("broken", ["--json", "--plot", "--save"])
def test_what_cannot_be_written_keeps_nothing_else_back(broken, monkeypatch, capsys):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    where = {"--json": (Path, "write_text"), "--plot": (Path, "write_bytes"), "--save": (fastopt.Adam, "save")}
    monkeypatch.setattr(*where[broken], full)
    assert main([*TRAIN, *FILES]) == 2
    captured = capsys.readouterr()
    names = dict(zip(FILES[::2], FILES[1::2], strict=True))
    assert captured.err == f"fastopt: {broken} {names[broken]}: No space left on device\n"
    assert "same bits" in captured.out
    for flag, name in names.items():
        assert Path(name).exists() == (flag != broken)
        assert (f"wrote {name}" in captured.out) == (flag != broken)


def test_those_that_converge_are_shown_beside_one_that_diverged(capsys):
    args = ["train", "--optimizer", "sgd", "--optimizer", "adam", "--lr", "3", "--json", "o.json", "--plot", "o.svg"]
    assert main(args) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("fastopt: SGD diverged at update 1 with lr 3: loss ")
    assert captured.err.count("\n") == 1
    assert "Adam" in captured.out
    assert Path("o.svg").exists()
    document = json.loads(Path("o.json").read_text())
    assert [result["optimizer"] for result in document["results"]] == ["Adam"]
    assert document["diverged"] == [captured.err.removeprefix("fastopt: ").strip()]


def test_a_divergence_is_said_to_who_closed_the_pipe(stdout, capsys):
    with stdout(closed_pipe()):
        assert main(["train", "--optimizer", "sgd", "--optimizer", "adam", "--lr", "3"]) == 1
    assert capsys.readouterr().err.startswith("fastopt: SGD diverged")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_beyond_all_numbers_is_null_in_json(dtype, capsys):
    held_out = np.random.default_rng([0, 0]).permutation(20)[0]
    x = np.arange(20.0)
    x[held_out] = 1e300
    np.savez("far.npz", x=x, y=np.arange(20) + 0.5)
    args = ["train", "far.npz", "--target", "y", "--test-fraction", "0.05", "--dtype", dtype]
    assert main([*args, "--json", "o.json", "--plot", "o.png", "--save", "run"]) == 0
    (result,) = json.loads(Path("o.json").read_text(), parse_constant=pytest.fail)["results"]
    assert result["fastopt"]["test_loss"] is None
    assert None in result["curve"]["test_loss"]
    assert result["fastopt"]["train_loss"] is not None
    assert capsys.readouterr().err == ""


def test_a_loss_of_nothing_is_drawn(capsys):
    np.savez("flat.npz", x=np.arange(20.0), y=np.full(20, 0.25))
    assert main(["train", "flat.npz", "--target", "y", "--plot", "o.png"]) == 0
    assert capsys.readouterr().err == ""


def test_json_for_the_next_program_comes_alone(capsys):
    assert main([*TRAIN, "--json", "-", "--plot", "o.svg"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["results"][0]["updates"] == 3
    assert "same bits" in captured.err
    assert "wrote o.svg" in captured.err
    assert not Path("-").exists()


def test_a_broken_bar_does_not_end_the_training(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with closed_pipe() as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert main([*TRAIN, "--json", "o.json"]) == 0
    assert Path("o.json").exists()


# ---- what is checked before the training ----


def link(name, to):
    Path(name).symlink_to(to)
    return name


def fifo(name):
    os.mkfifo(name)
    return name


def bound(name):
    with socket.socket(socket.AF_UNIX) as it:
        it.bind(name)
    return name


def hard(name, to):
    Path(to).touch()
    os.link(to, name)
    return name


OUTPUTS = {
    "link to nowhere": (
        lambda: ["--json", link("l", "absent/o.json")],
        "--json l: a link into {here}/absent, which is no folder",
    ),
    "link to itself": (lambda: ["--save", link("l", "l")], "--save l: cannot be written: Too many levels of symbolic"),
    "link to a folder": (lambda: ["--json", link("l", ".")], "--json l: cannot be written: Is a directory"),
    "folder": (lambda: ["--save", "/"], "--save /: cannot be written: Is a directory"),
    "pipe": (lambda: ["--save", fifo("p")], "--save p: cannot be written: no regular file"),
    "socket": (lambda: ["--save", bound("s")], "--save s: cannot be written: no regular file"),
    "socket for numbers": (lambda: ["--json", bound("s")], "--json s: cannot be written: no regular file"),
    "device": (lambda: ["--save", "/dev/null"], "--save /dev/null: cannot be written: no regular file"),
    "link to a device": (lambda: ["--save", link("l", "/dev/null")], "--save l: cannot be written: no regular file"),
    "long name": (lambda: ["--json", "o" * 300], f"--json {'o' * 300}: cannot be written: File name too long"),
    "file twice": (lambda: ["--json", "o.svg", "--plot", "o.svg"], "--json o.svg: the same file as --plot o.svg"),
    "file twice by a link": (lambda: ["--json", "o", "--save", link("l", "o")], "--save l: the same file as --json o"),
    "file twice by dots": (lambda: ["--json", "o", "--save", "a/../o"], "--save a/../o: the same file as --json o"),
    "file twice by names": (lambda: ["--save", "o", "--json", hard("h", "o")], "--save o: the same file as --json h"),
    "data": (lambda: ["t.csv", "--target", "y", "--save", "t.csv"], "--save t.csv: the same file as DATA t.csv"),
    "link to data": (
        lambda: ["t.csv", "--target", "y", "--json", link("l", "t.csv")],
        "--json l: the same file as DATA t.csv",
    ),
    "standard output twice": (lambda: ["--json", "-", "--save", "-"], "--json - and --save -: only one can go"),
    "picture on standard output": (lambda: ["--plot", "-"], "--plot -: pictures are .png, .pdf, .svg"),
}


@pytest.mark.parametrize(("args", "message"), OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.usefixtures("untrained")
def test_an_output_is_refused_before_the_training(args, message, capsys, tmp_path):
    assert main(["train", *args()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"fastopt: {message.format(here=tmp_path)}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--save", "--json"])
@pytest.mark.usefixtures("untrained")
def test_a_folder_that_takes_no_files_is_found_before_the_training(flag, monkeypatch, capsys):
    def denied(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)  # the folder's mode says nothing to root
    if flag == "--save":
        Path("o.png").touch()  # a saved run replaces a file, and so needs the folder all the same
    assert main(["train", flag, "o.png"]) == 2
    assert capsys.readouterr().err == f"fastopt: {flag} o.png: cannot be written: Permission denied\n"


def test_a_saved_run_may_be_replaced_but_by_nothing_else(capsys):
    assert main([*TRAIN, "--save", "run"]) == 0
    for flag in ("--json", "--plot"):
        name = link("run.svg", "run")
        assert main([*TRAIN, "--resume", "run", flag, name]) == 2
        assert capsys.readouterr().err == f"fastopt: {flag} run.svg: the same file as --resume run\n"
        Path(name).unlink()
    assert main([*TRAIN, "--resume", "run", "--save", link("l", "run")]) == 0
    assert Path("l").is_symlink()
    assert json.loads(checkpoint.read_metadata("run")[training.METADATA])["updates"] == 6


def test_links_and_devices_are_written_where_that_is_meant():
    assert main([*TRAIN, "--json", link("l", "o.json"), "--save", link("m", "run")]) == 0
    assert json.loads(Path("o.json").read_text())
    assert checkpoint.read_metadata("run")
    assert main([*TRAIN, "--json", "/dev/null"]) == 0
    assert main([*TRAIN, "--json", "new/../p.json"]) == 0
    reader, writer = os.pipe()
    with open(reader) as pipe:
        with open(writer, "w"):
            assert main([*TRAIN, "--json", f"/dev/fd/{writer}"]) == 0  # as the shell has it for >(command)
        assert json.load(pipe)["results"]


# ---- saved runs of others ----

GOOD = {"settings": flat(Settings(batch_size=10, epochs=3)), "rows": "0", "updates": 3}


def without(*path):
    run = json.loads(json.dumps(GOOD))
    inner = run
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return run


def changed(**settings):
    return {**GOOD, "settings": {**GOOD["settings"], **settings}}


OURS = "its settings are none of fastopt train's"
FORGED = {
    "no JSON": ("{", OURS),
    "an array": ("[]", OURS),
    "a number": ("7", OURS),
    "deep": ("[" * 100_000, OURS),
    "nothing": ("", OURS),
    "no settings": (without("settings"), OURS),
    "no updates": (without("updates"), OURS),
    "no batch size": (without("settings", "batch_size"), f"{OURS}: 'batch_size'"),
    "updates below 0": ({**GOOD, "updates": -1}, OURS),
    "updates as text": ({**GOOD, "updates": "3"}, OURS),
    "settings in a list": ({**GOOD, "settings": [1]}, OURS),
    "another's settings": (changed(speed=9), f"{OURS}: 'speed'"),
    "batches of text": (changed(batch_size="ten"), "Invalid value for '--batch-size': 'ten'"),
    "half a batch": (changed(batch_size=0.5), "Invalid value for '--batch-size': '0.5'"),
    "no epochs": (changed(epochs=None), "Invalid value for '--epochs': 'None'"),
    "no width": (changed(hidden=3), f"{OURS}: "),
    "a rate in a list": (changed(lr=[0.1]), "Invalid value for '--lr': '[0.1]'"),
    "one beta": (changed(betas=[0.9]), "Invalid value for '--betas'"),
    "an unknown optimizer": (changed(optimizer=["Best"]), None),
    "two optimizers": (changed(optimizer=["Adam", "SGD"]), OURS),
    "an unknown type": (changed(dtype="float8"), "Invalid value for '--dtype': 'float8'"),
    "NaN as part": (changed(test_fraction=float("nan")), None),
    "other rows": (GOOD, "it was trained on other rows than line has"),
}


@pytest.mark.parametrize(("run", "message"), FORGED.values(), ids=FORGED)
@pytest.mark.usefixtures("untrained")
def test_settings_of_a_saved_run_are_checked_as_if_typed(run, message, capsys):
    text = run if isinstance(run, str) else json.dumps(run)
    fastopt.Adam(np.ones(3, np.float32)).save("forged", metadata={training.METADATA: text})
    assert main(["train", "--resume", "forged"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"fastopt: --resume forged: {message}" if message else "fastopt: --")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ["--optimizer", "sgd", "--momentum", "0.9"],
        ["--momentum", "0.9", "--optimizer", "sgd"],
        ["--alpha", "0.9", "--optimizer", "all"],
        ["--optimizer", "adam", "--optimizer", "sgd"],
    ],
    ids=" ".join,
)
def test_another_optimizer_is_refused_whatever_comes_with_it(args, capsys):
    assert main([*TRAIN, "--save", "run"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "run", *args]) == 2
    names = {"all": " ".join(OPTIMIZERS), "adam": "Adam SGD"}.get(args[args.index("--optimizer") + 1], "SGD")
    assert capsys.readouterr().err == f"fastopt: --optimizer {names}: the saved run has Adam\n"


def test_what_a_saved_run_lacks_is_said(capsys):
    assert main([*TRAIN, "--save", "run"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "run", "--clip-norm", "1"]) == 2
    assert capsys.readouterr().err == "fastopt: --clip-norm 1.0: the saved run has none\n"


def test_a_pipe_is_no_saved_run(capsys):
    assert main(["train", "--resume", fifo("p")]) == 2
    assert capsys.readouterr().err == "fastopt: --resume p: no regular file\n"


# ---- numbers out of all bounds ----

DIGITS = "7" * 400
BEYOND = {
    "part": (["--test-fraction", "nan"], "--test-fraction nan: wanted a number from 0 to 1"),
    "more than all": (["--test-fraction", "1.5"], "--test-fraction 1.5: wanted a number from 0 to 1"),
    "width": (
        ["--model", "mlp", "--hidden", "1000000000000"],
        "Invalid value for '--hidden': '1000000000000' is not a",
    ),
    "widths": (
        ["--model", "mlp", "--hidden", "9,2000000000,2000000000"],
        "the mlp model has 4e+18 parameters, more than ",
    ),
    "text as width": (
        ["--model", "mlp", "--hidden", "64,wide"],
        "Invalid value for '--hidden': '64,wide' is not a list",
    ),
    "digits of a width": (["--hidden", DIGITS], "Invalid value for '--hidden': '777"),
    "digits of a batch": (["--batch-size", DIGITS], "--batch-size 777"),
    "digits of epochs": (["--epochs", DIGITS], "Invalid value for '--epochs': 777"),
    "digits of a warm-up": (["--warmup", DIGITS], "Invalid value for '--warmup': 777"),
    "digits of an end": (["--stop-after", DIGITS], "Invalid value for '--stop-after': 777"),
    "digits of a rate": (["--lr", DIGITS], "Adam: lr is inf: wanted a finite number"),
    "digits of a schedule": (["--schedule", f"step:factor=0.5,every={DIGITS}"], "--schedule step:factor=0.5,every=777"),
    "digits of a schedule's factor": (
        ["--schedule", f"exponential:factor={DIGITS}"],
        "--schedule exponential:factor=777",
    ),
    "a million digits": (["--epochs", DIGITS * 2500], "Invalid value for '--epochs': '777"),
}


@pytest.mark.parametrize(("args", "message"), BEYOND.values(), ids=BEYOND)
@pytest.mark.usefixtures("untrained")
def test_a_number_out_of_bounds_is_refused_in_one_line(args, message, capsys):
    assert main(["train", *args]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"fastopt: {message}")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 1000


def test_a_seed_may_have_any_number_of_digits():
    assert main([*TRAIN, "--seed", DIGITS, "--json", "o.json"]) == 0
    assert json.loads(Path("o.json").read_text())["settings"]["seed"] == int(DIGITS)


def test_memory_that_runs_out_is_said_in_one_line(monkeypatch, capsys):
    def out_of_memory(*_args):
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(training.Run, "train", out_of_memory)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "fastopt: not enough memory: Unable to allocate 3 TiB\n"


# ---- imports ----


class Interrupting:
    """A finder of modules in whose search for one Ctrl-C is pressed."""

    def __init__(self, name):
        self.name = name

    def find_spec(self, name, *_args):
        if name == self.name:
            raise KeyboardInterrupt


@pytest.mark.parametrize("module", ["click", "fastopt.cli.commands", "fastopt.cli.plots", "pandas"])
def test_ctrl_c_in_an_import_ends_with_status_130(module, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.startswith("fastopt.cli.") or name == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(module), *sys.meta_path])
    assert main(["train", "t.csv", "--target", "y", "--plot", "o.svg"]) == 130
    assert capsys.readouterr() == ("", "fastopt: interrupted\n")


def test_a_wrong_backend_is_said_in_one_line():
    environment = {**os.environ, "MPLBACKEND": "nonsense"}
    command = [sys.executable, "-m", "fastopt", *TRAIN, "--plot", "o.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fastopt: --plot: Key backend: 'nonsense' is not a valid value")
    assert done.stderr.count("\n") == 1
