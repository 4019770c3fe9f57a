"""What a pool inherits from the program that makes it, and from the program that started that one: signals that are ignored or
blocked, orphans that come to it, a fork in the middle of the work."""

from __future__ import annotations

import subprocess
import sys

import paths
from poolkit import WAIT_S

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
