"""A report as the XML of JUnit: a suite a tool, a test for each kind of finding that it has, and one for what is undecided."""

from __future__ import annotations

from typing import NamedTuple

from guardpool.checks.junit import JUnitCase, JUnitSuite, to_xml
from guardpool.report.coverage import FLAGS
from guardpool.report.ends import ENDS
from guardpool.report.findings import kind_of, order
from guardpool.report.shares import Part, Row
from guardpool.report.summary import Summary

_TOLD = 20
_REASONS = 6


def junit(summary: Summary) -> bytes:
    """The file. A tool without a finding has one test that passes if any call of it was decided.

    The undecided calls of a tool are a test that was skipped, with the reasons: nothing that was not looked at passes.
    """
    first = _first_calls(summary)
    suites = [JUnitSuite(tool, _cases(summary, tool, first)) for tool in sorted(summary.dimensions["tool"].rows)]
    return to_xml([*suites, JUnitSuite("coverage", _coverage(summary))])


def _first_calls(summary: Summary) -> dict[tuple[str, str], list[str]]:
    """By tool and finding the first calls that are listed."""
    first: dict[tuple[str, str], list[str]] = {}
    for call in summary.store.listed():
        for finding_id in call.findings:
            told = first.setdefault((call.tool, finding_id), [])
            if len(told) < _TOLD:
                told.append(call.id)
    return first


def _cases(summary: Summary, tool: str, first: dict[tuple[str, str], list[str]]) -> list[JUnitCase]:
    calls = summary.dimensions["tool"].rows[tool].calls
    cases = []
    for finding_id in sorted(summary.findings, key=order):
        part = Part(summary.findings[finding_id].tools[tool], calls)
        if part.count:
            where = first.get((tool, finding_id), [])
            more = part.count - len(where)
            lines = [
                f"{part.told('calls')}: {kind_of(finding_id).meaning}",
                *where,
                *([f"and {more:,} more"] if more else []),
            ]
            cases.append(JUnitCase(finding_id, tool, lines))
    undecided = _undecided(summary.dimensions["tool"].rows[tool])
    if not cases and not (undecided and undecided.all):
        cases.append(JUnitCase("no finding", tool))
    if undecided:
        cases.append(JUnitCase("undecided", tool, skipped=undecided.told))
    return cases


class _Undecided(NamedTuple):
    """What of a tool is undecided: whether all of it is, and how much for which reasons, in a sentence."""

    all: bool
    told: str


def _undecided(row: Row) -> _Undecided | None:
    if row.undecided is None:
        return None
    part = Part(row.undecided.total(), row.calls)
    reasons = [
        f"{FLAGS.get(flag) or flag[4:] or 'no reason was given'} ({count:,})"
        for flag, count in row.undecided.most_common(_REASONS)
    ]
    return _Undecided(part.count == part.of, f"{part.told('calls')} are undecided: {'; '.join(reasons)}")


def _coverage(summary: Summary) -> list[JUnitCase]:
    undecided = Part(summary.ends["undecided"], summary.calls)
    skipped = f"{undecided.told('calls')} are undecided" if undecided.count else None
    if not summary.calls:
        skipped = "there are no decisions"
    return [JUnitCase(ENDS["undecided"], "coverage", skipped=skipped)]
