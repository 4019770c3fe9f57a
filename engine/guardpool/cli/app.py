"""What the commands and their options are called; each command's work is in the module of its name.

Written with `argparse`, which costs a few milliseconds: `guardpool --help` and short commands should not take longer to
parse than to run. Nothing heavier is imported here than what parsing needs.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from guardpool import __version__
from guardpool.cli.limit_options import add_limits, limits_of, whole_number
from guardpool.cli.streams import drop_stdout, flush_stdout
from guardpool.sizes import DEFAULT_MEMORY_PAGES

EXIT_FAILED, EXIT_USAGE = 1, 2
EXIT_INTERRUPTED, EXIT_PIPE = 130, 141
# As `guardpool.cli.findings` has it: of commands whose status 1 is that they found something.
EXIT_STOPPED = 5

_DESCRIPTION = """\
Label recorded tool calls with untrusted WebAssembly guards, on every core,
and lose none."""

_EPILOG = """\
Start with `guardpool doctor`, which tells what works here, and `guardpool
demo`. `guardpool COMMAND --help` tells more about a command."""

_LABEL = """\
Label a file of jobs: one outcome for each, always."""

_LABEL_EPILOG = """\
examples:
  guardpool label calls.jsonl -o labels.jsonl \\
      -g github=github.wasm -p github=policy.json
  guardpool label calls/ more.jsonl.gz -o labels.parquet \\
      -g github=github.wasm -p github=policy.json
  zcat calls.jsonl.gz | guardpool label - -o - \\
      -g github=github.wasm -p github=policy.json | jq .label

JOBS may be several files, folders and globs. What is in them tells their
format: lines, plain or packed by gzip or zstd, or Parquet (a row is a job;
tool_args, tool_result and capabilities are JSON text or nested columns). OUT is
gzip, zstd or Parquet if it ends in .gz, .zst or .parquet, else lines.

A job, one a line (op: label_resource or label_response; other keys: guard,
tool_result, capabilities, session, time; the id may be left out):
  {"id": 1, "op": "label_resource", "tool_name": "get_issue", "tool_args": {}}
An outcome, one a line, for each line of JOBS that is not blank (rejected if it
is not a job):
  {"id", "guard", "op", "tool_name", "status", "label", "error",
   "duration_us", "attempts"} and, if its guard asked something,
  "backend": {"asked", "answered", "failed", "missing"}, and, if its session
  had to go on in another worker, "session_restarted": true

exit status:
  0    every job has its outcome
  1    the run could not go on; with --prove, labels depend on more than the job
  2    usage
  3    with --fail-on-error, when any outcome is not ok; with --max-failed,
       when more are not
  4    no line was a job
  130  interrupted (143 terminated): what was labelled is in OUT.part, whole
       lines only; a second Ctrl-C stops at once

OUT is written as OUT.part and renamed when it is complete (of Parquet, OUT.part
holds lines until then). After Ctrl-C, kill -9, a power failure or a full disk
the same command with --resume goes on with it (OUT.part.journal tells where),
every job once; without --resume a new run begins it anew. OUT.manifest.json,
beside OUT, names guard, policy, engine, replies and input by SHA-256, with
counts and times. A pipe or a device is written directly. The last line on
stderr says how many jobs ended how."""

_CALL = """\
Make one call, and show everything that became of it: the label, expanded over
the items of a result, what the guard logged, how often it asked its backend,
how long it took, and where it trapped. For authors of guards."""

_CALL_EPILOG = """\
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
  130  interrupted (143 terminated): what was read is in CALLS.part, whole lines
       only; files are renamed when they are complete"""

_REPLAY = """\
Replay recordings: label each call again, and decide by the gateway's rules and
by stricter ones what the agent gets, item by item, and why. What guards asked
is answered from the recording. What cannot be decided is undecided, with the
reason."""

_REPLAY_EPILOG = """\
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

_WHAT_IF = """\
Try policies on recordings: what each shows and hides, whose items, and what
changes side against the first. Modes cost no guard run."""

_WHAT_IF_EPILOG = """\
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

_REPORT = """\
Report on decisions: how far the replay agrees with the log, findings, what was
covered, what the agent got, and shares by tool, repository, author, level and
day. No count stands without what it is a part of."""

_REPORT_EPILOG = """\
examples:
  guardpool report decisions.jsonl
  guardpool report decisions.jsonl -o report.html
  guardpool report decisions.jsonl --against last-week.jsonl -o report.md
  guardpool report decisions.jsonl --redact -o report.html

