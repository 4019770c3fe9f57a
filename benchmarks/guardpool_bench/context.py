"""What every case works with: the guards, the jobs, the sizes of the run, and where results go."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from guardpool import Guard, GuardPool, Job, ModuleCache
from guardpool.contract import check_policy
from guardpool.limits import Limits
from guardpool_bench import run_statistics
from guardpool_bench.bareloop import BareLoops
from guardpool_bench.jobsets import JobSet
from guardpool_bench.loadable import Loadable
from guardpool_bench.results import Better, Curve, Fact, Profile, Series, make_series
from guardpool_bench.status_line import StatusLine


@dataclass(frozen=True)
class Scale:
    """How large a run is.

    Attributes:
        runs: rounds of everything that is repeated.
        slices: turns that make one throughput run, see `take_turns`.
        warm_s, run_s: seconds of warm-up and of counting of one turn.
        starts: starts of each kind.
        kills: ends of a worker of each kind a run.
        calls: single calls timed a run.
        file_jobs: jobs of a file.
        most_jobs: the largest number of jobs in one `map`.
        most_bytes: the largest job.
        log_calls: the agent's calls of a gateway's log.
        most_questions: the largest number of different questions that guards ask.
        new_questions: those of one run in which all are new.
    """

    runs: int = 5
    slices: int = 3
    warm_s: float = 0.08
    run_s: float = 0.2
    starts: int = 5
    kills: int = 10
    calls: int = 1000
    file_jobs: int = 60_000
    most_jobs: int = 1_000_000
    most_bytes: int = 5_000_000
    log_calls: int = 12_000
    most_questions: int = 100_000
    new_questions: int = 390


QUICK = Scale(3, 1, 0.04, 0.1, 2, 3, 200, 6000, 30_000, 1_000_000, 1200, 1000, 90)


@dataclass
class Context:
    """One run of the suite.

    Attributes:
        guards: the guard that is measured (`"subject"`) and the suite's own (`"work"`).
        jobsets: the jobs, by name.
        workers: of the pools and peers, and how many bare loops.
        peers: which are measured.
        engine: the WebAssembly engine of every pool, loop and peer.
    """

    guards: dict[str, Guard]
    jobsets: dict[str, JobSet]
    workers: int
    scale: Scale
    peers: list[str]
    status_line: StatusLine
    full: bool
    bare: BareLoops
    engine: str
    case: str = ""
    series: list[Series] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    profile: Profile | None = None
    _loadable: dict[str, Loadable] = field(default_factory=dict)

    # --- results

    def record(
        self,
        what: str,
        title: str,
        unit: str,
        better: Better,
        values: Sequence[float],
        **about: Fact,
    ) -> Series:
        """Keep a quantity; its key is the case's name, then `what`."""
        made = make_series(f"{self.case}.{what}", self.case, title, unit, better, values, about)
        self.series.append(made)
        return made

    def record_ratio(
        self, what: str, title: str, better: Better, values: Sequence[float], references: Sequence[float], **about: Fact
    ) -> Series:
        """Keep the ratios of paired runs."""
        return self.record(what, title, "ratio", better, run_statistics.ratios(values, references), **about)

    def curve(self, what: str, title: str, x_name: str, y_name: str, x: Sequence[float], y: Sequence[float]) -> None:
        """Keep one quantity over another."""
        self.curves.append(Curve(f"{self.case}.{what}", self.case, title, x_name, y_name, list(x), list(y)))

    def note(self, text: str) -> None:
        """Keep a remark that a reader of the results has to know, once."""
        if text not in self.notes:
            self.notes.append(text)
            self.status_line.say(text)

    def step(self, what: str) -> None:
        """Show on the status line what is being measured."""
        self.status_line.step(what)

    # --- guards and jobs

    def loadable(self, guard: str) -> Loadable:
        """The guard for bare loops and peers: from the cache; if it is not there, compiled in a process of its own."""
        found = self._loadable.get(guard)
        if found is None:
            its = self.guards[guard]
            policy = check_policy(its.policy, its.trusted_bots, its.trusted_users)
            artifact = ModuleCache().get_or_compile(its.wasm, Limits().memory_pages, guard=its.name, engine=self.engine)
            found = self._loadable[guard] = Loadable(guard, self.engine, artifact, msgspec.json.encode(policy))
        return found

    def hold(self, jobs: JobSet) -> None:
        """Make sure that the bare loops have the jobs and their guard."""
        self.bare.hold_guard(self.loadable(jobs.guard))
        self.bare.hold_jobs(jobs.name, jobs.jobs)

    def pool(self, guard: str | Guard, **options: Any) -> GuardPool:
        """A pool of one of the guards, or of another one, ready."""
        its = self.guards[guard] if isinstance(guard, str) else guard
        return GuardPool([its], **{"workers": self.workers, "log_level": "off", "engine": self.engine, **options})


def check_labels(context: Context, pool: GuardPool, jobs: JobSet, most: int = 500) -> None:
    """Note it if not every job gets a label, of as many as `most`: a guard that labels nothing is quick."""
    counts: dict[str, int] = {}
    for outcome in pool.map(jobs.jobs[:most], ordered=False):
        counts[outcome.status.value] = counts.get(outcome.status.value, 0) + 1
    total = sum(counts.values())
    others = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if status != "ok")
    if others:
        context.note(f"jobs {jobs.name!r}: of {total} jobs that were tried, {others}")


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder of our own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        os.chmod(name, 0o700)
        yield Path(name)


def jobs_of(count: int, jobs: Sequence[Job]) -> Iterator[Job]:
    """`count` jobs, the same ones over and over, without making a list of them."""
    whole, rest = divmod(count, len(jobs))
    for _ in range(whole):
        yield from jobs
    yield from jobs[:rest]


Run = Callable[[Context], None]
