"""`guardpool call`: one call, and everything that became of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

import enginekit
import guardkit
from clikit import standard_input
from guardpool import samples
from guardpool.cli import main
from guardpool.contract import expand
from guardpool.labels import label_from_json
from paths import GUARDS

LABEL = {"description": "an issue", "secrecy": ["private:o/r"], "integrity": ["none:o/r"], "operation": "read"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("call")
    for name in ("by_letter", "backend", "trap_stack_overflow", "agent_bad_answer"):
        (folder / f"{name}.wasm").write_bytes(guardkit.wat(name))
    (folder / "answers_items.wasm").write_bytes(answers_with_items())
    (folder / "github.wasm").write_bytes(samples.GUARD.read_bytes())
    (folder / "p.json").write_bytes(msgspec.json.encode(samples.POLICY))
    job = next(job for job in samples.jobs(200) if job.op == "label_response" and job.tool_name == "list_issues")
    (folder / "args.json").write_bytes(b"\xef\xbb\xbf" + msgspec.json.encode(job.tool_args))
    (folder / "result.json").write_bytes(msgspec.json.encode(job.tool_result))
    (folder / "other.json").write_bytes(b'{"items": 5}')
    return folder


def answers_with_items() -> bytes:
    """The guard `by_letter`, whose `label_response` says that the items are at `/items`."""
    label = '{"labeled_paths":[],"items_path":"/items"}'
    text = (GUARDS / "by_letter.wat").read_text()
    *before, _last = text.rpartition("(i32.const 0)))")
    quoted = label.replace('"', "\\22")
    answer = f"(call $answer (i32.const 3000) (i32.const {len(label)}) (local.get 2) (local.get 3)))"
    return enginekit.wat_to_wasm(f'{before[0]}{answer}(data (i32.const 3000) "{quoted}"))')


def call(capsys: pytest.CaptureFixture[str], files: Path, guard: str, *more: object) -> tuple[int, str, str]:
    words = ["call", files / f"{guard}.wasm", "-p", files / "p.json", *more, "--engine", enginekit.ENGINE_NAME]
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def call_json(capsys: pytest.CaptureFixture[str], files: Path, *more: object) -> tuple[int, dict[str, Any]]:
    status, out, err = call(capsys, files, *more, "--json")  # type: ignore[arg-type]
    assert err == ""
    return status, json.loads(out)


def test_a_call_shows_the_label_and_what_the_guard_logged(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    status, out, err = call(capsys, files, "by_letter", "list")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("label_resource list: ok in ")
    rows = dict(line.split(maxsplit=1) for line in lines[1:6])
    assert rows == {
        "description": "an issue",
        "operation": "read",
        "secrecy": "private:o/r",
        "integrity": "none:o/r",
        "agent": "secrecy: -; integrity: approved:all; mode: filter",
    }
    assert lines[-2:] == ["log of label_resource", "  warning: \\x1b]0;pwned\\x07\\u202elog"], "harmless"
    assert logging.getLogger("guardpool.backend").level == logging.NOTSET


def test_json_has_the_outcomes_line_and_more(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    status, facts = call_json(capsys, files, "by_letter", "list", '{"a": 1.0}')
    assert status == 0
    del facts["duration_us"]
    assert facts.pop("engine").startswith(enginekit.ENGINE_NAME)
    assert facts == {
        "guard": "by_letter",
        "op": "label_resource",
        "tool_name": "list",
        "status": "ok",
        "label": LABEL,
        "error": None,
        "attempts": 1,
        "questions": [],
        "items": None,
        "items_problem": None,
        "where": [],
        "logs": [{"level": "warning", "text": "\x1b]0;pwned\x07\u202elog"}],
        "agent": {"secrecy": [], "integrity": ["approved:all"], "mode": "filter", "normalized_policy": {}},
        "agent_logs": [],
    }


def test_a_trap_names_the_function_and_the_byte_of_the_authors_file(
    capsys: pytest.CaptureFixture[str], files: Path
) -> None:
    status, facts = call_json(capsys, files, "by_letter", "trap")
    assert (status, facts["status"], facts["error"]["trap"]) == (3, "trap", "unreachable")
    (frame,) = facts["where"]
    assert (frame["function"], frame["index"]) == ("label_resource", 6), "it has no name but that of its export"
    around = guardkit.wat("by_letter")[frame["offset"] : frame["offset"] + 3]
    assert b"\x00" in around, "unreachable, or the `if` before it, which some engines name"
    status, out, _ = call(capsys, files, "trap_stack_overflow", "x")
    assert status == 3
    rows = [line for line in out.splitlines() if "deeper" in line]
    assert rows[0].startswith("where        in deeper (function 0)")
    assert len(rows) > 1
    assert all(row.startswith("called from  in deeper (function 0) at byte 0x") for row in rows[1:])
    assert "at deeper ([" not in out, "the frames stand on lines of their own"


def test_a_results_label_is_expanded_over_its_items(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    options = ("list_issues", f"@{files / 'args.json'}", "--result", files / "result.json")
    status, facts = call_json(capsys, files, "github", *options)
    assert status == 0
    result = json.loads((files / "result.json").read_bytes())
    expected = expand(label_from_json("label_response", msgspec.json.encode(facts["label"])), result)  # type: ignore[arg-type]
    assert [each["item"] for each in facts["items"]] == [item.data for item in expected]
    assert [each["integrity"] for each in facts["items"]] == [sorted(item.labels.integrity) for item in expected]
    status, out, _ = call(capsys, files, "github", *options)
    assert status == 0
    assert sum(" issue:" in line for line in out.splitlines()) == len(expected) + 1  # and the default


def test_a_label_that_does_not_fit_the_result_is_not_ok(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    status, out, _ = call(capsys, files, "answers_items", "x", "--result", files / "other.json")
    assert status == 3
    assert out.startswith("label_response x: ok in ")
    assert "problem  the label does not fit the result: items_path '/items' must lead to an array; it leads to 5" in out
    (files / "two.json").write_text('{"items": [1, 2]}')
    status, facts = call_json(capsys, files, "answers_items", "x", "--result", files / "two.json")
    assert (status, [each["item"] for each in facts["items"]]) == (0, [1, 2])


def test_what_the_guard_asked_is_shown_without_an_answer(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    status, facts = call_json(capsys, files, "backend", "x", '{"n": 1}')
    no = "there is no backend here: add --backend"
    asked = {"tool": "get_issue", "args": {"tool_name": "x", "tool_args": {"n": 1}}, "failure": no}
    assert (status, facts["status"], facts["questions"]) == (
        3,
        "refused",
        [asked],
    )
    assert facts["error"]["guard_code"] == -100_001, "-1, less 100,000: as without a backend"
    assert facts["logs"] == []
    assert f"-1: {no}" in call(capsys, files, "backend", "x")[1]


def test_a_limit_that_was_passed_is_named(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    status, out, _ = call(capsys, files, "by_letter", "spin", "--timeout", "0.5")
    assert status == 3
    assert out.startswith("label_resource spin: timeout in 500.0 ms (")


def test_arguments_may_come_from_standard_input(capsys: pytest.CaptureFixture[str], files: Path) -> None:
    with standard_input(b'{"from": "stdin"}'):
        _, facts = call_json(capsys, files, "backend", "x", "-")
    assert facts["questions"][0]["args"]["tool_args"] == {"from": "stdin"}


@pytest.mark.parametrize(
    ("guard", "options", "status", "words"),
    [
        ("by_letter", ["x", "{"], 2, ["ARGS: not JSON", "@FILE"]),
        ("by_letter", ["x", "-", "--result", "-"], 2, ["name - once"]),
        ("by_letter", ["x", "--timeout", "0"], 2, ["--timeout"]),
        ("by_letter", ["x", "@/nope"], 1, ["/nope", "the arguments cannot be read"]),
        ("by_letter", ["x", "--result", "/nope"], 1, ["/nope", "the result cannot be read"]),
        ("by_letter", ["x", "--result", "by_letter.wasm"], 1, ["by_letter.wasm: the result: not JSON"]),
        ("nope", ["x"], 1, ["nope.wasm: cannot be read"]),
        ("agent_bad_answer", ["x"], 1, ["agent_bad_answer.wasm: ", "label_agent"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_call_that_cannot_be_made_is_one_line(
    capsys: pytest.CaptureFixture[str],
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    guard: str,
    options: list[str],
    status: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(files)
    found, out, err = call(capsys, files, guard, *options)
    assert (found, out) == (status, "")
    assert err.splitlines()[-1].startswith("guardpool: ")
    for word in words:
        assert word in err
