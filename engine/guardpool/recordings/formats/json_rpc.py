"""Traffic of MCP: JSON-RPC messages, one a line, both directions mixed, bare or in the envelope of mcp-rec.

Ids are true. A bare line does not say who sent it: that follows from what it is. The server may ask too (sampling,
elicitation, roots), and its ids are a space of their own, so that an answer with an id that is open on both sides is told by
its shape. A result is what was seen on that side of whatever gateway there was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import msgspec

from guardpool.recordings.call import Call, Pairing, Payload, PayloadState, ResultIs
from guardpool.recordings.formats import blocks
from guardpool.recordings.formats.by_id import UNANSWERED, CallsById
from guardpool.recordings.formats.seam import Confidence, Sink
from guardpool.recordings.json_text import FAILURES, value_of
from guardpool.recordings.tally import OTHER_METHOD

BARE, MCP_REC = "json-rpc", "mcp-rec/v1"
_CLIENT, _SERVER = "client", "server"
_SENDERS = {"client->server": _CLIENT, "server->client": _SERVER}
# What servers ask of clients. `ping` goes both ways, and tells of no call.
_SERVERS_ASK = frozenset(("sampling/createMessage", "elicitation/create", "roots/list"))
_ANSWERS_TO_SERVERS = frozenset(("action", "role", "model", "roots"))


class _Params(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct, gc=False):
    jsonrpc: str = ""
    id: Any = msgspec.UNSET
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: Any = None


class _Envelope(msgspec.Struct, gc=False):
    ts: float
    dir: str
    msg: msgspec.Raw


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_params = msgspec.json.Decoder(_Params).decode
_encode = msgspec.json.Encoder().encode
_MAX_KEY = 200  # characters; of longer ids a digest is kept


class _JsonRpc:
    name = BARE

    def recognise(self, text: bytes) -> Confidence:
        """Sure of mcp-rec's envelope, likely of a bare message."""
        if b'"dir"' in text and b'"msg"' in text and (b"client->server" in text or b"server->client" in text):
            return Confidence.SURE
        # The gateway's own log has such messages in lines of its own.
        return Confidence.LIKELY if b'"jsonrpc"' in text[:4096] and b'"payload"' not in text[:4096] else Confidence.NO

    def begin(self, sink: Sink) -> _JsonRpcFeed:
        """Read an input."""
        return _JsonRpcFeed(sink)


