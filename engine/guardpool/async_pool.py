"""The pool for programs that run an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from guardpool.errors import CallerError, InvalidJob, PoolClosed
from guardpool.guard import Guard
from guardpool.jobs import Job, Op
from guardpool.labels import AgentLabels
from guardpool.outcomes import Outcome
from guardpool.pool import NOT_PICKLED, GuardPool, Observer
from guardpool.stats import PoolStats
from guardpool.submit.async_calls import AsyncCalls
from guardpool.submit.async_stream import AnyJobs, mapped
from guardpool.submit.intake import AnyJob

T = TypeVar("T")

_NOT_ENTERED = "this pool is made when it is entered: async with AsyncGuardPool(...) as pool"


class AsyncGuardPool:
    """A `GuardPool` whose calls are awaited.

        async with AsyncGuardPool([guard]) as pool:
            outcome = await pool.label_resource("get_issue", {"owner": "octo", "repo": "widgets", "issue_number": 1})
            async for outcome in pool.map(jobs):
                ...

    The pool is made when the block is entered, on a thread of the loop's executor, and belongs to that loop. No call takes a
    thread: the supervisor tells the loop of outcomes, many at a time. Leaving the block closes the pool, leaving it by an
    exception, also by a cancellation, kills it. Any event loop that is asyncio's will do, uvloop's too.

    Args:
        guards: one or more, with names that differ.
        options: as for `GuardPool`.

    Raises:
        What `GuardPool` raises, when the block is entered.
    """

    def __init__(self, guards: Sequence[Guard], **options: Any) -> None:
        self._make = partial(GuardPool, guards, **options)
        self._made: GuardPool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: AsyncCalls | None = None
        self._observer: Observer | None = None

    # --- facts

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_PICKLED)

    @property
    def agents(self) -> Mapping[str, AgentLabels]:
        """What each guard's `label_agent` answered, by name."""
        return self._pool.agents

    @property
    def workers(self) -> int:
        """How many worker processes there are."""
        return self._pool.workers

    @property
    def engine(self) -> str:
        """The WebAssembly engine in use."""
        return self._pool.engine

    def stats(self) -> PoolStats:
        """Counters, latency, workers and the sandbox in force, at this moment."""
        return self._pool.stats()

    async def flush_logs(self, timeout_s: float = 5.0) -> None:
        """Pass on what guards logged so far; waits so long for the log handlers at most."""
        await self._in_thread(partial(self._pool.flush_logs, timeout_s))

    def observe(self, observer: Observer) -> None:
        """As `GuardPool.observe`."""
        self._observer = observer

    def stop_observing(self, observer: Observer) -> None:
        """As `GuardPool.stop_observing`."""
        if self._observer is observer:
            self._observer = None

    # --- jobs

    async def label_resource(
        self, tool_name: str, tool_args: Any = None, *, capabilities: Any = None, guard: str | None = None
    ) -> Outcome:
        """Label one tool call before it is made. A cancelled call costs no worker's time, if none has begun it.

        Raises:
            PoolClosed, PoolBroken: no job can be taken. Everything else is in the outcome.
        """
        return await self.submit(Job(None, Op.LABEL_RESOURCE.value, tool_name, tool_args, None, capabilities, guard))

    async def label_response(
        self,
        tool_name: str,
        tool_result: Any,
        *,
        tool_args: Any = None,
        capabilities: Any = None,
        guard: str | None = None,
    ) -> Outcome:
        """Label what a tool answered. Raises as `label_resource`."""
        return await self.submit(
            Job(None, Op.LABEL_RESPONSE.value, tool_name, tool_args, tool_result, capabilities, guard)
        )

    def submit(self, job: AnyJob) -> asyncio.Future[Outcome]:
        """Queue one job, a `Job` or a dict with the keys of a job line. Its future gets an outcome, never an exception, unless
        the pool breaks or is killed at that very moment. To cancel it is to cancel the job, if no worker has begun it.

        Raises:
            InvalidJob: it is neither a `Job` nor a dict.
            PoolClosed, PoolBroken: no job can be taken.
        """
        if self._calls is None:
            raise PoolClosed(_NOT_ENTERED)
        self._check_loop()
        return self._calls.submit(job)

    def map(self, jobs: AnyJobs, ordered: bool = True) -> AsyncIterator[Outcome]:
        """Label jobs lazily: the input is read as fast as outcomes are taken, and no faster.

        Args:
            jobs: an iterable or an async one. One that is not async is advanced on the loop's thread: it must not wait.
            ordered: outcomes in the order of the jobs, or as they come.

        Returns:
            An async iterator with exactly one outcome for each job. Closing it (`aclose`), or cancelling the task that advances
            it, drops what no worker has begun; the pool stays usable. An exception of `jobs` comes out of it after the
            outcomes of the jobs before it.

        Raises:
            As `GuardPool.map`.
        """
        pool = self._pool
        if isinstance(jobs, (Job, Mapping, str, bytes)):
            raise InvalidJob(f"map takes jobs, e.g. pool.map([job]); not one {type(jobs).__name__}")
        if not isinstance(jobs, (Iterable, AsyncIterable)):
            raise InvalidJob(f"map takes an iterable of jobs, also an async one; not {type(jobs).__name__}")
        self._check_loop()
        pool._inbox.check_open()
        outcomes = mapped(jobs, pool._intake, partial(pool.stream, ordered))
        return outcomes if self._observer is None else self._observer.watch_async(outcomes)

    # --- beginning and end

    async def close(self, timeout_s: float | None = None) -> bool:
        """Finish the jobs that were handed in, then end the workers; as `GuardPool.close`. The loop goes on meanwhile."""
        return await self._in_thread(partial(self._pool.close, timeout_s))

    async def kill(self) -> None:
        """End the workers now; every job without an outcome gets a `cancelled` one."""
        await self._in_thread(self._pool.kill)

    async def __aenter__(self) -> AsyncGuardPool:
        if self._loop is not None:
            raise CallerError("this AsyncGuardPool was entered before: make another one")
        loop = self._loop = asyncio.get_running_loop()
        making = _Making(self._make)
        try:
            self._made = await asyncio.shield(loop.run_in_executor(None, making.run))
        except asyncio.CancelledError:
            if making.abandon():
                loop.run_in_executor(None, making.end)
            raise
        self._calls = AsyncCalls(self._made._inbox, self._made._intake, loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await (self.close() if kind is None else self.kill())

    @property
    def _pool(self) -> GuardPool:
        if self._made is None:
            raise PoolClosed(_NOT_ENTERED)
        return self._made

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise CallerError("this pool belongs to another event loop: make one in the loop that uses it")

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Call on a thread of the executor what may block. It comes to its end even if the caller is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, call))


class _Making:
    """A pool that is made on a thread of the executor, while the task that asked for it may be cancelled."""

    def __init__(self, make: Callable[[], GuardPool]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: GuardPool | None = None
        self._is_abandoned = False

    def run(self) -> GuardPool:
        """Make it. If nobody waits for it any more it ends here, on the same thread: killing takes a while, too."""
        made = self._make()
        with self._lock:
            self._made = made
            is_abandoned = self._is_abandoned
        if is_abandoned:
            made.kill()
        return made

    def abandon(self) -> bool:
        """Nobody waits for it any more. Returns whether it is made already, so that `end` is to be called, on a thread."""
        with self._lock:
            self._is_abandoned = True
            return self._made is not None

    def end(self) -> None:
        """Kill it."""
        assert self._made is not None
        self._made.kill()
