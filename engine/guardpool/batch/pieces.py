"""Files of jobs on any file system that fsspec knows, cut into pieces that machines read on their own.

A piece of lines holds those that begin within some MiB of a file, so that every line is in exactly one piece. A piece of a
Parquet file is a row group; a file that is packed is one piece, because nothing tells where a line begins in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from guardpool.batch.files import STANDARD, FileError
from guardpool.batch.inputs import ENDINGS, PARQUET_MAGIC
from guardpool.batch.jobline import JobParser
from guardpool.batch.parquet_jobs import RowGroupTooLarge, check_row_groups, job_of_row
from guardpool.compression import is_packed, unpacked
from guardpool.errors import HostError
from guardpool.jobs import Prepared
from guardpool.lines import BOM, LineSplitter
from guardpool.sizes import MIB

# Some thousand jobs: work for seconds, and so much is done again if a machine dies.
PIECE_BYTES = 4 * MIB
_READ_BYTES = MIB
_PORTION_JOBS = 256
_HEAD_BYTES = 16


class Piece(msgspec.Struct, frozen=True):
    """Jobs that are read together.

    Args:
        url: of the file, for fsspec.
        kind: `"lines"`, `"packed"` or `"parquet"`.
        start, end: the bytes within which its lines begin; of a Parquet file the number of its row group, twice.
        first: number of the first job: its byte for lines, its row for Parquet, counted through all files. A job that has no
            id gets its number as one.
    """

    url: str
    kind: str
    start: int
    end: int
    first: int


def pieces_of(paths: Sequence[str], piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """Cut files into pieces. Reads the first bytes of each, and the end of those that are Parquet.

    Args:
        paths: files, folders (of which files below are taken that end as job files do) and globs, each local or the URL of a
            file system of fsspec (`s3://bucket/jobs/`).
        piece_bytes: about how much of a file of lines is a piece.

    Raises:
        FileError: one is not there or cannot be read, or is Parquet that cannot be jobs; the message names it.
        HostError: fsspec, or what it needs for that kind of URL, is not installed.
    """
    pieces: list[Piece] = []
    first = 0
    for path in paths:
        if path == STANDARD:
            raise FileError("standard input: other machines cannot read it: name files that all of them can")
        for url in _urls(path):
            try:
                found, count = _cut(url, first, piece_bytes)
            except (OSError, ValueError) as error:
                raise FileError(f"{url}: the jobs cannot be read: {error}") from error
            pieces += found
            first += count
    return pieces


def portions_of(piece: Piece, parser: JobParser) -> Iterator[list[Prepared]]:
    """The jobs of a piece, some at a time, rejected ones among them, in their order.

    Raises:
        OSError: it cannot be read, or what is packed is damaged.
    """
    fs, path = file_system(piece.url)
    with fs.open(path, "rb") as file:
        if piece.kind == "parquet":
            yield from _portions_of_rows(piece, file, parser)
        else:
            yield from _portions_of_lines(piece, file, parser)


# --- cutting


def _urls(path: str) -> list[str]:
    """The files that a path means, each as a URL that means the same on another machine."""
    fs, root = file_system(path)
    try:
        if fs.isdir(root):
            found = sorted(each for each in fs.find(root) if each.endswith(ENDINGS))
            if not found:
                raise FileError(f"{path}: no file in this folder ends in {', '.join(ENDINGS[:3])} or the like")
        elif fs.exists(root):
            found = [root]
        else:
            found = sorted(each for each in fs.glob(root) if not fs.isdir(each))
            if not found:
                raise FileError(f"{path}: the jobs cannot be read: there is no such file")
    except OSError as error:
        raise FileError(f"{path}: the jobs cannot be read: {error}") from error
    return [fs.unstrip_protocol(each) for each in found]


def file_system(path: str) -> tuple[Any, str]:
    """The fsspec file system that a path or a URL means, and its path there.

    Raises:
        FileError: it is a URL of no kind that fsspec knows.
        HostError: fsspec, or what it needs for that kind, is not installed.
    """
    try:
        from fsspec.core import url_to_fs

        fs, root = url_to_fs(path)
    except ImportError as error:
        raise HostError(f"{path}: what reads it is not installed: {error}") from None
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    return fs, root


def _cut(url: str, first: int, piece_bytes: int) -> tuple[list[Piece], int]:
    """The pieces of a file, and how many numbers its jobs take."""
    fs, path = file_system(url)
    size = fs.size(path)
    with fs.open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith(PARQUET_MAGIC):
            return _row_groups(url, file, first)
    if is_packed(head):
        return [Piece(url, "packed", 0, size, first)], size
    starts = range(0, size, piece_bytes)
    return [Piece(url, "lines", at, min(size, at + piece_bytes), first + at) for at in starts], size


def _row_groups(url: str, file: Any, first: int) -> tuple[list[Piece], int]:
    import pyarrow.parquet as pq

    from guardpool.batch.job_columns import ColumnsError, JobColumns

    stored = pq.ParquetFile(file)
    try:
        check_row_groups(stored.metadata, JobColumns(stored.schema_arrow).names)
    except (ColumnsError, RowGroupTooLarge) as error:
        raise FileError(f"{url}: {error}") from error
    pieces, rows = [], 0
    for at in range(stored.metadata.num_row_groups):
        pieces.append(Piece(url, "parquet", at, at, first + rows))
        rows += stored.metadata.row_group(at).num_rows
    return pieces, rows


# --- reading


class _Chunks:
    """Pieces of a file as `guardpool.compression` reads them."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, most: int = _READ_BYTES) -> bytes:
        data: bytes = self._file.read(most)
        return data


