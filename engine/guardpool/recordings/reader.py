"""Recordings read as calls: every line of every input is part of a call or counted under a reason.

Each line is offered to the format that took the line before it. Where that one leaves it, the other formats are asked, the
surest first; so one file may hold several formats. A line that opens a JSON object or array and does not close it may be
the first of a document that is printed over many lines: the reader joins those and offers the document as one piece.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from io import BytesIO

import msgspec

from guardpool.compression import Damaged, unpacked
from guardpool.errors import CallerError, check_kind
from guardpool.lines import BOM, LineSplitter
from guardpool.recordings.call import Call, Payload, PayloadState, ResultIs
from guardpool.recordings.formats import ALL, Confidence, Feed, Format
from guardpool.recordings.inputs import STANDARD, Input, InputError, OpenInput, find
from guardpool.recordings.json_text import is_json
from guardpool.recordings.runs import Run
from guardpool.recordings.tally import BLANK, Tally
from guardpool.sizes import MIB

MAX_LINE_BYTES = 64 * MIB
# How often a document is looked at to see whether it is whole; a printed one is whole at the first look.
_MAX_LOOKS = 16

UNKNOWN_FORMAT = "unknown-format"
NOT_JSON = "not-json"
LINE_TOO_LONG = "line-too-long"
TRUNCATED = "truncated-input"
UNREADABLE = "unreadable-file"


class _Block(msgspec.Struct):
    type: str


class _Result(msgspec.Struct):
    content: list[_Block]


_decode_result = msgspec.json.Decoder(_Result).decode


class UnknownFormat(CallerError):
    """A format was asked for by a name that none has."""


def read(paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], *, format: str | None = None) -> Reader:
    """Read recordings.

    Args:
        paths: files, folders, globs, or `-` for standard input; gzip and zstd are unpacked, whatever the names.
        format: only this format is tried; None tries all.

    Raises:
        InputError: a path cannot be read; nothing was read.
        UnknownFormat: there is no such format.
    """
    if not isinstance(paths, (str, bytes, os.PathLike)):
        check_kind("paths", paths, Iterable, "a path or a sequence of paths")
        paths = list(paths)
        for path in paths:
            check_kind("each of the paths", path, (str, bytes, os.PathLike), "a path")
    formats = ALL
    if format is not None:
        formats = tuple(each for each in ALL if each.name == format)
        if not formats:
            names = ", ".join(each.name for each in ALL)
            raise UnknownFormat(f"no format is called {format!r}; there are: {names}")
    return Reader(find([paths] if isinstance(paths, (str, bytes, os.PathLike)) else paths), formats)


def _total_size(inputs: Sequence[Input]) -> int | None:
    sizes = [each.size for each in inputs]
    return None if None in sizes else sum(size or 0 for size in sizes)


class Reader:
    """An iterator of calls, in the order of their requests within each session.

    Attributes:
        tally: what became of the lines so far; complete when the reader is exhausted.
        runs: what is known of the runs whose files were read, by folder, else by the name of the input.
        bytes_read: bytes of all inputs taken so far, as they are on disk.
        total_bytes: the size of all inputs when they were found; None if one is a pipe.
    """

    def __init__(self, inputs: Sequence[Input], formats: Sequence[Format] = ALL) -> None:
        self.tally = Tally()
        self.runs: dict[str, Run] = {}
        self.bytes_read = 0
        self.total_bytes = _total_size(inputs)
        self._inputs = inputs
        self._formats = formats
        self._calls_of: Counter[str] = Counter()  # by what the user named
        self._runs_with_calls: set[int] = set()  # ids of the runs of `self._inputs`
        self._calls = self._read_all()

    @property
    def without_calls(self) -> list[str]:
        """What was named, file or folder, and has no call; known once the reader is exhausted.

        A gateway's text log beside its log of messages is left out: what it tells is told there.
        """
        told_elsewhere = {each.given for each in self._inputs if id(each.run) in self._runs_with_calls}
        named = dict.fromkeys(each.given or each.path for each in self._inputs)
        return [each for each in named if not self._calls_of[each] and each not in told_elsewhere]

    @property
    def input_paths(self) -> list[str]:
        """The files that are read, so that nobody writes over them; not standard input."""
        return [each.path for each in self._inputs if each.path != STANDARD]

    @property
    def named_paths(self) -> list[str]:
        """Those of `input_paths` that were named themselves, and not found in a folder."""
        return [each.path for each in self._inputs if each.was_named and each.path != STANDARD]

    def leave_out(self, paths: Iterable[str]) -> list[str]:
        """Pass over files where a folder has them; before the first call is read.

        Returns:
            Those that a folder has.
        """
        unwanted = {os.path.realpath(path) for path in paths}
        left_out = [each for each in self._inputs if not each.was_named and os.path.realpath(each.path) in unwanted]
        self._inputs = [each for each in self._inputs if each not in left_out]
        self.total_bytes = _total_size(self._inputs)
        return [each.path for each in left_out]

    def __iter__(self) -> Iterator[Call]:
        return self

    def __next__(self) -> Call:
        return next(self._calls)

    def close(self) -> None:
        """Give up: close what is open. A reader that was exhausted is closed."""
        self._calls.close()

    def _read_all(self) -> Generator[Call, None, None]:
        for each in self._inputs:
            yield from self._read_one(each)

    def _read_one(self, source: Input) -> Iterator[Call]:
        run = source.run or Run(source.name)
        router = _Router(source.name, self._formats, self.tally, run)
        before = self.bytes_read
        try:
            file = OpenInput(source)
        except OSError as error:
            if source.was_named:
                raise InputError(
                    f"{source.path}: cannot be read: {error.strerror or error}", path=source.path
                ) from error
            router.count_file(UNREADABLE, str(error.strerror or error))
            return
        try:
            for lines in _lines_of(file, router):
                self.bytes_read = before + file.bytes_read
                router.take(lines)
                if router.ready:
                    yield from router.ready
                    router.ready.clear()
            router.finish()
            yield from router.ready
            if router.calls:
                self._calls_of[source.given or source.path] += router.calls
                if source.run is not None:
                    self._runs_with_calls.add(id(source.run))
            if run.facts or run.folder is not None:
                self.runs[run.folder or run.name] = run
        finally:
            file.close()
            router.close()


def _lines_of(file: OpenInput, router: _Router) -> Iterator[list[bytes | None]]:
    """The lines of an input, some at a time; what cannot be read of it is counted."""
    splitter = LineSplitter(MAX_LINE_BYTES)
    problem = None
    is_first = True
    stream = unpacked(file)
    while True:
        try:
            data = next(stream, b"")
        except (Damaged, OSError) as error:
            problem = error
            break
        if not data:
            break
        if is_first:
            data = data.removeprefix(BOM)
            is_first = False
        yield splitter.feed(data, check_text=False)[0]
    last = splitter.finish()[0]
    if problem is None:
        yield last
        return
    # A line that the damage cut is a part of what is missing, not a line of its own.
    text = last[0] if last and last[0] is not None else b""
    reason = TRUNCATED if isinstance(problem, Damaged) else UNREADABLE
    router.count_file(reason, str(problem), text)


class _Router:
    """Gives each line of one input to the format that takes it. The `Sink` of the formats' feeds."""

    def __init__(self, name: str, formats: Sequence[Format], tally: Tally, run: Run | None = None) -> None:
        self.name = name
        self.run = run or Run(name)
        self.ready: list[Call] = []
        self.calls = 0
        self._formats = formats
        self._tally = tally
        self._number = 0
        self._feeds: dict[str, Feed] = {}
        self._feed: Feed | None = None
        self._document = bytearray()  # one buffer: a document may have millions of lines
        self._document_at = 0  # its first line
        self._document_lines = 0
        self._looks = 0

    def emit(self, call: Call, lines: int) -> None:
        """See `Sink`."""
        if self.run.folder is not None:
            call = _of_run(call, self.run)
        self._tally.count_call(call, lines)
        self.calls += 1
        self.ready.append(call)

    def count(self, reason: str, number: int, text: bytes, lines: int = 1) -> None:
        """See `Sink`."""
        self._tally.count_reason(reason, f"{self.name}#{number}", text, lines)

    def count_file(self, reason: str, message: str, text: bytes = b"") -> None:
        """Count the part of an input that cannot be read, as one line."""
        self._tally.lines += 1
        self.count(reason, self._number + 1, text or message.encode("utf-8", "replace"))

    def take(self, lines: Sequence[bytes | None]) -> None:
        """Take the next lines; None is one that was too long."""
        self._tally.lines += len(lines)
        formats = self._tally.formats
        number = self._number
        feed = self._feed
        for line in lines:
            number += 1
            if line is not None and feed is not None and not self._document:
                name = feed.take(line, number)
                if name is not None:
                    formats[name] += 1
                    continue
            self._number = number
            self._take_other(line)
            feed = self._feed
        self._number = number

    def _take_other(self, line: bytes | None) -> None:
        number = self._number
        if self._document:
            # A whole object in a line stands alone, unless a comma before or behind it makes it a part of a list.
            in_list = self._document[-80:].rstrip().endswith(b",")
            if line is not None and (in_list or not (line.startswith(b'{"') and is_json(line))):
                self._go_on_with_document(line)
                return
            self._give_document_up()  # a line that stands alone: what was held is no document
        if line is None:
            self.count(LINE_TOO_LONG, number, b"")
        elif not line.strip():
            self.count(BLANK, number, line)
        elif not self._offer(line, number, 1):
            self._begin_document(line, number)

    def _offer(self, text: bytes, number: int, lines: int) -> bool:
        """Offer a piece to every format: those that took something of this input first, then the surest."""
        for feed in self._feeds.values():
            if self._took(feed, text, number, lines):
                return True
        others = ((each.recognise(text), each) for each in self._formats if each.name not in self._feeds)
        sure = [pair for pair in others if pair[0] is not Confidence.NO]
        for _, each in sorted(sure, key=lambda pair: -pair[0]):
            feed = each.begin(self)
            if self._took(feed, text, number, lines):
                self._feeds[each.name] = feed
                return True
            feed.close()
        return False

    def _took(self, feed: Feed, text: bytes, number: int, lines: int) -> bool:
        name = feed.take(text, number, lines)
        if name is None:
            return False
        self._tally.formats[name] += lines
        self._feed = feed
        return True

    def _begin_document(self, line: bytes, number: int) -> None:
        if line.lstrip()[:1] in (b"{", b"[") and not is_json(line):
            self._document = bytearray(line)
            self._document_at = number
            self._document_lines = 1
            self._looks = 0
        else:
            self._count_unknown(line, number)

    def _go_on_with_document(self, line: bytes) -> None:
        self._document += line
        self._document_lines += 1
        if len(self._document) > MAX_LINE_BYTES:
            self._give_document_up()
        elif line[:1] in (b"}", b"]"):
            self._look_at_document()

    def _look_at_document(self) -> None:
        """See whether the document is whole, and offer it then."""
        self._looks += 1
        text = bytes(self._document)
        if not is_json(text):
            if self._looks >= _MAX_LOOKS:
                self._give_document_up()
            return
        lines = self._document_lines
        self._document = bytearray()
        if not self._offer(text, self._document_at, lines):
            self.count(UNKNOWN_FORMAT, self._document_at, text, lines)

    def _give_document_up(self) -> None:
        """What was held is no document: its lines are read one by one."""
        held, self._document = BytesIO(self._document), bytearray()
        for number, line in enumerate(held, self._document_at):
            if not line.strip():
                self.count(BLANK, number, line)
            elif not self._offer(line, number, 1):
                self._count_unknown(line, number)

    def _count_unknown(self, line: bytes, number: int) -> None:
        self.count(UNKNOWN_FORMAT if is_json(line) else NOT_JSON, number, line)

    def finish(self) -> None:
        """The input has ended."""
        if self._document:
            self._look_at_document()
        if self._document:
            self._give_document_up()
        for feed in self._feeds.values():
            feed.finish()

    def close(self) -> None:
        """Give what the feeds hold back."""
        for feed in self._feeds.values():
            feed.close()


def _of_run(call: Call, run: Run) -> Call:
    """The call with what its run tells; an answer that was too large for the agent is taken from the run's folder."""
    members: dict[str, object] = {
        name: value
        for name, value in (("run", run.name), ("workflow", run.workflow), ("repository", run.repository))
        if value is not None and getattr(call, name) is None
    }
    if call.server is None and call.tool is not None:
        members["server"] = run.server_of(call.tool)
    if call.result_is is ResultIs.STUB:
        stub = (call.observed or {}).get("stub")
        data = run.payload(stub.get("payloadPath")) if isinstance(stub, dict) else None
        if data is not None and is_json(data):
            result = _as_result(data)
            states = Payload(call.payload.args, PayloadState.INTACT)
            members |= {"result_json": result, "result_is": ResultIs.FILTERED, "payload": states}
    return msgspec.structs.replace(call, **members)


def _as_result(data: bytes) -> bytes:
    """The MCP result of a payload file, which holds one, or what the agent would have read as its text."""
    try:
        is_result = bool(_decode_result(data).content)
    except msgspec.MsgspecError:
        is_result = False
    return data if is_result else msgspec.json.encode({"content": [{"type": "text", "text": data.decode()}]})
