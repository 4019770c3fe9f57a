"""Births of workers: as many as are wanted, and the forkserver that they are forked from."""

from __future__ import annotations

import errno
import os

from guardpool.errors import HostError
from guardpool.machine.shortages import explain, is_passing
from guardpool.printable import printable
from guardpool.protocol import control
from guardpool.supervise.clock import NEVER, LookAt
from guardpool.supervise.deaths import DEATH_PATIENCE_S, Deaths
from guardpool.supervise.endings import Endings
from guardpool.supervise.exchange import Exchange
from guardpool.supervise.machine import Forkserver
from guardpool.supervise.state import PoolState
from guardpool.supervise.verdicts import describe
from guardpool.supervise.worker_handle import State, WorkerHandle

# How long a forkserver may take to say that it holds every artifact: some are very large.
FORKSERVER_START_S = 30.0
# From the request to its answer afterwards, which takes it a millisecond; a machine with a hundred busy processes a core may
# take a second.
FORKSERVER_ANSWER_S = 2.0
# A forkserver that floods must not keep the loop from everything else.
_MESSAGES_AT_ONCE = 256
_JITTER = 0.1


class Births:
    """Keeps as many workers as wanted.

    Args:
        state: the pool's.
        exchange, deaths, endings: take over once a worker has been forked.
    """

    def __init__(self, state: PoolState, exchange: Exchange, deaths: Deaths, endings: Endings) -> None:
        self._state = state
        self._exchange = exchange
        self._deaths = deaths
        self._endings = endings
        self._forkserver: Forkserver | None = None
        self._up_at: float | None = None  # when it said that it is ready
        self._births_before = 0  # workers that had become ready when this forkserver was started
        self._next_number = 1

    # --- what became of the births

    def settle(self) -> None:
        """If one worker more than wanted is ready, one that is due may go."""
        workers, wanted = self._state.workers, self._state.wanted
        if len(workers) <= wanted or sum(worker.state is State.READY for worker in workers.values()) <= wanted:
            return
        due = self._due()
        if due is not None:
            self._endings.dismiss(due, "recycle")

    # --- the forkserver

    def keep(self, now: float) -> LookAt:
        """Ask the forkserver for the workers that are missing; start it if it is not running, kill it if it does not answer."""
        if self._state.scheduler.wants_fresh:
            if self._state.respawn.is_short:
                self._state.scheduler.release_fresh()
            else:
                self._make_way_for_a_fresh_worker()
        missing, again = self._wanted(), NEVER
        if missing and now < self._state.respawn.spawn_at:
            again = self._state.respawn.spawn_at
        elif missing:
            server = self._forkserver or self._start_forkserver(now)
            if server is None:
                return max(now, self._state.respawn.spawn_at)
            again = self._ask_for_workers(server, missing, now)
        return min(again, self._check_forkserver(now))

    def _start_forkserver(self, now: float) -> Forkserver | None:
        state = self._state
        try:
            server = state.machine.start_forkserver()
        except (OSError, HostError) as error:
            if isinstance(error, OSError) and is_passing(error):
                self._deaths.shortage(f"the forkserver: {explain(error)}", now)
            else:
                self._deaths.barren(None, f"the forkserver cannot be started: {error}", now)
            return None
        try:
            state.reactor.watch(server.sock_fd, self._on_forkserver, server)
            state.reactor.watch(server.pidfd, self._on_forkserver_death, server)
            state.reactor.watch(server.stderr_fd, self._on_forkserver_stderr, server)
        except OSError as error:
            self._close(server)
            self._deaths.shortage(f"the forkserver: {explain(error)}", now)
            return None
        self._forkserver = server
        self._up_at = None
        self._births_before = state.births
        return server

    def _close(self, server: Forkserver) -> int | None:
        """Forget a forkserver, end it and reap it; returns its exit status if that is known."""
        self._state.reactor.unwatch(server.pidfd, server.sock_fd, server.stderr_fd)
        status = server.close()
        self._deaths.reap_orphans()
        return status

    def _check_forkserver(self, now: float) -> LookAt:
        """Kill the forkserver if it does not answer."""
        server = self._forkserver
        oldest = min((worker.born_at for worker in self._state.workers.values() if not worker.is_forked), default=NEVER)
        if server is None or oldest == NEVER:
            return NEVER
        due = oldest + FORKSERVER_START_S if self._up_at is None else max(oldest, self._up_at) + FORKSERVER_ANSWER_S
        if now < due:
            return due
        self._state.warn(f"the forkserver (pid {server.pid}) does not answer: killing it")
        server.kill()
        return now + DEATH_PATIENCE_S

    def _on_forkserver_stderr(self, server: Forkserver, _events: int) -> None:
        if not server.read_stderr():
            self._state.reactor.unwatch(server.stderr_fd)

    def _on_forkserver(self, server: Forkserver, _events: int) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            received = server.receive()
            if received is None:
                return
            message, fds = received
            if isinstance(message, control.Forked):
                self._on_forked(server, message, fds)
                continue
            for fd in fds:  # no other message comes with any
                self._state.machine.close_fd(fd)
            if message is None:
                self._state.reactor.unwatch(server.sock_fd)
                server.kill()
                return
            if isinstance(message, control.Exited):
                self._deaths.on_exit_status(message.worker, message.status)
            elif message.failure is None:
                self._up_at = self._state.machine.now()
            else:
                self._state.fail(HostError(f"the forkserver cannot start: {printable(message.failure, 500)}"))

    def _on_forkserver_death(self, server: Forkserver, _events: int) -> None:
        state, now = self._state, self._state.machine.now()
        self._forkserver = None
        status = self._close(server)
        state.counters.forkserver_restarts += 1
        for worker in list(state.workers.values()):
            self._deaths.on_orphaned(worker, now)
        if state.births == self._births_before:
            self._deaths.barren(status, server.stderr_tail, now)
        elif not state.ending:
            state.warn(f"the forkserver (pid {server.pid}) died ({describe(status)}): starting a new one")

    def end_forkserver(self) -> None:
        """Kill the forkserver and reap it; its workers die with it."""
        server, self._forkserver = self._forkserver, None
        if server is not None:
            self._close(server)

    # --- workers

    def _ask_for_workers(self, server: Forkserver, missing: int, now: float) -> LookAt:
        for _ in range(missing):
            again = self._ask_for_worker(server, now)
            if again is not None:
                return again
        return NEVER

    def _wanted(self) -> int:
        """How many workers are missing. While any are due to be replaced the pool wants one more, however many are due."""
        there = sum(worker.is_coming_or_there for worker in self._state.workers.values())
        return max(0, self._state.wanted + (self._due() is not None) - there)

    def _make_way_for_a_fresh_worker(self) -> None:
        """A job waits for a worker that was sent none: if no worker is on its way or due to be replaced, the oldest one is."""
        workers = self._state.workers.values()
        coming = any(worker.state in (State.FORKING, State.STARTING) for worker in workers)
        if not coming and not self._wanted():
            oldest = next((worker for worker in workers if worker.state is State.READY), None)
            if oldest is not None:
                oldest.recycle_soon()

    def _due(self) -> WorkerHandle | None:
        """The worker that is to be replaced next: one at a time, and it goes only when its successor is ready."""
        workers = self._state.workers.values()
        return next((worker for worker in workers if worker.recycle_due and worker.state is State.READY), None)

    def _ask_for_worker(self, server: Forkserver, now: float) -> LookAt | None:
        """Ask the forkserver for one worker; None if that was done, else when to try again."""
        machine = self._state.machine
        try:
            end = machine.open_worker()
        except OSError as error:
            self._deaths.shortage(f"pipes for a worker: {explain(error)}", now)
            return self._state.respawn.spawn_at
        most = self._state.limits.max_jobs_per_worker
        if most is not None:
            most = max(1, round(most * (1 + machine.random.uniform(-_JITTER, _JITTER))))
        worker = WorkerHandle(self._next_number, end, now, recycle_after=most)
        self._next_number += 1
        try:
            server.fork(worker.number, end.child_fds)
        except OSError as error:
            worker.close()
            if is_passing(error) and error.errno != errno.EAGAIN:  # of a socket that says that its queue is full
                self._deaths.shortage(f"descriptors for a worker: {explain(error)}", now)
                return self._state.respawn.spawn_at
            server.kill()  # gone or deaf; its death is the next thing to hear of, and brings a new one
            return NEVER
        end.close_child_fds()
        self._state.workers[worker.number] = worker
        return None

    def _on_forked(self, server: Forkserver, message: control.Forked, fds: list[int]) -> None:
        state = self._state
        worker = state.workers.get(message.worker)
        if worker is None or worker.is_forked or len(fds) > (0 if message.failure else 1):
            for fd in fds:
                state.machine.close_fd(fd)
            return
        if message.failure is not None:
            self._deaths.bury(worker)
            error = OSError(message.errno, printable(message.failure, 300))
            self._deaths.shortage(f"the forkserver: {explain(error)}", state.machine.now())
            return
        if not fds:  # the kernel had no number for it in our table
            self._give_up(worker, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return
        (pidfd,) = fds
        try:
            is_ours = server.is_child(pidfd, message.pid)
        except OSError as error:
            state.machine.close_fd(pidfd)
            self._give_up(worker, error)
            return
        if not is_ours:
            state.machine.close_fd(pidfd)
            state.warn(
                f"the forkserver (pid {server.pid}) reported a process that is not its child as a worker: killing it"
            )
            server.kill()
            return
        end = worker.end
        worker.forked(message.pid, pidfd)
        try:
            state.reactor.watch(pidfd, self._deaths.on_death, worker)
            state.reactor.watch(end.results_fd, self._exchange.on_readable, worker)
            state.reactor.watch(end.stderr_fd, self._deaths.on_stderr, worker)
        except OSError as error:
            end.kill()
            self._give_up(worker, error)

    def _give_up(self, worker: WorkerHandle, error: OSError) -> None:
        """Forget a worker that was forked, because it cannot be watched: for that the machine lacks something now. It ends when
        it finds its pipes closed; the forkserver may not kill, and reaps it."""
        self._deaths.bury(worker)
        self._deaths.shortage(f"a worker: {explain(error)}", self._state.machine.now())
