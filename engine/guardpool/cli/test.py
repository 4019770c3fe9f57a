"""`guardpool test`: corpora of a guard, run and compared with what they expect; or made to expect what they give."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from guardpool.batch.files import Output
from guardpool.batch.signals import Signals, Stopped
from guardpool.checks import corpus as corpora_of, run_corpus
from guardpool.checks.corpus import Corpus
from guardpool.checks.coverage import Coverage
from guardpool.checks.junit import JUnitCase, JUnitSuite, to_xml
from guardpool.checks.run_corpus import CorpusResult, Result
from guardpool.cli.backends import Backends
from guardpool.cli.files import load_guards, name_the_file
from guardpool.cli.findings import exit_status
from guardpool.cli.render import complain, make_console, safe
from guardpool.cli.tables import Table
from guardpool.errors import GuardPoolError
from guardpool.guard import Guard
from guardpool.limits import Limits
from guardpool.plurals import number_of

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN_DIFFERENCES = 10


@dataclass(frozen=True)
class Options:
    """The command line of `test`, as typed."""

    corpora: tuple[str, ...]
    guards: tuple[str, ...]
    policies: tuple[str, ...]
    backends: tuple[str, ...]
    rules: str
    mode: str | None
    junit: str | None
    coverage: str | None
    update: bool
    workers: int | None
    engine: str
    limits: Limits


def run(options: Options) -> int:
    """Run the corpora and print what is not as expected; see `guardpool test --help` for what the exit status tells.

    Raises:
        GuardPoolError: a file or a guard cannot be used; the message names it.
    """
    with ExitStack() as stack:
        stack.enter_context(Signals())
        try:
            return _run(options, stack)
        except Stopped as stopped:
            complain("stopped: corpora that were not finished are as they were")
            return stopped.exit_status


def _run(options: Options, stack: ExitStack) -> int:
    with redirect_stdout(sys.stderr):  # what a backend's module prints is no part of the answer
        backends = Backends(options.backends, timeout_s=options.limits.backend_timeout_s)
        stack.callback(backends.close)
        backends.connect()
    guards = load_guards(options.guards, options.policies, need_policy=False)
    corpora = [corpora_of.load(path) for path in options.corpora]
    outputs = {name: _open(path, what, options, stack) for name, path, what in _outputs_of(options)}
    setup = run_corpus.Setup(
        guards, backends.by_name, options.rules, options.mode, options.workers, options.limits, options.engine
    )
    console = make_console()
    done = []
    for result in _results(corpora, setup, guards):
        done.append(result)
        _print_corpus(console, result, is_update=options.update)
        if options.update:
            _rewrite(result)
    coverage = Coverage(each for result in done for each in result.results)
    for name, output in outputs.items():
        output.begin()
        facts = coverage.to_dict()
        data = _junit(done) if name == "junit" else msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"
        output.write(data)
        output.finish()
    _print_coverage(console, coverage)
    return _verdict(console, done, is_update=options.update)


def _results(corpora: Iterable[Corpus], setup: run_corpus.Setup, guards: Sequence[Guard]) -> Iterable[CorpusResult]:
    try:
        yield from run_corpus.run(corpora, setup)
    except GuardPoolError as error:
        raise name_the_file(error, guards) from error


def _outputs_of(options: Options) -> list[tuple[str, str, str]]:
    wanted = (("junit", options.junit, "the results"), ("coverage", options.coverage, "the coverage"))
    return [(name, path, what) for name, path, what in wanted if path is not None]


def _open(path: str, what: str, options: Options, stack: ExitStack) -> Output:
    output = Output(path, what, is_private=True)
    stack.callback(output.close)
    named = (each.partition("=")[2] for each in (*options.guards, *options.policies))
    for other in (*options.corpora, *named):
        output.refuse(os.stat(other), other)
    return output


def _rewrite(result: CorpusResult) -> None:
    """Write the corpus again with what its cases give, if that is something else."""
    changed = {
        each.case.at: golden
        for each in result.results
        if (each.differences or not each.case.expect) and (golden := each.golden())
    }
    if not changed:
        return
    output = Output(result.corpus.path, "the corpus")
    try:
        output.begin()
        output.write(result.corpus.rewritten(changed))
        output.finish()
    finally:
        output.close()


def _print_corpus(console: Console, result: CorpusResult, *, is_update: bool) -> None:
    for broken in (*result.corpus.broken, *result.not_run):
        complain(f"{broken.place}: {broken.why}")
    for line in result.agent:
        console.print(safe(f"FAIL {result.corpus.path}: {line}", 2000, "bold red"), soft_wrap=True)
    for failed in result.failed:
        word, style = ("CHANGED", "bold yellow") if is_update and failed.golden() else ("FAIL", "bold red")
        case = failed.case
        console.print(safe(f"{word} {case.place}: {case.name} ({case.tool_name})", 1000, style), soft_wrap=True)
        for line in failed.differences[:_SHOWN_DIFFERENCES]:
            console.print(safe(f"    {line}", 2000), soft_wrap=True)
        more = len(failed.differences) - _SHOWN_DIFFERENCES
        if more > 0:
            console.print(f"    and {more} more")


def _print_coverage(console: Console, coverage: Coverage) -> None:
    table = Table("coverage", "", "")
    rows = {
        "tools": coverage.tools,
        "operations": coverage.operations,
        "levels": coverage.levels,
        "rules": coverage.rules,
        "verdicts": coverage.verdicts,
    }
    for name, counts in rows.items():
        met = ", ".join(f"{word} {count:,}" for word, count in counts.most_common(12)) or "none"
        more = f" and {len(counts) - 12} more" if len(counts) > 12 else ""
        never = coverage.never.get(name)
        table.add_row(name, safe(met + more, 1000), safe(f"never: {', '.join(never)}" if never else "", 200, "yellow"))
    console.print()
    table.print(console)
    console.print()


def _verdict(console: Console, done: Sequence[CorpusResult], *, is_update: bool) -> int:
    results = [each for result in done for each in result.results]
    failed = [each for each in results if not each.passed]
    updated = [each for each in failed if is_update and each.golden()]
    empty = [each for each in results if not each.case.expect]
    broken = sum(len(result.corpus.broken) + len(result.not_run) for result in done)
    agents = sum(len(result.agent) for result in done)
    without_label = [each for each in empty if each.failures]
    passed = len(results) - len(failed) - len(empty)
    words = [f"{passed:,} passed"] if passed or not empty else []
    left = len(failed) - len(updated) + agents
    if left:
        words.append(f"{left:,} failed")
    if updated:
        words.append(f"{len(updated):,} expect now what they give")
    if empty:
        now = "expect now what they give" if is_update else "expect nothing: --update writes what they give"
        words.append(f"{len(empty):,} {now}")
    if without_label:
        words.append(f"{len(without_label):,} of them without a label")
    if broken:
        words.append(f"{broken:,} not run")
    style = "bold red" if left else "bold yellow" if broken or empty else "bold green"
    console.print(safe(f"{number_of(len(results), 'case')}: {', '.join(words)}", 500, style))
    return exit_status(left > 0, not (broken or without_label or (empty and not is_update)))


def _junit(done: Sequence[CorpusResult]) -> bytes:
    return to_xml([JUnitSuite(_relative(result.corpus.path), _junit_cases(result)) for result in done])


def _junit_cases(result: CorpusResult) -> list[JUnitCase]:
    group = _relative(result.corpus.path)
    cases = [_junit_case(each, group) for each in result.results]
    if result.corpus.agent is not None:
        cases.append(JUnitCase("label_agent", group, result.agent))
    return cases + [
        JUnitCase(broken.place.replace(result.corpus.path, group, 1), group, error=broken.why)
        for broken in (*result.corpus.broken, *result.not_run)
    ]


def _junit_case(result: Result, group: str) -> JUnitCase:
    seconds = sum(each.duration_us for each in (result.resource, result.response) if each is not None) / 1e6
    skipped = None if result.case.expect else "it expects nothing"
    return JUnitCase(result.case.name, group, result.differences, skipped=skipped, seconds=seconds)


def _relative(path: str) -> str:
    """A path without what this machine has before the working directory."""
    relative = os.path.relpath(path)
    return os.path.basename(path) if relative.startswith(os.pardir) else relative
