"""Checkpoints: one file in the safetensors format, written whole or not at all, and read only if it is whole.

A file is 8 bytes with the length of the header, the header (JSON: type, shape and place of each array, and
``__metadata__``, text under text), and the arrays' bytes in C order, little-endian. Any safetensors reader can open it.
The metadata has a digest (BLAKE2b) of everything else, so that a truncated or altered file is refused.

Reference: the format's description, https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

if sys.platform != "win32":
    import fcntl

__all__ = ["Reader", "check_target", "read_metadata", "write"]

Array = npt.NDArray[Any]
PathLike = str | os.PathLike[str]
Spec = tuple["np.dtype[Any]", tuple[int, ...]]

_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")}
_CODES = {dtype.str: code for code, dtype in _TYPES.items()}  # NumPy's == of types hides that there is no memory
_DIGEST_SIZE = 32  # bytes; twice that in hexadecimal
_NO_DIGEST = "0" * (2 * _DIGEST_SIZE)
_BLOCK = 1 << 22  # bytes copied and hashed at a time
_LONGEST_HEADER = 100_000_000  # bytes: other readers of the format take no longer one
_MOST_AXES = 64  # that an array can have


def _blocks(array: Array, access: Literal["readonly", "writeonly"]) -> Iterator[Array]:
    """The array's elements in C order, a block at a time; what is written to a "writeonly" block goes to its place."""
    array = np.asarray(array)  # of a subclass, such as np.matrix, a part may have another shape
    count = _BLOCK // array.itemsize
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        for start in range(0, flat.size, count):
            yield flat[start : start + count]
    else:
        flags: tuple[Literal["external_loop", "buffered"], ...] = ("external_loop", "buffered")
        with np.nditer(array, flags, [access], order="C", buffersize=count) as blocks:
            yield from blocks


# ---- writing ----


def check_target(path: PathLike) -> Path:
    """Return the file that `write` would make or replace.

    Parameters
    ----------
    path : str or PathLike
        A file, or a link to one, that may not be there yet.

    Raises
    ------
    ValueError
        If there is something that is no file.
    """
    target = Path(os.path.realpath(path))  # a link stays one
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(target.stat().st_mode):
            raise ValueError(f"{path} is no regular file, and would be replaced by one: give another path")
    return target


