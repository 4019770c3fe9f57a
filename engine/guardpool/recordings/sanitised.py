"""What the gateway's sanitiser does to a payload, told from what it leaves behind.

The sanitiser replaces by regular expressions over the serialised payload:

- runs of 32 and more lower-case hexadecimal digits, tokens, bearer values: `[REDACTED]` stands in their place, the JSON is
  as it was;
- a member such as `"token":"..."`: `"token"=[REDACTED]` stands there, which is not JSON. What is not JSON any more is logged
  as `{"_error":"invalid JSON","_raw":TEXT}`; put `:"[REDACTED]"` back, and it is JSON again;
- a word such as `key` with `:` or `=` and eight or more characters that are not blank, in any text: `key=[REDACTED]` stands
  there, and everything up to the next blank is gone, quotes and brackets too. That cannot be undone.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from guardpool.recordings.call import PayloadState
from guardpool.recordings.json_text import FAILURES, is_json

MARK = b"[REDACTED]"
# How the third kind of damage looks: it may have eaten brackets of a JSON text within a text.
SWALLOWED = b"=[REDACTED]"
_MEMBER = re.compile(rb'("[A-Za-z][A-Za-z0-9_\-]*")\s*=\s*\[REDACTED\]')


class _Block(msgspec.Struct):
    text: str = ""


class _Result(msgspec.Struct):
    content: list[_Block] = []


_decode_result = msgspec.json.Decoder(_Result).decode


def repair(broken: bytes) -> bytes | None:
    """The payload that `_raw` was, as JSON with `"[REDACTED]"` for the values that were taken; None if it cannot be had."""
    text = _MEMBER.sub(rb'\1:"[REDACTED]"', broken)
    return text if text != broken and is_json(text) else None


def state_of(text: bytes) -> PayloadState:
    """What is left of arguments or of a result that is JSON: `intact`, `redacted`, or `lost`.

    `lost` is a result whose text was a JSON document and is not one any more, because the sanitiser took brackets of it.
    """
    if MARK not in text:
        return PayloadState.INTACT
    if SWALLOWED in text and _has_broken_text(text):
        return PayloadState.LOST
    return PayloadState.REDACTED


def _has_broken_text(result: bytes) -> bool:
    try:
        blocks: Any = _decode_result(result).content
    except FAILURES:
        return False  # arguments, or blocks of another kind: their values alone are damaged
    for block in blocks:
        text = block.text.strip()
        was_json = text[:1] in ("{", "[") and not text.startswith("[REDACTED]")
        if was_json and "=[REDACTED]" in text and not is_json(text.encode("utf-8", "replace")):
            return True
    return False
