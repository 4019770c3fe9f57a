"""What an item says of itself: whose it is, its number, where it stands.

Items are what the servers of code hosts answer: issues, pull requests, comments, commits, files. Members are looked for by the
names that GitHub's REST and GraphQL interfaces use; what has another type than expected is left out.

Source: github/gh-aw-mcpg, internal/server/difc_log.go; the GraphQL names are GitHub's.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec

# Longer texts name nobody and nothing, and every record keeps them.
_MAX_CHARS = 500


class ItemFacts(msgspec.Struct, frozen=True, gc=False):
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
    association = data["author_association"] if "author_association" in data else get("authorAssociation")
    url = data["html_url"] if "html_url" in data else get("url")
    return ItemFacts(
        number if type(number) is int else _short(number),
        _login(get("user")) or _login(get("author")),
        _short(association),
        _short(url),
    )


def _login(person: Any) -> str | None:
    return _short(person.get("login")) if isinstance(person, dict) else None


def _short(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_CHARS else None
