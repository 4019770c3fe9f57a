"""Workers that lie: the real forkserver, whose workers turn on the supervisor once their HELLO was honest.

`install` makes every pool of a test start this file's `main` instead of `guardpool_worker.forkserver.main`. It is the same
forkserver but for one function: a worker whose number is in the plan runs an attack (`hostile_frames`, `hostile_acts`,
`hostile_wild`) in place of `worker.run`, without any sandbox, so that it can do more than a guard that broke out ever
could. All others are honest.

An attack gets a `Traitor`, which has all that an honest worker has and does nothing by itself: when the attack returns,
the process stays and is silent until it is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec

from guardpool.machine import launch
from guardpool.protocol import control, wire
from guardpool.protocol.progress_page import SEQ, STARTED_NS, map_page
from guardpool.protocol.slots import map_slots
from guardpool_worker import forkserver, linux, worker

MIB = 1024 * 1024
# A job whose payload begins so starts the attack of a worker that was honest until then.
EVIL = b'{"tool_name":"evil'
FORGED = b'{"description":"forged","secrecy":[],"integrity":[],"operation":"read"}'
LABEL = b'{"description":"k%d","secrecy":[],"integrity":[],"operation":"read"}'


class Plan(msgspec.Struct):
    """Which worker makes which attack.

    Args:
        attacks: the attack by the worker's number, from 1 as they are forked.
        others: the attack of all workers from `others_from` on that `attacks` does not name; None: they are honest.
        others_from: the first worker that `others` is for.
        seed: for random attacks; the worker's number is mixed in.
        upon: the attack upon an evil job, by a worker that is honest otherwise.
        withhold: that worker does not answer the jobs before the evil one in the same frame either.
        forkserver: how the forkserver itself lies, of `FORKSERVER_ATTACKS`.
        stranger: the pid of a process outside the pool.
    """

    attacks: dict[int, str] = {}
    others: str | None = None
    others_from: int = 1
    seed: int = 0
    upon: str | None = None
    withhold: bool = False
    forkserver: str | None = None
    stranger: int = 0

    def attack_of(self, number: int) -> str | None:
        return self.attacks.get(number) or (self.others if number >= self.others_from else None)


def install(monkeypatch: Any, plan: Plan) -> None:
    """Give the plan's workers to every pool that is made from now on."""
    honest = launch.command

    def command(module: str, *arguments: str) -> list[str]:
        words = honest(module, *arguments)
        if module != "guardpool_worker.forkserver":
            return words
        at = words.index("-c") + 1
        path = f"sys.path.append({os.path.dirname(os.path.abspath(__file__))!r}); "
        code = words[at].replace("from guardpool_worker.forkserver import main", f"{path}from hostile import main")
        return [*words[:at], code, msgspec.json.encode(plan).decode(), *words[at + 1 :]]

    monkeypatch.setattr(launch, "command", command)


def main(arguments: list[str]) -> int:
    """Run the forkserver with this file's workers."""
    import hostile_acts  # noqa: F401  # these two know the attacks
    import hostile_wild  # noqa: F401

    plan = msgspec.json.decode(arguments[0], type=Plan)
    number = 0
    receive = control.receive_from_supervisor

    def receive_and_note(sock: Any) -> Any:
        nonlocal number
        message, fds = receive(sock)
        if isinstance(message, control.Fork):
            number = message.worker
        return message, fds

    honest = worker.run

    def run(setup: Any, guards: Any, replies: Any, fds: worker.Descriptors, parent: int) -> int:
        attack = plan.attack_of(number)
        if attack is None and plan.upon is None:
            return honest(setup, guards, replies, fds, parent)
        linux.set_parent_death_signal(parent)
        traitor = Traitor(setup, guards, replies, fds, Random(plan.seed * 100_003 + number))
        if attack is None:
            assert plan.upon is not None
            return traitor.work_until_evil(ATTACKS[plan.upon], plan.withhold)
        traitor.run(attack)
        return 0

    if plan.forkserver is not None:
        FORKSERVER_ATTACKS[plan.forkserver](plan)
    control.receive_from_supervisor = receive_and_note  # type: ignore[assignment]
    worker.run = run  # type: ignore[assignment]
    return forkserver.main(arguments[1:])


