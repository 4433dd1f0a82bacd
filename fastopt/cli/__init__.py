"""The command `fastopt`, an extra: nothing in the library imports it.

`errors`, `models`, `data`, `training`, `report`, `plots`, `commands`: from the simple to the compound.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .errors import DivergedError, InputError

EXTRA = {"click", "rich", "matplotlib", "pandas", "sklearn"}  # import names of what `[cli]` installs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 for a diverged training, 2 for bad input, 130 for Ctrl-C."""
    try:
        return _run(argv)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRA:
            raise
        return _fail(f"the command needs {name}: pip install 'fastopt[cli]'", 2)


def _run(argv: Sequence[str] | None) -> int:
    import click

    from .commands import command

    args = sys.argv[1:] if argv is None else list(argv)
    try:
        command.main(args or ["--help"], prog_name="fastopt", standalone_mode=False)
        return 0
    except click.Abort:
        return _fail("interrupted", 130)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except InputError as error:
        return _fail(str(error), 2)
    except DivergedError as error:
        return _fail(str(error), 1)


def _fail(message: str, status: int) -> int:
    print("fastopt:", " ".join(message.split()), file=sys.stderr)
    return status
