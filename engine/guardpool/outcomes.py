"""What became of a job: exactly one `Outcome` for each, always."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Union

import msgspec

from guardpool import labels
from guardpool.errors import CallerError, GuardError, GuardPoolError, HostError

Label = Union[labels.ResourceLabel, labels.ResponseLabel]

# How many exceptions of a backend are kept for one job: the last ones.
MAX_BACKEND_ERRORS = 50


class Status(str, Enum):
    """How a job ended. Only an outcome that is `ok` has a label."""

    OK = "ok"
    REFUSED = "refused"
    INVALID = "invalid"
    TRAP = "trap"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASHED = "crashed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    UNANSWERED = "unanswered"

    def __str__(self) -> str:
        return self.value


class OutcomeError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a job has no label.

    Args:
        code: a stable word for programs, e.g. `"guard_refused"`, `"trap"`, `"timeout"`, `"no_such_guard"`.
        message: one line for people.
        trap: the kind of trap, if the guest trapped: `"unreachable"`, `"memory_out_of_bounds"`, ...
        guard_code: what the guard returned, if it refused.
        exit_code: the guest's exit code, if it called `proc_exit`.
        signal: the signal that ended the worker, e.g. `"SIGSEGV"`.
        line: the line of the input, counted from 0, if the job came from a file.
        backend: what the backend raised, last exception first, if it raised.
    """

    code: str
    message: str
    trap: str | None = None
    guard_code: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    line: int | None = None
    backend: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_BACKEND_ERRORS)] | None = None


_LEVEL_WORDS = ("debug", "info", "warning", "error")


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """One line a guard logged: level 0 debug, 1 info, 2 warning, 3 error. As a string `warning: TEXT`."""

    level: int
    text: str

    @property
    def level_word(self) -> str:
        """`"debug"`, `"info"`, `"warning"` or `"error"`."""
        return _LEVEL_WORDS[self.level & 3]

    def __str__(self) -> str:
        return f"{self.level_word}: {self.text}"


class Question(msgspec.Struct, frozen=True, gc=False):
    """What a guard asked its backend: a tool, and its arguments as a JSON value."""

    tool: str
    args: Any


