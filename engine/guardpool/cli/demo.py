"""`guardpool demo`: the sample guard, its policy and its traffic, labelled on worker processes, shown as tables.

What the guard asks is answered from the table of replies that ships with it. Then a gateway's log of such traffic is replayed:
its findings, and where the decisions are.

`guardpool demo --write DIR` labels nothing. It writes the same things as files, with the commands that label them.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from guardpool import samples
from guardpool.backends import Replies
from guardpool.batch.files import FileError
from guardpool.batch.jobline import job_line
from guardpool.batch.pump import Pump
from guardpool.batch.signals import Signals, Stopped
from guardpool.cli import report
from guardpool.cli.backends import answers_in_words
from guardpool.cli.progress import Display, LogBuffer, State
from guardpool.cli.render import make_console, safe, show_rate, show_seconds, show_tags
from guardpool.cli.replay import agreement_line, print_findings
from guardpool.cli.tables import Table
from guardpool.guard import Guard
from guardpool.jobs import Op, Prepared
from guardpool.labels import Labels, ResourceLabel, ResponseLabel
from guardpool.limits import Limits
from guardpool.outcomes import Outcome, Status
from guardpool.plurals import number_of
from guardpool.pool import GuardPool
from guardpool.printable import escaped
from guardpool.recordings import read
from guardpool.replaying import replay
from guardpool.report.page import JinjaMissing
from guardpool.stats import ToolStats
from guardpool.submit.payload import encode_job

if TYPE_CHECKING:
    from rich.console import Console

_NAME = "github"
_PORTION_JOBS = 256
# Examples are looked for among the first jobs only, so that nothing has to be remembered of the others.
_LOOKED_AT = 400
_LEVELS = "merged approved unapproved none"
_EXAMPLES = {Op.LABEL_RESOURCE.value: 6, Op.LABEL_RESPONSE.value: 4}

# The files of `--write`.
_GUARD, _POLICY, _JOBS, _COMMANDS = "github_guard.wasm", "policy.json", "jobs.jsonl", "commands.sh"
_LOG, _REPLIES = "rpc-messages.jsonl", "replies.jsonl"
_OUTCOMES = "outcomes.jsonl"  # written by the commands
_DECISIONS = "decisions.jsonl"
_MOST_REPLAYED_CALLS = 200
_ABOUT_REPLIES = (
    "The sample guard asks its backend which repositories are public: replies.jsonl",
    "holds the answers. Without --backend it takes repositories for private, and",
    "about 6 of 10 labels differ.",
)


def run(count: int, workers: int, engine: str, limits: Limits) -> int:
    """Label `count` sample jobs on `workers` workers, with that engine, and show what came out."""
    replies = Replies(samples.replies())
    guard = Guard.from_file(samples.GUARD, name=_NAME, policy=samples.POLICY, backend=replies)
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        logs = LogBuffer()
        logs.install("error")
        stack.callback(logs.uninstall)
        display = Display(bar=True, logs=logs)
        stack.callback(display.close)
        console = make_console()
        try:
            with GuardPool([guard], workers=workers, limits=limits, log_level="error", engine=engine) as pool:
                _print_setting(console, guard, pool, workers, len(replies), display.elapsed_s)
                source, sink = _SampleJobs(count), _Examples()
                pump = Pump(pool.stream(False), source, sink, kill=pool.kill, timeout_s=limits.timeout_s)
                display.begin()
                pump.run(signals, lambda pump: display.update(State(pump.taken, pump.counts, pump.taken / count)))
                elapsed_s = display.elapsed_s
                display.close()
                asked = pool.stats().backend.get(_NAME, {})
        except Stopped as stopped:
            return stopped.exit_status
    _print_outcomes(console, pump, asked, elapsed_s)
    _print_examples(console, sink, source)
    _replay(console, min(count, _MOST_REPLAYED_CALLS), engine, limits)
    console.print("Your own recordings and guards: see guardpool replay --help, and for jobs guardpool label --help")
    return 0


def _replay(console: Console, calls: int, engine: str, limits: Limits) -> None:
    """Replay a sample recording of so many calls in a new folder for temporary files, which stays."""
    folder = Path(tempfile.mkdtemp(prefix="guardpool-demo-"))
    log, decisions = folder / _LOG, folder / _DECISIONS
    log.write_text("".join(f"{line}\n" for line in samples.recording(calls)))
    guard = Guard.from_file(samples.GUARD, name=_NAME, policy=samples.POLICY)
    console.print(safe(f"A gateway's log of {calls} such {'call' if calls == 1 else 'calls'}, replayed", style="bold"))
    with (
        replay(read(log), [guard], engine=engine, limits=limits, log_level="off") as replayed,
        decisions.open("xb") as out,
    ):
        os.fchmod(out.fileno(), 0o600)
        out.writelines(record.to_line() for record in replayed)
    console.print(safe(agreement_line(replayed.summary), 1000), soft_wrap=True)
    print_findings(console, replayed.summary)
    console.print()
    console.print(safe(f"The log and the decisions are in {folder}", 1000), soft_wrap=True)
    console.print(safe(f"A report on them: {_report(decisions)}", 1000), soft_wrap=True)


def _report(decisions: Path) -> Path:
    """Write a report beside the decisions: a page, or Markdown where the extra for pages is not installed."""
    page = decisions.with_name("report.html")
    asked = report.Options(str(decisions), str(page), None, None, show_data=False, redact=False, progress=False)
    try:
        report.run(asked)
    except JinjaMissing:
        page = decisions.with_name("report.md")
        report.run(replace(asked, out=str(page)))
    return page


def write(directory: str, count: int) -> int:
    """Write the sample guard, its policy and `count` sample jobs to `directory`, and print the commands that label them.

    Raises:
        FileError: one of the files exists already or cannot be written; the message names it. No file was written.
    """
    folder = Path(directory)
    files = {
        _GUARD: [samples.GUARD.read_bytes()],
        _POLICY: [msgspec.json.format(msgspec.json.encode(samples.POLICY)), b"\n"],
        _JOBS: map(job_line, samples.jobs(count)),
        _REPLIES: (line.encode() + b"\n" for line in samples.replies()),
        _LOG: (line.encode() + b"\n" for line in samples.recording(max(1, count // 10))),
        _COMMANDS: [_script().encode()],
    }
    try:
        if folder.exists() and not folder.is_dir():
            raise FileError(f"{folder}: the sample files cannot be written: it is not a folder")
        folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in (*files, _OUTCOMES) if os.path.lexists(folder / name)]
        if there:
            raise _exist(folder, there)
        _write_new(folder, files)
    except OSError as error:
        raise FileError.of(str(error.filename or folder), "the sample files cannot be written", error) from error
    print(escaped(f"{count:,} sample jobs, the sample guard and its policy are in {directory}. Label them:"))
    print()
    for line in _command_lines(f"./{directory}" if directory.startswith("-") else directory):
        print(f"  {escaped(line)}")
    print()
    print(escaped(f"{folder / _COMMANDS} runs the same commands."))
    print(escaped(f"{folder / _LOG} is a gateway's log, for guardpool replay and import."))
    print("\n".join(_ABOUT_REPLIES))
    return 0


def _write_new(folder: Path, files: dict[str, Iterable[bytes]]) -> None:
    """Write files that do not exist yet: all of them, or none."""
    written: list[Path] = []
    try:
        for name, pieces in files.items():
            path = folder / name
            try:
                file = path.open("xb")
            except FileExistsError:  # it came after the look
                raise _exist(folder, [name]) from None
            written.append(path)
            with file:
                file.writelines(pieces)
    except BaseException:  # a second try must not find half of the first
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _exist(folder: Path, names: list[str]) -> FileError:
    if len(names) == 1:
        which, it, them = f"{folder / names[0]}:", "exists", "it"
    else:
        which, it, them = f"{folder}: {', '.join(names)}", "exist", "them"
    return FileError(
        f"{which} {it} already, and nothing was written: remove {them}, or name another folder after --write"
    )


def _command_lines(folder: str) -> list[str]:
    """The lines of the commands, for a shell in whose current folder `folder` means that of the files."""

    def quoted(name: str, before: str = "") -> str:
        return shlex.quote(before + os.path.join(folder, name))

    guard, policy, replies = (quoted(name, f"{_NAME}=") for name in (_GUARD, _POLICY, _REPLIES))
    return [
        f"guardpool inspect {quoted(_GUARD)}",
        f"guardpool label {quoted(_JOBS)} -o {quoted(_OUTCOMES)} \\",
        f"    -g {guard} -p {policy} \\",
        f"    --backend {replies}",
        f"head -n 3 {quoted(_OUTCOMES)}",
    ]


def _script() -> str:
    about = ("Labels the sample jobs beside this file, which `guardpool demo --write` wrote.", *_ABOUT_REPLIES)
    lines = [
        "#!/bin/sh",
        *(f"# {line}" for line in about),
        'cd "$(dirname "$0")" || exit',
        "set -ex",
        *_command_lines(""),
    ]
    return "".join(f"{line}\n" for line in lines)


class _SampleJobs:
    """Sample jobs as a source, made while they are labelled."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._stopped = False
        self.tools: dict[int, str] = {}

    def batches(self) -> Iterator[list[Prepared]]:
        """Portions of encoded jobs."""
        portion: list[Prepared] = []
        for number, job in enumerate(samples.jobs(self._count)):
            if self._stopped:
                return
            if number < _LOOKED_AT:
                self.tools[number] = job.tool_name
            portion.append(Prepared(number, None, job.op, job.tool_name, encode_job(job)))
            if len(portion) == _PORTION_JOBS:
                yield portion
                portion = []
        if portion:
            yield portion

    def stop(self) -> None:
        """Make no more jobs."""
        self._stopped = True


