"""Published advisories of Cranelift, the code generator of both engines: each miscompiled shape that can be tried is tried.

SECURITY.md lists the advisories; these tests are its proofs. wasmer has Cranelift 0.76.0, which gets no more fixes.
"""

from __future__ import annotations

import platform

import pytest

import enginekit
from guardpool.errors import CompileError
from guardpool_worker.engine.seam import EngineInstance

only_wasmer = pytest.mark.skipif(enginekit.ENGINE_NAME != "wasmer", reason="the run has another engine")
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="a bug of the x86-64 backend")


def _instance(wat: str) -> EngineInstance:
    return enginekit.load_bundle(enginekit.compile_bundle(enginekit.wat_to_wasm(wat))).guard.instantiate({})


def _call(instance: EngineInstance, name: str, *args: int) -> object:
    function = instance.function(name)
    assert function is not None
    return function(*args)


def test_a_shifted_address_is_cut_to_32_bits() -> None:
    """CVE-2023-26489: `i32.load (i32.shl x n)` reached up to 34 GB past the memory. It came with Cranelift 0.84."""
    instance = _instance(
        """(module (memory (export "memory") 1 1) (data (i32.const 8) "\\2a\\00\\00\\00")
        (func (export "by1") (param i32) (result i32) (i32.load (i32.shl (local.get 0) (i32.const 1))))
        (func (export "by2") (param i32) (result i32) (i32.load (i32.shl (local.get 0) (i32.const 2))))
        (func (export "by3") (param i32) (result i32) (i32.load (i32.shl (local.get 0) (i32.const 3))))
        (func (export "plus") (param i32) (result i32)
          (i32.load offset=4 (i32.add (i32.shl (local.get 0) (i32.const 3)) (i32.const -4)))))"""
    )
    # Each of these addresses is 8 once its bits above the 32nd are gone.
    assert _call(instance, "by1", -0x80000000 + 4) == 42
    assert _call(instance, "by2", 0x40000002) == 42
    assert _call(instance, "by3", 0x20000001) == 42
    assert _call(instance, "plus", 0x20000001) == 42


def test_a_value_that_was_spilled_is_not_sign_extended() -> None:
    """CVE-2021-32629: an i32 above 2^31 came back from the stack as a negative address. Fixed in Cranelift 0.73.1."""
    held = 40
    lines = "\n".join(
        f"(local.set {n} (i32.add (local.get 0) (i32.const {n - 1 + 0x80000000 - (1 << 32)})))"
        for n in range(1, held + 1)
    )
    total = "\n".join(
        f"(local.set {held + 1} (i64.add (local.get {held + 1}) (i64.extend_i32_u (local.get {n}))))"
        for n in range(1, held + 1)
    )
    instance = _instance(
        f"""(module (memory (export "memory") 1 1) (func $nothing)
        (func (export "sum") (param i32) (result i64) (local {"i32 " * held}) (local i64)
          {lines} (call $nothing) {total} (local.get {held + 1})))"""
    )
    assert _call(instance, "sum", 1) == sum(0x80000000 + n for n in range(1, held + 1))


def test_copysign_reads_no_further_than_memory() -> None:
    """CVE-2026-24116: `f64.copysign` of a loaded value read 16 bytes for 8. It came with Wasmtime 29."""
    instance = _instance(
        """(module (memory (export "memory") 1 1)
        (func (export "at") (param i32) (result i32) (i32.trunc_f64_s
          (f64.copysign (f64.const 7) (f64.load (local.get 0))))))"""
    )
    assert _call(instance, "at", 65536 - 8) == 7


@x86_64
def test_vector_select_is_compiled_wrong_by_wasmer_alone() -> None:
    """CVE-2022-31104: `select` of two vectors mixes them. wasmer has the bug, so that it is given no guards with vectors."""
    instance = _instance(
        """(module (memory (export "memory") 1 1)
        (func (export "upper") (param i32) (result i64) (local v128 v128)
          (local.set 1 (v128.const i64x2 1 2)) (local.set 2 (v128.const i64x2 3 4))
          (i64x2.extract_lane 1 (select (result v128) (local.get 1) (local.get 2) (local.get 0)))))"""
    )
    assert _call(instance, "upper", 0) == 4
    wrong = enginekit.ENGINE_NAME == "wasmer"
    assert _call(instance, "upper", 1) == (4 if wrong else 2), "2 is right"


@pytest.mark.parametrize(
    "wat",
    [
        "(module (memory i64 1))",
        "(module (memory 1 1 shared))",
        "(module (memory 1) (memory 1))",
        pytest.param("(module (func $f (return_call $f)))", marks=only_wasmer),
    ],
)
def test_proposals_with_advisories_of_their_own_are_refused(wat: str) -> None:
    """64-bit memories (CVE-2026-34971), threads and several memories are not compiled, nor tail calls by wasmer."""
    with pytest.raises(CompileError, match="the engine refuses the module"):
        enginekit.compile_bundle(enginekit.wat_to_wasm(wat))
