"""A computer that is not there: the `Machine` on which a simulated run's supervisor runs.

Everything is a step of the simulated clock: a wake-up comes a little later than what causes it, reads and writes are cut at
random places, a death is noticed after its results, or before.
"""

from __future__ import annotations

import errno
import itertools
import select
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from guardpool.guard import Backend
from guardpool.outcomes import LogLine, Outcome
from guardpool.protocol import control, wire
from guardpool.supervise.backend_threads import BackendRunner, Reply
from guardpool.supervise.commands import Command
from guardpool.supervise.notifier import Notifier
from guardpool.testing.oracle import Call, Oracle, Seen
from guardpool.testing.processes import Process, Wires
from guardpool.testing.world import World, Wrong

S = TypeVar("S")

# A process that holds much memory takes milliseconds to die.
_DYING_S = 5e-3

_IN, _OUT, _HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP


# One descriptor of the supervisor's process: what is ready on it now.
Descriptor = Callable[[], int]


class SimulatedReactor:
    """Descriptors and an inbox, without an epoll.

    Args:
        world: the clock and the dice.
        descriptors: all that are open, by number.
        on_command: carries a command out.
    """

    def __init__(self, world: World, descriptors: dict[int, Descriptor], on_command: Callable[[Command], bool]) -> None:
        self.calm = False
        self.eager = True
        self.wake: Callable[[], None] = lambda: None  # set by the loop that waits with this
        self._world = world
        self._descriptors = descriptors
        self._on_command = on_command
        self._handlers: dict[int, tuple[Callable[[Any, int], bool | None], Any, int]] = {}
        self._inbox: deque[Command] = deque()
        self._closed = False

    def post(self, command: Command) -> None:
        """Hand in a command."""
        self._world.note("command", type(command).__name__)
        self._inbox.append(command)
        if self._closed:
            self._carry_out()
        else:
            self.wake()

    def post_lazily(self, command: Command) -> None:
        """Hand in a command that can wait for something else, unless the loop is eager."""
        if self.eager or self._closed:
            self.post(command)
        else:
            self._inbox.append(command)

    def watch(self, fd: int, handler: Callable[[S, int], bool | None], subject: S, events: int = _IN) -> None:
        """Call the handler while something is ready on the descriptor."""
        assert fd not in self._handlers, f"descriptor {fd} is watched twice"
        self._handlers[fd] = (handler, subject, events)
        self.wake()

    def watches(self, fd: int) -> bool:
        """Whether the descriptor is watched."""
        return fd in self._handlers

    def unwatch(self, *fds: int) -> None:
        """Forget descriptors."""
        for fd in fds:
            self._handlers.pop(fd, None)

    def ready(self) -> list[tuple[int, int]]:
        """The descriptors on which something is ready, and what."""
        found = []
        descriptors = self._descriptors
        for fd, (_, _, wanted) in self._handlers.items():
            events = descriptors[fd]()  # a KeyError means that it was closed while it is watched
            if events and events & (wanted | _HUP):
                found.append((fd, events & (wanted | _HUP)))
        return found

    def wait(self, timeout_s: float) -> None:
        """Call the handlers of what is ready, in any order."""
        self.calm = True
        ready = self.ready()
        self._world.rng.shuffle(ready)
        for fd, events in ready:
            entry = self._handlers.get(fd)
            if entry is not None:
                handler, subject, _ = entry
                if not handler(subject, events):
                    self.calm = False
        self._carry_out()

    def close(self) -> None:
        """Carry out what was posted; later commands are carried out at once."""
        self._closed = True
        self._carry_out()

    def _carry_out(self) -> None:
        while self._inbox:
            if not self._on_command(self._inbox.popleft()):
                self.calm = False


class SimulatedNotifier(Notifier):
    """Makes callbacks at once."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def callback(self, call: Callable[[Future[Outcome]], object], future: Future[Outcome]) -> None:
        """Make a call that the caller wants when a future is done."""
        call(future)

    def logs(self, guard: str, job_id: Any, lines: Iterable[LogLine]) -> None:
        """Ignore a guard's lines."""

    def own(self, level: int, text: str) -> None:
        """Put a line of the pool's own into the trace."""
        self._world.note("log", text)


class SimulatedBackends(BackendRunner):
    """Answers each question with itself, after as long as the question says."""

    def __init__(self, world: World, oracle: Oracle) -> None:
        super().__init__()
        self._world = world
        self._oracle = oracle
        self._last: dict[bytes, Call] = {}
        self._running = 0

    def call(self, guard: str, backend: Backend, tool: str, args: bytes, reply: Reply, job_id: object = None) -> None:
        """Answer later, or never."""
        question = msgspec.json.decode(args)
        if question == {}:
            reply(None, "no such question", True)
            return
        _name, _number, after_s, fails = question
        self._running += 1
        self._oracle.backend_called(args, self._last.get(args), self._running)
        made = self._last[args] = Call(self._world.now)
        if after_s is not None:
            self._world.at(abs(after_s), self._answer, made, args, fails, reply)

    def _answer(self, made: Call, args: bytes, fails: bool, reply: Reply) -> None:
        self._running -= 1
        made.ended_at, made.is_answered = self._world.now, not fails
        reply(*((None, "it does not know", True) if fails else (args, None, True)))


