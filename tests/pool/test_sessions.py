"""Sessions in a real pool: one worker, in order; another one if that died, and outcomes that say so."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from guardpool import GuardPool, Job, Outcome
from poolkit import Gate, guard, job, pool, wait_until_gone

COUNT = 20


@pytest.fixture
def counting() -> Iterator[GuardPool]:
    """Two workers with a guard that counts its jobs, and one that ends its worker when told to."""
    with pool(guard("counts"), guard("vicious"), workers=2) as made:
        yield made


def count_job(number: int, session: str | None) -> Job:
    return Job(number, "label_resource", "t", {}, guard="counts", session=session)


def counted(outcome: Outcome) -> int:
    """How many jobs the guard's instance has had."""
    assert outcome.error is not None
    assert outcome.error.guard_code is not None
    return -100 - outcome.error.guard_code


def told(outcomes: list[Outcome]) -> list[bool]:
    return [outcome.session_restarted for outcome in outcomes]


def test_the_jobs_of_a_session_run_on_one_worker_in_order(counting: GuardPool) -> None:
    jobs = [
        made
        for number in range(COUNT)
        for made in (count_job(number, "a"), job(1000 + number, "k", guard="vicious"), count_job(100 + number, "b"))
    ]
    outcomes = list(counting.map(jobs))
    for first in (0, 100):
        counts = [counted(outcome) for outcome in outcomes if first <= outcome.id < first + COUNT]
        assert counts == sorted(set(counts)), "some of them ran on another worker, or out of turn"
    assert not any(told(outcomes))


def test_a_session_goes_on_with_another_call_and_another_map(counting: GuardPool) -> None:
    first = [counted(outcome) for outcome in counting.map(count_job(number, "c") for number in range(5))]
    second = [counted(counting.submit(count_job(5, "c")).result())]
    third = [counted(outcome) for outcome in counting.map([count_job(6, "c")])]
    counts = first + second + third
    assert counts == list(range(counts[0], counts[0] + 7))


def test_after_its_worker_ended_a_session_starts_afresh_and_outcomes_say_so(counting: GuardPool) -> None:
    ends = job(500, "x", guard="vicious", session="d")
    jobs = [
        *(count_job(number, "d") for number in range(5)),
        ends,
        *(count_job(number, "d") for number in range(6, 11)),
    ]
    outcomes = list(counting.map(jobs))
    assert outcomes[5].status == "trap"
    assert told(outcomes) == [False] * 6 + [True] * 5
    before, after = ([counted(outcome) for outcome in part] for part in (outcomes[:5], outcomes[6:]))
    assert before == list(range(before[0], before[0] + 5))
    assert after == list(range(after[0], after[0] + 5))
    assert outcomes[6].to_dict()["session_restarted"] is True
    assert "session_restarted" not in outcomes[0].to_dict()


def test_a_killed_worker_costs_its_session_what_the_guard_knew() -> None:
    with pool(guard("counts"), workers=2) as made:
        first = list(made.map(count_job(number, "s") for number in range(COUNT)))
        assert [counted(outcome) for outcome in first] == list(range(1, COUNT + 1))
        victim = next(worker.pid for worker in made.stats().workers if worker.jobs == COUNT)
        os.kill(victim, signal.SIGKILL)
        wait_until_gone(victim)
        second = list(made.map(count_job(number, "s") for number in range(COUNT)))
    assert [counted(outcome) for outcome in second] == list(range(1, COUNT + 1))
    assert told(first + second) == [False] * COUNT + [True] * COUNT


def test_a_worker_killed_under_a_session_hands_it_on_in_order() -> None:
    gate = Gate()
    with pool(guard(backend=gate), workers=2) as made:
        letters = "kbkk"
        futures = [made.submit(job(number, letter, session="s")) for number, letter in enumerate(letters)]
        assert not futures[0].result().session_restarted
        assert gate.entered.acquire(timeout=30)
        victim = next(worker.pid for worker in made.stats().workers if worker.jobs == 1)
        os.kill(victim, signal.SIGKILL)
        wait_until_gone(victim)
        gate.open.set()
        outcomes = [future.result() for future in futures]
    assert [(outcome.status.value, outcome.id) for outcome in outcomes] == [("ok", number) for number in range(4)]
    assert told(outcomes) == [False, True, True, True]
    assert [outcome.attempts for outcome in outcomes] == [1, 2, 1, 1]


def test_a_session_that_waits_keeps_no_other_worker_from_working() -> None:
    gate = Gate()
    with pool(guard(backend=gate), workers=2) as made:
        jobs = [job(0, "b", session="s"), *(job(number, "k", session="s") for number in range(1, 50))]
        others = [job(number, "k", session=f"s{number}" if number % 2 else None) for number in range(50, 250)]
        outcomes = made.map([*jobs, *others], ordered=False)
        done = {next(outcomes).id for _ in others}
        assert done == set(range(50, 250)), "the session's jobs wait for their first one"
        gate.open.set()
        assert [outcome.id for outcome in outcomes] == list(range(50))


def filling(*more: Job) -> list[Job]:
    """One job that leaves little of its guard's memory, and one that has no room for its input after it."""
    big = Job(1, "label_resource", "big", {"pad": "x" * 300_000}, session="s")
    return [Job(0, "label_resource", "little", {}, session="s"), big, *more]


def test_a_job_without_room_is_tried_again_only_if_its_session_has_not_gone_on() -> None:
    with pool(guard("caches"), workers=1) as made:
        last = list(made.map(filling()))
    assert [(outcome.status.value, outcome.attempts) for outcome in last] == [("ok", 1), ("ok", 2)]
    assert told(last) == [False, True], "it was tried on another worker"
    with pool(guard("caches"), workers=1) as made:
        followed = list(made.map(filling(Job(2, "label_resource", "k", {}, session="s"))))
    assert [(outcome.status.value, outcome.attempts) for outcome in followed] == [("ok", 1), ("invalid", 1), ("ok", 1)]
    assert followed[1].error is not None
    assert followed[1].error.code == "no_room"
