"""Replay: recorded calls in, decisions out.

Each call is labelled again by its server's guard (`recorded_labels`), and the decisions of each session are folded over the
labels in order (`guardpool.decide.Session`): under the gateway's rules, the strict ones, or both. What cannot be decided is
`undecided`, with the reason; no call is left out but the guards' own questions, which are counted.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Union

import msgspec
from msgspec import UNSET, UnsetType

from guardpool.batch.kept_calls import KeptCalls
from guardpool.decide import (
    CallLabels,
    Decision,
    Guarded,
    NoGuard,
    Rules,
    Session,
    Sink,
    Verdict,
    WhyNoGuard,
    split_policy,
)
from guardpool.decide.agreement import agreement, difference, observed_events, predicted_events
from guardpool.decide.record import (
    VERSION,
    Agrees,
    DecisionRecord,
    Differs,
    Enrichment,
    Labelling,
    MissingAnswer,
    SinkRecord,
    WhyUndecided,
)
from guardpool.decide.remembered import Remembered
from guardpool.decide.to_record import (
    differs_of,
    failed_rules,
    filtered_and_seen,
    item_counts,
    resource_record,
    sorted_tags,
    tag_pair,
    warning_codes,
    would_pass_with,
)
from guardpool.decide.words import NO_TAGS, mode_of
from guardpool.errors import CallerError
from guardpool.guard import Guard
from guardpool.labels import AgentLabels, DifcMode, Operation, ResourceLabel, ResponseLabel, label_from_json
from guardpool.limits import Limits
from guardpool.machine import capacity
from guardpool.outcomes import Outcome, Status, StoredLabel, stored_label
from guardpool.pool import GuardPool
from guardpool.recorded_labels import LabelledCall, RecordedLabels
from guardpool.recordings import Call, Pairing, PayloadState
from guardpool.supervise.witness import Witness

BOTH = "both"
RULES = (Rules.GATEWAY.value, Rules.STRICT.value, BOTH)
ORDERS = ("session", "any")
PHASES = ("read", "label", "decide", "write")

Server = Union[Guarded, Sink, NoGuard]
# Labels by operation and JSON: of a recording's labels most were made before.
KnownLabels = Remembered[Union[ResourceLabel, ResponseLabel, None]]
_MOST_LABELS = 4096

# These say that a guard, or what it was given, is at fault: the gateway would have failed as well. The others are ours.
_GUARDS_FAULT = frozenset({Status.REFUSED, Status.INVALID, Status.TRAP, Status.TIMEOUT, Status.MEMORY})
# After these a guard begins anew, and has forgotten what it knew.
_ENDS_THE_GUARD = frozenset({Status.TRAP, Status.TIMEOUT, Status.MEMORY, Status.CRASHED})


# Disagreements have few causes: another guard or policy, a question without an answer.
MOST_DISAGREEMENTS = 5


Moment = tuple[float, float]


def moment() -> Moment:
    """Now: by the clock, and in processor time of this thread. Seconds."""
    return time.perf_counter(), time.thread_time()


class ReplayError(CallerError, ValueError):
    """A replay cannot be made of its arguments."""


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
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    processor_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

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
        if record.agrees == Agrees.NO.value and len(self.disagreements) < MOST_DISAGREEMENTS:
            self.disagreements.append((f"{record.call} {record.tool}", difference(record)))
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
        if record.items is not None:
            self.items += record.items.total
            self.shown += record.items.shown
        if record.labelling is not None:
            for status in (record.labelling.resource, record.labelling.response):
                if status is not None:
                    self.guard_failures[record.server or "", status] += 1


class Replay:
    """The decisions of a replay, in the order of the calls; an iterator. Made by `replay`.

    Use it as a context manager, or exhaust it: then its workers have ended.

    Attributes:
        summary: counts so far.
    """

    def __init__(self, several: Replays) -> None:
        self._several = several
        self.summary = several.summaries[0]

    def __iter__(self) -> Iterator[DecisionRecord]:
        return self

    def __next__(self) -> DecisionRecord:
        return next(self._several)[0]

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; what was not decided is dropped."""
        self._several.close()


