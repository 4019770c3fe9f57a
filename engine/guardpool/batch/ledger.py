"""Which jobs of a run are done, by their positions in the input, and from where a later run would go on. Pure.

The thread that reads notes jobs and marks, another one notes what is done.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from guardpool.batch.seam import Mark

T = TypeVar("T")


class Standing(NamedTuple):
    """What of the input is done: see `guardpool.batch.journal.Record`."""

    mark: Mark
    seen: Mark
    done: list[tuple[int, int]]


class Ledger:
    """The positions that are done, in a run that may go on from another one.

    Args:
        start: where the source begins.
        done: positions behind it that are done already, as ranges, ascending.
        seen: a place behind all of those; before the source has come there, and found it as it was, there is nowhere to go on
            from but the place of the other run.
    """

    def __init__(self, start: Mark, done: Iterable[tuple[int, int]] = (), seen: Mark | None = None) -> None:
        self._lock = threading.Lock()
        self._marks = [start]
        self._skip = {position for first, end in done for position in range(first, end)}
        self._last_skipped = max(self._skip, default=-1)
        self._low = start.jobs  # every position before it is done
        self._ahead = set(self._skip)
        self._highest = (seen or start).jobs - 1  # no position behind it is done
        self._advance()
        self._read = start.jobs  # the position of the next job that is read
        # Jobs that are left are numbered from 0. Their positions have gaps: from which number on, and from which position.
        self._numbers, self._positions = [0], [start.jobs]
        self._left = 0

    def take(self, portion: Sequence[T], mark: Mark | None) -> Sequence[T]:
        """Note a portion that was read, and the place behind it; returns the jobs of it that are left to do."""
        first = self._read
        self._read += len(portion)
        if mark is not None:
            with self._lock:
                self._marks.append(mark)
        if first > self._last_skipped:
            self._number(first)
            self._left += len(portion)
            return portion
        left = []
        for position, job in enumerate(portion, first):
            if position not in self._skip:
                self._number(position)
                self._left += 1
                left.append(job)
        return left

    def _number(self, position: int) -> None:
        """Give the next number to the job at this position."""
        number = self._left
        if position == self._positions[-1] + number - self._numbers[-1]:
            return
        with self._lock:
            if number == self._numbers[-1]:
                self._positions[-1] = position
            else:
                self._numbers.append(number)
                self._positions.append(position)

    def finish(self, numbers: Sequence[int]) -> None:
        """Note that jobs are done, by the numbers that they have among those that were left."""
        with self._lock:
            if len(self._numbers) == 1:
                offset = self._positions[0]
                if type(numbers) is range and numbers and numbers[0] + offset == self._low and not self._ahead:
                    self._low = numbers[-1] + offset + 1
                    self._highest = max(self._highest, self._low - 1)
                    return
                positions = [number + offset for number in numbers]
            else:
                positions = list(map(self._position_of, numbers))
        self._ahead.update(positions)
        self._highest = max(self._highest, *positions, -1)
        self._advance()

    def _position_of(self, number: int) -> int:
        at = bisect_right(self._numbers, number) - 1
        return self._positions[at] + number - self._numbers[at]

    def _advance(self) -> None:
        while self._low in self._ahead:
            self._ahead.remove(self._low)
            self._low += 1

    def standing(self) -> Standing | None:
        """From where a later run would go on; None: there is no mark yet behind all that is done."""
        with self._lock:
            marks = self._marks
            at = bisect_right([mark.jobs for mark in marks], self._low) - 1
            del marks[:at]
            mark = marks[0]
            seen = next((each for each in marks if each.jobs > self._highest), None)
        if seen is None:
            return None
        return Standing(mark, seen, _ranges(mark.jobs, self._low, self._ahead))


def _ranges(first: int, low: int, ahead: Iterable[int]) -> list[tuple[int, int]]:
    """Positions as ranges: those from `first` to before `low`, and others behind it."""
    ranges = [(first, low)] if first < low else []
    for position in sorted(ahead):
        if ranges and ranges[-1][1] == position:
            ranges[-1] = (ranges[-1][0], position + 1)
        else:
            ranges.append((position, position + 1))
    return ranges
