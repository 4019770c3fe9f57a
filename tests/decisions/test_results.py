"""What the agent gets as an MCP result: the gateway's bare array, and the envelope that strict rules keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from decisionkit import APPROVED, NONE, at, both, call, labels, mcp, older, paths, resource
from guardpool.labels import ResponseLabel

PICTURE = {"type": "image", "data": "", "mimeType": "image/png"}
TWO = [{"n": 0}, {"n": 1}]
SEARCH = {"total_count": 2, "items": TWO, "incomplete_results": False}
FIRST_DENIED = paths(at("/items/0", NONE), at("/items/1"), items_path="/items")
ALL_ALLOWED = paths(default=labels(), items_path="/items")


def texts(result: dict[str, Any] | None) -> list[str]:
    assert result is not None
    return [part["text"] for part in result["content"] if part["type"] == "text"]


def test_the_gateway_flattens_to_an_array_and_strict_rules_keep_the_envelope() -> None:
    result = mcp(SEARCH, structuredContent=SEARCH, isError=False, _meta={"a": 1})
    result["content"].append(PICTURE)
    gateway, strict = both(call(resource(), FIRST_DENIED, result))
    assert json.loads(texts(gateway.result)[0]) == [{"n": 1}]
    assert set(gateway.result or ()) == {"content"}
    assert gateway.lost == ("structuredContent", "_meta", "content[1]", "/total_count", "/incomplete_results")
    assert strict.result is not None
    kept = {**SEARCH, "items": [{"n": 1}]}
    assert json.loads(texts(strict.result)[0]) == kept
    assert strict.result["structuredContent"] == kept
    assert (strict.result["_meta"], strict.result["content"][1], strict.lost) == ({"a": 1}, PICTURE, ())
    for decision in (gateway, strict):
        notice = texts(decision.result)[-1]
        assert notice.startswith("1 of 2 items are withheld by the policy")
        assert "approved:all, unapproved:all" in notice


def test_nothing_changes_under_strict_rules_if_nothing_is_denied() -> None:
    result = mcp(SEARCH, structuredContent={"another": "form"})
    gateway, strict = both(call(resource(), ALL_ALLOWED, result))
    assert strict.result == result
    assert gateway.lost == ("structuredContent", "/total_count", "/incomplete_results")
    assert len(texts(gateway.result)) == 1, "no notice"


ENVELOPE = {
    "items": TWO,
    "total_count": 2,
    "done": True,
    "pageInfo": {"hasNextPage": False, "endCursor": "Y3Vyc29y", "note": "words"},
    "next_page_token": "not a token but a sentence",
    "title": "words of a stranger",
    "repeated": {"a": TWO},
}


@pytest.mark.parametrize("readable", [True, False])
def test_the_resource_decides_on_what_the_items_labels_do_not_cover(readable: bool) -> None:
    result = mcp(ENVELOPE, _meta={"a": 1}, isError=False, other=["x"])
    link = {"type": "resource", "resource": {"text": "words"}}
    result["content"] += [PICTURE, link]
    _, strict = both(call(resource(APPROVED if readable else NONE), FIRST_DENIED, result))
    assert strict.result is not None
    expected = {**ENVELOPE, "items": [{"n": 1}], "repeated": {}}
    if not readable:
        expected["pageInfo"] = {"hasNextPage": False, "endCursor": "Y3Vyc29y"}
        del expected["title"], expected["next_page_token"]
    assert json.loads(texts(strict.result)[0]) == expected
    pictures = [part for part in strict.result["content"] if part["type"] != "text"]
    assert pictures == ([PICTURE] if readable else [])
    assert set(strict.result) == {"content", "_meta", "isError"}
    lost = {"other", "content[2]", "/repeated/a"}
    strangers = {"content[1]", "/pageInfo/note", "/next_page_token", "/title"}
    assert set(strict.lost) == (lost if readable else lost | strangers)


def test_structured_content_that_may_repeat_denied_items_is_left_out() -> None:
    _, strict = both(call(resource(), FIRST_DENIED, mcp(SEARCH, structuredContent={"results": TWO})))
    assert strict.result is not None
    assert "structuredContent" not in strict.result
    assert strict.lost == ("structuredContent",)


@pytest.mark.parametrize(
    ("result", "response", "gateway", "strict"),
    [
        (TWO, paths(at("/0", NONE), at("/1")), [{"n": 1}], [{"n": 1}]),
        (SEARCH, FIRST_DENIED, [{"n": 1}], {**SEARCH, "items": [{"n": 1}]}),
        (
            {"data": [{"nodes": TWO, "pageInfo": {}}], "x": 1},
            paths(at("/data/0/nodes/0", NONE), at("/data/0/nodes/1"), items_path="/data/0/nodes"),
            [{"n": 1}],
            {"data": [{"nodes": [{"n": 1}], "pageInfo": {}}], "x": 1},
        ),
        (mcp(TWO), older((TWO[0], labels(NONE)), (TWO[1], labels())), [{"n": 1}], [{"n": 1}]),
    ],
    ids=["an array", "an object", "deep inside", "the older form"],
)
def test_denied_items_are_taken_out_of_every_shape(
    result: Any, response: ResponseLabel, gateway: Any, strict: Any
) -> None:
    decisions = both(call(resource(), response, result))
    assert [json.loads(texts(decision.result)[0]) for decision in decisions] == [gateway, strict]
    assert [decision.shown for decision in decisions] == [[{"n": 1}]] * 2


def test_items_that_a_guard_left_out_of_its_list_are_in_no_result() -> None:
    for decision in both(call(resource(), older((TWO[1], labels())), mcp(TWO, structuredContent=TWO))):
        assert texts(decision.result) == ['[{"n":1}]']
        assert set(decision.result or ()) == {"content"}
        assert "structuredContent" in decision.lost


def test_several_texts_become_one_text_where_the_first_was() -> None:
    result = {
        "content": [PICTURE, {"type": "text", "text": '[{"n": 0},'}, PICTURE, {"type": "text", "text": '{"n": 1}]'}]
    }
    _, strict = both(call(resource(), paths(at("/0", NONE), at("/1")), result))
    assert strict.result is not None
    assert [part["type"] for part in strict.result["content"]] == ["image", "text", "image", "text"]
    assert json.loads(texts(strict.result)[0]) == [{"n": 1}]


def test_a_whole_result_loses_what_is_not_content_in_the_gateway() -> None:
    result = mcp("words", structuredContent={"a": 1}, isError=True, _meta={})
    gateway, strict = both(call(resource(), None, result))
    assert gateway.result == mcp("words", isError=True)
    assert gateway.lost == ("structuredContent", "_meta")
    assert (strict.result, strict.lost) == (result, ())
    assert [decision.result for decision in both(call(resource(), None, {"n": 1}))] == [
        {"content": [{"type": "text", "text": '{"n":1}'}]}
    ] * 2


def test_a_part_that_is_no_object_makes_an_error_of_the_result_in_the_gateway() -> None:
    gateway, _ = both(call(resource(), None, {"content": [{"type": "text", "text": "x"}, 5]}))
    assert gateway.result is not None
    assert (gateway.result["isError"], texts(gateway.result)) == (
        True,
        ["The result is not an MCP result: content[1] is not an object."],
    )


def test_a_result_that_is_one_item_stands_in_an_array_as_it_was() -> None:
    result = mcp({"n": 1}, isError=True)
    gateway, strict = both(call(resource(), paths(default=labels()), result))
    assert gateway.shown == [result]
    assert json.loads(texts(gateway.result)[0]) == [result]
    assert gateway.lost == ("isError",)
    assert strict.result == result


def test_an_error_result_says_which_rule_and_which_tags() -> None:
    denied = call(resource(NONE, operation="write"), None, {}, tool="create_issue")
    for decision in both(denied):
        assert decision.result is not None
        assert decision.result["isError"] is True
        (text,) = texts(decision.result)
        assert text == (
            "The policy does not allow this call. The agent is cleared for private:o/r, which the target may not receive."
        )
    blocked = call(resource(), paths(at("/0", NONE), at("/1")), TWO, "strict")
    assert all("does not allow all of its items" in texts(decision.result)[0] for decision in both(blocked))
    single = call(resource(), paths(at("/0", NONE)), TWO[:1], tool="get_issue")
    assert all(texts(decision.result)[0].startswith("The item is withheld") for decision in both(single))


def test_an_empty_list_that_was_filtered_is_told_from_an_empty_list() -> None:
    filtered = call(resource(), paths(at("/0", NONE)), TWO[:1], tool="search_issues")
    for decision in both(filtered):
        assert texts(decision.result)[0] == "[]"
        assert decision.counts == (1, 0, 1)
        assert len(texts(decision.result)) == 2
    for decision in both(call(resource(), paths(), [], tool="search_issues")):
        assert texts(decision.result) == ["[]"]
        assert decision.counts == (0, 0, 0)


def test_a_resource_that_stands_for_its_items_leaves_nothing_but_the_notice() -> None:
    _, strict = both(call(resource(NONE), None, mcp(TWO)))
    assert len(texts(strict.result)) == 1
    assert "1 of 1 items are withheld" in texts(strict.result)[0]
    assert strict.shown == []


@pytest.mark.parametrize("value", ["\ud800", 10**400, float("1e300")])
def test_every_value_of_a_result_can_be_written(value: Any) -> None:
    for decision in both(call(resource(APPROVED), paths(default=labels(), items_path=""), [value])):
        assert decision.result is not None


def deep(levels: int, innermost: Any = "x") -> Any:
    for _ in range(levels):
        innermost = {"a": innermost}
    return innermost


def from_deep_below(function: Callable[[], object], frames: int) -> object:
    return function() if frames == 0 else from_deep_below(function, frames - 1)


@pytest.mark.parametrize(
    ("response", "result"),
    [
        (FIRST_DENIED, {"items": TWO, "below": deep(900)}),
        (FIRST_DENIED, mcp({"items": TWO, "below": deep(450)}, structuredContent=deep(900))),
        (FIRST_DENIED, mcp({"items": TWO, "below": deep(450)}, structuredContent={"items": TWO, "below": deep(450)})),
        (FIRST_DENIED, {"items": [deep(900), deep(900)]}),
        (paths(at("/a" * 450 + "/0", NONE), at("/a" * 450 + "/1"), items_path="/a" * 450), deep(450, TWO)),
        (paths(default=labels()), deep(900)),
        (None, deep(900)),
    ],
    ids=["beside", "structured", "twice", "in the items", "around the items", "the one item", "the whole"],
)
def test_values_that_are_nested_deeply_are_decided_on_like_others(response: Any, result: Any) -> None:
    labelled = call(resource(), response, result)
    for decision in from_deep_below(lambda: both(labelled), 300):  # type: ignore[attr-defined]
        assert decision.verdict.value in ("items", "whole")
        assert from_deep_below(lambda: decision.result, 300) is not None  # noqa: B023