class SimulatedEnd:
    """The supervisor's end of a simulated worker."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self._world = machine.world
        self._oracle = machine.oracle
        self.wires = Wires()
        self.seen = Seen(self.wires)
        self.page = self.wires.map_page()
        self.pid = 0
        self.pidfd = -1
        self.jobs_fd = machine.open(lambda: _OUT if self._room > 0 or self._is_gone else 0)
        self.results_fd = machine.open(lambda: (_IN if self.wires.results else 0) | self._hang_up)
        self.stderr_fd = machine.open(lambda: (_IN if self.wires.stderr else 0) | self._hang_up)
        self.child_fds = [machine.open(lambda: 0) for _ in range(4)]
        self.strangers: set[int] = set()  # processes that a lying forkserver named
        self.process: Process | None = None
        self.is_doomed = False  # SIGKILL was sent
        self.hung_up = False  # the kernel closed the dead process's pipes
        self.known_dead = False  # the kernel says so to all who hold a pidfd
        self._sent = wire.FrameReader.to_worker()
        self._read: wire.FrameReader[wire.FromWorker] | None = wire.FrameReader.from_worker()

    @property
    def _room(self) -> int:
        return self._world.plan.pipe_bytes - len(self.wires.jobs)

    @property
    def _is_gone(self) -> bool:
        return self.process is not None and not self.process.alive

    @property
    def _hang_up(self) -> int:
        return _HUP if self.hung_up else 0

    @property
    def is_ready(self) -> bool:
        """Whether there is something to be read, or room that is waited for."""
        reactor = self._machine.reactor
        assert reactor is not None
        return bool(self.wires.results or self.wires.stderr) or reactor.watches(self.jobs_fd)

    def close_child_fds(self) -> None:
        """Close our copies."""
        for fd in self.child_fds:
            self._machine.close_fd(fd)
        self.child_fds = []

    def adopt(self, pid: int, pidfd: int) -> None:
        """The worker is forked."""
        self._oracle.expect(
            pid not in self.strangers, f"process {pid}, a stranger, is taken for worker {self.seen.number}"
        )
        self.pid, self.pidfd = pid, pidfd

    def write(self, data: bytes | bytearray | memoryview) -> int | None:
        """Write what the pipe takes."""
        self._oracle.writes(self.seen)
        if self._is_gone:
            return None
        size = min(self._room, len(data))
        if size <= 0:
            return 0
        size = self._world.some(size)
        part = bytes(data[:size])
        self.wires.jobs += part
        for frame in self._sent.feed(part):
            self._oracle.sent(self.seen, frame)
        if self.process is not None:
            self.process.wake()
        return size

    def read_into(self, buffer: memoryview) -> int:
        """Read some of what is there."""
        data = self._take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_rest(self, size: int) -> bytes:
        """Read what a dead worker left."""
        return self._take(size)

    def _take(self, most: int) -> bytes:
        pipe = self.wires.results
        self._oracle.reads(self.seen)
        if not pipe:
            return b""
        size = self._world.some(min(most, len(pipe)))
        data = bytes(pipe[:size])
        del pipe[:size]
        if self._read is not None:
            try:
                for frame in self._read.feed(data):
                    self._oracle.read(self.seen, frame)
            except wire.ProtocolError:
                self._read = None
        if self.process is not None:
            self.process.wake()
        return data

    def read_stderr(self) -> bytes | None:
        """Read some of what it wrote to its standard error."""
        self._oracle.last_words(self.seen)
        data = bytes(self.wires.stderr)
        self.wires.stderr.clear()
        if self.process is not None:
            self.process.wake()
        return data or (b"" if self.hung_up else None)

    def is_dead(self, within_s: float = 0.0) -> bool:
        """Whether the kernel says that the process is dead."""
        if within_s and self.process is not None and self.is_doomed:
            self.process.die(-9)
            self.known_dead = self.hung_up = True
        return self.known_dead

    def rss_bytes(self) -> int:
        """Its resident set."""
        self._oracle.looked_at_memory(self.seen)
        return 0 if self.process is None or not self.process.alive else self.process.rss_bytes

    def reap(self) -> bool:
        """Never a child of the supervisor's process."""
        return False

    def close_all_but_pidfd(self) -> None:
        """Close what is not needed to reap it."""
        pidfd, self.pidfd = self.pidfd, -1
        self.close()
        self.pidfd = pidfd

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self._oracle.kills(self.seen)
            self.is_doomed = True
            # The kernel takes its time, in which the process may go on.
            if self._world.rng.random() < 0.5:
                self.process.die(-9)
            else:
                self._world.at(self._world.rng.random() * _DYING_S, self.process.die, -9)

    def close(self) -> None:
        """Close every descriptor."""
        if self.jobs_fd >= 0:
            self._oracle.buried(self.seen)
            self._machine.ends.pop(self.seen.number, None)
        self.close_child_fds()
        for fd in (self.jobs_fd, self.results_fd, self.stderr_fd, self.pidfd):
            if fd >= 0:
                self._machine.close_fd(fd)
        self.jobs_fd = self.results_fd = self.stderr_fd = self.pidfd = -1
        self.page.release()


