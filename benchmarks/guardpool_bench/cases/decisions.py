"""Decisions over labels that are there: how many calls of one item a core decides in a second.

By both rule sets, for an item that the agent may read and one that it may not: an object, which need not be read as JSON,
because the whole result is the item, and a list of one object, which has to be read. A session's fold of the same calls stands
beside them. `kept` begins with the bytes of the two labels, as a file or a store has them. Then whole calls of a replay:
with both rule sets, the record and its line, in one mode and in all four that there are, which need no guard. The time is the
processor's, in one thread.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

from guardpool import AgentLabels, DifcMode, Guard, Outcome, Status, decide, samples
from guardpool.labels import (
    Labels,
    Operation,
    PathLabel,
    ResourceLabel,
    ResponseLabel,
    label_from_json,
    label_to_json,
)
from guardpool.outcomes import StoredLabel
from guardpool.recorded_labels import LabelledCall, RecordedLabels
from guardpool.recordings import Call, ResultIs
from guardpool.replay_fold import BOTH, ReplayPlan
from guardpool.replaying import Replays
from guardpool_bench.context import Context
from guardpool_bench.measure import take_turns

NO_TAGS: frozenset[str] = frozenset()
NONE = frozenset({"none:all"})
APPROVED = NONE | {"unapproved:all", "approved:all"}
_AGENT = decide.AgentState(frozenset({"private:o/r"}), APPROVED)
# About the members of a short issue.
_ISSUE = {
    "number": 1,
    "title": "The title of an issue of the usual length, or nearly",
    "body": "Words. " * 30,
    "user": {"login": "somebody"},
    "labels": [{"name": "bug"}],
}


class Way(NamedTuple):
    """One thing to decide on, again and again."""

    key: str
    title: str
    decide_once: Callable[[], object]


def ways() -> list[Way]:
    """Everything that is measured."""
    shapes: dict[str, tuple[Any, Callable[[frozenset[str]], ResponseLabel]]] = {
        "object": (_ISSUE, lambda tags: ResponseLabel((), Labels("issue", NO_TAGS, tags))),
        "list": ([_ISSUE], lambda tags: ResponseLabel((PathLabel("/0", "issue", NO_TAGS, tags),))),
    }
    made = []
    for rules in decide.Rules:
        for shape, (value, response_of) in shapes.items():
            result = {"content": [{"type": "text", "text": json.dumps(value)}]}
            for outcome, tags in (("shown", APPROVED), ("filtered", NONE)):
                resource = ResourceLabel("issue", NO_TAGS, tags, Operation.READ)
                response = response_of(tags)
                title = f"{rules}: {'an' if shape == 'object' else 'a'} {shape}, {outcome}"
                single = _single(decide.Monitor(rules), resource, response, result)
                made.append(Way(f"{rules}.{shape}.{outcome}", title, single))
                if outcome == "shown":
                    kept = _from_bytes(decide.Monitor(rules), resource, response, result)
                    made.append(
                        Way(
                            f"{rules}.{shape}.kept",
                            f"{rules}: {'an' if shape == 'object' else 'a'} {shape}, kept",
                            kept,
                        )
                    )
        resource = ResourceLabel("issue", NO_TAGS, APPROVED, Operation.READ)
        fold = _fold(rules, resource, shapes["object"][1](APPROVED), {"content": [{"type": "text", "text": "{}"}]})
        made.append(Way(f"{rules}.session", f"{rules}: an object, shown, in a session", fold))
    return made


def _single(
    monitor: decide.Monitor, resource: ResourceLabel, response: ResponseLabel, result: Any
) -> Callable[[], object]:
    def decide_once() -> object:
        call = decide.CallLabels("get_issue", DifcMode.FILTER, resource=resource, response=response, tool_result=result)
        return monitor.decide(_AGENT, call)

    return decide_once


def _from_bytes(
    monitor: decide.Monitor, resource: ResourceLabel, response: ResponseLabel, result: Any
) -> Callable[[], object]:
    resource_json, response_json = label_to_json(resource), label_to_json(response)

    def decide_once() -> object:
        call = decide.CallLabels(
            "get_issue",
            DifcMode.FILTER,
            resource=label_from_json("label_resource", resource_json),  # type: ignore[arg-type]
            response=label_from_json("label_response", response_json),  # type: ignore[arg-type]
            tool_result=result,
        )
        return monitor.decide(_AGENT, call)

    return decide_once


# As many as a replay takes together.
_PORTION_CALLS = 64
_MODES = (None, "strict", "filter", "propagate")


def replayed(calls: int, modes: Sequence[str | None]) -> Replays:
    """A replay of so many calls of one issue, in some modes, whose labels are there."""
    guards = [Guard("github", samples.GUARD.read_bytes(), samples.POLICY)]
    options = {"default_mode": DifcMode.STRICT}
    plans = [ReplayPlan(guards, {}, (), BOTH, None if mode is None else DifcMode(mode), options) for mode in modes]
    return Replays((), cast(RecordedLabels, _GivenLabels(calls)), plans)


class _GivenLabels:
    """Labels of calls in the place of `RecordedLabels`, which would ask a guard for them."""

    enrichment = conflicts = 0
    kept = None

    def __init__(self, calls: int) -> None:
        self.agents = {"github": AgentLabels(_AGENT.secrecy, _AGENT.integrity, DifcMode.FILTER)}
        self.asked: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self._calls = calls

    def labelled(self, portions: object) -> Iterator[list[LabelledCall]]:
        """The calls: different numbers of issues, which is what differs between labels."""
        numbers = iter(range(self._calls))
        while portion := [_labelled_call(number) for number in islice(numbers, _PORTION_CALLS)]:
            yield portion

    def close(self) -> None:
        """Nothing was begun."""


def _labelled_call(number: int) -> LabelledCall:
    issue = {**_ISSUE, "number": number}
    result = json.dumps({"content": [{"type": "text", "text": json.dumps([issue])}]}).encode()
    what = f"issue:o/r#{number}"
    resource = StoredLabel(label_to_json(ResourceLabel(what, NO_TAGS, APPROVED, Operation.READ)))
    response = StoredLabel(label_to_json(ResponseLabel((PathLabel("/0", what, NO_TAGS, APPROVED),))))
    return LabelledCall(
        Call(
            call=f"log#{number}",
            source="a log",
            server="github",
            tool="list_issues",
            args_json=b"{}",
            result_json=result,
            result_is=ResultIs.RAW,
        ),
        Outcome(number, "github", "label_resource", "list_issues", Status.OK, resource),  # type: ignore[arg-type]
        Outcome(number, "github", "label_response", "list_issues", Status.OK, response),  # type: ignore[arg-type]
    )


def _fold(rules: decide.Rules, resource: ResourceLabel, response: ResponseLabel, result: Any) -> Callable[[], object]:
    guarded = decide.Guarded(AgentLabels(_AGENT.secrecy, _AGENT.integrity, DifcMode.FILTER))
    session = decide.Session({"github": guarded}, rules=rules)
    return lambda: session.decide("github", "get_issue", resource=resource, response=response, tool_result=result)


def run(context: Context) -> None:
    """Measure each way, in turns."""
    every = ways()
    calls = 10 * context.scale.calls

    def measure(way: Way, turn: int) -> float:
        context.step(f"{way.title}, run {turn + 1} of {context.scale.runs}")
        return rate(way, calls)

    for way in every:
        rate(way, calls // 10)
    for way, values in zip(every, take_turns(every, context.scale.runs, measure)):
        context.record(way.key, way.title, "decisions/s", "higher", values)
    ways_of_replays = ((_MODES[:1], "replay"), (_MODES, "replay-modes"))

    def measure_replay(way: tuple[Sequence[str | None], str], turn: int) -> float:
        context.step(f"a replay in {len(way[0])} modes, run {turn + 1} of {context.scale.runs}")
        return replay_rate(calls // 10, way[0])

    for (modes, key), values in zip(ways_of_replays, take_turns(ways_of_replays, context.scale.runs, measure_replay)):
        title = (
            f"a replay's calls by both rule sets, with their lines, {'one mode' if len(modes) == 1 else 'four modes'}"
        )
        context.record(key, title, "calls/s", "higher", values)


def replay_rate(calls: int, modes: Sequence[str | None]) -> float:
    """Calls a second of processor time, each decided on by both rule sets in some modes, and the lines of its records made."""
    several = replayed(calls, modes)
    lines = 0.0
    for records in several:
        began = time.process_time()
        for record in records:
            record.to_line()
        lines += time.process_time() - began
    return calls / (several.summaries[0].processor_seconds["decide"] + lines)


def rate(way: Way, calls: int) -> float:
    """Decisions a second of processor time."""
    decide_once = way.decide_once
    began = time.process_time()
    for _ in range(calls):
        decide_once()
    return calls / (time.process_time() - began)