formats, as the name of FILE ends, or --format says:
  text      for terminals, with bars (the default; .txt)
  html      one file with charts, which opens from disk without a network:
            pip install 'guardpool[report]'
  markdown  for job summaries and issues; pings nobody, closes nothing
  json      everything that was counted
  csv       a row for each call
  sarif     a result for each finding, for code scanning
  junit     a test for each tool and kind of finding; what is undecided is
            skipped

What strangers wrote (titles, logins, names) is shown so that it can do no harm.
FILE has mode 0600; it is written as FILE.part and renamed when it is complete.

exit status:
  0    there is a report, whatever it tells
  2    usage
  5    the decisions cannot be read, or the report cannot be written
  130  interrupted"""

_EXPLAIN = """\
Say why a call, or an item, was kept back: what it has, what it would need,
whose it is, what the guard could not find out, and what would admit it."""

_EXPLAIN_EPILOG = """\
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

_DIFF = """\
Compare two files of decisions on the same calls: other guards, policies, modes
or rules. What became more open, what more closed, and whose labels changed."""

_DIFF_EPILOG = """\
examples:
  guardpool diff old.jsonl new.jsonl
  guardpool diff old.jsonl new.jsonl --baseline accepted.json
  guardpool diff old.jsonl new.jsonl --baseline accepted.json --update-baseline

A baseline holds the fingerprints of differences that were accepted: what a
difference is about, and not where it stands. It belongs to the guards and
policies of OLD, and one for others is refused. --update-baseline replaces no
file that is not a baseline.

exit status:
  0    nothing became more open, apart from what the baseline accepts
  1    something became more open
  2    usage
  3    nothing did, and some calls could not be compared
  5    a file cannot be used"""

_TEST = """\
Run corpora of guards: cases with the labels and decisions that are expected of
them. What differs is printed, and which tools, levels and rules were met."""

_TEST_EPILOG = """\
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
The GitHub guard's own corpora (JSON) are read, too.

exit status:
  0    all is as expected
  1    something is not; with --update, something that no update mends
  2    usage, or a file is not a corpus
  3    some of it could not be run, or expects nothing
  5    a file cannot be read, or a guard cannot be used
  130  interrupted (143 terminated)"""

_LINT = """\
Tell what in policies and in a gateway's configuration cannot work: keys that
make every call fail, servers whose scopes differ so that nothing can be read,
servers without a guard, entries of sinks that fit no agent. No guard is run,
and of a configuration no command is started and no variable expanded."""

_LINT_EPILOG = """\
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

_DEMO = """\
Label the sample jobs with the sample guard, and replay a gateway's log of such
traffic. Guard, policy, jobs, log and the table of recorded replies that answers
what the guard asks ship with guardpool; nothing else is needed. Written are the
cache, and the log, its decisions and a report on them, in a new folder for
temporary files."""

_INSPECT = """\
Tell what a module is: its exports, imports and memory, everything that is
wrong with it, and what each engine would do with it. Nothing of it is run."""

_INSPECT_EPILOG = """\
With --json, of several modules each is one line.

exit status:
  0    all of them are guards
  1    one of them is not a guard, so that a pool refuses it, or cannot be read"""

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
With --write DIR, label nothing: write the guard, the policy, 1,000 jobs, the
table of replies and a gateway's log to DIR, and print the commands that label
the jobs. If one of the files exists already, nothing is written."""

# As `guardpool.backends.mcp_server` has it, which is not imported for `--help`; `tests/cli/test_help.py` compares them.
MAX_QUESTIONS = 10_000

# As `guardpool.machine.engines` has them; that module is not imported for `--help`. `tests/cli/test_help.py` compares them.
ENGINE_WORDS = ("auto", "wasmtime", "wasmer")
# As `guardpool.pool` has them, which is not imported for `--help` either.
ISOLATION_WORDS = ("none", "job")
_ON_BACKEND_FAILURE = ("label", "withhold")
# As `guardpool.replaying` and `guardpool.labels` have them, likewise.
RULES = ("gateway", "strict", "both")
ORDERS = ("session", "any")
MODES = ("strict", "filter", "propagate")

