"""Which worker is a session's home, and the jobs of sessions that wait. No I/O, no clock, no threads.

Theory of operation. The jobs of one session run on one worker, its home, in the order of their owner's indexes. A session is
placed when a worker takes its first job. From then on its jobs wait for that worker, even while others are idle; what keeps the
others busy are jobs without a session and sessions without a home. A session loses its home

- when the worker takes no more jobs (it died, or is to be replaced), as soon as that worker has none of its jobs any more: so
  no later job begins elsewhere while an earlier one may still run there;
- when its jobs are recalled before one of them came to an end there, since that worker has kept nothing of it;
- when one of its jobs is to be tried again on a worker that was sent none: that one becomes its home.

A session was restarted if it goes on at another worker than the one on which a job of it came to its end: `restarted` of its
tasks says so from then on.

What is kept is bounded. Of a session with jobs, waiting or in flight, there is as much as there are jobs; of sessions without
any the last `MAX_IDLE_SESSIONS` are remembered, and one that was forgotten begins like a new one.

Jobs wait by owner and session. A heap for each worker, and one for the sessions without a home, tell which session's turn is
next, by the index of its first job. An entry that is not true any more is dropped when it comes up; whatever makes one true
again adds another.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections import Counter, OrderedDict, deque
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar, Union

from guardpool.supervise.owner import Owner

# As many as jobs of a stream may wait. Of a million sessions with a job each the process grew by 5 MiB, and then no further.
MAX_IDLE_SESSIONS = 16_384
# A name that is longer is remembered by its digest: a session may be called by any string.
_MAX_NAME_CHARS = 64

_Key = Union[str, bytes]


class InSession(Protocol):
    """As much of a task as its session depends on."""

    session: str | None
    restarted: bool

    @property
    def fresh(self) -> bool:
        """Whether it is tried again, on a worker that was sent no job."""

    @property
    def index(self) -> int:
        """The job's place in its owner's order."""

    @property
    def owner(self) -> Owner:
        """Who gets the outcome."""


T = TypeVar("T", bound=InSession)


def _key_of(task: InSession) -> _Key:
    name = task.session
    assert name is not None
    if len(name) <= _MAX_NAME_CHARS:
        return name
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=32).digest()


def _index(task: InSession) -> int:
    return task.index


class _Session:
    __slots__ = ("before", "fresh", "home", "inflight", "jobs", "last", "restarted", "strays")

    def __init__(self) -> None:
        self.home: int | None = None
        self.jobs = 0  # waiting or in flight
        self.inflight = 0
        self.last: int | None = None  # the worker that its last job came to its end on
        self.before: int | None = None  # `last` before that job
        self.restarted = False
        self.strays = 0  # jobs in flight elsewhere than at its home: they come back from a worker that ended
        self.fresh = False  # one of its jobs waits for a worker that was sent none: the others wait for that one


class _Shelf(Generic[T]):
    """The waiting jobs of one owner."""

    def __init__(self) -> None:
        self.waiting: dict[_Key, deque[T]] = {}  # in the order of their indexes; no session without a job
        self.turns: dict[int | None, list[tuple[int, _Key]]] = {}  # heaps, by home
        self.backlog: Counter[int | None] = Counter()  # jobs by home
        self.count = 0

    def put(self, key: _Key, task: T) -> bool:
        """Add a job; whether it is the first one of its session now."""
        tasks = self.waiting.setdefault(key, deque())
        self.count += 1
        if not tasks or tasks[-1].index < task.index:
            tasks.append(task)
        elif task.index < tasks[0].index:
            tasks.appendleft(task)
        else:
            insort(tasks, task, key=_index)
        return tasks[0] is task

    def pop(self, key: _Key) -> T:
        """Remove the first job of a session."""
        tasks = self.waiting[key]
        task = tasks.popleft()
        self.count -= 1
        if not tasks:
            del self.waiting[key]
        return task


class Sessions(Generic[T]):
    """The sessions of a pool, whoever owns the jobs in them."""

    def __init__(self) -> None:
        self._sessions: dict[_Key, _Session] = {}
        self._idle: OrderedDict[_Key, None] = OrderedDict()  # those without a job, the one that was last used last
        self._shelves: dict[Owner, _Shelf[T]] = {}  # by owner; an empty one is dropped
        self._open: set[int] = set()  # workers that take jobs

    def __contains__(self, owner: Owner) -> bool:
        """Whether a job of the owner waits here."""
        return owner in self._shelves

    @property
    def waiting(self) -> int:
        """Jobs that wait. Safe from any thread."""
        return sum([shelf.count for shelf in list(self._shelves.values())])

    def waiting_of(self, owner: Owner) -> int:
        """Jobs of the owner that wait."""
        return self._shelves[owner].count

    def backlog(self, owner: Owner, worker: int) -> int:
        """How many waiting jobs of the owner only this worker may take."""
        return self._shelves[owner].backlog[worker]

    def homeless(self, owner: Owner) -> int:
        """About how many sessions with waiting jobs of the owner have no home."""
        return len(self._shelves[owner].turns.get(None, ()))

    # --- workers

    def join(self, worker: int) -> None:
        """Add a worker that takes jobs."""
        self._open.add(worker)

    def close(self, worker: int) -> None:
        """The worker takes no more jobs. It may finish what it has."""
        if worker not in self._open:
            return
        self._open.discard(worker)
        for shelf in list(self._shelves.values()):
            for _, key in shelf.turns.pop(worker, ()):
                if key in self._sessions:
                    self._settle(key)

    # --- jobs

    def put(self, task: T, *, is_new: bool = True) -> None:
        """Let a job wait, in its place by its index; `is_new` unless it was here before."""
        key = _key_of(task)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = _Session()
        elif not session.jobs:
            self._idle.pop(key, None)
        session.jobs += is_new
        shelf = self._shelves.get(task.owner)
        if shelf is None:
            shelf = self._shelves[task.owner] = _Shelf()
        is_first = shelf.put(key, task)
        shelf.backlog[session.home] += 1
        if session.home is not None and session.home not in self._open and not session.inflight:
            self._move(key, session, None)  # it went while the session had no jobs
        elif is_first:
            self._enlist(shelf, key, session)

    def first(self, owner: Owner, home: int | None) -> T | None:
        """The owner's next job in the sessions with that home (None: in those without one), or None if no job waits there."""
        shelf = self._shelves.get(owner)
        turns = None if shelf is None else shelf.turns.get(home)
        while turns and shelf is not None:
            index, key = turns[0]
            tasks = shelf.waiting.get(key)
            if tasks is not None and tasks[0].index == index and self._is_due(self._sessions[key], home):
                return tasks[0]
            heappop(turns)
        return None

    def take(self, task: T, worker: int) -> None:
        """Send to a worker the job that `first` has just given. The worker becomes the home of a session that had none."""
        key, shelf = _key_of(task), self._shelves[task.owner]
        session = self._sessions[key]
        heappop(shelf.turns[session.home])
        shelf.pop(key)
        shelf.backlog[session.home] -= 1
        if session.home is None:
            self._move(key, session, worker)
        elif key in shelf.waiting:
            self._enlist(shelf, key, session)
        self._drop_if_empty(task.owner)
        self._note_sent(task, session, worker)

    def finished(self, task: T, worker: int) -> None:
        """A job that was sent to the worker came to its end, there or with it."""
        key = _key_of(task)
        session = self._sessions[key]
        session.jobs -= 1
        session.before, session.last = session.last, worker
        if self._note_back(task, session):
            self._move(key, session, session.home)
        self._settle(key)

    def give_back(self, tasks: list[T]) -> None:
        """Let jobs that were sent to a worker, and did not come to an end there, wait again."""
        for task in tasks:
            key = _key_of(task)
            session = self._sessions[key]
            is_all_back = self._note_back(task, session)
            self.put(task, is_new=False)
            if is_all_back:
                self._move(key, session, session.home)
        for key in dict.fromkeys(map(_key_of, tasks)):
            self._settle(key)

    def cancel(self, owner: Owner) -> list[T]:
        """Take the owner's waiting jobs out, in the order of their indexes."""
        shelf = self._shelves.pop(owner, None)
        if shelf is None:
            return []
        for key, tasks in shelf.waiting.items():
            self._sessions[key].jobs -= len(tasks)
            self._settle(key)
        return sorted((task for tasks in shelf.waiting.values() for task in tasks), key=_index)

    # --- a job that is held for a worker that was sent none

    def hold(self, task: T, *, was_sent: bool) -> None:
        """The job waits for a worker that was sent none, and its session with it.

        Args:
            was_sent: it was sent to one already; else it was `finished`, which does not count.
        """
        key = _key_of(task)
        session = self._sessions.setdefault(key, _Session())
        self._idle.pop(key, None)
        if was_sent:
            session.inflight -= 1
        else:
            session.jobs += 1
            session.last = session.before
        session.fresh = True
        self._move(key, session, None)

    def send_held(self, task: T, worker: int) -> None:
        """Send a job that was held to a worker, which becomes the home of its session."""
        key = _key_of(task)
        session = self._sessions[key]
        session.fresh = False
        session.strays = session.inflight
        self._move(key, session, worker)
        self._note_sent(task, session, worker)

    def release_held(self, task: T) -> None:
        """Let a job that was held wait like others."""
        self._sessions[_key_of(task)].fresh = False
        self.put(task, is_new=False)

    def cancel_held(self, task: T) -> None:
        """Take back a job that was held."""
        key = _key_of(task)
        session = self._sessions[key]
        session.fresh = False
        session.jobs -= 1
        self._settle(key)

    # --- homes

    @staticmethod
    def _note_sent(task: T, session: _Session, worker: int) -> None:
        session.inflight += 1
        session.restarted = session.restarted or session.last not in (None, worker)
        task.restarted = session.restarted

    @staticmethod
    def _note_back(task: T, session: _Session) -> bool:
        """A job came back from a worker; whether it was the last of the strays, so that the session's turn may come again."""
        session.inflight -= 1
        if not session.strays or task.fresh:  # while there are strays, its home has no other job of it than that
            return False
        session.strays -= 1
        return not session.strays

    def _settle(self, key: _Key) -> None:
        """Jobs of a session left a worker or the pool, or its home takes no more: it may need another home, or none."""
        session = self._sessions[key]
        if not session.jobs:
            if session.last is None:
                del self._sessions[key]
                return
            self._idle[key] = None
            self._idle.move_to_end(key)
            if len(self._idle) > MAX_IDLE_SESSIONS:
                del self._sessions[self._idle.popitem(last=False)[0]]
        elif not session.inflight:
            home = session.home
            lost = home is not None and (home not in self._open or session.last != home)
            self._move(key, session, None if lost else home)

    def _move(self, key: _Key, session: _Session, home: int | None) -> None:
        """Give a session a home, or none, and its waiting jobs their turn there."""
        before, session.home = session.home, home
        for shelf in self._shelves.values():
            tasks = shelf.waiting.get(key)
            if tasks is not None:
                shelf.backlog[before] -= len(tasks)
                shelf.backlog[home] += len(tasks)
                if not shelf.backlog[before]:
                    del shelf.backlog[before]
                self._enlist(shelf, key, session)

    def _enlist(self, shelf: _Shelf[T], key: _Key, session: _Session) -> None:
        if self._is_due(session, session.home):
            heappush(shelf.turns.setdefault(session.home, []), (shelf.waiting[key][0].index, key))

    def _is_due(self, session: _Session, home: int | None) -> bool:
        """Whether the session's jobs may go to workers by that home's heap."""
        if session.home != home or session.fresh:
            return False
        return not session.inflight if home is None else home in self._open and not session.strays

    def _drop_if_empty(self, owner: Owner) -> None:
        if not self._shelves[owner].count:
            del self._shelves[owner]
