"""Jobs become tasks of the pool, or their `rejected` outcome."""

from __future__ import annotations

import threading
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from guardpool.batch import JobParser
from guardpool.errors import InvalidJob
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


def test_of_many_guards_some_are_named_and_the_others_counted() -> None:
    outcome = rejected(make(*(f"g{n}" for n in range(12))), job(guard="no"))
    assert outcome.error is not None
    assert outcome.error.message.endswith("the pool holds: g0, g1, g2, g3, g4, g5, g6, g7, g8, g9 and 2 more")


def test_the_only_guard_need_not_be_named() -> None:
    intake = make("only")
    assert isinstance(intake.task_of(job(), "me", 0), Task)
    assert isinstance(intake.task_of(job(guard="only"), "me", 0), Task)
    assert rejected(intake, job(tool_name=None)).guard == "only"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"guard": None}, "no_such_guard", "names no guard and the pool holds 2: a, b"),
        ({"guard": "c"}, "no_such_guard", "no guard is called 'c'; the pool holds: a, b"),
        ({"guard": ["a"]}, "no_such_guard", "the pool holds: a, b"),
        ({"guard": 5}, "no_such_guard", "the pool holds: a, b"),
        ({"guard": "a", "tool_name": None}, "bad_tool_name", "NoneType"),
        ({"guard": "a", "tool_args": {1j: 2}}, "not_json", "tool_args"),
        ({"guard": "a", "op": "label_response"}, "no_tool_result", "null is an answer"),
        ({"guard": "a", "tool_args": "x" * 2000}, "input_too_large", "max_input_bytes is 1000"),
        ({"guard": "a", "session": 7}, "bad_session", "session must be a string, not int"),
        (
            {"guard": "a", "time": "2026-01-01"},
            "bad_time",
            "a number of seconds since 1970, from 0 to 9000000000; not str",
        ),
        ({"guard": "a", "time": True}, "bad_time", "not bool"),
        ({"guard": "a", "time": -0.5}, "bad_time", "not -0.5"),
        ({"guard": "a", "time": float("nan")}, "bad_time", "not nan"),
        ({"guard": "a", "time": float("inf")}, "bad_time", "not inf"),
        ({"guard": "a", "time": 10**5000}, "bad_time", "not a longer number"),
        ({"guard": "a", "time": 1_767_225_600_000}, "bad_time", "not 1767225600000: are these milliseconds?"),
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


@pytest.mark.parametrize("op", ["label_agent", "", None, 5, ["label_resource"], "LABEL_RESOURCE", Status.OK])
def test_a_job_with_a_wrong_op_fails_where_it_is_made(op: Any) -> None:
    with pytest.raises(InvalidJob, match=r'^op must be "label_resource" or "label_response", not '):
        Job(1, op, "get_issue")
    with pytest.raises(ValueError, match="op must be"):
        Job(id=1, op=op, tool_name="get_issue")


