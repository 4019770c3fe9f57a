"""Calls into the caller's backends, each on a thread of its own, never on the supervisor's.

A backend may be slow or hang: that must stall the one job that asked and nothing else, and it must not keep the
interpreter from exiting. So threads are daemons, idle ones are used again, and there are as many as calls at one time: at
most one a worker, plus those whose caller has given up on them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

from guardpool.backends.asking import GUARD_THAT_ASKS, ask
from guardpool.backends.replies import BackendFailed
from guardpool.guard import Backend
from guardpool.printable import printable
from guardpool.supervise.backend_failures import BackendFailures

_log = logging.getLogger("guardpool.backend")

MAX_RESULT_BYTES = 16 * 1024 * 1024
_IDLE_S = 30.0

# result as JSON or None, error or None
Reply = Callable[["bytes | None", "str | None"], None]


class BackendRunner:
    """Runs backend calls on daemon threads that are used again while they are young."""

    def __init__(self) -> None:
        self._lock = threading.Condition(threading.Lock())
        self._waiting: deque[tuple[str, Backend, str, bytes, Reply]] = deque()
        self._idle = 0
        self._closed = False
        self._failures = BackendFailures()

    def call(self, guard: str, backend: Backend, tool: str, args: bytes, reply: Reply) -> None:
        """Call `backend(tool, args)` on another thread. `reply` is called exactly once: on that thread or, if no thread can
        be started, on this one."""
        call = (guard, backend, tool, args, reply)
        with self._lock:
            self._waiting.append(call)
            if self._idle >= len(self._waiting):
                self._lock.notify()
                return
        try:
            threading.Thread(target=self._serve, name="guardpool-backend", daemon=True).start()
        except RuntimeError as error:  # no more threads; one that serves may have taken the call meanwhile
            with self._lock:
                if call not in self._waiting:
                    return
                self._waiting.remove(call)
            reply(None, f"the backend was not called: {error}")

    def close(self) -> None:
        """End idle threads now, and busy ones when their call returns."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def _serve(self) -> None:
        while True:
            with self._lock:
                woken = True
                while not self._waiting:
                    if self._closed or not woken:
                        return
                    self._idle += 1
                    woken = self._lock.wait(_IDLE_S)
                    self._idle -= 1
                call = self._waiting.popleft()
            self._run(*call)

    def _run(self, guard: str, backend: Backend, tool: str, args: bytes, reply: Reply) -> None:
        result, failure, is_news = None, None, True
        whose = GUARD_THAT_ASKS.set(guard)
        try:
            result = msgspec.json.encode(ask(backend, tool, msgspec.json.decode(args)))
        except BaseException as error:  # even SystemExit: the job that asked waits for the reply
            failure = _in_words(error)
            is_news = not isinstance(error, BackendFailed)  # what a table lacks, it lacks for thousands of jobs
        else:
            if len(result) > MAX_RESULT_BYTES:
                failure = f"the backend's answer is {len(result)} bytes, over the limit of {MAX_RESULT_BYTES}"
                result = None
        finally:
            GUARD_THAT_ASKS.reset(whose)
        # Reply before logging: a log handler is the caller's code and may block.
        reply(result, failure)
        if failure is not None and is_news:
            with self._lock:
                line = self._failures.line(time.monotonic(), guard, tool, failure)
            if line is not None:
                with suppress(Exception):
                    _log.warning("%s", line)


def _in_words(error: BaseException) -> str:
    try:
        said = str(error)
        return printable(f"{type(error).__name__}: {said}" if said else type(error).__name__, 300)
    except Exception:  # its own __str__ raises
        return type(error).__name__
