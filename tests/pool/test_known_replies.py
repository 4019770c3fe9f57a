"""What is known need not be asked: replies that workers find by themselves, and questions that are asked once.

The guard `backend` asks with its whole input, so jobs with different arguments ask different questions, and refuses with the
length of what it was answered.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from typing import Any

import pytest

import enginekit
from backendkit import Slow, asks_then, code, label, released
from guardpool import CallerError, Guard, GuardPool, Job, JobUnanswered, Limits, Outcome
from guardpool.backends import First, Replies
from guardpool.outcomes import Question
from guardpool.stats import ToolStats
from guardpool.supervise.backend_calls import MAX_GIVEN_UP
from poolkit import POLICY, WAIT_S, guard, pool, wait_until

ANSWER = {"private": True}
ANSWERED = len('{"private":true}') - 100_000
IN_VAIN = -100_001


class Counting:
    """A backend that notes what it is asked, and is told to fail or not.

    Attributes:
        asked: the number `n` in the arguments of each question's job.
        fails: whether it raises.
        closed: how often it was closed.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.fails = False
        self.closed = 0

    def __call__(self, _tool: str, args: Any) -> Any:
        self.asked.append(args["tool_args"].get("n"))
        if self.fails:
            raise ConnectionError("down")
        return ANSWER

    def close(self) -> None:
        self.closed += 1


def ask(p: GuardPool, n: object, name: str = "backend") -> int | None:
    return code(label(p, name, {"n": n}))


def line(n: object, **answer: object) -> bytes:
    args = {"tool_name": "get_issue", "tool_args": {"n": n}}
    return json.dumps({"tool": "get_issue", "args": args, **(answer or {"result": ANSWER})}).encode()


def live(p: GuardPool, name: str = "backend") -> int:
    return sum(tool.live for tool in p.stats().backend.get(name, {}).values())


def test_a_question_is_asked_once_however_many_workers_wait_for_it() -> None:
    slow = Slow()
    calls = Counter[str]()

    def backend(tool: str, args: Any) -> Any:
        calls[tool] += 1
        slow(tool, args)
        return ANSWER

    with released(slow), pool(guard("backend", backend=backend), workers=4) as p:
        futures = [p.submit(Job(n, "label_resource", "get_issue", {"n": 1}, guard="backend")) for n in range(4)]
        wait_until(lambda: p.stats().in_flight == 4 and slow.asked.is_set(), "each worker to have one job")
        slow.go.set()
        assert [code(future.result(WAIT_S)) for future in futures] == [ANSWERED] * 4
        assert ask(p, 1) == ANSWERED
    assert calls == {"get_issue": 1}


def test_an_answer_is_kept_for_every_worker_and_those_that_follow_it() -> None:
    backend = Counting()
    with pool(guard("backend", backend=backend), workers=2) as p:
        for n in (1, 2, 1, 2, 1):
            assert ask(p, n) == ANSWERED
        assert backend.asked == [1, 2]
        before = [worker.pid for worker in p.stats().workers]
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: {w.pid for w in p.stats().workers}.isdisjoint(before) and p.stats().workers, "new workers")
        assert [ask(p, n) for n in (1, 2, 3)] == [ANSWERED] * 3
        assert backend.asked == [1, 2, 3]
        assert p.stats().backend == {"backend": {"get_issue": ToolStats(8, 8, 0, 3)}}
    assert backend.closed == 1


def test_the_same_question_spelt_otherwise_is_the_same() -> None:
    asked: list[Any] = []
    text = r"{\"n\":[1,2.0],\"b\":\"\u0041\"}", r"{ \"b\" : \"A\", \"n\" : [1.0, 2] }"
    one, other = (_asks_with(args) for args in text)

    def backend(_tool: str, args: Any) -> Any:
        asked.append(args)
        return 1

    with pool(
        Guard("one", one, POLICY, backend=backend), Guard("other", other, POLICY, backend=backend), workers=1
    ) as p:
        for name in ("one", "other"):  # guards that have a backend in common share what it answered
            assert label(p, name).backend.answered == 1
    assert asked == [{"b": "A", "n": [1, 2]}]


