"""`label_file`: a file of jobs in, a file of outcomes out. It is what `guardpool label` calls."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Union

from guardpool.batch import journal as journals, manifest_file
from guardpool.batch.begun_sessions import BegunSessions
from guardpool.batch.checkpoints import Checkpoints, Facts
from guardpool.batch.each_guard import EachGuard
from guardpool.batch.files import PART, STANDARD, FileError, Output
from guardpool.batch.formats import PACKS, check_output, is_parquet, sink_of
from guardpool.batch.glancing import GlancingParser
from guardpool.batch.identity import RunIdentity
from guardpool.batch.inputs import Inputs
from guardpool.batch.job_files import JobFiles
from guardpool.batch.jobline import JobParser
from guardpool.batch.journal import Journal, Record
from guardpool.batch.kept_labels import KeptLabels
from guardpool.batch.kept_use import Keeper, Keys
from guardpool.batch.ledger import Ledger
from guardpool.batch.manifest import ManifestHash
from guardpool.batch.manifest_file import ManifestFile, manifest_of
from guardpool.batch.parquet_writer import PRODUCT
from guardpool.batch.pump import Pump, Stream
from guardpool.batch.reuse import Reuse
from guardpool.batch.seam import FileSink, FileSource, InputDiffers, Mark, OutputDiffers, Source
from guardpool.batch.signals import Signals
from guardpool.batch.timings import Timings
from guardpool.errors import CallerError, check_kind
from guardpool.guard import Guard
from guardpool.jobs import Prepared
from guardpool.limits import Limits
from guardpool.outcomes import Outcome, Status
from guardpool.pool import GuardPool, checked_guards
from guardpool.stats import PoolStats

if TYPE_CHECKING:
    from guardpool.artifacts.cache import ModuleCache

AnyPath = Union[str, os.PathLike[str]]

# How long the thread that reads may take to end when it has been told to.
_JOIN_S = 5.0


def label_file(
    jobs: AnyPath | Sequence[AnyPath] | Inputs,
    out: AnyPath | Output,
    guards: Sequence[Guard],
    *,
    ordered: bool = True,
    each_guard: bool = False,
    timing: bool = True,
    resume: bool = False,
    keep_labels: AnyPath | None = None,
    dedupe: bool = False,
    hash_labels: bool = False,
    watch: Callable[[Sequence[Prepared]], object] | None = None,
    progress: Callable[[LabelRun], object] | None = None,
    signals: Signals | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    sandbox: str = "auto",
    cache: ModuleCache | AnyPath | None = None,
    log_level: str = "warning",
    engine: str = "auto",
    isolation: str = "none",
    deterministic: bool = False,
) -> LabelRun:
    """Label a file of jobs: one outcome for each, always.

    What is written goes to `OUT.part`, beside the file, and takes the file's place when it is complete; a pipe or a device is
    written directly. Beside a file `OUT.manifest.json` tells what it was made of, and while the run goes on `OUT.part.journal`
    holds how far it is. A line that is not a job gives a `rejected` outcome and stops nothing.

    Args:
        jobs: files of jobs, read one after the other: lines of JSON, also as gzip or zstd, or Parquet
            (`guardpool.batch.job_columns` says which columns); a folder means the files of jobs below it but the output, and
            globs are taken; `-` is standard input. Formats are told by content.
        out: where the outcomes go; `-` is standard output. `.gz`, `.zst` or `.parquet` at its end says the format
            (`guardpool.arrow.table` says which columns), anything else means lines.
        guards: as for `GuardPool`.
        ordered: outcomes in the order of the jobs, or as they come.
        each_guard: label each job with each guard, whichever it names.
        timing: write `duration_us`, which differs from run to run.
        resume: go on where an interrupted run to the same output stopped, however it was stopped; begin anew if there is none.
            Every job has its outcome once, with `ordered=False`, too.
        keep_labels: a file of kept labels, made if it is not there: a job whose label is in it takes that one, and labels that
            are made are kept there. Its guard must be one whose labels do not depend on the order of its jobs. Several runs may
            use one file at the same time. See `guardpool.batch.reuse` for which labels are kept and which count.
        dedupe: label jobs that are equal for their guard once. Outcomes with another job's label, or a kept one, have
            `duration_us` and `attempts` 0.
        hash_labels: make the hash over all labels (`LabelRun.label_hash`).
        watch: called with the jobs that are about to be labelled, a portion at a time, on the thread that reads them. With
            `keep_labels` or `dedupe` they have no payload yet.
        progress: called when the pool has started, before the first job is read, and then about ten times a second.
        signals: entered already; the first signal then ends the run after what is in the guards. None: Ctrl-C ends it at once.
        workers, limits, sandbox, cache, log_level, engine, isolation, deterministic: as for `GuardPool`.

    Returns:
        What became of the jobs.

    Raises:
        FileError: a file cannot be read or written; the message names it.
        KeptLabelsError: the file of kept labels is not ours, not private, of another version, or something else.
        NotLines: the input's first bytes say that no line can be a job.
        CannotResume: the interrupted run had another guard, policy or engine, or read another input; nothing was changed.
        Stopped: a signal ended the run.
        GuardPoolError: the pool cannot be made, or gave up. However the run ends, whole outcomes only are in the output.
    """
    if isinstance(guards, Guard):
        raise CallerError("guards must be a sequence of Guard, e.g. label_file(jobs, out, [guard])")
    guards = checked_guards(guards)
    limits = Limits() if limits is None else limits
    check_kind("limits", limits, Limits, "Limits(...)")
    identity = RunIdentity.of(
        guards,
        engine,
        ordered=ordered,
        each_guard=each_guard,
        timing=timing,
        isolation=isolation,
        deterministic=deterministic,
    )
    with ExitStack() as stack:
        jobs = _inputs(stack, jobs, out)
        out = _output(stack, out)
        _refuse_clashes(jobs, out, keep_labels)
        reuse = _reuse(stack, keep_labels, dedupe)
        run = LabelRun(jobs, out, identity, limits, each_guard, hash_labels, reuse, watch)
        stack.callback(run._close)
        if resume:
            run._resume()
        with GuardPool(
            guards,
            workers=workers,
            limits=limits,
            sandbox=sandbox,
            cache=cache,
            log_level=log_level,
            engine=engine,
            isolation=isolation,
            deterministic=deterministic,
            witness=None if keep_labels is None else reuse,
        ) as pool:
            run._label(pool, sink_of(out, timing=timing), progress or _ignore, signals or Signals())
        return run


def _inputs(stack: ExitStack, jobs: AnyPath | Sequence[AnyPath] | Inputs, out: AnyPath | Output) -> Inputs:
    """The input; closed by `stack` unless the caller opened it. A folder or a glob in it does not mean what the run writes."""
    if isinstance(jobs, Inputs):
        return jobs
    check_kind("jobs", jobs, (str, os.PathLike, Iterable), "a path or paths")
    paths = [jobs] if isinstance(jobs, (str, os.PathLike)) else list(jobs)
    if not paths:
        raise CallerError("label_file takes at least one file of jobs")
    for path in paths:
        check_kind("each of the jobs", path, (str, os.PathLike), "a path")
    inputs = Inputs([os.fspath(path) for path in paths], leave_out=written_for(out))
    stack.callback(inputs.close)
    return inputs


def _output(stack: ExitStack, out: AnyPath | Output) -> Output:
    """The output, in a format that can be written; closed by `stack` unless the caller opened it."""
    if not isinstance(out, Output):
        check_kind("out", out, (str, os.PathLike), "a path")
        out = Output(os.fspath(out), "the outcomes", packs=PACKS)
        stack.callback(out.close)
    check_output(out)
    return out


def _refuse_clashes(jobs: Inputs, out: Output, keep_labels: AnyPath | None) -> None:
    """Raise FileError if the output would take the place of a file of jobs, or of the kept labels."""
    for each in jobs.files:
        out.refuse(each.status, each.name)
    if keep_labels is not None and os.path.realpath(keep_labels) in written_for(out):
        raise FileError(
            f"{os.fspath(keep_labels)}: the output would take the place of the kept labels: choose another file"
        )


def _reuse(stack: ExitStack, keep_labels: AnyPath | None, dedupe: bool) -> Reuse | None:
    """What finds labels that need not be made, if any are wanted.

    The file of kept labels is closed by `stack`, which must close the pool before.
    """
    if keep_labels is None:
        return Reuse(None, None, dedupe) if dedupe else None
    reading = KeptLabels(keep_labels)
    stack.callback(reading.close)
    keeper = Keeper(KeptLabels(keep_labels))
    stack.callback(keeper.close)
    return Reuse(reading, keeper, dedupe)


def read_jobs(jobs: Inputs, names: Sequence[str], limits: Limits, *, each_guard: bool) -> Iterator[Sequence[Prepared]]:
    """Jobs, without labelling any, a portion at a time; lines that are no jobs among them.

    Args:
        jobs: where they come from; closed by the caller.
        names: the guards'.
        limits: a longer input is rejected.
        each_guard: each job for each guard.

    Raises:
        OSError, NotLines: it cannot be read.
    """
    source = JobFiles(jobs, JobParser(names, limits.max_input_bytes, any_guard=each_guard))
    try:
        yield from (EachGuard(source, names) if each_guard else source).batches()
    finally:
        source.close()


class CannotResume(CallerError):
    """An interrupted run cannot be gone on with; the message says why. What it left is as it was."""


def companions_of(out: Output) -> list[str]:
    """The files that are written beside an output and its part."""
    return [] if out.target is None else _beside(out.target, has_product=is_parquet(out))


def written_for(out: AnyPath | Output) -> list[str]:
    """The files that a run to this output may write, there or not."""
    if isinstance(out, Output):
        target = out.target
    else:
        target = None if os.fspath(out) == STANDARD else os.path.realpath(out)
    return [] if target is None else [target, f"{target}{PART}", *_beside(target, has_product=True)]


def _beside(target: str, *, has_product: bool) -> list[str]:
    part = f"{target}{PART}"
    names = [f"{part}{journals.SUFFIX}", f"{target}{manifest_file.SUFFIX}"]
    return [*names, f"{part}{PRODUCT}"] if has_product else names


class LabelRun:
    """How a run of `label_file` stands, while it runs and afterwards. Made by `label_file`.

    Attributes:
        jobs: the input's name.
        out: the output.
        source: where the jobs come from; how much of them was read.
        stats: the pool's, when the run ended.
        timings: how long jobs took in their guards, in this run.
        reading_failed: the input, not the output, could not be used.
        reuse: finds labels that need not be made; None: all are made.
        resumed: outcomes that an interrupted run had written, which are not written again; they count in all other figures.
    """

    def __init__(
        self,
        jobs: Inputs,
        out: Output,
        identity: RunIdentity,
        limits: Limits,
        each_guard: bool,
        hash_labels: bool,
        reuse: Reuse | None,
        watch: Callable[[Sequence[Prepared]], object] | None,
    ) -> None:
        names = [guard.name for guard in identity.guards]
        self.jobs = jobs.path
        self.out = out
        self.stats: PoolStats | None = None
        self.reading_failed = False
        self.resumed = 0
        self.reuse = reuse
        self._identity = identity
        self._limits = limits
        # What `EachGuard` hands out has its payload.
        parser = JobParser if reuse is None or each_guard else GlancingParser
        self._parser = parser(names, limits.max_input_bytes, any_guard=each_guard)
        self._reader = JobFiles(jobs, self._parser)
        self.source: FileSource = EachGuard(self._reader, names) if each_guard else self._reader
        self._hash = ManifestHash() if hash_labels else None
        self._watch = watch
        self.timings = Timings()
        self._pump: Pump | None = None
        self._sink: FileSink | None = None
        self._began_s = self._ended_s = 0.0
        self._runs = [time.time()]
        self._journal = None if out.part is None else Journal(out.part, identity)
        self._before: Record | None = None  # where the run goes on
        self._sessions = BegunSessions()

    # --- how it stands

    @property
    def done(self) -> int:
        """Jobs that have an outcome, or did not run because the run ended."""
        return self.resumed + (0 if self._pump is None else self._pump.taken)

    @property
    def counts(self) -> Counter[Status]:
        """Outcomes by status; a job that did not run is not among them."""
        return Counter() if self._pump is None else self._pump.counts

    @property
    def given(self) -> int:
        """Outcomes whose label no guard had to make: it was kept, or the job equals another one."""
        return 0 if self.reuse is None else self.reuse.from_file + self.reuse.from_run

    @property
    def given_share(self) -> float:
        """How much of what this run has done that is, 0 to 1."""
        return self.given / max(1, self.done - self.resumed)

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
        """The first outcome of each guard for which a question had no answer."""
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
        """Seconds from the first read of this run to its last outcome, or to now."""
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

    def _resume(self) -> None:
        """Find out where an interrupted run stopped, and go there in the input. Nothing is changed."""
        if self._journal is None:
            raise CannotResume(f"{self.out.path}: only a file can be gone on with, not a pipe or a device")
        is_new = self.out.is_new
        self.out.begin(keep=True)
        found = None if is_new else self._journal.read()
        if found is None:
            return
        run, record = found
        difference = self._identity.difference(run)
        if difference is None and self._hash is not None and record.label_sum is None:
            difference = "the hash over all labels (--stats) is asked for, and the interrupted run did not make it"
            difference += ": leave it out to go on"
        if difference is not None:
            raise self._cannot(difference)
        try:
            self.source.go_to(record.mark, record.seen)
        except InputDiffers as error:
            raise self._other_input(error) from error
        except OSError as error:
            raise FileError.of(error.filename or self.jobs, "the jobs cannot be read", error) from error
        self._before = record
        self._sessions = BegunSessions(record.sessions)

    def _cannot(self, why: str) -> CannotResume:
        return CannotResume(f"{self.out.written_path}: the run cannot go on: {why}")

    def _other_input(self, error: InputDiffers) -> CannotResume:
        return CannotResume(f"{error.name or self.jobs}: the run cannot go on: {error}")

    def _label(self, pool: GuardPool, sink: FileSink, progress: Callable[[LabelRun], object], signals: Signals) -> None:
        self._sink = sink
        ledger = self._begin(sink)
        journal = self._journal
        of_pool = pool.stream(self._identity.ordered)
        stream: Stream = of_pool
        if self.reuse is not None:
            keys = Keys(self._identity, self._limits, pool.agents)
            write = self._parser.write if isinstance(self._parser, GlancingParser) else None
            self.reuse.begin(pool, of_pool, keys, write, self._limits.backend_timeout_s)
            stream = self.reuse
        self._pump = pump = Pump(
            stream,
            self._watched(self.source if journal is None else _Remaining(self.source, ledger, self._sessions)),
            sink,
            kill=pool.kill,
            timeout_s=self._limits.timeout_s,
            told=None if journal is None else self._sessions.written,
            also=self._note,
            done=None if journal is None else ledger.finish,
            checkpoint=None if journal is None else Checkpoints(journal, ledger, sink, self._facts),
        )
        if self._before is not None:
            pump.counts.update({Status(word): count for word, count in self._before.counts.items()})
        progress(self)
        self._began_s = time.monotonic()
        try:
            pump.run(signals, lambda _pump: progress(self))
            sink.end()
            self._finish(sink)
        except BrokenPipeError:
            raise
        except InputDiffers as error:
            raise self._other_input(error) from error
        except FileError as error:
            self.reading_failed = error is pump.feed_error
            raise
        except OSError as error:
            raise self._name_the_file(error, pump, sink) from error
        finally:
            self._ended_s = time.monotonic()
            pool.flush_logs()
            self.stats = pool.stats()

    def _watched(self, source: Source) -> Source:
        return source if self._watch is None else _Watched(source, self._watch)

    def _begin(self, sink: FileSink) -> Ledger:
        """Begin the output, or go on with it."""
        record = self._before
        try:
            if record is None:
                self.out.begin(keep=True)  # its lock keeps other runs away from here on
                if self._journal is not None:
                    self._journal.remove()  # before what it tells of goes
                self.out.empty()
                return Ledger(self.source.mark() or Mark(0, {}))
            sink.go_on_from(record.place)
        except OutputDiffers as error:
            raise self._cannot(str(error)) from error
        except OSError as error:
            raise FileError.of(self.out.written_path, "the outcomes cannot be written", error) from error
        self.resumed = sum(record.counts.values())
        self._runs = [*record.runs, *self._runs]
        if self._hash is not None and record.label_sum is not None:
            self._hash.go_on_from(record.label_sum)
        return Ledger(record.mark, record.done, record.seen)

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        self.timings.add(outcomes)
        if self._hash is not None:
            self._hash.add(outcomes)

    def _facts(self) -> Facts:
        counts = {status.value: count for status, count in self.counts.items()}
        label_sum = None if self._hash is None else self._hash.state()
        return Facts(counts, label_sum, self._all_elapsed_s(), self._runs, self._sessions.state())

    def _finish(self, sink: FileSink) -> None:
        """Everything is written: it takes the file's place."""
        if self._journal is None:
            self.out.finish(sink.product)
            return
        assert self.out.target is not None
        sink.make_durable()
        if self.holds_no_job and self.out.replaces:
            self._journal.remove()
            return
        facts = self._facts()
        manifest = ManifestFile(self.out.target)
        manifest.write(
            manifest_of(
                self._identity,
                self._limits,
                inputs=self.source.inputs(),
                out=self.out.target,
                out_bytes=os.stat(sink.product or self.out.fd).st_size,
                counts=facts.counts,
                label_hash=self.label_hash,
                runs=facts.runs,
                elapsed_s=facts.elapsed_s,
                ended=time.time(),
            )
        )
        self.out.finish(sink.product)
        manifest.finish()
        self._journal.remove()

    def _all_elapsed_s(self) -> float:
        return self.elapsed_s + (0.0 if self._before is None else self._before.elapsed_s)

    def _close(self) -> None:
        """Give back what was opened; the pool is closed."""
        if self._pump is None or self._pump.join(_JOIN_S):
            self.source.close()
        if self._sink is not None:
            self._sink.close()
        if self._journal is not None:
            self._journal.close()

    def _name_the_file(self, error: OSError, pump: Pump, sink: FileSink) -> FileError:
        if error is pump.feed_error:
            self.reading_failed = True
            name, rows = self.source.place
            return FileError.of(name, f"the jobs cannot be read{_after(rows)}", error)
        what = f"the outcomes cannot be written{_after(sink.written)}"
        return FileError.of(self.out.written_path, what, error)


def _after(lines: int) -> str:
    return f" after line {lines}" if lines else ""


def _ignore(_run: LabelRun) -> None:
    pass


class _Watched:
    """A source that shows what it hands out."""

    def __init__(self, source: Source, watch: Callable[[Sequence[Prepared]], object]) -> None:
        self._source = source
        self._watch = watch

    def batches(self) -> Iterator[Sequence[Prepared]]:
        for portion in self._source.batches():
            self._watch(portion)
            yield portion

    def stop(self) -> None:
        self._source.stop()


class _Remaining:
    """A source without the jobs that are done; it notes the sessions of the others."""

    def __init__(self, source: FileSource, ledger: Ledger, sessions: BegunSessions) -> None:
        self._source = source
        self._ledger = ledger
        self._sessions = sessions

    def batches(self) -> Iterator[Sequence[Prepared]]:
        for portion in self._source.batches():
            left = self._ledger.take(portion, self._source.mark())
            self._sessions.read(left)
            yield left

    def stop(self) -> None:
        self._source.stop()
