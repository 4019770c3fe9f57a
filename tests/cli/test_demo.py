"""`guardpool demo` on a terminal and on a pipe, and the files and commands of `guardpool demo --write`."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

import clikit
from clikit import Bench
from guardpool import Guard, GuardPool, Outcome, samples
from guardpool.batch import encode_outcome
from guardpool.cli import demo
from guardpool.decide import read_records

FILES = ["commands.sh", "github_guard.wasm", "jobs.jsonl", "policy.json", "replies.jsonl", "rpc-messages.jsonl"]


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Bench:
    folder = tmp_path_factory.mktemp("demo")
    monkeypatch.setenv("TMPDIR", str(folder))  # the replay's log and decisions stay there
    return Bench(folder)


def shell(bench: Bench, *command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a user would, in a shell that finds `guardpool`."""
    programs = bench.folder / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "guardpool"
    code = "import sys; from guardpool.cli import main; sys.exit(main())"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
    program.chmod(0o755)
    environment = bench.environment(PATH=f"{programs}{os.pathsep}{os.environ['PATH']}", COLUMNS="100")
    return subprocess.run(
        command, capture_output=True, env=environment, cwd=bench.folder, timeout=clikit.TIMEOUT_S, check=False
    )


def printed_commands(out: str) -> str:
    """The commands that `demo --write` printed: its indented lines."""
    return "\n".join(line[2:] for line in out.splitlines() if line.startswith("  "))


def labels_of(outcomes: list[Outcome]) -> list[bytes]:
    return [outcome.label_json for outcome in outcomes]


def labelled_in_a_pool(count: int, *, backend: bool) -> list[Outcome]:
    """What the sample jobs get in a pool, without files."""
    guard = Guard.from_file(
        samples.GUARD, name="github", policy=samples.POLICY, backend=samples.backend if backend else None
    )
    with GuardPool([guard], workers=1, log_level="error") as pool:
        return list(pool.map(samples.jobs(count)))


def test_limits_of_the_demo_reach_its_pool(bench: Bench) -> None:
    done = bench.run("demo", "-n", 20, "-w", 1, "--max-input", 64)
    assert done.returncode == 0
    out = done.stdout.decode()
    assert out.startswith("1 worker was ready in ")
    assert re.search(r"^rejected +\d+ +\d+\.\d %$", out, re.MULTILINE)
    assert "Some labels of label_response" not in out, "there are none"
    assert "\n1 job in " in bench.run("demo", "-n", 1, "-w", 1).stdout.decode()


