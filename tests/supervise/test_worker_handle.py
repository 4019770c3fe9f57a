"""A worker's life: the table of its steps is what the handle asserts, and the first reason to end it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from guardpool.supervise.scheduler import Verdict
from guardpool.supervise.verdicts import Ending
from guardpool.supervise.worker_end import PipeEnd
from guardpool.supervise.worker_handle import TRANSITIONS, State, WorkerHandle

# What makes each step.
STEPS: dict[State, Callable[[WorkerHandle], None]] = {
    State.STARTING: lambda worker: worker.forked(0, -1),
    State.READY: lambda worker: worker.becomes_ready(1.0),
    State.LEAVING: lambda worker: worker.leaves("recycle", 1.0),
    State.DYING: lambda worker: worker.kill(Ending.stalled()),
    State.DEAD: lambda worker: worker.died(1.0),
}
# How a worker gets into each state.
WAYS: dict[State, tuple[State, ...]] = {
    State.FORKING: (),
    State.STARTING: (State.STARTING,),
    State.READY: (State.STARTING, State.READY),
    State.LEAVING: (State.STARTING, State.READY, State.LEAVING),
    State.DYING: (State.STARTING, State.DYING),
    State.DEAD: (State.STARTING, State.DEAD),
}


@pytest.fixture
def worker() -> Iterator[WorkerHandle]:
    made = WorkerHandle(1, PipeEnd(), 0.0)
    yield made
    made.close()


def bring(worker: WorkerHandle, state: State) -> None:
    for step in WAYS[state]:
        STEPS[step](worker)
    assert worker.state is state


def test_what_went_wrong_in_a_call_is_told_of_the_job_that_called(worker: WorkerHandle) -> None:
    bring(worker, State.READY)
    for token, (seq, error) in enumerate([(0, "at the start"), (3, "a"), (3, "b"), (4, None), (7, "c")]):
        worker.asks_backend(seq, token, 1.0)
        worker.backend_answered(error, 2.0)
    assert [worker.take_backend_errors(seq) for seq in (3, 4, 7, 3)] == [("a", "b"), (), ("c",), ()]
    assert not worker.has_backend_errors


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("to", STEPS)
def test_every_step_in_the_table_can_be_made_and_no_other(worker: WorkerHandle, state: State, to: State) -> None:
    bring(worker, state)
    if to in TRANSITIONS[state]:
        STEPS[to](worker)
        assert worker.state is to
    elif to is State.DYING:  # a worker that is dying or dead is not killed again
        STEPS[to](worker)
        assert worker.state is state
    elif (state, to) == (State.DYING, State.STARTING):  # it was to be killed before it was forked
        STEPS[to](worker)
        assert worker.state is State.DYING
    else:
        with pytest.raises(AssertionError, match=f"{state.value} -> {to.value}"):
            STEPS[to](worker)
        assert worker.state is state


def test_every_state_but_the_first_can_be_reached_and_the_last_is_the_end() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set().union(*TRANSITIONS.values()) == set(State) - {State.FORKING}
    assert TRANSITIONS[State.DEAD] == frozenset()


def test_first_reason_to_end_a_worker_counts(worker: WorkerHandle) -> None:
    bring(worker, State.READY)
    first = Ending.past_deadline(7)
    worker.kill(first)
    worker.kill(Ending.broke_protocol("junk"))
    assert worker.ending is first
    assert worker.cause == "timeout"
    assert worker.fault == "junk"  # what it sends after that must not count


def test_worker_killed_while_it_leaves_is_counted_as_killed(worker: WorkerHandle) -> None:
    bring(worker, State.LEAVING)
    assert worker.cause == "recycle"
    worker.kill(Ending.past_deadline(7))
    assert worker.ending is not None
    assert worker.ending.verdict is Verdict.TIMEOUT
    assert worker.cause == "timeout"


def test_worker_that_leaves_and_is_not_needed_keeps_its_reason(worker: WorkerHandle) -> None:
    bring(worker, State.LEAVING)
    worker.kill(Ending.not_needed())
    assert worker.cause == "recycle"


def test_worker_killed_before_its_fork_never_starts(worker: WorkerHandle) -> None:
    worker.kill(Ending.not_needed())
    worker.forked(0, -1)
    assert worker.state is State.DYING
    assert not worker.is_listening
