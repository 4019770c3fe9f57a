"""What the contract makes of a guard's answer, rule by rule, and where JSON itself leaves room for two readings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from guardpool.contract import (
    ContractError,
    DifcMode,
    Labels,
    Operation,
    PathLabel,
    ResponseLabel,
    parse_agent_answer,
    parse_resource_answer,
    parse_response_answer,
)
from guardpool.contract.document import MAX_DEPTH
from strategies import is_one_short_line, short

Parser = Callable[[bytes], Any]
PARSERS: list[Parser] = [parse_agent_answer, parse_resource_answer, parse_response_answer]
OF_EACH: list[tuple[Parser, bytes]] = [
    (parse_agent_answer, b'{"difc_mode": "strict", %s}'),
    (parse_resource_answer, b'{"resource": {}, %s}'),
    (parse_response_answer, b'{"labeled_paths": [], %s}'),
    (parse_response_answer, b'{"items": [{"labels": {}}], %s}'),
]


def _resource(members: str) -> bytes:
    return f'{{"resource": {{{members}}}, "operation": "read"}}'.encode()


def _paths(text: str) -> ResponseLabel:
    label = parse_response_answer(text.encode())
    assert label is not None
    return label


# --- label_agent


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("strict", DifcMode.STRICT),
        ("FILTER", DifcMode.FILTER),
        ("Propagate", DifcMode.PROPAGATE),
        ("STR\u0130CT", DifcMode.STRICT),  # the gateway's lower case of the dotted capital I is a plain i
    ],
)
def test_a_mode_may_be_in_any_case(mode: str, expected: DifcMode) -> None:
    assert parse_agent_answer(json.dumps({"difc_mode": mode}).encode()).mode is expected


@pytest.mark.parametrize(
    "mode", ['""', '" \\t"', '"\\u00a0"', "null", "5", '["strict"]', '" strict"', '"\\u017ftrict"']
)
def test_an_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(ContractError, match="difc_mode"):
        parse_agent_answer(b'{"difc_mode": %s}' % mode.encode())


def test_agent_tags_are_trimmed_and_blank_ones_dropped() -> None:
    answer = {
        "difc_mode": "strict",
        "agent": {"secrecy": [" a ", "a", "", "\u2003b\x85", "\t", "\x1c"], "integrity": [None]},
    }
    agent = parse_agent_answer(json.dumps(answer).encode())
    assert agent.secrecy == {"a", "b", "\x1c"}  # U+001C is not white space to the gateway
    assert agent.integrity == frozenset()


@pytest.mark.parametrize("key", ["success", "ok"])
@pytest.mark.parametrize("reason", ["no such repo", None, 5, " "])
def test_a_refusal_is_an_error_that_gives_the_reason(key: str, reason: object) -> None:
    answer = {"difc_mode": "strict", key: False, "error": reason}
    with pytest.raises(ContractError, match="no such repo" if reason == "no such repo" else "no reason given"):
        parse_agent_answer(json.dumps(answer).encode())


@pytest.mark.parametrize("value", ["0", "null", '"false"', "[]", "true"])
def test_only_a_plain_false_is_a_refusal(value: str) -> None:
    assert parse_agent_answer(b'{"difc_mode": "strict", "success": %s, "ok": %s}' % (value.encode(), value.encode()))


def test_an_error_text_is_a_refusal_even_with_success() -> None:
    with pytest.raises(ContractError, match="boom"):
        parse_agent_answer(b'{"difc_mode": "strict", "success": true, "error": " boom "}')


def test_a_refusal_is_looked_for_under_its_exact_name_and_the_last_counts() -> None:
    assert parse_agent_answer(b'{"difc_mode": "strict", "Success": false, "ERROR": "x"}')
    assert parse_agent_answer(b'{"difc_mode": "strict", "success": false, "success": true}')


@pytest.mark.parametrize("value", ["5", '"x"', "[]", "true"])
def test_a_normalized_policy_is_an_object(value: str) -> None:
    with pytest.raises(ContractError, match="normalized_policy must be an object"):
        parse_agent_answer(b'{"difc_mode": "strict", "normalized_policy": %s}' % value.encode())


def test_a_normalized_policy_is_kept_and_a_second_one_is_merged_into_it() -> None:
    answer = (
        '{"difc_mode": "strict", "normalized_policy": {"a": 1, "b": {"x": 1}}, "Normalized_Policy": {"b": {"y": 2}}}'
    )
    assert parse_agent_answer(answer.encode()).normalized_policy == {"a": 1, "b": {"y": 2}}
    assert parse_agent_answer(b'{"difc_mode": "strict", "normalized_policy": null}').normalized_policy is None


def test_the_agents_field_names_match_in_any_case() -> None:
    agent = parse_agent_answer('{"Agent": {"\u017fECRECY": ["a"]}, "DIFC_MODE": "filter"}'.encode())
    assert (agent.secrecy, agent.mode) == ({"a"}, "filter")


@pytest.mark.parametrize("agent", ["[]", '"x"', '{"secrecy": "x"}', '{"secrecy": {}}', '{"integrity": [["a"]]}'])
def test_an_agent_of_the_wrong_type_is_refused(agent: str) -> None:
    with pytest.raises(ContractError, match=r"agent.* must be an? "):
        parse_agent_answer(b'{"difc_mode": "strict", "agent": %s}' % agent.encode())


@pytest.mark.parametrize("extra", ['"description": 5', '"description": ["x"]', '"tags": {}', '"path": null'])
def test_unknown_members_of_an_agent_are_ignored_whatever_their_type(extra: str) -> None:
    agent = parse_agent_answer(b'{"difc_mode": "strict", "agent": {"secrecy": ["a"], %s}}' % extra.encode())
    assert agent.secrecy == {"a"}


def test_a_value_of_the_wrong_type_is_named_with_its_place() -> None:
    with pytest.raises(ContractError, match=r"agent\.secrecy\[1\] must be a string, not 7"):
        parse_agent_answer(b'{"difc_mode": "strict", "agent": {"secrecy": ["a", 7]}}')
    with pytest.raises(ContractError, match=r"labeled_paths\[1\]\.labels\.integrity\[0\] must be a string, not true"):
        parse_response_answer(b'{"labeled_paths": [{}, {"labels": {"integrity": [true]}}]}')


# --- label_resource


def test_resource_tags_that_are_strings_stay_and_others_are_dropped() -> None:
    label = parse_resource_answer(_resource('"secrecy": [" a ", "", null, 5, ["b"], "a"], "integrity": "x"'))
    assert label.secrecy == {" a ", "", "a"}
    assert label.integrity == frozenset()


@pytest.mark.parametrize("operation", ['"READ"', '" read"', "null", "5", '["read"]', '{"a": 1}', '"delete"', '""'])
def test_an_unknown_operation_is_write(operation: str) -> None:
    label = parse_resource_answer(b'{"resource": {}, "operation": %s}' % operation.encode())
    assert label.operation is Operation.WRITE


@pytest.mark.parametrize("answer", ["", "null", "{}", "[]", '"resource"', '{"resource": null}', '{"resource": []}'])
def test_no_resource_object_is_invalid(answer: str) -> None:
    with pytest.raises(ContractError, match="label_resource"):
        parse_resource_answer(answer.encode())


def test_a_resource_is_looked_for_under_exact_names_and_the_last_counts() -> None:
    with pytest.raises(ContractError):
        parse_resource_answer(b'{"Resource": {}}')
    label = parse_resource_answer(
        b'{"resource": {"secrecy": ["a"]}, "resource": {"Secrecy": ["b"], "integrity": ["c"]}}'
    )
    assert (label.secrecy, label.integrity) == (frozenset(), {"c"})


# --- label_response


@pytest.mark.parametrize(
    "answer", ["", "{}", "null", '{"items": []}', '{"items": {"a": 1}}', '{"Labeled_Paths": []}', '{"Items": [{}]}']
)
def test_an_answer_without_labels_means_none(answer: str) -> None:
    assert parse_response_answer(answer.encode()) is None


def test_labeled_paths_win_over_items() -> None:
    assert _paths('{"items": [{"data": 1}], "labeled_paths": null}') == ResponseLabel()


def test_missing_parts_of_a_path_are_empty_and_a_null_tag_is_the_empty_tag() -> None:
    label = _paths(
        '{"labeled_paths": [null, {}, {"path": null, "labels": null}, {"labels": {"secrecy": ["a", null]}}]}'
    )
    empty = PathLabel("", "", frozenset(), frozenset())
    assert label.labeled_paths == (empty, empty, empty, PathLabel("", "", frozenset(("a", "")), frozenset()))


@pytest.mark.parametrize(
    "member",
    [
        '"labeled_paths": {}',
        '"labeled_paths": [[]]',
        '"labeled_paths": ["/0"]',
        '"labeled_paths": [{"path": 5}]',
        '"labeled_paths": [{"path": "/0", "labels": []}]',
        '"labeled_paths": [{"labels": {"secrecy": "x"}}]',
        '"labeled_paths": [{"labels": {"secrecy": [5]}}]',
        '"labeled_paths": [{"labels": {"description": 5}}]',
        '"labeled_paths": [], "items_path": 5',
        '"labeled_paths": [], "default_labels": "x"',
        '"labeled_paths": [], "Default_Labels": {"integrity": {}}',
    ],
)
def test_a_value_of_the_wrong_type_makes_the_answer_invalid(member: str) -> None:
    with pytest.raises(ContractError, match=r" must be an? "):
        parse_response_answer(f"{{{member}}}".encode())


def test_field_names_of_structures_match_in_any_case() -> None:
    label = _paths(
        '{"labeled_paths": [], "LABELED_PATHS": [{"PATH": "/0", "label\u017f": {"Secrecy": ["a"]}}],'
        ' "iTems_Path": "/x"}'
    )
    assert label == ResponseLabel((PathLabel("/0", "", frozenset("a"), frozenset()),), None, "/x")


def test_a_field_given_twice_is_decoded_over_its_first_value() -> None:
    label = _paths(
        """{"labeled_paths": [{"path": "/0",
            "labels": {"description": "first", "secrecy": ["a"], "integrity": ["i"]}, "labels": {"secrecy": ["b"]}}],
            "default_labels": {"secrecy": ["x", "y"]}, "default_labels": {"secrecy": [null]},
            "items_path": "/a", "items_path": null}"""
    )
    assert label.labeled_paths == (PathLabel("/0", "first", frozenset("b"), frozenset("i")),)
    assert label.default_labels == Labels("", frozenset("x"), frozenset())
    assert label.items_path == "/a"


def test_an_array_decoded_short_and_then_long_has_its_old_elements_back() -> None:
    label = _paths(
        """{"labeled_paths": [{"path": "/0"}, {"path": "/1", "labels": {"secrecy": ["s"]}}],
            "labeled_paths": [{"path": "/9"}],
            "labeled_paths": [null, {"labels": {"integrity": ["i"]}}]}"""
    )
    assert label.labeled_paths == (
        PathLabel("/9", "", frozenset(), frozenset()),
        PathLabel("/1", "", frozenset("s"), frozenset("i")),
    )


@pytest.mark.parametrize("reset", ["null", "[]"])
def test_null_and_an_empty_array_forget_what_was_there(reset: str) -> None:
    label = _paths(f'{{"labeled_paths": [{{"path": "/0"}}], "labeled_paths": {reset}, "labeled_paths": [null]}}')
    assert label.labeled_paths == (PathLabel("", "", frozenset(), frozenset()),)


def test_a_null_default_forgets_the_one_before() -> None:
    label = _paths('{"labeled_paths": [], "default_labels": {"secrecy": ["a"]}, "default_labels": null}')
    assert label.default_labels is None


def test_the_older_form_drops_items_that_are_not_objects() -> None:
    label = _paths('{"items": [5, null, "x", {"labels": {"secrecy": ["a", 5]}}]}')
    assert label.items is not None
    assert [(item.data, item.labels) for item in label.items] == [(None, Labels("", frozenset("a"), frozenset()))]
    assert _paths('{"items": [5]}').items == ()


@pytest.mark.parametrize("item", ["{}", '{"labels": null}', '{"labels": []}', '{"Labels": {}}', '{"labels": "none"}'])
def test_an_item_without_labels_is_invalid(item: str) -> None:
    with pytest.raises(ContractError, match=r"items\[1\]\.labels (must be an object, not|is missing)"):
        parse_response_answer(b'{"items": [{"labels": {}}, %s]}' % item.encode())


# --- JSON, as all three read it


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"{}x",
        b"{} {}",
        b"5",
        b"[]",
        b'"x"',
        b"true",
        b"\xef\xbb\xbf{}",
        b"\xff",
        b"{'a': 1}",
        b'{"a": 1,}',
        b" ",
        b"\0",
    ],
)
def test_an_answer_that_is_not_a_json_object_is_invalid(parser: Parser, raw: bytes) -> None:
    with pytest.raises(ContractError):
        parser(raw)


@pytest.mark.parametrize(("parser", "answer"), OF_EACH, ids=range(4))
@pytest.mark.parametrize("value", ["1e309", "-1e309", "9" * 400, "9" * 1_000_000, '[{"a": 2e308}]'], ids=short)
def test_a_number_too_large_for_a_double_is_invalid_wherever_it_stands(
    parser: Parser, answer: bytes, value: str
) -> None:
    with pytest.raises(ContractError, match="too large"):
        parser(answer % b'"x": %s' % value.encode())


@pytest.mark.parametrize(("parser", "answer"), OF_EACH, ids=range(4))
@pytest.mark.parametrize(
    "value",
    ["NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "'a'", '"\x01"', '"\\x41"', '"\\ud8"'],
    ids=short,
)
def test_json_of_other_dialects_is_invalid(parser: Parser, answer: bytes, value: str) -> None:
    with pytest.raises(ContractError, match="not JSON"):
        parser(answer % b'"x": %s' % value.encode())


@pytest.mark.parametrize(("parser", "answer"), OF_EACH, ids=range(4))
@pytest.mark.parametrize(
    "value", ["1e-999", "1e308", "-0", "9" * 300, '"\x7f"', '"\\/"', '"\\u0000"', "  1\t\r\n"], ids=short
)
def test_odd_but_valid_json_is_taken(parser: Parser, answer: bytes, value: str) -> None:
    parser(answer % b'"x": %s' % value.encode())


@pytest.mark.parametrize(
    ("raw", "tag"),
    [
        (b"a\xff", "a\ufffd"),
        (b"\xf0\x9f\x98", "\ufffd\ufffd\ufffd"),  # each byte, not the sequence
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xc0\xaf", "\ufffd\ufffd"),
        (b"\\ud800", "\ufffd"),
        (b"\\udc00\\ud800x", "\ufffd\ufffdx"),
        (b"\\ud83d\\ude00", "\U0001f600"),
        (b"\\ud800\\ud83d\\ude00", "\ufffd\U0001f600"),
        (b"\\\\ud800", "\\ud800"),
        (b"\\uD83D\xf0\x9f\x98\x80", "\ufffd\U0001f600"),
    ],
)
def test_bad_text_becomes_replacement_characters(raw: bytes, tag: str) -> None:
    assert parse_resource_answer(b'{"resource": {"secrecy": ["%s"]}}' % raw).secrecy == {tag}
    label = parse_response_answer(b'{"labeled_paths": [{"labels": {"secrecy": ["%s"]}}]}' % raw)
    assert label is not None
    assert label.labeled_paths[0].secrecy == {tag}


def test_member_names_are_compared_after_unescaping() -> None:
    assert parse_resource_answer(b'{"\\u0072esource": {"secr\\u0065cy": ["a"]}}').secrecy == {"a"}


def test_the_data_of_an_item_keeps_its_numbers() -> None:
    label = _paths(
        '{"items": [{"labels": {},'
        ' "data": [1, 1.5, 18446744073709551615, -9223372036854775808, 36893488147419103232]}]}'
    )
    assert label.items is not None
    data = label.items[0].data
    assert data == [1, 1.5, 2**64 - 1, -(2**63), float(2**65)]
    assert [type(number) for number in data] == [int, float, int, int, float]


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("close", [True, False])
def test_nesting_past_the_limit_is_an_error_and_never_a_recursion_error(
    parser: Parser, opening: bytes, close: bool
) -> None:
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"a":': b"}]"}[opening]
    answer = b'{"x":' + opening * 50_000 + (b"1" + closing * 50_000 + b"}" if close else b"")
    with pytest.raises(ContractError, match="nested deeper"):
        parser(answer)


def test_the_nesting_limit_is_exact_and_ignores_brackets_in_strings() -> None:
    def answer(depth: int) -> bytes:
        inner = b"[" * (depth - 1) + b'"[[{\\"[' + b"[" * 1000 + b'"' + b"]" * (depth - 1)
        return b'{"resource": {}, "x": ' + inner + b"}"

    assert parse_resource_answer(answer(MAX_DEPTH))
    with pytest.raises(ContractError, match="nested deeper"):
        parse_resource_answer(answer(MAX_DEPTH + 1))


@pytest.mark.parametrize("parser", PARSERS)
def test_messages_are_one_short_line(parser: Parser) -> None:
    junk = '"' + "\u2028\x7f\\u0000\\n\\ud800" * 1000 + '"'
    for answer in (
        junk,
        f'{{"difc_mode": {junk}, "resource": {junk}, "labeled_paths": {junk}}}',
        f'{{"error": {junk}, "resource": 5, "items": [{{"labels": {junk}}}]}}',
        '{"x": "\x01"}',
    ):
        with pytest.raises(ContractError) as caught:
            parser(answer.encode())
        assert is_one_short_line(caught.value)
