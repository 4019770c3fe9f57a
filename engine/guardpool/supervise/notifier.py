"""Runs the caller's code for the supervisor: future callbacks and log handlers, on threads that may be slow.

Whatever a callback or a handler does, the supervisor's loop goes on and sets the other futures: what one raises is reported
as an exception of its thread. A handler that blocks holds up records and no callbacks, so the two have a thread each.
Callbacks are never dropped (there are only as many as the caller added); log records, also the pool's own, wait in a queue
that is bounded in records and bytes, and are counted when they do not fit. What guards log again and again is counted
before it gets there: see `repeats`.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import msgspec

from guardpool.outcomes import LogLine, Outcome
from guardpool.plurals import number_of
from guardpool.printable import escaped, printable
from guardpool.supervise.repeats import Counted, Repeats

MAX_WAITING_LOGS = 10_000
MAX_WAITING_LOG_CHARS = 8 * 1024 * 1024
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


# In the place of a job's id: the guard logged it while it was initialised.
NO_JOB = object()
_MAX_ID_CHARS = 80


class Notifier:
    """Two daemon threads, started when first needed.

    Args:
        now: the time, in monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._callbacks = _Lane("guardpool-notifier")
        self._logs = _Lane("guardpool-log", MAX_WAITING_LOGS, MAX_WAITING_LOG_CHARS, self._tell_due)
        self._repeats = Repeats()
        self._repeats_lock = threading.Lock()

    def callback(self, call: Callable[[Future[Outcome]], object], future: Future[Outcome]) -> None:
        """Make a call that the caller wants when a future is done; also after `close`."""
        self._callbacks.add(call, future)

    def logs(self, guard: str, job_id: Any, lines: Iterable[LogLine]) -> None:
        """Pass on what a guard logged to the logger `guardpool.guard.NAME`, one record a line: `guard NAME, job ID: TEXT`.

        A line that equals one of the last seconds is counted instead, and its count is told later: `TEXT (19,999 times more)`.
        Records have the attributes `guard`, `job_id` (None while the guard is initialised) and `line`, the bare text. Texts
        are escaped because a program that sets up no logging gets Python's own handler, which prints warnings to the terminal
        as they are.
        """
        with self._repeats_lock:
            now = self._now()
            overdue = self._repeats.due(now)
            new = [line for line in lines if self._repeats.is_new(now, guard, job_id, line)]
            forgotten = self._repeats.due(now) if new else []
        self._tell(overdue)
        for line in new:
            self._logs.add(_log_line, guard, job_id, line.level, line.text, size=len(line.text))
        self._tell(forgotten)

    def flush_logs(self, timeout_s: float) -> None:
        """Tell all counts, and wait until the log handlers had everything, for so long at most."""
        with self._repeats_lock:
            counted = self._repeats.all()
        self._tell(counted)
        self._logs.settle(timeout_s)

    def _tell(self, counted: list[Counted]) -> None:
        for guard, line, times, job_id in counted:
            text = f"{line.text} ({number_of(times, 'time')} more)"
            self._logs.add(_log_line, guard, job_id, line.level, text, size=len(text))

    def _tell_due(self) -> float | None:
        """Tell the counts that are due; returns after how many seconds the next ones may be."""
        with self._repeats_lock:
            now = self._now()
            counted, next_due = self._repeats.due(now), self._repeats.next_due()
        self._tell(counted)
        return None if next_due is None else max(0.0, next_due - now)

    def own(self, level: int, text: str) -> None:
        """Log something of the pool's own to the logger `guardpool`."""
        self._logs.add(_log, "guardpool", level, text, None, size=len(text))

    def close(self, timeout_s: float) -> None:
        """Deliver what waits, for so long at most; then the threads end."""
        with self._repeats_lock:
            counted = self._repeats.all()
        self._tell(counted)
        self._logs.close()
        self._callbacks.close()
        self._callbacks.join(timeout_s)
        self._logs.join(timeout_s)


class _Lane:
    """Calls that wait, and the thread that makes them one after the other.

    Args:
        name: of the thread.
        max_calls, max_size: calls beyond these are dropped, counted and logged; None: no call is dropped.
        idle: called by the thread when no call waits; returns after how many seconds it wants to be called again, or None.
    """

    def __init__(
        self,
        name: str,
        max_calls: int | None = None,
        max_size: int = 0,
        idle: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._idle = idle
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

    def settle(self, timeout_s: float) -> None:
        """Wait until the calls that wait now were made, for so long at most."""
        made = threading.Event()
        with self._changed:
            thread = self._thread
            if thread is None or thread is threading.current_thread():
                return
            self._calls.append((made.set,))
            self._changed.notify()
        made.wait(timeout_s)

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
            pause_s = self._idle()
            with self._changed:
                if not self._calls:
                    if self._closed:
                        self._thread = None  # so that callbacks of a job that is turned away later are still made
                        return
                    self._changed.wait(pause_s)
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


def _log_line(guard: str, job_id: Any, level: int, text: str) -> None:
    logger, severity = logging.getLogger(f"guardpool.guard.{guard}"), _LEVELS[level & 3]
    if logger.isEnabledFor(severity):
        text, of_job = escaped(text), ""
        if job_id is NO_JOB:
            job_id = None
        else:
            of_job = f", job {_shown(job_id)}"
        extra = {"guard": guard, "job_id": job_id, "line": text}
        logger.log(severity, "%s", f"guard {guard}{of_job}: {text}", extra=extra)


def _shown(job_id: Any) -> str:
    """A job's id, on one line, as its `repr`: the caller's, or a stranger's."""
    try:
        if isinstance(job_id, msgspec.Raw):  # a number past what Python holds
            return printable(bytes(job_id)[: _MAX_ID_CHARS + 1].decode(), _MAX_ID_CHARS)
        return printable(repr(job_id[: _MAX_ID_CHARS + 1] if isinstance(job_id, str) else job_id), _MAX_ID_CHARS)
    except Exception:  # a number of 5,000 digits, or a type of the caller's
        return f"of type {type(job_id).__name__}"


def _guarded(call: Callable[..., object], *args: Any) -> None:
    """Run the caller's code. What it raises must not end the thread, not even `SystemExit`."""
    try:
        call(*args)
    except BaseException:
        try:
            threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()]))
        except BaseException:
            pass  # the caller's hook raised as well