class Replays:
    """Several replays over the same labels, in other modes: an iterator of the decisions on one call after the other.

    Attributes:
        summaries: counts so far of each.
        labels: who labels the calls.
    """

    def __init__(
        self, calls: Iterable[Call], labels: RecordedLabels, plans: Sequence[_Plan], kept: KeptCalls | None = None
    ) -> None:
        self.summaries = [ReplaySummary(taken_off=plan.taken_off) for plan in plans]
        self.labels = labels
        self._plans = plans
        self._kept = kept
        self._folds: dict[tuple[str | None, str], list[_Fold]] = {}
        self._known: KnownLabels = Remembered(label_from_json, _MOST_LABELS)
        self._records = self._decided(_timed(calls, self.summaries[0]))

    def __iter__(self) -> Iterator[tuple[DecisionRecord, ...]]:
        return self

    def __next__(self) -> tuple[DecisionRecord, ...]:
        return next(self._records)

    def close(self) -> None:
        """End the workers; what was not decided is dropped."""
        self._records.close()
        self.labels.close()

    def _decided(self, calls: Iterable[Call]) -> Generator[tuple[DecisionRecord, ...], None, None]:
        summary = self.summaries[0]
        reading = [summary.seconds, summary.processor_seconds]
        try:
            labelled = self.labels.labelled(calls)
            while True:
                read = [spent["read"] for spent in reading]
                before = moment()
                each = next(labelled, None)
                after = moment()
                summary.took("label", before, after)
                # To read the calls is a part of getting the next labelled one.
                for spent, already in zip(reading, read):
                    spent["label"] -= spent["read"] - already
                if each is None:
                    break
                records = self._decide(each)
                summary.took("decide", after, moment())
                yield records
        finally:
            self.labels.close()
            for summary in self.summaries:
                summary.enrichment = self.labels.enrichment
                summary.asked, summary.missing = self.labels.asked, self.labels.missing
                summary.conflicts = self.labels.conflicts
                if self._kept is not None:
                    summary.kept_labels, summary.kept_problems = self._kept.taken, self._kept.problems

    def _decide(self, each: LabelledCall) -> tuple[DecisionRecord, ...]:
        call = each.call
        key = (call.run, call.session)
        folds = self._folds.get(key)
        if folds is None:
            folds = self._folds[key] = [_Fold(plan, self.labels.agents) for plan in self._plans]
        ready = folds[0].ready(each, self._known)
        return tuple([fold.decide(ready, summary) for fold, summary in zip(folds, self.summaries)])


class _Facts(NamedTuple):
    """By what a server's calls are labelled."""

    guard_sha256: str
    policy_sha256: str


class _Plan:
    """What stands before each server, and by which rules is judged."""

    def __init__(
        self,
        guards: Sequence[Guard],
        sinks: Mapping[str, Sink],
        unguarded: Collection[str],
        rules: str,
        mode: DifcMode | None,
        session_options: dict[str, Any],
    ) -> None:
        self.rules = rules
        self.mode = mode
        self.session_options = session_options
        self.facts: dict[str, _Facts] = {}
        self.taken_off: dict[str, tuple[str, ...]] = {}
        self.guards: list[Guard] = []
        self._limits: dict[str, dict[str, int]] = {}
        self._servers: dict[str, Server] | None = None
        self._others: dict[str, Server] = {**sinks, **{name: NoGuard(WhyNoGuard.NONE) for name in unguarded}}
        for guard in guards:
            self._add(guard)
        known = [*(guard.name for guard in guards), *sinks, *unguarded]
        for name in known:
            if known.count(name) > 1:
                raise ReplayError(f"server {name!r} is named twice: it has either a guard, or a sink, or none")
        if not known:
            raise ReplayError("no server has a guard, a sink or none: there is nothing to decide by")

    def _add(self, guard: Guard) -> None:
        policy = guard.policy
        if isinstance(policy, Mapping):
            split = split_policy(policy)
            policy = split.policy
            self._limits[guard.name] = split.limits
            if split.taken_off:
                self.taken_off[guard.name] = split.taken_off
        self.guards.append(guard.but(policy=policy))
        told = [guard.policy, guard.trusted_bots, guard.trusted_users]
        digest = hashlib.sha256(_canonical(told if any(told[1:]) else guard.policy)).hexdigest()
        self.facts[guard.name] = _Facts(hashlib.sha256(guard.wasm).hexdigest(), digest)

    def servers(self, agents: Mapping[str, AgentLabels]) -> dict[str, Server]:
        """What stands before each server, once the guards' `label_agent` answered; the same for all sessions."""
        if self._servers is None:
            guarded = {name: Guarded(agents.get(name), self._limits.get(name, {})) for name in self.facts}
            self._servers = {**self._others, **guarded}
        return self._servers

    @property
    def only_server(self) -> str | None:
        """The server that calls without one can only mean."""
        return self.guards[0].name if len(self.guards) == 1 and not self._others else None


