"""The compiler process: one module in, one artifact out, then it ends.

Started by `guardpool.artifacts.compilation` with four arguments (the engine's name, parent's pid, time limit in s, memory
limit in bytes), a request on its standard input, and one reply expected on its standard output. Everything it needs is
imported, and its limits are set, before it looks at the first byte of the module: from there on it works for a stranger.

Past a limit the process ends in whatever way the kernel or the engine chooses, and the other side makes an error of it.
No exception leaves here: a failure is a reply or an exit status.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Sequence
from typing import NoReturn

from guardpool.protocol.compiler_pipe import COMPILED, NO_ENGINE, NO_MEMORY, REFUSED, REPLY_HEAD, REQUEST_HEAD
from guardpool_worker import linux, sandbox

_MESSAGE_CHARS = 2000
_READ_BYTES = 1 << 20
# Its three streams, a private copy of the reply's, and some for the engine, which asks /proc how many cores there are.
_OPEN_FILES = 16


def main(args: Sequence[str]) -> NoReturn:
    """Serve one request and end the process.

    Args:
        args: the engine's name, the parent's pid, the time limit in seconds, the memory limit in bytes.
    """
    engine_name, parent_pid, timeout_s, max_memory_bytes = args
    linux.default_signals()
    linux.set_parent_death_signal(int(parent_pid))
    reply_fd = _reserve_reply_stream()
    try:
        # Here and not at the top: if the engine cannot be imported, the reply says so.
        from guardpool_worker.engine.bundle import compile_bundle
        from guardpool_worker.engine.choice import load_engine

        engine = load_engine(engine_name)
        engine.load_compiler()
    except BaseException as error:
        _reply(reply_fd, NO_ENGINE, _message(error))
        os._exit(1)
    set_limits(float(timeout_s), int(max_memory_bytes))
    # As much of it as this kernel has. The compiler's threads, started by the first module, inherit it.
    sandbox.harden_compiler()
    try:
        wasm, has_start = _read_request(0)
        artifact = compile_bundle(engine, wasm, has_start=has_start)
    except MemoryError:
        _reply(reply_fd, NO_MEMORY, b"")
        os._exit(1)
    except BaseException as error:  # a panic of the engine's Rust code is not an Exception
        _reply(reply_fd, REFUSED, _message(error))
        os._exit(1)
    _reply(reply_fd, COMPILED, artifact)
    # Nothing is left to flush or to save, and tearing down the engine's threads and memory takes longer than exit does.
    os._exit(0)


def set_limits(timeout_s: float, max_memory_bytes: int) -> None:
    """Limit what compiling may use: memory, processor time, files.

    The parent's clock is the real time limit. RLIMIT_CPU counts every thread and holds even if the parent is stopped
    and cannot look.
    """
    cpu_s = math.ceil(timeout_s) * (os.cpu_count() or 1) + 1
    for which, limit in (
        (resource.RLIMIT_DATA, max_memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(which)[1]
        lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (lowest, lowest))


def _reserve_reply_stream() -> int:
    """Keep standard output for the reply alone: what anything prints from here on goes to standard error."""
    reply_fd = os.dup(1)
    os.dup2(2, 1)
    return reply_fd


def _read_request(fd: int) -> tuple[bytes, bool]:
    """The module, and whether it has a start section."""
    length, has_start = REQUEST_HEAD.unpack(_read_exactly(fd, REQUEST_HEAD.size))
    return _read_exactly(fd, length), has_start


def _read_exactly(fd: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = os.read(fd, min(length - len(data), _READ_BYTES))
        if not piece:
            raise EOFError(f"the request ended after {len(data)} of {length} bytes")
        data += piece
    return bytes(data)


def _reply(fd: int, verdict: bytes, content: bytes) -> None:
    for part in (REPLY_HEAD.pack(verdict, len(content)), content):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(fd, rest) :]


def _message(error: BaseException) -> bytes:
    text = str(error)[:_MESSAGE_CHARS] or type(error).__name__
    return text.encode("utf-8", "replace")


if __name__ == "__main__":
    main(sys.argv[1:])
