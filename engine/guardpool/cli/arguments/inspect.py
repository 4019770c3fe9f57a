"""What the command line of `guardpool inspect` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import add_engine, add_json, add_memory_pages
from guardpool.cli.arguments.parser import Commands, add_command

_DESCRIPTION = """\
Tell what a module is: its exports, imports and memory, everything that is
wrong with it, and what each engine would do with it. Nothing of it is run."""

_EPILOG = """\
With --json, of several modules each is one line.

exit status:
  0    all of them are guards
  1    one of them is not a guard, so that a pool refuses it, or cannot be read"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "inspect",
        _run,
        "tell what modules are, and whether they are guards",
        _DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("files", metavar="FILE.wasm", nargs="+", help="the modules; - is standard input")
    add_memory_pages(parser)
    add_engine(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import inspect as command

    return command.run(options.files, options.memory_pages, options.engine, as_json=options.as_json)
