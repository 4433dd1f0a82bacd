"""Checkpoints: a resumed run is the uninterrupted run, a file is whole or refused, a save never loses the old one."""

from __future__ import annotations

import builtins
import copy
import decimal
import enum
import errno
import fractions
import json
import math
import os
import signal
import stat
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import pytest
from optimizers_table import REALS, RECORDS, stepped
from test_copies import make_grads, make_params
from test_errors import everything, run, says

from fastopt import NAG, SGD, Adam, AdEMAMix, RMSprop, checkpoint, hyper
from fastopt.optimizer import Hyper
from fastopt.schedules import Constant, CosineDecay, ExponentialDecay, LinearDecay, StepDecay, Warmup

# ---- resuming ----


def by_file(opt, fresh, path):
    opt.save(path)
    fresh.load(path)


def by_dict(opt, fresh, path):
    fresh.load_state_dict(opt.state_dict())
    for p, q in zip(leaves(opt), leaves(fresh), strict=True):
        q[...] = p


def leaves(opt):
    p = opt.param_groups[0]["params"]
    return [*p["w"], p["b"], p["none"]]


@pytest.mark.parametrize("resume", [by_file, by_dict])
@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_n_steps_saved_loaded_and_n_steps_are_2n_steps(record, dtype, resume, tmp_path):
    params = make_params(dtype)
    opt = record.make(params)
    for t in range(4):
        grads = make_grads(t, dtype)
        if t == 2:
            grads["w"][0] = None  # counts differ
        stepped(opt, grads)
    other = make_params(dtype)
    fresh = record.make(other, lr=0.7)
    stepped(fresh, make_grads(9, dtype))
    resume(opt, fresh, tmp_path / "opt")
    assert everything(fresh, other) == everything(opt, params)
    for t in range(4, 8):
        stepped(opt, make_grads(t, dtype))
        stepped(fresh, make_grads(t, dtype))
        assert everything(fresh, other) == everything(opt, params)


@pytest.mark.parametrize("way", ["file", "dict"])
def test_a_schedule_resumes_at_its_step(way, tmp_path):
    schedule = StepDecay(1.0, every=3, factor=0.5)
    w, w2 = np.zeros(2), np.zeros(2)
    opt, fresh = SGD(w, lr=schedule), SGD(w2, lr=schedule)
    for _ in range(4):
        opt.step(np.ones(2))
    opt.save(tmp_path / "x")
    if way == "file":
        fresh.load(tmp_path / "x")
    else:
        fresh.load_state_dict(opt.state_dict())
        w2[:] = w
    assert fresh.lr == schedule
    assert type(fresh.lr) is StepDecay
    for _ in range(4):
        opt.step(np.ones(2))
        fresh.step(np.ones(2))
    assert w.tolist() == w2.tolist() == [-(3 + 1.5 + 0.5)] * 2


@pytest.mark.parametrize("resume", [by_file, by_dict])
def test_a_hyper_parameter_of_none_is_no_schedule(resume, tmp_path):
    def make(value):
        return AdEMAMix({"w": [np.ones(2)], "b": np.ones(1), "none": np.ones(0)}, t_alpha_beta3=value)

    for before, value in [(None, None), (5.0, None), (None, 5.0)]:
        opt = make(before)
        resume(make(value), opt, tmp_path / "opt")
        assert opt.t_alpha_beta3 == value


SHIPPED = [
    Constant(0.5),
    StepDecay(1.0, every=3),
    ExponentialDecay(0.1, 0.5, every=7),
    LinearDecay(1.0, 10, final=0.25),
    CosineDecay(0.3, 5),
    Warmup(3, CosineDecay(0.3, 5)),
    Warmup(2, Warmup(3, 0.125)),
]


@pytest.mark.parametrize("schedule", SHIPPED, ids=repr)
def test_a_shipped_schedule_comes_back_whatever_was_there(schedule, tmp_path):
    saved = SGD([{"params": np.ones(2), "lr": schedule}, {"params": np.ones(3), "lr": 0.5}])
    saved.save(tmp_path / "x")
    for lr in (0.25, abs, LinearDecay(7.0, 7)):
        opt = SGD([{"params": np.ones(2)}, {"params": np.ones(3)}], lr=lr)
        opt.load(tmp_path / "x")
        assert opt.lr == [schedule, 0.5]
        assert type(opt.lr[0]) is type(schedule)
        opt = SGD([{"params": np.ones(2)}, {"params": np.ones(3)}], lr=lr)
        opt.load_state_dict(
            json.loads(json.dumps({**saved.state_dict(), "state": {}})) | {"state": saved.state_dict()["state"]}
        )
        assert opt.lr == [schedule, 0.5]


def test_an_option_that_a_snapshot_does_not_know_was_off_when_it_was_taken():
    opt = Adam(np.ones(2), amsgrad=True)
    snapshot = Adam(np.ones(2)).state_dict()
    del snapshot["param_groups"][0]["amsgrad"]
    opt.load_state_dict(snapshot)
    assert opt.amsgrad is False