class SimulatedForkserver:
    """A forkserver, and the supervisor's end of it.

    Attributes:
        barren_until: it cannot fork before that time.
        lies: the next process that it reports as a worker is a stranger.
    """

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self._world = machine.world
        self.pid = machine.new_pid()
        self.sock_fd = machine.open(lambda: (_IN if self._messages else 0) | (_IN if not self.alive else 0))
        self.pidfd = machine.open(lambda: _IN if self.known_dead else 0)
        self.stderr_fd = machine.open(lambda: _HUP if self.known_dead else 0)
        self.alive = True
        self.known_dead = False
        self.barren_until = 0.0
        self.lies = False
        self._strangers: set[int] = set()
        self.stderr_tail = ""
        self._messages: deque[tuple[control.FromForkserver, list[int]]] = deque()
        self._requests: deque[tuple[int, list[int]]] = deque()
        self._workers: list[SimulatedEnd] = []
        self._unreaped: list[Process] = []
        self._stopped = False
        self._busy = True
        self._world.at(self._world.rng.uniform(1e-3, 5e-3), self._work)
        self._send(control.Up(self.pid, {}, None), [])

    # --- the supervisor's side

    def fork(self, worker: int, fds: list[int]) -> None:
        """Ask for a worker."""
        if not self.alive:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        end = self._machine.end_of(fds)
        self._machine.ends[worker] = end
        self._machine.oracle.asked(end.seen, worker)
        self._requests.append((worker, list(fds)))
        self._workers.append(end)
        if not self._busy:
            self._busy = True
            self._world.at(self._world.rng.uniform(1e-4, 2e-3), self._work)

    def receive(self) -> tuple[control.FromForkserver | None, list[int]] | None:
        """The next message."""
        if self._messages:
            return self._messages.popleft()
        return None if self.alive else (None, [])

    def is_child(self, pidfd: int, pid: int) -> bool:
        """Whether the process is one that it forked."""
        return pid not in self._strangers

    def read_stderr(self) -> bool:
        """False at end-of-file; a simulated forkserver writes nothing to its standard error."""
        return self.alive

    def kill(self) -> None:
        """SIGKILL."""
        self.die()

    def close(self) -> int | None:
        """End it and reap it."""
        self.die()
        self._machine.oracle.forkserver_ended()
        for _message, fds in self._messages:
            for fd in fds:
                self._machine.close_fd(fd)
        for fd in (self.sock_fd, self.pidfd, self.stderr_fd):
            self._machine.close_fd(fd)
        return -9

    # --- its life

    def stop(self) -> None:
        """SIGSTOP."""
        self._stopped = True

    def cont(self) -> None:
        """SIGCONT."""
        self._stopped = False
        self._world.soon(self._work)
        while self._unreaped:
            self._reap(self._unreaped.pop())

    def die(self) -> None:
        """End it; the kernel kills its workers with it."""
        if not self.alive:
            return
        self.alive = False
        self._world.note("forkserver died", self.pid)
        self._machine.oracle.forkserver_lives = False
        for end in self._workers:
            if end.process is not None:
                end.process.die(-9)
        self._world.soon(self._is_noticed)
        self._machine.wake()

    def _is_noticed(self) -> None:
        self.known_dead = True
        self._machine.wake()

    def _work(self) -> None:
        """Fork the next worker that was asked for."""
        if not self.alive or self._stopped:
            return
        if not self._requests:
            self._busy = False
            return
        worker, _fds = self._requests.popleft()
        if self._world.now < self.barren_until:
            self._machine.oracle.worker_failed()
            self._send(control.Forked(worker, 0, "fork: Resource temporarily unavailable", errno.EAGAIN), [])
        else:
            self._fork(worker)
        self._world.at(self._world.rng.uniform(1e-4, 2e-3), self._work)

    def _fork(self, worker: int) -> None:
        end = self._machine.ends.get(worker)
        if end is None:
            return
        pid = self._machine.new_pid()
        pidfd = self._machine.open(lambda: _IN if end.known_dead else 0)
        if self.lies:
            self._strangers.add(pid)
            end.strangers.add(pid)
            self._send(control.Forked(worker, pid, None), [pidfd])
            return
        process = self._machine.make_process(end, worker, lambda: self._on_change(end))
        end.process = end.seen.process = process
        self._send(control.Forked(worker, pid, None), [pidfd])

    def _on_change(self, end: SimulatedEnd) -> None:
        """Something happened to a worker that may be noticed."""
        process, world = end.process, self._world
        assert process is not None
        if not process.alive and not end.known_dead:
            world.soon(self._pipes_close, end)
            world.soon(self._death_is_known, end)
            if self.alive and world.rng.random() < 0.98:
                world.at(world.rng.random() * 1e-3, self._reap, process)
        if end.is_ready:
            self._machine.wake()

    def _pipes_close(self, end: SimulatedEnd) -> None:
        end.hung_up = True
        self._machine.wake()

    def _death_is_known(self, end: SimulatedEnd) -> None:
        end.known_dead = True
        self._machine.wake()

    def _reap(self, process: Process) -> None:
        if self._stopped:
            self._unreaped.append(process)
        elif self.alive:
            assert process.exit_status is not None
            self._send(control.Exited(process.number, process.exit_status), [])

    def _send(self, message: control.FromForkserver, fds: list[int]) -> None:
        self._messages.append((message, fds))
        self._machine.wake()


