"""Calls as `guardpool import` writes them, one a line: what was imported once can be read again."""

from __future__ import annotations

from guardpool.recordings.call import Call, CallError
from guardpool.recordings.formats.seam import Confidence, Sink

_NAME = "calls"


class _Calls:
    name = _NAME

    def recognise(self, text: bytes) -> Confidence:
        """Sure where the members are there that every call has."""
        members = (b'"call":', b'"source":', b'"pairing":', b'"result_is":')
        return Confidence.SURE if all(member in text for member in members) else Confidence.NO

    def begin(self, sink: Sink) -> _CallsFeed:
        """Read an input."""
        return _CallsFeed(sink)


class _CallsFeed:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """Take a line that is a call."""
        try:
            call = Call.from_json(text)
        except CallError:
            return None
        self._sink.emit(call, lines)
        return _NAME

    def finish(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""


CALLS = _Calls()
