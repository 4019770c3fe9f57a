"""The workers' births and deaths, and the forkserver behind them.

A death is judged once, when all of it is known: the pipe is read to its end first, so that results of a worker that said
goodbye, or was killed right after a job, still count; then the progress page, which cannot change any more, names the job
that ran; then the exit status says whether anybody is to blame. See `judgement.judge_death`.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

from guardpool.errors import HostError, PoolBroken
from guardpool.outcomes import LogLine, Outcome
from guardpool.printable import printable, printable_end
from guardpool.protocol import control, wire
from guardpool.protocol.progress_page import SEQ
from guardpool.supervise.forkserver_client import ForkserverClient
from guardpool.supervise.hello import Greetings
from guardpool.supervise.reactor import is_readable
from guardpool.supervise.respawn import RespawnPolicy
from guardpool.supervise.scheduler import Task, Verdict
from guardpool.supervise.state import Core
from guardpool.supervise.verdicts import Death, describe, judge_death, outcome_of_verdict, with_backend_errors
from guardpool.supervise.worker_handle import MAX_LAST_STDERR_READS, State, WorkerHandle

if TYPE_CHECKING:
    from guardpool.supervise.exchange import Traffic

# From the request to the forkserver's answer, its own start with very large artifacts included.
_FORKSERVER_PATIENCE_S = 30.0
# How long a killed process may take to die: the kernel frees its memory first.
DEATH_PATIENCE_S = 10.0
# A forkserver that floods must not keep the loop from everything else.
_MESSAGES_AT_ONCE = 256
_JITTER = 0.1


class Crew:
    """Keeps as many workers as wanted.

    Args:
        core: the pool's state.
        setup_fd: memfd with what workers need.
        target: how many workers.
    """

    def __init__(self, core: Core, setup_fd: int, target: int) -> None:
        self._core = core
        self._setup_fd = setup_fd
        self._target = target
        self._forkserver: ForkserverClient | None = None
        self._respawn = RespawnPolicy()
        self._spawn_at = 0.0
        self._barren_at = 0.0
        self._next_number = 1
        self._succession: tuple[int, int] | None = None  # worker to be recycled, its successor (0: not forked yet)
        self._random = random.Random()
        self._greetings = Greetings(core)
        self.traffic: Traffic  # set by the supervisor: each needs the other

    def outcome(self) -> None:
        """A job got its outcome: whatever killed workers before is over."""
        self._respawn.outcome()

    # --- the forkserver

    def keep_forkserver(self, now: float) -> float:
        """Start it where it is missing and needed, end it where it is deaf; returns when to look again."""
        server = self._forkserver
        if server is None:
            if not self._wanted():
                return float("inf")
            if now < self._spawn_at:
                return self._spawn_at
            try:
                server = self._forkserver = ForkserverClient(self._setup_fd)
            except HostError as error:
                self._barren(None, str(error), now)
                return max(now, self._spawn_at)
            reactor = self._core.reactor
            reactor.watch(server.sock.fileno(), self._on_forkserver, server)
            reactor.watch(server.pidfd, self._on_forkserver_death, server)
            reactor.watch(server.stderr_fd, self._on_forkserver_stderr, server)
        oldest = min((w.born_at for w in self._core.workers.values() if w.pidfd < 0), default=None)
        if oldest is None:
            return float("inf")
        if now < oldest + _FORKSERVER_PATIENCE_S:
            return oldest + _FORKSERVER_PATIENCE_S
        self._core.warn(f"the forkserver (pid {server.pid}) does not answer: killing it")
        server.kill()
        return now + DEATH_PATIENCE_S

    def _on_forkserver_stderr(self, server: ForkserverClient, _events: int) -> None:
        if not server.read_stderr():
            self._core.reactor.unwatch(server.stderr_fd)

    def _on_forkserver(self, server: ForkserverClient, _events: int) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            received = server.receive()
            if received is None:
                return
            message, fds = received
            if isinstance(message, control.Forked):
                self._on_forked(server, message, fds)
                continue
            for fd in fds:  # no other message comes with any
                os.close(fd)
            if message is None:
                self._core.reactor.unwatch(server.sock.fileno())
                server.kill()
                return
            if isinstance(message, control.Up):
                if message.failure is not None:
                    self._core.fail(HostError(f"the forkserver cannot start: {printable(message.failure, 500)}"))
            else:
                worker = self._core.workers.get(message.worker)
                if worker is not None:
                    worker.exit_status = message.status
                    if worker.state is State.DEAD:
                        self.judge(worker, time.monotonic())

    def _on_forkserver_death(self, server: ForkserverClient, _events: int) -> None:
        now = time.monotonic()
        self._core.reactor.unwatch(server.pidfd, server.sock.fileno(), server.stderr_fd)
        self._forkserver = None
        status = server.close()
        self._core.counters.forkserver_restarts += 1
        # The kernel kills its workers with it. Whatever ran there is not to blame.
        for worker in list(self._core.workers.values()):
            worker.orphaned = True
            if worker.pidfd < 0:
                self._bury(worker)
            elif worker.state is State.DEAD:
                self.judge(worker, now)
            elif worker.verdict is None:
                worker.verdict, worker.cause = Verdict.INNOCENT, worker.cause or "crash"
                self.end(worker, now)
        if not server.useful:
            self._barren(status, server.stderr_tail, now)
        elif not self._core.ending:
            self._core.warn(f"the forkserver (pid {server.pid}) died ({describe(status)}): starting a new one")

    # --- births

    def keep_workers(self, now: float) -> float:
        """Ask for the workers that are missing; returns when to look again."""
        self._plan_succession()
        missing = self._wanted()
        if missing and now < self._spawn_at:
            return self._spawn_at
        if self._forkserver is not None:
            for _ in range(missing):
                if not self._ask_for_worker(self._forkserver, now):
                    # Where it is the forkserver that is gone, its death is the next thing to hear of.
                    return self._spawn_at if self._spawn_at >= now else float("inf")
        return float("inf")

    def _wanted(self) -> int:
        workers = self._core.workers
        alive = sum(worker.alive for worker in workers.values())
        extra = 0
        if self._succession is not None:
            old = workers.get(self._succession[0])
            extra = 1 if old is not None and old.state is State.READY else 0
        return max(0, self._target + extra - alive)

    def _ask_for_worker(self, server: ForkserverClient, now: float) -> bool:
        try:
            worker = WorkerHandle(self._next_number, now)
        except OSError as error:  # out of descriptors or memory; that may pass
            self._barren(None, f"pipes for a worker cannot be made: {error.strerror}", now)
            return False
        self._next_number += 1
        try:
            server.fork(worker.number, worker.child_fds)
        except OSError:
            worker.close()
            server.kill()  # gone or deaf; its death brings a new one
            return False
        worker.close_child_fds()
        most = self._core.limits.max_jobs_per_worker
        if most is not None:
            worker.recycle_after = max(1, round(most * (1 + self._random.uniform(-_JITTER, _JITTER))))
        self._core.workers[worker.number] = worker
        if self._succession is not None and self._succession[1] == 0:
            self._succession = (self._succession[0], worker.number)
        return True

    def _plan_succession(self) -> None:
        """One worker at a time is replaced, and it goes only when its successor is ready."""
        workers = self._core.workers
        if self._succession is not None:
            old, new = self._succession
            if old in workers and (new == 0 or new in workers):
                return
            self._succession = None
        due = next((w.number for w in workers.values() if w.recycle_due and w.state is State.READY), None)
        if due is not None:
            self._succession = (due, 0)

    def _on_forked(self, server: ForkserverClient, message: control.Forked, fds: list[int]) -> None:
        now = time.monotonic()
        worker = self._core.workers.get(message.worker)
        if worker is None or worker.pidfd >= 0 or len(fds) != (0 if message.failure else 1):
            for fd in fds:
                os.close(fd)
            return
        if message.failure is not None:
            self._bury(worker)
            self._barren(None, printable(message.failure, 300), now)
            return
        if not server.is_child(fds[0], message.pid):
            os.close(fds[0])
            self._core.warn(f"the forkserver (pid {server.pid}) calls a process its worker that is none: killing it")
            server.kill()
            return
        worker.pid, worker.pidfd = message.pid, fds[0]
        reactor = self._core.reactor
        reactor.watch(worker.pidfd, self._on_death, worker)
        reactor.watch(worker.results_fd, self.traffic.on_readable, worker)
        reactor.watch(worker.stderr_fd, self._on_stderr, worker)
        doomed, worker.state = worker.state is State.DYING, State.STARTING
        if doomed:  # it was to be killed before it was there
            worker.kill(now)

    def on_hello(self, worker: WorkerHandle, hello: wire.Hello) -> None:
        """A worker is ready, or says why not. Raises ProtocolError where it makes no sense."""
        core, now = self._core, time.monotonic()
        if worker.kill_sent_at and not worker.ready_at:
            return
        stillborn = worker.state is State.DEAD and not worker.ready_at
        if not (worker.state is State.STARTING or stillborn) or hello.protocol != wire.PROTOCOL:
            raise wire.ProtocolError(f"HELLO of protocol {hello.protocol} from a worker that is {worker.state.value}")
        for line in hello.logs:
            if 0 <= line.guard < len(core.names) and self._greetings.is_news(line):
                core.notifier.logs(core.names[line.guard], None, [LogLine(line.level, line.text)])
        problem = self._greetings.problem_of(hello)
        if core.started and problem is not None:
            self.refuse(worker, str(problem))  # perhaps the next one fares better
            return
        if stillborn and problem is None:
            return
        worker.rss_bytes = worker.baseline_rss_bytes = worker.look_at_rss()
        problem = problem or self._greetings.problem_of_baseline(worker.baseline_rss_bytes)
        if problem is not None:
            core.fail(problem)
            return
        if self._forkserver is not None:
            self._forkserver.useful = True
        if not core.started:
            core.sandbox = {printable(name, 40): printable(state) for name, state in hello.sandbox.items()}
        worker.state, worker.ready_at, worker.active_at = State.READY, now, now
        worker.note_seq(0, now)  # until now it was a guard's number, and jobs count from 1, too
        core.scheduler.join(worker.number)
        if self._succession is not None and self._succession[1] == worker.number:
            old = core.workers.get(self._succession[0])
            self._succession = None
            if old is not None and old.state is State.READY:
                self.dismiss(old, "recycle")
        if not core.started:
            core.started = sum(w.state is State.READY for w in core.workers.values()) >= self._target

    def refuse(self, worker: WorkerHandle, why: str) -> None:
        """A worker that is not ready and will not be: end it, with nothing to show for it."""
        worker.fault = printable(why, 1000)
        self._core.warn(f"worker {worker.number} (pid {worker.pid}) is of no use: {worker.fault}; killed")
        self.end(worker, time.monotonic())

    # --- departures

    def dismiss(self, worker: WorkerHandle, cause: str | None) -> None:
        """Let it finish what it has and go."""
        self._core.scheduler.retire(worker.number)
        worker.state, worker.cause, worker.active_at = State.LEAVING, cause, time.monotonic()
        self.traffic.send(worker, wire.Drain())

    def on_broken_instance(self, worker: WorkerHandle, cause: str) -> None:
        """An instance is dead and the worker goes by itself; its successor need not wait for that."""
        worker.broken = True
        self._core.scheduler.retire(worker.number)
        if worker.state is State.READY:
            worker.state, worker.cause = State.LEAVING, cause

    def end(self, worker: WorkerHandle, now: float) -> None:
        """SIGKILL; `verdict`, `victim` and `cause` are set by who calls."""
        self._core.scheduler.retire(worker.number)
        worker.kill(now)

    def send_home(self, now: float) -> bool:
        """Nothing is left to do: let everybody go; True when nobody is left."""
        for worker in list(self._core.workers.values()):
            if worker.state is State.READY:
                self.dismiss(worker, None)
            elif worker.state in (State.FORKING, State.STARTING):
                worker.verdict = Verdict.INNOCENT
                worker.kill(now)
        return not any(worker.pidfd >= 0 for worker in self._core.workers.values())

    def kill_all(self) -> None:
        """End everything now and wait until it is dead."""
        now = time.monotonic()
        for worker in self._core.workers.values():
            worker.kill(now)
        server, self._forkserver = self._forkserver, None
        if server is not None:
            self._core.reactor.unwatch(server.sock.fileno(), server.pidfd, server.stderr_fd)
            server.close()
        for worker in list(self._core.workers.values()):
            if worker.pidfd >= 0:
                is_readable(worker.pidfd, DEATH_PATIENCE_S)
                self.traffic.on_last_frames(worker)
            self._core.scheduler.lost(worker.number, None, Verdict.INNOCENT)
            self._bury(worker)

    # --- deaths

    def _on_stderr(self, worker: WorkerHandle, _events: int) -> None:
        if not worker.read_stderr():
            self._core.reactor.unwatch(worker.stderr_fd)
        elif worker.floods_stderr:
            self._core.reactor.unwatch(worker.stderr_fd)
            self.traffic.condemn(worker, "a flood on its standard error")

    def _on_death(self, worker: WorkerHandle, _events: int) -> None:
        """The kernel says it is dead: take what it left, then judge once its exit status is here."""
        if not is_readable(worker.pidfd):
            return  # an event of a descriptor that was closed and whose number is used again
        self._core.reactor.unwatch(worker.pidfd, worker.results_fd, worker.stderr_fd, worker.jobs_fd)
        self._core.scheduler.retire(worker.number)  # a frame for it would wait until the judgement, and bear on it
        worker.state, worker.died_at = State.DEAD, time.monotonic()
        self.traffic.on_last_frames(worker)
        # What a pipe holds, and no more: a child that it left behind, where nothing forbade that, could write for ever.
        for _ in range(MAX_LAST_STDERR_READS):
            if not worker.read_stderr() or not is_readable(worker.stderr_fd):
                break
        if worker.exit_status is not None or worker.orphaned:
            self.judge(worker, worker.died_at)

    def judge(self, worker: WorkerHandle, now: float) -> None:
        """Who is to blame, what becomes of its jobs, and when its successor is started."""
        core, scheduler = self._core, self._core.scheduler
        death = self._verdict_on(worker)
        if death.suspects:
            scheduler.suspect(worker.number)
        victims = scheduler.lost(worker.number, death.running, death.verdict)
        if death.respawn is not None:
            core.counters.respawns[death.respawn] += 1
        status, tail, fault = worker.exit_status, worker.stderr_tail, worker.fault
        if death.verdict is Verdict.CRASH and fault is None and not core.ending:
            core.warn(f"worker {worker.number} (pid {worker.pid}) died: {describe(status)}{_quoted(tail)}")
        outcomes = self._outcomes_of(worker, victims)
        self._bury(worker)
        if outcomes:
            self.outcome()
            core.counters.statuses([outcome.status.value for outcome in outcomes])
            core.deliver([task for task, _ in victims], outcomes)
        # Of many that die at once only the first tells something: none of them is the successor of another.
        news = worker.born_at >= self._barren_at or not core.started
        if death.barren and news and core.has_work and not core.ending:
            self._barren(status, tail, now, fault)

    def _verdict_on(self, worker: WorkerHandle) -> Death:
        scheduler, number, seq = self._core.scheduler, worker.number, worker.page[SEQ]
        return judge_death(
            running=seq if scheduler.holds(number, seq) else None,
            lone=scheduler.lone_suspect(number),
            load=scheduler.load(number),
            ended_as=worker.verdict,
            victim=worker.victim,
            cause=worker.cause,
            ever_ready=worker.ready_at > 0,
            said_bye=worker.said_bye,
            orphaned=worker.orphaned,
            exit_status=worker.exit_status,
        )

    def _outcomes_of(self, worker: WorkerHandle, victims: list[tuple[Task, Verdict]]) -> list[Outcome]:
        """What the jobs under which it died get; at most one is finished by that."""
        names, limits = self._core.names, self._core.limits
        outcomes = [outcome_of_verdict(task, how, names[task.guard], worker, limits) for task, how in victims]
        asked = tuple(worker.backend_errors)
        if not asked:
            return outcomes
        seq = worker.backend_use.seq
        return [
            with_backend_errors(outcome, asked) if task.seq == seq else outcome
            for (task, _), outcome in zip(victims, outcomes)
        ]

    def _barren(self, status: int | None, stderr: str, now: float, fault: str | None = None) -> None:
        """Something died with nothing to show for it: back off, or give up."""
        self._barren_at = now
        delay_s = self._respawn.death(barren=True) if self._core.started else None
        if delay_s is not None:
            self._spawn_at = now + delay_s
            return
        what = "no worker could be started"
        if self._core.started:
            what = (
                f"the pool is broken: {self._respawn.barren_deaths} workers in a row died with nothing to show for it"
            )
        message = f"{what}; the last one {describe(status)}{f' ({fault})' if fault else ''}{_quoted(stderr)}"
        self._core.fail(PoolBroken(message, exit_status=status, stderr=stderr))

    def _bury(self, worker: WorkerHandle) -> None:
        self._core.reactor.unwatch(worker.pidfd, worker.results_fd, worker.stderr_fd, worker.jobs_fd)
        self._core.workers.pop(worker.number, None)
        worker.close()


def _quoted(stderr: str) -> str:
    return f"; its standard error ends: {printable_end(stderr, 500)}" if stderr else ""
