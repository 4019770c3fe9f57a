"""Calls that a report can list one by one, in few bytes each: columns of numbers, and each word once.

A call with a finding is kept, until there are `MAX_FLAGGED`; of the others the first `MAX_PLAIN`, and after them the first few
of each group. What is not kept stands in the group's numbers.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from guardpool.decide.record import DecisionRecord, Differs, FailedRule, FilteredItem
from guardpool.printable import printable
from guardpool.report.shares import OTHERS
from guardpool.report.words import clean, link

# 100,000 calls of 20 columns take 13 MB here and less than 3 MB in a page.
MAX_FLAGGED = 100_000
# What all different words of listed calls may take: random ones hardly shrink when they are packed, and a page of 100,000 calls
# should stay below 5 MB. 100,000 calls in 50,000 sessions have 2.1 million characters.
MAX_WORD_CHARS = 3_000_000
MAX_PLAIN = 5_000
GROUP_EXAMPLES = 3
MAX_GROUPS = 20_000
# Details (which rules, which tags, which items) are long: of calls with the same findings of the same tool the first few.
MAX_DETAILED = 2_000
MAX_DETAIL_BYTES = 2_000_000
DETAILED_OF_A_KIND = 40
ITEMS_IN_DETAIL = 10
TOLD = 20  # of any other list
MAX_DATA_CHARS = 2_000

# The columns are the members of `Facts`.
WORDS = (
    *("path", "session", "server", "tool", "touched", "repository", "workflow", "run", "day", "time", "end"),
    *("operation", "mode", "findings", "flags", "agrees"),
)
NUMBERS = ("line", "items", "hidden")


class Words:
    """Words that stand in a column, each with a number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {"": 0}

    def number(self, word: str) -> int:
        """The number of a word; 0 for none."""
        number = self.numbers.get(word)
        if number is None:
            number = self.numbers[word] = len(self.numbers)
        return number

    @property
    def words(self) -> list[str]:
        """All words, each at its number."""
        return list(self.numbers)


class Group(NamedTuple):
    """What calls that are not listed have in common."""

    server: str
    tool: str
    touched: str
    repository: str
    workflow: str
    day: str
    end: str
    flags: str
    agrees: str
    findings: str


class GroupCounts:
    """How many calls a group has that are not listed, and their items."""

    __slots__ = ("calls", "hidden", "items", "kept")

    def __init__(self) -> None:
        self.calls = self.items = self.hidden = self.kept = 0


class Facts(NamedTuple):
    """What is stored of a call."""

    path: str
    line: int
    session: str
    server: str
    tool: str
    touched: str
    repository: str
    workflow: str
    run: str
    day: str
    time: str
    end: str
    operation: str
    mode: str
    items: int
    hidden: int
    findings: tuple[str, ...]
    flags: tuple[str, ...]
    agrees: str


class Listed(Facts):
    """A call that is listed."""

    __slots__ = ()

    @property
    def id(self) -> str:
        """As in its decision."""
        return f"{self.path}#{self.line}" if self.line else self.path


class CallStore:
    """The calls that are listed, in the order in which they came."""

    def __init__(self) -> None:
        self.words = {name: Words() for name in WORDS}
        self.columns: dict[str, array[int]] = {name: array("q") for name in (*self.words, *NUMBERS)}
        self.details: dict[int, msgspec.Raw] = {}  # each as `detail_of` tells it, in JSON
        self._detail_bytes = 0
        self.groups: dict[Group, GroupCounts] = {}
        self.flagged = self.plain = self._word_chars = 0
        self._detailed: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self.columns["line"])

    def add(self, facts: Facts, record: DecisionRecord, *, show_data: bool) -> int | None:
        """Take a call. Returns its place, or None if it is only counted in its group."""
        has_room = self._word_chars < MAX_WORD_CHARS
        if facts.findings:
            keep = self.flagged < MAX_FLAGGED and has_room
            self.flagged += keep
        else:
            keep = self.plain < MAX_PLAIN and has_room
            self.plain += keep
        if not keep:
            group = self._group(facts)
            if facts.findings or group.kept >= GROUP_EXAMPLES or not has_room:
                group.calls += 1
                group.items += facts.items
                group.hidden += facts.hidden
                return None
            group.kept += 1
        place = len(self)
        for name, words in self.words.items():
            value = getattr(facts, name)
            word = value if type(value) is str else " ".join(value)
            if word not in words.numbers:
                self._word_chars += len(word)
            self.columns[name].append(words.number(word))
        for name in NUMBERS:
            self.columns[name].append(getattr(facts, name))
        if len(self.details) < MAX_DETAILED and self._detail_bytes < MAX_DETAIL_BYTES:
            self._detail(place, facts, record, show_data)
        return place

    def listed(self) -> Iterator[Listed]:
        """The calls that are listed, in the order in which they came."""
        words = {name: self.words[name].words for name in WORDS}
        for place in range(len(self)):
            told: dict[str, Any] = {name: words[name][self.columns[name][place]] for name in WORDS}
            told |= {name: self.columns[name][place] for name in NUMBERS}
            yield Listed(**{**told, **{name: tuple(told[name].split()) for name in ("findings", "flags")}})

    def _group(self, facts: Facts) -> GroupCounts:
        key = Group(
            *(facts.server, facts.tool, facts.touched, facts.repository, facts.workflow, facts.day, facts.end),
            flags=" ".join(facts.flags),
            agrees=facts.agrees,
            findings=" ".join(facts.findings),
        )
        if key not in self.groups and len(self.groups) >= MAX_GROUPS:
            key = key._replace(touched="", repository="", workflow="", day="")
            if key not in self.groups and len(self.groups) >= 2 * MAX_GROUPS:
                key = key._replace(server=OTHERS, tool=OTHERS, flags="")
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = GroupCounts()
        return group

    def _detail(self, place: int, facts: Facts, record: DecisionRecord, show_data: bool) -> None:
        kind = (facts.tool, " ".join(facts.findings) or facts.end)
        told = self._detailed.get(kind, 0)
        if told < DETAILED_OF_A_KIND:
            self._detailed[kind] = told + 1
            detail = msgspec.Raw(msgspec.json.encode(detail_of(record, show_data=show_data)))
            self.details[place] = detail
            self._detail_bytes += len(bytes(detail))


