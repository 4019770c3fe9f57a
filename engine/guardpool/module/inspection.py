"""Check a module against the guard contract before anything of it runs.

`inspect` tells everything about a module, good or bad; `check_module` raises for a bad one. Both use the same rules, so
what `guardpool inspect` shows is what a pool would do. Every name and message in an `Inspection` is safe to print: what
came from the module went through `printable`.

Source: the guard contract, "The module".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from guardpool.errors import CallerError, ModuleError
from guardpool.machine.engines import engine_meant
from guardpool.module import rules
from guardpool.module.code_rules import code_problem, neither_engine
from guardpool.module.engine_features import ACCEPTED
from guardpool.module.imports import note_on
from guardpool.module.kept_state import settable_globals
from guardpool.module.rules import Problem
from guardpool.printable import printable
from guardpool.sizes import DEFAULT_MEMORY_PAGES, MAX_PAGES
from guardpool.wasm import (
    Export,
    Import,
    ModuleInfo,
    ModuleLimits,
    WasmError,
    WasmLimitError,
    WasmUnsupportedError,
    read_module,
    recognise,
)
from guardpool.wasm.custom_sections import Metadata, read_metadata
from guardpool.wasm.limits import DEFAULT_LIMITS


class ExportVerdict(msgspec.Struct, frozen=True):
    """One export. `verdict` is `"ok"`, `"wrong"` or `"unused"`; `note` says why, or what it is for."""

    name: str
    kind: str
    type: str
    verdict: str
    note: str


class ImportVerdict(msgspec.Struct, frozen=True):
    """One import. `verdict` is `"ok"`, `"wrong"` or `"unknown"`; `note` says why, or what becomes of its calls."""

    module: str
    name: str
    kind: str
    type: str
    verdict: str
    note: str


class MemorySummary(msgspec.Struct, frozen=True):
    """The module's memory, in pages of 64 KiB.

    Args:
        minimum_pages: what it has at the start.
        maximum_pages: what it declares, or None.
        effective_pages: what it can grow to under the cap.
        exported_as: its name among the exports, or None.
        imported: whether it comes from outside, which the contract does not allow.
    """

    minimum_pages: int
    maximum_pages: int | None
    effective_pages: int
    exported_as: str | None
    imported: bool


class SectionSize(msgspec.Struct, frozen=True):
    """A custom section's name and the bytes of its content."""

    name: str
    bytes: int


class Sizes(msgspec.Struct, frozen=True):
    """How large the module is."""

    bytes: int
    functions: int = 0
    imported_functions: int = 0
    code_bytes: int = 0
    largest_function_bytes: int = 0
    locals: int = 0
    data_bytes: int = 0
    debug_bytes: int = 0
    custom_sections: tuple[SectionSize, ...] = ()


class EngineVerdict(msgspec.Struct, frozen=True):
    """What an engine would do with the module.

    Args:
        accepts: whether a pool with this engine would take it.
        problem: the first reason why not and the way out, one line; None if it is accepted.
    """

    accepts: bool
    problem: str | None = None


class Inspection(msgspec.Struct, frozen=True):
    """Everything that can be told about a module without running it.

    Args:
        ok: whether a pool with the engine that was asked about would take it: there are no problems.
        problems: why it is not a guard, in the order of the checks; if it is not even a module, that alone.
        warnings: what is allowed but unwise.
        memory_pages: the cap its memory was checked against.
        exports: in the module's order, with a verdict each.
        imports: in the module's order, with a verdict each.
        memory: None if it has no memory.
        sizes: bytes, functions, sections.
        metadata: what its toolchain wrote into it, unchecked.
        engine: the engine that `ok` and `problems` are about.
        engines: what each engine would do with it, by the engine's name.
        put_back: whether its state can be put back after a job, for pools with `isolation="job"`; if not, each job gets a new
            instance and `label_agent`. False for what is not a guard.
    """

    ok: bool
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    memory_pages: int
    sizes: Sizes
    exports: tuple[ExportVerdict, ...] = ()
    imports: tuple[ImportVerdict, ...] = ()
    memory: MemorySummary | None = None
    metadata: Metadata = Metadata()
    engine: str = ""
    engines: dict[str, EngineVerdict] = {}
    put_back: bool = False

    def to_json(self, file: str | None = None) -> bytes:
        """The inspection as one JSON object, in UTF-8, without a newline; `file`, if there is one, is its first member."""
        if file is None:
            return msgspec.json.encode(self)
        return msgspec.json.encode({"file": printable(file, 4096), **msgspec.structs.asdict(self)})