class Mine(StepDecay):
    """A user's, of which the fields do not tell all."""


@pytest.mark.parametrize("schedule", [Mine(1.0, 3), lambda t: 1.0, Warmup(5, Mine(1.0, 3))], ids=repr)
def test_a_callable_of_the_users_stays_the_optimizers_and_a_number_replaces_one(schedule, tmp_path):
    w = np.zeros(2)
    saved = SGD(w, lr=schedule)
    assert saved.state_dict()["param_groups"][0]["lr"] is None
    saved.save(tmp_path / "schedule")
    SGD(w, lr=0.25).save(tmp_path / "number")
    opt = SGD(np.ones(2), lr=0.5)
    message = "param_groups[0] was saved with a schedule as lr: give it one before loading"
    refuses_load(opt, tmp_path / "schedule", ValueError, f"{tmp_path / 'schedule'} cannot be loaded: {message}")
    opt.lr = StepDecay(7.0, every=1)
    opt.load(tmp_path / "schedule")
    assert opt.lr == StepDecay(7.0, every=1)
    opt.load(tmp_path / "number")
    assert opt.lr == 0.25


def test_hyper_parameters_counts_and_state_that_options_no_longer_use_come_back(tmp_path):
    w = np.zeros(3)
    opt = Adam([{"params": w}, {"params": np.zeros(1), "amsgrad": True, "betas": (0.1, 1 / 3)}], nonfinite="skip")
    opt.step([np.ones(3), None])
    opt.step([np.full(3, np.nan), None])
    opt.param_groups[0].update(amsgrad=True, eps=0.125)
    opt.step([np.ones(3), np.ones(1)])
    opt.param_groups[0].update(amsgrad=False)
    opt.step([np.ones(3), None])
    opt.save(tmp_path / "x")
    w2 = np.zeros(3)
    fresh = Adam([{"params": w2}, {"params": np.zeros(1)}])
    fresh.load(tmp_path / "x")
    assert everything(fresh, w2) == everything(opt, w)
    assert fresh.param_groups[1]["betas"] == (0.1, 1 / 3)
    assert (fresh.steps, fresh.skipped) == (3, 1)
    assert "max_exp_avg_sq" in fresh.state["params[0]['params']"]
    # State that the snapshot has not is zero after it.
    SGD(w * 0).save(tmp_path / "plain")
    opt = SGD(w, momentum=0.9)
    opt.step(np.ones(3))
    opt.load(tmp_path / "plain")
    assert not any(s["momentum_buffer"].any() for s in opt.state.values())


def test_a_state_dict_is_a_snapshot_of_plain_things():
    params = make_params()
    opt = NAG(params, lr=StepDecay(1.0, every=3))
    stepped(opt, make_grads(0))
    snapshot = opt.state_dict()
    kept = copy.deepcopy(snapshot)
    stepped(opt, make_grads(1))
    opt.param_groups[0]["momentum"] = 0.1
    assert snapshot["steps"] == kept["steps"] == 1
    assert snapshot["param_groups"] == kept["param_groups"]
    assert snapshot["param_groups"][0]["lr"] == {"schedule": "StepDecay", "lr": 1.0, "every": 3, "factor": 0.1}
    for name, entry in snapshot["state"].items():
        assert entry["step"] == 1
        for slot in entry.keys() - {"step"}:
            assert entry[slot].tobytes() == kept["state"][name][slot].tobytes()
            assert not np.shares_memory(entry[slot], opt.state[name][slot])
    # What it was loaded from may change afterwards as well.
    opt.load_state_dict(snapshot)
    before = everything(opt, params)
    for entry in snapshot["state"].values():
        entry["momentum_buffer"][...] = 99
    snapshot["param_groups"][0]["momentum"] = 99
    assert everything(opt, params) == before
    assert list(snapshot) == ["format", "optimizer", "steps", "skipped", "param_groups", "state"]
    without_arrays = {**kept, "state": {k: {"step": v["step"]} for k, v in kept["state"].items()}}
    assert json.loads(json.dumps(without_arrays))["steps"] == 1


@pytest.mark.parametrize("params", [True, False])
def test_parameters_can_be_left_out_on_either_side(params, tmp_path):
    w = np.ones(3)
    opt = Adam(w)
    opt.step(np.ones(3))
    opt.save(tmp_path / "x", params=params)
    w2 = np.full(3, 5.0)
    fresh = Adam(w2)
    if not params:
        refuses_load(fresh, tmp_path / "x", ValueError, f"{tmp_path / 'x'} cannot be loaded: the snapshot lacks params")
    fresh.load(tmp_path / "x", params=False)
    assert (w2 == 5).all()
    assert everything(fresh)[1:] == everything(opt)[1:]


# ---- the file ----


