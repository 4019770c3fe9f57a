"""Outcomes written as lines of JSON, in large pieces.

Only whole lines stay on disk: if a write fails halfway (a full disk), the line it cut is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from guardpool.batch.descriptor_writer import DescriptorWriter
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


class OutcomeWriter(DescriptorWriter):
    """Writes outcomes to a file descriptor: large writes, whole lines.

    Args:
        fd: open for writing; stays the caller's.
        encode: gives one line for each of some outcomes, in their order, each with its newline.
    """

    def __init__(self, fd: int, encode: Callable[[Sequence[Outcome]], bytes] = encode_outcomes) -> None:
        super().__init__(fd)
        self._encode = encode
        self._buffer: list[tuple[bytes, int]] = []  # lines, and how many
        self._size = 0

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
        self._write(b"".join([lines for lines, _ in held]), sum([count for _, count in held]))

    def end(self) -> None:
        """Write what is held; lines have nothing at their end.

        Raises:
            OSError: see `flush`.
        """
        self.flush()

    def close(self) -> None:
        """Nothing is to be ended."""

    def _kept(self, data: bytes) -> tuple[int, int]:
        """What a write that failed has written stays, as far as the lines are whole."""
        size = data.rfind(b"\n") + 1
        return size, data.count(b"\n", 0, size)
