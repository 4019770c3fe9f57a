"""The layers that a job passes through, each measured by itself on the very code that the pool runs.

The layers of the caller's thread and of the supervisor's are driven here without a worker, which works because the scheduler
and the codec do no I/O. The layers of a worker run in a bare loop's process, with clocks around the guard's function, the
host's functions and the judge of labels. A clock's own cost is measured and taken off. The quick judge runs within the
guard's call, so it judges the same answers once more, by itself.

Each layer is timed over all the jobs, in batches as the pool makes them, and the best of several rounds counts: it is what
the instructions take. Waiting, waking and moving between cores are not in the layers; the kernel's account of a real run
has them, and the difference is shown as such.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec

from guardpool import Job, Outcome
from guardpool.limits import Limits
from guardpool.protocol import wire
from guardpool.protocol.wire import FrameReader, JobItem, Jobs, ResultItem, Results
from guardpool.submit.intake import Intake
from guardpool.submit.payload import encode_job
from guardpool.submit.stream import JobStream
from guardpool.supervise.inbox import Inbox
from guardpool.supervise.known_labels import KnownLabels
from guardpool.supervise.results import first_unsound, outcomes_of_results
from guardpool.supervise.scheduler import Scheduler, Task
from guardpool.supervise.state import PoolState
from guardpool.supervise.worker_end import PIPE_BYTES
from guardpool.supervise.worker_handle import READ_BYTES
from guardpool_bench.loadable import Loadable, load, make_instance
from guardpool_bench.measure import patched

# CPU time of this thread, as in the kernel's accounts that the layers are held against: waiting for a core does not count.
_clock = time.thread_time_ns


def best_us(rounds: int, jobs: int, once: Callable[[], int]) -> float:
    """Microseconds a job, of the best round; `once` returns the nanoseconds it took for all jobs."""
    return min(once() for _ in range(rounds)) / 1000 / jobs


def timed(action: Callable[[], Any]) -> int:
    """Nanoseconds that an action takes."""
    began = _clock()
    action()
    return _clock() - began


# --- the caller's thread and the supervisor's


def host_layers(
    jobs: Sequence[Job], labels: Sequence[bytes], frame_jobs: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Microseconds a job of each layer of the caller's process.

    Args:
        jobs: the jobs.
        labels: the label of each, as the worker sends it.
        frame_jobs: how many jobs a frame holds in the run that this is compared with.
        rounds: of which the best counts.
    """
    host = _Host(jobs, labels, frame_jobs, rounds)
    into_us, out_us = host.stream_us()
    count = len(jobs)
    return {
        "caller": {**host.caller_us(), "take outcomes": out_us},
        "supervisor": {**host.supervisor_us(), "deliver in order": into_us},
        "bytes": {
            "payload": sum(len(task.payload) for task in host.tasks) / count,
            "label": sum(map(len, labels)) / count,
        },
    }


