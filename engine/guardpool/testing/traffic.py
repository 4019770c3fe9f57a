"""What goes through the pipes of a simulated pool, and all that is promised about frames, checked while it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from guardpool.limits import Limits
from guardpool.protocol import wire
from guardpool.supervise.respawn import RespawnPolicy
from guardpool.supervise.scheduler import FRAMES_IN_FLIGHT, MAX_FRAME_JOBS, MAX_FRAME_PAYLOAD_BYTES, Verdict
from guardpool.supervise.state import Core
from guardpool.supervise.verdicts import outcomes_of_results
from guardpool.supervise.worker_handle import State
from guardpool.testing.world import FORGED, MAX_RSS_BYTES, Process, World

if TYPE_CHECKING:
    from guardpool.testing.books import Books


class Handle:
    """The supervisor's end of a simulated worker."""

    def __init__(self, desk: Traffic, number: int) -> None:
        self.desk = desk
        self.number = number
        self.state = State.FORKING
        self.process: Process | None = None
        self.reader = wire.FrameReader.from_worker()
        self.unsent = bytearray()
        self.names: dict[int, str] = {}  # of the jobs that were sent to it
        self.frames: list[set[int]] = []  # what is in flight, frame by frame, counted apart from the scheduler
        self.born_at = self.active_at = self.seen_at = desk.world.now
        self.ready = self.said_bye = self.orphaned = self.dead = self.read_due = False
        self.died_at = 0.0
        self.seen_seq = 0
        self.jobs_done = 0
        self.recycle_after: int | None = None
        self.exit_status: int | None = None
        self.verdict: Verdict | None = None
        self.victim: int | None = None
        self.cause: str | None = None
        self.fault: str | None = None
        self.rss_bytes = 0
        self.stderr_tail = ""


