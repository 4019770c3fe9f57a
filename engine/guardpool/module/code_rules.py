"""The rule about code: guards use WebAssembly 2.0 without its vector instructions, because the engine miscompiles them.

Checking it takes a walk over every instruction, so it is done before a module is compiled and by `guardpool inspect`, and
not again when a compiled module comes from the cache: an artifact's name holds a digest of this very rule.
"""

from __future__ import annotations

from guardpool.module.rules import Problem
from guardpool.printable import printable
from guardpool.wasm import ModuleInfo, find_refused, instructions as proposals
from guardpool.wasm.custom_sections import function_name
from guardpool.wasm.limits import ModuleLimits

_NO_SIMD = (
    "the engine miscompiles vectors: build without SIMD (for Rust -C target-feature=-simd128, for C -mno-simd128, "
    "for Zig a -mcpu without simd128)"
)
_ADVICE = {
    proposals.SIMD: _NO_SIMD,
    proposals.THREADS: "a guard has one thread: build without them (for Rust -C target-feature=-atomics, for C no -pthread)",
    proposals.TAIL_CALLS: "the engine has no tail calls: build without them (for Rust -C target-feature=-tail-call, for C "
    "-mno-tail-call)",
    proposals.EXCEPTIONS: "the engine has no exceptions: build without them (for Rust -C panic=abort, for C++ -fno-exceptions)",
    proposals.REFERENCES: "the engine is for WebAssembly 2.0: build without garbage collection and typed references",
    proposals.MEMORIES: "a guard has one memory: build without the multi-memory feature",
    proposals.UNKNOWN: "it is not an instruction of WebAssembly 2.0: build for that version",
    proposals.MALFORMED: "the module is damaged: build it again",
}


def code_problem(wasm: bytes, info: ModuleInfo, limits: ModuleLimits) -> Problem | None:
    """The first thing found in a module that guards may not use, or None.

    Args:
        wasm: the module.
        info: what `read_module` told of it, within the same limits.
        limits: how large it may be.
    """
    found = find_refused(wasm, info, limits)
    if found is None:
        return _vector_in_types(info)
    name = _name_of_function(wasm, info, found.function)
    who = f"function {found.function}" + (f" ({name})" if name else "")
    return Problem(
        found.family if found.family in (proposals.SIMD, proposals.MALFORMED) else "unsupported_instruction",
        name,
        f"{who} has {found.what} at byte {found.offset}: {_ADVICE[found.family]}",
    )


def _name_of_function(wasm: bytes, info: ModuleInfo, index: int) -> str:
    """What the name section or else an export calls a function: printable, and empty for a function without a name."""
    name = function_name(wasm, info, index)
    if name is None:
        exports = (export.name for export in info.exports if export.kind == "function" and export.index == index)
        name = next(exports, "")
    return printable(name, 60)


def _vector_in_types(info: ModuleInfo) -> Problem | None:
    """Vectors that no function uses, but could be handed."""
    for index, function_type in enumerate(info.types):
        if "v128" in function_type.params or "v128" in function_type.results:
            what = f"type {index}, {printable(str(function_type), 100)}, holds a v128 (SIMD)"
            return Problem(proposals.SIMD, "", f"{what}: {_NO_SIMD}")
    for index, kind in enumerate(info.globals):
        if kind.value == "v128":
            return Problem(proposals.SIMD, "", f"global {index} is a v128 (SIMD): {_NO_SIMD}")
    return None