class BackendUse(msgspec.Struct, frozen=True, gc=False):
    """What a guard asked its backend for one job, in the last attempt that came to its own end. False if it asked nothing.

    Attributes:
        asked: how many questions, those past `max_backend_calls` and those of a guard without a backend included.
        answered: how many of them had an answer; one for which the guard's buffer was too small is one, too.
        failed: the others.
        missing: up to ten different questions that had no answer, in the order in which they were asked. Questions whose
            arguments are longer than 4 KiB, or nested deeply, are left out.
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    missing: tuple[Question, ...] = ()

    def __bool__(self) -> bool:
        return self.asked > 0


NOTHING_ASKED = BackendUse()


class StoredLabel:
    """A label as a worker sent it: JSON, decoded when it is first asked for.

    To an encoder of msgspec it is a dataclass with the members of the JSON, so that an outcome is encoded with its label, tags
    sorted, whether the label was read or not.

    Args:
        json: the label in the form of the outcome file; not `null`.
    """

    __slots__ = ("json", "label")

    # What msgspec asks for; a member that is missing in the JSON is left out.
    __dataclass_fields__ = dict.fromkeys(
        (
            *("description", "secrecy", "integrity", "operation"),
            *("labeled_paths", "default_labels", "items_path", "items"),
            "warnings",
        )
    )

    json: bytes
    label: Label | None

    def __init__(self, json: bytes) -> None:
        self.json = json

    def __getattr__(self, name: str) -> Any:
        # Only for what is not set. The encoder asks for each member; that is no way to read labels in a loop.
        if name in self.__dataclass_fields__:
            members = msgspec.json.decode(self.json)
            if name in members:
                return members[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredLabel, (self.json,)

    def __eq__(self, other: object) -> bool:
        return self.json == other.json if isinstance(other, StoredLabel) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.json)

    def __repr__(self) -> str:
        return f"StoredLabel({self.json!r})"


class Outcome(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What became of one job.

    Attributes:
        id: the job's id.
        guard: the guard's name, or None if the job fits no guard of the pool.
        op: the job's operation, a string.
        tool_name: the job's tool, or None if the job was rejected and names no tool.
        status: a `Status`; equal to its word.
        label: `ResourceLabel` or `ResponseLabel` if `status` is `ok` (None for a response without fine-grained
            labels), else None. Decoded when it is first read.
        error: an `OutcomeError` if `status` is not `ok`, else None.
        duration_us: microseconds of the last attempt in the guard, 0 if no attempt ran to its end.
        attempts: how many times a worker began the job.
        backend_calls: how many of the guard's questions came to a backend, in the last attempt: those within the limit.
        logs: the guard's log lines for this job, when `Limits(keep_logs=True)` asked for them. Equal lines in a row are one,
            `TEXT (8,000 times)`. Of a job whose worker was killed they are the last ones, each of 1,000 bytes at most; a line
            in front says how many are lost, and the last line's count is a lower bound: `TEXT (at least 4,097 times)`.
        backend: what the guard asked, and what of it had no answer.
        session_restarted: the job's session (`Job.session`) had to go on in another worker, because its worker died or was
            replaced, or in another run (`label_file(resume=True)`): what labelled this job has not seen the session's jobs from
            before that.
    """

    id: Any
    guard: str | None
    op: str
    tool_name: str | None
    status: Status
    label: Label | None = None
    error: OutcomeError | None = None
    duration_us: int = 0
    attempts: int = 0
    backend_calls: int = 0
    logs: tuple[LogLine, ...] = ()
    backend: BackendUse = NOTHING_ASKED
    session_restarted: bool = False

    @property
    def label_json(self) -> bytes:
        """The label as JSON in the form of the outcome file; `b"null"` without a label."""
        label = stored_label(self)
        if type(label) is StoredLabel:
            return label.json
        return label if type(label) is bytes else labels.label_to_json(label)

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain values, with the keys of a line of the outcome file; tags are sorted lists.

        An id that is a number past what Python holds stays the `msgspec.Raw` that it is.
        """
        error = msgspec.to_builtins(self.error)
        if error is not None and "backend" in error:
            error["backend"] = list(error["backend"])
        line = {
            "id": self.id,
            "guard": self.guard,
            "op": self.op or None,
            "tool_name": self.tool_name,
            "status": self.status.value,
            "label": msgspec.json.decode(self.label_json),
            "error": error,
            "duration_us": self.duration_us,
            "attempts": self.attempts,
        }
        if self.backend:
            line["backend"] = {**msgspec.to_builtins(self.backend)}
            line["backend"]["missing"] = list(line["backend"]["missing"])
        if self.session_restarted:
            line["session_restarted"] = True
        return line

    def raise_for_status(self) -> Outcome:
        """Return the outcome itself if it is `ok`, else raise the `JobError` that fits its status.

        The error's text is safe to print, whatever the guard had in it; `error.message` is as it came.
        """
        if self.status is Status.OK:
            return self
        from guardpool.printable import escaped  # here, because workers need the rest of this module and not this

        message = self.error.message if self.error else self.status.value
        raise _RAISES[self.status](f"job {self.id!r}: {self.status.value}: {escaped(message)}", outcome=self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Outcome):
            return NotImplemented
        return self._key() == other._key()

    __hash__ = None  # type: ignore[assignment]  # an id may be any scalar, but a label may hold any JSON

    def __repr__(self) -> str:
        what = repr(self.label) if self.status is Status.OK else repr(self.error)
        job = f"id={self.id!r}, guard={self.guard!r}, op={self.op!r}, tool_name={self.tool_name!r}"
        return f"Outcome({job}, status={self.status.value!r}, {what})"

    def _key(self) -> tuple[Any, ...]:
        return (
            self.id,
            self.guard,
            self.op,
            self.tool_name,
            self.status,
            self.label,
            self.error,
            self.duration_us,
            self.attempts,
            self.backend_calls,
            self.logs,
            self.backend,
            self.session_restarted,
        )


# A label travels as JSON, and most programs look at few of the labels they get. So the field `label` holds the JSON, and
# reading goes through a property put over the struct's own descriptor, which costs the making of an outcome nothing (0.12 us
# against 0.6 us for a class with an `__init__`). Reading changes nothing in the outcome but what its `StoredLabel` remembers.
_label_field = Outcome.__dict__["label"]
stored_label = _label_field.__get__  # for our own hot paths


def _label(outcome: Outcome) -> Label | None:
    stored = stored_label(outcome)
    if type(stored) is StoredLabel:
        try:
            return stored.label
        except AttributeError:
            label = stored.label = labels.label_from_json(outcome.op, stored.json)
            return label
    if type(stored) is bytes:  # of an outcome that a caller made
        label = labels.label_from_json(outcome.op, stored)
        _label_field.__set__(outcome, label)
        return label
    return stored  # type: ignore[no-any-return]


Outcome.label = property(_label)  # type: ignore[assignment]


class JobError(GuardPoolError):
    """One job has no label. Raised by `Outcome.raise_for_status` only.

    Attributes:
        outcome: the outcome, whole.
        job_id: the job's id.
        guard: the guard's name, or None if the job fits no guard of the pool.
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


class JobUnanswered(JobError):
    """The guard asked its backend, got no answer, and `Guard(on_backend_failure="withhold")` wants no label then."""


_RAISES: dict[Status, type[JobError]] = {
    Status.REFUSED: GuardRefused,
    Status.INVALID: GuardAnswerInvalid,
    Status.TRAP: GuardTrapped,
    Status.TIMEOUT: JobTimedOut,
    Status.MEMORY: JobOutOfMemory,
    Status.CRASHED: JobCrashed,
    Status.REJECTED: JobRejected,
    Status.CANCELLED: JobCancelled,
    Status.UNANSWERED: JobUnanswered,
}
