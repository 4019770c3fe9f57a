"""The limits of a pool, with their defaults and what happens past them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from guardpool.errors import LimitsError
from guardpool.sizes import (
    DEFAULT_MEMORY_PAGES,
    FIRST_INPUT_BYTES,
    FIRST_OUTPUT_BYTES,
    MAX_PAGES,
    MIB,
    PAGE_BYTES,
    QUICK_JUDGE_BYTES,
)

# A worker is replaced between frames when it is this old. Honest workers do not need it: it is what makes RLIMIT_CPU
# possible, which can never be raised again.
MAX_WORKER_AGE_S = 12 * 3600

# What a guard adds to a worker's private writable memory before its first job, beside its linear memory at the start: its two
# buffers, its quick judge, a page for the index of replies that are near, and with either engine less than 128 KiB for the
# instance, with a page for the end of each buffer.
GUARD_DATA_BYTES = FIRST_INPUT_BYTES + FIRST_OUTPUT_BYTES + QUICK_JUDGE_BYTES + PAGE_BYTES + 192 * 1024
# The worker itself: a fresh one has 12 MiB of private writable memory; Python needs some more for the largest jobs.
WORKER_DATA_BYTES = 64 * MIB

# Copies of replies that a worker keeps near its guards may take this part of `max_rss_bytes`: 42 MiB by default, in which
# 120,000 replies of 300 bytes have room. With a tenth, 74,000, a question of 100,000 took four times as long.
_NEAR_SHARE = 6
# However much memory a worker may have: a WebAssembly memory of 32 bits holds them.
_MOST_NEAR_BYTES = 256 * MIB


@dataclass(frozen=True)
class Limits:
    """What a job, a guard and a worker may use. Checked when made.

    Args:
        timeout_s: a job's wall clock without backend waits, in seconds. Past it the worker is killed and the outcome is
            `timeout`.
        backend_timeout_s: how long one `call_backend` may take, in seconds. Past it the guard gets -1.
        memory_pages: linear memory of one guard, in pages of 64 KiB. Past it `memory.grow` returns -1; past 3/4 of it the
            worker is replaced between frames, once it is a second old.
        max_rss_bytes: a worker's resident set, with the large inputs that it has read. Past it the worker is killed and the
            outcome is `memory`; past 3/4 of it the worker is replaced between frames.
        max_data_bytes: RLIMIT_DATA of a worker, in bytes; None: `max_rss_bytes` + 64 MiB + what its guards need before their
            first job (`data_bytes`). Past it an allocation fails at once, which covers the time between two looks at
            the resident set.
        max_input_bytes: one job's input as JSON. Past it the outcome is `rejected`.
        max_output_bytes: one answer. Past it the outcome is `invalid`. So it is if the label made of the answer is longer
            than 31 MiB less `max_log_bytes`.
        max_backend_calls: `call_backend` calls of one job. Past it the guard gets -1.
        max_log_bytes: UTF-8 bytes of log lines kept of one job. Past it lines are dropped and counted. Equal lines in a row
            are kept once, with a count.
        max_jobs_per_worker: a worker is replaced after this many jobs, give or take 10%, and once it has
            finished those that were sent to it by then; None: never.
        max_attempts: how many workers may die under one job before its outcome is `crashed`. A job that traps, or finds no
            room for its input, on an instance whose memory was nearly full gets one of them on a fresh instance.
        max_reply_bytes: what all answers of backends that are kept may take, shared evenly by the backends; a backend's oldest
            go. Tables come on top of it. Workers share that memory, and what is in it counts on top of `max_rss_bytes`.
            A worker's own copies of what it uses of it take a sixth of `max_rss_bytes` at most, and never over 256 MiB.
        keep_logs: put the guard's log lines into `Outcome.logs`. They count in the window of a `map`, as labels do.

    Whatever they are, a worker is replaced between frames after 12 hours, so that its processor time can be limited as well.

    Raises:
        LimitsError: a limit is of the wrong type, out of range, or contradicts another.
    """

    timeout_s: float = 5.0
    backend_timeout_s: float = 10.0
    memory_pages: int = DEFAULT_MEMORY_PAGES
    max_rss_bytes: int = 256 * MIB
    max_data_bytes: int | None = None
    max_input_bytes: int = 8 * MIB
    max_output_bytes: int = 16 * MIB
    max_backend_calls: int = 50
    max_log_bytes: int = 64 * 1024
    max_jobs_per_worker: int | None = None
    max_attempts: int = 2
    keep_logs: bool = False
    max_reply_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        for name in ("timeout_s", "backend_timeout_s"):
            _check_seconds(name, getattr(self, name))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in ("max_data_bytes", "max_jobs_per_worker"):
                continue
            _check_count(name, value, low, high)
        if self.max_data_bytes is not None and self.max_data_bytes < self.max_rss_bytes:
            raise LimitsError(
                f"max_data_bytes ({self.max_data_bytes}) is below max_rss_bytes ({self.max_rss_bytes}): "
                "allocations would fail before the resident set could reach its own limit"
            )
        memory_bytes = self.memory_pages * PAGE_BYTES
        if memory_bytes > self.max_rss_bytes:
            raise LimitsError(
                f"memory_pages ({self.memory_pages}, {memory_bytes} bytes) is more than max_rss_bytes "
                f"({self.max_rss_bytes}): a guard could not use the memory it is allowed; raise max_rss_bytes"
            )

    def data_bytes(self, memories: Sequence[int]) -> int:
        """RLIMIT_DATA of a worker, in bytes.

        It counts memory that is never touched, and most of a small guard's is not: its buffers alone are 4 MiB.

        Args:
            memories: each guard's linear memory at the start, in bytes.

        Raises:
            LimitsError: `max_data_bytes` is less than the guards need before their first job.
        """
        need = sum(memories) + GUARD_DATA_BYTES * len(memories)
        if self.max_data_bytes is None:
            return self.max_rss_bytes + WORKER_DATA_BYTES + need
        least = WORKER_DATA_BYTES // 4 + need
        if least > self.max_data_bytes:
            raise LimitsError(
                f"max_data_bytes is {self.max_data_bytes}, but {_guards(len(memories))} may need {least} bytes before the "
                f"first job: {sum(memories)} for linear memory, and {GUARD_DATA_BYTES} each for buffers and the engine; "
                "raise max_data_bytes, or leave it out and it is computed"
            )
        return self.max_data_bytes

    @property
    def near_bytes(self) -> int:
        """What copies of replies may take that a worker keeps near its guards."""
        return min(self.max_rss_bytes // _NEAR_SHARE, _MOST_NEAR_BYTES)

    @property
    def cpu_s(self) -> int:
        """RLIMIT_CPU of a worker, in seconds: more than it can use before it is replaced.

        It ends a worker even if the caller's process is stopped and watches no deadline.
        """
        return MAX_WORKER_AGE_S + 3600 + 4 * math.ceil(min(self.timeout_s, 1e9))


# Lowest and highest value. A job's input travels in one frame of at most 32 MiB and an answer's ceiling is the
# contract's 16 MiB.
_RANGES: dict[str, tuple[int, int]] = {
    "memory_pages": (1, MAX_PAGES),
    "max_rss_bytes": (16 * MIB, 1 << 46),
    "max_data_bytes": (16 * MIB, 1 << 46),
    "max_input_bytes": (64, 24 * MIB),
    "max_output_bytes": (64, 16 * MIB),
    "max_backend_calls": (0, 1_000_000),
    "max_log_bytes": (0, 16 * MIB),
    "max_jobs_per_worker": (1, 1 << 62),
    "max_attempts": (1, 1000),
    "max_reply_bytes": (0, 1 << 40),
}


def _guards(count: int) -> str:
    return "its guard" if count == 1 else f"its {count} guards"


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LimitsError(f"{name} must be a number of seconds, not {value!r}")
    if not math.isfinite(value) or value <= 0:
        raise LimitsError(f"{name} must be a finite number of seconds above 0, not {value!r}")


def _check_count(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise LimitsError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise LimitsError(f"{name} must be from {low} to {high}, not {value}")
