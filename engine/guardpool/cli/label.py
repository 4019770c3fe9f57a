"""`guardpool label`: a file of jobs in, a file of outcomes out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import msgspec

from guardpool.batch import (
    EachGuard,
    JobParser,
    JobReader,
    ManifestHash,
    OutcomeWriter,
    encode_outcome,
    encode_outcomes,
)
from guardpool.batch.binary import NotLines
from guardpool.batch.pump import Pump
from guardpool.batch.signals import Signals, Stopped
from guardpool.cli import not_jobs
from guardpool.cli.backends import Backends
from guardpool.cli.files import STANDARD, FileError, Input, Output, load_guards, name_the_file
from guardpool.cli.log_file import LogFile
from guardpool.cli.progress import Display, LogBuffer, State, print_summary
from guardpool.cli.prove import Sampled, print_proof
from guardpool.cli.render import UsageError, complain, terminal_json
from guardpool.errors import CallerError, GuardPoolError
from guardpool.limits import Limits
from guardpool.outcomes import Outcome, Status
from guardpool.pool import GuardPool
from guardpool.proving import Proof, Sample, prove

EXIT_FAILED, EXIT_NOT_ALL_OK, EXIT_NO_JOB, EXIT_PIPE = 1, 3, 4, 141


class NoJobs(CallerError):
    """No line of the input can be a job: exit status 4."""

    exit_status_of_command = EXIT_NO_JOB


@dataclass(frozen=True)
class Options:
    """The command line of `label`, as typed."""

    jobs: str
    out: str | None
    guards: tuple[str, ...]
    policies: tuple[str, ...]
    backends: tuple[str, ...]
    backend_allow: tuple[str, ...]
    backend_env: tuple[str, ...]
    backend_token: tuple[str, ...]
    max_questions: int
    record_backend: str | None
    on_backend_failure: str
    workers: int | None
    limits: Limits
    engine: str
    ordered: bool
    each_guard: bool
    isolation: str
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
    parser = JobParser(names, options.limits.max_input_bytes, any_guard=options.each_guard)
    reader = JobReader(files.jobs.fd, parser)
    try:
        for _portion in Sampled(EachGuard(reader, names) if options.each_guard else reader, sample).batches():
            pass
    except NotLines as error:
        path = None if options.jobs == STANDARD else options.jobs
        raise NoJobs(f"{files.jobs.path}: no line was a job: {not_jobs.of_kind(error.kind, path)}") from error
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
    def of(cls, options: Options) -> Allowance:
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
        self.jobs = Input(options.jobs)
        stack.callback(self.jobs.close)
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
        self._out = None
        if options.out is not None:
            self._out = Output(options.out, "the outcomes")
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
        outputs = [output for output in (self._out, self.stats, self.replies, log) if output is not None]
        for at, output in enumerate(outputs):
            output.refuse(self.jobs.status, self.jobs.path)
            for path in filter(os.path.exists, inputs):  # a backend need not be a file
                output.refuse(os.stat(path), path)
            for other in outputs[:at]:
                output.refuse(other.status, other.path)
                output.refuse_standard_too(other)

    @property
    def out(self) -> Output:
        """Where outcomes go; a run without any has no use for it."""
        assert self._out is not None
        return self._out

    def begin(self) -> None:
        """The pool has started: from here on outcomes and statistics are written."""
        self.out.begin()
        if self.stats is not None:
            self.stats.begin()


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
        self._limits = options.limits
        self._allowance = allowance
        self._files = files
        self._signals = signals
        self._sample = sample
        # Lines that go to the screen would tear the bar apart.
        to_screen = os.isatty(files.out.fd)
        self._lost_output = False
        self._logs = LogBuffer()
        if files.log is None:
            self._logs.install(options.log_level)
            stack.callback(self._logs.uninstall)
        self._progress = options.progress if options.progress is not None else os.isatty(2)
        self._display = Display(bar=self._progress and not to_screen, logs=self._logs)
        stack.callback(self._display.close)
        self._encode = partial(_encode_for_terminal if to_screen else encode_outcomes, timing=options.timing)
        self._manifest = ManifestHash()

    def run(self) -> int:
        options, files = self._options, self._files
        files.backends.connect()  # a command that cannot be started is told before anything runs
        if files.replies is not None:
            files.replies.begin()  # a guard may ask its backend while the pool starts
        if files.log is not None:
            files.log.begin(options.log_level)  # and it may log
        try:
            with GuardPool(
                files.guards,
                workers=options.workers,
                limits=self._limits,
                log_level=options.log_level,
                engine=options.engine,
                isolation=options.isolation,
                deterministic=options.deterministic,
            ) as pool:
                files.begin()
                return self._label(pool)
        except GuardPoolError as error:
            raise name_the_file(error, files.guards) from error

    def _label(self, pool: GuardPool) -> int:
        names = [guard.name for guard in self._files.guards]
        each = self._options.each_guard
        parser = JobParser(names, self._limits.max_input_bytes, any_guard=each)
        reader = JobReader(self._files.jobs.fd, parser)
        source: JobReader | EachGuard | Sampled = EachGuard(reader, names) if each else reader
        if self._sample is not None:
            source = Sampled(source, self._sample)
        writer = OutcomeWriter(self._files.out.fd, self._encode if self._files.stats is None else self._hash_and_encode)
        pump = Pump(
            pool.stream(self._options.ordered), source, writer, kill=pool.kill, timeout_s=self._limits.timeout_s
        )
        self._display.begin()
        try:
            pump.run(self._signals, lambda pump: self._display.update(_state(pump, reader, source)))
        except Stopped as stopped:
            pool.flush_logs()
            self._display.close()
            self._tell_backends(pool, pump)
            self._sum_up(pump, prefix=f"stopped by {stopped}: ", suffix=f"; {self._what_is_written(writer)}")
            raise
        except BrokenPipeError:
            raise  # the reader is gone: no summary either
        except OSError as error:
            raise self._name_the_file(error, pump, reader, writer) from error
        except NotLines as error:
            what = not_jobs.of_kind(error.kind, self._jobs_path)
            raise NoJobs(f"{self._files.jobs.path}: no line was a job: {what}") from error
        except GuardPoolError:
            complain(self._what_is_written(writer))
            raise
        finally:
            pool.flush_logs()  # before the summary, which is the last line
            self._display.close()
            self._write_stats(pool)
        holds_no_job = 0 < reader.jobs == parser.not_jobs
        if not (holds_no_job and self._files.out.replaces):
            self._files.out.finish()
        if 2 * parser.not_jobs > reader.jobs:
            self._explain_input(pump, reader, parser)
        elif pump.counts[Status.REJECTED] == pump.taken > 0:
            self._explain_rejections(pump)
        failed = pump.taken - pump.counts[Status.OK]
        too_many = self._allowance.is_passed(failed, pump.taken) and not holds_no_job
        if too_many:
            complain(f"{failed:,} of {pump.taken:,} outcomes are not ok{self._allowed()}")
        self._tell_backends(pool, pump)
        self._finish_replies()
        if self._files.log is not None:
            self._files.log.end()
            self._lost_output |= self._files.log.is_lost
        self._sum_up(pump)
        if holds_no_job:
            return EXIT_NO_JOB
        if self._lost_output:
            return EXIT_FAILED
        return EXIT_NOT_ALL_OK if too_many else 0

    def _tell_backends(self, pool: GuardPool, pump: Pump) -> None:
        self._files.backends.tell(pool.stats().backend, pump.unanswered, self._options.on_backend_failure)

    def _hash_and_encode(self, outcomes: Sequence[Outcome]) -> bytes:
        self._manifest.add(outcomes)
        return self._encode(outcomes)

    def _allowed(self) -> str:
        return "" if self._options.max_failed is None else f"; --max-failed allows {self._options.max_failed}"

    def _sum_up(self, pump: Pump, *, prefix: str = "", suffix: str = "") -> None:
        elapsed_s = self._display.elapsed_s
        self._display.close()
        print_summary(pump.counts, pump.examples, elapsed_s, table=self._progress, prefix=prefix, suffix=suffix)

    def _what_is_written(self, writer: OutcomeWriter) -> str:
        """What there is of a run that did not come to its end."""
        if writer.is_cut:
            return f"what its reader took of the outcomes was written to {self._files.out.written_path}"
        replies = self._files.replies
        recorded = "" if replies is None else f"; what the backend answered is in {replies.written_path}"
        if not writer.lines:
            return f"no outcome was written{recorded}"
        out = self._files.out
        many = "1 outcome was" if writer.lines == 1 else f"{writer.lines:,} outcomes were"
        kept = f", and {out.path} is as it was" if out.replaces else ""
        return f"{many} written to {out.written_path}{kept}{recorded}"

    def _explain_input(self, pump: Pump, reader: JobReader, parser: JobParser) -> None:
        """Say what the input is of which few lines, or no line, were jobs."""
        out = self._files.out
        none = reader.jobs == parser.not_jobs
        lines = "no line was a job" if none else f"{parser.not_jobs:,} of {reader.jobs:,} lines are not jobs"
        what = not_jobs.explain(reader.head, self._jobs_path, pump.examples.get(Status.REJECTED))
        kept = f"; {out.path} is as it was, {out.written_path} says what is wrong with each line"
        complain(f"{self._files.jobs.path}: {lines}: {what}{kept if none and out.replaces else ''}")

    def _explain_rejections(self, pump: Pump) -> None:
        """Say why no guard saw any job, e.g. because none of them names one."""
        example = pump.examples.get(Status.REJECTED)
        if example is not None and example.error is not None:
            where = "" if example.error.line is None else f"line {example.error.line + 1:,}: "
            complain(f"{self._files.jobs.path}: no guard saw any of the jobs: {where}{example.error.message}")

    @property
    def _jobs_path(self) -> str | None:
        return None if self._options.jobs == STANDARD else self._options.jobs

    def _name_the_file(self, error: OSError, pump: Pump, reader: JobReader, writer: OutcomeWriter) -> FileError:
        if error is pump.feed_error:
            failed = FileError.of(self._files.jobs.path, f"the jobs cannot be read{_after(reader.lines)}", error)
            return FileError(f"{failed}; {self._what_is_written(writer)}")
        what = f"the outcomes cannot be written{_after(writer.lines)}"
        return FileError.of(self._files.out.written_path, what, error)

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

    def _write_stats(self, pool: GuardPool) -> None:
        stats = self._files.stats
        if stats is None:
            return
        told = {**msgspec.to_builtins(pool.stats()), "manifest_hash": self._manifest.hexdigest()}
        text = msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"
        try:
            os.write(stats.fd, text)
        except OSError as error:
            complain(str(FileError.of(stats.written_path, "the statistics cannot be written", error)))
            self._lost_output = True
            return
        try:
            stats.finish()
        except FileError as error:
            complain(str(error))
            self._lost_output = True


def _after(lines: int) -> str:
    return f" after line {lines}" if lines else ""


def _encode_for_terminal(outcomes: Sequence[Outcome], *, timing: bool) -> bytes:
    return b"".join([terminal_json(encode_outcome(outcome, timing=timing)) for outcome in outcomes])


def _state(pump: Pump, reader: JobReader, source: JobReader | EachGuard | Sampled) -> State:
    """How far a run is. How many jobs are in the part that was not read yet is guessed by its size."""
    if reader.total_bytes is None:
        part = None
    elif not reader.total_bytes or not source.jobs:
        part = 0.0
    else:
        part = min(1.0, reader.bytes_read / reader.total_bytes) * min(1.0, pump.taken / source.jobs)
    return State(pump.taken, pump.counts, part)
