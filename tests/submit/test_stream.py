"""Streams: backpressure on the way in, order on the way out, and an end in every case."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from guardpool.errors import PoolBroken, PoolClosed
from guardpool.jobs import Prepared
from guardpool.limits import Limits
from guardpool.outcomes import Outcome, OutcomeError, Status
from guardpool.submit.intake import Intake
from guardpool.submit.stream import Ahead, JobStream
from guardpool.supervise.commands import Cancel, Command, Forget, Queue, Resume
from guardpool.supervise.inbox import Inbox
from guardpool.supervise.scheduler import Task
from guardpool.supervise.state import PoolState

WAIT_S = 20.0


class Pool:
    """A pool of the test's own: what streams post to it waits here until the test says what becomes of it."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.posted: list[Command] = []
        self.arrived = threading.Condition()
        self.intake = Intake(["g"], 1 << 30)
        self.inbox = Inbox(self.check_open, self.post, self.post)

    def post(self, command: Command) -> None:
        with self.arrived:
            self.posted.append(command)
            self.arrived.notify_all()

    def check_open(self) -> None:
        if self.failure is not None:
            raise self.failure

    def stream(self, ordered: bool = True, **options: Any) -> JobStream:
        return JobStream(self.inbox, self.intake, ordered=ordered, **options)

    def queued(self, count: int) -> list[Task]:
        """Wait until so many jobs were queued in all; return them."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self._tasks()) >= count, WAIT_S)
            return self._tasks()

    def _tasks(self) -> list[Task]:
        return [task for command in self.posted if isinstance(command, Queue) for task in command.tasks]

    def commands(self) -> list[type[Command]]:
        return [type(command) for command in self.posted]


@pytest.fixture
def pool() -> Pool:
    return Pool()


def prepared(count: int, size: int = 2, first: int = 0, **options: Any) -> list[Prepared]:
    return [
        Prepared(number, None, "label_resource", "t", b"x" * size, **options) for number in range(first, first + count)
    ]


def outcome(task: Task, label: bytes = b"{}") -> Outcome:
    return Outcome(task.job_id, "g", task.op, "t", Status.OK, label)  # type: ignore[arg-type]


def deliver(stream: JobStream, tasks: list[Task], label_bytes: int = 0) -> int | None:
    size = sum(len(task.payload) for task in tasks)
    return stream.deliver([task.index for task in tasks], list(map(outcome, tasks)), size, label_bytes * len(tasks))


def ids(outcomes: list[Outcome]) -> list[Any]:
    return [one.id for one in outcomes]


@contextmanager
def elsewhere(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run `call` on another thread during the block, which has to make it return; gives what it returned or raised."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield result
    thread.join(WAIT_S)
    assert not thread.is_alive(), "it waits for ever"


def wait_until_asleep(bell: Any) -> None:
    """Wait until the other thread waits: arming the bell is the last thing that it does before."""
    done = threading.Event()
    for _ in range(200_000):
        if bell._armed:
            return
        done.wait(1e-4)
    raise AssertionError("no thread waits")


# --- order


def test_outcomes_come_in_the_order_of_the_jobs(pool: Pool) -> None:
    stream = pool.stream()
    stream.put(prepared(6))
    tasks = pool.queued(6)
    deliver(stream, [tasks[2], tasks[1]])
    deliver(stream, tasks[4:])
    assert stream.ready == 0
    assert stream.take(0.0) == []
    deliver(stream, tasks[:1])
    assert ids(stream.take()) == [0, 1, 2]
    deliver(stream, tasks[3:4])
    assert ids(stream.take()) == [3, 4, 5]


def test_unordered_outcomes_come_as_they_are_ready(pool: Pool) -> None:
    stream = pool.stream(ordered=False)
    stream.put(prepared(4))
    tasks = pool.queued(4)
    deliver(stream, tasks[2:])
    assert ids(stream.take()) == [2, 3]
    deliver(stream, [tasks[1], tasks[0]])
    assert ids(stream.take()) == [1, 0]


@given(st.permutations(range(12)), st.lists(st.integers(1, 5), min_size=12, max_size=12), st.sets(st.integers(0, 11)))
def test_any_order_of_results_gives_the_order_of_the_jobs(order: list[int], cuts: list[int], refused: set[int]) -> None:
    pool = Pool()
    stream = pool.stream()
    bad = OutcomeError("no_such_op", "x")
    jobs = [Prepared(n, None, "label_resource", "t", b"x", bad if n in refused else None) for n in range(12)]
    stream.put(jobs)
    by_index = {task.index: task for task in pool.queued(12 - len(refused))}
    results = [by_index[index] for index in order if index in by_index]
    got: list[Any] = []
    while results:
        count = cuts.pop()
        deliver(stream, results[:count])
        results = results[count:]
        got += ids(stream.take(0.0))
    got += ids(stream.take(0.0))
    assert got == list(range(12))


def test_a_rejected_job_keeps_its_place_and_no_worker_sees_it(pool: Pool) -> None:
    stream = pool.stream()
    stream.put([*prepared(1), *prepared(1, first=1, error=OutcomeError("not_json", "line 1")), *prepared(1, first=2)])
    tasks = pool.queued(2)
    assert ids_of(tasks) == [0, 2]
    deliver(stream, tasks)
    got = stream.take()
    assert ids(got) == [0, 1, 2]
    assert [one.status for one in got] == ["ok", "rejected", "ok"]


def ids_of(tasks: list[Task]) -> list[Any]:
    return [task.job_id for task in tasks]


# --- backpressure


def test_put_waits_while_the_window_is_full_until_outcomes_are_taken(pool: Pool) -> None:
    stream = pool.stream(window_jobs=4)
    stream.put(prepared(4))
    assert stream.room == 0
    tasks = pool.queued(4)
    with elsewhere(lambda: stream.put(prepared(1, first=4))) as result:
        wait_until_asleep(stream._room_bell)
        deliver(stream, tasks)  # not enough: they are not taken yet
        assert stream.room == 0
        assert len(pool.queued(4)) == 4
        assert ids(stream.take()) == [0, 1, 2, 3]
        pool.queued(5)
    assert result == [None]


def test_put_can_wait_until_the_supervisor_has_the_jobs(pool: Pool) -> None:
    stream = pool.stream()
    with elsewhere(lambda: stream.put(prepared(2), until_taken=True)) as result:
        pool.queued(2)
        (taken,) = [command.taken for command in pool.posted if isinstance(command, Queue)]
        assert taken is not None
        assert result == []
        taken()
    assert result == [None]
    stream.put(prepared(1, error=OutcomeError("code", "message")), until_taken=True)  # the supervisor never sees it
    assert pool.commands() == [Queue]


def test_put_waits_while_the_window_is_full_in_bytes(pool: Pool) -> None:
    stream = pool.stream(window_bytes=1000)
    stream.put(prepared(2, size=600))
    tasks = pool.queued(2)
    with elsewhere(lambda: stream.put(prepared(1, first=2))):
        wait_until_asleep(stream._room_bell)
        deliver(stream, tasks[:1])
        pool.queued(3)


def test_inputs_ahead_of_the_workers_are_bounded_and_labels_do_not_count(pool: Pool) -> None:
    stream = pool.stream(ahead=Ahead(1000, 0))
    stream.put(prepared(2, size=600))
    assert stream.room == 0
    tasks = pool.queued(2)
    with elsewhere(lambda: stream.put(prepared(2, first=2, size=100))):
        wait_until_asleep(stream._room_bell)
        assert deliver(stream, tasks[1:], label_bytes=5000) is None  # held for the first one, and no job is paused
        pool.queued(4)
    assert stream.room > 0


def test_a_stream_knows_the_reason_before_a_broken_pools_last_outcomes(pool: Pool) -> None:
    """The supervisor may be held up between telling the reason and handing over the outcomes; in the other order a stream could
    end well in that moment and hide that the pool is broken."""
    stream = pool.stream()
    stream.put(prepared(3))
    stream.finish()
    seen: list[Any] = []

    class Watched:
        """Takes all outcomes at once, as a consumer on a quicker core would."""

        def __getattr__(self, name: str) -> Any:
            return getattr(stream, name)

        def deliver(self, *arguments: Any) -> int | None:
            paused = stream.deliver(*arguments)
            seen.extend(ids(stream.take()))
            with pytest.raises(PoolBroken):
                stream.take(0.0)
            return paused

    watched = Watched()
    state = PoolState(["g"], [None], Limits(), cast("Any", None), cast("Any", None))
    for task in pool.queued(3):
        task.owner = watched
        state.scheduler.add(watched, [task])
    state.fail(PoolBroken("no worker comes"))
    state.turn_away([watched])
    assert seen == [0, 1, 2]


def test_some_jobs_go_ahead_however_large_they_are(pool: Pool) -> None:
    stream = pool.stream(ahead=Ahead(1000, 4))
    stream.put(prepared(2, size=600))
    assert stream.room == 2
    stream.put(prepared(2, first=2, size=600))
    assert stream.room == 0
    deliver(stream, pool.queued(4)[:1])
    assert stream.room == 0
    stream.take()
    assert stream.room == 1


def test_a_thread_of_the_pool_keeps_the_window_full_and_never_over_full(pool: Pool) -> None:
    """A producer, a pool and a consumer on threads of their own: everything arrives, in order, within the window."""
    stream = pool.stream(window_jobs=10)
    most = []
    over = threading.Event()

    def work() -> None:
        done = 0
        while done < 300:
            tasks = pool.queued(done + 1)[done:]
            most.append(stream._put - stream._taken)
            deliver(stream, tasks)
            done += len(tasks)
        over.set()

    def produce() -> None:
        for number in range(0, 300, 3):
            stream.put(prepared(3, first=number))
        stream.finish()

    got: list[Any] = []
    with elsewhere(work), elsewhere(produce):
        while outcomes := stream.take():
            got += ids(outcomes)
    assert over.is_set()
    assert got == list(range(300))
    assert max(most) <= 12


def test_jobs_are_paused_while_their_consumer_lets_labels_pile_up(pool: Pool) -> None:
    stream = pool.stream(ordered=False, window_bytes=1000)
    stream.put(prepared(10))
    tasks = pool.queued(10)
    assert deliver(stream, tasks[:2], label_bytes=400) is None
    assert deliver(stream, tasks[2:3], label_bytes=400) == 0
    assert stream.room == 0
    stream.take()
    assert pool.posted[-1] == Resume(stream, None)
    assert stream.room > 0
    assert deliver(stream, tasks[3:4], label_bytes=400) is None
    stream.take()
    assert pool.commands().count(Resume) == 1


def test_an_ordered_stream_is_paused_behind_the_job_it_waits_for(pool: Pool) -> None:
    stream = pool.stream(window_bytes=1000)
    stream.put(prepared(10))
    tasks = pool.queued(10)
    assert deliver(stream, tasks[1:4], label_bytes=400) == 1  # job 0 may run, and nothing after it
    assert deliver(stream, tasks[:1], label_bytes=400) == 0  # now it is the consumer's turn: nothing may run
    assert len(stream.take()) == 4
    assert pool.posted[-1] == Resume(stream, None)


def test_labels_held_behind_a_slow_job_pause_all_jobs_but_that_one(pool: Pool) -> None:
    stream = pool.stream(window_bytes=1000)
    stream.put(prepared(10))
    tasks = pool.queued(10)
    deliver(stream, [tasks[0]], label_bytes=400)
    assert deliver(stream, tasks[2:9], label_bytes=400) == 0
    assert ids(stream.take()) == [0]
    assert pool.posted[-1] == Resume(stream, 2)  # job 1 may run; 7 labels are held
    assert stream.room == 0


# --- the end


def test_take_returns_nothing_once_a_finished_stream_was_taken_whole(pool: Pool) -> None:
    stream = pool.stream()
    stream.put(prepared(2))
    stream.finish()
    with elsewhere(stream.take) as result:
        wait_until_asleep(stream._ready_bell)
        deliver(stream, pool.queued(2))
    assert ids(result[0]) == [0, 1]
    assert stream.take() == []


def test_finish_wakes_a_consumer_that_waits(pool: Pool) -> None:
    stream = pool.stream()
    with elsewhere(stream.take) as result:
        wait_until_asleep(stream._ready_bell)
        stream.finish()
    assert result == [[]]


def test_take_gives_up_when_nothing_came_in_time(pool: Pool) -> None:
    stream = pool.stream()
    stream.put(prepared(1))
    assert stream.take(0.0) == []
    assert stream.take(0.01) == []
    deliver(stream, pool.queued(1))
    assert ids(stream.take(0.01)) == [0]


def test_put_after_finish_or_cancel_is_refused(pool: Pool) -> None:
    for end in (JobStream.finish, JobStream.cancel):
        stream = pool.stream()
        end(stream)
        with pytest.raises(PoolClosed, match="finished or cancelled"):
            stream.put(prepared(1))
        assert stream.take() == []


def test_cancel_wakes_a_producer_and_ends_with_the_last_outcome(pool: Pool) -> None:
    stream = pool.stream(window_jobs=2)
    stream.put(prepared(2))
    tasks = pool.queued(2)
    with elsewhere(lambda: stream.put(prepared(1, first=2))) as result:
        wait_until_asleep(stream._room_bell)
        stream.cancel()
    assert isinstance(result[0], PoolClosed)
    assert pool.commands() == [Queue, Cancel]
    deliver(stream, tasks)
    assert ids(stream.take()) == [0, 1]
    assert stream.take() == []


def test_a_broken_pool_is_raised_after_every_outcome_was_taken(pool: Pool) -> None:
    stream = pool.stream(window_jobs=2)
    stream.put(prepared(2))
    broken = PoolBroken("8 workers died")
    with elsewhere(lambda: stream.put(prepared(1, first=2))) as result:
        wait_until_asleep(stream._room_bell)
        deliver(stream, pool.queued(2))
        stream.fail(broken)
    assert result == [broken]
    assert len(stream.take()) == 2
    for _ in range(2):
        with pytest.raises(PoolBroken, match="8 workers died"):
            stream.take()
    stream.finish()
    with pytest.raises(PoolBroken):
        stream.take()


def test_closing_the_pool_is_an_error_only_for_a_stream_that_is_open(pool: Pool) -> None:
    for finish in (False, True):
        stream = pool.stream()
        stream.put(prepared(1))
        if finish:
            stream.finish()
        deliver(stream, pool.queued(1 + finish)[-1:])
        stream.fail(PoolClosed("the pool is closed"))
        assert len(stream.take()) == 1
        if finish:
            assert stream.take() == []
        else:
            with pytest.raises(PoolClosed):
                stream.take()


def test_failure_wakes_a_consumer_that_waits(pool: Pool) -> None:
    stream = pool.stream()
    with elsewhere(stream.take) as result:
        wait_until_asleep(stream._ready_bell)
        stream.fail(PoolBroken("x"))
    assert isinstance(result[0], PoolBroken)


def test_jobs_that_the_pool_refuses_count_as_never_put(pool: Pool) -> None:
    stream = pool.stream()
    stream.put(prepared(1))
    tasks = pool.queued(1)
    bad = OutcomeError("not_json", "x")
    for jobs in (prepared(2, first=1), prepared(2, first=1, error=bad)):
        pool.failure = PoolClosed("the pool is closed")
        with pytest.raises(PoolClosed):
            stream.put(jobs)
    # Even if the pool closes between the check and the post.
    pool.failure = None
    made = pool.intake.tasks_of_prepared(prepared(2, first=1), stream, 1)
    pool.failure = PoolClosed("the pool is closed")
    with pytest.raises(PoolClosed):
        stream.send(*made)
    deliver(stream, tasks)
    assert ids(stream.take()) == [0]
    stream.finish()
    assert stream.take() == []
    assert stream.room > 0


def test_a_stream_whose_consumer_left_keeps_and_pauses_nothing(pool: Pool) -> None:
    stream = pool.stream(window_bytes=1000)
    stream.put(prepared(3))
    tasks = pool.queued(3)
    deliver(stream, tasks[1:2], label_bytes=600)
    stream.close()
    assert pool.commands() == [Queue, Cancel, Forget]
    assert deliver(stream, tasks[:1], label_bytes=600) is None
    assert stream.ready == 0
    assert stream.take() == []
    with pytest.raises(PoolClosed):
        stream.put(prepared(1))


def test_closing_a_stream_that_is_done_cancels_nothing(pool: Pool) -> None:
    stream = pool.stream()
    stream.put(prepared(1))
    deliver(stream, pool.queued(1))
    stream.take()
    stream.close()
    assert pool.commands() == [Queue, Forget]


# --- interrupts


class Interrupt(BaseException):
    """What a signal handler raised."""


@contextmanager
def interrupted(at: int, *functions: Callable[..., Any]) -> Iterator[list[int]]:
    """Raise `Interrupt` at the `at`-th place in the functions at which CPython looks for signals.

    Those places are where a function begins, after a call and at the jump back of a loop.
    """
    codes = {function.__code__ for function in functions}
    seen = [0]
    before: dict[FrameType, str] = {}  # the instruction that each frame was at last

    def strike() -> None:
        seen[0] += 1
        if seen[0] == at:
            raise Interrupt

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event == "call":
            strike()
        elif event == "opcode":
            last = before.get(frame, "")
            before[frame] = dis_name(frame.f_code.co_code[frame.f_lasti])
            if last.startswith(("CALL", "JUMP_ABSOLUTE", "JUMP_BACKWARD", "PRECALL")):
                strike()
        return trace

    was = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(was)


def dis_name(opcode: int) -> str:
    import dis

    return dis.opname[opcode]


TAKE = (JobStream.take, JobStream._fill_hand, JobStream._take_ready, JobStream._is_over, JobStream._post_resume)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("paused", [True, False])
def test_an_interrupted_take_loses_nothing_wherever_it_is_interrupted(ordered: bool, paused: bool) -> None:
    places = 0
    for at in range(1, 200):
        pool = Pool()
        stream = pool.stream(ordered=ordered, window_bytes=1000)
        stream.put(prepared(5))
        tasks = pool.queued(5)
        deliver(stream, tasks[:3], label_bytes=400 if paused else 1)
        got: list[Outcome] = []
        struck = False
        with interrupted(at, *TAKE) as seen:
            try:
                got += stream.take(0.0)
            except Interrupt:
                struck = True
        if not struck:
            places = seen[0]
            break
        assert not stream._lock.locked(), f"place {at} leaves the lock behind"
        got += stream.take(0.0)
        assert ids(got) == [0, 1, 2]
        assert (Resume in pool.commands()) == paused
        deliver(stream, tasks[3:])
        assert ids(stream.take(0.0)) == [3, 4]
        assert stream._bytes_out == 0
        assert stream.room > 0
        stream.finish()
        assert stream.take() == []
    assert places > 5


def test_a_take_that_was_interrupted_while_it_waited_goes_on_where_it_was(pool: Pool) -> None:
    stream = pool.stream()
    stream.put(prepared(2))
    tasks = pool.queued(2)
    for at in range(1, 100):
        with interrupted(at, *TAKE, type(stream._ready_bell).arm, type(stream._ready_bell).wait) as seen:
            try:
                assert stream.take(0.0) == []
            except Interrupt:
                assert not stream._lock.locked()
                continue
        break
    assert seen[0] > 3
    with elsewhere(stream.take) as result:
        wait_until_asleep(stream._ready_bell)
        deliver(stream, tasks)
    assert ids(result[0]) == [0, 1]


def test_an_interrupted_put_never_leaves_a_consumer_waiting() -> None:
    functions = (JobStream.put, JobStream.send, JobStream._queue, JobStream._wait_for_room, Inbox.queue)
    ends: set[tuple[bool, bool]] = set()
    for at in range(1, 200):
        pool = Pool()
        stream = pool.stream()
        stream.put(prepared(1))
        first = pool.queued(1)
        struck = False
        with interrupted(at, *functions):
            try:
                stream.put(prepared(2, first=1))
            except Interrupt:
                struck = True
        if not struck:
            break
        assert not stream._lock.locked(), f"place {at} leaves the lock behind"
        deliver(stream, first)
        assert ids(stream.take()) == [0]
        later = pool.queued(1)[1:]
        ends.add((bool(later), stream._torn))
        if stream._torn:
            # Whether they were queued is unknown, so `take` does not wait for outcomes that might never come.
            with pytest.raises(PoolClosed):
                stream.put(prepared(1, first=3))
            assert stream.take(WAIT_S) == []
        else:
            stream.finish()
        if later:
            deliver(stream, later)
            assert ids(stream.take(0.0)) == [1, 2]
        assert stream.take(WAIT_S) == []
        stream.close()
    assert ends == {(False, False), (False, True), (True, True), (True, False)}
