"""How many of something, in words."""

from __future__ import annotations


def number_of(count: int, one: str, many: str | None = None) -> str:
    """`1 call`, `2,000 calls`.

    Args:
        count: how many, from 0.
        one: what one of them is called.
        many: what several are called; None: `one` with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"
