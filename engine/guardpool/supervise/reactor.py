"""The supervisor's one wait: descriptors, and commands from other threads, in one `epoll`."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from guardpool.supervise.commands import Command

S = TypeVar("S")

# A program that closes all its descriptors, as daemons do, takes the wake-up with them: a loop that waits for it would wait
# for ever, and so would the caller of every job. When a wait begins anew, the kernel says that its descriptor is gone.
LONGEST_WAIT_S = 2.0


class EpollReactor:
    """Watches descriptors and an inbox. All methods but `post` belong to one thread.

    Args:
        on_command: called in that thread for each command posted, in order; returns what a handler does.

    Raises:
        OSError: no descriptors, or no room to watch one. Nothing is left open.

    A handler is called with its subject and the events; it returns True after ordinary traffic, if nothing else is due.

    Attributes:
        calm: whether all that happened in the last `wait` was ordinary traffic.
        eager: whether `post_lazily` wakes the loop. Set by the loop before it waits.
    """

    def __init__(self, on_command: Callable[[Command], bool | None]) -> None:
        self._on_command = on_command
        self._handlers: dict[int, tuple[Callable[[Any, int], bool | None], Any]] = {}
        self._inbox: deque[Command] = deque()
        # Both may be entered again by a signal handler, or by a finalizer, that posts in the middle of a post.
        self._wake_lock = threading.RLock()
        self._late_lock = threading.RLock()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken = False
        self._closed = False
        self.calm = False
        self.eager = True
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._wake_read)
            undo.callback(os.close, self._wake_write)
            self._epoll = select.epoll()
            undo.callback(self._epoll.close)
            self.watch(self._wake_read, self._on_wake, None)
            undo.pop_all()

    def post(self, command: Command) -> None:
        """Hand in a command from any thread. However many come at once, one byte is written to wake the loop.

        After `close` commands are carried out at once, in the calling thread: none is ever lost.
        """
        self._inbox.append(command)
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            with self._wake_lock:
                # Under the lock, so that the descriptor cannot be closed and used again for something else meanwhile.
                if not self._closed:
                    # No call between the two: an exception of a signal handler there would lose every later wake-up.
                    try:
                        self._woken = True
                        os.write(self._wake_write, b"\0")
                    except OSError:
                        pass  # full, which wakes as well; or closed by other code
                    return
        if self._closed:
            with self._late_lock:
                self._carry_out()

    def post_lazily(self, command: Command) -> None:
        """Hand in a command that can wait for the next thing that happens, unless the loop said that it is `eager`.

        A wake-up of the loop costs more than many commands: its caches are cold by then.
        """
        # The loop sets `eager` first and looks into the inbox afterwards, so that what is put in here before `eager` is
        # read is seen by the loop before it sleeps.
        self._inbox.append(command)
        if self.eager or self._closed:
            self._wake()

    def watch(
        self, fd: int, handler: Callable[[S, int], bool | None], subject: S, events: int = select.EPOLLIN
    ) -> None:
        """Call `handler(subject, events)` when something happens to the descriptor. Raises OSError if there is no room."""
        self._epoll.register(fd, events)
        self._handlers[fd] = (handler, subject)

    def watches(self, fd: int) -> bool:
        """Whether the descriptor is watched."""
        return fd in self._handlers

    def unwatch(self, *fds: int) -> None:
        """Forget descriptors; before they are closed. Those that are not watched are skipped."""
        for fd in fds:
            if self._handlers.pop(fd, None) is not None:
                with contextlib.suppress(OSError):  # other code closed it
                    self._epoll.unregister(fd)

    def wait(self, timeout_s: float) -> None:
        """Wait until something happens or the time is over, and call the handlers.

        Args:
            timeout_s: how long to wait at most; negative: as long as it takes, with an early return now and then.

        Raises:
            OSError: other code closed the descriptors.
        """
        self.calm = True
        if not 0 <= timeout_s < LONGEST_WAIT_S:
            timeout_s = LONGEST_WAIT_S
        for fd, events in self._epoll.poll(0 if self._inbox else timeout_s):
            entry = self._handlers.get(fd)
            if entry is not None:  # else an earlier event of the same round closed it
                handler, subject = entry
                if not handler(subject, events):
                    self.calm = False
        if self._inbox:
            self._carry_out()

    def close(self) -> None:
        """Close everything, then carry out what is left in the inbox."""
        with self._wake_lock:
            self._closed = True
            self._epoll.close()
            for fd in (self._wake_read, self._wake_write):
                with contextlib.suppress(OSError):  # other code closed it
                    os.close(fd)
        with self._late_lock:
            self._carry_out()

    def _on_wake(self, _subject: None, _events: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 64)
        self._woken = False  # before the inbox is emptied: a command that comes now wakes us again
        self._carry_out()
        return True

    def _carry_out(self) -> None:
        while True:
            try:
                command = self._inbox.popleft()
            except IndexError:
                return
            if not self._on_command(command):
                self.calm = False


def is_readable(fd: int, timeout_s: float = 0.0) -> bool:
    """Whether a read would not block; `select()` itself cannot take descriptors from 1024 on."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
