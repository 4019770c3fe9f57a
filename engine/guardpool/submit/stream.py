"""A stream of jobs and their outcomes: backpressure on the way in, order on the way out.

The window bounds what is between `put` and `take`, in jobs and in bytes, whichever side is slow: a slow pool or a slow
consumer stops the producer, and a consumer that lets labels pile up has its jobs paused in the scheduler, so that the
memory of a run does not grow with its length. Inputs that no worker is done with have a lower bound of their own: enough
that no worker waits, and few enough that they are still in the processor's caches when they are sent.

Ctrl-C may strike anywhere in `put` and `take`, and must neither lose an outcome nor leave a lock behind. CPython raises it
after calls and when a Python function begins, never between plain assignments, and a `with` over a plain lock is safe; so
the locks here are plain, what belongs together is assigned without a call in between, and no thread waits on a `Condition`,
whose Python code holds its lock at such places.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

from guardpool.errors import GuardPoolError, PoolClosed
from guardpool.jobs import Prepared
from guardpool.outcomes import Outcome, StoredLabel, stored_label
from guardpool.submit.intake import Intake
from guardpool.supervise.inbox import Inbox
from guardpool.supervise.scheduler import Task

# Enough for every worker's two full frames several times over on a large machine; small against the bytes below.
WINDOW_JOBS = 16384
WINDOW_BYTES = 64 * 1024 * 1024
# Inputs ahead of the workers: the two frames of 1 MiB that each may hold, and what waits for them. Frames of large inputs may
# have 4 MiB: that is enough for two of 3 MiB with one worker, and with two for two of 2 MiB each. A producer that ran on
# to the whole window encoded for 200 ms before it looked at the first outcome, and what it made was cold by the time it was
# sent.
_AHEAD_BYTES = 4 * 1024 * 1024
_AHEAD_BYTES_PER_WORKER = 2 * 1024 * 1024
# However large jobs are: two frames of one job each, and two more.
_AHEAD_JOBS_PER_WORKER = 4


class Ahead(NamedTuple):
    """How far a stream runs ahead of the workers: so many bytes of input, or so many jobs if those are more."""

    size: int
    jobs: int

    @classmethod
    def of(cls, workers: int) -> Ahead:
        """What so many workers need."""
        return cls(_AHEAD_BYTES + workers * _AHEAD_BYTES_PER_WORKER, workers * _AHEAD_JOBS_PER_WORKER)


class _Bell:
    """Wakes the one thread that waits for it. `arm` and `ring` are called with the stream's lock held."""

    __slots__ = ("_armed", "_rung")

    def __init__(self) -> None:
        self._rung = threading.Lock()
        self._rung.acquire()
        self._armed = False

    def arm(self) -> None:
        self._rung.acquire(False)  # an old ring, for which the thread no longer waited
        self._armed = True

    def ring(self) -> None:
        if self._armed:
            self._armed = False
            self._rung.release()

    def wait(self, timeout_s: float | None) -> None:
        """Until it rings, or the time is over."""
        self._rung.acquire(True, -1 if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))


class Bell(Protocol):
    """Wakes who waits for it. `arm` and `ring` are called with the stream's lock held."""

    def arm(self) -> None:
        """The next `ring` counts."""

    def ring(self) -> None:
        """Something changed."""

    def wait(self, timeout_s: float | None) -> None:
        """Until it rings, or the time is over."""


class Held(NamedTuple):
    """A job that is not labelled yet, and perhaps never: it has its place in the stream, and gets its outcome by `deliver`,
    which frees its input, or is labelled after all by `send_held`."""

    job: Prepared


