"""What other process pools get wrong, one test each. The docstrings say which pool does what."""

from __future__ import annotations

import array
import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from guardpool import Job, Limits, LimitsError, Outcome
from guardpool.supervise import watchdog
from guardpool.supervise.endings import Endings
from guardpool.supervise.reactor import EpollReactor
from guardpool.supervise.worker_handle import State, WorkerHandle
from guardpool_worker import linux
from paths import KITS
from poolkit import (
    MIB,
    WAIT_S,
    Gate,
    ask,
    assert_right,
    forkserver_pid,
    guard,
    job,
    jobs,
    only_worker,
    pool,
    ready_workers,
    run_in_forkservers,
    statuses,
    wait_until,
    wait_until_gone,
)

# --- one worker's death


def test_a_workers_death_fails_no_job_of_another_worker() -> None:
    """concurrent.futures and loky fail every job of the pool with BrokenProcessPool; multiprocessing.Pool hangs."""
    gate = Gate()
    with pool(guard(backend=gate), workers=2, limits=Limits(timeout_s=WAIT_S, max_attempts=1)) as p:
        victim = p.submit(job(0, "b"))
        assert gate.entered.acquire(timeout=WAIT_S)
        others = [p.submit(job(n, "w")) for n in range(1, 300)]
        wait_until(lambda: any(worker.jobs for worker in p.stats().workers), "the other worker's first results")
        (pid,) = (worker.pid for worker in p.stats().workers if not worker.jobs)
        os.kill(pid, signal.SIGKILL)
        assert_right([future.result(WAIT_S) for future in (victim, *others)], {0: "crashed"}, 300)
        gate.open.set()


def test_an_idle_workers_death_breaks_nothing() -> None:
    """concurrent.futures, loky and pebble take the death of a worker that did nothing for the end of the pool."""
    with pool() as p:
        for worker in p.stats().workers:
            os.kill(worker.pid, signal.SIGKILL)
        assert_right(list(p.map(jobs(50))), {}, 50)


# --- what is shared between workers


def test_a_stopped_worker_never_holds_a_lock_that_others_need() -> None:
    """Pools with one queue for all workers guard it with a lock: a worker stopped or killed with it stops all others."""
    with pool(workers=2, limits=Limits(timeout_s=WAIT_S)) as p:
        outcomes = p.map((job(n, "w") for n in range(400)), ordered=False)
        seen = [next(outcomes) for _ in range(20)]
        pid = p.stats().workers[0].pid
        for _ in range(8):
            os.kill(pid, signal.SIGSTOP)
            # Everything but what that worker holds already: two frames at most.
            seen += [next(outcomes) for _ in range(20)]
            os.kill(pid, signal.SIGCONT)
        seen += outcomes
        assert_right(seen, {}, 400)


def test_workers_hold_no_descriptor_of_their_siblings() -> None:
    """If a sibling inherited the write end of a pipe, end-of-file never comes and the reader waits for ever."""
    # Without the sandbox: it makes /proc/PID/fd unreadable, and descriptors are closed with and without it.
    with pool(workers=3, sandbox="off") as p:
        killed = ready_workers(p)[0]
        os.kill(killed, signal.SIGKILL)  # its successor is forked beside the others' pipes
        wait_until(lambda: len(ready_workers(p)) == 3 and killed not in ready_workers(p), "a successor")
        pipes = [_pipes(pid) for pid in ready_workers(p)]
        assert [len(of_one) for of_one in pipes] == [3, 3, 3]  # jobs, results, standard error
        assert len(set.union(*pipes)) == 9
        # The forkserver closes its copies after the fork, perhaps a moment after the worker is ready.
        server = forkserver_pid(p)
        wait_until(lambda: not _pipes(server) & set.union(*pipes), "the forkserver to let go of its workers' pipes")


def _pipes(pid: int) -> set[str]:
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith(("pipe:", "socket:")):
            found.add(target)
    return found


_CALLER = """
import os, signal, sys, threading
sys.path.insert(0, {tests!r})
from poolkit import pool, job, forkserver_pid
p = pool()
p.label_resource("k1")
p.submit(job(2, "s"))
child = os.fork()
if child == 0:
    os.close(1)
    signal.pause()
print(child, *[w.pid for w in p.stats().workers], forkserver_pid(p), flush=True)
threading.Event().wait()
"""


