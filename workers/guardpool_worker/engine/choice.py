"""Which engine a process uses: the one place that decides it.

Another engine is one more module beside `wasmer`, with an object that implements `seam.Engine`, and a way to choose it here.
Its packages are named in `guardpool.machine.launch`, which tells child processes where to find them.
"""

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
