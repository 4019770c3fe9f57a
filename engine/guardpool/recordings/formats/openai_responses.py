"""Bodies of the OpenAI Responses API: requests with `input`, responses with `output`, or lists of items.

A function's call and its output are two items with the same `call_id`; a call of hosted MCP is one item with its result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guardpool.recordings.formats.messages import DocumentFeed, dicts
from guardpool.recordings.formats.seam import Confidence, Sink
from guardpool.recordings.names import ToolName

_NAME = "openai-responses"
_ITEMS = frozenset(("function_call", "function_call_output", "mcp_call", "mcp_list_tools", "mcp_approval_request"))


class _OpenAiResponses:
    name = _NAME

    def recognise(self, text: bytes) -> Confidence:
        """Likely where an item calls a function or a hosted server."""
        if any(b'"%s"' % item.encode() in text for item in _ITEMS):
            return Confidence.LIKELY
        return Confidence.MAYBE if b'"object":"response"' in text or b'"object": "response"' in text else Confidence.NO

    def begin(self, sink: Sink) -> DocumentFeed:
        """Read an input."""
        return _Feed(sink, _NAME)


class _Feed(DocumentFeed):
    def is_mine(self, found: Any) -> bool:
        """An item of this API's form is in it, or it says that it is a response."""
        is_response = isinstance(found, dict) and found.get("object") == "response"
        return is_response or any(each.get("type") in _ITEMS for each in _items(found))

    def read(self, found: Any) -> None:
        """Item by item."""
        for item in _items(found):
            kind = item.get("type")
            if kind == "function_call":
                self.ask(item.get("call_id"), item.get("name"), item.get("arguments"))
            elif kind == "function_call_output":
                self.answer(item.get("call_id"), item.get("output"))
            elif kind == "mcp_call":
                self._hosted(item)

    def _hosted(self, item: dict[str, Any]) -> None:
        server, tool, call_id = item.get("server_label"), item.get("name"), item.get("id")
        if not isinstance(server, str) or not isinstance(tool, str):
            return
        self.ask(call_id, tool, item.get("arguments"), ToolName(server, tool))
        if item.get("error") is not None:
            self.answer(call_id, None, error=item["error"])
        elif item.get("output") is not None:
            self.answer(call_id, item["output"])


def _items(found: Any) -> Iterator[dict[str, Any]]:
    """The items of a request, of a response, of a list, or one alone."""
    if isinstance(found, dict):
        for name in ("input", "output"):
            yield from dicts(found.get(name))
        yield found
    else:
        yield from dicts(found)


OPENAI_RESPONSES = _OpenAiResponses()
