"""Sinks, servers without a guard, and what is in a policy but not for its guard."""

from __future__ import annotations

from typing import Any

import pytest

from decisionkit import APPROVED, NONE, both, call
from guardpool import PolicyError, decide
from guardpool.contract import check_policy
from guardpool.decide import AgentState, DecideError, NoGuard, Sink, Verdict, WhyNoGuard


@pytest.mark.parametrize(
    ("sink", "secrecy", "reached"),
    [
        (Sink(["*"]), {"private:o/r", "x"}, True),
        (Sink(["private:o/r"]), {"private:o/r"}, True),
        (Sink(["private:o/r"]), set(), True),
        (Sink(["private:o/r", "private:o"]), {"private:o"}, True),
        (Sink(["private:o/r"]), {"private:o"}, False),
        (Sink(["private:o/r*"]), {"private:o/r"}, False),  # not a pattern
        (Sink(["private:o/r*"]), {"private:o/r*"}, True),
        (Sink(["private:O/R"]), {"private:o/r"}, False),
        (Sink(["o/r"]), {"private:o/r"}, False),
        (Sink(["*"], "public"), {"private:o/r"}, False),
        (Sink(["private:o/r"], " PUBLIC "), {"private:o/r"}, False),
        (Sink(["private:o/r"], "public"), set(), True),
        (Sink(["private:o/r"], "internal"), {"private:o/r"}, True),
    ],
)
@pytest.mark.parametrize("integrity", [APPROVED, NONE, frozenset[str]()])
def test_a_sink_is_reached_by_agents_whose_secrecy_it_accepts(
    sink: Sink, secrecy: set[str], reached: bool, integrity: frozenset[str]
) -> None:
    for mode in ("strict", "filter", "propagate"):
        for decision in both(call(sink, None, {"n": 1}, mode, "add_comment"), AgentState(secrecy, integrity)):
            assert decision.verdict is (Verdict.WHOLE if reached else Verdict.DENIED)
            assert decision.agent_after == decision.agent_before


@pytest.mark.parametrize(
    ("accept", "words"),
    [
        ([], "must not be empty"),
        ("private:o/r", "must be an array"),
        (None, "must be an array"),
        (["*", "o/r"], r"'\*' only alone"),
        (["o/r", "o/r"], "'o/r' twice"),
        (["o/r", " o/r "], "'o/r' twice"),
        (["secret:o/r"], "an entry is 'owner'"),
        (["o/r/s"], "an entry is 'owner'"),
        (["o/*x"], "an entry is 'owner'"),
        ([""], "an entry is 'owner'"),
        ([5], "accept holds 5"),
    ],
)
def test_entries_of_a_sink_that_are_not_valid(accept: Any, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        Sink(accept)


@pytest.mark.parametrize("visibility", ["", "hidden", 5])
def test_a_visibility_that_is_not_valid(visibility: Any) -> None:
    with pytest.raises(PolicyError, match="public, private or internal"):
        Sink(["*"], visibility)


@pytest.mark.parametrize(
    ("server", "configured", "repository_is_public", "exempt", "visibility"),
    [
        ("slack", None, False, False, "public"),
        ("slack", None, None, False, "public"),
        ("slack", None, True, True, None),
        ("safe-outputs", None, True, False, "public"),
        ("safeoutputs", None, True, False, "public"),
        ("safe-outputs", None, False, False, None),
        ("safe-outputs", None, None, False, None),
        ("slack", "private", True, False, "public"),
        ("slack", "Private", False, False, "private"),
        ("slack", "private", None, False, "private"),
        ("slack", "public", False, True, "public"),
    ],
)
def test_the_visibility_that_the_gateway_gives_a_sink(
    server: str, configured: str | None, repository_is_public: bool | None, exempt: bool, visibility: str | None
) -> None:
    assert decide.sink_visibility(server, configured, repository_is_public, exempt) == visibility


def test_a_sink_is_made_of_its_policy() -> None:
    policy = {"write-sink": {"accept": ["private:o/r"], "sink-visibility": "Private"}}
    assert decide.sink_of_policy(policy) == Sink(["private:o/r"], "private")
    assert decide.sink_of_policy({"writesink": {"accept": ["*"]}}) == Sink(["*"])
    for wrong in ({}, {"allow-only": {}}, {"write-sink": []}, [], {"write-sink": {"accept": ["*"]}, "x": 1}):
        with pytest.raises(PolicyError, match="a sink's policy is"):
            decide.sink_of_policy(wrong)
    with pytest.raises(PolicyError, match="unknown key 'accepts'"):
        decide.sink_of_policy({"write-sink": {"accepts": ["*"]}})


@pytest.mark.parametrize("why", list(WhyNoGuard))
def test_strict_rules_name_what_kept_the_guard_from_being_used(why: WhyNoGuard) -> None:
    gateway, strict = both(call(NoGuard(why), None, {"n": 1}), AgentState())
    assert (gateway.verdict, strict.verdict) == (Verdict.WHOLE, Verdict.DENIED)
    assert gateway.unsafe == ("B23" if why is WhyNoGuard.NONE else "B22",)
    assert strict.failed[0].detail in str(strict.result)


def test_a_reason_for_no_guard_that_is_not_known() -> None:
    with pytest.raises(DecideError, match="none, not-loaded, no-policy"):
        NoGuard("forgotten")


def test_keys_that_no_guard_takes_are_taken_off_its_policy() -> None:
    policy = {
        "allow-only": {
            "repos": "all",
            "tool-call-limits": {"create_issue": 2, "get_me": 0},
            "min-integrity": "none",
            "demotion-label": "spam",
            "promotion-label": "ok",
        }
    }
    with pytest.raises(PolicyError, match="unknown key 'tool-call-limits'"):
        check_policy(policy)
    split = decide.split_policy(policy)
    assert check_policy(split.policy) == {"allow-only": {"repos": "all", "min-integrity": "none"}}
    assert split.limits == {"create_issue": 2}
    assert split.taken_off == ("tool-call-limits", "demotion-label", "promotion-label")
    assert "tool-call-limits" in policy["allow-only"], "the policy itself is as it was"
    assert decide.split_policy(split.policy) == (split.policy, {}, ())


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"get_me": -1}, "from 0 on, not -1"),
        ({"get_me": True}, "from 0 on, not true"),
        ({"get_me": "3"}, "from 0 on, not '3'"),
        ({"": 1}, "not a tool's name"),
        ([1], "must be an object"),
    ],
)
def test_limits_that_are_not_valid(limits: Any, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        decide.split_policy({"allow-only": {"tool-call-limits": limits}})
    with pytest.raises(PolicyError, match=words):
        decide.Guarded(None, limits=limits)


def test_a_policy_that_is_not_an_object() -> None:
    with pytest.raises(PolicyError, match="a policy is an object"):
        decide.split_policy("all")  # type: ignore[arg-type]