class _JsonRpcFeed:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._calls = CallsById(sink)
        self._others: dict[tuple[str, str], str] = {}  # sender and id of requests that are no calls: their method
        self._session = sink.name
        self._server: str | None = None
        self._left = 0

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """See `Feed`."""
        try:
            text.decode()
        except UnicodeDecodeError:
            return None
        sender, at, body, version = None, None, text, BARE
        try:
            envelope = _decode_envelope(text)
        except FAILURES:
            pass
        else:
            sender, version = _SENDERS.get(envelope.dir), MCP_REC
            if sender is None:
                return None
            at, body = _time(envelope.ts), bytes(envelope.msg)
        messages = list(_messages(body))
        if version == BARE and not any(each.jsonrpc == "2.0" for each in messages):
            return None
        self._left = lines
        for message in messages:
            self._message(message, sender, at, number)
        if self._left:
            is_noise = version == MCP_REC and not messages
            self._sink.count("not-a-message" if is_noise else OTHER_METHOD, number, text, self._left)
        return version

    def _message(self, message: _Message, sender: str | None, at: str | None, number: int) -> None:
        key = _key(message.id)
        if message.method is not None:
            sender = sender or (_SERVER if message.method in _SERVERS_ASK else _CLIENT)
            if message.method == "tools/call" and sender == _CLIENT:
                self._ask(message, key, at, number)
            elif message.method == "notifications/cancelled":
                if sender == _CLIENT:
                    self._cancel(message)
            elif key is not None:
                if message.method == "initialize":
                    self._begin_session(number)
                self._others[sender, key] = message.method
                if len(self._others) > 10_000:
                    del self._others[next(iter(self._others))]
        elif key is not None:
            self._answer(message, key, sender, at, number)

    def _begin_session(self, number: int) -> None:
        """A client says hello: whatever was open is another session's."""
        if self._others or self._calls.is_busy:
            self._calls.end_all()
            self._others.clear()
            self._session = f"{self._sink.name}@{number}"
            self._server = None

    def _ask(self, message: _Message, key: str | None, at: str | None, number: int) -> None:
        try:
            params = _decode_params(message.params)
        except FAILURES:
            params = _Params()
        args = bytes(params.arguments)
        if args in (b"", b"null"):
            args = b"{}"
        is_lost = args[:1] != b"{" or params.name is None
        call = Call(
            call=self._calls.call_id(number, key or "null"),
            source=BARE if at is None else MCP_REC,
            source_id=key,
            session=self._session,
            at=at,
            server=self._server,
            tool=params.name,
            args_json=None if is_lost else args,
            payload=Payload(PayloadState.LOST if is_lost else PayloadState.INTACT, None),
            **UNANSWERED,
        )
        if key is None:  # a notification by its form: nobody will answer it
            self._calls.add(call, self._take_lines())
            return
        self._calls.ask(key, call, self._take_lines())

    def _cancel(self, message: _Message) -> None:
        params = value_of(bytes(message.params))
        entry = self._calls.find(_key(params.get("requestId"))) if isinstance(params, dict) else None
        if entry is not None:
            reason = params.get("reason")
            self._calls.note(entry, self._take_lines(), {"cancelled": reason if isinstance(reason, str) else ""})

    def _answer(self, message: _Message, key: str, sender: str | None, at: str | None, number: int) -> None:
        result = bytes(message.result)
        entry = self._calls.find(key)
        if sender == _CLIENT or (sender is None and self._is_to_server(key, result, is_asked=entry is not None)):
            self._others.pop((_SERVER, key), None)
            return
        if entry is None:
            self._other_answer(key, result, message, at, number)
            return
        text, members = _outcome(result, message)
        if sender is None and message.error is not None and (_SERVER, key) in self._others:
            # Both sides asked with this id, and an error does not say whose it is.
            members["pairing"] = Pairing.AMBIGUOUS
        self._calls.answer(entry, self._take_lines(), text, until=at, **members)

    def _is_to_server(self, key: str, result: bytes, *, is_asked: bool) -> bool:
        """Whether an answer of unknown direction is a client's to a server's request."""
        if (_SERVER, key) not in self._others:
            return False
        if not is_asked and (_CLIENT, key) not in self._others:
            return True
        members = value_of(result)
        return isinstance(members, dict) and bool(_ANSWERS_TO_SERVERS & members.keys())

    def _other_answer(self, key: str, result: bytes, message: _Message, at: str | None, number: int) -> None:
        method = self._others.pop((_CLIENT, key), None)
        if method == "initialize":
            members = value_of(result)
            info = members.get("serverInfo") if isinstance(members, dict) else None
            name = info.get("name") if isinstance(info, dict) else None
            self._server = name if isinstance(name, str) else None
        members = value_of(result) if method is None else None
        if not isinstance(members, dict) or "content" not in members:
            return
        text, known = _outcome(result, message)
        orphan = Call(
            call=self._calls.call_id(number, key),
            source=BARE if at is None else MCP_REC,
            source_id=key,
            session=self._session,
            until=at,
            server=self._server,
            result_json=text,
            payload=Payload(None, PayloadState.INTACT),
            **known,
        )
        self._calls.add(orphan, self._take_lines())

    def _take_lines(self) -> int:
        lines, self._left = self._left, 0
        return lines

    def finish(self) -> None:
        """See `Feed`."""
        self._calls.finish()

    def close(self) -> None:
        """See `Feed`."""
        self._calls.close()


def _messages(body: bytes) -> Iterator[_Message]:
    """The messages of a line: one, or those of a batch."""
    try:
        pieces = [bytes(each) for each in _decode_raws(body)] if body.lstrip()[:1] == b"[" else [body]
    except FAILURES:
        return
    for piece in pieces:
        try:
            message = _decode_message(piece)
        except FAILURES:
            continue
        if message.jsonrpc or message.method or message.result or message.error is not None:
            yield message


def _outcome(result: bytes, message: _Message) -> tuple[bytes | None, dict[str, Any]]:
    """A result as the protocol has it, or the error."""
    if message.error is not None:
        return None, {"error": message.error}
    if result[:1] != b"{":
        return None, {"result_is": ResultIs.LOST}
    if b"[Filtered]" in result or b"payloadPath" in result:
        members = value_of(result)
        if isinstance(members, dict) and isinstance(members.get("content"), list):
            text, found = blocks.outcome_of(members)
            return (None if text is None else result), found
    if b'"ifc"' in result:
        members = value_of(result)
        meta = members.get("_meta") if isinstance(members, dict) else None
        if isinstance(meta, dict) and meta.get("ifc") is not None:  # the server's own label
            return result, {"result_is": ResultIs.UNKNOWN, "observed": {"ifc": meta["ifc"]}}
    return result, {"result_is": ResultIs.UNKNOWN}


def _key(id: Any) -> str | None:
    """An id with its type: 1 and "1" are two ids. None is no id."""
    if id is msgspec.UNSET or id is None:
        return None
    try:
        text = _encode(id).decode()
    except FAILURES:
        return None
    return text if len(text) <= _MAX_KEY else hashlib.sha256(text.encode()).hexdigest()


def _time(seconds: float) -> str | None:
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


JSON_RPC = _JsonRpc()
