"""The supervisor of a simulated run: the real decisions, without a descriptor or a clock of their own.

Scheduler, frame reader, respawn policy, judgement, intake and delivery are guardpool's; what is written here again is only
the wiring that in a real pool hangs on epoll, pidfds and a forkserver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from guardpool.errors import PoolBroken, PoolClosed
from guardpool.supervise.respawn import MAX_BARREN_DEATHS
from guardpool.supervise.scheduler import Verdict
from guardpool.supervise.verdicts import Overdue, check_running, judge_death, outcome_of_verdict
from guardpool.supervise.worker_handle import State
from guardpool.testing.traffic import Handle, Traffic
from guardpool.testing.world import Process, World

if TYPE_CHECKING:
    from guardpool.testing.books import Books

_NEVER = float("inf")
_RSS_LOOK_S = 0.05
_STATUS_PATIENCE_S = 1.0
_LEAVE_PATIENCE_S = 2.0
_START_PATIENCE_S = 5.0


class Desk(Traffic):
    """One pool.

    Args:
        world: the clock and the dice.
        books: who keeps count of what really happened.
        fork: makes the process of a handle.
    """

    def __init__(self, world: World, books: Books, fork: Callable[[Handle], Process]) -> None:
        super().__init__(world, books)
        self.forkserver_up_at = world.now
        self._fork = fork
        self._spawn_at = 0.0
        self._next_number = 1
        self._rss_look_at = 0.0
        self._inbox: list[tuple[Any, ...]] = []
        self._owners: list[Any] = []
        self._accepted = 0
        self._tick = 0

    # --- the caller's side

    def post(self, command: tuple[Any, ...]) -> None:
        """As `Reactor.post`: also after the end."""
        self._inbox.append(command)
        if self.over:
            self._carry_out()
        elif len(self._inbox) == 1:
            self.world.soon(self._on_wake)

    def check_open(self) -> None:
        """As `Supervisor.check_open`."""
        if self.core.failure is not None:
            raise self.core.failure
        if self.core.closing_at is not None or self.core.ending or self.over:
            raise PoolClosed("the pool is closed")

    def _on_wake(self) -> None:
        if not self.over:
            self._carry_out()
            self.turn()

    def _carry_out(self) -> None:
        commands, self._inbox = self._inbox, []
        core = self.core
        for command in commands:
            kind = command[0]
            self.world.note("command", kind)
            if kind == "queue":
                if command[1] not in self._owners:
                    self._owners.append(command[1])
                self._accepted += len(command[2])
                core.scheduler.add(command[1], command[2])
                if self.over:
                    self._turn_away()
            elif kind == "resume":
                core.scheduler.resume(*command[1:])
            elif kind == "cancel":
                core.cancel(core.scheduler.cancel(command[1]), "cancelled before a worker began it")
            elif kind == "forget":
                if command[1] in self._owners:
                    self._owners.remove(command[1])
            elif kind == "close":
                core.closing_at = command[1]
                core.scheduler.drain()
            elif kind == "kill":
                core.ending = True

    # --- one round of the loop

    def turn(self) -> None:
        """Everything that is due now."""
        core, now = self.core, self.world.now
        if self.over:
            return
        if core.ending or (core.closing_at is not None and now >= core.closing_at):
            self._end()
            return
        again = core.closing_at if core.closing_at is not None else _NEVER
        if not core.has_work:
            if self._send_home():
                self._end()
                return
        else:
            again = min(again, self._keep_workers())
            self._feed()
        again = min(again, self._look())
        self.books.check_places(self._accepted, core.scheduler.queued, core.scheduler.in_flight)
        if core.ending:
            self._end()
        elif again != _NEVER:
            self._tick += 1
            self.world.at(max(0.0, again - now), self._on_tick, self._tick)

    def _on_tick(self, tick: int) -> None:
        if tick == self._tick:
            self.turn()

    # --- births

    def _wanted(self) -> int:
        alive = sum(h.state in (State.FORKING, State.STARTING, State.READY) for h in self.handles.values())
        extra = 0
        if self._succession is not None:
            old = self.handles.get(self._succession[0])
            extra = 1 if old is not None and old.state is State.READY else 0
        return max(0, self.world.plan.workers + extra - alive)

    def _keep_workers(self) -> float:
        self._plan_succession()
        missing = self._wanted()
        if not missing:
            return _NEVER
        now, rng = self.world.now, self.world.rng
        if now < self._spawn_at:
            return self._spawn_at
        for _ in range(missing):
            handle = Handle(self, self._next_number)
            self._next_number += 1
            self.handles[handle.number] = handle
            most = self.limits.max_jobs_per_worker
            handle.recycle_after = None if most is None else max(1, round(most * rng.uniform(0.9, 1.1)))
            if self._succession is not None and self._succession[1] == 0:
                self._succession = (self._succession[0], handle.number)
            self.world.at(max(0.0, self.forkserver_up_at - now) + rng.uniform(1e-4, 2e-3), self._on_forked, handle)
        return _NEVER

    def _plan_succession(self) -> None:
        if self._succession is not None:
            old, new = self._succession
            if old in self.handles and (new == 0 or new in self.handles):
                return
            self._succession = None
        for handle in self.handles.values():
            due = handle.recycle_after is not None and handle.jobs_done >= handle.recycle_after
            if due and handle.state is State.READY:
                self._succession = (handle.number, 0)
                return

    def _on_forked(self, handle: Handle) -> None:
        if self.handles.get(handle.number) is not handle:
            return  # its forkserver died first
        handle.process = self._fork(handle)
        doomed, handle.state = handle.state is State.DYING, State.STARTING
        if doomed:
            self._kill(handle)
        self.turn()

    def forkserver_died(self) -> None:
        """It takes all its workers along; a new one is started."""
        self.forkserver_up_at = self.world.now + self.world.rng.uniform(1e-3, 2e-2)
        for handle in list(self.handles.values()):
            handle.orphaned = True
            if handle.process is None:
                del self.handles[handle.number]
            else:
                handle.process.die(-9)
        self.world.soon(self._on_forkserver_death)

    def _on_forkserver_death(self) -> None:
        if self.over:
            return
        for handle in list(self.handles.values()):
            if handle.orphaned and handle.dead:
                self._judge(handle)
            elif handle.orphaned and handle.verdict is None:
                handle.verdict, handle.cause = Verdict.INNOCENT, handle.cause or "crash"
                self._kill(handle)
        self.turn()

    # --- departures

    def _kill(self, handle: Handle) -> None:
        self.core.scheduler.retire(handle.number)
        if handle.state in (State.DYING, State.DEAD):
            return
        handle.state = State.DYING
        if handle.process is not None:
            self.world.note("kill", handle.number, handle.verdict, handle.victim)
            self.books.ended(handle)
            handle.process.die(-9)

    def _send_home(self) -> bool:
        for handle in list(self.handles.values()):
            if handle.state is State.READY:
                self._dismiss(handle, None)
            elif handle.state in (State.FORKING, State.STARTING):
                handle.verdict = Verdict.INNOCENT
                self._kill(handle)
        return not any(handle.process is not None for handle in self.handles.values())

    def _look(self) -> float:
        now, again, busy = self.world.now, _NEVER, False
        for handle in list(self.handles.values()):
            if handle.state in (State.READY, State.LEAVING):
                busy = busy or self.core.scheduler.load(handle.number) > 0
                again = min(again, self._check(handle))
            elif handle.state is State.STARTING:
                end = handle.born_at + _START_PATIENCE_S
                again = min(again, self._end_if_overdue(handle, end, Overdue.WORKER if now >= end else None))
            elif handle.dead:
                due = handle.died_at + _STATUS_PATIENCE_S
                if now >= due:
                    self._judge(handle)
                again = min(again, max(now, due))
        if busy:
            if now >= self._rss_look_at:
                self._look_at_memory()
                self._rss_look_at = now + _RSS_LOOK_S
            again = min(again, self._rss_look_at)
        return again

    def _check(self, handle: Handle) -> float:
        now, process = self.world.now, handle.process
        assert process is not None
        if self.core.scheduler.load(handle.number) == 0:
            if handle.state is not State.LEAVING:
                return _NEVER
            end = handle.active_at + _LEAVE_PATIENCE_S
            return self._end_if_overdue(handle, end, Overdue.WORKER if now >= end else None)
        started_at = None
        if self.core.scheduler.holds(handle.number, process.page_seq):
            started_at = process.page_started_at
            if handle.seen_seq != process.page_seq:
                handle.seen_seq, handle.seen_at = process.page_seq, now
        again, overdue = check_running(
            now,
            self.limits.timeout_s,
            started_at=started_at,
            seen_at=handle.seen_at,
            active_at=handle.active_at,
            backend_wait_s=0.0,
        )
        return self._end_if_overdue(handle, again, overdue)

    def _end_if_overdue(self, handle: Handle, again: float, overdue: Overdue | None) -> float:
        if overdue is None:
            return again
        if overdue is Overdue.JOB:
            assert handle.process is not None
            handle.verdict, handle.victim, handle.cause = Verdict.TIMEOUT, handle.process.page_seq, "timeout"
        else:
            handle.verdict, handle.cause = handle.verdict or Verdict.INNOCENT, handle.cause or "timeout"
            handle.fault = handle.fault or "it neither worked nor answered"
        self._kill(handle)
        return _NEVER

    def _look_at_memory(self) -> None:
        for handle in list(self.handles.values()):
            if handle.state in (State.READY, State.LEAVING) and handle.process is not None:
                handle.rss_bytes = handle.process.rss_bytes
                if handle.rss_bytes > self.limits.max_rss_bytes:
                    handle.verdict, handle.cause = Verdict.MEMORY, "memory"
                    self._kill(handle)

    # --- deaths

    def on_process_death(self, handle: Handle, status: int) -> None:
        """The kernel knows; we shall soon."""
        world = self.world
        world.soon(self._on_death, handle)
        if not handle.orphaned and world.rng.random() < 0.98:
            world.at(world.rng.random() * 1e-3, self._on_status, handle, status)

    def _on_status(self, handle: Handle, status: int) -> None:
        handle.exit_status = status
        if handle.dead and not self.over:
            self._judge(handle)
            self.turn()

    def _on_death(self, handle: Handle) -> None:
        if self.over:
            return
        assert handle.process is not None
        self.core.scheduler.retire(handle.number)
        handle.state, handle.dead, handle.died_at = State.DEAD, True, self.world.now
        while handle.process.results_pipe and handle.fault is None:
            self._take(handle, self.world.some(len(handle.process.results_pipe)))
        if handle.exit_status is not None or handle.orphaned:
            self._judge(handle)
        self.turn()

    def _judge(self, handle: Handle) -> None:
        core, process = self.core, handle.process
        if self.handles.get(handle.number) is not handle or process is None:
            return
        running = process.page_seq if core.scheduler.holds(handle.number, process.page_seq) else None
        death = judge_death(
            running=running,
            lone=core.scheduler.lone_suspect(handle.number),
            load=core.scheduler.load(handle.number),
            ended_as=handle.verdict,
            victim=handle.victim,
            cause=handle.cause,
            ever_ready=handle.ready,
            said_bye=handle.said_bye,
            orphaned=handle.orphaned,
            exit_status=handle.exit_status,
        )
        self.world.note("judged", handle.number, death.verdict.value, death.running, death.barren)
        held = {seq: handle.names[seq] for seq, number in self.holders.items() if number == handle.number}
        self.books.judged(handle, process, held)
        if death.suspects:
            core.scheduler.suspect(handle.number)
        victims = core.scheduler.lost(handle.number, death.running, death.verdict)
        for seq in held:
            del self.holders[seq]
        del self.handles[handle.number]
        if victims:
            self._respawn.outcome()
            self.books.outcome()
            outcomes = [outcome_of_verdict(task, how, "guard", handle, self.limits) for task, how in victims]
            core.deliver([task for task, _ in victims], outcomes)
        if death.barren and core.has_work and not core.ending:
            delay_s = self._respawn.death(barren=True)
            if delay_s is not None:
                self._spawn_at = self.world.now + delay_s
            else:
                self.books.expect(self.books.deaths >= MAX_BARREN_DEATHS, "the pool was given up too early")
                core.fail(PoolBroken("the pool is broken"))

    # --- the end

    def _end(self) -> None:
        self.over = True
        self.world.note("over", str(self.core.failure))
        for handle in list(self.handles.values()):
            process = handle.process
            if process is not None:
                process.die(-9)
                while process.results_pipe and handle.fault is None:
                    handle.dead = True
                    self._take(handle, len(process.results_pipe))
            self.core.scheduler.lost(handle.number, None, Verdict.INNOCENT)
        self.handles.clear()
        self.holders.clear()
        self._carry_out()
        self._turn_away()

    def _turn_away(self) -> None:
        self.core.turn_away(list(self._owners))
