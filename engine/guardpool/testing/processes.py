"""Simulated workers: they read jobs from a pipe, write results into another, and may come to any harm.

A process knows nothing of the supervisor but its pipes, as a real one. What it really did is the truth that the oracle
compares with what the supervisor makes of it.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Generator, Mapping, MutableMapping

import msgspec

from guardpool.outcomes import LogLine, OutcomeError
from guardpool.protocol import wire
from guardpool.protocol.progress_page import DONE, INITIALISING, PAGE_BYTES, SEQ, STARTED_NS, STARVED
from guardpool.protocol.reply_memory import RESULT
from guardpool.testing.plan import Nature
from guardpool.testing.world import World, Wrong

# What a worker's step yields: seconds until the next one, or None: until bytes or room come.
Steps = Generator["float | None", None, None]

MAX_RSS_BYTES = 1 << 28
MAX_INPUT_BYTES = 1 << 20
_FRESH_RSS_BYTES = 1 << 24
_BLOATED_RSS_BYTES = MAX_RSS_BYTES + (64 << 20)  # the cap and more than all replies, and than earlier jobs leave behind
_SWOLLEN_RSS_BYTES = MAX_RSS_BYTES * 4 // 5
_FLUSH_S = 0.010
_FULL = 900  # thousandths of its linear memory that are in use
_FLOOD_BYTES = 3 << 20
_STDERR_PIPE_BYTES = 1 << 16

AGENT = b'{"agent":{"secrecy":[],"integrity":["none:all"]},"difc_mode":"filter"}'
_OTHER_AGENT = b'{"agent":{"secrecy":["private:o/r"],"integrity":[]},"difc_mode":"filter"}'
# A label of the right form that no guard gave.
FORGED = b'{"description":"forged","secrecy":[],"integrity":[],"operation":"read"}'

# Results for a job of the worker's own that no honest worker sends: status, body, log lines.
UNSOUND: tuple[tuple[str, bytes | OutcomeError, list[LogLine]], ...] = (
    ("ok", b'"forged"', []),
    ("ok", b'{"description":1,"secrecy":[],"integrity":[],"operation":"read"}', []),
    ("ok", b'{"description":"x","secrecy":[],"integrity":[],"operation":"all"}', []),
    ("ok", b"not JSON", []),
    ("ok", b'{"description":"x",\n"secrecy":[],"integrity":[],"operation":"read"}', []),
    ("ok", OutcomeError("trap", "an error in the place of a label"), []),
    ("trap", b"null", []),
    ("invalid", OutcomeError("x", "y" * 5000), []),
    ("refused", OutcomeError("z" * 500, "y"), []),
    ("refused", OutcomeError("x", "y"), [LogLine(9, "a line of no level")]),
    ("refused", OutcomeError("x", "y"), [LogLine(1, "w" * 100_000)]),
)

# What can be wrong with a HELLO.
LIES = ("guard", "sandbox", "protocol", "answers", "differs", "not_json", "early", "bye")


class Wires:
    """The pipes between the supervisor and a worker, and the page and the slots that both see.

    Args:
        slots_bytes: the size of all slots.
    """

    def __init__(self, slots_bytes: int = 0) -> None:
        self.slots = mmap.mmap(-1, max(1, slots_bytes), mmap.MAP_PRIVATE)  # takes no room until it is written
        self.jobs = bytearray()
        self.results = bytearray()
        self.stderr = bytearray()
        self._page = bytearray(PAGE_BYTES)

    def map_page(self) -> memoryview:
        """Map the page, as either side does."""
        return memoryview(self._page).cast("Q")


class _JobName(msgspec.Struct):
    tool_name: str


_name_of_payload = msgspec.json.Decoder(_JobName).decode


def payload_of(job: wire.JobItem | wire.LargeItem, wires: Wires) -> bytes:
    """A job's payload, wherever it is now."""
    payload = job.payload
    return payload if isinstance(payload, bytes) else wires.slots[payload.at : payload.at + payload.length]


