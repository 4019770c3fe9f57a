"""Counters of a pool, and the snapshot of them that callers get."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec

# Quantiles are over this many of the latest results: enough for a p99, little to sort.
LATENCY_SAMPLES = 8192
_RATE_WINDOW_S = 5.0
_RATE_STEP_S = 0.1
# A guard may make up tools.
_MAX_TOOLS = 1000


class WorkerStats(msgspec.Struct, frozen=True):
    """One worker. `rss_bytes` is what the supervisor last measured, `age_s` counts from the fork."""

    pid: int
    jobs: int
    rss_bytes: int
    age_s: float


class ToolStats(msgspec.Struct, frozen=True):
    """What a guard asked its backend of one tool.

    Attributes:
        asked: questions in the outcomes so far; `answered` and `failed` add up to it.
        answered: those that had an answer.
        failed: those that had none.
        live: how often the backend itself was called: the other answers were known.
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    live: int = 0


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
        backend: what guards asked, by guard and by tool; the tool `""` stands for what was no question, for tools past the
            64th of a job, and for those past the thousandth of a guard. Guards that asked nothing are left out.
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
    backend: dict[str, dict[str, ToolStats]] = {}

    def to_json(self) -> bytes:
        """The snapshot as one JSON object, in UTF-8."""
        return msgspec.json.encode(self)


class QuestionCounts:
    """What guards asked. Written by the supervisor's thread only."""

    def __init__(self) -> None:
        self._tools: dict[str, dict[str, list[int]]] = {}  # by guard and tool: asked, failed, live

    def note(self, guard: str, tool: str, asked: int, failed: int) -> None:
        """A job of the guard asked for the tool so many times, so many of them in vain."""
        counts = self._of(guard, tool)
        counts[0] += asked
        counts[1] += failed

    def note_live(self, guard: str, tool: str) -> None:
        """The guard's backend is called."""
        self._of(guard, tool)[2] += 1

    def by_guard(self) -> dict[str, dict[str, ToolStats]]:
        """The counts, by guard and by tool."""
        return {
            guard: {
                tool: ToolStats(asked, asked - failed, failed, live) for tool, (asked, failed, live) in [*of.items()]
            }
            for guard, of in [*self._tools.items()]
        }

    def _of(self, guard: str, tool: str) -> list[int]:
        tools = self._tools.setdefault(guard, {})
        if tool not in tools and len(tools) >= _MAX_TOOLS:
            tool = ""
        return tools.setdefault(tool, [0, 0, 0])


class Counters:
    """What the supervisor counts. Written by its thread only."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.respawns: Counter[str] = Counter()
        self.forkserver_restarts = 0
        self.questions = QuestionCounts()
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
