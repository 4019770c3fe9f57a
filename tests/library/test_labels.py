from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, strategies as st

import strategies
from guardpool.labels import (
    AgentLabels,
    DifcMode,
    LabeledItem,
    Labels,
    Operation,
    PathLabel,
    ResourceLabel,
    ResponseLabel,
    check_label,
    label_from_json,
    label_to_json,
)

NONE: frozenset[str] = frozenset()
PRIVATE = frozenset(("private:o/r",))
BOTH = frozenset(("b", "a"))


def test_labels_compare_and_hash_by_value_and_cannot_be_changed() -> None:
    one = ResourceLabel("issue", BOTH, NONE, Operation.READ)
    other = ResourceLabel("issue", frozenset(("a", "b")), NONE, Operation.READ)
    assert one == other
    assert len({one, other}) == 1
    assert one != ResourceLabel("issue", BOTH, NONE, Operation.WRITE)
    with pytest.raises(AttributeError):
        one.description = "else"  # type: ignore[misc]


def test_labels_that_hold_any_json_can_be_hashed() -> None:
    def label(data: object) -> ResponseLabel:
        return ResponseLabel(items=(LabeledItem(data, Labels("", BOTH, NONE)),))

    assert len({label({"a": [1, {"b": None}]}), label({"a": [1, {"b": None}]}), label([])}) == 2
    # equal in Python, so their hashes must be equal as well
    assert hash(label({"a": 1, "b": 2})) == hash(label({"b": 2.0, "a": True + 0}))
    agent = AgentLabels(NONE, BOTH, DifcMode.FILTER, {"scope": ["o/r"]})
    assert len({agent, AgentLabels(NONE, frozenset("ab"), DifcMode.FILTER, {"scope": ["o/r"]})}) == 1


def test_a_repr_shows_tags_sorted() -> None:
    label = ResourceLabel("d", frozenset(("c", "a", "b")), NONE, Operation.READ_WRITE)
    assert (
        repr(label) == "ResourceLabel(description='d', secrecy={'a', 'b', 'c'}, integrity={}, operation='read-write')"
    )
    assert "secrecy={'a', 'b'}" in repr(ResponseLabel(default_labels=Labels("", BOTH, NONE)))
    assert repr(AgentLabels(BOTH, NONE, DifcMode.STRICT)).startswith(
        "AgentLabels(secrecy={'a', 'b'}, integrity={}, mode="
    )


def test_enumerations_equal_and_print_as_their_words() -> None:
    assert Operation.READ_WRITE == "read-write"
    assert f"{DifcMode.PROPAGATE} {Operation.READ}" == "propagate read"


def test_a_resource_label_is_written_in_the_outcome_files_form() -> None:
    label = ResourceLabel("d\n", BOTH, PRIVATE, Operation.READ)
    assert (
        label_to_json(label)
        == b'{"description":"d\\n","secrecy":["a","b"],"integrity":["private:o/r"],"operation":"read"}'
    )


def test_a_response_label_is_written_in_the_outcome_files_form() -> None:
    label = ResponseLabel((PathLabel("/0", "d", BOTH, NONE),), Labels("x", NONE, PRIVATE), "/items")
    assert json.loads(label_to_json(label)) == {
        "labeled_paths": [{"path": "/0", "description": "d", "secrecy": ["a", "b"], "integrity": []}],
        "default_labels": {"description": "x", "secrecy": [], "integrity": ["private:o/r"]},
        "items_path": "/items",
    }
    assert label_to_json(ResponseLabel()) == b'{"labeled_paths":[],"default_labels":null,"items_path":null}'
    assert label_to_json(None) == b"null"


def test_the_older_form_keeps_its_items() -> None:
    label = ResponseLabel(items=(LabeledItem({"n": 1}, Labels("d", BOTH, NONE)),))
    assert json.loads(label_to_json(label))["items"] == [
        {"data": {"n": 1}, "description": "d", "secrecy": ["a", "b"], "integrity": []}
    ]


def test_tags_are_sorted_by_code_point() -> None:
    label = ResourceLabel("", frozenset(("\U00010000", "\uffff", "z", "Z", "é")), NONE, Operation.READ)
    assert json.loads(label_to_json(label))["secrecy"] == ["Z", "z", "é", "\uffff", "\U00010000"]


def test_a_value_that_is_not_a_label_is_not_written() -> None:
    with pytest.raises(TypeError, match="not dict"):
        label_to_json({})  # type: ignore[arg-type]


