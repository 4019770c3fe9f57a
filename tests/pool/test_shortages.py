"""The machine lacks something: while a pool is made, an error with the limit's name, and later nothing is lost by it."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import guardkit
from guardpool import HostError, Limits, PoolBroken
from guardpool.machine import requirements
from guardpool.supervise import respawn
from guardpool.supervise.machine import RealMachine
from guardpool.supervise.respawn import MAX_BARREN_DEATHS
from guardpool.supervise.worker_end import PipeEnd
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
    pool,
    ready_workers,
    wait_until,
)


@contextmanager
def descriptors(most: int) -> Iterator[None]:
    """This process may open no descriptor from that number on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _lowest_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


# --- while the pool is made


def test_each_descriptor_that_lacks_is_a_host_error_and_leaves_nothing_open() -> None:
    guards = [guard("tiny")]
    pool(*guards).close()  # what is imported and compiled on the way
    first, outcomes = _lowest_free(), []
    for more in range(26):
        with descriptors(first + more):
            try:
                pool(*guards).close()
                outcomes.append("made")
            except HostError as error:
                limit = f"this process may have {first + more} (RLIMIT_NOFILE, ulimit -n)"
                outcomes.append("an error that names it" if limit in str(error) else str(error))
        assert _lowest_free() == first
    assert outcomes == sorted(outcomes)  # errors first
    assert set(outcomes) == {"an error that names it", "made"}


def test_a_thread_that_cannot_be_started_is_a_host_error_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(HostError, match=r"can't start new thread: this user may have .*RLIMIT_NPROC, ulimit -u"):
            pool()
    with pool() as p:
        assert ask(p, "k").status == "ok"


_TRIES = """
import os, resource, sys
from guardpool import Guard, GuardPool, HostError
guard = Guard.from_file(sys.argv[1], policy={"allow-only": {"repos": "all", "min-integrity": "none"}})
GuardPool([guard], workers=1).close()
before = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    GuardPool([guard], workers=1).close()
except HostError as error:
    print(error)
assert len(os.listdir("/proc/self/fd")) == before
"""


@pytest.mark.parametrize("most_bytes", [0, 4096])
def test_a_limit_of_file_sizes_is_named(most_bytes: int, tmp_path: Path) -> None:
    wasm = tmp_path / "tiny.wasm"
    wasm.write_bytes(guardkit.wat("tiny"))
    run = subprocess.run(
        [sys.executable, "-c", _TRIES, str(wasm), str(most_bytes)], capture_output=True, text=True, timeout=WAIT_S
    )
    assert f"may write files of {most_bytes} bytes (RLIMIT_FSIZE, ulimit -f)" in run.stdout, run.stderr


def test_patched_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patched:
        @staticmethod
        def is_module_patched(name: str) -> bool:
            return name == "threading"

    monkeypatch.setitem(sys.modules, "gevent.monkey", Patched)  # type: ignore[arg-type]
    with pytest.raises(HostError, match="gevent has replaced Python's threads"):
        pool()


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "/proc is not there"),
        ("1", "/proc belongs to another PID namespace"),
    ],
)
def test_a_proc_that_does_not_show_this_process_is_refused(
    shown: str | OSError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def readlink(_path: str) -> str:
        if isinstance(shown, OSError):
            raise shown
        return shown

    monkeypatch.setattr(requirements.os, "readlink", readlink)
    with pytest.raises(HostError, match=f"memory could not be watched: {said}"):
        pool()


# --- later


@contextmanager
def on_shortage(act: Callable[[], object]) -> Iterator[list[str]]:
    """Call a function when the pool warns that no worker can be started; gives those warnings."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "no worker can be started now" in record.getMessage():
                said.append(record.getMessage())
                act()

    logger, ours = logging.getLogger("guardpool"), Handler(logging.WARNING)
    logger.addHandler(ours)
    try:
        yield said
    finally:
        logger.removeHandler(ours)


def test_descriptors_that_run_out_for_a_while_cost_no_job_and_no_pool() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pool(workers=2) as p:
        respawn_policy = p._supervisor._supervisor.state.respawn

        def give_back() -> None:
            # More attempts than the pool survives barren deaths.
            wait_until(lambda: respawn_policy._shortages > MAX_BARREN_DEATHS, "attempts")
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        with on_shortage(give_back) as said, descriptors(3):
            for pid in ready_workers(p):
                os.kill(pid, signal.SIGKILL)
            assert_right(list(p.map(jobs(300))), {}, 300)
        assert p.stats().forkserver_restarts == 0
    assert "RLIMIT_NOFILE" in said[0]


def test_memory_is_watched_while_no_descriptor_is_to_be_had() -> None:
    gate, limits = Gate(), Limits(timeout_s=WAIT_S, max_rss_bytes=128 * MIB, memory_pages=1024)
    with pool(guard(backend=gate), workers=1, limits=limits) as p:
        rss = p.stats().workers[0].rss_bytes
        with descriptors(3):
            future = p.submit(job(0, "b"))
            assert gate.entered.acquire(timeout=WAIT_S)
            state = p._supervisor._supervisor.state
            (worker,) = state.workers.values()
            measured = threading.Event()
            measure = worker.end.rss_bytes
            worker.end.rss_bytes = lambda: (measured.set(), measure())[1]  # type: ignore[method-assign]
            assert measured.wait(WAIT_S)
            gate.open.set()
            assert future.result(WAIT_S).status == "ok"
            assert abs(p.stats().workers[0].rss_bytes - rss) < 32 * MIB
            assert measure() is not None


def test_a_worker_whose_pidfd_finds_no_room_is_killed_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    full: list[PipeEnd] = []

    def open_worker(_machine: RealMachine) -> PipeEnd:
        end = PipeEnd()
        if not full:  # its pipes are there, and what comes with the forkserver's answer is one descriptor too many
            full.append(end)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        return end

    with pool(workers=1) as p:
        server = psutil.Process(forkserver_pid(p))
        monkeypatch.setattr(RealMachine, "open_worker", open_worker)
        with on_shortage(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before)) as said:
            try:
                os.kill(ready_workers(p)[0], signal.SIGKILL)
                assert ask(p, "k").status == "ok"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert full
        assert "a worker: Too many open files" in said[0]
        wait_until(
            lambda: [child.pid for child in server.children()] == ready_workers(p), "the end of the one not seen"
        )
        assert p.stats().forkserver_restarts == 0


def test_a_lack_that_lasts_breaks_the_pool_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardpool.supervise.deaths.SHORTAGE_PATIENCE_S", 0.05)
    assert respawn.SHORTAGE_PATIENCE_S >= 10
    with pool(workers=1) as p:
        with descriptors(3):
            os.kill(ready_workers(p)[0], signal.SIGKILL)
            future = p.submit(job(0))
            assert future.result(WAIT_S).status == "cancelled"
        with pytest.raises(PoolBroken, match=r"no worker could be started: .*RLIMIT_NOFILE"):
            p.submit(job(1))


def test_a_pool_with_one_worker_left_goes_on_without_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardpool.supervise.deaths.SHORTAGE_PATIENCE_S", 0.0)
    with pool(workers=2) as p:
        with descriptors(3):
            os.kill(ready_workers(p)[0], signal.SIGKILL)
            state = p._supervisor._supervisor.state
            wait_until(lambda: state.respawn._shortages > 3, "attempts")
            assert_right(list(p.map(jobs(200))), {}, 200)
        wait_until(lambda: len(p.stats().workers) == 2, "the second worker")
