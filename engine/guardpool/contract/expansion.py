"""Expanding a response's label over the tool result it was given for: one labelled item after the other."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from guardpool.contract.document import JsonError, TooDeep, read_text
from guardpool.contract.text import fail, shown
from guardpool.labels import LabeledItem, Labels, ResponseLabel

UNLABELED = Labels("unlabeled", frozenset(), frozenset())
_SEGMENT = re.compile("[^/]+")
_INDEX = re.compile(r"[+-]?0*([0-9]*)", re.ASCII)
_NOT_TEXT = frozenset(("image", "audio", "resource"))


def expand(label: ResponseLabel, tool_result: Any) -> list[LabeledItem]:
    """Every item of `tool_result` with its labels.

    Args:
        label: what `label_response` answered for this result.
        tool_result: the tool's result, any JSON value; an MCP result (`{"content": [...]}`) is unwrapped.

    Returns:
        The items in their order. They share their data with `tool_result`. A result that is not an array, with no
        `items_path`, is one item, as a whole and wrapped as it was.

    Raises:
        ContractError: `items_path` does not lead to an array, or the JSON text in an MCP result is nested too deeply.
    """
    if not isinstance(label, ResponseLabel):
        fail(f"expand needs a ResponseLabel, not {shown(label)}; a response without fine-grained labels has no items")
    if label.items is not None:
        return list(label.items)
    default = label.default_labels or UNLABELED
    items_path = label.items_path or ""
    root = unwrap(tool_result).root
    if not items_path and not isinstance(root, (list, tuple)):
        return [LabeledItem(tool_result, default)]
    items = items_at(root, items_path)
    labels: dict[int, Labels] = {}
    prefix = rooted(items_path) if items_path else ""
    for path in label.labeled_paths:
        index = index_in(path.path, prefix, len(items))
        if index is not None:
            labels[index] = path.labels
    return [LabeledItem(item, labels.get(index, default)) for index, item in enumerate(items)]


class Unwrapped(msgspec.Struct, frozen=True):
    """What is inside a tool's result.

    Attributes:
        root: the JSON in an MCP result's text, or the result as it is if it holds no JSON.
        text: the joined text of the parts that can be text; empty if it is not an MCP result.
        parts: how many such parts there are.
        is_json: whether `root` was read from `text`.
    """

    root: Any
    text: str
    parts: int
    is_json: bool


def unwrap(result: Any) -> Unwrapped:
    """What is inside `result`.

    Raises:
        ContractError: the JSON text in an MCP result is nested too deeply.
    """
    return unwrap_text(result, *text_of(result))


def unwrap_text(result: Any, text: str, parts: int) -> Unwrapped:
    """`unwrap` for a result of which `text_of` is known."""
    if text:
        try:
            return Unwrapped(read_text(text), text, parts, True)
        except TooDeep as error:
            # By the grammar it may be an array of items. To take it for one opaque whole would drop their labels.
            fail(f"the text of the tool result cannot be expanded: {error}", cause=error)
        except JsonError:
            pass
    return Unwrapped(result, text, parts, False)


def text_of(result: Any) -> tuple[str, int]:
    """The joined text of an MCP result's parts that can be text, and how many they are; `("", 0)` for any other value."""
    content = result.get("content") if isinstance(result, dict) else None
    if not isinstance(content, (list, tuple)):
        return "", 0
    if len(content) == 1 and type(content[0]) is dict:  # as nearly all are
        text = content[0].get("text")
        if type(text) is str and content[0].get("type") == "text":
            return text, 1
    texts = []
    for part in content:
        if isinstance(part, dict):
            text = part.get("text")
            if isinstance(text, str) and (part.get("type") == "text" or not is_media(part)):
                texts.append(text)
    return texts[0] if len(texts) == 1 else "".join(texts), len(texts)


def is_media(part: dict[str, Any]) -> bool:
    """Whether a part of an MCP result is a picture, sound or a resource, whose `text` is not looked at."""
    kind = part.get("type")
    return isinstance(kind, str) and kind in _NOT_TEXT


def segments(pointer: str) -> list[str]:
    """The steps of a pointer. Empty segments are passed over, and a pointer may do without its first slash."""
    return [unescaped(match) for match in _SEGMENT.findall(pointer)]


def items_at(root: Any, pointer: str) -> Any:
    """The array `pointer` leads to.

    Raises:
        ContractError: it leads to no array.
    """
    current = root
    for segment in segments(pointer):
        if isinstance(current, dict):
            if segment not in current:
                fail(f"items_path {shown(pointer)} does not fit the tool result: it has no key {shown(segment)}")
            current = current[segment]
        elif isinstance(current, (list, tuple)):
            index = number(segment, len(current))
            if index is None:
                fail(
                    f"items_path {shown(pointer)} does not fit the tool result: "
                    f"{shown(segment)} is not an index of an array of {len(current)}"
                )
            current = current[index]
        else:
            fail(
                f"items_path {shown(pointer)} does not fit the tool result: "
                f"{shown(segment)} cannot be looked up in {shown(current)}"
            )
    if not isinstance(current, (list, tuple)):
        fail(f"items_path {shown(pointer)} must lead to an array; it leads to {shown(current)}")
    return current


def index_in(path: str, prefix: str, count: int) -> int | None:
    """The index a path names: its first segment after `prefix`; None if it does not fit or is out of range."""
    path = rooted(path)
    if not path.startswith(prefix) or not path.startswith("/", len(prefix)):
        return None
    start = len(prefix) + 1
    end = path.find("/", start)
    return number(unescaped(path[start:] if end < 0 else path[start:end]), count)


def rooted(pointer: str) -> str:
    """The pointer with its first slash."""
    return pointer if pointer.startswith("/") else "/" + pointer


def unescaped(segment: str) -> str:
    """A pointer's segment without its escapes."""
    return segment.replace("~1", "/").replace("~0", "~") if "~" in segment else segment


def number(segment: str, count: int) -> int | None:
    """The index `segment` spells in decimal, sign and leading zeros allowed; None if it is not an index below `count`."""
    if len(segment) == 1 and segment in "0123456789":
        return int(segment) if int(segment) < count else None
    match = _INDEX.fullmatch(segment)
    if match is None or segment in ("", "+", "-"):
        return None
    digits = match[1]
    if len(digits) > 18:
        return None
    index = int(digits or "0")
    return None if index >= count or (index and segment[0] == "-") else index
