"""No guard with vector instructions is compiled: every function is walked first, instruction by instruction."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import enginekit
import guardkit
import wasm_builder as b
import wasm_decoder
from clikit import Bench
from guardpool import ModuleCache, samples
from guardpool.artifacts.compilation import compile_guard
from guardpool.errors import ModuleError
from guardpool.module import code_rules, inspection
from guardpool.module.inspection import check_module, inspect
from guardpool.wasm import ModuleInfo, Refusal, WasmError, changes_tables_or_segments, find_refused, read_module
from guardpool.wasm.custom_sections import function_name
from guardpool.wasm.instructions import refused_instruction

NOP = b"\x01"
VECTOR = b"\xfd\x0c" + bytes(16)  # v128.const 0
SIMD = "a vector instruction (SIMD), 0xfd 0x0c"


def found_in(instructions: bytes, locals_: list[tuple[int, bytes]] | None = None) -> Refusal | None:
    """What is refused of a function with these instructions, behind another one and an import."""
    wasm = b.module(
        b.types(b.func_type()),
        b.imports(b.imported("env", "f", b"\0\0")),
        b.functions(0, 0),
        b.code(b.body(), b.body(locals_ or (), instructions)),
    )
    found = find_refused(wasm, read_module(wasm))
    if found is not None and locals_ is None:
        assert found.function == 2
        assert wasm[found.offset : -len(b.END)] == instructions.lstrip(NOP)
    return found


def walked(data: bytes, features: frozenset[str] = wasm_decoder.PLAIN) -> int | None:
    """The offset at which the walker stops, by the walker and by the specification's tables."""
    try:
        for _ in wasm_decoder.decode(data, features):
            pass
    except wasm_decoder.RefusedError as error:
        expected: int | None = error.args[0]
    else:
        expected = None
    stopped = refused_instruction(b"\xfd" + data + b"\0", 1, 1 + len(data), features)
    assert stopped == (None if expected is None else 1 + expected)
    return expected


# --- what is allowed

LOADS = ["i32.load", "i64.load", "f32.load", "f64.load"]
LOADS += [f"{t}.load{n}_{s}" for t, sizes in (("i32", (8, 16)), ("i64", (8, 16, 32))) for n in sizes for s in "su"]
STORES = ["i32.store", "i64.store", "f32.store", "f64.store"]
STORES += [f"{t}.store{n}" for t, sizes in (("i32", (8, 16)), ("i64", (8, 16, 32))) for n in sizes]
COMPARISONS = "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u"
INTEGERS = (
    "clz ctz popcnt add sub mul div_s div_u rem_s rem_u and or xor shl shr_s shr_u rotl rotr eqz extend8_s extend16_s"
)
FLOATS = "abs neg ceil floor trunc nearest sqrt add sub mul div min max copysign eq ne lt gt le ge"
NUMERIC = [f"{t}.{name}" for t in ("i32", "i64") for name in f"{COMPARISONS} {INTEGERS}".split()]
NUMERIC += [f"{t}.{name}" for t in ("f32", "f64") for name in FLOATS.split()]
NUMERIC += [
    f"{i}.trunc{sat}_{f}_{s}" for i in ("i32", "i64") for f in ("f32", "f64") for s in "su" for sat in ("", "_sat")
]
NUMERIC += [f"{f}.convert_{i}_{s}" for f in ("f32", "f64") for i in ("i32", "i64") for s in "su"]
NUMERIC += [
    "i32.wrap_i64",
    "i64.extend_i32_s",
    "i64.extend_i32_u",
    "i64.extend32_s",
    "f32.demote_f64",
    "f64.promote_f32",
]
NUMERIC += ["i32.reinterpret_f32", "i64.reinterpret_f64", "f32.reinterpret_i32", "f64.reinterpret_i64"]
OTHERS = """nop|unreachable|return|drop|select|select (result i64)|select (result externref)|br 0|br_if 0|br_table 0 0 0
block end|loop end|if else end|block (result f32) unreachable end|loop (type 1) end|block (type $second) unreachable end
call 0|call_indirect (type 1)|call_indirect 1 (type 0)|local.get 0|local.set 0|local.tee 0|global.get 0|global.set 0
table.get 0|table.set 1|table.grow 0|table.size 1|table.fill 0|table.copy 0 1|table.init 0 0|elem.drop 0
memory.size|memory.grow|memory.fill|memory.copy|memory.init 0|data.drop 0
i32.const -1|i32.const 0x7fffffff|i64.const 0x7fffffffffffffff|i64.const -5000000000|f32.const nan|f64.const 1e300
ref.null func|ref.null extern|ref.is_null|ref.func 0"""
EVERYTHING = [*LOADS, *STORES, *NUMERIC, *OTHERS.replace("\n", "|").split("|")]


