"""What the command line of `guardpool test` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import RULES, add_backends, add_engine, add_guards, add_mode, add_workers
from guardpool.cli.arguments.parser import Commands, add_command, as_typed
from guardpool.cli.findings import EXIT_STOPPED
from guardpool.cli.limit_options import add_limits, limits_of

_DESCRIPTION = """\
Run corpora of guards: cases with the labels and decisions that are expected of
them. What differs is printed, and which tools, levels and rules were met."""

_EPILOG = """\
examples:
  guardpool test corpus.jsonl -g github=github.wasm -p github=policy.json
  guardpool test tests/*.jsonl -g github=github.wasm --junit results.xml
  guardpool import mcp-logs/ -o corpus.jsonl    # a corpus of recorded calls:
  guardpool test corpus.jsonl -g github=g.wasm -p github=p.json --update

A case, one a line: a job, or a call as `guardpool import` writes it, and what
is expected; each part may be left out:
  {"id": "name", "tool_name": "get_issue", "tool_args": {}, "tool_result": {},
   "expect": {"resource": LABEL, "response": LABEL, "decision": {"verdict":
   "items", "filtered": [{"index": 0, "failed": ["read-integrity"]}]}}}
LABEL is one of an outcome's line, or {"status": "refused"}. The first line may
hold policy and replies for all: {"corpus": 1, "policy": {}, "replies": []}.
The GitHub guard's own corpora (JSON) are read, too. Under CI (the variable CI
is set) --update writes, too, and says so on stderr.

exit status:
  0    all is as expected
  1    something is not; with --update, something that no update mends
  2    usage, or a file is not a corpus
  3    some of it could not be run, or expects nothing
  5    a file cannot be read, or a guard cannot be used
  130  interrupted (143 terminated)"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "test",
        _run,
        "run corpora of guards: golden labels and decisions",
        _DESCRIPTION,
        epilog=_EPILOG,
        failed=EXIT_STOPPED,
        usage="guardpool test CORPUS... -g NAME=FILE.wasm [options]",
    )
    add = parser.add_argument
    add("corpora", metavar="CORPUS", nargs="+", help="files of cases")
    add_guards(parser, "NAME", "a guard", "the policy of guard NAME (default: the corpus's)", required=True)
    add_backends(
        parser,
        "NAME",
        "who answers guard NAME: a file of replies, mcp:COMMAND or mcp:URL, python:MODULE:FUNCTION, or none "
        "(default: the corpus's replies)",
    )
    add(
        "--rules",
        choices=RULES[:2],
        default=RULES[0],
        metavar="RULES",
        help=f"who judges: {', '.join(RULES[:2])} (default: {RULES[0]})",
    )
    add_mode(parser)
    add("--update", action="store_true", help="write the corpora again, so that they expect what they give")
    add("--junit", metavar="FILE", help="write the results there, as JUnit's XML")
    add("--coverage", metavar="FILE", help="write there what was met and what never, as JSON")
    add_workers(parser)
    add_engine(parser)
    add_limits(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import test as command

    return command.run(as_typed(command.Options, options, limits=limits_of(options)))
