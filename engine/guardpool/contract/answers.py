"""The three parsers: what a guard answered, judged by the contract, whatever bytes it gave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guardpool.contract import structure
from guardpool.contract.document import Document, JsonError, TooMany
from guardpool.contract.oddities import STAR, Oddities
from guardpool.contract.structure import NO_LABELS, LabelEntry, MismatchError, PathList
from guardpool.contract.text import fail, lower, shown, trim
from guardpool.errors import AnswerTooLarge
from guardpool.labels import (
    AgentLabels,
    DifcMode,
    LabeledItem,
    Labels,
    Operation,
    PathLabel,
    ResourceLabel,
    ResponseLabel,
)

_MODES = {mode.value: mode for mode in DifcMode}
_OPERATIONS = {operation.value: operation for operation in Operation}


def parse_agent_answer(answer: bytes) -> AgentLabels:
    """What `label_agent` answered.

    Args:
        answer: the guard's bytes, any.

    Raises:
        ContractError: it is not such an answer, the guard refused its policy (`success`, `ok` or `error`), or the mode is
            missing or unknown.
    """
    document = _document(answer, "label_agent")
    raw = document.value or {}
    _check_refusal(raw)
    entry, mode, policy = LabelEntry(described=False), "", None
    for name, member in structure.fields(document, raw):
        try:
            if name == "agent":
                entry.assign(document, member)
            elif name == "difc_mode":
                mode = structure.text(mode, member)
            elif name == "normalized_policy":
                policy = _merged(policy, member)
        except MismatchError as error:
            fail(f"label_agent: {error.at(name)}", cause=error)
    if not trim(mode):
        fail("label_agent gave no difc_mode; it must be strict, filter or propagate")
    if lower(mode) not in _MODES:
        fail(f"difc_mode must be strict, filter or propagate, not {shown(mode)}")
    return AgentLabels(_trimmed(entry.secrecy), _trimmed(entry.integrity), _MODES[lower(mode)], policy)


def parse_resource_answer(answer: bytes) -> ResourceLabel:
    """What `label_resource` answered. An unknown or missing operation is `write`, and the label carries a warning.

    Args:
        answer: the guard's bytes, any.

    Raises:
        ContractError: it is not a JSON object with a `resource` object.
    """
    raw = _document(answer, "label_resource").value or {}
    resource = raw.get("resource")
    if not isinstance(resource, dict):
        what = f"{shown(resource)}, not an object" if "resource" in raw else "missing"
        fail(f'label_resource must answer {{"resource": {{...}}, "operation": ...}}; resource is {what}')
    odd = Oddities()
    operation = raw.get("operation")
    known = _OPERATIONS.get(operation) if isinstance(operation, str) else None
    if known is None:
        odd.operation_unknown(operation, missing="operation" not in raw)
    labels = _lenient_labels(resource, "resource", odd)
    return ResourceLabel(labels.description, labels.secrecy, labels.integrity, known or Operation.WRITE, odd.warnings())


def parse_response_answer(answer: bytes) -> ResponseLabel | None:
    """What `label_response` answered; None for no fine-grained labels.

    Args:
        answer: the guard's bytes, any; empty is an answer.

    Raises:
        ContractError: it is not a JSON object, `labeled_paths` is malformed, or an item of the older form has no labels.
    """
    if not answer:
        return None
    document = _document(answer, "label_response")
    raw = document.value or {}
    if "labeled_paths" in raw:
        return _path_labels(document, raw)
    items = raw.get("items")
    if isinstance(items, list) and items:
        odd = Oddities()
        labeled = tuple(_items(items, odd))
        return ResponseLabel(items=labeled, warnings=odd.warnings())
    return None


def _document(answer: bytes, function: str) -> Document:
    if not isinstance(answer, (bytes, str, bytearray, memoryview)):
        fail(f"answer must be the bytes that {function} gave, not {type(answer).__name__}")
    if not answer:
        fail(f"{function} gave an empty answer; it must be a JSON object")
    try:
        document = Document(answer)
    except TooMany as error:
        fail(f"the answer of {function} ({len(answer)} bytes) is too large: {error}", AnswerTooLarge, error)
    except JsonError as error:
        fail(f"the answer of {function} ({len(answer)} bytes) is not JSON: {error}", cause=error)
    # null stands for an object without members
    if document.value is not None and not isinstance(document.value, dict):
        fail(f"the answer of {function} must be a JSON object, not {shown(document.value)}")
    return document


def _check_refusal(raw: dict[str, Any]) -> None:
    error = raw.get("error")
    message = error if isinstance(error, str) and trim(error) else None
    for key in ("success", "ok"):
        if raw.get(key) is False:
            fail(f"label_agent refused the policy ({key} is false): {shown(message) if message else 'no reason given'}")
    if message:
        fail(f"label_agent answered with an error: {shown(message)}")


def _merged(policy: dict[str, Any] | None, member: Any) -> dict[str, Any] | None:
    if member is None:
        return None
    if not isinstance(member, dict):
        raise MismatchError("an object", member)
    return {**policy, **member} if policy else member


def _path_labels(document: Document, raw: dict[str, Any]) -> ResponseLabel:
    members = list(structure.fields(document, raw))
    paths = PathList(document, repeated=sum(name == "labeled_paths" for name, _ in members) > 1)
    default: LabelEntry | None = None
    items_path: str | None = None
    for name, member in members:
        try:
            if name == "labeled_paths":
                paths.assign(member)
            elif name == "items_path" and member is not None:
                items_path = structure.text(None, member)
            elif name == "default_labels" and member is None:
                default = None
            elif name == "default_labels":
                default = default or LabelEntry()
                default.assign(document, member)
        except MismatchError as error:
            fail(f"label_response: {error.at(name)}", cause=error)
    labeled, labels = paths.labels(), None if default is None else default.labels()
    odd = Oddities()
    for number, path in enumerate(labeled):
        _look_for_stars(path, f"labeled_paths[{number}]", odd)
    if labels is not None:
        _look_for_stars(labels, "default_labels", odd)
    return ResponseLabel(labeled, labels, items_path, warnings=odd.warnings())


def _look_for_stars(labels: Labels | PathLabel, place: str, odd: Oddities) -> None:
    if STAR in labels.secrecy:
        odd.star(f"{place}.secrecy")
    if STAR in labels.integrity:
        odd.star(f"{place}.integrity")


def _items(items: list[Any], odd: Oddities) -> Iterator[LabeledItem]:
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        labels = item.get("labels")
        if not isinstance(labels, dict):
            what = f"must be an object, not {shown(labels)}" if "labels" in item else "is missing"
            fail(f"items[{number}].labels {what}: an item without labels would be open to all")
        items[number] = None  # There can be millions: let the JSON go as the labels come.
        yield LabeledItem(item.get("data"), _lenient_labels(labels, f"items[{number}]", odd))


def _lenient_labels(value: dict[str, Any], place: str, odd: Oddities) -> Labels:
    if not value:
        return NO_LABELS
    description = value.get("description")
    labels = Labels(
        description if isinstance(description, str) else "",
        _strings(value, "secrecy", place, odd),
        _strings(value, "integrity", place, odd),
    )
    _look_for_stars(labels, place, odd)
    return labels


def _strings(labels: dict[str, Any], name: str, place: str, odd: Oddities) -> frozenset[str]:
    value = labels.get(name)
    if not isinstance(value, list):
        if name in labels:
            odd.not_an_array(value, f"{place}.{name}")
        return frozenset()
    tags = [tag for tag in value if isinstance(tag, str)]
    if len(tags) < len(value):
        odd.tags_dropped(len(value) - len(tags), f"{place}.{name}")
    return frozenset(tags)


def _trimmed(tags: frozenset[str]) -> frozenset[str]:
    return frozenset(trimmed for tag in tags if (trimmed := trim(tag)))
