"""Pools for tests: small, quick to kill, and jobs whose label tells whose it is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import guardkit
from guardpool import Guard, GuardPool, Job, Limits, Outcome

POLICY = {"allow-only": {"repos": "all", "min-integrity": "none"}}
WAIT_S = 30.0


def guard(name: str = "vicious", **options: Any) -> Guard:
    """`tests/guards/NAME.wat` as a guard of that name."""
    return Guard(name, guardkit.wat(name), POLICY, **options)


def pool(*guards: Guard, workers: int = 2, limits: Limits | None = None, **options: Any) -> GuardPool:
    """A pool of the vicious guard, unless others are given."""
    return GuardPool(list(guards) or [guard()], workers=workers, limits=limits or Limits(timeout_s=WAIT_S), **options)


def job(number: int, letter: str = "k", **options: Any) -> Job:
    """A job for the vicious guard; its label's description is `LETTERNUMBER`."""
    return Job(number, "label_resource", f"{letter}{number}", {"n": number}, **options)


def jobs(count: int, special: dict[int, str] | None = None) -> Iterator[Job]:
    """Jobs 0..count-1, all harmless but the special ones."""
    special = special or {}
    return (job(number, special.get(number, "k")) for number in range(count))


def statuses(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many outcomes of each status."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.status.value] = counts.get(outcome.status.value, 0) + 1
    return counts


def assert_right(outcomes: list[Outcome], expected: dict[int, str], count: int) -> None:
    """Each job has exactly one outcome, of the status expected (`ok` where none is given), and its own label."""
    assert sorted(outcome.id for outcome in outcomes) == list(range(count))
    for outcome in outcomes:
        assert outcome.status.value == expected.get(outcome.id, "ok"), outcome
        if outcome.status.value == "ok":
            assert outcome.label is not None
            assert outcome.label.description[1:] == str(outcome.id)  # type: ignore[union-attr]
            assert outcome.error is None
        else:
            assert outcome.label is None
            assert outcome.error is not None


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = WAIT_S) -> Any:
    """Wait for something that no event tells of, e.g. a counter in `stats()`; fails after the time limit."""
    end = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        os.sched_yield()
    return value


def forkserver_pid(pool: GuardPool) -> int:
    """The pid of the pool's forkserver: the parent of its workers."""
    import psutil

    return int(psutil.Process(pool.stats().workers[0].pid).ppid())