class _Fold:
    """One session's calls, folded under each rule set that is asked for."""

    __slots__ = ("_plan", "_restarts", "_servers", "_sessions")

    def __init__(self, plan: _Plan, agents: Mapping[str, AgentLabels]) -> None:
        self._plan = plan
        self._servers = plan.servers(agents)
        wanted = [Rules.GATEWAY, Rules.STRICT] if plan.rules == BOTH else [Rules(plan.rules)]
        self._sessions = [
            Session(self._servers, rules=rules, mode=plan.mode, **plan.session_options) for rules in wanted
        ]
        self._restarts = 0

    def ready(self, each: LabelledCall, known: KnownLabels) -> _Ready:
        """What is known of a call whatever the mode and the rules, which the folds of all modes may use."""
        name = each.call.server or ""
        return _Ready(each, self._servers.get(name), self._sessions[0].mode_at(name), self._plan, known)

    def decide(self, ready: _Ready, summary: ReplaySummary) -> DecisionRecord:
        """The record of the session's next call, which is counted."""
        call = ready.each.call
        source = summary.begin(call)
        record, predicted = self._decide(ready, source.events > 0)
        source.predicted += predicted
        summary.predicted_events += predicted
        summary.count(record)
        if isinstance(ready.server, NoGuard):
            summary.unguarded[call.server or ""] += 1
        return record

    def _decide(self, ready: _Ready, log_has_events: bool) -> tuple[DecisionRecord, int]:
        """The record, and how many events a gateway's log would have of the call."""
        call, ending = ready.each.call, ready.ending
        if ready.server is None:
            named = f"server {call.server}" if call.server else "a call that names no server"
            why = f"{named}: nothing says what stands before it"
            return self._undecided(call, WhyUndecided.UNKNOWN_SERVER, why), 0
        if ending is None:
            return self._undecided(call, WhyUndecided.NO_ARGUMENTS, "the recording does not name the tool"), 0
        main = self._sessions[0]
        read = main.read
        ready.labels = ready.labels.in_mode(main.mode_at(call.server or ""))
        decisions = [_decided(session, ready, ending) for session in self._sessions]
        differs = _difference(*decisions) if len(decisions) == 2 else UNSET
        record = self._record(ready, ending, decisions[0], differs, read, log_has_events)
        self._restarts += ready.restarts
        return record, predicted_events(decisions[0]) if decisions[0].rules is Rules.GATEWAY else 0

    def _record(
        self,
        ready: _Ready,
        ending: _Ending,
        decision: Decision,
        differs: Differs | UnsetType | None,
        read: frozenset[str],
        log_has_events: bool,
    ) -> DecisionRecord:
        call, label = ready.each.call, ready.labels.label
        is_write = decision.operation is not Operation.READ
        filtered, seen = filtered_and_seen(decision)
        agrees = Agrees.UNKNOWN
        if decision.rules is Rules.GATEWAY and ending.labels_from is None:
            agrees = agreement(decision, call.observed, log_has_events)
            if agrees is Agrees.NO and call.pairing is Pairing.AMBIGUOUS:
                agrees = Agrees.UNKNOWN  # the result may be another call's
        elif ending.labels_from is not None:
            agrees = Agrees.YES if decision.verdict is Verdict.DENIED else Agrees.UNKNOWN
        return DecisionRecord(
            v=VERSION,
            mode=decision.mode._value_,
            rules=decision.rules._value_,
            operation=decision.operation._value_ if label is not None else None,
            coarse=decision.coarse._value_,
            failed=failed_rules(decision.failed),
            verdict=decision.verdict._value_,
            why=ending.why_undecided(decision),
            error=decision.error,
            items=item_counts(decision),
            filtered=filtered,
            seen=seen,
            agent_before=tag_pair(decision.agent_before),
            agent_after=tag_pair(decision.agent_after),
            read=sorted_tags(read) if is_write else (),
            lost=decision.lost,
            unsafe=decision.unsafe,
            differs=differs,
            restarts=self._restarts,
            would_pass_with=would_pass_with(decision, label),
            agrees=agrees._value_,
            **ready.members,
        )

    def _undecided(self, call: Call, why: WhyUndecided, because: str) -> DecisionRecord:
        """Of such a call not even the mode is known, or whether it would have been denied."""
        agent = tag_pair(self._sessions[0].agent)
        mode = self._plan.mode or mode_of(self._plan.session_options["default_mode"])
        return DecisionRecord(
            v=VERSION,
            mode=mode.value,
            rules=Rules.GATEWAY.value if self._plan.rules == BOTH else self._plan.rules,
            verdict=Verdict.UNDECIDED.value,
            why=why.value,
            error=because,
            agent_before=agent,
            agent_after=agent,
            agrees=Agrees.UNKNOWN.value,
            **_of_call(call),
        )