def test_a_dict_with_the_keys_of_a_job_line_is_a_job() -> None:
    intake = make("a", "b")
    line = {
        "op": "label_response",
        "tool_name": "t",
        "tool_args": {"n": 7.0},
        "tool_result": [1],
        "guard": "b",
        "more": 1,
    }
    tasks, bad = intake.tasks_of([line, MappingProxyType({**line, "id": "x"}), job(guard="a")], "me", 5)
    assert not bad
    assert [(task.index, task.job_id, task.guard, task.op) for task in tasks] == [
        (5, 5, 1, "label_response"),
        (6, "x", 1, "label_response"),
        (7, 7, 0, "label_resource"),
    ]
    assert tasks[0].payload == tasks[1].payload == b'{"tool_name":"t","tool_result":[1],"tool_args":{"n":7}}'
    task = make().task_of({"op": Op.LABEL_RESOURCE, "tool_name": "t", "capabilities": {"x": 1}}, "me", 0)
    assert isinstance(task, Task)
    assert (task.job_id, task.payload) == (None, b'{"tool_name":"t","tool_args":null,"capabilities":{"x":1}}')


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ({}, "no_such_op", 'op is missing: it must be "label_resource" or "label_response"'),
        ({"op": "label_agent", "tool_name": "t"}, "no_such_op", "label_agent"),
        ({"op": ["label_resource"], "tool_name": "t"}, "no_such_op", "list"),
        ({"op": "label_resource"}, "bad_tool_name", "NoneType"),
        ({"op": "label_response", "tool_name": "t"}, "no_tool_result", "null is an answer"),
        ({"op": "label_resource", "tool_name": "t", "guard": "c"}, "no_such_guard", "the pool holds: g"),
        ({"op": "label_resource", "tool_name": "t", "id": [1]}, "bad_id", "not list"),
        ({"op": "label_resource", "tool_name": "t", "session": ["s"]}, "bad_session", "not list"),
        ({"op": "label_resource", "tool_name": "t", "time": "noon"}, "bad_time", "seconds since 1970"),
        ({"op": "label_resource", "tool_name": "t", "time": 9_000_000_001}, "bad_time", "milliseconds"),
        ({"op": "label_resource", "tool_name": "t", "arguments": {}}, "wrong_key", "tool_args here, not arguments"),
        ({"op": "label_resource", "name": "t", "params": {}}, "wrong_key", "tool_name here, not name"),
        ({"op": "label_resource", "tool_name": "t", "tool_args": {"a": [b""]}}, "not_json", "tool_args.a[0]: bytes"),
    ],
)
def test_a_dict_that_is_no_job_is_rejected_as_the_line_would_be(line: dict[str, Any], code: str, says: str) -> None:
    tasks, [(index, outcome)] = make().tasks_of([line], "me", 3)
    assert not tasks
    assert (index, outcome.id, outcome.status) == (3, 3, Status.REJECTED)
    assert outcome.error is not None
    assert outcome.error.code == code
    assert says in outcome.error.message
    if code != "not_json":
        parsed = JobParser(["g"], 1000).parse(msgspec.json.encode(line), 3)
        assert parsed.error is not None
        assert parsed.error.code == code


@pytest.mark.parametrize("value", [None, 5, "get_issue", b"{}", ("label_resource", "t"), [{}], object()])
def test_what_is_neither_a_job_nor_a_dict_is_told_what_is_wanted(value: Any) -> None:
    for ask in (lambda: make().tasks_of([value], "me", 0), lambda: make().task_of(value, "me", 0)):
        with pytest.raises(
            InvalidJob, match=r"a job is a guardpool\.Job, or a dict with the keys id, guard, op, tool_name"
        ):
            ask()


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


@pytest.mark.parametrize("passes_time", [True, False])
def test_a_task_carries_its_session_and_to_deterministic_workers_its_time(passes_time: bool) -> None:
    intake = Intake(["g"], 1000, passes_time=passes_time)
    times = {None: 0, 0: 0, 5: 5_000_000, 1_767_225_600.25: 1_767_225_600_250_000, 9_000_000_000: 9 * 10**15}
    made = [job(id=time, session="s", time=time) for time in times] + [job(id=None)]
    prepared = [Prepared(one.id, None, one.op, "t", b"{}", None, one.session, one.time) for one in made]
    lines = [{"op": one.op, "tool_name": "t", "id": one.id, "session": one.session, "time": one.time} for one in made]
    ways = [
        intake.tasks_of(made, "me", 0)[0],
        intake.tasks_of(lines, "me", 0)[0],
        intake.tasks_of_prepared(prepared, "me", 0)[0],
        [intake.task_of(one, "me", 0) for one in made],
    ]
    for tasks in ways:
        assert [task.session for task in tasks] == ["s"] * len(times) + [None]
        assert [task.time_us for task in tasks] == [times[task.job_id] if passes_time else 0 for task in tasks]


def test_prepared_jobs_with_a_wrong_session_or_time_are_rejected() -> None:
    jobs = [
        Prepared(1, None, "label_resource", "t", b"{}", None, 5, None),  # type: ignore[arg-type]
        Prepared(2, None, "label_resource", "t", b"{}", None, None, "5"),  # type: ignore[arg-type]
    ]
    tasks, bad = make().tasks_of_prepared(jobs, "me", 0)
    assert not tasks
    assert [one.error and one.error.code for _index, one in bad] == ["bad_session", "bad_time"]
