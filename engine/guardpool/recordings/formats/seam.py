"""The seam between the reader and the formats: what a format must do, and what it may ask of the reader.

A format is one module that has an object with the methods of `Format`, and a line in `guardpool.recordings.formats.ALL`.
It is offered pieces of text. A piece is one line, or one JSON document: the reader joins the lines of a document that is
printed over many lines, so that a format sees no difference. It takes the pieces that are its own and leaves the others,
because a stranger may have appended another format to the same file.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from guardpool.recordings.call import Call
from guardpool.recordings.runs import Run


class Confidence(IntEnum):
    """How sure a format is that a piece is its own; the surest is asked first."""

    NO = 0
    MAYBE = 1
    LIKELY = 2
    SURE = 3


class Sink(Protocol):
    """Where a feed puts what it read. Every line that a feed takes must come out here once: in a call or under a reason."""

    @property
    def name(self) -> str:
        """The input's name, for ids (`NAME#LINE`) and for sessions that have no other name."""

    @property
    def run(self) -> Run:
        """What the input belongs to: a run's folder, or the input alone."""

    def emit(self, call: Call, lines: int) -> None:
        """Hand a call out. Calls of one session must be handed out in the order of their requests.

        Args:
            call: whole.
            lines: how many lines of the input it was made of, its request, answer and events together.
        """

    def count(self, reason: str, number: int, text: bytes, lines: int = 1) -> None:
        """Count lines that belong to no call.

        Args:
            reason: a stable word such as `"other-method"`; see `guardpool.recordings.tally` for those that are shared.
            number: the first line's number, from 1.
            text: the line; its beginning is kept for the first of a reason.
            lines: how many.
        """


class Feed(Protocol):
    """One input being read as one format."""

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """Take a piece, or leave it.

        Must not raise, whatever `text` holds; it need not be UTF-8 or JSON. May be called often: it is the hot path.

        Args:
            text: one line with its newline, or one whole JSON document.
            number: the line's number, from 1; the first line's, of a document.
            lines: how many lines the piece has.

        Returns:
            The name and version of the format that it was read as, such as `"rpc-messages/v2"`; None if it is not this
            format's, and then nothing may have changed.
        """

    def finish(self) -> None:
        """The input has ended: emit or count what is still held, and give temporary files back."""

    def close(self) -> None:
        """The reading was given up: only give temporary files back. May follow `finish`."""


class Format(Protocol):
    """A format of recordings."""

    @property
    def name(self) -> str:
        """What `--format` calls it."""

    def recognise(self, text: bytes) -> Confidence:
        """How sure it is that a piece is its own. Must not raise, and should look for few bytes before it decodes any."""

    def begin(self, sink: Sink) -> Feed:
        """Read an input, from the first piece that this format is offered."""
