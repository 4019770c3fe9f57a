"""What the command line of `guardpool lint` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import add_json
from guardpool.cli.arguments.parser import Commands, add_command
from guardpool.cli.findings import EXIT_STOPPED

_DESCRIPTION = """\
Tell what in policies and in a gateway's configuration cannot work: keys that
make every call fail, servers whose scopes differ so that nothing can be read,
servers without a guard, entries of sinks that fit no agent. No guard is run,
and of a configuration no command is started and no variable expanded."""

_EPILOG = """\
examples:
  guardpool lint gateway.json
  guardpool lint policy.json other-policy.json
  guardpool lint github=policy.json safeoutputs=sink.json

Each finding has an id, its place, and what to do. What is said of tags holds
for the GitHub guard.

exit status:
  0    nothing was found
  1    something cannot work
  2    usage
  3    nothing was found, and something could not be checked
  5    a file cannot be used"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "lint",
        _run,
        "tell what in policies and configurations cannot work",
        _DESCRIPTION,
        epilog=_EPILOG,
        failed=EXIT_STOPPED,
    )
    parser.add_argument(
        "files",
        metavar="POLICY|CONFIG",
        nargs="+",
        help="a policy, a gateway's configuration (JSON or TOML), or SERVER=POLICY.json of one agent's servers; "
        "- is standard input",
    )
    public = parser.add_mutually_exclusive_group()
    public.add_argument(
        "--public", action="store_true", default=None, help="the workflow's repository is public, and so are sinks"
    )
    public.add_argument(
        "--private", dest="public", action="store_false", help="the workflow's repository is not public"
    )
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    from guardpool.cli import lint as command

    return command.run(options.files, as_json=options.as_json, public=options.public)
