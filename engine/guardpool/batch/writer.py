"""Outcomes written as lines of JSON, in large pieces.

Only whole lines stay on disk: if a write fails halfway (a full disk), the line it cut is taken back.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from guardpool.batch.seam import OutputDiffers
from guardpool.outcomes import BackendUse, Outcome, OutcomeError, Status, StoredLabel, stored_label
from guardpool.printable import terminal_json

_WRITE_BYTES = 256 * 1024


class _Line(msgspec.Struct, gc=False):
    """An outcome as it stands in the file. Its parts were checked when they came."""

    id: Any
    guard: str | None
    op: str | None
    tool_name: str | None
    status: Status
    label: msgspec.Raw
    error: OutcomeError | None
    duration_us: int | msgspec.UnsetType
    attempts: int
    backend: BackendUse | msgspec.UnsetType
    session_restarted: bool | msgspec.UnsetType


_encode_lines = msgspec.json.Encoder().encode_lines


def encode_outcome(outcome: Outcome, *, timing: bool = True) -> bytes:
    """An outcome as one line of the outcome file, with its newline."""
    return encode_outcomes((outcome,), timing=timing)


def encode_outcomes(outcomes: Sequence[Outcome], *, timing: bool = True) -> bytes:
    """Outcomes as lines of the outcome file. Hot: one call for all lines takes three quarters of the time of one for each.

    Args:
        outcomes: in the order of the lines.
        timing: with `duration_us`, which differs from run to run.
    """
    lines = [
        _Line(
            outcome.id,
            outcome.guard,
            outcome.op or None,
            outcome.tool_name,
            outcome.status,
            msgspec.Raw(label.json if type(label := stored_label(outcome)) is StoredLabel else outcome.label_json),
            outcome.error,
            outcome.duration_us if timing else msgspec.UNSET,
            outcome.attempts,
            outcome.backend if outcome.backend.asked else msgspec.UNSET,
            outcome.session_restarted or msgspec.UNSET,
        )
        for outcome in outcomes
    ]
    try:
        return _encode_lines(lines)
    except UnicodeEncodeError:  # a message made of bytes that were not text: better escaped than lost
        for line in lines:
            line.error = _as_text(line.error)
        return _encode_lines(lines)


def encode_for_terminal(outcomes: Sequence[Outcome], *, timing: bool = True) -> bytes:
    """`encode_outcomes` with every character escaped that a terminal should not get."""
    return b"".join([terminal_json(encode_outcome(outcome, timing=timing)) for outcome in outcomes])


def _as_text(error: OutcomeError | None) -> OutcomeError | None:
    try:
        msgspec.json.encode(error)
    except UnicodeEncodeError:
        assert error is not None
        message = error.message.encode(errors="backslashreplace").decode()
        return OutcomeError(code=error.code, message=message, line=error.line)
    return error


def durable_place(fd: int, outcomes: int) -> dict[str, Any]:
    """Have what was written on the disk.

    Returns:
        The place behind it, and behind so many outcomes, for `cut_behind`.

    Raises:
        OSError: it cannot be written.
    """
    os.fsync(fd)
    return {"bytes": os.lseek(fd, 0, os.SEEK_CUR), "outcomes": outcomes}


def cut_behind(fd: int, place: dict[str, Any]) -> None:
    """Take back what an earlier run wrote behind a durable place, and go there.

    Raises:
        OutputDiffers: the place is not there.
        OSError: the file cannot be cut.
    """
    size = os.fstat(fd).st_size
    if size < place["bytes"]:
        raise OutputDiffers(f"it has {size:,} bytes, and the interrupted run had written {place['bytes']:,}")
    os.ftruncate(fd, place["bytes"])
    os.lseek(fd, place["bytes"], os.SEEK_SET)


class OutcomeWriter:
    """Writes outcomes to a file descriptor: large writes, whole lines.

    Args:
        fd: open for writing; stays the caller's.
        encode: gives one line for each of some outcomes, in their order, each with its newline.

    Attributes:
        written: outcomes given to the operating system so far.
        is_cut: a write to something that is not a regular file was interrupted: how much its reader got of it is not known.
    """

    def __init__(self, fd: int, encode: Callable[[Sequence[Outcome]], bytes] = encode_outcomes) -> None:
        self._fd = fd
        self._encode = encode
        self._buffer: list[tuple[bytes, int]] = []  # lines, and how many
        self._size = 0
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

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes; what has grown large is written at once.

        Raises:
            OSError: see `flush`.
        """
        lines = self._encode(outcomes)
        self._buffer.append((lines, len(outcomes)))
        self._size += len(lines)
        if self._size >= _WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held.

        Raises:
            OSError: it cannot be written; a line that was written in part is taken back if the output is a
                regular file. What was held is dropped, so that a second try does not write it twice.
        """
        if not self._buffer:
            return
        held, self._buffer, self._size = self._buffer, [], 0
        data = b"".join([lines for lines, _ in held])
        view = memoryview(data)
        start = os.lseek(self._fd, 0, os.SEEK_CUR) if self._regular else 0
        written = 0
        try:
            while written < len(data):
                written += self._write(view[written:])
        except BaseException:  # also a signal that stops everything
            if self._regular:
                self._take_back(data, start)
            else:
                self.is_cut = True
            raise
        self.written += sum([count for _, count in held])

    def make_durable(self) -> dict[str, Any]:
        """Put everything that was added on the disk; for regular files.

        Returns:
            The place behind it, for `go_on_from`.

        Raises:
            OSError: it cannot be written.
        """
        self.flush()
        return durable_place(self._fd, self.written)

    def go_on_from(self, place: dict[str, Any]) -> None:
        """Take back what stands behind a place of an earlier run, and go on there.

        Raises:
            OutputDiffers: the place is not there.
            OSError: the file cannot be cut.
        """
        cut_behind(self._fd, place)
        self.written = place["outcomes"]

    def end(self) -> None:
        """Write what is held; lines have nothing at their end.

        Raises:
            OSError: see `flush`.
        """
        self.flush()

    @property
    def product(self) -> str | None:
        """None: what was written to is the finished file."""
        return None

    def close(self) -> None:
        """Nothing is to be ended."""

    def _write(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                self._room.poll()

    def _take_back(self, data: bytes, start: int) -> None:
        """Cut a regular file after the last whole line that a failed write of `data` left in it."""
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        whole = data.rfind(b"\n", 0, end - start) + 1
        self.written += data.count(b"\n", 0, whole)
        if os.fstat(self._fd).st_size == end:  # else another process writes there as well
            os.ftruncate(self._fd, start + whole)
            os.lseek(self._fd, start + whole, os.SEEK_SET)
