"""Read what a module declares: types, imports, exports, memories, sizes.

The frame and every section except the code are read whole. Of function bodies only the sizes and the local variables are
read: `guardpool.wasm.instructions` looks at their instructions, and the engine, which compiles in a process of its own,
decides whether those are valid. What is read is checked as the specification asks. Features that no guard may use are
refused by name (`WasmUnsupportedError`), so that the message is ours and not the engine's; of each that
only some engines take, the first use is told in `ModuleInfo.uses`.

Source: the WebAssembly core specification, 2.0 (binary format, validation of modules), and arithmetic in constants of 3.0.
"""

from __future__ import annotations

from typing import NoReturn

from guardpool.printable import printable
from guardpool.sizes import MAX_PAGES
from guardpool.wasm.code import function_types, read_code
from guardpool.wasm.cursor import CUSTOM, SECTION_NAMES, Cursor, sections
from guardpool.wasm.features import (
    DESCRIPTORS,
    EXCEPTIONS,
    GC,
    MEMORIES,
    MEMORY64,
    NAMED_TYPES,
    PAGE_SIZES,
    REFERENCES,
    STACK_SWITCHING,
    THREADS,
)
from guardpool.wasm.limits import DEFAULT_LIMITS, ModuleLimits
from guardpool.wasm.model import (
    CustomSection,
    Export,
    ExternType,
    FuncType,
    GlobalType,
    Import,
    MemoryType,
    ModuleInfo,
    TableType,
    WasmLimitError,
)
from guardpool.wasm.module_state import ModuleState
from guardpool.wasm.segments import read_data, read_data_count, read_elements, skip_constant

VALUE_TYPES = {
    0x7F: "i32",
    0x7E: "i64",
    0x7D: "f32",
    0x7C: "f64",
    0x7B: "v128",
    0x70: "funcref",
    0x6F: "externref",
}
KINDS = ("function", "table", "memory", "global")

_FUNC_TYPE = 0x60
_NEWER_FORMS = {
    0x65: (THREADS, "shared types (threads)"),
    **{
        form: (GC, f"{name} types (garbage collection)")
        for form, name in ((0x5F, "struct"), (0x5E, "array"), (0x50, "sub"), (0x4F, "final sub"), (0x4E, "recursive"))
    },
    0x5D: (STACK_SWITCHING, "continuation types (stack switching)"),
    0x4D: (DESCRIPTORS, "types with a descriptor (custom descriptors)"),
    0x4C: (DESCRIPTORS, "types that describe others (custom descriptors)"),
}
_TABLE_WITH_INITIALIZER = 0x40
_EXACT_FUNCTION = 0x20


def read_module(data: bytes, limits: ModuleLimits = DEFAULT_LIMITS) -> ModuleInfo:
    """Read a module.

    Args:
        data: the file's bytes.
        limits: how large it may be.

    Returns:
        What it declares. Function bodies were not validated.

    Raises:
        WasmError: it is not a module, or malformed, or uses what guardpool does not support; the message says what was
            got, what was expected and where.
        WasmLimitError: it is larger than `limits` allow.
    """
    state = read_sections(data, limits)
    state.check_complete()
    return ModuleInfo(
        size=len(data),
        types=tuple(state.types),
        imports=tuple(state.imports),
        functions=tuple(state.functions[state.imported_functions :]),
        tables=tuple(state.tables),
        memories=tuple(state.memories),
        globals=tuple(state.globals),
        exports=tuple(state.exports),
        start=state.start,
        code=state.code,
        element_items=state.element_items,
        data_segments=state.data_segments,
        data_bytes=state.data_bytes,
        custom_sections=tuple(state.custom_sections),
        uses=tuple(state.uses.values()),
    )


def read_sections(data: bytes, limits: ModuleLimits, only: frozenset[int] | None = None) -> ModuleState:
    """Read all sections, or `only` those with the ids given, which must not need any other.

    Raises:
        WasmError, WasmLimitError: as for `read_module`.
    """
    state = ModuleState(limits)
    for section, start, end in sections(data, limits):
        if only is None or section in only:
            cursor = Cursor(data, start, end, f"the {SECTION_NAMES[section]} section")
            _READERS[section](cursor, state)
            cursor.done()
    return state


def _custom(cursor: Cursor, state: ModuleState) -> None:
    name = cursor.name("its name", state.limits.name_bytes)
    state.custom_sections.append(CustomSection(name, cursor.pos, cursor.end - cursor.pos))
    cursor.pos = cursor.end


