"""`guardpool replay` and `guardpool what-if`, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import guardkit
from clikit import TIMEOUT_S, Bench
from guardpool import ReplaySummary, samples
from guardpool.cli.findings import exit_status
from guardpool.cli.redaction import redaction
from guardpool.cli.render import make_console
from guardpool.cli.replay import print_summary
from guardpool.cli.what_if import _line, conclusion
from guardpool.decide import read_records
from guardpool.recordings import Call, Pairing, ResultIs
from guardpool.recordings.call import Payload, PayloadState
from guardpool.recordings.tally import Tally
from guardpool.what_if import Outlook
from poolkit import wait_until
from replaykit import call, without_result


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
    assert done.returncode == 1, done.stderr  # B1: what the guard does not label is delivered whole
    with out.open("rb") as lines:
        records = list(read_records(lines, str(out)))
    assert [(record.call, record.verdict) for record in records] == [("log.jsonl#1", "whole"), ("log.jsonl#2", "whole")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (out, summary)} == {0o600}
    told = json.loads(summary.read_text())
    assert (told["v"], told["calls"], told["findings"], told["unsafe"]["B1"]) == (1, 2, 2, 2)
    assert told["tally"]["lines"] == 2
    first = done.stderr.splitlines()[0]
    assert first == b"Nothing can be compared with the recording (0 events in the recording, 0 by this replay)."
    assert b"B1           2" in done.stderr
    assert not list(cli.folder.glob("*.part"))


def test_replay_and_what_if_say_how_many_labels_were_kept(cli: Bench) -> None:
    kept, out = cli.folder / "kept", cli.folder / "decisions.jsonl"
    calls, modes = cli.folder / "calls.jsonl", ("--mode", "filter", "--mode", "strict")
    for words, taken in (
        (("replay", "-o", out), 0),
        (("replay", "-o", out), 4),
        (("what-if", *modes), 4),  # all modes share their labels
    ):
        done = cli.run(words[0], calls, *cli.guard, *words[1:], "-w", 1, "--keep-labels", kept)
        said = f"guardpool: {taken} labels were taken from {kept}".encode()
        assert said in done.stderr.splitlines()
    done = cli.call("replay", calls, *cli.guard, "-o", kept, "--keep-labels", kept)
    said = f"{kept}: the decisions cannot be written: {kept} is the same file; choose another"
    assert (done.returncode, done.stderr.decode()) == (5, f"guardpool: {said}\n")


def test_the_sample_recording_is_replayed_with_a_gateways_configuration(cli: Bench) -> None:
    log = cli.folder / "rpc-messages.jsonl"
    log.write_text("\n".join(samples.recording(60, seed=1)) + "\n")
    (cli.folder / "guards").mkdir()
    (cli.folder / "guards" / "github.wasm").write_bytes(samples.GUARD.read_bytes())
    config = saved(
        cli,
        "gateway.json",
        {
            "mcpServers": {
                "github": {
                    "container": "ghcr.io/github/github-mcp-server",
                    "env": {"TOKEN": "${GITHUB_TOKEN}"},
                    "guard": "gh",
                    "guard-policies": {"allow-only": {"repos": "all", "min-integrity": "none", "tool-call-limits": {}}},
                },
                "safeoutputs": {"type": "http", "guard-policies": {"write-sink": {"accept": ["*"]}}},
            },
            "guards": {"gh": {"type": "wasm", "path": "guards/github.wasm"}},
        },
    )
    done = cli.run("replay", log, "--config", config, "-o", "-", "-w", 1, "--rules", "gateway")
    assert b"server github: the policy has tool-call-limits, which no wasm guard takes" in done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert {record["server"] for record in records} == {"github"}
    assert {record["rules"] for record in records} == {"gateway"}
    assert b"The replay agrees with the recording in " in done.stderr.splitlines()[1]


@pytest.mark.parametrize(
    ("findings", "complete", "status"), [(False, True, 0), (True, True, 1), (True, False, 1), (False, False, 3)]
)
def test_what_was_found_counts_before_what_is_missing(findings: bool, complete: bool, status: int) -> None:
    assert exit_status(findings, complete) == status


def test_a_recording_without_results_and_an_unknown_server_are_named_and_are_exit_3(cli: Bench) -> None:
    calls = [
        without_result(1, why=ResultIs.NOT_RECORDED, server="s"),
        call(2, server="evil\x1b[2J\u202e", result_is=ResultIs.LOST, result_json=None),
        call(3, server="$(touch pwned)"),
    ]
    done = cli.run("replay", write(cli, "none.jsonl", calls), "--sink", "s=*", "-o", cli.folder / "out")
    assert done.returncode == 3, done.stderr
    assert b"not-recorded 1" in done.stderr
    assert b"server evil\\x1b[2J\\u202e: 1 call undecided, because nothing says what stands before it" in done.stderr
    assert b"\x1b" not in done.stderr
    # What is offered to be typed is one word of a shell, or a placeholder.
    assert b"add -g SERVER=FILE.wasm -p SERVER=POLICY.json" in done.stderr
    assert b"add -g '$(touch pwned)'=FILE.wasm -p '$(touch pwned)'=POLICY.json, --sink '$(touch pwned)'=" in done.stderr


def test_guards_that_failed_and_servers_without_one_are_named(cli: Bench) -> None:
    calls = [call(1, "trap"), call(2), call(3, server="linear")]
    done = cli.run("replay", write(cli, "traps.jsonl", calls), *cli.guard, "-g", "linear=none", "-w", 1)
    assert done.returncode == 1, done.stderr
    told = done.stderr.decode()
    assert "server g: 1 labelling ended trap; in the gateway every later call of that run would fail" in told
    assert "server linear: no guard: 1 call not covered" in told
    assert "B29" in told


@pytest.mark.parametrize(("items", "words"), [(1, "1 item was labelled"), (2, "2 items were labelled")])
def test_one_is_told_in_the_singular(capsys: pytest.CaptureFixture[str], items: int, words: str) -> None:
    print_summary(
        make_console(stderr=True), ReplaySummary(calls=1, agrees=Counter(yes=1), items=items), Tally(), (), 1.0
    )
    told = capsys.readouterr().err
    assert words in told
    assert "of 1 call that can be compared" in told


def test_a_clean_recording_is_exit_0_and_says_so(cli: Bench) -> None:
    done = cli.run("replay", write(cli, "writes.jsonl", [call(1, server="s")]), "--sink", "s=*", "--order", "any")
    assert (done.returncode, b"No findings." in done.stderr) == (0, True), done.stderr
    assert b"--order any: a guard's memory depends on what it saw before" in done.stderr


def test_a_recording_without_a_call_is_named_and_is_exit_3(cli: Bench) -> None:
    (cli.folder / "empty.jsonl").touch()
    out = ["-o", cli.folder / "out.jsonl"]
    done = cli.run("replay", cli.folder / "empty.jsonl", *cli.guard, *out, "-w", 1)
    assert done.returncode == 3, done.stderr
    assert f"{cli.folder / 'empty.jsonl'}: there is no call of a tool in it\n" in done.stderr.decode()
    clean = write(cli, "clean.jsonl", [call(1)])
    logs = cli.folder / "logs"  # a gateway's text log is not missing calls that its log of messages has
    logs.mkdir()
    (logs / "rpc-messages.jsonl").write_text("\n".join(samples.recording(15, seed=1)) + "\n")
    (logs / "mcp-gateway.log").write_text("[2026-08-15T23:48:42.900Z] [INFO] [x] hello\n")
    policy = ["--sink", "g=*", "--sink", "github=*"]
    named = [clean, cli.folder / "empty.jsonl", logs / "rpc-messages.jsonl", logs / "mcp-gateway.log"]
    done = cli.run("replay", *named, *policy, "--summary", cli.folder / "summary.json")
    assert done.returncode in (1, 3), done.stderr
    assert done.stderr.count(b"there is no call of a tool in it") == 1
    assert json.loads((cli.folder / "summary.json").read_bytes())["without_calls"] == [str(named[1])]


@pytest.mark.parametrize("option", ["-o", "--summary"])
def test_decisions_are_not_written_as_lines_into_a_packed_name(cli: Bench, option: str) -> None:
    done = cli.run("replay", cli.folder / "calls.jsonl", *cli.guard, option, cli.folder / "dec.gz")
    assert done.returncode == 5
    assert b"dec.gz: the " in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not (cli.folder / "dec.gz").exists()


def test_a_guard_that_cannot_start_is_exit_5_and_writes_nothing(cli: Bench) -> None:
    (cli.folder / "bad.wasm").write_bytes(guardkit.wat("agent_traps"))
    out = cli.folder / "out.jsonl"
    options = ["-g", f"g={cli.folder / 'bad.wasm'}", "-p", f"g={cli.folder / 'p.json'}", "-o", out, "-w", 1]
    done = cli.run("replay", cli.folder / "calls.jsonl", *options)
    assert (done.returncode, done.stdout, out.exists()) == (5, b"", False)
    assert b"bad.wasm" in done.stderr.splitlines()[-1]
    assert not list(cli.folder.glob("*.part"))


def test_a_folder_of_recordings_may_hold_what_a_run_makes(cli: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cli.folder / "runs"
    runs.mkdir()
    (cli.folder / "calls.jsonl").rename(runs / "calls.jsonl")
    monkeypatch.chdir(runs)
    (runs / "decisions.jsonl.part").write_bytes(b"")  # of a run that was killed
    arguments = ("-g", "g=none", "-o", "decisions.jsonl", "--keep-labels", "kept", "--redact-key", "key")
    first = cli.call("replay", ".", *arguments)
    made = (runs / "decisions.jsonl").read_bytes()
    second = cli.call("replay", ".", *arguments)
    assert (second.returncode, (runs / "decisions.jsonl").read_bytes()) == (first.returncode, made)
    own = [line.partition(": it is left out")[0] for line in second.stderr.decode().splitlines() if "left out" in line]
    assert own == [f"guardpool: ./{name}" for name in ("decisions.jsonl", "kept", "key") if (runs / name).exists()]
    others = cli.call("replay", ".", "-g", "g=none", "-o", "others.jsonl")
    assert b"not understood: not-json" in others.stderr, "decisions of another run are lines like any others"
    refused = cli.call("replay", ".", "-g", "g=none", "-o", "calls.jsonl")
    assert b"calls.jsonl is the same file; choose another" in refused.stderr, "a recording is never written over"


def test_decisions_go_through_a_pipe(cli: Bench) -> None:
    pipe = cli.folder / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        done = cli.call("replay", cli.folder / "calls.jsonl", "-g", "g=none", "-o", pipe)
        out, _ = reader.communicate(timeout=30)
    assert done.returncode == 1, done.stderr
    assert [json.loads(line)["server"] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["calls.jsonl"], 2, "no server is named: add -g SERVER=FILE.wasm"),
        (["calls.jsonl", "-g", "g=g.wasm"], 2, "guard 'g' has no policy: add --policy g=POLICY.json"),
        (["calls.jsonl", "-p", "g=p.json"], 2, "--policy g: no guard is called 'g'"),
        (["calls.jsonl", "-g", "g=none", "--sink", "g=*"], 2, "is given a guard and a sink"),
        (["calls.jsonl", "--sink", "s=a b"], 2, "--sink s=a b: accept holds 'a b'"),
        (["calls.jsonl", "-g", "g"], 2, "write it as --guard NAME=FILE.wasm"),
        (["calls.jsonl", "-g", "g=none", "--format", "x"], 2, "no format is called 'x'"),
        (["decisions.jsonl", "-g", "g=none"], 2, "these are decisions, not a recording"),
        (["nothing.jsonl", "-g", "g=none"], 5, "nothing.jsonl: cannot be read: No such file"),
        (["calls.jsonl", "-g", "g=nothing.wasm", "-p", "g=p.json"], 5, "nothing.wasm: cannot be read"),
        (["calls.jsonl", "-g", "g=g.wasm", "-p", "g=calls.jsonl"], 5, "calls.jsonl: the policy is not JSON"),
        (["calls.jsonl", "-g", "g=g.wasm", "-p", "g=bad.json"], 5, "bad.json: "),
        (["calls.jsonl", "-g", "g=none", "--config", "p.json"], 5, "p.json: not a gateway's configuration"),
        (["calls.jsonl", "-g", "g=none", "-o", "calls.jsonl"], 5, "is the same file; choose another"),
        (["calls.jsonl", "-g", "g=g.wasm", "-p", "g=p.json", "-o", "p.json"], 5, "is the same file; choose another"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_status(
    cli: Bench, arguments: list[str], status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cli.folder)
    saved(cli, "bad.json", {"allow-only": {"repos": "all", "min-integrity": "highest"}})
    (cli.folder / "decisions.jsonl").write_bytes(b'{"v":1,"call":"a#1","verdict":"whole"}\n')
    before = (cli.folder / "p.json").read_bytes(), (cli.folder / "calls.jsonl").read_bytes()
    done = cli.call("replay", *arguments)
    assert (done.returncode, done.stdout) == (status, b"")
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert before == ((cli.folder / "p.json").read_bytes(), (cli.folder / "calls.jsonl").read_bytes())


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "--sink", "s=read.json"],
        ["replay", "--backend", "g=read.json"],
        ["what-if", "-p", "read.json"],
        ["what-if", "-p", "o/r=read.json"],
    ],
)
def test_no_file_that_is_read_is_written_over(
    cli: Bench, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cli.folder)
    command, *options = arguments
    content = b'{"write-sink": {"accept": ["*"]}}' if "--sink" in options else (cli.folder / "p.json").read_bytes()
    if "--backend" in options:
        content = b'{"tool":"t","args":{},"result":1}\n'
    (cli.folder / "read.json").write_bytes(content)
    done = cli.call(command, "calls.jsonl", "-g", "g=g.wasm", "-p", "g=p.json", *options, "-o", "read.json")
    assert done.returncode == 5, done.stderr
    assert b"read.json is the same file; choose another" in done.stderr
    assert (cli.folder / "read.json").read_bytes() == content


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "calls.jsonl", "-o", "F", "--redact-key", "F"],
        ["replay", "calls.jsonl", "-o", "F", "--redact-key", "./F"],
        ["replay", "calls.jsonl", "-o", "F", "--keep-labels", "F"],
        ["replay", "calls.jsonl", "-o", "F", "--summary", "F"],
        ["replay", "calls.jsonl", "-o", "out", "--summary", "F", "--redact-key", "F"],
        ["replay", "calls.jsonl", "-o", "out", "--keep-labels", "F", "--redact-key", "F"],
        ["what-if", "calls.jsonl", "-p", "p.json", "-o", "F", "--redact-key", "F"],
        ["what-if", "calls.jsonl", "-p", "p.json", "-o", "F", "--keep-labels", "F"],
        ["report", "decisions.jsonl", "--format", "json", "-o", "F", "--redact-key", "F"],
        ["diff", "decisions.jsonl", "calls.jsonl", "--update-baseline", "--baseline", "F", "--redact-key", "F"],
        ["label", "calls.jsonl", "-o", "out", "--stats", "F", "--keep-labels", "F"],
        ["label", "calls.jsonl", "-o", "out", "--log-file", "F", "--keep-labels", "F"],
    ],
)
def test_no_two_files_that_a_run_makes_are_one(
    cli: Bench, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cli.folder)
    (cli.folder / "decisions.jsonl").write_bytes(b'{"v":1,"call":"a#1","verdict":"whole"}\n')
    guard = ["-g", "g=g.wasm", "-p", "g=p.json"] if arguments[0] not in ("report", "diff") else []
    done = cli.call(*arguments, *guard)
    assert done.returncode in (1, 5), done.stderr
    assert b"choose another" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not (cli.folder / "F").exists()


def test_an_interrupted_replay_keeps_whole_decisions(cli: Bench) -> None:
    out = cli.folder / "out.jsonl"
    pipe = cli.folder / "pipe"
    os.mkfifo(pipe)
    command = cli.command("replay", pipe, "-g", "g=none", "-o", out)
    with subprocess.Popen(command, env=cli.environment(), stderr=subprocess.PIPE) as process:
        with pipe.open("wb") as feed:
            line = call(1).to_json() + b"\n"
            part = out.with_name("out.jsonl.part")
            for _ in range(2000):
                feed.write(line * 100)
                if part.exists() and part.stat().st_size:
                    break
            feed.flush()
            wait_until(lambda: part.exists() and part.stat().st_size > 0, "a decision is written")
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, err
    assert not out.exists()
    with part.open("rb") as lines:
        count = sum(1 for record in read_records(lines, "part") if record.verdict)
    assert err.decode() == f"guardpool: stopped: {count:,} decisions are in {part}\n"


@pytest.mark.parametrize("out", [[], ["-o", "out.jsonl"]])
@pytest.mark.parametrize(
    "command",
    [["replay", "calls.jsonl", "-g", "g=none"], ["what-if", "calls.jsonl", "-g", "g=g.wasm", *2 * ["-p", "p.json"]]],
)
def test_a_signal_is_answered_with_one_line_wherever_it_comes(
    cli: Bench, command: list[str], out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cli.folder)
    take = Tally.count_call

    def interrupted(tally: Tally, *args: Any) -> None:
        if tally.calls == 1:
            os.kill(os.getpid(), signal.SIGINT)
        take(tally, *args)

    monkeypatch.setattr(Tally, "count_call", interrupted)
    done = cli.call(*command, *out)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"guardpool: stopped\n")
    assert not list(cli.folder.glob("out*"))


def test_an_interrupted_what_if_says_what_is_written(cli: Bench, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardpool.cli.what_if._line", interrupting(_line))
    policies = ["-p", cli.folder / "approved.json", "-p", cli.folder / "none.json"]
    done = cli.call("what-if", log, "-g", f"github={samples.GUARD}", *policies, "-w", 1, "-o", cli.folder / "out")
    assert (done.returncode, done.stdout) == (130, b"")
    part = cli.folder / "out.part"
    assert done.stderr.decode() == f"guardpool: stopped: 1 change written to {part}\n"
    assert part.read_bytes().count(b"\n") == 1


def interrupting(function: Callable[..., Any]) -> Callable[..., Any]:
    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return function(*args)

    return interrupted


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"pairing": Pairing.AMBIGUOUS}, "1 call paired with a response that may be another call's (ambiguous)"),
        ({"pairing": Pairing.UNMATCHED}, "1 call without the line of a response (unmatched)"),
        ({"payload": Payload(PayloadState.INTACT, PayloadState.LOST)}, "1 payload that the recorder lost"),
    ],
)
def test_what_makes_a_recording_incomplete_is_told(cli: Bench, members: dict[str, Any], words: str) -> None:
    calls = write(cli, "odd.jsonl", [call(1, server="s", **members)])
    done = cli.run("replay", calls, "--sink", "s=*", "-o", cli.folder / "out")
    assert (done.returncode, f"the recording is not complete: {words}\n" in done.stderr.decode()) == (3, True), (
        done.stderr
    )


# --- what-if


@pytest.fixture
def log(cli: Bench) -> Path:
    path = cli.folder / "rpc-messages.jsonl"
    path.write_text("\n".join(samples.recording(80, seed=2)) + "\n")
    for level in ("none", "approved"):
        saved(cli, f"{level}.json", {"allow-only": {"repos": "all", "min-integrity": level}})
    return path


def rows(out: bytes) -> dict[str, list[str]]:
    """The first table's rows: by policy, its cells."""
    found: dict[str, list[str]] = {}
    for line in out.decode().splitlines()[4:]:
        name, _, rest = line.partition("  ")
        if not rest:
            break
        found[name] = rest.split()
    return found


