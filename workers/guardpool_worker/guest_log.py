"""What a guard says: lines by `host_log`, and what it writes to standard output and error.

The bridge has checked the ranges (see `gate_and_bridge.PYTHON`). Guest numbers arrive signed; addresses are made unsigned
here.
"""

from __future__ import annotations

import time

from guardpool.outcomes import LogLine
from guardpool.protocol.log_tail import MAX_TEXT_BYTES, LogTail, counted
from guardpool.protocol.progress_page import PAGE_BYTES
from guardpool.protocol.wire import MAX_LOG_LINES
from guardpool_worker.buffers import GuestMemory

_U32 = 0xFFFFFFFF
# What ` (8,000 times)` costs, for any number of times that a job can reach.
_COUNT_BYTES = len(counted("", 10**15))
_TAIL_PAUSE_NS = 1_000_000


class GuestLog:
    """The log lines of one job: what the guard logs, and what it writes to standard output and error.

    A line that comes several times in a row, at one level, is kept once, with how often it came: `TEXT (8,000 times)`. Lines
    are kept until one no longer fits into `max_bytes`, or there are `MAX_LOG_LINES`. That line and all later ones are only
    counted, a write to a standard stream as one line. A line costs its UTF-8 bytes and one for its end.

    Args:
        max_bytes: what the lines of one job may cost.
        tail: where the last lines stand while the job runs, in case its worker is killed. Past the limits it gets one line a
            millisecond, which costs little and shows where a job was that logs without end.
    """

    def __init__(self, memory: GuestMemory, max_bytes: int, tail: LogTail | None = None) -> None:
        self._memory = memory
        self._max_bytes = max_bytes
        self._tail = tail or LogTail(memoryview(bytearray(PAGE_BYTES)).cast("Q"))
        self._room = max_bytes
        self._lines: list[LogLine] = []
        self._level = 0  # of the last line
        self._times = 1  # how often it came
        self._is_kept = self._is_in_tail = False  # whether it is the newest of the lines, and of the tail
        self._last_written: tuple[int, bytes] | None = None  # it, if it came by a standard stream
        self._partial = {1: bytearray(), 2: bytearray()}
        self._dropped = 0
        self._dropped_level = 0
        self._next_tail_ns = 0
        self.dirty = False

    def log(self, level: int, ptr: int, length: int) -> None:
        """`env.host_log`, past the level filter and the bounds check; what equals the line before comes to `again`."""
        if not self.dirty:
            self._begin()
        length &= _U32
        ptr &= _U32
        if length < self._room:
            end = ptr + length
            self._add(level, bytes(self._memory.view(end)[ptr:end]))
            return
        now = time.monotonic_ns()
        if self._dropped and now < self._next_tail_ns:
            self._skip(level)
            return
        self._next_tail_ns = now + _TAIL_PAUSE_NS
        self._begin_line(level)
        end = ptr + min(length, MAX_TEXT_BYTES)
        self._tail.add(level, bytes(self._memory.view(end)[ptr:end]))
        self._is_in_tail = True
        self._drop(1)

    def again(self, times: int) -> None:
        """The last line of `log` came again, so many times in all."""
        self._repeat(times + 1 - self._times)

    def stdio(self, fd: int, iovs: int, count: int) -> None:
        """`fd_write` to descriptor 1 or 2, put together to lines. The descriptor is also the level of the lines."""
        if not self.dirty:
            self._begin()
        if self._room <= 0:
            self._skip(fd)
            return
        partial = self._partial[fd]
        whole = self._gather(partial, iovs & _U32, count & _U32, self._room)
        if b"\n" in partial:
            *lines, rest = bytes(partial).split(b"\n")
            partial[:] = rest
            for line in lines:
                self._write(fd, line)
        if not whole:
            partial.clear()
            self._skip(fd)

    def take(self) -> list[LogLine]:
        """The lines of the job that ended, and an empty log for the next one."""
        for fd, partial in self._partial.items():
            if partial:
                self._write(fd, bytes(partial))
                partial.clear()
        self._begin_line(0)
        if self._dropped:
            self._lines.append(LogLine(self._dropped_level, f"{self._dropped} more lines dropped"))
        lines = self._lines
        self._lines = []
        self._room = self._max_bytes
        self._dropped = self._dropped_level = 0
        self.dirty = False
        return lines

    def _begin(self) -> None:
        self.dirty = True
        self._tail.begin()

    def _begin_line(self, level: int) -> None:
        """Another line follows; say of the last one how often it came."""
        if self._times > 1:
            if self._is_kept:
                line = self._lines[-1]
                self._lines[-1] = LogLine(line.level, counted(line.text, self._times))
            self._times = 1
        self._level, self._is_kept, self._is_in_tail, self._last_written = level, False, False, None

    def _add(self, level: int, raw: bytes) -> None:
        self._begin_line(level)
        self._tail.add(level, raw)
        self._is_in_tail = True
        try:
            text = raw.decode()
            size = len(raw)
        except UnicodeDecodeError:
            text = raw.decode(errors="replace")
            size = len(text.encode())
        if size >= self._room or len(self._lines) >= MAX_LOG_LINES:
            self._drop(1)
            return
        self._room -= size + 1
        self._lines.append(LogLine(level, text))
        self._is_kept = True

    def _write(self, fd: int, line: bytes) -> None:
        if (fd, line) == self._last_written:
            self._repeat(1)
        else:
            self._add(fd, line)
            self._last_written = (fd, line)

    def _repeat(self, times: int) -> None:
        """The last line came so many times more."""
        if times <= 0:
            return
        if self._is_in_tail:
            self._tail.repeat(times, self._times + times)
        else:
            self._tail.skip(times)
        if self._is_kept and self._times == 1:
            self._is_kept = self._room > _COUNT_BYTES
            self._room -= _COUNT_BYTES
        self._times += times
        if not self._is_kept:
            self._drop(times)

    def _skip(self, level: int) -> None:
        self._begin_line(level)
        self._tail.skip(1)
        self._drop(1)

    def _drop(self, lines: int) -> None:
        self._room = 0
        self._dropped += lines
        if self._level > self._dropped_level:
            self._dropped_level = self._level

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
