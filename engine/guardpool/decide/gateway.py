"""One call under the gateway's own rules: what happened.

The steps are those of the gateway's pipeline, in its order: the coarse check by the resource's labels, the response's labels,
the check of each item, the change of the agent's labels.

Source: github/gh-aw-mcpg at db20541: internal/server/unified.go, internal/difc/pipeline_decisions.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from guardpool.contract.document import JsonError, read
from guardpool.contract.expansion import text_of
from guardpool.decide import unsafe
from guardpool.decide.accumulation import gateway_accumulates
from guardpool.decide.call import AgentState, CallLabels
from guardpool.decide.case import Case, begin, ends_early
from guardpool.decide.decided_item import DecidedItem
from guardpool.decide.decision import Decision
from guardpool.decide.flow import STAR, Judged, evaluate, evaluate_each
from guardpool.decide.items import POINTERS, Found, is_error
from guardpool.decide.results import gateway_loses_of_items, gateway_loses_of_whole
from guardpool.decide.verdicts import verdict_on_items
from guardpool.decide.words import (
    ALLOWED,
    BYPASS,
    DENIED,
    GATEWAY_RULES,
    ITEMS,
    PROPAGATE,
    READ,
    READ_WRITE,
    STRICT_MODE,
    WHOLE,
    WRITE,
    Coarse,
    Failure,
    Rules,
    Verdict,
)
from guardpool.errors import ContractError
from guardpool.labels import DifcMode, Labels, Operation, ResourceLabel

NO_RESULT = "no recorded result"


def decide(agent: AgentState, call: CallLabels) -> Decision:
    """What the gateway does with a call of `agent`."""
    resource = call.label
    if resource is None:
        why = f"label_resource: {call.resource_error or 'no label'}"
        return ends_early(Rules.GATEWAY, agent, call, Verdict.LABELLING_ERROR, error=why)
    case = begin(GATEWAY_RULES, agent, call, resource)
    case.coarse, case.failed = coarse_check(agent, resource, case.operation, case.mode)
    case.met += unsafe.of_the_call(case)
    result = call.tool_result
    if case.coarse is DENIED:
        return case.ends(Verdict.DENIED)
    if result is UNSET:
        if "B26" in case.met:
            case.met.remove("B26")  # what the agent is told follows from a result that is not known
        return case.ends(Verdict.UNDECIDED, error=NO_RESULT)
    if is_error(result) and speaks_of_a_rate_limit(result):
        case.met.append("B20")
        return case.ends(WHOLE, shown=result, lost=gateway_loses_of_whole(result))
    if not is_labelled(case.operation, case.mode):
        return _whole(case, labelled=False)
    try:
        found = found_items(call)
    except ContractError as error:
        if _has_item_without_labels(call.response):
            case.met.append("B11")
        return case.ends(Verdict.LABELLING_ERROR, response_labelled=True, error=f"label_response: {error}")
    return _whole(case, labelled=True) if found is None else _items(case, found)


def _whole(case: Case, labelled: bool) -> Decision:
    """Without items the agent gets the raw result, whatever came of the coarse check."""
    case.met += unsafe.of_a_whole(case, labelled)
    after = None
    if case.mode is PROPAGATE and case.operation is not WRITE:
        after = gateway_accumulates(case.agent, None, case.resource)
        case.met += unsafe.of_accumulation(case, after, None, ())
    result = case.call.tool_result
    return case.ends(WHOLE, after, shown=result, lost=gateway_loses_of_whole(result), response_labelled=labelled)


def _items(case: Case, found: Found) -> Decision:
    """Each item is judged with the operation and mode of the call, and by the labels that the agent has before it."""
    labels = found.labels
    items = judged_items(case, found, labels, case.operation, star=True)
    shown = [item.data for item in items if item.allowed]
    denied = len(items) - len(shown)
    verdict = verdict_on_items(case.call.tool_name, case.mode, len(shown), denied)
    case.met += unsafe.of_the_items(case, found, items, denied)
    if verdict is not ITEMS:
        return case.ends(verdict, response_labelled=True, items=items, found=found)
    lost = gateway_loses_of_items(found)
    if lost:
        case.met.append("B5")
    after = None
    if case.mode is PROPAGATE:
        after = gateway_accumulates(case.agent, labels, case.resource)
        case.met += unsafe.of_accumulation(case, after, labels, [not item.allowed for item in items])
    return case.ends(verdict, after, response_labelled=True, items=items, shown=shown, lost=lost, found=found)


def coarse_check(
    agent: AgentState, resource: ResourceLabel, operation: Operation, mode: DifcMode
) -> tuple[Coarse, tuple[Failure, ...]]:
    """The check before the backend is asked.

    A denied read goes on in every mode, strict included: the items are to decide. A denied write or read-write ends here.
    """
    denied, failed = evaluate(agent, resource, operation, mode, star=True)
    if not denied:
        return ALLOWED, failed
    return BYPASS if operation is READ else DENIED, failed


def is_labelled(operation: Operation, mode: DifcMode) -> bool:
    """Whether the gateway asks `label_response`: for a read, and for a read-write unless the mode is strict."""
    if operation is READ_WRITE:
        return mode is not STRICT_MODE
    return operation is READ


def found_items(call: CallLabels) -> Found | None:
    """The items of the call's result; None if the guard gave none.

    Raises:
        ContractError: the guard's answer is not valid, or does not fit the result.
    """
    if call.response_error is not None:
        raise ContractError(call.response_error)
    return call.found


def judged_items(
    case: Case, found: Found, labels: Sequence[Labels], operation: Operation, star: bool
) -> list[DecidedItem]:
    """Each item of a result, judged by these labels.

    Where no tag is odd, what an agent may read is the same by both rule sets, and in all modes that deny: it is judged once.
    """
    agent, mode = case.agent, case.mode
    if operation is not READ or labels is not found.labels or not found.is_regular or STAR in agent.secrecy:
        return decided_items(found, labels, evaluate_each(agent, labels, operation, mode, star))
    denies = mode is not PROPAGATE
    items = case.call.items_judged(agent, denies)
    if items is None:
        items = decided_items(found, labels, evaluate_each(agent, labels, operation, mode, star))
        case.call.keep_judged(agent, denies, items)
    return items


def decided_items(found: Found, labels: Sequence[Labels], judged: Sequence[Judged]) -> list[DecidedItem]:
    """The record of each item."""
    if found.is_whole:
        denied, failed = judged[0]
        return [DecidedItem(0, "", found.data[0], labels[0], not denied, failed)]
    above, count = found.items_path, len(found.data)
    pointers = POINTERS if not above and count <= len(POINTERS) else [f"{above}/{index}" for index in range(count)]
    return [
        DecidedItem(index, pointer, data, item_labels, not denied, failed)
        for index, (pointer, data, item_labels, (denied, failed)) in enumerate(
            zip(pointers, found.data, labels, judged)
        )
    ]


def speaks_of_a_rate_limit(result: Any) -> bool:
    """Whether the text of an error speaks of a rate limit: the gateway delivers it without a look at labels.

    Source: github/gh-aw-mcpg, internal/server/rate_limit.go.
    """
    text = text_of(result)[0].lower()
    if any(words in text for words in _RATE_LIMIT_WORDS):
        return True
    return "rate limit" in text and "403" in text


_RATE_LIMIT_WORDS = ("rate limit exceeded", "api rate limit", "secondary rate limit", "too many requests")


def _has_item_without_labels(answer: object) -> bool:
    """Whether the answer is of the older form and an item of it has no labels: the gateway's request dies of it."""
    if not isinstance(answer, bytes):
        return False
    try:
        value = read(answer)
    except JsonError:
        return False
    items = value.get("items") if isinstance(value, dict) and "labeled_paths" not in value else None
    return isinstance(items, list) and any(
        isinstance(item, dict) and not isinstance(item.get("labels"), dict) for item in items
    )
