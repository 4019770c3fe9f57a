"""Calls that wait on disk, to be read again as often as is wanted."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from guardpool.recordings.call import Call
from guardpool.recordings.spill import Spill


class SpilledCalls:
    """A list of calls on disk; each takes 12 bytes of memory.

    `put` raises `OSError` if the disk is full. It is closed with `close`, and cannot be read any more then.
    """

    def __init__(self) -> None:
        self._spill = Spill()
        self._starts = array("Q")
        self._sizes = array("I")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Call:
        return Call.from_json(self._spill.get((self._starts[number], self._sizes[number])))

    def __iter__(self) -> Iterator[Call]:
        return map(self.__getitem__, range(len(self)))

    def put(self, call: Call) -> None:
        """Add a call."""
        start, size = self._spill.put(call.to_json())
        self._starts.append(start)
        self._sizes.append(size)

    def close(self) -> None:
        """Give the file back."""
        self._spill.close()
