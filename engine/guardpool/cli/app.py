"""From the arguments to the command that they name, and from what it raises to an exit status and one line on stderr.

The parsers are made with `argparse`, which costs a few milliseconds: `guardpool --help` and short commands should not take
longer to parse than to run. Nothing heavier is imported here than what parsing needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from guardpool import __version__
from guardpool.cli.arguments import (
    bench,
    cache,
    call,
    demo,
    diff,
    doctor,
    explain,
    import_,
    inspect,
    label,
    lint,
    replay,
    report,
    test,
    what_if,
)
from guardpool.cli.arguments.parser import EXIT_FAILED, CannotParse, Parser
from guardpool.cli.findings import EXIT_USAGE
from guardpool.cli.streams import drop_stdout, flush_stdout

EXIT_INTERRUPTED, EXIT_PIPE = 130, 141

_DESCRIPTION = """\
Label recorded tool calls with untrusted WebAssembly guards, on every core,
and lose none."""

_EPILOG = """\
Start with `guardpool doctor`, which tells what works here, and `guardpool
demo`. `guardpool COMMAND --help` tells more about a command."""

# In the order of `--help`.
_COMMANDS = (
    *(replay, what_if, report, label, call, import_, explain, diff, test, lint),
    *(demo, inspect, cache, doctor, bench),
)


def run(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` name and return the exit status; every failure is one line on stderr."""
    try:
        try:
            status = _dispatch(arguments)
        finally:
            flush_stdout()
        return status
    except BrokenPipeError:
        drop_stdout()
        return EXIT_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        return _explain(error, EXIT_FAILED)
    except BaseException as end:
        return _stopped(end)


def _dispatch(arguments: Sequence[str]) -> int:
    try:
        if list(arguments) in ([], ["cache"]):  # no command was named: show which there are
            make_parser().parse_args([*arguments, "--help"])
        if list(arguments[:1]) == ["bench"]:
            return bench.run(arguments[1:])
        return _run(make_parser().parse_args(arguments))
    except SystemExit as end:  # --help and --version end so
        if end.code:  # and rich, where the reader of what it prints is gone
            raise BrokenPipeError from end
        return 0 if arguments and list(arguments) != ["cache"] else EXIT_USAGE


def _run(options: argparse.Namespace) -> int:
    try:
        status: int = options.handler(options)
        return status
    except BrokenPipeError:
        raise
    except Exception as error:
        flush_stdout()  # what was printed before comes first
        return _explain(error, options.failed)


def _explain(error: Exception, failed: int) -> int:
    """Print an error of a known kind as one line; raise any other, a bug of ours, with its traceback."""
    from guardpool.cli.render import complain
    from guardpool.errors import GuardPoolError

    if isinstance(error, CannotParse):
        complain(str(error))
        return EXIT_USAGE
    if isinstance(error, GuardPoolError):
        complain(str(error))
        return getattr(error, "exit_status_of_command", failed)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        if isinstance(error, FileNotFoundError) and not where:  # os.getcwd, to which names are relative
            where = "the current folder: "
        complain(f"{where}{error.strerror or error}")
        return failed
    raise error


def _stopped(end: BaseException) -> int:
    """The status of a run that a signal ended where its command was not ready for one, e.g. a second one while it ends."""
    from guardpool.batch.signals import Stopped
    from guardpool.cli.render import complain

    if not isinstance(end, Stopped):
        raise end
    complain("stopped")
    return end.exit_status


def make_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(prog="guardpool", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "-V", "--version", action="version", version=f"guardpool {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_to(commands)
    return parser
