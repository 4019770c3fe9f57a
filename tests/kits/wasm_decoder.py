"""A decoder of instructions, written after the specification's tables, to compare the real walker with: one at a time, slowly.

It also writes random instructions, in every encoding that is allowed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Set as AbstractSet

import wasm_builder as b

# First byte, or prefix and the byte after it -> its operands, a letter for each:
#   u  an unsigned number of 32 bits     i, I  a signed one of 32 or 64 bits     f, d  4 or 8 bytes     t  a block's type
#   m  alignment and offset     0  a zero byte     r  a reference type     s  the type of a select     T  br_table's targets
#   L  the number of a lane     V  16 bytes
OPERANDS: dict[tuple[int, ...], str] = {
    **dict.fromkeys([(n,) for n in (0x00, 0x01, 0x05, 0x0B, 0x0F, 0x1A, 0x1B, 0xD1, *range(0x45, 0xC5))], ""),
    **dict.fromkeys([(n,) for n in (0x02, 0x03, 0x04)], "t"),
    **dict.fromkeys([(n,) for n in (0x0C, 0x0D, 0x10, *range(0x20, 0x27), 0xD2)], "u"),
    (0x0E,): "T",
    (0x11,): "uu",
    (0x1C,): "s",
    **dict.fromkeys([(n,) for n in range(0x28, 0x3F)], "m"),
    (0x3F,): "0",
    (0x40,): "0",
    (0x41,): "i",
    (0x42,): "I",
    (0x43,): "f",
    (0x44,): "d",
    (0xD0,): "r",
    **dict.fromkeys([(0xFC, n) for n in range(8)], ""),
    (0xFC, 8): "u0",
    (0xFC, 9): "u",
    (0xFC, 10): "00",
    (0xFC, 11): "0",
    (0xFC, 12): "uu",
    (0xFC, 13): "u",
    (0xFC, 14): "uu",
    (0xFC, 15): "u",
    (0xFC, 16): "u",
    (0xFC, 17): "u",
}
# Vector instructions by their number, which is 0xfd and then 7 bits a byte; those without an operand first.
_UNUSED = (
    0x9A,
    0xA2,
    0xA5,
    0xA6,
    0xAF,
    0xB0,
    0xB2,
    0xB3,
    0xB4,
    0xBB,
    0xC2,
    0xC5,
    0xC6,
    0xCF,
    0xD0,
    0xD2,
    0xD3,
    0xD4,
    0xE2,
    0xEE,
)
_VECTOR = {
    **dict.fromkeys([*range(0x0E, 0x15), *range(0x23, 0x54), *range(0x5E, 0x100)], ""),
    **dict.fromkeys([*range(0x0C), 0x5C, 0x5D], "m"),
    **dict.fromkeys([0x0C, 0x0D], "V"),
    **dict.fromkeys(range(0x15, 0x23), "L"),
    **dict.fromkeys(range(0x54, 0x5C), "mL"),
}
BY_FEATURE: dict[str, dict[tuple[int, ...], str]] = {
    "simd": {(0xFD, *b.leb(number)): operands for number, operands in _VECTOR.items() if number not in _UNUSED},
    "tail_calls": {(0x12,): "u", (0x13,): "uu"},
    "externref": {},
}
"""The same for features: the instructions that each adds to those of WebAssembly 2.0."""

PLAIN = frozenset(("externref",))
ALL = frozenset(BY_FEATURE)


def table(features: AbstractSet[str]) -> dict[tuple[int, ...], str]:
    """The instructions of WebAssembly 2.0 without vectors, and of these features."""
    found = dict(OPERANDS)
    for feature in features:
        found |= BY_FEATURE[feature]
    return found


def _value_types(features: AbstractSet[str]) -> tuple[int, ...]:
    return (0x7F, 0x7E, 0x7D, 0x7C, *((0x7B,) if "simd" in features else ()), *_references(features))


def _references(features: AbstractSet[str]) -> tuple[int, ...]:
    return (0x70, 0x6F) if "externref" in features else (0x70,)


_FIXED = {"f": 4, "d": 8, "L": 1, "V": 16}  # operands whose bytes may be anything


class RefusedError(Exception):
    """The bytes there are not an instruction of the table."""


def decode(data: bytes, features: AbstractSet[str] = PLAIN) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Each instruction's offset and opcode; at the first that is not in the table, `RefusedError` with its offset."""
    pos, known = 0, table(features)
    while pos < len(data):
        size = 1 + (data[pos] in (0xFC, 0xFD)) + (data[pos] == 0xFD and data[pos + 1 : pos + 2] >= b"\x80")
        opcode = tuple(data[pos : pos + size])
        operands = known.get(opcode)
        if operands is None:
            raise RefusedError(pos)
        after = pos + len(opcode)
        for kind in operands:
            after = _operand(data, after, kind, pos, features)
        yield pos, opcode
        pos = after