class _Host:
    """Jobs in every shape that they have in the caller's process, and that process's layers; arguments as for `host_layers`.

    Every method returns microseconds a job, of the best round.
    """

    def __init__(self, jobs: Sequence[Job], labels: Sequence[bytes], frame_jobs: int, rounds: int) -> None:
        self._jobs, self._frame_jobs, self._rounds = jobs, frame_jobs, rounds
        self._intake = Intake(["subject"], 1 << 25)
        self._inbox = Inbox(lambda: None, lambda command: None, lambda command: None)
        self._stream = JobStream(self._inbox, self._intake, ordered=True)
        self.tasks = self._intake.tasks_of(jobs, self._stream, 0)[0]
        self._results = [ResultItem(task.seq, "ok", label, 50, 0, []) for task, label in zip(self.tasks, labels)]
        self._state = PoolState(["subject"], [None], Limits(), cast("Any", None), cast("Any", None))

    def caller_us(self) -> dict[str, float]:
        """Jobs in."""
        encode_us = self._best_us(lambda: [encode_job(job) for job in self._jobs])
        tasks_us = self._best_us(lambda: self._intake.tasks_of(self._jobs, self._stream, 0))
        return {"encode the job as JSON": encode_us, "make tasks": max(0.0, tasks_us - encode_us)}

    def supervisor_us(self) -> dict[str, float]:
        """From tasks to outcomes."""
        rounds, count = self._rounds, len(self._jobs)
        task_frames = list(_batches(self.tasks, self._frame_jobs))
        finished = list(zip(task_frames, _batches(self._results, self._frame_jobs)))
        job_frames = [wire.encode(_job_frame(part)) for part in task_frames]
        result_frames = [wire.encode(Results(part)) for _, part in finished]
        # As the pool keeps them.
        kept, known = bytearray(wire.HEADER_BYTES), KnownLabels()
        return {
            "schedule": best_us(rounds, count, self._scheduling_ns),
            "msgpack: encode job frames": self._best_us(
                lambda: _each(lambda part: wire.encode_into(_job_frame(part), kept), task_frames)
            ),
            "pipe: write job frames": best_us(rounds, count, lambda: _pipe_ns(job_frames)[0]),
            "pipe: read result frames": best_us(rounds, count, lambda: _pipe_ns(result_frames)[1]),
            "msgpack: decode result frames": self._best_us(lambda: _feed(result_frames, True)),
            "vet results": self._best_us(
                lambda: [first_unsound(*part, self._state.limits.max_log_bytes, known) for part in finished]
            ),
            "make outcomes": self._best_us(
                lambda: [outcomes_of_results(*part, ["subject"], False, known=known) for part in finished]
            ),
            "count": self._best_us(lambda: _each(lambda part: _count(self._state, part[1]), finished)),
        }

    def stream_us(self) -> tuple[float, float]:
        """Outcomes into a stream, in order, and out of it."""
        count, size = len(self._jobs), self._frame_jobs
        frames = zip(_batches(self.tasks, size), _batches(self._results, size))
        made = [(part, outcomes_of_results(part, items, ["subject"], False)) for part, items in frames]
        pairs = [self._delivering_ns(made) for _ in range(self._rounds)]
        into_us, out_us = (min(ns) / 1000 / count for ns in zip(*pairs))
        return into_us, out_us

    def _scheduling_ns(self) -> int:
        scheduler = Scheduler(1, 2, self._frame_jobs)
        scheduler.join(1)
        return timed(lambda: _schedule(scheduler, self.tasks, self._results, self._frame_jobs))

    def _delivering_ns(self, made: Sequence[tuple[list[Task], list[Outcome]]]) -> tuple[int, int]:
        stream = JobStream(self._inbox, self._intake, ordered=True)
        for task in self.tasks:
            task.owner = stream
        stream.send(list(self.tasks), [])
        into_ns = timed(lambda: _each(lambda part: self._state.deliver(*part), made))
        return into_ns, timed(lambda: _consume(stream, len(self.tasks)))

    def _best_us(self, action: Callable[[], Any]) -> float:
        return best_us(self._rounds, len(self._jobs), lambda: timed(action))


def _job_frame(tasks: Sequence[Task]) -> Jobs:
    return Jobs([JobItem(task.seq, task.guard, task.op, task.payload) for task in tasks])


def _schedule(scheduler: Scheduler, tasks: list[Task], results: list[ResultItem], frame_jobs: int) -> None:
    owner = tasks[0].owner
    for part in _batches(tasks, 4 * frame_jobs):
        scheduler.add(owner, part)
    by_seq = {item.seq: item for item in results}
    while frame := scheduler.next_frame(1):
        items = [by_seq[task.seq] for task in frame]
        scheduler.finish(1, scheduler.held(1, items)[0], items)


def _each(action: Callable[[Any], None], parts: Sequence[Any]) -> None:
    for part in parts:
        action(part)


def _count(state: PoolState, items: Sequence[ResultItem]) -> None:
    state.counters.results([item.duration_us for item in items], time.monotonic())
    state.counters.statuses([item.status for item in items])


def _consume(stream: JobStream, count: int) -> None:
    taken = 0
    while taken < count:
        for _ in stream.take():
            taken += 1


def _feed(frames: Sequence[bytes], from_worker: bool) -> None:
    reader: FrameReader[Any] = FrameReader.from_worker() if from_worker else FrameReader.to_worker()
    for frame in frames:
        reader.feed(frame)


