"""The `guardpool` command. Everything heavy is imported by the command that needs it, so that `--help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: the arguments after the program's name; None: those of this process.
    """
    try:
        from guardpool.cli.streams import fill_closed_streams, name_stdout

        fill_closed_streams()
        name_stdout()
        from guardpool.cli.app import run

        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # while it was still importing
        return 130
