"""What is measured: contestants, which turn an endless supply of jobs into a countable stream of outcomes.

Every contestant is driven in the same way: it gets jobs for as long as it asks for them, its outcomes are counted from the
end of the warm-up to the end of the run, then it stops asking and finishes what it has. Nothing is counted while it starts
up or winds down.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import cycle, islice
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Protocol

from guardpool import GuardPool, Job, PoolClosed
from guardpool.jobs import Prepared
from guardpool.submit.payload import encode_job
from guardpool_bench.bareloop import BareLoops, Kind, begin_at
from guardpool_bench.fedloop import Layout, buffer_of, feed

# Jobs that a caller of `submit` keeps outstanding: enough that no worker waits for it.
SUBMIT_WINDOW = 512
_PORTION_JOBS = 256


class Contestant(Protocol):
    """Something with a rate.

    Attributes:
        name: a word for keys and legends: `guardpool`, `bare`, `multiprocessing`.
    """

    name: str

    def rate(self, jobs: Sequence[Job], warm_s: float, run_s: float) -> float:
        """Jobs a second, once it runs evenly. The jobs are used over and over."""


class Supply:
    """Jobs without end, until told to stop."""

    def __init__(self, jobs: Sequence[Any]) -> None:
        self._endless = cycle(jobs)
        self.stopped = False

    def __iter__(self) -> Iterator[Any]:
        while not self.stopped:
            yield from islice(self._endless, 64)

    def take(self, count: int) -> list[Any]:
        """The next jobs at once; none when stopped."""
        return [] if self.stopped else list(islice(self._endless, count))

    def stop(self) -> None:
        """Give out no more jobs."""
        self.stopped = True


def count_rate(counts: Iterable[int], warm_s: float, run_s: float) -> float:
    """Outcomes a second of a stream of counts.

    Counting begins and ends at moments at which outcomes came, so a burst of outcomes is not counted for a time in which
    they were not made.
    """
    clock = time.perf_counter
    begin = clock() + warm_s
    end = 0.0
    began = 0.0
    done = 0
    for count in counts:
        now = clock()
        if not began:
            if now >= begin:
                began, end = now, now + run_s
            continue
        done += count
        if now >= end:
            return done / (now - began)
    raise RuntimeError("the jobs came to an end before the run did")


def by(count: int, outcomes: Iterator[Any]) -> Iterator[int]:
    """Counts of outcomes in portions: the clock is not read for each outcome."""
    while (got := sum(1 for _ in islice(outcomes, count))) > 0:
        yield got


class Bare:
    """The bare loops of `bareloop` as a contestant."""

    def __init__(
        self, loops: BareLoops, guard: str, jobs: str, kind: Kind = "bare", members: int | None = None
    ) -> None:
        self.name: str = kind
        self._run = lambda warm_s, run_s: loops.rate(guard, jobs, warm_s, run_s, kind=kind, members=members)

    def rate(self, jobs: Sequence[Job], warm_s: float, run_s: float) -> float:
        """The loops hold the jobs already."""
        return self._run(warm_s, run_s)


class Fed:
    """The loops, and this process, which feeds them, as a contestant.

    Args:
        loops: whose processes run them; they hold the guard and the jobs.
        guard, jobs: names of what they hold. All jobs are of one operation.
        members: how many loops.
    """

    name = "bare-fed"

    def __init__(self, loops: BareLoops, guard: str, jobs: str, members: int) -> None:
        self._loops, self._guard, self._jobs, self._members = loops, guard, jobs, members
        self._payloads: list[bytes] = []
        self._turns = 0

    def rate(self, jobs: Sequence[Job], warm_s: float, run_s: float) -> float:
        """Jobs a second of all loops together."""
        if not self._payloads:
            self._payloads = [encode_job(job) for job in jobs]
        self._turns += 1
        at = int(begin_at(self._turns) * len(jobs))
        endless = cycle([*self._payloads[at:], *self._payloads[:at]])
        layout = Layout.of(max(map(len, self._payloads)))
        memories = [SharedMemory(create=True, size=layout.size) for _ in range(self._members)]
        try:
            names = [memory.name for memory in memories]
            with self._loops.feeding(self._guard, self._jobs, jobs[0].op, names, layout) as pipes:
                counts = feed(dict(zip(pipes, map(buffer_of, memories))), layout, endless)
                try:
                    return count_rate(counts, warm_s, run_s)
                finally:
                    counts.close()
        finally:
            for memory in memories:
                memory.close()
                memory.unlink()


class PoolMap:
    """`pool.map(jobs)` in order, from `Job` objects."""

    def __init__(self, pool: GuardPool, name: str = "guardpool") -> None:
        self.name = name
        self._pool = pool
        self._turns = 0

    def rate(self, jobs: Sequence[Job], warm_s: float, run_s: float) -> float:
        self._turns += 1
        at = int(begin_at(self._turns) * len(jobs))
        return self.rate_of(cycle([*jobs[at:], *jobs[:at]]), warm_s, run_s)

    def rate_of(self, endless: Iterable[Job], warm_s: float, run_s: float) -> float:
        """Jobs a second of jobs that do not come to an end."""
        outcomes = self._pool.map(endless)
        try:
            return count_rate(by(32, outcomes), warm_s, run_s)
        finally:
            outcomes.close()  # type: ignore[attr-defined]  # it is a generator
            settle(self._pool)


class PoolStream:
    """`pool.stream()` with jobs that are encoded already, put by a thread of the caller's; as `guardpool label` does."""

    def __init__(self, pool: GuardPool, name: str = "guardpool-encoded") -> None:
        self.name = name
        self._pool = pool
        self._prepared: dict[int, list[Prepared]] = {}

    def rate(self, jobs: Sequence[Job], warm_s: float, run_s: float) -> float:
        prepared = self._prepared.get(id(jobs))
        if prepared is None:
            prepared = [Prepared(job.id, None, job.op, job.tool_name, encode_job(job)) for job in jobs]
            self._prepared = {id(jobs): prepared}
        stream = self._pool.stream()
        supply = Supply(prepared)

        def feed() -> None:
            try:
                while part := supply.take(_PORTION_JOBS):
                    stream.put(part)
            except PoolClosed:
                pass  # cancelled below: the run is over
            stream.finish()

        feeder = threading.Thread(target=feed)
        feeder.start()
        batches = iter(stream.take, [])
        try:
            return count_rate(map(len, batches), warm_s, run_s)
        finally:
            supply.stop()
            stream.cancel()
            feeder.join()
            stream.close()
            settle(self._pool)


class Submit:
    """One `submit` a job, with a window of futures whose results are taken in order.

    Args:
        submit: job -> future; encodes the job if it has to.
    """

    def __init__(self, name: str, submit: Callable[[Job], Future[Any]]) -> None:
        self.name = name
        self._submit = submit

    def one(self, job: Job) -> Any:
        """Run one job and wait for its result."""
        return self._submit(job).result()

    def rate(self, jobs: Sequence[Job], warm_s: float, run_s: float) -> float:
        waiting: deque[Future[Any]] = deque()
        supply = iter(cycle(jobs))

        def outcomes() -> Iterator[int]:
            for job in supply:
                waiting.append(self._submit(job))
                if len(waiting) >= SUBMIT_WINDOW:
                    waiting.popleft().result()
                    yield 1

        try:
            return count_rate(outcomes(), warm_s, run_s)
        finally:
            while waiting:
                waiting.popleft().result()


def settle(pool: GuardPool, patience_s: float = 10.0) -> None:
    """Wait until a pool has nothing left to do: the next run must not begin in the middle of this one."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        stats = pool.stats()
        if not stats.queued and not stats.in_flight:
            return
        time.sleep(0.001)
