"""The seam between the supervisor and the computer: its clock, its events, its processes.

Everything that decides takes a `Machine`. `RealMachine` is the one of every pool; `guardpool.testing` has another, in which
processes, pipes, time and chance are simulated, so that what runs in a simulation is the supervisor that ships.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from guardpool.protocol import control
from guardpool.supervise.backend_threads import BackendRunner
from guardpool.supervise.clock import SupervisorClock
from guardpool.supervise.commands import Command
from guardpool.supervise.forkserver_client import ForkserverClient
from guardpool.supervise.notifier import Notifier
from guardpool.supervise.reactor import EpollReactor
from guardpool.supervise.slots import WritableSlots
from guardpool.supervise.worker_end import PipeEnd

S = TypeVar("S")


class Reactor(Protocol):
    """What the supervisor waits with. See `guardpool.supervise.reactor.EpollReactor` for what each method promises."""

    calm: bool
    eager: bool

    def post(self, command: Command) -> None:
        """Hand in a command from any thread."""

    def post_lazily(self, command: Command) -> None:
        """Hand in a command that can wait until something else happens."""

    def watch(self, fd: int, handler: Callable[[S, int], bool | None], subject: S, events: int = ...) -> None:
        """Call `handler(subject, events)` when something happens to the descriptor."""

    def watches(self, fd: int) -> bool:
        """Whether the descriptor is watched."""

    def unwatch(self, *fds: int) -> None:
        """Forget descriptors."""

    def wait(self, timeout_s: float) -> None:
        """Wait for something to happen, for so long at most, and call the handlers."""

    def close(self) -> None:
        """Close everything, then carry out what was posted."""


class WorkerEnd(Protocol):
    """The supervisor's end of one worker. See `guardpool.supervise.worker_end.PipeEnd` for what each method promises."""

    pid: int
    pidfd: int
    jobs_fd: int
    results_fd: int
    stderr_fd: int
    page: memoryview
    child_fds: list[int]

    @property
    def slots(self) -> WritableSlots | None:
        """What large payloads are written into; None: it has no such memory."""

    def close_child_fds(self) -> None:
        """Close our copies of the worker's own descriptors."""

    def adopt(self, pid: int, pidfd: int) -> None:
        """Take over the process of a worker that was forked."""

    def write(self, data: bytes | bytearray | memoryview) -> int | None:
        """Write what the pipe takes; None if its reader is gone."""

    def read_into(self, buffer: memoryview) -> int:
        """Read results; returns how many bytes came."""

    def read_rest(self, size: int) -> bytes:
        """Read what a dead worker left."""

    def read_stderr(self) -> bytes | None:
        """Read what it wrote to its standard error."""

    def is_dead(self, within_s: float = 0.0) -> bool:
        """Whether the process is dead, or dies within so many seconds."""

    def rss_bytes(self) -> int | None:
        """Its resident set; None: not known now."""

    def kill(self) -> None:
        """SIGKILL."""

    def reap(self) -> bool:
        """Reap it if it is dead and a child of this process; whether that was so."""

    def close_all_but_pidfd(self) -> None:
        """Close every descriptor that is not needed for `reap`."""

    def close(self) -> None:
        """Close every descriptor."""


class Forkserver(Protocol):
    """The supervisor's end of a forkserver. See `guardpool.supervise.forkserver_client.ForkserverClient`."""

    pid: int
    pidfd: int
    sock_fd: int
    stderr_fd: int

    def fork(self, worker: int, fds: list[int]) -> None:
        """Ask for a worker. Raises OSError if the forkserver is gone or does not listen."""

    def receive(self) -> tuple[control.FromForkserver | None, list[int]] | None:
        """The next message and its descriptors; a message of None at end-of-file, None if no message is waiting."""

    def is_child(self, pidfd: int, pid: int) -> bool:
        """Whether the pidfd is of that process, a child of the forkserver's. Raises OSError if that is not known now."""

    def read_stderr(self) -> bool:
        """Take what it wrote to standard error; False at end-of-file."""

    @property
    def stderr_tail(self) -> str:
        """The last it wrote to its standard error."""

    def kill(self) -> None:
        """SIGKILL; its workers die with it."""

    def close(self) -> int | None:
        """End it and reap it; returns its exit status if that is known."""


class Machine(Protocol):
    """A computer to supervise workers on.

    Attributes:
        notifier: runs the caller's callbacks and log handlers.
        backends: runs the caller's backends.
        random: for jitter.
    """

    notifier: Notifier
    backends: BackendRunner
    random: random.Random

    def now(self) -> float:
        """Monotonic seconds, without those in which the supervisor could not run."""

    def woke(self, asked_s: float, /) -> None:
        """A wait is over that was to take so long at most."""

    def clock_ns(self) -> int:
        """The machine's own clock, which workers read, in nanoseconds."""

    def time_of(self, monotonic_s: float, /) -> float:
        """What `now` was when the machine's own clock, which workers read, was that."""

    def open_reactor(self, on_command: Callable[[Command], bool]) -> Reactor:
        """Open what the loop waits with; called once. `on_command` carries a command out; True if it was ordinary traffic."""

    def start_forkserver(self) -> Forkserver:
        """Start a forkserver. Raises OSError if that fails now, HostError if it never will."""

    def open_worker(self) -> WorkerEnd:
        """Make the pipes for a worker that is to be forked. Raises OSError if that fails now."""

    def close_fd(self, fd: int) -> None:
        """Close a descriptor that came with a message."""

    def close(self) -> None:
        """Give everything back but the reactor, which has a `close` of its own."""


class RealMachine:
    """This computer.

    Args:
        setup: what workers need; kept in a sealed memfd that every forkserver gets.
        replies_fd: the memfd of the known replies, which stays the caller's to close; -1: there is none.
        slot_bytes: the size of each worker's slots; 0: they have none.
    """

    def __init__(self, setup: control.Setup, replies_fd: int = -1, slot_bytes: int = 0) -> None:
        self._setup_fd = control.pack_setup(setup)
        self._replies_fd = replies_fd
        self._slot_bytes = slot_bytes
        self._engine = setup.engine
        self.notifier = Notifier()
        self.backends = BackendRunner()
        self.random = random.Random()
        clock = SupervisorClock()
        self.now, self.woke, self.time_of = clock.now, clock.tick, clock.of  # as attributes they cost a call less
        self.clock_ns = time.monotonic_ns

    def open_reactor(self, on_command: Callable[[Command], bool]) -> EpollReactor:
        """Open an epoll."""
        return EpollReactor(on_command)

    def start_forkserver(self) -> ForkserverClient:
        """Start a process, by exec."""
        return ForkserverClient(self._setup_fd, self._engine, self._replies_fd)

    def open_worker(self) -> PipeEnd:
        """Make real pipes."""
        return PipeEnd(self._slot_bytes)

    def close_fd(self, fd: int) -> None:
        """Close a descriptor that came with a message."""
        os.close(fd)

    def close(self) -> None:
        """Give back the setup and the threads that run backends."""
        self.backends.close()
        with contextlib.suppress(OSError):  # the caller's program closed it
            os.close(self._setup_fd)
