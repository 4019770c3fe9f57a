"""Workers that lie: the real forkserver, whose workers turn on the supervisor once their HELLO was honest.

`Hostiles.install` makes every pool of a test start this file's `main` instead of `guardpool_worker.forkserver.main`. It is
the same forkserver but for one function: a worker whose number is in the plan runs an attack of this file in place of
`worker.run`, without any sandbox, so that it can do more than a guard that broke out ever could. All others are honest.

An attack gets a `Traitor`, which has all that an honest worker has. What it does not do itself is not done: where it
returns, the process stays and is silent until it is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec

from guardpool import control, launch, wire
from guardpool.outcomes import LogLine, OutcomeError
from guardpool.progress import DONE, INITIALISING, SEQ, STARTED_NS, map_page
from guardpool_worker import forkserver, linux, worker

MIB = 1024 * 1024
# The attack of a worker that nobody named: a job whose tool's name begins so makes it turn.
EVIL = b'{"tool_name":"evil'
LABEL = b'{"description":"k%d","secrecy":[],"integrity":[],"operation":"read"}'


class Plan(msgspec.Struct):
    """Who attacks how.

    Args:
        attacks: the attack by the worker's number, from 1 as they are forked.
        others: the attack of all workers from `others_from` on that `attacks` does not name; None: they are honest.
        others_from: see there.
        seed: for attacks that draw lots; the worker's number is mixed in.
        upon: the attack upon an evil job, by a worker that is honest otherwise.
    """

    attacks: dict[int, str] = {}
    others: str | None = None
    others_from: int = 1
    seed: int = 0
    upon: str | None = None

    def attack_of(self, number: int) -> str | None:
        return self.attacks.get(number) or (self.others if number >= self.others_from else None)


def install(monkeypatch: Any, plan: Plan) -> None:
    """Pools that are made from now on have the workers of the plan."""
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

    def run(setup: Any, guards: Any, fds: worker.Descriptors, parent: int) -> int:
        attack = plan.attack_of(number)
        if attack is None and plan.upon is None:
            return honest(setup, guards, fds, parent)
        linux.set_parent_death_signal(parent)
        traitor = Traitor(setup, guards, fds, Random(plan.seed * 100_003 + number))
        if attack is None:
            assert plan.upon is not None
            return traitor.work_until_evil(ATTACKS[plan.upon])
        traitor.run(attack)
        return 0

    control.receive_from_supervisor = receive_and_note  # type: ignore[assignment]
    worker.run = run  # type: ignore[assignment]
    return forkserver.main(arguments[1:])


class Traitor:
    """A worker with everything that an honest one has.

    Attributes:
        jobs: what it was given and did not answer.
    """

    def __init__(self, setup: Any, guards: Any, fds: worker.Descriptors, random: Random) -> None:
        self.fds = fds
        self.random = random
        self.page = map_page(fds.page)
        os.dup2(fds.stderr, 2)
        self.channel = worker._Channel(fds.jobs, fds.results)
        self.crew = worker._Crew(setup, guards, self.channel, self.page)
        self.jobs: list[wire.JobItem] = []

    def run(self, attack: str) -> None:
        """Say HELLO, unless the attack is one on that, and attack."""
        name = attack.removeprefix("early:")
        if name == attack and name not in HELLO_ATTACKS:
            self.hello()
        (ATTACKS.get(name) or HELLO_ATTACKS[name])(self)
        self.linger()

    def hello(self, **changes: Any) -> None:
        """An honest HELLO, but for the fields given."""
        failure = self.crew.initialise()
        frame = wire.Hello(
            wire.PROTOCOL, os.getpid(), {"everything": "on"}, self.crew.answers, self.crew.init_logs, failure
        )
        self.send(msgspec.structs.replace(frame, **changes))

    def work_until_evil(self, attack: Callable[[Traitor], None]) -> int:
        """Honest until it meets an evil job, which is the first of `jobs` then, as in a guard that lets a job break it."""
        self.hello()
        run = self.crew._run

        def look_and_run(frame: wire.Jobs) -> bool:
            at = next((at for at, job in enumerate(frame.jobs) if job.payload.startswith(EVIL)), None)
            if at is None:
                return run(frame)
            if at:
                run(wire.Jobs(frame.jobs[:at]))
            self.jobs = list(frame.jobs[at:])
            self.show(self.jobs[0].seq)
            attack(self)
            self.linger()
            return False

        self.crew._run = look_and_run  # type: ignore[method-assign]
        return self.crew.work()

    # --- what it may do

    def raw(self, data: bytes) -> None:
        """Write bytes to the pipe of results; ends the process where the supervisor hung up."""
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
        """A frame of whatever fields, whole and of the length its header says."""
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


# --- bytes that are no frames


@attack
def header_of_4_gib(t: Traitor) -> None:
    t.raw(b"\xff\xff\xff\xff")


@attack
def frame_over_the_limit(t: Traitor) -> None:
    t.raw(struct.pack("<I", wire.MAX_FRAME_BYTES + 1) + bytes(MIB))


@attack
def no_msgpack(t: Traitor) -> None:
    t.raw(struct.pack("<I", 7) + b"\xc1GARBAGE"[:7])


@attack
def text(t: Traitor) -> None:
    t.raw(b"Traceback (most recent call last):\n  Oops\x1b[2J\n" * 50)


@attack
def empty_frame(t: Traitor) -> None:
    t.raw(bytes(4))


@attack
def nested_a_million_deep(t: Traitor) -> None:
    t.raw(struct.pack("<I", 1_000_000) + b"\x91" * 1_000_000)


@attack
def frames_of_the_other_direction(t: Traitor) -> None:
    t.send(wire.Drain())  # type: ignore[arg-type]


@attack
def a_frame_with_a_field_too_many(t: Traitor) -> None:
    t.send_any("BYE", 1)


@attack
def half_a_header_then_silence(t: Traitor) -> None:
    t.raw(b"\x40\x00")


@attack
def half_a_frame_then_silence(t: Traitor) -> None:
    data = wire.encode(wire.Results([t.answer(job) for job in t.take()]))
    t.raw(data[: len(data) // 2])


@attack
def half_of_the_largest_frame_then_silence(t: Traitor) -> None:
    t.take()
    t.raw(struct.pack("<I", wire.MAX_FRAME_BYTES) + b"\x92\xa7RESULTS" + bytes(16 * MIB))


@attack
def half_a_frame_then_exit(t: Traitor) -> None:
    t.raw(wire.encode(wire.Results([t.answer(job) for job in t.take()]))[:-3])
    os._exit(0)


@attack
def one_byte_at_a_time(t: Traitor) -> None:
    # A frame that never ends, and a wake-up of the supervisor for each byte of it.
    t.raw(struct.pack("<I", wire.MAX_FRAME_BYTES))
    while True:
        t.raw(b"\x92")


@attack
def one_byte_at_a_time_with_jobs_in_hand(t: Traitor) -> None:
    t.take()
    one_byte_at_a_time(t)


# --- results that are not due


@attack
def results_for_jobs_it_never_got(t: Traitor) -> None:
    t.send(wire.Results([wire.ResultItem(2**40, "ok", LABEL % 1, 1, 0, [])]))


@attack
def results_for_jobs_of_others(t: Traitor) -> None:
    # Numbers are handed out in order, so that those of its neighbours are easy to guess.
    mine = {job.seq for job in t.take()}
    near = min(mine)
    foreign = [seq for seq in range(1, near + 500) if seq not in mine]
    for seq in foreign:
        t.send(wire.Results([wire.ResultItem(seq, "ok", LABEL % 0, 1, 0, [])]))


@attack
def results_twice(t: Traitor) -> None:
    frame = wire.Results([t.answer(job) for job in t.take()])
    t.send(frame)
    t.send(frame)


@attack
def one_result_twice_in_a_frame(t: Traitor) -> None:
    first = t.answer(t.take()[0])
    t.send(wire.Results([first, first]))


@attack
def results_after_bye(t: Traitor) -> None:
    frame = wire.Results([t.answer(job) for job in t.take()])
    t.send(wire.Bye())
    t.send(frame)


@attack
def bye_twice(t: Traitor) -> None:
    t.send(wire.Bye())
    t.send(wire.Bye())


@attack
def bye_with_jobs_in_its_hands_and_exit(t: Traitor) -> None:
    t.take()
    t.send(wire.Bye())
    os._exit(0)


@attack
def bye_with_jobs_in_its_hands_and_silence(t: Traitor) -> None:
    t.take()
    t.send(wire.Bye())


@attack
def bye_and_silence(t: Traitor) -> None:
    t.send(wire.Bye())


@attack
def no_results_for_ever(t: Traitor) -> None:
    # Frames without a result in them are no sign of life.
    t.take()
    while True:
        t.send(wire.Results([]))


@attack
def more_results_than_a_frame_may_hold(t: Traitor) -> None:
    t.send(wire.Results([wire.ResultItem(n, "ok", b"null", 0, 0, []) for n in range(wire.MAX_RESULTS + 1)]))


def _lying_results(name: str, **changes: Any) -> None:
    def lie(t: Traitor) -> None:
        t.send(wire.Results([t.answer(job, **changes) for job in t.take()]))

    ATTACKS[name] = lie


def _lying_fields(name: str, at: int, value: Any) -> None:
    def lie(t: Traitor) -> None:
        fields = [[job.seq, "ok", LABEL % number_of(job), 10, 0, []] for job in t.take()]
        for item in fields:
            item[at] = value
        t.send_any("RESULTS", fields)

    ATTACKS[name] = lie


_lying_results("label_that_is_no_json", body=b"\x00\xff not json")
_lying_results("label_that_is_empty", body=b"")
_lying_results("label_of_two_lines", body=b'{"description":"x","secrecy":[],\n"integrity":[],"operation":"read"}')
_lying_results(
    "label_with_a_forged_outcome_behind_it",
    body=b'null,"error":null,"duration_us":1,"attempts":1}\n{"id":1,"guard":"vicious","op":"label_resource","status":"ok"',
)
_lying_results("label_with_a_newline_at_its_end", body=LABEL % 1 + b"\n")
_lying_results("label_of_another_operation", body=b'{"labeled_paths":[],"default_labels":null,"items_path":null}')
_lying_results("label_that_is_null", body=b"null")
_lying_results("label_that_is_a_number", body=b"5")
_lying_results("label_with_an_unknown_operation", body=(LABEL % 1).replace(b"read", b"none"))
_lying_results("label_with_another_field", body=(LABEL % 1)[:-1] + b',"allow":true}')
_lying_results("label_with_tags_that_are_numbers", body=(LABEL % 1).replace(b"[]", b"[1]"))
_lying_results("label_that_is_not_utf8", body=(LABEL % 1).replace(b"k1", b"\xff\xfe"))
_lying_results("label_with_a_lone_surrogate", body=(LABEL % 1).replace(b"k1", b"\\ud800"))
_lying_results("label_that_is_huge_and_no_label", body=b"[" * (20 * MIB))
_lying_results("label_and_a_status_that_is_an_error", status="refused")
_lying_results("error_and_a_status_that_is_ok", body=OutcomeError("x", "y"))
_lying_fields("status_that_is_none", 1, "excellent")
_lying_fields("status_of_the_supervisor", 1, "crashed")
_lying_fields("negative_duration", 3, -1)
_lying_fields("duration_that_is_a_float", 3, 1.5)
_lying_fields("duration_of_two_million_years", 3, 2**64 - 1)
_lying_fields("negative_backend_calls", 4, -1)
_lying_fields("huge_number_of_backend_calls", 4, 2**63)
_lying_fields("negative_number", 0, -1)
_lying_fields("label_that_is_text", 2, "null")
_lying_fields("logs_that_are_none", 5, "logs")
_lying_fields("log_line_of_a_level_that_is_none", 5, [[2**62, "x"]])


# --- floods


@attack
def flood_of_empty_strings_in_logs(t: Traitor) -> None:
    # Three bytes a line in a frame, a hundred in memory.
    body = b"\x92\x02\xa0" * 10_000_000
    item = msgspec.msgpack.encode([t.take()[0].seq, "ok", LABEL % 1, 1, 0])[1:]
    data = b"\x92\xa7RESULTS\x91\x96" + item + b"\xdd" + struct.pack(">I", 10_000_000) + body
    t.raw(struct.pack("<I", len(data)) + data)


@attack
def flood_of_strings_in_an_error(t: Traitor) -> None:
    error = {"code": "x", "message": "y", "backend": ["ab"] * 5_000_000}
    t.send_any("RESULTS", [[job.seq, "refused", error, 1, 0, []] for job in t.take()[:1]])


@attack
def flood_of_logs(t: Traitor) -> None:
    logs = [LogLine(3, "x" * MIB)] * 20
    while True:
        job = t.take().pop(0)
        t.send(wire.Results([t.answer(job, logs=logs)]))


@attack
def errors_of_16_mib(t: Traitor) -> None:
    error = OutcomeError("c" * MIB, "m" * (15 * MIB), trap="t" * MIB)
    while True:
        job = t.take().pop(0)
        t.send(wire.Results([t.answer(job, status="refused", body=error)]))


@attack
def flood_of_standard_error(t: Traitor) -> None:
    line = b"\x1b[31mlook at me\x07\n" * 4000
    while True:
        os.write(2, line)


@attack
def flood_of_hellos(t: Traitor) -> None:
    while True:
        t.hello()


@attack
def flood_of_byes(t: Traitor) -> None:
    t.raw(wire.encode(wire.Bye()) * 100_000)


@attack
def flood_of_zeros(t: Traitor) -> None:
    while True:
        t.raw(bytes(MIB))


# --- backend calls


@attack
def backend_call_for_a_job_it_does_not_hold(t: Traitor) -> None:
    t.send(wire.BackendCall(2**40, 0, "ask", b"{}"))


@attack
def backend_call_for_no_job(t: Traitor) -> None:
    t.send(wire.BackendCall(0, 0, "ask", b"{}"))


@attack
def backend_call_of_a_guard_out_of_range(t: Traitor) -> None:
    t.send(wire.BackendCall(t.take()[0].seq, 99, "ask", b"{}"))


@attack
def backend_call_of_a_negative_guard(t: Traitor) -> None:
    t.send(wire.BackendCall(t.take()[0].seq, -1, "ask", b"{}"))


@attack
def backend_calls_without_waiting(t: Traitor) -> None:
    call = wire.encode(wire.BackendCall(t.take()[0].seq, 0, "ask", b"{}"))
    while True:
        t.raw(call)


@attack
def backend_calls_without_end(t: Traitor) -> None:
    call = wire.BackendCall(t.take()[0].seq, 0, "ask", b"{}")
    while True:
        t.send(call)
        while not isinstance(t.channel.receive(), wire.BackendReply):
            pass


@attack
def backend_calls_for_one_job_after_the_other(t: Traitor) -> None:
    # Each is the sign of life of another job, so that none ever seems to last long.
    t.take()
    while True:
        for job in t.jobs:
            t.show(job.seq)
            t.send(wire.BackendCall(job.seq, 0, "ask", b"{}"))
            while not isinstance(t.channel.receive(), wire.BackendReply):
                pass


@attack
def backend_calls_whose_answers_nobody_reads(t: Traitor) -> None:
    call = wire.BackendCall(t.take()[0].seq, 0, "big", b"{}")
    while True:
        t.send(call)
        time.sleep(0.02)


@attack
def backend_call_with_huge_arguments(t: Traitor) -> None:
    t.send(wire.BackendCall(t.take()[0].seq, 0, "ask", b"[" + b"[]," * (10 * MIB) + b"[]]"))


@attack
def backend_call_of_a_huge_tool(t: Traitor) -> None:
    t.send(wire.BackendCall(t.take()[0].seq, 0, "x" * (20 * MIB), b"{}"))


@attack
def backend_call_then_a_result_for_the_same_job(t: Traitor) -> None:
    job = t.take()[0]
    t.send(wire.BackendCall(job.seq, 0, "slow", b"{}"))
    t.send(wire.Results([t.answer(job)]))


# --- the progress page


@attack
def page_of_a_job_it_does_not_hold(t: Traitor) -> None:
    t.take()
    t.show(2**64 - 1)


@attack
def page_of_another_job_all_the_time(t: Traitor) -> None:
    t.take()
    while True:
        for seq in range(1, 100_000):
            t.show(seq)


@attack
def page_of_its_jobs_in_turn_without_a_result(t: Traitor) -> None:
    t.take()
    while True:
        for job in t.jobs:
            t.show(job.seq)


@attack
def page_with_a_start_in_the_future(t: Traitor) -> None:
    t.show(t.take()[0].seq, 2**64 - 1)


@attack
def page_with_a_start_of_0(t: Traitor) -> None:
    t.show(t.take()[0].seq, 0)


@attack
def page_that_never_holds_still(t: Traitor) -> None:
    # The supervisor believes a pair only when it reads it twice.
    t.show(t.take()[0].seq)
    page = t.page
    while True:
        page[STARTED_NS] = page[STARTED_NS] ^ 1


@attack
def page_full_of_noise(t: Traitor) -> None:
    t.take()
    page, random = t.page, t.random
    while True:
        for at in range(8):
            page[at] = random.getrandbits(64)


@attack
def page_that_says_done_and_initialising(t: Traitor) -> None:
    t.take()
    t.page[DONE] = 2**64 - 1
    t.page[INITIALISING] = 1


@attack
def page_cut_to_nothing(t: Traitor) -> None:
    # Whoever reads a mapping past the end of its file dies of SIGBUS.
    with contextlib.suppress(OSError):
        os.ftruncate(t.fds.page, 0)
    t.take()


@attack
def page_grown_and_punched(t: Traitor) -> None:
    for size in (1 << 40, 1, 0):
        with contextlib.suppress(OSError):
            os.ftruncate(t.fds.page, size)
    with contextlib.suppress(OSError):
        fcntl.fcntl(t.fds.page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
    t.take()


# --- pipes and processes


@attack
def closes_its_pipes(t: Traitor) -> None:
    os.close(t.fds.results)
    os.close(t.fds.jobs)


@attack
def closes_its_pipes_with_jobs_in_hand(t: Traitor) -> None:
    t.take()
    os.close(t.fds.results)
    os.close(t.fds.jobs)
    os.close(t.fds.stderr)
    os.close(2)


@attack
def never_reads_its_pipe(t: Traitor) -> None:
    t.linger()


@attack
def shrinks_its_pipes(t: Traitor) -> None:
    for fd in (t.fds.jobs, t.fds.results, t.fds.stderr):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)
    t.linger()


@attack
def plays_with_the_flags_of_its_pipes(t: Traitor) -> None:
    # The supervisor's ends are other open file descriptions; were they not, its writes could block from now on.
    for fd in (t.fds.jobs, t.fds.results, t.fds.stderr):
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        with contextlib.suppress(OSError):
            again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
            fcntl.fcntl(again, fcntl.F_SETFL, os.O_APPEND)
    t.linger()


@attack
def fills_its_own_jobs_pipe(t: Traitor) -> None:
    # Frames of the supervisor's do not fit any more and are kept there.
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/self/fd/{t.fds.jobs}", os.O_WRONLY | os.O_NONBLOCK)
        while True:
            os.write(fd, bytes(65536))
    t.linger()


@attack
def reads_its_own_results(t: Traitor) -> None:
    fd = os.open(f"/proc/self/fd/{t.fds.results}", os.O_RDONLY)
    t.send(wire.Results([t.answer(job) for job in t.take()]))
    os.read(fd, MIB)


@attack
def ignores_drain(t: Traitor) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        items = [t.answer(job) for job in t.take()]
        t.jobs.clear()
        t.send(wire.Results(items))


def _leaving(name: str, leave: Callable[[], object]) -> None:
    def go(t: Traitor) -> None:
        t.take()
        leave()

    ATTACKS[name] = go


_leaving("exits_with_0", lambda: os._exit(0))
_leaving("exits_with_255", lambda: os._exit(255))
_leaving("exits_with_minus_1", lambda: os._exit(-1))
_leaving("dies_of_a_real_time_signal", lambda: os.kill(os.getpid(), signal.SIGRTMAX))
_leaving("stops_itself", lambda: os.kill(os.getpid(), signal.SIGSTOP))
_leaving("aborts", os.abort)


@attack
def stays_behind_as_a_child(t: Traitor) -> None:
    # A child that holds the pipes open and writes on, after the worker is dead. The sandbox forbids it; this one has none.
    t.take()
    parent = os.getppid()
    if os.fork():
        os._exit(3)
    linux.set_parent_death_signal(os.getppid())
    end = time.monotonic() + 3
    while time.monotonic() < end and os.path.exists(f"/proc/{parent}"):
        os.write(2, b"still here " * 1000)
    os._exit(0)


# --- HELLO


@hello_attack
def hello_twice(t: Traitor) -> None:
    t.hello()
    t.hello()


@hello_attack
def hello_of_another_protocol(t: Traitor) -> None:
    t.hello(protocol=2)


@hello_attack
def hello_with_other_answers(t: Traitor) -> None:
    t.hello(agents=[b'{"agent":{"secrecy":["other"],"integrity":[]},"difc_mode":"strict"}'])


@hello_attack
def hello_with_answers_that_are_none(t: Traitor) -> None:
    t.hello(agents=[b"\xff"])


@hello_attack
def hello_with_no_answers(t: Traitor) -> None:
    t.hello(agents=[])


@hello_attack
def hello_with_a_million_answers(t: Traitor) -> None:
    t.hello(agents=[b"{}"] * 1_000_000)


@hello_attack
def hello_that_says_it_failed_and_stays(t: Traitor) -> None:
    t.hello(failure=wire.InitFailure("guard", 0, "so sorry\x1b[2J"))


@hello_attack
def hello_that_says_the_sandbox_failed(t: Traitor) -> None:
    t.hello(failure=wire.InitFailure("sandbox", 0, "not here"))
    os._exit(1)


@hello_attack
def hello_with_a_huge_sandbox(t: Traitor) -> None:
    t.hello(sandbox={f"feature{n}": "on" for n in range(500_000)})


@hello_attack
def hello_with_a_flood_of_logs(t: Traitor) -> None:
    t.hello(logs=[wire.GuardLog(0, 3, "")] * 3_000_000)


@hello_attack
def hello_with_an_answer_of_brackets(t: Traitor) -> None:
    policy = b"[" + b"[]," * (4 * MIB) + b"[]]"
    t.hello(agents=[b'{"agent":{"secrecy":[],"integrity":[]},"difc_mode":"strict","normalized_policy":%b}' % policy])


@hello_attack
def silence_instead_of_hello(t: Traitor) -> None:
    t.linger()


@hello_attack
def bye_instead_of_hello(t: Traitor) -> None:
    t.send(wire.Bye())


@hello_attack
def results_instead_of_hello(t: Traitor) -> None:
    t.send(wire.Results([wire.ResultItem(1, "ok", LABEL % 1, 1, 0, [])]))


@hello_attack
def backend_calls_without_end_instead_of_hello(t: Traitor) -> None:
    t.page[INITIALISING] = 1
    while True:
        t.send(wire.BackendCall(0, 0, "ask", b"{}"))
        t.channel.receive()


# --- lots


def _wild_value(random: Random, depth: int = 0) -> Any:
    kind = random.randrange(12 if depth < 4 else 9)
    if kind < 3:
        return random.choice([0, 1, -1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), random.randrange(1000)])
    if kind < 5:
        return random.choice(
            ["", "ok", "trap", "RESULTS", "HELLO", "BYE", "guard", "x" * random.randrange(300), "\x00\n"]
        )
    if kind < 7:
        return random.choice([b"", b"null", b"{}", LABEL % 1, random.randbytes(random.randrange(100))])
    if kind == 7:
        return random.choice([None, True, False, 1.5, float("nan")])
    if kind == 8:
        return {}
    if kind == 9:
        return {str(_wild_value(random, depth + 4)): _wild_value(random, depth + 1) for _ in range(random.randrange(4))}
    return [_wild_value(random, depth + 1) for _ in range(random.randrange(7))]


def _wild_frame(t: Traitor) -> bytes:
    """The bytes of one frame: a right one, one that is nearly right, or noise."""
    random = t.random
    seqs = [job.seq for job in t.jobs] or [1]
    seq = random.choice([*seqs, random.randrange(1, 2000), 0, 2**63])
    item = [
        seq,
        random.choice(["ok", "refused", "trap"]),
        random.choice([LABEL % 1, b"null", {"code": "c", "message": "m"}]),
    ]
    fields: list[Any] = random.choice(
        [
            ["RESULTS", [[*item, random.randrange(100), 0, []]]],
            ["RESULTS", [[*item, random.randrange(100), 0, [[random.randrange(5), "line"]]]] * random.randrange(4)],
            ["BACKEND_CALL", seq, random.randrange(-1, 2), "ask", random.choice([b"{}", b"", b"{"])],
            ["BYE"],
            ["HELLO", 1, 1, {}, [b"{}"], [], None],
            ["HELLO", 1, 1, {}, [], [], ["guard", 0, "failed"]],
            [random.choice(["RESULTS", "BYE", "JOBS", "DRAIN"]), _wild_value(random)],
            [_wild_value(random) for _ in range(random.randrange(5))],
        ]
    )
    if random.random() < 0.4:  # somewhere in it something else
        place: Any = fields
        while isinstance(place, list) and place:
            at = random.randrange(len(place))
            if not isinstance(place[at], list) or random.random() < 0.4:
                place[at] = _wild_value(random)
                break
            place = place[at]
    try:
        body = bytearray(msgspec.msgpack.encode(fields))
    except (OverflowError, ValueError, TypeError):
        body = bytearray(b"\xc1")
    if random.random() < 0.3:
        for _ in range(random.randrange(1, 4)):
            if body:
                body[random.randrange(len(body))] = random.randrange(256)
    if random.random() < 0.1:
        body = bytearray(random.randbytes(random.randrange(200)))
    length = len(body) if random.random() < 0.9 else random.choice([0, 1, len(body) + 1, 2**25, 2**32 - 1])
    return struct.pack("<I", length) + body


@attack
def wild(t: Traitor) -> None:
    """Frames by lot, cut by lot, with a page by lot; then exit, silence, or a closed pipe."""
    random = t.random
    if random.random() < 0.7:
        t.take()
    for _ in range(random.choice([1, 1, 2, 5, 20])):
        if random.random() < 0.3:
            t.page[random.randrange(8)] = random.choice([0, 1, 2**64 - 1, random.randrange(2000)])
        data = _wild_frame(t)
        while data:
            at = random.choice([len(data), len(data), random.randrange(1, len(data) + 1)])
            t.raw(data[:at])
            data = data[at:]
    end = random.random()
    if end < 0.6:
        os._exit(random.choice([0, 1, 70, 255]))
    if end < 0.8:
        os.close(t.fds.results)
    if end < 0.9:
        t.raw(b"\xff" * 100)


@contextlib.contextmanager
def watched_rss() -> Iterator[Callable[[], int]]:
    """By how many bytes this process's resident set was larger than at the start, at its largest."""
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
