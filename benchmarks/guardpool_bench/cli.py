"""The command line of the suite: `python -m guardpool_bench`, `guardpool bench`, `make bench`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardpool import Guard, GuardPoolError, samples
from guardpool.batch.files import FileError
from guardpool.machine.engines import ENGINE_WORDS, choose_engine
from guardpool.printable import printable
from guardpool_bench import results
from guardpool_bench.status_line import StatusLine

if TYPE_CHECKING:
    from guardpool_bench.results import Report
    from guardpool_bench.suite import Plan

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_SLOWER, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = make_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as end:  # argparse has printed the usage and the error
        return int(end.code or 0)
    try:
        return _run(parser, options)
    except GuardPoolError as error:
        print(f"guardpool bench: {printable(str(error), 2000)}", file=sys.stderr)
        return getattr(error, "exit_status_of_command", EXIT_FAILED)
    except BrokenPipeError:
        return EXIT_FAILED


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="guardpool bench",
        description="Measure guardpool on this machine, beside bare loops and other pools: with the sample guard and its "
        "jobs, or with a guard and jobs of your own.",
        epilog="Exit status: 0 measured, whatever the result; 1 could not be measured; 2 usage; 3 with --fail-on-slower, when "
        "something got slower; 130 interrupted, with the figures so far.",
    )
    add = parser.add_argument
    add("guard", nargs="?", metavar="GUARD.wasm", help="the guard to measure; default: the sample guard")
    add("-p", "--policy", metavar="POLICY.json", help="its policy")
    add("--jobs", metavar="FILE", help="its jobs, one a line as for guardpool label; default: the sample jobs")
    add(
        "--only",
        action="append",
        default=[],
        metavar="CASE",
        help="measure this case only; may be given many times; see --list",
    )
    add("--profile", action="store_true", help="show where a microsecond goes; the same as --only profile")
    add("--quick", action="store_true", help="small runs, about a minute: tells whether it works, not how quick it is")
    add("--full", action="store_true", help="also a file of a million jobs through guardpool label")
    add("--runs", type=_count, metavar="N", help="runs of everything that is repeated  [default: 5; --quick: 3]")
    add(
        "--engine",
        choices=ENGINE_WORDS,
        default="auto",
        help="the WebAssembly engine of everything that is measured; the case `engines` measures both  [default: auto]",
    )
    add("--workers", "-w", type=_count, metavar="N", help="workers, and bare loops  [default: one a core]")
    add("--no-peers", action="store_true", help="leave the other pools out")
    add("--out", metavar="DIR", help="write report.md, report.json and the plots there")
    add("--json", metavar="FILE", help="write the report there as JSON; - is standard output, instead of the tables")
    add("--compare", metavar="OLD.json", help="show what got slower since that report")
    add("--load", metavar="NEW.json", help="measure nothing: take the figures of that report")
    add("--fail-on-slower", action="store_true", help="with --compare: exit with 3 when something got slower")
    add("--list", action="store_true", help="list the cases and exit")
    add("--quiet", "-q", action="store_true", help="no status line on stderr")
    return parser


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to 1000, not {text!r}")
    return number


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.list:
        from guardpool_bench.cases import CASES

        for case in CASES:
            print(f"{case.name:12} {case.title}")
        return EXIT_OK
    problem = _usage_problem(options)
    if problem:
        parser.print_usage(sys.stderr)
        print(f"guardpool bench: {problem}", file=sys.stderr)
        return EXIT_USAGE
    old = results.load_report(options.compare) if options.compare else None
    folder = _folder(options.out) if options.out else None
    status = EXIT_OK
    if options.load:
        report = results.load_report(options.load)
    else:
        report, status = _measure(options)
    slower = _publish(options, report, old, folder)
    return EXIT_SLOWER if slower and options.fail_on_slower and status == EXIT_OK else status


def _usage_problem(options: argparse.Namespace) -> str | None:
    from guardpool_bench.cases import NAMES

    unknown = [name for name in _only(options) if name not in NAMES]
    if unknown:
        return f"--only {unknown[0]}: no such case; the cases are {', '.join(NAMES)}"
    if options.guard and not options.policy:
        return f"{options.guard}: a guard needs a policy: add -p POLICY.json"
    if options.policy and not options.guard:
        return "--policy without a guard: name its GUARD.wasm as well"
    if options.fail_on_slower and not options.compare:
        return "--fail-on-slower needs --compare OLD.json"
    return None


def _only(options: argparse.Namespace) -> list[str]:
    named = [name for each in options.only for name in each.split(",") if name]
    return [*named, "profile"] if options.profile else named


def _folder(path: str) -> Path:
    """The folder to write to, made now: if it cannot be used, the run ends before anything is measured."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".guardpool-bench"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FileError.of(path, "cannot be written", error) from error
    return folder


