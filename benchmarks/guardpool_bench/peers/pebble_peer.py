"""`pebble.ProcessPool`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pebble import ProcessPool

from guardpool_bench.loadable import Loadable
from guardpool_bench.peers.executors import ExecutorPeer
from guardpool_bench.peers.work import initialise


def start(guard: Loadable, workers: int) -> ExecutorPeer:
    """Start it, without recycling."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=workers, initializer=initialise, initargs=(guard,), context=context)

    def submit(function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        future: Future[Any] = pool.schedule(function, args=[argument])
        return future

    def close() -> None:
        pool.close()
        pool.join()

    return ExecutorPeer("pebble", submit, workers, close)
