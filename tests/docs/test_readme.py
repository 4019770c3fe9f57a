"""The README's examples run, and show what it says."""

from __future__ import annotations

import re

import msgspec
import pytest

from guardpool import Limits, Status
from paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "AgentLabels(" in printed
    assert "ok ResourceLabel(" in printed
    assert "'ok': " in printed


def test_its_job_and_outcome_lines_are_json_with_the_documented_keys() -> None:
    lines = [msgspec.json.decode(line) for line in re.findall(r"^    (\{.*\})$", README, re.MULTILINE)]
    jobs, outcomes = [line for line in lines if "tool_name" in line], [line for line in lines if "status" in line]
    assert [job["op"] for job in jobs] == ["label_resource", "label_response"]
    assert [list(outcome) for outcome in outcomes] == [
        ["id", "guard", "op", "status", "label", "error", "duration_us", "attempts"]
    ]


def test_its_table_of_outcomes_names_every_status() -> None:
    table = README.split("## Outcomes")[1].split("## Limits")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = [word for row in rows for word in re.findall(r"`(\w+)`", row)]
    assert named == [status.value for status in Status]


def test_its_table_of_limits_names_every_limit() -> None:
    table = README.split("## Limits")[1].split("## Architecture")[0]
    for name in Limits.__dataclass_fields__:
        assert name == "keep_logs" or f"`{name}`" in table
