"""The features of WebAssembly that not every engine takes: their names, and how to build without each.

The reader and the walk over instructions say which feature they met; whether an engine takes it is not decided here.
A few features are read whole, so that a module that uses them can be let through: `READ`. All others are only recognised.

Source: the core specification 3.0 and the proposals at github.com/WebAssembly; the flags are those of rustc's `wasm32`
targets, clang, Zig, TinyGo and Emscripten.
"""

from __future__ import annotations

from typing import Final

import msgspec

SIMD: Final = "simd"
EXTERNREF: Final = "externref"
TAIL_CALLS: Final = "tail_calls"
EXTENDED_CONST: Final = "extended_const"
RELAXED_SIMD: Final = "relaxed_simd"
THREADS: Final = "threads"
EXCEPTIONS: Final = "exceptions"
REFERENCES: Final = "typed_references"
GC: Final = "gc"
MEMORIES: Final = "several_memories"
MEMORY64: Final = "memory64"
PAGE_SIZES: Final = "custom_page_sizes"
WIDE_ARITHMETIC: Final = "wide_arithmetic"
STACK_SWITCHING: Final = "stack_switching"
DESCRIPTORS: Final = "custom_descriptors"
STRINGS: Final = "strings"

READ: Final = frozenset((SIMD, EXTERNREF, TAIL_CALLS, EXTENDED_CONST))
"""What is read whole: each form of it is known, so that nothing can hide behind one."""

NAMED_TYPES: Final = {"v128": SIMD, "externref": EXTERNREF}
"""The types of values, by their names in the text format, that are of a feature in `READ`."""

_BY_HAND: Final = "no compiler does so by itself"

WITHOUT: Final[dict[str, str]] = {
    SIMD: "build without SIMD (for Rust -C target-feature=-simd128, for C -mno-simd128, for Zig a -mcpu without simd128)",
    EXTERNREF: "build without references to the host's objects (for C no __externref_t, for wasm-bindgen without "
    "--reference-types)",
    TAIL_CALLS: "build without them (for Rust -C target-feature=-tail-call, for C -mno-tail-call, for Zig a -mcpu without "
    "tail_call)",
    EXTENDED_CONST: "build without it (for Rust -C target-feature=-extended-const, for C -mno-extended-const, for Zig a -mcpu "
    "without extended_const), and not as position-independent code",
    RELAXED_SIMD: "build without it (for Rust -C target-feature=-relaxed-simd, for C -mno-relaxed-simd, for Zig a -mcpu "
    "without relaxed_simd)",
    THREADS: "build the guard without atomics (for Rust -C target-feature=-atomics and not a target with threads, for C no "
    "-pthread and -mno-atomics, for Zig -fsingle-threaded and a -mcpu without atomics, for TinyGo -scheduler=none)",
    EXCEPTIONS: "build without them (for Rust -C panic=abort, for C++ -fno-exceptions, for C no setjmp, for Zig a -mcpu "
    "without exception_handling)",
    REFERENCES: "build without it; compilers of Rust, C, Zig and Go do not use it by themselves, those of languages with "
    "garbage collection do",
    GC: "build the guard in a language that manages linear memory itself (Rust, C, Zig, TinyGo), not with one that "
    "compiles to WebAssembly's own objects (Kotlin, Dart, OCaml, Java)",
    MEMORIES: "build the guard with one (for a linker that merges modules, without --multi-memory)",
    MEMORY64: "build the guard for wasm32 (for Rust wasm32-wasip1, for C --target=wasm32, for Zig -target wasm32-wasi, for "
    "Emscripten without -sMEMORY64)",
    PAGE_SIZES: "build the guard with pages of 64 KiB (for wasm-ld without --page-size)",
    WIDE_ARITHMETIC: "build without it (for Rust -C target-feature=-wide-arithmetic, for C -mno-wide-arithmetic, for Zig a "
    "-mcpu without wide_arithmetic)",
    STACK_SWITCHING: f"build without it; {_BY_HAND}",
    DESCRIPTORS: "build the guard without garbage collection and its descriptors",
    STRINGS: f"build without it; {_BY_HAND}",
}
"""How to build without a feature, as the end of a sentence."""


class FeatureUse(msgspec.Struct, frozen=True):
    """A place at which a module uses a feature of `READ`, outside its functions' code.

    Attributes:
        feature: which one.
        what: what stands there, e.g. `"type 3, (v128) -> i32, holds a v128 (SIMD)"`; not printable as it is.
        offset: where in the file.
    """

    feature: str
    what: str
    offset: int


# The types of values that have one byte, by that byte: the feature each is of, and what it is. What is not here, and not
# one of WebAssembly 2.0, is not a type.
NEWER_TYPES: Final[dict[int, tuple[str, str]]] = {
    0x75: (STACK_SWITCHING, "nocont"),
    0x74: (EXCEPTIONS, "noexn"),
    0x73: (GC, "nofunc"),
    0x72: (GC, "noextern"),
    0x71: (GC, "none"),
    0x6E: (GC, "any"),
    0x6D: (GC, "eq"),
    0x6C: (GC, "i31"),
    0x6B: (GC, "struct"),
    0x6A: (GC, "array"),
    0x69: (EXCEPTIONS, "exn"),
    0x68: (STACK_SWITCHING, "cont"),
    0x67: (STRINGS, "string"),
    0x65: (THREADS, "shared"),
    0x64: (REFERENCES, "reference that is never null"),
    0x63: (REFERENCES, "reference that names its type"),
}

FEATURE_TITLES: Final[dict[str, str]] = {
    SIMD: "SIMD",
    EXTERNREF: "references to the host's objects",
    TAIL_CALLS: "tail calls",
    EXTENDED_CONST: "arithmetic in constants (extended-const)",
    RELAXED_SIMD: "relaxed SIMD",
    THREADS: "threads",
    EXCEPTIONS: "exception handling",
    REFERENCES: "typed references",
    GC: "garbage collection",
    MEMORIES: "several memories",
    MEMORY64: "memory64",
    PAGE_SIZES: "custom page sizes",
    WIDE_ARITHMETIC: "wide arithmetic",
    STACK_SWITCHING: "stack switching",
    DESCRIPTORS: "custom descriptors",
    STRINGS: "string references",
}
"""What people call each."""
