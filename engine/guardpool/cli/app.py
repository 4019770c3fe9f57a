"""What the commands and their options are called; each command's work is in the module of its name.

Written with `argparse`, which costs a few milliseconds: `guardpool --help` and short commands should not take longer to
parse than to run. Nothing heavier is imported here than what parsing needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from guardpool import __version__
from guardpool.sizes import DEFAULT_MEMORY_PAGES

EXIT_FAILED, EXIT_USAGE = 1, 2
EXIT_INTERRUPTED, EXIT_PIPE = 130, 141

_DESCRIPTION = """\
Label recorded tool calls with untrusted WebAssembly guards, on every core,
and lose none."""

_EPILOG = """\
Start with `guardpool doctor`, which tells what works here, and `guardpool demo`.
`guardpool COMMAND --help` tells more about a command."""

_LABEL = """\
Label a file of jobs: one outcome for each, always."""

_LABEL_EPILOG = """\
examples:
  guardpool label calls.jsonl -o labels.jsonl \\
      -g github=github.wasm -p github=policy.json
  zcat calls.jsonl.gz | guardpool label - -o - \\
      -g github=github.wasm -p github=policy.json | jq .label

A job, one a line (op: label_resource or label_response; other keys: guard,
tool_result, capabilities; the id may be left out):
  {"id": 1, "op": "label_resource", "tool_name": "get_issue", "tool_args": {}}
An outcome, one a line, for each line of JOBS (rejected if it is not a job):
  {"id", "guard", "op", "tool_name", "status", "label", "error",
   "duration_us", "attempts"}

exit status:
  0    every job has its outcome
  1    the run could not go on
  2    usage
  3    with --fail-on-error, when any outcome is not ok
  4    no line was a job
  130  interrupted (143 terminated): what was labelled is written, whole lines
       only; a second Ctrl-C stops at once"""

_IMPORT = """\
Read recordings and write the calls in them, one a line: a gateway's
rpc-messages.jsonl, sessions of Claude Code, bodies of the chat, Responses and
Messages APIs, JSON-RPC and mcp-rec, or calls that were imported before. Formats
are told by content; gzip and zstd are unpacked."""

_IMPORT_EPILOG = """\
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
  130  interrupted (143 terminated): whole lines only are written"""

_DEMO = """\
Label the sample jobs with the sample guard. Guard, policy and jobs ship with
guardpool; nothing else is needed, and only the cache is written."""

_INSPECT = """\
Tell what a module is: its exports, imports and memory, everything that is
wrong with it, and what each engine would do with it. Nothing of it is run."""

_DOCTOR = """\
Tell what works here and what does not: Python, the wasm engine, the kernel's
features, cores, memory, the cache. Nothing is changed."""

_BENCH = """\
Measure guardpool on this machine, beside bare loops and other pools, with the
sample guard or one of your own."""

_CACHE = """\
The cache of compiled guards: $GUARDPOOL_CACHE_DIR, else
$XDG_CACHE_HOME/guardpool, else ~/.cache/guardpool."""

_DEMO_EPILOG = """\
With --write DIR, label nothing: write the guard, the policy and 1,000 jobs to
DIR, and print the commands that label them. If one of the files exists, it is
kept and nothing is written."""

# As `guardpool.machine.engines` has them; that module is not imported for `--help`. `tests/cli/test_help.py` compares them.
ENGINE_WORDS = ("auto", "wasmtime", "wasmer")

_Handler = Callable[[argparse.Namespace], int]


def run(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` name and return the exit status; every failure is one line on stderr."""
    try:
        if list(arguments) in ([], ["cache"]):  # no command was named: show which there are
            _parser().parse_args([*arguments, "--help"])
        if list(arguments[:1]) == ["bench"]:  # has a parser of its own, which is not always installed
            return _bench(arguments[1:])
        options = _parser().parse_args(arguments)
        status: int = options.handler(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        from guardpool.cli.render import drop_stdout

        drop_stdout()
        return EXIT_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit:  # --help and --version end so
        return 0 if arguments and list(arguments) != ["cache"] else EXIT_USAGE
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    """Print an error of a known kind as one line; raise any other, a bug of ours, with its traceback."""
    from guardpool.cli.render import complain
    from guardpool.errors import GuardPoolError

    if isinstance(error, _CannotParse):
        complain(str(error))
        return EXIT_USAGE
    if isinstance(error, GuardPoolError):
        complain(str(error))
        return getattr(error, "exit_status_of_command", EXIT_FAILED)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
        return EXIT_FAILED
    raise error


class _CannotParse(Exception):
    pass


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, add_help=False, **options
        )
        self.add_argument("-h", "--help", action="help", help="show this and exit")

    def error(self, message: str) -> NoReturn:
        raise _CannotParse(f"{message}: see {self.prog} --help")


