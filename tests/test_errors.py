"""Every error of the contract: its type, its whole message, and that not one byte has changed.

Wrong hyper-parameters are in test_hyper.py, wrong files and snapshots in test_checkpoint.py, wrong structures in full
in test_structures.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
from optimizers_table import KINDS, stepped
from processes import in_child
from support import elsewhere, named

from fastopt import NAG, SGD, Adam, AdamW, RMSprop

CLASSES = list(KINDS.values())


def digest(array):
    return array.shape, array.dtype.str, hashlib.blake2b(array.tobytes("A"), digest_size=16).hexdigest()


def everything(opt, *trees):
    """All there is to lose: the arrays in `trees`, state, counts and hyper-parameters."""
    arrays = [(name, digest(leaf)) for i, tree in enumerate(trees) for name, leaf in named(tree, str(i))
              if isinstance(leaf, np.ndarray)]  # fmt: skip
    if opt is None:
        return arrays
    state = {name: {slot: digest(x) for slot, x in slots.items()} for name, slots in opt.state.items()}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]
    return arrays, state, opt.step_counts, opt.steps, opt.skipped, repr(groups)


def run(code, folder):
    """Run Python code in a process of its own, and see it through."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def says(message):
    """A pattern for the whole message, in which … stands for anything."""
    return "^" + re.escape(message).replace("…", ".*") + "$"


# ---- parameters ----


def read_only():
    w = np.ones(3)
    w.flags.writeable = False
    return w


def unaligned():
    return np.zeros(25, np.uint8)[1:].view(np.float64)


W = np.ones(4)
LAYOUT = "is not contiguous: a parameter must be C- or Fortran-contiguous, and is never copied"
KINDS = "a parameter must be float32 or float64"

WRONG_PARAMS = [
    ("a number", lambda: 1.0, TypeError,
     "params is float: a parameter must be a NumPy array, for one number np.array(0.0)"),
    ("a NumPy number", lambda: np.float64(1), TypeError,
     "params is float64: a parameter must be a NumPy array, for one number np.array(0.0)"),
    ("None", lambda: None, TypeError, "params is NoneType: a parameter must be a NumPy array"),
    ("text", lambda: "weights", TypeError, "params is str: a parameter must be a NumPy array"),
    ("a list of numbers", lambda: [1.0], TypeError,
     "params[0] is float: a parameter must be a NumPy array, for one number np.array(0.0)"),
    ("a generator", lambda: (w for w in [W]), TypeError, "params is generator: a parameter must be a NumPy array"),
    ("a set", lambda: {1}, TypeError, "params is set: a parameter must be a NumPy array"),
    ("a memoryview", lambda: memoryview(np.ones(3)), TypeError,
     "params is memoryview: a parameter must be a NumPy array"),
    ("None in a dict", lambda: {"w": W, "b": None}, TypeError,
     "params['b'] is NoneType: a parameter must be a NumPy array"),
    ("float16, deep inside", lambda: {"encoder": [W, (W + 1, np.ones(2, "e"))]}, TypeError,
     f"params['encoder'][1][1] has dtype float16: {KINDS}"),
    ("integers", lambda: {("a", 1): np.ones(2, int)}, TypeError, f"params[('a', 1)] has dtype int64: {KINDS}"),
    ("booleans", lambda: np.ones(2, bool), TypeError, f"params has dtype bool: {KINDS}"),
    ("complex numbers", lambda: np.ones(2, complex), TypeError, f"params has dtype complex128: {KINDS}"),
    ("objects", lambda: np.array([W, None], object), TypeError, f"params has dtype object: {KINDS}"),
    ("long doubles", lambda: np.ones(2, "g"), TypeError, f"params has dtype {np.dtype('g')}: {KINDS}"),
    ("a structured type", lambda: np.ones(2, [("x", "f4")]), TypeError,
     f"params has dtype [('x', '<f4')]: {KINDS}"),
    ("swapped bytes", lambda: [np.ones(2, ">f4")], TypeError,
     "params[0] has the byte-swapped dtype '>f4': convert it with .astype('<f4')"),
    ("a masked array", lambda: np.ma.ones(2), TypeError,
     "params is a masked array: its mask would be ignored; pass its data"),
    ("read-only", lambda: [read_only()], ValueError, "params[0] is read-only: it cannot be updated in place"),
    ("broadcast", lambda: np.broadcast_to(np.ones(1), 3), ValueError,
     "params is read-only: it cannot be updated in place"),
    ("broadcast and writable", lambda: np.lib.stride_tricks.as_strided(np.ones(1), (3,), (0,)), ValueError,
     f"params of shape (3,) and strides (0,) {LAYOUT}"),
    ("every second", lambda: {"w": np.ones(6)[::2]}, ValueError,
     f"params['w'] of shape (3,) and strides (16,) {LAYOUT}"),
    ("backwards", lambda: np.ones(6)[::-1], ValueError, f"params of shape (6,) and strides (-8,) {LAYOUT}"),
    ("columns", lambda: np.ones((4, 6))[:, :3], ValueError, f"params of shape (4, 3) and strides (48, 8) {LAYOUT}"),
    ("axes rotated", lambda: np.ones((2, 3, 4)).transpose(1, 0, 2), ValueError,
     f"params of shape (3, 2, 4) and strides (32, 96, 8) {LAYOUT}"),
    ("unaligned", lambda: unaligned(), ValueError, "params is not aligned: its address 0x… is no multiple of 8"),
    ("the same array twice", lambda: {"a": W, "b": [W]}, ValueError,
     "params['b'][0] is the same array as params['a']: each parameter must appear once"),
    ("the same array in two groups", lambda: [{"params": W}, {"params": [W]}], ValueError,
     "params[1]['params'][0] is the same array as params[0]['params']: each parameter must appear once"),
    ("a view of another", lambda: [W, W[:2]], ValueError,
     "params[1] overlaps the memory of params[0]: each parameter must have memory of its own"),
    ("a byte shared", lambda: [W[:3], np.ones(3), W[2:]], ValueError,
     "params[2] overlaps the memory of params[0]: each parameter must have memory of its own"),
    ("a transpose of another", lambda: (lambda w: [w, w.T])(np.ones((2, 3))), ValueError,
     "params[1] overlaps the memory of params[0]: each parameter must have memory of its own"),
    ("the same memory as another type", lambda: [W, W.view(np.float32)[4:]], ValueError,
     "params[1] overlaps the memory of params[0]: each parameter must have memory of its own"),
]  # fmt: skip


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("words", "make", "error", "message"), WRONG_PARAMS, ids=[row[0] for row in WRONG_PARAMS])
def test_parameters_that_cannot_be_updated_in_place_are_refused(cls, words, make, error, message):
    params = make()
    before = everything(None, params)
    with pytest.raises(error, match=says(message)):
        cls(params)
    assert everything(None, params) == before


