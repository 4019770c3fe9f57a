"""What holds of all decisions: strict rules never show more, and labels open and close in one direction."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, given, settings, strategies as st

from decisionkit import GATEWAY, SECRETS, STRICT, TAGS, RandomCalls, hides_less, items_in, shown_indexes
from guardpool import decide
from guardpool.decide import AgentState, Coarse, Decision, Verdict
from strategies import examples

MONITORS = {"gateway": GATEWAY, "strict": STRICT}
# One draw a case: a random call takes a hundred, which hypothesis would take 30 ms for.
seeds = st.integers(0, 2**64 - 1)
monitors = st.sampled_from(list(MONITORS.values()))
read_modes = st.sampled_from(("strict", "filter"))


def compare(seed: int, count: int) -> tuple[int, int]:
    """Decide so many random reads by both rules.

    Returns:
        In how many the gateway shows something, and in how many of those the strict rules show less.
    """
    calls = RandomCalls(Random(seed))
    shown = less = 0
    for number in range(count):
        agent, call = calls.agent(), calls.call("read", ("strict", "filter")[number % 2])
        gateway, strict = GATEWAY.decide(agent, call), STRICT.decide(agent, call)
        assert not hides_less(strict, gateway), (seed, number, agent, call, gateway, strict)
        assert items_in(strict) <= items_in(gateway), (seed, number, agent, call, gateway, strict)
        shown += bool(shown_indexes(gateway))
        less += shown_indexes(strict) < shown_indexes(gateway)
    return shown, less


def test_strict_rules_show_nothing_that_the_gateway_hides() -> None:
    shown, less = compare(seed=1, count=10_000)
    assert shown > 1_500, "the cases are worth something"
    assert less > 500


@pytest.mark.slow
def test_strict_rules_show_nothing_that_the_gateway_hides_in_many_cases() -> None:
    shown, _less = compare(seed=2, count=100_000)
    assert shown > 15_000


def open_is_as_open(more: Decision, less: Decision) -> bool:
    """Whether an agent shows with `more` of something at least what it shows with `less` of it."""
    if more.verdict is Verdict.WHOLE:
        return True
    return less.verdict is not Verdict.WHOLE and shown_indexes(less) <= shown_indexes(more)


@settings(max_examples=examples(120))
@given(seeds, monitors, read_modes, st.frozensets(st.sampled_from((*TAGS, "*"))))
def test_more_integrity_shows_fewer_read_items(
    seed: int, monitor: decide.Monitor, mode: str, more: frozenset[str]
) -> None:
    calls = RandomCalls(Random(seed))
    agent, call = calls.agent(), calls.call("read", mode)
    demanding = AgentState(agent.secrecy, agent.integrity | more)
    assert open_is_as_open(monitor.decide(agent, call), monitor.decide(demanding, call))


@settings(max_examples=examples(120))
@given(seeds, monitors, read_modes, st.frozensets(st.sampled_from((*SECRETS, "*"))))
def test_more_clearance_shows_more_read_items(
    seed: int, monitor: decide.Monitor, mode: str, more: frozenset[str]
) -> None:
    calls = RandomCalls(Random(seed))
    agent, call = calls.agent(), calls.call("read", mode)
    assume(call.tool_known is not False and call.asked.is_known)  # the strict rules take those for writes, too
    cleared = AgentState(agent.secrecy | more, agent.integrity)
    assert open_is_as_open(monitor.decide(cleared, call), monitor.decide(agent, call))


@settings(max_examples=examples(120))
@given(monitors, st.frozensets(st.sampled_from(SECRETS)), st.frozensets(st.sampled_from((*SECRETS, "*"))), st.data())
def test_more_clearance_reaches_fewer_sinks(
    monitor: decide.Monitor, secrecy: frozenset[str], more: frozenset[str], data: st.DataObject
) -> None:
    accept = data.draw(st.sampled_from((["*"], ["private:o/r"], ["private:o", "private:o/r"], ["private"])))
    visibility = data.draw(st.sampled_from((None, "public", "private")))
    call = decide.CallLabels("add_comment", "filter", resource=decide.Sink(accept, visibility), tool_result={})
    less, much = (monitor.decide(AgentState(tags), call) for tags in (secrecy, secrecy | more))
    assert much.coarse is Coarse.DENIED or less.coarse is Coarse.ALLOWED


@settings(max_examples=examples(120))
@given(seeds, monitors)
def test_labels_change_in_propagate_alone_and_integrity_never_rises(seed: int, monitor: decide.Monitor) -> None:
    calls = RandomCalls(Random(seed))
    agent, call = calls.agent(), calls.call()
    after = monitor.decide(agent, call).agent_after
    assert after.integrity <= agent.integrity
    assert after.secrecy >= agent.secrecy
    if call.mode != "propagate":
        assert after == agent


@settings(max_examples=examples(120))
@given(seeds)
def test_no_call_is_an_exception_and_every_result_can_be_made(seed: int) -> None:
    calls = RandomCalls(Random(seed))
    agent, call = calls.agent(), calls.call()
    for monitor in MONITORS.values():
        decision = monitor.decide(agent, call)
        result = decision.result
        assert (result is None) == (decision.verdict is Verdict.UNDECIDED)
        if result is not None:
            assert all(isinstance(part, dict) for part in result["content"])
        assert set(decision.unsafe) <= set(decide.PLACES)
        assert len(set(decision.unsafe)) == len(decision.unsafe)
        assert repr(decision)
        counts = decision.counts
        if counts is not None and decision.verdict is Verdict.ITEMS:
            assert counts.shown == len(decision.shown)
            assert counts.total == counts.shown + counts.filtered
