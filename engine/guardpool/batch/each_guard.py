"""Each job for each guard: what `guardpool label --each-guard` hands to the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guardpool.batch.pump import Source
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

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self._source = source
        self._names = tuple(names)
        self.jobs = 0

    def batches(self) -> Iterator[list[Prepared]]:
        """Portions of jobs, each as many times as long as that of the other source."""
        for portion in self._source.batches():
            jobs = [made for job in portion for made in self._for_each(job)]
            self.jobs += len(jobs)
            yield jobs

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
