"""`multiprocessing.Pool.imap_unordered` with chunks."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from guardpool import Job
from guardpool.submit.payload import encode_job
from guardpool_bench.contestants import Contestant, Supply, by, count_rate
from guardpool_bench.loadable import Loadable
from guardpool_bench.peers import CHUNK
from guardpool_bench.peers.work import Request, initialise, label

# Chunks outstanding for each worker; `imap` itself reads its input as fast as it can.
_CHUNKS_A_WORKER = 8


class _Imap:
    name = "multiprocessing"

    def __init__(self, pool: Any, workers: int) -> None:
        self._pool = pool
        self._workers = workers

    def rate(self, jobs: Sequence[Job], warm_s: float, run_s: float) -> float:
        supply = Supply(jobs)
        room = threading.Semaphore(_CHUNKS_A_WORKER * self._workers)

        def requests() -> Iterator[Request]:
            while True:
                room.acquire()
                part = supply.take(CHUNK)
                if not part:
                    return
                for job in part:
                    yield job.op, encode_job(job)

        outcomes = self._pool.imap_unordered(label, requests(), chunksize=CHUNK)

        def counts() -> Iterator[int]:
            for count in by(CHUNK, outcomes):
                room.release()
                yield count

        counted = counts()
        try:
            return count_rate(counted, warm_s, run_s)
        finally:
            supply.stop()
            room.release()
            for _ in counted:
                pass


class MultiprocessingPeer:
    """The pool; it has no `submit` with a future."""

    def __init__(self, guard: Loadable, workers: int) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(workers, initialise, (guard,))
        self.map: Contestant | None = _Imap(self._pool, workers)
        self.submit: Contestant | None = None
        self._pool.map(label_nothing, range(4 * workers), 1)

    def close(self) -> None:
        """End its workers."""
        self._pool.close()
        self._pool.join()


def label_nothing(number: int) -> int:
    """Return the number: the worker that does so has started."""
    return number


def start(guard: Loadable, workers: int) -> MultiprocessingPeer:
    """Start it."""
    return MultiprocessingPeer(guard, workers)
