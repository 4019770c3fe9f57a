"""What a simulated run is made of, all of it drawn from the seed before the run begins."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

# Natures of jobs, and how often each is drawn if a run has its share of bad jobs. `killer` dies with its worker for
# `Nature.kills` attempts and is answered after that; so does `hider`, which first wipes its number off the page. `bloat`
# passes the memory cap and goes on; `leak` passes it at its end, so that the next job is seen there; `swell` leaves the
# worker between three quarters of the cap and the cap. `starved` traps for want of linear memory, unless it is the first job
# of its worker.
_BAD = (
    "trap",
    "refused",
    "invalid",
    "spin",
    "slow",
    "bloat",
    "leak",
    "swell",
    "starved",
    "killer",
    "hider",
    "rejected",
)

# Faults of the world, for which no job is to blame.
FAULTS = (
    "kill",  # SIGKILL by an operator or the kernel
    "exit",  # it leaves without goodbye, status 0 or not
    "stop",  # SIGSTOP, perhaps followed by SIGCONT
    "twice",  # it sends results twice
    "foreign",  # it sends a result for a job that it does not hold
    "junk",  # it sends what is not a frame
    "goodbye",  # it says BYE although it holds jobs
    "unsound",  # it sends a result for its own job that no honest worker sends
    "nosy",  # it asks the backend in the name of a job that it does not run
    "chatty",  # it sends a frame while it waits for its backend, or an empty one
    "flood",  # it floods its standard error
    "forkserver",  # the forkserver dies, and all workers with it
    "impostor",  # the forkserver reports a process that is not its child as a worker
    "deaf",  # the forkserver is stopped, perhaps for good
    "barren",  # the forkserver cannot fork for a moment
    "unborn",  # the next worker dies before it is ready
    "mute",  # the next worker never says HELLO
    "liar",  # the next worker says a wrong HELLO, or another one than the first worker
    "descriptors",  # the caller's process has no descriptors left for a moment
)


@dataclass(frozen=True)
class Nature:
    """What a job does to its worker.

    Attributes:
        kind: one of `_BAD`, or `"ok"`.
        duration_s: its own time, without waits for the backend.
        label_bytes: how long its label is, beyond the form.
        kills: how many workers it kills before it is answered.
        asks: how long the backend takes for each of its calls, in seconds; `inf`: it never answers. Negative: it fails,
            after so long.
        topics: for each of its calls what it asks about, an index into the plan's topics; None: something that no other job
            asks.
        session: the job's session, or None.
        pad_bytes: how long its payload is, beyond its label; large ones go through slots.
    """

    kind: str
    duration_s: float
    label_bytes: int
    kills: int = 0
    asks: tuple[float, ...] = ()
    topics: tuple[int | None, ...] = ()
    session: str | None = None
    pad_bytes: int = 0


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
    """One run, but for the moments that are drawn while it goes on. Times are seconds from its begin.

    Attributes:
        workers: how many.
        streams: what is labelled by streams.
        calls: what is labelled by single calls.
        timeout_s, backend_timeout_s, max_attempts, max_jobs_per_worker: limits of the pool.
        pipe_bytes: what a pipe holds.
        fault_every_s: mean time between faults; None: no faults.
        faults: the kinds that may come.
        faults_from_start: they may come before the pool is ready, and keep it from becoming ready.
        calm_at_s: no faults from then on.
        agent_asks: the guard asks its backend in `label_agent`.
        withholds: a job of which a question had no answer gets no label.
        ending: `"drain"`: closed once every job was taken; `"close"` or `"kill"`: at `ending_at_s`, whatever is left.
        closes: time limits of the closes, one after the other; None: without one.
        with_large: some payloads are large, and workers have slots.
    """

    workers: int
    streams: tuple[StreamPlan, ...]
    calls: tuple[Nature, ...]
    timeout_s: float
    backend_timeout_s: float
    max_attempts: int
    max_jobs_per_worker: int | None
    pipe_bytes: int
    fault_every_s: float | None
    faults: tuple[str, ...] = field(default=FAULTS)
    faults_from_start: bool = False
    calm_at_s: float = 1.0
    agent_asks: bool = False
    withholds: bool = False
    ending: str = "drain"
    ending_at_s: float = 0.0
    closes: tuple[float | None, ...] = (None,)
    with_large: bool = False


def make_plan(
    rng: random.Random, jobs: int | None = None, workers: int | None = None, sizes: random.Random | None = None
) -> Plan:
    """Draw a plan.

    Args:
        rng: of the run.
        jobs: how many in all; None: 20 to 200.
        workers: how many; None: 1 to 5.
        sizes: decides which jobs have large payloads; None: none.
    """
    jobs = rng.randint(20, 200) if jobs is None else jobs
    timeout_s = rng.choice((0.05, 0.2, 1.0))
    bad = rng.choice((0.0, 0.02, 0.1, 0.4, 1.0))
    asking = rng.choice((0.0, 0.0, 0.1, 0.5))
    pace_s = rng.choice((5e-5, 5e-4, 5e-3))
    big = rng.random() < 0.3
    topics = tuple(_answer_after_s(rng) for _ in range(rng.choice((0, 1, 3, 20))))
    natures = [_nature(rng, bad, asking, pace_s, timeout_s, big, topics) for _ in range(jobs)]
    natures = _in_sessions(rng, natures)
    with_large = sizes is not None and sizes.random() < 0.25
    if sizes is not None and with_large:
        share = sizes.choice((0.1, 0.5, 1.0))
        natures = [replace(nature, pad_bytes=_pad_bytes(sizes, share)) for nature in natures]
    calls = tuple(natures[: jobs // rng.choice((4, 10, 1000))])
    rest = natures[len(calls) :]
    shares = rng.choice((1, 1, 2, 3))
    streams = tuple(_stream(rng, tuple(rest[share::shares]), big) for share in range(shares))
    return Plan(
        workers=rng.randint(1, 5) if workers is None else workers,
        streams=streams,
        calls=calls,
        timeout_s=timeout_s,
        backend_timeout_s=rng.choice((0.02, 0.2, 1.0)),
        max_attempts=rng.choice((1, 2, 2, 3)),
        max_jobs_per_worker=rng.choice((None, None, 3, 25)),
        # What finds no slot goes through the pipe, and that in pieces of 96 bytes would take as many events.
        pipe_bytes=max(rng.choice((96, 4096, 4096, 1 << 20)), 4096 if with_large else 0),
        with_large=with_large,
        fault_every_s=rng.choice((None, 0.002, 0.01, 0.05)),
        faults=FAULTS if rng.random() < 0.5 else tuple(rng.sample(FAULTS, rng.randint(1, 3))),
        faults_from_start=rng.random() < 0.1,
        calm_at_s=rng.uniform(0.05, 1.0),
        agent_asks=rng.random() < 0.1,
        withholds=rng.random() < 0.3,
        ending=rng.choices(("drain", "close", "kill"), (8, 1, 1))[0],
        ending_at_s=rng.uniform(0.0, 0.5),
        closes=tuple(rng.choices((None, 0.0, 0.05, 0.3), (6, 1, 2, 1), k=rng.choice((1, 1, 1, 2, 3)))),
    )


def _nature(
    rng: random.Random,
    bad: float,
    asking: float,
    pace_s: float,
    timeout_s: float,
    big: bool,
    topics: tuple[float, ...],
) -> Nature:
    kind = rng.choice(_BAD) if rng.random() < bad else "ok"
    duration_s = rng.expovariate(1 / pace_s) if pace_s < timeout_s / 4 else pace_s / 4
    duration_s = min(duration_s, timeout_s / 4)
    if kind == "slow":
        duration_s = timeout_s * rng.choice((0.5, 0.9, 1.5, 3.0))
    label_bytes = rng.choice((20, 200, 2000)) if big else 20
    kills = rng.choice((1, 1, 2, 99)) if kind in ("killer", "hider") else 0
    about: list[tuple[float, int | None]] = []
    if rng.random() < asking:
        for _ in range(rng.choice((1, 1, 2, 5))):
            topic = rng.randrange(len(topics)) if topics and rng.random() < 0.5 else None
            about.append((_answer_after_s(rng) if topic is None else topics[topic], topic))
    return Nature(kind, duration_s, label_bytes, kills, tuple(a for a, _ in about), tuple(topic for _, topic in about))


def _in_sessions(rng: random.Random, natures: list[Nature]) -> list[Nature]:
    """In every third run, the same jobs with sessions: few long ones, or many, of all jobs or of some."""
    dice = random.Random()
    dice.setstate(rng.getstate())  # a copy, so that the runs without sessions are what they would be anyway
    if dice.random() < 2 / 3:
        return natures
    sessions, share = dice.choice((1, 2, 5, 40, 1000)), dice.choice((0.2, 0.8, 1.0))
    return [
        replace(nature, session=f"session {dice.randrange(sessions)}") if dice.random() < share else nature
        for nature in natures
    ]


def _pad_bytes(sizes: random.Random, share: float) -> int:
    """What a job's payload has beyond its label: usually so much that a frame holds several large ones."""
    return sizes.choice((50_000, 70_000, 150_000, 400_000)) if sizes.random() < share else 0


def _answer_after_s(rng: random.Random) -> float:
    after_s = rng.choices((rng.expovariate(1e4), rng.uniform(0.002, 0.1), float("inf")), (75, 22, 3))[0]
    return -after_s if rng.random() < 0.1 else after_s


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
