"""Where results go: files, checked before the training, and standard output."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from .errors import InputError

PICTURES = (".png", ".pdf", ".svg")
STDOUT = Path("-")


def check(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Make the folders, and see that all can be written, before hours of work and not after.

    Both map options to paths. No file is to be written twice, nor one that is read; but a run may replace the one
    that it resumes.
    """
    seen = {flag: path for flag, path in inputs.items() if path is not None}
    for flag, path in outputs.items():
        if path is None:
            continue
        if path == STDOUT and flag != "--plot":
            if STDOUT in seen.values():
                raise InputError("--json - and --save -: only one can go to standard output")
        else:
            try:
                _check(flag, path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise InputError(f"{flag} {path}: cannot be written: {reason}") from None
            for other, used in seen.items():
                if _same(path, used) and (other, flag) != ("--resume", "--save"):
                    raise InputError(f"{flag} {path}: the same file as {other} {used}")
        seen[flag] = path


def _check(flag: str, path: Path) -> None:
    if flag == "--plot" and path.suffix.lower() not in PICTURES:
        raise InputError(f"{flag} {path}: pictures are {', '.join(PICTURES)}")
    folder = Path(os.path.realpath(path)).parent
    if not path.is_symlink():
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not folder.is_dir():
            raise InputError(f"{flag} {path}: a link into {folder}, which is no folder") from None
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        # Pipes and terminals are for what is written in one go; a saved run replaces a file.
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if flag == "--save" or not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            raise ValueError("no regular file")
        return
    if mode is not None:
        with path.open("r+b"):
            pass
    if mode is None or flag == "--save":
        with tempfile.TemporaryFile(dir=folder):
            pass


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, also through links, and also if it does not exist yet."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


@contextlib.contextmanager
def noted(problems: list[str], flag: str, path: Path | None) -> Iterator[None]:
    """Add to `problems` why a file cannot be written, and go on."""
    try:
        yield
    except OSError as error:
        problems.append(f"{flag} {path}: {error.strerror or error}")


def opened(stream: TextIO | None) -> TextIO:
    """Raise OSError for a standard stream that was closed before Python started."""
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return stream


def say(text: str, stream: TextIO | None) -> None:
    """Write all of it now, or raise OSError."""
    stream = opened(stream)
    stream.write(text)
    stream.flush()
