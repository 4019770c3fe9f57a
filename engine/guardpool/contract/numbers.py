"""Numbers as the reference gateway writes them. It decodes every number as a double and writes the shortest digits that give
the same double back: `7.0`, `7e0` and `70e-1` are `7`, and 2^53 + 1 is 2^53."""

from __future__ import annotations

import math
from typing import Union

import msgspec

from guardpool.contract.document import JsonError

# Up to here every whole number is a double of its own, and so is written as it is.
MAX_EXACT = 2**53

# From here on Python, msgspec and the reference write a fraction without an exponent, with the same digits.
_MIN_WITHOUT_EXPONENT = 1e-4

# What the encoder of JSON writes as the reference does: other numbers are their digits.
Spelt = Union[int, float, msgspec.Raw]


def number(digits: str) -> Spelt:
    """The number of a JSON literal, as a value that `msgspec.json.encode` writes as the reference does.

    Raises:
        JsonError: no double holds it.
    """
    value = float(digits)
    if _MIN_WITHOUT_EXPONENT <= abs(value) < MAX_EXACT and not value.is_integer():
        return value
    if math.isinf(value):
        raise JsonError(f"the number {digits[:20]}{'...' if len(digits) > 20 else ''} is too large")
    return spelt(value)


def integer(digits: str) -> Spelt:
    """`number` for a literal without fraction and exponent, of which the most are what they seem."""
    if len(digits) < 16 and digits != "-0":
        return int(digits)
    return number(digits)


def spelt(value: float) -> Spelt:
    """A finite double as a value that `msgspec.json.encode` writes as the reference does."""
    size = abs(value)
    if size < MAX_EXACT:
        if value.is_integer():
            return int(value) if value or math.copysign(1.0, value) > 0 else msgspec.Raw(b"-0")
        if size >= _MIN_WITHOUT_EXPONENT:
            return value
    digits, _, exponent = repr(value).partition("e")
    return msgspec.Raw(_moved(digits, int(exponent or 0)).encode())


def _moved(digits: str, exponent: int) -> str:
    """`digits` times ten to the `exponent`, written with an exponent below 1e-6 and from 1e21 on, else without one."""
    if exponent < -6 or exponent >= 21:
        return f"{digits}e{exponent:+d}"
    sign = "-" if digits.startswith("-") else ""
    whole, _, fraction = digits.lstrip("-").partition(".")
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{whole}{fraction}"
    if fraction == "0":
        fraction = ""
    return f"{sign}{whole}{fraction}{'0' * (exponent - len(fraction))}"