def test_a_path_label_gives_its_labels_without_the_path() -> None:
    assert PathLabel("/0", "d", BOTH, NONE).labels == Labels("d", BOTH, NONE)


@given(strategies.resource_labels)
def test_a_resource_label_survives_its_json(label: ResourceLabel) -> None:
    raw = label_to_json(label)
    assert b"\n" not in raw
    assert b"\r" not in raw
    assert label_from_json("label_resource", raw) == label
    assert label_to_json(label_from_json("label_resource", raw)) == raw


@given(strategies.response_labels)
def test_a_response_label_survives_its_json(label: ResponseLabel) -> None:
    raw = label_to_json(label)
    assert b"\n" not in raw
    assert b"\r" not in raw
    again = label_from_json("label_response", raw)
    assert again == label
    assert hash(again) == hash(label)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"description":"","secrecy":[],"integrity":[]}',
        b'{"description":"","secrecy":[],"integrity":[],"operation":"READ"}',
        b'{"description":"","secrecy":[1],"integrity":[],"operation":"read"}',
        b'{"description":"","secrecy":null,"integrity":[],"operation":"read"}',
        b'{"description":"\xff","secrecy":[],"integrity":[],"operation":"read"}',
        b'{"description":"","secrecy":[],"integrity":[],"operation":"read","extra":1}',
        b'{"description":"","secrecy":[],"integrity":[],"operation":"read"} x',
    ],
)
def test_json_that_is_not_a_resource_label_is_a_value_error(raw: bytes) -> None:
    with pytest.raises((msgspec.ValidationError, msgspec.DecodeError)):
        label_from_json("label_resource", raw)


def test_an_unknown_operation_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="label_agent"):
        label_from_json("label_agent", b"null")


@given(
    st.sampled_from(("label_resource", "label_response")),
    st.one_of(
        st.binary(max_size=60),
        strategies.json_values.map(lambda value: json.dumps(value).encode()),
        strategies.as_bytes(strategies.response_answers),
        st.integers(1, 100_000).map(lambda depth: b'{"items":' + b"[" * depth),
    ),
)
def test_any_bytes_are_a_label_or_a_value_error(op: str, raw: bytes) -> None:
    try:
        label = label_from_json(op, raw)
    except ValueError:
        return
    assert label_from_json(op, label_to_json(label)) == label


_RESPONSE = (
    b'{"labeled_paths":[{"path":"/0","description":"a","secrecy":["s"],"integrity":[]}],'
    b'"default_labels":{"description":"b","secrecy":[],"integrity":["i"]},"items_path":"",'
    b'"items":[{"data":{"n":[1]},"description":"c","secrecy":[],"integrity":[]}]}'
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"", b""),
        (b'"path":"/0",', b""),
        (b'"path":"/0"', b'"path":0'),
        (b'"a"', b"null"),
        (b'["s"]', b"[1]"),
        (b'["s"]', b'{"s":1}'),
        (b'["i"]', b"null"),
        (b'["i"]', b"[[]]"),
        (b'"b",', b'"b","more":1,'),
        (b'"c",', b'"c","more":1,'),
        (b'"/0",', b'"/0","more":1,'),
        (b'"items_path":"",', b""),
        (b'"items_path":""', b'"items_path":null'),
        (b'"items_path":""', b'"items_path":[]'),
        (b'{"n":[1]}', b'{"n":[1}'),
        (b'{"n":[1]}', b"null"),
        (b'"data":{"n":[1]},', b""),
        (b'"items":[', b'"others":['),
        (b'"items":[', b'"items":null,"x":['),
        (b'"c"', b'"\xff"'),
        (b"]}]}", b"]}]} x"),
        (_RESPONSE, b"null"),
        (_RESPONSE, b"[]"),
        (_RESPONSE, b""),
    ],
)
def test_check_label_refuses_the_responses_that_label_from_json_refuses(old: bytes, new: bytes) -> None:
    raw = _RESPONSE.replace(old, new, 1)
    assert _raises(check_label("label_response"), raw) == _raises(
        lambda text: label_from_json("label_response", text), raw
    )


def _raises(read: Callable[[bytes], object], raw: bytes) -> bool:
    try:
        read(raw)
    except ValueError:  # a DecodeError or a UnicodeDecodeError
        return True
    return False


def test_deeply_nested_json_is_a_value_error() -> None:
    item = b'{"description":"","secrecy":[],"integrity":[],"data":' + b"[" * 100_000
    raw = b'{"labeled_paths":[],"default_labels":null,"items_path":null,"items":[' + item
    with pytest.raises(msgspec.DecodeError):
        label_from_json("label_response", raw)