def many(dtype, cls=Adam):
    rng = np.random.default_rng(0)
    return cls({
        "c": rng.normal(size=(3, 5)).astype(dtype),
        "f": np.asfortranarray(rng.normal(size=(4, 3, 2)).astype(dtype)),
        "scalar": np.asarray(rng.normal(), dtype),
        "empty": np.zeros((0, 2), dtype),
        "empty f": np.zeros((2, 0), dtype, order="F"),
        'quoted "name" \N{GREEK SMALL LETTER BETA} \n': [np.ones(1, dtype)],
        "large f": np.asfortranarray(rng.normal(size=(1500, 700)).astype(dtype)),
    })  # fmt: skip


def trained(opt):
    params = opt.param_groups[0]["params"]
    opt.step({k: [np.ones_like(v[0])] if isinstance(v, list) else np.ones_like(v) for k, v in params.items()})
    return opt


@pytest.mark.parametrize("dtype", REALS)
def test_any_safetensors_reader_opens_the_file(dtype, tmp_path):
    safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
    opt = trained(many(dtype))
    opt.save(tmp_path / "x.safetensors", metadata={"note": "\N{GREEK SMALL LETTER BETA} = 1"})
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert file.metadata()["note"] == "\N{GREEK SMALL LETTER BETA} = 1"
    wanted = dict(zip(opt.state, opt._plan.arrays, strict=True))
    wanted |= {f"{name}.{slot}": a for name, slots in opt.state.items() for slot, a in slots.items()}
    assert arrays.keys() == wanted.keys()
    for name, array in arrays.items():
        assert array.dtype == wanted[name].dtype
        assert array.shape == wanted[name].shape
        assert array.tobytes() == wanted[name].tobytes(), name


@pytest.mark.parametrize("dtype", REALS)
def test_arrays_of_every_kind_come_back_in_any_memory_order(dtype, tmp_path):
    opt = trained(many(dtype))
    opt.save(tmp_path / "x")
    other = many(dtype)
    params = other.param_groups[0]["params"]
    for key in ("c", "f", "large f"):  # in the other order now
        params[key] = np.asarray(params[key] * 0, order="F" if params[key].flags.c_contiguous else "C")
    other.bind(params)
    other.load(tmp_path / "x")
    for name, slots in opt.state.items():
        for slot in slots:
            assert slots[slot].tobytes() == other.state[name][slot].tobytes()
    assert [a.tobytes() for a in opt._plan.arrays] == [a.tobytes() for a in other._plan.arrays]


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("in_place", [False, True])
def test_an_array_whose_parts_have_another_shape_comes_back(in_place, tmp_path):
    values = np.arange(1e6).reshape(1000, 1000)
    SGD(np.matrix(values)).save(tmp_path / "x")
    w = np.matrix(np.zeros((1000, 1000)))
    SGD(w).load(tmp_path / "x", in_place=in_place)
    assert (np.asarray(w) == values).all()


class WithNone(SGD):
    """One of a user's, whose own hyper-parameter may be None."""

    limit: Hyper[float | None] = Hyper(hyper.optional(hyper.positive), default=None)


def test_none_that_is_a_value_comes_back_and_is_no_schedule(tmp_path):
    saved = WithNone(np.ones(2))
    saved.save(tmp_path / "x")
    opt = WithNone(np.zeros(2), limit=3.0)
    opt.load(tmp_path / "x")
    assert opt.limit is None
    opt.limit = 3.0
    opt.load_state_dict(saved.state_dict())
    assert opt.limit is None


def test_special_values_come_back_to_the_bit(tmp_path):
    w = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324, 1.0])
    w.view("u8")[0] |= 0xABC
    before = w.tobytes()
    opt = SGD(w)
    opt.save(tmp_path / "x")
    w[:] = 0
    opt.load(tmp_path / "x")
    assert w.tobytes() == before


def test_metadata_is_kept_and_given_back_without_fastopts_own(tmp_path):
    path = tmp_path / "x"
    opt = SGD(np.zeros(1))
    opt.save(path)
    assert checkpoint.read_metadata(path) == {}
    texts = {"epoch": "3", "": "", "β": '∑ " \\ \n \x00', "fastopt": "mine", "0" * 64: "0" * 64}
    opt.save(path, metadata=texts)
    assert checkpoint.read_metadata(str(path)) == texts
    opt.load(path)
    old = path.read_bytes()
    for wrong, error, message in [
        ({"epoch": 3}, TypeError, "metadata['epoch'] is 3: wanted text under text"),
        ({3: "epoch"}, TypeError, "metadata[3] is 'epoch': wanted text under text"),
        ({"fastopt.x": ""}, ValueError, "metadata['fastopt.x']: names that start with 'fastopt.' are fastopt's own"),
    ]:
        with pytest.raises(error, match=says(message)):
            opt.save(path, metadata=wrong)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_text_and_path_objects_are_paths_and_an_existing_files_mode_is_kept(tmp_path):
    w = np.ones(1)
    opt = SGD(w)
    opt.save(str(tmp_path / "x"))
    (tmp_path / "x").chmod(0o640)
    opt.save(tmp_path / "x")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
    opt.load(str(tmp_path / "x"))


