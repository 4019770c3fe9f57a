"""Guards' questions told from the agent's calls while a gateway's log is replayed."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guardpool import Guard, GuardPool, Job, recordings, samples
from guardpool.backends.asking import JOB_THAT_ASKS
from guardpool.batch.call_jobs import CallsInOrder
from guardpool.cli import main
from guardpool.recordings import Call, Role
from guardpool.replaying import replays
from replaykit import call, replayed

REPOSITORY = {"id": 1, "name": "web", "full_name": "acme/web", "private": False, "visibility": "public"}


def told(number: int, tool: str, args: dict[str, Any], answer: Any, **members: Any) -> Call:
    """A call of a gateway's log."""
    text = msgspec.json.encode(answer).decode()
    return call(
        number,
        tool,
        source="rpc-messages/v2",
        server="github",
        args_json=msgspec.json.encode(args),
        result_json=msgspec.json.encode({"content": [{"type": "text", "text": text}]}),
        **members,
    )


def question(number: int, repository: str = "acme/web", role: Role = Role.CANDIDATE) -> Call:
    answer = {"total_count": 1, "incomplete_results": False, "items": [REPOSITORY]}
    return told(number, "search_repositories", {"query": f"repo:{repository}", "perPage": 10}, answer, role=role)


def issue(number: int, repo: str = "web") -> Call:
    args = {"owner": "acme", "repo": repo, "issue_number": number}
    return told(number, "get_issue", args, {"number": number, "user": {"login": "a"}, "author_association": "MEMBER"})


def sample_guard(**options: Any) -> Guard:
    return Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY, **options)


def test_a_question_before_its_call_is_no_decision_and_answers_the_guard() -> None:
    records, summary = replayed([question(1), issue(2), issue(3)], [sample_guard()])
    assert [record.call for record in records] == ["log.jsonl#2", "log.jsonl#3"]
    assert (summary.enrichment, summary.asked, summary.missing) == (1, {"search_repositories": 1}, {})
    assert records[0].resource is not None
    assert records[0].resource.secrecy == ()


def test_a_question_of_a_call_that_is_lost_still_answers_its_guard() -> None:
    """The agent's call is not there to claim it, so it stays the agent's; but it is the answer to what its own guard asks."""
    records, summary = replayed([question(1), issue(2, "other"), issue(3)], [sample_guard()])
    assert [record.tool for record in records] == ["search_repositories", "get_issue", "get_issue"]
    assert summary.missing == {"search_repositories": 1}  # about acme/other
    resources = [record.resource.secrecy for record in records if record.resource is not None]
    assert resources[1:] == [("private:acme/other",), ()]
    missing = records[1].enrichment and records[1].enrichment.missing
    assert missing
    assert missing[0].args == {"query": "repo:acme/other", "perPage": 10}


def test_a_backend_of_the_guards_own_answers_instead_and_questions_are_told_all_the_same() -> None:
    private = {"items": [{**REPOSITORY, "private": True, "visibility": "private"}]}
    records, summary = replayed([question(1), issue(2)], [sample_guard(backend=lambda tool, args: private)])
    assert [record.call for record in records] == ["log.jsonl#2"]
    assert summary.enrichment == 1
    assert records[0].resource is not None
    assert records[0].resource.secrecy == ("private:acme/web",)


def test_only_questions_that_nobody_answered_have_no_answer() -> None:
    """With a backend of the guard's own it does not matter what the recording has."""

    async def answering(tool: str, args: Any) -> Any:
        return {"items": [REPOSITORY]}

    def failing(tool: str, args: Any) -> Any:
        raise LookupError(tool)

    records, summary = replayed([issue(2)], [sample_guard(backend=answering)])
    assert (dict(summary.asked), summary.missing) == ({"search_repositories": 1}, {})
    assert records[0].enrichment is not None
    assert (records[0].enrichment.asked, records[0].enrichment.answered) == (1, 1)
    _, summary = replayed([question(1), issue(2)], [sample_guard(backend=failing)])
    assert (summary.enrichment, summary.missing) == (1, {"search_repositories": 1})


