"""What a guard asks: `call_backend`, from the guard's memory to whatever answers, and back.

Nothing here trusts a number that comes from the guest: the bridge has not checked these ranges. Guest numbers arrive signed;
addresses are made unsigned here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from guardpool.outcomes import MAX_BACKEND_ERRORS
from guardpool.protocol.reply_memory import FAILURE, RESULT, Found, reply_digest
from guardpool.protocol.wire import (
    MAX_ARGS_BYTES,
    MAX_TALLIED_TOOLS,
    MAX_TOLD_BYTES,
    MAX_TOOL_BYTES,
    MAX_USED_REPLIES,
    BackendTally,
    QuestionItem,
    ToolItem,
    UsedItem,
    may_be_told,
)
from guardpool.sizes import MAX_MISSING
from guardpool_worker.buffers import GuestMemory
from guardpool_worker.known_replies import KnownReplies
from guardpool_worker.near_replies import NearReplies, Question

CallBackend = Callable[[str, bytes], bytes]
"""The answers to `call_backend`: `backend(tool, args_json) -> result_json`; raises `BackendError` if the call failed."""

MAX_ERROR_CHARS = 300

# Questions of one guard that were found to be well-formed; they are forgotten all at once.
_MAX_CHECKED = 256
_MAX_CHECKED_BYTES = 1024
# What the questions of a job came to, for as many jobs that asked the same number of one tool.
_MAX_TALLIES = 256

_U32 = 0xFFFFFFFF
ERROR, TOO_SMALL = -1, -2
_OTHER_TOOLS = b""
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class BackendError(Exception):
    """A backend call that failed: the guard gets -1, and the message stands in the outcome."""


class GuestBackend:
    """`env.call_backend` for one guard.

    Args:
        backend: answers the calls; None: the gate lets the first calls of a job through, to be told of, and counts them all.
        max_calls: calls that one job may make, over all its tries.
        known: replies that need no call; None: there are none.
        tells_replies: keep in mind which replies a job used.

    Attributes:
        asked: how often the job asked, as far as the calls came here; `take_hits` adds the others.
        calls: those of them that had a backend and were within the limit.
        hits: its first item says how many calls of the job did not come here, because their replies are near.
        owes: the next tally is to tell the replies that were used before the first job, too.
        errors: why calls failed, of the last ones.
        near: replies that the bridge finds; None: there are none.
    """

    def __init__(
        self,
        memory: GuestMemory,
        backend: CallBackend | None,
        max_calls: int,
        known: KnownReplies | None = None,
        tells_replies: bool = False,
    ) -> None:
        self._memory = memory
        self._backend = backend
        self._max_calls = max_calls
        self._known = known
        self._tells_replies = tells_replies
        self._checked: set[Question] = set()
        self.errors: deque[str] = deque(maxlen=MAX_BACKEND_ERRORS)
        self.owes = False
        self.hits: Sequence[int] = (0,)
        self.near: NearReplies | None = None
        self._at_start: set[tuple[Question, bytes]] | None = set()  # None: a question had no answer, or is not told
        self._tallies: dict[tuple[bytes, int], BackendTally] = {}
        self.reset()

    def use_near(self, near: NearReplies) -> None:
        """Have replies that are found kept near the guard."""
        assert self._known is not None
        self.near = self._known.near = near
        self.hits = near.hits
        near.begin(self._max_calls)

    def let_go(self) -> None:
        """Hold nothing of the instance any longer: it may not be used again."""
        if self._known is not None and self._known.near is self.near:
            self._known.near = None
        self.near, self.hits = None, (0,)

    def look_at_clock(self) -> None:
        """Before a job: what has expired is not given in it."""
        if self.near is not None and self.near.ages:
            self.near.look_at_clock(time.monotonic_ns())

    def reset(self) -> None:
        """Begin a new job."""
        self.asked = self.calls = self._answered = 0
        self.errors.clear()
        self._tools: dict[bytes, int] = {}
        self._failed: dict[bytes, int] = {}
        self._missing: dict[Question, None] = {}
        self._used: set[tuple[Question, bytes]] = set()
        self._is_untold = False
        if self.near is not None:
            self.near.begin(self._max_calls)

    def take_hits(self) -> None:
        """Count the questions whose replies were near, once a job: `reset` has to follow before the next one."""
        near, hits = self.near, self.hits[0]
        if near is None or not hits:
            return
        self.asked += hits
        self.calls += hits
        self._answered += hits
        for tool, count in near.tools():
            self._count(tool, count)
        if self._tells_replies:
            used = near.used()
            self._is_untold = used is None
            self._used.update((question, reply_digest(reply)) for question, reply in used or ())

    def end_start(self) -> None:
        """A call before the first job is over. The guard may remember what it was told."""
        self.take_hits()
        self.owes |= self._tells_replies and self.asked > 0
        if self.asked != self._answered or self._is_untold:
            self._at_start = None
        elif self._at_start is not None:
            self._at_start |= self._used
        self.reset()

    def tally(self, asked: int) -> BackendTally:
        """What the job asked, and what came of it.

        Args:
            asked: how often it asked in all.
        """
        failed = self._failed
        return BackendTally(
            asked,
            asked - self._answered,
            [told for question in self._missing if (told := _told(question)) is not None],
            [ToolItem(tool.decode(), count, failed.get(tool, 0)) for tool, count in self._tools.items()],
            self._told_replies() if self._tells_replies else None,
        )

    def plain_tally(self) -> BackendTally | None:
        """The tally of a job that named one tool and had an answer to each question, as nearly always; then a new job begins.

        None: the job's questions are not that simple, or the replies are to be told. Hot: the tally of many jobs is one
        object, because to make it takes longer than to answer ten questions.
        """
        tools, hits, near = self._tools, self.hits[0], self.near
        if self._tells_replies or self.asked != self._answered or len(tools) > 1:
            return None
        if near is None or not hits:
            ((tool, count),) = tools.items()
        else:
            one = near.only_tool()
            if one is None or (tools and one[0] not in tools):
                return None
            tool, count = one[0], hits + tools.get(one[0], 0)
        if tools:
            tools.clear()
            self.asked = self.calls = self._answered = 0
        if near is not None:
            near.begin(self._max_calls)
        return self._tally_of((tool, count))

    def _tally_of(self, one: tuple[bytes, int]) -> BackendTally:
        """The tally of so many questions for one tool, all of which were answered."""
        tally = self._tallies.get(one)
        if tally is None:
            tool, count = one
            if len(self._tallies) >= _MAX_TALLIES:
                self._tallies.clear()
            tally = self._tallies[one] = BackendTally(count, 0, [], [ToolItem(tool.decode(), count, 0)])
        return tally

    def _told_replies(self) -> list[UsedItem] | None:
        """The replies that the job used; None if they are too many, or a question is too long."""
        used = self._used
        if self._is_untold:
            self.owes = False
            return None
        if self.owes:
            self.owes = False
            if self._at_start is None:
                return None
            used = used | self._at_start
        if len(used) > MAX_USED_REPLIES or any(len(args) > MAX_TOLD_BYTES for (_, args), _ in used):
            return None
        return [UsedItem(tool.decode(), args, digest) for (tool, args), digest in used]

    def call(self, tool_ptr: int, tool_len: int, args_ptr: int, args_len: int, result_ptr: int, result_cap: int) -> int:
        """The length of the result, -1 on any error, -2 if the buffer is too small."""
        self.asked += 1
        question = self._read(tool_ptr & _U32, tool_len & _U32, args_ptr & _U32, args_len & _U32)
        result_ptr &= _U32
        if question is None:
            return ERROR
        memory = self._memory.bytes
        if result_ptr > len(memory) and result_ptr > len(self._memory.view(result_ptr)):
            return ERROR
        found = None if self._known is None else self._known.as_spelt(question)
        if found is not None:
            reply, tools = found.reply, self._tools
            end = result_ptr + len(reply)
            if (
                end <= len(memory)
                and len(reply) <= result_cap & _U32
                and found.kind == RESULT
                and question[0] in tools
                and self.calls + self.hits[0] < self._max_calls
                and not self._tells_replies
            ):  # nearly always, and then nothing else is to be done
                tools[question[0]] += 1
                self.calls += 1
                self._answered += 1
                memory[result_ptr:end] = reply
                return len(reply)
        elif not self._is_question(question):
            return ERROR
        tool = self._count(question[0], 1)
        if self.calls + self.hits[0] < self._max_calls and self._backend is not None:
            self.calls += 1
            answer = self._ask(self._backend, question, found, result_ptr, result_cap & _U32)
            if answer != ERROR:
                self._answered += 1
                return answer
        self._failed[tool] = self._failed.get(tool, 0) + 1
        if len(self._missing) < MAX_MISSING:
            self._missing[question] = None
        return ERROR

    def _count(self, tool: bytes, times: int) -> bytes:
        """Count questions for a tool; under which name they count."""
        tools = self._tools
        if tool not in tools and len(tools) >= MAX_TALLIED_TOOLS:
            tool = _OTHER_TOOLS
        tools[tool] = tools.get(tool, 0) + times
        return tool

    def _ask(
        self, backend: CallBackend, question: Question, found: Found | None, result_ptr: int, result_cap: int
    ) -> int:
        try:
            args = question[1]
            if found is None and self._known is not None:
                found, args = self._known.find(question)
            if found is None:
                found = Found(RESULT, backend(question[0].decode(), args), 0)
                self.look_at_clock()
            if found.kind != FAILURE:
                if self._tells_replies and len(self._used) <= MAX_USED_REPLIES:
                    self._used.add((question, reply_digest(found.reply)))
                return self._answer(found.reply, result_ptr, result_cap)
            why = found.reply.decode("utf-8", "replace")
        except BackendError as error:
            why = str(error)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        self.errors.append(f"{question[0].decode()}: {why}"[:MAX_ERROR_CHARS])
        return ERROR

    def _read(self, tool_ptr: int, tool_len: int, args_ptr: int, args_len: int) -> Question | None:
        """Tool and arguments, or None if they are outside memory or too long."""
        if not 0 < tool_len <= MAX_TOOL_BYTES or args_len > MAX_ARGS_BYTES:
            return None
        tool_end, args_end = tool_ptr + tool_len, args_ptr + args_len
        memory = self._memory.bytes
        if tool_end > len(memory) or args_end > len(memory):
            end = max(tool_end, args_end)
            memory = self._memory.view(end)
            if end > len(memory):
                return None
        return memory[tool_ptr:tool_end].tobytes(), memory[args_ptr:args_end].tobytes() or b"null"

    def _is_question(self, question: Question) -> bool:
        """Whether the tool is UTF-8 and the arguments are JSON."""
        if question in self._checked:
            return True
        try:
            question[0].decode()
            _decode(question[1])
        except (ValueError, RecursionError):
            return False
        if len(question[1]) <= _MAX_CHECKED_BYTES:
            if len(self._checked) >= _MAX_CHECKED:
                self._checked.clear()
            self._checked.add(question)
        return True

    def _answer(self, result: bytes, ptr: int, cap: int) -> int:
        size = len(result)
        if size > cap:
            if cap >= 4:
                self._write(ptr, min(size, _U32).to_bytes(4, "little"))
            return TOO_SMALL
        return size if self._write(ptr, result) else ERROR

    def _write(self, ptr: int, data: bytes) -> bool:
        end = ptr + len(data)
        view = self._memory.bytes
        if end > len(view):
            view = self._memory.view(end)
            if end > len(view):
                return False
        view[ptr:end] = data
        return True


def _told(question: Question) -> QuestionItem | None:
    """A question as the outcome tells it, its arguments compact; None if it is too long for that."""
    try:
        tool, args = question[0].decode(), _encode(_decode(question[1]))
    except (ValueError, RecursionError, OverflowError):  # a whole number past 64 bits
        return None
    return QuestionItem(tool, args) if may_be_told(args) else None
