"""`guardpool label` from every format to every format, and what it says of files that it cannot use."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import formatkit
from clikit import Bench, wait_until
from formatkit import FORMATS, job, lines, outcomes_of

pa = pytest.importorskip("pyarrow", reason="pyarrow has no wheel for this Python")
pq = pytest.importorskip("pyarrow.parquet")

JOBS = [job(number, "trap" if number % 50 == 9 else "get") for number in range(400)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.prepare(tmp_path_factory.mktemp("formats"))


@pytest.fixture(scope="module")
def plain(bench: Bench) -> list[dict[str, Any]]:
    """What lines of JSON become."""
    path = formatkit.write(bench.folder / "jobs.jsonl", JOBS)
    done = bench.run("label", path, "-o", bench.folder / "plain.jsonl", *bench.guard, "--no-timing")
    assert done.returncode == 0
    return outcomes_of(bench.folder / "plain.jsonl")


def one_line(done: subprocess.CompletedProcess[bytes], status: int) -> str:
    """What a command that failed said: one line."""
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == status
    return line.removeprefix("guardpool: ")


@pytest.mark.parametrize(("source", "target"), [*zip(FORMATS, ("parquet", "jsonl.zst", "jsonl.gz", "jsonl"))])
def test_any_format_becomes_any_other(
    bench: Bench, plain: list[dict[str, Any]], tmp_path: Path, source: str, target: str
) -> None:
    jobs, out = formatkit.write(tmp_path / f"jobs.{source}", JOBS), tmp_path / f"out.{target}"
    done = bench.run("label", jobs, "-o", out, *bench.guard, "--no-timing")
    assert done.returncode == 0
    assert outcomes_of(out) == plain
    assert sorted(os.listdir(tmp_path)) == sorted([jobs.name, out.name, f"{out.name}.manifest.json"])


def test_several_files_and_a_folder_are_one_run(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    formatkit.write(tmp_path / "folder" / "b.jsonl.gz", JOBS[:10])
    formatkit.write(tmp_path / "folder" / "a.parquet", JOBS[10:20])
    last = formatkit.write(tmp_path / "c.jsonl", JOBS[20:30])
    done = bench.run("label", tmp_path / "folder", last, "-o", "-", *bench.guard)
    assert done.returncode == 0
    assert done.stderr.startswith(b"guardpool: 30 jobs in ")
    (tmp_path / "o.jsonl").write_bytes(done.stdout)
    assert [each["id"] for each in outcomes_of(tmp_path / "o.jsonl")] == [*range(10, 20), *range(10), *range(20, 30)]


def test_a_cut_file_keeps_what_was_labelled_and_says_where_it_ends(bench: Bench, tmp_path: Path) -> None:
    jobs, out = tmp_path / "jobs.jsonl.gz", tmp_path / "out.jsonl.gz"
    jobs.write_bytes(gzip.compress(lines(JOBS[:7])) + gzip.compress(lines(JOBS))[:50])
    out.write_text("old")
    said = one_line(bench.run("label", jobs, "-o", out, *bench.guard), 1)
    assert said == (
        f"{jobs}: the jobs cannot be read after line 7: the gzip stream ends too early; "
        f"7 outcomes were written to {out}.part, and {out} is as it was; once the input is whole, the same command "
        "with --resume goes on"
    )
    assert out.read_text() == "old"
    (tmp_path / "part.gz").write_bytes((tmp_path / "out.jsonl.gz.part").read_bytes())
    assert [each["id"] for each in outcomes_of(tmp_path / "part.gz")] == list(range(7))


def test_files_that_cannot_be_used_are_one_line(bench: Bench, tmp_path: Path) -> None:
    columns = tmp_path / "columns.parquet"
    pq.write_table(pa.table({"tool": ["t"], "args": ["{}"]}), columns)
    said = one_line(bench.run("label", columns, "-o", tmp_path / "o", *bench.guard), 4)
    assert said.startswith(
        f"{columns}: the jobs cannot be read: it lacks the columns op and tool_name, which every job needs: it"
    )
    jobs = formatkit.write(tmp_path / "jobs.parquet", JOBS[:2])
    said = one_line(bench.run("label", "-", "-o", tmp_path / "o", *bench.guard, stdin=jobs.read_bytes()), 4)
    assert (
        said == "standard input: no line was a job: it is a Parquet file: name the file, since it is read from its end"
    )
    said = one_line(bench.run("label", jobs, "-o", "/dev/null/x.parquet", *bench.guard), 1)
    assert "the outcomes cannot be written: Not a directory" in said
    os.mkfifo(tmp_path / "pipe.parquet")
    reader = os.open(tmp_path / "pipe.parquet", os.O_RDONLY | os.O_NONBLOCK)
    said = one_line(bench.run("label", jobs, "-o", tmp_path / "pipe.parquet", *bench.guard), 1)
    os.close(reader)
    assert said.endswith("Parquet is written from its end: name a file, and not a pipe or a device")
    assert sorted(os.listdir(tmp_path)) == ["columns.parquet", "jobs.parquet", "pipe.parquet"]


@pytest.mark.parametrize("target", ["jsonl.gz", pytest.param("parquet", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_in_any_format(bench: Bench, tmp_path: Path, target: str) -> None:
    # The one job that spins holds the run until it is killed; a run that goes on labels it with another limit.
    jobs = [*JOBS[:300], job(300, "spin"), *JOBS[301:]]
    path, out = formatkit.write(tmp_path / "jobs.parquet", jobs), tmp_path / f"out.{target}"
    command = ["label", path, "-o", out, *bench.guard, "--no-timing", "-w", "1", "--resume"]
    with bench.start(*command, "--timeout", "60", stderr=subprocess.DEVNULL) as process:
        journal = tmp_path / f"out.{target}.part.journal"
        wait_until(lambda: journal.exists() and journal.stat().st_size > 500, process)
        process.send_signal(signal.SIGKILL)
    done = bench.run(*command, "--timeout", "0.5")
    assert done.returncode == 0, done.stderr
    assert b" before the interruption" in done.stderr
    told = outcomes_of(out)
    assert [each["id"] for each in told] == list(range(400))
    assert [each["id"] for each in told if each["status"] == "timeout"] == [300]
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, out.name, f"{out.name}.manifest.json"])
