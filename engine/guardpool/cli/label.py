"""`guardpool label`: a file of jobs in, a file of outcomes out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import msgspec

from guardpool.batch import CannotResume, LabelRun, companions_of, label_file, read_jobs
from guardpool.batch.binary import NotLines
from guardpool.batch.files import STANDARD, FileError, Output, refuse_clashes
from guardpool.batch.formats import PACKS
from guardpool.batch.inputs import Inputs
from guardpool.batch.labelling import written_for
from guardpool.batch.signals import Signals, Stopped
from guardpool.cli import not_jobs
from guardpool.cli.backends import Backends
from guardpool.cli.files import load_guards, name_the_file
from guardpool.cli.log_file import LogFile
from guardpool.cli.progress import Display, LogBuffer, State, print_summary
from guardpool.cli.prove import draw_from, print_proof
from guardpool.cli.render import UsageError, complain
from guardpool.errors import CallerError, GuardPoolError
from guardpool.jobs import Prepared
from guardpool.limits import Limits
from guardpool.outcomes import Status
from guardpool.plurals import number_of
from guardpool.proving import Proof, Sample, prove

EXIT_FAILED, EXIT_NOT_ALL_OK, EXIT_NO_JOB, EXIT_PIPE = 1, 3, 4, 141


class NoJobs(CallerError):
    """No line of the input can be a job: exit status 4."""

    exit_status_of_command = EXIT_NO_JOB


@dataclass(frozen=True)
class Options:
    """The command line of `label`, as typed."""

    jobs: tuple[str, ...]
    out: str | None
    guards: tuple[str, ...]
    policies: tuple[str, ...]
    backends: tuple[str, ...]
    backend_allow: tuple[str, ...]
    backend_env: tuple[str, ...]
    backend_token: tuple[str, ...]
    max_questions: int | None
    record_backend: str | None
    on_backend_failure: str
    workers: int | None
    limits: Limits
    engine: str
    ordered: bool
    each_guard: bool
    isolation: str
    resume: bool
    keep_labels: str | None
    dedupe: bool
    deterministic: bool
    timing: bool
    fail_on_error: bool
    max_failed: str | None
    stats: str | None
    prove: int | None
    prove_seed: int
    progress: bool | None
    log_level: str
    log_file: str | None


def run(options: Options) -> int:
    """Label a file; see `guardpool label --help` for what the exit status tells.

    Raises:
        GuardPoolError: the run could not begin or could not go on; the message names the file at fault.
    """
    allowance = Allowance.of(options)
    if options.prove is not None:
        return _prove(options, allowance)
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        stack.enter_context(redirect_stdout(sys.stderr))  # what a backend prints is not an outcome
        try:
            files = _Files(options, stack)
            return _Run(options, allowance, files, signals, stack).run()
        except Stopped as stopped:
            return stopped.exit_status
        except BrokenPipeError:
            return EXIT_PIPE


def _prove(options: Options, allowance: Allowance) -> int:
    """Label a file if there is an `-o`, then some of its jobs again and again.

    Returns:
        1 if labels depend on more than the job, else what tells of the run.
    """
    if options.record_backend is not None:
        raise UsageError("--record-backend cannot be used with --prove, which asks the backend again and again")
    if options.out is None and options.stats is not None:
        raise UsageError("--stats tells of a run that labels all jobs: with --prove it needs -o OUT")
    if options.resume or options.keep_labels is not None or options.dedupe:
        raise UsageError("--prove labels jobs anew: not with --resume, --keep-labels or --dedupe")
    sample = Sample(options.prove or 0, options.prove_seed)
    status = 0
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        stack.enter_context(redirect_stdout(sys.stderr))
        try:
            files = _Files(options, stack)
            if options.out is not None:
                status = _Run(options, allowance, files, signals, stack, sample).run()
            else:
                _draw(options, files, sample)
            if status not in (0, EXIT_NOT_ALL_OK):
                return status
            signals.graceful = False  # from here on there is nothing to finish
            proof = _proof_of(options, files, sample)
        except Stopped as stopped:
            return stopped.exit_status
        except BrokenPipeError:
            return EXIT_PIPE
    print_proof(proof, options.prove_seed, to_stderr=options.out == STANDARD)
    return status if proof.found_nothing else EXIT_FAILED


def _draw(options: Options, files: _Files, sample: Sample) -> None:
    """Draw from the jobs without labelling any.

    Raises:
        NoJobs: none of the lines is a job.
    """
    names = [guard.name for guard in files.guards]
    try:
        for portion in read_jobs(files.jobs, names, options.limits, each_guard=options.each_guard):
            draw_from(portion, sample)
    except NotLines as error:
        raise no_jobs(error, files.jobs.files[0].path) from error
    if not sample.drawn:
        raise NoJobs(
            f"{files.jobs.path}: no line is a job: guardpool label without --prove says what is wrong with each"
        )


def _say_run(name: str) -> None:
    complain(f"labelling: {name}")


def _proof_of(options: Options, files: _Files, sample: Sample) -> Proof:
    files.backends.connect()
    progress = options.progress if options.progress is not None else os.isatty(2)
    logs = LogBuffer()
    logs.install(options.log_level)
    try:
        return prove(
            sample.drawn,
            files.guards,
            max(1, len(sample.drawn)),
            options.prove_seed,
            limits=options.limits,
            engine=options.engine,
            isolation=options.isolation,
            deterministic=options.deterministic,
            on_run=_say_run if progress else lambda _name: None,
        )
    except GuardPoolError as error:
        raise name_the_file(error, files.guards) from error
    except Stopped as stopped:
        complain(f"stopped by {stopped}")
        raise
    finally:
        logs.uninstall()
        for line in dict.fromkeys(logs.drain()):  # each pool says the same
            sys.stderr.write(f"{line}\n")


class HasAllowance(Protocol):
    """A command line that says how many outcomes may fail."""

    @property
    def fail_on_error(self) -> bool:
        """None may."""

    @property
    def max_failed(self) -> str | None:
        """So many may, as typed."""


@dataclass(frozen=True)
class Allowance:
    """How many outcomes may be something else than `ok` before the exit status tells.

    Args:
        most: so many, or so many of a hundred; None: any number.
        is_percent: of a hundred.
    """

    most: Fraction | None
    is_percent: bool

    @classmethod
    def of(cls, options: HasAllowance) -> Allowance:
        """What `--max-failed N`, `--max-failed N%` or `--fail-on-error` allow.

        Raises:
            UsageError: `--max-failed` is neither a whole number nor a percentage.
        """
        text = options.max_failed
        if text is None:
            return cls(Fraction(0) if options.fail_on_error else None, False)
        match = _MAX_FAILED.fullmatch(text)
        if match is None or (match[2] and Fraction(match[1]) > 100):
            raise UsageError(f"--max-failed must be a whole number, or from 0% to 100% like 0.5%; not {text!r}")
        return cls(Fraction(match[1]), bool(match[2]))

    def is_passed(self, failed: int, total: int) -> bool:
        """Whether so many of so many outcomes are too many."""
        if self.most is None:
            return False
        return failed * 100 > self.most * total if self.is_percent else failed > self.most


# ASCII digits only: `\d` and `Fraction` would take those of any script. At most ten of them are a number of jobs.
_MAX_FAILED = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,10}(?=%))?)(%?)")


class _Files:
    """Everything that a run reads and writes, opened and checked, nothing changed yet."""

    def __init__(self, options: Options, stack: ExitStack) -> None:
        replies = None
        if options.record_backend is not None:
            replies = Output(options.record_backend, "the answers of the backend", is_private=True)
            stack.callback(replies.close)
        self.replies = replies
        self.backends = Backends(
            options.backends,
            replies,
            allow=options.backend_allow,
            env=options.backend_env,
            token=options.backend_token,
            max_questions=options.max_questions,
            timeout_s=options.limits.backend_timeout_s,
        )
        stack.callback(self.backends.close)
        self.guards = load_guards(
            options.guards,
            options.policies,
            self.backends.by_name,
            on_backend_failure=options.on_backend_failure,
        )
        written = [options.stats, options.record_backend, options.log_file, options.keep_labels]
        outputs = [path for path in written if path is not None]
        outputs += [] if options.out is None else written_for(options.out)
        self.jobs = _inputs(options.jobs, outputs)  # behind what is wrong with the options themselves
        for path in self.jobs.left_out:
            complain(f"{path}: it is left out of the jobs, because this run writes it")
        stack.callback(self.jobs.close)
        self._out = None
        if options.out is not None:
            self._out = Output(options.out, "the outcomes", packs=PACKS)
            stack.callback(self._out.close)
        self.stats = None
        if options.stats is not None:
            self.stats = Output(options.stats, "the statistics")
            stack.callback(self.stats.close)
        self.log = None
        if options.log_file is not None:
            self.log = LogFile(options.log_file)
            stack.callback(self.log.close)
        self._check_that_nothing_is_overwritten(options)

    def _check_that_nothing_is_overwritten(self, options: Options) -> None:
        inputs = [value.partition("=")[2] for value in (*options.guards, *options.policies, *options.backends)]
        log = None if self.log is None else self.log.output
        for path in filter(os.path.exists, (*[each.path for each in self.jobs.files], *inputs)):
            if self._out is not None:
                refuse_companions(self._out, path)
        outputs = [output for output in (self._out, self.stats, self.replies, log) if output is not None]
        for output in outputs:
            for each in self.jobs.files:
                output.refuse(each.status, each.name)
        refuse_clashes(outputs, inputs, [options.keep_labels])  # a backend need not be a file

    @property
    def out(self) -> Output:
        """Where outcomes go; a run without any has no use for it."""
        assert self._out is not None
        return self._out


def refuse_companions(out: Output, path: str) -> None:
    """Make sure that what is written beside an output does not destroy the file at `path`, which is there.

    Raises:
        FileError: it would.
    """
    for companion in companions_of(out):
        if os.path.exists(companion) and os.path.samefile(companion, path):
            raise FileError(f"{path}: it would be overwritten, since {out.path} is the output: choose another")


def _inputs(paths: Sequence[str], outputs: Sequence[str]) -> Inputs:
    try:
        return Inputs(paths, leave_out=outputs)
    except NotLines as error:
        raise no_jobs(error, paths[0]) from error


def no_jobs(error: NotLines, first: str) -> NoJobs:
    """What to raise for an input that holds no lines of jobs; `first` is its first file."""
    path = first if error.path is None else error.path
    what = not_jobs.of_kind(error.kind, None if path == STANDARD else path)
    return NoJobs(f"{'standard input' if path == STANDARD else path}: no line was a job: {what}")


class _Run:
    def __init__(
        self,
        options: Options,
        allowance: Allowance,
        files: _Files,
        signals: Signals,
        stack: ExitStack,
        sample: Sample | None = None,
    ) -> None:
        self._options = options
        self._allowance = allowance
        self._files = files
        self._signals = signals
        self._sample = sample
        # Lines that go to the screen would tear the bar apart.
        to_screen = files.out.is_terminal
        self._lost_output = False
        self._logs = LogBuffer()
        if files.log is None:
            self._logs.install(options.log_level)
            stack.callback(self._logs.uninstall)
        self._progress = options.progress if options.progress is not None else os.isatty(2)
        self._display = Display(bar=self._progress and not to_screen, logs=self._logs)
        stack.callback(self._display.close)
        self._seen: LabelRun | None = None  # from when the pool has started

    def run(self) -> int:
        options, files = self._options, self._files
        files.backends.connect()  # a command that cannot be started is told before anything runs
        if files.replies is not None:
            files.replies.begin(keep=options.resume)  # a guard may ask its backend while the pool starts
            if options.resume:
                files.replies.go_behind_last_line()
        if files.log is not None:
            files.log.begin(options.log_level)  # and it may log
        try:
            run = self._label()
        except Stopped as stopped:
            if self._seen is not None and self._seen.elapsed_s:
                self._display.close()
                self._tell_backends(self._seen)
                self._tell_reuse(self._seen)
                suffix = f"; {self._what_is_written(self._seen)}"
                self._sum_up(self._seen, prefix=f"stopped by {stopped}: ", suffix=suffix)
            raise
        except NotLines as error:
            raise no_jobs(error, self._files.jobs.files[0].path) from error
        except CannotResume as error:
            hint = "" if files.out.part is None else "; without --resume it is begun anew"
            raise CannotResume(f"{error}{hint}") from error
        except FileError as error:
            if self._seen is not None and self._seen.reading_failed:
                raise FileError(f"{error}; {self._what_is_written(self._seen)}") from error
            if self._seen is not None and self._seen.elapsed_s and files.out.part is not None:
                raise FileError(f"{error}; with room there, the same command with --resume goes on") from error
            raise
        except GuardPoolError as error:
            if self._seen is not None and self._seen.elapsed_s:
                complain(self._what_is_written(self._seen))
            raise name_the_file(error, files.guards) from error
        finally:
            self._display.close()
            if self._seen is not None:
                self._write_stats(self._seen)
        return self._end(run)

    def _label(self) -> LabelRun:
        options, files = self._options, self._files
        return label_file(
            files.jobs,
            files.out,
            files.guards,
            ordered=options.ordered,
            each_guard=options.each_guard,
            resume=options.resume,
            keep_labels=options.keep_labels,
            dedupe=options.dedupe,
            timing=options.timing,
            hash_labels=files.stats is not None,
            watch=None if self._sample is None else self._draw,
            progress=self._show,
            signals=self._signals,
            workers=options.workers,
            limits=options.limits,
            log_level=options.log_level,
            engine=options.engine,
            isolation=options.isolation,
            deterministic=options.deterministic,
        )

    def _draw(self, portion: Sequence[Prepared]) -> None:
        assert self._sample is not None
        draw_from(portion, self._sample)

    def _show(self, run: LabelRun) -> None:
        if self._seen is None:
            self._seen = run
            if self._files.stats is not None:
                self._files.stats.begin()
            self._display.begin(run.done)
        read = (run.source.bytes_read, run.source.total_bytes)
        self._display.update(State(run.done, run.counts, run.part, given=run.given_share, read=read))

    def _end(self, run: LabelRun) -> int:
        """Say what became of a whole input; returns the exit status."""
        if 2 * run.not_jobs > run.lines:
            self._explain_input(run)
        elif run.counts[Status.REJECTED] == run.done > 0:
            self._explain_rejections(run)
        too_many = self._allowance.is_passed(run.failed, run.done) and not run.holds_no_job
        if too_many:
            complain(f"{run.failed:,} of {run.done:,} outcomes are not ok{self._allowed()}")
        self._tell_backends(run)
        self._finish_replies()
        if self._files.log is not None:
            self._files.log.end()
            self._lost_output |= self._files.log.is_lost
        self._tell_reuse(run)
        self._sum_up(run)
        if run.holds_no_job:
            return EXIT_NO_JOB
        if self._lost_output:
            return EXIT_FAILED
        return EXIT_NOT_ALL_OK if too_many else 0

    def _tell_backends(self, run: LabelRun) -> None:
        if run.stats is not None:
            self._files.backends.tell(run.stats.backend, run.unanswered, self._options.on_backend_failure)

    def _tell_reuse(self, run: LabelRun) -> None:
        """Say how many labels no guard had to make, and what is wrong with the file of kept ones."""
        if run.reuse is None:
            return
        taken, equal = run.reuse.from_file, run.reuse.from_run
        words = []
        if self._options.keep_labels is not None:
            words.append(f"{number_of(taken, 'label was', 'labels were')} taken from {self._options.keep_labels}")
        if self._options.dedupe:
            words.append(f"{number_of(equal, 'job equals', 'jobs equal')} another one")
        share_of = "the jobs after the interruption" if run.resumed else "all jobs"
        complain(f"{' and '.join(words)} ({100 * run.given_share:.0f}% of {share_of})")
        for problem in run.reuse.problems:
            complain(f"{problem}; the labels are whole")

    def _allowed(self) -> str:
        return "" if self._options.max_failed is None else f"; --max-failed allows {self._options.max_failed}"

    def _sum_up(self, run: LabelRun, *, prefix: str = "", suffix: str = "") -> None:
        print_summary(
            run.counts,
            run.examples,
            run.elapsed_s,
            table=self._progress,
            prefix=prefix,
            suffix=suffix,
            earlier=run.resumed,
            timings=run.timings,
        )

    def _what_is_written(self, run: LabelRun) -> str:
        """What there is of a run that did not come to its end."""
        if run.is_cut:
            return f"what its reader took of the outcomes was written to {run.out.written_path}"
        replies = self._files.replies
        recorded = "" if replies is None else f"; what the backend answered is in {replies.written_path}"
        if not run.written:
            return f"no outcome was written{recorded}"
        many = number_of(run.written, "outcome was", "outcomes were")
        kept = f", and {run.out.path} is as it was" if run.out.replaces else ""
        go_on = "" if run.out.part is None else "; the same command with --resume goes on"
        if run.reading_failed and go_on:
            # Parquet is told from its end: one that was mended is another file.
            whole = not any(each.is_parquet for each in self._files.jobs.files)
            go_on = "; once the input is whole, the same command with --resume goes on" if whole else ""
        return f"{many} written to {run.out.written_path}{kept}{go_on}{recorded}"

    def _explain_input(self, run: LabelRun) -> None:
        """Say what kind of file the input is, since few of its lines, or none, were jobs."""
        none = run.holds_no_job
        lines = "no line was a job" if none else f"{run.not_jobs:,} of {run.lines:,} lines are not jobs"
        what = not_jobs.explain(run.source.head, self._jobs_path, run.examples.get(Status.REJECTED))
        kept = f"; {run.out.path} is as it was, {run.out.written_path} says what is wrong with each line"
        complain(f"{run.jobs}: {lines}: {what}{kept if none and run.out.replaces else ''}")

    def _explain_rejections(self, run: LabelRun) -> None:
        """Say why no guard saw any job, e.g. because none of them names one."""
        example = run.examples.get(Status.REJECTED)
        if example is not None and example.error is not None:
            where = "" if example.error.line is None else f"line {example.error.line + 1:,}: "
            complain(f"{run.jobs}: no guard saw any of the jobs: {where}{example.error.message}")

    @property
    def _jobs_path(self) -> str | None:
        path = self._files.jobs.files[0].path
        return None if path == STANDARD else path

    def _finish_replies(self) -> None:
        replies, failure = self._files.replies, self._files.backends.record_failure
        if replies is None:
            return
        if failure is None:
            replies.finish()
            return
        error = FileError.of(replies.written_path, "the answers of the backend cannot be written", failure)
        complain(f"{error}; the guards got all of them")
        self._lost_output = True

    def _write_stats(self, run: LabelRun) -> None:
        stats = self._files.stats
        if stats is None:
            return
        # First the pool's own, which are of this run. The others count what an interrupted run had written, too.
        told = {**msgspec.to_builtins(run.stats), "manifest_hash": run.label_hash}
        told |= {"total_outcomes": {status.value: count for status, count in run.counts.items()}}
        told |= {"earlier_outcomes": run.resumed}
        told |= {"run_latency_us": run.timings.quantiles(), "slowest_tools": run.timings.slowest()}
        if run.reuse is not None:
            told |= {"kept_labels": run.reuse.from_file, "equal_jobs": run.reuse.from_run}
        text = msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"
        try:
            stats.write(text)
            stats.finish()
            return
        except BrokenPipeError as error:
            why = FileError.of(stats.written_path, "the statistics cannot be written", error)
        except FileError as error:
            why = error
        complain(str(why))
        self._lost_output = True
