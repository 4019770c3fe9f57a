"""What the command line of `guardpool what-if` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import (
    MODES,
    add_before_servers,
    add_engine,
    add_keep_labels,
    add_progress,
    add_redaction,
    add_repeated,
    add_workers,
)
from guardpool.cli.arguments.parser import Commands, add_command, as_typed
from guardpool.cli.findings import EXIT_STOPPED
from guardpool.cli.limit_options import add_limits, limits_of

_DESCRIPTION = """\
Try policies on recordings: what each shows and hides, whose items, and what
changes side against the first. Modes cost no guard run."""

_EPILOG = """\
examples:
  guardpool what-if mcp-logs/ -g github=github.wasm -p now.json -p open.json
  guardpool what-if runs/ --config gateway.toml -g github=github.wasm \\
      -p acme/web=web.json -p acme/api=api.json
  guardpool what-if mcp-logs/ -g github=github.wasm -p github=now.json \\
      --mode filter --mode strict

-p FILE is a candidate for every guarded server. -p OWNER/REPO=FILE is one for
the runs of that repository; all of them together are one candidate. What is in
force now comes first: -p SERVER=FILE, or the policies of --config; else the
first -p FILE.

exit status:
  0    no policy shows anything that the first does not
  1    a policy shows something that the first does not
  2    usage
  3    as 0, but a policy does not cover every call, a call is undecided, a
       guard failed, a recording has no call, or part of it was lost, ambiguous
       or not understood: stderr says what
  5    the run could not go on
  130  interrupted (143 terminated)"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "what-if",
        _run,
        "try policies and modes on recordings",
        _DESCRIPTION,
        epilog=_EPILOG,
        failed=EXIT_STOPPED,
        usage="guardpool what-if RECORDING... -g SERVER=FILE.wasm -p A.json -p B.json\n                         [options]",
    )
    add = parser.add_argument
    add("recordings", metavar="RECORDING", nargs="+", help="files, folders, globs; - is standard input")
    add("-o", "--out", metavar="FILE", help="what changes side, one item a line; - is standard output")
    add_before_servers(parser, policy="[REPOSITORY=]FILE")
    add_repeated(
        parser,
        "--mode",
        dest="modes",
        type=str.lower,
        choices=MODES,
        metavar="MODE",
        help=f"try each policy in this mode; may be given again: {', '.join(MODES)}",
    )
    add("--format", metavar="FORMAT", help="try only this format of recordings (default: told by content)")
    add_keep_labels(parser)
    add_workers(parser)
    add_redaction(parser)
    add_engine(parser)
    add_progress(parser)
    add_limits(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import what_if as command

    return command.run(as_typed(command.Options, options, limits=limits_of(options)))
