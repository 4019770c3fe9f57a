"""Pools for tests: small, quick to kill, and jobs whose label tells whose it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psutil
import pytest

import guardkit
from guardpool import Guard, GuardPool, Job, Limits, Outcome
from guardpool.machine import launch

POLICY = {"allow-only": {"repos": "all", "min-integrity": "none"}}
WAIT_S = 30.0
MIB = 1024 * 1024
# The pause between two looks at what no event tells of. Without it the supervisor would not get the interpreter's lock.
_LOOK_S = 0.001


class Gate:
    """A backend that tells when a call enters it, and lets calls go when told to."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, _tool: str, _args: object) -> bool:
        self.entered.release()
        return self.open.wait(WAIT_S)


def guard(name: str = "vicious", *, wat: str | None = None, **options: Any) -> Guard:
    """`tests/guards/NAME.wat`, or another one, as a guard of that name."""
    return Guard(name, guardkit.wat(wat or name), POLICY, **options)


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
    """Each job has exactly one outcome, of the status expected (`ok` if not given), and its own label."""
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
    end, nothing = time.monotonic() + limit_s, threading.Event()
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        nothing.wait(_LOOK_S)
    return value


def wait_until_gone(*pids: int) -> None:
    """Wait for the end of processes that are not our children."""
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), f"the end of {pids}")


def only_worker(pool: GuardPool) -> int:
    """The pid of the only worker of a pool."""
    (worker,) = pool.stats().workers
    return worker.pid


def ready_workers(pool: GuardPool) -> list[int]:
    """The pids of the workers that are there now."""
    return [worker.pid for worker in pool.stats().workers]


def ask(pool: GuardPool, letter: str, number: int = 0) -> Outcome:
    """The outcome of one job of the vicious guard."""
    return pool.submit(job(number, letter)).result(WAIT_S)


def run_in_forkservers(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have forkservers that are started from now on run this code first, so that workers can be made to do anything."""
    command = launch.command

    def changed(module: str, *arguments: str) -> list[str]:
        words = command(module, *arguments)
        if module.endswith("forkserver"):
            at = words.index("-c") + 1
            assert "; sys.exit(" in words[at]
            words[at] = words[at].replace("; sys.exit(", f"; exec({code!r}); sys.exit(")
        return words

    monkeypatch.setattr(launch, "command", changed)


# For `run_in_forkservers`: workers say something and die before they are ready.
WORKERS_THAT_FAIL = """
from guardpool_worker import sandbox
def fail(*_):
    raise RuntimeError("no sandbox today")
sandbox.close_sandbox = fail
"""


def forkserver_pid(pool: GuardPool) -> int:
    """The pid of the pool's forkserver: the parent of its workers."""
    return int(psutil.Process(pool.stats().workers[0].pid).ppid())
