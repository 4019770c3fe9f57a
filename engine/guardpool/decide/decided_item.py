"""One item of a result, and what was decided on it."""

from __future__ import annotations

from typing import Any

from guardpool.decide.words import Failure
from guardpool.labels import Labels, Printed


class DecidedItem(Printed, frozen=True):
    """One item of a result, judged.

    Attributes:
        index: its place in the collection, counted from 0.
        pointer: the JSON pointer to it; empty if it is the whole result.
        data: the item.
        labels: the labels it was judged by.
        allowed: whether the rules let it through. In a response that is blocked as a whole the agent does not get it even so.
        failed: every rule that failed. In propagate failed read rules are among them although they deny nothing.
    """

    index: int
    pointer: str
    data: Any
    labels: Labels
    allowed: bool
    failed: tuple[Failure, ...] = ()

    @property
    def description(self) -> str:
        """The guard's line for people."""
        return self.labels.description

    @property
    def secrecy(self) -> frozenset[str]:
        """The secrecy tags it was judged by."""
        return self.labels.secrecy

    @property
    def integrity(self) -> frozenset[str]:
        """The integrity tags it was judged by."""
        return self.labels.integrity
