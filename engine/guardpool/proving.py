"""Whether labels depend on more than the job and the guard: some jobs are labelled again, each time with one thing changed.

No run of any length shows that a label depends on nothing else. What it shows is a dependence: two labels of one job.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from guardpool.artifacts.cache import ModuleCache
from guardpool.batch.manifest import manifest_hash
from guardpool.errors import CallerError, CompileError, EngineMissing, GuardInitError, LimitsError, ModuleError
from guardpool.guard import Guard
from guardpool.jobs import Prepared
from guardpool.labels import AgentLabels
from guardpool.limits import Limits
from guardpool.machine.engines import ENGINE_WORDS, choose_engine, engine_problem
from guardpool.outcomes import Outcome
from guardpool.pool import GuardPool
from guardpool.submit.intake import AnyJob

__all__ = ["Difference", "Proof", "Sample", "prove"]

# How many workers are compared with one.
WORKERS = 4
_PORTION = 256

# What the first run is called, and the others: each changes one thing.
FIRST = "first"
AGAIN = "again"
SHUFFLED = "shuffled"
MORE_WORKERS = f"{WORKERS} workers"
ISOLATED = "isolated"
DETERMINISTIC = "deterministic"


@dataclass(frozen=True)
class _Condition:
    name: str
    options: Mapping[str, Any]
    is_shuffled: bool = False


@dataclass(frozen=True)
class Difference:
    """A job that got different labels.

    Attributes:
        first: its outcome in the first run.
        others: its outcomes that differ from that one in label or status, by the names of their runs.
    """

    first: Outcome
    others: dict[str, Outcome]


@dataclass(frozen=True)
class Proof:
    """What came out.

    Attributes:
        jobs: how many were labelled.
        hashes: the `manifest_hash` of each run by its name, in the order of the runs: `"first"`, `"again"` (in a new pool, with
            nothing changed), `"shuffled"`, `"4 workers"`, `"isolated"` (`isolation="job"`), `"deterministic"` (fixed clocks and
            random bytes), and an engine's name.
        skipped: runs that were not made, and why, one line each.
        differences: the jobs whose label or status is not the same in all runs, in the order of the input.
        agents: guards whose `label_agent` answered otherwise, or failed, in some runs, with the names of those.
    """

    jobs: int
    hashes: dict[str, str]
    skipped: dict[str, str]
    differences: list[Difference]
    agents: dict[str, list[str]]

    @property
    def found_nothing(self) -> bool:
        """Whether every job got the same label in every run."""
        return not self.differences and not self.agents

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs got another label than in the first run, by run."""
        counted = Counter(name for difference in self.differences for name in difference.others)
        return {name: counted[name] for name in self.hashes if name != FIRST}


