"""What the parts of the supervisor share. Everything here belongs to the supervisor's thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from guardpool.errors import GuardPoolError, PoolClosed
from guardpool.guard import Backend
from guardpool.labels import AgentLabels
from guardpool.limits import Limits
from guardpool.outcomes import Outcome, OutcomeError, Status
from guardpool.stats import Counters
from guardpool.supervise.notifier import Notifier
from guardpool.supervise.reactor import Reactor
from guardpool.supervise.scheduler import MAX_FRAME_JOBS, Scheduler, Task
from guardpool.supervise.worker_handle import WorkerHandle


class Core:
    """The state of a pool: its queue, its workers, its counters, and whether it goes on.

    Args:
        names: the guards' names, in order.
        backends: each guard's backend, or None.
        limits: the pool's limits.
        reactor: the loop's descriptors.
    """

    def __init__(
        self, names: Sequence[str], backends: Sequence[Backend | None], limits: Limits, reactor: Reactor
    ) -> None:
        self.names = list(names)
        self.backends = list(backends)
        self.limits = limits
        self.reactor = reactor
        most = MAX_FRAME_JOBS if limits.max_jobs_per_worker is None else min(MAX_FRAME_JOBS, limits.max_jobs_per_worker)
        self.scheduler = Scheduler(len(self.names), limits.max_attempts, most)
        self.notifier = Notifier()
        self.counters = Counters()
        self.workers: dict[int, WorkerHandle] = {}
        self.agents: list[AgentLabels] | None = None
        self.agent_answers: list[bytes] = []  # the same as the first worker sent it
        self.sandbox: dict[str, str] = {}
        self.started = False
        self.closing_at: float | None = None  # `inf` for a close without a time limit
        self.ending = False
        self.failure: GuardPoolError | None = None

    @property
    def has_work(self) -> bool:
        """Workers are wanted: for jobs that come, or, once the pool closes, for those that are left."""
        return self.closing_at is None or self.scheduler.queued > 0 or self.scheduler.in_flight > 0

    def warn(self, text: str) -> None:
        """Log a warning; the handlers run on the notifier's thread, because they are the caller's code."""
        self.notifier.own(logging.WARNING, text)

    def fail(self, error: GuardPoolError) -> None:
        """The pool cannot go on: the loop ends after this round. The first reason counts."""
        if self.failure is None:
            self.failure = error
        self.ending = True

    def deliver(self, tasks: Sequence[Task], outcomes: Sequence[Outcome], label_bytes: int = 0) -> None:
        """Hand the tasks' outcomes to their owners, run by run; `label_bytes` is what their labels take in all."""
        if not tasks:
            return
        owners = [task.owner for task in tasks]
        starts = [0]
        if owners.count(owners[0]) < len(owners):  # seldom: a frame of jobs has one owner, and so have its results
            starts += [at for at in range(1, len(owners)) if owners[at] is not owners[at - 1]]
        for start, end in zip(starts, [*starts[1:], len(owners)]):
            self._hand_over(owners[start], tasks[start:end], outcomes[start:end], label_bytes)
            label_bytes = 0

    def cancel(self, tasks: Sequence[Task], why: str, code: str = "cancelled") -> None:
        """Give tasks that are in nobody's hands a `cancelled` outcome."""
        error = OutcomeError(code, why)
        self.counters.statuses([Status.CANCELLED.value] * len(tasks))
        self.deliver(
            tasks,
            [
                Outcome(
                    task.job_id, self.names[task.guard], task.op, Status.CANCELLED, error=error, attempts=task.deaths
                )
                for task in tasks
            ],
        )

    def turn_away(self, owners: Sequence[Any]) -> None:
        """No worker will ever come: whoever waits gets the outcomes of what is queued, and is told why."""
        reason = self.failure or PoolClosed("the pool is closed")
        for owner in owners:  # before the outcomes: who has taken the last one must find the reason there
            owner.announce(reason)
        if self.failure is not None:
            self.cancel(self.scheduler.cancel_all(), str(self.failure), "pool_broken")
        else:
            self.cancel(self.scheduler.cancel_all(), "the pool was closed first")
        for owner in owners:
            owner.fail(reason)

    def _hand_over(self, owner: Any, tasks: Sequence[Task], outcomes: Sequence[Outcome], label_bytes: int) -> None:
        bytes_in = sum([len(task.payload) for task in tasks])
        pause_from = owner.deliver([task.index for task in tasks], outcomes, bytes_in, label_bytes)
        if pause_from is not None:
            self.scheduler.pause(owner, pause_from)
