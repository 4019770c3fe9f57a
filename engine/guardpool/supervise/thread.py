"""The supervisor's thread, and what other threads may ask of it."""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback
from collections.abc import Sequence

import msgspec

from guardpool import stacks
from guardpool.errors import HostError
from guardpool.guard import Guard
from guardpool.labels import AgentLabels
from guardpool.limits import Limits
from guardpool.machine.shortages import explain, no_thread
from guardpool.protocol import control
from guardpool.protocol.slots import slot_bytes
from guardpool.stats import PoolStats, WorkerStats
from guardpool.supervise.clock import NEVER
from guardpool.supervise.commands import Close, Kill
from guardpool.supervise.deaths import DEATH_PATIENCE_S
from guardpool.supervise.inbox import Inbox
from guardpool.supervise.machine import Machine, RealMachine
from guardpool.supervise.notifier import Notifier
from guardpool.supervise.reactor import LONGEST_WAIT_S
from guardpool.supervise.sources import Sources
from guardpool.supervise.supervisor import Supervisor
from guardpool.supervise.witness import Witness
from guardpool.supervise.worker_handle import State

# How long a thread may take to begin to run.
_START_S = 2.0
# How long backends may take to close.
_CLOSING_S = 5.0


class SupervisorThread:
    """A supervisor on a thread of its own. Every method may be called from any thread.

    Args:
        setup: what workers need.
        guards: the pool's, in the order of `setup.guards`.
        workers: how many.
        limits: the pool's limits.
        engine: name and version of the engine, for `stats`.
        witness: is told which worker labelled what.

    Raises:
        HostError: the machine lacks something; the message names the limit. Nothing is left behind.
    """

    def __init__(
        self,
        setup: control.Setup,
        guards: Sequence[Guard],
        workers: int,
        limits: Limits,
        engine: str,
        witness: Witness | None = None,
    ) -> None:
        self._engine = engine
        with contextlib.ExitStack() as undo:
            try:
                sources = self._sources = Sources(guards, limits.max_reply_bytes)
                undo.callback(sources.close)
                self._machine: Machine = RealMachine(
                    _with_known(setup, sources), sources.fd, slot_bytes(limits.max_input_bytes)
                )
                undo.callback(self._machine.close)
                self._supervisor = Supervisor(
                    self._machine,
                    [guard.name for guard in guards],
                    sources.by_guard,
                    workers,
                    limits,
                    sources.memory,
                    [guard.on_backend_failure == "withhold" for guard in guards],
                    witness,
                )
            except OSError as error:
                raise HostError(f"a pool cannot be made: {explain(error)}") from error
            undo.pop_all()
        self._started = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name="guardpool-supervisor", daemon=True)

    @property
    def notifier(self) -> Notifier:
        """Runs the caller's callbacks and log handlers."""
        return self._machine.notifier

    @property
    def inbox(self) -> Inbox:
        """The way in for jobs."""
        reactor = self._supervisor.reactor
        return Inbox(self._supervisor.check_open, reactor.post, reactor.post_lazily)

    @property
    def agents(self) -> list[AgentLabels]:
        """What each guard's `label_agent` answered; known once `start` returned."""
        return self._supervisor.state.agents or []

    def known_reply(self, guard: int, tool: str, args: bytes) -> bytes | None:
        """See `GuardPool.known_reply`."""
        return self._sources.known_reply(guard, tool, args)

    def start(self) -> None:
        """Start the workers; returns when all are ready.

        Raises:
            GuardInitError, SandboxUnavailable, LimitsError, HostError: why they are not. Nothing is left behind.
        """
        try:
            stacks.start(self._thread)
            self._started.wait()
        except BaseException as error:
            if isinstance(error, RuntimeError) and self._thread.ident is None:
                self._end()
                raise HostError(f"a pool cannot be made: {explain(no_thread(error))}") from error
            # A signal handler raised it. The thread may run already, or not yet.
            self._supervisor.reactor.post(Kill())
            if not self._ended.wait(_START_S) and self._thread.ident is None:
                self._end()
            else:
                self.kill()
            raise
        failure = self._supervisor.state.failure
        if failure is not None:
            self._ended.wait()
            raise failure

    def close(self, timeout_s: float | None) -> bool:
        """Finish what was handed in, then end everything; past the time limit what is left is cancelled.

        Returns:
            Whether all was finished in time.
        """
        self._supervisor.reactor.post(Close(NEVER if timeout_s is None else self._machine.now() + timeout_s))
        if not self._ended.wait(timeout_s):
            self.kill()
        return self._supervisor.all_done

    def kill(self) -> None:
        """End everything now; every job that has no outcome is cancelled."""
        self._supervisor.reactor.post(Kill())
        if threading.current_thread() is not self._thread:
            self._ended.wait(DEATH_PATIENCE_S)

    def stats(self) -> PoolStats:
        """A snapshot. Read beside the loop: single values are exact, together they may be a moment apart."""
        state, now = self._supervisor.state, self._machine.now()
        counters = state.counters
        workers = [w for w in list(state.workers.values()) if w.state in (State.READY, State.LEAVING)]
        return PoolStats(
            workers=[WorkerStats(w.end.pid, w.jobs_done, w.rss_bytes, round(now - w.born_at, 3)) for w in workers],
            outcomes=dict(counters.outcomes),
            respawns=dict(counters.respawns),
            latency_us=counters.latency_us(),
            jobs_per_s=round(counters.jobs_per_s(), 1),
            queued=state.scheduler.queued,
            in_flight=state.scheduler.in_flight,
            sandbox=dict(state.sandbox),
            forkserver_restarts=counters.forkserver_restarts,
            engine=self._engine,
            backend=counters.questions.by_guard(),
        )

    def _main(self) -> None:
        supervisor = self._supervisor
        try:
            told = False
            while (wait_s := supervisor.round()) is not None:
                if supervisor.state.started and not told:
                    told = True
                    self._started.set()
                # Longer waits, and those without an end, return early.
                asked_s = wait_s if 0 <= wait_s < LONGEST_WAIT_S else LONGEST_WAIT_S
                supervisor.reactor.wait(asked_s)
                self._machine.woke(asked_s)
        except BaseException as error:
            self.notifier.own(logging.ERROR, f"the supervisor failed; the pool is closed\n{traceback.format_exc()}")
            supervisor.state.fail(HostError(f"the supervisor failed: {type(error).__name__}: {error}"))
        finally:
            self._end()

    def _end(self) -> None:
        try:
            self._supervisor.end()
        finally:
            try:
                self.notifier.close(1.0)
                self._close_backends()
                self._sources.close()
            finally:
                self._started.set()
                self._ended.set()

    def _close_backends(self) -> None:
        """Close what the guards asked, which is the caller's code: on a thread of its own, and for so long at most."""
        closing = threading.Thread(target=self._sources.close_backends, name="guardpool-closing", daemon=True)
        try:
            closing.start()
        except RuntimeError:  # no more threads
            return
        closing.join(_CLOSING_S)


def _with_known(setup: control.Setup, sources: Sources) -> control.Setup:
    """The setup, which now says where each guard's known replies are."""
    guards = [
        msgspec.structs.replace(guard, known=None if source is None else source.known)
        for guard, source in zip(setup.guards, sources.by_guard)
    ]
    return msgspec.structs.replace(setup, guards=guards)
