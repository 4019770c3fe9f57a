"""Each job for each guard: what `guardpool label --each-guard` hands to the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guardpool.batch.seam import FileSource, InputFile, Mark
from guardpool.jobs import Prepared


class EachGuard:
    """A source that gives every job of another source once for each guard, whichever guard the job names.

    The jobs that one job becomes follow one another in the order of the guards, with the same id. A line that is not a job
    stays one: no guard sees it.

    Args:
        source: read while this one is.
        names: the guards' names.

    Attributes:
        jobs: handed out so far.
    """

    def __init__(self, source: FileSource, names: Sequence[str]) -> None:
        self._source = source
        self._names = tuple(names)
        self.jobs = 0

    def batches(self) -> Iterator[list[Prepared]]:
        """Portions of jobs, each as many times as long as that of the other source."""
        for portion in self._source.batches():
            jobs = [made for job in portion for made in self._for_each(job)]
            self.jobs += len(jobs)
            yield jobs

    @property
    def rows(self) -> int:
        """Lines or rows of the other source read so far."""
        return self._source.rows

    @property
    def bytes_read(self) -> int:
        """Bytes of the stored input read so far."""
        return self._source.bytes_read

    @property
    def total_bytes(self) -> int | None:
        """Size of the stored input, if it is known."""
        return self._source.total_bytes

    @property
    def head(self) -> bytes:
        """The first bytes of the other source."""
        return self._source.head

    @property
    def place(self) -> tuple[str, int]:
        """Where the other source is."""
        return self._source.place

    def mark(self) -> Mark | None:
        """The place behind the last portion, if the other source has one there."""
        mark = self._source.mark()
        return None if mark is None else mark.within(self.jobs)

    def go_to(self, mark: Mark, seen: Mark) -> None:
        """Have the other source go to a mark of an earlier run; raises as it does."""
        self._source.go_to(mark.inner, seen.inner)
        self.jobs = mark.jobs

    def inputs(self) -> list[InputFile]:
        """The files of the other source."""
        return self._source.inputs()

    def close(self) -> None:
        """Close the other source."""
        self._source.close()

    def stop(self) -> None:
        """End the other source."""
        self._source.stop()

    def _for_each(self, job: Prepared) -> list[Prepared]:
        if job.error is not None:
            return [job]
        return [
            Prepared(job.id, name, job.op, job.tool_name, job.payload, None, job.session, job.time)
            for name in self._names
        ]
