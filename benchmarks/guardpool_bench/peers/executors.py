"""The part that peers with a `submit` share: one job a call, or chunks, as their own `map` with a chunk size does it.

`Executor.map` reads its whole input before it begins. So chunks are submitted one after the other, as many as keep the
workers busy, which costs the same a job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from guardpool import Job
from guardpool.submit.payload import encode_job
from guardpool_bench.contestants import Submit, Supply, count_rate
from guardpool_bench.peers import CHUNK
from guardpool_bench.peers.work import label, label_chunk

# Chunks outstanding for each worker.
_CHUNKS_A_WORKER = 4

SubmitCall = Callable[[Callable[[Any], Any], Any], "Future[Any]"]
"""`submit(function, argument) -> future`."""


class Chunks:
    """Chunks of jobs, results taken in order.

    Args:
        submit: the executor's.
        workers: how many workers it has.
    """

    def __init__(self, name: str, submit: SubmitCall, workers: int) -> None:
        self.name = name
        self._submit = submit
        self._window = _CHUNKS_A_WORKER * workers

    def rate(self, jobs: Sequence[Job], warm_s: float, run_s: float) -> float:
        waiting: deque[Future[Any]] = deque()
        supply = Supply(jobs)

        def outcomes() -> Iterator[int]:
            while True:
                while len(waiting) < self._window:
                    chunk = [(job.op, encode_job(job)) for job in supply.take(CHUNK)]
                    waiting.append(self._submit(label_chunk, chunk))
                yield len(waiting.popleft().result())

        try:
            return count_rate(outcomes(), warm_s, run_s)
        finally:
            while waiting:
                waiting.popleft().result()


class ExecutorPeer:
    """A peer with both `map` and `submit`."""

    def __init__(self, name: str, submit: SubmitCall, workers: int, close: Callable[[], None]) -> None:
        self.map = Chunks(name, submit, workers)
        self.submit = Submit(name, lambda job: submit(label, (job.op, encode_job(job))))
        self._close = close
        # Every worker is there and initialised before anything is measured.
        for future in [submit(label_chunk, []) for _ in range(4 * workers)]:
            future.result()

    def close(self) -> None:
        """End its workers."""
        self._close()
