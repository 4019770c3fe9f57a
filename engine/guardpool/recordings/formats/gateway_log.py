"""The gateway's `rpc-messages.jsonl`, version 2 and the older lines, with the DIFC events that stand between them.

The file has what went between the gateway and its backends, so results are raw. The gateway's requests have no id and most of
its answers a placeholder for one, so an answer belongs to the first request that is still open at the same server. Where more
than one was open that is a guess, and so is every later pair of a request that was open at such a guess: both are marked
`ambiguous`. Where ids tell more (`pairing.py`) they are used, and the pair is marked `id`.

Calls wait here for their answer and for the events that follow it, in the order of their requests; results of calls that
wait for long go to a temporary file.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Union

import msgspec

from guardpool.recordings import sanitised
from guardpool.recordings.call import Call, Pairing, Payload, PayloadState, ResultIs, Role
from guardpool.recordings.formats.evidence import shape_of
from guardpool.recordings.formats.pairing import Open, OpenRequests
from guardpool.recordings.formats.run_starts import RunStarts
from guardpool.recordings.formats.seam import Confidence, Sink
from guardpool.recordings.formats.timestamps import seconds_between
from guardpool.recordings.json_text import FAILURES, value_of
from guardpool.recordings.spill import Spill
from guardpool.recordings.tally import OTHER_METHOD
from guardpool.sizes import MIB

V2, LEGACY, EVENT_V2 = "rpc-messages/v2", "rpc-messages/legacy", "difc-filtered/v2"
LEGACY_EVENT = "difc-filtered/legacy"
# An event stands after its call's answer and after what the guard asked about that: how many lines a call waits for it.
_EVENT_LINES = 1000
# Calls are handed out some at a time.
_RELEASE_LINES = 64
# How many later calls may wait behind one that has no answer yet; it is closed then. Concurrent calls are tens.
_MAX_BEHIND = 20_000
# Results that wait in memory; more goes to disk.
_MAX_HELD_BYTES = 32 * MIB
# A guard asks within milliseconds of the call it labels; an agent thinks for longer between two calls.
_CANDIDATE_GAP_S = 0.5
# What guards of GitHub ask of their backend.
_GUARDS_ASK = frozenset(
    (
        *("search_repositories", "issue_read", "pull_request_read", "get_issue", "get_pull_request"),
        *("get_collaborator_permission", "get_repository"),
    )
)
_KINDS = {
    "rpc_request": ("request", V2),
    "rpc_response": ("response", V2),
    "rpc_unknown": ("unknown", V2),
    "difc_filtered": ("event", EVENT_V2),
    "unrecognized_endpoint_passthrough": ("endpoint", "difc-event/v1"),
    "REQUEST": ("request", LEGACY),
    "RESPONSE": ("response", LEGACY),
    "UNKNOWN": ("unknown", LEGACY),
    "DIFC_FILTERED": ("event", LEGACY_EVENT),
}


# How many calls of one tool an event may belong to; more do not run at once.
_MAX_RECENT = 4
# As descriptions name it: `issue:acme/web#7`, `file:acme/web:README.md`.
_REPOSITORY = re.compile(r":([A-Za-z0-9-]+)/([A-Za-z0-9._-]+)")
_NOTHING = msgspec.Raw()
# A result's members are not decoded, but told apart: looking for `_meta` in a long text takes as long as decoding it.
_ResultMembers = dict[str, msgspec.Raw]
_AnyResult = Union[_ResultMembers, list[msgspec.Raw], str, float, bool, None]
# A member of an enumeration is looked up by a function of Python's until 3.11: names of the module take a fifth of that.
_INTACT, _REDACTED, _LOST = PayloadState.INTACT, PayloadState.REDACTED, PayloadState.LOST
_RAW, _NO_RESPONSE = ResultIs.RAW, ResultIs.NO_RESPONSE
_AGENT, _CANDIDATE = Role.AGENT, Role.CANDIDATE
_ID, _ORDER, _AMBIGUOUS, _UNMATCHED = Pairing.ID, Pairing.ORDER, Pairing.AMBIGUOUS, Pairing.UNMATCHED
_BOTH_INTACT = Payload(_INTACT, _INTACT)


class _Params(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: msgspec.Raw = _NOTHING
    cursor: str | None = None


class _Payload(msgspec.Struct, gc=False):
    id: msgspec.Raw = _NOTHING
    params: _Params | None = None
    result: _AnyResult = None
    error: msgspec.Raw = _NOTHING
    broken: str | None = msgspec.field(name="_raw", default=None)
    redacted: bool = False


class _Line(msgspec.Struct, gc=False):
    timestamp: str | None = None
    event: str = ""
    type: str = ""
    server_id: str = ""
    method: str = ""
    tool_name: str = ""
    error: str = ""
    redacted: bool = False
    agent_secrecy: list[str] | None = None
    agent_integrity: list[str] | None = None
    payload: _Payload | None = None


_decode = msgspec.json.Decoder(_Line).decode
_decode_payload = msgspec.json.Decoder(_Payload).decode
_encode = msgspec.json.Encoder().encode
# An escape; the group is one that stands for half of a surrogate pair.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


class _Entry(msgspec.Struct, eq=False, gc=False):
    """A call that waits to be handed out. A Struct, because it is made for every call and is made in half the time.

    Thousands wait at a time, and none refers to another, so the garbage collector need not look at them.
    """

    line: int
    source: str
    session: str
    server: str
    tool: str | None
    lines: int
    at: str | None = None
    args: bytes | None = None
    args_state: PayloadState | None = None
    result: bytes | None = None
    result_state: PayloadState | None = None
    result_is: ResultIs = _NO_RESPONSE
    error: Any = None
    pairing: Pairing = _UNMATCHED
    observed: dict[str, Any] | None = None
    until: str | None = None
    source_id: str | None = None
    is_candidate: bool = False
    done_at: int = 0  # the line that completed it; 0 while its request is open
    place: tuple[int, int] | None = None  # of its result in the temporary file
    is_out: bool = False


# What a call has of its answer.
_OF_ANSWERS = ("result", "result_state", "result_is", "error", "until", "source_id", "done_at", "place")


def _done_at(entry: _Entry) -> int:
    return entry.done_at


class _GatewayLog:
    name = "rpc-messages"

    def recognise(self, text: bytes) -> Confidence:
        """Sure where a line has an event or a type that only the gateway writes."""
        if b'"rpc-message/' in text[:400] or b'"difc-' in text[:400]:
            return Confidence.SURE
        try:
            line = _decode(text)
        except FAILURES:
            return Confidence.MAYBE if b'"server_id"' in text[:400] else Confidence.NO
        return Confidence.LIKELY if (line.event or line.type) in _KINDS else Confidence.NO

    def begin(self, sink: Sink) -> GatewayFeed:
        """Read an input."""
        return GatewayFeed(sink)


class GatewayFeed:
    """Reads one log."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._name = sink.name
        self._session = sink.name
        self._open = OpenRequests()
        self._entries: deque[_Entry] = deque()
        self._spill = Spill()
        self._held = 0
        # By server and tool: the calls that were answered last, of which an event may be, the newest last.
        self._recent: dict[tuple[str, str], list[_Entry]] = {}
        self._newest: dict[str, _Entry] = {}  # by server: the call that was answered last
        self._starts = RunStarts()
        self._version = ""
        self._release_at = 0  # the line at which calls are handed out again

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """See `Feed`."""
        try:
            if not text.isascii():
                text.decode()
            line = _decode(text)
            kind = _KINDS.get(line.event or line.type)
        except FAILURES:
            whole = _with_whole_characters(text)
            return self._take_odd(text, number, lines) if whole == text else self.take(whole, number, lines)
        if kind is None:
            return None
        what, version = kind
        if what == "request":
            self._request(line, text, number, lines, version)
        elif what == "response":
            self._response(line, text, number, lines, version)
        elif what == "event":
            self._event(text, number, lines, version)
        else:
            self._sink.count("unrecognized-endpoint" if what == "endpoint" else OTHER_METHOD, number, text, lines)
        self._starts.last_at = line.timestamp
        if number >= self._release_at or self._held > _MAX_HELD_BYTES:
            self._release_at = number + _RELEASE_LINES
            self._release(number)
        return version

    def _take_odd(self, text: bytes, number: int, lines: int) -> str | None:
        """A line whose members are not what they should be: counted, if it is the gateway's at all."""
        line = value_of(text)
        known = line.get("event") or line.get("type") if isinstance(line, dict) else None
        kind = _KINDS.get(known) if isinstance(known, str) else None
        if kind is None:
            return None
        self._sink.count("malformed-line", number, text, lines)
        return kind[1]

    # Requests

    def _request(self, line: _Line, text: bytes, number: int, lines: int, version: str) -> None:
        self._sink.run.note_requests()
        payload, damage = _payload_of(line, text)
        params = payload.params if payload is not None else None
        is_first_page = params is None or not params.cursor
        is_start = self._starts.is_start(line.server_id, line.method, line.timestamp, is_first_page=is_first_page)
        if is_start or (self._version and version != self._version):
            self._begin_run(number)
        self._version = version
        tool = params.name if params is not None else None
        entry = _Entry(number, version, self._session, line.server_id, tool, lines, line.timestamp)
        if line.method != "tools/call":
            self._sink.count(OTHER_METHOD, number, text, lines)
        else:
            self._fill_request(entry, line, payload, damage)
            self._note_candidate(entry)
            self._entries.append(entry)
        request = Open(line.server_id, line.method, entry.args, entry, entry.tool)
        if payload is not None and payload.id is not _NOTHING:
            request.id = bytes(payload.id)
        for given_up in self._open.add(request):
            self._close(given_up.what, number)

    def _fill_request(self, entry: _Entry, line: _Line, payload: _Payload | None, damage: PayloadState) -> None:
        if line.agent_secrecy is not None or line.agent_integrity is not None:
            tags = {"secrecy": line.agent_secrecy or [], "integrity": line.agent_integrity or []}
            entry.observed = {"agent": tags}
        if line.redacted or (payload is not None and payload.redacted):
            entry.tool = entry.tool or line.tool_name or None
            entry.args_state = _REDACTED
            return
        entry.tool = entry.tool or line.tool_name or None
        if payload is None or payload.params is None:
            entry.args_state = _LOST
            return
        args = bytes(payload.params.arguments)
        if args in (b"", b"null"):
            args = b"{}"
        if args[:1] != b"{":
            entry.args_state = _LOST
            return
        entry.args = args
        entry.args_state = sanitised.state_of(args) if damage is _REDACTED else damage

    def _begin_run(self, number: int) -> None:
        for each in self._open.close_all():
            self._close(each.what, number)
        self._recent.clear()
        self._newest.clear()
        for entry in self._entries:  # their run has ended: no event can name them from here on
            entry.done_at = min(entry.done_at, max(1, number - _EVENT_LINES))
        self._session = f"{self._sink.name}@{number}"

    def _close(self, entry: _Entry, number: int) -> None:
        """A request is given up: its answer will not come."""
        entry.done_at = number

    # Answers

    def _response(self, line: _Line, text: bytes, number: int, lines: int, version: str) -> None:
        payload, damage = _payload_of(line, text)
        known_as = None if payload is None or payload.id is _NOTHING else bytes(payload.id)
        found, is_ambiguous = self._open.answer(line.server_id, text, is_error=bool(line.error), answer_id=known_as)
        entry: _Entry
        if found is None:
            if shape_of(text).listed is not None:
                self._sink.count(OTHER_METHOD, number, text, lines)
                return
            entry = _Entry(number, version, self._session, line.server_id, line.tool_name or None, lines)
            self._entries.append(entry)
        elif found.method != "tools/call":
            self._sink.count(OTHER_METHOD, number, text, lines)
            self._settle(version)
            return
        else:
            entry = found.what
            entry.lines += lines
            entry.pairing = _AMBIGUOUS if is_ambiguous else _ID if found.is_by_id else _ORDER
        entry.until = line.timestamp
        entry.done_at = number
        self._fill_result(entry, line, payload, damage, text)
        if entry.tool is not None:
            recent = self._recent.get((entry.server, entry.tool))
            if recent is None or recent[-1].done_at < entry.line:
                self._recent[entry.server, entry.tool] = [entry]
            else:  # both were open at once, so events of both may follow
                recent.append(entry)
                del recent[:-_MAX_RECENT]
        self._newest[entry.server] = entry
        self._settle(version)

    def _settle(self, version: str) -> None:
        """Give answers that were guessed to the calls whose they are, where ids tell it; not by ids of older lines."""
        if not self._open.settled or version != V2:
            return
        calls = [each for each in self._open.settled if each.request.method == "tools/call"]
        # A call, and the one that was given its answer.
        pairs: list[tuple[_Entry, _Entry]] = [(each.request.what, each.taken_from.what) for each in calls]
        if not pairs or any(entry.is_out for entry, _taken_from in pairs):
            return
        answers = [{name: getattr(taken_from, name) for name in _OF_ANSWERS} for _entry, taken_from in pairs]
        labels = [(taken_from.observed or {}).get("ifc") for _entry, taken_from in pairs]
        for (entry, taken_from), answer, ifc in zip(pairs, answers, labels):
            if entry.pairing is _AMBIGUOUS:
                entry.pairing = _ID
            if entry is taken_from:
                continue
            for name, value in answer.items():
                setattr(entry, name, value)
            entry.observed = {name: value for name, value in (entry.observed or {}).items() if name != "ifc"} or None
            if ifc is not None:
                entry.observed = {**(entry.observed or {}), "ifc": ifc}
        by_tool: dict[str | None, list[_Entry]] = {}
        for entry, _taken_from in pairs:
            by_tool.setdefault(entry.tool, []).append(entry)
        for alike in by_tool.values():
            self._sort_events(alike)
            recent = self._recent.get((alike[0].server, alike[0].tool or ""))
            if recent is not None:  # events of the last answer may still follow
                recent.sort(key=_done_at)
        entries = [entry for entry, _taken_from in pairs]
        self._newest[entries[0].server] = max(entries, key=_done_at)

    def _sort_events(self, alike: list[_Entry]) -> None:
        """The events of calls of one tool, each to the call whose result has the item."""
        events = [event for entry in alike for event in (entry.observed or {}).get("filtered", ())]
        if not events:
            return
        for entry in alike:
            entry.observed = {
                name: value for name, value in (entry.observed or {}).items() if name != "filtered"
            } or None
        for event in events:
            entry = _fits_best(alike, event)
            entry.observed = entry.observed or {}
            entry.observed.setdefault("filtered", []).append(event)

    def _fill_result(
        self, entry: _Entry, line: _Line, payload: _Payload | None, damage: PayloadState, text: bytes
    ) -> None:
        if line.error:
            entry.error = line.error
            return
        if line.redacted or (payload is not None and payload.redacted):
            entry.result_is, entry.result_state = ResultIs.REDACTED, _REDACTED
            return
        if payload is None:
            entry.result_is, entry.result_state = ResultIs.LOST, _LOST
            return
        if payload.id is not _NOTHING:
            known_as = bytes(payload.id)
            entry.source_id = "1" if known_as == b"1" else known_as.decode("utf-8", "replace").strip('"')[:200]
        if payload.error is not _NOTHING and (error := bytes(payload.error)) != b"null":
            entry.error = value_of(error)
            return
        members = payload.result
        if type(members) is not dict:
            entry.result_is, entry.result_state = ResultIs.LOST, _LOST
            return
        result = _encode(members)
        state = damage if damage is _INTACT else sanitised.state_of(result)
        if state is _LOST:
            entry.result_is, entry.result_state = ResultIs.LOST, _LOST
            return
        entry.result, entry.result_is = result, _RAW
        entry.result_state = PayloadState.REPAIRED if damage is PayloadState.REPAIRED else state
        self._held += len(result)
        if "_meta" in members:
            _note_ifc(entry, members["_meta"])

    # Events

    def _event(self, text: bytes, number: int, lines: int, version: str) -> None:
        """An item that was removed belongs to a call of its tool; a denial is a call that was never made."""
        members = value_of(text)
        if not isinstance(members, dict):
            self._sink.count("malformed-line", number, text, lines)
            return
        server, tool = str(members.get("server_id", "")), str(members.get("tool_name", ""))
        for name in ("event", "type", "_schema", "server_id", "tool_name"):
            members.pop(name, None)
        if "agent_secrecy_tags" in members or "agent_integrity_tags" in members:
            at = members.get("timestamp")
            entry = _Entry(number, version, self._session, server, tool, lines, at if isinstance(at, str) else None)
            entry.result_is = ResultIs.NOT_RECORDED
            entry.observed = {"denied": members}
            if isinstance(members.get("description"), str):
                self._sink.run.is_new_denial(members["description"], V2)  # this log's are calls in any case
            entry.done_at = number
            self._entries.append(entry)
            return
        call = self._call_of_event(server, tool, members)
        if call is None:
            self._sink.count("event-without-call", number, text, lines)
            return
        call.lines += lines
        call.observed = call.observed or {}
        call.observed.setdefault("filtered", []).append(members)

    def _call_of_event(self, server: str, tool: str, event: dict[str, Any]) -> _Entry | None:
        """The call that an item was removed from: the one of its tool that was answered last, if there is but one."""
        recent = self._recent.get((server, tool))
        answered_at = 0 if recent is None else recent[-1].done_at
        for each in self._open.in_doubt(server):
            # Its answer was given to another, or there would be no event of its tool now.
            if each.tool == tool and each.what.line > answered_at:
                entry: _Entry = each.what
                return entry
        if recent is None:
            return None
        return recent[-1] if len(recent) == 1 else _fits_best(recent, event)

    # Candidates for enrichment

    def _note_candidate(self, entry: _Entry) -> None:
        """A question that guards ask, directly before a call of the same server or directly after an answer of it."""
        before = self._newest.get(entry.server)
        if before is None:
            return
        gap = None
        if before.tool in _GUARDS_ASK or entry.tool in _GUARDS_ASK:
            gap = seconds_between(before.until, entry.at)
        if gap is None or gap > _CANDIDATE_GAP_S:
            return
        if entry.tool in _GUARDS_ASK:
            entry.is_candidate = True
        if before.tool in _GUARDS_ASK:
            before.is_candidate = True

    # Handing out

    def _release(self, number: int) -> None:
        entries = self._entries
        while entries:
            head = entries[0]
            if not head.done_at:
                if len(entries) > _MAX_BEHIND:
                    self._open.drop(head.server, head)
                    head.done_at = max(1, number - _EVENT_LINES)  # no event follows a call that had no answer
                    continue
                if self._held > _MAX_HELD_BYTES:
                    self._spill_some()
                return
            if number - head.done_at < _EVENT_LINES and self._held <= _MAX_HELD_BYTES:
                return
            entries.popleft()
            self._emit(head)

    def _spill_some(self) -> None:
        for entry in self._entries:
            if entry.result is not None:
                self._held -= len(entry.result)
                entry.place = self._spill.put(entry.result)
                entry.result = None

    def _emit(self, entry: _Entry) -> None:
        if entry.tool is not None:
            recent = self._recent.get((entry.server, entry.tool))
            if recent is not None and entry in recent:
                recent.remove(entry)
                if not recent:
                    del self._recent[entry.server, entry.tool]
        if self._newest.get(entry.server) is entry:
            del self._newest[entry.server]
        entry.is_out = True
        result, entry.result = entry.result, None
        if entry.place is not None:
            result = self._spill.get(entry.place)
        elif result is not None:
            self._held -= len(result)
        payload = _BOTH_INTACT
        if entry.args_state is not _INTACT or entry.result_state is not _INTACT:
            payload = Payload(entry.args_state, entry.result_state)
        call = Call(
            call=f"{self._name}#{entry.line}",
            source=entry.source,
            source_id=entry.source_id,
            session=entry.session,
            role=_CANDIDATE if entry.is_candidate else _AGENT,
            at=entry.at,
            until=entry.until,
            server=entry.server,
            tool=entry.tool,
            args_json=entry.args,
            result_json=result,
            result_is=entry.result_is,
            error=entry.error,
            pairing=entry.pairing,
            payload=payload,
            observed=entry.observed,
        )
        self._sink.emit(call, entry.lines)

    def finish(self) -> None:
        """See `Feed`."""
        while self._entries:
            self._emit(self._entries.popleft())
        self._spill.close()

    def close(self) -> None:
        """See `Feed`."""
        self._spill.close()


