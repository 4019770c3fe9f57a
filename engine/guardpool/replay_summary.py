"""What a replay counts: its decisions, what they lack, and how long each part of it took."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from guardpool.decide import DecisionRecord, Verdict
from guardpool.decide.agreement import difference, observed_events
from guardpool.decide.record import Agrees, WhyUndecided
from guardpool.recordings import Call

_PHASES = ("read", "label", "decide", "write")
# Disagreements have few causes: another guard or policy, a question without an answer.
_MOST_DISAGREEMENTS = 5

Moment = tuple[float, float]


def moment() -> Moment:
    """Now: by the clock, and in processor time of this thread. Seconds."""
    return time.perf_counter(), time.thread_time()


def note_disagreement(disagreements: list[tuple[str, str]], record: DecisionRecord) -> None:
    """Add to the first disagreements a decision that the recording contradicts: the call, and what is different."""
    if record.agrees == Agrees.NO.value and len(disagreements) < _MOST_DISAGREEMENTS:
        disagreements.append((f"{record.call} {record.tool}", difference(record)))


@dataclass
class InputCounts:
    """What one input of a recording has.

    Attributes:
        calls: the agent's.
        events: a gateway's events, of items that were taken away or calls that were denied.
        predicted: events that the replay would have written.
        formats: calls by the format they were read from.
    """

    calls: int = 0
    events: int = 0
    predicted: int = 0
    formats: Counter[str] = field(default_factory=Counter)


@dataclass
class ReplaySummary:
    """Counts of a replay so far; complete when it is exhausted.

    Attributes:
        calls: decisions, which is every call that is the agent's.
        enrichment: calls that were guards' own questions. They are no decisions.
        verdicts: decisions by verdict.
        why: undecided ones by why.
        results: undecided ones that lack a result, by what became of it.
        findings: decisions that are unsafe, differ between the rules or disagree with the recording.
        unsafe: decisions by each place where the gateway failed open.
        differ: decisions that differ between the rules.
        contradicted: decisions on results whose server sent a stricter label than the guard gave.
        agrees: decisions by whether they agree with the recording.
        disagreements: of the first decisions that the recording contradicts, the call and what is different, in a line.
        observed_events, predicted_events: events in the recording, and those that the replay would have written.
        guard_failures: labellings without a label, by server and status.
        items, shown: items of labelled responses, and those that the agent gets.
        servers: decisions by server.
        unknown_servers: calls to servers of which nothing is known, by server; `""` where a call names none.
        unguarded: calls to servers that have no guard, by server.
        inputs: what is known of each input, by its name.
        asked, missing: guards' questions, and those without an answer, by tool.
        conflicts: questions to which the recording has several answers.
        taken_off: keys of policies that no guard takes, by server.
        kept_labels: labels that no guard had to make, because they were kept.
        kept_problems: what is wrong with the file of kept labels, a line each; it costs time, and no label.
        seconds: how long each phase took by the clock: `read`, `label` (with waiting for workers), `decide`, and `write` as the
            caller tells.
        processor_seconds: of that the processor time of the thread that asks for the decisions. Workers and the thread that
            serves them are not in it.
    """

    calls: int = 0
    enrichment: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    why: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    findings: int = 0
    unsafe: Counter[str] = field(default_factory=Counter)
    differ: int = 0
    contradicted: int = 0
    agrees: Counter[str] = field(default_factory=Counter)
    disagreements: list[tuple[str, str]] = field(default_factory=list)
    observed_events: int = 0
    predicted_events: int = 0
    guard_failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    items: int = 0
    shown: int = 0
    servers: Counter[str] = field(default_factory=Counter)
    unknown_servers: Counter[str] = field(default_factory=Counter)
    unguarded: Counter[str] = field(default_factory=Counter)
    inputs: dict[str, InputCounts] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0
    taken_off: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kept_labels: int = 0
    kept_problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PHASES, 0.0))
    processor_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PHASES, 0.0))

    @property
    def undecided(self) -> int:
        """Calls on which nothing could be decided."""
        return self.verdicts[Verdict.UNDECIDED.value]

    @property
    def is_complete(self) -> bool:
        """Whether every call was decided on and every labelling gave a label."""
        return not self.undecided and not self.guard_failures

    def add(self, other: ReplaySummary) -> None:
        """Count what another one counted of other calls of the same recording."""
        for name in self.__dataclass_fields__:
            ours, theirs = getattr(self, name), getattr(other, name)
            if isinstance(ours, Counter):
                ours.update(theirs)
            elif isinstance(ours, int):
                setattr(self, name, ours + theirs)
        for ours, theirs in (
            (self.seconds, other.seconds),
            (self.processor_seconds, other.processor_seconds),
        ):
            for phase, seconds in theirs.items():
                ours[phase] += seconds

    def took(self, phase: str, since: Moment, until: Moment) -> None:
        """Count time that a phase took, from one moment of this thread to a later one."""
        self.seconds[phase] += until[0] - since[0]
        self.processor_seconds[phase] += until[1] - since[1]

    def begin(self, call: Call) -> InputCounts:
        """Count a call of which a decision follows; what is known of its input."""
        name = call.call.rpartition("#")[0]
        source = self.inputs.get(name)
        if source is None:
            source = self.inputs[name] = InputCounts()
        events = observed_events(call.observed)
        source.calls += 1
        source.formats[call.source] += 1
        source.events += events
        self.observed_events += events
        return source

    def count(self, record: DecisionRecord) -> None:
        """Count a decision."""
        self.calls += 1
        self.verdicts[record.verdict] += 1
        self.agrees[record.agrees] += 1
        self.servers[record.server or ""] += 1
        note_disagreement(self.disagreements, record)
        if record.why is not None:
            self.why[record.why] += 1
            if record.why == WhyUndecided.UNKNOWN_SERVER.value:
                self.unknown_servers[record.server or ""] += 1
            if record.why == WhyUndecided.NO_RESULT.value:
                self.results[record.result_is] += 1
        if record.is_finding:
            self.findings += 1
            self.unsafe.update(record.unsafe)
            self.differ += bool(record.differs)
            self.contradicted += bool(record.contradicts)
        if record.items is not None:
            self.items += record.items.total
            self.shown += record.items.shown
        if record.labelling is not None:
            for status in (record.labelling.resource, record.labelling.response):
                if status is not None:
                    self.guard_failures[record.server or "", status] += 1
