"""Sessions of Claude Code: `~/.claude/projects/*/*.jsonl`, one event a line.

Calls are `tool_use` blocks in lines of the assistant, results `tool_result` blocks in later lines of the user, with the same
id. A message may be spread over several lines, parallel calls are answered in any order, and after a compaction earlier lines
may stand in the file once more. A sub-agent's lines (`isSidechain`) are another agent's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from guardpool.recordings import names
from guardpool.recordings.call import Call, Payload, PayloadState
from guardpool.recordings.formats import blocks
from guardpool.recordings.formats.by_id import UNANSWERED, CallsById
from guardpool.recordings.formats.seam import Confidence, Sink
from guardpool.recordings.json_text import FAILURES
from guardpool.recordings.tally import NO_CONTENT, NOT_A_GUARDED_CALL, REPEATED

_NAME = "claude-code"
# Lines whose `uuid` is remembered, so that a repetition is told from a new line.
_MAX_UUIDS = 200_000


class _Message(msgspec.Struct, gc=False):
    content: Any = None


class _Line(msgspec.Struct, gc=False):
    type: str
    session: str = msgspec.field(name="sessionId", default="")
    uuid: str = ""
    at: str | None = msgspec.field(name="timestamp", default=None)
    agent: str | None = msgspec.field(name="agentId", default=None)
    is_sidechain: bool = msgspec.field(name="isSidechain", default=False)
    message: _Message | None = None


_decode = msgspec.json.Decoder(_Line).decode
# Lines that tell of no call and have no session either.
_TITLES = frozenset(("summary", "file-history-snapshot", "queue-operation", "custom-title", "ai-title"))


class _ClaudeCode:
    name = _NAME

    def recognise(self, text: bytes) -> Confidence:
        """Sure where a line has a session and a message or an id as Claude Code writes them."""
        if b'"sessionId"' in text and b'"type"' in text and (b'"uuid"' in text or b'"message"' in text):
            return Confidence.SURE
        if (b'"summary"' in text and b'"leafUuid"' in text) or b'"file-history-snapshot"' in text:
            return Confidence.LIKELY
        return Confidence.NO

    def begin(self, sink: Sink) -> _ClaudeCodeFeed:
        """Read an input."""
        return _ClaudeCodeFeed(sink)


class _ClaudeCodeFeed:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._calls = CallsById(sink)
        self._uuids: OrderedDict[int, None] = OrderedDict()

    def take(self, text: bytes, number: int, lines: int = 1) -> str | None:
        """See `Feed`."""
        try:
            if not text.isascii():
                text.decode()
            line = _decode(text)
        except FAILURES:
            return None
        if not line.session and line.type not in _TITLES:
            return None
        if line.uuid and self._is_repeated(line.uuid):
            self._sink.count(REPEATED, number, text, lines)
            return _NAME
        content = line.message.content if line.message is not None else None
        found = content if isinstance(content, list) else []
        uses = [block for block in found if _is(block, "tool_use")]
        answers = [block for block in found if _is(block, "tool_result")]
        left = lines
        for block in uses:
            left -= self._ask(line, block, number, left)
        for block in answers:
            left -= self._answer(line, block, number, left)
        if left:
            self._sink.count(NOT_A_GUARDED_CALL if uses or answers else NO_CONTENT, number, text, left)
        return _NAME

    def _is_repeated(self, uuid: str) -> bool:
        key = hash(uuid)  # an id may be as long as a line
        if key in self._uuids:
            return True
        self._uuids[key] = None
        if len(self._uuids) > _MAX_UUIDS:
            self._uuids.popitem(last=False)
        return False

    def _ask(self, line: _Line, block: dict[str, Any], number: int, lines: int) -> int:
        """A call; returns how many of the lines are its own."""
        name, use_id = block.get("name"), block.get("id")
        if not isinstance(name, str) or not isinstance(use_id, str):
            return 0
        key = (line.session, use_id)
        found = names.prefixed(name)
        if found is None:
            self._calls.remember(key)
            return 0
        if self._calls.is_known(key):  # the same message once more, in a line of another id
            return 0
        args, observed = blocks.arguments_of(block.get("input"))
        state = PayloadState.LOST if args is None else PayloadState.INTACT
        call = Call(
            call=self._calls.call_id(number, use_id),
            source=_NAME,
            source_id=use_id,
            session=_session(line),
            agent=_agent(line),
            at=line.at,
            server=found.server,
            tool=found.tool,
            args_json=args,
            payload=Payload(state, None),
            observed=observed or None,
            **UNANSWERED,
        )
        self._calls.ask(key, call, lines)
        return lines

    def _answer(self, line: _Line, block: dict[str, Any], number: int, lines: int) -> int:
        use_id = block.get("tool_use_id")
        key = (line.session, use_id)
        if not isinstance(use_id, str):
            return 0
        entry = self._calls.find(key)
        if entry is None and self._calls.is_known(key):
            return 0
        result, members = blocks.outcome_of(
            blocks.as_result(block.get("content"), is_error=block.get("is_error") is True)
        )
        if entry is not None:
            self._calls.answer(entry, lines, result, until=line.at, **members)
            return lines
        # The file begins in the middle, or the request was lost.
        state = None if result is None else PayloadState.INTACT
        call = Call(
            call=self._calls.call_id(number, use_id),
            source=_NAME,
            source_id=use_id,
            session=_session(line),
            agent=_agent(line),
            until=line.at,
            result_json=result,
            payload=Payload(None, state),
            **members,
        )
        self._calls.add(call, lines)
        return lines

    def finish(self) -> None:
        """See `Feed`."""
        self._calls.finish()

    def close(self) -> None:
        """See `Feed`."""
        self._calls.close()


def _is(block: Any, kind: str) -> bool:
    return isinstance(block, dict) and block.get("type") == kind


def _agent(line: _Line) -> str | None:
    return (line.agent or "sidechain") if line.is_sidechain else None


def _session(line: _Line) -> str:
    """A sub-agent's calls are a session of their own: its labels are not the other agent's."""
    agent = _agent(line)
    return line.session if agent is None else f"{line.session}/{agent}"


CLAUDE_CODE = _ClaudeCode()
