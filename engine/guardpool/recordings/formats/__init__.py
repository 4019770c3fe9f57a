"""The formats that recordings are read in, one module each; `ALL` is what the reader asks, in this order where equally sure."""

from __future__ import annotations

from guardpool.recordings.formats.anthropic_messages import ANTHROPIC_MESSAGES
from guardpool.recordings.formats.calls import CALLS
from guardpool.recordings.formats.claude_code import CLAUDE_CODE
from guardpool.recordings.formats.gateway_log import GATEWAY_LOG
from guardpool.recordings.formats.gateway_others import GATEWAY_OTHERS
from guardpool.recordings.formats.gateway_text import GATEWAY_TEXT
from guardpool.recordings.formats.guard_corpus import GUARD_CORPUS
from guardpool.recordings.formats.json_rpc import JSON_RPC
from guardpool.recordings.formats.openai_chat import OPENAI_CHAT
from guardpool.recordings.formats.openai_responses import OPENAI_RESPONSES
from guardpool.recordings.formats.seam import Confidence, Feed, Format, Sink

ALL: tuple[Format, ...] = (
    CALLS,
    GATEWAY_LOG,
    GATEWAY_TEXT,
    GUARD_CORPUS,
    CLAUDE_CODE,
    JSON_RPC,
    OPENAI_CHAT,
    OPENAI_RESPONSES,
    ANTHROPIC_MESSAGES,
    GATEWAY_OTHERS,
)

__all__ = ["ALL", "Confidence", "Feed", "Format", "Sink"]
