"""A caller, a host and guards that do everything wrong: no job is lost, nothing hangs, nothing is left behind."""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from guardpool import GuardInitError, GuardPool, Job, Limits, Outcome, PoolBroken, PoolClosed, launch
from guardpool import workerhandle as workerhandle_module
from guardpool.respawn import MAX_BARREN_DEATHS
from poolkit import WAIT_S, assert_right, forkserver_pid, guard, job, jobs, pool, wait_until

MIB = 1024 * 1024


@contextmanager
def handler(name: str, emit: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """A log handler for one logger, and no other."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            emit(record)

    logger, ours = logging.getLogger(name), Handler()
    logger.addHandler(ours)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(ours)
        logger.propagate = propagate


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    """What the caller's code raised on a thread of ours."""
    kinds: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: kinds.append(args.exc_type))
    return kinds


# --- log handlers


def test_a_log_handler_that_blocks_stops_nobody() -> None:
    # The pool itself logs the death of a worker; the loop must not wait for the handler, nor a future for a record.
    release, entered = threading.Event(), threading.Event()

    def block(_record: logging.LogRecord) -> None:
        entered.set()
        release.wait(WAIT_S)

    limits = Limits(timeout_s=WAIT_S, max_attempts=1)
    with handler("guardpool", block), pool(limits=limits, log_level="error") as p:
        try:
            victim = p.submit(job(0, "s"))
            _kill_who_spins(p)
            assert victim.result(WAIT_S).status == "crashed"
            assert entered.wait(WAIT_S)
            assert p.submit(job(1)).result(WAIT_S).status == "ok"
            assert p.submit(job(2, "f")).result(WAIT_S).status == "ok"
            assert_right(list(p.map(jobs(100))), {}, 100)
        finally:
            release.set()


def _kill_who_spins(pool: GuardPool) -> None:
    def spinning() -> list[int]:
        return [w.pid for w in pool.stats().workers if _user_s(w.pid) > 0.05]

    os.kill(wait_until(spinning, "a worker that spins")[0], signal.SIGKILL)


def _user_s(pid: int) -> float:
    try:
        return float(psutil.Process(pid).cpu_times().user)
    except psutil.Error:
        return 0.0


def test_a_log_handler_that_raises_is_reported_and_ends_nothing(reported: list[type[BaseException]]) -> None:
    def fail(_record: logging.LogRecord) -> None:
        raise SystemExit("a handler that gives up")

    with handler("guardpool", fail), pool(workers=1, log_level="error") as p:
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        assert p.submit(job(0, "f")).result(WAIT_S).status == "ok"
        assert p.submit(job(1)).result(WAIT_S).status == "ok"
        wait_until(lambda: reported, "the report")
    assert set(reported) == {SystemExit}


def test_a_guard_that_logs_all_it_may_with_every_job_fills_no_memory_behind_a_slow_handler() -> None:
    release = threading.Event()
    lines: list[str] = []

    def slow(record: logging.LogRecord) -> None:
        release.wait(WAIT_S)
        lines.append(record.getMessage())

    with handler("guardpool", slow), pool(log_level="error") as p:
        before = psutil.Process().memory_info().rss
        # 64 KiB of lines a job, twice what waits at most.
        assert_right(list(p.map(job(n, "f") for n in range(60))), {}, 60)
        assert psutil.Process().memory_info().rss < before + 64 * MIB
        release.set()
        wait_until(lambda: any("log records dropped" in line for line in lines), "the count of what was dropped")
    assert len(lines) < 25_000


# --- callbacks


def test_a_callback_that_raises_costs_no_other_future_its_result(reported: list[type[BaseException]]) -> None:
    def leave(_future: object) -> None:
        sys.exit(3)

    with pool(workers=1) as p:
        first = p.submit(job(0, "w"))
        first.add_done_callback(leave)
        futures = [p.submit(job(n)) for n in range(1, 20)]
        assert_right([first.result(WAIT_S), *(future.result(WAIT_S) for future in futures)], {}, 20)
    assert reported == [SystemExit]


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_pool_may_be_ended_by_a_callback(end: str) -> None:
    ended = threading.Event()
    p = pool(workers=1)

    def finish(_future: object) -> None:
        getattr(p, end)()
        ended.set()

    p.submit(job(0, "w")).add_done_callback(finish)
    rest = p.submit(job(1, "w"))
    assert ended.wait(WAIT_S)
    assert rest.result(WAIT_S).status in ("ok", "cancelled")
    with pytest.raises(PoolClosed):
        p.submit(job(2))