def test_a_new_file_has_the_mode_that_new_files_have(tmp_path):
    (tmp_path / "usual").touch()
    SGD(np.ones(1)).save(tmp_path / "x")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_symbolic_link_stays_one_and_its_target_is_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    target, link = tmp_path / "run" / "3", tmp_path / "latest"
    w = np.ones(1)
    opt = SGD(w)
    opt.save(target)
    link.symlink_to(target)
    w[0] = 2
    opt.save(link)
    assert link.is_symlink()
    opt.load(target)
    assert w[0] == 2


# ---- refusals ----


def refuses_load(opt, path, error, message, **how):
    before = everything(opt, opt._plan.arrays)
    with pytest.raises(error, match=says(message)):
        opt.load(path, **how)
    assert everything(opt, opt._plan.arrays) == before


def test_files_that_are_not_there_or_cannot_be_written(tmp_path):
    opt = Adam(np.ones(2))
    refuses_load(opt, tmp_path / "none", FileNotFoundError, "…No such file…")
    refuses_load(opt, tmp_path, IsADirectoryError, "…Is a directory…")
    with pytest.raises(FileNotFoundError):
        checkpoint.read_metadata(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="none"):
        opt.save(tmp_path / "none" / "x")
    with pytest.raises(ValueError, match="is no regular file"):
        opt.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError):
        opt.save(None)
    with pytest.raises(TypeError):
        opt.load(3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    opt = Adam(np.ones(2))
    opt.save(tmp_path / "x")
    old = (tmp_path / "x").read_bytes()
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            opt.save(tmp_path / "x")
    finally:
        tmp_path.chmod(0o700)
    assert (tmp_path / "x").read_bytes() == old


def tensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


TRUNCATED = "{} is not a checkpoint that can be loaded: it is truncated, or of another format"
HEADER = "{} is not a checkpoint that can be loaded: its header is none of fastopt's (…)"
DIGEST = "{} is not a checkpoint that can be loaded: it is truncated or altered, its digest does not match"
FOREIGN = [
    ("nothing", b"", TRUNCATED),
    ("text", b"weights,bias\n1,2\n" * 9, TRUNCATED),
    ("seven bytes", b"\0" * 7, TRUNCATED),
    ("a length of nothing", b"\0" * 8, HEADER),
    ("a length past the end", tensors({}, length=3), TRUNCATED),
    ("a length beyond all", b"\xff" * 8 + b"{}", TRUNCATED),
    ("no JSON", tensors(b"{x}"), HEADER),
    ("no text", tensors(b'{"\xff\xfe": 1}'), HEADER),
    ("a list", tensors([]), HEADER),
    ("a number", tensors(5), HEADER),
    ("no metadata", tensors({}), HEADER),
    ("metadata that is text", tensors({"__metadata__": "x"}), HEADER),
    ("metadata that is null", tensors({"__metadata__": None}), HEADER),
    ("metadata that is a list", tensors({"__metadata__": ["fastopt.digest"]}), HEADER),
    ("no digest", tensors({"__metadata__": {"format": "pt"}}), HEADER),
    ("another type", tensors({"__metadata__": {"fastopt.digest": ""},
                              "x": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}}, b"ab"), HEADER),
    ("an entry that is text", tensors({"__metadata__": {"fastopt.digest": ""}, "x": "y"}), HEADER),
    ("an entry without a place", tensors({"__metadata__": {"fastopt.digest": ""}, "x": {}}), HEADER),
    ("a type that is a list", tensors({"__metadata__": {"fastopt.digest": ""},
                                       "x": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}), HEADER),
    ("an empty digest", tensors({"__metadata__": {"fastopt.digest": ""}}), HEADER),
    ("a digest that is a number", tensors({"__metadata__": {"fastopt.digest": 0}}), HEADER),
    ("a digest without digits", tensors({"__metadata__": {"fastopt.digest": "g" * 64}}), HEADER),
    ("a digest of zeros", tensors({"__metadata__": {"fastopt.digest": "0" * 64}}), DIGEST),
    ("brackets without end", tensors(b"[" * 100_000), HEADER),
]  # fmt: skip


