"""A decision in words that the maintainer of a workflow understands: what was kept back, whose it is, and by which rule.

The words are guardpool's, and about the policy: "lower min-integrity", not "drop integrity tags". Nothing is run here; which
change of a policy would admit an item is found by trying, in `guardpool.checks.search`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from guardpool.contract.policy import LEVELS
from guardpool.decide import PLACES, level_of
from guardpool.decide.agreement import difference
from guardpool.decide.record import DecisionRecord, Differs, FailedRule, FilteredItem
from guardpool.decide.server_labels import MEANINGS
from guardpool.decide.sides import MEMBER, OUTSIDER, standing
from guardpool.decide.words import POISONING
from guardpool.plurals import number_of

_ARGS_CHARS = 300
_VALUE_CHARS = 60  # what a call is about, and not the texts that it sends
_DIGITS = 12
_MOST_GROUPS = 10
_MOST_QUESTIONS = 5

_VERDICTS = {
    "items": "the items that may pass",
    "whole": "the whole result, which was not labelled item by item",
    "single-item-error": "an error: the only item is kept back",
    "strict-block": "an error: in strict mode one item that is kept back blocks all of them",
    "denied": "an error: the call is denied before the backend is asked",
    "labelling-error": "an error: there is no valid label",
}
_UNDECIDED = {
    "no-recorded-result": "the recording has no result of it that can be judged",
    "arguments-not-known": "its arguments are not in the recording, so it cannot be labelled",
    "not-labelled": "it could not be labelled, by a fault of this machine and not of the guard",
    "unknown-server": "nothing says what stands before its server: add --guard, --sink, or --guard SERVER=none",
    "denied-under-another-policy": "the recording's gateway denied it under a policy of another scope",
}
_RESULTS = {
    "no-response": "there is no response",
    "not-recorded": "what recorded it keeps no results",
    "redacted": "the recorder left its content out",
    "lost": "the recorder lost it",
    "stub": "a stub stands for it, and the file with it is not here",
    "filtered": "it is what a gateway had filtered before, and not what the server answered",
}
_FAILED = {
    "allowed-tools": "the server's list of allowed tools does not have it",
    "call-limit": "it was called as often as tool-call-limits allows",
    "configuration": "the configuration is at fault",
    "no-label": "it has no label, and what is unknown is kept back",
    "invalid-label": "its label is not valid, and what is unknown is kept back",
    "item-limit": "it is past the number of items that the guard looks at",
}
_STANDING = {MEMBER: "a member of the repository's", OUTSIDER: "no member of the repository's"}


class Line(NamedTuple):
    """One line of an explanation.

    Attributes:
        text: what it says; may hold other people's words, so it is to be printed as `printable` makes it.
        depth: how far it is indented.
        name: what stands before it; empty for a sentence.
        is_head: whether a new part begins.
    """

    text: str
    depth: int = 0
    name: str = ""
    is_head: bool = False


def explain(record: DecisionRecord, items: Sequence[FilteredItem] | None = None) -> list[Line]:
    """Why a call, or some of its items, became what they are.

    Args:
        record: the decision.
        items: the items to be explained one by one; None: all that are kept back, those that are alike together.
    """
    return [
        *_head(record),
        *_outcome(record),
        *_call_itself(record),
        *(_items_alike(record) if items is None else _items_one_by_one(record, items)),
        *_questions(record),
        *_strict(record),
        *_gateway(record),
    ]


def title(record: DecisionRecord) -> str:
    """The call in a line: its id, server, tool and arguments."""
    return f"call {record.call}: {record.server or '?'} {record.tool or '?'}{_arguments(record.args)}"


def _head(record: DecisionRecord) -> Iterator[Line]:
    yield Line(title(record), is_head=True)
    where = [
        f"{name} {value}"
        for name, value in (
            ("at", record.at),
            ("session", record.session),
            ("run", record.run),
            ("workflow", record.workflow),
            ("of", record.repository),
        )
        if value
    ]
    yield Line(", ".join(where), 1)
    if record.why == "unknown-server":
        return  # nobody judged
    guard = "no guard"
    if record.guard is not None:
        guard = f"guard {record.guard} {_short(record.guard_sha256)}, policy {_short(record.policy_sha256)}"
    elif record.sink is not None:
        guard = f"a sink: {_sink(record)}"
    yield Line(f"judged by {record.rules} rules in {record.mode} mode; {guard}", 1)


def _sink(record: DecisionRecord) -> str:
    assert record.sink is not None
    if record.sink.visibility == "public":
        return "public, so it takes writes of agents without any secrecy alone"
    return f"accepts {_tags(record.sink.accept)}"


def _arguments(args: Any) -> str:
    if not isinstance(args, dict):
        return "" if args is None else f" {_json(args)}"
    return _cut("".join(f" {name}={_cut(_plain(value), _VALUE_CHARS)}" for name, value in args.items()), _ARGS_CHARS)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _outcome(record: DecisionRecord) -> Iterator[Line]:
    text = _VERDICTS.get(record.verdict, record.verdict)
    if record.items is not None:
        counts = record.items
        text += f": {counts.shown:,} of {counts.total:,}" if record.verdict == "items" else ""
        if record.verdict == "items" and counts.filtered:
            text += f"; {counts.filtered:,} {'is' if counts.filtered == 1 else 'are'} kept back by {_rules(record)}"
    if record.is_undecided:
        why = record.why or "it is undecided"
        yield Line(f"what the agent gets is not known: {_UNDECIDED.get(why, why)}", 1)
        if record.why == "no-recorded-result":
            yield Line(_RESULTS.get(record.result_is, f"it is {record.result_is}"), 2)
    else:
        yield Line(f"the agent gets {text}", 1)
    if record.error is not None and record.verdict == "labelling-error":
        yield Line(record.error, 2)
    if record.labelling is not None:
        statuses = [status for status in (record.labelling.resource, record.labelling.response) if status]
        yield Line(f"the guard gave no label: {', '.join(statuses)}", 2)
        if any(status in POISONING for status in statuses):
            yield Line("in the gateway every later call of this run to the server would fail, too (B29)", 2)


def _rules(record: DecisionRecord) -> str:
    counts: dict[str, int] = {}
    for item in record.filtered:
        for failure in item.failed:
            counts[failure.rule] = counts.get(failure.rule, 0) + 1
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    return ", ".join(rule if count == len(record.filtered) else f"{rule} ({count:,})" for rule, count in ordered) or "?"


def _call_itself(record: DecisionRecord) -> Iterator[Line]:
    """What the rules say of the call before its result is known."""
    if record.resource is None and not record.failed:
        return
    about = record.resource.description if record.resource is not None else ""
    operation = f"a {record.operation} of " if record.operation else ""
    words = {
        "allowed": "may go through",
        "bypass": "may not be read as a whole; the gateway asks the backend all the same, and judges what comes back",
        "denied": "is denied",
    }
    yield Line(
        f"the call itself ({operation}{about or 'something without a name'}) {words.get(record.coarse or '', '')}", 1
    )
    if record.resource is not None and record.failed and not record.filtered:
        yield from _labels(record, record.resource.secrecy, record.resource.integrity, record.failed, 2)
    elif record.verdict != "single-item-error":  # whose only item is what the call is about
        integrity = () if record.resource is None else record.resource.integrity
        yield from _reasons(record, record.failed, 2, integrity)
    if record.labels_from == "log":
        yield Line("its labels are those that the recording's gateway logged when it denied the call", 2)
    if record.coarse == "denied" and record.would_pass_with:
        yield Line(_change(record.would_pass_with), 2, "would pass with")
    lacking = {tag for failure in record.failed if failure.rule == "write-secrecy" for tag in failure.extra}
    if record.coarse == "denied" and record.sink is not None and lacking:
        is_public = record.sink.visibility == "public"
        accepted = lacking if is_public else lacking.union(record.sink.accept)
        yield Line(
            f"accept {_tags(sorted(accepted))}{', and no public sink' if is_public else ''}", 2, "would pass with"
        )


def _items_alike(record: DecisionRecord) -> Iterator[Line]:
    """The items that are kept back, those that are alike together: of one author, with the same labels."""
    groups: dict[tuple[Any, ...], list[FilteredItem]] = {}
    for item in record.filtered:
        key = (item.author, item.association, item.secrecy, item.integrity, item.failed)
        groups.setdefault(key, []).append(item)
    if groups:
        yield Line("kept back", is_head=True)
    for alike in list(groups.values())[:_MOST_GROUPS]:
        yield from _item(record, alike)
    if len(groups) > _MOST_GROUPS:
        left = sum(len(alike) for alike in list(groups.values())[_MOST_GROUPS:])
        kinds = len(groups) - _MOST_GROUPS
        items = f"{left:,} more item{'' if left == 1 else 's'} of {kinds:,} other kind{'' if kinds == 1 else 's'}"
        yield Line(f"and {items}: --item TEXT names one", 1)


def _items_one_by_one(record: DecisionRecord, items: Iterable[FilteredItem]) -> Iterator[Line]:
    yield Line("kept back", is_head=True)
    for item in items:
        yield from _item(record, [item])


def _item(record: DecisionRecord, alike: Sequence[FilteredItem]) -> Iterator[Line]:
    item = alike[0]
    names = ", ".join(_name(each) for each in alike[:3])
    more = f" and {len(alike) - 3:,} more like these" if len(alike) > 3 else ""
    yield Line(f"{names}{more}{_by(item)}", 1)
    if len(alike) == 1 and item.url is not None:
        yield Line(item.url, 2)
    yield from _labels(record, item.secrecy, item.integrity, item.failed, 2, item.association)
    if item.would_pass_with:
        yield Line(_change(item.would_pass_with), 2, "would pass with")
    elif any(failure.rule.endswith("-integrity") or failure.rule.endswith("-secrecy") for failure in item.failed):
        yield Line("no other min-integrity", 2, "would pass with")


def _name(item: FilteredItem) -> str:
    return item.description or item.pointer or f"item {item.index}"


def _by(item: FilteredItem) -> str:
    if item.author is None:
        return ""
    who = _STANDING.get(standing(item.association))
    return f", by {item.author}" + (f" ({item.association}: {who})" if who else "")


def _labels(
    record: DecisionRecord,
    secrecy: Sequence[str],
    integrity: Sequence[str],
    failed: Sequence[FailedRule],
    depth: int,
    association: str | None = None,
) -> Iterator[Line]:
    """What a thing has and lacks, and in a sentence why that keeps it back. `association`: its author's."""
    if _has_no_guard(record):
        yield Line(
            "no guard stands before the server: every call is denied to an agent that demands integrity, and allowed to any "
            "other. Give it a guard, or write-sink if it is only written to; see guardpool lint",
            depth,
        )
        return
    rules = {failure.rule: failure for failure in failed}
    if "read-integrity" in rules:
        yield Line(_tags(integrity), depth, "has")
        yield Line(_tags(record.agent_before.integrity), depth, "needs")
        yield Line(_tags(rules["read-integrity"].missing), depth, "lacks")
    if "write-integrity" in rules:
        yield Line(_tags(record.agent_before.integrity), depth, "agent has")
        yield Line(_tags(integrity), depth, "needs")
        yield Line(_tags(rules["write-integrity"].missing), depth, "lacks")
    if "read-secrecy" in rules:
        yield Line(_tags(secrecy), depth, "private to")
        yield Line(_tags(record.agent_before.secrecy), depth, "cleared for")
    if "write-secrecy" in rules:
        yield Line(_tags(record.agent_before.secrecy), depth, "cleared for")
        yield Line(_tags(record.read), depth, "has read")
        yield Line("nothing private" if not secrecy else _tags(secrecy), depth, "accepts")
    yield from _reasons(record, failed, depth, integrity, association)