def test_many_calls_are_labelled_ahead_and_come_out_as_one_by_one() -> None:
    calls: list[Call] = []
    for number in range(0, 900, 3):
        calls += [question(number, f"acme/r{number}"), issue(number + 1, f"r{number}"), issue(number + 2, f"r{number}")]
    records, summary = replayed(calls, [sample_guard()])
    assert [record.tool for record in records] == ["get_issue"] * 600
    assert (summary.enrichment, sum(summary.missing.values())) == (300, 0)


def test_each_log_has_a_guard_without_a_memory_and_no_pool_outlives_its_log() -> None:
    calls = []
    for number in range(6):
        part = [question(1), issue(2), *([issue(3)] if number % 2 else [])]
        calls += [msgspec.structs.replace(each, call=f"{number}.jsonl#{at}") for at, each in enumerate(part)]
    told_calls: list[Call] = []
    several = replays(calls, [sample_guard()], modes=[None], workers=2)
    several.labels.keep(lambda each, _is_passed_on: told_calls.append(each))
    most = max(len(several.labels._pools) for _ in several)
    assert (most, several.labels.asked, several.labels.enrichment) == (1, {"search_repositories": 6}, 6)
    assert several.labels._pools == []
    again, summary = replayed(told_calls, [sample_guard()], workers=2)
    assert (len(again), summary.enrichment, summary.missing) == (9, 6, {})


def test_a_backend_is_told_which_job_asks() -> None:
    asked: list[tuple[Any, str]] = []

    def backend(tool: str, args: Any) -> Any:
        asked.append((JOB_THAT_ASKS.get(), threading.current_thread().name))
        return {"items": []}

    guard = sample_guard(backend=backend, remember="never")
    args = [{"owner": "acme", "repo": f"r{number}", "issue_number": 1} for number in range(5)]
    with GuardPool([guard], workers=1, log_level="off") as pool:
        for _ in pool.map(
            Job(f"job {number}", "label_resource", "get_issue", each) for number, each in enumerate(args)
        ):
            pass
    assert [job for job, _thread in asked] == [f"job {number}" for number in range(5)]
    assert JOB_THAT_ASKS.get() is None


def test_questions_are_counted_alike_in_a_log_and_in_what_was_imported_of_it(tmp_path: Path) -> None:
    """Also where the first calls of the log asked nothing, and where the log was imported without guards."""
    log = tmp_path / "rpc-messages.jsonl"
    log.write_text("\n".join(samples.recording(25, seed=5)) + "\n")
    guard = ["-g", f"github={samples.GUARD}", "-p", f"github={tmp_path / 'p.json'}"]
    (tmp_path / "p.json").write_text(json.dumps(samples.POLICY))
    files = [log]
    for name, servers in (("told", guard), ("untold", [])):
        files.append(tmp_path / f"{name}.jsonl")
        assert main(["import", str(log), "-o", str(files[-1]), *servers]) == 3
    github = Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY)
    counts = []
    for each in files:
        records, summary = replayed(recordings.read(each), [github])
        asked = sum(record.enrichment.asked for record in records if record.enrichment)
        counts.append((summary.calls, summary.enrichment, summary.asked, asked))
        assert summary.asked.total() == asked > 0
    assert counts[0] == counts[1] == counts[2]
    told_calls = [each for each in recordings.read(files[1]) if each.server == "github"]
    assert not told_calls[0].enrichment, "the first call asked nothing"
    assert told_calls[0].role is Role.AGENT


def test_further_modes_need_no_further_run_of_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []
    put = CallsInOrder.put
    monkeypatch.setattr(CallsInOrder, "put", lambda labelling, job: jobs.append(job.id) or put(labelling, job))
    calls = [question(1), issue(2), issue(3)]
    modes = ["strict", "filter", "propagate"]
    decided = list(replays(calls, [sample_guard()], modes=modes))
    assert [[record.mode for record in records] for records in decided] == [modes, modes]
    assert len(jobs) == len(set(jobs)) >= 4
    for number, mode in enumerate(modes):
        alone, _ = replayed(calls, [sample_guard()], mode=mode)
        assert [records[number].to_line() for records in decided] == [record.to_line() for record in alone]
