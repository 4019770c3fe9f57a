"""`loky.ProcessPoolExecutor`, which starts its workers by fork and exec."""

from __future__ import annotations

from loky import ProcessPoolExecutor

from guardpool_bench.loadable import Loadable
from guardpool_bench.peers.executors import ExecutorPeer
from guardpool_bench.peers.work import initialise


def start(guard: Loadable, workers: int) -> ExecutorPeer:
    """Start it, without its time limit for idle workers."""
    executor = ProcessPoolExecutor(workers, timeout=None, initializer=initialise, initargs=(guard,))
    return ExecutorPeer("loky", executor.submit, workers, executor.shutdown)