def _operand(data: bytes, pos: int, kind: str, start: int, features: AbstractSet[str]) -> int:
    if kind in _FIXED:
        pos += _FIXED[kind]
        if pos > len(data):
            raise RefusedError(start)
        return pos
    if kind in "uiI":
        return _leb(data, pos, 10 if kind == "I" else 5, start)[1]
    byte = data[pos] if pos < len(data) else -1
    if kind == "m" and 0 <= byte < 0x20:
        return _leb(data, pos + 1, 5, start)[1]
    if (kind == "0" and byte == 0) or (kind == "r" and byte in _references(features)):
        return pos + 1
    if kind == "s" and byte == 1 and pos + 1 < len(data) and data[pos + 1] in _value_types(features):
        return pos + 2
    if kind == "t" and (byte == 0x40 or byte in _value_types(features)):
        return pos + 1
    if kind == "t" and (byte >= 0x80 or 0 <= byte < 0x40):
        return _leb(data, pos, 5, start)[1]
    if kind == "T":
        count, after = _leb(data, pos, 5, start)
        if after - pos > 1 and data[after - 1] == 0:  # not in the specification: longer than need be
            raise RefusedError(start)
        pos = after
        if count > len(data) - pos:
            raise RefusedError(start)
        for _ in range(count + 1):
            pos = _leb(data, pos, 5, start)[1]
        return pos
    raise RefusedError(start)


def _leb(data: bytes, pos: int, most: int, start: int) -> tuple[int, int]:
    value = 0
    for place in range(most):
        if pos >= len(data):
            break
        value |= (data[pos] & 0x7F) << 7 * place
        pos += 1
        if data[pos - 1] < 0x80:
            return value, pos
    raise RefusedError(start)


def random_instruction(rng: random.Random, features: AbstractSet[str] = PLAIN) -> bytes:
    """One instruction of the table, with numbers in any length that is allowed."""
    opcode, operands = rng.choice(list(table(features).items()))
    return bytes(opcode) + b"".join(_random_operand(rng, kind, features) for kind in operands)


def _random_operand(rng: random.Random, kind: str, features: AbstractSet[str]) -> bytes:
    if kind in _FIXED:
        return rng.randbytes(_FIXED[kind])
    if kind in "uiI":
        return _random_leb(rng, 10 if kind == "I" else 5)
    if kind == "m":
        return bytes([rng.randrange(32)]) + _random_leb(rng, 5)
    if kind == "r":
        return bytes([rng.choice(_references(features))])
    if kind == "s":
        return bytes([1, rng.choice(_value_types(features))])
    if kind == "t":
        plain = rng.random() < 0.5
        return (
            bytes([rng.choice((0x40, *_value_types(features)))])
            if plain
            else b.leb(rng.randrange(64), rng.randint(1, 5))
        )
    if kind == "T":
        count = rng.choice((0, 1, 5, 31, 32, 300))
        return b.leb(count) + b"".join(_random_leb(rng, 5) for _ in range(count + 1))
    return b"\0"


def _random_leb(rng: random.Random, most: int) -> bytes:
    width = rng.randint(1, most)
    return bytes(rng.randrange(0x80, 0x100) for _ in range(width - 1)) + bytes([rng.randrange(0x80)])