def test_neighbours_in_one_buffer_do_not_overlap():
    buffer = np.zeros(10)
    opt = SGD([buffer[:3], buffer[3:7].reshape(2, 2), buffer[7:]], lr=1.0)
    assert opt.step([np.ones(3), np.ones((2, 2)), np.ones(3)])
    assert (buffer == -1).all()


# ---- gradients ----


def params():
    rng = np.random.default_rng(0)
    return {
        "encoder": [rng.normal(size=(2, 3)).astype("f"), np.asfortranarray(rng.normal(size=(3, 4)).astype("f"))],
        "bias": rng.normal(size=6),
        "scale": np.array(1.5),
        "empty": np.zeros((0, 3), "f"),
    }


def gradients(seed=1):
    rng = np.random.default_rng(seed)
    return {
        "encoder": [rng.normal(size=(2, 3)).astype("f"), rng.normal(size=(3, 4)).astype("f")],
        "bias": rng.normal(size=6),
        "scale": np.array(0.5),
        "empty": np.zeros((0, 3), "f"),
    }


def replaced(*path_and_value):
    """Put a value in the place of a leaf or branch."""

    def make(g, p):
        *path, last, value = path_and_value
        at = g
        for key in path:
            at = at[key]
        at[last] = value(g, p) if callable(value) else value
        return g

    return make


def without(key):
    return lambda g, p: {k: v for k, v in g.items() if k != key}


NOT_ONE = "a gradient must be an array, or what NumPy can view as one"
KEYS = "wanted a dict with keys ['encoder', 'bias', 'scale', 'empty']"
WHILE = "it would change while it is read"

