"""The engine's seam: traps told apart, bundles, memories that stay where they are, and instances after a fork."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import enginekit
import guardkit
from guardpool.errors import CompileError
from guardpool_worker.engine import bundle
from guardpool_worker.engine.seam import (
    MAX_TRAP_MESSAGE,
    TRAP_KINDS,
    BundleError,
    EngineExtern,
    EngineInstance,
    EngineTrap,
    LinkError,
)
from guardpool_worker.instance import GuardInstance, InstanceSettings, prelink
from paths import ROOT

SOURCES = ROOT / "workers" / "guardpool_worker"
only_wasmer = pytest.mark.skipif(enginekit.ENGINE_NAME != "wasmer", reason="the run has another engine")
TRAPS = sorted(path.stem.removeprefix("trap_") for path in guardkit.GUARDS.glob("trap_*.wat"))
KINDS = {"in_host_range": "memory_out_of_bounds"}


def start(source: str, **imports: dict[str, EngineExtern]) -> EngineInstance:
    """An instance of a module without our helpers."""
    wasm = enginekit.wat_to_wasm(source)
    return enginekit.load_bundle(enginekit.compile_bundle(wasm)).guard.instantiate(imports)


@pytest.mark.parametrize("name", TRAPS)
def test_trap_is_classified(name: str) -> None:
    guard = guardkit.instance(f"trap_{name}")
    result = guard.call("label_resource", guardkit.RESOURCE)
    assert result.status == "trap"
    assert result.error is not None
    assert result.error.trap == KINDS.get(name, name)
    assert result.error.trap in TRAP_KINDS
    assert len(result.error.message) <= MAX_TRAP_MESSAGE
    assert "\n" not in result.error.message
    assert guard.dead


@only_wasmer
def test_wasmer_names_every_kind_of_trap_and_no_other() -> None:
    from guardpool_worker.engine import wasmer

    # `exit` is told by the instance, `unknown` is for a text that the table lacks.
    assert set(wasmer.KIND_OF_TRAP.values()) | {"exit", "unknown"} == TRAP_KINDS


def test_every_kind_of_trap_is_shown_by_a_guard() -> None:
    shown = {KINDS.get(name, name) for name in TRAPS}
    # Atomics are not enabled, and an exit is shown with the other exits.
    assert TRAP_KINDS - shown == {"memory_misaligned", "unaligned_atomic", "exit", "unknown"}


BULK_AND_TABLE_TRAPS = {
    "(memory.copy (i32.const 65533) (i32.const 0) (i32.const 9))": "memory_out_of_bounds",
    "(memory.init $data (i32.const 0) (i32.const 1) (i32.const 9))": "memory_out_of_bounds",
    "(drop (v128.load (i32.const 65533)))": "memory_out_of_bounds",
    "(drop (i64.load offset=4294967295 (i32.const -1)))": "memory_out_of_bounds",
    "(table.init $elem (i32.const 1) (i32.const 0) (i32.const 5))": "table_out_of_bounds",
    "(table.copy (i32.const 1) (i32.const 0) (i32.const 5))": "table_out_of_bounds",
    "(drop (table.get 0 (i32.const 2)))": "table_out_of_bounds",
    "(drop (i64.rem_s (i64.const 1) (i64.const 0)))": "integer_divide_by_zero",
    "(drop (i32.trunc_f32_u (f32.const 1e20)))": "integer_overflow",
}


@pytest.mark.parametrize("instruction", BULK_AND_TABLE_TRAPS)
def test_trap_of_each_kind_of_instruction_is_classified(instruction: str) -> None:
    instance = start(
        f"""(module (memory (export "memory") 1) (table 2 funcref) (data $data "abc") (elem $elem func $f)
        (func $f (export "f") {instruction}))"""
    )
    with pytest.raises(EngineTrap) as trapped:
        instance.function("f")()
    assert trapped.value.kind == BULK_AND_TABLE_TRAPS[instruction]


def test_function_names_of_a_guest_do_not_change_the_kind_of_trap() -> None:
    name = "integer overflow"
    wasm = bytearray(enginekit.wat_to_wasm(f'(module (func ${"x" * len(name)} (export "f") unreachable))'))
    at = wasm.rindex(b"x" * len(name))
    wasm[at : at + len(name)] = b"integer\n overflow"[: len(name)]
    instance = enginekit.load_bundle(enginekit.compile_bundle(bytes(wasm))).guard.instantiate({})
    with pytest.raises(EngineTrap) as trapped:
        instance.function("f")()
    assert trapped.value.kind == "unreachable"


def test_long_names_do_not_make_long_messages() -> None:
    instance = start(f'(module (func ${"n" * 5000} (export "f") unreachable))')
    with pytest.raises(EngineTrap) as trapped:
        instance.function("f")()
    assert len(str(trapped.value)) == MAX_TRAP_MESSAGE


def test_text_that_is_not_wat_is_a_compile_error() -> None:
    with pytest.raises(CompileError, match="not valid WAT"):
        enginekit.wat_to_wasm("(module (func")


@pytest.mark.parametrize("wasm", [b"", b"\x89PNG\r\n\x1a\n", b"\0asm\x01\0\0\0\x01\xff"])
def test_bytes_that_are_not_a_module_are_a_compile_error(wasm: bytes) -> None:
    with pytest.raises(CompileError, match="the engine refuses the module"):
        enginekit.compile_bundle(wasm)


def test_bundle_is_the_same_for_the_same_module() -> None:
    assert enginekit.compile_bundle(guardkit.wat("good")) == enginekit.compile_bundle(guardkit.wat("good"))


AT_PARTS = len(bundle.join(enginekit.ENGINE, [], has_start=False))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda body: b"", "does not begin as one"),
        (lambda body: body[:3], "does not begin as one"),
        (lambda body: b"GPB\x02" + body[4:], "does not begin as one"),
        (lambda body: body[:4], "of this engine"),
        (lambda body: body[: AT_PARTS - 2], "of this engine"),
        (lambda body: body[: AT_PARTS - 1], "cut before its guard"),
        (lambda body: body[: AT_PARTS + 7], "cut before its guard"),
        (lambda body: body[:AT_PARTS] + b"\xff" * 8 + body[AT_PARTS + 8 :], "cut before its gate"),
        (lambda body: body[: len(body) // 2], "cut before its|says that it has"),
        (lambda body: body[:-1], "says that it has"),
        (lambda body: body + b"x", "says that it has"),
    ],
)
def test_damaged_bundle_is_refused(damage: Callable[[bytes], bytes], message: str) -> None:
    body = enginekit.compile_bundle(guardkit.wat("good"))
    with pytest.raises(BundleError, match=f"^not a compiled guard.*({message})"):
        enginekit.load_bundle(damage(body))


class OtherEngine:
    """An engine that must not be asked for anything but its name."""

    engine_id = "other 1.0"


def test_bundle_of_another_engine_is_not_loaded() -> None:
    body = enginekit.compile_bundle(guardkit.wat("good"))
    with pytest.raises(BundleError, match=r"not a compiled guard of this engine \(other 1.0\)"):
        bundle.load_bundle(OtherEngine(), body)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=rf"not a compiled guard of this engine \({enginekit.ENGINE.engine_id}\)"):
        enginekit.load_bundle(bundle.join(OtherEngine(), [b"", b"", b"", b""], has_start=False))  # type: ignore[arg-type]


def test_bundle_says_whether_the_guard_has_a_start_section() -> None:
    for has_start in (False, True):
        body = bundle.join(enginekit.ENGINE, [b"guard", b"", b"quick", b"bridge"], has_start=has_start)
        assert bundle.split(enginekit.ENGINE, body) == ([b"guard", b"", b"quick", b"bridge"], has_start)


PANICS_COMPILER = b"\0asm\x01\0\0\0" + b"\x01\x04\x01\x60\0\0" + b"\x0d\x03\x01\0\0"  # a type and a tag section


@only_wasmer
def test_a_panic_of_the_compiler_is_a_compile_error(capfd: pytest.CaptureFixture[str]) -> None:
    # A panic arrives as a BaseException. The reader refuses this module before; it may not know the next one that panics.
    with pytest.raises(CompileError, match=r"^the engine refuses the module: the engine panicked: not implemented: .+"):
        enginekit.compile_bundle(PANICS_COMPILER)
    assert "panicked at" in capfd.readouterr().err  # otherwise this module no longer tests a panic
    assert enginekit.compile_bundle(guardkit.wat("good"))


@only_wasmer
def test_a_panic_of_the_loader_is_a_bundle_error(capfd: pytest.CaptureFixture[str]) -> None:
    body = enginekit.compile_bundle(guardkit.wat("good"))
    (artifact, *helpers), _ = bundle.split(enginekit.ENGINE, body)
    parts = [artifact[:26], *helpers]  # cut short within the engine's own header
    cut = bundle.join(enginekit.ENGINE, parts, has_start=False)
    with pytest.raises(BundleError, match=r"^not a compiled guard: the engine panicked: .+"):
        enginekit.load_bundle(cut)
    assert "panicked at" in capfd.readouterr().err
    assert enginekit.load_bundle(body)


def test_damaged_machine_code_is_a_bundle_error_where_the_engine_can_tell() -> None:
    body = enginekit.compile_bundle(guardkit.wat("good"))
    (_, *helpers), _ = bundle.split(enginekit.ENGINE, body)
    for junk in (b"", b"junk", bytes(4096)):
        with pytest.raises(BundleError, match=r"^not a compiled guard: "):
            enginekit.load_bundle(bundle.join(enginekit.ENGINE, [junk, *helpers], has_start=False))


@only_wasmer
def test_exceptions_other_than_panics_pass_through() -> None:
    from guardpool_worker.engine import wasmer

    class InterruptError(BaseException):
        pass

    with pytest.raises(InterruptError), wasmer.panics_as_errors():
        raise InterruptError


def test_memory_does_not_move() -> None:
    instance = start('(module (memory (export "memory") 1 2000) (func (export "grow") (param i32) (result i32)'
                     " (memory.grow (local.get 0))))")  # fmt: skip
    first = instance.memory_view()
    address = ctypes.addressof(ctypes.c_char.from_buffer(first))
    for pages in (1, 30, 500, 1000):
        assert instance.function("grow")(pages) > 0
        now = instance.memory_view()
        assert ctypes.addressof(ctypes.c_char.from_buffer(now)) == address
        now[100] = pages % 251
        assert first[100] == pages % 251
    assert len(now) == 1532 * 65536
    assert len(first) == 65536


def test_exception_of_a_host_function_comes_out_as_itself() -> None:
    class OwnError(BaseException):
        pass

    def fail(number: int) -> int:
        raise OwnError(number)

    instance = start(
        '(module (import "host" "f" (func $f (param i32) (result i64))) (memory (export "memory") 1)'
        ' (func (export "f") (result i64) (call $f (i32.const -5))))',
        host={"f": enginekit.host_function(fail, "i", "l")},
    )
    with pytest.raises(OwnError) as raised:
        instance.function("f")()
    assert raised.value.args == (-5,)


def test_missing_import_is_a_link_error() -> None:
    with pytest.raises(LinkError, match=r"unknown import|the import host\.f is missing"):
        start('(module (import "host" "f" (func)) (memory (export "memory") 1))')


def test_prelink_leaves_modules_with_a_start_function_alone() -> None:
    # An engine that completes its modules early has nothing to gain from it.
    assert prelink(guardkit.loaded("good")) == enginekit.ENGINE.completes_modules_late
    assert not guardkit.loaded("good").has_start
    assert guardkit.loaded("start_traps").has_start
    assert not prelink(guardkit.loaded("start_traps"))
    assert not prelink(guardkit.loaded("data_outside"))


def test_many_instances_cost_kilobytes_each() -> None:
    loaded = guardkit.loaded("good")
    process = psutil.Process()

    def make(count: int) -> int:
        for _ in range(count):
            GuardInstance(loaded, InstanceSettings("good")).call("label_resource", guardkit.RESOURCE)
        return int(process.memory_info().rss)

    before = make(50)
    assert (make(200) - before) / 200 < 40_000


AFTER_FORK = r"""
import os, sys
engine_name = sys.argv[1]
import guardpool_worker.sandbox as sandbox
from guardpool_worker import host
from guardpool_worker.engine.bundle import load_bundle
from guardpool_worker.engine.choice import load_engine
from guardpool_worker.instance import GuardInstance, InstanceSettings, prelink

