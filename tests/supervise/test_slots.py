"""Slots: which one a frame gets, when it is free again, and the memory behind it, which only the supervisor can write."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guardpool.protocol import wire
from guardpool.protocol.slots import FRAME_BYTES, LARGE_BYTES, SLOTS, map_slots, new_slots, slot_bytes
from guardpool.supervise import slots as slots_module
from guardpool.supervise.scheduler import Task
from guardpool.supervise.slots import MOST_JOBS, UNUSED_S, SlotMemory, Slots

WORKER = 7
SIZE = slot_bytes(8 << 20)


class Held:
    """The jobs that worker 7 holds."""

    def __init__(self) -> None:
        self.seqs: set[int] = set()

    def __call__(self, worker: int, seq: int) -> bool:
        assert worker == WORKER
        return seq in self.seqs


class Memory:
    """Slots that are bytes."""

    def __init__(self) -> None:
        self.slot_bytes = SIZE
        self.bytes = bytearray(SLOTS * SIZE)
        self.is_full = False
        self.returned = 0

    def write(self, at: int, payload: bytes) -> bool:
        if not self.is_full:
            self.bytes[at : at + len(payload)] = payload
        return not self.is_full

    def give_back(self) -> None:
        self.returned += 1


class Scene:
    """A worker's slots, and the frames that are made for it."""

    def __init__(self) -> None:
        self.held = Held()
        self.memory = Memory()
        self.slots = Slots(WORKER, self.memory)
        self.now = 5.0

    def frame(self, *sizes: int, first: int = 1) -> wire.LargeJobs | None:
        tasks = [task(first + at, size) for at, size in enumerate(sizes)]
        self.held.seqs |= {task.seq for task in tasks}
        return self.slots.frame(tasks, self.held, lambda: self.now)

    def payloads(self, frame: wire.LargeJobs | None) -> list[bytes]:
        assert frame is not None
        places = [item.payload for item in frame.jobs]
        return [
            place if isinstance(place, bytes) else bytes(self.memory.bytes[place.at : place.at + place.length])
            for place in places
        ]


