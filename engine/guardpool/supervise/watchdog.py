"""Deadlines and memory: what makes the supervisor end a worker that would not end by itself.

Nothing ticks but a look at idle workers' memory every few seconds: the loop sleeps until the earliest deadline. The progress
page says which job runs and since when, so a deadline is that job's own; a job that began later cannot be due earlier, so
looking at the page only then is exact.
"""

from __future__ import annotations

from guardpool.errors import GuardInitError
from guardpool.limits import MAX_WORKER_AGE_S
from guardpool.protocol.progress_page import DONE, FULL, INITIALISING, SEQ, STARTED_NS
from guardpool.supervise.backend_calls import BackendCalls
from guardpool.supervise.clock import NEVER, LookAt
from guardpool.supervise.deaths import Deaths
from guardpool.supervise.endings import Endings
from guardpool.supervise.scheduler import Verdict
from guardpool.supervise.state import PoolState
from guardpool.supervise.verdicts import LEAST_AGE_S, NEARLY_FULL, STALL_GRACE_S, Ending, Overdue, check_running
from guardpool.supervise.worker_handle import State, WorkerHandle

# How often resident sets are looked at while jobs run, and once more after the last; between two looks RLIMIT_DATA holds.
RSS_LOOK_S = 0.05
# How often they are looked at while no job runs: an idle worker that was broken out of can fill memory too. A look takes 20 us
# a worker.
_IDLE_LOOK_S = 5.0
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


