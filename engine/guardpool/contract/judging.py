"""`judge`: from a guard's answer to the label's canonical JSON, in one step.

In a worker it gets the answers that the quick judge leaves (`guardpool_worker.quick_judge`), which gives the same bytes for the
usual ones.

An answer of the usual shape is decoded by a typed decoder in C; whatever that refuses goes the long way, through the
tolerant parsers, which alone decide what is wrong with it. The two give the same bytes because the types below take
only what leaves no room for a difference: every key known and spelt exactly, every value of its one type, no null, no
invalid UTF-8, no number anywhere. An answer that may earn a warning (an unknown operation, a tag `*`) goes the long way,
too. What is left are names given twice: the decoder takes the last, the contract decodes the second over the first. With
every field required the second covers the first wholly, so that is the same; the one optional field, `description`, is the
exception that `_covered` sees to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from guardpool.contract.answers import parse_resource_answer, parse_response_answer
from guardpool.errors import ContractError
from guardpool.labels import LabelsForm, PathForm, ResourceForm, ResponseForm, label_to_json


class _Resource(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    description: str
    secrecy: list[str]
    integrity: list[str]


class _ResourceAnswer(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    resource: _Resource
    operation: str


class _Entry(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    secrecy: tuple[str, ...]
    integrity: tuple[str, ...]
    description: str | UnsetType = UNSET


class _Path(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    path: str
    labels: _Entry


class _ResponseAnswer(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    labeled_paths: list[_Path]
    default_labels: _Entry | None = None
    items_path: str | UnsetType = UNSET


_decode_resource = msgspec.json.Decoder(_ResourceAnswer).decode
_decode_response = msgspec.json.Decoder(_ResponseAnswer).decode
_encode = msgspec.json.Encoder().encode
_OPERATIONS = frozenset(("read", "write", "read-write"))
# A tag `*` as it stands in a label's JSON. A description `*` looks alike; that label only goes the long way.
_STAR = b'"*"'


def judge(op: str, answer: bytes) -> bytes:
    """A guard's answer as the canonical JSON of its label.

    Args:
        op: `"label_resource"` or `"label_response"`.
        answer: the guard's bytes, any.

    Returns:
        What `label_to_json` gives for the parsed answer: one line, tags sorted; `null` for no fine-grained labels.

    Raises:
        ContractError: the answer is not what the contract asks for.
    """
    if op == "label_resource":
        try:
            return _fast_resource(answer) or label_to_json(parse_resource_answer(answer))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return label_to_json(parse_resource_answer(answer))
    if op == "label_response":
        if not answer:
            return b"null"
        try:
            return _fast_response(answer) or label_to_json(parse_response_answer(answer))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return label_to_json(parse_response_answer(answer))
    raise ContractError(f"an operation is label_resource or label_response, not {str(op)[:60]!r}")


def _fast_resource(answer: bytes) -> bytes | None:
    decoded = _decode_resource(answer)
    resource = decoded.resource
    secrecy, integrity, operation = resource.secrecy, resource.integrity, decoded.operation
    if operation not in _OPERATIONS:
        return None
    made = _encode(
        ResourceForm(
            resource.description,
            secrecy if len(secrecy) < 2 else sorted(set(secrecy)),
            integrity if len(integrity) < 2 else sorted(set(integrity)),
            operation,
        )
    )
    return None if _STAR in made else made


def _fast_response(answer: bytes) -> bytes | None:
    decoded = _decode_response(answer)
    forms = []
    bare = False
    # The items of a page mostly have the same few sets of tags: each is sorted once.
    ordered: dict[tuple[str, ...], list[str]] = {}
    known = ordered.get
    secrecy: Sequence[str]
    integrity: Sequence[str]
    for entry in decoded.labeled_paths:
        labels = entry.labels
        description, secrecy, integrity = labels.description, labels.secrecy, labels.integrity
        if description is UNSET:
            bare, description = True, ""
        if len(secrecy) > 1:
            secrecy = known(secrecy) or ordered.setdefault(secrecy, sorted(set(secrecy)))
        if len(integrity) > 1:
            integrity = known(integrity) or ordered.setdefault(integrity, sorted(set(integrity)))
        forms.append(PathForm(entry.path, description, secrecy, integrity))
    default, items_path = decoded.default_labels, decoded.items_path
    default_form = None
    if default is not None:
        description = default.description
        if description is UNSET:
            bare, description = True, ""
        default_form = LabelsForm(description, sorted(set(default.secrecy)), sorted(set(default.integrity)))
    if bare and not _covered(answer, decoded):
        return None
    made = _encode(ResponseForm(forms, default_form, None if items_path is UNSET else items_path))
    return None if _STAR in made else made


def _covered(answer: bytes, decoded: Any) -> bool:
    """Whether no labels without a description can have been decoded over others that had one.

    Counting the names tells, as long as no name can be spelt with an escape. A tag or a text that looks like one of them
    only sends the answer the long way.
    """
    return (
        b"\\" not in answer
        and answer.count(b'"labeled_paths"') == 1
        and answer.count(b'"labels"') == len(decoded.labeled_paths)
        and answer.count(b'"default_labels"') == (decoded.default_labels is not None)
    )
