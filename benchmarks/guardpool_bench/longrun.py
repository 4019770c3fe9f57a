"""A long `map` in a fresh process: memory that it keeps, it keeps because of the jobs.

A process that has already done a lot has room in its heap that would hide growth. This one reads a request as JSON from
standard input and writes what it finds to standard output as it goes, one JSON object a line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Union

import msgspec

from guardpool import Guard, GuardPool, Job
from guardpool_bench import jobsets, machine
from guardpool_bench.context import jobs_of
from guardpool_bench.measure import QuietHeap


class Request(msgspec.Struct):
    """What to run.

    Attributes:
        wasm, policy, trusted_bots, trusted_users: the guard; `wasm` is a file's name.
        jobs: a file of jobs, used over and over.
        workers: of the pool.
        maps: pairs: jobs in one map, and how often to run such a map; in this order.
        most: the jobs of the long map, which comes after the others and is watched.
        points: how often it is looked at.
        again: maps as above after it.
    """

    wasm: str
    policy: object
    trusted_bots: list[str]
    trusted_users: list[str]
    jobs: str
    workers: int
    engine: str
    maps: list[tuple[int, int]]
    most: int
    points: int
    again: list[tuple[int, int]]


class Whole(msgspec.Struct, tag="whole"):
    """A map is over: jobs a second, its beginning and its end included."""

    count: int
    rate: float


class Mark(msgspec.Struct, tag="mark"):
    """A look at the long map: jobs done, jobs a second since the last look, and bytes resident."""

    done: int
    rate: float
    rss_bytes: int


Found = Union[Whole, Mark]


def main() -> int:
    """Run the request; the exit status."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    guard = Guard.from_file(
        request.wasm,
        name="subject",
        policy=request.policy,
        trusted_bots=request.trusted_bots,
        trusted_users=request.trusted_users,
    )
    jobs = jobsets.read_jobs(request.jobs)
    with QuietHeap(), GuardPool([guard], workers=request.workers, log_level="off", engine=request.engine) as pool:
        _maps(pool, jobs, request.maps)
        _say(Whole(request.most, _long(pool, jobs, request.most, request.points, _say)))
        _maps(pool, jobs, request.again)
    return 0


def _maps(pool: GuardPool, jobs: Sequence[Job], maps: Sequence[tuple[int, int]]) -> None:
    for count, times in maps:
        for _ in range(times):
            began = time.perf_counter()
            done = sum(1 for _ in pool.map(jobs_of(count, jobs)))
            _say(Whole(count, done / (time.perf_counter() - began)))


def _long(pool: GuardPool, jobs: Sequence[Job], count: int, points: int, say: Callable[[Found], None]) -> float:
    step = max(1, count // points)
    done = 0
    began = last = time.perf_counter()
    for _ in pool.map(jobs_of(count, jobs)):
        done += 1
        if done % step == 0:
            now = time.perf_counter()
            say(Mark(done, step / (now - last), machine.rss_bytes()))
            last = now
    return done / (time.perf_counter() - began)


def _say(found: Found) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