def executable():
    with open("/proc/self/maps") as maps:
        return sorted(line.split()[0] for line in maps if "x" in line.split()[1])

bundles = [open(path, "rb").read() for path in sys.argv[2:]]
engine = load_engine(engine_name)
engine.prepare(host.signatures())
engine.seal()
loaded = [load_bundle(engine, bundle) for bundle in bundles]
prelink(loaded[0])
assert "wasmer_compiler_cranelift" not in sys.modules
pid = os.fork()
if pid == 0:
    try:
        before = executable()
        first = GuardInstance(loaded[0], InstanceSettings("first", log_threshold=0))
        assert first.call("label_resource", b"{}").status == "ok"
        assert executable() == before, "an instance maps executable memory"
        sandbox.close_sandbox("auto", [1, 2], sandbox.SandboxLimits(data_bytes=300 << 20))
        for guards in range(3):
            guards = [GuardInstance(each, InstanceSettings("g", log_threshold=0, has_backend=True), lambda t, a: b"[]")
                      for each in loaded]
            guards[0].label_agent(b"{}")
            assert guards[0].call("label_resource", b"{" + b" " * 3_000_000 + b"}").status == "ok"
            assert guards[1].call("label_resource", b"{}").error.trap == "unreachable"
            assert guards[2].call("label_resource", b"{}").error.trap == "memory_out_of_bounds"
            assert guards[3].call("label_resource", b"{}").backend_calls == 50
            assert len(guards[4].call("label_resource", b"{}").logs) == 6
            assert guards[5].call("label_resource", b"{}").status == "ok"
    except BaseException:
        import traceback
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_instances_in_a_forked_and_sandboxed_process(tmp_path: Path) -> None:
    paths = []
    for name in ("good", "trap_unreachable", "trap_memory_out_of_bounds", "backend_flood", "logs", "clocks_and_random"):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(enginekit.compile_bundle(guardkit.as_compiled(guardkit.wat(name), 512)))
    command = [sys.executable, "-c", AFTER_FORK, enginekit.ENGINE_NAME, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
