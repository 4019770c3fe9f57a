"""A label that a server sent with its result, held against the guard's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardpool import ResourceLabel
from guardpool.decide import AgentState, CallLabels, Monitor
from guardpool.decide.server_labels import contradicted

APPROVED = ("approved:all", "none:all", "unapproved:all")
UNTRUSTED, PRIVATE = {"integrity": "untrusted"}, {"confidentiality": "private"}


def found(sent: Any, *items: dict[str, Any], resource: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())) -> Any:
    """What a server's label says and those of the items, or of the call, deny."""
    label = ResourceLabel("issues", frozenset(resource[0]), frozenset(resource[1]), "read")
    paths = [{"path": f"/{at}", "labels": {"secrecy": [], "integrity": [], **item}} for at, item in enumerate(items)]
    response = json.dumps({"labeled_paths": paths}).encode() if items else None
    call = CallLabels("list_issues", "filter", "read", label, response, [{"n": at} for at in range(len(items))])
    return contradicted(Monitor().decide(AgentState(integrity=frozenset(APPROVED)), call), label, sent)


@pytest.mark.parametrize(
    ("sent", "items", "words"),
    [
        (UNTRUSTED, [{"integrity": APPROVED}], ("untrusted",)),
        (
            UNTRUSTED,
            [{"integrity": APPROVED}, {"integrity": ["none:all"]}],
            (),
        ),  # one that is less is what it may speak of
        (PRIVATE, [{"integrity": APPROVED}], ("private",)),
        (PRIVATE, [{"secrecy": ["private:o/r"]}, {}], ()),
        ({**UNTRUSTED, "confidentiality": ["private"]}, [{"integrity": APPROVED}], ("private", "untrusted")),
        (
            {"integrity": "trusted", "confidentiality": "public"},
            [{"secrecy": ["private:o/r"]}],
            (),
        ),  # the guard is stricter
        ({"confidentiality": 7, "integrity": ["untrusted"]}, [{"integrity": APPROVED}], ()),
        ("private", [{"integrity": APPROVED}], ()),
    ],
)
def test_a_label_that_is_stricter_than_those_of_all_items_contradicts_them(
    sent: Any, items: list[dict[str, Any]], words: tuple[str, ...]
) -> None:
    assert found(sent, *items) == words


def test_a_result_without_items_has_the_label_of_its_call() -> None:
    both = {**UNTRUSTED, **PRIVATE}
    assert found(both, resource=((), APPROVED)) == ("private", "untrusted")
    assert found(both, resource=(("private:o/r",), ("none:all",))) == ()
