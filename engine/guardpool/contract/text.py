"""Words and spaces as the contract's reference sees them, and values as error messages show them."""

from __future__ import annotations

import re
from typing import NoReturn

from guardpool.errors import ContractError

# Unicode's White_Space, which is what the gateway trims. Python's str.strip() would also take U+001C to U+001F.
SPACES = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

MAX_MESSAGE_CHARS = 300
_MAX_SHOWN_CHARS = 60
_LONE_SURROGATES = re.compile("[\ud800-\udfff]+")


def trim(text: str) -> str:
    """`text` without outer white space."""
    return text.strip(SPACES)


def lower(text: str) -> str:
    """`text` in lower case, one character for one character, fit to be compared with an ASCII word."""
    return text.replace("\u0130", "i").lower()


def scrub(text: str) -> str:
    """`text` with every lone surrogate replaced by U+FFFD, so that it can be written as UTF-8."""
    return text if text.isascii() else _LONE_SURROGATES.sub(lambda run: "\ufffd" * len(run[0]), text)


def shown(value: object) -> str:
    """What `value` is, in a few words for an error message: short, on one line, without control characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        cut = value[:_MAX_SHOWN_CHARS]
        return repr(cut) + ("..." if len(value) > len(cut) else "")
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value) if -(2**64) < value < 2**64 else "a huge number"
    if isinstance(value, dict):
        return "an empty object" if not value else f"an object of {len(value)} keys"
    if isinstance(value, (list, tuple)):
        return "an empty array" if not value else f"an array of {len(value)}"
    return f"a Python {type(value).__name__}"


def fail(message: str, error: type[ContractError] = ContractError, cause: BaseException | None = None) -> NoReturn:
    """Raise `error` with `message` on one line of at most `MAX_MESSAGE_CHARS`."""
    line = "".join(char if char.isprintable() else " " for char in message[: MAX_MESSAGE_CHARS + 1])
    if len(line) > MAX_MESSAGE_CHARS:
        line = line[: MAX_MESSAGE_CHARS - 3] + "..."
    raise error(line) from cause
