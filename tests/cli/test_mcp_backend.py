"""`guardpool label` and `call` with a live MCP server: asked, recorded, replayed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import psutil
import pytest

import guardkit
from clikit import Bench, outcomes
from guardpool import Guard, GuardPool, samples
from guardpool.batch.jobline import job_line
from mcpkit import ENV, bad_command, noted, real_command, real_http

COUNT = 200


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("servers")
    (folder / "jobs").write_bytes(b"".join(map(job_line, samples.jobs(COUNT))))
    (folder / "policy.json").write_text(json.dumps(samples.POLICY))
    return Bench.prepare(folder)


@pytest.fixture(scope="module")
def right() -> list[object]:
    """The labels that the library gives where the same answers come from a function."""
    guard = Guard.from_file(samples.GUARD, "github", samples.POLICY, backend=samples.backend)
    with GuardPool([guard], workers=1) as pool:
        return [json.loads(outcome.label_json) for outcome in pool.map(samples.jobs(COUNT))]


def mcp(command: list[str]) -> str:
    return f"mcp:{shlex.join(command)}"


def environment(name: str) -> list[str]:
    return ["--backend-env", f"{name}={','.join(ENV)}"] if ENV else []


@pytest.mark.parametrize("way", ["stdio", "http"])
def test_what_a_real_server_answered_is_replayed_byte_by_byte(
    way: str, bench: Bench, tmp_path: Path, right: list[object]
) -> None:
    guard = ("-g", f"github={samples.GUARD}", "-p", f"github={bench.folder / 'policy.json'}", "--no-timing", "-w", 1)
    notes, table = tmp_path / "notes", tmp_path / "replies.jsonl"

    def label(out: str, *options: object, **env: str) -> str:
        done = bench.run("label", bench.folder / "jobs", "-o", tmp_path / out, *guard, *options, **env)
        said = done.stderr.decode()
        assert done.returncode == 0, said
        return said

    if way == "stdio":
        backend = ("--backend", f"github={mcp(real_command(notes))}", *environment("github"))
        said = label("live", *backend, "--record-backend", table)
    else:
        with real_http(notes, SECRET="t0ken-of-mine") as http:
            backend = ("--backend", f"github=mcp:{http.url}", "--backend-token", "github=SECRET")
            said = label("live", *backend, "--record-backend", table, SECRET="t0ken-of-mine")
    assert "and was answered each time" in said
    assert [outcome["label"] for outcome in outcomes(tmp_path / "live")] == right
    asked = noted(notes).count("search_repositories")
    assert asked >= len(table.read_bytes().splitlines()) > 3
    label("replayed", "--backend", f"github={table}")
    assert noted(notes).count("search_repositories") == asked
    assert (tmp_path / "replayed").read_bytes() == (tmp_path / "live").read_bytes()
    assert b"t0ken" not in table.read_bytes() + (tmp_path / "live").read_bytes()


def test_questions_that_the_rule_refuses_are_told_at_the_end(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("".join(f'{{"op":"label_resource","tool_name":"t{n}"}}\n' for n in range(5)))
    guard = ("-g", f"g={backend_guard(tmp_path)}", "-p", f"g={bench.folder / 'p.json'}")
    server = ("--backend", f"g={mcp(bad_command('well', tmp_path / 'notes'))}", *environment("g"))
    done = bench.run("label", tmp_path / "jobs", "-o", tmp_path / "out", *guard, *server, "--max-questions", 2, "-w", 1)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert "guard g asked its backend 5 times, 3 without an answer: " in said
    assert said.count("guard g: the guard asked 2 different questions before, and has no more (--max-questions)") == 1
    codes = [outcome["error"]["guard_code"] for outcome in outcomes(tmp_path / "out")]
    assert codes[2:] == [-100_001] * 3
    assert -100_001 not in codes[:2]
    (pid,) = noted(tmp_path / "notes")
    assert not psutil.pid_exists(int(pid))


def backend_guard(folder: Path) -> Path:
    (folder / "backend.wasm").write_bytes(guardkit.wat("backend"))
    return folder / "backend.wasm"


def test_one_call_asks_a_live_server(bench: Bench, tmp_path: Path) -> None:
    words = ("call", backend_guard(tmp_path), "-p", bench.folder / "p.json", "get_issue", "--json")
    server = mcp(bad_command("well", tmp_path / "notes"))
    env = ["--backend-env", ",".join(ENV)] if ENV else []
    answer = json.loads(bench.run(*words, "--backend", server, *env).stdout)
    assert [question["tool"] for question in answer["questions"]] == ["get_issue"]
    assert "failure" not in answer["questions"][0]
    (pid,) = noted(tmp_path / "notes")
    assert not psutil.pid_exists(int(pid))


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--backend", "mcp:/no/such-server"), 1, "the MCP server such-server cannot be started: No such file"),
        (("--backend", "none", "--backend-allow", "x"), 2, "--backend-allow x: the backend is not a live server"),
        (("--backend-token", "HOME"), 2, "--backend-token HOME: the backend is not a live server"),
        (("--backend", "mcp:http://a.example/"), 2, "--backend mcp:...: the URL of an MCP server must be https"),
    ],
)
def test_one_call_says_what_cannot_be_a_server(bench: Bench, options: tuple[str, ...], status: int, says: str) -> None:
    done = bench.call("call", bench.folder / "g.wasm", "-p", bench.folder / "p.json", "t", *options)
    assert (done.returncode, says in done.stderr.decode()) == (status, True)


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--backend", "g=mcp:/no/such-server x"), 1, "the MCP server such-server cannot be started: No such file"),
        (("--backend", "g=mcp:"), 2, "--backend g=mcp:...: neither a command nor a URL is named"),
        (("--backend", "g=mcp:a 'b"), 2, "the command cannot be split into words: No closing quotation"),
        (("--backend", "g=mcp:http://example.org/mcp"), 2, "must be https, or http on this machine"),
        (("--backend", "g=mcp:https://me:pa55@example.org/"), 2, "the URL of an MCP server has a user in it"),
        (("--backend", "g=mcp:a", "--backend-env", "g=NO_SUCH"), 2, "the environment variable NO_SUCH is not set"),
        (("--backend", "g=mcp:a", "--backend-token", "g=HOME"), 2, "--backend-token is for a URL"),
        (("--backend", "g=mcp:https://a/", "--backend-env", "g=HOME"), 2, "--backend-env is for a command"),
        (("--backend", "g=none", "--backend-allow", "g=t"), 2, "--backend-allow t: the backend is not a live server"),
        (("--max-questions", "5"), 2, "--max-questions 5: no backend is a live server"),
        (("--backend", "g=none", "--max-questions", "5"), 2, "--max-questions 5: no backend is a live server"),
        (("--backend-allow", "g=t"), 2, "--backend-allow g=t: there is no --backend g=mcp:..."),
        (("--backend-token", "HOME"), 2, "write it as --backend-token NAME=VAR"),
    ],
)
def test_what_cannot_be_a_server_is_said_before_anything_runs(
    bench: Bench, tmp_path: Path, options: tuple[str, ...], status: int, says: str
) -> None:
    done = bench.call("label", bench.folder / "jobs", "-o", tmp_path / "out", *bench.guard, *options)
    said = done.stderr.decode()
    assert (done.returncode, says in said, len(said.splitlines())) == (status, True, 1), said
    assert "pa55" not in said
    assert not (tmp_path / "out").exists()
