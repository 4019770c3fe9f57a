"""JSON read as the reference gateway reads it.

The rules differ from Python's own in ways that decide whether an answer is taken:
- invalid UTF-8 and lone surrogates inside strings become U+FFFD, one for each byte or escape; they are not an error
- NaN and Infinity are not numbers; a number too large for a double is an error, wherever it stands
- of two members of one name the last wins, but where the gateway decodes into a structure the second is decoded *over*
  the first, and names match whatever their case; so `Document` remembers which objects had two members of one name

Nothing here recurses in Python, and nesting is bounded before the decoder, which does recurse, sees the text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Union

import msgspec

from guardpool import nesting
from guardpool.contract.text import scrub

# Far above any real answer (the deepest have 5 levels, old-form ones carry a tool's result), far below the 1,000 where
# Python's own recursion limit would strike at a depth that depends on the caller's stack.
MAX_DEPTH = 500

# Objects and arrays in one answer. 16 MiB of nothing but `{}` are 5 million, which took a worker 14 s and 830 MiB; a million
# took 2 s and 170 MiB. Of two objects for each labelled path, more cannot come to a label that fits into a frame.
MAX_CONTAINERS = 1_000_000

Source = Union[str, bytes, bytearray, memoryview]

# The quick decoder makes a Python int of any whole number; those of 18 digits are the same for both.
_MANY_DIGITS = b"0" * 19
# Makes `0` of digits, `[` of what begins an array or object, and spaces of the rest: both are looked for in one pass.
_MARKS = bytes(ord("0" if chr(byte) in "0123456789" else "[" if chr(byte) in "[{" else " ") for byte in range(256))
# So many levels fit into any thread's stack.
_SHALLOW = 100
_decode_quickly = msgspec.json.Decoder().decode


class JsonError(ValueError):
    """The text is not a JSON value by these rules."""


class TooDeep(JsonError):
    """The value is nested deeper than `MAX_DEPTH`; by the grammar it may be JSON."""


class TooMany(JsonError):
    """The text has more than `MAX_CONTAINERS` objects and arrays; by the grammar it may be JSON."""


class Document:
    """One JSON value, and what its plain form does not tell.

    Attributes:
        value: the value in plain Python: dict, list, str, int, float, bool, None.
    """

    __slots__ = ("_repeated", "value")

    def __init__(self, source: Source) -> None:
        self._repeated: dict[int, tuple[dict[str, Any], list[tuple[str, Any]]]] = {}
        self.value = _decode(_bounded(source, MAX_CONTAINERS), self._object)

    def members(self, value: dict[str, Any]) -> Iterable[tuple[str, Any]]:
        """The members of an object of this document in the order they stood, repeated names included."""
        repeated = self._repeated.get(id(value))
        return value.items() if repeated is None else repeated[1]

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            # This also keeps `value` alive, so that its id is not given to another object.
            self._repeated[id(value)] = (value, pairs)
        return value


def read(source: Source) -> Any:
    """The JSON value in `source`, plain.

    Raises:
        JsonError: it is not a JSON value, or nested too deeply (`TooDeep`).
    """
    return _decode(_bounded(source), None)


def read_text(text: str) -> Any:
    """As `read`, and about six times as quick for text without long numbers, deep nesting and lone surrogates."""
    try:
        raw = text.encode()
        marks = raw.translate(_MARKS)
        is_deep = marks.count(b"[") > _SHALLOW and nesting.is_deeper(raw, _SHALLOW)
        if not is_deep and marks.find(_MANY_DIGITS) < 0:  # `in` takes three times as long
            return _decode_quickly(raw)
    except (msgspec.DecodeError, UnicodeError):
        pass  # `read` says what is wrong with it, or that nothing is
    return read(text)


def read_with(source: Source, integer: Callable[[str], Any], double: Callable[[str], Any]) -> Any:
    """As `read`, with numbers made by the caller's functions, which may raise `JsonError`, and as deep as Python goes."""
    return _decode(_clean(source), None, integer, double)


def repaired(source: Source) -> bytes:
    """JSON text with U+FFFD for every byte that is not UTF-8 and for every lone surrogate, escaped or not."""
    return _clean(source).encode()


def _bounded(source: Source, most_containers: float = math.inf) -> str:
    text = _clean(source)
    _check_brackets(text, most_containers)
    return text


def _clean(source: Source) -> str:
    text = scrub(source) if isinstance(source, str) else _text(source)
    return _ESCAPE.sub(_without_lone_surrogate, text) if "\\u" in text else text


def _decode(
    text: str, pairs_hook: Any, integer: Callable[[str], Any] | None = None, double: Callable[[str], Any] | None = None
) -> Any:
    decoder = json.JSONDecoder(
        object_pairs_hook=pairs_hook,
        parse_int=integer or _integer,
        parse_float=double or _double,
        parse_constant=_constant,
    )
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise TooDeep("it is nested too deeply") from error


def _text(raw: bytes | bytearray | memoryview) -> str:
    raw = bytes(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # Python's own "replace" takes an invalid sequence for one character; here every byte of it is one.
        return scrub(raw.decode(errors="surrogateescape"))


# Escapes, left to right: a surrogate pair, a lone surrogate, any other. The last eats `\\`, so that what follows it is
# not taken for an escape. Outside strings a backslash is not JSON, neither before nor after.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)


def _without_lone_surrogate(match: re.Match[str]) -> str:
    return match[0] if match[1] is None else "\ufffd"


def _check_brackets(text: str, most_containers: float) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    brackets = nesting.brackets_of(text.encode("utf-8", "replace"))
    if nesting.are_deeper(brackets, MAX_DEPTH):
        raise TooDeep(f"it is nested deeper than {MAX_DEPTH} levels")
    if brackets.count(b"[") + brackets.count(b"{") > most_containers:
        raise TooMany(f"it has more than {most_containers} objects and arrays")


def _integer(digits: str) -> int | float:
    """Whole numbers stay exact as far as 64 bits go; beyond, a double is all that JSON promises."""
    if len(digits) <= 18:
        return int(digits)
    number = _double(digits)
    if len(digits) <= 20:
        exact = int(digits)
        if -(2**63) <= exact < 2**64:
            return exact
    return number


def _double(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise JsonError(f"the number {digits[:20]}{'...' if len(digits) > 20 else ''} is too large")
    return number


def _constant(word: str) -> NoReturn:
    raise JsonError(f"{word} is not a JSON value")
