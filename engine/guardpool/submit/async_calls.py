"""Single jobs of an event loop: futures of asyncio, and no thread but the supervisor's.

Jobs that are submitted in one round of the loop go to the supervisor together, outcomes that came since the last round come
back together: a wake-up of either costs more than a job.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from guardpool.outcomes import Outcome
from guardpool.submit.intake import AnyJob, Intake
from guardpool.supervise.inbox import Inbox
from guardpool.supervise.scheduler import Task

# Futures that are set in one round of the loop at most, so that it is not held up: 1 us each.
_MOST_AT_ONCE = 256


class AsyncCalls:
    """The owner of an event loop's single jobs. Everything but the supervisor's side belongs to the loop's thread."""

    def __init__(self, inbox: Inbox, intake: Intake, loop: asyncio.AbstractEventLoop) -> None:
        self._inbox = inbox
        self._intake = intake
        self._loop = loop
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._outbox: list[Task] = []
        self._dropped: list[int] = []
        self._is_flush_due = False
        # What the supervisor's thread hands over.
        self._arrived: deque[tuple[int, Outcome]] = deque()
        self._failure: Exception | None = None
        self._is_told = False  # the loop will look; a stale value costs one look more

    def submit(self, job: AnyJob) -> asyncio.Future[Outcome]:
        """Queue a job; its future gets the outcome, whatever that is. Who cancels the future cancels the job, if no worker has
        it yet.

        Raises:
            InvalidJob: it is neither a `Job` nor a dict.
            PoolClosed, PoolBroken: no job can be taken.
        """
        self._inbox.check_open()
        future: asyncio.Future[Outcome] = self._loop.create_future()
        task = self._intake.task_of(job, self, 0)
        if isinstance(task, Outcome):
            future.set_result(task)
            return future
        index = task.index = task.seq
        self._waiting[index] = future
        self._outbox.append(task)
        future.add_done_callback(lambda done: self._drop(index) if done.cancelled() else None)
        self._flush_soon()
        return future

    def _drop(self, index: int) -> None:
        if self._waiting.pop(index, None) is not None:
            self._dropped.append(index)
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        tasks, dropped = self._outbox, self._dropped
        self._outbox, self._dropped = [], []
        try:
            if tasks:
                self._inbox.queue(self, tasks)
            if dropped:
                self._inbox.drop(self, dropped)
        except Exception as error:  # the pool was closed meanwhile
            for task in tasks:
                self._settle(task.index, error)

    def _settle(self, index: int, result: Outcome | Exception) -> None:
        future = self._waiting.pop(index, None)
        if future is None or future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    def _look(self) -> None:
        """Set the futures of what arrived."""
        self._is_told = False  # first: what arrives from now on tells again
        for _ in range(_MOST_AT_ONCE):
            try:
                index, outcome = self._arrived.popleft()
            except IndexError:
                break
            self._settle(index, outcome)
        else:
            self._tell()
            return
        if self._failure is not None:
            for index in list(self._waiting):
                self._settle(index, self._failure)

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._look)

    # --- the supervisor's side

    def deliver(self, indexes: list[int], outcomes: list[Outcome], bytes_in: int, bytes_out: int = 0) -> None:
        """Outcomes by task number."""
        self._arrived.extend(zip(indexes, outcomes))
        self._tell()

    def announce(self, error: Exception) -> None:
        """The pool is about to be gone. Who waits still gets an outcome."""

    def fail(self, error: Exception) -> None:
        """The pool is gone: nobody may be left waiting, not even for a job that was handed in at the last moment."""
        self._failure = error
        self._is_told = False
        self._tell()
