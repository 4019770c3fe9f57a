"""How much one frame of jobs may hold: so many jobs, so many bytes, and above all so much work.

What a job costs is learned from results: for each guard and operation there is a moving average of the microseconds it took.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from typing import Protocol

from guardpool.protocol.slots import FRAME_BYTES, LARGE_BYTES
from guardpool.protocol.wire import MAX_RESULTS, ResultItem

MAX_FRAME_JOBS = 256
# Bytes of payloads in a frame that go through the pipe. A frame that begins with a large one, which goes into a slot with the
# large ones behind it, may hold `FRAME_BYTES`: whatever is in it, a frame takes all threads together as much time as copying
# 1 MB.
MAX_FRAME_PAYLOAD_BYTES = 1024 * 1024
# So that a worker never waits for its next frame.
FRAMES_IN_FLIGHT = 2
# Else a worker that answers all it holds in one frame would break the protocol.
assert FRAMES_IN_FLIGHT * MAX_FRAME_JOBS <= MAX_RESULTS

# At 50 us a job, frames of 64 two deep reached 0.94 of a bare loop and single jobs 0.4-0.6: some milliseconds of work hide
# the hand-over, and are little to do again after a kill. Two frames must outlast the 5 ms for which a thread of the caller's
# may hold the interpreter's lock while it encodes, and each frame wakes the supervisor with cold caches: 8 ms took a
# fifth off its time for a job of 50 us, compared with 4 ms; 16 ms took no more.
FRAME_US = 8000.0
# Past this much expected work in flight a second frame hides nothing and only delays.
SECOND_FRAME_BELOW_US = 2 * FRAME_US

# What a job is taken to cost before one was seen: frames start small and grow within a few results.
_UNKNOWN_US = 2000.0
# One result moves the average by this much; a single outlier is cut to a multiple of a frame.
_GAIN = 0.1
_OUTLIER_US = 4 * FRAME_US
# The averages learn from about so many results of a frame, at most.
_LEARN_FROM = 16


class Costly(Protocol):
    """As much of a task as its costs depend on: `kind` says which average it belongs to."""

    @property
    def kind(self) -> int:
        """`guard * 2 + (op is label_response)`."""

    @property
    def payload(self) -> bytes:
        """The guard's input."""


class FrameBudget:
    """What jobs cost, and how many of them a frame can afford.

    Args:
        guards: how many guards the pool holds.
    """

    def __init__(self, guards: int) -> None:
        self._cost_us = [_UNKNOWN_US] * (2 * guards)  # by kind

    def learn(self, tasks: Sequence[Costly], items: Sequence[ResultItem]) -> None:
        """Results of these tasks came, in their order: move the averages. Some results of a long frame are enough."""
        cost_us = self._cost_us
        step = len(tasks) // _LEARN_FROM + 1
        for task, item in zip(tasks[::step], items[::step]):
            took_us = item.duration_us if 0 <= item.duration_us < _OUTLIER_US else _OUTLIER_US
            cost_us[task.kind] += (took_us - cost_us[task.kind]) * _GAIN

    def expected_us(self, tasks: Collection[Costly]) -> float:
        """How long so many jobs are expected to take."""
        cost_us = self._cost_us
        return sum([cost_us[task.kind] for task in tasks])

    def most_jobs(self, first: Costly) -> int:
        """A frame that begins with this task has no more jobs: it affords no more of even the cheapest, or, if the payload is
        large, of such payloads. So if all are slow or large, few are looked at; each look waits for memory that is cold."""
        most = 1 + int(FRAME_US / max(1.0, min(self._cost_us)))
        size = len(first.payload)
        return most if size < LARGE_BYTES else min(most, 1 + FRAME_BYTES // size)

    def room(self) -> FrameRoom:
        """An empty frame, to be filled job by job."""
        return FrameRoom(self._cost_us)

    def affordable(self, tasks: Sequence[Costly]) -> int:
        """How many of the first tasks a frame may hold by what they cost and by their size; one at least."""
        cost_us = self._cost_us
        count = _within([cost_us[task.kind] for task in tasks], FRAME_US)
        sizes = [len(task.payload) for task in tasks[:count]]
        count = _within(sizes, most_bytes(tasks[0]))
        if sizes[0] < LARGE_BYTES:
            return count
        return _within([_in_pipe(size) for size in sizes[:count]], MAX_FRAME_PAYLOAD_BYTES)


class FrameRoom:
    """What is left of a frame whose next job depends on those before it, as in sessions. `FrameBudget.affordable` comes to the
    same for jobs in a row, in half the time.

    Args:
        cost_us: what jobs cost, by kind.
    """

    def __init__(self, cost_us: Sequence[float]) -> None:
        self._cost_us = cost_us
        self._left_us = FRAME_US
        self._left_bytes: int | None = None
        self._left_in_pipe = MAX_FRAME_PAYLOAD_BYTES

    def takes(self, task: Costly) -> bool:
        """Count one more job; whether the frame can afford it."""
        if self._left_bytes is None:
            self._left_bytes = most_bytes(task)
        self._left_us -= self._cost_us[task.kind]
        self._left_bytes -= len(task.payload)
        self._left_in_pipe -= _in_pipe(len(task.payload))
        return self._left_us >= 0 and self._left_bytes >= 0 and self._left_in_pipe >= 0


def most_bytes(first: Costly) -> int:
    """How many bytes of payloads a frame of several jobs may hold that begins with this task."""
    return MAX_FRAME_PAYLOAD_BYTES if len(first.payload) < LARGE_BYTES else FRAME_BYTES


def _in_pipe(size: int) -> int:
    """As much of a payload as goes through the pipe, if the frame begins with a large one."""
    return size if size < LARGE_BYTES else 0


def _within(amounts: Iterable[float], most: float) -> int:
    """How many of the first amounts come to no more than `most` together; one at least, if there is one."""
    amounts = list(amounts)
    if sum(amounts) <= most:
        return len(amounts)
    return max(1, bisect_right(list(accumulate(amounts)), most))
