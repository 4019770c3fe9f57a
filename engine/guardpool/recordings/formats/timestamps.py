"""Times as recordings write them, and how far they are apart."""

from __future__ import annotations

from datetime import datetime


def seconds_between(earlier: str | None, later: str | None) -> float | None:
    """From one RFC 3339 time in UTC to another, negative if the later is before; None where one is not such a time."""
    try:
        return (_time(later or "") - _time(earlier or "")).total_seconds()
    except (ValueError, TypeError):
        return None


def _time(text: str) -> datetime:
    # Nanoseconds, which `fromisoformat` does not know, are cut; both times are UTC.
    return datetime.fromisoformat(text[:23].removesuffix("Z"))