def write(path: PathLike, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to a file, which is replaced only when all is on the disk.

    Parameters
    ----------
    path : str or PathLike
        The file; ``"-"`` is standard output. Its folder must exist, and takes a temporary file of the same size
        meanwhile. Those that killed processes have left there are removed.
    arrays : mapping of str to array
        float32, float64 or int64 arrays, C- or Fortran-contiguous.
    metadata : mapping of str to str
        Text to be kept with them.

    Raises
    ------
    OSError
        If it cannot be written.
    ValueError
        If there is something that is no file, or names and metadata are too long.
    """
    entries: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        code = _CODES[array.dtype.newbyteorder("<").str]
        entries[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, end]}

    def header(digest: str) -> bytes:
        text = json.dumps({"__metadata__": {**metadata, "fastopt.digest": digest}, **entries}, separators=(",", ":"))
        body = text.encode()
        body += b" " * (-len(body) % 8)
        if len(body) > _LONGEST_HEADER:
            raise ValueError(
                f"{path}: the names and metadata take {len(body):,} bytes: {_LONGEST_HEADER:,} can be read"
            )
        return len(body).to_bytes(8, "little") + body

    def put(file: IO[bytes]) -> None:
        first = header(_NO_DIGEST)
        digest = hashlib.blake2b(first, digest_size=_DIGEST_SIZE)
        file.write(first)
        room = np.empty(_BLOCK, np.uint8)
        for array in arrays.values():
            for block in _blocks(array, "readonly"):
                copy = room[: block.nbytes]  # what is hashed is what is written, whoever writes to the array meanwhile
                copy.view(block.dtype)[...] = block
                digest.update(copy.data)
                file.write(copy.data)
        file.seek(0)
        file.write(header(digest.hexdigest()))
        file.flush()

    if os.fspath(path) == "-":
        binary = getattr(sys.stdout, "buffer", None)
        if binary is None:
            raise ValueError("'-' is standard output, which takes no bytes here: give a path")
        with tempfile.TemporaryFile() as whole:
            put(whole)
            whole.seek(0)
            sys.stdout.flush()
            shutil.copyfileobj(whole, binary, _BLOCK)
            binary.flush()
        return
    target = check_target(path)
    _remove_abandoned(target.parent)
    draft = _Draft()
    _drafts.append(draft)
    try:
        with draft.open(target.parent) as file:
            put(file)
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.chmod(draft.path, target.stat().st_mode)
            if sys.platform != "win32":
                os.replace(draft.path, target)  # before the lock is gone
        if sys.platform == "win32":  # where no open file can be replaced
            os.replace(draft.path, target)
    except BaseException as error:
        if not draft.forked:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft.path)
        elif isinstance(error, OSError):
            raise RuntimeError("this process was forked in the middle of a save: its parent goes on with it") from None
        raise
    finally:
        with contextlib.suppress(ValueError):
            _drafts.remove(draft)
    _sync_folder(target.parent)


class _Draft:
    """The temporary file of a save. It is its process's alone: for a child that is forked meanwhile it is gone."""

    def __init__(self) -> None:
        self.path = ""
        self.file: IO[bytes] | None = None
        self.forked = False

    def open(self, folder: Path) -> IO[bytes]:
        """Make the file, and have others see that its writer lives."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        while not self.forked:
            self.path = str(folder / f".fastopt-{os.urandom(8).hex()}.tmp")
            try:
                # As open() would make it: with the permissions that the umask leaves.
                self.file = file = os.fdopen(os.open(self.path, flags, 0o666), "wb")
            except FileExistsError:  # a child that was forked here was faster
                continue
            if sys.platform != "win32":
                with contextlib.suppress(OSError):  # on a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.lexists(self.path) and not self.forked:
                return file
            file.close()  # another save took it for abandoned before it was locked
        raise FileNotFoundError

    def leave_to_parent(self) -> None:
        """Let what a child does with the file come to nothing."""
        self.path, self.forked = "", True
        if self.file is not None and not self.file.closed:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno(), inheritable=False)
            os.close(nowhere)


_drafts: list[_Draft] = []  # of the saves under way


def _leave_drafts_to_parent() -> None:
    while _drafts:
        _drafts.pop().leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_drafts_to_parent)


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of saves whose processes were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            if re.fullmatch(r"\.fastopt-[0-9a-f]{16}\.tmp", file.name):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(file.path)


def _remove_if_abandoned(path: str) -> None:
    if sys.platform == "win32":
        os.unlink(path)  # which fails while it is open
        return
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)  # if its writer is only about to lock it, it will make another one
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Put a rename on the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---- reading ----


def _opener(path: str, flags: int) -> int:
    """Open without waiting for who writes to a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


class Reader:
    """An open checkpoint whose header has been checked whole; its arrays are checked as they are read.

    Parameters
    ----------
    path : str or PathLike
        The file.

    Attributes
    ----------
    metadata : dict of str to str
    specs : dict of str to (dtype, shape)
        The arrays in the file, in its order.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no checkpoint; the message names it.
    """

    def __init__(self, path: PathLike) -> None:
        self._path = Path(path)
        self._file: IO[bytes] = open(self._path, "rb", opener=_opener)  # noqa: SIM115  # closed by close()
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _refuse(self, why: str) -> ValueError:
        return ValueError(f"{self._path} is not a checkpoint that can be loaded: {why}")

    def _read_header(self) -> None:
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise self._refuse("it is no regular file")
        start = self._file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > status.st_size - 8:
            raise self._refuse("it is truncated, or of another format")
        if length > _LONGEST_HEADER:
            raise self._refuse(f"its header would have {length:,} bytes")
        body = self._file.read(length)
        try:
            entries = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_constant)
            metadata = entries.pop("__metadata__")
            self._digest = metadata.pop("fastopt.digest")
            if not all(isinstance(text, str) for text in metadata.values()):
                raise ValueError("metadata is not text")
            if not re.fullmatch(f"[0-9a-f]{{{2 * _DIGEST_SIZE}}}", self._digest):
                raise ValueError("it has no digest")
            self.metadata: dict[str, str] = metadata
            end = 0
            self.specs: dict[str, Spec] = {}
            for name, entry in entries.items():
                self.specs[name], end = _spec(name, entry, end)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._refuse(f"its header is none of fastopt's ({type(error).__name__}: {error})") from None
        if 8 + length + end != status.st_size:
            raise self._refuse(
                f"it is truncated or altered, it has {status.st_size:,} bytes: wanted {8 + length + end:,}"
            )
        self._data = 8 + length
        self._hashed = start + body.replace(self._digest.encode(), _NO_DIGEST.encode(), 1)

    def read(self, arrays: Mapping[str, Array]) -> None:
        """Read the whole file, and what is wanted of it into arrays of the same type and shape.

        Parameters
        ----------
        arrays : mapping of str to array
            Where to put arrays of the file, by name; the others are only checked.

        Raises
        ------
        ValueError
            If it is not as it was written. What has been read by then is not to be used.
        """
        digest = hashlib.blake2b(self._hashed, digest_size=_DIGEST_SIZE)
        room = np.empty(_BLOCK, np.uint8)
        self._file.seek(self._data)
        for name, (dtype, shape) in self.specs.items():
            array = arrays.get(name)
            if array is None:
                left = math.prod(shape) * dtype.itemsize
                while left:
                    left -= self._block(digest, room[: min(left, _BLOCK)])
                continue
            for block in _blocks(array, "writeonly"):
                copy = room[: block.nbytes]  # nobody else's, so that what is hashed is what is used
                self._block(digest, copy)
                block[...] = copy.view(block.dtype)
        if digest.hexdigest() != self._digest:
            raise self._refuse("it is truncated or altered, its digest does not match")

    def _block(self, digest: hashlib.blake2b, block: Array) -> int:
        """Read and hash one block; its length."""
        if self._file.readinto(block.data) != block.nbytes:  # type: ignore[attr-defined]
            raise self._refuse("it was truncated while it was read")
        digest.update(block.data)
        return block.nbytes

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _spec(name: str, entry: Any, begin: int) -> tuple[Spec, int]:
    """Type and shape of an array that is to begin at `begin`, and where it ends."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name} is {entry!r}")
    dtype: np.dtype[Any] = _TYPES[entry["dtype"]]
    shape = entry["shape"]
    if not (isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**62 for n in shape)):
        raise ValueError(f"the shape of {name} is {shape!r}")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"the shape of {name} has {len(shape):,} axes")
    end = begin + math.prod(shape) * dtype.itemsize
    if entry["data_offsets"] != [begin, end] or not all(type(n) is int for n in entry["data_offsets"]):
        raise ValueError(f"the offsets of {name} are {entry['data_offsets']!r}: wanted {[begin, end]}")
    return (dtype, tuple(shape)), end


def read_metadata(path: PathLike) -> dict[str, str]:
    """Return the metadata that was given to ``save(path, metadata=...)``.

    Parameters
    ----------
    path : str or PathLike
        A file written by `Optimizer.save`.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no checkpoint, or not as it was written.
    """
    with Reader(path) as reader:
        reader.read({})
        return {key: value for key, value in reader.metadata.items() if not key.startswith("fastopt.")}
