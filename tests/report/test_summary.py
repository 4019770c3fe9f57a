"""What a summary counts, that it stays small, and that no number stands alone."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

import reportkit
from guardpool.report import Summary, sections, shares, store
from guardpool.report.findings import findings_of
from guardpool.report.shares import OTHERS, Part
from guardpool.report.summary import DIMENSIONS, OF_CALLS, facts_of
from guardpool.report.words import plain

CALLS = 400


def summary_of(values: Any) -> Summary:
    return Summary().add_all(reportkit.records(values))


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summary_of(reportkit.decisions(CALLS))


def one(**members: Any) -> dict[str, Any]:
    """A decision on one call, without a finding."""
    plain = next(each for each in reportkit.decisions(50) if "unsafe" not in each and not each["differs"])
    return {**plain, "verdict": "whole", "agrees": "yes", "items": None, "filtered": [], "seen": [], **members}


def test_a_finding_is_unsafe_differs_or_disagrees_with_the_log(summary: Summary) -> None:
    expected: Counter[str] = Counter()
    flagged = 0
    for record in reportkit.records(reportkit.decisions(CALLS)):
        expected.update(findings_of(record))
        flagged += record.is_finding
    assert {name: finding.calls for name, finding in summary.findings.items()} == expected
    assert summary.flagged == flagged
    assert {"B1", "B5", "differs", "disagrees"} <= set(expected)


def test_every_dimension_of_calls_adds_up_to_all_of_them(summary: Summary) -> None:
    for name in OF_CALLS:
        rows = summary.dimensions[name].rows.values()
        assert sum(row.calls for row in rows) == CALLS
        assert sum(row.flagged for row in rows) == summary.flagged
        assert (sum(row.items for row in rows), sum(row.hidden for row in rows)) == (summary.items, summary.hidden)
    for name in set(DIMENSIONS) - set(OF_CALLS):
        rows = summary.dimensions[name].rows.values()
        assert (sum(row.items for row in rows), sum(row.hidden for row in rows)) == (summary.items, summary.hidden)
    assert sum(summary.ends.values()) == CALLS


def test_no_count_stands_without_its_share(summary: Summary) -> None:
    tables = [part(summary) for part in (sections.findings, sections.coverage, sections.ends)]
    for section in [*tables, *sections.shares(summary, limit=100)]:
        for row in section.rows:
            for at, cell in enumerate(row):
                if re.fullmatch(r"[\d,]+", cell.text) and section.columns[at] != "items>":
                    assert cell.part is not None
                    assert cell.part.percent == row[at + 1].text
    for sentence in sections.headline(summary):
        assert re.search(r"\d of [\d,]+ \w+ \([<>\d.]+%\)", sentence)


def test_a_sink_is_not_no_guard_and_who_judged_nothing_is_not_counted() -> None:
    members: dict[str, Any] = {"guard": None, "guard_sha256": None, "policy_sha256": None, "agrees": "unknown"}
    summary = summary_of(
        [
            one(**members, server="safeoutputs", sink={"accept": ["private:o/r"]}),
            one(**members, server="slack", sink={"accept": ["*"], "visibility": "public"}),
            one(**members, server="linear"),
            one(**members, verdict="undecided", why="arguments-not-known", coarse=None, mode="strict"),
        ]
    )
    assert list(map(plain, sections.extent(summary)[1:])) == [
        "1 of 4 calls (25.0%) by a sink for private:o/r, mode filter, gateway rules.",
        "1 of 4 calls (25.0%) by a sink for public, mode filter, gateway rules.",
        "1 of 4 calls (25.0%) by no guard, mode filter, gateway rules.",
    ]


def test_zero_comes_with_its_cause() -> None:
    clean = sections.headline(summary_of([one(), one(guard=None, server="linear", agrees="unknown")]))
    assert clean == [
        "The replay agrees with the log's own events on 1 of 1 calls (100%); 1 of 2 calls (50.0%) could not be compared.",
        "No finding: 2 of 2 calls (100%) were decided, and of 2 of 2 calls (100%) the strict rules were asked, too.",
        "No item was hidden: 0 of 2 calls (0%) were labelled item by item (0 items), and 1 of 2 calls (50.0%) went to a "
        "server without a guard.",
    ]
    unchecked = sections.headline(summary_of([one(agrees="unknown")]))[0]
    assert unchecked.startswith("Whether this is what happened was not checked")


@pytest.mark.parametrize(
    ("label", "is_odd"),
    [
        ({"description": "pr:#unknown", "integrity": ["none:o/r"]}, True),
        ({"description": "issue:o/r#unknown", "integrity": []}, True),
        ({"description": "issue:o/r#7", "integrity": ["none", "approved"]}, True),
        ({"description": "issue:o/r#7", "integrity": ["none:all", "blocked:o/r", "integrity=none;scopes=o,p"]}, False),
        ({"description": "metadata:unknown", "integrity": []}, False),
    ],
)
def test_labels_that_look_wrong_are_counted(label: dict[str, Any], is_odd: bool) -> None:
    item = {"index": 0, **label}
    told = [one(resource=label), one(resource=None, filtered=[item]), one(resource=None)]
    summary = summary_of(told)
    assert summary.coverage.flags["odd-label"] == 2 * is_odd


def test_an_empty_result_is_told_apart_from_an_emptied_one() -> None:
    emptied = one(verdict="items", items={"total": 3, "shown": 0, "filtered": 3})
    empty = one(verdict="items", items={"total": 0, "shown": 0, "filtered": 0})
    assert dict(summary_of([emptied, empty]).ends) == {"no-items-left": 1, "empty": 1}


@pytest.mark.parametrize(
    ("part", "told"),
    [
        *((Part(0, 0), "-"), (Part(0, 9), "0%"), (Part(9, 9), "100%"), (Part(1, 100_000), "<0.1%")),
        *((Part(99_999, 100_000), ">99.9%"), (Part(1, 3), "33.3%")),
    ],
)
def test_only_nothing_is_0_percent_and_only_everything_100(part: Part, told: str) -> None:
    assert part.percent == told


@pytest.mark.parametrize(
    ("at", "moment"),
    [
        ("2026-11-30T23:59:07.123456789Z", ("2026-11-30", "23:59")),
        ("2026-11-30t01:30:00+02:00", ("2026-11-29", "23:30")),
        ("2026-11-30T01:30:00", ("2026-11-30", "01:30")),
        *((text, ("", "")) for text in ("yesterday", "2026-99-30T01:30:00+02:00", "", "0001-01-01T00:00:00+14:00")),
    ],
)
def test_days_are_those_of_utc(at: str, moment: tuple[str, str]) -> None:
    (record,) = reportkit.records([one(at=at)])
    facts = facts_of(record)
    assert (facts.day, facts.time) == moment


def test_more_values_than_memory_is_to_be_had_for_are_counted_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MAX_VALUES", 10)
    rows = summary_of(one(repository=f"o/r{number}") for number in range(30)).dimensions["repository"].rows
    assert len(rows) == 11
    assert rows[OTHERS].calls == 20


def test_calls_past_the_limits_are_counted_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_FLAGGED", 5)
    monkeypatch.setattr(store, "MAX_PLAIN", 7)
    monkeypatch.setattr(store, "MAX_GROUPS", 20)
    summary = summary_of(reportkit.decisions(CALLS))
    listed = list(summary.store.listed())
    counted = sum(group.calls for group in summary.store.groups.values())
    assert len(listed) + counted == CALLS
    assert sum(bool(call.findings) for call in listed) == 5
    assert len(summary.store.groups) < 60
    assert any(group.tool == OTHERS for group in summary.store.groups)
    (note,) = sections.findings(summary).notes
    assert note.startswith(f"5 of {summary.flagged} calls")


def test_words_of_listed_calls_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_WORD_CHARS", 2_000)
    summary = summary_of(one(session=f"{number:0100}", unsafe=["B5"]) for number in range(100))
    assert 10 < len(summary.store) < 25
    assert summary.flagged == 100


def test_what_is_compared_says_what_it_was_before(summary: Summary) -> None:
    old = summary_of(reportkit.decisions(CALLS, seed=3, events=False))
    before = sections.headline(summary, old)[-1]
    assert before.startswith(f"Before, {old.flagged} of {CALLS} calls")
    for section in (
        sections.findings(summary, old),
        sections.ends(summary, old),
        sections.share(summary, "tool", old, limit=9),
    ):
        assert "before" in section.columns[-1]
        assert any(re.fullmatch(r"[\d.]+% \([+-][\d.]+\)", row[-1].text) for row in section.rows)
        assert {len(row) for row in section.rows} == {len(section.columns)}


def test_calls_to_unknown_servers_are_not_told_as_calls_to_servers_without_a_guard() -> None:
    lost = {"verdict": "undecided", "why": "unknown-server", "guard": None, "differs": None, "agrees": "unknown"}
    lost |= {"server": "wrong", "observed": {"denied": {}}, "guard_sha256": None, "policy_sha256": None}
    all_lost = summary_of([one(**lost), one(**lost)])
    first, _, hidden = sections.headline(all_lost)
    assert first == "Whether this is what happened was not checked: no call was decided."
    assert (
        "0 of 2 calls (0%) went to a server without a guard; of 2 of 2 calls (100%) the replay was not told" in hidden
    )
    rows = {plain(row[0].text).strip(): row[1].text for row in sections.coverage(all_lost).rows}
    assert rows["server wrong: not told what stands before it"] == "2"
    assert rows["went to a server without a guard"] == "0"
    assert sections.extent(all_lost) == ["2 calls, 1 session, 1 run, on 2026-11-01."]  # decided by nobody


def test_events_that_no_decided_call_has_are_not_denied() -> None:
    values = [one(agrees="unknown"), one(verdict="undecided", why="no-recorded-result", agrees="unknown", observed={})]
    first = sections.headline(summary_of(values))[0]
    assert first.endswith("none of the calls that were decided can be compared with what the recording says was done.")
