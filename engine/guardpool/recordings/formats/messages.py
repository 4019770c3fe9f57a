"""What the two formats of Messages and chat bodies share: whole documents of messages, read block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from guardpool.recordings import names
from guardpool.recordings.call import Call, Payload, PayloadState
from guardpool.recordings.formats import blocks
from guardpool.recordings.formats.by_id import UNANSWERED, CallsById
from guardpool.recordings.formats.seam import Sink
from guardpool.recordings.json_text import value_of
from guardpool.recordings.names import ToolName
from guardpool.recordings.tally import NO_CONTENT, NOT_A_GUARDED_CALL, REPEATED

# Ids of calls that are remembered.
_MAX_KEYS = 100_000


def _scope_of(found: Any) -> int:
    """What a conversation begins with, so that its ids are told from another's; 0 for a document without a history."""
    messages = found.get("messages") if isinstance(found, dict) else found
    if not isinstance(messages, list) or len(messages) < 2:
        return 0
    return hash(repr(messages[0])) or 1


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """The objects in a list; nothing if it is no list."""
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))


class DocumentFeed(ABC):
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
        self._saw_again = False
        # By conversation and id: a digest of the call, and its key among those that wait.
        self._keys: OrderedDict[tuple[int, str], tuple[int, str]] = OrderedDict()
        self._newest: OrderedDict[str, str] = OrderedDict()  # by id alone: the key of the call that came last
        self._scope = 0
        self._serial = 0

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """See `Feed`."""
        found = value_of(text)
        if not self.is_mine(found):
            return None
        self._number, self._left, self._saw_tools, self._saw_again = number, lines, False, False
        self._scope = _scope_of(found)
        self.read(found)
        if self._left:
            reason = REPEATED if self._saw_again else NOT_A_GUARDED_CALL if self._saw_tools else NO_CONTENT
            self._sink.count(reason, number, text, self._left)
        return self._name

    @abstractmethod
    def is_mine(self, found: Any) -> bool:
        """Whether a document is of this format."""

    @abstractmethod
    def read(self, found: Any) -> None:
        """Read a document that is."""

    def ask(self, id: Any, name: Any, arguments: Any, tool: ToolName | None = None) -> None:
        """A call.

        Args:
            id: the source's.
            name: as the model saw it.
            arguments: an object, or the text of one.
            tool: server and tool where the source has them apart.
        """
        self._saw_tools = True
        if not isinstance(id, str) or not isinstance(name, str):
            return
        # The same id with another call is another conversation's, even where both begin alike.
        digest = hash((name, repr(arguments)))
        known = self._keys.get((self._scope, id)) if self._scope else None
        if known is None and self._scope:
            # A response stands alone; the next request of its conversation has the same call in its history.
            alone = self._keys.get((0, id))
            if alone is not None and alone[0] == digest:
                known = self._keys[self._scope, id] = self._keys.pop((0, id))
        if known is not None and known[0] == digest:
            self._saw_again = True
            return
        self._serial += 1
        key = f"{id}/{self._serial}"
        self._keys[self._scope, id] = (digest, key)
        self._newest[id] = key
        for known_ones in (self._keys, self._newest):
            if len(known_ones) > _MAX_KEYS:
                known_ones.popitem(last=False)
        found = tool or names.any_of(name)
        if found is None:
            self._calls.remember(key)
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
        self._calls.ask(key, call, self._take_lines())

    def answer(self, id: Any, content: Any, *, is_error: bool = False, error: Any = None) -> None:
        """The answer to a call, or one whose call is not there."""
        self._saw_tools = True
        if not isinstance(id, str):
            return
        known = self._keys.get((self._scope, id))
        # An answer may come in a request, to a call in a response that stood alone.
        key = known[1] if known is not None else self._newest.get(id, id)
        entry = self._calls.find(key)
        if entry is None and self._calls.is_known(key):
            self._saw_again = True
            return
        result, members = blocks.outcome_of(blocks.as_result(content, is_error=is_error))
        if error is not None:
            result, members = None, {"error": error}
        if entry is not None:
            self._calls.answer(entry, self._take_lines(), result, **members)
            return
        self._calls.remember(key)
        orphan = Call(
            call=self._calls.call_id(self._number, id),
            source=self._name,
            source_id=id,
            session=self._sink.name,
            result_json=result,
            payload=Payload(None, None if result is None else PayloadState.INTACT),
            **members,
        )
        self._calls.add(orphan, self._take_lines())

    def _take_lines(self) -> int:
        lines, self._left = self._left, 0
        return lines

    def finish(self) -> None:
        """See `Feed`."""
        self._calls.finish()

    def close(self) -> None:
        """See `Feed`."""
        self._calls.close()