def test_every_allowed_instruction_passes_as_the_assembler_writes_it() -> None:
    # Behind `unreachable` anything type-checks. Each in a function of its own, so that nothing hides behind another.
    functions = "\n".join(f"(func (param i32) (result i32) unreachable {each} unreachable)" for each in EVERYTHING)
    wasm = enginekit.wat_to_wasm(
        f"""(module (type (func (param i32) (result i32))) (type (func)) (type $second (func (param i64) (result i64 i64)))
        (memory 1) (table 2 funcref) (table 3 funcref) (global (mut i32) (i32.const 0)) (elem func 0)
        (elem declare func 0) (data "x") {functions})"""
    )
    info = read_module(wasm)
    assert find_refused(wasm, info) is None
    if enginekit.ENGINE_NAME == "wasmer":  # the other one has no externref
        assert enginekit.compile_bundle(wasm)
    seen = set()
    for start, end in function_bodies(wasm):
        seen |= {opcode for _, opcode in wasm_decoder.decode(wasm[start:end])}
    assert seen == set(wasm_decoder.OPERANDS)


def function_bodies(wasm: bytes) -> list[tuple[int, int]]:
    from guardpool.wasm.instructions import _bodies
    from guardpool.wasm.limits import DEFAULT_LIMITS

    return [(start + 1, end) for start, end in _bodies(wasm, DEFAULT_LIMITS)]  # none of these has locals


CHANGING = {(0x26,), *((0xFC, number) for number in (9, 12, 13, 14, 15, 17))}  # tables, and segments that are dropped


@pytest.mark.parametrize("seed", range(60))
def test_what_changes_tables_or_segments_is_found_as_a_decoder_finds_it(seed: int) -> None:
    rng = random.Random(seed)
    functions = []
    for _ in range(rng.randint(1, 5)):
        made = [wasm_decoder.random_instruction(rng, wasm_decoder.ALL) for _ in range(rng.randint(0, 60))]
        if seed % 3:  # most functions would have one otherwise
            made = [each for each in made if next(wasm_decoder.decode(each, wasm_decoder.ALL))[1] not in CHANGING]
        functions.append(b"".join(made))
    bodies = [b.body(rng.choice(((), [(3, b.I64)])), each) for each in functions]
    wasm = b.module(b.types(b.func_type()), b.functions(*[0] * len(bodies)), b.code(*bodies))
    found = {opcode for each in functions for _, opcode in wasm_decoder.decode(each, wasm_decoder.ALL)}
    assert changes_tables_or_segments(wasm) == bool(found & CHANGING)


@pytest.mark.parametrize("path", sorted(guardkit.GUARDS.glob("*.wat")), ids=lambda path: path.stem)
def test_every_guard_in_the_test_folder_passes(path: Path) -> None:
    wasm = guardkit.wat(path.stem)
    assert find_refused(wasm, read_module(wasm)) is None


def test_the_sample_guard_passes() -> None:
    wasm = samples.GUARD.read_bytes()
    assert find_refused(wasm, read_module(wasm)) is None


ZIG = """
export var data: [64]u32 = [_]u32{1} ** 64;
export fn sum(scale: u32) u32 {
    var total: u32 = 0;
    for (&data) |*each| { each.* *%= scale; total +%= each.*; }
    return total;
}
export fn pick(which: u32, x: f64) f64 {
    return switch (which) { 0 => x, 1 => @sqrt(x), 2 => @floor(x), 3 => 1 / x, 4 => @abs(x), else => -x };
}
export fn text(n: u32) usize {
    var room: [40]u8 = undefined;
    return (@import("std").fmt.bufPrint(&room, "{d} {x}", .{ n, n }) catch unreachable).len;
}
"""


