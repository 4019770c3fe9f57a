"""`guardpool demo` on a terminal and on a pipe."""

from __future__ import annotations

import re

import pytest

from clikit import Bench


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("demo"))


def test_the_demo_labels_the_sample_jobs_and_shows_labels(bench: Bench) -> None:
    done = bench.run("demo", "--jobs", 1500, "--workers", 2, COLUMNS="100")
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"", "no bar on a pipe"
    out = done.stdout.decode()
    assert "\x1b" not in out
    assert "2 workers were ready in " in out
    assert "1,500 jobs in " in out
    assert re.search(r"ok +1,500 +100\.0 %", out), "the sample guard labels all sample jobs"
    assert "Some labels of label_resource" in out
    assert "Some labels of label_response" in out
    assert "private:" in out
    assert "approved:" in out


def test_on_a_terminal_the_demo_has_a_bar(bench: Bench) -> None:
    with bench.terminal("demo", "-n", 500, "-w", 1) as terminal:
        assert terminal.finish() == 0
    assert b"\x1b[?25l" in terminal.raw
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")
    assert "500 jobs in " in terminal.text
    lines = terminal.text.replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= 200
