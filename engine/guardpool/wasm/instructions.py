"""Which instructions a guard's functions are made of: those of WebAssembly 2.0 except the vector ones (SIMD).

The engine would compile vector code, and miscompiles it: `select` of two vectors mixes them (CVE-2022-31104), and vectors
that are spilled can be written over their neighbours on the stack. So every function is walked before anything is
compiled. It is an allow-list: what is not on it is refused, because behind an instruction whose length is not known
anything could hide. For the same reason nothing is allowed that two readers could take for different lengths: an
engine may read a memory's index after an alignment whose bit 6 is set, so such an alignment is refused here.

The walk goes from instruction to instruction and minds neither nesting nor types, which are the engine's to check. It
is a regular expression, which takes 2 ms for a guard of 26,000 instructions; only a long `br_table`, whose length stands
in itself, is walked by hand. Neither recurses or goes back, so the time is linear in the bytes: the worst found is 0.1 s
for 1 MiB.

Source: WebAssembly core specification 2.0, 5.4 (instructions); the instructions of later proposals are named so that a
message can say how to build without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from guardpool.wasm.cursor import Cursor, sections
from guardpool.wasm.limits import DEFAULT_LIMITS, ModuleLimits
from guardpool.wasm.model import ModuleInfo

SIMD, THREADS, TAIL_CALLS, EXCEPTIONS = "simd", "threads", "tail_calls", "exceptions"
REFERENCES, MEMORIES, UNKNOWN, MALFORMED = "typed_references", "several_memories", "unknown", "malformed"

_U32: Final = rb"[\x80-\xff]{0,4}[\x00-\x7f]"
_VALUE_TYPE: Final = rb"[\x6f\x70\x7c-\x7f]"  # all but v128, which is 0x7b
# `br_table` says how many targets it has, before them and a default. Most have a few; longer ones are walked by hand.
_SHORT_TABLES: Final = rb"|".join(b"\\x%02x(?:%b){%d}" % (count, _U32, count + 1) for count in range(32))
_ALIGNMENT: Final = rb"[\x00-\x1f]"  # bit 6 says that a memory's index follows; more than 3 is the engine's to refuse

# The instructions by their first byte, one line for each shape of operands. The first four are shapes of the others that
# are common, or quick to try.
_SHAPES: Final = (
    rb"[\x0c\x0d\x10\x20-\x26\x41\x42\xd2][\x00-\x7f]",  # an index or an integer of one byte
    rb"[\x00\x01\x05\x0b\x0f\x1a\x1b\x45-\xc4\xd1]+",  # any number of those without an operand
    rb"[\x28-\x3e]" + _ALIGNMENT + rb"[\x00-\x7f]",
    rb"[\x02-\x04](?:\x40|" + _VALUE_TYPE + rb")",
    rb"[\x0c\x0d\x10\x20-\x26\x41\xd2]" + _U32,  # an index; an i32
    rb"\x42[\x80-\xff]{0,9}[\x00-\x7f]",  # an i64
    rb"[\x28-\x3e]" + _ALIGNMENT + _U32,  # alignment and offset
    rb"\x11" + _U32 + _U32,  # a type and a table
    rb"[\x02-\x04](?:[\x00-\x3f]|[\x80-\xff]{1,4}[\x00-\x7f])",  # a block whose type has an index, of 33 bits signed
    rb"\x43.{4}",
    rb"\x44.{8}",
    rb"[\x3f\x40]\x00",  # memory.size, memory.grow
    rb"\xd0[\x6f\x70]",
    rb"\x1c\x01" + _VALUE_TYPE,  # select with a type
    rb"\xfc[\x00-\x07]",  # conversions that saturate
    rb"\xfc(?:\x08" + _U32 + rb"\x00|\x0a\x00\x00|\x0b\x00)",  # memory.init, .copy, .fill
    rb"\xfc[\x09\x0d\x0f-\x11]" + _U32,  # data.drop, elem.drop, table.grow, .size, .fill
    rb"\xfc[\x0c\x0e]" + _U32 + _U32,  # table.init, .copy
    rb"\x0e(?:" + _SHORT_TABLES + rb")",
)
# A bounded number of times, because each time takes memory until the match ends.
_walk = re.compile(rb"(?:" + rb"|".join(_SHAPES) + rb"){0,2000}", re.DOTALL).match
_u32 = re.compile(_U32).match

_BR_TABLE: Final = 0x0E
_V128: Final = 0x7B
_PREFIXES: Final = {
    0xFB: (REFERENCES, "an instruction of the garbage collection proposal"),
    0xFD: (SIMD, "a vector instruction (SIMD)"),
    0xFE: (THREADS, "an atomic instruction (threads)"),
}
_LATER: Final = {
    **dict.fromkeys((0x06, 0x07, 0x08, 0x09, 0x0A, 0x18, 0x19, 0x1F), (EXCEPTIONS, "an exception instruction")),
    **dict.fromkeys((0x12, 0x13), (TAIL_CALLS, "a tail call")),
    **dict.fromkeys((0x14, 0x15, 0xD3, 0xD4, 0xD5, 0xD6), (REFERENCES, "an instruction on typed references")),
}
_ALLOWED_FIRST: Final = frozenset(
    (*range(0x06), *range(0x0B, 0x12), 0x1A, 0x1B, 0x1C, *range(0x20, 0x27), *range(0x28, 0xC5), 0xD0, 0xD1, 0xD2, 0xFC)
)


class Refusal(msgspec.Struct, frozen=True):
    """Something in a function that guards may not use.

    Attributes:
        function: the function's index, imported functions first.
        offset: where in the file it stands.
        family: which proposal it is of, `"simd"`, ..., `"unknown"`; or `"malformed"`, if it is not an instruction at all.
        what: what it is, with its article.
    """

    function: int
    offset: int
    family: str
    what: str


def find_refused(data: bytes, info: ModuleInfo, limits: ModuleLimits = DEFAULT_LIMITS) -> Refusal | None:
    """The first instruction or local variable of a module that a guard may not use, or None.

    Args:
        data: the module.
        info: what `read_module` told of it, within the same limits.
        limits: how large it may be.

    Raises:
        WasmError: `data` is not the module that `info` is of.
    """
    imported = sum(each.kind == "function" for each in info.imports)
    for index, (start, end) in enumerate(_bodies(data, limits), imported):
        if data[start]:  # groups of locals; most bodies have none
            cursor = Cursor(data, start, end, "the code section")
            vector = _vector_local(cursor)
            if vector is not None:
                return Refusal(index, vector, SIMD, "a local variable of type v128 (SIMD)")
            start = cursor.pos
        else:
            start += 1
        offset = refused_instruction(data, start, end)
        if offset is not None:
            return Refusal(index, offset, *_describe(data, offset, end))
    return None


def refused_instruction(data: bytes, start: int, end: int) -> int | None:
    """The offset of the first instruction in `data[start:end]` that is not allowed; None if all of them are."""
    pos = start
    while pos < end:
        found = _walk(data, pos, end)
        assert found is not None  # it also matches nothing
        stopped = found.end()
        if stopped == pos:
            after = _past_br_table(data, pos + 1, end) if data[pos] == _BR_TABLE else None
            if after is None:
                return pos
            stopped = after
        pos = stopped
    return None


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


def _vector_local(cursor: Cursor) -> int | None:
    """Pass over the groups of locals at the head of a body; the offset of a v128's type if there is one."""
    for _ in range(cursor.count("groups of locals", 2, cursor.end, "locals")):
        cursor.u32("a number of locals")
        if cursor.byte("the type of a local") == _V128:
            return cursor.pos - 1
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


