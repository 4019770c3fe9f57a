"""The memory that a further worker costs: proportional set sizes of pools with more and more workers.

Forked workers share most of their memory, so a worker's resident set tells little, and its proportional share changes with
the number of processes that share. So the sum over the forkserver and all workers is taken for each number of workers, and
the difference is what one more costs.

Sandboxed workers are not dumpable, so only root may read their `smaps_rollup`. Other users measure workers without the
sandbox, and the results say so.
"""

from __future__ import annotations

from guardpool import Guard
from guardpool_bench import machine, workguard
from guardpool_bench.context import Context, jobs_of
from guardpool_bench.jobsets import JobSet

_LARGE_BYTES = 300 * 1024
_COUNTS = (1, 2, 4)
_JOBS_A_WORKER = 300


def run(context: Context) -> None:
    """Measure the guard, and one with a module of 300 KB."""
    subject = next(iter(context.jobsets.values()))
    mixed = context.jobsets.get("mixed", subject)
    _measure(context, "subject", f"{len(context.guards['subject'].wasm) // 1024} KB guard", mixed)
    large = workguard.work_wasm(_LARGE_BYTES)
    context.guards["large"] = Guard("large", large, workguard.POLICY)
    try:
        _measure(context, "large", f"{len(large) // 1024} KB guard", context.jobsets["trivial"])
    finally:
        del context.guards["large"]


def _measure(context: Context, guard: str, title: str, jobs: JobSet) -> None:
    sandbox = "auto"
    runs = max(2, context.scale.runs // 2 + 1)
    costs: list[float] = []
    ours: list[float] = []
    for turn in range(runs):
        sums = []
        for workers in _COUNTS:
            context.step(f"{title}, {workers} workers, run {turn + 1} of {runs}")
            try:
                sums.append(_sum_mib(context, guard, jobs, workers, sandbox))
            except PermissionError:
                sandbox = "off"
                context.note("memory: not root, so workers are measured without their sandbox, which costs no memory")
                sums.append(_sum_mib(context, guard, jobs, workers, sandbox))
        costs.append((sums[-1] - sums[0]) / (_COUNTS[-1] - _COUNTS[0]))
        ours.append(sums[0])
    context.record(f"{guard}.worker", f"PSS of a further worker, {title}", "MiB", "lower", costs, sandbox=sandbox)
    context.record(
        f"{guard}.base", f"PSS of forkserver and first worker, {title}", "MiB", "lower", ours, sandbox=sandbox
    )


def further_worker_mib(context: Context, guard: str, jobs: JobSet, sandbox: str, engine: str) -> float:
    """What one more worker costs on that engine, in MiB, measured once.

    Raises:
        PermissionError: the workers are sandboxed and this user is not root.
    """
    least, *_, most = (_sum_mib(context, guard, jobs, workers, sandbox, engine) for workers in _COUNTS)
    return (most - least) / (_COUNTS[-1] - _COUNTS[0])


def _sum_mib(
    context: Context, guard: str, jobs: JobSet, workers: int, sandbox: str, engine: str | None = None
) -> float:
    """PSS of forkserver and workers together, after all of them have worked."""
    with context.pool(guard, workers=workers, sandbox=sandbox, engine=engine or context.engine) as pool:
        for _ in pool.map(jobs_of(_JOBS_A_WORKER * workers, jobs.jobs), ordered=False):
            pass
        pids = [worker.pid for worker in pool.stats().workers]
        return sum(machine.memory_kib(pid, "Pss") for pid in (*pids, _parent(pids[0]))) / 1024


def _parent(pid: int) -> int:
    """The forkserver of a worker."""
    import psutil

    return int(psutil.Process(pid).ppid())
