"""Memory in files: for state that is larger than memory; and which arrays are the same bytes of one file.

A file can be mapped more than once, and then bytes at one address are those at another: a comparison of addresses, as
`numpy.shares_memory` makes it, does not see that. Linux is asked what lies where. Where it cannot be, a
`numpy.memmap` tells what it was made of, and other maps are taken for ordinary memory.
"""

from __future__ import annotations

import math
import mmap
import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Files", "files", "is_mapped", "mapped_range", "overlapping_maps"]

Array = npt.NDArray[Any]
Key = tuple[str | int, int]  # of a file: its device and its inode
Range = tuple[Key, int, int]
Mapping = tuple[int, int, Key | None, int]  # from address, to address; file, None for private memory; offset in it

_MAPS = "/proc/self/maps"


def files(folder: str | os.PathLike[str]) -> Files:
    """Have an optimizer's state lie in files: ``state_memory=fastopt.memory.files(folder)``.

    The files have no name and are gone with the process, whatever ends it: to go on later, `save` and `load`. Their
    space is taken when they are made.

    Parameters
    ----------
    folder : str or PathLike
        A folder on the disk that is to hold them.

    Returns
    -------
    callable
        What `state_memory` wants.

    Raises
    ------
    NotADirectoryError
        If there is no such folder.
    """
    return Files(folder)


class Files:
    """Makes arrays that lie in files without names; see `files`.

    Parameters
    ----------
    folder : str or PathLike
        Where they are.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        if not os.path.isdir(self.folder):
            raise NotADirectoryError(f"folder is {self.folder!r}: there is no such folder")

    def __repr__(self) -> str:
        return f"files({self.folder!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Files) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    def __call__(self, name: str, slot: str, shape: tuple[int, ...], dtype: Any, order: str) -> Array:
        """Return zeros in a new file.

        Raises
        ------
        OSError
            If the folder has no room for them.
        """
        import tempfile  # half of what `import fastopt` takes, and only for this

        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes == 0:
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            try:
                _allocate(file.fileno(), nbytes)
            except OSError as error:
                reason = f"{error.strerror}: {slot!r} of {name} needs {nbytes:,} bytes"
                raise OSError(error.errno, reason, self.folder) from None
            memory = mmap.mmap(file.fileno(), nbytes)
        return np.frombuffer(memory, dtype).reshape(shape, order=order).view(_Zeros)  # type: ignore[call-overload, no-any-return]


class _Zeros(np.ndarray[Any, Any]):
    """An array that is known to hold zeros."""

    is_zero = True


def _allocate(file: int, nbytes: int) -> None:
    """Have a file of so many zeros that has its space: a disk that is full would end the process later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, nbytes)
        return
    zeros = bytes(1 << 20)
    for begin in range(0, nbytes, len(zeros)):
        os.write(file, zeros[: nbytes - begin])


def is_mapped(array: Array) -> bool:
    """Tell whether an array lies in a memory map, shared or private, without asking the system.

    Parameters
    ----------
    array : ndarray
        Any array.

    Returns
    -------
    bool
    """
    return _map_under(array) is not None


def mapped_range(array: Array) -> Range | None:
    """Tell which bytes of which file an array is.

    Parameters
    ----------
    array : ndarray
        Any array: a `numpy.memmap`, a view of one, one over an `mmap.mmap` or over shared memory, or an ordinary one.

    Returns
    -------
    key, begin, end : tuple, int, int
        The file, as two numbers or names that are equal for the same file only, and the part of it from the first byte
        of the array to past its last one. None for ordinary memory, for a private map (mode "c"), for an array without
        elements, and where the system cannot tell.
    """
    source = _map_under(array)
    return None if source is None else _range(array, source, _mappings())


