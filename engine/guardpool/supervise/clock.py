"""Times as the supervisor counts them: seconds of a monotonic clock that stands still while the supervisor cannot run."""

from __future__ import annotations

import time
from collections import deque

LookAt = float
"""When to look again, by the same clock; `NEVER` if there is nothing to look at."""

NEVER: LookAt = float("inf")

# A wait that ends so much later than it was asked to: all was stopped (a container that was paused, a machine under a
# debugger, a laptop's lid), or another thread of the caller's did not let this one run.
PAUSE_S = 0.25
# A program does not hold the interpreter's lock for so long without need; a container may be paused for hours.
LONG_PAUSE_S = 10.0
SHORT_PAUSES_S = 60.0
# Jobs that began before so many pauses are past any deadline.
_PAUSES_KEPT = 16


class SupervisorClock:
    """`time.monotonic()` without the pauses in which the supervisor's thread did not run.

    A deadline that passed meanwhile is nobody's fault: in a paused container the jobs were paused, too, and where only the
    supervisor was, a result may lie in a pipe that it did not read. So what is due moves on by as much.

    A program that keeps this thread from running again and again, with calls that hold the interpreter's lock, must not keep a
    spinning guard alive: of short pauses only so much is left out, and more after as much time without one.
    """

    def __init__(self) -> None:
        self._lost_s = 0.0
        self._ticked_at = time.monotonic()
        self._left_s = SHORT_PAUSES_S  # so much of short pauses may still be left out
        self._pauses: deque[tuple[float, float, float]] = deque(maxlen=_PAUSES_KEPT)  # begin, end, lost before it

    def now(self) -> float:
        """Seconds."""
        return time.monotonic() - self._lost_s

    def tick(self, asked_s: float) -> None:
        """Say that a wait is over which was to take `asked_s` at most, and that the one before it ended at the last tick."""
        now = time.monotonic()
        took_s = now - self._ticked_at
        if took_s > asked_s + PAUSE_S and (took_s >= LONG_PAUSE_S or took_s <= self._left_s):
            self._pauses.append((self._ticked_at, now, self._lost_s))
            # All of it: the pause may have begun at any moment, and a wait is short while jobs run.
            self._lost_s += took_s
            if took_s < LONG_PAUSE_S:
                self._left_s -= took_s
        else:
            self._left_s = min(SHORT_PAUSES_S, self._left_s + took_s)
        self._ticked_at = now

    def of(self, monotonic_s: float) -> float:
        """What this clock showed when `time.monotonic()`, perhaps in another process, was that."""
        lost_s = self._lost_s
        for begin, end, lost_before_s in reversed(self._pauses):
            if monotonic_s >= end:
                break
            lost_s = lost_before_s
            monotonic_s = min(monotonic_s, begin)
        return monotonic_s - lost_s
