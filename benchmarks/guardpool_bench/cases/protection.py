"""What each protection costs: the same pool with and without it, in turns.

The deadlines and the looks at resident sets are taken out of the supervisor for this measurement alone. There is no option
for that, because no pool should run without them.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from guardpool import GuardPool
from guardpool.supervise import supervisor, watchdog
from guardpool_bench.contestants import PoolMap
from guardpool_bench.context import Context
from guardpool_bench.jobsets import JobSet
from guardpool_bench.measure import patched, take_turns

_SETS = ("trivial", "work-50us")
_NEVER = float("inf")
_WHOLE = "all of it"
_FEW, _MORE = 1, 4


class _NoWatch:
    """Stands in for the watchdog: watches nothing and never asks to be called again."""

    def __init__(self, *_: object) -> None:
        pass

    def look(self, now: float) -> float:
        """Never look again."""
        return _NEVER


class _NoMemoryLooks(watchdog.Watchdog):
    """Keeps deadlines only."""

    def _look_at_memory(self, now: float) -> float:
        return _NEVER


def run(context: Context) -> None:
    """Measure small jobs, of which a protection takes the largest share."""
    for name in _SETS:
        if name in context.jobsets:
            _measure(context, context.jobsets[name])
    _measure_starts(context)


def _measure(context: Context, jobs: JobSet) -> None:
    scale = context.scale
    with ExitStack() as stack:
        variants = _variants(context, jobs.guard, stack)

        def rate(variant: tuple[str, GuardPool], turn: int) -> float:
            context.step(f"{jobs.title}: {variant[0]}, run {turn + 1} of {scale.runs}")
            return PoolMap(variant[1]).rate(jobs.jobs, scale.warm_s, scale.run_s)

        values = dict(zip([word for word, _ in variants], take_turns(variants, scale.runs, rate, scale.slices)))
    for word, rates in values.items():
        context.record(
            f"{jobs.name}.{word}", f"{jobs.title}: {word}", "jobs/s", "higher", rates, jobs=jobs.name, who=word
        )
    whole = values.pop(_WHOLE)
    for word, rates in values.items():
        shares = [1 - ours / without for ours, without in zip(whole, rates)]
        context.record(
            f"{jobs.name}.{word}.cost", f"{jobs.title}: rate lost to what '{word}' leaves out", "share", "lower",
            shares, jobs=jobs.name, who=word,
        )  # fmt: skip


def _measure_starts(context: Context) -> None:
    """What closing the sandbox adds to a start: with one worker, the forkserver's share included; for each further one."""
    ways = [(workers, sandbox) for workers in (_FEW, _MORE) for sandbox in ("auto", "off")]

    def ready_ms(way: tuple[int, str], turn: int) -> float:
        context.step(f"a pool of {way[0]}, sandbox {way[1]}, start {turn + 1}")
        began = time.perf_counter()
        with context.pool("subject", workers=way[0], sandbox=way[1]):
            return (time.perf_counter() - began) * 1e3

    ready_ms(ways[0], 0)  # what is compiled is in the cache from here on
    values = dict(zip(ways, take_turns(ways, context.scale.runs, ready_ms, 2 * context.scale.slices)))
    for (workers, sandbox), found in values.items():
        title = f"ready with {workers} worker{'s' * (workers > 1)}, sandbox {sandbox}"
        context.record(f"start.{workers}.{sandbox}", title, "ms", "lower", found, who=sandbox)
    first = [a - b for a, b in zip(values[_FEW, "auto"], values[_FEW, "off"])]
    both = [a - b for a, b in zip(values[_MORE, "auto"], values[_MORE, "off"])]
    further = [(all_of_them - one) / (_MORE - _FEW) for all_of_them, one in zip(both, first)]
    context.record("start.first.cost", "what the sandbox adds to a start with one worker", "ms", "lower", first)
    context.record("start.further.cost", "what it adds for each further worker", "ms", "lower", further)


def _variants(context: Context, guard: str, stack: ExitStack) -> list[tuple[str, GuardPool]]:
    """A pool with every protection, and pools that each lack one."""
    variants = [(_WHOLE, stack.enter_context(context.pool(guard)))]
    variants.append(("no sandbox", stack.enter_context(context.pool(guard, sandbox="off"))))
    variants.append(("no looks at memory", stack.enter_context(_unwatched(context, guard, memory_only=True))))
    variants.append(("no deadlines, no looks", stack.enter_context(_unwatched(context, guard, memory_only=False))))
    return variants


def _unwatched(context: Context, guard: str, *, memory_only: bool) -> GuardPool:
    """A pool whose supervisor has another watchdog: it makes one when it is made itself."""
    replacement = _NoMemoryLooks if memory_only else _NoWatch
    with patched(supervisor, "Watchdog", replacement):
        return context.pool(guard)