class _Ready:
    """A call that is ready to be decided on: what depends neither on the mode nor on the rules is made once.

    Attributes:
        each: the call with its labellings.
        server: what stands before its server; None if nothing is known of it.
        ending: how its labellings ended; None if nothing can be decided.
        labels: its labels, in the mode of the last who decided on it.
        members: those of its record that no decision changes.
        restarts: how often its guard began anew after it.
    """

    __slots__ = ("each", "ending", "labels", "members", "restarts", "server")

    def __init__(
        self, each: LabelledCall, server: Server | None, mode: DifcMode, plan: _Plan, known: KnownLabels
    ) -> None:
        call = each.call
        self.each = each
        self.server = server
        self.ending = ending = None if server is None or call.tool is None else _ending_of(each, server, known)
        if ending is None or server is None:
            return
        self.labels = CallLabels(
            call.tool or "",
            mode,
            resource=ending.label if isinstance(server, Guarded) else server,
            response=ending.response,
            tool_result=ending.tool_result,
            resource_error=ending.resource_error,
            response_error=ending.response_error,
            item_limit=server.item_limit if isinstance(server, Guarded) else None,
        )
        self.restarts = sum([outcome is not None and outcome.status in _ENDS_THE_GUARD for outcome in each[1:]])
        label = self.labels.label
        facts = plan.facts.get(call.server or "")
        self.members = {
            **_of_call(call),
            "guard": None if facts is None else call.server,
            "guard_sha256": None if facts is None else facts.guard_sha256,
            "policy_sha256": None if facts is None else facts.policy_sha256,
            "resource": None if label is None else resource_record(label),
            "labels_from": ending.labels_from,
            "warnings": warning_codes((ending.label, ending.response)),
            "sink": SinkRecord(tuple(server.accept), server.visibility) if isinstance(server, Sink) else None,
            "enrichment": _enrichment(each),
            "labelling": ending.labelling,
        }


