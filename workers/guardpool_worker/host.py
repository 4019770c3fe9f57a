"""The Python functions that the bridge imports: the guard's log, its backend, clocks and random bytes, put together.

No exception leaves a host function, because it would fly through the guest's frames; only `KeyboardInterrupt` and the like do.
"""

from __future__ import annotations

from collections.abc import Callable

from guardpool_worker import gate_and_bridge, wasi
from guardpool_worker.backend import ERROR, GuestBackend
from guardpool_worker.buffers import GuestMemory
from guardpool_worker.engine.seam import Engine, EngineExtern
from guardpool_worker.guest_log import GuestLog
from guardpool_worker.reproducible import JobWorld


def signatures() -> list[tuple[str, str]]:
    """The types of all these functions, for `Engine.prepare`."""
    return list(gate_and_bridge.PYTHON.values())


def externs(
    engine: Engine, log: GuestLog, backend: GuestBackend, memory: GuestMemory, world: JobWorld | None = None
) -> dict[str, EngineExtern]:
    """The Python functions that the bridge imports, ready to be linked.

    Args:
        world: the clocks and random bytes of a deterministic pool; None: those of the machine.
    """
    functions: dict[str, Callable[..., int | None]] = {
        "log": _contained(log.log, None),
        "again": _contained(log.again, None),
        "stdio": _contained(log.stdio, None),
        "backend": _contained(backend.call, ERROR),
        "clock": (world or wasi.Clock()).read,
        "random": _contained(wasi.Random(memory, None if world is None else world.draw).fill, wasi.EIO),
    }
    return {
        name: engine.host_function(functions[name], params, results)
        for name, (params, results) in gate_and_bridge.PYTHON.items()
    }


def _contained(function: Callable[..., int | None], failed: int | None) -> Callable[..., int | None]:
    """The function, which answers `failed` if the host itself is out of memory or entropy."""

    def call(*args: int) -> int | None:
        try:
            return function(*args)
        except Exception:
            return failed

    return call
