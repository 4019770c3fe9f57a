"""One run from its seed to its end, and the report of it."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from guardpool.submit.intake import Intake
from guardpool.testing.books import Books, Wrong
from guardpool.testing.clients import CallClient, StreamClient
from guardpool.testing.desk import Desk
from guardpool.testing.plan import Nature, make_plan
from guardpool.testing.traffic import Handle
from guardpool.testing.world import Process, Step, World

# A run of some hundred jobs has some ten thousand events. One that is not over by then turns in circles.
_MAX_EVENTS_PER_JOB = 3000
_EVENTS_BETWEEN_LOOKS = 16
# What a failure shows of its trace.
_SHOWN = 60


@dataclass(frozen=True)
class SimulationReport:
    """A run that went right.

    Attributes:
        seed: of the run.
        jobs: how many were handed in.
        outcomes: how many by status.
        faults: faults of the world, by kind.
        deaths: how many workers died, for whatever reason.
        events: how many things happened.
        simulated_s: how long it took by the simulated clock.
        steps: when, what, and its details; see `trace`.
    """

    seed: int
    jobs: int
    outcomes: dict[str, int]
    faults: dict[str, int]
    deaths: int
    events: int
    simulated_s: float
    steps: list[Step] = field(repr=False)

    @property
    def trace(self) -> list[str]:
        """Every step, one line each."""
        return _lines(self.steps)

    @property
    def digest(self) -> str:
        """Of the trace: two runs of one seed have the same."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class SimulationFailure(AssertionError):
    """A promise was broken. The message says which, and how to see it again.

    Attributes:
        seed: runs the same again: `simulate(seed, **options)`.
        options: what `simulate` was given besides the seed.
        reason: what is wrong.
        trace: every step up to it, one line each.
    """

    def __init__(self, seed: int, options: dict[str, int | None], reason: str, trace: list[str]) -> None:
        self.seed = seed
        self.options = options
        self.reason = reason
        self.trace = trace
        given = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
        tail = "\n".join(trace[-_SHOWN:])
        super().__init__(
            f"seed {seed}: {reason}\nagain: python -m guardpool.testing --start {seed}{given} --trace\n"
            f"the last steps before it:\n{tail}"
        )


def simulate(seed: int, *, jobs: int | None = None, workers: int | None = None) -> SimulationReport:
    """Run one random schedule of jobs and faults to its end.

    Args:
        seed: what happens, all of it.
        jobs: how many; None: drawn.
        workers: how many; None: drawn.

    Raises:
        SimulationFailure: something went wrong that must never go wrong.
    """
    run = _Run(seed, jobs, workers)
    try:
        return run.run()
    except Exception as error:
        reason = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
        raise SimulationFailure(seed, {"jobs": jobs, "workers": workers}, reason, run.trace()) from error


class _Run:
    def __init__(self, seed: int, jobs: int | None, workers: int | None) -> None:
        self._seed = seed
        rng = random.Random(seed)
        self._plan = plan = make_plan(rng, jobs, workers)
        self._world = world = World(rng, plan)
        natures = {f"c{number}": nature for number, nature in enumerate(plan.calls)}
        for number, stream in enumerate(plan.streams):
            natures.update((f"s{number}-{index}", nature) for index, nature in enumerate(stream.natures))
        self._natures: dict[str, Nature] = natures
        self._killings: dict[str, int] = {}
        self._faults: Counter[str] = Counter()
        self._unborn = 0
        self._births = 0
        self._books = books = Books(world, natures)
        self._desk = desk = Desk(world, books, self._fork)
        intake = Intake(["guard"], 1 << 20, desk.post, desk.check_open)
        self._clients: list[StreamClient | CallClient] = [
            StreamClient(f"s{number}-", stream, world, desk, books, intake)
            for number, stream in enumerate(plan.streams)
        ]
        self._clients.append(CallClient(plan.calls, world, desk, books, intake))
        self._closed = False

    def run(self) -> SimulationReport:
        world, plan, desk = self._world, self._plan, self._desk
        world.soon(desk.turn)
        if plan.fault_every_s is not None:
            world.at(world.rng.expovariate(1 / plan.fault_every_s), self._fault)
        if plan.ending != "drain":
            world.at(plan.ending_at_s, self._close, plan.ending)
        most = _MAX_EVENTS_PER_JOB * (len(self._natures) + 20)
        going_on = True
        while going_on:
            for _ in range(_EVENTS_BETWEEN_LOOKS):
                going_on = world.step()
            if world.events > most:
                raise Wrong(f"no end after {world.events} events")
            if not self._closed and all(client.finished for client in self._clients):
                self._close("close")
                going_on = True
        self._check_end()
        return SimulationReport(
            self._seed,
            len(self._natures),
            dict(self._books.statuses),
            dict(self._faults),
            self._births,
            world.events,
            world.now,
            world.trace,
        )

    def trace(self) -> list[str]:
        return _lines(self._world.trace)

    def _check_end(self) -> None:
        if not self._closed:
            waiting = sum(not client.finished for client in self._clients)
            raise Wrong(f"nothing happens any more, and {waiting} callers still wait")
        if not self._desk.over:
            raise Wrong("nothing happens any more, and the pool is not closed yet")
        for client in self._clients:
            client.check_end()
        scheduler = self._desk.core.scheduler
        if scheduler.queued or scheduler.in_flight:
            raise Wrong(f"at the end {scheduler.queued} jobs are queued and {scheduler.in_flight} in flight")

    def _close(self, how: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._world.note("close", how)
        if how == "kill":
            self._desk.post(("kill",))
        else:
            end = self._world.now + self._plan.backlog_s if self._plan.backlog_s else float("inf")
            self._desk.post(("close", end))

    # --- faults

    def _fork(self, handle: Handle) -> Process:
        self._births += 1
        unborn = self._unborn > 0
        self._unborn -= unborn
        self._world.note("forked", handle.number, "unborn" if unborn else "")
        return Process(self._world, handle, self._natures, self._killings, unborn)

    def _fault(self) -> None:
        world, desk, rng = self._world, self._desk, self._world.rng
        if desk.over or world.now >= self._plan.calm_at_s:
            return
        kind = rng.choice(self._plan.faults)
        self._faults[kind] += 1
        handles = [h for h in desk.handles.values() if h.process is not None and h.process.alive]
        if kind == "unborn":
            self._unborn += 1
        elif kind == "forkserver":
            if rng.random() < 0.3:
                world.note("fault", kind)
                desk.forkserver_died()
        elif handles:
            handle = rng.choice(handles)
            world.note("fault", kind, handle.number)
            assert handle.process is not None
            self._harm(kind, handle.process)
        world.at(rng.expovariate(1 / (self._plan.fault_every_s or 1.0)), self._fault)

    def _harm(self, kind: str, process: Process) -> None:
        rng = self._world.rng
        if kind == "kill":
            process.die(-9)
        elif kind == "exit":
            process.die(rng.choice((0, 1, 70)))
        elif kind == "stop":
            process.stop()
            if rng.random() < 0.6:
                self._world.at(rng.random() * 2 * self._plan.timeout_s, process.cont)
        else:
            process.mischief.append(kind)


def _lines(steps: list[Step]) -> list[str]:
    return [f"{at * 1000:10.3f} ms  {what} {' '.join(map(_word, details))}".rstrip() for at, what, details in steps]


def _word(detail: Any) -> str:
    return getattr(detail, "value", None) or str(detail)
