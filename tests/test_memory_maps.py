"""Arrays in maps of files: which bytes of which file each is, and which are the same though their addresses differ."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import textwrap
import timeit
from multiprocessing import shared_memory

import numpy as np
import pytest

from fastopt import Adam, memory
from fastopt.memory import mapped_range, overlapping_maps

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no such maps")

PAGE = mmap.ALLOCATIONGRANULARITY
SIZE = 4 * PAGE

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="this system does not list its maps")


@pytest.fixture(params=["maps listed", pytest.param("not listed", id="maps not listed")])
def listed(request, monkeypatch, tmp_path):
    """Whether the system tells what is mapped; if not, a memmap knows."""
    if request.param == "not listed":
        monkeypatch.setattr(memory, "_MAPS", str(tmp_path / "none"))
    elif not os.path.exists("/proc/self/maps"):
        pytest.skip("this system does not list its maps")


@pytest.fixture
def path(tmp_path):
    """A file of a few pages."""
    (tmp_path / "file").write_bytes(bytes(SIZE))
    return tmp_path / "file"


def over(path, begin, end, mode="r+", dtype="u1", **options):
    """A memmap of part of a file."""
    count = (end - begin) // np.dtype(dtype).itemsize
    return np.memmap(path, dtype, mode, begin, **{"shape": (count,), **options})


def same_bytes(*arrays):
    """What is found, after a look at whether it is so."""
    found = overlapping_maps(arrays)
    if found is not None:
        first, second = (arrays[i] for i in found)
        assert not np.shares_memory(first, second)
        a, b = mapped_range(first), mapped_range(second)
        assert a[0] == b[0]
        assert max(a[1], b[1]) < min(a[2], b[2])
    return found


# ---- which bytes an array is ----


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("mode", ["r", "r+", "w+"])
@pytest.mark.parametrize("offset", [0, 1, 100, PAGE, PAGE + 4, 3 * PAGE - 8])
def test_a_memmap_is_the_part_of_the_file_that_it_was_made_of(path, mode, offset):
    array = over(path, offset, offset + 800, mode)
    file, begin, end = mapped_range(array)
    assert (begin, end) == (offset, offset + 800)
    assert file == mapped_range(over(path, 0, 8, "r"))[0]
    assert mapped_range(array[8:24])[1:] == (offset + 8, offset + 24)


@pytest.mark.usefixtures("listed")
def test_another_file_is_another_one(path):
    other = path.with_name("other")
    other.write_bytes(bytes(SIZE))
    one, two = over(path, 0, 80), over(other, 0, 80)
    assert mapped_range(one)[0] != mapped_range(two)[0]
    assert overlapping_maps([one, two]) is None


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("view", "begin", "end"),
    [
        (lambda a: a[2:5], 80, 200),
        (lambda a: a[::-1], 0, 400),
        (lambda a: a[7:2:-2, 1:4:2], 3 * 40 + 8, 7 * 40 + 32),
        (lambda a: a.T, 0, 400),
        (lambda a: a[3].reshape(5, 1), 120, 160),
        (lambda a: a[4, 2:3].reshape(()), 176, 184),
        (lambda a: np.asarray(a)[1:].T[1:], 48, 400),
        (lambda a: a.view("f4")[9:, 9:], 396, 400),
        (lambda a: np.broadcast_to(a[2, 2], (3, 3)), None, None),
        (lambda a: np.broadcast_to(a[2:3, 2:3], (3, 3)), 96, 104),
    ],
)
def test_a_view_is_its_own_part(path, view, begin, end):
    array = view(over(path, 16, 416, dtype="f8", shape=(10, 5)))
    if begin is None:  # one number of NumPy's, which is a copy
        assert mapped_range(array) is None
    else:
        assert mapped_range(array)[1:] == (16 + begin, 16 + end)


@pytest.mark.usefixtures("listed")
def test_one_in_fortran_order_is_its_part(path):
    array = over(path, 8, 248, dtype="f8", shape=(5, 6), order="F")
    assert mapped_range(array)[1:] == (8, 248)
    assert mapped_range(array[:, 1:3])[1:] == (8 + 40, 8 + 120)
    assert mapped_range(array[2:4])[1:] == (8 + 16, 8 + 5 * 40 + 32)


@pytest.mark.usefixtures("listed")
def test_ordinary_memory_and_what_is_private_is_of_no_file(path):
    own = np.zeros((3, 4))
    private = over(path, 0, 80, "c")
    shared = over(path, 0, 80)
    many = bytearray(80)
    for array in [own, own[1:].T, np.frombuffer(many), np.frombuffer(bytes(8)), np.array(shared), shared + 1]:
        assert mapped_range(array) is None
    for array in [private, private[3:], shared[5:5], np.zeros(0), np.zeros(3, "V0")]:
        assert mapped_range(array) is None
    assert overlapping_maps([own, private, shared, own, private, shared, shared[5:5]]) is None


@needs_proc
@pytest.mark.parametrize(
    "make", [np.frombuffer, lambda m: np.asarray(memoryview(m)[24:]), lambda m: np.ndarray(8, buffer=m)]
)
def test_an_array_over_a_map_of_pythons_is_its_part(path, make):
    with open(path, "r+b") as file:
        array = make(mmap.mmap(file.fileno(), 2 * PAGE, offset=PAGE))
        private = make(mmap.mmap(file.fileno(), 2 * PAGE, flags=mmap.MAP_PRIVATE, offset=PAGE))
    skipped = 24 if array.dtype == np.uint8 else 0
    assert mapped_range(array)[1:] == (PAGE + skipped, PAGE + skipped + array.nbytes)
    assert mapped_range(array)[0] == mapped_range(over(path, 0, 8))[0]
    assert mapped_range(private) is None
    assert same_bytes(array, over(path, PAGE + skipped, PAGE + skipped + 1)) == (0, 1)
    assert same_bytes(array, private, over(path, PAGE - 8, PAGE + skipped)) is None


@needs_proc
def test_shared_memory_without_a_file_has_no_other_address():
    one, two = (np.frombuffer(mmap.mmap(-1, PAGE)) for _ in range(2))
    assert overlapping_maps([one, two, one]) is None


@needs_proc
@pytest.mark.skipif(not hasattr(mmap.mmap, "madvise") or not hasattr(mmap, "MADV_DONTFORK"), reason="no such advice")
def test_a_map_that_is_listed_in_pieces_is_one(path):
    with open(path, "r+b") as file:
        source = mmap.mmap(file.fileno(), SIZE)
    source.madvise(mmap.MADV_DONTFORK, PAGE, PAGE)
    array = np.frombuffer(source, np.uint8)
    address = array.__array_interface__["data"][0]
    pieces = [m for m in memory._mappings() if address <= m[0] < address + SIZE]
    assert len(pieces) == 3
    assert mapped_range(array)[1:] == (0, SIZE)
    assert mapped_range(array[PAGE - 3 : 2 * PAGE + 3])[1:] == (PAGE - 3, 2 * PAGE + 3)
    assert same_bytes(array[PAGE:], over(path, SIZE - 1, SIZE)) == (0, 1)


def test_what_the_system_says_is_taken_as_it_is(path, tmp_path, monkeypatch):
    array = over(path, 8, 2 * PAGE)
    address = array.__array_interface__["data"][0] - 8
    a, b, c = (f"{address + i * PAGE:x}" for i in range(3))
    for rows, wanted in [
        ([f"{a}-{c} rw-s 00000000 fe:01 77    /a file with blanks"], (("fe:01", 77), 8, 2 * PAGE)),
        ([f"{a}-{c} rw-s {PAGE:08x} fe:01 77"], (("fe:01", 77), PAGE + 8, 3 * PAGE)),
        (["0-1000 r--p 00000000 fe:01 77", f"{a}-{c} r--s 00000000 fe:01 78 /f"], (("fe:01", 78), 8, 2 * PAGE)),
        ([f"{a}-{b} rw-s 0 fe:01 77 /f", f"{b}-{c} r--s {PAGE:x} fe:01 77 /f"], (("fe:01", 77), 8, 2 * PAGE)),
        ([f"{a}-{b} rw-s 0 fe:01 77 /f", f"{b}-{c} r--s {PAGE:x} fe:01 78 /g"], None),
        ([f"{a}-{b} rw-s 0 fe:01 77 /f", f"{b}-{c} r--s 0 fe:01 77 /f"], None),
        ([f"{a}-{b} rw-s 0 fe:01 77 /f", f"{b}-{c} rw-p {PAGE:x} fe:01 77 /f"], None),
        ([f"{a}-{b} rw-s 0 fe:01 77 /f"], None),
        ([f"{b}-{c} rw-s 0 fe:01 77 /f"], None),
        ([f"{a}-{c} rw-p 0 fe:01 77 /f"], None),
        ([f"{a}-{c} rw-s 0 00:00 0"], None),  # as some say of all that is shared
        (["0-1000 rw-s 0 fe:01 77 /f"], None),
        ([], None),
    ]:
        rows.append("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]")
        (tmp_path / "maps").write_text("".join(f"{row}\n" for row in rows))
        monkeypatch.setattr(memory, "_MAPS", str(tmp_path / "maps"))
        assert mapped_range(array) == wanted, rows


@needs_proc
def test_names_of_files_may_be_anything(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff \r x\n"
    with open(path, "wb") as file:
        file.write(bytes(SIZE))
    arrays = [over(os.fsdecode(path), 0, 80) for _ in range(2)]
    assert mapped_range(arrays[0])[1:] == (0, 80)
    assert same_bytes(*arrays) == (0, 1)


# ---- which are the same ----


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((0, 80), (0, 80), True),
        ((0, 80), (80, 160), False),
        ((0, 81), (80, 160), True),
        ((13, 80), (79, 80), True),
        ((13, 79), (79, 80), False),
        ((PAGE - 8, PAGE), (PAGE, PAGE + 8), False),
        ((PAGE - 8, PAGE + 1), (PAGE, PAGE + 8), True),
        ((PAGE + 16, PAGE + 24), (0, SIZE), True),
        ((3 * PAGE, SIZE), (0, 8), False),
    ],
)
def test_two_maps_of_a_file_are_the_same_where_they_overlap(path, mode, one, other, same):
    a, b = over(path, *one, mode), over(path, *other)
    if same:
        b[...] = 1
        assert a.any()
    assert same_bytes(a, b) == ((0, 1) if same else None)
    assert same_bytes(b, np.zeros(3), a) == ((0, 2) if same else None)


@pytest.mark.usefixtures("listed")
def test_within_one_map_addresses_tell_and_there_is_nothing_to_find(path):
    array = over(path, 0, 800)
    assert overlapping_maps([array, array[3:], np.asarray(array)[::2]]) is None
    assert overlapping_maps([array]) is None
    assert overlapping_maps([]) is None


@pytest.mark.usefixtures("listed")
def test_views_that_pass_each_other_by_have_no_byte_in_common(path):
    one, two = (over(path, 8, 808, dtype="f8", shape=(10, 10)) for _ in range(2))
    assert overlapping_maps([one[::2], two[1::2]]) is None
    assert overlapping_maps([one[:, 3:5], two[:, 5:]]) is None
    assert overlapping_maps([one.T[:5], two[:, 5:]]) is None
    assert same_bytes(one[::2], two[2::2]) == (0, 1)
    assert same_bytes(one[::-1], two[:1]) == (0, 1)
    assert same_bytes(one.T[4], two[:, 4:]) == (0, 1)
    assert same_bytes(one.view("u1")[:, 7::8], two.view("u2")[:, 3::4]) == (0, 1)
    assert overlapping_maps([one.view("u1")[:, 5::8], two.view("u2")[:, 3::4]]) is None


@pytest.mark.usefixtures("listed")
def test_the_first_pair_of_several_is_found(path):
    other = path.with_name("other")
    other.write_bytes(bytes(SIZE))
    long, late, short = over(path, 0, 800), over(path, 400, 480), over(path, 40, 48)
    one, two = over(other, 0, 8), over(other, 0, 8)
    assert same_bytes(np.zeros(2), short, late, one, long, two) == (1, 4)
    assert same_bytes(late, one, short, two, long) == (1, 3)
    assert same_bytes(short, late, long[100:500], long, one, two) == (1, 2)
    assert same_bytes(short, late, one, short, long[500:]) is None


@pytest.mark.usefixtures("listed")
def test_a_file_by_two_names_is_one_file(path):
    hard, symbolic = path.with_name("hard"), path.with_name("symbolic")
    os.link(path, hard)
    symbolic.symlink_to(path)
    for name in (hard, symbolic):
        assert mapped_range(over(name, 0, 8)) == mapped_range(over(path, 0, 8))
        assert same_bytes(over(path, 0, 80), over(name, 72, 144)) == (0, 1)
        assert same_bytes(over(path, 0, 80), over(name, 80, 144)) is None


@needs_proc
def test_a_deleted_file_is_still_one_and_another_one_of_its_name_another(path):
    one, two = over(path, 0, 80), over(path, 8, 16)
    path.unlink()
    assert same_bytes(one, two) == (0, 1)
    path.write_bytes(bytes(SIZE))
    assert overlapping_maps([over(path, 0, 80), one]) is None
    assert same_bytes(over(path, 0, 80), one, two) == (1, 2)


def test_of_a_deleted_file_a_memmap_knows_nothing(path, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MAPS", str(tmp_path / "none"))
    array = over(path, 0, 80)
    path.unlink()
    assert mapped_range(array) is None


@needs_proc
def test_a_file_that_is_mapped_twice_without_a_memmap_needs_the_list(path, tmp_path, monkeypatch):
    with open(path, "r+b") as file:
        arrays = [np.frombuffer(mmap.mmap(file.fileno(), 0)) for _ in range(2)]
    assert same_bytes(*arrays) == (0, 1)
    monkeypatch.setattr(memory, "_MAPS", str(tmp_path / "none"))
    assert overlapping_maps(arrays) is None


@needs_proc
def test_shared_memory_attached_twice_is_the_same():
    one = shared_memory.SharedMemory(create=True, size=800)
    try:
        two = shared_memory.SharedMemory(name=one.name)
        arrays = [np.ndarray(100, buffer=one.buf), np.ndarray((5, 10), buffer=two.buf, offset=80)]
        arrays[0][10] = 7
        assert arrays[1][0, 0] == 7
        assert mapped_range(arrays[1])[1:] == (80, 480)
        assert same_bytes(arrays[0], arrays[1]) == (0, 1)
        assert same_bytes(arrays[0][:10], arrays[1]) is None
        del arrays
        two.close()
    finally:
        one.close()
        one.unlink()


# ---- what it costs ----


def test_of_ordinary_arrays_the_system_is_not_asked(monkeypatch, path):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(memory, "_mappings", never)
    arrays = [np.zeros(3), np.zeros((3, 3))[1:], np.frombuffer(bytes(8)), over(path, 0, 8)]
    assert overlapping_maps([*arrays, arrays[-1][2:]]) is None
    many = arrays[:2] * 500
    assert min(timeit.repeat(lambda: overlapping_maps(many), number=1, repeat=20)) < 1e-3


def test_many_maps_take_no_long_time(path):
    arrays = [over(path, i, i + 1, "r") for i in range(1000)]
    begin = timeit.default_timer()
    assert overlapping_maps(arrays) is None
    arrays.append(over(path, 999, 1000, "r"))
    assert overlapping_maps(arrays) == (999, 1000)
    assert overlapping_maps([over(path, 0, SIZE) for _ in range(500)]) == (0, 1)
    assert timeit.default_timer() - begin < 5


def test_it_imports_nothing_of_the_library():
    script = """
    import runpy, sys
    runpy.run_path(sys.argv[1])
    assert not any(name.split(".")[0] == "fastopt" for name in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), memory.__file__], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_system_is_asked_once_for_all_parameters_of_an_optimizer(monkeypatch, path):
    asked = []
    mappings = memory._mappings
    monkeypatch.setattr(memory, "_mappings", lambda: asked.append(1) or mappings())
    Adam([np.memmap(path, "f8", "r+", 80 * i, (10,)) for i in range(5)])
    assert len(asked) <= 1
