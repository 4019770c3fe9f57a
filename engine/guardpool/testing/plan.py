"""What a simulated run is made of, all of it drawn from the seed before the run begins."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

# Natures of jobs, and how often each is drawn where a run has its share of bad jobs. `killer` dies with its worker for
# `Nature.kills` attempts and is answered after that; `hider` does the same, and wipes its number off the page before.
_BAD = ("trap", "refused", "invalid", "spin", "slow", "bloat", "killer", "hider", "rejected")

# Faults of the world, which are nobody's job's fault.
FAULTS = (
    "kill",  # SIGKILL by an operator or the kernel
    "exit",  # it leaves without goodbye, status 0 or not
    "stop",  # SIGSTOP, perhaps followed by SIGCONT
    "twice",  # it sends results twice
    "foreign",  # it sends a result for a job that it does not hold
    "junk",  # it sends what is no frame
    "goodbye",  # it says BYE with jobs in its hands
    "forkserver",  # the forkserver dies, and all workers with it
    "unborn",  # the next worker dies before it is ready
)


@dataclass(frozen=True)
class Nature:
    """What a job does to its worker."""

    kind: str
    duration_s: float
    label_bytes: int
    kills: int = 0


@dataclass(frozen=True)
class StreamPlan:
    """One stream: its jobs and its two ends."""

    natures: tuple[Nature, ...]
    ordered: bool
    window_jobs: int
    window_bytes: int
    portion: int
    consumer_lag_s: float
    cancel_at_s: float | None = None
    leave_at_s: float | None = None  # the consumer closes the stream and is gone
    sleep_at_s: float | None = None  # the consumer takes nothing more until the pool is closed


@dataclass(frozen=True)
class Plan:
    """One run, but for the moments that are drawn while it goes on.

    Attributes:
        workers: how many.
        streams: what is labelled by streams.
        calls: what is labelled by single calls.
        timeout_s, max_attempts, max_jobs_per_worker, max_frame_jobs: limits of the pool.
        pipe_bytes: what a pipe holds.
        fault_every_s: mean time between faults; None: no faults.
        faults: the kinds that may come.
        calm_at_s: no faults from then on.
        ending: `"drain"`: closed once every job was taken; `"close"` or `"kill"`: at `ending_at_s`, whatever is left.
    """

    workers: int
    streams: tuple[StreamPlan, ...]
    calls: tuple[Nature, ...]
    timeout_s: float
    max_attempts: int
    max_jobs_per_worker: int | None
    pipe_bytes: int
    fault_every_s: float | None
    faults: tuple[str, ...] = field(default=FAULTS)
    calm_at_s: float = 1.0
    ending: str = "drain"
    ending_at_s: float = 0.0
    backlog_s: float = 0.0  # of a close: its time limit; 0 for none


def make_plan(rng: random.Random, jobs: int | None = None, workers: int | None = None) -> Plan:
    """Draw a plan.

    Args:
        rng: of the run.
        jobs: how many in all; None: 20 to 200.
        workers: how many; None: 1 to 5.
    """
    jobs = rng.randint(20, 200) if jobs is None else jobs
    timeout_s = rng.choice((0.05, 0.2, 1.0))
    bad = rng.choice((0.0, 0.02, 0.1, 0.4, 1.0))
    pace_s = rng.choice((5e-5, 5e-4, 5e-3))
    big = rng.random() < 0.3
    natures = [_nature(rng, bad, pace_s, timeout_s, big) for _ in range(jobs)]
    calls = tuple(natures[: jobs // rng.choice((4, 10, 1000))])
    rest = natures[len(calls) :]
    shares = rng.choice((1, 1, 2, 3))
    streams = tuple(_stream(rng, tuple(rest[share::shares]), big) for share in range(shares))
    ending = rng.choices(("drain", "close", "kill"), (8, 1, 1))[0]
    return Plan(
        workers=rng.randint(1, 5) if workers is None else workers,
        streams=streams,
        calls=calls,
        timeout_s=timeout_s,
        max_attempts=rng.choice((1, 2, 2, 3)),
        max_jobs_per_worker=rng.choice((None, None, 3, 25)),
        pipe_bytes=rng.choice((96, 4096, 4096, 1 << 20)),
        fault_every_s=rng.choice((None, 0.002, 0.01, 0.05)),
        faults=FAULTS if rng.random() < 0.5 else tuple(rng.sample(FAULTS, rng.randint(1, 3))),
        calm_at_s=rng.uniform(0.05, 1.0),
        ending=ending,
        ending_at_s=rng.uniform(0.0, 0.5),
        backlog_s=rng.choice((0.0, 0.05)),
    )


def _nature(rng: random.Random, bad: float, pace_s: float, timeout_s: float, big: bool) -> Nature:
    kind = rng.choice(_BAD) if rng.random() < bad else "ok"
    duration_s = rng.expovariate(1 / pace_s) if pace_s < timeout_s / 4 else pace_s / 4
    duration_s = min(duration_s, timeout_s / 4)
    if kind == "slow":
        duration_s = timeout_s * rng.choice((0.5, 0.9, 1.5, 3.0))
    label_bytes = rng.choice((20, 200, 2000)) if big else 20
    kills = rng.choice((1, 1, 2, 99)) if kind in ("killer", "hider") else 0
    return Nature(kind, duration_s, label_bytes, kills)


def _stream(rng: random.Random, natures: tuple[Nature, ...], big: bool) -> StreamPlan:
    fate = rng.random()
    return StreamPlan(
        natures=natures,
        ordered=rng.random() < 0.6,
        window_jobs=rng.choice((4, 64, 16384)),
        window_bytes=rng.choice((3000, 30_000)) if big else 1 << 20,
        portion=rng.choice((1, 16, 256)),
        consumer_lag_s=rng.choice((1e-5, 1e-3, 0.05)),
        cancel_at_s=rng.uniform(0.0, 0.3) if fate < 0.08 else None,
        leave_at_s=rng.uniform(0.0, 0.3) if fate > 0.92 else None,
        sleep_at_s=rng.uniform(0.0, 0.1) if 0.5 < fate < 0.58 else None,
    )
