"""`guardpool label --ray`: jobs labelled on the nodes of a Ray cluster, outcomes checked and written here."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from guardpool.batch.binary import NotLines
from guardpool.batch.files import FileError, Output
from guardpool.batch.formats import PACKS, check_output, sink_of
from guardpool.batch.inputs import files_of
from guardpool.batch.jobline import is_of_job
from guardpool.batch.pieces import file_system, is_of_jobs, local_path
from guardpool.batch.seam import FileSink
from guardpool.batch.signals import Signals, Stopped
from guardpool.cli.backends import answers_in_words
from guardpool.cli.files import load_guards, name_the_file
from guardpool.cli.label import EXIT_NO_JOB, EXIT_NOT_ALL_OK, EXIT_PIPE, Allowance, no_jobs, refuse_companions
from guardpool.cli.progress import print_summary
from guardpool.cli.render import UsageError, complain
from guardpool.errors import GuardPoolError, HostError
from guardpool.guard import Guard
from guardpool.outcomes import Outcome, Status
from guardpool.plurals import number_of
from guardpool.ray import import_ray, label_files
from guardpool.stats import ToolStats

_WHAT = "the outcomes"
_PORTION = 1024
_CONNECT_S = 10.0
_LONGEST_ADDRESS = 300
# "local" would start a cluster of its own, and a client's address ("ray://...") is not one of a node.
_ADDRESS = re.compile(r"auto|[A-Za-z0-9_.-]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}")


@dataclass(frozen=True)
class Options:
    """The command line, as typed. `pool` has what `GuardPool` takes by keyword."""

    address: str
    jobs: tuple[str, ...]
    out: str
    guards: tuple[str, ...]
    policies: tuple[str, ...]
    timing: bool
    fail_on_error: bool
    max_failed: str | None
    pool: dict[str, Any]


def refuse(options: Sequence[str]) -> None:
    """Raise UsageError if there are options that a run on several machines cannot follow."""
    if options:
        raise UsageError(f"{' and '.join(options)} cannot be used with --ray: it is for a pool on one machine")


def _join(address: str) -> None:
    """Join the cluster, unless the program did."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # read when Ray is imported
    ray = import_ray()
    if not ray.is_initialized():
        where = _address_here() if address == "auto" else address
        try:
            # Ray itself tries for minutes, and says nothing.
            host, _, port = where.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
            with _silent_descriptor():
                ray.init(where, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())
            at = "" if where == address else f" at {where}"
            raise HostError(f"--ray {address}: no cluster could be joined{at}: {why}") from error
    # What matters comes as an exception. A level of Ray's loggers does not last: it sets them anew for each dataset.
    logging.disable(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _address_here() -> str:
    """The address of the cluster that this machine is a node of: `RAY_ADDRESS`, or what `ray start` noted.

    Ray's own `auto` joins any cluster of which it sees a process here, whoever runs it.

    Raises:
        HostError: there is no such cluster, or another user noted it: to join a cluster is to run its pickles.
    """
    named = os.environ.get("RAY_ADDRESS")
    if named:
        if _ADDRESS.fullmatch(named) is None or named == "auto":
            raise HostError(f"--ray auto: RAY_ADDRESS is {named!r}, which is not HOST:PORT")
        return named
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    path = os.path.join(folder, "ray", "ray_current_cluster")
    try:
        with open(path, encoding="ascii") as file:
            owner, noted = os.fstat(file.fileno()).st_uid, file.read(_LONGEST_ADDRESS).strip()
    except (OSError, UnicodeDecodeError):
        raise HostError(
            f"--ray auto: this machine is not a node of a cluster: {path} cannot be read: run ray start, or name HOST:PORT"
        ) from None
    if owner not in (0, os.geteuid()):
        raise HostError(
            f"--ray auto: another user wrote {path}, user {owner}: name HOST:PORT if you trust that cluster"
        )
    if _ADDRESS.fullmatch(noted) is None or noted == "auto":
        raise HostError(f"--ray auto: {path} holds no HOST:PORT: name it")
    return noted


@contextmanager
def _silent_descriptor() -> Iterator[None]:
    """Drops what is written to descriptor 2: Ray's C++ parts tell there that they have read the level of their log.

    What matters is raised as an exception.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _Out:
    """Where the outcomes go: a file here, or one that is made here and then put where a URL says.

    Attributes:
        is_whole: all are in a file here.

    Raises:
        FileError: it cannot be written, or is a file that the run reads.
    """

    def __init__(self, options: Options, stack: ExitStack) -> None:
        self._name = options.out
        local = local_path(options.out)
        self._url = options.out if local is None else None
        self._folder: str | None = None  # of a file that is put elsewhere
        if local is None:
            # Before anything is labelled.
            if is_of_jobs(options.out, options.jobs):
                raise FileError(
                    f"{options.out}: {_WHAT} cannot be written: the jobs are read from there; choose another"
                )
            with self._writing():
                self._folder = tempfile.mkdtemp(prefix="guardpool-")
            stack.callback(self._remove_folder)
            local = os.path.join(self._folder, os.path.basename(options.out))
        self._file = Output(local, _WHAT, packs=PACKS)
        stack.callback(self._file.close)
        check_output(self._file)
        jobs = [path for path in map(local_path, options.jobs) if path is not None]
        named = [value.partition("=")[2] for value in (*options.guards, *options.policies)]
        for read in files_of([*jobs, *named]):
            self._file.refuse(os.stat(read), read)
            refuse_companions(self._file, read)
        self._stack = stack
        self._timing = options.timing
        self._sink: FileSink | None = None
        self.is_whole = False

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes. The first ones open the file."""
        with self._writing():
            self._open().add(outcomes)

    def _open(self) -> FileSink:
        if self._sink is None:
            self._file.begin()
            self._sink = sink_of(self._file, timing=self._timing)
            self._stack.callback(self._sink.close)
        return self._sink

    def finish(self, *, holds_no_job: bool = False) -> str | None:
        """All are written: the file takes its place.

        Args:
            holds_no_job: they tell only why nothing is a job; a file that is there already stays as it is.

        Returns:
            Where they are if it does; else None.
        """
        with self._writing():
            sink = self._open()
            sink.end()
            if self._file.part is not None:
                sink.make_durable()
            if holds_no_job and self._file.replaces:
                return self._file.written_path
            path = self._file.target
            self._file.finish(sink.product)
        self.is_whole = True
        if self._url is None:
            return None
        fs, there = file_system(self._url)
        try:
            if holds_no_job and fs.exists(there):
                self._folder = None
                return path
            fs.put_file(path, there)
        except Exception as error:  # each kind of file system has its own
            self._folder = None
            why = " ".join(str(error).split())
            raise FileError(f"{self._url}: {_WHAT} cannot be written: {why}; all of them are in {path}") from error
        return None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what the operating system refuses into an error that names the file."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise FileError.of(self._name, f"{_WHAT} cannot be written", error) from error

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def what_is_there(self) -> str:
        """What was written of a run that did not come to its end."""
        if self._sink is None or self._url is not None:
            return "no outcome was written"
        self._sink.flush()
        many = number_of(self._sink.written, "outcome was", "outcomes were")
        return f"{many} written to {self._file.written_path}; a run begins anew"


def _labelled(options: Options, guards: Sequence[Guard]) -> Iterator[list[Outcome]]:
    """The outcomes, some at a time."""
    try:
        outcomes = label_files(options.jobs, guards, **options.pool)
        while some := list(islice(outcomes, _PORTION)):
            yield some
    except NotLines as error:
        raise no_jobs(error, options.jobs[0]) from error
    except OSError as error:
        raise HostError(f"--ray {options.address}: the cluster cannot be used: {error.strerror or error}") from error


class _Tally:
    """What became of the jobs so far.

    Attributes:
        counts: outcomes by status.
        examples: the first outcome of each status but `ok`.
        asked: how many questions each guard asked.
    """

    def __init__(self) -> None:
        self.counts: Counter[Status] = Counter()
        self.examples: dict[Status, Outcome] = {}
        self.asked: Counter[str | None] = Counter()
        self._jobs = 0  # also those that no guard saw

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Count outcomes."""
        self.counts.update([each.status for each in outcomes])
        self._jobs += sum(is_of_job(each) for each in outcomes)
        for each in outcomes:
            self.asked[each.guard] += each.backend.asked
            if each.status is not Status.OK:
                self.examples.setdefault(each.status, each)

    @property
    def failed(self) -> int:
        """Outcomes that are not `ok`."""
        return self.counts.total() - self.counts[Status.OK]

    @property
    def holds_no_job(self) -> bool:
        """The input has lines, and none of them is a job."""
        return self.counts.total() > self._jobs == 0


@contextmanager
def _at_fault(guards: Sequence[Guard], out: _Out, counts: Counter[Status]) -> Iterator[None]:
    """Turns what ends a run into an error that names the file at fault and says what was written."""
    try:
        yield
    except FileError as error:
        if not counts or out.is_whole:
            raise
        raise type(error)(f"{error}; {out.what_is_there}") from error
    except GuardPoolError as error:
        if counts:
            complain(out.what_is_there)
        raise name_the_file(error, guards) from error


def run(options: Options) -> int:
    """Label files on a cluster; exit statuses are those of `guardpool label`.

    Raises:
        GuardPoolError: the run could not begin or could not go on; the message names what is at fault.
    """
    if _ADDRESS.fullmatch(options.address) is None:
        raise UsageError(
            f"--ray {options.address!r}: write HOST:PORT, or auto for the cluster this machine is a node of"
        )
    allowance = Allowance.of(options)
    with ExitStack() as stack:
        stack.enter_context(Signals())
        try:
            guards = load_guards(options.guards, options.policies)
            out = _Out(options, stack)
            _join(options.address)
        except Stopped as stopped:
            complain(f"stopped by {stopped}")
            return stopped.exit_status
        begun = time.monotonic()
        tally = _Tally()
        try:
            with _at_fault(guards, out, tally.counts):
                for some in _labelled(options, guards):
                    out.add(some)
                    tally.add(some)
                instead = out.finish(holds_no_job=tally.holds_no_job)
        except Stopped as stopped:
            complain(f"stopped by {stopped}: {out.what_is_there}")
            return stopped.exit_status
        except BrokenPipeError:
            return EXIT_PIPE
    if tally.holds_no_job:
        _explain(options, tally.examples[Status.REJECTED], instead)
    return _sum_up(tally, allowance, time.monotonic() - begun)


def _sum_up(tally: _Tally, allowance: Allowance, elapsed_s: float) -> int:
    """Say what became of the jobs; returns the exit status."""
    count = tally.counts.total()
    too_many = allowance.is_passed(tally.failed, count) and not tally.holds_no_job
    if too_many:
        complain(f"{tally.failed:,} of {count:,} outcomes are not ok")
    for name, times in tally.asked.items():
        if times:
            what = answers_in_words([ToolStats(asked=times)], has_backend=False)
            complain(f"guard {name} asked its backend {what} with --ray: it labelled without knowing")
    print_summary(tally.counts, tally.examples, elapsed_s, table=False)
    if tally.holds_no_job:
        return EXIT_NO_JOB
    return EXIT_NOT_ALL_OK if too_many else 0


def _explain(options: Options, example: Outcome, instead: str | None) -> None:
    """Say why nothing was a job, and that a file which was there is as it was, if the outcomes are `instead` elsewhere."""
    more = f" and {len(options.jobs) - 1:,} more" if len(options.jobs) > 1 else ""
    why = "" if example.error is None else f": {example.error.message}"
    kept = "" if instead is None else f"; {options.out} is as it was, {instead} says what is wrong with each line"
    complain(f"{options.jobs[0]}{more}: no line was a job{why}{kept}")