class JobStream:
    """Jobs in, outcomes out. `put` and `finish` belong to one thread, `take` to one thread, which may be another.

    Made by `GuardPool.stream`. `cancel` and `close` may be called from any thread.

    Attributes:
        listener: called with the indexes and outcomes of every `deliver`, before they can be taken, by the thread that
            delivers.
    """

    listener: Callable[[list[int], list[Outcome]], object] | None = None

    def __init__(
        self,
        inbox: Inbox,
        intake: Intake,
        *,
        ordered: bool,
        window_jobs: int = WINDOW_JOBS,
        window_bytes: int = WINDOW_BYTES,
        ahead: Ahead | None = None,
        room_bell: Bell | None = None,
        ready_bell: Bell | None = None,
    ) -> None:
        self._inbox = inbox
        self._intake = intake
        self._ordered = ordered
        self._window_jobs = window_jobs
        self._window_bytes = window_bytes
        self._ahead = ahead or Ahead(window_bytes, 0)
        self._lock = threading.Lock()
        self._room_bell = room_bell or _Bell()
        self._ready_bell = ready_bell or _Bell()
        self._ready: list[Outcome] = []
        self._ready_at: list[int] = []  # unordered: the indexes of what is ready
        self._held: dict[int, list[Outcome]] = {}  # ordered: runs that came before their turn, by first index
        self._next = 0  # ordered: the index whose turn it is
        self._put = 0
        self._taken = 0
        self._bytes_in = 0
        self._bytes_out = 0
        self._in_hand: list[Outcome] | None = (
            None  # taken, and not returned yet: only an interrupt leaves something here
        )
        self._in_hand_at: Sequence[int] = ()
        self._resume_due = False  # a resume is still to be posted: only an interrupt leaves this set
        self._paused = False
        self._finished = False
        self._cancelled = False
        self._closed = False
        self._torn = False  # `send` was interrupted: how many jobs were put is not known
        self._failure: Exception | None = None

    # --- the caller's side

    @property
    def room(self) -> int:
        """How many jobs `put` takes without waiting."""
        if self._bytes_in + self._bytes_out >= self._window_bytes:
            return 0
        ahead = self._ahead
        most = self._window_jobs if self._bytes_in < ahead.size else min(self._window_jobs, ahead.jobs)
        return max(0, most - (self._put - self._taken))

    @property
    def ready(self) -> int:
        """How many outcomes `take` returns without waiting."""
        return len(self._ready) + (0 if self._in_hand is None else len(self._in_hand))

    def put(self, jobs: Sequence[Prepared], *, until_taken: bool = False) -> None:
        """Hand jobs in; waits while the window is full.

        Args:
            jobs: which.
            until_taken: wait until the supervisor has them, and is about to send them to workers. Else its thread gets its
                turn when this one waits for something, or after 5 ms.

        When it raises, none of the jobs was taken. An exception that a signal handler raises in it may end the stream,
        because it cannot be known how far `put` got: `take` returns what is there, and no more.

        Raises:
            PoolClosed: the pool was closed, or the stream was cancelled or finished.
            PoolBroken: the pool gave up.
        """
        self._inbox.check_process()
        self._wait_for_room()
        self._inbox.check_open()
        tasks, rejected = self._intake.tasks_of_prepared(jobs, self, self._put)
        if not until_taken or not tasks:
            self.send(tasks, rejected)
            return
        are_taken = threading.Lock()
        are_taken.acquire()
        self.send(tasks, rejected, taken=are_taken.release)
        are_taken.acquire()

    @property
    def next_index(self) -> int:
        """The index of the next job that is put."""
        return self._put

    def put_mixed(self, jobs: Sequence[Prepared | Outcome | Held]) -> None:
        """`put` for jobs some of which need no worker: they have their outcome, or are held (`Held`). Raises as `put`."""
        self._inbox.check_process()
        self._wait_for_room()
        self._inbox.check_open()
        tasks: list[Task] = []
        done: list[tuple[int, Outcome]] = []
        held: list[Held] = []
        index = self._put
        for kind, run in groupby(jobs, type):
            each = list(run)
            if kind is Outcome:
                done += enumerate(each, index)  # type: ignore[arg-type]
            elif kind is Held:
                held += each  # type: ignore[arg-type]
            else:
                more, rejected = self._intake.tasks_of_prepared(each, self, index)  # type: ignore[arg-type]
                tasks += more
                done += rejected
            index += len(each)
        self.send(tasks, done, held)

    def send_held(self, index: int, held: Held) -> None:
        """Have a job labelled that was held. Raises `PoolClosed` or `PoolBroken` if the pool takes no more jobs."""
        tasks, rejected = self._intake.tasks_of_prepared([held.job], self, index)
        if tasks:
            self._inbox.queue(self, tasks)
        for at, outcome in rejected:
            self.deliver([at], [outcome], len(held.job.payload))

    def send(
        self,
        tasks: list[Task],
        rejected: list[tuple[int, Outcome]],
        held: Sequence[Held] = (),
        taken: Callable[[], None] | None = None,
    ) -> int:
        """Queue tasks whose indexes follow on what was put so far, and outcomes that need no worker, and keep places for jobs
        that are held. Never waits. `taken`: as of `supervise.commands.Queue`.

        Returns:
            How many bytes of input the tasks hold.

        Raises:
            PoolClosed: the pool was closed, or the stream was cancelled or finished.
            PoolBroken: the pool gave up.
        """
        size = sum([len(task.payload) for task in tasks])
        count = len(tasks) + len(rejected)
        if held:
            size += sum([len(each.job.payload) for each in held])
            count += len(held)
        self._inbox.check_process()
        try:
            with self._lock:
                if self._finished or self._cancelled:
                    raise PoolClosed("the stream takes no more jobs: it was finished or cancelled")
                self._put += count
                self._bytes_in += size
            if tasks:
                self._queue(tasks, count, size, taken)
            if rejected:
                labels = sum(
                    [len(label.json) for _, each in rejected if type(label := stored_label(each)) is StoredLabel]
                )
                self.deliver([index for index, _ in rejected], [outcome for _, outcome in rejected], 0, labels)
        except GuardPoolError:
            raise
        except BaseException:
            self._torn = self._cancelled = True
            raise
        return size

    def _queue(self, tasks: list[Task], count: int, size: int, taken: Callable[[], None] | None) -> None:
        try:
            self._inbox.queue(self, tasks, taken)
        except GuardPoolError:  # the pool takes no more jobs: count these as never put
            with self._lock:
                self._put -= count
                self._bytes_in -= size
                self._ready_bell.ring()
            raise

    def finish(self) -> None:
        """No more jobs. `take` returns an empty list once all outcomes were taken."""
        self._inbox.check_process()
        with self._lock:
            self._finished = True
            self._ready_bell.ring()

    def take(self, timeout_s: float | None = None) -> list[Outcome]:
        """The outcomes that are there; waits for at least one.

        Returns:
            Empty when the stream is finished, or when nothing came in time. A signal handler that raises interrupts it
            without loss: what was not returned is returned by the next call.

        Raises:
            PoolBroken: the pool gave up; raised after every outcome was taken.
            PoolClosed: the pool was closed before the stream was finished or cancelled; also after every outcome. At once in a
                fork of the process that made the pool.
        """
        self._take_in_hand(timeout_s)
        outcomes, self._in_hand = self._in_hand, None
        return [] if outcomes is None else outcomes

    def take_numbered(self, timeout_s: float | None = None) -> tuple[Sequence[int], list[Outcome]]:
        """`take`, with the index of each outcome's job: how many jobs were put before it."""
        self._take_in_hand(timeout_s)
        outcomes, self._in_hand = self._in_hand, None
        return ((), []) if outcomes is None else (self._in_hand_at, outcomes)

    def _take_in_hand(self, timeout_s: float | None) -> None:
        self._inbox.check_process()
        if self._in_hand is None:
            self._fill_hand(timeout_s)
        else:
            self._post_resume()

    def take_now(self) -> list[Outcome] | None:
        """`take` for who must not wait: None if nothing is there, and the bell of what is ready will ring."""
        self._inbox.check_process()
        self._post_resume()
        if self._in_hand is None and not self._take_ready():
            return None
        self._post_resume()
        outcomes, self._in_hand = self._in_hand, None
        return [] if outcomes is None else outcomes

    def has_room(self) -> bool:
        """Whether `send` may be called. If not, the bell of the room will ring."""
        with self._lock:
            if self._cancelled or self._failure is not None or self.room > 0:
                return True
            self._room_bell.arm()
            return False

    def _fill_hand(self, timeout_s: float | None) -> None:
        end = None if timeout_s is None else time.monotonic() + timeout_s
        self._post_resume()
        while not self._take_ready():
            remaining = None if end is None else end - time.monotonic()
            if remaining is not None and remaining <= 0:
                return
            self._ready_bell.wait(remaining)
        self._post_resume()

    def _take_ready(self) -> bool:
        """Take what is ready in hand; False if the caller has to wait for it, and the bell is armed for that."""
        with self._lock:
            ready = self._ready
            if not ready:
                if self._is_over():
                    return True
                self._ready_bell.arm()
                return False
            # What is left are runs that wait for their turn. Their share is taken as if all labels were equal: exact
            # counting would cost more per outcome than all the rest of this, and an empty stream is exact again.
            left, count = sum(map(len, self._held.values())), len(ready)
            held_bytes = self._bytes_out * left // (left + count)
            indexes = range(self._taken, self._taken + count) if self._ordered else self._ready_at
            self._room_bell.ring()  # the producer that it wakes has to wait for the lock
            # Assignments only, up to the end of the block.
            self._in_hand_at = indexes
            self._in_hand = ready
            self._ready = []
            self._ready_at = []
            self._taken += count
            self._bytes_out = held_bytes
            self._resume_due = self._resume_due or self._paused
            self._paused = self._paused and held_bytes >= self._window_bytes
            return True

    def _post_resume(self) -> None:
        if self._resume_due:
            self._inbox.resume(self, self._next + 1 if self._paused else None)
            self._resume_due = False

    def _is_over(self) -> bool:
        if self._taken != self._put and not self._torn and not self._closed:
            return False
        if self._failure is not None and not (
            isinstance(self._failure, PoolClosed) and (self._finished or self._cancelled)
        ):
            raise self._failure
        return self._finished or self._cancelled

    def cancel(self) -> None:
        """Take no more jobs; each one that no worker has yet gets a `cancelled` outcome."""
        self._inbox.check_process()
        with self._lock:
            self._cancelled = True
            self._ready_bell.ring()
            self._room_bell.ring()
        self._inbox.cancel(self)

    def close(self) -> None:
        """The consumer is gone: what no worker has begun is dropped, and outcomes with it. Nothing happens in a fork."""
        if self._inbox.is_foreign:
            return
        with self._lock:
            done = self._taken == self._put and not self._torn
            self._finished = self._closed = True
            self._ready = []
            self._ready_at = []
            self._held = {}
        if not done:
            self.cancel()
        self._inbox.forget(self)

    def _wait_for_room(self) -> None:
        while True:
            with self._lock:
                if self._cancelled or self.room > 0:
                    return
                if self._failure is not None:
                    raise self._failure
                self._room_bell.arm()
            self._room_bell.wait(None)

    # --- the supervisor's side

    def deliver(self, indexes: list[int], outcomes: list[Outcome], bytes_in: int, bytes_out: int = 0) -> int | None:
        """Take outcomes from the supervisor.

        Args:
            indexes: of their jobs.
            outcomes: one for each index; the stream keeps the list.
            bytes_in: how many bytes of input they free.
            bytes_out: how many bytes of labels they hold.

        Returns:
            None, or, when the consumer does not keep up, an index: jobs from there on are to be paused until it does.
            An ordered stream that waits for one slow job is paused behind that job, never before it.
        """
        if self.listener is not None:
            self.listener(indexes, outcomes)
        with self._lock:
            self._bytes_in -= bytes_in
            if self._closed:
                return None
            self._bytes_out += bytes_out
            if self._ordered:
                self._sort_in(indexes, outcomes)
            else:
                self._ready += outcomes
                self._ready_at += indexes
            if self._ready:
                self._ready_bell.ring()
            if self.room > 0:
                self._room_bell.ring()
            self._paused = self._bytes_out >= self._window_bytes
            if not self._paused:
                return None
            return self._next + 1 if self._ordered and not self._ready else 0

    def announce(self, error: Exception) -> None:
        """The pool gave up; the last outcomes are about to come."""
        self._failure = error

    def fail(self, error: Exception) -> None:
        """The pool gave up; every outcome was delivered."""
        with self._lock:
            self._failure = error
            self._ready_bell.ring()
            self._room_bell.ring()

    def _sort_in(self, indexes: list[int], outcomes: list[Outcome]) -> None:
        """Keep runs of consecutive outcomes until their turn comes; a frame's results are one run as a rule."""
        start, count = indexes[0], len(indexes)
        if count == 1 or indexes == list(range(start, start + count)):
            self._held[start] = outcomes
        else:
            for index, outcome in zip(indexes, outcomes):
                self._held[index] = [outcome]
        while (run := self._held.pop(self._next, None)) is not None:
            self._ready += run
            self._next += len(run)