class _Examples:
    """A sink that keeps the first outcomes and forgets the rest."""

    may_block = False

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes."""
        self.outcomes += [outcome for outcome in outcomes if outcome.id < _LOOKED_AT and outcome.status is Status.OK]

    def flush(self) -> None:
        """Nothing is held back."""


def _print_setting(console: Console, guard: Guard, pool: GuardPool, workers: int, replies: int, ready_s: float) -> None:
    agent = pool.agents[_NAME]
    who = "1 worker was" if workers == 1 else f"{workers} workers were"
    ready = f"{who} ready in {show_seconds(ready_s)} with {pool.stats().engine}"
    console.print(safe(f"{ready}; each holds", 1000))
    console.print(safe(str(guard.path), 1000), soft_wrap=True)
    console.print(safe(f"The agent's labels: {_tags(agent.secrecy, agent.integrity)}; mode: {agent.mode}", 1000))
    console.print(f"The guard asks which repositories are public. A table of {replies} recorded replies answers it.")


def _print_outcomes(console: Console, pump: Pump, asked: Mapping[str, ToolStats], elapsed_s: float) -> None:
    rate = show_rate(pump.taken / elapsed_s if elapsed_s else 0.0)
    console.print()
    console.print(safe(f"{number_of(pump.taken, 'job')} in {show_seconds(elapsed_s)}: {rate}", style="bold"))
    table = Table("outcome", "jobs>", "share>")
    for status in Status:
        if pump.counts[status]:
            share = f"{100 * pump.counts[status] / pump.taken:.1f} %"
            table.add_row(safe(status), f"{pump.counts[status]:,}", share)
    table.print(console)
    if asked:
        console.print(f"The guard asked its backend {answers_in_words(asked.values())}")
    console.print()


def _print_examples(console: Console, sink: _Examples, source: _SampleJobs) -> None:
    """Some labels, no tool twice."""
    for op, wanted in _EXAMPLES.items():
        # Integrity and secrecy share a column: beside the other two there is no room at 80 columns for both.
        table = Table("tool", "what", "integrity; secrecy")
        seen: set[str] = set()
        for outcome in sorted(sink.outcomes, key=lambda outcome: int(outcome.id)):
            tool = source.tools[outcome.id]
            labels = _labels(outcome)
            if outcome.op == op and tool not in seen and labels is not None and len(seen) < wanted:
                seen.add(tool)
                row = (tool, labels.description, f"{_strongest(labels.integrity)}; {show_tags(labels.secrecy)}")
                table.add_row(*(safe(cell, 160) for cell in row))
        if not table.row_count:
            continue
        console.print(safe(f"Some labels of {op}", style="bold"))
        table.print(console)
        console.print()


def _labels(outcome: Outcome) -> Labels | None:
    """The labels to show of an outcome: a resource's, or those of a response's first item."""
    label = outcome.label
    if isinstance(label, ResourceLabel):
        return Labels(f"{label.operation} {label.description}", label.secrecy, label.integrity)
    if isinstance(label, ResponseLabel) and label.labeled_paths:
        first = label.labeled_paths[0]
        more = f", the first of {len(label.labeled_paths)}" if len(label.labeled_paths) > 1 else ""
        return Labels(f"{first.description}{more}", first.secrecy, first.integrity)
    return None


def _strongest(integrity: frozenset[str]) -> str:
    """The sample guard's integrity tags include all weaker ones; `approved:o/r +2` tells as much in less space."""
    if not integrity:
        return "-"
    strongest = min(integrity, key=lambda tag: (_LEVELS.find(tag.partition(":")[0]), tag))
    return f"{strongest} +{len(integrity) - 1}" if len(integrity) > 1 else strongest


def _tags(secrecy: frozenset[str], integrity: frozenset[str]) -> str:
    return f"secrecy {show_tags(secrecy)}, integrity {show_tags(integrity)}"
