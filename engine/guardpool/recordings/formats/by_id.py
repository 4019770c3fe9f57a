"""Calls that wait for the answer with their id, in sources whose ids are true: transcripts, JSON-RPC, hosted MCP.

Calls of a session are handed out in the order of their requests, as soon as all before them are answered. What waits is
bounded: the oldest call is given up first, and results that wait for long go to disk.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Any

import msgspec

from guardpool.recordings.call import Call, Pairing, Payload, PayloadState, ResultIs
from guardpool.recordings.formats.seam import Sink
from guardpool.recordings.spill import Spill
from guardpool.sizes import MIB

# How many calls may wait, over all sessions. Agents have tens at once; a cut transcript leaves a few behind.
MAX_WAITING = 20_000
# How many ids of calls that are over, or that are no calls, are remembered.
_MAX_REMEMBERED = 100_000
_MAX_HELD_BYTES = 32 * MIB
# Arguments of calls that wait: past it the oldest calls are given up.
MAX_ARGS_BYTES = 64 * MIB


class Waiting:
    """A call whose answer has not come, or that waits for one before it.

    Attributes:
        call: without its result.
        lines: of the input that belong to it so far.
        is_done: nothing more is expected.
    """

    __slots__ = ("call", "is_done", "key", "lines", "place", "result")

    def __init__(self, key: Hashable, call: Call, lines: int) -> None:
        self.key = key
        self.call = call
        self.lines = lines
        self.is_done = False
        self.result: bytes | None = None
        self.place: tuple[int, int] | None = None


class CallsById:
    """The calls of one input.

    Args:
        sink: where whole calls go.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._open: OrderedDict[Hashable, Waiting] = OrderedDict()
        self._sessions: OrderedDict[str, deque[Waiting]] = OrderedDict()
        self._known: OrderedDict[Hashable, None] = OrderedDict()
        self._waiting = 0
        self._held = 0
        self._args = 0  # bytes of arguments that wait
        self._spill = Spill()
        self._last_number = 0

    def call_id(self, number: int, source_id: str) -> str:
        """The id of a call that begins in that line; of a second one there, with the source's own id behind it."""
        is_second = number == self._last_number
        self._last_number = number
        return f"{self._sink.name}#{number}/{source_id}" if is_second else f"{self._sink.name}#{number}"

    def ask(self, key: Hashable, call: Call, lines: int) -> None:
        """A request. One with an id that is still open ends that one: ids are used again only by mistake.

        Args:
            key: the id, with whatever makes it unique in this input.
            call: all that the request tells.
            lines: lines of the input that are this request's.
        """
        before = self._open.pop(key, None)
        if before is not None:
            self._end(before)
        entry = Waiting(key, call, lines)
        self._open[key] = entry
        self._queue(entry)

    def add(self, call: Call, lines: int) -> None:
        """A call of which nothing more is expected, e.g. an answer without a request, in its place in its session.

        Args:
            call: the whole call.
            lines: lines of the input that are its own.
        """
        if call.session not in self._sessions:
            self._sink.emit(call, lines)
            return
        entry = Waiting(None, msgspec.structs.replace(call, result_json=None), lines)
        entry.result, entry.is_done = call.result_json, True
        self._held += len(entry.result or b"")
        self._queue(entry)
        self._spill_what_is_too_much()

    def _queue(self, entry: Waiting) -> None:
        self._sessions.setdefault(entry.call.session, deque()).append(entry)
        self._waiting += 1
        self._args += len(entry.call.args_json or b"")
        while self._waiting > MAX_WAITING or (self._waiting > 1 and self._args > MAX_ARGS_BYTES):
            self._give_up_oldest()

    def find(self, key: Hashable) -> Waiting | None:
        """The call that waits for this answer."""
        return self._open.get(key)

    def answer(self, entry: Waiting, lines: int, result: bytes | None, **members: Any) -> None:
        """The answer of a call that was found.

        Args:
            entry: what `find` gave.
            lines: lines of the input that are this answer's.
            result: the MCP result as JSON; None if the answer has none.
            members: of `Call`, such as `result_is`, `error`, `until`, `observed`.
        """
        self._open.pop(entry.key, None)
        args = entry.call.payload.args
        state = None if result is None else PayloadState.INTACT
        members = {"pairing": Pairing.ID, "payload": Payload(args, state), **members}
        if "observed" in members and entry.call.observed:
            members["observed"] = {**entry.call.observed, **(members["observed"] or {})}
        entry.call = msgspec.structs.replace(entry.call, **members)
        entry.lines += lines
        entry.result = result
        self._held += len(result or b"")
        self._end(entry)
        self._spill_what_is_too_much()

    def note(self, entry: Waiting, lines: int, observed: dict[str, Any]) -> None:
        """Note something that was seen of a call before its answer."""
        entry.lines += lines
        entry.call = msgspec.structs.replace(entry.call, observed={**(entry.call.observed or {}), **observed})

    @property
    def is_busy(self) -> bool:
        """Whether calls wait."""
        return bool(self._waiting)

    def end_all(self) -> None:
        """Whatever has no answer yet gets none."""
        for entry in list(self._open.values()):
            self._end(entry)
        self._open.clear()

    def remember(self, key: Hashable) -> None:
        """An id that is not a call to be handed out: one of the client's own tools, or a request of another kind."""
        self._known[key] = None
        while len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)

    def is_known(self, key: Hashable) -> bool:
        """Whether the id was seen before: as a call that waits or is over, or as one to `remember`."""
        return key in self._known or key in self._open

    def finish(self) -> None:
        """The input has ended."""
        self.end_all()
        self.close()

    def close(self) -> None:
        """Give the temporary file back."""
        self._spill.close()

    def _give_up_oldest(self) -> None:
        session = next(iter(self._sessions))
        entry = self._sessions[session][0]
        self._open.pop(entry.key, None)
        self._end(entry)

    def _end(self, entry: Waiting) -> None:
        if not entry.is_done:
            entry.is_done = True
            self.remember(entry.key)
        session = entry.call.session
        queue = self._sessions.get(session)
        while queue and queue[0].is_done:
            self._hand_out(queue.popleft())
        if queue is not None and not queue:
            del self._sessions[session]

    def _hand_out(self, entry: Waiting) -> None:
        self._waiting -= 1
        self._args -= len(entry.call.args_json or b"")
        result = entry.result
        if entry.place is not None:
            result = self._spill.get(entry.place)
        elif result is not None:
            self._held -= len(result)
        call = entry.call
        if result is not None:
            call = msgspec.structs.replace(call, result_json=result)
        self._sink.emit(call, entry.lines)

    def _spill_what_is_too_much(self) -> None:
        if self._held <= _MAX_HELD_BYTES:
            return
        for queue in self._sessions.values():
            for entry in queue:
                if entry.result is not None:
                    self._held -= len(entry.result)
                    entry.place = self._spill.put(entry.result)
                    entry.result = None


UNANSWERED: dict[str, Any] = {"result_is": ResultIs.NO_RESPONSE, "pairing": Pairing.UNMATCHED}
"""The members of a call whose answer has not come."""
