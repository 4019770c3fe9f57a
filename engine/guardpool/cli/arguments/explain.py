"""What the command line of `guardpool explain` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import (
    add_before_servers,
    add_engine,
    add_json,
    add_mode,
    add_progress,
    add_repeated,
    add_workers,
)
from guardpool.cli.arguments.parser import Commands, add_command, as_typed
from guardpool.cli.findings import EXIT_STOPPED
from guardpool.cli.limit_options import add_limits, limits_of

_DESCRIPTION = """\
Say why a call, or an item, was kept back: what it has, what it would need,
whose it is, what the guard could not find out, and what would admit it."""

_EPILOG = """\
examples:
  guardpool explain decisions.jsonl --call rpc-messages.jsonl#41
  guardpool explain decisions.jsonl --item acme/web#7 \\
      --recording mcp-logs/ -g github=github.wasm -p github=policy.json

With --recording it is tried which single change of the policy would admit the
(first) item, and what else that lets in: another min-integrity, the author as a
trusted user, the repository, an answer that the guard did not get.

ID may be the end of a call's id. TEXT is looked for in the description,
address, author and number of what was kept back; a number in it is a whole one.

exit status:
  0    it is explained
  2    usage, or there is no such call or item
  5    a file cannot be used"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "explain",
        _run,
        "why something was kept back",
        _DESCRIPTION,
        epilog=_EPILOG,
        failed=EXIT_STOPPED,
        usage="guardpool explain DECISIONS --call ID | --item TEXT [options]",
    )
    add = parser.add_argument
    add("decisions", metavar="DECISIONS", help="decisions of `guardpool replay`; - is standard input")
    add("--call", metavar="ID", help="the call")
    add("--item", metavar="TEXT", help="items with these words; with --call those of that call")
    add_repeated(
        parser,
        "--recording",
        dest="recordings",
        metavar="RECORDING",
        help="what the decisions were made of: try which change of the policy would admit it; may be given again",
    )
    add_before_servers(parser)
    add_mode(parser)
    add_workers(parser)
    add_engine(parser)
    add_progress(parser)
    add_json(parser)
    add_limits(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import explain as command
    from guardpool.cli.render import UsageError

    if options.call is None and options.item is None:
        raise UsageError("explain: name a call with --call ID, or an item with --item TEXT")
    return command.run(as_typed(command.Options, options, limits=limits_of(options)))
