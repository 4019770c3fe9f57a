"""Calls into the caller's backends, each on a thread of its own, never on the supervisor's.

A backend may be slow or hang: that must stall the one job that asked and nothing else, and it must not keep the
interpreter from exiting. So threads are daemons, idle ones are used again, and there are as many as calls at one time: at
most one a worker, plus those whose caller has given up on them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

import msgspec

from guardpool.backends.asking import GUARD_THAT_ASKS, ask
from guardpool.backends.replies import BackendFailed
from guardpool.guard import Backend
from guardpool.printable import printable

_log = logging.getLogger("guardpool.backend")

MAX_RESULT_BYTES = 16 * 1024 * 1024
_IDLE_S = 30.0

# result as JSON or None, error or None
Reply = Callable[["bytes | None", "str | None"], None]
_Call = tuple[str, Backend, str, bytes, Reply]


class BackendRunner:
    """Runs backend calls on daemon threads that are used again while they are young."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A `Condition` would take 20 us more from one thread to the other, of some 150 that a question takes.
        self._waiting: SimpleQueue[_Call | None] = SimpleQueue()
        self._idle = 0  # threads that wait for a call, and that none of those in the queue is meant for
        self._closed = False

    def call(self, guard: str, backend: Backend, tool: str, args: bytes, reply: Reply) -> None:
        """Call `backend(tool, args)` on another thread. `reply` is called exactly once: on that thread or, if no thread can
        be started, on this one."""
        call = (guard, backend, tool, args, reply)
        with self._lock:
            has_one = self._idle > 0
            self._idle -= has_one
        if has_one:
            self._waiting.put(call)
            return
        try:
            threading.Thread(target=self._serve, args=(call,), name="guardpool-backend", daemon=True).start()
        except RuntimeError as error:  # no more threads
            reply(None, f"the backend was not called: {error}")

    def close(self) -> None:
        """End idle threads now, and busy ones when their call returns."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._waiting.put(None)

    def _serve(self, call: _Call | None) -> None:
        while call is not None:
            _run(*call)
            call = self._next()

    def _next(self) -> _Call | None:
        """The next call for this thread; None: it is to end."""
        with self._lock:
            if self._closed:
                return None
            self._idle += 1
        try:
            return self._waiting.get(timeout=_IDLE_S)
        except Empty:
            with self._lock:
                if self._idle:
                    self._idle -= 1
                    return None
        return self._waiting.get()  # a call was meant for this thread at the last moment


def _run(guard: str, backend: Backend, tool: str, args: bytes, reply: Reply) -> None:
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
        try:
            _log.warning("guard %s: backend call of %s failed: %s", guard, printable(tool, 80), failure)
        except Exception:
            pass


def _in_words(error: BaseException) -> str:
    try:
        return printable(f"{type(error).__name__}: {error}", 300)
    except Exception:  # its own __str__ raises
        return type(error).__name__
