"""A line that may be a job, turned into a `Prepared` job.

A line is decoded only as far as it must be: `tool_args`, `tool_result` and `capabilities` stay JSON, are written as the
reference gateway writes them, and are joined to the guard's input. Bytes that are not UTF-8 and lone surrogates become U+FFFD,
wherever they stand. A line that is not a job becomes a `Prepared` with an error, which turns into a `rejected` outcome in
its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Union

import msgspec

from guardpool.contract.document import repaired
from guardpool.contract.values import Look, NotJson, look, to_json
from guardpool.jobs import (
    MAX_TIME_S,
    RIGHT_WORDS,
    TIME_IS,
    UNSET,
    Job,
    Op,
    Prepared,
    mistake_of,
    no_such_op,
)
from guardpool.outcomes import Outcome, OutcomeError, Status
from guardpool.plurals import named
from guardpool.sizes import MIB
from guardpool.submit.payload import NO_PIECE, PayloadError, payload_from_parts

# How much longer a line may be than the guard's input in it: its id, its keys and other keys, which are not read.
LINE_SLACK_BYTES = MIB

_Scalar = Union[str, int, float, bool, None]
_UNSET = msgspec.UNSET


class _Mistaken:
    """The type of a key that no job may have: no value fits it, so that the decoder finds the key at no cost."""


_NOT_THERE = _Mistaken()


class _Line(msgspec.Struct, gc=False):
    """A job line as it nearly always is; what does not fit is looked at again as a `_LooseLine`."""

    op: Literal["label_resource", "label_response"]
    tool_name: msgspec.Raw
    id: Union[str, int, float, bool, msgspec.UnsetType, None] = msgspec.UNSET
    guard: Union[str, None] = None
    tool_args: msgspec.Raw = NO_PIECE
    tool_result: msgspec.Raw = NO_PIECE
    capabilities: msgspec.Raw = NO_PIECE
    session: Union[str, None] = None
    time: Union[int, float, None] = None
    arguments: _Mistaken = _NOT_THERE
    result: _Mistaken = _NOT_THERE
    params: _Mistaken = _NOT_THERE
    name: _Mistaken = _NOT_THERE


class _LooseLine(msgspec.Struct, gc=False):
    id: msgspec.Raw = NO_PIECE
    guard: msgspec.Raw = NO_PIECE
    op: msgspec.Raw = NO_PIECE
    tool_name: msgspec.Raw = NO_PIECE
    tool_args: msgspec.Raw = NO_PIECE
    tool_result: msgspec.Raw = NO_PIECE
    capabilities: msgspec.Raw = NO_PIECE
    session: msgspec.Raw = NO_PIECE
    time: msgspec.Raw = NO_PIECE
    arguments: msgspec.Raw = NO_PIECE
    result: msgspec.Raw = NO_PIECE
    params: msgspec.Raw = NO_PIECE
    name: msgspec.Raw = NO_PIECE


class _NoJob(Exception):
    """Why a line is not a job."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _refuse(kind: type, value: object) -> object:
    """What the decoder calls with the value of a key that is a `_Mistaken`."""
    raise TypeError(f"no value is a {kind.__name__}")


decode_line = msgspec.json.Decoder(_Line, dec_hook=_refuse).decode
_decode_loose = msgspec.json.Decoder(_LooseLine).decode
_decode_any = msgspec.json.Decoder().decode
decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
_OPS = tuple(op.value for op in Op)
_OPS_AS_JSON = {f'"{op}"'.encode(): op for op in _OPS}


# Codes of rejected lines that are jobs, though not for this pool.
_JOBS_ALL_THE_SAME = ("no_such_guard", "input_too_large")


def is_of_job(outcome: Outcome) -> bool:
    """Whether what a line holds is a job, also one that the pool did not take; False if it was rejected for what it is."""
    error = outcome.error
    return outcome.status is not Status.REJECTED or (error is not None and error.code in _JOBS_ALL_THE_SAME)


