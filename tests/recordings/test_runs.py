"""A folder of twenty runs of several formats: every line accounted for, and the table that the command prints of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, strategies as st

from clikit import Bench
from guardpool import recordings
from guardpool.recordings import Call, ResultIs
from recordingkit import checked
from runkit import POLICY, make_runs, text_log


def test_twenty_runs_of_several_formats_lose_nothing(tmp_path: Path) -> None:
    made = make_runs(tmp_path, 20)
    calls, tally = checked(tmp_path)
    text = [call for call in calls if call.source == "gateway-log"]
    agents = [call for call in calls if call.source == "claude-code"]
    assert len(text) == made.text_denials == 20
    assert len(agents) == made.transcript_calls == 20
    assert {call.result_is for call in agents} == {ResultIs.FILTERED}
    assert len(calls) - len(text) - len(agents) == made.gateway_calls
    assert tally.reasons["counts-only"] == made.counted
    assert {call.run for call in calls} == {str(9000 + number) for number in range(20)}
    assert {call.workflow for call in calls} == {"triage 0", "triage 1", "triage 2"}
    assert set(tally.formats) == {
        *("rpc-messages/v2", "rpc-messages/legacy", "difc-filtered/v2", "gateway-log", "claude-code"),
        *("tools.json", "gateway.md", "gateway.jsonl"),
    }
    assert not {"not-json", "unknown-format", "malformed-line"} & set(tally.reasons)


def test_policy_and_mode_of_every_run_are_at_hand(tmp_path: Path) -> None:
    make_runs(tmp_path, 3)
    reader = recordings.read(tmp_path)
    list(reader)
    assert {run.name for run in reader.runs.values()} == {"9000", "9001", "9002"}
    for run in reader.runs.values():
        assert run.facts["policy"][0].value == POLICY
        assert run.facts["mode"][0].value == {"server": "github", "difc_mode": "filter"}
        assert run.server_of("list_issues") == "github"


def test_import_of_twenty_runs_prints_a_table(tmp_path: Path) -> None:
    cli = Bench(tmp_path / "out")
    cli.folder.mkdir(exist_ok=True)
    make_runs(tmp_path / "runs", 20)
    out, tally = cli.folder / "calls.jsonl", cli.folder / "tally.json"
    done = cli.run("import", tmp_path / "runs", "-o", out, "--tally", tally)
    written = [Call.from_json(line) for line in out.read_bytes().splitlines()]
    table = done.stderr.decode()
    told = json.loads(tally.read_text())
    assert len(written) == told["calls"]
    assert told["lines"] == told["in_calls"] + sum(told["reasons"].values())
    for word in (*told["formats"], *told["reasons"], *told["results"]):
        assert word in table
    assert done.returncode == 3, "the samples have lost payloads and unanswered calls"


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 40), st.binary(max_size=12)), max_size=4))
def test_mutated_text_logs_give_calls_or_counted_lines(edits: list[tuple[int, int, bytes]]) -> None:
    event = '{"server_id":"slack","tool_name":"send_message","description":"issue:acme/web"}'
    text = (
        text_log(1) + f"[2026-10-02T08:00:01Z] [WARN] [difc] [DIFC-DENIED] {event}\n  more\n" + text_log(2)
    ).encode()
    for at, length, new in edits:
        text = text[:at] + new + text[at + length :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mcp-gateway.log"
        path.write_bytes(text)
        checked(path)
