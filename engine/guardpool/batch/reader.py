"""Jobs read from a file descriptor: bytes cut into lines, lines handed on as `Prepared` jobs, in bounded memory.

Reading is as fast as the jobs are taken, and never waits for more bytes than have arrived. gzip and zstd are unpacked on the
way; places in such a file are places in what it unpacks to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from guardpool.batch.binary import LONGEST_MAGIC, NotLines, kind_of
from guardpool.batch.byte_stream import ByteStream
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
_ENDS_EARLY = "it ends after {:,} bytes, and the interrupted run read more of it"


class JobReader:
    """Reads jobs from a file descriptor as fast as they are asked for, and no faster.

    Args:
        fd: open for reading; stays the caller's.
        parser: makes jobs of lines.
        name: of the file, for messages and the manifest.
        first_row: the number of the first line.

    Attributes:
        jobs: jobs handed out so far; a line that is not a job counts, a blank one does not.
        rows: the number of the next line; blank lines count.
        head: its first bytes, unpacked, at most 256 KiB.
    """

    def __init__(self, fd: int, parser: JobParser, name: str = "", first_row: int = 0) -> None:
        self._stream = ByteStream(fd, name)
        self._parser = parser
        self._name = name
        self._splitter = LineSplitter(parser.max_line_bytes)
        self._digest = hashlib.sha256()  # of the lines that were handed out, between two portions
        self._hashed = 0  # how many bytes that is
        self._at_end = False  # the last line, which has no newline, is handed out
        self._check: dict[str, Any] | None = None  # a place at which the digest must be as it was
        self._taken = 0  # unpacked bytes
        self.jobs = 0
        self.rows = first_row
        self.head = b""

    @property
    def bytes_read(self) -> int:
        """Bytes of the input taken so far, as they are stored."""
        return self._stream.bytes_read

    @property
    def total_bytes(self) -> int | None:
        """Size of the input if it is a regular file, else None."""
        return self._stream.total_bytes

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stream.stopped

    def batches(self) -> Iterator[list[Prepared]]:
        """Portions of jobs; a portion never waits for the rest of a slow input.

        Raises:
            OSError: the input cannot be read, or is cut or damaged as a compressed one (`EBADMSG`, with its name).
            HostError: it is compressed with zstd, and nothing here reads that.
            NotLines: its first bytes say that no line can be a job.
        """
        while data := self._take(self._next_bytes()):
            is_first = self._taken == len(data)
            lines, are_text = self._splitter.feed(data.removeprefix(BOM) if is_first else data)
            yield from self._portions(lines, are_text, data)
        if not self.stopped:
            lines, are_text = self._splitter.finish()
            self._at_end = bool(lines)
            yield from self._portions(lines, are_text, b"")

    def _portions(self, lines: list[bytes | None], are_text: bool, data: bytes) -> Iterator[list[Prepared]]:
        """Jobs of lines that `data` completes. The digest is up to the end of each portion when that is handed out, and up to
        the end of `data` afterwards."""
        parse, too_long = self._parser.parse, self._parser.too_long
        begin = 0
        for first in range(0, len(lines), _PORTION_JOBS):
            part = lines[first : first + _PORTION_JOBS]
            parsed = [
                too_long(at) if line is None else parse(line, at, are_text) for at, line in enumerate(part, self.rows)
            ]
            portion = [job for job in parsed if job is not None]
            end = _end_of_lines(data, begin, part)
            self._hash(data, begin, end)
            begin = end
            self.rows += len(part)
            self.jobs += len(portion)
            if portion:
                yield portion
        self._hash(data, begin, len(data))

    def _hash(self, data: bytes, start: int, end: int) -> None:
        self._digest.update(memoryview(data)[start:end])
        self._hashed += end - start
        if self._check is not None and self._hashed == self._check["bytes"]:
            self._compare(self._check)
            self._check = None

    def mark(self) -> Mark:
        """The place behind the last portion."""
        place = {
            "bytes": self._hashed,
            "sha256": self._digest.hexdigest(),
            "at_end": self._at_end,
            "rows": self.rows,
            "not_jobs": self._parser.not_jobs,
        }
        return Mark(self.jobs, place)

    def go_to(self, mark: Mark, seen: Mark) -> None:
        """Read up to a mark of an earlier run, and compare the digest of what is there; of a pipe it is read as well.

        Raises:
            InputDiffers: it is not what that run read.
            OSError: the input cannot be read.
        """
        place = mark.place
        while self._taken < place["bytes"]:
            data = self._take(min(_READ_BYTES, place["bytes"] - self._taken))
            self._hash(data, 0, len(data))
            if not data:
                raise InputDiffers(_ENDS_EARLY.format(self._taken))
        self._compare(place)
        self.jobs, self.rows, self._parser.not_jobs = mark.jobs, place["rows"], place["not_jobs"]
        if seen.place["bytes"] > place["bytes"]:
            self._check = seen.place

    def _next_bytes(self) -> int:
        """How much to read, at most: up to the place of a check, so that it ends there."""
        return _READ_BYTES if self._check is None else min(_READ_BYTES, self._check["bytes"] - self._taken)

    def _compare(self, place: dict[str, Any]) -> None:
        if self._digest.hexdigest() != place["sha256"]:
            raise InputDiffers(f"its first {self._hashed:,} bytes are not those that the interrupted run read")
        if place["at_end"] and self._stream.read(1):
            raise InputDiffers("its last line, which the interrupted run labelled, goes on now")

    def inputs(self) -> list[InputFile]:
        """What was read, as one file."""
        return [InputFile(self._name, self.bytes_read, self._stream.sha256() or self._digest.hexdigest())]

    def stop(self) -> None:
        """End the input here, also while a read waits. May be called from any thread."""
        self._stream.stop()

    def close(self) -> None:
        """Give back what reading took; the input's descriptor stays the caller's."""
        self._stream.close()

    def _take(self, most: int) -> bytes:
        data = self._stream.read(most)
        self._taken += len(data)
        if not data and self._check is not None and not self.stopped:
            raise InputDiffers(_ENDS_EARLY.format(self._taken))
        known = len(self.head)
        if known < _HEAD_BYTES:
            self.head += data[: _HEAD_BYTES - known]
            if known < LONGEST_MAGIC and (kind := kind_of(self.head)) is not None:
                raise NotLines(kind)
        return data


def _end_of_lines(data: bytes, begin: int, lines: list[bytes | None]) -> int:
    """Where in `data` these lines end, which begin at `begin`; the first of them may have begun before `data`."""
    if not data:
        return 0
    first_end = data.index(b"\n", begin) + 1
    if None not in lines[1:]:
        return first_end + sum(map(len, lines[1:]))  # type: ignore[arg-type]
    end = first_end
    for _ in lines[1:]:
        end = data.index(b"\n", end) + 1
    return end
