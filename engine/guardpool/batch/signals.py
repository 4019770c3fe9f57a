"""The signals that end a batch: the first asks it to stop, the second stops it."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """A signal ended the run. As with KeyboardInterrupt, no `except Exception` takes it for a failure of what it interrupted,
    e.g. of a backend's module that is being imported.

    Attributes:
        exit_status: 128 and the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_status = 128 + signum


class Signals:
    """SIGINT, SIGTERM and SIGHUP while a batch runs: the first asks to stop, the second stops at once.

    Before `graceful` is set there is nothing to finish and the first one raises `Stopped`. Signals that were ignored
    when the command began (`nohup`, a shell's background job) stay so.
    """

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.received: int | None = None
        self.graceful = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:  # Self is Python 3.11's
        for number in self._NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        first = self.received is None
        if first:
            self.received = signum
        if not (first and self.graceful):
            raise Stopped(self.received or signum)
