"""What the command line of `guardpool demo` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import add_engine
from guardpool.cli.arguments.parser import Commands, add_command, count
from guardpool.cli.limit_options import add_limits, limits_of

_DESCRIPTION = """\
Label the sample jobs with the sample guard, and replay a gateway's log of such
traffic. Guard, policy, jobs, log and the table of recorded replies that answers
what the guard asks ship with guardpool; nothing else is needed. Written are the
cache, and the log, its decisions and a report on them, in a new folder for
temporary files."""

_EPILOG = """\
With --write DIR, label nothing: write the guard, the policy, 1,000 jobs, the
table of replies and a gateway's log to DIR, and print the commands that label
the jobs. If one of the files exists already, nothing is written."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    about = "label sample jobs and replay a sample recording"
    parser = add_command(commands, "demo", _run, about, _DESCRIPTION, epilog=_EPILOG)
    add = parser.add_argument
    add("-n", "--jobs", metavar="N", type=count, help="how many (default: 20000; with --write 1000)")
    add("-w", "--workers", metavar="N", type=count, default=2, help="worker processes (default: 2)")
    add_engine(parser)
    add("--write", metavar="DIR", help="write all of it as files, and print the commands that label them")
    add_limits(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import demo as command

    if options.write is not None:
        return command.write(options.write, options.jobs or 1000)
    return command.run(options.jobs or 20_000, options.workers, options.engine, limits_of(options))