@pytest.mark.parametrize("mode", ["Debug", "ReleaseFast", "ReleaseSmall"])
@pytest.mark.parametrize("features", ["generic", "generic+simd128"])
@pytest.mark.slow
def test_what_a_compiler_makes_passes_unless_it_is_built_with_simd(mode: str, features: str, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    source = tmp_path / "g.zig"
    source.write_text(ZIG)
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "build-exe",
        str(source),
        "-target",
        "wasm32-freestanding",
        "-fno-entry",
    ]
    command += ["-rdynamic", "-O", mode, f"-mcpu={features}", f"-femit-bin={tmp_path / 'g.wasm'}"]
    subprocess.run([*command, "--cache-dir", str(tmp_path / "cache")], check=True, timeout=120, cwd=tmp_path)
    wasm = (tmp_path / "g.wasm").read_bytes()
    found = find_refused(wasm, read_module(wasm))
    if features == "generic" or mode != "ReleaseFast":  # only this one vectorizes the loop
        assert found is None
    else:
        assert found is not None
        assert found.family == "simd"


# --- what is refused


@pytest.mark.parametrize("byte", range(256))
def test_instructions_off_the_list_are_refused(byte: int) -> None:
    operands = b"\x01\x7f" if byte == 0x1C else b"\x70" if byte == 0xD0 else bytes(17)
    allowed = any(opcode[0] == byte for opcode in wasm_decoder.OPERANDS)
    assert (walked(bytes([byte]) + operands) is None) == allowed
    assert (walked(bytes([byte]) + operands, wasm_decoder.ALL) is None) == any(
        opcode[0] == byte and opcode[1:] in ((), (0,)) for opcode in wasm_decoder.table(wasm_decoder.ALL)
    )
    for second in range(256) if byte == 0xFC else ():
        assert (walked(bytes([byte, second]) + bytes(10)) is None) == ((byte, second) in wasm_decoder.OPERANDS)


@pytest.mark.parametrize("number", [*range(0x140), 0x3FFF, 0x4000])
def test_vector_instructions_are_allowed_by_number(number: int) -> None:
    known = (0xFD, *b.leb(number)) in wasm_decoder.BY_FEATURE["simd"]
    data = b"\xfd" + b.leb(number) + bytes(18)
    assert walked(data, frozenset(("simd",))) == (None if known else 0)
    assert walked(data) == 0
    assert walked(b"\xfd" + b.leb(number, 5) + bytes(18), wasm_decoder.ALL) == 0
    found = find_refused(*_with_code(data), allowed=wasm_decoder.ALL)
    relaxed = 0x100 <= number < 0x130
    assert (found.family if found else None) == (None if known else "relaxed_simd" if relaxed else "unknown")


def _with_code(instructions: bytes) -> tuple[bytes, ModuleInfo]:
    wasm = b.module(b.types(b.func_type()), b.functions(0), b.code(b.body((), instructions)))
    return wasm, read_module(wasm)


@pytest.mark.parametrize(
    ("instructions", "feature"),
    [
        (VECTOR, "simd"),
        (b"\x02\x7b\x00\x0b", "simd"),
        (b"\x1c\x01\x7b", "simd"),
        (b"\x12\x00", "tail_calls"),
        (b"\x13\x00\x00", "tail_calls"),
        (b"\xd0\x6f", "externref"),
        (b"\x03\x6f\x00\x0b", "externref"),
        (b"\x1c\x01\x6f", "externref"),
    ],
)
def test_an_instruction_of_a_feature_passes_only_with_that_feature(instructions: bytes, feature: str) -> None:
    wasm, info = _with_code(instructions)
    assert find_refused(wasm, info, allowed=frozenset((feature,))) is None
    assert find_refused(wasm, info, allowed=wasm_decoder.ALL) is None
    found = find_refused(wasm, info, allowed=wasm_decoder.ALL - {feature})
    assert found is not None
    assert found.family == feature


