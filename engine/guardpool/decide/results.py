"""What a result becomes on its way to the agent, and what it loses there.

The gateway makes a bare JSON array of a response that was labelled item by item: the envelope is lost. The strict rules take
denied items out and leave the envelope: counts, cursors, whether it is an error, `_meta`. The items' labels say nothing of
other content in it, so the resource's label decides on that; and what may repeat a denied item is left out.

Source: github/gh-aw-mcpg, internal/mcp/tool_result.go and internal/difc/resource.go; the stricter rule is ours.
"""

from __future__ import annotations

import json
import re
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
    """The raw result as the gateway passes it on: its parts and whether it is an error, nothing else.

    A part that is not an object makes an error of the whole.
    """
    if not is_wrapped(result):
        return {"content": [_text(_json(result))]}
    odd = next((at for at, part in enumerate(result["content"]) if not isinstance(part, dict)), None)
    if odd is not None:
        return error_result(f"The result is not an MCP result: content[{odd}] is not an object.")
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
    if _is_bare(found):
        return ()
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


def strict_items(found: Found, allowed: Sequence[int], readable: bool, notice: str | None) -> McpResult:
    """The result with the allowed items where they stood, its envelope, and a notice if any item was denied.

    Args:
        found: the items of the result.
        allowed: the indexes of those that are shown, in order.
        readable: whether the agent may read the resource, whose label is the only one that the envelope has.
        notice: the text that tells of denied items, None if there are none.
    """
    result = found.result
    added: Content = [_text(notice)] if notice else []
    if found.is_whole or _is_unchanged(found, allowed, readable):
        return strict_whole(result) if allowed or not added else {"content": added}
    root, _lost = _root_around([found.data[index] for index in allowed], found, readable)
    text = _text(_json(root))
    if not is_wrapped(result):
        return {"content": [text, *added]}
    kept = _members(result, readable, [])
    if is_structured_the_same(found):
        kept["structuredContent"] = root
    kept["content"] = [*_with_text(result["content"], text, readable), *added]
    return kept


def _members(result: McpResult, readable: bool, lost: list[str]) -> McpResult:
    """The members of an MCP result that belong to its envelope, apart from its content."""
    kept = {}
    for name, value in result.items():
        if name in ("isError", "_meta", "content"):
            kept[name] = value
        elif name != "structuredContent":
            stays = _of_the_envelope(name, value, name, readable, lost)
            if stays is not _LEFT_OUT:
                kept[name] = stays
    return kept


def strict_loses(found: Found, allowed: Sequence[int], readable: bool) -> tuple[str, ...]:
    """What `strict_items` leaves out, apart from denied items."""
    if found.is_whole or _is_bare(found) or _is_unchanged(found, allowed, readable):
        return ()
    result = found.result
    lost: list[str] = []
    if is_wrapped(result):
        if "structuredContent" in result and not is_structured_the_same(found):
            lost.append("structuredContent")
        _members(result, readable, lost)
        lost += (f"content[{at}]" for at, part in enumerate(result["content"]) if _is_left_out(part, readable))
    return (*lost, *_root_around([], found, readable)[1])


def is_structured_the_same(found: Found) -> bool:
    """Whether `structuredContent` holds the same value as the text, so that items can be taken out of both."""
    structured = found.result.get("structuredContent")
    if structured is None or found.label.items is not None:
        return False
    try:
        return bool(structured == found.inside.root)
    except RecursionError:  # nested too deeply to be compared
        return False


def _is_unchanged(found: Found, allowed: Sequence[int], readable: bool) -> bool:
    return readable and len(allowed) == len(found.data) and found.label.items is None


def _root_around(items: list[Any], found: Found, readable: bool) -> tuple[Any, list[str]]:
    """The JSON inside the result with `items` in the place of all items, and pointers to what is left out beside them."""
    if found.label.items is not None:
        return items, _beside(found)
    lost: list[str] = []
    root = found.inside.root
    keys = keys_to(root, found.items_path)
    if len(keys) > _DEEPEST:
        return items, [""]
    return _replaced(root, keys, items, "", readable, lost), lost


def _replaced(value: Any, keys: Sequence[Key], items: list[Any], pointer: str, readable: bool, lost: list[str]) -> Any:
    """A copy of `value` with `items` at the place where `keys` lead, and of the rest what belongs to the envelope."""
    if not keys:
        return items
    key, *further = keys
    if isinstance(value, dict):
        copy = {}
        for name, member in value.items():
            below = f"{pointer}/{_escaped(name)}"
            if name == key:
                copy[name] = _replaced(member, further, items, below, readable, lost)
            else:
                kept = _of_the_envelope(name, member, below, readable, lost)
                if kept is not _LEFT_OUT:
                    copy[name] = kept
        return copy
    inside = _replaced(value[key], further, items, f"{pointer}/{key}", readable, lost)
    lost += (f"{pointer}/{at}" for at in range(len(value)) if at != key)
    return [inside if at == key else None for at in range(len(value))]


_LEFT_OUT = object()
# No envelope is so deep, and strangers choose how deep JSON is: recursion ends here.
_DEEPEST = 32
# An opaque word by which the next page is asked for.
_CURSOR = re.compile(r"[!-~]{0,512}")
_CURSOR_NAMES = ("cursor", "pagetoken")


def _of_the_envelope(name: str, value: Any, pointer: str, readable: bool, lost: list[str]) -> Any:
    """What stays of a member beside the items.

    Numbers and truth values stay: they are counts. An array may repeat denied items, so it does not. Text stays if the agent
    may read the resource, or if it is a cursor. Of an object stays what would stay beside the items, 32 levels down.
    """
    if isinstance(value, dict) and pointer.count("/") < _DEEPEST:
        members = {
            below: _of_the_envelope(below, member, f"{pointer}/{_escaped(below)}", readable, lost)
            for below, member in value.items()
        }
        return {below: member for below, member in members.items() if member is not _LEFT_OUT}
    if isinstance(value, str):
        is_cursor = name.replace("_", "").lower().endswith(_CURSOR_NAMES) and _CURSOR.fullmatch(value)
        stays = readable or bool(is_cursor)
    else:
        stays = not isinstance(value, (list, tuple, dict))
    if stays:
        return value
    lost.append(pointer)
    return _LEFT_OUT


def _with_text(content: Sequence[Any], text: dict[str, Any], readable: bool) -> Content:
    """The parts with the one text in the place of the first of theirs, and no other text: it is the joined text."""
    parts: Content = []
    placed = False
    for part in content:
        if _is_no_text(part):
            if not _is_left_out(part, readable):
                parts.append(part)
        elif not placed:
            placed = True
            parts.append({**part, "text": text["text"]})
    return parts if placed else [text, *parts]


def _is_left_out(part: Any, readable: bool) -> bool:
    """Whether a part that is no text does not belong to the envelope: the resource's label decides on pictures and sound, and
    what is embedded or linked may repeat denied items."""
    if not _is_no_text(part):
        return False
    return not readable or not isinstance(part, dict) or part.get("type") not in ("image", "audio")


# --- both


def _is_bare(found: Found) -> bool:
    """Whether a result is an MCP result of nothing but texts, and these of nothing but the items, as nearly all are."""
    result = found.result
    if type(result) is not dict or len(result) != 1 or found.items_path or found.label.items is not None:
        return False
    content = result.get("content")
    return type(content) is list and len(content) == found.text_parts


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
    except (UnicodeError, TypeError, RecursionError, OverflowError):  # lone surrogates, huge numbers, deep nesting
        try:
            return json.dumps(value, ensure_ascii=True)
        except RecursionError:
            return '"This value is nested too deeply to be written."'
