"""Python values of the caller as the JSON that a guard is told of.

JSON has strings, numbers, booleans, null, arrays and objects. Whatever else stands in a job (a date, bytes, a set, a NaN) is
refused with its place, because there is no telling how the recorded call had it: an encoder that made a string or a null
of it would get a plausible label of another call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, NamedTuple, Union

import msgspec

from guardpool.contract.inputs import value_of
from guardpool.contract.numbers import MAX_EXACT, spelt
from guardpool.contract.text import MAX_MESSAGE_CHARS, scrub, shown
from guardpool.errors import ContractError

# Far above any tool's arguments. It bounds what the encoder, which recurses, is given.
MAX_LEVELS = 900
_MAX_PLACE_CHARS = 160

_NAME = re.compile(r"[^\W\d][\w-]*")


class NotJson(ValueError):
    """A value that JSON does not have. The message begins with its place, e.g. `tool_args.items[3].when`."""


class Look(Enum):
    """What is known of a value after one look at every part of it."""

    PLAIN = "the encoder writes it as a guard is to have it"
    NUMBERS = "only numbers in it may be written in another way"
    ODD = "some part of it may not be JSON"


_PLAIN, _NUMBERS, _ODD = Look.PLAIN, Look.NUMBERS, Look.ODD
_TEXT = {str}
_SCALARS = frozenset((str, int, float, bool, type(None)))
_Exact = Annotated[int, msgspec.Meta(ge=-MAX_EXACT, le=MAX_EXACT)]


def look(value: Any) -> Look:
    """Look at every part of a value. Hot: 30 ns for each.

    It must have been encoded already, so that it is known not to contain itself.
    """
    if type(value) is str or value is None:
        return _PLAIN
    found, level, keys, depth = _PLAIN, [value], [], 0
    while level:
        depth += 1
        if depth > MAX_LEVELS + 1:
            return _ODD
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                continue
            if kind is dict:
                below += item.values()
                keys += item
            elif kind is list:
                below += item
            elif kind is int:
                if not -MAX_EXACT <= item <= MAX_EXACT:
                    found = _NUMBERS
            elif kind is float:
                if item - item != 0.0:  # NaN and the infinities
                    return _ODD
                found = _NUMBERS
            elif kind is not bool and item is not None:
                return _ODD
        level = below
    return found if set(map(type, keys)) <= _TEXT else _ODD


def plain(levels: int) -> Any:
    """A type for `msgspec.convert`: values that look `PLAIN` and have so many containers in one another at most.

    It takes sets for lists as well, so that what was made is to be compared with what it was made of. Its size doubles with
    each level.
    """
    kind: Any = Union[None, bool, _Exact, str]
    for _ in range(levels):
        kind = Union[None, bool, _Exact, str, list[kind], dict[str, kind]]
    return kind


class _Open(NamedTuple):
    """A container on the way down: what it was, what is left of it, what becomes of it."""

    source: Any
    rest: Iterator[tuple[Any, Any]]
    made: Any


def to_json(value: Any, name: str, infinity: msgspec.Raw | None = None) -> Any:
    """A copy of `value` as `msgspec.json.encode` writes it for a guard.

    Subclasses of str, int, float, list and tuple are taken for what they are based on, and every mapping for an object; lone
    surrogates become U+FFFD.

    Args:
        value: any value.
        name: what it is called in a message: `"tool_args"`.
        infinity: what an infinity becomes; None: it is refused.

    Raises:
        NotJson: some part of it is not JSON.
    """
    top: list[Any] = [None]
    way = [_Open(value, iter([(0, value)]), top)]
    keys: list[Any] = []  # the key of each open container, in the one around it
    while way:
        around = way[-1]
        made = around.made
        for key, item in around.rest:
            if isinstance(item, (dict, list, tuple)) or (type(item) not in _SCALARS and isinstance(item, Mapping)):
                keys.append(key)
                if len(way) > MAX_LEVELS:
                    raise NotJson(_too_deep(name, keys, way))
                inner, rest = _opened(item, name, keys)
                made[key] = inner
                way.append(_Open(item, rest, inner))
                break
            if infinity is not None and isinstance(item, float) and math.isinf(item):
                made[key] = infinity
            else:
                made[key] = item if type(item) is str and item.isascii() else _scalar(item, name, keys, key)
        else:
            way.pop()
            if keys:
                keys.pop()
    return top[0]


def _too_deep(name: str, keys: list[Any], way: list[_Open]) -> str:
    seen: set[int] = set()
    for depth, one in enumerate(way[1:], 1):
        if id(one.source) in seen:
            return f"{_place(name, keys[:depth])}: contains itself"
        seen.add(id(one.source))
    return f"{_place(name, keys)}: nested over {MAX_LEVELS} levels deep"


def _opened(item: Any, name: str, keys: list[Any]) -> tuple[Any, Iterator[tuple[Any, Any]]]:
    if isinstance(item, (list, tuple)):
        return [None] * len(item), iter(enumerate(item))
    members = {}
    for key, member in _members(item, name, keys):
        if not isinstance(key, str):
            raise NotJson(f"{_place(name, keys)}: the key {shown(key)} is not a string")
        members[scrub(str.__str__(key))] = member
    return {}, iter(members.items())


def _members(item: Any, name: str, keys: list[Any]) -> list[tuple[Any, Any]]:
    try:
        return list(item.items())
    except Exception as error:  # of a mapping of the caller's own
        raise NotJson(f"{_place(name, keys)}: {type(item).__name__} cannot be read: {shown(str(error))}") from error


def _scalar(item: Any, name: str, around: list[Any], key: Any) -> Any:
    if item is None or item is True or item is False:
        return item
    if isinstance(item, str):
        return scrub(str.__str__(item))
    if isinstance(item, int):
        return _whole(int.__index__(item), name, around, key)
    if isinstance(item, float):
        item = float.__float__(item)
        if math.isfinite(item):
            return spelt(item)
        word = "NaN" if math.isnan(item) else "Infinity" if item > 0 else "-Infinity"
        raise NotJson(f"{_place(name, [*around, key])}: {word} is not JSON")
    if isinstance(item, msgspec.Raw):
        try:
            return value_of(item)
        except ContractError as error:
            raise NotJson(f"{_place(name, [*around, key])}: {error}") from error
    raise NotJson(f"{_place(name, [*around, key])}: {type(item).__name__} is not JSON")


def _whole(item: int, name: str, around: list[Any], key: Any) -> Any:
    if -MAX_EXACT <= item <= MAX_EXACT:
        return item
    try:
        return spelt(float(item))
    except OverflowError:
        raise NotJson(
            f"{_place(name, [*around, key])}: no double holds this number, and guards have doubles only"
        ) from None


def _place(name: str, keys: list[Any]) -> str:
    """Where something stands: `tool_args.items[3].when`. The first of `keys` is the place in nothing."""
    place = name
    for key in keys[1:]:
        if isinstance(key, int):
            place += f"[{key}]"
        else:
            place += f".{key}" if _NAME.fullmatch(key) else f"[{shown(key)}]"
    if len(place) > _MAX_PLACE_CHARS:
        half = _MAX_PLACE_CHARS // 2
        place = f"{place[:half]}...{place[-half:]}"
    return place[:MAX_MESSAGE_CHARS]
