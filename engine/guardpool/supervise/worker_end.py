"""The supervisor's end of one worker: its pipes, its progress page, its pidfd. Nothing here blocks, and nothing decides."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal

import psutil

from guardpool.protocol import progress_page
from guardpool.supervise.reactor import is_readable

# The largest a plain user may set by default (/proc/sys/fs/pipe-max-size): a full frame goes through in one write.
PIPE_BYTES = 1024 * 1024
_STDERR_READ_BYTES = 65536


class PipeEnd:
    """Pipes to a worker and from it, and, once it is forked, its process.

    Raises:
        OSError: the process is out of descriptors or memory. Nothing is left open.
    """

    def __init__(self) -> None:
        fds: list[int] = []
        try:
            for _ in range(3):
                fds += os.pipe2(os.O_CLOEXEC)
            page = progress_page.new_page()
            fds.append(page)
            self.page = progress_page.map_page(page)
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        jobs_r, self.jobs_fd, self.results_fd, results_w, self.stderr_fd, stderr_w, page = fds
        self.child_fds = [jobs_r, results_w, stderr_w, page]
        self.pid = 0
        self.pidfd = -1
        self._process: psutil.Process | None = None
        for fd in (self.jobs_fd, self.results_fd, self.stderr_fd):
            os.set_blocking(fd, False)
        for fd in (self.jobs_fd, self.results_fd):
            with contextlib.suppress(OSError):  # over the user's quota of pipe memory: smaller pipes only cost speed
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def close_child_fds(self) -> None:
        """Close our copies of the worker's ends: while they are open, end-of-file never comes."""
        for fd in self.child_fds:
            with contextlib.suppress(OSError):  # the caller's program closed it
                os.close(fd)
        self.child_fds = []

    def adopt(self, pid: int, pidfd: int) -> None:
        """The worker is forked; its pidfd is ours to close from now on."""
        self.pid, self.pidfd = pid, pidfd

    def write(self, data: bytes | bytearray | memoryview) -> int | None:
        """Write what the pipe takes; None if its reader is gone: the worker is dying, its pidfd will say so."""
        try:
            return os.write(self.jobs_fd, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return None

    def read_into(self, buffer: memoryview) -> int:
        """Read results; returns how many bytes came, 0 at end-of-file and if nothing is there now."""
        try:
            return os.readv(self.results_fd, [buffer])
        except BlockingIOError:
            return 0

    def read_rest(self, size: int) -> bytes:
        """Read what a dead worker left in its pipe, `size` bytes at most; empty once there is nothing more."""
        try:
            return os.read(self.results_fd, size)
        except OSError:
            return b""

    def read_stderr(self) -> bytes | None:
        """Read what it wrote to its standard error; empty at end-of-file, None if nothing is there now."""
        try:
            return os.read(self.stderr_fd, _STDERR_READ_BYTES)
        except BlockingIOError:
            return None

    def is_dead(self, within_s: float = 0.0) -> bool:
        """Whether the process, which was forked, is dead, or dies within so many seconds."""
        return is_readable(self.pidfd, within_s)

    def rss_bytes(self) -> int:
        """Its resident set, 0 if it is gone. Read by us from the kernel, never reported by the worker.

        psutil's object is kept: making one costs five times what a look does. If the pid was given to another process
        meanwhile, the worker is dead, and its pidfd says so in the same round.
        """
        try:
            if self._process is None:
                self._process = psutil.Process(self.pid)
            return int(self._process.memory_info().rss)
        except psutil.Error:
            return 0

    def kill(self) -> None:
        """Send SIGKILL through the pidfd, so that a reused pid is never hit. May be called at any time."""
        if self.pidfd >= 0:
            with contextlib.suppress(OSError):  # dead and reaped, or the caller's program closed the pidfd
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Close every descriptor. The object cannot be used afterwards."""
        self.close_child_fds()
        for fd in (self.jobs_fd, self.results_fd, self.stderr_fd, self.pidfd):
            if fd >= 0:
                with contextlib.suppress(OSError):  # the caller's program closed it
                    os.close(fd)
        self.jobs_fd = self.results_fd = self.stderr_fd = self.pidfd = -1
        self.page.release()