# As `guardpool.cli.report` has them.
_FORMATS = ("text", "html", "markdown", "json", "csv", "sarif", "junit")

_Handler = Callable[[argparse.Namespace], int]


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
        return _explain(error)


def _dispatch(arguments: Sequence[str]) -> int:
    try:
        if list(arguments) in ([], ["cache"]):  # no command was named: show which there are
            _parser().parse_args([*arguments, "--help"])
        if list(arguments[:1]) == ["bench"]:  # has a parser of its own, which is not always installed
            return _bench(arguments[1:])
        options = _parser().parse_args(arguments)
        status: int = options.handler(options)
        return status
    except SystemExit as end:  # --help and --version end so
        if end.code:  # and rich, where the reader of what it prints is gone
            raise BrokenPipeError from end
        return 0 if arguments and list(arguments) != ["cache"] else EXIT_USAGE


def _finds(handler: _Handler) -> _Handler:
    """A command whose status 1 is that it found something: that it could not go on is another one."""

    def run_it(options: argparse.Namespace) -> int:
        try:
            return handler(options)
        except BrokenPipeError:
            raise
        except Exception as error:
            return _explain(error, EXIT_STOPPED)

    return run_it


def _explain(error: Exception, failed: int = EXIT_FAILED) -> int:
    """Print an error of a known kind as one line; raise any other, a bug of ours, with its traceback."""
    from guardpool.cli.render import complain
    from guardpool.errors import GuardPoolError

    if isinstance(error, _CannotParse):
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


class _CannotParse(Exception):
    pass


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Breaks lines between words only: the name of an option stays whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, add_help=False, **options)
        self.add_argument("-h", "--help", action="help", help="show this and exit")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse drops what it cannot write, without a word.
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        raise _CannotParse(f"{message}: see {self.prog} --help")


def _parser() -> _Parser:
    parser = _Parser(prog="guardpool", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "-V", "--version", action="version", version=f"guardpool {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_replay(commands)
    _add_what_if(commands)
    _add_report(commands)
    _add_label(commands)
    _add_call(commands)
    _add_import(commands)
    _add_explain(commands)
    _add_diff(commands)
    _add_test(commands)
    _add_lint(commands)
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


def _add_memory_pages(parser: _Parser) -> None:
    parser.add_argument(
        "--memory-pages",
        metavar="N",
        type=_count,
        default=DEFAULT_MEMORY_PAGES,
        help=f"cap of a guard's linear memory, in pages of 64 KiB (default: {DEFAULT_MEMORY_PAGES})",
    )


def _add_keep_labels(parser: _Parser) -> None:
    parser.add_argument(
        "--keep-labels",
        metavar="FILE",
        help="keep labels there, and take those that are there already, for guards whose labels do not depend on the order "
        "of jobs",
    )


def _add_workers(parser: _Parser) -> None:
    parser.add_argument(*("-w", "--workers"), metavar="N", type=_count, help="worker processes (default: one a core)")


def _add_engine(parser: _Parser) -> None:
    parser.add_argument(
        "--engine",
        choices=ENGINE_WORDS,
        default="auto",
        metavar="NAME",
        help=f"the wasm engine: {', '.join(ENGINE_WORDS)} (default: auto; see guardpool doctor)",
    )


def _add_redaction(parser: _Parser) -> None:
    add = parser.add_argument
    add(
        "--redact",
        action="store_true",
        help="write logins, repositories, numbers and titles as keyed hashes, and no log lines",
    )
    add(
        "--redact-key",
        metavar="FILE",
        help="the same, with the key in FILE, which is made if it is not there: one key gives the same hashes in every run",
    )


def _add_mode(parser: _Parser) -> None:
    parser.add_argument(
        "--mode",
        type=str.lower,
        choices=MODES,
        metavar="MODE",
        help="decide in this mode, whatever the guards answer: " + ", ".join(MODES),
    )


def _add_log_level(parser: _Parser, default: str) -> None:
    levels = ("debug", "info", "warning", "error", "off")
    parser.add_argument(
        "--log-level",
        choices=levels,
        default=default,
        metavar="LEVEL",
        help=f"show the guards' log lines from here on: {', '.join(levels)} (default: {default})",
    )


def _add_json(parser: _Parser) -> None:
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON instead of a table")


def _add_servers(parser: _Parser, name: str, **more: Any) -> None:
    for option, value, text in (
        ("--backend-allow", "TOOL,TOOL", "tools of an MCP server that may be called though they are not read-only"),
        ("--backend-env", "VAR,VAR", "environment variables that the command of an MCP server gets"),
        ("--backend-token", "VAR", "the environment variable with the token for the URL of an MCP server"),
    ):
        parser.add_argument(option, metavar=f"{name}{value}", help=text, **more)


def _add_max_questions(parser: _Parser) -> None:
    parser.add_argument(
        "--max-questions",
        metavar="N",
        type=_count,
        default=MAX_QUESTIONS,
        help=f"different questions a guard may ask an MCP server (default: {MAX_QUESTIONS})",
    )


def _add_backends(parser: _Parser) -> None:
    add = parser.add_argument
    add(
        "--backend",
        metavar="NAME=WHO",
        default=[],
        action="append",
        help="who answers guard NAME: a file of replies, mcp:COMMAND or mcp:URL (a live MCP server), "
        "python:MODULE:FUNCTION, or none",
    )
    _add_servers(parser, "NAME=", action="append", default=[])
    _add_max_questions(parser)
    add("--record-backend", metavar="FILE", help="write the answers of the backend there, as a file of replies")
    add(
        "--on-backend-failure",
        choices=_ON_BACKEND_FAILURE,
        default="label",
        metavar="WHAT",
        help="what a job becomes if its guard asked in vain: label (the guard decides, the default), or withhold (no label)",
    )


def _add_progress(parser: _Parser, what: str = "a bar") -> None:
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help=f"{what} on stderr, on a terminal only (default: on a terminal)",
    )


