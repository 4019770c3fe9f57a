"""What the tests of the cache and of compilation share: small guards that differ, and a compiler that takes no time."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from guardpool.artifacts import cache as cache_module, entry
from guardpool.artifacts.cache import ModuleCache
from guardpool.errors import EngineMissing
from guardpool.machine.engines import auto_order, choose_engine, engine_problem

_problems = [engine_problem(name) for name in auto_order()]
needs_engine = pytest.mark.skipif(None not in _problems, reason=f"no engine: {_problems[0]}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others and mount")

_TYPE = "(param i32 i32 i32 i32) (result i32)"


def guard_wat(extra: str = "") -> str:
    """The smallest module that passes for a guard, and whatever `extra` adds to it."""
    functions = "".join(
        f'(func (export "{name}") {_TYPE} i32.const 0)' for name in ("label_agent", "label_resource", "label_response")
    )
    return f'(module (memory (export "memory") 1) {functions} {extra})'


@functools.cache
def assemble(wat: str) -> bytes:
    """A module in the text format (WAT) as wasm bytes."""
    try:
        import enginekit
    except EngineMissing as error:
        pytest.skip(str(error))
    return enginekit.wat_to_wasm(wat)


def variant(number: int) -> bytes:
    """One of any number of small guards that differ in a custom section only."""
    content = b"\x01v" + struct.pack("<I", number)
    return assemble(guard_wat()) + bytes([0, len(content)]) + content


def body_of(wasm: bytes, memory_pages: int = 512) -> bytes:
    """What `FakeCompiler` makes of a module: as good as random, some kilobytes, always the same."""
    seed = hashlib.sha256(wasm + str(memory_pages).encode()).digest()
    return b"".join(hashlib.sha256(seed + bytes([i])).digest() for i in range(100))


class FakeCompiler:
    """Stands in for `compile_guard` and notes each call as one byte in a file, which counts across processes."""

    def __init__(self, log: Path) -> None:
        self._log = log
        log.touch()

    def __call__(self, wasm: bytes, memory_pages: int = 512, **_: Any) -> bytes:
        fd = os.open(self._log, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b".")
        os.close(fd)
        return body_of(wasm, memory_pages)

    @property
    def calls(self) -> int:
        return self._log.stat().st_size


def install_fake_compiler(monkeypatch: pytest.MonkeyPatch, log: Path) -> FakeCompiler:
    """Have `guardpool.artifacts.cache` compile with a new `FakeCompiler`."""
    compiler = FakeCompiler(log)
    monkeypatch.setattr(cache_module, "compile_guard", compiler)
    return compiler


def describe(wasm: bytes, memory_pages: int) -> entry.Ingredients:
    """What the artifact of a module is made of with the engine of this run."""
    return entry.describe(wasm, memory_pages, choose_engine().name)


def file_of(cache: ModuleCache, wasm: bytes, memory_pages: int = 512) -> Path:
    """The file that a module's artifact has in the cache."""
    return cache.path / (describe(wasm, memory_pages).key() + entry.SUFFIX)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of the cache since the last call."""
    found = [
        record.getMessage()
        for record in caplog.records
        if record.name == "guardpool.cache" and record.levelno >= logging.WARNING
    ]
    caplog.clear()
    return found


def children_of(pid: int) -> list[int]:
    """Living children of a process, by /proc."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found
