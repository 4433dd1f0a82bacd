"""Where the command `fastopt` begins: beside the package, so that what ends its import is one line too."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; return its exit status."""
    try:
        from fastopt.cli import main
    except KeyboardInterrupt:
        print("fastopt: interrupted", file=sys.stderr)
        return 130
    except ImportError as error:
        if error.name != "fastopt":  # which says what it will not run with
            raise
        print(f"fastopt: {error}", file=sys.stderr)
        return 2
    return main()
