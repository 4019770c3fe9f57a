"""A thousand to a million jobs in one `map`: does the rate hold, and does the supervisor's memory stay flat?

The maps run in a fresh process (see `guardpool_bench.longrun`), whose jobs are made as they are asked for: only the pool
could remember them. Rate and resident set are read on the way, which gives the curves.
`--full` does the same with a file of a million jobs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from guardpool import Job
from guardpool_bench import machine
from guardpool_bench.cases.filetofile import Label, write_jobs
from guardpool_bench.context import Context, folder, jobs_of
from guardpool_bench.jobsets import JobSet
from guardpool_bench.longrun import Found, Mark, Request, Whole
from guardpool_bench.results import ReportError

_COUNTS = (1_000, 10_000, 100_000, 1_000_000)
_BASE = 10_000
_POINTS = 100
_MIB = 1 << 20
_LOOK_S = 0.25
_LONG_RUN = [sys.executable, "-m", "guardpool_bench.longrun"]


def run(context: Context) -> None:
    """Measure each number of jobs, small numbers several times, and the million once."""
    jobs = context.jobsets.get("resource") or next(iter(context.jobsets.values()))
    most, runs = context.scale.most_jobs, context.scale.runs
    maps = [(_BASE, 1)]  # imports, first growth of the heap: not counted
    maps += [(count, runs if count <= _BASE else 1) for count in _COUNTS if count < most]
    # Small ones once more after the long one, because the machine may change while that lasts.
    found = _run(context, jobs, maps, most, [(_BASE, runs)])
    rates: dict[int, list[float]] = {}
    for whole in [each for each in found if isinstance(each, Whole)][1:]:
        rates.setdefault(whole.count, []).append(whole.rate)
    for count, values in rates.items():
        context.record(
            f"rate.{count}", f"{count:,} jobs in one map", "jobs/s", "higher", values, count=count, jobs=jobs.name
        )
    context.record(
        f"rate.ratio.{most}", f"rate of {most:,} jobs over that of {_BASE:,}", "ratio", "higher",
        [rates[most][0] / value for value in rates[_BASE]], count=most,
    )  # fmt: skip
    _record_marks(context, [each for each in found if isinstance(each, Mark)], most)
    if context.full:
        _file(context, jobs.jobs, most)


def _record_marks(context: Context, marks: Sequence[Mark], most: int) -> None:
    done = [mark.done for mark in marks]
    sizes = [mark.rss_bytes / _MIB for mark in marks]
    context.curve("rate", "rate along one map", "jobs done", "jobs/s", done, [mark.rate for mark in marks])
    context.curve("rss", "supervisor's resident set along one map", "jobs done", "MiB", done, sizes)
    at_base = next(size for count, size in zip(done, sizes) if count >= _BASE)
    context.record(
        f"rss.growth.{most}", f"growth of the supervisor's RSS from {_BASE:,} to {most:,} jobs", "MiB", "lower",
        [max(sizes) - at_base], count=most,
    )  # fmt: skip
    context.record("rss.most", "supervisor's RSS at its highest", "MiB", "lower", [max(sizes)], count=most)


def _run(
    context: Context, jobs: JobSet, maps: list[tuple[int, int]], most: int, again: list[tuple[int, int]]
) -> list[Found]:
    """Run `guardpool_bench.longrun` in a process of its own; returns what it found."""
    guard = context.guards["subject"]
    found: list[Found] = []
    decode = msgspec.json.Decoder(Found).decode  # type: ignore[arg-type]
    with folder() as own:
        wasm, source, complaints = own / "guard.wasm", own / "jobs.jsonl", own / "stderr"
        wasm.write_bytes(guard.wasm)
        write_jobs(source, jobs.jobs)
        request = Request(
            wasm=str(wasm),
            policy=guard.policy,
            trusted_bots=list(guard.trusted_bots),
            trusted_users=list(guard.trusted_users),
            jobs=str(source),
            workers=context.workers,
            engine=context.engine,
            maps=maps,
            most=most,
            points=_POINTS,
            again=again,
        )
        with complaints.open("wb") as stderr:
            process = subprocess.Popen(_LONG_RUN, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(msgspec.json.encode(request))
            process.stdin.close()
            for line in process.stdout:
                found.append(decode(line))
                last = found[-1]
                context.step(f"{last.done if isinstance(last, Mark) else last.count:,} jobs")
        if process.returncode:
            raise ReportError(f"the long run failed: {complaints.read_text(errors='replace').strip()[-500:]}")
    return found


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
    # The labels of these jobs are alike in size, so the bytes written tell how many are done.
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
