"""Content of results as transcripts have it, made an MCP result; and what a gateway left in it."""

from __future__ import annotations

from typing import Any

import msgspec

from guardpool.recordings.call import ResultIs
from guardpool.recordings.json_text import FAILURES, value_of

_encode = msgspec.json.Encoder().encode

_NOTICE = "[Filtered]"


def as_result(content: Any, *, is_error: bool = False) -> dict[str, Any]:
    """The MCP result of a content: a text, a list of blocks, or whatever a client wrote instead."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    elif content is None:
        content = []
    elif not isinstance(content, list):
        content = [{"type": "text", "text": _encode(content).decode()}]
    result: dict[str, Any] = {"content": content}
    if is_error:
        result["isError"] = True
    return result


def outcome_of(result: dict[str, Any]) -> tuple[bytes | None, dict[str, Any]]:
    """A result as JSON, and the members of the call that follow from it.

    An agent got it after whatever gateway stood before the server, so that it may be filtered and nobody can tell: it is
    `unknown`, unless the gateway left its notice behind, or a stub in the place of a large answer.
    """
    texts = [block.get("text") for block in result["content"] if isinstance(block, dict)]
    stub = _stub_in(texts)
    if stub is not None:
        return None, {"result_is": ResultIs.STUB, "observed": {"stub": stub}}
    members: dict[str, Any] = {"result_is": ResultIs.UNKNOWN}
    notices = [text for text in texts if isinstance(text, str) and text.startswith(_NOTICE)]
    if notices:
        members = {"result_is": ResultIs.FILTERED, "observed": {"notices": notices}}
    try:
        return _encode(result), members
    except FAILURES:
        return None, {"result_is": ResultIs.LOST}


def arguments_of(text: Any) -> tuple[bytes | None, dict[str, Any]]:
    """Arguments that stand in a record as the text of a JSON object, and what is observed where they are no such text.

    A model wrote them: they may be broken, and then the text is all there is.
    """
    if text is None or text == "":
        return b"{}", {}
    if isinstance(text, dict):
        return _encode(text), {}
    if isinstance(text, str) and isinstance(value_of(text), dict):
        return text.encode(), {}
    return None, {"arguments": text}


def _stub_in(texts: list[Any]) -> dict[str, Any] | None:
    """What the gateway's stub says of the answer that it stands for."""
    for text in texts:
        if not isinstance(text, str) or '"payloadPath"' not in text or '"agentInstructions"' not in text:
            continue
        stub = value_of(text)
        if isinstance(stub, dict):
            return {name: stub[name] for name in ("payloadPath", "originalSize") if name in stub}
    return None
