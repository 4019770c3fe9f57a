"""A `map` for an event loop: jobs from any iterable, also an async one, and outcomes as an async iterator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Protocol, Union

from guardpool.errors import InvalidJob
from guardpool.jobs import Job
from guardpool.outcomes import Outcome
from guardpool.submit.intake import AnyJob, Intake, not_a_job
from guardpool.submit.stream import Bell, JobStream

AnyJobs = Union[Iterable[AnyJob], AsyncIterable[AnyJob]]

# Jobs that are encoded, and outcomes that are given out, before the loop has its turn: 2 us each if they are small.
_MOST_AT_ONCE = 64
_MOST_BYTES_AT_ONCE = 1024 * 1024


class NewStream(Protocol):
    """Makes a stream of a pool."""

    def __call__(self, *, room_bell: Bell, ready_bell: Bell) -> JobStream:
        """A stream that rings these bells."""


class _LoopBell:
    """Wakes a coroutine. `arm` and `ring` are called with the stream's lock held, `ring` from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._armed = False

    def arm(self) -> None:
        self._event.clear()
        self._armed = True

    def ring(self) -> None:
        if self._armed:
            self._armed = False
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._event.set)

    def wait(self, timeout_s: float | None) -> None:
        raise RuntimeError("a thread that runs an event loop must not wait")

    async def rung(self) -> None:
        await self._event.wait()


async def mapped(jobs: AnyJobs, intake: Intake, new_stream: NewStream) -> AsyncIterator[Outcome]:
    """Label jobs lazily; see `AsyncGuardPool.map`."""
    room, ready = _LoopBell(), _LoopBell()
    stream = new_stream(room_bell=room, ready_bell=ready)
    feeding = asyncio.ensure_future(_Feeder(stream, intake, room).feed(jobs))
    try:
        while (outcomes := stream.take_now()) != []:
            if outcomes is None:
                await ready.rung()
                continue
            for at, outcome in enumerate(outcomes, 1):
                if at % _MOST_AT_ONCE == 0:
                    await asyncio.sleep(0)
                yield outcome
        await feeding  # what the jobs' iterator raised comes after the outcomes of the jobs before it
    finally:
        feeding.cancel()
        stream.close()
        await asyncio.wait([feeding])
        if not feeding.cancelled():
            feeding.exception()  # it was raised above, or nobody wants to know


class _Feeder:
    """Puts jobs into a stream, many at a time: all that are there before the loop has its turn."""

    def __init__(self, stream: JobStream, intake: Intake, room: _LoopBell) -> None:
        self._stream = stream
        self._intake = intake
        self._room = room
        self._part: list[AnyJob] = []
        self._put = 0
        self._most = _MOST_AT_ONCE
        self._failure: Exception | None = None

    async def feed(self, jobs: AnyJobs) -> None:
        """Put all jobs; whatever happens the stream is finished then."""
        try:
            if isinstance(jobs, AsyncIterable):
                async for job in jobs:
                    await self._add(job)
            else:
                for job in jobs:
                    await self._add(job)
        finally:
            try:
                self._send()
            finally:
                self._stream.finish()
        if self._failure is not None:
            raise self._failure

    async def _add(self, job: AnyJob) -> None:
        if not isinstance(job, (Job, Mapping)):
            raise InvalidJob(f"job {self._put + len(self._part)} of the input: {not_a_job(job)}")
        self._part.append(job)
        if len(self._part) == 1:  # an async iterable may take long until its next one
            asyncio.get_running_loop().call_soon(self._send_quietly)
        if len(self._part) >= self._most:
            self._send()
            await asyncio.sleep(0)
        while not self._stream.has_room():
            await self._room.rung()
        if self._failure is not None:
            raise self._failure

    def _send_quietly(self) -> None:
        try:
            self._send()
        except Exception as error:
            self._failure = error

    def _send(self) -> None:
        part, self._part = self._part, []
        if part:
            size = self._stream.send(*self._intake.tasks_of(part, self._stream, self._put))
            self._put += len(part)
            self._most = min(_MOST_AT_ONCE, 1 + len(part) * _MOST_BYTES_AT_ONCE // (size + 1))
