from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

import strategies
from guardpool.contract import (
    ContractError,
    LabeledItem,
    Labels,
    PathLabel,
    ResponseLabel,
    expand,
    parse_response_answer,
)
from guardpool.contract.document import JsonError, read, read_text
from strategies import short

NONE: frozenset[str] = frozenset()
DEFAULT = Labels("default", frozenset("x"), NONE)
UNLABELED = Labels("unlabeled", NONE, NONE)


def _label(*paths: str, items_path: str | None = None, default: Labels | None = None) -> ResponseLabel:
    """Each path's description is the path itself."""
    return ResponseLabel(tuple(PathLabel(path, path, NONE, NONE) for path in paths), default, items_path)


def _descriptions(label: ResponseLabel, result: Any) -> list[str]:
    return [item.labels.description for item in expand(label, result)]


def _mcp(*texts: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text} for text in texts]}


def test_items_without_a_path_get_the_default_or_are_unlabeled() -> None:
    assert expand(_label("/1"), ["a", "b"]) == [LabeledItem("a", UNLABELED), LabeledItem("b", Labels("/1", NONE, NONE))]
    assert expand(_label(default=DEFAULT), ["a"]) == [LabeledItem("a", DEFAULT)]


def test_an_empty_array_has_no_items() -> None:
    assert expand(_label("/0", default=DEFAULT), []) == []


@pytest.mark.parametrize(
    ("path", "index"),
    [("/1", 1), ("1", 1), ("/1/sub", 1), ("/1/", 1), ("/+1", 1), ("/0001", 1), ("/-0", 0), ("/" + "0" * 5000 + "1", 1)],
    ids=short,
)
def test_a_paths_index_is_its_first_segment(path: str, index: int) -> None:
    assert _descriptions(_label(path), ["a", "b"])[index] == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "//1", "/ 1", "/1 ", "/x", "/1x", "/-1", "/2", "/+", "/-", "/--1", "/1_0", "/0x1", "/1.0", "/1\n"),
        *(
            "/\u0661",
            "/~1",
            "/99999999999999999999",
            "/18446744073709551617",
            "/" + "9" * 100_000,
            "/-" + "9" * 100_000,
        ),
    ],
    ids=short,
)
def test_a_path_that_fits_no_item_is_skipped(path: str) -> None:
    assert _descriptions(_label(path), ["a", "b"]) == ["unlabeled", "unlabeled"]


def test_of_two_paths_for_one_item_the_last_wins() -> None:
    assert _descriptions(_label("/0", "/0/b", "0", "/+0"), ["a"]) == ["/+0"]


@pytest.mark.parametrize(
    ("items_path", "result"),
    [
        ("/items", {"items": ["a", "b"]}),
        ("items", {"items": ["a", "b"]}),
        ("/items/", {"items": ["a", "b"]}),
        ("//items", {"items": ["a", "b"]}),
        ("/a~1b/c~0d", {"a/b": {"c~d": ["a", "b"]}}),
        ("/~01", {"~1": ["a", "b"]}),
        ("/0/+1", [[0, ["a", "b"]]]),
        ("/1", {"1": ["a", "b"]}),
        ("/", ["a", "b"]),
        ("///", ["a", "b"]),
    ],
)
def test_items_path_leads_to_the_items(items_path: str, result: Any) -> None:
    assert [item.data for item in expand(_label(items_path=items_path), result)] == ["a", "b"]