def _pipe_ns(frames: Sequence[bytes]) -> tuple[int, int]:
    """Nanoseconds of writing and of reading frames through a pipe of the pool's size, one at a time."""
    reader, writer = os.pipe()
    buffer = memoryview(bytearray(READ_BYTES))
    try:
        _resize(writer, PIPE_BYTES)
        os.set_blocking(writer, False)
        wrote = read = 0
        for frame in frames:
            view = memoryview(frame)
            while view:
                began = _clock()
                sent = os.write(writer, view)
                middle = _clock()
                os.readv(reader, [buffer])
                read += _clock() - middle
                wrote += middle - began
                view = view[sent:]
        return wrote, read
    finally:
        os.close(reader)
        os.close(writer)


def _resize(fd: int, size: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
    except OSError:
        pass  # over the user's quota: the pool also goes on with a smaller one


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for at in range(0, len(items), size):
        yield list(items[at : at + size])


# --- a worker


class _Meter:
    """Adds up the time of calls of some functions; the time of a wrapper itself is measured once and taken off."""

    def __init__(self) -> None:
        self.ns = 0
        self.calls = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a clock around it."""

        def call(*args: Any) -> Any:
            began = _clock()
            try:
                return function(*args)
            finally:
                self.ns += _clock() - began
                self.calls += 1

        return call


class _MeteredModule:
    """A module whose instances have one function with a clock around it."""

    def __init__(self, module: Any, name: str, meter: _Meter) -> None:
        self._module, self._name, self._meter = module, name, meter
        self.imports = module.imports

    def instantiate(self, imports: Any) -> Any:
        instance, name, meter = self._module.instantiate(imports), self._name, self._meter

        class Metered:
            extern, global_, memory_view = instance.extern, instance.global_, instance.memory_view

            @staticmethod
            def function(wanted: str) -> Callable[..., Any]:
                found: Callable[..., Any] = instance.function(wanted)
                return meter.around(found) if wanted == name else found

        return Metered


class _MeteredEngine:
    """An engine whose host functions have a clock around them; instances ask it for nothing else."""

    def __init__(self, engine: Any, meter: _Meter) -> None:
        self._engine, self._meter = engine, meter

    def host_function(self, function: Callable[..., Any], params: str, results: str) -> Any:
        return self._engine.host_function(self._meter.around(function), params, results)


def worker_layers(
    guard: Loadable, jobs: Sequence[Job], idle: Loadable, idle_jobs: Sequence[Job], rounds: int
) -> dict[str, float]:
    """Microseconds a job in each layer of a worker; runs in a process that may hold instances.

    Args:
        guard, jobs: what is measured.
        idle, idle_jobs: a guard and jobs of almost no work, which show the cost of entering and leaving wasm.
        rounds: of which the best counts.
    """
    plain = make_instance(guard)
    requests = [(job.op, encode_job(job)) for job in jobs]
    count = len(requests)

    def calls_of(instance: Any) -> Callable[[], int]:
        return lambda: timed(lambda: [instance.label(op, payload) for op, payload in requests])

    whole_us = best_us(rounds, count, calls_of(plain))
    guest_us, host_us, judge_us = _inside(guard, requests, rounds)
    quick_us = _quick_judge_us(guard, requests, rounds)
    cross_us = _inside(idle, [(job.op, encode_job(job)) for job in idle_jobs], rounds)[0]
    frames = [
        wire.encode(Jobs([JobItem(number, 0, op, payload) for number, (op, payload) in part]))
        for part in _batches(list(enumerate(requests, 1)), 64)
    ]
    results = [plain.label(op, payload) for op, payload in requests]
    items = [
        ResultItem(number, "ok", result, 50, 0, [])
        if isinstance(result, bytes)
        else ResultItem(number, result.status, result.label or b"null", 50, 0, result.logs)
        for number, result in enumerate(results, 1)
    ]
    around_us = best_us(rounds, count, lambda: _around(requests, results))
    encode_us = best_us(rounds, count, lambda: timed(lambda: [wire.encode(Results(p)) for p in _batches(items, 64)]))
    return {
        "guest code": max(0.0, guest_us - host_us - cross_us - quick_us),
        "enter and leave wasm": min(cross_us, guest_us),
        "host calls (Python)": host_us,
        "buffers and checks": max(0.0, whole_us - guest_us - judge_us),
        "judge: the answer's JSON": judge_us + quick_us,
        "pipe: read job frames": best_us(rounds, count, lambda: _pipe_ns(frames)[1]),
        "msgpack: decode job frames": best_us(rounds, count, lambda: timed(lambda: _feed(frames, False))),
        "progress page, clocks, result": around_us,
        "msgpack: encode result frames": encode_us,
        "pipe: write result frames": best_us(
            rounds, count, lambda: _pipe_ns([wire.encode(Results(part)) for part in _batches(items, 64)])[0]
        ),
    }


def _inside(guard: Loadable, requests: Sequence[tuple[str, bytes]], rounds: int) -> tuple[float, float, float]:
    """Microseconds a job in the guard's function, in the host's Python functions, and in the judge."""
    from guardpool_worker import instance

    label, host, judge = _Meter(), _Meter(), _Meter()
    loaded = load(guard)
    metered = msgspec.structs.replace(
        loaded,
        engine=_MeteredEngine(loaded.engine, host),
        bridge=_MeteredModule(loaded.bridge, "label", label),
    )
    with patched(instance, "judge", judge.around(vars(instance)["judge"])):
        watched = make_instance(guard, metered)
        found = []
        for _ in range(rounds):
            for meter in (label, host, judge):
                meter.ns = meter.calls = 0
            for op, payload in requests:
                watched.label(op, payload)
            found.append((label.ns, host.ns, judge.ns))
        own = _meter_ns()
        label_ns, host_ns, judge_ns = min(found)
        count = len(requests)
        return (
            max(0.0, label_ns - own * (label.calls + host.calls)) / 1000 / count,
            max(0.0, host_ns - own * host.calls) / 1000 / count,
            max(0.0, judge_ns - own * judge.calls) / 1000 / count,
        )


def _quick_judge_us(guard: Loadable, requests: Sequence[tuple[str, bytes]], rounds: int) -> float:
    """Microseconds a job in the quick judge, without the copy of the answer that the bridge makes for it."""
    from guardpool_worker.instance import OPS

    loaded = load(guard)
    instance, quick = make_instance(guard, loaded), loaded.quick_judge.instantiate({})
    take, judge, longest = (quick.function(name) for name in ("take", "judge", "longest"))
    judging, crossing = _Meter(), _Meter()
    judge, cross, most = judging.around(judge), crossing.around(longest), longest()
    found = []
    for _ in range(rounds):
        judging.ns = crossing.ns = 0
        for op, payload in requests:
            if not isinstance(instance.label(op, payload), bytes):
                continue
            answer = instance.answer(op)
            if len(answer) <= most:
                padded = answer + bytes(-len(answer) % 64)
                for at in range(0, len(padded), 64):
                    take(at, *struct.unpack_from("<8q", padded, at))
                judge(OPS[op], len(answer))
                cross()
        found.append(judging.ns - crossing.ns)
    return max(0, min(found)) / 1000 / len(requests)


def _meter_ns() -> float:
    """Nanoseconds that a meter adds to each call it measures."""
    meter = _Meter()
    call = meter.around(lambda: None)
    for _ in range(20_000):
        call()
    return meter.ns / meter.calls


def _around(requests: Sequence[tuple[str, bytes]], results: Sequence[Any]) -> int:
    """Nanoseconds of a worker's work around calls: it reads the clock, marks the progress page, makes the result."""
    page = memoryview(bytearray(64)).cast("Q")
    clock, held, no_logs = time.monotonic_ns, [], cast("Any", [])
    began = _clock()
    for number, result in enumerate(results):
        started = clock()
        page[1] = started
        page[0] = number
        ended = clock()  # the call itself is between the two
        if type(result) is bytes:
            held.append(ResultItem(number, "ok", result, (ended - started) // 1000, 0, no_logs))
        page[2] = number
    return _clock() - began
