"""Rows: gradients of some rows of a table. A table is a list of its rows, where those that are not named have None.

So the oracle of nearly all tests here is fastopt itself, over that list: parameters, state and counts, to the bit.
"""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
from optimizers_table import ISAS, REALS, THREADS, chosen, stepped
from processes import in_child
from support import bits, leaves, rand, whole

import fastopt
from fastopt import Rows
from fastopt.engine import kernels, sweep
from fastopt.engine.chunks import CHUNK
from fastopt.optimizers import OPTIMIZERS

# No state, some by the options, two arrays; state that starts as a copy, at a constant, or otherwise in a first update;
# scalars that go by the number of updates, or the learning rate; a parameter that is assigned, a look ahead.
OF_KINDS = ["SGD", "NAG", "Adam", "Adan", "MADGRAD", "Rprop", "RAdam", "ADOPT", "Yogi", "Ftrl", "Lion"]
REFUSED = {
    "keeps numbers for each parameter": ["NAdam", "AdaBound", "ASGD", "ScheduleFreeSGD", "NovoGrad", "Prodigy"],
    "adds up over each parameter first": ["LAMB", "LARS", "StableAdamW", "Adafactor"],
    "computes in NumPy": ["Muon"],
}
_refused = {name for names in REFUSED.values() for name in names} | {"ScheduleFreeAdamW"}
ELEMENTWISE = chosen(OF_KINDS, [name for name in OPTIMIZERS if name not in _refused])
SHAPES = [(7,), (40, 3), (9, 64), (5, 2, 3), (3, CHUNK + 5), (4, 0), (1, 1)]


def added_up(x):
    """The gradient of each row that is named, by row."""
    found = {}
    for row, values in zip(x.indices.tolist(), x.values, strict=True):
        found[row] = found[row] + values if row in found else values.copy()
    return found


class Pair:
    """An optimizer over a table and an array, and one over the list of the table's rows and that array."""

    def __init__(self, name, shape, dtype, seed=0, **options):
        self.shape, self.dtype, self.rng = shape, dtype, np.random.default_rng(seed)
        self.table, self.w = self.values(*shape), self.values(50)
        rows, w = self.table.copy(), self.w.copy()
        self.rows = [rows[k : k + 1] if len(shape) == 1 else rows[k] for k in range(shape[0])]
        cls = getattr(fastopt, name)
        self.opt = cls({"t": self.table, "w": self.w}, **options)
        self.listed = cls({"t": self.rows, "w": w}, **options)
        self.other = w

    def values(self, *shape):
        return self.rng.normal(size=shape).astype(self.dtype)

    def drawn(self, n=None):
        n = int(self.rng.integers(0, 3 * self.shape[0])) if n is None else n
        indices = self.rng.integers(0, self.shape[0], n).astype(["int32", "int64"][self.rng.integers(2)])
        return Rows(indices, self.values(n, *self.shape[1:]))

    def as_list(self, gradient):
        """What a gradient of the table is for the list."""
        named = added_up(gradient) if isinstance(gradient, Rows) else dict(enumerate(gradient.copy()))
        return [named[k].reshape(p.shape) if k in named else None for k, p in enumerate(self.rows)]

    def step(self, gradient=None, reference=False, **more):
        gradient = self.drawn() if gradient is None else gradient
        w, listed = self.values(50), self.as_list(gradient)
        done = stepped(self.opt, {"t": gradient, "w": w.copy()}, reference, **more)
        assert done == stepped(self.listed, {"t": listed, "w": w.copy()}, **more)
        return done

    def check(self):
        assert bits(self.w) == bits(self.other)
        assert self.table.tobytes() == b"".join(row.tobytes() for row in self.rows)
        state = dict(self.opt.state["params['t']"])
        names = [f"params['t'][{k}]" for k in range(len(self.rows))]
        counts = list(map(self.listed.step_counts.__getitem__, names))
        assert abs(state.pop("row_steps", np.array(counts))).tolist() == counts
        listed = list(map(self.listed.state.__getitem__, names))
        for slot in state:
            assert state[slot].tobytes() == b"".join(of_row[slot].tobytes() for of_row in listed), slot
        assert (self.opt.steps, self.opt.skipped) == (self.listed.steps, self.listed.skipped)
        assert self.opt.grad_norm == self.listed.grad_norm


