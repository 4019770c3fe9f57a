"""One call under the strict rules: what should have happened.

Where they differ from the gateway's: what is unknown or not valid is denied, a denied resource is final in strict mode, the
resource decides where the guard labelled no items or only guessed, and labels change by what was shown.
"""

from __future__ import annotations

from msgspec import UNSET

from guardpool.decide import unsafe
from guardpool.decide.accumulation import strict_accumulates
from guardpool.decide.call import AgentState, CallLabels
from guardpool.decide.case import Case, begin, ends_early
from guardpool.decide.decided_item import DecidedItem
from guardpool.decide.decision import Decision
from guardpool.decide.flow import evaluate_each, read_failures, write_failures
from guardpool.decide.gateway import NO_RESULT, decided_items, judged_items
from guardpool.decide.items import Found, has_odd_tag, limit_of, regular_labels, strict_labels
from guardpool.decide.results import strict_loses
from guardpool.decide.sinks import NoGuard, Sink
from guardpool.decide.verdicts import verdict_on_items
from guardpool.decide.words import (
    ALLOWED,
    BYPASS,
    DENIED,
    ITEMS,
    PROPAGATE,
    READ,
    READ_WRITE,
    STRICT_MODE,
    STRICT_RULES,
    WHOLE,
    WRITE,
    Coarse,
    Failure,
    Rule,
    Rules,
    Verdict,
)
from guardpool.errors import ContractError
from guardpool.labels import DifcMode, Labels, Operation, ResourceLabel


def decide(agent: AgentState, call: CallLabels, label_writes: bool = False) -> Decision:
    """What the strict rules do with a call of `agent`.

    Args:
        agent: the agent's labels.
        call: the call's labels.
        label_writes: whether what a write returns is judged, too, by the read rules.
    """
    if type(call.resource) is NoGuard:
        failed = (Failure(Rule.CONFIGURATION, detail=_WHY[str(call.resource.why)]),)
        return ends_early(Rules.STRICT, agent, call, Verdict.DENIED, failed)
    resource = call.label
    wrong = wrong_with_resource(call)
    if resource is None or wrong:
        return ends_early(Rules.STRICT, agent, call, Verdict.LABELLING_ERROR, error=f"label_resource: {wrong}")
    case = begin(STRICT_RULES, agent, call, resource)
    case.operation = strict_operation(case)
    is_sink = type(call.resource) is Sink
    case.coarse, case.failed = coarse_check(agent, resource, case.operation, case.mode, star=is_sink)
    if case.coarse is DENIED:
        return case.ends(Verdict.DENIED)
    if call.tool_result is UNSET:
        return case.ends(Verdict.UNDECIDED, error=NO_RESULT)
    if case.operation is WRITE and not label_writes:
        return case.ends(WHOLE, shown=call.tool_result)
    try:
        found = found_items(call)
        items = judge_items(case, found)
    except ContractError as error:
        return case.ends(Verdict.LABELLING_ERROR, response_labelled=True, error=f"label_response: {error}")
    return _deliver(case, found, items)


def _deliver(case: Case, found: Found | None, items: list[DecidedItem]) -> Decision:
    """The verdict on judged items. In propagate a read-write is judged once more, after what it read."""
    shown = [item for item in items if item.allowed]
    denied = len(items) - len(shown)
    verdict = verdict_on_items(case.call.tool_name, case.mode, len(shown), denied)
    if verdict is not ITEMS:
        return case.ends(verdict, response_labelled=True, items=items, found=found)
    after = None
    if case.mode is PROPAGATE:
        after = strict_accumulates(case.agent, [item.labels for item in shown], case.resource)
        if case.operation is READ_WRITE:
            of_writing = write_failures(after, case.resource, star=False)
            if of_writing:
                case.failed += of_writing
                return case.ends(Verdict.DENIED, response_labelled=True, items=items, found=found)
    if found is None and not denied:
        if unsafe.has_unlabelled_items(case):
            case.met.append("B2")
        return case.ends(WHOLE, after, response_labelled=True, shown=case.call.tool_result)
    lost: tuple[str, ...] = ()
    if found is not None:
        may_read = case.coarse is ALLOWED and case.operation is not WRITE
        lost = strict_loses(found, [item.index for item in shown], may_read)
        if unsafe.leaves_items_out(found):
            case.met.append("B17")
    data = [item.data for item in shown]
    return case.ends(verdict, after, response_labelled=True, items=items, shown=data, lost=lost, found=found)


