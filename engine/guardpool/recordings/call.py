"""One tool call of an agent, as a recording tells it: the record that every format is read into."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from guardpool.contract.inputs import MINUS_ZERO
from guardpool.errors import CallerError
from guardpool.recordings.json_text import FAILURES


class Role(str, Enum):
    """Whose call it is."""

    AGENT = "agent"
    ENRICHMENT = "enrichment"
    CANDIDATE = "candidate"

    def __str__(self) -> str:
        return self.value


class Pairing(str, Enum):
    """How a request and its answer were brought together."""

    ID = "id"
    ORDER = "order"
    AMBIGUOUS = "ambiguous"
    UNMATCHED = "unmatched"

    def __str__(self) -> str:
        return self.value


class ResultIs(str, Enum):
    """What the result is; from `NO_RESPONSE` on, why there is no result."""

    RAW = "raw"
    FILTERED = "filtered"
    UNKNOWN = "unknown"
    NO_RESPONSE = "no-response"
    NOT_RECORDED = "not-recorded"
    REDACTED = "redacted"
    LOST = "lost"
    STUB = "stub"

    @property
    def is_answer(self) -> bool:
        """Whether it is what the server answered, as far as anybody can tell: only that can be labelled."""
        return self in (ResultIs.RAW, ResultIs.UNKNOWN)

    def __str__(self) -> str:
        return self.value


class PayloadState(str, Enum):
    """What a recorder's sanitiser left of a payload."""

    INTACT = "intact"
    REDACTED = "redacted"
    REPAIRED = "repaired"
    LOST = "lost"

    def __str__(self) -> str:
        return self.value


def error_text(error: Any) -> str | None:
    """The words of a call's error: a transport's text, or the message of a JSON-RPC error; None for anything else."""
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else None


class CallError(CallerError, ValueError):
    """A value is not a call in the form of `Call.to_dict`."""


class Payload(NamedTuple):
    """The states of a call's two payloads; None where there is no such payload."""

    args: PayloadState | None = None
    result: PayloadState | None = None


NO_PAYLOAD = Payload()


class Call(msgspec.Struct, frozen=True, eq=False, kw_only=True, gc=False):
    """One tool call.

    Arguments and result are kept as the JSON text that they were read as, because most calls are only passed on; `args`
    and `result` decode them each time they are asked for. Two calls are equal if every member is, JSON by its value.

    Args:
        call: the call's id, `RELATIVE_PATH#LINE`: the line of its request, or of what stands for it, counted from 1.
        source: format and version that was recognised, e.g. `"rpc-messages/v2"`.
        source_id: the source's own id of the call, as text.
        session: calls of one session are one agent's, in order. From the source, else the file.
        agent, run, workflow, repository: where the source or its folder says so.
        role: the agent's own call, a guard's question, or perhaps a guard's question.
        at, until: when it was asked and answered, RFC 3339 as the source has it.
        server, tool: after name mapping: the MCP server's id and the tool's own name.
        args_json: the arguments, one JSON object in UTF-8.
        result_json: the MCP result object (`content`, `structuredContent`, `isError`, `_meta`) in UTF-8.
        result_is: what the result is, or why there is none.
        error: a transport's error as a string, a JSON-RPC error as the object it is.
        pairing: how request and answer were brought together.
        payload: what a sanitiser left of the arguments and of the result.
        enrichment: what a guard asked for this call, each `{"tool", "args", "result"}`.
        observed: what the recorder itself did with the call: `filtered` (a list of events), `denied` (an event), `agent`
            (the agent's tags before the call), `ifc` (labels that the server sent with its result).
    """

    call: str
    source: str
    source_id: str | None = None
    session: str = "default"
    agent: str | None = None
    run: str | None = None
    workflow: str | None = None
    repository: str | None = None
    role: Role = Role.AGENT
    at: str | None = None
    until: str | None = None
    server: str | None = None
    tool: str | None = None
    args_json: bytes | None = None
    result_json: bytes | None = None
    result_is: ResultIs = ResultIs.NOT_RECORDED
    error: Any = None
    pairing: Pairing = Pairing.UNMATCHED
    payload: Payload = NO_PAYLOAD
    enrichment: tuple[dict[str, Any], ...] = ()
    observed: dict[str, Any] | None = None

    @property
    def args(self) -> Any:
        """The arguments as a Python value; None where they are not known."""
        return None if self.args_json is None else decode_json(self.args_json)

    @property
    def result(self) -> Any:
        """The MCP result as a Python value; None if the call has none."""
        return None if self.result_json is None else decode_json(self.result_json)

    def to_json(self) -> bytes:
        """The call as one line of JSON, without a newline: the members of `to_dict`, arguments and result spliced in.

        Text that no JSON can hold (a lone surrogate) comes out as the escape it would have had.
        """
        wire = _Wire(
            call=self.call,
            session=self.session,
            role=self.role,
            result_is=self.result_is,
            pairing=self.pairing,
            source=self.source,
            source_id=_given(self.source_id),
            agent=_given(self.agent),
            run=_given(self.run),
            workflow=_given(self.workflow),
            repository=_given(self.repository),
            at=_given(self.at),
            until=_given(self.until),
            server=_given(self.server),
            tool=_given(self.tool),
            args=msgspec.UNSET if self.args_json is None else msgspec.Raw(self.args_json),
            result=msgspec.UNSET if self.result_json is None else msgspec.Raw(self.result_json),
            error=_given(self.error),
            payload=_STATES.get(self.payload) or _states(self.payload),
            enrichment=list(self.enrichment) or msgspec.UNSET,
            observed=_given(self.observed),
        )
        try:
            return _encode(wire)
        except UnicodeEncodeError:
            return json.dumps(_without_surrogates(self.to_dict())).encode()

    @classmethod
    def from_json(cls, line: bytes) -> Call:
        """The call in a line that `to_json` made.

        Raises:
            CallError: it is not one.
        """
        try:
            if not line.isascii():
                line.decode()
            wire = _decode(line)
        except FAILURES as error:
            raise CallError(f"not a call: {error}") from error
        return _from_wire(wire)

    def to_dict(self) -> dict[str, Any]:
        """The call as plain values under its JSON names; members that are not known are left out."""
        members: dict[str, Any] = {"call": self.call, "source": self.source, "session": self.session}
        for name in _PLAIN:
            value = getattr(self, name)
            if value is not None:
                members[name] = value
        members |= {"role": self.role.value, "result_is": self.result_is.value, "pairing": self.pairing.value}
        for name, text in (("args", self.args_json), ("result", self.result_json)):
            if text is not None:
                members[name] = decode_json(text)
        payload = {name: state.value for name, state in self.payload._asdict().items() if state is not None}
        if payload:
            members["payload"] = payload
        if self.enrichment:
            members["enrichment"] = list(self.enrichment)
        return members

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> Call:
        """The call that `to_dict` told.

        Raises:
            CallError: a member is missing or has the wrong type.
        """
        texts: dict[str, bytes] = {name: _as_json(members[name]) for name in ("args", "result") if name in members}
        rest = {name: value for name, value in members.items() if name not in texts}
        try:
            wire = msgspec.convert(rest, _Wire)
        except msgspec.MsgspecError as error:
            raise CallError(f"not a call: {error}") from error
        return _from_wire(wire, texts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Call):
            return NotImplemented
        for name in self.__struct_fields__:
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs and not (name.endswith("_json") and _same_json(ours, theirs)):
                return False
        return True

    def __hash__(self) -> int:
        return hash((self.call, self.session))


