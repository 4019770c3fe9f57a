"""Which job or worker is overdue, which job a death is charged to, and what its outcome says. Pure: no clock, no I/O."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from guardpool.limits import Limits
from guardpool.outcomes import LogLine, Outcome, OutcomeError, Status
from guardpool.printable import printable_end
from guardpool.protocol.wire import ResultItem
from guardpool.supervise.clock import LookAt
from guardpool.supervise.scheduler import Task, Verdict

# A ready worker answers at once or runs a job; one that does neither for a deadline and this much more is stopped or stuck.
STALL_GRACE_S = 0.25


# A linear memory of which so many thousandths are in use leaves a guard little room: its worker is replaced between frames,
# and a job that trapped may owe that to the jobs before it. Three quarters, as for the resident set.
NEARLY_FULL = 750
# A worker is not replaced for that before it has worked for so long: to replace one takes some 20 ms of processor time, and
# there are guards whose every job fills their memory.
LEAST_AGE_S = 1.0


def may_owe_to_others(task: Task, item: ResultItem, *, full: int, used: bool, max_attempts: int) -> bool:
    """Whether a job failed for want of memory that jobs before it may have filled, so that it is tried again on a fresh
    instance. A worker that lies about it gains one more try for each job, which counts as an attempt.

    Args:
        task: the job.
        item: its result.
        full: how full the linear memory is, by the worker's page.
        used: whether the worker was given jobs before this one.
        max_attempts: how many attempts a job has.
    """
    if not used or full < NEARLY_FULL or task.fresh or task.deaths + 1 >= max_attempts:
        return False
    body = item.body
    return item.status == "trap" or (
        item.status == "invalid" and isinstance(body, OutcomeError) and body.code == "no_room"
    )


class Overdue(Enum):
    """What has run out of time."""

    JOB = "job"  # its deadline passed: outcome `timeout`
    WORKER = "worker"  # it neither works nor answers: no job is charged


def check_running(
    now: float, timeout_s: float, *, started_at: float | None, seen_at: float, active_at: float, backend_wait_s: float
) -> tuple[LookAt, Overdue | None]:
    """Whether a worker that holds jobs may go on.

    Args:
        now: like all times here, `time.monotonic()` seconds.
        timeout_s: a job's limit.
        started_at: when the job on the progress page began, by the page; None if the page names no job that it holds.
        seen_at: when the supervisor first saw that job there.
        active_at: the last frame in either direction.
        backend_wait_s: how much of the job's time was spent in `call_backend`.

    Returns:
        When to look again, and what is overdue now, or None.
    """
    if started_at is None:
        # It is between two jobs, or its results are on the way; or it is stopped, and stays so.
        end = active_at + timeout_s + STALL_GRACE_S
        return end, Overdue.WORKER if now >= end else None
    # The worker can write its page: with a start in the future it would have no deadline at all.
    deadline = min(started_at, seen_at) + timeout_s + backend_wait_s
    if now >= deadline:
        return now, Overdue.JOB
    # Results are sent at least once a job; a worker that always shows a new job and sends none is lying.
    end = active_at + 2 * timeout_s + 1.0
    return min(deadline, end), Overdue.WORKER if now >= end else None


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the supervisor ended a worker. The first one given counts: see `WorkerHandle.kill`.

    Attributes:
        verdict: what that means for the job that ran; None: the exit status will tell.
        cause: the word under which its replacement is counted; None: it is not replaced.
        victim: seq of the job that is charged, if the supervisor knows it better than the page.
        fault: what the worker did wrong, printable.
    """

    verdict: Verdict | None
    cause: str | None = None
    victim: int | None = None
    fault: str | None = None

    @classmethod
    def past_deadline(cls, seq: int) -> Ending:
        """The job that it runs is out of time."""
        return cls(Verdict.TIMEOUT, "timeout", seq)

    @classmethod
    def over_memory(cls, verdict: Verdict, seq: int) -> Ending:
        """It is over the memory cap."""
        return cls(verdict, "memory", seq)

    @classmethod
    def stalled(cls, fault: str = "it neither worked nor answered") -> Ending:
        """It neither works nor answers: no job is to blame."""
        return cls(Verdict.INNOCENT, "timeout", fault=fault)

    @classmethod
    def broke_protocol(cls, fault: str) -> Ending:
        """It sent what no honest worker sends: the job that ran is charged as in any crash."""
        return cls(Verdict.CRASH, "crash", fault=fault)

    @classmethod
    def useless(cls, fault: str) -> Ending:
        """It cannot work."""
        return cls(None, "crash", fault=fault)

    @classmethod
    def hung_up(cls) -> Ending:
        """It closed its pipe without a BYE: it is dying, or of no use any more."""
        return cls(None, "crash")

    @classmethod
    def orphaned(cls) -> Ending:
        """Its forkserver died, and the kernel kills it with that."""
        return cls(Verdict.INNOCENT, "crash")

    @classmethod
    def not_needed(cls) -> Ending:
        """The pool has no more work for it."""
        return cls(Verdict.INNOCENT)


