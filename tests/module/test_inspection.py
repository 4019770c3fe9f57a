"""A module is judged before anything of it runs, and every verdict says what there is and what there must be."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

import wasm_builder as b
from enginekit import compile_bundle, wat_to_wasm
from guardpool import samples
from guardpool.errors import CallerError, CompileError, EngineMissing, EngineUnknown, ModuleError
from guardpool.machine import engines
from guardpool.module.imports import PREVIEW1, PREVIEW1_MODULE
from guardpool.module.inspection import EngineVerdict, Inspection, check_module, inspect
from guardpool.printable import printable
from guardpool.wasm import ModuleLimits

LABEL = "(i32, i32, i32, i32) -> i32"
FUNCTION = '(func (export "{}") (param i32 i32 i32 i32) (result i32) i32.const 0)'
CALLS = "\n".join(FUNCTION.format(name) for name in b.CALLS)
MEMORY = '(memory (export "memory") 1)'
ALLOCATOR = """(func (export "alloc") (param i32) (result i32) i32.const 0)
    (func (export "dealloc") (param i32 i32))"""


def guard(*fields: str, calls: str = CALLS, memory: str = MEMORY, allocator: str = ALLOCATOR) -> bytes:
    """A guard in which parts are replaced or added; imports go first."""
    imports = [field for field in fields if field.startswith("(import")]
    others = [field for field in fields if not field.startswith("(import")]
    return wat_to_wasm("\n".join(["(module", *imports, memory, calls, allocator, *others, ")"]))


def problems(wasm: bytes, memory_pages: int = 512) -> list[str]:
    """The problems of a module, by both ways of asking for them."""
    inspection = inspect(wasm, memory_pages)
    found = [problem.message for problem in inspection.problems]
    if inspection.ok:
        assert check_module(wasm, memory_pages=memory_pages).size == len(wasm)
        return found
    with pytest.raises(ModuleError) as caught:
        check_module(wasm, guard="github", memory_pages=memory_pages)
    assert caught.value.guard == "github"
    assert list(caught.value.problems) == found
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    assert str(caught.value) == f"guard github: {found[0]}{more}"
    return found


def warnings(wasm: bytes) -> dict[str, str]:
    inspection = inspect(wasm)
    assert inspection.ok
    return {warning.code: warning.message for warning in inspection.warnings}


def test_a_guard_has_no_problems() -> None:
    everything = guard(
        '(import "env" "call_backend" (func (param i32 i32 i32 i32 i32 i32) (result i32)))',
        '(import "env" "host_log" (func (param i32 i32 i32)))',
        '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))',
        '(func (export "_initialize"))',
        '(func (export "whatever") (param i64) (result f64) unreachable)',
    )
    assert problems(everything) == []
    inspection = inspect(everything)
    assert inspection.ok
    assert inspection.warnings == ()


def test_the_sample_guard_has_no_problems() -> None:
    wasm = samples.GUARD.read_bytes()
    assert problems(wasm) == []
    assert warnings(wasm) == {}


@pytest.mark.parametrize("name", b.CALLS)
def test_a_missing_export_is_named(name: str) -> None:
    calls = "\n".join(FUNCTION.format(each) for each in b.CALLS if each != name)
    assert problems(guard(calls=calls)) == [f"export {name} is missing; it must be a function {LABEL}"]


def test_a_similar_export_is_pointed_at() -> None:
    found = problems(guard(calls=CALLS.replace("label_agent", "label-agent")))
    assert found == [f"export label_agent is missing (there is label-agent); it must be a function {LABEL}"]


@pytest.mark.parametrize(
    ("signature", "shown"),
    [
        ("(param i32 i32 i32) (result i32) i32.const 0", "(i32, i32, i32) -> i32"),
        ("(param i32 i32 i32 i64) (result i32) i32.const 0", "(i32, i32, i32, i64) -> i32"),
        ("(param i32 i32 i32 i32)", "(i32, i32, i32, i32) -> ()"),
        ("(param i32 i32 i32 i32) (result i64) i64.const 0", "(i32, i32, i32, i32) -> i64"),
        ("(param i32 i32 i32 i32) (result i32 i32) unreachable", "(i32, i32, i32, i32) -> (i32, i32)"),
        ("", "() -> ()"),
    ],
)
@pytest.mark.parametrize("name", b.CALLS)
def test_a_wrong_signature_is_told_with_the_right_one(name: str, signature: str, shown: str) -> None:
    others = "\n".join(FUNCTION.format(each) for each in b.CALLS if each != name)
    wrong = guard(f'(func (export "{name}") {signature})', calls=others)
    assert problems(wrong) == [f"export {name} has the type {shown}; it must have {LABEL}"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            '(func (export "alloc") (param i64) (result i32) i32.const 0)',
            "export alloc has the type (i64) -> i32; it must have (i32) -> i32",
        ),
        (
            '(func (export "dealloc") (param i32))',
            "export dealloc has the type (i32) -> (); it must have (i32, i32) -> ()",
        ),
        (
            '(func (export "_initialize") (result i32) i32.const 0)',
            "export _initialize has the type () -> i32; it must have () -> ()",
        ),
        ('(global (export "alloc") i32 (i32.const 0))', "export alloc is a global; it must be a function (i32) -> i32"),
        ('(table (export "_initialize") 1 funcref)', "export _initialize is a table; it must be a function () -> ()"),
    ],
)
def test_optional_exports_must_be_right_if_they_are_there(field: str, message: str) -> None:
    assert problems(guard(field, allocator="")) == [message]


def test_an_export_of_the_wrong_kind_is_told() -> None:
    calls = CALLS.replace(FUNCTION.format("label_response"), '(global (export "label_response") i32 (i32.const 0))')
    assert problems(guard(calls=calls)) == [f"export label_response is a global; it must be a function {LABEL}"]


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ("", "it has no memory: a guard must define one and export it as memory"),
        ("(memory 1)", "its memory is not exported; it must be exported as memory"),
        ('(memory (export "mem") 1)', "its memory is exported as mem; it must be exported as memory"),
        (
            '(memory 1) (global (export "memory") i32 (i32.const 0))',
            "export memory is a global; it must be the memory",
        ),
        (
            '(memory (export "memory") 600)',
            "its memory has 600 pages at the start (37.5 MiB), the cap is 512 (32 MiB): "
            "raise memory_pages or build the guard with less",
        ),
    ],
)
def test_the_memory_must_be_there_exported_and_under_the_cap(memory: str, message: str) -> None:
    assert problems(guard(memory=memory)) == [message]


def test_the_cap_decides_what_is_too_much_memory() -> None:
    exactly = guard(memory='(memory (export "memory") 600)')
    assert problems(exactly, memory_pages=600) == []
    assert len(problems(exactly, memory_pages=599)) == 1


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            '(import "env" "open_file" (func (param i32) (result i32)))',
            "import env.open_file (i32) -> i32 is unknown: env has call_backend and host_log",
        ),
        (
            '(import "wasi_snapshot_preview1" "fd_frobnicate" (func))',
            "import wasi_snapshot_preview1.fd_frobnicate () -> () is unknown: it is not a function of WASI preview 1",
        ),
        (
            '(import "other" "f" (func))',
            "import other.f () -> () is unknown: a guard may import env.call_backend, env.host_log and functions of "
            "wasi_snapshot_preview1",
        ),
        (
            '(import "wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32)))',
            f"import wasi_unstable.fd_write {LABEL} is unknown: the guard was built for WASI preview 0; "
            "build it for preview 1 (wasm32-wasip1)",
        ),
        (
            '(import "wasi:cli/exit@0.2.0" "exit" (func (param i32)))',
            "import wasi:cli/exit@0.2.0.exit (i32) -> () is unknown: the guard was built for WASI preview 2; "
            "build it for preview 1 (wasm32-wasip1)",
        ),
        (
            '(import "env" "level" (global i32))',
            "import env.level (a global) is unknown: env has call_backend and host_log",
        ),
        (
            '(import "env" "host_log" (func (param i32 i32)))',
            "import env.host_log has the type (i32, i32) -> (); it must have (i32, i32, i32) -> ()",
        ),
        (
            '(import "env" "call_backend" (func (param i32 i32 i32 i32 i32 i32)))',
            "import env.call_backend has the type (i32, i32, i32, i32, i32, i32) -> (); "
            "it must have (i32, i32, i32, i32, i32, i32) -> i32",
        ),
        (
            '(import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i32 i32) (result i32)))',
            "import wasi_snapshot_preview1.clock_time_get has the type (i32, i32, i32) -> i32; "
            "it must have (i32, i64, i32) -> i32",
        ),
        (
            '(import "env" "host_log" (global i32))',
            "import env.host_log is a global; it must be a function (i32, i32, i32) -> ()",
        ),
        (
            '(import "env" "table" (table 1 funcref))',
            "import env.table is a table: a guard must define its own table",
        ),
    ],
)
def test_imports_are_known_and_right(field: str, message: str) -> None:
    assert problems(guard(field)) == [message]


def test_an_imported_memory_is_refused() -> None:
    found = problems(guard('(import "env" "memory" (memory 1))', '(export "memory" (memory 0))', memory=""))
    assert found == ["import env.memory is a memory: a guard must define its own memory and export it as memory"]


def test_every_function_of_wasi_can_be_imported() -> None:
    fields = []
    for name, (params, results) in PREVIEW1.items():
        shape = f"(param {' '.join(params)}) (result {' '.join(results)})"
        fields.append(f'(import "{PREVIEW1_MODULE}" "{name}" (func {shape}))')
    assert problems(guard(*fields)) == []
    notes = {imported.name: imported.note for imported in inspect(guard(*fields)).imports}
    assert notes["path_open"] == "denied: there are no files"
    assert notes["fd_write"] == "standard output and error go to the guard's log"
    assert all(0 < len(note) < 60 for note in notes.values())
    assert notes.keys() == PREVIEW1.keys()


def test_the_functions_of_wasi_are_those_that_zig_knows() -> None:
    ziglang = pytest.importorskip("ziglang")
    source = Path(ziglang.__file__).with_name("lib") / "std" / "os" / "wasi.zig"
    wide = {"timestamp_t", "filesize_t", "filedelta_t", "rights_t", "dircookie_t"}
    found: dict[str, Any] = {}
    for name, params, result in re.findall(
        r'pub extern "wasi_snapshot_preview1" fn (\w+)\((.*)\) (\w+);', source.read_text()
    ):
        kinds = [param.partition(": ")[2] for param in params.split(", ") if param]
        found[name] = (
            tuple("i64" if kind in wide else "i32" for kind in kinds),
            () if result == "noreturn" else ("i32",),
        )
    assert len(found) > 40
    assert {name: PREVIEW1.get(name) for name in found} == found
    assert set(PREVIEW1) - set(found) <= {"proc_raise"}  # Zig has no use for it


def test_a_module_built_as_a_command_gets_a_hint() -> None:
    command = guard('(func (export "_start"))', calls="", allocator="")
    found = problems(command)
    assert found[0] == (
        "it exports _start and none of label_agent, label_resource, label_response: it was built as a command "
        "(standard Go), not as a library (TinyGo, Rust cdylib, Zig)"
    )
    assert len(found) == 4
    assert inspect(command).problems[0].code == "command_module"


def test_a_library_with_a_start_function_does_not_get_the_hint() -> None:
    found = warnings(guard('(func (export "_start"))'))
    assert found == {"start_export": "it exports _start, which is never called"}
    missing = problems(guard('(func (export "_start"))', calls=FUNCTION.format("label_agent")))
    assert missing[0].startswith("export label_resource is missing")


def test_all_problems_are_told_at_once() -> None:
    bad = guard('(import "env" "x" (func))', '(import "env" "t" (table 1 funcref))', calls="", memory="")
    assert [problem.code for problem in inspect(bad).problems] == [
        "missing_export",
        "missing_export",
        "missing_export",
        "no_memory",
        "unknown_import",
        "imported_table",
    ]
    assert len(problems(bad)) == 6


@pytest.mark.parametrize(
    ("wasm", "code", "message"),
    [
        (
            guard(allocator=""),
            "no_allocator",
            "it exports no alloc and dealloc: buffers go to the end of memory, which is grown",
        ),
        (
            guard('(func (export "alloc") (param i32) (result i32) i32.const 0)', allocator=""),
            "half_allocator",
            "it exports alloc but not dealloc: they are only used together, so buffers go to the end of memory",
        ),
        (
            guard('(func (export "dealloc") (param i32 i32))', allocator=""),
            "half_allocator",
            "it exports dealloc but not alloc: they are only used together, so buffers go to the end of memory",
        ),
        (
            guard(memory='(memory (export "memory") 2 3)', allocator=""),
            "no_room",
            "its memory can grow by only 1 pages, and without alloc and dealloc that is where buffers go",
        ),
        (
            guard("(func $begin)", "(start $begin)"),
            "start_function",
            "its start section runs function 5 whenever an instance is made",
        ),
    ],
)
def test_unwise_modules_get_a_warning(wasm: bytes, code: str, message: str) -> None:
    assert problems(wasm) == []
    assert warnings(wasm)[code] == message


def test_an_inspection_lists_every_export_import_and_size() -> None:
    wasm = guard(
        '(import "env" "host_log" (func (param i32 i32 i32)))',
        '(import "env" "open_file" (func))',
        '(func (export "extra"))',
        '(data (i32.const 0) "12345")',
        memory='(memory (export "memory") 2 100)',
        calls=CALLS.replace("(result i32) i32.const 0", "", 1),
    ) + b.custom("producers", b"\x01" + b.name("language") + b"\x01" + b.name("Zig") + b.name("0.13"))
    inspection = inspect(wasm, 64)
    assert [(e.name, e.kind, e.type, e.verdict) for e in inspection.exports] == [
        ("memory", "memory", "2 to 100 pages", "ok"),
        ("label_agent", "function", "(i32, i32, i32, i32) -> ()", "wrong"),
        ("label_resource", "function", LABEL, "ok"),
        ("label_response", "function", LABEL, "ok"),
        ("alloc", "function", "(i32) -> i32", "ok"),
        ("dealloc", "function", "(i32, i32) -> ()", "ok"),
        ("extra", "function", "() -> ()", "unused"),
    ]
    assert [(i.module, i.name, i.verdict) for i in inspection.imports] == [
        ("env", "host_log", "ok"),
        ("env", "open_file", "unknown"),
    ]
    memory = inspection.memory
    assert memory is not None
    assert (memory.minimum_pages, memory.maximum_pages, memory.effective_pages) == (2, 100, 64)
    assert (memory.exported_as, memory.imported) == ("memory", False)
    assert (inspection.sizes.functions, inspection.sizes.imported_functions, inspection.sizes.data_bytes) == (6, 2, 5)
    assert inspection.metadata.producers == {"language": ("Zig 0.13",)}


VECTOR = "(func (drop (i32x4.add (v128.const i64x2 0 0) (v128.const i64x2 0 0))))"


def test_an_inspection_says_what_each_engine_would_do() -> None:
    good = inspect(guard())
    assert good.engines == {"wasmtime": EngineVerdict(True), "wasmer": EngineVerdict(True)}
    with_vectors = {engine: inspect(guard(VECTOR), engine=engine) for engine in ("wasmtime", "wasmer")}
    for engine, found in with_vectors.items():
        assert found.engine == engine
        assert found.ok == (engine == "wasmtime") == (not found.problems)
        assert found.engines["wasmtime"] == EngineVerdict(True)
        refused = found.engines["wasmer"]
        assert not refused.accepts
        assert refused.problem == with_vectors["wasmer"].problems[0].message
    missing = inspect(guard(VECTOR, calls="")).engines
    assert [verdict.accepts for verdict in missing.values()] == [False, False]
    assert missing["wasmtime"].problem == f"export label_agent is missing; it must be a function {LABEL}"
    unreadable = inspect(b"hello").engines
    assert {verdict.problem for verdict in unreadable.values()} == {"this is text, not a WebAssembly module"}
    decoded = msgspec.json.decode(good.to_json())
    assert decoded["engines"]["wasmer"] == {"accepts": True, "problem": None}


def test_inspect_judges_for_the_engine_that_auto_means_or_that_is_asked_for() -> None:
    assert inspect(guard()).engine == engines.choose_engine().name
    with pytest.raises(EngineUnknown):
        inspect(guard(), engine="wazero")
    with pytest.raises(EngineUnknown):
        check_module(guard(), engine="wazero")


def test_inspect_needs_no_engine_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "engine_packages", lambda _name: _raise(EngineMissing("none is here")))
    assert inspect(guard()).engine == engines.auto_order()[0]
    assert inspect(guard(VECTOR), engine="wasmtime").ok


def _raise(error: Exception) -> Any:
    raise error


def test_a_vector_in_the_signature_of_a_contract_function_stays_wrong() -> None:
    calls = "\n".join(FUNCTION.format(name) for name in b.CALLS[1:])
    wrong = '(func (export "label_agent") (param i32 i32 i32 v128) (result i32) i32.const 0)'
    (found,) = inspect(guard(wrong, calls=calls), engine="wasmtime").problems
    assert found.message == f"export label_agent has the type (i32, i32, i32, v128) -> i32; it must have {LABEL}"


def test_an_inspection_survives_its_json() -> None:
    inspection = inspect(guard(allocator=""))
    encoded = inspection.to_json()
    assert b"\n" not in encoded
    assert msgspec.json.decode(encoded, type=Inspection) == inspection
    decoded = msgspec.json.decode(encoded)
    assert decoded["ok"] is True
    assert decoded["warnings"][0]["code"] == "no_allocator"
    assert decoded["exports"][0] == {
        "name": "memory",
        "kind": "memory",
        "type": "1 page or more",
        "verdict": "ok",
        "note": "required",
    }


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", "not_wasm", "this is a PNG image, not a WebAssembly module"),
        (b"", "not_wasm", "the file is empty"),
        (b"\0asm\x0d\0\x01\0", "not_wasm", "component"),
        (b.module(b.section(77, b"")), "malformed", "unknown section id 77"),
        (b.module(b.memory(1, 2, flags=3)), "unsupported", "a shared memory"),
        (b.module(b.memory(1, flags=4)), "unsupported", "a 64-bit memory"),
        (b.module(b.section(5, b"\x02\0\x01\0\x01")), "unsupported", "a second memory"),
        (b.module(b.section(13, b"\0")), "unsupported", "exception handling"),
        (b.module(b.section(4, b"\x01\x70\0" + b.leb(10_000_000))), "too_large", "a table of 10000000 entries"),
    ],
)
def test_a_file_that_is_not_a_module_is_one_problem(content: bytes, code: str, message: str) -> None:
    found = problems(content)
    assert len(found) == 1
    assert message in found[0]
    inspection = inspect(content)
    assert inspection.problems[0].code == code
    assert (inspection.exports, inspection.imports, inspection.memory) == ((), (), None)


def test_inspect_and_check_module_apply_the_given_limits() -> None:
    tight = ModuleLimits(exports=2)
    assert inspect(guard(), limits=tight).problems[0].name == "exports"
    with pytest.raises(ModuleError, match="at most 2"):
        check_module(guard(), limits=tight)


def test_names_of_the_module_are_printed_safely() -> None:
    evil = "\x1b[2J\u202eevil\n" + "x" * 500
    wasm = b.guard(
        type_section=b.types(b.LABEL_TYPE, b.func_type(b.I32 * 900)),
        import_section=b.imports(b.imported("env", evil, b"\0\x01")),
        export_items=[b.exported(evil, 2), *b.guard_exports(1)[1:]],
    ) + b.custom("producers", b"\x01" + b.name(evil[:100]) + b"\x01" + b.name(evil[:100]) + b.name("1"))
    inspection = inspect(wasm + b.custom(evil))
    texts = [found.message for found in inspection.problems] + [found.name for found in inspection.problems]
    for verdict in (*inspection.exports, *inspection.imports):
        texts += [verdict.name, verdict.type, verdict.note]
    texts += [section.name for section in inspection.sizes.custom_sections]
    texts += [text for field, values in inspection.metadata.producers.items() for text in (field, *values)]
    assert sum("\\x1b[2J\\u202eevil\\n" in text for text in texts) >= 7
    for text in texts:
        assert text == printable(text, 500)


def test_what_toolchains_write_is_read_and_never_trusted() -> None:
    name = b.custom("name", b"\0\x06\x05guard")
    features = b.custom("target_features", b.vec([b"+" + b.name("simd128"), b"-" + b.name("atomics")]))
    debug = b.custom(".debug_info", bytes(100)) + b.custom(".debug_line", bytes(11))
    metadata = inspect(b.guard() + name + features + debug).metadata
    assert metadata.module_name == "guard"
    assert metadata.features == ("+simd128", "-atomics")
    assert metadata.debug_bytes == 111
    broken = [
        b.custom("name", b"\0\x06\x7f"),
        b.custom("target_features", b"\xff\xff\x7f"),
        b.custom("producers", b"\x02"),
    ]
    assert problems(b.guard() + b"".join(broken)) == []
    assert inspect(b.guard() + b"".join(broken)).metadata == inspect(b.guard()).metadata


@pytest.mark.parametrize("pages", [0, 65537, True, "512", 1.0])
def test_an_invalid_memory_cap_is_the_callers_fault(pages: Any) -> None:
    for call in (lambda: inspect(b.guard(), pages), lambda: check_module(b.guard(), memory_pages=pages)):
        with pytest.raises(CallerError, match="memory_pages must be a whole number from 1 to 65536"):
            call()


def test_inspect_takes_bytes_and_no_path() -> None:
    with pytest.raises(CallerError, match="wasm must be bytes, not str"):
        inspect("guard.wasm")  # type: ignore[arg-type]
    assert inspect(memoryview(b.guard())).ok  # type: ignore[arg-type]


def test_no_guest_code_is_compiled_or_run() -> None:
    # Its bodies are not even valid code: the load checks come before the engine looks at them.
    nonsense = b.module(
        b.types(b.LABEL_TYPE),
        b.functions(0),
        b.memory(1),
        b.exports(*b.guard_exports()),
        b.code(b.body((), b"\x6a" * 9)),  # additions of nothing
    )
    assert problems(nonsense) == []
    with pytest.raises(CompileError, match="the engine refuses the module"):
        compile_bundle(nonsense)


@given(st.integers(0, 1 << 32), st.integers(1, 100))
def test_property_random_modules_get_the_same_verdict_both_ways(seed: int, pages: int) -> None:
    problems(b.RandomModule(random.Random(seed)).data, pages)
