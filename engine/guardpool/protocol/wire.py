"""The wire codec between supervisor and worker: bytes in, frames out, no I/O.

A frame is a u32 (little endian) length and that many bytes of msgpack: an array whose first element names the kind.

    HELLO          worker -> supervisor   protocol, pid, sandbox, agent answers, log lines, failure
    JOBS           supervisor -> worker   [[seq, guard index, operation, payload, time us], ...]
    LARGE_JOBS     supervisor -> worker   the same, but a large payload is in a slot (see `slots`): [its first byte, length]
    RESULTS        worker -> supervisor   [[seq, status, label or error, duration us, backend calls, log lines, questions], ...]
    BACKEND_CALL   worker -> supervisor   seq, guard index, tool, arguments
    BACKEND_REPLY  supervisor -> worker   seq, result or nil, error or nil
    RECALL         supervisor -> worker   while it waits for a BACKEND_REPLY: drop all jobs behind that one, they go elsewhere,
                                          and send the results of those before it now
    DRAIN          supervisor -> worker   finish what you have, then say BYE and exit
    BYE            worker -> supervisor   nothing follows

The supervisor trusts no worker, so decoding is typed: msgspec checks every field in C while it decodes, and whatever is
not exactly one of the frames above is a `ProtocolError`. A `FrameReader` that raised once is not usable any more: it
drops what it held, and the worker behind it is killed.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

import msgspec

from guardpool.errors import GuardPoolError
from guardpool.outcomes import LogLine, OutcomeError
from guardpool.sizes import MAX_MISSING

PROTOCOL = 3

# One answer is 16 MiB at most, one input 24 MiB; a frame holds one of those and its envelope.
MAX_FRAME_BYTES = 32 * 1024 * 1024
# One result, or the answers of label_agent and the log lines in a HELLO. A label can be twenty times as long as the answer
# that it was made of. The rest of the frame is for what a worker holds back, 256 KiB of results, and for envelopes.
MAX_RESULT_BYTES = MAX_FRAME_BYTES - 1024 * 1024

# Two frames of jobs are at a worker at most. The limit also keeps a few bytes a result from becoming much more in memory.
MAX_RESULTS = 512

# What one job may log, in lines (`max_log_bytes` is the limit in bytes), and all guards while they are initialised. A worker
# drops and counts the lines past it. An empty line is 3 bytes in a frame and 100 in memory.
MAX_LOG_LINES = 1000
MAX_INIT_LOG_LINES = 10_000
MAX_INIT_LOG_BYTES = 4 * 1024 * 1024

# In one pool. With either engine an instance and its module take 6 mappings, of the 65,530 that Linux gives a process, and
# up to 12 GiB of its 128 TiB of addresses.
MAX_GUARDS = 10_000

# A guard's request to its backend: an MCP tool's name (the longest of GitHub's has 40), and its arguments.
MAX_TOOL_BYTES = 256
MAX_ARGS_BYTES = 1024 * 1024

# What a result tells of the guard's questions: totals of so many tools, and questions without an answer of so many bytes.
MAX_TALLIED_TOOLS = 64
MAX_TOLD_BYTES = 4096
MAX_USED_REPLIES = 64
_MAX_TOLD_NESTING = 100

Count = Annotated[int, msgspec.Meta(ge=0)]
# The largest whole number that every reader of JSON keeps exactly.
Amount = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
_Word = Annotated[str, msgspec.Meta(max_length=1000)]

# A frame that comes in pieces is kept in parts of about this size. One buffer for all would be copied each time it grows past
# what it was, since a worker may not remap memory: a frame of 20 MB took 90 ms in one buffer, 40 ms in parts (30 with mremap).
_PART_BYTES = 1024 * 1024

_HEADER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size


class ProtocolError(GuardPoolError):
    """The other side sent bytes that are not a frame, or a frame that was not due."""


class JobItem(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """One job as it travels: `payload` is the guard's input, JSON in UTF-8; `time_us` is 0 unless the pool is deterministic."""

    seq: int
    guard: int
    op: str
    payload: bytes
    time_us: int = 0


