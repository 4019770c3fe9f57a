"""The progress page: 64 bytes of shared memory in which a worker says which job it runs and since when.

Both sides map the same memfd. The worker writes the start first and the job's number after it; the supervisor believes a
pair only when it reads it twice. `SEQ` is 0 while nothing runs: a worker that waits for the pipe is at no deadline.
"""

from __future__ import annotations

import mmap
import os

PAGE_BYTES = 64
# Indexes into the page as unsigned 64-bit words. INITIALISING is the index of the guard that `label_agent` runs in, plus 1.
SEQ, STARTED_NS, DONE, INITIALISING = 0, 1, 2, 3


def new_page(name: str = "guardpool-progress") -> int:
    """A memfd with a page of zeros; the caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, PAGE_BYTES)
    return fd


def map_page(fd: int) -> memoryview:
    """Map the page of a memfd; returns it as a view of eight unsigned 64-bit words."""
    size = os.fstat(fd).st_size
    return memoryview(mmap.mmap(fd, size)).cast("B")[:PAGE_BYTES].cast("Q")