def _asks_with(args: str) -> bytes:
    """A guard whose `label_resource` asks with these arguments."""
    length = len(args.replace('\\"', '"'))
    return enginekit.wat_to_wasm(
        f"""(module (import "env" "call_backend" (func $ask (param i32 i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2) (data (i32.const 8) "{{\\22difc_mode\\22:\\22strict\\22}}")
        (data (i32.const 64) "{{\\22resource\\22:{{}}}}") (data (i32.const 96) "ask")
        (data (i32.const 128) "{args.replace("u0041", "5cu0041").replace("5c5c", "5c")}")
        (func (export "label_agent") (param i32 i32 i32 i32) (result i32)
          (memory.copy (local.get 2) (i32.const 8) (i32.const 22)) (i32.const 22))
        (func (export "label_resource") (param i32 i32 i32 i32) (result i32)
          (drop (call $ask (i32.const 96) (i32.const 3) (i32.const 128) (i32.const {length}) (i32.const 1024) (i32.const 64)))
          (memory.copy (local.get 2) (i32.const 64) (i32.const 15)) (i32.const 15))
        (func (export "label_response") (param i32 i32 i32 i32) (result i32) (i32.const 0)))"""
    )


def test_a_table_is_known_to_every_worker_before_its_first_job() -> None:
    table = Replies([line(1), line(2, error="gone"), line(2)])
    with pool(guard("backend", backend=table), workers=2) as p:
        assert [ask(p, n) for n in (1, 2, 3)] == [ANSWERED, IN_VAIN, IN_VAIN]
        failed = label(p, "backend", {"n": 2})
        assert failed.error is not None
        assert failed.error.backend == ("get_issue: BackendFailed: gone",)
        missing = label(p, "backend", {"n": 3})
        assert missing.backend.missing == (Question("get_issue", {"tool_name": "get_issue", "tool_args": {"n": 3}}),)
        assert p.stats().backend == {"backend": {"get_issue": ToolStats(5, 1, 4, 0)}}


def test_questions_of_many_jobs_add_up_by_guard_and_tool() -> None:
    table = Replies([line(1), line(2)])
    guards = [Guard(name, guard("backend").wasm, POLICY, backend=table) for name in ("one", "other")]
    jobs = [
        Job(n, "label_resource", "get_issue", {"n": 1 + n % 3}, guard=("one", "other")[n % 4 == 0]) for n in range(60)
    ]
    with pool(*guards, workers=1) as p:
        outcomes = list(p.map(jobs))
        assert [code(outcome) for outcome in outcomes] == [ANSWERED, ANSWERED, IN_VAIN] * 20
        assert [outcome.backend.asked - outcome.backend.failed for outcome in outcomes] == [1, 1, 0] * 20
        assert p.stats().backend == {
            "one": {"get_issue": ToolStats(45, 30, 15, 0)},
            "other": {"get_issue": ToolStats(15, 10, 5, 0)},
        }


def test_what_a_table_lacks_is_asked_of_the_one_behind_it() -> None:
    backend = Counting()
    with pool(guard("backend", backend=First(Replies([line(1)]), backend)), workers=2) as p:
        assert [ask(p, n) for n in (1, 2, 1, 2)] == [ANSWERED] * 4
    assert (backend.asked, backend.closed) == ([2], 1)


@pytest.mark.parametrize(("remember", "limits"), [("never", Limits()), ("pool", Limits(max_reply_bytes=0))])
def test_what_is_not_to_be_kept_is_asked_each_time(remember: str, limits: Limits) -> None:
    backend = Counting()
    with pool(guard("backend", backend=backend, remember=remember), workers=1, limits=limits) as p:
        assert [ask(p, 1) for _ in range(3)] == [ANSWERED] * 3
    assert backend.asked == [1, 1, 1]


def test_an_answer_counts_for_as_long_as_it_was_said() -> None:
    backend = Counting()
    with pool(guard("backend", backend=backend, remember=0.05), workers=1) as p:
        wait_until(lambda: ask(p, 1) and len(backend.asked) > 2, "the answer to be asked for again, twice")
        assert p.stats().backend["backend"]["get_issue"].asked > len(backend.asked) or len(backend.asked) > 2


