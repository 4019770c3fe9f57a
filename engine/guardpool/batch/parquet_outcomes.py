"""The process that writes outcomes as Parquet: it follows a growing file of their lines, and writes a file of their columns.

The lines are what a run writes and goes on with, as for any other output. So the columns never hold up the run, need no place
to go on from (a run that goes on begins them anew), and an interrupted run leaves its outcomes as lines that anything reads.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from io import FileIO
from typing import TYPE_CHECKING, Any

import msgspec

from guardpool.batch.outcome_columns import Ids, columns_of, ids_of, outcome_schema
from guardpool.sizes import MIB

if TYPE_CHECKING:
    import pyarrow as pa

# A row group: some 100,000 outcomes, as DuckDB and others like them, and what is held of it.
_GROUP_ROWS = 100_000
_GROUP_BYTES = 64 * MIB
# What is parsed at once.
_READ_BYTES = 8 * MIB
SIZE_BYTES = 8
# Set in a size: nothing comes behind it.
IS_ALL = 1 << 63


class Task(msgspec.Struct, frozen=True):
    """What this process is told on its command line, as JSON: descriptors of the lines, open for reading, and of the file to
    write, both regular files. On its standard input come sizes, 8 bytes each: so many bytes of lines are there, all whole.
    """

    lines_fd: int
    out_fd: int


class Written(msgspec.Struct, tag=True, frozen=True):
    """Its last words, on standard output: the file is complete, and on the disk. Or why it is not."""

    rows: int
    failure: str | None = None


def main(arguments: list[str]) -> int:
    """Write the file of a `Task`; returns the exit status, which tells nothing."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the caller decides when to stop, and closes the pipe
    sys.modules["numpy"] = None  # type: ignore[assignment]  # pyarrow would load it, for half of a start, and does without
    task = msgspec.json.decode(arguments[-1], type=Task)
    try:
        last = _write(task)
    except _Abandoned:
        return 1
    except MemoryError:
        last = Written(0, "there is not enough memory")
    except OSError as error:
        last = Written(0, error.strerror or str(error))
    os.write(1, msgspec.json.encode(last))
    return 0


class _Abandoned(Exception):
    """The caller has ended, or does not want the file any more."""


class _Lines:
    """The growing file of lines, read as far as the caller says that it is there."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = 0
        self._is_all = False

    def portions(self) -> Iterator[bytes]:
        """Whole lines from the beginning to the end, about `_READ_BYTES` at a time; waits for more."""
        at = 0
        while True:
            while self._size - at < _READ_BYTES and not self._is_all:
                self._wait()
            if at == self._size:
                return
            data = os.pread(self._fd, min(_READ_BYTES, self._size - at), at)
            while not data.endswith(b"\n"):
                whole = data.rfind(b"\n") + 1
                if whole:
                    data = data[:whole]
                    break
                more = os.pread(self._fd, min(_READ_BYTES, self._size - at - len(data)), at + len(data))
                if not more:
                    raise OSError("the lines are not there any more")
                data += more
            at += len(data)
            yield data

    def _wait(self) -> None:
        told = os.read(0, SIZE_BYTES * 1024)
        while len(told) % SIZE_BYTES:
            told += os.read(0, SIZE_BYTES - len(told) % SIZE_BYTES) or _abandon()
        size = int.from_bytes(told[-SIZE_BYTES:] or _abandon(), "little")
        self._size, self._is_all = size & ~IS_ALL, bool(size & IS_ALL)


def _abandon() -> bytes:
    raise _Abandoned


def _write(task: Task) -> Written:
    import pyarrow as pa

    pa.set_cpu_count(1)
    lines, ids = _Lines(task.lines_fd), Ids()
    while True:
        os.ftruncate(task.out_fd, 0)
        os.lseek(task.out_fd, 0, os.SEEK_SET)
        rows = _write_all(task, lines, ids)
        if rows is not None:
            os.fsync(task.out_fd)
            return Written(rows)


def _write_all(task: Task, lines: _Lines, ids: Ids) -> int | None:
    """Write all lines and return how many there were. None: an id did not fit the type of those before it, so that `ids` has
    another type now and the file has to be begun anew."""
    import pyarrow as pa

    writer: Any = None
    group: list[pa.Table] = []
    size = rows = 0
    out = pa.PythonFile(FileIO(task.out_fd, "wb", closefd=False), mode="w")
    for portion in lines.portions():
        own = ids_of(portion)
        if ids.widen(own):
            return None
        group.append(columns_of(portion, ids.column(own)))
        size += len(portion)
        if size >= _GROUP_BYTES or sum(each.num_rows for each in group) >= _GROUP_ROWS:
            writer = _write_group(writer, out, group)
            rows += sum(each.num_rows for each in group)
            group, size = [], 0
    writer = _write_group(writer, out, group or [outcome_schema(ids.type).empty_table()])
    rows += sum(each.num_rows for each in group)
    writer.close()
    return int(rows)


def _write_group(writer: Any, out: pa.PythonFile, group: list[pa.Table]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables(group).unify_dictionaries().combine_chunks()
    if writer is None:
        writer = pq.ParquetWriter(out, table.schema, compression="zstd")
    writer.write_table(table, row_group_size=max(1, table.num_rows))
    return writer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
