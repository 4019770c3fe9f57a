"""Attacks by what is done: backend calls, the progress page, pipes, ways to leave, HELLO."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import time
from collections.abc import Callable

from guardpool.outcomes import OutcomeError
from guardpool.protocol import wire
from guardpool.protocol.log_tail import LogTail
from guardpool.protocol.progress_page import (
    DONE,
    INITIALISING,
    LOG_END,
    LOG_LINES,
    LOG_RING,
    PAGE_BYTES,
    SEQ,
    STARTED_NS,
    STARVED,
)
from guardpool_worker import linux
from hostile import ATTACKS, LABEL, MIB, Attack, Traitor, attack, hello_attack
from hostile_frames import bye_with_jobs_in_its_hands_and_exit, bytes_that_are_not_msgpack

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
    # Each call is the sign of life of another job, so no job ever seems to last long.
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


@attack
def backend_call_for_a_job_before_the_last_that_asked(t: Traitor) -> None:
    first, second = two_of(t)
    t.send(wire.BackendCall(second.seq, 0, "ask", b"{}"))
    while not isinstance(t.channel.receive(), wire.BackendReply):
        pass
    t.send(wire.BackendCall(first.seq, 0, "ask", b"{}"))


@attack
def result_of_the_job_that_waits_after_a_recall(t: Traitor) -> None:
    _, second = two_of(t)
    wait_for_recall(t, second)
    t.send(wire.Results([t.answer(second)]))


@attack
def trap_of_a_job_before_the_one_that_waits(t: Traitor) -> None:
    first, second = two_of(t)
    wait_for_recall(t, second)
    t.send(wire.Results([t.answer(first, status="trap", body=OutcomeError("trap", "unreachable"))]))


@attack
def keeps_its_results_while_it_waits(t: Traitor) -> None:
    wait_for_recall(t, two_of(t)[1])


def two_of(t: Traitor) -> list[wire.JobItem]:
    """Two jobs that it holds, in order."""
    while len(t.jobs) < 2:
        frame = t.channel.receive()
        if frame is None:
            os._exit(0)
        if isinstance(frame, wire.Jobs):
            t.jobs += frame.jobs
    return t.jobs[:2]


def wait_for_recall(t: Traitor, job: wire.JobItem) -> None:
    """Ask for the job what is answered late."""
    t.show(job.seq)
    t.send(wire.BackendCall(job.seq, 0, "slow", b"{}"))
    while not isinstance(t.channel.receive(), wire.Recall):
        pass


# --- its slots


@attack
def scribbles_over_its_slots(t: Traitor) -> None:
    # Only without a sandbox can it open its descriptor anew, for writing.
    fd = os.open(f"/proc/self/fd/{t.fds.slots}", os.O_RDWR)
    for size in (0, 1, 1 << 40):
        with contextlib.suppress(PermissionError):  # it is sealed
            os.ftruncate(fd, size)
    with mmap.mmap(fd, 0) as slots:
        for _ in range(20):
            slots[:] = t.random.randbytes(1 << 16) * (len(slots) >> 16)
            slots.madvise(mmap.MADV_REMOVE)


# --- the progress page


@attack
def page_of_a_job_it_does_not_hold(t: Traitor) -> None:
    t.show(2**64 - 1)


@attack
def page_of_another_job_all_the_time(t: Traitor) -> None:
    while True:
        for seq in range(2**40, 2**40 + 100_000):
            t.show(seq)


@attack
def page_of_its_jobs_in_turn_without_a_result(t: Traitor) -> None:
    while len(t.take()) < 2:  # with one job alone it would only be a job that lasts
        t.answer_all()
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
    # The supervisor believes a pair of number and start only if it reads the same pair twice.
    t.show(t.take()[0].seq)
    page = t.page
    while True:
        page[STARTED_NS] = page[STARTED_NS] ^ 1


@attack
def page_full_of_noise(t: Traitor) -> None:
    page, random = t.page, t.random
    while True:
        for at in range(len(page)):
            page[at] = random.getrandbits(64)


@attack
def log_tail_full_of_escapes_and_exit(t: Traitor) -> None:
    # The newest record is of level 3 and holds what a terminal must not get; the ones before it are noise.
    job, page = t.take()[0], t.page
    for at in range(LOG_RING, len(page)):
        page[at] = t.random.getrandbits(64)
    tail = LogTail(page)
    t.show(job.seq)
    tail.begin()
    tail.add(3, b"\x1b[2J\xff\xe2\x80\xae" + b"x" * 100)
    page[LOG_END], page[LOG_LINES] = 2**64 - 8 * 7, 2**64 - 1
    at = LOG_RING + page[LOG_END] % (PAGE_BYTES - LOG_RING * 8) // 8
    words = b"\x1b[2J\xff\xe2\x80\xae".ljust(8, b"x")
    page[at - 2], page[at - 1] = int.from_bytes(words, "little"), 2**63 | 8 << 8 | 3
    os._exit(3)


@attack
def log_tail_of_another_job_and_exit(t: Traitor) -> None:
    job, page = t.take()[0], t.page
    tail = LogTail(page)
    t.show(job.seq + 2**40)
    tail.begin()
    tail.add(3, b"of another job")
    t.show(job.seq)
    os._exit(3)


@attack
def page_that_says_done_and_initialising(t: Traitor) -> None:
    t.page[DONE] = 2**64 - 1
    t.page[INITIALISING] = 1


@attack
def page_cut_to_nothing(t: Traitor) -> None:
    # A process that reads a mapping past the end of its file dies of SIGBUS.
    with contextlib.suppress(OSError):
        os.ftruncate(t.fds.page, 0)


@attack
def page_grown_and_punched(t: Traitor) -> None:
    for size in (1 << 40, 1, 0):
        with contextlib.suppress(OSError):
            os.ftruncate(t.fds.page, size)
    with contextlib.suppress(OSError):
        fcntl.fcntl(t.fds.page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)


# --- memory


@attack
def fills_memory_while_it_is_idle(t: Traitor) -> None:
    # It does not say that it did a job, so nothing tells that there is something to look at.
    t.answer_all()
    time.sleep(0.3)  # the look after the last job is over
    block = mmap.mmap(-1, 200 * MIB)  # shared: RLIMIT_DATA would not count it either
    for at in range(0, len(block), mmap.PAGESIZE):
        block[at] = 1
    t.linger()


@attack
def traps_of_full_memories_only(t: Traitor) -> None:
    # It claims that jobs fail because of others, and takes the next ones; it says nothing of an instance that is dead.
    t.page[STARVED] = 2**64 - 1
    error = OutcomeError("trap", "unreachable", trap="unreachable")
    while True:
        t.send(wire.Results([t.answer(job, status="trap", body=error) for job in t.take()]))
        t.jobs.clear()


# --- pipes and processes


@attack
def closes_its_pipes(t: Traitor) -> None:
    os.close(t.fds.results)
    os.close(t.fds.jobs)


@attack
def closes_its_pipes_with_jobs_in_hand(t: Traitor) -> None:
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
    # The supervisor's ends must be other open file descriptions, or its writes could block from now on.
    for fd in (t.fds.jobs, t.fds.results, t.fds.stderr):
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        with contextlib.suppress(OSError):
            again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
            fcntl.fcntl(again, fcntl.F_SETFL, os.O_APPEND)
    t.linger()


@attack
def fills_its_own_jobs_pipe(t: Traitor) -> None:
    # The supervisor's frames no longer fit, so it has to keep them.
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
    # A child holds the pipes open and writes on after the worker is dead. The sandbox forbids it, but this worker has none.
    parent = os.getppid()
    if os.fork():
        os._exit(3)
    linux.set_parent_death_signal(os.getppid())
    end = time.monotonic() + 3
    while time.monotonic() < end and os.path.exists(f"/proc/{parent}"):
        os.write(2, b"still here " * 1000)
    os._exit(0)


# --- workers that hide which job they run


def _hiding(name: str, how: Attack) -> None:
    def hide(t: Traitor) -> None:
        t.page[SEQ] = 0
        how(t)

    ATTACKS[name] = hide


_hiding("hides_and_exits", lambda t: os._exit(3))
_hiding("hides_and_exits_with_0", lambda t: os._exit(0))
_hiding("hides_and_hangs", lambda t: t.linger())
_hiding("hides_and_sends_noise", bytes_that_are_not_msgpack)
_hiding("hides_and_says_bye", bye_with_jobs_in_its_hands_and_exit)


# --- HELLO


@hello_attack
def hello_twice(t: Traitor) -> None:
    t.hello()
    t.hello()


@hello_attack
def hello_of_another_protocol(t: Traitor) -> None:
    t.hello(protocol=wire.PROTOCOL + 1)


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
