"""Decisions as a file holds them: plain, gzip or zstd, a line at a time."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from guardpool.compression import Damaged, unpacked
from guardpool.decide.record import DecisionRecord, read_records
from guardpool.errors import CallerError, check_kind
from guardpool.lines import LineSplitter
from guardpool.recordings.inputs import STANDARD, Input, OpenInput
from guardpool.sizes import MIB

# As for recordings: a decision is shorter than the call that it is of.
_MAX_LINE_BYTES = 64 * MIB


class DecisionsError(CallerError):
    """A file of decisions cannot be read; the message names it, and the line where there is one."""


def read_decisions(path: str) -> Iterator[DecisionRecord]:
    """The decisions of a file, in its order.

    Args:
        path: the file; `-` is standard input.

    Raises:
        DecisionsError: it cannot be read, is damaged, or holds no decision.
        RecordError: a line is not a decision, or is one of another version.
        DecoderMissing: it is compressed with zstd, and there is nothing here that reads it.
    """
    check_kind("path", path, (str, os.PathLike), "a path")
    name = "standard input" if path == STANDARD else path
    found = False
    for record in read_records(_lines(path, name), name):
        found = True
        yield record
    if not found:
        raise DecisionsError(
            f"{name}: no decision is in it: `guardpool replay RECORDING ... -o decisions.jsonl` writes decisions"
        )


def _lines(path: str, name: str) -> Iterator[bytes]:
    splitter = LineSplitter(_MAX_LINE_BYTES)
    number = 0
    try:
        source = OpenInput(Input(path, name, True, None))
        try:
            _refuse_folder(path)
            for data in unpacked(source):
                lines, _ = splitter.feed(data, check_text=False)
                yield from _whole(lines, name, number)
                number += len(lines)
            yield from _whole(splitter.finish()[0], name, number)
        finally:
            source.close()
    except OSError as error:
        raise DecisionsError(f"{name}: the decisions cannot be read: {error.strerror or error}") from error
    except Damaged as error:
        raise DecisionsError(f"{name}: the decisions cannot be read: {error}") from error


def _refuse_folder(path: str) -> None:
    if path != STANDARD and stat.S_ISDIR(os.stat(path).st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _whole(lines: list[bytes | None], name: str, before: int) -> Iterator[bytes]:
    for number, line in enumerate(lines, before + 1):
        if line is None:
            raise DecisionsError(
                f"{name}: line {number}: longer than {_MAX_LINE_BYTES // MIB} MiB, which no decision is"
            )
        yield line
