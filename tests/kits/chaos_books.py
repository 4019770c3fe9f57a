"""The books of a chaos run: what was asked, what came back, and what is wrong with it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from guardpool import Job, Outcome

Answer = tuple[str, bytes, str | None, str | None, int | None, int | None]


def answer_of(outcome: Outcome) -> Answer:
    """The part of an outcome that has to be the same however often a job is tried."""
    error = outcome.error
    if error is None:
        return (outcome.status.value, outcome.label_json, None, None, None, None)
    return (outcome.status.value, outcome.label_json, error.code, error.trap, error.guard_code, error.exit_code)


@dataclass
class Books:
    """What was asked, what came back, and what is wrong with it."""

    answers: list[Answer]
    asked: int = 0
    labelled: int = 0
    abandoned: int = 0
    duplicated: int = 0
    lost: int = 0
    stopped_jobs: int = 0
    retries: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def caller(self) -> Ledger:
        """A ledger for one caller's thread."""
        return Ledger(self)

    def close(self, ledger: Ledger) -> None:
        """A caller is done: add its ledger up."""
        with self._lock:
            self.asked += ledger.asked
            self.labelled += ledger.labelled
            self.duplicated += ledger.duplicated
            if ledger.left_early:
                self.abandoned += len(ledger.open)
            else:
                self.lost += len(ledger.open)
            self.stopped_jobs += ledger.stopped_jobs
            self.retries += ledger.retries
            self.wrong += ledger.wrong
            self.statuses += ledger.statuses


class Ledger:
    """The jobs of one caller. Belongs to its thread."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.open: dict[str, int] = {}
        self.asked = self.labelled = self.duplicated = self.stopped_jobs = self.retries = 0
        self.left_early = False
        self.wrong: list[str] = []
        self.statuses: Counter[str] = Counter()

    def asks(self, place: int, job: Job) -> Job:
        """A job is about to be handed in."""
        self.asked += 1
        self.open[job.id] = place
        return job

    def gets(self, outcome: Outcome, id: str | None = None) -> None:
        """An outcome came back."""
        place = self.open.pop(id or outcome.id, None)
        if place is None:
            self.duplicated += 1
            return
        self.labelled += 1
        self.retries += 0 if outcome.status.value == "memory" else max(0, outcome.attempts - 1)
        self.statuses[outcome.status.value] += 1
        got, expected = answer_of(outcome), self._books.answers[place]
        if got != expected:
            if got[0] == "timeout":
                self.stopped_jobs += 1
            else:
                self.wrong.append(f"{outcome.id}: {str(got)[:200]} instead of {str(expected)[:200]}")
