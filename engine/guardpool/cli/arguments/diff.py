"""What the command line of `guardpool diff` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import add_json, add_redaction
from guardpool.cli.arguments.parser import Commands, add_command, as_typed
from guardpool.cli.findings import EXIT_STOPPED

_DESCRIPTION = """\
Compare two files of decisions on the same calls: other guards, policies, modes
or rules. What became more open, what more closed, and whose labels changed."""

_EPILOG = """\
examples:
  guardpool diff old.jsonl new.jsonl
  guardpool diff old.jsonl new.jsonl --baseline accepted.json
  guardpool diff old.jsonl new.jsonl --baseline accepted.json --update-baseline

A baseline holds the fingerprints of differences that were accepted: what a
difference is about, and not where it stands. It belongs to the guards and
policies of OLD, and one for others is refused. --update-baseline replaces no
file that is not a baseline. Under CI (the variable CI is set) it writes, too,
and says so on stderr.

exit status:
  0    nothing became more open, apart from what the baseline accepts
  1    something became more open
  2    usage
  3    nothing did, and some calls could not be compared
  5    a file cannot be used"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "diff",
        _run,
        "two files of decisions: what became more open",
        _DESCRIPTION,
        epilog=_EPILOG,
        failed=EXIT_STOPPED,
    )
    add = parser.add_argument
    add("old", metavar="OLD", help="decisions of `guardpool replay`; - is standard input")
    add("new", metavar="NEW", help="decisions on the same calls")
    add("--baseline", metavar="FILE", help="differences that are accepted")
    add("--update-baseline", dest="update", action="store_true", help="write FILE: accept all that differs")
    add("--all", dest="show_all", action="store_true", help="list every difference, not the first that are more open")
    add_redaction(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import diff as command

    return command.run(as_typed(command.Options, options))