OPTIONS = [
    ("plain", {}),
    ("decay", {"weight_decay": 0.1}),
    ("clipped", {"clip_norm": 0.5, "zero_grads": True}),
    ("clamped, averaged", {"clip_value": 0.3, "ema_decay": 0.9, "maximize": True}),
    ("skipping", {"nonfinite": "skip", "clip_norm": 2.0}),
]


@pytest.mark.parametrize(("words", "options"), OPTIONS, ids=[words for words, _ in OPTIONS])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_table_is_a_list_of_its_rows(name, words, options):
    if name == "Ftrl":
        options = {key: value for key, value in options.items() if key != "weight_decay"}
    for seed, shape in enumerate(SHAPES):
        pair = Pair(name, shape, REALS[seed % 2], seed, lr=0.05, **options)
        for k in range(6):
            gradient = pair.values(*shape) if k == 3 else None  # of all rows
            pair.step(gradient, reference=k in (2, 4), loss_scale=2.0 if k % 2 else None)
            pair.check()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("isa", ISAS)
def test_the_bits_are_the_same_on_every_instruction_set_and_number_of_threads(isa, threads):
    kernels.select(isa)
    sweep.set_threads(threads)
    for forced in (False, True):
        sweep.set_forced(forced)
        for dtype in REALS:
            pair = Pair("Adam", (3000, 64), dtype, lr=0.1, clip_norm=1.0, weight_decay=0.1)
            for k in range(4):
                pair.step(pair.drawn(5000) if k != 2 else pair.values(3000, 64))
            pair.check()


