"""`guardpool replay`: recordings in, decisions out, and a summary of what a policy lets through and takes away."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from guardpool.batch.files import STANDARD, Output
from guardpool.batch.signals import Signals, Stopped
from guardpool.cli.backends import Backends
from guardpool.cli.files import name_the_file, pairs
from guardpool.cli.findings import exit_status
from guardpool.cli.outputs import leave_out_own_files, private_outputs
from guardpool.cli.progress import Display, LogBuffer, State
from guardpool.cli.redaction import redaction
from guardpool.cli.render import UsageError, complain, make_console, safe, show_rate, show_seconds
from guardpool.cli.servers import Servers, load_servers
from guardpool.cli.tables import Table
from guardpool.decide import PLACES, DecisionRecord
from guardpool.decide.words import POISONING
from guardpool.errors import GuardPoolError
from guardpool.limits import Limits
from guardpool.plurals import number_of
from guardpool.printable import option_name, printable, terminal_json
from guardpool.recordings import Call, Reader, UnknownFormat, read
from guardpool.recordings.formats.calls import is_decision
from guardpool.recordings.tally import HARMLESS, Tally
from guardpool.replay_summary import ReplaySummary, moment, note_disagreement
from guardpool.replaying import Replay, replay
from guardpool.sizes import MIB

if TYPE_CHECKING:
    from rich.console import Console

_PORTION_BYTES = MIB
_TICK_S = 0.1
# Decisions that are made lines at a time.
_AT_ONCE = 64
_MAX_INPUTS = 10


@dataclass(frozen=True)
class Options:
    """The command line of `replay`, as typed."""

    recordings: tuple[str, ...]
    out: str | None
    format: str | None
    guards: tuple[str, ...]
    policies: tuple[str, ...]
    sinks: tuple[str, ...]
    config: str | None
    mode: str | None
    rules: str
    order: str
    backends: tuple[str, ...]
    backend_allow: tuple[str, ...]
    backend_env: tuple[str, ...]
    backend_token: tuple[str, ...]
    max_questions: int | None
    keep_labels: str | None
    workers: int | None
    limits: Limits
    engine: str
    summary: str | None
    redact: bool
    redact_key: str | None
    progress: bool | None
    log_level: str


def run(options: Options) -> int:
    """Replay recordings; see `guardpool replay --help` for what the exit status tells.

    Raises:
        GuardPoolError: the run could not begin or could not go on; the message names the file at fault.
    """
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        running = None
        try:
            running = _Run(options, signals, stack)
            return running.run()
        except Stopped as stopped:
            complain("stopped" if running is None else running.how_far())
            return stopped.exit_status


class _Run:
    def __init__(self, options: Options, signals: Signals, stack: ExitStack) -> None:
        self._options = options
        self._signals = signals
        self._backends = Backends(
            options.backends,
            allow=options.backend_allow,
            env=options.backend_env,
            token=options.backend_token,
            max_questions=options.max_questions,
            timeout_s=options.limits.backend_timeout_s,
        )
        stack.callback(self._backends.close)
        self._servers = load_servers(
            options.guards, options.policies, options.sinks, options.config, self._backends.by_name
        )
        # A table of replies is read as well; what is no file is skipped where it counts.
        self._servers.paths += pairs("--backend", "WHO", options.backends).values()
        self._reader = open_recordings(options.recordings, options.format)
        stack.callback(self._reader.close)
        leave_out_own_files(self._reader, options.out, (options.keep_labels, options.redact_key))
        out, summary = private_outputs(
            {"the decisions": options.out, "the summary": options.summary},
            [*self._reader.input_paths, *self._servers.paths],
            (options.keep_labels, options.redact_key),
            stack,
        )
        self._outputs = [out, summary]
        self._redaction = redaction(options.redact, options.redact_key)
        self._disagreements: list[tuple[str, str]] = []
        self._stack = stack
        self._display: Display | None = None
        self._written = 0  # decisions

    def how_far(self) -> str:
        """What a run that is stopped leaves behind, once there is no bar any more."""
        if self._display is not None:
            self._display.close()
        out = self._outputs[0]
        if out is None or not self._written:
            return "stopped"
        verb = "is" if self._written == 1 else "are"
        return f"stopped: {number_of(self._written, 'decision')} {verb} in {out.written_path}"

    def run(self) -> int:
        options = self._options
        out, summary_file = self._outputs
        logs = LogBuffer()
        level = self._redaction.log_level(options.log_level)
        logs.install(level)
        self._stack.callback(logs.uninstall)
        to_screen = out is not None and os.isatty(out.fd)
        self._display = display = Display(bar=options.progress is not False and not to_screen, logs=logs)
        self._stack.callback(display.close)
        self._servers.tell()
        self._backends.connect()
        if options.order == "any":
            complain("--order any: a guard's memory depends on what it saw before, so labels may depend on the order")
        started = time.monotonic()
        try:
            with make_replay(self._reader, self._servers, options, level) as replayed:
                for each in (out, summary_file):
                    if each is not None:
                        each.begin()
                self._write(replayed, out, display)
        except GuardPoolError as error:
            raise name_the_file(error, self._servers.guards) from error
        display.close()
        summary = self._redaction.summary(replayed.summary, self._disagreements)
        tally, without_calls = self._reader.tally, self._redaction.recordings(self._reader.without_calls)
        if summary_file is not None:
            told = {**summary_as_json(summary), "tally": tally.to_dict(), "without_calls": without_calls}
            summary_file.write(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
        for each in (out, summary_file):
            if each is not None:
                each.finish()
        print_summary(make_console(stderr=True), summary, tally, without_calls, time.monotonic() - started)
        tell_guards_without_calls(replayed.summary, self._servers, self._redaction.server)
        tell_kept(self._options.keep_labels, [summary])
        self._redaction.tell()
        return exit_status(summary.findings > 0, summary.is_complete and is_complete(self._reader))

    def _redacted(self, records: Iterable[DecisionRecord]) -> Iterator[DecisionRecord]:
        """The decisions with hashes for names; the first that the recording contradicts are noted as they are shown."""
        for record in self._redaction.records(records):
            note_disagreement(self._disagreements, record)
            yield record

    def _write(self, replayed: Replay, out: Output | None, display: Display) -> None:
        """Write every decision; nothing is written while a signal may interrupt it, so that only whole lines are.

        Raises:
            Stopped: by a signal.
        """
        display.begin()
        records = replayed if self._redaction.redactor is None else self._redacted(replayed)
        for portion in _portions(records, out is not None and os.isatty(out.fd), replayed.summary):
            self._signals.graceful = True
            before = moment()
            if out is not None:
                out.write(portion)
                self._written += portion.count(b"\n")
            replayed.summary.took("write", before, moment())
            if self._signals.received is not None:
                raise Stopped(self._signals.received)
            display.update(_state(replayed.summary, self._reader))
            self._signals.graceful = False


def open_recordings(paths: tuple[str, ...], form: str | None) -> Reader:
    """A reader of recordings. Raises `InputError` for what cannot be read, `UsageError` for an unknown format."""
    try:
        reader = read(paths, format=form)
    except UnknownFormat as error:
        raise UsageError(str(error)) from error
    for path in reader.named_paths:
        if _holds_decisions(path):
            raise UsageError(f"{path}: these are decisions, not a recording: see guardpool report, explain or diff")
    return reader


def _holds_decisions(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return is_decision(file.readline(MIB))


def make_replay(calls: Iterable[Call], servers: Servers, options: Options, log_level: str) -> Replay:
    """The replay that the options ask for."""
    return replay(
        calls,
        servers.guards,
        sinks=servers.sinks,
        unguarded=servers.unguarded,
        rules=options.rules,
        mode=options.mode,
        default_mode=servers.default_mode,
        allowed_tools=servers.allowed_tools,
        order=options.order,
        keep_labels=options.keep_labels,
        workers=options.workers,
        limits=options.limits,
        engine=options.engine,
        log_level=log_level,
    )


def _portions(records: Iterable[DecisionRecord], for_terminal: bool, summary: ReplaySummary) -> Iterator[bytes]:
    """Lines, some at a time: about 1 MiB, or what came within a tenth of a second. To make them is a part of writing."""
    waiting: list[DecisionRecord] = []
    lines: list[bytes] = []
    size = 0
    due = time.monotonic() + _TICK_S
    for record in records:
        waiting.append(record)
        is_due = time.monotonic() >= due
        if not is_due and len(waiting) < _AT_ONCE:
            continue
        lines += _lines(waiting, for_terminal, summary)
        size += sum(map(len, lines[-len(waiting) :]))
        waiting = []
        if size >= _PORTION_BYTES or is_due:
            yield b"".join(lines)
            lines, size, due = [], 0, time.monotonic() + _TICK_S
    yield b"".join([*lines, *_lines(waiting, for_terminal, summary)])


def _lines(records: Sequence[DecisionRecord], for_terminal: bool, summary: ReplaySummary) -> list[bytes]:
    """The lines of some decisions, with one look at the clocks for all of them."""
    before = moment()
    lines = [record.to_line() for record in records]
    summary.took("write", before, moment())
    return list(map(terminal_json, lines)) if for_terminal else lines


def _state(summary: ReplaySummary, reader: Reader) -> State:
    part = None if not reader.total_bytes else min(1.0, reader.bytes_read / reader.total_bytes)
    return State(summary.calls, {}, part, "calls")


def tell_kept(path: str | None, summaries: Sequence[ReplaySummary]) -> None:
    """Say how many labels were kept, if there is a file of them, and what is wrong with it."""
    if path is None:
        return
    taken = sum(summary.kept_labels for summary in summaries)
    complain(f"{number_of(taken, 'label was', 'labels were')} taken from {path}")
    for problem in dict.fromkeys(problem for summary in summaries for problem in summary.kept_problems):
        complain(f"{problem}; the labels are whole")


def summary_as_json(summary: ReplaySummary) -> dict[str, object]:
    """The summary as plain values, for `--summary`."""
    failures = [
        {"server": server, "status": status, "labellings": count}
        for (server, status), count in sorted(summary.guard_failures.items())
    ]
    members = {name: getattr(summary, name) for name in summary.__dataclass_fields__ if name != "guard_failures"}
    return {"v": 1, **members, "guard_failures": failures}


def print_summary(
    console: Console, summary: ReplaySummary, tally: Tally, without_calls: Sequence[str], elapsed_s: float
) -> None:
    """Say first how far the replay agrees with the recording, then what became of the calls."""
    console.print(safe(agreement_line(summary), 1000), soft_wrap=True)
    for call, what in summary.disagreements:
        console.print(safe(f"  {call}: {what}", 300), soft_wrap=True)
    if summary.agrees["no"]:
        console.print(safe(_CAUSES), soft_wrap=True)
    _print_why_no_events(console, summary)
    if not summary.calls:
        _print_rest(summary, tally, without_calls)
        return
    console.print()
    table = Table("decision", "calls>", "share>")
    for verdict, count in summary.verdicts.most_common():
        table.add_row(safe(_VERDICTS.get(verdict, verdict)), f"{count:,}", _share(count, summary.calls))
    table.print(console)
    if summary.items:
        hidden = summary.items - summary.shown
        labelled = "1 item was" if summary.items == 1 else f"{summary.items:,} items were"
        console.print(
            f"{labelled} labelled; the agent gets {summary.shown:,}, and not {hidden:,} "
            f"({_share(hidden, summary.items)})",
            soft_wrap=True,
        )
    _print_undecided(console, summary)
    print_findings(console, summary)
    _print_rest(summary, tally, without_calls)
    spent = ", ".join(
        f"{name} {show_seconds(value)} ({show_seconds(summary.processor_seconds[name])})"
        for name, value in summary.seconds.items()
    )
    rate = show_rate(summary.calls / elapsed_s if elapsed_s else 0.0)
    complain(f"{number_of(summary.calls, 'call')} in {show_seconds(elapsed_s)}: {rate}")
    complain(f"by the clock, and of that processor time of the deciding thread: {spent}")


_CAUSES = "Usual causes: another version of the guard, another policy, answers that are missing, payloads that were sanitised."
_VERDICTS = {
    "items": "items: what may pass of the result",
    "whole": "whole: the result as it is",
    "single-item-error": "single-item-error: the only item is kept back",
    "strict-block": "strict-block: all of the result is kept back",
    "denied": "denied before the backend is asked",
    "labelling-error": "labelling-error: the guard failed",
    "undecided": "undecided",
}


def agreement_line(summary: ReplaySummary) -> str:
    """How far the replay agrees with the recording's own events, as one sentence."""
    yes, no, unknown = (summary.agrees[word] for word in ("yes", "no", "unknown"))
    events = (
        f"{number_of(summary.observed_events, 'event')} in the recording, {summary.predicted_events:,} by this replay"
    )
    if not summary.calls:
        return "No call of an agent was found: there is nothing to compare and nothing to decide."
    if not yes + no:
        return f"Nothing can be compared with the recording ({events})."
    return (
        f"The replay agrees with the recording in {_share(yes, yes + no)} of {number_of(yes + no, 'call')} "
        f"that can be compared: {no:,} differ, {unknown:,} cannot be compared ({events})."
    )


