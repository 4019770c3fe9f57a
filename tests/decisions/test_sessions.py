"""Sessions: the calls of one agent to several servers, in order, and the places that only several calls show."""

from __future__ import annotations

from typing import Any

import pytest

from decisionkit import APPROVED, MERGED, NO_TAGS, NONE, PRIVATE, UNAPPROVED, at, labels, mcp, paths, resource
from guardpool import AgentLabels, decide
from guardpool.decide import AgentState, Coarse, DecideError, Guarded, NoGuard, Rule, Session, Sink, Verdict
from guardpool.labels import DifcMode

ISSUE = {"n": 0}


def guarded(
    integrity: frozenset[str] = APPROVED, secrecy: frozenset[str] = PRIVATE, mode: str = "filter", **more: Any
) -> Guarded:
    return Guarded(AgentLabels(secrecy, integrity, DifcMode(mode)), **more)


def read(session: Session, server: str = "github", **more: Any) -> decide.Decision:
    """A call that reads one item, of approved integrity unless told otherwise."""
    made = {"resource": resource(), "response": paths(at("/0")), "tool_result": [ISSUE], **more}
    return session.decide(server, "list_issues", **made)


def scoped(tags: frozenset[str], scope: str) -> frozenset[str]:
    return frozenset(tag.replace(":all", f":{scope}") for tag in tags)


