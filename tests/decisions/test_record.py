"""The record of a decision: a line of `decisions.jsonl`, written and read."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from guardpool.decide import RecordError, read_record, read_records

MEMBERS: dict[str, Any] = {
    "v": 1,
    "call": "rpc-messages.jsonl#5",
    "session": "s",
    "server": "github",
    "tool": "list_issues",
    "args": {"owner": "acme", "n": 1},
    "result_is": "raw",
    "mode": "filter",
    "rules": "gateway",
    "coarse": "bypass",
    "failed": [{"rule": "read-integrity", "missing": ["approved:all"], "level": "approved"}],
    "verdict": "items",
    "items": {"total": 2, "shown": 1, "filtered": 1},
    "filtered": [{"index": 0, "pointer": "/0", "number": 7, "integrity": ["none:all"]}],
    "agent_before": {"secrecy": [], "integrity": ["none:all"]},
    "agent_after": {"secrecy": [], "integrity": ["none:all"]},
    "differs": None,
    "agrees": "yes",
}
LINE = json.dumps(MEMBERS).encode()


def changed(**members: Any) -> bytes:
    return json.dumps({**MEMBERS, **members}).encode()


# What every line has, null or empty where there is nothing to say.
ALWAYS = """
v call session server tool args at run workflow repository guard guard_sha256 policy_sha256 mode rules operation resource
coarse failed verdict items filtered seen agent_before agent_after lost unsafe enrichment would_pass_with observed agrees
""".split()  # noqa: SIM905


def test_a_line_comes_back_as_it_was_with_every_member_that_is_always_there() -> None:
    record = read_record(LINE)
    line = record.to_line()
    assert line.endswith(b"}\n")
    told = json.loads(line)
    assert set(told) == {*ALWAYS, "result_is", "differs"}
    for name, value in MEMBERS.items():
        if name not in ("failed", "filtered"):
            assert told[name] == value
    assert told["failed"] == [{**MEMBERS["failed"][0], "extra": []}]
    assert {name for name, value in told["filtered"][0].items() if value} == {"pointer", "number", "integrity"}
    assert read_record(line) == record
    assert (record.args, record.filtered[0].number, record.is_finding) == ({"owner": "acme", "n": 1}, 7, False)


def test_a_line_without_the_strict_rules_is_told_from_one_where_they_agree() -> None:
    assert read_record(LINE).differs is None
    without = {name: value for name, value in MEMBERS.items() if name != "differs"}
    record = read_record(json.dumps(without).encode())
    assert record.differs is msgspec.UNSET
    assert b"differs" not in record.to_line()


@pytest.mark.parametrize(
    "members",
    [
        {"unsafe": ["B1"]},
        {"agrees": "no"},
        {"differs": {"coarse": "bypass", "verdict": "denied"}},
    ],
)
def test_what_is_unsafe_or_differs_or_disagrees_is_a_finding(members: dict[str, Any]) -> None:
    assert read_record(changed(**members)).is_finding


def test_decisions_of_another_version_are_told_from_other_lines() -> None:
    with pytest.raises(RecordError, match="version 2, and this guardpool reads version 1: make it again"):
        read_record(changed(v=2))
    with pytest.raises(RecordError, match="version 7"):
        read_record(b'{"v": 7, "everything": "is called otherwise"}')
    with pytest.raises(RecordError, match="it has no version; `guardpool replay"):
        read_record(b'{"id": 1, "op": "label_resource"}')
    with pytest.raises(RecordError, match="not a decision: JSON is malformed"):
        read_record(b"{nonsense")


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"verdict": "shown"}, "verdict is denied, strict-block, .* or undecided, not 'shown'"),
        ({"agrees": "maybe"}, "agrees is yes, no or unknown, not 'maybe'"),
        ({"rules": "both"}, "rules is gateway or strict, not 'both'"),
        ({"mode": "lax"}, "mode is strict, filter or propagate, not 'lax'"),
        ({"coarse": "perhaps"}, "coarse is allowed, bypass or denied, not 'perhaps'"),
        ({"items": {"total": -1, "shown": 0, "filtered": 0}}, r">= 0 - at `\$\.items\.total`"),
    ],
)
def test_words_that_nobody_knows_and_counts_below_0_are_no_decision(members: dict[str, Any], told: str) -> None:
    with pytest.raises(RecordError, match=f"not a decision: .*{told}"):
        read_record(changed(**members))


def test_an_error_names_the_file_and_the_line() -> None:
    lines = [LINE, b"\n", b"[]\n"]
    with pytest.raises(RecordError, match=r"out\.jsonl: line 3: not a decision"):
        list(read_records(lines, "out.jsonl"))


def test_text_that_no_json_can_hold_is_written_as_an_escape() -> None:
    record = msgspec.structs.replace(read_record(LINE), error="lone \ud800 surrogate")
    line = record.to_line()
    assert b"\\ud800" in line
    told = json.loads(line)
    assert told.pop("error") == "lone \ud800 surrogate"
    assert told == json.loads(read_record(LINE).to_line())


def test_arguments_with_numbers_past_every_float_are_decoded() -> None:
    record = read_record(LINE.replace(b'"n": 1', b'"n": ' + b"9" * 400))
    assert record.args["n"] == int("9" * 400)
