"""How the rate changes with the number of workers, and with the size of a job; bare loops beside it."""

from __future__ import annotations

from guardpool import Job
from guardpool_bench import jobsets
from guardpool_bench.contestants import Bare, Contestant, PoolMap
from guardpool_bench.context import Context, check_labels
from guardpool_bench.jobsets import JobSet
from guardpool_bench.measure import take_turns

_SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 5_000_000)
# A set of jobs of one size has no more than this.
_SET_BYTES = 8_000_000


def run_workers(context: Context) -> None:
    """One worker to as many as there are cores, by doubling."""
    jobs = context.jobsets.get("work-50us") or next(iter(context.jobsets.values()))
    context.hold(jobs)
    counts = worker_counts(context.workers)
    found = {}
    for workers in counts:
        with context.pool(jobs.guard, workers=workers) as pool:
            found[workers] = _pair(context, jobs, f"{workers} workers", PoolMap(pool), workers)
    for workers, (bare, ours) in found.items():
        for who, rates in (("bare", bare), ("guardpool", ours)):
            context.record(
                f"{workers}.{who}", f"{jobs.title}, {workers} worker{'s' * (workers > 1)}: {who}", "jobs/s", "higher",
                rates, workers=workers, who=who, jobs=jobs.name,
            )  # fmt: skip
        context.record_ratio(
            f"{workers}.guardpool.ratio", f"{jobs.title}, {workers} worker{'s' * (workers > 1)}: over bare loops",
            "higher", ours, bare, workers=workers, who="guardpool",
        )  # fmt: skip


def worker_counts(most: int) -> list[int]:
    """1, 2, 4 ... up to `most`, and `most` itself; never more than the cores, unless asked for."""
    counts = [1]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return sorted({*counts, most})


def run_sizes(context: Context) -> None:
    """Jobs of 100 B to 5 MB on a guard that takes no time for them, which leaves the way of the bytes."""
    for size in _SIZES:
        if size > context.scale.most_bytes:
            continue
        jobs = _sized(size)
        context.hold(jobs)
        with context.pool(jobs.guard) as pool:
            check_labels(context, pool, jobs)
            bare, ours = _pair(context, jobs, jobs.title, PoolMap(pool), context.workers)
        for who, rates in (("bare", bare), ("guardpool", ours)):
            context.record(
                f"{size}.{who}", f"{jobs.title}: {who}", "jobs/s", "higher", rates, bytes=jobs.mean_bytes, who=who
            )
        context.record_ratio(
            f"{size}.guardpool.ratio", f"{jobs.title}: over bare loops", "higher", ours, bare,
            bytes=jobs.mean_bytes, who="guardpool",
        )  # fmt: skip


def _pair(
    context: Context, jobs: JobSet, title: str, ours: Contestant, workers: int
) -> tuple[list[float], list[float]]:
    scale = context.scale
    bare = Bare(context.bare, jobs.guard, jobs.name, encoded=False, members=workers)

    def rate(contestant: Contestant, turn: int) -> float:
        context.step(f"{title}: {contestant.name}, run {turn + 1} of {scale.runs}")
        return contestant.rate(jobs.jobs, scale.warm_s, scale.run_s)

    first, second = take_turns([bare, ours], scale.runs, rate, scale.slices)
    return first, second


def _sized(size: int) -> JobSet:
    """Jobs of the suite's own guard with a payload of about so many bytes: a list of texts, as pages of a file."""
    frame, text = 60, "The palette of the first window is used for the second one. "
    body = max(0, size - frame)
    parts = [text] * (body // (len(text) + 3)) or [text[: max(0, body - 5)]]
    count = max(4, min(200, _SET_BYTES // size))
    return jobsets.make(
        f"size-{size}",
        f"{_show(size)} jobs",
        "work",
        [Job(at, "label_resource", "w0", parts) for at in range(count)],
    )


def _show(size: int) -> str:
    for unit in ("B", "KB"):
        if size < 1000:
            return f"{size} {unit}"
        size //= 1000
    return f"{size} MB"
