"""The future of one job: the supervisor sets it at once, and what the caller hung on it runs elsewhere."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from functools import partial

from guardpool.errors import PoolClosed
from guardpool.outcomes import Outcome

CallLater = Callable[[Callable[["Future[Outcome]"], object], "Future[Outcome]"], None]


class OutcomeFuture(Future[Outcome]):
    """A future whose callbacks never run in the thread that sets its result.

    That is the supervisor's thread, which must wait for no code of the caller's. So a callback may block, or wait for another
    future of the same pool, and every future gets its result all the same.

    Args:
        call_later: makes a call with this future on another thread.
    """

    def __init__(self, call_later: CallLater) -> None:
        super().__init__()
        self._call_later = call_later

    def settle(self, result: Outcome | Exception) -> None:
        """Set the outcome, or the exception; nothing happens if the caller cancelled it, or set a result of its own."""
        with contextlib.suppress(InvalidStateError, RuntimeError):
            if not self.running() and not self.set_running_or_notify_cancel():
                return
            if isinstance(result, Exception):
                self.set_exception(result)
            else:
                self.set_result(result)

    def add_done_callback(self, fn: Callable[[Future[Outcome]], object]) -> None:
        """Call `fn(future)` when it is done: on a thread that all callbacks of the pool share; at once and here if it is."""
        if self.done():
            super().add_done_callback(fn)
        else:
            super().add_done_callback(partial(self._call_later, fn))

    def abandon(self) -> None:
        """In a fork: end every wait for it. Its locks may be held by threads that are not there, so it gets new ones; callbacks
        are the other process's."""
        self._condition = threading.Condition()
        self._waiters = []
        self._done_callbacks: list[Callable[[Future[Outcome]], object]] = []
        with contextlib.suppress(InvalidStateError):  # it is done
            self.set_exception(
                PoolClosed("this future belongs to the process that made its pool, and is set in that one only")
            )