def _types(cursor: Cursor, state: ModuleState) -> None:
    limits = state.limits
    for _ in range(cursor.count("types", 2, limits.types, "types")):
        form = cursor.byte("a type")
        if form != _FUNC_TYPE:
            if form in _NEWER_FORMS:
                feature, what = _NEWER_FORMS[form]
                raise cursor.unsupported(feature, f"{what} are not supported", cursor.pos - 1)
            raise cursor.error(f"type form 0x{form:02x}, expected 0x60 (a function)", cursor.pos - 1)
        offset = cursor.pos - 1
        params = _value_types(cursor, "parameters", limits)
        function_type = FuncType(params, _value_types(cursor, "results", limits))
        if not NAMED_TYPES.keys().isdisjoint(params + function_type.results):
            shown = printable(str(function_type), 100)
            state.use_types(params + function_type.results, f"type {len(state.types)}, {shown},", offset)
        state.types.append(function_type)


def _value_types(cursor: Cursor, what: str, limits: ModuleLimits) -> tuple[str, ...]:
    size = cursor.count(what, 1, limits.params, "params")
    return tuple([_value_type(cursor, what) for _ in range(size)])


def _value_type(cursor: Cursor, what: str) -> str:
    byte = cursor.byte(f"the type of {what}")
    value = VALUE_TYPES.get(byte)
    if value is None:
        at = cursor.pos - 1
        raise cursor.newer_type(byte, what, at) or cursor.error(f"value type 0x{byte:02x} of {what} is unknown", at)
    return value


def _imports(cursor: Cursor, state: ModuleState) -> None:
    limits = state.limits
    for _ in range(cursor.count("imports", 4, limits.imports, "imports")):
        module = cursor.name("an import's module", limits.name_bytes)
        name = cursor.name("an import's name", limits.name_bytes)
        kind = _kind(cursor, f"import {printable(module, 60)}.{printable(name, 60)}")
        state.imports.append(Import(module, name, kind, _import_type(cursor, state, kind)))
    state.imported_functions = len(state.functions)
    state.imported_globals = len(state.globals)


def _import_type(cursor: Cursor, state: ModuleState, kind: str) -> ExternType:
    if kind == "function":
        index = cursor.u32("a type index")
        if index >= len(state.types):
            raise cursor.error(f"type index {index}, but there are {len(state.types)} types")
        state.functions.append(index)
        return state.types[index]
    if kind == "table":
        state.tables.append(_table_type(cursor, state))
        return state.tables[-1]
    if kind == "memory":
        _add_memory(cursor, state)
        return state.memories[-1]
    state.globals.append(_global_type(cursor, state))
    return state.globals[-1]


def _kind(cursor: Cursor, what: str) -> str:
    byte = cursor.byte(f"the kind of {what}")
    if byte == 4:
        raise cursor.unsupported(
            EXCEPTIONS, f"{what} is a tag (exception handling), which is not supported", cursor.pos - 1
        )
    if byte == _EXACT_FUNCTION:
        raise cursor.unsupported(
            DESCRIPTORS, f"{what} is a function of an exact type, which is not supported", cursor.pos - 1
        )
    if byte > 3:
        raise cursor.error(f"the kind of {what} is {byte}, expected 0 to 3", cursor.pos - 1)
    return KINDS[byte]


def _functions(cursor: Cursor, state: ModuleState) -> None:
    limit = state.limits.functions - state.imported_functions
    state.functions += function_types(cursor, len(state.types), limit)


def _tables(cursor: Cursor, state: ModuleState) -> None:
    for _ in range(cursor.count("tables", 3, state.limits.tables, "tables")):
        if cursor.pos < cursor.end and cursor.data[cursor.pos] == _TABLE_WITH_INITIALIZER:
            raise cursor.unsupported(
                REFERENCES, "a table with an expression for its entries (typed references) is not supported"
            )
        state.tables.append(_table_type(cursor, state))


def _table_type(cursor: Cursor, state: ModuleState) -> TableType:
    if len(state.tables) >= state.limits.tables:
        raise WasmLimitError(f"more than {state.limits.tables} tables", cursor.pos, limit="tables")
    offset = cursor.pos
    element = _value_type(cursor, "a table")
    state.use_types((element,), f"table {len(state.tables)}", offset)
    if element not in ("funcref", "externref"):
        raise cursor.error(f"a table of {element}, expected funcref or externref", cursor.pos - 1)
    flags = cursor.byte("a table's limits")
    if flags > 1:
        _refuse_table(cursor, flags, cursor.pos - 1)
    offset = cursor.pos
    minimum = cursor.u32("a table's minimum")
    maximum = cursor.u32("a table's maximum") if flags else None
    if maximum is not None and maximum < minimum:
        raise cursor.error(f"a table's minimum {minimum} is over its maximum {maximum}", offset)
    if minimum > state.limits.table_entries:
        raise WasmLimitError(
            f"a table of {minimum} entries; at most {state.limits.table_entries} are allowed",
            offset,
            limit="table_entries",
        )
    return TableType(element, minimum, maximum)


