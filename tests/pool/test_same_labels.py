"""The sample jobs get byte-equal labels, whoever labels them in which order, and whatever is killed meanwhile.

Their guard asks a backend that is slow, answers in another order than it is asked in, and fails a fixed set of questions.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

import enginekit
from guardpool import Guard, GuardPool, Job, Limits, samples
from guardpool.machine.engines import ENGINE_NAMES, engine_problem

FEW, MANY = 80, 20_000
ENGINES = [name for name in ENGINE_NAMES if engine_problem(name) is None]
# So that no job is `crashed` for the kills of this test.
LIMITS = Limits(timeout_s=30.0, max_attempts=1000)
_NEVER = threading.Event()

Labels = dict[Any, tuple[str, bytes]]


def slow_backend(tool: str, args: Any) -> Any:
    """Takes 0 to 4 ms, by the question; one question in seven fails, always the same ones."""
    digest = hashlib.sha256(json.dumps([tool, args], sort_keys=True).encode()).digest()
    _NEVER.wait(digest[0] % 5 / 1000)
    if digest[1] % 7 == 0:
        raise ValueError("this question always fails")
    return samples.backend(tool, args)


def labels(jobs: list[Job], *, workers: int, kill_every: int | None = None, seed: int = 0, engine: str = "") -> Labels:
    """By the job's id: status and label. After each so many outcomes a worker is killed."""
    dice = random.Random(seed)
    made: Labels = {}
    guard = Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY, backend=slow_backend)
    options: dict[str, Any] = {"isolation": "job", "deterministic": True, "log_level": "off"}
    with GuardPool([guard], workers=workers, limits=LIMITS, engine=engine or enginekit.ENGINE_NAME, **options) as pool:
        for number, outcome in enumerate(pool.map(jobs, ordered=False), 1):
            made[outcome.id] = (outcome.status.value, outcome.label_json)
            if kill_every is not None and number % kill_every == 0:
                _kill_one(pool, dice)
    assert len(made) == len(jobs)
    return made


def _kill_one(pool: GuardPool, dice: random.Random) -> None:
    pids = [worker.pid for worker in pool.stats().workers]
    if pids:
        with suppress(ProcessLookupError):  # it was replaced a moment ago
            os.kill(dice.choice(pids), signal.SIGKILL)


def schedules(jobs: list[Job], kill_every: int) -> Iterator[tuple[str, Labels]]:
    """The same jobs, each time by other workers, in another order, by another engine, or with kills."""
    shuffled = jobs[:]
    random.Random(1).shuffle(shuffled)
    yield "four workers, shuffled", labels(shuffled, workers=4)
    yield "three workers, backwards, killed", labels(jobs[::-1], workers=3, kill_every=kill_every, seed=2)
    sessions = [Job(**{**_members(job), "session": f"s{at % 7}"}) for at, job in enumerate(shuffled)]
    yield "two workers, in sessions, killed", labels(sessions, workers=2, kill_every=kill_every, seed=3)
    for name in ENGINES:
        if name != enginekit.ENGINE_NAME:
            yield name, labels(jobs, workers=2, engine=name)


def _members(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__struct_fields__}


def check(count: int, kill_every: int) -> None:
    jobs = list(samples.jobs(count))
    first = labels(jobs, workers=1)
    assert {status for status, _ in first.values()} >= {"ok"}
    for schedule, made in schedules(jobs, kill_every):
        changed = [job_id for job_id in first if made[job_id] != first[job_id]]
        assert not changed, f"{schedule}: {len(changed)} labels differ, of job {changed[0]} first"


def test_some_sample_jobs_get_the_same_labels_on_every_schedule() -> None:
    check(FEW, kill_every=15)


@pytest.mark.slow
def test_20000_sample_jobs_get_the_same_labels_on_every_schedule() -> None:
    check(MANY, kill_every=500)
