"""Deaths of workers.

A death is judged once, when all of it is known: the pipe is read to its end first, so that results of a worker that said
goodbye, or was killed right after a job, still count; then the progress page, which cannot change any more, names the job
that ran, and holds the last lines that it logged; then the exit status says whether a job is to blame. See
`verdicts.verdict_on_death`.
"""

from __future__ import annotations

from dataclasses import replace

from guardpool.errors import HostError, PoolBroken
from guardpool.outcomes import LogLine, Outcome
from guardpool.printable import printable_end
from guardpool.protocol import log_tail
from guardpool.protocol.progress_page import SEQ
from guardpool.supervise.endings import Endings
from guardpool.supervise.exchange import Exchange
from guardpool.supervise.machine import WorkerEnd
from guardpool.supervise.respawn import SHORTAGE_PATIENCE_S
from guardpool.supervise.results import held_bytes, with_backend_errors
from guardpool.supervise.scheduler import Task, Verdict
from guardpool.supervise.state import PoolState
from guardpool.supervise.verdicts import Death, Ending, describe, outcome_of_verdict, verdict_on_death
from guardpool.supervise.worker_handle import State, WorkerHandle

# How long a killed process may take to die: the kernel frees its memory first.
DEATH_PATIENCE_S = 10.0
# More are not remembered: a forkserver that was taken over may reap none.
_MAX_UNREAPED = 64


