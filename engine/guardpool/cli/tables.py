"""Tables for people: no word is ever broken, and no line is padded.

A table that is wider than the terminal is narrowed between words. Where even the longest words do not fit beside one another,
each row is shown as lines of its own. What does not go to a terminal is not wrapped at all, so that `grep` finds whole rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from guardpool.printable import ELLIPSIS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    Cell = Union[str, Text]

_GAP = "  "
# The last column may hold words that are longer than what is left for it: a path is better wrapped by the terminal, which
# keeps it whole for copying. With less room than this for the others the row is better shown as lines of its own.
_LAST_COLUMNS = 24
# How much of a column that may be cut is worth showing.
_CUT_COLUMNS = 12
_RULE_COLUMNS = 200  # where nothing limits a table


@dataclass
class Column:
    """One column.

    Args:
        title: above it; may be empty.
        right: flush right.
        whole: its cells are not wrapped; its title may be.
        cut: its cells are cut to what fits, not wrapped.
    """

    title: str
    right: bool = False
    whole: bool = False
    cut: bool = False


class Table:
    """A table that is filled row by row and then printed.

    Args:
        titles: of the columns; one that ends with `>` is flush right and never wrapped. Columns without any text are left out.
        header: show the titles.
    """

    def __init__(self, *titles: str, header: bool = True) -> None:
        self.columns = [
            Column(title.removesuffix(">"), right=title.endswith(">"), whole=title.endswith(">")) for title in titles
        ]
        self._header = header
        self._rows: list[list[Text]] = []

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def add_row(self, *cells: Cell) -> None:
        """Add a row; cells that are left out are empty."""
        from rich.text import Text

        row = [Text(cell) if isinstance(cell, str) else cell for cell in cells]
        self._rows.append(row + [Text()] * (len(self.columns) - len(row)))

    def print(self, console: Console) -> None:
        """Print it, in the width of the console."""
        for line in self.lines(console):
            console.print(line, soft_wrap=True)

    def lines(self, console: Console) -> Iterator[Text]:
        """The lines of the table, none of which ends with a blank."""
        shown = [at for at, column in enumerate(self.columns) if self._has_text(at, column)]
        columns = [self.columns[at] for at in shown]
        rows = [[row[at] for at in shown] for row in self._rows]
        widths = _widths(columns, rows, console.width, header=self._header)
        if widths is None:
            yield from _as_records(console, columns, rows, header=self._header)
            return
        if self._header:
            yield from _header(console, columns, widths)
        for row in rows:
            yield from _side_by_side(columns, row, widths)

    def _has_text(self, at: int, column: Column) -> bool:
        return bool(self._header and column.title) or any(row[at].plain for row in self._rows)


def _widths(columns: list[Column], rows: list[list[Text]], available: int, *, header: bool) -> list[int] | None:
    """How wide each column is; None if the longest words do not fit beside one another."""
    from rich.cells import cell_len

    natural, least = [], []
    for at, column in enumerate(columns):
        title = column.title if header else ""
        texts = [title, *(row[at].plain for row in rows)]
        natural.append(max(map(cell_len, texts)))
        if column.whole:
            least.append(max(map(cell_len, [*title.split(), *texts[1:]]), default=0))
        elif column.cut:
            least.append(max(cell_len(title), min(natural[at], _CUT_COLUMNS)))
        else:
            least.append(max((cell_len(word) for text in texts for word in text.split()), default=0))
    available -= len(_GAP) * (len(columns) - 1)
    if sum(natural) <= available:
        return natural
    spare = available - sum(least)
    if spare >= 0:
        wanted = [most - few for most, few in zip(natural, least)]
        widths = [few + spare * want // sum(wanted) for few, want in zip(least, wanted)]
        widths[-1] += available - sum(widths) if wanted[-1] else 0
        return widths
    for_last = available - sum(least[:-1])
    if for_last >= _LAST_COLUMNS and not columns[-1].whole:
        return [*least[:-1], for_last]
    return None


def _header(console: Console, columns: list[Column], widths: list[int]) -> Iterator[Text]:
    from rich.text import Text

    titles = [Text(column.title, "bold") for column in columns]
    yield from _side_by_side([Column(column.title, right=column.right) for column in columns], titles, widths)
    mark = "-" if console.options.ascii_only else "─"
    rule = _GAP.join(mark * width for width in widths)
    yield Text(rule[: min(console.width, _RULE_COLUMNS)].rstrip())


def _side_by_side(columns: list[Column], row: list[Text], widths: list[int]) -> Iterator[Text]:
    """The lines of one row."""
    from rich.text import Text

    cells = [_cell_lines(column, cell, width) for column, cell, width in zip(columns, row, widths)]
    for number in range(max(map(len, cells), default=0)):
        line, end = Text(), 0
        for column, lines, width in zip(columns, cells, widths):
            text = lines[number] if number < len(lines) else Text()
            if text.plain:
                blank = width - text.cell_len if column.right else 0
                line.append(" " * (end + blank - line.cell_len)).append_text(text)
            end += width + len(_GAP)
        yield line


def _cell_lines(column: Column, cell: Text, width: int) -> list[Text]:
    if column.cut:
        return [_cut(cell, width)]
    return [cell] if column.whole or cell.cell_len <= width else _wrapped(cell, width)


def _wrapped(cell: Text, width: int) -> list[Text]:
    """A cell as lines; a word that is longer than a line stays whole and makes its line longer."""
    from rich.cells import cell_len

    starts = [0]  # of the lines; rich itself breaks words that are longer than a line, or cuts them
    for word in re.finditer(r"\S+", cell.plain):
        if word.start() > starts[-1] and cell_len(cell.plain[starts[-1] : word.end()]) > width:
            starts.append(word.start())
    lines = list(cell.divide(starts[1:]))
    for line in lines:
        line.rstrip()
    return lines


def _cut(cell: Text, width: int) -> Text:
    if cell.cell_len <= width:
        return cell
    cut = cell.copy()
    cut.truncate(max(0, width - 1))
    cut.append(ELLIPSIS)
    return cut


def _as_records(console: Console, columns: list[Column], rows: list[list[Text]], *, header: bool) -> Iterator[Text]:
    """Each row as lines of its own, with the titles at their left."""
    from rich.cells import cell_len
    from rich.text import Text

    margin = max(cell_len(column.title) for column in columns) + len(_GAP) if header else 0
    for number, row in enumerate(rows):
        if number:
            yield Text()
        for column, cell in zip(columns, row):
            if not cell.plain:
                continue
            for at, text in enumerate(_wrapped(cell, console.width - margin)):
                title = column.title if header and at == 0 else ""
                yield Text(title + " " * (margin - cell_len(title)), "bold").append_text(text)