@dataclass(frozen=True)
class Death:
    """What a worker's end means.

    Attributes:
        running: seq of the job it died under, or None.
        verdict: what `Scheduler.lost` is told.
        respawn: the cause under which its replacement is counted, or None if it is not.
        barren: it never became ready, or died before it began one of its jobs: the next one may do no better.
        suspects: its page names none of its jobs as the one that ran, which a job that broke out of its guard could have
            forged: each of them is to run alone from now on (`Scheduler.suspect`).
    """

    running: int | None
    verdict: Verdict
    respawn: str | None
    barren: bool
    suspects: bool = False


def verdict_on_death(
    *,
    running: int | None,
    lone: int | None,
    load: int,
    ending: Ending | None,
    cause: str | None,
    ever_ready: bool,
    said_bye: bool,
    orphaned: bool,
    exit_status: int | None,
) -> Death:
    """Judge a death once all of it is known: the pipe was read to its end.

    Args:
        running: seq of the job on the progress page, if the worker still holds it.
        lone: seq of the only job that it holds, if that one was to run alone.
        load: how many jobs it still holds.
        ending: why we ended it; None if it ended by itself, or was killed from outside.
        cause: the word for why it went, if we know.
        ever_ready: it said HELLO.
        said_bye: it said BYE.
        orphaned: its forkserver died, and it died with that.
        exit_status: negative for a signal; None if it is unknown.
    """
    if ending is not None and ending.verdict is not None:
        verdict = ending.verdict
        running = running if ending.victim is None else ending.victim
    elif (said_bye and exit_status == 0) or exit_status is None or orphaned:
        verdict = Verdict.INNOCENT
    else:
        verdict = Verdict.CRASH
    unexplained = not said_bye and not orphaned and (running is None or verdict is Verdict.INNOCENT)
    if unexplained and lone is not None:
        running, verdict = lone, Verdict.CRASH
    charged = running is not None and verdict is not Verdict.INNOCENT
    suspects = unexplained and lone is None and load > 0
    barren = not said_bye and not orphaned and (not ever_ready or (load > 0 and not charged))
    counted = ever_ready and (cause is not None or not said_bye)
    return Death(running, verdict, (cause or "crash") if counted else None, barren, suspects)


class Ended(Protocol):
    """What `outcome_of_verdict` wants to know of a worker."""

    @property
    def rss_bytes(self) -> int:
        """Its resident set when it was last looked at."""

    @property
    def fault(self) -> str | None:
        """What it did wrong, if it broke the protocol."""

    @property
    def exit_status(self) -> int | None:
        """As `os.waitstatus_to_exitcode` gives it."""

    @property
    def stderr_tail(self) -> str:
        """The last it wrote to its standard error."""


def outcome_of_verdict(
    task: Task, verdict: Verdict, guard: str, worker: Ended, limits: Limits, logs: tuple[LogLine, ...] = ()
) -> Outcome:
    """The outcome of a job whose worker was ended, or ended itself, while it ran."""
    attempts = task.deaths
    duration_us = 0
    if verdict is Verdict.TIMEOUT:
        status = Status.TIMEOUT
        error = OutcomeError("timeout", f"ran past timeout_s ({limits.timeout_s} s); its worker was killed")
        duration_us = int(limits.timeout_s * 1e6)
    elif verdict is Verdict.MEMORY or verdict is Verdict.SUSPECT:
        status = Status.MEMORY
        error = OutcomeError(
            "memory",
            f"its worker had {worker.rss_bytes} bytes resident, over max_rss_bytes ({limits.max_rss_bytes}), and was killed",
        )
    elif verdict is Verdict.ORPHANED:
        status, attempts = Status.CRASHED, task.deaths + task.orphanings
        error = OutcomeError("crashed", f"the forkserver died {task.orphanings} times while a worker ran this job")
    else:
        status = Status.CRASHED
        times = "once" if attempts == 1 else f"{attempts} times"
        why = worker.fault or describe(worker.exit_status)
        tail = worker.stderr_tail
        said = f"; its standard error ends: {printable_end(tail, 300)}" if tail else ""
        error = OutcomeError(
            "crashed",
            f"its worker died {times} while it ran this job; last: {why}{said}",
            signal=_signal(worker.exit_status),
        )
    return Outcome(
        task.job_id,
        guard,
        task.op,
        task.tool_name,
        status,
        None,
        error,
        duration_us,
        attempts,
        logs=logs,
        session_restarted=task.restarted,
    )


def describe(exit_status: int | None) -> str:
    """How a process ended, in words."""
    if exit_status is None:
        return "ended with an unknown exit status"
    name = _signal(exit_status)
    if name is not None:
        return f"killed by {name}"
    return f"exited with status {exit_status}"


def _signal(exit_status: int | None) -> str | None:
    if exit_status is None or exit_status >= 0:
        return None
    try:
        return signal.Signals(-exit_status).name
    except ValueError:
        return f"signal {-exit_status}"
