"""The element, data and data count sections, and the constant expressions in them and in globals."""

from __future__ import annotations

from guardpool.wasm.code import indices
from guardpool.wasm.cursor import Cursor
from guardpool.wasm.model import WasmLimitError
from guardpool.wasm.module_state import ModuleState

_REFERENCES = {0x70: "funcref", 0x6F: "externref"}
_END = 0x0B
_V128_CONST = 12


def skip_constant(cursor: Cursor, state: ModuleState, expected: str) -> None:
    """Pass over a constant expression of the type `expected`: one instruction and an end.

    Arithmetic in constants (extended-const) came later than the engine and is refused.
    """
    offset = cursor.pos
    opcode = cursor.byte("a constant expression")
    got = _constant(cursor, state, opcode, offset)
    if got != expected:
        raise cursor.error(f"a constant of type {got}, expected {expected}", offset)
    end = cursor.byte("the end of a constant expression")
    if end != _END:
        raise cursor.error(f"a constant expression goes on with 0x{end:02x}, expected 0x0b (end)", cursor.pos - 1)


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
        if cursor.u32("a vector instruction") != _V128_CONST:
            raise cursor.error("a vector instruction that is not v128.const in a constant expression", offset)
        cursor.skip(16, "a v128 constant")
        return "v128"
    if opcode == 0x23:
        return _global_get(cursor, state, offset)
    if opcode == 0xD0:
        return _reference_type(cursor)
    if opcode == 0xD2:
        index = cursor.u32("a function index")
        if index >= len(state.functions):
            raise cursor.error(f"function {index}, but there are {len(state.functions)}", offset)
        return "funcref"
    raise cursor.error(f"instruction 0x{opcode:02x} is not supported in a constant expression", offset)


def _global_get(cursor: Cursor, state: ModuleState, offset: int) -> str:
    index = cursor.u32("a global index")
    if index >= state.imported_globals:
        raise cursor.error(
            f"global {index} in a constant expression, but there are {state.imported_globals} imported", offset
        )
    if state.globals[index].mutable:
        raise cursor.error(f"global {index} in a constant expression is mutable", offset)
    return state.globals[index].value


def _reference_type(cursor: Cursor) -> str:
    byte = cursor.byte("a reference type")
    if byte not in _REFERENCES:
        raise cursor.error(f"reference type 0x{byte:02x}, expected funcref or externref", cursor.pos - 1)
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
            held = _reference_type(cursor)
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