def _print_undecided(console: Console, summary: ReplaySummary) -> None:
    if not summary.why:
        return
    console.print()
    table = Table("undecided", "calls>", "")
    for why, count in summary.why.most_common():
        more = ""
        if why == "no-recorded-result":
            more = ", ".join(f"{word} {many:,}" for word, many in summary.results.most_common())
        table.add_row(safe(why), f"{count:,}", safe(more))
    table.print(console)


def print_findings(console: Console, summary: ReplaySummary) -> None:
    """A table of what was found, or that there is nothing."""
    console.print()
    if not summary.findings:
        console.print("No findings.")
        return
    console.print(safe(f"{number_of(summary.findings, 'call')} with findings", style="bold"))
    table = Table("finding", "calls>", "what it is")
    if summary.agrees["no"]:
        table.add_row("disagrees", f"{summary.agrees['no']:,}", "the recording says something else was done")
    if summary.differ:
        table.add_row("differs", f"{summary.differ:,}", "the strict rules would have shown something else")
    if summary.contradicted:
        table.add_row(
            "server-label", f"{summary.contradicted:,}", "the server's own label is stricter than the guard's"
        )
    for place, count in summary.unsafe.most_common():
        table.add_row(place, f"{count:,}", safe(PLACES.get(place, ""), 200))
    table.print(console)


