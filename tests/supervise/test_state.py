"""Outcomes on their way to the owners of their jobs."""

from __future__ import annotations

from typing import Any, cast

from guardpool import Limits, Outcome
from guardpool.outcomes import Status
from guardpool.supervise.scheduler import Task
from guardpool.supervise.state import PoolState


class Owner:
    """Notes what it gets, and how often it is compared."""

    compared = 0

    def __init__(self) -> None:
        self.got: list[tuple[list[int], list[Any], int, int]] = []

    def deliver(self, indexes: list[int], outcomes: list[Outcome], bytes_in: int, bytes_out: int) -> None:
        self.got.append((indexes, [outcome.id for outcome in outcomes], bytes_in, bytes_out))

    def __eq__(self, other: object) -> bool:
        Owner.compared += 1
        return self is other

    __hash__ = None  # type: ignore[assignment]


def deliver(owners: list[Owner], *sizes: int) -> None:
    tasks = [Task(at, 0, "label_resource", b"12345", 0, owner, at, f"job {at}", "t") for at, owner in enumerate(owners)]
    outcomes = [Outcome(task.job_id, "g", task.op, "t", Status.CANCELLED) for task in tasks]
    state = PoolState(["g"], [None], Limits(), cast("Any", None), cast("Any", None))
    state.deliver(tasks, outcomes, sizes)


def test_each_owner_gets_its_own_outcomes_in_runs() -> None:
    one, two = Owner(), Owner()
    deliver([one, one, two, one], 70, 1, 500, 3)
    assert one.got == [([0, 1], ["job 0", "job 1"], 10, 71), ([3], ["job 3"], 5, 3)]
    assert two.got == [([2], ["job 2"], 5, 500)]


def test_the_outcomes_of_one_owner_are_handed_over_at_once() -> None:
    one = Owner()
    deliver([one] * 3, 3, 2, 2)
    assert one.got == [([0, 1, 2], ["job 0", "job 1", "job 2"], 15, 7)]


def test_delivering_no_outcomes_is_allowed() -> None:
    deliver([])


def test_many_owners_cost_no_more_than_their_number() -> None:
    """A pool that is killed with thousands of streams open hands everything over in one go."""
    owners = [Owner() for _ in range(1000)]
    Owner.compared = 0
    deliver(owners)
    assert all(len(owner.got) == 1 for owner in owners)
    assert Owner.compared <= 1000
