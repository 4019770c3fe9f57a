"""The supervisor's end of one worker: its pipes, its progress page, its pidfd. Nothing here blocks, and nothing decides."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal

from guardpool.protocol import progress_page
from guardpool.supervise.reactor import is_readable
from guardpool.supervise.slots import SlotMemory

# The largest a plain user may set by default (/proc/sys/fs/pipe-max-size): a full frame goes through in one write.
PIPE_BYTES = 1024 * 1024
_STDERR_READ_BYTES = 65536
_PAGE_BYTES = resource.getpagesize()


class PipeEnd:
    """Pipes to a worker and from it, its slots, and, once it is forked, its process.

    Args:
        slot_bytes: the size of a slot; 0: it gets none.

    Attributes:
        slots: its slots; None: it has none, because none are wanted, or because they cannot be had now.

    Raises:
        OSError: the process is out of descriptors or memory. Nothing is left open.
    """

    def __init__(self, slot_bytes: int = 0) -> None:
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
        self.slots: SlotMemory | None = None
        if slot_bytes:
            with contextlib.suppress(OSError):  # everything goes through the pipe then
                self.slots = SlotMemory(slot_bytes)
                self.child_fds.append(self.slots.reader_fd)
        self.pid = 0
        self.pidfd = -1
        self._statm_fd = -1
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
        self._open_statm()

    def _open_statm(self) -> None:
        """Keep the file open that tells its memory: a look then needs no descriptor, which may lack at that moment, and never
        hits another process that got the same pid."""
        with contextlib.suppress(OSError):
            self._statm_fd = os.open(f"/proc/{self.pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
            if self.is_dead():  # its pid may have been another's by then; while it lived after the opening, it was not
                os.close(self._statm_fd)
                self._statm_fd = -1

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

    def rss_bytes(self) -> int | None:
        """Its resident set, 0 if it is gone; None: not known now. Read by us from the kernel, never reported by the worker."""
        if self._statm_fd < 0:
            self._open_statm()
            if self._statm_fd < 0:
                return 0 if self.is_dead() else None
        try:
            return int(os.pread(self._statm_fd, 200, 0).split()[1]) * _PAGE_BYTES
        except ProcessLookupError:
            return 0
        except (OSError, IndexError, ValueError):
            return None

    def kill(self) -> None:
        """Send SIGKILL through the pidfd, so that a reused pid is never hit. May be called at any time."""
        if self.pidfd >= 0:
            with contextlib.suppress(OSError):  # dead and reaped, or the caller's program closed the pidfd
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> bool:
        """Reap it if it is dead and a child of this process, which it becomes when its forkserver dies and this process is the
        one that orphans go to (PID 1 of a container, or a subreaper). No other child is ever waited for.

        Returns:
            Whether it was reaped; False: it is the forkserver's, or gone.
        """
        try:
            return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG) is not None
        except OSError:
            return False

    def close_all_but_pidfd(self) -> None:
        """Close every other descriptor: all that can still be done is `reap`, and `close`."""
        pidfd, self.pidfd = self.pidfd, -1
        self.close()
        self.pidfd = pidfd

    def close(self) -> None:
        """Close every descriptor. The object cannot be used afterwards."""
        self.close_child_fds()
        for fd in (self.jobs_fd, self.results_fd, self.stderr_fd, self.pidfd, self._statm_fd):
            if fd >= 0:
                with contextlib.suppress(OSError):  # the caller's program closed it
                    os.close(fd)
        self.jobs_fd = self.results_fd = self.stderr_fd = self.pidfd = self._statm_fd = -1
        self.page.release()  # once more does nothing
        if self.slots is not None:
            self.slots.close()
