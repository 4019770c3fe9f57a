"""The progress page: shared memory in which a worker says which job it runs and since when, and what that job logged last.

Both sides map the same memfd. The worker writes the start first and the job's number after it; the supervisor believes a
pair only when it reads it twice. `SEQ` is 0 while nothing runs: a worker that waits for the pipe has no deadline. `FULL` says
how full guards' linear memories are. The lines are for the case that the worker is killed: see `log_tail`.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any

# The first eight words are what the supervisor looks at while the worker runs; the rest is for about 6 KiB of log lines.
PAGE_BYTES = 8192
PAGE_WORDS = PAGE_BYTES // 8
# Indexes into the page as unsigned 64-bit words. INITIALISING is the index of the guard that `label_agent` runs in, plus 1.
# FULL is what the fullest linear memory has of what it may have, in thousandths, and STARVED that of the guard whose job last
# trapped or found no room, written before the result is sent. Memories that have not grown since `label_agent` count as 0.
SEQ, STARTED_NS, DONE, INITIALISING, FULL, STARVED = 0, 1, 2, 3, 4, 5
# The words of `log_tail`: whose lines these are, how many there were, how far the ring was written, and where it begins.
LOG_SEQ, LOG_LINES, LOG_END, LOG_RING = 8, 9, 10, 11


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
    """Map the page of a memfd; returns it as a view of `PAGE_WORDS` unsigned 64-bit words."""
    size = os.fstat(fd).st_size
    return memoryview(mmap.mmap(fd, size)).cast("B")[:PAGE_BYTES].cast("Q")