class Place(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """Where a payload is in the worker's slots (see `slots`): from which byte on, and how many bytes."""

    at: int
    length: int


class LargeItem(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """A `JobItem` whose payload may be in a slot."""

    seq: int
    guard: int
    op: str
    payload: Union[bytes, Place]
    time_us: int = 0


class QuestionItem(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """A question without an answer: a tool, and its arguments as compact JSON."""

    tool: Annotated[str, msgspec.Meta(max_length=MAX_TOOL_BYTES)]
    args: Annotated[bytes, msgspec.Meta(max_length=MAX_TOLD_BYTES)]


class ToolItem(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """How often a job asked for a tool, and how often in vain. An empty name stands for those past the 64th."""

    tool: Annotated[str, msgspec.Meta(max_length=MAX_TOOL_BYTES)]
    asked: Amount
    failed: Amount


class UsedItem(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """A reply that a guard used: the question, its arguments as the guard wrote them, and `reply_digest` of the reply."""

    tool: Annotated[str, msgspec.Meta(max_length=MAX_TOOL_BYTES)]
    args: Annotated[bytes, msgspec.Meta(max_length=MAX_TOLD_BYTES)]
    digest: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class BackendTally(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """What a job asked, what of it had no answer, and which replies it used."""

    asked: Amount
    failed: Amount
    missing: Annotated[list[QuestionItem], msgspec.Meta(max_length=MAX_MISSING)]
    tools: Annotated[list[ToolItem], msgspec.Meta(max_length=MAX_TALLIED_TOOLS + 1)]
    # None: the pool does not ask for it, or it is more than fits.
    used: Union[Annotated[list[UsedItem], msgspec.Meta(max_length=MAX_USED_REPLIES)], None] = None


class ResultItem(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """One result as it travels: `body` is the label as JSON if `status` is ok, else the error."""

    seq: Count
    status: Literal["ok", "refused", "invalid", "trap", "rejected", "memory"]
    body: Union[bytes, OutcomeError]
    duration_us: Amount
    backend_calls: Amount
    # One line more than the limit: it says how many were dropped.
    logs: Annotated[list[LogLine], msgspec.Meta(max_length=MAX_LOG_LINES + 1)]
    backend: Union[BackendTally, None] = None


class GuardLog(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A line that a guard logged while it was initialised."""

    guard: int
    level: int
    text: str


class InitFailure(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Why a worker cannot work: `guard` is a guard's index if `kind` is `"guard"`."""

    kind: Literal["guard", "sandbox", "host"]
    guard: int
    message: str


class Hello(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="HELLO"):
    """The worker is ready, or says why it is not. `agents` holds one `label_agent` answer a guard, in their order."""

    protocol: int
    pid: int
    sandbox: Annotated[dict[_Word, _Word], msgspec.Meta(max_length=100)]
    agents: Annotated[list[bytes], msgspec.Meta(max_length=MAX_GUARDS)]
    logs: Annotated[list[GuardLog], msgspec.Meta(max_length=MAX_INIT_LOG_LINES)]
    failure: Union[InitFailure, None]


class Jobs(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="JOBS"):
    """Jobs for a worker, in the order they are to be run."""

    jobs: list[JobItem]


class LargeJobs(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="LARGE_JOBS"):
    """`Jobs` of which at least one has its payload in a slot."""

    jobs: list[LargeItem]


class Results(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="RESULTS"):
    """Results of a worker, in the order the jobs were run."""

    results: Annotated[list[ResultItem], msgspec.Meta(max_length=MAX_RESULTS)]


class BackendCall(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="BACKEND_CALL"):
    """The guard asks its backend. The worker waits for the reply; `seq` is 0 during `label_agent`."""

    seq: int
    guard: int
    tool: Annotated[str, msgspec.Meta(max_length=MAX_TOOL_BYTES)]
    args: Annotated[bytes, msgspec.Meta(max_length=MAX_ARGS_BYTES)]


class BackendReply(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="BACKEND_REPLY"):
    """The backend's answer as JSON, or why there is none."""

    seq: int
    result: Union[bytes, None]
    error: Union[str, None]


class Recall(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="RECALL"):
    """The backend takes its time: drop the jobs behind the one that asked, and send the results of those before it. It comes
    before that one's BACKEND_REPLY."""


class Drain(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="DRAIN"):
    """Finish what you have, say BYE and exit."""


class Bye(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="BYE"):
    """Nothing follows."""


FromWorker = Union[Hello, Results, BackendCall, Bye]
ToWorker = Union[Jobs, LargeJobs, BackendReply, Recall, Drain]
T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()

# What a frame is encoded behind: the pair of it and the frame begins with as many bytes as a header has (that of an array of
# two, that of a string, and two letters), and the header is written over them. To encode at an offset would do without, but
# msgspec cuts the buffer down to 1.5 times the offset first and lets it grow again in steps, for every frame (0.22, in
# `encoder_encode_into_common`). If that gives the end of the heap back to the kernel, all of it is page faults.
_ROOM = "--"
assert len(_encoder.encode((_ROOM, None))) == HEADER_BYTES + 1


def may_be_told(args: bytes) -> bool:
    """Whether the compact JSON of a question's arguments may stand in an outcome: it is short and not nested deeply."""
    return len(args) <= MAX_TOLD_BYTES and args.count(b"[") + args.count(b"{") <= _MAX_TOLD_NESTING


def encode(frame: FromWorker | ToWorker) -> bytes:
    """A frame as bytes, header and all.

    Raises:
        ProtocolError: the frame is longer than `MAX_FRAME_BYTES`.
    """
    buffer = bytearray()
    encode_into(frame, buffer)
    return bytes(buffer)


def encode_into(frame: FromWorker | ToWorker, buffer: bytearray) -> None:
    """Write a frame, header and all, into a buffer, which holds nothing else afterwards.

    For a buffer that is used again and again: it saves a copy, and the page faults of fresh memory.

    Raises:
        ProtocolError: the frame is longer than `MAX_FRAME_BYTES`.
    """
    _encoder.encode_into((_ROOM, frame), buffer)
    length = len(buffer) - HEADER_BYTES
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
    _HEADER.pack_into(buffer, 0, length)


class FrameReader(Generic[T]):
    """Cuts a stream of bytes into frames of one direction.

    Args:
        direction: `FromWorker` or `ToWorker`: the frames that may come.
        max_frame_bytes: a longer frame is refused as soon as its header is there, so that at most this much and one
            read's worth is ever held.
    """

    __slots__ = ("_buffer", "_decode", "_failed", "_held", "_max", "_need", "_parts")

    def __init__(self, direction: Any, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._decode = msgspec.msgpack.Decoder(direction).decode
        self._parts: list[bytearray] = []  # of an unfinished frame, and `_buffer` is the last of them
        self._buffer = bytearray()
        self._held = 0  # bytes in all of them
        self._need = HEADER_BYTES  # so many of them before there is more to be seen
        self._max = max_frame_bytes
        self._failed = False

    @classmethod
    def from_worker(cls, max_frame_bytes: int = MAX_FRAME_BYTES) -> FrameReader[FromWorker]:
        """A reader for what workers send."""
        return FrameReader(FromWorker, max_frame_bytes)

    @classmethod
    def to_worker(cls) -> FrameReader[ToWorker]:
        """A reader for what the supervisor sends."""
        return FrameReader(ToWorker)

    @property
    def buffered_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return self._held

    def feed(self, data: bytes | memoryview) -> list[T]:
        """Take the next bytes of the stream; return the frames they complete, oldest first. `data` may be reused afterwards.

        Raises:
            ProtocolError: what came is not a frame. The reader must not be used again.
        """
        if self._failed:
            raise ProtocolError("this stream has failed before")
        try:
            return self._cut(data)
        except BaseException:
            self._failed = True
            self._parts, self._buffer, self._held = [], bytearray(), 0
            raise

    def _cut(self, data: bytes | memoryview) -> list[T]:
        buffer = self._buffer
        whole: bytes | bytearray | memoryview = data
        if self._held:
            buffer += data
            self._held += len(data)
            if self._held < self._need:
                if len(buffer) >= _PART_BYTES:
                    self._parts.append(buffer)
                    self._buffer = bytearray()
                return []
            whole = buffer
            if self._parts:
                whole = b"".join((*self._parts, buffer))
                self._parts.clear()
                buffer.clear()
        frames: list[T] = []
        need = HEADER_BYTES
        at, end = 0, len(whole)
        with memoryview(whole) as view:
            while end - at >= HEADER_BYTES:
                (length,) = _HEADER.unpack_from(whole, at)
                if length > self._max:
                    raise ProtocolError(f"a frame of {length} bytes is over the limit of {self._max}")
                start = at + HEADER_BYTES
                if end - start < length:
                    need = HEADER_BYTES + length
                    break
                frames.append(self._frame(view[start : start + length]))
                at = start + length
        if whole is buffer:
            del buffer[:at]
        elif at < end:
            buffer += memoryview(whole)[at:]
        self._held, self._need = end - at, need
        return frames

    def _frame(self, body: memoryview) -> T:
        try:
            with body:
                return self._decode(body)  # type: ignore[no-any-return]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"not a frame: {error}") from error