class _Ending(NamedTuple):
    """How a call's labellings ended, and what its result is.

    Attributes:
        label, response: the labels, where there are any.
        resource_error, response_error: why there is none.
        tool_result: the result; UNSET if the recording has none that can be judged.
        why, because: why nothing can be decided unless the call is denied, in a word and in a line.
        labelling: for the record.
        labels_from: `"log"` if the label is that of the recording's own denial.
        trapped: whether the gateway's guard would be of no use after it.
    """

    label: ResourceLabel | None = None
    response: ResponseLabel | None = None
    resource_error: str | None = None
    response_error: str | None = None
    tool_result: Any = UNSET
    why: WhyUndecided | None = None
    because: str | None = None
    labelling: Labelling | None = None
    labels_from: str | None = None
    trapped: bool = False

    def why_undecided(self, decision: Decision) -> str | None:
        """The word for the record."""
        if decision.verdict is not Verdict.UNDECIDED:
            return None
        return (self.why or WhyUndecided.NO_RESULT).value


def _ending_of(each: LabelledCall, server: Server, known: KnownLabels) -> _Ending:
    call, resource, response = each
    result = call.result if call.result_is.is_answer and call.result_json is not None else UNSET
    if not isinstance(server, Guarded):
        return _Ending(tool_result=result)
    denied = (call.observed or {}).get("denied")
    if call.args_json is None and isinstance(denied, dict):
        return _as_logged(denied, server)
    if resource is None:
        what = "were lost by the recorder" if call.payload.args is PayloadState.LOST else "are not in the recording"
        because = f"the arguments {what}"
        return _Ending(resource_error=because, why=WhyUndecided.NO_ARGUMENTS, because=because)
    label, resource_error = _label_of(resource, known)
    labels, response_error = (None, None) if response is None else _label_of(response, known)
    failed = [outcome for outcome in (resource, response) if outcome is not None and outcome.status is not Status.OK]
    ours = next((outcome for outcome in failed if outcome.status not in _GUARDS_FAULT), None)
    labelling = None
    if failed:
        labelling = Labelling(_failure(resource), _failure(response))
    return _Ending(
        label if isinstance(label, ResourceLabel) else None,
        labels if isinstance(labels, ResponseLabel) else None,
        resource_error,
        response_error,
        result,
        None if ours is None else WhyUndecided.NO_LABEL,
        None if ours is None else f"{ours.op}: {_why(ours)}",
        labelling,
        trapped=any(outcome.status in _TRAPPED for outcome in failed),
    )


# A guard that trapped or ran out of time answers nothing more in the gateway.
_TRAPPED = frozenset({Status.TRAP, Status.TIMEOUT, Status.MEMORY})


def _label_of(outcome: Outcome, known: KnownLabels) -> tuple[ResourceLabel | ResponseLabel | None, str | None]:
    if outcome.status is not Status.OK:
        return None, _why(outcome)
    stored = stored_label(outcome)
    return (known[outcome.op, stored.json] if type(stored) is StoredLabel else outcome.label), None


def _why(outcome: Outcome) -> str:
    message = "" if outcome.error is None else f": {outcome.error.message}"
    return f"{outcome.status}{message}"


def _failure(outcome: Outcome | None) -> str | None:
    return None if outcome is None or outcome.status is Status.OK else outcome.status.value


def _as_logged(denied: dict[str, Any], server: Guarded) -> _Ending:
    """A call that the recording's gateway denied: its arguments are nowhere, and its labels are those of the denial.

    They hold for a policy with the same scopes only.
    """
    theirs = frozenset(_strings(denied.get("agent_integrity_tags")))
    ours = NO_TAGS if server.agent is None else server.agent.integrity
    if _scopes(theirs) != _scopes(ours):
        because = "the recording has neither arguments nor labels of it for a policy of this scope: it was denied"
        return _Ending(resource_error=because, why=WhyUndecided.OTHER_SCOPE, because=because)
    reason = str(denied.get("reason", ""))
    # The gateway denies no read before it asks the backend, so a rule to read failed for a read-write.
    operation = Operation.WRITE if any(words in reason for words in _OF_WRITES) else Operation.READ_WRITE
    label = ResourceLabel(
        str(denied.get("description", "")),
        frozenset(_strings(denied.get("secrecy_tags"))),
        frozenset(_strings(denied.get("integrity_tags"))),
        operation,
    )
    return _Ending(label, labels_from="log")


