"""Numbers that are never alone: how many, of how many, and which part that is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

# Values of one dimension that are counted each for itself; what comes later is counted under OTHERS. An author takes about
# 400 bytes, so that a dimension stays below 20 MB, whatever the decisions hold.
MAX_VALUES = 50_000
OTHERS = "(all others)"
UNKNOWN = "(not known)"


@dataclass(frozen=True, slots=True)
class Part:
    """So many of so many."""

    count: int
    of: int

    @property
    def share(self) -> float:
        """From 0 to 1; 0 of nothing is 0."""
        return self.count / self.of if self.of else 0.0

    @property
    def percent(self) -> str:
        """`12.3%`. Only nothing is `0%`, and only everything is `100%`."""
        if not self.of:
            return "-"
        if self.count in (0, self.of):
            return "0%" if self.count == 0 else "100%"
        rounded = f"{100 * self.share:.1f}%"
        return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(rounded, rounded)

    def told(self, what: str) -> str:
        """`1,204 of 1,592 items (75.6%)`."""
        return f"{self.count:,} of {self.of:,} {what} ({self.percent})"


@dataclass(slots=True)
class Row:
    """What is counted of one value: of one tool, one author, one day.

    Attributes:
        calls: calls that have the value; of an author or a level, calls that have an item of it.
        refused: of them, calls of which the agent got nothing but a refusal.
        flagged: of them, calls with a finding.
        items: items of labelled responses.
        hidden: of them, items that the agent did not get.
        examples: places of its first calls in the store.
        undecided: of the calls, those that are undecided, by why; None if there are none.
    """

    calls: int = 0
    refused: int = 0
    flagged: int = 0
    items: int = 0
    hidden: int = 0
    examples: list[int] = field(default_factory=list)
    undecided: Counter[str] | None = None

    @property
    def shown(self) -> int:
        """Items that the agent got."""
        return self.items - self.hidden


class Dimension:
    """Everything that was counted by one property of calls or of items."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def row(self, value: str | None) -> Row:
        """The row of a value; a new one, unless there are too many already."""
        key = value or UNKNOWN
        row = self.rows.get(key)
        if row is None:
            if len(self.rows) >= MAX_VALUES:
                key = OTHERS
            row = self.rows.setdefault(key, Row())
        return row

    def concentration(self) -> tuple[int, int]:
        """How few values have 80% of the hidden items, and how many have any."""
        hidden = sorted((row.hidden for row in self.rows.values() if row.hidden), reverse=True)
        reached = few = 0
        while reached * 5 < sum(hidden) * 4:
            reached += hidden[few]
            few += 1
        return few, len(hidden)
