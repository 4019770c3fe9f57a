"""The README's examples run and print what it shows, and its tables are complete."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from guardpool import Guard, Limits, Status, recordings, replay, samples
from guardpool.batch import JobParser
from guardpool.contract import check_policy
from paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """What stands under a heading of the second level."""
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def json_lines() -> list[bytes]:
    """The indented lines of JSON in the README: jobs and a policy."""
    return [line.encode() for line in re.findall(r"^    (\{.*\})$", README, re.MULTILINE)]


def test_the_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code, of_a_loop = re.findall(r"```python\n(.*?)```", section("The library"), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "AgentLabels(" in printed
    assert "ok ResourceLabel(" in printed
    assert "'ok': " in printed
    exec(compile(of_a_loop, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("ResourceLabel(")


def test_the_example_of_decisions_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", section("Decisions"), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    shown = [{"number": 2, "author_association": "MEMBER"}]
    assert [lines[0], lines[3]] == [f"gateway items {shown}", f"strict items {shown}"]
    assert lines[1].endswith("('B5',) ('/total_count',)")
    assert lines[4].endswith("() ()")
    assert "total_count" in lines[5]


def test_the_data_frame_examples_run(tmp_path: Path) -> None:
    for name in ("duckdb", "pandas", "polars"):
        pytest.importorskip(name, reason=f"{name} is not installed on this Python")
    (tmp_path / "samples").mkdir()
    (tmp_path / "log.jsonl").write_text("".join(f"{line}\n" for line in samples.recording(60)))
    guard = Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY)
    calls = recordings.read(tmp_path / "log.jsonl")
    with replay(calls, [guard]) as decisions, (tmp_path / "samples" / "decisions.jsonl").open("wb") as out:
        out.writelines(record.to_line() for record in decisions)
    (code,) = re.findall(r"```python\n(.*?)```", section("DataFrames"), re.DOTALL)
    # In a process of its own: these packages keep threads and descriptors.
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shape: (3, 2)") == 2
    assert "labelled" in done.stdout
    assert "0.99" in done.stdout


def test_the_test_file_of_a_guard_passes(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", section("Testing a guard"), re.DOTALL)
    (tmp_path / "test_github.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def console() -> list[tuple[str, str]]:
    """The commands of the README's console example, each with the output that it shows."""
    (block,) = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return re.findall(r"^\$ ((?:[^\n]*\\\n)*[^\n]*\n)((?:(?!\$ )[^\n]*\n)*)", block, re.MULTILINE)


def masked(output: str) -> str:
    """Output without what differs from run to run: times and rates."""
    output = re.sub(r"in [\d.]+ s \([\d,]+ jobs/s\)", "in some s", output)
    return re.sub(r'"duration_us":\d+', '"duration_us":0', output)


def pattern_of(shown: str) -> str:
    """What real output must match; a line of `...` stands for lines that are left out."""
    return re.escape(masked(shown)).replace("\\.\\.\\.\\\n", "(?:.*\\n)*")


def test_the_console_example_prints_what_it_shows(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "guardpool"
    program.parent.mkdir()
    code = "import sys; from guardpool.cli import main; sys.exit(main())"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    commands = console()
    assert [command.split()[0] for command, _shown in commands] == ["guardpool", "guardpool", "sed"]
    for command, shown in commands:
        done = subprocess.run(
            ["sh", "-ec", f"{command.rstrip()} 2>&1"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        )
        assert re.fullmatch(pattern_of(shown), masked(done.stdout)), (command, done.stdout)


def test_the_readmes_recording_is_imported_and_labelled(tmp_path: Path) -> None:
    shown = re.sub("^    ", "", section("Two minutes").split("**Recordings**")[1].split("\n\n")[1], flags=re.MULTILINE)
    first, _, second = shown.partition("\nguardpool label")
    commands = ["guardpool demo --write samples", first, f"guardpool label{second}"]
    for command, status in zip(commands, (0, 3, 0)):  # the sample log has lost and ambiguous answers, as real ones
        arguments = shlex.split(command.replace("\\\n", " "))[1:]
        code = "import sys; from guardpool.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr.decode()
    recorded, labelled = ((tmp_path / "samples" / f"{name}.jsonl").read_bytes() for name in ("recorded", "labelled"))
    assert recorded.count(b"\n") == labelled.count(b"\n") > 100


def test_the_readmes_replay_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = section("Replay: what a policy lets through and takes away")
    commands = re.findall(r"^    (guardpool (?:[^\n]*\\\n)*[^\n]*)$", text, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["replay", "what-if"]
    code = "import sys; from guardpool.cli import main; sys.exit(main())"
    for command in ["guardpool demo --write samples", *commands]:
        arguments = shlex.split(command.replace("\\\n", " "))[1:]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=60, check=False)
        assert done.returncode == ("demo" not in command), done.stderr.decode()
        if "replay" in command:
            (shown,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
            printed = done.stderr.decode()
            for line in shown.splitlines():
                assert line.removesuffix(" ...") in printed or line == "...", line
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert "Counter({" in capsys.readouterr().out


def test_the_readmes_job_lines_are_jobs() -> None:
    lines = [line for line in json_lines() if b'"tool_name"' in line]
    jobs = [JobParser(["github"], 1000).parse(line, number) for number, line in enumerate(lines)]
    assert [(job.op, job.error) for job in jobs] == [("label_resource", None), ("label_response", None)]
    documented = {"id", "op", "tool_name", "tool_args", "tool_result"}
    assert {key for line in lines for key in msgspec.json.decode(line)} == documented
    assert all(f"`{key}`" in README for key in ("id", "guard", "capabilities"))


def test_a_pool_takes_the_readmes_policy() -> None:
    (policy,) = [msgspec.json.decode(line) for line in json_lines() if b'"allow-only"' in line]
    assert check_policy(policy) == policy


def test_the_readmes_table_of_outcomes_names_every_status() -> None:
    rows = [row.split("|")[1] for row in section("Outcomes").splitlines() if row.startswith("| `")]
    named = [word for row in rows for word in re.findall(r"`(\w+)`", row)]
    assert named == [status.value for status in Status]


def test_the_readmes_table_of_limits_names_every_limit() -> None:
    table = section("Limits")
    for name in Limits.__dataclass_fields__:
        assert name == "keep_logs" or f"`{name}`" in table
