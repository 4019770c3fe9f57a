"""What only wasmtime has: a C API that is called by address, callbacks on sealed pages, stores that die with instances."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

import enginekit
from guardpool_worker.engine.seam import (
    MAX_TRAP_MESSAGE,
    TRAP_KINDS,
    EngineExtern,
    EngineInstance,
    EngineTrap,
    LinkError,
)
from paths import ROOT

pytestmark = pytest.mark.skipif(enginekit.ENGINE_NAME != "wasmtime", reason="the run has another engine")

GIB = 1024**3

HOST = """(module
  (import "host" "twice" (func $twice (param i32 i64) (result i64)))
  (memory (export "memory") 1)
  (global (export "small") (mut i32) (i32.const -7))
  (global (export "large") (mut i64) (i64.const -7))
  (func (export "run") (param i32 i64) (result i64) (call $twice (local.get 0) (local.get 1))))"""


def start(source: str, imports: dict[str, dict[str, EngineExtern]] | None = None) -> EngineInstance:
    module = enginekit.ENGINE.load(enginekit.ENGINE.compile(enginekit.wat_to_wasm(source)))
    return module.instantiate(imports or {})


def with_host(function: object) -> EngineInstance:
    return start(HOST, {"host": {"twice": enginekit.host_function(function, "il", "l")}})  # type: ignore[arg-type]


def reserved_memories() -> int:
    """How many linear memories this process has: each reserves 4 GiB of addresses."""
    with open("/proc/self/maps") as maps:
        places = [line.split()[0].split("-") for line in maps]
    return sum(int(end, 16) - int(start, 16) > 3 * GIB for start, end in places)


@pytest.mark.parametrize("small", [0, 1, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("large", [0, -1, 2**63 - 1, -(2**63), 2**32])
def test_numbers_pass_in_both_directions_unchanged(small: int, large: int) -> None:
    seen = []
    instance = with_host(lambda a, b: seen.append((a, b)) or b)
    assert instance.function("run")(small, large) == large
    assert seen == [(small, large)]


def test_globals_of_both_widths_are_read_and_written_signed() -> None:
    instance = with_host(lambda a, b: b)
    for name, values in (("small", (-7, 2**31 - 1, -1)), ("large", (-7, 2**40, -(2**63)))):
        held = instance.global_(name)
        assert held.value == values[0]
        for value in values:
            held.value = value
            assert held.value == instance.global_(name).value == value


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), SystemExit(3), RecursionError()])
def test_what_a_host_function_raises_comes_out_of_the_call_as_itself(error: BaseException) -> None:
    fail = True

    def function(a: int, b: int) -> int:
        if fail:
            raise error
        return a * b

    instance = with_host(function)
    with pytest.raises(type(error)) as caught:
        instance.function("run")(2, 3)
    assert caught.value is error
    fail = False
    assert instance.function("run")(2, 3) == 6


def test_a_host_function_that_returns_no_number_is_an_error_of_python() -> None:
    instance = with_host(lambda a, b: "text")
    with pytest.raises(TypeError):
        instance.function("run")(2, 3)


def test_a_host_function_may_call_back_into_the_guest() -> None:
    instances: list[EngineInstance] = []

    def function(a: int, b: int) -> int:
        return b if a == 0 else int(instances[0].function("run")(a - 1, b + 1))

    instances.append(with_host(function))
    assert instances[0].function("run")(20, 0) == 20


def test_memory_goes_when_the_last_instance_goes() -> None:
    gc.collect()
    before = reserved_memories()
    instances = [with_host(lambda a, b: b) for _ in range(5)]
    functions = [instance.function("run") for instance in instances]
    assert reserved_memories() == before + 5
    del instances
    gc.collect()
    assert [function(1, 2) for function in functions] == [2] * 5, "a function keeps its instance alive"
    del functions
    gc.collect()
    assert reserved_memories() == before


def test_a_host_function_that_holds_its_instance_does_not_keep_it_for_ever() -> None:
    gc.collect()
    before = reserved_memories()

    class Holder:
        instance: EngineInstance

        def size(self, a: int, b: int) -> int:
            return len(self.instance.memory_view())

    holder = Holder()
    holder.instance = with_host(holder.size)
    assert holder.instance.function("run")(0, 0) == 65536
    del holder
    gc.collect()
    assert reserved_memories() == before


def test_a_view_keeps_the_memory_it_shows() -> None:
    view = start('(module (memory (export "memory") 1) (data (i32.const 5) "here"))').memory_view()
    gc.collect()
    assert bytes(view[5:9]) == b"here"
    view[5:9] = b"mine"
    assert bytes(view[5:9]) == b"mine"


def test_what_is_not_linked_with_one_another_cannot_be_mixed() -> None:
    exporting = '(module (memory (export "memory") 1) (func (export "f") (result i32) (i32.const 1)))'
    one, other = start(exporting), start(exporting)
    importing = '(module (import "a" "f" (func (result i32))) (import "b" "f" (func (result i32))))'
    with pytest.raises(LinkError, match="another store"):
        start(importing, {"a": {"f": one.extern("f")}, "b": {"f": other.extern("f")}})
    start(importing, {"a": {"f": one.extern("f")}, "b": {"f": one.extern("f")}})


def test_an_import_of_another_type_is_a_link_error() -> None:
    module = '(module (import "host" "f" (func (param i64))))'
    with pytest.raises(LinkError, match="incompatible import type"):
        start(module, {"host": {"f": enginekit.host_function(lambda a: None, "i", "")}})


def test_every_trap_code_has_a_kind_of_the_seam() -> None:
    from guardpool_worker.engine import wasmtime

    kinds = {kind for kind, _ in wasmtime.REASON_OF_TRAP.values()}
    # `exit` is told by the instance, `unknown` is for codes of features that are off.
    assert kinds | {"exit", "unknown"} == TRAP_KINDS


def test_a_stack_overflow_names_a_few_frames_and_no_more() -> None:
    instance = start('(module (func $deep (export "f") (result i32) (i32.add (call $deep) (i32.const 1))))')
    with pytest.raises(EngineTrap) as caught:
        instance.function("f")()
    assert caught.value.kind == "stack_overflow"
    assert 1 <= str(caught.value).count("deep ([") <= 4
    assert len(str(caught.value)) <= MAX_TRAP_MESSAGE


SEALED = r"""
import ctypes, mmap, os, sys
sys.path.insert(0, sys.argv[1])
from guardpool_worker import host, linux
from guardpool_worker.engine.seam import LinkError
from guardpool_worker.engine.wasmtime import ENGINE

def pages():
    with open("/proc/self/maps") as maps:
        return sum(line.split()[1].startswith("rwx") for line in maps)

# One such page there is in any case, so that the test fails where the C libraries need none.
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
ENGINE.prepare(host.signatures())
assert pages()
ENGINE.seal()
assert not pages()
for params, results in host.signatures():
    ENGINE.host_function(print, params, results)
try:
    ENGINE.host_function(print, "lll", "l")
except LinkError as error:
    print(error)
# The interpreter ends as it always does: no callback is freed, or this would be a crash.
"""


def test_a_sealed_engine_refuses_new_types_of_host_functions_and_ends_without_a_crash() -> None:
    command = [sys.executable, "-c", SEALED, str(ROOT / "workers")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no callback was prepared for host functions of the type (lll) -> (l)\n"
