"""`guardpool label --backend`: who answers, what is kept, and what is said about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from clikit import Bench
from guardpool import Guard, GuardPool, samples
from guardpool.batch.jobline import job_line

COUNT = 300


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("backends")
    (folder / "policy.json").write_text(json.dumps(samples.POLICY))
    (folder / "jobs").write_bytes(b"".join(map(job_line, samples.jobs(COUNT))))
    (folder / "replies").write_text("".join(f"{line}\n" for line in samples.replies()))
    (folder / "answers.py").write_text("from guardpool.samples import backend\nnumber = 5\n")
    return Bench(folder)


def label(bench: Bench, out: Path, *options: object) -> tuple[int, list[str], str]:
    """Exit status, labels, what was said."""
    guard = ("-g", f"github={samples.GUARD}", "-p", f"github={bench.folder / 'policy.json'}")
    done = bench.run("label", bench.folder / "jobs", "-o", out, *guard, *options, PYTHONPATH=str(bench.folder))
    lines = out.read_bytes().splitlines() if out.exists() else []
    return done.returncode, [json.dumps(json.loads(line)["label"]) for line in lines], done.stderr.decode()


@pytest.fixture(scope="module")
def right() -> list[str]:
    """The labels that the library gives with the same backend."""
    guard = Guard.from_file(samples.GUARD, "github", samples.POLICY, backend=samples.backend)
    with GuardPool([guard], workers=1) as pool:
        return [json.dumps(json.loads(outcome.label_json)) for outcome in pool.map(samples.jobs(COUNT))]


def test_labels_are_those_of_the_library_with_the_same_answers(bench: Bench, tmp_path: Path, right: list[str]) -> None:
    status, labels, said = label(bench, tmp_path / "table", "--backend", f"github={bench.folder / 'replies'}")
    assert (status, labels) == (0, right)
    assert "guard github asked its backend " in said
    assert "and was answered each time" in said
    assert said.splitlines()[-1].endswith("300 ok")
    status, labels, said = label(bench, tmp_path / "none", "--backend", "github=none")
    assert status == 0
    assert labels != right
    lines = said.splitlines()  # the log's come when its thread has time
    assert (
        "guardpool: warning: guard github asks its backend and has none: its labels say less than they could" in lines
    )
    told = r"guardpool: guard github asked its backend \d+ times, and has none: it labelled without knowing; add --backend .*"
    assert sum(re.fullmatch(told, line) is not None for line in lines) == 1
    assert len(lines) == 3


def test_what_a_function_answered_is_kept_for_the_next_run(bench: Bench, tmp_path: Path, right: list[str]) -> None:
    kept = tmp_path / "kept"
    function = ("--backend", "github=python:answers:backend")
    status, labels, _ = label(bench, tmp_path / "live", *function, "--record-backend", kept)
    assert (status, labels) == (0, right)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert label(bench, tmp_path / "again", "--backend", f"github={kept}")[:2] == (0, right)
    # As other outputs it is replaced by a whole one only, and never by what the run reads.
    before = kept.read_bytes()
    kept.write_text("old\n")
    status = label(bench, tmp_path / "refused", *function, "--record-backend", kept, "--timeout", "0")[0]
    assert (status, kept.read_text()) == (2, "old\n")
    assert label(bench, tmp_path / "more", *function, "--record-backend", kept)[0] == 0
    assert sorted(kept.read_bytes().splitlines()) == sorted(before.splitlines())
    table = ("--backend", f"github={kept}", "--record-backend", kept)
    assert "is the same file" in label(bench, tmp_path / "same", *table)[2]


def test_questions_without_an_answer_are_told(bench: Bench, tmp_path: Path) -> None:
    table = tmp_path / "short"
    table.write_text(f"{samples.replies()[0]}\n{json.dumps({**json.loads(samples.replies()[0]), 'result': 5})}\n")
    status, _, said = label(bench, tmp_path / "out", "--backend", f"github={table}")
    first, asked, counts = said.splitlines()
    assert status == 0
    assert first == f"guardpool: {table}: line 2 answers a question otherwise than an earlier line, which counts"
    assert "without an answer: it labelled without knowing; the first: search_repositories {" in asked
    assert counts.endswith("300 ok")


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--backend", "github"), 2, "write it as --backend NAME=WHO"),
        (("--backend", "gitlab=none"), 2, "no guard is called 'gitlab'"),
        (("--backend", "github=none", "--backend", "github=none"), 2, "--backend is given twice for guard 'github'"),
        (("--backend", "mcp:https://u:secret@h/mcp"), 2, "--backend mcp:https://...: write it as --backend NAME=WHO"),
        (("--backend", "github=mcp:"), 2, "write it as mcp:COMMAND or mcp:URL"),
        (("--backend", "github=mcp:ftp://host/mcp"), 2, "the URL of an MCP server must be https"),
        (("--backend", "github=python:answers"), 2, "write it as --backend github=python:MODULE:FUNCTION"),
        (("--backend", "github=python:nothing:x"), 2, "No module named 'nothing'"),
        (("--backend", "github=python:answers:number"), 2, "number is not a function"),
        (("--backend", "github=python:answers:nothing"), 2, "AttributeError"),
        (("--backend", "github=/nowhere/replies"), 1, "/nowhere/replies: cannot be read: No such file"),
        (("--backend", "github=none", "--record-backend", "x"), 2, "give exactly one --backend"),
        (("--record-backend", "x"), 2, "give exactly one --backend"),
    ],
)
def test_what_cannot_be_a_backend_is_said_before_anything_runs(
    bench: Bench, tmp_path: Path, options: tuple[str, ...], status: int, says: str
) -> None:
    got, labels, said = label(bench, tmp_path / "out", *options)
    assert (got, labels) == (status, [])
    assert says in said
    assert len(said.splitlines()) == 1


def test_one_call_is_answered_from_a_table(bench: Bench) -> None:
    issue = '{"owner": "octo", "repo": "handbook", "issue_number": 1}'
    words = ("call", samples.GUARD, "-p", bench.folder / "policy.json", "get_issue", issue, "--json")
    with_table = json.loads(bench.run(*words, "--backend", bench.folder / "replies").stdout)
    without = json.loads(bench.run(*words).stdout)
    assert [question["tool"] for question in with_table["questions"]] == ["search_repositories"]
    assert "failure" not in with_table["questions"][0]
    assert without["questions"][0]["failure"] == "there is no backend here: add --backend"
    done = bench.run(*words, "--backend", "nowhere")
    assert (done.returncode, b"nowhere: cannot be read" in done.stderr) == (1, True)


def test_a_full_disk_under_the_record_changes_no_label(bench: Bench, tmp_path: Path, right: list[str]) -> None:
    table = ("--backend", f"github={bench.folder / 'replies'}")
    status, labels, said = label(bench, tmp_path / "out", *table, "--record-backend", "/dev/full")
    assert (status, labels) == (1, right)
    assert (
        "/dev/full: the answers of the backend cannot be written: No space left on device; the guards got all" in said
    )
    assert "and was answered each time" in said


def test_ctrl_c_while_a_backend_is_imported_ends_the_run(bench: Bench, tmp_path: Path) -> None:
    (bench.folder / "slow.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept Exception:\n    pass\n"
        "def backend(tool, args):\n    return 1\n"
    )
    status, labels, said = label(bench, tmp_path / "out", "--backend", "github=python:slow:backend")
    assert (status, labels, said) == (130, [], "")


def test_a_run_that_is_stopped_says_what_was_asked_and_where_answers_are(bench: Bench, tmp_path: Path) -> None:
    (bench.folder / "stops.py").write_text(
        "import os, signal\nfrom guardpool import samples\n"
        "signals = [signal.SIGINT]\n"
        "def backend(tool, args):\n"
        "    if signals:\n        os.kill(os.getpid(), signals.pop())\n"
        "    return samples.backend(tool, args)\n"
    )
    options = ("--backend", "github=python:stops:backend", "--record-backend", tmp_path / "kept", "-w", 1)
    status, _, said = label(bench, tmp_path / "out", *options)
    lines = said.splitlines()
    assert status == 130
    assert any(line.startswith("guardpool: guard github asked its backend ") for line in lines)
    assert lines[-1].endswith(f"; what the backend answered is in {tmp_path / 'kept.part'}")


def test_what_a_backend_prints_goes_to_standard_error(bench: Bench) -> None:
    (bench.folder / "loud.py").write_text(
        "from guardpool import samples\nprint('imported')\n"
        "def backend(tool, args):\n    print('asked', flush=True)\n    return samples.backend(tool, args)\n"
    )
    policy, path = bench.folder / "policy.json", {"PYTHONPATH": str(bench.folder)}
    guard = ("-g", f"github={samples.GUARD}", "-p", f"github={policy}", "--backend", "github=python:loud:backend")
    done = bench.run("label", bench.folder / "jobs", "-o", "-", *guard, **path)
    assert done.returncode == 0
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == COUNT
    assert done.stderr.startswith(b"imported\n")
    assert b"asked\n" in done.stderr
    call = ("call", samples.GUARD, "-p", policy, "get_issue", '{"owner": "octo", "repo": "widgets"}')
    done = bench.run(*call, "--backend", "python:loud:backend", "--json", **path)
    assert json.loads(done.stdout)["backend"]["answered"] == 1
    assert done.stderr == b"imported\nasked\n"


def test_a_call_shows_the_question_that_its_backend_hangs_on(bench: Bench) -> None:
    (bench.folder / "hangs.py").write_text("import time\ndef backend(tool, args):\n    time.sleep(600)\n")
    call = (
        "call",
        samples.GUARD,
        "-p",
        bench.folder / "policy.json",
        "get_issue",
        '{"owner": "octo", "repo": "hedge"}',
    )
    options = ("--backend", "python:hangs:backend", "--backend-timeout", 0.1, "--json")
    facts = json.loads(bench.run(*call, *options, PYTHONPATH=str(bench.folder)).stdout)
    args = {"perPage": 10, "query": "repo:octo/hedge"}
    assert facts["questions"] == [
        {"tool": "search_repositories", "args": args, "failure": "no answer within 0.1 s"},
    ]
    assert [line["level"] for line in facts["logs"]] == ["info"], "what the guard said, and not the pool"


def test_answers_and_outcomes_do_not_both_go_to_standard_output(bench: Bench) -> None:
    guard = ("-g", f"github={samples.GUARD}", "-p", f"github={bench.folder / 'policy.json'}")
    table = ("--backend", f"github={bench.folder / 'replies'}")
    for option, what in (("--record-backend", "the answers of the backend"), ("--stats", "the statistics")):
        done = bench.run("label", bench.folder / "jobs", "-o", "-", *guard, *table, option, "-")
        said = f"guardpool: standard output: {what} and the outcomes cannot both be written there\n"
        assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", said)
