"""Where a microsecond goes: the CPU time of one job, by thread and by layer.

Two measurements. The kernel's accounts (`schedstat`, nanoseconds on a CPU) of a real, long `map` say what a job took in the
caller's thread, in the supervisor's thread and in the workers; nothing is instrumented for it. Then each layer is measured
by itself, see `guardpool_bench.layers`. What the layers do not explain is shown as the rest: system calls that wait, waking
up, the interpreter's lock changing hands, caches that another process emptied.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from statistics import median

from guardpool import GuardPool, Job
from guardpool.supervise.frame_budget import FRAME_US, MAX_FRAME_JOBS
from guardpool_bench import layers, machine
from guardpool_bench.context import Context, jobs_of
from guardpool_bench.jobsets import JobSet
from guardpool_bench.results import Layer, Profile

_JOBS = 400
_REAL_JOBS_S = 1.5
_ROUNDS = 7

_HOW = {
    "caller": "timed alone, best of several rounds, in the pool's batches",
    "supervisor": "timed alone, best of several rounds, in frames as large as in the real run",
    "worker": "timed alone in a process with an instance, clocks around the guard's, the host's and the judge's functions",
}
_REST = "the kernel's account of the thread in a real run, less the layers above"


def run(context: Context) -> None:
    """Profile the mix of the guard's jobs."""
    jobs = context.jobsets.get("mixed") or next(iter(context.jobsets.values()))
    idle = context.jobsets["trivial"]
    context.hold(jobs)
    context.hold(idle)
    part = _spread(jobs)
    context.bare.hold_jobs(part.name, part.jobs)
    with context.pool(jobs.guard) as pool:
        context.step("a real run")
        totals, wall_us, frame_jobs = _totals(context, pool, part.jobs)
        labels = [outcome.label_json for outcome in pool.map(part.jobs)]
    context.step("layers of the worker")
    rounds = min(_ROUNDS, 2 * context.scale.runs)
    found: dict[str, dict[str, float]] = {
        "worker": context.bare.worker_layers(
            context.loadable(jobs.guard), part.name, context.loadable(idle.guard), idle.name, rounds
        )
    }
    context.step("layers of the caller's process")
    found.update(layers.host_layers(part.jobs, labels, frame_jobs, rounds))
    rows = []
    for where in ("caller", "supervisor", "worker"):
        measured = found[where]
        rows += [Layer(where, name, us, _HOW[where]) for name, us in measured.items()]  # type: ignore[arg-type]
        rest = totals[where] - sum(measured.values())
        rows.append(Layer(where, "rest", rest, _REST))  # type: ignore[arg-type]
        context.record(f"{where}.total", f"CPU a job: {where}", "us", "lower", [totals[where]], where=where)
    context.profile = Profile(jobs.title, rows, totals, wall_us)
    for name, value in found["bytes"].items():
        context.record(f"bytes.{name}", f"mean size of a {name}", "B", "neither", [value])


def _spread(jobs: JobSet) -> JobSet:
    """Some of the jobs, in their order: every layer is measured with the same ones."""
    step = max(1, len(jobs.jobs) // _JOBS)
    return JobSet(f"{jobs.name}-part", jobs.title, jobs.guard, list(jobs.jobs[::step]), jobs.mean_bytes)


def _totals(context: Context, pool: GuardPool, jobs: Sequence[Job]) -> tuple[dict[str, float], float, int]:
    """Microseconds of CPU a job in each place, the wall-clock ones, and how many jobs a frame held."""
    supervisor = _native_id("guardpool-supervisor")
    caller = threading.get_native_id()
    own = os.getpid()
    began = time.perf_counter()
    warm = sum(1 for _ in pool.map(jobs_of(2 * len(jobs), jobs)))
    count = max(len(jobs), int(warm / (time.perf_counter() - began) * _REAL_JOBS_S))
    runs: list[dict[str, float]] = []
    for turn in range(context.scale.runs):
        context.step(f"a real run, {turn + 1} of {context.scale.runs}")
        workers = [worker.pid for worker in pool.stats().workers]
        before = _accounts(own, caller, supervisor, workers)
        started = time.perf_counter()
        for _ in pool.map(jobs_of(count, jobs)):
            pass
        wall = (time.perf_counter() - started) * 1e9
        after = _accounts(own, caller, supervisor, workers)
        runs.append({**{name: after[name] - before[name] for name in after}, "wall": wall})
    totals = {name: median([run[name] for run in runs]) / 1000 / count for name in runs[0]}
    wall_us = totals.pop("wall")
    return totals, wall_us, max(1, min(MAX_FRAME_JOBS, int(FRAME_US / totals["worker"])))


def _accounts(own: int, caller: int, supervisor: int, workers: Sequence[int]) -> dict[str, float]:
    return {
        "caller": float(machine.on_cpu_ns(own, caller)),
        "supervisor": float(machine.on_cpu_ns(own, supervisor)),
        "worker": float(sum(machine.on_cpu_ns(pid) for pid in workers)),
    }


def _native_id(name: str) -> int:
    """The newest thread of that name; other pools may have theirs."""
    found = [thread.native_id for thread in threading.enumerate() if thread.name == name]
    assert found
    assert found[-1] is not None
    return found[-1]