@pytest.mark.parametrize(
    ("items_path", "result"),
    [
        ("/items", ["a"]),
        ("/items", {}),
        ("/items", {"items": {}}),
        ("/items", {"items": None}),
        ("/items", {"Items": []}),
        ("/items/x", {"items": "x"}),
        ("/1", [[]]),
        ("/-1", [[]]),
        ("/-", [[]]),
        ("/", {"": []}),
        ("/", "text"),
        ("/x", None),
        ("/" + "9" * 100_000, [[]]),
        ("/a" * 100_000, {"a": {}}),
    ],
    ids=short,
)
def test_an_items_path_that_does_not_lead_to_an_array_is_an_error(items_path: str, result: Any) -> None:
    with pytest.raises(ContractError, match="items_path") as caught:
        expand(_label(items_path=items_path), result)
    assert strategies.is_one_short_line(caught.value)


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("/items/0", True),
        ("items/0", True),
        ("/items/0/x", True),
        ("/items0", False),
        ("/items", False),
        ("/items/", False),
        ("/items//0", False),
        ("/ite/0", False),
        ("/other/0", False),
        ("/0", False),
    ],
)
@pytest.mark.parametrize("items_path", ["/items", "items"])
def test_a_path_must_begin_with_the_items_path(items_path: str, path: str, fits: bool) -> None:
    expected = path if fits else "unlabeled"
    assert _descriptions(_label(path, items_path=items_path), {"items": ["a"]}) == [expected]


def test_the_items_path_is_compared_as_it_is_spelt() -> None:
    label = _label("/a~1b/0", "/a/b/0", items_path="/a~1b")
    assert _descriptions(label, {"a/b": ["x"]}) == ["/a~1b/0"]
    assert _descriptions(_label("/items/0", "/items//0", items_path="/items/"), {"items": ["x"]}) == ["/items//0"]
    assert _descriptions(_label("/0", items_path="/"), ["x"]) == ["unlabeled"]


@pytest.mark.parametrize("result", [None, "text", 5, {"items": []}, {}, _mcp("plain"), _mcp('{"a": []}'), _mcp("null")])
def test_a_result_that_is_not_an_array_is_one_unchanged_item(result: Any) -> None:
    assert expand(_label("/0", default=DEFAULT), result) == [LabeledItem(result, DEFAULT)]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "[1, 2]"}],
        [{"text": "[1, 2]"}],
        [{"type": "", "text": "[1, 2]"}],
        [{"type": 5, "text": "[1, 2]"}],
        [{"type": "custom", "text": "[1, 2]"}],
        [{"type": "TEXT", "text": "[1,"}, {"type": "text", "text": ""}, {"text": "2]"}],
        [
            {"type": "image", "text": "["},
            {"type": "audio", "text": "["},
            {"type": "resource", "text": "["},
            {"text": "[1,2]"},
        ],
        ["[", None, 5, {"type": "text"}, {"type": "text", "text": 5}, {"text": "[1,2]"}],
        [{"text": " \n[1,2]\t"}],
    ],
)
def test_the_texts_of_an_mcp_result_are_joined_and_read(content: list[Any]) -> None:
    assert [item.data for item in expand(_label(), {"content": content})] == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        "[1]",
        [{"text": "[1"}],
        [{"type": "image", "text": "[1]"}],
        [{"text": "[1]"}, {"text": "[2]"}],
        [{"text": "[NaN]"}],
        [{"text": "[1e999]"}],
        [{"text": "\u00a0[1]"}],
        [{"text": "\ufeff[1]"}],
    ],
)
def test_what_cannot_be_unwrapped_stays_as_it_is(content: Any) -> None:
    assert expand(_label(default=DEFAULT), {"content": content}) == [LabeledItem({"content": content}, DEFAULT)]


def test_an_mcp_text_is_read_as_the_gateway_reads_it() -> None:
    assert [item.data for item in expand(_label(), _mcp('["\ud800", "\\ud800", {"a": 1, "a": 2}]'))] == [
        "\ufffd",
        "\ufffd",
        {"a": 2},
    ]


def test_an_mcp_text_nested_too_deeply_is_an_error_and_not_one_opaque_item() -> None:
    with pytest.raises(ContractError, match="nested deeper"):
        expand(_label(default=DEFAULT), _mcp("[" * 100_000 + "]" * 100_000))


