"""Reading and rewriting wasm binaries: strictly, within limits, and byte for byte."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

import enginekit
import wasm_builder as b
from guardpool.errors import ContractError
from guardpool.module.code_rules import code_problem
from guardpool.module.engine_features import ACCEPTED, accepted, why_not
from guardpool.module.inspection import inspect
from guardpool.module.kept_state import as_compiled
from guardpool.printable import printable
from guardpool.wasm import (
    FuncType,
    GlobalType,
    MemoryType,
    ModuleInfo,
    ModuleLimits,
    TableType,
    WasmError,
    WasmLimitError,
    WasmUnsupportedError,
    cap_memory,
    cap_tables,
    find_refused,
    read_module,
    recognise,
)
from guardpool.wasm.cursor import sections
from guardpool.wasm.features import FEATURE_TITLES, READ, WITHOUT

WAT = """(module
  (type $pair (func (param i32 i64) (result f32 f64)))
  (import "env" "host_log" (func (param i32 i32 i32)))
  (import "env" "limit" (global i32))
  (func $twice (export "twice") (type $pair) (local i32 i32 f64) f32.const 1 f64.const 2)
  (func $begin)
  (table (export "calls") 3 8 funcref)
  (elem (i32.const 0) $twice $begin)
  (memory (export "memory") 2 9)
  (global (export "level") (mut i32) (i32.const 3))
  (global i64 (i64.const -1))
  (start $begin)
  (data (i32.const 16) "hello"))"""


def test_everything_a_module_declares_is_read() -> None:
    info = read_module(enginekit.wat_to_wasm(WAT))
    assert info.types[0] == FuncType(("i32", "i64"), ("f32", "f64"))
    assert [(i.module, i.name, i.kind, str(i.type)) for i in info.imports] == [
        ("env", "host_log", "function", "(i32, i32, i32) -> ()"),
        ("env", "limit", "global", "i32"),
    ]
    assert [(e.name, e.kind, e.index, e.type) for e in info.exports] == [
        ("twice", "function", 1, FuncType(("i32", "i64"), ("f32", "f64"))),
        ("calls", "table", 0, TableType("funcref", 3, 8)),
        ("memory", "memory", 0, MemoryType(2, 9)),
        ("level", "global", 1, GlobalType("i32", True)),
    ]
    assert info.memories == (MemoryType(2, 9),)
    assert info.globals == (GlobalType("i32", False), GlobalType("i32", True), GlobalType("i64", False))
    assert (info.start, info.element_items, info.data_segments, info.data_bytes) == (2, 2, 1, 5)
    assert (info.code.functions, info.code.locals, info.code.most_locals) == (2, 5, 5)
    assert info.export("calls") == info.exports[1]
    assert info.export("nothing") is None


def test_a_bare_header_is_an_empty_module() -> None:
    assert read_module(b.HEADER) == ModuleInfo(size=8)


def test_types_read_like_the_contract_writes_them() -> None:
    assert str(FuncType(("i32", "i32"), ("i32",))) == "(i32, i32) -> i32"
    assert str(FuncType((), ())) == "() -> ()"
    assert str(FuncType(("v128",), ("i32", "f64"))) == "(v128) -> (i32, f64)"
    assert str(MemoryType(1, None)) == "1 page or more"
    assert [str(MemoryType(2, most)) for most in (2, 3)] == ["2 pages", "2 to 3 pages"]
    assert str(TableType("funcref", 1, 2)) == "funcref[1..2]"
    assert str(GlobalType("i64", True)) == "mut i64"


FUNC = b.types(b.func_type())
ONE = FUNC + b.functions(0)
ZERO_CODE = b.code(b.body())
I32_0 = b"\x41\0" + b.END

MALFORMED = {
    # the frame
    "section id": (b.section(99, b""), "unknown section id 99"),
    "section over the end": (b"\x01\x05\0", "the type section has 5 bytes but 1 are left"),
    "section without a size": (b"\x01", "ends where the size of the type section is expected"),
    "section twice": (FUNC + FUNC, "a second type section"),
    "section order": (b.memory(1) + b.functions(), "the function section stands after one that must follow it"),
    "data count after code": (b.section(10, b"\0") + b.section(12, b"\0"), "data count section stands after"),
    "tag section": (b.section(13, b"\x01\0\0"), r"exception handling \(a tag section\) is not supported"),
    "bytes left over": (b.section(1, b"\0\0"), "the type section: 1 bytes are left over"),
    "custom section without a name": (b.section(0, b""), "the length of its name"),
    "custom section's name over its end": (b.section(0, b"\x05ab"), "its name has 5 bytes but 2 are left"),
    # numbers
    "u32 of six bytes": (b.section(8, b"\x80\x80\x80\x80\x80\0"), "its fifth byte is 0x80"),
    "u32 over 32 bits": (b.section(8, b"\xff\xff\xff\xff\x1f"), "its fifth byte is 0x1f; at most 0x0f"),
    "u32 cut short": (b.section(8, b"\xff"), "ends where a function index is expected"),
    "i32 constant over 32 bits": (
        b.section(6, b"\x01\x7f\0\x41\xff\xff\xff\xff\x17\x0b"),
        "an i32 constant is not a number of 32 bits: its last byte is 0x17",
    ),
    "i64 constant of eleven bytes": (
        b.section(6, b"\x01\x7e\0\x42" + b"\x80" * 10 + b"\0\x0b"),
        "an i64 constant is not a number of 64 bits",
    ),
    "i32 constant cut short": (b.section(6, b"\x01\x7f\0\x41\x80\x80"), "ends where an i32 constant is expected"),
    # vectors and names
    "count over the end": (b.section(1, b"\xff\x7f"), "16383 types cannot fit into the 0 bytes left"),
    "huge count": (b.section(3, b"\xff\xff\xff\xff\x0f"), "4294967295 functions cannot fit"),
    "name not UTF-8": (
        b.exports(b.exported(b"a\xff\x1b", 0)),
        r"an export's name \(a\\xff\\x1b\) is not UTF-8: invalid start byte \(at byte 13\)",
    ),
    "name with a surrogate": (b.custom(b"\xed\xa0\x80"), "is not UTF-8"),
    "name overlong": (b.custom(b"\xc0\x80"), "is not UTF-8"),
    # types
    "type form": (b.types(b"\x40\0\0"), "type form 0x40, expected 0x60"),
    "struct type": (b.types(b"\x5f\0\0"), r"struct types \(garbage collection\) are not supported"),
    "value type": (b.types(b.func_type(b"\x01")), "value type 0x01 of parameters is unknown"),
    # imports
    "import kind": (b.imports(b.imported("m", "\x1b[2J", b"\x09")), r"import m\.\\x1b\[2J is 9, expected 0 to 3"),
    "imported tag": (b.imports(b.imported("m", "t", b"\x04\0\0")), "import m.t is a tag"),
    "import of a type that is not there": (
        b.imports(b.imported("m", "f", b"\0\0")),
        "type index 0, but there are 0 types",
    ),
    # tables and memories
    "table of numbers": (b.section(4, b"\x01\x7f\0\0"), "a table of i32, expected funcref or externref"),
    "table limits": (b.section(4, b"\x01\x70\x08\0"), "limits of kind 8 of a table"),
    "table minimum over maximum": (b.section(4, b"\x01\x70\x01\x02\x01"), "a table's minimum 2 is over its maximum 1"),
    "memory limits": (b.memory(1, flags=0x10), "limits of kind 16 of a memory"),
    "memory minimum over maximum": (b.memory(2, 1), "minimum of 2 pages is over its maximum of 1"),
    "memory too large": (b.memory(65537), "a memory of 65537 pages, a 32-bit memory has at most 65536"),
    "memory maximum too large": (b.memory(1, 65537), "a memory of 65537 pages"),
    "shared memory": (b.memory(1, 2, flags=3), r"a shared memory \(threads\) is not supported"),
    "64-bit memory": (b.memory(1, flags=4), r"a 64-bit memory \(memory64\) is not supported"),
    "shared 64-bit memory": (b.memory(1, 2, flags=7), r"a 64-bit memory"),
    "custom page size": (b.memory(1, flags=8), "a page size of its own"),
    "two memories": (b.section(5, b"\x02\0\x01\0\x01"), "a second memory: several memories are not supported"),
    "an imported memory and another": (
        b.imports(b.imported("m", "m", b"\x02\0\x01")) + b.memory(1),
        "a second memory",
    ),
    # globals and constants
    "mutability": (b.section(6, b"\x01\x7f\x02" + I32_0), "a global's mutability is 2"),
    "constant of another type": (b.section(6, b"\x01\x7e\0" + I32_0), "a constant of type i32, expected i64"),
    "constant of nothing": (b.section(6, b"\x01\x7f\0\x0b\0\0"), "a constant that leaves 0 values, expected i32"),
    "constant of two values": (b.section(6, b"\x01\x7f\0\x41\0\x41\0\x0b"), "a constant that leaves 2 values"),
    "constant without an end": (
        b.section(6, b"\x01\x7f\0\x41\0\x41\0"),
        "ends where a constant expression is expected",
    ),
    "sum of one value": (
        b.section(6, b"\x01\x7f\0\x41\0\x6a\x0b"),
        "i32.add in a constant .* without two values of i32",
    ),
    "sum of two types": (b.section(6, b"\x01\x7e\0\x42\0\x41\0\x7c\x0b"), "i64.add .* without two values of i64"),
    "quotient": (b.section(6, b"\x01\x7f\0\x41\0\x41\0\x6d\x0b"), "instruction 0x6d is not supported"),
    "instruction that is not a constant": (b.section(6, b"\x01\x7f\0\x20\0\x0b"), "instruction 0x20 is not supported"),
    "constant of a global of its own": (
        b.section(6, b"\x02\x7f\0" + I32_0 + b"\x7f\0\x23\0\x0b"),
        "global 0 in a constant expression, but there are 0 imported",
    ),
    "constant of a mutable global": (
        b.imports(b.imported("m", "g", b"\x03\x7f\x01")) + b.section(6, b"\x01\x7f\0\x23\0\x0b"),
        "global 0 in a constant expression is mutable",
    ),
    "vector instruction": (b.section(6, b"\x01\x7b\0\xfd\x0d" + bytes(16) + b"\x0b"), "is not v128.const"),
    "reference to no function": (b.section(6, b"\x01\x70\0\xd2\0\x0b"), "function 0, but there are 0"),
    "null of no reference type": (b.section(6, b"\x01\x70\0\xd0\x7f\x0b"), "reference type 0x7f"),
    # exports and start
    "export twice": (b.memory(1) + b.exports(b.exported("a", 2), b.exported("a", 2)), "a second export a"),
    "export of nothing": (b.exports(b.exported("a", 0)), "export a is function 0, but there are 0"),
    "start of nothing": (b.section(8, b"\0"), "function 0, but there are 0"),
    "start with parameters": (
        b.types(b.func_type(b.I32)) + b.functions(0) + b.section(8, b"\0") + ZERO_CODE,
        r"function 0 has the type \(i32\) -> \(\), expected \(\) -> \(\)",
    ),
    # segments
    "element segment's kind": (b.section(9, b"\x01\x08\0"), "element segment of kind 8"),
    "element segment without a table": (b.section(9, b"\x01\0" + I32_0 + b"\0"), "for table 0, but there are 0"),
    "element of no function": (
        b.section(4, b"\x01\x70\0\0") + b.section(9, b"\x01\0" + I32_0 + b"\x01\0"),
        "function index 0, but there are 0",
    ),
    "functions for a table of externref": (
        b.section(4, b"\x01\x6f\0\0") + b.section(9, b"\x01\0" + I32_0 + b"\0"),
        "element segment of funcref for a table of externref",
    ),
    "element kind": (b.section(9, b"\x01\x01\x01\0"), "elements of kind 1, expected 0"),
    "data segment's kind": (b.memory(1) + b.section(11, b"\x01\x03\0"), "data segment of kind 3"),
    "data segment without a memory": (b.section(11, b"\x01\0" + I32_0 + b"\0"), "for memory 0, but there are 0"),
    "data over the end": (b.section(11, b"\x01\x01\x09ab"), "a data segment has 9 bytes but 2 are left"),
    "data count": (b.section(12, b"\x02") + b.section(11, b"\x01\x01\0"), "announces 2 data segments, but there are 1"),
    "data count without data": (b.section(12, b"\x01"), "announces 1 data segments, but there are 0"),
    # functions and code
    "function of no type": (FUNC + b.functions(0, 1), "type index 1, but there are 1"),
    "function of no type, long index": (FUNC + b.functions(300), "type index 300, but there are 1"),
    "functions without code": (ONE, "declares 1 functions and has 0 bodies"),
    "code without functions": (ZERO_CODE, "1 function bodies for 0 functions"),
    "body over the end": (ONE + b.section(10, b"\x01\x09\0\0\x0b"), "function 0 has 9 bytes but 3 are left"),
    "body of nothing": (ONE + b.section(10, b"\x01\x00\0\0"), "function 0 has 0 bytes, expected 2 or more"),
    "body without an end": (ONE + b.section(10, b"\x01\x03\0\0\0"), "function 0 ends with 0x00, expected 0x0b"),
    "body with locals only": (ONE + b.section(10, b"\x01\x03\x01\x0b\x7f"), "ends with 0x7f"),
    "body whose end is a local's type": (ONE + b.section(10, b"\x01\x03\x01\x01\x0b"), "a local of function 0 is 0x0b"),
    "locals over the body": (ONE + b.section(10, b"\x01\x03\x05\0\x0b"), "5 groups of locals cannot fit"),
    "type of a local": (ONE + b.code(b.body([(1, b"\x01")])), "the type of a local of function 0 is 0x01"),
}


@pytest.mark.parametrize(("content", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_modules_are_refused_with_the_reason(content: bytes, message: str) -> None:
    with pytest.raises(WasmError, match=message) as caught:
        read_module(b.module(content))
    assert isinstance(caught.value, ContractError)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    if caught.value.offset is not None:
        assert text.endswith(f"(at byte {caught.value.offset})")
        assert 8 <= caught.value.offset <= 8 + len(content)


def test_numbers_may_be_longer_than_need_be() -> None:
    padded = b.module(
        b.section(1, b.vec([b.func_type()], width=5), 5),
        b.section(3, b"\x81\x80\0\x80\0"),
        ZERO_CODE,
        b.memory(1, width=5),
    )
    with pytest.raises(WasmError, match="memory section stands after"):
        read_module(padded)
    ordered = b.module(
        b.section(1, b.vec([b.func_type()], width=5), 5),
        b.section(3, b"\x81\x80\0\x80\0"),
        b.memory(1, width=5),
        ZERO_CODE,
    )
    assert read_module(ordered).memories == (MemoryType(1, None),)
    assert enginekit.compile_bundle(ordered)


FILES = {
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
    "elf": (b"\x7fELF\x02\x01\x01", "an ELF binary, not a WebAssembly module: build the guard for a wasm32 target"),
    "gzip": (b"\x1f\x8b\x08\0", "gzip-compressed data, not a WebAssembly module: unpack it first"),
    "zip": (b"PK\x03\x04", "a zip archive"),
    "tar": (b"guard.wasm".ljust(257, b"\0") + b"ustar\0", "a tar archive"),
    "wat": (b"  ;; a guard\n(; and\nmore ;)\n(module $g (func))", r"WebAssembly text \(WAT\)"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer.*git lfs pull"),
    "base64": (b"AGFzbQEAAAA=", "base64"),
    "archive": (b"!<arch>\n", r"a static library \(.a or .rlib\)"),
    "json": (b'{"allow-only": {}}', "JSON"),
    "text": (b"hello\n", "text"),
    "zeros": (bytes(100), "a file of zeros"),
    "empty": (b"", "the file is empty"),
    "cut": (b"\0as", "a file of 3 bytes.*cut short"),
    "cut version": (b"\0asm\x01", "ends within the WebAssembly header: it has 5 bytes of 8"),
    "component": (b"\0asm\x0d\0\x01\0", "a WebAssembly component"),
    "version": (b"\0asm\x02\0\0\0", "the WebAssembly version is 2, expected 1"),
    "anything": (b"\xde\xad\xbe\xef\0", r"starts with de ad be ef.*a module starts with 00 61 73 6d"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES.keys())
def test_other_files_are_recognised(content: bytes, message: str) -> None:
    for refused in (read_module, lambda data: cap_memory(data, 512)):
        with pytest.raises(WasmError, match=message):
            refused(content)


def test_a_module_is_not_taken_for_anything_else() -> None:
    assert recognise(b.guard()) is None


SMALL = ModuleLimits(
    module_bytes=400,
    code_bytes=200,
    function_bytes=100,
    types=3,
    params=4,
    imports=2,
    exports=3,
    functions=5,
    locals=50,
    total_locals=120,
    globals=2,
    tables=2,
    table_entries=10,
    element_segments=2,
    element_items=6,
    data_segments=2,
    constant_instructions=4,
    name_bytes=8,
    custom_sections=2,
)
TYPE = b.types(b.func_type())
LOG = b.imported("env", "host_log", b"\0\0")
PASSIVE = b"\x01\0\x04\0\0\0\0"

OVER = {
    "module_bytes": (b.custom("x", bytes(500)), "the module has 513 bytes; at most 400 are allowed"),
    "code_bytes": (
        TYPE + b.functions(0, 0) + b.code(b.body((), bytes(98)), b.body((), bytes(99))),
        "of code; at most 200",
    ),
    "function_bytes": (TYPE + b.functions(0) + b.code(b.body((), bytes(100))), "function 0 has 102 bytes of code"),
    "types": (b.types(*[b.func_type()] * 4), "4 types; at most 3"),
    "params": (b.types(b.func_type(b.I32 * 5)), "5 parameters; at most 4"),
    "imports": (TYPE + b.imports(LOG, LOG, LOG), "3 imports; at most 2"),
    "exports": (b.memory(1) + b.exports(*(b.exported(x, 2) for x in "abcd")), "4 exports; at most 3"),
    "functions": (TYPE + b.functions(*[0] * 6) + b.code(*[b.body()] * 6), "6 functions; at most 5"),
    "locals": (TYPE + b.functions(0) + b.code(b.body([(51, b.I32)])), "function 0 has 51 locals; at most 50"),
    "total_locals": (
        TYPE + b.functions(0, 0, 0) + b.code(*[b.body([(30, b.I32), (15, b.F64)])] * 3),
        "the functions up to 2 have more than the 120 locals",
    ),
    "globals": (b.section(6, b.vec([b"\x7f\0" + I32_0] * 3)), "3 globals; at most 2"),
    "tables": (b.section(4, b.vec([b"\x70\0\0"] * 3)), "3 tables; at most 2"),
    "table_entries": (b.section(4, b.vec([b"\x70\0\x0b"])), "a table of 11 entries; at most 10"),
    "element_segments": (b.section(9, b.vec([b"\x01\0\0"] * 3)), "3 element segments; at most 2"),
    "element_items": (
        TYPE + b.functions(0) + b.section(9, b.vec([PASSIVE] * 2)) + ZERO_CODE,
        "more than the 6 elements that are allowed in all",
    ),
    "constant_instructions": (
        b.section(6, b"\x01\x7f\0" + b"\x41\0" + b"\x41\0\x6a" * 2 + b.END),
        "a constant expression of more than 4 instructions",
    ),
    "data_segments": (b.section(11, b.vec([b"\x01\0"] * 3)), "3 data segments; at most 2"),
    "name_bytes": (b.custom("nine byte"), "its name has 9 bytes; at most 8"),
    "custom_sections": (b.custom("a") * 3, "more than 2 custom sections"),
}


@pytest.mark.parametrize(("limit", "content", "message"), [(k, *v) for k, v in OVER.items()], ids=OVER.keys())
def test_each_limit_refuses_what_is_over_it(limit: str, content: bytes, message: str) -> None:
    with pytest.raises(WasmLimitError, match=message) as caught:
        read_module(b.module(content), SMALL)
    assert caught.value.limit == limit
    assert read_module(b.module(content)).size == 8 + len(content)  # it is the limit alone that refuses it


def test_every_limit_is_tested() -> None:
    assert set(OVER) == set(ModuleLimits.__dataclass_fields__)


def test_parameters_count_as_locals() -> None:
    content = b.module(b.types(b.func_type(b.I32 * 4)), b.functions(0), b.code(b.body([(47, b.I32)])))
    assert read_module(content).code.most_locals == 51
    with pytest.raises(WasmLimitError, match="51 locals"):
        read_module(content, SMALL)


def test_imported_functions_count_towards_the_limit() -> None:
    content = b.module(TYPE, b.imports(LOG), b.functions(*[0] * 5))
    with pytest.raises(WasmLimitError, match="5 functions; at most 4"):
        read_module(content, SMALL)


BOMBS = {
    "locals": (b.module(TYPE, b.functions(*[0] * 10_000), b.code(*[b.body([(50_000, b.I32)])] * 10_000)), "in all"),
    "locals in one": (b.module(ONE, b.code(b.body([(0xFFFFFFFF, b.I32)] * 50))), "locals"),
    "branch table": (
        b.module(ONE, b.code(b.body((), b"\x41\0\x0e" + b.leb(3_000_000) + bytes(3_000_000)))),
        "function",
    ),
    "groups of locals": (b.module(ONE, b.code(b.body([(0, b.I32)] * 240_000))), None),
    "elements": (
        b.module(ONE, b.section(9, b"\x01\x01\0" + b.leb(5_000_000) + bytes(5_000_000)), ZERO_CODE),
        "elements",
    ),
    "functions": (b.module(TYPE, b.functions(*[0] * 2_000_000)), "functions"),
    "custom sections": (b.module(b.custom("") * 500_000), "custom"),
    "types": (b.module(b.types(*[b.func_type()] * 300_000)), "types"),
    "table": (b.module(b.section(4, b"\x01\x70\0" + b.leb(10_000_000))), "entries"),
    "name": (b.module(b.custom("x" * 5_000_000)), "name"),
}


@pytest.mark.parametrize(("bomb", "message"), BOMBS.values(), ids=BOMBS.keys())
def test_module_bombs_cost_little_and_are_refused(bomb: bytes, message: str | None) -> None:
    tracemalloc.start()
    began = time.process_time()
    try:
        if message is None:
            read_module(bomb)
        else:
            with pytest.raises(WasmLimitError, match=message):
                read_module(bomb)
        elapsed, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(bomb) + 500_000
    assert elapsed < 4  # tracing makes it several times slower than it is


def test_reading_a_large_module_takes_milliseconds() -> None:
    plain = b.body([(3, b.I32), (1, b.I64)], bytes(280))
    large = b.module(TYPE, b.functions(*[0] * 1000), b.memory(17), b.code(*[plain] * 1000))
    assert 280_000 < len(large) < 310_000
    took = []
    for _ in range(5):
        began = time.process_time()
        read_module(large)
        cap_memory(large, 512)
        took.append(time.process_time() - began)
    assert min(took) < 0.025


CAPS = [
    # declared minimum and maximum, cap, maximum afterwards
    (1, None, 512, 512),
    (1, 1000, 512, 512),
    (1, 100, 512, 100),
    (1, 512, 512, 512),
    (512, None, 512, 512),
    (0, None, 1, 1),
    (3, 65536, 65536, 65536),
    (200, 300, 250, 250),
    (5, 20000, 16384, 16384),
]


@pytest.mark.parametrize(("minimum", "maximum", "cap", "expected"), CAPS)
def test_memory_is_capped(minimum: int, maximum: int | None, cap: int, expected: int) -> None:
    data = b.guard(memory_section=b.memory(minimum, maximum))
    capped = cap_memory(data, cap)
    assert read_module(capped).memories == (MemoryType(minimum, expected),)
    assert cap_memory(capped, cap) is capped
    assert (capped is data) == (maximum == expected)
    before, after = read_module(data), read_module(capped)
    assert (before.exports[1:], before.code, before.types) == (after.exports[1:], after.code, after.types)


def test_a_guest_cannot_grow_past_the_cap() -> None:
    wat = (
        '(module (memory (export "memory") 1) (func (export "grow") (param i32) (result i32) local.get 0 memory.grow))'
    )
    loaded = enginekit.load_bundle(enginekit.compile_bundle(cap_memory(enginekit.wat_to_wasm(wat), 3)))
    grow = loaded.guard.instantiate({}).function("grow")
    assert grow is not None
    assert [grow(2), grow(1), grow(0)] == [1, -1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b.memory(600), "the memory has 600 pages at the start, the cap is 512"),
        (b.memory(1, 2, flags=3), "a shared memory"),
        (b.memory(1, flags=4), "a 64-bit memory"),
        (b.memory(1, 2, flags=5), "a 64-bit memory"),
        (b.section(5, b"\x02\0\x01\0\x01"), "several memories"),
        (b.imports(b.imported("env", "memory", b"\x02\0\x01")), "the memory is imported"),
        (b.section(5, b"\x01\0\x01\0"), "1 bytes are left over"),
        (b"\x05\x7f", "127 bytes but 0 are left"),
    ],
)
def test_memories_that_cannot_be_capped_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(WasmError, match=message):
        cap_memory(b.module(content), 512)


@pytest.mark.parametrize("pages", [0, -1, 65537])
def test_a_cap_out_of_range_is_refused(pages: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 65536"):
        cap_memory(b.guard(), pages)


@pytest.mark.parametrize("data", [b.module(), b.module(b.section(5, b"\0")), b.module(b.custom("x", b"y"))])
def test_a_module_without_a_memory_stays_as_it_is(data: bytes) -> None:
    assert cap_memory(data, 512) is data


@given(st.integers(0, 1 << 32), st.integers(1, 200))
def test_property_capping_touches_the_memory_section_only(seed: int, pages: int) -> None:
    made = b.RandomModule(random.Random(seed))
    info = read_module(made.data)
    assert info.memories == (MemoryType(made.minimum, made.maximum),)
    if made.minimum > pages:
        with pytest.raises(WasmError, match="at the start"):
            cap_memory(made.data, pages)
        return
    capped = cap_memory(made.data, pages)
    expected = pages if made.maximum is None else min(made.maximum, pages)
    assert read_module(capped).memories == (MemoryType(made.minimum, expected),)
    assert cap_memory(capped, pages) is capped
    memory = b.memory(made.minimum, expected) if capped is not made.data else None
    assert capped == b.module(*(memory if ident == 5 and memory else part for ident, part in made.parts))


@pytest.mark.parametrize("seed", range(40))
def test_random_modules_compile_before_and_after_capping(seed: int) -> None:
    rng = random.Random(seed)
    features = frozenset(
        rng.sample(sorted(accepted(enginekit.ENGINE_NAME)), rng.randint(0, len(accepted(enginekit.ENGINE_NAME))))
    )
    made = b.RandomModule(rng, features=features)
    assert code_problem(made.data, read_module(made.data), ModuleLimits(), enginekit.ENGINE_NAME) is None
    assert enginekit.compile_bundle(made.data)
    assert enginekit.compile_bundle(as_compiled(made.data, max(made.minimum, 1)))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("feature", ["simd", "externref", "tail_calls", "extended_const"])
def test_a_random_module_is_refused_for_the_feature_it_uses(feature: str, seed: int) -> None:
    data = b.RandomModule(random.Random(seed), features={feature}).data
    info = read_module(data)
    found = find_refused(data, info, allowed=frozenset())
    used = {use.feature for use in info.uses} | ({found.family} if found is not None else set())
    assert used <= {feature}
    for engine in ("wasmtime", "wasmer"):
        problem = code_problem(data, info, ModuleLimits(), engine)
        assert (problem is None) == (not used or feature in accepted(engine))


def test_tables_are_capped_wherever_they_are_declared() -> None:
    data = b.module(
        b.section(
            4, b.vec([b.FUNCREF + b"\0\x03", b.EXTERNREF + b"\x01\x01\x05", b.FUNCREF + b"\x01\0" + b.leb(10**9)])
        )
    )
    capped = cap_tables(data + b.memory(1))
    assert read_module(capped).tables == (
        TableType("funcref", 3, 100_000),
        TableType("externref", 1, 5),
        TableType("funcref", 0, 100_000),
    )
    assert cap_tables(capped) is capped
    assert capped.endswith(b.memory(1))
    small = cap_tables(data, ModuleLimits(table_entries=4))
    assert [table.maximum for table in read_module(small).tables] == [4, 4, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b.section(4, b.vec([b.FUNCREF + b"\0" + b.leb(100_001)])),
            "a table of 100001 entries; at most 100000 are allowed",
        ),
        (b.imports(b.imported("env", "t", b"\x01\x70\0\x01")), "a table is imported"),
        (b.section(4, b"\x01\x70\x04\0"), "a 64-bit table"),
        (b.section(4, b"\x01\x40\0\x70\0\x01\xd0\x70\x0b"), "a table with an expression for its entries"),
        (b.section(4, b.vec([b.FUNCREF + b"\0\0"] * 17)), "17 tables; at most 16"),
    ],
)
def test_tables_that_cannot_be_capped_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(WasmError, match=message):
        cap_tables(b.module(content))


@given(st.integers(0, 1 << 32))
def test_property_capping_tables_touches_the_table_section_only(seed: int) -> None:
    made = b.RandomModule(random.Random(seed))
    capped = cap_tables(made.data)
    expected = [TableType("funcref", least, min(most or 100_000, 100_000)) for least, most in made.tables]
    assert list(read_module(capped).tables) == expected
    before, after = sections(made.data, ModuleLimits()), sections(capped, ModuleLimits())
    for (ident, start, end), (same, begin, stop) in zip(before, after):
        assert ident == same
        assert ident == 4 or made.data[start:end] == capped[begin:stop]
    assert cap_tables(capped) is capped


def test_a_guest_cannot_grow_a_table_past_the_cap() -> None:
    wat = """(module (table $t 1 funcref) (table $other 1 funcref) (func (export "grow") (param i32) (result i32)
        (table.grow $t (ref.null func) (local.get 0))) (func (export "size") (result i32) (table.size $other)))"""
    loaded = enginekit.load_bundle(enginekit.compile_bundle(cap_tables(enginekit.wat_to_wasm(wat))))
    instance = loaded.guard.instantiate({})
    grow, size = instance.function("grow"), instance.function("size")
    assert grow is not None
    assert size is not None
    assert [grow(-1), grow(2**31 - 1), grow(99_999), grow(1), grow(0), size()] == [-1, -1, 1, -1, 100_000, 1]


# A module of each, and the feature that its error has.
NEWER = {
    "struct": (b.types(b"\x5f\0"), "gc"),
    "recursive types": (b.types(b"\x4e\x01\x50\0\x60\0\0"), "gc"),
    "continuation": (b.types(b"\x5d\0\0"), "stack_switching"),
    "descriptor": (b.types(b"\x4d\0\0"), "custom_descriptors"),
    "shared type": (b.types(b"\x65\x60\0\0"), "threads"),
    "typed parameter": (b.types(b.func_type(b"\x64\x70")), "typed_references"),
    "typed result": (b.types(b"\x60\0\x01\x63\0"), "typed_references"),
    "any": (b.types(b.func_type(b"\x6e")), "gc"),
    "exn": (b.types(b.func_type(b"\x69")), "exceptions"),
    "string": (b.types(b.func_type(b"\x67")), "strings"),
    "imported tag": (b.imports(b.imported("m", "t", b"\x04\0\0")), "exceptions"),
    "imported exact function": (b.imports(b.imported("m", "t", b"\x20\0")), "custom_descriptors"),
    "imported 64-bit table": (b.imports(b.imported("m", "t", b"\x01\x70\x04\0")), "memory64"),
    "typed global": (b.section(6, b"\x01\x63\x70\0\xd0\x70\x0b"), "typed_references"),
    "global of another": (b.section(6, b"\x02\x7f\0\x41\0\x0b\x7f\0\x23\0\x0b"), "gc"),
    "null of a type": (b.section(6, b"\x01\x70\0\xd0\0\x0b"), "typed_references"),
    "i31 in a constant": (b.section(6, b"\x01\x70\0\x41\0\xfb\x1c\x0b"), "gc"),
    "64-bit table": (b.section(4, b"\x01\x70\x05\0\x01"), "memory64"),
    "shared table": (b.section(4, b"\x01\x70\x03\0\x01"), "threads"),
    "typed table": (b.section(4, b"\x01\x63\0\0\0"), "typed_references"),
    "table with an initialiser": (b.section(4, b"\x01\x40\0\x70\0\x01\xd0\x70\x0b"), "typed_references"),
    "typed elements": (b.section(9, b"\x01\x05\x63\x70\0"), "typed_references"),
    "64-bit memory": (b.memory(1, flags=4), "memory64"),
    "shared memory": (b.memory(1, 2, flags=3), "threads"),
    "custom page size": (b.memory(1, flags=8), "custom_page_sizes"),
    "two memories": (b.section(5, b"\x02\0\x01\0\x01"), "several_memories"),
    "tag section": (b.section(13, b"\x01\0\0"), "exceptions"),
    "string section": (b.section(14, b"\0\0"), "strings"),
    "typed local": (ONE + b.code(b.body([(1, b"\x63\x70")])), "typed_references"),
    "local of gc": (ONE + b.code(b.body([(1, b"\x6b")])), "gc"),
}


@pytest.mark.parametrize(("content", "feature"), NEWER.values(), ids=NEWER.keys())
def test_a_newer_feature_is_named_with_the_way_to_build_without(content: bytes, feature: str) -> None:
    with pytest.raises(WasmUnsupportedError, match="not supported") as caught:
        read_module(b.module(content))
    assert caught.value.feature == feature
    assert WITHOUT[feature] in str(caught.value)
    (problem,) = inspect(b.module(content)).problems
    assert (problem.code, problem.message) == ("unsupported", f"{caught.value} (neither wasmtime nor wasmer takes it)")


def test_every_feature_has_a_way_to_build_without_it() -> None:
    assert WITHOUT.keys() == FEATURE_TITLES.keys()
    for engine, taken in ACCEPTED.items():
        assert taken.keys() <= READ
        for feature in WITHOUT.keys() - taken.keys():
            assert why_not(engine, feature)


@given(st.binary(max_size=400), st.sampled_from([b"", b.HEADER]))
def test_property_arbitrary_bytes_are_an_error_or_a_module(content: bytes, head: bytes) -> None:
    for read in (read_module, lambda data: cap_memory(data, 512)):
        message = refusal(read, head + content)
        assert message == printable(message, 1000)


def refusal(read: Callable[[bytes], object], data: bytes) -> str:
    """The message with which `data` is refused, empty if it is taken."""
    try:
        read(data)
    except WasmError as error:
        return str(error)
    return ""


def test_a_module_can_only_end_between_two_sections() -> None:
    data = enginekit.wat_to_wasm(WAT)
    accepted = set()
    for end in range(len(data)):
        try:
            read_module(data[:end])
            accepted.add(end)
        except WasmError:
            pass
    assert accepted <= {8, *(end for _, _, end in sections(data, ModuleLimits()))}
    assert {8} < accepted


def test_limits_can_be_raised() -> None:
    data = b.module(b.custom("x", bytes(500)))
    assert read_module(data, replace(SMALL, module_bytes=1000)).size == len(data)
