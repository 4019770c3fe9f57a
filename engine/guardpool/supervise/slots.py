"""Large payloads on their way to a worker: which of its slots is free, and who writes there.

A slot belongs to one frame, from the writing of its payloads until the worker holds none of its jobs: their results came, or
they were recalled. What is recalled the worker has not begun, and it reads RECALL before any frame that is sent afterwards, so
by the time it looks at the slot again it knows only the later frame. A job that waits for its backend is held, and the worker
may copy its payload once more. The slots of a worker that died go with it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from guardpool.protocol import wire
from guardpool.protocol.slots import FRAME_BYTES, LARGE_BYTES, SLOTS, new_slots
from guardpool.supervise.scheduler import Task

# A frame of more jobs has less than `LARGE_BYTES` a job, and what is large there goes through the pipe: to look at the size of
# each would take 45 ns a job, 3% of the supervisor's time for jobs of almost no work.
MOST_JOBS = FRAME_BYTES // LARGE_BYTES
# Where payloads begin: at a line of the processor's caches.
_ALIGNMENT = 64
# Slots without a payload for so long give their memory back.
UNUSED_S = 1.0

# Whether a worker, by its number, holds the job of a number.
Holds = Callable[[int, int], bool]


class SlotMemory:
    """The memory of one worker's slots, as the supervisor writes it. It is mapped here when it is first written.

    Args:
        slot_bytes: the size of a slot, in whole pages.

    Attributes:
        slot_bytes: the same.
        reader_fd: the worker's descriptor, which the caller closes.

    Raises:
        OSError: the machine lacks something.
    """

    def __init__(self, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self._fd, self.reader_fd = new_slots(SLOTS * slot_bytes)
        self._file = _file_of(self._fd)
        self._memory: mmap.mmap | None = None
        self._backed = [0] * SLOTS  # so many bytes of each slot have memory

    def write(self, at: int, payload: bytes) -> bool:
        """Write a payload; False if there is no memory for it now, or after `close`."""
        end = at + len(payload)
        slot = at // self.slot_bytes
        start = slot * self.slot_bytes
        if self._memory is None or self._backed[slot] < end - start:
            try:
                self._back(start, end - start)
            except OSError:
                return False
            self._backed[slot] = end - start
        assert self._memory is not None
        self._memory[at:end] = payload
        return True

    def _back(self, start: int, size: int) -> None:
        """Reserve memory for so many bytes; a write without it would be a SIGBUS, which ends the caller's process.

        Raises:
            OSError: there is not enough.
        """
        if self._fd < 0 or _file_of(self._fd) != self._file:  # the caller's program closed it, and may use its number
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.posix_fallocate(self._fd, start, size)
        if self._memory is None:
            self._memory = mmap.mmap(self._fd, SLOTS * self.slot_bytes)

    def give_back(self) -> None:
        """Give back all memory; what is written later has some again."""
        if self._memory is not None and any(self._backed):
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_REMOVE)
                self._backed = [0] * SLOTS

    def close(self) -> None:
        """Give back all memory, and close everything but the worker's descriptor."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the caller's program closed it
                os.close(self._fd)
            self._fd = -1


def _file_of(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class WritableSlots(Protocol):
    """The memory of slots, as `Slots` needs it. See `SlotMemory` for what each method promises."""

    slot_bytes: int

    def write(self, at: int, payload: bytes) -> bool:
        """Write a payload; False if that cannot be done now."""

    def give_back(self) -> None:
        """Give back all memory."""


class Slots:
    """Puts the payloads of one worker's frames into its slots.

    Args:
        worker: its number.
        memory: the slots' memory; None: it has none, and everything goes through the pipe.
    """

    def __init__(self, worker: int, memory: WritableSlots | None) -> None:
        self._worker = worker
        self._memory = memory
        self._seqs: list[list[int]] = [[] for _ in range(SLOTS)]  # of the jobs whose payloads were put there last
        self._used_at: float | None = None

    def frame(self, tasks: Sequence[Task], holds: Holds, now: Callable[[], float]) -> wire.LargeJobs | None:
        """A frame of these jobs, with the large payloads in a slot; None if none is large, or none can be put there.

        Args:
            tasks: the frame's jobs, which the worker holds already.
            holds: which jobs it holds.
            now: tells the time.
        """
        memory = self._memory
        if memory is None or len(tasks) > MOST_JOBS or max([len(task.payload) for task in tasks]) < LARGE_BYTES:
            return None
        new = {task.seq for task in tasks}  # some may have been recalled from this worker before
        slot = next((slot for slot in range(SLOTS) if self._is_free(slot, holds, new)), None)
        if slot is None:
            return None
        items, at = [], slot * memory.slot_bytes
        end = at + memory.slot_bytes
        self._seqs[slot] = []
        for task in tasks:
            place, size = None, len(task.payload)
            if LARGE_BYTES <= size <= end - at and memory.write(at, task.payload):
                place = wire.Place(at, size)
                at += -(-size // _ALIGNMENT) * _ALIGNMENT
                self._seqs[slot].append(task.seq)
            items.append(wire.LargeItem(task.seq, task.guard, task.op, place or task.payload, task.time_us))
        self._used_at = now()
        return wire.LargeJobs(items) if self._seqs[slot] else None

    @property
    def most_bytes(self) -> int:
        """How much memory the slots may have now, at most."""
        return 0 if self._used_at is None or self._memory is None else SLOTS * self._memory.slot_bytes

    def rest(self, holds: Holds, now: float) -> None:
        """Give back the memory if no slot was used for a while, and none is needed."""
        if self._used_at is None or now < self._used_at + UNUSED_S or self._memory is None:
            return
        if all(self._is_free(slot, holds) for slot in range(SLOTS)):
            self._memory.give_back()
            self._used_at = None

    def _is_free(self, slot: int, holds: Holds, new: Collection[int] = ()) -> bool:
        """Whether no frame needs the slot; `new` is one that is being made."""
        return not any(holds(self._worker, seq) for seq in self._seqs[slot] if seq not in new)
