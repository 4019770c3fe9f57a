"""What the two formats of Messages and chat bodies share: whole documents of messages, read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from guardpool.recordings import names
from guardpool.recordings.call import Call, Payload, PayloadState
from guardpool.recordings.formats import blocks
from guardpool.recordings.formats.by_id import UNANSWERED, CallsById
from guardpool.recordings.formats.seam import Sink
from guardpool.recordings.names import ToolName
from guardpool.recordings.tally import NO_CONTENT, NOT_A_GUARDED_CALL

_decode = msgspec.json.Decoder().decode
_FAILURES = (msgspec.MsgspecError, UnicodeError, RecursionError)


def document(text: bytes) -> Any:
    """A JSON document, or None if it is none."""
    try:
        return _decode(text.decode())
    except _FAILURES:
        return None


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """The objects in a list; nothing if it is no list."""
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))


class DocumentFeed:
    """Calls of documents. A program sends all earlier messages again with each request: a call is taken once, by its id.

    Subclasses read the blocks of a document in `read`, and call `ask` and `answer` for what they find.

    Args:
        sink: where calls go.
        name: the format's.
    """

    def __init__(self, sink: Sink, name: str) -> None:
        self._sink = sink
        self._name = name
        self._calls = CallsById(sink)
        self._number = 0
        self._left = 0  # lines of the document that no call has yet
        self._saw_tools = False

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """See `Feed`."""
        found = document(text)
        if not self.is_mine(found):
            return None
        self._number, self._left, self._saw_tools = number, lines, False
        self.read(found)
        if self._left:
            self._sink.count(NOT_A_GUARDED_CALL if self._saw_tools else NO_CONTENT, number, text, self._left)
        return self._name

    def is_mine(self, found: Any) -> bool:
        """Whether a document is of this format."""
        raise NotImplementedError

    def read(self, found: Any) -> None:
        """Read a document that is."""
        raise NotImplementedError

    def ask(self, id: Any, name: Any, arguments: Any, tool: ToolName | None = None) -> None:
        """A call.

        Args:
            id: the source's.
            name: as the model saw it.
            arguments: an object, or the text of one.
            tool: server and tool where the source has them apart.
        """
        self._saw_tools = True
        if not isinstance(id, str) or not isinstance(name, str) or self._calls.is_known(id):
            return
        found = tool or names.any_of(name)
        if found is None:
            self._calls.remember(id)
            return
        args, observed = blocks.arguments_of(arguments)
        call = Call(
            call=self._calls.call_id(self._number, id),
            source=self._name,
            source_id=id,
            session=self._sink.name,
            server=found.server,
            tool=found.tool,
            args_json=args,
            payload=Payload(PayloadState.LOST if args is None else PayloadState.INTACT, None),
            observed=observed or None,
            **UNANSWERED,
        )
        self._calls.ask(id, call, self._take_lines())

    def answer(self, id: Any, content: Any, *, is_error: bool = False, error: Any = None) -> None:
        """The answer to a call, or one whose call is not there."""
        self._saw_tools = True
        if not isinstance(id, str):
            return
        entry = self._calls.find(id)
        if entry is None and self._calls.is_known(id):
            return
        result, members = blocks.outcome_of(blocks.as_result(content, is_error=is_error))
        if error is not None:
            result, members = None, {"error": error}
        if entry is not None:
            self._calls.answer(entry, self._take_lines(), result, **members)
            return
        self._calls.remember(id)
        orphan = Call(
            call=self._calls.call_id(self._number, id),
            source=self._name,
            source_id=id,
            session=self._sink.name,
            result_json=result,
            payload=Payload(None, None if result is None else PayloadState.INTACT),
            **members,
        )
        self._sink.emit(orphan, self._take_lines())

    def _take_lines(self) -> int:
        lines, self._left = self._left, 0
        return lines

    def finish(self) -> None:
        """See `Feed`."""
        self._calls.finish()

    def close(self) -> None:
        """See `Feed`."""
        self._calls.close()
