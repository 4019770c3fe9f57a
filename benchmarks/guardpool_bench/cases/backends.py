"""Guards that ask their backend: what the questions cost, by how often they ask and how many different questions there are.

The yardstick is a bare loop whose `call_backend` is a look-up in a dict of the same process, over the same instance code.
Beside it are pools whose backend is a table of replies (`known`), and a callable that answers at once: one whose questions
were all asked before (`callable`), and one of which one question in a hundred is new (`callable-new`). Jobs have 50 us of work
beside their questions, or next to none, which shows the cost of a question alone.

Then every question is new, so that each goes all the way to the backend: a callable that answers at once, one that takes a
millisecond, a live MCP server. A run of these is a fixed number of questions, because a second of them may be a few hundred.

Last, the memory of workers that know few replies and many.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle

from guardpool import Guard, GuardPool, GuardPoolError, Job, Outcome, backends
from guardpool.guard import Backend
from guardpool_bench import asking, jobsets, machine, mcpserver, workguard
from guardpool_bench.contestants import Bare, Contestant, PoolMap
from guardpool_bench.context import Context, check_labels
from guardpool_bench.jobsets import JobSet
from guardpool_bench.loadable import Loadable
from guardpool_bench.measure import take_turns

QUESTIONS = (1, 2, 15)
DIFFERENT = (10, 1000, 100_000)
# Where one number of different questions stands for all.
_ORDINARY = 1000
_WORK_US = 50.0
_NEW_IN = 100
_CHECKED_JOBS = 40
# Questions of one run in which the workers' CPU time is measured.
_CPU_QUESTIONS = 3000
# New questions of all runs together: an MCP server answers a guard 10,000.
_MOST_NEW = 9000
# So many times as many are asked of a callable that answers at once. As many as of a server would be over in 60 ms, and the
# first run took up to three times as long as the others.
_INSTANT_TIMES = 8
_MEMORY_PASS_S = 4.0


def run(context: Context) -> None:
    """Measure questions that are known, then new ones, then memory."""
    guard = context.guards["asks"] = Guard("asks", asking.asking_wasm(), workguard.POLICY)
    try:
        loadable = context.loadable("asks")
        context.bare.hold_guard(loadable)
        turns = jobsets.turns_for(context.bare, "asks", "jobs that ask", _WORK_US, _silent_job)
        numbers = [each for each in DIFFERENT if each <= context.scale.most_questions]
        for different in numbers:
            _known(context, guard, loadable, "50us", turns, different)
        _known(context, guard, loadable, "none", 0, _ORDINARY)
        _live(context, guard)
        _memory(context, guard, numbers)
    finally:
        del context.guards["asks"]


def _silent_job(turns: int, id: int) -> Job:
    return asking.job(0, turns=turns, id=id)


def _with(guard: Guard, backend: Backend) -> Guard:
    return Guard(guard.name, guard.wasm, guard.policy, backend=backend)


def _questions(count: int) -> str:
    return f"{count} question{'s' * (count > 1)} a job"


def _loop_name(different: int) -> str:
    return f"asks-{different}"


# --- known replies


def _known(context: Context, guard: Guard, loadable: Loadable, work: str, turns: int, different: int) -> None:
    title = "50 us jobs" if turns else "jobs of almost no work"
    sets = {
        questions: jobsets.make(
            f"asks-{questions}-{different}-{work}",
            f"{title}, {_questions(questions)}, {different:,} different",
            _loop_name(different),
            asking.jobs(questions, different, turns, jobsets.DISTINCT),
        )
        for questions in QUESTIONS
    }
    context.step(f"{title}, {different:,} questions: starting")
    context.bare.hold_guard(dataclasses.replace(loadable, name=_loop_name(different), replies=different))
    with ExitStack() as stack:
        known = stack.enter_context(context.pool(_with(guard, backends.Replies(asking.lines(different)))))
        contestants: list[tuple[int, Contestant]] = []
        called = answerer = None
        if turns and different == _ORDINARY:
            answerer = asking.Answerer()
            called = stack.enter_context(context.pool(_with(guard, answerer)))
            for _ in called.map(sets[1].jobs):
                pass  # every question was asked now
        for questions, jobs in sets.items():
            context.bare.hold_jobs(jobs.name, jobs.jobs)
            check_labels(context, known, jobs, _CHECKED_JOBS)
            bare = Bare(context.bare, jobs.guard, jobs.name, "bare", context.workers)
            contestants += [(questions, bare), (questions, PoolMap(known, "known"))]
            if called is not None:
                contestants += [
                    (questions, PoolMap(called, "callable")),
                    (questions, _SomeNew(called, questions, turns)),
                ]
        values = _rates(context, sets, contestants)
        cpu_us = _cpu_of_a_question(context, known, sets)
    _record_known(context, f"{work}.", sets, different, values)
    context.record(
        f"{work}.{different}.known.question-cpu",
        f"a known reply, {title}, {different:,} different: CPU time of a worker",
        "us",
        "lower",
        cpu_us,
        different=different,
    )
    if answerer is not None:
        context.record(
            "asked-again", "times each different question reached the callable", "ratio", "lower",
            [answerer.asked / len(answerer.different)],
        )  # fmt: skip


class _SomeNew:
    """A pool whose jobs ask, once in a hundred, what was never asked before."""

    def __init__(self, pool: GuardPool, questions: int, turns: int) -> None:
        self.name = "callable-new"
        self._map = PoolMap(pool)
        self._questions = questions
        self._turns = turns
        # No two kinds of jobs share new questions.
        self._next = questions * 500_000

    def rate(self, jobs: Sequence[Job], warm_s: float, run_s: float) -> float:
        """Jobs a second."""
        return self._map.rate_of(self._jobs(jobs), warm_s, run_s)

    def _jobs(self, jobs: Sequence[Job]) -> Iterator[Job]:
        for number, job in enumerate(cycle(jobs), 1):
            if number % _NEW_IN:
                yield job
            else:
                yield asking.job(self._questions, self._next, asking.MOST_DIFFERENT, self._turns, number)
                self._next += self._questions


def _rates(
    context: Context, sets: dict[int, JobSet], contestants: Sequence[tuple[int, Contestant]]
) -> dict[tuple[int, str], list[float]]:
    """Jobs a second of each, by its questions a job and its name."""
    scale = context.scale

    def rate(each: tuple[int, Contestant], turn: int) -> float:
        questions, contestant = each
        context.step(f"{sets[questions].title}: {contestant.name}, run {turn + 1} of {scale.runs}")
        return contestant.rate(sets[questions].jobs, scale.warm_s, scale.run_s)

    values = take_turns(contestants, scale.runs, rate, scale.slices)
    return {(questions, contestant.name): found for (questions, contestant), found in zip(contestants, values)}


def _cpu_of_a_question(context: Context, pool: GuardPool, sets: dict[int, JobSet]) -> list[float]:
    """Microseconds of CPU time that a further question of a job costs a worker, run by run; other programs hardly change it."""
    few, many = QUESTIONS[0], QUESTIONS[-1]

    def cost(questions: int, turn: int) -> float:
        context.step(f"{sets[questions].title}: CPU time, run {turn + 1} of {context.scale.runs}")
        jobs = sets[questions].jobs[: max(1, _CPU_QUESTIONS // questions)]
        pids = [worker.pid for worker in pool.stats().workers]
        before = sum(map(machine.on_cpu_ns, pids))
        for _ in pool.map(jobs):
            pass
        return (sum(map(machine.on_cpu_ns, pids)) - before) / 1000 / len(jobs)

    low, high = take_turns((few, many), context.scale.runs, cost)
    return [(of_many - of_few) / (many - few) for of_few, of_many in zip(low, high)]


def _record_known(
    context: Context, work: str, sets: dict[int, JobSet], different: int, values: dict[tuple[int, str], list[float]]
) -> None:
    for (questions, who), rates in values.items():
        context.record(
            f"{work}{questions}.{different}.{who}", f"{sets[questions].title}: {who}", "jobs/s", "higher", rates,
            questions=questions, different=different, who=who,
        )  # fmt: skip
    for (questions, who), rates in values.items():
        if who != "bare":
            against = "known" if who.startswith("callable") else "bare"
            context.record_ratio(
                f"{work}{questions}.{different}.{who}.ratio",
                f"{sets[questions].title}: {who} over {'bare loops' if against == 'bare' else against}", "higher", rates,
                values[questions, against], questions=questions, different=different, who=who, against=against,
            )  # fmt: skip
    few, many = QUESTIONS[0], QUESTIONS[-1]
    for who in ("bare", "known"):
        context.record(
            f"{work}{different}.{who}.question", f"a known reply, {sets[few].title.partition(',')[0]}, {different:,} "
            f"different: {who}", "us", "lower",
            [
                context.workers * 1e6 * (1 / slow - 1 / quick) / (many - few)
                for slow, quick in zip(values[many, who], values[few, who])
            ],
            different=different, who=who,
        )  # fmt: skip


# --- new questions


def _live(context: Context, guard: Guard) -> None:
    _new_questions(
        context, _with(guard, asking.Answerer()), "instant", "a callable that answers at once", times=_INSTANT_TIMES
    )
    _new_questions(context, _with(guard, asking.Answerer(0.001)), "1ms", "a callable that takes 1 ms")
    make = getattr(backends, "McpServer", None)
    if make is None or importlib.util.find_spec("mcp") is None:
        what = "guardpool.backends has no McpServer" if make is None else "not installed: pip install 'guardpool[mcp]'"
        context.note(f"backends: no row for a live MCP server: {what}")
        return
    try:
        _new_questions(context, _with(guard, make.stdio(mcpserver.COMMAND)), "mcp", "a live MCP server over stdio")
    except (GuardPoolError, OSError) as error:
        context.note(f"backends: no row for a live MCP server: {error}")


def _new_questions(context: Context, guard: Guard, name: str, title: str, times: int = 1) -> None:
    begin = 0
    statuses: dict[str, int] = {}
    most = times * min(context.scale.new_questions, _MOST_NEW // (context.scale.runs * len(QUESTIONS)))

    def rate(questions: int, turn: int) -> float:
        nonlocal begin
        context.step(f"{_questions(questions)}, all new, {title}: run {turn + 1} of {context.scale.runs}")
        count = max(1, most // questions)
        jobs = [asking.job(questions, begin + questions * at, asking.MOST_DIFFERENT) for at in range(count)]
        begin += questions * count
        began = time.perf_counter()
        outcomes: list[Outcome] = list(pool.map(jobs))
        took_s = time.perf_counter() - began
        for outcome in outcomes:
            statuses[outcome.status.value] = statuses.get(outcome.status.value, 0) + 1
        return count / took_s

    with context.pool(guard) as pool:
        list(pool.map([asking.job(1, begin, asking.MOST_DIFFERENT)] * context.workers))  # the backend has started now
        begin += 1
        values = take_turns(QUESTIONS, context.scale.runs, rate)
    if set(statuses) != {"ok"}:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        context.note(f"backends: new questions, {title}: {counts}")
    for questions, rates in zip(QUESTIONS, values):
        context.record(
            f"new.{questions}.{name}", f"{_questions(questions)}, all new, {title}", "jobs/s", "higher",
            rates, questions=questions, who=name,
        )  # fmt: skip
    context.record(
        f"new.{name}.question", f"a new question, {title}: time of a worker", "us", "lower",
        [context.workers * 1e6 / rate / QUESTIONS[-1] for rate in values[-1]], who=name,
    )  # fmt: skip


# --- memory


def _memory(context: Context, guard: Guard, numbers: Sequence[int]) -> None:
    found: dict[tuple[int, str], list[float]] = {}
    few, most = numbers[0], numbers[-1]
    for turn in range(max(2, context.scale.runs // 2 + 1)):
        for different in (few, most):
            context.step(f"memory with {different:,} replies, run {turn + 1}")
            for field, mib in _worker_mib(context, guard, different).items():
                found.setdefault((different, field), []).append(mib)
    for (different, field), values in found.items():
        context.record(
            f"memory.{different}.{field.lower()}", f"{field.upper()} of a worker, {different:,} replies known", "MiB",
            "lower", values, different=different,
        )  # fmt: skip


def _worker_mib(context: Context, guard: Guard, different: int) -> dict[str, float]:
    """RSS and PSS of a worker in MiB, the mean of all, after they have asked every question."""
    # Only root may look into sandboxed workers; without their sandbox they cost the same.
    sandbox = "auto" if os.geteuid() == 0 else "off"
    its = _with(guard, backends.Replies(asking.lines(different)))
    with context.pool(its, sandbox=sandbox) as pool:
        end = time.monotonic() + _MEMORY_PASS_S
        outcomes = pool.map(asking.jobs(QUESTIONS[-1], different, 0, 2 * context.workers), ordered=False)
        for _ in outcomes:
            if time.monotonic() > end:
                context.note(f"backends: memory was measured before all of {different:,} questions were asked")
                break
        outcomes.close()  # type: ignore[attr-defined]  # it is a generator
        pids = [worker.pid for worker in pool.stats().workers]
        return {
            field: sum(machine.memory_kib(pid, field) for pid in pids) / 1024 / len(pids) for field in ("Rss", "Pss")
        }
