"""Replies near the guard: copies in the memory of the quick judge's module, where the bridge finds them without Python.

A call from wasm into Python and back costs 4 to 5 us, most of it for objects that are made and dropped; a reply that is near
costs 0.2. What is near was found and checked before, in the memory that the supervisor writes; `near_replies.zig` holds it and
finds it. The guest cannot reach that memory: it is another module's, which the guard, linked against the gate alone, cannot
name. The bridge hands it the question, by value, and gets the reply, by value. It also brings the replies there: Python says
of one that it may be kept, and the bridge copies what Python has written into the guard's buffer, before the guard goes on.

What this does not know goes to `GuestBackend` as before: what was not asked yet, what is long, what has no answer, and every
question past the limit of a job.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from guardpool.protocol.reply_memory import NEVER, RESULT, Found
from guardpool.protocol.wire import MAX_TALLIED_TOOLS, MAX_USED_REPLIES
from guardpool.sizes import PAGE_BYTES
from guardpool_worker.engine.seam import EngineInstance

Question = tuple[bytes, bytes]
"""A tool, known to be UTF-8, and its arguments, known to be JSON."""

# One page for the index, and one for replies.
_LEAST_BYTES: Final = 2 * PAGE_BYTES

# As in `near_replies.zig` and in the bridge. A reply is copied 8 bytes a call, so Python copies a long one as quickly.
_MAX_ARGS_BYTES: Final = 1024
_MAX_REPLY_BYTES: Final = 8192
# hits, tools, used, job, limit, tried; all; now, keep; keep_tool, full, kept
_HEAD: Final = struct.Struct("<6IQ2q3I4x")
_BEGIN: Final = struct.Struct("<6I").pack_into
_KEEP: Final = struct.Struct("<qI").pack_into
_ONE_TOOL: Final = struct.Struct("<2I56xI")
_ALL_AT, _NOW_AT, _KEEP_AT, _FULL_AT, _KEPT_AT = 24, 32, 40, 52, 56
_TOOL_AT: Final = _HEAD.size
_COUNT_AT: Final = _TOOL_AT + 4 * MAX_TALLIED_TOOLS
_USED_AT: Final = _COUNT_AT + 4 * MAX_TALLIED_TOOLS
_ASKED_BYTES: Final = _USED_AT + 4 * MAX_USED_REPLIES
_ENTRY: Final = struct.Struct("<12xI")  # of 6 bits the tool, of 11 the length of the arguments, of 14 that of the reply
_MAX_JOB: Final = 0xFFFFFFFF
_NEVER: Final = 1 << 62

# A memory that filled up before its replies were asked for again is left as it is, for so many questions to Python for each
# reply that it holds. If more questions than have room are asked in turn, those replies are found each time; if each new one
# took the place of another, none ever would be.
_REST: Final = 16


class NearReplies:
    """The replies of one instance.

    Args:
        quick_judge: the module's instance.
        max_bytes: what they may take.

    Attributes:
        hits: its first item says how many questions were answered here since `begin`.
        ages: some of the replies expire, so that `look_at_clock` has to be called.
    """

    def __init__(self, quick_judge: EngineInstance, max_bytes: int) -> None:
        self._instance = quick_judge
        self._forget: Callable[[], None] = quick_judge.function("near_forget")
        at: int = quick_judge.function("near_start")(max_bytes)
        self._view = quick_judge.memory_view()
        self._asked = self._view[at : at + _ASKED_BYTES] if at else memoryview(bytearray(_ASKED_BYTES))
        self.hits = self._asked[:4].cast("I")
        self._full = self._asked[_FULL_AT : _FULL_AT + 4].cast("I")
        self.ages = False
        self._job = 1
        self._tools: dict[bytes, int] = {}
        self._names: list[bytes] = []
        self._hits_before = 0  # of all jobs, when the first reply was kept
        self._rest = 0 if at else _NEVER  # questions for which nothing is kept
        self._is_full = False  # and nothing is kept until all are forgotten

    @classmethod
    def beside(cls, quick_judge: EngineInstance, max_bytes: int) -> NearReplies | None:
        """Room for so many bytes of replies; None if that is too little for any."""
        return cls(quick_judge, max_bytes) if max_bytes >= _LEAST_BYTES else None

    # --- of a job

    def begin(self, limit: int) -> None:
        """Begin a job; so many of its questions may be answered here, at most."""
        job = self._job = self._job % _MAX_JOB + 1
        _BEGIN(self._asked, 0, 0, 0, 0, job, limit, 0)
        if self._is_full and not self._rest:
            self._forget_all()

    def look_at_clock(self, now_ns: int) -> None:
        """From now on, do not give what expires by then."""
        struct.pack_into("<q", self._asked, _NOW_AT, now_ns)

    def only_tool(self) -> tuple[bytes, int] | None:
        """The tool that the questions answered here named, and how often; None if they named several."""
        hits, tools, number = _ONE_TOOL.unpack_from(self._asked)
        return (self._names[number], hits) if tools == 1 else None

    def tools(self) -> list[tuple[bytes, int]]:
        """The tools that the questions answered here named, and how often."""
        asked = self._asked
        (count,) = struct.unpack_from("<I", asked, 4)
        numbers = struct.unpack_from(f"<{count}I", asked, _TOOL_AT)
        counts = struct.unpack_from(f"<{count}I", asked, _COUNT_AT)
        return [(self._names[number], times) for number, times in zip(numbers, counts)]

    def used(self) -> Iterator[tuple[Question, bytes]] | None:
        """The different replies that were given, and their questions; None if there are more than a result tells of."""
        (count,) = struct.unpack_from("<I", self._asked, 8)
        return self._entries(count) if count <= MAX_USED_REPLIES else None

    def _entries(self, count: int) -> Iterator[tuple[Question, bytes]]:
        for at in struct.unpack_from(f"<{count}I", self._asked, _USED_AT):
            args_at = at + _ENTRY.size
            (of,) = _ENTRY.unpack_from(self._at(args_at), at)
            number, args_len, reply_len = of & 0x3F, of >> 6 & 0x7FF, of >> 17
            reply_at = args_at + _whole(args_len)
            view = self._at(reply_at + reply_len)
            question = self._names[number], bytes(view[args_at : args_at + args_len])
            yield question, bytes(view[reply_at : reply_at + reply_len])

    # --- what is near

    def keep(self, question: Question, found: Found) -> bool:
        """Have the reply, once the guard has got it, kept here for the next time, if there is room.

        Returns:
            False if it will never be here.
        """
        (tool, args), reply = question, found.reply
        if len(reply) > _MAX_REPLY_BYTES or found.kind != RESULT or len(args) > _MAX_ARGS_BYTES:
            return False
        number = self._tools.get(tool)
        if number is None:
            number = self._number(tool)
        if number >= MAX_TALLIED_TOOLS or self._rest == _NEVER:
            return False
        if self._rest:
            self._rest -= 1
        elif self._full[0]:
            self._note_full()
        else:
            _KEEP(self._asked, _KEEP_AT, found.expires_ns, number)
            self.ages |= found.expires_ns != NEVER
        return True

    def _number(self, tool: bytes) -> int:
        number = len(self._names)
        if number < MAX_TALLIED_TOOLS:
            self._tools[tool] = number
            self._names.append(tool)
        return number

    def _note_full(self) -> None:
        if not self._is_full:
            self._is_full = True
            kept = self._kept()
            if not kept:  # the worker has no memory for it
                self._rest = _NEVER
            elif self._all_hits() - self._hits_before < kept:
                self._rest = _REST * kept

    def _kept(self) -> int:
        """How many replies were kept since all were forgotten."""
        (count,) = struct.unpack_from("<I", self._asked, _KEPT_AT)
        return int(count)

    def _forget_all(self) -> None:
        self._forget()
        self._is_full = self.ages = False
        self._hits_before = self._all_hits()

    def _all_hits(self) -> int:
        (count,) = struct.unpack_from("<Q", self._asked, _ALL_AT)
        return int(count)

    def _at(self, end: int) -> memoryview:
        """The memory, to that address at least."""
        if end > len(self._view):
            self._view = self._instance.memory_view()
        return self._view


def _whole(length: int) -> int:
    return length + 7 & ~7
