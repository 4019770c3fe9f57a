"""Bodies of the Anthropic Messages API: requests, responses, or lists of messages, one a document.

Calls are `tool_use` blocks and, of hosted MCP, `mcp_tool_use` blocks with the server's name; results are `tool_result` and
`mcp_tool_result` blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guardpool.recordings.formats.messages import DocumentFeed, dicts
from guardpool.recordings.formats.seam import Confidence, Sink
from guardpool.recordings.names import ToolName

_NAME = "anthropic-messages"
_BLOCKS = ("tool_use", "tool_result", "mcp_tool_use", "mcp_tool_result")


class _AnthropicMessages:
    name = _NAME

    def recognise(self, text: bytes) -> Confidence:
        """Likely where blocks of tools stand in messages."""
        if b'"sessionId"' in text or b'"content"' not in text or b'"role"' not in text:
            return Confidence.NO
        return Confidence.LIKELY if any(b'"%s"' % block.encode() in text for block in _BLOCKS) else Confidence.MAYBE

    def begin(self, sink: Sink) -> DocumentFeed:
        """Read an input."""
        return _Feed(sink, _NAME)


class _Feed(DocumentFeed):
    def is_mine(self, found: Any) -> bool:
        """Any message with a list of blocks, or a conversation in which no message is of another API's form."""
        messages = list(_messages(found))
        return bool(messages) and not any("tool_calls" in each or each.get("role") == "tool" for each in messages)

    def read(self, found: Any) -> None:
        """Block by block."""
        for message in _messages(found):
            for block in dicts(message.get("content")):
                kind = block.get("type")
                if kind == "tool_use":
                    self.ask(block.get("id"), block.get("name"), block.get("input"))
                elif kind == "mcp_tool_use":
                    self._ask_hosted(block)
                elif kind in ("tool_result", "mcp_tool_result"):
                    self.answer(block.get("tool_use_id"), block.get("content"), is_error=block.get("is_error") is True)

    def _ask_hosted(self, block: dict[str, Any]) -> None:
        server, tool = block.get("server_name"), block.get("name")
        known = ToolName(server, tool) if isinstance(server, str) and isinstance(tool, str) else None
        self.ask(block.get("id"), tool, block.get("input"), known)


def _messages(found: Any) -> Iterator[dict[str, Any]]:
    """The messages of a request, a response, or a list."""
    if isinstance(found, dict):
        if isinstance(found.get("messages"), list):
            found = found["messages"]
        elif found.get("role") in ("assistant", "user") and "content" in found:
            found = [found]
    for each in dicts(found):
        if each.get("role") in ("assistant", "user", "system", "tool") and "content" in each:
            yield each


ANTHROPIC_MESSAGES = _AnthropicMessages()
