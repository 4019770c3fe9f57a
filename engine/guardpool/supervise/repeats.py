"""Which log lines are passed on, and which are only counted because the same guard said the same a moment ago. Pure.

20,000 jobs that each log one line would give 20,000 lines on a terminal. Of equal lines of one guard the first is passed on
at once, with its job; those of the next seconds are counted, and the count is told when they are over. So a line that comes
rarely is never held back, one that comes all the time is told once in `INTERVAL_S`, and every line is told or counted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from guardpool.outcomes import LogLine

INTERVAL_S = 10.0
# More different lines than that are not remembered: the oldest goes, after its count was told.
MAX_LINES = 1000
MAX_CHARS = 1024 * 1024


class Counted(NamedTuple):
    """A line that came `times` more since it was last told; `job_id` is of the last job that logged it."""

    guard: str
    line: LogLine
    times: int
    job_id: Any


class _Seen:
    __slots__ = ("due", "job_id", "times")

    def __init__(self, due: float) -> None:
        self.due = due
        self.times = 0
        self.job_id: Any = None


class Repeats:
    """The lines of the last seconds. Times are monotonic seconds."""

    def __init__(self) -> None:
        # In the order in which they are due.
        self._seen: OrderedDict[tuple[str, int, str], _Seen] = OrderedDict()
        self._chars = 0

    def is_new(self, now: float, guard: str, job_id: Any, line: LogLine) -> bool:
        """Whether a line is to be told; if not, it was counted."""
        key = (guard, line.level, line.text)
        seen = self._seen.get(key)
        if seen is not None:
            seen.times += 1
            seen.job_id = job_id
            return False
        self._seen[key] = _Seen(now + INTERVAL_S)
        self._chars += len(line.text)
        return True

    def due(self, now: float) -> list[Counted]:
        """The counts that are to be told now. Call it at `next_due`, and before and after `is_new`."""
        told = []
        while self._seen:
            key, seen = next(iter(self._seen.items()))
            if seen.due > now and len(self._seen) <= MAX_LINES and self._chars <= MAX_CHARS:
                break
            del self._seen[key]
            self._chars -= len(key[2])
            if seen.times:
                told.append(_counted(key, seen))
                if seen.due <= now:  # it may go on
                    self._seen[key] = _Seen(now + INTERVAL_S)
                    self._chars += len(key[2])
        return told

    def all(self) -> list[Counted]:
        """All counts, now; they begin anew."""
        told = [_counted(key, seen) for key, seen in self._seen.items() if seen.times]
        for seen in self._seen.values():
            seen.times = 0
        return told

    def next_due(self) -> float | None:
        """When to call `due`; None: there is nothing to tell."""
        return next((seen.due for seen in self._seen.values()), None)


def _counted(key: tuple[str, int, str], seen: _Seen) -> Counted:
    guard, level, text = key
    return Counted(guard, LogLine(level, text), seen.times, seen.job_id)