def test_a_pool_may_be_closed_by_a_backend() -> None:
    pools: list[GuardPool] = []

    def close(_tool: str, _args: object) -> None:
        pools[0].close()

    pools.append(pool(guard(backend=close), workers=1, limits=Limits(timeout_s=WAIT_S, backend_timeout_s=0.3)))
    future = pools[0].submit(job(0, "b"))
    # The pool waits for the job, the job for the backend and the backend for the pool, but not for ever.
    assert future.result(WAIT_S).status == "refused"
    assert pools[0].close() is True


class _Nasty(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), _Nasty()], ids=lambda error: type(error).__name__
)
def test_whatever_a_backend_raises_the_guard_gets_its_answer_at_once(error: BaseException) -> None:
    def fail(_tool: str, _args: object) -> None:
        raise error

    def raising(_record: logging.LogRecord) -> None:
        raise ValueError("this handler, too")

    with handler("guardpool.backend", raising), pool(guard(backend=fail), workers=1) as p:
        began = time.monotonic()
        outcome = p.submit(job(0, "b")).result(WAIT_S)
        assert (outcome.status, outcome.error.guard_code) == ("refused", -9)  # type: ignore[union-attr]
        assert time.monotonic() - began < 9  # `backend_timeout_s` is 10
        assert ask(p, "k")


def test_a_backend_that_never_returns_costs_its_job_the_time_limit_and_nobody_else_anything() -> None:
    forever = threading.Event()

    def hang(_tool: str, _args: object) -> None:
        forever.wait(WAIT_S)

    limits = Limits(timeout_s=WAIT_S, backend_timeout_s=0.3)
    with pool(guard(backend=hang), workers=2, limits=limits) as p:
        try:
            assert_right(
                list(p.map(jobs(300, {7: "b", 8: "b", 150: "b"}))), {7: "refused", 8: "refused", 150: "refused"}, 300
            )
        finally:
            forever.set()


def ask(pool: GuardPool, letter: str) -> Outcome:
    outcome = pool.submit(job(0, letter)).result(WAIT_S)
    assert outcome.status == "ok"
    return outcome


# --- consumers


def test_a_consumer_that_stops_leaves_a_bounded_backlog_and_a_pool_that_works() -> None:
    read = 0

    def bulky() -> Iterator[Job]:
        nonlocal read
        for read in range(1_000):
            yield job(read, "h" if read % 20 == 0 else "k")

    with pool(limits=Limits(timeout_s=WAIT_S, max_rss_bytes=1024 * MIB, memory_pages=4096)) as p:
        outcomes = p.map(bulky(), ordered=False)
        next(outcomes)
        # The others' answers of 8 MiB wait for nobody; what nobody takes stops the sending at 64 MiB and what is on its way.
        wait_until(lambda: p.stats().in_flight == 0, "the pool to come to rest")
        assert ask(p, "k")
        assert psutil.Process().memory_info().rss < 900 * MIB
        p.close()  # does not wait for the consumer


def test_what_a_stream_held_goes_with_it_when_it_is_left() -> None:
    with pool(limits=Limits(timeout_s=WAIT_S, max_rss_bytes=1024 * MIB, memory_pages=4096)) as p:
        outcomes = p.map((job(n, "h") for n in range(40)), ordered=False)
        next(outcomes)
        stream = weakref.ref(outcomes.gi_frame.f_locals["stream"])  # type: ignore[attr-defined]
        outcomes.close()  # type: ignore[attr-defined]
        del outcomes
        wait_until(lambda: p.stats().in_flight == 0, "the pool to come to rest")
        assert ask(p, "k")
        wait_until(lambda: gc.collect() >= 0 and stream() is None, "the stream to be forgotten")


# --- threads, signals and forks


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
            assert len(list(p.map(job(n, "t") for n in range(60)))) == 60
        finally:
            sys.setswitchinterval(interval)
            end.set()
            for reader in readers:
                reader.join()
    assert failures == []


def test_jobs_that_are_handed_in_while_the_pool_is_killed_have_an_outcome_or_were_refused() -> None:
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


