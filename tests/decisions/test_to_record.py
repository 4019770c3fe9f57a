"""A decision's parts in its record, whose an item is, what would admit it, and whether the log says the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guardpool.decide import AgentState, CallLabels, Decision, DecisionRecord, Monitor, read_record
from guardpool.decide.agreement import agreement, difference, observed_events, predicted_events
from guardpool.decide.item_facts import NO_FACTS, ItemFacts, facts_in
from guardpool.decide.record import FilteredItem, ItemCounts
from guardpool.decide.sides import standing, turned
from guardpool.decide.to_record import differs_of, filtered_and_seen, would_pass_with
from guardpool.labels import Labels, Operation, PathLabel, ResourceLabel, ResponseLabel

LEVELS = ("none:o/r", "unapproved:o/r", "approved:o/r", "merged:o/r")
AGENT = AgentState(frozenset({"private:o/r"}), frozenset(LEVELS[:3]))


def tags(count: int) -> frozenset[str]:
    """The integrity of the first so many levels."""
    return frozenset(LEVELS[:count])


def resource(integrity: frozenset[str], operation: Operation = Operation.READ, *secrecy: str) -> ResourceLabel:
    return ResourceLabel("issue:o/r", frozenset(secrecy), integrity, operation)


def decided(
    *integrity: frozenset[str], data: list[Any] | None = None, rules: str = "gateway", tool: str = "list_issues"
) -> Decision:
    """A read of items with this integrity."""
    result = data if data is not None else [{"number": number} for number in range(len(integrity))]
    paths = tuple(PathLabel(f"/{at}", f"issue:o/r#{at}", frozenset(), each) for at, each in enumerate(integrity))
    call = CallLabels(tool, "filter", None, resource(tags(1)), ResponseLabel(paths), result)
    return Monitor(rules).decide(AGENT, call)


def written(integrity: frozenset[str], secrecy: str = "private:o/r") -> Decision:
    """A write to a target with this integrity; an agent that knows secrets may write where they may be known."""
    target = resource(integrity, Operation.WRITE, *filter(None, [secrecy]))
    return Monitor("gateway").decide(AGENT, CallLabels("issue_write", "filter", None, target, None, {}))


# --- items


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (
            {
                "number": 7,
                "user": {"login": "a"},
                "author_association": "NONE",
                "html_url": "https://x/7",
                "url": "api",
            },
            ItemFacts(7, "a", "NONE", "https://x/7"),
        ),
        (
            {"author": {"login": "b"}, "authorAssociation": "MEMBER", "url": "https://x"},
            ItemFacts(None, "b", "MEMBER", "https://x"),
        ),
        ({"user": None, "author": {"login": "c"}, "number": "12"}, ItemFacts("12", "c")),
        ({"number": True, "user": "text", "author_association": 3, "html_url": ["x"]}, NO_FACTS),
        ({"user": {"login": "x" * 600}, "number": 1.5}, NO_FACTS),
        (["a"], NO_FACTS),
        (None, NO_FACTS),
    ],
)
def test_an_item_says_whose_it_is_if_it_has_the_usual_members(data: Any, facts: ItemFacts) -> None:
    assert facts_in(data) == facts


def test_items_are_counted_by_author_association_and_level() -> None:
    outsider = {"user": {"login": "o"}, "author_association": "NONE"}
    data = [outsider, {"user": {"login": "m"}, "author_association": "MEMBER"}, outsider, None]
    filtered, seen = filtered_and_seen(decided(tags(1), tags(3), tags(1), frozenset(), data=data))
    assert [(item.index, item.pointer, item.author) for item in filtered] == [
        (0, "/0", "o"),
        (2, "/2", "o"),
        (3, "/3", None),
    ]
    assert [(each.author, each.level, each.shown, each.total) for each in seen] == [
        ("o", "none", 0, 2),
        ("m", "approved", 1, 1),
        (None, None, 0, 1),
    ]


def test_the_one_item_that_is_the_whole_result_says_it_inside() -> None:
    result = {"content": [{"type": "text", "text": '{"number": 7, "user": {"login": "a"}}'}]}
    answer = ResponseLabel((), Labels("issue:o/r#7", frozenset(), tags(1)))
    call = CallLabels("issue_read", "filter", None, resource(tags(1)), answer, result)
    (item,), _ = filtered_and_seen(Monitor("gateway").decide(AGENT, call))
    assert (item.pointer, item.number, item.author) == ("", 7, "a")


# --- the least change


def test_the_least_change_for_reads_is_the_lowest_that_all_items_need() -> None:
    decision = decided(tags(2), tags(3), tags(1))
    assert would_pass_with(decision, resource(tags(1))) == {"min-integrity": "none"}
    assert [item.would_pass_with for item in filtered_and_seen(decision)[0]] == [
        {"min-integrity": "unapproved"},
        {"min-integrity": "none"},
    ]
    assert would_pass_with(decided(tags(3)), resource(tags(1))) is None
    assert would_pass_with(decided(tags(1), frozenset({"blocked:o/r"})), resource(tags(1))) is None


def test_the_least_change_for_writes_is_a_higher_level_of_the_same_scope() -> None:
    target = tags(4)
    assert would_pass_with(written(target), resource(target)) == {"min-integrity": "merged"}
    for other in (frozenset({"approved:else"}), frozenset({"odd"})):
        assert would_pass_with(written(other), resource(other)) is None
    assert would_pass_with(written(target, secrecy=""), resource(target)) is None  # no level helps against secrecy


# --- the strict rules beside


def test_only_what_the_agent_gets_makes_a_difference() -> None:
    assert differs_of(decided(tags(3), tags(1)), decided(tags(3), tags(1), rules="strict")) is None
    star = frozenset({"*", *tags(3)})
    difference = differs_of(decided(tags(3), star), decided(tags(3), star, rules="strict"))
    assert difference is not None
    assert [item.index for item in difference.hides] == [1]
    assert difference.hides[0].failed[0].rule == "invalid-label"
    assert (difference.shows, difference.items and difference.items.shown) == ((), 1)


# --- agreement with the log


def event(at: int, integrity: frozenset[str], description: str = "") -> dict[str, Any]:
    return {
        "description": description or f"issue:o/r#{at}",
        "secrecy_tags": [],
        "integrity_tags": sorted(integrity, reverse=True),
    }


@pytest.mark.parametrize(
    ("events", "has_events", "agrees"),
    [
        ([event(0, tags(1))], True, "yes"),
        ([event(0, tags(2))], True, "no"),
        ([event(0, tags(1)), event(0, tags(1))], True, "no"),
        ([], True, "no"),
        ([], False, "unknown"),
    ],
)
def test_events_are_compared_as_sets_of_tags(events: list[Any], has_events: bool, agrees: str) -> None:
    decision = decided(tags(1), tags(3))
    observed = {"filtered": events} if events else None
    assert agreement(decision, observed, has_events) == agrees
    assert (observed_events(observed), predicted_events(decision)) == (len(events), 1)


def test_a_call_without_an_event_agrees_where_nothing_is_taken_away() -> None:
    assert agreement(decided(tags(3)), None, True) == "yes"
    assert agreement(decided(tags(3)), None, False) == "unknown"


def test_what_the_sanitiser_took_from_a_description_is_no_difference() -> None:
    digest = "0123456789abcdef" * 3
    for ours, logged, agrees in [
        ("commit:o/r@[REDACTED]", f"commit:o/r@{digest}", "yes"),
        ("commit:o/r@[REDACT", "commit:o/r@0123456", "yes"),
        ("commit:o/r@abc", "commit:o/r@0123456", "no"),
    ]:
        answer = ResponseLabel((PathLabel("/0", ours, frozenset(), tags(1)),))
        call = CallLabels("list_commits", "filter", None, resource(tags(1)), answer, [{}])
        decision = Monitor("gateway").decide(AGENT, call)
        assert agreement(decision, {"filtered": [event(0, tags(1), logged)]}, True) == agrees


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (
            [event(0, tags(2))],
            "taken away in the recording alone: issue:o/r#0 (none:o/r, unapproved:o/r); taken away here alone: ",
        ),
        (
            [event(0, tags(1)), event(3, tags(1)), event(4, tags(1))],
            "in the recording alone: issue:o/r#3 (none:o/r) and 1 more",
        ),
        ([], "taken away here alone: issue:o/r#0 (none:o/r)"),
    ],
)
def test_what_is_different_is_told_in_a_line(events: list[Any], words: str) -> None:
    filtered, _ = filtered_and_seen(decided(tags(1), tags(3)))
    made = msgspec.structs.replace(record("items", 2), filtered=filtered, observed={"filtered": events}, agrees="no")
    assert words in difference(made)


def test_denials_are_compared_with_denials() -> None:
    denied = {"denied": event(0, tags(4))}
    assert agreement(written(tags(4)), denied, True) == "yes"
    assert agreement(written(tags(3)), denied, True) == "no"
    assert agreement(decided(tags(3)), denied, True) == "no"
    made = msgspec.structs.replace(record("whole"), observed=denied)
    assert difference(made) == "denied in the recording, whole here"
    assert difference(record("denied")) == "denied here, and has a result in the recording"
    # It has a result, so the gateway did not deny it.
    assert agreement(written(tags(4)), {"filtered": [event(0, tags(1))]}, True) == "no"


# --- what changes side


def record(verdict: str, total: int | None = None, *hidden: int) -> DecisionRecord:
    line = (
        b'{"v":1,"call":"c","session":"s","result_is":"raw","mode":"filter","rules":"gateway","agrees":"unknown",'
        b'"verdict":"%b","agent_before":{},"agent_after":{}}' % verdict.encode()
    )
    made = read_record(line)
    if total is None:
        return made
    shown = total - len(hidden) if verdict == "items" else 0
    items = tuple(FilteredItem(index, association="NONE") for index in hidden)
    return msgspec.structs.replace(made, items=ItemCounts(total, shown, len(hidden)), filtered=items)


def test_items_that_one_decision_shows_and_the_other_does_not_change_side() -> None:
    before, after = record("items", 4, 0, 1), record("items", 4, 1, 3)
    changes = [(each.number, each.opened, each.item and each.item.association) for each in turned(before, after)]
    assert changes == [(0, True, "NONE"), (3, False, "NONE")]
    blocked = [
        (each.number, each.opened, each.item is None) for each in turned(before, record("strict-block", 4, 0, 1))
    ]
    assert blocked == [(2, False, True), (3, False, True)]


def test_calls_without_items_change_side_as_a_whole_and_what_is_not_known_does_not() -> None:
    assert [(each.number, each.opened) for each in turned(record("denied"), record("whole"))] == [(None, True)]
    assert [(each.number, each.opened) for each in turned(record("items", 2), record("denied"))] == [(None, False)]
    assert list(turned(record("undecided"), record("whole"))) == []
    assert list(turned(record("whole"), record("whole"))) == []


@pytest.mark.parametrize(
    ("association", "who"), [("OWNER", "member"), ("CONTRIBUTOR", "outsider"), ("NONE", "outsider"), (None, "unknown")]
)
def test_who_may_write_is_a_member(association: str | None, who: str) -> None:
    assert standing(association) == who
