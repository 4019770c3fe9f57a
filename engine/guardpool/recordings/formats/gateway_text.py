"""The gateway's text logs (`mcp-gateway.log` and one a server): what they tell that `rpc-messages.jsonl` does not.

Until autumn 2026 a denial stood here alone, and so it is a call of its own, without arguments. A denial that stands in the
other log, too, is not counted twice. Policies, modes, answers of `label_agent` and failures of guards are facts of the run.
Previews of messages are cut at 10 KB, and are no calls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from guardpool.recordings.call import Call, Pairing, ResultIs
from guardpool.recordings.formats.seam import Confidence, Sink
from guardpool.recordings.json_text import value_of
from guardpool.recordings.runs import Fact
from guardpool.recordings.tally import ELSEWHERE, FACT, OTHER_LOG_LINE

_NAME = "gateway-log"
_LINE = re.compile(rb"\[(\d{4}-\d\d-\d\dT[^\]\s]{8,40})\] \[([A-Z]{4,5})\] \[([^\]]{1,60})\] ?(.*)", re.DOTALL)
_DENIED = re.compile(r"Access DENIED for agent (\S+) to (.+?): (.*)", re.DOTALL)
_EVENT = re.compile(r"\[DIFC-(FILTERED|DENIED)\] (\{.*)", re.DOTALL)
# The beginnings of messages that tell of the run as a whole, and what kind of fact each is.
_FACTS = (
    ("Guard policy initialized", "mode"),
    ("Guard policy: ", "policy"),
    ("label_agent response: ", "label_agent"),
    ("label_agent failed", "guard-failure"),
    ("WASM guard trap: ", "guard-failure"),
    ("Guard labeling failed", "guard-failure"),
    ("Response labeling failed", "guard-failure"),
    ("STRICT MODE: Blocking", "strict-block"),
    ("FORCED REPOS=PUBLIC", "override"),
    ("SINK VISIBILITY OVERRIDE", "override"),
    ("DIFC filtered ", "filtered-count"),
)
_MAX_FACT_CHARS = 4000
# Policies and answers have a few KB.
_MAX_VALUE_CHARS = 256 * 1024
_PAIR = re.compile(r"\b(\w+)=(\"[^\"]*\"|[^\s,]+)")
# How many lines may stand between the two that tell of one denial.
_DENIAL_LINES = 16


class _GatewayText:
    name = _NAME

    def recognise(self, text: bytes) -> Confidence:
        """Sure where a line has a time, a level and a category as the gateway writes them."""
        return Confidence.SURE if _LINE.match(text) else Confidence.NO

    def begin(self, sink: Sink) -> _Feed:
        """Read an input."""
        return _Feed(sink)


class _Feed:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._last = 0  # the line that was taken last: a message may go on in the next
        self._waiting: dict[str, _Denial] = {}  # by description, in the order of their lines

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """See `Feed`."""
        found = _LINE.match(text)
        if found is None:
            if number != self._last + 1 or text.lstrip()[:1] == b"{":
                return None
            self._sink.count(OTHER_LOG_LINE, number, text, lines)
        else:
            at = found[1].decode("ascii", "replace")
            self._message(found[4].decode("utf-8", "replace").rstrip("\r\n"), at, text, number, lines)
        self._last = number + lines - 1
        if self._waiting:
            self._release(number)
        return _NAME

    def _message(self, message: str, at: str, text: bytes, number: int, lines: int) -> None:
        event = _EVENT.match(message)
        denied = _DENIED.match(message)
        if event is not None:
            self._event(event[1], value_of(event[2]), at, text, number, lines)
        elif denied is not None:
            self._deny(denied[1], {"description": denied[2], "reason": denied[3]}, at, text, number, lines)
        else:
            kind = next((kind for start, kind in _FACTS if message.startswith(start)), None)
            if kind is None and "falling back to noop" in message:
                kind = "noop"
            if kind is not None:
                self._sink.run.note(
                    kind, Fact(f"{self._sink.name}#{number}", at, message[:_MAX_FACT_CHARS], _told(message))
                )
            self._sink.count(FACT if kind is not None else OTHER_LOG_LINE, number, text, lines)

    def _event(self, word: str, members: Any, at: str, text: bytes, number: int, lines: int) -> None:
        if word == "DENIED" and isinstance(members, dict):
            self._deny(None, members, at, text, number, lines)
            return
        # What was removed of an answer stands in the other log beside its call; without that log there is no call.
        self._sink.count(ELSEWHERE if self._sink.run.has_rpc else "event-without-call", number, text, lines)

    def _deny(self, agent: str | None, event: dict[str, Any], at: str, text: bytes, number: int, lines: int) -> None:
        """A denial: this log tells of it as a sentence with the agent, later versions as JSON with the tool, too."""
        known = event.get("description")
        description = known if isinstance(known, str) else ""
        kind = "sentence" if agent is not None else "json"
        if description and not self._sink.run.is_new_denial(description, f"{self._sink.name} {kind}"):
            waiting = self._waiting.get(description)
            if waiting is not None:
                waiting.add(agent, event)
            self._sink.count(ELSEWHERE, number, text, lines)
            return
        earlier = self._waiting.pop(description, None)
        if earlier is not None:
            self._emit(earlier)
        self._waiting[description] = _Denial(number, lines, at, agent, event)

    def _release(self, number: int) -> None:
        """Hand out the denials that no line tells more of."""
        for description, each in list(self._waiting.items()):
            if number and number - each.number < _DENIAL_LINES and len(self._waiting) <= _DENIAL_LINES:
                return
            del self._waiting[description]
            self._emit(each)

    def _emit(self, denial: _Denial) -> None:
        server, tool = denial.event.get("server_id"), denial.event.get("tool_name")
        call = Call(
            call=f"{self._sink.name}#{denial.number}",
            source=_NAME,
            session=self._sink.name,
            agent=denial.agent,
            at=denial.at,
            server=server if isinstance(server, str) else None,
            tool=tool if isinstance(tool, str) else None,
            result_is=ResultIs.NOT_RECORDED,
            pairing=Pairing.UNMATCHED,
            observed={"denied": denial.event},
        )
        self._sink.emit(call, denial.lines)

    def finish(self) -> None:
        """See `Feed`."""
        self._release(0)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class _Denial:
    """A denial that waits: the line beside it may tell more of it."""

    number: int
    lines: int
    at: str
    agent: str | None
    event: dict[str, Any]

    def add(self, agent: str | None, event: dict[str, Any]) -> None:
        """Take what another line tells of it."""
        self.agent = self.agent or agent
        self.event = {**event, **self.event}


def _told(message: str) -> Any:
    """The JSON behind the first colon, if there is some; else the pairs; None if there is neither."""
    value = value_of(message.partition(": ")[2]) if len(message) <= _MAX_VALUE_CHARS else None
    if isinstance(value, (dict, list)):
        return value
    pairs = {name: told.strip('"') for name, told in _PAIR.findall(message[:_MAX_FACT_CHARS])}
    return pairs or None


GATEWAY_TEXT = _GatewayText()
