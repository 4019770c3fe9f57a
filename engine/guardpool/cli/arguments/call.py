"""What the command line of `guardpool call` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import add_engine, add_json, add_log_level, add_servers
from guardpool.cli.arguments.parser import Commands, add_command, as_typed
from guardpool.cli.limit_options import add_limits, limits_of

_DESCRIPTION = """\
Make one call, and show everything that became of it: the label, expanded over
the items of a result, what the guard logged, how often it asked its backend,
how long it took, and where it trapped. For authors of guards."""

_EPILOG = """\
examples:
  guardpool call github.wasm -p policy.json get_issue '{"owner": "octo"}'
  guardpool call github.wasm -p policy.json list_issues @args.json \\
      --result result.json

Without --result it is a label_resource, with it a label_response. ARGS stands
right after TOOL.

exit status:
  0    there is a label
  1    the call could not be made
  2    usage
  3    there is no label, or it does not fit the result
  130  interrupted"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "call",
        _run,
        "make one call, and show everything that became of it",
        _DESCRIPTION,
        epilog=_EPILOG,
        usage="guardpool call FILE.wasm -p POLICY.json TOOL [ARGS] [options]",
    )
    add = parser.add_argument
    add("file", metavar="FILE.wasm", help="the guard")
    add("tool", metavar="TOOL", help="the tool's name")
    add("args", metavar="ARGS", nargs="?", default="{}", help="its arguments, as JSON, @FILE or - (default: {})")
    add("-p", "--policy", metavar="POLICY.json", required=True, help="the guard's policy")
    add("--result", metavar="FILE", help="label this result of the call instead, JSON; - is standard input")
    add(
        "--backend",
        metavar="WHO",
        help="who answers the guard: a file of replies, mcp:COMMAND or mcp:URL (a live MCP server), "
        "python:MODULE:FUNCTION, or none",
    )
    add_servers(parser, "")
    add_engine(parser)
    add_log_level(parser, "info")
    add_json(parser)
    add_limits(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import call as command

    return command.run(as_typed(command.Options, options, limits=limits_of(options, keep_logs=True)))
