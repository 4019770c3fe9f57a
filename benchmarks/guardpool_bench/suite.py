"""A run of the suite: prepares guards and jobs, runs the cases, and makes the report, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone

import guardpool
from guardpool import Guard, GuardPool, GuardPoolError, Job
from guardpool.cli.files import name_the_file
from guardpool_bench import FORMAT, goals, jobsets, machine, peers, workguard
from guardpool_bench.bareloop import BareLoops
from guardpool_bench.cases import CASES, Case
from guardpool_bench.context import Context, Scale
from guardpool_bench.measure import QuietHeap
from guardpool_bench.report import BUSY_SHARE
from guardpool_bench.results import Fact, Report, Subject
from guardpool_bench.status_line import StatusLine

_FOREIGN_LOOK_S = 0.2


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        guard: the guard that is measured.
        jobs: its jobs.
        jobs_name: their source, for people.
        cases: names of the cases.
        workers: how many.
        engine: the WebAssembly engine, by name.
        options: how the suite was called, for the report.
    """

    guard: Guard
    jobs: Sequence[Job]
    jobs_name: str
    cases: Sequence[str]
    workers: int
    engine: str
    scale: Scale
    with_peers: bool
    full: bool
    options: dict[str, Fact]


class Run:
    """One run. `report` may be called at any time, also after an interruption."""

    def __init__(self, plan: Plan, status_line: StatusLine) -> None:
        self._plan = plan
        self._status_line = status_line
        self._context: Context | None = None
        self._load: dict[str, float] = {}
        self._began = time.monotonic()
        self._created = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._load_before = os.getloadavg()[0]
        self._stolen_before_s = machine.stolen_s()
        self.finished = False
        self.failed: list[str] = []

    def run(self) -> None:
        """Run every case. A case that fails is noted, and the others go on.

        Raises:
            GuardPoolError: the guard cannot be used at all.
            KeyboardInterrupt: it was interrupted; the report has what was done.
        """
        plan = self._plan
        bare = BareLoops(plan.workers)
        context = self._make(bare)
        with ExitStack() as stack:
            stack.enter_context(bare)
            self._calibrate(context)
            for case in CASES:
                if case.name in plan.cases:
                    self._case(context, case)
        self.finished = not self.failed

    def _make(self, bare: BareLoops) -> Context:
        """The context of all cases, once a pool has shown that the guard can be used at all."""
        plan = self._plan
        self._status_line.step("looking at the guard")
        try:
            GuardPool([plan.guard], workers=1, log_level="off", engine=plan.engine).close()
        except GuardPoolError as error:
            raise name_the_file(error, [plan.guard]) from error
        work = Guard("work", workguard.work_wasm(), workguard.POLICY)
        available = peers.available() if plan.with_peers else []
        context = Context(
            {"subject": plan.guard, "work": work},
            {},
            plan.workers,
            plan.scale,
            available,
            self._status_line,
            plan.full,
            bare,
            plan.engine,
        )
        self._context = context
        if plan.with_peers and peers.missing():
            context.note(
                f"not installed, so not measured: {', '.join(peers.missing())}; pip install 'guardpool[bench]'"
            )
        return context

    def _calibrate(self, context: Context) -> None:
        self._status_line.step("calibrating")
        for jobs in jobsets.subject_sets(self._plan.jobs):
            context.jobsets[jobs.name] = jobs
        context.bare.hold_guard(context.loadable("work"))
        for jobs in jobsets.work_sets(context.bare):
            context.jobsets[jobs.name] = jobs

    def _case(self, context: Context, case: Case) -> None:
        self._status_line.case(case.name)
        load = self._load[case.name] = round(machine.foreign_load(_FOREIGN_LOOK_S), 2)
        cores = len(os.sched_getaffinity(0))
        if load > BUSY_SHARE * cores:
            context.note(f"{case.name}: other programs used {load:.1f} of {cores} cores just before")
        context.case = case.name
        try:
            with QuietHeap():
                case.run(context)
        except (GuardPoolError, OSError) as error:
            self.failed.append(case.name)
            context.note(f"{case.name}: could not be measured: {error}")
        self._status_line.case_done()

    def report(self) -> Report:
        """The report of what was measured so far."""
        plan, context = self._plan, self._context
        seconds = max(1e-3, time.monotonic() - self._began)
        series = context.series if context else []
        return Report(
            format=FORMAT,
            created=self._created,
            guardpool=guardpool.__version__,
            finished=self.finished,
            seconds=round(seconds, 1),
            options=plan.options,
            machine=machine.describe(self._load_before, os.getloadavg()[0]),
            subject=Subject(
                plan.guard.name, hashlib.sha256(plan.guard.wasm).hexdigest(), len(plan.guard.wasm), plan.jobs_name
            ),
            series=series,
            curves=context.curves if context else [],
            goals=goals.results_of(series),
            profile=context.profile if context else None,
            foreign_load=self._load,
            stolen=round((machine.stolen_s() - self._stolen_before_s) / (seconds * (os.cpu_count() or 1)), 4),
            notes=context.notes if context else [],
        )