def test_a_result_is_unwrapped_once() -> None:
    inner = _mcp("[1]")
    assert expand(_label(), _mcp(json.dumps(inner))) == [LabeledItem(_mcp(json.dumps(inner)), UNLABELED)]


def test_the_older_form_has_its_items_whatever_the_result() -> None:
    label = parse_response_answer(b'{"items": [{"data": 1, "labels": {"secrecy": ["a"]}}]}')
    assert label is not None
    assert expand(label, {"other": 5}) == [LabeledItem(1, Labels("", frozenset("a"), NONE))]


@pytest.mark.parametrize("label", [None, {}, []])
def test_json_that_is_not_a_response_label_is_an_error(label: Any) -> None:
    with pytest.raises(ContractError, match="ResponseLabel"):
        expand(label, [])


def test_many_paths_and_items_take_no_time_to_speak_of() -> None:
    label = _label(*(f"/{n}" for n in range(50_000)), default=DEFAULT)
    items = expand(label, list(range(50_000)))
    assert items[-1] == LabeledItem(49_999, Labels("/49999", NONE, NONE))


_segments = st.one_of(strategies.texts, st.sampled_from(["items", "0", "1", "-1", "+0", "~0", "~1", ""]))
_pointers = st.lists(_segments, max_size=4).map("/".join)
_results = st.one_of(
    strategies.json_values,
    st.builds(lambda value: {"items": value}, strategies.json_values),
    st.builds(lambda value: _mcp(json.dumps(value)), strategies.json_values),
    st.builds(lambda parts: {"content": parts}, strategies.json_values),
)


@given(
    st.one_of(
        strategies.response_labels,
        st.builds(
            ResponseLabel,
            st.lists(st.builds(PathLabel, _pointers, strategies.texts, strategies.tag_sets, strategies.tag_sets)).map(
                tuple
            ),
            st.none() | strategies.plain_labels,
            st.none() | _pointers,
        ),
    ),
    _results,
)
def test_any_label_and_any_result_give_items_or_a_contract_error(label: ResponseLabel, result: Any) -> None:
    try:
        items = expand(label, result)
    except ContractError as error:
        assert strategies.is_one_short_line(error)  # noqa: PT017  # most examples raise nothing
        return
    allowed = {path.labels for path in label.labeled_paths} | {label.default_labels or UNLABELED}
    if label.items is None:
        assert {item.labels for item in items} <= allowed


NUMBERS = ("-0", "-0.0", "1e999", "1E5", "9" * 18, "9" * 19, "-" + "9" * 20, "1" * 400, "9007199254740993", "01", "1.")
SIGNS = ('"\\ud800"', '"\\ud83d\\ude00"', '"\ud800"', "NaN", "\ufeff1", '"\x01"', "[1,]", " 1 ", "1 2", '{"a":1,"a":2}')


def _read(function: Callable[[str], Any], text: str) -> tuple[str, Any]:
    """The value and its type as text, or the error."""
    try:
        return "value", repr(function(text))
    except JsonError as error:
        return type(error).__name__, str(error)


@given(
    st.one_of(
        st.sampled_from((*NUMBERS, *SIGNS)),
        strategies.json_values.map(json.dumps),
        strategies.json_values.map(lambda value: json.dumps(value, ensure_ascii=False)),
        strategies.texts,
        st.sampled_from((50, 150, 499, 501)).map(lambda depth: "[" * depth + "]" * depth),
    )
)
def test_text_is_read_the_same_the_quick_way_and_the_slow_way(text: str) -> None:
    assert _read(read_text, text) == _read(read, text)


@pytest.mark.parametrize("text", [*NUMBERS, *SIGNS])
def test_odd_numbers_and_signs_are_read_the_same_both_ways(text: str) -> None:
    assert _read(read_text, f"[{text}]") == _read(read, f"[{text}]")
    assert _read(read_text, text) == _read(read, text)
