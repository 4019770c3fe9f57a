"""Calls into the caller's backends, each on a thread of its own, never on the supervisor's.

A backend may be slow or hang: that must stall the one job that asked and nothing else, and it must not keep the
interpreter from exiting. So threads are daemons, idle ones are used again, and there are as many as calls at one time: at
most one a worker, plus those whose caller has given up on them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

import msgspec

from guardpool import stacks
from guardpool.backends.asking import GUARD_THAT_ASKS, JOB_THAT_ASKS, ask, in_json
from guardpool.backends.replies import BackendFailed, GuardRefused
from guardpool.contract.inputs import canonical
from guardpool.errors import ContractError
from guardpool.guard import Backend
from guardpool.nesting import is_deeper
from guardpool.printable import printable
from guardpool.supervise.backend_failures import BackendFailures

_log = logging.getLogger("guardpool.backend")

MAX_RESULT_BYTES = 16 * 1024 * 1024
_IDLE_S = 30.0

# Result as JSON or None, error or None, and whether it is what every guard that asks the same would be told.
Reply = Callable[["bytes | None", "str | None", bool], None]
_Call = tuple[str, Backend, str, bytes, Reply, object]


class BackendRunner:
    """Runs backend calls on daemon threads that are used again while they are young."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Between two threads that do nothing else a `Condition` takes 20 us more.
        self._waiting: SimpleQueue[_Call | None] = SimpleQueue()
        self._idle = 0  # threads that wait for a call, and that none of those in the queue is meant for
        self._closed = False
        self._failures = BackendFailures()

    def call(self, guard: str, backend: Backend, tool: str, args: bytes, reply: Reply, job_id: object = None) -> None:
        """Call `backend(tool, args)` on another thread. `reply` is called exactly once: on that thread or, if no thread can
        be started, on this one."""
        call = (guard, backend, tool, args, reply, job_id)
        with self._lock:
            has_one = self._idle > 0
            self._idle -= has_one
        if has_one:
            self._waiting.put(call)
            return
        try:
            # What guards ask is nested as deeply as they like, and the program's own stacks may be small.
            stacks.start(threading.Thread(target=self._serve, args=(call,), name="guardpool-backend", daemon=True))
        except RuntimeError as error:  # no more threads
            reply(None, f"the backend was not called: {error}", True)

    def close(self) -> None:
        """End idle threads now, and busy ones when their call returns."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._waiting.put(None)

    def _serve(self, call: _Call | None) -> None:
        while call is not None:
            call = self._next(self._run(*call))

    def _counts_as_idle(self) -> bool:
        """From now on a call may be meant for this thread; False: it is to end."""
        with self._lock:
            self._idle += not self._closed
            return not self._closed

    def _next(self, is_counted: bool) -> _Call | None:
        """The next call for this thread, which may count as idle already; None: it is to end."""
        if not is_counted and not self._counts_as_idle():
            return None
        try:
            return self._waiting.get(timeout=_IDLE_S)
        except Empty:
            with self._lock:
                if self._idle:
                    self._idle -= 1
                    return None
        return self._waiting.get()  # a call was meant for this thread at the last moment

    def _run(self, guard: str, backend: Backend, tool: str, args: bytes, reply: Reply, job_id: object) -> bool:
        """Make a call, and reply. Returns whether this thread counts as idle."""
        result, failure, is_news, is_for_all = None, None, True, False
        whose, for_what = GUARD_THAT_ASKS.set(guard), JOB_THAT_ASKS.set(job_id)
        try:
            if not stacks.is_bounded_by_python() and is_deeper(args, stacks.MAX_LEVELS):
                raise RecursionError("the arguments are nested too deeply")
            is_for_all = _is_canonical(args)
            result = in_json(ask(backend, tool, msgspec.json.decode(args)))
        except BaseException as error:  # even SystemExit: the job that asked waits for the reply
            failure = _in_words(error)
            is_news = not isinstance(error, BackendFailed)  # what a table lacks, it lacks for thousands of jobs
            is_for_all = is_for_all and not isinstance(error, GuardRefused)
        else:
            if len(result) > MAX_RESULT_BYTES:
                failure = f"the backend's answer is {len(result)} bytes, over the limit of {MAX_RESULT_BYTES}"
                result = None
        finally:
            GUARD_THAT_ASKS.reset(whose)
            JOB_THAT_ASKS.reset(for_what)
        # Before the reply, because the worker's next question may be here sooner than this thread, and another would be started
        # for it. But only if nothing of the caller's is to be run before that question.
        is_idle = failure is None and self._counts_as_idle()
        # Reply before logging: a log handler is the caller's code and may block.
        reply(result, failure, is_for_all)
        if failure is not None and is_news:
            with self._lock:
                line = self._failures.line(time.monotonic(), guard, tool, failure)
            if line is not None:
                with suppress(Exception):
                    _log.warning("%s", line)
        return is_idle


def _is_canonical(args: bytes) -> bool:
    """Whether an honest worker asks for these arguments in this form. What another form is answered must not be found by a
    guard that happens to spell its question so: a backend may tell 1.0 from 1, or a long number from the double next to it."""
    try:
        return canonical(args) == args
    except ContractError:
        return False


def _in_words(error: BaseException) -> str:
    try:
        said = str(error)
        return printable(f"{type(error).__name__}: {said}" if said else type(error).__name__, 300)
    except BaseException:  # its own __str__ raises
        return printable(type(error).__name__, 300)