_OF_WRITES = ("lacks required integrity to write", "scoped data that cannot be written")


def _strings(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, (list, tuple)) else []


def _scopes(tags: frozenset[str]) -> set[str]:
    """What tags are about: behind `LEVEL:`, or behind `integrity=LEVEL;scopes=`."""
    return {tag.partition(";scopes=")[2] or tag.partition(":")[2] for tag in tags}


def _decided(session: Session, ready: _Ready, ending: _Ending) -> Decision:
    decision = session.decide_on(ready.each.call.server or "", ready.labels, trapped=ending.trapped)
    if ending.why is not None and decision.verdict is Verdict.LABELLING_ERROR:
        # The label is missing for a reason of ours, or of the recording: the gateway may have had one.
        return msgspec.structs.replace(decision, verdict=Verdict.UNDECIDED, error=ending.because)
    return decision


def _difference(gateway: Decision, strict: Decision) -> Differs | UnsetType | None:
    return UNSET if gateway.verdict is Verdict.UNDECIDED else differs_of(gateway, strict)


def _enrichment(each: LabelledCall) -> Enrichment | None:
    """What the guard asked in both labellings."""
    uses = [outcome.backend for outcome in each[1:] if outcome is not None and outcome.backend]
    if not uses:
        return None
    missing = tuple(MissingAnswer(question.tool, question.args) for use in uses for question in use.missing)
    return Enrichment(sum(use.asked for use in uses), sum(use.answered for use in uses), missing)


def _of_call(call: Call) -> dict[str, Any]:
    """The members of a record that say which call it is."""
    states = {"args": call.payload.args, "result": call.payload.result}
    odd = {name: state.value for name, state in states.items() if state not in (None, PayloadState.INTACT)}
    args = call.args_json
    if args is not None and b"\n" in args:
        args = _encode(call.args)
    return {
        "call": call.call,
        "session": call.session,
        "agent": call.agent,
        "server": call.server,
        "tool": call.tool,
        "at": call.at,
        "run": call.run,
        "workflow": call.workflow,
        "repository": call.repository,
        "source": call.source,
        "args_json": msgspec.Raw(args or b"null"),
        "result_is": call.result_is._value_,
        "pairing": call.pairing.value if call.pairing in (Pairing.AMBIGUOUS, Pairing.UNMATCHED) else None,
        "payload": odd,
        "observed": call.observed,
    }


_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode


def _timed(calls: Iterable[Call], summary: ReplaySummary) -> Iterator[Call]:
    """The same calls; how long it takes to read them is counted."""
    iterator = iter(calls)
    while True:
        before = moment()
        call = next(iterator, None)
        summary.took("read", before, moment())
        if call is None:
            return
        yield call


