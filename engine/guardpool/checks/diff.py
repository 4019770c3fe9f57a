"""Two runs over the same calls compared: what became more open, and what more closed.

The runs may differ in anything: guards, policies, modes, rules. Calls are matched by their ids. What is compared is what the
agent gets, and the labels that a decision has. A difference is told with a fingerprint of what it is about (the server, the
tool, the thing and how it changed) and not of where it stands, so that it is the same in tomorrow's recording.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

import msgspec

from guardpool.contract.policy import LEVELS
from guardpool.contract.text import shown
from guardpool.decide import Verdict, level_of
from guardpool.decide.record import DecisionRecord, FailedRule, FilteredItem, ResourceRecord
from guardpool.decide.sides import turned
from guardpool.errors import CallerError
from guardpool.labels import Printed

OPEN, CLOSED, CHANGED = "open", "closed", "changed"
_FINGERPRINT_CHARS = 16
_NOTHING_SHOWN = (
    Verdict.DENIED.value,
    Verdict.STRICT_BLOCK.value,
    Verdict.SINGLE_ITEM_ERROR.value,
    Verdict.LABELLING_ERROR.value,
)

KINDS: dict[str, str] = {
    "item-shown": "an item that was kept back is let through",
    "item-hidden": "an item that was let through is kept back",
    "call-allowed": "a call that was denied goes through",
    "call-denied": "a call that went through is denied",
    "result-unlabelled": "the whole result is delivered where items were kept back",
    "result-labelled": "items are kept back where the whole result was delivered",
    "secrecy-lost": "a label lacks secrecy tags that it had",
    "secrecy-gained": "a label has secrecy tags that it had not",
    "integrity-up": "a label has integrity tags that it had not",
    "integrity-down": "a label lacks integrity tags that it had",
    "integrity-changed": "a label has other integrity tags, such as those of another scope",
    "level-up": "items that are let through have a higher level",
    "level-down": "items that are let through have a lower level",
    "operation-changed": "the call is taken to do something else",
}
_DIRECTIONS = {
    OPEN: ("item-shown", "call-allowed", "result-unlabelled", "secrecy-lost", "integrity-up", "level-up"),
    CLOSED: ("item-hidden", "call-denied", "result-labelled", "secrecy-gained", "integrity-down", "level-down"),
    CHANGED: ("integrity-changed", "operation-changed"),
}
_DIRECTION_OF = {kind: direction for direction, kinds in _DIRECTIONS.items() for kind in kinds}


class DiffError(CallerError, ValueError):
    """Two files of decisions cannot be compared."""


class Change(Printed, frozen=True):
    """One difference between two decisions on one call.

    Attributes:
        kind: of `KINDS`.
        server, tool: of the call.
        what: the thing: an item's or a resource's description, or how many items.
        detail: how it changed, in a few words.
        call: the call's id.
        author: who wrote the item, where it is known.
        count: how many items it stands for.
    """

    kind: str
    server: str
    tool: str
    what: str
    detail: str
    call: str
    author: str | None = None
    count: int = 1

    @property
    def direction(self) -> str:
        """`open`, `closed` or `changed`."""
        return _DIRECTION_OF[self.kind]

    @property
    def fingerprint(self) -> str:
        """What it is about, as 16 hexadecimal digits: the same wherever and however often it occurs."""
        told = msgspec.json.encode([self.kind, self.server, self.tool, self.what, self.detail])
        return hashlib.sha256(told).hexdigest()[:_FINGERPRINT_CHARS]


@dataclass
class Group:
    """All occurrences of one difference.

    Attributes:
        example: the first.
        calls: in how many calls it occurs.
        items: of how many items it is.
    """

    example: Change
    calls: int = 0
    items: int = 0


class GuardFacts(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """What a server's calls were labelled by, as digests; None where the server has no guard."""

    guard_sha256: str | None = None
    policy_sha256: str | None = None


@dataclass
class Side:
    """One of the two runs.

    Attributes:
        decisions: how many.
        guards: by server, all that were met.
        modes: decisions by mode; of what is undecided the mode may not be known.
        rules: decisions by rule set.
        undecided: how many are.
        keys: by which keys names were redacted; None: they were not.
    """

    decisions: int = 0
    guards: dict[str, set[GuardFacts]] = field(default_factory=dict)
    modes: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    undecided: int = 0
    keys: set[str | None] = field(default_factory=set)

    def add(self, record: DecisionRecord) -> None:
        """Count a decision."""
        self.decisions += 1
        self.keys.add(record.redacted)
        self.rules[record.rules] += 1
        if record.is_undecided:
            self.undecided += 1
        else:
            self.modes[record.mode] += 1
        if record.guard is not None:
            facts = GuardFacts(record.guard_sha256, record.policy_sha256)
            self.guards.setdefault(record.guard, set()).add(facts)


