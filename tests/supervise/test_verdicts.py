"""Which job or worker is overdue, which job a death is charged to, and what its outcome says."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

import pytest

from guardpool.limits import Limits
from guardpool.outcomes import OutcomeError, Status
from guardpool.supervise.scheduler import Task, Verdict
from guardpool.supervise.verdicts import (
    STALL_GRACE_S,
    Death,
    Ending,
    Overdue,
    check_running,
    describe,
    outcome_of_verdict,
    verdict_on_death,
)

ERROR = OutcomeError("trap", "unreachable", trap="unreachable")


def task(deaths: int = 0, seq: int = 1) -> Task:
    return Task(seq, 0, "label_resource", b"{}", 0, None, 0, "id", "t", deaths)


# --- time


def check(now: float, **options: Any) -> tuple[float, Overdue | None]:
    given = {"started_at": 10.0, "seen_at": 10.001, "active_at": 10.0, "backend_wait_s": 0.0, **options}
    return check_running(now, 2.0, **given)


def test_a_job_is_overdue_at_its_deadline_and_not_before() -> None:
    assert check(11.0) == (12.0, None)
    assert check(12.0)[1] is Overdue.JOB


def test_the_deadline_is_the_jobs_own_whatever_came_before_it() -> None:
    assert check(13.0, started_at=12.5, seen_at=12.5, active_at=12.4) == (14.5, None)


def test_time_in_the_backend_does_not_count() -> None:
    assert check(14.0, backend_wait_s=3.0, active_at=13.0)[1] is None
    assert check(15.0, backend_wait_s=3.0, active_at=13.0)[1] is Overdue.JOB


def test_a_start_in_the_future_does_not_move_the_deadline() -> None:
    assert check(12.0, started_at=1e9) == (12.001, None)
    assert check(12.001, started_at=1e9)[1] is Overdue.JOB


def test_a_worker_between_jobs_is_given_the_same_time_and_some_grace() -> None:
    assert check(12.0, started_at=None) == (12.0 + STALL_GRACE_S, None)
    assert check(12.0 + STALL_GRACE_S, started_at=None)[1] is Overdue.WORKER


def test_worker_that_shows_new_jobs_but_sends_no_results_is_overdue() -> None:
    assert check(14.9, started_at=14.8, seen_at=14.8, active_at=10.0)[1] is None
    assert check(15.0, started_at=14.8, seen_at=14.8, active_at=10.0)[1] is Overdue.WORKER


# --- deaths


def judge(**options: Any) -> Death:
    given: dict[str, Any] = {
        "running": None,
        "lone": None,
        "load": 0,
        "ending": None,
        "cause": None,
        "ever_ready": True,
        "said_bye": False,
        "orphaned": False,
        "exit_status": -9,
    }
    return verdict_on_death(**{**given, **options})


@pytest.mark.parametrize(
    ("options", "death"),
    [
        # Killed from outside, or by itself: the job that ran is charged, so the death is not barren.
        ({"running": 5, "load": 3}, Death(5, Verdict.CRASH, "crash", False)),
        ({"running": 5, "load": 1, "exit_status": 0}, Death(5, Verdict.CRASH, "crash", False)),
        # It was idle: however many of those are killed, no death is barren.
        ({}, Death(None, Verdict.CRASH, "crash", False)),
        # It held jobs and had begun none of them, or it never became ready: barren.
        ({"load": 3}, Death(None, Verdict.CRASH, "crash", True, suspects=True)),
        ({"ever_ready": False, "exit_status": 1}, Death(None, Verdict.CRASH, None, True)),
        # BYE and status 0: it left as planned.
        ({"said_bye": True, "exit_status": 0}, Death(None, Verdict.INNOCENT, None, False)),
        ({"said_bye": True, "exit_status": 0, "cause": "recycle"}, Death(None, Verdict.INNOCENT, "recycle", False)),
        ({"said_bye": True, "exit_status": 0, "cause": "trap"}, Death(None, Verdict.INNOCENT, "trap", False)),
        # For an unknown reason, or with its forkserver: no job is charged.
        ({"running": 5, "load": 3, "exit_status": None}, Death(5, Verdict.INNOCENT, "crash", True, suspects=True)),
        ({"running": 5, "load": 3, "orphaned": True}, Death(5, Verdict.INNOCENT, "crash", False)),
        # The supervisor ended it: its reason and its victim count, whatever the page says by now.
        (
            {"running": 6, "load": 3, "ending": Ending.past_deadline(5), "cause": "timeout"},
            Death(5, Verdict.TIMEOUT, "timeout", False),
        ),
        (
            {"running": 6, "load": 3, "ending": Ending(Verdict.MEMORY), "cause": "memory"},
            Death(6, Verdict.MEMORY, "memory", False),
        ),
        (
            {"load": 3, "ending": Ending.stalled(), "cause": "timeout"},
            Death(None, Verdict.INNOCENT, "timeout", True, suspects=True),
        ),
        # It hung up, and the supervisor ended it for that: the exit status decides all the same.
        ({"running": 5, "load": 3, "ending": Ending.hung_up()}, Death(5, Verdict.CRASH, "crash", False)),
        (
            {"running": 5, "load": 3, "ending": Ending.hung_up(), "orphaned": True},
            Death(5, Verdict.INNOCENT, "crash", False),
        ),
        # It died with one job, which was to run alone, and its page names no job: that one hides that it ran.
        ({"lone": 5, "load": 1}, Death(5, Verdict.CRASH, "crash", False)),
        ({"lone": 5, "load": 1, "exit_status": None}, Death(5, Verdict.CRASH, "crash", False)),
        (
            {"lone": 5, "load": 1, "ending": Ending.stalled(), "cause": "timeout"},
            Death(5, Verdict.CRASH, "timeout", False),
        ),
        # The same worker, but it said BYE, or its forkserver died: no job is charged.
        ({"lone": 5, "load": 1, "orphaned": True}, Death(None, Verdict.INNOCENT, "crash", False)),
        ({"lone": 5, "load": 1, "said_bye": True, "exit_status": 0}, Death(None, Verdict.INNOCENT, None, False)),
        ({"running": 6, "load": 1, "ending": Ending.broke_protocol("junk")}, Death(6, Verdict.CRASH, "crash", False)),
    ],
)
def test_a_death_is_charged_to_the_job_that_is_to_blame(options: dict[str, Any], death: Death) -> None:
    assert judge(**options) == death


# --- outcomes


@dataclass
class Worker:
    """As much of a worker as an outcome needs."""

    rss_bytes: int = 300 << 20
    fault: str | None = None
    exit_status: int | None = -signal.SIGSEGV
    stderr_tail: str = ""


def test_the_outcome_of_a_kill_names_the_limit() -> None:
    limits = Limits(timeout_s=1.5)
    outcome = outcome_of_verdict(task(1), Verdict.TIMEOUT, "g", Worker(), limits)
    assert (outcome.status, outcome.attempts, outcome.duration_us) == (Status.TIMEOUT, 1, 1_500_000)
    assert outcome.error is not None
    assert "1.5 s" in outcome.error.message
    outcome = outcome_of_verdict(task(1), Verdict.MEMORY, "g", Worker(), limits)
    assert outcome.status is Status.MEMORY
    assert outcome.error is not None
    assert str(300 << 20) in outcome.error.message
    assert str(limits.max_rss_bytes) in outcome.error.message


def test_the_outcome_of_a_crash_tells_how_often_how_and_the_last_words() -> None:
    worker = Worker(stderr_tail="Segmentation\x1b[31m fault")
    outcome = outcome_of_verdict(task(2), Verdict.CRASH, "g", worker, Limits())
    assert (outcome.status, outcome.attempts) == (Status.CRASHED, 2)
    assert outcome.error is not None
    assert outcome.error.signal == "SIGSEGV"
    assert "2 times" in outcome.error.message
    assert "SIGSEGV" in outcome.error.message
    assert "Segmentation\\x1b[31m fault" in outcome.error.message
    worker = Worker(fault="no frame: junk", exit_status=-9)
    outcome = outcome_of_verdict(task(1), Verdict.CRASH, "g", worker, Limits())
    assert outcome.error is not None
    assert "no frame: junk" in outcome.error.message


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "unknown exit status"),
        (0, "exited with status 0"),
        (70, "status 70"),
        (-9, "SIGKILL"),
        (-250, "signal 250"),
    ],
)
def test_an_exit_status_in_words(status: int | None, words: str) -> None:
    assert words in describe(status)
