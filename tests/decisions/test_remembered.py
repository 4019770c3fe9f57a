"""What is remembered between decisions: bounded, and of no influence on any decision."""

from __future__ import annotations

from random import Random

from decisionkit import AGENT, APPROVED, GATEWAY, STRICT, RandomCalls, at, call, item, mcp, paths, resource
from guardpool import decide
from guardpool.decide import items
from guardpool.decide.remembered import Remembered
from guardpool.labels import DifcMode


def test_a_result_is_made_once_and_a_full_memory_is_emptied() -> None:
    made: list[str] = []
    doubled = Remembered(lambda word: made.append(word) or 2 * word, most_keys=2)
    assert [doubled[word,] for word in "aabab"] == ["aa", "aa", "bb", "aa", "bb"]
    assert made == ["a", "b"]
    assert doubled["c",] == "cc"
    assert len(doubled) == 1


def test_long_arguments_are_not_kept() -> None:
    of_tags = Remembered(len)
    assert of_tags[frozenset({"t" * 5000}),] == 1
    assert of_tags[frozenset(str(number) for number in range(5000)),] == 5000
    assert of_tags[b"1" * 5000,] == 5000
    assert of_tags[(decide.Failure(decide.Rule.READ_INTEGRITY, missing=frozenset({"t" * 5000})),),] == 1
    assert not of_tags
    assert of_tags[APPROVED,] == 3
    assert of_tags[AGENT.integrity,] == 3
    assert len(of_tags) == 1


def test_one_call_decided_on_in_every_mode_by_both_rules_and_for_two_agents_is_as_many_calls() -> None:
    calls = RandomCalls(Random(11))
    for number in range(400):
        agents = (calls.agent(), calls.agent())
        one = calls.call(("read", "read", "read-write", "write")[number % 4], "filter")
        for mode in DifcMode:
            one = one.in_mode(mode)
            for monitor in (GATEWAY, STRICT):
                for agent in agents:
                    alone = decide.CallLabels(*(getattr(one, name) for name in one.__struct_fields__))
                    assert monitor.decide(agent, one) == monitor.decide(agent, alone), (number, mode)


def test_items_are_judged_once_for_both_rule_sets_and_the_modes_that_deny() -> None:
    one = call(resource(), paths(at("/0"), at("/1", frozenset())), mcp([item(0), item(1)]))
    judged = GATEWAY.decide(AGENT, one)
    assert judged.allowed == [0]
    for mode in (DifcMode.FILTER, DifcMode.STRICT):
        for monitor in (GATEWAY, STRICT):
            same_agent = decide.AgentState(AGENT.secrecy, AGENT.integrity)
            assert monitor.decide(same_agent, one.in_mode(mode)).items is judged.items
    assert GATEWAY.decide(AGENT, one.in_mode(DifcMode.PROPAGATE)).allowed == [0, 1]
    assert GATEWAY.decide(decide.AgentState(), one).allowed == [0, 1]


def test_a_result_is_read_once_for_both_rule_sets_and_all_modes(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    read: list[str] = []
    unwrap_text = items.unwrap_text
    monkeypatch.setattr(items, "unwrap_text", lambda *given: read.append("once more") or unwrap_text(*given))
    one = call(resource(), paths(at("/0"), at("/1")), mcp([item(0), item(1)]))
    for mode in DifcMode:
        one = one.in_mode(mode)
        for monitor in (GATEWAY, STRICT):
            decision = monitor.decide(AGENT, one)
            assert len(decision.items or ()) == len(decision.facts) == 2
    assert len(read) == 1
