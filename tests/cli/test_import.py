"""`guardpool import`, and what `guardpool label` says of files that are not jobs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from clikit import Bench
from guardpool import samples
from guardpool.recordings import Call
from poolkit import wait_until

ASK = {"method": "tools/call", "params": {"name": "issue_read", "arguments": {"repo": "web", "owner": "acme"}}}


def line(event: str, at: int, **more: object) -> str:
    head = {"timestamp": f"2026-08-15T10:00:00.{at:03}Z", "event": event, "_schema": "rpc-message/v2"}
    return json.dumps({**head, "server_id": "github", **more}) + "\n"


def pair(at: int, tool: str, text: str) -> str:
    ask = {**ASK, "params": {**ASK["params"], "name": tool}}  # type: ignore[dict-item]
    answer = {"id": 1, "result": {"content": [{"type": "text", "text": text}]}}
    return line("rpc_request", at, method="tools/call", payload=ask) + line("rpc_response", at + 1, payload=answer)


@pytest.fixture
def cli(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def log(cli: Bench) -> Path:
    path = cli.folder / "rpc-messages.jsonl"
    path.write_text(pair(0, "list_issues", "a") + pair(2, "issue_read", "b") + pair(4, "issue_read", "c"))
    return path


def test_calls_and_tally_are_written_and_are_private(cli: Bench, log: Path) -> None:
    out, tally = cli.folder / "calls.jsonl", cli.folder / "tally.json"
    done = cli.run("import", log, "-o", out, "--tally", tally)
    assert done.returncode == 0
    calls = [Call.from_json(each) for each in out.read_bytes().splitlines()]
    assert [call.tool for call in calls] == ["list_issues", "issue_read", "issue_read"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (out, tally)} == {0o600}
    told = json.loads(tally.read_text())
    assert (told["lines"], told["in_calls"], told["reasons"]) == (6, 6, {})
    assert set(told) == {"lines", "in_calls", "calls", "formats", "pairing", "payload", "results", "reasons"}
    assert b"rpc-messages/v2" in done.stderr


def test_what_was_not_understood_is_shown_and_is_exit_3(cli: Bench, log: Path) -> None:
    with log.open("a") as file:
        file.write("\x1b[2Jwhat?\n")
    done = cli.run("import", log, "-o", cli.folder / "calls.jsonl")
    assert done.returncode == 3
    assert b"not-json" in done.stderr
    assert b"\\x1b[2Jwhat?" in done.stderr
    assert b"\x1b[2J" not in done.stderr


def test_replies_have_canonical_arguments_and_the_first_answer(cli: Bench, log: Path) -> None:
    replies = cli.folder / "replies.jsonl"
    done = cli.run("import", log, "-o", cli.folder / "calls.jsonl", "--replies", replies)
    (line,) = replies.read_bytes().splitlines()
    assert line.startswith(b'{"tool":"issue_read","args":{"owner":"acme","repo":"web"},"result":{')
    assert json.loads(line)["result"] == {"content": [{"type": "text", "text": "b"}]}
    assert b"1 answer to guards' questions written; 1 later ones differ" in done.stderr


def test_calls_can_be_imported_again(cli: Bench, log: Path) -> None:
    once, twice = cli.folder / "once", cli.folder / "twice"
    cli.run("import", log, "-o", once)
    assert cli.run("import", once, "-o", twice).returncode == 0
    assert once.read_bytes() == twice.read_bytes()


def test_a_recording_is_never_written_over(cli: Bench, log: Path) -> None:
    before = log.read_bytes()
    done = cli.run("import", log, "-o", log)
    assert done.returncode == 1
    assert b"is the same file" in done.stderr
    assert log.read_bytes() == before


def test_two_kinds_of_lines_do_not_stand_among_one_another_in_standard_output(cli: Bench, log: Path) -> None:
    done = cli.run("import", log, "-o", "-", "--jobs", "-")
    assert done.returncode == 1
    assert b"the jobs and the calls cannot both be written there" in done.stderr
    assert not done.stdout


def test_label_names_the_command_that_takes_a_recording(cli: Bench, log: Path) -> None:
    policy = cli.folder / "policy.json"
    policy.write_text(json.dumps(samples.POLICY))
    calls, out = cli.folder / "calls.jsonl", cli.folder / "out.jsonl"
    cli.run("import", log, "-o", calls)
    for path, command in (
        (log, f"guardpool import {log} -o calls.jsonl"),
        (calls, f"guardpool import {calls} -o /dev/null --jobs jobs.jsonl"),
    ):
        done = cli.run("label", path, "-o", out, "-g", f"g={samples.GUARD}", "-p", f"g={policy}")
        assert (done.returncode, command in done.stderr.decode()) == (4, True)


def test_guard_tells_its_own_questions_from_the_agents_calls(cli: Bench) -> None:
    log, out, policy, replies = (
        cli.folder / name for name in ("log.jsonl", "calls.jsonl", "policy.json", "replies.jsonl")
    )
    log.write_text("\n".join(samples.recording(300, seed=1)) + "\n")
    policy.write_text(json.dumps(samples.POLICY))
    guard = ("-g", f"github={samples.GUARD}", "-p", f"github={policy}")
    done = cli.run("import", log, "-o", out, "--replies", replies, *guard)
    assert b"the guards asked " in done.stderr
    calls = [Call.from_json(each) for each in out.read_bytes().splitlines()]
    truth = {f"log.jsonl{each['call']}": each["role"] for each in samples.recording_truth(300, seed=1)}
    told = [(truth[call.call], call.role.value) for call in calls if call.call in truth]
    assert ("agent", "enrichment") not in told, "no call of the agent's is taken for a question"
    assert told.count(("enrichment", "enrichment")) > 2 * told.count(("enrichment", "agent"))
    asked = [each for call in calls for each in call.enrichment]
    assert len(asked) == told.count(("enrichment", "enrichment"))
    assert {each["tool"] for each in asked} == {"search_repositories"}
    assert len(replies.read_bytes().splitlines()) == len({json.dumps(each["args"], sort_keys=True) for each in asked})


def test_limits_reach_the_guards_of_the_recording(cli: Bench, log: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(samples.POLICY))
    guard = ("-g", f"github={samples.GUARD}", "-p", f"github={policy}")
    done = cli.run("import", log, "-o", tmp_path / "calls", *guard, "--max-input", 64)
    assert b"the guards asked 0 questions" in done.stderr, "every call is larger than that: no guard saw one"


def test_guard_without_a_policy_is_a_mistake_before_anything_is_written(cli: Bench, log: Path) -> None:
    out = cli.folder / "calls.jsonl"
    done = cli.run("import", log, "-o", out, "-g", f"github={samples.GUARD}")
    assert (done.returncode, out.exists()) == (2, False)
    assert b"--policy github=POLICY.json" in done.stderr


def test_jobs_of_an_import_can_be_labelled(cli: Bench, log: Path) -> None:
    jobs, policy, outcomes = (cli.folder / name for name in ("jobs.jsonl", "policy.json", "outcomes.jsonl"))
    policy.write_text(json.dumps(samples.POLICY))
    assert cli.run("import", log, "-o", cli.folder / "calls.jsonl", "--jobs", jobs).returncode == 0
    assert [json.loads(each)["id"] for each in jobs.read_bytes().splitlines()][:2] == [
        "rpc-messages.jsonl#1/resource",
        "rpc-messages.jsonl#1/response",
    ]
    label = ("label", jobs, "-o", outcomes, "-g", f"github={samples.GUARD}", "-p", f"github={policy}")
    assert cli.run(*label, "--fail-on-error").returncode == 0
    assert len(outcomes.read_bytes().splitlines()) == 6


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_import_leaves_whole_lines_and_says_so(cli: Bench, signum: signal.Signals) -> None:
    out, part = cli.folder / "calls.jsonl", cli.folder / "calls.jsonl.part"
    out.write_text("of an earlier run\n")
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from guardpool.cli import main; sys.exit(main())",
            "import",
            "-",
            "-o",
            out,
        ],
        stdin=reader,
        stderr=subprocess.PIPE,
    )
    os.close(reader)
    with process:
        # More than one portion, and then silence: the command waits for what nobody writes.
        data = "".join(pair(0, "list_issues", "a") for _ in range(3000)).encode()
        with open(writer, "wb", buffering=0) as pipe:
            while data:
                data = data[pipe.write(data) :]
            wait_until(lambda: part.exists() and part.stat().st_size, "calls are written")
            process.send_signal(signum)
            _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    assert f"calls written to {part}, whole lines only".encode() in told
    assert out.read_text() == "of an earlier run\n", "the calls are not all there, so they replace nothing"
    written = part.read_bytes()
    assert written.endswith(b"\n")
    assert all(Call.from_json(line).tool == "list_issues" for line in written.splitlines())


def test_no_output_destroys_a_guard_or_a_policy(cli: Bench, log: Path) -> None:
    policy = cli.folder / "policy.json"
    policy.write_text(json.dumps(samples.POLICY))
    guard = ("-g", f"github={samples.GUARD}", "-p", f"github={policy}")
    done = cli.run("import", log, "-o", policy, *guard)
    assert done.returncode == 1
    assert b"is the same file" in done.stderr
    assert json.loads(policy.read_text()) == samples.POLICY


def test_jobs_name_the_guard_of_their_server(cli: Bench) -> None:
    log, jobs = cli.folder / "log", cli.folder / "jobs"
    log.write_text(pair(0, "list_issues", "a") + pair(1, "send", "b").replace('"github"', '"slack"'))
    cli.run("import", log, "-o", cli.folder / "calls", "--jobs", jobs)
    assert [json.loads(line)["guard"] for line in jobs.read_bytes().splitlines()] == ["github"] * 2 + ["slack"] * 2


def test_jobs_have_the_session_and_the_time_of_their_call(cli: Bench) -> None:
    log, jobs = cli.folder / "log", cli.folder / "jobs"
    log.write_text(pair(0, "list_issues", "a") + pair(1, "get_issue", "b"))
    cli.run("import", log, "-o", cli.folder / "calls", "--jobs", jobs)
    calls = [json.loads(line) for line in (cli.folder / "calls").read_bytes().splitlines()]
    lines = [json.loads(line) for line in jobs.read_bytes().splitlines()]
    assert [line["session"] for line in lines] == [call["session"] for call in calls for _ in range(2)]
    times = [datetime.fromtimestamp(line["time"], timezone.utc) for line in lines]
    assert times == [time_of(call[which]) for call in calls for which in ("at", "until")]


def time_of(text: str) -> datetime:
    """As a recording of these tests has it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_folder_without_a_file_is_a_mistake(cli: Bench) -> None:
    empty = cli.folder / "empty"
    empty.mkdir()
    done = cli.run("import", empty, "-o", cli.folder / "calls")
    assert (done.returncode, (cli.folder / "calls").exists()) == (1, False)
    assert b"no file is in it" in done.stderr
