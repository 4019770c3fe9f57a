"""The gateway's other files, and folders of runs: what they add, what belongs together, and what is never opened."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guardpool import recordings, samples
from guardpool.recordings import Call, Pairing, ResultIs, Tally, runs
from guardpool.recordings.runs import MAX_PAYLOAD_BYTES, Fact
from recordingkit import checked
from runkit import write_transcript

ReadText = Callable[[str], tuple[list[Call], Tally]]

DENIED = "Access DENIED for agent default to issue:acme/web: resource lacks required integrity to write"


def log(*messages: str, category: str = "difc") -> str:
    return "".join(f"[2026-08-15T23:48:42.900Z] [WARN] [{category}] {message}\n" for message in messages)


def test_denial_of_the_text_log_is_a_call_without_arguments(read_text: ReadText) -> None:
    calls, tally = read_text(log(DENIED, "circuit breaker closed"))
    (call,) = calls
    assert (call.source, call.agent, call.at, call.tool) == ("gateway-log", "default", "2026-08-15T23:48:42.900Z", None)
    assert (call.result_is, call.pairing) == (ResultIs.NOT_RECORDED, Pairing.UNMATCHED)
    assert call.observed == {
        "denied": {"description": "issue:acme/web", "reason": "resource lacks required integrity to write"}
    }
    assert tally.reasons == {"other-log-line": 1}


def test_denial_as_json_has_its_tool_and_is_not_counted_with_the_text_beside_it(read_text: ReadText) -> None:
    event = {"server_id": "slack", "tool_name": "send_message", "description": "issue:acme/web", "reason": "x"}
    calls, tally = read_text(log(f"[DIFC-DENIED] {json.dumps(event)}", DENIED))
    assert [(call.server, call.tool) for call in calls] == [("slack", "send_message")]
    assert tally.reasons == {"told-elsewhere": 1}


@pytest.mark.parametrize("json_is_first", [True, False])
def test_two_lines_of_one_denial_are_one_call_that_knows_agent_and_tool(
    read_text: ReadText, json_is_first: bool
) -> None:
    event = {"server_id": "github", "tool_name": "issue_write", "description": "issue:acme/web"}
    lines = [f"[DIFC-DENIED] {json.dumps(event)}", DENIED]
    calls, tally = read_text(log(*lines if json_is_first else reversed(lines)))
    assert [(call.agent, call.server, call.tool) for call in calls] == [("default", "github", "issue_write")]
    assert tally.reasons == {"told-elsewhere": 1}


def test_denial_of_a_second_try_is_a_second_call(read_text: ReadText) -> None:
    event = f"[DIFC-DENIED] {json.dumps({'tool_name': 't', 'description': 'issue:acme/web'})}"
    calls, _ = read_text(log(DENIED, DENIED))
    assert len(calls) == 2
    calls, tally = read_text(log(DENIED, event, DENIED, event, *["other"] * 40, DENIED, event))
    assert [call.tool for call in calls] == ["t"] * 3
    assert tally.reasons == {"told-elsewhere": 3, "other-log-line": 40}


def test_denial_of_the_messages_is_matched_with_one_of_the_text_only(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 1)
    event = {"event": "difc_filtered", "_schema": "difc-filtered/v2", "server_id": "s", "tool_name": "t"}
    tags: dict[str, list[str]] = {"agent_secrecy_tags": [], "agent_integrity_tags": []}
    with (run / "mcp-logs" / "rpc-messages.jsonl").open("a") as file:
        file.write(json.dumps({**event, "description": "issue:acme/web", "reason": "x", **tags}) + "\n")
    for name in ("mcp-gateway.log", "github.log"):
        (run / "mcp-logs" / name).write_text(log(DENIED, DENIED))
    calls, tally = checked(tmp_path)
    denied = [call.observed["denied"] for call in calls if call.observed and "denied" in call.observed]
    assert sum(each["description"] == "issue:acme/web" for each in denied) == 2
    assert tally.reasons["told-elsewhere"] == 3


def test_line_of_a_page_for_people_hides_no_call_behind_it(tmp_path: Path) -> None:
    lines = samples.recording(20)
    (tmp_path / "log").write_text("".join(line + "\n" for line in lines))
    expected = len(checked(tmp_path / "log")[0])
    for strange in ("<details>", "- \U0001f50d rpc **github**", "<details>\ntext\n</details>\nmore"):
        (tmp_path / "log").write_text("".join(line + "\n" for line in [*lines[:4], strange, *lines[4:]]))
        assert len(checked(tmp_path / "log")[0]) == expected


@pytest.mark.parametrize("at", ["mcp-logs", "sandbox", "sandbox/agent/logs"])
def test_folder_of_a_run_that_is_a_link_is_not_read(tmp_path: Path, at: str) -> None:
    run = run_folder(tmp_path / "runs" / "run", 1)
    before = len(checked(tmp_path / "runs")[0])
    (run / at).rename(tmp_path / "elsewhere")
    (run / at).symlink_to(tmp_path / "elsewhere")
    assert 0 < len(checked(tmp_path / "runs")[0]) < before


def test_policy_mode_and_failures_are_facts_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "mcp-gateway.log"
    policy = {"allow-only": {"repos": "all", "min-integrity": "approved"}}
    path.write_text(
        log(
            f"Guard policy: {json.dumps(policy)}",
            "Guard policy initialized: server=github, difc_mode=filter",
            'label_agent response: {"difc_mode":"filter"}',
            "WASM guard trap: guard=github, func=label_response, error=unreachable",
            "  at a second line of it",
            "STRICT MODE: Blocking entire response - 2/5 items filtered",
            "guard load failed, falling back to noop guard",
        ).replace("[2026-08-15T23:48:42.900Z] [WARN] [difc]   at", "  at")
    )
    reader = recordings.read(path)
    assert list(reader) == []
    facts = reader.runs["mcp-gateway.log"].facts
    assert [fact.value for fact in facts["policy"]] == [policy]
    assert [fact.value for fact in facts["label_agent"]] == [{"difc_mode": "filter"}]
    message = "Guard policy initialized: server=github, difc_mode=filter"
    value = {"server": "github", "difc_mode": "filter"}
    assert facts["mode"] == [Fact("mcp-gateway.log#2", "2026-08-15T23:48:42.900Z", message, value)]
    (trap,) = facts["guard-failure"]
    assert trap.value == {"guard": "github", "func": "label_response", "error": "unreachable"}
    assert set(facts) == {"policy", "mode", "label_agent", "guard-failure", "strict-block", "noop"}
    assert reader.tally.reasons == {"fact-of-the-run": 6, "other-log-line": 1}
    assert reader.tally.is_complete


def test_counts_lists_of_tools_and_texts_for_people_are_known_and_hold_no_call(read_text: ReadText) -> None:
    counted = {"type": "request", "event": "tool_call", "server_name": "github", "tool_name": "x", "status": "success"}
    tools = {"servers": {"github": [{"name": "list_issues", "description": "..."}]}}
    markdown = "<details>\n<summary>MCP Gateway</summary>\n\n- 🔍 rpc **github**→`tools/call` `list_issues`\n"
    calls, tally = read_text(json.dumps(counted) + "\n" + json.dumps(tools) + "\n" + markdown)
    assert (calls, tally.is_complete) == ([], True)
    assert tally.reasons == {"counts-only": 1, "fact-of-the-run": 1, "for-people": 4}


def test_golden_cases_of_the_guard_corpus_are_calls_with_what_is_expected(read_text: ReadText) -> None:
    labels = {"secrecy": [], "integrity": ["none:all"]}
    corpus = {
        "version": 1,
        "allow_only_policy": {"allow-only": {"repos": "all"}},
        "backend_replay": [{"tool": "search_repositories", "args": {"query": "x"}, "response": {"items": []}}],
        "resource_cases": [{"name": "list", "tool_name": "list_issues", "tool_args": {"a": 1}, "expected": labels}],
        "response_cases": [
            {"name": "one", "tool_name": "list_issues", "tool_result": [{"n": 7}], "expected_default": None}
        ],
    }
    text = json.dumps(corpus, indent=1) + "\n"
    calls, tally = read_text(text)
    assert [(call.source, call.source_id, call.result_is) for call in calls] == [
        ("guard-corpus/v1", "list", ResultIs.NOT_RECORDED),
        ("guard-corpus/v1", "one", ResultIs.RAW),
    ]
    assert calls[0].observed == {"allow_only_policy": {"allow-only": {"repos": "all"}}, "expected": labels}
    assert calls[1].result == [{"n": 7}]
    assert calls[0].enrichment == ({"tool": "search_repositories", "args": {"query": "x"}, "result": {"items": []}},)
    assert tally.in_calls == text.count("\n")


# --- folders of runs


def run_folder(folder: Path, number: int, **info: Any) -> Path:
    """A run as `gh aw logs` leaves it: two logs of the gateway, a transcript, and files that are no recordings."""
    logs = folder / "mcp-logs"
    logs.mkdir(parents=True)
    (folder / "aw_info.json").write_text(
        json.dumps({"workflow_name": f"triage {number}", "repository": "acme/web", **info})
    )
    (folder / "prompt.txt").write_text("Look at the issues.\n")
    (folder / "agent_output.json").write_text("{}\n")
    (logs / "tools.json").write_text('{"servers":{}}\n')
    (logs / "rpc-messages.jsonl").write_text("\n".join(samples.recording(20, number)) + "\n")
    (logs / "mcp-gateway.log").write_text(log("Guard policy: {}", DENIED))
    write_transcript(folder, number)
    return folder


def test_folder_of_runs_is_read_run_by_run_with_its_names(tmp_path: Path) -> None:
    for number in range(20):
        run_folder(tmp_path / f"run-{number:02}", number)
    calls, tally = checked(tmp_path)
    assert {(call.run, call.workflow, call.repository) for call in calls} == {
        (f"run-{number:02}", f"triage {number}", "acme/web") for number in range(20)
    }
    assert {call.source for call in calls} >= {"rpc-messages/v2", "gateway-log", "claude-code"}
    assert sum(call.source == "gateway-log" for call in calls) == 20
    assert "not-json" not in tally.reasons, "prompts and outputs are no inputs"
    assert "unknown-format" not in tally.reasons


def test_denial_that_both_logs_tell_of_is_one_call(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 1)
    event = {"event": "difc_filtered", "_schema": "difc-filtered/v2", "server_id": "s", "tool_name": "t"}
    tags: dict[str, list[str]] = {"agent_secrecy_tags": [], "agent_integrity_tags": []}
    with (run / "mcp-logs" / "rpc-messages.jsonl").open("a") as file:
        file.write(json.dumps({**event, "description": "issue:acme/web", "reason": "x", **tags}) + "\n")
    calls, tally = checked(tmp_path)
    events = [(call.source, (call.observed or {}).get("denied", {})) for call in calls]
    denied = [source for source, event in events if event.get("description") == "issue:acme/web"]
    assert denied == ["difc-filtered/v2"]
    assert tally.reasons["told-elsewhere"] == 1


@pytest.mark.parametrize("how", ["folder", "glob", "named, text first"])
def test_logs_of_one_folder_are_one_run_even_outside_a_run(tmp_path: Path, how: str) -> None:
    logs = run_folder(tmp_path / "run", 1) / "mcp-logs"
    event = {"event": "difc_filtered", "_schema": "difc-filtered/v2", "server_id": "s", "tool_name": "t"}
    tags: dict[str, list[str]] = {"agent_secrecy_tags": [], "agent_integrity_tags": []}
    with (logs / "rpc-messages.jsonl").open("a") as file:
        file.write(json.dumps({**event, "description": "issue:acme/web", "reason": "x", **tags}) + "\n")
    named = [logs / "mcp-gateway.log", logs / "rpc-messages.jsonl"]
    paths = {"folder": [logs], "glob": [str(logs / "*")], "named, text first": named}[how]
    reader = recordings.read(paths)
    calls = list(reader)
    assert not [call for call in calls if call.source == "gateway-log"]
    assert reader.tally.reasons["told-elsewhere"] == 1
    assert [fact.value for run in reader.runs.values() for fact in run.facts.get("policy", [])] == [{}]
    assert {call.run for call in calls} == {None}


def test_run_number_of_the_info_names_the_run_and_runs_within_runs_are_read(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", 1, run_id=4711)
    run_folder(tmp_path / "run" / "second", 2)
    assert {call.run for call in checked(tmp_path)[0]} == {"4711", "second"}


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ({"github": ["list_issues"]}, "github"),
        ({"github": ["list_issues"], "other": ["list_issues"]}, None),
        ({}, None),
    ],
)
def test_tool_without_a_server_is_looked_up_in_the_list(
    tmp_path: Path, servers: dict[str, list[str]], expected: str | None
) -> None:
    run = run_folder(tmp_path / "run", 1)
    lists = {server: [{"name": tool} for tool in tools] for server, tools in servers.items()}
    (run / "mcp-logs" / "tools.json").write_text(json.dumps({"servers": lists}))
    transcript = run / "sandbox" / "agent" / "logs" / "session.jsonl"
    call = {"id": "c1", "type": "function", "function": {"name": "list_issues", "arguments": "{}"}}
    transcript.write_text(json.dumps({"messages": [{"role": "assistant", "tool_calls": [call]}]}) + "\n")
    assert [call.server for call in checked(tmp_path)[0] if call.source == "openai-chat"] == [expected]


def payload(run: Path, number: int, text: str = '[{"number":7}]', where: str = "") -> Path:
    file = run / where / f"s{number}" / "q1" / "payload.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def stub_call(folder: Path) -> Call:
    (call,) = [call for call in checked(folder)[0] if call.source == "claude-code"]
    return call


@pytest.mark.parametrize("where", ["", "jq-payloads"])
def test_stub_is_answered_from_the_payload_file_of_its_run(tmp_path: Path, where: str) -> None:
    payload(run_folder(tmp_path / "run", 1), 1, where=where)
    call = stub_call(tmp_path)
    assert call.result == {"content": [{"type": "text", "text": '[{"number":7}]'}]}
    assert call.result_is is ResultIs.FILTERED


def test_payload_file_that_holds_a_result_is_the_result(tmp_path: Path) -> None:
    result = {"content": [{"type": "text", "text": "[]"}], "isError": False}
    payload(run_folder(tmp_path / "run", 1), 1, json.dumps(result))
    assert stub_call(tmp_path).result == result


def test_stubs_that_name_one_file_again_and_again_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_PAYLOADS_BYTES", 100)
    run = run_folder(tmp_path / "run", 1)
    payload(run, 1, "[" + "1," * 19 + "1]")
    transcript = run / "sandbox" / "agent" / "logs" / "session.jsonl"
    lines = transcript.read_text()
    transcript.write_text("".join(lines.replace('"u', f'"u{at}-').replace('"t1"', f'"t{at}"') for at in range(5)))
    states = [call.result_is for call in checked(tmp_path)[0] if call.source == "claude-code"]
    assert states == [ResultIs.FILTERED] * 2 + [ResultIs.STUB] * 3


def test_no_payload_is_taken_from_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('["secret"]')
    run = run_folder(tmp_path / "runs" / "run", 1)
    runs = tmp_path / "runs"
    assert stub_call(runs).result_is is ResultIs.STUB  # there is none

    link = payload(run, 1)
    link.unlink()
    link.symlink_to(secret)
    assert stub_call(runs).result_is is ResultIs.STUB
    link.unlink()
    os.mkfifo(link)
    assert stub_call(runs).result_is is ResultIs.STUB  # and nobody waits for a writer
    link.unlink()
    with link.open("wb") as file:
        file.truncate(MAX_PAYLOAD_BYTES + 1)
    assert stub_call(runs).result_is is ResultIs.STUB
    link.unlink()

    link.parent.rmdir()
    link.parent.symlink_to(secret.parent / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "payload.json").write_text('["secret"]')
    assert stub_call(runs).result_is is ResultIs.STUB


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../q1/payload.json", "s1/../payload.json", "s1/q1/other.json", "payload.json", 7]
)
def test_path_that_a_recording_names_is_never_opened(tmp_path: Path, path: Any) -> None:
    run = run_folder(tmp_path / "run", 1)
    payload(run, 1)
    transcript = run / "sandbox" / "agent" / "logs" / "session.jsonl"
    transcript.write_text(transcript.read_text().replace("/tmp/jq-payloads/s1/q1/payload.json", str(path)))
    assert stub_call(tmp_path).result_is is ResultIs.STUB
