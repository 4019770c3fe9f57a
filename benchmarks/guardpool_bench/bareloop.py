"""Bare loops: what the guard can do on this machine when nothing supervises it. The yardstick of the suite.

One process for each worker, with an instance of the guard made by the same code as in the pool's workers, and nothing
around it: no frames, no pipes, no deadlines, no sandbox. They start at the same moment of the machine's clock and call
the guard in a loop until the same later moment.

Three loops are measured. `bare` encodes each job inside the loop, as the pool has to; `bare-encoded` finds them encoded;
`bare-plain` finds them encoded, too, and has nothing of guardpool's around the guard either: it writes a payload, calls the
guard's function and reads the answer. The same processes run the loops of `guardpool_bench.fedloop`. They live for the whole
run and sleep in a read while something else is measured, so that a pool's run and the bare loops' can follow one another at
once.

The processes are started by exec, not forked: the suite's own process has threads, as most programs that use a pool.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Literal

from guardpool import GuardPoolError, Job
from guardpool.submit.payload import encode_job
from guardpool_bench.fedloop import Layout, buffer_of, run_fed
from guardpool_bench.loadable import Loadable, Plain, make_instance, make_plain

Kind = Literal["bare", "bare-encoded", "bare-plain"]

# Between the command and the common start: long enough for every process to have read it.
_HEAD_START_S = 0.02
# The clock is looked at after about so much work.
_LOOK_S = 0.0005
# Each run begins elsewhere in the jobs. Steps of the golden ratio leave no part of them out for long.
_GOLDEN = 0.6180339887


def begin_at(turn: int) -> float:
    """Where in the jobs the run of that number begins, as a share of them: many jobs would not all get a turn otherwise."""
    return turn * _GOLDEN % 1


class BareLoopError(GuardPoolError):
    """A bare loop failed: the guard cannot be used outside the pool either, or the suite has a fault."""


class BareLoops:
    """Processes that call guards in a loop. Use as a context manager.

    Args:
        count: how many there may be; each run says how many take part.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._context = multiprocessing.get_context("spawn")
        self._members: list[tuple[Any, Connection]] = []
        self._feeds: list[Connection] = []  # of each member, for `feeding`
        self._held: set[tuple[str, ...]] = set()
        self._turns = 0

    def __enter__(self) -> BareLoops:
        try:
            for _ in range(self.count):
                ours, theirs = self._context.Pipe()
                feed, fed = self._context.Pipe()
                process = self._context.Process(target=_main, args=(theirs, fed), daemon=True)
                process.start()
                theirs.close()
                fed.close()
                self._members.append((process, ours))
                self._feeds.append(feed)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End them."""
        for pipe in [*self._feeds, *(pipe for _, pipe in self._members)]:
            pipe.close()
        for process, _ in self._members:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._members.clear()
        self._feeds.clear()

    @property
    def pids(self) -> list[int]:
        """The pids of all of them."""
        return [process.pid for process, _ in self._members]

    def hold_guard(self, guard: Loadable) -> None:
        """Make an instance of the guard in every process, once."""
        if ("guard", guard.name) not in self._held:
            self._all(("guard", guard))
            self._held.add(("guard", guard.name))

    def hold_jobs(self, name: str, jobs: Sequence[Job]) -> None:
        """Give the jobs to every process, once."""
        if ("jobs", name) not in self._held:
            self._all(("jobs", name, list(jobs)))
            self._held.add(("jobs", name))

    def rate(
        self, guard: str, jobs: str, warm_s: float, run_s: float, *, kind: Kind = "bare", members: int | None = None
    ) -> float:
        """Calls a second of all loops together.

        Args:
            guard, jobs: names of what they hold.
            warm_s: seconds before counting begins.
            run_s: seconds of counting.
            kind: which loop.
            members: how many loops run; None: all.
        """
        self._prepare(kind, guard, jobs)
        chosen = self._members[: self.count if members is None else members]
        self._turns += 1
        start = time.monotonic() + _HEAD_START_S
        for number, (_, pipe) in enumerate(chosen):
            part = (begin_at(self._turns) + number / len(chosen)) % 1
            pipe.send(("run", kind, guard, jobs, start, warm_s, run_s, part))
        return sum(calls / seconds for calls, seconds in map(_answer, (pipe for _, pipe in chosen)))

    @contextmanager
    def feeding(self, guard: str, jobs: str, op: str, memories: Sequence[str], layout: Layout) -> Iterator[list[int]]:
        """Have one loop for each shared memory run what is written there, see `guardpool_bench.fedloop`.

        Yields:
            The descriptors through which each of them is told of frames, and has to be told to end.
        """
        self._prepare("bare-plain", guard, jobs)
        chosen = [pipe for _, pipe in self._members[: len(memories)]]
        for pipe, memory in zip(chosen, memories):
            pipe.send(("fed", guard, jobs, op, memory, layout))
        try:
            yield [feed.fileno() for feed in self._feeds[: len(memories)]]
        finally:
            for pipe in chosen:
                _answer(pipe)

    def latencies_us(self, guard: str, jobs: str, calls: int) -> list[float]:
        """How long single calls take in one loop, each with the encoding of its job, in microseconds, ascending."""
        pipe = self._members[0][1]
        pipe.send(("latencies", guard, jobs, calls))
        return sorted(_answer(pipe))

    def costs_us(self, guard: str, jobs: str, rounds: int) -> list[float]:
        """The least time that each job took in some rounds, in one loop, encoded beforehand: in microseconds."""
        pipe = self._members[0][1]
        pipe.send(("costs", guard, jobs, rounds))
        found: list[float] = _answer(pipe)
        return found

    def worker_layers(
        self, guard: Loadable, jobs: str, idle: Loadable, idle_jobs: str, rounds: int
    ) -> dict[str, float]:
        """Microseconds a job in the layers of a worker, see `guardpool_bench.layers.worker_layers`."""
        pipe = self._members[0][1]
        pipe.send(("layers", guard, jobs, idle, idle_jobs, rounds))
        found: dict[str, float] = _answer(pipe)
        return found

    def _prepare(self, kind: Kind, guard: str, jobs: str) -> None:
        """Have every process ready for loops of that kind, once."""
        if kind != "bare" and (kind, guard, jobs) not in self._held:
            self._all(("prepare", kind, guard, jobs))
            self._held.add((kind, guard, jobs))

    def _all(self, command: tuple[Any, ...]) -> None:
        for _, pipe in self._members:
            pipe.send(command)
        for _, pipe in self._members:
            _answer(pipe)


def _answer(pipe: Connection) -> Any:
    try:
        answer, failure = pipe.recv()
    except EOFError:
        raise BareLoopError("a bare loop's process died") from None
    if failure is not None:
        raise BareLoopError(f"a bare loop failed: {failure}")
    return answer


# --- in the processes


def _main(pipe: Connection, feed: Connection) -> None:
    # Ctrl-C is for the suite, which closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = _Loop(feed)
    while True:
        try:
            name, *arguments = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            answer = getattr(loop, name)(*arguments)
        except Exception as error:
            pipe.send((None, f"{type(error).__name__}: {error}"))
        else:
            pipe.send((answer, None))


class _Loop:
    """The commands, by name."""

    def __init__(self, feed: Connection) -> None:
        self._feed = feed
        self._guards: dict[str, Loadable] = {}
        self._calls: dict[str, Callable[[str, bytes], Any]] = {}
        self._jobs: dict[str, list[Job]] = {}
        self._requests: dict[str, list[tuple[str, bytes]]] = {}
        self._plain: dict[tuple[str, str], Plain] = {}

    def guard(self, guard: Loadable) -> None:
        self._guards[guard.name] = guard
        self._calls[guard.name] = make_instance(guard).label
        gc.freeze()  # what is held is not looked at by the collector, as in the suite's own process

    def jobs(self, name: str, jobs: list[Job]) -> None:
        self._jobs[name] = jobs
        gc.freeze()

    def prepare(self, kind: Kind, guard: str, jobs: str) -> None:
        requests = self._requests.get(jobs)
        if requests is None:
            requests = self._requests[jobs] = [(job.op, encode_job(job)) for job in self._jobs[jobs]]
        if kind == "bare-plain":
            self._plain[guard, jobs] = make_plain(self._guards[guard], requests)
        gc.freeze()

    def run(
        self, kind: Kind, guard: str, jobs: str, start: float, warm_s: float, run_s: float, part: float
    ) -> tuple[int, float]:
        # No two loops run the same job at the same time.
        if kind == "bare":
            body = _jobs_loop(self._calls[guard], _turned(self._jobs[jobs], part))
        elif kind == "bare-encoded":
            body = _requests_loop(self._calls[guard], _turned(self._requests[jobs], part))
        else:
            body = _plain_loop(self._plain[guard, jobs], _turned(self._requests[jobs], part))
        step = 1
        while time.monotonic() < start:
            pass
        began, until = time.monotonic(), start + warm_s
        calls = 0
        while (now := time.monotonic()) < until:
            body(step)
            calls += step
            step = max(1, min(256, int(_LOOK_S * calls / max(1e-9, time.monotonic() - began))))
        began, until, calls = now, now + run_s, 0
        while (now := time.monotonic()) < until:
            body(step)
            calls += step
        return calls, now - began

    def fed(self, guard: str, jobs: str, op: str, memory: str, layout: Layout) -> None:
        shared = SharedMemory(memory)
        try:
            run_fed(self._plain[guard, jobs], op, self._feed.fileno(), buffer_of(shared), layout)
        finally:
            shared.close()

    def latencies(self, guard: str, jobs: str, calls: int) -> list[float]:
        call, clock = self._calls[guard], time.perf_counter_ns
        found = []
        for job in islice(cycle(self._jobs[jobs]), calls):
            began = clock()
            call(job.op, encode_job(job))
            found.append((clock() - began) / 1000)
        return found

    def costs(self, guard: str, jobs: str, rounds: int) -> list[float]:
        call, clock = self._calls[guard], time.perf_counter_ns
        found = []
        for job in self._jobs[jobs]:
            payload, least = encode_job(job), None
            for _ in range(rounds):
                began = clock()
                call(job.op, payload)
                took = clock() - began
                least = took if least is None else min(least, took)
            found.append((least or 0) / 1000)
        return found

    def layers(self, guard: Loadable, jobs: str, idle: Loadable, idle_jobs: str, rounds: int) -> dict[str, float]:
        from guardpool_bench import layers  # here alone: it loads much that the other commands do not need

        return layers.worker_layers(guard, self._jobs[jobs], idle, self._jobs[idle_jobs], rounds)


def _jobs_loop(call: Callable[[str, bytes], Any], jobs: Sequence[Job]) -> Callable[[int], None]:
    endless = cycle(jobs)

    def body(count: int) -> None:
        for job in islice(endless, count):
            call(job.op, encode_job(job))

    return body


def _requests_loop(call: Callable[[str, bytes], Any], requests: Sequence[tuple[str, bytes]]) -> Callable[[int], None]:
    endless = cycle(requests)

    def body(count: int) -> None:
        for op, payload in islice(endless, count):
            call(op, payload)

    return body


def _plain_loop(plain: Plain, requests: Sequence[tuple[str, bytes]]) -> Callable[[int], None]:
    memory, input_at, answer_at, room, functions, _instance = plain
    endless = cycle([(functions[op], payload) for op, payload in requests])

    def body(count: int) -> None:
        for function, payload in islice(endless, count):
            size = len(payload)
            memory[input_at : input_at + size] = payload
            memory[answer_at : answer_at + function(input_at, size, answer_at, room)].tobytes()

    return body


def _turned(held: list[Any], part: float) -> list[Any]:
    """What is held, from another beginning."""
    at = int(part * len(held))
    return held[at:] + held[:at]
