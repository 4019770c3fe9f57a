"""Calls as `guardpool import` writes them, one a line: what was imported once can be read again."""

from __future__ import annotations

from guardpool.lines import BOM
from guardpool.recordings.call import Call, CallError
from guardpool.recordings.formats.seam import Confidence, Sink

_NAME = "calls"


def is_decision(line: bytes) -> bool:
    """Whether a line is one of `decisions.jsonl`, as `guardpool replay` writes it."""
    return line.removeprefix(BOM).startswith(b'{"v":') and b'"verdict":' in line


class _Calls:
    name = _NAME

    def recognise(self, text: bytes) -> Confidence:
        """Sure where the members are there that every call has. A decision has them, too, and is none."""
        members = (b'"call":', b'"source":', b'"pairing":', b'"result_is":')
        is_call = all(member in text for member in members) and not is_decision(text)
        return Confidence.SURE if is_call else Confidence.NO

    def begin(self, sink: Sink) -> _CallsFeed:
        """Read an input."""
        return _CallsFeed(sink)


class _CallsFeed:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """Take a line that is a call."""
        if is_decision(text):
            return None
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
