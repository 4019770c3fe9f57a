"""How much of a run is in memory at once: what a slow job holds up is bounded by the window."""

from __future__ import annotations

import pytest

from guardpool import Limits
from guardpool.submit.stream import JobStream
from poolkit import MIB, WAIT_S, Gate, guard, job, pool, wait_until


@pytest.mark.slow  # four million lines of log
def test_log_lines_of_outcomes_that_wait_for_a_slow_job_count_in_the_window() -> None:
    """Each job but the first logs 64 KiB; the first waits for its backend until no other one can run."""
    gate, count = Gate(), 200
    limits = Limits(timeout_s=WAIT_S, keep_logs=True)
    with pool(guard(backend=gate), limits=limits, log_level="error") as p:
        stream = JobStream(p._inbox, p._intake, ordered=True, window_bytes=2 * MIB)
        jobs = [job(number, "f" if number else "b") for number in range(count)]
        stream.send(*p._intake.tasks_of(jobs, stream, 0))
        stream.finish()
        try:
            assert gate.entered.acquire(timeout=WAIT_S)
            # Up to a pause, or, if nothing pauses them, to the end of all the others.
            wait_until(lambda: p.stats().in_flight == 1 and (stream._paused or not p.stats().queued), "quiet")
            held = sum(map(len, stream._held.values()))
            waiting = p.stats().queued
        finally:
            gate.open.set()
        taken = 0
        while outcomes := stream.take(WAIT_S):
            taken += len(outcomes)
    assert held * 64 * 1024 < 8 * MIB  # the window, and what was at the workers by then
    assert held + waiting == count - 1
    assert taken == count
