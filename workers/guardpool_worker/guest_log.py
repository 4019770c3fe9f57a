"""What a guard says: lines by `host_log`, and what it writes to standard output and error.

The bridge has checked the ranges (see `gate_and_bridge.PYTHON`). Guest numbers arrive signed; addresses are made unsigned
here.
"""

from __future__ import annotations

from guardpool.outcomes import LogLine
from guardpool.protocol.wire import MAX_LOG_LINES
from guardpool_worker.buffers import GuestMemory

_U32 = 0xFFFFFFFF


class GuestLog:
    """The log lines of one job: what the guard logs, and what it writes to standard output and error.

    Lines are kept until one no longer fits into `max_bytes`, or there are `MAX_LOG_LINES`. That line and all later ones are
    only counted, a write to a standard stream as one line. A line costs its UTF-8 bytes and one for its end.

    Args:
        max_bytes: what the lines of one job may cost.
    """

    def __init__(self, memory: GuestMemory, max_bytes: int) -> None:
        self._memory = memory
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._lines: list[LogLine] = []
        self._partial = {1: bytearray(), 2: bytearray()}
        self._dropped = 0
        self._dropped_level = 0
        self.dirty = False

    def log(self, level: int, ptr: int, length: int) -> None:
        """`env.host_log`, past the level filter and the bounds check."""
        self.dirty = True
        length &= _U32
        if length >= self._room:
            self._drop(level)
            return
        ptr &= _U32
        end = ptr + length
        self._add(level, bytes(self._memory.view(end)[ptr:end]))

    def stdio(self, fd: int, iovs: int, count: int) -> None:
        """`fd_write` to descriptor 1 or 2, put together to lines. The descriptor is also the level of the lines."""
        self.dirty = True
        if self._room <= 0:
            self._drop(fd)
            return
        partial = self._partial[fd]
        whole = self._gather(partial, iovs & _U32, count & _U32, self._room)
        if b"\n" in partial:
            *lines, rest = bytes(partial).split(b"\n")
            partial[:] = rest
            for line in lines:
                self._add(fd, line)
        if not whole:
            partial.clear()
            self._drop(fd)

    def take(self) -> list[LogLine]:
        """The lines of the job that ended, and an empty log for the next one."""
        for fd, partial in self._partial.items():
            if partial:
                self._add(fd, bytes(partial))
                partial.clear()
        if self._dropped:
            self._lines.append(LogLine(self._dropped_level, f"{self._dropped} more lines dropped"))
        lines = self._lines
        self._lines = []
        self._room = self._max_bytes
        self._dropped = self._dropped_level = 0
        self.dirty = False
        return lines

    def _add(self, level: int, raw: bytes) -> None:
        try:
            text = raw.decode()
            size = len(raw)
        except UnicodeDecodeError:
            text = raw.decode(errors="replace")
            size = len(text.encode())
        if size >= self._room or len(self._lines) >= MAX_LOG_LINES:
            self._drop(level)
            return
        self._room -= size + 1
        self._lines.append(LogLine(level, text))

    def _drop(self, level: int) -> None:
        self._room = 0
        self._dropped += 1
        self._dropped_level = max(self._dropped_level, level)

    def _gather(self, into: bytearray, iovs: int, count: int, limit: int) -> bool:
        """Append what the list names, until `into` holds `limit` bytes. False if something was left out."""
        memory = self._memory.view(iovs + count * 8)
        for at in range(iovs, iovs + count * 8, 8):
            ptr = int.from_bytes(memory[at : at + 4], "little")
            length = int.from_bytes(memory[at + 4 : at + 8], "little")
            room = limit - len(into)
            into += self._memory.view(ptr + min(length, room))[ptr : ptr + min(length, room)]
            if length > room:
                return False
        return True
