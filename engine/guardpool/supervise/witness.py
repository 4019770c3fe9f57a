"""Who is told which worker labelled what: labels that are kept longer than the pool must not come from a hostile worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from guardpool.protocol.wire import ResultItem
from guardpool.supervise.scheduler import Task


class Witness(Protocol):
    """Is told by the supervisor's thread, so nothing may block."""

    def labelled(self, worker: int, tasks: Sequence[Task], items: Sequence[ResultItem]) -> None:
        """A worker reported these results, which are sound; whether the worker is will be seen when it is gone."""

    def left(self, worker: int, is_honest: bool) -> None:
        """A worker is gone. Honest: it did nothing wrong that was seen, and did not die by itself before it said that it would
        (as native code may make it)."""
