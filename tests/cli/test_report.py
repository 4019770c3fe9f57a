"""`guardpool report`: formats by ending, modes of files, and one clear line for whatever cannot be read."""

from __future__ import annotations

import gzip
import json
import stat
import sys
from pathlib import Path

import pytest

import reportkit
from clikit import Bench
from guardpool.cli import main

LINES = reportkit.lines(reportkit.decisions(40))


@pytest.fixture
def decisions(tmp_path: Path) -> Path:
    file = tmp_path / "decisions.jsonl"
    file.write_bytes(LINES)
    return file


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The status and the one line of a command that fails."""
    status = main(["report", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return status, err.removeprefix("guardpool: ").rstrip("\n")


@pytest.mark.parametrize(
    ("ending", "begins"),
    [
        *((".txt", b"Decisions of decisions.jsonl\n"), (".html", b"<!doctype html>"), (".md", b"# Decisions\n")),
        *((".json", b'{\n  "v": 1'), (".csv", b"call,session"), (".sarif", b'{\n  "$schema"'), (".xml", b"<?xml")),
    ],
)
def test_the_format_follows_from_the_ending_and_the_file_is_private(
    decisions: Path, ending: str, begins: bytes
) -> None:
    out = decisions.with_name(f"report{ending}")
    assert main(["report", str(decisions), "-o", str(out)]) == 0
    assert out.read_bytes().startswith(begins)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert not list(decisions.parent.glob("*.part"))


def test_text_goes_to_standard_output_and_packed_input_is_unpacked(
    decisions: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    decisions.write_bytes(gzip.compress(LINES))
    assert main(["report", str(decisions)]) == 0
    told = capfd.readouterr().out
    assert "█" in told
    assert "\x1b" not in told
    assert [line for line in told.splitlines() if line in ("Findings", "Coverage", "By tool")] == [
        "Findings",
        "Coverage",
        "By tool",
    ]
    assert main(["report", str(decisions), "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["calls"] == 40


def test_on_a_terminal_of_80_columns_no_line_is_longer(decisions: Path, tmp_path: Path) -> None:
    with Bench(tmp_path).terminal("report", decisions, columns=80) as terminal:
        terminal.read_until()
        assert terminal.finish() == 0
        shown = terminal.text
    assert "of these" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no decision is in it"),
        (b"\n \n", "no decision is in it"),
        (LINES + b'{"v": 2}\n', "line 41: a decision of version 2, and this guardpool reads version 1"),
        (LINES + LINES[:40], "line 41: not a decision"),
        (b'{"call": "x#1", "source": "y"}\n', "line 1: not a decision: it has no version"),
        (b"\xff\xfe\n", "line 1: not a decision"),
        (gzip.compress(LINES)[:-20], "the gzip stream"),
    ],
    ids=["empty", "blank", "another version", "cut", "a call", "not text", "cut gzip"],
)
@pytest.mark.parametrize("kind", ["text", "csv"])
def test_what_is_no_file_of_decisions_is_told_in_one_line(
    decisions: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str, kind: str
) -> None:
    decisions.write_bytes(content)
    out = decisions.with_name("out")
    status, line = failed(capsys, decisions, "--format", kind, "-o", out)
    assert status == 5
    assert line.startswith(f"{decisions}: ")
    assert message in line
    assert not out.exists()


def test_a_byte_order_mark_is_passed_over(decisions: Path, capfd: pytest.CaptureFixture[str]) -> None:
    decisions.write_bytes(b"\xef\xbb\xbf" + LINES)
    assert main(["report", str(decisions), "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["calls"] == 40


def test_missing_files_and_folders_are_told(decisions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = decisions.with_name("missing")
    assert failed(capsys, missing) == (5, f"{missing}: the decisions cannot be read: No such file or directory")
    assert failed(capsys, decisions.parent) == (5, f"{decisions.parent}: the decisions cannot be read: Is a directory")
    assert failed(capsys, decisions, "--against", missing)[0] == 5
    assert failed(capsys, decisions, "--format", "text", "-o", decisions)[0] == 5
    assert decisions.read_bytes() == LINES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "pdf"], "--format"),
        (["--format", "csv", "--against", "x"], "--against cannot be told as csv"),
        (["--redact", "--show-data"], "contradict"),
        (
            ["-o", "rep.pdf"],
            "rep.pdf: no report is written as .pdf: let the name end in .txt, .html, .md, .json, .csv, ",
        ),
        (["-o", "rep.md.gz"], ", .sarif or .xml, or add --format"),
    ],
)
def test_options_that_make_no_sense_end_with_2(
    decisions: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    status, line = failed(capsys, decisions, *options)
    assert status == 2
    assert message in line


def test_arguments_stand_in_a_report_only_with_show_data(decisions: Path) -> None:
    out = decisions.with_name("report.csv")
    assert main(["report", str(decisions), "-o", str(out)]) == 0
    assert b"owner" not in out.read_bytes()
    assert main(["report", str(decisions), "-o", str(out), "--show-data"]) == 0
    assert b"owner" in out.read_bytes()


def test_redact_takes_names_out_of_every_format(decisions: Path) -> None:
    for ending in ("txt", "html", "md", "json", "csv", "sarif", "xml"):
        out = decisions.with_name(f"redacted.{ending}")
        assert main(["report", str(decisions), "-o", str(out), "--redact"]) == 0
        assert b"acme" not in out.read_bytes()
        assert b"rpc-messages" not in out.read_bytes()


def test_without_jinja_a_page_says_what_to_install(
    decisions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    status, line = failed(capsys, decisions, "-o", decisions.with_name("report.html"))
    assert status == 5
    assert line.endswith("pip install 'guardpool[report]'")
