"""Files that are not jobs: `guardpool label` says in one line what they are and what to do, and exits with 4."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from clikit import Bench, job_line, outcomes
from guardpool import samples
from guardpool.batch.binary import LONGEST_MAGIC, kind_of
from guardpool.cli.not_jobs import explain, of_kind
from guardpool.outcomes import Outcome, OutcomeError, Status

JOB = {"op": "label_resource", "tool_name": "get_issue", "tool_args": {"n": "é"}}
LINES = (json.dumps(JOB, ensure_ascii=False) + "\n") * 20


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.prepare(tmp_path_factory.mktemp("not_jobs"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (gzip.compress(LINES.encode(), mtime=0), "compressed with gzip: gzip -dc 'a b' | guardpool label - ..."),
        (b"\x28\xb5\x2f\xfd\x04\x00", "compressed with zstd: zstd -dc 'a b' | guardpool label - ..."),
        (b"\x50\x2a\x4d\x18\x00\x00\x00\x00", "compressed with zstd"),
        (bz2.compress(LINES.encode()), "compressed with bzip2"),
        (lzma.compress(LINES.encode()), "compressed with xz"),
        (b"PK\x03\x04\x14\x00", "compressed with zip"),
        (b"PAR1\x15\x04\x15\x10", "a Parquet file: name the file, since it is read from its end"),
        (b"ARROW1\x00\x00", "an Arrow file"),
        (
            b"\x00asm\x01\x00\x00\x00",
            "a WebAssembly module: name the guard as -g NAME='a b', and give",
        ),
        *((LINES.encode(f"utf-{size}"), f"text in UTF-{size}, not in UTF-8: iconv") for size in (16, 32)),
        *(
            (LINES.encode(f"utf-{size}-{order}"), f"iconv -f UTF-{size}{order.upper()} -t UTF-8 'a b' |")
            for size in (16, 32)
            for order in ("le", "be")
        ),
    ],
)
def test_the_first_bytes_tell_what_a_file_is(data: bytes, says: str) -> None:
    kind = kind_of(data)
    assert kind is not None
    assert says in of_kind(kind, "a b")
    assert kind_of(data[:LONGEST_MAGIC]) == kind


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"{}", LINES.encode(), b"\xef\xbb\xbf{", b"PAR1,x\n{}", b"BZh text\n", b"PK\n", b"\x00", b"\xff"],
)
def test_a_file_in_which_a_line_may_be_a_job_is_read(data: bytes) -> None:
    assert kind_of(data) is None


ARRAY = "it is a JSON array, and a job is a line: jq -c '.[]' jobs | guardpool label - ..."
PRINTED = "it is JSON printed over many lines, and a job is one line: jq -c . jobs | guardpool label - ..."
CHAT = {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "x", "arguments": "{}"}}]}]}
RPC = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x", "arguments": {}}}


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (json.dumps([JOB] * 20), ARRAY),
        (json.dumps([JOB] * 20, indent=2), ARRAY),
        ("[" + json.dumps([JOB] * 20)[1:-500], ARRAY),
        ("\ufeff\n [" + ",\n".join([json.dumps(JOB)] * 9) + "\n]\n", ARRAY),
        (json.dumps(JOB, indent=4), PRINTED),
        ((json.dumps(JOB, indent=4) + "\n") * 2, PRINTED),
        (json.dumps(JOB, indent=4).replace("\n", "\r\n"), PRINTED),
        ('{\n  "cut": [', PRINTED),
        ("[1]\n[2]\n", "line 3: a job is a JSON object, not an array; a job is"),
        ("tool,args\nx,{}\n", "line 3: a job is a JSON object, not an array; a job is"),
        (
            samples.recording(3)[0],
            "it is a recording (rpc-messages): guardpool import jobs -o calls.jsonl --jobs jobs.jsonl",
        ),
        (json.dumps(CHAT), "it is a recording (openai-chat): guardpool import jobs "),
        (json.dumps(CHAT, indent=1), "it is a recording (openai-chat): guardpool import jobs "),
        (json.dumps([CHAT]), "it is a recording (openai-chat): guardpool import jobs "),
        ("\n" + json.dumps(RPC) + "\n", "it is a recording (json-rpc): guardpool import jobs "),
        ((json.dumps({**JOB, "tool_args": CHAT}) + "\n").replace("_name", "_nam"), "line 3: "),
    ],
)
def test_what_text_is_that_holds_no_lines_of_jobs(head: str, says: str) -> None:
    error = OutcomeError("bad_job", "a job is a JSON object, not an array", line=2)
    assert explain(head.encode(), "jobs", Outcome(2, None, "", None, Status.REJECTED, None, error)).startswith(says)


def test_standard_input_has_a_name_in_commands() -> None:
    assert explain(b"[{}]", None, None).endswith("jq -c '.[]' FILE | guardpool label - ...")
    assert "guardpool import - -o" in explain(json.dumps(RPC).encode(), None, None)


# --- by the command


def refused(done: subprocess.CompletedProcess[bytes], says: str, counts: str | None) -> None:
    assert done.returncode == 4
    lines = done.stderr.decode().splitlines()
    assert "no line was a job: " + says in lines[0]
    assert len(lines) == (1 if counts is None else 2)
    if counts is not None:
        assert lines[1].endswith(counts)


@pytest.mark.parametrize("by_pipe", [False, True])
def test_a_file_packed_in_an_unknown_way_is_refused_at_its_first_bytes(
    bench: Bench, tmp_path: Path, by_pipe: bool
) -> None:
    jobs, out = tmp_path / "jobs", tmp_path / "out"
    jobs.write_bytes(bz2.compress(LINES.encode()))
    out.write_text("old\n")
    stdin = jobs.read_bytes() if by_pipe else b""
    done = bench.run("label", "-" if by_pipe else jobs, "-o", out, *bench.guard, stdin=stdin)
    refused(done, f"it is compressed with bzip2: bzip2 -dc {'FILE' if by_pipe else jobs} | ", None)
    assert out.read_text() == "old\n"
    assert not (tmp_path / "out.part").exists()


def test_no_jobs_replace_no_outcomes_and_say_what_is_wrong(bench: Bench, tmp_path: Path) -> None:
    jobs, out = tmp_path / "jobs", tmp_path / "out"
    jobs.write_text('\n{"name": "x", "arguments": {}}\n\n{"op": "label", "tool_name": "x"}\n')
    for number in range(2):  # at first there is nothing to replace
        done = bench.run("label", jobs, "-o", out, *bench.guard, "--no-progress")
        refused(
            done, "line 2: what the tool is called with is tool_args here, not arguments; the tool's", ": 2 rejected"
        )
        assert (f"{out} is as it was, {out}.part says" in done.stderr.decode()) == bool(number)
        written = outcomes(tmp_path / "out.part" if number else out)
        assert [(line["id"], line["error"]["line"], line["error"]["code"]) for line in written] == [
            (1, 1, "wrong_key"),
            (3, 3, "no_such_op"),
        ]
        if not number:
            out.write_text("old\n")
    assert out.read_text() == "old\n"


@pytest.mark.parametrize(
    ("write", "status", "says"),
    [
        (lambda job: f"[\n{job},\n{job},\n{job}\n]", 0, "4 of 5 lines are not jobs: it is a JSON array"),
        (lambda job: f"{job}\nx\n{job}\n", 0, None),
        (lambda job: "\n \n", 0, None),
        (
            lambda job: '{"op": "label_resource", "tool_name": "x", "guard": "h"}\n',
            0,
            "no guard saw any of the jobs: line 1: ",
        ),
    ],
)
def test_a_run_with_some_jobs_says_what_the_others_are(
    bench: Bench, write: Callable[[str], str], status: int, says: str | None
) -> None:
    done = bench.run("label", "-", "-o", "-", *bench.guard, stdin=write(job_line(0, "x").strip()).encode())
    lines = done.stderr.decode().splitlines()
    assert done.returncode == status
    assert len(lines) == (1 if says is None else 2)
    assert says is None or says in lines[0]
    count = len(outcomes(done.stdout))
    assert lines[-1].startswith(f"guardpool: {count} job")


def test_outcomes_are_not_taken_for_jobs(bench: Bench, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert bench.run("label", bench.jobs(["x"] * 5), "-o", first, *bench.guard).returncode == 0
    done = bench.run("label", first, "-o", second, *bench.guard)
    assert done.returncode == 4
    assert done.stderr.decode().endswith("it is a file of outcomes: give the file of jobs in its place\n")
    assert not second.exists()
