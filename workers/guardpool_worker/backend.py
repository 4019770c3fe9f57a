"""What a guard asks: `call_backend`, from the guard's memory to whatever answers, and back.

Nothing here trusts a number that comes from the guest: the bridge has not checked these ranges. Guest numbers arrive signed;
addresses are made unsigned here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from guardpool.outcomes import MAX_BACKEND_ERRORS
from guardpool.protocol.wire import MAX_ARGS_BYTES, MAX_TOOL_BYTES
from guardpool_worker.buffers import GuestMemory

CallBackend = Callable[[str, bytes], bytes]
"""The answers to `call_backend`: `backend(tool, args_json) -> result_json`; raises `BackendError` if the call failed."""

MAX_ERROR_CHARS = 300

_U32 = 0xFFFFFFFF
ERROR, TOO_SMALL = -1, -2
_decode_args = msgspec.json.Decoder().decode


class BackendError(Exception):
    """A backend call that failed: the guard gets -1, and the message stands in the outcome."""


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
            return ERROR
        request = self._request(tool_ptr & _U32, tool_len & _U32, args_ptr & _U32, args_len & _U32)
        result_ptr &= _U32
        if request is None or result_ptr > len(self._memory.view(result_ptr)):
            return ERROR
        self.calls += 1
        try:
            result = self._backend(*request)
            return self._answer(result, result_ptr, result_cap & _U32)
        except BackendError as error:
            self.errors.append(f"{request[0]}: {error}"[:MAX_ERROR_CHARS])
        except Exception as error:
            self.errors.append(f"{request[0]}: {type(error).__name__}: {error}"[:MAX_ERROR_CHARS])
        return ERROR

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
            return TOO_SMALL
        return size if self._write(ptr, result) else ERROR

    def _write(self, ptr: int, data: bytes) -> bool:
        end = ptr + len(data)
        view = self._memory.view(end)
        if end > len(view):
            return False
        view[ptr:end] = data
        return True