def _fits_best(recent: list[_Entry], event: dict[str, Any]) -> _Entry:
    """The call whose result has the item that was removed, else one that is about its repository; the newest of several."""
    return max(reversed(recent), key=lambda entry: _fit_of_event(entry, event))


def _fit_of_event(entry: _Entry, event: dict[str, Any]) -> int:
    result, args = entry.result or b"", entry.args or b""
    address = event.get("html_url")
    if isinstance(address, str) and address and address.encode("utf-8", "replace") in result:
        return 3
    named = _REPOSITORY.search(str(event.get("description")))
    if named is None:
        return 0
    owner, repo = (f'"{part}"'.encode() for part in named.groups())
    if owner in args and repo in args:
        return 2
    return 1 if named[0][1:].encode() in result else 0


def _payload_of(line: _Line, text: bytes) -> tuple[_Payload | None, PayloadState]:
    """The payload, repaired where the sanitiser broke it and that can be undone; and what was done to it."""
    payload = line.payload
    if payload is None:
        return None, _LOST
    if payload.broken is None:
        return payload, _REDACTED if sanitised.MARK in text else _INTACT
    repaired = sanitised.repair(payload.broken.encode("utf-8", "replace"))
    if repaired is None:
        return None, _LOST
    try:
        return _decode_payload(repaired), PayloadState.REPAIRED
    except FAILURES:
        return None, _LOST


def _with_whole_characters(text: bytes) -> bytes:
    """A line with U+FFFD for each half of a surrogate pair, which is what the gateway, written in Go, reads there.

    A text that was cut within an emoji has one. If its line were left out, the pairs after it would be shifted.
    """
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], text)


def _note_ifc(entry: _Entry, meta: msgspec.Raw) -> None:
    labels = value_of(bytes(meta))
    if isinstance(labels, dict) and labels.get("ifc") is not None:
        entry.observed = {**(entry.observed or {}), "ifc": labels["ifc"]}


GATEWAY_LOG = _GatewayLog()
