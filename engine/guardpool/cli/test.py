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
from guardpool.checks.corpus import Corpus, CorpusError
from guardpool.checks.coverage import Coverage
from guardpool.checks.junit import JUnitCase, JUnitSuite, to_xml
from guardpool.checks.run_corpus import CorpusResult, Result
from guardpool.cli.backends import Backends
from guardpool.cli.files import load_guards, name_the_file, tell_taken_off
from guardpool.cli.findings import exit_status
from guardpool.cli.outputs import private_outputs, tell_of_update_in_ci
from guardpool.cli.render import UsageError, complain, make_console, safe
from guardpool.cli.tables import Table
from guardpool.errors import GuardPoolError
from guardpool.guard import Guard
from guardpool.limits import Limits
from guardpool.plurals import number_of

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN_DIFFERENCES = 10
_SHOWN_BROKEN = 20


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
    guards = load_guards(options.guards, options.policies, need_policy=False, as_in_gateway=True)
    tell_taken_off(guards)
    corpora = [_load(path, guards) for path in options.corpora]
    named = [each.partition("=")[2] for each in (*options.guards, *options.policies)]
    paths = {"the results": options.junit, "the coverage": options.coverage}
    junit, facts = private_outputs(paths, [*options.corpora, *named], (), stack)
    setup = run_corpus.Setup(
        guards, backends.by_name, options.rules, options.mode, options.workers, options.limits, options.engine
    )
    console = make_console()
    before, done = [], []
    for result in _results(corpora, setup, guards):
        before.append(result)
        done.append(_rewritten(result) if options.update else result)
        _print_corpus(console, result, done[-1])
    coverage = Coverage(each for result in done for each in result.results)
    if junit is not None:
        _write(junit, _junit(done))
    if facts is not None:
        _write(facts, msgspec.json.format(msgspec.json.encode(coverage.to_dict()), indent=2) + b"\n")
    _print_coverage(console, coverage)
    return _verdict(console, before, done, is_update=options.update)


def _load(path: str, guards: Sequence[Guard]) -> Corpus:
    """A corpus, whose guards all have a policy.

    Raises:
        CorpusError: it cannot be read.
        UsageError: it is not a corpus, or neither it nor the command line has a policy for a guard.
    """
    try:
        corpus = corpora_of.load(path)
        for guard in guards:
            run_corpus.policy_for(corpus, guard)
    except CorpusError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise UsageError(str(error)) from error
    return corpus


def _results(corpora: Iterable[Corpus], setup: run_corpus.Setup, guards: Sequence[Guard]) -> Iterable[CorpusResult]:
    try:
        yield from run_corpus.run(corpora, setup)
    except GuardPoolError as error:
        raise name_the_file(error, guards) from error


def _write(output: Output, data: bytes) -> None:
    output.begin()
    output.write(data)
    output.finish()


def _rewritten(result: CorpusResult) -> CorpusResult:
    """Write the corpus again with what its cases give, if that is something else; what its cases come to then."""
    updated = result.updated()
    if updated is None:
        return result
    text, after = updated
    output = Output(result.corpus.path, "the corpus")
    try:
        _write(output, text)
    finally:
        output.close()
    tell_of_update_in_ci("--update", result.corpus.path)
    return after


def _print_corpus(console: Console, before: CorpusResult, after: CorpusResult) -> None:
    """Print what is not as expected. `after`: what it comes to once the corpus was updated, else the same."""
    not_run = (*before.corpus.broken, *before.not_run)
    for broken in not_run[:_SHOWN_BROKEN]:
        complain(f"{broken.place}: {broken.why}")
    if len(not_run) > _SHOWN_BROKEN:
        complain(f"{before.corpus.path}: and {len(not_run) - _SHOWN_BROKEN:,} more that are not run")
    for line in before.agent:
        console.print(safe(f"FAIL {before.corpus.path}: {line}", 2000, "bold red"), soft_wrap=True)
    for failed, now in zip(before.results, after.results):
        if failed.passed:
            continue
        is_mended = now.passed
        word, style = ("CHANGED", "bold yellow") if is_mended else ("FAIL", "bold red")
        differences = failed.differences if is_mended else now.differences
        case = failed.case
        console.print(safe(f"{word} {case.place}: {case.name} ({case.tool_name})", 1000, style), soft_wrap=True)
        for line in differences[:_SHOWN_DIFFERENCES]:
            console.print(safe(f"    {line}", 2000), soft_wrap=True)
        more = len(differences) - _SHOWN_DIFFERENCES
        if more > 0:
            console.print(f"    and {more} more")


def _print_coverage(console: Console, coverage: Coverage) -> None:
    table = Table("coverage", "")
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
        table.add_row(name, safe(met + more + (f"; never: {', '.join(never)}" if never else ""), 1000))
    console.print()
    table.print(console)
    console.print()


def _verdict(console: Console, before: Sequence[CorpusResult], done: Sequence[CorpusResult], *, is_update: bool) -> int:
    """Say what the cases come to. `before`: the same before the corpora were updated."""
    pairs = [pair for one, other in zip(before, done) for pair in zip(one.results, other.results)]
    failed = [now for _was, now in pairs if not now.passed]
    updated = [
        now for was, now in pairs if now.passed and (not was.passed or (now.case.expect and not was.case.expect))
    ]
    empty = [now for _was, now in pairs if not now.case.expect]
    broken = sum(len(result.corpus.broken) + len(result.not_run) for result in done)
    agents = sum(len(result.agent) for result in done)
    without_label = [now for was, now in pairs if not was.case.expect and now.failures]
    passed = len(pairs) - len(failed) - len(updated) - len(empty)
    is_all_old = all(was.case.expect for was, _now in pairs)
    words = [f"{passed:,} passed"] if passed or is_all_old else []
    left = len(failed) + agents
    if left:
        words.append(f"{left:,} {'still fail' if is_update else 'failed'}")
    if updated:
        words.append(f"{len(updated):,} expect now what they give")
    if empty:
        why = "there is nothing that could be written" if is_update else "--update writes what they give"
        words.append(f"{len(empty):,} expect nothing: {why}")
    if without_label:
        words.append(f"{len(without_label):,} of them without a label")
    if broken:
        words.append(f"{broken:,} not run")
    style = "bold red" if left else "bold yellow" if broken or empty else "bold green"
    console.print(safe(f"{number_of(len(pairs), 'case')}: {', '.join(words)}", 500, style))
    return exit_status(left > 0, not (broken or without_label or empty))


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
