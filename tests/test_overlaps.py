"""Memory that two arrays share: with the optimizer's own state, through two maps of one file, in odd strides.

And parameters whose shape, strides or type was set in place, so that they are not what they were checked as.
"""

from __future__ import annotations

import mmap
import os
import time

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from optimizers_table import KINDS
from processes import in_child
from support import bits, copied, in_place, looked_ahead, rand, whole
from test_errors import says

from fastopt import NAG, SGD, Adam, RMSprop
from fastopt.optimizers import OPTIMIZERS

STEPS = ["step", "reference_step"]
STATEFUL = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"centered": True, "momentum": 0.9},
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True},
}


def stateful(cls, params, **more):
    return cls(params, lr=0.1, **STATEFUL.get(cls.__name__, {}), **more)


# ---- gradients that are state ----


VIEWS = {
    "itself": lambda s: s,
    "a view": lambda s: s[...],
    "backwards": lambda s: s[::-1],
    "an element in common": lambda s: as_strided(s[-1:, -1:], s.shape, (0,) * s.ndim),
    "read-only": lambda s: np.broadcast_to(s, s.shape),
    "through an interface": lambda s: Interface(s),
}


class Interface:
    def __init__(self, values):
        self.values = values
        self.__array_interface__ = values.__array_interface__


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", [name for name, cls in KINDS.items() if cls.slots and not cls.keeps_axes])
def test_a_gradient_that_overlaps_the_optimizers_own_state_is_refused(name, view, step):
    params = {"a": rand(6, 4), "b": [rand(6, 4, seed=1), np.asfortranarray(rand(6, 4, seed=2))]}
    opt = stateful(OPTIMIZERS[name], params)
    fine = {"a": rand(6, 4, seed=3), "b": [rand(6, 4, seed=4), rand(6, 4, seed=5)]}
    for _ in range(2):
        looked_ahead(opt).step(fine)
    looked_ahead(opt)
    before = whole(opt, params)
    tried = 0
    for slots in opt.state.values():
        for state in filter(np.ndim, slots.values()):  # numbers that persist are shown as copies
            tried += 1
            with pytest.raises(ValueError, match=r"^grads\['a'\] overlaps"):
                getattr(opt, step)({**fine, "a": VIEWS[view](state)})
            with pytest.raises(ValueError, match=r"^grads\['b'\]\[1\] overlaps"):
                getattr(opt, step)({**fine, "b": [None, VIEWS[view](state)]})
    assert tried >= 3
    assert whole(opt, params) == before
    assert getattr(opt, step)(fine)


def test_with_zero_grads_the_state_is_not_zeroed():
    p = rand(50)
    opt = Adam(p, zero_grads=True)
    opt.step(rand(50))
    before = whole(opt, p)
    for name in ("exp_avg", "exp_avg_sq"):
        with pytest.raises(ValueError, match=r"^grads overlaps"):
            opt.step(opt.state["params"][name])
    assert whole(opt, p) == before


@pytest.mark.parametrize("cls", [SGD, RMSprop])
def test_state_that_begins_where_an_accepted_gradient_was_is_found_too(cls):
    """The allocator gives the gradient's memory to the state: an address that was fine is not any more."""
    for n in range(40, 100):
        p = rand(n)
        opt = cls(p, lr=0.1)
        for skip in range(0, 64, 8):
            memory = np.empty(8 * n + 64, np.uint8)
            g = memory[skip : skip + 8 * n].view(np.float64)
            g[:] = 1.0
            place = g.ctypes.data
            opt.step(g)
            del g, memory
            opt.param_groups[0]["momentum"] = 0.9
            opt.step(rand(n))
            state = opt.state["params"]["momentum_buffer"]
            if state.ctypes.data == place:
                before = whole(opt, p)
                for step in STEPS:
                    with pytest.raises(ValueError, match=r"^grads overlaps"):
                        getattr(opt, step)(state)
                assert whole(opt, p) == before
                return
            opt = cls(p, lr=0.1)
    pytest.skip("the allocator gives no memory back to who asks next")


