"""How large a module may be before it is refused unread."""

from __future__ import annotations

from dataclasses import dataclass

from guardpool.sizes import MIB


@dataclass(frozen=True)
class ModuleLimits:
    """What a module may hold. Past a limit `read_module` raises `WasmLimitError`, which names it.

    Measured: a guard with a JSON parser holds 45 KB of code in 100 functions when optimised and 430 KB in 450 when not;
    a full GitHub guard 280 KB. The limits leave room far above that; what passes compiles within the compiler's limits.

    Args:
        module_bytes: the whole file, debug information included.
        code_bytes: the code section.
        function_bytes: one function's body.
        types: function types.
        params: parameters of one function type; the same for results.
        imports: imports of all kinds.
        exports: exports of all kinds.
        functions: functions, imported ones included.
        locals: local variables of one function, its parameters included.
        total_locals: local variables of all functions together.
        globals: globals, imported ones included.
        tables: tables, imported ones included.
        table_entries: entries that one table has at the start, and that it can ever have.
        element_segments: segments that fill tables.
        element_items: their entries, all together.
        data_segments: segments that fill memory.
        constant_instructions: instructions of one constant expression.
        name_bytes: one name, in UTF-8.
        custom_sections: custom sections.
    """

    # Code compiles at about 1.4 MB/s; a debug build's DWARF sections are only skipped, so files may be larger.
    module_bytes: int = 64 * MIB
    code_bytes: int = 16 * MIB
    # Unoptimised Zig makes functions of 50 KB. Cranelift's time grows with the square of the number of blocks: 150 KB
    # of nothing but `if` took 2 s, 300 KB 8 s, 1 MB more than 90 s; its memory 0.5 KB a byte.
    function_bytes: int = 512 * 1024
    # V8 and wasmparser: 1,000,000, 1,000 and 1,000. Real modules have tens of types with up to 20 parameters.
    types: int = 10_000
    params: int = 1_000
    # A guard can use 48: two of `env` and the functions of WASI. More is possible because one may be imported twice.
    imports: int = 1_000
    # V8: 100,000. The pool calls six at most; what else is exported is a linker's habit.
    exports: int = 10_000
    # V8 and wasmparser: 1,000,000.
    functions: int = 100_000
    # The engine's own limit, and V8's. By itself it lets a module of 80 KB declare 500 million; unoptimised Zig has
    # 100 a function on average and 4,700 at most.
    locals: int = 50_000
    total_locals: int = 5_000_000
    # V8 and wasmparser: 1,000,000. Compilers make a handful.
    globals: int = 10_000
    # wasmparser: 100.
    tables: int = 16
    # Measured: 8 bytes an entry with both engines, so that all tables of a guard take 13 MB of every worker at most, which
    # RLIMIT_DATA and max_rss_bytes count. wasmtime's pooling allocator allows 20,000, and guards have a few thousand.
    table_entries: int = 100_000
    # V8: 10,000,000 each. Linkers make one or two segments, with an item for each function whose address is taken.
    element_segments: int = 10_000
    element_items: int = 200_000
    # V8 and wasmparser: 100,000.
    data_segments: int = 100_000
    # The engine works them out whenever an instance is made. Linkers write one, or three for position-independent code.
    constant_instructions: int = 100
    # V8 and wasmparser: 100,000. Mangled names of Rust and C++ reach a few thousand.
    name_bytes: int = 20_000
    # Each costs an object of ours, and an empty one three bytes of the file.
    custom_sections: int = 1_000


DEFAULT_LIMITS = ModuleLimits()
