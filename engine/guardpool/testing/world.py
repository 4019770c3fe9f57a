"""Time and chance of a simulated run."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from guardpool.testing.plan import Plan

# When, what, details.
Step = tuple[float, str, tuple[Any, ...]]

# The clock does not begin at 0, so that 0 is never a time that something happened at, as on a real machine.
_BEGIN_S = 1000.0


class Wrong(Exception):
    """A promise that was broken."""


class World:
    """The clock and the dice. Everything that happens is an event; what was noted of them is the trace."""

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.rng = rng
        self.plan = plan
        self.now = _BEGIN_S
        self.events = 0
        self.trace: list[Step] = []
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._number = itertools.count().__next__

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self.now - _BEGIN_S

    def at(self, delay_s: float, call: Callable[..., object], *args: Any) -> None:
        """Call after a delay."""
        heapq.heappush(self._heap, (self.now + delay_s, self._number(), call, args))

    def soon(self, call: Callable[..., object], *args: Any) -> None:
        """Call after the short while that a wake-up takes."""
        self.at(self.rng.random() * 2e-4, call, *args)

    def note(self, what: str, *details: Any) -> None:
        """Put a line into the trace."""
        self.trace.append((self.elapsed_s, what, details))

    def step(self) -> bool:
        """Let the next event happen; False if no event is left."""
        if not self._heap:
            return False
        self.now, _, call, args = heapq.heappop(self._heap)
        self.events += 1
        call(*args)
        return True

    def some(self, size: int) -> int:
        """How many of `size` bytes go through at once: usually all, or any part."""
        return size if self.rng.random() < 0.7 else self.rng.randint(1, size)
