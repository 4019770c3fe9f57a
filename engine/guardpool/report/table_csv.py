"""Decisions as CSV, a row a call, for spreadsheets: written as decisions are read, so it takes no memory.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@` as a formula, whatever quotes are around it. An apostrophe
before it makes it text, and spreadsheets do not show it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from guardpool.decide.record import DecisionRecord, Differs
from guardpool.report.store import arguments_of
from guardpool.report.summary import facts_of
from guardpool.report.words import clean

COLUMNS = (
    *(
        "call",
        "session",
        "run",
        "workflow",
        "repository",
        "server",
        "tool",
        "touched",
        "day",
        "time",
        "operation",
        "mode",
    ),
    *("rules", "coarse", "verdict", "end", "why", "failed", "items", "shown", "hidden", "findings", "strict_verdict"),
    *("agrees", "questions", "answered", "hidden_items", "hidden_authors"),
)
_TOLD = 5
# The last four are what a keyboard for Chinese or Japanese gives, and some spreadsheets take for the first.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_ROWS_AT_ONCE = 500


def as_csv(records: Iterable[DecisionRecord], *, show_data: bool) -> Iterator[bytes]:
    """The file in pieces: a header, then a row for each decision; with data its arguments come last."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, "args"] if show_data else COLUMNS)
    for number, record in enumerate(records, 1):
        writer.writerow([_safe(cell) for cell in _row(record, show_data)])
        if number % _ROWS_AT_ONCE == 0:
            yield _taken(buffer)
    yield _taken(buffer)


def _taken(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode()


def _safe(cell: str | int) -> str | int:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell


def _row(record: DecisionRecord, show_data: bool) -> Sequence[str | int]:
    facts, asked = facts_of(record), record.enrichment
    differs = record.differs
    row: list[str | int] = [
        clean(record.call),
        *(facts.session, facts.run, facts.workflow, facts.repository, facts.server, clean(record.tool), facts.touched),
        *(facts.day, facts.time, facts.operation, facts.mode, clean(record.rules), clean(record.coarse)),
        *(clean(record.verdict), facts.end, clean(record.why)),
        _listed(failure.rule for failure in record.failed),
        *(facts.items, facts.items - facts.hidden, facts.hidden),
        " ".join(facts.findings),
        clean(differs.verdict) if isinstance(differs, Differs) else "",
        facts.agrees,
        *((asked.asked, asked.answered) if asked is not None else (0, 0)),
        _listed(item.description for item in record.filtered[:_TOLD]),
        _listed(item.author for item in record.filtered[:_TOLD] if item.author),
    ]
    return [*row, arguments_of(record)] if show_data else row


def _listed(words: Iterable[str | None]) -> str:
    return clean("; ".join(map(clean, words)))
