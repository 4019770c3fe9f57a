"""Whatever guards and operators do: every job gets one outcome, the right one, and the pool goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from guardpool import (
    GuardInitError,
    GuardPool,
    Job,
    JobTimedOut,
    Limits,
    LimitsError,
    Outcome,
    PoolBroken,
    PoolClosed,
    launch,
)
from guardpool.respawn import MAX_BARREN_DEATHS
from poolkit import (
    WAIT_S,
    assert_right,
    forkserver_pid,
    guard,
    job,
    jobs,
    pool,
    statuses,
    wait_until,
)

MIB = 1024 * 1024
# A guard's memory of 56 MiB, in a worker that may have 60: filling it passes the cap.
SMALL = Limits(timeout_s=WAIT_S, max_rss_bytes=60 * MIB, memory_pages=900)


def ask(pool: GuardPool, letter: str, number: int = 0) -> Outcome:
    return pool.submit(job(number, letter)).result(WAIT_S)


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


def test_a_spinning_guard_is_killed_at_its_deadline_and_only_its_job_is_charged() -> None:
    with pool(limits=Limits(timeout_s=0.5)) as p:
        began = time.monotonic()
        outcomes = list(p.map(jobs(400, {150: "s"})))
        took_s = time.monotonic() - began
        assert_right(outcomes, {150: "timeout"}, 400)
        assert [outcome.id for outcome in outcomes] == list(range(400))
        assert all(outcome.attempts <= 1 for outcome in outcomes)
        assert 0.5 <= took_s < WAIT_S
        assert p.stats().respawns == {"timeout": 1}
        with pytest.raises(JobTimedOut):
            outcomes[150].raise_for_status()


def test_a_worker_over_the_memory_cap_is_killed_and_its_job_says_so() -> None:
    with pool(limits=SMALL) as p:
        outcomes = list(p.map(jobs(60, {20: "m"})))
        assert_right(outcomes, {20: "memory"}, 60)
        assert str(SMALL.max_rss_bytes) in outcomes[20].error.message  # type: ignore[union-attr]
        # Twice where a job before it had just ended: it might have been that one's memory.
        assert p.stats().respawns["memory"] >= outcomes[20].attempts
        assert outcomes[20].attempts <= 2


def test_a_huge_answer_and_a_flood_of_log_lines_are_no_faults() -> None:
    with pool(limits=Limits(timeout_s=WAIT_S, keep_logs=True), log_level="error") as p:
        huge, flood = ask(p, "h"), ask(p, "f")
        assert (huge.status, len(huge.label.description)) == ("ok", 8 * MIB)  # type: ignore[union-attr]
        assert flood.status == "ok"
        assert "more lines dropped" in flood.logs[-1].text
        assert sum(len(line.text) for line in flood.logs) <= 65 * 1024


def test_a_job_that_kills_its_worker_every_time_is_crashed_after_exactly_max_attempts() -> None:
    # A worker under which SIGKILL comes from outside looks the same to the supervisor as one that a guard broke.
    with pool(workers=1, limits=Limits(timeout_s=WAIT_S, max_attempts=3)) as p:
        future = p.submit(job(0, "s"))
        killed: set[int] = set()
        while not future.done():
            busy = [w.pid for w in p.stats().workers if w.pid not in killed and psutil.pid_exists(w.pid)]
            for pid in busy:
                if _is_spinning(pid):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            os.sched_yield()
        outcome = future.result(WAIT_S)
        assert (outcome.status, outcome.attempts) == ("crashed", 3)
        assert outcome.error is not None
        assert outcome.error.signal == "SIGKILL"
        assert len(killed) == 3
        assert ask(p, "k", 1).status == "ok"


def _is_spinning(pid: int) -> bool:
    """It runs guest code for good: 50 ms of processor time in user mode since it was forked."""
    try:
        return psutil.Process(pid).cpu_times().user > 0.05
    except psutil.Error:
        return False


def test_jobs_of_a_killed_worker_go_elsewhere_uncharged() -> None:
    with pool() as p:
        outcomes: list[Outcome] = []
        for outcome in p.map((job(n, "w") for n in range(600)), ordered=False):
            outcomes.append(outcome)
            if len(outcomes) in (50, 200):
                os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        assert_right(outcomes, {}, 600)
        # The one that ran may have been begun twice; the others of its frames were not begun at all.
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


def test_killing_the_forkserver_is_survived() -> None:
    with pool() as p:
        outcomes: list[Outcome] = []
        for outcome in p.map((job(n, "w") for n in range(600)), ordered=False):
            outcomes.append(outcome)
            if len(outcomes) == 50:
                os.kill(forkserver_pid(p), signal.SIGKILL)
        assert_right(outcomes, {}, 600)
        assert p.stats().forkserver_restarts == 1


def test_idle_workers_may_be_killed_all_day() -> None:
    with pool(workers=1) as p:
        for round_ in range(MAX_BARREN_DEATHS + 3):
            pid = wait_until(lambda: [w.pid for w in p.stats().workers], "a worker")[0]
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: [w.pid for w in p.stats().workers if w.pid != pid], "its successor")  # type: ignore[misc]
            assert round_ < 3 or p.stats().respawns["crash"] >= round_
        assert ask(p, "k", 1).status == "ok"


def test_every_single_job_traps_and_nothing_breaks() -> None:
    with pool() as p:
        outcomes = list(p.map(job(n, "t") for n in range(40)))
        assert statuses(outcomes) == {"trap": 40}
        assert wait_until(lambda: p.stats().respawns == {"trap": 40}, "the last death")


# --- replacement


def test_workers_are_recycled_after_their_jobs_and_nothing_is_lost() -> None:
    with pool(limits=Limits(timeout_s=WAIT_S, max_jobs_per_worker=20)) as p:
        outcomes = list(p.map(job(n, "w") for n in range(500)))
        assert_right(outcomes, {}, 500)
        respawns = p.stats().respawns
        assert set(respawns) == {"recycle"}
        assert respawns["recycle"] >= 3


def test_a_recycled_workers_successor_is_ready_before_it_goes() -> None:
    with pool(workers=1, limits=Limits(timeout_s=WAIT_S, max_jobs_per_worker=20)) as p:
        fewest = 1
        for _ in p.map(job(n, "w") for n in range(300)):
            fewest = min(fewest, len(p.stats().workers))
        assert p.stats().respawns["recycle"] >= 1
        assert fewest == 1


def test_past_three_quarters_of_the_memory_cap_a_worker_is_replaced_between_frames() -> None:
    # Filling 40 MiB and staying there is no fault by itself, but the worker is over 3/4 of its 64 MiB.
    limits = Limits(timeout_s=WAIT_S, max_rss_bytes=64 * MIB, memory_pages=640)
    with pool(guard("memory_bomb"), workers=1, limits=limits) as p:
        for _ in range(200):
            assert p.label_resource("any").status == "ok"
            if p.stats().respawns.get("recycle"):
                break
            time.sleep(0)
        assert wait_until(lambda: p.stats().respawns.get("recycle"), "a replacement")
        assert "memory" not in p.stats().respawns


# --- limits that cannot work are refused


def test_a_memory_cap_below_what_a_fresh_worker_has_is_refused_with_the_figure() -> None:
    with pytest.raises(LimitsError, match=r"max_rss_bytes is 16777216, but a worker has \d+ bytes resident"):
        pool(limits=Limits(max_rss_bytes=16 * MIB, memory_pages=16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": "5"}, "timeout_s"),
        ({"memory_pages": 0}, "memory_pages"),
        ({"memory_pages": 1.5}, "memory_pages"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_jobs_per_worker": 0}, "max_jobs_per_worker"),
        ({"max_rss_bytes": 64 * MIB, "memory_pages": 2048}, "memory_pages .* is more than max_rss_bytes"),
        ({"max_data_bytes": 100 * MIB}, "max_data_bytes .* is below max_rss_bytes"),
    ],
)
def test_limits_that_cannot_work_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(LimitsError, match=message):
        Limits(**options)  # type: ignore[arg-type]


def test_more_workers_than_memory_allows_are_refused() -> None:
    with pytest.raises(LimitsError, match=r"100000 workers .* this machine has"):
        pool(workers=100_000)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_a_number_of_workers_that_is_none_is_refused(workers: object) -> None:
    with pytest.raises(ValueError, match="workers must be a whole number"):
        pool(workers=workers)  # type: ignore[arg-type]


# --- starting


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("agent_traps", "guard 'agent_traps': label_agent"),
        ("refuse_agent", "guard 'refuse_agent': label_agent"),
        ("agent_bad_answer", "guard 'agent_bad_answer': label_agent"),
        ("initialize_traps", "guard 'initialize_traps': _initialize"),
    ],
)
def test_a_guard_that_cannot_be_initialised_stops_the_pool_with_its_reason(name: str, message: str) -> None:
    with pytest.raises(GuardInitError, match=message) as caught:
        pool(guard(name))
    assert caught.value.guard == name


def test_a_label_agent_that_never_returns_is_an_error_not_a_hang() -> None:
    with pytest.raises(GuardInitError, match=r"guard 'spin_agent': label_agent did not return within 0\.5 s"):
        pool(guard("spin_agent"), limits=Limits(timeout_s=0.5))


def test_a_label_agent_that_answers_differently_in_a_new_worker_breaks_the_pool_and_names_both() -> None:
    with pytest.raises(GuardInitError, match=r"answered differently in a new worker: first .*, now "):
        pool(guard("agent_random"), workers=2)


def test_a_pool_that_cannot_start_workers_any_more_is_broken_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(workers=1) as p:
        # As if the installation had been removed under us: from now on every forkserver fails at once.
        gone = [sys.executable, "-c", "import sys; sys.exit('no such installation')"]
        monkeypatch.setattr(launch, "command", lambda *_: gone)
        stuck = [p.submit(job(n, "s")) for n in range(3)]
        os.kill(forkserver_pid(p), signal.SIGKILL)
        outcomes = [future.result(WAIT_S) for future in stuck]
        assert [outcome.status.value for outcome in outcomes] == ["cancelled"] * 3
        assert "no such installation" in outcomes[0].error.message  # type: ignore[union-attr]
        with pytest.raises(PoolBroken, match=f"{MAX_BARREN_DEATHS} workers in a row died") as caught:
            p.submit(job(9))
        assert (caught.value.exit_status, caught.value.stderr) == (1, "no such installation")


def test_a_stream_of_a_broken_pool_raises_after_its_last_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(workers=1) as p:
        gone = [sys.executable, "-c", "import sys; sys.exit('no such installation')"]
        monkeypatch.setattr(launch, "command", lambda *_: gone)
        seen: list[Outcome] = []
        with pytest.raises(PoolBroken):
            for outcome in p.map(job(n, "w") for n in range(3000)):
                seen.append(outcome)
                if len(seen) == 5:
                    os.kill(forkserver_pid(p), signal.SIGKILL)
        assert [outcome.id for outcome in seen] == list(range(3000))
        assert set(statuses(seen)) == {"ok", "cancelled"}


# --- the end


def test_close_drains_and_later_jobs_are_refused() -> None:
    p = pool()
    futures = [p.submit(job(n, "w")) for n in range(50)]
    assert p.close() is True
    assert [future.result(0).status.value for future in futures] == ["ok"] * 50
    with pytest.raises(PoolClosed):
        p.submit(job(51))
    assert p.close() is True


def test_close_with_a_time_limit_cancels_what_is_left() -> None:
    p = pool(workers=1)
    futures = [p.submit(job(0, "s")), p.submit(job(1))]
    assert p.close(timeout_s=0.3) is False
    assert [future.result(WAIT_S).status.value for future in futures] == ["cancelled", "cancelled"]


def test_kill_does_not_drain() -> None:
    p = pool(workers=1)
    future = p.submit(job(0, "s"))
    p.kill()
    assert future.result(WAIT_S).status == "cancelled"


def test_leaving_the_block_by_an_exception_kills() -> None:
    with pytest.raises(KeyError), pool(workers=1) as p:
        future = p.submit(job(0, "s"))
        raise KeyError("out")
    assert future.result(WAIT_S).status == "cancelled"


def test_a_pool_that_is_dropped_leaves_no_process_behind() -> None:
    p = pool(workers=1)
    pids = [p.stats().workers[0].pid, forkserver_pid(p)]
    del p
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "their end")


_SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
from poolkit import pool, job, forkserver_pid
p = pool()
p.label_resource("k1")
{more}
print(*[w.pid for w in p.stats().workers], forkserver_pid(p), flush=True)
{end}
"""


