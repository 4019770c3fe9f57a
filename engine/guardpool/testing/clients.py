"""The callers of a simulated pool: streams with producers and consumers of every temper, and single calls."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from guardpool.errors import PoolBroken, PoolClosed
from guardpool.jobs import Job
from guardpool.outcomes import Outcome
from guardpool.submit.calls import Calls
from guardpool.submit.intake import Intake
from guardpool.submit.stream import Ahead, JobStream
from guardpool.supervise.inbox import Inbox
from guardpool.supervise.owner import Owner
from guardpool.supervise.scheduler import Task
from guardpool.supervise.supervisor import Supervisor
from guardpool.testing.oracle import Oracle
from guardpool.testing.plan import Nature, StreamPlan
from guardpool.testing.processes import MAX_INPUT_BYTES
from guardpool.testing.world import World, Wrong


def job_of(name: str, nature: Nature, number: int) -> Job:
    """The job as its caller writes it."""
    guard = "unknown" if nature.kind == "rejected" else "guard"
    op = "label_response" if number % 4 == 3 else "label_resource"
    # Made of the job's own name, so that every part of a large payload tells whose it is.
    pad = "x" * nature.label_bytes + f"{name} " * (nature.pad_bytes // (len(name) + 1))
    return Job(name, op, name, {"pad": pad}, None, guard=guard, session=nature.session)


class Pool:
    """A simulated pool, as callers see it."""

    def __init__(self, world: World, supervisor: Supervisor, oracle: Oracle) -> None:
        self.world = world
        self.supervisor = supervisor
        self.oracle = oracle
        self.inbox = _Inbox(supervisor, oracle)
        self.intake = Intake(["guard"], MAX_INPUT_BYTES)

    @property
    def is_closing(self) -> bool:
        """Whether it takes no more jobs."""
        state = self.supervisor.state
        return self.supervisor.over or state.closing_at is not None or state.ending


class _Inbox(Inbox):
    """The real inbox, whose tasks the oracle counts."""

    def __init__(self, supervisor: Supervisor, oracle: Oracle) -> None:
        reactor = supervisor.reactor
        super().__init__(supervisor.check_open, reactor.post, reactor.post_lazily)
        self._oracle = oracle

    def queue(self, owner: Owner, tasks: list[Task], taken: Callable[[], None] | None = None) -> None:
        self.check_open()
        self._oracle.queues(tasks)
        super().queue(owner, tasks, taken)


class _Stream(JobStream):
    """The real stream, which tells its client when something came."""

    client: StreamClient

    def deliver(self, indexes: list[int], outcomes: list[Outcome], bytes_in: int, bytes_out: int = 0) -> int | None:
        self.client.pool.oracle.delivers(outcomes)
        pause_from = super().deliver(indexes, outcomes, bytes_in, bytes_out)
        self.client.wake()
        return pause_from

    def fail(self, error: Exception) -> None:
        super().fail(error)
        self.client.wake()


class StreamClient:
    """Puts the jobs of one stream and takes its outcomes."""

    def __init__(self, prefix: str, plan: StreamPlan, pool: Pool) -> None:
        self.pool = pool
        self._finished = not plan.natures
        self._prefix = prefix
        self._plan = plan
        world = self._world = pool.world
        self._oracle = pool.oracle
        self._stream = _Stream(
            pool.inbox,
            pool.intake,
            ordered=plan.ordered,
            window_jobs=plan.window_jobs,
            window_bytes=plan.window_bytes,
            ahead=Ahead(plan.window_bytes // 4, 2),
        )
        self._stream.client = self
        self._put = 0
        self._taken: list[str] = []
        self._more = True
        self._cancelled = self._left = self._asleep = False
        self._woken = False
        self._producing = True
        world.soon(self._produce)
        if plan.cancel_at_s is not None:
            world.at(plan.cancel_at_s, self._cancel)
        if plan.leave_at_s is not None:
            world.at(plan.leave_at_s, self._leave)
        if plan.sleep_at_s is not None:
            world.at(plan.sleep_at_s, self._sleep)

    @property
    def finished(self) -> bool:
        """Whether it has every outcome that it will get, or takes no more of them until the pool is closed."""
        return self._finished or (self._asleep and not self.pool.supervisor.over)

    def wake(self) -> None:
        """Outcomes came, or the end."""
        if not self._woken:
            self._woken = True
            lag_s = self._plan.consumer_lag_s
            self._world.at(lag_s * self._world.rng.uniform(0.1, 2.0), self._consume)

    def check_end(self) -> None:
        """Check after the run that no outcome is missing."""
        if not self._left and len(self._taken) != self._put:
            raise Wrong(f"stream {self._prefix}: {self._put} jobs, {len(self._taken)} outcomes")

    def _produce(self) -> None:
        self._producing = False
        natures, stream = self._plan.natures, self._stream
        if not self._more:
            return
        if stream.room > 0 and self._put < len(natures):
            count = self._world.rng.randint(1, self._plan.portion)
            jobs = [
                job_of(f"{self._prefix}{number}", nature, number)
                for number, nature in enumerate(natures[self._put : self._put + count], self._put)
            ]
            try:
                stream.send(*self.pool.intake.tasks_of(jobs, stream, self._put))
            except (PoolClosed, PoolBroken) as error:
                self._oracle.expect(self._cancelled or self.pool.is_closing, f"stream {self._prefix}: {error}")
                self._more = False
            else:
                self._put += len(jobs)
            most = self._plan.window_jobs + self._plan.portion
            waiting = self._put - len(self._taken)
            self._oracle.expect(waiting <= most, f"{waiting} jobs in a window of {self._plan.window_jobs}")
        if self._more and self._put == len(natures):
            stream.finish()
            self._more = False
        if not self._more:
            self.wake()
        elif stream.room > 0:
            self._produce_soon()

    def _produce_soon(self) -> None:
        if not self._producing:
            self._producing = True
            self._world.soon(self._produce)

    def _consume(self) -> None:
        self._woken = False
        if self._finished or (self._asleep and not self.pool.supervisor.over):
            return
        try:
            outcomes = self._stream.take(0.0)
        except (PoolBroken, PoolClosed) as error:
            self._oracle.expect(self.pool.supervisor.over, f"stream {self._prefix}: {error}")
            self._finished = True
            self._more = False
            return
        for outcome in outcomes:
            self._oracle.check_outcome(outcome, self._may_be_cancelled())
            if self._plan.ordered:
                right = f"{self._prefix}{len(self._taken)}"
                self._oracle.expect(outcome.id == right, f"{outcome.id} came where {right} was due")
            self._taken.append(outcome.id)
        self._world.note("took", self._prefix, len(outcomes))
        if len(set(self._taken)) != len(self._taken):
            raise Wrong(f"stream {self._prefix}: a job has two outcomes")
        self._finished = not self._more and len(self._taken) == self._put
        if self._more:
            self._produce_soon()
        if outcomes and self._stream.ready:
            self.wake()

    def _may_be_cancelled(self) -> bool:
        return self._cancelled or self._oracle.may_cancel

    def _cancel(self) -> None:
        if not self._finished:
            self._world.note("cancel", self._prefix)
            self._cancelled = True
            self._more = False
            self._stream.cancel()
            self.wake()

    def _leave(self) -> None:
        if not self._finished:
            self._world.note("leave", self._prefix)
            self._cancelled = self._left = self._finished = True
            self._more = False
            self._stream.close()

    def _sleep(self) -> None:
        self._world.note("sleep", self._prefix)
        self._asleep = True


class CallClient:
    """Submits single jobs, one after the other, without waiting."""

    def __init__(self, natures: tuple[Nature, ...], pool: Pool) -> None:
        self._natures = natures
        world = self._world = pool.world
        self._pool = pool
        self._oracle = pool.oracle
        self._calls = _Calls(pool.inbox, pool.intake, pool.supervisor.state.machine.notifier)
        self._calls.oracle = pool.oracle
        self._submitted = 0
        self._done: list[str] = []
        self._stopped = False
        world.soon(self._submit)

    @property
    def finished(self) -> bool:
        """Whether it has every outcome that it will get."""
        return len(self._done) == self._submitted and (self._stopped or self._submitted == len(self._natures))

    def check_end(self) -> None:
        """Check after the run that no outcome is missing and none came twice."""
        if not self.finished or len(set(self._done)) != len(self._done):
            raise Wrong(f"calls: {self._submitted} submitted, {len(self._done)} outcomes")

    def _submit(self) -> None:
        if self._submitted == len(self._natures):
            return
        nature = self._natures[self._submitted]
        try:
            future = self._calls.submit(job_of(f"c{self._submitted}", nature, self._submitted))
        except (PoolClosed, PoolBroken) as error:
            self._oracle.expect(self._pool.is_closing, f"call: {error}")
            self._stopped = True
            return
        self._submitted += 1
        future.add_done_callback(self._on_done)
        self._world.at(self._world.rng.random() * 2e-3, self._submit)

    def _on_done(self, future: Future[Outcome]) -> None:
        # What is raised in a callback is swallowed there.
        self._world.at(0.0, self._take, future.result(), self._oracle.may_cancel)

    def _take(self, outcome: Outcome, may_be_cancelled: bool) -> None:
        self._oracle.check_outcome(outcome, may_be_cancelled)
        self._done.append(outcome.id)


class _Calls(Calls):
    """The real calls, whose outcomes the oracle counts."""

    oracle: Oracle

    def deliver(self, indexes: list[int], outcomes: list[Outcome], bytes_in: int, bytes_out: int = 0) -> None:
        self.oracle.delivers(outcomes)
        super().deliver(indexes, outcomes, bytes_in, bytes_out)
