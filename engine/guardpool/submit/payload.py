"""The JSON object a guard gets for a job: `label_resource`'s or `label_response`'s input of the guard contract.

Two ways lead to it. `encode_job` encodes a `Job`'s Python values; `payload_from_parts` joins pieces that are JSON
already, so that a tool result read from a file reaches the guard without being decoded and encoded again.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec

from guardpool.jobs import UNSET, Job, Op


class PayloadError(ValueError):
    """A job that cannot be put before a guard.

    Attributes:
        code: a stable word for programs, as in `OutcomeError.code`: `"no_such_op"`, `"bad_tool_name"`,
            `"no_tool_result"`, `"bad_tool_args"`, `"not_json"`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _ResourceInput(msgspec.Struct, omit_defaults=True, gc=False):
    tool_name: str
    tool_args: Any
    capabilities: Any = None


class _ResponseInput(msgspec.Struct, omit_defaults=True, gc=False):
    tool_name: str
    tool_result: Any
    tool_args: Any = None
    capabilities: Any = None


# Joining copies a piece once, whichever of the two types it has.
Piece = Union[bytes, msgspec.Raw]

# The piece of a field that is missing, as the default of a Struct: the search below finds this very object quickest.
NO_PIECE = msgspec.Raw()
_NO_PIECES = (NO_PIECE, None, msgspec.Raw(b"null"), b"null", b"")

# Where the tool's name begins in what `payload_from_parts` returns.
_NAME = b'{"tool_name":'
NAME_AT = len(_NAME)
_RESULT_KEY_BYTES = len(b',"tool_result":')
_TEXT_ARGS = b',"tool_args":"'

_NO_TOOL_RESULT = "a label_response needs tool_result, what the tool answered; null is an answer"

_encode = msgspec.json.Encoder().encode
_RESOURCE = Op.LABEL_RESOURCE.value
_RESPONSE = Op.LABEL_RESPONSE.value


def encode_job(job: Job) -> bytes:
    """Encode what the guard is told of `job`, as UTF-8 JSON.

    Values are written as msgspec writes them: besides plain JSON types also tuples, dataclasses, dates and the like;
    a NaN or an infinity becomes null.

    Raises:
        PayloadError: `op` is not an operation, `tool_name` is not a string, a `label_response` has no `tool_result`,
            `tool_args` is a string that holds a JSON object, or a value cannot be written as JSON.
    """
    name = job.tool_name
    if not isinstance(name, str):
        raise PayloadError("bad_tool_name", f"tool_name must be a string, not {type(name).__name__}")
    op = job.op
    if job.tool_result is UNSET and op == _RESPONSE:
        raise PayloadError("no_tool_result", _NO_TOOL_RESULT)
    if type(job.tool_args) is str:
        check_args(job.tool_args)
    try:
        if op == _RESOURCE:
            return _encode(_ResourceInput(name, job.tool_args, job.capabilities))
        if op == _RESPONSE:
            return _encode(_ResponseInput(name, job.tool_result, job.tool_args, job.capabilities))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise PayloadError("not_json", _why_not_json(job, error)) from error
    raise PayloadError("no_such_op", no_such_op(op))


def payload_from_parts(
    op: str,
    tool_name_json: Piece,
    tool_args: Piece | None,
    tool_result: Piece | None,
    capabilities: Piece | None,
) -> bytes:
    """Join pieces of JSON to what the guard is told; equal, as a value, to `encode_job` of the same job.

    Args:
        op: `"label_resource"` or `"label_response"`.
        tool_name_json: the tool's name as a JSON string, with its quotes.
        tool_args: one JSON value, or None if the job has no arguments; `null` and an empty piece mean the same. Like the
            two after it, it must be well-formed UTF-8 JSON: it is not checked here.
        tool_result: one JSON value, which may be `null`; only `label_response` passes it on. None and an empty piece: there
            is no result.
        capabilities: one JSON value or None; left out of the result if it is None.

    Raises:
        PayloadError: `op` is not an operation, or a `label_response` has no `tool_result`.
    """
    # A join takes two thirds of the time of `%`.
    tail = b"}" if capabilities in _NO_PIECES else b',"capabilities":%b}' % capabilities
    if op == _RESOURCE:
        return b"".join((_NAME, tool_name_json, b',"tool_args":', tool_args or b"null", tail))
    if op == _RESPONSE:
        if not tool_result:
            raise PayloadError("no_tool_result", _NO_TOOL_RESULT)
        args = b"" if tool_args in _NO_PIECES else b',"tool_args":%b' % tool_args
        return b"".join((_NAME, tool_name_json, b',"tool_result":', tool_result, args, tail))
    raise PayloadError("no_such_op", no_such_op(op))


def args_are_text(payload: bytes, op: str, tool_name_json: Piece, tool_result: Piece) -> bool:
    """Whether the arguments in what `payload_from_parts` made of these pieces are a string. Hot: it looks at one place."""
    at = NAME_AT + len(tool_name_json)
    if op == _RESPONSE:
        at += _RESULT_KEY_BYTES + len(tool_result)
    return payload.startswith(_TEXT_ARGS, at)


def check_args(text: str) -> None:
    """Refuse `tool_args` that were encoded twice. A string that holds no JSON object is a value like any other.

    Raises:
        PayloadError: `text` is a JSON object, which a guard would label as a string.
    """
    if text.lstrip()[:1] != "{":
        return
    try:
        holds_object = isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return
    if holds_object:
        raise PayloadError("bad_tool_args", "tool_args is a string that holds a JSON object: write the object itself")


def no_such_op(op: object) -> str:
    """The message for an `op` that is not an operation."""
    got = op if isinstance(op, str) else type(op).__name__
    return f'op must be "{_RESOURCE}" or "{_RESPONSE}", not {got[:80]!r}'


def _why_not_json(job: Job, error: Exception) -> str:
    """Name the field that cannot be encoded, and why."""
    for field in ("tool_args", "tool_result", "capabilities", "tool_name"):
        try:
            _encode(getattr(job, field))
        except RecursionError:
            return f"{field} is nested too deep, or contains itself"
        except UnicodeEncodeError as cause:
            return f"{field} holds text that is not valid Unicode (a lone surrogate): {cause.reason}"
        except (TypeError, ValueError, OverflowError) as cause:
            return f"{field} is not JSON: {cause}"
    return f"the job is not JSON: {error}"