@pytest.mark.parametrize(("words", "content", "message"), FOREIGN, ids=[row[0] for row in FOREIGN])
def test_what_is_no_checkpoint_is_refused(words, content, message, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(content)
    refuses_load(trained(many("float32")), path, ValueError, message.format(path).replace("(…)", "(…)"))
    with pytest.raises(ValueError, match="is not a checkpoint that can be loaded"):
        checkpoint.read_metadata(path)


def test_a_safetensors_file_of_someone_else_is_refused(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed").save_file
    save_file({"params": np.ones(2)}, tmp_path / "x", metadata={"fastopt.optimizer": "{}"})
    refuses_load(SGD(np.ones(2)), tmp_path / "x", ValueError, HEADER.format(tmp_path / "x"))


def test_a_whole_file_that_no_optimizer_wrote_is_refused(tmp_path):
    checkpoint.write(tmp_path / "x", {"params": np.ones(2)}, {"note": "mine"})
    assert checkpoint.read_metadata(tmp_path / "x") == {"note": "mine"}
    message = f"{tmp_path / 'x'} cannot be loaded: it was not written by an optimizer's save()"
    refuses_load(SGD(np.ones(2)), tmp_path / "x", ValueError, message)


def small():
    w = {"w": np.linspace(0, 1, 6, dtype="f").reshape(2, 3), "b": np.asfortranarray(np.ones((2, 2)))}
    opt = RMSprop(w, centered=True, momentum=0.5)
    opt.step({"w": np.ones((2, 3), "f"), "b": np.ones((2, 2))})
    return opt


def test_a_file_cut_anywhere_is_refused_and_changes_nothing(tmp_path):
    opt, path = small(), tmp_path / "x"
    opt.save(path, metadata={"k": "v"})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    opt.step({"w": np.ones((2, 3), "f"), "b": np.ones((2, 2))})
    before = everything(opt, opt._plan.arrays)
    lengths = {*range(20), *range(0, header, 37), *range(header - 9, len(whole))}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a checkpoint that can be loaded"):
            opt.load(path)
    for more in (b"\0", b" ", whole):
        path.write_bytes(whole + more)
        with pytest.raises(ValueError, match="is not a checkpoint that can be loaded"):
            opt.load(path)
    assert everything(opt, opt._plan.arrays) == before
    path.write_bytes(whole)
    opt.load(path)


def test_a_file_with_one_byte_altered_is_refused_and_changes_nothing(tmp_path):
    opt, path = small(), tmp_path / "x"
    opt.save(path, metadata={"k": "v"})
    whole = path.read_bytes()
    opt.step({"w": np.ones((2, 3), "f"), "b": np.ones((2, 2))})
    before = everything(opt, opt._plan.arrays)
    masks = [0x01, 0x20, 0x80]  # another letter or digit, the other case, no ASCII
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ masks[at % 3]]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="is not a checkpoint that can be loaded"):
            opt.load(path)
    assert everything(opt, opt._plan.arrays) == before


def test_bytes_altered_deep_in_a_large_file_are_found(tmp_path):
    w = np.zeros(1_500_000)
    opt, path = SGD(w), tmp_path / "x"
    opt.save(path)
    for at in (-1, -(1 << 22), -(1 << 22) - 1, -8_000_000):
        with open(path, "r+b") as file:
            file.seek(at, os.SEEK_END)
            file.write(b"\1")
        refuses_load(opt, path, ValueError, DIGEST.format(path))
        opt.save(path)
    opt.load(path)


OTHERS = [
    ("another optimizer", lambda: SGD([np.ones(2), np.ones((2, 3))]), "the snapshot is of Adam: wanted one of SGD"),
    ("another name", lambda: Adam({0: np.ones(2), 2: np.ones((2, 3))}),
     "the snapshot is of other parameters: it has params[1], and not params[2]"),
    ("a parameter more", lambda: Adam([np.ones(2), np.ones((2, 3)), np.ones(1)]),
     "the snapshot is of other parameters: it lacks params[2]"),
    ("a parameter less", lambda: Adam([np.ones(2)]),
     "the snapshot is of other parameters: it has params[1], which this optimizer has not"),
    ("groups", lambda: Adam([{"params": [np.ones(2), np.ones((2, 3))]}]),
     "the snapshot is of other parameters: it has params[0], and not params[0]['params'][0]"),
    ("more groups", lambda: Adam([{"params": np.ones(2)}, {"params": np.ones((2, 3))}]),
     "the snapshot is of 1 group: wanted 2"),
    ("another shape", lambda: Adam([np.ones(2), np.ones((3, 2))]),
     "the snapshot has params[1]… as float64 (2, 3): wanted float64 (3, 2)"),
    ("an axis more", lambda: Adam([np.ones((2, 1)), np.ones((2, 3))]),
     "the snapshot has params[0]… as float64 (2,): wanted float64 (2, 1)"),
    ("another type", lambda: Adam([np.ones(2, "f"), np.ones((2, 3))]),
     "the snapshot has params[0]… as float64 (2,): wanted float32 (2,)"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "make", "message"), OTHERS, ids=[row[0] for row in OTHERS])
def test_a_snapshot_of_something_else_is_refused_and_changes_nothing(words, make, message, tmp_path):
    saved = Adam([np.ones(2), np.ones((2, 3))])
    saved.step([np.ones(2), np.ones((2, 3))])
    saved.save(tmp_path / "x")
    opt = make()
    where = f"{tmp_path / 'x'} cannot be loaded: "
    refuses_load(opt, tmp_path / "x", ValueError, where + message, params=False)
    refuses_load(opt, tmp_path / "x", ValueError, where + "the snapshot …")
    before = everything(opt, opt._plan.arrays)
    with pytest.raises(ValueError, match=says(message)):
        opt.load_state_dict(saved.state_dict())
    assert everything(opt, opt._plan.arrays) == before


def edited(*path_and_value):
    def edit(snapshot):
        *path, last, value = path_and_value
        at = snapshot
        for key in path:
            at = at[key]
        if value is None and last not in ("lr", "params", "step", "optimizer"):
            del at[last]
        else:
            at[last] = value
        return snapshot

    return edit


