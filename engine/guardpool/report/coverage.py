"""What the decisions of a report cover, and what they do not: a number of findings means nothing without it."""

from __future__ import annotations

from collections import Counter

from msgspec import UNSET

from guardpool.decide.record import DecisionRecord, WhyUndecided
from guardpool.report.shares import MAX_VALUES, OTHERS
from guardpool.report.words import clean

# Why a call is undecided, in words.
WHY_UNDECIDED: dict[str, str] = {
    WhyUndecided.NO_RESULT.value: "the recording has no result of it",
    WhyUndecided.NO_ARGUMENTS.value: "its arguments are not known",
    WhyUndecided.NO_LABEL.value: "it was not labelled, by a fault that is not the guard's",
    WhyUndecided.UNKNOWN_SERVER.value: "its server has no guard, policy or sink in the replay",
    WhyUndecided.OTHER_SCOPE.value: "the log denied it under another policy, so there is no result to decide on",
}
# Words that strangers choose (tools, servers) are counted each for itself up to here.
_MAX_WORDS = 1_000


class Coverage:
    """What is counted of how far the decisions reach."""

    def __init__(self) -> None:
        self.agrees: Counter[str] = Counter()
        self.undecided: Counter[str] = Counter()
        self.without_guard: Counter[str] = Counter()
        self.guard_failed: Counter[str] = Counter()
        self.deciders: Counter[tuple[str, ...]] = Counter()
        self.strict_asked = 0
        self.with_events = 0
        self.not_intact = 0
        self.not_surely_paired = 0
        self.began_anew = 0
        self.asked = self.answered = 0
        self.asked_in_vain: Counter[str] = Counter()
        self.sessions: set[str] = set()
        self.runs: set[str] = set()
        self.first_day = self.last_day = ""

    def add(self, record: DecisionRecord, server: str, tool: str, day: str) -> None:
        """Take one decision."""
        count(self.agrees, clean(record.agrees))
        if record.is_undecided:
            count(self.undecided, WHY_UNDECIDED.get(record.why or "", clean(record.why) or "no reason was given"))
        if record.guard is None and record.sink is None and record.why in (None, WhyUndecided.UNKNOWN_SERVER.value):
            count(self.without_guard, server)
        if record.labelling is not None:
            for status in {record.labelling.resource, record.labelling.response} - {None}:
                count(self.guard_failed, f"{tool}: {clean(status)}")
        by = tuple(map(clean, (record.guard, record.guard_sha256, record.policy_sha256, record.mode, record.rules)))
        if by in self.deciders or len(self.deciders) < _MAX_WORDS:
            self.deciders[by] += 1
        self.strict_asked += record.differs is not UNSET
        self.with_events += bool(record.observed)
        self.not_intact += bool(record.payload)
        self.not_surely_paired += record.pairing is not None
        self.began_anew += record.restarts > 0
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


def count(counter: Counter[str], word: str) -> None:
    """Count a word that a stranger may have chosen: not more different ones than memory is to be had for."""
    counter[word if word in counter or len(counter) < _MAX_WORDS else OTHERS] += 1