def payload(seq: int, size: int) -> bytes:
    return (b"%d " % seq * (size // 2 + 1))[:size]


def task(seq: int, size: int) -> Task:
    return Task(seq, 0, "label_resource", payload(seq, size), 0, None, seq, seq, "tool", time_us=seq)  # type: ignore[arg-type]


def slot_of(frame: wire.LargeJobs | None) -> set[int]:
    assert frame is not None
    return {item.payload.at // SIZE for item in frame.jobs if isinstance(item.payload, wire.Place)}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_large_payloads_are_in_one_slot_and_small_ones_in_the_frame(scene: Scene) -> None:
    sizes = (10, LARGE_BYTES, LARGE_BYTES - 1, 100_001, 70_000)
    frame = scene.frame(*sizes)
    assert frame is not None
    assert scene.payloads(frame) == [payload(1 + at, size) for at, size in enumerate(sizes)]
    assert [isinstance(item.payload, wire.Place) for item in frame.jobs] == [False, True, False, True, True]
    assert slot_of(frame) == {0}
    assert [(item.seq, item.guard, item.op, item.time_us) for item in frame.jobs] == [
        (seq, 0, "label_resource", seq) for seq in range(1, 6)
    ]


def test_frames_without_a_large_payload_or_of_many_jobs_are_as_ever(scene: Scene) -> None:
    assert scene.frame(10, LARGE_BYTES - 1) is None
    assert scene.frame(*[10] * MOST_JOBS, LARGE_BYTES, first=100) is None


def test_a_slot_is_free_once_the_worker_holds_none_of_its_large_jobs(scene: Scene) -> None:
    first, second = scene.frame(10, 70_000, 70_000), scene.frame(70_000, first=11)
    assert (slot_of(first), slot_of(second)) == ({0}, {1})
    scene.held.seqs -= {1, 2, 11}
    third = scene.frame(80_000, first=21)
    assert slot_of(third) == {1}
    assert scene.payloads(first)[2] == payload(3, 70_000)
    assert scene.frame(70_000, first=31) is None  # both are in use: through the pipe
    scene.held.seqs -= {3}
    assert slot_of(scene.frame(70_000, first=41)) == {0}


def test_jobs_that_were_recalled_leave_their_slot_and_may_come_again(scene: Scene) -> None:
    scene.frame(70_000)  # it waits for its backend, and the frame behind it is recalled
    scene.frame(70_000, 70_000, first=11)
    scene.held.seqs -= {11, 12}
    again = scene.frame(70_000, first=12)
    assert slot_of(again) == {1}
    assert scene.payloads(again) == [payload(12, 70_000)]


def test_a_payload_for_which_there_is_no_memory_goes_through_the_pipe(scene: Scene) -> None:
    scene.memory.is_full = True
    assert scene.frame(70_000) is None
    scene.memory.is_full = False
    assert slot_of(scene.frame(70_000, first=2)) == {0}
    assert Slots(WORKER, None).frame([task(1, 70_000)], scene.held, 1.0) is None


def test_unused_slots_give_their_memory_back_once_no_job_needs_them(scene: Scene) -> None:
    scene.slots.rest(scene.held, 1e9)
    scene.frame(70_000)
    scene.slots.rest(scene.held, scene.now + UNUSED_S / 2)
    scene.slots.rest(scene.held, scene.now + 100.0)  # the job still runs
    assert scene.memory.returned == 0
    scene.held.seqs.clear()
    scene.slots.rest(scene.held, scene.now + 100.0)
    scene.slots.rest(scene.held, scene.now + 200.0)
    assert scene.memory.returned == 1


def test_a_slot_has_room_for_any_frame_and_none_is_made_if_no_payload_is_large() -> None:
    assert slot_bytes(LARGE_BYTES - 1) == 0
    assert slot_bytes(LARGE_BYTES) == FRAME_BYTES
    assert slot_bytes(FRAME_BYTES + 1) == FRAME_BYTES + mmap.PAGESIZE


# --- the memory


@pytest.fixture
def memory() -> Iterator[SlotMemory]:
    made = SlotMemory(SIZE)
    yield made
    made.close()
    os.close(made.reader_fd)


def blocks(fd: int) -> int:
    """How many bytes of a file have memory."""
    return os.fstat(fd).st_blocks * 512


def test_what_is_written_is_read_and_only_that_takes_memory(memory: SlotMemory) -> None:
    view = map_slots(memory.reader_fd)
    assert blocks(memory.reader_fd) == 0
    assert memory.write(0, payload(1, 300_000))
    assert memory.write(SIZE, payload(2, 100_000))
    assert memory.write(SIZE + 100_000, payload(3, 50_000))
    assert view[:300_000] == payload(1, 300_000)
    assert view[SIZE : SIZE + 150_000] == payload(2, 100_000) + payload(3, 50_000)
    assert 450_000 <= blocks(memory.reader_fd) <= 450_000 + 3 * mmap.PAGESIZE
    memory.give_back()
    assert blocks(memory.reader_fd) == 0
    assert memory.write(64, payload(4, 70_000))
    assert view[64:70_064] == payload(4, 70_000)


def test_memory_that_cannot_be_had_is_told_and_nothing_is_written(
    memory: SlotMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(slots_module.os, "posix_fallocate", refuse)
        assert not memory.write(0, payload(1, 70_000))
    assert blocks(memory.reader_fd) == 0
    assert memory.write(0, payload(1, 70_000))
    memory.close()
    assert not memory.write(0, payload(1, 70_000))
    memory.give_back()


def test_the_workers_descriptor_can_only_be_read() -> None:
    fd, reader = new_slots(SIZE)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(reader, b"x", 0)
        for end in (fd, reader):
            with pytest.raises(OSError, match=r"not permitted|Invalid argument"):
                os.ftruncate(end, 0)
        with pytest.raises(PermissionError):
            mmap.mmap(reader, SIZE)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        at = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(SIZE), mmap.PROT_READ, mmap.MAP_SHARED, reader, 0))
        for call, how in ((libc.mprotect, mmap.PROT_READ | mmap.PROT_WRITE), (libc.madvise, mmap.MADV_REMOVE)):
            assert call(at, ctypes.c_size_t(SIZE), how) == -1
            assert ctypes.get_errno() == errno.EACCES
        assert libc.munmap(at, ctypes.c_size_t(SIZE)) == 0
    finally:
        os.close(fd)
        os.close(reader)


def test_a_descriptor_that_the_callers_program_closed_and_used_again_is_not_written(tmp_path: Path) -> None:
    memory = SlotMemory(SIZE)
    foreign = os.open(tmp_path / "foreign", os.O_RDWR | os.O_CREAT)
    try:
        os.dup2(foreign, memory._fd)
        assert not memory.write(0, payload(1, 70_000))
        assert os.fstat(foreign).st_size == 0
    finally:
        memory.close()
        os.close(foreign)
        os.close(memory.reader_fd)
