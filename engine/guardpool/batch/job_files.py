"""Files of jobs read as one input, one after the other, each by its format."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Union

from guardpool.batch.binary import NotLines
from guardpool.batch.files import Input
from guardpool.batch.inputs import Found, Inputs
from guardpool.batch.jobline import JobParser
from guardpool.batch.parquet_reader import ParquetProcess, ParquetReader
from guardpool.batch.reader import JobReader
from guardpool.batch.seam import InputDiffers, InputFile, Mark
from guardpool.jobs import Prepared
from guardpool.sizes import MIB


class JobFiles:
    """Reads files of jobs, one after the other. Lines and rows are numbered through all of them, as if `cat` had joined them.

    Args:
        inputs: stay the caller's.
        parser: makes jobs of lines, and counts those that are none.
        parquet: reads what is Parquet, and stays the caller's; None: a process that ends with this.

    Attributes:
        head: the first bytes of the first file, unpacked, at most 256 KiB; empty if it is Parquet.
        total_bytes: of all files, as they are stored; None if one is a pipe.

    Raises:
        FileError: a file is Parquet that cannot be read here, or whose columns cannot be jobs.
    """

    def __init__(self, inputs: Inputs, parser: JobParser, parquet: ParquetProcess | None = None) -> None:
        self._files = inputs.files
        self._parser = parser
        self._parquet = parquet or ParquetProcess()
        self._ends_parquet = parquet is None
        self._finished = _Finished()
        self._current: _Opened | None = None  # at first none, and then always one
        self._check: Mark | None = None  # something to compare in a later file
        self._stopped = False
        self.head = b""
        self.total_bytes = inputs.total_bytes
        try:
            for each in self._files:
                if each.is_parquet:
                    opened = each.open()
                    try:
                        self._parquet.look_at(opened.fd, each.path)
                    finally:
                        each.close(opened)
        except BaseException:
            self.close()
            raise

    @property
    def jobs(self) -> int:
        """Jobs handed out so far, those before the mark of `go_to` included."""
        current = self._current
        return 0 if current is None else current.first_job + current.source.jobs

    @property
    def rows(self) -> int:
        """Lines and rows read so far, in all files."""
        current = self._current
        return 0 if current is None else current.source.rows

    @property
    def bytes_read(self) -> int:
        """Bytes read so far of all files, as they are stored."""
        current = self._current
        return 0 if current is None else current.first_byte + current.source.bytes_read

    @property
    def place(self) -> tuple[str, int]:
        """The file that is read now, and how many lines or rows of it were read."""
        current = self._current
        if current is None:
            return self._files[0].name, 0
        return current.found.name, current.source.rows - current.first_row

    def batches(self) -> Iterator[list[Prepared]]:
        """Portions of jobs; a portion never waits for the rest of a slow input.

        Raises:
            OSError: a file cannot be read, or is cut or damaged (`EBADMSG`); its name is `filename`.
            FileError: a file cannot be opened any more.
            NotLines: the first bytes of the first file say that no line can be a job.
        """
        while not self._stopped:
            current = self._open()
            try:
                for portion in current.source.batches():
                    if current.number == 0 and isinstance(current.source, JobReader):
                        self.head = current.source.head
                    yield portion
            except NotLines as error:
                if current.number == 0:
                    raise
                raise OSError(errno.EBADMSG, f"it is {error.kind.what}", current.found.name) from error
            except (OSError, InputDiffers) as error:
                _name(error, current.found)
                raise
            if self._stopped or current.number + 1 == len(self._files):
                return
            self._open_next(current)

    def stop(self) -> None:
        """End the input here, also while a read waits. May be called from any thread."""
        self._stopped = True
        current = self._current
        if current is not None:
            current.source.stop()

    def close(self) -> None:
        """End what reads, and close the files that are not the caller's."""
        if self._current is not None:
            self._current.close()
        if self._ends_parquet:
            self._parquet.end()

    def mark(self) -> Mark | None:
        """The place behind the last portion, or the beginning; None if the format has none there."""
        current = self._open()
        mark = current.source.mark()
        if mark is None:
            return None
        return mark.within(
            current.first_job + mark.jobs,
            file=current.number,
            before=current.digest_before,
            first_job=current.first_job,
            first_row=current.first_row,
        )

    def go_to(self, mark: Mark, seen: Mark) -> None:
        """Begin at a mark of an earlier run, and compare what comes up to a later one.

        Raises:
            InputDiffers: it is not what that run read.
            OSError: a file cannot be read.
            FileError: a file cannot be opened.
        """
        if self._current is not None:
            self._current.close()
            self._current = None
        place = mark.place
        self._finished = _Finished(self._stored(found) for found in self._files[: place["file"]])
        self._compare(place)
        current = self._open(place["first_job"], place["first_row"])
        is_here = seen.place["file"] == place["file"]
        try:
            current.source.go_to(mark.inner, (seen if is_here else mark).inner)
        except (OSError, InputDiffers) as error:
            _name(error, current.found)
            raise
        self._check = None if is_here else seen

    def inputs(self) -> list[InputFile]:
        """The files, once they were read to their end."""
        return [*self._finished.files, *(self._current.source.inputs() if self._current is not None else ())]

    def _open(self, first_job: int = 0, first_row: int = 0) -> _Opened:
        """The file that is read now."""
        if self._current is None:
            self._reads(self._opened(first_job, first_row))
        assert self._current is not None
        return self._current

    def _opened(self, first_job: int, first_row: int) -> _Opened:
        """The first file that is not finished."""
        number = len(self._finished.files)
        if number >= len(self._files):
            raise InputDiffers("it has fewer files than the interrupted run read")
        found, opened = self._files[number], self._files[number].open()
        source: _AnySource
        if found.is_parquet:
            source = ParquetReader(opened.fd, self._parser, found.name, self._parquet, first_row)
        else:
            source = JobReader(opened.fd, self._parser, found.name, first_row)
        before = self._finished
        return _Opened(number, found, opened, source, first_job, first_row, before.bytes, before.digest)

    def _reads(self, current: _Opened) -> None:
        """That file is read from here on. What asks from another thread finds the last one or this one."""
        self._current = current
        if self._stopped:  # it came while the file was opened
            current.source.stop()

    def _open_next(self, last: _Opened) -> None:
        self._finished.add(last.source.inputs())
        current = self._opened(self.jobs, self.rows)
        self._reads(current)
        last.close()
        check = self._check
        if check is not None and check.place["file"] == current.number:
            self._check = None
            self._compare(check.place)
            beginning = current.source.mark()
            assert beginning is not None
            try:
                current.source.go_to(beginning, check.inner)
            except (OSError, InputDiffers) as error:
                _name(error, current.found)
                raise

    def _compare(self, place: dict[str, Any]) -> None:
        if self._finished.digest != place["before"]:
            many = place["file"]
            files = "file is not the one" if many == 1 else f"{many:,} files are not those"
            raise InputDiffers(f"its first {files} that the interrupted run read")

    def _stored(self, found: Found) -> InputFile:
        """A file as it is stored."""
        digest, size = hashlib.sha256(), 0
        opened = found.open()
        try:
            with open(opened.fd, "rb", buffering=0, closefd=False) as file:
                while data := file.read(MIB):
                    digest.update(data)
                    size += len(data)
        finally:
            found.close(opened)
        return InputFile(found.name, size, digest.hexdigest())


