"""Jobs read from a file descriptor: bytes cut into lines, lines handed on as `Prepared` jobs, in bounded memory.

Reading is as fast as the jobs are taken, and never waits for more bytes than have arrived.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterator

from guardpool.batch.binary import LONGEST_MAGIC, NotLines, kind_of
from guardpool.batch.jobline import JobParser
from guardpool.jobs import Prepared
from guardpool.lines import BOM, LineSplitter

# One read, and so about what is parsed before it is handed on: small enough that the first jobs leave at once.
_READ_BYTES = 256 * 1024
# Jobs are handed on in portions, so that the workers have something to do while the rest of a read is parsed.
_PORTION_JOBS = 256
# What is kept of the beginning, to tell what a file is of which no line was a job.
_HEAD_BYTES = 256 * 1024


class JobReader:
    """Reads jobs from a file descriptor as fast as they are asked for, and no faster.

    Attributes:
        jobs: jobs handed out so far; a line that is not a job counts, a blank one does not.
        lines: lines read so far, blank ones too.
        bytes_read: bytes of the input taken so far.
        head: the first of them, at most 256 KiB.
        total_bytes: size of the input if it is a regular file, else None.
        stopped: whether `stop` was called.
    """

    def __init__(self, fd: int, parser: JobParser) -> None:
        self._fd = fd
        self._parser = parser
        self._wake_r, self._wake_w = os.pipe()
        self._ready = select.poll()  # `select.select` takes no descriptor over 1,023
        for each in (fd, self._wake_r):
            self._ready.register(each, select.POLLIN)
        self.jobs = 0
        self.lines = 0
        self.bytes_read = 0
        self.head = b""
        self.stopped = False
        status = os.fstat(fd)
        self.total_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None

    def batches(self) -> Iterator[list[Prepared]]:
        """Portions of jobs; a portion never waits for the rest of a slow input.

        Raises:
            OSError: the input cannot be read.
            NotLines: its first bytes say that no line can be a job.
        """
        splitter = LineSplitter(self._parser.max_line_bytes)
        data = self._next()
        data = data.removeprefix(BOM)
        while data:
            yield from self._portions(*splitter.feed(data))
            data = self._next()
        if not self.stopped:
            yield from self._portions(*splitter.finish())

    def _portions(self, lines: list[bytes | None], are_text: bool) -> Iterator[list[Prepared]]:
        parse, too_long = self._parser.parse, self._parser.too_long
        for start in range(0, len(lines), _PORTION_JOBS):
            part = lines[start : start + _PORTION_JOBS]
            parsed = [
                too_long(at) if line is None else parse(line, at, are_text) for at, line in enumerate(part, self.lines)
            ]
            portion = [job for job in parsed if job is not None]
            self.lines += len(part)
            self.jobs += len(portion)
            if portion:
                yield portion

    def stop(self) -> None:
        """End the input here, also while a read waits. May be called from any thread and from a signal handler."""
        self.stopped = True
        os.write(self._wake_w, b"x")

    def close(self) -> None:
        """Give the descriptors of the wake-up pipe back; not the input's."""
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _next(self) -> bytes:
        data = self._read()
        self.bytes_read += len(data)
        known = len(self.head)
        if known < _HEAD_BYTES:
            self.head += data[: _HEAD_BYTES - known]
            if known < LONGEST_MAGIC and (kind := kind_of(self.head)) is not None:
                raise NotLines(kind)
        return data

    def _read(self) -> bytes:
        while not self.stopped:
            if self._wake_r in dict(self._ready.poll()):
                break
            try:
                return os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                continue
        return b""
