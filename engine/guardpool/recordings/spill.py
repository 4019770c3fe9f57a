"""A private temporary file for what must wait and is too much to keep in memory."""

from __future__ import annotations

import os
import tempfile


class Spill:
    """Keeps pieces of bytes on disk, in a file that has no name once it is open. Made when it is first needed."""

    def __init__(self) -> None:
        self._fd = -1
        self._end = 0

    def put(self, data: bytes) -> tuple[int, int]:
        """Keep `data`; returns where it is.

        Raises:
            OSError: the disk is full.
        """
        if self._fd < 0:
            self._fd, path = tempfile.mkstemp(prefix="guardpool-")
            os.unlink(path)
        place = (self._end, len(data))
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self._end)
            self._end += written
            view = view[written:]
        return place

    def get(self, place: tuple[int, int]) -> bytes:
        """What was put at a place."""
        start, length = place
        parts = []
        while length:
            data = os.pread(self._fd, length, start)
            if not data:
                raise OSError("the temporary file was cut")
            parts.append(data)
            start, length = start + len(data), length - len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
