"""The comparison of two working trees: it can be made, of a tree with itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

SCRIPT = ROOT / "benchmarks" / "two_trees.py"
_TIMES = ", ".join(rf"{name} [0-9.]+ -> [0-9.]+" for name in ("caller", "supervisor", "workers"))
_LINE = rf"{{}} +[0-9,]+ -> +[0-9,]+ jobs/s, [0-9.]+x \([0-9.]+-[0-9.]+\); {_TIMES} us a job"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_each_kind_of_jobs_has_a_line() -> None:
    done = run(ROOT, "--turns", "1", "--jobs", "mix", "50us")
    assert done.returncode == 0, done.stderr
    mix, jobs_of_50us = done.stdout.splitlines()
    assert re.fullmatch(_LINE.format("mix"), mix)
    assert re.fullmatch(_LINE.format("50us"), jobs_of_50us)


def test_what_is_no_tree_is_named(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith(f"no tree of guardpool: {tmp_path}\n")
