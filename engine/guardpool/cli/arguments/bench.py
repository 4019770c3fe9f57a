"""What `guardpool bench` is called; the rest of its command line is the suite's own, which is not always installed."""

from __future__ import annotations

from collections.abc import Sequence

from guardpool.cli.arguments.parser import Commands, add_command

_DESCRIPTION = """\
Measure guardpool on this machine, beside bare loops and other pools, with the
sample guard or one of your own."""


def add_to(commands: Commands) -> None:
    """Add it to the list of commands."""
    add_command(commands, "bench", None, "measure guardpool on this machine, beside other pools", _DESCRIPTION)


def run(arguments: Sequence[str]) -> int:
    """Run it with the arguments after its name."""
    from guardpool.cli import bench as command

    return command.run(arguments)
