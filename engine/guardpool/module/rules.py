"""The load checks of the guard contract, over what a module declares.

Each function here looks at one side of a module and adds to `Findings`; nothing is read from bytes and nothing is
raised. Findings are in the order in which a reader should see them: what is missing before what is wrong before what
is merely unwise.

Source: the guard contract, "The module".
"""

from __future__ import annotations

import msgspec

from guardpool.module.imports import ENV, PREVIEW1, PREVIEW1_MODULE as WASI
from guardpool.printable import printable
from guardpool.sizes import MIB, PAGE_BYTES
from guardpool.wasm.model import Export, FuncType, Import, MemoryType, ModuleInfo

_I32 = "i32"
LABEL = FuncType((_I32,) * 4, (_I32,))
ALLOC = FuncType((_I32,), (_I32,))
DEALLOC = FuncType((_I32, _I32), ())
INITIALIZE = FuncType((), ())

REQUIRED = {"label_agent": LABEL, "label_resource": LABEL, "label_response": LABEL}
OPTIONAL = {"alloc": ALLOC, "dealloc": DEALLOC, "_initialize": INITIALIZE}
_KNOWN_IMPORTS = {
    module: {name: FuncType(*function_type) for name, function_type in functions.items()}
    for module, functions in (("env", ENV), (WASI, PREVIEW1))
}

# Modules that other worlds import from; each tells how the guard was built.
_BUILT_FOR = {
    "wasi_unstable": "the guard was built for WASI preview 0; build it for preview 1 (wasm32-wasip1)",
    "gojs": "the guard was built by standard Go for a browser; build it with TinyGo",
    "go": "the guard was built by standard Go for a browser; build it with TinyGo",
    "wbg": "the guard was built with wasm-bindgen for JavaScript; build it without",
    "__wbindgen_placeholder__": "the guard was built with wasm-bindgen for JavaScript; build it without",
    "wasix_32v1": "the guard was built for WASIX; build it for WASI preview 1 (wasm32-wasip1)",
}

# Without `alloc` and `dealloc` buffers go behind the memory there is at the start, so it must be able to grow.
_LEAST_ROOM_PAGES = 2


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a module, or unwise.

    Args:
        code: a stable word for programs, e.g. `"missing_export"`, `"wrong_type"`, `"unknown_import"`, `"simd"`.
        name: the export, import or function it is about, printable; empty if it is about the module.
        message: one line for people, printable, with what there is and what there must be.
    """

    code: str
    name: str
    message: str


class Findings:
    """What the checks found: a module with problems is not a guard, one with warnings still is."""

    __slots__ = ("problems", "warnings")

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, code: str, name: str, message: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(code, name, message))

    def warn(self, code: str, name: str, message: str) -> None:
        """Add a warning."""
        self.warnings.append(Problem(code, name, message))


def check_declarations(info: ModuleInfo, memory_pages: int) -> Findings:
    """Run every load check of the contract on what a module declares.

    Args:
        info: what `read_module` told of it.
        memory_pages: the cap of its memory, in pages of 64 KiB.
    """
    findings = Findings()
    exports = {export.name: export for export in info.exports}
    _check_kind_of_module(exports, findings)
    _check_required(exports, findings)
    _check_optional(exports, findings)
    _check_memory(info, exports, memory_pages, findings)
    for imported in info.imports:
        found = import_problem(imported)
        if found is not None:
            findings.problems.append(found)
    _check_running_code(info, exports, findings)
    return findings


def export_problem(export: Export, wanted: FuncType) -> Problem | None:
    """What is wrong with an export that the contract gives a type, or None."""
    if export.kind != "function":
        article = "an" if export.kind[0] in "aeiou" else "a"
        return Problem(
            "wrong_kind",
            export.name,
            f"export {export.name} is {article} {export.kind}; it must be a function {wanted}",
        )
    if export.type != wanted:
        return Problem(
            "wrong_type", export.name, f"export {export.name} has the type {_shown(export.type)}; it must have {wanted}"
        )
    return None


def import_problem(imported: Import) -> Problem | None:
    """What is wrong with an import, or None."""
    name = import_name(imported)
    if imported.kind in ("memory", "table"):
        advice = " and export it as memory" if imported.kind == "memory" else ""
        return Problem(
            f"imported_{imported.kind}",
            name,
            f"import {name} is a {imported.kind}: a guard must define its own {imported.kind}{advice}",
        )
    known = _KNOWN_IMPORTS.get(imported.module, {}).get(imported.name)
    if known is None:
        what = _shown(imported.type) if imported.kind == "function" else f"(a {imported.kind})"
        return Problem("unknown_import", name, f"import {name} {what} is unknown: {_import_advice(imported.module)}")
    if imported.kind != "function":
        return Problem("wrong_kind", name, f"import {name} is a {imported.kind}; it must be a function {known}")
    if imported.type != known:
        return Problem("wrong_type", name, f"import {name} has the type {_shown(imported.type)}; it must have {known}")
    return None


def import_name(imported: Import) -> str:
    """How messages name an import: `module.name`, printable."""
    return f"{printable(imported.module, 60)}.{printable(imported.name, 60)}"


def _import_advice(module: str) -> str:
    if module == "env":
        return "env has call_backend and host_log"
    if module == WASI:
        return "it is not a function of WASI preview 1"
    if module.startswith("wasi:"):
        return "the guard was built for WASI preview 2; build it for preview 1 (wasm32-wasip1)"
    return _BUILT_FOR.get(module, f"a guard may import env.call_backend, env.host_log and functions of {WASI}")


def _shown(kind: object) -> str:
    return printable(str(kind), 100)


def _check_kind_of_module(exports: dict[str, Export], findings: Findings) -> None:
    if "_start" in exports and not REQUIRED.keys() & exports.keys():
        findings.problem(
            "command_module",
            "_start",
            f"it exports _start and none of {', '.join(REQUIRED)}: it was built as a command (standard Go), "
            "not as a library (TinyGo, Rust cdylib, Zig)",
        )


def _check_required(exports: dict[str, Export], findings: Findings) -> None:
    folded: dict[str, str] | None = None
    for name, wanted in REQUIRED.items():
        export = exports.get(name)
        if export is not None:
            found = export_problem(export, wanted)
            if found is not None:
                findings.problems.append(found)
            continue
        if folded is None:
            folded = {_fold(other): other for other in exports}
        similar = folded.get(_fold(name))
        there = f" (there is {printable(similar, 60)})" if similar is not None else ""
        findings.problem("missing_export", name, f"export {name} is missing{there}; it must be a function {wanted}")


def _fold(name: str) -> str:
    """A name as it would be without its language's habits: labelAgent, label-agent, _label_agent."""
    return name.replace("_", "").replace("-", "").lower()


