"""The places where the gateway fails open or contradicts itself, and how a decision tells that it met one.

`PLACES` says what each id means. A function below looks at one step of a decision and returns the ids it met there. Some
need more than one call, and `guardpool.decide.session` tells them; some are in no decision at all, and `NOT_IN_DECISIONS`
says why.
"""

from __future__ import annotations

from collections.abc import Sequence

from guardpool.contract.expansion import UNLABELED, unwrap
from guardpool.decide.accumulation import gateway_accumulates, strict_accumulates
from guardpool.decide.call import AgentState, CallLabels
from guardpool.decide.case import Case
from guardpool.decide.decided_item import DecidedItem
from guardpool.decide.flow import STAR, evaluate, write_failures
from guardpool.decide.items import Found, is_text, joined_labels, limit_of
from guardpool.decide.sinks import NoGuard, Sink, WhyNoGuard
from guardpool.decide.words import BYPASS, PROPAGATE, READ, READ_WRITE, STRICT_MODE, Failure, Rule
from guardpool.labels import Labels, ResourceLabel, ResponseLabel

PLACES: dict[str, str] = {
    "B1": "the resource may not be read, the guard labelled no items, and the whole result was delivered",
    "B2": "the guard labelled no items of a result that has some: only the resource's label was looked at, if at all",
    "B3": "text was let through by the guard's label for texts, though the resource's label would have kept it back",
    "B4": "strict mode went to the backend although the resource may not be read",
    "B5": "the result was flattened to an array, and what stood around its items is lost",
    "B6": "one trusted item kept a tag for the agent that other items it read do not have",
    "B7": "an empty collection, or a tag '*', took all of the agent's integrity away",
    "B8": "denied items changed the agent's labels, or a write was judged by labels from before its own read",
    "B9": "integrity that the agent had lost was given back by a guard's label_agent",
    "B10": "a write was denied for what the agent is cleared for, though it has read nothing of it",
    "B11": "an item without labels ends the request in the gateway",
    "B13": "a label of something below an item replaced the item's own",
    "B14": "the result has several texts: the guard looks at the first, the gateway joins all",
    "B15": "an item without any label, or a tag '*', was let through",
    "B16": "limits on calls are in a policy that no guard takes: the gateway fails every call",
    "B17": "items past the guard's limit were let through by the default label, or are gone without notice",
    "B18": "the guard gave no known operation, and 'write' was taken: a response would not have been labelled",
    "B19": "tags that are not an array of strings were taken for no tags",
    "B20": "the text of an error speaks of a rate limit, so it was delivered without a look at labels",
    "B22": "the guard, its policy or the server could not be used, and the call went on without one",
    "B23": "no guard: every call is denied to an agent that demands integrity, and allowed to any other",
    "B24": "a tool that the guard does not know, and that may write, was taken for a read",
    "B25": "strict mode delivered the response of a read-write without labelling it, where filter would have labelled it",
    "B26": "integrity and secrecy both failed, and the gateway tells of integrity alone",
    "B29": "the guard trapped: in the gateway every later call of it fails",
    "B32": "the guard's items are no items, and the agent gets an empty list without notice",
    "B34": "the agent carries integrity tags of another server's policy, which nothing on this server has",
}

NOT_IN_DECISIONS: dict[str, str] = {
    "B12": "labels of a single value are an answer that no wasm guard can give",
    "B21": "prompts never meet a guard, so there is no call to decide on",
    "B27": "it is about the gateway's advice, and decisions have words of their own",
    "B28": "a question without an answer lowers a label before it is a label; outcomes count such questions",
    "B30": "it is about the proxy, which decides on HTTP requests",
    "B31": "it is about what the gateway logs; every decision is a record",
    "B33": "a guard's memory changes labels, not what is decided by them",
}

_READ_PAIR = frozenset((Rule.READ_INTEGRITY, Rule.READ_SECRECY))
_WRITE_PAIR = frozenset((Rule.WRITE_INTEGRITY, Rule.WRITE_SECRECY))


def told_in_part(failed: Sequence[Failure]) -> bool:
    """Whether both rules of a pair failed, of which the gateway tells one (B26)."""
    if len(failed) < 2:
        return False
    rules = {failure.rule for failure in failed}
    return rules >= _READ_PAIR or rules >= _WRITE_PAIR


def dropped_tags(label: ResourceLabel | ResponseLabel) -> bool:
    """Whether the guard gave tags in a form that was taken for no tags (B19)."""
    return any(warning.code in ("tags_dropped", "not_an_array") for warning in label.warnings)


def may_write_unseen(call: CallLabels) -> bool:
    """Whether the guard does not know the tool and its server does not say that it only reads (B24)."""
    return call.tool_known is False and call.read_only_hint is not True


def of_the_call(case: Case) -> list[str]:
    """What the gateway met before it asked the backend."""
    call, resource = case.call, case.resource
    met = []
    if case.coarse is BYPASS and case.mode is STRICT_MODE:
        met.append("B4")
    if not case.operation_is_known:
        met.append("B18")
    if resource.warnings and dropped_tags(resource):
        met.append("B19")
    if type(call.resource) is NoGuard:
        met.append("B23" if call.resource.why is WhyNoGuard.NONE else "B22")
    if call.tool_known is False and case.operation is READ and may_write_unseen(call):
        met.append("B24")
    if not case.failed:
        if type(call.resource) is not Sink and _star_opens(case, resource):
            met.append("B15")
    elif case.mode is not PROPAGATE and told_in_part(case.failed):
        met.append("B26")
    return met


