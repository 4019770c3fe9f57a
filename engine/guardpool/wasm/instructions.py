"""Which instructions a guard's functions are made of: those of WebAssembly 2.0, and of later features what is let through.

An engine may miscompile what it compiles: wasmer 1.1.0 mixes the vectors of a `select` (CVE-2022-31104) and lets spilled
vectors be written over their neighbours on the stack. So every function is walked before anything is compiled. It is an
allow-list: what is not on it is refused, because behind an instruction whose length is not known anything could hide. For
the same reason nothing is allowed that two readers could take for different lengths: an engine may read a memory's index
after an alignment whose bit 6 is set, so such an alignment is refused here, as is the number of an instruction that is
written longer than need be.

The walk goes from instruction to instruction and minds neither nesting nor types, which are the engine's to check. It
is a regular expression, which takes 2 ms for a guard of 26,000 instructions; only a long `br_table`, whose length stands
in itself, is walked by hand. Neither recurses or goes back, so the time is linear in the bytes: the worst found is 0.1 s
for 1 MiB.

Vectors (`SIMD`), the type `externref` and tail calls are walked if the caller allows them, each vector instruction by its
number: what relaxed SIMD added is not among them, since its results differ between processors.

Source: WebAssembly core specification 2.0, 5.4 (instructions), and the tail calls of 3.0; the instructions of later proposals
are named so that a message can say how to build without them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Set as AbstractSet
from typing import Final

import msgspec

from guardpool.wasm.cursor import Cursor, sections
from guardpool.wasm.features import (
    EXCEPTIONS,
    EXTERNREF,
    FEATURE_TITLES,
    GC,
    MEMORIES,
    NEWER_TYPES,
    REFERENCES,
    RELAXED_SIMD,
    SIMD,
    STACK_SWITCHING,
    STRINGS,
    TAIL_CALLS,
    THREADS,
    WIDE_ARITHMETIC,
)
from guardpool.wasm.limits import DEFAULT_LIMITS, ModuleLimits
from guardpool.wasm.model import ModuleInfo

UNKNOWN, OVERLONG, MALFORMED = "unknown", "overlong", "malformed"

_U32: Final = rb"[\x80-\xff]{0,4}[\x00-\x7f]"
# `br_table` says how many targets it has, before them and a default. Most have a few; longer ones are walked by hand.
_SHORT_TABLES: Final = rb"|".join(b"\\x%02x(?:%b){%d}" % (count, _U32, count + 1) for count in range(32))
_ALIGNMENT: Final = rb"[\x00-\x1f]"  # bit 6 says that a memory's index follows; more than 3 is the engine's to refuse


def _shapes(value_type: bytes, reference: bytes) -> tuple[bytes, ...]:
    """The instructions of WebAssembly 2.0 by their first byte, a pattern for each shape of operands.

    The first four are shapes of the others that are common, or quick to try.
    """
    return (
        rb"[\x0c\x0d\x10\x20-\x26\x41\x42\xd2][\x00-\x7f]",  # an index or an integer of one byte
        rb"[\x00\x01\x05\x0b\x0f\x1a\x1b\x45-\xc4\xd1]+",  # any number of those without an operand
        rb"[\x28-\x3e]" + _ALIGNMENT + rb"[\x00-\x7f]",
        rb"[\x02-\x04](?:\x40|" + value_type + rb")",
        rb"[\x0c\x0d\x10\x20-\x26\x41\xd2]" + _U32,  # an index; an i32
        rb"\x42[\x80-\xff]{0,9}[\x00-\x7f]",  # an i64
        rb"[\x28-\x3e]" + _ALIGNMENT + _U32,  # alignment and offset
        rb"\x11" + _U32 + _U32,  # a type and a table
        rb"[\x02-\x04](?:[\x00-\x3f]|[\x80-\xff]{1,4}[\x00-\x7f])",  # a block whose type has an index, of 33 bits signed
        rb"\x43.{4}",
        rb"\x44.{8}",
        rb"[\x3f\x40]\x00",  # memory.size, memory.grow
        rb"\xd0" + reference,
        rb"\x1c\x01" + value_type,  # select with a type
        rb"\xfc[\x00-\x07]",  # conversions that saturate
        rb"\xfc(?:\x08" + _U32 + rb"\x00|\x0a\x00\x00|\x0b\x00)",  # memory.init, .copy, .fill
        rb"\xfc[\x09\x0d\x0f-\x11]" + _U32,  # data.drop, elem.drop, table.grow, .size, .fill
        rb"\xfc[\x0c\x0e]" + _U32 + _U32,  # table.init, .copy
        rb"\x0e(?:" + _SHORT_TABLES + rb")",
    )


# The vector instructions of WebAssembly 2.0. Their numbers from 0x80 on have a second byte, which is 0x01; numbers that are
# left out were never given to an instruction.
_SIMD_SHAPES: Final = (
    rb"\xfd[\x0e-\x14\x23-\x53\x5e-\x7f]",  # splats, comparisons, bits, conversions; i8x16 and some of the others
    rb"\xfd[\x80-\x99\x9b-\xa1\xa3\xa4\xa7-\xae\xb1\xb5-\xba\xbc-\xc1\xc3\xc4\xc7-\xce\xd1\xd5-\xe1\xe3-\xed\xef-\xff]\x01",
    rb"\xfd[\x00-\x0b\x5c\x5d]" + _ALIGNMENT + _U32,  # loads and stores of a whole vector; a lane and zeros
    rb"\xfd[\x54-\x5b]" + _ALIGNMENT + _U32 + rb".",  # loads and stores of one lane
    rb"\xfd[\x15-\x22].",  # extract_lane, replace_lane
    rb"\xfd[\x0c\x0d].{16}",  # v128.const, i8x16.shuffle
)
_TAIL_CALL_SHAPES: Final = (
    rb"\x12" + _U32,  # return_call
    rb"\x13" + _U32 + _U32,  # return_call_indirect: a type and a table
)
WALKED: Final = frozenset((SIMD, EXTERNREF, TAIL_CALLS))
"""The features whose instructions can be allowed."""

PLAIN: Final = frozenset((EXTERNREF,))
"""WebAssembly 2.0 without its vectors."""

_Match = Callable[[bytes, int, int], "re.Match[bytes] | None"]


# Not at the start of an instruction that changes a table or drops a segment: table.set, and data.drop, table.init, elem.drop,
# table.copy, .grow and .fill. In a run of instructions without operands none of these bytes stands.
_HARMLESS: Final = rb"(?!\x26|\xfc[\x09\x0c-\x0f\x11])"


@functools.cache
def _walk(allowed: frozenset[str], condition: bytes = b"") -> _Match:
    """Matches as many allowed instructions as there are, up to a bound, because each takes memory until the match ends.

    `condition` holds at the start of each instruction.
    """
    externref = rb"\x6f" if EXTERNREF in allowed else rb""
    vector = rb"\x7b" if SIMD in allowed else rb""
    shapes = [*_shapes(rb"[\x70\x7c-\x7f" + externref + vector + rb"]", rb"[\x70" + externref + rb"]")]
    if SIMD in allowed:
        shapes += _SIMD_SHAPES
    if TAIL_CALLS in allowed:
        shapes += _TAIL_CALL_SHAPES
    return re.compile(rb"(?:" + condition + rb"(?:" + rb"|".join(shapes) + rb")){0,2000}", re.DOTALL).match


_u32 = re.compile(_U32).match

_BR_TABLE: Final = 0x0E
_V128, _EXTERNREF = 0x7B, 0x6F
_TYPES: Final = {_V128: (SIMD, "v128 (SIMD)"), _EXTERNREF: (EXTERNREF, "externref")}
_PREFIXES: Final = {
    0xFB: (GC, "an instruction of the garbage collection proposal"),
    0xFD: (SIMD, "a vector instruction (SIMD)"),
    0xFE: (THREADS, "an atomic instruction (threads)"),
}
_VECTOR: Final = 0xFD
_MISCELLANEOUS: Final = 0xFC
_RELAXED: Final = range(0x100, 0x130)  # all numbers that were set aside for relaxed SIMD
_STRING_NUMBERS: Final = range(0x80, 0xC0)  # of the prefix 0xfb
_WITH_MEMORY: Final = frozenset((*range(0x0C), *range(0x54, 0x5E)))  # vector instructions that load or store
_WIDE: Final = range(0x13, 0x17)  # i64.add128, .sub128, .mul_wide_s, .mul_wide_u; of the prefix 0xfc
_LATER: Final = {
    **dict.fromkeys((0x06, 0x07, 0x08, 0x09, 0x0A, 0x18, 0x19, 0x1F), (EXCEPTIONS, "an exception instruction")),
    **dict.fromkeys((0x12, 0x13), (TAIL_CALLS, "a tail call")),
    **dict.fromkeys((0x14, 0x15, 0xD4, 0xD5, 0xD6), (REFERENCES, "an instruction on typed references")),
    0xD3: (GC, "a comparison of references (garbage collection)"),
    **dict.fromkeys(range(0xE0, 0xE7), (STACK_SWITCHING, "an instruction of stack switching")),
}
_ALLOWED_FIRST: Final = frozenset(
    (*range(0x06), *range(0x0B, 0x12), 0x1A, 0x1B, 0x1C, *range(0x20, 0x27), *range(0x28, 0xC5), 0xD0, 0xD1, 0xD2, 0xFC)
)


class Refusal(msgspec.Struct, frozen=True):
    """Something in a function that guards may not use.

    Attributes:
        function: the function's index, imported functions first.
        offset: where in the file it stands.
        family: its feature in `guardpool.wasm.features`, or `"unknown"`; `"overlong"`, if it is an instruction whose number is
            written longer than need be; `"malformed"`, if it is not an instruction at all.
        what: what it is, with its article.
    """

    function: int
    offset: int
    family: str
    what: str


def find_refused(
    data: bytes, info: ModuleInfo, limits: ModuleLimits = DEFAULT_LIMITS, *, allowed: AbstractSet[str] = PLAIN
) -> Refusal | None:
    """The first instruction or local variable of a module that a guard may not use, or None.

    Args:
        data: the module.
        info: what `read_module` told of it, within the same limits.
        limits: how large it may be.
        allowed: the features of `WALKED` that it may use; others in it change nothing.

    Raises:
        WasmError: `data` is not the module that `info` is of.
    """
    walked = WALKED & allowed
    imported = sum(each.kind == "function" for each in info.imports)
    for index, (start, end) in enumerate(_bodies(data, limits), imported):
        if data[start]:  # groups of locals; most bodies have none
            cursor = Cursor(data, start, end, "the code section")
            local = _refused_local(cursor, walked)
            if local is not None:
                return Refusal(index, local[0], *_of_type("a local variable", local[1]))
            start = cursor.pos
        else:
            start += 1
        offset = refused_instruction(data, start, end, walked)
        if offset is not None:
            return Refusal(index, offset, *_describe(data, offset, end, walked))
    return None


def refused_instruction(data: bytes, start: int, end: int, allowed: frozenset[str] = PLAIN) -> int | None:
    """The offset of the first instruction in `data[start:end]` that is not allowed; None if all of them are.

    `allowed` is a part of `WALKED`.
    """
    return _stopped(_walk(allowed), data, start, end)


def _stopped(walk: _Match, data: bytes, start: int, end: int) -> int | None:
    """The offset of the first instruction in `data[start:end]` that the walk does not know; None if it knows all."""
    pos = start
    while pos < end:
        found = walk(data, pos, end)
        assert found is not None  # it also matches nothing
        stopped = found.end()
        if stopped == pos:
            after = _past_br_table(data, pos + 1, end) if data[pos] == _BR_TABLE else None
            if after is None:
                return pos
            stopped = after
        pos = stopped
    return None


def changes_tables_or_segments(data: bytes, limits: ModuleLimits = DEFAULT_LIMITS) -> bool:
    """Whether a module has an instruction that changes a table or drops a segment; true as well for a module that is refused.

    Args:
        data: the module.
        limits: how large it may be.

    Raises:
        WasmError: its frame is malformed.
    """
    walk = _walk(WALKED, _HARMLESS)
    for start, end in _bodies(data, limits):
        if data[start]:
            cursor = Cursor(data, start, end, "the code section")
            if _refused_local(cursor, WALKED) is not None:
                return True
            start = cursor.pos
        else:
            start += 1
        if _stopped(walk, data, start, end) is not None:
            return True
    return False


def _bodies(data: bytes, limits: ModuleLimits) -> Iterator[tuple[int, int]]:
    """First byte and end of each function's body."""
    for section, start, end in sections(data, limits):
        if section != 10:
            continue
        cursor = Cursor(data, start, end, "the code section")
        for _ in range(cursor.count("function bodies", 3, limits.functions, "functions")):
            size = cursor.u32("the size of a function body")
            body = cursor.skip(size, "a function body")
            if size < 2:
                raise cursor.error("a function body has no instruction", body)
            yield body, body + size