def test_state_of_another_optimizer_is_a_gradient_like_any_other():
    p, q, r = rand(9), rand(9), rand(9)
    opt, other, twin = Adam(p), Adam(q), Adam(r)
    other.step(rand(9, seed=1))
    g = other.state["params"]["exp_avg"]
    assert opt.step(g)
    assert twin.step(g.copy())
    assert p.tobytes() == r.tobytes()


# ---- snapshots made of live state ----


def three(cls=Adam, **options):
    params = [rand(5, 3, seed=i) for i in range(3)]
    opt = stateful(cls, params, **options)
    for t in range(2):
        looked_ahead(opt).step([rand(5, 3, seed=10 * t + i) for i in range(3)])
    return opt, params


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("turn", [[1, 0, 2], [1, 2, 0], [2, 1, 0]], ids=str)
def test_live_state_of_parameters_given_to_each_other_changes_places(name, turn):
    opt, params = three(OPTIMIZERS[name])
    kept = opt.state_dict()
    names = list(opt.state)
    snapshot = opt.state_dict()
    for i, j in enumerate(turn):
        live = {key: opt.state[names[j]].get(key, x) for key, x in kept["state"][names[j]].items()}
        snapshot["state"][names[i]] = {**live, "step": kept["state"][names[i]]["step"]}
    opt.load_state_dict(snapshot)
    for i, j in enumerate(turn):
        for key, x in kept["state"][names[j]].items():
            assert key == "step" or opt.state[names[i]][key].tobytes() == np.asarray(x).tobytes(), (i, key)
    twins = copied(params)
    twin = stateful(OPTIMIZERS[name], twins)
    for i, j in enumerate(turn):
        kept_step = kept["state"][names[i]]["step"]
        snapshot["state"][names[i]] = {**kept["state"][names[j]], "step": kept_step}
    twin.load_state_dict(snapshot)
    g = [rand(5, 3, seed=i + 50) for i in range(3)]
    looked_ahead(opt).step(g)
    looked_ahead(twin).step(g)
    assert whole(opt, params) == whole(twin, twins)


def test_two_live_arrays_of_one_parameter_change_places():
    opt, _ = three()
    kept = opt.state_dict()["state"]["params[1]"]
    snapshot = opt.state_dict()
    live = opt.state["params[1]"]
    snapshot["state"]["params[1]"].update(exp_avg=live["exp_avg_sq"], exp_avg_sq=live["exp_avg"])
    opt.load_state_dict(snapshot)
    assert opt.state["params[1]"]["exp_avg"].tobytes() == kept["exp_avg_sq"].tobytes()
    assert opt.state["params[1]"]["exp_avg_sq"].tobytes() == kept["exp_avg"].tobytes()


@pytest.mark.parametrize(
    "view", [lambda s: s, lambda s: s[::-1], lambda s: s[:, ::-1]], ids=["same", "rows", "columns"]
)
def test_live_state_loads_onto_itself_and_backwards(view):
    opt, _ = three()
    wanted = {name: view(s["exp_avg"]).copy() for name, s in opt.state.items()}
    snapshot = opt.state_dict()
    for name, slots in opt.state.items():
        snapshot["state"][name]["exp_avg"] = view(slots["exp_avg"])
    opt.load_state_dict(snapshot)
    for name, slots in opt.state.items():
        assert slots["exp_avg"].tobytes() == wanted[name].tobytes()


def test_live_state_in_one_overlapping_block_is_read_before_it_is_written():
    """State of one parameter as it is, and that of the next a view that straddles nothing but itself, one row on."""
    opt, params = three(SGD)
    names = list(opt.state)
    kept = {n: s["momentum_buffer"].copy() for n, s in opt.state.items()}
    snapshot = opt.state_dict()
    live = [opt.state[n]["momentum_buffer"] for n in names]
    snapshot["state"][names[0]]["momentum_buffer"] = live[1][::-1]
    snapshot["state"][names[1]]["momentum_buffer"] = live[0]
    snapshot["state"][names[2]]["momentum_buffer"] = params[0]  # whoever wants it
    opt.load_state_dict(snapshot)
    assert opt.state[names[0]]["momentum_buffer"].tolist() == kept[names[1]][::-1].tolist()
    assert opt.state[names[1]]["momentum_buffer"].tolist() == kept[names[0]].tolist()
    assert opt.state[names[2]]["momentum_buffer"].tolist() == params[0].tolist()


