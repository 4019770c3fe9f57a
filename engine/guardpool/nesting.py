"""How deep JSON is nested, told without recursion: decoders do recurse, and what strangers wrote is bounded before."""

from __future__ import annotations

import re
from array import array
from itertools import accumulate

# What stands behind a backslash, and the backslash: both tell where a string ends.
_ESCAPED = b"\\/bfnrtu"
_NEITHER_BRACKETS_NOR_STRINGS = bytes(set(range(256)) - set(b'[]{}"' + _ESCAPED))
_STRING = re.compile(rb'"[^"]*"?')
# Cutting at quotes is quickest, and makes an object of each stretch between two: not of millions of them.
_MANY_QUOTES = 50_000
# Real values are wide and not deep: nothing is left of them after a few rounds that take the innermost level away, or two.
_ROUNDS = 16
_STRIDE = 65536
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def is_deeper(raw: bytes, most: int) -> bool:
    """Whether JSON is nested in more than so many arrays and objects; of other text, whether a decoder would go so deep."""
    return raw.count(b"[") + raw.count(b"{") > most and are_deeper(brackets_of(raw), most)


def brackets_of(raw: bytes) -> bytes:
    """The brackets and braces of JSON, without those in strings."""
    brackets = raw.translate(None, _NEITHER_BRACKETS_NOR_STRINGS)
    if b"\\" in brackets:  # only strings hold them
        brackets = brackets.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes with no bracket between are a string without one, or two strings that may as well be one.
    brackets = brackets.translate(None, _ESCAPED).replace(b'""', b"")
    if b'"' not in brackets:
        return brackets
    return b"".join(brackets.split(b'"')[::2]) if brackets.count(b'"') <= _MANY_QUOTES else _STRING.sub(b"", brackets)


def are_deeper(brackets: bytes, most: int) -> bool:
    """`is_deeper` for what `brackets_of` returns."""
    left = brackets
    for _ in range(min(_ROUNDS, most // 2)):
        left = left.replace(b"[]", b"").replace(b"{}", b"")
        if not left:
            return False
    steps = array("b", brackets.translate(_STEPS))
    depth = 0
    for at in range(0, len(steps), _STRIDE):  # 16 MiB of nothing but brackets are known after the first stretch
        stretch = steps[at : at + _STRIDE]
        if max(accumulate(stretch, initial=depth)) > most:
            return True
        depth += sum(stretch)
    return False