@pytest.mark.parametrize("n", [0, 1, 2, 31, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("rows", [1, 2, 255, 256, 257, 2048, 70000])
def test_batches_are_sorted_and_added_up_in_their_order(rows, n):
    rng = np.random.default_rng(n)
    drawn = rng.integers(0, rows, n)
    for indices in (drawn, drawn % 3 % rows, np.unique(drawn), np.unique(drawn)[::-1], np.full(n, rows - 1)):
        table = rng.normal(size=(rows, 2)).astype("float32")
        x = Rows(indices, rng.normal(size=(len(indices), 2)).astype("float32"))
        wanted = table.copy()
        for row, g in added_up(x).items():
            wanted[row] -= g
        fastopt.SGD(table, lr=1.0).step(x)
        assert bits(table) == bits(wanted)


def test_rows_with_many_numbers_of_updates_have_the_scalars_of_each():
    pair = Pair("Adam", (400, 2), "float64", lr=0.1)
    for k in range(400):
        pair.step(Rows(np.arange(k, 400), pair.values(400 - k, 2)))
    pair.step(Rows(np.arange(400), pair.values(400, 2)))
    pair.check()
    assert len(np.unique(pair.opt.state["params['t']"]["row_steps"])) == 400


def test_zero_grads_zeroes_the_values_wherever_they_lie():
    table = np.zeros((4, 3))
    opt = fastopt.SGD(table, lr=1.0, zero_grads=True)
    wide = np.ones((3, 6))
    for values in (np.ones((3, 3)), wide[:, ::2], np.ones((3, 3), order="F"), np.ones((3, 6))[:, 5:2:-1]):
        before = table.copy()
        opt.step(Rows(np.array([1, 3, 1]), values))
        assert not values.any()
        assert table.tolist() == (before - [[0], [2], [0], [1]]).tolist()
    assert wide[:, 1::2].all()


def test_a_bad_number_is_found_in_the_sum_and_named_by_its_row():
    table = np.zeros((5, 2, 2))
    opt = fastopt.SGD(table, lr=1.0, nonfinite="raise")
    values = np.ones((3, 2, 2))
    values[1, 1, 0], values[2, 1, 0] = np.inf, -np.inf
    with pytest.raises(FloatingPointError, match=r"^grads\[3, 1, 0\] is nan: nothing was written$"):
        opt.step(Rows(np.array([0, 3, 3]), values))
    assert not table.any()
    assert opt.steps == 0
    assert "row_steps" not in opt.state["params"]
    one = np.zeros(3, "float32")
    opt = fastopt.SGD(one, lr=1.0, nonfinite="skip", zero_grads=True)
    values = np.array([1, np.nan], "float32")
    assert not opt.step(Rows(np.array([0, 2]), values))
    assert not one.any()
    assert not values.any()
    assert opt.skipped == 1


def test_state_that_an_option_brings_is_new_for_each_row_until_its_next_update():
    pair = Pair("SGD", (6, 2), "float64", lr=0.1)
    for options in ({}, {"momentum": 0.5, "dampening": 0.5}, {"momentum": 0.0}, {"momentum": 0.9}):
        for name, value in options.items():
            setattr(pair.opt, name, value)
            setattr(pair.listed, name, value)
        for _ in range(2):
            pair.step(pair.drawn(3))
            pair.check()
    adam = Pair("Adam", (6, 2), "float64", lr=0.1)
    for amsgrad in (False, True, False):
        adam.opt.amsgrad = adam.listed.amsgrad = amsgrad
        for _ in range(3):
            adam.step(adam.drawn(3))
            adam.check()


def test_a_table_that_had_whole_gradients_goes_on_from_its_count():
    pair = Pair("Adam", (8, 3), "float32", lr=0.1)
    for _ in range(3):
        pair.step(pair.values(8, 3))
    assert "row_steps" not in pair.opt.state["params['t']"]
    for _ in range(3):
        pair.step()
        pair.check()
    assert pair.opt.step_counts["params['t']"] == 6


def test_averages_show_rows_that_had_no_update_as_they_are():
    table = rand(5, 2)
    opt = fastopt.SGD(table, lr=1.0, ema_decay=0.5)
    opt.step(Rows(np.array([1, 2]), np.ones((2, 2))))
    table[0] = 7.0
    opt.step(Rows(np.array([2]), np.ones((1, 2))))
    own = table.copy()
    with opt.averaged():
        assert table[[0, 1, 3, 4]].tolist() == own[[0, 1, 3, 4]].tolist()
        assert table[2].tolist() == (own[2] + 0.5).tolist()
    assert bits(table) == bits(own)


def test_groups_schedules_and_masks_hold_for_tables():
    first, second = rand(6, 2), rand(6, 2, seed=1)
    lists = [list(first.copy()), list(second.copy())]
    more = {"decay_mask": lambda path, p: p.ndim == 2, "weight_decay": 0.5, "decoupled": True}
    schedule = fastopt.schedules.LinearDecay(0.5, total=5)
    opt = fastopt.Adam([{"params": first, "lr": schedule}, {"params": second}], lr=0.1, **more)
    more["decay_mask"] = None
    listed = fastopt.Adam([{"params": lists[0], "lr": schedule}, {"params": lists[1]}], lr=0.1, **more)
    for k in range(4):
        x = Rows(np.array([k, 5, 2]), rand(3, 2, seed=k))
        named = added_up(x)
        opt.step([x, None] if k == 2 else [x, x])
        grads = [named.get(row) for row in range(6)]
        listed.step([grads, [None] * 6] if k == 2 else [grads, grads])
    assert first.tobytes() == b"".join(row.tobytes() for row in lists[0])
    assert second.tobytes() == b"".join(row.tobytes() for row in lists[1])


def test_torch_counts_the_updates_of_the_table():
    """The example of SparseAdam: FAMILY, section 5."""
    p = np.array([[1, -2], [0.5, 3], [2, 0.25]])
    opt = fastopt.Adam(p, lr=0.1, eps_hat=True)
    opt.step(Rows(np.array([0, 2]), np.array([[0.5, -0.25], [0.125, 1]]), counts="table"))
    assert np.allclose(p, [[0.900000063245513, -1.90000012649095], [0.5, 3], [1.90000025298157, 0.150000031622767]],
                       rtol=1e-14)  # fmt: skip  # of rounding
    opt.step(Rows(np.array([0, 1]), np.array([[-0.125, 1], [0.25, -0.5]]), counts="table"))
    wanted = [[0.853053274943523, -1.95595045872945], [0.425586411769872, 3.07441363529338],
              [1.90000025298157, 0.150000031622767]]  # fmt: skip
    assert np.allclose(p, wanted, rtol=1e-14)
    assert opt.state["params"]["row_steps"].tolist() == [2, 1, 1]
    assert opt.step_counts == {"params": 2}


# ---- what is refused ----


def table_of(**more):
    params = {"t": rand(4, 3), "f": np.asfortranarray(rand(4, 3)), "s": np.array(1.0), "e": np.zeros((0, 3))}
    return params, fastopt.Adam(params, **more)


def of(table="t", **x):
    given = {"indices": np.array([1, 2]), "values": np.ones((2, 3))} | x
    return lambda: {key: Rows(**given) if key == table else None for key in "tfse"}


WRONG = [
    (of(indices=np.array([1, 4])), IndexError,
     "grads['t'].indices[1] is 4: params['t'] has 4 rows, wanted 0 to 3"),
    (of(indices=np.array([-1, 2], "int32")), IndexError, "grads['t'].indices[0] is -1: params['t'] has 4 rows"),
    (of("e"), IndexError, "grads['e'].indices[0] is 1: params['e'] has 0 rows"),
    (of(indices=np.array([1.0, 2.0])), TypeError, "grads['t'].indices has dtype float64: wanted int32 or int64"),
    (of(indices=np.array([1, 2], "uint64")), TypeError, "has dtype uint64: wanted int32 or int64"),
    (of(indices=np.array([1, 2], "int16")), TypeError, "has dtype int16: wanted int32 or int64"),
    (of(indices=np.array([True, False])), TypeError, "has dtype bool: wanted int32 or int64"),
    (of(indices=np.array([1, 2], ">i8")), TypeError, "has dtype >i8: wanted int32 or int64"),
    (of(indices=[1, 2]), TypeError, "grads['t'].indices is list: indices must be an array"),
    (of(indices=np.array([[1, 2]])), ValueError, "grads['t'].indices has shape (1, 2): wanted one axis"),
    (of(values=np.ones((2, 3), "float32")), TypeError, "grads['t'].values has dtype <f4: wanted float64, as params"),
    (of(values=[[1.0] * 3] * 2), TypeError, "grads['t'].values is list: a gradient must be an array"),
    (of(values=np.ones((3, 3))), ValueError,
     "grads['t'].values has shape (3, 3): wanted (2, 3), for each index a row of params['t']"),
    (of(values=np.ones(2)), ValueError, "grads['t'].values has shape (2,): wanted (2, 3)"),
    (of(values=np.ma.masked_array(np.ones((2, 3)))), TypeError, "grads['t'].values is a masked array"),
    (of("f"), ValueError, "grads['f'] is Rows: params['f'] is not C-contiguous, and so no row of it is one piece"),
    (of("s"), ValueError, "grads['s'] is Rows: params['s'] has no axes"),
]  # fmt: skip


@pytest.mark.parametrize(("grads", "kind", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_what_is_wrong_is_named_before_anything_is_written(grads, kind, message):
    params, opt = table_of()
    for good in (None, of()()):
        if good:
            opt.step(good)
        before = whole(opt, params)
        with pytest.raises(kind, match=re.escape(message)):
            opt.step(grads())
        assert whole(opt, params) == before
    opt.step(of()())


def test_values_may_not_overlap_parameters_or_state():
    params, opt = table_of()
    opt.step(of()())
    for memory, where in (
        (params["t"], "the memory of"),
        (opt.state["params['t']"]["exp_avg"], "the optimizer's state"),
    ):
        before = whole(opt, params)
        with pytest.raises(ValueError, match=rf"^grads\['t'\] overlaps {where}"):
            opt.step(of(values=memory[1:3])())
        assert whole(opt, params) == before
    opt.zero_grads = True
    values = np.ones((2, 3))
    with pytest.raises(ValueError, match="zero_grads=True needs gradients apart"):
        opt.step(
            {**of(values=values)(), "f": np.asfortranarray(np.ones((4, 3))), "e": None, "s": values[0, :1].reshape(())}
        )
    values.flags.writeable = False
    with pytest.raises(ValueError, match=r"^grads\['t'\]\.values is read-only: zero_grads=True cannot zero it$"):
        opt.step(of(values=values)())


@pytest.mark.parametrize(("why", "name"), [(why, name) for why, names in REFUSED.items() for name in names])
def test_classes_that_cannot_update_rows_one_by_one_say_so(why, name):
    table = rand(4, 3)
    opt = getattr(fastopt, name)(table)
    before = whole(opt, table)
    with pytest.raises(TypeError, match=rf"^grads is for rows of params, which {name} cannot update .*: it {why}$"):
        opt.step(Rows(np.array([1]), np.ones((1, 3))))
    assert whole(opt, table) == before
    opt.step(np.ones((4, 3)))  # as if nothing had been


def test_every_class_takes_rows_or_says_why_not():
    for name, cls in OPTIMIZERS.items():
        opt = cls(rand(4, 3))
        x = Rows(np.array([1]), np.ones((1, 3)))
        if name in _refused:
            with pytest.raises(TypeError, match="cannot update one by one"):
                stepped(opt, x)
        else:
            assert stepped(opt, x)


def test_norms_of_single_tensors_are_refused_with_rows():
    params, opt = table_of(clip_tensor_norm=1.0)
    before = whole(opt, params)
    with pytest.raises(ValueError, match=r"^clip_tensor_norm is for whole gradients: with Rows, wanted clip_norm"):
        opt.step(of()())
    assert whole(opt, params) == before


def test_who_shares_gradients_with_other_processes_takes_whole_ones():
    """As `fastopt.mpi.Sharded` does, through `Plan.taken`."""
    params, opt = table_of()
    before = whole(opt, params)
    with pytest.raises(TypeError, match=r"^grads\['t'\] is Rows: wanted the gradient of a whole parameter$"):
        opt._plan.taken(of()())
    assert whole(opt, params) == before
    opt.step(of()())


def test_rows_say_what_they_are():
    x = Rows(np.array([1]), np.array([2.0]), counts="table")
    assert repr(x) == "Rows(array([1]), array([2.]), counts='table')"
    again = pickle.loads(pickle.dumps(x))
    assert (again.indices.tolist(), again.values.tolist(), again.counts) == ([1], [2.0], "table")
    with pytest.raises(ValueError, match=r"^counts is 'rows': wanted 'row' or 'table'$"):
        Rows(np.array([1]), np.array([2.0]), counts="rows")


def test_what_numpy_can_view_is_a_gradient_of_rows_too():
    table = np.zeros(3)
    opt = fastopt.SGD(table, lr=1.0)
    opt.step(Rows(memoryview(np.array([2, 0])), memoryview(np.array([1.0, 2.0]))))
    opt.step(Rows(np.array([0, 9, 1, 9])[::2], np.array([[1.0, 3.0], [1.0, 3.0]])[:, 0]))
    assert table.tolist() == [-3.0, -1.0, -1.0]


def test_a_gradient_that_changes_while_it_is_read_is_found_out():
    table = np.zeros((4, 2))
    other = np.ones(2)

    class Resizing:
        def __dlpack__(self, **_):
            values.resize((50000, 2), refcheck=False)  # its memory is elsewhere now
            return other.__dlpack__()

        def __dlpack_device__(self):
            return other.__dlpack_device__()

    values = np.ones((2, 2))
    opt = fastopt.SGD([table, np.zeros(2)], lr=1.0)
    with pytest.raises(RuntimeError, match=r"grads\[0\] changed while gradients were read"):
        opt.step([Rows(np.array([0, 1]), values), Resizing()])
    assert not table.any()


def test_a_step_that_fails_late_leaves_no_table():
    """The schedule is asked after rows were taken in: what comes to nothing must not change how norms are added up."""

    class FailingError(Exception):
        pass

    fails = []

    def momentum(steps):
        if fails:
            raise FailingError
        return 0.5

    pair = Pair("SGD", (5, 9), "float32", lr=0.1, momentum=0.5, clip_norm=0.1)
    pair.opt.momentum = momentum
    before = whole(pair.opt, [pair.table, pair.w])
    fails.append(True)
    with pytest.raises(FailingError):
        pair.opt.step({"t": pair.drawn(3), "w": None})
    fails.clear()
    assert whole(pair.opt, [pair.table, pair.w]) == before
    table, w, g = pair.table.copy(), pair.w.copy(), pair.values(5, 9)
    plain = fastopt.SGD({"t": table, "w": w}, lr=0.1, momentum=0.5, clip_norm=0.1)
    for opt in (pair.opt, plain):
        opt.step({"t": g, "w": np.ones(50, "float32")})
    assert bits(table) == bits(pair.table)


def test_a_step_without_memory_is_done_or_not():
    each_allocation = pytest.importorskip(
        "test_no_memory"
    ).each_allocation  # which skips where memory cannot be made to fail

    class World:
        def __init__(self, more):
            self.pair = trained(zero_grads=True, nonfinite="raise")
            self.x = self.pair.drawn(8) if more else Rows(np.array([2, 0, 2, 1], "int32"), self.pair.values(8, 4)[::2])
            self.w = self.pair.values(50)

        def act(self):
            self.pair.opt.step({"t": self.x, "w": self.w})

        def all(self):
            return whole(self.pair.opt, [self.pair.table, self.pair.w]), bits(self.x.values), bits(self.w)

    def child():
        for more in (False, True):
            done = World(more)
            before = done.all()
            done.act()
            after = done.all()

            def check(world, failed, again, before=before, after=after):
                assert world.all() == (before if failed else after), "half"
                if again:
                    world.act()
                    assert world.all() == after, "other bits"

            assert each_allocation(lambda more=more: World(more), lambda world: world.act(), check) > 3

    in_child(child, timeout=100)


def test_rows_are_a_part_of_a_step_in_parts():
    pair = Pair("Adam", (9, 4), "float32", lr=0.1, zero_grads=True)
    for _ in range(3):
        x, w = pair.drawn(), pair.values(50)
        listed = pair.as_list(x)
        with pair.opt.parts() as part:
            assert part("w", w.copy())
            assert part("t", x)
        assert not x.values.any()
        pair.listed.step({"t": listed, "w": w})
        pair.check()
    opt = fastopt.LAMB({"t": pair.table})
    with opt.parts() as part, pytest.raises(TypeError, match="LAMB cannot update one by one"):
        part("t", pair.drawn())


# ---- snapshots ----


def same_ends(pair, opt, table):
    """Whether an optimizer that was made of the pair's goes on as that one does."""
    for _ in range(3):
        x, w = pair.drawn(), pair.values(50)
        opt.step({"t": x, "w": w})
        pair.opt.step({"t": x, "w": w})
    assert bits(table) == bits(pair.table)
    found, wanted = opt.state["params['t']"], pair.opt.state["params['t']"]
    assert {key: bits(value) for key, value in found.items()} == {key: bits(value) for key, value in wanted.items()}


def trained(name="Adam", **options):
    pair = Pair(name, (9, 4), "float32", lr=0.1, clip_norm=1.0, **options)
    for k in range(4):
        pair.step(pair.values(9, 4) if k == 0 else None)
    return pair


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_has_the_counts_of_rows(tmp_path, in_place):
    pair = trained(ema_decay=0.5)
    pair.opt.save(tmp_path / "file")
    params = {"t": np.zeros((9, 4), "float32"), "w": np.zeros(50, "float32")}
    opt = fastopt.Adam(params, lr=0.1, clip_norm=1.0, ema_decay=0.5)
    opt.step({"t": Rows(np.array([1]), np.ones((1, 4), "float32")), "w": None})
    opt.load(tmp_path / "file", in_place=in_place)
    same_ends(pair, opt, params["t"])


def test_a_state_dict_has_the_counts_of_rows():
    pair = trained("SGD", momentum=0.9)
    table = pair.table.copy()
    opt = fastopt.SGD({"t": table, "w": pair.w.copy()}, lr=0.1, clip_norm=1.0, momentum=0.9)
    snapshot = pair.opt.state_dict()
    assert snapshot["state"]["params['t']"]["row_steps"].dtype == np.int64
    opt.load_state_dict(snapshot)
    same_ends(pair, opt, table)


def test_copies_and_other_parameters_go_on_with_the_counts_of_rows():
    for made in (copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))):
        pair = trained()
        table = pair.table.copy()
        opt = made(pair.opt)
        assert opt.nbytes == pair.opt.nbytes == 2 * (9 * 4 + 50) * 4 + 9 * 8
        opt.bind({"w": pair.w.copy(), "t": table})
        same_ends(pair, opt, table)
        with pytest.raises(ValueError, match=r"row_steps: wanted params\['t'\] C-contiguous"):
            opt.bind({"w": pair.w.copy(), "t": np.asfortranarray(table)})


def test_reset_forgets_that_rows_had_counts():
    pair = trained()
    pair.opt.reset()
    assert "row_steps" not in pair.opt.state["params['t']"]
    table = pair.table.copy()
    opt = fastopt.Adam({"t": table, "w": pair.w.copy()}, lr=0.1, clip_norm=1.0)
    same_ends(pair, opt, table)


def test_new_state_is_new_after_a_load_too(tmp_path):
    pair = Pair("SGD", (6, 2), "float64", lr=0.1)
    for _ in range(3):
        pair.step(pair.drawn(3))
    pair.opt.momentum = 0.5
    pair.opt.step({"t": pair.drawn(2), "w": None})
    assert (pair.opt.state["params['t']"]["row_steps"] < 0).any()
    pair.opt.save(tmp_path / "file")
    table = np.zeros((6, 2))
    opt = fastopt.SGD({"t": table, "w": np.zeros(50)}, lr=0.1, momentum=0.5)
    opt.load(tmp_path / "file")
    same_ends(pair, opt, table)


def test_counts_of_rows_that_are_damaged_are_refused():
    pair = trained()
    before = whole(pair.opt, leaves([pair.table, pair.w]))
    for counts, message in [
        (np.zeros(8, np.int64), r"row_steps as int64 \(8,\): wanted int64 \(9,\)"),
        (np.zeros(9), r"row_steps as float64 \(9,\): wanted int64"),
        (np.full(9, 2**62), "damaged"),
        (np.full(9, -(2**63)), "damaged"),
    ]:
        snapshot = pair.opt.state_dict()
        snapshot["state"]["params['t']"]["row_steps"] = counts
        with pytest.raises(ValueError, match=message):
            pair.opt.load_state_dict(snapshot)
    assert whole(pair.opt, leaves([pair.table, pair.w])) == before
    snapshot = pair.opt.state_dict()
    fortran = np.asfortranarray(pair.table)
    opt = fastopt.Adam({"t": fortran, "w": pair.w.copy()})
    with pytest.raises(ValueError, match=r"row_steps: wanted params\['t'\] C-contiguous"):
        opt.load_state_dict(snapshot)


def test_rows_counts_can_be_read_and_not_written():
    counts = trained().opt.state["params['t']"]["row_steps"]
    with pytest.raises(ValueError, match="read-only"):
        counts[0] = 5


# ---- what the memory of a step is ----


def test_a_step_touches_no_row_that_is_not_named(guarded):
    """Each named row between guard bytes would not do: the table is one array. So all others are NaN, and stay so."""
    table = guarded(np.full((5000, 3), np.nan, "float32"))
    opt = fastopt.Adam(table, lr=0.1, clip_norm=1.0, nonfinite="raise", weight_decay=0.1)
    named = np.array([0, 7, 4999, 2500])
    table[named] = 1.0
    opt.step(Rows(named, np.ones((4, 3), "float32")))
    moved = np.zeros(5000, bool)
    moved[named] = True
    assert np.isfinite(table[moved]).all()
    assert np.isnan(table[~moved]).all()
    for slot in ("exp_avg", "exp_avg_sq"):
        assert (opt.state["params"][slot] != 0).any(1).tolist() == moved.tolist()
