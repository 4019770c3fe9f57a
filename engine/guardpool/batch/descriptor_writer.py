"""What writers of outcomes have in common that write to a file descriptor as outcomes come.

A regular file never keeps a part that cannot be read: if a write fails halfway (a full disk), what it cut is taken back.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from abc import ABC, abstractmethod
from typing import Any

from guardpool.batch.seam import OutputDiffers


class DescriptorWriter(ABC):
    """As much of a `FileSink` as does not depend on what is written.

    Args:
        fd: open for writing; stays the caller's.

    Attributes:
        written: outcomes in what was given to the operating system so far.
        is_cut: a write to something that is not a regular file was interrupted: how much its reader got of it is not known.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._room = select.poll()  # `select.select` takes no descriptor over 1,023
        self._room.register(fd, select.POLLOUT)
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        if self._regular and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND:
            os.lseek(fd, 0, os.SEEK_END)  # the first write goes there, but the offset does not tell yet
        self.written = 0
        self.is_cut = False

    @property
    def may_block(self) -> bool:
        """Whether a write may wait: for a pipe's reader, for a terminal."""
        return not self._regular

    @property
    def product(self) -> str | None:
        """None: what was written to is the finished file."""
        return None

    @abstractmethod
    def flush(self) -> None:
        """Write what is held.

        Raises:
            OSError: it cannot be written.
        """

    def make_durable(self) -> dict[str, Any]:
        """Put everything that was added on the disk; for regular files.

        Returns:
            The place behind it, for `go_on_from`.

        Raises:
            OSError: it cannot be written.
        """
        self.flush()
        os.fsync(self._fd)
        return {"bytes": os.lseek(self._fd, 0, os.SEEK_CUR), "outcomes": self.written}

    def go_on_from(self, place: dict[str, Any]) -> None:
        """Take back what stands behind a place of an earlier run, and go on there.

        Raises:
            OutputDiffers: the place is not there.
            OSError: the file cannot be cut.
        """
        size = os.fstat(self._fd).st_size
        if size < place["bytes"]:
            raise OutputDiffers(f"it has {size:,} bytes, and the interrupted run had written {place['bytes']:,}")
        self._cut_at(place["bytes"])
        self.written = place["outcomes"]

    def _write(self, data: bytes, count: int) -> None:
        """Write all of it, which holds so many outcomes.

        Raises:
            OSError: it cannot be written; what `_kept` says stays in a regular file.
        """
        view = memoryview(data)
        start = os.lseek(self._fd, 0, os.SEEK_CUR) if self._regular else 0
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    self._room.poll()
        except BaseException:  # also a signal that stops everything
            if self._regular:
                self._take_back(data, start)
            else:
                self.is_cut = True
            raise
        self.written += count

    @abstractmethod
    def _kept(self, data: bytes) -> tuple[int, int]:
        """What stays in a file of these bytes, after which a write failed: how many bytes, and how many outcomes in them."""

    def _take_back(self, data: bytes, start: int) -> None:
        """Cut a regular file behind what may stay of a write of `data` that failed."""
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        size, count = self._kept(data[: end - start])
        self.written += count
        if os.fstat(self._fd).st_size == end:  # else another process writes there as well
            self._cut_at(start + size)

    def _cut_at(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, size, os.SEEK_SET)
