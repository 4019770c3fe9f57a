"""The goals that a run is held against: the series that decides each, and what a reader has to know to weigh it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from guardpool_bench.results import Better, GoalResult, Series


@dataclass(frozen=True)
class Goal:
    """One goal.

    Args:
        key: of the series whose median decides.
        limit: at least or at most this, as `better` says.
    """

    name: str
    against: str
    goal: str
    key: str
    limit: float
    better: Better
    unit: str
    remark: str = ""


_FROM_JOBS = "both from Job objects; the stricter loops, from encoded jobs, are in the table of rates"
_PLAIN = "both from encoded jobs; the loops only write the payload, call the guard and read its answer"

_COPIED = "both from encoded jobs; see bare-fed: plain loops whose payloads are copied once more, and nothing else"


def _of_questions() -> Iterator[Goal]:
    for different in (10, 1000, 100_000):
        for questions in (1, 2, 15):
            yield Goal(
                f"asks {questions} question{'s' * (questions > 1)} a job, {different:,} different, replies known",
                "as many bare loops with a look-up in a dict", ">= 0.85",
                f"backends.50us.{questions}.{different}.known.ratio", 0.85, "higher", "ratio",
                "50 us of work beside the questions",
            )  # fmt: skip


GOALS: tuple[Goal, ...] = (
    Goal("throughput, 50 us jobs", "as many bare loops", ">= 0.95", "throughput.work-50us.guardpool.ratio", 0.95,
         "higher", "ratio", _FROM_JOBS),
    Goal("throughput, 1 ms jobs", "as many bare loops", ">= 0.95", "throughput.work-1ms.guardpool.ratio", 0.95,
         "higher", "ratio", _FROM_JOBS),
    Goal("throughput, jobs of almost no work", "as many bare loops", ">= 0.6", "throughput.trivial.guardpool.ratio", 0.6,
         "higher", "ratio", _FROM_JOBS),
    Goal("throughput, jobs of almost no work", "multiprocessing.Pool.imap_unordered, chunks of 64", ">= 1.2x",
         "throughput.trivial.guardpool.over-multiprocessing", 1.2, "higher", "ratio"),
    Goal("throughput, both kinds of jobs as they come", "as many plain bare loops", ">= 0.92",
         "throughput.mixed.guardpool-encoded.plain-ratio", 0.92, "higher", "ratio", _PLAIN),
    Goal("throughput, jobs of almost no work", "as many plain bare loops", ">= 0.47",
         "throughput.trivial.guardpool-encoded.plain-ratio", 0.47, "higher", "ratio", _PLAIN),
    Goal("jobs of 1 MB, encoded", "as many plain bare loops", ">= 0.6", "sizes.1000000.guardpool-encoded.plain-ratio", 0.6,
         "higher", "ratio", _COPIED),
    Goal("jobs of 5 MB, encoded", "as many plain bare loops", ">= 0.6", "sizes.5000000.guardpool-encoded.plain-ratio", 0.6,
         "higher", "ratio", _COPIED),
    Goal("throughput, one submit a job", "the best of the other pools' submit", ">= 2x",
         "submit.resource.guardpool.over-best", 2.0, "higher", "ratio"),
    Goal("file to file, JSONL", "the in-memory rate", ">= 0.9", "files.label.ratio", 0.9, "higher", "ratio",
         "start-up left out: it has its own row"),
    Goal("one warm call, median", "the bare call", "+ 150 us at most", "latency.resource.guardpool.p50.over-bare", 150.0,
         "lower", "us"),
    Goal("pool ready, warm cache, 2 workers", "", "<= 150 ms from the constructor", "start.warm.2", 150.0, "lower", "ms",
         "the first pool of a fresh process"),
    Goal("a killed worker's place taken", "", "<= 10 ms, kill to next result", "respawn.sigkill", 10.0, "lower", "ms"),
    Goal("wasmtime, sample jobs and this guard", "wasmer, same guard and jobs", ">= 0.97 of its throughput",
         "engines.mixed.ratio", 0.97, "higher", "ratio", "both on CPython 3.10, by turns"),
    Goal("wasmtime, 50 us jobs", "wasmer", ">= 0.97", "engines.work-50us.ratio", 0.97, "higher", "ratio"),
    Goal("wasmtime, 1 ms jobs", "wasmer", ">= 0.97", "engines.work-1ms.ratio", 0.97, "higher", "ratio"),
    Goal("wasmtime, jobs of almost no work", "wasmer", ">= 0.97", "engines.trivial.ratio", 0.97, "higher", "ratio"),
    Goal("pool ready with wasmtime, warm cache, 2 workers", "", "<= 150 ms", "engines.ready.wasmtime", 150.0, "lower", "ms"),
    Goal("pool ready with wasmer, warm cache, 2 workers", "", "<= 150 ms", "engines.ready.wasmer", 150.0, "lower", "ms"),
    Goal("a worker's place taken with wasmtime", "", "<= 10 ms, kill to next result", "engines.kill.wasmtime", 10.0, "lower",
         "ms"),
    Goal("memory a further worker costs (PSS) with wasmtime", "", "<= 8 MiB", "engines.worker.wasmtime", 8.0, "lower", "MiB"),
    *_of_questions(),
    Goal("asks 2 questions a job, a callable at once, 1 in 100 new", "the same, replies known", ">= 0.7",
         "backends.50us.2.1000.callable-new.ratio", 0.7, "higher", "ratio"),
    Goal("questions that reached the callable", "different questions", "each once a pool", "backends.asked-again", 1.0,
         "lower", "ratio"),
    Goal("a reply that is known", "", "<= 5 us in the worker", "backends.none.1000.known.question", 5.0, "lower", "us",
         "the time of a worker for 15 questions a job less that for 1, by 14"),
    Goal("memory a further worker costs (PSS), this guard", "", "<= 8 MiB", "memory.subject.worker", 8.0, "lower", "MiB"),
    Goal("memory a further worker costs (PSS), 300 KB guard", "", "<= 8 MiB", "memory.large.worker", 8.0, "lower", "MiB"),
    Goal("recordings: small calls read and paired", "raw JSON decoding of the same bytes (msgspec)", ">= 0.2 of its MB/s",
         "recordings.small.ratio", 0.2, "higher", "ratio", "one core"),
    Goal("recordings: calls of 20 KB", "raw JSON decoding of the same bytes (msgspec)", ">= 0.5 of its MB/s",
         "recordings.large.ratio", 0.5, "higher", "ratio", "one core"),
    Goal("decisions over kept labels, one item a call", "", ">= 100,000 a second and core", "decisions.gateway.object.kept",
         100_000.0, "higher", "decisions/s",
         "processor time, from the labels' bytes on; lists and strict rules have rows of their own"),
    Goal("1,000,000 jobs: rate", "the rate at 10,000", "within 5%", "million.rate.ratio.1000000", 0.95, "higher", "ratio"),
    Goal('isolation="job", 300 KB guard', 'isolation="none"', "+ 60 us a job at most", "isolation.large.trivial.cost", 60.0,
         "lower", "us", "processor time of the worker, page faults included"),
    Goal("1,000,000 jobs: supervisor RSS", "RSS at 10,000", "+ 20 MiB at most", "million.rss.growth.1000000", 20.0, "lower",
         "MiB"),
)  # fmt: skip


def result_of(goal: Goal, series: Series | None) -> GoalResult:
    """A goal beside what was measured."""
    if series is None:
        return GoalResult(
            goal.name, goal.against, goal.goal, goal.limit, goal.better, "", goal.unit, remark="not measured"
        )
    measured = series.median
    sign = 1 if goal.better == "higher" else -1
    return GoalResult(
        name=goal.name,
        against=goal.against,
        goal=goal.goal,
        limit=goal.limit,
        better=goal.better,
        key=goal.key,
        unit=goal.unit,
        measured=measured,
        passed=sign * measured >= sign * goal.limit,
        margin=sign * (measured - goal.limit) / goal.limit,
        runs_passed=sum(sign * value >= sign * goal.limit for value in series.values),
        runs=len(series.values),
        remark=goal.remark,
    )


def results_of(series: Sequence[Series]) -> list[GoalResult]:
    """Every goal, in order."""
    by_key = {each.key: each for each in series}
    return [result_of(goal, by_key.get(goal.key)) for goal in GOALS]
