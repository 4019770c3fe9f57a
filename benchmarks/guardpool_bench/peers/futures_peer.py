"""`concurrent.futures.ProcessPoolExecutor`."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from guardpool_bench.loadable import Loadable
from guardpool_bench.peers.executors import ExecutorPeer
from guardpool_bench.peers.work import initialise


def start(guard: Loadable, workers: int) -> ExecutorPeer:
    """Start it."""
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, initialise, (guard,))
    return ExecutorPeer("concurrent.futures", executor.submit, workers, executor.shutdown)
