"""Which guards' state can be put back from outside, and that what is compiled exports it and nothing else is changed."""

from __future__ import annotations

import pytest

import enginekit
import guardkit
from guardpool.module.inspection import inspect
from guardpool.module.kept_state import as_compiled, settable_globals
from guardpool.wasm import cap_memory, cap_tables, changes_tables_or_segments, read_module

GLOBALS = "(global (mut i32) (i32.const 1)) (global i32 (i32.const 2)) (global (mut i64) (i64.const 3))"
PARTS = """(table $t 2 9 funcref) (memory 1) (data $d "x") (elem $e func $f) (func $f)"""


def module(*parts: str) -> bytes:
    return enginekit.wat_to_wasm(f"""(module {PARTS} (func (export "x")) {" ".join(parts)})""")


def test_every_mutable_global_is_exported_under_a_name_of_its_own() -> None:
    wasm = module(GLOBALS, '(export "mine" (global 2))')
    names = settable_globals(wasm)
    assert names == ("guardpool.global.0", "guardpool.global.2")
    before, after = read_module(wasm), read_module(as_compiled(wasm, 1))
    assert after.exports[: len(before.exports)] == before.exports
    added = after.exports[len(before.exports) :]
    assert [(export.name, export.kind, export.index) for export in added] == [
        (names[0], "global", 0),
        (names[1], "global", 2),
    ]
    assert (after.functions, after.globals, after.data_bytes) == (before.functions, before.globals, before.data_bytes)


def test_no_name_is_taken_that_the_guard_has() -> None:
    wasm = module(GLOBALS, '(export "guardpool.global.2" (global 1)) (export "guardpool.global..0" (global 1))')
    assert settable_globals(wasm) == ("guardpool.global...0", "guardpool.global...2")
    assert read_module(as_compiled(wasm, 1)).export("guardpool.global...2") is not None


def test_a_guard_without_mutable_globals_is_compiled_as_it_is() -> None:
    wasm = module("(global i32 (i32.const 2))")
    assert settable_globals(wasm) == ()
    assert as_compiled(wasm, 1) == cap_tables(cap_memory(wasm, 1))


@pytest.mark.parametrize(
    "code",
    [
        "(table.set $t (i32.const 0) (ref.null func))",
        "(drop (table.grow $t (ref.null func) (i32.const 1)))",
        "(table.fill $t (i32.const 0) (ref.null func) (i32.const 1))",
        "(table.copy $t $t (i32.const 0) (i32.const 1) (i32.const 1))",
        "(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 1))",
        "(elem.drop $e)",
        "(data.drop $d)",
    ],
)
def test_an_instruction_that_changes_tables_or_segments_is_found(code: str) -> None:
    harmless = "(drop (i32.const 0x26)) (drop (i32.const 0xfc09)) " * 2500
    for function in (
        code,
        f"(local i64 f32) {code}",
        f"{harmless} {code} {harmless}",
        f"(if (i32.const 0) (then {code}))",
    ):
        wasm = module(GLOBALS, f"(func {function})")
        assert changes_tables_or_segments(wasm), function
        assert settable_globals(wasm) is None
        assert as_compiled(wasm, 1) == cap_tables(cap_memory(wasm, 1))


@pytest.mark.parametrize(
    "code",
    [
        "(drop (table.get $t (i32.const 0)))",
        "(drop (table.size $t))",
        "(call_indirect $t (i32.const 0))",
        "(memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))",
        "(memory.fill (i32.const 0) (i32.const 0) (i32.const 1))",
        "(drop (f64.const 9.1e-300)) (drop (i64.const 0x26fc0926fc09))",
    ],
)
def test_other_instructions_are_not_taken_for_one(code: str) -> None:
    assert settable_globals(module(GLOBALS, f"(func {code})")) is not None


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_globals_that_are_no_integers_are_not_put_back(kind: str) -> None:
    assert settable_globals(module(GLOBALS, f"(global (mut {kind}) ({kind}.const 1))")) is None
    assert settable_globals(module(GLOBALS, f"(global {kind} ({kind}.const 1))")) is not None


def test_what_is_exported_can_be_read_and_set() -> None:
    wasm = guardkit.wat("counts_in_memory")
    guard = guardkit.instance("counts_in_memory").guard
    names = settable_globals(wasm)
    assert names is not None
    for name, value in zip(names, (-1, -(2**63), 2**31 - 1, 5, 6, 7)):
        guard.global_(name).value = value
        assert guard.global_(name).value == value


@pytest.mark.parametrize(
    ("name", "expected"), [("counts_in_memory", True), ("counts_in_tables", False), ("table_bomb", False)]
)
def test_inspect_tells_whether_a_guards_state_can_be_put_back(name: str, expected: bool) -> None:
    assert inspect(guardkit.wat(name)).put_back is expected
