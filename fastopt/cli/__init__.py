"""The command `fastopt`, an extra: nothing in the library imports it.

`errors`, `models`, `handwritten`, `data`, `files`, `settings`, `outputs`, `training`, `report`, `plots`, `commands`:
from the simple to the compound.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

import fastopt

from .errors import DivergedError, InputError, InterruptedRunError

EXTRA = {"click", "rich", "matplotlib", "pandas", "sklearn"}  # import names of what `[cli]` installs
LONGEST = 800  # characters of a message: a cell or an option may have millions
DIVERGED, BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141  # 128 and the signal's number, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or one of those above."""
    try:
        return _run(argv)
    except InputError as error:
        return _fail(str(error), BAD_INPUT)
    except DivergedError as error:
        return _fail(str(error), DIVERGED)
    except InterruptedRunError as error:
        return _fail(str(error), 128 + error.signal)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever reads has seen enough
        return CLOSED_PIPE
    except OSError as error:  # all others have been told which file it was
        return _fail(f"standard output: {error.strerror or error}", BAD_INPUT)
    except MemoryError as error:
        return _fail(f"not enough memory: {error}", BAD_INPUT)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRA:
            raise
        return _fail(f"the command needs {name}: pip install 'fastopt[cli]'", BAD_INPUT)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _let_go(stream)


def _run(argv: Sequence[str] | None) -> int:
    from .outputs import opened, say

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files and columns have any letters
    args = sys.argv[1:] if argv is None else list(argv)
    if args in (["info"], ["--version"]):  # which need no extra
        say(info() if args == ["info"] else f"fastopt {fastopt.__version__}\n", sys.stdout)
        return 0
    import click

    from .commands import command

    try:
        # Not command.main(), to which a closed pipe is status 1.
        with command.make_context("fastopt", args or ["--help"]) as context:
            command.invoke(context)
    except click.exceptions.Exit as error:  # of --help and --version
        status = error.exit_code
    except click.ClickException as error:
        raise InputError(error.format_message()) from None
    else:
        status = 0
    opened(sys.stdout).flush()
    return status


def info() -> str:
    """Return what was compiled and what runs here."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        fastopt.show_config()
        fastopt.show_runtime()
    return text.getvalue()


def _fail(message: str, status: int) -> int:
    message = " ".join(message.split())
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print("fastopt:", message, file=sys.stderr)
    return status


def _let_go(stream: TextIO | None) -> None:
    """Drop what cannot be written: Python would try again at its end, and say so in its own words."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
