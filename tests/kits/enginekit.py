"""The engine of this run, for tests that compile and load in their own process: no guard, no pool, no sandbox.

`pytest --engine NAME` says which one that is (see `conftest.py`); without it, it is what `auto` means in this Python.
"""

from __future__ import annotations

import engineoption  # noqa: F401  # before the engine is chosen
from guardpool.machine.engines import choose_engine
from guardpool.wasm import WasmError, read_module
from guardpool_worker import host
from guardpool_worker.engine import bundle
from guardpool_worker.engine.bundle import LoadedGuard
from guardpool_worker.engine.choice import load_engine

ENGINE_NAME = choose_engine().name
ENGINE = load_engine(ENGINE_NAME)
ENGINE.prepare(host.signatures())  # forks of the test process make instances inside the sandbox

wat_to_wasm = ENGINE.wat_to_wasm
host_function = ENGINE.host_function


def compile_bundle(wasm: bytes) -> bytes:
    """A bundle of any bytes, as the compiler's process makes it of a module that was checked."""
    try:
        has_start = read_module(wasm).start is not None
    except WasmError:  # what the engine makes of it is what the test is about
        has_start = False
    return bundle.compile_bundle(ENGINE, wasm, has_start=has_start)


def load_bundle(body: bytes) -> LoadedGuard:
    """Load a bundle."""
    return bundle.load_bundle(ENGINE, body)
