"""`GuardPool(deterministic=True)`: the same label for the same job, in every worker, order and run.

`test_both_engines.py` compares the engines with it, `tests/worker/test_wasi_zig.py` has it for a guard of a real toolchain.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from guardpool import GuardPool, Job
from guardpool.errors import CallerError
from poolkit import guard, pool

GUARD = "tells_the_world"
NOW = 1_767_225_600
COUNT = 60


def jobs() -> Iterator[Job]:
    """Jobs with different inputs and times, or without a time; between them jobs of a guard that ends its worker."""
    for number in range(COUNT):
        time = None if number % 3 == 0 else NOW + number / 4
        yield Job(number, "label_resource", "t", {"n": number}, guard=GUARD, time=time, session="s")
        if number % 20 == 7:
            yield Job(f"end {number}", "label_resource", "t", {"n": number}, guard="exit_nonzero")


Labels = dict[object, tuple[str, bytes]]


def labels(pool: GuardPool, shuffled_by: int) -> Labels:
    """By the job's id: its status and its label."""
    made = list(jobs())
    random.Random(shuffled_by).shuffle(made)
    return {outcome.id: (outcome.status.value, outcome.label_json) for outcome in pool.map(made, ordered=False)}


def realtime_ns(label: bytes) -> int:
    """What the guard's realtime clock said."""
    letters = json.loads(label)["description"][32:48]
    return int.from_bytes(bytes.fromhex(letters.translate({97 + n: f"{n:x}" for n in range(16)})), "little")


def runs(workers: int, **options: bool) -> list[Labels]:
    """Two runs of one pool, each in its own order."""
    with pool(guard(GUARD), guard("exit_nonzero"), workers=workers, **options) as made:
        return [labels(made, shuffled_by=workers + run) for run in range(2)]


def test_labels_are_the_same_for_every_worker_count_order_and_run() -> None:
    first, *others = [*runs(1, deterministic=True), *runs(4, deterministic=True)]
    assert all(other == first for other in others)
    told = [label for status, label in first.values() if status == "ok"]
    assert len(told) == len(set(told)) == COUNT, "each job has random bytes of its own"
    times = {job.id: round((job.time or 0) * 10**6) * 1000 for job in jobs()}
    assert {job_id: realtime_ns(label) for job_id, (status, label) in first.items() if status == "ok"} == {
        job_id: time for job_id, time in times.items() if isinstance(job_id, int)
    }


def test_without_it_labels_differ_from_run_to_run() -> None:
    first, second = runs(2)
    assert first.keys() == second.keys()
    assert [job_id for job_id in first if first[job_id][0] == "ok" and first[job_id] == second[job_id]] == []


def test_a_guard_of_another_name_draws_other_bytes() -> None:
    with pool(guard("a", wat=GUARD), guard("b", wat=GUARD), workers=1, deterministic=True) as made:
        first, second = made.map(Job(0, "label_resource", "t", {}, guard=name) for name in "ab")
    assert first.label_json != second.label_json


def test_workers_agree_on_a_label_agent_that_draws_at_random() -> None:
    agents = []
    for workers in (1, 3):
        with pool(guard("agent_random"), workers=workers, deterministic=True) as made:
            agents.append(made.agents["agent_random"])
    assert agents[0] == agents[1]


def test_deterministic_is_true_or_false() -> None:
    with pytest.raises(CallerError, match="deterministic must be True or False, not 'yes'"):
        pool(deterministic="yes")
