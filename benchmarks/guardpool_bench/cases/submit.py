"""Jobs a second with one `submit` for each and a wait for its future, beside other pools' `submit`."""

from __future__ import annotations

from contextlib import ExitStack

from guardpool_bench import peers
from guardpool_bench.contestants import Submit
from guardpool_bench.context import Context
from guardpool_bench.jobsets import JobSet
from guardpool_bench.measure import take_turns

# The smallest jobs that are real, and the smallest there are.
_SETS = ("resource", "trivial")


def run(context: Context) -> None:
    """Measure small jobs, whose time is mostly the way through the pool."""
    for name in _SETS:
        if name in context.jobsets:
            _measure(context, context.jobsets[name])


def _measure(context: Context, jobs: JobSet) -> None:
    scale = context.scale
    with ExitStack() as stack:
        context.step("starting the peers")
        others = peers.start_all(context.peers, context.loadable(jobs.guard), context.workers, stack)
        pool = stack.enter_context(context.pool(jobs.guard))
        contestants = [Submit("guardpool", pool.submit)]
        contestants += [peer.submit for peer in others if isinstance(peer.submit, Submit)]

        def rate(contestant: Submit, turn: int) -> float:
            context.step(f"{jobs.title}: {contestant.name}, run {turn + 1} of {scale.runs}")
            return contestant.rate(jobs.jobs, scale.warm_s, scale.run_s)

        values = take_turns(contestants, scale.runs, rate, scale.slices)
    for contestant, rates in zip(contestants, values):
        context.record(
            f"{jobs.name}.{contestant.name}", f"one submit a job, {jobs.title}: {contestant.name}", "jobs/s", "higher",
            rates, jobs=jobs.name, who=contestant.name,
        )  # fmt: skip
    if len(values) > 1:
        best = [max(rates) for rates in zip(*values[1:])]
        context.record_ratio(
            f"{jobs.name}.guardpool.over-best", f"one submit a job, {jobs.title}: guardpool over the best of the others",
            "higher", values[0], best, jobs=jobs.name, who="guardpool", against="the best peer",
        )  # fmt: skip
