"""The process that reads files of jobs in Parquet: files come as descriptors on a socket, jobs go out on it.

A process of its own, because a Parquet file is other people's input to a large library: it may stand for any amount of memory,
and what ends this process ends no run. It also parses, so that the caller's process does less for a row than for a line of
JSON. It ends when its reader does.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from io import FileIO
from typing import TYPE_CHECKING, Any, Union

import msgspec

from guardpool.batch.job_columns import BadCell, ColumnsError, JobColumns
from guardpool.batch.jobline import JobParser
from guardpool.jobs import Prepared
from guardpool.outcomes import OutcomeError
from guardpool.sizes import MIB

if TYPE_CHECKING:
    import pyarrow.parquet as pq

# What this process may take besides its code: a page and a batch of each column, and the dictionaries of a row group.
MEMORY_BYTES = 3 * 1024 * MIB
# A row group is read batch by batch, so this is not what it takes; past it its numbers are wrong, or it was made to do harm.
MAX_ROW_GROUP_BYTES = 8 * 1024 * MIB
MAX_ROW_GROUP_ROWS = 64 * MIB
# How large the numbers and names at the end of a file may be, for `ParquetFile`.
FOOTER_LIMITS = {"thrift_string_size_limit": 64 * MIB, "thrift_container_size_limit": 4 * MIB}
# What a batch should hold, going by the mean of its row group.
_BATCH_BYTES = 8 * MIB
_BATCH_ROWS = 256
# Jobs go out in portions, so that the workers have something to do while the next are parsed.
_PORTION_JOBS = 256
_PORTION_BYTES = 2 * MIB

HEAD_BYTES = 4  # before each message: how long it is
Row = tuple[
    Union[str, int, float, bool, None],  # id
    Union[str, None],  # guard
    str,  # op
    Union[str, None],  # tool_name
    bytes,  # payload
    Union[OutcomeError, None],
    Union[str, None],  # session
    Union[float, None],  # time
]


class Opened(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The file can be read as jobs; it has so many rows."""

    rows: int