def _portions_of_lines(piece: Piece, file: Any, parser: JobParser) -> Iterator[list[Prepared]]:
    portion: list[Prepared] = []
    for at, line in _lines(piece, file, parser.max_line_bytes):
        job = parser.too_long(at) if line is None else parser.parse(line, at)
        if job is None:
            continue
        if job.error is not None:  # its line is not known, only its byte
            job.error = msgspec.structs.replace(job.error, line=None)
        portion.append(job)
        if len(portion) >= _PORTION_JOBS:
            yield portion
            portion = []
    if portion:
        yield portion


def _lines(piece: Piece, file: Any, max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines that begin in a piece, each with its number; None for one that is too long."""
    is_packed = piece.kind == "packed"
    at = 0 if is_packed else max(0, piece.start - 1)  # the byte before tells whether a line begins here
    chunks = unpacked(_Chunks(file)) if is_packed else _from(file, at)
    end = None if is_packed else piece.end
    skip = at < piece.start
    begin = at  # of the line that is to come
    splitter = LineSplitter(max_line_bytes)
    offset = piece.first - piece.start
    for data in chunks:
        lines, _ = splitter.feed(data.removeprefix(BOM) if at == 0 else data, check_text=False)
        ends = _ends(data, at)
        at += len(data)
        for line in lines:
            line_begin, begin = begin, next(ends)
            if skip:
                skip = False
            elif end is not None and line_begin >= end:
                return
            else:
                yield offset + line_begin, line
        if end is not None and begin >= end:
            return
    for line in splitter.finish()[0]:
        if not skip and (end is None or begin < end):
            yield offset + begin, line


def _from(file: Any, start: int) -> Iterator[bytes]:
    file.seek(start)
    while data := file.read(_READ_BYTES):
        yield data


def _ends(data: bytes, at: int) -> Iterator[int]:
    """Where the lines end that end in `data`, which stands at `at`: behind their newlines."""
    found = data.find(b"\n")
    while found >= 0:
        yield at + found + 1
        found = data.find(b"\n", found + 1)


def _portions_of_rows(piece: Piece, file: Any, parser: JobParser) -> Iterator[list[Prepared]]:
    import pyarrow.parquet as pq

    from guardpool.batch.job_columns import JobColumns

    stored = pq.ParquetFile(file)
    columns = JobColumns(stored.schema_arrow)
    number = piece.first
    for batch in stored.iter_batches(_PORTION_JOBS, row_groups=[piece.start], columns=list(columns.names)):
        yield [job_of_row(row, at, parser) for at, row in enumerate(columns.rows(batch), number)]
        number += batch.num_rows