def test_the_demo_labels_the_sample_jobs_and_shows_labels(bench: Bench) -> None:
    done = bench.run("demo", "--jobs", 1500, "--workers", 2, COLUMNS="100")
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"", "no bar on a pipe"
    out = done.stdout.decode()
    assert "\x1b" not in out
    assert "2 workers were ready in " in out
    assert "1,500 jobs in " in out
    assert re.search(r"ok +1,500 +100\.0 %", out), "the sample guard labels every sample job"
    assert "Some labels of label_resource" in out
    assert "Some labels of label_response" in out
    assert "private:" in out
    assert "approved:" in out
    assert "A gateway's log of 200 such calls, replayed\nThe replay agrees with the recording in " in out
    assert re.search(r"^\d+ calls with findings$", out, re.MULTILINE)
    (folder,) = bench.folder.glob("guardpool-demo-*")
    assert f"The log and the decisions are in {folder}\n" in out
    decisions = folder / "decisions.jsonl"
    assert (decisions.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    with decisions.open("rb") as lines:
        assert len(list(read_records(lines, "decisions"))) > 190
    page = folder / "report.html"
    assert f"A report on them: {page}\n" in out
    assert page.read_bytes().startswith(b"<!doctype html>")


def test_the_demo_answers_its_guard_from_the_table_of_replies_and_says_so(bench: Bench) -> None:
    done = bench.run("demo", "-n", 300, "-w", 1, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode()
    table = f"A table of {len(samples.replies())} recorded replies answers it."
    assert f"The guard asks which repositories are public. {table}\n" in out
    # The totals are those of a pool with that table, and so are the labels that are shown.
    expected = labelled_in_a_pool(300, backend=True)
    asked = sum(outcome.backend.asked for outcome in expected)
    assert f"\nThe guard asked its backend {asked} times, and was answered each time\n" in out
    labels = [json.loads(outcome.label_json) for outcome in expected if outcome.op == "label_resource"]
    shown = re.findall(r"^\S+ +(?:read|read-write|write) (\S+) .*; (\S+)$", out, re.MULTILINE)
    assert len(shown) == 6
    assert set(shown) <= {(label["description"], ", ".join(label["secrecy"]) or "-") for label in labels}
    assert "-" in dict(shown).values(), "some repositories are public"


def test_the_demo_shows_a_bar_on_a_terminal(bench: Bench) -> None:
    with bench.terminal("demo", "-n", 500, "-w", 1) as terminal:
        assert terminal.finish() == 0
    assert b"\x1b[?25l" in terminal.raw
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")
    assert "500 jobs in " in terminal.text
    lines = terminal.text.replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= 200


# --- demo --write


def test_the_printed_commands_label_the_written_jobs(bench: Bench) -> None:
    done = shell(bench, "guardpool", "demo", "--write", "it's mine", "-n", "300")
    assert (done.returncode, done.stderr) == (0, b"")
    folder = bench.folder / "it's mine"
    assert sorted(os.listdir(folder)) == FILES
    ran = shell(bench, "sh", "-ec", printed_commands(done.stdout.decode()))
    assert ran.returncode == 0
    assert re.fullmatch(
        rb"guardpool: guard github asked its backend .*\nguardpool: 300 jobs in .*: 300 ok\n", ran.stderr
    )
    assert b"github_guard.wasm is a guard" in ran.stdout
    written = clikit.outcomes(folder / "outcomes.jsonl")
    assert ran.stdout.endswith(b"".join((folder / "outcomes.jsonl").read_bytes().splitlines(keepends=True)[:3]))
    # The same labels as in a pool: the files hold the guard, the policy and the jobs as they are in the package.
    expected = labelled_in_a_pool(300, backend=True)
    assert [outcome["status"] for outcome in written] == ["ok"] * 300
    assert [(outcome["id"], outcome["label"]) for outcome in written] == [
        (outcome.id, json.loads(encode_outcome(outcome))["label"]) for outcome in expected
    ]


def test_the_written_script_runs_the_same_commands(bench: Bench) -> None:
    written = shell(bench, "guardpool", "demo", "--write", "deep/er", "--jobs", "20")
    assert written.returncode == 0, written.stderr
    assert b"deep/er/commands.sh runs the same commands" in written.stdout
    done = shell(bench, "sh", "deep/er/commands.sh")
    assert done.returncode == 0, done.stderr
    assert len(clikit.outcomes(bench.folder / "deep/er/outcomes.jsonl")) == 20
    script = (bench.folder / "deep/er/commands.sh").read_text()
    printed = printed_commands(written.stdout.decode()).replace("deep/er/", "")
    assert script.endswith(f"{printed}\n")


def test_writing_makes_1000_jobs_unless_told_otherwise(bench: Bench) -> None:
    folder = bench.folder / "d"
    assert bench.call("demo", "--write", folder).returncode == 0
    assert len((folder / "jobs.jsonl").read_bytes().splitlines()) == 1000
    assert (folder / "github_guard.wasm").read_bytes() == samples.GUARD.read_bytes()
    assert json.loads((folder / "policy.json").read_bytes()) == samples.POLICY


def test_labels_without_a_backend_differ_as_often_as_printed(bench: Bench) -> None:
    done = bench.call("demo", "--write", bench.folder / "d", "-n", 1)
    assert b"about 6 of 10 labels differ" in done.stdout
    assert b"about 6 of 10 labels differ" in (bench.folder / "d" / "commands.sh").read_bytes()
    with_one, without = labelled_in_a_pool(1000, backend=True), labelled_in_a_pool(1000, backend=False)
    differ = sum(one != other for one, other in zip(labels_of(with_one), labels_of(without), strict=True))
    assert 550 <= differ < 650


@pytest.mark.parametrize("name", [*FILES, "outcomes.jsonl"])
def test_a_file_that_exists_is_kept_and_nothing_is_written(bench: Bench, name: str) -> None:
    folder = bench.folder / "d"
    folder.mkdir()
    (folder / name).write_text("mine")
    done = bench.call("demo", "--write", folder)
    assert (done.returncode, done.stdout) == (1, b"")
    message = "exists already, and nothing was written: remove it, or name another folder after --write"
    assert done.stderr.decode() == f"guardpool: {folder / name}: {message}\n"
    assert os.listdir(folder) == [name]
    assert (folder / name).read_text() == "mine"


def test_all_files_that_exist_are_named_at_once(bench: Bench) -> None:
    folder = bench.folder / "d"
    assert bench.call("demo", "--write", folder, "-n", 1).returncode == 0
    done = bench.call("demo", "--write", folder, "-n", 1)
    assert done.returncode == 1
    assert (
        f"{folder}: github_guard.wasm, policy.json, jobs.jsonl, replies.jsonl, rpc-messages.jsonl, commands.sh exist already"
        in done.stderr.decode()
    )


def test_a_file_that_appears_meanwhile_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.folder / "d"
    folder.mkdir()
    (folder / "jobs.jsonl").write_text("mine")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    done = bench.call("demo", "--write", folder, "-n", 1)
    assert done.returncode == 1
    assert b"jobs.jsonl: exists already" in done.stderr
    assert os.listdir(folder) == ["jobs.jsonl"]
    assert (folder / "jobs.jsonl").read_text() == "mine"


def test_a_full_disk_leaves_no_file_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(job: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "job_line", no_room)
    done = bench.call("demo", "--write", bench.folder / "d")
    assert done.returncode == 1
    assert done.stderr.decode().endswith("/d: the sample files cannot be written: No space left on device\n")
    assert os.listdir(bench.folder / "d") == []


def test_writing_to_what_is_not_a_folder_is_one_line(bench: Bench) -> None:
    (bench.folder / "f").write_text("mine")
    done = bench.call("demo", "--write", bench.folder / "f")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        f"guardpool: {bench.folder / 'f'}: the sample files cannot be written: it is not a folder\n"
    )


def test_a_folder_name_does_not_reach_the_terminal_raw(bench: Bench) -> None:
    done = bench.call("demo", "--write", bench.folder / "\x1b[2J", "-n", 1)
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout
    assert b"\\x1b[2J" in done.stdout
