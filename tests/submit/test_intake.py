"""Jobs become tasks of the pool, or their `rejected` outcome."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from guardpool.jobs import Job, Op, Prepared
from guardpool.outcomes import Outcome, OutcomeError, Status
from guardpool.submit.intake import Intake
from guardpool.supervise.scheduler import Task


def make(*names: str, max_input_bytes: int = 1000) -> Intake:
    return Intake(names or ("g",), max_input_bytes)


def job(**options: Any) -> Job:
    return Job(**{"id": 7, "op": "label_resource", "tool_name": "get_issue", **options})


def rejected(intake: Intake, one: Job) -> Outcome:
    outcome = intake.task_of(one, "me", 0)
    assert isinstance(outcome, Outcome)
    assert outcome.status is Status.REJECTED
    assert outcome.attempts == 0
    assert outcome.error is not None
    assert "\n" not in outcome.error.message
    return outcome


def test_a_task_carries_the_job_and_its_place() -> None:
    intake = make("a", "b")
    task = intake.task_of(job(op=Op.LABEL_RESPONSE, guard="b", tool_result=[1]), "me", 5)
    assert isinstance(task, Task)
    assert (task.guard, task.op, task.kind, task.owner, task.index, task.job_id) == (1, "label_response", 3, "me", 5, 7)
    assert type(task.op) is str
    assert task.payload == b'{"tool_name":"get_issue","tool_result":[1]}'


def test_numbers_are_never_used_twice_whatever_thread_asks() -> None:
    intake = make()
    seqs: list[int] = []

    def ask() -> None:
        seqs.extend([intake.task_of(job(), "me", 0).seq for _ in range(500)])  # type: ignore[union-attr]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seqs)) == 2000
    assert min(seqs) == 1  # 0 means that nothing runs


def test_the_only_guard_need_not_be_named() -> None:
    intake = make("only")
    assert isinstance(intake.task_of(job(), "me", 0), Task)
    assert isinstance(intake.task_of(job(guard="only"), "me", 0), Task)
    assert rejected(intake, job(op="label_agent")).guard == "only"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"guard": None}, "no_such_guard", "names no guard and the pool holds 2: a, b"),
        ({"guard": "c"}, "no_such_guard", "no guard is called 'c'; the pool holds: a, b"),
        ({"guard": ["a"]}, "no_such_guard", "the pool holds: a, b"),
        ({"guard": 5}, "no_such_guard", "the pool holds: a, b"),
        ({"guard": "a", "op": "label_agent"}, "no_such_op", "label_agent"),
        ({"guard": "a", "op": ["label_resource"]}, "no_such_op", "list"),
        ({"guard": "a", "tool_name": None}, "bad_tool_name", "NoneType"),
        ({"guard": "a", "tool_args": {1j: 2}}, "not_json", "tool_args"),
        ({"guard": "a", "op": "label_response"}, "no_tool_result", "null is an answer"),
        ({"guard": "a", "tool_args": "x" * 2000}, "input_too_large", "max_input_bytes is 1000"),
    ],
)
def test_a_bad_job_is_an_outcome_that_says_why(options: dict[str, Any], code: str, says: str) -> None:
    intake = make("a", "b")
    outcome = rejected(intake, job(**options))
    assert outcome.error is not None
    assert outcome.error.code == code
    assert says in outcome.error.message
    assert outcome.guard == ("a" if options["guard"] == "a" else None)
    assert outcome.id == 7
    assert outcome.tool_name == options.get("tool_name", "get_issue")


def test_prepared_jobs_are_checked_as_well() -> None:
    intake = make("a", "b")
    error = OutcomeError("not_json", "line 3 is not JSON", line=3)
    jobs = [
        Prepared(1, "a", "label_resource", "t", b"{}"),
        Prepared(2, "c", "label_resource", "t", b"{}"),
        Prepared(3, "b", "label_nothing", "t", b"{}"),
        Prepared(4, None, "", None, b"", error),
        Prepared(5, "b", "label_response", "t", b"{}"),
        Prepared(6, "b", "label_response", "t", b"x" * 1001),
    ]
    tasks, bad = intake.tasks_of_prepared(jobs, "me", 10)
    assert [(task.index, task.job_id, task.guard) for task in tasks] == [(10, 1, 0), (14, 5, 1)]
    assert [(index, one.id, one.error and one.error.code) for index, one in bad] == [
        (11, 2, "no_such_guard"),
        (12, 3, "no_such_op"),
        (13, 4, "not_json"),
        (15, 6, "input_too_large"),
    ]
    assert [task.tool_name for task in tasks] == ["t", "t"]
    assert [one.tool_name for _index, one in bad] == ["t", "t", None, "t"]
    assert bad[2][1].error is error
