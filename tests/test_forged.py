"""Checkpoints that are forged, altered while they are read, or written where no file should be; and those of format 1.

Here a digest fits what a file says: anyone can compute one. Such a file is refused with its name in the message, and
has changed nothing; or what it says is sound, and it is loaded.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support import is_torn, rand, whole

from fastopt import SGD, Adam, RMSprop, checkpoint
from fastopt.schedules import CosineDecay

GOLDEN = Path(__file__).with_name("golden") / "format1.safetensors"


def forged(header, data, digest=None):
    """A file with this header, a dict or bytes, and a digest that fits."""
    if isinstance(header, dict):
        if isinstance(header.get("__metadata__"), dict):
            header["__metadata__"].setdefault("fastopt.digest", "0" * 64)
        header = json.dumps(header, separators=(",", ":")).encode()
    zeros = re.sub(rb'("fastopt\.digest":")[0-9a-f]{64}', rb"\g<1>" + b"0" * 64, header, count=1)
    start = len(header).to_bytes(8, "little")
    found = hashlib.blake2b(start + zeros + data, digest_size=32).hexdigest().encode()
    return start + zeros.replace(b"0" * 64, found, 1) + data


def parts(path):
    """Header, as bytes, and data of a file."""
    content = Path(path).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def victim():
    w = {"w": rand(3, 2, dtype="float32"), "b": rand(4, seed=1), "e": np.zeros((0, 2))}
    opt = RMSprop(w, lr=CosineDecay(0.5, 10), momentum=0.5)
    for t in range(2):
        opt.step({"w": rand(3, 2, seed=t, dtype="float32"), "b": rand(4, seed=t), "e": None})
    return opt, w


def entries(path):
    return json.loads(parts(path)[0])


# ---- the header ----


def set_offsets(name, *offsets):
    return lambda h: h[name].update(data_offsets=list(offsets))


W, B, V = "params['w']", "params['b']", "params['w'].square_avg"
CRAFTED = [
    (
        "a gap",
        lambda h: [e.update(data_offsets=[x + 8 for x in e["data_offsets"]]) for e in h.values() if "shape" in e],
    ),
    ("an overlap", lambda h: h[V].update(data_offsets=h[W]["data_offsets"])),
    ("two in each other's place", lambda h: swap(h, W, V)),
    ("a negative offset", set_offsets(W, -24, 0)),
    ("an end before the begin", set_offsets(W, 24, 0)),
    ("past the end", set_offsets(W, 10**6, 10**6 + 24)),
    ("beyond all numbers", set_offsets(W, 2**70, 2**70 + 24)),
    ("offsets that are floats", set_offsets(W, 0.0, 24.0)),
    ("offsets that are flags", set_offsets(W, False, 24)),
    ("one offset", set_offsets(W, 0)),
    ("no offsets", lambda h: h[W].pop("data_offsets")),
    ("an entry more", lambda h: h[W].update(more=1)),
    ("another shape", lambda h: h[W].update(shape=[2, 2])),
    ("a negative shape", lambda h: h[W].update(shape=[-3, -2])),
    ("a huge shape", lambda h: h[W].update(shape=[2**62, 2**62])),
    ("a shape of flags", lambda h: h[W].update(shape=[True, 6])),
    ("a shape of floats", lambda h: h[W].update(shape=[3.0, 2.0])),
    ("a shape that is none", lambda h: h[W].update(shape=6)),
    ("a hundred thousand axes", lambda h: h[W].update(shape=[2**61] * 100_000)),
    ("another type", lambda h: h[W].update(dtype="F64")),
    ("an unknown type", lambda h: h[W].update(dtype="I32")),
    ("metadata of a number", lambda h: h["__metadata__"].update(more=1)),
    ("an array without a name of ours", lambda h: h.update(x=h.pop(W))),
    ("an empty array more", lambda h: h.update(x={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})),
]


def swap(header, one, other):
    a, b = header[one], header[other]
    a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("words", "edit"), CRAFTED, ids=[row[0] for row in CRAFTED])
def test_a_header_that_is_not_sound_is_refused_and_changes_nothing(words, edit, in_place, tmp_path):
    opt, w = victim()
    path = tmp_path / "x"
    opt.save(path)
    header = entries(path)
    edit(header)
    path.write_bytes(forged(header, parts(path)[1]))
    before = whole(opt, w)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        opt.load(path, in_place=in_place)
    assert whole(opt, w) == before
    assert not is_torn(opt)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b'{"a":1,"a":2}', "a name stands there twice"),
        (b'{"__metadata__":{"fastopt.digest":"' + b"0" * 64 + b'"},"x":NaN}', "NaN is no JSON"),
        (b'{"__metadata__":{"fastopt.digest":"' + b"0" * 64 + b'"},"x":1' + b"0" * 5000 + b"}", "ValueError"),
        (b'{"__metadata__":' * 2000 + b"{}" + b"}" * 2000, "RecursionError|TypeError|KeyError"),
        (b'\xef\xbb\xbf{"__metadata__":{"fastopt.digest":"' + b"0" * 64 + b'"}}', "BOM"),
        (b'{"__metadata__":{"fastopt.digest":"' + b"0" * 64 + b'","x":"\xed\xa0\x80"}}', "UnicodeDecodeError"),
    ],
    ids=["twice", "NaN", "digits", "nested", "byte order mark", "a surrogate"],
)
def test_json_that_others_would_read_otherwise_is_refused(header, why, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(forged(header, b""))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is not a checkpoint that can be loaded: .*({why})"):
        checkpoint.read_metadata(path)


NESTED = {"schedule": ('{"schedule":"Warmup","steps":1,"after":', "0.5", "}"), "list": ("[", "", "]")}


@pytest.mark.parametrize(("begin", "middle", "end"), NESTED.values(), ids=list(NESTED))
def test_a_value_nested_to_any_depth_is_refused_by_name_or_loaded(begin, middle, end, tmp_path):
    opt, path = SGD(np.ones(2)), tmp_path / "x"
    opt.save(path)
    header, data = parts(path)
    for depth in (3, *range(100, 1100, 50), *range(960, 1000)):
        rate = json.dumps(begin * depth + middle + end * depth)[1:-1].encode()
        path.write_bytes(forged(header.replace(rb"\"lr\": 0.001", rb"\"lr\": " + rate), data))
        try:
            opt.load(path)
        except ValueError as error:
            if str(path) not in str(error):
                pytest.fail(f"{depth}: {error}")
        else:
            assert middle
            assert depth < 1000


def test_a_header_has_a_limit_in_both_directions(monkeypatch, tmp_path):
    opt = SGD(np.ones(2))
    opt.save(tmp_path / "x")
    monkeypatch.setattr(checkpoint, "_LONGEST_HEADER", 300)
    with pytest.raises(ValueError, match=r"its header would have [0-9]+ bytes"):
        opt.load(tmp_path / "x")
    with pytest.raises(ValueError, match=r"the names and metadata take [0-9]+ bytes: 300 can be read"):
        opt.save(tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"]
    # A length that the file has, and no memory could: a file with a hole.
    with open(tmp_path / "hole", "wb") as file:
        file.write((2**40).to_bytes(8, "little"))
        file.truncate(2**40 + 16)
    with pytest.raises(ValueError, match="its header would have 1,099,511,627,776 bytes"):
        opt.load(tmp_path / "hole")


TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|[\[\]{},:]')
PIECES = [
    b"0",
    b"-1",
    b"1",
    b"2",
    b"24",
    b"1e3",
    b"0.5",
    b"true",
    b"null",
    b'""',
    b'"F64"',
    b'"lr"',
    b"[]",
    b"{}",
    b"[0,0]",
]
PIECES += [b"18446744073709551616", b"9007199254740993", b"NaN", b"-Infinity", b'"\\ud800"', b"1" * 400]


def mutated(rng, text):
    """Another header: some of its tokens replaced, removed, doubled or exchanged."""
    tokens = TOKEN.findall(text)
    for _ in range(rng.integers(1, 4)):
        at, to = rng.integers(len(tokens), size=2)
        match rng.integers(5):
            case 0:
                tokens[at] = PIECES[rng.integers(len(PIECES))]
            case 1:
                del tokens[at]
            case 2:
                tokens.insert(at, tokens[to])
            case 3:
                tokens[at], tokens[to] = tokens[to], tokens[at]
            case _:
                tokens[at] = tokens[to]
    return b"".join(tokens)


def test_mutations_of_a_header_with_a_digest_that_fits_change_nothing_or_are_sound(tmp_path):
    """2,000 of them, or as many as 20 s allow; half mutate what fastopt itself wrote into the metadata."""
    rng = np.random.default_rng(14)
    opt, w = victim()
    path = tmp_path / "x"
    opt.save(path)
    text, data = parts(path)
    own = json.loads(text)["__metadata__"]["fastopt.optimizer"]
    kept = (opt.state_dict(), copy.deepcopy(w))
    before = whole(opt, w)
    end, loaded, refused = time.monotonic() + 20, 0, 0
    for n in range(2000):
        if n % 2:
            changed = json.dumps(mutated(rng, own.encode()).decode()).encode()
            header = text.replace(json.dumps(own).encode(), changed)
        else:
            header = mutated(rng, text)
        path.write_bytes(forged(header, data if rng.random() < 0.9 else data[: rng.integers(len(data))]))
        try:
            opt.load(path, in_place=n % 4 > 1)
        except ValueError as error:
            refused += 1
            said = str(error)
            if whole(opt, w) != before or str(path) not in said:
                pytest.fail(f"{header!r}: {said}")
        else:  # then it can go on, be saved, and be what it was again
            loaded += 1
            opt.step({"w": rand(3, 2, dtype="float32"), "b": rand(4), "e": None})
            opt.save(tmp_path / "y")
            assert len(opt.state) == 3
            opt.load_state_dict(kept[0])
            opt.lr = CosineDecay(0.5, 10)
            for key, array in kept[1].items():
                w[key][...] = array
            assert whole(opt, w) == before
        if time.monotonic() > end:
            break
    assert refused > 300
    assert loaded > 10


# ---- a file that changes while it is read ----


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize("change", ["altered", "cut"])
def test_what_is_used_is_what_was_checked(change, passes, in_place, monkeypatch, tmp_path):
    """The file changes in the midst of its first or second pass; a load in place makes two, another load one."""
    opt, w = Adam(np.ones(50_000)), None
    w = opt.params
    opt.step(np.ones(50_000))
    path = tmp_path / "x"
    opt.save(path)
    opt.step(np.ones(50_000))
    before = whole(opt, w)
    real, blocks = checkpoint.Reader._block, []

    def block(reader, digest, memory):
        blocks.append(1)
        if len(blocks) == 3 * passes + 2:
            if change == "cut":
                os.truncate(path, 600_000)
            else:
                with open(path, "r+b") as file:
                    file.seek(-9, os.SEEK_END)
                    file.write(b"\x55")
        return real(reader, digest, memory)

    monkeypatch.setattr(checkpoint.Reader, "_block", block)
    if passes and not in_place:
        opt.load(path)
        return
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(path))} is not a checkpoint that can be loaded: it (is|was) trunc"
    ):
        opt.load(path, in_place=in_place)
    monkeypatch.undo()
    if passes:
        assert is_torn(opt, lambda: opt.step(np.ones(50_000)))
        return
    assert whole(opt, w) == before


@pytest.mark.parametrize("order", "CF")
def test_a_save_while_a_parameter_is_written_to_can_be_loaded(order, tmp_path):
    w = np.zeros((1500, 1000), order=order)
    opt = SGD(w)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            w[...] += 1.0

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for _ in range(4):
            opt.save(tmp_path / "x")
            SGD(np.ones_like(w)).load(tmp_path / "x")
    finally:
        stop.set()
        writing.join()


# ---- where there should be no file ----


def fifo(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def link_to_fifo(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


@pytest.mark.parametrize("make", [fifo, a_socket, link_to_fifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_file_is_neither_replaced_nor_read(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("x")
    make(path)
    kind = stat.S_IFMT(path.lstat().st_mode)
    opt = SGD(np.ones(2))
    with pytest.raises(ValueError, match=r"^x is no regular file, and would be replaced by one: give another path$"):
        opt.save(path)
    assert stat.S_IFMT(path.lstat().st_mode) == kind
    with pytest.raises((ValueError, OSError), match="x"):  # at once, without a writer at the other end
        opt.load(path)


def test_a_link_to_nothing_becomes_a_link_to_the_file(tmp_path):
    (tmp_path / "link").symlink_to("file")
    SGD(np.ones(2)).save(tmp_path / "link")
    assert os.readlink(tmp_path / "link") == "file"
    SGD(np.zeros(2)).load(tmp_path / "file")


def test_a_dash_is_standard_output(tmp_path):
    code = "import numpy as np, fastopt\nprint('text')\nfastopt.Adam(np.arange(1e6)).save('-')\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=60, check=True)
    head, _, rest = done.stdout.partition(b"\n")
    assert head == b"text"
    (tmp_path / "x").write_bytes(rest)
    w = np.zeros(10**6)
    Adam(w).load(tmp_path / "x")
    assert (w == np.arange(1e6)).all()
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("stdout", [None, io.StringIO()], ids=["none", "of text"])
def test_a_standard_output_that_takes_no_bytes_is_said(stdout, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(ValueError, match=r"^'-' is standard output, which takes no bytes here: give a path$"):
        SGD(np.ones(2)).save("-")


# ---- a fork in the middle of a save ----

FORKED = """
import os, sys
import numpy as np
from fastopt import SGD, checkpoint

