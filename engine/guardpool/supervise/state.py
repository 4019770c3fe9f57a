"""What the parts of the supervisor share: the pool's state. All of it belongs to the supervisor's thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from guardpool.errors import GuardPoolError, PoolClosed
from guardpool.labels import AgentLabels
from guardpool.limits import Limits
from guardpool.outcomes import Outcome, OutcomeError, Status
from guardpool.stats import Counters
from guardpool.supervise.frame_budget import MAX_FRAME_JOBS
from guardpool.supervise.machine import Machine, Reactor
from guardpool.supervise.owner import Owner
from guardpool.supervise.reply_memory import ReplyMemory
from guardpool.supervise.respawn import RespawnPolicy
from guardpool.supervise.scheduler import Scheduler, Task
from guardpool.supervise.sources import Source
from guardpool.supervise.witness import Witness
from guardpool.supervise.worker_handle import State, WorkerHandle


class PoolState:
    """The queue of a pool, its workers, its counters, and whether it goes on.

    Args:
        names: the guards' names, in order.
        sources: where each guard's questions are answered, or None, in the order of `names`.
        limits: the pool's limits.
        machine: what it runs on.
        reactor: what its loop waits with.
        wanted: how many workers the pool is to have.
        replies: what backends are known to answer.
        withholds: for each guard, whether its outcomes have no label if a question had no answer.
        witness: is told which worker labelled what.
    """

    def __init__(
        self,
        names: Sequence[str],
        sources: Sequence[Source | None],
        limits: Limits,
        machine: Machine,
        reactor: Reactor,
        wanted: int = 1,
        replies: ReplyMemory | None = None,
        withholds: Sequence[bool] = (),
        witness: Witness | None = None,
    ) -> None:
        self.names = list(names)
        self.sources = list(sources)
        self.replies = replies
        self.withholds = list(withholds) or [False] * len(self.names)
        self.witness = witness
        self.limits = limits
        self.machine = machine
        self.reactor = reactor
        most = MAX_FRAME_JOBS if limits.max_jobs_per_worker is None else min(MAX_FRAME_JOBS, limits.max_jobs_per_worker)
        self.scheduler = Scheduler(len(self.names), limits.max_attempts, most)
        self.respawn = RespawnPolicy()
        self.counters = Counters()
        self.wanted = wanted
        self.workers: dict[int, WorkerHandle] = {}
        self.agents: list[AgentLabels] | None = None
        self.agent_answers: list[bytes] = []  # the bytes of `agents`, as the first worker sent them
        self.sandbox: dict[str, str] = {}
        self.births = 0  # workers that became ready, ever
        self.started = False
        self.closing_at: float | None = None  # `inf` for a close without a time limit
        self.ending = False
        self.failure: GuardPoolError | None = None

    @property
    def shared_bytes(self) -> int:
        """What a worker may have in its resident set beyond its own: the replies, which all workers share."""
        return 0 if self.replies is None else self.replies.written_bytes

    @property
    def has_work(self) -> bool:
        """Whether workers are wanted: for jobs that may come, or, once the pool closes, for those that are left."""
        return self.closing_at is None or self.scheduler.queued > 0 or self.scheduler.in_flight > 0

    def note_birth(self) -> None:
        """A worker became ready. The pool has started once all that are wanted are."""
        self.births += 1
        self.respawn.birth()
        ready = sum(worker.state is State.READY for worker in self.workers.values())
        self.started = self.started or ready >= self.wanted

    def warn(self, text: str) -> None:
        """Log a warning; the handlers run on the notifier's thread, because they are the caller's code."""
        self.machine.notifier.own(logging.WARNING, text)

    def fail(self, error: GuardPoolError) -> None:
        """End the loop after this round, because the pool cannot go on. The first reason counts."""
        if self.failure is None:
            self.failure = error
        self.ending = True

    def close(self, at: float) -> None:
        """Finish what was handed in, until that time at most. If this is called again, the earliest time counts."""
        self.scheduler.drain()
        self.closing_at = at if self.closing_at is None else min(at, self.closing_at)

    def deliver(self, tasks: Sequence[Task], outcomes: list[Outcome], sizes: Sequence[int] = ()) -> None:
        """Hand the tasks' outcomes to their owners, run by run.

        Args:
            sizes: what each outcome holds in bytes; empty if that is next to nothing.
        """
        if not tasks:
            return
        owners = [task.owner for task in tasks]
        starts = [0]
        if owners.count(owners[0]) < len(owners):  # seldom: a frame of jobs has one owner, and so have its results
            starts += [at for at in range(1, len(owners)) if owners[at] is not owners[at - 1]]
        for start, end in zip(starts, [*starts[1:], len(owners)]):
            self._hand_over(owners[start], tasks[start:end], outcomes[start:end], sum(sizes[start:end]))

    def cancel(self, tasks: Sequence[Task], why: str, code: str = "cancelled") -> None:
        """Give tasks that are neither queued nor in flight any more a `cancelled` outcome."""
        error = OutcomeError(code, why)
        self.counters.statuses([Status.CANCELLED.value] * len(tasks))
        self.deliver(
            tasks,
            [
                Outcome(
                    task.job_id,
                    self.names[task.guard],
                    task.op,
                    task.tool_name,
                    Status.CANCELLED,
                    error=error,
                    attempts=task.deaths,
                )
                for task in tasks
            ],
        )

    def turn_away(self, owners: Sequence[Owner]) -> None:
        """Tell every owner that no worker will ever come, and give what it has queued a `cancelled` outcome."""
        reason = self.failure or PoolClosed("the pool is closed")
        for owner in owners:  # before the outcomes: a caller that takes the last one must find the reason there
            owner.announce(reason)
        if self.failure is not None:
            self.cancel(self.scheduler.cancel_all(), str(self.failure), "pool_broken")
        else:
            self.cancel(self.scheduler.cancel_all(), "the pool was closed before it was done")
        for owner in owners:
            owner.fail(reason)

    def _hand_over(self, owner: Owner, tasks: Sequence[Task], outcomes: list[Outcome], bytes_out: int) -> None:
        bytes_in = sum([len(task.payload) for task in tasks])
        pause_from = owner.deliver([task.index for task in tasks], outcomes, bytes_in, bytes_out)
        if pause_from is not None:
            self.scheduler.pause(owner, pause_from)
