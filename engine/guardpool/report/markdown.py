"""A report as Markdown, for job summaries and issues: it pings nobody, closes nothing and links nowhere.

Words of strangers stand in code spans, in which GitHub looks neither for `@name` nor for `#7`, and no renderer for markup. A
backtick or a bar would end the span or the cell, so each stands there as an escape.
"""

from __future__ import annotations

from guardpool.report import sections
from guardpool.report.sections import Section
from guardpool.report.summary import Summary
from guardpool.report.words import laid_out

_ROWS = 10


def markdown(summary: Summary, old: Summary | None, title: str, files_read: str) -> str:
    """The report.

    Args:
        summary: what it tells.
        old: what it is compared with.
        title, files_read: above it; `files_read` has words marked by `theirs`.
    """
    lines = [f"# {_said(title)}", "", f"Of {_said(files_read)}.", ""]
    lines += [f"- {_said(sentence)}" for sentence in sections.headline(summary, old)]
    for section in (sections.findings(summary, old), sections.coverage(summary, old), sections.ends(summary, old)):
        lines += _section(section)
    for section in sections.shares(summary, old, limit=_ROWS):
        lines += _section(section)
    return "\n".join(lines) + "\n"


def _section(section: Section) -> list[str]:
    lines = ["", f"## {section.title}", ""]
    for note in section.notes:
        lines += [_said(note), ""]
    if section.rows:
        lines.append(_row([column.removesuffix(">") for column in section.columns]))
        lines.append(_row(["---:" if column.endswith(">") else "---" for column in section.columns]))
        lines += [_row([_cell(cell.text) for cell in row]) for row in section.rows]
    if section.left_out:
        lines += ["", f"{section.left_out:,} more are left out."]
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    deep = len(text) - len(text.lstrip(" "))
    return "&nbsp;" * (2 * deep) + _said(text.lstrip(" ")).replace("<", "&lt;")


def _said(text: str) -> str:
    return laid_out(text, _code)


def _code(words: str) -> str:
    return f"`{words.replace('`', chr(92) + 'x60').replace('|', chr(92) + 'x7c')}`"
