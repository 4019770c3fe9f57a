"""A worker: one instance of each guard, a pipe of jobs in, a pipe of results out, one job at a time.

A worker closes its sandbox before it makes instances and runs no guest code before that. It trusts the supervisor and
nothing else. It does not try to recover: a trap, a lost pipe or an exception of its own ends the process, and the
supervisor replaces it.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from guardpool.errors import GuardInitError, SandboxUnavailable
from guardpool.outcomes import LogLine, OutcomeError
from guardpool.protocol import control, wire
from guardpool.protocol.log_tail import LogTail
from guardpool.protocol.progress_page import DONE, FULL, INITIALISING, SEQ, STARTED_NS, STARVED, map_page
from guardpool.protocol.slots import map_slots
from guardpool.protocol.wire import ResultItem
from guardpool_worker import linux, sandbox
from guardpool_worker.backend import BackendError, CallBackend
from guardpool_worker.engine.bundle import LoadedGuard
from guardpool_worker.frames_in import FramesIn, ToRunner
from guardpool_worker.instance import CallResult, GuardInstance, InstanceSettings
from guardpool_worker.isolation import IsolatedGuard
from guardpool_worker.known_replies import Copies, KnownReplies

# Results are held until one of these is reached, so that little is labelled twice after a kill and nothing waits long. Where a
# job waits for its backend the supervisor sends RECALL after as long a time.
_FLUSH_BYTES = 256 * 1024
_FLUSH_NS = 10_000_000

# The buffer that frames of results are encoded into is kept up to this size: most have a few KB, and none has much more than
# what makes a flush unless one label has.
_KEPT_OUT_BYTES = 2 * _FLUSH_BYTES

# Answers of label_agent: they go into one frame with the log lines.
_MAX_ANSWERS_BYTES = wire.MAX_RESULT_BYTES - wire.MAX_INIT_LOG_BYTES

# What it takes in a frame to tell of a job's questions, beside the arguments of some.
_TALLY_BYTES = 512
# What a reply that was used takes in a frame beyond the arguments of its question: the tool, the digest and their envelope.
_USED_BYTES = wire.MAX_TOOL_BYTES + 32

_NO_LOGS: list[LogLine] = []


class Descriptors(NamedTuple):
    """The descriptors that the supervisor gave this worker, in the order in which it sends them. Without slots that is -1."""

    jobs: int
    results: int
    stderr: int
    page: int
    slots: int = -1


def run(
    setup: control.Setup,
    guards: Sequence[LoadedGuard],
    replies: mmap.mmap | None,
    fds: Descriptors,
    forkserver_pid: int,
) -> int:
    """Be a worker until told to stop; returns the exit status of the process.

    Args:
        replies: what backends are known to answer, mapped for reading; None: there is no such memory.
    """
    linux.set_parent_death_signal(forkserver_pid)
    page = map_page(fds.page)
    os.dup2(fds.stderr, 2)
    channel = _Channel(fds.jobs, fds.results, map_slots(fds.slots) if fds.slots >= 0 else None)
    try:
        limits = sandbox.SandboxLimits(data_bytes=setup.data_bytes, cpu_s=setup.cpu_s)
        in_force = sandbox.close_sandbox(setup.sandbox, (2, fds.jobs, fds.results), limits)
    except SandboxUnavailable as error:
        channel.hello({}, [], [], wire.InitFailure("sandbox", 0, str(error)))
        return 1
    runner = _JobRunner(setup, guards, replies, channel, page)
    try:
        failure = runner.initialise()
        channel.hello(in_force, runner.answers, runner.init_logs, failure)
    except MemoryError:
        message = f"a worker had no memory left before its first job: raise max_data_bytes (it is {setup.data_bytes})"
        failure = wire.InitFailure("host", 0, message)
        if page[INITIALISING]:
            guard = page[INITIALISING] - 1
            failure = wire.InitFailure("guard", guard, f"guard {setup.guards[guard].name!r}: {message}")
        channel.hello({}, [], [], failure)
    if failure is not None:
        return 1
    return runner.work()


class _Channel:
    """The two pipes, blocking, as frames."""

    def __init__(self, jobs_fd: int, results_fd: int, slots: memoryview | None = None) -> None:
        self._results_fd = results_fd
        self._frames = FramesIn(jobs_fd, slots)
        self._out = bytearray()

    def hello(
        self,
        sandbox_in_force: dict[str, str],
        answers: list[bytes],
        logs: list[wire.GuardLog],
        failure: wire.InitFailure | None,
    ) -> None:
        self.send(wire.Hello(wire.PROTOCOL, os.getpid(), sandbox_in_force, answers, logs, failure))

    def send(self, frame: wire.FromWorker) -> None:
        out = self._out
        wire.encode_into(frame, out)
        sent = os.write(self._results_fd, out)
        if sent < len(out):
            with memoryview(out) as view:
                while sent < len(out):
                    sent += os.write(self._results_fd, view[sent:])
        if len(out) > _KEPT_OUT_BYTES:
            self._out = bytearray()

    def receive(self, *, idle: bool = False) -> ToRunner | None:
        """The next frame; None once the supervisor is gone. `idle`: no job waits for it (see `FramesIn.next`)."""
        return self._frames.next(idle=idle)


class _JobRunner:
    """The guards' instances, and the loop that runs jobs on them."""

    def __init__(
        self,
        setup: control.Setup,
        guards: Sequence[LoadedGuard],
        replies: mmap.mmap | None,
        channel: _Channel,
        page: memoryview,
    ) -> None:
        self._setup = setup
        self._guards = guards
        self._replies = replies
        self._copies = Copies()
        self._channel = channel
        self._page = page
        self._log_tail = LogTail(page)
        self._instances: list[GuardInstance | IsolatedGuard] = []
        self._waiting: deque[wire.Jobs] = deque()  # frames that came while a guard waited for its backend
        self._running = wire.Jobs([])  # the frame that is being run
        self._draining = False
        self._backend_ns = 0  # of the job that runs
        self._results: list[ResultItem] = []
        self.answers: list[bytes] = []
        self._answer_room = _MAX_ANSWERS_BYTES
        self.init_logs: list[wire.GuardLog] = []
        self._init_log_room = wire.MAX_INIT_LOG_BYTES

    def initialise(self) -> wire.InitFailure | None:
        """Make every instance and give it its policy."""
        that_know = sum(guard.known is not None for guard in self._setup.guards)
        for index, (guard, loaded) in enumerate(zip(self._setup.guards, self._guards)):
            settings = InstanceSettings(
                name=guard.name,
                log_threshold=self._setup.log_threshold,
                keep_logs=self._setup.keep_logs,
                has_backend=guard.has_backend,
                max_output_bytes=self._setup.max_output_bytes,
                max_backend_calls=self._setup.max_backend_calls,
                max_log_bytes=self._setup.max_log_bytes,
                memory_pages=guard.memory_pages,
                tells_replies=self._setup.tells_replies,
                near_bytes=self._setup.near_bytes // max(1, that_know),
                seed=guard.seed,
            )
            self._page[INITIALISING] = index + 1
            backend = self._backend_of(index) if guard.has_backend else None
            make = partial(GuardInstance, loaded, settings, backend, self._known_of(guard), self._log_tail)
            try:
                instance = make()
                answer = instance.label_agent(guard.agent_payload)
                runs_on: GuardInstance | IsolatedGuard = instance
                if self._setup.isolation == "job":
                    runs_on = IsolatedGuard(instance, make, guard.agent_payload, guard.settable_globals)
            except GuardInitError as error:
                return wire.InitFailure("guard", index, str(error))
            self._answer_room -= len(answer)
            if self._answer_room < 0:
                self.answers.clear()
                message = (
                    f"label_agent answered {len(answer)} bytes; the answers of all guards may have {_MAX_ANSWERS_BYTES}"
                )
                return wire.InitFailure("guard", index, f"guard {guard.name!r}: {message} bytes together")
            self.answers.append(answer)
            self._keep_init_logs(index, instance.init_logs)
            self._instances.append(runs_on)
        self._page[INITIALISING] = 0
        self._backend_ns = 0  # waits of label_agent are not charged to the first job
        return None

    def _keep_init_logs(self, guard: int, lines: Sequence[LogLine]) -> None:
        """Keep what a guard logged before its first job, as far as HELLO has room."""
        for line in lines[: wire.MAX_INIT_LOG_LINES - len(self.init_logs)]:
            self._init_log_room -= len(line.text.encode())
            if self._init_log_room < 0:
                return
            self.init_logs.append(wire.GuardLog(guard, line.level, line.text))

    def work(self) -> int:
        """Run frames until the supervisor says DRAIN or is gone."""
        while True:
            if self._waiting:
                if not self._run(self._waiting.popleft()):
                    break
                continue
            if self._draining:
                break
            if not self._take_next():
                return 0
        self._flush()
        self._channel.send(wire.Bye())
        return 0

    def _take_next(self) -> bool:
        """Wait for the next frame while no job is at hand; False once the supervisor is gone."""
        self._running = wire.Jobs([])  # a large frame's memory goes, or is used again
        frame = self._channel.receive(idle=True)
        if frame is not None:
            self._take(frame)
        return frame is not None

    def _take(self, frame: ToRunner) -> None:
        if isinstance(frame, wire.Jobs):
            self._waiting.append(frame)
        elif isinstance(frame, wire.Recall):
            # A job waits for its backend; those behind it are no longer ours. The loop over the frame ends with that job.
            self._waiting.clear()
            self._running.jobs.clear()
            self._send_results()  # those before it are done
        elif isinstance(frame, wire.Drain):
            self._draining = True

    def _run(self, frame: wire.Jobs) -> bool:
        """Run one frame; False if an instance is dead and the process has to end."""
        page, add, instances, clock = self._page, self._results.append, self._instances, time.monotonic_ns
        held_bytes, done = 0, page[DONE]
        guards = {job.guard for job in frame.jobs} if len(instances) > 1 else (0,)
        self._running = frame
        flushed = started = clock()
        for job in frame.jobs:
            seq, instance = job.seq, instances[job.guard]
            page[STARTED_NS] = started
            page[SEQ] = seq
            try:
                result = instance.label(job.op, job.payload, job.time_us)
            except MemoryError:
                add(_out_of_memory(seq, (clock() - started) // 1000))
                return False
            ended = clock()
            done += 1
            page[DONE] = done
            took_ns = ended - started
            if self._backend_ns:
                took_ns -= self._backend_ns
                self._backend_ns = 0
            if isinstance(result, bytes):
                add(ResultItem(seq, "ok", result, took_ns // 1000, 0, _NO_LOGS))
                held_bytes += len(result)
            else:
                item = _item(seq, result, took_ns)
                add(item)
                if instance.dead:
                    page[STARVED] = instance.full
                    return False
                if item.status == "invalid":
                    page[STARVED] = instance.full
                held_bytes += _size_of(item)
            started = ended  # a look at the clock takes as long as what is between
            if held_bytes > _FLUSH_BYTES or ended - flushed > _FLUSH_NS:
                self._flush()
                flushed = started = clock()
                held_bytes = 0
        page[FULL] = max([page[FULL], *[instances[guard].full for guard in guards]])
        self._flush()
        for used in (instances[guard] for guard in guards):
            if isinstance(used, IsolatedGuard):
                used.clean()  # now, while no job waits for it
        return True

    def _flush(self) -> None:
        # Before the write, which may wait for a slow reader: no job's deadline must run meanwhile.
        self._page[SEQ] = 0
        self._send_results()

    def _send_results(self) -> None:
        if self._results:
            self._channel.send(wire.Results(self._results))
            self._results.clear()

    def _known_of(self, guard: control.GuardSetup) -> KnownReplies | None:
        if guard.known is None or self._replies is None:
            return None
        return KnownReplies(self._replies, guard.known, self._copies, outlives=self._setup.isolation == "job")

    def _backend_of(self, guard: int) -> CallBackend:
        def call_backend(tool: str, args: bytes) -> bytes:
            asked = time.monotonic_ns()
            # Results of jobs before stay here: to take them up one by one costs more than a backend that answers at once. If
            # it takes long, the supervisor sends RECALL.
            self._channel.send(wire.BackendCall(self._page[SEQ], guard, tool, args))
            while True:
                frame = self._channel.receive()
                if frame is None:
                    os._exit(0)  # the supervisor is gone; an exception would have to climb through wasm
                if isinstance(frame, wire.BackendReply):
                    break
                self._take(frame)
            self._backend_ns += time.monotonic_ns() - asked
            if frame.result is None:
                raise BackendError(frame.error or "the backend gave no answer")
            return frame.result

        return call_backend


def _item(seq: int, result: CallResult, took_ns: int) -> ResultItem:
    body = result.label if result.error is None else result.error
    return ResultItem(
        seq,
        result.status,  # type: ignore[arg-type]
        b"null" if body is None else body,
        took_ns // 1000,
        result.backend_calls,
        result.logs,
        result.backend,
    )


def _size_of(item: ResultItem) -> int:
    """Bytes in a frame, at most; what is sent has to fit into one."""
    body, backend = item.body, item.backend
    if isinstance(body, bytes) and not item.logs and (backend is None or not (backend.missing or backend.used)):
        return len(body) + _TALLY_BYTES  # nearly all that tell of anything
    size = len(body) if isinstance(body, bytes) else 4 * sum(map(len, (body.message, *(body.backend or ())))) + 512
    size += 4 * sum([len(line.text) for line in item.logs])
    if backend is not None:
        size += _TALLY_BYTES + sum([len(question.args) for question in backend.missing])
        size += sum([_USED_BYTES + len(reply.args) for reply in backend.used or ()])
    return size


def _out_of_memory(seq: int, duration_us: int) -> ResultItem:
    error = OutcomeError("memory", "the worker reached its memory limit (RLIMIT_DATA) while the job ran")
    return ResultItem(seq, "memory", error, duration_us, 0, [])
