"""The pool of an event loop: awaited calls, async maps, cancellation, and no thread a call."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import psutil
import pytest

from guardpool import AsyncGuardPool, CallerError, Guard, GuardPool, InvalidJob, Job, Limits, ModuleError, PoolClosed
from guardpool.submit.stream import WINDOW_JOBS
from poolkit import POLICY, WAIT_S, Gate, assert_right, guard, job, jobs, statuses, wait_until, wait_until_gone

T = TypeVar("T")


class Loop:
    """An event loop of the test's own, with a pool in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: AsyncGuardPool) -> None:
        self.loop = loop
        self.pool = pool

    def run(self, work: Callable[[AsyncGuardPool], Awaitable[T]]) -> T:
        async def in_time() -> T:
            return await asyncio.wait_for(work(self.pool), WAIT_S)

        return self.loop.run_until_complete(in_time())


def new_pool(*guards: Any, **options: Any) -> AsyncGuardPool:
    return AsyncGuardPool(list(guards) or [guard()], **{"workers": 2, "limits": Limits(timeout_s=WAIT_S), **options})


@pytest.fixture
def here() -> Iterator[Loop]:
    loop = asyncio.new_event_loop()
    pool = new_pool()
    loop.run_until_complete(pool.__aenter__())
    yield Loop(loop, pool)
    loop.run_until_complete(pool.__aexit__(None, None, None))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


async def ticking(count: int) -> AsyncIterator[Job]:
    """Jobs as they come from a network: sometimes many at once, sometimes one."""
    for each in jobs(count):
        if each.id % 7 == 0:
            await asyncio.sleep(0)
        yield each


# --- single calls


def test_calls_are_awaited_and_bring_what_a_pool_brings(here: Loop) -> None:
    async def work(pool: AsyncGuardPool) -> None:
        one = await pool.label_resource("k1", {"n": 1})
        other = await pool.label_response("k2", {"items": []}, tool_args={"n": 2})
        assert (one.status, other.status) == ("ok", "ok")
        assert one.label.description == "k1"  # type: ignore[union-attr]
        assert (await pool.submit({"op": "label_resource", "tool_name": "k3", "id": 3})).id == 3
        assert (await pool.submit(job(4, "t"))).status == "trap"
        assert (await pool.submit({"op": "label_it"})).status == "rejected"
        with pytest.raises(InvalidJob):
            pool.submit("k5")  # type: ignore[arg-type]

    here.run(work)
    assert here.pool.agents["vicious"].mode == "filter"
    assert (here.pool.workers, here.pool.engine) == (2, here.pool.stats().engine.split()[0])


def test_thousands_of_calls_at_a_time_take_no_thread(here: Loop) -> None:
    async def work(pool: AsyncGuardPool) -> None:
        before = threading.active_count()
        calls = [asyncio.ensure_future(pool.label_resource(f"k{n}", {"n": n})) for n in range(3000)]
        await asyncio.wait(calls[:1])
        assert threading.active_count() <= before
        found = [(await call).label.description for call in calls]  # type: ignore[union-attr]
        assert found == [f"k{n}" for n in range(3000)]

    here.run(work)


def test_a_cancelled_call_that_no_worker_has_costs_nothing() -> None:
    gate = Gate()

    async def work() -> None:
        async with new_pool(guard(backend=gate), workers=1, limits=Limits(timeout_s=1.0)) as pool:
            asking = pool.submit(job(0, "b"))
            await asyncio.to_thread(gate.entered.acquire, True, WAIT_S)
            calls = [pool.submit(each) for each in jobs(100)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            for _ in range(3):  # futures tell of it in the next round, and the pool hears of it in the one after
                await asyncio.sleep(0)
            gate.open.set()
            assert (await asking).id == 0
            left = [call for call in calls if not call.cancelled()]
            assert [outcome.id for outcome in await asyncio.gather(*left)] == list(range(1, 100, 2))
            # Some may have been on their way to the worker already: what is in flight stays there.
            assert 20 < pool.stats().outcomes["cancelled"] <= 50
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pool.submit(job(1, "s")), 0.01)

    asyncio.run(asyncio.wait_for(work(), WAIT_S))


