"""Lines of outcomes read back as outcomes: labels that another machine sent are checked where they are used."""

from __future__ import annotations

from typing import Any, Literal, Union

import msgspec

from guardpool.errors import GuardPoolError
from guardpool.labels import check_label
from guardpool.outcomes import NOTHING_ASKED, BackendUse, Outcome, OutcomeError, Status, StoredLabel
from guardpool.printable import printable

_CHECK = {op: check_label(op) for op in ("label_resource", "label_response")}
_MAX_SHOWN = 80
# What reading a line of another hand, or a row of one, may raise.
NOT_VALID = (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, KeyError, TypeError)


class BadOutcome(GuardPoolError):
    """A row or a line is not an outcome, or its label is not one that a pool gives."""

    @classmethod
    def of(cls, job_id: object, error: object) -> BadOutcome:
        """What to raise for the outcome of a job."""
        return cls(f"the outcome of job {printable(str(job_id), _MAX_SHOWN)} is not valid: {error}")


class _Members(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    """A line as `guardpool.batch.writer` writes it, but for its id."""

    guard: Union[str, None]
    op: Union[Literal["label_resource", "label_response"], None]
    tool_name: Union[str, None]
    status: Status
    label: msgspec.Raw
    error: Union[OutcomeError, None]
    duration_us: int = 0
    attempts: int
    backend: BackendUse = NOTHING_ASKED
    session_restarted: bool = False


class _Line(_Members, gc=False, forbid_unknown_fields=True, kw_only=True):
    """A line as it nearly always is; what does not fit is looked at again as a `_LineOfAnyId`."""

    id: Union[str, int, float, bool, None]


class _LineOfAnyId(_Members, gc=False, forbid_unknown_fields=True, kw_only=True):
    """A line whose id may be a number that Python does not hold."""

    id: msgspec.Raw


_decode_lines = msgspec.json.Decoder(_Line).decode_lines
_decode_line = msgspec.json.Decoder(_LineOfAnyId).decode
_decode_any = msgspec.json.Decoder().decode


def outcomes_of_lines(lines: bytes | memoryview) -> list[Outcome]:
    """Outcomes from lines as `guardpool.batch.encode_outcomes` writes them. Each label is checked.

    An outcome is as it was, but for its logs, which stand in no line.

    Args:
        lines: whole ones; nothing of what is returned refers to them.

    Raises:
        BadOutcome: a line is not an outcome, or its label is not one that a pool gives.
    """
    try:
        return [_outcome_of(line, line.id) for line in _decode_lines(lines)]
    except NOT_VALID:  # one of them is not valid, or has a large number as its id
        return [_outcome_alone(line) for line in bytes(lines).splitlines()]


def _outcome_of(line: _Members, job_id: Any) -> Outcome:
    is_ok, raw, op = line.status is Status.OK, bytes(line.label), line.op or ""
    if (line.error is None) is not is_ok:
        raise ValueError(f"its status is {line.status.value}, and it has {'no' if line.error is None else 'an'} error")
    has_label = raw != b"null" or op == "label_resource"
    if is_ok:
        _CHECK[op](raw)  # a response's may be null
    elif raw != b"null":
        raise ValueError(f"its status is {line.status.value}, and it has a label")
    return Outcome(
        job_id,
        line.guard,
        op,
        line.tool_name,
        line.status,
        StoredLabel(raw) if is_ok and has_label else None,  # type: ignore[arg-type]  # as a pool makes them
        line.error,
        line.duration_us,
        line.attempts,
        line.backend.asked,
        backend=line.backend,
        session_restarted=line.session_restarted,
    )


def _outcome_alone(line: bytes) -> Outcome:
    job_id: object = "without an id"
    try:
        read = _decode_line(line)
        job_id = id_of(read.id)
        if isinstance(job_id, (dict, list)):
            raise TypeError("an id is a string, a number, a boolean or null")
        return _outcome_of(read, job_id)
    except NOT_VALID as error:
        raise BadOutcome.of(job_id, error) from error


def id_of(raw: msgspec.Raw) -> Any:
    """The id in a line; a number that Python does not hold is a `msgspec.Raw`."""
    try:
        return _decode_any(raw)
    except msgspec.DecodeError:
        return raw.copy()