GROUP, W = ("param_groups", 0), ("state", "params['w']")
DAMAGED = [
    ("no dict", lambda s: 3, TypeError, "state_dict is not a dict made by state_dict()"),
    ("an empty dict", lambda s: {}, TypeError, "state_dict is not a dict made by state_dict()"),
    ("no state", edited("state", None), TypeError, "state_dict is not a dict made by state_dict()"),
    ("another format", edited("format", 3), ValueError, "the snapshot has format 3: wanted at most 2"),
    ("no format", edited("format", None), ValueError, "the snapshot has format None: wanted at most 2"),
    ("no optimizer", edited("optimizer", None), ValueError, "the snapshot is of None: wanted one of Adam"),
    ("negative steps", edited("steps", -1), ValueError, "the snapshot is damaged: steps is -1"),
    ("steps that are a float", edited("steps", 1.0), ValueError, "the snapshot is damaged: steps is 1.0"),
    ("steps that are true", edited("skipped", True), ValueError, "the snapshot is damaged: skipped is True"),
    ("steps beyond counting", edited("steps", 2**70), ValueError, f"the snapshot is damaged: steps is {2**70}"),
    ("no skipped", edited("skipped", None), ValueError, "the snapshot is damaged: skipped is None"),
    ("no count", edited(*W, "step", None), ValueError,
     "the snapshot is damaged: the count of updates of params['w'] is None"),
    ("a negative count", edited(*W, "step", -2), ValueError,
     "the snapshot is damaged: the count of updates of params['w'] is -2"),
    ("a count beyond counting", edited("state", "params['b']", "step", 2**70), ValueError,
     f"the snapshot is damaged: the count of updates of params['b'] is {2**70}"),
    ("no groups", edited("param_groups", None), ValueError, "the snapshot is damaged: its groups are None"),
    ("a group that is no dict", edited("param_groups", 0, 5), ValueError,
     "the snapshot is damaged: its groups are [5]"),
    ("a name twice", edited(*GROUP, "params", ["params['b']", "params['w']", "params['b']"]), ValueError,
     "the snapshot is damaged: the parameters of group 0 are [\"params['b']\", \"params['w']\", \"params['b']\"]"),
    ("names that are none", edited(*GROUP, "params", [[], {}]), ValueError,
     "the snapshot is damaged: the parameters of group 0 are [[], {}]"),
    ("an unknown hyper-parameter", edited(*GROUP, "beta1", 0.9), ValueError,
     "beta1: Adam has no hyper-parameter 'beta1': did you mean 'betas'?"),
    ("an unknown schedule", edited(*GROUP, "lr", {"schedule": "Adam", "lr": 0.1}), ValueError,
     "there is no schedule {'schedule': 'Adam', 'lr': 0.1}"),
    ("a schedule without its numbers", edited(*GROUP, "lr", {"schedule": "CosineDecay", "lr": 0.1}), ValueError,
     "there is no schedule {'schedule': 'CosineDecay', 'lr': 0.1}"),
    ("a schedule out of range", edited(*GROUP, "lr", {"schedule": "Constant", "lr": -0.1}), ValueError,
     "lr is -0.1: wanted a finite number of at least 0"),
    ("a hyper-parameter less", edited(*GROUP, "eps", None), ValueError, "param_groups[0] lacks 'eps'"),
    ("one less that is 0 by default", edited(*GROUP, "weight_decay", None), ValueError,
     "param_groups[0] lacks 'weight_decay'"),
    ("a hyper-parameter out of range", edited(*GROUP, "eps", -1.0), ValueError,
     "eps is -1.0: wanted a finite number of at least 0"),
    ("a schedule for a number", edited(*GROUP, "lr", None), ValueError,
     "param_groups[0] was saved with a schedule as lr: give it one before loading"),
    ("an entry that is no dict", edited(*W, 3), TypeError,
     "state_dict['state'][\"params['w']\"] is int: wanted a dict"),
    ("a list for an array", edited(*W, "exp_avg", [1.0]), TypeError,
     "state_dict['state'][\"params['w']\"]['exp_avg'] is list: wanted an array"),
    ("an array less", edited("state", "params['b']", "exp_avg_sq", None), ValueError,
     "the snapshot lacks params['b'].exp_avg_sq"),
    ("an array more", edited("state", "params['b']", "velocity", np.ones(2)), ValueError,
     "the snapshot has params['b'].velocity, which this optimizer has not"),
    ("a parameter more", edited("state", "params['c']", {"step": 1}), ValueError, "the snapshot …params['c']…"),
    ("an array of another type", edited("state", "params['b']", "exp_avg", np.ones(2, "f")), ValueError,
     "the snapshot has params['b'].exp_avg as float32 (2,): wanted float64 (2,)"),
    ("an array with swapped bytes", edited("state", "params['b']", "exp_avg", np.ones(2, ">f8")), ValueError,
     "the snapshot has params['b'].exp_avg as >f8 (2,): wanted float64 (2,)"),
    ("an array that would broadcast", edited("state", "params['b']", "exp_avg", np.ones(())), ValueError,
     "the snapshot has params['b'].exp_avg as float64 (): wanted float64 (2,)"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "edit", "error", "message"), DAMAGED, ids=[row[0] for row in DAMAGED])