@pytest.mark.parametrize(
    ("instructions", "family", "what"),
    [
        (VECTOR, "simd", SIMD),
        (b"\x02\x7b", "simd", "a block of type v128 (SIMD)"),
        (b"\x1c\x01\x7b", "simd", "a select of type v128 (SIMD)"),
        (b"\xfe\x10\x02\x00", "threads", "an atomic instruction (threads), 0xfe 0x10"),
        (b"\x12\x00", "tail_calls", "a tail call, 0x12"),
        (b"\x06\x40", "exceptions", "an exception instruction, 0x06"),
        (b"\xfb\x00\x00", "gc", "an instruction of the garbage collection proposal, 0xfb 0x00"),
        (b"\xfb\x82\x01", "strings", "an instruction on strings, 0xfb 0x82"),
        (b"\xd3", "gc", "a comparison of references (garbage collection), 0xd3"),
        (b"\x14\x00", "typed_references", "an instruction on typed references, 0x14"),
        (
            b"\x02\x63\x70",
            "typed_references",
            "the instruction 0x02 with the type 0x63 (reference that names its type, typed references)",
        ),
        (b"\xd0\x6e", "gc", "the instruction 0xd0 with the type 0x6e (any, garbage collection)"),
        (b"\xd0\x69", "exceptions", "the instruction 0xd0 with the type 0x69 (exn, exception handling)"),
        (b"\xd0\x05", "typed_references", "a null of a type with an index (typed references)"),
        (b"\xe2\x00", "stack_switching", "an instruction of stack switching, 0xe2"),
        (b"\xfc\x13", "wide_arithmetic", "an instruction of wide arithmetic, 0xfc 0x13"),
        (b"\xfd\x80\x02", "relaxed_simd", "an instruction of relaxed SIMD, 0xfd 0x100"),
        (
            b"\xfc\x0a\x01\x00",
            "several_memories",
            "the instruction 0xfc 0x0a on a memory with an index (several memories)",
        ),
        (b"\xfc\x87\x00", "overlong", "the instruction 0xfc, whose number 7 is written longer than need be"),
        (b"\xfd\x8c\x00", "overlong", "the instruction 0xfd, whose number 12 is written longer than need be"),
        (b"\x28\x42\x00\x00", "several_memories", "the instruction 0x28 on a memory with an index (several memories)"),
        (b"\x3f\x01", "several_memories", "the instruction 0x3f on a memory with an index (several memories)"),
        (b"\x27", "unknown", "the instruction 0x27"),
        (b"\xfc\x12", "unknown", "the instruction 0xfc 0x12"),
        (
            b"\x44\x00\x00",
            "malformed",
            "the instruction 0x44 with operands that are cut off, out of range or oddly encoded",
        ),
    ],
)
def test_a_refused_instruction_is_named_with_its_proposal(instructions: bytes, family: str, what: str) -> None:
    found = found_in(NOP * 5 + instructions)
    assert found is not None
    assert (found.family, found.what) == (family, what)


def test_a_vector_is_refused_wherever_it_may_be() -> None:
    assert found_in(b"", [(1, b.I32), (2, b.V128)]) is not None
    assert found_in(NOP, [(300, b.I32), (1, b.EXTERNREF)]) is None
    for part in (
        b.types(b.func_type(b.V128)),
        b.types(b.func_type(), b.func_type(b.I32, b.I32 + b.V128)),
        b.section(6, b.vec([b.V128 + b"\0" + VECTOR + b.END])),
        b.imports(b.imported("env", "g", b"\x03" + b.V128 + b"\0")),
    ):
        problems = [
            found.message for found in inspect(b.module(part), engine="wasmer").problems if found.code == "simd"
        ]
        assert len(problems) == 1
        assert "v128" in problems[0]
        assert "-C target-feature=-simd128" in problems[0]


def test_an_operand_of_ambiguous_length_is_refused() -> None:
    """If bit 6 of an alignment is set, the engine also reads a memory's index; WebAssembly 2.0 does not have that bit."""
    body = b"\x41\x00" + b"\x28\x42\x00\x80\x80\x00"  # i32.const 0, i32.load with offset 0 and index 0
    wasm = b.module(
        b.types(b.func_type(b"", b.I32)),
        b.functions(0),
        b.memory(1),
        b.exports(b.exported("f", 0)),
        b.code(b.body((), body)),
    )
    if enginekit.ENGINE_NAME == "wasmer":
        assert enginekit.load_bundle(enginekit.compile_bundle(wasm)).guard.instantiate({}).function("f")() == 0
    found = find_refused(wasm, read_module(wasm))
    assert found is not None
    assert (found.family, wasm[found.offset]) == ("several_memories", 0x28)