def test_workers_die_with_their_caller_even_if_its_fork_holds_the_pipes() -> None:
    """Pools that only wait for end-of-file leave orphans if multiprocessing forked the caller meanwhile."""
    code = _CALLER.format(tests=str(KITS))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as out:
        child, *pids = (int(word) for word in out.readline().split())
    try:
        process.kill()
        process.wait(WAIT_S)
        wait_until_gone(*pids)
        assert psutil.pid_exists(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_that_asks_for_the_signal_after_its_parents_death_dies() -> None:
    """PR_SET_PDEATHSIG sends nothing for a parent that is dead already: set, then look at the parent's pid."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            pid = os.getpid()
            if os.fork() == 0:
                wait_until(lambda: os.getppid() != pid, "the parent's end")
                os.write(write, b"orphan")
                linux.set_parent_death_signal(pid)
                os.write(write, b" lives on")
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(parent, 0)
    with open(read, "rb") as said:
        assert said.read() == b"orphan"


def test_workers_outlive_the_thread_whose_command_had_them_started() -> None:
    """The kernel takes a thread's end for the parent's death: a pool that starts workers on callers' threads loses them."""
    with pool(workers=1) as p:
        old = ready_workers(p)
        os.kill(forkserver_pid(p), signal.SIGKILL)
        answers: list[Outcome] = []
        thread = threading.Thread(target=lambda: answers.append(p.label_resource("k1")))
        thread.start()
        thread.join(WAIT_S)
        (pid,) = wait_until(lambda: ready_workers(p) != old and ready_workers(p), "a worker of the new forkserver")
        assert p.label_resource("k2").status == answers[0].status == "ok"
        assert ready_workers(p) == [pid]


# --- pipes that are full


def test_inputs_and_answers_larger_than_any_pipe_do_not_block_each_other() -> None:
    """If both sides write and neither reads, blocking writes wait for each other for ever."""
    size = 3 * MIB

    def name(number: int) -> str:
        return f"{'k' if number % 2 else 'b'}{number}-" + chr(97 + number % 26) * size

    made = (Job(number, "label_resource", name(number)) for number in range(20))
    with pool(guard(backend=lambda _tool, _args: "y" * 200), workers=2, limits=Limits(timeout_s=WAIT_S)) as p:
        outcomes = p.map(made)
        first = next(outcomes)
        for _ in range(10):  # the large outcomes are not taken meanwhile
            assert p.label_resource("k1").status == "ok"
        for number, outcome in enumerate([first, *outcomes]):
            assert (outcome.id, outcome.status) == (number, "ok")
            got = outcome.label.description  # type: ignore[union-attr]
            assert hashlib.sha256(got.encode()).digest() == hashlib.sha256(name(number).encode()).digest()


def test_wake_ups_never_fill_the_pipe_that_carries_them() -> None:
    """python/cpython#105829: with one wake-up for each call, many calls fill the pipe and the caller waits with a lock held."""
    carried: list[Any] = []
    reactor = EpollReactor(carried.append)
    try:
        for number in range(100_000):  # more than a pipe holds, and it is not read
            reactor.post((number,))
        waiting = array.array("i", [0])
        fcntl.ioctl(reactor._wake_read, termios.FIONREAD, waiting)
        assert waiting[0] == 1
        reactor.wait(0.0)
        assert carried == [(number,) for number in range(100_000)]
    finally:
        reactor.close()


# --- recycling


def test_last_results_of_a_recycled_worker_count_and_its_exit_is_planned() -> None:
    """A pool that judges by the exit alone loses what is still in the pipe, or calls a planned exit a crash."""
    with pool(limits=Limits(timeout_s=WAIT_S, max_jobs_per_worker=1)) as p:
        outcomes: list[Outcome] = []
        while p.stats().respawns.get("recycle", 0) < 10:
            start = len(outcomes)
            outcomes += p.map(job(n, "w") for n in range(start, start + 50))
        assert_right(outcomes, {}, len(outcomes))
        assert all(outcome.attempts == 1 for outcome in outcomes)
        assert set(p.stats().respawns) == {"recycle"}


def test_due_workers_are_replaced_one_by_one_once_a_successor_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In pools that recycle by count all workers are due together, and for a while none is left."""
    at_work: list[int] = []
    dismiss = Endings.dismiss

    def watched(endings: Endings, worker: WorkerHandle, cause: str | None) -> None:
        if cause == "recycle":
            at_work.append(sum(other.state is State.READY for other in endings._state.workers.values()))
        dismiss(endings, worker, cause)

    monkeypatch.setattr(Endings, "dismiss", watched)
    # All three are due from their first job on.
    with pool(workers=3, limits=Limits(timeout_s=WAIT_S, max_jobs_per_worker=1)) as p:
        outcomes: list[Outcome] = []
        while len(at_work) < 6:
            outcomes += p.map(job(n, "w") for n in range(len(outcomes), len(outcomes) + 50))
        assert_right(outcomes, {}, len(outcomes))
    assert set(at_work) == {4}  # the three that are wanted, and one that is about to leave


def test_workers_that_started_together_are_not_due_together() -> None:
    """With the same count for each, workers that share the load evenly would go one right after the other, for ever."""
    with pool(workers=4, limits=Limits(max_jobs_per_worker=10_000)) as p:
        due = {worker.recycle_after for worker in p._supervisor._supervisor.state.workers.values()}
        assert len(due) > 1  # the same four times: once in 8,000,000,000 runs
        assert all(number is not None and 9_000 <= number <= 11_000 for number in due)


def test_the_memory_cap_that_the_error_recommends_is_enough() -> None:
    """celery and billiard with a max_memory_per_child below what a fresh fork has start a new worker for every job."""
    with pytest.raises(LimitsError) as caught:
        pool(workers=1, limits=Limits(max_rss_bytes=16 * MIB, memory_pages=16))
    allowed = re.search(r"allow at least (\d+) bytes", str(caught.value))
    assert allowed is not None
    limits = Limits(timeout_s=WAIT_S, max_rss_bytes=int(allowed[1]) + 4 * MIB, memory_pages=16)
    with pool(guard("tiny"), workers=1, limits=limits) as p:
        pid = only_worker(p)
        for _ in range(50):
            assert p.label_resource("any").status == "ok"
        assert only_worker(p) == pid


_PEAK = """
import mmap
from guardpool_worker.instance import GuardInstance
call = GuardInstance.label
def call_with_a_peak(self, op, payload, time_us):
    if b'"kpeak"' in payload:
        with mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            for at in range(0, len(memory), 4096):
                memory[at] = 1
    return call(self, op, payload, time_us)
GuardInstance.label = call_with_a_peak
"""


def test_a_worker_is_judged_by_what_it_has_and_not_by_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """ru_maxrss is the peak: in pools that judge by it, one large job makes a worker too large for good."""
    run_in_forkservers(monkeypatch, _PEAK)
    with pool(workers=1, limits=Limits(timeout_s=WAIT_S, max_rss_bytes=1024 * MIB)) as p:
        pid = only_worker(p)
        assert p.label_resource("kpeak").status == "ok"
        with open(f"/proc/{pid}/status") as status:
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024  # type: ignore[index]

        def measured() -> bool:
            assert ask(p, "w").status == "ok"
            kernel = psutil.Process(pid).memory_info().rss
            assert kernel < peak - 48 * MIB
            return abs(p.stats().workers[0].rss_bytes - kernel) < 2 * MIB

        wait_until(measured, "a look at what it has now")
        assert only_worker(p) == pid


def test_a_workers_resident_set_is_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """If workers report their own figures, one that a guard has taken over reports what it likes."""
    monkeypatch.setattr(watchdog, "NEARLY_FULL", 1001)  # a worker with a full linear memory would be replaced
    with pool(guard("memory_bomb"), workers=1, limits=Limits(timeout_s=WAIT_S, memory_pages=512)) as p:
        pid = only_worker(p)

        def measured() -> bool:
            assert p.label_resource("any").status == "ok"  # the first one fills its memory; looks come while jobs run
            kernel = psutil.Process(pid).memory_info().rss
            return kernel > 32 * MIB and abs(p.stats().workers[0].rss_bytes - kernel) < 2 * MIB

        wait_until(measured, "a look at its memory")


# --- deadlines


@pytest.mark.slow  # works for nine seconds; every run has the planted bug "a job's time runs on into the next"
def test_a_deadline_is_a_jobs_own_and_not_its_chunks() -> None:
    """pebble's map and multiprocessing's chunks have one timeout for all jobs of a chunk."""
    # A busy machine may leave a worker that is ready to run without a processor for seconds, and that counts.
    with pool(workers=1, limits=Limits(timeout_s=8.0)) as p:
        end = time.monotonic() + 8.5  # longer than the deadline of each of them, however quick the machine is
        handed_in: list[Job] = []

        def supply() -> Iterator[Job]:
            while time.monotonic() < end:
                handed_in.append(job(len(handed_in), "w"))
                yield handed_in[-1]

        outcomes = list(p.map(supply()))
        assert_right(outcomes, {}, len(handed_in))


def test_two_hanging_jobs_of_one_frame_have_a_deadline_each() -> None:
    """Pools that cannot say which job of a chunk hangs fail all of it, or try all of it again."""
    with pool(workers=1, limits=Limits(timeout_s=0.5)) as p:
        list(p.map(jobs(2000)))  # small jobs, large frames
        outcomes = list(p.map(jobs(200, {50: "s", 51: "s"})))
        assert_right(outcomes, {50: "timeout", 51: "timeout"}, 200)
        assert all(outcome.attempts == 1 for outcome in outcomes)


# --- trying again


@pytest.mark.parametrize("attempts", [1, 3])
def test_only_deaths_that_a_job_caused_count_as_its_attempts(attempts: int) -> None:
    """Pools try again for ever, or not at all, or charge every job of the chunk."""
    gate = Gate()
    limits = Limits(timeout_s=WAIT_S, backend_timeout_s=WAIT_S, max_attempts=attempts)
    with pool(guard(backend=gate), workers=1, limits=limits) as p:
        futures = [p.submit(job(n, "b" if n == 1 else "k")) for n in range(6)]
        for _ in range(attempts):
            assert gate.entered.acquire(timeout=WAIT_S)
            # A worker that a guard broke looks the same to the supervisor as one that is killed from outside.
            os.kill(only_worker(p), signal.SIGKILL)
        outcomes = [future.result(WAIT_S) for future in futures]
        assert ask(p, "k").status == "ok"
        assert not gate.entered.acquire(blocking=False)  # no worker began it once more
        gate.open.set()
        assert_right(outcomes, {1: "crashed"}, 6)
        assert [outcome.attempts for outcome in outcomes] == [1, attempts, 1, 1, 1, 1]
        assert outcomes[1].error.signal == "SIGKILL"  # type: ignore[union-attr]


# --- input and batches


def test_map_reads_no_more_of_large_inputs_than_fits_its_window() -> None:
    """Executor.map and Pool.imap read the whole input before the first result, whatever it takes."""
    read = 0

    def endless() -> Iterator[Job]:
        nonlocal read
        while True:
            read += 1
            yield Job(read, "label_resource", "k", "x" * (4 * MIB))

    with pool() as p:
        outcomes = p.map(endless())
        for _ in range(20):
            next(outcomes)
        assert read * 4 * MIB <= 250 * MIB
        outcomes.close()  # type: ignore[attr-defined]


def test_a_few_slow_jobs_are_shared_by_all_workers() -> None:
    """Batches sized by count give a handful of slow jobs to one worker while the others look on."""
    together = threading.Barrier(2)

    def meet(_tool: str, _args: object) -> int:
        return together.wait(WAIT_S)

    with pool(guard(backend=meet), workers=2, limits=Limits(timeout_s=WAIT_S, backend_timeout_s=WAIT_S)) as p:
        # Each job waits until one on the other worker waits as well.
        assert statuses(p.map(job(n, "b") for n in range(4))) == {"ok": 4}
