"""What a guard is told of a recorded value: the same JSON value, as the reference gateway would have written it.

The gateway decodes arguments and results before it encodes a guard's input. So a guard never sees how they were spelt:
numbers are doubles written shortest, of a name given twice the last counts, and bytes that are not UTF-8 and lone
surrogates are U+FFFD.

Every job of a file comes through here, so there are three ways. A result of MCP that is text, as most results are, holds
nothing that could change: its text is one string, and is copied. Nearly all other values come out right of one decoding and
one encoding in C, which drops names given twice and hands over every number with a fraction or an exponent. What those two
cannot tell, long whole numbers and a minus zero, sends a value the third way, through the exact decoder.
"""

from __future__ import annotations

import re
from typing import Any, Literal, Union

import msgspec

from guardpool.contract.document import JsonError, read_with, repaired
from guardpool.contract.numbers import integer, number
from guardpool.contract.text import fail

Source = Union[bytes, msgspec.Raw]
_SOURCES = (bytes, bytearray, memoryview, msgspec.Raw)


class _TextPart(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: Literal["text"]
    text: msgspec.Raw


class _TextResult(msgspec.Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """A result of MCP with nothing but text in it."""

    content: list[_TextPart]
    is_error: Union[bool, msgspec.UnsetType] = msgspec.field(default=msgspec.UNSET, name="isError")


_decode = msgspec.json.Decoder(float_hook=number).decode
_decode_text_result = msgspec.json.Decoder(_TextResult).decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode

_TEXT_RESULT = b'{"content":'
_QUOTE = ord('"')
# Every digit as a zero, so that one search finds a run of them; whole numbers of fewer digits are doubles of their own.
_ALL_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_RUN = b"0" * 16
MINUS_ZERO = re.compile(rb"-0(?:[,\]}\s]|$)")  # in a text as well, which only costs time


def normalise(raw: Source) -> bytes:
    """A JSON value as a guard of the reference gateway sees it.

    Args:
        raw: one JSON value. Bytes in it that are not UTF-8 are repaired.

    Returns:
        The same value as compact JSON in UTF-8. The order of names, and which characters are escaped, may differ from the
        reference's.

    Raises:
        ContractError: it is not JSON, it holds a number that is too large for a double, or it is nested more deeply than
            this Python can decode.
    """
    if not isinstance(raw, _SOURCES):  # bytes(3) would be three zeros
        fail(f"raw must be bytes of JSON, not {type(raw).__name__}")
    text = bytes(raw)
    try:
        if not text.isascii():
            text.decode()
        return normalise_text(text)
    except UnicodeDecodeError:
        return normalise_text(repaired(text))


def normalise_text(text: bytes) -> bytes:
    """`normalise` for what is known to be UTF-8. Hot: 1 ns a byte for a result of MCP, 6 for other values."""
    try:
        if text.startswith(_TEXT_RESULT) and (result := _text_result(text)) is not None:
            return result
        if _LONG_RUN not in text.translate(_ALL_ZEROS):
            made = _encode(_decode(text))
            # A minus zero would have been decoded to 0, and so cannot be in what came out as it went in.
            if made == text or not MINUS_ZERO.search(text):
                return made
    except (msgspec.MsgspecError, UnicodeError, RecursionError, JsonError):
        pass
    return _encode(value_of(text))


def canonical(raw: Source) -> bytes:
    """`normalise`, with names sorted: equal values give equal bytes."""
    text = bytes(raw)
    if text.isascii() and _LONG_RUN not in text.translate(_ALL_ZEROS) and not MINUS_ZERO.search(text):
        try:  # 2 us for a question of a guard, where the exact way takes 20
            return _encode_sorted(_decode(text))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, JsonError):
            pass
    return _encode_sorted(value_of(text))


def value_of(raw: Source) -> Any:
    """The JSON value in `raw` as `msgspec.json.encode` writes it for a guard. The exact way.

    Raises:
        ContractError: as `normalise`.
    """
    try:
        return read_with(bytes(raw), integer, number)
    except JsonError as error:
        fail(f"not JSON: {error}", cause=error)


def _text_result(text: bytes) -> bytes | None:
    try:
        result = _decode_text_result(text)
    except msgspec.ValidationError:
        return None
    if all(memoryview(part.text)[0] == _QUOTE for part in result.content):
        return _encode(result)
    return None
