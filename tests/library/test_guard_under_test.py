"""`guardpool.testing.guard`: what authors of guards test them with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import enginekit
import guardkit
from guardpool import CallerError, Guard, Limits, ModuleError, PolicyError, samples
from guardpool.testing import GuardUnderTest, guard

POLICY = {"allow-only": {"repos": "all", "min-integrity": "none"}}
ISSUE = {"owner": "octo", "repo": "rocket-keys", "issue_number": 1}


def made(name: str, **options: Any) -> GuardUnderTest:
    return guard(guardkit.wat(name), POLICY, engine=enginekit.ENGINE_NAME, **options)


# As a test file of a guard's author has it; but here no process may be left after any test.
by_letter = made("by_letter").fixture(scope="function")
github = guard(samples.GUARD, samples.POLICY, backend=samples.backend, engine=enginekit.ENGINE_NAME).fixture("function")


def test_a_fixture_gives_labels(github: GuardUnderTest) -> None:
    label = github.label_resource("get_issue", ISSUE)
    assert label.secrecy == {"private:octo/rocket-keys"}
    assert github.agent.mode == "filter"
    assert github.outcome.duration_us > 0
    assert github.questions == [("search_repositories", {"query": "repo:octo/rocket-keys", "perPage": 10})]
    assert any(line.startswith("debug: label_resource: ") for line in github.logs)


def test_items_of_a_response_have_their_labels(github: GuardUnderTest) -> None:
    issues = [{"number": 1, "author_association": "MEMBER"}, {"number": 2, "author_association": "NONE"}]
    items = github.items("list_issues", issues, tool_args={"owner": "bramble-soft", "repo": "hedge"})
    assert [item.data for item in items] == issues
    assert ["approved:all" in item.labels.integrity for item in items] == [True, False]
    assert github.label_response("list_issues", issues, tool_args=ISSUE) is not None


def test_a_call_without_a_label_fails_with_everything_that_is_known(by_letter: GuardUnderTest) -> None:
    with pytest.raises(AssertionError) as caught:
        by_letter.label_resource("trap")
    lines = str(caught.value).splitlines()
    assert lines[0] == "label_resource trap: it gave no label; the outcome is trap"
    assert lines[1].startswith("  trap: unreachable")
    assert lines[2].startswith("  in label_resource (function 6) at byte 0x")
    with pytest.raises(AssertionError, match="it gave no fine-grained labels; the outcome is ok"):
        by_letter.items("list_issues", [1])
    assert by_letter.label_response("list_issues", [1]) is None
    with pytest.raises(AssertionError) as caught:
        by_letter.resource_fails("refused", "log")
    assert "it should have been refused; the outcome is ok\n  ResourceLabel(" in str(caught.value)
    assert "  logged: warning: \\x1b]0;pwned" in str(caught.value), "harmless on a terminal"


def test_a_failure_that_is_expected_passes(by_letter: GuardUnderTest) -> None:
    assert by_letter.resource_fails("refused", "refuse").guard_code == -5
    assert by_letter.resource_fails("trap", "trap").trap == "unreachable"
    with pytest.raises(ValueError, match="'refusing' is no status: it is one of ok, refused"):
        by_letter.resource_fails("refusing", "refuse")
    assert by_letter.label_resource("x").operation == "read", "the next call finds the guard as it should be"


def test_a_guard_may_be_started_again_and_keeps_no_state() -> None:
    counts = made("counts")
    for _ in range(2):
        with counts:
            assert [counts.resource_fails("refused", "x").guard_code for _ in range(2)] == [-101, -102]
    with pytest.raises(CallerError, match="with"):
        counts.label_resource("x")


def test_without_a_backend_the_guard_gets_minus_one() -> None:
    with made("backend", limits=Limits(timeout_s=1.0)) as running:
        assert running.resource_fails("refused", "get_me", {"a": 1}).guard_code == -100_001
        assert running.questions == [("get_issue", {"tool_name": "get_me", "tool_args": {"a": 1}})]
        assert running.response_fails("rejected", 5, [1]).code == "bad_tool_name"  # type: ignore[arg-type]


def test_what_cannot_be_started_says_why(tmp_path: Path) -> None:
    for wasm, policy, error in (
        (tmp_path / "no.wasm", POLICY, FileNotFoundError),
        (b"not wasm", POLICY, ModuleError),
        (guardkit.wat("by_letter"), {"allow": 1}, PolicyError),
    ):
        with pytest.raises(error), guard(wasm, policy, engine=enginekit.ENGINE_NAME):
            raise AssertionError("it must not start")


def test_pytest_is_imported_for_a_fixture_only() -> None:
    code = "import sys, guardpool.testing as t; t.guard('g.wasm', {}); sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_its_parameters_are_those_of_guard() -> None:
    import inspect

    ours, theirs = inspect.signature(guard).parameters, inspect.signature(Guard).parameters
    assert set(theirs) - set(ours) == {"name", "path", "remember", "on_backend_failure"}
