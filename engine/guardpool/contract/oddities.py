"""What is odd in a guard's answer and yet accepted: the warnings of a label.

The reference drops what it does not understand without a word. The label stays as the reference has it, and the warnings say
what was dropped. An answer can hold millions of labels, so the warnings of one answer are few, whatever is in it.
"""

from __future__ import annotations

from collections import Counter

from guardpool.contract.text import shown
from guardpool.labels import MAX_DETAIL_CHARS, LabelWarning

STAR = "*"
# Warnings of each code in one answer. A label_resource has two arrays of tags, so all of its warnings are kept.
MAX_OF_A_CODE = 8


class Oddities:
    """The warnings of one answer, collected while it is parsed."""

    def __init__(self) -> None:
        self._kept: list[LabelWarning] = []
        self._counts: Counter[str] = Counter()

    def operation_unknown(self, given: object, missing: bool) -> None:
        """The operation is not one of the three words; the label says `write`."""
        self._add("operation_unknown", "missing" if missing else shown(given))

    def tags_dropped(self, count: int, place: str) -> None:
        """So many tags at `place` are not strings and are not in the label."""
        self._add("tags_dropped", f"{count} in {place}")

    def not_an_array(self, given: object, place: str) -> None:
        """The tags at `place` are not an array, and the label has none."""
        self._add("not_an_array", f"{place} is {shown(given)}")

    def star(self, place: str) -> None:
        """One of the tags at `place` is `*`, which the gateway takes for a wildcard."""
        self._add("star_from_guard", place)

    def warnings(self) -> tuple[LabelWarning, ...]:
        """The first few of each code in the order they were found, and how many more there were."""
        more = ((code, count - MAX_OF_A_CODE) for code, count in self._counts.items() if count > MAX_OF_A_CODE)
        return (*self._kept, *(LabelWarning(code, f"and {count} more") for code, count in more))

    def _add(self, code: str, detail: str) -> None:
        self._counts[code] += 1
        if self._counts[code] <= MAX_OF_A_CODE:
            cut = detail if len(detail) <= MAX_DETAIL_CHARS else detail[: MAX_DETAIL_CHARS - 3] + "..."
            self._kept.append(LabelWarning(code, cut))