def _add_replay(commands: Any) -> None:
    parser = _command(
        *(commands, "replay", _finds(_replay), "recordings in, decisions out: the main job", _REPLAY),
        epilog=_REPLAY_EPILOG,
        usage="guardpool replay RECORDING... -g SERVER=FILE.wasm -p SERVER=POLICY.json\n"
        "                        -o DECISIONS [options]",
    )
    add = parser.add_argument
    add("recordings", metavar="RECORDING", nargs="+", help="files, folders, globs; - is standard input")
    add(
        "-o", "--out", metavar="DECISIONS", help="decisions, one a line; - is standard output (default: only a summary)"
    )
    _add_before_servers(parser)
    _add_mode(parser)
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
    _add_redaction(parser)
    add(
        "--backend",
        metavar="SERVER=WHO",
        default=[],
        action="append",
        help="who answers a guard instead of the recording: a file of replies, mcp:COMMAND or mcp:URL (a live MCP "
        "server), python:MODULE:FUNCTION, or none",
    )
    _add_servers(parser, "SERVER=", action="append", default=[])
    _add_max_questions(parser)
    _add_keep_labels(parser)
    _add_workers(parser)
    _add_engine(parser)
    _add_progress(parser)
    _add_log_level(parser, "error")
    add_limits(parser)


def _add_what_if(commands: Any) -> None:
    parser = _command(
        *(commands, "what-if", _finds(_what_if), "try policies and modes on recordings", _WHAT_IF),
        epilog=_WHAT_IF_EPILOG,
        usage="guardpool what-if RECORDING... -g SERVER=FILE.wasm -p A.json -p B.json\n                         [options]",
    )
    add = parser.add_argument
    add("recordings", metavar="RECORDING", nargs="+", help="files, folders, globs; - is standard input")
    add("-o", "--out", metavar="FILE", help="what changes side, one item a line; - is standard output")
    _add_before_servers(parser, policy="[REPOSITORY=]FILE")
    add(
        "--mode",
        type=str.lower,
        choices=MODES,
        default=[],
        action="append",
        metavar="MODE",
        help=f"try each policy in this mode; may be given again: {', '.join(MODES)}",
    )
    add("--format", metavar="FORMAT", help="try only this format of recordings (default: told by content)")
    _add_keep_labels(parser)
    _add_workers(parser)
    _add_redaction(parser)
    _add_engine(parser)
    _add_progress(parser)
    add_limits(parser)


