"""What the gateway's log does to a payload before it writes it: secrets are taken out by regular expressions.

The expressions run over the serialised payload, so they know nothing of strings, members and brackets, and what they leave
need not be JSON. A payload that is no JSON any more is replaced by an object that holds the broken text. `Damage` has the
four ways in which that ends, from a payload that is known before it is damaged; a reader of logs has to tell the same from
what was logged.

Source: the gateway's `internal/sanitize/sanitize.go`; blanks are Go's `\\s`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

MARK = "[REDACTED]"

INTACT = "intact"
REDACTED = "redacted"
REPAIRED = "repaired"
LOST = "lost"

_BLANK = r"[\t\n\f\r ]"
_SEPARATOR = re.compile(f"[=:]{_BLANK}*")


def _assignment(names: str) -> re.Pattern[str]:
    """`name = value` or `name: value` in any text; the value goes on to the next blank, whatever it runs over."""
    return re.compile(f"(?i)(?:{names})[=:]{_BLANK}*[^\\t\\n\\f\\r ]{{8,}}")


# In the order in which the gateway applies them; the last one is `_MEMBER`. The JSON Web Token starts where a run of its
# letters starts: Go's expressions find the same place, and Python's would otherwise try each letter of a long run.
_ASSIGNMENTS = _assignment("token|key|secret|password|auth")
_TOKENS = (
    re.compile(r"ghp_[a-zA-Z0-9]{36,}"),
    re.compile(r"github_pat_[a-zA-Z0-9]{22}_[a-zA-Z0-9]{59}"),
    re.compile(rf"(?i)bearer{_BLANK}+[a-zA-Z0-9\-._~+/]+=*"),
    re.compile(rf"(?i)authorization:{_BLANK}*[a-zA-Z0-9\-._~+/]+=*"),
    re.compile(r"[a-f0-9]{32,}"),
)
_LATER_ASSIGNMENTS = (_assignment("apikey|api_key|access_key"), _assignment("client_secret|client_id"))
_WEB_TOKEN = re.compile(r"(?<![a-zA-Z0-9_-])[a-zA-Z0-9_-]{20,}\.eyJ[a-zA-Z0-9_-]+\.[a-zA-Z0-9_-]+")
_IN_ORDER = (_ASSIGNMENTS, *_TOKENS, *_LATER_ASSIGNMENTS, _WEB_TOKEN)
_MEMBER_NAMES = (
    *("token", "password", "passwd", "pwd", "apikey", "api_key", "api-key", "secret", "client_secret", "api_secret"),
    *("authorization", "auth", "key", "private_key", "public_key", "credentials", "credential"),
    *("access_token", "refresh_token", "bearer_token"),
)
_MEMBER = re.compile(f'(?i)("(?:{"|".join(_MEMBER_NAMES)})"){_BLANK}*:{_BLANK}*"[^"]+"')

_STRING_OR_BLANKS = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')


class Damage(NamedTuple):
    """What became of one payload.

    Attributes:
        logged: the payload as it stands in the log, JSON in one line.
        state: `intact` (nothing was changed), `redacted` (values are gone, the JSON is whole), `repaired` (no JSON, but each
            member that broke it can be mended), `lost` (more is gone than values).
        left: what a careful reader gets back, JSON; None if the payload is lost.
    """

    logged: str
    state: str
    left: str | None


def sanitise(payload_json: str) -> str:
    """The payload as the gateway logs it.

    Args:
        payload_json: a payload as JSON text, of any length, or anything else: an answer that never came is empty text.

    Returns:
        JSON: the payload without secrets and without blanks between its parts, or `{"_error":"invalid JSON","_raw":...}`
        if what is left of it is not JSON. Takes time in proportion to the length.
    """
    changed, _ = _without_tokens(payload_json)
    return _logged(_MEMBER.sub(rf"\1={MARK}", changed))


def state_after(payload_json: str) -> str:
    """Which of the four states a payload is in after `sanitise`: `intact`, `redacted`, `repaired` or `lost`.

    It is decided from the payload as it was. A payload of which a value was taken out beyond the end of its string is
    `lost` even where what is left happens to be JSON, because members are missing without a trace.
    """
    return damage(payload_json).state


def damage(payload_json: str) -> Damage:
    """`sanitise` and `state_after` in one, and what can be had back.

    Args:
        payload_json: a payload that is JSON without blanks between its parts.
    """
    changed, over_the_end = _without_tokens(payload_json)
    broken = _MEMBER.sub(rf"\1={MARK}", changed)
    logged = _logged(broken)
    if over_the_end:
        return Damage(logged, LOST, None)
    if broken == payload_json:
        return Damage(logged, INTACT, payload_json)
    if _is_json(broken):
        return Damage(logged, REDACTED, logged)
    mended = _MEMBER.sub(rf'\1:"{MARK}"', changed)
    if _is_json(mended):
        return Damage(logged, REPAIRED, mended)
    return Damage(logged, LOST, None)


def encode(value: Any, *, sorted_names: bool = False) -> str:
    """JSON as Go writes it: without blanks, with `<`, `>`, `&` and the two line separators of Unicode escaped.

    Args:
        value: JSON values.
        sorted_names: sort the names of objects, as Go does with maps.
    """
    return _escaped(msgspec.json.encode(value, order="sorted" if sorted_names else None).decode())


def _without_tokens(text: str) -> tuple[str, bool]:
    """The text after every expression but the last, and whether a value was taken out past the end of its string."""
    over_the_end = False

    def replaced(match: re.Match[str]) -> str:
        nonlocal over_the_end
        found = match.group()
        over_the_end = over_the_end or '"' in found
        name = _SEPARATOR.split(found, 1)
        return f"{name[0]}={MARK}" if len(name) == 2 else MARK

    replace: Callable[[re.Match[str]], str] = replaced
    for pattern in _IN_ORDER:
        if pattern is _WEB_TOKEN and ".eyJ" not in text:
            continue
        text = pattern.sub(replace, text)
    return text, over_the_end


def _logged(text: str) -> str:
    if _is_json(text):
        return _escaped(_STRING_OR_BLANKS.sub(lambda match: match.group(1) or "", text))
    return encode({"_error": "invalid JSON", "_raw": text})


def _is_json(text: str) -> bool:
    try:
        # Go checks the syntax alone: how large a number is does not matter.
        json.loads(text, parse_int=len, parse_float=len, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


# Outside strings JSON has none of these characters.
_ESCAPES = tuple((character, f"\\u{ord(character):04x}") for character in "<>&\u2028\u2029")


def _escaped(text: str) -> str:
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    return text
