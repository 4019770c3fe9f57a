"""How the rate changes with the number of workers, and with the size of a job; bare loops beside it."""

from __future__ import annotations

from collections.abc import Sequence

from guardpool import Job
from guardpool_bench import jobsets
from guardpool_bench.bareloop import Kind
from guardpool_bench.contestants import Bare, Contestant, Fed, PoolMap, PoolStream
from guardpool_bench.context import Context, check_labels
from guardpool_bench.jobsets import JobSet
from guardpool_bench.measure import take_turns

_SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 5_000_000)
_LARGE_BYTES = 100_000
# The different jobs of one size have no more bytes than this, which no processor's cache holds.
_SET_BYTES = 48_000_000


def run_workers(context: Context) -> None:
    """One worker to as many as there are cores, by doubling."""
    jobs = context.jobsets.get("work-50us") or next(iter(context.jobsets.values()))
    context.hold(jobs)
    counts = worker_counts(context.workers)
    found = {}
    for workers in counts:
        with context.pool(jobs.guard, workers=workers) as pool:
            pair: list[Contestant] = [_bare(context, jobs, "bare", workers), PoolMap(pool)]
            found[workers] = _turns(context, jobs, f"{workers} workers", pair)
    for workers, rates_of in found.items():
        for who, rates in rates_of.items():
            context.record(
                f"{workers}.{who}", f"{jobs.title}, {workers} worker{'s' * (workers > 1)}: {who}", "jobs/s", "higher",
                rates, workers=workers, who=who, jobs=jobs.name,
            )  # fmt: skip
        context.record_ratio(
            f"{workers}.guardpool.ratio", f"{jobs.title}, {workers} worker{'s' * (workers > 1)}: over bare loops",
            "higher", rates_of["guardpool"], rates_of["bare"], workers=workers, who="guardpool",
        )  # fmt: skip


def worker_counts(most: int) -> list[int]:
    """1, 2, 4 ... up to `most`, and `most` itself; never more than the cores, unless asked for."""
    counts = [1]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return sorted({*counts, most})


def run_sizes(context: Context) -> None:
    """Jobs of 100 B to 5 MB on a guard that takes no time for them, which leaves the way of the bytes.

    The large ones also encoded, beside loops that have nothing of guardpool's around the guard, and beside such loops that are
    fed by one further copy of each payload.
    """
    for size in _SIZES:
        if size > context.scale.most_bytes:
            continue
        jobs = sized(size)
        context.hold(jobs)
        with context.pool(jobs.guard) as pool:
            check_labels(context, pool, jobs)
            pairs: list[Contestant] = [_bare(context, jobs, "bare"), PoolMap(pool)]
            if size >= _LARGE_BYTES:
                pairs += [_bare(context, jobs, "bare-encoded"), PoolStream(pool), _bare(context, jobs, "bare-plain")]
                pairs.append(Fed(context.bare, jobs.guard, jobs.name, context.workers))
            found = _turns(context, jobs, jobs.title, pairs)
        for who, rates in found.items():
            context.record(
                f"{size}.{who}", f"{jobs.title}: {who}", "jobs/s", "higher", rates, bytes=jobs.mean_bytes, who=who
            )
        _record_ratios(context, size, jobs, found)


def _record_ratios(context: Context, size: int, jobs: JobSet, found: dict[str, list[float]]) -> None:
    """The ratios of each to the loops that start from the same, and to those that have nothing of guardpool's."""
    pairs = [("guardpool", "bare", "ratio"), ("guardpool-encoded", "bare-encoded", "ratio")]
    plain = ("guardpool", "guardpool-encoded", "bare-encoded", "bare-fed")
    pairs += [(who, "bare-plain", "plain-ratio") for who in plain]
    pairs.append(("guardpool-encoded", "bare-fed", "fed-ratio"))
    for who, against, what in pairs:
        if who in found and against in found:
            context.record_ratio(
                f"{size}.{who}.{what}", f"{jobs.title}: {who} over {against} loops", "higher", found[who], found[against],
                bytes=jobs.mean_bytes, who=who, against=against,
            )  # fmt: skip


def _bare(context: Context, jobs: JobSet, kind: Kind, workers: int | None = None) -> Bare:
    return Bare(context.bare, jobs.guard, jobs.name, kind, workers or context.workers)


def _turns(context: Context, jobs: JobSet, title: str, contestants: Sequence[Contestant]) -> dict[str, list[float]]:
    """The rates of each, by its name."""
    scale = context.scale

    def rate(contestant: Contestant, turn: int) -> float:
        context.step(f"{title}: {contestant.name}, run {turn + 1} of {scale.runs}")
        return contestant.rate(jobs.jobs, scale.warm_s, scale.run_s)

    values = take_turns(contestants, scale.runs, rate, scale.slices)
    return dict(zip([each.name for each in contestants], values))


def sized(size: int) -> JobSet:
    """Different jobs of the suite's own guard with a payload of about so many bytes: a list of texts, as pages of a file."""
    frame, text = (
        len('{"tool_name":"w0","tool_args":[]}'),
        "The palette of the first window is used for the second one. ",
    )
    parts = (size - frame) // (len(text) + 3)

    def args(at: int) -> list[str]:
        if parts < 2:
            return [f"{at:05d} {text}"[: size - frame - 2]]
        return [f"{at:05d} {part:05d} {text[12:]}" for part in range(parts)]

    count = max(4, min(jobsets.DISTINCT, _SET_BYTES // size))
    return jobsets.make(
        f"size-{size}",
        f"{_show(size)} jobs",
        "work",
        [Job(at, "label_resource", "w0", args(at)) for at in range(count)],
    )


def _show(size: int) -> str:
    for unit in ("B", "KB"):
        if size < 1000:
            return f"{size} {unit}"
        size //= 1000
    return f"{size} MB"
