"""Whole clusters of Ray on this machine, bound to 127.0.0.1, and what becomes of jobs when part of one dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import formatkit

pytest.importorskip("ray", reason="the extra ray is not installed")

pytestmark = pytest.mark.slow

KITS = Path(formatkit.__file__).parent
_RUN_S = 300


def run(name: str, folder: Path) -> tuple[dict[str, Any], str]:
    """What a run of `ray_runs.py` tells, and what it wrote to standard error."""
    env = {**os.environ, "PYTHONPATH": str(KITS)}
    command = [sys.executable, "-W", "ignore", str(KITS / "ray_runs.py"), name, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_RUN_S, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told, done.stderr


@pytest.mark.parametrize("what", ["node_killed", "actor_killed"])
def test_every_row_has_one_outcome_when_part_of_the_cluster_is_killed(what: str, tmp_path: Path) -> None:
    told, _ = run(what, tmp_path)
    assert told["ids"] == list(range(3000))
    assert told["statuses"] == {"vicious ok": 2700, "backend refused": 300}
    assert all(label["description"] == f"k{number}" for number, label in told["labels"].items())
    # It was in the middle: the killed process had asked, and another one went on asking.
    killed = str(told["killed"])
    assert killed in told["asked_before"]
    assert sum(count for process, count in told["asked_after"].items() if process != killed) > 0


def test_what_was_taken_of_a_piece_is_not_taken_again_when_its_actor_is_killed(tmp_path: Path) -> None:
    told, _ = run("killed_within_a_piece", tmp_path)
    assert told["ids"] == list(range(40_000))
    assert told["statuses"] == {"vicious ok": 39_000, "backend refused": 1000}
    # Not all was done when the actor died, and what was done once was done again.
    assert sum(told["asked_before"].values()) < 1000
    assert sum(told["asked_before"].values()) + sum(told["asked_after"].values()) > 1000


def test_a_poisoned_guard_costs_only_the_jobs_that_poison_it(tmp_path: Path) -> None:
    told, _ = run("poisoned", tmp_path)
    assert told["ids"] == list(range(400))
    assert told["statuses"] == {"vicious ok": 397, "vicious trap": 2, "vicious timeout": 1}


def test_a_node_of_another_version_is_told_from_the_cluster(tmp_path: Path) -> None:
    told, _ = run("versions_differ", tmp_path)
    assert told["type"] == "VersionsDiffer"
    assert "a node of the cluster has guardpool" in told["message"]
    assert "not 0.0.9" in told["message"]


def test_the_command_reads_and_writes_lines_and_columns_on_a_cluster(tmp_path: Path) -> None:
    told, errors = run("command", tmp_path)
    assert told["statuses"] == {"lines": 0, "columns": 0, "no jobs": 1}
    rows = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_bytes().splitlines()]
    assert sorted(row["id"] for row in rows) == list(range(300))
    assert {row["status"] for row in rows} == {"ok"}
    columns = formatkit.outcomes_of(tmp_path / "columns.parquet")
    # Ids of several kinds are text in a column; the line that is no job has the number of its first byte, behind 300 rows.
    odd = {"a", "355"}
    assert {row["id"] for row in columns} == {*map(str, range(300)), *odd}
    assert [row["status"] for row in columns if row["id"] == "355"] == ["rejected"]
    assert "300 jobs" in errors
    assert "guardpool: nothing/*.jsonl: the jobs cannot be read: no file fits this pattern" in errors