def _star_opens(case: Case, data: Labels | ResourceLabel) -> bool:
    """Whether a `*` is the reason that nothing is denied."""
    agent = case.agent
    if STAR in data.integrity or STAR in data.secrecy or STAR in agent.secrecy or STAR in agent.integrity:
        denied, _failed = evaluate(agent, data, case.operation, case.mode, star=False)
        return denied
    return False


def of_a_whole(case: Case, labelled: bool) -> list[str]:
    """What the gateway met when it delivered the raw result. `labelled`: whether it asked the guard for the items' labels."""
    met = []
    if case.coarse is BYPASS:
        met.append("B1")
    if isinstance(case.call.resource, NoGuard):
        return met
    if labelled and has_unlabelled_items(case):
        met.append("B2")
    if case.operation is READ_WRITE and case.mode is STRICT_MODE:
        met.append("B25")
    return met


def has_unlabelled_items(case: Case) -> bool:
    """Whether a guard that labelled no items had some before it: an array, or anything that only they could have opened."""
    if not isinstance(case.call.resource, ResourceLabel):
        return False
    inside = unwrap(case.call.tool_result)
    root = inside.root
    if isinstance(root, (list, tuple)):
        return bool(root)
    if isinstance(root, dict) and isinstance(root.get("content"), list):
        root = root["content"]  # an MCP result without JSON in it: its parts
    return case.coarse is BYPASS and root not in (None, "", {}, [])


def of_the_items(case: Case, found: Found, items: Sequence[DecidedItem], denied: int) -> list[str]:
    """What the gateway met when it judged items, of which it denied so many."""
    agent = case.agent
    met = [] if found.is_plain else _of_an_odd_answer(found)
    if found.is_whole and case.coarse is BYPASS and items[0].allowed and is_text(found):
        met.append("B3")
    may_be_opened = not found.is_regular or STAR in agent.secrecy or STAR in agent.integrity
    if may_be_opened and _is_any_shown_unlabelled(case, items):
        met.append("B15")
    if denied and case.mode is not PROPAGATE and _is_any_told_in_part(items):
        met.append("B26")
    limit = limit_of(found, case.call.item_limit)
    if limit is not None and found.label.items is None and _shows_past_the_limit(limit, found, items):
        met.append("B17")
    return met


def _is_any_shown_unlabelled(case: Case, items: Sequence[DecidedItem]) -> bool:
    shown = [item.labels for item in items if item.allowed]
    return any(labels is UNLABELED or _star_opens(case, labels) for labels in shown)


def _is_any_told_in_part(items: Sequence[DecidedItem]) -> bool:
    return any(map(told_in_part, [item.failed for item in items if not item.allowed]))


def _of_an_odd_answer(found: Found) -> list[str]:
    met = []
    if found.label.warnings and dropped_tags(found.label):
        met.append("B19")
    if not found.names_items and _nested_labels_replace(found):
        met.append("B13")
    if found.text_parts > 1:
        met.append("B14")
    if leaves_items_out(found):
        met.append("B17")
    if found.label.items is not None and not found.data:
        met.append("B32")
    return met


def _nested_labels_replace(found: Found) -> bool:
    """Whether an item that paths name has other labels than all of what they say joined."""
    for index, given in found.given.items():
        if len(given) > 1 or not found.is_exact(given[0]):
            joined = joined_labels(found, index)
            if joined is None or not _same_tags(joined, found.labels[index]):
                return True
    return False


def _same_tags(one: Labels, other: Labels) -> bool:
    return one.secrecy == other.secrecy and one.integrity == other.integrity


def leaves_items_out(found: Found) -> bool:
    """Whether the guard's own list of items, in the answer's older form, is shorter than the array it stands for."""
    if found.label.items is None:
        return False
    root = found.inside.root
    return isinstance(root, (list, tuple)) and len(root) > len(found.data)


def _shows_past_the_limit(limit: int, found: Found, items: Sequence[DecidedItem]) -> bool:
    """Whether an item was shown that the guard did not look at."""
    return any(item.allowed and item.index not in found.given for item in items[limit:])


def of_accumulation(case: Case, after: AgentState, items: Sequence[Labels] | None, denied: Sequence[bool]) -> list[str]:
    """What the gateway met when it changed the agent's labels in propagate.

    Args:
        after: the agent's labels after the call.
        items: the labels of all items, None if there were none: then the resource's label counted.
        denied: for each item whether it was denied.
    """
    before, resource = case.agent, case.resource
    met = []
    if items is not None:
        if items and not after.integrity <= strict_accumulates(before, items, resource).integrity:
            met.append("B6")
        lost = before.integrity - after.integrity
        if lost and (not items or any(STAR in labels.integrity for labels in items)):
            met.append("B7")
    by_denied = items is not None and any(denied) and _counts_denied(case, after, items, denied)
    late = case.operation is READ_WRITE and bool(write_failures(after, resource, star=True))
    if by_denied or late:
        met.append("B8")
    return met


def _counts_denied(case: Case, after: AgentState, items: Sequence[Labels], denied: Sequence[bool]) -> bool:
    """Whether the agent would have other labels if only what it was shown had counted."""
    shown = [labels for labels, no in zip(items, denied) if not no]
    return gateway_accumulates(case.agent, shown, case.resource) != after
