"""Compiling in a process of its own: what comes out, and what becomes of modules and compilers that misbehave."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachekit import assemble, children_of, guard_wat, needs_engine, variant
from guardpool.artifacts import compilation
from guardpool.artifacts.compilation import CompileLimits, compile_guard
from guardpool.errors import CallerError, CompileError, EngineMissing, HostError, LimitsError, ModuleError
from guardpool.machine import launch
from guardpool.machine.engines import choose_engine
from guardpool.sizes import MIB

pytestmark = needs_engine


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    before = set(children_of(os.getpid()))
    yield
    assert set(children_of(os.getpid())) <= before, "a compiler process was left behind"


def slow_guard(functions: int = 4) -> bytes:
    """A guard that takes the compiler about a quarter of a second and 70 MiB for each function."""
    statement = "(local.set 0 (i32.mul (i32.add (local.get 0) (local.get 1)) (i32.load (local.get 0))))"
    return assemble(guard_wat(f"(func (param i32 i32) {statement * 20000})" * functions))


def use_script(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have a Python script play the compiler process."""
    monkeypatch.setattr(compilation, "_command", lambda *_: [sys.executable, "-I", "-S", "-c", script])


def wait_for_end(pid: int, seconds: float = 10) -> bool:
    """Whether the process is gone within that time."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


def test_what_comes_back_is_a_guard_that_can_be_loaded_and_called() -> None:
    import enginekit

    loaded = enginekit.load_bundle(compile_guard(variant(0)))
    assert loaded.guard.instantiate({}).function("label_agent") is not None


def test_the_artifact_says_whether_the_module_has_a_start_section() -> None:
    import enginekit

    for extra, has_start in (("", False), ("(func $begin) (start $begin)", True)):
        assert enginekit.load_bundle(compile_guard(assemble(guard_wat(extra)))).has_start is has_start


def test_the_memory_cap_is_in_the_artifact() -> None:
    import enginekit

    grow = '(func (export "grow") (result i32) (memory.grow (i32.const 1)))'
    wasm = assemble(guard_wat(grow))
    sizes = []
    for pages in (1, 2):
        instance = enginekit.load_bundle(compile_guard(wasm, pages)).guard.instantiate({})
        function = instance.function("grow")
        assert function is not None
        sizes.append(function())
    assert sizes == [-1, 1]


def test_a_module_is_judged_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_command", lambda *_: pytest.fail("a compiler was started"))
    with pytest.raises(ModuleError):
        compile_guard(b"\x7fELF is not wasm")
    with pytest.raises(CompileError, match=r"max_module_bytes \(100\)"):
        compile_guard(variant(0), guard="g", limits=CompileLimits(max_module_bytes=100))


def test_what_the_engine_refuses_is_one_line_that_names_the_guard() -> None:
    # Sound as far as a reader of sections can tell; its one function returns nothing although it must return a number.
    bad = assemble(guard_wat()).replace(b"\x04\x00\x41\x00\x0b", b"\x04\x00\x01\x01\x0b")
    with pytest.raises(CompileError, match="guard 'odd': the module does not compile: ") as caught:
        compile_guard(bad, guard="odd")
    assert caught.value.guard == "odd"
    assert "\n" not in str(caught.value)


def test_an_engine_that_panics_is_a_compile_error_too(engine_name: str) -> None:
    # The reader refuses a tag section first; here the module goes straight to the compiler process.
    tagged = b"\0asm\x01\0\0\0" + b"\x01\x04\x01\x60\0\0" + b"\x0d\x03\x01\0\0"
    told = {"wasmer": "the engine panicked", "wasmtime": "the engine refuses the module"}[engine_name]
    with pytest.raises(CompileError, match=rf"guard 'tagged': the module does not compile: .*{told}"):
        compilation._run_compiler(tagged, False, "tagged", CompileLimits(), engine_name)


def test_a_compile_bomb_in_time_is_an_error_within_the_limit() -> None:
    wasm = slow_guard(2)  # to start the process and to compile either function takes longer on any machine
    with pytest.raises(CompileError, match=r"guard 'bomb': compiling took longer than timeout_s \(0\.1 s\)"):
        compile_guard(wasm, guard="bomb", limits=CompileLimits(timeout_s=0.1))


def test_a_compile_bomb_in_memory_is_an_error_that_names_the_limit() -> None:
    with pytest.raises(CompileError, match=r"more memory than max_memory_bytes \(33554432\)"):
        compile_guard(slow_guard(1), limits=CompileLimits(max_memory_bytes=32 * MIB))


def test_an_artifact_over_the_limit_is_an_error() -> None:
    with pytest.raises(CompileError, match=r"larger than max_artifact_bytes \(1000\)"):
        compile_guard(variant(0), limits=CompileLimits(max_artifact_bytes=1000))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "ended with exit status 0 without an answer"),
        (
            "import sys; sys.exit('line one\\nlast \\x1b[31mwords')",
            r"exit status 1 \(last \\x1b\[31mwords\) without an",
        ),
        ("import os; os.kill(os.getpid(), 11)", "was killed by SIGSEGV without an answer"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL, perhaps because the machine ran out of memory,"),
        ("import os; os.write(1, b'+' + bytes(7))", "ended with exit status 0 without"),
        ("import os; os.write(1, b'+' + (5).to_bytes(8, 'little') + b'1234')", "ended with exit status 0 without"),
        ("import os; os.write(1, b'?' + bytes(8))", "without an answer"),
        ("import os; os.write(1, b'+' + b'\\xff' * 8); os.read(0, 1 << 30)", "max_artifact_bytes"),
        ("import os\nwhile True: os.write(1, b'+' + bytes([0, 0, 0, 32, 0, 0, 0, 0]) + bytes(60000))", "max_artifact"),
        ("import os\nwhile True: os.write(2, b'noise' * 9999)", "timeout_s"),
        ("import os; os.closerange(0, 3)\nwhile True: pass", "was killed by SIGKILL"),
        ("import os; os.write(1, b'-' + (3).to_bytes(8, 'little') + b'\\xff\\n!')", r"does not compile: .*\\n!$"),
        ("import os; os.write(1, b'm' + bytes(8))", "max_memory_bytes"),
    ],
)
def test_a_compiler_that_misbehaves_is_a_compile_error(
    monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    use_script(monkeypatch, script)
    monkeypatch.setattr(compilation, "_LINGER_S", 0.1)
    limits = CompileLimits(timeout_s=0.5, max_artifact_bytes=1 << 20)
    with pytest.raises(CompileError, match=message):
        compile_guard(variant(0), guard="g", limits=limits)


def test_a_whole_reply_counts_in_any_pieces_and_whatever_follows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_script(
        monkeypatch,
        "import os\n"
        "for byte in b'+' + (4).to_bytes(8, 'little') + b'body': os.write(1, bytes([byte]))\n"
        "while True: pass",
    )
    assert compile_guard(variant(0)) == b"body"


def test_what_the_compiler_started_dies_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    use_script(
        monkeypatch,
        "import os, signal\n"
        "if os.fork() == 0:\n"
        f"    os.write(os.open({str(note)!r}, os.O_CREAT | os.O_WRONLY), str(os.getpid()).encode())\n"
        "    os.write(1, b'+' + bytes(8))\n"
        "signal.pause()",
    )
    assert compile_guard(variant(0)) == b""
    assert wait_for_end(int(note.read_text()))


def test_the_compiler_starts_with_an_empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the caller")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    use_script(
        monkeypatch,
        "import os\n"
        "found = open('/proc/self/environ', 'rb').read()\n"
        "os.write(1, b'+' + len(found).to_bytes(8, 'little') + found)",
    )
    assert compile_guard(variant(0)) == b""


def test_an_engine_that_does_not_load_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    use_script(monkeypatch, "import os; os.write(1, b'!' + (4).to_bytes(8, 'little') + b'GLIB')")
    with pytest.raises(EngineMissing, match="but does not load: GLIB"):
        compile_guard(variant(0))


def test_an_interpreter_that_is_not_there_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_command", lambda *_: ["/nonexistent/python"])
    with pytest.raises(HostError, match="/nonexistent/python: No such file"):
        compile_guard(variant(0))


def test_ctrl_c_kills_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    use_script(
        monkeypatch,
        "import os, signal\n"
        f"os.write(os.open({str(note)!r}, os.O_CREAT | os.O_WRONLY), str(os.getpid()).encode())\n"
        "os.read(0, 1)\n"  # the request: the caller knows this process by now
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "signal.pause()",
    )
    with pytest.raises(KeyboardInterrupt):
        compile_guard(variant(0))
    assert wait_for_end(int(note.read_text()))


def test_the_compiler_dies_with_a_caller_that_is_killed() -> None:
    caller = (
        "import sys\n"
        "from guardpool.artifacts import compilation\n"
        "converse = compilation._CompilerProcess.converse\n"
        "def told(self):\n"
        "    print(self._process.pid, flush=True)\n"
        "    converse(self)\n"
        "compilation._CompilerProcess.converse = told\n"
        "compilation.compile_guard(sys.stdin.buffer.read())\n"
    )
    with subprocess.Popen([sys.executable, "-c", caller], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(slow_guard(8))
        process.stdin.close()
        compiler = int(process.stdout.readline())
        process.kill()
        process.wait()
        assert wait_for_end(compiler)


def test_the_compiler_process_is_confined() -> None:
    """The real process, with a function of the test's in the compiler's place that tells what it finds."""
    script = (
        "import os, resource, sys\n"
        "sys.path.extend(sys.argv[5:])\n"
        "from guardpool_worker import compiler\n"
        "from guardpool_worker.engine import bundle\n"
        "def look(engine, wasm, has_start):\n"
        "    def fails(call, *args):\n"
        "        try: call(*args)\n"
        "        except OSError: return True\n"
        "    found = [wasm.decode(), has_start, dict(os.environ), fails(os.open, '/etc/passwd', 0),\n"
        "             os.getsid(0) == os.getpid()]\n"
        "    found += [resource.getrlimit(which)[0] for which in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE,\n"
        "              resource.RLIMIT_CORE)]\n"
        "    os.write(1, b'not for the reply')\n"
        "    return repr(found).encode()\n"
        "bundle.compile_bundle = look\n"
        "compiler.main(sys.argv[1:5])\n"
    )
    engine = choose_engine().name
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            script,
            engine,
            str(os.getpid()),
            "60",
            str(100 * MIB),
            *launch.search_path(engine),
        ],
        input=compilation.REQUEST_HEAD.pack(5, True) + b"hello",
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    verdict, length = compilation.REPLY_HEAD.unpack_from(done.stdout)
    content = done.stdout[compilation.REPLY_HEAD.size :]
    assert (verdict, length) == (compilation.COMPILED, len(content)), done.stderr
    assert done.stderr == b"not for the reply"
    assert content.decode() == repr(["hello", True, {}, True, True, 100 * MIB, 0, 0])


def test_a_compiler_whose_parent_is_gone_ends_at_once() -> None:
    done = subprocess.run(
        [*compilation._command(CompileLimits(), choose_engine().name)[:-3], "1", "60", str(100 * MIB)],
        input=b"",
        timeout=30,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_many_threads_compile_at_once_even_if_the_kernel_reaps_children() -> None:
    expected = {number: compile_guard(variant(number)) for number in range(3)}
    found: dict[int, bytes] = {}

    def compile_one(number: int) -> None:
        found[number] = compile_guard(variant(number))

    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        threads = [threading.Thread(target=compile_one, args=(number,)) for number in expected]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert found == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"timeout_s": "60"},
        {"max_memory_bytes": 1},
        {"max_module_bytes": 0},
        {"max_artifact_bytes": 1 << 31},
        {"max_module_bytes": 1.5},
    ],
)
def test_limits_out_of_range_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(LimitsError, match=next(iter(wrong))):
        CompileLimits(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wasm", [None, 5, "guard.wasm"])
def test_what_is_no_bytes_is_not_taken_for_a_module(wasm: Any) -> None:
    with pytest.raises(CallerError, match=f"wasm must be bytes, not {type(wasm).__name__}"):
        compile_guard(wasm)