WRONG_GRADS = [
    ("of another float", replaced("encoder", 0, np.ones((2, 3))), TypeError,
     "grads['encoder'][0] has dtype float64: wanted float32, as params['encoder'][0] has"),
    ("of a narrower float", replaced("bias", np.ones(6, "f")), TypeError,
     "grads['bias'] has dtype float32: wanted float64, as params['bias'] has"),
    ("half", replaced("bias", np.ones(6, "e")), TypeError,
     "grads['bias'] has dtype float16: wanted float64, as params['bias'] has"),
    ("long double", replaced("bias", np.ones(6, "g")), TypeError,
     f"grads['bias'] has dtype {np.dtype('g')}: wanted float64, as params['bias'] has"),
    ("of integers", replaced("bias", np.ones(6, np.int64)), TypeError,
     "grads['bias'] has dtype int64: wanted float64, as params['bias'] has"),
    ("of objects", replaced("bias", np.ones(6, object)), TypeError,
     "grads['bias'] has dtype object: wanted float64, as params['bias'] has"),
    ("complex", replaced("scale", np.array(1j)), TypeError,
     "grads['scale'] has dtype complex128: wanted float64, as params['scale'] has"),
    ("empty, of another float", replaced("empty", np.zeros((0, 3))), TypeError,
     "grads['empty'] has dtype float64: wanted float32, as params['empty'] has"),
    ("with swapped bytes", replaced("bias", np.ones(6, ">f8")), TypeError,
     "grads['bias'] has byte-swapped dtype >f8: wanted float64, as params['bias'] has"),
    ("the last one, with swapped bytes", replaced("bias", lambda g, p: g["bias"].view(">f8")), TypeError,
     "grads['bias'] has byte-swapped dtype >f8: wanted float64, as params['bias'] has"),
    ("the last one, as integers", replaced("bias", lambda g, p: g["bias"].view(np.int64)), TypeError,
     "grads['bias'] has dtype int64: wanted float64, as params['bias'] has"),
    ("the last one, shorter", replaced("bias", lambda g, p: g["bias"][:5]), ValueError,
     "grads['bias'] has shape (5,): wanted (6,), as params['bias'] has"),
    ("the last one, in another shape", replaced("bias", lambda g, p: g["bias"].reshape(2, 3)), ValueError,
     "grads['bias'] has shape (2, 3): wanted (6,), as params['bias'] has"),
    ("transposed", replaced("encoder", 0, np.ones((3, 2), "f")), ValueError,
     "grads['encoder'][0] has shape (3, 2): wanted (2, 3), as params['encoder'][0] has"),
    ("with an axis more", replaced("encoder", 1, np.ones((1, 3, 4), "f")), ValueError,
     "grads['encoder'][1] has shape (1, 3, 4): wanted (3, 4), as params['encoder'][1] has"),
    ("one element where none is wanted", replaced("empty", np.ones((1, 3), "f")), ValueError,
     "grads['empty'] has shape (1, 3): wanted (0, 3), as params['empty'] has"),
    ("one element for no dimensions", replaced("scale", np.ones(1)), ValueError,
     "grads['scale'] has shape (1,): wanted (), as params['scale'] has"),
    ("that would broadcast", replaced("bias", np.array(1.0)), ValueError,
     "grads['bias'] has shape (): wanted (6,), as params['bias'] has"),
    ("a masked array", replaced("bias", np.ma.ones(6)), TypeError,
     "grads['bias'] is a masked array: its mask would be ignored; pass its data"),
    ("a number", replaced("bias", 1.0), TypeError, f"grads['bias'] is float: {NOT_ONE}"),
    ("text", replaced("bias", "123456"), TypeError, "grads['bias'] is str: a gradient must be an array"),
    ("an object", replaced("bias", object()), TypeError, f"grads['bias'] is object: {NOT_ONE}"),
    ("its own parameter", replaced("bias", lambda g, p: p["bias"]), ValueError,
     f"grads['bias'] overlaps the memory of params['bias']: {WHILE}"),
    ("its own parameter backwards", replaced("bias", lambda g, p: p["bias"][::-1]), ValueError,
     f"grads['bias'] overlaps the memory of params['bias']: {WHILE}"),
    ("its own parameter, no dimensions", replaced("scale", lambda g, p: p["scale"]), ValueError,
     f"grads['scale'] overlaps the memory of params['scale']: {WHILE}"),
    ("in another parameter", replaced("encoder", 0, lambda g, p: p["encoder"][1].T[:2, :]), ValueError,
     f"grads['encoder'][0] overlaps the memory of params['encoder'][1]: {WHILE}"),
    ("a strided part of another parameter",
     replaced("scale", lambda g, p: p["bias"][3:4].reshape(())), ValueError,
     f"grads['scale'] overlaps the memory of params['bias']: {WHILE}"),
    ("missing", without("bias"), ValueError, f"grads lacks 'bias': {KEYS}"),
    ("too many", lambda g, p: {**g, "more": np.ones(1)}, ValueError, f"grads has 'more': {KEYS}"),
    ("under another name", lambda g, p: {**without("bias")(g, p), "b": g["bias"]}, ValueError,
     f"grads lacks 'bias' and has 'b': {KEYS}"),
    ("a list for a dict", lambda g, p: list(g.values()), ValueError, f"grads is a list of 4: {KEYS}"),
    ("an array for a dict", lambda g, p: np.ones(3), ValueError, f"grads is ndarray: {KEYS}"),
    ("None for a dict", lambda g, p: None, ValueError, f"grads is NoneType: {KEYS}"),
    ("a list too short", replaced("encoder", []), ValueError,
     "grads['encoder'] is a list of 0: wanted a list of 2"),
    ("a tuple too long", replaced("encoder", (None, None, None)), ValueError,
     "grads['encoder'] is a tuple of 3: wanted a list of 2"),
    ("an array for a list", replaced("encoder", np.ones((2, 3), "f")), ValueError,
     "grads['encoder'] is ndarray: wanted a list of 2"),
    ("a dict for a list", replaced("encoder", {0: None, 1: None}), ValueError,
     "grads['encoder'] is a dict with keys [0, 1]: wanted a list of 2"),
    ("a list for an array", replaced("bias", [1.0] * 6), ValueError,
     "grads['bias'] is a list of 6: wanted one array"),
    ("a dict for an array", replaced("bias", {"x": np.ones(6)}), ValueError,
     "grads['bias'] is a dict with keys ['x']: wanted one array"),
]  # fmt: skip


