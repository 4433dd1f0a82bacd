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
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Reader", "read_metadata", "write"]

Array = npt.NDArray[Any]
PathLike = str | os.PathLike[str]

_TYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_CODES = {dtype: code for code, dtype in _TYPES.items()}
_DIGEST_SIZE = 32  # bytes; twice that in hexadecimal
_NO_DIGEST = "0" * (2 * _DIGEST_SIZE)
_BLOCK = 1 << 22  # bytes copied or hashed at a time


def _blocks(array: Array, access: Literal["readonly", "writeonly"]) -> Iterator[Array]:
    """The array's elements in C order, a block at a time; what is written to a "writeonly" block goes to its place."""
    count = _BLOCK // array.itemsize
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        for start in range(0, flat.size, count):
            yield flat[start : start + count]
    else:
        flags: tuple[Literal["external_loop", "buffered"], ...] = ("external_loop", "buffered")
        with np.nditer(array, flags, [access], order="C", buffersize=count) as blocks:
            yield from blocks


def write(path: PathLike, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to a file, which is replaced only when all is on the disk.

    Parameters
    ----------
    path : str or PathLike
        The file. Its folder must exist, and takes a temporary file of the same size meanwhile.
    arrays : mapping of str to array
        float32 or float64 arrays, C- or Fortran-contiguous.
    metadata : mapping of str to str
        Text to be kept with them.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    entries: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        code = _CODES[array.dtype.newbyteorder("<")]
        entries[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, end]}

    def header(digest: str) -> bytes:
        text = json.dumps({"__metadata__": {**metadata, "fastopt.digest": digest}, **entries}, separators=(",", ":"))
        body = text.encode()
        body += b" " * (-len(body) % 8)
        return len(body).to_bytes(8, "little") + body

    temporary = path.with_name(f".fastopt-{os.urandom(8).hex()}.tmp")
    try:
        # As open() would make it: with the permissions that the umask leaves.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            first = header(_NO_DIGEST)
            digest = hashlib.blake2b(first, digest_size=_DIGEST_SIZE)
            file.write(first)
            for array in arrays.values():
                for block in _blocks(array, "readonly"):
                    digest.update(block.data)
                    file.write(block.data)
            file.seek(0)
            file.write(header(digest.hexdigest()))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, path.stat().st_mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put a rename on the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Reader:
    """An open checkpoint whose every byte has been checked.

    Parameters
    ----------
    path : str or PathLike
        The file.

    Attributes
    ----------
    metadata : dict of str to str
    specs : dict of str to (dtype, shape)
        The arrays in the file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no checkpoint, or not as it was written.
    """

    def __init__(self, path: PathLike) -> None:
        self._path = Path(path)
        self._file: IO[bytes] = open(self._path, "rb")  # noqa: SIM115  # closed by close()
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _refuse(self, why: str) -> ValueError:
        return ValueError(f"{self._path} is not a checkpoint that can be loaded: {why}")

    def _read_header(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        start = self._file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise self._refuse("it is truncated, or of another format")
        body = self._file.read(length)
        self._data = 8 + length
        try:
            entries = json.loads(body)
            metadata = entries.pop("__metadata__")
            stated = metadata.pop("fastopt.digest")
            self._places = {name: tuple(entry["data_offsets"]) for name, entry in entries.items()}
            self.specs = {name: (_TYPES[entry["dtype"]], tuple(entry["shape"])) for name, entry in entries.items()}
            self.metadata: dict[str, str] = metadata
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._refuse(f"its header is none of fastopt's ({type(error).__name__}: {error})") from None
        digest = hashlib.blake2b(start, digest_size=_DIGEST_SIZE)
        digest.update(body.replace(str(stated).encode(), _NO_DIGEST.encode(), 1))
        while block := self._file.read(_BLOCK):
            digest.update(block)
        if digest.hexdigest() != stated:
            raise self._refuse("it is truncated or altered, its digest does not match")

    def read(self, name: str, out: Array) -> None:
        """Read one array into `out`, of the same type and shape, without a copy of more than a block."""
        self._file.seek(self._data + self._places[name][0])
        for block in _blocks(out, "writeonly"):
            if self._file.readinto(block.data) != block.nbytes:  # type: ignore[attr-defined]
                raise self._refuse("it was truncated while it was read")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
        return {key: value for key, value in reader.metadata.items() if not key.startswith("fastopt.")}
