"""The end of a pool, asked for or not: every job has its outcome, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from guardpool import CallerError, GuardPool, OutcomeError, PoolClosed
from paths import KITS
from poolkit import (
    WAIT_S,
    WORKERS_THAT_FAIL,
    forkserver_pid,
    job,
    only_worker,
    pool,
    run_in_forkservers,
    wait_until,
    wait_until_gone,
)


def test_close_drains_and_later_jobs_are_refused() -> None:
    p = pool()
    futures = [p.submit(job(n, "w")) for n in range(50)]
    assert p.close() is True
    assert [future.result(0).status.value for future in futures] == ["ok"] * 50
    with pytest.raises(PoolClosed):
        p.submit(job(51))
    assert p.close() is True


def test_close_with_a_time_limit_cancels_what_is_left() -> None:
    p = pool(workers=1)
    futures = [p.submit(job(0, "s")), p.submit(job(1))]
    assert p.close(timeout_s=0.3) is False
    assert [future.result(WAIT_S).status.value for future in futures] == ["cancelled", "cancelled"]


def test_close_takes_any_number_of_seconds_and_nothing_else() -> None:
    for long in (float("inf"), 1e300, 10**400):
        assert pool(workers=1).close(long) is True
    p = pool(workers=1)
    for odd in ("1", float("nan"), True):
        with pytest.raises(CallerError, match="timeout_s must be a number of seconds, not"):
            p.close(odd)  # type: ignore[arg-type]
        with pytest.raises(CallerError, match="timeout_s must be a number of seconds, not"):
            p.flush_logs(odd)  # type: ignore[arg-type]
    p.flush_logs(float("inf"))
    future = p.submit(job(0, "s"))
    assert p.close(-1) is False
    assert future.result(0).error == OutcomeError("cancelled", "the pool was closed before it was done")


def test_close_returns_false_if_another_thread_kills_the_pool() -> None:
    p = pool(workers=1)
    p.submit(job(0, "s"))
    said: list[bool] = []
    closer = threading.Thread(target=lambda: said.append(p.close()))
    closer.start()
    wait_until(lambda: not _is_open(p), "the pool to be closing")
    p.kill()
    closer.join(WAIT_S)
    assert said == [False]


def _is_open(pool: GuardPool) -> bool:
    try:
        pool.submit(job(9))
    except PoolClosed:
        return False
    return True


def test_close_returns_although_no_worker_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    # Workers that fail to start are counted while the pool closes as they are before, so they are not forked for ever.
    p = pool(workers=1)
    run_in_forkservers(monkeypatch, WORKERS_THAT_FAIL)
    future = p.submit(job(0, "s"))
    said: list[bool] = []
    closer = threading.Thread(target=lambda: said.append(p.close()))
    closer.start()
    wait_until(lambda: not _is_open(p), "the pool to be closing")
    os.kill(forkserver_pid(p), signal.SIGKILL)
    try:
        outcome = future.result(WAIT_S)
    finally:
        p.kill()
        closer.join(WAIT_S)
    assert outcome.status == "cancelled"
    assert "no sandbox today" in outcome.error.message  # type: ignore[union-attr]
    assert said == [False]


def test_kill_does_not_drain() -> None:
    p = pool(workers=1)
    future = p.submit(job(0, "s"))
    p.kill()
    assert future.result(WAIT_S).status == "cancelled"


def test_leaving_the_block_by_an_exception_kills() -> None:
    with pytest.raises(KeyError), pool(workers=1) as p:
        future = p.submit(job(0, "s"))
        raise KeyError("out")
    assert future.result(WAIT_S).status == "cancelled"


def test_jobs_submitted_during_a_kill_get_an_outcome_or_are_refused() -> None:
    for round_ in range(3):
        p = pool(workers=1)
        futures: list[Any] = []
        refused: list[type[BaseException]] = []
        threads = [threading.Thread(target=_submit_on_and_on, args=(p, futures, refused)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda futures=futures, most=100 * round_: len(futures) > most, "some jobs")  # type: ignore[misc]
        p.kill()
        for thread in threads:
            thread.join(WAIT_S)
        assert refused == [PoolClosed] * 4
        for future in futures:
            assert future.exception(WAIT_S) is None or isinstance(future.exception(), PoolClosed)


def _submit_on_and_on(pool: GuardPool, futures: list[Any], refused: list[type[BaseException]]) -> None:
    try:
        while True:
            futures.append(pool.submit(job(1)))
    except BaseException as error:
        refused.append(type(error))


# --- without close


def test_a_pool_that_is_dropped_leaves_no_process_behind() -> None:
    p = pool(workers=1)
    pids = [only_worker(p), forkserver_pid(p)]
    del p
    wait_until_gone(*pids)


_SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
from poolkit import pool, job, forkserver_pid
p = pool()
p.label_resource("k1")
{more}
print(*[w.pid for w in p.stats().workers], forkserver_pid(p), flush=True)
{end}
"""


def _run(end: str, more: str = "") -> tuple[list[int], subprocess.Popen[str]]:
    code = _SCRIPT.format(tests=str(KITS), end=end, more=more)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as out:
        pids = [int(word) for word in out.readline().split()]
    assert len(pids) == 3
    return pids, process


def test_an_interpreter_that_exits_without_close_leaves_nothing_behind() -> None:
    pids, process = _run("", more="f = p.submit(job(2, 's'))")
    assert process.wait(WAIT_S) == 0
    wait_until_gone(*pids)


def test_a_caller_that_is_killed_leaves_no_process_behind() -> None:
    pids, process = _run("import threading; threading.Event().wait()", more="f = p.submit(job(2, 's'))")
    process.kill()
    process.wait(WAIT_S)
    wait_until_gone(*pids)


def test_closing_the_descriptors_of_a_busy_pool_is_an_error_not_a_hang() -> None:
    # Daemons do this: they close everything from 3 on.
    code = f"""
import os, sys
sys.path.insert(0, {str(KITS)!r})
from poolkit import pool, job
p = pool()
futures = [p.submit(job(n, "w")) for n in range(500)]
os.closerange(3, 300)
try:
    p.submit(job(501)).result(30)
except Exception:
    pass
for future in futures:
    future.exception(30)
print(all(future.done() for future in futures), p.close(30))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True False\n", done.stderr


def test_closing_the_descriptors_of_an_idle_pool_leaves_no_job_waiting() -> None:
    # The loop of an idle pool only waits for a wake-up, and its pipe was closed with the rest.
    code = f"""
import os, sys
sys.path.insert(0, {str(KITS)!r})
from guardpool import GuardPoolError
from guardpool.supervise.reactor import EpollReactor
from poolkit import pool, job, wait_until
waits, wait = [0.0], EpollReactor.wait
def watched(self, timeout_s):
    waits.append(timeout_s)
    wait(self, timeout_s)
EpollReactor.wait = watched
p = pool()
assert p.submit(job(1)).result(30).status == "ok"
wait_until(lambda: not 0 <= waits[-1] < 1, "the loop waits for longer than any job")
reactor = p._supervisor._supervisor.reactor
for fd in (reactor._epoll.fileno(), reactor._wake_read, reactor._wake_write):
    os.close(fd)
try:
    last = p.submit(job(2)).result(30).status  # some worker may have done it before the loop saw what had happened
except GuardPoolError:
    last = "cancelled"
print(last in ("ok", "cancelled"), p.close(30))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True False\n", done.stderr
