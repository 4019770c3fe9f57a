"""What a pool inherits from the program that makes it, and from the program that started that one: signals that are ignored or
blocked, orphans that come to it, a fork in the middle of the work."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import psutil

import paths
from poolkit import WAIT_S, wait_until

_KITS = str(paths.KITS)


def run(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> str:
    """Run a program that has the kits on its path; its standard output. It must end by itself, with status 0."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", f"import sys; sys.path.insert(0, {_KITS!r})\n{code}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- signals

_SIGNALS = """
import os, re, signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

from poolkit import WAIT_S, assert_right, forkserver_pid, guard, jobs, pool, ready_workers, wait_until
from guardpool import Limits

def masks(pid):
    status = open(f"/proc/{pid}/status").read()
    ours = sum(1 << number - 1 for number in signal.valid_signals())  # two more are the C library's own
    return [int(re.search(name + r":\\s*(\\w+)", status)[1], 16) & ours for name in ("SigBlk", "SigIgn")]

kept = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP)
with pool(workers=2, limits=Limits(timeout_s=0.5)) as p:
    server = forkserver_pid(p)
    for pid in (server, *ready_workers(p)):
        assert masks(pid) == [0, sum(1 << number - 1 for number in kept)], (pid, masks(pid))
    killed = p.submit(next(jobs(1, {0: "s"})))
    assert killed.result(WAIT_S).status == "timeout"
    bad = {20: "t", 21: "x", 40: "s", 60: "o"}
    assert_right(list(p.map(jobs(100, bad))), {20: "trap", 21: "trap", 40: "timeout", 60: "trap"}, 100)
    wait_until(lambda: len(p.stats().workers) == 2, "the last successor")
    assert forkserver_pid(p) == server
    assert p.stats().forkserver_restarts == 0
"""


def test_signals_that_the_caller_ignores_and_blocks_are_no_business_of_its_children() -> None:
    run(_SIGNALS)


# --- orphans

# Where orphans go to this process: a subreaper is to its descendants what PID 1 is to a container.
_ORPHANS = """
import ctypes, os, signal, subprocess, sys
import psutil
from poolkit import WAIT_S, ask, assert_right, forkserver_pid, jobs, pool, ready_workers, wait_until

PR_SET_CHILD_SUBREAPER = 36
if sys.argv[1] == "subreaper":
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
else:
    assert os.getpid() == 1

def zombies():
    return [child.pid for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]

own = subprocess.Popen(["true"])  # of the caller's, which nobody has waited for yet
os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
with pool(workers=3) as p:
    for number in range(4):
        before = set(ready_workers(p))
        os.kill(forkserver_pid(p), signal.SIGKILL)
        wait_until(lambda: len(p.stats().workers) == 3 and not before & set(ready_workers(p)), "new workers")
        assert_right(list(p.map(jobs(50))), {}, 50)
    assert zombies() == [own.pid], zombies()
    # Workers that die while their forkserver is stopped are not reaped by it.
    server = forkserver_pid(p)
    os.kill(server, signal.SIGSTOP)
    for pid in ready_workers(p):
        os.kill(pid, signal.SIGKILL)
    assert ask(p, "k").status == "ok"
    wait_until(lambda: not psutil.pid_exists(server) and zombies() == [own.pid], "the end of the zombies", 40)
assert psutil.Process().children() == [psutil.Process(own.pid)]
assert own.wait() == 0
"""


def test_orphans_that_come_to_the_caller_are_reaped_and_its_own_children_are_not() -> None:
    run(_ORPHANS, "subreaper")


# --- a pause of everything

# What the test, the program and its workers share: bytes of a file that each of them maps.
_PAUSED, _MAY_END, _AT_REST = range(3)

# The clock of a process jumps by 1,000 s, as if it had been stopped for so long.
_CLOCK = f"""
import mmap, time
with open(PATH, "r+b") as file:
    told = mmap.mmap(file.fileno(), 3)
real_s, real_ns = time.monotonic, time.monotonic_ns
time.monotonic = lambda: real_s() + 1000 * told[{_PAUSED}]
time.monotonic_ns = lambda: real_ns() + 1000 * 10**9 * told[{_PAUSED}]
"""
# A worker holds its jobs until they may end.
_HOLDS_JOBS = f"""
from guardpool_worker.instance import GuardInstance
label = GuardInstance.label
def held(self, op, payload, time_us):
    while not told[{_MAY_END}]:
        pass
    return label(self, op, payload, time_us)
GuardInstance.label = held
"""