class Traitor:
    """A worker with everything that an honest one has.

    Attributes:
        jobs: the jobs it was given and has not answered.
    """

    def __init__(self, setup: Any, guards: Any, replies: Any, fds: worker.Descriptors, random: Random) -> None:
        self.fds = fds
        self.random = random
        self.page = map_page(fds.page)
        os.dup2(fds.stderr, 2)
        self.slots = map_slots(fds.slots) if fds.slots >= 0 else None
        self.channel = worker._Channel(fds.jobs, fds.results, self.slots)
        self.runner = worker._JobRunner(setup, guards, replies, self.channel, self.page)
        self.jobs: list[wire.JobItem] = []

    def run(self, attack: str) -> None:
        """Say HELLO, wait for jobs, and attack; an attack of `HELLO_ATTACKS` comes in place of all that."""
        if attack in HELLO_ATTACKS:
            HELLO_ATTACKS[attack](self)
        else:
            self.hello()
            self.take()  # so the pool has started
            ATTACKS[attack](self)
        self.linger()

    def hello(self, **changes: Any) -> None:
        """An honest HELLO, but for the fields given."""
        failure = self.runner.initialise()
        frame = wire.Hello(
            wire.PROTOCOL, os.getpid(), {"everything": "on"}, self.runner.answers, self.runner.init_logs, failure
        )
        self.send(msgspec.structs.replace(frame, **changes))

    def work_until_evil(self, attack: Callable[[Traitor], None], withhold: bool) -> int:
        """Work honestly until an evil job comes, like a guard that one job breaks; `jobs` are those left unanswered."""
        self.hello()
        run = self.runner._run

        def look_and_run(frame: wire.Jobs) -> bool:
            at = next((at for at, job in enumerate(frame.jobs) if bytes(job.payload[: len(EVIL)]) == EVIL), None)
            if at is None:
                return run(frame)
            if at and not withhold:
                run(wire.Jobs(frame.jobs[:at]))
            self.jobs = list(frame.jobs if withhold else frame.jobs[at:])
            self.show(frame.jobs[at].seq)
            attack(self)
            self.linger()
            return False

        self.runner._run = look_and_run  # type: ignore[method-assign]
        return self.runner.work()

    # --- what it may do

    def raw(self, data: bytes) -> None:
        """Write bytes to the pipe of results; ends the process if the supervisor hung up."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.fds.results, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                os._exit(0)

    def send(self, frame: wire.FromWorker) -> None:
        self.raw(wire.encode(frame))

    def send_any(self, *fields: Any) -> None:
        """Send a frame of any fields, whole and of the length its header says."""
        body = msgspec.msgpack.encode(fields)
        self.raw(struct.pack("<I", len(body)) + body)

    def show(self, seq: int, started_ns: int | None = None) -> None:
        """Write to the progress page."""
        self.page[STARTED_NS] = time.monotonic_ns() if started_ns is None else started_ns
        self.page[SEQ] = seq

    def take(self) -> list[wire.JobItem]:
        """Wait for jobs; they are added to `jobs`."""
        while not self.jobs:
            frame = self.channel.receive()
            if frame is None:
                os._exit(0)
            if isinstance(frame, wire.Jobs):
                self.jobs += frame.jobs
            elif isinstance(frame, wire.Drain):
                self.linger()
        return self.jobs

    def answer(self, job: wire.JobItem, **changes: Any) -> wire.ResultItem:
        """An honest result, but for the fields given; the label is the one that `poolkit.job` expects."""
        item = wire.ResultItem(job.seq, "ok", LABEL % number_of(job), 10, 0, [])
        return msgspec.structs.replace(item, **changes)

    def answer_all(self) -> None:
        """Answer all jobs it has, honestly: it is idle then."""
        self.send(wire.Results([self.answer(job) for job in self.take()]))
        self.jobs.clear()

    def linger(self) -> None:
        """Do nothing until killed."""
        while True:
            signal.pause()


def number_of(job: wire.JobItem) -> int:
    """The number of a job made by `poolkit.job`."""
    return int(msgspec.json.decode(job.payload)["tool_args"]["n"])


Attack = Callable[[Traitor], None]
ATTACKS: dict[str, Attack] = {}
HELLO_ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__] = function
    return function


def hello_attack(function: Attack) -> Attack:
    HELLO_ATTACKS[function.__name__] = function
    return function


# --- the forkserver


def _names_a_stranger(plan: Plan) -> None:
    # The supervisor kills by the descriptors that it is sent.
    send = control.send

    def lie(sock: Any, message: Any, fds: Any = ()) -> None:
        if isinstance(message, control.Forked):
            message = control.Forked(message.worker, plan.stranger, None)
            fds = [os.pidfd_open(plan.stranger)]
        send(sock, message, fds)

    control.send = lie


def _sends_no_valid_message(plan: Plan) -> None:
    send = control.send

    def lie(sock: Any, message: Any, fds: Any = ()) -> None:
        if isinstance(message, control.Forked):
            socket.send_fds(sock, [b"\xc1 not a message"], [0, 1, 2])
        else:
            send(sock, message, fds)

    control.send = lie


def _sends_no_pidfd(plan: Plan) -> None:
    send = control.send

    def lie(sock: Any, message: Any, fds: Any = ()) -> None:
        send(sock, message, [0] if isinstance(message, control.Forked) else fds)

    control.send = lie


def _floods_with_descriptors(plan: Plan) -> None:
    # Messages that may come at any time, about workers that were never asked for, with a descriptor or two each.
    send = control.send

    def lie(sock: Any, message: Any, fds: Any = ()) -> None:
        while isinstance(message, control.Forked) and message.worker > 1:
            send(sock, control.Exited(2**40, 0), [0, 1])
        send(sock, message, fds)

    control.send = lie


FORKSERVER_ATTACKS: dict[str, Callable[[Plan], None]] = {
    "names a stranger": _names_a_stranger,
    "sends no valid message": _sends_no_valid_message,
    "sends no pidfd": _sends_no_pidfd,
    "floods once there is a worker": _floods_with_descriptors,
}


@contextlib.contextmanager
def watched_rss() -> Iterator[Callable[[], int]]:
    """Yields a function: by how many bytes this process's resident set grew since the start, at its largest."""
    import threading

    end = threading.Event()
    start = largest = _rss()

    def look() -> None:
        nonlocal largest
        while not end.wait(0.002):
            largest = max(largest, _rss())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: max(largest, _rss()) - start
    finally:
        end.set()
        thread.join()


def _rss() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
