"""A model of the scheduler and its streams in which anything may happen at any step, and nothing may be lost.

Hypothesis draws the steps: jobs are put and taken, streams paused and cancelled; workers join, are fed, answer in part, out of
order, twice or for jobs that are not theirs, retire and die with any verdict under any job. After every step each job has to
be in exactly one place, and the jobs of a session at one worker, in order; at the end one healthy worker must be enough to
finish everything, in order if order was asked for, with the attempts that the deaths left.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from guardpool.outcomes import Outcome, OutcomeError, Status
from guardpool.protocol.wire import ResultItem
from guardpool.submit.intake import Intake
from guardpool.submit.stream import JobStream
from guardpool.supervise.frame_budget import FRAMES_IN_FLIGHT
from guardpool.supervise.scheduler import Scheduler, Task, Verdict
from guardpool.supervise.sessions import Sessions

WINDOW_BYTES = 400
WINDOW_JOBS = 20
MAX_STREAMS = 3


class _Inbox:
    """What a stream needs of the pool: here everything happens at once."""

    is_foreign = False

    def __init__(self, machine: SchedulerMachine) -> None:
        self._machine = machine

    def check_process(self) -> None:
        pass

    def queue(self, owner: JobStream, tasks: list[Task], _taken: None = None) -> None:
        self._machine.scheduler.add(owner, tasks)

    def resume(self, owner: JobStream, from_index: int | None) -> None:
        self._machine.scheduler.resume(owner, from_index)

    def cancel(self, owner: JobStream) -> None:
        self._machine.cancelled(self._machine.scheduler.cancel(owner))

    def forget(self, owner: JobStream) -> None:
        pass


class _Model:
    """What a stream should have given by now."""

    def __init__(self, stream: JobStream, ordered: bool) -> None:
        self.stream = stream
        self.ordered = ordered
        self.tasks: list[Task] = []
        self.got: list[Outcome] = []
        self.cancelled = False


# ORPHANED is told by `orphan`, which this model does not call.
VERDICTS = [*(each for each in Verdict if each is not Verdict.ORPHANED), None]


class SchedulerMachine(RuleBasedStateMachine):
    workers = Bundle("workers")

    @initialize(
        target=workers, attempts=st.integers(1, 3), frame_jobs=st.sampled_from((1, 3, 256)), ordered=st.booleans()
    )
    def begin(self, attempts: int, frame_jobs: int, ordered: bool) -> int:
        self.attempts = attempts
        self.frame_jobs = frame_jobs
        self.scheduler = Scheduler(1, attempts, frame_jobs)
        self.streams: list[_Model] = []
        self.frames: dict[int, list[list[Task]]] = {}  # by living worker: its frames, as far as they are not answered
        self.retired: set[int] = set()
        self.waiting: set[int] = set()  # workers whose job waits for its backend
        self.asked: dict[int, Task] = {}  # the last job that asked, by worker
        self.next_worker = 0
        self.next_seq = 1
        self.deaths: dict[int, int] = {}
        self.suspected: set[int] = set()
        self.where: dict[int, Any] = {}  # seq -> "queued", a worker, or "done"
        self.homes: dict[str, int] = {}  # by session: the worker that a job of it came to its end on last
        self.restarted: set[str] = set()
        # Without these two no step has an effect, and it takes many steps until they are drawn.
        self.open_stream(ordered)
        return self.join()

    # --- owners

    @rule(ordered=st.booleans())
    def open_stream(self, ordered: bool) -> None:
        if len(self.streams) < MAX_STREAMS:
            stream = JobStream(
                _Inbox(self),  # type: ignore[arg-type]
                Intake(["g"], 1 << 20),
                ordered=ordered,
                window_jobs=WINDOW_JOBS,
                window_bytes=WINDOW_BYTES,
            )
            self.streams.append(_Model(stream, ordered))

    @precondition(lambda self: self.streams)
    @rule(
        data=st.data(),
        count=st.integers(1, 12),
        size=st.sampled_from((1, 50)),
        refused=st.integers(0, 20),
        sessions=st.lists(st.sampled_from((None, "r", "s", "t" * 100)), min_size=1, max_size=4),
    )
    def put(self, data: st.DataObject, count: int, size: int, refused: int, sessions: list[str | None]) -> None:
        model = data.draw(st.sampled_from(self.streams))
        if model.cancelled or model.stream.room == 0:
            return
        tasks: list[Task] = []
        rejected: list[tuple[int, Outcome]] = []
        for index in range(len(model.tasks), len(model.tasks) + count):
            task = Task(
                self.next_seq, 0, "label_resource", b"x" * size, 0, model.stream, index, (id(model), index), "t"
            )
            task.session = sessions[index % len(sessions)]
            self.next_seq += 1
            model.tasks.append(task)
            if index % 21 == refused:
                outcome = Outcome(task.job_id, "g", task.op, "t", Status.REJECTED, error=OutcomeError("x", "x"))
                rejected.append((index, outcome))
                self.where[task.seq] = "done"
            else:
                tasks.append(task)
                self.where[task.seq] = "queued"
        model.stream.send(tasks, rejected)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.streams))
        model.got += model.stream.take(0.0)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.streams))
        model.cancelled = True
        model.stream.cancel()

    def cancelled(self, tasks: list[Task]) -> None:
        for task in tasks:
            assert self.where[task.seq] == "queued"
            error = OutcomeError("cancelled", "x")
            self.finish(
                task, Outcome(task.job_id, "g", task.op, "t", Status.CANCELLED, error=error, attempts=task.deaths)
            )

    # --- workers

    @rule(target=workers)
    def join(self) -> int:
        self.next_worker += 1
        self.scheduler.join(self.next_worker)
        self.frames[self.next_worker] = []
        return self.next_worker

    @rule(worker=workers)
    def retire(self, worker: int) -> None:
        self.scheduler.retire(worker)
        self.retired.add(worker)

    @rule(worker=workers)
    def feed(self, worker: int) -> None:
        may = worker not in self.retired | self.waiting and len(self.frames[worker]) < FRAMES_IN_FLIGHT
        assert may or worker not in self.scheduler.hungry()
        idle = not self.frames[worker]
        waiting = any(self.sendable(model, worker) for model in self.streams)
        frame = self.scheduler.next_frame(worker)
        if not may:
            assert frame == []
            return
        if waiting and idle:
            assert frame, "a worker is idle while a job waits"
        for task in frame:
            assert self.where[task.seq] == "queued"
            self.goes_on_in_order(task, worker)
            self.where[task.seq] = worker
        if frame:
            assert len(frame) <= self.frame_jobs
            self.frames[worker].append(list(frame))
            assert len({id(task.owner) for task in frame}) == 1
        held = [task.seq for frame in self.frames[worker] for task in frame]
        assert len(held) == 1 or self.suspected.isdisjoint(held), "a suspect shares a worker"

    @precondition(lambda self: any(self.frames.values()))
    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        """A job waits for its backend; or it is another worker's job, and nothing changes."""
        worker = data.draw(st.sampled_from([worker for worker, frames in self.frames.items() if frames]))
        held = [task for frame in self.frames[worker] for task in frame]
        waits = data.draw(st.sampled_from([None, *held * 2]))
        if waits is None:
            assert self.scheduler.recall(worker, 1 << 50) == 0
            return
        last = self.asked.get(worker)
        if last in held and held.index(waits) < held.index(last):
            assert self.scheduler.asks(worker, waits.seq) is None, "the worker went past it"
            return
        assert self.scheduler.asks(worker, waits.seq) is waits
        self.asked[worker] = waits
        kept, others = held[: held.index(waits) + 1], held[held.index(waits) + 1 :]
        assert [self.scheduler.asks(worker, task.seq) for task in kept[:-1]] == [None] * (len(kept) - 1)
        assert self.scheduler.recall(worker, waits.seq) == len(others)
        self.waiting.add(worker)
        self.frames[worker] = [kept]
        for task in others:
            self.where[task.seq] = "queued"

    @rule(worker=workers)
    def answered(self, worker: int) -> None:
        self.scheduler.answered(worker)
        self.waiting.discard(worker)

    def sendable(self, model: _Model, worker: int) -> bool:
        """Whether a job of the stream waits that this worker, which is idle, may take."""
        paused = self.scheduler._paused.get(model.stream)
        queued = [task for task in model.tasks if self.where[task.seq] == "queued"]
        return any(self.may_take(task, worker) for task in queued if paused is None or task.index < paused)

    def may_take(self, task: Task, worker: int) -> bool:
        if task.session is None:
            return True
        if any(isinstance(self.where[other.seq], int) for other in self.in_session(task.session)):
            return False  # they run on another worker, as this one is idle
        home = self.homes.get(task.session)
        return home in (None, worker) or home not in self.frames or home in self.retired

    def in_session(self, session: str) -> list[Task]:
        return [task for model in self.streams for task in model.tasks if task.session == session]

    def goes_on_in_order(self, task: Task, worker: int) -> None:
        """What must hold when a job of a session is sent to a worker."""
        session = task.session
        if session is None:
            assert not task.restarted
            return
        others = self.in_session(session)
        assert {self.where[other.seq] for other in others} <= {"queued", "done", worker}, "a session is at two workers"
        earlier = [other for other in others if other.owner is task.owner and other.index < task.index]
        assert all(self.where[other.seq] != "queued" for other in earlier), "a later job of a session is sent first"
        home = self.homes.get(session)
        if home not in (None, worker):
            assert home not in self.frames or home in self.retired, "a session leaves a worker that goes on"
            self.restarted.add(session)
        assert task.restarted == (session in self.restarted)

    @rule(worker=workers, data=st.data())
    def answer(self, worker: int, data: st.DataObject) -> None:
        """The worker answers some of its jobs, in order or not, and perhaps one that it does not hold."""
        held = [task for frame in self.frames[worker] for task in frame]
        count = data.draw(st.integers(0, len(held)))
        tasks = held[:count] if data.draw(st.booleans()) else data.draw(st.permutations(held))[:count]
        items = [self.result(task.seq) for task in tasks]
        wrong = data.draw(st.sampled_from((None, None, "twice", "unknown", "foreign", "done")))
        if wrong is not None:
            seqs = {
                "twice": [task.seq for task in tasks],
                "unknown": [1 << 50],
                "foreign": [seq for seq, where in self.where.items() if isinstance(where, int) and where != worker],
                "done": [seq for seq, where in self.where.items() if where == "done"],
            }[wrong]
            if seqs:
                at = len(items) if wrong == "twice" else data.draw(st.integers(0, len(items)))
                items.insert(at, self.result(data.draw(st.sampled_from(seqs))))
                tasks = []
            else:
                wrong = None
        finished, fault = self.take_results(worker, items)
        assert finished == tasks
        assert all(task.seq == item.seq for task, item in zip(finished, items))
        assert (fault is not None) == (wrong is not None)
        for task in tasks:
            assert self.where[task.seq] == worker
            self.finish_well(task)
        # A frame counts as answered by the number of answers, in whatever order a worker that breaks the rules gives them.
        done = set(map(id, tasks))
        left = [task for frame in self.frames[worker] for task in frame if id(task) not in done]
        ends = [max(0, end - len(tasks)) for end in accumulate(map(len, self.frames[worker]))]
        self.frames[worker] = [left[start:end] for start, end in pairwise([0, *ends]) if start < end]

    def take_results(self, worker: int, items: list[ResultItem]) -> tuple[list[Task], str | None]:
        """Match results with jobs and finish those, as the supervisor does."""
        tasks, fault = self.scheduler.held(worker, items)
        if tasks:
            self.scheduler.finish(worker, tasks, items)
        return tasks, fault

    @staticmethod
    def result(seq: int) -> ResultItem:
        return ResultItem(seq, "ok", b"%d" % seq, 700, 0, [])

    def dies_without_a_word(self, worker: int, held: list[Task]) -> None:
        """It does not show which of its jobs it died of: all become suspects, or the one that was a suspect is charged."""
        lone = self.scheduler.lone_suspect(worker)
        if len(held) == 1 and held[0].seq in self.suspected:
            assert lone == held[0].seq
            self.dies_under(worker, lone, Verdict.CRASH, held)
            return
        assert lone is None
        self.scheduler.suspect(worker)
        self.suspected.update(task.seq for task in held)
        self.dies_under(worker, None, Verdict.CRASH, held)

    @rule(
        worker=consumes(workers),
        verdict=st.sampled_from(VERDICTS),
        data=st.data(),
    )
    def die(self, worker: int, verdict: Verdict | None, data: st.DataObject) -> None:
        held = [task for frame in self.frames.pop(worker) for task in frame]
        if verdict is None:
            self.dies_without_a_word(worker, held)
            return
        strangers = [seq for seq, where in self.where.items() if where != worker]
        seqs = [task.seq for task in held]
        running = data.draw(st.sampled_from([*seqs * 3, None, 1 << 50, *strangers[:3]]))
        self.dies_under(worker, running, verdict, held)

    def dies_under(self, worker: int, running: int | None, verdict: Verdict, held: list[Task]) -> None:
        victims = self.scheduler.lost(worker, running, verdict)
        victim = next((task for task in held if task.seq == running), None)
        if victim is not None and verdict is not Verdict.INNOCENT:
            self.deaths[victim.seq] = self.deaths.get(victim.seq, 0) + 1
        most = {
            Verdict.TIMEOUT: 1,
            Verdict.MEMORY: 1,
            Verdict.SUSPECT: max(2, self.attempts),
            Verdict.CRASH: self.attempts,
        }
        final = victim is not None and self.deaths.get(victim.seq, 0) >= most.get(verdict, 1 << 50)
        assert victims == ([(victim, verdict)] if final else [])
        for task in held:
            if all(task is not finished for finished, _ in victims):
                self.where[task.seq] = "queued"
        for task, how in victims:
            statuses = {Verdict.TIMEOUT: Status.TIMEOUT, Verdict.CRASH: Status.CRASHED}
            status = statuses.get(how, Status.MEMORY)
            error = OutcomeError("x", "x")
            self.finish(task, Outcome(task.job_id, "g", task.op, "t", status, error=error, attempts=task.deaths))
        # What it sends now comes too late.
        assert self.take_results(worker, [self.result(task.seq) for task in held])[0] == []

    # --- what must hold

    def finish_well(self, task: Task) -> None:
        label: Any = b"%d" % task.seq
        self.finish(task, Outcome(task.job_id, "g", task.op, "t", Status.OK, label, attempts=task.deaths + 1), 60)

    def finish(self, task: Task, outcome: Outcome, label_bytes: int = 0) -> None:
        assert self.where[task.seq] != "done", "a second outcome"
        if task.session is not None and isinstance(self.where[task.seq], int):
            self.homes[task.session] = self.where[task.seq]
        self.where[task.seq] = "done"
        assert task.deaths == self.deaths.get(task.seq, 0)
        pause_from = task.owner.deliver([task.index], [outcome], len(task.payload), label_bytes)
        if pause_from is not None:
            self.scheduler.pause(task.owner, pause_from)

    @invariant()
    def each_job_is_in_one_place(self) -> None:
        places = list(self.where.values())
        assert self.scheduler.queued == places.count("queued")
        assert self.scheduler.in_flight == sum(isinstance(place, int) for place in places)
        for worker, frames in self.frames.items():
            assert self.scheduler.load(worker) == sum(map(len, frames))
            assert all(self.scheduler.holds(worker, task.seq) for frame in frames for task in frame)

    @invariant()
    def deaths_are_counted_right(self) -> None:
        for model in self.streams:
            assert [task.deaths for task in model.tasks] == [self.deaths.get(task.seq, 0) for task in model.tasks]

    @invariant()
    def outcomes_come_in_order_and_once(self) -> None:
        for model in self.streams:
            indexes = [outcome.id[1] for outcome in model.got]
            assert len(set(indexes)) == len(indexes)
            if model.ordered:
                assert indexes == list(range(len(indexes)))

    @invariant()
    def memory_is_bounded_by_the_window(self) -> None:
        for model in self.streams:
            stream = model.stream
            assert stream._put - stream._taken < WINDOW_JOBS + 12
            assert stream._bytes_in >= 0
            assert 0 <= stream._bytes_out <= 60 * (WINDOW_JOBS + 12)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for worker in list(self.frames):
            held = [task for frame in self.frames.pop(worker) for task in frame]
            self.scheduler.lost(worker, None, Verdict.INNOCENT)
            for task in held:
                self.where[task.seq] = "queued"
        healthy = self.join()
        rounds = 0
        while True:
            while frame := self.scheduler.next_frame(healthy):
                rounds += 1
                for task in self.take_results(healthy, [self.result(task.seq) for task in frame])[0]:
                    self.finish_well(task)
            got = [model.stream.take(0.0) for model in self.streams]
            if not any(got):
                break
            for model, outcomes in zip(self.streams, got):
                model.got += outcomes
        for model in self.streams:
            assert sorted(outcome.id[1] for outcome in model.got) == list(range(len(model.tasks))), "a job is lost"
            model.stream.finish()
            assert model.stream._taken == model.stream._put, "the stream would have no end"
            assert model.stream.take() == []
            for outcome in model.got:
                task = model.tasks[outcome.id[1]]
                deaths = self.deaths.get(task.seq, 0)
                again = outcome.status is Status.OK
                assert outcome.attempts == deaths + again
                assert not again or outcome.label_json == b"%d" % task.seq
        self.outcomes_come_in_order_and_once()
        assert self.scheduler.queued == self.scheduler.in_flight == 0


SchedulerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSchedulerModel = SchedulerMachine.TestCase


@pytest.mark.slow
def test_the_scheduler_model_at_length() -> None:
    options = settings(
        max_examples=1500, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(SchedulerMachine, settings=options)


# --- the model itself is put to the test


def _drop_a_requeued_job(real: Any) -> Any:
    return lambda self, tasks: real(self, tasks[1:])


def _charge_another_job(real: Any) -> Any:
    def lost(self: Scheduler, worker: int, running: int | None, verdict: Verdict) -> Any:
        state = self._workers.get(worker)
        if state is not None and running in state.inflight:
            running = list(state.inflight)[-1]
        return real(self, worker, running, verdict)

    return lost


def _answer_twice(real: Any) -> Any:
    def held(self: Scheduler, worker: int, items: Any) -> Any:
        finished, fault = real(self, worker, items)
        return (finished + finished[:1] if len(finished) > 2 else finished), fault

    return held


def _out_of_order(_real: Any) -> Any:
    def sort_in(self: JobStream, _indexes: list[int], outcomes: Any) -> None:
        self._ready += outcomes

    return sort_in


def _feed_a_worker_that_waits(_real: Any) -> Any:
    return staticmethod(lambda state: state.open and len(state.marks) < FRAMES_IN_FLIGHT)


BUGS: dict[str, tuple[Any, str, Any]] = {
    "a requeued job is dropped": (Scheduler, "_give_back", _drop_a_requeued_job),
    "another job is charged": (Scheduler, "lost", _charge_another_job),
    "a job is answered twice": (Scheduler, "held", _answer_twice),
    "order is lost": (JobStream, "_sort_in", _out_of_order),
    "a paused owner stays so": (Scheduler, "resume", lambda real: lambda self, *args: None),
    "a worker that waits is fed": (Scheduler, "_takes", _feed_a_worker_that_waits),
    "a worker that goes is fed": (Scheduler, "retire", lambda real: lambda self, worker: None),
    "cancelling forgets a job": (Scheduler, "cancel", lambda real: lambda self, owner: real(self, owner)[1:]),
    "a session's job is sent to any worker": (Sessions, "_move", lambda real: lambda self, *args: None),
}


# The simulation finds all of them as well, and sooner; here most take long.
_SOON = ("a requeued job is dropped", "cancelling forgets a job", "a session's job is sent to any worker")


@pytest.mark.parametrize("bug", [b if b in _SOON else pytest.param(b, marks=pytest.mark.slow) for b in BUGS])
def test_the_model_finds_a_planted_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrap = BUGS[bug]
    monkeypatch.setattr(where, name, wrap(getattr(where, name)))
    options = settings(
        max_examples=1500,
        stateful_step_count=40,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        derandomize=True,
    )
    with pytest.raises(Exception, match=r"."):
        run_state_machine_as_test(SchedulerMachine, settings=options)
