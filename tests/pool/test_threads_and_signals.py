"""Threads, signal handlers and forks of the caller that use a pool at the worst moments."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from typing import Any

import pytest

from guardpool import GuardPool, Outcome, PoolClosed
from poolkit import WAIT_S, ask, assert_right, job, pool


def test_a_pool_made_on_a_thread_outlives_that_thread() -> None:
    # The kernel takes the end of the thread that forked for the parent's death.
    made: list[GuardPool] = []
    thread = threading.Thread(target=lambda: made.append(pool(workers=1)))
    thread.start()
    thread.join(WAIT_S)
    with made[0] as p:
        before = [w.pid for w in p.stats().workers]
        assert ask(p, "k", 1).status == "ok"
        assert [w.pid for w in p.stats().workers] == before


def test_statistics_can_be_read_all_the_time() -> None:
    interval = sys.getswitchinterval()
    end, failures = threading.Event(), list[BaseException]()

    def read(p: GuardPool) -> None:
        while not end.is_set():
            try:
                p.stats()
            except BaseException as error:
                failures.append(error)

    with pool(workers=3) as p:
        readers = [threading.Thread(target=read, args=(p,)) for _ in range(2)]
        for reader in readers:
            reader.start()
        sys.setswitchinterval(1e-6)
        try:
            assert len(list(p.map(job(n, "t") for n in range(40)))) == 40
        finally:
            sys.setswitchinterval(interval)
            end.set()
            for reader in readers:
                reader.join()
    assert failures == []


# --- signals


def test_ctrl_c_in_a_map_stops_it_cleanly() -> None:
    with pool() as p:
        with pytest.raises(KeyboardInterrupt):
            for outcome in p.map(job(n, "w") for n in range(20_000)):
                if outcome.id == 10:
                    signal.raise_signal(signal.SIGINT)
        assert ask(p, "k", 1).status == "ok"


def test_signal_handlers_may_use_the_pool() -> None:
    got: list[Any] = []
    with pool() as p:
        before = signal.signal(signal.SIGALRM, lambda *_: got.append(p.submit(job(0))))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            futures = []
            while len(got) < 300:
                futures.append(p.submit(job(1)))
                if len(futures) % 64 == 0:
                    futures[-1].result(WAIT_S)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert {future.result(WAIT_S).status.value for future in futures + got} == {"ok"}


def test_a_post_in_the_middle_of_a_post_does_not_deadlock() -> None:
    # A signal handler does this at the worst moment: while its own thread holds the lock.
    with pool(workers=1) as p:
        reactor = p._supervisor._supervisor.reactor
        with reactor._wake_lock:
            future = p.submit(job(0))
        assert future.result(WAIT_S).status == "ok"


def test_kill_from_a_signal_handler_ends_a_map() -> None:
    with pool() as p:
        before = signal.signal(signal.SIGUSR1, lambda *_: p.kill())
        seen: list[Outcome] = []
        try:
            with pytest.raises(PoolClosed):
                for outcome in p.map(job(n, "w") for n in range(20_000)):
                    seen.append(outcome)
                    if len(seen) == 50:
                        signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert [outcome.id for outcome in seen] == list(range(len(seen)))


# --- forks


def test_a_fork_of_the_caller_cannot_use_the_pool_and_does_not_harm_it() -> None:
    with pool(workers=1) as p:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                p.submit(job(1))
            except PoolClosed:
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert ask(p, "k", 1).status == "ok"


def test_a_fork_of_the_caller_while_jobs_run_does_no_harm() -> None:
    with pool() as p:
        outcomes, children = [], []
        for outcome in p.map(job(n, "w") for n in range(400)):
            outcomes.append(outcome)
            if len(outcomes) in (50, 100, 150):
                pid = os.fork()
                if pid == 0:
                    gc.collect()
                    os._exit(0)
                children.append(pid)
        assert_right(outcomes, {}, 400)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