@pytest.fixture(params=["gateway", "strict"])
def rules(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_servers_labels_are_added_when_it_is_first_called(rules: str) -> None:
    session = Session(
        {"github": guarded(), "other": guarded(NONE, frozenset({"private:x"}))}, rules=rules, secrecy={"s"}
    )
    assert session.agent == AgentState({"s"})
    first = read(session)
    assert first.agent_before == AgentState(PRIVATE | {"s"}, APPROVED)
    assert first.shown == [ISSUE]
    read(session, "other")
    assert session.agent == AgentState(PRIVATE | {"s", "private:x"}, APPROVED)


def test_the_mode_is_the_guards_unless_it_is_overridden(rules: str) -> None:
    denied_item = {"response": paths(at("/0", NONE))}
    assert read(Session({"github": guarded()}, rules=rules), **denied_item).verdict is Verdict.ITEMS
    strict = guarded(mode="strict")
    assert read(Session({"github": strict}, rules=rules), **denied_item).verdict is Verdict.STRICT_BLOCK
    session = Session({"github": strict}, rules=rules, mode="propagate")
    assert read(session, **denied_item).shown == [ISSUE]
    assert session.agent.integrity == NONE


def test_a_tool_that_is_not_allowed_ends_first_and_counts_nothing(rules: str) -> None:
    servers = {"github": guarded(limits={"list_issues": 1})}
    session = Session(servers, rules=rules, allowed_tools={"github": ["list_issues"]})
    denied = session.decide("github", "get_me", resource=resource(), tool_result={})
    assert (denied.verdict, denied.coarse, denied.failed[0].rule) == (Verdict.DENIED, Coarse.DENIED, Rule.ALLOWED_TOOLS)
    assert session.agent == AgentState(), "label_agent did not run"
    assert read(session).verdict is Verdict.ITEMS


def test_limits_count_denied_calls_and_not_those_past_the_limit(rules: str) -> None:
    """Policies with limits are refused by wasm guards (`B16`), so the gateway never gets so far."""
    session = Session({"github": guarded(limits={"list_issues": 2, "get_me": 0})}, rules=rules)
    denied = read(session, resource=resource(operation="write"))
    assert denied.verdict is Verdict.DENIED
    assert read(session).verdict is Verdict.ITEMS
    for _ in range(2):
        past = read(session)
        assert (past.verdict, past.failed[0].rule) == (Verdict.DENIED, Rule.CALL_LIMIT)
        assert "2 times" in str(past.result)
    for _ in range(3):
        session.decide("github", "get_me", resource=resource(), tool_result={})
    assert ("B16" in past.unsafe) == (rules == "gateway")
    session.configure("github", guarded(limits={"list_issues": 2, "get_me": 0}))
    assert read(session).verdict is Verdict.DENIED, "nothing changed"
    session.configure("github", guarded(limits={"list_issues": 1}))
    assert read(session).verdict is Verdict.ITEMS, "counts begin anew"


def test_a_server_that_gave_no_agent_labels_gets_no_call(rules: str) -> None:
    session = Session({"github": Guarded(None, error="refused the policy")}, rules=rules)
    decision = read(session)
    assert (decision.verdict, decision.error) == (Verdict.LABELLING_ERROR, "label_agent: refused the policy")
    assert session.agent == AgentState()


def test_a_server_without_a_guard_is_all_or_nothing_by_another_servers_policy() -> None:
    servers = {"github": guarded(), "linear": NoGuard()}
    session = Session(servers)
    free = session.decide("linear", "list_things", tool_result=[1])
    assert (free.verdict, free.unsafe) == (Verdict.WHOLE, ("B23",))
    read(session)
    shut = session.decide("linear", "list_things", tool_result=[1])
    assert (shut.verdict, shut.unsafe) == (Verdict.DENIED, ("B10", "B23"))
    strict = Session(servers, rules="strict").decide("linear", "list_things", tool_result=[1])
    assert [(one.rule, one.detail) for one in strict.failed] == [
        (Rule.CONFIGURATION, "no guard is configured for this server")
    ]


def test_an_unknown_server_is_one_without_a_guard(rules: str) -> None:
    decision = Session({}, rules=rules).decide("nowhere", "do", tool_result={})
    assert decision.verdict is (Verdict.WHOLE if rules == "gateway" else Verdict.DENIED)
    assert decision.unsafe == (("B22",) if rules == "gateway" else ())


def test_a_server_without_a_guard_in_propagate_loses_all_integrity() -> None:
    session = Session({"linear": NoGuard()}, mode="propagate", integrity=APPROVED)
    assert session.decide("linear", "do", tool_result={}).verdict is Verdict.WHOLE
    assert session.agent == AgentState(NO_TAGS, NO_TAGS)
    cleared = Session({"linear": NoGuard()}, mode="propagate", secrecy=PRIVATE)
    assert cleared.decide("linear", "do", tool_result={}).verdict is Verdict.DENIED


def test_dropped_integrity_comes_back_in_the_gateway_alone() -> None:
    """A second server, or a new policy, gives back what reading took away (`B9`)."""
    after = {}
    for rules in ("gateway", "strict"):
        session = Session({"github": guarded(mode="propagate"), "other": guarded(mode="propagate")}, rules=rules)
        read(session, resource=resource(NONE), response=paths(at("/0", NONE)))
        assert session.agent.integrity == NONE
        second = read(session, "other")
        assert ("B9" in second.unsafe) == (rules == "gateway")
        session.configure("github", guarded(secrecy=NO_TAGS, mode="propagate"))
        read(session)
        after[rules] = session.agent.integrity
    assert after == {"gateway": APPROVED, "strict": NONE}


def test_clearance_without_knowledge_is_told_from_knowledge(rules: str) -> None:
    """A public sink refuses an agent for what it is cleared for, though it read nothing of it (`B10`)."""
    session = Session({"github": guarded(), "out": Sink(["*"], "public")}, rules=rules)
    read(session)
    assert session.read == NO_TAGS
    refused = session.decide("out", "add_comment", tool_result={})
    assert (refused.verdict, refused.unsafe) == (Verdict.DENIED, ("B10",))
    read(session, response=paths(at("/0", APPROVED, PRIVATE)))
    assert session.read == PRIVATE
    assert session.decide("out", "add_comment", tool_result={}).unsafe == ()
    assert session.decide("out", "add_comment", tool_result={}).verdict is Verdict.DENIED


def test_what_was_filtered_was_not_read(rules: str) -> None:
    session = Session({"github": guarded()}, rules=rules)
    read(session, response=paths(at("/0", NONE, PRIVATE)))
    assert session.read == NO_TAGS
    read(session, resource=resource(APPROVED, PRIVATE), response=None)
    assert session.read == PRIVATE


def test_a_guard_that_trapped_fails_every_later_call_in_the_gateway() -> None:
    """Here its instance is replaced and labels go on (`B29`)."""
    session = Session({"github": guarded(), "other": guarded()})
    first = session.decide("github", "list_issues", resource_error="trap: unreachable", trapped=True)
    assert (first.verdict, first.unsafe) == (Verdict.LABELLING_ERROR, ("B29",))
    later = read(session)
    assert (later.shown, later.unsafe) == ([ISSUE], ("B29",))
    assert read(session, "other").unsafe == ()
    strict = Session({"github": guarded()}, rules="strict")
    assert strict.decide("github", "list_issues", resource_error="trap", trapped=True).unsafe == ()


def test_policies_of_different_scopes_deny_every_read_in_the_gateway_alone() -> None:
    """No item of one server has the tags of the other (`B34`)."""
    servers = {scope: guarded(scoped(APPROVED, scope), NO_TAGS) for scope in ("acme/web", "acme/api")}
    for rules, shown in (("gateway", []), ("strict", [ISSUE])):
        session = Session(servers, rules=rules)
        for scope in servers:
            tags = scoped(APPROVED, scope)
            last = read(session, scope, resource=resource(tags), response=paths(at("/0", tags)))
        assert last.shown == shown
        assert ("B34" in last.unsafe) == (rules == "gateway")
        low = scoped(UNAPPROVED, scope)
        outsiders = read(session, scope, resource=resource(low), response=paths(at("/0", low)))
        assert outsiders.shown == []
        assert "B34" not in outsiders.unsafe, "it lacks a tag of its own server's policy, too"


def test_what_one_server_taints_is_tainted_at_every_server() -> None:
    servers = {name: guarded(mode="propagate") for name in ("github", "other")}
    session = Session(servers, rules="strict")
    read(session, "other")
    read(session, "github", resource=resource(NONE), response=paths(at("/0", NONE)))
    target = resource(APPROVED, operation="write")
    refused = session.decide("other", "merge", resource=target, tool_result={})
    assert [one.rule for one in refused.failed][:1] == [Rule.WRITE_INTEGRITY]


def test_what_is_read_at_one_server_leaves_another_servers_tags_that_it_has() -> None:
    servers = {"github": guarded(mode="propagate"), "other": guarded(MERGED, mode="propagate")}
    session = Session(servers, rules="strict", secrecy=["private:x"])
    target = {"resource": resource(MERGED, PRIVATE | {"private:x"}, "write"), "tool_result": {}}
    assert session.decide("other", "merge", **target).verdict is Verdict.WHOLE
    read(session, "github", resource=resource(MERGED), response=paths(at("/0", MERGED)))
    assert session.decide("other", "merge", **target).verdict is Verdict.WHOLE
    read(session, "github", response=paths(at("/0", APPROVED)))
    assert session.decide("other", "merge", **target).verdict is Verdict.DENIED


def test_the_item_limit_of_a_server_holds_for_its_calls() -> None:
    session = Session({"github": guarded(item_limit=1)}, rules="strict")
    default = paths(at("/0"), default=labels())
    decision = read(session, response=default, tool_result=mcp([1, 2]))
    assert decision.shown == [1]
    assert [one.rule for one in decision.filtered[0].failed] == [Rule.ITEM_LIMIT]


def test_a_call_that_is_not_valid_leaves_the_session_as_it_was() -> None:
    session = Session({"github": guarded(limits={"list_issues": 1})})
    with pytest.raises(DecideError, match="a response is a ResponseLabel"):
        read(session, response="text")
    assert session.agent == AgentState()
    assert read(session).verdict is Verdict.ITEMS


def test_a_fold_over_other_modes_and_sinks_needs_no_other_labels() -> None:
    calls = [("github", {"response": paths(at("/0", NONE), at("/1"))}), ("out", {})]
    told = {}
    for mode in ("strict", "filter", "propagate"):
        session = Session({"github": guarded(), "out": Sink(["private:o/r"])}, mode=mode)
        told[mode] = [read(session, server, tool_result=[0, 1], **more).verdict.value for server, more in calls]
    assert told == {"strict": ["strict-block", "whole"], "filter": ["items", "whole"], "propagate": ["items", "whole"]}