def test_a_lower_policy_shows_more_and_is_exit_1(cli: Bench, log: Path) -> None:
    out = cli.folder / "changes.jsonl"
    guard = ["-g", f"github={samples.GUARD}"]
    high, low = cli.folder / "approved.json", cli.folder / "none.json"
    done = cli.run("what-if", log, *guard, "-p", high, "-p", low, "-o", out, "-w", 1)
    assert done.returncode == 1, done.stderr
    table = rows(done.stdout)
    first, second = table["approved.json"], table["none.json"]
    shown = int(second[0]) - int(first[0])
    assert shown > 0
    changes = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert sum(each["opened"] and "index" in each for each in changes) == shown
    assert f"+{shown} shown" in " ".join(second)
    assert {each["policy"] for each in changes} == {"none.json"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert b"The replay agrees with the recording" in done.stdout.splitlines()[0] or b"Nothing can" in done.stdout


def test_modes_are_compared_without_another_guard_run(cli: Bench, log: Path) -> None:
    guard = ["-g", f"github={samples.GUARD}", "-p", f"github={cli.folder / 'approved.json'}"]
    done = cli.run("what-if", log, *guard, "--mode", "filter", "--mode", "propagate", "-w", 1)
    assert done.returncode == 1, done.stderr
    assert list(rows(done.stdout)) == ["now, filter", "now, propagate"]
    assert rows(done.stdout)["now, propagate"][1] == "0"


def test_a_policy_for_each_repository_covers_its_runs_alone(cli: Bench, log: Path) -> None:
    runs = cli.folder / "runs"
    for number, repository in enumerate(["acme/web", "acme/api", "acme/docs"]):
        logs = runs / str(number) / "mcp-logs"
        logs.mkdir(parents=True)
        (runs / str(number) / "aw_info.json").write_text(json.dumps({"run_id": number + 1, "repository": repository}))
        (logs / "rpc-messages.jsonl").write_text("\n".join(samples.recording(15, seed=number)) + "\n")
    guard = ["-g", f"github={samples.GUARD}", "-p", cli.folder / "approved.json"]
    own = ["-p", f"acme/web={cli.folder / 'none.json'}", "-p", f"acme/api={cli.folder / 'approved.json'}"]
    done = cli.run("what-if", runs, *guard, *own, "-w", 1)
    assert done.returncode in (1, 3), done.stderr
    assert list(rows(done.stdout)) == ["approved.json", "by repository"]
    lines = {line.split()[0]: line for line in done.stdout.decode().splitlines() if line.startswith("acme/")}
    assert lines["acme/docs"].rstrip().endswith("-")
    assert set(lines) == {"acme/web", "acme/api", "acme/docs"}
    assert b"by repository: " in done.stderr


def test_a_policy_that_does_not_cover_every_call_is_exit_3(cli: Bench) -> None:
    web, api = (
        write(cli, f"{name}.jsonl", [call(1, repository=f"acme/{name}", call=f"{name}.jsonl#1")])
        for name in ("web", "api")
    )
    own = ["-p", cli.folder / "p.json", "-p", f"acme/web={cli.folder / 'p.json'}"]
    done = cli.run("what-if", web, api, "-g", f"g={cli.folder / 'g.wasm'}", *own, "-w", 1)
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert b"by repository: does not cover 1 call of runs of other repositories, or of none" in done.stderr
    done = cli.run("what-if", web, "-g", f"g={cli.folder / 'g.wasm'}", *own, "-w", 1)
    assert done.returncode == 0, (done.stdout, done.stderr)


def test_guards_that_failed_and_keys_that_were_taken_off_are_told_by_policy(cli: Bench) -> None:
    calls = write(cli, "traps.jsonl", [call(1), call(2, "take_issue")])
    limited = {"allow-only": {"repos": "all", "min-integrity": "none", "tool-call-limits": {"get_issue": 1}}}
    policies = ["-p", cli.folder / "p.json", "-p", saved(cli, "limited.json", limited)]
    done = cli.run("what-if", calls, "-g", f"g={cli.folder / 'g.wasm'}", *policies, "-w", 1)
    assert done.returncode == 3, done.stderr
    told = done.stderr.decode()
    assert f"{cli.folder / 'limited.json'}: the policy has tool-call-limits, which no wasm guard takes" in told
    for name in ("p.json", "limited.json"):
        assert (
            f"{name}: server g: 1 labelling ended trap; in the gateway every later call of that run would fail" in told
        )
    sink = saved(cli, "sink.json", {"write-sink": {"accept": ["private:a/b"]}})
    done = cli.run("what-if", calls, "-g", f"g={cli.folder / 'g.wasm'}", "-p", cli.folder / "p.json", "-p", sink)
    assert (done.returncode, done.stderr.count(b"\n")) == (5, 1)
    assert b"sink.json: it is the policy of a sink, and no guard takes one" in done.stderr


@pytest.mark.parametrize("command", ["replay", "what-if"])
def test_a_guard_that_no_call_goes_to_is_told(cli: Bench, command: str) -> None:
    policies = {"replay": ["-p", f"other={cli.folder / 'p.json'}"], "what-if": 2 * ["-p", cli.folder / "p.json"]}
    guard = ["-g", f"other={cli.folder / 'g.wasm'}", *policies[command]]
    done = cli.run(command, cli.folder / "calls.jsonl", *guard, "--sink", "g=*", "-w", 1)
    assert b"server other: it has a guard, and no call of the recording goes to it, but to g\n" in done.stderr


@pytest.mark.parametrize("redacted", [False, True])
def test_what_guards_log_is_not_shown_beside_hashes(cli: Bench, redacted: bool) -> None:
    (cli.folder / "logs.wasm").write_bytes(guardkit.wat("logs"))
    guard = ["-g", f"g={cli.folder / 'logs.wasm'}", "--mode", "filter", "--mode", "strict", "-p", cli.folder / "p.json"]
    done = cli.run("what-if", cli.folder / "calls.jsonl", *guard, "-w", 1, *(["--redact"] if redacted else []))
    assert (b"high" in done.stderr) is not redacted, done.stderr


@pytest.mark.parametrize("command", ["replay", "what-if"])
def test_odd_names_of_servers_are_hashed_beside_the_decisions_too(cli: Bench, command: str) -> None:
    """The server of a message log is what it calls itself, so it may be any text."""
    calls = write(cli, "odd.jsonl", [call(number, server=f"Hush {number}") for number in range(3)])
    policies = 2 * ["-p", cli.folder / "p.json"] if command == "what-if" else ["-p", f"g={cli.folder / 'p.json'}"]
    summary = ["--summary", cli.folder / "sum.json"] if command == "replay" else []
    arguments = [command, calls, "-g", f"g={cli.folder / 'g.wasm'}", *policies, "-g", "Hush 1=none", *summary, "-w", 1]
    out = cli.folder / "out.jsonl"
    for redacted in (False, True):
        done = cli.run(*arguments, "-o", out, *(["--redact"] if redacted else []))
        told = done.stdout + done.stderr + out.read_bytes() + b"".join(Path(each).read_bytes() for each in summary[1:])
        assert (b"Hush" not in told) is redacted, told
    assert b"it has a guard, and no call of the recording goes to it, but to server-" in done.stderr


def test_a_summary_has_hashes_for_odd_names() -> None:
    counts = Counter({"github": 1, "Hush": 2, "Hush me": 3, "": 4})
    names = ("servers", "unknown_servers", "unguarded", "asked", "missing")
    summary = ReplaySummary(**dict.fromkeys(names, counts), taken_off={"Hush me": ()})
    summary.guard_failures["Hush me", "trap"] = 1
    shown = redaction(True, None).summary(summary)
    assert "Hush me" not in str(shown)
    for name in names:
        assert {key: getattr(shown, name)[key] for key in ("github", "Hush", "")} == {"github": 1, "Hush": 2, "": 4}


def test_what_the_table_does_not_stand_for_is_told(cli: Bench, log: Path) -> None:
    policies = ["-p", cli.folder / "none.json", "-p", cli.folder / "approved.json"]
    done = cli.run("what-if", log, "-g", f"other={samples.GUARD}", *policies, "-w", 1)
    assert done.returncode == 3, done.stderr
    assert b"No items were labelled" in done.stdout
    assert b"server github: " in done.stderr
    assert b"undecided, because nothing says what stands before it" in done.stderr
    assert b"the recording is not complete: " in done.stderr
    (cli.folder / "empty.jsonl").touch()
    done = cli.run("what-if", cli.folder / "empty.jsonl", "-g", f"github={samples.GUARD}", *policies, "-w", 1)
    assert (done.returncode, b"No items were labelled" in done.stdout) == (3, True)


def outlook(name: str, shown: int, hidden: int = 0, uncovered: int = 0, **hidden_of: int) -> Outlook:
    items = {"shown": shown, "hidden": hidden, "hidden_of": Counter(hidden_of)}
    return Outlook(name, None, 1 if shown + hidden else 0, uncovered=uncovered, **items)


NOTHING_OF_MEMBERS = "The strictest of these under which nothing that members wrote is hidden"


@pytest.mark.parametrize(
    ("outlooks", "words"),
    [
        ([outlook("a", 3, 2, member=2), outlook("b", 5)], f"{NOTHING_OF_MEMBERS}: b"),
        ([outlook("a", 4, 1), outlook("b", 5)], f"{NOTHING_OF_MEMBERS}: a"),
        ([outlook("a", 4, 1), outlook("b", 4, 1)], f"{NOTHING_OF_MEMBERS}: a and b, which show equally many items"),
        (
            [outlook("a", 4, 1, unknown=1), outlook("b", 5)],
            f"{NOTHING_OF_MEMBERS} (1 hidden item may be: their authors are unknown): a",
        ),
        ([outlook("part", 1, uncovered=9), outlook("all", 5)], f"{NOTHING_OF_MEMBERS}: all"),
        (
            [outlook("a", 3, 2, member=1), outlook("b", 0, 5, member=4)],
            "Each of these hides something that members wrote.",
        ),
        (
            [outlook("a", 3, 2, member=1), outlook("b", 0, uncovered=9)],
            "Each of these under which items were labelled hides something that members wrote.",
        ),
        ([outlook("a", 0), outlook("b", 0)], "No items were labelled: which of these is the strictest cannot be said."),
    ],
)
def test_the_conclusion_says_no_more_than_the_table(outlooks: list[Outlook], words: str) -> None:
    assert conclusion(outlooks) == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-g", "g=g.wasm", "-p", "p.json"], "there is nothing to compare"),
        (["-g", "g=none", "-p", "p.json", "-p", "p.json"], "no server has a guard: there is no policy to try"),
        (["-g", "g=g.wasm"], "guard 'g' has no policy"),
    ],
)
def test_too_little_to_compare_is_a_usage_error(
    cli: Bench, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cli.folder)
    done = cli.call("what-if", "calls.jsonl", *arguments)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert words in done.stderr.decode()
