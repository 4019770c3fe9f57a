"""Items and labels found in a result: as `contract.expand` has them, and joined as the strict rules want."""

from __future__ import annotations

from random import Random

import pytest

from decisionkit import APPROVED, MERGED, NONE, UNAPPROVED, RandomCalls, at, labels, mcp, older, paths, resource
from guardpool import contract
from guardpool.contract import ContractError
from guardpool.decide import Rule
from guardpool.decide.items import find, limit_of, strict_labels
from guardpool.labels import ResponseLabel


def test_items_are_those_of_expand() -> None:
    calls = RandomCalls(Random(3))
    compared = refused = 0
    for _ in range(4_000):
        label, result = calls.response(), calls.result()
        if label is None:
            continue
        try:
            expanded = contract.expand(label, result)
        except ContractError as error:
            with pytest.raises(ContractError, match=error.args[0][:20].replace("[", r"\[")):
                find(label, result)
            refused += 1
            continue
        found = find(label, result)
        assert list(found.data) == [item.data for item in expanded]
        assert list(found.labels) == [item.labels for item in expanded]
        compared += 1
    assert compared > 1_000
    assert refused > 500


R = resource(UNAPPROVED, {"r"})
JOINED = {"secrecy": {"r"}, "integrity": UNAPPROVED}


@pytest.mark.parametrize(
    ("label", "result", "integrity", "secrecy"),
    [
        (paths(at("/0", APPROVED)), [1], APPROVED, set()),
        (paths(default=labels()), [1], APPROVED, set()),
        (paths(at("/0", APPROVED)), mcp([1]), APPROVED, set()),
        (paths(at("/0", APPROVED)), mcp([1], isError=True), UNAPPROVED, {"r"}),
        (paths(at("/0", APPROVED)), mcp("[1", "]"), UNAPPROVED, {"r"}),
        (paths(default=labels()), {"n": 1}, UNAPPROVED, {"r"}),
        (paths(default=labels()), mcp("words"), UNAPPROVED, {"r"}),
        (older((1, labels())), {"n": 1}, APPROVED, set()),
        (older((1, labels())), mcp({"n": 1}), APPROVED, set()),
        (older((1, labels())), mcp("words"), APPROVED, set()),
        (paths(at("/0", MERGED), at("/0/a", NONE)), [1], NONE, set()),
        (paths(at("/0/a", NONE), at("/0", MERGED)), [1], NONE, set()),
        (paths(at("/0/a", MERGED, {"s"}), default=labels()), [1], APPROVED, {"s"}),
        (paths(at("/0", APPROVED), at("/00", MERGED)), [1], APPROVED, set()),
    ],
)
def test_labels_under_strict_rules(
    label: ResponseLabel, result: object, integrity: frozenset[str], secrecy: set[str]
) -> None:
    (item,) = strict_labels(find(label, result), R, None)
    assert (item.labels.integrity, item.labels.secrecy, item.invalid) == (integrity, secrecy, ())


@pytest.mark.parametrize(
    ("label", "rules"),
    [
        (paths(), [Rule.NO_LABEL]),
        (paths(at("/0/a")), [Rule.NO_LABEL]),
        (paths(at("/0", {"*"})), [Rule.INVALID_LABEL]),
        (paths(at("/0", APPROVED, {"*"})), [Rule.INVALID_LABEL]),
        (paths(at("/0", APPROVED, {""})), [Rule.INVALID_LABEL]),
        (paths(at("/0"), at("/0/a", {"*"})), [Rule.INVALID_LABEL]),
        (paths(at("/0/a", {"*"}), default=labels()), [Rule.INVALID_LABEL]),
    ],
)
def test_labels_that_are_not_valid_under_strict_rules(label: ResponseLabel, rules: list[Rule]) -> None:
    (item,) = strict_labels(find(label, [1]), R, None)
    assert [failure.rule for failure in item.invalid] == rules


def test_items_past_the_guards_limit_need_a_label_of_their_own() -> None:
    found = find(paths(at("/2"), default=labels()), [0, 1, 2])
    assert [len(item.invalid) for item in strict_labels(found, R, 1)] == [0, 1, 0]
    assert [len(item.invalid) for item in strict_labels(found, R, None)] == [0, 0, 0]
    for labelled, total, limit in ((100, 130, 100), (99, 130, None), (130, 130, None), (120, 130, 120)):
        found = find(paths(*(at(f"/{index}") for index in range(labelled)), default=labels()), [0] * total)
        assert limit_of(found, None) == limit
    assert limit_of(find(paths(*(at(f"/{index}") for index in range(1, 120))), [0] * 130), None) is None
    _, second = strict_labels(find(paths(at("/0")), [0, 1]), R, 1)
    assert [failure.rule for failure in second.invalid] == [Rule.NO_LABEL, Rule.ITEM_LIMIT]