# --- map


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("source", [jobs, ticking])
def test_map_takes_any_iterable(here: Loop, source: Callable[[int], Any], ordered: bool) -> None:
    async def work(pool: AsyncGuardPool) -> list[Any]:
        return [outcome async for outcome in pool.map(source(2000), ordered)]

    outcomes = here.run(work)
    assert_right(outcomes, {}, 2000)
    if ordered:
        assert [outcome.id for outcome in outcomes] == list(range(2000))


def test_map_reads_no_faster_than_outcomes_are_taken(here: Loop) -> None:
    read = 0

    async def endless() -> AsyncIterator[Job]:
        nonlocal read
        while True:
            yield job(read)
            read += 1

    async def work(pool: AsyncGuardPool) -> None:
        outcomes = pool.map(endless())
        first = await outcomes.__anext__()
        assert first.id == 0
        done = pool.stats().outcomes.get("ok", 0)
        while pool.stats().outcomes.get("ok", 0) < done + 1000:
            await asyncio.sleep(0)
        assert read <= WINDOW_JOBS + 1000
        await outcomes.aclose()  # type: ignore[attr-defined]
        assert (await pool.label_resource("k1", {"n": 1})).status == "ok"

    here.run(work)


def test_what_the_jobs_raise_comes_after_the_outcomes_before_it(here: Loop) -> None:
    def failing() -> Iterator[Job]:
        yield from jobs(300)
        raise KeyError("no more")

    async def failing_later() -> AsyncIterator[Job]:
        for each in jobs(300):
            yield each
        raise KeyError("no more")

    async def strange() -> AsyncIterator[Any]:
        for each in jobs(300):
            yield each
        yield 7

    async def work(pool: AsyncGuardPool) -> None:
        for source, error in ((failing(), KeyError), (failing_later(), KeyError), (strange(), InvalidJob)):
            taken = []
            with pytest.raises(error) as caught:
                async for outcome in pool.map(source):  # type: ignore[arg-type]
                    taken.append(outcome)  # noqa: PERF401  # what came before the error counts
            assert_right(taken, {}, 300)
            assert error is KeyError or "job 300 of the input" in str(caught.value)
        for wrong in (job(1), "k1", 5):
            with pytest.raises(InvalidJob):
                pool.map(wrong)  # type: ignore[arg-type]

    here.run(work)


def test_cancelling_who_advances_a_map_drops_what_no_worker_has(here: Loop) -> None:
    async def work(pool: AsyncGuardPool) -> None:
        taken = 0

        async def take() -> None:
            nonlocal taken
            async for _ in pool.map(jobs(1_000_000)):
                taken += 1

        taking = asyncio.ensure_future(take())
        while not taken:
            await asyncio.sleep(0)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert taken < 1_000_000
        while pool.stats().queued:
            await asyncio.sleep(0)
        assert (await pool.submit(job(1))).status == "ok"

    here.run(work)


def test_killed_workers_lose_nothing(here: Loop) -> None:
    async def work(pool: AsyncGuardPool) -> list[Any]:
        outcomes = []
        async for outcome in pool.map(jobs(3000), ordered=False):
            workers = pool.stats().workers if len(outcomes) % 1000 == 0 else []
            if workers:
                with contextlib.suppress(ProcessLookupError):  # it is dead already, and the pool is about to see it
                    os.kill(workers[0].pid, signal.SIGKILL)
            outcomes.append(outcome)
        return outcomes

    assert_right(here.run(work), {}, 3000)


# --- beginning and end


def test_a_pool_that_cannot_be_made_says_why() -> None:
    async def work() -> None:
        with pytest.raises(ModuleError):
            async with new_pool(Guard("g", b"no module", POLICY)):
                pass

    asyncio.run(work())


def test_entering_may_be_cancelled_and_leaves_no_process() -> None:
    async def work() -> None:
        pool = new_pool()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pool.__aenter__(), 0.001)
        with pytest.raises(PoolClosed):
            pool.stats()

    asyncio.run(work())
    wait_until(lambda: not psutil.Process().children(recursive=True), "the end of the pool that was not entered")


