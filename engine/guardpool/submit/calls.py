"""Single jobs: futures, and callers that wait."""

from __future__ import annotations

import os
import threading
import weakref
from concurrent.futures import Future

from guardpool.outcomes import Outcome
from guardpool.submit.future import OutcomeFuture
from guardpool.submit.intake import AnyJob, Intake
from guardpool.supervise.inbox import Inbox
from guardpool.supervise.notifier import Notifier


class _Waiter:
    """A thread that waits for one outcome; a lock is the cheapest thing to wait on."""

    __slots__ = ("failure", "lock", "outcome")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.outcome: Outcome | None = None
        self.failure: Exception | None = None


_all_calls: weakref.WeakSet[Calls] = weakref.WeakSet()


def _abandon_all() -> None:
    for calls in list(_all_calls):
        calls.abandon()


os.register_at_fork(after_in_child=_abandon_all)


class Calls:
    """The owner of all jobs that are not part of a stream."""

    def __init__(self, inbox: Inbox, intake: Intake, notifier: Notifier) -> None:
        self._inbox = inbox
        self._intake = intake
        self._notifier = notifier
        self._waiting: dict[int, OutcomeFuture | _Waiter] = {}
        _all_calls.add(self)

    def abandon(self) -> None:
        """In a fork: no outcome will come."""
        for waiting in list(self._waiting.values()):
            if isinstance(waiting, OutcomeFuture):
                waiting.abandon()

    def submit(self, job: AnyJob) -> Future[Outcome]:
        """Queue a job; its future gets the outcome, whatever that is."""
        self._inbox.check_open()
        future = OutcomeFuture(self._notifier.callback)
        task = self._intake.task_of(job, self, 0)
        if isinstance(task, Outcome):
            future.set_result(task)
            return future
        task.index = task.seq
        self._waiting[task.seq] = future
        try:
            self._inbox.queue(self, [task])
        except BaseException:
            self._waiting.pop(task.seq, None)
            raise
        return future

    def call(self, job: AnyJob) -> Outcome:
        """Queue a job and wait for its outcome.

        Blocks until the job has one: at most `timeout_s` for each attempt, from the moment a worker begins it. A worker's
        death is handled as for any job. An exception of a signal handler leaves the job to run; its outcome is dropped.
        """
        self._inbox.check_open()
        task = self._intake.task_of(job, self, 0)
        if isinstance(task, Outcome):
            return task
        task.index = task.seq
        waiter = self._waiting[task.seq] = _Waiter()
        try:
            self._inbox.queue(self, [task])
            waiter.lock.acquire()
        except BaseException:
            self._waiting.pop(task.seq, None)
            raise
        if waiter.outcome is None:
            assert waiter.failure is not None
            raise waiter.failure
        return waiter.outcome

    def deliver(self, indexes: list[int], outcomes: list[Outcome], bytes_in: int, bytes_out: int = 0) -> None:
        """Outcomes by task number; the supervisor's side."""
        for index, outcome in zip(indexes, outcomes):
            waiting = self._waiting.get(index)
            if isinstance(waiting, _Waiter):
                waiting.outcome = outcome
                waiting.lock.release()
            elif waiting is not None:
                waiting.settle(outcome)
            self._waiting.pop(index, None)  # not before: a fork abandons those that are here

    def announce(self, error: Exception) -> None:
        """The pool is about to be gone. Callers that wait still get an outcome."""

    def fail(self, error: Exception) -> None:
        """The pool is gone: no caller may be left waiting, not even one whose job was handed in at the last moment."""
        while self._waiting:
            _, waiting = self._waiting.popitem()
            if isinstance(waiting, _Waiter):
                waiting.failure = error
                waiting.lock.release()
            else:
                waiting.settle(error)