def inspect(
    wasm: bytes,
    memory_pages: int = DEFAULT_MEMORY_PAGES,
    *,
    limits: ModuleLimits = DEFAULT_LIMITS,
    engine: str = "auto",
) -> Inspection:
    """Tell everything about a module; whatever the bytes are, the answer is an `Inspection`.

    Args:
        wasm: the file's bytes.
        memory_pages: the cap to check its memory against, in pages of 64 KiB.
        limits: how large the module may be.
        engine: the engine that `ok` and `problems` are about: see `GuardPool`. It need not be installed.

    Raises:
        CallerError: `wasm` is not bytes, or `memory_pages` is out of range.
        EngineUnknown: `engine` is not one of the words.
    """
    wasm = _checked_arguments(wasm, memory_pages)
    engine = engine_meant(engine)
    try:
        info = read_module(wasm, limits)
    except WasmError as error:
        problem = _unreadable(wasm, error)
        engines = dict.fromkeys(ACCEPTED, EngineVerdict(False, problem.message))
        return Inspection(False, (problem,), (), memory_pages, Sizes(len(wasm)), engine=engine, engines=engines)
    found = {name: _findings(wasm, info, memory_pages, limits, name) for name in ACCEPTED}
    findings = found[engine]
    metadata = _printable_metadata(read_metadata(wasm, info))
    return Inspection(
        ok=not findings.problems,
        problems=tuple(findings.problems),
        warnings=tuple(findings.warnings),
        memory_pages=memory_pages,
        sizes=_sizes(info, metadata),
        exports=tuple(_export_verdict(export) for export in info.exports),
        imports=tuple(_import_verdict(imported) for imported in info.imports),
        memory=_memory_summary(info, memory_pages),
        metadata=metadata,
        engine=engine,
        engines={name: _engine_verdict(each) for name, each in found.items()},
        put_back=not findings.problems and settable_globals(wasm, limits) is not None,
    )


def check_module(
    wasm: bytes,
    *,
    guard: str | None = None,
    memory_pages: int = DEFAULT_MEMORY_PAGES,
    limits: ModuleLimits = DEFAULT_LIMITS,
    engine: str = "auto",
) -> ModuleInfo:
    """Make sure that a module is a guard, before anything of it is compiled or runs.

    Args:
        wasm: the file's bytes.
        guard: the guard's name, for the message.
        memory_pages: the cap to check its memory against, in pages of 64 KiB.
        limits: how large the module may be.
        engine: the engine that is to run it: see `GuardPool`.

    Returns:
        What the module declares.

    Raises:
        ModuleError: it is not a guard. The message is the first problem and how many more there are; `problems` has all.
        CallerError: `wasm` is not bytes, or `memory_pages` is out of range.
        EngineUnknown: `engine` is not one of the words.
    """
    wasm = _checked_arguments(wasm, memory_pages)
    engine = engine_meant(engine)
    try:
        info = read_module(wasm, limits)
    except WasmError as error:
        raise _module_error([_unreadable(wasm, error)], guard) from error
    findings = _findings(wasm, info, memory_pages, limits, engine)
    if findings.problems:
        raise _module_error(findings.problems, guard)
    return info


def _findings(wasm: bytes, info: ModuleInfo, memory_pages: int, limits: ModuleLimits, engine: str) -> rules.Findings:
    findings = rules.check_declarations(info, memory_pages)
    in_code = code_problem(wasm, info, limits, engine)
    if in_code is not None:
        findings.problems.append(in_code)
    return findings


def _engine_verdict(findings: rules.Findings) -> EngineVerdict:
    return EngineVerdict(not findings.problems, findings.problems[0].message if findings.problems else None)


