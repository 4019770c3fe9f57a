"""Single jobs: each caller gets the outcome of its own job, and no caller waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from guardpool.errors import PoolBroken, PoolClosed
from guardpool.jobs import Job
from guardpool.outcomes import Outcome, Status
from guardpool.submit.calls import Calls
from guardpool.submit.intake import Intake
from guardpool.supervise.commands import Command, Queue
from guardpool.supervise.inbox import Inbox
from guardpool.supervise.notifier import Notifier
from guardpool.supervise.scheduler import Task

WAIT_S = 20.0


class Pool:
    """Answers the commands that are posted as the test says."""

    def __init__(self, on_queue: Callable[[Task], None] | None = None) -> None:
        self.notifier = Notifier()
        self.tasks: list[Task] = []
        self.failure: Exception | None = None
        self.on_queue = on_queue or self.tasks.append
        self.inbox = Inbox(self._check_open, self._post, self._post)
        self.calls = Calls(self.inbox, Intake(["g"], 10_000), self.notifier)

    def _post(self, command: Command) -> None:
        assert isinstance(command, Queue)
        assert command.owner is self.calls
        for task in command.tasks:
            self.on_queue(task)

    def _check_open(self) -> None:
        if self.failure is not None:
            raise self.failure

    def answer(self, task: Task) -> None:
        outcome = Outcome(task.job_id, "g", task.op, "t", Status.OK, b"null")  # type: ignore[arg-type]
        self.calls.deliver([task.index], [outcome], len(task.payload))


@pytest.fixture
def pool() -> Any:
    made = Pool()
    yield made
    made.notifier.close(WAIT_S)


def job(number: int) -> Job:
    return Job(number, "label_resource", "x")


def test_futures_get_their_own_outcome_in_any_order(pool: Pool) -> None:
    futures = [pool.calls.submit(job(number)) for number in range(5)]
    for task in reversed(pool.tasks):
        pool.answer(task)
    assert [future.result(WAIT_S).id for future in futures] == [0, 1, 2, 3, 4]


def test_a_call_waits_for_its_outcome() -> None:
    pool = Pool()
    pool.on_queue = lambda task: threading.Thread(target=pool.answer, args=(task,)).start()
    assert [pool.calls.call(job(number)).id for number in range(20)] == list(range(20))


def test_a_rejected_job_is_answered_at_once_and_never_queued(pool: Pool) -> None:
    bad = Job(1, "label_response", "x")
    assert pool.calls.call(bad).status is Status.REJECTED
    future = pool.calls.submit(bad)
    assert future.done()
    assert future.result().status is Status.REJECTED
    assert pool.tasks == []


def test_an_outcome_without_a_waiting_caller_is_dropped(pool: Pool) -> None:
    future = pool.calls.submit(job(1))
    pool.answer(pool.tasks[0])
    pool.answer(pool.tasks[0])
    assert future.result(WAIT_S).id == 1


def test_a_cancelled_future_stays_cancelled_and_hurts_no_other(pool: Pool) -> None:
    futures = [pool.calls.submit(job(number)) for number in range(2)]
    assert futures[0].cancel()
    for task in pool.tasks:
        pool.answer(task)
    assert futures[1].result(WAIT_S).id == 1
    assert futures[0].cancelled()


def test_no_caller_is_left_waiting_when_the_pool_is_gone(pool: Pool) -> None:
    broken = PoolBroken("gone")
    future = pool.calls.submit(job(1))
    waits = threading.Event()
    pool.on_queue = lambda task: waits.set()
    raised: list[BaseException] = []

    def call() -> None:
        try:
            pool.calls.call(job(2))
        except PoolBroken as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert waits.wait(WAIT_S)
    pool.calls.fail(broken)
    thread.join(WAIT_S)
    assert raised == [broken]
    assert future.exception(WAIT_S) is broken


def test_callbacks_never_run_on_the_supervisors_thread(pool: Pool) -> None:
    ran_on: list[threading.Thread] = []
    both = threading.Barrier(2)

    def callback(_: Future[Outcome]) -> None:
        ran_on.append(threading.current_thread())
        both.wait(WAIT_S)

    pool.calls.submit(job(1)).add_done_callback(callback)
    pool.calls.fail(PoolClosed("closed"))  # as the supervisor does it at its end
    both.wait(WAIT_S)
    assert ran_on[0] is not threading.current_thread()


def test_a_job_that_is_refused_leaves_nothing_behind(pool: Pool) -> None:
    pool.failure = PoolClosed("closed")
    for method in (pool.calls.call, pool.calls.submit):
        with pytest.raises(PoolClosed):
            method(job(1))
    # The pool closes just before the job is posted: the caller hears of it and waits for nothing.
    closing = iter([None, PoolClosed("closed")] * 2)

    def check() -> None:
        if (failure := next(closing)) is not None:
            raise failure

    pool._check_open = check  # type: ignore[method-assign]
    pool.inbox._check_open = check
    for method in (pool.calls.call, pool.calls.submit):
        with pytest.raises(PoolClosed):
            method(job(1))
    assert pool.calls._waiting == {}


def test_an_interrupted_call_is_forgotten(pool: Pool) -> None:
    def interrupt(_: Task) -> None:
        raise KeyboardInterrupt

    pool.on_queue = interrupt
    with pytest.raises(KeyboardInterrupt):
        pool.calls.call(job(1))
    assert pool.calls._waiting == {}
