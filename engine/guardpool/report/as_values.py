"""A report as values for JSON: everything that was counted, every share with what it is a share of."""

from __future__ import annotations

from typing import Any

from guardpool.report import sections
from guardpool.report.findings import WORDS, kind_of, order
from guardpool.report.sections import sorted_values
from guardpool.report.shares import Part, Row
from guardpool.report.summary import OF_ITEMS, Summary
from guardpool.report.words import plain

VERSION = 1


def as_values(summary: Summary, old: Summary | None, files_read: list[str]) -> dict[str, Any]:
    """The report; `against` holds the same of what it is compared with."""
    told = {"v": VERSION, "files": files_read, **_values(summary)}
    if old is not None:
        told["against"] = _values(old)
    told["flagged_calls"] = _flagged_calls(summary)
    return told


def _values(summary: Summary) -> dict[str, Any]:
    coverage = summary.coverage
    return {
        "headline": [plain(sentence) for sentence in sections.headline(summary)],
        "calls": summary.calls,
        "with_finding": _part(summary.flagged, summary.calls),
        "findings": [_finding(summary, finding_id) for finding_id in sorted(summary.findings, key=order)],
        "ends": {end: _part(count, summary.calls) for end, count in summary.ends.most_common()},
        "items": {"total": summary.items, "hidden": _part(summary.hidden, summary.items)},
        "rules_failed": dict(summary.rules.most_common()),
        "would_pass_with": {
            change or "no min-integrity": _part(count, sum(summary.would_pass.values()))
            for change, count in summary.would_pass.most_common()
        },
        "coverage": {
            "decided": _part(summary.calls - summary.ends["undecided"], summary.calls),
            "undecided_because": {
                flag[4:]: count for flag, count in coverage.flags.most_common() if flag.startswith("why:")
            },
            "agrees": dict(coverage.agrees.most_common()),
            "strict_rules_asked": _part(coverage.flags["strict"], summary.calls),
            "without_guard": dict(coverage.without_guard.most_common()),
            "unknown_servers": dict(coverage.unknown_servers.most_common()),
            "labellings_failed": dict(coverage.guard_failed.most_common()),
            "payload_not_intact": _part(coverage.flags["changed"], summary.calls),
            "pairing_not_certain": _part(coverage.flags["unpaired"], summary.calls),
            "after_the_guard_began_anew": _part(coverage.flags["anew"], summary.calls),
            "with_odd_labels": _part(coverage.flags["odd-label"], summary.calls),
            "questions": {"asked": coverage.asked, "answered": _part(coverage.answered, coverage.asked)},
            "sessions": len(coverage.sessions),
            "runs": len(coverage.runs),
            "days": [coverage.first_day, coverage.last_day],
            "decided_by": [
                dict(
                    zip(("guard", "guard_sha256", "policy_sha256", "mode", "rules", "sink"), by),
                    calls=_part(count, summary.calls),
                )
                for by, count in coverage.deciders.most_common()
            ],
        },
        "shares": {
            name: [_row(summary, name, value, dimension.rows[value]) for value in sorted_values(name, dimension)]
            for name, dimension in summary.dimensions.items()
        },
    }


def _part(count: int, of: int) -> dict[str, Any]:
    return {"count": count, "of": of, "share": round(Part(count, of).share, 6)}


def _finding(summary: Summary, finding_id: str) -> dict[str, Any]:
    finding, kind = summary.findings[finding_id], kind_of(finding_id)
    return {
        "id": finding_id,
        "weight": WORDS[kind.weight],
        "meaning": kind.meaning,
        "calls": _part(finding.calls, summary.calls),
        "tools": dict(finding.tools.most_common()),
        "first": finding.first,
    }


def _row(summary: Summary, name: str, value: str, row: Row) -> dict[str, Any]:
    told = {"value": value, "calls": _part(row.calls, summary.calls), "with_finding": _part(row.flagged, row.calls)}
    if name in OF_ITEMS:
        told["items"] = _part(row.items, summary.items)
    else:
        told |= {"refused": _part(row.refused, row.calls), "items": _part(row.items, summary.items)}
    told["hidden"] = _part(row.hidden, row.items)
    return told


def _flagged_calls(summary: Summary) -> list[dict[str, Any]]:
    return [
        {"call": call.id, "tool": call.tool, "end": call.end, "findings": list(call.findings)}
        for call in summary.store.listed()
        if call.findings
    ]