def _checked_arguments(wasm: object, memory_pages: object) -> bytes:
    if not isinstance(wasm, (bytes, bytearray, memoryview)):
        raise CallerError(f"wasm must be bytes, not {type(wasm).__name__}")
    if isinstance(memory_pages, bool) or not isinstance(memory_pages, int) or not 1 <= memory_pages <= MAX_PAGES:
        raise CallerError(f"memory_pages must be a whole number from 1 to {MAX_PAGES}, not {memory_pages!r}")
    return bytes(wasm)


def _unreadable(wasm: bytes, error: WasmError) -> Problem:
    if isinstance(error, WasmLimitError):
        return Problem("too_large", error.limit, str(error))
    if isinstance(error, WasmUnsupportedError):
        return Problem("unsupported", "", f"{error} ({neither_engine()})")
    return Problem("malformed" if recognise(wasm) is None else "not_wasm", "", str(error))


def _module_error(problems: Sequence[Problem], guard: str | None) -> ModuleError:
    message = problems[0].message
    if len(problems) > 1:
        message += f" (and {len(problems) - 1} more)"
    if guard is not None:
        message = f"guard {printable(guard, 64)}: {message}"
    return ModuleError(message, guard=guard, problems=tuple(problem.message for problem in problems))


def _export_verdict(export: Export) -> ExportVerdict:
    verdict, note = "unused", "guardpool does not call it"
    wanted = rules.REQUIRED.get(export.name) or rules.OPTIONAL.get(export.name)
    if wanted is not None:
        problem = rules.export_problem(export, wanted)
        required = "required" if export.name in rules.REQUIRED else "optional"
        verdict, note = ("ok", required) if problem is None else ("wrong", f"must be a function {wanted}")
    elif export.name == "memory":
        verdict, note = ("ok", "required") if export.kind == "memory" else ("wrong", "must be the memory")
    elif export.name == "_start":
        note = "never called"
    elif export.kind == "memory":
        note = "must be exported as memory"
    return ExportVerdict(printable(export.name), export.kind, printable(str(export.type), 100), verdict, note)


def _import_verdict(imported: Import) -> ImportVerdict:
    problem = rules.import_problem(imported)
    if problem is None:
        verdict, note = "ok", note_on(imported.module, imported.name)
    else:
        verdict = "unknown" if problem.code == "unknown_import" else "wrong"
        note = problem.message
    return ImportVerdict(
        printable(imported.module),
        printable(imported.name),
        imported.kind,
        printable(str(imported.type), 100),
        verdict,
        note,
    )


def _memory_summary(info: ModuleInfo, memory_pages: int) -> MemorySummary | None:
    if not info.memories:
        return None
    memory = info.memories[0]
    names = [export.name for export in info.exports if export.kind == "memory"]
    exported_as = "memory" if "memory" in names else printable(names[0]) if names else None
    return MemorySummary(
        minimum_pages=memory.minimum,
        maximum_pages=memory.maximum,
        effective_pages=rules.effective_maximum(memory, memory_pages),
        exported_as=exported_as,
        imported=any(imported.kind == "memory" for imported in info.imports),
    )


def _sizes(info: ModuleInfo, metadata: Metadata) -> Sizes:
    return Sizes(
        bytes=info.size,
        functions=len(info.functions),
        imported_functions=sum(imported.kind == "function" for imported in info.imports),
        code_bytes=info.code.code_bytes,
        largest_function_bytes=info.code.largest_function_bytes,
        locals=info.code.locals,
        data_bytes=info.data_bytes,
        debug_bytes=metadata.debug_bytes,
        custom_sections=tuple(SectionSize(printable(section.name), section.size) for section in info.custom_sections),
    )


def _printable_metadata(metadata: Metadata) -> Metadata:
    return Metadata(
        module_name=None if metadata.module_name is None else printable(metadata.module_name),
        producers={
            printable(field): tuple(printable(value) for value in values)
            for field, values in metadata.producers.items()
        },
        features=tuple(printable(feature) for feature in metadata.features),
        debug_bytes=metadata.debug_bytes,
    )