def _refused_local(cursor: Cursor, allowed: frozenset[str]) -> tuple[int, int] | None:
    """Pass over the groups of locals at the head of a body; where the first stands that is not allowed, and its type."""
    for _ in range(cursor.count("groups of locals", 2, cursor.end, "locals")):
        cursor.u32("a number of locals")
        kind = cursor.byte("the type of a local")
        if kind in _TYPES and _TYPES[kind][0] not in allowed:
            return cursor.pos - 1, kind
    return None


def _past_br_table(data: bytes, pos: int, end: int) -> int | None:
    """Past the targets of a `br_table`, whose number stands before them; None if they are cut off."""
    found = _u32(data, pos, end)
    if found is None:
        return None
    pos = found.end()
    if data[pos - 1] == 0 and len(found[0]) > 1:  # longer than need be, which would make many small ones slow
        return None
    count = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(found[0]))
    if count >= end - pos:  # each is at least one byte, and one more is the default
        return None
    for _ in range(count + 1):
        if pos < end and data[pos] < 0x80:
            pos += 1
            continue
        found = _u32(data, pos, end)
        if found is None:
            return None
        pos = found.end()
    return pos


def _describe(data: bytes, pos: int, end: int, allowed: frozenset[str]) -> tuple[str, str]:
    """Family and description of an instruction that is refused."""
    code = data[pos]
    operands = data[pos + 1 : min(end, pos + 3)]
    number = _number(data, pos + 1, end) if code in _PREFIXES or code == _MISCELLANEOUS else None
    if number is not None and number[1]:
        return OVERLONG, f"the instruction 0x{code:02x}, whose number {number[0]} is written longer than need be"
    if code in _PREFIXES and not (code == _VECTOR and SIMD in allowed):
        return _prefixed(code, None if number is None else number[0], operands)
    if code == _VECTOR and number is not None:
        if number[0] in _RELAXED:
            return _prefixed(code, number[0], operands)
        if not _is_vector_instruction(number[0]):
            return UNKNOWN, f"the instruction 0xfd {number[0]:#x}"
    if code in _LATER and not (code in (0x12, 0x13) and TAIL_CALLS in allowed):
        family, what = _LATER[code]
        return family, f"{what}, 0x{code:02x}"
    if code not in _ALLOWED_FIRST and code not in (0x12, 0x13, _VECTOR):
        return UNKNOWN, f"the instruction 0x{code:02x}"
    return _misshapen(code, operands)