def overlapping_maps(arrays: Sequence[Array]) -> tuple[int, int] | None:
    """Find two arrays that are the same bytes of one file though their addresses differ.

    Parameters
    ----------
    arrays : sequence of ndarray
        Any arrays. Of ordinary ones, and of several within one map, there is nothing to find here.

    Returns
    -------
    i, j : int
        The first array that has a byte in common with one before it, as `j`, and the first such one; None if there is
        no such pair.
    """
    found = [(i, source) for i, array in enumerate(arrays) if (source := _map_under(array)) is not None]
    if len({id(source) for _, source in found}) < 2:
        return None
    mappings = _mappings()
    files: dict[Key, list[tuple[int, int, int, int]]] = defaultdict(list)  # begin, end, index, address of the file's 0
    for i, source in found:
        mapped = _range(arrays[i], source, mappings)
        if mapped is not None:
            key, begin, end = mapped
            files[key].append((begin, end, i, _extent(arrays[i])[0] - begin))
    least: tuple[int, int] | None = None
    for places in files.values():
        before: list[tuple[int, int, int, int]] = []
        for place in sorted(places):
            begin, _, i, zero = place
            before = [other for other in before if other[1] > begin]
            for _, _, j, other_zero in before:
                pair = max(i, j), min(i, j)
                # Where file and addresses run alike, a comparison of addresses sees what there is to see.
                if other_zero == zero or (least is not None and pair > least):
                    continue
                if np.shares_memory(np.asarray(_Moved(arrays[i], other_zero - zero)), arrays[j]):
                    least = pair
            before.append(place)
    return None if least is None else (least[1], least[0])


def _map_under(array: Array) -> mmap.mmap | None:
    """The map whose memory an array is a part of, if it is of one."""
    base: Any = array.base
    while base is not None:  # an ordinary array has none, and a view of one has one that has none
        if isinstance(base, np.ndarray):
            base = base.base
        elif isinstance(base, memoryview):
            base = base.obj
        elif isinstance(base, mmap.mmap):
            return base
        else:
            return None
    return None


def _extent(array: Array) -> tuple[int, int]:
    """Addresses of an array's first byte and past its last one; it must have elements."""
    first = last = array.__array_interface__["data"][0]
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            first += (length - 1) * stride
        else:
            last += (length - 1) * stride
    return first, last + array.itemsize


def _mappings() -> list[Mapping] | None:
    """What is mapped into this process, by address; None where the system does not tell."""
    try:
        with open(_MAPS, "rb") as lines:
            rows = [line.split(None, 5) for line in lines]
    except OSError:
        return None
    mappings: list[Mapping] = []
    for addresses, modes, offset, device, inode, *_ in rows:
        begin, end = (int(address, 16) for address in addresses.split(b"-"))
        shared = modes.endswith(b"s") and inode != b"0"
        mappings.append((begin, end, (device.decode(), int(inode)) if shared else None, int(offset, 16)))
    return mappings


def _range(array: Array, source: mmap.mmap, mappings: list[Mapping] | None) -> Range | None:
    if array.size == 0 or array.itemsize == 0:
        return None
    if mappings is None:
        mappings = _told(array, source)
    first, last = _extent(array)
    file, start, at = None, 0, first
    # A map may be listed in several pieces, one after the other, if not all of it was treated alike since.
    place = bisect_right(mappings, first, key=lambda mapping: mapping[0]) - 1
    for begin, end, key, offset in mappings[max(0, place) :]:
        here = offset + at - begin
        if at == first:
            file, start = key, here
        if not begin <= at < end or key is None or (key, here) != (file, start + at - first):
            return None
        at = end
        if at >= last:
            return key, start, start + last - first
    return None


def _told(array: Array, source: mmap.mmap) -> list[Mapping]:
    """The one map under an array, as a `numpy.memmap` among its bases tells of it."""
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.filename is not None and base.mode != "c":
            try:
                file = os.stat(base.filename)
            except OSError:  # it has been deleted
                return []
            address = np.frombuffer(source, np.uint8).__array_interface__["data"][0]
            offset = base.offset - base.offset % mmap.ALLOCATIONGRANULARITY
            return [(address, address + len(source), (file.st_dev, file.st_ino), offset)]
        base = base.base
    return []


class _Moved:
    """An array at an address at which it is not: for a comparison of addresses, and for nothing else."""

    def __init__(self, array: Array, by: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (array.__array_interface__["data"][0] + by, True),
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"|V{array.itemsize}",
        }