class JobParser:
    """Turns job lines into `Prepared` jobs. Never raises for what a line holds.

    Args:
        guards: the names of the pool's guards.
        max_input_bytes: the pool's limit for one job's input; the job past it is rejected.
        any_guard: a job may name any guard, or none: it is not for the line to say which guards label it.

    Attributes:
        not_jobs: lines so far that were rejected for what they are, not for the guard they name or their input's size.
    """

    def __init__(self, guards: Sequence[str], max_input_bytes: int, *, any_guard: bool = False) -> None:
        # What a job's guard may be: the name may be left out if there is only one.
        self._usable: frozenset[str | None] = frozenset((*guards, None) if len(guards) == 1 else guards)
        self.guards = tuple(guards)
        self.any_guard = self._any_guard = any_guard
        self._names = named(sorted(guards))
        self.max_input_bytes = self._max_input_bytes = max_input_bytes
        self.not_jobs = 0
        self.max_line_bytes = max_input_bytes + LINE_SLACK_BYTES

    def parse(self, line: bytes, number: int, is_text: bool = False) -> Prepared | None:
        """The job in a line; None if the line is blank.

        Args:
            line: with its newline or without.
            number: counted from 0, blank lines too; its id if the line gives none.
            is_text: it is known to be UTF-8; otherwise that is looked at.
        """
        try:
            if not is_text and not line.isascii():
                line.decode()
            job = decode_line(line)
            if job.guard not in self._usable and not self._any_guard:
                return self._parse_again(line, number)
            if job.time is not None and not 0 <= job.time <= MAX_TIME_S:
                return self._parse_again(line, number)
            tool_name = decode_text(job.tool_name)
            payload = payload_from_parts(job.op, job.tool_name, job.tool_args, job.tool_result, job.capabilities)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, PayloadError):
            return self._parse_again(line, number)
        job_id = number if job.id is _UNSET else job.id
        if len(payload) > self._max_input_bytes:
            return self._rejected(job_id, job.guard, job.op, tool_name, number, self._too_large(payload))
        return Prepared(job_id, job.guard, job.op, tool_name, payload, None, job.session, job.time)

    def of_members(self, members: dict[str, Any], number: int) -> Prepared:
        """The job with these members, by the rules of a line that holds them.

        Args:
            members: by the keys of a job; JSON values, or each a `msgspec.Raw` that is one valid JSON value in UTF-8.
            number: as for `parse`.
        """
        try:
            for name in ("tool_args", "tool_result", "capabilities"):
                value = members.get(name)
                if type(value) is not msgspec.Raw and look(value) is Look.ODD:
                    to_json(value, name)
        except NotJson as error:
            return self.refused(members, number, "not_json", str(error))
        for name, code in (("id", "bad_id"), ("time", "bad_time")):
            value = members.get(name)
            if isinstance(value, float) and not math.isfinite(value):  # the encoder would write null
                return self.refused(members, number, code, f"{name} must be a number that JSON has, not {value}")
        job = self._of_pieces(members, number) or self.parse(_encode(members), number, is_text=True)
        assert job is not None  # an object is not blank
        return job

    def _of_pieces(self, members: dict[str, Any], number: int) -> Prepared | None:
        """A job made at once of members that are as they nearly always are; None: they are looked at again as a line."""
        get = members.get
        op, guard, tool_name, session, time = get("op"), get("guard"), get("tool_name"), get("session"), get("time")
        if op not in _OPS or not isinstance(tool_name, str) or (guard not in self._usable and not self._any_guard):
            return None
        if mistake_of(session, time) is not None:
            return None
        args, result, capabilities = (
            value if value is None or type(value) is msgspec.Raw else _encode(value)
            for value in (get("tool_args"), get("tool_result"), get("capabilities"))
        )
        try:
            payload = payload_from_parts(op, _encode(tool_name), args, result, capabilities)
        except PayloadError:
            return None
        if len(payload) > self._max_input_bytes:
            return None
        return Prepared(get("id", number), guard, op, tool_name, payload, None, session, time)

    def refused(self, members: dict[str, Any], number: int, code: str, message: str) -> Prepared:
        """What stands for members that are not a job; it keeps those that can be told of it."""
        job_id, guard, op, tool_name = (members.get(name) for name in ("id", "guard", "op", "tool_name"))
        is_number = isinstance(job_id, float) and not math.isfinite(job_id)
        return self._rejected(
            number if job_id is None or is_number else job_id,
            guard if guard in self._usable else None,
            op if op in _OPS else "",
            tool_name if isinstance(tool_name, str) else None,
            number,
            _NoJob(code, message),
        )

    def too_long(self, number: int) -> Prepared:
        """What stands for a line that was not kept because it is longer than `max_line_bytes`."""
        reason = _NoJob("line_too_long", f"the line is longer than {self.max_line_bytes} bytes")
        return self._rejected(number, None, "", None, number, reason)

    def _parse_again(self, line: bytes, number: int) -> Prepared | None:
        """The slow way: find out what is wrong with a line, and keep of it what is right."""
        if not line.strip():
            return None
        job_id: Any = number
        guard: str | None = None
        op = ""
        tool_name: str | None = None
        try:
            # Without its end: otherwise a line that is cut short would end in a bad character.
            job = _read_loosely(repaired(line.removesuffix(b"\n")))
            name = bytes(job.tool_name)
            tool_name = decode_text(name) if name[:1] == b'"' else None
            job_id = _scalar_id(job.id, number)
            op = _OPS_AS_JSON.get(bytes(job.op), "")
            _refuse_wrong_keys(job)
            op = op or _op_of(job.op)
            guard = self._guard_of(job.guard)
            if tool_name is None:
                raise _NoJob("bad_tool_name", f"tool_name must be a string; it is {_kind(name)}")
            session, time = _session_and_time(job)
            payload = payload_from_parts(op, job.tool_name, job.tool_args, job.tool_result, job.capabilities)
            if len(payload) > self._max_input_bytes:
                raise self._too_large(payload)
            return Prepared(job_id, guard, op, tool_name, payload, None, session, time)
        except (_NoJob, PayloadError) as reason:
            return self._rejected(job_id, guard, op, tool_name, number, reason)

    def _guard_of(self, raw: msgspec.Raw) -> str | None:
        text = bytes(raw)
        if text in (b"", b"null"):
            if None in self._usable or self._any_guard:
                return None
            raise _NoJob(
                "no_such_guard", f"the job names no guard and the pool holds {len(self._usable)}: {self._names}"
            )
        if text[:1] != b'"':
            raise _NoJob("bad_job", f"guard must be a string, not {_kind(text)}")
        guard: str = _decode_any(text)
        if guard not in self._usable and not self._any_guard:
            raise _NoJob("no_such_guard", f"no guard is called {guard[:80]!r}; the pool holds: {self._names}")
        return guard

    def _too_large(self, payload: bytes) -> _NoJob:
        return _NoJob(
            "input_too_large",
            f"the guard's input has {len(payload)} bytes; at most {self._max_input_bytes} are allowed",
        )

    def _rejected(
        self,
        job_id: Any,
        guard: str | None,
        op: str,
        tool_name: str | None,
        number: int,
        reason: _NoJob | PayloadError,
    ) -> Prepared:
        if reason.code not in _JOBS_ALL_THE_SAME:
            self.not_jobs += 1
        error = OutcomeError(code=reason.code, message=str(reason), line=number)
        return Prepared(job_id, guard, op, tool_name, b"", error)


