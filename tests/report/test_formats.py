"""The formats for programs, and what `--redact` leaves of decisions."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest

import reportkit
from guardpool.decide.record import DecisionRecord
from guardpool.report import Summary, sarif as sarif_module
from guardpool.report.as_values import as_values
from guardpool.report.findings import findings_of
from guardpool.report.junit import junit
from guardpool.report.markdown import markdown
from guardpool.report.redaction import Redactor
from guardpool.report.sarif import relative_uri, sarif
from guardpool.report.table_csv import COLUMNS, as_csv

CALLS = 150


@pytest.fixture(scope="module")
def records() -> list[DecisionRecord]:
    return list(reportkit.records(reportkit.decisions(CALLS)))


@pytest.fixture(scope="module")
def summary(records: list[DecisionRecord]) -> Summary:
    return Summary().add_all(records)


def test_json_has_every_share_and_the_calls_with_a_finding(summary: Summary, records: list[DecisionRecord]) -> None:
    told = json.loads(json.dumps(as_values(summary, summary, ["decisions.jsonl"])))
    assert (told["v"], told["calls"], told["files"]) == (1, CALLS, ["decisions.jsonl"])
    assert [each["call"] for each in told["flagged_calls"]] == [each.call for each in records if each.is_finding]
    assert sum(each["calls"]["count"] for each in told["shares"]["tool"]) == CALLS
    assert told["with_finding"]["share"] == pytest.approx(summary.flagged / CALLS, abs=1e-6)
    assert told["against"]["calls"] == CALLS


def test_csv_has_a_row_for_each_call_and_data_only_when_asked(records: list[DecisionRecord]) -> None:
    lines = b"".join(as_csv(records, show_data=False)).decode().splitlines()
    assert lines[0].split(",") == list(COLUMNS)
    assert len(lines) == 1 + CALLS
    assert "owner" not in "".join(lines)
    assert '""owner""' in b"".join(as_csv(records, show_data=True)).decode()


def test_sarif_has_a_result_for_each_finding_in_its_line(summary: Summary, records: list[DecisionRecord]) -> None:
    (run,) = sarif(summary, "9.9")["runs"]
    results = run["results"]
    assert len(results) == sum(len(findings_of(record)) for record in records)
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    first = results[0]
    assert rules[first["ruleIndex"]] == first["ruleId"]
    place = first["locations"][0]["physicalLocation"]
    assert re.fullmatch(r"run-\d+/mcp-logs/rpc-messages\.jsonl", place["artifactLocation"]["uri"])
    assert place["region"]["startLine"] >= 1
    prints = {result["partialFingerprints"]["guardpoolFinding/v1"] for result in results}
    assert len(prints) == len(results)
    assert run["invocations"][0]["toolExecutionNotifications"] == []


def test_sarif_says_what_it_leaves_out(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif_module, "MAX_RESULTS", 3)
    (run,) = sarif(summary, "9.9")["runs"]
    assert len(run["results"]) == 3
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    assert "are left out" in note["message"]["text"]


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("a b/ü.jsonl", "a%20b/%C3%BC.jsonl"),
        ("/etc/x", "etc/x"),
        ("../../x", "x"),
        ("javascript:x", "javascript%3Ax"),
        ("", "recording"),
    ],
)
def test_paths_become_relative_addresses(path: str, uri: str) -> None:
    assert relative_uri(path) == uri


def test_junit_has_a_test_for_each_tool_and_kind_of_finding(summary: Summary) -> None:
    root = ElementTree.fromstring(junit(summary))
    failed = {
        (suite.get("name"), case.get("name")): case.find("failure")
        for suite in root.iter("testsuite")
        for case in suite.iter("testcase")
        if case.find("failure") is not None
    }
    expected = {(tool, name) for name, finding in summary.findings.items() for tool in finding.tools}
    assert set(failed) == expected
    failure = failed["github get_pull_request_diff", "B1"]
    assert failure is not None
    assert re.match(r"\d+ of \d+ calls \([\d.]+%\): the resource may not be read", failure.get("message") or "")
    assert "rpc-messages.jsonl#" in (failure.text or "")
    undecided = {tool for tool, row in summary.dimensions["tool"].rows.items() if row.undecided}
    skipped = [suite.get("name") for suite in root.iter("testsuite") if suite.get("skipped") == "1"]
    assert undecided
    assert skipped == [*sorted(undecided), "coverage"]


def test_junit_passes_no_tool_of_which_nothing_was_decided() -> None:
    """A pipeline that sees green tests takes them for calls that were looked at."""
    nothing = {"verdict": "undecided", "why": "unknown-server", "guard": None, "agrees": "unknown"}
    values = [{**each, **nothing, "unsafe": [], "differs": None} for each in reportkit.decisions(60)]
    values.append({**values[0], "tool": "half"})
    values.append({**values[0], "tool": "half", "verdict": "whole", "why": None})
    root = ElementTree.fromstring(junit(Summary().add_all(reportkit.records(values))))
    passed = [case.get("classname") for case in root.iter("testcase") if not len(case)]
    assert [name and name.split()[-1] for name in passed] == ["half"]
    assert (root.get("failures"), root.get("skipped")) == ("0", str(len(root)))
    told = {each.get("message") for each in root.iter("skipped")}
    assert any(re.match(r"1 of 2 calls \(50.0%\) are undecided: .*\(1\)$", each or "") for each in told)
    assert all("stands before its server" in (each or "") for each in told if "undecided:" in (each or ""))


def test_junit_of_no_decisions_passes_nothing() -> None:
    root = ElementTree.fromstring(junit(Summary()))
    assert (root.get("tests"), root.get("skipped")) == ("1", "1")


NAMES = re.compile(r"acme|user\d|issue:(?!redacted)|/issues/|run-0|nightly|review|triage|rpc-messages")


def test_redaction_leaves_no_name_and_keeps_every_count(records: list[DecisionRecord], summary: Summary) -> None:
    redactor = Redactor(b"k" * 32)
    redacted = [redactor.redacted(record) for record in records]
    assert NAMES.search(b"".join(record.to_line() for record in records).decode())
    lines = b"".join(record.to_line() for record in redacted).decode()
    assert NAMES.search(lines) is None
    again = Summary().add_all(redacted)
    assert (again.flagged, again.hidden, again.ends) == (summary.flagged, summary.hidden, summary.ends)
    for name in ("author", "repository", "touched", "tool", "level", "day"):
        counts = [sorted(row.hidden for row in each.dimensions[name].rows.values()) for each in (again, summary)]
        assert counts[0] == counts[1]
    assert set(again.dimensions["level"].rows) == set(summary.dimensions["level"].rows)
    assert NAMES.search(markdown(again, None, "Decisions", "x")) is None


def test_another_key_gives_other_hashes(records: list[DecisionRecord]) -> None:
    one, other = (Redactor(key * 32).redacted(records[0]).repository for key in (b"a", b"b"))
    assert one != other
    assert one == Redactor(b"a" * 32).redacted(records[0]).repository


@pytest.mark.parametrize(
    ("tag", "kept"),
    [
        *(("approved:all", "approved:all"), ("none", "none"), ("*", "*")),
        *(
            ("private:o/r", r"private:redacted/\w+"),
            ("integrity=none;scopes=o/a,all", r"integrity=none;scopes=redacted/\w+,all"),
        ),
        ("integrity=octocat;scopes=all", r"integrity=level-\w{12};scopes=all"),
        ("someone's own tag", r"tag-\w+"),
        ("octocat:o/r", r"tag-\w+"),
    ],
)
def test_tags_keep_what_names_nobody(tag: str, kept: str, records: list[DecisionRecord]) -> None:
    values: dict[str, Any] = next(reportkit.decisions(1))
    (record,) = reportkit.records([{**values, "agent_before": {"secrecy": [tag], "integrity": []}}])
    (redacted,) = Redactor(b"k" * 32).redacted(record).agent_before.secrecy
    assert redacted == tag if kept == tag else re.fullmatch(kept, redacted)


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("tool", "list_issues", "list_issues"),
        ("tool", "look at octo/web#7", r"tool-\w+"),
        ("guard", "octo cat", r"server-\w+"),
        (
            "lost",
            ["total_count", "/data/octocat: web/4711", "content[1]"],
            r"total_count /data/\w+/\w{12} content\[1\]",
        ),
        ("resource", {"description": "issue:octo/web#7"}, r"issue:redacted/\w{12}#\w{12}"),
        ("resource", {"description": "octocat: hello"}, r"text-\w+"),
        ("resource", {"description": "pr:#unknown"}, r"pr:#unknown"),
        ("resource", {"description": "pr:octo/web#unknown"}, r"pr:redacted/\w{12}#unknown"),
        ("seen", [{"association": "octocat"}], r"association-\w+"),
        ("seen", [{"association": "FIRST_TIMER"}], r"FIRST_TIMER"),
        ("args", {"owner": "octo"}, r"\w{12}"),
        (
            "observed",
            {"denied": {"description": "issue:octo/web#7", "reason": "octo"}},
            r"issue:redacted/\w{12}#\w{12}",
        ),
        ("policy_sha256", "9c1e", r"\w{64}"),
    ],
)
def test_only_words_of_ours_and_names_of_tools_and_servers_stay(name: str, value: Any, kept: str) -> None:
    (record,) = reportkit.records([{**next(reportkit.decisions(1)), name: value}])
    redacted = Redactor(b"k" * 32).redacted(record)
    told: Any = getattr(redacted, name)
    told = {
        "lost": lambda: " ".join(told),
        "resource": lambda: told.description,
        "seen": lambda: told[0].association,
        "args": lambda: told["redacted"],
        "observed": lambda: told["denied"]["description"],
    }.get(name, lambda: told)()
    assert re.fullmatch(kept, told)
    assert Redactor(b"x" * 32).redacted(redacted) is redacted, "what is redacted stays as it is"


def test_attacks_are_redacted_too() -> None:
    redactor = Redactor(b"k" * 32)
    for words, record in zip(reportkit.ATTACKS, reportkit.records(reportkit.attacked())):
        told = json.loads(redactor.redacted(record).to_line())
        # Names of tools and servers, kinds of authors and of results stay.
        for name in ("server", "tool", "guard", "lost", "unsafe"):
            del told[name]
        for each in (*told["seen"], *told["filtered"], *told["enrichment"]["missing"]):
            for name in ("association", "level", "tool"):
                each.pop(name, None)
        told["would_pass_with"] = [list(item["would_pass_with"].values()) for item in told["filtered"]]
        for item in told["filtered"]:
            del item["would_pass_with"]
        assert json.dumps(words)[1:-1] not in json.dumps(told)
