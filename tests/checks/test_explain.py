"""`guardpool explain`: why something was kept back, in words; and which change of the policy would admit it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import decisionkit
from guardpool import samples
from guardpool.checks.explain import explain
from guardpool.cli import main
from guardpool.decide.record import (
    DecisionRecord,
    Differs,
    Enrichment,
    FailedRule,
    FilteredItem,
    ItemCounts,
    Labelling,
    MissingAnswer,
    ResourceRecord,
    SinkRecord,
    TagPair,
)
from replaykit import call

ALL = ("approved:all", "none:all", "unapproved:all")
LOW = FailedRule("read-integrity", ("approved:all", "unapproved:all"), (), "approved")
SECRET = FailedRule("read-secrecy", (), ("private:o/r",))
NOT_WRITABLE = FailedRule("write-integrity", ("approved:all",), (), "approved")
LEAK = FailedRule("write-secrecy", (), ("private:o/r",))


def record(verdict: str = "items", **members: Any) -> DecisionRecord:
    own = {
        "call": "logs/a.jsonl#41",
        "coarse": "allowed",
        "agent_before": TagPair((), ALL),
        "agent_after": TagPair((), ALL),
    }
    return decisionkit.record(verdict, **{**own, **members})


def with_item(
    integrity: tuple[str, ...] = ("none:all",),
    failed: tuple[FailedRule, ...] = (LOW,),
    agent: tuple[str, ...] = ALL,
    **item: Any,
) -> DecisionRecord:
    one = FilteredItem(0, "/0", "issue:o/r#7", integrity=integrity, failed=failed, **item)
    return record(items=ItemCounts(3, 2, 1), filtered=(one,), agent_before=TagPair((), agent))


CASES: list[tuple[str, DecisionRecord, list[str]]] = [
    (
        "no-guard",
        record("denied", coarse="denied", guard=None, failed=(LOW, LEAK), unsafe=("B23",)),
        ["no guard stands before the server", "write-sink", "see guardpool lint"],
    ),
    (
        "several-scopes",
        with_item(("integrity=none;scopes=a,b",), agent=("integrity=none;scopes=a,b", "integrity=approved;scopes=a,b")),
        ["min-integrity demands approved, and it is none"],
    ),
    ("level", with_item(), ["min-integrity demands approved, and it is none", "by a label of approval-labels"]),
    ("member", with_item(association="MEMBER", author="ann"), ["though a member wrote it", "by ann (MEMBER: a member"]),
    ("outsider", with_item(association="NONE", author="bob"), ["by bob (NONE: no member of the repository's)"]),
    ("nothing", with_item(()), ["it has none at all: its author is blocked, or nothing is known of it"]),
    ("blocked", with_item(("blocked:all",)), ["its author is blocked by the policy (blocked-users)"]),
    ("scope", with_item(("approved:o/r",)), ["its labels are about o/r and the agent demands those of all", "B34"]),
    (
        "secret",
        with_item(ALL, (SECRET,), secrecy=("private:o/r",)),
        ["private to o/r", "not cleared", "no other min-integrity"],
    ),
    ("pass", with_item(would_pass_with={"min-integrity": "none"}), ["would pass with|min-integrity none"]),
    (
        "write",
        record("denied", coarse="denied", operation="write", failed=(NOT_WRITABLE,)),
        ["has to be trusted as approved", "is denied"],
    ),
    (
        "sink",
        record("denied", coarse="denied", guard=None, sink=SinkRecord(("private:x/y",)), failed=(LEAK,)),
        [
            "a sink: accepts private:x/y",
            "though it has read nothing of it (B10)",
            "would pass with|accept private:o/r  private:x/y",
        ],
    ),
    (
        "leak",
        record(
            "denied",
            coarse="denied",
            guard=None,
            sink=SinkRecord(("*",), "public"),
            failed=(LEAK,),
            read=("private:o/r",),
        ),
        [
            "public, so it takes writes of agents without any secrecy alone",
            "and has read it",
            "accepts|nothing private",
            "would pass with|accept private:o/r, and no public sink",
        ],
    ),
    (
        "limit",
        record("denied", coarse="denied", failed=(FailedRule("call-limit", detail="3 times"),)),
        ["tool-call-limits allows; 3 times"],
    ),
    ("tools", record("denied", coarse="denied", failed=(FailedRule("allowed-tools"),)), ["list of allowed tools"]),
    (
        "bypass",
        record("whole", coarse="bypass", failed=(LOW,), unsafe=("B1",)),
        ["asks the backend all the same", "B1|"],
    ),
    ("strict-block", record("strict-block", items=ItemCounts(3, 0, 1)), ["blocks all of them"]),
    (
        "error",
        record("labelling-error", error="trap: boom", labelling=Labelling("trap")),
        ["trap: boom", "every later call", "gave no label: trap"],
    ),
    ("undecided", record("undecided", why="unknown-server"), ["nothing says what stands before its server"]),
    (
        "questions",
        record(enrichment=Enrichment(3, 2, (MissingAnswer("get_permission", {"u": "bob"}),))),
        ["3 questions, 1 without an answer", 'no answer to|get_permission {"u":"bob"}'],
    ),
    ("answered", record(enrichment=Enrichment(1, 1)), ["asked 1 question, and was answered"]),
    (
        "strict",
        record(differs=Differs("allowed", "items", ItemCounts(3, 1, 2), hides=(FilteredItem(1, "/1", "issue:o/r#8"),))),
        ["the strict rules would give it the items that may pass: 1 of 3", "kept back|issue:o/r#8"],
    ),
    (
        "lost",
        record(lost=("/pageInfo",), agrees="no", restarts=2),
        ["/pageInfo", "something else was done", "anew 2 times"],
    ),
    (
        "log",
        record("denied", coarse="denied", labels_from="log", failed=(NOT_WRITABLE,)),
        ["that the recording's gateway logged"],
    ),
]


@pytest.mark.parametrize(("decision", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_reason_is_said_in_words(decision: DecisionRecord, words: list[str]) -> None:
    text = "\n".join(f"{line.name}|{line.text}" for line in explain(decision))
    for word in words:
        assert word in text


def test_items_that_are_alike_are_told_together_and_those_asked_for_alone() -> None:
    items = tuple(
        FilteredItem(at, f"/{at}", f"issue:o/r#{at}", author="bob", integrity=("none:all",), failed=(LOW,))
        for at in range(28)
    )
    many = record(items=ItemCounts(30, 2, 28), filtered=items)
    text = "\n".join(line.text for line in explain(many))
    assert "2 of 30; 28 are kept back by read-integrity" in text
    assert "issue:o/r#0, issue:o/r#1, issue:o/r#2 and 25 more like these, by bob" in text
    assert text.count("min-integrity demands") == 1
    one = "\n".join(line.text for line in explain(many, items[5:6]))
    assert "issue:o/r#5" in one
    assert "issue:o/r#4" not in one


def test_an_argument_is_cut_where_it_is_long() -> None:
    head = explain(msgspec_replace(record(), {"body": "x" * 10_000, "n": 1}))[0].text
    assert head.startswith("call logs/a.jsonl#41: github list_issues body=xxx")
    assert head.endswith("… n=1")
    assert len(head) < 120


def msgspec_replace(decision: DecisionRecord, args: Any) -> DecisionRecord:
    import msgspec

    return msgspec.structs.replace(decision, args_json=msgspec.Raw(msgspec.json.encode(args)))


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*words: str, records: list[DecisionRecord] | None = None) -> tuple[int, str, str]:
        if records is not None:
            (tmp_path / "d.jsonl").write_bytes(b"".join(each.to_line() for each in records))
        status = main(["explain", "d.jsonl", *words])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_a_call_is_found_by_the_end_of_its_id_and_an_item_by_its_words(run: Run) -> None:
    url = "https://github.com/o/r/issues/7"
    records = [record(call="logs/a.jsonl#4"), with_item(author="bob", url=url, number=7)]
    for words in (["--call", "logs/a.jsonl#41"], ["--call", "a.jsonl#41"], ["--call", "41"], ["--call", "#41"]):
        status, out, err = run(*words, records=records)
        assert (status, out.splitlines()[0]) == (0, "call logs/a.jsonl#41: github list_issues")
        assert "--recording RECORDING" in err
    for text in ("issue:O/R#7", "bob", "issues/7", "#7"):
        status, out, _err = run("--item", text, records=records)
        assert (status, url in out) == (0, True)
    status, out, _err = run("--call", "41", "--item", "bob", "--json", records=records)
    (facts,) = json.loads(out)
    assert (facts["call"], facts["items"][0]["author"]) == ("logs/a.jsonl#41", "bob")


@pytest.mark.parametrize(
    ("text", "calls"),
    [("o/r#7", ["#7"]), ("#78", ["#78"]), ("r#", ["#7", "#78", "#17"]), ("7", ["#7"]), ("#7 ", [])],
)
def test_a_number_is_looked_for_as_a_whole(run: Run, text: str, calls: list[str]) -> None:
    records = [
        record(call=f"a#{number}", items=ItemCounts(1, 0, 1), filtered=(FilteredItem(0, "/0", f"o/r#{number}"),))
        for number in (7, 78, 17)
    ]
    status, out, _err = run("--item", text, records=records)
    assert status == (0 if calls else 2)
    assert [line.split()[1].removeprefix("a").rstrip(":") for line in out.splitlines() if line[:5] == "call "] == calls


@pytest.mark.parametrize(("count", "words"), [(6, "and 1 more call: "), (7, "and 2 more calls: ")])
def test_calls_that_are_not_explained_are_counted(run: Run, count: int, words: str) -> None:
    _status, out, _err = run("--item", "o/r#7", records=[with_item()] * count)
    assert words in out


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--item", ""], 2, "--item is empty"),
        (["--item", " "], 2, "--item is empty"),
        (["--call", "", "--item", "x"], 2, "--call is empty"),
        (["--call", "logs/a.jsonl#42"], 2, "there is no such call in d.jsonl; near it: logs/a.jsonl#41"),
        (["--item", "issue:o/r#8"], 2, "nothing that was kept back has such words in d.jsonl"),
        (["--item", "issue:o/r#8"], 2, "near it: issue:o/r#7"),
        ([], 2, "--call ID, or an item with --item TEXT"),
        (["--call", "41", "-g", "github=x.wasm"], 2, "add --recording RECORDING"),
        (["--call", "41", "--recording", "nowhere", "-g", "a=none"], 5, "nowhere"),
    ],
)
def test_what_cannot_be_explained_is_one_line(run: Run, words: list[str], status: int, told: str) -> None:
    got, out, err = run(*words, records=[with_item()])
    assert (got, out) == (status, "")
    assert err.count("\n") == 1
    assert told in err


def test_decisions_of_another_version_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(record().to_line().replace(b'"v":1', b'"v":7'))
    status, _out, err = run("--call", "41")
    assert (status, "line 1: a decision of version 7" in err) == (5, True)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_no_line_is_a_command_to_a_ci_runner(run: Run, more: tuple[str, ...]) -> None:
    item = FilteredItem(0, "/0", "::stop-commands::x ##[error]y", integrity=("none:all",), failed=(LOW,))
    records = [record(items=ItemCounts(3, 2, 1), filtered=(item,))]
    status, out, _err = run("--item", "stop-commands", *more, records=records)
    assert status == 0
    assert "stop-commands::x" in out
    assert "##[" not in out
    assert not [line for line in out.splitlines() if line.lstrip().startswith("::")]


def test_what_strangers_wrote_does_not_reach_the_terminal_raw(run: Run) -> None:
    hostile = "\x1b[2J\u202e\x07"
    item = FilteredItem(0, "/0", hostile, author=hostile, url=hostile, association=hostile, failed=(LOW,))
    bad = record(items=ItemCounts(1, 0, 1), filtered=(item,), tool=hostile, resource=ResourceRecord(hostile))
    _status, out, err = run("--call", "41", records=[msgspec_replace(bad, {hostile: hostile})])
    assert not {"\x1b", "\u202e", "\x07"} & set(out + err)
    _status, out, err = run("--call", f"{hostile}x")
    assert not {"\x1b", "\u202e", "\x07"} & set(out + err)


# The search, on a recording with the sample guard


POLICY = {"allow-only": {"repos": "all", "min-integrity": "approved", "blocked-users": ["mallory"]}}
ISSUES = [
    {"number": 1, "author_association": "NONE", "user": {"login": "bob"}},
    {"number": 2, "author_association": "CONTRIBUTOR", "user": {"login": "cy"}},
    {"number": 3, "author_association": "MEMBER", "user": {"login": "ann"}},
    {"number": 4, "author_association": "MEMBER", "user": {"login": "mallory"}},
]


def rpc(server: str, tool: str, args: Any, result: Any) -> list[str]:
    """A call as two lines of a gateway's log."""
    common = {"timestamp": "2026-08-15T23:48:42.233Z", "_schema": "rpc-message/v2", "server_id": server}
    text = {"content": [{"type": "text", "text": json.dumps(result)}]}
    request = {"jsonrpc": "2.0", "method": "tools/call", "params": {"arguments": args, "name": tool}}
    sent = {**common, "event": "rpc_request", "direction": "OUT", "method": "tools/call", "payload": request}
    came = {
        **common,
        "event": "rpc_response",
        "direction": "IN",
        "payload": {"jsonrpc": "2.0", "id": 1, "result": text},
    }
    return [json.dumps(sent), json.dumps(came)]


