"""Guards that keep what they see fill their linear memory: that costs no innocent job its label."""

from __future__ import annotations

import pytest

import hostile
import hostile_acts  # noqa: F401  # it knows the attacks
from guardpool import GuardPool, Job, Limits, Outcome
from guardpool.supervise import watchdog
from poolkit import WAIT_S, guard, job, jobs, pool, statuses, wait_until

BIG = "x" * 300_000


def caching(workers: int = 1, **limits: int) -> GuardPool:
    return pool(guard("caches"), workers=workers, limits=Limits(timeout_s=WAIT_S, **limits))


def ask(p: GuardPool, letter: str, owner: str = "o") -> Outcome:
    return p.submit(Job(letter, "label_resource", letter, {"owner": owner})).result(WAIT_S)


@pytest.mark.parametrize("workers", [1, 3])
def test_jobs_that_find_memory_full_are_tried_again_on_a_fresh_instance(workers: int) -> None:
    with caching(workers) as p:
        outcomes = list(p.map(Job(n, "label_resource", "get", {}) for n in range(60)))
        respawns = p.stats().respawns
    assert [outcome.id for outcome in outcomes] == list(range(60))
    assert statuses(outcomes) == {"ok": 60}
    tried_again = sum(outcome.attempts == 2 for outcome in outcomes)
    assert {outcome.attempts for outcome in outcomes} == {1, 2}
    # Six jobs fill a memory, and the seventh traps: without another try it would be lost, with more tries it would trap again.
    assert tried_again == respawns["trap"] >= 5


def test_a_job_without_attempts_left_is_a_trap() -> None:
    with caching(max_attempts=1) as p:
        outcomes = list(p.map(Job(n, "label_resource", "get", {}) for n in range(20)))
    assert {outcome.attempts for outcome in outcomes} == {1}
    assert statuses(outcomes)["trap"] >= 2


def test_a_job_that_fills_the_memory_itself_stays_a_trap() -> None:
    with caching(max_attempts=9) as p:
        first = ask(p, "f")
        assert (first.status, first.attempts) == ("trap", 1), (
            "it was the first of its instance: no other can be to blame"
        )
        assert ask(p, "i").status == "ok"
        later = ask(p, "f")
        assert (later.status, later.attempts) == ("trap", 2), "one more try, and no third"
        assert ask(p, "i").status == "ok"


def test_an_input_for_which_others_left_no_room_is_tried_again() -> None:
    with caching() as p:
        assert ask(p, "l").status == "ok"
        outcome = ask(p, "i", BIG)
        assert (outcome.status, outcome.attempts) == ("ok", 2)
        wait_until(lambda: p.stats().respawns == {"recycle": 1}, "the end of the worker without room")


def test_a_worker_near_the_cap_is_replaced_before_a_job_traps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LEAST_AGE_S", 0.0)
    with caching() as p:
        for number in range(1, 4):
            while p.stats().respawns.get("recycle", 0) < number:
                outcome = ask(p, "get")
                assert (outcome.status, outcome.attempts) == ("ok", 1)
                wait_until(lambda: p.stats().workers[0].jobs < 5, "its successor")
        assert p.stats().respawns == {"recycle": 3}


def test_workers_that_claim_full_memories_get_one_more_try_for_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.install(monkeypatch, hostile.Plan(others="traps_of_full_memories_only"))
    limits = Limits(timeout_s=WAIT_S, max_attempts=1000)
    with pool(sandbox="off", limits=limits) as p:
        outcomes = list(p.map(jobs(30)))
        assert p.submit(job(0)).result(WAIT_S).status == "trap"
    assert statuses(outcomes) == {"trap": 30}
    assert {outcome.attempts for outcome in outcomes} <= {1, 2}