def _print_why_no_events(console: Console, summary: ReplaySummary) -> None:
    """Zero events may be good news, or an event log that nobody wrote: say which input has none."""
    without = {name: counts for name, counts in summary.inputs.items() if counts.predicted and not counts.events}
    if not without:
        return
    table = Table("recording without events", "format", "calls>", "events of this replay>")
    for name, counts in list(without.items())[:_MAX_INPUTS]:
        table.add_row(safe(name, 80), safe(", ".join(counts.formats)), f"{counts.calls:,}", f"{counts.predicted:,}")
    table.print(console)
    if len(without) > _MAX_INPUTS:
        console.print(f"and {len(without) - _MAX_INPUTS:,} more")
    console.print(
        "An event tells of an item that the gateway took away, or of a call that it denied. Either it did nothing of that when "
        "these were recorded, or that is logged elsewhere.",
        soft_wrap=True,
    )


def _print_rest(summary: ReplaySummary, tally: Tally, without_calls: Sequence[str]) -> None:
    for server, count in summary.unknown_servers.most_common():
        named = f"server {server}" if server else "calls that name no server"
        name = option_name(server, "SERVER")
        complain(
            f"{named}: {number_of(count, 'call')} undecided, because nothing says what stands before it: add -g "
            f"{name}=FILE.wasm -p {name}=POLICY.json, --sink {name}=ACCEPT, or -g {name}=none"
        )
    for server, count in summary.unguarded.most_common():
        complain(f"server {server}: no guard: {number_of(count, 'call')} not covered")
    tell_guard_failures(summary)
    asked, missing = sum(summary.asked.values()), sum(summary.missing.values())
    if summary.enrichment or asked:
        told = ", ".join(f"{count:,} of {tool}" for tool, count in summary.missing.most_common(5))
        without = f"; {number_of(missing, 'question')} got no answer ({told}): labels may be lower than they were"
        complain(
            f"guards' own questions: {summary.enrichment:,} in the recording, {asked:,} asked by this replay"
            f"{without if missing else ''}"
        )
    if summary.conflicts:
        complain(f"{number_of(summary.conflicts, 'question')} had several answers in the recording: the first counts")
    tell_what_is_incomplete(tally, without_calls)


