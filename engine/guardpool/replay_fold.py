"""The decisions on a session's calls, folded over their labels in order.

A `ReplayPlan` says what stands before each server and which rules judge; a `Fold` is one session under it. What a call comes to
before anything is decided on it is the same under several plans with the same labels, so they share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Union

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

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
from guardpool.decide.agreement import agreement, predicted_events
from guardpool.decide.record import (
    VERSION,
    Agrees,
    DecisionRecord,
    Differs,
    Enrichment,
    Labelling,
    MissingAnswer,
    SinkRecord,
    TagPair,
    WhyUndecided,
)
from guardpool.decide.remembered import Remembered
from guardpool.decide.server_labels import contradicted
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
from guardpool.decide.words import NO_TAGS, POISONING, mode_of
from guardpool.guard import Guard
from guardpool.labels import AgentLabels, DifcMode, Operation, ResourceLabel, ResponseLabel, label_from_json
from guardpool.outcomes import Outcome, Status, StoredLabel, stored_label
from guardpool.recorded_labels import LabelledCall
from guardpool.recordings import Call, Pairing, Payload, PayloadState
from guardpool.replay_summary import ReplaySummary

BOTH = "both"

Server = Union[Guarded, Sink, NoGuard]
# Labels by operation and JSON: of a recording's labels most were made before.
KnownLabels = Remembered[Union[ResourceLabel, ResponseLabel, None]]
_MOST_LABELS = 4096


def known_labels() -> KnownLabels:
    """An empty memory of labels."""
    return Remembered(label_from_json, _MOST_LABELS)


# These say that a guard, or what it was given, is at fault: the gateway would have failed as well. The others are ours.
_GUARDS_FAULT = frozenset({Status.REFUSED, Status.INVALID, *POISONING})
# After these our guard begins anew, and has forgotten what it knew.
_ENDS_THE_GUARD = frozenset({*POISONING, Status.CRASHED})


class _Facts(NamedTuple):
    """By what a server's calls are labelled."""

    guard_sha256: str
    policy_sha256: str


class ReplayPlan:
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


class Fold:
    """One session's calls, folded under each rule set that is asked for."""

    __slots__ = ("_plan", "_restarts", "_servers", "_sessions")

    def __init__(self, plan: ReplayPlan, agents: Mapping[str, AgentLabels]) -> None:
        self._plan = plan
        self._servers = plan.servers(agents)
        wanted = [Rules.GATEWAY, Rules.STRICT] if plan.rules == BOTH else [Rules(plan.rules)]
        self._sessions = [
            Session(self._servers, rules=rules, mode=plan.mode, **plan.session_options) for rules in wanted
        ]
        self._restarts = 0

    def ready(self, each: LabelledCall, known: KnownLabels) -> Ready:
        """What is known of a call whatever the mode and the rules, which the folds of all modes may use."""
        name = each.call.server or ""
        return Ready(each, self._servers.get(name), self._sessions[0].mode_at(name), self._plan, known)

    def decide(self, ready: Ready, summary: ReplaySummary) -> DecisionRecord:
        """The record of the session's next call, which is counted."""
        call = ready.each.call
        source = summary.begin(call)
        record, predicted = self._decide(ready, source.events > 0)
        source.predicted += predicted
        summary.predicted_events += predicted
        summary.count(record)
        if type(ready.server) is NoGuard:
            summary.unguarded[call.server or ""] += 1
        return record

    def _decide(self, ready: Ready, log_has_events: bool) -> tuple[DecisionRecord, int]:
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
        # Once for all rule sets, so that the answer and the result are read once.
        labels = ready.labels.in_mode(main.mode_at(call.server or ""))
        decisions = [_decided(session, call, labels, ending) for session in self._sessions]
        differs = _difference(*decisions) if len(decisions) == 2 else UNSET
        record = self._record(ready, ending, decisions[0], differs, read, log_has_events)
        self._restarts += ready.restarts
        return record, predicted_events(decisions[0]) if decisions[0].rules is Rules.GATEWAY else 0

    def _record(
        self,
        ready: Ready,
        ending: _Ending,
        decision: Decision,
        differs: Differs | UnsetType | None,
        read: frozenset[str],
        log_has_events: bool,
    ) -> DecisionRecord:
        call, label = ready.each.call, ready.labels.label
        is_write = decision.operation is not Operation.READ
        sent = None if call.observed is None else call.observed.get("ifc")
        filtered, seen = filtered_and_seen(decision)
        agrees = Agrees.UNKNOWN
        if decision.rules is Rules.GATEWAY and ending.labels_from is None:
            agrees = agreement(decision, call.observed, log_has_events)
            if agrees is Agrees.NO and call.pairing is Pairing.AMBIGUOUS:
                agrees = Agrees.UNKNOWN  # the result may be another call's
        elif ending.labels_from is not None:
            agrees = Agrees.YES if decision.verdict is Verdict.DENIED else Agrees.UNKNOWN
        return replace(
            ready.record,
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
            contradicts=contradicted(decision, label, sent) if sent is not None else (),
            differs=differs,
            restarts=self._restarts,
            would_pass_with=would_pass_with(decision, label),
            agrees=agrees._value_,
        )

    def _undecided(self, call: Call, why: WhyUndecided, because: str) -> DecisionRecord:
        """Of such a call not even the mode is known, or whether it would have been denied."""
        agent = tag_pair(self._sessions[0].agent)
        mode = self._plan.mode or mode_of(self._plan.session_options["default_mode"])
        return replace(
            _record_of(call),
            mode=mode.value,
            rules=Rules.GATEWAY.value if self._plan.rules == BOTH else self._plan.rules,
            verdict=Verdict.UNDECIDED.value,
            why=why.value,
            error=because,
            agent_before=agent,
            agent_after=agent,
        )