@pytest.mark.parametrize("reference", [False, True], ids=["step", "reference_step"])
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("words", "make", "error", "message"), WRONG_GRADS, ids=[row[0] for row in WRONG_GRADS])
def test_a_step_with_a_gradient_that_does_not_fit_changes_nothing(cls, words, make, error, message, reference):
    p, twin = params(), params()
    opt, other = cls(p, lr=0.1), cls(twin, lr=0.1)
    good = gradients()
    assert stepped(opt, good, reference)
    assert stepped(other, gradients())
    bad = make({**good, "encoder": list(good["encoder"])}, p)
    with opt.lookahead():
        pass
    before = everything(opt, p, good, bad)
    with pytest.raises(error, match=says(message)):
        (opt.reference_step if reference else opt.step)(bad)
    assert everything(opt, p, good, bad) == before

    assert stepped(opt, gradients(2), reference)
    assert stepped(other, gradients(2))
    assert everything(opt, p) == everything(other, twin)


LOSS_SCALES = [
    (0.0, ValueError, "loss_scale is 0.0: wanted a finite number above 0"),
    (-1, ValueError, "loss_scale is -1: wanted a finite number above 0"),
    (np.nan, ValueError, "loss_scale is nan: wanted a finite number above 0"),
    (np.inf, ValueError, "loss_scale is inf: wanted a finite number above 0"),
    ("2", TypeError, "loss_scale is '2', a str: wanted a finite number above 0"),
    (True, TypeError, "loss_scale is True, a bool: wanted a finite number above 0"),
    (1j, TypeError, "loss_scale is 1j, a complex: wanted a finite number above 0"),
    (np.ones(2), TypeError, "loss_scale is array([1., 1.]), a ndarray: wanted a finite number above 0"),
]


@pytest.mark.parametrize(("scale", "error", "message"), LOSS_SCALES, ids=[row[2] for row in LOSS_SCALES])
def test_a_wrong_loss_scale_changes_nothing(scale, error, message):
    p, g = params(), gradients()
    opt = Adam(p)
    opt.step(g)
    before = everything(opt, p, g)
    with pytest.raises(error, match=says(message)):
        opt.step(g, loss_scale=scale)
    assert everything(opt, p, g) == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [5e-324, 1e-40, 1e40, 1e308])
def test_no_accepted_loss_scale_turns_a_finite_gradient_into_nan(scale, dtype):
    w = np.ones(2, dtype)
    opt = SGD(w, lr=1.0)
    with contextlib.suppress(ValueError):  # to refuse it is as good
        opt.step(np.zeros(2, dtype), loss_scale=scale)
    assert (w == 1).all()