def strict_operation(case: Case) -> Operation:
    """The operation under the strict rules: read-write where it is not known.

    It is not known if the guard gave none of the three words, and if the guard does not know the tool and the tool's server
    does not say that it only reads.
    """
    if not case.operation_is_known or unsafe.may_write_unseen(case.call):
        return READ_WRITE
    return case.operation


def wrong_with_resource(call: CallLabels) -> str:
    """What is wrong with the answer of `label_resource`; empty if it is valid.

    A resource's tags must be arrays of strings that are not empty, and no tag may be `*`. A sink's tags come from the
    configuration, where `*` stands for all.
    """
    if type(call.resource) is Sink:
        return ""
    resource = call.label
    if resource is None:
        return call.resource_error or "no label"
    if resource.warnings and unsafe.dropped_tags(resource):
        return "its tags are not arrays of strings"
    if has_odd_tag(resource):
        return "it has a tag '*' or an empty tag"
    return ""


def coarse_check(
    agent: AgentState, resource: ResourceLabel, operation: Operation, mode: DifcMode, star: bool
) -> tuple[Coarse, tuple[Failure, ...]]:
    """The check before the backend is asked.

    In strict mode a denial is final for every operation. In filter a read that is denied goes on, and its items decide; if the
    guard labels none, the resource does. In propagate only write rules deny.
    """
    failed: tuple[Failure, ...] = ()
    if operation is not WRITE:
        failed = read_failures(agent, resource, star)
    of_writing = () if operation is READ else write_failures(agent, resource, star)
    failed_to_read = bool(failed) and mode is not PROPAGATE
    if of_writing or (failed_to_read and (mode is STRICT_MODE or operation is READ_WRITE)):
        return DENIED, failed + of_writing
    return BYPASS if failed_to_read else ALLOWED, failed


def found_items(call: CallLabels) -> Found | None:
    """The items of the call's result; None if the guard gave none.

    Raises:
        ContractError: the guard's answer is not valid by the strict rules, or does not fit the result.
    """
    if call.response_error is not None:
        raise ContractError(call.response_error)
    label = call.answer
    if label is None:
        return None
    if label.warnings and unsafe.dropped_tags(label):
        raise ContractError("its tags are not arrays of strings")
    if label.items is not None and not label.items:
        raise ContractError("none of its items is an object")
    return call.found


def judge_items(case: Case, found: Found | None) -> list[DecidedItem]:
    """Every item, judged by the read rules. Without items the resource is the one item.

    The write rules of a read-write are for the resource, which is what it writes to, and not for what comes back. In propagate
    no read rule denies; an item without a valid label is denied in every mode.

    Raises:
        ContractError: the JSON text in the result is nested too deeply.
    """
    agent, resource, call = case.agent, case.resource, case.call
    propagates = case.mode is PROPAGATE
    if found is None:
        one = Labels(resource.description, resource.secrecy, resource.integrity)
        failed = read_failures(agent, one, star=False)
        return [DecidedItem(0, "", call.tool_result, one, propagates or not failed, failed)]
    if found.is_regular and limit_of(found, call.item_limit) is None:
        regular = regular_labels(found, resource)
        return judged_items(case, found, regular, READ, star=False)
    strict = strict_labels(found, resource, call.item_limit)
    labels = [item.labels for item in strict]
    judged = [
        (denied or bool(item.invalid), item.invalid + failed)
        for item, (denied, failed) in zip(strict, evaluate_each(agent, labels, READ, case.mode, star=False))
    ]
    return decided_items(found, labels, judged)


_WHY = {
    "none": "no guard is configured for this server",
    "not-loaded": "the server's guard could not be loaded",
    "no-policy": "the server's guard has no policy",
    "unknown-server": "the server is not in the configuration",
}
