"""From a worker's death to the next result: killed from outside, ended by a trap, ended at the deadline.

The pool has one worker, so the next result has to wait for the one that takes its place. The next call follows a kill as
closely as it can; for a trap or a timeout the clock starts at that job's own outcome.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from guardpool import GuardPool, Job, Limits
from guardpool_bench import workguard
from guardpool_bench.context import Context

_TIMEOUT_S = 0.1
_PATIENCE_S = 10.0


def run(context: Context) -> None:
    """Measure each cause of death on its own pool."""
    with quiet():
        _measure_kill(context, "subject", next(iter(context.jobsets.values())).jobs[0])
        for cause, job in (("trap", workguard.trap_job()), ("timeout", workguard.spin_job())):
            _measure_end(context, cause, job)


@contextmanager
def quiet() -> Iterator[None]:
    """Until it is left, deaths are not reported: each is a warning, and meant."""
    log = logging.getLogger("guardpool")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _measure_kill(context: Context, guard: str, job: Job) -> None:
    medians = []
    with context.pool(guard, workers=1) as pool:
        for turn in range(context.scale.runs):
            context.step(f"SIGKILL, run {turn + 1} of {context.scale.runs}")
            medians += [kill(pool, job) for _ in range(context.scale.kills)]
    context.record("sigkill", "SIGKILL of an idle worker to the next result", "ms", "lower", medians, cause="sigkill")


def kill(pool: GuardPool, job: Job) -> float:
    """Milliseconds from killing the only worker to the result of a call made at once."""
    pool.submit(job).result()
    pid = _only_worker(pool)
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    pool.submit(job).result()
    return (time.perf_counter() - began) * 1e3


def _only_worker(pool: GuardPool) -> int:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        workers = pool.stats().workers
        if workers:
            return workers[0].pid
        time.sleep(0.001)
    raise TimeoutError("the pool has no worker")


def _measure_end(context: Context, cause: str, job: Job) -> None:
    nexts, lates = [], []
    harmless = workguard.tiny_job()
    with context.pool("work", workers=1, limits=Limits(timeout_s=_TIMEOUT_S)) as pool:
        for turn in range(context.scale.runs):
            context.step(f"{cause}, run {turn + 1} of {context.scale.runs}")
            for _ in range(context.scale.kills):
                pool.submit(harmless).result()
                asked = time.perf_counter()
                status = pool.submit(job).result().status
                began = time.perf_counter()
                if status != cause:
                    context.note(f"respawn: a job that should have ended as {cause} ended as {status}")
                pool.submit(harmless).result()
                nexts.append((time.perf_counter() - began) * 1e3)
                lates.append((began - asked - _TIMEOUT_S) * 1e3)
    context.record(cause, f"outcome of a {cause} to the next result", "ms", "lower", nexts, cause=cause)
    if cause == "timeout":
        context.record("timeout.late", "deadline to the outcome `timeout`", "ms", "lower", lates, cause=cause)