def _read_loosely(line: bytes) -> _LooseLine:
    try:
        return _decode_loose(line)
    except RecursionError:
        raise _NoJob("not_json", "nested too deeply") from None
    except msgspec.ValidationError:
        raise _NoJob("bad_job", f"a job is a JSON object, not {_kind(line.strip())}") from None
    except msgspec.DecodeError as error:
        raise _NoJob("not_json", f"not JSON: {_syntax(error)}") from None


def _syntax(error: Exception) -> str:
    message = str(error).removeprefix("JSON is malformed: ")
    return "it ends too early" if message == "Input data was truncated" else message


def _scalar_id(raw: msgspec.Raw, number: int) -> Any:
    text = bytes(raw)
    if not text:
        return number
    if text[:1] in b"[{":
        raise _NoJob("bad_id", f"id must be a string, a number, a boolean or null, not {_kind(text)}")
    try:
        return msgspec.json.decode(text, type=_Scalar)
    except msgspec.DecodeError:
        return msgspec.Raw(text)  # a number that Python cannot hold: it goes back as it came


def _refuse_wrong_keys(job: _LooseLine) -> None:
    wrong = [hint for word, hint in RIGHT_WORDS.items() if getattr(job, word) is not NO_PIECE]
    if wrong:
        raise _NoJob("wrong_key", "; ".join(wrong))