def _measure(options: argparse.Namespace) -> tuple[Report, int]:
    from guardpool_bench.suite import Run

    plan = _plan(options)
    with StatusLine(len(plan.cases), quiet=options.quiet) as status_line:
        run = Run(plan, status_line)
        try:
            run.run()
        except KeyboardInterrupt:
            status_line.say("interrupted: what follows is what was measured so far")
            return run.report(), EXIT_INTERRUPTED
        return run.report(), EXIT_FAILED if run.failed else EXIT_OK


def _plan(options: argparse.Namespace) -> Plan:
    from guardpool_bench import jobsets
    from guardpool_bench.cases import NAMES
    from guardpool_bench.context import QUICK, Scale
    from guardpool_bench.suite import Plan

    only = _only(options)
    scale = QUICK if options.quick else Scale()
    if options.runs:
        scale = dataclasses.replace(scale, runs=options.runs)
    guard = _guard(options)
    jobs = jobsets.read_jobs(options.jobs) if options.jobs else jobsets.sample_jobs()
    workers = options.workers or len(os.sched_getaffinity(0))
    engine = choose_engine(options.engine)
    return Plan(
        guard=guard,
        jobs=jobs,
        jobs_name=options.jobs or "the samples",
        cases=[name for name in NAMES if not only or name in only],
        workers=workers,
        engine=engine.name,
        scale=scale,
        with_peers=not options.no_peers,
        full=options.full,
        options={
            "engine": engine.version,
            "workers": workers,
            "runs": scale.runs,
            "quick": options.quick,
            "full": options.full,
            "peers": not options.no_peers,
            "cases": ",".join(only) or "all",
        },
    )


def _guard(options: argparse.Namespace) -> Guard:
    if not options.guard:
        return Guard.from_file(samples.GUARD, name="samples", policy=samples.POLICY)
    from guardpool.cli.files import load_guards

    return load_guards([f"subject={options.guard}"], [f"subject={options.policy}"])[0]


def _publish(options: argparse.Namespace, report: Report, old: Report | None, folder: Path | None) -> bool:
    """Print and write the report as asked for; returns whether something got slower."""
    from guardpool_bench.compare import compare
    from guardpool_bench.report import comparison_text, to_markdown

    if options.json and options.json != "-":
        _write(Path(options.json), results.report_to_json(report))
    plots = _draw(report, folder) if folder is not None else []
    text = to_markdown(report)
    slower = False
    if old is not None:
        comparison = compare(old, report)
        slower = bool(comparison.slower())
        text += "\n" + comparison_text(comparison, options.compare) + "\n"
    if folder is not None:
        _write(folder / "report.json", results.report_to_json(report))
        _write(folder / "report.md", to_markdown(report, plots).encode())
    if options.json == "-":
        sys.stdout.buffer.write(results.report_to_json(report))
    else:
        print(text)
        if folder is not None:
            print(f"Written to {folder}: report.md, report.json{''.join(f', {name}' for name in plots)}")
    sys.stdout.flush()
    return slower


def _draw(report: Report, folder: Path) -> list[str]:
    if importlib.util.find_spec("matplotlib") is None:
        print("guardpool bench: no plots without matplotlib: pip install 'guardpool[bench]'", file=sys.stderr)
        return []
    from guardpool_bench.plots import draw_all

    return draw_all(report, folder)


def _write(path: Path, data: Any) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise FileError.of(str(path), "cannot be written", error) from error