def _add_before_servers(parser: _Parser, policy: str = "SERVER=POLICY.json") -> None:
    """What stands before each server."""
    add = parser.add_argument
    add(
        *("-g", "--guard"),
        metavar="SERVER=FILE.wasm",
        default=[],
        action="append",
        help="the guard of a server, or SERVER=none; may be given again",
    )
    add(
        *("-p", "--policy"),
        metavar=policy,
        default=[],
        action="append",
        help="the policy of that guard, or of a sink" if "SERVER" in policy else "a policy to try; may be given again",
    )
    add(
        "--sink",
        metavar="SERVER=ACCEPT",
        default=[],
        action="append",
        help="a server that is only written to, and what it accepts: private:OWNER/REPO,..., public, '*', or a policy's file",
    )
    add(
        "--config",
        metavar="FILE",
        help="a gateway's configuration, TOML or JSON: guards, policies and sinks from there",
    )


def _add_label(commands: Any) -> None:
    parser = _command(
        *(commands, "label", _label, "label a file of jobs", _LABEL),
        epilog=_LABEL_EPILOG,
        usage="guardpool label JOBS... -o OUT -g NAME=FILE.wasm -p NAME=POLICY.json\n                       [options]",
    )
    add = parser.add_argument
    add("jobs", metavar="JOBS", nargs="+", help="files of jobs, folders, globs; - is standard input")
    add(
        *("-o", "--out"),
        metavar="OUT",
        help="outcomes, in the format of its ending; - is standard output (needed unless there is --prove)",
    )
    add("-g", "--guard", metavar="NAME=FILE.wasm", default=[], action="append", help="a guard; may be given again")
    add("-p", "--policy", metavar="NAME=POLICY.json", default=[], action="append", help="the policy of guard NAME")
    _add_backends(parser)
    _add_workers(parser)
    _add_engine(parser)
    add("--each-guard", action="store_true", help="label each job with each guard, whichever it names")
    order = parser.add_mutually_exclusive_group()
    order.add_argument(
        "--ordered", action="store_true", default=True, help="outcomes in the order of the jobs (default)"
    )
    order.add_argument("--unordered", dest="ordered", action="store_false", help="outcomes as they come")
    add(
        "--isolation",
        choices=ISOLATION_WORDS,
        default="none",
        metavar="HOW",
        help="none: a guard keeps what it remembers of the jobs before (default); job: each job has a copy of it",
    )
    add(
        "--resume",
        action="store_true",
        help="go on where an interrupted run to OUT stopped, every job once; if there is none, begin anew",
    )
    _add_keep_labels(parser)
    add("--dedupe", action="store_true", help="label equal jobs once")
    add(
        "--deterministic",
        action="store_true",
        help="give guards clocks and random bytes that follow from the job: its time, else 0, and its input",
    )
    add(
        "--no-timing",
        dest="timing",
        action="store_false",
        help="leave out duration_us, to compare runs (with guards that keep answers, add -w 1)",
    )
    add("--fail-on-error", action="store_true", help="exit with 3 when any outcome is not ok")
    add("--max-failed", metavar="N|N%", help="exit with 3 when more outcomes are not ok, e.g. 10, 0.5%%")
    add("--stats", metavar="FILE", help="write the pool's statistics and a hash over all labels there, as JSON")
    _add_prove(parser)
    add(
        "--ray",
        metavar="ADDRESS",
        help="label on every node of this Ray cluster: HOST:PORT, or auto for the one of RAY_ADDRESS or of ray start on this "
        "machine; JOBS and OUT may then be URLs that fsspec knows, and outcomes come in no order",
    )
    _add_progress(parser, "a bar and a table")
    _add_log_level(parser, "warning")
    add(
        "--log-file",
        metavar="FILE",
        help="write log lines and warnings there, one JSON object a line, and not to stderr",
    )
    add_limits(parser)


def _add_prove(parser: _Parser) -> None:
    add = parser.add_argument
    add(
        "--prove",
        metavar="N",
        type=_count,
        help="label N of the jobs again and again, each time with one thing changed, print those whose label depends on it, "
        "and exit with 1 if there are any",
    )
    add(
        "--prove-seed",
        metavar="SEED",
        type=whole_number,
        default=0,
        help="decides which jobs --prove draws (default: 0)",
    )


