"""A report as text: tables with bars, in colour and in the width of the terminal if it goes to one."""

from __future__ import annotations

import io
import sys

from rich.console import Console
from rich.text import Text

from guardpool.cli.render import UNLIMITED_COLUMNS
from guardpool.cli.tables import Table
from guardpool.report import Summary, sections
from guardpool.report.sections import Section
from guardpool.report.shares import Part
from guardpool.report.words import plain

_ROWS = 10
_BAR_CHARS = 12
# A terminal of 80 columns has no room for all of them.
_WIDE_COLUMNS = 120
_LEFT_OUT = ("refused>", "items>", "most in", "the first")
_EIGHTHS = " ▏▎▍▌▋▊▉"
_STYLES = {"lets through": "bold red", "in doubt": "yellow"}


def report_text(summary: Summary, old: Summary | None, title: str, *, on_terminal: bool) -> str:
    """The report.

    Args:
        summary: what it tells.
        old: what it is compared with.
        title: its first line.
        on_terminal: it goes to a terminal.
    """
    console = _console(on_terminal)

    def say(words: str, style: str = "") -> None:
        console.print(Text(words, style), soft_wrap=not on_terminal)

    say(title, "bold")
    console.print()
    for sentence in sections.headline(summary, old):
        say(plain(sentence))
    fixed = [part(summary, old) for part in (sections.findings, sections.coverage, sections.ends)]
    for section in [*fixed, *sections.shares(summary, old, limit=_ROWS)]:
        console.print()
        say(section.title, "bold")
        for note in section.notes:
            say(plain(note))
        if section.rows:
            _table(section, console).print(console)
        if section.left_out:
            say(f"{section.left_out:,} more: a report as JSON or HTML has them.", "dim")
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def _console(on_terminal: bool) -> Console:
    """A console that writes into memory, with the abilities of the terminal if there is one."""
    real = Console(markup=False, emoji=False, highlight=False)
    memory = io.StringIO()
    return Console(
        file=memory,
        force_terminal=on_terminal,
        color_system="auto" if on_terminal else None,
        width=real.width if on_terminal else UNLIMITED_COLUMNS,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _table(section: Section, console: Console) -> Table:
    """The table, with a bar behind the percentage that it draws. On a narrow terminal without the columns of less weight."""
    bar_at = _bar_column(section)
    wide = console.width >= _WIDE_COLUMNS
    kept = [at for at, title in enumerate(section.columns) if wide or not _is_left_out(section, at)]
    order = [each for at in kept for each in ((at, None) if at == bar_at + 1 else (at,))]
    if section.id == "findings" and not wide:
        order = [*kept]
    table = Table(*("" if at is None else section.columns[at] for at in order))
    for row in section.rows:
        part = row[bar_at].part
        drawn = Text(bar(part) if part is not None and part.of else "", "cyan")
        cells = [Text(plain(cell.text), _STYLES.get(cell.text, "")) for cell in row]
        table.add_row(*(drawn if at is None else cells[at] for at in order))
    return table


def _is_left_out(section: Section, at: int) -> bool:
    """Whether a narrow terminal goes without a column; a percentage goes with its count."""
    titles = section.columns
    return titles[at] in _LEFT_OUT or (titles[at] in ("of these>", "of all>") and titles[at - 1] in _LEFT_OUT)


def _bar_column(section: Section) -> int:
    """The column whose share is drawn: what was hidden, where there is such a column, and the count otherwise."""
    return section.columns.index("hidden>") if "hidden>" in section.columns else _first_part(section)


def _first_part(section: Section) -> int:
    return next(at for at, cell in enumerate(section.rows[0]) if cell.part is not None)


def bar(part: Part) -> str:
    """A share as a bar of at most 12 characters; what is more than nothing has at least the narrowest."""
    if not _has_blocks():
        return "#" * max(round(part.share * _BAR_CHARS), part.count > 0)
    eighths = max(round(part.share * _BAR_CHARS * 8), part.count > 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _has_blocks() -> bool:
    try:
        "█▏".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
