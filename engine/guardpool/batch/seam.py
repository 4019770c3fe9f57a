"""The seam between a run and its files: where jobs come from, where outcomes go, and how a run that stopped goes on.

A run knows no format. It numbers the jobs that a source hands out, 0, 1, 2, ...: that number is a job's position, because ids
may repeat. What a run has finished stands in its journal as positions, beside a place in the input (`Mark`) and a place in the
output, both of which only the source and the sink can read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from guardpool.errors import CallerError
from guardpool.jobs import Prepared
from guardpool.outcomes import Outcome


class InputDiffers(CallerError):
    """What an interrupted run read of its input is not what is there now; the message says so in words that follow the
    input's name.

    Attributes:
        name: of the file that differs, where it is one of several.
    """

    name: str | None = None


class OutputDiffers(CallerError):
    """What an interrupted run wrote is not there any more; the message says so in words that follow the output's name."""


class Mark(msgspec.Struct, frozen=True):
    """A place in an input, behind some of its jobs.

    Args:
        jobs: how many jobs the source handed out before it.
        place: what the source needs to go there, and to check that all before it is as it was (a digest): JSON values.
    """

    jobs: int
    place: dict[str, Any]

    def within(self, jobs: int, **place: Any) -> Mark:
        """This mark in one of a source that reads through this one's, and has handed out so many jobs; `inner` is this one."""
        return Mark(jobs, {**place, "jobs": self.jobs, "place": self.place})

    @property
    def inner(self) -> Mark:
        """The mark that was put into this one by `within`."""
        return Mark(self.place["jobs"], self.place["place"])


class InputFile(msgspec.Struct, frozen=True):
    """One file of an input, read to its end: its name for people, and size and SHA-256 of it as it is stored."""

    name: str
    bytes: int
    sha256: str


class Source(Protocol):
    """Where jobs come from."""

    def batches(self) -> Iterator[Sequence[Prepared]]:
        """Yield the jobs in portions, in their order. Runs in a thread of the run's own."""

    def stop(self) -> None:
        """End the portions, even while one is waited for. May be called from any thread."""


class FileSource(Source, Protocol):
    """Where the jobs of a file come from; also of several files, one after the other."""

    @property
    def jobs(self) -> int:
        """Jobs handed out so far, those before the mark of `go_to` included."""

    @property
    def rows(self) -> int:
        """Lines or rows read so far, also those that give no job. For messages and the display."""

    @property
    def bytes_read(self) -> int:
        """Bytes of the stored input read so far, before they are unpacked."""

    @property
    def total_bytes(self) -> int | None:
        """Size of the stored input; None if that is not known, as of a pipe."""

    @property
    def head(self) -> bytes:
        """The first bytes, unpacked, at most 256 KiB: they tell what a file is of which no line is a job."""

    @property
    def place(self) -> tuple[str, int]:
        """The file that is read now, and how many of its lines or rows were read: for messages."""

    def mark(self) -> Mark | None:
        """The place behind the last portion of `batches`, or the beginning; None if this is not a place to go on from.

        Called in the thread that runs `batches`, behind every portion, so it must be cheap. What a run has written is safe only
        when there is a mark behind all of its jobs: a source whose portions do not all end at one ends many of them there.
        """

    def go_to(self, mark: Mark, seen: Mark) -> None:
        """Have `batches` begin at a mark of an earlier run, and look once more at a later one: some jobs between the two are
        done. Called before `batches`, in another thread.

        Args:
            mark: everything before it is compared at once.
            seen: what is between `mark` and this is compared before `batches` yields the portion that ends there or goes past
                it; then it raises as this does.

        Raises:
            InputDiffers: what stands there is not what that run read.
            OSError: it cannot be read.
        """

    def inputs(self) -> list[InputFile]:
        """The files, once they were read to their end."""

    def close(self) -> None:
        """Give back what it opened, and end the threads and processes that read; the thread that ran `batches` has ended."""


class Sink(Protocol):
    """Where outcomes go."""

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes, in the order in which they are to be written."""

    def flush(self) -> None:
        """Write what is held back, as far as the format can; a reader of a pipe waits for it."""

    @property
    def may_block(self) -> bool:
        """Whether `flush` may wait for a reader."""


class FileSink(Sink, Protocol):
    """Where the outcomes of a file go."""

    @property
    def written(self) -> int:
        """Outcomes given to the operating system so far, those before the place of `go_on_from` included."""

    @property
    def is_cut(self) -> bool:
        """A write to a pipe or a device was interrupted: how much its reader got of it is not known."""

    def make_durable(self) -> dict[str, Any]:
        """Put everything that was added on the disk (fsync).

        Called for regular files only, every second or so, and at an interruption.

        Returns:
            The place behind it, as JSON values, for `go_on_from` in another process.

        Raises:
            OSError: it cannot be written.
        """

    def go_on_from(self, place: dict[str, Any]) -> None:
        """Take back what an earlier run wrote behind a place; what is added next stands there. Called before anything is added.

        Raises:
            OutputDiffers: the place is not there.
            OSError: it cannot be written.
        """

    def end(self) -> None:
        """Everything was added: write what the format has at its end. Followed by `make_durable` for regular files.

        Raises:
            OSError: it cannot be written.
        """

    def close(self) -> None:
        """End the threads and processes that write. What was not written is dropped; the file's descriptor stays open."""

    @property
    def product(self) -> str | None:
        """Path of the finished file, if it is not the one that was written to; whole after `end`."""
