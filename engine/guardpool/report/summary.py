"""`Summary`: everything a report tells of decisions, gathered in one pass and in bounded memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone

from guardpool.decide.record import DecisionRecord, Seen
from guardpool.report.coverage import Coverage, count, flags_of
from guardpool.report.ends import REFUSED, end_of
from guardpool.report.findings import findings_of
from guardpool.report.shares import UNKNOWN, Dimension
from guardpool.report.store import CallStore, Facts, least_change
from guardpool.report.words import clean

# By what is counted, in the order in which it is told: those of calls, then those of items.
OF_CALLS = ("tool", "touched", "repository", "server", "workflow", "day")
OF_ITEMS = ("author", "association", "level")
DIMENSIONS = ("tool", "touched", "author", "level", "day", "association", "repository", "workflow", "server")
TITLES = {
    "tool": ("tool", "tools"),
    "touched": ("repository touched", "repositories touched"),
    "repository": ("workflow's repository", "workflows' repositories"),
    "author": ("author", "authors"),
    "level": ("integrity level", "integrity levels"),
    "day": ("day", "days"),
    "association": ("association", "associations"),
    "server": ("server", "servers"),
    "workflow": ("workflow", "workflows"),
}
# A listed call of each author, association and level: enough to look at, few enough for any number of authors.
EXAMPLES = 50


class Finding:
    """What is counted of one kind of finding."""

    def __init__(self, first: str) -> None:
        self.calls = 0
        self.tools: Counter[str] = Counter()
        self.first = first  # the id of the first call that has it


class Summary:
    """What decisions come to.

    Args:
        show_data: keep the arguments of those calls that are told in detail.

    Attributes:
        calls: decisions, one a call.
        flagged: of them, those with a finding.
        ends: what calls came to, by the keys of `ENDS`.
        bypassed: calls whose resource may not be read, and that went to the backend all the same.
        items, hidden: items of labelled responses, and those of them that the agent did not get.
        rules: rules that failed, of calls and of hidden items.
        would_pass: hidden items by the least change of the policy that admits them; empty where none is known.
        redacted: decisions in which hashes stand for names.
    """

    def __init__(self, *, show_data: bool = False) -> None:
        self._show_data = show_data
        self.calls = self.flagged = self.bypassed = self.items = self.hidden = self.redacted = 0
        self.ends: Counter[str] = Counter()
        self.rules: Counter[str] = Counter()
        self.would_pass: Counter[str] = Counter()
        self.coverage = Coverage()
        self.findings: dict[str, Finding] = {}
        self.dimensions = {name: Dimension() for name in DIMENSIONS}
        self.store = CallStore()

    def add_all(self, records: Iterable[DecisionRecord]) -> Summary:
        """Take decisions, to the last. Returns itself."""
        for record in records:
            self.add(record)
        return self

    def add(self, record: DecisionRecord) -> None:
        """Take one decision."""
        facts = facts_of(record)
        place = self.store.add(facts, record, show_data=self._show_data)
        refused, flagged = facts.end in REFUSED, bool(facts.findings)
        self.calls += 1
        self.flagged += flagged
        self.redacted += record.redacted is not None
        count(self.ends, facts.end)
        self.bypassed += record.coarse == "bypass"
        self.items += facts.items
        self.hidden += facts.hidden
        self._add_findings(facts, record.call)
        self._add_failed(record)
        self.coverage.add(record, facts.flags, facts.server, facts.tool, facts.day)
        for name in OF_CALLS:
            row = self.dimensions[name].row(getattr(facts, name))
            row.calls += 1
            row.refused += refused
            row.flagged += flagged
            row.items += facts.items
            row.hidden += facts.hidden
        if facts.end == "undecided":
            self._add_undecided(facts)
        self._add_seen(record.seen, refused, flagged, place)

    def _add_undecided(self, facts: Facts) -> None:
        row = self.dimensions["tool"].row(facts.tool)
        if row.undecided is None:
            row.undecided = Counter()
        row.undecided.update(flag for flag in facts.flags if flag.startswith("why:"))

    def _add_findings(self, facts: Facts, call: str) -> None:
        for finding_id in facts.findings:
            finding = self.findings.get(finding_id)
            if finding is None:
                finding = self.findings[finding_id] = Finding(clean(call))
            finding.calls += 1
            count(finding.tools, facts.tool)

    def _add_failed(self, record: DecisionRecord) -> None:
        for failure in record.failed:
            count(self.rules, clean(failure.rule))
        for item in record.filtered:
            for failure in item.failed:
                count(self.rules, clean(failure.rule))
            count(self.would_pass, least_change(item.would_pass_with))

    def _add_seen(self, seen: Iterable[Seen], refused: bool, flagged: bool, place: int | None) -> None:
        for name in OF_ITEMS:
            dimension, met = self.dimensions[name], set()
            for each in seen:
                value = clean(getattr(each, name))
                row = dimension.row(value)
                row.items += each.total
                row.hidden += each.total - each.shown
                if value not in met:
                    met.add(value)
                    row.calls += 1
                    row.refused += refused
                    row.flagged += flagged
                    if place is not None and len(row.examples) < EXAMPLES:
                        row.examples.append(place)


def facts_of(record: DecisionRecord) -> Facts:
    """What is counted and listed of a decision, with clean words."""
    path, mark, line = record.call.rpartition("#")
    if not (mark and line.isascii() and line.isdigit() and len(line) < 16):
        path, line = record.call, "0"
    items = record.items
    day, time = _moment(record.at)
    server = clean(record.server)
    return Facts(
        path=clean(path),
        line=int(line),
        session=clean(record.session),
        server=server,
        tool=f"{server} {clean(record.tool) or UNKNOWN}".lstrip(),
        touched=_touched(record),
        repository=clean(record.repository),
        workflow=clean(record.workflow),
        run=clean(record.run),
        day=day,
        time=time,
        end=end_of(record),
        operation=clean(record.operation),
        mode=clean(record.mode),
        items=items.total if items else 0,
        hidden=items.total - items.shown if items else 0,
        findings=findings_of(record),
        flags=flags_of(record),
        agrees=clean(record.agrees),
    )


def _touched(record: DecisionRecord) -> str:
    """The repository that a call touches, where the guard's description of the resource begins with it: `issue:o/r#7`."""
    found = _TOUCHED.match(record.resource.description) if record.resource is not None else None
    return clean(found[1]) if found is not None else ""


_TOUCHED = re.compile(r"[a-z_-]+:([A-Za-z0-9-]+/[A-Za-z0-9._-]+)")


def _moment(at: str | None) -> tuple[str, str]:
    """Day and minute in UTC of an RFC 3339 time; empty where it is not one."""
    found = _TIME.match(at or "")
    if found is None:
        return "", ""
    day, minute, offset = found.groups()
    if offset not in (None, "+00:00", "-00:00"):
        try:
            moment = datetime.fromisoformat(f"{day}T{minute}{offset}").astimezone(timezone.utc)
        except (ValueError, OverflowError):
            return "", ""
        return moment.strftime("%Y-%m-%d"), moment.strftime("%H:%M")
    return day, minute


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:[Zz]|([+-]\d\d:\d\d))?\Z", re.ASCII)
