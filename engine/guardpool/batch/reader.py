"""Jobs read from a file descriptor: bytes cut into lines, lines handed on as `Prepared` jobs, in bounded memory.

Reading is as fast as the jobs are taken, and never waits for more bytes than have arrived.
"""

from __future__ import annotations

import hashlib
import os
import select
import stat
from collections.abc import Iterator

from guardpool.batch.binary import LONGEST_MAGIC, NotLines, kind_of
from guardpool.batch.jobline import JobParser
from guardpool.batch.seam import InputDiffers, InputFile, Mark
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

    Args:
        fd: open for reading; stays the caller's.
        parser: makes jobs of lines.
        name: of the file, for messages and the manifest.

    Attributes:
        jobs: jobs handed out so far; a line that is not a job counts, a blank one does not.
        rows: lines read so far, blank ones too.
        bytes_read: bytes of the input taken so far.
        head: the first of them, at most 256 KiB.
        total_bytes: size of the input if it is a regular file, else None.
        stopped: whether `stop` was called.
    """

    def __init__(self, fd: int, parser: JobParser, name: str = "") -> None:
        self._fd = fd
        self._parser = parser
        self._name = name
        self._splitter = LineSplitter(parser.max_line_bytes)
        self._digest = hashlib.sha256()
        self._unfinished = 0  # bytes read behind the last newline
        self._at_mark = True  # all lines that were completed are handed out
        self._at_end = False  # and the last one, which has no newline, too
        self._wake_r, self._wake_w = os.pipe()
        self._ready = select.poll()  # `select.select` takes no descriptor over 1,023
        for each in (fd, self._wake_r):
            self._ready.register(each, select.POLLIN)
        self.jobs = 0
        self.rows = 0
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
        while data := self._take(_READ_BYTES):
            yield from self._portions(*self._feed(data))
        if not self.stopped and self._unfinished:
            self._unfinished, self._at_end = 0, True
            yield from self._portions(*self._splitter.finish())

    def _portions(self, lines: list[bytes | None], are_text: bool) -> Iterator[list[Prepared]]:
        parse, too_long = self._parser.parse, self._parser.too_long
        self._at_mark = not lines
        for start in range(0, len(lines), _PORTION_JOBS):
            part = lines[start : start + _PORTION_JOBS]
            parsed = [
                too_long(at) if line is None else parse(line, at, are_text) for at, line in enumerate(part, self.rows)
            ]
            portion = [job for job in parsed if job is not None]
            self.rows += len(part)
            self.jobs += len(portion)
            self._at_mark = start + _PORTION_JOBS >= len(lines)
            if portion:
                yield portion

    def mark(self) -> Mark | None:
        """The place behind the last portion, if that ends what was read at once."""
        if not self._at_mark:
            return None
        place = {
            "bytes": self.bytes_read,
            "sha256": self._digest.hexdigest(),
            "unfinished": self._unfinished,
            "at_end": self._at_end,
            "rows": self.rows,
            "not_jobs": self._parser.not_jobs,
        }
        return Mark(self.jobs, place)

    def go_to(self, mark: Mark) -> None:
        """Read up to a mark of an earlier run, and compare the digest of what is there; of a pipe it is read as well.

        Raises:
            InputDiffers: it is not what that run read.
            OSError: the input cannot be read.
        """
        place = mark.place
        line_at = place["bytes"] - place["unfinished"]  # where the line begins that the mark lies in
        while self.bytes_read < place["bytes"] and not self.stopped:
            end = line_at if self.bytes_read < line_at else place["bytes"]
            data = self._take(min(_READ_BYTES, end - self.bytes_read))
            if self.bytes_read > line_at:
                self._feed(data)
            if not data and not self.stopped:
                raise InputDiffers(f"it ends after {self.bytes_read:,} bytes, and the interrupted run read more of it")
        if self.stopped:
            return
        if self._digest.hexdigest() != place["sha256"]:
            raise InputDiffers(f"its first {self.bytes_read:,} bytes are not those that the interrupted run read")
        if place["at_end"] and self._read(1):
            raise InputDiffers("its last line, which the interrupted run labelled, goes on now")
        self._unfinished, self._at_end = place["unfinished"], place["at_end"]
        self.jobs, self.rows, self._parser.not_jobs = mark.jobs, place["rows"], place["not_jobs"]

    def inputs(self) -> list[InputFile]:
        """What was read, as one file."""
        return [InputFile(self._name, self.bytes_read, self._digest.hexdigest())]

    def stop(self) -> None:
        """End the input here, also while a read waits. May be called from any thread and from a signal handler."""
        self.stopped = True
        os.write(self._wake_w, b"x")

    def close(self) -> None:
        """Give the descriptors of the wake-up pipe back; not the input's."""
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _feed(self, data: bytes) -> tuple[list[bytes | None], bool]:
        """What was just read, as lines; without the mark of byte order that may stand at the very beginning."""
        newline = data.rfind(b"\n")
        self._unfinished = self._unfinished + len(data) if newline < 0 else len(data) - newline - 1
        return self._splitter.feed(data.removeprefix(BOM) if self.bytes_read == len(data) else data)

    def _take(self, most: int) -> bytes:
        data = self._read(most)
        self._digest.update(data)
        self.bytes_read += len(data)
        known = len(self.head)
        if known < _HEAD_BYTES:
            self.head += data[: _HEAD_BYTES - known]
            if known < LONGEST_MAGIC and (kind := kind_of(self.head)) is not None:
                raise NotLines(kind)
        return data

    def _read(self, most: int) -> bytes:
        while not self.stopped:
            if self._wake_r in dict(self._ready.poll()):
                break
            try:
                return os.read(self._fd, most)
            except BlockingIOError:
                continue
        return b""
