"""A file of jobs to a file of labels, beside the same jobs in memory.

`guardpool label` is measured as a user runs it: the command, from its start to its end. Starting Python and a pool has a
row of its own elsewhere and does not depend on the number of jobs, so the rate is that of the further jobs:
the command's time for the file, less its median time for a file of one job. The rate with everything in it stands beside.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import msgspec

from guardpool import Job
from guardpool.batch.jobline import job_line
from guardpool_bench.context import Context, folder, jobs_of
from guardpool_bench.measure import take_turns
from guardpool_bench.results import Fact, ReportError

_COMMAND = [sys.executable, "-c", "import sys; from guardpool.cli import main; sys.exit(main())"]


def run(context: Context) -> None:
    """Measure the command and a `map` of the same jobs, in turns."""
    jobs = context.jobsets.get("mixed") or next(iter(context.jobsets.values()))
    with folder() as own:
        label = Label(context, own)
        one, many = own / "one.jsonl", own / "many.jsonl"
        write_jobs(one, jobs.jobs[:1])
        with context.pool(jobs.guard) as pool:
            count = _count(context, len(jobs.jobs))
            write_jobs(many, jobs_of(count, jobs.jobs))

            def in_memory() -> float:
                began = time.perf_counter()
                for _ in pool.map(jobs_of(count, jobs.jobs)):
                    pass
                return time.perf_counter() - began

            ways = (("in memory", in_memory), ("start", lambda: label(one)), ("file to file", lambda: label(many)))

            def measure(way: tuple[str, object], turn: int) -> float:
                context.step(f"{count} jobs: {way[0]}, run {turn + 1} of {context.scale.runs}")
                return way[1]()  # type: ignore[operator, no-any-return]

            label(one)
            memory, start, files = take_turns(ways, context.scale.runs, measure)
        size = many.stat().st_size
    rates = [count / seconds for seconds in memory]
    # The median of the starts is known better than the start of one run. No more than 3/4 of a run is taken for its start.
    least = median(start)
    labelling = [(count - 1) / max(whole - least, whole / 4) for whole in files]
    about: dict[str, Fact] = {"jobs": jobs.name, "count": count, "file_mib": round(size / (1 << 20), 1)}
    context.record("memory", f"{count} jobs in memory, {jobs.name}", "jobs/s", "higher", rates, **about)
    context.record("label", f"{count} jobs, file to file, start-up left out", "jobs/s", "higher", labelling, **about)
    whole = [count / seconds for seconds in files]
    context.record("command", f"{count} jobs, file to file, the whole command", "jobs/s", "higher", whole, **about)
    context.record("start", "the command with a file of one job", "ms", "lower", [s * 1e3 for s in start])
    context.record_ratio("label.ratio", "file to file over in memory", "higher", labelling, rates)
    context.record_ratio("command.ratio", "the whole command over in memory", "higher", whole, rates)


class Label:
    """`guardpool label` with the guard of the run; calling it with a file gives the seconds the command took."""

    def __init__(self, context: Context, own: Path) -> None:
        guard = context.guards["subject"]
        self._out = own / "labels.jsonl"
        self._wasm, self._policy = own / "guard.wasm", own / "policy.json"
        self._wasm.write_bytes(guard.wasm)
        self._policy.write_bytes(msgspec.json.encode(guard.policy))
        self.command = [
            *_COMMAND, "label", "-o", str(self._out), "-g", f"subject={self._wasm}", "-p", f"subject={self._policy}",
            "--workers", str(context.workers), "--engine", context.engine, "--log-level", "error",
        ]  # fmt: skip

    def __call__(self, jobs: Path) -> float:
        began = time.perf_counter()
        done = subprocess.run([*self.command, str(jobs)], capture_output=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise ReportError(f"guardpool label failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
        return seconds


def write_jobs(path: Path, jobs: Iterable[Job]) -> None:
    """Jobs as lines."""
    with path.open("wb") as out:
        for number, job in enumerate(jobs):
            out.write(job_line(msgspec.structs.replace(job, id=number)))


def _count(context: Context, distinct: int) -> int:
    """Whole turns through the jobs: as many as the scale allows."""
    return max(distinct, context.scale.file_jobs // distinct * distinct)
