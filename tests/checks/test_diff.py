"""`guardpool diff`: two runs over the same calls, what became more open, and a baseline of what is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from decisionkit import record
from guardpool.checks.diff import KINDS, DiffError, changes, diff
from guardpool.cli import main
from guardpool.decide.record import (
    DecisionRecord,
    FailedRule,
    FilteredItem,
    ItemCounts,
    ResourceRecord,
    Seen,
)

LOW = FailedRule("read-integrity", ("approved:all",), (), "approved")
SECRET = FailedRule("read-secrecy", (), ("private:o/r",))
BOTH_LOW = ("none:all",)


def items(total: int, *hidden: int, verdict: str = "items", **members: Any) -> DecisionRecord:
    filtered = tuple(FilteredItem(at, f"/{at}", f"issue:o/r#{at}", author="bob", failed=(LOW,)) for at in hidden)
    shown = total - len(hidden) if verdict == "items" else 0
    return record(verdict, items=ItemCounts(total, shown, len(hidden)), filtered=filtered, **members)


def labelled(*integrity: str, secrecy: Iterable[str] = (), operation: str = "read") -> DecisionRecord:
    return record("whole", resource=ResourceRecord("issues:o/r", tuple(secrecy), integrity), operation=operation)


def of_levels(*levels: str) -> DecisionRecord:
    seen = tuple(Seen("bob", "NONE", level, 1, 1) for level in levels)
    return record("items", items=ItemCounts(len(levels), len(levels), 0), seen=seen)


def kept(integrity: tuple[str, ...]) -> DecisionRecord:
    item = FilteredItem(0, "/0", "issue:o/r#0", integrity=integrity, failed=(SECRET,))
    return record("items", items=ItemCounts(1, 0, 1), filtered=(item,))


DENIED = record("denied", coarse="denied", failed=(LOW,))
CASES: list[tuple[str, DecisionRecord, DecisionRecord, list[tuple[str, int]]]] = [
    ("same", items(3, 0), items(3, 0), []),
    ("shown", items(3, 0, 1), items(3, 1), [("item-shown", 1)]),
    ("hidden", items(3), items(3, 2), [("item-hidden", 1)]),
    ("both", items(3, 0), items(3, 1), [("item-shown", 1), ("item-hidden", 1)]),
    ("strict-block-lifted", items(4, 0, verdict="strict-block"), items(4), [("item-shown", 1), ("item-shown", 3)]),
    ("strict-block", items(4), items(4, 0, verdict="strict-block"), [("item-hidden", 1), ("item-hidden", 3)]),
    ("blocked-otherwise", items(4, 0, verdict="strict-block"), items(4, 1, verdict="strict-block"), []),
    ("single", items(1, 0, verdict="single-item-error"), items(1), [("item-shown", 1)]),
    ("unlabelled", items(3, 0, 1), record("whole"), [("result-unlabelled", 2)]),
    ("unlabelled-same", items(3), record("whole"), []),
    ("labelled", record("whole"), items(3, 0), [("result-labelled", 1)]),
    ("allowed", DENIED, record("whole"), [("call-allowed", 1)]),
    ("allowed-items", DENIED, items(2, 0), [("call-allowed", 1)]),
    ("denied", record("whole"), DENIED, [("call-denied", 1)]),
    ("failed", record("whole"), record("labelling-error"), [("call-denied", 1)]),
    ("denied-both", DENIED, record("labelling-error"), []),
    ("secrecy-lost", labelled(secrecy=["private:o/r"]), labelled(), [("secrecy-lost", 1)]),
    ("secrecy-gained", labelled(), labelled(secrecy=["private:o/r"]), [("secrecy-gained", 1)]),
    ("up", labelled("none:all"), labelled("none:all", "unapproved:all"), [("integrity-up", 1)]),
    ("down", labelled("none:all", "unapproved:all"), labelled("none:all"), [("integrity-down", 1)]),
    ("scope", labelled("none:all"), labelled("none:o"), [("integrity-changed", 1)]),
    ("operation", labelled(operation="write"), labelled(operation="read"), [("operation-changed", 1)]),
    ("kept-item-up", kept(()), kept(("none:all",)), [("integrity-up", 1)]),
    ("level-up", of_levels("none", "approved"), of_levels("approved", "approved"), [("level-up", 1)]),
    ("level-down", of_levels("merged"), of_levels("none"), [("level-down", 1)]),
    ("level-mixed", of_levels("none", "merged"), of_levels("unapproved", "approved"), []),
]


@pytest.mark.parametrize(("old", "new", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_two_decisions_differ_in(
    old: DecisionRecord, new: DecisionRecord, expected: list[tuple[str, int]]
) -> None:
    assert [(change.kind, change.count) for change in changes(old, new)] == expected


def test_every_kind_of_difference_has_a_case_and_the_other_way_round_is_the_other_direction() -> None:
    assert {kind for case in CASES for kind, _count in case[3]} == set(KINDS)
    opposite = {"open": "closed", "closed": "open", "changed": "changed"}
    for name, old, new, _expected in CASES:
        there = sorted(opposite[change.direction] for change in changes(old, new))
        assert sorted(change.direction for change in changes(new, old)) == there, name


def test_a_fingerprint_is_of_what_it_is_about_and_not_of_where_it_stands() -> None:
    (one,) = changes(items(3, 0), items(3))
    (other,) = changes(items(5, 0, call="b.jsonl#9", session="t"), items(5, call="b.jsonl#9", session="t"))
    (elsewhere,) = changes(items(3, 1), items(3))
    assert one.fingerprint == other.fingerprint != elsewhere.fingerprint
    assert one.fingerprint == "630faa3f4067b927", "baselines that people have must stay valid"


def test_calls_are_matched_whatever_their_order_and_what_is_alone_is_counted() -> None:
    old = [items(2, 0, call=f"a#{at}") for at in range(4)]
    new = [items(2, call=f"a#{at}") for at in (3, 1, 0, 9)]
    found = diff(old, new)
    assert (found.compared, found.same, found.only_old, found.only_new) == (3, 0, 1, 1)
    ((_key, group),) = found.groups.items()
    assert (group.calls, group.items) == (3, 3)
    assert not found.is_complete


def test_undecided_calls_are_not_compared() -> None:
    undecided = record("undecided", why="no-recorded-result")
    found = diff([undecided, undecided], [record("whole"), undecided])
    assert (found.compared, found.not_comparable, found.undecided_in_both) == (0, 1, 1)
    assert not found.is_complete


def test_runs_without_a_call_in_common_are_refused() -> None:
    with pytest.raises(DiffError, match="no call in common"):
        diff([record(call="a#1")], [record(call="b#1")])


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)

    def run(*words: str, **files: list[DecisionRecord]) -> tuple[int, str, str]:
        for name, records in files.items():
            (tmp_path / f"{name}.jsonl").write_bytes(b"".join(each.to_line() for each in records))
        status = main(["diff", *words])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.mark.parametrize(("value", "told"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_an_update_under_ci_writes_and_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, told: bool
) -> None:
    monkeypatch.setenv("CI", value)
    words = ("old.jsonl", "new.jsonl", "--baseline", "b.json", "--update-baseline")
    status, _out, err = run(*words, old=[items(3, 0)], new=[items(3, 1)])
    assert (status, "--update-baseline under CI: b.json is written" in err) == (0, told)
    assert (tmp_path / "b.json").exists()


def test_the_command_says_what_became_more_open_and_ends_with_1(run: Run) -> None:
    status, out, err = run("old.jsonl", "new.jsonl", old=[items(3, 0)], new=[items(3, 1)])
    assert (status, err) == (1, "")
    assert (
        "old  old.jsonl: 1 decision; guard github aaaaaaaaaaaa, policy bbbbbbbbbbbb; mode filter; rules gateway" in out
    )
    assert "1 call compared, 0 the same" in out
    assert "item-shown  github list_issues: issue:o/r#0 by bob: read-integrity (approved) before, in a.jsonl#1" in out
    assert "item-hidden" in out
    assert "issue:o/r#1" not in out, "only what became more open is listed one by one"
    assert "issue:o/r#1" in run("old.jsonl", "new.jsonl", "--all")[1]


def test_nothing_more_open_is_0_and_incomplete_is_3(run: Run) -> None:
    assert run("old.jsonl", "new.jsonl", old=[items(3)], new=[items(3, 1)])[0] == 0
    status, out, _err = run("old.jsonl", "new.jsonl", old=[items(3), items(3, call="x")], new=[items(3)])
    assert (status, "1 only in old.jsonl" in out) == (3, True)
    undecided = record("undecided", why="no-recorded-result")
    status, out, _err = run("old.jsonl", "old.jsonl", old=[items(3), undecided])
    assert (status, "1 call compared, 1 the same, 1 undecided in both" in out) == (3, True)
    assert json.loads(run("old.jsonl", "old.jsonl", "--json")[1])["undecided_in_both"] == 1
    assert run("old.jsonl", "old.jsonl", old=[undecided])[1].rstrip().endswith("nothing could be compared")
    status, out, _err = run("old.jsonl", "old.jsonl", old=[items(3)])
    assert (status, out.rstrip().endswith("nothing differs")) == (0, True)


def test_a_baseline_accepts_what_was_looked_at_and_tells_what_is_new(run: Run, tmp_path: Path) -> None:
    words = ("old.jsonl", "new.jsonl", "--baseline", "b.json")
    status, out, err = run(*words, "--update-baseline", old=[items(3, 0, 1)], new=[items(3, 1)])
    assert (status, err) == (0, "guardpool: b.json: written; it accepts 1 more open\n")
    assert "item-shown  github list_issues: issue:o/r#0" in out, "what is accepted is seen"
    assert (tmp_path / "b.json").stat().st_mode & 0o777 == 0o600
    written = json.loads((tmp_path / "b.json").read_text())
    assert [each["what"] for each in written["accepted"]] == ["issue:o/r#0"]
    status, out, err = run(*words)
    assert (status, err) == (0, "guardpool: b.json: accepted differences that occur: 1 more open\n")
    assert "nothing differs that is not accepted" in out
    # In tomorrow's recording, by another build of the guard: one accepted, one new.
    build = {"call": "tomorrow.jsonl#77", "session": "t"}
    old, new = [items(9, 0, 1, **build)], [items(9, guard_sha256="c" * 64, **build)]
    status, out, err = run(*words, old=old, new=new)
    assert status == 1
    assert "issue:o/r#1" in out
    assert "issue:o/r#0" not in out
    status, _out, err = run(*words, old=[items(3, 1)], new=[items(3, 1)])
    assert (status, "1 accepted do not occur any more" in err) == (0, True)
    assert run(*words, "--update-baseline")[2] == "guardpool: b.json: written; it accepts none\n"
    assert json.loads((tmp_path / "b.json").read_text())["accepted"] == []


@pytest.mark.parametrize(
    "text", ['{"allow-only": {"repos": "all"}}', "words\n", items(1).to_line().decode(), '{"v": 9}']
)
def test_an_update_replaces_nothing_that_is_not_a_baseline(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    words = ("old.jsonl", "new.jsonl", "--baseline", "other.json", "--update-baseline")
    status, out, err = run(*words, old=[items(3, 0)], new=[items(3)])
    assert (status, out, err.count("\n")) == (5, "", 1)
    assert err.startswith("guardpool: other.json: ")
    assert "--update-baseline replaces nothing but a baseline" in err
    assert (tmp_path / "other.json").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", "old.jsonl", "other.json"]
    (tmp_path / "other.json").write_text("")
    assert run(*words)[0] == 0, "an empty file holds nothing that could be lost"


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (
            {"guard_sha256": "d" * 64},
            "guard 'github' aaaaaaaaaaaa with policy bbbbbbbbbbbb; these decisions are by guard 'github' dddddddddddd",
        ),
        ({"policy_sha256": "d" * 64}, "guard 'github' aaaaaaaaaaaa with policy dddddddddddd"),
        ({"guard": "linear"}, "these decisions are by no guard 'github'"),
    ],
)
def test_a_baseline_for_other_guards_is_refused_with_its_name(run: Run, members: dict[str, Any], told: str) -> None:
    words = ("old.jsonl", "new.jsonl", "--baseline", "b.json")
    run(*words, "--update-baseline", old=[items(3, 0)], new=[items(3)])
    status, out, err = run(*words, old=[items(3, 0, **members)], new=[items(3, **members)])
    assert (status, out) == (5, "")
    assert err.startswith("guardpool: b.json: the baseline is for guard 'github' aaaaaaaaaaaa")
    assert told in err
    assert "--update-baseline" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["old.jsonl", "nowhere.jsonl"], 5, "nowhere.jsonl: the decisions cannot be read: No such file"),
        (["old.jsonl", "v2.jsonl"], 5, "v2.jsonl: line 1: a decision of version 2, and this guardpool reads version 1"),
        (["old.jsonl", "bad.jsonl"], 5, "bad.jsonl: line 2: not a decision"),
        (["old.jsonl", "other.jsonl"], 5, "no call in common"),
        (["old.jsonl", "."], 5, "Is a directory"),
        (["old.jsonl", "old.jsonl", "--baseline", "nowhere.json"], 5, "nowhere.json: the baseline cannot be read"),
        (["old.jsonl", "old.jsonl", "--baseline", "bad.jsonl"], 5, "bad.jsonl: not a baseline"),
        (["old.jsonl", "old.jsonl", "--baseline", "old-baseline.json"], 5, "a baseline of version 9"),
        (["old.jsonl", "old.jsonl", "--update-baseline"], 2, "needs --baseline FILE"),
        (["old.jsonl", "old.jsonl", "--baseline", "old.jsonl", "--update-baseline"], 5, "is the same file"),
        (["-", "-"], 2, "name - once"),
        (["old.jsonl"], 2, "NEW"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    run: Run, tmp_path: Path, words: list[str], status: int, told: str
) -> None:
    line = items(1).to_line()
    (tmp_path / "v2.jsonl").write_bytes(line.replace(b'"v":1', b'"v":2'))
    (tmp_path / "bad.jsonl").write_bytes(line + b'{"v":1}\n')
    (tmp_path / "old-baseline.json").write_text('{"v": 9, "guards": {}, "accepted": []}')
    got, out, err = run(*words, old=[items(1)], other=[items(1, call="z")])
    assert (got, out) == (status, "")
    assert err.count("\n") == 1
    assert told in err


def test_json_has_all_of_it(run: Run) -> None:
    status, out, _err = run("old.jsonl", "new.jsonl", "--json", old=[items(3, 0)], new=[items(3, 1)])
    facts = json.loads(out)
    assert status == 1
    assert (facts["compared"], facts["same"]) == (1, 0)
    assert [(each["direction"], each["what"], each["items"]) for each in facts["changes"]] == [
        ("open", "issue:o/r#0", 1),
        ("closed", "issue:o/r#1", 1),
    ]


def test_what_strangers_wrote_does_not_reach_the_terminal_raw(run: Run) -> None:
    hostile = "\x1b[2J\u202e\x07"
    item = FilteredItem(0, "/0", hostile, author=hostile, failed=(LOW,))
    old = record("items", items=ItemCounts(1, 0, 1), filtered=(item,), tool=hostile)
    _status, out, err = run("old.jsonl", "new.jsonl", old=[old], new=[items(1, tool=hostile)])
    assert not set(hostile.replace("[2J", "")) & set(out + err)