def _add_call(commands: Any) -> None:
    parser = _command(
        *(commands, "call", _call, "make one call, and show everything that became of it", _CALL),
        epilog=_CALL_EPILOG,
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
    _add_servers(parser, "")
    _add_engine(parser)
    _add_log_level(parser, "info")
    _add_json(parser)
    add_limits(parser)


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
    _add_progress(parser)
    add_limits(parser)


def _add_report(commands: Any) -> None:
    parser = _command(
        *(commands, "report", _finds(_report), "report on decisions: as text, a page, Markdown, JSON, ...", _REPORT),
        epilog=_REPORT_EPILOG,
        usage="guardpool report DECISIONS [-o FILE] [options]",
    )
    add = parser.add_argument
    add("decisions", metavar="DECISIONS", help="decisions.jsonl of guardpool replay; - is standard input")
    add("-o", "--out", metavar="FILE", default="-", help="the report (default: standard output)")
    add(
        "--format",
        choices=_FORMATS,
        metavar="FORMAT",
        help=f"{', '.join(_FORMATS)} (default: by the ending of FILE, else text)",
    )
    add("--against", metavar="OLD", help="earlier decisions: tell what has changed since")
    add("--show-data", action="store_true", help="show arguments of calls, too")
    _add_progress(parser, "a count")
    _add_redaction(parser)


def _add_explain(commands: Any) -> None:
    parser = _command(
        *(commands, "explain", _finds(_explain_it), "why something was kept back", _EXPLAIN),
        epilog=_EXPLAIN_EPILOG,
        usage="guardpool explain DECISIONS --call ID | --item TEXT [options]",
    )
    add = parser.add_argument
    add("decisions", metavar="DECISIONS", help="decisions of `guardpool replay`; - is standard input")
    add("--call", metavar="ID", help="the call")
    add("--item", metavar="TEXT", help="items with these words; with --call those of that call")
    add(
        "--recording",
        metavar="RECORDING",
        default=[],
        action="append",
        help="what the decisions were made of: try which change of the policy would admit it; may be given again",
    )
    _add_before_servers(parser)
    _add_mode(parser)
    _add_workers(parser)
    _add_engine(parser)
    _add_progress(parser)
    _add_json(parser)
    add_limits(parser)


def _add_diff(commands: Any) -> None:
    parser = _command(
        *(commands, "diff", _finds(_diff), "two files of decisions: what became more open", _DIFF), epilog=_DIFF_EPILOG
    )
    add = parser.add_argument
    add("old", metavar="OLD", help="decisions of `guardpool replay`; - is standard input")
    add("new", metavar="NEW", help="decisions on the same calls")
    add("--baseline", metavar="FILE", help="differences that are accepted")
    add("--update-baseline", dest="update", action="store_true", help="write FILE: accept all that differs")
    add("--all", dest="show_all", action="store_true", help="list every difference, not the first that are more open")
    _add_redaction(parser)
    _add_json(parser)


def _add_test(commands: Any) -> None:
    parser = _command(
        *(commands, "test", _finds(_test), "run corpora of guards: golden labels and decisions", _TEST),
        epilog=_TEST_EPILOG,
        usage="guardpool test CORPUS... -g NAME=FILE.wasm [options]",
    )
    add = parser.add_argument
    add("corpora", metavar="CORPUS", nargs="+", help="files of cases")
    add("-g", "--guard", metavar="NAME=FILE.wasm", required=True, action="append", help="a guard; may be given again")
    add(
        *("-p", "--policy"),
        metavar="NAME=POLICY.json",
        default=[],
        action="append",
        help="the policy of guard NAME (default: the corpus's)",
    )
    add(
        "--backend",
        metavar="NAME=WHO",
        default=[],
        action="append",
        help="who answers guard NAME: a file of replies, mcp:COMMAND or mcp:URL, python:MODULE:FUNCTION, or none "
        "(default: the corpus's replies)",
    )
    add(
        "--rules",
        choices=RULES[:2],
        default=RULES[0],
        metavar="RULES",
        help=f"who judges: {', '.join(RULES[:2])} (default: {RULES[0]})",
    )
    _add_mode(parser)
    add("--update", action="store_true", help="write the corpora again, so that they expect what they give")
    add("--junit", metavar="FILE", help="write the results there, as JUnit's XML")
    add("--coverage", metavar="FILE", help="write there what was met and what never, as JSON")
    _add_workers(parser)
    _add_engine(parser)
    add_limits(parser)


def _add_lint(commands: Any) -> None:
    parser = _command(
        *(commands, "lint", _finds(_lint), "tell what in policies and configurations cannot work", _LINT),
        epilog=_LINT_EPILOG,
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
    _add_json(parser)


def _add_demo(commands: Any) -> None:
    about = "label sample jobs and replay a sample recording"
    parser = _command(commands, "demo", _demo, about, _DEMO, epilog=_DEMO_EPILOG)
    add = parser.add_argument
    add("-n", "--jobs", metavar="N", type=_count, help="how many (default: 20000; with --write 1000)")
    add("-w", "--workers", metavar="N", type=_count, default=2, help="worker processes (default: 2)")
    _add_engine(parser)
    add("--write", metavar="DIR", help="write all of it as files, and print the commands that label them")
    add_limits(parser)


def _add_inspect(commands: Any) -> None:
    parser = _command(
        *(commands, "inspect", _inspect, "tell what modules are, and whether they are guards", _INSPECT),
        epilog=_INSPECT_EPILOG,
    )
    parser.add_argument("files", metavar="FILE.wasm", nargs="+", help="the modules; - is standard input")
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


def _replay(options: argparse.Namespace) -> int:
    from guardpool.cli import replay as command

    return command.run(
        command.Options(
            recordings=tuple(options.recordings),
            out=options.out,
            format=options.format,
            guards=tuple(options.guard),
            policies=tuple(options.policy),
            sinks=tuple(options.sink),
            config=options.config,
            mode=options.mode,
            rules=options.rules,
            order=options.order,
            backends=tuple(options.backend),
            backend_allow=tuple(options.backend_allow),
            backend_env=tuple(options.backend_env),
            backend_token=tuple(options.backend_token),
            max_questions=options.max_questions,
            keep_labels=options.keep_labels,
            workers=options.workers,
            limits=limits_of(options),
            engine=options.engine,
            summary=options.summary,
            redact=options.redact,
            redact_key=options.redact_key,
            progress=options.progress,
            log_level=options.log_level,
        )
    )


def _what_if(options: argparse.Namespace) -> int:
    from guardpool.cli import what_if as command

    return command.run(
        command.Options(
            recordings=tuple(options.recordings),
            out=options.out,
            format=options.format,
            guards=tuple(options.guard),
            policies=tuple(options.policy),
            sinks=tuple(options.sink),
            config=options.config,
            modes=tuple(options.mode),
            keep_labels=options.keep_labels,
            workers=options.workers,
            limits=limits_of(options),
            engine=options.engine,
            redact=options.redact,
            redact_key=options.redact_key,
            progress=options.progress,
        )
    )


def _label(options: argparse.Namespace) -> int:
    needed = {"-o/--out": options.out or options.prove, "-g/--guard": options.guard}
    missing = ", ".join(name for name, given in needed.items() if not given)
    if missing:
        raise _CannotParse(f"the following arguments are required: {missing}: see guardpool label --help")
    if options.ray is not None:
        return _label_by_ray(options)
    from guardpool.cli import label as command

    return command.run(
        command.Options(
            jobs=tuple(options.jobs),
            out=options.out,
            guards=tuple(options.guard),
            policies=tuple(options.policy),
            backends=tuple(options.backend),
            backend_allow=tuple(options.backend_allow),
            backend_env=tuple(options.backend_env),
            backend_token=tuple(options.backend_token),
            max_questions=options.max_questions,
            record_backend=options.record_backend,
            on_backend_failure=options.on_backend_failure,
            workers=options.workers,
            limits=limits_of(options),
            engine=options.engine,
            ordered=options.ordered,
            each_guard=options.each_guard,
            isolation=options.isolation,
            resume=options.resume,
            keep_labels=options.keep_labels,
            dedupe=options.dedupe,
            deterministic=options.deterministic,
            timing=options.timing,
            fail_on_error=options.fail_on_error,
            max_failed=options.max_failed,
            stats=options.stats,
            prove=options.prove,
            prove_seed=options.prove_seed,
            progress=options.progress,
            log_level=options.log_level,
            log_file=options.log_file,
        )
    )


def _label_by_ray(options: argparse.Namespace) -> int:
    from guardpool.cli import ray as command

    # What needs one pool that sees all jobs, or files of this machine.
    given = {
        "--each-guard": options.each_guard,
        "--resume": options.resume,
        "--keep-labels": options.keep_labels,
        "--dedupe": options.dedupe,
        "--stats": options.stats,
        "--log-file": options.log_file,
        "--progress": options.progress,
        "--prove": options.prove,
        "--backend": options.backend,
        "--backend-allow": options.backend_allow,
        "--backend-env": options.backend_env,
        "--backend-token": options.backend_token,
        "--record-backend": options.record_backend,
    }
    command.refuse([option for option, value in given.items() if value])
    return command.run(
        command.Options(
            address=options.ray,
            jobs=tuple(options.jobs),
            out=options.out,
            guards=tuple(options.guard),
            policies=tuple(options.policy),
            timing=options.timing,
            fail_on_error=options.fail_on_error,
            max_failed=options.max_failed,
            pool={
                "workers": options.workers,
                "limits": limits_of(options),
                "engine": options.engine,
                "isolation": options.isolation,
                "deterministic": options.deterministic,
                "log_level": options.log_level,
            },
        )
    )


def _call(options: argparse.Namespace) -> int:
    from guardpool.cli import call as command

    return command.run(
        command.Options(
            file=options.file,
            policy=options.policy,
            tool=options.tool,
            args=options.args,
            result=options.result,
            backend=options.backend,
            backend_allow=options.backend_allow,
            backend_env=options.backend_env,
            backend_token=options.backend_token,
            engine=options.engine,
            limits=limits_of(options, keep_logs=True),
            log_level=options.log_level,
            as_json=options.as_json,
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
            limits=limits_of(options),
            progress=options.progress,
        )
    )


def _explain_it(options: argparse.Namespace) -> int:
    from guardpool.cli import explain as command
    from guardpool.cli.render import UsageError

    if options.call is None and options.item is None:
        raise UsageError("explain: name a call with --call ID, or an item with --item TEXT")
    return command.run(
        command.Options(
            decisions=options.decisions,
            call=options.call,
            item=options.item,
            recordings=tuple(options.recording),
            guards=tuple(options.guard),
            policies=tuple(options.policy),
            sinks=tuple(options.sink),
            config=options.config,
            mode=options.mode,
            workers=options.workers,
            limits=limits_of(options),
            engine=options.engine,
            progress=options.progress,
            as_json=options.as_json,
        )
    )


def _diff(options: argparse.Namespace) -> int:
    from guardpool.cli import diff as command

    return command.run(
        command.Options(
            old=options.old,
            new=options.new,
            baseline=options.baseline,
            update=options.update,
            show_all=options.show_all,
            as_json=options.as_json,
            redact=options.redact,
            redact_key=options.redact_key,
        )
    )


def _test(options: argparse.Namespace) -> int:
    from guardpool.cli import test as command

    return command.run(
        command.Options(
            corpora=tuple(options.corpora),
            guards=tuple(options.guard),
            policies=tuple(options.policy),
            backends=tuple(options.backend),
            rules=options.rules,
            mode=options.mode,
            junit=options.junit,
            coverage=options.coverage,
            update=options.update,
            workers=options.workers,
            engine=options.engine,
            limits=limits_of(options),
        )
    )


def _lint(options: argparse.Namespace) -> int:
    from guardpool.cli import lint as command

    return command.run(options.files, as_json=options.as_json, public=options.public)


def _report(options: argparse.Namespace) -> int:
    from guardpool.cli import report as command

    return command.run(
        command.Options(
            decisions=options.decisions,
            out=options.out,
            format=options.format,
            against=options.against,
            show_data=options.show_data,
            redact=options.redact,
            redact_key=options.redact_key,
            progress=options.progress,
        )
    )


def _demo(options: argparse.Namespace) -> int:
    from guardpool.cli import demo as command

    if options.write is not None:
        return command.write(options.write, options.jobs or 1000)
    return command.run(options.jobs or 20_000, options.workers, options.engine, limits_of(options))


def _inspect(options: argparse.Namespace) -> int:
    from guardpool.cli import inspect as command

    return command.run(options.files, options.memory_pages, options.engine, as_json=options.as_json)


def _doctor(options: argparse.Namespace) -> int:
    from guardpool.cli import doctor as command

    return command.run(as_json=options.as_json)


def _bench(arguments: Sequence[str]) -> int:
    from guardpool.cli import bench as command

    return command.run(arguments)


def _cache() -> Any:
    from guardpool.cli import cache as command

    return command
