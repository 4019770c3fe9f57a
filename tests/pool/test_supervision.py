"""Whatever guards and operators do: every job gets one outcome, the right one, and the pool goes on."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pytest

from guardpool import Job, JobTimedOut, Limits, Outcome
from guardpool.jobs import Prepared
from guardpool.submit.payload import encode_job
from guardpool.supervise import births
from guardpool.supervise.respawn import MAX_BARREN_DEATHS
from guardpool.supervise.scheduler import MAX_ORPHANINGS
from guardpool.supervise.watchdog import Watchdog
from guardpool.supervise.worker_handle import State
from poolkit import (
    MIB,
    WAIT_S,
    Gate,
    ask,
    assert_right,
    forkserver_pid,
    guard,
    job,
    jobs,
    only_worker,
    pool,
    ready_workers,
    run_in_forkservers,
    statuses,
    wait_until,
)

# A guard's memory of 56 MiB, in a worker that may have 60: filling it passes the cap.
SMALL = Limits(timeout_s=WAIT_S, max_rss_bytes=60 * MIB, memory_pages=900)


# --- one fault, one outcome, and the next job is labelled


@pytest.mark.parametrize(
    ("letter", "status", "cause"),
    [
        ("t", "trap", "trap"),
        ("o", "trap", "trap"),
        ("x", "trap", "trap"),
        ("n", "refused", None),
        ("i", "invalid", None),
    ],
)
def test_a_fault_of_the_guest_is_its_jobs_outcome(letter: str, status: str, cause: str | None) -> None:
    with pool(workers=1) as p:
        assert ask(p, letter).status == status
        assert ask(p, "k", 1).status == "ok"
        # Counted at the worker's death, which may come after the next outcome.
        expected = {cause: 1} if cause else {}
        assert wait_until(lambda: p.stats().respawns == expected, "the respawn to be counted")


def test_a_trap_tells_its_kind_and_an_exit_its_code() -> None:
    with pool(workers=1) as p:
        overflow, exit_ = ask(p, "o").error, ask(p, "x").error
        assert overflow is not None
        assert overflow.trap == "stack_overflow"
        assert len(overflow.message) <= 1000
        assert exit_ is not None
        assert (exit_.trap, exit_.exit_code) == ("exit", 3)


def test_a_spinning_guard_is_killed_and_only_its_job_is_charged() -> None:
    with pool(limits=Limits(timeout_s=0.5)) as p:
        began = time.monotonic()
        outcomes = list(p.map(jobs(400, {150: "s"})))
        took_s = time.monotonic() - began
        assert_right(outcomes, {150: "timeout"}, 400)
        assert [outcome.id for outcome in outcomes] == list(range(400))
        assert all(outcome.attempts <= 1 for outcome in outcomes)
        assert took_s >= 0.5
        assert p.stats().respawns == {"timeout": 1}
        with pytest.raises(JobTimedOut):
            outcomes[150].raise_for_status()


def test_a_worker_over_the_memory_cap_is_killed_and_its_job_says_so() -> None:
    with pool(limits=SMALL) as p:
        outcomes = list(p.map(jobs(60, {20: "m"})))
        assert_right(outcomes, {20: "memory"}, 60)
        assert str(SMALL.max_rss_bytes) in outcomes[20].error.message  # type: ignore[union-attr]
        # It is tried twice if a job before it had just ended: the memory might have been that one's.
        assert p.stats().respawns["memory"] >= outcomes[20].attempts
        assert outcomes[20].attempts <= 2


def test_a_job_is_not_to_blame_for_the_memory_of_the_one_before_it() -> None:
    # The first job fills 56 MiB and answers, usually before the supervisor looks; the next ones are seen in the worker it left.
    limits = Limits(timeout_s=WAIT_S, max_rss_bytes=60 * MIB, memory_pages=900)
    guards = (guard("memory_bomb"), guard("agent_asks", backend=lambda *_: True))
    with pool(*guards, workers=1, limits=limits) as p:
        bomb = Job("bomb", "label_resource", "k", {}, guard="memory_bomb")
        work = [Job(n, "label_resource", "work", {}, guard="agent_asks") for n in range(3)]
        outcomes = {outcome.id: outcome.status.value for outcome in p.map([bomb, *work])}
        assert outcomes.pop("bomb") in ("ok", "memory")
        assert outcomes == dict.fromkeys(range(3), "ok")


def test_a_huge_answer_and_a_flood_of_log_lines_are_allowed() -> None:
    with pool(limits=Limits(timeout_s=WAIT_S, keep_logs=True), log_level="error") as p:
        huge, flood = ask(p, "h"), ask(p, "f")
        assert (huge.status, len(huge.label.description)) == ("ok", 8 * MIB)  # type: ignore[union-attr]
        assert flood.status == "ok"
        assert "more lines dropped" in flood.logs[-1].text
        assert sum(len(line.text) for line in flood.logs) <= 65 * 1024


def test_a_dying_workers_standard_error_is_in_its_jobs_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_in_forkservers(
        monkeypatch,
        """
