"""Jobs a second, beside as many bare loops and beside other pools, in rounds.

Two pairs start from the same point. `guardpool` and `bare` start from `Job` objects and end with labels: the jobs have to be
encoded, and on a machine whose cores are all at work that costs the same in any process. The goals are held against this
pair, because it is what a caller of `pool.map` compares. `guardpool-encoded` and `bare-encoded` start from
encoded jobs, as `guardpool label` does; their ratio, and that of `guardpool` to the stricter `bare-encoded`, stand beside.

`bare-plain` loops start from encoded jobs as well and have nothing of guardpool's around the guard: what `bare-encoded` is
short of them is what the instance code costs (buffers, checks, judging the answer), in a pool's worker as in a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from guardpool_bench import peers
from guardpool_bench.contestants import Bare, Contestant, PoolMap, PoolStream
from guardpool_bench.context import Context, check_labels
from guardpool_bench.jobsets import JobSet
from guardpool_bench.measure import take_turns

# Runs of 1 ms jobs last longer: chunks of 64 of them come in long bursts.
_LONGER = {"work-1ms": 2.0}


def run(context: Context) -> None:
    """Measure every set of jobs."""
    for guard in context.guards:
        sets = [jobs for jobs in context.jobsets.values() if jobs.guard == guard]
        if not sets:
            continue
        with ExitStack() as stack:
            context.step(f"starting the peers on {context.guards[guard].name}")
            others = peers.start_all(context.peers, context.loadable(guard), context.workers, stack)
            pool = stack.enter_context(context.pool(guard))
            for jobs in sets:
                context.hold(jobs)
                check_labels(context, pool, jobs)
                _measure(
                    context,
                    jobs,
                    [
                        Bare(context.bare, guard, jobs.name, "bare", context.workers),
                        PoolMap(pool),
                        Bare(context.bare, guard, jobs.name, "bare-encoded", context.workers),
                        PoolStream(pool),
                        Bare(context.bare, guard, jobs.name, "bare-plain", context.workers),
                        *[peer.map for peer in others if peer.map is not None],
                    ],
                )


def _measure(context: Context, jobs: JobSet, contestants: Sequence[Contestant]) -> None:
    scale, longer = context.scale, _LONGER.get(jobs.name, 1.0)

    def rate(contestant: Contestant, turn: int) -> float:
        context.step(f"{jobs.title}: {contestant.name}, run {turn + 1} of {scale.runs}")
        return contestant.rate(jobs.jobs, scale.warm_s, scale.run_s * longer)

    values = dict(zip([each.name for each in contestants], take_turns(contestants, scale.runs, rate, scale.slices)))
    for name, rates in values.items():
        context.record(
            f"{jobs.name}.{name}", f"{jobs.title}: {name}", "jobs/s", "higher", rates,
            jobs=jobs.name, who=name, mean_bytes=jobs.mean_bytes,
        )  # fmt: skip
    for name in values:
        if name.startswith("bare"):
            continue
        against = "bare-encoded" if name == "guardpool-encoded" else "bare"
        context.record_ratio(
            f"{jobs.name}.{name}.ratio", f"{jobs.title}: {name} over {against} loops", "higher",
            values[name], values[against], jobs=jobs.name, who=name, against=against,
        )  # fmt: skip
    context.record_ratio(
        f"{jobs.name}.guardpool.strict-ratio", f"{jobs.title}: guardpool over bare-encoded loops", "higher",
        values["guardpool"], values["bare-encoded"], jobs=jobs.name, who="guardpool", against="bare-encoded",
    )  # fmt: skip
    for name in ("guardpool", "guardpool-encoded", "bare-encoded"):
        context.record_ratio(
            f"{jobs.name}.{name}.plain-ratio", f"{jobs.title}: {name} over bare-plain loops", "higher",
            values[name], values["bare-plain"], jobs=jobs.name, who=name, against="bare-plain",
        )  # fmt: skip
    if "multiprocessing" in values:
        context.record_ratio(
            f"{jobs.name}.guardpool.over-multiprocessing", f"{jobs.title}: guardpool over multiprocessing", "higher",
            values["guardpool"], values["multiprocessing"], jobs=jobs.name, who="guardpool", against="multiprocessing",
        )  # fmt: skip
