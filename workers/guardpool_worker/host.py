"""The Python functions that a guard reaches: its log and its backend; clocks and random bytes come from `wasi`.

Nothing here trusts a number that comes from the guest. No exception leaves a host function, because it would fly through
the guest's frames; only `KeyboardInterrupt` and the like do.

`gate_and_bridge.PYTHON` says which ranges the bridge has checked. Guest numbers arrive signed; addresses are made
unsigned here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from guardpool.outcomes import MAX_BACKEND_ERRORS, LogLine
from guardpool.protocol.wire import MAX_ARGS_BYTES, MAX_LOG_LINES, MAX_TOOL_BYTES
from guardpool_worker import gate_and_bridge, wasi
from guardpool_worker.buffers import GuestMemory
from guardpool_worker.engine.seam import Engine, EngineExtern

CallBackend = Callable[[str, bytes], bytes]
"""The answers to `call_backend`: `backend(tool, args_json) -> result_json`; raises `BackendError` if the call failed."""

MAX_ERROR_CHARS = 300

_U32 = 0xFFFFFFFF
_ERROR, _TOO_SMALL = -1, -2
_decode_args = msgspec.json.Decoder().decode


class BackendError(Exception):
    """A backend call that failed: the guard gets -1, and the message stands in the outcome."""


class GuestLog:
    """The log lines of one job: what the guard logs, and what it writes to standard output and error.

    Lines are kept until one no longer fits into `max_bytes`, or there are `MAX_LOG_LINES`. That line and all later ones are
    only counted, a write to a standard stream as one line. A line costs its UTF-8 bytes and one for its end.

    Args:
        max_bytes: what the lines of one job may cost.
    """

    def __init__(self, memory: GuestMemory, max_bytes: int) -> None:
        self._memory = memory
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._lines: list[LogLine] = []
        self._partial = {1: bytearray(), 2: bytearray()}
        self._dropped = 0
        self._dropped_level = 0
        self.dirty = False

    def log(self, level: int, ptr: int, length: int) -> None:
        """`env.host_log`, past the level filter and the bounds check."""
        self.dirty = True
        length &= _U32
        if length >= self._room:
            self._drop(level)
            return
        ptr &= _U32
        end = ptr + length
        self._add(level, bytes(self._memory.view(end)[ptr:end]))

    def stdio(self, fd: int, iovs: int, count: int) -> None:
        """`fd_write` to descriptor 1 or 2, put together to lines. The descriptor is also the level of the lines."""
        self.dirty = True
        if self._room <= 0:
            self._drop(fd)
            return
        partial = self._partial[fd]
        whole = self._gather(partial, iovs & _U32, count & _U32, self._room)
        if b"\n" in partial:
            *lines, rest = bytes(partial).split(b"\n")
            partial[:] = rest
            for line in lines:
                self._add(fd, line)
        if not whole:
            partial.clear()
            self._drop(fd)

    def take(self) -> list[LogLine]:
        """The lines of the job that ended, and an empty log for the next one."""
        for fd, partial in self._partial.items():
            if partial:
                self._add(fd, bytes(partial))
                partial.clear()
        if self._dropped:
            self._lines.append(LogLine(self._dropped_level, f"{self._dropped} more lines dropped"))
        lines = self._lines
        self._lines = []
        self._room = self._max_bytes
        self._dropped = self._dropped_level = 0
        self.dirty = False
        return lines

    def _add(self, level: int, raw: bytes) -> None:
        try:
            text = raw.decode()
            size = len(raw)
        except UnicodeDecodeError:
            text = raw.decode(errors="replace")
            size = len(text.encode())
        if size >= self._room or len(self._lines) >= MAX_LOG_LINES:
            self._drop(level)
            return
        self._room -= size + 1
        self._lines.append(LogLine(level, text))

    def _drop(self, level: int) -> None:
        self._room = 0
        self._dropped += 1
        self._dropped_level = max(self._dropped_level, level)

    def _gather(self, into: bytearray, iovs: int, count: int, limit: int) -> bool:
        """Append what the list names, until `into` holds `limit` bytes. False if something was left out."""
        memory = self._memory.view(iovs + count * 8)
        for at in range(iovs, iovs + count * 8, 8):
            ptr = int.from_bytes(memory[at : at + 4], "little")
            length = int.from_bytes(memory[at + 4 : at + 8], "little")
            room = limit - len(into)
            into += self._memory.view(ptr + min(length, room))[ptr : ptr + min(length, room)]
            if length > room:
                return False
        return True


class GuestBackend:
    """`env.call_backend` for one guard.

    Args:
        backend: answers the calls; None: the gate answers -1 and nothing comes here.
        max_calls: calls that one job may make, over all its tries.
    """

    def __init__(self, memory: GuestMemory, backend: CallBackend | None, max_calls: int) -> None:
        self._memory = memory
        self._backend = backend
        self._max_calls = max_calls
        self.calls = 0
        self.errors: deque[str] = deque(maxlen=MAX_BACKEND_ERRORS)

    def reset(self) -> None:
        """Begin a new job."""
        self.calls = 0
        self.errors.clear()

    def call(self, tool_ptr: int, tool_len: int, args_ptr: int, args_len: int, result_ptr: int, result_cap: int) -> int:
        """The length of the result, -1 on any error, -2 if the buffer is too small."""
        if self.calls >= self._max_calls or self._backend is None:
            return _ERROR
        request = self._request(tool_ptr & _U32, tool_len & _U32, args_ptr & _U32, args_len & _U32)
        result_ptr &= _U32
        if request is None or result_ptr > len(self._memory.view(result_ptr)):
            return _ERROR
        self.calls += 1
        try:
            result = self._backend(*request)
            return self._answer(result, result_ptr, result_cap & _U32)
        except BackendError as error:
            self.errors.append(f"{request[0]}: {error}"[:MAX_ERROR_CHARS])
        except Exception as error:
            self.errors.append(f"{request[0]}: {type(error).__name__}: {error}"[:MAX_ERROR_CHARS])
        return _ERROR

    def _request(self, tool_ptr: int, tool_len: int, args_ptr: int, args_len: int) -> tuple[str, bytes] | None:
        """Tool and arguments, or None if they are outside memory, too long, not UTF-8 or not JSON."""
        if not 0 < tool_len <= MAX_TOOL_BYTES or args_len > MAX_ARGS_BYTES:
            return None
        tool_raw = self._read(tool_ptr, tool_len)
        args = self._read(args_ptr, args_len)
        if tool_raw is None or args is None:
            return None
        try:
            tool = tool_raw.decode()
            if args:
                _decode_args(args)
        except (ValueError, RecursionError):
            return None
        return tool, args or b"null"

    def _read(self, ptr: int, length: int) -> bytes | None:
        end = ptr + length
        view = self._memory.view(end)
        return bytes(view[ptr:end]) if end <= len(view) else None

    def _answer(self, result: bytes, ptr: int, cap: int) -> int:
        size = len(result)
        if size > cap:
            if cap >= 4:
                self._write(ptr, min(size, _U32).to_bytes(4, "little"))
            return _TOO_SMALL
        return size if self._write(ptr, result) else _ERROR

    def _write(self, ptr: int, data: bytes) -> bool:
        end = ptr + len(data)
        view = self._memory.view(end)
        if end > len(view):
            return False
        view[ptr:end] = data
        return True


def externs(engine: Engine, log: GuestLog, backend: GuestBackend, memory: GuestMemory) -> dict[str, EngineExtern]:
    """The Python functions that the bridge imports, ready to be linked."""
    functions: dict[str, Callable[..., int | None]] = {
        "log": _contained(log.log, None),
        "stdio": _contained(log.stdio, None),
        "backend": _contained(backend.call, _ERROR),
        "clock": wasi.Clock().read,
        "random": _contained(wasi.Random(memory).fill, wasi.EIO),
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
