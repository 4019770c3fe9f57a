"""Time, chance and processes of a simulated run."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import msgspec

from guardpool.outcomes import OutcomeError
from guardpool.protocol import wire
from guardpool.testing.plan import Nature, Plan

if TYPE_CHECKING:
    from guardpool.testing.traffic import Handle

# What a worker's step yields: seconds until the next one, or None: until bytes or room come.
Steps = Generator["float | None", None, None]
# When, what, details.
Step = tuple[float, str, tuple[Any, ...]]

MAX_RSS_BYTES = 1 << 28
_FRESH_RSS_BYTES = 1 << 24
_FLUSH_S = 0.010
FORGED = b'"forged"'


class World:
    """The clock and the dice. Everything that happens is an event; what was noted of them is the trace."""

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.rng = rng
        self.plan = plan
        self.now = 0.0
        self.events = 0
        self.trace: list[Step] = []
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._number = itertools.count().__next__

    def at(self, delay_s: float, call: Callable[..., object], *args: Any) -> None:
        """Call after a delay."""
        heapq.heappush(self._heap, (self.now + delay_s, self._number(), call, args))

    def soon(self, call: Callable[..., object], *args: Any) -> None:
        """Call after the short while that a wake-up takes."""
        self.at(self.rng.random() * 2e-4, call, *args)

    def note(self, what: str, *details: Any) -> None:
        """Put a line into the trace."""
        self.trace.append((self.now, what, details))

    def step(self) -> bool:
        """Let the next event happen; False when there is none."""
        if not self._heap:
            return False
        self.now, _, call, args = heapq.heappop(self._heap)
        self.events += 1
        call(*args)
        return True

    def some(self, size: int) -> int:
        """How many of so many bytes go through at once: all, as a rule, or any part."""
        return size if self.rng.random() < 0.7 else self.rng.randint(1, size)


class _JobName(msgspec.Struct):
    tool_name: str


_name_of = msgspec.json.Decoder(_JobName).decode


class Process:
    """A simulated worker process: it reads jobs from a pipe, writes results into another, and may come to any harm.

    Args:
        world: where it lives.
        handle: the supervisor's end.
        natures: of all jobs, by name.
        deaths: how many workers each killer has on its conscience, by name.
        unborn: it dies before it says HELLO.
    """

    def __init__(
        self, world: World, handle: Handle, natures: dict[str, Nature], deaths: dict[str, int], unborn: bool
    ) -> None:
        self.world = world
        self.handle = handle
        self.jobs_pipe = bytearray()
        self.results_pipe = bytearray()
        self.page_seq = 0
        self.page_started_at = 0.0
        self.page_name: str | None = None
        self.rss_bytes = _FRESH_RSS_BYTES
        self.alive = True
        self.mischief: deque[str] = deque()
        self._natures = natures
        self._deaths = deaths
        self._reader = wire.FrameReader.to_worker()
        self._frames: deque[wire.ToWorker] = deque()
        self._results: list[wire.ResultItem] = []
        self._stopped = False
        self._waiting = False
        self._resume_pending = False
        self._steps = self._life(unborn)
        world.at(world.rng.uniform(1e-3, 5e-3), self._resume)

    # --- from outside

    def wake(self) -> None:
        """Bytes or room came."""
        if self._waiting:
            self._waiting = False
            self.world.soon(self._resume)

    def stop(self) -> None:
        """SIGSTOP."""
        self._stopped = True

    def cont(self) -> None:
        """SIGCONT."""
        self._stopped = False
        if self._resume_pending:
            self._resume_pending = False
            self.world.soon(self._resume)

    def die(self, status: int) -> None:
        """It is gone, in the middle of whatever it did."""
        if self.alive:
            self.alive = False
            self.world.note("died", self.handle.number, status, self.page_name)
            self.handle.desk.on_process_death(self.handle, status)

    # --- its life

    def _resume(self) -> None:
        if not self.alive:
            return
        if self._stopped:
            self._resume_pending = True
            return
        try:
            delay_s = next(self._steps)
        except StopIteration:
            self.die(0)
            return
        if not self.alive:
            return
        if delay_s is None:
            self._waiting = True
        else:
            self.world.at(delay_s, self._resume)

    def _life(self, unborn: bool) -> Steps:
        if unborn:
            self.die(self.world.rng.choice((-9, -11, 1)))
            return
        yield from self._write(wire.Hello(wire.PROTOCOL, self.handle.number, {}, [b"{}"], [], None))
        while True:
            while not self._frames:
                yield from self._read()
            frame = self._frames.popleft()
            if isinstance(frame, wire.Jobs):
                going_on = yield from self._run(frame)
                if not going_on:
                    break
            else:
                break
        yield from self._flush()
        yield from self._write(wire.Bye())

    def _read(self) -> Steps:
        while not self.jobs_pipe:
            yield None
        size = self.world.some(len(self.jobs_pipe))
        data = bytes(self.jobs_pipe[:size])
        del self.jobs_pipe[:size]
        self._frames.extend(self._reader.feed(data))
        if self.handle.unsent:
            self.world.soon(self.handle.desk.on_room, self.handle)

    def _write(self, frame: wire.FromWorker) -> Steps:
        yield from self._write_bytes(wire.encode(frame))

    def _write_bytes(self, data: bytes) -> Steps:
        world, pipe = self.world, self.results_pipe
        while data:
            room = world.plan.pipe_bytes - len(pipe)
            if room <= 0:
                yield None
                continue
            size = world.some(min(room, len(data)))
            pipe += data[:size]
            data = data[size:]
            self.handle.desk.on_written(self.handle)
            if data:
                yield world.rng.random() * 1e-4

    def _flush(self) -> Steps:
        self.page_seq, self.page_name = 0, None
        results, self._results = self._results, []
        for at in range(0, len(results), wire.MAX_RESULTS):
            yield from self._write(wire.Results(results[at : at + wire.MAX_RESULTS]))
        while self.mischief:
            yield from self._misbehave(self.mischief.popleft(), results)

    def _misbehave(self, how: str, results: list[wire.ResultItem]) -> Steps:
        rng = self.world.rng
        self.world.note("misbehaves", self.handle.number, how)
        if how == "twice" and results:
            yield from self._write(wire.Results(results[-rng.randint(1, len(results)) :]))
        elif how == "foreign":
            others = [seq for seq, number in self.handle.desk.holders.items() if number != self.handle.number]
            seq = rng.choice(others) if others else 1 << 60
            yield from self._write(wire.Results([wire.ResultItem(seq, "ok", FORGED, 1, 0, [])]))
        elif how == "junk":
            yield from self._write_bytes(rng.choice((b"\xff" * 4, b"\x01\0\0\0\xc1", b"\x02\0\0\0\x91\xc0", bytes(9))))
        elif how == "goodbye":
            yield from self._write(wire.Bye())
            self.die(0)
            yield None

    # --- jobs

    def _run(self, frame: wire.Jobs) -> Generator[float | None, None, bool]:
        world = self.world
        flushed_at = world.now
        for job in frame.jobs:
            name = _name_of(job.payload).tool_name
            self.page_seq, self.page_started_at, self.page_name = job.seq, world.now, name
            nature = self._natures[name]
            world.note("runs", self.handle.number, name)
            yield from self._suffer(name, nature)
            self._results.append(result_of(job.seq, name, nature))
            if nature.kind == "trap":
                return False
            if world.now - flushed_at > _FLUSH_S:
                yield from self._flush()
                flushed_at = world.now
        yield from self._flush()
        return True

    def _suffer(self, name: str, nature: Nature) -> Steps:
        kind = nature.kind
        if kind == "spin":
            yield None  # nothing will ever come
            while True:
                yield None
        if kind == "bloat":
            yield nature.duration_s
            self.rss_bytes = MAX_RSS_BYTES + 1
            while True:  # paging takes its time
                yield 10.0
        if kind in ("killer", "hider") and self._deaths.get(name, 0) < nature.kills:
            yield nature.duration_s * self.world.rng.random()
            self._deaths[name] = self._deaths.get(name, 0) + 1
            if kind == "hider":
                self.page_seq, self.page_name = 0, None
            self.die(self.world.rng.choice((-11, -9, -6, 1, 0)))
        yield nature.duration_s


def label_of(name: str, nature: Nature) -> bytes:
    """The label that the job's guard gives, as bytes: whose it is can be told."""
    return b'"%b%b"' % (name.encode(), b"." * nature.label_bytes)


def result_of(seq: int, name: str, nature: Nature) -> wire.ResultItem:
    """What a worker that got to the end of the job says."""
    took_us = int(nature.duration_s * 1e6)
    if nature.kind in ("trap", "refused", "invalid"):
        return wire.ResultItem(seq, nature.kind, OutcomeError(nature.kind, name), took_us, 0, [])  # type: ignore[arg-type]
    return wire.ResultItem(seq, "ok", label_of(name, nature), took_us, 0, [])
