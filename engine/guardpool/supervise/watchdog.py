"""Deadlines and memory: what makes the supervisor end a worker that would not end by itself.

There is no ticking: the loop sleeps until the earliest deadline. The progress page says which job runs and since when, so a
deadline is that job's own; a job that began later cannot be due earlier, so looking at the page only then is exact.
"""

from __future__ import annotations

from guardpool.errors import GuardInitError
from guardpool.limits import MAX_WORKER_AGE_S
from guardpool.protocol.progress_page import DONE, INITIALISING, SEQ, STARTED_NS
from guardpool.supervise.births import Crew
from guardpool.supervise.exchange import Traffic
from guardpool.supervise.scheduler import Verdict
from guardpool.supervise.state import Core
from guardpool.supervise.verdicts import Overdue, check_running
from guardpool.supervise.worker_handle import State, WorkerHandle

# How often resident sets are looked at while jobs run, and once more after the last; between two looks RLIMIT_DATA holds.
RSS_LOOK_S = 0.05
# From the fork to HELLO, without the guards' own time: Python is there already, so this is generous.
_START_GRACE_S = 20.0
# How long the exit status of a dead worker may be late.
_STATUS_PATIENCE_S = 1.0
# How long a worker may take to leave once it has nothing to do.
_LEAVE_PATIENCE_S = 2.0
# While `label_agent` runs nothing wakes the loop: the page is looked at this often.
_START_LOOK_S = 0.25

# How often in a row a page may change under us when a deadline has passed.
MAX_WAVERS = 10

_NEVER = float("inf")


class Watchdog:
    """Looks after every worker's time and memory."""

    def __init__(self, core: Core, crew: Crew, traffic: Traffic) -> None:
        self._core = core
        self._crew = crew
        self._traffic = traffic
        self._rss_look_at = 0.0

    def look(self, now: float) -> float:
        """End whoever is overdue or too large; returns when to look again."""
        again = _NEVER
        busy = False
        unseen = False  # somebody worked since resident sets were looked at: the last job before a pause counts, too
        for worker in list(self._core.workers.values()):
            state = worker.state
            if state is State.READY or state is State.LEAVING:
                busy = busy or self._core.scheduler.load(worker.number) > 0
                unseen = unseen or busy or worker.page[DONE] != worker.done_within_cap
                again = min(again, self._check_running(worker, now))
            elif state is State.STARTING:
                again = min(again, self._check_start(worker, now))
            elif state is State.DEAD:
                due = worker.died_at + _STATUS_PATIENCE_S
                if now < due:
                    again = min(again, due)
                else:
                    self._crew.judge(worker, now)
                    again = now  # its jobs went back into the queue: somebody has to send them
        if unseen:
            if now >= self._rss_look_at:
                again = min(again, self._look_at_memory(now))
                self._rss_look_at = now + RSS_LOOK_S
                unseen = busy
            if unseen:
                again = min(again, self._rss_look_at)
        return again

    def _check_running(self, worker: WorkerHandle, now: float) -> float:
        timeout_s = self._core.limits.timeout_s
        holds = self._core.scheduler.holds
        if self._core.scheduler.load(worker.number) == 0:
            if worker.state is State.LEAVING:
                return self._check_stall(worker, now, worker.active_at + _LEAVE_PATIENCE_S)
            if worker.buffered_bytes:  # it has nothing to say, and does not come to the end of it
                return self._check_stall(worker, now, worker.active_at + _LEAVE_PATIENCE_S)
            return _NEVER
        if worker.backend is not None:
            return self._traffic.look_at_backend_call(worker, now)
        page = worker.page
        started_ns, seq = page[STARTED_NS], page[SEQ]
        started_at: float | None = None
        if holds(worker.number, seq):
            started_at = started_ns / 1e9
            worker.note_seq(seq, now)
        again, overdue = check_running(
            now,
            timeout_s,
            started_at=started_at,
            seen_at=worker.seen_at,
            active_at=worker.active_at,
            backend_wait_s=worker.backend_wait_s,
        )
        if overdue is Overdue.WORKER:
            return self._check_stall(worker, now, now)
        if overdue is None:
            worker.wavers = 0
            return again
        if page[SEQ] != seq or page[STARTED_NS] != started_ns:
            # It went on to the next job at this very moment, whose time cannot be up. A page that never holds still lies.
            worker.wavers += 1
            return now if worker.wavers < MAX_WAVERS else self._check_stall(worker, now, now)
        worker.verdict, worker.victim, worker.cause = Verdict.TIMEOUT, seq, "timeout"
        return self._end(worker, now)

    def _check_stall(self, worker: WorkerHandle, now: float, end: float) -> float:
        if now < end:
            return end
        worker.verdict, worker.cause = worker.verdict or Verdict.INNOCENT, worker.cause or "timeout"
        worker.fault = worker.fault or "it neither worked nor answered"
        return self._end(worker, now)

    def _end(self, worker: WorkerHandle, now: float) -> float:
        """SIGKILL. The next round is due at once: it asks for the successor, while the kernel still frees the memory."""
        self._crew.end(worker, now)
        return now

    def _check_start(self, worker: WorkerHandle, now: float) -> float:
        names, timeout_s = self._core.names, self._core.limits.timeout_s
        if worker.backend is not None:
            return self._traffic.look_at_backend_call(worker, now)
        index = worker.page[INITIALISING]
        if 0 < index <= len(names):
            worker.note_seq(index, now)
            end = worker.seen_at + timeout_s + worker.backend_wait_s
            if now >= end:
                name = names[index - 1]
                message = f"guard {name!r}: label_agent did not return within {timeout_s} s"
                if self._core.started:
                    worker.fault = message
                    return self._check_stall(worker, now, end)
                self._core.fail(GuardInitError(message, guard=name))
        end = worker.born_at + _START_GRACE_S + timeout_s * len(names)
        if now >= end:
            return self._check_stall(worker, now, end)
        return min(end, now + min(_START_LOOK_S, timeout_s / 4))

    def _look_at_memory(self, now: float) -> float:
        again = _NEVER
        hard = self._core.limits.max_rss_bytes
        for worker in self._core.workers.values():
            if worker.state is State.READY or worker.state is State.LEAVING:
                seq, done = worker.page[SEQ], worker.page[DONE]
                worker.rss_bytes = rss = worker.look_at_rss()
                if rss > hard:
                    worker.verdict, worker.victim, worker.cause = self._blame(worker, seq, done), seq, "memory"
                    again = self._end(worker, now)
                    continue
                worker.done_within_cap = done
                if not worker.recycle_due and (rss > hard * 3 // 4 or now - worker.born_at > MAX_WORKER_AGE_S):
                    worker.recycle_due = True
                    again = now  # somebody has to ask for its successor
        return again

    def _blame(self, worker: WorkerHandle, seq: int, done: int) -> Verdict:
        """A worker is past the cap: was it the job that ran when its memory was measured, or one before it?"""
        if not self._core.scheduler.holds(worker.number, seq) or worker.page[SEQ] != seq:
            return Verdict.INNOCENT
        # It was within the cap, and since then no job came to its end: only this one ran.
        return Verdict.MEMORY if done == worker.done_within_cap else Verdict.SUSPECT
