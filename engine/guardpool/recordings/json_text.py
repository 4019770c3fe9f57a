"""JSON of strangers, decoded so that nothing in it is an exception."""

from __future__ import annotations

from typing import Any, Final

import msgspec

FAILURES: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What decoding any bytes may raise: no JSON, no UTF-8, or nested too deeply."""

_decode = msgspec.json.Decoder().decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


def value_of(text: bytes | str) -> Any:
    """The value of a JSON text, in UTF-8 if it is bytes; None for anything else, and for `null`."""
    try:
        if isinstance(text, bytes) and not text.isascii():
            text.decode()
        return _decode(text)
    except FAILURES:
        return None


def is_json(text: bytes) -> bool:
    """Whether a text is JSON in UTF-8; `null` is."""
    try:
        text.decode()
        _decode_raw(text)
    except FAILURES:
        return False
    return True
