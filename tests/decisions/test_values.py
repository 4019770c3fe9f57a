"""The values that go in and come out: what is refused, what is equal, what is printed, what is pickled."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import guardpool
from decisionkit import APPROVED, MERGED, NONE, PRIVATE, UNAPPROVED, at, both, call, mcp, older, paths, resource
from guardpool import CallerError, DifcMode, decide
from guardpool.decide import (
    AgentState,
    CallLabels,
    DecideError,
    Failure,
    Guarded,
    Monitor,
    NoGuard,
    Rule,
    Session,
    Sink,
)
from guardpool.labels import AgentLabels, Labels, Operation, PathLabel, ResourceLabel

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a mode": (lambda: call(resource(), mode="lenient"), "strict, filter or propagate, not 'lenient'"),
    "a mode that is no text": (lambda: call(resource(), mode=None), "not null"),  # type: ignore[arg-type]
    "rules": (lambda: Monitor("lax"), "'gateway' or 'strict', not 'lax'"),
    "rules of a session": (lambda: Session({}, rules="lax"), "'gateway' or 'strict', not 'lax'"),
    "one text as tags": (lambda: AgentState("none:all"), "the agent's secrecy is a set of tags, not 'none:all'"),  # type: ignore[arg-type]
    "a number as a tag": (lambda: AgentState(integrity=[1]), "the agent's integrity holds 1"),  # type: ignore[arg-type]
    "no tags": (lambda: AgentState(None), "not null"),  # type: ignore[arg-type]
    "a resource": (lambda: call({"secrecy": []}), "a ResourceLabel, a Sink or NoGuard, not an object"),
    "a response": (lambda: call(resource(), "{}"), "the guard's bytes or None, not '{}'"),
    "a resource's tags": (
        lambda: call(ResourceLabel("", ["a"], NONE, Operation.READ)),
        "the tags of the resource's label are frozen sets, not an array of 1",
    ),
    "an item's tags": (
        lambda: call(resource(), paths(PathLabel("/0", "", NONE, "x"))),
        "the tags of a label of a response are frozen sets, not 'x'",
    ),
    "the default label's tags": (
        lambda: call(resource(), paths(default=Labels("", None, NONE))),
        "the tags of the default label of a response are frozen sets, not null",
    ),
    "the tags of the older form": (
        lambda: call(resource(), older((1, Labels("", NONE, set())))),
        "the tags of an item's label are frozen sets, not a Python set",
    ),
    "a tool's name": (lambda: CallLabels(5), "a tool's name is a string, not 5"),  # type: ignore[arg-type]
    "an operation": (lambda: CallLabels("x", operation=5), "read, write or read-write, not 5"),  # type: ignore[arg-type]
    "an item limit": (lambda: call(resource(), item_limit=-1), "from 0 on, not -1"),
    "a server": (lambda: Session({"github": "guard"}), "server 'github' is a Guarded"),  # type: ignore[dict-item]
    "an agent": (lambda: Guarded({"secrecy": []}), "an AgentLabels or None"),  # type: ignore[arg-type]
    "allowed tools": (lambda: Session({}, allowed_tools={"a": "get_me"}), r"allowed_tools\['a'\] is a set"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_decided_on_is_refused_with_words(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(DecideError, match=words) as caught:
        make()
    assert isinstance(caught.value, CallerError)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("word", "mode"),
    [
        ("strict", "strict"),
        ("FILTER", "filter"),
        ("Propagate", "propagate"),
        ("", "strict"),
        (DifcMode.FILTER, "filter"),
    ],
)
def test_a_mode_is_a_word_in_any_case(word: str, mode: str) -> None:
    assert call(resource(), mode=word).mode == mode


def test_tags_are_any_collection_of_strings() -> None:
    assert AgentState(["a", "b"], {"c": 1}) == AgentState(frozenset("ab"), frozenset("c"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tags", "level"),
    [
        ({"none:o/r", "approved:o/r"}, "approved"),
        ({"merged:all", "approved:all"}, "merged"),
        ({"integrity=unapproved;scopes=a,b", "integrity=none;scopes=a,b"}, "unapproved"),
        ({"none:o/r"}, "none"),
        ({"blocked:o/r"}, None),
        (set(), None),
        ({"approvedness"}, None),
        ({"approved"}, "approved"),
    ],
)
def test_the_level_of_tags(tags: set[str], level: str | None) -> None:
    assert decide.level_of(tags) == level


SEVERAL = frozenset(f"integrity={level};scopes=a,b" for level in ("none", "unapproved", "approved"))


@pytest.mark.parametrize(
    ("demanded", "integrity", "secrecy", "level"),
    [
        (MERGED, UNAPPROVED, set(), "unapproved"),
        (MERGED, NONE, PRIVATE, "none"),
        (APPROVED, MERGED, set(), "approved"),
        (APPROVED, {"blocked:all"}, set(), None),
        (APPROVED, {"none:o/r", "approved:o/r"}, set(), None),
        (APPROVED, UNAPPROVED, {"private:x"}, None),
        (APPROVED | {"extra"}, NONE, set(), None),
        (SEVERAL, {"integrity=none;scopes=a,b"}, set(), "none"),
        (set(), NONE, set(), None),
    ],
)
def test_the_highest_level_that_would_admit_an_item(
    demanded: frozenset[str], integrity: frozenset[str], secrecy: frozenset[str], level: str | None
) -> None:
    assert decide.admitting_level(AgentState(PRIVATE, demanded), resource(integrity, secrecy)) == level


def test_the_operation_is_the_labels_unless_another_one_is_given() -> None:
    assert call(resource(operation="read-write")).asked == (Operation.READ_WRITE, True)
    assert call(resource(operation="read-write"), operation="read").asked == (Operation.READ, True)
    odd = [("tags_dropped", "1 in resource.secrecy"), ("operation_unknown", "missing")]
    assert call(resource(operation="write", warnings=odd)).asked == (Operation.WRITE, False)
    assert call(resource(operation="write", warnings=odd), operation="write").asked == (Operation.WRITE, False)
    assert call(resource(operation="write", warnings=odd), operation="read").asked == (Operation.READ, True)
    assert call(resource(operation="write", warnings=odd[:1])).asked == (Operation.WRITE, True)
    assert call(resource(), operation="").asked == (Operation.WRITE, False)
    assert call(None, operation="read").asked == (Operation.READ, True)
    assert call(Sink(["*"]), operation="read").asked == (Operation.WRITE, True)


def values() -> dict[str, Any]:
    labelled = call(resource(), paths(at("/0", NONE), at("/1")), mcp([1, 2], structuredContent=[1, 2]))
    gateway, strict = both(labelled)
    undecided, _ = both(call(resource()))
    return {
        "AgentState": AgentState(PRIVATE, MERGED),
        "CallLabels": labelled,
        "a call without a result": call(Sink(["*"])),
        "gateway": gateway,
        "strict": strict,
        "undecided": undecided,
        "item": gateway.items and gateway.items[0],
        "Failure": Failure(Rule.READ_INTEGRITY, APPROVED, level="approved"),
        "Guarded": Guarded(AgentLabels(PRIVATE, APPROVED, DifcMode.FILTER), {"get_me": 1}),
        "Monitor": Monitor("strict"),
        "NoGuard": NoGuard("no-policy"),
        "Sink": Sink(["private:o/r"], "private"),
    }


@pytest.mark.parametrize("name", values())
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_value_comes_through_a_pickle_whole(name: str, protocol: int) -> None:
    value = values()[name]
    for again in (pickle.loads(pickle.dumps(value, protocol)), copy.deepcopy(value)):
        assert type(again) is type(value)
        assert again == value
        assert repr(again) == repr(value)
        if isinstance(value, decide.Decision):
            assert (again.result, again.filtered, again.counts) == (value.result, value.filtered, value.counts)


def test_a_session_goes_on_after_a_pickle() -> None:
    session = Session({"github": Guarded(AgentLabels(PRIVATE, APPROVED, DifcMode.FILTER), {"get_me": 1})})
    session.decide("github", "get_me", resource=resource(), tool_result={})
    again = pickle.loads(pickle.dumps(session))
    assert again.agent == session.agent
    assert again.decide("github", "get_me", resource=resource(), tool_result={}).failed[0].rule is Rule.CALL_LIMIT


def test_a_decision_prints_tags_in_order_and_not_the_whole_result() -> None:
    gateway, _ = both(call(resource(MERGED, operation="write"), None, {"secret": "x"}))
    assert "missing={'merged:all'}" in repr(gateway)
    assert "secret" not in repr(gateway)
    assert str(gateway.verdict) == "denied"


def test_decide_is_a_public_name_with_public_names() -> None:
    assert guardpool.decide is decide
    for name in decide.__all__:
        assert getattr(decide, name) is not None
