"""Policies tried on recordings: how often each call is labelled, and that what is saved changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guardpool import Guard, GuardPool, Limits, recordings, replaying, samples
from guardpool.recordings import Role
from guardpool.recordings.replies import ReplyLines
from guardpool.what_if import Candidate, Outlook, WhatIf
from replaykit import call

LEVELS = ("approved", "none")


class CountingPool(GuardPool):
    """A pool that counts the jobs of all such pools."""

    jobs = 0

    def kill(self) -> None:
        CountingPool.jobs += sum(self.stats().outcomes.values())
        super().kill()


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "GuardPool", CountingPool)
    CountingPool.jobs = 0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "rpc-messages.jsonl"
    path.write_text("\n".join(samples.recording(20, seed=2)) + "\n")
    return path


def tried(calls: Any, modes: Any = (None, "propagate")) -> tuple[list[Outlook], list[tuple[Any, ...]]]:
    """The outlooks of two policies, and what changes side."""
    guard = Guard("github", samples.GUARD.read_bytes())
    candidates = [
        Candidate(level, {None: {"github": {"allow-only": {"repos": "all", "min-integrity": level}}}})
        for level in LEVELS
    ]
    what_if = WhatIf([guard], candidates, modes, workers=1, limits=Limits(timeout_s=30), log_level="off")
    changes = [(each.outlook.policy, each.outlook.mode, each.after.call, *each.what) for each in what_if.run(calls)]
    return what_if.outlooks, changes


def facts(outlooks: list[Outlook]) -> list[dict[str, Any]]:
    return [
        {name: getattr(each, name) for name in each.__dataclass_fields__ if name != "summaries"} for each in outlooks
    ]


def only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the reading never stand for the first policy's run."""
    tell = WhatIf._tell
    monkeypatch.setattr(WhatIf, "_tell", lambda self, calls, step: tell(self, calls, step) and False)


def jobs_of_one_replay(calls: Any) -> int:
    guard = Guard("github", samples.GUARD.read_bytes(), samples.POLICY)
    with replaying.replay(calls, [guard], workers=1, limits=Limits(timeout_s=30), log_level="off") as replayed:
        assert sum(1 for _ in replayed)
    jobs, CountingPool.jobs = CountingPool.jobs, 0
    return jobs


def test_each_policy_labels_a_gateways_log_once(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = jobs_of_one_replay(recordings.read(log))
    outlooks, changes = tried(recordings.read(log))
    assert CountingPool.jobs == len(LEVELS) * once
    assert changes
    only_read(monkeypatch)
    again, changes_again = tried(recordings.read(log))
    assert CountingPool.jobs == (2 * len(LEVELS) + 1) * once, "the first policy's labels are made twice here"
    assert changes == changes_again
    assert facts(outlooks) == facts(again)


def test_each_policy_labels_calls_that_are_known_once(log: Path) -> None:
    guard = Guard("github", samples.GUARD.read_bytes(), samples.POLICY)
    calls: list[recordings.Call] = []
    several = replaying.replays(recordings.read(log), [guard], modes=[None], workers=1, log_level="off")
    several.labels.keep(lambda each, _is_passed_on: calls.append(each))
    assert sum(1 for _ in several)
    CountingPool.jobs = 0
    once = jobs_of_one_replay(calls)
    _outlooks, changes = tried(calls)
    assert CountingPool.jobs == len(LEVELS) * once
    assert changes


def told(number: int, tool: str, args: Any, answer: Any, role: Role = Role.CANDIDATE) -> recordings.Call:
    """A call of a gateway's log."""
    members = {"args_json": msgspec.json.encode(args), "role": role}
    result = {"content": [{"type": "text", "text": msgspec.json.encode(answer).decode()}]}
    log = {"source": "rpc-messages/v2", "server": "github", "result_json": msgspec.json.encode(result)}
    return call(number, tool, **log, **members)


def test_a_reading_in_which_a_call_answered_its_own_guard_is_not_the_first_policys_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The guard asks about the repository what the agent's only call asks, too: a run of its own has no answer to that."""
    repository = {"id": 1, "name": "web", "full_name": "acme/web", "private": False, "visibility": "public"}
    query = {"query": "repo:acme/web", "perPage": 10}
    calls = [told(1, "search_repositories", query, {"total_count": 1, "items": [repository]})]
    outlooks, changes = tried(calls)
    only_read(monkeypatch)
    again, changes_again = tried(calls)
    assert changes == changes_again
    assert facts(outlooks) == facts(again)
    assert [each.missing for each in outlooks[0].summaries] == [each.missing for each in again[0].summaries]


def in_two_sessions(calls: list[recordings.Call]) -> list[recordings.Call]:
    return [msgspec.structs.replace(each, session=f"s{number % 2}") for number, each in enumerate(calls)]


def with_two_answers(calls: list[recordings.Call]) -> list[recordings.Call]:
    """The same calls; a question that is asked again and again is answered otherwise the last time."""
    repeated = Counter(each.args_json for each in calls if each.tool == "search_repositories")
    asked, _times = repeated.most_common(1)[0]
    last = max(number for number, each in enumerate(calls) if each.args_json == asked)
    result = {"content": [{"type": "text", "text": '{"total_count": 0, "items": []}'}]}
    changed = msgspec.structs.replace(calls[last], result_json=msgspec.json.encode(result))
    return [*calls[:last], changed, *calls[last + 1 :]]


@pytest.mark.parametrize("changed", [in_two_sessions, with_two_answers])
def test_what_depends_on_the_order_of_reading_is_not_the_first_policys_run(
    log: Path, monkeypatch: pytest.MonkeyPatch, changed: Callable[[list[recordings.Call]], list[recordings.Call]]
) -> None:
    calls = changed(list(recordings.read(log)))
    outlooks, changes = tried(calls)
    only_read(monkeypatch)
    again, changes_again = tried(calls)
    assert changes == changes_again
    assert facts(outlooks) == facts(again)
    assert [each.conflicts for each in outlooks[0].summaries] == [each.conflicts for each in again[0].summaries]


def test_what_the_agent_asked_itself_counts_among_the_answers_to_guards() -> None:
    answers = ReplyLines()
    assert not answers.of_told(told(1, "get_repo", {"n": 1}, "own, of a tool that no guard asked for", Role.AGENT))
    assert answers.of_told(told(2, "get_repo", {"n": 2}, "asked", Role.ENRICHMENT))
    assert answers.of_told(told(3, "get_repo", {"n": 3}, "own", Role.AGENT))
    assert not answers.of_told(told(4, "get_repo", {"n": 3}, "asked", Role.ENRICHMENT))
    assert answers.conflicts == 1