_PROGRAM = f"""
import os, sys
from dataclasses import replace
from pytest import MonkeyPatch
from guardpool import Limits
from guardpool.protocol.progress_page import SEQ
from guardpool.supervise.clock import SupervisorClock
from guardpool.supervise.supervisor import Supervisor
from poolkit import WAIT_S, assert_right, forkserver_pid, job, jobs, pool, ready_workers, run_in_forkservers, wait_until

# From the end of a round to the tick after the wait the supervisor has read no time that a pause could make wrong.
rounds, work, tick = [], Supervisor.round, SupervisorClock.tick
def work_and_tell(supervisor):
    asked_s = work(supervisor)
    rounds.append(asked_s)
    told[{_AT_REST}] = 1
    return asked_s
def tell_and_tick(clock, asked_s):
    told[{_AT_REST}] = 0
    tick(clock, asked_s)
Supervisor.round, SupervisorClock.tick = work_and_tell, tell_and_tick

run_in_forkservers(MonkeyPatch(), sys.argv[1])
with pool(workers=2, limits=Limits(timeout_s=600.0)) as p:
    state, workers = p._supervisor._supervisor.state, ready_workers(p)
    futures = [p.submit(each) for each in jobs(6)]
    handles = list(state.workers.values())
    wait_until(lambda: all(handle.page[SEQ] for handle in handles), "jobs that run", 4 * WAIT_S)
    print(os.getpid(), forkserver_pid(p), *workers, flush=True)
    sys.stdin.readline()
    before = len(rounds)
    wait_until(lambda: len(rounds) > before + 2, "looks at the deadlines of what still runs", 4 * WAIT_S)
    assert ready_workers(p) == workers
    told[{_MAY_END}] = 1
    assert_right([future.result(4 * WAIT_S) for future in futures], {{}}, 6)
    # Those that deserve it still run out of time.
    state.limits = replace(state.limits, timeout_s=0.5)
    assert p.submit(job(6, "s")).result(4 * WAIT_S).status == "timeout"
    assert p.stats().respawns == {{"timeout": 1}}
"""


