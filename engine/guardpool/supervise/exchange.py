"""Frames of jobs out, results in. Workers are not trusted.

Whatever breaks the protocol raises `ProtocolError`, and `Endings.condemn` ends the worker as if it had crashed: its jobs go
elsewhere, and no other worker notices. A frame counts as a whole or not at all; frames before it, which were sound, stay.
"""

from __future__ import annotations

import select
from itertools import compress

import msgspec

from guardpool.printable import printable
from guardpool.protocol import log_tail, wire
from guardpool.protocol.progress_page import STARVED
from guardpool.supervise.backend_calls import BackendCalls
from guardpool.supervise.endings import Endings
from guardpool.supervise.hello import Hellos
from guardpool.supervise.known_labels import KnownLabels
from guardpool.supervise.results import first_unsound, held_bytes, of_sessions, outcomes_of_results, with_backend_errors
from guardpool.supervise.scheduler import Task
from guardpool.supervise.sender import Sender
from guardpool.supervise.state import PoolState
from guardpool.supervise.verdicts import NEARLY_FULL, Ending, may_owe_to_others
from guardpool.supervise.worker_handle import READ_BYTES, BackendWait, State, WorkerHandle


class Exchange:
    """Feeds workers, and takes what they send.

    Args:
        state: the pool's.
        sender: sends frames to workers.
        hellos, backend_calls: what becomes of those frames.
        endings: for workers that break the protocol.
    """

    def __init__(
        self, state: PoolState, sender: Sender, hellos: Hellos, backend_calls: BackendCalls, endings: Endings
    ) -> None:
        self._state = state
        self._sender = sender
        self._hellos = hellos
        self._backend_calls = backend_calls
        self._endings = endings
        self._scheduler = state.scheduler
        self._now = state.machine.now
        self._in = memoryview(bytearray(READ_BYTES))
        self._known_labels = KnownLabels()
        self._warned: set[int] = set()  # guards that ask and have no backend

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
                    worker = self._state.workers[number]
                    if scheduler.load(number) == len(tasks):
                        worker.note_activity(self._now())
                    self._sender.send(worker, self._frame(worker, tasks))
            if not fed:
                return
            hungry = scheduler.hungry()

    def _frame(self, worker: WorkerHandle, tasks: list[Task]) -> wire.Jobs | wire.LargeJobs:
        large = worker.slots.frame(tasks, self._scheduler.holds, self._now)
        if large is not None:
            return large
        return wire.Jobs([wire.JobItem(task.seq, task.guard, task.op, task.payload, task.time_us) for task in tasks])

    # --- from workers

    def on_readable(self, worker: WorkerHandle, events: int) -> bool:
        """Read what came, or see that the worker closed its end. True if that was ordinary traffic and nothing else is due."""
        if events & select.EPOLLHUP and not events & select.EPOLLIN:
            self._state.reactor.unwatch(worker.end.results_fd)
            if not worker.said_bye:
                self._endings.kill(worker, Ending.hung_up())
            return False
        was_ready = worker.state is State.READY
        try:
            for frame in worker.receive(self._in):
                self._on_frame(worker, frame)
        except wire.ProtocolError as error:
            self._endings.condemn(worker, str(error))
            return False
        still_ready = worker.state is State.READY and not worker.recycle_due
        return was_ready and still_ready and not worker.buffered_bytes

    def on_last_frames(self, worker: WorkerHandle) -> None:
        """Take what a dead worker left in its pipe: it still counts, unless the worker did something wrong before."""
        if worker.fault is not None:
            return
        try:
            for frame in worker.receive_last():
                self._on_frame(worker, frame)
        except wire.ProtocolError as error:
            worker.note_fault(printable(str(error), 300))

    def _on_frame(self, worker: WorkerHandle, frame: wire.FromWorker) -> None:
        """Handle one frame. Raises ProtocolError if it is not due."""
        if worker.said_bye:
            raise wire.ProtocolError("a frame after BYE")
        if worker.backend is not None:
            self._check_frame_meanwhile(worker.backend, frame)
        if isinstance(frame, wire.Results):
            self._on_results(worker, frame.results)
        elif isinstance(frame, wire.BackendCall):
            self._backend_calls.on_call(worker, frame)
        elif isinstance(frame, wire.Hello):
            self._hellos.on_hello(worker, frame)
        else:
            self._on_bye(worker)

    def _check_frame_meanwhile(self, wait: BackendWait, frame: wire.FromWorker) -> None:
        """A worker that waits for a backend tells, when RECALL was sent to it, of the jobs before the one that waits. Raises
        ProtocolError for anything else."""
        if wait.recalled_at is None or not isinstance(frame, wire.Results):
            raise wire.ProtocolError("a frame while it waits for a backend")
        for item in frame.results:
            if item.seq == wait.seq or item.status in ("trap", "memory"):
                raise wire.ProtocolError(f"job {item.seq} was {item.status} while it waits for a backend")

    def _on_bye(self, worker: WorkerHandle) -> None:
        if not worker.ever_ready:
            raise wire.ProtocolError("BYE before HELLO")
        load = self._scheduler.load(worker.number)
        if load and not worker.broken:
            raise wire.ProtocolError(f"BYE with {load} jobs in its hands")
        self._scheduler.retire(worker.number)
        worker.says_bye(self._now())

    def _on_results(self, worker: WorkerHandle, items: list[wire.ResultItem]) -> None:
        if not items:  # else a worker that does nothing could show signs of life with it
            raise wire.ProtocolError("RESULTS without a result")
        tasks, fault = self._scheduler.held(worker.number, items)
        fault = fault or first_unsound(tasks, items, self._state.limits.max_log_bytes, self._known_labels)
        if fault is not None:  # it was broken out of before it wrote the frame, so none of its results can be believed
            raise wire.ProtocolError(fault)
        worker.note_activity(self._now())
        used = self._scheduler.was_used(worker.number)
        self._scheduler.finish(worker.number, tasks, items)
        worker.note_done(len(tasks))
        status = items[-1].status
        if status == "trap" or status == "memory":
            self._endings.on_broken_instance(worker, status)
        full = worker.page[STARVED]
        if full >= NEARLY_FULL:
            tasks, items = self._without_those_tried_again(worker, tasks, items, full, used)
        if tasks:
            self._on_finished(worker, tasks, items)

    def _without_those_tried_again(
        self, worker: WorkerHandle, tasks: list[Task], items: list[wire.ResultItem], full: int, used: bool
    ) -> tuple[list[Task], list[wire.ResultItem]]:
        """The results that are final. Jobs whose guard's memory others may have filled go back to the scheduler."""
        most = self._state.limits.max_attempts
        final = [
            not may_owe_to_others(task, item, full=full, used=used or at > 0, max_attempts=most)
            or (item.status != "trap" and self._is_overtaken(worker, tasks, at))
            for at, (task, item) in enumerate(zip(tasks, items))
        ]
        if all(final):
            return tasks, items
        for task, is_final in zip(tasks, final):
            if not is_final:
                worker.take_backend_errors(task.seq)  # they are of the try that does not count
                self._scheduler.try_again(task)
        worker.recycle_soon()
        return list(compress(tasks, final)), list(compress(items, final))

    def _is_overtaken(self, worker: WorkerHandle, tasks: list[Task], at: int) -> bool:
        """Whether later jobs of a task's session have run on its worker, or may run there: then its turn has passed."""
        session = tasks[at].session
        if session is None:
            return False
        followed = any(later.session == session for later in tasks[at + 1 :])
        return followed or self._scheduler.has_of_session(worker.number, session)

    def _count_questions(self, tallies: list[tuple[int, wire.BackendTally]]) -> None:
        """Count what a frame's jobs asked, each for its guard. Those that asked for one tool, with success, are added up first:
        nearly all."""
        plain: dict[tuple[int, str], int] = {}
        for guard, tally in tallies:
            tools = tally.tools
            if len(tools) == 1 and not tally.failed and tools[0].asked == tally.asked:
                key = guard, tools[0].tool
                plain[key] = plain.get(key, 0) + tally.asked
            else:
                self._count_tally(guard, tally)
        for (guard, tool), asked in plain.items():
            self._state.counters.questions.note(self._state.names[guard], tool, asked, 0)

    def _count_tally(self, guard: int, tally: wire.BackendTally) -> None:
        state, name = self._state, self._state.names[guard]
        note, others, others_failed = state.counters.questions.note, tally.asked, tally.failed
        for tool in tally.tools:
            note(name, tool.tool, tool.asked, tool.failed)
            others -= tool.asked
            others_failed -= tool.failed
        if others:
            note(name, "", others, others_failed)
        if state.sources[guard] is None and guard not in self._warned:
            self._warned.add(guard)
            state.warn(f"guard {name} asks its backend and has none: its labels say less than they could")

    def _on_finished(self, worker: WorkerHandle, tasks: list[Task], items: list[wire.ResultItem]) -> None:
        """Hand over results, each of which is sound; there are as many `items` as `tasks`."""
        state = self._state
        names = state.names
        last = items[-1]
        if last.status == "memory" and not last.logs:  # the worker had no memory left to send them
            logs = log_tail.read(worker.page, last.seq, state.limits.max_log_bytes)
            items = [*items[:-1], msgspec.structs.replace(last, logs=logs)]
        state.counters.results([item.duration_us for item in items], worker.active_at)
        outcomes = outcomes_of_results(tasks, items, names, state.limits.keep_logs, state.withholds, self._known_labels)
        if self._scheduler.knows_sessions:
            outcomes = of_sessions(tasks, outcomes)
        tallies = []
        for task, item in zip(tasks, items):
            if item.logs:
                state.machine.notifier.logs(names[task.guard], task.job_id, item.logs)
            if item.backend is not None:
                tallies.append((task.guard, item.backend))
        self._count_questions(tallies)
        if worker.has_backend_errors:
            for at, task in enumerate(tasks):
                errors = worker.take_backend_errors(task.seq)
                if errors:
                    outcomes[at] = with_backend_errors(outcomes[at], errors)
        state.respawn.outcome()
        if any(state.withholds):
            state.counters.statuses([outcome.status.value for outcome in outcomes])
        else:
            state.counters.statuses([item.status for item in items])
        # Nearly all are a label and nothing else.
        sizes = [
            len(item.body)
            if type(item.body) is bytes and not outcome.logs and not outcome.backend.missing
            else held_bytes(outcome)
            for outcome, item in zip(outcomes, items)
        ]
        if state.witness is not None:
            state.witness.labelled(worker.number, tasks, items)
        state.deliver(tasks, outcomes, sizes)
