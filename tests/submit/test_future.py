"""Futures of jobs: set at once whatever callbacks do, and of no use in a fork."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, as_completed, wait

import pytest

from guardpool.errors import PoolBroken, PoolClosed
from guardpool.outcomes import Outcome, Status
from guardpool.submit.future import OutcomeFuture

WAIT_S = 20.0
OUTCOME = Outcome(1, "g", "label_resource", "t", Status.OK)


class Later:
    """Keeps the calls that are to be made on another thread."""

    def __init__(self) -> None:
        self.calls: deque[tuple[Callable[[Future[Outcome]], object], Future[Outcome]]] = deque()

    def __call__(self, call: Callable[[Future[Outcome]], object], future: Future[Outcome]) -> None:
        self.calls.append((call, future))


def test_it_gets_an_outcome_or_an_exception() -> None:
    good, bad = OutcomeFuture(Later()), OutcomeFuture(Later())
    good.settle(OUTCOME)
    bad.settle(PoolBroken("gone"))
    assert good.result(0) is OUTCOME
    assert good.exception(0) is None
    assert isinstance(bad.exception(0), PoolBroken)
    with pytest.raises(PoolBroken):
        bad.result(0)
    assert set(as_completed([good, bad], WAIT_S)) == set(wait([good, bad], WAIT_S).done) == {good, bad}


def test_callbacks_are_called_later_in_their_order_and_never_by_who_sets_it() -> None:
    later, called = Later(), []
    future = OutcomeFuture(later)
    for number in range(3):
        future.add_done_callback(lambda given, number=number: called.append((number, given)))  # type: ignore[misc]
    future.settle(OUTCOME)
    assert called == []
    for call, given in later.calls:
        call(given)
    assert called == [(number, future) for number in range(3)]


def test_a_callback_that_comes_too_late_is_called_at_once() -> None:
    later, called = Later(), []
    future = OutcomeFuture(later)
    future.settle(OUTCOME)
    future.add_done_callback(called.append)
    assert (called, list(later.calls)) == ([future], [])


def test_what_its_caller_did_to_it_stands() -> None:
    touched, cancelled = OutcomeFuture(Later()), OutcomeFuture(Later())
    other = Outcome(2, "g", "label_resource", "t", Status.OK)
    touched.set_result(other)
    assert cancelled.cancel()
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
    try:
        for future in (touched, cancelled):
            future.settle(OUTCOME)
    finally:
        logging.getLogger("concurrent.futures").setLevel(logging.NOTSET)
    assert touched.result(0) is other
    with pytest.raises(CancelledError):
        cancelled.result(0)


def test_in_a_fork_it_is_over_whatever_lock_a_thread_held() -> None:
    future, done, called = OutcomeFuture(Later()), OutcomeFuture(Later()), []
    future.add_done_callback(called.append)
    done.settle(OUTCOME)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with future._condition:  # as a thread does that is not there in the fork
            held.set()
            go.wait(WAIT_S)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(WAIT_S)
    future.abandon()
    done.abandon()
    go.set()
    thread.join(WAIT_S)
    with pytest.raises(PoolClosed, match="belongs to the process that made its pool"):
        future.result(WAIT_S)
    assert set(as_completed([future], WAIT_S)) == {future}
    assert called == [], "callbacks are the other process's"
    assert done.result(0) is OUTCOME
