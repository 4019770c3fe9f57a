"""Frames that a worker reads: whatever way the bytes come and however large they are, the same frames as another reader's."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from guardpool.protocol import wire
from guardpool_worker.frames_in import KEPT_BYTES, FramesIn

READ_BYTES = 256 * 1024
SIZES = (0, 1, 1000, READ_BYTES - 100, READ_BYTES - 10, READ_BYTES, READ_BYTES + 1, 3_000_000)


def jobs(*sizes: int) -> wire.Jobs:
    return wire.Jobs([wire.JobItem(at, 0, "label_resource", os.urandom(size)) for at, size in enumerate(sizes)])


FRAMES: list[wire.ToWorker] = [
    *(jobs(size) for size in SIZES),
    jobs(100_000, 5, 200_000),
    wire.Jobs([]),
    wire.BackendReply(3, b"x" * 700_000, None),
    wire.BackendReply(3, None, "it is down"),
    wire.Recall(),
    wire.Drain(),
]


def plain(frame: wire.ToWorker | None) -> wire.ToWorker | None:
    """The frame with payloads that are bytes, as they were sent."""
    if not isinstance(frame, wire.Jobs):
        return frame
    return wire.Jobs([wire.JobItem(job.seq, job.guard, job.op, bytes(job.payload)) for job in frame.jobs])


class Pipe:
    """A pipe whose writer is a thread, as one takes less than a large frame at a time."""

    def __init__(self, parts: list[bytes]) -> None:
        self.fd, self._to = os.pipe()
        self._thread = threading.Thread(target=self._write, args=(parts,))
        self._thread.start()

    def _write(self, parts: list[bytes]) -> None:
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(self._to, view) :]
        except BrokenPipeError:
            pass
        os.close(self._to)

    def close(self) -> None:
        os.close(self.fd)
        self._thread.join()


def read(parts: list[bytes], *, idle: bool) -> Iterator[wire.ToWorker]:
    pipe = Pipe(parts)
    try:
        frames = FramesIn(pipe.fd)
        while (frame := frames.next(idle=idle)) is not None:
            yield frame
    finally:
        pipe.close()


@pytest.mark.parametrize("idle", [True, False])
@given(st.lists(st.sampled_from(FRAMES), max_size=5), st.data())
def test_frames_come_as_they_were_sent_however_they_are_cut(
    idle: bool, sent: list[wire.ToWorker], data: st.DataObject
) -> None:
    stream = b"".join(map(wire.encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)])]
    assert [plain(frame) for frame in read(parts, idle=idle)] == sent


def test_jobs_that_wait_keep_their_payloads_while_more_frames_come() -> None:
    sent = [jobs(400_000), jobs(500_000), jobs(1000), jobs(400_000)]
    waiting = list(read([b"".join(map(wire.encode, sent))], idle=False))
    assert [plain(frame) for frame in waiting] == sent


@pytest.mark.parametrize("in_frame", [10, READ_BYTES + 1])
def test_payloads_in_slots_are_views_of_them(in_frame: int) -> None:
    slots = memoryview(os.urandom(1_000_000)).toreadonly()
    places = [wire.Place(0, 70_000), wire.Place(900_000, 100_000), b"x" * in_frame]
    frame = wire.LargeJobs([wire.LargeItem(seq, 2, "label_response", place, 9) for seq, place in enumerate(places)])
    pipe = Pipe([wire.encode(frame)])
    try:
        read = FramesIn(pipe.fd, slots).next(idle=True)
    finally:
        pipe.close()
    assert isinstance(read, wire.Jobs)
    assert [(job.seq, job.guard, job.op, job.time_us) for job in read.jobs] == [
        (seq, 2, "label_response", 9) for seq in range(3)
    ]
    assert [job.payload for job in read.jobs] == [slots[:70_000], slots[900_000:], b"x" * in_frame]
    assert [getattr(job.payload, "obj", None) is slots.obj for job in read.jobs] == [True, True, False]


@pytest.mark.parametrize("size", [0, 3, 10, 1000, READ_BYTES, READ_BYTES + 1000, 1_000_000])
def test_a_stream_that_ends_within_a_frame_ends_the_frames(size: int) -> None:
    data = wire.encode(jobs(1_200_000 if size > READ_BYTES else READ_BYTES - 100))
    assert list(read([data[: min(size, len(data) - 1)]], idle=True)) == []


def test_memory_for_large_frames_is_used_again_but_not_kept_for_the_largest() -> None:
    usual, largest = jobs(KEPT_BYTES // 2), jobs(KEPT_BYTES + 1_000_000)
    pipe = Pipe([wire.encode(frame) for frame in (usual, usual, largest, wire.Drain())])
    frames = FramesIn(pipe.fd)
    frames.next(idle=True)
    tracemalloc.start()  # what is made from here on
    try:
        frames.next(idle=True)
        assert tracemalloc.get_traced_memory()[1] < KEPT_BYTES // 4
        frames.next(idle=True)
        assert tracemalloc.get_traced_memory()[0] > KEPT_BYTES
        frames.next(idle=True)
        assert tracemalloc.get_traced_memory()[0] < KEPT_BYTES // 4
    finally:
        tracemalloc.stop()
        pipe.close()
