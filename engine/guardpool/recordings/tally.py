"""What became of the lines of a recording: each is part of a call or counted under a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from guardpool.printable import printable
from guardpool.recordings.call import Call, Pairing, PayloadState, ResultIs

_EXCERPT_CHARS = 80


class Example(NamedTuple):
    """The first line that was counted under a reason: where it stands, and how it begins."""

    at: str
    excerpt: str


@dataclass
class Tally:
    """Counts of a reading, complete when the reader is exhausted. `lines` is `in_calls` and the sum of `reasons`.

    Attributes:
        lines: of all inputs. The part of a compressed input that cannot be read counts as one line.
        in_calls: lines that are a call or a part of one.
        calls: calls that were read.
        formats: lines that a format took, by its name.
        pairing: calls by how they were paired.
        payload: payloads of calls, arguments and results alike, by their state.
        results: calls by what their result is, or why there is none.
        reasons: lines that belong to no call, by the reason.
        examples: the first line of each reason.
    """

    lines: int = 0
    in_calls: int = 0
    calls: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    pairing: Counter[str] = field(default_factory=Counter)
    payload: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Example] = field(default_factory=dict)

    def count_call(self, call: Call, lines: int) -> None:
        """Count a call and the lines it was made of."""
        # Hot: `value` of an enumeration is a property in Python, which takes as long as the rest of this.
        self.in_calls += lines
        self.calls += 1
        self.pairing[call.pairing._value_] += 1
        self.results[call.result_is._value_] += 1
        args, result = call.payload
        if args is not None:
            self.payload[args._value_] += 1
        if result is not None:
            self.payload[result._value_] += 1

    def count_reason(self, reason: str, at: str, text: bytes, lines: int = 1) -> None:
        """Count lines that belong to no call."""
        self.reasons[reason] += lines
        if reason not in self.examples:
            # An escape of four characters may stand for each byte: more than the excerpt is never needed.
            start = text[:_EXCERPT_CHARS].decode("utf-8", "backslashreplace").strip()
            self.examples[reason] = Example(at, printable(start, _EXCERPT_CHARS))

    @property
    def is_complete(self) -> bool:
        """Whether nothing was lost, ambiguous or not understood: what is left out by its nature does not count."""
        return not self.doubts and not set(self.reasons) - HARMLESS

    @property
    def doubts(self) -> dict[str, int]:
        """What is lost or ambiguous of the calls, by the words of `pairing`, `results` and `payload`, without zeros."""
        counts = {each.value: self.pairing[each.value] for each in (Pairing.AMBIGUOUS, Pairing.UNMATCHED)}
        counts |= {each.value: self.results[each.value] for each in (ResultIs.NO_RESPONSE, ResultIs.LOST)}
        counts["payload-lost"] = self.payload[PayloadState.LOST.value]
        return {word: count for word, count in counts.items() if count}

    def to_dict(self) -> dict[str, Any]:
        """The tally in its JSON form."""
        return {
            "lines": self.lines,
            "in_calls": self.in_calls,
            "calls": self.calls,
            "formats": dict(self.formats),
            "pairing": dict(self.pairing),
            "payload": dict(self.payload),
            "results": dict(self.results),
            "reasons": dict(self.reasons),
        }


BLANK = "blank"
OTHER_METHOD = "other-method"
NOT_A_GUARDED_CALL = "not-a-guarded-call"
NO_CONTENT = "no-call-in-it"
REPEATED = "repeated-line"
COUNTS_ONLY = "counts-only"
FOR_PEOPLE = "for-people"
FACT = "fact-of-the-run"
ELSEWHERE = "told-elsewhere"
OTHER_LOG_LINE = "other-log-line"

# Reasons that say that a line was understood and tells of no tool call.
HARMLESS = frozenset(
    {
        *(BLANK, OTHER_METHOD, NOT_A_GUARDED_CALL, NO_CONTENT, REPEATED),
        *(COUNTS_ONLY, FOR_PEOPLE, FACT, ELSEWHERE, OTHER_LOG_LINE),
    }
)