def detail_of(record: DecisionRecord, *, show_data: bool) -> dict[str, Any]:
    """What a reader wants to know of one call, as plain values; what is empty is left out."""
    resource = record.resource
    detail: dict[str, Any] = {
        "what": clean(resource.description) if resource else "",
        "has": _tags(resource.integrity, resource.secrecy) if resource else "",
        "agent": _tags(record.agent_before.integrity, record.agent_before.secrecy),
        "failed": _failed(record.failed),
        "filtered": [_item(item) for item in record.filtered[:ITEMS_IN_DETAIL]],
        "more": max(0, len(record.filtered) - ITEMS_IN_DETAIL),
        "lost": list(map(clean, record.lost[:TOLD])),
        "strict": _strict(record.differs),
        "error": clean(record.error),
        "asked": _in_vain(record, show_data),
        "pass": least_change(record.would_pass_with),
    }
    if show_data:
        detail["args"] = arguments_of(record)
    return {name: value for name, value in detail.items() if value}


def least_change(change: Mapping[str, str] | None) -> str:
    """`min-integrity none`; empty where no change is known."""
    return clean(", ".join(f"{name} {value}" for name, value in (change or {}).items()))


def _strict(differs: object) -> str:
    """What the strict rules would have done, where that is something else."""
    if not isinstance(differs, Differs):
        return ""
    told = [clean(differs.verdict)]
    if differs.items is not None:
        told.append(f"{differs.items.shown:,} of {differs.items.total:,} items shown")
    if differs.hides:
        told.append(f"{len(differs.hides):,} more hidden")
    if differs.shows:
        told.append(f"{len(differs.shows):,} more shown")
    rules = sorted(
        {each.rule for item in differs.hides for each in item.failed} | {each.rule for each in differs.failed}
    )
    return ", ".join(told) + (f" ({clean(', '.join(rules))})" if rules else "")


def _in_vain(record: DecisionRecord, show_data: bool) -> list[str]:
    """The guard's questions that had no answer: their tools, and with data their arguments."""
    missing = record.enrichment.missing if record.enrichment is not None else ()
    if not show_data:
        return sorted({clean(question.tool) for question in missing})[:TOLD]
    return [printable(f"{question.tool} {json.dumps(question.args)}", MAX_DATA_CHARS) for question in missing[:TOLD]]


def arguments_of(record: DecisionRecord) -> str:
    """The arguments of a call as the JSON that they were read as, printable and cut; empty if they are not known."""
    text = record.args_json
    return "" if text is UNSET else printable(bytes(text).decode("utf-8", "replace"), MAX_DATA_CHARS)


def _tags(*of: Iterable[str]) -> str:
    return clean(" ".join(tag for tags in of for tag in tags))


def _failed(failures: Sequence[FailedRule]) -> list[list[str]]:
    """Each as: the rule, the tags it misses, the tags that are too many, the facts."""
    return [[clean(each.rule), _tags(each.missing), _tags(each.extra), clean(each.detail)] for each in failures[:TOLD]]


def _item(item: FilteredItem) -> dict[str, Any]:
    told: dict[str, Any] = {
        "what": clean(item.description) or clean(item.pointer) or "the whole result",
        "number": "" if item.number is None else clean(str(item.number)),
        "author": clean(item.author),
        "association": clean(item.association),
        "url": link(item.url),
        "has": _tags(item.integrity, item.secrecy),
        "failed": _failed(item.failed),
        "pass": least_change(item.would_pass_with),
    }
    return {name: value for name, value in told.items() if value}