class _States(msgspec.Struct):
    args: PayloadState | msgspec.UnsetType = msgspec.UNSET
    result: PayloadState | msgspec.UnsetType = msgspec.UNSET


class _Wire(msgspec.Struct, kw_only=True):
    """A call as it stands in JSON."""

    call: str
    source: str
    source_id: str | msgspec.UnsetType = msgspec.UNSET
    session: str = "default"
    agent: str | msgspec.UnsetType = msgspec.UNSET
    run: str | msgspec.UnsetType = msgspec.UNSET
    workflow: str | msgspec.UnsetType = msgspec.UNSET
    repository: str | msgspec.UnsetType = msgspec.UNSET
    role: Role = Role.AGENT
    at: str | msgspec.UnsetType = msgspec.UNSET
    until: str | msgspec.UnsetType = msgspec.UNSET
    server: str | msgspec.UnsetType = msgspec.UNSET
    tool: str | msgspec.UnsetType = msgspec.UNSET
    args: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result_is: ResultIs = ResultIs.NOT_RECORDED
    error: Any = msgspec.UNSET
    pairing: Pairing = Pairing.UNMATCHED
    payload: _States | msgspec.UnsetType = msgspec.UNSET
    enrichment: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    observed: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


_PLAIN = (
    *("source_id", "agent", "run", "workflow", "repository", "at", "until", "server", "tool", "error", "observed"),
)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Wire).decode
_decode_any = msgspec.json.Decoder().decode
# The longest whole number that Python turns into an int by default.
_MAX_DIGITS = 4000


def decode_json(text: bytes) -> Any:
    """The value of a JSON text that was checked for its syntax.

    Numbers that msgspec refuses are read as Python's own decoder reads them, a number past every float as infinity. A minus
    zero is a float: as an int it would be zero, and a guard sees the difference.
    """
    if b"-0" not in text or not MINUS_ZERO.search(text):
        try:
            return _decode_any(text)
        except msgspec.MsgspecError:
            pass
    return json.loads(text, parse_int=_parse_int)


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS and digits != "-0" else float(digits)


def _given(value: Any) -> Any:
    return msgspec.UNSET if value is None else value


def _states(payload: Payload) -> _States | msgspec.UnsetType:
    if payload == NO_PAYLOAD:
        return msgspec.UNSET
    return _States(_given(payload.args), _given(payload.result))


# Few combinations, made once: to encode a call is hot.
_STATES = {
    payload: _states(payload)
    for payload in (Payload(args, result) for args in (None, *PayloadState) for result in (None, *PayloadState))
}


def _from_wire(wire: _Wire, texts: dict[str, bytes] | None = None) -> Call:
    """The call of a decoded line; `texts` has arguments and result where the line does not."""

    def known(value: Any) -> Any:
        return None if value is msgspec.UNSET else value

    def text(name: str) -> bytes | None:
        if texts is not None:
            return texts.get(name)
        raw = getattr(wire, name)
        return None if raw is msgspec.UNSET else bytes(raw)

    payload = NO_PAYLOAD
    if isinstance(wire.payload, _States):
        payload = Payload(known(wire.payload.args), known(wire.payload.result))
    return Call(
        call=wire.call,
        source=wire.source,
        session=wire.session,
        role=wire.role,
        args_json=text("args"),
        result_json=text("result"),
        result_is=wire.result_is,
        pairing=wire.pairing,
        payload=payload,
        enrichment=() if isinstance(wire.enrichment, msgspec.UnsetType) else tuple(wire.enrichment),
        **{name: known(getattr(wire, name)) for name in _PLAIN},
    )


def _as_json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (msgspec.MsgspecError, UnicodeEncodeError, TypeError) as error:
        raise CallError(f"not a call: {error}") from error


def _same_json(ours: bytes | None, theirs: bytes | None) -> bool:
    return ours is not None and theirs is not None and bool(decode_json(ours) == decode_json(theirs))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_without_surrogates(each) for each in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(each) for name, each in value.items()}
    return value
