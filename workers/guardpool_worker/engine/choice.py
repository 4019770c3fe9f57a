"""Which engine a process uses: its command line names it, and this is the one place that imports it.

Another engine is one more module beside these, with an object that implements `seam.Engine`, and a line here. Its packages
stand in `guardpool.machine.engines`, by which child processes are told where to find them.
"""

from __future__ import annotations

from guardpool.errors import EngineMissing
from guardpool_worker.engine.seam import Engine


def load_engine(name: str) -> Engine:
    """An engine, imported on the first call; the same object on each further one.

    Call it before the sandbox closes: importing opens files.

    Args:
        name: `"wasmtime"` or `"wasmer"`.

    Raises:
        EngineMissing: the engine cannot be imported, or no engine has that name.
    """
    if name == "wasmtime":
        from guardpool_worker.engine import wasmtime

        return wasmtime.ENGINE
    if name == "wasmer":
        from guardpool_worker.engine import wasmer

        return wasmer.ENGINE
    raise EngineMissing(f"guardpool has no engine called {name!r}")
