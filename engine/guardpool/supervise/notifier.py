"""Runs the caller's code for the supervisor: future callbacks and log handlers, on threads that may be slow.

Whatever a callback or a handler does, the supervisor's loop goes on and sets the other futures: what one raises is reported
as an exception of its thread. A handler that blocks holds up records and no callbacks, so the two have a thread each.
Callbacks are never dropped (there are only as many as the caller added); log records, also the pool's own, wait in a queue
that is bounded in records and bytes, and are counted when they do not fit.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from guardpool.outcomes import LogLine, Outcome
from guardpool.printable import escaped

MAX_WAITING_LOGS = 10_000
MAX_WAITING_LOG_CHARS = 8 * 1024 * 1024
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


class Notifier:
    """Two daemon threads, started when first needed."""

    def __init__(self) -> None:
        self._callbacks = _Lane("guardpool-notifier")
        self._logs = _Lane("guardpool-log", MAX_WAITING_LOGS, MAX_WAITING_LOG_CHARS)

    def callback(self, call: Callable[[Future[Outcome]], object], future: Future[Outcome]) -> None:
        """Make a call that the caller wants when a future is done; also after `close`."""
        self._callbacks.add(call, future)

    def logs(self, guard: str, job_id: Any, lines: list[LogLine]) -> None:
        """Pass on what a guard logged to the logger `guardpool.guard.NAME`, one record a line, escaped.

        They are escaped because a program that sets up no logging gets Python's own handler, which prints warnings to
        the terminal as they are.
        """
        name, extra = f"guardpool.guard.{guard}", {"guard": guard, "job_id": job_id}
        for line in lines:
            self._logs.add(_log_line, name, _LEVELS[line.level & 3], line.text, extra, size=len(line.text))

    def own(self, level: int, text: str) -> None:
        """Log something of the pool's own to the logger `guardpool`."""
        self._logs.add(_log, "guardpool", level, text, None, size=len(text))

    def close(self, timeout_s: float) -> None:
        """Deliver what waits, for so long at most; then the threads end."""
        self._logs.close()
        self._callbacks.close()
        self._callbacks.join(timeout_s)
        self._logs.join(timeout_s)


class _Lane:
    """Calls that wait, and the thread that makes them one after the other.

    Args:
        name: of the thread.
        max_calls, max_size: calls beyond these are dropped, counted and logged; None: no call is dropped.
    """

    def __init__(self, name: str, max_calls: int | None = None, max_size: int = 0) -> None:
        self._name = name
        self._max_calls = max_calls
        self._max_size = max_size
        self._changed = threading.Condition(threading.Lock())
        self._calls: deque[tuple[Any, ...]] = deque()
        self._size = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, *call: Any, size: int = 0) -> None:
        """Queue a function and its arguments."""
        with self._changed:
            if self._max_calls is not None and (
                len(self._calls) >= self._max_calls or self._size + size > self._max_size
            ):
                self._dropped += 1
                return
            if self._thread is not None or self._start():
                self._calls.append(call)
                self._size += size
                self._changed.notify()
                return
        _guarded(*call)  # no thread can be started: better to call here than never

    def _start(self) -> bool:
        thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def close(self) -> None:
        """End once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end, for so long at most; returns at once if called on that very thread."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._calls:
                    if self._closed:
                        self._thread = None  # so that callbacks of a job that is turned away later are still made
                        return
                    self._changed.wait()
                calls, self._calls = self._calls, deque()
                dropped, self._dropped = self._dropped, 0
                self._size = 0
            for call, *args in calls:
                _guarded(call, *args)
            if dropped:
                text = f"{dropped} log records dropped: the log handlers of this program are too slow"
                _guarded(_log, "guardpool", logging.WARNING, text, None)


def _log(name: str, level: int, text: str, extra: dict[str, Any] | None) -> None:
    logging.getLogger(name).log(level, "%s", text, extra=extra)


def _log_line(name: str, level: int, text: str, extra: dict[str, Any]) -> None:
    logger = logging.getLogger(name)
    if logger.isEnabledFor(level):
        logger.log(level, "%s", escaped(text), extra=extra)


def _guarded(call: Callable[..., object], *args: Any) -> None:
    """Run the caller's code. What it raises must not end the thread, not even `SystemExit`."""
    try:
        call(*args)
    except BaseException:
        try:
            threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()]))
        except BaseException:
            pass  # the caller's hook raised as well
