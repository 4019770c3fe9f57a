"""One warm call at a time: how long the caller waits, beside the same call without a pool."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle, islice
from typing import Any

from guardpool import GuardPool
from guardpool_bench import peers
from guardpool_bench.contestants import Submit
from guardpool_bench.context import Context
from guardpool_bench.jobsets import JobSet
from guardpool_bench.measure import take_turns
from guardpool_bench.run_statistics import quantile

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_SETS = ("trivial", "resource")
_WARM_CALLS = 50


def run(context: Context) -> None:
    """Measure single calls of small jobs."""
    for name in _SETS:
        jobs = context.jobsets.get(name)
        if jobs is not None:
            _measure(context, jobs)


def _measure(context: Context, jobs: JobSet) -> None:
    calls = context.scale.calls
    found: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        context.step("starting the peers")
        others = peers.start_all(context.peers, context.loadable(jobs.guard), context.workers, stack)
        pool = stack.enter_context(context.pool(jobs.guard))
        context.hold(jobs)
        ways: list[tuple[str, Callable[[], list[float]]]] = [
            ("bare", lambda: context.bare.latencies_us(jobs.guard, jobs.name, calls)),
            ("guardpool", lambda: _timed(_call(pool), jobs, calls)),
            ("guardpool.submit", lambda: _timed(lambda job: pool.submit(job).result(), jobs, calls)),
        ]
        for peer in others:
            if isinstance(peer.submit, Submit):
                one = peer.submit.one
                ways.append((peer.submit.name, lambda one=one: _timed(one, jobs, calls)))  # type: ignore[misc]

        def measure(way: tuple[str, Callable[[], list[float]]], turn: int) -> float:
            context.step(f"{jobs.title}: {way[0]}, run {turn + 1} of {context.scale.runs}")
            ordered = way[1]()
            for word, q in _QUANTILES.items():
                found.setdefault((way[0], word), [0.0] * context.scale.runs)[turn] = quantile(ordered, q)
            return 0.0

        take_turns(ways, context.scale.runs, measure)
    for (who, word), values in found.items():
        context.record(
            f"{jobs.name}.{who}.{word}", f"one call, {jobs.title}, {word}: {who}", "us", "lower", values,
            jobs=jobs.name, who=who, quantile=word,
        )  # fmt: skip
    for word in _QUANTILES:
        ours, bare = found["guardpool", word], found["bare", word]
        context.record(
            f"{jobs.name}.guardpool.{word}.over-bare", f"one call, {jobs.title}, {word}: guardpool less the bare call",
            "us", "lower", [a - b for a, b in zip(ours, bare)], jobs=jobs.name, who="guardpool", quantile=word,
        )  # fmt: skip


def _call(pool: GuardPool) -> Callable[[Any], Any]:
    def call(job: Any) -> Any:
        if job.op == "label_resource":
            return pool.label_resource(job.tool_name, job.tool_args, capabilities=job.capabilities)
        return pool.label_response(
            job.tool_name, job.tool_result, tool_args=job.tool_args, capabilities=job.capabilities
        )

    return call


def _timed(call: Callable[[Any], Any], jobs: JobSet, calls: int) -> list[float]:
    clock = time.perf_counter_ns
    for job in jobs.jobs[:_WARM_CALLS]:
        call(job)
    found = []
    for job in islice(cycle(jobs.jobs), calls):
        began = clock()
        call(job)
        found.append((clock() - began) / 1000)
    return sorted(found)