def _has_no_guard(record: DecisionRecord) -> bool:
    return record.guard is None and record.sink is None and not record.is_undecided


def _reasons(
    record: DecisionRecord,
    failed: Iterable[FailedRule],
    depth: int,
    integrity: Sequence[str],
    association: str | None = None,
) -> Iterator[Line]:
    for failure in failed:
        yield Line(_reason(record, failure, integrity, association), depth, failure.rule)


def _reason(record: DecisionRecord, failure: FailedRule, integrity: Sequence[str], association: str | None) -> str:
    if failure.rule == "read-integrity":
        return _why_not_trusted(record, failure, integrity, association)
    if failure.rule == "read-secrecy":
        return (
            f"it is private to {_scopes(failure.extra)}, and the agent is not cleared for that: "
            "the policy's repos say what the agent may read"
        )
    if failure.rule == "write-integrity":
        return (
            f"what is written to there has to be trusted as {failure.level or 'demanded'}, and the agent, who may read "
            "less trusted things, is not"
        )
    if failure.rule == "write-secrecy":
        unread = not set(failure.extra) & set(record.read)
        known = "though it has read nothing of it (B10)" if unread else "and has read it"
        return f"the agent is cleared for what is private to {_scopes(failure.extra)}, {known}; the sink does not accept that"
    return "; ".join(text for text in (_FAILED.get(failure.rule, failure.rule), failure.detail) if text)