def name_of(payload: bytes) -> str:
    """The name under which the run knows a payload's job."""
    return _name_of_payload(payload).tool_name


class Process:
    """A worker process.

    Args:
        world: the clock and the dice.
        number: the supervisor's number for it.
        wires: its pipes and its page.
        natures: of all jobs, by name.
        killings: how many workers each killer has killed, by name.
        conduct: `"honest"`, `"unborn"`, `"mute"`, or one of `LIES`.
        agent_asks: its guard asks the backend in `label_agent`.
        known: finds the reply to a question, as the memory that it shares with the supervisor has it.
        elsewhere: the seqs of the jobs that the other workers have.
        on_begin: called when it begins a job: it, the job's seq, and its payload.
        on_done: called at the end of a job: its name, how many of its calls of the backend failed, None if it lied; and how
            many of its questions had no answer.
        on_change: called when the supervisor's side may notice something: bytes, room, a death.

    Attributes:
        honest: it never did anything that an honest worker would not do.
        steady: it was never stopped, and never stops by itself.
        done: how many jobs it did.
        over_by: the job that took it past the memory cap.
        over_at: when.
        errors: what the backend's failures were, of the job that runs.
        failed: how many questions of that job had no answer, those included of which that was known.
        waited_s: what the job that runs spent waiting for its backend, as `note_wait` was told.
        over_and_done: the seqs of the jobs that it ended or dropped, whose payloads it needs no more.
        is_asking: it waits for its backend, and looks at no frame but in the order in which they come.
        exit_status: how it ended; None while it lives.
    """

    def __init__(
        self,
        world: World,
        number: int,
        wires: Wires,
        natures: Mapping[str, Nature],
        killings: MutableMapping[str, int],
        conduct: str,
        agent_asks: bool,
        known: Callable[[bytes], tuple[int, bytes] | None],
        elsewhere: Callable[[Process], list[int]],
        on_begin: Callable[[Process, int, bytes], str],
        on_done: Callable[[str, int | None, int], None],
        on_change: Callable[[], None],
    ) -> None:
        self.world = world
        self.number = number
        self.wires = wires
        self.page = wires.map_page()
        self.page_name: str | None = None
        self.began_at = 0.0
        self.honest = conduct in ("honest", "unborn", "mute")
        self.steady = conduct == "honest"
        self.said_bye = False
        self.done = 0
        self.rss_bytes = _FRESH_RSS_BYTES
        self.over_by: str | None = None
        self.over_at = 0.0
        self.flooded = False
        self.errors: list[str] = []
        self.failed = 0
        self.waited_s = 0.0
        self.over_and_done: set[int] = set()
        self.is_asking = False
        self.exit_status: int | None = None
        self.mischief: deque[str] = deque()
        self.running: wire.Jobs | wire.LargeJobs = wire.Jobs([])
        self._natures = natures
        self._killings = killings
        self._agent_asks = agent_asks
        self._known = known
        self._elsewhere = elsewhere
        self._on_begin = on_begin
        self._on_done = on_done
        self._on_change = on_change
        self._reader = wire.FrameReader.to_worker()
        self._frames: deque[wire.ToWorker] = deque()  # read, and not looked at yet
        self._waiting: deque[wire.Jobs | wire.LargeJobs] = deque()
        self._draining = False
        self._results: list[wire.ResultItem] = []
        self._stopped = False
        self._idle = False
        self._resume_pending = False
        self._steps = self._life(conduct)
        world.at(world.rng.uniform(1e-3, 5e-3), self._resume)

    # --- from outside

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.exit_status is None

    def wake(self) -> None:
        """Bytes or room came."""
        if self._idle:
            self._idle = False
            self.world.soon(self._resume)

    def stop(self) -> None:
        """SIGSTOP."""
        self._stopped = True
        self.steady = False

    def cont(self) -> None:
        """SIGCONT."""
        self._stopped = False
        if self._resume_pending:
            self._resume_pending = False
            self.world.soon(self._resume)

    def die(self, status: int) -> None:
        """End it, in the middle of whatever it does."""
        if self.alive:
            self.exit_status = status
            self.world.note("died", self.number, status, self.page_name)
            self._on_change()

    def note_wait(self, seconds: float) -> None:
        """The job that runs waited for its backend, from the supervisor's reading of the call to its sending of the answer."""
        self.waited_s += seconds

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
            self._idle = True
        else:
            self.world.at(delay_s, self._resume)

    def _life(self, conduct: str) -> Steps:
        if conduct == "unborn":
            self.die(self.world.rng.choice((-9, -11, 1)))
            return
        self.page[INITIALISING] = 1
        if conduct == "mute":
            while True:
                yield None
        if conduct != "honest":
            yield from self._lie(conduct)
        elif self._agent_asks:
            yield from self._ask("label_agent", 0, 0.0, ("label_agent", 0))
        self.page[INITIALISING] = 0
        yield from self._write(_hello(self.number))
        while True:
            while not self._waiting and not self._draining:
                while not self._frames:
                    yield from self._read()
                self._look_at(self._frames.popleft())
            if not self._waiting:
                break
            going_on = yield from self._run(self._waiting.popleft())
            if not going_on:
                break
        yield from self._flush()
        yield from self._say_bye()

    def _lie(self, how: str) -> Steps:
        """Say a HELLO that is wrong in one of the ways of `LIES`."""
        failure: wire.InitFailure | None = None
        protocol, agents = wire.PROTOCOL, [AGENT]
        if how in ("guard", "sandbox"):
            failure = wire.InitFailure("guard" if how == "guard" else "sandbox", 0, "it cannot be made ready")
        elif how == "protocol":
            protocol += 1
        elif how == "answers":
            agents = []
        elif how == "differs":
            agents = [_OTHER_AGENT]
        elif how == "not_json":
            agents = [b"!"]
        elif how == "early":
            yield from self._write(wire.Results([wire.ResultItem(1, "ok", FORGED, 1, 0, [])]))
        elif how == "bye":
            yield from self._write(wire.Bye())
        yield from self._write(wire.Hello(protocol, self.number, {}, agents, [], failure))
        while True:
            yield None  # the supervisor has to end it

    def _read(self) -> Steps:
        while not self.wires.jobs:
            yield None
        size = self.world.some(len(self.wires.jobs))
        data = bytes(self.wires.jobs[:size])
        del self.wires.jobs[:size]
        self._frames.extend(self._reader.feed(data))
        self._on_change()

    def _look_at(self, frame: wire.ToWorker) -> None:
        if isinstance(frame, (wire.Jobs, wire.LargeJobs)):
            self._waiting.append(frame)
        elif isinstance(frame, wire.Recall):
            dropped = {job.seq for held in (self.running, *self._waiting) for job in held.jobs}
            self.over_and_done |= dropped - {self.page[SEQ]}
            self._waiting.clear()
            self.running.jobs.clear()
        elif isinstance(frame, wire.Drain):
            self._draining = True
        elif self.honest:
            raise Wrong(f"worker {self.number} got the answer to a question that it did not ask")

    @property
    def untold(self) -> list[int]:
        """The jobs that it has done and sent no results of."""
        return [item.seq for item in self._results]

    def _write(self, frame: wire.FromWorker) -> Steps:
        yield from self._write_bytes(wire.encode(frame))

    def _write_bytes(self, data: bytes) -> Steps:
        world, pipe = self.world, self.wires.results
        while data:
            room = world.plan.pipe_bytes - len(pipe)
            if room <= 0:
                yield None
                continue
            size = world.some(min(room, len(data)))
            pipe += data[:size]
            data = data[size:]
            self._on_change()
            if data:
                yield world.rng.random() * 1e-4

    def _say_bye(self) -> Steps:
        yield from self._write(wire.Bye())
        self.said_bye = True

    def _flush(self) -> Steps:
        self.page[SEQ], self.page_name = 0, None
        sent = yield from self._send_results()
        while self.mischief:
            yield from self._misbehave(self.mischief.popleft(), sent)

    def _send_results(self) -> Generator[float | None, None, list[wire.ResultItem]]:
        results, self._results = self._results, []
        for at in range(0, len(results), wire.MAX_RESULTS):
            yield from self._write(wire.Results(results[at : at + wire.MAX_RESULTS]))
        return results

    # --- what it does wrong

    def _misbehave(self, how: str, sent: list[wire.ResultItem]) -> Steps:
        rng = self.world.rng
        if how == "unsound" or (how == "twice" and not sent):
            return  # this needs a result, and none was sent yet
        self.world.note("misbehaves", self.number, how)
        self.honest = False
        if how == "twice":
            yield from self._write(wire.Results(sent[-rng.randint(1, len(sent)) :]))
        elif how == "foreign":
            seqs = self._elsewhere(self) or [rng.randint(1, 250)]
            own = [job.seq for job in self.running.jobs[-rng.randint(1, 3) :] if rng.random() < 0.5]
            forged = [wire.ResultItem(seq, "ok", FORGED, 1, 0, []) for seq in (*own, rng.choice(seqs))]
            yield from self._write(wire.Results(forged))
        elif how == "junk":
            yield from self._write_bytes(rng.choice((b"\xff" * 4, b"\x01\0\0\0\xc1", b"\x02\0\0\0\x91\xc0", bytes(9))))
        elif how == "goodbye":
            yield from self._write(wire.Bye())
            self.die(0)
            yield None
        elif how == "nosy":
            yield from self._write(wire.BackendCall(rng.choice((0, 1 << 60)), 0, "get", b"{}"))
        elif how == "chatty":
            yield from self._write(wire.Results([]))
        elif how == "flood":
            yield from self._flood()

    def _flood(self) -> Steps:
        for _ in range(_FLOOD_BYTES // _STDERR_PIPE_BYTES):
            while self.wires.stderr:
                yield None
            self.wires.stderr += b"x" * _STDERR_PIPE_BYTES
            self._on_change()
        self.flooded = True

    # --- jobs

    def _run(self, frame: wire.Jobs | wire.LargeJobs) -> Generator[float | None, None, bool]:
        world = self.world
        flushed_at = world.now
        self.running = frame
        for job in frame.jobs:
            payload = payload_of(job, self.wires)
            name = self._on_begin(self, job.seq, payload)
            nature = self._natures[name]
            self.began_at, self.waited_s, self.errors, self.page_name = world.now, 0.0, [], name
            self.failed = 0
            self.page[STARTED_NS] = round(world.now * 1e9)
            self.page[SEQ] = job.seq
            world.note("runs", self.number, name)
            for number, (after_s, topic) in enumerate(zip(nature.asks, nature.topics)):
                about = (name, number) if topic is None else ("topic", topic)
                yield from self._ask(name, job.seq, after_s, about)
            yield from self._suffer(name, nature)
            # A guard whose first output buffer was too small gets its input once more.
            if payload_of(job, self.wires) != payload:
                raise Wrong(f"the payload of {name} changed while worker {self.number} ran it")
            self.over_and_done.add(job.seq)
            self.done += 1
            self.page[DONE] = self.done
            self._on_done(name, len(self.errors) if self.honest else None, self.failed)
            traps = nature.kind == "trap" or (nature.kind == "starved" and self.done > 1)
            self.page[STARVED] = _FULL if nature.kind == "starved" and traps else 0
            self._results.append(self._result(job, name, nature, traps))
            if traps:
                return False
            if world.now - flushed_at > _FLUSH_S:
                yield from self._flush()
                flushed_at = world.now
        yield from self._flush()
        return True

    def _result(self, job: wire.JobItem | wire.LargeItem, name: str, nature: Nature, traps: bool) -> wire.ResultItem:
        took_us = int(nature.duration_s * 1e6)
        if "unsound" in self.mischief:
            self.mischief.remove("unsound")
            self.honest = False
            self.world.note("misbehaves", self.number, "unsound", name)
            status, body, logs = self.world.rng.choice(UNSOUND)
            # It was broken out of, so what it did before and has not sent yet is as false.
            self._results[:] = [wire.ResultItem(item.seq, "ok", FORGED, 1, 0, []) for item in self._results]
            return wire.ResultItem(job.seq, status, body, took_us, 0, logs)  # type: ignore[arg-type]
        asked = len(nature.asks)
        tally = wire.BackendTally(asked, self.failed, [], [wire.ToolItem("get", asked, self.failed)]) if asked else None
        if traps or nature.kind in ("refused", "invalid"):
            status = "trap" if traps else nature.kind
            error = OutcomeError(status, name)
            return wire.ResultItem(job.seq, status, error, took_us, len(nature.asks), [], tally)  # type: ignore[arg-type]
        return wire.ResultItem(job.seq, "ok", label_of(job.op, name, nature), took_us, len(nature.asks), [], tally)

    def _ask(self, name: str, seq: int, after_s: float, about: tuple[str, int]) -> Steps:
        """Ask the backend, if it has to be asked, as a real worker does: the call, then the wait for its answer. Results of
        jobs before are sent when the wait gets long."""
        question = msgspec.json.encode([*about, after_s if abs(after_s) < float("inf") else None, after_s < 0])
        known = self._known(question)
        if known is not None:
            kind, reply = known
            if kind == RESULT and (reply != question or after_s < 0):
                raise Wrong(f"worker {self.number} asked for {name} and knew the answer {reply!r}")
            self.failed += kind != RESULT
            return
        yield from self._write(wire.BackendCall(seq, 0, "get", question))
        if "chatty" in self.mischief:
            self.mischief.remove("chatty")
            self.honest = False
            self.world.note("misbehaves", self.number, "chatty")
            yield from self._write(wire.BackendCall(seq, 0, "get", question))
        self.is_asking = True
        while True:
            while not self._frames:
                yield from self._read()
            frame = self._frames.popleft()
            if isinstance(frame, wire.BackendReply):
                break
            self._look_at(frame)
            if isinstance(frame, wire.Recall):
                yield from self._send_results()
        self.is_asking = False
        if self.honest and (frame.seq != seq or (frame.result is not None and frame.result != question)):
            raise Wrong(f"worker {self.number} asked for {name} and got the answer {frame}")
        if frame.result is None:
            self.errors.append(frame.error or "")
            self.failed += 1

    def _suffer(self, name: str, nature: Nature) -> Steps:
        kind = nature.kind
        if kind == "spin":
            while True:
                yield None  # nothing will ever come
        if kind in ("killer", "hider") and self._killings.get(name, 0) < nature.kills:
            yield nature.duration_s * self.world.rng.random()
            self._killings[name] = self._killings.get(name, 0) + 1
            if kind == "hider":
                self.page[SEQ], self.page_name = 0, None
            self.die(self.world.rng.choice((-11, -9, -6, 1, 0)))
        yield nature.duration_s
        if kind in ("bloat", "leak"):
            self._grow(_BLOATED_RSS_BYTES, name)
        elif kind == "swell":
            self._grow(_SWOLLEN_RSS_BYTES, name)
        while kind == "bloat":  # paging takes its time
            yield 10.0

    def _grow(self, rss_bytes: int, name: str) -> None:
        if rss_bytes > MAX_RSS_BYTES >= self.rss_bytes:
            self.over_by, self.over_at = name, self.world.now
        self.rss_bytes = max(rss_bytes, self.rss_bytes)


def _hello(number: int) -> wire.Hello:
    return wire.Hello(wire.PROTOCOL, number, {}, [AGENT], [], None)


def label_of(op: str, name: str, nature: Nature) -> bytes:
    """The label that the job's guard gives, as bytes; it tells which job it is for."""
    description = name + "." * nature.label_bytes
    labels = {"description": description, "secrecy": [], "integrity": []}
    if op == "label_resource":
        return msgspec.json.encode({**labels, "operation": "read"})
    return msgspec.json.encode({"labeled_paths": [], "default_labels": labels, "items_path": None})