@pytest.mark.parametrize("is_made", [False, True])
def test_the_loop_goes_on_while_a_pool_ends_whose_entering_was_cancelled(
    is_made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill, killing, made, ticked = GuardPool.kill, threading.Event(), threading.Event(), threading.Event()
    seen: list[bool] = []

    def kill_once_the_loop_went_on(pool: GuardPool) -> None:
        killing.set()
        seen.append(ticked.wait(WAIT_S))
        kill(pool)

    async def work() -> None:
        pool = new_pool(workers=1)
        make = pool._make

        def and_tell() -> GuardPool:
            result = make()
            made.set()
            return result

        monkeypatch.setattr(pool, "_make", and_tell)
        entering = asyncio.ensure_future(pool.__aenter__())
        await asyncio.sleep(0)
        if is_made:
            made.wait(WAIT_S)  # the loop stands, so that it learns of both together
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await asyncio.to_thread(killing.wait, WAIT_S)
        for _tick in range(10):
            await asyncio.sleep(0)
        ticked.set()

    monkeypatch.setattr(GuardPool, "kill", kill_once_the_loop_went_on)
    asyncio.run(work())
    assert seen == [True]
    assert not psutil.Process().children(recursive=True)


def test_leaving_by_an_exception_kills_and_by_itself_finishes() -> None:
    async def left(error: BaseException | None) -> tuple[dict[str, int], list[int]]:
        calls: list[asyncio.Future[Any]] = []
        try:
            async with new_pool(workers=1) as pool:
                workers = [worker.pid for worker in pool.stats().workers]
                calls = [pool.submit(each) for each in jobs(500, {0: "s"} if error else {})]
                await asyncio.sleep(0)
                if error is not None:
                    raise error
        except (KeyError, asyncio.CancelledError):
            pass
        return statuses([await call for call in calls]), workers

    assert asyncio.run(left(None))[0] == {"ok": 500}
    for error in (KeyError("x"), asyncio.CancelledError()):
        found, workers = asyncio.run(left(error))
        assert sum(found.values()) == 500
        assert found["cancelled"] > 0
        wait_until_gone(*workers)


def test_a_pool_belongs_to_one_loop_and_one_block(here: Loop) -> None:
    async def elsewhere() -> None:
        with pytest.raises(CallerError, match="belongs to another event loop"):
            here.pool.submit(job(1))
        with pytest.raises(CallerError, match="belongs to another event loop"):
            here.pool.map(jobs(1))

    async def again(pool: AsyncGuardPool) -> None:
        with pytest.raises(CallerError, match="was entered before"):
            await pool.__aenter__()

    asyncio.run(elsewhere())
    here.run(again)
    with pytest.raises(PoolClosed, match="async with"):
        new_pool().submit(job(1))


def test_after_its_end_it_takes_nothing() -> None:
    async def work() -> None:
        async with new_pool(workers=1) as pool:
            assert await pool.close(WAIT_S)
            with pytest.raises(PoolClosed):
                await pool.label_resource("k1")
            with pytest.raises(PoolClosed):
                pool.map(jobs(1))

    asyncio.run(work())


_IN_A_LOOP = f"""
from guardpool import AsyncGuardPool, Guard, samples
pool = await AsyncGuardPool([Guard.from_file(samples.GUARD, "github", {POLICY!r})], workers=1).__aenter__()
print((await pool.label_resource("get_issue", {{"owner": "o", "repo": "r", "issue_number": 1}})).status)
print(len([outcome async for outcome in pool.map(samples.jobs(20))]))
await pool.close()
"""


def _python(*arguments: str, code: str = "") -> str:
    command = [sys.executable, *arguments]
    run = subprocess.run(command, input=code, capture_output=True, text=True, timeout=WAIT_S, check=False)
    return run.stdout + run.stderr


def test_it_works_beside_uvloop() -> None:
    pytest.importorskip("uvloop", reason="uvloop has no build for this Python")
    lines = "".join(f"    {line}\n" for line in _IN_A_LOOP.splitlines())
    # In a process of its own: libuv keeps a pipe for as long as its process lives.
    said = _python("-c", f"import uvloop\nasync def main():\n{lines}\nuvloop.run(main())")
    assert said.splitlines()[:2] == ["ok", "20"], said


def test_it_works_where_a_loop_runs_already_as_in_a_notebook() -> None:
    said = _python("-m", "asyncio", code=_IN_A_LOOP)
    assert "ok\n" in said, said
    assert "20\n" in said, said


def test_options_are_those_of_the_other_pool() -> None:
    async def work() -> None:
        with pytest.raises(TypeError):
            async with new_pool(worker=2):
                pass

    asyncio.run(work())
    assert GuardPool.label_resource.__kwdefaults__ == AsyncGuardPool.label_resource.__kwdefaults__
