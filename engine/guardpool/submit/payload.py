"""The JSON object a guard gets for a job: `label_resource`'s or `label_response`'s input of the guard contract.

Two ways lead to it. `encode_job` encodes a `Job`'s Python values; `payload_from_parts` joins pieces that are JSON already, of a
line of a file. Both give what the reference gateway would have written (`guardpool.contract.normalise`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

import msgspec

from guardpool.contract.inputs import normalise_text
from guardpool.contract.text import scrub
from guardpool.contract.values import Look, NotJson, look, plain, to_json
from guardpool.errors import ContractError
from guardpool.jobs import UNSET, Job, Op, no_such_op


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


# The same for values that the encoder writes as a guard is to have them, as nearly all are. An array is converted in half the
# time of an object. Arguments that are a string are not among them: `check_args` has to look at those.
_INNER: Any = plain(2)
_PLAIN_ARGS: Any = Union[None, bool, list[_INNER], dict[str, _INNER]]
_PlainResource = msgspec.defstruct(
    "_PlainResource",
    [("tool_name", str), ("tool_args", _PLAIN_ARGS), ("capabilities", plain(3))],
    array_like=True,
    gc=False,
)
_PlainResponse = msgspec.defstruct(
    "_PlainResponse",
    [("tool_name", str), ("tool_result", plain(5)), ("tool_args", _PLAIN_ARGS), ("capabilities", plain(3))],
    array_like=True,
    gc=False,
)


# Joining copies a piece once, whichever of the two types it has.
Piece = Union[bytes, msgspec.Raw]

# The piece of a field that is missing, as the default of a Struct: the search below finds this very object quickest.
NO_PIECE = msgspec.Raw()
_NO_PIECES = (NO_PIECE, None, msgspec.Raw(b"null"), b"null", b"")

_NAME = b'{"tool_name":'
_PLAIN, _NUMBERS, _ODD = Look

_NO_TOOL_RESULT = "a label_response needs tool_result, what the tool answered; null is an answer"

_convert: Callable[..., Any] = msgspec.convert
_encode = msgspec.json.Encoder().encode
_RESOURCE = Op.LABEL_RESOURCE.value
_RESPONSE = Op.LABEL_RESPONSE.value


def encode_job(job: Job) -> bytes:
    """Encode what the guard is told of `job`, as UTF-8 JSON, written as the reference gateway would have.

    Raises:
        PayloadError: `op` is not an operation, `tool_name` is not a string, a `label_response` has no `tool_result`,
            `tool_args` is a string that holds a JSON object, or a value is not JSON: the message has its place.
    """
    op, name, args, capabilities = job.op, job.tool_name, job.tool_args, job.capabilities
    try:
        # What is converted is a copy, and equal to a value that is plain: a set would have become a list.
        if op == _RESOURCE:
            made = _convert((name, args, capabilities), _PlainResource)
            if made.tool_args == args and made.capabilities == capabilities:
                return _encode(_ResourceInput(name, args, capabilities))
        elif op == _RESPONSE:
            result = job.tool_result
            made = _convert((name, result, args, capabilities), _PlainResponse)
            if made.tool_result == result and made.tool_args == args and made.capabilities == capabilities:
                return _encode(_ResponseInput(name, result, args, capabilities))
    except Exception:  # also what a value's own methods raise
        pass
    return _encode_any(job)


def _encode_any(job: Job) -> bytes:
    """`encode_job` for whatever stands in the job."""
    name = job.tool_name
    if not isinstance(name, str):
        raise PayloadError("bad_tool_name", f"tool_name must be a string, not {type(name).__name__}")
    op, args, capabilities = job.op, job.tool_args, job.capabilities
    if job.tool_result is UNSET and op == _RESPONSE:
        raise PayloadError("no_tool_result", _NO_TOOL_RESULT)
    if type(args) is str:
        check_args(args)
    try:
        if op == _RESOURCE:
            payload = _encode(_ResourceInput(name, args, capabilities))
            looks = look(args), look(capabilities), _PLAIN
        elif op == _RESPONSE:
            payload = _encode(_ResponseInput(name, job.tool_result, args, capabilities))
            looks = (look(job.tool_result), look(args), look(capabilities))
        else:
            raise PayloadError("no_such_op", no_such_op(op))
        if _ODD not in looks:
            return normalise_text(payload) if _NUMBERS in looks else payload
    except PayloadError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    return _encode_odd(job)


def _encode_odd(job: Job) -> bytes:
    """`encode_job` for values that the encoder does not know, or knows and should not: from a copy in plain types."""
    name = scrub(str.__str__(job.tool_name))
    try:
        args, capabilities = to_json(job.tool_args, "tool_args"), to_json(job.capabilities, "capabilities")
        if job.op == _RESOURCE:
            return _encode(_ResourceInput(name, args, capabilities))
        return _encode(_ResponseInput(name, to_json(job.tool_result, "tool_result"), args, capabilities))
    except NotJson as error:
        raise PayloadError("not_json", str(error)) from error


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
            two after it, it must be UTF-8.
        tool_result: one JSON value, which may be `null`; only `label_response` passes it on. None and an empty piece: there
            is no result.
        capabilities: one JSON value or None; left out of the result if it is None.

    Raises:
        PayloadError: `op` is not an operation, a `label_response` has no `tool_result`, `tool_args` is a string that holds a
            JSON object, or a piece is not what a guard may be told: a number is too large for a double.
    """
    args = b"" if tool_args in _NO_PIECES else _normalised("tool_args", tool_args)
    if args.startswith(b'"'):
        check_args(msgspec.json.decode(args))
    # A join takes two thirds of the time of `%`.
    tail = b"}" if capabilities in _NO_PIECES else b',"capabilities":%b}' % _normalised("capabilities", capabilities)
    if op == _RESOURCE:
        return b"".join((_NAME, tool_name_json, b',"tool_args":', args or b"null", tail))
    if op == _RESPONSE:
        if not tool_result:
            raise PayloadError("no_tool_result", _NO_TOOL_RESULT)
        result = _normalised("tool_result", tool_result)
        args = args and b',"tool_args":%b' % args
        return b"".join((_NAME, tool_name_json, b',"tool_result":', result, args, tail))
    raise PayloadError("no_such_op", no_such_op(op))


def _normalised(name: str, piece: Piece | None) -> bytes:
    try:
        return normalise_text(bytes(piece))  # type: ignore[arg-type]  # a piece that is None is not asked for
    except ContractError as error:
        raise PayloadError("not_json", f"{name} is {error}") from error


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
