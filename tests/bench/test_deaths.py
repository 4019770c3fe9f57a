"""The two tables about deaths: they can be made, and have the rows they should."""

from __future__ import annotations

import subprocess
import sys

from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


def run(script: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_timeline_of_a_kill_has_every_step_in_its_order() -> None:
    lines = run("kill_timeline.py", "--kills", "1")
    starts = [at for at, line in enumerate(lines) if line.endswith((" the deadline", " the SIGKILL", " the trap"))]
    assert len(starts) == 3
    tables = [lines[at + 1 : end] for at, end in zip(starts, [*starts[1:], len(lines)])]
    for table, first in zip(tables, ("deadline passed", "SIGKILL from outside", "SIGKILL from outside, or the trap")):
        steps = [line.strip().split("   ")[0] for line in table if line]
        assert steps[0].startswith(first)
        assert {"death noticed", "successor forked", "successor ready (HELLO)"} <= set(steps)
        assert steps[-2:] == ["next result", "the caller has it"]
        assert "the worker: sandbox closed" in steps
    assert "kill sent" in "\n".join(tables[0])


def test_all_jobs_but_the_one_that_kills_its_worker_come_back() -> None:
    head, columns, *rows = run("side_by_side_deaths.py", "--jobs", "60", "--limit", "50", "--only", "guardpool")
    assert head.startswith("60 jobs on 2 workers")
    assert columns.split()[:3] == ["results", "errors", "missing"]
    found = {row[:42].strip(): row[42:].split() for row in rows}
    assert {name: (words[:3], words[4], words[5]) for name, words in found.items()} == {
        "guardpool, a trap": (["59", "0", "0"], "`trap`", "yes"),
        "guardpool, past its deadline": (["59", "0", "0"], "`timeout`", "yes"),
        "guardpool, past its memory": (["59", "0", "0"], "`memory`", "yes"),
        "guardpool, all workers killed twice": (["59", "0", "0"], "`crashed`", "yes"),
    }
