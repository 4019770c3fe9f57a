"""10,000 calls at a time of one event loop, and how long that loop is held up by them; then half of them cancelled.

    python benchmarks/async_calls.py [CALLS]

A task beside them asks for its turn again and again. Its longest wait is the loop's longest pause: for other programs' tasks it
is as if the loop had stood still for so long. For comparison the same task waits beside nothing.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

from guardpool import AsyncGuardPool, Guard, Job, samples


class Pauses:
    """Measures how long the loop takes to come round, in milliseconds."""

    def __init__(self) -> None:
        self.all_ms: list[float] = []

    async def watch(self) -> None:
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            self.all_ms.append((now - before) * 1e3)
            before = now

    def __str__(self) -> str:
        longest, usual = max(self.all_ms), statistics.median(self.all_ms)
        return f"longest pause {longest:.1f} ms, median {usual:.3f} ms of {len(self.all_ms):,} rounds"


async def label_all(pool: AsyncGuardPool, jobs: list[Job], share_cancelled: float) -> None:
    """Submit all at once, cancel some, wait for the others, and tell what became of them."""
    pauses = Pauses()
    watching = asyncio.ensure_future(pauses.watch())
    await asyncio.sleep(0)
    threads, begun = threading.active_count(), time.perf_counter()
    before = Counter(pool.stats().outcomes)
    calls = [asyncio.ensure_future(one_call(pool, job)) for job in jobs]
    await asyncio.sleep(0.05)  # some are under way
    for call in calls[: int(len(calls) * share_cancelled)]:
        call.cancel()
    await asyncio.wait(calls)
    took = time.perf_counter() - begun
    threads = threading.active_count() - threads
    watching.cancel()
    told = Counter("cancelled by the caller" if call.cancelled() else call.result() for call in calls)
    print(f"{len(jobs):,} calls, {share_cancelled:.0%} cancelled: {took:.2f} s, {len(jobs) / took:,.0f} calls/s")
    print(f"  {', '.join(f'{count:,} {what}' for what, count in sorted(told.items()))}; {threads} threads more")
    print(f"  {pauses}")
    await asyncio.sleep(0.2)  # the pool hears of the last ones
    counts = Counter(pool.stats().outcomes)
    counts.subtract(before)
    print(f"  the pool counts: {', '.join(f'{count:,} {status}' for status, count in counts.items() if count)}")


async def one_call(pool: AsyncGuardPool, job: Job) -> str:
    """The status of one job."""
    return (await pool.submit(job)).status.value


async def main(count: int) -> None:
    guard = Guard.from_file(samples.GUARD, "github", samples.POLICY)
    async with AsyncGuardPool([guard], workers=2, log_level="off") as pool:
        jobs = list(samples.jobs(count))
        await pool.label_resource("get_issue", {"owner": "o", "repo": "r", "issue_number": 1})
        alone = Pauses()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(alone.watch(), 1.0)
        print(f"nothing beside the loop: {alone}")
        await label_all(pool, jobs, 0.0)
        await label_all(pool, jobs, 0.5)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