def _describe(data: bytes, pos: int, end: int) -> tuple[str, str]:
    """Family and description of an instruction that is refused."""
    code = data[pos]
    operands = data[pos + 1 : min(end, pos + 3)]
    if code in _PREFIXES:
        family, what = _PREFIXES[code]
        return family, f"{what}, 0x{code:02x} 0x{operands.hex()[:2]}" if operands else what
    if code in _LATER:
        family, what = _LATER[code]
        return family, f"{what}, 0x{code:02x}"
    if code not in _ALLOWED_FIRST:
        return UNKNOWN, f"the instruction 0x{code:02x}"
    first = operands[0] if operands else 0
    if (code in (0x02, 0x03, 0x04) and first == _V128) or (code == 0x1C and operands == bytes((1, _V128))):
        return SIMD, f"{'a select' if code == 0x1C else 'a block'} of type v128 (SIMD)"
    if (code in (0x3F, 0x40) and first) or (0x28 <= code <= 0x3E and 0x40 <= first < 0x80):
        return MEMORIES, f"the instruction 0x{code:02x} on a memory with an index (several memories)"
    if code == 0xFC and 0x11 < first < 0x80:
        return UNKNOWN, f"the instruction 0xfc 0x{first:02x}"
    return MALFORMED, f"the instruction 0x{code:02x} with operands that are cut off, out of range or oddly encoded"
