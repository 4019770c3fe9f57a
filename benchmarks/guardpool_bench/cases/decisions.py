"""Decisions over labels that are there: how many calls of one item a core decides in a second.

By both rule sets, for an item that the agent may read and one that it may not: an object, which need not be read as JSON,
because the whole result is the item, and a list of one object, which has to be read. A session's fold of the same calls stands
beside them. The time is the processor's, in one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from guardpool import AgentLabels, DifcMode, decide
from guardpool.labels import Labels, Operation, PathLabel, ResourceLabel, ResponseLabel
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


def rate(way: Way, calls: int) -> float:
    """Decisions a second of processor time."""
    decide_once = way.decide_once
    began = time.process_time()
    for _ in range(calls):
        decide_once()
    return calls / (time.process_time() - began)
