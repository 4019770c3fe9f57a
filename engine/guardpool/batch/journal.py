"""The journal of a run: how much of its output is on the disk, and which jobs of its input that stands for.

It lies beside the output, as `OUT.part.journal`, while the run goes on. Each record is whole by itself and is written when what
it tells is on the disk; the last record that is whole counts. So a run that is killed at any moment, even by a power failure,
goes on from there: what it wrote behind that place is taken back, and every job has its outcome once.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import msgspec

from guardpool.batch.files import FileError
from guardpool.batch.identity import RunIdentity
from guardpool.batch.seam import Mark

SUFFIX = ".journal"
_FORMAT = "guardpool journal 1"
# Past it the journal is written anew, with its last record only.
_MAX_BYTES = 4 * 1024 * 1024
_MOST_READ_BYTES = 1024 * 1024 * 1024

_encode = msgspec.json.Encoder().encode


class Record(msgspec.Struct, frozen=True):
    """How far a run is.

    Args:
        mark: a place in the input; every job before it is done.
        seen: a place in the input behind every job that is done.
        done: positions of jobs between the two that are done, as ranges `(first, past the last)`, ascending.
        place: a place in the output, behind the outcomes of all of them.
        counts: outcomes by status.
        label_sum: what the hash over all labels came to, if it is made (`ManifestHash.state`).
        elapsed_s: how long the run took so far.
        runs: when it was begun, and gone on with: seconds since 1970.
        sessions: those that have begun (`BegunSessions.state`).
    """

    mark: Mark
    seen: Mark
    done: list[tuple[int, int]]
    place: dict[str, Any]
    counts: dict[str, int]
    label_sum: str | None
    elapsed_s: float
    runs: list[float]
    sessions: bytes = b""


class _Header(msgspec.Struct, frozen=True):
    format: str
    run: RunIdentity


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_record = msgspec.json.Decoder(Record).decode
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Journal:
    """The journal beside one output.

    Args:
        part: where the output is written until it is complete.
        run: which run it is.
    """

    def __init__(self, part: str, run: RunIdentity) -> None:
        self.path = f"{part}{SUFFIX}"
        self._run = run
        self._fd: int | None = None
        self._size = 0

    def read(self) -> tuple[RunIdentity, Record] | None:
        """What an interrupted run left; None: nothing to go on from.

        Raises:
            FileError: it is not a journal, or another version's.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb") as file:
                lines = file.read(_MOST_READ_BYTES).split(b"\n")[:-1]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FileError.of(self.path, "the journal cannot be read", error) from error
        if not lines:
            return None
        try:
            head = _decode_header(_checked(lines[0]) or b"")
            if head.format != _FORMAT:
                raise ValueError(head.format)
        except (*_BROKEN, ValueError):
            why = "it is not a journal of this version of guardpool: remove it to begin anew"
            raise FileError(f"{self.path}: {why}") from None
        for line in reversed(lines[1:]):
            text = _checked(line)
            if text is not None:
                try:
                    return head.run, _decode_record(text)
                except _BROKEN:
                    continue
        return None

    def append(self, record: Record) -> None:
        """Put a record on the disk. What it tells must be there already.

        Raises:
            OSError: it cannot be written; the records before it are still there.
        """
        line = _line_of(record)
        if self._fd is None or self._size + len(line) > _MAX_BYTES:
            self._begin(line)
            return
        _write(self._fd, line)
        os.fsync(self._fd)
        self._size += len(line)

    def _begin(self, record: bytes) -> None:
        """Write a journal with one record in the place of what is there."""
        self.close()
        text = _line_of(_Header(_FORMAT, self._run)) + record
        new = f"{self.path}.new"
        self._fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _write(self._fd, text)
        os.fsync(self._fd)
        os.replace(new, self.path)
        sync_folder_of(self.path)
        self._size = len(text)

    def remove(self) -> None:
        """Remove it, if it is there: nothing can go on any more from what it tells.

        Raises:
            OSError: it cannot be removed.
        """
        self.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return
        sync_folder_of(self.path)

    def close(self) -> None:
        """Close it; it stays where it is."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def sync_folder_of(path: str) -> None:
    """Put the names in a file's folder on the disk."""
    fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _line_of(value: object) -> bytes:
    text = _encode(value)
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _checked(line: bytes) -> bytes | None:
    """What a line holds; None if it was not written whole."""
    text = line[9:]
    return text if line[:9] == b"%08x " % zlib.crc32(text) else None


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
