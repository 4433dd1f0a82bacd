"""The command's tables: which targets are numbers and which are classes, and what no table can be read from."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("click", reason="the command is an extra: pip install 'fastopt[cli]'")

from fastopt.cli import main
from fastopt.cli.data import EMBEDDED

ROWS = 60
LEAVES_OUT = "; --drop-missing leaves out such rows"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def csv(target, name="t.csv"):
    """A file with a feature and these cells as target."""
    Path(name).write_text("x,y\n" + "".join(f'{i % 7}.5,"{cell}"\n' for i, cell in enumerate(target)), encoding="utf-8")
    return name


def npz(target, **features):
    np.savez("t.npz", y=target, **(features or {"x": np.arange(len(target))}))
    return "t.npz"


def trained(data, *args):
    """What the command writes of a short training."""
    assert main(["train", data, "--target", "y", "--stop-after", "2", "--json", "out.json", *args]) == 0
    return json.loads(Path("out.json").read_text())


def refused(capsys, data, *args):
    """The one line of a refusal, without the start that all have."""
    assert main(["train", data, "--target", "y", *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 1000
    return captured.err.removeprefix(f"fastopt: {data}: ").removesuffix("\n")


# ---- numbers and classes ----

NUMBERS = {
    "decimals": [f"{i / 8}" for i in range(ROWS)],
    "blanks around": [f"  {i / 8} " for i in range(ROWS)],
    "integers over 2**64": [str(2**66 + i * 2**60) for i in range(ROWS)],
    "21 values": [str(i % 21) for i in range(3 * 21)],
    "whole numbers, one of them once": [*["3", "4"] * 12, "5"],
    "a dozen prices": [str(100 + 7 * i) for i in range(12)],
    "few values, not whole": ["0.5", "1.5"] * 30,
}


@pytest.mark.parametrize("target", NUMBERS.values(), ids=NUMBERS)
def test_numbers_are_fitted(target):
    for data in csv(target), npz(np.array(target)), npz(np.array(target).astype(float)):
        document = trained(data)
        assert document["settings"]["task"] == "regression"
        assert document["data"]["classes"] == []
        assert document["loss"] == "MSE"


CLASSES = {
    "20 values, each twice": ([str(i % 20) for i in range(40)], [str(i) for i in range(20)]),
    "whole numbers with a point": (["3.0", "-1.0", "3"] * 8, ["-1", "3"]),
    "integers that floats do not hold": ([str(2**60 + i % 2) for i in range(20)], [str(2**60), str(2**60 + 1)]),
    "truth values": (["True", "False"] * 10, ["False", "True"]),
    "names that pandas takes for missing": (
        ["NA", "None", "null", "nan", "n/a"] * 5,
        ["NA", "None", "n/a", "nan", "null"],
    ),
    "text with a few numbers": (["low", "2", "high", "4"] * 8, ["2", "4", "high", "low"]),
    "blanks around": ([" no", "no ", "yes"] * 8, ["no", "yes"]),
    "age groups": (["18-25", "26-40", "41-99"] * 8, ["18-25", "26-40", "41-99"]),
    "brackets": (["[/x]", "[bold]", "$a$"] * 8, ["$a$", "[/x]", "[bold]"]),
}


@pytest.mark.parametrize(("target", "classes"), CLASSES.values(), ids=CLASSES)
def test_classes_are_told_apart(target, classes):
    for data in csv(target), npz(np.array(target)), npz(np.array(target, "S")):
        document = trained(data)
        assert document["settings"]["task"] == "classification"
        assert document["data"]["classes"] == classes


def test_integers_of_npz_are_classes_exactly():
    assert trained(npz(np.array([2**63, 2**63 + 1] * 9, np.uint64)))["data"]["classes"] == [str(2**63), str(2**63 + 1)]


@pytest.mark.parametrize("cell", ["missing", "n.a.", "*", "−7.25", "NA", "None", "3,75", "€9", "12 kg", "1_000"])
def test_one_cell_that_is_no_number_is_named(cell, capsys):
    target = [f"{i / 8}" for i in range(ROWS)]
    target[23] = cell
    for data in csv(target), npz(np.array(target)):
        assert refused(capsys, data) == f"the target 'y' holds numbers, but {cell!r} in row 24"
        message = f"the target 'y' holds text {cell!r}: regression needs numbers (row 24)"
        assert refused(capsys, data, "--task", "regression") == message


@pytest.mark.parametrize(("others", "names"), [(6, True), (7, False)], ids=["90 % numbers", "less"])
def test_nine_in_ten_make_a_target_of_numbers(others, names, capsys):
    target = [*["x"] * others, *[str(i % 9) for i in range(ROWS - others)]]
    if names:
        assert "holds numbers, but 'x' in row 1" in refused(capsys, csv(target))
    else:
        assert len(trained(csv(target))["data"]["classes"]) == 10


@pytest.mark.parametrize("cell", ["", "  ", "\t"], ids=repr)
@pytest.mark.parametrize("others", ["0.25", "yes"])
def test_an_empty_cell_is_missing(cell, others, capsys):
    target = [others, "7" if others == "0.25" else "no"] * 10
    target[5] = cell
    for data in csv(target), npz(np.array(target)):
        expected = "1 row with a missing, NaN or infinite value, first in the target 'y', row 6" + LEAVES_OUT
        assert refused(capsys, data) == expected


@pytest.mark.parametrize("cell", ["NaN", "nan", "-inf", "1e999", "9" * 400, "9" * 10**5], ids=lambda cell: cell[:9])
def test_a_number_without_a_value_is_missing(cell, capsys):
    expected = "1 row with a missing, NaN or infinite value, first in the target 'y', row 3" + LEAVES_OUT
    assert refused(capsys, csv(["1.5", "2.5", cell, "4.5"])) == expected


NO_CLASSES = {
    "amounts": ([f"${i % 4}.50" for i in range(ROWS)], "holds '$0.50' in row 1: write numbers as in -1234.5"),
    "decimal commas": ([f"{i},5" for i in range(ROWS)], "holds '0,5' in row 1: write numbers as in -1234.5"),
    "thousands": ([f"{i},000.25" for i in range(ROWS)], "holds '0,000.25' in row 1: write numbers as in -1234.5"),
    "percentages": ([f"{i % 5} %" for i in range(ROWS)], "holds '0 %' in row 1: write numbers as in -1234.5"),
    "dates": ([f"2024-03-{1 + i % 5:02}" for i in range(ROWS)], "holds dates or times, such as '2024-03-01' in row 1"),
    "days first": ([f"{1 + i % 5}.3.2024" for i in range(ROWS)], "holds dates or times, such as '1.3.2024' in row 1"),
    "moments": ([f"2024-03-01T10:{i % 9:02}" for i in range(ROWS)], "holds dates or times, such as '2024-03-01T10:00'"),
    "times": ([f"10:{i % 9:02}" for i in range(ROWS)], "holds dates or times, such as '10:00' in row 1"),
    "a text for each row": ([f"id{i}" for i in range(ROWS)], "is text that hardly repeats, such as 'id0' in row 1"),
    "half numbers": (["?"] * 30 + [f"{i}.5" for i in range(30)], "is text that hardly repeats, such as '?' in row 1"),
    "weights": ([f"{i} kg" for i in range(57)] + ["5 kg"] * 3, "is text that hardly repeats, such as '0 kg' in row 1"),
}


@pytest.mark.parametrize(("target", "message"), NO_CLASSES.values(), ids=NO_CLASSES)
def test_text_that_names_no_classes_is_refused_but_for_who_insists(target, message, capsys):
    for data in csv(target), npz(np.array(target)):
        found = refused(capsys, data)
        assert found.startswith(f"the target 'y' {message}")
        repeats = len(set(target)) < len(target)
        assert found.endswith("; --task classification takes each for a class") == repeats
        if not repeats:
            expected = f"the target 'y' has as many classes as rows, {ROWS}: classes must repeat"
            assert refused(capsys, data, "--task", "classification") == expected
            continue
        document = trained(data, "--task", "classification")
        assert document["data"]["classes"] == sorted(set(target))
        capsys.readouterr()


@pytest.mark.parametrize("kind", ["M8[D]", "m8[s]", "c16", "i4,f8"])
def test_arrays_that_are_neither_are_refused(kind, capsys):
    data = npz(np.zeros(20, kind))
    expected = f"the target 'y' holds {np.dtype(kind)}: wanted numbers, text or truth values"
    for task in ([], ["--task", "classification"], ["--task", "regression"]):
        assert refused(capsys, data, *task) == expected


@pytest.mark.parametrize("kind", ["f4", "i8"])
def test_a_number_for_each_row_is_no_class(kind, capsys):
    expected = "the target 'y' has as many classes as rows, 15: classes must repeat"
    assert refused(capsys, npz(np.arange(15, dtype=kind)), "--task", "classification") == expected


def test_the_task_can_be_said():
    few = csv(["3", "5"] * 12)
    assert trained(few)["data"]["classes"] == ["3", "5"]
    assert trained(few, "--task", "regression")["data"]["classes"] == []
    document = trained(csv(["0.5", "1.5", "4"] * 8), "--task", "classification")
    assert document["data"]["classes"] == ["0.5", "1.5", "4"]


HEADLINES = {
    "numbers": (["1.5", "2.5", "4.5"] * 8, "target y, regression (for classes: --task classification)"),
    "few whole numbers": (
        ["1", "2", "4"] * 8,
        "target y, classification, 3 classes: 1, 2, 4 (for numbers: --task regression)",
    ),
    "text": (["a", "b"] * 12, "target y, classification, 2 classes: a, b; "),
}


@pytest.mark.parametrize(("target", "expected"), HEADLINES.values(), ids=HEADLINES)
def test_the_headline_says_what_the_target_was_taken_for(target, expected, capsys):
    trained(csv(target))
    assert capsys.readouterr().out.splitlines()[1].startswith(expected)


def test_a_run_is_resumed_with_the_task_it_found(capsys):
    data = csv(["3", "5"] * 12)
    trained(data, "--save", "run")
    assert main(["train", "--resume", "run", "--task", "classification", "--stop-after", "1"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "run", "--task", "regression"]) == 2
    assert capsys.readouterr().err == "fastopt: --task regression: the saved run has classification\n"


# ---- columns ----


@pytest.mark.parametrize(
    ("head", "names"),
    [("a,y,y", "'y'"), ("b,b,y", "'b'"), ("b,y, b ", "'b'"), ("c,c,d,y,d", "'c', 'd'"), ("[/x],y,[/x]", "'[/x]'")],
)
def test_columns_of_one_name_are_refused(head, names, capsys):
    count = head.count(",") + 1
    Path("t.csv").write_text(f"{head}\n" + "\n".join(",".join([str(i)] * count) for i in range(9)))
    assert refused(capsys, "t.csv") == f"more than one column is called {names}"


def test_arrays_of_one_name_are_refused(capsys):
    npz(np.arange(9.0))
    with zipfile.ZipFile("t.npz", "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("x.npy", file.read("x.npy"))
    assert refused(capsys, "t.npz") == "more than one column is called 'x'"


def test_a_list_of_columns_is_no_longer_than_it_helps(capsys):
    Path("t.csv").write_text(",".join(f"c{i}" for i in range(5000)) + "\n")
    assert refused(capsys, "t.csv").endswith("c18, c19, ...")


WRITTEN = {
    "with a byte order mark": b"\xef\xbb\xbfa,y\n1,2.5\n2,3.5\n3,1.5\n4,0.25\n5,9.5\n",
    "with CRLF": b"a,y\r\n1,2.5\r\n2,3.5\r\n3,1.5\r\n4,0.25\r\n5,9.5\r\n",
    "with blank lines": b"\n\na,y\n1,2.5\n\n2,3.5\n3,1.5\n4,0.25\n5,9.5\n\n",
    "with blanks": b"a, y\n1, 2.5\n2 , 3.5 \n3, 1.5\n4, 0.25\n5, 9.5",
    "with quotes": b'"a","y"\n"1","2.5"\n"2","3.5"\n"3","1.5"\n"4","0.25"\n"5","9.5"\n',
    "with a column without name": b",y\n1,2.5\n2,3.5\n3,1.5\n4,0.25\n5,9.5\n",
    "with truth values": b"a,y\nTrue,2.5\nFalse,3.5\nTrue,1.5\nFalse,0.25\nFalse,9.5\n",
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_a_csv_file_may_be_written_so(written):
    Path("t.csv").write_bytes(written)
    document = trained("t.csv", "--test-fraction", "0")
    y = np.array([2.5, 3.5, 1.5, 0.25, 9.5])
    assert document["data"]["columns"] == 1
    assert document["results"][0]["curve"]["train_loss"][0] == pytest.approx(y.var(), rel=1e-6)  # of float32


def test_a_table_of_one_row_is_trained_on(capsys):
    Path("t.csv").write_text("a,y\n1,2\n")
    trained("t.csv")
    assert "1 row of 1 feature: 1 to train on, 0 held out" in capsys.readouterr().out


# Four rows of two features and a target, in ways in which tables are found.
PLAIN = [(5.1, 3.5, 0), (7.0, 3.2, 1), (6.3, 3.3, 0), (4.9, 3.0, 1)]
LINES = [f"{a},{b},{y}" for a, b, y in PLAIN]
FOUND = {
    "with tabs": ("t.tsv", "a\tb\ty\n" + "\n".join(LINES).replace(",", "\t"), []),
    "with semicolons": ("t.csv", "a;b;y\n" + "\n".join(LINES).replace(",", ";"), ["--sep", ";"]),
    "with tabs in .csv": ("t.csv", "a\tb\ty\n" + "\n".join(LINES).replace(",", "\t"), ["--sep", "tab"]),
    "with blanks": ("t.txt", " a   b y\n " + "\n ".join(LINES).replace(",", "   "), ["--sep", "space"]),
    "without header": ("t.data", "\n".join(LINES), ["--no-header", "--target", "2"]),
    "without header, from the end": ("t.data", "\n".join(LINES), ["--no-header", "--target", "-1"]),
    "of scikit-learn": ("t.csv", "4,2,0,1\n" + "\n".join(LINES), ["--target", "target"]),
    "of pandas": ("t.csv", ",a,b,y\n" + "\n".join(f"{i},{line}" for i, line in enumerate(LINES)), []),
    "of R": ("t.csv", "a,b,y\n" + "\n".join(f'"{i + 1}",{line}' for i, line in enumerate(LINES)), []),
}


@pytest.mark.parametrize(("name", "text", "args"), FOUND.values(), ids=FOUND)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_table_is_read_as_it_is_found(name, text, args, compressed, capsys):
    if compressed:
        name += ".gz"
    Path(name).write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    plain = trained(npz(np.array([y for *_, y in PLAIN]), x=np.array([x for *x, _ in PLAIN])))
    capsys.readouterr()
    found = trained(name, *args)
    assert found["data"] == plain["data"] | {"name": name, "target": found["data"]["target"]}
    assert found["results"][0]["curve"] | {"seconds": 0} == plain["results"][0]["curve"] | {"seconds": 0}
    left_out = "left out the first column, which has no name and counts the rows" in capsys.readouterr().out
    assert left_out == (text.startswith(",") or '"1"' in text)


def test_a_column_without_name_that_counts_nothing_is_a_feature(capsys):
    Path("t.csv").write_text(",a,b,y\n" + "\n".join(f"{7 - i},{line}" for i, line in enumerate(LINES)))
    assert trained("t.csv")["data"]["columns"] == 3
    assert "left out" not in capsys.readouterr().out
    Path("t.csv").write_text(",a,y\n" + "\n".join(f"{i},{'no' if i % 3 else 'yes'},{i % 2}" for i in range(20)))
    assert trained("t.csv")["data"]["columns"] == 2  # a column for each of the two texts, none for the number
    assert "left out the first column" in capsys.readouterr().out


def test_a_header_of_scikit_learn_names_the_classes_and_the_target(capsys):
    from sklearn import datasets

    for name in ("iris", "wine_data", "breast_cancer"):
        path = str(Path(datasets.__file__).parent / f"data/{name}.csv")
        assert main(["train", path, "--stop-after", "1", "--json", "out.json"]) == 0
        document = json.loads(Path("out.json").read_text())
        embedded = EMBEDDED[name.removesuffix("_data")](0)
        assert tuple(document["data"]["classes"]) == embedded.classes
        assert (document["data"]["target"], document["data"]["columns"]) == ("target", embedded.features.shape[1])
    Path("t.csv").write_text("5,2,no,yes\n" + "\n".join(LINES))
    capsys.readouterr()
    assert main(["train", "t.csv"]) == 2
    assert capsys.readouterr().err == "fastopt: t.csv: its header counts 5 rows; there are 4\n"


def test_an_npy_file_is_a_matrix_or_records(capsys):
    np.save("t.npy", np.array(PLAIN))
    records = np.array([(a, b, "no" if y else "yes") for a, b, y in PLAIN], "f4,f8,U3")
    for array, target in ((np.array(PLAIN), "2"), (np.array(PLAIN), "-1"), (records, "f2")):
        np.save("t.npy", array)
        assert main(["train", "t.npy", "--target", target, "--stop-after", "1", "--json", "out.json"]) == 0
        assert json.loads(Path("out.json").read_text())["data"]["columns"] == 2
    np.save("t.npy", np.arange(4.0))
    capsys.readouterr()
    assert refused(capsys, "t.npy") == "an array of shape (4,): wanted a matrix, or records with names"
    Path("t.npy").write_bytes(b"x")
    assert refused(capsys, "t.npy").startswith("not an NPY file of a plain array: ")


def mixed(rows=24, **cells):
    """A table of two numbers, a text, a date and a target, in which single cells are replaced: `c3="x"`."""
    lines = [
        [f"{i}.5", str(i % 5), ["red", "green", "blue"][i % 3], f"2024-03-{1 + i:02}", str(i % 2)] for i in range(rows)
    ]
    for where, cell in cells.items():
        lines[int(where[1:])]["abcdy".index(where[0])] = cell
    Path("t.csv").write_text("a,b,c,d,y\n" + "\n".join(map(",".join, lines)))
    return "t.csv"


def test_columns_are_chosen_and_text_that_repeats_is_a_column_a_value(capsys):
    for args, columns in ((["--drop", "d"], 5), (["--features", "a,b"], 2), (["--features", "a", "--features", "c"], 4),
                          (["--features", "b,c,d", "--drop", "c,d"], 1)):  # fmt: skip
        assert trained(mixed(), *args)["data"]["columns"] == columns
    one_hot = trained(mixed(), "--features", "c")
    text = npz(np.arange(24) % 2, c=np.array(["red", "green", "blue"] * 8))
    assert trained(text)["results"][0]["curve"]["train_loss"] == one_hot["results"][0]["curve"]["train_loss"]
    capsys.readouterr()
    for args, message in {
        (): "the column 'd' holds dates or times, such as '2024-03-01' in row 1; features are numbers, or text that "
        "repeats: leave it out with --drop",
        ("--drop", "e"): "--drop 'e': no such column; there are a, b, c, d, y",
        ("--features", "a,y"): "--features 'y': it is the target",
        ("--features", "a", "--drop", "a"): "no column besides the target",
    }.items():
        assert refused(capsys, mixed(), *args) == message
    assert refused(capsys, mixed(b4="four"), "--drop", "d").startswith(
        "the column 'b' holds numbers, but 'four' in row 5;"
    )
    names = [f"name {i % 60}" for i in range(180)]
    message = refused(capsys, npz(np.arange(180) % 2, names=np.array(names)))
    assert message.startswith("the column 'names' has 60 different texts, such as 'name 0' in row 1;")


@pytest.mark.parametrize("missing", [{"a3": ""}, {"c3": "NA"}, {"y3": ""}, {"a3": "inf", "y3": ""}], ids=str)
def test_rows_with_missing_values_are_left_out_if_asked(missing, capsys):
    args = ("--drop", "d", "--test-fraction", "0")
    assert refused(capsys, mixed(**missing), *args).endswith(f"row 4{LEAVES_OUT}")
    found = trained(mixed(**missing), *args, "--drop-missing", "--save", "run")
    assert (found["data"]["rows"], found["data"]["columns"]) == (23, 5)
    assert "left out 1 row with a missing, NaN or infinite value\n" in capsys.readouterr().out
    assert main(["train", "--resume", "run", "--stop-after", "1"]) == 0
    capsys.readouterr()
    assert (
        refused(capsys, mixed(2, a0="", a1=""), "--features", "a,b", "--drop-missing") == "--drop-missing leaves no row"
    )


UNREADABLE = {
    "latin-1": ("a,y\nü,1\n".encode("latin-1"), "not a CSV table: 'utf-8' codec"),
    "utf-16": ("a,y\n1,2\n".encode("utf-16"), "not a CSV table: 'utf-8' codec"),
    "an open quote": (b'a,y\n"1,2\n', "not a CSV table: "),
    "semicolons": (b"a;y\n1;2\n", "its header is one column, 'a;y': give --sep ';'"),
    "tabs": (b"a\ty\n1\t2\n", "its header is one column, 'a\\ty': give --sep 'tab'"),
    "a million letters": (
        b"a,y\n" + b"x" * 10**6 + b",2\n",
        "the column 'a' is text that hardly repeats, such as 'xxxxxxxx",
    ),
    "a million digits": (b"a,y\n1,2\n" + b"7" * 10**6 + b",2\n", "1 row with a missing, NaN or infinite value"),
    "400 digits": (b"a,y\n1,2\n" + b"7" * 400 + b",2\n", "1 row with a missing, NaN or infinite value"),
    "NA": (b"a,y\n1,2\nNA,2\n", "1 row with a missing, NaN or infinite value, first in column 'a', row 2"),
    "long rows": (b"a,y\n1,2,3\n1,2,3\n", "not a CSV table: its rows have more cells than its header"),
    "text beside truth values": (
        b"a,b,y\nTrue,1,2\nFalse,x,3\n",
        "the column 'b' is text that hardly repeats, such as 'x' in row 2",
    ),
    "a short row": (b"a,y,b\n1,2,3\n1,2\n", "1 row with a missing, NaN or infinite value, first in column 'b', row 2"),
    "numbers too small": (b"a,y\n1e-200,1.5\n3e-200,2.5\n2e-200,3.5\n", "numbers too small to square"),
}


@pytest.mark.parametrize(("written", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_csv_file_that_is_none_is_refused(written, message, capsys):
    Path("t.csv").write_bytes(written)
    assert refused(capsys, "t.csv").startswith(message)


def broken(data, spoil):
    """An archive that is spoiled after it was written."""
    content = bytearray(Path(data).read_bytes())
    spoil(content)
    Path(data).write_bytes(content)
    return data


def with_member(name, content):
    npz(np.arange(9.0))
    with zipfile.ZipFile("t.npz", "a") as file:
        file.writestr(name, content)
    return "t.npz"


ARRAYS = {
    "long doubles beyond": (
        lambda: npz(np.arange(4.0), x=np.array([1, 2, 3, "1e999"], np.longdouble)),
        "1 row with a missing, NaN or infinite value, first in column 'x', row 4",
    ),
    "zero rows": (lambda: npz(np.zeros(0)), "no rows"),
    "empty features": (lambda: npz(np.zeros(4), x=np.zeros((4, 0))), "no column besides the target"),
    "scalar": (lambda: npz(np.zeros(4), x=np.float64(3)), "'x' has shape () and 'y' 4 rows"),
    "scalar target": (lambda: npz(np.float64(3), x=np.ones(3)), "the target 'y' has shape ()"),
    "objects": (lambda: npz(np.array([None, 1])), "not an NPZ file of plain arrays: "),
    "a text file inside": (lambda: with_member("notes.txt", "by hand"), "'notes.txt' holds |S7: features are numbers"),
    "half a file": (lambda: broken(npz(np.arange(9)), lambda b: b.__delitem__(slice(90, None))), "not an NPZ file"),
    "other bytes": (lambda: broken(npz(np.arange(9)), lambda b: b.__setitem__(200, 77)), "not an NPZ file"),
    "a header of its own": (lambda: with_member("z.npy", b"\x93NUMPY\x01\x00\x02\x00{("), "not an NPZ file"),
}


@pytest.mark.parametrize(("data", "message"), ARRAYS.values(), ids=ARRAYS)
def test_an_npz_file_that_is_none_is_refused(data, message, capsys):
    assert refused(capsys, data()).startswith(message)


def test_an_array_of_python_2_is_read():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9L,), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + np.arange(9.0).tobytes()
    assert trained(with_member("old.npy", content))["data"]["columns"] == 2


def test_an_array_larger_than_memory_is_said(capsys):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }" % 10**15
    data = with_member("big.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert main(["train", data, "--target", "y"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastopt: not enough memory: Unable to allocate")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["n" * 300 + ".csv", "n" * 300 + ".npz"], ids=["csv", "npz"])
def test_a_name_too_long_is_no_file(name, capsys):
    assert main(["train", name, "--target", "y"]) == 2
    assert capsys.readouterr().err == f"fastopt: {name}: File name too long\n"


def test_deep_arrays_are_columns():
    assert trained(npz(np.arange(9.0), x=np.arange(54.0).reshape(9, 2, 3), b=np.arange(9) > 4))["data"]["columns"] == 7


# ---- columns that are constant but for rounding ----

HELD_OUT = np.random.default_rng([0, 0]).permutation(20)[0]  # of 20 rows, by --test-fraction 0.05

CONSTANT = {
    "the same sum": np.full(20, 0.7),
    "sums in another order": np.where(np.arange(20) % 2, (0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)),
    "quotients": 0.7 * np.arange(1, 21) / np.arange(1, 21),
    "float32 quotients": np.float32(0.7) * np.arange(1, 21, dtype=np.float32) / np.arange(1, 21, dtype=np.float32),
    "large": np.where(np.arange(20) % 2, 1e20, 1e20 + 2**14),
}


@pytest.mark.parametrize("column", CONSTANT.values(), ids=CONSTANT)
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_a_column_that_only_rounding_makes_vary_says_nothing(column, model):
    y = np.arange(20) % 6 + 0.25
    plain = trained(npz(y, x=np.arange(20.0), c=np.ones(20)), "--model", model, "--test-fraction", "0.05")
    column = column.copy()
    column[HELD_OUT] *= 2
    found = trained(npz(y, x=np.arange(20.0), c=column), "--model", model, "--test-fraction", "0.05")
    found, plain = (document["results"][0]["curve"] | {"seconds": 0} for document in (found, plain))
    assert found == plain


def test_a_target_that_only_rounding_makes_vary_is_constant():
    y = 0.7 * np.arange(1, 21) / np.arange(1, 21)
    y[HELD_OUT] += 0.2
    (result,) = trained(npz(y, x=np.arange(20.0)), "--test-fraction", "0.05")["results"]
    assert result["fastopt"]["train_loss"] == 0
    assert result["fastopt"]["test_loss"] == pytest.approx(0.04)  # in float32


def test_whole_numbers_side_by_side_vary():
    x = 10.0**12 + np.arange(20) % 3
    (result,) = trained(npz(x * 0.5, x=x), "--lr", "0.1")["results"]
    assert result["curve"]["train_loss"][-1] < result["curve"]["train_loss"][0]
