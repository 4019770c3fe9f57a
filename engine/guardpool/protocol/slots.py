"""Slots: memory through which a worker gets large payloads, which only the supervisor writes.

Each worker has a memfd of its own, cut into `SLOTS` slots of equal size: the large payloads of one frame are in one slot. The
worker gets a descriptor that is open for reading, maps it before its sandbox closes, and copies a payload from there into the
guest; it can neither write the memory nor make it writable, and no other worker has it. What is not written takes no room.

The supervisor never reads a slot, so nothing in one can do it harm.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any

from guardpool.sizes import MIB

# One for each frame that may be at a worker.
SLOTS = 2
# Payloads of this size or more go through slots. Smaller ones gain nothing: to write them into a pipe costs less than the rest
# of their way.
LARGE_BYTES = 64 * 1024
# The payloads of a frame of several jobs, of which the first is large, have so many bytes together, at most. All threads took
# 383 us for an encoded job of 1 MB with 1 MiB, 330 with 2, 262 with 4, and with 8 as much as with 4; a worker's resident set
# was 25, 27, 31 and 40 MB.
FRAME_BYTES = 4 * MIB
_PAGE_BYTES = mmap.PAGESIZE


def slot_bytes(max_input_bytes: int) -> int:
    """The size of a slot that has room for any frame's large payloads, in whole pages; 0: no payload is large.

    Args:
        max_input_bytes: the longest payload.
    """
    if max_input_bytes < LARGE_BYTES:
        return 0
    return -(-max(max_input_bytes, FRAME_BYTES) // _PAGE_BYTES) * _PAGE_BYTES


def new_slots(size: int) -> tuple[int, int]:
    """A memfd of so many bytes, whose size nobody can change: two descriptors, for writing and for reading.

    The caller closes both.

    Raises:
        OSError: the machine lacks something, or this process may not look into its own /proc.
    """
    fd = os.memfd_create("guardpool-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        seals: Any = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        # Opened anew and not duplicated: what is mapped through it can never become writable.
        return fd, os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except BaseException:
        os.close(fd)
        raise


def map_slots(fd: int) -> memoryview:
    """Map the descriptor for reading, read-only."""
    return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED, mmap.PROT_READ))
