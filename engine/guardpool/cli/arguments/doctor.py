"""What the command line of `guardpool doctor` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import add_json
from guardpool.cli.arguments.parser import Commands, add_command

_DESCRIPTION = """\
Tell what works here and what does not: Python, the wasm engine, the kernel's
features, cores, memory, the cache. Nothing is changed."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "doctor",
        _run,
        "tell what works here and what does not",
        _DESCRIPTION,
        epilog="exit status:\n  0    a pool can be made here\n  1    no pool can be made here",
    )
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import doctor as command

    return command.run(as_json=options.as_json)
