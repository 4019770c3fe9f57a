"""`label_file`: a file of jobs in, a file of outcomes out. It is what `guardpool label` calls."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Union

from guardpool.batch.each_guard import EachGuard
from guardpool.batch.files import FileError, Input, Output
from guardpool.batch.formats import sink_of, source_of
from guardpool.batch.jobline import JobParser
from guardpool.batch.manifest import ManifestHash
from guardpool.batch.pump import Pump
from guardpool.batch.seam import FileSink, FileSource
from guardpool.batch.signals import Signals
from guardpool.guard import Guard
from guardpool.limits import Limits
from guardpool.outcomes import Outcome, Status
from guardpool.pool import GuardPool
from guardpool.stats import PoolStats

if TYPE_CHECKING:
    from guardpool.artifacts.cache import ModuleCache

AnyPath = Union[str, os.PathLike[str]]


def label_file(
    jobs: AnyPath | Input,
    out: AnyPath | Output,
    guards: Sequence[Guard],
    *,
    ordered: bool = True,
    each_guard: bool = False,
    timing: bool = True,
    hash_labels: bool = False,
    progress: Callable[[LabelRun], object] | None = None,
    signals: Signals | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    sandbox: str = "auto",
    cache: ModuleCache | AnyPath | None = None,
    log_level: str = "warning",
    engine: str = "auto",
    deterministic: bool = False,
) -> LabelRun:
    """Label a file of jobs: one outcome for each, always.

    What is written goes to `OUT.part`, beside the file, and takes the file's place when it is complete; a pipe or a device is
    written directly. A line that is not a job gives a `rejected` outcome and stops nothing.

    Args:
        jobs: a file of jobs, one JSON object a line; `-` is standard input.
        out: where the outcomes go; `-` is standard output.
        guards: as for `GuardPool`.
        ordered: outcomes in the order of the jobs, or as they come.
        each_guard: label each job with each guard, whichever it names.
        timing: write `duration_us`, which differs from run to run.
        hash_labels: make the hash over all labels (`LabelRun.label_hash`).
        progress: called when the pool has started, before the first job is read, and then about ten times a second.
        signals: entered already; the first signal then ends the run after what is in the guards. None: Ctrl-C ends it at once.
        workers, limits, sandbox, cache, log_level, engine, deterministic: as for `GuardPool`.

    Returns:
        What became of the jobs.

    Raises:
        FileError: a file cannot be read or written; the message names it.
        NotLines: the input's first bytes say that no line can be a job.
        Stopped: a signal ended the run.
        GuardPoolError: the pool cannot be made, or gave up. However the run ends, whole outcomes only are in the output.
    """
    with ExitStack() as stack:
        if not isinstance(jobs, Input):
            jobs = Input(os.fspath(jobs))
            stack.callback(jobs.close)
        if not isinstance(out, Output):
            out = Output(os.fspath(out), "the outcomes")
            stack.callback(out.close)
        limits = Limits() if limits is None else limits
        run = LabelRun(jobs, out, [guard.name for guard in guards], limits, each_guard, hash_labels)
        with GuardPool(
            guards,
            workers=workers,
            limits=limits,
            sandbox=sandbox,
            cache=cache,
            log_level=log_level,
            engine=engine,
            deterministic=deterministic,
        ) as pool:
            out.begin()
            run._label(pool, sink_of(out, timing=timing), ordered, progress or _ignore, signals or Signals())
        return run


class LabelRun:
    """How a run of `label_file` stands, while it runs and afterwards. Made by `label_file`.

    Attributes:
        jobs: the input's name.
        out: the output.
        source: where the jobs come from; how much of them was read.
        stats: the pool's, when the run ended.
        reading_failed: the input, not the output, could not be used.
    """

    def __init__(
        self, jobs: Input, out: Output, names: Sequence[str], limits: Limits, each_guard: bool, hash_labels: bool
    ) -> None:
        self.jobs = jobs.path
        self.out = out
        self.stats: PoolStats | None = None
        self.reading_failed = False
        self._limits = limits
        self._parser = JobParser(names, limits.max_input_bytes, any_guard=each_guard)
        self._reader = source_of(jobs, self._parser)
        self.source: FileSource = EachGuard(self._reader, names) if each_guard else self._reader
        self._hash = ManifestHash() if hash_labels else None
        self._pump: Pump | None = None
        self._sink: FileSink | None = None
        self._began_s = self._ended_s = 0.0

    # --- how it stands

    @property
    def done(self) -> int:
        """Jobs that have an outcome, or did not run because the run ended."""
        return 0 if self._pump is None else self._pump.taken

    @property
    def counts(self) -> Counter[Status]:
        """Outcomes by status; a job that did not run is not among them."""
        return Counter() if self._pump is None else self._pump.counts

    @property
    def failed(self) -> int:
        """Outcomes that are not `ok`."""
        return self.done - self.counts[Status.OK]

    @property
    def examples(self) -> Mapping[Status, Outcome]:
        """The first outcome of each status but `ok`."""
        return {} if self._pump is None else self._pump.examples

    @property
    def unanswered(self) -> Mapping[str | None, Outcome]:
        """Of each guard whose questions had no answer, the first such outcome."""
        return {} if self._pump is None else self._pump.unanswered

    @property
    def written(self) -> int:
        """Outcomes in the output."""
        return 0 if self._sink is None else self._sink.written

    @property
    def is_cut(self) -> bool:
        """A write to a pipe or a device was interrupted: how much its reader got of it is not known."""
        return self._sink is not None and self._sink.is_cut

    @property
    def part(self) -> float | None:
        """How much of the input is done, 0 to 1; None if its size is not known. How many jobs are in the part that was not
        read yet is guessed by its size."""
        source = self.source
        if source.total_bytes is None:
            return None
        if not source.total_bytes or not source.jobs:
            return 0.0
        return min(1.0, source.bytes_read / source.total_bytes) * min(1.0, self.done / source.jobs)

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first read to the last outcome, or to now."""
        return (self._ended_s or time.monotonic()) - self._began_s if self._began_s else 0.0

    @property
    def lines(self) -> int:
        """Lines of the input that are not blank."""
        return self._reader.jobs

    @property
    def not_jobs(self) -> int:
        """Lines that were rejected for what they are."""
        return self._parser.not_jobs

    @property
    def holds_no_job(self) -> bool:
        """The input has lines, and none of them is a job."""
        return 0 < self.lines == self.not_jobs

    @property
    def label_hash(self) -> str | None:
        """The hash over all labels so far (`guardpool.batch.ManifestHash`), if it was asked for."""
        return None if self._hash is None else self._hash.hexdigest()

    # --- the work

    def _label(
        self,
        pool: GuardPool,
        sink: FileSink,
        ordered: bool,
        progress: Callable[[LabelRun], object],
        signals: Signals,
    ) -> None:
        self._sink = sink
        self._pump = pump = Pump(
            pool.stream(ordered),
            self.source,
            sink,
            kill=pool.kill,
            timeout_s=self._limits.timeout_s,
            also=None if self._hash is None else self._hash.add,
        )
        progress(self)
        self._began_s = time.monotonic()
        try:
            pump.run(signals, lambda _pump: progress(self))
            sink.end()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._name_the_file(error, pump, sink) from error
        finally:
            self._ended_s = time.monotonic()
            pool.flush_logs()
            self.stats = pool.stats()
        if not (self.holds_no_job and self.out.replaces):
            self.out.finish()

    def _name_the_file(self, error: OSError, pump: Pump, sink: FileSink) -> FileError:
        if error is pump.feed_error:
            self.reading_failed = True
            return FileError.of(self.jobs, f"the jobs cannot be read{_after(self.source.rows)}", error)
        what = f"the outcomes cannot be written{_after(sink.written)}"
        return FileError.of(self.out.written_path, what, error)


def _after(lines: int) -> str:
    return f" after line {lines}" if lines else ""


def _ignore(_run: LabelRun) -> None:
    pass