@pytest.mark.parametrize(
    ("data", "stops"),
    [
        (b"\x41\xff\xff\xff\xff\x0f", None),  # the longest i32
        (b"\x41\x80\x80\x80\x80\x80\x00", 0),
        (b"\x42" + b"\xff" * 9 + b"\x01", None),  # the longest i64
        (b"\x42" + b"\x80" * 10 + b"\x00", 0),
        (b"\x01\x10\x80", 1),  # a call whose index is cut off
        (b"\x41", 0),
        (b"\x28\x02", 0),
        (b"\x28\x1f\x80\x80\x80\x80\x00", None),
        (b"\x28\x20\x00", 0),  # not a valid alignment
        (b"\x28\x82\x00\x00", 0),  # an alignment in two bytes
        (b"\x02\x80\x80\x80\x80\x00", None),  # a block type's index in five bytes
        (b"\x02\x80\x80\x80\x80\x80\x00", 0),
        (b"\x02\x41", 0),
        (b"\x43\x0b\x0b\x0b", 0),
        (b"\x0e\x00\x00", None),
        (b"\x0e\x80\x00\x00", 0),  # no target, counted in two bytes
        (b"\x0e\x1f" + b"\x80\x00" * 32, None),
        (b"\x0e\x1f" + b"\x80\x00" * 31 + b"\x80", 0),
        (b"\x0e\x20" + b"\x80\x00" * 33, None),
        (b"\x0e\x20" + b"\x80\x00" * 32 + b"\x80", 0),
        (b"\x0e\x80\x80\x80\x80\x80\x00\x00", 0),
        (b"\x0e\x02\x00\x80\x80\x00\x7f", None),
        (b"\x0e\x02\x00\x00", 0),  # the default is missing
        (b"\x0e\xff\xff\xff\xff\x0f\x00", 0),
        (b"\x0e", 0),
        (b"\xfc", 0),
        (b"\xfc\x80\x00", 0),
        (b"\x1c\x02\x7f\x7f", 0),
        (b"\x1c\x81\x00\x7f", 0),
    ],
)
def test_the_walk_stops_at_a_cut_off_or_overlong_number(data: bytes, stops: int | None) -> None:
    assert walked(data) == stops


# --- whatever the bytes are


FEATURES = st.frozensets(st.sampled_from(sorted(wasm_decoder.ALL)))


@given(FEATURES, st.randoms(use_true_random=False), st.integers(0, 100), st.binary(max_size=20))
def test_property_instructions_are_walked_one_by_one(
    features: frozenset[str], rng: random.Random, count: int, tail: bytes
) -> None:
    data = b"".join(wasm_decoder.random_instruction(rng, features) for _ in range(count))
    assert walked(data, features) is None
    assert walked(data + b"\xfb" + tail, features) == len(data)
    walked(data + tail, features)
    walked(data[: rng.randrange(len(data) + 1)], features)


@given(FEATURES, st.binary(max_size=300))
def test_property_arbitrary_bytes_are_walked_as_the_tables_say(features: frozenset[str], data: bytes) -> None:
    walked(data, features)


@given(st.integers(0, 1 << 32), st.binary(max_size=60), st.integers(0))
def test_property_a_damaged_module_is_an_answer_or_a_wasm_error(seed: int, junk: bytes, place: int) -> None:
    data = b.RandomModule(random.Random(seed)).data
    info = read_module(data)
    at = place % len(data)
    try:
        find_refused(data[:at] + junk + data[at + len(junk) :], info)
    except WasmError:
        pass


