"""What is measured, one module a case, in the order in which a run does it."""

from __future__ import annotations

from dataclasses import dataclass

from guardpool_bench.cases import (
    backends,
    decisions,
    engines,
    filetofile,
    isolation,
    latency,
    memory,
    million,
    profiling,
    protection,
    recordings,
    respawn,
    scaling,
    startup,
    submit,
    throughput,
)
from guardpool_bench.context import Run


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name: for `--only`, and the first part of its series' keys.
        title: what it finds out.
        run: measures and records.
    """

    name: str
    title: str
    run: Run


CASES: tuple[Case, ...] = (
    Case("throughput", "jobs a second, beside bare loops and other pools", throughput.run),
    Case("submit", "jobs a second with one `submit` a job, beside other pools", submit.run),
    Case("latency", "one warm call, beside the bare call", latency.run),
    Case("start", "from the constructor to a pool that is ready", startup.run),
    Case("respawn", "from a worker's death to the next result", respawn.run),
    Case("memory", "memory a further worker costs", memory.run),
    Case("engines", "both engines by turns, same guards and jobs", engines.run),
    Case("backends", "guards that ask, beside bare loops with a look-up", backends.run),
    Case("workers", "scaling in workers", scaling.run_workers),
    Case("sizes", "scaling in job size", scaling.run_sizes),
    Case("files", "a file of jobs to a file of labels", filetofile.run),
    Case("recordings", "a gateway's log read as calls, beside raw decoding", recordings.run),
    Case("decisions", "decisions over labels that are there, one item a call", decisions.run),
    Case("protection", "what each protection costs", protection.run),
    Case("isolation", "what a copy of the guard for each job costs", isolation.run),
    Case("profile", "where a microsecond goes", profiling.run),
    Case("million", "a thousand to a million jobs in one map: rate and memory", million.run),
)

NAMES = tuple(case.name for case in CASES)
