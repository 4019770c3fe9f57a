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
from guardpool.batch.pieces import file_system
from guardpool.batch.seam import FileSink
from guardpool.batch.signals import Signals, Stopped
from guardpool.cli.backends import answers_in_words
from guardpool.cli.files import load_guards, name_the_file
from guardpool.cli.label import EXIT_NO_JOB, EXIT_NOT_ALL_OK, EXIT_PIPE, Allowance, no_jobs
from guardpool.cli.progress import print_summary
from guardpool.cli.render import UsageError, complain
from guardpool.errors import GuardPoolError, HostError
from guardpool.guard import Guard
from guardpool.outcomes import Outcome, Status
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
        HostError: there is none, or another user noted it: who joins a cluster runs its pickles.
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
    """What C++ writes to standard error goes nowhere: that it has read the level of its log. Python raises what matters."""
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
    """

    def __init__(self, options: Options, stack: ExitStack) -> None:
        self._url = options.out if "://" in options.out else None
        self._folder: str | None = None  # of a file that is put elsewhere
        path = options.out
        if self._url is not None:
            file_system(self._url)  # before anything is labelled
            self._folder = tempfile.mkdtemp(prefix="guardpool-")
            stack.callback(self._remove_folder)
            path = os.path.join(self._folder, os.path.basename(self._url))
        self._file = Output(path, _WHAT, packs=PACKS)
        stack.callback(self._file.close)
        check_output(self._file)
        named = [value.partition("=")[2] for value in (*options.guards, *options.policies)]
        for read in files_of([*options.jobs, *named]):
            self._file.refuse(os.stat(read), read)
        self._stack = stack
        self._timing = options.timing
        self._sink: FileSink | None = None
        self.is_whole = False

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes. The first ones open the file."""
        if self._sink is None:
            self._file.begin()
            self._sink = sink_of(self._file, timing=self._timing)
            self._stack.callback(self._sink.close)
        self._sink.add(outcomes)

    def finish(self) -> None:
        """All are written: the file takes its place."""
        self.add([])
        assert self._sink is not None
        self._sink.end()
        if self._file.part is not None:
            self._sink.make_durable()
        product = self._sink.product
        path = self._file.target
        self._file.finish(product)
        self.is_whole = True
        if self._url is not None:
            fs, there = file_system(self._url)
            try:
                fs.put_file(path, there)
            except Exception as error:  # each kind of file system has its own
                self._folder = None
                why = " ".join(str(error).split())
                raise FileError(f"{self._url}: {_WHAT} cannot be written: {why}; all of them are in {path}") from error

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def what_is_there(self) -> str:
        """What was written of a run that did not come to its end."""
        if self._sink is None or self._url is not None:
            return "no outcome was written"
        self._sink.flush()
        many = "1 outcome was" if self._sink.written == 1 else f"{self._sink.written:,} outcomes were"
        return f"{many} written to {self._file.written_path}; a run begins anew"


def _labelled(options: Options, guards: Sequence[Guard]) -> Iterator[Outcome]:
    try:
        return label_files(options.jobs, guards, **options.pool)
    except NotLines as error:
        raise no_jobs(error, options.jobs[0]) from error


@contextmanager
def _at_fault(options: Options, guards: Sequence[Guard], out: _Out, counts: Counter[Status]) -> Iterator[None]:
    """Has what ends a run name the file at fault, and say what was written."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError.of(options.out, f"{_WHAT} cannot be written", error) from error
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
        counts: Counter[Status] = Counter()
        examples: dict[Status, Outcome] = {}
        asked: Counter[str | None] = Counter()
        try:
            with _at_fault(options, guards, out, counts):
                outcomes = _labelled(options, guards)
                while some := list(islice(outcomes, _PORTION)):
                    out.add(some)
                    counts.update([each.status for each in some])
                    for each in some:
                        asked[each.guard] += each.backend.asked
                        if each.status is not Status.OK:
                            examples.setdefault(each.status, each)
                out.finish()
        except Stopped as stopped:
            complain(f"stopped by {stopped}: {out.what_is_there}")
            return stopped.exit_status
        except BrokenPipeError:
            return EXIT_PIPE
    failed = counts.total() - counts[Status.OK]
    too_many = allowance.is_passed(failed, counts.total())
    if too_many:
        complain(f"{failed:,} of {counts.total():,} outcomes are not ok")
    for name, times in asked.items():
        if times:
            what = answers_in_words([ToolStats(asked=times)], has_backend=False)
            complain(f"guard {name} asked its backend {what} with --ray: it labelled without knowing")
    print_summary(counts, examples, time.monotonic() - begun, table=False)
    if not counts:
        return EXIT_NO_JOB
    return EXIT_NOT_ALL_OK if too_many else 0
