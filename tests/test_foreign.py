"""Gradients that are no NumPy arrays: whatever NumPy can view without a copy, and nothing else."""

from __future__ import annotations

import array

import numpy as np
import pytest
from optimizers_table import REALS
from test_errors import everything, says

from fastopt import SGD, Adam


class Interface:
    """Has __array_interface__ and nothing else."""

    def __init__(self, a):
        self.a = a

    @property
    def __array_interface__(self):
        return self.a.__array_interface__


class DLPack:
    """Has __dlpack__ and nothing else."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, *args, **kwargs):
        return self.a.__dlpack__(*args, **kwargs)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


class Sub(np.ndarray):
    """An array that would compute otherwise."""

    def __mul__(self, other):
        raise AssertionError("the subclass was asked")


KINDS = [
    ("memoryview", memoryview),
    ("array interface", Interface),
    ("dlpack", DLPack),
    ("subclass", lambda a: a.view(Sub)),
    ("memory map", lambda a: a),
]


@pytest.mark.parametrize("step", ["step", "reference_step"])
@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize(("words", "wrap"), KINDS, ids=[row[0] for row in KINDS])
def test_what_numpy_can_view_is_a_gradient_read_where_it_lies(words, wrap, dtype, step, tmp_path):
    w, w2 = np.ones((2, 3), dtype), np.ones((2, 3), dtype)
    opt, twin = Adam([w, np.ones(2, dtype)]), Adam([w2, np.ones(2, dtype)])
    g = np.memmap(tmp_path / "g", dtype, "w+", shape=(2, 3)) if words == "memory map" else np.zeros((2, 3), dtype)
    wrapped = wrap(g)
    for t in range(3):
        g[...] = np.sin(np.arange(6) + t).reshape(2, 3)  # the view sees what changes under it
        assert getattr(opt, step)([wrapped, None])
        twin.step([g.copy(), None])
        assert w.tobytes() == w2.tobytes()


@pytest.mark.parametrize("wrap", [Interface, DLPack, memoryview])
def test_a_lone_array_structure_takes_them_too_in_any_memory_order(wrap):
    w = np.zeros((2, 3))
    SGD(w, lr=1.0).step(wrap(np.arange(12.0).reshape(2, 6)[:, ::2]))
    assert w.tolist() == [[0, -2, -4], [-6, -8, -10]]


def test_an_array_of_the_array_module_is_a_gradient():
    w = np.zeros(3, "f")
    SGD(w, lr=1.0).step(array.array("f", [1, 2, 3]))
    assert w.tolist() == [-1, -2, -3]


@pytest.mark.parametrize("wrap", [Interface, DLPack, memoryview, lambda a: a.view(Sub)])
def test_a_view_of_the_parameter_by_any_name_is_refused(wrap):
    w = np.ones(4)
    opt = SGD([w])
    with pytest.raises(ValueError, match=r"^grads\[0\] overlaps the memory of params\[0\]"):
        opt.step([wrap(w)])
    assert (w == 1).all()


def test_zero_grads_zeroes_what_was_viewed_or_refuses():
    g = np.ones(3)
    SGD(np.zeros(3), zero_grads=True).step(memoryview(g))
    assert not g.any()
    with pytest.raises(ValueError, match=says("grads is read-only: zero_grads=True cannot zero it")):
        SGD(np.zeros(3), zero_grads=True).step(memoryview(np.ones(3).tobytes()).cast("d"))


class NoView:
    def __array__(self, dtype=None, copy=None):
        return np.ones(3)


class Broken:
    @property
    def __array_interface__(self):
        raise RuntimeError("freed")


class Elsewhere:
    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **_):
        raise BufferError("the data is on another device")


ARRAY = "a gradient must be an array"
VIEW = "or what NumPy can view as one"
WRONG = [
    (1.0, f"grads['w'] is float: {ARRAY}, {VIEW}"),
    (1, f"grads['w'] is int: {ARRAY}, {VIEW}"),
    ("abc", f"grads['w'] is str: {ARRAY}"),
    (b"abc", f"grads['w'] is bytes: {ARRAY}"),
    (bytearray(24), "grads['w'] has dtype uint8: wanted float64, as params['w'] has"),
    (range(3), f"grads['w'] is range: {ARRAY}, {VIEW}"),
    ({1, 2, 3}, f"grads['w'] is set: {ARRAY}, {VIEW}"),
    (NoView, f"grads['w'] is type: {ARRAY}, {VIEW}"),
    (Broken(), "grads['w'] is Broken, which NumPy cannot view without a copy: freed"),
    (Elsewhere(), "grads['w'] is Elsewhere, which NumPy cannot view without a copy: …"),
    (array.array("l", [1, 2, 3]), "grads['w'] has dtype int64: wanted float64, as params['w'] has"),
    (Interface(np.ones(3, "f")), "grads['w'] has dtype float32: wanted float64, as params['w'] has"),
    (np.ma.masked_array(np.ones(3), [0, 1, 0]),
     "grads['w'] is a masked array: its mask would be ignored; pass its data"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "message"), WRONG, ids=[row[1] for row in WRONG])
def test_what_numpy_cannot_view_without_a_copy_is_refused(value, message):
    w = np.ones(3)
    opt = Adam({"w": w})
    opt.step({"w": np.ones(3)})
    before = everything(opt, w)
    for step in (opt.step, opt.reference_step):
        with pytest.raises(TypeError, match=says(message)):
            step({"w": value})
    assert everything(opt, w) == before


def test_an_object_that_makes_a_new_array_is_no_view():
    # Its answer is a copy: whether that is what the user meant, nobody can know.
    with pytest.raises(TypeError, match=says(f"grads is NoView: {ARRAY}, {VIEW}")):
        SGD(np.ones(3)).step(NoView())


def test_the_gradient_of_an_array_without_dimensions_may_be_a_numpy_number_of_its_type():
    w = np.array(1.0)
    opt = SGD(w, lr=1.0)
    assert opt.step(np.array(0.5))
    assert w == 0.5
    assert opt.step(2 * w)  # NumPy makes a number of that
    assert w == -0.5
    with pytest.raises(TypeError, match=says("grads has dtype float32: wanted float64, as params has")):
        opt.step(np.float32(0.5))
    with pytest.raises(ValueError, match=says("grads has shape (): wanted (3,), as params has")):
        SGD(np.ones(3)).step(np.float64(0.5))


def test_other_errors_of_a_foreign_object_come_through_and_change_nothing():
    class Lost:
        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, **_):
            raise OSError("device lost")

    w = [np.ones(3), np.ones(3)]
    opt = SGD(w)
    before = everything(opt, w)
    with pytest.raises(OSError, match="device lost"):
        opt.step([np.ones(3), Lost()])
    assert everything(opt, w) == before
    assert opt.step([np.ones(3), np.ones(3)])


# ---- where installed ----


@pytest.mark.parametrize("dtype", REALS)
def test_torch_tensors_are_gradients(dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    w, w2 = np.ones((2, 3), dtype), np.ones((2, 3), dtype)
    opt, twin = Adam({"w": w}), Adam({"w": w2})
    tensor = torch.arange(6, dtype=getattr(torch, dtype)).reshape(3, 2)
    for g in (tensor.T, tensor.reshape(2, 3), tensor.reshape(2, 3)):
        assert opt.step({"w": g})
        twin.step({"w": g.numpy().copy()})
        assert w.tobytes() == w2.tobytes()
    with pytest.raises(TypeError, match=says("grads['w'] is Tensor, which NumPy cannot view without a copy: …")):
        opt.step({"w": tensor.reshape(2, 3).requires_grad_()})
    with pytest.raises(TypeError, match=says("grads['w'] is Tensor, which NumPy cannot view without a copy: …")):
        opt.step({"w": tensor.reshape(2, 3).to(torch.bfloat16)})
    with pytest.raises(TypeError, match=says("params is Tensor: a parameter must be a NumPy array")):
        Adam(tensor)
    opt = SGD(np.zeros((3, 2), dtype), lr=1.0, zero_grads=True)
    opt.step(tensor)
    assert not tensor.any()


def test_gradients_that_torch_computed_train_a_numpy_parameter():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    w = np.array([5.0, -3.0])
    tensor = torch.from_numpy(w).requires_grad_()
    opt = SGD(w, lr=0.25)
    for _ in range(40):
        tensor.grad = None
        (tensor**2).sum().backward()
        opt.step(tensor.grad)
    assert np.abs(w).max() < 1e-10


@pytest.mark.filterwarnings("default")  # jax's own, on import
def test_jax_arrays_are_gradients():
    jnp = pytest.importorskip("jax.numpy", reason="jax is not installed")
    w = np.zeros((2, 3), "f")
    opt = SGD({"w": w}, lr=1.0)
    for _ in range(2):
        assert opt.step({"w": jnp.arange(6, dtype="float32").reshape(2, 3)})
    assert w.tolist() == [[0, -2, -4], [-6, -8, -10]]
    with pytest.raises(ValueError, match="read-only"):
        SGD(w, zero_grads=True).step(jnp.ones((2, 3), "float32"))
    with pytest.raises(TypeError, match=says("grads has dtype int32: wanted float32, as params has")):
        SGD(w).step(jnp.ones((2, 3), "int32"))
