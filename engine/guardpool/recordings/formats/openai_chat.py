"""Bodies of the OpenAI chat API, and traces of tools that use its form: requests, responses, or lists of messages.

Arguments are the text of a JSON object, which a model wrote and which may be broken. Results are messages of the role `tool`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guardpool.recordings.formats.messages import DocumentFeed, dicts
from guardpool.recordings.formats.seam import Confidence, Sink

_NAME = "openai-chat"


class _OpenAiChat:
    name = _NAME

    def recognise(self, text: bytes) -> Confidence:
        """Likely where a message calls tools or is a tool's."""
        if b'"tool_calls"' in text or b'"tool_call_id"' in text:
            return Confidence.LIKELY
        return Confidence.MAYBE if b'"choices"' in text and b'"message"' in text else Confidence.NO

    def begin(self, sink: Sink) -> DocumentFeed:
        """Read an input."""
        return _Feed(sink, _NAME)


class _Feed(DocumentFeed):
    def is_mine(self, found: Any) -> bool:
        """A message of this API's form is in it, or choices of one."""
        messages = list(_messages(found))
        return any("tool_calls" in each or "tool_call_id" in each for each in messages) or (
            bool(messages) and isinstance(found, dict) and "choices" in found
        )

    def read(self, found: Any) -> None:
        """Message by message."""
        for message in _messages(found):
            for each in dicts(message.get("tool_calls")):
                function = each.get("function")
                if isinstance(function, dict):
                    self.ask(each.get("id"), function.get("name"), function.get("arguments"))
            if message.get("role") == "tool":
                self.answer(message.get("tool_call_id"), message.get("content"))


def _messages(found: Any) -> Iterator[dict[str, Any]]:
    """The messages of a request, of a response's choices, of a list, or one alone."""
    if isinstance(found, dict):
        if isinstance(found.get("messages"), list):
            found = found["messages"]
        elif isinstance(found.get("choices"), list):
            found = [each.get("message") for each in dicts(found["choices"])]
        else:
            found = [found]
    yield from (each for each in dicts(found) if isinstance(each.get("role"), str))


OPENAI_CHAT = _OpenAiChat()
