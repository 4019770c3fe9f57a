"""What a guard's answer may hold although it should not: the label is the reference's, and a warning says what was odd."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardpool.contract import (
    LabelWarning,
    Operation,
    ResourceLabel,
    ResponseLabel,
    judge,
    parse_resource_answer,
    parse_response_answer,
)
from guardpool.labels import check_label, label_from_json, label_to_json
from paths import VECTORS

RESOURCE = {"description": "d", "secrecy": ["private:o/r"], "integrity": ["none:o/r"]}


def _resource(operation: Any = "read", **labels: Any) -> ResourceLabel:
    answer = json.dumps({"resource": {**RESOURCE, **labels}, "operation": operation}).encode()
    label = parse_resource_answer(answer)
    assert judge("label_resource", answer) == label_to_json(label)
    return label


def _response(answer: dict[str, Any]) -> ResponseLabel:
    raw = json.dumps(answer).encode()
    label = parse_response_answer(raw)
    assert label is not None
    assert judge("label_response", raw) == label_to_json(label)
    return label


@pytest.mark.parametrize(
    ("given", "detail"),
    [("READ", "'READ'"), ("", "''"), (None, "null"), (5, "5"), (["read"], "an array of 1"), ("x" * 999, "'xxx")],
)
def test_an_unknown_operation_is_a_warning_with_what_was_given(given: Any, detail: str) -> None:
    label = _resource(given)
    assert label.operation is Operation.WRITE
    [warning] = label.warnings
    assert warning.code == "operation_unknown"
    assert warning.detail.startswith(detail)
    assert len(warning.detail) <= 80


def test_a_missing_operation_is_a_warning() -> None:
    answer = json.dumps({"resource": RESOURCE}).encode()
    assert parse_resource_answer(answer).warnings == (("operation_unknown", "missing"),)
    assert json.loads(judge("label_resource", answer))["warnings"] == [["operation_unknown", "missing"]]


def test_tags_that_are_not_strings_are_counted_with_their_place() -> None:
    label = _resource(secrecy=["a", 5, None, ["b"]], integrity=[{}])
    assert label.secrecy == {"a"}
    assert label.warnings == (("tags_dropped", "3 in resource.secrecy"), ("tags_dropped", "1 in resource.integrity"))


@pytest.mark.parametrize("given", ["private:o/r", {}, 5, None])
def test_tags_that_are_not_an_array_are_a_warning(given: Any) -> None:
    label = _resource(secrecy=given)
    assert label.secrecy == frozenset()
    [warning] = label.warnings
    assert warning.code == "not_an_array"
    assert warning.detail.startswith("resource.secrecy is ")


def test_a_star_is_kept_and_is_a_warning() -> None:
    label = _resource(integrity=["*", "none:o/r"])
    assert label.integrity == {"*", "none:o/r"}
    assert label.warnings == (("star_from_guard", "resource.integrity"),)
    escaped = b'{"resource":{"description":"","secrecy":["\\u002a"],"integrity":[]},"operation":"read"}'
    assert json.loads(judge("label_resource", escaped))["warnings"] == [["star_from_guard", "resource.secrecy"]]


@pytest.mark.parametrize("text", ["*", "a*", "**", "private:o/pre*", " * "])
def test_other_texts_with_a_star_are_no_warning(text: str) -> None:
    assert _resource(description=text, secrecy=[text] if text != "*" else []).warnings == ()


def test_a_star_in_labels_by_path_is_a_warning_with_its_place() -> None:
    star = {"secrecy": [], "integrity": ["*"]}
    label = _response({"labeled_paths": [{"path": "/0", "labels": RESOURCE}, {"path": "/1", "labels": star}]})
    assert label.warnings == (("star_from_guard", "labeled_paths[1].integrity"),)
    assert _response({"labeled_paths": [], "default_labels": star}).warnings == (
        ("star_from_guard", "default_labels.integrity"),
    )


def test_the_items_of_the_older_form_are_looked_at_as_well() -> None:
    odd = {"secrecy": "private:o/r", "integrity": ["*", 7]}
    label = _response({"items": [{"data": 1, "labels": RESOURCE}, {"data": 2, "labels": odd}]})
    assert label.warnings == (
        ("not_an_array", "items[1].secrecy is 'private:o/r'"),
        ("tags_dropped", "1 in items[1].integrity"),
        ("star_from_guard", "items[1].integrity"),
    )


def test_a_guard_cannot_make_many_warnings() -> None:
    odd = {"secrecy": [1], "integrity": []}
    label = _response({"items": [{"data": None, "labels": odd}] * 1000})
    assert len(label.warnings) == 9
    assert label.warnings[-1] == ("tags_dropped", "and 992 more")


def test_a_label_without_warnings_has_none_in_its_json_and_in_its_repr() -> None:
    label = _resource()
    assert label.warnings == ()
    assert b"warnings" not in label_to_json(label)
    assert "warnings" not in repr(label)
    assert "operation_unknown" in repr(_resource("x"))


@pytest.mark.parametrize(
    "warnings",
    ["null", "{}", "[[]]", '[["a"]]', '[["a","b","c"]]', "[[1,2]]", f'[["a","{"x" * 81}"]]', f'[["{"x" * 41}",""]]'],
)
@pytest.mark.parametrize("op", ["label_resource", "label_response"])
def test_warnings_of_another_form_are_no_label(op: str, warnings: str) -> None:
    label = _resource("x") if op == "label_resource" else ResponseLabel(warnings=(LabelWarning("a", "b"),))
    raw = label_to_json(label)
    check_label(op)(raw)
    assert label_from_json(op, raw) == label
    broken = raw[: raw.index(b'"warnings":')] + b'"warnings":' + warnings.encode() + b"}"
    with pytest.raises(ValueError, match=r"."):
        label_from_json(op, broken)
    with pytest.raises(ValueError, match=r"."):
        check_label(op)(broken)


def test_vectors_of_resources_have_the_warnings_of_what_is_odd_in_them() -> None:
    found = []
    for line in (VECTORS / "resource_answer.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        if case["accept"]:
            given = json.loads(case["output"]).get("operation", "missing")
            warnings = parse_resource_answer(case["output"].encode()).warnings
            codes = [warning.code for warning in warnings]
            assert ("operation_unknown" in codes) == (given not in ("read", "write", "read-write"))
            found += codes
    assert set(found) == {"operation_unknown", "not_an_array"}
