"""What the command line of `guardpool import` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import add_guards, add_progress
from guardpool.cli.arguments.parser import Commands, add_command, as_typed
from guardpool.cli.limit_options import add_limits, limits_of

_DESCRIPTION = """\
Read recordings and write the calls in them, one a line: a gateway's
rpc-messages.jsonl, sessions of Claude Code, bodies of the chat, Responses and
Messages APIs, JSON-RPC and mcp-rec, or calls that were imported before. Formats
are told by content; gzip and zstd are unpacked."""

_EPILOG = """\
examples:
  guardpool import mcp-logs/ -o calls.jsonl
  zcat rpc-messages.jsonl.gz | guardpool import - -o - | jq .tool
  guardpool import mcp-logs/ -o calls.jsonl --jobs jobs.jsonl
  guardpool label jobs.jsonl -o outcomes.jsonl -g github=g.wasm -p github=p.json

Every line of the recordings is part of a call or counted under a reason. The
table on stderr, and --tally as JSON, say how many of each. What is written has
mode 0600.

exit status:
  0    everything was understood
  1    the run could not go on
  2    usage
  3    something was lost, ambiguous or not understood
  130  interrupted (143 terminated): what was read is in CALLS.part, whole lines
       only; files are renamed when they are complete"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "import",
        _run,
        "read recordings, write the calls in them",
        _DESCRIPTION,
        epilog=_EPILOG,
        usage="guardpool import RECORDING... -o CALLS [options]",
    )
    add = parser.add_argument
    add("recordings", metavar="RECORDING", nargs="+", help="files, folders, globs; - is standard input")
    add("-o", "--out", metavar="CALLS", required=True, help="calls, one JSON object a line; - is standard output")
    add("--tally", metavar="FILE", help="write what became of each line there, as JSON")
    add(
        "--format",
        metavar="FORMAT",
        help="try only this format, e.g. rpc-messages, claude-code (default: told by content)",
    )
    add("--replies", metavar="FILE", help="write what guards asked, or may have asked, and the answers, for a backend")
    add("--jobs", metavar="FILE", help="write the jobs of the calls there, for guardpool label")
    add_guards(
        parser,
        "SERVER",
        "the guard of a server: tell its own questions from the agent's calls",
        "the policy of that guard",
    )
    add_progress(parser)
    add_limits(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import import_ as command

    return command.run(as_typed(command.Options, options, limits=limits_of(options)))
