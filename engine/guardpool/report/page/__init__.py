"""A report as one HTML file, which opens from disk and fetches nothing.

What stands in it is written once, by a template of Jinja (`page.html`) that escapes every value. Shares and calls are data:
columns of numbers and a list of words, packed with gzip, which the page's own script (`page.js`) unpacks and draws, the charts
with Chart.js (`chart.umd.min.js`, as its authors publish it; licence in `chart.LICENSE.txt`). A Content-Security-Policy names
the digests of what is inline and forbids everything else, so that the page could neither run a stranger's script nor send
anything anywhere, even if a word of a stranger came through as markup.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from guardpool.errors import HostError
from guardpool.report import sections
from guardpool.report.coverage import FLAGS
from guardpool.report.ends import ENDS, REFUSED
from guardpool.report.findings import WORDS, Weight, kind_of
from guardpool.report.sections import Cell, Section
from guardpool.report.shares import OTHERS, UNKNOWN, Part
from guardpool.report.store import CallStore
from guardpool.report.summary import OF_ITEMS, TITLES, Summary
from guardpool.report.words import laid_out, plain

# Values of a dimension that a page lists; the most active ones. More make a page that is slow and that nobody reads.
MAX_ROWS = 1_000
_CHART_BARS = 12
_MEANT = {
    Weight.OPEN: "something came through that should not have",
    Weight.REPLAY: "the replay and the log do not tell the same",
    Weight.MISLEADS: "nothing came through, but something was lost, failed or told wrongly",
}


class JinjaMissing(HostError):
    """The template engine is not installed; the message says how to install it."""


class Tile(NamedTuple):
    """One number at the head of a page."""

    kind: str
    title: str
    part: Part
    text: str
    query: str = ""


def page(summary: Summary, old: Summary | None, *, title: str, files_read: str, privacy: str, version: str) -> bytes:
    """A report as an HTML page.

    Args:
        summary: what it tells.
        old: what it is compared with.
        title: above it.
        files_read: what was read, for a sentence; with words marked by `theirs`.
        privacy: what the page leaves out or holds of what was said by strangers.
        version: of guardpool.

    Raises:
        JinjaMissing: Jinja is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise JinjaMissing(
            "a report as HTML is written with Jinja, which is not installed: pip install 'guardpool[report]'"
        ) from None
    script, chart, style = _shipped("page.js"), _chart(), _shipped("page.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["said"] = _said
    text: str = environment.from_string(_shipped("page.html")).render(
        policy=_policy([chart, script], style),
        version=version,
        title=title,
        about=f"Of {files_read}: {sections.extent(summary)[0]}",
        files_read=files_read,
        privacy=privacy,
        tiles=_tiles(summary),
        headline=sections.headline(summary, old),
        fixed=[part(summary, old) for part in (sections.findings, sections.coverage, sections.ends)],
        weights=[(WORDS[weight], meaning) for weight, meaning in _MEANT.items()],
        licence=_shipped("chart.LICENSE.txt"),
        data=_packed(_data(summary, old)),
        style=_our_own(style),
        chart=_our_own(chart),
        script=_our_own(script),
    )
    return text.encode()


def _our_own(text: str) -> Any:
    """Text that is not escaped, as it ships with guardpool and holds no word of anybody else."""
    from markupsafe import Markup

    return Markup(text)


def _said(text: str) -> Any:
    """Text escaped, with words of strangers isolated, so that one that runs from right to left moves nothing else."""
    from markupsafe import Markup, escape

    return Markup(laid_out(text, lambda word: f"<bdi>{escape(word)}</bdi>", lambda part: str(escape(part))))


def _shipped(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _chart() -> str:
    """Chart.js without its last line, which has browsers' tools look for a file beside the page."""
    return _shipped("chart.umd.min.js").partition("//# sourceMappingURL=")[0]


def _policy(scripts: Sequence[str], style: str) -> str:
    allowed = " ".join(map(_digest, scripts))
    return f"default-src 'none'; script-src {allowed}; style-src {_digest(style)}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(data: Any) -> str:
    # The same data give the same bytes: no time is in them.
    return base64.b64encode(gzip.compress(msgspec.json.encode(data), mtime=0)).decode()


def _tiles(summary: Summary) -> list[Tile]:
    agrees = summary.coverage.agrees
    compared = Part(agrees["yes"], agrees["yes"] + agrees["no"])
    undecided = Part(summary.ends["undecided"], summary.calls)
    flagged = Part(summary.flagged, summary.calls)
    hidden = Part(summary.hidden, summary.items)
    return [
        Tile("open", "Calls with a finding", flagged, _of(flagged, "calls"), "finding=any" if flagged.count else ""),
        Tile("hidden", "Items hidden", hidden, _of(hidden, "items"), "hidden=1" if hidden.count else ""),
        Tile("", "Undecided", undecided, _of(undecided, "calls"), "end=undecided" if undecided.count else ""),
        Tile("good", "Agrees with the log", compared, _of(compared, "calls that could be compared")),
    ]


def _of(part: Part, what: str) -> str:
    return f"{part.count:,} of {part.of:,} {what}"


def _data(summary: Summary, old: Summary | None) -> dict[str, Any]:
    """What the page's script draws."""
    kinds = {
        finding_id: (WORDS[kind_of(finding_id).weight], kind_of(finding_id).meaning) for finding_id in summary.findings
    }
    return {
        "shares": [_share(summary, section) for section in sections.shares(summary, old, limit=MAX_ROWS)],
        "calls": {
            **_calls(summary.store),
            "examples": _examples(summary),
            "first": "finding=any" if summary.flagged else "",
        },
        "texts": {"ends": ENDS, "refused": sorted(REFUSED), "kinds": kinds, "flags": FLAGS},
    }


def _share(summary: Summary, section: Section) -> dict[str, Any]:
    notes = list(map(plain, section.notes))
    if section.left_out:
        notes.append(f"{section.left_out:,} more are left out here; a report as JSON has all of them.")
    return {
        "id": section.id,
        "title": section.title,
        "columns": section.columns,
        "notes": notes,
        "rows": [[_cell(cell, title) for cell, title in zip(row, section.columns)] for row in section.rows],
        "chart": _chart_of(summary, section),
    }


def _cell(cell: Cell, title: str) -> list[Any]:
    """Text, share, query, kind of the bar; without what is empty at the end."""
    has_bar = cell.part is not None and cell.part.of > 0 and title in ("calls>", "hidden>")
    share = round(cell.part.share, 4) if cell.part is not None and has_bar else None
    told = [plain(cell.text), share, cell.query, title.rstrip(">") if has_bar else ""]
    while told and not told[-1] and len(told) > 1:
        told.pop()
    return told


def _chart_of(summary: Summary, section: Section) -> dict[str, Any]:
    """The bars of a chart: items that were shown and hidden, or where nothing has items, calls by what became of them."""
    rows = summary.dimensions[section.id].rows
    unknown = "" if UNKNOWN not in rows else ", of those that are known"
    names = [name for name in (plain(row[0].text) for row in section.rows) if name not in (OTHERS, UNKNOWN)]
    upright = section.id == "day"
    with_items = [name for name in names if rows[name].items]
    names = names if upright else (with_items or names)[:_CHART_BARS]
    if with_items:
        what = "Items shown to the agent and hidden from it"
        parts = [
            ("shown", [rows[name].shown for name in names], "shown"),
            ("hidden", [rows[name].hidden for name in names], "hidden"),
        ]
    else:
        what = "Calls that were refused, and others"
        parts = [
            ("not refused", [rows[name].calls - rows[name].refused for name in names], "shown"),
            ("refused", [rows[name].refused for name in names], "hidden"),
        ]
    is_cut = not upright and max(len(with_items), len(names)) > _CHART_BARS
    more = f", the first {_CHART_BARS} {TITLES[section.id][1]}" if is_cut else ""
    return {
        "title": f"{what}, {section.title.lower()}{more}{unknown}",
        "labels": names,
        "parts": parts,
        "queries": [sections.query(**{section.id: name}) for name in names],
        "upright": upright,
    }


def _calls(store: CallStore) -> dict[str, Any]:
    groups = [
        {
            **group._asdict(),
            "calls": counts.calls,
            "items": counts.items,
            "hidden": counts.hidden,
        }
        for group, counts in store.groups.items()
        if counts.calls
    ]
    groups.sort(key=lambda group: -group["calls"])
    return {
        "words": {name: words.words for name, words in store.words.items()},
        "columns": {name: column.tolist() for name, column in store.columns.items()},
        "details": {str(place): detail for place, detail in store.details.items()},
        "groups": groups,
    }


def _examples(summary: Summary) -> dict[str, dict[str, list[int]]]:
    """Places of listed calls that have items of an author, an association or a level, of those that the page shows."""
    found = {}
    for name in OF_ITEMS:
        dimension = summary.dimensions[name]
        shown = sections.sorted_values(name, dimension)[:MAX_ROWS]
        found[name] = {value: dimension.rows[value].examples for value in shown}
    return found