@dataclass
class Diff:
    """All differences between two runs.

    Attributes:
        old, new: the runs.
        compared: calls that were decided in both.
        same: those of them in which nothing differs.
        not_comparable: calls that are undecided in one of the two, and not in both.
        undecided_in_both: calls on which neither decided.
        only_old, only_new: calls of one of the two alone.
        groups: the differences by fingerprint, in the order in which they first occur.
    """

    old: Side = field(default_factory=Side)
    new: Side = field(default_factory=Side)
    compared: int = 0
    same: int = 0
    not_comparable: int = 0
    undecided_in_both: int = 0
    only_old: int = 0
    only_new: int = 0
    groups: dict[str, Group] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every call of both could be compared."""
        return not (self.only_old or self.only_new or self.not_comparable or self.undecided_in_both)

    def add(self, old: DecisionRecord, new: DecisionRecord) -> None:
        """Compare the two decisions on one call."""
        if old.is_undecided or new.is_undecided:
            if old.is_undecided and new.is_undecided:
                self.undecided_in_both += 1
            else:
                self.not_comparable += 1
            return
        self.compared += 1
        met: set[str] = set()
        for change in changes(old, new):
            key = change.fingerprint
            group = self.groups.setdefault(key, Group(change))
            group.items += change.count
            group.calls += key not in met
            met.add(key)
        self.same += not met


def diff(old: Iterable[DecisionRecord], new: Iterable[DecisionRecord]) -> Diff:
    """Compare two runs. Decisions in the same order take memory for the differences alone, in another one for all of a run.

    Raises:
        DiffError: they have no call in common.
    """
    found = Diff()
    for one, other in _matched(old, new, found):
        found.add(one, other)
    if (found.old.decisions and found.new.decisions) and found.only_old == found.old.decisions:
        if found.old.keys.isdisjoint(found.new.keys):
            raise DiffError(
                "the two were redacted with different keys, or one was not: redact both with one --redact-key FILE"
            )
        raise DiffError("the two have no call in common: make both of the same recordings")
    return found


class _Key(NamedTuple):
    run: str | None
    session: str
    call: str


def _key(record: DecisionRecord) -> _Key:
    return _Key(record.run, record.session, record.call)


def _matched(
    old: Iterable[DecisionRecord], new: Iterable[DecisionRecord], found: Diff
) -> Iterator[tuple[DecisionRecord, DecisionRecord]]:
    """The decisions on each call, from both; those that have no other half are counted."""
    waiting: tuple[dict[_Key, DecisionRecord], dict[_Key, DecisionRecord]] = ({}, {})
    for pair in zip_longest(old, new):
        for at, record in enumerate(pair):
            if record is None:
                continue
            (found.old, found.new)[at].add(record)
            key = _key(record)
            other = waiting[1 - at].pop(key, None)
            if other is None:
                waiting[at][key] = record
            else:
                yield (other, record) if at else (record, other)
    found.only_old, found.only_new = map(len, waiting)


def changes(old: DecisionRecord, new: DecisionRecord) -> Iterator[Change]:
    """In what two decisions on one call differ; both decided."""
    yield from _of_the_verdict(old, new)
    yield from _of_the_resource(old, new)
    yield from _of_items_kept_back(old, new)
    yield from _of_levels(old, new)


def _change(
    record: DecisionRecord, kind: str, what: str, detail: str, author: str | None = None, count: int = 1
) -> Change:
    return Change(kind, record.server or "", record.tool or "", what, detail, record.call, author, count)


def _is_denied(record: DecisionRecord) -> bool:
    """Whether the agent gets nothing, not even an empty list."""
    return record.verdict in _NOTHING_SHOWN


def _of_the_verdict(old: DecisionRecord, new: DecisionRecord) -> Iterator[Change]:
    """What of items, or of the call as a whole, the agent gets in one of the two alone."""
    if old.items is not None and new.items is not None:
        yield from _of_items(old, new)
    elif new.verdict == "whole" and old.items is not None:
        if old.items.shown < old.items.total:
            hidden = old.items.total - old.items.shown
            yield _change(new, "result-unlabelled", _subject(new), "labelled item by item before", None, hidden)
    elif old.verdict == "whole" and new.items is not None:
        if new.items.shown < new.items.total:
            hidden = new.items.total - new.items.shown
            yield _change(new, "result-labelled", _subject(new), "delivered whole before", None, hidden)
    elif _is_denied(old) and not _is_denied(new):
        yield _change(new, "call-allowed", _subject(new), f"{_rules(old.failed) or old.verdict} before")
    elif _is_denied(new) and not _is_denied(old):
        yield _change(new, "call-denied", _subject(new), f"{_rules(new.failed) or new.verdict} now")


def _of_items(old: DecisionRecord, new: DecisionRecord) -> Iterator[Change]:
    unnamed: Counter[tuple[str, str]] = Counter()
    for each in turned(old, new):
        kind, stricter, word = ("item-shown", old, "before") if each.opened else ("item-hidden", new, "now")
        if each.item is None:
            # Let through and not delivered, as in a strict block: no record has its name.
            unnamed[kind, f"{stricter.verdict} {word}"] += 1
        else:
            yield _change(new, kind, each.item.description, f"{_rules(each.item.failed)} {word}", each.item.author)
    for (kind, detail), count in unnamed.items():
        yield _change(new, kind, f"items of {_subject(new)}", detail, None, count)


def _kept_back(record: DecisionRecord) -> Mapping[int, FilteredItem]:
    return {item.index: item for item in record.filtered}


def _of_the_resource(old: DecisionRecord, new: DecisionRecord) -> Iterator[Change]:
    one, other = old.resource, new.resource
    if one is not None and other is not None:
        yield from _of_tags(new, other.description, one, other, None)
    if old.operation and new.operation and old.operation != new.operation:
        yield _change(new, "operation-changed", _subject(new), f"{old.operation} before, {new.operation} now")


def _of_items_kept_back(old: DecisionRecord, new: DecisionRecord) -> Iterator[Change]:
    """Labels of items that both keep back: a record has no tags of other items."""
    before = _kept_back(old)
    for index, item in _kept_back(new).items():
        if index in before:
            yield from _of_tags(new, item.description, before[index], item, item.author)


def _of_tags(
    record: DecisionRecord,
    what: str,
    old: ResourceRecord | FilteredItem,
    new: ResourceRecord | FilteredItem,
    author: str | None,
) -> Iterator[Change]:
    lost, gained = _differ(old.secrecy, new.secrecy)
    if lost:
        yield _change(record, "secrecy-lost", what, _listed(lost), author)
    if gained:
        yield _change(record, "secrecy-gained", what, _listed(gained), author)
    lost, gained = _differ(old.integrity, new.integrity)
    if lost and gained:
        yield _change(record, "integrity-changed", what, f"{_listed(lost)} before, {_listed(gained)} now", author)
    elif gained:
        yield _change(record, "integrity-up", what, _listed(gained), author)
    elif lost:
        yield _change(record, "integrity-down", what, _listed(lost), author)


def _differ(old: Iterable[str], new: Iterable[str]) -> tuple[list[str], list[str]]:
    before, after = frozenset(old), frozenset(new)
    return sorted(before - after), sorted(after - before)


def _of_levels(old: DecisionRecord, new: DecisionRecord) -> Iterator[Change]:
    """Levels of what both let through: records count it by author, association and level."""
    if old.verdict != "items" or new.verdict != "items":
        return
    before, after = _levels(old), _levels(new)
    for author, association in before.keys() & after.keys():
        one, other = before[author, association], after[author, association]
        if sum(one.values()) != sum(other.values()) or one == other:
            continue
        ranks = [sorted(_rank(level) for level in levels.elements()) for levels in (one, other)]
        pairs = list(zip(*ranks))
        what = f"items of {shown(author)}" if author is not None else "items"
        detail = f"{_counted(one - other)} before, {_counted(other - one)} now"
        count = sum((one - other).values())
        if all(first <= second for first, second in pairs):
            yield _change(new, "level-up", what, detail, author, count)
        elif all(first >= second for first, second in pairs):
            yield _change(new, "level-down", what, detail, author, count)


def _levels(record: DecisionRecord) -> dict[tuple[str | None, str | None], Counter[str | None]]:
    """Levels of the items that are let through, by author and association."""
    counts: dict[tuple[str | None, str | None], Counter[str | None]] = {}
    for seen in record.seen:
        counts.setdefault((seen.author, seen.association), Counter())[seen.level] += seen.shown
    return counts


def _rank(level: str | None) -> int:
    return LEVELS.index(level) if level in LEVELS else -1


def _counted(levels: Counter[str | None]) -> str:
    ordered = sorted(levels.items(), key=lambda each: _rank(each[0]))
    return ", ".join(f"{level or 'no level'} {count}" for level, count in ordered if count)


def _subject(record: DecisionRecord) -> str:
    """What a call is about, in the guard's words, if it has any."""
    if record.resource is not None and record.resource.description:
        return record.resource.description
    return f"{record.server or '?'} {record.tool or '?'}"


def _rules(failed: Iterable[FailedRule]) -> str:
    return ", ".join(dict.fromkeys(_rule(each) for each in failed))


def _rule(failure: FailedRule) -> str:
    """`read-integrity (approved)`: the rule, with the level that was demanded."""
    level = failure.level or level_of(failure.missing)
    return f"{failure.rule} ({level})" if level else failure.rule


def _listed(tags: Iterable[str]) -> str:
    return " ".join(tags)