def _parser() -> _Parser:
    parser = _Parser(prog="guardpool", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "-V", "--version", action="version", version=f"guardpool {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_label(commands)
    _add_import(commands)
    _add_demo(commands)
    _add_inspect(commands)
    _add_cache(commands)
    _add_doctor(commands)
    _command(commands, "bench", None, "measure guardpool on this machine, beside other pools", _BENCH)
    return parser


def _command(
    commands: Any, name: str, handler: _Handler | None, summary: str, description: str, **more: Any
) -> _Parser:
    parser: _Parser = commands.add_parser(name, help=summary, description=description, **more)
    if handler is not None:
        parser.set_defaults(handler=handler)
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}") from None


def _add_memory_pages(parser: _Parser) -> None:
    parser.add_argument(
        "--memory-pages",
        metavar="N",
        type=_count,
        default=DEFAULT_MEMORY_PAGES,
        help=f"cap of a guard's linear memory, in pages of 64 KiB (default: {DEFAULT_MEMORY_PAGES})",
    )


def _add_engine(parser: _Parser) -> None:
    parser.add_argument(
        "--engine",
        choices=ENGINE_WORDS,
        default="auto",
        metavar="NAME",
        help=f"the wasm engine: {', '.join(ENGINE_WORDS)} (default: auto; see guardpool doctor)",
    )


def _add_json(parser: _Parser) -> None:
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON instead of a table")


def _add_label(commands: Any) -> None:
    parser = _command(
        *(commands, "label", _label, "label a file of jobs", _LABEL),
        epilog=_LABEL_EPILOG,
        usage="guardpool label JOBS -o OUT -g NAME=FILE.wasm -p NAME=POLICY.json [options]",
    )
    add = parser.add_argument
    add("jobs", metavar="JOBS", help="jobs, one JSON object a line; - is standard input")
    add("-o", "--out", metavar="OUT", required=True, help="outcomes, one a line; - is standard output")
    add("-g", "--guard", metavar="NAME=FILE.wasm", required=True, action="append", help="a guard; may be given again")
    add("-p", "--policy", metavar="NAME=POLICY.json", default=[], action="append", help="the policy of guard NAME")
    add("-w", "--workers", metavar="N", type=_count, help="worker processes (default: one a core)")
    add("--timeout", metavar="SECONDS", type=_seconds, default=5.0, help="a job's wall clock (default: 5)")
    _add_memory_pages(parser)
    add("--max-rss", metavar="SIZE", default="256M", help="a worker's memory, e.g. 300M, 1G (default: 256M)")
    _add_engine(parser)
    order = parser.add_mutually_exclusive_group()
    order.add_argument(
        "--ordered", action="store_true", default=True, help="outcomes in the order of the jobs (default)"
    )
    order.add_argument("--unordered", dest="ordered", action="store_false", help="outcomes as they come")
    add("--fail-on-error", action="store_true", help="exit with 3 when any outcome is not ok")
    add("--stats", metavar="FILE", help="write the pool's statistics there, as JSON")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="progress and a summary on stderr; the bar on a terminal only (default: on a terminal)",
    )
    levels = ("debug", "info", "warning", "error")
    add(
        "--log-level",
        choices=levels,
        default="warning",
        metavar="LEVEL",
        help=f"show the guards' log lines from here on: {', '.join(levels)} (default: warning)",
    )


def _add_import(commands: Any) -> None:
    parser = _command(
        *(commands, "import", _import, "read recordings, write the calls in them", _IMPORT),
        epilog=_IMPORT_EPILOG,
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
    add(
        *("-g", "--guard"),
        metavar="SERVER=FILE.wasm",
        default=[],
        action="append",
        help="the guard of a server: tell its own questions from the agent's calls; may be given again",
    )
    add("-p", "--policy", metavar="SERVER=POLICY.json", default=[], action="append", help="the policy of that guard")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a bar on stderr, on a terminal only (default: on a terminal)",
    )


