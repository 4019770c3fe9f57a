"""What the decisions of a report cover, and what they do not: a number of findings means nothing without it."""

from __future__ import annotations

from collections import Counter

from msgspec import UNSET

from guardpool.contract.policy import LEVELS
from guardpool.decide.record import DecisionRecord, FilteredItem, ResourceRecord, SinkRecord, WhyUndecided
from guardpool.report.shares import MAX_VALUES, OTHERS
from guardpool.report.words import clean

# Why a call is undecided, in words.
WHY_UNDECIDED: dict[str, str] = {
    WhyUndecided.NO_RESULT.value: "the recording has no result of it",
    WhyUndecided.NO_ARGUMENTS.value: "its arguments are not known",
    WhyUndecided.NO_LABEL.value: "it was not labelled, by a fault that is not the guard's",
    WhyUndecided.UNKNOWN_SERVER.value: "the replay was not told what stands before its server: a guard, a sink, or none",
    WhyUndecided.OTHER_SCOPE.value: "the log denied it under another policy, so there is no result to decide on",
}
# What can be said of how a call was decided, in words: the coverage counts it, and a page lists the calls.
FLAGS: dict[str, str] = {
    "decided": "decided",
    "strict": "the strict rules were asked, too",
    "unguarded": "went to a server without a guard",
    "guard-failed": "the guard gave no label: in the gateway every later call of it may fail",
    "unpaired": "request and answer may not belong together",
    "changed": "arguments or result were changed by the recorder",
    "anew": "labelled after the guard had begun anew in the session",
    "odd-label": "a label looks wrong: it says #unknown, or has integrity without a scope",
    "in-vain": "the guard asked a question that was not answered, which may lower labels",
    **{f"why:{why}": told for why, told in WHY_UNDECIDED.items()},
}
# Words that strangers choose (tools, servers) are counted each for itself up to here.
_MAX_WORDS = 1_000


class Coverage:
    """What is counted of how far the decisions reach.

    Attributes:
        without_guard: calls to servers that are known to have no guard, by server.
        unknown_servers: calls to servers of which the replay was not told what stands before them, by server.
        observed: calls of which the recording says what was done.
        deciders: calls by what decided on them: guard, its module and policy, mode, rules, and what a sink accepts; empty
            where there is none. A call that nobody could judge, e.g. one to an unknown server, is not among them.
    """

    def __init__(self) -> None:
        self.agrees: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.without_guard: Counter[str] = Counter()
        self.unknown_servers: Counter[str] = Counter()
        self.observed = 0
        self.guard_failed: Counter[str] = Counter()
        self.deciders: Counter[tuple[str, ...]] = Counter()
        self.asked = self.answered = 0
        self.asked_in_vain: Counter[str] = Counter()
        self.sessions: set[str] = set()
        self.runs: set[str] = set()
        self.first_day = self.last_day = ""

    def add(self, record: DecisionRecord, flags: tuple[str, ...], server: str, tool: str, day: str) -> None:
        """Take one decision; `flags` are those of `flags_of`."""
        count(self.agrees, clean(record.agrees))
        for flag in flags:
            count(self.flags, flag)
        if "unguarded" in flags:
            count(self.without_guard, server)
        is_unknown = record.is_undecided and record.why == WhyUndecided.UNKNOWN_SERVER.value
        if is_unknown:
            count(self.unknown_servers, server)
        self.observed += record.observed is not None
        if record.labelling is not None:
            for status in {record.labelling.resource, record.labelling.response} - {None}:
                count(self.guard_failed, f"{tool}: {clean(status)}")
        sink = "" if record.sink is None else _told(record.sink)
        by_what = (record.guard, record.guard_sha256, record.policy_sha256, record.mode, record.rules, sink)
        by = tuple(map(clean, by_what))
        is_judged = any((record.guard, sink, not record.is_undecided))
        if is_judged and (by in self.deciders or len(self.deciders) < _MAX_WORDS):
            self.deciders[by] += 1
        self._add_enrichment(record, tool)
        if len(self.sessions) < MAX_VALUES:
            self.sessions.add(record.session)
        if record.run and len(self.runs) < MAX_VALUES:
            self.runs.add(record.run)
        if day:
            self.first_day = min(self.first_day or day, day)
            self.last_day = max(self.last_day, day)

    def _add_enrichment(self, record: DecisionRecord, tool: str) -> None:
        asked = record.enrichment
        if asked is None:
            return
        self.asked += asked.asked
        self.answered += asked.answered
        if asked.asked > asked.answered:
            count(self.asked_in_vain, tool)


def _told(sink: SinkRecord) -> str:
    return "public" if sink.visibility == "public" else ", ".join(sink.accept)  # a public one accepts nothing private


def flags_of(record: DecisionRecord) -> tuple[str, ...]:
    """What of `FLAGS` holds for a decision."""
    asked = record.enrichment
    held = {
        "decided": not record.is_undecided,
        "strict": record.differs is not UNSET,
        "unguarded": record.guard is None and record.sink is None and record.why is None,
        "guard-failed": record.guard_failed,
        "unpaired": record.pairing is not None,
        "changed": bool(record.payload),
        "anew": record.restarts > 0,
        "odd-label": _has_odd_label(record),
        "in-vain": asked is not None and asked.asked > asked.answered,
        f"why:{clean(record.why)}".replace(" ", "_"): record.is_undecided,
    }
    return tuple(flag for flag, holds in held.items() if holds)


def _has_odd_label(record: DecisionRecord) -> bool:
    """Whether a label looks like one of a shape that the guard does not know: such regressions were found by users.

    Source: github/gh-aw-mcpg, issues 2335 and 2379 (`pr:#unknown`), 2862 (integrity without a scope).
    """
    labels: tuple[FilteredItem | ResourceRecord, ...] = record.filtered
    for each in labels if record.resource is None else (*labels, record.resource):
        if each.description.endswith("#unknown") or not _UNSCOPED.isdisjoint(each.integrity):
            return True
    return False


_UNSCOPED = frozenset(LEVELS)


def count(counter: Counter[str], word: str) -> None:
    """Count a word that a stranger may have chosen. There is a limit on different words, so that memory stays bounded."""
    counter[word if word in counter or len(counter) < _MAX_WORDS else OTHERS] += 1
