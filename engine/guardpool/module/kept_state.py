"""Where a guard keeps state from one call to the next, and whether that can be put back from outside.

A guard's state is its memory, its mutable globals, the entries of its tables, and which of its segments it has dropped.
Memory can always be put back. Globals can if the module exports them, so what is compiled exports all of them, under names
that no guard has. What a function has done to a table or to a segment cannot be undone; but nearly no compiler makes
functions that do anything to them, and a module without such instructions has the same tables for ever.
"""

from __future__ import annotations

from guardpool.wasm import (
    DEFAULT_LIMITS,
    ModuleInfo,
    ModuleLimits,
    cap_memory,
    cap_tables,
    changes_tables_or_segments,
    export_globals,
    read_module,
)

# Their values are integers, which every engine hands out and takes back bit for bit.
_INTEGERS = ("i32", "i64")


def as_compiled(wasm: bytes, memory_pages: int) -> bytes:
    """The module that is compiled for a guard: memory and tables capped, and the globals of `settable_globals` exported.

    Raises:
        WasmError: the module is malformed, or its memory has more than `memory_pages` at the start.
    """
    info = read_module(wasm)
    names = _settable(wasm, info, DEFAULT_LIMITS)
    exported = export_globals(wasm, names) if names else wasm
    return cap_tables(cap_memory(exported, memory_pages))


def settable_globals(wasm: bytes, limits: ModuleLimits = DEFAULT_LIMITS) -> tuple[str, ...] | None:
    """The names under which `as_compiled` exports the mutable globals; None if memory and these are not all of its state.

    Raises:
        WasmError: the module is malformed.
    """
    names = _settable(wasm, read_module(wasm, limits), limits)
    return None if names is None else tuple(names)


def _settable(wasm: bytes, info: ModuleInfo, limits: ModuleLimits) -> dict[str, int] | None:
    """Name and index of every mutable global; None if there is state that cannot be put back."""
    mutable = [index for index, each in enumerate(info.globals) if each.mutable]
    if any(info.globals[index].value not in _INTEGERS for index in mutable):
        return None
    if len(info.exports) + len(mutable) > limits.exports or changes_tables_or_segments(wasm, limits):
        return None
    prefix = "guardpool.global."
    while any(export.name.startswith(prefix) for export in info.exports):
        prefix += "."
    return {f"{prefix}{index}": index for index in mutable}
