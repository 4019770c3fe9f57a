"""The caller's own code does everything wrong (log handlers, callbacks, backends, consumers): no job is lost, nothing hangs."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from guardpool import AsyncGuardPool, CallerError, GuardPool, InvalidJob, Job, Limits, Outcome, PoolClosed
from guardpool.supervise.notifier import MAX_WAITING_LOGS
from poolkit import MIB, WAIT_S, Gate, ask, assert_right, guard, job, jobs, only_worker, pool, wait_until

# --- log handlers


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


def test_a_log_handler_that_blocks_stops_no_job() -> None:
    # The pool itself logs the death of a worker; the loop must not wait for the handler, nor a future for a record.
    release, entered = threading.Event(), threading.Event()

    def block(_record: logging.LogRecord) -> None:
        entered.set()
        release.wait(WAIT_S)

    gate, limits = Gate(), Limits(timeout_s=WAIT_S, max_attempts=1)
    with handler("guardpool", block), pool(guard(backend=gate), workers=1, limits=limits, log_level="error") as p:
        try:
            victim = p.submit(job(0, "b"))
            assert gate.entered.acquire(timeout=WAIT_S)
            os.kill(only_worker(p), signal.SIGKILL)
            assert victim.result(WAIT_S).status == "crashed"
            assert entered.wait(WAIT_S)
            assert p.submit(job(1)).result(WAIT_S).status == "ok"
            assert p.submit(job(2, "f")).result(WAIT_S).status == "ok"
            assert_right(list(p.map(jobs(100))), {}, 100)
        finally:
            gate.open.set()
            release.set()


def test_a_log_handler_that_raises_is_reported_and_ends_nothing(reported: list[type[BaseException]]) -> None:
    def fail(_record: logging.LogRecord) -> None:
        raise SystemExit("a handler that gives up")

    with handler("guardpool", fail), pool(workers=1, log_level="error") as p:
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        assert p.submit(job(0, "f")).result(WAIT_S).status == "ok"
        assert p.submit(job(1)).result(WAIT_S).status == "ok"
        wait_until(lambda: reported, "the report")
    assert set(reported) == {SystemExit}


def test_logs_that_wait_for_a_slow_handler_are_bounded_in_memory() -> None:
    release = threading.Event()
    lines: list[str] = []

    def slow(record: logging.LogRecord) -> None:
        release.wait(WAIT_S)
        lines.append(record.getMessage())

    with handler("guardpool", slow), pool(log_level="error") as p:
        # 64 KiB of lines a job, nearly three times what waits at most.
        assert_right(list(p.map(job(n, "f") for n in range(20))), {}, 20)
        release.set()
        wait_until(lambda: any("log records dropped" in line for line in lines), "the count of what was dropped")
    assert len(lines) < 2 * MAX_WAITING_LOGS + 100  # the batch in hand and what waits behind it


# --- callbacks


@contextmanager
def submitted_before(callback: Callable[[Future[Outcome]], object]) -> Iterator[tuple[GuardPool, Future[Outcome]]]:
    """A pool and the future of a job that ends only after the callback was added: else it would run in this thread."""
    gate = Gate()
    with pool(guard(backend=gate)) as p:
        first = p.submit(job(0, "b"))
        first.add_done_callback(callback)
        gate.open.set()
        yield p, first


def test_a_callback_that_blocks_stalls_no_job() -> None:
    release = threading.Event()
    with submitted_before(lambda _future: release.wait(WAIT_S)) as (p, _first):
        try:
            assert p.label_resource("k1").status == "ok"
            assert len(list(p.map(jobs(100)))) == 100
        finally:
            release.set()


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_callback_may_wait_for_another_future_of_the_pool(end: str) -> None:
    gates, labelled = [Gate(), Gate()], []
    with pool(guard("first", wat="vicious", backend=gates[0]), guard("second", wat="vicious", backend=gates[1])) as p:
        first, second = p.submit(job(0, "b", guard="first")), p.submit(job(1, "b", guard="second"))
        third = p.submit(job(2, "b", guard="second"))
        first.add_done_callback(lambda _: labelled.append(second.result(WAIT_S).status))
        second.add_done_callback(lambda _: labelled.append(third.result(WAIT_S).status))
        gates[0].open.set()
        assert first.result(WAIT_S).status == "ok"
        gates[1].open.set()
        assert third.result(WAIT_S).status == "ok"
        wait_until(lambda: len(labelled) == 2, "both callbacks")
        getattr(p, end)()
    assert labelled == ["ok", "ok"]


def test_a_pool_that_closes_sets_every_future_although_a_callback_hangs() -> None:
    release = threading.Event()
    with submitted_before(lambda _future: release.wait(WAIT_S)) as (p, first):
        futures = [first, *(p.submit(job(number)) for number in range(1, 50))]
        p.close()
        assert all(future.done() for future in futures)
        release.set()


def test_a_callback_that_raises_costs_no_other_future_its_result(reported: list[type[BaseException]]) -> None:
    def leave(_future: object) -> None:
        sys.exit(3)

    with submitted_before(leave) as (p, first):
        futures = [p.submit(job(n)) for n in range(1, 20)]
        outcomes = [future.result(WAIT_S) for future in (first, *futures)]
        assert [(outcome.id, outcome.status) for outcome in outcomes] == [(n, "ok") for n in range(20)]
    assert reported == [SystemExit]


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_pool_may_be_ended_by_a_callback(end: str) -> None:
    ended, may_end = threading.Event(), threading.Event()
    pools: list[GuardPool] = []

    def finish(_future: object) -> None:
        may_end.wait(WAIT_S)
        getattr(pools[0], end)()
        ended.set()

    with submitted_before(finish) as (p, _first):
        pools.append(p)
        rest = p.submit(job(1, "w"))
        may_end.set()
        assert ended.wait(WAIT_S)
        assert rest.result(WAIT_S).status in ("ok", "cancelled")
        with pytest.raises(PoolClosed):
            p.submit(job(2))


# --- backends


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
        raise ValueError("this handler as well")

    limits = Limits(timeout_s=WAIT_S, backend_timeout_s=10 * WAIT_S)  # no test waits that long
    with handler("guardpool.backend", raising), pool(guard(backend=fail), workers=1, limits=limits) as p:
        outcome = ask(p, "b")
        assert (outcome.status, outcome.error.guard_code) == ("refused", -9)  # type: ignore[union-attr]
        assert ask(p, "k").status == "ok"


def test_a_backend_that_never_returns_fails_only_its_own_job() -> None:
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


# --- map and its consumer


def test_a_map_that_is_left_early_drops_its_queued_jobs() -> None:
    with pool() as p:
        outcomes = p.map(job(n, "w") for n in range(20_000))
        assert next(iter(outcomes)).id == 0
        outcomes.close()  # type: ignore[attr-defined]
        assert ask(p, "k", 1).status == "ok"
        wait_until(lambda: p.stats().queued == 0 and p.stats().in_flight == 0, "the rest to be dropped")


def test_map_reads_its_input_as_fast_as_outcomes_are_taken_and_no_faster() -> None:
    read = 0

    def endless() -> Iterator[Job]:
        nonlocal read
        while True:
            read += 1
            yield job(read)

    with pool() as p:
        outcomes = p.map(endless())
        for _ in range(10):
            next(iter(outcomes))
        assert read <= 20_000
        outcomes.close()  # type: ignore[attr-defined]


def test_an_exception_of_the_input_comes_after_the_outcomes_before_it() -> None:
    def broken() -> Iterator[Job]:
        yield from jobs(300)
        raise RuntimeError("the input broke")

    seen: list[Outcome] = []
    with pool() as p:
        with pytest.raises(RuntimeError, match="the input broke"):
            seen.extend(p.map(broken()))
        assert ask(p, "k", 1).status == "ok"
    assert len(seen) in (0, 300)


def test_a_consumer_that_stops_leaves_a_bounded_backlog() -> None:
    gate = Gate()

    def bulky() -> Iterator[Job]:
        # The worker waits until the map has handed in everything.
        yield job(0, "b")
        yield from (job(number, "h" if number % 20 == 0 else "k") for number in range(1, 400))
        gate.open.set()

    limits = Limits(timeout_s=WAIT_S, max_rss_bytes=1024 * MIB, memory_pages=4096)
    with pool(guard(backend=gate), workers=1, limits=limits) as p:
        outcomes = p.map(bulky(), ordered=False)
        next(outcomes)

        def only_ours_go_on() -> bool:
            done = p.stats().outcomes["ok"]
            assert ask(p, "k").status == "ok"
            return p.stats().in_flight == 0 and p.stats().outcomes["ok"] == done + 1

        # Outcomes that are not taken stop the sending at 64 MiB and what is on its way: nineteen answers of 8 MiB in all.
        wait_until(only_ours_go_on, "the stream to come to rest")
        assert 0 < p.stats().queued < 300
        p.close()  # does not wait for the consumer


def test_a_stream_that_is_left_is_freed_with_what_it_held() -> None:
    with pool(limits=Limits(timeout_s=WAIT_S, max_rss_bytes=1024 * MIB, memory_pages=4096)) as p:
        outcomes = p.map((job(n, "h") for n in range(40)), ordered=False)
        next(outcomes)
        stream = weakref.ref(outcomes.gi_frame.f_locals["stream"])  # type: ignore[attr-defined]
        outcomes.close()  # type: ignore[attr-defined]
        del outcomes
        wait_until(lambda: p.stats().in_flight == 0, "the pool to come to rest")
        assert ask(p, "k").status == "ok"
        wait_until(lambda: gc.collect() >= 0 and stream() is None, "the stream to be forgotten")


# --- jobs that are dicts, and things that are no jobs


def test_map_takes_dicts_that_are_jobs_and_says_what_it_wants() -> None:
    line = {"op": "label_resource", "tool_name": "get_issue", "tool_args": {"n": 1}}
    with pool(guard(), workers=1) as p:
        outcomes = list(p.map([line, {**line, "id": "x"}, {"tool": "get_issue"}, line]))
        assert [(one.id, one.status.value) for one in outcomes] == [(0, "ok"), ("x", "ok"), (2, "rejected"), (3, "ok")]
        assert p.submit(line).result(WAIT_S).label == outcomes[0].label

        taken = []
        with pytest.raises(
            InvalidJob, match=r"^job 300 of the input: a job is a guardpool\.Job, or a dict with the keys"
        ):
            for outcome in p.map([*(line for _ in range(300)), ("label_resource", "get_issue"), line]):
                taken.append(outcome.id)  # noqa: PERF401  # one by one: the last step raises
        assert taken == list(range(300))

        for one in (line, Job(1, "label_resource", "t"), "jobs.jsonl", b"{}"):
            with pytest.raises(InvalidJob, match=r"map takes jobs, e.g. pool.map\(\[job\]\)"):
                p.map(one)  # type: ignore[arg-type]
        with pytest.raises(InvalidJob, match=r"a line of JSON is one after json\.loads"):
            list(p.map(['{"op":"label_resource"}']))  # type: ignore[list-item]
        assert p.label_resource("get_issue").status == "ok"


def test_a_pool_that_is_to_be_copied_or_sent_says_what_to_send() -> None:
    with pool(workers=1) as p:
        for one in (p, AsyncGuardPool([guard()])):
            for way in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="send the guards, and make a pool of them there"):
                    way(one)
        assert ask(p, "k").status == "ok"


def test_a_pool_of_no_guards_at_all_says_what_it_takes() -> None:
    with pytest.raises(CallerError, match=r"e\.g\. GuardPool\(\[guard\]\), not NoneType"):
        GuardPool(None)  # type: ignore[arg-type]
