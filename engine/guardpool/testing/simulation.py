"""One run from its seed to its end, and the report of it."""

from __future__ import annotations

import hashlib
import math
import mmap
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from guardpool.limits import Limits
from guardpool.protocol.reply_memory import KnownOf, key_of_question
from guardpool.supervise.clock import NEVER
from guardpool.supervise.commands import Close, Kill
from guardpool.supervise.reply_memory import Layout, ReplyMemory
from guardpool.supervise.sources import Source
from guardpool.supervise.supervisor import Supervisor
from guardpool.testing.clients import CallClient, Pool, StreamClient
from guardpool.testing.oracle import Oracle
from guardpool.testing.plan import Nature, make_plan
from guardpool.testing.processes import LIES, MAX_RSS_BYTES, Process
from guardpool.testing.simulated_machine import SimulatedEnd, SimulatedMachine
from guardpool.testing.world import Step, World, Wrong

# A run of some hundred jobs has some ten thousand events. One that is not over after this many goes round in circles.
_MAX_EVENTS_PER_JOB = 3000
_EVENTS_BETWEEN_LOOKS = 16
# Right runs are over within a minute of simulated time.
_MOST_S = 300.0
_REPLY_BYTES = 1 << 20
# How many steps of its trace a failure shows.
_SHOWN = 60


@dataclass(frozen=True)
class SimulationReport:
    """A run that went right.

    Attributes:
        seed: the run's.
        jobs: how many were handed in.
        outcomes: how many by status.
        faults: faults of the world, by kind.
        verdicts: how many workers that died got each verdict; under `memory VERDICT`, those that were killed for memory.
        deaths: how many workers died, for whatever reason.
        events: how many things happened.
        simulated_s: how long it took by the simulated clock.
        steps: when, what, and its details; see `trace`.
    """

    seed: int
    jobs: int
    outcomes: dict[str, int]
    faults: dict[str, int]
    verdicts: dict[str, int]
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
        """A digest of the trace: the same for every run of one seed."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class SimulationFailure(AssertionError):
    """A promise was broken. The message says which, and how to see it again.

    Attributes:
        seed: `simulate(seed, **options)` runs the same again.
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
        seed: decides everything that happens.
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
    finally:
        run.close()