_AnySource = Union[JobReader, ParquetReader]


class _Finished:
    """Files that were read to their end. Each is counted once, however many follow: an input may be thousands of files.

    Attributes:
        files: the files, in their order.
        bytes: of all of them, as they are stored.
    """

    def __init__(self, files: Iterable[InputFile] = ()) -> None:
        self.files: list[InputFile] = []
        self.bytes = 0
        self._digest = hashlib.sha256()
        self.add(files)

    def add(self, files: Iterable[InputFile]) -> None:
        for file in files:
            self.files.append(file)
            self.bytes += file.bytes
            self._digest.update(f"{file.bytes} {file.sha256}\n".encode())

    @property
    def digest(self) -> str:
        """One digest for all of them, whatever they are called."""
        return self._digest.hexdigest()


class _Opened:
    """A file that is read: what reads it, and what of the whole input stands before it."""

    def __init__(
        self,
        number: int,
        found: Found,
        opened: Input,
        source: _AnySource,
        first_job: int,
        first_row: int,
        first_byte: int,
        digest_before: str,
    ) -> None:
        self.number = number
        self.found = found
        self.source = source
        self.first_job = first_job
        self.first_row = first_row
        self.first_byte = first_byte
        self.digest_before = digest_before
        self._opened = opened

    def close(self) -> None:
        self.source.close()
        self.found.close(self._opened)


def _name(error: OSError | InputDiffers, found: Found) -> None:
    """Have an error tell which of the files it is about."""
    if isinstance(error, InputDiffers):
        error.name = found.name
    else:
        error.filename = found.name
