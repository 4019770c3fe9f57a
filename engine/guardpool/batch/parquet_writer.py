"""Outcomes written as Parquet: lines go to the part beside the file, and a process makes columns of them meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from guardpool.batch.parquet_outcomes import IS_ALL, SIZE_BYTES, Task, Written
from guardpool.batch.writer import OutcomeWriter, encode_outcomes
from guardpool.machine import launch
from guardpool.outcomes import Outcome

_PACKAGES = ("guardpool", "msgspec", "pyarrow")
# Behind the name of the part, which holds the lines.
PRODUCT = ".parquet"


class ParquetWriter(OutcomeWriter):
    """Writes outcomes as lines, and has them made into a Parquet file. Only `end` waits for that.

    Args:
        fd: of a regular file, open for writing: the part. Stays the caller's.
        part: its path.
        encode: gives one line for each of some outcomes.
    """

    def __init__(self, fd: int, part: str, encode: Callable[[Sequence[Outcome]], bytes] = encode_outcomes) -> None:
        super().__init__(fd, encode)
        self._part = part
        self._process: subprocess.Popen[bytes] | None = None
        self._is_complete = False

    @property
    def product(self) -> str:
        """Path of the Parquet file: complete after `end`, it takes the place of the output instead of the part."""
        return f"{self._part}{PRODUCT}"

    def flush(self) -> None:
        """Write the lines that are held, and let the other process have them.

        Raises:
            OSError: they cannot be written.
        """
        super().flush()
        if self._is_complete:
            return
        if self._process is None:
            self._start()
        self._tell(self._size_now())

    def end(self) -> None:
        """Write all lines, and wait until the Parquet file is complete and on the disk.

        Raises:
            OSError: the lines or the file cannot be written. The lines stay where they are.
        """
        self.flush()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), True)
        self._tell(self._size_now() | IS_ALL)
        told = process.stdout.read()
        status = process.wait()
        if not told:
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            raise OSError(errno.EIO, f"the process that makes Parquet of them ended by {how}")
        last = msgspec.json.decode(told, type=Written)
        failure = last.failure
        if failure is None and last.rows != self.written:
            failure = f"{last.rows:,} rows were made of {self.written:,} lines"
        if failure is not None:
            raise OSError(errno.EIO, f"Parquet cannot be made of them: {failure}")
        self._is_complete = True

    def close(self) -> None:
        """End the process, and remove its file unless that has taken the output's place."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()
        with suppress(OSError):
            os.unlink(self.product)

    def _size_now(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def _start(self) -> None:
        part = os.fstat(self._fd)
        lines_fd = os.open(self._part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        out_fd = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            out_fd = os.open(self.product, flags, 0o600)
            os.fchmod(out_fd, part.st_mode & 0o7777)
            with suppress(OSError):  # only root may give a file away
                os.fchown(out_fd, part.st_uid, part.st_gid)
            task = msgspec.json.encode(Task(lines_fd, out_fd)).decode()
            self._process = subprocess.Popen(
                launch.command_with(_PACKAGES, "guardpool.batch.parquet_outcomes", task),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(lines_fd, out_fd),
                env=launch.environment(),
                bufsize=0,
            )
        finally:
            os.close(lines_fd)
            if out_fd >= 0:
                os.close(out_fd)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    def _tell(self, size: int) -> None:
        """Say how many bytes of lines there are; what does not fit into the pipe is told by the next size."""
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BlockingIOError, BrokenPipeError):  # `end` finds out why it has ended
            os.write(self._process.stdin.fileno(), size.to_bytes(SIZE_BYTES, "little"))
