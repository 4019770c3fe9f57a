"""A thousand to a million jobs in one `map`: does the rate hold, and does the supervisor's memory stay flat?

The jobs are made as they are asked for, so that nothing but the pool could remember them. Rate and resident set are
looked at on the way, which gives the curves. `--full` does the same with a file of a million jobs.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from guardpool import GuardPool, Job
from guardpool_bench import machine
from guardpool_bench.cases.filetofile import Label, write_jobs
from guardpool_bench.context import Context, folder, jobs_of
from guardpool_bench.measure import QuietHeap

_COUNTS = (1_000, 10_000, 100_000, 1_000_000)
_BASE = 10_000
_POINTS = 100
_MIB = 1 << 20
_LOOK_S = 0.25


def run(context: Context) -> None:
    """Measure each number of jobs, small numbers several times, and the million once."""
    jobs = context.jobsets.get("resource") or next(iter(context.jobsets.values()))
    most = context.scale.most_jobs
    with QuietHeap(), context.pool(jobs.guard) as pool:
        _count(pool, jobs.jobs, _BASE)  # imports, first growth of the heap
        rates: dict[int, list[float]] = {}
        for count in _COUNTS:
            if count >= most:
                continue
            for turn in range(context.scale.runs if count <= _BASE else 1):
                context.step(f"{count:,} jobs, run {turn + 1}")
                rates.setdefault(count, []).append(_count(pool, jobs.jobs, count))
        context.step(f"{most:,} jobs")
        rss_before = machine.rss_bytes()
        rates[most], rss = _long(context, pool, jobs.jobs, most)
        # Once more beside the long run, which lasts long enough for the machine to have become another one.
        after = [_count(pool, jobs.jobs, _BASE) for _ in range(context.scale.runs)]
    for count, values in rates.items():
        context.record(
            f"rate.{count}", f"{count:,} jobs in one map", "jobs/s", "higher", values, count=count, jobs=jobs.name
        )
    base = [*rates.get(_BASE, []), *after]
    context.record(
        f"rate.ratio.{most}", f"rate of {most:,} jobs over that of {_BASE:,}", "ratio", "higher",
        [rates[most][0] / value for value in base], count=most,
    )  # fmt: skip
    at_base = next((value for done, value in rss if done >= _BASE), rss_before)
    context.record(
        f"rss.growth.{most}", f"growth of the supervisor's RSS from {_BASE:,} to {most:,} jobs", "MiB", "lower",
        [(max(value for _, value in rss) - at_base) / _MIB], count=most,
    )  # fmt: skip
    if context.full:
        _file(context, jobs.jobs, most)


def _count(pool: GuardPool, jobs: Sequence[Job], count: int) -> float:
    """Jobs a second of a whole map, its beginning and its end included."""
    began = time.perf_counter()
    done = sum(1 for _ in pool.map(jobs_of(count, jobs)))
    return done / (time.perf_counter() - began)


def _long(
    context: Context, pool: GuardPool, jobs: Sequence[Job], count: int
) -> tuple[list[float], list[tuple[int, int]]]:
    """The rate of a long map; records its curves, returns RSS by jobs done."""
    step = max(1, count // _POINTS)
    began = last = time.perf_counter()
    done, marks, rates, rss = 0, [], [], []
    outcomes = pool.map(jobs_of(count, jobs))
    for _ in outcomes:
        done += 1
        if done % step == 0:
            now = time.perf_counter()
            marks.append(done)
            rates.append(step / (now - last))
            rss.append((done, machine.rss_bytes()))
            context.step(f"{done:,} of {count:,} jobs")
            last = now
    whole = done / (time.perf_counter() - began)
    context.curve("rate", "rate along one map", "jobs done", "jobs/s", marks, rates)
    context.curve(
        "rss", "supervisor's resident set along one map", "jobs done", "MiB", marks, [v / _MIB for _, v in rss]
    )
    return [whole], rss


def _file(context: Context, jobs: Sequence[Job], count: int) -> None:
    """A file of so many jobs through `guardpool label`: rate and resident set of its process over time."""
    with folder() as own:
        source, out = own / "jobs.jsonl", own / "labels.jsonl"
        context.step(f"writing {count:,} jobs")
        write_jobs(source, jobs_of(count, jobs))
        process = subprocess.Popen(
            [*Label(context, own).command, str(source)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        began = time.perf_counter()
        times, sizes, rss = [], [], []
        while process.poll() is None:
            time.sleep(_LOOK_S)
            if out.exists() and process.poll() is None:
                times.append(time.perf_counter() - began)
                sizes.append(out.stat().st_size)
                rss.append(_rss_mib(process.pid))
            context.step(f"{count:,} jobs, file to file: {out.stat().st_size / _MIB if out.exists() else 0:.0f} MiB")
        seconds = time.perf_counter() - began
        total = out.stat().st_size
        labelled = _lines(out)
    if labelled != count:
        context.note(f"million: {count - labelled} of {count} jobs of the file have no outcome")
    context.record(
        "file.rate", f"{count:,} jobs, file to file, the whole command", "jobs/s", "higher", [count / seconds]
    )
    # The labels of these jobs are alike in size, so that bytes written tell how many are done.
    done = [count * size / total for size in sizes]
    pairs = list(zip(times, done))
    rates = [(b - a) / (t - s) for (s, a), (t, b) in pairwise(pairs)]
    context.curve("file.rate", "rate along a file", "seconds", "jobs/s", times[1:], rates)
    context.curve("file.rss", "resident set of guardpool label", "seconds", "MiB", times, rss)


def _rss_mib(pid: int) -> float:
    try:
        return machine.rss_bytes(pid) / _MIB
    except (OSError, IndexError):  # it has just ended
        return 0.0


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(part.count(b"\n") for part in iter(lambda: file.read(_MIB), b""))
