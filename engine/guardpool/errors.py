"""What can go wrong, by the party at fault.

`GuardPoolError` is the base of everything guardpool raises on purpose. Below it stand three parties: the guard
(`GuardError`), the caller (`CallerError`) and the host (`HostError`). `JobError` and its children, which
`Outcome.raise_for_status` raises, stand in `guardpool.outcomes`; each of them is also a child of the party at fault.

Every exception keeps its facts as attributes, so that a program need not parse a message.
"""

from __future__ import annotations

from typing import Any, TypeVar

_Error = TypeVar("_Error", bound="GuardPoolError")


class GuardPoolError(Exception):
    """Base of every error that guardpool raises on purpose.

    Every one survives pickle and copy, whatever arguments its class takes: it may cross a process pool of the caller's.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[_Error], args: tuple[Any, ...]) -> _Error:
    """An error without a call of its `__init__`, which may want facts that are not among `args`; they follow as state."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class GuardError(GuardPoolError):
    """The guard is at fault.

    Attributes:
        guard: the guard's name, or None if it is not known yet.
    """

    def __init__(self, message: str, *, guard: str | None = None) -> None:
        super().__init__(message)
        self.guard = guard


class CallerError(GuardPoolError):
    """What the caller passed cannot be used; nothing was started."""


def check_kind(argument: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raise `CallerError` that names the argument and what it must be, in words, if `value` is of none of the kinds."""
    if not isinstance(value, kinds):
        raise CallerError(f"{argument} must be {wanted}, not {type(value).__name__}")


class HostError(GuardPoolError):
    """The machine, the operating system or the installation is at fault."""


class ContractError(GuardPoolError, ValueError):
    """A policy, an answer or a label breaks a rule of the guard contract."""


class AnswerTooLarge(ContractError):
    """An answer, or the label made of it, would take more memory than one answer may."""


class ModuleError(GuardError):
    """The module is not a guard: not wasm, a missing export, a wrong signature, an unknown import.

    Attributes:
        problems: every problem found, one line each, in the order they were found.
    """

    def __init__(self, message: str, *, guard: str | None = None, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, guard=guard)
        self.problems = problems


class GuardInitError(GuardError):
    """The guard could not be initialised: it trapped, refused its policy or gave an answer that is not valid."""


class CompileError(GuardError):
    """The module did not compile, or not within the compiler's time and memory limits."""


class PolicyError(ContractError, CallerError):
    """The policy breaks a rule of the contract; no guard saw it."""


class LimitsError(CallerError, ValueError):
    """A limit is out of range, or two limits contradict each other."""


class InvalidJob(CallerError, ValueError):
    """A job that cannot be made: its operation is not one of the two, or it is neither a `Job` nor a dict."""


class PoolClosed(CallerError):
    """The pool was closed, or is closing, when the call was made."""


class EngineUnknown(CallerError, ValueError):
    """`engine=` got a word that names no engine: the message names those that do."""


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
