"""What the command line of `guardpool label` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import (
    add_backends,
    add_engine,
    add_guards,
    add_keep_labels,
    add_log_level,
    add_max_questions,
    add_progress,
    add_servers,
    add_workers,
)
from guardpool.cli.arguments.parser import CannotParse, Commands, Parser, add_command, as_typed, count
from guardpool.cli.limit_options import add_limits, limits_of, whole_number

ISOLATION_WORDS = ("none", "job")
ON_BACKEND_FAILURE = ("label", "withhold")

_DESCRIPTION = """\
Label a file of jobs: one outcome for each, always."""

_EPILOG = """\
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


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "label",
        _run,
        "label a file of jobs",
        _DESCRIPTION,
        epilog=_EPILOG,
        usage="guardpool label JOBS... -o OUT -g NAME=FILE.wasm -p NAME=POLICY.json\n                       [options]",
    )
    add = parser.add_argument
    add("jobs", metavar="JOBS", nargs="+", help="files of jobs, folders, globs; - is standard input")
    add(
        *("-o", "--out"),
        metavar="OUT",
        help="outcomes, in the format of its ending; - is standard output (needed unless there is --prove)",
    )
    _add_guards(parser)
    add_workers(parser)
    add_engine(parser)
    _add_labelling(parser)
    _add_outcomes(parser)
    _add_prove(parser)
    add(
        "--ray",
        metavar="ADDRESS",
        help="label on every node of this Ray cluster: HOST:PORT, or auto for the one of RAY_ADDRESS or of ray start on this "
        "machine; JOBS and OUT may then be URLs that fsspec knows, and outcomes come in no order",
    )
    add_progress(parser, "a bar and a table")
    add_log_level(parser, "warning")
    add(
        "--log-file",
        metavar="FILE",
        help="write log lines and warnings there, one JSON object a line, and not to stderr",
    )
    add_limits(parser)


def _add_guards(parser: Parser) -> None:
    add_guards(parser, "NAME", "a guard", "the policy of guard NAME")
    _add_backends(parser)


def _add_backends(parser: Parser) -> None:
    add = parser.add_argument
    add_backends(
        parser,
        "NAME",
        "who answers guard NAME: a file of replies, mcp:COMMAND or mcp:URL (a live MCP server), python:MODULE:FUNCTION, "
        "or none",
    )
    add_servers(parser, "NAME=", action="append", default=[])
    add_max_questions(parser)
    add("--record-backend", metavar="FILE", help="write the answers of the backend there, as a file of replies")
    add(
        "--on-backend-failure",
        choices=ON_BACKEND_FAILURE,
        default="label",
        metavar="WHAT",
        help="what a job becomes if its guard asked in vain: label (the guard decides, the default), or withhold (no label)",
    )


def _add_labelling(parser: Parser) -> None:
    add = parser.add_argument
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
    add_keep_labels(parser)
    add("--dedupe", action="store_true", help="label equal jobs once")
    add(
        "--deterministic",
        action="store_true",
        help="give guards clocks and random bytes that follow from the job: its time, else 0, and its input",
    )


def _add_outcomes(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--no-timing",
        dest="timing",
        action="store_false",
        help="leave out duration_us, to compare runs (with guards that keep answers, add -w 1)",
    )
    add("--fail-on-error", action="store_true", help="exit with 3 when any outcome is not ok")
    add("--max-failed", metavar="N|N%", help="exit with 3 when more outcomes are not ok, e.g. 10, 0.5%%")
    add("--stats", metavar="FILE", help="write the pool's statistics and a hash over all labels there, as JSON")


def _add_prove(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--prove",
        metavar="N",
        type=count,
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


def _run(options: argparse.Namespace) -> int:
    needed = {"-o/--out": options.out or options.prove, "-g/--guard": options.guards}
    missing = ", ".join(name for name, given in needed.items() if not given)
    if missing:
        raise CannotParse(f"the following arguments are required: {missing}: see guardpool label --help")
    if options.ray is not None:
        return _run_on_ray(options)
    from guardpool.cli import label as command

    return command.run(as_typed(command.Options, options, limits=limits_of(options)))


def _run_on_ray(options: argparse.Namespace) -> int:
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
        "--backend": options.backends,
        "--backend-allow": options.backend_allow,
        "--backend-env": options.backend_env,
        "--backend-token": options.backend_token,
        "--max-questions": options.max_questions,
        "--record-backend": options.record_backend,
    }
    command.refuse([option for option, value in given.items() if value])
    pool = {
        "workers": options.workers,
        "limits": limits_of(options),
        "engine": options.engine,
        "isolation": options.isolation,
        "deterministic": options.deterministic,
        "log_level": options.log_level,
    }
    return command.run(as_typed(command.Options, options, address=options.ray, pool=pool))