def test_a_post_in_the_middle_of_a_post_is_no_deadlock() -> None:
    # What a signal handler does that comes at the worst moment: while its own thread holds the lock.
    with pool(workers=1) as p:
        reactor = p._supervisor._reactor
        with reactor._wake_lock:
            future = p.submit(job(0))
        assert future.result(WAIT_S).status == "ok"


def test_kill_from_a_signal_handler_ends_a_map() -> None:
    with pool() as p:
        before = signal.signal(signal.SIGUSR1, lambda *_: p.kill())
        seen: list[Outcome] = []
        try:
            with pytest.raises(PoolClosed):
                for outcome in p.map(job(n, "w") for n in range(1_000_000)):
                    seen.append(outcome)
                    if len(seen) == 50:
                        signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert [outcome.id for outcome in seen] == list(range(len(seen)))


def test_a_fork_of_the_caller_while_jobs_run_harms_nobody() -> None:
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


def test_close_says_so_where_jobs_were_cut_off_by_its_time_limit_or_by_somebody_else() -> None:
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


# --- descriptors


def test_descriptors_that_the_caller_closed_under_us_are_an_error_and_no_hang() -> None:
    # As daemons do that close everything from 3 on.
    code = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
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


def test_a_lack_of_descriptors_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(workers=1) as p:
        failures = iter([OSError(errno.EMFILE, "Too many open files")] * 3)
        open_ = workerhandle_module.WorkerHandle._open

        def fail_at_first(self: workerhandle_module.WorkerHandle) -> None:
            for error in failures:
                raise error
            open_(self)

        monkeypatch.setattr(workerhandle_module.WorkerHandle, "_open", fail_at_first)
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        assert p.submit(job(0)).result(WAIT_S).status == "ok"


def test_a_lack_of_descriptors_that_stays_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(workerhandle_module.WorkerHandle, "_open", fail)
    with pytest.raises(PoolBroken, match=r"no worker could be started; .* Too many open files"):
        pool(workers=1)


# --- forkservers and workers that do not come up


def _broken_forkserver(monkeypatch: pytest.MonkeyPatch, method: str, body: str) -> None:
    """From now on a method of new forkservers does something else."""
    command = launch.command

    def broken(module: str, *arguments: str) -> list[str]:
        words = command(module, *arguments)
        if module.endswith("forkserver"):
            at = words.index("-c") + 1
            broken = (
                f"; import os; from guardpool_worker import forkserver as f; f._Server.{method} = {body}; sys.exit("
            )
            words[at] = words[at].replace("; sys.exit(", broken)
        return words

    monkeypatch.setattr(launch, "command", broken)


def test_a_forkserver_that_dies_at_its_first_fork_is_an_error_and_no_endless_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _broken_forkserver(monkeypatch, "_obey", "lambda self: os._exit(9)")
    with pytest.raises(PoolBroken, match="no worker could be started; the last one exited with status 9"):
        pool()


def test_forkservers_that_all_die_at_their_first_fork_break_a_running_pool_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pool(workers=1) as p:
        _broken_forkserver(monkeypatch, "_obey", "lambda self: os._exit(9)")
        future = p.submit(job(0, "s"))
        os.kill(forkserver_pid(p), signal.SIGKILL)
        assert future.result(WAIT_S).status == "cancelled"
        with pytest.raises(PoolBroken, match=f"{MAX_BARREN_DEATHS} workers in a row died"):
            p.submit(job(1))


