"""The supervisor: one thread that feeds the workers, reads their results, kills what is overdue and replaces what died.

Theory of operation. The loop waits in one `epoll` for everything that can happen: results, room in a pipe, a death
(pidfd), a message of the forkserver, a command of the caller, and the earliest deadline. It never blocks elsewhere: pipes
are non-blocking, what does not fit is kept, and the caller's code (backends, future callbacks, log handlers) runs on other
threads. Its parts are `Crew` (births and deaths), `Traffic` (frames), `Watchdog` (deadlines and memory); what they share is
in `Core`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from guardpool.errors import HostError, PoolClosed
from guardpool.guard import Backend
from guardpool.labels import AgentLabels
from guardpool.limits import Limits
from guardpool.protocol import control
from guardpool.stats import PoolStats, WorkerStats
from guardpool.supervise.births import DEATH_PATIENCE_S, Crew
from guardpool.supervise.exchange import Traffic
from guardpool.supervise.notifier import Notifier
from guardpool.supervise.reactor import Command, Reactor
from guardpool.supervise.state import Core
from guardpool.supervise.watchdog import RSS_LOOK_S, Watchdog
from guardpool.supervise.worker_handle import State

_NEVER = float("inf")


class Supervisor:
    """The thread and all it owns. Public methods may be called from any thread.

    Args:
        setup: what workers need.
        backends: each guard's backend, in the order of `setup.guards`.
        workers: how many.
        limits: the pool's limits.
    """

    def __init__(self, setup: control.Setup, backends: Sequence[Backend | None], workers: int, limits: Limits) -> None:
        self._setup_fd = control.pack_setup(setup)
        self._reactor = Reactor(self._on_command)
        self._core = Core([guard.name for guard in setup.guards], backends, limits, self._reactor)
        self._crew = Crew(self._core, self._setup_fd, workers)
        self._traffic = self._crew.traffic = Traffic(self._core, self._crew)
        self._watchdog = Watchdog(self._core, self._crew, self._traffic)
        self._owners: set[Any] = set()
        self._over = False
        self._all_done = False  # every job had its outcome before the end
        # Nothing but traffic is due before the first; nor before the second, which counts only once there was traffic.
        self._settled_until = self._look_again_at = 0.0
        self._started = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name="guardpool-supervisor", daemon=True)

    # --- the caller's side

    @property
    def notifier(self) -> Notifier:
        """Runs the caller's callbacks and log handlers."""
        return self._core.notifier

    @property
    def agents(self) -> list[AgentLabels]:
        """What each guard's `label_agent` answered; known once `start` returned."""
        return self._core.agents or []

    def start(self) -> None:
        """Start the workers; returns when all are ready.

        Raises:
            GuardInitError, SandboxUnavailable, LimitsError, HostError: why they are not. Nothing is left behind.
        """
        self._thread.start()
        try:
            self._started.wait()
        except BaseException:
            self.kill()
            raise
        if self._core.failure is not None:
            self._ended.wait()
            raise self._core.failure

    def check_open(self) -> None:
        """Raise where no job can be taken any more."""
        if self._core.failure is not None:
            raise self._core.failure
        if self._core.closing_at is not None or self._core.ending or self._over:
            raise PoolClosed("the pool is closed")

    def post(self, command: Command) -> None:
        """Hand in a command for the supervisor's thread."""
        self._reactor.post(command)

    def post_work(self, command: Command) -> None:
        """The same for more work, which can wait while every worker has enough."""
        self._reactor.post_lazily(command)

    def close(self, timeout_s: float | None) -> bool:
        """Finish what was handed in, then end everything; past the time limit what is left is cancelled.

        Returns:
            Whether all was finished in time.
        """
        self.post(("close", _NEVER if timeout_s is None else time.monotonic() + timeout_s))
        if not self._ended.wait(timeout_s):
            self.kill()
        return self._all_done

    def kill(self) -> None:
        """End everything now; every job that has no outcome is cancelled."""
        self.post(("kill",))
        if threading.current_thread() is not self._thread:
            self._ended.wait(DEATH_PATIENCE_S)

    def stats(self) -> PoolStats:
        """A snapshot. Read beside the loop: single values are exact, together they may be a moment apart."""
        core, now = self._core, time.monotonic()
        workers = [w for w in list(core.workers.values()) if w.state in (State.READY, State.LEAVING)]
        return PoolStats(
            workers=[WorkerStats(w.pid, w.jobs_done, w.rss_bytes, round(now - w.born_at, 3)) for w in workers],
            outcomes=dict(core.counters.outcomes),
            respawns=dict(core.counters.respawns),
            latency_us=core.counters.latency_us(),
            jobs_per_s=round(core.counters.jobs_per_s(), 1),
            queued=core.scheduler.queued,
            in_flight=core.scheduler.in_flight,
            sandbox=dict(core.sandbox),
            forkserver_restarts=core.counters.forkserver_restarts,
        )

    # --- the loop

    def _main(self) -> None:
        try:
            while (wait_s := self._do_what_is_due()) is not None:
                self._reactor.wait(wait_s)
        except BaseException as error:
            self._core.notifier.own(
                logging.ERROR, f"the supervisor failed; the pool is closed\n{traceback.format_exc()}"
            )
            self._core.fail(HostError(f"the supervisor failed: {type(error).__name__}: {error}"))
        finally:
            self._end()

    def _do_what_is_due(self) -> float | None:
        """Everything that depends on time or state; returns seconds to wait at most, or None when it is over."""
        core, now = self._core, time.monotonic()
        if core.ending:
            return None
        if core.closing_at is None and self._reactor.calm:
            again = self._keep_traffic_going(now)
            if now < again:
                return _wait_s(again)
        again = _NEVER
        if core.closing_at is not None:
            if now >= core.closing_at:
                return None
            again = core.closing_at
        if not core.has_work:
            self._all_done = True
            if self._crew.send_home(now):
                return None
        else:
            self._traffic.feed()  # first: while workers work the rest costs nobody anything
            again = min(again, self._crew.keep_forkserver(now), self._crew.keep_workers(now))
            self._reactor.eager = core.scheduler.has_room
        again = min(again, self._watchdog.look(now))
        self._settled_until = again
        # Of jobs that begin after this look no deadline is known yet, and none passes before the next one.
        self._look_again_at = now + min(RSS_LOOK_S, core.limits.timeout_s / 4)
        if core.started and not self._started.is_set():
            self._started.set()
        if core.ending:
            return None
        return _wait_s(again)

    def _keep_traffic_going(self, now: float) -> float:
        """What is due after ordinary traffic: more of it. Returns when more than that is due.

        All else costs time for each worker, at each wake-up: 180 us with 16 of them, for results of which one brings 100.
        """
        scheduler = self._core.scheduler
        self._traffic.feed()
        self._reactor.eager = scheduler.has_room
        return min(self._settled_until, self._look_again_at)

    def _on_command(self, command: Command) -> bool:
        """Carry a command out; True where it brought jobs and nothing else."""
        core = self._core
        kind = command[0]
        if kind == "queue":
            self._owners.add(command[1])
            core.scheduler.add(command[1], command[2])
            if self._over:
                self._turn_away()
            return True
        if kind == "resume":
            core.scheduler.resume(*command[1:])
            return True
        if kind == "forget":
            self._owners.discard(command[1])
            return True
        self._on_rare_command(*command)
        return False

    def _on_rare_command(self, kind: str, *arguments: Any) -> None:
        core = self._core
        if kind == "cancel":
            core.cancel(core.scheduler.cancel(arguments[0]), "cancelled before a worker began it")
        elif kind == "backend":
            self._traffic.on_backend_answer(*arguments)
        elif kind == "close":
            core.scheduler.drain()
            if core.closing_at is None or arguments[0] < core.closing_at:
                core.closing_at = arguments[0]
        elif kind == "kill":
            core.ending = True
        elif kind == "turn away":
            self._turn_away()

    # --- the end

    def _end(self) -> None:
        """Kill what is left, give every job its outcome, close everything."""
        self._core.ending = True
        with contextlib.ExitStack() as steps:  # last first, and all of them, whatever goes wrong in one
            steps.callback(self._ended.set)
            steps.callback(self._started.set)
            steps.callback(self._core.notifier.close, 1.0)
            steps.callback(_close, self._setup_fd)
            steps.callback(self._traffic.close)
            # A command like those that come late, so that it does not run beside one of them.
            steps.callback(self._reactor.post, ("turn away",))
            steps.callback(self._reactor.close)
            steps.callback(setattr, self, "_over", True)
            steps.callback(self._crew.kill_all)

    def _turn_away(self) -> None:
        """No worker will ever come: whoever waits is told."""
        self._core.turn_away(list(self._owners))


def _wait_s(until: float) -> float:
    return -1 if until == _NEVER else max(0.0, until - time.monotonic())


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # somebody else closed it
        os.close(fd)
