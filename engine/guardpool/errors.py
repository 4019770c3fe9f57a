"""What can go wrong, by who is at fault.

`GuardPoolError` is the base of everything guardpool raises on purpose. Below it stand three parties: the guard
(`GuardError`), the caller (`CallerError`) and the host (`HostError`); `JobError` and its children are what
`Outcome.raise_for_status` raises, and each of them is also a child of the party at fault.

Every exception keeps its facts as attributes, so that a program need not parse a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardpool.outcomes import Outcome


class GuardPoolError(Exception):
    """Base of every error that guardpool raises on purpose."""


class GuardError(GuardPoolError):
    """The guard is at fault.

    Attributes:
        guard: the guard's name, or None where it is not known yet.
    """

    def __init__(self, message: str, *, guard: str | None = None) -> None:
        super().__init__(message)
        self.guard = guard


class CallerError(GuardPoolError):
    """What the caller passed cannot be used; nothing was started."""


class HostError(GuardPoolError):
    """The machine, the operating system or the installation is at fault."""


class ContractError(GuardPoolError, ValueError):
    """A policy, an answer or a label breaks a rule of the guard contract."""


class ModuleError(GuardError):
    """The module is no guard: not wasm, a missing export, a wrong signature, an unknown import.

    Attributes:
        problems: every problem found, one line each, in the order they were found.
    """

    def __init__(self, message: str, *, guard: str | None = None, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, guard=guard)
        self.problems = problems


class GuardInitError(GuardError):
    """The guard could not be initialised: it trapped, refused its policy or gave an answer that is none."""


class CompileError(GuardError):
    """The module did not compile, or not within the compiler's time and memory limits."""


class PolicyError(ContractError, CallerError):
    """The policy breaks a rule of the contract; no guard saw it."""


class LimitsError(CallerError, ValueError):
    """A limit is out of range, or two limits contradict each other."""


class PoolClosed(CallerError):
    """The pool was closed, or is closing, when the call was made."""


class EngineMissing(HostError):
    """No usable wasm engine in this Python: the message says what is missing and what to do."""


class SandboxUnavailable(HostError):
    """`sandbox="require"` was asked for and this kernel lacks a part of it."""


class PoolBroken(HostError):
    """Workers die before they label anything; the pool gave up.

    Attributes:
        exit_status: how the last worker ended, as `waitpid` tells it through `os.waitstatus_to_exitcode`, or None.
        stderr: the last bytes that worker wrote to its standard error.
    """

    def __init__(self, message: str, *, exit_status: int | None = None, stderr: str = "") -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.stderr = stderr


class JobError(GuardPoolError):
    """One job has no label. Raised by `Outcome.raise_for_status` only.

    Attributes:
        outcome: the outcome, whole.
        job_id: the job's id.
        guard: the guard's name, or None where the job named none that exists.
    """

    def __init__(self, message: str, *, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.job_id = outcome.id
        self.guard = outcome.guard


class GuardRefused(JobError, GuardError):
    """The guard returned a negative code."""


class GuardAnswerInvalid(JobError, GuardError):
    """The guard's answer is not what the contract asks for."""


class GuardTrapped(JobError, GuardError):
    """The guest trapped."""


class JobTimedOut(JobError, GuardError):
    """The job ran past `timeout_s` and its worker was killed."""


class JobOutOfMemory(JobError, GuardError):
    """The worker passed `max_rss_bytes` while the job ran and was killed."""


class JobCrashed(JobError, HostError):
    """The worker died under the job `max_attempts` times."""


class JobRejected(JobError, CallerError):
    """The job itself is bad: no guard saw it."""


class JobCancelled(JobError, CallerError):
    """The pool was closed before the job was labelled."""