def _why_not_trusted(
    record: DecisionRecord, failure: FailedRule, integrity: Sequence[str], association: str | None
) -> str:
    demanded = failure.level or "what the agent demands"
    if any(tag.startswith("blocked:") or tag == "blocked" for tag in integrity):
        return "its author is blocked by the policy (blocked-users), whatever min-integrity is"
    theirs, ours = _scopes_in(integrity), _scopes_in(record.agent_before.integrity)
    if theirs and ours and not theirs & ours:
        return (
            f"its labels are about {_and(theirs)} and the agent demands those of {_and(ours)}: "
            "servers with different scopes (B34), see guardpool lint"
        )
    if not integrity:
        return f"min-integrity demands {demanded}, and it has none at all: its author is blocked, or nothing is known of it"
    level = level_of(integrity)
    has = f"it is {level}" if level else "it has no level"
    if standing(association) == MEMBER and demanded == "approved":
        why = "though a member wrote it: a label of refusal-labels, a reaction, or a question without an answer lowered it"
        return f"min-integrity demands {demanded}, and {has}, {why}"
    return f"min-integrity demands {demanded}, and {has}{_how_to_be(failure.level)}"


def _scopes_in(integrity: Iterable[str]) -> set[str]:
    """What integrity tags are about: behind `LEVEL:`, or behind `integrity=LEVEL;scopes=`."""
    return {tag.partition(";scopes=")[2] or tag.partition(":")[2] for tag in integrity} - {""}


