"""What a result becomes on its way to the agent, and what it loses there.

The gateway makes a bare JSON array of a response that was labelled item by item: the envelope is lost. The strict rules take
the items out and leave the rest where it was.

Source: github/gh-aw-mcpg, internal/mcp/tool_result.go and internal/difc/resource.go; the stricter rule is ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Union

import msgspec

from guardpool.contract.expansion import is_media, number, segments
from guardpool.decide.items import Found, is_error

Content = list[dict[str, Any]]
McpResult = dict[str, Any]
Key = Union[str, int]


def error_result(text: str) -> McpResult:
    """A result that says it is an error."""
    return {"content": [_text(text)], "isError": True}


# --- the gateway


def gateway_whole(result: Any) -> McpResult:
    """The raw result as the gateway passes it on: its parts and whether it is an error, nothing else."""
    if not is_wrapped(result):
        return {"content": [_text(_json(result))]}
    kept: McpResult = {"content": list(result["content"])}
    if is_error(result):
        kept["isError"] = True
    return kept


def gateway_items(shown: Sequence[Any], notice: str | None) -> McpResult:
    """The allowed items as the gateway passes them on: one JSON array in one text, and a notice if any was denied."""
    return {"content": [_text(_json(list(shown))), *([_text(notice)] if notice else ())]}


def gateway_loses_of_whole(result: Any) -> tuple[str, ...]:
    """What `gateway_whole` leaves out."""
    if not is_wrapped(result) or len(result) == 1:
        return ()
    return tuple(name for name in result if name not in ("content", "isError"))


def gateway_loses_of_items(found: Found) -> tuple[str, ...]:
    """What `gateway_items` leaves out or turns into text, apart from denied items."""
    result = found.result
    lost: list[str] = []
    if type(result) is dict and is_wrapped(result):
        if len(result) > 1:
            lost += (name for name, value in result.items() if name != "content" and _says_something(name, value))
        if found.text_parts < len(result["content"]):
            lost += (f"content[{at}]" for at, part in enumerate(result["content"]) if _is_no_text(part))
    if not found.is_whole and (found.items_path or found.label.items is not None):
        lost += _beside(found)
    return tuple(lost)


def _says_something(name: str, value: Any) -> bool:
    return name != "isError" or value is True


def _is_no_text(part: Any) -> bool:
    return not isinstance(part, dict) or is_media(part) or not isinstance(part.get("text"), str)


def _beside(found: Found) -> list[str]:
    """JSON pointers to the members that stand beside the items, on every level above them."""
    root = found.inside.root
    if found.label.items is not None:  # which says nothing of where its items stood: an array is taken for them
        return (
            [f"/{_escaped(name)}" for name, value in root.items() if type(value) is not list] if _is_json(found) else []
        )
    lost = []
    above = ""
    for key in keys_to(root, found.items_path):
        if isinstance(root, dict):
            lost += [f"{above}/{_escaped(name)}" for name in root if name != key]
        else:
            lost += [f"{above}/{at}" for at in range(len(root)) if at != key]
        above += f"/{_escaped(str(key))}"
        root = root[key]
    return lost


def _is_json(found: Found) -> bool:
    """Whether what is inside is an object, and not an MCP result without JSON in it."""
    inside = found.inside
    return isinstance(inside.root, dict) and (inside.is_json or not is_wrapped(found.result))


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


# --- the strict rules


def strict_whole(result: Any) -> McpResult:
    """The result as it was, wrapped if it was not an MCP result."""
    return dict(result) if is_wrapped(result) else {"content": [_text(_json(result))]}


def strict_items(found: Found, allowed: Sequence[int], notice: str | None) -> McpResult:
    """The result with the allowed items where they stood, all else as it was, and a notice if any item was denied.

    `structuredContent` repeats what is in the text. It stays if nothing was denied; if it equals the JSON in the text, the
    denied items are taken out of it; otherwise it is left out, because the items in it cannot be told.

    Args:
        found: the items of the result.
        allowed: the indexes of those that are shown, in order.
        notice: the text that tells of denied items, None if there are none.
    """
    result = found.result
    wrapped = is_wrapped(result)
    added: Content = [_text(notice)] if notice else []
    if len(allowed) == len(found.data) and found.label.items is None:
        whole = strict_whole(result)
        return {**whole, "content": [*whole["content"], *added]} if added else whole
    if found.is_whole:
        return {"content": added}
    root = _without_denied(found, allowed)
    text = _text(_json(root))
    if not wrapped:
        return {"content": [text, *added]}
    kept = {name: value for name, value in result.items() if name != "structuredContent"}
    if is_structured_the_same(found):
        kept["structuredContent"] = root
    kept["content"] = [*_with_text(result["content"], text), *added]
    return kept


def strict_loses(found: Found, denied: int) -> tuple[str, ...]:
    """What `strict_items` leaves out, apart from denied items and what repeats them."""
    if not denied or found.is_whole or not is_wrapped(found.result):
        return ()
    has_structured = "structuredContent" in found.result
    return ("structuredContent",) if has_structured and not is_structured_the_same(found) else ()


def is_structured_the_same(found: Found) -> bool:
    """Whether `structuredContent` holds the same value as the text, so that items can be taken out of both."""
    structured = found.result.get("structuredContent")
    return structured is not None and found.label.items is None and bool(structured == found.inside.root)


def _without_denied(found: Found, allowed: Sequence[int]) -> Any:
    items = [found.data[index] for index in allowed]
    if found.label.items is not None:
        return items
    root = found.inside.root
    return _replaced(root, keys_to(root, found.items_path), items)


def _replaced(value: Any, keys: Sequence[Key], items: list[Any]) -> Any:
    """A copy of `value` with `items` at the place where `keys` lead; what is beside the way is shared."""
    if not keys:
        return items
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[keys[0]] = _replaced(value[keys[0]], keys[1:], items)
    return copy


def _with_text(content: Sequence[Any], text: dict[str, Any]) -> Content:
    """The parts with the one text in the place of the first of theirs, and no other text: it is the joined text."""
    at = next((at for at, part in enumerate(content) if not _is_no_text(part)), None)
    if at is None:
        return [text, *content]
    first = {**content[at], "text": text["text"]}
    return [*content[:at], first, *(part for part in content[at + 1 :] if _is_no_text(part))]


# --- both


def is_wrapped(result: Any) -> bool:
    """Whether a result is an MCP result: an object with a list `content`."""
    return isinstance(result, dict) and isinstance(result.get("content"), list)


def keys_to(root: Any, pointer: str) -> list[Key]:
    """The keys and indexes on the way to where `pointer` leads, which is there."""
    keys: list[Key] = []
    for segment in segments(pointer):
        key: Key | None = segment if isinstance(root, dict) else number(segment, len(root))
        assert key is not None
        keys.append(key)
        root = root[key]
    return keys


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeError, TypeError, RecursionError, OverflowError):  # lone surrogates, huge numbers
        return json.dumps(value, ensure_ascii=True)
