"""Reading and rewriting wasm binaries, without an engine and without running anything.

`read_module` checks a module's frame strictly and returns what it declares; `find_refused` looks through its functions
for what guards may not use, `changes_tables_or_segments` for what changes tables and segments; `cap_memory`, `cap_tables` and
`export_globals` rewrite what its memory and its tables can grow to and what it exports; `recognise` tells what a file is if it
is not a module. All of them take bytes from any source: the answer is a value or a `WasmError`, in time linear in the input
and memory that is a small multiple of it.
"""

from __future__ import annotations

from guardpool.wasm.features import FeatureUse
from guardpool.wasm.instructions import Refusal, changes_tables_or_segments, find_refused
from guardpool.wasm.limits import DEFAULT_LIMITS, ModuleLimits
from guardpool.wasm.model import (
    CodeSize,
    CustomSection,
    Export,
    FuncType,
    GlobalType,
    Import,
    MemoryType,
    ModuleInfo,
    TableType,
    WasmError,
    WasmLimitError,
    WasmUnsupportedError,
)
from guardpool.wasm.reader import read_module
from guardpool.wasm.recognise import recognise
from guardpool.wasm.rewriter import cap_memory, cap_tables, export_globals, read_memory

__all__ = [
    "DEFAULT_LIMITS",
    "CodeSize",
    "CustomSection",
    "Export",
    "FeatureUse",
    "FuncType",
    "GlobalType",
    "Import",
    "MemoryType",
    "ModuleInfo",
    "ModuleLimits",
    "Refusal",
    "TableType",
    "WasmError",
    "WasmLimitError",
    "WasmUnsupportedError",
    "cap_memory",
    "cap_tables",
    "changes_tables_or_segments",
    "export_globals",
    "find_refused",
    "read_memory",
    "read_module",
    "recognise",
]