class Deaths:
    """Judges deaths, and decides when the pool gives up.

    Args:
        state: the pool's.
        exchange: reads what dead workers left.
        endings: for workers that flood their standard error.
    """

    def __init__(self, state: PoolState, exchange: Exchange, endings: Endings) -> None:
        self._state = state
        self._exchange = exchange
        self._endings = endings
        self._unreaped: list[WorkerEnd] = []  # of dead workers whose forkserver did not say that it reaped them

    def on_stderr(self, worker: WorkerHandle, _events: int) -> None:
        """A worker wrote to its standard error, or closed it."""
        if not worker.read_stderr():
            self._state.reactor.unwatch(worker.end.stderr_fd)
        elif worker.floods_stderr:
            self._state.reactor.unwatch(worker.end.stderr_fd)
            self._endings.condemn(worker, "a flood on its standard error")

    def on_death(self, worker: WorkerHandle, _events: int) -> None:
        """The kernel says that a worker is dead: read what it left, then judge once its exit status is known."""
        end = worker.end
        if not end.is_dead():
            return  # an event of a descriptor that was closed and whose number is used again
        self._state.reactor.unwatch(end.pidfd, end.results_fd, end.stderr_fd, end.jobs_fd)
        # A frame sent to it now would wait until the judgement and distort it.
        self._state.scheduler.retire(worker.number)
        now = self._state.machine.now()
        worker.died(now)
        self._exchange.on_last_frames(worker)
        worker.read_last_stderr()
        if worker.is_status_told or worker.orphaned:
            self.conclude(worker, now)

    def on_exit_status(self, number: int, status: int | None) -> None:
        """Note how a worker ended, as the forkserver says, and judge its death if that was all that was missing."""
        worker = self._state.workers.get(number)
        if worker is not None:
            worker.exited(status)
            if worker.state is State.DEAD:
                self.conclude(worker, self._state.machine.now())

    def conclude(self, worker: WorkerHandle, now: float) -> None:
        """Whether a job is to blame, what becomes of those it held, and when its successor is started."""
        state, scheduler = self._state, self._state.scheduler
        death = self._verdict_on(worker)
        if death.suspects:
            scheduler.suspect(worker.number)
        if worker.orphaned and death.verdict is Verdict.INNOCENT:
            culprit = scheduler.orphan(worker.number, death.running)
            if culprit is not None:
                death = replace(death, running=culprit, verdict=Verdict.ORPHANED)
        ran = None if death.verdict is Verdict.INNOCENT else scheduler.task(worker.number, death.running)
        victims = scheduler.lost(worker.number, death.running, death.verdict)
        logs = [] if ran is None else self._last_lines_of(worker, ran)
        if death.respawn is not None:
            state.counters.respawns[death.respawn] += 1
        status, tail, fault = worker.exit_status, worker.stderr_tail, worker.fault
        if death.verdict is Verdict.CRASH and fault is None and not state.ending:
            state.warn(f"worker {worker.number} (pid {worker.end.pid}) died: {describe(status)}{_quoted(tail)}")
        outcomes = self._outcomes_of(worker, victims, logs)
        self._tell_witness(worker)
        self.bury(worker)
        if outcomes:
            state.respawn.outcome()
            state.counters.statuses([outcome.status.value for outcome in outcomes])
            state.deliver([task for task, _ in victims], outcomes, list(map(held_bytes, outcomes)))
        news = state.respawn.is_news(worker.born_at) or not state.started
        if death.barren and news and state.has_work and not state.ending:
            self.barren(status, tail, now, fault)

    def _tell_witness(self, worker: WorkerHandle) -> None:
        if self._state.witness is not None:
            was_ended = worker.ending is not None and worker.ending.verdict is not None
            self._state.witness.left(worker.number, worker.fault is None and (worker.said_bye or was_ended))

    def _verdict_on(self, worker: WorkerHandle) -> Death:
        scheduler, number, seq = self._state.scheduler, worker.number, worker.page[SEQ]
        return verdict_on_death(
            running=seq if scheduler.holds(number, seq) else None,
            lone=scheduler.lone_suspect(number),
            load=scheduler.load(number),
            ending=worker.ending,
            cause=worker.cause,
            ever_ready=worker.ever_ready,
            said_bye=worker.said_bye,
            orphaned=worker.orphaned,
            exit_status=worker.exit_status,
        )

    def _last_lines_of(self, worker: WorkerHandle, task: Task) -> list[LogLine]:
        """What is left of the log of the job that ran; the log handlers get it, also if the job is tried again."""
        state = self._state
        lines = log_tail.read(worker.page, task.seq, state.limits.max_log_bytes)
        if lines:
            state.machine.notifier.logs(state.names[task.guard], task.job_id, lines)
        return lines

    def _outcomes_of(
        self, worker: WorkerHandle, victims: list[tuple[Task, Verdict]], logs: list[LogLine]
    ) -> list[Outcome]:
        """The outcomes of the jobs that its death finishes; there is at most one."""
        names, limits = self._state.names, self._state.limits
        kept = tuple(logs) if limits.keep_logs else ()
        outcomes = []
        for task, how in victims:
            outcome = outcome_of_verdict(task, how, names[task.guard], worker, limits, logs=kept)
            errors = worker.take_backend_errors(task.seq)
            outcomes.append(with_backend_errors(outcome, errors) if errors else outcome)
        return outcomes

    def barren(self, status: int | None, stderr: str, now: float, fault: str | None = None) -> None:
        """Back off, or give up: a worker's death was barren (see `RespawnPolicy`), or a process could not be started.

        Args:
            status: the exit status; None if it is unknown, or if nothing was started.
            stderr: what it wrote last, or why it could not be started.
            now: the time.
            fault: what it did wrong."""
        state = self._state
        if state.started and state.respawn.barren_death(now):
            return
        what = "no worker could be started"
        if state.started:
            deaths = state.respawn.barren_deaths
            what = f"the pool is broken: {deaths} workers in a row died without finishing a job"
        if status is None and fault is None and stderr:
            message = f"{what}; the last attempt: {printable_end(stderr, 500)}"
        else:
            message = f"{what}; the last one {describe(status)}{f' ({fault})' if fault else ''}{_quoted(stderr)}"
        state.fail(PoolBroken(message, exit_status=status, stderr=stderr))

    def shortage(self, why: str, now: float) -> None:
        """Back off, because a process could not be started for lack of something that the machine may have again later.

        That breaks the pool only if it goes on for `SHORTAGE_PATIENCE_S` while no worker is left.

        Args:
            why: what is lacking, printable.
            now: the time.
        """
        state = self._state
        if not state.started:
            state.fail(HostError(f"no worker could be started: {why}"))
            return
        is_news = not state.respawn.is_short
        lasted_s = state.respawn.shortage(now)
        if is_news:
            state.warn(f"no worker can be started now, and it is tried again: {why}")
        elif lasted_s >= SHORTAGE_PATIENCE_S and not any(w.state is State.READY for w in state.workers.values()):
            state.fail(PoolBroken(f"the pool is broken: for {lasted_s:.0f} s no worker could be started: {why}"))

    def on_orphaned(self, worker: WorkerHandle, now: float) -> None:
        """The worker's forkserver died, and the kernel kills the worker with it: the job that ran is not to blame."""
        worker.loses_forkserver()
        if not worker.is_forked:
            self.bury(worker)
        elif worker.state is State.DEAD:
            self.conclude(worker, now)
        else:
            self._endings.kill(worker, Ending.orphaned())

    def bury(self, worker: WorkerHandle) -> None:
        """Forget a worker, and close what was open for it."""
        end = worker.end
        self._state.reactor.unwatch(end.pidfd, end.results_fd, end.stderr_fd, end.jobs_fd)
        self._state.workers.pop(worker.number, None)
        if worker.is_forked and not worker.is_status_told and not end.reap() and not worker.orphaned:
            end.close_all_but_pidfd()
            self._unreaped.append(end)
            if len(self._unreaped) > _MAX_UNREAPED:
                self._unreaped.pop(0).close()
            return
        worker.close()

    def reap_orphans(self) -> None:
        """The forkserver is dead: what it did not reap may be ours to reap now."""
        for end in self._unreaped:
            end.reap()
            end.close()
        self._unreaped.clear()

    def kill_all(self) -> None:
        """End every worker now. `bury_all` waits until they are dead."""
        for worker in self._state.workers.values():
            self._endings.kill(worker, Ending.not_needed())

    def bury_all(self) -> None:
        """Take what killed workers left, and forget them."""
        for worker in list(self._state.workers.values()):
            if worker.is_forked:
                worker.end.is_dead(DEATH_PATIENCE_S)
                self._exchange.on_last_frames(worker)
            self._state.scheduler.lost(worker.number, None, Verdict.INNOCENT)
            self._tell_witness(worker)
            self.bury(worker)
        self.reap_orphans()


def _quoted(stderr: str) -> str:
    return f"; its standard error ends: {printable_end(stderr, 500)}" if stderr else ""