def _number(data: bytes, pos: int, end: int) -> tuple[int, bool] | None:
    """The number behind a prefix, and whether it is written longer than need be; None if it is cut off."""
    found = _u32(data, pos, end)
    if found is None:
        return None
    raw = found[0]
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(raw)), len(raw) > 1 and raw[-1] == 0


def _prefixed(code: int, number: int | None, operands: bytes) -> tuple[str, str]:
    """An instruction with a prefix of a feature that is not allowed."""
    family, what = _PREFIXES[code]
    if code == _VECTOR and number is not None and number in _RELAXED:
        return RELAXED_SIMD, f"an instruction of relaxed SIMD, 0xfd {number:#x}"
    if code == 0xFB and number is not None and number in _STRING_NUMBERS:
        family, what = STRINGS, "an instruction on strings"
    return family, f"{what}, 0x{code:02x} 0x{operands.hex()[:2]}" if operands else what


def _is_vector_instruction(number: int) -> bool:
    """Whether a number belongs to a vector instruction of WebAssembly 2.0, whatever its operands."""
    low = bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80, number >> 7 & 0xFF))
    return number < 0x100 and any(re.match(shape, b"\xfd" + low + bytes(20), re.DOTALL) for shape in _SIMD_SHAPES)


def _misshapen(code: int, operands: bytes) -> tuple[str, str]:
    """An instruction whose first byte is allowed, and what follows is not."""
    first = operands[0] if operands else 0
    kind = _type_operand(code, operands)
    if kind in (_V128, _EXTERNREF):
        return _of_type({0x1C: "a select", 0xD0: "a null"}.get(code, "a block"), kind)
    if kind in NEWER_TYPES:
        family, name = NEWER_TYPES[kind]
        return family, f"the instruction 0x{code:02x} with the type 0x{kind:02x} ({name}, {FEATURE_TITLES[family]})"
    if code == 0xD0 and operands and not 0x40 <= first < 0x80:
        return REFERENCES, "a null of a type with an index (typed references)"
    if (code in (0x3F, 0x40) and first) or (0x28 <= code <= 0x3E and 0x40 <= first < 0x80):
        return MEMORIES, f"the instruction 0x{code:02x} on a memory with an index (several memories)"
    if code == _VECTOR and len(operands) > 1 and 0x40 <= operands[1] < 0x80 and first in _WITH_MEMORY:
        return MEMORIES, f"the instruction 0xfd 0x{first:02x} on a memory with an index (several memories)"
    if code == _MISCELLANEOUS and first in (0x0A, 0x0B) and operands[1:2] > b"\0":
        return MEMORIES, f"the instruction 0xfc 0x{first:02x} on a memory with an index (several memories)"
    if code == _MISCELLANEOUS and first in _WIDE:
        return WIDE_ARITHMETIC, f"an instruction of wide arithmetic, 0xfc 0x{first:02x}"
    if code == _MISCELLANEOUS and 0x11 < first < 0x80:
        return UNKNOWN, f"the instruction 0xfc 0x{first:02x}"
    return MALFORMED, f"the instruction 0x{code:02x} with operands that are cut off, out of range or oddly encoded"


def _of_type(what: str, kind: int) -> tuple[str, str]:
    """Family and description of something that has a type of a feature."""
    family, name = _TYPES[kind]
    return family, f"{what} of type {name}"


def _type_operand(code: int, operands: bytes) -> int | None:
    """The type that an instruction has as its operand: a block's, a select's, a null's."""
    if code in (0x02, 0x03, 0x04, 0xD0) and operands:
        return operands[0]
    if code == 0x1C and len(operands) > 1 and operands[0] == 1:
        return operands[1]
    return None
