"""Files of jobs on any file system that fsspec knows, cut into pieces that machines read on their own.

What a path means is what it means to `guardpool.batch.inputs`; a URL means the same by the rules of fsspec. A piece of lines
holds those that begin within some MiB of a file, so that every line is in exactly one piece. A piece of a Parquet file is a row
group; a file that is packed is one piece, because nothing tells where a line begins in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from guardpool.batch.binary import LONGEST_MAGIC
from guardpool.batch.files import STANDARD, FileError
from guardpool.batch.inputs import (
    ENDINGS,
    PARQUET_MAGIC,
    check_head,
    expanded,
    is_glob,
    looked_at,
    no_jobs_below,
    no_match,
)
from guardpool.batch.jobline import JobParser
from guardpool.batch.parquet_jobs import FOOTER_LIMITS, RowGroupTooLarge, check_row_groups, job_of_row
from guardpool.batch.parquet_reader import NoJobsInside
from guardpool.compression import Damaged, is_packed, unpacked
from guardpool.errors import HostError
from guardpool.jobs import Prepared
from guardpool.lines import BOM, LineSplitter
from guardpool.outcomes import OutcomeError
from guardpool.sizes import MIB

# Some thousand jobs: so much is done again if a machine dies, and a piece costs whoever hands it out some milliseconds.
_MOST_PIECE_BYTES = 16 * MIB
_LEAST_PIECE_BYTES = MIB
_READ_BYTES = MIB
# A packed file has at most 1 << 15 times its bytes in it: four bytes of zstd are at most 128 KiB, gzip packs far less.
_MOST_PACKED_BITS = 15
_PORTION_JOBS = 256
# What reading may raise; of pyarrow's own exceptions each is one of these, or an `ArrowException`.
_UNREADABLE = (OSError, ValueError, EOFError, Damaged)


class Piece(msgspec.Struct, frozen=True):
    """Jobs that are read together.

    Args:
        url: of the file, for `file_system`.
        kind: `"lines"`, `"packed"` or `"parquet"`.
        start, end: the bytes within which its lines begin; of a Parquet file the number of its row group, and that of the
            group's first row in the file.
        first: number of the first job: its byte for lines, its row for Parquet, counted through all files. No two jobs have
            the same: behind a packed file numbers go on past all that it can hold. A job that has no id gets its number as one.
    """

    url: str
    kind: str
    start: int
    end: int
    first: int


def pieces_of(paths: Sequence[str], least: int, piece_bytes: int | None = None) -> list[Piece]:
    """Cut files into pieces. Reads the first bytes of each, and the end of those that are Parquet.

    Args:
        paths: as for `Inputs`, each local or the URL of a file system of fsspec (`s3://bucket/jobs/`). A file that several of
            them mean is taken once.
        least: into so many pieces at least, if a MiB of lines is in each: all machines are to have something to do.
        piece_bytes: about how much of a file of lines is a piece; None: 1 to 16 MiB.

    Raises:
        FileError: one is not there or cannot be read, is not a regular file, or is Parquet that cannot be jobs; the message
            names it.
        NotLines: the first bytes of one say that no line of it can be a job.
        HostError: fsspec, or what it needs for that kind of URL, is not installed.
    """
    pieces: list[Piece] = []
    first = 0
    sizes = {url: _size_of(url) for url in _urls(paths)}
    if piece_bytes is None:
        piece_bytes = max(_LEAST_PIECE_BYTES, min(_MOST_PIECE_BYTES, sum(sizes.values()) // least))
    for url, size in sizes.items():
        try:
            found, count = _cut(url, size, first, piece_bytes)
        except _UNREADABLE as error:
            raise _cannot_be_read(url, error) from error
        pieces += found
        first += count
    return pieces


def _size_of(url: str) -> int:
    try:
        fs, path = file_system(url)
        size: int = fs.size(path)
    except _UNREADABLE as error:
        raise _cannot_be_read(url, error) from error
    return size


def _cannot_be_read(url: str, error: Exception, place: str = "") -> FileError:
    """What to raise for a file that cannot be read, or not after `place`, in one line."""
    why = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
    return FileError(f"{url}: the jobs cannot be read{place}: {why}")


def portions_of(piece: Piece, parser: JobParser) -> Iterator[list[Prepared]]:
    """The jobs of a piece, some at a time, rejected ones among them, in their order.

    Raises:
        FileError: it cannot be read, or is damaged; the message names the file, and the place in it.
    """
    try:
        fs, path = file_system(piece.url)
        file = fs.open(path, "rb")
    except _UNREADABLE as error:
        raise _cannot_be_read(piece.url, error) from error
    with file:
        yield from (_portions_of_rows if piece.kind == "parquet" else _portions_of_lines)(piece, file, parser)


# --- cutting


def _urls(paths: Iterable[str]) -> Iterator[str]:
    """The files that paths mean, each once, and each as what means the same on another machine: a whole path, or a URL."""
    seen: set[str] = set()
    for path in paths:
        if path == STANDARD:
            raise FileError("standard input: other machines cannot read it: name files that all of them can")
        local = local_path(path)
        for each in _elsewhere(path) if local is None else expanded([local]):
            identity = each if local is None else os.path.realpath(each)
            if identity not in seen:
                seen.add(identity)
                yield each if local is None else _looked_at(each)


def local_path(path: str) -> str | None:
    """The path of what lies on this machine; None for a URL of something else.

    Raises:
        FileError, HostError: as for `file_system`.
    """
    if "://" not in path:
        return path
    fs, root = file_system(path)
    return root if "file" in fs.protocol else None


def is_of_jobs(url: str, paths: Iterable[str]) -> bool:
    """Whether a URL is of a file that `pieces_of` would read. It looks at those paths only that are URLs, too.

    Raises:
        FileError, HostError: as for `pieces_of`.
    """
    fs, root = file_system(url)
    name = fs.unstrip_protocol(root)
    return any(name in _elsewhere(path) for path in paths if local_path(path) is None)


def _looked_at(path: str) -> str:
    """The whole path of a local file that others can read, too."""
    found = looked_at(path)
    if found.held is not None:
        found.held.close()
        raise FileError(
            f"{path}: the jobs cannot be read: it is not a regular file, and other machines have to read it"
        )
    return os.path.abspath(path)


def _elsewhere(url: str) -> list[str]:
    """The URLs of the files that a URL means."""
    fs, root = file_system(url)
    try:
        if fs.isdir(root):
            found = sorted(each for each in fs.find(root) if each.lower().endswith(ENDINGS))
            if not found:
                raise no_jobs_below(url)
        elif fs.exists(root):
            found = [root]
        elif is_glob(root):
            found = sorted(each for each in fs.glob(root) if not fs.isdir(each))
            if not found:
                raise no_match(url)
        else:
            raise FileError(f"{url}: the jobs cannot be read: there is no such file")
    except _UNREADABLE as error:
        raise _cannot_be_read(url, error) from error
    return [fs.unstrip_protocol(each) for each in found]


def file_system(path: str) -> tuple[Any, str]:
    """The fsspec file system that a path or a URL means, and its path there. Without `://` it is a path, whatever is in it.

    Raises:
        FileError: it is a URL of no kind that fsspec knows.
        HostError: fsspec, or what it needs for that kind, is not installed.
    """
    try:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        if "://" not in path:
            return LocalFileSystem(), os.path.abspath(path)
        fs, root = url_to_fs(path)
    except ImportError as error:
        raise HostError(f"{path}: what reads it is not installed: {error}") from None
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    return fs, root


def _cut(url: str, size: int, first: int, piece_bytes: int) -> tuple[list[Piece], int]:
    """The pieces of a file, and how many numbers its jobs take."""
    fs, path = file_system(url)
    with fs.open(path, "rb") as file:
        head = file.read(LONGEST_MAGIC)
        if head.startswith(PARQUET_MAGIC):
            return _row_groups(url, file, first)
    check_head(head, url)
    if is_packed(head):
        return [Piece(url, "packed", 0, size, first)], size << _MOST_PACKED_BITS
    starts = range(0, size, piece_bytes)
    return [Piece(url, "lines", at, min(size, at + piece_bytes), first + at) for at in starts], size


def _row_groups(url: str, file: Any, first: int) -> tuple[list[Piece], int]:
    import pyarrow.parquet as pq

    from guardpool.batch.job_columns import ColumnsError, JobColumns

    stored = pq.ParquetFile(file, **FOOTER_LIMITS)
    try:
        check_row_groups(stored.metadata, JobColumns(stored.schema_arrow).names)
    except ColumnsError as error:
        raise NoJobsInside(f"{url}: the jobs cannot be read: {error}") from error
    except RowGroupTooLarge as error:
        raise _cannot_be_read(url, error) from error
    pieces, rows = [], 0
    for at in range(stored.metadata.num_row_groups):
        pieces.append(Piece(url, "parquet", at, rows, first + rows))
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
    is_packed = piece.kind == "packed"
    portion: list[Prepared] = []
    read, byte = 0, piece.start
    try:
        for read, (at, line) in enumerate(_lines(piece, file, parser.max_line_bytes), 1):
            number = piece.first - piece.start + at
            job = parser.too_long(number) if line is None else parser.parse(line, number)
            if job is None:
                continue
            byte = at
            if job.error is not None:
                where = f"line {read:,}" if is_packed else f"byte {at:,}"
                job.error = _with_place(job.error, piece, where)
            portion.append(job)
            if len(portion) >= _PORTION_JOBS:
                yield portion
                portion = []
    except _UNREADABLE as error:
        place = f" after byte {byte:,}" if piece.start else f" after line {read:,}" if read else ""
        raise _cannot_be_read(piece.url, error, place) from error
    if portion:
        yield portion


def _with_place(error: OutcomeError, piece: Piece, where: str) -> OutcomeError:
    """Why something is not a job, with where it stands: its line, counted through all files, is not known."""
    return msgspec.structs.replace(error, message=f"{error.message} ({piece.url}, {where})", line=None)


def _lines(piece: Piece, file: Any, max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines that begin in a piece, each with its first byte; None for one that is too long."""
    is_packed = piece.kind == "packed"
    at = 0 if is_packed else max(0, piece.start - 1)  # the byte before tells whether a line begins here
    chunks = unpacked(_Chunks(file)) if is_packed else _from(file, at)
    end = None if is_packed else piece.end
    skip = at < piece.start
    begin = at  # of the line that is to come
    splitter = LineSplitter(max_line_bytes)
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
                yield line_begin, line
        if end is not None and begin >= end:
            return
    for line in splitter.finish()[0]:
        if not skip and (end is None or begin < end):
            yield begin, line


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    from guardpool.batch.job_columns import JobColumns

    row = piece.end  # of the file
    offset = piece.first - row
    try:
        stored = pq.ParquetFile(file, **FOOTER_LIMITS)
        columns = JobColumns(stored.schema_arrow)
        for batch in stored.iter_batches(_PORTION_JOBS, row_groups=[piece.start], columns=list(columns.names)):
            jobs = [job_of_row(cells, at, parser) for at, cells in enumerate(columns.rows(batch), offset + row)]
            for at, job in enumerate(jobs, row):
                if job.error is not None:
                    job.error = _with_place(job.error, piece, f"row {at:,}")
            yield jobs
            row += batch.num_rows
    except (*_UNREADABLE, pa.ArrowException) as error:
        raise _cannot_be_read(piece.url, error, f" after row {row:,}") from error
