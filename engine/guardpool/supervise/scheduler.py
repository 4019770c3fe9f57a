"""Which job goes to which worker, and what becomes of the jobs of a worker that died. No I/O, no clock, no threads.

Theory of operation. A job is in exactly one place at any time: in the queue, in flight at one worker, or finished. The
queue has a lane for each owner (a `map`, a command's stream, the single calls), first come, first served within a lane, and
the lanes take turns by frames, so that no caller starves another. An owner that does not take its outcomes is paused.

Frames are sized by what jobs cost, not by their number: `frame_budget.py` knows how many of a lane's jobs are about 8 ms
of work. Up to two frames are in flight at a worker, so that it never waits for the next one; if jobs are slow that gains
nothing and would only make a job wait behind another, so the second frame is held back. Towards the end of the queue
frames shrink to a share of what is left, so that all workers end together.

A job that waits for its guard's backend keeps its worker and nothing else: after a moment the jobs behind it are recalled
(`Scheduler.recall`) and go to a worker that is free.

When a worker dies its jobs go back to the head of the queue in the order they were sent. Only the job that ran when the
worker died can be charged, and only for a death that is not explained otherwise: `Scheduler.lost` is told which it was.
A job that failed because jobs before it had filled its guard's memory is tried again on a worker that has run nothing
(`Scheduler.try_again`). Such jobs are in no lane, because other workers go on with the lanes meanwhile.

The jobs of a session run on one worker, in order, and wait apart from the lanes: `sessions.py` knows who may take which. A
worker takes jobs with and without a session in the order of their owner's indexes. One whose own sessions have more than its
share of all that waits takes those alone, and leaves the rest to the others; and of sessions that have no worker yet it takes
a share, so that a few long ones do not all end up on the worker that asked first.

If it cannot be known which job ran, because the worker lied or died between two jobs, each of its jobs is sent alone next time,
to a worker that has no other: if one of them kills workers and hides it, the next death tells which.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Any

import msgspec

from guardpool.protocol.wire import ResultItem
from guardpool.supervise.frame_budget import FRAMES_IN_FLIGHT, MAX_FRAME_JOBS, SECOND_FRAME_BELOW_US, FrameBudget
from guardpool.supervise.owner import Owner
from guardpool.supervise.sessions import Sessions


class Verdict(str, Enum):
    """How a worker ended, as far as the job that ran is concerned."""

    INNOCENT = "innocent"  # nothing ran, or the death has another cause: no job is charged
    TIMEOUT = "timeout"  # killed at the deadline: final
    MEMORY = "memory"  # killed at the memory cap: final
    SUSPECT = "suspect"  # killed at the memory cap, but a job before it may be to blame: tried once more at least
    CRASH = "crash"  # it died for no known reason: one attempt is charged
    ORPHANED = "orphaned"  # it died with its forkserver, once too often for the job to have no part in that: final


# A forkserver that dies takes its workers with it, and no job is charged. A job under which that happens so often may be the
# reason, e.g. because the kernel ends the forkserver when the job has used up the memory.
MAX_ORPHANINGS = 10
# From then on it runs alone, so that no other job is counted along with it.
_ALONE_FROM_ORPHANINGS = 2


class Task(msgspec.Struct, gc=False, eq=False):
    """A job inside the pool.

    Args:
        seq: the pool's own number, never used twice.
        guard: index of the guard.
        op: the operation.
        payload: the guard's input.
        kind: which running average of cost it belongs to: `guard * 2 + (op is label_response)`.
        owner: who gets the outcome; the scheduler never calls it.
        index: the job's place in its owner's order.
        job_id: the caller's id.
        tool_name: the job's tool, for the outcome.
        deaths: how many workers died while they ran it, or had no memory left for it.
        alone: it may have killed a worker, so it is sent to a worker that has no other job from now on.
        fresh: jobs before it may have left it no memory, so it is sent to a worker that was sent no job.
        orphanings: how many forkservers died while it ran, or may have run.
        session: which session the job belongs to; None: none.
        time_us: where the guard's clocks begin, in microseconds since 1970; 0 unless the pool is deterministic.
        restarted: jobs of its session before it came to their end on another worker than the one it was sent to last.
    """

    seq: int
    guard: int
    op: str
    payload: bytes
    kind: int
    owner: Owner
    index: int
    job_id: Any
    tool_name: str | None
    deaths: int = 0
    alone: bool = False
    fresh: bool = False
    orphanings: int = 0
    session: str | None = None
    time_us: int = 0
    restarted: bool = False


_NO_JOBS: deque[Task] = deque()


def _index(task: Task) -> int:
    return task.index


def _stranger(seqs: Iterable[int], held: Mapping[int, Task]) -> int | None:
    """The first number that is not held or that appears for the second time; None if there is none."""
    left = set(held)
    for seq in seqs:
        if seq not in left:
            return seq
        left.remove(seq)
    return None


class _Worker:
    __slots__ = ("alone", "asked", "done", "inflight", "marks", "open", "sent", "waits")

    def __init__(self) -> None:
        self.inflight: dict[int, Task] = {}
        self.marks: deque[int] = deque()  # value of `sent` after each frame that is not done yet
        self.sent = 0
        self.done = 0
        self.open = True
        self.alone = False  # its last frame holds a job that must be alone
        self.waits = False  # its job waits for its backend: it takes no other
        self.asked = 0  # the last job that asked its backend


class Scheduler:
    """The queue and the workers' shares of it.

    Args:
        guards: how many guards the pool holds.
        max_attempts: a job is finished once so many workers died while they ran it.
        max_frame_jobs: jobs in one frame at most.

    Attributes:
        knows_sessions: some task was in a session.
    """

    def __init__(self, guards: int, max_attempts: int, max_frame_jobs: int = MAX_FRAME_JOBS) -> None:
        self._lanes: dict[Owner, deque[Task]] = {}  # by owner; an empty lane is dropped
        self._sessions: Sessions[Task] = Sessions()
        self.knows_sessions = False  # some task was in one
        self._turns: deque[Owner] = deque()  # owners of jobs in lanes or sessions, whose turn is next first
        self._fresh: deque[Task] = deque()  # jobs that wait for a worker that was sent none
        self._paused: dict[Owner, int] = {}
        self._draining = False
        self._workers: dict[int, _Worker] = {}
        self._open = 0
        self._budget = FrameBudget(guards)
        self._max_attempts = max_attempts
        self._max_frame_jobs = max_frame_jobs
        self._suspects = False  # some task was made `alone`

    # --- jobs

    def add(self, owner: Owner, tasks: Sequence[Task]) -> None:
        """Queue tasks of one owner behind those it has queued already."""
        kept = [task for task in tasks if task.session is not None]
        if kept:
            self.knows_sessions = True
            for task in kept:
                self._sessions.put(task)
            self._take_turns(owner)
            tasks = [task for task in tasks if task.session is None]
        if tasks:
            self._lane(owner).extend(tasks)

    @property
    def queued(self) -> int:
        """Jobs that no worker has."""
        return sum(map(len, list(self._lanes.values()))) + len(self._fresh) + self._sessions.waiting

    @property
    def in_flight(self) -> int:
        """Jobs that some worker has."""
        # Other threads read this, as they read `queued`: a copy made in one go cannot change while it is summed.
        return sum([len(worker.inflight) for worker in list(self._workers.values())])

    def cancel(self, owner: Owner) -> list[Task]:
        """Take the queued tasks of an owner back out of the queue; what is in flight stays there."""
        self._paused.pop(owner, None)
        fresh = [task for task in self._fresh if task.owner is owner]
        self._fresh = deque(task for task in self._fresh if task.owner is not owner)
        for task in fresh:
            if task.session is not None:
                self._sessions.cancel_held(task)
        if not self._is_queued(owner):
            return fresh
        self._turns.remove(owner)
        return [*fresh, *self._lanes.pop(owner, ()), *self._sessions.cancel(owner)]

    def drop(self, owner: Owner, indexes: Collection[int]) -> list[Task]:
        """Take some of an owner's queued tasks back out of the queue, by their indexes. What is in flight stays there, and what
        is to be tried again stays queued."""
        if not self._is_queued(owner):
            return []
        lane, kept = self._lanes.pop(owner, ()), self._sessions.cancel(owner)
        left = deque(task for task in lane if task.index not in indexes)
        if left:
            self._lanes[owner] = left
        for task in kept:
            if task.index not in indexes:
                self._sessions.put(task)
        if not self._is_queued(owner):
            self._turns.remove(owner)
        return [task for task in (*lane, *kept) if task.index in indexes]

    def cancel_all(self) -> list[Task]:
        """Take every queued task back out of the queue."""
        owners = dict.fromkeys([*self._lanes, *(task.owner for task in self._fresh), *self._turns])
        return [task for owner in owners for task in self.cancel(owner)]

    def pause(self, owner: Owner, from_index: int) -> None:
        """Send no job of the owner from that index on to a worker: its consumer does not keep up."""
        if not self._draining:
            self._paused[owner] = from_index

    def resume(self, owner: Owner, from_index: int | None = None) -> None:
        """Send the owner's jobs again, since its consumer keeps up; with an index, only those before it."""
        if from_index is None or self._draining:
            self._paused.pop(owner, None)
        else:
            self._paused[owner] = from_index

    def drain(self) -> None:
        """Pause no owner from now on: the pool closes when the queue is empty, even if no consumer takes outcomes."""
        self._draining = True
        self._paused.clear()

    # --- workers

    def join(self, worker: int) -> None:
        """Add a worker that is ready for frames."""
        self._workers[worker] = _Worker()
        self._open += 1
        self._sessions.join(worker)

    def retire(self, worker: int) -> None:
        """Send the worker no further frame; it may finish what it has."""
        state = self._workers.get(worker)
        if state is not None and state.open:
            state.open = False
            self._open -= 1
            self._sessions.close(worker)

    def holds(self, worker: int, seq: int) -> bool:
        """Whether the job is in flight at the worker."""
        state = self._workers.get(worker)
        return state is not None and seq in state.inflight

    def task(self, worker: int, seq: int | None) -> Task | None:
        """The job of that number, if it is in flight at the worker."""
        state = self._workers.get(worker)
        return None if state is None or seq is None else state.inflight.get(seq)

    def asks(self, worker: int, seq: int) -> Task | None:
        """The job of that number, which asks its backend; None if the worker cannot be running it: it does not hold it, or
        asked for a job behind it before. It runs its jobs in order, and need not have told of those before this one."""
        state = self._workers.get(worker)
        if state is None or seq not in state.inflight:
            return None
        last = state.asked
        if (
            last != seq
            and last in state.inflight
            and next(held for held in state.inflight if held in (seq, last)) == seq
        ):
            return None
        state.asked = seq
        return state.inflight[seq]

    def load(self, worker: int) -> int:
        """Jobs in flight at the worker; 0 for an unknown worker."""
        state = self._workers.get(worker)
        return 0 if state is None else len(state.inflight)

    def behind(self, worker: int, seq: int) -> int:
        """Jobs in flight at the worker that were sent to it after that one, which it holds."""
        state = self._workers[worker]
        return len(state.inflight) - 1 - list(state.inflight).index(seq)

    @property
    def has_room(self) -> bool:
        """Whether some worker could take a frame if there were jobs for it."""
        return any(map(self._takes, self._workers.values()))

    def hungry(self) -> list[int]:
        """The workers that may get a frame, those with the least in flight first."""
        if not self._turns and not self._fresh:
            return []
        ready = [(len(w.marks), wid) for wid, w in self._workers.items() if self._takes(w)]
        ready.sort()
        return [wid for _, wid in ready]

    def next_frame(self, worker: int) -> list[Task]:
        """The next frame for a worker; empty if there is nothing for it now."""
        state = self._workers.get(worker)
        if state is None or not self._takes(state):
            return []
        if state.marks and (state.alone or self._budget.expected_us(state.inflight.values()) > SECOND_FRAME_BELOW_US):
            return []
        if self._fresh and not state.sent:
            frame = [self._fresh.popleft()]
            if frame[0].session is not None:
                self._sessions.send_held(frame[0], worker)
        else:
            frame = self._fill(worker, idle=not state.inflight)
        if frame:
            inflight = state.inflight
            state.alone = frame[0].alone
            for task in frame:
                inflight[task.seq] = task
            state.sent += len(frame)
            state.marks.append(state.sent)
        return frame

    @staticmethod
    def _takes(state: _Worker) -> bool:
        return state.open and not state.waits and len(state.marks) < FRAMES_IN_FLIGHT

    def recall(self, worker: int, seq: int) -> int:
        """Take the jobs behind one that waits for its backend back into the queue, uncharged; until `answered` the worker gets
        no more. It keeps those before that one, which it has done.

        Args:
            worker: which one; it must be certain not to run the other jobs before it is told of this.
            seq: the job that waits.

        Returns:
            How many jobs went back.
        """
        state = self._workers.get(worker)
        if state is None or seq not in state.inflight:
            return 0
        tasks = list(state.inflight.values())
        up_to = len(tasks) - self.behind(worker, seq)
        kept, others = tasks[:up_to], tasks[up_to:]
        state.inflight = {task.seq: task for task in kept}
        state.sent = state.done + len(kept)
        state.marks = deque((state.sent,))
        state.alone, state.waits = kept[-1].alone, True
        self._give_back(others)
        return len(others)

    def answered(self, worker: int) -> None:
        """Let the worker get jobs again: the answer came that its job waited for."""
        state = self._workers.get(worker)
        if state is not None:
            state.waits = False

    def held(self, worker: int, items: Sequence[ResultItem]) -> tuple[list[Task], str | None]:
        """Match results with the jobs that the worker holds. Nothing changes: `finish` takes them from it.

        Returns:
            The jobs, in the order of their results, and None; or no job, and what the worker did wrong: a result for a job
            it does not hold.
        """
        state = self._workers.get(worker)
        if state is None:
            return [], "results from a worker that holds no jobs"
        inflight = state.inflight
        seqs = [item.seq for item in items]
        if list(islice(inflight, len(seqs))) == seqs:  # as they were sent, which is what an honest worker does
            return list(islice(inflight.values(), len(seqs))), None
        stranger = _stranger(seqs, inflight)
        if stranger is not None:
            return [], f"a result for job {stranger}, which it does not hold"
        return [inflight[seq] for seq in seqs], None

    def finish(self, worker: int, tasks: list[Task], items: Sequence[ResultItem]) -> None:
        """Take finished jobs from the worker that holds them, and learn what they cost."""
        state = self._workers[worker]
        inflight = state.inflight
        for task in tasks:
            del inflight[task.seq]
        if self.knows_sessions:
            self._leave_sessions(tasks, worker)
        self._budget.learn(tasks, items)
        state.done += len(tasks)
        marks = state.marks
        while marks and marks[0] <= state.done:
            marks.popleft()

    def try_again(self, task: Task) -> None:
        """Have a job that was finished run once more, on a worker that was sent no job; that counts as an attempt."""
        task.deaths += 1
        task.fresh = True
        self._fresh.append(task)
        if task.session is not None:
            self._sessions.hold(task, was_sent=False)

    def has_of_session(self, worker: int, session: str) -> bool:
        """Whether jobs of the session are in flight at the worker."""
        state = self._workers.get(worker)
        return state is not None and any(task.session == session for task in state.inflight.values())

    def release_fresh(self) -> None:
        """Queue the jobs that wait for such a worker like others: none is to be had."""
        tasks, self._fresh = list(self._fresh), deque()
        for task in reversed(tasks):
            if task.session is None:
                self._lane(task.owner).appendleft(task)
            else:
                self._sessions.release_held(task)
                self._take_turns(task.owner)

    @property
    def wants_fresh(self) -> bool:
        """Whether a job waits for a worker that was sent none."""
        return bool(self._fresh)

    def was_used(self, worker: int) -> bool:
        """Whether the worker has done a job."""
        state = self._workers.get(worker)
        return state is not None and state.done > 0

    def lost(self, worker: int, running: int | None, verdict: Verdict) -> list[tuple[Task, Verdict]]:
        """Put the jobs of a worker that is gone back into the queue, but for the victim if that is finished.

        Args:
            worker: which one; a worker that never joined has no jobs.
            running: seq of the job that ran when it died, or None.
            verdict: how the worker ended.

        Returns:
            The victim, if it is finished, and with which verdict; else nothing. A crash finishes its victim when
            `max_attempts` workers died while they ran it; SUSPECT does so as well, but never at the first death, and a
            job without a session is then tried on a worker that was sent no job.
        """
        state = self._workers.pop(worker, None)
        if state is None:
            return []
        if state.open:
            self._open -= 1
            self._sessions.close(worker)
        finished: list[tuple[Task, Verdict]] = []
        victim = None if running is None else state.inflight.get(running)
        if victim is not None and verdict is not Verdict.INNOCENT:
            victim.deaths += verdict is not Verdict.ORPHANED  # `orphan` counted that
            if victim.deaths >= self._attempts(verdict):
                del state.inflight[victim.seq]
                finished.append((victim, verdict))
                self._leave_sessions([victim], worker)
            elif verdict is Verdict.SUSPECT and victim.session is None:  # a session is tied to the order of its jobs
                victim.fresh = True
        self._give_back(list(state.inflight.values()))
        return finished

    def lone_suspect(self, worker: int) -> int | None:
        """The number of the only job that the worker holds, if that one was suspected before; else None."""
        state = self._workers.get(worker)
        if state is None or len(state.inflight) != 1:
            return None
        (task,) = state.inflight.values()
        return task.seq if task.alone else None

    def suspect(self, worker: int) -> None:
        """Have each job of a worker run alone next time, since any of them may have killed it. Call before `lost`."""
        state = self._workers.get(worker)
        for task in () if state is None else state.inflight.values():
            task.alone = self._suspects = True

    def orphan(self, worker: int, running: int | None) -> int | None:
        """Note that a worker's forkserver died while it held jobs. Call before `lost`.

        Args:
            worker: which one.
            running: seq of the job that ran, or None if any of those it holds may have run.

        Returns:
            The seq of a job that saw `MAX_ORPHANINGS` of them, or None.
        """
        state = self._workers.get(worker)
        inflight = {} if state is None else state.inflight
        tasks = [inflight[running]] if running in inflight else list(inflight.values())
        for task in tasks:
            task.orphanings += 1
            if task.orphanings >= _ALONE_FROM_ORPHANINGS:
                task.alone = self._suspects = True
        return next((task.seq for task in tasks if task.orphanings >= MAX_ORPHANINGS), None)

    def _attempts(self, verdict: Verdict) -> int:
        if verdict is Verdict.CRASH:
            return self._max_attempts
        if verdict is Verdict.ORPHANED:
            return 0
        return max(2, self._max_attempts) if verdict is Verdict.SUSPECT else 1

    # --- filling frames

    def _fill(self, worker: int, idle: bool) -> list[Task]:
        for _ in range(len(self._turns)):
            owner = self._turns[0]
            if self.knows_sessions and owner in self._sessions:
                mixed = self._mixed(owner, worker, idle)
                if mixed is None:
                    return []  # as below
                self._turns.rotate(-1)
                if mixed:
                    self._drop_if_empty(owner)
                    return mixed
                continue
            lane = self._lanes[owner]
            paused = owner in self._paused
            if paused and lane[0].index >= self._paused[owner]:
                self._turns.rotate(-1)
                continue
            if lane[0].alone and not idle:
                return []  # its turn stays: the next worker that asks may have nothing else to do
            self._turns.rotate(-1)
            frame = [lane.popleft()] if paused else self._take(lane)
            self._drop_if_empty(owner)
            return frame
        return []

    def _take(self, lane: deque[Task]) -> list[Task]:
        # A share of what is left, so that towards the end all workers stay busy.
        most = min(self._max_frame_jobs, len(lane) // (FRAMES_IN_FLIGHT * max(1, self._open)) or 1)
        if self._suspects:
            most = next((at for at, task in enumerate(islice(lane, most)) if task.alone), most) or 1
        tasks = list(islice(lane, min(most, self._budget.most_jobs(lane[0]))))
        tasks = tasks[: self._budget.affordable(tasks)]
        take = lane.popleft
        for _ in tasks:
            take()
        return tasks

    def _mixed(self, owner: Owner, worker: int, idle: bool) -> list[Task] | None:
        """A frame for an owner with jobs in sessions; None if the next job has to wait until the worker has no other."""
        sessions, lane = self._sessions, self._lanes.get(owner, _NO_JOBS)
        below = self._paused.get(owner)
        most = self._max_frame_jobs if below is None else 1
        shared = self._share_of(owner, worker, below)
        room = self._budget.room()
        frame: list[Task] = []
        while len(frame) < most:
            task = sessions.first(owner, worker)
            is_own = task is not None
            if shared > 0:
                for other in (lane[0] if lane else None, sessions.first(owner, None)):
                    if other is not None and (task is None or other.index < task.index):
                        task, is_own = other, False
            if task is None or (below is not None and task.index >= below):
                break
            if task.alone and (frame or not idle):
                return frame or None
            if not room.takes(task) and frame:
                break
            if task.session is None:
                lane.popleft()
            else:
                sessions.take(task, worker)
            shared -= not is_own
            frame.append(task)
            if task.alone:
                break
        return frame

    def _share_of(self, owner: Owner, worker: int, below: int | None) -> int:
        """How many of an owner's jobs that any worker may take, and sessions without a worker, one frame may have."""
        sessions, workers = self._sessions, max(1, self._open)
        unbound = len(self._lanes.get(owner, ()))
        backlog = sessions.backlog(owner, worker)
        if backlog * workers > unbound + sessions.waiting_of(owner):
            own = sessions.first(owner, worker)
            if own is not None and (below is None or own.index < below):
                return 0
        return (unbound + sessions.homeless(owner)) // (FRAMES_IN_FLIGHT * workers) or 1

    # --- lanes and sessions

    def _is_queued(self, owner: Owner) -> bool:
        return owner in self._lanes or owner in self._sessions

    def _take_turns(self, owner: Owner) -> None:
        if owner not in self._turns:
            self._turns.append(owner)

    def _lane(self, owner: Owner) -> deque[Task]:
        lane = self._lanes.get(owner)
        if lane is None:
            lane = self._lanes[owner] = deque()
            self._take_turns(owner)
        return lane

    def _leave_sessions(self, tasks: list[Task], worker: int) -> None:
        for task in tasks:
            if task.session is not None:
                self._sessions.finished(task, worker)

    def _drop_if_empty(self, owner: Owner) -> None:
        if owner in self._lanes and not self._lanes[owner]:
            del self._lanes[owner]
        if not self._is_queued(owner):
            self._turns.remove(owner)

    def _give_back(self, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            if task.fresh:
                self._fresh.appendleft(task)
                if task.session is not None:
                    self._sessions.hold(task, was_sent=True)
        tasks = [task for task in tasks if not task.fresh]
        if self.knows_sessions:
            kept = [task for task in tasks if task.session is not None]
            tasks = [task for task in tasks if task.session is None]
            self._sessions.give_back(kept)
            for owner in dict.fromkeys([task.owner for task in kept]):
                self._take_turns(owner)
        for task in reversed(tasks):
            self._lane(task.owner).appendleft(task)
        for owner in {task.owner for task in tasks}:
            lane = self._lanes[owner]
            # What a paused owner waits for must be at the head, so a lane is kept in the order of its indexes. Only the
            # jobs of a second worker that dies before the first one's were sent again can be out of it.
            if any(lane[i].index > lane[i + 1].index for i in range(min(len(lane) - 1, 2 * len(tasks)))):
                self._lanes[owner] = deque(sorted(lane, key=_index))
