"""Results that are asked for again and again: the same few sets of tags stand in all labels of a recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

Result = TypeVar("Result")

# A recording has tens of different sets. A guard chooses its tags, so what is kept is bounded in number and in length:
# 1,024 keys of 4,096 characters are some 4 MiB.
_MOST_KEYS = 1024
_MOST_CHARS = 4096


class Remembered(dict[tuple[Any, ...], Result]):
    """What a function returned for its arguments; a subscript calls it, where it did not return that before.

        of_tags = Remembered(lambda tags: tuple(sorted(tags)))
        of_tags[frozenset({"b", "a"}),]

    A hit costs a look into a dict. Arguments with many or long tags are not kept, and a full memory is emptied.

    Args:
        function: what is called; its result depends on nothing but its arguments, and nobody changes it.
        most_keys: how many results are kept.
    """

    __slots__ = ("_function", "_most_keys")

    def __init__(self, function: Callable[..., Result], most_keys: int = _MOST_KEYS) -> None:
        self._function = function
        self._most_keys = most_keys

    def __missing__(self, arguments: tuple[Any, ...]) -> Result:
        result = self._function(*arguments)
        if _chars_in(arguments) <= _MOST_CHARS:
            if len(self) >= self._most_keys:
                self.clear()
            self[arguments] = result
        return result


def _chars_in(value: Any) -> int:
    """About how many characters are held by tags, labels and failed rules."""
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind is tuple or kind is frozenset:
        return len(value) + sum(map(_chars_in, value))
    if isinstance(value, str):  # a word
        return len(value)
    if isinstance(value, msgspec.Struct):
        return sum(_chars_in(getattr(value, name)) for name in value.__struct_fields__)
    return 1