def test_a_parameter_made_read_only_later_is_refused():
    w = np.ones(3)
    opt = Adam([w])
    opt.step([np.ones(3)])
    w.flags.writeable = False
    before = everything(opt, w)
    for _ in range(2):
        with pytest.raises(ValueError, match=says("params[0] is read-only: it cannot be updated in place")):
            opt.step([np.ones(3)])
    assert everything(opt, w) == before
    w.flags.writeable = True
    assert opt.step([np.ones(3)])


@pytest.mark.parametrize("size", [2, 200_000])
def test_numpy_refuses_to_resize_a_parameter(size):
    w = np.ones(6)
    opt = Adam({"w": w})
    with pytest.raises(ValueError, match="cannot resize an array that references or is referenced"):
        w.resize(size, refcheck=False)
    assert opt.step({"w": np.ones(6)})
    del opt
    w.resize(size, refcheck=False)


def test_a_parameter_whose_memory_was_replaced_is_refused():
    w = np.ones(6)
    opt = Adam({"w": w})
    opt.step({"w": np.ones(6)})
    before = everything(opt, w)
    with (
        elsewhere(w, np.ones(6)),
        pytest.raises(ValueError, match=says("params['w'] is not the memory it was: call bind(params)")),
    ):
        opt.step({"w": np.ones(6)})
    assert everything(opt, w) == before


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match=r"^SGD has no option 'momentun': did you mean 'momentum'"):
        SGD(W, momentun=0.9)
    with pytest.raises(TypeError, match=r"^RMSprop has no option 'rho': did you mean 'alpha'"):
        RMSprop(W, rho=0.9)
    with pytest.raises(TypeError, match=r"^AdamW has no option 'decoupled': it is always True"):
        AdamW(W, decoupled=True)
    with pytest.raises(TypeError, match=r"^NAG has no option 'x': there are lr, momentum, weight_decay, "):
        NAG(W, x=1)


def test_hyper_parameters_besides_lr_are_keyword_only():
    for cls in CLASSES:
        with pytest.raises(TypeError, match=f"^{cls.__name__} takes params and lr by position, all others by name"):
            cls(W, 0.1, 0.9)
        with pytest.raises(TypeError, match=f"^{cls.__name__} got lr twice"):
            cls(W, 0.1, lr=0.1)


OPTIONS = [
    ("nonfinite", "ignore", ValueError, "nonfinite is 'ignore': wanted one of 'propagate', 'skip', 'raise'"),
    ("nonfinite", None, ValueError, "nonfinite is None: wanted one of 'propagate', 'skip', 'raise'"),
    ("zero_grads", 1, TypeError, "zero_grads is 1, a int: wanted True or False"),
    ("clip_norm", 0.0, ValueError, "clip_norm is 0.0: wanted a finite number above 0"),
    ("clip_norm", -1, ValueError, "clip_norm is -1: wanted a finite number above 0"),
    ("clip_norm", np.nan, ValueError, "clip_norm is nan: wanted a finite number above 0"),
    ("clip_norm", np.inf, ValueError, "clip_norm is inf: wanted a finite number above 0"),
    ("clip_norm", "1", TypeError, "clip_norm is '1', a str: wanted a finite number above 0"),
]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("name", "value", "error", "message"), OPTIONS, ids=[row[3] for row in OPTIONS])
def test_wrong_options_are_refused(cls, name, value, error, message):
    with pytest.raises(error, match=says(message)):
        cls(np.ones(2), **{name: value})


def test_groups_added_removed_or_replaced_are_refused(tmp_path):
    # In a process of its own: what goes wrong here has been seen to go wrong outside Python's memory.
    code = """
import numpy as np, fastopt

def refuses(change):
    v, w, g = np.ones(2), np.ones(2), np.ones(2)
    opt = fastopt.NAG([{"params": v}, {"params": w}], lr=1.0)
    for _ in range(2):
        with opt.lookahead():
            pass
        if not opt.steps:
            opt.step([g, g])
    change(opt)
    v0, w0 = v.copy(), w.copy()
    calls = (
        lambda: opt.step([g, g]),
        lambda: opt.reference_step([g, g]),
        lambda: opt.lookahead().__enter__(),
    )
    for call in calls:
        try:
            call()
        except (ValueError, TypeError) as error:
            assert "param_groups" in str(error), error
        else:
            raise SystemExit(f"{change.__name__} was not refused")
    assert (v == v0).all() and (w == w0).all()

def pop(opt): opt.param_groups.pop()
def clear(opt): opt.param_groups.clear()
def append(opt): opt.param_groups.append({"params": np.ones(2)})
def swap(opt): opt.param_groups.reverse()
def replace(opt): opt.param_groups = [dict(opt.param_groups[0])]
def no_dict(opt): opt.param_groups[1] = None
for change in (swap, append, replace, no_dict, pop, clear):
    refuses(change)
"""
    run(code, tmp_path)


