"""Owners get outcomes: the one joint between the supervisor and the callers' side."""

from __future__ import annotations

from typing import Protocol

from guardpool.outcomes import Outcome


class Owner(Protocol):
    """Gets the outcomes of its jobs: a stream, or the single calls. The supervisor's thread calls it, so nothing may block.

    Owners are told apart by identity.
    """

    def deliver(self, indexes: list[int], outcomes: list[Outcome], bytes_in: int, bytes_out: int = 0) -> int | None:
        """Take outcomes.

        Args:
            indexes: of their jobs, in the owner's own order.
            outcomes: one for each index; the owner keeps the list.
            bytes_in: how many bytes of input they free.
            bytes_out: how many bytes of labels they hold.

        Returns:
            None, or an index: the owner's consumer does not keep up, and jobs from there on are to wait until it does.
        """

    def announce(self, error: Exception) -> None:
        """The pool is about to be gone; the last outcomes follow."""

    def fail(self, error: Exception) -> None:
        """The pool is gone; every outcome was delivered."""
