"""`guardpool import`: recordings in, calls out, and a table of what became of each line."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from guardpool.batch.files import Output
from guardpool.batch.jobline import job_line
from guardpool.batch.signals import Signals, Stopped
from guardpool.cli.files import load_guards, tell_taken_off
from guardpool.cli.outputs import private_outputs
from guardpool.cli.progress import Display, LogBuffer, State
from guardpool.cli.render import UsageError, complain, make_console, safe, show_seconds
from guardpool.cli.tables import Table
from guardpool.decide import split_policy
from guardpool.guard import Guard
from guardpool.limits import Limits
from guardpool.plurals import number_of
from guardpool.printable import printable, terminal_json
from guardpool.recordings import Call, Reader, Tally, UnknownFormat, jobs as recorded_jobs, read
from guardpool.recordings.questions import Questions
from guardpool.recordings.replies import ReplyLines
from guardpool.sizes import MIB

if TYPE_CHECKING:
    from rich.console import Console

EXIT_INCOMPLETE = 3
_PORTION_CALLS = 256
_PORTION_BYTES = 4 * MIB
_TICK_S = 0.1


@dataclass(frozen=True)
class Options:
    """The command line of `import`, as typed."""

    recordings: tuple[str, ...]
    out: str
    tally: str | None
    format: str | None
    replies: str | None
    jobs: str | None
    guards: tuple[str, ...]
    policies: tuple[str, ...]
    limits: Limits
    progress: bool | None


def run(options: Options) -> int:
    """Import recordings; see `guardpool import --help` for what the exit status tells.

    Raises:
        GuardPoolError: an input or an output cannot be used; the message names it.
    """
    guards = load_guards(options.guards, options.policies, as_in_gateway=True)
    tell_taken_off(guards)
    try:
        reader = read(options.recordings, format=options.format)
    except UnknownFormat as error:
        raise UsageError(str(error)) from error
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        stack.callback(reader.close)
        out, tally, table, jobs = outputs = _open_outputs(options, reader, stack)
        assert out is not None
        replies = ReplyLines() if table is not None else None
        started = time.monotonic()
        display = Display(bar=options.progress is not False and not os.isatty(out.fd), logs=LogBuffer())
        stack.callback(display.close)
        questions = None
        calls: Iterable[Call] = reader
        roles: Counter[str] = Counter()
        try:
            if guards:
                questions, calls = _told(reader, guards, options.limits, stack)
            _copy(reader, calls, _Sinks(out, table, replies, jobs), roles, signals, display)
        except Stopped as stopped:
            display.close()
            complain(
                f"stopped: {number_of(sum(roles.values()), 'call')} written to {out.written_path}, whole lines only"
            )
            return stopped.exit_status
        display.close()
        if tally is not None:
            tally.write(msgspec.json.format(msgspec.json.encode(reader.tally.to_dict()), indent=2) + b"\n")
        for each in outputs:
            if each is not None:
                each.finish()
        elapsed_s = time.monotonic() - started
        _print(make_console(stderr=True), reader.tally, roles, replies, questions, elapsed_s)
        if reader.tally.is_complete:
            return 0
        complain("some of it was lost, ambiguous or not understood, as the table says: exit status 3")
        return EXIT_INCOMPLETE


def _open_outputs(options: Options, reader: Reader, stack: ExitStack) -> list[Output | None]:
    """The files for the calls, the tally, the replies and the jobs, begun; none of them is another one, or is read."""
    paths = {
        "the calls": options.out,
        "the tally": options.tally,
        "the replies": options.replies,
        "the jobs": options.jobs,
    }
    named = [each.partition("=")[2] for each in (*options.guards, *options.policies)]
    outputs = private_outputs(paths, [*reader.input_paths, *named], (), stack)
    for each in outputs:
        if each is not None:
            each.begin()
    return outputs


def _told(reader: Reader, guards: list[Guard], limits: Limits, stack: ExitStack) -> tuple[Questions, Iterator[Call]]:
    """The calls, with the guards' own questions told from the agent's: each guard labels the calls of its server again."""
    # Here, because a run without guards needs no engine.
    from guardpool.batch.call_jobs import CallsInOrder
    from guardpool.pool import GuardPool

    servers = {guard.name for guard in guards}

    questions = Questions(servers)
    asking = [
        each.but(
            policy=split_policy(each.policy).policy,
            backend=questions.answer(each.name),
            remember="never",  # each question is told from the agent's calls, also one that was asked before
        )
        for each in guards
    ]
    # A question without an answer is counted, and told once at the end.
    log = logging.getLogger("guardpool.backend")
    stack.callback(log.setLevel, log.level)
    log.setLevel(logging.ERROR)
    pool = stack.enter_context(GuardPool(asking, workers=1, limits=limits, log_level="off"))
    labelling = CallsInOrder(pool)
    stack.callback(labelling.close)
    return questions, (each.call for portion in questions.told(reader, labelling) for each in portion)


class _Sinks(NamedTuple):
    """Where calls and what follows from them is written."""

    calls: Output
    table: Output | None
    replies: ReplyLines | None
    jobs: Output | None


def _copy(
    reader: Reader, calls: Iterable[Call], to: _Sinks, roles: Counter[str], signals: Signals, display: Display
) -> None:
    """Write everything; `roles` counts the calls that are written.

    Raises:
        Stopped: by a signal. Nothing is written while one may interrupt it, so that only whole lines are.
    """
    encode = _for_terminal if os.isatty(to.calls.fd) else Call.to_json
    next_tick = 0.0
    for portion in _portions(calls):
        signals.graceful = True
        to.calls.write(b"".join([encode(call) + b"\n" for call in portion]))
        roles.update(call.role.value for call in portion)
        if to.table is not None and to.replies is not None:
            to.table.write(to.replies.lines(portion))
        if to.jobs is not None:
            to.jobs.write(b"".join(job_line(job) for job in recorded_jobs(portion)))
        if signals.received is not None:
            raise Stopped(signals.received)
        now = time.monotonic()
        if now >= next_tick:
            part = None if not reader.total_bytes else min(1.0, reader.bytes_read / reader.total_bytes)
            display.update(State(reader.tally.calls, {}, part, "calls"))
            next_tick = now + _TICK_S
        # No line is half written while the next portion is read. And an input may be a pipe that stays silent.
        signals.graceful = False


def _portions(calls: Iterable[Call]) -> Iterator[list[Call]]:
    """The calls, some at a time: few enough that they are not much to hold, whatever their size."""
    portion: list[Call] = []
    size = 0
    for call in calls:
        portion.append(call)
        size += len(call.result_json or b"")
        if len(portion) >= _PORTION_CALLS or size >= _PORTION_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _for_terminal(call: Call) -> bytes:
    return terminal_json(call.to_json())


def _print(
    console: Console,
    tally: Tally,
    roles: Counter[str],
    replies: ReplyLines | None,
    questions: Questions | None,
    elapsed_s: float,
) -> None:
    lines = f"{number_of(tally.lines, 'line')}, {tally.in_calls:,} of them in {number_of(tally.calls, 'call')}"
    console.print(f"{lines}, in {show_seconds(elapsed_s)}", soft_wrap=True)
    counts = Table("", "", "lines or calls>")
    for what, counter in (
        ("format", tally.formats),
        ("calls", roles),
        ("results", tally.results),
        ("pairing", tally.pairing),
        ("payloads", tally.payload),
    ):
        for at, (name, count) in enumerate(counter.most_common()):
            counts.add_row("" if at else what, safe(name), f"{count:,}")
    if counts.row_count:
        console.print()
        counts.print(console)
    if tally.reasons:
        console.print()
        reasons = Table("not in a call", "lines>", "the first", "")
        for reason, count in tally.reasons.most_common():
            example = tally.examples[reason]
            reasons.add_row(safe(reason), f"{count:,}", safe(example.at, 60), safe(example.excerpt, 80))
        reasons.columns[-1].cut = True
        reasons.print(console)
    if questions is not None:
        asked, missing = sum(questions.asked.values()), sum(questions.missing.values())
        told = ", ".join(f"{count:,} of {tool}" for tool, count in questions.missing.most_common(5))
        without = f"; the recordings have no answer to {missing:,} ({printable(told, 200)})" if missing else ""
        complain(f"the guards asked {number_of(asked, 'question')}{without}")
    if replies is not None:
        differ = f"; {replies.conflicts:,} later ones differ from the first, which counts" if replies.conflicts else ""
        complain(f"{number_of(replies.written, 'answer')} to guards' questions written{differ}")
