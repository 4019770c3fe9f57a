"""Frames from the supervisor, read from a blocking pipe into two buffers that are kept.

Most frames are small, and are decoded out of the first buffer. Their large payloads are in slots. A large frame, which comes
where there is no slot for one, is read into the second buffer. Payloads are views of the slot or of that buffer: they are
copied once more, into the guest. In fresh memory each page of them would cost a fault, every time.
"""

from __future__ import annotations

import os
import struct
from typing import Union, cast

import msgspec

from guardpool.protocol import wire
from guardpool.sizes import MIB

# So much is read at once. Frames that do not fit are large.
_READ_BYTES = 256 * 1024
# A second buffer that is larger than this is not kept: a frame that holds one input of the default limit, 8 MiB, fits.
KEPT_BYTES = 8 * MIB + 64 * 1024

_HEADER = struct.Struct("<I")
assert _HEADER.size == wire.HEADER_BYTES


class _LentItem(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """A `JobItem` whose payload is a view."""

    seq: int
    guard: int
    op: str
    payload: memoryview
    time_us: int = 0


class _LentJobs(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="JOBS"):
    """`Jobs` with such items."""

    jobs: list[_LentItem]


ToRunner = Union[wire.Jobs, wire.BackendReply, wire.Recall, wire.Drain]
"""What a frame is once it was read: all payloads are at hand, as bytes or views of memory."""

_decode = msgspec.msgpack.Decoder(wire.ToWorker).decode
_decode_lent = msgspec.msgpack.Decoder(
    Union[_LentJobs, wire.LargeJobs, wire.BackendReply, wire.Recall, wire.Drain]
).decode


class FramesIn:
    """The frames that come through a pipe.

    Args:
        fd: the pipe's end for reading, which blocks.
        slots: the worker's slots; None: no payload comes in one.
    """

    def __init__(self, fd: int, slots: memoryview | None = None) -> None:
        self._fd = fd
        self._slots = slots
        self._view = memoryview(bytearray(_READ_BYTES))
        self._at = self._end = 0  # what of it was read and is not decoded yet
        self._large = bytearray()

    def next(self, *, idle: bool = False) -> ToRunner | None:
        """The next frame, waiting for it; None once the supervisor is gone.

        Args:
            idle: the jobs of all frames so far are done, so that the memory that their payloads are in may be used again.
        """
        if idle and len(self._large) > KEPT_BYTES:
            self._large = bytearray()
        if not self._read_up_to(wire.HEADER_BYTES):
            return None
        (length,) = _HEADER.unpack_from(self._view, self._at)
        size = wire.HEADER_BYTES + length
        if size > _READ_BYTES:
            return self._next_large(length, idle)
        if not self._read_up_to(size):
            return None
        start = self._at + wire.HEADER_BYTES
        self._at += size
        frame = _decode(self._view[start : self._at])
        return self._from_slots(frame) if type(frame) is wire.LargeJobs else cast("ToRunner", frame)

    def _read_up_to(self, size: int) -> bool:
        """Read until `size` bytes are there; False at the end of the stream."""
        have = self._end - self._at
        if not have or (have < size and self._at + size > _READ_BYTES):
            self._view[:have] = self._view[self._at : self._end]
            self._at, self._end = 0, have
        while self._end - self._at < size:
            count = os.readv(self._fd, [self._view[self._end :]])
            if not count:
                return False
            self._end += count
        return True

    def _next_large(self, length: int, idle: bool) -> ToRunner | None:
        if not idle or length > len(self._large):
            self._large = bytearray()  # before the next is made: there need not be room for both
            self._large = bytearray(length)
        start = self._at + wire.HEADER_BYTES
        have = self._end - start
        view = memoryview(self._large)[:length]
        view[:have] = self._view[start : self._end]
        self._at = self._end = 0
        while have < length:
            count = os.readv(self._fd, [view[have:]])
            if not count:
                return None
            have += count
        frame = _decode_lent(view)
        if isinstance(frame, wire.LargeJobs):
            return self._from_slots(frame)
        if not isinstance(frame, _LentJobs):
            return cast("ToRunner", frame)
        return wire.Jobs([_job(item, item.payload) for item in frame.jobs])

    def _from_slots(self, frame: wire.LargeJobs) -> wire.Jobs:
        jobs = []
        for item in frame.jobs:
            payload: bytes | memoryview
            if isinstance(item.payload, wire.Place):
                assert self._slots is not None
                at, length = item.payload.at, item.payload.length
                payload = self._slots[at : at + length]
                assert len(payload) == length
            else:
                payload = item.payload
            jobs.append(_job(item, payload))
        return wire.Jobs(jobs)


def _job(item: _LentItem | wire.LargeItem, payload: bytes | memoryview) -> wire.JobItem:
    # A view in the place of bytes: an instance takes its length, copies it into the guest, and hashes it at most.
    return wire.JobItem(item.seq, item.guard, item.op, payload, item.time_us)  # type: ignore[arg-type]