def _add_demo(commands: Any) -> None:
    about = "label the sample jobs with the sample guard"
    parser = _command(commands, "demo", _demo, about, _DEMO, epilog=_DEMO_EPILOG)
    add = parser.add_argument
    add("-n", "--jobs", metavar="N", type=_count, help="how many (default: 20000; with --write 1000)")
    add("-w", "--workers", metavar="N", type=_count, default=2, help="worker processes (default: 2)")
    _add_engine(parser)
    add("--write", metavar="DIR", help="write guard, policy and jobs as files, and print the commands")


def _add_inspect(commands: Any) -> None:
    parser = _command(
        *(commands, "inspect", _inspect, "tell what a module is, and whether it is a guard", _INSPECT),
        epilog="exit status:\n  0    it is a guard\n  1    it is not a guard: a pool refuses it",
    )
    parser.add_argument("file", metavar="FILE.wasm", help="the module")
    _add_memory_pages(parser)
    _add_engine(parser)
    _add_json(parser)


def _add_doctor(commands: Any) -> None:
    parser = _command(
        *(commands, "doctor", _doctor, "tell what works here and what does not", _DOCTOR),
        epilog="exit status:\n  0    a pool can be made here\n  1    no pool can be made here",
    )
    _add_json(parser)


def _add_cache(commands: Any) -> None:
    cache = _command(commands, "cache", None, "look at the cache of compiled guards, fill it, empty it", _CACHE)
    commands = cache.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, handler: _Handler, summary: str, more: str = "") -> _Parser:
        return _command(commands, name, handler, summary, f"{summary[0].upper()}{summary[1:]}.{more}")

    add("path", lambda options: _cache().path(), "print the folder")
    _add_json(
        add(
            "list",
            lambda options: _cache().list_entries(as_json=options.as_json),
            "list what is in it, last used first",
        )
    )
    warm = add(
        "warm",
        lambda options: _cache().warm(options.files, options.memory_pages, options.engine),
        "compile guards ahead of their use",
        " The memory cap and the engine are\npart of a compiled guard: give those that the run will be given.",
    )
    warm.add_argument("files", metavar="FILE.wasm", nargs="+", help="the guards")
    _add_memory_pages(warm)
    _add_engine(warm)
    verify = add(
        "verify",
        lambda options: _cache().verify(remove=options.remove, as_json=options.as_json),
        "read everything and check it",
        " Exit status 1: something is damaged, or\nanother user could have written it.",
    )
    verify.add_argument("--remove", action="store_true", help="remove what would not be used")
    _add_json(verify)
    prune = add(
        "prune",
        lambda options: _cache().prune(options.max_bytes, options.max_age),
        "remove what was not used for longest",
    )
    prune.add_argument("--max-bytes", metavar="SIZE", help="what all together may take, e.g. 500M")
    prune.add_argument("--max-age", metavar="AGE", help="how long ago the last use may be, e.g. 12h, 30d")
    add(
        "clear", lambda options: _cache().clear(), "remove everything", " Guards are compiled again when they are used."
    )


def _label(options: argparse.Namespace) -> int:
    from guardpool.cli import label as command

    return command.run(
        command.Options(
            jobs=options.jobs,
            out=options.out,
            guards=tuple(options.guard),
            policies=tuple(options.policy),
            workers=options.workers,
            timeout_s=options.timeout,
            memory_pages=options.memory_pages,
            max_rss=options.max_rss,
            engine=options.engine,
            ordered=options.ordered,
            fail_on_error=options.fail_on_error,
            stats=options.stats,
            progress=options.progress,
            log_level=options.log_level,
        )
    )


def _import(options: argparse.Namespace) -> int:
    from guardpool.cli import import_ as command

    return command.run(
        command.Options(
            recordings=tuple(options.recordings),
            out=options.out,
            tally=options.tally,
            format=options.format,
            replies=options.replies,
            jobs=options.jobs,
            guards=tuple(options.guard),
            policies=tuple(options.policy),
            progress=options.progress,
        )
    )


def _demo(options: argparse.Namespace) -> int:
    from guardpool.cli import demo as command

    if options.write is not None:
        return command.write(options.write, options.jobs or 1000)
    return command.run(options.jobs or 20_000, options.workers, options.engine)


def _inspect(options: argparse.Namespace) -> int:
    from guardpool.cli import inspect as command

    return command.run(options.file, options.memory_pages, options.engine, as_json=options.as_json)


def _doctor(options: argparse.Namespace) -> int:
    from guardpool.cli import doctor as command

    return command.run(as_json=options.as_json)


def _bench(arguments: Sequence[str]) -> int:
    from guardpool.cli import bench as command

    return command.run(arguments)


def _cache() -> Any:
    from guardpool.cli import cache as command

    return command