LONG = 512 * 1024
PATTERNS: dict[str, Callable[[int], bytes]] = {
    "nops": lambda size: NOP * size,
    "locals": lambda size: b"\x20\x00" * (size // 2),
    "blocks in blocks": lambda size: b"\x02\x40" * (size // 3) + b"\x0b" * (size // 3),
    "long numbers": lambda size: b"\x41\x80\x80\x80\x80\x00" * (size // 6),
    "numbers without an end": lambda size: b"\x41" + b"\xff" * size,
    "tables": lambda size: b"\x0e\x01\x00\x00" * (size // 4),
    "longer tables": lambda size: (b"\x0e\x20" + bytes(33)) * (size // 35),
    "one large table": lambda size: b"\x0e" + b.leb(size) + bytes(size + 1),
    "tables that are cut off": lambda size: (b"\x0e" + b.leb(10 * size) + NOP) * (size // 5),
    "saturating": lambda size: b"\xfc\x00" * (size // 2),
    "vectors": lambda size: VECTOR * (size // 18),
    "vector arithmetic": lambda size: b"\xfd\x8e\x01" * (size // 3),
    "tail calls": lambda size: b"\x13\x80\x80\x80\x80\x00\x00" * (size // 7),
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_walking_hostile_code_takes_little_time_and_memory(pattern: Callable[[int], bytes]) -> None:
    data = pattern(LONG)
    tracemalloc.start()
    try:
        refused_instruction(data, 0, len(data), wasm_decoder.ALL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 1024 * 1024
    began = time.process_time()
    refused_instruction(data, 0, len(data), wasm_decoder.ALL)
    assert time.process_time() - began < 0.5  # 5 to 50 ms


# --- what people see


def vector_guard(function: str = "") -> bytes:
    """A guard that is right except for one function, which uses vectors."""
    call = "(param i32 i32 i32 i32) (result i32) i32.const 0"
    return enginekit.wat_to_wasm(
        f"""(module (memory (export "memory") 1)
        (func (export "label_agent") {call}) (func (export "label_resource") {call}) (func (export "label_response") {call})
        (func {function} (drop (i8x16.add (v128.const i64x2 1 2) (v128.const i64x2 3 4)))))"""
    )


def test_compile_guard_refuses_a_feature_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardpool.artifacts.compilation._run_compiler", lambda *_: pytest.fail("it was compiled"))
    name = {"wasmer": "simd", "wasmtime": "externref"}[enginekit.ENGINE_NAME]
    with pytest.raises(ModuleError, match=f"the engine is {enginekit.ENGINE_NAME}; "):
        compile_guard(guardkit.wat(f"by_engine/{name}"), guard="github")


def test_an_error_about_vectors_names_function_place_and_ways_out() -> None:
    wasm = vector_guard("$mix")
    with pytest.raises(ModuleError) as caught:
        check_module(wasm, guard="github", engine="wasmer")
    assert str(caught.value) == (
        f"guard github: function 3 (mix) has {SIMD} at byte {wasm.index(VECTOR[:2])}: the engine miscompiles vectors: "
        "build without SIMD (for Rust -C target-feature=-simd128, for C -mno-simd128, for Zig a -mcpu without simd128) "
        '(the engine is wasmer; wasmtime takes it: choose it with engine="wasmtime" or --engine wasmtime)'
    )


def test_inspect_gives_the_same_verdict(tmp_path: Path) -> None:
    bench = Bench.prepare(tmp_path)
    file = tmp_path / "vector.wasm"
    file.write_bytes(vector_guard('(export "mix")'))
    with pytest.raises(ModuleError) as caught:
        check_module(file.read_bytes(), engine="wasmer")
    (problem,) = inspect(file.read_bytes(), engine="wasmer").problems
    assert (problem.code, problem.name, problem.message) == ("simd", "mix", str(caught.value))
    shown = bench.call("inspect", "--engine", "wasmer", file)
    assert shown.returncode == 1
    assert problem.message.encode() in b" ".join(shown.stdout.split())
    assert b"is not a guard: a pool refuses it" in b" ".join(shown.stdout.split())


def test_a_function_without_a_name_is_told_by_its_index() -> None:
    assert inspect(vector_guard(), engine="wasmer").problems[0].message.startswith(f"function 3 has {SIMD} at byte ")


def test_names_of_functions_are_read_and_never_trusted() -> None:
    def named(*subsections: bytes) -> str | None:
        wasm = b.guard() + b.custom("name", b"".join(subsections))
        return function_name(wasm, read_module(wasm), 3)

    names = b.section(1, b.vec([b.leb(0) + b.name("first"), b.leb(3) + b.name("\x1b[2J"), b.leb(4) + b.name("x")]))
    assert named(names) == "\x1b[2J"
    assert named(b.section(0, b.name("module")), names) == "\x1b[2J"
    assert named() is None
    assert named(b.section(1, b.vec([b.leb(0) + b.name("first"), b.leb(5) + b.name("x")]))) is None
    for broken in (
        b"\x01",
        b"\x01\x7f",
        b"\x01\x02\xff\xff",
        b.section(1, b"\x01\x03\x09ab"),
        b.section(1, b"\x01\x03\x01\xff"),
    ):
        assert named(broken) is None
    evil = vector_guard() + b.custom("name", names)
    assert inspect(evil, engine="wasmer").problems[0].name == "\\x1b[2J"


def test_a_guard_from_the_cache_is_not_walked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    cache, wasm = ModuleCache(tmp_path), guardkit.wat("good")
    walks: list[bytes] = []
    monkeypatch.setattr(
        inspection, "code_problem", lambda wasm, *rest: walks.append(wasm) or code_rules.code_problem(wasm, *rest)
    )
    compiled = cache.get_or_compile(wasm)
    assert walks == [wasm]
    assert cache.get_or_compile(wasm) == compiled
    assert walks == [wasm]