from guardpool_worker.instance import GuardInstance
call = GuardInstance.label
def call_or_fail(self, op, payload, time_us):
    if b'"k13"' in payload:
        raise LookupError("a worker's last words")
    return call(self, op, payload, time_us)
GuardInstance.label = call_or_fail
""",
    )
    with pool() as p:
        outcomes = list(p.map(jobs(100)))
        assert_right(outcomes, {13: "crashed"}, 100)
        assert outcomes[13].attempts == p.limits.max_attempts
        message = outcomes[13].error.message  # type: ignore[union-attr]
        assert "exited with status 70; its standard error ends:" in message
        assert message.endswith("LookupError: a worker's last words")


def test_jobs_of_a_killed_worker_go_elsewhere_uncharged() -> None:
    with pool() as p:
        outcomes: list[Outcome] = []
        killed: list[int] = []
        for outcome in p.map((job(n, "w") for n in range(600)), ordered=False):
            outcomes.append(outcome)
            if len(outcomes) in (50, 200):  # the first may not have been missed yet when the second comes
                killed += [worker.pid for worker in p.stats().workers if worker.pid not in killed][:1]
                os.kill(killed[-1], signal.SIGKILL)
        assert_right(outcomes, {}, 600)
        # Only the job that ran may have been begun twice; the others of its frames were not begun.
        assert sum(outcome.attempts > 1 for outcome in outcomes) <= 2
        assert wait_until(lambda: p.stats().respawns.get("crash") == 2, "two respawns")


def test_a_stopped_worker_hits_the_deadline_like_any_other() -> None:
    with pool(limits=Limits(timeout_s=0.5)) as p:
        outcomes: list[Outcome] = []
        for outcome in p.map((job(n, "w") for n in range(500)), ordered=False):
            outcomes.append(outcome)
            if len(outcomes) == 20:
                os.kill(p.stats().workers[0].pid, signal.SIGSTOP)
        assert sorted(outcome.id for outcome in outcomes) == list(range(500))
        assert statuses(outcomes).get("timeout", 0) <= 1
        assert set(statuses(outcomes)) <= {"ok", "timeout"}
        assert p.stats().respawns == {"timeout": 1}


def test_a_stream_of_large_jobs_runs_ahead_no_more_than_workers_need() -> None:
    with pool(workers=1, limits=Limits(timeout_s=WAIT_S)) as p:
        pid, payload = only_worker(p), encode_job(job(0, capabilities="x" * MIB))
        stream = p.stream()
        os.kill(pid, signal.SIGSTOP)
        try:
            count = 0
            while stream.room and count < 100:
                stream.put([Prepared(count, None, "label_resource", "t", payload)])
                count += 1
        finally:
            os.kill(pid, signal.SIGCONT)
        stream.finish()
        assert count == 6  # of 64 that the window would hold
        assert [outcome.id for part in iter(stream.take, []) for outcome in part] == list(range(count))


def test_killing_the_forkserver_is_survived() -> None:
    with pool() as p:
        outcomes: list[Outcome] = []
        for outcome in p.map((job(n, "w") for n in range(600)), ordered=False):
            outcomes.append(outcome)
            if len(outcomes) == 50:
                os.kill(forkserver_pid(p), signal.SIGKILL)
        assert_right(outcomes, {}, 600)
        assert p.stats().forkserver_restarts == 1


def test_a_dead_workers_job_goes_on_although_the_forkserver_is_stopped() -> None:
    # The exit status never comes, so the death is judged by the clock, when nothing else happens in the pool.
    calls = iter((False, True))
    entered, gate = threading.Event(), threading.Event()

    def first_waits(_tool: str, _args: object) -> bool:
        if not next(calls):
            entered.set()
            gate.wait(WAIT_S)
        return True

    with pool(guard(backend=first_waits), workers=2, limits=Limits(timeout_s=60.0, backend_timeout_s=60.0)) as p:
        server = forkserver_pid(p)
        future = p.submit(job(0, "b"))
        assert entered.wait(WAIT_S)
        ask(p, "k")  # by the other worker
        (pid,) = (worker.pid for worker in p.stats().workers if not worker.jobs)
        os.kill(server, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            assert future.result(WAIT_S).status == "ok"
        finally:
            os.kill(server, signal.SIGCONT)
            gate.set()


def test_idle_workers_may_be_killed_all_day() -> None:
    with pool(workers=1) as p:
        for round_ in range(MAX_BARREN_DEATHS + 3):
            (pid,) = ready_workers(p)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: ready_workers(p) not in ([], [pid]), "its successor")  # type: ignore[misc]
            # Counted when the exit status is here, which the successor does not wait for.
            wait_until(lambda n=round_: p.stats().respawns == {"crash": n + 1}, "the death to be counted")  # type: ignore[misc]
        assert ask(p, "k", 1).status == "ok"


def test_a_pool_survives_a_trap_of_every_single_job() -> None:
    with pool() as p:
        outcomes = list(p.map(job(n, "t") for n in range(40)))
        assert statuses(outcomes) == {"trap": 40}
        assert wait_until(lambda: p.stats().respawns == {"trap": 40}, "the last death")


# --- replacement


@pytest.mark.parametrize(("letter", "limits"), [("s", Limits(timeout_s=0.5)), ("m", SMALL)], ids=["timeout", "memory"])
def test_after_a_kill_the_successor_is_asked_for_at_once(
    letter: str, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not when the death is noticed: the kernel frees the memory first, which takes milliseconds.
    waits: list[float] = []
    look = Watchdog.look

    def watched(watchdog: Watchdog, now: float) -> float:
        states = [worker.state for worker in watchdog._state.workers.values()]
        again = look(watchdog, now)
        if [worker.state for worker in watchdog._state.workers.values()].count(State.DYING) > states.count(State.DYING):
            waits.append(again - now)
        return again

    monkeypatch.setattr(Watchdog, "look", watched)
    with pool(limits=limits) as p:
        assert ask(p, letter).status != "ok"
    assert waits
    assert set(waits) == {0.0}


def test_a_worker_past_three_quarters_of_the_memory_cap_is_replaced() -> None:
    # A guard may fill 36 MiB and stay there, but then its worker is over 3/4 of its 54 MiB. This is seen even if no other job
    # follows.
    limits = Limits(timeout_s=WAIT_S, max_rss_bytes=54 * MIB, memory_pages=576)
    with pool(guard("memory_bomb"), workers=1, limits=limits) as p:
        assert p.label_resource("any").status == "ok"
        assert wait_until(lambda: p.stats().respawns.get("recycle"), "a replacement")
        assert "memory" not in p.stats().respawns


# --- forkservers that die or stop


def test_a_job_under_which_one_forkserver_after_the_other_dies_gets_its_outcome() -> None:
    # No worker is to blame when its forkserver dies, and no job. But a job that is there each time is not tried for ever.
    gate = Gate()
    with pool(guard(backend=gate), workers=1) as p:
        future = p.submit(job(0, "b"))
        for _ in range(MAX_ORPHANINGS):
            assert gate.entered.acquire(timeout=WAIT_S)
            os.kill(forkserver_pid(p), signal.SIGKILL)
        outcome = future.result(WAIT_S)
        gate.open.set()
        assert (outcome.status, outcome.attempts) == ("crashed", MAX_ORPHANINGS)
        assert f"the forkserver died {MAX_ORPHANINGS} times" in outcome.error.message  # type: ignore[union-attr]
        assert_right(list(p.map(jobs(50))), {}, 50)


def test_a_stopped_forkserver_is_replaced_soon_after_its_workers_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(workers=2) as p:
        # It was ready before. If it were given the time of one that starts, the jobs would wait for longer than this test does.
        monkeypatch.setattr(births, "FORKSERVER_START_S", 10 * WAIT_S)
        server = forkserver_pid(p)
        os.kill(server, signal.SIGSTOP)
        futures = [p.submit(each) for each in jobs(40, {0: "t", 1: "t"})]
        assert_right([future.result(WAIT_S) for future in futures], {0: "trap", 1: "trap"}, 40)
        assert not psutil.pid_exists(server)