def repository(name: str, private: bool) -> list[str]:
    args = {"query": f"repo:{name}", "perPage": 10}
    return rpc("github", "search_repositories", args, {"items": [{"full_name": name, "private": private}]})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a guard, a policy, a recording, and the decisions on it."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "github.wasm").write_bytes(samples.GUARD.read_bytes())
    (folder / "p.json").write_text(json.dumps(POLICY))
    lines = [
        *repository("o/open", False),
        *rpc("github", "list_issues", {"owner": "o", "repo": "open"}, ISSUES),
        *rpc("github", "list_issues", {"owner": "o", "repo": "open", "page": 2}, ISSUES[:1]),
        *rpc("github", "list_issues", {"owner": "o", "repo": "unknown"}, ISSUES[2:3]),
    ]
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    words = ["-g", f"github={folder / 'github.wasm'}", "-p", f"github={folder / 'p.json'}"]
    main(["replay", str(folder / "log.jsonl"), *words, "-o", str(folder / "d.jsonl"), "-w", "1"])
    return folder


@pytest.fixture
def searched(capsys: pytest.CaptureFixture[str], recorded: Path) -> Callable[..., dict[str, Any]]:
    def search(*words: str) -> dict[str, Any]:
        before = [
            "-g",
            f"github={recorded / 'github.wasm'}",
            "-p",
            f"github={recorded / 'p.json'}",
            "-w",
            "1",
            "--json",
        ]
        status = main(
            ["explain", str(recorded / "d.jsonl"), *words, "--recording", str(recorded / "log.jsonl"), *before]
        )
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        found: dict[str, Any] = json.loads(out)[0]["search"]
        return found

    return search