def test_groups_may_be_empty(tmp_path):
    # In a process of its own, as memory was once written past its end here.
    code = """
import numpy as np, fastopt
for n in (1, 2, 3, 50, 3000):
    w = np.ones(2)
    opt = fastopt.NAG([{"params": w}] + [{"params": []}] * n, lr=1.0)
    with opt.lookahead():
        pass
    opt.step([np.ones(2)] + [[]] * n)
    with opt.lookahead():
        pass
    assert (w == 0).all()
"""
    run(code, tmp_path)


def test_a_refused_step_lets_go_of_the_gradients():
    p = [np.ones(3), np.ones(3)]
    opt = NAG(p)
    g = np.ones(3)
    count = sys.getrefcount(g)
    with pytest.raises(ValueError, match="shape"):
        stepped(opt, [g, np.ones(4)])
    assert sys.getrefcount(g) == count
    stepped(opt, [g, g])
    assert sys.getrefcount(g) == count


def test_after_a_refused_step_left_out_gradients_stay_left_out():
    a, b = np.ones(3), np.ones(3)
    opt = SGD([a, b], lr=1.0)
    g = [np.ones(3), np.ones(3)]
    opt.step(g)
    with pytest.raises(ValueError, match="shape"):
        opt.step([g[0], np.ones(4)])
    opt.step([g[0], None])
    opt.step([None, g[1]])
    opt.step(g)
    assert a.tolist() == b.tolist() == [-2.0] * 3


# ---- what a class, a snapshot and the engine's insides refuse ----


class ManySlots(Adam):
    slots = {letter: letter for letter in "abcdemvx"}  # noqa: RUF012


def test_a_class_with_more_slots_than_the_engine_has_is_refused():
    with pytest.raises(ValueError, match=says("slots has 8 names: wanted at most 7")):
        ManySlots(np.ones(3))


class OddDict(dict):
    def __setitem__(self, key, value):
        raise ZeroDivisionError


def test_a_load_into_a_group_that_is_no_plain_dict_changes_nothing():
    w = np.ones(2)
    opt = SGD(w, momentum=0.9)
    opt.step(np.ones(2))
    snapshot = opt.state_dict()
    opt.step(np.ones(2))
    opt.param_groups[0] = OddDict(opt.param_groups[0])
    before = everything(opt, w)
    with pytest.raises(TypeError, match=says("param_groups[0] is OddDict: wanted the dict it was…")):
        opt.load_state_dict(snapshot)
    assert everything(opt, w) == before
    opt.param_groups[0] = dict(opt.param_groups[0])
    opt.load_state_dict(snapshot)
    assert opt.steps == 1


class ShortCopies(np.ndarray):
    def copy(self, order="C"):
        return np.zeros(1)


def test_a_snapshot_whose_arrays_have_shorter_copies_changes_nothing():
    w = np.ones(1000)
    opt = SGD(w, momentum=0.9)
    opt.step(np.ones(1000))
    snapshot = opt.state_dict()
    opt.step(np.ones(1000))
    before = everything(opt, w)
    state = snapshot["state"]["params"]
    state["momentum_buffer"] = state["momentum_buffer"].view(ShortCopies)
    with pytest.raises(ValueError, match=says("the snapshot has an array float64 (1,): wanted float64 (1000,)")):
        opt.load_state_dict(snapshot)
    assert everything(opt, w) == before


def test_what_the_engine_tells_in_a_step_it_refuses_outside_of_one():
    def child():
        opt = SGD(np.ones(70_000, "f4"))
        plan = opt._plan
        for _ in range(2):
            for ask, about in ((plan.coefficients, (0,)), (plan.sum_squares, (1.0,)), (plan.find_nonfinite, ())):
                with pytest.raises(RuntimeError, match=says("this can be asked in the middle of a step only")):
                    ask(*about)
            assert opt.step(np.ones(70_000, "f4"))

    in_child(child)
