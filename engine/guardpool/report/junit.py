"""A report as the XML of JUnit: a suite a tool, a test for each kind of finding that it has."""

from __future__ import annotations

from guardpool.checks.junit import JUnitCase, JUnitSuite, to_xml
from guardpool.report.ends import ENDS
from guardpool.report.findings import kind_of, order
from guardpool.report.shares import Part
from guardpool.report.summary import Summary

_TOLD = 20


def junit(summary: Summary) -> bytes:
    """The file. A tool without a finding has one test that passes; calls that are undecided are tests that were skipped."""
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
    return cases or [JUnitCase("no finding", tool)]


def _coverage(summary: Summary) -> list[JUnitCase]:
    undecided = Part(summary.ends["undecided"], summary.calls)
    skipped = f"{undecided.told('calls')} are undecided" if undecided.count else None
    return [JUnitCase(ENDS["undecided"], "coverage", skipped=skipped)]
