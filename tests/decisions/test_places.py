"""Each place where the gateway fails open or contradicts itself: a case that meets it, decided by both rule sets.

The places that need several calls are in `test_sessions.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from decisionkit import (
    AGENT,
    APPROVED,
    MERGED,
    NO_TAGS,
    NONE,
    PRIVATE,
    UNAPPROVED,
    at,
    both,
    call,
    labels,
    mcp,
    older,
    paths,
    resource,
    shown_indexes,
)
from guardpool import decide
from guardpool.decide import AgentState, CallLabels, Coarse, NoGuard, Rule, Sink, Verdict
from guardpool.labels import ResponseLabel
from paths import TESTS

TWO = [{"n": 0}, {"n": 1}]
OUTSIDERS = resource(NONE)
PRIVATE_ALONE = resource(APPROVED, {"private:other"})


class Case(NamedTuple):
    """A call that meets a place, and what both rule sets make of it."""

    labelled: CallLabels
    agent: AgentState
    gateway: Verdict
    strict: Verdict
    shown: tuple[set[int], set[int]]  # indexes of items that the agent gets under each of them


def case(
    labelled: CallLabels,
    gateway: str,
    strict: str,
    *,
    shown: tuple[set[int], set[int]] = (set(), set()),
    agent: AgentState = AGENT,
) -> Case:
    return Case(labelled, agent, Verdict(gateway), Verdict(strict), shown)


# The one item, or the whole result, is shown by the gateway alone.
ONE: tuple[set[int], set[int]] = ({0}, set())
CASES: dict[str, Case] = {
    "B1 no items after a denied resource": case(
        call(OUTSIDERS, None, mcp("words"), tool="get_file"), "whole", "single-item-error", shown=ONE
    ),
    "B2 an array without labels": case(call(OUTSIDERS, b"", mcp(TWO)), "whole", "items", shown=ONE),
    "B2 an array that a good resource lets through": case(
        call(resource(), None, mcp(TWO)), "whole", "whole", shown=({0}, {0})
    ),
    "B3 text by the label for texts": case(
        call(OUTSIDERS, paths(default=labels()), mcp("+ a diff"), tool="get_diff"),
        *("items", "single-item-error"),
        shown=ONE,
    ),
    "B3 private text by the label for texts": case(
        call(PRIVATE_ALONE, paths(default=labels()), mcp("the log"), tool="get_log"),
        *("items", "single-item-error"),
        shown=ONE,
    ),
    "B4 strict mode asks the backend": case(
        call(OUTSIDERS, paths(default=labels(), items_path=""), mcp(TWO), "strict"),
        *("items", "denied"),
        shown=({0, 1}, set()),
    ),
    "B5 the envelope": case(
        call(resource(), paths(default=labels(), items_path="/items"), mcp({"items": TWO, "total_count": 9})),
        *("items", "items"),
        shown=({0, 1}, {0, 1}),
    ),
    "B6 one trusted item": case(
        call(resource(), paths(at("/0"), at("/1", NONE)), TWO, "propagate"), "items", "items", shown=({0, 1}, {0, 1})
    ),
    "B7 an empty list": case(call(resource(), paths(), [], "propagate"), "items", "items"),
    "B7 a star": case(
        call(resource(), paths(at("/0", {"*"})), TWO[:1], "propagate", tool="get_issue"),
        *("items", "single-item-error"),
        shown=ONE,
    ),
    "B8 denied items count": case(
        call(
            resource(UNAPPROVED, operation="read-write"), paths(at("/0", MERGED), at("/1", NO_TAGS)), TWO, "propagate"
        ),
        *("items", "denied"),
        shown=({1}, set()),
        agent=AgentState(NO_TAGS, APPROVED),
    ),
    "B8 a write judged before its read": case(
        call(resource(UNAPPROVED, operation="read-write"), paths(at("/0", NONE)), TWO[:1], "propagate"),
        *("items", "denied"),
        shown=ONE,
        agent=AgentState(NO_TAGS, UNAPPROVED),
    ),
    "B11 an item without labels": case(
        call(resource(), b'{"items": [{"data": 1}]}', TWO), "labelling-error", "labelling-error"
    ),
    "B13 a label below an item": case(
        call(resource(), paths(at("/0", NONE), at("/0/title")), TWO[:1], tool="get_issue"),
        *("items", "single-item-error"),
        shown=ONE,
    ),
    "B14 several texts": case(
        call(OUTSIDERS, paths(default=labels()), mcp([1], "[2]"), tool="list_commits"), "items", "items", shown=ONE
    ),
    "B15 an item without any label": case(
        call(resource(), paths(at("/0")), TWO),
        *("items", "items"),
        shown=({0, 1}, {0}),
        agent=AgentState(PRIVATE, NO_TAGS),
    ),
    "B15 a star of the guard on an item": case(
        call(resource(), paths(at("/0", {"*"}), at("/1")), TWO), "items", "items", shown=({0, 1}, {1})
    ),
    "B15 a star of the guard on the resource": case(
        call(resource({"*"}), None, {"n": 1}), "whole", "labelling-error", shown=ONE
    ),
    "B15 a star in the agent's clearance": case(
        call(resource(), paths(at("/0", APPROVED, {"private:x"})), TWO[:1], tool="get_issue"),
        *("items", "single-item-error"),
        shown=ONE,
        agent=AgentState({"*"}, APPROVED),
    ),
    "B17 items past the guard's limit": case(
        call(resource(), paths(at("/0"), default=labels()), TWO, item_limit=1), "items", "items", shown=({0, 1}, {0})
    ),
    "B17 items past a limit that the answer shows": case(
        call(resource(), paths(*(at(f"/{index}") for index in range(100)), default=labels()), list(range(130))),
        *("items", "items"),
        shown=(set(range(130)), set(range(100))),
    ),
    "B17 items that the older form leaves out": case(
        call(resource(), older((TWO[0], labels())), TWO), "items", "items", shown=({0}, {0})
    ),
    "B18 an unknown operation": case(
        call(resource(NONE), paths(at("/0", NONE)), TWO[:1], operation="Read"),
        *("whole", "denied"),
        shown=ONE,
        agent=AgentState(NO_TAGS, APPROVED),
    ),
    "B18 an operation that the label warns of": case(
        call(resource(NONE, operation="write", warnings=[("operation_unknown", "missing")]), None, {"n": 1}),
        *("whole", "denied"),
        shown=ONE,
        agent=AgentState(NO_TAGS, APPROVED),
    ),
    "B19 tags that are no array": case(
        call(resource(warnings=[("not_an_array", "resource.secrecy")]), None, {"n": 1}),
        *("whole", "labelling-error"),
        shown=ONE,
    ),
    "B19 tags of items that are no strings": case(
        call(
            resource(),
            b'{"items": [{"data": 1, "labels": {"secrecy": "private:x", "integrity": []}}]}',
            [1],
        ),
        *("items", "labelling-error"),
        shown=ONE,
        agent=AgentState(),
    ),
    "B20 a rate limit": case(
        call(OUTSIDERS, paths(default=labels(NONE)), mcp("API rate limit exceeded", isError=True), tool="get_me"),
        *("whole", "single-item-error"),
        shown=ONE,
    ),
    "B22 a guard that was not loaded": case(
        call(NoGuard("not-loaded"), None, {"n": 1}), "whole", "denied", shown=ONE, agent=AgentState()
    ),
    "B23 no guard, no demands": case(
        call(NoGuard(), None, {"n": 1}), "whole", "denied", shown=ONE, agent=AgentState()
    ),
    "B23 no guard, integrity demanded": case(call(NoGuard(), None, {"n": 1}), "denied", "denied"),
    "B24 an unknown tool": case(
        call(resource(MERGED), None, {}, tool="create_everything", tool_known=False),
        *("whole", "denied"),
        shown=ONE,
    ),
    "B25 a read-write in strict mode": case(
        call(resource(operation="read-write"), paths(at("/0", NONE)), TWO[:1], "strict"),
        *("whole", "strict-block"),
        shown=ONE,
        agent=AgentState(NO_TAGS, APPROVED),
    ),
    "B26 both rules fail": case(
        call(resource(), paths(at("/0", NONE, {"private:x"}), at("/1")), TWO), "items", "items", shown=({1}, {1})
    ),
    "B32 no item is an object": case(
        call(resource(), b'{"items": [1, 2]}', TWO), "items", "labelling-error"
    ),
}  # fmt: skip


def test_what_an_agent_is_told_of_a_read_is_no_finding_without_its_result() -> None:
    """B26: a recording without results would have it for every read of which both rules failed."""
    decision = decide.Monitor(rules="gateway").decide(AGENT, call(resource(NONE, {"private:x"})))
    assert (decision.coarse, decision.verdict) == ("bypass", "undecided")
    assert len(decision.failed) == 2
    assert "B26" not in decision.unsafe


@pytest.mark.parametrize("name", CASES)
def test_the_gateway_meets_the_place_and_strict_rules_close_it(name: str) -> None:
    place = name.split()[0]
    case = CASES[name]
    gateway, strict = both(case.labelled, case.agent)
    assert place in gateway.unsafe
    assert (gateway.verdict, strict.verdict) == (case.gateway, case.strict)
    assert (shown_indexes(gateway), shown_indexes(strict)) == case.shown
    # What strict rules leave open, they say: an array whose items nobody labelled, and items that a guard left out.
    assert set(strict.unsafe) <= {"B2", "B17"}


def test_a_call_without_a_fault_meets_no_place() -> None:
    labelled = call(resource(), paths(at("/0"), at("/1", NONE)), mcp(TWO))
    gateway, strict = both(labelled)
    assert gateway.unsafe == strict.unsafe == ()
    assert gateway.shown == strict.shown == [{"n": 0}]


def test_every_place_has_a_case_or_a_reason_to_have_none() -> None:
    told = {f"B{number}" for number in range(1, 35)}
    assert set(decide.PLACES) | set(decide.NOT_IN_DECISIONS) == told
    assert not set(decide.PLACES) & set(decide.NOT_IN_DECISIONS)
    here = {name.split()[0] for name in CASES}
    sessions = (TESTS / "decisions" / "test_sessions.py").read_text(encoding="utf-8")
    in_sessions = {place for place in decide.PLACES if f"(`{place}`)" in sessions}
    assert here | in_sessions == set(decide.PLACES)


# --- what the table above does not show


def test_the_worked_example() -> None:
    scope = "acme/web"
    level = {name: f"{name}:{scope}" for name in ("none", "unapproved", "approved")}
    agent = AgentState({f"private:{scope}"}, set(level.values()))
    listed = call(
        resource({level["none"]}),
        paths(at("/items/0", {level["none"]}), at("/items/1", level.values()), items_path="/items"),
        mcp({"total_count": 2, "items": [{"number": 7}, {"number": 8}]}),
    )
    gateway, strict = both(listed, agent)
    assert gateway.coarse is strict.coarse is Coarse.BYPASS
    (seven,) = gateway.filtered
    (failure,) = seven.failed
    assert (failure.rule, failure.level) == (Rule.READ_INTEGRITY, "approved")
    assert failure.missing == {level["approved"], level["unapproved"]}
    assert (seven.pointer, seven.description) == ("/items/0", "the item at /items/0")
    assert gateway.shown == strict.shown == [{"number": 8}]
    assert gateway.lost == ("/total_count",)
    assert gateway.agent_after == agent
    accepting, public = Sink([f"private:{scope}"]), Sink([f"private:{scope}"], "public")
    for monitor in (decide.Monitor("gateway"), decide.Monitor("strict")):
        assert monitor.decide(agent, call(accepting, None, {}, tool="add_comment")).verdict is Verdict.WHOLE
        denied = monitor.decide(agent, call(public, None, {}, tool="add_comment"))
        assert denied.verdict is Verdict.DENIED
        assert [(one.rule, one.extra) for one in denied.failed] == [(Rule.WRITE_SECRECY, {f"private:{scope}"})]


def test_all_failing_rules_are_told_by_both() -> None:
    for decision in both(call(resource(NONE, {"private:x"}), None, {}, "strict")):
        assert [one.rule for one in decision.failed] == [Rule.READ_INTEGRITY, Rule.READ_SECRECY]
        assert decision.failed[0].missing == {"unapproved:all", "approved:all"}
        assert decision.failed[1].extra == {"private:x"}


def test_a_read_write_is_judged_as_a_read_and_as_a_write() -> None:
    target = resource(MERGED, {"private:x"}, "read-write")
    for decision in both(call(target, None, {})):
        assert decision.verdict is Verdict.DENIED
        assert [one.rule for one in decision.failed] == [
            Rule.READ_SECRECY,
            Rule.WRITE_INTEGRITY,
            Rule.WRITE_SECRECY,
        ]


def test_items_of_a_read_write_meet_write_rules_in_the_gateway_alone() -> None:
    labelled = call(
        resource(APPROVED, PRIVATE, "read-write"), paths(at("/0", MERGED, PRIVATE)), TWO[:1], tool="issue_write"
    )
    gateway, strict = both(labelled)
    assert gateway.verdict is Verdict.SINGLE_ITEM_ERROR
    assert [one.rule for one in gateway.filtered[0].failed] == [Rule.WRITE_INTEGRITY]
    assert strict.shown == [{"n": 0}]


@pytest.mark.parametrize(
    ("response", "gateway", "strict"),
    [
        (paths(at("/0"), at("/1", NONE, {"private:x"})), APPROVED, NONE),
        (paths(at("/0", NONE), at("/1", NONE)), NONE, NONE),
        (None, UNAPPROVED, UNAPPROVED),
    ],
    ids=["a mixture", "outsiders alone", "no items"],
)
def test_integrity_in_propagate(
    response: ResponseLabel | None, gateway: frozenset[str], strict: frozenset[str]
) -> None:
    labelled = call(resource(UNAPPROVED), response, TWO, "propagate")
    decisions = both(labelled)
    assert [decision.agent_after.integrity for decision in decisions] == [gateway, strict]
    assert len({decision.agent_after.secrecy for decision in decisions}) == 1


def test_an_empty_collection_leaves_the_resource_under_strict_rules() -> None:
    gateway, strict = both(call(resource(UNAPPROVED, {"private:x"}), paths(), [], "propagate"))
    assert gateway.agent_after == AgentState(PRIVATE, NO_TAGS)
    assert strict.agent_after == AgentState(PRIVATE | {"private:x"}, UNAPPROVED)


def test_what_a_write_returns_is_judged_if_asked() -> None:
    labelled = call(resource(operation="write"), paths(at("/0", NONE)), TWO[:1], tool="create_issue")
    assert (
        decide.Monitor("strict").decide(AGENT, labelled).verdict is Verdict.DENIED
    )  # cleared for more than the target
    agent = AgentState(NO_TAGS, APPROVED)
    assert decide.Monitor("strict").decide(agent, labelled).verdict is Verdict.WHOLE
    assert decide.Monitor("strict", label_writes=True).decide(agent, labelled).verdict is Verdict.SINGLE_ITEM_ERROR


def test_a_single_object_with_labels_of_its_own_is_judged_by_them() -> None:
    labelled = call(OUTSIDERS, older(({"n": 0}, labels())), mcp({"n": 0}), tool="get_issue")
    assert [decision.shown for decision in both(labelled)] == [[{"n": 0}]] * 2


def test_a_read_only_tool_that_the_guard_does_not_know_stays_a_read() -> None:
    labelled = call(resource(MERGED), None, {}, tool_known=False, read_only_hint=True)
    gateway, strict = both(labelled)
    assert (gateway.unsafe, strict.verdict) == ((), Verdict.WHOLE)


@pytest.mark.parametrize("rules", ["gateway", "strict"])
def test_without_a_result_nothing_is_decided(rules: str) -> None:
    monitor = decide.Monitor(rules)
    decision = monitor.decide(AGENT, call(resource()))
    assert (decision.verdict, decision.error, decision.shown, decision.result) == (
        Verdict.UNDECIDED,
        "no recorded result",
        None,
        None,
    )
    refused = monitor.decide(AGENT, call(resource(MERGED, operation="write")))
    assert refused.verdict is Verdict.DENIED


@pytest.mark.parametrize(
    "labelled",
    [
        call(None, resource_error="trap: unreachable"),
        call(resource(), None, TWO, response_error="trap: unreachable"),
        call(resource(), b"not JSON", TWO),
        call(resource(), paths(items_path="/nowhere"), TWO),
    ],
    ids=["no resource", "no response", "an answer that is not valid", "a pointer to no array"],
)
def test_a_labelling_that_failed_shows_nothing_and_says_why(labelled: CallLabels) -> None:
    for decision in both(labelled):
        assert decision.verdict is Verdict.LABELLING_ERROR
        assert decision.shown is None
        assert decision.error is not None
        assert decision.error.startswith("label_res")
        assert decision.error.split(": ")[1] in str(decision.result)


def test_a_file_for_each_part_of_the_rules_is_named() -> None:
    folder = Path(decide.__file__).parent
    named = {name for name in (path.name for path in folder.glob("*.py")) if f"`{name}`" in (decide.__doc__ or "")}
    helpers = {"__init__.py", "call.py", "case.py", "decision.py", "monitor.py", "wording.py", "words.py"}
    assert named | helpers == {path.name for path in folder.glob("*.py")}