def tell_guard_failures(summary: ReplaySummary, of: str = "") -> None:
    """Say which guards gave no label. `of`: what stands before that, such as a policy's name and a colon."""
    for (server, status), count in sorted(summary.guard_failures.items()):
        later = "; in the gateway every later call of that run would fail" if status in POISONING else ""
        complain(f"{of}server {server}: {number_of(count, 'labelling')} ended {status}{later}")


def tell_guards_without_calls(summary: ReplaySummary, servers: Servers, shown: Callable[[str], str]) -> None:
    """Say which guards met no call: their servers may be called otherwise in the recording. `shown`: names as shown."""
    for guard in servers.guards:
        if summary.calls and guard.name not in summary.servers:
            others = ", ".join(sorted(shown(name) for name in summary.servers if name)[:_MAX_INPUTS])
            complain(
                f"server {shown(guard.name)}: it has a guard, and no call of the recording goes to it, "
                f"but to {others or 'none'}"
            )


_DOUBTS = {
    "ambiguous": "paired with a response that may be another call's",
    "unmatched": "without the line of a response",
    "no-response": "that got no response",
    "lost": "whose result the recorder lost",
}


def is_complete(reader: Reader) -> bool:
    """Whether each recording has calls, and nothing of them was lost, ambiguous or not understood."""
    return reader.tally.is_complete and not reader.without_calls


def tell_what_is_incomplete(tally: Tally, without_calls: Sequence[str]) -> None:
    """Say what of the recordings is not complete, for which a run ends with exit status 3."""
    for path in without_calls:
        named = "standard input" if path == STANDARD else path
        complain(f"{printable(named, 200)}: there is no call of a tool in it")
    doubts = tally.doubts
    told = [f"{number_of(doubts[word], 'call')} {what} ({word})" for word, what in _DOUBTS.items() if word in doubts]
    if "payload-lost" in doubts:
        told.append(f"{number_of(doubts['payload-lost'], 'payload')} that the recorder lost")
    if told:
        complain(f"the recording is not complete: {', '.join(told)}")
    lost = {reason: count for reason, count in tally.reasons.items() if reason not in HARMLESS}
    if lost:
        told = [f"{printable(reason, 40)} {count:,}" for reason, count in sorted(lost.items())]
        complain(f"{number_of(sum(lost.values()), 'line')} of the recording not understood: {', '.join(told)}")


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total else "-"
