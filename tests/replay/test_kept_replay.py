"""Replays with kept labels: the same decisions without a guard, from the file that `guardpool label` uses too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import backendkit
from guardpool import DecisionRecord, Guard, Limits, ReplaySummary, recordings, samples
from guardpool.batch import KeptLabelsError, label_file
from guardpool.batch.jobline import job_line
from guardpool.recordings import Call
from guardpool.recordings.to_jobs import resource_job, response_job
from guardpool.what_if import Candidate, WhatIf
from replaykit import POLICY, call, guard, replayed


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """Calls of twenty sessions; what guards asked stands among them as the agent's."""
    path = tmp_path_factory.mktemp("kept") / "rpc-messages.jsonl"
    path.write_text("\n".join(samples.recording(150, seed=4)) + "\n")
    return [
        msgspec.structs.replace(each, source="json-rpc", session=str(number // 7), role="agent")
        for number, each in enumerate(recordings.read(path))
    ]


@pytest.fixture(scope="module")
def sample_guard() -> Guard:
    return Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY, backend=samples.backend)


def lines(records: list[DecisionRecord]) -> list[bytes]:
    return [record.to_line() for record in records]


@pytest.mark.parametrize("order", ["session", "any"])
def test_a_second_replay_takes_every_label_from_the_file(
    calls: list[Call], sample_guard: Guard, kept: Path, order: str
) -> None:
    def run(workers: int) -> tuple[list[DecisionRecord], ReplaySummary]:
        return replayed(iter(calls), [sample_guard], workers=workers, order=order, keep_labels=kept)

    first, made = run(1)
    again, taken = run(2)
    assert made.kept_labels == 0
    assert taken.kept_labels > 150
    assert taken.kept_labels == sum(
        job is not None for each in calls if each.server for job in (resource_job(each), response_job(each))
    )
    assert lines(again) == lines(first)
    assert lines(replayed(iter(calls), [sample_guard])[0]) == lines(first)
    assert taken.kept_problems == []


def test_a_replay_takes_labels_that_label_kept(tmp_path: Path, kept: Path) -> None:
    told = [call(number) for number in range(60)]
    jobs = [job for each in told for job in (resource_job(each), response_job(each)) if job is not None]
    (tmp_path / "jobs").write_bytes(b"".join(map(job_line, jobs)))
    label_file(tmp_path / "jobs", tmp_path / "out", [guard()], keep_labels=kept, limits=Limits(timeout_s=30), workers=1)
    records, summary = replayed(iter(told), keep_labels=kept)
    assert summary.kept_labels == len(jobs) == 120
    assert lines(records) == lines(replayed(iter(told))[0])


def test_a_policy_of_its_own_and_what_failed_are_labelled_again(kept: Path) -> None:
    told = [call(1), call(2, "t"), call(3)]
    first, _ = replayed(iter(told), keep_labels=kept)
    again, summary = replayed(iter(told), keep_labels=kept)
    assert lines(first) == lines(again)
    assert summary.kept_labels == 5, "all but the one that trapped"
    other = guard(policy={"allow-only": {"repos": "all", "min-integrity": "none"}})
    assert replayed(iter(told), [other], keep_labels=kept)[1].kept_labels == 0


def test_a_reply_that_is_another_now_makes_a_label_anew(calls: list[Call], sample_guard: Guard, kept: Path) -> None:
    def other(tool: str, args: Any) -> Any:
        answer = samples.backend(tool, args)
        return {**answer, "items": [{**item, "private": True, "visibility": "private"} for item in answer["items"]]}

    replayed(iter(calls), [sample_guard], keep_labels=kept)
    changed = sample_guard.but(backend=other)
    records, summary = replayed(iter(calls), [changed], keep_labels=kept)
    assert summary.kept_labels < 150
    assert lines(records) == lines(replayed(iter(calls), [changed])[0])


@pytest.mark.parametrize("changed", ["gh", "ghes"])
def test_equal_calls_of_two_servers_have_the_labels_of_their_own_backends(kept: Path, changed: str) -> None:
    wasm, answers = backendkit.describes_by_answer(), {"gh": "public", "ghes": "public"}
    told = [call(0, "get_issue", call=f"log.jsonl#{at}", server=name) for at, name in enumerate(answers)]

    def taken() -> int:
        guards = [Guard(name, wasm, POLICY, backend=lambda *_, name=name: answers[name]) for name in answers]
        return replayed(iter(told), guards, keep_labels=kept)[1].kept_labels

    assert taken() == 0
    answers[changed] = "private"
    assert taken() == 2, "those of the other one: an instance may remember in a response what it was told before"


def test_a_gateways_own_log_is_labelled_anew(tmp_path: Path, kept: Path) -> None:
    (tmp_path / "rpc-messages.jsonl").write_text("\n".join(samples.recording(40, seed=3)) + "\n")
    one = Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY)
    runs = [replayed(recordings.read(tmp_path / "rpc-messages.jsonl"), [one], keep_labels=kept) for _ in range(2)]
    assert lines(runs[0][0]) == lines(runs[1][0])
    assert [(summary.kept_labels, summary.enrichment > 0) for _, summary in runs] == [(0, True), (0, True)]


def test_what_if_takes_labels_of_policies_that_were_tried_before(kept: Path) -> None:
    told = [call(number) for number in range(30)]
    policies = [{"allow-only": {"repos": "all", "min-integrity": level}} for level in ("none", "approved", "merged")]

    def run(count: int) -> list[int]:
        candidates = [Candidate(str(at), {None: {"g": policies[at]}}) for at in range(count)]
        options: dict[str, Any] = {"limits": Limits(timeout_s=30), "workers": 1, "log_level": "off"}
        what_if = WhatIf([guard()], candidates, keep_labels=kept, **options)
        assert sum(1 for _ in what_if.run(iter(told))) >= 0
        return [sum(each.kept_labels for each in outlook.summaries) for outlook in what_if.outlooks]

    assert run(2)[1] == 0
    assert run(3) == [60, 60, 0]


def test_a_file_that_cannot_be_used_is_told_before_anything_runs(kept: Path) -> None:
    kept.write_bytes(b"mine" * 300)
    kept.chmod(0o600)
    with pytest.raises(KeptLabelsError, match="the kept labels cannot be used: file is not a database"):
        replayed([call(1)], keep_labels=kept)
    assert kept.read_bytes() == b"mine" * 300
