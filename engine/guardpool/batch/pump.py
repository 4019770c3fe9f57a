"""From a reader through a pool's stream to a writer, until the end, a failure or a signal.

A thread reads and feeds; the main thread takes outcomes and writes, because it is the one that signals reach. They
wait for each other only through the stream's window, so a slow reader of the output slows the input.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from guardpool.batch.seam import Sink, Source
from guardpool.batch.signals import Signals, Stopped
from guardpool.errors import GuardPoolError, PoolClosed
from guardpool.jobs import Prepared
from guardpool.outcomes import Outcome, Status

TICK_S = 0.1
FLUSH_S = 0.5
# Added to a job's own limit when a run is interrupted: for the kill and for its outcome to arrive.
_GRACE_S = 1.0


class Stream(Protocol):
    """What labels: a pool's `JobStream`, or what stands before one."""

    def put(self, jobs: Sequence[Prepared]) -> None:
        """Hand jobs in; waits while they are too many."""

    def finish(self) -> None:
        """No more jobs."""

    def cancel(self) -> None:
        """Take no more jobs; each one that no worker has yet gets a `cancelled` outcome."""

    def take_numbered(self, timeout_s: float) -> tuple[Sequence[int], list[Outcome]]:
        """Outcomes, with how many jobs were put before each one's; waits for at least one, but not longer than that."""


class Pump:
    """Moves one batch.

    Args:
        stream: of the pool, not used before.
        source: read by a thread of the pump's own.
        sink: used by the calling thread only.
        kill: `GuardPool.kill`, for a run that was asked to stop and does not.
        timeout_s: a job's limit, which is how long what runs may take to end after the first signal.
        told: called with the numbers of jobs (see `done`) and their outcomes; gives the outcomes that are to be written.
        also: called with all outcomes that are written, before they are.
        done: called with the numbers of jobs when the sink has their outcomes: how many jobs the stream took before each.
        checkpoint: called with False about as often as `tick`, and with True when the run ends before its input does and what
            ran is written; always between two writes.

    Attributes:
        counts: outcomes so far, by status; a job that did not run is not in them.
        examples: the first outcome of each status but `ok`.
        unanswered: the first outcome of each guard for which a question had no answer.
        taken: jobs so far that have an outcome or will not run.
        accepted: jobs that the stream took so far.
        feed_error: what ended the reading, if not the end of the input.
    """

    def __init__(
        self,
        stream: Stream,
        source: Source,
        sink: Sink,
        *,
        kill: Callable[[], object],
        timeout_s: float,
        told: Callable[[Sequence[int], Sequence[Outcome]], Sequence[Outcome]] | None = None,
        also: Callable[[Sequence[Outcome]], object] | None = None,
        done: Callable[[Sequence[int]], object] | None = None,
        checkpoint: Callable[[bool], object] | None = None,
    ) -> None:
        self._stream = stream
        self._source = source
        self._sink = sink
        self._kill = kill
        self._timeout_s = timeout_s
        self._told = told
        self._also = also
        self._done = done
        self._checkpoint = checkpoint
        self._feeder = threading.Thread(target=self._feed, name="guardpool-feeder", daemon=True)
        self._fed = False
        self.feed_error: BaseException | None = None
        self._kill_at: float | None = None
        self.counts: Counter[Status] = Counter()
        self.examples: dict[Status, Outcome] = {}
        self.unanswered: dict[str | None, Outcome] = {}
        self.taken = 0
        self.accepted = 0

    def run(self, signals: Signals, tick: Callable[[Pump], object]) -> None:
        """Run to the end; call `tick` about ten times a second.

        Raises:
            Stopped: a signal came. After the first one what ran was finished and written.
            OSError: reading or writing failed. What was read before a reading error was finished and written.
            GuardPoolError: the pool gave up; the outcomes up to there were written.
        """
        signals.graceful = True
        self._feeder.start()
        try:
            self._drain(signals, tick)
        except Stopped:
            if not self._sink.may_block:
                self._sink.flush()
            raise
        except GuardPoolError:
            self._sink.flush()
            if self._checkpoint is not None:
                self._checkpoint(True)
            raise
        finally:
            self._source.stop()
        self._sink.flush()
        ends_early = signals.received is not None or self.feed_error is not None
        if self._checkpoint is not None and ends_early:
            self._checkpoint(True)
        signals.graceful = False
        self._feeder.join()
        if signals.received is not None:
            raise Stopped(signals.received)
        if self.feed_error is not None:
            raise self.feed_error

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread that reads, after a run that failed; the pool must be closed. Returns whether it has ended."""
        if self._feeder.ident is not None:
            self._feeder.join(timeout_s)
        return not self._feeder.is_alive()

    def _drain(self, signals: Signals, tick: Callable[[Pump], object]) -> None:
        # What comes after a pause is written at once, and a flow of outcomes in large pieces.
        next_flush = next_tick = time.monotonic()
        unwritten = False
        while not (self._fed and self.taken >= self.accepted):
            numbers, outcomes = self._stream.take_numbered(TICK_S)
            if outcomes:
                self._write(numbers, outcomes)
                unwritten = True
            now = time.monotonic()
            if unwritten and now >= next_flush:
                self._sink.flush()
                unwritten = False
                next_flush = now + FLUSH_S
            if now >= next_tick:
                if self._checkpoint is not None:
                    self._checkpoint(False)
                tick(self)
                next_tick = now + TICK_S
            if signals.received is not None:
                self._wind_down(now)

    def _write(self, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        if self._told is not None:
            outcomes = self._told(numbers, outcomes)
        counted = self._counted(outcomes)
        if self._also is not None:
            self._also(counted)
        self._sink.add(counted)
        if self._done is None:
            return
        if len(counted) < len(outcomes):
            pairs = zip(numbers, outcomes)
            numbers = [number for number, outcome in pairs if outcome.status is not Status.CANCELLED]
        self._done(numbers)

    def _counted(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Count outcomes; returns those to be written. A job that did not run, because the run ended first, has no line."""
        self.taken += len(outcomes)
        for outcome in outcomes:
            if outcome.backend.failed:
                self.unanswered.setdefault(outcome.guard, outcome)
        others = [outcome for outcome in outcomes if outcome.status is not Status.OK]
        if len(others) < len(outcomes):
            self.counts[Status.OK] += len(outcomes) - len(others)
        ran = [outcome for outcome in others if outcome.status is not Status.CANCELLED]
        for outcome in ran:
            self.counts[outcome.status] += 1
            self.examples.setdefault(outcome.status, outcome)
        if len(ran) == len(others):
            return outcomes
        return [outcome for outcome in outcomes if outcome.status is not Status.CANCELLED]

    def _wind_down(self, now: float) -> None:
        """After the first signal: no more jobs; what runs may end, but not for longer than a job may take."""
        if self._kill_at is None:
            self._kill_at = now + self._timeout_s + _GRACE_S
            self._source.stop()
            self._stream.cancel()
        elif now > self._kill_at:
            self._kill_at = float("inf")
            self._kill()

    def _feed(self) -> None:
        try:
            for portion in self._source.batches():
                if portion:
                    self._stream.put(portion)
                    self.accepted += len(portion)
        except PoolClosed:
            pass  # the run was stopped; `run` knows why
        except BaseException as error:
            self.feed_error = error
        finally:
            self._fed = True
            self._stream.finish()
