"""The supervisor: it feeds the workers, reads their results, kills what is overdue and replaces what died.

Theory of operation. The loop waits in one `epoll` for everything that can happen: results, room in a pipe, a death
(pidfd), a message of the forkserver, a command of the caller, and the earliest deadline. It never blocks elsewhere: pipes
are non-blocking, what does not fit is kept, and the caller's code (backends, future callbacks, log handlers) runs on other
threads. After each wait comes a round, which does everything that depends on time or on the pool's state.

Its parts, from the top: `Births`, `Watchdog`, `Deaths`, `Exchange` (frames), then `Hellos`, `BackendCalls`, `Endings`; each
calls only those behind it. What they share is in `PoolState`. Nothing here knows a thread: see `thread.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from guardpool.errors import PoolClosed
from guardpool.limits import Limits
from guardpool.supervise.backend_calls import BackendCalls
from guardpool.supervise.births import Births
from guardpool.supervise.clock import NEVER
from guardpool.supervise.commands import (
    Ask,
    BackendAnswered,
    Cancel,
    Close,
    Command,
    Drop,
    Forget,
    Kill,
    Queue,
    Resume,
    TurnAway,
)
from guardpool.supervise.deaths import Deaths
from guardpool.supervise.endings import Endings
from guardpool.supervise.exchange import Exchange
from guardpool.supervise.hello import Hellos
from guardpool.supervise.machine import Machine
from guardpool.supervise.owner import Owner
from guardpool.supervise.reply_memory import ReplyMemory
from guardpool.supervise.sender import Sender
from guardpool.supervise.sources import Source
from guardpool.supervise.state import PoolState
from guardpool.supervise.watchdog import RSS_LOOK_S, Watchdog
from guardpool.supervise.witness import Witness

_CANCELLED = "cancelled before a worker began it"


class Supervisor:
    """A pool's processes and its queue, on a machine. All methods but `check_open` belong to one thread.

    Args:
        machine: what it runs on; closed by `end`.
        names: the guards' names, in order.
        sources: where each guard's questions are answered, or None, in the order of `names`.
        workers: how many.
        limits: the pool's limits.
        replies, withholds, witness: as for `PoolState`.

    Attributes:
        state: the pool's state.
        reactor: what to wait with between rounds; commands are posted to it.
        over: the pool has ended, and no worker will ever come.
        all_done: every job had its outcome before the end.
    """

    def __init__(
        self,
        machine: Machine,
        names: Sequence[str],
        sources: Sequence[Source | None],
        workers: int,
        limits: Limits,
        replies: ReplyMemory | None = None,
        withholds: Sequence[bool] = (),
        witness: Witness | None = None,
    ) -> None:
        self._machine = machine
        self.reactor = machine.open_reactor(self._on_command)
        self.state = state = PoolState(
            names, sources, limits, machine, self.reactor, workers, replies, withholds, witness
        )
        sender = Sender(self.reactor)
        endings = self._endings = Endings(state, sender)
        backend_calls = self._backend_calls = BackendCalls(state, sender)
        exchange = self._exchange = Exchange(state, sender, Hellos(state, endings), backend_calls, endings)
        deaths = self._deaths = Deaths(state, exchange, endings)
        self._watchdog = Watchdog(state, endings, deaths, backend_calls)
        self._births = Births(state, exchange, deaths, endings)
        self._owners: dict[Owner, None] = {}  # a set would turn them away in the order of their addresses
        self.over = False
        self.all_done = False
        # Before both times only traffic is due; the second counts only once there was traffic.
        self._settled_until = self._look_again_at = 0.0

    def check_open(self) -> None:
        """Raise if no job can be taken any more. Safe from any thread."""
        state = self.state
        if state.failure is not None:
            raise state.failure
        if state.closing_at is not None or state.ending or self.over:
            raise PoolClosed("the pool is closed")

    # --- rounds

    def round(self) -> float | None:
        """Do everything that depends on time or state.

        Returns:
            How many seconds to wait in the reactor at most; negative: as long as it takes; None: the pool is over.
        """
        state, now = self.state, self._machine.now()
        if state.ending:
            return None
        if state.closing_at is None and self.reactor.calm:
            again = self._keep_traffic_going()
            if now < again:
                return self._wait_s(again)
        again = NEVER
        if state.closing_at is not None:
            if now >= state.closing_at:
                return None
            again = state.closing_at
        self._births.settle()
        if not state.has_work:
            self.all_done = True
            if self._endings.send_home():
                return None
        else:
            self._exchange.feed()  # first: while the workers work, the rest delays no job
            again = min(again, self._births.keep(now))
            self.reactor.eager = state.scheduler.has_room
        again = min(again, self._watchdog.look(now))
        self._settled_until = again
        self._backend_calls.looked(now)
        # The deadline of a job that begins after this look is not known yet; it does not pass before the next look.
        self._look_again_at = now + min(RSS_LOOK_S, state.limits.timeout_s / 4)
        return None if state.ending else self._wait_s(again)

    def _keep_traffic_going(self) -> float:
        """What is due after ordinary traffic: more of it. Returns when more than that is due.

        All else costs time for each worker, at each wake-up: 180 us with 16 of them, for results of which one brings 100.
        """
        self._exchange.feed()
        self.reactor.eager = self.state.scheduler.has_room
        return min(self._settled_until, self._look_again_at, self._backend_calls.look_at)

    def _wait_s(self, until: float) -> float:
        return -1 if until == NEVER else max(0.0, until - self._machine.now())

    # --- commands

    def _on_command(self, command: Command) -> bool:
        """Carry a command out; True if it was ordinary traffic."""
        if isinstance(command, Queue):
            self._queue(command)
        elif isinstance(command, BackendAnswered):
            return self._backend_calls.on_answer(command)
        elif isinstance(command, Resume):
            self.state.scheduler.resume(command.owner, command.from_index)
        elif isinstance(command, Forget):
            self._owners.pop(command.owner, None)
        else:
            self._on_rare_command(command)
            return False
        return True

    def _queue(self, command: Queue) -> None:
        self._owners[command.owner] = None
        self.state.scheduler.add(command.owner, command.tasks)
        if command.taken is not None:
            command.taken()
        if self.over:
            self._turn_away()

    def _on_rare_command(self, command: Command) -> None:
        state = self.state
        if isinstance(command, Cancel):
            state.cancel(state.scheduler.cancel(command.owner), _CANCELLED)
        elif isinstance(command, Drop):
            state.cancel(state.scheduler.drop(command.owner, command.indexes), _CANCELLED)
        elif isinstance(command, Ask):
            self._backend_calls.on_ask(command)
        elif isinstance(command, Close):
            state.close(command.at)
        elif isinstance(command, Kill):
            state.ending = True
        elif isinstance(command, TurnAway):
            self._turn_away()

    # --- the end

    def end(self) -> None:
        """Kill what is left, give every job its outcome, close everything. Later commands are still carried out."""
        self.state.ending = True
        with contextlib.ExitStack() as steps:  # last first, and all of them, whatever goes wrong in one
            steps.callback(self._machine.close)
            # Posted like the commands that come late, so that it does not run beside one of them.
            steps.callback(self.reactor.post, TurnAway())
            steps.callback(self.reactor.close)
            steps.callback(setattr, self, "over", True)
            steps.callback(self._deaths.bury_all)
            steps.callback(self._births.end_forkserver)
            steps.callback(self._deaths.kill_all)

    def _turn_away(self) -> None:
        """Tell every owner that no worker will ever come."""
        self.state.turn_away(list(self._owners))
