"""Folders of gh-aw runs as `gh aw logs` leaves them: the gateway's logs of several versions, transcripts, and much else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

from guardpool import samples

AT = "2026-08-15T23:48:42.900Z"
DENIED = "Access DENIED for agent default to issue:acme/web: resource lacks required integrity to write"
POLICY = {"allow-only": {"repos": "all", "min-integrity": "approved"}}


class Runs(NamedTuple):
    """What a folder of runs holds: what a reading must come to."""

    gateway_calls: int  # of rpc-messages, denials among them
    text_denials: int  # that only the text logs tell of
    transcript_calls: int
    counted: int  # lines of gateway.jsonl


def make_runs(folder: Path, count: int = 20, calls: int = 20) -> Runs:
    """Write `count` runs below a folder. Of every four, one has messages of version 2, one has them compressed, one has legacy
    lines, and one has none but counts."""
    gateway = text = transcript = counted = 0
    for number in range(count):
        run = folder / f"run-{9000 + number}"
        logs = run / "mcp-logs"
        logs.mkdir(parents=True)
        _write_around(run, number)
        kind = ("v2", "gz", "legacy", "counts")[number % 4]
        if kind == "counts":
            (logs / "gateway.jsonl").write_text(_count_line() * calls)
            counted += calls
        elif kind == "legacy":
            (logs / "rpc-messages.jsonl").write_text(_legacy(calls))
            gateway += calls
        else:
            _write_messages(logs, samples.recording(calls, number), is_packed=kind == "gz")
            gateway += len(samples.recording_truth(calls, number))
        (logs / "mcp-gateway.log").write_text(text_log(number))
        text += 1
        write_transcript(run, number)
        _write_payload(run, number)
        transcript += 1
    return Runs(gateway, text, transcript, counted)


def _write_messages(logs: Path, lines: list[str], *, is_packed: bool) -> None:
    text = "".join(line + "\n" for line in lines).encode()
    if is_packed:
        (logs / "rpc-messages.jsonl.gz").write_bytes(gzip.compress(text))
    else:
        (logs / "rpc-messages.jsonl").write_bytes(text)


def text_log(number: int) -> str:
    """A gateway's text log with a policy, a mode, and one denial that stands nowhere else."""
    messages = (
        f"Guard policy: {json.dumps(POLICY)}",
        "Guard policy initialized: server=github, difc_mode=filter",
        f"request {number} has begun",
        DENIED,
    )
    return "".join(f"[{AT}] [INFO] [difc] {message}\n" for message in messages)


def _legacy(calls: int) -> str:
    lines: list[dict[str, Any]] = []
    for at in range(calls):
        head = {"timestamp": f"2026-02-18T01:28:{at % 60:02}.940936559Z", "server_id": "github"}
        params = {"name": "list_issues", "arguments": {"owner": "acme", "repo": "web"}}
        result = {"content": [{"type": "text", "text": "[]"}]}
        ask = {"jsonrpc": "2.0", "method": "tools/call", "params": params}
        lines.append({**head, "direction": "OUT", "type": "REQUEST", "method": "tools/call", "payload": ask})
        lines.append({**head, "direction": "IN", "type": "RESPONSE", "payload": {"id": 1, "result": result}})
    return "".join(json.dumps(line) + "\n" for line in lines)


def _count_line() -> str:
    named = {"server_name": "github", "tool_name": "list_issues", "method": "tools/call"}
    return json.dumps({"timestamp": AT, "level": "info", "type": "request", "event": "tool_call", **named}) + "\n"


def write_transcript(run: Path, number: int) -> None:
    """A session with one call whose answer was too large: the agent got a stub."""
    path = run / "sandbox" / "agent" / "logs" / "session.jsonl"
    path.parent.mkdir(parents=True)
    stub = {"agentInstructions": "...", "payloadPath": f"/tmp/jq-payloads/s{number}/q1/payload.json", "originalSize": 9}
    use = {"type": "tool_use", "id": "t1", "name": "mcp__github__list_issues", "input": {}}
    came = {"type": "tool_result", "tool_use_id": "t1", "content": json.dumps(stub)}
    lines = [
        {"type": kind, "uuid": f"u{at}", "sessionId": f"s{number}", "message": {"content": [block]}}
        for at, (kind, block) in enumerate((("assistant", use), ("user", came)))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_payload(run: Path, number: int) -> None:
    """The answer that the stub stands for."""
    payload = run / f"s{number}" / "q1" / "payload.json"
    payload.parent.mkdir(parents=True)
    payload.write_text('[{"number":7}]')


def _write_around(run: Path, number: int) -> None:
    """What a run has beside its recordings."""
    info = {"run_id": 9000 + number, "workflow_name": f"triage {number % 3}", "repository": "acme/web"}
    (run / "aw_info.json").write_text(json.dumps(info))
    (run / "prompt.txt").write_text("Look at the issues.\n")
    (run / "agent_output.json").write_text("{}\n")
    tools = {"servers": {"github": [{"name": "list_issues", "description": "Lists issues."}]}}
    (run / "mcp-logs" / "tools.json").write_text(json.dumps(tools) + "\n")
    page = (
        "<details>\n<summary>MCP Gateway</summary>\n\n- 🔍 rpc **github**→`tools/call` `list_issues`\n\n"
        '  ```json\n  {"params":{"name":"list_issues"}}\n  ```\n</details>\n'
    )
    (run / "mcp-logs" / "gateway.md").write_text(page)
    access = run / "sandbox" / "firewall" / "logs" / "access.log"
    access.parent.mkdir(parents=True)
    access.write_text("1723765722.9 CONNECT example.com:443\n")