def test_a_snapshot_of_live_arrays_that_does_not_fit_changes_nothing():
    opt, params = three()
    snapshot = opt.state_dict()
    live = opt.state
    snapshot["state"]["params[0]"]["exp_avg"] = live["params[1]"]["exp_avg"]
    snapshot["state"]["params[1]"]["exp_avg"] = live["params[0]"]["exp_avg"]
    snapshot["state"]["params[2]"]["exp_avg"] = np.zeros(4)
    before = whole(opt, params)
    with pytest.raises(ValueError, match=r"params\[2\]"):
        opt.load_state_dict(snapshot)
    assert whole(opt, params) == before


# ---- two maps of one file ----


N = 3000  # float64 elements of a file: some pages


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    np.arange(N, dtype=np.float64).tofile(path)
    return path


def by_memmap(path, start, count, mode="r+"):
    return np.memmap(path, np.float64, mode, 8 * start, (count,))


def by_mmap(path, start, count, mode="r+"):
    access = {"r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY, "r": mmap.ACCESS_READ}[mode]
    with open(path, "rb" if mode == "r" else "r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=access)
    return np.frombuffer(mapped, np.float64, count, 8 * start)


def by_part_of_mmap(path, start, count, mode="r+"):
    """A map that begins at a page of the file other than its first."""
    access = {"r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY, "r": mmap.ACCESS_READ}[mode]
    page = 8 * start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    with open(path, "rb" if mode == "r" else "r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 8 * (start + count) - page, access=access, offset=page)
    return np.frombuffer(mapped, np.float64, count, 8 * start - page)


def by_a_plain_view(path, start, count, mode="r+"):
    return np.asarray(np.memmap(path, np.float64, mode))[start : start + count]


MAPS = [by_memmap, by_mmap, by_part_of_mmap, by_a_plain_view]
maps = pytest.mark.parametrize("one", MAPS, ids=lambda f: f.__name__[3:])
other_maps = pytest.mark.parametrize("other", MAPS, ids=lambda f: f.__name__[3:])
# (first, count) of two ranges
OVERLAPPING = [((0, 100), (0, 100)), ((0, 100), (99, 50)), ((10, 2000), (1900, 1000)), ((700, 5), (0, 3000))]
APART = [((0, 100), (100, 100)), ((1500, 1500), (0, 1500)), ((0, 10), (2990, 10)), ((512, 1), (511, 1))]


@maps
@other_maps
def test_two_maps_of_one_file_that_overlap_are_no_two_parameters(one, other, file):
    for (start, count), (other_start, other_count) in OVERLAPPING:
        params = {"a": one(file, start, count), "z": rand(3), "b": other(file, other_start, other_count)}
        with pytest.raises(ValueError, match=says("params['b'] overlaps the memory of params['a']…")):
            SGD(params)
        fine = {**params, "b": rand(other_count)}
        opt = SGD(fine)
        with pytest.raises(ValueError, match=says("params['b'] overlaps the memory of params['a']…")):
            opt.bind(params)
        assert opt.step({"a": rand(count), "z": rand(3), "b": rand(other_count)})


@maps
@other_maps
def test_maps_of_one_file_apart_are_two_parameters(one, other, file):
    for (start, count), (other_start, other_count) in APART:
        np.arange(N, dtype=np.float64).tofile(file)
        a, b = one(file, start, count), other(file, other_start, other_count)
        assert SGD([a, b], lr=1.0).step([np.ones(count), np.ones(other_count)])
        wanted = np.arange(N, dtype=np.float64)
        wanted[start : start + count] -= 1
        wanted[other_start : other_start + other_count] -= 1
        del a, b
        assert np.fromfile(file).tolist() == wanted.tolist()


@maps
def test_private_maps_and_maps_of_other_files_are_memory_of_their_own(one, file, tmp_path):
    a, b = one(file, 0, 100, "c"), one(file, 0, 100, "c")
    assert SGD([a, b], lr=1.0).step([np.ones(100), np.full(100, 2.0)])
    assert a.tolist() == list(range(-1, 99))
    assert b.tolist() == list(range(-2, 98))
    np.arange(N, dtype=np.float64).tofile(tmp_path / "others")
    a, b = one(file, 0, 100), one(tmp_path / "others", 0, 100)
    assert SGD([a, b], lr=1.0).step([np.ones(100), np.ones(100)])


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_one_file_under_two_names_is_one_file(link, file, tmp_path):
    link(file, tmp_path / "alias")
    with pytest.raises(ValueError, match=r"^params\[1\] overlaps the memory of params\[0\]"):
        Adam([by_memmap(file, 0, 100), by_memmap(tmp_path / "alias", 50, 100)])


def test_shared_memory_attached_twice_is_one_memory():
    shared_memory = pytest.importorskip("multiprocessing.shared_memory")

    def child():
        one = shared_memory.SharedMemory(create=True, size=8000)
        try:
            other = shared_memory.SharedMemory(one.name)
            a, b = np.frombuffer(one.buf, np.float64, 1000), np.frombuffer(other.buf, np.float64, 1000)
            with pytest.raises(ValueError, match=r"^params\[1\] overlaps the memory of params\[0\]"):
                Adam([a, b])
            opt = Adam(a)
            with pytest.raises(ValueError, match=r"^grads overlaps the memory of params"):
                opt.step(b)
            assert (a == 0).all()
            assert Adam([a[:500], b[500:]]).step([np.ones(500), np.ones(500)])
        finally:
            one.unlink()

    in_child(child)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mode", ["r+", "r"])
@maps
@other_maps
def test_a_gradient_that_is_a_second_map_of_a_parameters_file_is_refused(one, other, mode, step, file):
    p = {"a": rand(100), "b": one(file, 0, 1000)}
    opt = SGD(p, lr=1.0)
    fine = {"a": rand(100), "b": rand(1000)}
    assert opt.step(fine)
    before = whole(opt, p)
    with pytest.raises(ValueError, match=says("grads['b'] overlaps the memory of params['b']…")):
        getattr(opt, step)({**fine, "b": other(file, 500, 1000, mode)})
    with pytest.raises(ValueError, match=says("grads['a'] overlaps the memory of params['b']…")):
        getattr(opt, step)({**fine, "a": other(file, 999, 100, mode)})
    assert whole(opt, p) == before
    assert getattr(opt, step)({**fine, "a": other(file, 1000, 100, mode)})
    assert whole(opt, p) != before


def test_with_zero_grads_two_gradients_of_one_file_are_refused(file):
    p = [rand(100), rand(100)]
    opt = SGD(p, zero_grads=True)
    before = whole(opt, p)
    kept = file.read_bytes()
    with pytest.raises(ValueError, match=r"^grads\[1\] overlaps the memory of grads\[0\]"):
        opt.step([by_memmap(file, 0, 100), by_memmap(file, 50, 100)])
    assert whole(opt, p) == before
    assert file.read_bytes() == kept
    assert opt.step([by_memmap(file, 0, 100), by_memmap(file, 100, 100)])


# ---- strides that are hard to tell apart ----


ROOM = 1 << 33  # elements, of which few are ever touched: addresses without memory until then
SHAPES = [(2,) * 15, (4,) * 7 + (2,)]  # NumPy takes some 8 s to tell two such gradients apart


def empty_room():
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        pages = mmap.mmap(-1, 8 * ROOM, flags=flags)
        pages.madvise(mmap.MADV_NOHUGEPAGE)  # or each element that is touched would take megabytes
    except (OSError, AttributeError) as error:
        pytest.skip(f"no room of {8 * ROOM >> 30} GiB of addresses: {error}")
    return np.frombuffer(pages, np.float64)


def scattered(rng, room, first, shape):
    """Few elements all over the room."""
    strides = 8 * rng.integers(1, ROOM // len(shape) // max(shape), len(shape))
    return as_strided(room[first:], shape, tuple(strides.tolist()))


def timely(call, *args):
    """Do a step, or have it refused, in less than a second."""
    refusal = None
    begin = time.perf_counter()
    try:
        call(*args)
    except ValueError as error:
        refusal = str(error)
    spent = time.perf_counter() - begin
    assert refusal is None or "may overlap" in refusal or "overlaps the memory" in refusal, refusal
    assert spent < 1, f"took {spent:.1f} s"


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_gradients_in_odd_strides_are_told_apart_in_time_or_refused(shape):
    room = empty_room()

    def child():
        rng = np.random.default_rng(0)
        grads = [scattered(rng, room, first, shape) for first in (0, 1 << 20)]
        timely(SGD([rand(*shape) for _ in grads], zero_grads=True).step, grads)

    in_child(child, timeout=20)


def test_a_gradient_in_odd_strides_around_a_parameter_is_told_apart_in_time_or_refused():
    room = empty_room()

    def child():
        shape = (2,) * 18  # NumPy takes some 5 s
        strides = 8 * np.random.default_rng(0).integers(1, (1 << 28) // 9, 18)
        g = as_strided(room, shape, tuple(strides.tolist()))
        p = room[1 << 27 :][: 1 << 18].reshape(shape)
        timely(SGD(p).step, g)

    in_child(child, timeout=20)


def test_gradients_that_plainly_interleave_are_still_apart():
    wide = np.ones((40, 8))
    p = [rand(40, seed=i) for i in range(8)]
    twins = copied(p)
    opt, twin = SGD(p, lr=0.1, zero_grads=True), SGD(twins, lr=0.1)
    assert twin.step([wide[:, i].copy() for i in range(8)])
    assert opt.step([wide[:, i] for i in range(8)])
    assert [bits(x) for x in p] == [bits(x) for x in twins]
    assert (wide == 0).all()
    # ... a parameter between the columns of its gradient,
    block = np.zeros((40, 8))
    flat = block.reshape(-1)
    w = flat[8:12]
    g = as_strided(flat, (4,), (8 * 8,))
    with pytest.raises(ValueError, match=r"^grads overlaps"):
        SGD(w).step(g)
    assert SGD(w).step(as_strided(flat[4:], (4,), (8 * 8,)))


# ---- shape, strides and type set in place ----


SETTINGS = {
    "another shape": ("shape", (3, 4)),
    "one axis more": ("shape", (2, 3, 2)),
    "one axis": ("shape", (12,)),
    "an axis of one": ("shape", (2, 6, 1)),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("known", [False, True], ids=["a new gradient", "a gradient known"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_parameter_whose_shape_was_set_is_refused_by_name(setting, known, step):
    name, value = SETTINGS[setting]
    params = {"first": rand(5), "w": rand(2, 6)}
    twins = copied(params)
    opt, twin = Adam(params), Adam(twins)
    g = rand(2, 6, seed=1)
    for o in (opt, twin):
        assert o.step({"first": rand(5, seed=2), "w": g})
    before = whole(opt, params)
    in_place(params["w"], name, value)
    if known:
        in_place(g, name, value)
    else:
        g = rand(*value, seed=1)
    with pytest.raises(ValueError, match=r"^params\['w'\]"):
        getattr(opt, step)({"first": rand(5, seed=2), "w": g})
    with pytest.raises(ValueError, match=r"params\['w'\]"):  # the old shape does not help
        getattr(opt, step)({"first": rand(5, seed=2), "w": rand(2, 6)})
    in_place(params["w"], "shape", (2, 6))
    assert whole(opt, params) == before
    for o in (opt, twin):
        assert o.step({"first": rand(5, seed=2), "w": rand(2, 6, seed=1)})
    assert whole(opt, params) == whole(twin, twins)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("words", "name", "value", "back"),
    [
        ("transposed by strides", "strides", (8, 16), (48, 8)),
        ("all rows one", "strides", (0, 8), (48, 8)),
        ("integers", "dtype", np.int64, np.float64),
        ("other reals", "dtype", np.float32, np.float64),
        ("swapped bytes", "dtype", np.dtype(np.float64).newbyteorder(), np.float64),
    ],
)
def test_a_parameter_whose_strides_or_type_were_set_is_refused_by_name(words, name, value, back, step):
    params = [rand(5), rand(2, 6)[:]]  # a view: NumPy gives it long strides back
    opt = Adam(params)
    opt.step([rand(5), rand(2, 6)])
    before = whole(opt, params)
    in_place(params[1], name, value)
    g = rand(*params[1].shape)
    for gradient in (g, g.astype("float32"), np.asfortranarray(g)):
        with pytest.raises((ValueError, TypeError), match=r"params\[1\]"):
            getattr(opt, step)([rand(5), gradient])
    in_place(params[1], name, back)
    assert whole(opt, params) == before
    assert opt.step([rand(5), rand(2, 6)])


@pytest.mark.parametrize("value", [(4, 3), (12,), (1, 2, 6), (2, 3, 2)], ids=str)
def test_a_shape_set_to_another_and_back_is_the_shape(value):
    for known in (False, True):
        p, q = rand(2, 6), rand(2, 6)
        opt, twin = Adam(p), Adam(q)
        g = rand(2, 6, seed=1)
        for _ in range(3):
            assert opt.step(g)
            assert twin.step(g)
            in_place(p, "shape", value)
            in_place(p, "shape", (2, 6))
            if not known:
                g = rand(2, 6, seed=2)
        assert whole(opt, p) == whole(twin, q)


@pytest.mark.parametrize("found_by", ["a step", "save", "bind", "reference_step"])
def test_a_shape_set_twice_is_found_at_the_latest_by(found_by, tmp_path):
    p = rand(2, 6)
    opt = Adam(p)
    opt.step(rand(2, 6))
    state = opt.state["params"]["exp_avg"].tobytes()
    before = p.tobytes()
    in_place(p, "shape", (4, 3))
    in_place(p, "shape", (3, 4))
    calls = {
        "a step": lambda: opt.step(rand(3, 4)),
        "reference_step": lambda: opt.reference_step(rand(3, 4)),
        "save": lambda: opt.save(tmp_path / "x"),
        "bind": lambda: opt.bind(p),
    }
    with pytest.raises(ValueError, match=r"^params"):
        calls[found_by]()
    assert (p.tobytes(), opt.state["params"]["exp_avg"].tobytes()) == (before, state)
    assert list(tmp_path.iterdir()) == []
    in_place(p, "shape", (2, 6))
    assert opt.step(rand(2, 6))


def test_a_shape_set_on_the_way_to_a_lookahead_is_refused():
    p = rand(2, 6)
    opt = NAG(p)
    looked_ahead(opt).step(rand(2, 6))
    before = p.tobytes()
    in_place(p, "shape", (3, 4))
    with pytest.raises(ValueError, match=r"^params"):
        opt.lookahead().__enter__()
    assert p.tobytes() == before
    in_place(p, "shape", (2, 6))
    assert looked_ahead(opt).step(rand(2, 6))


def test_a_resize_to_the_same_size_in_another_shape_is_found():
    p = rand(2, 6)
    opt = Adam(p)
    opt.step(rand(2, 6))
    before = p.tobytes()
    p.resize((3, 4), refcheck=False)
    with pytest.raises(ValueError, match=r"^params"):
        opt.step(rand(3, 4))
    assert p.tobytes() == before
