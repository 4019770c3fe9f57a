"""The element, data and data count sections, and the constant expressions in them and in globals."""

from __future__ import annotations

from guardpool.wasm.code import indices
from guardpool.wasm.cursor import Cursor
from guardpool.wasm.features import EXTENDED_CONST, GC, REFERENCES
from guardpool.wasm.model import WasmLimitError
from guardpool.wasm.module_state import ModuleState

_REFERENCES = {0x70: "funcref", 0x6F: "externref"}
_END = 0x0B
_V128_CONST = 12
# Arithmetic of extended-const, and what it takes two of and leaves one of.
_ARITHMETIC = {
    0x6A: ("i32.add", "i32"),
    0x6B: ("i32.sub", "i32"),
    0x6C: ("i32.mul", "i32"),
    0x7C: ("i64.add", "i64"),
    0x7D: ("i64.sub", "i64"),
    0x7E: ("i64.mul", "i64"),
}


def skip_constant(cursor: Cursor, state: ModuleState, expected: str) -> None:
    """Pass over a constant expression of the type `expected`: instructions that leave one value, and an end."""
    offset = cursor.pos
    values: list[str] = []
    most = state.limits.constant_instructions
    for _ in range(most + 1):
        at = cursor.pos
        opcode = cursor.byte("a constant expression")
        if opcode == _END:
            break
        if opcode in _ARITHMETIC:
            name, operand = _ARITHMETIC[opcode]
            state.use(EXTENDED_CONST, f"a constant expression with arithmetic ({name})", at)
            if values[-2:] != [operand, operand]:
                raise cursor.error(f"{name} in a constant expression without two values of {operand}", at)
            del values[-1]
        else:
            values.append(_constant(cursor, state, opcode, at))
    else:
        raise WasmLimitError(
            f"{cursor.where}: a constant expression of more than {most} instructions",
            offset,
            limit="constant_instructions",
        )
    if values != [expected]:
        got = f"of type {values[0]}" if len(values) == 1 else f"that leaves {len(values)} values"
        raise cursor.error(f"a constant {got}, expected {expected}", offset)


def _constant(cursor: Cursor, state: ModuleState, opcode: int, offset: int) -> str:
    if opcode == 0x41:
        cursor.skip_signed(32, "an i32 constant")
        return "i32"
    if opcode == 0x42:
        cursor.skip_signed(64, "an i64 constant")
        return "i64"
    if opcode == 0x43:
        cursor.skip(4, "an f32 constant")
        return "f32"
    if opcode == 0x44:
        cursor.skip(8, "an f64 constant")
        return "f64"
    if opcode == 0xFD:
        if cursor.byte("a vector instruction") != _V128_CONST:
            raise cursor.error("a vector instruction that is not v128.const in a constant expression", offset)
        state.use_types(("v128",), "a constant expression", offset)
        cursor.skip(16, "a v128 constant")
        return "v128"
    if opcode == 0x23:
        return _global_get(cursor, state, offset)
    if opcode == 0xD0:
        if (
            cursor.pos < cursor.end and not 0x40 <= cursor.data[cursor.pos] < 0x80
        ):  # an index, and not a letter of its own
            raise cursor.unsupported(
                REFERENCES, "a null of a type with an index (typed references) is not supported", offset
            )
        return _reference_type(cursor, state)
    if opcode == 0xD2:
        index = cursor.u32("a function index")
        if index >= len(state.functions):
            raise cursor.error(f"function {index}, but there are {len(state.functions)}", offset)
        return "funcref"
    if opcode == 0xFB:
        raise cursor.unsupported(
            GC, "an instruction of garbage collection, 0xfb, in a constant expression is not supported", offset
        )
    raise cursor.error(f"instruction 0x{opcode:02x} is not supported in a constant expression", offset)


