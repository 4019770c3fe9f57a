"""Counters of a pool, and the snapshot of them that callers get."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec

# Quantiles are over this many of the latest results: enough for a p99, little to sort.
LATENCY_SAMPLES = 8192
_RATE_WINDOW_S = 5.0
_RATE_STEP_S = 0.1


class WorkerStats(msgspec.Struct, frozen=True):
    """One worker. `rss_bytes` is what the supervisor last measured, `age_s` counts from the fork."""

    pid: int
    jobs: int
    rss_bytes: int
    age_s: float


class PoolStats(msgspec.Struct, frozen=True):
    """A pool at one moment.

    Attributes:
        workers: those that are ready.
        outcomes: how many, by status; a status that did not occur is left out.
        respawns: workers replaced, by cause: trap, timeout, memory, crash, recycle.
        latency_us: microseconds in the guard: p50, p90, p99, max over the latest results; empty before the first.
        jobs_per_s: outcomes a second over the last seconds of work.
        queued: jobs that no worker has yet.
        in_flight: jobs that some worker has.
        sandbox: what of the sandbox is in force in the workers, feature by feature.
        forkserver_restarts: how often the forkserver had to be started again.
        engine: the WebAssembly engine in use, its name and version.
    """

    workers: list[WorkerStats]
    outcomes: dict[str, int]
    respawns: dict[str, int]
    latency_us: dict[str, int]
    jobs_per_s: float
    queued: int
    in_flight: int
    sandbox: dict[str, str]
    forkserver_restarts: int
    engine: str

    def to_json(self) -> bytes:
        """The snapshot as one JSON object, in UTF-8."""
        return msgspec.json.encode(self)


class Counters:
    """What the supervisor counts. Written by its thread only."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.respawns: Counter[str] = Counter()
        self.forkserver_restarts = 0
        self._latencies: deque[int] = deque(maxlen=LATENCY_SAMPLES)
        self._rate: deque[tuple[float, int]] = deque()
        self._total = 0

    def statuses(self, words: list[str]) -> None:
        """Count outcomes that were delivered, by their statuses."""
        if words and words.count(words[0]) == len(words):
            self.outcomes[words[0]] += len(words)
        else:
            self.outcomes.update(words)

    def results(self, durations_us: list[int], now: float) -> None:
        """Count results that arrived at `now`, `durations_us` has the microseconds of each."""
        self._latencies.extend(durations_us)
        self._total += len(durations_us)
        rate = self._rate
        if not rate or now - rate[-1][0] >= _RATE_STEP_S:
            if rate and now - rate[-1][0] > _RATE_WINDOW_S:
                rate.clear()  # a pause is not slow work
            rate.append((now, self._total))
            while len(rate) > 2 and now - rate[0][0] > _RATE_WINDOW_S:
                rate.popleft()

    def jobs_per_s(self) -> float:
        """Results a second over the last seconds in which there were any."""
        marks = list(self._rate)
        if len(marks) < 2:
            return 0.0
        (start, before), (end, after) = marks[0], marks[-1]
        return 0.0 if end <= start else (after - before) / (end - start)

    def latency_us(self) -> dict[str, int]:
        """Quantiles of the latest durations."""
        ordered = sorted(self._latencies.copy())
        if not ordered:
            return {}
        last = len(ordered) - 1
        picked: dict[str, Any] = {f"p{q}": ordered[round(last * q / 100)] for q in (50, 90, 99)}
        return {**picked, "max": ordered[-1]}