def _run(end: str, more: str = "") -> tuple[list[int], subprocess.Popen[str]]:
    code = _SCRIPT.format(tests=os.path.dirname(__file__), end=end, more=more)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as out:
        pids = [int(word) for word in out.readline().split()]
    assert len(pids) == 3
    return pids, process


def test_an_interpreter_that_exits_without_close_leaves_nothing_behind() -> None:
    pids, process = _run("", more="f = p.submit(job(2, 's'))")
    assert process.wait(WAIT_S) == 0
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "their end")


def test_a_caller_that_is_killed_leaves_no_process_behind() -> None:
    pids, process = _run("import threading; threading.Event().wait()", more="f = p.submit(job(2, 's'))")
    process.kill()
    process.wait(WAIT_S)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "their end")


def test_a_pool_made_on_a_thread_outlives_that_thread() -> None:
    # The kernel takes the end of the thread that forked for the parent's death.
    made: list[GuardPool] = []
    thread = threading.Thread(target=lambda: made.append(pool(workers=1)))
    thread.start()
    thread.join(WAIT_S)
    with made[0] as p:
        before = [w.pid for w in p.stats().workers]
        assert ask(p, "k", 1).status == "ok"
        assert [w.pid for w in p.stats().workers] == before


def test_a_fork_of_the_caller_cannot_use_the_pool_and_does_not_harm_it() -> None:
    with pool(workers=1) as p:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                p.submit(job(1))
            except PoolClosed:
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert ask(p, "k", 1).status == "ok"