class Jobs(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The next jobs, in the order of their rows, a row each; and how many of all so far are no jobs."""

    jobs: list[Row]
    not_jobs: int


class Failed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """It cannot be read, or not further: why, in words that follow the file's name.

    Args:
        message: one line.
        is_callers: the file is not one of jobs; otherwise it is damaged, or asks for too much.
    """

    message: str
    is_callers: bool = False


class Done(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """All rows were sent."""


Message = Union[Opened, Jobs, Failed, Done]


class Task(msgspec.Struct, frozen=True):
    """One file to read; its descriptor comes with it. Answers are `Opened`, then `Jobs`, then `Done`, or at any time `Failed`.

    Args:
        guards, max_input_bytes, any_guard: as for `JobParser`.
        only_look: say whether it can be read, and no more: `Opened` or `Failed`.
        from_row: rows before it are not sent.
        first_number: the number of the file's first row; files before it had others.
        not_jobs: so many rows of all before `from_row` are no jobs.
    """

    guards: list[str] = []
    max_input_bytes: int = 0
    any_guard: bool = False
    only_look: bool = False
    from_row: int = 0
    first_number: int = 0
    not_jobs: int = 0


def main(arguments: list[str]) -> int:
    """Serve tasks from the socket on descriptor 0, one after the other, until its other end is closed.

    Args:
        arguments: how many bytes of memory this process may take besides its code.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the caller decides when to stop, and kills
    sys.modules["numpy"] = None  # type: ignore[assignment]  # pyarrow would load it, for half of a start, and does without
    memory_bytes = int(arguments[0])
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = socket.socket(fileno=0)
    try:
        while (received := receive_task(channel)) is not None:
            task, fd = received
            try:
                send(channel, _answer(task, fd, channel))
            finally:
                os.close(fd)
    except (BrokenPipeError, ConnectionResetError):
        return 1
    return 0


def _answer(task: Task, fd: int, channel: socket.socket) -> Message:
    """Read a file; returns the last message about it."""
    try:
        return _read(task, fd, channel)
    except ColumnsError as error:
        return Failed(str(error), is_callers=True)
    except MemoryError:
        most = resource.getrlimit(resource.RLIMIT_DATA)[0]
        return Failed(f"what it unpacks to takes more than {most // MIB:,} MiB of memory")
    except UnicodeDecodeError:
        return Failed("a text in it is not UTF-8")
    except RowGroupTooLarge as error:
        return Failed(str(error))
    except Exception as error:
        if isinstance(error, ConnectionError) or not _is_of_pyarrow(error):
            raise
        lines = str(error).strip().splitlines()
        return Failed(f"it is damaged, or not Parquet: {lines[0][:300] if lines else type(error).__name__}")


def _is_of_pyarrow(error: Exception) -> bool:
    import pyarrow as pa

    return isinstance(error, (pa.ArrowException, OSError))


# --- messages: their length, then msgpack


def send(channel: socket.socket, message: Message) -> None:
    """Send a message."""
    data = _encode(message)
    channel.sendall(len(data).to_bytes(HEAD_BYTES, "little") + data)


def send_task(channel: socket.socket, task: Task, fd: int) -> None:
    """Send a task and the descriptor of its file."""
    data = _encode(task)
    data = len(data).to_bytes(HEAD_BYTES, "little") + data
    sent = socket.send_fds(channel, [data], [fd])
    channel.sendall(data[sent:])


def receive_task(channel: socket.socket) -> tuple[Task, int] | None:
    """The next task and its descriptor, which the caller closes; None at the end."""
    head, fds, _, _ = socket.recv_fds(channel, HEAD_BYTES, 1)
    if not head:
        return None
    head += channel.recv(HEAD_BYTES - len(head), socket.MSG_WAITALL) if len(head) < HEAD_BYTES else b""
    data = channel.recv(int.from_bytes(head, "little"), socket.MSG_WAITALL)
    return msgspec.msgpack.decode(data, type=Task), fds[0]


_encode = msgspec.msgpack.Encoder().encode


class RowGroupTooLarge(Exception):
    """A row group is more than is read at once."""


def _read(task: Task, fd: int, channel: socket.socket) -> Message:
    file = _open(fd)
    columns = JobColumns(file.schema_arrow)
    check_row_groups(file.metadata, columns.names)
    opened = Opened(file.metadata.num_rows)
    if task.only_look:
        return opened
    send(channel, opened)
    parser = JobParser(task.guards, task.max_input_bytes, any_guard=task.any_guard)
    parser.not_jobs = task.not_jobs
    for portion in _portions(_jobs(file, columns, parser, task.from_row, task.first_number)):
        send(channel, Jobs(portion, parser.not_jobs))
    return Done()


def _open(fd: int) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    stored = pa.PythonFile(FileIO(fd, "rb", closefd=False), mode="r")
    metadata = pq.ParquetFile(stored, **FOOTER_LIMITS).metadata
    columns = {metadata.schema.column(at).path for at in range(metadata.num_columns)}
    return pq.ParquetFile(
        stored,
        metadata=metadata,
        buffer_size=MIB,  # a column is read piece by piece, and not a whole row group at once
        pre_buffer=False,
        # Many rows with one long word then hold it once.
        read_dictionary=[name for name in ("guard", "op", "tool_name", "session") if name in columns],
        **FOOTER_LIMITS,
    )


def check_row_groups(metadata: pq.FileMetaData, names: tuple[str, ...]) -> None:
    """Raise `RowGroupTooLarge` if a row group has more rows, or more bytes in columns of these names, than are read."""
    for at in range(metadata.num_row_groups):
        group = metadata.row_group(at)
        size = _size_of(group, names)
        if size > MAX_ROW_GROUP_BYTES or group.num_rows > MAX_ROW_GROUP_ROWS or group.num_rows < 0 or size < 0:
            raise RowGroupTooLarge(
                f"its row group {at} has {group.num_rows:,} rows and {size:,} bytes; at most {MAX_ROW_GROUP_ROWS:,} and "
                f"{MAX_ROW_GROUP_BYTES:,} are read: write it with smaller row groups"
            )


def _size_of(group: pq.RowGroupMetaData, names: tuple[str, ...]) -> int:
    """The unpacked size that a row group declares for the columns that are read, in bytes."""
    columns = (group.column(at) for at in range(group.num_columns))
    return sum(each.total_uncompressed_size for each in columns if each.path_in_schema.split(".")[0] in names)


def _jobs(
    file: pq.ParquetFile, columns: JobColumns, parser: JobParser, from_row: int, first_number: int
) -> Iterator[Prepared]:
    first = 0
    for at in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(at)
        number, first = first, first + group.num_rows
        if first <= from_row:
            continue
        mean = max(1, _size_of(group, columns.names) // max(1, group.num_rows))
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // mean))
        for batch in file.iter_batches(rows, row_groups=[at], columns=list(columns.names), use_threads=False):
            if number + batch.num_rows > from_row:
                skip = max(0, from_row - number)
                for place, row in enumerate(columns.rows(batch.slice(skip)), number + skip):
                    yield job_of_row(row, first_number + place, parser)
            number += batch.num_rows


def job_of_row(row: dict[str, Any], number: int, parser: JobParser) -> Prepared:
    """A row as a job, by the rules of a line of JSON with the same members."""
    for cell in row.values():
        if isinstance(cell, BadCell):
            return parser.refused(row, number, "not_json", str(cell))
    return parser.of_members(row, number)


def _portions(jobs: Iterator[Prepared]) -> Iterator[list[Row]]:
    """Jobs some at a time; where they end with an error, those before it come first."""
    portion: list[Row] = []
    size = 0
    failure = None
    try:
        for job in jobs:
            portion.append((job.id, job.guard, job.op, job.tool_name, job.payload, job.error, job.session, job.time))
            size += len(job.payload)
            if len(portion) >= _PORTION_JOBS or size >= _PORTION_BYTES:
                yield portion
                portion, size = [], 0
    except Exception as error:
        failure = error
    if portion:
        yield portion
    if failure is not None:
        raise failure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
