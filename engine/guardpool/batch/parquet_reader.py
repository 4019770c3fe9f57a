"""Jobs read from Parquet files, by a process of its own: `guardpool.batch.parquet_jobs`."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from importlib.util import find_spec

import msgspec

from guardpool.batch.files import FileError
from guardpool.batch.jobline import JobParser
from guardpool.batch.parquet_jobs import HEAD_BYTES, MEMORY_BYTES, Done, Failed, Jobs, Message, Opened, Task, send_task
from guardpool.batch.seam import InputDiffers, InputFile, Mark
from guardpool.jobs import Prepared
from guardpool.machine import launch
from guardpool.sizes import MIB

_PACKAGES = ("guardpool", "msgspec", "pyarrow")
_HASH_BYTES = MIB
# A message holds one job at least, whatever its size, and a few MiB of others before it.
_MESSAGE_SLACK_BYTES = 16 * MIB
_LOOK_BYTES = MIB


class NoJobsInside(FileError):
    """A Parquet file whose columns cannot be jobs."""

    exit_status_of_command = 4


class ParquetProcess:
    """The process that reads Parquet files for a run, one after the other. It is started when it is first needed.

    Args:
        memory_bytes: what it may take besides its code.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._is_busy = False
        self._most = 0
        self._decode = msgspec.msgpack.Decoder(Message).decode

    def look_at(self, fd: int, name: str) -> int:
        """How many rows a file has.

        Raises:
            FileError: pyarrow is not installed, or the file cannot be read as jobs; the message begins with `name`.
        """
        check_pyarrow(name)
        self.begin(Task(only_look=True), fd, _LOOK_BYTES)
        message = self.next_message()
        if isinstance(message, Opened):
            self._is_busy = False
            return message.rows
        assert isinstance(message, Failed)
        kind = NoJobsInside if message.is_callers else FileError
        raise kind(f"{name}: the jobs cannot be read: {message.message}")

    def begin(self, task: Task, fd: int, max_message_bytes: int) -> None:
        """Have a file read; a file that is read yet is dropped."""
        if self._is_busy:
            self.end()
        self.start()
        assert self._channel is not None
        self._most = max_message_bytes
        self._is_busy = True
        try:
            send_task(self._channel, task, fd)
        except OSError:
            pass  # `next_message` says why it has ended

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._process is None:
            ours, theirs = socket.socketpair()
            with theirs:
                self._channel = ours
                self._process = subprocess.Popen(
                    launch.command_with(_PACKAGES, "guardpool.batch.parquet_jobs", str(self._memory_bytes)),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=launch.environment(),
                )

    def next_message(self, wake_fd: int | None = None) -> Message | None:
        """The next message about the file; None if a byte came on `wake_fd` first."""
        head = self._read(HEAD_BYTES, wake_fd)
        data = None
        if head is not None:
            size = int.from_bytes(head, "little")
            if len(head) < HEAD_BYTES or size > self._most:
                return self._how_it_ended()
            data = self._read(size, wake_fd)
            if data is not None and len(data) < size:
                return self._how_it_ended()
        if data is None:
            return None
        try:
            message: Message = self._decode(data)
        except msgspec.DecodeError:
            return self._how_it_ended()
        if isinstance(message, (Done, Failed)):
            self._is_busy = False
        return message

    def end(self) -> None:
        """Kill it."""
        process, self._process = self._process, None
        self._is_busy = False
        if process is not None:
            process.kill()
            process.wait()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _read(self, size: int, wake_fd: int | None) -> bytes | None:
        """So many bytes, or fewer at the end; None if it was woken."""
        assert self._channel is not None
        ready = select.poll()  # `select.select` takes no descriptor over 1,023
        for fd in (self._channel.fileno(), wake_fd):
            if fd is not None:
                ready.register(fd, select.POLLIN)
        data = bytearray()
        while len(data) < size:
            if wake_fd in dict(ready.poll()):
                return None
            try:
                part = self._channel.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                break
            data += part
        return bytes(data)

    def _how_it_ended(self) -> Failed:
        assert self._process is not None
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            status = 0  # it is there, and sends what is no message
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        self.end()
        return Failed(f"the process that reads it ended by {how}: it is damaged, or unpacks to more than it may")