class SimulatedMachine:
    """Everything outside the supervisor.

    Args:
        world: the clock and the dice.
        oracle: sees what crosses.
        fork: makes the process of a worker: its end, its number, and what to call when it changes.
    """

    def __init__(
        self, world: World, oracle: Oracle, fork: Callable[[SimulatedEnd, int, Callable[[], None]], Process]
    ) -> None:
        self.world = world
        self.oracle = oracle
        self.make_process = fork
        self.ends: dict[int, SimulatedEnd] = {}  # by the worker's number, once it was asked for
        self.forkserver: SimulatedForkserver | None = None
        self.no_descriptors_until = 0.0
        self.random = world.rng
        self.notifier: Notifier = SimulatedNotifier(world)
        self.backends: BackendRunner = SimulatedBackends(world, oracle)
        self.reactor: SimulatedReactor | None = None
        self._descriptors: dict[int, Descriptor] = {}
        self._new: list[SimulatedEnd] = []
        self.new_pid = itertools.count(100).__next__
        self._next_fd = itertools.count(3).__next__

    # --- what the supervisor asks for

    def now(self) -> float:
        """The simulated time."""
        return self.world.now

    def woke(self, asked_s: float, /) -> None:
        """Nothing: no simulated wait takes longer than it was asked to."""

    def clock_ns(self) -> int:
        """The same, in nanoseconds."""
        return round(self.world.now * 1e9)

    def time_of(self, monotonic_s: float, /) -> float:
        """The same: there is one clock."""
        return monotonic_s

    def open_reactor(self, on_command: Callable[[Command], bool]) -> SimulatedReactor:
        """Open what the loop waits with."""
        self.reactor = SimulatedReactor(self.world, self._descriptors, on_command)
        return self.reactor

    def start_forkserver(self) -> SimulatedForkserver:
        """Start a forkserver."""
        self._check_descriptors()
        self.forkserver = SimulatedForkserver(self)
        self.oracle.forkserver_started()
        return self.forkserver

    def open_worker(self) -> SimulatedEnd:
        """Make the pipes for a worker."""
        self._check_descriptors()
        end = SimulatedEnd(self)
        self._new = [end]
        return end

    def _check_descriptors(self) -> None:
        if self.world.now < self.no_descriptors_until:
            self.oracle.open_failed()
            raise OSError(errno.EMFILE, "Too many open files")

    def close_fd(self, fd: int) -> None:
        """Close a descriptor, which must be open."""
        if self._descriptors.pop(fd, None) is None:
            raise Wrong(f"descriptor {fd} is closed although it is not open")

    def close(self) -> None:
        """Note that everything was given back."""

    # --- the rest of the world

    def open(self, events: Callable[[], int]) -> int:
        """A new descriptor."""
        fd = self._next_fd()
        self._descriptors[fd] = events
        return fd

    def end_of(self, fds: list[int]) -> SimulatedEnd:
        """The end whose descriptors these are."""
        for end in self._new:
            if end.child_fds == fds:
                return end
        raise Wrong("the forkserver is sent descriptors that belong to no worker")

    def wake(self) -> None:
        """Something may be ready."""
        if self.reactor is not None:
            self.reactor.wake()

    @property
    def open_descriptors(self) -> int:
        """How many descriptors are open."""
        return len(self._descriptors)
