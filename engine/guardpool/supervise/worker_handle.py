"""What the supervisor knows of one worker: its state, why it ends, and what was sent to it and came from it.

A worker's life:

    FORKING    asked of the forkserver
    STARTING   forked; it makes its instances and has not said HELLO
    READY      gets frames of jobs
    LEAVING    gets no more frames; finishes what it has, says BYE and exits
    DYING      SIGKILL was sent, or will be as soon as the worker is forked
    DEAD       the kernel says so; its exit status and the judgement are awaited

`TRANSITIONS` lists every transition. Only the methods here make one, and each asserts that it is in the table.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import msgspec

from guardpool.outcomes import MAX_BACKEND_ERRORS
from guardpool.protocol import wire
from guardpool.supervise.machine import WorkerEnd
from guardpool.supervise.slots import Slots
from guardpool.supervise.sources import Flight
from guardpool.supervise.verdicts import Ending

READ_BYTES = 1024 * 1024
# How much of a dead worker's pipe is read at most. It held one pipe's worth; a sibling that escaped could write on.
MAX_LAST_READ_BYTES = 2 * READ_BYTES
STDERR_TAIL_BYTES = 4096
# A worker writes a line or a traceback before it dies. Guests' output never comes here.
MAX_STDERR_BYTES = 1024 * 1024
MAX_STDERR_READS = 1000
MAX_LAST_STDERR_READS = 32  # of 64 KiB: it may have made the pipe larger, up to 1 MiB


class State(Enum):
    """Where a worker is in its life."""

    FORKING = "forking"
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    DYING = "dying"
    DEAD = "dead"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.FORKING: frozenset({State.STARTING, State.DYING}),
    State.STARTING: frozenset({State.READY, State.DYING, State.DEAD}),
    State.READY: frozenset({State.LEAVING, State.DYING, State.DEAD}),
    State.LEAVING: frozenset({State.DYING, State.DEAD}),
    State.DYING: frozenset({State.DEAD}),
    State.DEAD: frozenset(),
}


class BackendWait(msgspec.Struct):
    """A `call_backend` that waits for its answer, which `flight` brings. `recalled_at`: when the jobs behind it were sent
    elsewhere, and the worker was to tell of those before it."""

    seq: int
    token: int
    since: float
    flight: Flight | None = None
    recalled_at: float | None = None


class BackendUse(msgspec.Struct):
    """The calls of one job, or of all guards while they are initialised (`seq` is 0)."""

    seq: int = 0
    calls: int = 0
    reply_end: int = 0  # where in the stream to the worker the answer to the last call ends


class WorkerHandle:
    """One worker, as the supervisor sees it. Times are monotonic seconds. Nothing here blocks.

    Args:
        number: the pool's own, never used twice.
        end: its pipes and its process.
        now: the time.
        recycle_after: it is to be replaced after so many jobs.
    """

    def __init__(self, number: int, end: WorkerEnd, now: float, recycle_after: int | None = None) -> None:
        self.number = number
        self.end = end
        self.page = end.page
        self.state = State.FORKING
        self.born_at = now
        self.ready_at = 0.0
        self.died_at = 0.0
        self.active_at = now  # the last frame in either direction
        self.recycle_after = recycle_after
        self.recycle_due = False
        self.jobs_done = 0
        # Its end.
        self.ending: Ending | None = None
        self._leaves_for: str | None = None  # why it goes by itself, in the words of `PoolStats.respawns`
        self.fault: str | None = None  # what it did wrong: the first
        self.said_bye = False
        self.broken = False  # it reported that an instance is dead: it may leave although it holds jobs
        self.orphaned = False  # its forkserver is gone, and with it the only source of its exit status
        self.exit_status: int | None = None
        self.is_status_told = False  # the forkserver said how it ended, or that it cannot know
        # Memory.
        self.rss_bytes = 0
        self.done_within_cap = 0  # how many jobs it had done when it was last seen within the memory cap
        # The job that it is seen to run.
        self.seen_seq = 0
        self.seen_at = now
        self.wavers = 0  # how often in a row its page changed when a deadline had passed
        self.backend: BackendWait | None = None
        self.backend_use = BackendUse()
        self.backend_wait_s = 0.0  # spent in `call_backend` by that job
        self._backend_errors: dict[int, deque[str]] = {}  # of jobs that asked and are not known to be done
        # Bytes.
        self._reader = wire.FrameReader.from_worker()
        self.slots = Slots(number, end.slots)
        self._unsent: deque[memoryview] = deque()
        self._given_bytes = self._sent_bytes = 0  # of the stream to the worker
        self._stderr = bytearray()
        self._stderr_bytes = self._stderr_reads = 0

    # --- its life

    def _becomes(self, state: State) -> None:
        assert state in TRANSITIONS[self.state], f"worker {self.number}: {self.state.value} -> {state.value}"
        self.state = state

    @property
    def is_coming_or_there(self) -> bool:
        """Whether it counts as one of the workers that the pool wants."""
        return self.state in (State.FORKING, State.STARTING, State.READY)

    @property
    def is_forked(self) -> bool:
        """Whether there is, or was, a process."""
        return self.end.pidfd >= 0

    @property
    def ever_ready(self) -> bool:
        """Whether it said a HELLO that was sound."""
        return self.ready_at > 0

    @property
    def cause(self) -> str | None:
        """The word that its replacement is counted under: why it was killed, or why it goes by itself; None: not known."""
        killed_for = None if self.ending is None else self.ending.cause
        return killed_for or self._leaves_for

    @property
    def is_listening(self) -> bool:
        """Whether it may still read what is sent to it."""
        return self.state not in (State.DYING, State.DEAD)

    def forked(self, pid: int, pidfd: int) -> None:
        """Take over the process that was forked; if the worker was to be killed before, it is killed now."""
        self.end.adopt(pid, pidfd)
        if self.state is State.DYING:
            self.end.kill()
        else:
            self._becomes(State.STARTING)

    def becomes_ready(self, now: float) -> None:
        """It said HELLO."""
        self._becomes(State.READY)
        self.ready_at = self.active_at = now
        self.note_seq(0, now)  # until now this was a guard's number, and guards and jobs both count from 1

    def leaves(self, cause: str | None, now: float) -> None:
        """It gets no more frames, and goes by itself."""
        self._becomes(State.LEAVING)
        self.active_at = now
        self._leaves_for = self._leaves_for or cause

    def says_bye(self, now: float) -> None:
        """It says that nothing follows."""
        self.said_bye = True
        if self.state is State.READY:
            self.leaves(None, now)

    def kill(self, ending: Ending) -> None:
        """Send SIGKILL, unless it is dying or dead. The first ending counts."""
        if self.ending is None:
            self.ending = ending
        if ending.fault is not None:
            self.note_fault(ending.fault)
        if self.is_listening:
            self._becomes(State.DYING)
            self.end.kill()

    def died(self, now: float) -> None:
        """The kernel says that it is dead."""
        self._becomes(State.DEAD)
        self.died_at = now

    def exited(self, status: int | None) -> None:
        """The forkserver says how it ended: negative for a signal, None if it does not know either."""
        self.exit_status = status
        self.is_status_told = True

    def loses_forkserver(self) -> None:
        """Its exit status will never be known."""
        self.orphaned = True

    def note_fault(self, fault: str) -> None:
        """It did something wrong; the first thing counts."""
        self.fault = self.fault or fault

    def instance_broke(self, cause: str) -> None:
        """It reported that an instance is dead: it may leave with jobs in its hands, and goes for that reason."""
        self.broken = True
        self._leaves_for = self._leaves_for or cause

    def close(self) -> None:
        """Close every descriptor. The handle cannot be used afterwards."""
        self.end.close()

    # --- its work

    def note_activity(self, now: float) -> None:
        """A frame went or came."""
        self.active_at = now

    def note_done(self, jobs: int) -> None:
        """It finished jobs; after `recycle_after` it is due to be replaced."""
        self.jobs_done += jobs
        if self.recycle_after is not None and self.jobs_done >= self.recycle_after:
            self.recycle_due = True

    def recycle_soon(self) -> None:
        """It is to be replaced, once its successor is ready."""
        self.recycle_due = True

    def note_seq(self, seq: int, now: float) -> None:
        """The job `seq` is seen to run; from the first time on its waits for the backend are counted."""
        if seq != self.seen_seq:
            self.seen_seq, self.seen_at, self.backend_wait_s = seq, now, 0.0

    def measure(self) -> int | None:
        """Look at its resident set, in bytes; None: not known now. Then `rss_bytes` stays what it was."""
        rss = self.end.rss_bytes()
        if rss is not None:
            self.rss_bytes = rss
        return rss

    def note_within_cap(self, done: int) -> None:
        """It was within the memory cap when it had done so many jobs."""
        self.done_within_cap = done

    def note_waver(self) -> int:
        """Its page changed just when a deadline had passed; returns how often in a row."""
        self.wavers += 1
        return self.wavers

    def note_steady(self) -> None:
        """No deadline has passed."""
        self.wavers = 0

    # --- its backend calls

    def asks_backend(self, seq: int, token: int, now: float) -> None:
        """One of its jobs, or a guard that is being initialised (seq 0), waits for a backend."""
        self.active_at = now
        self.backend = BackendWait(seq, token, now)
        if seq:
            self.note_seq(seq, now)

    def count_backend_call(self, seq: int) -> int:
        """One more call of the job; returns how many that makes."""
        if self.backend_use.seq != seq:
            self.backend_use = BackendUse(seq)
        self.backend_use.calls += 1
        return self.backend_use.calls

    def backend_answered(self, error: str | None, now: float) -> BackendWait:
        """The answer that it waited for came, or is given up."""
        wait = self.backend
        assert wait is not None
        self.backend = None
        self.active_at = now
        self.backend_wait_s += now - wait.since
        if error is not None and wait.seq:
            self._backend_errors.setdefault(wait.seq, deque(maxlen=MAX_BACKEND_ERRORS)).append(error)
        return wait

    def note_reply_sent(self) -> None:
        """The answer was given to `send`: an honest worker calls again only after it has read it."""
        self.backend_use.reply_end = self._given_bytes

    @property
    def has_unread_reply(self) -> bool:
        """Whether a part of the answer to its last call did not even fit into the pipe yet."""
        return self.has_unsent(self.backend_use.reply_end)

    @property
    def has_backend_errors(self) -> bool:
        """Whether something went wrong in calls of some job that is not known to be done."""
        return bool(self._backend_errors)

    def take_backend_errors(self, seq: int) -> tuple[str, ...]:
        """What went wrong in the calls of a job that ended."""
        return tuple(self._backend_errors.pop(seq, ()))

    # --- frames

    def send(self, data: bytearray) -> bool:
        """Send a frame; True if all of it was sent. Else the buffer is kept here, and must not be changed."""
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
        """Go on sending; True when nothing is left, or its reader is gone."""
        while self._unsent:
            written = self._write(self._unsent[0])
            if written is None:
                return True
            if written < len(self._unsent[0]):
                self._unsent[0] = self._unsent[0][written:]
                return False
            self._unsent.popleft()
        return True

    def _write(self, data: bytearray | memoryview) -> int | None:
        """Write what the pipe takes; None if its reader is gone."""
        written = self.end.write(data)
        if written is None:
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
        """Whether a part of the first `end` bytes of the stream to the worker did not fit into the pipe yet."""
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
        size = self.end.read_into(buffer)
        return self._reader.feed(buffer[:size]) if size else []

    def receive_last(self) -> list[wire.FromWorker]:
        """Everything a dead worker left in its pipe, as far as it is frames."""
        frames: list[wire.FromWorker] = []
        left = MAX_LAST_READ_BYTES
        while left > 0 and (data := self.end.read_rest(READ_BYTES)):
            left -= len(data)
            try:
                frames += self._reader.feed(data)
            except wire.ProtocolError:
                break
        return frames

    # --- standard error

    def read_stderr(self) -> bool:
        """Take what it wrote to standard error, keeping the end; False at end-of-file."""
        data = self.end.read_stderr()
        if data is not None:
            self._keep_stderr(data)
        return data != b""

    def read_last_stderr(self) -> None:
        """Take what a dead worker left there.

        Only as much as a pipe holds: a child that it left behind, if the sandbox allowed one, could write for ever.
        """
        for _ in range(MAX_LAST_STDERR_READS):
            data = self.end.read_stderr()
            if not data:
                break
            self._keep_stderr(data)

    def _keep_stderr(self, data: bytes) -> None:
        self._stderr_bytes += len(data)
        self._stderr_reads += 1
        self._stderr += data
        del self._stderr[:-STDERR_TAIL_BYTES]

    @property
    def floods_stderr(self) -> bool:
        """Whether it wrote more than an honest worker ever does."""
        return self._stderr_bytes > MAX_STDERR_BYTES or self._stderr_reads > MAX_STDERR_READS

    @property
    def stderr_tail(self) -> str:
        """The last it wrote to its standard error."""
        return self._stderr.decode("utf-8", "replace").strip()