class Sample:
    """So many of the jobs that pass by, each as likely as any other, by a seed. Holds no more than those.

    Args:
        size: how many at most.
        seed: decides which.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise CallerError(f"the number of jobs to draw must be a whole number from 1, not {size!r}")
        self._size = size
        self._dice = random.Random(seed)
        self._drawn: list[tuple[int, Any]] = []
        self._seen = 0

    def add(self, job: Any) -> None:
        """See one more job."""
        at, self._seen = self._seen, self._seen + 1
        if at < self._size:
            self._drawn.append((at, job))
            return
        place = self._dice.randrange(self._seen)
        if place < self._size:
            self._drawn[place] = at, job

    @property
    def drawn(self) -> list[Any]:
        """The jobs, in the order in which they came."""
        return [job for _, job in sorted(self._drawn, key=lambda drawn: drawn[0])]


def prove(
    jobs: Iterable[AnyJob | Prepared],
    guards: Sequence[Guard],
    n: int,
    seed: int = 0,
    *,
    limits: Limits | None = None,
    sandbox: str = "auto",
    cache: ModuleCache | str | os.PathLike[str] | None = None,
    engine: str = "auto",
    isolation: str = "none",
    deterministic: bool = False,
    on_run: Callable[[str], object] = lambda name: None,
) -> Proof:
    """Draw jobs and label them again and again, each time in a new pool and with one thing changed; see `Proof.hashes`.

    The first run is that of one worker, in the order of the jobs, with these options. With `isolation="job"` the run
    `isolated` is left out, with `deterministic=True` the run `deterministic`, as they would change nothing. A backend that is
    asked live is asked in each run, and may be what a label depends on: better give guards a table of replies.

    Args:
        jobs: any iterable of jobs, all of them `Prepared` or none; it is read to its end.
        guards: as for `GuardPool`.
        n: how many jobs are drawn; all, if there are no more.
        seed: decides which jobs are drawn, and how they are shuffled.
        limits, sandbox, cache, engine, isolation, deterministic: as for `GuardPool`.
        on_run: called with a run's name before it begins.

    Raises:
        CallerError: `n` is not a whole number from 1.
        GuardPoolError: no pool can be made with the options as they were given, or it broke.
    """
    sample = Sample(n, seed)
    for at, job in enumerate(jobs):
        # Without one a dict gets its place in a run as its id, which is not the same in each.
        sample.add({"id": at, **job} if isinstance(job, Mapping) else job)
    options = {
        "limits": limits,
        "sandbox": sandbox,
        "cache": cache,
        "engine": choose_engine(engine).name,
        "isolation": isolation,
        "deterministic": deterministic,
        "workers": 1,
        "log_level": "off",
    }
    return _Prover(sample.drawn, guards, options, seed).prove(on_run)


@dataclass(frozen=True)
class _Run:
    agents: Mapping[str, AgentLabels]
    outcomes: list[Outcome]


class _Prover:
    def __init__(self, jobs: list[Any], guards: Sequence[Guard], options: dict[str, Any], seed: int) -> None:
        self._jobs = jobs
        self._guards = guards
        self._options = options
        self._seed = seed

    def prove(self, on_run: Callable[[str], object]) -> Proof:
        on_run(FIRST)
        first = self._run(_Condition(FIRST, {}))
        hashes = {FIRST: manifest_hash(first.outcomes)}
        skipped: dict[str, str] = {}
        changed: dict[int, dict[str, Outcome]] = {}
        agents: dict[str, list[str]] = {}
        for condition in self._conditions(skipped):
            on_run(condition.name)
            try:
                run = self._run(condition)
            except (LimitsError, ModuleError, CompileError, EngineMissing) as error:
                skipped[condition.name] = str(error)
                continue
            except GuardInitError as error:  # e.g. because it told four workers different things
                skipped[condition.name] = str(error)
                agents.setdefault(error.guard or "?", []).append(condition.name)
                continue
            hashes[condition.name] = manifest_hash(run.outcomes)
            for at, (before, now) in enumerate(zip(first.outcomes, run.outcomes)):
                if now.status != before.status or now.label_json != before.label_json:
                    changed.setdefault(at, {})[condition.name] = now
            for guard, labels in run.agents.items():
                if labels != first.agents[guard]:
                    agents.setdefault(guard, []).append(condition.name)
        differences = [Difference(first.outcomes[at], changed[at]) for at in sorted(changed)]
        return Proof(len(self._jobs), hashes, skipped, differences, agents)

    def _conditions(self, skipped: dict[str, str]) -> Iterator[_Condition]:
        yield _Condition(AGAIN, {})
        yield _Condition(SHUFFLED, {}, is_shuffled=True)
        yield _Condition(MORE_WORKERS, {"workers": WORKERS})
        if self._options["isolation"] != "job":
            yield _Condition(ISOLATED, {"isolation": "job"})
        if not self._options["deterministic"]:
            yield _Condition(DETERMINISTIC, {"deterministic": True})
        for name in ENGINE_WORDS:
            if name in ("auto", self._options["engine"]):
                continue
            problem = engine_problem(name)
            if problem is None:
                yield _Condition(name, {"engine": name})
            else:
                skipped[name] = problem

    def _run(self, condition: _Condition) -> _Run:
        order = list(range(len(self._jobs)))
        if condition.is_shuffled:
            random.Random(self._seed).shuffle(order)
        with GuardPool(self._guards, **{**self._options, **condition.options}) as pool:
            made = _label(pool, [self._jobs[at] for at in order])
            agents = dict(pool.agents)
        outcomes = [outcome for _, outcome in sorted(zip(order, made), key=lambda pair: pair[0])]
        return _Run(agents, outcomes)


def _label(pool: GuardPool, jobs: list[Union[AnyJob, Prepared]]) -> list[Outcome]:
    """The outcomes of jobs, in their order."""
    if not any(isinstance(job, Prepared) for job in jobs):
        return list(pool.map(jobs))  # type: ignore[arg-type]
    outcomes: list[Outcome] = []
    stream = pool.stream()
    for at in range(0, len(jobs), _PORTION):
        while not stream.room:
            outcomes += stream.take()
        stream.put(jobs[at : at + _PORTION])  # type: ignore[arg-type]
    stream.finish()
    while taken := stream.take():
        outcomes += taken
    return outcomes
