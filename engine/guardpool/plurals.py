"""How many of something, and which, in words."""

from __future__ import annotations

from collections.abc import Sequence


def number_of(count: int, one: str, many: str | None = None) -> str:
    """`1 call`, `2,000 calls`.

    Args:
        count: how many, from 0.
        one: what one of them is called.
        many: what several are called; None: `one` with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def named(names: Sequence[str], at_most: int = 10) -> str:
    """`a, b`; of very many `a, b and 12 more`."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more:,} more" if more > 0 else "")
