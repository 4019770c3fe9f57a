"""What a finding is, what kinds there are, and which of them matters most.

A finding is a decision that is unsafe (one kind for each place where the gateway fails open or contradicts itself), that the
strict rules would make otherwise, or that disagrees with the log, be it with what the gateway did or with a label that the
server sent.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from guardpool.decide import PLACES
from guardpool.decide.record import DecisionRecord, Differs
from guardpool.report.words import clean

DIFFERS, DISAGREES, SERVER_LABEL = "differs", "disagrees", "server-label"


class Weight(IntEnum):
    """What a kind of finding means to a reader; the greater, the earlier it stands."""

    MISLEADS = 1  # nothing came through, but somebody was misled or something was lost
    REPLAY = 2  # the replay itself is in doubt
    OPEN = 3  # something came through that should not have


WORDS = {Weight.OPEN: "lets through", Weight.REPLAY: "in doubt", Weight.MISLEADS: "misleads"}


class Kind(NamedTuple):
    """One kind of finding.

    Attributes:
        id: `B1` to `B34`, `differs`, `disagrees` or `server-label`.
        weight: how much it matters.
        meaning: what happened, in one sentence without a full stop.
    """

    id: str
    weight: Weight
    meaning: str


# The places at which nothing more is shown than should be: something is lost, fails, or is told wrongly.
_MISLEADING = frozenset(("B5", "B10", "B11", "B16", "B23", "B26", "B29", "B32", "B34"))

KINDS: dict[str, Kind] = {
    **{
        place: Kind(place, Weight.MISLEADS if place in _MISLEADING else Weight.OPEN, meaning)
        for place, meaning in PLACES.items()
    },
    DIFFERS: Kind(DIFFERS, Weight.OPEN, "the strict rules would have shown something else"),
    DISAGREES: Kind(DISAGREES, Weight.REPLAY, "the recording says something else was done"),
    SERVER_LABEL: Kind(SERVER_LABEL, Weight.REPLAY, "the server's own label is stricter than the guard's"),
}


def kind_of(id: str) -> Kind:
    """The kind of an id, also of one that a later version has and this one does not know."""
    return KINDS.get(id) or Kind(id, Weight.OPEN, "a place that this version of guardpool does not know")


def findings_of(record: DecisionRecord) -> tuple[str, ...]:
    """The ids of a decision's findings; empty if it has none."""
    found = tuple(clean(place).replace(" ", "_") for place in record.unsafe)
    if isinstance(record.differs, Differs):
        found = (*found, DIFFERS)
    if record.agrees == "no":
        found = (*found, DISAGREES)
    if record.contradicts:
        found = (*found, SERVER_LABEL)
    return found


def order(id: str) -> tuple[int, int, str]:
    """To sort ids: the weightiest first, then by number."""
    digits = id[1:]
    return -kind_of(id).weight, int(digits) if digits.isdigit() else 0, id
