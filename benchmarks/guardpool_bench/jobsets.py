"""The jobs that are measured: the samples or a user's, and the suite's own, which last as long as they are told to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from guardpool import UNSET, Job, samples
from guardpool.jobs import Op
from guardpool.submit.payload import PayloadError, encode_job
from guardpool_bench import workguard
from guardpool_bench.bareloop import BareLoops
from guardpool_bench.results import ReportError

# Different jobs in each set, used over and over: enough that no processor cache holds what a guard touches for all of them.
DISTINCT = 2000
_CALIBRATIONS = 8
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class JobSet:
    """Jobs with a name.

    Attributes:
        name: a word for keys.
        title: for people.
        guard: `"subject"` or `"work"`.
        jobs: used over and over.
        mean_bytes: of their payloads.
    """

    name: str
    title: str
    guard: str
    jobs: Sequence[Job]
    mean_bytes: int


def make(name: str, title: str, guard: str, jobs: Sequence[Job]) -> JobSet:
    """A set of jobs and their mean size. Raises ReportError if one cannot be encoded as JSON."""
    try:
        sizes = [len(encode_job(job)) for job in jobs]
    except PayloadError as error:
        raise ReportError(f"jobs {name!r}: {error}") from error
    return JobSet(name, title, guard, jobs, round(statistics.fmean(sizes)))


def subject_sets(jobs: Sequence[Job]) -> list[JobSet]:
    """Resource jobs, response jobs and both as they come; a kind that does not occur is left out."""
    resource = [job for job in jobs if job.op == Op.LABEL_RESOURCE.value][:DISTINCT]
    response = [job for job in jobs if job.op == Op.LABEL_RESPONSE.value][:DISTINCT]
    found = []
    if resource:
        found.append(make("resource", "label_resource", "subject", resource))
    if response:
        found.append(make("response", "label_response", "subject", response))
    if resource and response:
        found.append(make("mixed", "both, as they come", "subject", jobs[:DISTINCT]))
    return found


def sample_jobs() -> list[Job]:
    """The sample jobs, three `label_resource` to one `label_response`."""
    return list(samples.jobs(4 * DISTINCT, seed=1))[: 2 * DISTINCT]


class _Line(msgspec.Struct):
    op: Op
    tool_name: str
    tool_args: object = None
    tool_result: object = UNSET
    capabilities: object = None


def read_jobs(path: str | Path) -> list[Job]:
    """Jobs of a file, one a line as for `guardpool label`; only the first ones if there are more than are needed.

    Raises:
        ReportError: the file cannot be read, has no jobs, or has a line that is not a job.
    """
    decode = msgspec.json.Decoder(_Line).decode
    jobs: list[Job] = []
    size = 0
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines):
                size += len(line)
                if not line.strip():
                    continue
                job = decode(line)
                jobs.append(Job(number, job.op.value, job.tool_name, job.tool_args, job.tool_result, job.capabilities))
                if len(jobs) >= 2 * DISTINCT or size > _MOST_BYTES:
                    break
    except OSError as error:
        raise ReportError(f"{path}: the jobs cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: line {number + 1} is not a job: {error}") from error
    if not jobs:
        raise ReportError(f"{path}: holds no jobs")
    return jobs


# --- jobs of a given duration


class Builder(Protocol):
    def __call__(self, turns: int, id: int) -> Job:
        """A job that counts down from `turns`."""


def work_sets(bare: BareLoops) -> list[JobSet]:
    """Jobs of almost no work, of 50 us and of 1 ms, calibrated on this machine with a bare loop."""
    trivial = make("trivial", "jobs of almost no work", "work", [workguard.tiny_job(at) for at in range(DISTINCT)])
    bare.hold_jobs(trivial.name, trivial.jobs)
    return [
        trivial,
        _lasting(bare, "work-50us", "50 us jobs, 0.5 KB", 50.0, workguard.resource_job, DISTINCT),
        _lasting(bare, "work-1ms", "1 ms jobs, 30 KB", 1000.0, workguard.response_job, DISTINCT),
    ]


def _lasting(bare: BareLoops, name: str, title: str, us: float, build: Builder, count: int) -> JobSet:
    """Jobs that take a bare loop `us` microseconds each, their encoding included."""
    turns = turns_for(bare, "work", name, us, build)
    return make(name, title, "work", [build(turns, at) for at in range(count)])


def turns_for(bare: BareLoops, guard: str, name: str, us: float, build: Builder) -> int:
    """From how many a job has to count down to take a bare loop `us` microseconds.

    Args:
        bare: the loops, which hold the guard.
        guard: its name there.
        name: what the jobs of the calibration are kept under there.
        us: microseconds.
        build: makes a job.
    """
    probe = 200_000
    key = f"calibration of {name}"
    # One loop, one job, the least of many tries over some time: that is what the instructions take without disturbance.
    bare.hold_jobs(key, [build(0, 0), build(probe, 0)])
    tries = [bare.costs_us(guard, key, 200) for _ in range(_CALIBRATIONS)]
    none_us, probe_us = (min(each) for each in zip(*tries))
    return max(1, round((us - none_us) * probe / max(1e-3, probe_us - none_us)))