def test_a_pause_of_everything_is_not_the_jobs_time(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    path.write_bytes(bytes(3))
    clock = f"PATH = {str(path)!r}\n{_CLOCK}"
    code = f"import sys; sys.path.insert(0, {_KITS!r})\n{clock}{_PROGRAM}"
    command = [sys.executable, "-c", code, f"{clock}{_HOLDS_JOBS}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process, path.open("r+b") as file, mmap.mmap(file.fileno(), 3) as told:
        assert process.stdin is not None
        assert process.stdout is not None
        everything = [psutil.Process(int(word)) for word in process.stdout.readline().split()]
        assert everything
        _stop(everything)
        while not told[_AT_REST]:
            for each in everything:
                each.resume()
            _stop(everything)
        told[_PAUSED] = 1
        for each in everything:
            each.resume()
        process.communicate("\n", timeout=10 * WAIT_S)
    assert process.returncode == 0


def _stop(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.suspend()
    wait_until(lambda: all(process.status() == psutil.STATUS_STOPPED for process in processes), "all to stand still")


# --- threads with little stack

_TAKEN_OVER = r"""
from guardpool_worker import instance
def label(self, op, payload, time_us):
    deep = int(payload.split(b'"')[3])
    return (b'{"labeled_paths":[],"default_labels":null,"items_path":null,"items":[{"data":' + b"[" * deep + b"]" * deep
            + b',"description":"","secrecy":[],"integrity":[]}]}')
instance.GuardInstance.label = label
"""

_LITTLE_STACK = """
import sys, threading
threading.stack_size(128 * 1024)  # what some C libraries give a thread
sys.setrecursionlimit(1_000_000)
from pytest import MonkeyPatch
from guardpool import Job, Limits
from poolkit import WAIT_S, pool, run_in_forkservers

run_in_forkservers(MonkeyPatch(), sys.argv[1])

def on_a_thread(call):
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]

def read_a_label(p):
    return len(p.submit(Job(1, "label_response", "490", {}, [])).result(WAIT_S).label.items)

with pool(workers=1, limits=Limits(timeout_s=WAIT_S, max_attempts=1)) as p:
    assert on_a_thread(lambda: read_a_label(p)) == 1  # an honest guard's may be as deep as that
    assert p.submit(Job(2, "label_response", "1000000", {}, [])).result(WAIT_S).status == "crashed"
    assert on_a_thread(lambda: read_a_label(p)) == 1
"""


def test_a_deep_label_ends_no_caller_whose_threads_have_little_stack() -> None:
    run(_LITTLE_STACK, _TAKEN_OVER)


_DEEP_QUESTION = """
import threading
threading.stack_size(128 * 1024)
from backendkit import asks, code, label
from guardpool import Guard
from poolkit import POLICY, pool

deep = "[" * 900 + "]" * 900
with pool(Guard("g", asks("get", deep), POLICY, backend=lambda _tool, _args: 1), workers=1) as p:
    assert code(label(p, "g")) == 1 - 100_000
"""


def test_a_deep_question_ends_no_caller_whose_threads_have_little_stack() -> None:
    run(_DEEP_QUESTION)


# --- a fork of the caller

_FORK = """
import asyncio
from concurrent.futures import as_completed, wait
import os, signal, sys, threading, time
from poolkit import WAIT_S, Gate, assert_right, guard, job, jobs, pool, ready_workers, wait_until
from guardpool import PoolClosed

def in_child(what, act):
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)  # SIGALRM ends a child that hangs
        try:
            act()
            status = 0
        except BaseException as error:
            print(f"{what}: {type(error).__name__}: {error}", file=sys.stderr)
            status = 1
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, what

def closed(call, *arguments):
    try:
        call(*arguments)
    except PoolClosed:
        return
    raise AssertionError(f"{call} did not raise PoolClosed")

gate = Gate()
with pool(guard(backend=gate), workers=2) as p:
    waiting = p.submit(job(0, "b"))
    outcomes = p.map(jobs(2000), ordered=False)
    first = next(outcomes)
    stream = p.stream()
    before = os.listdir("/proc/self/fd")

    def leave():
        with p:
            pass
    def leave_by_an_error():
        try:
            with p:
                raise LookupError
        except LookupError:
            pass

    in_child("close", lambda: p.close() is False or sys.exit(1))
    in_child("kill", p.kill)
    in_child("the end of the block", leave)
    in_child("the end of the block by an error", leave_by_an_error)
    in_child("map", lambda: closed(list, outcomes))
    in_child("leaving the map", outcomes.close)
    in_child("a map of its own", lambda: closed(lambda: next(p.map(jobs(5)))))
    in_child("submit", lambda: closed(p.submit, job(1)))
    in_child("a call", lambda: closed(p.label_resource, "k1"))
    in_child("a future", lambda: closed(waiting.result))
    in_child("wait", lambda: closed(next(iter(wait([waiting]).done)).result))
    in_child("as_completed", lambda: closed(next(as_completed([waiting])).result))
    async def awaited():
        await asyncio.wrap_future(waiting)
    in_child("await", lambda: closed(asyncio.run, awaited()))
    in_child("stats", lambda: closed(p.stats))
    in_child("put", lambda: closed(stream.put, []))
    in_child("take", lambda: closed(stream.take))
    in_child("stream.close", stream.close)
    in_child("the interpreter's end", lambda: None)
    # While other threads hold whatever locks there are.
    stop = threading.Event()
    def work():
        while not stop.is_set():
            assert p.label_resource("k1").status == "ok"
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(30):
        in_child("map", lambda: closed(list, outcomes))
        in_child("leaving the map", outcomes.close)
    stop.set()
    for thread in threads:
        thread.join()
    # Nothing of the parent's was touched.
    assert sorted(outcome.id for outcome in [first, *outcomes]) == list(range(2000))
    gate.open.set()
    assert waiting.result(WAIT_S).status == "ok"
    assert_right(list(p.map(jobs(100))), {}, 100)
    assert p.stats().respawns == {} and p.stats().forkserver_restarts == 0
"""


def test_in_a_fork_everything_returns_or_raises_at_once_and_the_parent_notices_nothing() -> None:
    run(_FORK)