def replay(
    calls: Iterable[Call],
    guards: Sequence[Guard] = (),
    *,
    sinks: Mapping[str, Sink] | None = None,
    unguarded: Collection[str] = (),
    rules: str = BOTH,
    mode: DifcMode | str | None = None,
    default_mode: DifcMode | str = DifcMode.STRICT,
    secrecy: Collection[str] = (),
    integrity: Collection[str] = (),
    allowed_tools: Mapping[str, Collection[str]] | None = None,
    order: str = "session",
    keep_labels: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    engine: str = "auto",
    sandbox: str = "auto",
    cache: Any = None,
    log_level: str = "warning",
) -> Replay:
    """Decide on recorded calls: label each again, and fold the decisions of each session in order.

    Args:
        calls: in the order of each session, e.g. `guardpool.recordings.read(paths)`.
        guards: a guard's name is its server's id. A guard without a backend is answered from the recording. Keys of its policy
            that no guard takes (`tool-call-limits` and others) are taken off, and limits are counted here.
        sinks: what stands before servers that are only written to.
        unguarded: servers that are known to have no guard. Calls to any other server are `undecided`.
        rules: `gateway`, `strict`, or `both`: the gateway's, and in `differs` what the strict ones would have done.
        mode: a mode in the place of those that the guards answered.
        default_mode: the gateway's own mode, for servers without a guard.
        secrecy, integrity, allowed_tools: as the gateway's configuration gives them to every agent; see `decide.Session`.
        order: `session`: a session's calls are labelled in order by one worker, as a guard's memory depends on what it saw;
            `any`: in any order. A gateway's own log is always read in order.
        keep_labels: a file of kept labels, as for `guardpool.batch.label_file`, whose guards must be such that no label depends
            on the order of jobs. The labels of a gateway's own log are made anew: what guards ask in it tells its calls.
        workers, limits, engine, sandbox, cache, log_level: as of `GuardPool`.

    Returns:
        An iterator of `DecisionRecord`, in the order of the calls. Memory grows with the number of sessions, not of calls.

    Raises:
        ReplayError, DecideError, PolicyError, KeptLabelsError: an argument cannot be used. While it is advanced: whatever
            `GuardPool` raises.
    """
    several = replays(
        calls,
        guards,
        modes=[mode],
        sinks=sinks,
        unguarded=unguarded,
        rules=rules,
        default_mode=default_mode,
        secrecy=secrecy,
        integrity=integrity,
        allowed_tools=allowed_tools,
        order=order,
        keep_labels=keep_labels,
        workers=workers,
        limits=limits,
        engine=engine,
        sandbox=sandbox,
        cache=cache,
        log_level=log_level,
    )
    return Replay(several)


def replays(
    calls: Iterable[Call],
    guards: Sequence[Guard] = (),
    *,
    modes: Sequence[DifcMode | str | None],
    sinks: Mapping[str, Sink] | None = None,
    unguarded: Collection[str] = (),
    rules: str = BOTH,
    default_mode: DifcMode | str = DifcMode.STRICT,
    secrecy: Collection[str] = (),
    integrity: Collection[str] = (),
    allowed_tools: Mapping[str, Collection[str]] | None = None,
    order: str = "session",
    keep_labels: str | os.PathLike[str] | None = None,
    told: bool = False,
    only_tell: bool = False,
    **pool_options: Any,
) -> Replays:
    """As `replay`, in several modes at once: labels do not depend on the mode, so each guard runs once.

    Args:
        modes: see `mode` of `replay`.
        told: whether guards' questions are known for what they are in all of the calls.
        only_tell: decide on no calls but those that have to be labelled to know which are guards' questions.
        pool_options: of `GuardPool`.
    """
    if rules not in RULES:
        raise ReplayError(f"rules must be one of {', '.join(RULES)}, not {rules!r}")
    if order not in ORDERS:
        raise ReplayError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
    options: dict[str, Any] = {"default_mode": mode_of(default_mode), "secrecy": secrecy, "integrity": integrity}
    options["allowed_tools"] = allowed_tools
    plans = [
        _Plan(guards, sinks or {}, unguarded, str(rules), None if mode is None else mode_of(mode), options)
        for mode in modes
    ]
    workers = pool_options.pop("workers", None)
    limits = pool_options.get("limits") or Limits()
    if workers is None:
        workers = max(1, min(capacity.cores(), capacity.memory_bytes() // limits.max_rss_bytes))

    def pool(asking: Sequence[Guard], most: int, witness: Witness | None) -> GuardPool:
        return GuardPool(asking, workers=most, witness=witness, **pool_options)

    first = plans[0]
    kept = None if keep_labels is None else KeptCalls(keep_labels, pool_options.get("engine", "auto"), limits)
    labels = RecordedLabels(
        first.guards,
        only_server=first.only_server,
        keep_order=order == "session",
        workers=workers,
        pool=pool,
        told=told,
        kept=kept,
        only_tell=only_tell,
    )
    return Replays(calls, labels, plans, kept)
