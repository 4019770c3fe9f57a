"""Both engines by turns, on the same guards and the same jobs, in one run.

Only CPython 3.10 can run both; elsewhere the case says so and measures nothing. Everything else is as in the other cases: only
the engine differs. Each round measures one engine and then the other, so that what happens to the machine happens to both,
and a ratio is wasmtime's value over wasmer's in the same round.

A guard that asks its backend calls from wasm into Python, and what that costs differs most between engines. The jobs `asks`
are run in a bare loop of each engine with the answers in the same process, because a pool's own way to a backend costs far
more than the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from guardpool_bench import asking
from guardpool_bench.cases import memory, respawn, startup
from guardpool_bench.contestants import PoolMap
from guardpool_bench.context import Context, folder
from guardpool_bench.jobsets import JobSet
from guardpool_bench.measure import take_turns
from guardpool_bench.results import Better

ENGINES = ("wasmtime", "wasmer")

Measure = Callable[[str, int], float]


def run(context: Context) -> None:
    """Measure what is compared, one quantity after the other."""
    from guardpool.machine.engines import engine_problem

    for engine in ENGINES:
        problem = engine_problem(engine)
        if problem is not None:
            context.note(f"engines: not compared, because {engine} cannot be used here: {problem}")
            return
    _throughput(context)
    _asking(context)
    _starts(context)
    _kills(context)
    _memory(context)


def _throughput(context: Context) -> None:
    for guard in context.guards:
        with ExitStack() as stack:
            pools = {engine: PoolMap(stack.enter_context(context.pool(guard, engine=engine))) for engine in ENGINES}
            for jobs in [each for each in context.jobsets.values() if each.guard == guard]:
                _rates(context, pools, jobs)


def _rates(context: Context, pools: dict[str, PoolMap], jobs: JobSet) -> None:
    scale = context.scale

    def rate(engine: str, turn: int) -> float:
        context.step(f"{jobs.title}: {engine}, run {turn + 1} of {scale.runs}")
        return pools[engine].rate(jobs.jobs, scale.warm_s, scale.run_s)

    values = take_turns(ENGINES, scale.runs, rate, scale.slices)
    _record(context, jobs.name, f"{jobs.title}: a pool", "jobs/s", "higher", values)


def _asking(context: Context) -> None:
    loops = {engine: asking.loop(engine) for engine in ENGINES}
    for calls in asking.LOOP_CALLS:

        def rate(engine: str, turn: int, calls: int = calls) -> float:
            context.step(f"{calls} questions a job: {engine}, run {turn + 1} of {context.scale.runs}")
            return loops[engine](calls, context.scale.run_s)

        values = take_turns(ENGINES, context.scale.runs, rate, context.scale.slices)
        _record(
            context,
            f"asks-{calls}",
            f"{calls} questions a job, answered at once: a bare loop",
            "jobs/s",
            "higher",
            values,
        )


def _starts(context: Context) -> None:
    with folder() as own:
        facts = startup.facts(context, own)

        def ready_ms(engine: str, turn: int) -> float:
            context.step(f"pool ready: {engine}, run {turn + 1} of {context.scale.starts}")
            return startup.start({**facts, "engine": engine}, 2, own / "warm", second=False)["first_ms"]

        for engine in ENGINES:
            ready_ms(engine, 0)  # fills the cache
        _record(
            context, "ready", "pool of two ready, warm cache", "ms", "lower", _turns(context.scale.starts, ready_ms)
        )


def _kills(context: Context) -> None:
    job = next(iter(context.jobsets.values())).jobs[0]
    with ExitStack() as stack:
        stack.enter_context(respawn.quiet())
        pools = {engine: stack.enter_context(context.pool("subject", workers=1, engine=engine)) for engine in ENGINES}

        def next_ms(engine: str, turn: int) -> float:
            context.step(f"kill to next result: {engine}, {turn + 1}")
            return respawn.kill(pools[engine], job)

        values = _turns(context.scale.runs * context.scale.kills, next_ms)
    _record(context, "kill", "SIGKILL of an idle worker to the next result", "ms", "lower", values)


def _memory(context: Context) -> None:
    jobs = context.jobsets.get("mixed", next(iter(context.jobsets.values())))

    # Only root may look into sandboxed workers; without their sandbox they cost the same.
    sandbox = "auto" if os.geteuid() == 0 else "off"

    def worker_mib(engine: str, turn: int) -> float:
        context.step(f"memory of a worker: {engine}, run {turn + 1}")
        return memory.further_worker_mib(context, "subject", jobs, sandbox, engine)

    values = _turns(max(2, context.scale.runs // 2 + 1), worker_mib)
    _record(context, "worker", "PSS of a further worker", "MiB", "lower", values)


def _turns(rounds: int, measure: Measure) -> list[list[float]]:
    return take_turns(ENGINES, rounds, measure)


def _record(
    context: Context, what: str, title: str, unit: str, better: Better, values: Sequence[Sequence[float]]
) -> None:
    for engine, found in zip(ENGINES, values):
        context.record(f"{what}.{engine}", f"{title}, {engine}", unit, better, found, engine=engine)
    context.record_ratio(f"{what}.ratio", f"{title}: wasmtime over wasmer", better, values[0], values[1])