def test_that_there_was_no_answer_is_known_for_a_second() -> None:
    backend = Counting()
    backend.fails = True
    with pool(guard("backend", backend=backend), workers=2) as p:
        errors = []
        for _ in range(2):
            outcome = label(p, "backend", {"n": 1})
            assert outcome.error is not None
            errors.append(outcome.error.backend)
        assert backend.asked == [1]
        assert errors == [("ConnectionError: down",), ("get_issue: ConnectionError: down",)]
        backend.fails = False
        wait_until(lambda: ask(p, 1) == ANSWERED, "the backend to be asked again")
        assert backend.asked == [1, 1]


def test_calls_that_hang_are_bounded() -> None:
    slow = Slow()
    limits = Limits(timeout_s=WAIT_S, backend_timeout_s=0.02)
    with released(slow), pool(guard("backend", backend=slow), workers=1, limits=limits) as p:
        outcomes = [label(p, "backend", {"n": n}) for n in range(MAX_GIVEN_UP + 3)]
        assert {code(outcome) for outcome in outcomes} == {IN_VAIN}
        assert live(p) == MAX_GIVEN_UP + 1
        assert sum(thread.name == "guardpool-backend" for thread in threading.enumerate()) <= MAX_GIVEN_UP + 1
        error = outcomes[-1].error
        assert error is not None
        assert error.backend is not None
        assert "33 calls of this backend have had no answer yet: it is not asked" in error.backend[0]
        slow.go.set()
        wait_until(lambda: ask(p, 0) == len("true") - 100_000, "an answer")


def test_replies_that_a_worker_reads_do_not_count_as_its_own_memory() -> None:
    # A worker has some 20 MiB before its first job, and of a table it has every page that it read.
    long = "x" * 300_000
    table = Replies([line(n, result=long) for n in range(100)])
    limits = Limits(timeout_s=WAIT_S, memory_pages=64, max_rss_bytes=32 * 1024 * 1024)
    with pool(guard("backend", backend=table), workers=1, limits=limits) as p:
        for n in range(100):
            outcome = label(p, "backend", {"n": n})
            assert (code(outcome), outcome.attempts) == (-2 - 100_000, 1)
        wait_until(lambda: p.stats().workers[0].rss_bytes > 36 * 1024 * 1024, "a look at the worker's memory")
        assert ask(p, 1) == -2 - 100_000
        stats = p.stats()
        assert (stats.respawns, stats.outcomes) == ({}, {"refused": 101})


def test_a_worker_may_have_more_memory_than_webassembly_can_name() -> None:
    table = Replies([line(1, result={})])
    with pool(guard("backend", backend=table), workers=1, limits=Limits(timeout_s=WAIT_S, max_rss_bytes=1 << 46)) as p:
        assert [ask(p, 1) for _ in range(2)] == [2 - 100_000] * 2


# --- what becomes of a job


def outcome_of(body: str, **options: Any) -> Outcome:
    wasm = asks_then(body)
    with pool(Guard("g", wasm, POLICY, **options), workers=1) as p:
        outcome = label(p, "g")
        assert p.stats().outcomes == {outcome.status.value: 1}
        return outcome


LABEL = "(memory.copy (local.get 2) (i32.const 64) (i32.const 15)) (i32.const 15)"


@pytest.mark.parametrize("backend", [None, Replies([])], ids=["nobody", "a table"])
@pytest.mark.parametrize("body", [LABEL, "(i32.const -7)", "(i32.const 3)"], ids=["labels", "refuses", "is invalid"])
def test_a_job_whose_guard_did_not_know_has_no_label_if_that_is_wanted(backend: Any, body: str) -> None:
    outcome = outcome_of(body, backend=backend, on_backend_failure="withhold")
    assert (outcome.status, outcome.label, outcome.label_json) == ("unanswered", None, b"null")
    assert outcome.error is not None
    assert outcome.error.code == "unanswered"
    assert outcome.error.message == "1 of 1 questions to the backend had no answer; the first: ask null"
    with pytest.raises(JobUnanswered):
        outcome.raise_for_status()
    assert outcome_of(body, backend=backend).status != "unanswered"


