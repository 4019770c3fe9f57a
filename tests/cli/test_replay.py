"""`guardpool replay` and `guardpool what-if`, as a user runs them."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import guardkit
from clikit import Bench
from guardpool import samples
from guardpool.cli.findings import exit_status
from guardpool.cli.replay import Options
from guardpool.decide import read_records
from guardpool.recordings import Call
from poolkit import wait_until
from replaykit import call, without_result

POLICY = {"allow-only": {"repos": "all", "min-integrity": "approved"}}


@pytest.fixture
def cli(tmp_path: Path) -> Bench:
    """A folder with the guard `by_letter` as `g.wasm`, its policy `p.json`, and a recording `calls.jsonl`."""
    bench = Bench.prepare(tmp_path)
    write(bench, "calls.jsonl", [call(1), call(2, "list_issues")])
    return bench


def write(cli: Bench, name: str, calls: list[Call]) -> Path:
    path = cli.folder / name
    path.write_bytes(b"".join(each.to_json() + b"\n" for each in calls))
    return path


def saved(cli: Bench, name: str, value: Any) -> Path:
    path = cli.folder / name
    path.write_bytes(msgspec.json.encode(value))
    return path


# --- replay


def test_decisions_and_summary_are_written_and_are_private(cli: Bench) -> None:
    out, summary = cli.folder / "decisions.jsonl", cli.folder / "summary.json"
    done = cli.run("replay", cli.folder / "calls.jsonl", *cli.guard, "-o", out, "--summary", summary, "-w", 1)
    assert done.returncode == 3, done.stderr  # the calls are of server `g`, whose guard labels; see the next test
