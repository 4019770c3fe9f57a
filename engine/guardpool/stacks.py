"""Room on the stack for decoders, which recurse.

One takes about 300 bytes of stack for a level. Threads have 8 MiB as a rule, but 128 KiB with some C libraries, and any size
that the program asked for; past it the process dies of SIGSEGV. So what is deep is decoded where there is room.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from guardpool.nesting import is_deeper

T = TypeVar("T")

# It is address space; memory is taken as it is used.
STACK_BYTES = 16 * 1024 * 1024
# What a decoder takes for a level at most, with room to spare.
_LEVEL_BYTES = 1024
# So many fit into it.
MAX_LEVELS = STACK_BYTES // _LEVEL_BYTES
# So many levels fit into any stack that a Python program can run on.
_ANYWHERE = 100

_stack_size_lock = threading.Lock()


def is_bounded_by_python() -> bool:
    """Whether Python itself stops a decoder, by a RecursionError, before it needs more than `STACK_BYTES`.

    From 3.12 on the limit for C code is Python's own; before, it is what the program asked for with `setrecursionlimit`.
    """
    return sys.version_info >= (3, 12) or sys.getrecursionlimit() <= MAX_LEVELS


def start(thread: threading.Thread) -> None:
    """Start a thread with `STACK_BYTES` of stack, whatever the program asked for. Raises RuntimeError as `Thread.start`."""
    with _stack_size_lock:  # the size is the process's, not the thread's
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)


def call(raw: bytes, function: Callable[[bytes], T]) -> T:
    """`function(raw)`, on a stack that is large enough for what `raw` is nested in: on a thread of its own if that is deep, and
    this is not the main thread, whose stack is the system's. Raises RecursionError if it is too deep for that one."""
    if threading.current_thread() is threading.main_thread() or not is_deeper(raw, _ANYWHERE):
        return function(raw)
    result: list[Any] = []

    def run() -> None:
        try:
            if not is_bounded_by_python() and is_deeper(raw, MAX_LEVELS):
                raise RecursionError("nested too deeply")
            result.append(function(raw))
        except BaseException as error:
            result.append(error)
            result.append(None)

    thread = threading.Thread(target=run, name="guardpool-decoder", daemon=True)
    start(thread)
    thread.join()
    if len(result) > 1:
        raise result[0]
    value: T = result[0]
    return value
