"""What a call came to for the agent, in one word: the verdict, and for items how many of them were left."""

from __future__ import annotations

from guardpool.decide import Verdict
from guardpool.decide.record import DecisionRecord
from guardpool.report.words import clean

# In the order in which they are told. `refused` ends are those of which the agent got nothing but a refusal.
ENDS: dict[str, str] = {
    "whole": "got the whole result",
    "all-items": "got every item",
    "some-items": "got some items, others were hidden",
    "no-items-left": "got an empty result, because every item was hidden",
    "empty": "got an empty result, because there was nothing",
    "denied": "was refused before the backend was asked",
    "strict-block": "was refused, because one item of the response may not be read",
    "single-item-error": "was refused, because the one item may not be read",
    "labelling-error": "was refused, because the labelling failed",
    "undecided": "undecided: what is missing is not known",
}
REFUSED = frozenset(("denied", "strict-block", "single-item-error", "labelling-error"))


def end_of(record: DecisionRecord) -> str:
    """The key in `ENDS` of a decision."""
    if record.verdict != Verdict.ITEMS.value or record.items is None:
        return clean(record.verdict)
    if not record.items.total:
        return "empty"
    if not record.items.shown:
        return "no-items-left"
    return "all-items" if record.items.shown == record.items.total else "some-items"
