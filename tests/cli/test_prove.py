"""`guardpool label --prove N`: the jobs whose label depends on more than the job, on a terminal and in the exit status."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

import guardkit
from clikit import TIMEOUT_S, Bench, outcomes


@pytest.fixture
def cli(tmp_path: Path) -> Bench:
    bench = Bench.prepare(tmp_path)
    (tmp_path / "g.wasm").write_bytes(guardkit.wat("cheats"))
    return bench


def test_jobs_whose_label_depends_on_something_are_printed_with_both_labels(cli: Bench) -> None:
    jobs = cli.jobs(["cx", "kx", "rx", "kx", "cx", "r\u202ex"])
    done = cli.run("label", jobs, "--prove", 6, *cli.guard)
    printed, summary = done.stdout.decode(), done.stderr.decode().splitlines()[-1]
    assert done.returncode == 1
    # Where there is another engine, the jobs are labelled with that one, too.
    runs = r"again, shuffled, 4 workers, isolated, deterministic(, wasmer|, wasmtime)?"
    assert re.search(rf"^job 2: label_resource rx, guard g: {runs}$", printed, re.MULTILINE)
    assert "job 4: label_resource cx, guard g: " in printed
    assert f"{printed.count('  first:')} labels depend on more than the job (again 2, " in summary
    assert '{"description":"' in printed
    assert "\u202e" not in printed, "what strangers wrote is printed as it is"
    assert "job 1:" not in printed
    assert "6 jobs (seed 0) were labelled" in summary


def test_the_labels_are_the_same_where_they_depend_on_the_job_alone(cli: Bench) -> None:
    jobs, out, stats = cli.jobs(["cx", "kx", "rx", "tx"] * 2), cli.folder / "out.jsonl", cli.folder / "stats.json"
    words = ("label", jobs, "-o", out, "--stats", stats, "--isolation", "job", "--deterministic", *cli.guard)
    done = cli.run(*words, "--prove", 100)
    assert done.returncode == 0, done.stderr
    assert len(outcomes(out)) == 8
    assert b"8 jobs (seed 0) were labelled" in done.stderr
    assert b"and got the same labels each time" in done.stderr
    digest = json.loads(stats.read_bytes())["manifest_hash"]
    assert done.stdout.decode().count(digest) >= 4, "the hash of all labels, in each run"


def test_outcomes_on_standard_output_stay_apart(cli: Bench) -> None:
    done = cli.run("label", cli.jobs(["rx"] * 3), "-o", "-", "--prove", 2, "--prove-seed", 7, *cli.guard)
    assert done.returncode == 1
    assert len(outcomes(done.stdout)) == 3
    assert b"2 jobs (seed 7) were labelled" in done.stderr
    assert b"job " in done.stderr


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ((), 2, "required: -o/--out"),
        (("--prove", "0"), 2, "whole number from 1"),
        (("--prove", "3", "--stats", "s"), 2, "needs -o OUT"),
        (("--prove", "3", "--record-backend", "r"), 2, "cannot be used with --prove"),
    ],
)
def test_what_cannot_be_proven_is_said_in_one_line(
    cli: Bench, more: tuple[str, ...], status: int, message: str
) -> None:
    done = cli.call("label", cli.jobs(["kx"]), *cli.guard, *more)
    assert (done.returncode, done.stderr.count(b"\n")) == (status, 1)
    assert message in done.stderr.decode()


def test_a_signal_ends_it_and_is_told(cli: Bench) -> None:
    (cli.folder / "g.wasm").write_bytes(guardkit.wat("spin"))
    process = cli.start("label", cli.jobs(["kx"]), "--prove", 1, "--progress", *cli.guard, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline() == b"guardpool: labelling: first\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130
    assert process.stderr.read().splitlines()[-1] == b"guardpool: stopped by SIGINT"
    process.stderr.close()


@pytest.mark.slow  # nine pools
def test_what_a_guard_lacks_is_said_once(cli: Bench) -> None:
    (cli.folder / "g.wasm").write_bytes(guardkit.wat("backend"))
    done = cli.run("label", cli.jobs(["kx"]), "--prove", 1, *cli.guard)
    assert done.stderr.count(b"guardpool: warning: guard g asks its backend and has none") == 1


def test_lines_that_are_not_jobs_prove_nothing(cli: Bench) -> None:
    nothing = cli.folder / "nothing.jsonl"
    nothing.write_text("{}\n")
    done = cli.run("label", nothing, "--prove", 3, *cli.guard)
    assert done.returncode == 4
    assert b"no line is a job" in done.stderr
