"""Which features of WebAssembly each engine may be given, beyond what every engine compiles right; and why. Plain data.

Every engine takes WebAssembly 2.0 without vectors and without `externref`: several results, bulk memory, `funcref`, several
tables, sign extension, conversions that saturate. What is accepted here must be read whole by `guardpool.wasm`, be switched
on in the engine's configuration, give the same results on every machine, and leave alone what the pool relies on: types of
the contract's functions, one capped memory, capped tables, and calls that end at the gate in a result or a trap.

- The contract's functions and imports have exact types without a v128, so a vector never crosses to the host. Other
  functions and globals may hold vectors, for the guard itself.
- A tail call of an import is an ordinary call whose caller's frame is gone: gate, bridge and traps see no difference. Tail
  calls without end do not fill the stack, so they are a loop, which the deadline ends.
- Arithmetic in constants is worked out when an instance is made, before any code of the guest runs. Its length is limited,
  and an offset that it puts outside memory or table is the same trap at the start as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from guardpool.wasm import features as f

_WASMTIME: Final = {
    f.SIMD: "SIMD of WebAssembly 2.0. On by default in Wasmtime since 0.33, and tested by its project against the "
    "specification; the wrong code that wasmer's older Cranelift makes of it was mended in Cranelift 0.85.1",
    f.TAIL_CALLS: "on by default in Wasmtime since 22.0, on every processor it has builds for",
    f.EXTENDED_CONST: "on by default in Wasmtime since 20.0; computed by its runtime, not compiled",
}

_WASMER: Final = {
    f.EXTERNREF: "part of WebAssembly 2.0, and always on. No function of the contract makes one, so a guard holds null only",
}

ACCEPTED: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType({"wasmtime": _WASMTIME, "wasmer": _WASMER})
"""Engine, then feature, then why that engine may be given it. Engines are in the order in which they are shown."""

_WASMER_LACKS: Final = {
    f.SIMD: "the engine miscompiles vectors",
    f.TAIL_CALLS: "the engine has no tail calls",
    f.EXTENDED_CONST: "the engine has no arithmetic in constants",
}

_WASMTIME_LACKS: Final = {
    # With it comes a garbage-collected heap in each store, for nothing but nulls.
    f.EXTERNREF: "the engine has it switched off together with garbage collection",
}

_NOT_FOR_GUARDS: Final = {
    f.RELAXED_SIMD: "its results differ between processors, and labels must not",
    f.THREADS: "a guard has one thread",
    # Wasmtime has it, but keeps exceptions on a garbage-collected heap whose size no cap of ours holds; and one that left the
    # guard would pass gate, bridge and host functions, which know results and traps only.
    f.EXCEPTIONS: "the engine has no exceptions",
    # Tables of such references need an expression for their first entries, which the rewriter that caps tables cannot read.
    f.REFERENCES: "the engine is for WebAssembly 2.0",
    f.GC: "the engine is for WebAssembly 2.0",  # its heap is apart from the memory that is capped
    f.MEMORIES: "a guard has one memory",
    f.MEMORY64: "a guard has a 32-bit memory",
    f.PAGE_SIZES: "a guard's memory has pages of 64 KiB",
    f.WIDE_ARITHMETIC: "the engine has it switched off, because the feature is not part of a WebAssembly standard yet",
    f.STACK_SWITCHING: "the engine has it switched off, because the feature is not part of a WebAssembly standard yet",
    f.DESCRIPTORS: "the engine is for WebAssembly 2.0",
    f.STRINGS: "the engine has none, and the feature never became part of a WebAssembly standard",
}


def accepted(engine: str) -> frozenset[str]:
    """The features that modules may use with an engine, beyond those of every engine.

    Args:
        engine: `"wasmtime"` or `"wasmer"`.
    """
    return frozenset(ACCEPTED[engine])


def why_not(engine: str, feature: str) -> str:
    """Why an engine may not be given a feature that it does not accept, as a clause without its end."""
    lacks = {"wasmtime": _WASMTIME_LACKS, "wasmer": _WASMER_LACKS}
    return _NOT_FOR_GUARDS.get(feature) or lacks[engine][feature]


def others(engine: str) -> tuple[str, ...]:
    """The other engines, in the order in which they are shown."""
    return tuple(name for name in ACCEPTED if name != engine)