def _how_to_be(level: str | None) -> str:
    """What the GitHub guard would want to see."""
    if level == "approved":
        return ": it would be approved by a member's or a trusted user's hand, or by a label of approval-labels"
    if level == "merged":
        return ": it would be merged if it stood on the default branch"
    return ""


def _questions(record: DecisionRecord) -> Iterator[Line]:
    """What the guard asked, and what of it had no answer."""
    asked = record.enrichment
    if asked is None:
        return
    lacking = asked.asked - asked.answered
    if not lacking:
        yield Line(f"the guard asked {number_of(asked.asked, 'question')}, and was answered", 1)
        return
    yield Line(
        f"the guard asked {number_of(asked.asked, 'question')}, {lacking:,} without an answer: "
        "labels may be lower than they would have been (B28)",
        1,
    )
    for question in asked.missing[:_MOST_QUESTIONS]:
        yield Line(f"{question.tool} {_json(question.args)}", 2, "no answer to")


def _strict(record: DecisionRecord) -> Iterator[Line]:
    differs = record.differs
    if not isinstance(differs, Differs):
        return
    text = f"the strict rules would give it {_VERDICTS.get(differs.verdict, differs.verdict)}"
    if differs.items is not None and differs.verdict == "items":
        text += f": {differs.items.shown:,} of {differs.items.total:,}"
    yield Line(text, 1)
    for item in differs.hides[:3]:
        yield Line(f"{_name(item)}{_by(item)}", 2, "kept back")
        yield from _reasons(record, item.failed, 2, item.integrity, item.association)
    if len(differs.hides) > 3:
        yield Line(f"and {len(differs.hides) - 3:,} more", 2)
    if differs.error:
        yield Line(differs.error, 2)


def _gateway(record: DecisionRecord) -> Iterator[Line]:
    for place in record.unsafe:
        yield Line(PLACES.get(place, ""), 1, place)
    for word in record.contradicts:
        yield Line(f"{MEANINGS.get(word, '')} (_meta.ifc)", 1, "server-label")
    if record.lost:
        yield Line(f"lost on the way to the agent: {', '.join(record.lost[:10])}", 1)
    if record.agrees == "yes":
        yield Line("the recording says the same", 1)
    elif record.agrees == "no":
        yield Line(f"the recording says that something else was done: {difference(record)}", 1)
    if record.restarts:
        yield Line(
            f"the guard had begun anew {number_of(record.restarts, 'time')} before, without a memory",
            1,
        )


def _change(change: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in change.items())


def _tags(tags: Sequence[str]) -> str:
    """Tags with the lowest level first."""
    return "  ".join(sorted(tags, key=lambda tag: (_rank(tag), tag))) or "nothing"


def _rank(tag: str) -> int:
    level = tag.partition(":")[0].removeprefix("integrity=").partition(";")[0]
    return LEVELS.index(level) if level in LEVELS else -1


def _scopes(tags: Iterable[str]) -> str:
    return _and({tag.removeprefix("private:") for tag in tags})


def _and(words: Iterable[str]) -> str:
    return " and ".join(sorted(words))


def _json(value: Any) -> str:
    return _cut(msgspec.json.encode(value).decode(), _ARGS_CHARS)


def _short(digest: str | None) -> str:
    return (digest or "?")[:_DIGITS]