name, way = sys.argv[1:]
path, parent, done = name + "/x", os.getpid(), []
real = checkpoint._blocks

def fork():
    if not done:
        done.append(os.fork())
        if done == [0] and way == "exit":
            sys.exit(0)

def blocks(array, access):  # as a handler of a signal would, between any two blocks
    for n, block in enumerate(real(array, access)):
        if n == 2:
            fork()
        yield block

checkpoint._blocks = blocks
w = np.random.default_rng(0).normal(size=3_000_000)
try:
    SGD(w).save(path)
except RuntimeError as error:
    print("child" if os.getpid() != parent else "parent", error, flush=True)
    os._exit(0)
assert os.getpid() == parent
assert os.waitpid(done[0], 0)[1] == 0
other = np.zeros_like(w)
SGD(other).load(path)
assert (other == w).all()
assert os.listdir(name) == ["x"]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.parametrize("way", ["exit", "go on"])
def test_a_child_forked_in_the_middle_of_a_save_leaves_the_file_to_its_parent(way, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    said = "child this process was forked in the middle of a save: its parent goes on with it\n"
    assert done.stdout == (said if way == "go on" else "")


# ---- what killed saves leave behind ----

KILLED = """
import os, sys, time
import numpy as np
from fastopt import SGD, checkpoint

w = np.zeros(3_000_000)
real = os.fsync
def fsync(descriptor):
    print("writing", flush=True)
    time.sleep(60)
os.fsync = fsync
SGD(w).save(sys.argv[1])
"""


def test_the_next_save_removes_what_killed_ones_left_and_not_what_living_ones_write(tmp_path):
    def saving(name):
        command = [sys.executable, "-c", KILLED, str(tmp_path / name)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"writing\n"
        return child

    killed, living = saving("x"), saving("y")
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        left = {*os.listdir(tmp_path)}
        assert len(left) == 2
        SGD(np.ones(2)).save(tmp_path / "z")
        now = {*os.listdir(tmp_path)} - {"z"}
        assert len(now) == 1
        assert now < left
        assert (tmp_path / now.pop()).stat().st_size > 24_000_000
        assert living.poll() is None
    finally:
        for child in (killed, living):
            child.kill()
            child.wait()
            child.stdout.close()
    SGD(np.ones(2)).save(tmp_path / "z")
    assert os.listdir(tmp_path) == ["z"]


def test_files_that_only_look_like_it_are_left_alone(tmp_path):
    names = [
        ".fastopt-0123.tmp",
        ".fastopt-0123456789abcdeg.tmp",
        "fastopt-0123456789abcdef.tmp",
        ".fastopt-" + "0" * 16 + ".tmp",
    ]
    for name in names[:3]:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / names[3]).mkdir()
    os.mkfifo(tmp_path / (".fastopt-" + "1" * 16 + ".tmp"))
    SGD(np.ones(2)).save(tmp_path / "z")
    assert len(os.listdir(tmp_path)) == 6


def test_a_save_whose_file_was_taken_for_abandoned_before_it_was_locked_makes_another(monkeypatch, tmp_path):
    (tmp_path / (".fastopt-" + "1" * 16 + ".tmp")).touch()  # of one that was killed there
    real, removed = checkpoint.fcntl.flock, []

    def flock(file, operation):
        if operation == checkpoint.fcntl.LOCK_EX and len(removed) < 2:
            checkpoint._remove_abandoned(tmp_path)
            removed.append(os.listdir(tmp_path))
        real(file, operation)

    monkeypatch.setattr(checkpoint.fcntl, "flock", flock)
    SGD(np.ones(2)).save(tmp_path / "z")
    assert removed == [[], []]
    assert os.listdir(tmp_path) == ["z"]
    SGD(np.zeros(2)).load(tmp_path / "z")


# ---- metadata ----


@pytest.mark.parametrize("metadata", [{"\ud800": "x"}, {"x": "\udfff"}, {"a": "b", "c": "\ud83d"}], ids=ascii)
def test_metadata_that_is_no_valid_text_is_refused(metadata, tmp_path):
    key = list(metadata)[-1]
    with pytest.raises(ValueError, match=re.escape(f"metadata[{key!r}] is {metadata[key]!r}: wanted text")):
        SGD(np.ones(2)).save(tmp_path / "x", metadata=metadata)
    assert os.listdir(tmp_path) == []


def test_metadata_of_any_valid_text_comes_back(tmp_path):
    metadata = {"": "", "\0": "\N{SNOWMAN}\U0001f600\n\"'\\", "fastopt": "x" * 100_000}
    SGD({"\ud800": np.ones(2)}).save(tmp_path / "x", metadata=metadata)
    assert checkpoint.read_metadata(tmp_path / "x") == metadata


# ---- format 1 ----


def format_1():
    """What tests/golden/format1.safetensors was saved from, by fastopt 0.1.0 as it was before format 2."""
    rng = np.random.default_rng(11)
    params = [
        {"params": {"w": rng.normal(size=(3, 2)).astype(np.float32), "b": rng.normal(size=3)}, "lr": 0.01},
        {
            "params": [np.asfortranarray(rng.normal(size=(2, 3)))],
            "betas": (0.8, 0.99),
            "weight_decay": 0.1,
            "lr": CosineDecay(0.1, 10),
        },
    ]
    opt = Adam(params, amsgrad=True, decoupled=True)
    rng = np.random.default_rng(12)
    for t in range(3):
        w = rng.normal(size=(3, 2)).astype(np.float32)
        b = None if t == 1 else rng.normal(size=3)
        opt.step([{"w": w, "b": b}, [rng.normal(size=(2, 3))]])
    return opt, params


def test_files_of_format_1_load():
    wanted, theirs = format_1()
    blank = [{"params": {"b": np.zeros(3), "w": np.zeros((3, 2), "f")}}, {"params": [np.zeros((2, 3), order="F")]}]
    opt = Adam(blank, lr=CosineDecay(0.1, 10))
    opt.load(GOLDEN)
    trees = [[{k: g["params"][k] for k in "wb"}, g1["params"]] for g, g1 in (theirs, blank)]
    found, saved = whole(opt, trees[1]), whole(wanted, trees[0])
    assert found[0] == saved[0]
    assert found[1] == {name: saved[1][name] for name in found[1]}
    assert found[2:] == saved[2:]
    assert checkpoint.read_metadata(GOLDEN) == {"made by": "fastopt 0.1.0"}
    numbers = Adam([{**group, "lr": 0.1} for group in theirs])
    with pytest.raises(ValueError, match=r"param_groups\[1\] was saved with a schedule as lr: give it one before load"):
        numbers.load(GOLDEN)
