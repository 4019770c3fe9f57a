"""`guardpool report`: decisions in, one report out, in one of seven formats."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from guardpool import __version__
from guardpool.batch.files import STANDARD, Output, refuse_clashes
from guardpool.cli.progress import Display, LogBuffer, State
from guardpool.cli.redaction import Redaction, redaction
from guardpool.cli.render import UsageError
from guardpool.cli.report_text import report_text
from guardpool.decide import DecisionRecord
from guardpool.printable import terminal_json
from guardpool.report import Summary, read_decisions
from guardpool.report.words import clean, plain, theirs

_BY_ENDING = {".html": "html", ".md": "markdown", ".json": "json", ".csv": "csv", ".sarif": "sarif", ".xml": "junit"}
_TEXT = ("", ".txt", ".text")
_TITLE = "Decisions"
_TICK_S = 0.1
_LOOKED_AT = 256  # decisions between two looks at the clock
_WITHOUT_AGAINST = ("csv", "sarif", "junit")


@dataclass(frozen=True)
class Options:
    """The command line of `report`, as typed."""

    decisions: str
    out: str
    format: str | None
    against: str | None
    show_data: bool
    redact: bool
    redact_key: str | None = None
    progress: bool | None = None


def run(options: Options) -> int:
    """Write a report; the exit status is 0, whatever it tells.

    Raises:
        GuardPoolError: an input or the output cannot be used; the message names it.
    """
    kind = options.format or _format_of(options.out)
    _check(options, kind)
    with ExitStack() as stack:
        out = Output(options.out, "the report", is_private=True)
        stack.callback(out.close)
        inputs = [options.decisions, *([options.against] if options.against is not None else [])]
        refuse_clashes([out], inputs, [options.redact_key])
        read = _Reader(
            redaction(options.redact, options.redact_key), bar=options.progress is not False and not os.isatty(out.fd)
        )
        if kind == "csv":
            from guardpool.report.table_csv import as_csv

            pieces = as_csv(read(options.decisions), show_data=options.show_data)
            first = next(pieces)  # what cannot be read fails before the output is touched
            out.begin()
            out.write(first)
            for piece in pieces:
                out.write(piece)
        else:
            summary = Summary(show_data=options.show_data).add_all(read(options.decisions))
            old = Summary().add_all(read(options.against)) if options.against is not None else None
            whole = _FORMATS[kind](_Asked(options, summary, old, os.isatty(out.fd)))
            out.begin()
            out.write(whole)
        out.finish()
    return 0


def _format_of(path: str) -> str:
    """The format that the ending of a file says. Raises `UsageError` for an ending that says none."""
    ending = os.path.splitext(path)[1].lower()
    if ending in _TEXT or path.startswith(("/dev/", "/proc/")):
        return "text"
    if ending not in _BY_ENDING:
        *first, last = [".txt", *_BY_ENDING]
        raise UsageError(
            f"{path}: no report is written as {ending}: let the name end in {', '.join(first)} or {last}, or add --format"
        )
    return _BY_ENDING[ending]


def _check(options: Options, kind: str) -> None:
    if options.against is not None and kind in _WITHOUT_AGAINST:
        raise UsageError(f"--against cannot be told as {kind}: choose text, html, markdown or json")
    if options.against == STANDARD and options.decisions == STANDARD:
        raise UsageError("DECISIONS and --against cannot both be standard input")
    if options.show_data and (options.redact or options.redact_key is not None):
        raise UsageError("--show-data and --redact contradict each other: give one of them")
    if kind == "html" and options.out == STANDARD and sys.stdout.isatty():
        raise UsageError("a page is of no use on a terminal: add -o report.html")


class _Reader:
    """Reads decisions of files, redacted or not: with one key for all, so that they can be compared."""

    def __init__(self, redacted: Redaction, bar: bool) -> None:
        self._bar = bar
        self._redaction = redacted

    def __call__(self, path: str) -> Iterable[DecisionRecord]:
        return self._redaction.records(self._shown(read_decisions(path)))

    def _shown(self, records: Iterable[DecisionRecord]) -> Iterator[DecisionRecord]:
        """The decisions, while a terminal shows how many there were so far."""
        display = Display(bar=self._bar, logs=LogBuffer())
        next_tick = 0.0
        try:
            for number, record in enumerate(records, 1):
                yield record
                if number % _LOOKED_AT == 0 and time.monotonic() >= next_tick:
                    display.update(State(number, {}, None, "decisions"))
                    next_tick = time.monotonic() + _TICK_S
        finally:
            display.close()


@dataclass(frozen=True)
class _Asked:
    """What a format is made of."""

    options: Options
    summary: Summary
    old: Summary | None
    on_terminal: bool

    @property
    def files(self) -> list[str]:
        """The files that were read, by their names alone: the folders that they lie in are nobody's business."""
        paths = [self.options.decisions, *([self.options.against] if self.options.against is not None else [])]
        return ["standard input" if path == STANDARD else clean(os.path.basename(path)) for path in paths]

    @property
    def about(self) -> str:
        """The files, for a sentence."""
        return ", against ".join(map(theirs, self.files))

    @property
    def privacy(self) -> str:
        """What the report leaves out or holds."""
        if self.options.redact_key is not None or self.summary.redacted:
            return "Logins, repositories, numbers and titles stand in it as hashes by a key."
        if self.options.redact:
            return "Logins, repositories, numbers and titles stand in it as hashes, whose key was kept nowhere."
        if self.options.show_data:
            return "It holds arguments of calls: look at them before you pass it on."
        return "It holds names and descriptions, and no arguments or results of calls."


def _html(asked: _Asked) -> bytes:
    from guardpool.report.page import page

    return page(
        *(asked.summary, asked.old),
        title=_TITLE,
        files_read=asked.about,
        privacy=asked.privacy,
        version=__version__,
    )


def _markdown(asked: _Asked) -> bytes:
    from guardpool.report.markdown import markdown

    return markdown(asked.summary, asked.old, _TITLE, asked.about).encode()


def _json(asked: _Asked) -> bytes:
    from guardpool.report.as_values import as_values

    return _indented(as_values(asked.summary, asked.old, asked.files), asked.on_terminal)


def _sarif(asked: _Asked) -> bytes:
    from guardpool.report.sarif import sarif

    return _indented(sarif(asked.summary, __version__), asked.on_terminal)


def _junit(asked: _Asked) -> bytes:
    from guardpool.report.junit import junit

    return junit(asked.summary)


def _text(asked: _Asked) -> bytes:
    title = f"{_TITLE} of {plain(asked.about)}"
    return report_text(asked.summary, asked.old, title, on_terminal=asked.on_terminal).encode()


_FORMATS = {"text": _text, "html": _html, "markdown": _markdown, "json": _json, "sarif": _sarif, "junit": _junit}


def _indented(value: object, on_terminal: bool) -> bytes:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    return terminal_json(text) if on_terminal else text
