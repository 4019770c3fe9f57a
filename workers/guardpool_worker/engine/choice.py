"""Which engine a process uses: the one place that decides it."""

from __future__ import annotations

from guardpool_worker.engine.seam import Engine


def load_engine() -> Engine:
    """The engine of this process, imported on the first call; the same object on each further one.

    Call it before the sandbox closes: importing opens files.

    Raises:
        EngineMissing: the engine cannot be imported.
    """
    from guardpool_worker.engine import wasmer

    return wasmer.ENGINE
