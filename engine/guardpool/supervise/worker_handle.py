"""The supervisor's end of one worker: its pipes, its progress page, its pidfd, and what is known about it.

Nothing here blocks. Whoever calls `kill` may do so at any time: the signal goes through the pidfd, so a pid that was used
again is never hit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections import deque
from dataclasses import dataclass
from enum import Enum

import psutil

from guardpool.outcomes import MAX_BACKEND_ERRORS
from guardpool.protocol import progress_page, wire
from guardpool.supervise.scheduler import Verdict

# The largest a plain user may set by default (/proc/sys/fs/pipe-max-size): a full frame goes through in one write.
PIPE_BYTES = 1024 * 1024
READ_BYTES = 1024 * 1024
# What is read of a dead worker's pipe at most. It held one pipe's worth; a sibling that escaped could write on.
MAX_LAST_READ_BYTES = 2 * PIPE_BYTES
STDERR_TAIL_BYTES = 4096
# A worker writes a line or a traceback before it dies. Guests' output never comes here.
MAX_STDERR_BYTES = 1024 * 1024
MAX_STDERR_READS = 1000
MAX_LAST_STDERR_READS = 32  # of 64 KiB: it may have made the pipe larger, up to 1 MiB


class State(Enum):
    """Where a worker is in its life."""

    FORKING = "forking"  # asked of the forkserver
    STARTING = "starting"  # forked; no HELLO yet
    READY = "ready"
    LEAVING = "leaving"  # gets no more frames; finishes what it has
    DYING = "dying"  # SIGKILL sent
    DEAD = "dead"  # the kernel says so; waiting for its exit status


@dataclass
class BackendWait:
    """A `call_backend` that waits for its answer. `recalled`: nothing waits behind it any more."""

    seq: int
    token: int
    since: float
    recalled: bool = False


@dataclass
class BackendUse:
    """The calls of one job, or of all guards while they are initialised (`seq` is 0)."""

    seq: int = 0
    calls: int = 0
    reply_end: int = 0  # where in the stream to the worker the last one's answer ends


class WorkerHandle:
    """One worker, as the supervisor sees it. Times are `time.monotonic()` seconds."""

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.state = State.FORKING
        self.pid = 0
        self.pidfd = -1
        self.born_at = now
        self.ready_at = 0.0
        self.died_at = 0.0
        self.kill_sent_at = 0.0
        self.active_at = now  # last frame in either direction
        self.jobs_done = 0
        self.rss_bytes = 0
        self.baseline_rss_bytes = 0
        self.done_within_cap = 0  # how many jobs it had done when it was last seen within the memory cap
        self.recycle_after: int | None = None
        self.recycle_due = False
        self.said_bye = False
        self.exit_status: int | None = None
        self.orphaned = False  # its forkserver is gone: nobody will tell its exit status
        self.cause: str | None = None  # why it goes, in the words of `Stats.respawns`
        self.verdict: Verdict | None = None  # set when we end it
        self.victim: int | None = None
        self.fault: str | None = None  # what it did wrong, where it broke the protocol
        self.broken = False  # it reported that an instance is dead: it leaves with jobs in its hands
        self.backend: BackendWait | None = None
        self.backend_use = BackendUse()
        self.backend_errors: deque[str] = deque(maxlen=MAX_BACKEND_ERRORS)  # of the job that runs
        self.backend_wait_s = 0.0  # spent in `call_backend` by the job `seen_seq`
        self.wavers = 0  # how often in a row its page changed when a deadline had passed
        self.seen_seq = 0
        self.seen_at = now
        self._reader = wire.FrameReader.from_worker()
        self._unsent: deque[memoryview] = deque()
        self._given_bytes = self._sent_bytes = 0  # of the stream to the worker
        self._stderr = bytearray()
        self._stderr_bytes = self._stderr_reads = 0
        self._process: psutil.Process | None = None
        self._child_fds: list[int] = []
        self.jobs_fd = self.results_fd = self.stderr_fd = -1
        self._open()
        self.page = progress_page.map_page(self._child_fds[3])

    def _open(self) -> None:
        fds: list[int] = []
        try:
            for _ in range(3):
                fds += os.pipe2(os.O_CLOEXEC)
            page = progress_page.new_page()
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        jobs_r, self.jobs_fd, self.results_fd, results_w, self.stderr_fd, stderr_w = fds
        self._child_fds = [jobs_r, results_w, stderr_w, page]
        for fd in (self.jobs_fd, self.results_fd, self.stderr_fd):
            os.set_blocking(fd, False)
        for fd in (self.jobs_fd, self.results_fd):
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            except OSError:
                pass  # over the user's quota of pipe memory: smaller pipes only cost speed

    @property
    def child_fds(self) -> list[int]:
        """The worker's own descriptors, to be sent to the forkserver and then closed here with `close_child_fds`."""
        return self._child_fds

    def close_child_fds(self) -> None:
        """Close our copies of the worker's ends: while they are open, end-of-file never comes."""
        for fd in self._child_fds:
            with contextlib.suppress(OSError):  # somebody else closed it
                os.close(fd)
        self._child_fds = []

    @property
    def alive(self) -> bool:
        """Counts as a worker that is there or is coming."""
        return self.state in (State.FORKING, State.STARTING, State.READY)

    def note_seq(self, seq: int, now: float) -> None:
        """The job `seq` is seen to run: from the first time on its backend waits are counted."""
        if seq != self.seen_seq:
            self.seen_seq, self.seen_at, self.backend_wait_s = seq, now, 0.0

    # --- frames

    def send(self, data: bytearray) -> bool:
        """Send a frame; True when nothing is left to send. Else the buffer is kept here, and must not be changed."""
        self._given_bytes += len(data)
        sent = 0
        if not self._unsent:
            written = self._write(data)
            if written is None:
                return True
            sent = written
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
        return not self._unsent

    def send_rest(self) -> bool:
        """Go on sending; True when nothing is left, or nobody is there to read it."""
        while self._unsent:
            written = self._write(self._unsent[0])
            if written is None:
                return True
            if written < len(self._unsent[0]):
                self._unsent[0] = self._unsent[0][written:]
                return False
            self._unsent.popleft()
        return True

    def _write(self, data: bytes | bytearray | memoryview) -> int | None:
        """Write what the pipe takes; None where nobody is there to read it: it is dying, its pidfd will say so."""
        try:
            written = os.write(self.jobs_fd, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self._unsent.clear()
            self._sent_bytes = self._given_bytes
            return None
        self._sent_bytes += written
        return written

    @property
    def given_bytes(self) -> int:
        """How many bytes were given to `send` so far."""
        return self._given_bytes

    def has_unsent(self, end: int) -> bool:
        """Whether a part of what `given_bytes` was then did not fit into the pipe yet."""
        return self._sent_bytes < end

    @property
    def buffered_bytes(self) -> int:
        """How much of an unfinished frame is here."""
        return self._reader.buffered_bytes

    def receive(self, buffer: memoryview) -> list[wire.FromWorker]:
        """The frames that one read completes.

        Args:
            buffer: what the bytes are read into; it may be used again afterwards.

        Raises:
            ProtocolError: it sent something else.
        """
        try:
            size = os.readv(self.results_fd, [buffer])
        except BlockingIOError:
            return []
        return self._reader.feed(buffer[:size]) if size else []

    def receive_last(self) -> list[wire.FromWorker]:
        """Everything a dead worker left in its pipe, as far as it is frames."""
        frames: list[wire.FromWorker] = []
        left = MAX_LAST_READ_BYTES
        while left > 0:
            try:
                data = os.read(self.results_fd, READ_BYTES)
            except OSError:
                break
            if not data:
                break
            left -= len(data)
            try:
                frames += self._reader.feed(data)
            except wire.ProtocolError:
                break
        return frames

    # --- standard error

    def read_stderr(self) -> bool:
        """Take what it wrote to standard error, keeping the end; False at end-of-file."""
        try:
            data = os.read(self.stderr_fd, 65536)
        except BlockingIOError:
            return True
        self._stderr_bytes += len(data)
        self._stderr_reads += 1
        self._stderr += data
        del self._stderr[:-STDERR_TAIL_BYTES]
        return bool(data)

    @property
    def floods_stderr(self) -> bool:
        """It wrote more than any traceback of an honest worker is long."""
        return self._stderr_bytes > MAX_STDERR_BYTES or self._stderr_reads > MAX_STDERR_READS

    @property
    def stderr_tail(self) -> str:
        """The last it wrote to its standard error."""
        return self._stderr.decode("utf-8", "replace").strip()

    # --- memory

    def look_at_rss(self) -> int:
        """Its resident set, 0 where it is gone. Read by us from the kernel, never reported by the worker.

        psutil's object is kept: making one costs five times what a look does. Should the pid be another's by now, then the
        worker is dead, which its pidfd says in the same round.
        """
        try:
            if self._process is None:
                self._process = psutil.Process(self.pid)
            return int(self._process.memory_info().rss)
        except psutil.Error:
            return 0

    # --- its end

    def kill(self, now: float) -> None:
        """SIGKILL, unless it is dead or not forked yet."""
        if self.state in (State.DYING, State.DEAD):
            return
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except OSError:  # dead and reaped, or somebody else closed the pidfd
                pass
        self.state = State.DYING
        self.kill_sent_at = now

    def close(self) -> None:
        """Close every descriptor. The handle is of no use afterwards."""
        self.close_child_fds()
        for fd in (self.jobs_fd, self.results_fd, self.stderr_fd, self.pidfd):
            if fd >= 0:
                with contextlib.suppress(OSError):  # somebody else closed it
                    os.close(fd)
        self.jobs_fd = self.results_fd = self.stderr_fd = self.pidfd = -1
        self.page.release()