def _refuse_table(cursor: Cursor, flags: int, offset: int) -> NoReturn:
    if flags > 7:
        raise cursor.error(f"limits of kind {flags} of a table, expected 0 or 1", offset)
    if flags & 4:
        raise cursor.unsupported(MEMORY64, "a 64-bit table (table64, of memory64) is not supported", offset)
    raise cursor.unsupported(THREADS, "a shared table (threads) is not supported", offset)


def _memories(cursor: Cursor, state: ModuleState) -> None:
    for _ in range(cursor.count("memories", 2, cursor.end, "memories")):
        _add_memory(cursor, state)


def _add_memory(cursor: Cursor, state: ModuleState) -> None:
    if state.memories:
        raise cursor.unsupported(MEMORIES, "a second memory: several memories are not supported", joint=", ")
    state.memories.append(_memory_type(cursor))


def _memory_type(cursor: Cursor) -> MemoryType:
    """One memory's limits; refuses the proposals that the engine does not know."""
    offset = cursor.pos
    flags = cursor.byte("a memory's limits")
    if flags > 1:
        _refuse_memory(cursor, flags, offset)
    minimum = cursor.u32("a memory's minimum")
    maximum = cursor.u32("a memory's maximum") if flags else None
    for size in (minimum, maximum):
        if size is not None and size > MAX_PAGES:
            raise cursor.error(f"a memory of {size} pages, a 32-bit memory has at most {MAX_PAGES}", offset)
    if maximum is not None and maximum < minimum:
        raise cursor.error(f"a memory's minimum of {minimum} pages is over its maximum of {maximum}", offset)
    return MemoryType(minimum, maximum)


def _refuse_memory(cursor: Cursor, flags: int, offset: int) -> NoReturn:
    if flags > 0x0F:
        raise cursor.error(f"limits of kind {flags} of a memory, expected 0 or 1", offset)
    if flags & 4:
        raise cursor.unsupported(MEMORY64, "a 64-bit memory (memory64) is not supported", offset)
    if flags & 2:
        raise cursor.unsupported(THREADS, "a shared memory (threads) is not supported", offset)
    raise cursor.unsupported(PAGE_SIZES, "a memory with a page size of its own is not supported", offset)


def _globals(cursor: Cursor, state: ModuleState) -> None:
    for _ in range(cursor.count("globals", 5, state.limits.globals - len(state.globals), "globals")):
        kind = _global_type(cursor, state)
        skip_constant(cursor, state, kind.value)
        state.globals.append(kind)


def _global_type(cursor: Cursor, state: ModuleState) -> GlobalType:
    offset = cursor.pos
    value = _value_type(cursor, "a global")
    state.use_types((value,), f"global {len(state.globals)}", offset)
    mutable = cursor.byte("a global's mutability")
    if mutable > 1:
        raise cursor.error(f"a global's mutability is {mutable}, expected 0 or 1", cursor.pos - 1)
    return GlobalType(value, mutable == 1)


def _exports(cursor: Cursor, state: ModuleState) -> None:
    names: set[str] = set()
    for _ in range(cursor.count("exports", 3, state.limits.exports, "exports")):
        offset = cursor.pos
        name = cursor.name("an export's name", state.limits.name_bytes)
        shown = f"export {printable(name, 60)}"
        if name in names:
            raise cursor.error(f"a second {shown}", offset)
        names.add(name)
        kind = _kind(cursor, shown)
        index = cursor.u32(f"the index of {shown}")
        space = state.index_space(kind)
        if index >= len(space):
            raise cursor.error(f"{shown} is {kind} {index}, but there are {len(space)}", offset)
        found: ExternType = state.types[state.functions[index]] if kind == "function" else space[index]
        state.exports.append(Export(name, kind, index, found))


def _start(cursor: Cursor, state: ModuleState) -> None:
    index = cursor.u32("a function index")
    if index >= len(state.functions):
        raise cursor.error(f"function {index}, but there are {len(state.functions)}")
    found = state.types[state.functions[index]]
    if found.params or found.results:
        raise cursor.error(f"function {index} has the type {found}, expected () -> ()")
    state.start = index


_READERS = {
    CUSTOM: _custom,
    1: _types,
    2: _imports,
    3: _functions,
    4: _tables,
    5: _memories,
    6: _globals,
    7: _exports,
    8: _start,
    9: read_elements,
    10: read_code,
    11: read_data,
    12: read_data_count,
}
