"""What the command line of `guardpool replay` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import (
    RULES,
    add_backends,
    add_before_servers,
    add_engine,
    add_keep_labels,
    add_log_level,
    add_max_questions,
    add_mode,
    add_progress,
    add_redaction,
    add_servers,
    add_workers,
)
from guardpool.cli.arguments.parser import Commands, add_command, as_typed
from guardpool.cli.findings import EXIT_STOPPED
from guardpool.cli.limit_options import add_limits, limits_of

ORDERS = ("session", "any")

_DESCRIPTION = """\
Replay recordings: label each call again, and decide by the gateway's rules and
by stricter ones what the agent gets, item by item, and why. What guards asked
is answered from the recording. What cannot be decided is undecided, with the
reason."""

_EPILOG = """\
examples:
  guardpool replay mcp-logs/ -g github=github.wasm -p github=policy.json \\
      --sink safeoutputs=private:acme/web -o decisions.jsonl
  guardpool replay mcp-logs/ --config gateway.toml -g github=github.wasm \\
      -o decisions.jsonl
  guardpool replay mcp-logs/ -g github=github.wasm -p github=policy.json \\
      --redact-key key -o to-be-shown.jsonl

A guard's name is its server's id. Calls to a server that is not named are
undecided; -g SERVER=none says that it has no guard. --config reads a gateway's
guards, policies and sinks: it starts nothing, connects to nothing and expands
no variable. What is written has mode 0600.

A finding is a decision that is unsafe (the gateway failed open, B1 to B34),
that differs between the rules, or that the recording contradicts.

exit status:
  0    every call was decided on, and there are no findings
  1    there are findings
  2    usage
  3    no findings, but a call is undecided, a guard failed, a recording has no
       call, or part of it was lost, ambiguous or not understood: stderr says
       what
  5    the run could not go on
  130  interrupted (143 terminated): what was decided is in OUT.part, whole
       lines only"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "replay",
        _run,
        "recordings in, decisions out: the main job",
        _DESCRIPTION,
        epilog=_EPILOG,
        failed=EXIT_STOPPED,
        usage="guardpool replay RECORDING... -g SERVER=FILE.wasm -p SERVER=POLICY.json\n"
        "                        -o DECISIONS [options]",
    )
    add = parser.add_argument
    add("recordings", metavar="RECORDING", nargs="+", help="files, folders, globs; - is standard input")
    add(
        "-o", "--out", metavar="DECISIONS", help="decisions, one a line; - is standard output (default: only a summary)"
    )
    add_before_servers(parser)
    add_mode(parser)
    add(
        "--rules",
        choices=RULES,
        default="both",
        metavar="RULES",
        help="gateway (what it does), strict (what it should do), or both: what strict rules change stands beside "
        "(default: both)",
    )
    add(
        "--order",
        choices=ORDERS,
        default="session",
        metavar="ORDER",
        help="session: a session's calls are labelled in order by one worker (the default); any: as it comes",
    )
    add("--format", metavar="FORMAT", help="try only this format of recordings (default: told by content)")
    add("--summary", metavar="FILE", help="write the counts of the summary there, as JSON")
    add_redaction(parser)
    add_backends(
        parser,
        "SERVER",
        "who answers a guard instead of the recording: a file of replies, mcp:COMMAND or mcp:URL (a live MCP "
        "server), python:MODULE:FUNCTION, or none",
    )
    add_servers(parser, "SERVER=", action="append", default=[])
    add_max_questions(parser)
    add_keep_labels(parser)
    add_workers(parser)
    add_engine(parser)
    add_progress(parser)
    add_log_level(parser, "error")
    add_limits(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import replay as command

    return command.run(as_typed(command.Options, options, limits=limits_of(options)))