def _check_optional(exports: dict[str, Export], findings: Findings) -> None:
    for name, wanted in OPTIONAL.items():
        export = exports.get(name)
        found = None if export is None else export_problem(export, wanted)
        if found is not None:
            findings.problems.append(found)
    missing = [name for name in ("alloc", "dealloc") if name not in exports]
    if len(missing) == 2:
        findings.warn(
            "no_allocator", "alloc", "it exports no alloc and dealloc: buffers go to the end of memory, which is grown"
        )
    elif missing:
        there = "dealloc" if missing == ["alloc"] else "alloc"
        findings.warn(
            "half_allocator",
            there,
            f"it exports {there} but not {missing[0]}: they are only used together, so buffers go to the end of memory",
        )


def _check_memory(info: ModuleInfo, exports: dict[str, Export], memory_pages: int, findings: Findings) -> None:
    if not info.memories:
        findings.problem("no_memory", "memory", "it has no memory: a guard must define one and export it as memory")
        return
    export = exports.get("memory")
    if export is None:
        other = next((name for name, each in exports.items() if each.kind == "memory"), None)
        has = "its memory is not exported" if other is None else f"its memory is exported as {printable(other, 60)}"
        findings.problem("missing_export", "memory", f"{has}; it must be exported as memory")
    elif export.kind != "memory":
        findings.problem("wrong_kind", "memory", f"export memory is a {export.kind}; it must be the memory")
    memory = info.memories[0]
    if memory.minimum > memory_pages:
        findings.problem(
            "memory_over_cap",
            "memory",
            f"its memory has {memory.minimum} pages at the start ({_mib(memory.minimum)} MiB), the cap is "
            f"{memory_pages} ({_mib(memory_pages)} MiB): raise memory_pages or build the guard with less",
        )
    elif not {"alloc", "dealloc"} <= exports.keys():
        room = effective_maximum(memory, memory_pages) - memory.minimum
        if room < _LEAST_ROOM_PAGES:
            findings.warn(
                "no_room",
                "memory",
                f"its memory can grow by only {room} pages, and without alloc and dealloc that is where buffers go",
            )


def effective_maximum(memory: MemoryType, memory_pages: int) -> int:
    """How many pages the memory can have: the declared maximum or the cap, whichever is lower."""
    return memory_pages if memory.maximum is None else min(memory.maximum, memory_pages)


def _mib(pages: int) -> str:
    return f"{pages * PAGE_BYTES / MIB:g}"


def _check_running_code(info: ModuleInfo, exports: dict[str, Export], findings: Findings) -> None:
    if info.start is not None:
        findings.warn(
            "start_function", "", f"its start section runs function {info.start} whenever an instance is made"
        )
    if "_start" in exports and REQUIRED.keys() <= exports.keys():
        findings.warn("start_export", "_start", "it exports _start, which is never called")
