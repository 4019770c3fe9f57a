"""What an item says of itself: whose it is, its number, where it stands.

Items are what the servers of code hosts answer: issues, pull requests, comments, commits, files. Members are looked for by the
names that GitHub's REST and GraphQL interfaces use; what has another type than expected is left out.

Source: github/gh-aw-mcpg, internal/server/difc_log.go; the GraphQL names are GitHub's.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Union

from guardpool.decide.decision import DecidedItem, Decision

# Longer texts name nobody and nothing, and every record keeps them.
_MAX_CHARS = 500


class ItemFacts(NamedTuple):
    """What an item says of itself; None where it does not say it."""

    number: Union[int, str, None] = None
    author: str | None = None
    association: str | None = None
    url: str | None = None


NO_FACTS = ItemFacts()


def facts_of(decision: Decision, item: DecidedItem) -> ItemFacts:
    """The facts of an item of a decision; of an item that is the whole result, those of what is inside the result."""
    data = item.data
    if not item.pointer and decision.found is not None and decision.found.is_whole:
        data = decision.found.inside.root
    return facts_in(data)


def facts_in(data: Any) -> ItemFacts:
    """The facts of one item."""
    if not isinstance(data, dict):
        return NO_FACTS
    number = data.get("number")
    if isinstance(number, bool) or not isinstance(number, (int, str)):
        number = None
    association = data.get("author_association", data.get("authorAssociation"))
    url = data.get("html_url", data.get("url"))
    return ItemFacts(
        number if isinstance(number, int) else _short(number),
        _login(data.get("user")) or _login(data.get("author")),
        _short(association),
        _short(url),
    )


def _login(person: Any) -> str | None:
    return _short(person.get("login")) if isinstance(person, dict) else None


def _short(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_CHARS else None
