"""Frames to workers and from them: jobs, results, backend calls. Workers are not trusted.

Whatever breaks the protocol raises `ProtocolError`, and `Traffic.condemn` ends the worker as if it had crashed: its jobs go
elsewhere, and nobody else notices.
"""

from __future__ import annotations

import select
import time

from guardpool.guard import Backend
from guardpool.printable import printable
from guardpool.protocol import wire
from guardpool.supervise.backend_threads import BackendRunner
from guardpool.supervise.births import Crew
from guardpool.supervise.results import first_unsound
from guardpool.supervise.scheduler import Task, Verdict
from guardpool.supervise.state import Core
from guardpool.supervise.verdicts import outcomes_of_results, with_backend_errors
from guardpool.supervise.worker_handle import READ_BYTES, BackendUse, BackendWait, State, WorkerHandle

# How long jobs wait behind one that asked its backend before they go elsewhere. Sending them again costs about as much as a
# frame of work; most backends that answer from memory never come near this.
RECALL_AFTER_S = 0.01


class Traffic:
    """What goes through the pipes."""

    def __init__(self, core: Core, crew: Crew) -> None:
        self._core = core
        self._crew = crew
        self._scheduler = core.scheduler
        self._backend_runner = BackendRunner()
        self._next_token = 1
        # Kept for all frames. What is freed here once is for glibc, which maps blocks of more than 128 KiB anew each time, and
        # each time they grow, until one of that size was freed: 6 page faults for a job of 24 KB.
        bytearray(4 * READ_BYTES)
        self._out = bytearray(wire.HEADER_BYTES)
        self._in = memoryview(bytearray(READ_BYTES))

    def feed(self) -> None:
        """Send frames to the workers that can take one, while there are jobs."""
        scheduler = self._scheduler
        hungry = scheduler.hungry()
        while hungry:
            fed = False
            for number in hungry:
                tasks = scheduler.next_frame(number)
                if tasks:
                    fed = True
                    worker = self._core.workers[number]
                    if scheduler.load(number) == len(tasks):
                        worker.active_at = time.monotonic()
                    self.send(worker, wire.Jobs([wire.JobItem(t.seq, t.guard, t.op, t.payload) for t in tasks]))
            if not fed:
                return
            hungry = scheduler.hungry()

    def send(self, worker: WorkerHandle, frame: wire.ToWorker) -> None:
        """Send a frame; what does not fit goes when there is room."""
        wire.encode_into(frame, self._out)
        if not worker.send(self._out):
            self._out = bytearray(wire.HEADER_BYTES)
            if not self._core.reactor.watches(worker.jobs_fd):
                self._core.reactor.watch(worker.jobs_fd, self._on_writable, worker, select.EPOLLOUT)

    def close(self) -> None:
        """Threads that run backends end when they can."""
        self._backend_runner.close()

    def _on_writable(self, worker: WorkerHandle, _events: int) -> None:
        if worker.send_rest():
            self._core.reactor.unwatch(worker.jobs_fd)

    # --- from workers

    def on_readable(self, worker: WorkerHandle, events: int) -> bool:
        """Something came, or the worker closed its end. True where results came and nothing else is to be done."""
        if events & select.EPOLLHUP and not events & select.EPOLLIN:
            self._core.reactor.unwatch(worker.results_fd)
            if not worker.said_bye:  # it is dying, or is of no use any more
                self._crew.end(worker, time.monotonic())
            return False
        was_ready = worker.state is State.READY
        try:
            for frame in worker.receive(self._in):
                self.on_frame(worker, frame)
        except wire.ProtocolError as error:
            self.condemn(worker, str(error))
            return False
        still_ready = worker.state is State.READY and worker.backend is None and not worker.recycle_due
        return was_ready and still_ready and not worker.buffered_bytes

    def on_last_frames(self, worker: WorkerHandle) -> None:
        """What a dead worker left in its pipe still counts."""
        if worker.fault is not None:
            return
        try:
            for frame in worker.receive_last():
                self.on_frame(worker, frame)
        except wire.ProtocolError as error:
            worker.fault = printable(str(error), 300)

    def on_frame(self, worker: WorkerHandle, frame: wire.FromWorker) -> None:
        """One frame. Raises ProtocolError where it is not due."""
        if worker.said_bye:
            raise wire.ProtocolError("a frame after BYE")
        if worker.backend is not None:
            raise wire.ProtocolError("a frame while it waits for a backend")
        if isinstance(frame, wire.Results):
            self._on_results(worker, frame.results)
        elif isinstance(frame, wire.BackendCall):
            self._on_backend_call(worker, frame)
        elif isinstance(frame, wire.Hello):
            self._crew.on_hello(worker, frame)
        else:
            self._on_bye(worker)

    def _on_bye(self, worker: WorkerHandle) -> None:
        if worker.state is State.STARTING:
            raise wire.ProtocolError("BYE before HELLO")
        load = self._scheduler.load(worker.number)
        if load and not worker.broken:
            raise wire.ProtocolError(f"BYE with {load} jobs in its hands")
        worker.said_bye = True
        self._scheduler.retire(worker.number)
        if worker.state is State.READY:
            worker.state, worker.active_at = State.LEAVING, time.monotonic()

    def condemn(self, worker: WorkerHandle, fault: str) -> None:
        """It broke the protocol: end it; what ran is charged as in any crash."""
        worker.fault = printable(fault, 300)
        worker.verdict, worker.cause = worker.verdict or Verdict.CRASH, worker.cause or "crash"
        self._core.warn(f"worker {worker.number} (pid {worker.pid}) broke the protocol: {worker.fault}; killed")
        self._core.reactor.unwatch(worker.results_fd)
        self._crew.end(worker, time.monotonic())

    def _on_results(self, worker: WorkerHandle, items: list[wire.ResultItem]) -> None:
        if not items:
            raise wire.ProtocolError(
                "RESULTS without a result"
            )  # it would be a sign of life of a worker that does nothing
        tasks, fault = self._scheduler.results(worker.number, items)
        unsound = first_unsound(tasks, items, self._core.limits.max_log_bytes)
        if unsound is not None:
            at, fault = unsound
            self._scheduler.unfinish(worker.number, tasks[at:])
            tasks = tasks[:at]
        worker.active_at = time.monotonic()
        if tasks:
            self._on_finished(worker, tasks, items[: len(tasks)])
        if fault is not None:
            raise wire.ProtocolError(fault)

    def _on_finished(self, worker: WorkerHandle, tasks: list[Task], items: list[wire.ResultItem]) -> None:
        """Jobs got their results, each of which is sound."""
        core = self._core
        names = core.names
        worker.jobs_done += len(tasks)
        core.counters.results([item.duration_us for item in items], worker.active_at)
        outcomes = outcomes_of_results(tasks, items, names, core.limits.keep_logs)
        for task, item in zip(tasks, items):
            if item.logs:
                core.notifier.logs(names[task.guard], task.job_id, item.logs)
        if worker.backend_errors:
            # A worker sends its results before it asks its backend, so the errors belong to the first job here.
            outcomes[0] = with_backend_errors(outcomes[0], worker.backend_errors)
            worker.backend_errors.clear()
        status = items[-1].status
        if status == "trap" or status == "memory":
            self._crew.on_broken_instance(worker, status)
        self._crew.outcome()
        core.counters.statuses([item.status for item in items])
        core.deliver(tasks, outcomes, sum([len(item.body) for item in items if type(item.body) is bytes]))
        if worker.recycle_after is not None and worker.jobs_done >= worker.recycle_after:
            worker.recycle_due = True

    # --- backend calls

    def _on_backend_call(self, worker: WorkerHandle, call: wire.BackendCall) -> None:
        if worker.state in (State.DYING, State.DEAD):
            return  # nobody waits for the answer
        backend = self._backend_due(worker, call)
        now = worker.active_at = time.monotonic()
        token = self._next_token
        self._next_token += 1
        worker.backend = BackendWait(call.seq, token, now)
        if call.seq:
            worker.note_seq(call.seq, now)
        number, post = worker.number, self._core.reactor.post

        def reply(result: bytes | None, error: str | None) -> None:
            post(("backend", number, token, result, error))

        self._backend_runner.call(self._core.names[call.guard], backend, call.tool, call.args, reply)

    def _backend_due(self, worker: WorkerHandle, call: wire.BackendCall) -> Backend:
        """The backend that the call is for. Raises ProtocolError where an honest worker would not make that call."""
        backends, limits = self._core.backends, self._core.limits
        most = limits.max_backend_calls
        if worker.state is State.STARTING and call.seq == 0:
            due = 0 <= call.guard < len(backends)
            most *= 2 * len(backends)  # in `_initialize` and in `label_agent`
        else:
            task = self._scheduler.oldest(worker.number)
            due = task is not None and (task.seq, task.guard) == (call.seq, call.guard)
        if not due:
            raise wire.ProtocolError(f"a backend call of guard {call.guard} for job {call.seq}, which it does not run")
        backend = backends[call.guard]
        if backend is None:
            raise wire.ProtocolError("a backend call of a guard that has no backend")
        if worker.backend_use.seq != call.seq:
            worker.backend_use = BackendUse(call.seq)
        use = worker.backend_use
        use.calls += 1
        if use.calls > most:
            raise wire.ProtocolError(f"more than {limits.max_backend_calls} backend calls for job {call.seq}")
        if worker.has_unsent(use.reply_end):
            raise wire.ProtocolError("a backend call before it read the last one's answer")
        return backend

    def on_backend_answer(self, number: int, token: int, result: bytes | None, error: str | None) -> None:
        """A backend answered, or is given up on."""
        worker = self._core.workers.get(number)
        if worker is None or worker.backend is None or worker.backend.token != token:
            return  # it died, or the answer is too late
        now = worker.active_at = time.monotonic()
        wait, worker.backend = worker.backend, None
        self._scheduler.answered(worker.number)
        worker.backend_wait_s += now - wait.since
        if error is not None:
            worker.backend_errors.append(error)
        if worker.state not in (State.DYING, State.DEAD):
            self.send(worker, wire.BackendReply(wait.seq, result, error))
            worker.backend_use.reply_end = worker.given_bytes

    def look_at_backend_call(self, worker: WorkerHandle, now: float) -> float:
        """Send elsewhere what waits behind a slow backend, give up on one that is too slow; returns when to look again."""
        wait, limit_s = worker.backend, self._core.limits.backend_timeout_s
        assert wait is not None
        end = wait.since + limit_s
        if now >= end:
            self.on_backend_answer(worker.number, wait.token, None, f"no answer within {limit_s} s")
            return now
        if wait.recalled or not wait.seq:
            return end
        if now < wait.since + RECALL_AFTER_S:
            return min(end, wait.since + RECALL_AFTER_S)
        wait.recalled = True
        if not self._scheduler.recall(worker.number, wait.seq):
            return end
        # The worker reads nothing but what it waits for, in order, so it drops them before it goes on.
        self.send(worker, wire.Recall())
        return now  # somebody has to send them
