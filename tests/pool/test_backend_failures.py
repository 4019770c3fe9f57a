"""A backend that fails is told of in a few lines, however many questions it leaves without an answer."""

from __future__ import annotations

import datetime
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from guardpool import Guard, GuardPool, Job, Limits, samples
from guardpool.backends import Recorder
from guardpool.samples.repositories import REPOSITORIES
from guardpool.supervise.backend_failures import INTERVAL_S, MOST_TOLD, BackendFailures


def test_a_failure_is_told_once_and_its_count_after_a_while() -> None:
    failures = BackendFailures()
    assert failures.line(0.0, "g", "t", "down") == "guard g: backend call of t failed: down"
    assert failures.line(1.0, "g", "t", "down") is None
    assert failures.line(2.0, "g", "t", "down") is None
    assert failures.line(2.0, "h", "t", "down") == "guard h: backend call of t failed: down"
    again = failures.line(INTERVAL_S, "g", "t", "down")
    assert again == "guard g: backend call of t failed: down (3 times since it was last told)"


def test_many_different_failures_are_cut_with_one_line_that_says_so() -> None:
    failures = BackendFailures()
    lines = [failures.line(0.0, "g", "t", f"down {number}") for number in range(1000)]
    assert all(lines[:MOST_TOLD])
    assert lines[MOST_TOLD] == "more failures of backend calls follow that are counted in outcomes only"
    assert not any(lines[MOST_TOLD + 1 :])
    assert failures.line(INTERVAL_S, "g", "t", "new") == "guard g: backend call of t failed: new"


def jobs() -> list[Job]:
    """One for each repository, so that each asks a question of its own."""
    names = [name.split("/") for name in REPOSITORIES]
    return [Job(n, "label_resource", "get_issue", {"owner": o, "repo": r}) for n, (o, r) in enumerate(names)]


def test_a_backend_that_raises_gives_one_line_for_all_questions(caplog: pytest.LogCaptureFixture) -> None:
    def down(_tool: str, _args: Any) -> Any:
        raise KeyboardInterrupt

    guard = Guard.from_file(samples.GUARD, "github", samples.POLICY, backend=down)
    with caplog.at_level(logging.WARNING), GuardPool([guard], workers=1) as pool:
        failed = sum(outcome.backend.failed for outcome in pool.map(jobs()))
    said = [record.getMessage() for record in caplog.records]
    assert failed == len(REPOSITORIES)
    assert said.count("guard github: backend call of search_repositories failed: KeyboardInterrupt") == 1
    assert not any("backend call" in line for line in set(said[1:]) - {said[0]})


def test_a_backend_that_hangs_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    def hangs(_tool: str, _args: Any) -> Any:
        over.wait(60)

    guard = Guard.from_file(samples.GUARD, "github", samples.POLICY, backend=hangs)
    limits = Limits(backend_timeout_s=0.05)
    try:
        with caplog.at_level(logging.WARNING), GuardPool([guard], workers=1, limits=limits) as pool:
            assert [outcome.backend.failed for outcome in pool.map(jobs()[:3])] == [1, 1, 1]
            pool.flush_logs()
    finally:
        over.set()
    said = [record.getMessage() for record in caplog.records]
    assert said.count("guard github: backend call of search_repositories failed: no answer within 0.05 s") == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"private": float("nan")}, "NotJson: the answer.private: NaN is not JSON"),
        ([{"at": datetime.date(2026, 1, 1)}], "NotJson: the answer[0].at: date is not JSON"),
        (b"{}", "NotJson: the answer: bytes is not JSON"),
        ({1: 2}, "NotJson: the answer: the key 1 is not a string"),
        ({"a", "b"}, "NotJson: the answer: set is not JSON"),
    ],
)
def test_an_answer_that_is_not_json_is_a_failure_wherever_it_is_asked(answer: Any, why: str, tmp_path: Path) -> None:
    table = tmp_path / "replies.jsonl"
    for backend in (lambda _tool, _args: answer, Recorder(lambda _tool, _args: answer, table)):
        guard = Guard.from_file(samples.GUARD, "github", samples.POLICY, backend=backend, on_backend_failure="withhold")
        with GuardPool([guard], workers=1) as pool:
            outcome = pool.submit(jobs()[0]).result(60)
        assert (outcome.status, outcome.backend.failed) == ("unanswered", outcome.backend.asked)
        assert outcome.error is not None
        assert why in outcome.error.backend
    (kept,) = map(json.loads, table.read_text().splitlines())
    assert kept["error"] == why.removeprefix("NotJson: ")