class Watchdog:
    """Looks after every worker's time and memory."""

    def __init__(self, state: PoolState, endings: Endings, deaths: Deaths, backend_calls: BackendCalls) -> None:
        self._state = state
        self._endings = endings
        self._deaths = deaths
        self._backend_calls = backend_calls
        self._scheduler = state.scheduler
        self._rss_looked_at = 0.0

    def look(self, now: float) -> LookAt:
        """End every worker that is overdue or too large; returns when to look again."""
        again = NEVER
        busy = False
        unseen = False  # a worker worked since the last look at resident sets, if only on the last job before a pause
        ready = False
        for worker in list(self._state.workers.values()):
            state = worker.state
            if state is State.READY or state is State.LEAVING:
                ready = True
                busy = busy or self._scheduler.load(worker.number) > 0
                unseen = unseen or busy or worker.page[DONE] != worker.done_within_cap
                again = min(again, self._check_running(worker, now))
            elif state is State.STARTING:
                again = min(again, self._check_start(worker, now))
            elif state is State.DEAD:
                due = worker.died_at + _STATUS_PATIENCE_S
                if now < due:
                    again = min(again, due)
                else:
                    self._deaths.conclude(worker, now)
                    again = now  # its jobs went back into the queue, to be sent to other workers
        if ready:
            due = self._rss_looked_at + (RSS_LOOK_S if unseen else _IDLE_LOOK_S)
            if now >= due:
                again = min(again, self._look_at_memory(now))
                self._rss_looked_at = now
                due = now + (RSS_LOOK_S if busy else _IDLE_LOOK_S)
            again = min(again, due)
        return again

    def _check_running(self, worker: WorkerHandle, now: float) -> LookAt:
        if self._scheduler.load(worker.number) == 0:
            # It has no jobs; but it may have to leave, or be in the middle of a frame that it does not finish.
            if worker.state is State.LEAVING or worker.buffered_bytes:
                return self._check_stall(worker, now, worker.active_at + _LEAVE_PATIENCE_S)
            return NEVER
        if worker.backend is not None:
            again = self._backend_calls.look(worker, now)
            return min(again, self._check_telling(worker, now))
        page = worker.page
        started_ns, seq = page[STARTED_NS], page[SEQ]
        started_at: float | None = None
        if self._scheduler.holds(worker.number, seq):
            started_at = self._state.machine.time_of(started_ns / 1e9)
            worker.note_seq(seq, now)
        again, overdue = check_running(
            now,
            self._state.limits.timeout_s,
            started_at=started_at,
            seen_at=worker.seen_at,
            active_at=worker.active_at,
            backend_wait_s=worker.backend_wait_s,
        )
        if overdue is Overdue.WORKER:
            return self._check_stall(worker, now, now)
        if overdue is None:
            worker.note_steady()
            return again
        if page[SEQ] != seq or page[STARTED_NS] != started_ns:
            # It went on to the next job at this very moment, and that one's time cannot be up. A page that always changes lies.
            return now if worker.note_waver() < MAX_WAVERS else self._check_stall(worker, now, now)
        return self._end(worker, Ending.past_deadline(seq), now)

    def _check_telling(self, worker: WorkerHandle, now: float) -> LookAt:
        """Whether a worker that waits long for a backend tells of the jobs that it did before: nobody else gets those."""
        wait = worker.backend
        if wait is None or wait.recalled_at is None or self._scheduler.load(worker.number) == 1:
            return NEVER
        return self._check_stall(worker, now, wait.recalled_at + self._state.limits.timeout_s + STALL_GRACE_S)

    def _check_stall(self, worker: WorkerHandle, now: float, end: float) -> LookAt:
        return end if now < end else self._end(worker, Ending.stalled(), now)

    def _end(self, worker: WorkerHandle, ending: Ending, now: float) -> LookAt:
        """SIGKILL. The next round is due at once: it asks for the successor, while the kernel still frees the memory."""
        self._endings.kill(worker, ending)
        return now

    def _check_start(self, worker: WorkerHandle, now: float) -> LookAt:
        names, timeout_s = self._state.names, self._state.limits.timeout_s
        if worker.backend is not None:
            return self._backend_calls.look(worker, now)
        index = worker.page[INITIALISING]
        if 0 < index <= len(names):
            worker.note_seq(index, now)
            end = worker.seen_at + timeout_s + worker.backend_wait_s
            if now >= end:
                name = names[index - 1]
                message = f"guard {name!r}: label_agent did not return within {timeout_s} s"
                message += ", or what runs before it (the start function, _initialize); timeout_s is the limit"
                if self._state.started:
                    return self._end(worker, Ending.stalled(message), now)
                self._state.fail(GuardInitError(message, guard=name))
        end = worker.born_at + _START_GRACE_S + timeout_s * len(names)
        if now >= end:
            return self._check_stall(worker, now, end)
        return min(end, now + min(_START_LOOK_S, timeout_s / 4))

    def _look_at_memory(self, now: float) -> LookAt:
        again = NEVER
        limit, shared = self._state.limits.max_rss_bytes, self._state.shared_bytes
        for worker in self._state.workers.values():
            if worker.state is State.READY or worker.state is State.LEAVING:
                seq, done = worker.page[SEQ], worker.page[DONE]
                worker.slots.rest(self._scheduler.holds, now)
                rss = worker.measure()
                if rss is None:
                    continue
                if rss > limit + shared:
                    verdict = self._blame(worker, seq, done, rss - limit - shared)
                    again = self._end(worker, Ending.over_memory(verdict, seq), now)
                    continue
                worker.note_within_cap(done)
                full = worker.page[FULL] >= NEARLY_FULL and now - worker.ready_at >= LEAST_AGE_S
                large = full or rss > limit * 3 // 4 + shared
                if not worker.recycle_due and (large or now - worker.born_at > MAX_WORKER_AGE_S):
                    worker.recycle_soon()
                    again = now  # its successor is to be asked for
        return again

    def _blame(self, worker: WorkerHandle, seq: int, done: int, over: int) -> Verdict:
        """Whether a worker passed the cap, by `over` bytes, because of the job that ran when it was measured, or may have done
        so because of those before it."""
        if not self._scheduler.holds(worker.number, seq) or worker.page[SEQ] != seq:
            return Verdict.INNOCENT
        # No job came to its end since it was last seen within the cap: only this one ran. What the worker has in memory of
        # earlier ones' replies and inputs may still be all that is too much.
        is_its_own = done == 0 or over > self._left_behind(worker)
        return Verdict.MEMORY if done == worker.done_within_cap and is_its_own else Verdict.SUSPECT

    def _left_behind(self, worker: WorkerHandle) -> int:
        """How many bytes a worker may keep of jobs that are over, at most, beside what their guards keep."""
        near = 0 if self._state.replies is None else self._state.limits.near_bytes
        return near + worker.slots.most_bytes
