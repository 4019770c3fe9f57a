"""The supervisor takes every worker for hostile. Whatever one sends or does, it is ended and its jobs go elsewhere; each job
has one outcome, the right one, and the supervisor goes on in bounded memory."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import psutil
import pytest

import hostile
import hostile_acts  # noqa: F401  # these two know the attacks
import hostile_wild  # noqa: F401
import poolkit
from guardpool import Guard, GuardPool, Limits, Outcome, PoolBroken, SandboxUnavailable
from guardpool.batch import encode_outcome
from guardpool.protocol import progress_page, wire
from guardpool.supervise import watchdog
from guardpool.supervise.respawn import MAX_BARREN_DEATHS
from poolkit import WAIT_S, assert_right, guard, job, jobs, statuses, wait_until

MIB = 1024 * 1024
BIG = "x" * (8 * MIB)
AT_ONCE = 20

OVER_THE_LIMIT = "a frame of [0-9]+ bytes is over the limit"
NO_FRAME = "broke the protocol: not a frame:"
NO_LABEL = "its result for job [0-9]+ holds no label of label_resource: "
NOT_HELD = "a result for job [0-9]+, which it does not hold"
NOT_RUN = "a backend call of guard -?[0-9]+ for job [0-9]+, which it does not run"
BYE = r"BYE with [0-9]+ jobs in its hands"

# What the pool's warning about the worker says.
FAULTS = {
    "header_of_4_gib": OVER_THE_LIMIT,
    "frame_over_the_limit": OVER_THE_LIMIT,
    "text": OVER_THE_LIMIT,
    "bytes_that_are_not_msgpack": NO_FRAME,
    "empty_frame": NO_FRAME,
    "nested_a_million_deep": NO_FRAME,
    "frames_of_the_other_direction": NO_FRAME,
    "a_frame_with_a_field_too_many": NO_FRAME,
    "more_results_than_a_frame_may_hold": NO_FRAME,
    "flood_of_zeros": NO_FRAME,
    "flood_of_empty_strings_in_logs": NO_FRAME,
    "flood_of_strings_in_an_error": NO_FRAME,
    "results_for_jobs_it_never_got": NOT_HELD,
    "results_for_jobs_of_others": NOT_HELD,
    "results_twice": NOT_HELD,
    "one_result_twice_in_a_frame": NOT_HELD,
    "forged_labels_before_one_that_is_not_json": NO_LABEL,
    "forged_labels_before_a_result_that_is_not_due": NOT_HELD,
    "forged_labels_before_one_result_twice": NOT_HELD,
    "results_after_bye": BYE,
    "bye_twice": f"a frame after BYE|{BYE}",
    "bye_with_jobs_in_its_hands_and_exit": BYE,
    "bye_with_jobs_in_its_hands_and_silence": BYE,
    "flood_of_byes": BYE,
    "flood_of_hellos": f"HELLO of protocol {wire.PROTOCOL} from a worker that is ready",
    "empty_results_without_end": "RESULTS without a result",
    "label_that_is_not_json": NO_LABEL,
    "label_that_is_empty": NO_LABEL,
    "label_with_a_forged_outcome_behind_it": NO_LABEL,
    "label_of_another_operation": NO_LABEL,
    "label_that_is_null": NO_LABEL,
    "label_that_is_a_number": NO_LABEL,
    "label_with_an_unknown_operation": NO_LABEL,
    "label_with_another_field": NO_LABEL,
    "label_with_tags_that_are_numbers": NO_LABEL,
    "label_that_is_not_utf8": NO_LABEL,
    "label_with_a_lone_surrogate": NO_LABEL,
    "label_that_is_huge_and_not_json": NO_LABEL,
    "label_of_two_lines": "a label of more than one line",
    "label_with_a_newline_at_its_end": "a label of more than one line",
    "label_and_a_status_that_is_an_error": "is refused, with a label",
    "error_and_a_status_that_is_ok": "is ok, with an error",
    "errors_of_16_mib": "an error that is too long",
    "flood_of_logs": "more than max_log_bytes allows",
    "log_line_of_an_unknown_level": "log lines of an unknown level",
    "status_that_is_unknown": NO_FRAME,
    "status_of_the_supervisor": NO_FRAME,
    "negative_duration": NO_FRAME,
    "duration_that_is_a_float": NO_FRAME,
    "duration_of_two_million_years": NO_FRAME,
    "negative_backend_calls": NO_FRAME,
    "huge_number_of_backend_calls": NO_FRAME,
    "negative_number": NO_FRAME,
    "label_that_is_text": NO_FRAME,
    "logs_that_are_not_a_list": NO_FRAME,
    "flood_of_standard_error": "a flood on its standard error",
    "backend_call_for_a_job_it_does_not_hold": NOT_RUN,
    "backend_call_for_no_job": NOT_RUN,
    "backend_call_of_a_guard_out_of_range": NOT_RUN,
    "backend_call_of_a_negative_guard": NOT_RUN,
    "backend_calls_for_one_job_after_the_other": f"{NOT_RUN}|more than 50 backend calls",
    # The second comes on a busy machine, if the answers arrive between the calls.
    "backend_calls_without_waiting": "a frame while it waits for a backend|more than [0-9]+ backend calls",
    "backend_call_then_a_result_for_the_same_job": "a frame while it waits for a backend",
    "backend_calls_without_end": "more than 50 backend calls for job",
    "backend_calls_whose_answers_nobody_reads": "a backend call before it read the last one's answer|a frame while it waits",
    "backend_call_with_huge_arguments": NO_FRAME,
    "backend_call_of_a_huge_tool": NO_FRAME,
    "exits_with_0": "died: exited with status 0",
    "exits_with_255": "died: exited with status 255",
    "exits_with_minus_1": "died: exited with status 255",
    "dies_of_a_real_time_signal": "died: killed by SIGRTMAX",
    "aborts": "died: killed by SIGABRT",
    "half_a_frame_then_exit": "died: exited with status 0",
    "stays_behind_as_a_child": "died: exited with status 3|a flood on its standard error",
    "closes_its_pipes": "died: killed by SIGKILL",
    "closes_its_pipes_with_jobs_in_hand": "died: killed by SIGKILL",
    "log_tail_full_of_escapes_and_exit": "died: exited with status 3",
    "log_tail_of_another_job_and_exit": "died: exited with status 3",
    "hides_and_exits": "died: exited with status 3",
    "hides_and_exits_with_0": "died: exited with status 0",
    "hides_and_sends_noise": NO_FRAME,
    "hides_and_says_bye": BYE,
}

# Those that are found because they send nothing that counts.
SILENT = (
    "half_a_header_then_silence",
    "half_a_frame_then_silence",
    "half_of_the_largest_frame_then_silence",
    "one_byte_at_a_time",
    "one_byte_at_a_time_with_jobs_in_hand",
    "page_of_a_job_it_does_not_hold",
    "page_of_another_job_all_the_time",
    "page_full_of_noise",
    "page_that_says_done_and_initialising",
    "page_cut_to_nothing",
    "scribbles_over_its_slots",
    "page_grown_and_punched",
    "never_reads_its_pipe",
    "shrinks_its_pipes",
    "plays_with_the_flags_of_its_pipes",
    "fills_its_own_jobs_pipe",
    "reads_its_own_results",
    "stops_itself",
    "hides_and_hangs",
)

# Those that need two jobs at once: why the worker is killed, and the job that ran is charged.
WITH_TWO_JOBS = {
    "backend_call_for_a_job_before_the_last_that_asked": f"{NOT_RUN}; killed",
    "result_of_the_job_that_waits_after_a_recall": "job [0-9]+ was ok while it waits for a backend; killed",
    "trap_of_a_job_before_the_one_that_waits": "job [0-9]+ was trap while it waits for a backend; killed",
    "keeps_its_results_while_it_waits": None,
}

# Those that lie about the start of a job that they hold: that job is charged.
IN_TURN = "page_of_its_jobs_in_turn_without_a_result"
BLAMED = ("page_with_a_start_in_the_future", "page_with_a_start_of_0", "page_that_never_holds_still")

FLOODS = (
    *(name for name in hostile.ATTACKS if "flood" in name or "huge" in name or "16_mib" in name),
    "backend_calls_whose_answers_nobody_reads",
    "half_of_the_largest_frame_then_silence",
    "nested_a_million_deep",
)

# These have their tests in test_full_memory.py.
APART = ("traps_of_full_memories_only",)

LIMITS = Limits(timeout_s=WAIT_S, max_attempts=1000)
QUICK = Limits(timeout_s=1.0, max_attempts=1000, max_rss_bytes=128 * MIB)
# A busy machine may keep an honest job from its core for a second, with more processes on it than it has cores.
PATIENT = Limits(timeout_s=5.0, max_attempts=1000, max_rss_bytes=128 * MIB)


def pool(*guards: Guard, **options: Any) -> GuardPool:
    """A pool of the vicious guard, unless others are given, whose workers are not kept from anything by a sandbox."""
    return poolkit.pool(*guards, sandbox="off", **options)


def asking(gate: threading.Event | None = None) -> Guard:
    """The vicious guard with a backend; calls of `slow` wait until the gate opens."""

    def backend(tool: str, _args: Any) -> Any:
        if tool == "slow" and gate is not None:
            gate.wait(WAIT_S)
        return BIG if tool == "big" else 1

    return guard(backend=backend)


def run(p: GuardPool, enough: Callable[[], object]) -> list[Outcome]:
    """Run jobs until `enough()`, so that attackers hold some all the time. A hang fails the test.

    Each job takes a millisecond, because the outcomes kept here must not grow while memory is watched. Only as many wait as
    keep all workers busy: `map` reads so far ahead that the rest would take longer than the attacks.
    """
    outcomes: list[Outcome] = []
    waiting: set[Future[Outcome]] = set()
    number, end = 0, time.monotonic() + 2 * WAIT_S
    while not enough():
        assert time.monotonic() < end, "the attacks did not end in time"
        while len(waiting) < 5 * AT_ONCE:
            waiting |= {p.submit(job(number + more, "w")) for more in range(AT_ONCE)}
            number += AT_ONCE
        done, waiting = wait(waiting, 2 * WAIT_S, FIRST_COMPLETED)
        outcomes += [future.result() for future in done]
    return outcomes + [future.result(2 * WAIT_S) for future in waiting]


def assert_lines(outcomes: list[Outcome]) -> None:
    """What goes into an outcome file is one line of JSON for each outcome, and every label can be read."""
    for outcome in outcomes:
        line = encode_outcome(outcome)
        assert line.count(b"\n") == 1
        assert b"\r" not in line
        read = json.loads(line)
        assert list(read) == ["id", "guard", "op", "tool_name", "status", "label", "error", "duration_us", "attempts"]
        assert read["id"] == outcome.id
        assert (outcome.label is None) == (outcome.status != "ok")


def assert_warned(caplog: pytest.LogCaptureFixture, attacks: dict[int, str], faults: dict[str, str]) -> None:
    """There is a warning for each attack, and it says why."""
    warnings = warnings_of(caplog)
    wrong = {name: warnings.get(n) for n, name in attacks.items() if not re.search(faults[name], warnings.get(n, ""))}
    assert not wrong


def warnings_of(caplog: pytest.LogCaptureFixture) -> dict[int, str]:
    """The pool's warnings by the worker's number."""
    found: dict[int, str] = {}
    for record in caplog.records:
        match = re.match("worker ([0-9]+) ", record.getMessage())
        if record.name == "guardpool" and match is not None:
            found[int(match.group(1))] = record.getMessage()
    return found


# --- attacks, all of them


def test_every_attack_has_an_expected_end() -> None:
    others = {"ignores_drain", "bye_and_silence", "fills_memory_while_it_is_idle", "wild", IN_TURN, *APART}
    assert {*FAULTS, *SILENT, *BLAMED, *WITH_TWO_JOBS, *others} == set(hostile.ATTACKS)
    assert {*HELLO_FAULTS, "silence_instead_of_hello"} == set(hostile.HELLO_ATTACKS)


def test_worker_that_breaks_the_protocol_is_killed_and_a_warning_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attacks = dict(enumerate(FAULTS, 4))
    hostile.install(monkeypatch, hostile.Plan(attacks=attacks))
    gate = threading.Event()
    with caplog.at_level(logging.WARNING, "guardpool"), pool(asking(gate), workers=3, limits=LIMITS) as p:
        for _ in range(2):  # two honest ones make way
            assert p.submit(job(0, "t")).result(WAIT_S).status == "trap"
        outcomes = run(p, lambda: sum(p.stats().respawns.values()) >= len(attacks) + 2)
        gate.set()
        assert p.stats().respawns == {"trap": 2, "crash": len(attacks)}
    assert_right(outcomes, {}, len(outcomes))
    assert_lines(outcomes)
    assert_warned(caplog, attacks, FAULTS)


def test_worker_that_does_no_work_is_killed_and_no_job_is_charged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hostile.install(monkeypatch, hostile.Plan(attacks=dict(enumerate(SILENT, 1))))
    with pool(asking(), workers=len(SILENT) + 2, limits=QUICK) as p:
        outcomes = run(p, lambda: sum(p.stats().respawns.values()) >= len(SILENT))
        assert p.stats().respawns == {"timeout": len(SILENT)}
    assert_right(outcomes, {}, len(outcomes))
    assert {outcome.attempts for outcome in outcomes} == {1}


@pytest.mark.parametrize("name", WITH_TWO_JOBS)
def test_worker_that_lies_about_which_of_its_jobs_are_done_is_killed(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hostile.install(monkeypatch, hostile.Plan(attacks={1: name}))
    gate, fault = threading.Event(), WITH_TWO_JOBS[name]
    limits = LIMITS if fault else QUICK
    with caplog.at_level(logging.WARNING, "guardpool"), pool(asking(gate), workers=1, limits=limits) as p:
        assert_right(list(p.map(jobs(100))), {}, 100)
        assert p.stats().respawns == {"crash" if fault else "timeout": 1}
        gate.set()
    warned = warnings_of(caplog)
    assert re.search(fault, warned[1]) if fault else not warned


def test_worker_that_lies_about_a_jobs_time_is_charged_that_job(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.install(monkeypatch, hostile.Plan(attacks=dict(enumerate(BLAMED, 2))))
    with pool(workers=len(BLAMED) + 1, limits=QUICK) as p:
        outcomes = run(p, lambda: p.stats().respawns.get("timeout", 0) >= len(BLAMED))
        assert statuses(outcomes) == {"ok": len(outcomes) - len(BLAMED), "timeout": len(BLAMED)}
        assert p.stats().respawns == {"timeout": len(BLAMED)}


def test_worker_that_shows_jobs_but_sends_no_results_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Usually it is killed because no results come. If the machine is so busy that the worker stands still for a deadline, its
    # page names one job for so long that this job's time is up, and then that job is charged.
    hostile.install(monkeypatch, hostile.Plan(attacks={2: IN_TURN}))
    with pool(limits=QUICK) as p:
        outcomes = run(p, lambda: p.stats().respawns.get("timeout"))
        assert p.stats().respawns == {"timeout": 1}
    charged = {outcome.id: "timeout" for outcome in outcomes if outcome.status == "timeout"}
    assert len(charged) <= 1
    assert_right(outcomes, charged, len(outcomes))
    assert {outcome.attempts for outcome in outcomes} == {1}


@pytest.mark.parametrize("name", ["bye_and_silence", "ignores_drain"])
def test_worker_that_does_not_leave_is_killed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.install(monkeypatch, hostile.Plan(attacks={1: name}))
    with pool(workers=1, limits=Limits(timeout_s=WAIT_S, max_jobs_per_worker=10)) as p:
        pid = p.stats().workers[0].pid
        for number in range(20):
            assert p.submit(job(number)).result(WAIT_S).label.description == f"k{number}"  # type: ignore[union-attr]
        wait_until(lambda: not psutil.pid_exists(pid), "its end")


def test_memory_that_a_worker_can_make_the_supervisor_hold_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # One flood after the other: the worker that replaces one that was ended is the next to flood.
    hostile.install(monkeypatch, hostile.Plan(attacks={1: FLOODS[0], **dict(enumerate(FLOODS[1:], 3))}))
    with pool(asking(), limits=PATIENT) as p, hostile.watched_rss() as grown:
        outcomes = run(p, lambda: sum(p.stats().respawns.values()) >= len(FLOODS))
        assert_right(outcomes, {}, len(outcomes))
        print(f"{len(FLOODS)} floods: {grown() / MIB:.0f} MiB more at most")
        # A frame of 32 MiB, once as it comes in and once as it is read, and what a few answers of a backend take.
        assert grown() < 144 * MIB


@pytest.mark.parametrize("name", [name for name in FAULTS if name.startswith("forged_labels")])
def test_of_a_frame_with_a_lie_in_it_no_result_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.install(monkeypatch, hostile.Plan(attacks={1: name}))
    with pool(workers=1, limits=LIMITS) as p:
        assert_right(list(p.map(jobs(100))), {}, 100)
        assert p.stats().respawns == {"crash": 1}


def test_an_idle_worker_that_fills_memory_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_IDLE_LOOK_S", 0.1)
    hostile.install(monkeypatch, hostile.Plan(attacks={1: "fills_memory_while_it_is_idle"}))
    with pool(workers=1, limits=QUICK) as p:
        assert_right([p.submit(job(0)).result(WAIT_S)], {}, 1)
        wait_until(lambda: p.stats().respawns == {"memory": 1} and len(p.stats().workers) == 1, "its successor")
        assert_right([p.submit(job(0)).result(WAIT_S)], {}, 1)


# --- an honest worker that one job turns


@pytest.mark.parametrize("withhold", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "exits_with_255",
        "aborts",
        "hides_and_exits",
        "hides_and_exits_with_0",
        "hides_and_sends_noise",
        "hides_and_says_bye",
    ],
)
def test_only_the_job_that_turns_its_worker_hostile_is_crashed(
    name: str, withhold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This holds whatever the worker says about which job it runs. 400 and 401 follow each other, in one frame or in two.
    evil = dict.fromkeys((400, 401, 700), "evil")
    hostile.install(monkeypatch, hostile.Plan(upon=name, withhold=withhold))
    with pool() as p:
        outcomes = list(p.map(jobs(1000, evil)))
        assert [outcome.id for outcome in outcomes] == list(range(1000))
        assert_right(outcomes, dict.fromkeys(evil, "crashed"), 1000)
        assert {outcome.attempts for outcome in outcomes if outcome.status == "ok"} == {1}
        assert {outcome.attempts for outcome in outcomes if outcome.status == "crashed"} == {p.limits.max_attempts}


def test_a_job_that_hides_and_makes_its_worker_hang_is_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.install(monkeypatch, hostile.Plan(upon="hides_and_hangs", withhold=True))
    with pool(limits=Limits(timeout_s=0.5)) as p:
        outcomes = list(p.map(jobs(300, {100: "evil"})))
        assert_right(outcomes, {100: "crashed"}, 300)
        assert "it neither worked nor answered" in outcomes[100].error.message  # type: ignore[union-attr]


# --- HELLO

HELLO_FAULTS = {
    "hello_twice": f"HELLO of protocol {wire.PROTOCOL} from a worker that is ready",
    "hello_of_another_protocol": f"HELLO of protocol {wire.PROTOCOL + 1} from a worker that is starting",
    "hello_with_other_answers": "label_agent answered differently in a new worker: first .*approved.*, now .*other",
    "hello_with_answers_that_are_none": "HELLO with an answer of label_agent that is not valid",
    "hello_with_no_answers": "HELLO with 0 answers of label_agent for 1 guards",
    "hello_with_a_million_answers": NO_FRAME,
    "hello_with_a_huge_sandbox": NO_FRAME,
    "hello_with_a_flood_of_logs": NO_FRAME,
    "hello_with_an_answer_of_brackets": "label_agent answered differently",
    "hello_that_says_it_failed_and_stays": r"cannot be used: so sorry\\x1b\[2J; killed",
    "hello_that_says_the_sandbox_failed": "cannot be used: not here",
    "bye_instead_of_hello": "BYE before HELLO",
    "results_instead_of_hello": "results from a worker that holds no jobs",
    "backend_calls_without_end_instead_of_hello": "more than 50 backend calls for job 0",
}


def test_worker_that_says_a_wrong_hello_is_killed_and_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attacks = dict(enumerate(HELLO_FAULTS, 3))
    hostile.install(monkeypatch, hostile.Plan(attacks=attacks))
    with caplog.at_level(logging.WARNING, "guardpool"), hostile.watched_rss() as grown, pool(asking()) as p:
        before = p.stats().sandbox
        assert p.submit(job(0, "t")).result(WAIT_S).status == "trap"
        outcomes = run(p, lambda: warnings_of(caplog).keys() >= attacks.keys() and len(p.stats().workers) == 2)
        assert p.stats().sandbox == before
        assert grown() < 144 * MIB
    assert_right(outcomes, {}, len(outcomes))
    assert_warned(caplog, attacks, HELLO_FAULTS)


@pytest.mark.slow
def test_worker_that_never_says_hello_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.install(monkeypatch, hostile.Plan(attacks={3: "silence_instead_of_hello"}))
    with pool(limits=Limits(timeout_s=1.0)) as p:
        assert p.submit(job(0, "t")).result(WAIT_S).status == "trap"
        outcomes = run(p, lambda: len(p.stats().workers) == 2)
        assert_right(outcomes, {}, len(outcomes))


def test_pool_gives_up_and_names_both_answers_if_all_new_workers_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hostile.install(monkeypatch, hostile.Plan(others="hello_with_other_answers", others_from=2))
    with pool(workers=1) as p:
        assert p.submit(job(0, "t")).result(WAIT_S).status == "trap"
        outcome = p.submit(job(1)).result(WAIT_S)
        assert outcome.status == "cancelled"
        with pytest.raises(PoolBroken, match=r"answered differently .*first .*approved:all.*, now .*other") as caught:
            p.submit(job(2))
        assert f"{MAX_BARREN_DEATHS} workers in a row" in str(caught.value)


def test_a_reason_sent_just_before_a_workers_end_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.install(monkeypatch, hostile.Plan(attacks={1: "hello_that_says_the_sandbox_failed"}))
    with pytest.raises(SandboxUnavailable, match=r"^not here$"):
        pool(workers=1)


# --- a forkserver that was taken over


@pytest.mark.parametrize("name", ["names a stranger", "sends no valid message", "sends no pidfd"])
def test_a_forkserver_that_lies_is_killed_and_no_other_process_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        hostile.install(monkeypatch, hostile.Plan(forkserver=name, stranger=stranger.pid))
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(PoolBroken, match="no worker could be started"):
            pool(workers=1)
        assert set(os.listdir("/proc/self/fd")) == before
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.close()
        assert stranger.wait(WAIT_S) == 0


def test_a_forkserver_that_floods_delays_no_job_and_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        hostile.install(patch, hostile.Plan(forkserver="floods once there is a worker"))
        with pool(workers=1) as p:
            server = psutil.Process(poolkit.forkserver_pid(p))
            before = len(os.listdir("/proc/self/fd"))
            assert p.submit(job(0, "t")).result(WAIT_S).status == "trap"
            future = p.submit(job(1))  # the worker that it needs is asked for, and the flood begins
            wait_until(lambda: sum(server.cpu_times()[:2]) > 0.2, "the flood")
            assert len(os.listdir("/proc/self/fd")) <= before + 10
            assert not future.done()
            assert p.stats().outcomes == {"trap": 1}  # some worker answers
            patch.undo()
            server.kill()
            assert future.result(WAIT_S).status == "ok"


# --- random frames


def assert_survives(monkeypatch: pytest.MonkeyPatch, seed: int, deaths: int) -> None:
    with monkeypatch.context() as patch:
        hostile.install(patch, hostile.Plan(others="wild", others_from=3, seed=seed))
        with pool(asking(), workers=4, limits=QUICK) as p:
            outcomes = run(p, lambda: sum(p.stats().respawns.values()) >= deaths)
            assert sorted(outcome.id for outcome in outcomes) == list(range(len(outcomes)))
            assert_lines(outcomes)
            # A worker can give a job that it holds any result of the right form, but no result for the jobs of others.
            labels = [(outcome.id, outcome.label.description) for outcome in outcomes if outcome.label]
            lies = [found for own, found in labels if found[1:] != str(own)]
            assert len(lies) <= deaths
            assert set(lies) <= {"k1"}
            assert len(outcomes) - statuses(outcomes)["ok"] <= deaths
            assert p.submit(job(7)).result(WAIT_S).label.description == "k7"  # type: ignore[union-attr]


def test_random_frames_from_forty_workers_do_no_harm() -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert_survives(patch, seed=1, deaths=40)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 22))
def test_fuzz_random_frames_of_workers_do_no_harm(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert_survives(patch, seed, deaths=150)


# --- the progress page


def test_what_a_worker_scribbles_over_its_log_is_a_line_that_harms_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hostile.install(
        monkeypatch,
        hostile.Plan(attacks={1: "log_tail_full_of_escapes_and_exit", 2: "log_tail_of_another_job_and_exit"}),
    )
    limits = Limits(timeout_s=WAIT_S, max_attempts=1, keep_logs=True)
    with pool(workers=1, limits=limits) as p:
        scribbled, other, honest = (p.submit(job(number)).result(WAIT_S) for number in range(3))
        p.flush_logs(WAIT_S)
    assert [outcome.status for outcome in (scribbled, other, honest)] == ["crashed", "crashed", "ok"]
    assert (other.logs, honest.logs) == ((), ())
    assert sum(len(line.text) for line in scribbled.logs) < 64 * 1024
    assert scribbled.logs[-1].level == 3
    assert scribbled.logs[-1].text.startswith("\x1b[2J\ufffd\u202e (at least ")
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("guardpool.guard")]
    assert any(text.startswith("guard vicious, job 0: \\x1b[2J\ufffd\\u202e (at least ") for text in texts)
    assert all(text.isprintable() for text in texts)


def test_the_size_of_a_progress_page_cannot_be_changed() -> None:
    fd = progress_page.new_page()
    try:
        for size in (0, 1, 4096, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):  # nor can seals be added
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        page = progress_page.map_page(fd)
        page[progress_page.SEQ] = 7
        assert progress_page.map_page(fd)[progress_page.SEQ] == 7
    finally:
        os.close(fd)