def _op_of(raw: msgspec.Raw) -> str:
    text = bytes(raw)
    if not text:
        raise _NoJob("no_such_op", f'op is missing: it must be "{_OPS[0]}" or "{_OPS[1]}"')
    op = _decode_any(text) if text[:1] == b'"' else None
    if op not in _OPS:
        raise _NoJob("no_such_op", no_such_op(op) if isinstance(op, str) else f"op must be a string, not {_kind(text)}")
    return str(op)


def _session_and_time(job: _LooseLine) -> tuple[str | None, float | None]:
    session, time = bytes(job.session), bytes(job.time)
    if session not in _NOTHING and session[:1] != b'"':
        raise _NoJob("bad_session", f"session must be a string, not {_kind(session)}")
    if time not in _NOTHING and _kind(time) != _NUMBER:
        raise _NoJob("bad_time", f"{TIME_IS}; not {_kind(time)}")
    try:
        values = _decode_any(session or b"null"), _decode_any(time or b"null")
    except msgspec.DecodeError:  # a number that no double holds
        raise _NoJob("bad_time", f"{TIME_IS}; not {time[:40].decode()}") from None
    error = mistake_of(*values)
    if error is not None:
        raise _NoJob(error.code, error.message)
    return values


def _kind(text: bytes) -> str:
    """What a piece of JSON is, for a message."""
    return _KINDS.get(text[:1], _NUMBER)


_NUMBER = "a number"
_NOTHING = (b"", b"null")
_KINDS = {
    b"": "missing",
    b"{": "an object",
    b"[": "an array",
    b'"': "a string",
    b"n": "null",
    b"t": "true",
    b"f": "false",
}


# What an infinity of a job becomes in its line: a number that no double holds, as it was where a recording had it. The job is
# refused, which it must be. The encoder would write null, and the job would get a plausible label.
_PAST_EVERY_DOUBLE = msgspec.Raw(b"1e999")


def job_line(job: Job) -> bytes:
    """A job as a line that `JobParser` reads, with its newline; members that say nothing are left out.

    Raises:
        NotJson: a value in it is not JSON.
    """
    line: dict[str, Any] = {"id": job.id}
    if job.guard is not None:
        line["guard"] = job.guard
    line |= {"op": job.op, "tool_name": job.tool_name, "tool_args": job.tool_args}
    if job.op == Op.LABEL_RESPONSE and job.tool_result is not UNSET:
        line["tool_result"] = job.tool_result
    if job.capabilities is not None:
        line["capabilities"] = job.capabilities
    if job.session is not None:
        line["session"] = job.session
    if job.time is not None:
        line["time"] = job.time
    try:
        encoded = msgspec.json.encode(line)
        if look(line) is not Look.ODD:
            return encoded + b"\n"
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    return msgspec.json.encode(to_json(line, "job", _PAST_EVERY_DOUBLE)) + b"\n"
