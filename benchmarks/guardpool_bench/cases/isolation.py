"""What `isolation="job"` costs: two pools by turns, in one of which each job has a copy of the guard.

It is the worker that pays for a copy, so its processor time is what is measured, which other programs disturb less than the
clock; page faults are counted beside it. What a copy costs depends on how much of the guard's memory was not zero after
`label_agent`, and on how much of it a job writes. So the suite's own guard is measured with more and more data, and with small
jobs and large ones. A guard that remembers what it asked does more work in a copy, and that is part of the measurement too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from guardpool import Guard, GuardPool
from guardpool_bench import jobsets, machine, workguard
from guardpool_bench.context import Context, jobs_of
from guardpool_bench.jobsets import JobSet
from guardpool_bench.measure import take_turns

ISOLATIONS = ("none", "job")
_KB = 1000
_LARGE_BYTES = 300 * 1024
_DATA_BYTES = (300 * _KB, 3000 * _KB)
# Before anything is counted: a worker learns from the first jobs which pages most of them write.
_FIRST_JOBS = 200
_LEAST_JOBS = 50
_PAGES_OF_ISSUES = 50


class Spent(NamedTuple):
    """What a worker spent on jobs: processor time and page faults, of each."""

    us: float
    faults: float


def run(context: Context) -> None:
    """Measure the guard with each kind of its jobs, and the suite's own guard by size and by size of the jobs."""
    for jobs in context.jobsets.values():
        if jobs.guard == "subject":
            _measure(context, "subject", "the guard", context.guards["subject"], jobs)
    small = context.jobsets["trivial"]
    large = jobsets.make(
        *("page", "30 KB jobs", "work"), [workguard.response_job(0, 30 * at) for at in range(_PAGES_OF_ISSUES)]
    )
    for name, title, wasm in _guards():
        for jobs in (small, large):
            _measure(context, name, title, Guard("work", wasm, workguard.POLICY), jobs)


def _guards() -> Iterator[tuple[str, str, bytes]]:
    yield "work", "a guard of 4 KB", workguard.work_wasm()
    large = workguard.work_wasm(_LARGE_BYTES)
    yield "large", f"a guard of {len(large) // 1024} KB", large
    for data_bytes in _DATA_BYTES:
        title = f"a guard with {data_bytes // _KB:,} KB of data"
        yield f"data-{data_bytes // _KB}", title, workguard.work_wasm(_LARGE_BYTES, data_bytes)


def _measure(context: Context, name: str, title: str, guard: Guard, jobs: JobSet) -> None:
    scale, key, what = context.scale, f"{name}.{jobs.name}", f"{title}, {jobs.title}"
    with ExitStack() as stack:
        pools = {each: stack.enter_context(context.pool(guard, workers=1, isolation=each)) for each in ISOLATIONS}
        counts = {each: _jobs_a_run(pool, jobs, scale.run_s) for each, pool in pools.items()}
        faults: dict[str, list[float]] = {each: [] for each in ISOLATIONS}

        def spent_us(isolation: str, turn: int) -> float:
            context.step(f"{what}: isolation {isolation}, run {turn + 1} of {scale.runs}")
            spent = _spent(pools[isolation], jobs, counts[isolation])
            faults[isolation].append(spent.faults)
            return spent.us

        values = dict(zip(ISOLATIONS, take_turns(ISOLATIONS, scale.runs, spent_us, scale.slices)))
        rss = {each: machine.rss_bytes(_worker(pool)) / 2**20 for each, pool in pools.items()}
    for each, found in values.items():
        context.record(f"{key}.{each}", f"{what}: isolation {each}", "us of a worker", "lower", found, isolation=each)
        context.record(f"{key}.{each}.faults", f"{what}: isolation {each}", "page faults", "lower", faults[each])
        context.record(f"{key}.{each}.rss", f"{what}: resident set, isolation {each}", "MiB", "lower", [rss[each]])
    more = [ours - without for ours, without in zip(values["job"], values["none"])]
    context.record(f"{key}.cost", f"{what}: a copy for each job", "us more", "lower", more)


def _jobs_a_run(pool: GuardPool, jobs: JobSet, run_s: float) -> int:
    """As many jobs as take the worker about so long."""
    _label(pool, jobs, _FIRST_JOBS)
    spent = _spent(pool, jobs, _FIRST_JOBS)
    return max(_LEAST_JOBS, int(run_s * 1e6 / max(spent.us, 1.0)))


def _spent(pool: GuardPool, jobs: JobSet, count: int) -> Spent:
    pid = _worker(pool)
    began_ns, faults = machine.on_cpu_ns(pid), machine.page_faults(pid)
    _label(pool, jobs, count)
    return Spent((machine.on_cpu_ns(pid) - began_ns) / count / 1000, (machine.page_faults(pid) - faults) / count)


def _label(pool: GuardPool, jobs: JobSet, count: int) -> None:
    for _ in pool.map(jobs_of(count, jobs.jobs), ordered=False):
        pass


def _worker(pool: GuardPool) -> int:
    (worker,) = pool.stats().workers
    return worker.pid