def test_a_job_of_a_worker_that_died_beside_a_stopped_forkserver_goes_to_another_worker() -> None:
    # The exit status never comes, so the death is judged by the clock, when nothing else happens in the pool.
    calls = iter((False, True))
    entered, gate = threading.Event(), threading.Event()

    def first_waits(_tool: str, _args: object) -> bool:
        if not next(calls):
            entered.set()
            gate.wait(WAIT_S)
        return True

    with pool(guard(backend=first_waits), workers=2, limits=Limits(timeout_s=60.0, backend_timeout_s=60.0)) as p:
        server = forkserver_pid(p)
        future = p.submit(job(0, "b"))
        assert entered.wait(WAIT_S)
        assert ask(p, "k")  # by the other one
        (pid,) = (worker.pid for worker in p.stats().workers if not worker.jobs)
        os.kill(server, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            assert future.result(15.0).status == "ok"
        finally:
            os.kill(server, signal.SIGCONT)
            gate.set()


# --- guards that are initialised once and not again


class Moody:
    """A backend that answers, raises or does something else at each `label_agent`."""

    def __init__(self) -> None:
        self.mood: Callable[[], object] = lambda: True

    def __call__(self, _tool: str, _args: object) -> object:
        return self.mood()


def _agent_pool(backend: Moody, **limits: Any) -> GuardPool:
    options: dict[str, Any] = {"timeout_s": WAIT_S, **limits}
    return pool(guard("agent_asks", backend=backend), workers=2, limits=Limits(**options))


def _fail() -> object:
    raise LookupError("not today")


def test_a_guard_that_fails_to_initialise_now_and_then_is_tried_again() -> None:
    moody = Moody()
    failed = 0

    def fail_three_times() -> object:
        nonlocal failed
        if failed < 3:
            failed += 1
            raise LookupError("not yet")
        return True

    with _agent_pool(moody) as p:
        moody.mood = fail_three_times
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        assert_right_labels(p, 200)
        wait_until(lambda: len(p.stats().workers) == 2, "the successor")
        assert failed == 3


def assert_right_labels(pool: GuardPool, count: int) -> None:
    outcomes = list(pool.map(Job(n, "label_resource", "k", {}) for n in range(count)))
    assert [(outcome.id, outcome.status.value) for outcome in outcomes] == [(n, "ok") for n in range(count)]


def test_a_guard_that_never_initialises_again_breaks_the_pool_with_its_reason() -> None:
    moody = Moody()
    with _agent_pool(moody) as p:
        moody.mood = _fail
        for worker in p.stats().workers:
            os.kill(worker.pid, signal.SIGKILL)
        assert p.submit(Job(0, "label_resource", "k", {})).result(WAIT_S).status == "cancelled"
        with pytest.raises(PoolBroken, match=r"guard 'agent_asks': label_agent.*-3"):
            p.submit(Job(1, "label_resource", "k", {}))


def test_a_guard_that_fails_to_initialise_at_the_start_is_named() -> None:
    moody = Moody()
    moody.mood = _fail
    with pytest.raises(GuardInitError, match="guard 'agent_asks': label_agent"):
        _agent_pool(moody)


def test_a_worker_that_is_stopped_while_it_starts_is_replaced_and_the_pool_goes_on() -> None:
    moody = Moody()
    with _agent_pool(moody, timeout_s=0.5) as p:
        server = psutil.Process(forkserver_pid(p))
        old = {child.pid for child in server.children()}
        stopped: list[int] = []

        def stop_who_asks() -> object:
            new = [child.pid for child in server.children() if child.pid not in old]
            if new and not stopped:
                stopped.append(new[0])
                os.kill(new[0], signal.SIGSTOP)
            return True

        moody.mood = stop_who_asks
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        wait_until(lambda: stopped and len(p.stats().workers) == 2, "a successor that is not stopped")
        assert_right_labels(p, 50)


def test_the_time_that_label_agent_took_is_not_the_first_jobs() -> None:
    # Its number is 1, as is the guard's while it is initialised.
    began = time.monotonic()
    with pool(guard("agent_asks", backend=lambda *_: True), workers=1, limits=Limits(timeout_s=2.0)) as p:
        wait_until(lambda: time.monotonic() > began + 2.2, "more than a deadline to go by")
        outcome = p.submit(Job(0, "label_resource", "work", {})).result(WAIT_S)
        assert (outcome.status, outcome.attempts) == ("ok", 1)


# --- who is to blame for memory


def test_a_job_is_not_to_blame_for_the_memory_of_the_one_before_it() -> None:
    # The first job fills 56 MiB and answers, mostly before anybody looks; the next ones are seen in the worker it left.
    limits = Limits(timeout_s=WAIT_S, max_rss_bytes=60 * MIB, memory_pages=900)
    guards = (guard("memory_bomb"), guard("agent_asks", backend=lambda *_: True))
    for _ in range(3):
        with pool(*guards, workers=1, limits=limits) as p:
            bomb = Job("bomb", "label_resource", "k", {}, guard="memory_bomb")
            work = [Job(n, "label_resource", "work", {}, guard="agent_asks") for n in range(3)]
            outcomes = {outcome.id: outcome.status.value for outcome in p.map([bomb, *work])}
            assert outcomes.pop("bomb") in ("ok", "memory")
            assert outcomes == dict.fromkeys(range(3), "ok")
