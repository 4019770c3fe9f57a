"""The progress page: 64 bytes of shared memory in which a worker says which job it runs and since when.

Both sides map the same memfd. The worker writes the start first and the job's number after it; the supervisor believes a
pair only when it reads it twice. `SEQ` is 0 while nothing runs: a worker that waits for the pipe has no deadline. `FULL` says
how full guards' linear memories are.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any

PAGE_BYTES = 64
# Indexes into the page as unsigned 64-bit words. INITIALISING is the index of the guard that `label_agent` runs in, plus 1.
# FULL is what the fullest linear memory has of what it may have, in thousandths, and STARVED that of the guard whose job last
# trapped or found no room, written before the result is sent. Memories that have not grown since `label_agent` count as 0.
SEQ, STARTED_NS, DONE, INITIALISING, FULL, STARVED = 0, 1, 2, 3, 4, 5


def new_page(name: str = "guardpool-progress") -> int:
    """A memfd with a page of zeros, whose size can no longer be changed; the caller closes it.

    A worker that cut it short would kill the supervisor: reading a mapping past the end of its file is a SIGBUS.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE_BYTES)
        seals: Any = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def map_page(fd: int) -> memoryview:
    """Map the page of a memfd; returns it as a view of eight unsigned 64-bit words."""
    size = os.fstat(fd).st_size
    return memoryview(mmap.mmap(fd, size)).cast("B")[:PAGE_BYTES].cast("Q")