# --- map and its caller


def test_a_map_that_is_left_early_drops_what_nobody_began_and_the_pool_goes_on() -> None:
    with pool() as p:
        outcomes = p.map(job(n, "w") for n in range(1_000_000))
        assert next(iter(outcomes)).id == 0
        outcomes.close()  # type: ignore[attr-defined]
        assert ask(p, "k", 1).status == "ok"
        wait_until(lambda: p.stats().queued == 0 and p.stats().in_flight == 0, "the rest to be dropped")


def test_map_reads_its_input_as_fast_as_outcomes_are_taken_and_no_faster() -> None:
    read = 0

    def endless() -> Iterator[Job]:
        nonlocal read
        while True:
            read += 1
            yield job(read)

    with pool() as p:
        outcomes = p.map(endless())
        for _ in range(10):
            next(iter(outcomes))
        assert read <= 20_000
        outcomes.close()  # type: ignore[attr-defined]


def test_an_exception_of_the_input_comes_after_the_outcomes_before_it() -> None:
    def broken() -> Iterator[Job]:
        yield from jobs(300)
        raise RuntimeError("the input broke")

    seen: list[Outcome] = []
    with pool() as p:
        with pytest.raises(RuntimeError, match="the input broke"):
            seen.extend(p.map(broken()))
        assert ask(p, "k", 1).status == "ok"
    assert len(seen) in (0, 300)


def test_ctrl_c_in_a_map_stops_it_cleanly() -> None:
    with pool() as p:
        with pytest.raises(KeyboardInterrupt):
            for outcome in p.map(job(n, "w") for n in range(1_000_000)):
                if outcome.id == 10:
                    signal.raise_signal(signal.SIGINT)
        assert ask(p, "k", 1).status == "ok"


def test_a_callback_that_blocks_stalls_nobody() -> None:
    release = threading.Event()
    with pool() as p:
        p.submit(job(0)).add_done_callback(lambda _future: release.wait(WAIT_S))
        try:
            assert p.label_resource("k1").status == "ok"
            assert len(list(p.map(jobs(100)))) == 100
        finally:
            release.set()
