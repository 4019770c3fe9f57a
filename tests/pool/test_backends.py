"""`call_backend` through a pool: what the guard gets, what stands in the outcome, and which jobs wait.

Source: the guard contract, "call_backend".
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from typing import Any

import pytest

import guardkit
from backendkit import Slow, asks_then, code, describes_by_answer, label, released
from guardpool import Guard, GuardPool, Job, Limits
from guardpool.outcomes import BackendUse, LogLine, Question
from guardpool.stats import ToolStats
from poolkit import POLICY, WAIT_S, assert_right, guard, job, jobs, pool, wait_until

MIB = 1024 * 1024
ENOUGH = Limits(timeout_s=WAIT_S)


# --- what arrives


def test_the_backend_runs_in_this_process_off_the_supervisors_thread() -> None:
    asked: list[tuple[str, Any]] = []
    threads: set[threading.Thread] = set()

    def backend(tool: str, args: Any) -> Any:
        asked.append((tool, args))
        threads.add(threading.current_thread())
        return {"private": True}

    with pool(guard("backend", backend=backend), workers=1) as p:
        outcome = label(p, "backend", {"owner": "\u00f6", "n": [1, None, 2.5]})
        others = {thread for thread in threading.enumerate() if thread.name.startswith("guardpool-supervisor")}
    assert code(outcome) == len('{"private":true}') - 100_000
    assert outcome.backend_calls == 1
    assert asked == [("get_issue", {"tool_name": "get_issue", "tool_args": {"owner": "\u00f6", "n": [1, None, 2.5]}})]
    assert others
    assert not threads & (others | {threading.current_thread()})


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (None, len("null")),
        ("x" * 62, 64),  # 64 bytes as JSON: all that the guard has room for
        ("x" * 63, -2),
        ("x" * MIB, -2),
        ("\u00e9" * 31, 64),  # counted in UTF-8
        ("\ud800", len('"\N{REPLACEMENT CHARACTER}"'.encode())),  # as the gateway has it
        (float("nan"), -1),
        ({1: 2}, -1),
        (object(), -1),
    ],
    ids=["null", "all that fits", "a byte too long", "far too long", "UTF-8", "no text", "NaN", "odd keys", "no JSON"],
)
def test_what_the_backend_gives_is_what_the_guard_gets(value: Any, answer: int) -> None:
    with pool(guard("backend", backend=lambda tool, args: value), workers=1) as p:
        outcome = label(p, "backend")
        assert code(outcome) == answer - 100_000
        assert outcome.backend_calls == 1
        failed = (outcome.error and outcome.error.backend) or ()
        assert len(failed) == (1 if answer == -1 else 0)


def test_without_a_backend_the_guard_gets_an_error_and_the_outcome_says_what_it_asked() -> None:
    with pool(guard("backend"), guard("backend_flood"), workers=1) as p:
        outcome = label(p, "backend", {"n": 1})
        assert (code(outcome), outcome.backend_calls) == (-100_001, 0)
        question = Question("get_issue", {"tool_name": "get_issue", "tool_args": {"n": 1}})
        assert outcome.backend == BackendUse(1, 0, 1, (question,))
        flood = label(p, "backend_flood")
        assert (flood.backend.asked, flood.backend.answered, flood.backend.failed) == (60, 0, 60)
        assert flood.backend.missing == (Question("ask", None),)
        assert label(p, "backend", {"n": 2}).backend.asked == 1  # each job has its own
        assert p.stats().backend["backend"] == {"get_issue": ToolStats(2, 0, 2, 0)}


def test_fifty_calls_for_a_job_over_all_its_tries() -> None:
    calls: list[str] = []
    guards = [
        guard(name, backend=lambda tool, args: calls.append(tool), remember="never")
        for name in ("backend_flood", "backend_retries")
    ]
    with pool(*guards, workers=1) as p:
        for _ in range(2):  # each job has its own
            outcome = label(p, "backend_flood")
            assert (code(outcome), outcome.backend_calls) == (-50, 50)
        outcome = label(p, "backend_retries")
        assert (outcome.status, outcome.backend_calls) == ("invalid", 50)
    assert len(calls) == 150


def test_the_number_of_calls_can_be_limited_further() -> None:
    with pool(
        guard("backend_flood", backend=lambda *_: 1), workers=1, limits=Limits(timeout_s=WAIT_S, max_backend_calls=3)
    ) as p:
        outcome = label(p, "backend_flood")
        assert (code(outcome), outcome.backend_calls) == (-3, 3)
    with pool(
        guard("backend_flood", backend=lambda *_: 1), workers=1, limits=Limits(timeout_s=WAIT_S, max_backend_calls=0)
    ) as p:
        outcome = label(p, "backend_flood")
        # It answers with as many bytes as calls succeeded: none.
        assert (outcome.status, outcome.backend_calls) == ("invalid", 0)


# --- exceptions


def test_an_exception_reaches_the_guard_the_outcome_and_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def down(_tool: str, _args: Any) -> Any:
        raise ConnectionError("503 from\nthe server")

    def logged() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "guardpool.backend"]

    with caplog.at_level(logging.WARNING, "guardpool.backend"), pool(guard("backend", backend=down), workers=1) as p:
        outcome = label(p, "backend")
        wait_until(logged, "the backend's thread to log what it sent before")
    assert code(outcome) == -100_001
    assert outcome.error is not None
    assert outcome.error.backend == (r"ConnectionError: 503 from\nthe server",)
    assert outcome.backend_calls == 1
    assert logged() == [r"guard backend: backend call of get_issue failed: ConnectionError: 503 from\nthe server"]


def test_the_last_of_several_exceptions_comes_first_in_the_error() -> None:
    count = iter(range(100))

    def down(_tool: str, _args: Any) -> Any:
        raise ValueError(next(count))

    with pool(
        guard("backend_flood", backend=down, remember="never"),
        workers=1,
        limits=Limits(timeout_s=WAIT_S, max_backend_calls=3),
    ) as p:
        outcome = label(p, "backend_flood")
        assert outcome.error is not None
        assert outcome.error.backend == ("ValueError: 2", "ValueError: 1", "ValueError: 0")
        assert [line.text for line in outcome.logs] == [f"backend: ValueError: {n}" for n in range(3)]


def test_an_exception_is_in_the_outcome_of_its_job_only_even_if_ok() -> None:
    moods = iter([True, False, True])

    def moody(_tool: str, _args: Any) -> Any:
        if not next(moods):
            raise LookupError("no such issue")
        return 1

    wasm = asks_then("(memory.copy (local.get 2) (i32.const 64) (i32.const 15)) (i32.const 15)")
    with pool(Guard("calm", wasm, POLICY, backend=moody, remember="never"), workers=1) as p:
        outcomes = [label(p, "calm") for _ in range(3)]
    assert [outcome.status.value for outcome in outcomes] == ["ok"] * 3
    assert [outcome.logs for outcome in outcomes] == [(), (LogLine(3, "backend: LookupError: no such issue"),), ()]


def test_in_a_frame_of_many_each_exception_is_in_the_outcome_of_its_job() -> None:
    def moody(_tool: str, args: Any) -> Any:
        if args["tool_args"]["n"] % 3 == 0:
            raise LookupError(args["tool_args"]["n"])
        return "x"

    with pool(Guard("asker", describes_by_answer(), POLICY, backend=moody, remember="never"), workers=1) as p:
        outcomes = list(p.map([Job(number, "label_resource", "t", {"n": number}) for number in range(60)]))
    for number, outcome in enumerate(outcomes):
        failed = number % 3 == 0
        assert outcome.status == ("refused" if failed else "ok")
        assert [line.text for line in outcome.logs] == [f"backend: LookupError: {number}"] * failed


# --- which jobs wait


def test_jobs_that_are_done_are_told_while_a_later_one_waits_long() -> None:
    slow = Slow()

    def backend(_tool: str, args: Any) -> Any:
        return "x" if args["tool_args"]["n"] != 29 or slow("", None) else "late"

    with released(slow), pool(Guard("asker", describes_by_answer(), POLICY, backend=backend), workers=1) as p:
        stream = p.map([Job(number, "label_resource", "t", {"n": number}) for number in range(40)])
        assert [next(stream).id for _ in range(29)] == [*range(29)]
        assert slow.asked.is_set()
        assert not slow.go.is_set()
        slow.go.set()
        outcomes = list(stream)
    assert [outcome.id for outcome in outcomes] == [*range(29, 40)]
    assert {outcome.attempts for outcome in outcomes} == {1}


def test_a_slow_backend_stalls_only_the_job_that_asked() -> None:
    slow = Slow()
    with released(slow), pool(guard(backend=slow), workers=2) as p:
        # In frames with others, before it, behind it and in the same one.
        stream = p.map(jobs(300, {40: "b"}), ordered=False)
        got = [next(stream) for _ in range(299)]
        assert slow.asked.is_set()
        assert not slow.go.is_set()
        assert 40 not in {outcome.id for outcome in got}
        slow.go.set()
        got += stream
        assert_right(got, {}, 300)
        assert {outcome.attempts for outcome in got} == {1}
        assert {outcome.id: outcome.backend_calls for outcome in got if outcome.backend_calls} == {40: 1}
        assert p.stats().respawns == {}


def test_jobs_that_come_while_a_backend_is_slow_go_to_the_other_worker() -> None:
    slow = Slow()
    with released(slow), pool(guard(backend=slow), workers=2) as p:
        stalled = p.submit(job(0, "b"))
        assert slow.asked.wait(WAIT_S)
        futures = [p.submit(job(number)) for number in range(1, 30)]
        outcomes = [future.result(WAIT_S) for future in futures]
        assert not stalled.done()
        slow.go.set()
        assert_right([stalled.result(WAIT_S), *outcomes], {}, 30)


def test_with_one_worker_other_jobs_wait_for_a_backend_and_none_is_lost() -> None:
    slow = Slow()
    with released(slow), pool(guard(backend=slow), workers=1) as p:
        futures = [p.submit(job(number, "b" if number == 3 else "k")) for number in range(50)]
        assert slow.asked.wait(WAIT_S)
        wait_until(lambda: _counts(p) == (1, 46), "the jobs behind the one that waits to be taken back")
        slow.go.set()
        assert_right([future.result(WAIT_S) for future in futures], {}, 50)


def _counts(p: GuardPool) -> tuple[int, int]:
    stats = p.stats()
    return stats.in_flight, stats.queued


def test_all_workers_can_wait_for_their_backends_at_once() -> None:
    together = threading.Barrier(3)

    def meet(_tool: str, _args: Any) -> bool:
        together.wait(WAIT_S)  # none passes until all three are here
        return True

    with pool(guard("backend", backend=meet), workers=3) as p:
        futures = [p.submit(Job(number, "label_resource", "get_issue", {"n": number})) for number in range(3)]
        assert {code(future.result(WAIT_S)) for future in futures} == {len("true") - 100_000}


def test_killing_a_worker_during_a_backend_call_costs_no_job_its_label() -> None:
    slow = Slow()
    with released(slow), pool(guard(backend=slow), workers=1) as p:
        futures = [p.submit(job(number, "b" if number == 0 else "k")) for number in range(20)]
        assert slow.asked.wait(WAIT_S)
        wait_until(lambda: p.stats().in_flight == 1, "the jobs behind the one that waits to be taken back")
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        slow.go.set()
        outcomes = [future.result(WAIT_S) for future in futures]
        assert_right(outcomes, {}, 20)
        assert [outcome.attempts for outcome in outcomes] == [2] + [1] * 19


# --- time


def test_time_spent_in_the_backend_does_not_count_against_the_deadline() -> None:
    slow = Slow()
    with released(slow), pool(guard(backend=slow), workers=1, limits=Limits(timeout_s=1.0)) as p:
        future = p.submit(job(0, "b"))
        assert slow.asked.wait(WAIT_S)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + 1.3, "more than the deadline to go by")
        assert not future.done()
        slow.go.set()
        outcome = future.result(WAIT_S)
        assert (outcome.status, outcome.attempts) == ("ok", 1)
        assert outcome.duration_us < 1_000_000
        assert p.stats().respawns == {}


def test_the_guards_own_time_after_a_backend_call_counts() -> None:
    wasm = asks_then("(loop $ever (br $ever)) unreachable")
    with pool(Guard("g", wasm, POLICY, backend=lambda *_: True), workers=1, limits=Limits(timeout_s=0.5)) as p:
        outcome = label(p, "g")
        assert (outcome.status, outcome.attempts) == ("timeout", 1)


def test_past_its_own_limit_a_backend_call_is_an_error_that_says_so() -> None:
    slow = Slow()
    limits = Limits(timeout_s=WAIT_S, backend_timeout_s=1.0)
    with released(slow), pool(guard("backend", backend=slow, remember="never"), workers=1, limits=limits) as p:
        outcome = label(p, "backend")
        assert not slow.go.is_set()
        assert code(outcome) == -100_001
        assert outcome.error is not None
        assert outcome.error.backend == ("no answer within 1.0 s",)
        # The answer that comes too late goes to no job.
        slow.go.set()
        later = label(p, "backend")
        assert (code(later), later.error and later.error.backend) == (len("true") - 100_000, None)


# --- before the first job


def test_label_agent_may_ask_its_backend() -> None:
    asked: list[str] = []

    def backend(tool: str, _args: Any) -> int:
        asked.append(tool)
        return 1

    with pool(guard("agent_asks", backend=backend, remember="never"), workers=2) as p:
        assert asked in (["ask"], ["ask", "ask"])  # once, if both workers asked at the same time
        assert label(p, "agent_asks").backend_calls == 0


def test_backends_of_several_guards_are_told_apart() -> None:
    names = [f"g{number}" for number in range(3)]
    guards = [
        Guard(name, guardkit.wat("backend"), POLICY, backend=lambda tool, args, n=n: "x" * n)  # type: ignore[misc]
        for n, name in enumerate(names)
    ]
    with pool(*guards, workers=1) as p:
        assert [code(label(p, name)) for name in names] == [n + 2 - 100_000 for n in range(3)]


def test_the_payload_of_a_call_is_json_whatever_its_size() -> None:
    seen: list[int] = []

    def backend(_tool: str, args: Any) -> Any:
        seen.append(len(json.dumps(args)))
        return None

    with pool(guard("backend", backend=backend), workers=1) as p:
        for size in (0, 1000, 100_000, MIB - 200):
            assert label(p, "backend", {"x": "y" * size}).backend_calls == 1
        # Over a MiB of arguments is more than a guard may ask with.
        outcome = label(p, "backend", {"x": "y" * MIB})
        assert (code(outcome), outcome.backend_calls) == (-100_001, 0)
    assert len(seen) == 4
