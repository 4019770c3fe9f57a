"""The rule about features: guards use WebAssembly 2.0 without vectors, and what else their engine compiles right.

Which features those are for each engine is data: `guardpool.module.engine_features`. Checking code takes a walk over every
instruction, so it is done before a module is compiled and by `guardpool inspect`, and not again when a compiled module
comes from the cache: an artifact's name holds the engine and a digest of this very rule.
"""

from __future__ import annotations

from guardpool.machine.engines import ENGINES
from guardpool.module.engine_features import accepted, others, why_not
from guardpool.module.rules import Problem
from guardpool.printable import printable
from guardpool.wasm import ModuleInfo, find_refused
from guardpool.wasm.custom_sections import function_name
from guardpool.wasm.features import SIMD, WITHOUT
from guardpool.wasm.instructions import MALFORMED, OVERLONG, UNKNOWN
from guardpool.wasm.limits import ModuleLimits

_NOT_A_FEATURE = {
    UNKNOWN: "it is not an instruction of WebAssembly 2.0: build for that version",
    OVERLONG: "compilers do not write it so, and not every engine reads it: build the module again",
    MALFORMED: "the module is damaged: build it again",
}


def code_problem(wasm: bytes, info: ModuleInfo, limits: ModuleLimits, engine: str) -> Problem | None:
    """The first thing found in a module that guards may not use with an engine, or None.

    Args:
        wasm: the module.
        info: what `read_module` told of it, within the same limits.
        limits: how large it may be.
        engine: `"wasmtime"` or `"wasmer"`; the message names it, and says whether the other one would take the code.
    """
    found = _found(wasm, info, limits, engine)
    if found is None or found.code == MALFORMED:
        return found
    takers = [other for other in others(engine) if _found(wasm, info, limits, other) is None]
    return Problem(found.code, found.name, f"{found.message} ({_told(engine, takers)})")


def neither_engine() -> str:
    """What is said of a module that no engine takes, in parentheses."""
    first, *rest = ("wasmtime", *others("wasmtime"))
    return f"neither {first} nor {' nor '.join(rest)} takes it"


def _told(engine: str, takers: list[str]) -> str:
    if not takers:
        return neither_engine()
    taker = takers[0]
    facts = ENGINES[taker]
    where = "" if facts.has_builds_for_this_python else f" on {facts.spelled_pythons}"
    return f'the engine is {engine}; {taker} takes it: choose it with engine="{taker}" or --engine {taker}{where}'


def _found(wasm: bytes, info: ModuleInfo, limits: ModuleLimits, engine: str) -> Problem | None:
    allowed = accepted(engine)
    found = find_refused(wasm, info, limits, allowed=allowed)
    if found is not None:
        name = _name_of_function(wasm, info, found.function)
        who = f"function {found.function}" + (f" ({name})" if name else "")
        return Problem(
            found.family if found.family in (SIMD, MALFORMED) else "unsupported_instruction",
            name,
            f"{who} has {found.what} at byte {found.offset}: {_advice(engine, found.family)}",
        )
    for use in info.uses:
        if use.feature not in allowed:
            code = SIMD if use.feature == SIMD else "unsupported"
            what = f"{printable(use.what, 200)}, at byte {use.offset}"
            return Problem(code, "", f"{what}: {_advice(engine, use.feature)}")
    return None


def _advice(engine: str, family: str) -> str:
    """Why the engine is not given it, and how to build without."""
    return _NOT_A_FEATURE.get(family) or f"{why_not(engine, family)}: {WITHOUT[family]}"


def _name_of_function(wasm: bytes, info: ModuleInfo, index: int) -> str:
    """What the name section or else an export calls a function: printable, and empty for a function without a name."""
    name = function_name(wasm, info, index)
    if name is None:
        exports = (export.name for export in info.exports if export.kind == "function" and export.index == index)
        name = next(exports, "")
    return printable(name, 60)
