"""The outcomes that a worker's results make."""

from __future__ import annotations

import tracemalloc
from typing import Any, cast

import msgspec
import pytest

from guardpool.outcomes import BackendUse, LogLine, Outcome, OutcomeError, Question, Status
from guardpool.protocol.wire import BackendTally, QuestionItem, ResultItem
from guardpool.supervise.results import held_bytes, outcome_of_result, outcomes_of_results, with_backend_errors
from guardpool.supervise.scheduler import Task

ERROR = OutcomeError("trap", "unreachable", trap="unreachable")


def task(deaths: int = 0, seq: int = 1) -> Task:
    return Task(seq, 0, "label_resource", b"{}", 0, cast("Any", None), 0, "id", "t", deaths)


def test_a_label_is_the_outcome_of_an_ok_result() -> None:
    item = ResultItem(1, "ok", b"null", 42, 3, [])
    for outcome in (
        outcome_of_result(task(1), item, "g", False),
        outcomes_of_results([task(1)], [item], ["g"], False)[0],
    ):
        assert (outcome.id, outcome.guard, outcome.op) == ("id", "g", "label_resource")
        assert (outcome.tool_name, outcome.status) == ("t", Status.OK)
        assert (outcome.label_json, outcome.error, outcome.duration_us) == (b"null", None, 42)
        assert (outcome.attempts, outcome.backend_calls, outcome.logs) == (2, 3, ())


@pytest.mark.parametrize("status", ["refused", "invalid", "trap", "rejected", "memory"])
def test_an_error_is_the_outcome_of_every_other_result(status: Any) -> None:
    outcome = outcome_of_result(task(), ResultItem(1, status, ERROR, 1, 0, []), "g", False)
    assert (outcome.tool_name, outcome.status, outcome.error, outcome.label) == ("t", status, ERROR, None)


@pytest.mark.parametrize(("status", "body"), [("ok", ERROR), ("trap", b"{}"), ("refused", b"")])
def test_a_result_whose_status_contradicts_its_body_gives_no_label(status: Any, body: Any) -> None:
    for outcome in (
        outcome_of_result(task(), ResultItem(1, status, body, 1, 0, []), "g", False),
        outcomes_of_results([task()], [ResultItem(1, status, body, 1, 0, [])], ["g"], False)[0],
    ):
        assert outcome.status is Status.INVALID
        assert outcome.label is None
        assert outcome.error is not None


def test_logs_are_kept_when_asked_for() -> None:
    lines = [LogLine(1, "x")]
    for keep in (True, False):
        outcomes = outcomes_of_results([task()], [ResultItem(1, "ok", b"null", 1, 0, lines)], ["g"], keep)
        assert outcomes[0].logs == ((lines[0],) if keep else ())


def test_what_the_backend_raised_is_in_the_outcome() -> None:
    for item in (ResultItem(1, "ok", b"null", 1, 0, []), ResultItem(1, "refused", ERROR, 1, 0, [])):
        outcome = with_backend_errors(outcome_of_result(task(), item, "g", False), ["KeyError: 1", "no answer"])
        assert [line.text for line in outcome.logs] == ["backend: KeyError: 1", "backend: no answer"]
        assert outcome.error is None or outcome.error.backend == ("no answer", "KeyError: 1")  # last first
        assert (outcome.error is None) == (item.status == "ok")


def test_what_an_outcome_tells_of_questions_is_one_line_that_is_safe_to_print() -> None:
    tally = BackendTally(1, 1, [QuestionItem("a\x1b[2J\nb", b"[1]")], [])
    outcome = outcome_of_result(task(), ResultItem(1, "ok", b"null", 1, 1, [], tally), "g", False, withholds=True)
    assert outcome.error is not None
    assert outcome.error.message.endswith(r"had no answer; the first: a\x1b[2J\nb [1]")


@pytest.mark.parametrize("value", ['"ab"', '"\u0416"', "1.5", "999", '{"a":"b"}', '"\U0001f600"'])
def test_the_memory_of_questions_without_an_answer_is_counted(value: str) -> None:
    args = b"[" + b",".join([value.encode()] * (90 if "{" in value else 500)) + b"]"
    tracemalloc.start()
    try:
        question = Question("t", msgspec.json.decode(args))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    outcome = Outcome(1, "g", "label_resource", "t", Status.OK, backend=BackendUse(1, 0, 1, (question,)))
    assert held_bytes(outcome) > taken / 1.5