def test_what_was_answered_is_labelled_and_a_trap_stays_one() -> None:
    assert outcome_of(LABEL, backend=lambda *_: 1, on_backend_failure="withhold").status == "ok"
    assert outcome_of("unreachable", on_backend_failure="withhold").status == "trap"


@pytest.mark.parametrize(
    ("args", "is_told"),
    [("x" * 4000, True), ("x" * 5000, False), ([[]] * 60, True), ([[]] * 120, False)],
    ids=["long", "too long", "nested", "nested too often"],
)
def test_of_what_had_no_answer_only_what_is_short_is_told(args: Any, is_told: bool) -> None:
    with pool(guard("backend"), workers=1) as p:
        outcome = label(p, "backend", {"n": args})
    assert (outcome.backend.asked, outcome.backend.failed) == (1, 1)
    assert len(outcome.backend.missing) == is_told


def test_ten_different_questions_are_told() -> None:
    wasm = enginekit.wat_to_wasm(
        """(module (import "env" "call_backend" (func $ask (param i32 i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2) (data (i32.const 8) "{\\22difc_mode\\22:\\22strict\\22}")
        (data (i32.const 64) "{\\22resource\\22:{}}") (data (i32.const 96) "ask") (data (i32.const 128) "[0]")
        (func (export "label_agent") (param i32 i32 i32 i32) (result i32)
          (memory.copy (local.get 2) (i32.const 8) (i32.const 22)) (i32.const 22))
        (func (export "label_resource") (param i32 i32 i32 i32) (result i32) (local $n i32)
          (loop $more
            (i32.store8 (i32.const 129) (i32.add (i32.const 48) (i32.and (local.get $n) (i32.const 15))))
            (drop (call $ask (i32.const 96) (i32.const 3) (i32.const 128) (i32.const 3) (i32.const 1024) (i32.const 64)))
            (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 30))))
          (memory.copy (local.get 2) (i32.const 64) (i32.const 15)) (i32.const 15))
        (func (export "label_response") (param i32 i32 i32 i32) (result i32) (i32.const 0)))"""
    )
    with pool(Guard("g", wasm, POLICY), Guard("limited", wasm, POLICY, backend=Replies([])), workers=1) as p:
        for name in ("g", "limited"):
            use = label(p, name).backend
            # ":" to "?" stand behind "9": arguments that are not JSON, which count and are no questions.
            assert [question.args for question in use.missing] == [[n] for n in range(10)]
            assert (use.asked, use.answered, use.failed) == (30, 0, 30)


def test_an_answer_that_comes_too_late_for_its_job_is_kept_for_the_next() -> None:
    slow = Slow()
    limits = Limits(timeout_s=WAIT_S, backend_timeout_s=0.05)
    with released(slow), pool(guard("backend", backend=slow, remember="pool"), workers=1, limits=limits) as p:
        assert ask(p, 1) == IN_VAIN
        slow.go.set()
        wait_until(lambda: ask(p, 1) == len("true") - 100_000, "the answer")
        assert live(p) == 1


def test_a_backend_that_cannot_be_closed_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn:
        def __call__(self, _tool: str, _args: Any) -> int:
            return 1

        def close(self) -> None:
            raise OSError("not now")

    with pool(guard("backend", backend=Stubborn()), workers=1) as p:
        assert ask(p, 1) == 1 - 100_000
    assert "a backend could not be closed: OSError: not now" in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("remember", ["always", 0, -1, float("inf"), float("nan"), True, [1]])
def test_a_time_to_remember_must_make_sense(remember: Any) -> None:
    with pytest.raises(CallerError, match="remember must be 'pool', 'never' or a number of seconds"):
        guard("backend", remember=remember)
    with pytest.raises(CallerError, match="on_backend_failure must be 'label' or 'withhold'"):
        guard("backend", on_backend_failure=remember)