class _Run:
    def __init__(self, seed: int, jobs: int | None, workers: int | None) -> None:
        self._seed = seed
        rng = random.Random(seed)
        self._plan = plan = make_plan(rng, jobs, workers, random.Random(f"sizes {seed}"))
        self._world = world = World(rng, plan)
        self._natures: dict[str, Nature] = {f"c{number}": nature for number, nature in enumerate(plan.calls)}
        for number, stream in enumerate(plan.streams):
            self._natures.update((f"s{number}-{index}", nature) for index, nature in enumerate(stream.natures))
        self._killings: dict[str, int] = {}
        self._faults: Counter[str] = Counter()
        self._conducts: deque[str] = deque()  # of the next workers that are born
        self._births = 0
        self._processes: list[Process] = []
        self._oracle = oracle = Oracle(world, self._natures)
        self._machine = machine = SimulatedMachine(world, oracle, self._fork)
        limits = Limits(
            timeout_s=plan.timeout_s,
            backend_timeout_s=plan.backend_timeout_s,
            max_attempts=plan.max_attempts,
            max_jobs_per_worker=plan.max_jobs_per_worker,
            max_rss_bytes=MAX_RSS_BYTES,
        )
        layout = Layout()
        self._area = area = layout.kept(_REPLY_BYTES)
        self._replies = ReplyMemory(mmap.mmap(-1, layout.size))
        source = Source(_nobody_asks, math.inf, KnownOf(None, area, False))
        self._supervisor = Supervisor(
            machine, ["guard"], [source], plan.workers, limits, self._replies, [plan.withholds]
        )
        oracle.watch(self._supervisor)
        assert machine.reactor is not None
        machine.reactor.wake = self._wake
        self._clients: list[StreamClient | CallClient] = []
        self._turn_due = False
        self._tick = 0
        self._closes = 0
        self._over = False
        self._over_at_s = 0.0

    def run(self) -> SimulationReport:
        world, plan = self._world, self._plan
        self._wake()
        if plan.faults_from_start:
            self._begin_faults()
        most = _MAX_EVENTS_PER_JOB * (len(self._natures) + 20)
        going_on = True
        while going_on:
            for _ in range(_EVENTS_BETWEEN_LOOKS):
                going_on = world.step()
            if world.events > most:
                raise Wrong(f"no end after {world.events} events")
            if world.elapsed_s > _MOST_S:  # an idle pool looks at its workers now and then, for ever
                raise Wrong(f"no end after {_MOST_S:.0f} s")
            if (
                self._clients
                and not self._over
                and not self._closes
                and all(client.finished for client in self._clients)
            ):
                self._close("close")
                going_on = True
        self._check_end()
        return SimulationReport(
            self._seed,
            len(self._natures) if self._clients else 0,
            dict(self._oracle.statuses),
            dict(self._faults),
            dict(self._oracle.verdicts),
            self._births,
            world.events,
            self._over_at_s,
            world.trace,
        )

    def trace(self) -> list[str]:
        return _lines(self._world.trace)

    def close(self) -> None:
        """Give back the slots of all workers, for which the collector might wait for a thousand runs."""
        for process in self._processes:
            process.wires.slots.close()

    def _check_end(self) -> None:
        supervisor = self._supervisor
        if not self._over:
            waiting = sum(not client.finished for client in self._clients)
            raise Wrong(f"nothing happens any more, the pool is not closed yet, and {waiting} callers still wait")
        for client in self._clients:
            client.check_end()
        scheduler = supervisor.state.scheduler
        if scheduler.queued or scheduler.in_flight:
            raise Wrong(f"at the end {scheduler.queued} jobs are queued and {scheduler.in_flight} in flight")
        if any(process.alive for process in self._processes):
            raise Wrong("at the end a worker is alive")
        if self._machine.open_descriptors:
            raise Wrong(f"at the end {self._machine.open_descriptors} descriptors are open")

    # --- the supervisor's loop, as its thread runs it

    def _wake(self) -> None:
        if not self._turn_due and not self._over:
            self._turn_due = True
            self._world.soon(self._turn)

    def _on_tick(self, tick: int) -> None:
        if tick == self._tick and not self._turn_due and not self._over:
            self._turn()

    def _turn(self) -> None:
        self._turn_due = False
        if self._over:
            return
        reactor, supervisor = self._machine.reactor, self._supervisor
        assert reactor is not None
        reactor.wait(0.0)
        wait_s = supervisor.round()
        if wait_s is None:
            self._end()
            return
        self._oracle.after_round()
        if supervisor.state.started and not self._clients:
            self._open()
        if reactor.ready():
            self._wake()
        self._tick += 1
        if wait_s >= 0:
            self._world.at(wait_s, self._on_tick, self._tick)

    def _end(self) -> None:
        self._over, self._over_at_s = True, self._world.elapsed_s
        self._world.note("over", str(self._supervisor.state.failure))
        self._oracle.check_failure()
        self._oracle.check_over()
        self._oracle.over = True
        self._supervisor.end()

    # --- the callers

    def _open(self) -> None:
        """The pool is ready: its callers come."""
        plan, world = self._plan, self._world
        self._oracle.opened = True
        pool = Pool(world, self._supervisor, self._oracle)
        self._clients += [StreamClient(f"s{number}-", stream, pool) for number, stream in enumerate(plan.streams)]
        self._clients.append(CallClient(plan.calls, pool))
        if not plan.faults_from_start:
            self._begin_faults()
        if plan.ending != "drain":
            world.at(plan.ending_at_s, self._close, plan.ending)

    def _close(self, how: str) -> None:
        if self._over or self._closes >= len(self._plan.closes):
            return
        self._world.note("close", how, self._closes)
        reactor = self._supervisor.reactor
        if how == "kill":
            self._closes = len(self._plan.closes)
            self._oracle.closed = self._oracle.killed = True
            reactor.post(Kill())
            return
        timeout_s = self._plan.closes[self._closes]
        self._closes += 1
        self._oracle.closes(timeout_s)
        reactor.post(Close(NEVER if timeout_s is None else self._world.now + timeout_s))
        self._world.at(self._world.rng.uniform(0.0, 0.1), self._close, "close")  # and perhaps another one

    # --- faults

    def _fork(self, end: SimulatedEnd, number: int, on_change: Callable[[], None]) -> Process:
        self._births += 1
        conduct = self._conducts.popleft() if self._conducts else "honest"
        if conduct == "differs" and self._supervisor.state.agents is None:
            conduct = "answers"  # the first answer of all is the one that others differ from
        self._world.note("forked", number, conduct)
        process = Process(
            self._world,
            number,
            end.wires,
            self._natures,
            self._killings,
            conduct,
            self._plan.agent_asks,
            self._known,
            self._jobs_elsewhere,
            self._oracle.begins,
            self._oracle.note_errors,
            on_change,
        )
        self._processes.append(process)
        return process

    def _known(self, question: bytes) -> tuple[int, bytes] | None:
        assert self._area is not None
        return self._replies.find(self._area, key_of_question("get", question), self._machine.clock_ns())

    def _jobs_elsewhere(self, process: Process) -> list[int]:
        others = [end.process for end in self._machine.ends.values() if end.process not in (None, process)]
        frames = [other.running for other in others if other is not None and other.alive]
        return [job.seq for frame in frames for job in frame.jobs]

    def _begin_faults(self) -> None:
        if self._plan.fault_every_s is not None:
            self._world.at(self._world.rng.expovariate(1 / self._plan.fault_every_s), self._fault)

    def _fault(self) -> None:
        world, rng = self._world, self._world.rng
        if self._over or world.elapsed_s >= self._plan.calm_at_s:
            return
        kind = rng.choice(self._plan.faults)
        if kind in ("unborn", "mute", "liar"):
            self._conducts.append(rng.choice(LIES) if kind == "liar" else kind)
            self._faults[kind] += 1
        elif kind in ("forkserver", "impostor", "deaf", "barren", "descriptors"):
            if rng.random() < 0.3:
                self._harm_machine(kind)
        else:
            self._harm_worker(kind)
        world.at(rng.expovariate(1 / (self._plan.fault_every_s or 1.0)), self._fault)

    def _harm_machine(self, kind: str) -> None:
        world, rng, server = self._world, self._world.rng, self._machine.forkserver
        if kind == "descriptors":
            if self._supervisor.state.started:
                self._machine.no_descriptors_until = world.now + rng.uniform(0.0, 0.4)
                self._faults[kind] += 1
                world.note("fault", kind)
            return
        if server is None or not server.alive:
            return
        self._faults[kind] += 1
        world.note("fault", kind, server.pid)
        if kind == "forkserver":
            server.die()
        elif kind == "impostor":
            server.lies = True
        elif kind == "barren":
            server.barren_until = world.now + rng.uniform(0.0, 0.1)
        else:
            server.stop()
            if rng.random() < 0.7:
                world.at(rng.random() * 2.0, server.cont)

    def _harm_worker(self, kind: str) -> None:
        world, rng = self._world, self._world.rng
        processes = [
            end.process for end in self._machine.ends.values() if end.process is not None and end.process.alive
        ]
        if not processes:
            return
        process = rng.choice(processes)
        self._faults[kind] += 1
        world.note("fault", kind, process.number)
        if kind == "kill":
            process.die(-9)
        elif kind == "exit":
            process.die(rng.choice((0, 1, 70)))
        elif kind == "stop":
            process.stop()
            if rng.random() < 0.6:
                world.at(rng.random() * 2 * self._plan.timeout_s, process.cont)
        else:
            process.mischief.append(kind)


def _nobody_asks(_tool: str, _args: object) -> object:
    raise AssertionError("the simulated machine answers for the backend")


def _lines(steps: list[Step]) -> list[str]:
    return [f"{at * 1000:10.3f} ms  {what} {' '.join(map(_word, details))}".rstrip() for at, what, details in steps]


def _word(detail: Any) -> str:
    return getattr(detail, "value", None) or str(detail)