def test_a_damaged_state_dict_is_refused_and_changes_nothing(words, edit, error, message):
    def make(seed):
        opt = Adam({"w": np.ones(3), "b": np.ones(2)}, lr=0.1 * seed)
        opt.step({"w": np.full(3, seed), "b": np.full(2, seed)})
        return opt

    snapshot = edit(make(1.0).state_dict())
    opt = make(2.0)
    before = everything(opt, opt._plan.arrays)
    with pytest.raises(error, match=says(message)):
        opt.load_state_dict(snapshot)
    assert everything(opt, opt._plan.arrays) == before


def test_loading_into_parameters_that_became_read_only_changes_nothing(tmp_path):
    saved = Adam([np.ones(2), np.ones(3)])
    saved.step([np.ones(2), np.ones(3)])
    saved.save(tmp_path / "x")
    v, w = np.zeros(2), np.zeros(3)
    opt = Adam([v, w], lr=0.5)
    w.flags.writeable = False
    refuses_load(opt, tmp_path / "x", ValueError, "params[1] is read-only: it cannot be updated in place")


def test_a_reordered_dict_is_loaded_by_name(tmp_path):
    opt = SGD({"a": np.full(2, 1.0), "b": np.full(2, 2.0)}, momentum=0.9)
    opt.step({"a": np.full(2, 1.0), "b": np.full(2, 2.0)})
    opt.save(tmp_path / "x")
    other = SGD({"b": np.zeros(2), "a": np.zeros(2)}, momentum=0.9)
    other.load(tmp_path / "x")
    assert (other.state["params['a']"]["momentum_buffer"] == 1).all()
    assert (other.state["params['b']"]["momentum_buffer"] == 2).all()
    assert other.params["b"].tolist() == opt.params["b"].tolist()
    other = SGD({"b": np.zeros(2), "a": np.zeros(2)}, momentum=0.9)
    other.load_state_dict(opt.state_dict())
    assert (other.state["params['b']"]["momentum_buffer"] == 2).all()


class Key(str, enum.Enum):
    A = "a"


class Place(NamedTuple):
    row: int
    name: str


ALIKE = [
    *(("a", np.str_("a")), ("a", Key.A), (b"a", np.bytes_(b"a"))),
    *((1, True), (1, np.int64(1)), (1, 1.0), (1, decimal.Decimal(1)), (1, fractions.Fraction(1))),
    *((0.5, np.float64(0.5)), (0.5, np.float32(0.5)), (0.5, fractions.Fraction(1, 2)), (math.inf, np.float64(np.inf))),
    *((("a", 0), (Key.A, np.uint8(0))), ((2, "a"), Place(2, "a"))),
]


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=repr)
def test_keys_that_are_equal_are_the_same_however_they_print(one, other, tmp_path):
    for key, alias in ((one, other), (other, one)):
        opt = SGD({key: np.ones(2), "z": np.ones(1)}, momentum=0.9)
        opt.step({alias: np.ones(2), "z": np.zeros(1)})
        opt.save(tmp_path / "x")
        twin = SGD({"z": np.ones(1), alias: np.zeros(2)}, momentum=0.9)
        twin.load(tmp_path / "x")
        assert twin.params[key].tolist() == opt.params[alias].tolist()
        bound = copy.deepcopy(opt).bind({"z": np.zeros(1), alias: np.zeros(2)})
        for found in (twin, bound):
            assert {**found.step_counts} == {**opt.step_counts}
            for name, state in opt.state.items():
                assert found.state[name]["momentum_buffer"].tolist() == state["momentum_buffer"].tolist()


# ---- a save that fails ----


