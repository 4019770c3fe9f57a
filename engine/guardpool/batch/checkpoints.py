"""Checkpoints of a run: what is written is put on the disk, and then a record that says so into the journal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from guardpool.batch.journal import Journal, Record
from guardpool.batch.ledger import Ledger
from guardpool.batch.seam import FileSink

# How often, so that a run that is killed does little of it again.
EVERY_S = 1.0
# Or more seldom, where that takes long: it may take 2% of the time.
_SHARE = 49


class Facts(NamedTuple):
    """What a record tells beside what is done: see `guardpool.batch.journal.Record`."""

    counts: dict[str, int]
    label_sum: str | None
    elapsed_s: float
    runs: list[float]
    sessions: bytes


class Checkpoints:
    """Makes checkpoints. Called by the thread that writes, between two writes.

    Args:
        journal: of the run.
        ledger: knows which jobs are done.
        sink: where the outcomes go.
        facts: tells what else goes into a record; at once how the run begins.
    """

    def __init__(self, journal: Journal, ledger: Ledger, sink: FileSink, facts: Callable[[], Facts]) -> None:
        self._journal = journal
        self._ledger = ledger
        self._sink = sink
        self._facts = facts
        self._next_s = time.monotonic() + EVERY_S
        self._outcomes = sum(facts().counts.values())  # at the last one

    def __call__(self, is_last: bool) -> None:
        """Make one if it is time, or if it `is_last`.

        Raises:
            OSError: it cannot be written; the last one still holds.
        """
        begin_s = time.monotonic()
        if begin_s < self._next_s and not is_last:
            return
        facts = self._facts()
        outcomes = sum(facts.counts.values())
        standing = self._ledger.standing() if outcomes > self._outcomes else None
        if standing is None:
            return  # nothing is new, or soon: the source has not come to a mark behind all that is done
        place = self._sink.make_durable()
        record = Record(*standing, place, facts.counts, facts.label_sum, facts.elapsed_s, facts.runs, facts.sessions)
        self._journal.append(record)
        self._outcomes = outcomes
        end_s = time.monotonic()
        self._next_s = end_s + max(EVERY_S, (end_s - begin_s) * _SHARE)