def _global_get(cursor: Cursor, state: ModuleState, offset: int) -> str:
    index = cursor.u32("a global index")
    if index >= state.imported_globals:
        message = f"global {index} in a constant expression, but there are {state.imported_globals} imported"
        if index < len(state.globals):
            raise cursor.unsupported(
                GC, f"{message}; one that the module defines (it came with garbage collection) is not supported", offset
            )
        raise cursor.error(message, offset)
    if state.globals[index].mutable:
        raise cursor.error(f"global {index} in a constant expression is mutable", offset)
    return state.globals[index].value


def _reference_type(cursor: Cursor, state: ModuleState) -> str:
    byte = cursor.byte("a reference type")
    if byte not in _REFERENCES:
        at = cursor.pos - 1
        raise cursor.newer_type(byte, "a reference", at) or cursor.error(
            f"reference type 0x{byte:02x}, expected funcref or externref", at
        )
    state.use_types((_REFERENCES[byte],), "a constant expression or an element segment", cursor.pos - 1)
    return _REFERENCES[byte]


def read_elements(cursor: Cursor, state: ModuleState) -> None:
    """The element section: what fills tables."""
    limits = state.limits
    state.element_segments = cursor.count("element segments", 2, limits.element_segments, "element_segments")
    for _ in range(state.element_segments):
        _element_segment(cursor, state)


def _element_segment(cursor: Cursor, state: ModuleState) -> None:
    offset = cursor.pos
    flags = cursor.u32("the kind of an element segment")
    if flags > 7:
        raise cursor.error(f"element segment of kind {flags}, expected 0 to 7", offset)
    passive, explicit, expressions = flags & 1, flags & 2, flags & 4
    target: str | None = None
    if not passive:
        table = cursor.u32("a table index") if explicit else 0
        if table >= len(state.tables):
            raise cursor.error(f"element segment for table {table}, but there are {len(state.tables)}", offset)
        target = state.tables[table].element
        skip_constant(cursor, state, "i32")
    held = "funcref"
    if passive or explicit:
        if expressions:
            held = _reference_type(cursor, state)
        elif (kind := cursor.byte("the kind of an element")) != 0:
            raise cursor.error(f"elements of kind {kind}, expected 0 (functions)", cursor.pos - 1)
    if target is not None and target != held:
        raise cursor.error(f"element segment of {held} for a table of {target}", offset)
    _element_items(cursor, state, held if expressions else None)


def _element_items(cursor: Cursor, state: ModuleState, expression: str | None) -> None:
    """The entries of a segment: constant expressions of a type, or function indices."""
    offset = cursor.pos
    room = state.limits.element_items - state.element_items
    count = cursor.count("elements", 3 if expression else 1, cursor.end - offset, "element_items")
    if count > room:
        raise WasmLimitError(
            f"more than the {state.limits.element_items} elements that are allowed in all",
            offset,
            limit="element_items",
        )
    state.element_items += count
    if expression is None:
        indices(cursor, count, len(state.functions), "function")
        return
    for _ in range(count):
        skip_constant(cursor, state, expression)


def read_data_count(cursor: Cursor, state: ModuleState) -> None:
    """The data count section, which announces how many data segments follow."""
    state.data_count = cursor.u32("the number of data segments")


def read_data(cursor: Cursor, state: ModuleState) -> None:
    """The data section: what fills memory."""
    count = cursor.count("data segments", 2, state.limits.data_segments, "data_segments")
    for _ in range(count):
        offset = cursor.pos
        flags = cursor.u32("the kind of a data segment")
        if flags > 2:
            raise cursor.error(f"data segment of kind {flags}, expected 0 to 2", offset)
        if flags != 1:
            memory = cursor.u32("a memory index") if flags == 2 else 0
            if memory >= len(state.memories):
                raise cursor.error(f"data segment for memory {memory}, but there are {len(state.memories)}", offset)
            skip_constant(cursor, state, "i32")
        size = cursor.u32("the size of a data segment")
        cursor.skip(size, "a data segment")
        state.data_bytes += size
    state.data_segments = count