class Traffic:
    """The frames of one pool; `Desk` is the rest of it.

    Args:
        world: the clock and the dice.
        books: who keeps count of what really happened.
    """

    def __init__(self, world: World, books: Books) -> None:
        plan = world.plan
        self.world = world
        self.books = books
        most = MAX_FRAME_JOBS if plan.max_jobs_per_worker is None else min(MAX_FRAME_JOBS, plan.max_jobs_per_worker)
        self.max_frame_jobs = most
        self.limits = Limits(
            timeout_s=plan.timeout_s,
            max_attempts=plan.max_attempts,
            max_jobs_per_worker=plan.max_jobs_per_worker,
            max_rss_bytes=MAX_RSS_BYTES,
        )
        self.core = Core(["guard"], [None], self.limits, cast(Any, None))
        self.core.started = True
        self.handles: dict[int, Handle] = {}
        self.holders: dict[int, int] = {}  # seq -> the worker that has it
        self.over = False
        self._respawn = RespawnPolicy()
        self._succession: tuple[int, int] | None = None  # worker to be recycled, its successor (0: not forked yet)

    def turn(self) -> None:
        """Everything that is due now."""
        raise NotImplementedError

    def on_process_death(self, handle: Handle, status: int) -> None:
        """The kernel knows of a death; the supervisor will soon."""
        raise NotImplementedError

    def _kill(self, handle: Handle) -> None:
        raise NotImplementedError

    def _feed(self) -> None:
        scheduler = self.core.scheduler
        hungry = scheduler.hungry()
        while hungry:
            fed = False
            for number in hungry:
                tasks = scheduler.next_frame(number)
                if tasks:
                    fed = True
                    handle = self.handles[number]
                    if scheduler.load(number) == len(tasks):
                        handle.active_at = self.world.now
                    handle.names.update((task.seq, task.job_id) for task in tasks)
                    self._check_frame(handle, [(task.seq, len(task.payload)) for task in tasks])
                    self._send(handle, wire.Jobs([wire.JobItem(t.seq, t.guard, t.op, t.payload) for t in tasks]))
            if not fed:
                return
            hungry = scheduler.hungry()

    def _check_frame(self, handle: Handle, jobs: list[tuple[int, int]]) -> None:
        books = self.books
        handle.frames = [frame for frame in handle.frames if frame]
        handle.frames.append({seq for seq, _ in jobs})
        books.expect(len(handle.frames) <= FRAMES_IN_FLIGHT, f"{len(handle.frames)} frames in flight")
        books.expect(len(jobs) <= self.max_frame_jobs, f"a frame of {len(jobs)} jobs")
        size = sum(size for _, size in jobs)
        books.expect(len(jobs) == 1 or size <= MAX_FRAME_PAYLOAD_BYTES, f"a frame of {size} bytes")
        books.expect(handle.state is State.READY, f"a frame to worker {handle.number}, which is {handle.state.value}")
        if books.suspected:
            held = [seq for frame in handle.frames for seq in frame]
            books.expect(len(held) == 1 or books.suspected.isdisjoint(held), "a suspect shares a worker with others")
        for seq, _ in jobs:
            books.expect(seq not in self.holders, f"job {seq} is sent to a second worker")
            books.expect(seq not in books.done, f"job {seq} is sent again after its outcome")
            self.holders[seq] = handle.number

    def _send(self, handle: Handle, frame: wire.ToWorker) -> None:
        handle.unsent += wire.encode(frame)
        self.on_room(handle)

    def on_room(self, handle: Handle) -> None:
        """The worker read: there may be room in its pipe."""
        process = handle.process
        if process is None or not process.alive or not handle.unsent:
            return
        size = min(len(handle.unsent), self.world.plan.pipe_bytes - len(process.jobs_pipe))
        if size > 0:
            process.jobs_pipe += handle.unsent[:size]
            del handle.unsent[:size]
            process.wake()

    def on_written(self, handle: Handle) -> None:
        """The worker wrote: we shall read."""
        if not handle.read_due:
            handle.read_due = True
            self.world.soon(self._on_readable, handle)

    def _on_readable(self, handle: Handle) -> None:
        handle.read_due = False
        if self.over or handle.dead or handle.fault is not None or handle.process is None:
            return
        pipe = handle.process.results_pipe
        if pipe:
            self._take(handle, self.world.some(len(pipe)))
            handle.process.wake()
            if pipe:
                self.on_written(handle)
            self.turn()

    def _take(self, handle: Handle, size: int) -> None:
        assert handle.process is not None
        data = bytes(handle.process.results_pipe[:size])
        del handle.process.results_pipe[:size]
        try:
            for frame in handle.reader.feed(data):
                self._on_frame(handle, frame)
        except wire.ProtocolError as error:
            self.world.note("protocol", handle.number, str(error))
            handle.fault = str(error)
            if not handle.dead:
                handle.verdict, handle.cause = handle.verdict or Verdict.CRASH, handle.cause or "crash"
                self._kill(handle)

    def _on_frame(self, handle: Handle, frame: wire.FromWorker) -> None:
        if handle.said_bye:
            raise wire.ProtocolError("a frame after BYE")
        now = self.world.now
        if isinstance(frame, wire.Results):
            self._on_results(handle, frame.results)
        elif isinstance(frame, wire.Hello):
            self._on_hello(handle)
        elif isinstance(frame, wire.Bye):
            handle.said_bye = True
            self.core.scheduler.retire(handle.number)
            if handle.state is State.READY:
                handle.state, handle.active_at = State.LEAVING, now

    def _on_hello(self, handle: Handle) -> None:
        if handle.state in (State.DYING, State.DEAD) and not handle.ready:
            return
        if handle.state is not State.STARTING:
            raise wire.ProtocolError("a second HELLO")
        handle.state, handle.ready, handle.active_at = State.READY, True, self.world.now
        self.core.scheduler.join(handle.number)
        if self._succession is not None and self._succession[1] == handle.number:
            old = self.handles.get(self._succession[0])
            self._succession = None
            if old is not None and old.state is State.READY:
                self._dismiss(old, "recycle")

    def _on_results(self, handle: Handle, items: list[wire.ResultItem]) -> None:
        tasks, fault = self.core.scheduler.results(handle.number, items)
        items = items[: len(tasks)]
        handle.active_at = self.world.now
        if tasks:
            for task, item in zip(tasks, items):
                self.books.expect(
                    self.holders.pop(task.seq, None) == handle.number, f"job {task.seq} is answered by a stranger"
                )
                self.books.expect(task.seq == item.seq, f"job {task.seq} gets the result of job {item.seq}")
                if item.body == FORGED:  # made up while another worker had the job, which came here meanwhile
                    self.books.forged.add(task.job_id)
                for frame in handle.frames:
                    frame.discard(task.seq)
            handle.jobs_done += len(tasks)
            if items[-1].status == "trap":
                self.core.scheduler.retire(handle.number)
                if handle.state is State.READY:
                    handle.state, handle.cause = State.LEAVING, "trap"
            self._respawn.outcome()
            self.books.outcome()
            outcomes = outcomes_of_results(tasks, items, self.core.names, False)
            self.core.deliver(tasks, outcomes, sum(len(item.body) for item in items if type(item.body) is bytes))
        if fault is not None:
            raise wire.ProtocolError(fault)

    def _dismiss(self, handle: Handle, cause: str | None) -> None:
        self.core.scheduler.retire(handle.number)
        handle.state, handle.cause, handle.active_at = State.LEAVING, cause, self.world.now
        self._send(handle, wire.Drain())