def changes_of(found: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {
        trial["change"]: (trial["admits"], sum(trial["opened"].values()), sum(trial["closed"].values()))
        for trial in found["admitting"]
    }


def test_each_change_is_tried_and_the_smallest_comes_first_with_what_else_it_lets_in(
    searched: Callable[..., dict[str, Any]],
) -> None:
    found = searched("--call", "3")
    assert found["asked"] == 3, "issues of bob, cy and mallory"
    assert changes_of(found) == {
        "min-integrity unapproved (now approved)": (2, 1, 0),  # and bob's issue on the second page
        "min-integrity none (now approved)": (2, 1, 0),
        "blocked-users without mallory": (1, 0, 0),
        "trusted-users with cy": (1, 0, 0),
        "trusted-users with bob": (1, 1, 0),
    }
    assert list(changes_of(found))[2:] == [
        "trusted-users with cy",
        "blocked-users without mallory",
        "trusted-users with bob",
    ]
    assert found["admitting"][-1]["examples"] == ["issue:o/open#1"]
    assert [trial["change"] for trial in found["in_vain"]] == [
        "min-integrity merged (now approved)",
        "repos ['o/open'] alone (now 'all')",
    ]
    assert found["differs"] is None


def test_an_answer_that_the_guard_did_not_get_is_made_up_and_tried(searched: Callable[..., dict[str, Any]]) -> None:
    found = searched("--call", "7")
    first, *_others = changes_of(found).items()
    assert first == ("an answer to search_repositories: o/unknown is public", (1, 0, 0))


def test_in_a_long_recording_a_change_is_tried_on_the_call_alone_first(
    capsys: pytest.CaptureFixture[str], recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guardpool.checks.search._FEW_CALLS", 2)
    words = ["--call", "3", "--item", "bob", "--recording", str(recorded / "log.jsonl"), "-w", "1"]
    servers = ["-g", f"github={recorded / 'github.wasm'}", "-p", f"github={recorded / 'p.json'}"]
    status = main(["explain", str(recorded / "d.jsonl"), *words, *servers])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    assert "changes of the policy that were tried on the recording" in out
    row = next(line for line in out.splitlines() if line.startswith("  trusted-users with bob"))
    assert "1 (1 by outsiders)" in row
    assert "nothing" in row
    assert "in vain: min-integrity merged" in out


def test_what_these_policies_let_through_already_needs_no_change(
    capsys: pytest.CaptureFixture[str], recorded: Path, tmp_path: Path
) -> None:
    lower = tmp_path / "lower.json"
    lower.write_text(json.dumps({"allow-only": {"repos": "all", "min-integrity": "none"}}))
    servers = ["-g", f"github={recorded / 'github.wasm'}", "-p", f"github={lower}", "-w", "1"]
    words = ["--call", "3", "--item", "bob", "--recording", str(recorded / "log.jsonl")]
    assert main(["explain", str(recorded / "d.jsonl"), *words, *servers]) == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith("given here; the decision was made by others")


def test_a_signal_ends_a_search(
    capsys: pytest.CaptureFixture[str], recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("guardpool.cli.explain.search", interrupted)
    servers = ["-g", f"github={recorded / 'github.wasm'}", "-p", f"github={recorded / 'p.json'}"]
    words = ["--call", "3", "--recording", str(recorded / "log.jsonl")]
    assert main(["explain", str(recorded / "d.jsonl"), *words, *servers]) == 130
    assert capsys.readouterr() == ("", "guardpool: stopped\n")


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        (record("labelling-error", coarse="denied", labelling=Labelling("trap")), "the guard gave no label"),
        (record("denied", coarse="denied", labels_from="log", failed=(NOT_WRITABLE,)), "no guard can label it again"),
        (record("undecided", coarse="bypass", why="no-recorded-result", failed=(LOW,)), "nothing of it was kept back"),
    ],
)
def test_what_no_policy_can_change_is_not_tried(run: Run, tmp_path: Path, decision: DecisionRecord, why: str) -> None:
    for number, (status, words) in {41: (0, why), 42: (5, "there is no call logs/a.jsonl#41 of that session")}.items():
        (tmp_path / "calls.jsonl").write_bytes(call(number, call=f"logs/a.jsonl#{number}").to_json() + b"\n")
        got, _out, err = run("--call", "41", "--recording", "calls.jsonl", records=[decision])
        assert (got, err.count("\n"), words in err) == (status, 1, True), err


def test_keys_of_a_policy_that_no_guard_takes_are_told(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = {"allow-only": {**POLICY["allow-only"], "tool-call-limits": {"list_issues": 9}}}
    (tmp_path / "p.json").write_text(json.dumps(limited))
    words = ["--call", "3", "--item", "bob", "--recording", str(recorded / "log.jsonl")]
    servers = ["-g", f"github={recorded / 'github.wasm'}", "-p", f"github={tmp_path / 'p.json'}", "-w", "1"]
    status = main(["explain", str(recorded / "d.jsonl"), *words, *servers])
    assert (status, "the policy has tool-call-limits, which no wasm guard takes" in capsys.readouterr()[1]) == (0, True)


def test_a_recording_without_the_call_is_one_line(
    capsys: pytest.CaptureFixture[str], recorded: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(rpc("github", "get_me", {}, {})) + "\n")
    servers = ["-g", f"github={recorded / 'github.wasm'}", "-p", f"github={recorded / 'p.json'}"]
    status = main(["explain", str(recorded / "d.jsonl"), "--call", "3", "--recording", str(other), *servers, "-w", "1"])
    out, err = capsys.readouterr()
    assert (status, out) == (5, "")
    assert err.count("\n") == 1
    assert "there is no call log.jsonl#3 of that session in it" in err