class Ready:
    """A call that is ready to be decided on: what depends neither on the mode nor on the rules is made once.

    Attributes:
        each: the call with its labellings.
        server: what stands before its server; None if nothing is known of it.
        ending: how its labellings ended; None if nothing can be decided.
        labels: its labels, in the mode of the first plan.
        record: its record, without what is decided.
        restarts: how often its guard began anew after it.
    """

    __slots__ = ("each", "ending", "labels", "record", "restarts", "server")

    def __init__(
        self, each: LabelledCall, server: Server | None, mode: DifcMode, plan: ReplayPlan, known: KnownLabels
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
        failed = _failed(each)
        self.restarts = sum([outcome.status in _ENDS_THE_GUARD for outcome in failed]) if failed else 0
        label = self.labels.label
        facts = plan.facts.get(call.server or "")
        self.record = _record_of(
            call,
            guard=None if facts is None else call.server,
            guard_sha256=None if facts is None else facts.guard_sha256,
            policy_sha256=None if facts is None else facts.policy_sha256,
            resource=None if label is None else resource_record(label),
            labels_from=ending.labels_from,
            warnings=warning_codes((ending.label, ending.response)),
            sink=SinkRecord(tuple(server.accept), server.visibility) if type(server) is Sink else None,
            enrichment=_enrichment(each),
            labelling=ending.labelling,
        )


class _Ending(msgspec.Struct, frozen=True, gc=False):
    """How a call's labellings ended, and what its result is.

    Attributes:
        label, response: the labels, where there are any.
        resource_error, response_error: why there is none.
        tool_result: the result; UNSET if the recording has none that can be judged.
        why, because: why nothing can be decided unless the call is denied, in a word and in a line.
        labelling: for the record.
        labels_from: `"log"` if the label is that of the recording's own denial.
        trapped: whether the gateway's guard would answer nothing more after it.
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
    ending = _Ending(
        label if isinstance(label, ResourceLabel) else None,
        labels if isinstance(labels, ResponseLabel) else None,
        resource_error,
        response_error,
        result,
    )
    failed = _failed(each)
    if not failed:
        return ending
    ours = next((outcome for outcome in failed if outcome.status not in _GUARDS_FAULT), None)
    return replace(
        ending,
        why=None if ours is None else WhyUndecided.NO_LABEL,
        because=None if ours is None else f"{ours.op}: {_why(ours)}",
        labelling=Labelling(_failure(resource), _failure(response)),
        trapped=any(outcome.status in POISONING for outcome in failed),
    )


def _failed(each: LabelledCall) -> list[Outcome]:
    """The labellings of a call that gave no label."""
    return [outcome for outcome in each[1:] if outcome is not None and outcome.status is not Status.OK]


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


def _decided(session: Session, call: Call, labels: CallLabels, ending: _Ending) -> Decision:
    decision = session.decide_on(call.server or "", labels, trapped=ending.trapped)
    if ending.why is not None and decision.verdict is Verdict.LABELLING_ERROR:
        # The label is missing for a reason of ours, or of the recording: the gateway may have had one.
        return replace(decision, verdict=Verdict.UNDECIDED, error=ending.because)
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


def _record_of(call: Call, **members: Any) -> DecisionRecord:
    """The record of a call with these members, and without what is decided: it is changed, not made anew, for each decision."""
    args = call.args_json
    if args is not None and b"\n" in args:
        args = _encode(call.args)
    return replace(
        _NOTHING_DECIDED,
        call=call.call,
        session=call.session,
        agent=call.agent,
        server=call.server,
        tool=call.tool,
        at=call.at,
        run=call.run,
        workflow=call.workflow,
        repository=call.repository,
        source=call.source,
        args_json=msgspec.Raw(args or b"null"),
        result_is=call.result_is._value_,
        pairing=call.pairing.value if call.pairing in _UNCERTAIN else None,
        payload=_odd_states(call.payload),
        observed=call.observed,
        **members,
    )


_NOTHING_DECIDED = DecisionRecord(
    v=VERSION,
    call="",
    session="",
    result_is="",
    mode="",
    rules="",
    verdict="",
    agent_before=TagPair(),
    agent_after=TagPair(),
    agrees=Agrees.UNKNOWN.value,
)
_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode
_UNCERTAIN = (Pairing.AMBIGUOUS, Pairing.UNMATCHED)
_AS_USUAL = (None, PayloadState.INTACT)


def _odd_states(payload: Payload) -> dict[str, str]:
    """What is not intact of arguments and result, and how."""
    args, result = payload
    if args in _AS_USUAL and result in _AS_USUAL:
        return {}
    states = {"args": args, "result": result}
    return {name: state.value for name, state in states.items() if state is not None and state not in _AS_USUAL}
