"""`judge` gives the bytes that the parsers give, by whichever way; hostile bytes give a `ContractError` or a label."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

import strategies
from guardpool.contract import (
    ContractError,
    Operation,
    ResourceLabel,
    check_policy,
    expand,
    judge,
    judging,
    parse_agent_answer,
    parse_resource_answer,
    parse_response_answer,
)
from guardpool.labels import label_from_json, label_to_json

PARSERS: dict[str, Callable[[bytes], Any]] = {
    "label_resource": parse_resource_answer,
    "label_response": parse_response_answer,
}
L = '{"description": "d", "secrecy": ["b", "a", "b"], "integrity": ["i"]}'
BARE = '{"secrecy": ["s"], "integrity": ["i"]}'


def _by_the_parsers(op: str, answer: bytes) -> bytes | str:
    try:
        return label_to_json(PARSERS[op](answer))
    except ContractError as error:
        return str(error)


def _by_judge(op: str, answer: bytes) -> bytes | str:
    try:
        return judge(op, answer)
    except ContractError as error:
        return str(error)


def _both(op: str, answer: bytes) -> bytes | str:
    judged = _by_judge(op, answer)
    assert judged == _by_the_parsers(op, answer)
    if isinstance(judged, str):
        assert strategies.is_one_short_line(judged)
    else:
        assert b"\n" not in judged
        assert b"\r" not in judged
        assert label_to_json(label_from_json(op, judged)) == judged
    return judged


@pytest.fixture
def no_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(answer: bytes) -> None:
        raise AssertionError(f"went the long way: {answer!r}")

    monkeypatch.setattr(judging, "parse_resource_answer", refuse)
    monkeypatch.setattr(judging, "parse_response_answer", refuse)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (
            f'{{"resource": {L}, "operation": "read"}}',
            b'{"description":"d","secrecy":["a","b"],"integrity":["i"],"operation":"read"}',
        ),
        (
            '{"operation": "write", "resource": {"integrity": [], "secrecy": [], "description": "\\n\\u0041\U0001f600"}}',
            '{"description":"\\nA\U0001f600","secrecy":[],"integrity":[],"operation":"write"}'.encode(),
        ),
    ],
)
@pytest.mark.usefixtures("no_parsers")
def test_the_usual_resource_answer_goes_the_short_way(answer: str, label: bytes) -> None:
    assert judge("label_resource", answer.encode()) == label


@pytest.mark.usefixtures("no_parsers")
def test_the_usual_response_answer_goes_the_short_way() -> None:
    answer = f"""{{"labeled_paths": [{{"path": "/0", "labels": {L}}}, {{"path": "/1", "labels": {BARE}}}],
        "default_labels": {BARE}, "items_path": "/items"}}"""
    assert json.loads(judge("label_response", answer.encode())) == {
        "labeled_paths": [
            {"path": "/0", "description": "d", "secrecy": ["a", "b"], "integrity": ["i"]},
            {"path": "/1", "description": "", "secrecy": ["s"], "integrity": ["i"]},
        ],
        "default_labels": {"description": "", "secrecy": ["s"], "integrity": ["i"]},
        "items_path": "/items",
    }
    assert judge("label_response", b"") == b"null"


@pytest.mark.parametrize(
    "answer",
    [
        # a second L without a description over a first with one
        f'{{"labeled_paths": [{{"path": "/0", "labels": {L}, "labels": {BARE}}}]}}',
        f'{{"labeled_paths": [{{"path": "/0", "labels": {L}, "l\\u0061bels": {BARE}}}]}}',
        f'{{"labeled_paths": [{{"path": "", "labels": {L}}}], "labeled_paths": [{{"path": "", "labels": {BARE}}}]}}',
        f'{{"labeled_paths": [], "default_labels": {L}, "default_labels": {BARE}}}',
        f'{{"labeled_paths": [], "default_labels": {L}, "def\\u0061ult_labels": {BARE}}}',
        f'{{"labeled_paths": [], "default_labels": {BARE}, "default_labels": {L}}}',
        f'{{"labeled_paths": [{{"path": "labels", "labels": {L}, "labels": {BARE}}}]}}',
        f'{{"labeled_paths": [], "items_path": "/a", "items_path": null, "default_labels": {L}}}',
        # decoded over, and gone
        f'{{"labeled_paths": [], "default_labels": {L}, "default_labels": null, "default_labels": {BARE}}}',
    ],
)
def test_members_given_twice_are_judged_as_by_the_parsers(answer: str) -> None:
    assert isinstance(_both("label_response", answer.encode()), bytes)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    "member",
    [
        *('"extra": 1e999', '"extra": "\\ud800"', '"extra": NaN', '"extra": "\xff"', '"extra": [[1]]', '"extra": null'),
        *('"SECRECY": ["x"]', '"\u017fecrecy": ["x"]', '"Description": "x"', '"Path": "/7"', '"Label\u017f": {}'),
        *('"secrecy": [null]', '"secrecy": null', '"description": null', '"path": null', '"labels": null'),
        *('"labeled_paths": null', '"LABELED_PATHS": []', '"default_labels": null', '"items_path": null'),
        *('"Default_Labels": {"secrecy": ["x"]}', '"Items_Path": "/x"', '"resource": null', '"operation": null'),
        *('"Operation": "write"', '"Resource": {}', '"secr\\u0065cy": ["x"]', '"oper\\u0061tion": "read-write"'),
    ],
)
def test_one_odd_member_anywhere_is_judged_as_by_the_parsers(member: str, place: int) -> None:
    entry = '"description": "d", "secrecy": ["b", "a"], "integrity": []'
    at = [f", {member}" if place == n else "" for n in range(4)]
    path = f'{{"path": "/0", "labels": {{{entry}{at[0]}}}{at[1]}}}'
    response = f'{{"labeled_paths": [{path}], "default_labels": {{{entry}{at[2]}}}, "items_path": ""{at[3]}}}'
    resource = f'{{"resource": {{{entry}{at[0]}{at[2]}}}, "operation": "read"{at[1]}{at[3]}}}'
    _both("label_response", response.encode("latin-1" if "\xff" in member else "utf-8"))
    _both("label_resource", resource.encode("latin-1" if "\xff" in member else "utf-8"))


@pytest.mark.parametrize("op", ["label_agent", "", "x" * 1000], ids=strategies.short)
def test_judge_knows_two_operations(op: str) -> None:
    with pytest.raises(ContractError, match="label_resource or label_response"):
        judge(op, b"{}")


@settings(max_examples=strategies.examples(100))
@given(strategies.as_bytes(strategies.resource_answers))
@example(b'{"resource":{"description":"","secrecy":[],"integrity":[]},"operation":"read"}x')
@example(b'{"resource":{"description":"","secrecy":[],"integrity":[]},"resource":{}}')
def test_any_resource_answer_is_judged_as_by_the_parser(answer: bytes) -> None:
    _both("label_resource", answer)


@settings(max_examples=strategies.examples(100))
@given(strategies.as_bytes(strategies.response_answers))
def test_any_response_answer_is_judged_as_by_the_parser(answer: bytes) -> None:
    _both("label_response", answer)


@given(strategies.resource_labels)
def test_a_guards_own_json_of_a_label_is_judged_to_that_label(label: ResourceLabel) -> None:
    resource = {"description": label.description, "secrecy": list(label.secrecy), "integrity": list(label.integrity)}
    for ascii_only in (True, False):
        answer = json.dumps({"resource": resource, "operation": label.operation.value}, ensure_ascii=ascii_only)
        # A tag of the label may be `*`, which is a warning.
        warnings = parse_resource_answer(answer.encode()).warnings
        expected = msgspec.structs.replace(label, warnings=warnings)
        assert judge("label_resource", answer.encode()) == label_to_json(expected)
    assert label.operation in Operation


@given(st.one_of(st.binary(max_size=80), strategies.json_values.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_give_a_label_or_a_contract_error(answer: bytes) -> None:
    for op in PARSERS:
        _both(op, answer)
    try:
        parse_agent_answer(answer)
    except ContractError as error:
        assert strategies.is_one_short_line(error)  # noqa: PT017  # some examples raise nothing


@given(strategies.as_bytes(strategies.agent_answers))
def test_any_agent_answer_gives_labels_or_a_contract_error(answer: bytes) -> None:
    try:
        agent = parse_agent_answer(answer)
    except ContractError as error:
        assert strategies.is_one_short_line(error)  # noqa: PT017  # many examples raise nothing
    else:
        assert all(tag == tag.strip(" \t\n\r") != "" for tag in agent.secrecy | agent.integrity)
        assert hash(agent) == hash(parse_agent_answer(answer))


_SIZE = 60_000
BOMBS = {
    "arrays": b'{"a":' + b"[" * _SIZE,
    "objects": b'{"a":' * (_SIZE // 5),
    "empty arrays": b'{"a":[' + b"[]," * (_SIZE // 3) + b"[]]}",
    "empty objects": b'{"a":[' + b"{}," * (_SIZE // 3) + b"{}]}",
    "keys": b"{" + b",".join(b'"%d":0' % n for n in range(_SIZE // 10)) + b"}",
    "one key": b"{" + b'"a":0,' * (_SIZE // 6) + b'"a":0}',
    "digits": b'{"a":' + b"9" * _SIZE + b"}",
    "exponent": b'{"a":1e-' + b"9" * _SIZE + b"}",
    "bad bytes": b'{"a":"' + b"\xf0\x9f\x98" * (_SIZE // 3) + b'"}',
    "surrogates": b'{"a":"' + b"\\ud800" * (_SIZE // 6) + b'"}',
    "backslashes": b'"' + b"\\" * _SIZE,
    "empty paths": b'{"labeled_paths":[' + b"{}," * (_SIZE // 3) + b"{}]}",
    "paths twice": b'{"labeled_paths":[],"labeled_paths":[' + b"{}," * (_SIZE // 3) + b"{}]}",
    "null paths": b'{"labeled_paths":[' + b"null," * (_SIZE // 5) + b"null]}",
    "fields": b'{"labeled_paths":[{' + b'"labels":{},' * (_SIZE // 12) + b'"path":""}]}',
    "one tag": b'{"labeled_paths":[{"labels":{"secrecy":[' + b'"ab",' * (_SIZE // 5) + b'"ab"]}}]}',
    "items": b'{"items":[' + b'{"labels":{}},' * (_SIZE // 14) + b'{"labels":{}}]}',
}


_TEXTS = {
    "numbers": "[" + "0," * (_SIZE // 2) + "0]",
    "keys": "{" + ",".join(f'"{n}":0' for n in range(_SIZE // 10)) + "}",
    "one key": '{"a":0' + ',"a":0' * (_SIZE // 6) + "}",
    "digits": "9" * _SIZE,
    "backslashes": '"' + "\\\\" * (_SIZE // 2),
    "escapes": '"' + "\\ud800" * (_SIZE // 6) + '"',
    "quotes": '["' * (_SIZE // 2),
    "brackets": "[" * _SIZE,
    "pairs of brackets": "[" + "[]," * (_SIZE // 3) + "[]]",
}


@pytest.mark.parametrize("name", _TEXTS)
def test_memory_stays_a_small_multiple_of_a_policy_or_a_result_in_text(name: str) -> None:
    text = _TEXTS[name]
    label = parse_response_answer(b'{"labeled_paths":[{"path":"/0"}]}')
    assert label is not None
    tracemalloc.start()
    try:
        for judged in (lambda: check_policy(text), lambda: expand(label, {"content": [{"text": text}]})):
            tracemalloc.reset_peak()
            with contextlib.suppress(ContractError):
                judged()
            assert tracemalloc.get_traced_memory()[1] < 60 * len(text)
    finally:
        tracemalloc.stop()


def test_nesting_is_counted_across_the_pieces_it_is_checked_in() -> None:
    flat = "[" + "[]," * 40_000
    # With the object around it and the array that holds it: 500 levels, and 501.
    assert _depth_is_fine(flat + "[" * 498 + "]" * 499)
    assert not _depth_is_fine(flat + "[" * 499 + "]" * 500)


def _depth_is_fine(text: str) -> bool:
    try:
        parse_resource_answer(f'{{"resource": {{}}, "x": {text}}}'.encode())
    except ContractError as error:
        assert "nested deeper" in str(error)  # noqa: PT017
        return False
    return True


@pytest.mark.parametrize("name", BOMBS)
def test_memory_stays_a_small_multiple_of_the_answer(name: str) -> None:
    answer = BOMBS[name]
    tracemalloc.start()
    try:
        for parse in (parse_agent_answer, parse_resource_answer, parse_response_answer):
            tracemalloc.reset_peak()
            try:
                parse(answer)
            except ContractError:
                pass
            # An empty object takes Python 80 bytes for 3 of JSON; nothing may take much more than that.
            assert tracemalloc.get_traced_memory()[1] < 40 * len(answer)
    finally:
        tracemalloc.stop()
