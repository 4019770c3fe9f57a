"""`guardpool label` as its users meet it: real processes and real files."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import guardkit
from clikit import TIMEOUT_S, Bench, job_line, outcomes

LABEL = {"description": "an issue", "secrecy": ["private:o/r"], "integrity": ["none:o/r"], "operation": "read"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.prepare(tmp_path_factory.mktemp("label"))


def label(bench: Bench, jobs: object, out: object, *more: object, **run: Any) -> subprocess.CompletedProcess[bytes]:
    return bench.run("label", jobs, "-o", out, *bench.guard, "-w", 2, *more, **run)


# --- what comes out


def test_every_line_has_its_outcome_in_order(bench: Bench, tmp_path: Path) -> None:
    jobs = bench.jobs(["get_issue"] * 3000)
    done = label(bench, jobs, tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, b"")
    assert re.fullmatch(rb"guardpool: 3,000 jobs in \S+ s \(\S+ jobs/s\): 3,000 ok\n", done.stderr)
    got = outcomes(tmp_path / "out")
    assert [line["id"] for line in got] == list(range(3000))
    first = got[0]
    assert list(first) == ["id", "guard", "op", "tool_name", "status", "label", "error", "duration_us", "attempts"]
    assert {**first, "duration_us": 0} == {
        "id": 0,
        "guard": "g",
        "op": "label_resource",
        "tool_name": "get_issue",
        "status": "ok",
        "label": LABEL,
        "error": None,
        "duration_us": 0,
        "attempts": 1,
    }


def test_broken_lines_traps_and_refusals_stand_in_their_place(bench: Bench, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    lines = [job_line(number, "get_issue") for number in range(400)]
    for number in range(0, 400, 50):
        lines[number] = '{"id": 1, "op":\n'
        lines[number + 1] = job_line(number + 1, "trap")
        lines[number + 2] = job_line(number + 2, "refuse")
    jobs.write_text("".join(lines))
    done = label(bench, jobs, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    got = outcomes(tmp_path / "out")
    assert [line["id"] for line in got] == list(range(400))
    statuses = {0: "rejected", 1: "trap", 2: "refused"}
    assert [line["status"] for line in got] == [statuses.get(number % 50, "ok") for number in range(400)]
    assert all((line["label"] is None) == (line["status"] != "ok") for line in got)
    assert got[50]["error"]["line"] == 50
    assert (got[50]["op"], got[50]["guard"], got[50]["tool_name"]) == (None, "g", None)
    assert [line["tool_name"] for line in got[1:4]] == ["trap", "refuse", "get_issue"]
    assert got[1]["error"]["trap"] == "unreachable"
    assert got[2]["error"]["guard_code"] == -5


def test_unordered_labels_every_job_once(bench: Bench, tmp_path: Path) -> None:
    jobs = bench.jobs(["get_issue"] * 1000)
    assert label(bench, jobs, tmp_path / "out", "--unordered").returncode == 0
    assert sorted(line["id"] for line in outcomes(tmp_path / "out")) == list(range(1000))


def test_standard_streams_serve_as_files(bench: Bench) -> None:
    stdin = b"\xef\xbb\xbf" + b"".join(job_line(number, "x").encode() for number in range(5))
    done = label(bench, "-", "-", stdin=stdin)
    assert done.returncode == 0
    assert [line["id"] for line in outcomes(done.stdout)] == [0, 1, 2, 3, 4]


def test_outcomes_of_a_slow_input_do_not_wait_for_its_end(bench: Bench) -> None:
    process = bench.start("label", "-", "-o", "-", *bench.guard, "-w", 1, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(job_line(0, "x").encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 0
        process.stdin.write(job_line(1, "x").encode())
        process.stdin.close()
        assert [line["id"] for line in outcomes(process.stdout.read())] == [1]
    assert process.returncode == 0


def test_an_empty_file_of_jobs_gives_an_empty_file_of_outcomes(bench: Bench, tmp_path: Path) -> None:
    done = label(bench, os.devnull, tmp_path / "out", "--fail-on-error")
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == b""


def test_old_contents_of_the_output_file_are_removed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x" * 100_000)
    assert label(bench, "-", tmp_path / "out", stdin=job_line(0, "x").encode()).returncode == 0
    assert len(outcomes(tmp_path / "out")) == 1


def test_two_guards_and_jobs_that_name_them(bench: Bench, tmp_path: Path) -> None:
    second = ["-g", f"h={bench.folder / 'g.wasm'}", "-p", f"h={bench.folder / 'p.json'}"]
    lines = [{"op": "label_resource", "tool_name": "x", "guard": name} for name in ("h", "g", "nobody")]
    lines.append({"op": "label_resource", "tool_name": "x"})
    stdin = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    got = outcomes(label(bench, "-", "-", *second, stdin=stdin).stdout)
    assert [(line["guard"], line["status"]) for line in got] == [
        ("h", "ok"), ("g", "ok"), (None, "rejected"), (None, "rejected"),
    ]  # fmt: skip


def test_each_guard_labels_every_job_whichever_guard_it_names(bench: Bench, tmp_path: Path) -> None:
    second = ["-g", f"h={bench.folder / 'g.wasm'}", "-p", f"h={bench.folder / 'p.json'}"]
    jobs = [{"op": "label_resource", "tool_name": "x", "guard": name} for name in ("h", "gone", "g", None)]
    lines = [json.dumps(job) for job in jobs]
    lines[2:2] = ['{"op": "label_resource"}', '{"op": "label_resource", "tool_name": "refuse", "id": "r"}']
    done = label(bench, "-", "-", *second, "--each-guard", stdin="\n".join(lines).encode())
    got = [(line["id"], line["guard"], line["status"]) for line in outcomes(done.stdout)]
    both = [[(number, guard, "ok") for guard in "gh"] for number in (0, 1, 4, 5)]
    refused = [("r", guard, "refused") for guard in "gh"]
    assert got == [*both[0], *both[1], (2, None, "rejected"), *refused, *both[2], *both[3]]


def test_each_guard_with_one_guard_changes_nothing(bench: Bench) -> None:
    stdin = "".join(job_line(number, "x") for number in range(5)).encode()
    plain, each = (label(bench, "-", "-", "--no-timing", *more, stdin=stdin).stdout for more in ([], ["--each-guard"]))
    assert plain == each != b""


def test_runs_without_timing_are_equal_byte_by_byte(bench: Bench) -> None:
    jobs = bench.jobs(["x", "trap", "refuse", "log"] * 20)
    texts = []
    for workers in (1, 2):
        done = bench.run("label", jobs, "-o", "-", *bench.guard, "-w", workers, "--no-timing")
        texts.append(done.stdout)
    assert texts[0] == texts[1]
    assert len(outcomes(texts[0])) == 80
    assert list(outcomes(texts[0])[0]) == ["id", "guard", "op", "tool_name", "status", "label", "error", "attempts"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--max-failed", "2"], 0),
        (["--max-failed", "1"], 3),
        (["--max-failed", "20%"], 0),
        (["--max-failed", "19.99%"], 3),
        (["--max-failed", "0"], 3),
        (["--max-failed", "2", "--fail-on-error"], 0),
    ],
    ids=str,
)
def test_max_failed_tells_by_the_exit_status(bench: Bench, tmp_path: Path, options: list[str], status: int) -> None:
    jobs = bench.jobs(["x"] * 8 + ["refuse"] * 2, "ten")
    done = label(bench, jobs, tmp_path / "out", *options)
    assert done.returncode == status
    *told, counts = done.stderr.decode().splitlines()
    assert told == ([f"guardpool: 2 of 10 outcomes are not ok; --max-failed allows {options[1]}"] if status else [])
    assert counts.endswith("8 ok, 2 refused")


def test_fail_on_error_tells_by_the_exit_status(bench: Bench, tmp_path: Path) -> None:
    good, bad = bench.jobs(["x"], "good"), bench.jobs(["x", "refuse"], "bad")
    assert label(bench, good, tmp_path / "out", "--fail-on-error").returncode == 0
    done = label(bench, bad, tmp_path / "out", "--fail-on-error")
    assert done.returncode == 3
    assert done.stderr.startswith(b"guardpool: 1 of 2 outcomes are not ok\nguardpool: 2 jobs in ")
    assert len(outcomes(tmp_path / "out")) == 2


def test_statistics_are_one_json_object(bench: Bench, tmp_path: Path) -> None:
    jobs = bench.jobs(["x", "trap", "refuse"])
    assert label(bench, jobs, tmp_path / "out", "--stats", tmp_path / "stats").returncode == 0
    stats = json.loads((tmp_path / "stats").read_text())
    assert stats["outcomes"] == {"ok": 1, "trap": 1, "refused": 1}
    assert {"workers", "respawns", "latency_us", "jobs_per_s", "sandbox"} <= set(stats)
    assert list(stats["run_latency_us"]) == ["p50", "p90", "p99", "max"]
    assert {tool["tool_name"]: tool["jobs"] for tool in stats["slowest_tools"]}["x"] == 1


def test_the_manifest_hash_of_two_runs_with_the_same_labels_is_the_same(bench: Bench, tmp_path: Path) -> None:
    tools = ["x", "trap", "refuse", *(f"x{n}" for n in range(20))]
    lines = bench.jobs(tools).read_text().splitlines(keepends=True)
    backwards, changed = tmp_path / "backwards", tmp_path / "changed"
    backwards.write_text("".join(lines[::-1]))
    changed.write_text("".join([*lines[:-1], lines[-1].replace("x19", "refuse")]))
    hashes = []
    for jobs, options in (
        (bench.jobs(tools), ["-w", "1"]),
        (backwards, ["-w", "2", "--unordered"]),
        (changed, ["-w", "1"]),
    ):
        assert label(bench, jobs, tmp_path / "out", "--stats", tmp_path / "stats", *options).returncode == 0
        hashes.append(json.loads((tmp_path / "stats").read_text())["manifest_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("option", ["--progress", "--no-progress"])
def test_the_end_of_a_run_on_a_pipe_is_one_line_with_the_counts(bench: Bench, tmp_path: Path, option: str) -> None:
    done = label(bench, bench.jobs(["x"] * 99 + ["trap"]), tmp_path / "out", option)
    line = done.stderr.decode()
    assert line.startswith("guardpool: 100 jobs in ")
    assert line.endswith("jobs/s): 99 ok, 1 trap\n")
    assert "\x1b" not in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(("isolation", "codes"), [("job", {-101}), ("none", set(range(-130, -100)))])
def test_isolation_on_the_command_line_reaches_the_workers(
    bench: Bench, tmp_path: Path, isolation: str, codes: set[int]
) -> None:
    (tmp_path / "counts.wasm").write_bytes(guardkit.wat("counts"))
    guard = ("-g", f"g={tmp_path / 'counts.wasm'}", *bench.guard[2:], "-w", 1)
    done = bench.run("label", bench.jobs(["t"] * 30), "-o", tmp_path / "out", *guard, "--isolation", isolation)
    assert done.returncode == 0, done.stderr
    assert {line["error"]["guard_code"] for line in outcomes(tmp_path / "out")} == codes


def test_limits_on_the_command_line_reach_the_workers(bench: Bench, tmp_path: Path) -> None:
    done = label(bench, bench.jobs(["spin", "x"]), tmp_path / "out", "--timeout", "0.5", "--memory-pages", 16)
    assert done.returncode == 0, done.stderr
    assert [line["status"] for line in outcomes(tmp_path / "out")] == ["timeout", "ok"]


def test_guards_log_lines_are_shown_from_the_level_on_and_escaped(bench: Bench, tmp_path: Path) -> None:
    jobs = bench.jobs(["log"])
    shown = label(bench, jobs, tmp_path / "out").stderr.decode()
    assert "guardpool: warning: guard g, job 0: " in shown
    assert "\\x1b]0;pwned\\x07\\u202elog" in shown
    assert shown.isascii()
    assert label(bench, jobs, tmp_path / "out", "--log-level", "error").stderr.count(b"\n") == 1


# --- what is refused before any job runs


def refuses(done: subprocess.CompletedProcess[bytes], status: int, *words: str) -> None:
    message = done.stderr.decode()
    assert done.returncode == status, message
    assert message.startswith("guardpool: ")
    assert message.count("\n") == 1, "one line"
    assert done.stdout == b""
    for word in words:
        assert word in message


def test_a_file_that_is_not_a_guard_is_named_with_function_and_reason(bench: Bench, tmp_path: Path) -> None:
    jobs = bench.jobs(["x"])
    (tmp_path / "text.wasm").write_text("hello")
    (tmp_path / "refusing.wasm").write_bytes(guardkit.wat("refuse_agent"))
    (tmp_path / "trapping.wasm").write_bytes(guardkit.wat("agent_traps"))
    (tmp_path / "old").write_text("kept\n")
    cases = {
        "text.wasm": ("old", ["not a WebAssembly module"]),
        "refusing.wasm": ("old", ["label_agent"]),
        "trapping.wasm": ("new", ["label_agent", "trap"]),
    }
    policy = ["-p", f"g={bench.folder / 'p.json'}"]
    for name, (out, words) in cases.items():
        done = bench.run("label", jobs, "-o", tmp_path / out, "-g", f"g={tmp_path / name}", *policy)
        refuses(done, 1, str(tmp_path / name), *words)
    assert (tmp_path / "old").read_text() == "kept\n", "nothing was labelled, so nothing was overwritten"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (None, ["cannot be read", "No such file"]),
        (b"{", ["not JSON"]),
        (b"\xff", ["not JSON"]),
        (b"{}", ["allow-only"]),
        (b'{"allow-only":{"repos":"some","min-integrity":"none"}}', ["repos"]),
    ],
)
def test_an_unusable_policy_file_is_named(bench: Bench, tmp_path: Path, policy: bytes | None, words: list[str]) -> None:
    if policy is not None:
        (tmp_path / "policy.json").write_bytes(policy)
    guard = f"g={bench.folder / 'g.wasm'}"
    done = bench.call(
        "label", bench.jobs(["x"]), "-o", tmp_path / "out", "-g", guard, "-p", f"g={tmp_path / 'policy.json'}"
    )
    refuses(done, 1, str(tmp_path / "policy.json"), *words)
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_used_are_named(bench: Bench, tmp_path: Path) -> None:
    def run(jobs: Path, out: Path, *more: object) -> subprocess.CompletedProcess[bytes]:
        return bench.call("label", jobs, "-o", out, *bench.guard, *more)

    jobs = bench.jobs(["x"])
    refuses(run(tmp_path / "nope", tmp_path / "out"), 1, "nope", "No such file")
    refuses(run(tmp_path, tmp_path / "out"), 1, "no file in this folder ends in .jsonl, ")
    refuses(run(jobs, tmp_path), 1, str(tmp_path), "Is a directory")
    refuses(run(jobs, tmp_path / "no" / "out"), 1, "No such file")
    refuses(run(jobs, tmp_path / "out", "--stats", tmp_path / "no" / "stats"), 1, "statistics")
    missing = ["-g", f"h={tmp_path / 'no.wasm'}", "-p", f"h={bench.folder / 'p.json'}"]
    refuses(run(jobs, tmp_path / "out", *missing), 1, "no.wasm", "cannot be read")
    assert list(tmp_path.iterdir()) == []


def test_no_file_of_the_run_is_overwritten(bench: Bench, tmp_path: Path) -> None:
    def run(jobs: object, out: Path, *more: object) -> subprocess.CompletedProcess[bytes]:
        return bench.call("label", jobs, "-o", out, *bench.guard, *more)

    jobs = Path(shutil.copy(bench.jobs(["x"] * 10), tmp_path / "jobs"))
    before = jobs.read_bytes()
    os.link(jobs, tmp_path / "same")
    refuses(run(jobs, jobs), 1, "same file")
    refuses(run(jobs, tmp_path / "same"), 1, "same file")
    refuses(run(jobs, bench.folder / "g.wasm"), 1, "same file")
    refuses(run(jobs, tmp_path / "out", "--stats", jobs), 1, "same file")
    refuses(run(jobs, tmp_path / "out", "--stats", tmp_path / "out"), 1, "same file")
    assert not (tmp_path / "out").exists()
    with jobs.open("ab") as appended:
        process = bench.start("label", jobs, "-o", "-", *bench.guard, stdout=appended, stderr=subprocess.PIPE)
        assert b"same file" in process.communicate(timeout=TIMEOUT_S)[1]
    assert jobs.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-g", "g.wasm"], ["NAME=FILE.wasm"]),
        (["-g", "=x"], ["NAME=FILE.wasm"]),
        (["-g", "g=a", "-g", "g=b"], ["already the name of a"]),
        (["-g", "g=a"], ["no policy", "--policy g="]),
        (["-g", "g=a", "-p", "h=b"], ["add --guard h="]),
        (["-g", "a b=a", "-p", "a b=b"], ["name"]),
        (["-g", "g=a", "-p", "g=b", "--timeout", "0"], ["--timeout"]),
        (["-g", "g=a", "-p", "g=b", "--timeout", "nan"], ["--timeout"]),
        (["-g", "g=a", "-p", "g=b", "--max-rss", "lots"], ["--max-rss"]),
        (["-g", "g=a", "-p", "g=b", "--max-rss", "16M"], ["--max-rss", "--memory-pages"]),
        (["-g", "g=a", "-p", "g=b", "--timeout", "soon"], ["--timeout", "'soon'"]),
        (["-g", "g=a", "-p", "g=b", "--backend-timeout", "0"], ["--backend-timeout must be"]),
        (["-g", "g=a", "-p", "g=b", "--max-attempts", "0"], ["--max-attempts must be from 1"]),
        (["-g", "g=a", "-p", "g=b", "--max-attempts", "-1"], ["--max-attempts"]),
        (["-g", "g=a", "-p", "g=b", "--max-data", "100M"], ["--max-data", "is below --max-rss"]),
        (["-g", "g=a", "-p", "g=b", "--max-output", "17M"], ["--max-output must be from"]),
        (["-g", "g=a", "-p", "g=b", "--max-failed", "some"], ["--max-failed", "'some'", "0.5%"]),
        (["-g", "g=a", "-p", "g=b", "--max-failed", "1.5"], ["--max-failed", "'1.5'"]),
        (["-g", "g=a", "-p", "g=b", "--max-failed", "101%"], ["--max-failed", "'101%'"]),
        (["-g", "g=a", "-p", "g=b", "--workers", "0"], ["--workers"]),
        (["-g", "g=a", "-p", "g=b", "--log-level", "loud"], ["--log-level"]),
        (["-g", "g=a", "-p", "g=b", "--frobnicate"], ["--frobnicate", "--help"]),
    ],
)
def test_unusable_options_are_usage_errors(bench: Bench, args: list[str], words: list[str]) -> None:
    refuses(bench.call("label", bench.folder / "g.wasm", "-o", "-", *args), 2, *words)


# --- outputs that fail


def test_a_full_device_stops_the_run_with_one_line(bench: Bench) -> None:
    done = label(bench, bench.jobs(["x"] * 20_000), "/dev/full", "--no-progress")
    refuses(done, 1, "/dev/full", "No space left on device")


def test_a_full_disk_leaves_whole_lines(bench: Bench, tmp_path: Path) -> None:
    jobs = bench.jobs(["x"] * 20_000)
    process = bench.start(
        *("label", jobs, "-o", tmp_path / "out", *bench.guard),
        stderr=subprocess.PIPE,
        # Past this size a write fails as it does on a full disk, in the middle of a line.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_003, 1_000_003)),
    )
    message = process.communicate(timeout=TIMEOUT_S)[1].decode()
    assert process.returncode == 1
    assert str(tmp_path / "out.part") in message
    assert message.count("\n") == 1
    got = outcomes(tmp_path / "out.part")
    assert [line["id"] for line in got] == list(range(len(got)))
    assert 999_000 < (tmp_path / "out.part").stat().st_size <= 1_000_003
    assert not (tmp_path / "out").exists()
    assert f"after line {len(got)}" in message


def test_a_reader_that_goes_away_ends_the_run_quietly(bench: Bench) -> None:
    process = bench.start(
        *("label", bench.jobs(["x"] * 50_000), "-o", "-", *bench.guard),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_slow_reader_gets_every_line(bench: Bench) -> None:
    process = bench.start(*("label", bench.jobs(["x"] * 20_000), "-o", "-", *bench.guard), stdout=subprocess.PIPE)
    assert process.stdout is not None
    data = bytearray()
    with process:
        while part := os.read(process.stdout.fileno(), 1000):
            data += part
    assert process.returncode == 0
    assert [line["id"] for line in outcomes(bytes(data))] == list(range(20_000))


# --- the log


def test_equal_lines_of_many_jobs_are_two_lines_on_stderr_before_the_summary(bench: Bench, tmp_path: Path) -> None:
    lines = label(bench, bench.jobs(["log"] * 50), tmp_path / "out").stderr.decode().splitlines()
    assert [line.partition("job ")[0] for line in lines[:2]] == ["guardpool: warning: guard g, "] * 2
    assert lines[1].endswith("(49 times more)")
    assert lines[2].startswith("guardpool: 50 jobs in ")
    assert len(lines) == 3


def test_no_line_of_a_guard_is_shown_with_log_level_off(bench: Bench, tmp_path: Path) -> None:
    done = label(bench, bench.jobs(["log", "x"]), tmp_path / "out", "--log-level", "off")
    assert done.stderr.startswith(b"guardpool: 2 jobs in ")
    assert done.stderr.count(b"\n") == 1


def test_log_lines_go_to_a_file_of_json_lines_and_not_to_stderr(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("of an earlier run\n")
    jobs = bench.jobs(["x", "log", "spin"])
    done = label(bench, jobs, tmp_path / "out", "--log-file", log, "--timeout", "0.5")
    assert done.stderr.startswith(b"guardpool: 3 jobs in ")
    assert done.stderr.count(b"\n") == 1
    assert log.read_bytes().isascii()
    (line,) = map(json.loads, log.read_text().splitlines())
    assert list(line) == ["time", "level", "guard", "id", "text"]
    assert (line["level"], line["guard"], line["id"]) == ("warning", "g", 1)
    assert line["text"] == "\\x1b]0;pwned\\x07\\u202elog"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_the_log_file_of_a_run_without_lines_is_empty_and_of_one_that_could_not_begin_as_it_was(
    bench: Bench, tmp_path: Path
) -> None:
    log, jobs = tmp_path / "log.jsonl", bench.jobs(["x"])
    assert label(bench, jobs, tmp_path / "out", "--log-file", log).returncode == 0
    assert log.read_bytes() == b""
    log.write_text("of an earlier run\n")
    bad = tmp_path / "bad.wasm"
    bad.write_bytes(guardkit.wat("agent_traps"))
    policy = next(str(word) for word in bench.guard if str(word).endswith(".json"))
    options = ("--log-file", log, "--log-level", "error")
    failed = bench.run("label", jobs, "-o", tmp_path / "out", "-g", f"g={bad}", "-p", policy, *options)
    assert (failed.returncode, failed.stderr.count(b"label_agent")) == (1, 1)
    assert log.read_text() == "of an earlier run\n"
    assert not (tmp_path / "log.jsonl.part").exists()


def test_a_log_file_that_cannot_be_written_is_told(bench: Bench, tmp_path: Path) -> None:
    jobs, out = bench.jobs(["log"]), tmp_path / "out"
    refuses(label(bench, jobs, out, "--log-file", tmp_path / "no" / "log"), 1, "no/log", "the log cannot be written")
    refuses(label(bench, jobs, out, "--log-file", out), 1, "the same file")
    full = label(bench, jobs, out, "--log-file", "/dev/full")
    assert full.returncode == 1
    assert b"guardpool: /dev/full: the log cannot be written: No space left on device\n" in full.stderr
    assert out.exists()
