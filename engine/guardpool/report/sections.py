"""What a report tells, in the order in which it tells it: sentences and tables that every format for people lays out.

First what decides whether to trust the rest (does the replay agree with the log?), then findings, then what was covered, what
calls came to, and the shares. No number stands alone: a cell with a count has what it is a part of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from guardpool.contract.policy import LEVELS
from guardpool.plurals import number_of
from guardpool.report.coverage import FLAGS
from guardpool.report.ends import ENDS
from guardpool.report.findings import KINDS, WORDS, Weight, kind_of, order
from guardpool.report.shares import OTHERS, UNKNOWN, Dimension, Part, Row
from guardpool.report.summary import DIMENSIONS, OF_ITEMS, TITLES, Summary
from guardpool.report.words import theirs


class Cell(NamedTuple):
    """One cell of a table.

    Attributes:
        text: what stands there. It may hold words of strangers.
        part: the share that it tells, if it does.
        query: which calls it counts: `tool=github%20list_issues&finding=B1`; empty if it counts none.
    """

    text: str
    part: Part | None = None
    query: str = ""


class Section(NamedTuple):
    """A table with what is said about it.

    Attributes:
        id: a word for it.
        title: above it.
        notes: sentences before the table.
        columns: their titles; of a column of numbers it ends with `>`.
        rows: the cells.
        left_out: rows that the table would have and does not show.
    """

    id: str
    title: str
    notes: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left_out: int = 0


def headline(summary: Summary, old: Summary | None = None) -> list[str]:
    """What a reader has to know first, a sentence each."""
    told = [_agreement(summary), _findings_in_a_sentence(summary), _hidden_in_a_sentence(summary)]
    return told if old is None else [*told, _before_in_a_sentence(summary, old)]


def _agreement(summary: Summary) -> str:
    agrees = summary.coverage.agrees
    compared = agrees["yes"] + agrees["no"]
    if not compared:
        return f"Whether this is what happened was not checked: {_why_not_compared(summary)}."
    told = f"The replay agrees with the log's own events on {Part(agrees['yes'], compared).told('calls')}"
    if agrees["unknown"]:
        told += f"; {Part(agrees['unknown'], summary.calls).told('calls')} could not be compared"
    return f"{told}."


def _why_not_compared(summary: Summary) -> str:
    if summary.calls == summary.ends["undecided"]:
        return "no call was decided"
    if summary.coverage.observed:
        return "none of the calls that were decided can be compared with what the recording says was done"
    return "the recording has no events of a gateway to compare with"


def _findings_in_a_sentence(summary: Summary) -> str:
    if summary.flagged:
        through = sum(kind_of(finding_id).weight is Weight.OPEN for finding_id in summary.findings)
        told = f"{Part(summary.flagged, summary.calls).told('calls')} have a finding"
        kinds = number_of(len(summary.findings), "kind")
        return f"{told}, of {kinds}, of which {through} let something through that should not have passed."
    decided = Part(summary.calls - summary.ends["undecided"], summary.calls)
    asked = Part(summary.coverage.flags["strict"], summary.calls)
    return f"No finding: {decided.told('calls')} were decided, and of {asked.told('calls')} the strict rules were asked, too."


def _hidden_in_a_sentence(summary: Summary) -> str:
    if summary.hidden:
        told = f"{Part(summary.hidden, summary.items).told('items')} were hidden from the agent"
        emptied = summary.ends["no-items-left"]
        if emptied:
            told += f", so that {Part(emptied, summary.calls).told('calls')} came back empty"
        return f"{told}."
    labelled = sum(summary.ends[end] for end in ("all-items", "some-items", "no-items-left", "empty"))
    told = f"No item was hidden: {Part(labelled, summary.calls).told('calls')} were labelled item by item"
    unguarded = Part(sum(summary.coverage.without_guard.values()), summary.calls)
    told += f" ({number_of(summary.items, 'item')}), and {unguarded.told('calls')} went to a server without a guard"
    unknown = Part(sum(summary.coverage.unknown_servers.values()), summary.calls)
    if unknown.count:
        told += f"; of {unknown.told('calls')} the replay was not told what stands before the server"
    return f"{told}."


def _before_in_a_sentence(summary: Summary, old: Summary) -> str:
    flagged, hidden = Part(old.flagged, old.calls), Part(old.hidden, old.items)
    told = f"Before, {flagged.told('calls')} had a finding and {hidden.told('items')} were hidden"
    new = sorted(set(summary.findings) - set(old.findings), key=order)
    gone = sorted(set(old.findings) - set(summary.findings), key=order)
    kinds = [
        f"{what}: {', '.join(_ours(each, KINDS) for each in ids)}"
        for what, ids in (("new", new), ("gone", gone))
        if ids
    ]
    return f"{told}; kinds that are {'; '.join(kinds)}." if kinds else f"{told}."


def findings(summary: Summary, old: Summary | None = None) -> Section:
    """The kinds of findings, the weightiest first."""
    ids = sorted({*summary.findings, *(old.findings if old else ())}, key=order)
    rows = []
    for finding_id in ids:
        kind, finding = kind_of(finding_id), summary.findings.get(finding_id)
        part = Part(finding.calls if finding else 0, summary.calls)
        tools = finding.tools.most_common() if finding else []
        most = f"{theirs(tools[0][0])} ({Part(tools[0][1], part.count).percent})" if tools else ""
        row = [
            Cell(WORDS[kind.weight]),
            Cell(
                finding_id if finding_id in KINDS else theirs(finding_id),
                query=query(finding=finding_id) if part.count else "",
            ),
            Cell(kind.meaning),
            Cell(f"{part.count:,}", part, query(finding=finding_id) if part.count else ""),
            Cell(part.percent),
            Cell(most, query=query(finding=finding_id, tool=tools[0][0]) if tools else ""),
            Cell(theirs(finding.first), query=query(call=finding.first)) if finding else Cell(""),
        ]
        if old is not None:
            before = old.findings.get(finding_id)
            row.append(Cell(_change(part, Part(before.calls if before else 0, old.calls))))
        rows.append(row)
    columns = ["kind", "id", "what happened", "calls>", "of all>", "most in", "the first"]
    notes = [] if rows else [_findings_in_a_sentence(summary)]
    if summary.store.flagged < summary.flagged:
        listed = Part(summary.store.flagged, summary.flagged)
        notes.append(f"{listed.told('calls')} with a finding can be listed one by one, the others are counted.")
    return Section("findings", "Findings", notes, columns + ["before>"] * (old is not None), rows)


def coverage(summary: Summary, old: Summary | None = None) -> Section:
    """How far the decisions reach, and what is not covered."""
    rows = [
        [Cell(f"{'  ' * deep}{what}"), Cell(f"{part.count:,}", part, which), Cell(part.percent)]
        for deep, what, part, which in _covered(summary)
    ]
    if old is not None:
        before = {what: part for _, what, part, _ in _covered(old, rows_each=len(old.store))}
        for row, (_, what, part, _) in zip(rows, _covered(summary)):
            row.append(Cell(_change(part, before.get(what, Part(0, old.calls)))))
    return Section(
        "coverage", "Coverage", extent(summary), ["what", "calls>", "of>"] + ["before>"] * (old is not None), rows
    )


def _covered(summary: Summary, rows_each: int = 6) -> list[tuple[int, str, Part, str]]:
    """What is covered: indent, words, how much, and which calls these are; of each list the first `rows_each`."""
    counts, calls = summary.coverage, summary.calls

    def flagged(flag: str) -> tuple[int, str, Part, str]:
        return 0, FLAGS[flag], Part(counts.flags[flag], calls), query(flag=flag) if counts.flags[flag] else ""

    def most(of: Counter[str], whole: int, which: str = "") -> list[tuple[int, str, Part, str]]:
        return [
            (1, theirs(word) or UNKNOWN, Part(count, whole), query(**{which: word}) if which and word else "")
            for word, count in of.most_common(rows_each)
        ]

    covered = [flagged("decided"), *_undecided(summary)]
    for word, told in (
        ("yes", "agree with the log"),
        ("no", "disagree with the log"),
        ("unknown", "cannot be compared with the log"),
    ):
        part = Part(counts.agrees[word], calls)
        covered.append((0, told, part, query(agrees=word) if part.count else ""))
    covered += [flagged("strict"), flagged("unguarded")]
    covered += most(counts.without_guard, counts.flags["unguarded"], "server")
    if counts.guard_failed:
        covered += [flagged("guard-failed"), *most(counts.guard_failed, sum(counts.guard_failed.values()))]
    covered += [flagged(flag) for flag in ("unpaired", "changed", "anew", "odd-label") if counts.flags[flag]]
    if counts.asked:
        covered.append((0, "questions of guards that were answered", Part(counts.answered, counts.asked), ""))
    if counts.asked_in_vain:
        covered += [flagged("in-vain"), *most(counts.asked_in_vain, counts.flags["in-vain"])]
    return covered


def _undecided(summary: Summary) -> list[tuple[int, str, Part, str]]:
    """How many calls are undecided, and for each reason how many of them."""
    undecided = summary.ends["undecided"]
    if not undecided:
        return []
    reasons = [(flag, count) for flag, count in summary.coverage.flags.most_common() if flag.startswith("why:")]
    return [
        (0, "undecided", Part(undecided, summary.calls), query(end="undecided")),
        *(
            (1, FLAGS.get(flag) or theirs(flag[4:]) or "no reason was given", Part(count, undecided), query(flag=flag))
            for flag, count in reasons[:6]
        ),
        *(
            (1, f"server {theirs(server) or UNKNOWN}: not told what stands before it", Part(count, undecided), "")
            for server, count in summary.coverage.unknown_servers.most_common(6)
        ),
    ]


def extent(summary: Summary) -> list[str]:
    """What the decisions are of: how many sessions and runs, when, and who decided."""
    counts = summary.coverage
    extent = [number_of(summary.calls, "call"), number_of(len(counts.sessions), "session")]
    if counts.runs:
        extent.append(number_of(len(counts.runs), "run"))
    when = ""
    if counts.first_day:
        days = f"from {counts.first_day} to {counts.last_day}"
        when = f", on {counts.first_day}" if counts.first_day == counts.last_day else f", {days}"
    lines = [", ".join(extent) + f"{when}."]
    for (guard, module, policy, mode, rules, sink), count in counts.deciders.most_common(8):
        by = f"a sink for {theirs(sink)}" if sink else "no guard"
        if guard:
            by = f"guard {theirs(guard)} {theirs(module[:8])}, policy {theirs(policy[:8])}"
        lines.append(
            f"{Part(count, summary.calls).told('calls')} by {by}, mode {theirs(mode) or 'not known'}, {theirs(rules)} rules."
        )
    return lines


def ends(summary: Summary, old: Summary | None = None) -> Section:
    """What calls came to for the agent."""
    rows = []
    for end in [*ENDS, *(end for end in summary.ends if end not in ENDS)]:
        part = Part(summary.ends[end], summary.calls)
        before = Part(old.ends[end], old.calls) if old is not None else None
        if not part.count and not (before and before.count):
            continue
        row = [
            Cell(ENDS.get(end) or theirs(end)),
            Cell(f"{part.count:,}", part, query(end=end) if part.count else ""),
            Cell(part.percent),
        ]
        if before is not None:
            row.append(Cell(_change(part, before)))
        rows.append(row)
    notes = []
    if summary.bypassed:
        notes.append(
            f"{Part(summary.bypassed, summary.calls).told('calls')} went to the backend though their resource may not be read."
        )
    if summary.would_pass:
        notes += _least_changes(summary)
    columns = ["the agent", "calls>", "of all>"] + ["before>"] * (old is not None)
    return Section("ends", "What the agent got", notes, columns, rows)


def _least_changes(summary: Summary) -> Iterable[str]:
    hidden = sum(summary.would_pass.values())
    for change, count in sorted(summary.would_pass.items(), key=lambda pair: -pair[1])[:4]:
        if change:
            yield f"{Part(count, hidden).told('hidden items')} would be shown with {theirs(change)}."
        else:
            yield f"{Part(count, hidden).told('hidden items')} would be hidden at any min-integrity, as far as labels tell."


def shares(summary: Summary, old: Summary | None = None, *, limit: int) -> list[Section]:
    """The shares by tool, repository, author and so on: of each the `limit` values with the most hidden, or the last days.

    A dimension of which nothing is known is left out.
    """
    return [share(summary, name, old, limit=limit) for name in DIMENSIONS if is_known(summary.dimensions[name])]


def is_known(dimension: Dimension) -> bool:
    """Whether the decisions say anything about it."""
    return any(value != UNKNOWN for value in dimension.rows)


def share(summary: Summary, name: str, old: Summary | None = None, *, limit: int) -> Section:
    """The shares of one dimension."""
    dimension = summary.dimensions[name]
    before = old.dimensions[name] if old is not None else None
    of_items = name in OF_ITEMS
    values = sorted_values(name, dimension)
    shown = values[-limit:] if name == "day" else values[:limit]
    rows = [_share_row(summary, name, value, dimension.rows[value], before, of_items) for value in shown]
    one, many = TITLES[name]
    columns = [one, "calls>", "of all>"]
    columns += (
        ["items>", "of all>", "hidden>", "of these>"]
        if of_items
        else ["refused>", "of these>", "items>", "hidden>", "of these>"]
    )
    columns += ["with a finding>", "of these>"]
    if old is not None:
        columns.append("hidden before>")
    notes = []
    few, all_of_them = dimension.concentration()
    if few * 2 < all_of_them and name != "day":
        notes.append(f"{few:,} of the {all_of_them:,} {many} with hidden items have 80% of these.")
    return Section(name, f"By {one}", notes, columns, rows, left_out=max(0, len(values) - limit))


def sorted_values(name: str, dimension: Dimension) -> list[str]:
    """The values of a dimension: days in their order, levels and others by how much there is of them."""
    if name == "day":
        return sorted(dimension.rows)
    if name == "level":
        known = [level for level in reversed(LEVELS) if level in dimension.rows]
        return [*known, *sorted(set(dimension.rows) - set(known))]
    rows = dimension.rows
    return sorted(rows, key=lambda value: (-rows[value].hidden, -rows[value].items, -rows[value].calls, value))


def _share_row(
    summary: Summary, name: str, value: str, row: Row, before: Dimension | None, of_items: bool
) -> list[Cell]:
    which = {name: value}
    calls, hidden = Part(row.calls, summary.calls), Part(row.hidden, row.items)
    cells = [
        Cell(_ours(value, (UNKNOWN, OTHERS)), query=query(**which)),
        Cell(f"{row.calls:,}", calls, query(**which)),
        Cell(calls.percent),
    ]
    if of_items:
        items = Part(row.items, summary.items)
        cells += [Cell(f"{row.items:,}", items, query(**which)), Cell(items.percent)]
    else:
        refused = Part(row.refused, row.calls)
        cells += [
            Cell(f"{row.refused:,}", refused, query(**which, refused="1") if row.refused else ""),
            Cell(refused.percent),
        ]
        cells.append(
            Cell(f"{row.items:,}", Part(row.items, summary.items), query(**which, items="1") if row.items else "")
        )
    cells += [Cell(f"{row.hidden:,}", hidden, query(**which, hidden="1") if row.hidden else ""), Cell(hidden.percent)]
    flagged = Part(row.flagged, row.calls)
    cells += [
        Cell(f"{row.flagged:,}", flagged, query(**which, finding="any") if row.flagged else ""),
        Cell(flagged.percent),
    ]
    if before is not None:
        was = before.rows.get(value)
        cells.append(Cell(_change(hidden, Part(was.hidden, was.items)) if was else "new"))
    return cells


def query(**which: str) -> str:
    """Which calls a number counts, as the part of a link behind `#calls?`; empty if they cannot be told apart."""
    return "" if OTHERS in which.values() else urlencode(which)


def _ours(word: str, words: Container[str]) -> str:
    """A word that is ours if it is one of `words`, and otherwise marked as a stranger's."""
    return word if word in words else theirs(word)


def _change(now: Part, before: Part) -> str:
    """What a share was, and by how many points of a hundred it grew: `12.3% (+1.2)`."""
    points = 100 * (now.share - before.share)
    return before.percent if abs(points) < 0.05 else f"{before.percent} ({points:+.1f})"