class Failing:
    """A file that does all it is asked to, up to one write or flush."""

    def __init__(self, file, failures):
        self.file, self.failures = file, failures

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        method = getattr(self.file, name)

        def call(*args):
            if name in ("write", "flush", "seek"):
                if self.failures[0] == 0:
                    if name == "write":
                        method(args[0][: len(args[0]) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.failures[0] -= 1
            return method(*args)

        return call


def test_a_save_that_fails_at_any_write_leaves_the_old_file_and_no_other(monkeypatch, tmp_path):
    opt, path = small(), tmp_path / "x"
    opt.save(path)
    old = path.read_bytes()
    opt.step({"w": np.ones((2, 3), "f"), "b": np.ones((2, 2))})
    before = everything(opt, opt._plan.arrays)
    real = os.fdopen
    for n in range(100):
        failures = [n]
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdopen", lambda *args, f=failures: Failing(real(*args), f))
            try:
                opt.save(path)
                break
            except OSError:
                pass
        assert path.read_bytes() == old
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
        assert everything(opt, opt._plan.arrays) == before
    assert n > 8  # header, eight arrays, header again
    assert path.read_bytes() != old
    opt.load(path)


@pytest.mark.parametrize("name", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "input/output error"), KeyboardInterrupt()], ids=repr)
def test_a_save_that_fails_at_its_end_leaves_the_old_file_and_no_other(name, error, monkeypatch, tmp_path):
    opt, path = small(), tmp_path / "x"
    opt.save(path)
    old = path.read_bytes()
    opt.step({"w": np.ones((2, 3), "f"), "b": np.ones((2, 2))})

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(type(error)):
            opt.save(path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    opt.save(path)


def test_a_failed_first_save_leaves_nothing(monkeypatch, tmp_path):
    opt = small()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(OSError, match="no"):
            opt.save(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_synced_is_no_error(monkeypatch, tmp_path):
    real = os.open

    def refuse(path, flags, *args, **kwargs):
        if os.path.isdir(path):
            raise OSError(errno.EINVAL, "folders cannot be opened here")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    opt = small()
    opt.save(tmp_path / "x")
    opt.load(tmp_path / "x")


def test_the_data_is_on_the_disk_before_the_name_is(monkeypatch, tmp_path):
    seen = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, f=real, n=name: (seen.append(n), f(*a))[1])
    small().save(tmp_path / "x")
    assert seen == ["fsync", "replace", "fsync"]


def test_a_file_cut_while_it_is_read_is_an_error(monkeypatch, tmp_path):
    opt, path = Adam(np.ones(10_000)), tmp_path / "x"  # larger than the buffer of a file
    opt.save(path)
    with checkpoint.Reader(path) as reader:
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(ValueError, match="it was truncated while it was read"):
            reader.read({name: np.empty(shape, dtype) for name, (dtype, shape) in reader.specs.items()})


SAVER = """
import os, signal, sys
import numpy as np
from fastopt import Adam, checkpoint

path = sys.argv[1]
w = np.zeros(300_000, "f")
opt = Adam(w)
opt.step(np.ones_like(w))
opt.save(path)
old = open(path, "rb").read()
opt.step(np.ones_like(w))
"""

KILLED_AT_EACH_CALL = (
    SAVER
    + """
class Counting:
    def __init__(self, file):
        self.file = file
    def __enter__(self):
        return self
    def __exit__(self, *_):
        point(); self.file.close(); point()
    def __getattr__(self, name):
        method = getattr(self.file, name)
        def call(*args):
            point()
            if name == "write" and left == 0:
                method(args[0][:len(args[0]) // 2])
                self.file.flush()
            result = method(*args)
            point()
            return result
        return call

def point():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def pointed(f):
    def call(*a, **k):
        point()
        result = f(*a, **k)
        point()
        return result
    return call

real, kills, whole = os.fdopen, 0, 0
for n in range(200):
    child = os.fork()
    if child == 0:
        left = n
        os.fdopen = lambda *a: Counting(real(*a))
        for name in ("fsync", "replace", "chmod"):
            setattr(os, name, pointed(getattr(os, name)))
        opt.save(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    now = open(path, "rb").read()
    if now != old:
        whole += 1
        checkpoint.Reader(path).close()
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert whole or now == old
    kills += 1
assert kills > 15, kills
assert 1 <= whole <= 6, whole  # after the rename it is the new one
"""
)


def test_a_save_killed_between_any_two_calls_leaves_the_old_file_or_the_new(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", KILLED_AT_EACH_CALL, str(tmp_path / "x")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_save_killed_at_any_time_leaves_a_whole_file(tmp_path):
    path = tmp_path / "x"
    code = SAVER + "\nprint('ready', flush=True)\nwhile True:\n    opt.step(np.ones_like(w))\n    opt.save(path)\n"
    rng = np.random.default_rng()
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=tmp_path, stdout=subprocess.PIPE)
        assert child.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        opt = Adam(np.zeros(300_000, "f"))
        opt.load(path)
        assert opt.steps >= 1


def test_saving_and_loading_in_place_use_a_few_blocks_of_memory_and_loading_as_much_as_it_reads(tmp_path):
    code = """
import resource, sys
import numpy as np
from fastopt import SGD

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

w = {"c": np.ones((4, 5_000_000), "f"), "f": np.asfortranarray(np.ones((5_000_000, 4), "f"))}
opt = SGD(w)
before = peak()
opt.save("x")
opt.load("x", in_place=True)
assert peak() - before < 40_000, peak() - before  # of 160,000: a few blocks of 4 MiB each
opt.load("x")
assert peak() - before < 160_000 + 40_000, peak() - before
"""
    run(code, tmp_path)


def test_a_checkpoint_can_be_opened_many_times_and_leaves_no_file_open(monkeypatch, tmp_path):
    opened = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: opened.append(real(*a, **k)) or opened[-1])
    opt, path = small(), tmp_path / "x"
    opt.save(path)
    opt.load(path)
    checkpoint.read_metadata(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="truncated"):
        opt.load(path)
    assert len(opened) >= 3
    assert all(file.closed for file in opened)
