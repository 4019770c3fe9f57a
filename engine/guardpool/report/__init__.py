"""Reports: what decisions come to, for people and for programs.

    from guardpool import report

    summary = report.Summary().add_all(report.read_decisions("decisions.jsonl"))
    print(summary.flagged, "of", summary.calls)

| file | what it holds |
| --- | --- |
| `reading.py`, `redaction.py` | decisions from a file; the same with hashes for names |
| `words.py` | words of strangers, made harmless on their way in |
| `findings.py`, `ends.py` | what a finding is; what a call came to, in one word |
| `summary.py`, `coverage.py`, `shares.py`, `store.py` | what is counted, in one pass; which calls are listed |
| `sections.py` | what a report tells, in order, as sentences and tables |
| `as_values.py`, `markdown.py`, `table_csv.py`, `sarif.py`, `junit.py`, `page/` | the formats |
"""

from __future__ import annotations

from guardpool.report.reading import DecisionsError, read_decisions
from guardpool.report.redaction import Redactor
from guardpool.report.summary import Summary

__all__ = ["DecisionsError", "Redactor", "Summary", "read_decisions"]