class ParquetReader:
    """Reads the rows of a Parquet file as jobs, each row one. `guardpool.batch.job_columns` says which columns there may be.

    Args:
        fd: of a regular file that was looked at (`ParquetProcess.look_at`), open for reading; stays the caller's.
        parser: whose guards and limits hold, and which counts rows that are not jobs.
        name: of the file, for messages and the manifest.
        process: reads it; stays the caller's.
        first_row: the number of the first row.

    Attributes:
        jobs: jobs handed out so far.
        rows: the number of the next row.
        total_bytes: size of the file.
        head: empty: no bytes of it are text.
    """

    def __init__(self, fd: int, parser: JobParser, name: str, process: ParquetProcess, first_row: int = 0) -> None:
        self.total_bytes: int | None = os.fstat(fd).st_size
        self.jobs = 0
        self.rows = self._first_row = first_row
        self.head = b""
        self._fd = fd
        self._parser = parser
        self._name = name
        self._process = process
        self._total_rows = 0
        self._stopped = False
        self._wake_r, self._wake_w = os.pipe()
        self._digest = _Digest(fd)
        self._digest.thread.start()

    @property
    def bytes_read(self) -> int:
        """How much of the file was read, going by its rows."""
        assert self.total_bytes is not None
        rows = self.rows - self._first_row
        return int(self.total_bytes * rows / self._total_rows) if self._total_rows else 0

    def batches(self) -> Iterator[list[Prepared]]:
        """Portions of jobs.

        Raises:
            OSError: the file is damaged, or takes too much memory (`EBADMSG`); its name is `filename`.
        """
        parser = self._parser
        task = Task(
            guards=list(parser.guards),
            max_input_bytes=parser.max_input_bytes,
            any_guard=parser.any_guard,
            from_row=self.rows - self._first_row,
            first_number=self._first_row,
            not_jobs=parser.not_jobs,
        )
        self._process.begin(task, self._fd, parser.max_line_bytes + _MESSAGE_SLACK_BYTES)
        while not self._stopped:
            message = self._process.next_message(self._wake_r)
            if isinstance(message, Opened):
                self._total_rows = message.rows
            elif isinstance(message, Jobs):
                self.jobs += len(message.jobs)
                self.rows += len(message.jobs)
                parser.not_jobs = message.not_jobs
                yield [Prepared(*row) for row in message.jobs]
            elif isinstance(message, Failed):
                raise OSError(errno.EBADMSG, message.message, self._name)
            else:
                return

    def stop(self) -> None:
        """End the portions, also while one is waited for. May be called from any thread."""
        self._stopped = True
        os.write(self._wake_w, b"x")

    def close(self) -> None:
        """End the thread that makes the digest; descriptor and process stay the caller's."""
        self._stopped = self._digest.stopped = True
        self._digest.thread.join()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def mark(self) -> Mark | None:
        """The place behind the last portion, from when the digest of the whole file is known; or the beginning."""
        if self._digest.hex is None and self.rows > self._first_row:
            return None
        place = {"rows": self.rows, "sha256": self._digest.hex, "not_jobs": self._parser.not_jobs}
        return Mark(self.jobs, place)

    def go_to(self, mark: Mark, seen: Mark) -> None:
        """Begin at a mark of an earlier run. The whole file is compared at once.

        Raises:
            InputDiffers: the file is not the one which that run read.
        """
        self._digest.thread.join()
        if {mark.place["sha256"], seen.place["sha256"]} - {None, self._digest.hex}:
            raise InputDiffers("it is not the file that the interrupted run read")
        self.jobs, self.rows, self._parser.not_jobs = mark.jobs, mark.place["rows"], mark.place["not_jobs"]

    def inputs(self) -> list[InputFile]:
        """What was read, as one file."""
        self._digest.thread.join()
        return [InputFile(self._name, self.total_bytes or 0, self._digest.hex or "")]


def check_pyarrow(name: str) -> None:
    """Make sure that Parquet can be read and written here, without loading what does it.

    Raises:
        FileError: pyarrow is not installed; the message begins with `name` and says what to type.
    """
    if find_spec("pyarrow") is None:
        raise FileError(f"{name}: Parquet needs pyarrow: run: pip install 'guardpool[arrow]'")


class _Digest:
    """SHA-256 of a whole file, made in a thread while the file is read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.hex: str | None = None
        self.stopped = False
        self.thread = threading.Thread(target=self._run, name="guardpool-digest", daemon=True)

    def _run(self) -> None:
        digest = hashlib.sha256()
        at = 0
        while not self.stopped:
            try:
                data = os.pread(self._fd, _HASH_BYTES, at)
            except OSError:
                return  # what reads the file says so
            if not data:
                self.hex = digest.hexdigest()
                return
            digest.update(data)
            at += len(data)
