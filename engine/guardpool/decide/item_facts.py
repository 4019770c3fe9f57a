"""What an item says of itself: whose it is, its number, where it stands.

Items are what the servers of code hosts answer: issues, pull requests, comments, commits, files. Members are looked for by the
names that GitHub's REST and GraphQL interfaces use; what has another type than expected is left out.

Source: github/gh-aw-mcpg, internal/server/difc_log.go; the GraphQL names are GitHub's.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Union

# Longer texts name nobody and nothing, and every record keeps them.
_MAX_CHARS = 500


class ItemFacts(NamedTuple):
    """What an item says of itself; None where it does not say it."""

    number: Union[int, str, None] = None
    author: str | None = None
    association: str | None = None
    url: str | None = None


NO_FACTS = ItemFacts()


def facts_in(data: Any) -> ItemFacts:
    """The facts of one item."""
    if not isinstance(data, dict):
        return NO_FACTS
    get = data.get
    number = get("number")
    if type(number) is not int:
        number = _short(number)
    return ItemFacts(
        number,
        _login(get("user")) or _login(get("author")),
        _short(get("author_association", get("authorAssociation"))),
        _short(get("html_url", get("url"))),
    )


def _login(person: Any) -> str | None:
    return _short(person.get("login")) if isinstance(person, dict) else None


def _short(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_CHARS else None
