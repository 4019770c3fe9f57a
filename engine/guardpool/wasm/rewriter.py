"""Rewrite a module so that its memory and its tables cannot grow past a cap, and so that it exports what it keeps to itself.

Neither engine has such a limit of its own that holds here, but both honour a module's declared maximum: `memory.grow` and
`table.grow` return -1 past it. Without one, wasmer's `table.grow` ends the process if the entries cannot be allocated.
"""

from __future__ import annotations

from collections.abc import Mapping

from guardpool.sizes import MAX_PAGES
from guardpool.wasm.cursor import HEADER_BYTES, Cursor, sections
from guardpool.wasm.limits import DEFAULT_LIMITS, ModuleLimits
from guardpool.wasm.model import MemoryType, WasmError
from guardpool.wasm.reader import read_sections

_TYPE, _IMPORT, _TABLE, _MEMORY, _EXPORT = 1, 2, 4, 5, 7
_GLOBAL_KIND = 3
_REFERENCE_TYPES = {"funcref": 0x70, "externref": 0x6F}


def cap_memory(data: bytes, pages: int, limits: ModuleLimits = DEFAULT_LIMITS) -> bytes:
    """The module with its memory's maximum lowered to `pages`, all else byte for byte the same.

    Args:
        data: the module. Only its frame and the sections that can declare a memory are looked at.
        pages: the cap, in pages of 64 KiB, from 1 to 65,536.
        limits: how large the module may be.

    Returns:
        `data` itself if it has no memory or declares a maximum of `pages` or less; else a copy.

    Raises:
        WasmError: the module is malformed; its memory has more pages at the start than `pages`; it imports a memory,
            has several, or one that is shared or 64-bit.
        ValueError: `pages` is out of range.
    """
    if not 1 <= pages <= MAX_PAGES:
        raise ValueError(f"a memory's cap is from 1 to {MAX_PAGES} pages, not {pages}")
    state = read_sections(data, limits, frozenset((_TYPE, _IMPORT, _MEMORY)))
    if any(imported.kind == "memory" for imported in state.imports):
        raise WasmError("the memory is imported, so that no cap of its own would hold: it must be defined")
    if not state.memories:
        return data
    memory = state.memories[0]
    if memory.minimum > pages:
        raise WasmError(f"the memory has {memory.minimum} pages at the start, the cap is {pages}")
    if memory.maximum is not None and memory.maximum <= pages:
        return data
    return _with_section(data, limits, _MEMORY, b"\x01\x01" + _leb(memory.minimum) + _leb(pages))


def read_memory(data: bytes, limits: ModuleLimits = DEFAULT_LIMITS) -> MemoryType | None:
    """The memory that a module defines; None if it defines none. Only the sections that `cap_memory` looks at are read.

    Raises:
        WasmError: the module is malformed.
    """
    state = read_sections(data, limits, frozenset((_TYPE, _IMPORT, _MEMORY)))
    return state.memories[0] if state.memories else None


def cap_tables(data: bytes, limits: ModuleLimits = DEFAULT_LIMITS) -> bytes:
    """The module with each table's maximum lowered to `limits.table_entries`, all else byte for byte the same.

    Args:
        data: the module. Only its frame and the sections that can declare a table are looked at.
        limits: how large the module may be, and how many entries a table may ever have.

    Returns:
        `data` itself if every table declares a maximum that is low enough; else a copy.

    Raises:
        WasmError: the module is malformed; it imports a table, or has one that is shared, 64-bit or of other references.
        WasmLimitError: a table has more entries at the start, or there are too many tables.
    """
    state = read_sections(data, limits, frozenset((_TYPE, _IMPORT, _TABLE)))
    if any(imported.kind == "table" for imported in state.imports):
        raise WasmError("a table is imported, so that no cap of its own would hold: it must be defined")
    cap = limits.table_entries
    if all(table.maximum is not None and table.maximum <= cap for table in state.tables):
        return data
    body = _leb(len(state.tables))
    for table in state.tables:
        maximum = cap if table.maximum is None else min(table.maximum, cap)
        body += bytes((_REFERENCE_TYPES[table.element], 1)) + _leb(table.minimum) + _leb(maximum)
    return _with_section(data, limits, _TABLE, body)


def export_globals(data: bytes, names: Mapping[str, int], limits: ModuleLimits = DEFAULT_LIMITS) -> bytes:
    """The module with more exports: globals under new names, all else byte for byte the same.

    Args:
        data: the module, which has exports already and was read by `read_module`.
        names: name and index of each global. No export may have such a name yet.
        limits: how large the module may be.

    Raises:
        WasmError: the frame is malformed.
        ValueError: the module has no exports.
    """
    added = b"".join(
        _leb(len(name.encode())) + name.encode() + bytes((_GLOBAL_KIND,)) + _leb(index) for name, index in names.items()
    )
    for section, start, end in sections(data, limits):
        if section == _EXPORT:
            cursor = Cursor(data, start, end, "the export section")
            count = cursor.u32("the number of exports")
            return _with_section(data, limits, _EXPORT, _leb(count + len(names)) + data[cursor.pos : end] + added)
    raise ValueError("the module has no exports")


def _with_section(data: bytes, limits: ModuleLimits, wanted: int, body: bytes) -> bytes:
    """The module with another body for a section that it has."""
    header = HEADER_BYTES
    for section, _, end in sections(data, limits):
        if section == wanted:
            return b"".join((data[: header + 1], _leb(len(body)), body, data[end:]))
        header = end
    raise AssertionError("unreachable: what is replaced was read from its section")


def _leb(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
